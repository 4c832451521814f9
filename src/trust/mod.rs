//! What may be done. Pure: values in, a value or a typed error out.

pub mod base64url;
pub mod identity;
pub mod mac;
pub mod policy;
pub mod proof;

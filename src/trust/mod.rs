//! What may be done. Pure: values in, a value or a typed error out.

pub mod base64url;
pub mod canonical;
pub mod identity;
pub mod jws;
pub mod key_id;
pub mod mac;
pub mod members;
pub mod policy;
pub mod proof;

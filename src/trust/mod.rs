//! What may be done. Pure: values in, a value or a typed error out.

pub mod base64url;
pub mod bundle;
pub mod canonical;
pub mod client_key;
pub mod envelope;
pub mod identity;
pub mod jws;
pub mod key_id;
pub mod keyring;
pub mod mac;
pub mod members;
mod permit;
pub mod policy;
pub mod proof;
pub mod replay;
pub mod sign;
pub mod signature;
#[cfg(test)]
mod vectors;
mod verify;

pub use permit::{Denied, Order, Permitted, permit};
pub use verify::{Assurance, Context, Payload, Signatures, Signed, TrustError, Verified, verify};

//! The one place that knows ureq, rustls and sockets, but for those who are asked: `monitor` and, where it is built, `webhook`.
//!
//! A [`Line`] is one kept connection with its own timeouts; a [`Body`] is an answer that is read no
//! further than its limit and no slower than it must be.

pub mod body;
pub mod connector;
mod error;
mod gather;
mod issuer;
pub mod proxy;
pub mod renewal;
#[cfg(feature = "webhook")]
pub mod served;
pub mod tls;
mod verifier;

pub use body::Body;
pub use connector::{Line, Patience, PlainHttp, Profile};
pub use error::NetError;
pub use proxy::ProxySetting;
pub use renewal::Tls;

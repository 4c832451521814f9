//! The control plane, and nothing else knows it.
pub mod backoff;
pub mod credential;
pub mod endpoint;
pub mod fault;
pub mod stream;

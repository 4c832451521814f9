//! What the server says: answers and refusals.

use bytes::Bytes;
use serde_json::{Value, json};

use super::random;

/// Media type of every body of the contract. Written out here once more: the testbed shares no text with
/// the agent, or an error in it would not show.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.vworkspace.agent.v1+json";

/// An answer before it is put on the wire, and before a fault spoils it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Status code.
    pub(crate) status: u16,
    /// Headers beside `Content-Length`.
    pub(crate) headers: Vec<(&'static str, String)>,
    /// Body; none for a 204.
    pub(crate) body: Option<Bytes>,
}

impl Answer {
    /// 200 with JSON.
    pub(crate) fn json(body: &Value) -> Self {
        Self::text(body.to_string())
    }

    /// 200 with a text that is said to be JSON.
    pub(crate) fn text(body: impl Into<Bytes>) -> Self {
        Self::of(200, MEDIA_TYPE, body)
    }

    /// Any status with any body.
    pub(crate) fn of(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        Self { status, headers: vec![("content-type", content_type.to_owned())], body: Some(body.into()) }
    }

    /// 204.
    pub(crate) fn done() -> Self {
        Self { status: 204, headers: Vec::new(), body: None }
    }

    /// Adds a header.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Why the server does not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Status code.
    pub(crate) status: u16,
    /// Member `error` of the body.
    pub(crate) error: &'static str,
    /// Member `message` of the body.
    pub(crate) message: String,
}

impl Refusal {
    /// A refusal with a status of its own.
    pub(crate) fn new(status: u16, error: &'static str, message: impl Into<String>) -> Self {
        Self { status, error, message: message.into() }
    }

    /// 400: the request breaks the contract.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "Invalid", message)
    }

    /// 400: a member that the contract does not know.
    pub(crate) fn unknown_field(message: impl Into<String>) -> Self {
        Self::new(400, "UnknownField", message)
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        let body = json!({"error": refusal.error, "message": refusal.message, "requestId": random::hex(8)});
        Self::of(refusal.status, MEDIA_TYPE, body.to_string())
    }
}

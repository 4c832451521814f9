//! Registration and rotation (P1.2).

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Timestamp;

/// Body of `POST /register`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RegisterRequest<'a> {
    /// The one-time token, the same as the bearer of the request.
    pub registration_token: &'a str,
    /// The cluster id that the owner chose; without one the server names the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<&'a str>,
    /// What a person reads in the server's list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<&'a str>,
}

/// Answer of `POST /register`. Both texts are trimmed by the reader, and both are required.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegisterResponse {
    /// The name of this cluster at the server.
    pub cluster_id: String,
    /// The long-lived bearer.
    pub token: Zeroizing<String>,
    /// When the bearer ends; none = never.
    #[serde(default, deserialize_with = "Timestamp::optional")]
    pub expires_at: Option<Timestamp>,
}

/// Answer of `POST /credentials/rotate`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RotateResponse {
    /// The new long-lived bearer.
    pub token: Zeroizing<String>,
    /// When the bearer ends; none = never.
    #[serde(default, deserialize_with = "Timestamp::optional")]
    pub expires_at: Option<Timestamp>,
}

/// Body of an answer that is no success. It may be missing or no JSON at all.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// A short code.
    pub error: String,
    /// A sentence.
    #[serde(default)]
    pub message: String,
    /// What to quote to the server's owner.
    #[serde(default)]
    pub request_id: String,
}

//! Registration and rotation (P1.2, P2.1).

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::Timestamp;
use crate::limits;

/// Body of `POST /register`. The members after the display name are additions, which a server may not know (P2.1).
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
    /// The X25519 key that payloads are encrypted to, a JWK.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<&'a RawValue>,
    /// The Ed25519 key of proofs of possession, a JWK.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity_key: Option<&'a RawValue>,
    /// A certificate request in PEM, where a client certificate is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_request: Option<&'a str>,
    /// What this agent is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentInfo>,
}

/// Body of `POST /credentials/rotate`; its one member is an addition, which a server may not know (P2.8).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RotateRequest<'a> {
    /// A certificate request in PEM, where another client certificate is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_request: Option<&'a str>,
}

/// What an agent is.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentInfo {
    /// Its version.
    pub version: &'static str,
    /// The processor it was built for: `x86_64`, `aarch64`, `arm`.
    pub arch: &'static str,
    /// How it can be given work.
    pub modes: &'static [&'static str],
    /// What a job may be like.
    pub limits: AgentLimits,
}

/// What a job may be like (P1.4.7).
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentLimits {
    /// Bytes of text.
    pub job_bytes: usize,
    /// JSON values.
    pub job_nodes: usize,
    /// Levels of nesting.
    pub job_depth: usize,
}

impl AgentInfo {
    /// This program.
    pub const OURS: Self = Self {
        version: env!("CARGO_PKG_VERSION"),
        arch: std::env::consts::ARCH,
        modes: &["longpoll"],
        limits: AgentLimits {
            job_bytes: limits::JOB_BYTES,
            job_nodes: limits::JOB_NODES,
            job_depth: limits::JOB_DEPTH,
        },
    };
}

/// Answer of `POST /register` and of `POST /credentials/rotate`. All but the token may be missing or `null`; a
/// registration needs the cluster id as well. The reader trims both. The other texts are not looked into here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CredentialAnswer {
    /// The name of this cluster at the server; of a registration only.
    #[serde(default)]
    pub cluster_id: Option<String>,
    /// The new long-lived bearer.
    pub token: Zeroizing<String>,
    /// When the bearer ends; none = never.
    #[serde(default, deserialize_with = "Timestamp::optional")]
    pub expires_at: Option<Timestamp>,
    /// When the server wishes the bearer to be rotated.
    #[serde(default, deserialize_with = "Timestamp::optional")]
    pub rotate_after: Option<Timestamp>,
    /// The key for MACs, 32 bytes in base64url, given once.
    #[serde(default)]
    pub mac_key: Option<Zeroizing<String>>,
    /// A chain of keyrings, each a compact JWS, at most [`limits::SIGNING_KEYS`] of them.
    #[serde(default, deserialize_with = "chain")]
    pub signing_keys: Vec<String>,
    /// Further authorities: PEM, or a compact JWS.
    #[serde(default)]
    pub ca_bundle: Option<String>,
    /// A client certificate with its chain, PEM.
    #[serde(default)]
    pub client_certificate: Option<String>,
}

fn chain<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let chain = Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default();
    if chain.len() > limits::SIGNING_KEYS {
        return Err(de::Error::invalid_length(chain.len(), &"at most 16 keyrings"));
    }
    Ok(chain)
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

#[cfg(test)]
mod tests {
    use super::CredentialAnswer;
    use crate::limits;
    use serde_json::json;

    #[test]
    fn all_but_the_token_may_be_missing_or_null() {
        for answer in [
            json!({"token": "t"}),
            json!({"token": "t", "expiresAt": null, "rotateAfter": null, "macKey": null, "signingKeys": null,
                   "caBundle": null, "clientCertificate": null, "x": 1}),
        ] {
            let answer: CredentialAnswer = serde_json::from_value(answer).unwrap();
            assert!(answer.mac_key.is_none() && answer.rotate_after.is_none() && answer.signing_keys.is_empty());
        }
        let whole = json!({"clusterId": "c1", "token": "t", "macKey": "m", "signingKeys": ["a.b.c"], "caBundle": "pem",
                           "clientCertificate": "pem", "rotateAfter": "2026-12-01T00:00:00Z"});
        let answer: CredentialAnswer = serde_json::from_value(whole).unwrap();
        assert_eq!((answer.cluster_id.as_deref(), answer.signing_keys.len()), (Some("c1"), 1));
        assert!(answer.rotate_after.is_some() && answer.ca_bundle.is_some());
        assert_eq!(answer.mac_key.as_deref().map(String::as_str), Some("m"));
    }

    #[test]
    fn a_member_of_the_wrong_type_and_one_keyring_too_many_are_refused() {
        for answer in [
            json!({}),
            json!({"token": 1}),
            json!({"token": "t", "macKey": 1}),
            json!({"token": "t", "signingKeys": "a.b.c"}),
            json!({"token": "t", "signingKeys": [1]}),
            json!({"token": "t", "caBundle": ["pem"]}),
            json!({"token": "t", "clientCertificate": {}}),
            json!({"token": "t", "rotateAfter": "soon"}),
            json!({"token": "t", "signingKeys": vec!["a.b.c"; limits::SIGNING_KEYS + 1]}),
        ] {
            assert!(serde_json::from_value::<CredentialAnswer>(answer.clone()).is_err(), "{answer}");
        }
        let full = json!({"token": "t", "signingKeys": vec!["a.b.c"; limits::SIGNING_KEYS]});
        assert!(serde_json::from_value::<CredentialAnswer>(full).is_ok());
    }
}

//! What the agent says of a `Cluster`.

use serde::{Deserialize, Serialize};

use crate::protocol::{Condition, Timestamp};

/// What the agent says of it. One write a change: nothing here moves by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crds", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct ClusterStatus {
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Connected, Disconnected, Authenticated, BufferOverflow.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "crds", schemars(schema_with = "super::definition::conditions"))]
    pub conditions: Vec<Condition>,
    /// The round trip that was the last one when anything else here changed.
    #[serde(deserialize_with = "Timestamp::optional", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crds", schemars(schema_with = "super::definition::date_time"))]
    pub last_heartbeat: Option<Timestamp>,
    /// The credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential_status: Option<CredentialStatus>,
    /// Where the credential lies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretReference>,
    /// The first 16 hex digits of the SHA-256 of the last one-time token: it is not tried twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_token: Option<String>,
    /// The version of the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// The generation of the spec that is in effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What waits on the disk of the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buffer: Option<Buffer>,
}

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crds", derive(schemars::JsonSchema))]
pub enum Phase {
    /// The control plane answers.
    Connected,
    /// It did, and does not any more.
    Disconnected,
    /// A person has to do something; the conditions say what.
    Error,
    /// Nothing was begun.
    Pending,
    /// The one-time token is being exchanged.
    Registering,
    /// The object is being deleted.
    Terminating,
}

/// The credential.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crds", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct CredentialStatus {
    /// The Secret that holds it.
    pub secret_name: String,
    /// Its namespace.
    pub secret_namespace: String,
    /// When it was given.
    #[serde(deserialize_with = "Timestamp::optional", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crds", schemars(schema_with = "super::definition::date_time"))]
    pub registered_at: Option<Timestamp>,
    /// Whether the one-time token was taken.
    pub registration_token_consumed: bool,
}

/// A Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crds", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct SecretReference {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
}

/// What waits on the disk of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crds", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct Buffer {
    /// Bytes there are.
    pub capacity_bytes: u64,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Events that were lost.
    pub lost: u64,
}

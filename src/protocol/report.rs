//! What the agent tells the control plane: statuses, results, events (P1.3, P1.7).

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// Body of `POST /jobs/{id}/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StatusUpdate {
    /// Where the job is: `Applied`, `Waiting`.
    pub phase: String,
    /// Conditions of the object, when there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// A sentence for a person.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When this was so.
    pub timestamp: Timestamp,
}

/// Body of `POST /jobs/{id}/result`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobResult {
    /// How the job ended.
    pub outcome: OutcomeKind,
    /// Why; always there when the job failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// The object that was applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied_ref: Option<ObjectRef>,
    /// When the job ended.
    pub timestamp: Timestamp,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OutcomeKind {
    /// A field is owned by another field manager; nothing was changed.
    Conflict,
    /// It could not be done; `error` says why.
    Failed,
    /// There was nothing to do: expired, or its idempotency key was used.
    Noop,
    /// Done.
    Succeeded,
}

/// Names one object (P1.3). `namespace` is always there, empty for a cluster-scoped object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Namespace or nothing.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid, when the object has one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Generation, when the object has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
}

/// A Kubernetes condition. Read from objects of any author, so every member but the type may be missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Ready`, `Connected`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    #[serde(default)]
    pub status: String,
    /// The generation this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Since when.
    #[serde(default, deserialize_with = "Timestamp::optional", serialize_with = "or_the_epoch")]
    pub last_transition_time: Option<Timestamp>,
    /// One word.
    #[serde(default)]
    pub reason: String,
    /// A sentence.
    #[serde(default)]
    pub message: String,
}

/// The protocol knows no condition without a transition time.
#[allow(clippy::ref_option, reason = "the signature that serde asks for")]
fn or_the_epoch<S: serde::Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    time.unwrap_or(Timestamp::from_unix_seconds(0)).serialize(serializer)
}

/// Where an application can be reached: `status.endpoints` of an `ApplicationInstance`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// What it is called.
    #[serde(default)]
    pub name: String,
    /// Where it is.
    #[serde(default)]
    pub url: String,
    /// What it is.
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Anything else.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub notes: String,
}

/// One event (P1.7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Opaque to the server, which drops a second event with the same key, for ever.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub event_key: String,
    /// What happened.
    pub kind: EventKind,
    /// To which object.
    pub resource_ref: ObjectRef,
    /// Its conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Its endpoints.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// When.
    pub timestamp: Timestamp,
}

#[cfg(test)]
impl Event {
    /// One of this kind that says nothing more.
    pub(crate) fn bare(kind: EventKind) -> Self {
        Self {
            event_key: String::new(),
            kind,
            resource_ref: ObjectRef::default(),
            conditions: Vec::new(),
            endpoints: Vec::new(),
            timestamp: Timestamp::from_unix_seconds(0),
        }
    }
}

/// What an event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum EventKind {
    /// The agent is there, and how it is.
    ClusterHeartbeat,
    /// A condition of an owned object changed its status, reason or message.
    ConditionTransition,
    /// A new bearer is in use.
    CredentialRotated,
    /// An `encryptedPayload` was refused.
    JobPayloadDecryptionFailed,
    /// A signature was refused.
    JobPayloadSignatureInvalid,
    /// Operation, accepted.
    OperationAccepted,
    /// Operation, blocked.
    OperationBlocked,
    /// Operation, failed.
    OperationFailed,
    /// Operation, running.
    OperationRunning,
    /// Operation, done.
    OperationSucceeded,
}

/// Body of `POST /events`, never empty.
#[derive(Serialize)]
pub struct EventBatch<'a> {
    /// At most [`EVENT_BATCH`](crate::limits::EVENT_BATCH) of them.
    pub events: &'a [Event],
}

#[cfg(test)]
mod tests {
    use super::{Condition, JobResult, ObjectRef, OutcomeKind};
    use crate::protocol::Timestamp;

    #[test]
    fn a_cluster_scoped_reference_keeps_its_empty_namespace() {
        let reference = ObjectRef {
            api_version: "ops.vworkspace.io/v1alpha1".into(),
            kind: "Cluster".into(),
            name: "c1".into(),
            ..ObjectRef::default()
        };
        assert_eq!(
            serde_json::to_string(&reference).unwrap(),
            r#"{"apiVersion":"ops.vworkspace.io/v1alpha1","kind":"Cluster","namespace":"","name":"c1"}"#
        );
    }

    #[test]
    fn a_result_leaves_out_what_is_empty() {
        let result = JobResult {
            outcome: OutcomeKind::Succeeded,
            error: String::new(),
            applied_ref: None,
            timestamp: Timestamp::from_unix_seconds(0),
        };
        assert_eq!(
            serde_json::to_string(&result).unwrap(),
            r#"{"outcome":"succeeded","timestamp":"1970-01-01T00:00:00Z"}"#
        );
    }

    #[test]
    fn a_condition_of_a_careless_author_is_read_and_written_whole() {
        let condition: Condition = serde_json::from_str(r#"{"type":"Ready","lastTransitionTime":null}"#).unwrap();
        assert_eq!(
            serde_json::to_string(&condition).unwrap(),
            r#"{"type":"Ready","status":"","lastTransitionTime":"1970-01-01T00:00:00Z","reason":"","message":""}"#
        );
    }
}

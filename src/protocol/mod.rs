//! The types of the agent protocol v1 and nothing else: shapes, reading, writing.
//!
//! Clause numbers ("P1.4") are those of `docs/protocol.md`.

pub mod cluster;
pub mod credential;
pub mod job;
pub mod kind;
pub mod manifest;
pub mod report;
pub mod timestamp;

pub use cluster::{ClusterId, InvalidClusterId};
pub use credential::{AgentInfo, CredentialAnswer, ErrorBody, RegisterRequest, RotateRequest};
pub use job::{Instruction, Job, JobError, JobId};
pub use kind::{GroupKind, InvalidGroupKind};
pub use manifest::{Manifest, ManifestError};
pub use report::{Condition, Endpoint, Event, EventBatch, EventKind, JobResult, ObjectRef, OutcomeKind, StatusUpdate};
pub use timestamp::Timestamp;

/// P1.1: the media type of every body and of `Accept`.
pub const MEDIA_TYPE: &str = "application/vnd.vworkspace.agent.v1+json";

/// P1.6: the field manager of everything that is applied.
pub const FIELD_MANAGER: &str = "vworkspace-agent";

/// P1.6: label that says who manages an object.
pub const MANAGED_BY_LABEL: &str = "app.vworkspace.io/managed-by";

/// P1.6: value of [`MANAGED_BY_LABEL`].
pub const MANAGED_BY_VALUE: &str = "control-plane";

/// P1.6: label that says for which cluster an object was applied.
pub const CLUSTER_ID_LABEL: &str = "app.vworkspace.io/cluster-id";

/// Annotation with the hash of the idempotency key of the job that applied an object last: the first eight bytes of its
/// SHA-256, base64url.
pub const KEY_HASH_ANNOTATION: &str = "app.vworkspace.io/idempotency-key-hash";

/// Annotation with epoch and number (`7.42`) of the signed job that applied an object last: an older one of the same epoch
/// is refused.
pub const SIGNED_SEQ_ANNOTATION: &str = "app.vworkspace.io/signed-seq";

/// P1.6: label of a namespace that was made by us, or that an admin opened for us.
pub const NAMESPACE_LABEL: (&str, &str) = ("managed-by", "vworkspace");

/// API group and version of an `ApplicationInstance`.
pub const APPLICATION_INSTANCE: (&str, &str) = ("apps.vworkspace.io/v1alpha1", "ApplicationInstance");

/// API group and version of an `Operation`.
pub const OPERATION: (&str, &str) = ("ops.vworkspace.io/v1alpha1", "Operation");

/// API group and version of a `Cluster`.
pub const CLUSTER: (&str, &str) = ("ops.vworkspace.io/v1alpha1", "Cluster");

/// The group of an `apiVersion`: `apps/v1` is of `apps`, `v1` of the core group, which is empty.
#[must_use]
pub fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

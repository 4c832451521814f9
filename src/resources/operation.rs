//! `Operation`, as it is defined. The agent applies what a job says and reads conditions.
#![cfg(feature = "crds")]

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::protocol::Condition;

/// What is to be done, to what, and by what.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, kube::CustomResource)]
#[kube(
    group = "ops.vworkspace.io",
    version = "v1alpha1",
    kind = "Operation",
    doc = "One thing to be done to an application.",
    namespaced,
    shortname = "op",
    status = "OperationStatus",
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "Target", type_ = "string", json_path = ".spec.targetRef.name"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub(super) struct OperationSpec {
    /// The application, in the same namespace. Never changes.
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "targetRef never changes"}]))]
    target_ref: TargetReference,
    /// What is to be done. Never changes.
    #[serde(rename = "type")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "type never changes"}]))]
    operation_type: OperationType,
    /// What does it. Never changes.
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "engine never changes"}]))]
    engine: Engine,
    /// What the engine has to know.
    #[serde(default)]
    #[schemars(schema_with = "super::definition::open")]
    parameters: Option<Map<String, Value>>,
    /// Whether somebody has to approve it first, and who did.
    approvals: Option<Approvals>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct TargetReference {
    /// Group and version of the application.
    #[schemars(length(max = 63), regex(pattern = r"^apps\.vworkspace\.io/v[a-z0-9]+$"))]
    api_version: String,
    /// Its kind.
    #[schemars(extend("enum" = ["ApplicationInstance"]))]
    kind: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    name: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
enum OperationType {
    Backup,
    Migration,
    Restore,
    RunCommand,
    Runbook,
    Upgrade,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Engine {
    Helm,
    HelmHookJob,
    Job,
    Velero,
    Volsync,
    Workflow,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Approvals {
    /// It waits until somebody has approved it.
    required: Option<bool>,
    /// What the approval rests on.
    #[schemars(length(max = 4096))]
    claim: Option<String>,
    /// Who approved it.
    #[schemars(length(max = 253))]
    approved_by: Option<String>,
    /// When it was approved.
    #[serde(default)]
    #[schemars(schema_with = "super::definition::date_time")]
    approved_at: Option<String>,
}

/// How far it is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct OperationStatus {
    /// Where it stands.
    phase: Option<Phase>,
    /// When it began.
    #[serde(default)]
    #[schemars(schema_with = "super::definition::date_time")]
    started_at: Option<String>,
    /// When it ended.
    #[serde(default)]
    #[schemars(schema_with = "super::definition::date_time")]
    finished_at: Option<String>,
    /// What the engine made of it.
    engine_ref: Option<EngineReference>,
    /// Accepted, Running, Succeeded, Failed, Blocked, Cancelled.
    #[serde(default)]
    #[schemars(schema_with = "super::definition::conditions")]
    conditions: Option<Vec<Condition>>,
    /// What came out.
    #[serde(default)]
    #[schemars(schema_with = "super::definition::open")]
    outputs: Option<Map<String, Value>>,
    /// Where its log is.
    logs_ref: Option<LogsReference>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
enum Phase {
    Cancelled,
    Failed,
    Pending,
    Running,
    Succeeded,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct EngineReference {
    /// Kind of the object.
    kind: Option<String>,
    /// Name of the object.
    name: Option<String>,
    /// Namespace of the object.
    namespace: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct LogsReference {
    /// Kind of the object that has it.
    kind: Option<String>,
    /// Name of the object.
    name: Option<String>,
    /// Namespace of the object.
    namespace: Option<String>,
    /// Where it can be fetched.
    #[schemars(length(max = 2048))]
    url: Option<String>,
}

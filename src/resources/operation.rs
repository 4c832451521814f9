//! `Operation`, as it is defined. The agent applies what a job says and reads conditions.
#![cfg(test)]

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::protocol::Condition;

/// One thing to be done to an application.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, kube::CustomResource)]
#[kube(
    group = "ops.vworkspace.io",
    version = "v1alpha1",
    kind = "Operation",
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
    target_ref: TargetReference,
    /// What is to be done. Never changes.
    #[serde(rename = "type")]
    operation_type: OperationType,
    /// What does it. Never changes.
    engine: Engine,
    /// What the engine needs to know.
    parameters: Option<Map<String, Value>>,
    /// Whose leave it takes.
    approvals: Option<Approvals>,
}

/// An application in the same namespace.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct TargetReference {
    /// Group and version.
    #[schemars(regex(pattern = r"^apps\.vworkspace\.io/v[a-z0-9]+$"))]
    api_version: String,
    /// Kind.
    #[schemars(extend("enum" = ["ApplicationInstance"]))]
    kind: String,
    /// Name.
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

/// Whose leave it takes.
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
    /// When.
    #[schemars(schema_with = "super::definition::date_time")]
    approved_at: Option<String>,
}

/// How far it is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct OperationStatus {
    /// How far it is.
    phase: Option<Phase>,
    /// When it began.
    #[schemars(schema_with = "super::definition::date_time")]
    started_at: Option<String>,
    /// When it ended.
    #[schemars(schema_with = "super::definition::date_time")]
    finished_at: Option<String>,
    /// What the engine made of it.
    engine_ref: Option<EngineReference>,
    /// Accepted, Running, Succeeded, Failed, Blocked, Cancelled.
    #[schemars(schema_with = "super::definition::conditions")]
    conditions: Option<Vec<Condition>>,
    /// What came out.
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
    kind: Option<String>,
    name: Option<String>,
    namespace: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct LogsReference {
    kind: Option<String>,
    name: Option<String>,
    namespace: Option<String>,
    #[schemars(length(max = 2048))]
    url: Option<String>,
}

//! `ApplicationInstance`, as it is defined. The agent applies what a job says and reads conditions.
#![cfg(test)]

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::protocol::Condition;

/// An application that is to be there.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, kube::CustomResource)]
#[kube(
    group = "apps.vworkspace.io",
    version = "v1alpha1",
    kind = "ApplicationInstance",
    namespaced,
    shortname = "appinst",
    status = "ApplicationInstanceStatus",
    printcolumn(name = "App", type_ = "string", json_path = ".spec.appRef.catalogId"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.lastAppliedChart.version"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub(super) struct ApplicationInstanceSpec {
    /// Which application.
    app_ref: AppReference,
    /// Whether it is installed (managed) or only noted (placeholder).
    #[serde(default)]
    mode: Mode,
    /// Where its code comes from.
    chart: Option<Chart>,
    /// How it is installed.
    release: Option<Release>,
    /// How it is set up.
    values: Option<Values>,
    /// What it works with.
    integrations: Option<Integrations>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct AppReference {
    /// Its entry of the catalog.
    #[schemars(length(min = 1, max = 253))]
    catalog_id: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Mode {
    #[default]
    Managed,
    Placeholder,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Chart {
    /// A registry or a repository.
    source_type: SourceType,
    /// Where it is.
    #[schemars(length(min = 1, max = 2048))]
    url: String,
    /// Name of the chart.
    #[schemars(length(min = 1, max = 253))]
    name: String,
    /// Version of the chart.
    #[schemars(length(min = 1, max = 128))]
    version: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum SourceType {
    Helm,
    Oci,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Release {
    /// Name of the release.
    #[schemars(length(max = 53))]
    name: Option<String>,
    /// Where it is installed.
    #[schemars(length(max = 63))]
    namespace: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Values {
    /// Which of the following counts.
    source: ValuesSource,
    /// The values themselves. No secrets: they are refused.
    inline: Option<Map<String, Value>>,
    /// A Secret in the same namespace.
    secret_ref: Option<KeyReference>,
    /// A ConfigMap in the same namespace.
    config_map_ref: Option<KeyReference>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum ValuesSource {
    ConfigMapRef,
    Inline,
    SecretRef,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct KeyReference {
    /// Name.
    #[schemars(length(min = 1, max = 253))]
    name: String,
    /// Key.
    #[schemars(regex(pattern = r"^[-._a-zA-Z0-9]{1,253}$"))]
    key: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Integrations {
    /// Secrets come from a store outside.
    external_secrets: Option<Switch>,
    /// Certificates are issued here.
    cert_manager: Option<Switch>,
    /// It is reachable from outside.
    ingress: Option<Ingress>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Switch {
    enabled: Option<bool>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Ingress {
    enabled: Option<bool>,
    /// Its name in the DNS.
    #[schemars(length(max = 253))]
    host: Option<String>,
}

/// What became of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ApplicationInstanceStatus {
    /// The generation of the spec that this speaks of.
    observed_generation: Option<i64>,
    /// Ready, Reconciling, Degraded, Blocked, Suspended, Deleting.
    #[schemars(schema_with = "super::definition::conditions")]
    conditions: Option<Vec<Condition>>,
    /// The release of it.
    helm_release_ref: Option<Release>,
    /// What is installed.
    last_applied_chart: Option<AppliedChart>,
    /// When it was last looked after.
    #[schemars(schema_with = "super::definition::date_time")]
    last_reconcile_time: Option<String>,
    /// Where it is reached.
    endpoints: Option<Vec<Endpoint>>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct AppliedChart {
    source_type: Option<SourceType>,
    url: Option<String>,
    name: Option<String>,
    version: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Endpoint {
    name: Option<String>,
    url: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    notes: Option<String>,
}

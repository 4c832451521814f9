//! `ApplicationInstance`, as it is defined. The agent applies what a job says and reads conditions.
#![cfg(feature = "crds")]

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::protocol::Condition;

/// What is to be installed, and how.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, kube::CustomResource)]
#[kube(
    group = "apps.vworkspace.io",
    version = "v1alpha1",
    kind = "ApplicationInstance",
    doc = "An application that is to be there.",
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
    /// Which application it is.
    app_ref: AppReference,
    /// Whether it is installed (managed) or only noted (placeholder).
    #[serde(default)]
    mode: Mode,
    /// Where its code comes from.
    chart: Option<Chart>,
    /// How it is called in the cluster.
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
    /// A registry (oci) or a repository (helm).
    source_type: SourceType,
    /// Address of the registry or repository, without credentials.
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
    /// The namespace it is installed in.
    #[schemars(length(max = 63))]
    namespace: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Values {
    /// Which of the others counts. That one has to be there.
    source: ValuesSource,
    /// The values themselves. Secrets are refused here.
    #[serde(default)]
    #[schemars(schema_with = "super::definition::open")]
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
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    name: String,
    /// The key in it.
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
    /// Whether it is so.
    enabled: Option<bool>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Ingress {
    /// Whether it is so.
    enabled: Option<bool>,
    /// The name under which it is reached.
    #[schemars(length(max = 253))]
    host: Option<String>,
}

/// What became of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ApplicationInstanceStatus {
    /// The generation of the spec that this is about.
    observed_generation: Option<i64>,
    /// Ready, Reconciling, Degraded, Blocked, Suspended, Deleting.
    #[serde(default)]
    #[schemars(schema_with = "super::definition::conditions")]
    conditions: Option<Vec<Condition>>,
    /// The release that it became.
    helm_release_ref: Option<Release>,
    /// The chart that is installed.
    last_applied_chart: Option<AppliedChart>,
    /// When its controller last looked after it.
    #[serde(default)]
    #[schemars(schema_with = "super::definition::date_time")]
    last_reconcile_time: Option<String>,
    /// Where it is reached.
    endpoints: Option<Vec<Endpoint>>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct AppliedChart {
    /// A registry (oci) or a repository (helm).
    source_type: Option<SourceType>,
    /// Its address.
    url: Option<String>,
    /// Name of the chart.
    name: Option<String>,
    /// Version of the chart.
    version: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Endpoint {
    /// What is reached there.
    name: Option<String>,
    /// Its address.
    url: Option<String>,
    /// What kind of address it is.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// What a person should know about it.
    notes: Option<String>,
}

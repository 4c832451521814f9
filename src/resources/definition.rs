//! The definitions of the custom resources, made from their types.
#![cfg(feature = "crds")]

use kube::CustomResourceExt as _;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::application_instance::ApplicationInstance;
use super::cluster::ClusterResource;
use super::operation::Operation;
use crate::trust::policy::OperationType;

/// Where the schema of `spec.values` stands in a definition.
const VALUES: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/values";

/// The definitions of all of them, as `kube` makes them.
///
/// # Errors
/// When one has no JSON form.
pub fn definitions() -> Result<Vec<Value>, serde_json::Error> {
    let mut instance = serde_json::to_value(ApplicationInstance::crd())?;
    // What `kube` makes of an alternative in a type is no alternative any more.
    if let Some(Value::Object(values)) = instance.pointer_mut(VALUES) {
        let named = ["inline", "secretRef", "configMapRef"]
            .map(|source| json!({"properties": {"source": {"enum": [source]}}, "required": [source]}));
        values.insert("anyOf".to_owned(), Value::from(named.to_vec()));
    }
    Ok(vec![instance, serde_json::to_value(ClusterResource::crd())?, serde_json::to_value(Operation::crd())?])
}

/// Conditions, one of each type.
pub(super) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 32,
        "items": {
            "type": "object",
            "properties": {
                "type": {"type": "string", "minLength": 1, "maxLength": 316},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                "lastTransitionTime": {"type": "string", "format": "date-time"},
                // Some API servers take an empty text for null.
                "reason": {"type": "string", "nullable": true, "maxLength": 1024},
                "message": {"type": "string", "nullable": true, "maxLength": 32768},
            },
            "required": ["type", "status"],
        },
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}

/// A moment, RFC 3339.
pub(super) fn date_time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time", "nullable": true})
}

/// Types of operations.
pub(super) fn operation_types(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": crate::limits::CLUSTER_POLICY_ENTRIES,
        "nullable": true,
        "items": {"type": "string", "enum": OperationType::ALL.map(OperationType::name)},
    })
}

/// An object with any members.
pub(super) fn open(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "nullable": true, "x-kubernetes-preserve-unknown-fields": true})
}

//! The definitions of the custom resources, made from their types.
#![cfg(test)]

use schemars::{Schema, SchemaGenerator, json_schema};

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
                "reason": {"type": "string", "maxLength": 1024},
                "message": {"type": "string", "maxLength": 32768},
            },
            "required": ["type", "status"],
        },
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}

/// A moment, RFC 3339.
pub(super) fn date_time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}

/// Types of operations.
pub(super) fn operation_types(_: &mut SchemaGenerator) -> Schema {
    let types = crate::trust::policy::OperationType::ALL.map(crate::trust::policy::OperationType::name);
    json_schema!({"type": "array", "maxItems": 64, "items": {"type": "string", "enum": types}})
}

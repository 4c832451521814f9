//! Types of operations: those of the node, and those of a namespace.

use std::fmt;

use super::{Refusal, spec};
use crate::protocol::Manifest;

/// Annotation of a namespace: which types of operations may be requested in it, a comma list.
pub const ALLOWED_TYPES_ANNOTATION: &str = "ops.vworkspace.io/allowed-types";

/// What an Operation can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationType {
    /// `Backup`
    Backup,
    /// `Migration`
    Migration,
    /// `Restore`
    Restore,
    /// `RunCommand`
    RunCommand,
    /// `Runbook`
    Runbook,
    /// `Upgrade`
    Upgrade,
}

impl OperationType {
    /// All there are.
    pub const ALL: [Self; 6] =
        [Self::Backup, Self::Migration, Self::Restore, Self::RunCommand, Self::Runbook, Self::Upgrade];

    /// As `spec.type` names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Backup => "Backup",
            Self::Migration => "Migration",
            Self::Restore => "Restore",
            Self::RunCommand => "RunCommand",
            Self::Runbook => "Runbook",
            Self::Upgrade => "Upgrade",
        }
    }

    /// Reads `spec.type`.
    ///
    /// # Errors
    /// When there is no such type.
    pub fn parse(text: &str) -> Result<Self, UnknownType> {
        Self::ALL.into_iter().find(|known| known.name() == text).ok_or(UnknownType)
    }
}

/// The text is no type of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownType;

impl fmt::Display for UnknownType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one of Backup, Migration, Restore, RunCommand, Runbook, Upgrade")
    }
}

impl std::error::Error for UnknownType {}

/// The type of a manifest's operation; none where the manifest is of another kind.
///
/// # Errors
/// When it has none, or one that nobody knows.
pub(super) fn type_of(manifest: &Manifest<'_>) -> Result<Option<OperationType>, Refusal> {
    let Some(spec) = spec::Operation::read(manifest)? else { return Ok(None) };
    let text = spec.operation_type.as_deref().unwrap_or_default();
    match OperationType::parse(text) {
        Ok(known) => Ok(Some(known)),
        Err(UnknownType) if text.is_empty() => Err(Refusal::OperationNotAllowed("(none)".to_owned())),
        Err(UnknownType) => Err(Refusal::OperationNotAllowed(super::head(text))),
    }
}

/// Whether the namespace lets this be applied, by its annotation [`ALLOWED_TYPES_ANNOTATION`]. Only a target that can
/// read namespaces can ask. A namespace without the annotation adds nothing to the policy of the node.
///
/// # Errors
/// When the manifest is an Operation of a type that is not in the list.
pub fn check_namespace_list(annotation: Option<&str>, manifest: &Manifest<'_>) -> Result<(), Refusal> {
    let Some(list) = annotation else { return Ok(()) };
    let Some(wanted) = type_of(manifest)? else { return Ok(()) };
    // People write these by hand: the types are few, and none differs from another in case alone.
    if list.split(',').any(|name| name.trim().eq_ignore_ascii_case(wanted.name())) {
        Ok(())
    } else {
        Err(Refusal::OperationNotAllowedHere(wanted.name().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::{Refusal, check_namespace_list};
    use crate::protocol::{Manifest, OPERATION};

    fn check(annotation: Option<&str>, kind: &str) -> Result<(), Refusal> {
        let text = format!(r#"{{"metadata":{{"name":"a","namespace":"shop"}},"spec":{{"type":"{kind}"}}}}"#);
        let text = RawValue::from_string(text).unwrap();
        check_namespace_list(annotation, &Manifest::parse(&text, Some(OPERATION)).unwrap())
    }

    #[test]
    fn a_namespace_allows_what_it_lists() {
        assert_eq!(check(None, "RunCommand"), Ok(()));
        assert_eq!(check(Some("Backup, restore ,"), "Backup"), Ok(()));
        assert_eq!(check(Some("Backup, restore ,"), "Restore"), Ok(()));
        for list in ["", ",", " ", "*", "Backup", "Run Command", "RunCommands", "Backup;RunCommand", "ＲunCommand"] {
            assert_eq!(
                check(Some(list), "RunCommand"),
                Err(Refusal::OperationNotAllowedHere("RunCommand".into())),
                "{list}"
            );
        }
    }

    #[test]
    fn what_is_no_operation_is_no_business_of_the_list() {
        let text = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"shop"}}"#;
        let text = RawValue::from_string(text.to_owned()).unwrap();
        assert_eq!(check_namespace_list(Some(""), &Manifest::parse(&text, None).unwrap()), Ok(()));
    }
}

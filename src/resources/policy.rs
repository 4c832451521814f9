//! `spec.policy` of a `Cluster`: what its owner lets jobs do.

use std::error::Error as StdError;
use std::fmt;

use serde::Deserialize;

use super::cluster::Security;
use crate::limits;
use crate::protocol::GroupKind;
use crate::trust::policy::{ChartPattern, NamespacePattern, Namespaces, OperationType, Rules};

/// What jobs may do. A list that is missing says nothing; an empty one permits nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "crds", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct PolicySpec {
    /// All of them, those that are open by default too: GROUP/KIND; the core group is empty (/ConfigMap).
    #[cfg_attr(
        feature = "crds",
        schemars(length(max = 64), inner(length(max = 317), regex(pattern = r"^[a-z0-9.-]*/[A-Z][A-Za-z0-9]*$")))
    )]
    pub kinds: Option<Vec<String>>,
    /// Names (clinic-7) or prefixes (clinic-*).
    #[cfg_attr(
        feature = "crds",
        schemars(length(max = 64), inner(regex(pattern = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9]|[a-z0-9-]{0,62}\*)?$")))
    )]
    pub namespaces: Option<Vec<String>>,
    #[allow(rustdoc::bare_urls, reason = "kubectl explain shows it as it is")]
    /// Sources (oci://registry.example/charts/*, https://charts.example.org#wiki@1.2.3), entries of the catalog
    /// (catalog:wiki), or * for all.
    #[cfg_attr(
        feature = "crds",
        schemars(
            length(max = 64),
            inner(length(max = 1024), regex(pattern = r"^(\*|catalog:.+|oci://.+|https://.+)$"))
        )
    )]
    pub charts: Option<Vec<String>>,
    /// Types of operations.
    #[cfg_attr(feature = "crds", schemars(schema_with = "super::definition::operation_types"))]
    pub operations: Option<Vec<String>>,
}

/// An entry of the policy cannot be used: the list, the entry, and how it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPolicy {
    /// `policy.kinds`
    list: &'static str,
    /// None where the list is too long.
    entry: Option<String>,
    why: String,
}

impl PolicySpec {
    /// The rules of the owner of the `Cluster`, to narrow those of the configuration file
    /// ([`Policy::narrowed_by`](crate::trust::policy::Policy::narrowed_by)).
    ///
    /// # Errors
    /// When an entry cannot be used. None is left out: a rule that is not understood must not open what it closes.
    pub fn rules(&self, security: Option<Security>) -> Result<Rules, InvalidPolicy> {
        let security = security.unwrap_or_default();
        let namespaces = read("policy.namespaces", self.namespaces.as_deref(), NamespacePattern::parse)?;
        Ok(Rules {
            kinds: read("policy.kinds", self.kinds.as_deref(), GroupKind::parse)?,
            namespaces: namespaces.map_or(Namespaces::Any, Namespaces::Listed),
            charts: read("policy.charts", self.charts.as_deref(), ChartPattern::parse)?,
            operations: read("policy.operations", self.operations.as_deref(), OperationType::parse)?,
            requires_encrypted_secrets: security.require_encrypted_secret_payloads == Some(true),
            requires_signatures: security.require_signed_payloads == Some(true),
        })
    }
}

fn read<T, E: fmt::Display>(
    list: &'static str,
    entries: Option<&[String]>,
    parse: fn(&str) -> Result<T, E>,
) -> Result<Option<Vec<T>>, InvalidPolicy> {
    let Some(entries) = entries else { return Ok(None) };
    if entries.len() > limits::CLUSTER_POLICY_ENTRIES {
        return Err(InvalidPolicy { list, entry: None, why: "more than 64 entries".to_owned() });
    }
    let read = |entry: &String| {
        parse(entry).map_err(|error| InvalidPolicy {
            list,
            entry: Some(entry.chars().take(limits::POLICY_NAME_CHARS).collect()),
            why: error.to_string(),
        })
    };
    entries.iter().map(read).collect::<Result<_, _>>().map(Some)
}

impl fmt::Display for InvalidPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.entry {
            Some(entry) => write!(f, "spec.{}: {entry:?}: {}", self.list, self.why),
            None => write!(f, "spec.{}: {}", self.list, self.why),
        }
    }
}

impl StdError for InvalidPolicy {}

#[cfg(test)]
mod tests {
    use super::PolicySpec;
    use crate::limits;
    use crate::resources::Security;
    use crate::trust::policy::{Namespaces, OperationType, Rules};

    fn read(text: &str) -> PolicySpec {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_list_that_is_missing_says_nothing_and_an_empty_one_permits_nothing() {
        assert_eq!(read("{}").rules(None), Ok(Rules::default()));
        assert_eq!(read(r#"{"kinds":null}"#).rules(None), Ok(Rules::default()));
        let rules = read(r#"{"kinds":[],"namespaces":[],"charts":[],"operations":[]}"#).rules(None).unwrap();
        assert_eq!(rules.namespaces, Namespaces::Listed(Vec::new()));
        assert_eq!((rules.kinds, rules.charts, rules.operations), (Some(vec![]), Some(vec![]), Some(vec![])));
    }

    #[test]
    fn the_security_of_jobs_is_part_of_the_rules() {
        let security =
            Security { require_signed_payloads: Some(true), require_encrypted_secret_payloads: Some(true), mtls: None };
        let rules = read(r#"{"operations":["Backup"]}"#).rules(Some(security)).unwrap();
        assert!(rules.requires_signatures && rules.requires_encrypted_secrets);
        assert_eq!(rules.operations, Some(vec![OperationType::Backup]));
        let security = Security { require_signed_payloads: Some(false), ..Security::default() };
        assert!(!read("{}").rules(Some(security)).unwrap().requires_signatures);
    }

    #[test]
    fn an_entry_that_cannot_be_used_is_named_with_its_list() {
        for (text, words) in [
            (r#"{"kinds":["ConfigMap"]}"#, "spec.policy.kinds: \"ConfigMap\": write"),
            (r#"{"namespaces":["*"]}"#, "spec.policy.namespaces: \"*\""),
            (r#"{"charts":["http://a"]}"#, "spec.policy.charts: \"http://a\""),
            (r#"{"operations":["Backup","backup"]}"#, "spec.policy.operations: \"backup\": one of"),
        ] {
            let error = read(text).rules(None).unwrap_err().to_string();
            assert!(error.starts_with(words), "{error}");
        }
    }

    #[test]
    fn a_list_of_just_the_bound_is_read_and_one_more_is_not() {
        let list = |count| read(&format!(r#"{{"operations":[{}]}}"#, vec!["\"Backup\""; count].join(","))).rules(None);
        assert!(list(limits::CLUSTER_POLICY_ENTRIES).is_ok());
        let error = list(limits::CLUSTER_POLICY_ENTRIES + 1).unwrap_err();
        assert_eq!(error.to_string(), "spec.policy.operations: more than 64 entries");
    }
}

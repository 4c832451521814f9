//! Kinds without their version.

use std::error::Error as StdError;
use std::fmt;

use super::group_of;

/// A kind without its version, as a policy names it: `apps/Deployment`, `/ConfigMap`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupKind {
    /// API group, empty for the core group.
    pub group: String,
    /// Kind.
    pub kind: String,
}

impl GroupKind {
    /// Reads `GROUP/KIND`; the core group is empty (`/ConfigMap`).
    ///
    /// # Errors
    /// As [`InvalidGroupKind`] lists them.
    pub fn parse(text: &str) -> Result<Self, InvalidGroupKind> {
        let (group, kind) = text.split_once('/').ok_or(InvalidGroupKind::NoSlash)?;
        let is_group = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-');
        if !group.bytes().all(is_group) {
            return Err(InvalidGroupKind::Group);
        }
        if !kind.starts_with(|first: char| first.is_ascii_uppercase())
            || !kind.bytes().all(|byte| byte.is_ascii_alphanumeric())
        {
            return Err(InvalidGroupKind::Kind);
        }
        Ok(Self { group: group.to_owned(), kind: kind.to_owned() })
    }

    /// Whether an object of this `apiVersion` and `kind` is meant.
    #[must_use]
    pub fn matches(&self, api_version: &str, kind: &str) -> bool {
        self.kind == kind && self.group == group_of(api_version)
    }

    /// The name of the resource as the API's conventions make it from the kind. Nobody is asked: there may be no cluster yet.
    #[must_use]
    pub fn plural(&self) -> String {
        let mut name = self.kind.to_ascii_lowercase();
        let follows_vowel = name.strip_suffix('y').is_some_and(|stem| stem.ends_with(['a', 'e', 'i', 'o', 'u']));
        if name == "endpoints" {
            return name;
        }
        if name.ends_with('y') && !follows_vowel {
            name.pop();
            name.push_str("ies");
        } else if ["s", "x", "ch", "sh"].iter().any(|end| name.ends_with(end)) {
            name.push_str("es");
        } else {
            name.push('s');
        }
        name
    }
}

impl fmt::Display for GroupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group, self.kind)
    }
}

/// Why a text names no kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidGroupKind {
    /// What stands before the slash is no API group.
    Group,
    /// What stands after the slash is no kind.
    Kind,
    /// There is no slash.
    NoSlash,
}

impl fmt::Display for InvalidGroupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Group => "the API group may hold a-z, 0-9, '.' and '-' only: write apps/Deployment",
            Self::Kind => "the kind begins with a capital and holds letters and digits only: write apps/Deployment",
            Self::NoSlash => "write GROUP/KIND: apps/Deployment, or /ConfigMap for the core group",
        })
    }
}

impl StdError for InvalidGroupKind {}

#[cfg(test)]
mod tests {
    use super::{GroupKind, InvalidGroupKind};

    #[test]
    fn reads_group_and_kind() {
        let kind = GroupKind::parse("apps/Deployment").unwrap();
        assert!(kind.matches("apps/v1", "Deployment"));
        assert!(!kind.matches("v1", "Deployment"));
        assert!(GroupKind::parse("/ConfigMap").unwrap().matches("v1", "ConfigMap"));
        assert_eq!(kind.to_string(), "apps/Deployment");
    }

    #[test]
    fn says_what_is_wrong_with_a_text() {
        assert_eq!(GroupKind::parse("ConfigMap"), Err(InvalidGroupKind::NoSlash));
        assert_eq!(GroupKind::parse("Apps/Deployment"), Err(InvalidGroupKind::Group));
        assert_eq!(GroupKind::parse("apps/"), Err(InvalidGroupKind::Kind));
        assert_eq!(GroupKind::parse("apps/v1/Deployment"), Err(InvalidGroupKind::Kind));
        assert_eq!(GroupKind::parse("/*"), Err(InvalidGroupKind::Kind));
    }

    #[test]
    fn a_resource_is_called_as_the_conventions_of_the_api_have_it() {
        for (kind, name) in [
            ("ConfigMap", "configmaps"),
            ("Endpoints", "endpoints"),
            ("Gateway", "gateways"),
            ("Ingress", "ingresses"),
            ("Mesh", "meshes"),
            ("NetworkPolicy", "networkpolicies"),
            ("StorageClass", "storageclasses"),
        ] {
            assert_eq!(GroupKind::parse(&format!("/{kind}")).unwrap().plural(), name);
        }
    }
}

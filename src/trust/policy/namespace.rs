//! Namespaces: by name, by prefix, or whatever the control plane manages.

use std::fmt;

/// The namespace of the agent itself: no job ever acts there.
pub const OWN_NAMESPACE: &str = "vworkspace-system";

/// System namespaces: only by their full name in the allow-list, never by a prefix or by default.
const SYSTEM_NAMESPACES: [&str; 5] = ["default", "flux-system", "cattle-*", "kube-*", OWN_NAMESPACE];

/// Which namespaces jobs may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Namespaces {
    /// Nothing is said about them here.
    #[default]
    Any,
    /// These, as they are.
    Listed(Vec<NamespacePattern>),
    /// All but system ones, as long as the target finds that they are managed.
    Managed,
}

/// A namespace by its name, or all that begin alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamespacePattern {
    /// Just this one.
    Name(String),
    /// `team-*`
    Prefix(String),
}

/// What decides whether a namespace may be used, as far as only the target can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceRule {
    /// The policy names the namespace: it is used as it is, and made if it is not there.
    Listed,
    /// It must carry the label `managed-by=vworkspace`, or not be there yet.
    Managed,
}

impl Namespaces {
    /// None when jobs may not use this one.
    pub(super) fn rule(&self, namespace: &str) -> Option<NamespaceRule> {
        match self {
            _ if namespace == OWN_NAMESPACE => None,
            Self::Any => Some(NamespaceRule::Listed),
            Self::Listed(patterns) => {
                patterns.iter().any(|pattern| pattern.matches(namespace)).then_some(NamespaceRule::Listed)
            }
            Self::Managed => (!is_system(namespace)).then_some(NamespaceRule::Managed),
        }
    }

    /// What [`Self::rule`] asks of a namespace `n`, as an expression; our own namespace is not among it.
    pub(super) fn in_cel(&self) -> Option<String> {
        let not_system = || {
            let tests = SYSTEM_NAMESPACES.iter().map(|system| match system.strip_suffix('*') {
                Some(prefix) => format!("n.startsWith('{prefix}')"),
                None => format!("n == '{system}'"),
            });
            format!("!({})", tests.collect::<Vec<_>>().join(" || "))
        };
        match self {
            Self::Any => None,
            Self::Listed(patterns) => {
                let tests = patterns.iter().map(|pattern| match pattern {
                    NamespacePattern::Name(name) => format!("n == '{name}'"),
                    NamespacePattern::Prefix(prefix) => format!("n.startsWith('{prefix}') && {}", not_system()),
                });
                let tests: Vec<String> = tests.collect();
                Some(if tests.is_empty() { "false".to_owned() } else { tests.join(" || ") })
            }
            Self::Managed => Some(not_system()),
        }
    }
}

impl NamespacePattern {
    /// Reads a name or a prefix with `*` at its end.
    ///
    /// # Errors
    /// When the text is no namespace name (RFC 1123 label) or prefix of one.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let (name, is_prefix) = text.strip_suffix('*').map_or((text, false), |prefix| (prefix, true));
        let usable = !name.is_empty()
            && name.len() <= 63
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !name.starts_with('-')
            && (is_prefix || !name.ends_with('-'));
        match (usable, is_prefix) {
            (false, _) => Err(InvalidPattern),
            (true, false) => Ok(Self::Name(name.to_owned())),
            (true, true) => Ok(Self::Prefix(name.to_owned())),
        }
    }

    fn matches(&self, namespace: &str) -> bool {
        match self {
            Self::Name(name) => name == namespace,
            Self::Prefix(prefix) => namespace.starts_with(prefix) && !is_system(namespace),
        }
    }
}

/// The text is no namespace and no prefix of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPattern;

impl fmt::Display for InvalidPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a namespace is written clinic-7, a family of them clinic-*")
    }
}

impl std::error::Error for InvalidPattern {}

fn is_system(namespace: &str) -> bool {
    SYSTEM_NAMESPACES.iter().any(|system| match system.strip_suffix('*') {
        Some(prefix) => namespace.starts_with(prefix),
        None => namespace == *system,
    })
}

#[cfg(test)]
mod tests {
    use super::NamespacePattern;

    #[test]
    fn patterns_that_are_no_namespace_are_refused() {
        for text in ["", "*", "A", "a.b", "-a", "a-", "a*b", "a/b", &"x".repeat(64)] {
            assert!(NamespacePattern::parse(text).is_err(), "{text}");
        }
        assert_eq!(NamespacePattern::parse("team-*"), Ok(NamespacePattern::Prefix("team-".into())));
    }
}

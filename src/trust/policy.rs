//! What a job may do, whoever sent it (TRUST.md, Policy).
//!
//! Groups and kinds by an allow-list, namespaces by an allow-list or by label, and a list of what no
//! setting opens: the agent's own namespace, rights, admission and `Cluster`.

use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::protocol::{APPLICATION_INSTANCE, CLUSTER, GroupKind, Instruction, Manifest, OPERATION, group_of};

/// The namespace of the agent itself: no job ever acts there.
pub const OWN_NAMESPACE: &str = "vworkspace-system";

/// System namespaces: only by their full name in the allow-list, never by a prefix or by default.
const SYSTEM_NAMESPACES: [&str; 5] = ["default", "flux-system", "cattle-*", "kube-*", OWN_NAMESPACE];

/// How our own roles, bindings and accounts are called.
const OWN_NAMES: [&str; 2] = ["pullet", "vworkspace-agent"];

/// What jobs may do on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    kinds: Vec<GroupKind>,
    namespaces: Vec<NamespacePattern>,
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

/// Why a job is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The kind is not in the allow-list.
    KindNotAllowed(GroupKind),
    /// The kind, or this object of it, is never open to jobs.
    Never(GroupKind),
    /// The namespace is not in the allow-list, or a system namespace.
    NamespaceNotAllowed(String),
    /// `spec` cannot be read as far as the policy must.
    Unreadable(&'static str),
}

impl Refusal {
    /// One word for a result.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::KindNotAllowed(_) => "KindNotAllowed",
            Self::Never(_) => "NeverAllowed",
            Self::NamespaceNotAllowed(_) => "NamespaceNotAllowed",
            Self::Unreadable(_) => "InvalidManifest",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KindNotAllowed(kind) => {
                write!(f, "this node does not accept {kind}: its owner can allow it with --allow-kind {kind}")
            }
            Self::Never(kind) => {
                write!(f, "no setting lets a job touch this {kind}: it would change the agent's own rights")
            }
            Self::NamespaceNotAllowed(namespace) => write!(
                f,
                "this node does not let jobs into the namespace {namespace}: its owner can allow it with --allow-namespace"
            ),
            Self::Unreadable(member) => write!(f, "{member} is of the wrong type"),
        }
    }
}

impl std::error::Error for Refusal {}

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

impl Policy {
    /// The default kinds and `kinds` beside them; with no `namespaces`, those that are managed by the
    /// control plane.
    #[must_use]
    pub fn new(kinds: Vec<GroupKind>, namespaces: Vec<NamespacePattern>) -> Self {
        let mut all: Vec<GroupKind> = [APPLICATION_INSTANCE, OPERATION]
            .into_iter()
            .map(|(version, kind)| GroupKind { group: group_of(version).to_owned(), kind: kind.to_owned() })
            .collect();
        for kind in kinds {
            if !all.contains(&kind) {
                all.push(kind);
            }
        }
        Self { kinds: all, namespaces }
    }

    /// The kinds that jobs may touch.
    #[must_use]
    pub fn kinds(&self) -> &[GroupKind] {
        &self.kinds
    }

    /// Whether a job may do this. What only the target can tell of the namespace is the answer.
    ///
    /// # Errors
    /// The first clause that stops it.
    pub fn check(&self, instruction: &Instruction<'_>) -> Result<NamespaceRule, Refusal> {
        match instruction {
            Instruction::Apply(manifest) => {
                self.check_kind(&manifest.api_version, &manifest.kind, &manifest.name)?;
                let rule =
                    self.check_names(&manifest.kind, &manifest.api_version, &manifest.namespace, &manifest.name)?;
                for namespace in further_namespaces(manifest)? {
                    // Whether that one is managed nobody here can tell: it is the object's own, or it is listed.
                    let further = self.check_namespace(&namespace)?;
                    if further == NamespaceRule::Managed && namespace != manifest.namespace {
                        return Err(not_allowed(&namespace));
                    }
                }
                Ok(rule)
            }
            Instruction::Delete(object) => {
                self.check_kind(&object.api_version, &object.kind, &object.name)?;
                self.check_names(&object.kind, &object.api_version, &object.namespace, &object.name)
            }
            Instruction::RotateCredentials => Ok(NamespaceRule::Managed),
        }
    }

    fn check_kind(&self, api_version: &str, kind: &str, name: &str) -> Result<(), Refusal> {
        let group = group_of(api_version);
        let asked = || GroupKind { group: group.to_owned(), kind: kind.to_owned() };
        let ours = OWN_NAMES.iter().any(|own| name == *own || name.starts_with(&format!("{own}-")));
        let never = match group {
            "admissionregistration.k8s.io" => true,
            "rbac.authorization.k8s.io" => ours,
            "" => kind == "Namespace" && name == OWN_NAMESPACE,
            _ => group == group_of(CLUSTER.0) && kind == CLUSTER.1,
        };
        if never {
            return Err(Refusal::Never(asked()));
        }
        if self.kinds.iter().any(|allowed| allowed.matches(api_version, kind)) {
            Ok(())
        } else {
            Err(Refusal::KindNotAllowed(asked()))
        }
    }

    /// A `Namespace` object is the namespace that it names.
    fn check_names(
        &self,
        kind: &str,
        api_version: &str,
        namespace: &str,
        name: &str,
    ) -> Result<NamespaceRule, Refusal> {
        if group_of(api_version).is_empty() && kind == "Namespace" {
            return self.check_namespace(name);
        }
        if namespace.is_empty() { Ok(NamespaceRule::Managed) } else { self.check_namespace(namespace) }
    }

    fn check_namespace(&self, namespace: &str) -> Result<NamespaceRule, Refusal> {
        if namespace != OWN_NAMESPACE {
            if self.namespaces.iter().any(|pattern| pattern.matches(namespace)) {
                return Ok(NamespaceRule::Listed);
            }
            if self.namespaces.is_empty() && !is_system(namespace) {
                return Ok(NamespaceRule::Managed);
            }
        }
        Err(not_allowed(namespace))
    }
}

fn not_allowed(namespace: &str) -> Refusal {
    Refusal::NamespaceNotAllowed(namespace.chars().take(63).collect())
}

fn is_system(namespace: &str) -> bool {
    SYSTEM_NAMESPACES.iter().any(|system| match system.strip_suffix('*') {
        Some(prefix) => namespace.starts_with(prefix),
        None => namespace == *system,
    })
}

/// `spec.release.namespace` and `spec.targetRef.namespace`: where an object reaches beyond its own.
fn further_namespaces(manifest: &Manifest<'_>) -> Result<Vec<String>, Refusal> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Spec<'a> {
        #[serde(borrow)]
        release: Option<&'a RawValue>,
        #[serde(borrow)]
        target_ref: Option<&'a RawValue>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Place {
        namespace: Option<String>,
    }
    // Only these two kinds have such members; a ConfigMap has no spec, and that of a Deployment has none.
    let ours = [APPLICATION_INSTANCE, OPERATION]
        .iter()
        .any(|(version, kind)| manifest.kind == *kind && group_of(&manifest.api_version) == group_of(version));
    if !ours {
        return Ok(Vec::new());
    }
    let spec: Spec<'_> = read_object(manifest.member("spec"), "spec")?;
    let release: Place = read_object(spec.release, "spec.release")?;
    let target: Place = read_object(spec.target_ref, "spec.targetRef")?;
    Ok([release.namespace, target.namespace].into_iter().flatten().filter(|namespace| !namespace.is_empty()).collect())
}

/// Reads an object that may be missing or `null`. serde would take a list for it, too.
fn read_object<'a, T: Deserialize<'a> + Default>(text: Option<&'a RawValue>, name: &'static str) -> Result<T, Refusal> {
    match text.map(RawValue::get) {
        None | Some("null") => Ok(T::default()),
        Some(text) if text.starts_with('{') => serde_json::from_str(text).map_err(|_| Refusal::Unreadable(name)),
        Some(_) => Err(Refusal::Unreadable(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::{NamespacePattern, NamespaceRule, Policy, Refusal};
    use crate::protocol::{GroupKind, Instruction, Job};

    fn policy(kinds: &[&str], namespaces: &[&str]) -> Policy {
        Policy::new(
            kinds.iter().map(|kind| GroupKind::parse(kind).unwrap()).collect(),
            namespaces.iter().map(|text| NamespacePattern::parse(text).unwrap()).collect(),
        )
    }

    fn check(policy: &Policy, kind: &str, payload: &str) -> Result<NamespaceRule, Refusal> {
        let text = format!(r#"{{"id":"a","kind":"{kind}","payload":{payload}}}"#);
        let job = Job::parse(&text).unwrap();
        let instruction = job.instruction().unwrap();
        policy.check(&instruction)
    }

    fn apply(
        policy: &Policy,
        version: &str,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<NamespaceRule, Refusal> {
        let payload = format!(
            r#"{{"apiVersion":"{version}","kind":"{kind}","metadata":{{"name":"{name}","namespace":"{namespace}"}}}}"#
        );
        let applied = check(policy, "apply", &payload);
        let payload =
            format!(r#"{{"apiVersion":"{version}","kind":"{kind}","name":"{name}","namespace":"{namespace}"}}"#);
        assert_eq!(check(policy, "delete", &payload), applied, "a delete is judged as an apply");
        applied
    }

    #[test]
    fn by_default_only_the_two_kinds_of_the_control_plane() {
        let policy = policy(&[], &[]);
        assert_eq!(
            apply(&policy, "apps.vworkspace.io/v1alpha1", "ApplicationInstance", "shop", "a"),
            Ok(NamespaceRule::Managed)
        );
        assert_eq!(apply(&policy, "ops.vworkspace.io/v1alpha1", "Operation", "shop", "a"), Ok(NamespaceRule::Managed));
        assert!(matches!(apply(&policy, "v1", "ConfigMap", "shop", "a"), Err(Refusal::KindNotAllowed(_))));
        assert!(matches!(
            apply(&policy, "evil.example/v1", "ApplicationInstance", "shop", "a"),
            Err(Refusal::KindNotAllowed(_))
        ));
        assert_eq!(policy.check(&Instruction::RotateCredentials), Ok(NamespaceRule::Managed));
    }

    #[test]
    fn more_kinds_by_name() {
        let policy = policy(&["/ConfigMap", "apps/Deployment"], &[]);
        assert!(apply(&policy, "v1", "ConfigMap", "shop", "a").is_ok());
        assert!(apply(&policy, "apps/v1", "Deployment", "shop", "a").is_ok());
        assert!(apply(&policy, "v1", "Secret", "shop", "a").is_err());
        assert!(apply(&policy, "apps/v1", "ConfigMap", "shop", "a").is_err());
    }

    #[test]
    fn no_setting_opens_what_would_change_the_agents_own_rights() {
        let policy = policy(
            &[
                "ops.vworkspace.io/Cluster",
                "admissionregistration.k8s.io/ValidatingAdmissionPolicy",
                "rbac.authorization.k8s.io/ClusterRole",
                "/Namespace",
                "/Secret",
            ],
            &["vworkspace-system", "shop", "vworkspace-*"],
        );
        let never = |version, kind, name| matches!(apply(&policy, version, kind, "", name), Err(Refusal::Never(_)));
        assert!(never("ops.vworkspace.io/v1alpha1", "Cluster", "a"));
        assert!(never("ops.vworkspace.io/v2", "Cluster", "a"));
        assert!(never("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", "a"));
        assert!(never("rbac.authorization.k8s.io/v1", "ClusterRole", "pullet"));
        assert!(never("rbac.authorization.k8s.io/v1", "ClusterRole", "vworkspace-agent-reader"));
        assert!(never("v1", "Namespace", "vworkspace-system"));
        assert!(apply(&policy, "rbac.authorization.k8s.io/v1", "ClusterRole", "", "shop").is_ok());
        assert!(matches!(
            apply(&policy, "v1", "Secret", "vworkspace-system", "vworkspace-agent-credentials"),
            Err(Refusal::NamespaceNotAllowed(_))
        ));
    }

    #[test]
    fn system_namespaces_are_open_by_their_full_name_only() {
        let kinds = ["/ConfigMap", "/Namespace"];
        let open =
            |namespaces: &[&str], namespace| apply(&policy(&kinds, namespaces), "v1", "ConfigMap", namespace, "a");
        for namespace in ["default", "kube-system", "kube-public", "flux-system", "cattle-fleet"] {
            assert!(open(&[], namespace).is_err(), "{namespace}");
            assert!(open(&["k*", "d*", "f*", "c*"], namespace).is_err(), "{namespace}");
            assert_eq!(open(&[namespace], namespace), Ok(NamespaceRule::Listed), "{namespace}");
        }
        assert!(open(&["vworkspace-system"], "vworkspace-system").is_err());
        assert!(matches!(
            apply(&policy(&kinds, &[]), "v1", "Namespace", "", "kube-system"),
            Err(Refusal::NamespaceNotAllowed(_))
        ));
    }

    #[test]
    fn a_list_of_namespaces_closes_all_others() {
        let open = |namespace| apply(&policy(&["/ConfigMap"], &["shop", "team-*"]), "v1", "ConfigMap", namespace, "a");
        assert_eq!(open("shop"), Ok(NamespaceRule::Listed));
        assert_eq!(open("team-a"), Ok(NamespaceRule::Listed));
        assert!(open("shop2").is_err());
        assert!(open("team").is_err());
    }

    #[test]
    fn the_namespace_of_a_release_and_of_a_target_count_too() {
        let policy = policy(&[], &[]);
        let instance = |spec: &str| {
            let object = format!(
                r#"{{"intent":"ensure-application-instance","applicationInstance":{{"metadata":{{"name":"a","namespace":"shop"}},"spec":{spec}}}}}"#
            );
            check(&policy, "intent", &object)
        };
        assert!(instance(r#"{"release":{"namespace":"shop"},"values":{"inline":{"a":[1]}}}"#).is_ok());
        assert_eq!(
            instance(r#"{"release":{"namespace":"production"}}"#),
            Err(Refusal::NamespaceNotAllowed("production".into())),
            "nobody can tell whether another namespace is managed"
        );
        assert!(instance(r#"{"release":null}"#).is_ok());
        assert!(instance("null").is_ok());
        assert_eq!(
            instance(r#"{"release":{"namespace":"kube-system"}}"#),
            Err(Refusal::NamespaceNotAllowed("kube-system".into()))
        );
        assert!(instance(r#"{"targetRef":{"namespace":"vworkspace-system"}}"#).is_err());
        assert_eq!(instance(r#"{"release":{"namespace":7}}"#), Err(Refusal::Unreadable("spec.release")));
        assert_eq!(instance(r#"{"targetRef":["default"]}"#), Err(Refusal::Unreadable("spec.targetRef")));
        assert_eq!(instance(r#"{"release":{},"release":{"namespace":"default"}}"#), Err(Refusal::Unreadable("spec")));
        assert_eq!(instance("[]"), Err(Refusal::Unreadable("spec")));
    }

    #[test]
    fn patterns_that_are_no_namespace_are_refused() {
        for text in ["", "*", "A", "a.b", "-a", "a-", "a*b", "a/b", &"x".repeat(64)] {
            assert!(NamespacePattern::parse(text).is_err(), "{text}");
        }
        assert_eq!(NamespacePattern::parse("team-*"), Ok(NamespacePattern::Prefix("team-".into())));
    }
}

//! What a job may do, whoever sent it (TRUST.md, Policy).
//!
//! Groups and kinds, namespaces, charts and types of operations by allow-lists; no secret material in the open; and a
//! list of what no setting opens: the agent's own namespace, rights, admission and `Cluster`.
//!
//! Several parties have a say: the configuration file, the `Cluster`, the server. Each of them gives [`Rules`], and a
//! [`Policy`] permits what all of its rules permit, so that none can widen what another one says.

mod admission;
mod chart;
mod inline;
mod namespace;
mod never;
mod operation;
mod refusal;
#[cfg(feature = "webhook")]
mod review;
mod spec;

pub use admission::OWN_ACCOUNT;
pub use chart::{ChartPattern, InvalidChart, SourcePattern};
pub use namespace::{InvalidPattern, NamespacePattern, NamespaceRule, Namespaces, OWN_NAMESPACE};
pub use operation::{ALLOWED_TYPES_ANNOTATION, OperationType, UnknownType, check_namespace_list};
pub use refusal::Refusal;
#[cfg(feature = "webhook")]
pub use review::{Denial, Review, Reviewed, Space};

use crate::limits;
use crate::protocol::{APPLICATION_INSTANCE, GroupKind, Instruction, Manifest, OPERATION, ObjectRef, group_of};

/// What one party lets jobs do. The default says nothing about anything: it permits all but what is never permitted,
/// and is good for narrowing another party's rules only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Kinds that jobs may touch; none = nothing is said about them.
    pub kinds: Option<Vec<GroupKind>>,
    /// Namespaces that jobs may use.
    pub namespaces: Namespaces,
    /// Charts that jobs may have installed; none = nothing is said about them.
    pub charts: Option<Vec<ChartPattern>>,
    /// Types of operations that jobs may request; none = nothing is said about them.
    pub operations: Option<Vec<OperationType>>,
    /// A `Secret` has to come encrypted.
    pub requires_encrypted_secrets: bool,
    /// A job has to be signed. This is for whoever verifies; it is kept here because each party may ask for it.
    pub requires_signatures: bool,
}

/// What jobs may do on this node: what all of these rules permit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rules>,
    /// Those that all rules permit.
    kinds: Vec<GroupKind>,
}

/// How a job came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// Its payload was encrypted.
    pub encrypted: bool,
}

impl Rules {
    /// Those of the node's owner: the default kinds and `kinds` beside them; with no `namespaces`, those that are
    /// managed by the control plane; no charts; all types of operations.
    #[must_use]
    pub fn of_owner(kinds: Vec<GroupKind>, namespaces: Vec<NamespacePattern>) -> Self {
        let mut all: Vec<GroupKind> = [APPLICATION_INSTANCE, OPERATION]
            .into_iter()
            .map(|(version, kind)| GroupKind { group: group_of(version).to_owned(), kind: kind.to_owned() })
            .collect();
        for kind in kinds {
            if !all.contains(&kind) {
                all.push(kind);
            }
        }
        let namespaces = if namespaces.is_empty() { Namespaces::Managed } else { Namespaces::Listed(namespaces) };
        Self { kinds: Some(all), namespaces, charts: Some(Vec::new()), ..Self::default() }
    }

    fn permits_kind(&self, api_version: &str, kind: &str) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.iter().any(|allowed| allowed.matches(api_version, kind)))
    }

    /// What an instance names is permitted, all of it: which of the two is installed where both are named is not ours
    /// to guess.
    fn check_charts(&self, instance: &spec::Instance<'_>) -> Result<(), Refusal> {
        let Some(allowed) = self.charts.as_ref().filter(|_| !instance.is_placeholder) else { return Ok(()) };
        if let Some(text) = &instance.chart {
            let chart = text.chart();
            if !allowed.iter().any(|pattern| pattern.allows_chart(&chart)) {
                return Err(chart
                    .describe()
                    .map_or(Refusal::ChartUnusable, |text| Refusal::ChartNotAllowed(head(&text))));
            }
        }
        match &instance.catalog_id {
            Some(id) if !allowed.iter().any(|pattern| pattern.allows_catalog(id)) => {
                Err(Refusal::ChartNotAllowed(format!("catalog:{}", head(id))))
            }
            _ => Ok(()),
        }
    }
}

impl From<Rules> for Policy {
    fn from(rules: Rules) -> Self {
        Self::of(vec![rules])
    }
}

impl Policy {
    /// As [`Rules::of_owner`].
    #[must_use]
    pub fn new(kinds: Vec<GroupKind>, namespaces: Vec<NamespacePattern>) -> Self {
        Rules::of_owner(kinds, namespaces).into()
    }

    fn of(rules: Vec<Rules>) -> Self {
        let lists = || rules.iter().filter_map(|rules| rules.kinds.as_ref());
        let mut kinds = lists().next().cloned().unwrap_or_default();
        kinds.retain(|kind| lists().all(|list| list.contains(kind)));
        Self { rules, kinds }
    }

    /// What both permit. The rules add up: when one party's change, start from the file's again.
    #[must_use]
    pub fn narrowed_by(&self, other: &Self) -> Self {
        let mut rules = self.rules.clone();
        rules.extend(other.rules.iter().filter(|more| !self.rules.contains(more)).cloned());
        Self::of(rules)
    }

    /// The kinds that jobs may touch, as far as anybody lists them.
    #[must_use]
    pub fn kinds(&self) -> &[GroupKind] {
        &self.kinds
    }

    /// Whether any party asks that jobs are signed. That none does weakens nothing that was asked elsewhere.
    #[must_use]
    pub fn requires_signatures(&self) -> bool {
        self.rules.iter().any(|rules| rules.requires_signatures)
    }

    /// Whether a job may do this. What only the target can tell of the namespace is the answer; what the namespace
    /// says of operations is judged by [`check_namespace_list`].
    ///
    /// # Errors
    /// The first clause that stops it.
    pub fn check(&self, instruction: &Instruction<'_>, provenance: Provenance) -> Result<NamespaceRule, Refusal> {
        match instruction {
            Instruction::Apply(manifest) => self.check_apply(manifest, provenance),
            Instruction::Delete(object) => self.check_object(object),
            Instruction::RotateCredentials => Ok(NamespaceRule::Managed),
        }
    }

    fn check_apply(&self, manifest: &Manifest<'_>, provenance: Provenance) -> Result<NamespaceRule, Refusal> {
        let rule = self.check_object(&manifest.reference())?;
        never::check_manifest(manifest)?;
        for namespace in spec::further_namespaces(manifest)? {
            // Whether that one is managed nobody here can tell: it is the object's own, or it is listed.
            let further = self.check_namespace(&namespace)?;
            if further == NamespaceRule::Managed && namespace != manifest.namespace {
                return Err(not_allowed(&namespace));
            }
        }
        if let Some(instance) = spec::Instance::read(manifest)? {
            self.rules.iter().try_for_each(|rules| rules.check_charts(&instance))?;
            instance.inline.map_or(Ok(()), inline::check)?;
        }
        if let Some(wanted) = operation::type_of(manifest)?
            && self.rules.iter().filter_map(|rules| rules.operations.as_ref()).any(|list| !list.contains(&wanted))
        {
            return Err(Refusal::OperationNotAllowed(wanted.name().to_owned()));
        }
        let requires_encryption = || self.rules.iter().any(|rules| rules.requires_encrypted_secrets);
        if spec::is(manifest, ("v1", "Secret")) && !provenance.encrypted && requires_encryption() {
            return Err(Refusal::EncryptionRequired);
        }
        Ok(rule)
    }

    fn check_object(&self, object: &ObjectRef) -> Result<NamespaceRule, Refusal> {
        let ObjectRef { api_version, kind, namespace, name, .. } = object;
        never::check(api_version, kind, name)?;
        if !self.rules.iter().all(|rules| rules.permits_kind(api_version, kind)) {
            let kind = GroupKind { group: group_of(api_version).to_owned(), kind: kind.clone() };
            return Err(Refusal::KindNotAllowed(kind));
        }
        // A `Namespace` object is the namespace that it names.
        if group_of(api_version).is_empty() && kind == "Namespace" {
            return self.check_namespace(name);
        }
        if namespace.is_empty() { Ok(NamespaceRule::Managed) } else { self.check_namespace(namespace) }
    }

    fn check_namespace(&self, namespace: &str) -> Result<NamespaceRule, Refusal> {
        let mut strictest = NamespaceRule::Listed;
        for rules in &self.rules {
            if rules.namespaces.rule(namespace).ok_or_else(|| not_allowed(namespace))? == NamespaceRule::Managed {
                strictest = NamespaceRule::Managed;
            }
        }
        Ok(strictest)
    }
}

fn not_allowed(namespace: &str) -> Refusal {
    Refusal::NamespaceNotAllowed(namespace.chars().take(63).collect())
}

/// As much of a name as a message needs.
fn head(text: &str) -> String {
    text.chars().take(limits::POLICY_NAME_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::{NamespacePattern, NamespaceRule, Policy, Provenance, Refusal};
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
        policy.check(&instruction, Provenance::default())
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
        let backup = r#"{"intent":"request-operation","operation":{"metadata":{"name":"a","namespace":"shop"},"spec":{"type":"Backup"}}}"#;
        assert_eq!(check(&policy, "intent", backup), Ok(NamespaceRule::Managed));
        assert!(matches!(apply(&policy, "v1", "ConfigMap", "shop", "a"), Err(Refusal::KindNotAllowed(_))));
        assert!(matches!(
            apply(&policy, "evil.example/v1", "ApplicationInstance", "shop", "a"),
            Err(Refusal::KindNotAllowed(_))
        ));
        assert_eq!(policy.check(&Instruction::RotateCredentials, Provenance::default()), Ok(NamespaceRule::Managed));
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
            Err(Refusal::Never(_))
        ));
        assert!(matches!(
            apply(&policy, "v1", "Secret", "vworkspace-system", "any"),
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
        assert_eq!(instance(r#"{"release":{"namespace":7}}"#), Err(Refusal::Unreadable("spec.release.namespace")));
        assert_eq!(instance(r#"{"targetRef":["default"]}"#), Err(Refusal::Unreadable("spec.targetRef")));
        assert_eq!(instance(r#"{"release":{},"release":{"namespace":"default"}}"#), Err(Refusal::Unreadable("spec")));
        assert_eq!(instance("[]"), Err(Refusal::Unreadable("spec")));
    }
}

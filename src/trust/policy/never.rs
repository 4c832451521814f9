//! What no setting opens: the agent's own rights and credentials, and what could stop it or speak for it.

use serde::Deserialize;

use super::namespace::OWN_NAMESPACE;
use super::operation::ALLOWED_TYPES_ANNOTATION;
use super::{Refusal, spec};
use crate::protocol::{CLUSTER, GroupKind, Manifest, group_of};

/// How our own objects are called: `pullet`, `vworkspace-agent-credentials`.
pub(super) const OWN_NAMES: [&str; 2] = ["pullet", "vworkspace-agent"];

/// Groups of the field end so; their definitions are not a job's to change.
const OWN_GROUPS: &str = ".vworkspace.io";

const RBAC: &str = "rbac.authorization.k8s.io";

/// Whether this object is the agent's own, wherever it lies.
pub(super) fn check(api_version: &str, kind: &str, name: &str) -> Result<(), Refusal> {
    let group = group_of(api_version);
    let is_own_name = || OWN_NAMES.iter().any(|own| is_own(name, own));
    let never = match group {
        "admissionregistration.k8s.io" => true,
        // Who deletes the definition of Cluster deletes each Cluster.
        "apiextensions.k8s.io" | "apiregistration.k8s.io" => name.ends_with(OWN_GROUPS),
        "coordination.k8s.io" | RBAC => is_own_name(),
        "" => match kind {
            "Namespace" => name == OWN_NAMESPACE,
            "ConfigMap" | "Secret" | "ServiceAccount" => is_own_name(),
            _ => false,
        },
        _ => group == group_of(CLUSTER.0) && kind == CLUSTER.1,
    };
    if never { Err(refusal(group, kind)) } else { Ok(()) }
}

/// What else an object may not say.
pub(super) fn check_manifest(manifest: &Manifest<'_>) -> Result<(), Refusal> {
    let group = group_of(&manifest.api_version);
    if group == RBAC && binds_us(manifest)? {
        return Err(refusal(group, &manifest.kind));
    }
    // A list that jobs could write would not bind them.
    if spec::is(manifest, ("v1", "Namespace")) && manifest.annotations.contains_key(ALLOWED_TYPES_ANNOTATION) {
        return Err(Refusal::MemberNotAllowed("metadata.annotations of ops.vworkspace.io/allowed-types"));
    }
    Ok(())
}

fn refusal(group: &str, kind: &str) -> Refusal {
    Refusal::Never(GroupKind { group: group.to_owned(), kind: kind.to_owned() })
}

/// `pullet` and `pullet-reader`, but not `pulleting`.
fn is_own(name: &str, own: &str) -> bool {
    name.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// A binding, whatever it is called, that would give the agent's account more than it has.
fn binds_us(manifest: &Manifest<'_>) -> Result<bool, Refusal> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Subject {
        kind: Option<String>,
        name: Option<String>,
        namespace: Option<String>,
    }
    let Some(subjects) = manifest.member("subjects") else { return Ok(false) };
    let subjects: Option<Vec<Subject>> =
        serde_json::from_str(subjects.get()).map_err(|_| Refusal::Unreadable("subjects"))?;
    Ok(subjects.into_iter().flatten().any(|subject| {
        let name = subject.name.as_deref().unwrap_or_default();
        let account = name.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':'));
        match subject.kind.as_deref() {
            Some("ServiceAccount") => subject.namespace.as_deref() == Some(OWN_NAMESPACE),
            Some("Group") => {
                matches!(name, "system:authenticated" | "system:serviceaccounts")
                    || name.strip_prefix("system:serviceaccounts:") == Some(OWN_NAMESPACE)
            }
            _ => {
                account.is_some_and(|(namespace, _)| namespace == OWN_NAMESPACE)
                    || OWN_NAMES.iter().any(|own| is_own(name, own))
            }
        }
    }))
}

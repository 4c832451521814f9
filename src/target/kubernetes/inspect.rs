//! Looks at a cluster for a person: its version, what the agent may do there, and whether what it needs is there.
//!
//! A call here blocks, on one line that is kept for all of them. Nothing is written.

use std::fmt;

use http::Method;
use zeroize::Zeroizing;

use super::api::{Fault, JSON, segment};
use super::cluster::Access;
use super::holder;
use super::own::{Own, OwnError};
use super::yaml::{self, Node, YamlError};
use crate::limits;
use crate::net::Line;
use crate::protocol::GroupKind;
use crate::target::holder::Holder;

/// Where the definitions of custom resources lie.
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/";

/// Where the rules for writers lie.
const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";

/// Who looks.
pub struct Inspector {
    own: Own,
    line: Line,
}

/// One verb on one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Right {
    /// Empty = everywhere, or for what lives in no namespace.
    pub namespace: String,
    /// `get`, …
    pub verb: String,
    /// Empty is the core group.
    pub group: String,
    /// In the plural, with its part: `clusters/status`.
    pub resource: String,
    /// Empty = all of them.
    pub name: String,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (mark, part) in
            [("", &self.verb), (" ", &self.resource), (".", &self.group), (" ", &self.name), (" in ", &self.namespace)]
        {
            if !part.is_empty() {
                f.write_str(mark)?;
                f.write_str(part)?;
            }
        }
        Ok(())
    }
}

/// How an object of a cluster compares with ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It is not there.
    Absent,
    /// It says something else.
    Other,
    /// It holds all that ours says.
    Same,
    /// It is there, and this account may not see what it says.
    Unseen,
}

/// Who acts on a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// This one; with whether its pod is there, which only a pod has.
    Named(Holder, Option<bool>),
    /// Nobody has begun to act.
    Nobody,
}

/// The rights that the roles of manifests of ours give.
///
/// # Errors
/// When they are no YAML.
pub fn rights_of(manifests: &str) -> Result<Vec<Right>, YamlError> {
    let mut rights = Vec::new();
    for document in manifests.split("\n---\n") {
        let role = yaml::read(document)?;
        if !matches!(role.text("kind"), Some("ClusterRole" | "Role")) {
            continue;
        }
        let namespace = role.member("metadata").and_then(|metadata| metadata.text("namespace")).unwrap_or_default();
        for rule in role.sequence("rules") {
            let names: Vec<&str> = rule.texts("resourceNames").collect();
            for group in rule.texts("apiGroups") {
                for resource in rule.texts("resources") {
                    for verb in rule.texts("verbs") {
                        for name in if names.is_empty() { &[""][..] } else { &names } {
                            let [namespace, verb, group, resource, name] =
                                [namespace, verb, group, resource, *name].map(str::to_owned);
                            rights.push(Right { namespace, verb, group, resource, name });
                        }
                    }
                }
            }
        }
    }
    Ok(rights)
}

/// The kinds that definitions define, with their names.
///
/// # Errors
/// When they are no YAML.
pub fn kinds_of(definitions: &str) -> Result<Vec<(GroupKind, &str)>, YamlError> {
    let mut kinds = Vec::new();
    for document in definitions.split("\n---\n") {
        let node = read(document)?;
        let spec = node.member("spec");
        let kind = spec.and_then(|spec| spec.member("names")?.text("kind"));
        if let (Some(group), Some(kind)) = (spec.and_then(|spec| spec.text("group")), kind) {
            kinds.push((GroupKind { group: group.to_owned(), kind: kind.to_owned() }, document));
        }
    }
    Ok(kinds)
}

fn read(text: &str) -> Result<Node, YamlError> {
    yaml::read_within(text, limits::doctor::DEFINITION_DEPTH, limits::doctor::DEFINITION_NODES)
}

impl Inspector {
    /// Connects to nothing yet.
    #[must_use]
    pub fn new(access: &Access) -> Self {
        let line = Line::new(access.credentials.current().profile);
        Self { own: Own::new(access), line }
    }

    /// The API server.
    #[must_use]
    pub fn server(&self) -> String {
        self.own.credentials.server().to_string()
    }

    /// What version it says it is: `v1.33.1+k3s1`.
    ///
    /// # Errors
    /// As [`OwnError`] lists them.
    pub fn version(&self) -> Result<String, OwnError> {
        let answer = self.get("/version", limits::API_ERROR_BYTES)?;
        let version = answer.text("gitVersion").ok_or(OwnError::Unusable("it does not say which version it is"))?;
        Ok(version.chars().filter(|c| !c.is_control()).take(64).collect())
    }

    /// Whether this account has a right (`SelfSubjectAccessReview`, which is kept nowhere).
    ///
    /// # Errors
    /// As [`OwnError`] lists them.
    pub fn may(&self, right: &Right) -> Result<bool, OwnError> {
        let (resource, part) = right.resource.split_once('/').unwrap_or((&right.resource, ""));
        // All of them are names of Kubernetes, which need no escapes.
        let review = [
            r#"{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"resourceAttributes":{"verb":""#,
            &right.verb,
            r#"","group":""#,
            &right.group,
            r#"","resource":""#,
            resource,
            r#"","subresource":""#,
            part,
            r#"","name":""#,
            &right.name,
            r#"","namespace":""#,
            &right.namespace,
            r#""}}}"#,
        ];
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let answer = self.call(&Method::POST, path, &review.concat(), limits::API_ERROR_BYTES)?;
        let status =
            answer.member("status").ok_or(OwnError::Unusable("it does not answer what this account may do"))?;
        Ok(status.text("allowed") == Some("true"))
    }

    /// How the definition of a custom resource compares with ours, which is one document of YAML. Where this account may
    /// not see it, whether its version is served.
    ///
    /// # Errors
    /// As [`OwnError`] lists them.
    pub fn definition(&self, wanted: &str, but: &[&str]) -> Result<Fit, OwnError> {
        let wanted = read(wanted).map_err(|_| UNREADABLE)?;
        let metadata = wanted.member("metadata").and_then(|metadata| metadata.text("name"));
        let spec = wanted.member("spec").ok_or(UNREADABLE)?;
        let found = self.get(&[DEFINITIONS, metadata.unwrap_or_default()].concat(), limits::doctor::DEFINITION_BYTES);
        match found {
            Err(OwnError::Absent) => return Ok(Fit::Absent),
            Err(OwnError::Forbidden(_)) => {}
            found => {
                let is_same = found?.member("spec").is_some_and(|found| spec.is_within(found, but));
                return Ok(if is_same { Fit::Same } else { Fit::Other });
            }
        }
        let group = spec.text("group").unwrap_or_default();
        let version = spec.sequence("versions").first().and_then(|version| version.text("name")).unwrap_or_default();
        let plural = spec.member("names").and_then(|names| names.text("plural")).unwrap_or_default();
        let is_served = self.serves(&["/apis/", group, "/", version].concat(), plural)?;
        Ok(if is_served { Fit::Unseen } else { Fit::Absent })
    }

    /// Whether this server knows admission policies.
    ///
    /// # Errors
    /// As [`OwnError`] lists them.
    pub fn knows_admission(&self) -> Result<bool, OwnError> {
        self.serves(ADMISSION, "validatingadmissionpolicies")
    }

    /// How the admission policies and bindings compare with ours: the worst of them.
    ///
    /// # Errors
    /// As [`OwnError`] lists them.
    pub fn admission(&self, wanted: &str) -> Result<Fit, OwnError> {
        let mut fit = Fit::Same;
        for document in wanted.split("\n---\n") {
            let wanted = read(document).map_err(|_| UNREADABLE)?;
            let name = wanted.member("metadata").and_then(|metadata| metadata.text("name")).unwrap_or_default();
            let collection = match wanted.text("kind") {
                Some("ValidatingAdmissionPolicy") => "/validatingadmissionpolicies/",
                Some("ValidatingAdmissionPolicyBinding") => "/validatingadmissionpolicybindings/",
                _ => continue,
            };
            match self.get(&[ADMISSION, collection, name].concat(), limits::doctor::DEFINITION_BYTES) {
                Err(OwnError::Absent) => return Ok(Fit::Absent),
                Err(OwnError::Forbidden(_)) => return Ok(Fit::Unseen),
                found => {
                    let found = found?;
                    let pair = wanted.member("spec").zip(found.member("spec"));
                    if !pair.is_some_and(|(wanted, found)| wanted.is_within(found, &[])) {
                        fit = Fit::Other;
                    }
                }
            }
        }
        Ok(fit)
    }

    /// Who acts on this cluster.
    ///
    /// # Errors
    /// As [`OwnError`] lists them; [`OwnError::Absent`] where there is no record.
    pub fn record(&self) -> Result<Record, OwnError> {
        let text = self.text(&Method::GET, &holder::path(), "", limits::HOLDER_BODY_BYTES as u64)?;
        let Some(holder) = holder::Record::read(&text)?.holder else { return Ok(Record::Nobody) };
        let Holder::Pod { namespace, name, uid } = &holder else { return Ok(Record::Named(holder, None)) };
        let place = segment(namespace).ok().zip(segment(name).ok());
        let Some((namespace, name)) = place else { return Ok(Record::Named(holder, Some(false))) };
        let path = ["/api/v1/namespaces/", &namespace, "/pods/", &name].concat();
        let lives = match self.get(&path, limits::API_BODY_BYTES) {
            Err(OwnError::Absent) => Some(false),
            Err(OwnError::Forbidden(_)) => None,
            found => {
                let found = found?;
                let is_same = found.member("metadata").and_then(|metadata| metadata.text("uid")) == Some(uid.as_str());
                let phase = found.member("status").and_then(|status| status.text("phase"));
                Some((uid.is_empty() || is_same) && !matches!(phase, Some("Failed" | "Succeeded")))
            }
        };
        Ok(Record::Named(holder, lives))
    }

    fn serves(&self, path: &str, resource: &str) -> Result<bool, OwnError> {
        match self.get(path, limits::doctor::DEFINITION_BYTES) {
            Err(OwnError::Absent) => Ok(false),
            found => Ok(found?.sequence("resources").iter().any(|served| served.text("name") == Some(resource))),
        }
    }

    fn get(&self, path: &str, limit: u64) -> Result<Node, OwnError> {
        self.call(&Method::GET, path, "", limit)
    }

    fn call(&self, method: &Method, path: &str, body: &str, limit: u64) -> Result<Node, OwnError> {
        let text = self.text(method, path, body, limit)?;
        std::str::from_utf8(&text)
            .ok()
            .and_then(|text| read(text).ok())
            .ok_or(OwnError::Unusable("its answer is no JSON"))
    }

    fn text(&self, method: &Method, path: &str, body: &str, limit: u64) -> Result<Zeroizing<Vec<u8>>, Fault> {
        self.own.call_on(Some(&self.line), method, path, JSON, body, limit)
    }
}

const UNREADABLE: OwnError = OwnError::Unusable("what this program carries cannot be read, which is a mistake of it");

#[cfg(test)]
mod tests {
    use super::{Right, kinds_of, rights_of};
    use std::fs;
    use std::path::Path;

    fn kept(file: &str) -> String {
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
    }

    #[test]
    fn every_right_of_our_roles_is_read() {
        let rights = rights_of(&[kept("k3s/rbac.yaml"), kept("k3s/cluster.yaml")].join("---\n")).unwrap();
        assert_eq!(rights.len(), 26, "as tests/it/rights.rs counts them: {rights:?}");
        let told: Vec<String> = rights.iter().map(ToString::to_string).collect();
        for right in [
            "patch applicationinstances.apps.vworkspace.io",
            "create namespaces",
            "watch configmaps vworkspace-agent-holder in vworkspace-system",
            "patch clusters/status.ops.vworkspace.io",
            "create events in default",
        ] {
            assert!(told.iter().any(|told| told == right), "{right}: {told:?}");
        }
        assert_eq!(rights_of("kind: Role\nrules: 7\n").unwrap(), Vec::<Right>::new());
        assert!(rights_of("kind: [").is_err());
    }

    #[test]
    fn our_definitions_are_read_to_their_deepest_level() {
        let text = kept("k3s/crds.yaml");
        let kinds: Vec<String> = kinds_of(&text).unwrap().iter().map(|(kind, _)| kind.to_string()).collect();
        assert_eq!(
            kinds,
            ["apps.vworkspace.io/ApplicationInstance", "ops.vworkspace.io/Cluster", "ops.vworkspace.io/Operation"]
        );
    }
}

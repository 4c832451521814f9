//! What somebody who may do everything does for the agent, once: its objects are made and removed, its account gets a token.
//!
//! The objects are documents of k3s/ and go to the API server as the YAML that they are.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::api::{Fault, JSON, segment};
use super::cluster::{Access, AccessError, read_bytes};
use super::decode::{Items, member, text_at};
use super::kubeconfig::Source;
use super::own::Own;
use crate::json;
use crate::limits;
use crate::secret::Secret;
use crate::trust::policy::OWN_NAMESPACE;

/// What is applied with a field manager of its own.
const MANAGER: &str = "fieldManager=pullet-setup";

/// Somebody with an administrator's rights.
pub struct Admin {
    own: Own,
    access: Access,
}

/// Why the API server did not do it.
#[derive(Debug)]
pub struct AdminError {
    /// There is no such object, or no such kind.
    pub is_absent: bool,
    text: String,
}

impl std::fmt::Display for AdminError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for AdminError {}

impl AdminError {
    fn unusable() -> Self {
        Self { is_absent: false, text: "the API server's answer is not what was asked for".to_owned() }
    }
}

impl From<Fault> for AdminError {
    fn from(fault: Fault) -> Self {
        let is_absent = matches!(&fault, Fault::Refused(refusal) if refusal.code == 404);
        Self { is_absent, text: fault.to_string() }
    }
}

/// One document of a manifest of ours, as far as its place goes. Ours are written in block style.
#[derive(Clone, Copy, Debug)]
pub struct Document<'a> {
    /// All of it.
    pub text: &'a str,
    /// Its kind.
    pub kind: &'a str,
    /// Its name.
    pub name: &'a str,
    version: &'a str,
    namespace: &'a str,
}

impl<'a> Document<'a> {
    /// Those of a text, in its order.
    pub fn all(text: &'a str) -> impl Iterator<Item = Self> {
        text.split("\n---\n").map(|text| {
            let member = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            // As deep as the first line of it: what is deeper is labels, and what is not as deep is over.
            let mut metadata = text.lines().skip_while(|line| *line != "metadata:").skip(1).peekable();
            let depth = metadata.peek().map_or(0, |line| line.len() - line.trim_start().len());
            let metadata: Vec<&str> = metadata.take_while(|line| line.starts_with(' ')).collect();
            let named = |name: &str| {
                let lines = metadata.iter().filter_map(|line| line.get(depth..)?.strip_prefix(name));
                lines.into_iter().next().unwrap_or_default()
            };
            Self {
                text,
                kind: member("kind: "),
                name: named("name: "),
                version: member("apiVersion: "),
                namespace: named("namespace: "),
            }
        })
    }

    /// What a person reads.
    #[must_use]
    pub fn describe(&self) -> String {
        let [namespace, slash] = if self.namespace.is_empty() { ["", ""] } else { [self.namespace, "/"] };
        [self.kind, " ", namespace, slash, self.name].concat()
    }

    /// Where objects of its kind are.
    fn collection(&self) -> String {
        let base = if self.version.contains('/') { "/apis/" } else { "/api/" };
        let plural = self.kind.to_ascii_lowercase();
        let (stem, end) = plural.strip_suffix('y').map_or((plural.as_str(), "s"), |stem| (stem, "ies"));
        let space = if self.namespace.is_empty() { "" } else { "/namespaces/" };
        [base, self.version, space, self.namespace, "/", stem, end].concat()
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> String {
        [&self.collection(), "/", self.name].concat()
    }
}

/// A token of the agent's account.
pub struct AccountToken {
    /// The bearer.
    pub token: Secret,
    /// When it ends, as the API server says it.
    pub ends: String,
}

impl Admin {
    /// Connects to nothing yet.
    #[must_use]
    pub fn new(access: Access) -> Self {
        Self { own: Own::new(&access), access }
    }

    /// Its own objects, with these rights.
    #[must_use]
    pub fn own(&self) -> &Own {
        &self.own
    }

    /// The URL of the API server.
    #[must_use]
    pub fn server(&self) -> String {
        self.access.credentials.server().to_string().trim_end_matches('/').to_owned()
    }

    /// The minor version of the API server; 0 where it is not told. Blocks.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn minor(&self) -> Result<u32, AdminError> {
        let answer = self.ask(&Method::GET, "/version", limits::API_ERROR_BYTES)?;
        let minor = text_at(&answer, &["minor"]);
        Ok(minor.trim_end_matches('+').parse().unwrap_or(0))
    }

    /// Whether there is such an object. Blocks.
    ///
    /// # Errors
    /// When there is no answer, or one that says neither.
    pub fn has(&self, path: &str) -> Result<bool, AdminError> {
        match self.own.call(&Method::GET, path, "", "", limits::API_BODY_BYTES) {
            Ok(_) => Ok(true),
            Err(fault) => Err(fault.into()),
        }
        .or_else(|error: AdminError| if error.is_absent { Ok(false) } else { Err(error) })
    }

    /// Makes what a document says, or changes what is there to that; whether it was made. Blocks.
    ///
    /// An API server that refuses to change a definition as a whole, because it does not know all of its rules, keeps the
    /// one that it has. A Secret is made empty, and left alone when it is there.
    ///
    /// # Errors
    /// When the API server does not take it.
    pub fn apply(&self, document: &Document<'_>) -> Result<bool, AdminError> {
        let (yaml, limit) = ("application/yaml", limits::API_BODY_BYTES);
        let path = [&document.collection(), "?", MANAGER].concat();
        match self.own.call(&Method::POST, &path, yaml, document.text, limit) {
            Ok(_) => return Ok(true),
            Err(Fault::Refused(refusal)) if refusal.code == 409 => {}
            Err(fault) => return Err(fault.into()),
        }
        if document.kind == "Secret" {
            return Ok(false);
        }
        let path = [&document.path(), "?force=true&", MANAGER].concat();
        match self.own.call(&Method::PATCH, &path, "application/apply-patch+yaml", document.text, limit) {
            Ok(_) => Ok(false),
            Err(Fault::Refused(refusal)) if document.kind == "CustomResourceDefinition" && refusal.code == 500 => {
                Ok(false)
            }
            Err(fault) => Err(fault.into()),
        }
    }

    /// Removes what lies at a path; false where there is nothing. Blocks.
    ///
    /// # Errors
    /// When the API server does not do it.
    pub fn remove(&self, path: &str) -> Result<bool, AdminError> {
        // Without a name it would be everything of a kind.
        if path.ends_with('/') || path.contains('?') {
            return Err(AdminError { is_absent: false, text: "no object has this path".to_owned() });
        }
        match self.own.call(
            &Method::DELETE,
            path,
            JSON,
            r#"{"propagationPolicy":"Background"}"#,
            limits::API_BODY_BYTES,
        ) {
            Ok(_) => Ok(true),
            Err(fault) => Err(fault.into()),
        }
        .or_else(|error: AdminError| if error.is_absent { Ok(false) } else { Err(error) })
    }

    /// The version in which the API server likes the kinds of a group, as `GROUP/VERSION`; none where it has no such group.
    /// Blocks.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn preferred(&self, group: &str) -> Result<Option<String>, AdminError> {
        match self.ask(&Method::GET, &["/apis/", group].concat(), limits::METADATA_BODY_BYTES) {
            Ok(answer) => Ok(Some(text_at(&answer, &["preferredVersion", "groupVersion"]).into_owned())),
            Err(error) if error.is_absent => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for JSON.
    fn ask(&self, method: &Method, path: &str, limit: u64) -> Result<Box<RawValue>, AdminError> {
        let text = self.own.call(method, path, "", "", limit)?;
        match json::read::<&RawValue>(&text) {
            Ok(answer) => Ok(answer.to_owned()),
            Err(_) => Err(AdminError::unusable()),
        }
    }

    /// The paths of the objects of a collection such as `/apis/GROUP/VERSION/PLURAL`, at most so many, and nothing where
    /// there is no such kind. Blocks.
    ///
    /// # Errors
    /// When there is no answer, or none that is a list.
    pub fn list(&self, collection: &str, query: &str, most: usize) -> Result<Vec<String>, AdminError> {
        let path = format!("{collection}?limit={most}{query}");
        let answer = match self.ask(&Method::GET, &path, limits::API_BODY_BYTES) {
            Err(error) if error.is_absent => return Ok(Vec::new()),
            answer => answer?,
        };
        let Some(items) = member(&answer, &["items"]) else { return Err(AdminError::unusable()) };
        let (base, plural) = collection.rsplit_once('/').unwrap_or_default();
        let place = |item: &RawValue| {
            let name = segment(&text_at(item, &["metadata", "name"])).ok()?;
            let namespace = segment(&text_at(item, &["metadata", "namespace"])).ok();
            let space = namespace.map(|namespace| ["/namespaces/", &namespace].concat()).unwrap_or_default();
            Some([base, &space, "/", plural, "/", &name].concat())
        };
        Ok(Items(items).first::<&RawValue>(most).into_iter().filter_map(place).collect())
    }

    /// A token for the agent's account. Blocks.
    ///
    /// # Errors
    /// When the API server gives none.
    pub fn account_token(&self) -> Result<AccountToken, AdminError> {
        let path = ["/api/v1/namespaces/", OWN_NAMESPACE, "/serviceaccounts/pullet/token"].concat();
        let request = format!(
            r#"{{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{{"expirationSeconds":{}}}}}"#,
            limits::ACCOUNT_TOKEN.as_secs()
        );
        let answer = self.own.call(&Method::POST, &path, JSON, &request, limits::METADATA_BODY_BYTES)?;
        let answer: &RawValue = json::read(&answer).map_err(|_| AdminError::unusable())?;
        let [token, ends] =
            ["token", "expirationTimestamp"].map(|name| text_at(answer, &["status", name]).into_owned());
        if token.is_empty() {
            return Err(AdminError::unusable());
        }
        Ok(AccountToken { token: Secret::new("account token", token), ends })
    }

    /// A kubeconfig for this API server with a token.
    ///
    /// # Errors
    /// When the file of its authority cannot be read.
    pub fn kubeconfig(&self, token: &Secret) -> Result<Zeroizing<String>, AccessError> {
        let authority = match self.access.credentials.authority() {
            Some(Source::Data(data)) => STANDARD.encode(data.as_slice()),
            Some(Source::File(path)) => STANDARD.encode(read_bytes(path, limits::CA_FILE_BYTES)?.as_slice()),
            None => String::new(),
        };
        let mut text = Zeroizing::new(String::with_capacity(2 * limits::BEARER_MAX));
        for part in [
            "# Who the agent is in the cluster: its own account, with the rights of pullet rbac. Made by pullet setup.\n\
             apiVersion: v1\nkind: Config\ncurrent-context: pullet\nclusters:\n- name: pullet\n  cluster:\n    server: ",
            &self.server(),
            if authority.is_empty() { "" } else { "\n    certificate-authority-data: " },
            &authority,
            "\ncontexts:\n- name: pullet\n  context: {cluster: pullet, user: pullet}\nusers:\n- name: pullet\n  user:\n    token: ",
            token.expose(),
            "\n",
        ] {
            text.push_str(part);
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::Document;

    #[test]
    fn a_name_is_that_of_the_metadata_and_of_nothing_deeper_or_behind() {
        let of = |text: &'static str| Document::all(text).next().unwrap();
        let labels = of("kind: A\nmetadata:\n labels:\n   name: x\n name: a\n namespace: b\nspec:\n name: y\n");
        assert_eq!((labels.name, labels.describe().as_str()), ("a", "A b/a"));
        let none = of("apiVersion: v1\nkind: A\nmetadata:\n  labels: {}\nspec:\n  name: y\n  namespace: z\n");
        assert_eq!((none.name, none.path().as_str()), ("", "/api/v1/as/"));
    }

    #[test]
    fn each_document_of_k3s_says_where_it_belongs() {
        let text = [
            include_str!("../../../k3s/crds.yaml"),
            include_str!("../../../k3s/rbac.yaml"),
            include_str!("../../../k3s/cluster.yaml"),
            include_str!("../../../k3s/admission.yaml"),
            include_str!("../../../k3s/settings.yaml"),
            include_str!("../../../k3s/agent.yaml"),
            include_str!("../../../k3s/this-cluster.yaml"),
        ]
        .join("\n---\n");
        let paths: Vec<String> = Document::all(&text).map(|document| document.path()).collect();
        for path in [
            "/api/v1/namespaces/vworkspace-system",
            "/api/v1/namespaces/vworkspace-system/secrets/vworkspace-agent-credentials",
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/pullet-applications",
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/pullet-applications",
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/clusters.ops.vworkspace.io",
            "/apis/apps/v1/namespaces/vworkspace-system/deployments/pullet",
            "/apis/networking.k8s.io/v1/namespaces/vworkspace-system/networkpolicies/pullet",
            "/apis/ops.vworkspace.io/v1alpha1/clusters/this-cluster",
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/pullet-cluster",
            "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles/pullet-events",
        ] {
            assert_eq!(paths.iter().filter(|known| *known == path).count(), 1, "{path} in {paths:?}");
        }
        assert!(Document::all(&text).all(|document| {
            let all = [document.kind, document.name, document.version];
            all.iter().all(|part| !part.is_empty() && !part.contains(' '))
        }));
    }
}

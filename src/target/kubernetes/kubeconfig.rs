//! A kubeconfig, read into what a connection needs.
//!
//! Not through `kube::Config`: its kubeconfig types come with a YAML deserializer and with the plug-ins
//! (exec, auth-provider) that are refused here, and its TLS and proxy settings are for a stack that is
//! not ours.

use std::path::{Path, PathBuf};

use k8s_openapi::ByteString;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};
use zeroize::Zeroizing;

use super::cluster::AccessError;
use super::yaml::{self, Node};
use crate::secret::Secret;

/// What one context of a kubeconfig says.
#[derive(Debug)]
pub(super) struct Chosen {
    /// URL of the API server.
    pub(super) server: String,
    /// Whom to trust; without one the system's authorities.
    pub(super) authority: Option<Source>,
    /// Client certificate and key.
    pub(super) identity: Option<(Source, Source)>,
    /// Bearer.
    pub(super) bearer: Option<BearerSource>,
    /// `proxy-url`.
    pub(super) proxy: Option<String>,
}

/// PEM, where it lies.
pub(super) enum Source {
    /// In the kubeconfig itself.
    Data(Zeroizing<Vec<u8>>),
    /// In a file that may change.
    File(PathBuf),
}

/// A bearer, where it lies.
#[derive(Debug)]
pub(super) enum BearerSource {
    /// In a file that may change.
    File(PathBuf),
    /// In the kubeconfig itself.
    Fixed(Secret),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Data(_) => f.write_str("Data"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// Reads the text of the kubeconfig `path` and takes `context`, or its current context, out of it.
pub(super) fn choose(text: &str, path: &Path, context: Option<&str>) -> Result<Chosen, AccessError> {
    let file =
        Kubeconfig { root: yaml::read(text).map_err(|error| AccessError::NotYaml(path.to_owned(), error))?, path };
    let context = match context.or_else(|| file.root.text("current-context")) {
        Some(name) => file.named("contexts", "context", name, |known| AccessError::UnknownContext {
            path: path.to_owned(),
            name: name.to_owned(),
            known,
        })?,
        None => return Err(AccessError::NoContext(path.to_owned())),
    };
    let cluster = file.referred("cluster", "clusters", context)?;
    let user = match context.text("user") {
        Some(_) => Some(file.referred("user", "users", context)?),
        None => None,
    };
    Ok(Chosen {
        server: cluster.text("server").ok_or_else(|| file.missing("cluster.server"))?.to_owned(),
        authority: file.authority(cluster)?,
        identity: user.map(|user| file.identity(user)).transpose()?.flatten(),
        bearer: user.and_then(|user| file.bearer(user)),
        proxy: cluster.text("proxy-url").map(str::to_owned),
    })
}

struct Kubeconfig<'a> {
    root: Node,
    path: &'a Path,
}

impl Kubeconfig<'_> {
    /// The entry `name` of a list of `{name, <inner>: …}`.
    fn named(
        &self,
        list: &str,
        inner: &'static str,
        name: &str,
        unknown: impl FnOnce(Vec<String>) -> AccessError,
    ) -> Result<&Node, AccessError> {
        let entries = self.root.sequence(list);
        let Some(entry) = entries.iter().find(|entry| entry.text("name") == Some(name)) else {
            return Err(unknown(entries.iter().filter_map(|entry| entry.text("name")).map(str::to_owned).collect()));
        };
        entry.member(inner).ok_or_else(|| self.missing(inner))
    }

    /// The cluster or user that a context names.
    fn referred(&self, inner: &'static str, list: &'static str, context: &Node) -> Result<&Node, AccessError> {
        let name = context.text(inner).ok_or_else(|| self.missing(inner))?;
        self.named(list, inner, name, |_| AccessError::Dangling {
            path: self.path.to_owned(),
            list,
            name: name.to_owned(),
        })
    }

    fn authority(&self, cluster: &Node) -> Result<Option<Source>, AccessError> {
        if cluster.text("insecure-skip-tls-verify") == Some("true") {
            return Err(self.refused(
                "insecure-skip-tls-verify",
                "put the API server's CA into certificate-authority-data instead",
            ));
        }
        if cluster.member("tls-server-name").is_some() {
            return Err(self.refused(
                "tls-server-name",
                "write the name that the certificate holds into `server`, and its address into /etc/hosts",
            ));
        }
        self.source(cluster, "certificate-authority", "certificate-authority-data")
    }

    fn identity(&self, user: &Node) -> Result<Option<(Source, Source)>, AccessError> {
        const TOKEN_INSTEAD: &str =
            "make a service account for the agent and put its token into `token` or `tokenFile`";
        for (member, instead) in [
            ("exec", TOKEN_INSTEAD),
            ("auth-provider", TOKEN_INSTEAD),
            ("username", TOKEN_INSTEAD),
            ("password", TOKEN_INSTEAD),
            ("as", "grant the agent's own account what it needs"),
        ] {
            if user.member(member).is_some() {
                return Err(self.refused(member, instead));
            }
        }
        let chain = self.source(user, "client-certificate", "client-certificate-data")?;
        let key = self.source(user, "client-key", "client-key-data")?;
        match (chain, key) {
            (Some(chain), Some(key)) => Ok(Some((chain, key))),
            (None, None) => Ok(None),
            (Some(_), None) => Err(self.missing("user.client-key")),
            (None, Some(_)) => Err(self.missing("user.client-certificate")),
        }
    }

    /// As kubectl has it, a token file wins over a token.
    fn bearer(&self, user: &Node) -> Option<BearerSource> {
        match (user.text("tokenFile"), user.text("token")) {
            (Some(file), _) => Some(BearerSource::File(self.relative(file))),
            (None, Some(token)) => Some(BearerSource::Fixed(Secret::new("kubeconfig token", token.trim().to_owned()))),
            (None, None) => None,
        }
    }

    /// As kubectl has it, data wins over a file.
    fn source(&self, node: &Node, file: &'static str, data: &'static str) -> Result<Option<Source>, AccessError> {
        if let Some(text) = node.text(data) {
            let bytes = base64(text).ok_or_else(|| AccessError::NotBase64(self.path.to_owned(), data))?;
            return Ok(Some(Source::Data(bytes)));
        }
        Ok(node.text(file).map(|file| Source::File(self.relative(file))))
    }

    /// Relative paths are relative to the kubeconfig.
    fn relative(&self, file: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(file)
    }

    fn missing(&self, member: &'static str) -> AccessError {
        AccessError::Missing(self.path.to_owned(), member)
    }

    fn refused(&self, member: &'static str, instead: &'static str) -> AccessError {
        AccessError::Refused { path: self.path.to_owned(), member, instead }
    }
}

fn base64(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let packed: Zeroizing<String> = Zeroizing::new(text.split_ascii_whitespace().collect());
    let deserializer: StrDeserializer<'_, ValueError> = packed.as_str().into_deserializer();
    ByteString::deserialize(deserializer).ok().map(|bytes| Zeroizing::new(bytes.0))
}

#[cfg(test)]
mod tests {
    use super::{AccessError, BearerSource, Chosen, Source, choose};
    use std::path::{Path, PathBuf};

    const FILE: &str = r#"
apiVersion: v1
kind: Config
current-context: one
clusters:
- name: c1
  cluster:
    server: https://one.example:6443
    certificate-authority: pki/ca.pem
    proxy-url: http://proxy.example:3128
- name: c2
  cluster: {server: "https://two.example", certificate-authority-data: "aGFs\nbG8="}
contexts:
- name: one
  context: {cluster: c1, user: u1, namespace: x}
- name: two
  context: {cluster: c2, user: u2}
- name: bare
  context: {cluster: c2}
- name: dangling
  context: {cluster: c9, user: u1}
users:
- name: u1
  user: {tokenFile: token, token: ignored}
- name: u2
  user:
    client-certificate: /abs/cert.pem
    client-key-data: a2V5
    token: " geheim "
"#;

    fn chosen(context: Option<&str>) -> Result<Chosen, AccessError> {
        choose(FILE, Path::new("/home/a/.kube/config"), context)
    }

    fn refusal(user: &str, cluster: &str) -> AccessError {
        let text = format!(
            "current-context: x\ncontexts:\n- {{name: x, context: {{cluster: c, user: u}}}}\nclusters:\n- name: c\n  \
             cluster: {{server: 'https://a', {cluster}}}\nusers:\n- name: u\n  user: {{{user}}}\n"
        );
        choose(&text, Path::new("config"), None).unwrap_err()
    }

    #[test]
    fn the_current_context_is_taken_and_paths_are_relative_to_the_file() {
        let chosen = chosen(None).unwrap();
        assert_eq!(chosen.server, "https://one.example:6443");
        assert!(matches!(chosen.authority, Some(Source::File(path)) if path == Path::new("/home/a/.kube/pki/ca.pem")));
        assert!(
            matches!(chosen.bearer, Some(BearerSource::File(path)) if path == Path::new("/home/a/.kube/token")),
            "a token file wins over a token"
        );
        assert_eq!(chosen.proxy.as_deref(), Some("http://proxy.example:3128"));
    }

    #[test]
    fn a_named_context_is_taken_with_its_data() {
        let chosen = chosen(Some("two")).unwrap();
        assert!(matches!(chosen.authority, Some(Source::Data(data)) if data.as_slice() == b"hallo"));
        let Some((Source::File(chain), Source::Data(key))) = chosen.identity else { panic!("no identity") };
        assert_eq!((chain, key.as_slice()), (PathBuf::from("/abs/cert.pem"), b"key".as_slice()));
        assert!(matches!(chosen.bearer, Some(BearerSource::Fixed(token)) if token.expose() == "geheim"));
    }

    #[test]
    fn a_context_without_a_user_is_anonymous() {
        let chosen = chosen(Some("bare")).unwrap();
        assert!(chosen.bearer.is_none() && chosen.identity.is_none());
    }

    #[test]
    fn an_unknown_context_is_answered_with_the_known_ones() {
        let error = chosen(Some("three")).unwrap_err();
        assert!(
            matches!(&error, AccessError::UnknownContext { known, .. } if known == &["one", "two", "bare", "dangling"])
        );
        assert!(error.to_string().contains("one, two, bare, dangling"), "{error}");
    }

    #[test]
    fn a_context_of_a_cluster_that_is_not_there_says_so() {
        assert!(
            matches!(chosen(Some("dangling")), Err(AccessError::Dangling { list: "clusters", name, .. }) if name == "c9")
        );
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        for (user, cluster, expected) in [
            ("exec: {command: aws}", "", "exec"),
            ("auth-provider: {name: oidc}", "", "auth-provider"),
            ("username: a, password: b", "", "username"),
            ("as: root", "", "as"),
            ("token: t", "insecure-skip-tls-verify: true", "insecure-skip-tls-verify"),
            ("token: t", "tls-server-name: b", "tls-server-name"),
        ] {
            let error = refusal(user, cluster);
            assert!(matches!(error, AccessError::Refused { member, .. } if member == expected), "{error:?}");
        }
        assert!(matches!(refusal("client-key-data: a2V5", ""), AccessError::Missing(_, "user.client-certificate")));
        assert!(matches!(refusal("client-key-data: '*'", ""), AccessError::NotBase64(_, "client-key-data")));
    }

    #[test]
    fn a_file_without_a_context_says_so() {
        assert!(matches!(choose("a: b", Path::new("c"), None), Err(AccessError::NoContext(_))));
        assert!(matches!(choose("a: [", Path::new("c"), None), Err(AccessError::NotYaml(..))));
    }
}

//! Which cluster: where the configuration lies and what it says.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::Uri;
use zeroize::Zeroizing;

use super::credentials::{Credentials, Material};
use super::kubeconfig::{self, BearerSource, Source};
use super::yaml::YamlError;
use crate::limits;
use crate::net::connector::is_loopback;
use crate::net::proxy::InvalidProxy;
use crate::net::tls::TlsFileError;
use crate::net::{PlainHttp, ProxySetting};

/// Where a service account's token and CA are mounted.
const SERVICE_ACCOUNT: &str = "var/run/secrets/kubernetes.io/serviceaccount";

/// A kubeconfig that systemd provides to the unit, in the directory of this variable.
const PROVIDED: (&str, &str) = ("CREDENTIALS_DIRECTORY", "pullet.kubeconfig");

/// The kubeconfig that k3s writes for root.
const K3S: &str = "etc/rancher/k3s/k3s.yaml";

/// What the user said about the cluster.
#[derive(Clone, Debug)]
pub struct Wish {
    /// `--kubeconfig`.
    pub kubeconfig: Option<PathBuf>,
    /// `--context`.
    pub context: Option<String>,
    /// Whether root started us in the foreground: only then is k3s's own kubeconfig found by itself.
    pub foreground_root: bool,
    /// Whether the API server may be `http://` on this machine.
    pub plain_http: PlainHttp,
}

/// What the machine says about the cluster.
pub struct Surroundings<'a> {
    /// Environment variables.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// `/`, but for tests.
    pub root: PathBuf,
}

/// Where the configuration was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// The agent runs in a pod of the cluster.
    InCluster,
    /// k3s's own kubeconfig, which is cluster-admin.
    K3s(PathBuf),
    /// A kubeconfig.
    Kubeconfig(PathBuf),
}

/// How a Kubernetes API server is reached.
#[derive(Clone, Debug)]
pub struct Access {
    pub(super) credentials: Arc<Credentials>,
}

/// Why a Kubernetes API server cannot be used.
#[derive(Debug)]
pub enum AccessError {
    /// The bearer is empty, longer than a header, or holds what no header may.
    BadBearer(PathBuf),
    /// The server's URL cannot be used.
    BadServer(String),
    /// The cluster id cannot be the value of a label.
    ClusterIdNotALabel(String),
    /// A context names a cluster or a user that the file does not have.
    Dangling {
        /// The kubeconfig.
        path: PathBuf,
        /// `clusters` or `users`.
        list: &'static str,
        /// The name.
        name: String,
    },
    /// A file is not there or cannot be read.
    File(PathBuf, io::Error),
    /// The file lacks this.
    Missing(PathBuf, &'static str),
    /// Neither `--context` nor `current-context` names a context.
    NoContext(PathBuf),
    /// The member is no base64.
    NotBase64(PathBuf, &'static str),
    /// There is no cluster where one is looked for; these places were tried.
    NotFound(Vec<String>),
    /// The file is no YAML that we read.
    NotYaml(PathBuf, YamlError),
    /// `http://` where only `https://` is allowed.
    PlainHttp(String),
    /// `proxy-url` cannot be used.
    Proxy(InvalidProxy),
    /// A member that we do not honour, and what to use instead.
    Refused {
        /// The kubeconfig.
        path: PathBuf,
        /// The member.
        member: &'static str,
        /// What to do.
        instead: &'static str,
    },
    /// `KUBECONFIG` names several files.
    SeveralFiles(String),
    /// A certificate or a key cannot be used.
    Tls(TlsFileError),
    /// The file is longer than this.
    TooLong(PathBuf, u64),
    /// The file has no such context.
    UnknownContext {
        /// The kubeconfig.
        path: PathBuf,
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadBearer(path) => {
                write!(f, "the token of {} is empty, too long, or no token: write it anew", path.display())
            }
            Self::BadServer(server) => {
                write!(f, "{server} is no URL of an API server: write https://host:6443 into `server`")
            }
            Self::ClusterIdNotALabel(id) => write!(
                f,
                "the cluster id {id:?} cannot be a label: it takes 1 to 63 letters, digits, '-', '_' or '.', with a \
                 letter or digit at both ends"
            ),
            Self::Dangling { path, list, name } => {
                write!(f, "{}: the context names {name}, which is not in `{list}`", path.display())
            }
            Self::File(path, _) => write!(f, "{} cannot be read", path.display()),
            Self::Missing(path, member) => write!(f, "{} lacks {member}", path.display()),
            Self::NoContext(path) => {
                write!(f, "{} has no current-context: choose one with --context", path.display())
            }
            Self::NotBase64(path, member) => write!(f, "{}: {member} is not base64", path.display()),
            Self::NotFound(places) => write!(
                f,
                "no Kubernetes cluster was found (looked at: {}): give --kubeconfig FILE, or run without an API with \
                 --target directory",
                places.join("; ")
            ),
            Self::NotYaml(path, error) => write!(f, "{} is no kubeconfig: {error}", path.display()),
            Self::PlainHttp(server) => {
                write!(f, "{server}: plain http is refused but to this machine and with --allow-plain-http-loopback")
            }
            Self::Proxy(error) => write!(f, "proxy-url: {error}"),
            Self::Refused { path, member, instead } => {
                write!(f, "{}: {member} is not supported: {instead}", path.display())
            }
            Self::SeveralFiles(value) => {
                write!(f, "KUBECONFIG names several files ({value}): name one, or give --kubeconfig FILE")
            }
            Self::Tls(error) => error.fmt(f),
            Self::TooLong(path, limit) => write!(f, "{} is longer than {limit} bytes", path.display()),
            Self::UnknownContext { path, name, known } => {
                write!(f, "{} has no context {name}; it has: {}", path.display(), known.join(", "))
            }
        }
    }
}

impl std::error::Error for AccessError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File(_, source) => Some(source),
            Self::Tls(error) => error.source(),
            _ => None,
        }
    }
}

impl From<TlsFileError> for AccessError {
    fn from(error: TlsFileError) -> Self {
        Self::Tls(error)
    }
}

impl Access {
    /// Finds the cluster and reads what is needed to talk to it. Connects to nothing.
    ///
    /// # Errors
    /// As [`AccessError`] lists them.
    pub fn find(wish: &Wish, surroundings: &Surroundings<'_>) -> Result<Self, AccessError> {
        let location = locate(wish, surroundings)?;
        let material = match &location {
            Location::InCluster => in_cluster(surroundings)?,
            Location::Kubeconfig(path) => from_kubeconfig(path, wish)?,
            Location::K3s(path) => {
                tracing::warn!(
                    kubeconfig = %path.display(),
                    "using k3s's own kubeconfig, which may do anything in this cluster: fine for a first try; for \
                     good, make a service account and give its kubeconfig with --kubeconfig"
                );
                from_kubeconfig(path, wish)?
            }
        };
        Ok(Self { credentials: Arc::new(Credentials::open(material)?) })
    }
}

/// Prefers what was said to what is found, and what is narrow to what may do anything.
///
/// # Errors
/// When nothing is found, or `KUBECONFIG` names several files.
pub fn locate(wish: &Wish, surroundings: &Surroundings<'_>) -> Result<Location, AccessError> {
    let variable = |name: &str| (surroundings.variable)(name).filter(|value| !value.is_empty());
    if let Some(path) = &wish.kubeconfig {
        return Ok(Location::Kubeconfig(path.clone()));
    }
    if let Some(value) = variable("KUBECONFIG") {
        let mut paths = value.split(':').filter(|path| !path.is_empty());
        return match (paths.next(), paths.next()) {
            (Some(path), None) => Ok(Location::Kubeconfig(PathBuf::from(path))),
            _ => Err(AccessError::SeveralFiles(value)),
        };
    }
    let mut tried = vec!["KUBECONFIG (not set)".to_owned()];
    if let Some(directory) = variable(PROVIDED.0) {
        let path = surroundings.root.join(directory.trim_start_matches('/')).join(PROVIDED.1);
        // The unit gives an end of line where there is no file.
        if path.metadata().is_ok_and(|metadata| metadata.len() > 1) {
            return Ok(Location::Kubeconfig(path));
        }
        tried.push(format!("{} (from /etc/pullet/credentials)", path.display()));
    }
    let token = surroundings.root.join(SERVICE_ACCOUNT).join("token");
    // A context is one of a kubeconfig: who names one does not mean the pod's own account.
    if wish.context.is_none() && variable("KUBERNETES_SERVICE_HOST").is_some() && token.exists() {
        return Ok(Location::InCluster);
    }
    tried.push(format!("a service account ({})", token.display()));
    if let Some(home) = variable("HOME") {
        let path = surroundings.root.join(home.trim_start_matches('/')).join(".kube/config");
        if path.exists() {
            return Ok(Location::Kubeconfig(path));
        }
        tried.push(path.display().to_string());
    }
    let k3s = surroundings.root.join(K3S);
    if wish.foreground_root {
        if k3s.exists() {
            return Ok(Location::K3s(k3s));
        }
        tried.push(k3s.display().to_string());
    } else {
        tried.push(format!("{} (only when root runs the agent in the foreground)", k3s.display()));
    }
    Err(AccessError::NotFound(tried))
}

fn in_cluster(surroundings: &Surroundings<'_>) -> Result<Material, AccessError> {
    let directory = surroundings.root.join(SERVICE_ACCOUNT);
    let host = (surroundings.variable)("KUBERNETES_SERVICE_HOST").unwrap_or_default();
    let port = (surroundings.variable)("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".to_owned());
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    Ok(Material {
        server: parse_server(&format!("https://{host}:{port}"), PlainHttp::Refused)?,
        plain_http: PlainHttp::Refused,
        proxy: ProxySetting::Direct,
        authority: Some(Source::File(directory.join("ca.crt"))),
        identity: None,
        bearer: Some(BearerSource::File(directory.join("token"))),
        origin: directory,
    })
}

fn from_kubeconfig(path: &Path, wish: &Wish) -> Result<Material, AccessError> {
    let text = read_text(path, limits::KUBECONFIG_BYTES)?;
    let chosen = kubeconfig::choose(&text, path, wish.context.as_deref())?;
    Ok(Material {
        server: parse_server(&chosen.server, wish.plain_http)?,
        plain_http: wish.plain_http,
        // The proxy of the environment is the way to the control plane; the API server is a neighbour.
        proxy: match chosen.proxy {
            Some(url) => ProxySetting::parse(&url, None).map_err(AccessError::Proxy)?,
            None => ProxySetting::Direct,
        },
        authority: chosen.authority,
        identity: chosen.identity,
        bearer: chosen.bearer,
        origin: path.to_owned(),
    })
}

/// Reads a file that may hold a secret, no further than its limit.
pub(super) fn read_text(path: &Path, limit: u64) -> Result<Zeroizing<String>, AccessError> {
    let bytes = read_bytes(path, limit)?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| AccessError::File(path.to_owned(), io::ErrorKind::InvalidData.into()))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Reads a file that may hold a secret, no further than its limit.
pub(super) fn read_bytes(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, AccessError> {
    let unreadable = |error| AccessError::File(path.to_owned(), error);
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(limit + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > limit {
        return Err(AccessError::TooLong(path.to_owned(), limit));
    }
    Ok(bytes)
}

fn parse_server(text: &str, plain_http: PlainHttp) -> Result<Uri, AccessError> {
    let bad = || AccessError::BadServer(text.to_owned());
    // kubectl takes a bare host for http; nothing that is sent to it may be plain.
    let uri: Uri = text.trim_end_matches('/').parse().map_err(|_| bad())?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(bad)?;
    if uri.query().is_some() || uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(bad());
    }
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if plain_http == PlainHttp::Loopback && is_loopback(host) => Ok(uri),
        Some("http") => Err(AccessError::PlainHttp(text.to_owned())),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::{AccessError, K3S, Location, SERVICE_ACCOUNT, Surroundings, Wish, locate, parse_server};
    use crate::net::PlainHttp;
    use std::path::{Path, PathBuf};

    fn wish() -> Wish {
        Wish { kubeconfig: None, context: None, foreground_root: false, plain_http: PlainHttp::Refused }
    }

    fn touch(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }

    #[test]
    fn what_was_said_wins_over_what_is_found_and_k3s_comes_last() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let find = |wish: &Wish, variables: &[(&str, &str)]| {
            let variable =
                |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
            locate(wish, &Surroundings { variable: &variable, root: root.to_owned() })
        };
        let pod = [("KUBERNETES_SERVICE_HOST", "10.43.0.1"), ("HOME", "/home/a")];
        let root_user = Wish { foreground_root: true, ..wish() };

        let Err(AccessError::NotFound(tried)) = find(&wish(), &pod) else { panic!("found something") };
        assert_eq!(tried.len(), 4);
        touch(&root.join(K3S));
        assert!(find(&wish(), &pod).is_err(), "k3s's own file is not for everybody");
        assert_eq!(find(&root_user, &pod).unwrap(), Location::K3s(root.join(K3S)));
        let home = root.join("home/a/.kube/config");
        touch(&home);
        assert_eq!(find(&root_user, &pod).unwrap(), Location::Kubeconfig(home.clone()));
        touch(&root.join(SERVICE_ACCOUNT).join("token"));
        assert_eq!(find(&root_user, &pod).unwrap(), Location::InCluster);
        let context = Wish { context: Some("x".into()), ..wish() };
        assert_eq!(find(&context, &pod).unwrap(), Location::Kubeconfig(home));
        let variable = [pod[0], pod[1], ("KUBECONFIG", "/k")];
        assert_eq!(find(&wish(), &variable).unwrap(), Location::Kubeconfig(PathBuf::from("/k")));
        let unit = [pod[0], pod[1], ("CREDENTIALS_DIRECTORY", "/run/credentials/pullet.service")];
        let provided = root.join("run/credentials/pullet.service/pullet.kubeconfig");
        touch(&provided);
        for (content, wanted) in [("", Location::InCluster), ("\n", Location::InCluster)] {
            std::fs::write(&provided, content).unwrap();
            assert_eq!(find(&root_user, &unit).unwrap(), wanted);
        }
        std::fs::write(&provided, "{}").unwrap();
        assert_eq!(find(&root_user, &unit).unwrap(), Location::Kubeconfig(provided.clone()));
        let named = [unit[2], ("KUBECONFIG", "/k")];
        assert_eq!(find(&wish(), &named).unwrap(), Location::Kubeconfig(PathBuf::from("/k")));
        let flag = Wish { kubeconfig: Some("/f".into()), ..wish() };
        assert_eq!(find(&flag, &variable).unwrap(), Location::Kubeconfig(PathBuf::from("/f")));
        assert!(matches!(find(&wish(), &[("KUBECONFIG", "/a:/b")]), Err(AccessError::SeveralFiles(_))));
    }

    #[test]
    fn only_https_or_this_machine_is_a_server() {
        assert!(parse_server("https://a.example:6443/k8s/", PlainHttp::Refused).is_ok());
        assert!(parse_server("http://127.0.0.1:8080", PlainHttp::Loopback).is_ok());
        for text in ["http://127.0.0.1:8080", "http://a.example"] {
            assert!(matches!(parse_server(text, PlainHttp::Refused), Err(AccessError::PlainHttp(_))), "{text}");
        }
        assert!(matches!(parse_server("http://a.example", PlainHttp::Loopback), Err(AccessError::PlainHttp(_))));
        for text in ["a.example:6443", "", "ftp://a", "https://", "https://u:p@a", "https://a?x=1"] {
            assert!(matches!(parse_server(text, PlainHttp::Loopback), Err(AccessError::BadServer(_))), "{text}");
        }
    }
}

//! What was asked for, what the node is, and what is there already.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::ask::ask;
use super::cluster;
use super::error::SetupError;
use super::host::{Deed, Host, Owner};
use super::options::Options;
use super::pod;
use super::{
    AUTHORITY, K3S_AGENT, K3S_KUBECONFIG, K3S_SERVER, KEYRING, MANIFESTS, Means, SETTINGS, STATE, TOKEN, TOKEN_SECRET,
};
use crate::config::{Config, ConfigError, Settings, TargetChoice};
use crate::link::secret_file::{read_one_time_token, read_text};
use crate::link::{Bearer, StoreError, Wanted};
use crate::net::PlainHttp;
use crate::net::tls::Roots;
use crate::secret::Secret;
use crate::target::kubernetes::{Access, Admin, AdminError, Document, Surroundings, Wish, push_text, secret_patch};
use crate::trust::keyring::Keyring;

/// What the node is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    /// It runs pods for an API server elsewhere.
    K3sAgent,
    /// It has an API server of its own.
    K3sServer,
    /// Nothing of k3s.
    Plain,
}

impl Node {
    pub(super) fn of(host: &Host) -> Self {
        match (host.has(K3S_SERVER) || host.has(K3S_KUBECONFIG), host.has(K3S_AGENT)) {
            (true, _) => Self::K3sServer,
            (false, true) => Self::K3sAgent,
            (false, false) => Self::Plain,
        }
    }

    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::K3sAgent => "this node is a k3s agent",
            Self::K3sServer => "this node is a k3s server",
            Self::Plain => "this node has no k3s",
        }
    }
}

/// All that an installation goes by.
pub(super) struct Site<'a> {
    pub(super) host: Host,
    pub(super) node: Node,
    pub(super) means: &'a Means<'a>,
    /// What is to stand in the file.
    pub(super) flags: Settings,
    /// What the file says, or the manifest with it.
    pub(super) file: String,
    /// The manifest of the Cluster, as it is.
    pub(super) cluster: String,
    /// What both mean, here and now.
    pub(super) config: Config,
    pub(super) endpoint: String,
    pub(super) token: Option<Secret>,
    pub(super) authority: Option<Zeroizing<String>>,
    pub(super) keyring: Option<Zeroizing<String>>,
    pub(super) starts: bool,
    /// Of an administrator, and the context in it.
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
}

impl<'a> Site<'a> {
    pub(super) fn new(options: Options, means: &'a Means<'a>) -> Result<Self, SetupError> {
        let host = Host::open(&options)?;
        let node = Node::of(&host);
        let mut flags = options.settings;
        if flags.config.is_some() || flags.state_dir.is_some() || flags.status_file.is_some() {
            return Err(SetupError::Impossible(
                "the configuration lies in /etc/pullet, the state in /var/lib/pullet and the status in /run/pullet: leave \
                 --config, --state-dir and --status-file out",
            ));
        }
        if options.in_cluster && node != Node::K3sServer {
            return Err(SetupError::Impossible(
                "--in-cluster writes manifests for k3s to read: run it on the k3s server, or use k3s/ with kubectl or Helm",
            ));
        }
        // For the account, and not for the agent.
        let (kubeconfig, context) = (flags.kubeconfig.take(), flags.context.take());
        let kubeconfig = kubeconfig.or_else(|| host.has(K3S_KUBECONFIG).then(|| host.path(K3S_KUBECONFIG)));
        // What may lie anywhere is read here and now; what cannot be used takes the place of nothing that can.
        let authority = given(flags.ca_file.take(), &|text, file| Ok(Roots::none().add_pem(text.as_bytes(), file)?))?;
        let keyring = given(flags.keyring.take(), &is_keyring)?;
        let token = match flags.token_file.take() {
            // A rehearsal takes nothing out of a pipe.
            Some(file) if !host.is_dry() || file != Path::new("-") => Some(token_of(&file)?),
            _ => None,
        };
        if node == Node::K3sServer && flags.target.as_deref() == Some("directory") && flags.directory.is_none() {
            flags.directory = Some([MANIFESTS, "/pullet"].concat().into());
        }
        for file in [&mut flags.client_cert, &mut flags.client_key, &mut flags.directory].into_iter().flatten() {
            *file = std::path::absolute(&*file).unwrap_or_default();
        }
        // A pod has its settings in a ConfigMap and in its Cluster.
        let place = if options.in_cluster { [MANIFESTS, "/", pod::FILES[4]].concat() } else { SETTINGS.to_owned() };
        let file = host.read(&place)?;
        let toml = if options.in_cluster { pod::settings(&file) } else { file.clone() };
        let mut saved = Settings::parse(&host.path(&place), &toml)?;
        let mut cluster = String::new();
        if options.in_cluster {
            cluster = cluster::present(&host, kubeconfig.as_deref(), context.as_deref())?;
            if saved.cluster_resource.is_none() {
                flags.cluster_resource.get_or_insert_with(|| "*".to_owned());
            }
            [saved.endpoint, saved.cluster_id] = cluster::known(&cluster);
        }
        if flags.endpoint.is_none() && saved.endpoint.is_none() {
            flags.endpoint = ask("Address of the control plane (https://…): ", false).map(|text| (*text).clone());
        }
        let endpoint = flags.endpoint.clone().or_else(|| saved.endpoint.clone());
        let Some(endpoint) = endpoint else {
            let why = "say where the control plane is: --endpoint https://…";
            return Err(ConfigError::Missing("endpoint", why).into());
        };
        let merged = flags.clone().over(saved);
        let beside = |path: &str, is_given: bool| (is_given || host.has(path)).then(|| host.path(path));
        let config = Settings {
            state_dir: Some(host.path(STATE)),
            token_file: Some(host.path(TOKEN)),
            ca_file: beside(AUTHORITY, authority.is_some()).or_else(|| merged.ca_file.clone()),
            keyring: beside(KEYRING, keyring.is_some()).or_else(|| merged.keyring.clone()),
            ..merged
        }
        .here()?;
        let was_given = token.is_some();
        let mut site = Self {
            token: token.filter(|_| !host.is_dry()),
            host,
            node,
            means,
            flags,
            file,
            cluster,
            config,
            endpoint,
            authority,
            keyring,
            starts: !options.no_start,
            kubeconfig,
            context,
        };
        let is_before = site.host.has(TOKEN);
        let is_asked = !was_given && !site.has_credential();
        if is_asked && !site.host.is_dry() {
            let question = match is_before || !site.cluster.is_empty() {
                true => "One-time token (Enter takes the one of before; it is not shown): ",
                false => "One-time token (it is not shown): ",
            };
            if let Some(text) = ask(question, true) {
                Bearer::check(&text).map_err(other)?;
                site.token = Some(Secret::new("one-time token", (*text).clone()));
            }
            let is_needed = site.starts && site.config.cluster_resource.is_none();
            if site.token.is_none() && is_needed && !is_before {
                let why =
                    "this node is not registered yet: give the one-time token by --token-file FILE, or - for stdin";
                return Err(ConfigError::Missing("token_file", why).into());
            }
        }
        if is_asked && site.token.is_none() && is_before {
            token_of(&site.host.path(TOKEN))?;
        }
        Ok(site)
    }

    pub(super) fn has_credential(&self) -> bool {
        self.host.has(&[STATE, "/credential.json"].concat())
    }

    /// The cluster as its administrator; none for a target that is no cluster.
    pub(super) fn admin(&self) -> Result<Option<Admin>, SetupError> {
        if matches!(self.config.target, TargetChoice::Directory(_)) {
            return Ok(None);
        }
        let Some(kubeconfig) = &self.kubeconfig else {
            if self.starts {
                return Err(SetupError::Impossible(match self.node {
                    Node::K3sServer => "k3s has not written /etc/rancher/k3s/k3s.yaml: start k3s first",
                    Node::K3sAgent | Node::Plain => {
                        "there is no API server on this node: give the kubeconfig of an administrator by --kubeconfig FILE (of \
                         the k3s server: /etc/rancher/k3s/k3s.yaml, with its address), or --target directory --directory DIR"
                    }
                }));
            }
            self.host.say("there is no API server yet: run pullet setup again on the node itself, once k3s runs there");
            return Ok(None);
        };
        open_admin(kubeconfig, self.context.as_deref(), self.config.plain_http).map(Some)
    }

    /// Puts the one-time token into its Secret.
    pub(super) fn hand_token(&self, admin: &Admin) -> Result<(), SetupError> {
        let host = &self.host;
        let place = ["Secret vworkspace-system/", TOKEN_SECRET].concat();
        let Some(token) = &self.token else {
            if !host.is_dry() {
                return Ok(());
            }
            host.tell(Deed("put the one-time token into", ""), &place);
            return Ok(());
        };
        let fault = |error: crate::target::kubernetes::OwnError| SetupError::Other(Box::new(error));
        let secret = admin.own().secret(TOKEN_SECRET).map_err(fault)?;
        let mut patch = secret_patch(&secret.version);
        patch.push_str(r#"},"data":{"#);
        push_text(&mut patch, "registrationToken", Some(token.expose()));
        patch.pop();
        patch.push_str("}}");
        admin.own().patch_secret(TOKEN_SECRET, &patch, false).map_err(fault)?;
        host.tell(Deed("", "put the one-time token into"), &place);
        Ok(())
    }

    /// Applies the documents of a text.
    pub(super) fn apply(&self, admin: &Admin, text: &str) -> Result<(), SetupError> {
        for document in Document::all(text) {
            let what = document.describe();
            if self.host.is_dry() {
                self.host.tell(Deed("apply", ""), &what);
                continue;
            }
            let made = admin.apply(&document).map_err(|error| SetupError::Api(what.clone(), error))?;
            self.host.tell(Deed("", if made { "made" } else { "applied" }), &what);
        }
        Ok(())
    }

    /// What jobs may do, as admission policies, or nothing where the API server has none.
    pub(super) fn admission(&self, admin: &Admin) -> Result<Option<String>, SetupError> {
        let minor = match admin.minor() {
            Ok(minor) => minor,
            Err(_) if self.host.is_dry() => ADMISSION_SINCE,
            Err(error) => return Err(SetupError::Api("the API server".to_owned(), error)),
        };
        if minor >= ADMISSION_SINCE {
            return Ok(Some(self.config.policy.admission()));
        }
        self.host.say("admission policies are left out: Kubernetes has them from 1.30");
        Ok(None)
    }

    /// Puts what the unit is handed by systemd into its place.
    pub(super) fn put_credentials(&self) -> Result<(), SetupError> {
        let secrets = [(AUTHORITY, self.authority.as_deref()), (KEYRING, self.keyring.as_deref())];
        for (path, text) in secrets {
            if let Some(text) = text {
                self.host.put(path, 0o600, Owner::Root, text.as_bytes())?;
            }
        }
        if self.config.cluster_resource.is_none() {
            if let Some(token) = &self.token {
                self.host.put(TOKEN, 0o600, Owner::Root, token.expose().as_bytes())?;
            } else if self.host.is_dry() && !self.has_credential() && !self.host.has(TOKEN) {
                self.host.tell(Deed("write", ""), &[TOKEN, " (0600 root:root)"].concat());
            }
        }
        Ok(())
    }
}

/// The first minor version of Kubernetes whose admission policies need no switch.
const ADMISSION_SINCE: u32 = 30;

/// The API server of a kubeconfig.
pub(super) fn open_admin(kubeconfig: &Path, context: Option<&str>, plain_http: PlainHttp) -> Result<Admin, SetupError> {
    let wish = Wish {
        kubeconfig: Some(kubeconfig.to_owned()),
        context: context.map(str::to_owned),
        foreground_root: false,
        plain_http,
    };
    let surroundings = Surroundings { variable: &|_| None, root: PathBuf::from("/") };
    Ok(Admin::new(Access::find(&wish, &surroundings)?))
}

fn token_of(file: &Path) -> Result<Secret, SetupError> {
    read_one_time_token(file, io::stdin()).map_err(other)
}

fn other(error: StoreError) -> SetupError {
    SetupError::Other(Box::new(error))
}

/// Looks whether a text is what its file was given as.
type Check = dyn Fn(&str, &Path) -> Result<(), Box<dyn std::error::Error>>;

/// A file that the agent may not be able to read where it lies.
fn given(file: Option<PathBuf>, check: &Check) -> Result<Option<Zeroizing<String>>, SetupError> {
    let Some(file) = file else { return Ok(None) };
    let opened = File::open(&file).map_err(|error| SetupError::File(file.clone(), error))?;
    let text = read_text(opened, &file).map_err(other)?;
    check(&text, &file).map_err(SetupError::Unusable)?;
    Ok(Some(text))
}

/// Whether an agent could pin it.
fn is_keyring(text: &str, file: &Path) -> Result<(), Box<dyn std::error::Error>> {
    if let Wanted::Chain(chain) = Wanted::parse(text, file)? {
        Keyring::pin(&chain)?;
    }
    Ok(())
}

impl From<AdminError> for SetupError {
    fn from(error: AdminError) -> Self {
        Self::Api("the API server".to_owned(), error)
    }
}

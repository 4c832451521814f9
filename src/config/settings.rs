//! The settings as they are given: keys of the file, and flags.

use std::io::Read;
use std::path::{Path, PathBuf};

use argh::FromArgs;
use serde::Serialize;

use super::{Config, ConfigError};
use crate::limits;
use crate::link::provided;

/// Where the configuration is looked for when no `--config` names it.
pub const DEFAULT_FILE: &str = "/etc/pullet/pullet.toml";

/// Where the state is kept when nothing else is said.
pub const DEFAULT_STATE: &str = "/var/lib/pullet";

/// Where the status of the running agent lies when nothing else is said: in memory, not on flash.
pub const DEFAULT_STATUS: &str = "/run/pullet/status.json";

/// Every setting once: a key of the file (`state_dir`) and a flag (`--state-dir`). A flag wins over the
/// file; a list of flags takes the place of the file's list.
#[derive(Clone, Debug, Default, FromArgs, Serialize)]
#[argh(help_triggers("--help"))]
/// Settings
pub struct Settings {
    /// configuration file (default /etc/pullet/pullet.toml, if it is there)
    #[serde(skip)]
    #[argh(option, arg_name = "file")]
    pub config: Option<PathBuf>,

    /// where the credential is kept (default /var/lib/pullet)
    #[argh(option, arg_name = "dir")]
    pub state_dir: Option<PathBuf>,

    /// base URL of the control plane, https://…
    #[argh(option, arg_name = "url")]
    pub endpoint: Option<String>,

    /// file with the one-time registration token; - is standard input
    #[argh(option, arg_name = "file")]
    pub token_file: Option<PathBuf>,

    /// name of this cluster at the control plane (default: it chooses)
    #[argh(option, arg_name = "id")]
    pub cluster_id: Option<String>,

    #[allow(clippy::doc_markdown, reason = "the comment is the help text")]
    /// go by the Cluster object of this name, or by * for the only one there is; the credential is kept in a
    /// Secret (default: none, all is said here)
    #[argh(option, arg_name = "name")]
    pub cluster_resource: Option<String>,

    /// what people read in the control plane's list
    #[argh(option, arg_name = "text")]
    pub display_name: Option<String>,

    /// further CA certificates to trust, PEM
    #[argh(option, arg_name = "file")]
    pub ca_file: Option<PathBuf>,

    /// certificate to show to a control plane that asks for one, PEM, with its chain
    #[argh(option, arg_name = "file")]
    pub client_cert: Option<PathBuf>,

    /// key of the client certificate, PEM, readable by this user alone
    #[argh(option, arg_name = "file")]
    pub client_key: Option<PathBuf>,

    /// have the control plane issue a client certificate, for a key made here (default false)
    #[argh(option, arg_name = "true|false")]
    pub mtls: Option<bool>,

    #[allow(clippy::doc_markdown, reason = "the comment is the help text")]
    /// HTTP proxy to the control plane, or none (default: HTTPS_PROXY, ALL_PROXY, NO_PROXY)
    #[argh(option, arg_name = "url")]
    pub proxy: Option<String>,

    /// seconds that a poll is held, 1 to 300 (default: it adapts, from 30 up to 240)
    #[argh(option, arg_name = "seconds")]
    pub wait: Option<u64>,

    /// where jobs take effect: kubernetes (default) or directory
    #[argh(option, arg_name = "kubernetes|directory")]
    pub target: Option<String>,

    /// directory of the directory target; it must be there
    #[argh(option, arg_name = "dir")]
    pub directory: Option<PathBuf>,

    /// kubeconfig (default: KUBECONFIG, the pod's account, ~/.kube/config, then k3s's own)
    #[argh(option, arg_name = "file")]
    pub kubeconfig: Option<PathBuf>,

    /// context of the kubeconfig (default: its current one)
    #[argh(option, arg_name = "name")]
    pub context: Option<String>,

    /// let the endpoint be http:// if it is on this machine
    #[argh(option, arg_name = "true|false")]
    pub allow_plain_http_loopback: Option<bool>,

    /// a kind that jobs may touch beside ApplicationInstance and Operation, GROUP/KIND; the core group is
    /// empty: /ConfigMap (repeat for more)
    #[argh(option, arg_name = "group/kind")]
    pub allow_kind: Vec<String>,

    /// the owner's keyrings, one a line, or the fingerprint of the root key: pinned here, so that only signed jobs are done
    #[argh(option, arg_name = "file")]
    pub keyring: Option<PathBuf>,

    /// what is asked of a job's signature (default: require where a key is pinned, else warn)
    #[argh(option, arg_name = "require|warn|off")]
    pub signatures: Option<String>,

    /// a namespace, or PREFIX*, that jobs may use (repeat for more; default: all that are labelled
    /// managed-by=vworkspace or not there yet, but no system namespace)
    #[argh(option, arg_name = "name")]
    pub allow_namespace: Vec<String>,

    #[allow(clippy::doc_markdown, reason = "the comment is the help text")]
    /// charts that jobs may have installed: https://HOST/PATH or oci://HOST/PATH, with /* at its end for all
    /// below, with #NAME or #NAME@VERSION for one chart; catalog:ID; or * for everything (repeat for more;
    /// default: none)
    #[argh(option, arg_name = "chart")]
    pub allow_chart: Vec<String>,

    #[allow(clippy::doc_markdown, reason = "the comment is the help text")]
    /// a type of operations that jobs may request: Backup, Migration, Restore, RunCommand, Runbook or Upgrade
    /// (repeat for more; default: all)
    #[argh(option, arg_name = "Backup|Migration|Restore|RunCommand|Runbook|Upgrade")]
    pub allow_operation: Vec<String>,

    /// take a Secret only in an encrypted payload (default false)
    #[argh(option, arg_name = "true|false")]
    pub require_encrypted_secrets: Option<bool>,

    /// when a job counts as succeeded: ready (default) or applied
    #[argh(option, arg_name = "ready|applied")]
    pub succeed_on: Option<String>,

    /// metered: poll once an hour with brief connections; standard (default)
    #[argh(option, arg_name = "standard|metered")]
    pub profile: Option<String>,

    /// seconds between two polls of the metered profile, 60 to 86400 (default 3600)
    #[argh(option, arg_name = "seconds")]
    pub poll_interval: Option<u64>,

    /// MB that a month of the metered profile may have, both ways; then only results and a sign of life a day
    /// go out (default: no bound)
    #[argh(option, arg_name = "mb")]
    pub monthly_budget: Option<u64>,

    /// where the status of the running agent is written, for pullet status; none = nowhere (default
    /// /run/pullet/status.json where that is possible)
    #[argh(option, arg_name = "file")]
    pub status_file: Option<PathBuf>,

    #[allow(clippy::doc_markdown, rustdoc::broken_intra_doc_links, reason = "the comment is the help text")]
    /// where /metrics, /healthz and /readyz are answered: 127.0.0.1:9464, [::1]:9464 or unix:/run/pullet/metrics.sock
    /// (default none)
    #[argh(option, arg_name = "address")]
    pub metrics: Option<String>,

    /// where API servers ask what may be stored: 127.0.0.1:9443, or 0.0.0.0:9443 behind a Service (default none)
    #[cfg(feature = "webhook")]
    #[argh(option, arg_name = "address")]
    pub webhook_listen: Option<String>,

    /// seconds that an object may take to be ready (default 600)
    #[argh(option, arg_name = "seconds")]
    pub ready_timeout: Option<u64>,

    /// seconds between two signs of life, 60 to 86400 (default 900)
    #[argh(option, arg_name = "seconds")]
    pub heartbeat_interval: Option<u64>,

    /// bytes of the journal, 65536 to 16777216 in pages of 4096 (default 262144)
    #[argh(option, arg_name = "bytes")]
    pub journal_size: Option<u64>,

    /// error, warn, info (default), debug or trace
    #[argh(option, arg_name = "error|warn|info|debug|trace")]
    pub log_level: Option<String>,

    /// text or json (default: text on a terminal, json otherwise)
    #[argh(option, arg_name = "text|json")]
    pub log_format: Option<String>,
}

/// The keys of the file, which are the names of the flags but for `config`.
pub const KEYS: [&str; if cfg!(feature = "webhook") { 36 } else { 35 }] = [
    "allow_chart",
    "allow_kind",
    "allow_namespace",
    "allow_operation",
    "allow_plain_http_loopback",
    "ca_file",
    "client_cert",
    "client_key",
    "cluster_id",
    "cluster_resource",
    "context",
    "directory",
    "display_name",
    "endpoint",
    "heartbeat_interval",
    "journal_size",
    "keyring",
    "kubeconfig",
    "log_format",
    "log_level",
    "metrics",
    "monthly_budget",
    "mtls",
    "poll_interval",
    "profile",
    "proxy",
    "ready_timeout",
    "require_encrypted_secrets",
    "signatures",
    "state_dir",
    "status_file",
    "succeed_on",
    "target",
    "token_file",
    "wait",
    #[cfg(feature = "webhook")]
    "webhook_listen",
];

impl Settings {
    /// Reads the file that is named, or the default one if it is there, and lays the flags over it.
    ///
    /// # Errors
    /// As [`ConfigError`] lists them.
    pub fn with_file(self) -> Result<Self, ConfigError> {
        let file = match &self.config {
            Some(path) => read_file(path)?,
            None => match read_file(Path::new(DEFAULT_FILE)) {
                Err(ConfigError::File(_, error)) if error.kind() == std::io::ErrorKind::NotFound => Self::default(),
                read => read?,
            },
        };
        Ok(self.over(file))
    }

    /// Reads the text of a file of settings; `path` is what an error names.
    ///
    /// # Errors
    /// When it is no such text, or too long.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        if text.len() as u64 > limits::CONFIG_FILE_BYTES {
            return Err(ConfigError::TooLarge(path.to_owned()));
        }
        super::file::read(path, text)
    }

    /// What these settings mean here and now. One place for all: each with a closure of its own would cost 14 kB.
    ///
    /// # Errors
    /// As [`ConfigError`] lists them.
    #[inline(never)]
    pub fn here(self) -> Result<Config, ConfigError> {
        Config::new(self, provided::variable)
    }

    /// The text of the file `path` with what is set here set there too, and the rest as it was.
    ///
    /// # Errors
    /// When the text that comes of it does not say that: a value over several lines has to be changed by hand.
    pub fn written_into(&self, text: &str, path: &Path) -> Result<String, ConfigError> {
        let assignments = super::file::assignments(&mut self.clone());
        let present = super::file::assignments(&mut super::file::read(path, text)?);
        let missing: Vec<_> = assignments.iter().filter(|wanted| !present.contains(wanted)).cloned().collect();
        let mut changed = text.to_owned();
        // One by one: each is told of by its own name.
        for wanted in missing {
            changed = super::file::set(&changed, std::slice::from_ref(&wanted));
            let found = super::file::read(path, &changed);
            if !found.is_ok_and(|mut found| super::file::assignments(&mut found).contains(&wanted)) {
                let (key, value) = wanted;
                return Err(ConfigError::Value(key, value, format!("set it in {} by hand", path.display())));
            }
        }
        Ok(changed)
    }

    /// These settings where they are given, else those of a file.
    #[must_use]
    pub fn over(self, file: Self) -> Self {
        let list = |flags: Vec<String>, file: Vec<String>| if flags.is_empty() { file } else { flags };
        Self {
            config: self.config,
            state_dir: self.state_dir.or(file.state_dir),
            endpoint: self.endpoint.or(file.endpoint),
            token_file: self.token_file.or(file.token_file),
            cluster_id: self.cluster_id.or(file.cluster_id),
            cluster_resource: self.cluster_resource.or(file.cluster_resource),
            display_name: self.display_name.or(file.display_name),
            ca_file: self.ca_file.or(file.ca_file),
            client_cert: self.client_cert.or(file.client_cert),
            client_key: self.client_key.or(file.client_key),
            mtls: self.mtls.or(file.mtls),
            proxy: self.proxy.or(file.proxy),
            wait: self.wait.or(file.wait),
            target: self.target.or(file.target),
            directory: self.directory.or(file.directory),
            kubeconfig: self.kubeconfig.or(file.kubeconfig),
            context: self.context.or(file.context),
            allow_plain_http_loopback: self.allow_plain_http_loopback.or(file.allow_plain_http_loopback),
            allow_kind: list(self.allow_kind, file.allow_kind),
            keyring: self.keyring.or(file.keyring),
            signatures: self.signatures.or(file.signatures),
            allow_namespace: list(self.allow_namespace, file.allow_namespace),
            allow_chart: list(self.allow_chart, file.allow_chart),
            allow_operation: list(self.allow_operation, file.allow_operation),
            require_encrypted_secrets: self.require_encrypted_secrets.or(file.require_encrypted_secrets),
            succeed_on: self.succeed_on.or(file.succeed_on),
            profile: self.profile.or(file.profile),
            poll_interval: self.poll_interval.or(file.poll_interval),
            monthly_budget: self.monthly_budget.or(file.monthly_budget),
            status_file: self.status_file.or(file.status_file),
            metrics: self.metrics.or(file.metrics),
            #[cfg(feature = "webhook")]
            webhook_listen: self.webhook_listen.or(file.webhook_listen),
            ready_timeout: self.ready_timeout.or(file.ready_timeout),
            heartbeat_interval: self.heartbeat_interval.or(file.heartbeat_interval),
            journal_size: self.journal_size.or(file.journal_size),
            log_level: self.log_level.or(file.log_level),
            log_format: self.log_format.or(file.log_format),
        }
    }
}

fn read_file(path: &Path) -> Result<Settings, ConfigError> {
    let unreadable = |error| ConfigError::File(path.to_owned(), error);
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    file.take(limits::CONFIG_FILE_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    Settings::parse(path, &text)
}

/// The name that a mistyped one may have meant.
#[must_use]
pub fn closest(mistyped: &str, known: impl IntoIterator<Item = &'static str>) -> Option<&'static str> {
    if mistyped.len() > 64 {
        return None;
    }
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&mistyped.replace('-', "_"), &name.replace('-', "_")), name))
        .min()
        .filter(|(distance, name)| *distance <= name.len() / 3 + 1)
        .map(|(_, name)| name)
}

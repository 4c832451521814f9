//! What the user set, by file and by flag, and what it means.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use argh::FromArgs;
use serde::{Deserialize, Serialize};
use tracing::Level;

use crate::job::machine::SucceedOn;
use crate::limits;
use crate::link::Endpoint;
use crate::logging::Format;
use crate::net::{PlainHttp, ProxySetting};
use crate::protocol::{ClusterId, GroupKind};
use crate::trust::policy::{NamespacePattern, Policy};

/// Where the configuration is looked for when no `--config` names it.
pub const DEFAULT_FILE: &str = "/etc/pullet/pullet.toml";

/// Where the state is kept when nothing else is said.
pub const DEFAULT_STATE: &str = "/var/lib/pullet";

/// Every setting once: a key of the file (`state_dir`) and a flag (`--state-dir`). A flag wins over the
/// file; a list of flags takes the place of the file's list.
#[derive(Debug, Default, Deserialize, FromArgs, Serialize)]
#[serde(default, deny_unknown_fields)]
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

    /// what people read in the control plane's list
    #[argh(option, arg_name = "text")]
    pub display_name: Option<String>,

    /// further CA certificates to trust, PEM
    #[argh(option, arg_name = "file")]
    pub ca_file: Option<PathBuf>,

    #[allow(clippy::doc_markdown, reason = "the comment is the help text")]
    /// HTTP proxy to the control plane, or none (default: HTTPS_PROXY, ALL_PROXY, NO_PROXY)
    #[argh(option, arg_name = "url")]
    pub proxy: Option<String>,

    /// seconds that a poll is held, 1 to 300 (default 30)
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

    /// a namespace, or PREFIX*, that jobs may use (repeat for more; default: all that are labelled
    /// managed-by=vworkspace or not there yet, but no system namespace)
    #[argh(option, arg_name = "name")]
    pub allow_namespace: Vec<String>,

    /// when a job counts as succeeded: ready (default) or applied
    #[argh(option, arg_name = "ready|applied")]
    pub succeed_on: Option<String>,

    /// seconds that an object may take to be ready (default 600)
    #[argh(option, arg_name = "seconds")]
    pub ready_timeout: Option<u64>,

    /// seconds between two signs of life, 60 to 86400 (default 900)
    #[argh(option, arg_name = "seconds")]
    pub heartbeat_interval: Option<u64>,

    /// error, warn, info (default), debug or trace
    #[argh(option, arg_name = "level")]
    pub log_level: Option<String>,

    /// text or json (default: text on a terminal, json otherwise)
    #[argh(option, arg_name = "text|json")]
    pub log_format: Option<String>,
}

/// The keys of the file, which are the names of the flags but for `config`.
pub const KEYS: [&str; 20] = [
    "allow_kind",
    "allow_namespace",
    "allow_plain_http_loopback",
    "ca_file",
    "cluster_id",
    "context",
    "directory",
    "display_name",
    "endpoint",
    "heartbeat_interval",
    "kubeconfig",
    "log_format",
    "log_level",
    "proxy",
    "ready_timeout",
    "state_dir",
    "succeed_on",
    "target",
    "token_file",
    "wait",
];

/// What the agent goes by.
#[derive(Debug)]
pub struct Config {
    /// Where the credential is kept.
    pub state_dir: PathBuf,
    /// The control plane; none where the stored credential is to tell.
    pub endpoint: Option<Endpoint>,
    /// The one-time token.
    pub token_file: Option<PathBuf>,
    /// The cluster's name, when its owner chose it.
    pub cluster_id: Option<ClusterId>,
    /// What people read.
    pub display_name: Option<String>,
    /// Further authorities.
    pub ca_file: Option<PathBuf>,
    /// The way out.
    pub proxy: ProxySetting,
    /// How long a poll is held.
    pub wait: Duration,
    /// Where jobs take effect.
    pub target: TargetChoice,
    /// Whether `http://` is possible.
    pub plain_http: PlainHttp,
    /// What jobs may do.
    pub policy: Policy,
    /// When a job counts as succeeded.
    pub succeed_on: SucceedOn,
    /// How long an object may take to be ready.
    pub ready_timeout: Duration,
    /// Between two signs of life.
    pub heartbeat_interval: Duration,
    /// What is logged.
    pub log_level: Level,
    /// How it is logged.
    pub log_format: Format,
}

/// Where jobs take effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetChoice {
    /// One file an object.
    Directory(PathBuf),
    /// An API server.
    Kubernetes {
        /// The kubeconfig that was named.
        kubeconfig: Option<PathBuf>,
        /// The context that was named.
        context: Option<String>,
    },
}

/// Why a configuration cannot be used. All of them are wrong usage.
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    File(PathBuf, std::io::Error),
    /// The file is too large to be one.
    TooLarge(PathBuf),
    /// The file is no TOML, or a value is of the wrong type; with what the parser says.
    Syntax(PathBuf, String),
    /// A key that does not exist, and the closest that does.
    UnknownKey(PathBuf, String, Option<&'static str>),
    /// A value that cannot be used; key, value, why.
    Value(&'static str, String, String),
    /// A setting that is needed.
    Missing(&'static str, &'static str),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, error) => write!(f, "the configuration {} cannot be read: {error}", path.display()),
            Self::TooLarge(path) => write!(f, "{} is larger than 64 KiB: no configuration", path.display()),
            Self::Syntax(path, reason) => write!(f, "{}: {}", path.display(), reason.trim_end()),
            Self::UnknownKey(path, key, Some(closest)) => {
                write!(f, "{}: there is no setting {key:?}; did you mean {closest}?", path.display())
            }
            Self::UnknownKey(path, key, None) => {
                write!(f, "{}: there is no setting {key:?}; pullet run --help lists them", path.display())
            }
            Self::Value(key, value, why) => write!(f, "{key} = {value:?}: {why}"),
            Self::Missing(key, why) => write!(f, "{key} is missing: {why}"),
        }
    }
}

impl std::error::Error for ConfigError {}

impl Settings {
    /// Reads the file that is named, or the default one if it is there, and lays the flags over it.
    ///
    /// # Errors
    /// As [`ConfigError`] lists them.
    pub fn with_file(self) -> Result<Self, ConfigError> {
        let file = match &self.config {
            Some(path) => read_file(path)?,
            None if Path::new(DEFAULT_FILE).exists() => read_file(Path::new(DEFAULT_FILE))?,
            None => Self::default(),
        };
        Ok(self.over(file))
    }

    fn over(self, file: Self) -> Self {
        let list = |flags: Vec<String>, file: Vec<String>| if flags.is_empty() { file } else { flags };
        Self {
            config: self.config,
            state_dir: self.state_dir.or(file.state_dir),
            endpoint: self.endpoint.or(file.endpoint),
            token_file: self.token_file.or(file.token_file),
            cluster_id: self.cluster_id.or(file.cluster_id),
            display_name: self.display_name.or(file.display_name),
            ca_file: self.ca_file.or(file.ca_file),
            proxy: self.proxy.or(file.proxy),
            wait: self.wait.or(file.wait),
            target: self.target.or(file.target),
            directory: self.directory.or(file.directory),
            kubeconfig: self.kubeconfig.or(file.kubeconfig),
            context: self.context.or(file.context),
            allow_plain_http_loopback: self.allow_plain_http_loopback.or(file.allow_plain_http_loopback),
            allow_kind: list(self.allow_kind, file.allow_kind),
            allow_namespace: list(self.allow_namespace, file.allow_namespace),
            succeed_on: self.succeed_on.or(file.succeed_on),
            ready_timeout: self.ready_timeout.or(file.ready_timeout),
            heartbeat_interval: self.heartbeat_interval.or(file.heartbeat_interval),
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
    if text.len() as u64 > limits::CONFIG_FILE_BYTES {
        return Err(ConfigError::TooLarge(path.to_owned()));
    }
    let syntax = |error: toml::de::Error| ConfigError::Syntax(path.to_owned(), error.to_string());
    let table: toml::Table = toml::from_str(&text).map_err(syntax)?;
    if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        let name: String = key.chars().take(64).collect();
        return Err(ConfigError::UnknownKey(path.to_owned(), name, closest(key, KEYS)));
    }
    toml::from_str(&text).map_err(syntax)
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

impl Config {
    /// Says what the settings mean. `variable` gives environment variables.
    ///
    /// # Errors
    /// As [`ConfigError`] lists them.
    pub fn new(settings: Settings, variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let plain_http =
            if settings.allow_plain_http_loopback == Some(true) { PlainHttp::Loopback } else { PlainHttp::Refused };
        let endpoint = read("endpoint", settings.endpoint, |text| Endpoint::parse(text, plain_http))?;
        let cluster_id = read("cluster_id", settings.cluster_id, ClusterId::parse)?;
        let no_proxy = variable("NO_PROXY").or_else(|| variable("no_proxy"));
        let proxy = match read("proxy", settings.proxy, |url| ProxySetting::parse(url, no_proxy.as_deref()))? {
            Some(proxy) => proxy,
            None => ProxySetting::from_environment(variable).map_err(|error| {
                ConfigError::Value("proxy", "HTTPS_PROXY or ALL_PROXY".to_owned(), error.to_string())
            })?,
        };
        let seconds = |key, value: Option<u64>, default: Duration, from: Duration, to: Duration| match value {
            None => Ok(default),
            Some(value) if (from..=to).contains(&Duration::from_secs(value)) => Ok(Duration::from_secs(value)),
            Some(value) => {
                let why = format!("from {} to {} seconds", from.as_secs(), to.as_secs());
                Err(ConfigError::Value(key, value.to_string(), why))
            }
        };
        let kinds = read_list("allow_kind", settings.allow_kind, GroupKind::parse)?;
        let namespaces = read_list("allow_namespace", settings.allow_namespace, NamespacePattern::parse)?;
        let second = Duration::from_secs(1);
        Ok(Self {
            state_dir: settings.state_dir.unwrap_or_else(|| PathBuf::from(DEFAULT_STATE)),
            endpoint,
            token_file: settings.token_file,
            cluster_id,
            display_name: settings.display_name,
            ca_file: settings.ca_file,
            proxy,
            wait: seconds("wait", settings.wait, limits::WAIT_DEFAULT, second, limits::WAIT_MAX)?,
            target: read_target(settings.target, settings.directory, settings.kubeconfig, settings.context)?,
            plain_http,
            policy: Policy::new(kinds, namespaces),
            succeed_on: choose(
                "succeed_on",
                settings.succeed_on,
                &[("ready", SucceedOn::Ready), ("applied", SucceedOn::Applied)],
            )?
            .unwrap_or(SucceedOn::Ready),
            ready_timeout: seconds(
                "ready_timeout",
                settings.ready_timeout,
                limits::READY_TIMEOUT,
                second,
                limits::READY_TIMEOUT_MAX,
            )?,
            heartbeat_interval: seconds(
                "heartbeat_interval",
                settings.heartbeat_interval,
                limits::HEARTBEAT_INTERVAL,
                limits::HEARTBEAT_MIN,
                limits::HEARTBEAT_MAX,
            )?,
            log_level: choose(
                "log_level",
                settings.log_level,
                &[
                    ("error", Level::ERROR),
                    ("warn", Level::WARN),
                    ("info", Level::INFO),
                    ("debug", Level::DEBUG),
                    ("trace", Level::TRACE),
                ],
            )?
            .unwrap_or(Level::INFO),
            log_format: choose("log_format", settings.log_format, &[("text", Format::Text), ("json", Format::Json)])?
                .unwrap_or_else(Format::for_stderr),
        })
    }
}

fn read_target(
    target: Option<String>,
    directory: Option<PathBuf>,
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
) -> Result<TargetChoice, ConfigError> {
    let is_directory = choose("target", target, &[("kubernetes", false), ("directory", true)])?;
    match (is_directory.unwrap_or(false), directory) {
        (true, Some(directory)) => Ok(TargetChoice::Directory(directory)),
        (true, None) => Err(ConfigError::Missing("directory", "the directory target needs --directory DIR")),
        (false, Some(directory)) => Err(ConfigError::Value(
            "directory",
            directory.display().to_string(),
            "is only for the directory target; set target = \"directory\" as well".to_owned(),
        )),
        (false, None) => Ok(TargetChoice::Kubernetes { kubeconfig, context }),
    }
}

fn read<T, E: fmt::Display>(
    key: &'static str,
    value: Option<String>,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<T>, ConfigError> {
    value
        .map(|value| parse(&value).map_err(|error| ConfigError::Value(key, without_password(value), error.to_string())))
        .transpose()
}

/// What stands before the last `@` of a URL, or of what should be one, may be a password.
fn without_password(value: String) -> String {
    match value.rsplit_once('@') {
        Some((_, place)) => format!("…@{place}"),
        None => value,
    }
}

fn read_list<T, E: fmt::Display>(
    key: &'static str,
    values: Vec<String>,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Vec<T>, ConfigError> {
    values
        .into_iter()
        .map(|value| parse(&value).map_err(|error| ConfigError::Value(key, value, error.to_string())))
        .collect()
}

fn choose<T: Copy>(
    key: &'static str,
    value: Option<String>,
    choices: &[(&'static str, T)],
) -> Result<Option<T>, ConfigError> {
    let Some(value) = value else { return Ok(None) };
    match choices.iter().find(|(name, _)| *name == value) {
        Some((_, choice)) => Ok(Some(*choice)),
        None => {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            Err(ConfigError::Value(key, value, format!("one of {}", names.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Config, ConfigError, KEYS, Settings, TargetChoice, closest};
    use crate::limits;
    use std::path::PathBuf;
    use std::time::Duration;

    fn from_text(text: &str) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pullet.toml");
        std::fs::write(&path, text).unwrap();
        let settings = Settings { config: Some(path), ..Settings::default() }.with_file()?;
        Config::new(settings, |_| None)
    }

    fn error(text: &str) -> String {
        from_text(text).unwrap_err().to_string()
    }

    #[test]
    fn the_keys_are_those_of_the_settings() {
        let written = serde_json::to_value(Settings::default()).unwrap();
        let mut names: Vec<&str> = written.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, KEYS);
    }

    #[test]
    fn an_empty_file_is_all_defaults() {
        let config = from_text("").unwrap();
        assert_eq!(config.wait, Duration::from_secs(30));
        assert_eq!(config.state_dir, PathBuf::from("/var/lib/pullet"));
        assert_eq!(config.target, TargetChoice::Kubernetes { kubeconfig: None, context: None });
        assert_eq!(config.policy.kinds().len(), 2);
    }

    #[test]
    fn an_unknown_key_is_named_with_the_closest_known_one() {
        let text = error("endpont = \"https://a\"");
        assert!(text.ends_with("there is no setting \"endpont\"; did you mean endpoint?"), "{text}");
        assert!(error("state-dir = \"/x\"").contains("did you mean state_dir?"));
        assert!(error("zzzzzzzz = 1").contains("pullet run --help"));
        assert!(error("[endpoint]\nurl = 1").contains("invalid type"));
    }

    #[test]
    fn a_wrong_type_and_a_broken_file_say_where() {
        assert!(error("wait = \"30\"").contains("line 1"));
        assert!(error("wait = 30\nendpoint = ").contains("line 2"));
        assert!(error("wait = -1").contains("line 1"));
        assert!(error("wait = 1\nwait = 2").contains("duplicate"), "{}", error("wait = 1\nwait = 2"));
    }

    #[test]
    fn values_out_of_bounds_are_refused_with_their_bounds() {
        for (text, words) in [
            ("wait = 0", "from 1 to 300 seconds"),
            ("wait = 301", "from 1 to 300 seconds"),
            ("heartbeat_interval = 59", "from 60 to 86400 seconds"),
            ("heartbeat_interval = 86401", "from 60 to 86400 seconds"),
            ("target = \"cloud\"", "one of kubernetes, directory"),
            ("target = \"directory\"", "--directory"),
            ("directory = \"/x\"", "target = \"directory\""),
            ("log_level = \"loud\"", "one of error, warn, info, debug, trace"),
            ("log_format = \"xml\"", "one of text, json"),
            ("succeed_on = \"maybe\"", "one of ready, applied"),
            ("endpoint = \"http://127.0.0.1:1\"", "allow_plain_http_loopback"),
            ("endpoint = \"http://control.example\"", "use https"),
            ("cluster_id = \"a b\"", "letters"),
            ("proxy = \"socks5://p\"", "proxy URL"),
            ("allow_kind = [\"ConfigMap\"]", "/ConfigMap"),
            ("allow_namespace = [\"*\"]", "clinic-*"),
        ] {
            assert!(error(text).contains(words), "{text}: {}", error(text));
        }
        assert!(from_text("wait = 1").is_ok() && from_text("wait = 300").is_ok());
        assert!(from_text("allow_plain_http_loopback = true\nendpoint = \"http://[::1]:80\"").is_ok());
    }

    #[test]
    fn no_password_of_a_url_is_printed() {
        let text = error("proxy = \"socks5://user:geheim@p\"");
        assert!(!text.contains("geheim"), "{text}");
        assert!(!error("endpoint = \"https://user:geheim@a\"").contains("geheim"));
        assert!(!error("proxy = \"user:geheim@proxy:99999\"").contains("geheim"));
    }

    #[test]
    fn a_file_of_just_the_size_is_read_and_one_byte_more_is_not() {
        let full = format!("#{}", "x".repeat(usize::try_from(limits::CONFIG_FILE_BYTES).unwrap() - 1));
        assert!(from_text(&full).is_ok());
        assert!(matches!(from_text(&format!("{full}x")), Err(ConfigError::TooLarge(_))));
        let missing = Settings { config: Some("/nonexistent.toml".into()), ..Settings::default() };
        assert!(matches!(missing.with_file(), Err(ConfigError::File(..))));
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let flags = Settings { wait: Some(5), allow_kind: vec!["/Secret".into()], ..Settings::default() };
        let file = Settings {
            wait: Some(9),
            allow_kind: vec!["/Pod".into()],
            log_level: Some("warn".into()),
            ..Settings::default()
        };
        let both = flags.over(file);
        assert_eq!((both.wait, both.log_level.as_deref()), (Some(5), Some("warn")));
        assert_eq!(both.allow_kind, ["/Secret"]);
    }

    #[test]
    fn the_closest_name_is_close() {
        assert_eq!(closest("kube-config", KEYS), Some("kubeconfig"));
        assert_eq!(closest("q", KEYS), None);
        assert_eq!(closest(&"x".repeat(10_000), KEYS), None);
    }
}

//! What the user set, by file and by flag, and what it means.

mod error;
mod file;
mod settings;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::Level;

pub use error::ConfigError;
pub use settings::{DEFAULT_FILE, DEFAULT_STATE, DEFAULT_STATUS, KEYS, Settings, closest};

use crate::job::machine::SucceedOn;
use crate::limits;
use crate::link::hold::Hold;
use crate::link::longpoll::PROBE_WAIT;
use crate::link::{Endpoint, Provided};
use crate::logging::Format;
use crate::monitor::Address;
use crate::net::{PlainHttp, ProxySetting};
use crate::protocol::{ClusterId, GroupKind};
use crate::trust::Signatures;
use crate::trust::policy::{ChartPattern, NamespacePattern, OperationType, Policy, Rules};

/// What the agent goes by.
#[derive(Clone, Debug)]
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
    /// The `Cluster` object that says the rest: its name, or `*` for the only one; none = there is none.
    pub cluster_resource: Option<String>,
    /// Further authorities.
    pub ca_file: Option<PathBuf>,
    /// Those that a `Cluster` names.
    pub ca_bundle_file: Option<PathBuf>,
    /// What the control plane may ask for in TLS: a certificate, and its key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// Whether the control plane is to issue a client certificate.
    pub mtls: bool,
    /// The way out.
    pub proxy: ProxySetting,
    /// How long a poll is held.
    pub hold: Hold,
    /// Between two polls; none = the next one follows the one before.
    pub poll_interval: Option<Duration>,
    /// Bytes that a month may have both ways.
    pub monthly_budget: Option<u64>,
    /// Where the status of the running agent is written.
    pub status_file: Option<PathBuf>,
    /// Where metrics and probes are answered; none = nowhere.
    pub metrics: Option<Address>,
    /// Where API servers are answered; none = nowhere.
    #[cfg(feature = "webhook")]
    pub webhook: Option<crate::webhook::Listen>,
    /// Where jobs take effect.
    pub target: TargetChoice,
    /// Whether `http://` is possible.
    pub plain_http: PlainHttp,
    /// What jobs may do.
    pub policy: Policy,
    /// The owner's file that says which keys to pin.
    pub keyring: Option<PathBuf>,
    /// What is asked of a job's signature; none = it follows from whether a key is pinned.
    pub signatures: Option<Signatures>,
    /// When a job counts as succeeded.
    pub succeed_on: SucceedOn,
    /// How long an object may take to be ready.
    pub ready_timeout: Duration,
    /// Between two signs of life.
    pub heartbeat_interval: Duration,
    /// Bytes of the journal.
    pub journal_size: u64,
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

impl Config {
    /// Whether a control plane that does not take our keys is of no use.
    #[must_use]
    pub fn demands_signatures(&self) -> bool {
        self.signatures == Some(Signatures::Require)
            || self.policy.requires_signatures()
            || self.keyring.is_some() && self.signatures.is_none()
    }

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
        let is_metered =
            choose("profile", settings.profile, &[("standard", false), ("metered", true)])?.unwrap_or(false);
        let poll_interval = read_poll_interval(is_metered, settings.poll_interval, seconds)?;
        let policy = read_policy(
            settings.allow_kind,
            settings.allow_namespace,
            settings.allow_chart,
            settings.allow_operation,
            settings.require_encrypted_secrets,
        )?;
        let second = Duration::from_secs(1);
        let client_certificate = both(settings.client_cert, settings.client_key)?;
        let target = read_target(settings.target, settings.directory, settings.kubeconfig, settings.context)?;
        let cluster_resource = read_cluster_resource(settings.cluster_resource, &target)?;
        let mtls = settings.mtls == Some(true);
        may_be_issued(mtls, client_certificate.is_some())?;
        Ok(Self {
            state_dir: settings.state_dir.unwrap_or_else(|| PathBuf::from(DEFAULT_STATE)),
            endpoint,
            token_file: settings.token_file.or_else(|| Provided::find()?.token()),
            cluster_id,
            display_name: settings.display_name,
            cluster_resource,
            ca_file: settings.ca_file,
            ca_bundle_file: None,
            client_certificate,
            mtls,
            proxy,
            hold: match settings.wait {
                // A poll an hour is to be over soon.
                None if is_metered => Hold::fixed(PROBE_WAIT),
                None => Hold::adapting(limits::WAIT_DEFAULT),
                wait => Hold::fixed(seconds("wait", wait, limits::WAIT_DEFAULT, second, limits::WAIT_MAX)?),
            },
            poll_interval,
            monthly_budget: read_budget(is_metered, settings.monthly_budget)?,
            status_file: status_file(settings.status_file),
            metrics: read("metrics", settings.metrics.filter(|text| text != "none"), Address::parse)?,
            #[cfg(feature = "webhook")]
            webhook: read_webhook(settings.webhook_listen, &target)?,
            target,
            plain_http,
            policy,
            keyring: settings.keyring,
            signatures: choose(
                "signatures",
                settings.signatures,
                &[("require", Signatures::Require), ("warn", Signatures::Warn), ("off", Signatures::Off)],
            )?,
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
                // One connection for both.
                poll_interval.unwrap_or(limits::HEARTBEAT_INTERVAL),
                limits::HEARTBEAT_MIN,
                limits::HEARTBEAT_MAX,
            )?,
            journal_size: journal_size(settings.journal_size)?,
            log_level: read_log_level(settings.log_level)?,
            log_format: choose("log_format", settings.log_format, &[("text", Format::Text), ("json", Format::Json)])?
                .unwrap_or_else(Format::for_stderr),
        })
    }
}

/// What the node's owner lets jobs do. A list that is empty is one that was not given.
fn read_policy(
    kinds: Vec<String>,
    namespaces: Vec<String>,
    charts: Vec<String>,
    operations: Vec<String>,
    requires_encrypted_secrets: Option<bool>,
) -> Result<Policy, ConfigError> {
    let kinds = read_list("allow_kind", kinds, GroupKind::parse)?;
    let namespaces = read_list("allow_namespace", namespaces, NamespacePattern::parse)?;
    let operations = read_list("allow_operation", operations, OperationType::parse)?;
    let charts = charts
        .into_iter()
        .map(|text| {
            // A pattern that cannot be used may be an address with a password in it.
            ChartPattern::parse(&text)
                .map_err(|error| ConfigError::Value("allow_chart", without_password(text), error.to_string()))
        })
        .collect::<Result<_, _>>()?;
    let rules = Rules {
        charts: Some(charts),
        operations: Some(operations).filter(|types| !types.is_empty()),
        requires_encrypted_secrets: requires_encrypted_secrets == Some(true),
        ..Rules::of_owner(kinds, namespaces)
    };
    Ok(rules.into())
}

fn read_cluster_resource(name: Option<String>, target: &TargetChoice) -> Result<Option<String>, ConfigError> {
    match name.filter(|name| !name.is_empty()) {
        Some(name) if matches!(target, TargetChoice::Directory(_)) => {
            let why = "is only for the kubernetes target: a directory has no Cluster objects".to_owned();
            Err(ConfigError::Value("cluster_resource", name, why))
        }
        name => Ok(name),
    }
}

#[cfg(feature = "webhook")]
fn read_webhook(text: Option<String>, target: &TargetChoice) -> Result<Option<crate::webhook::Listen>, ConfigError> {
    let listen = read("webhook_listen", text.filter(|text| text != "none"), crate::webhook::Listen::parse)?;
    match listen {
        Some(listen) if matches!(target, TargetChoice::Directory(_)) => {
            let why = "is only for the kubernetes target: a directory has no API server".to_owned();
            Err(ConfigError::Value("webhook_listen", listen.to_string(), why))
        }
        listen => Ok(listen),
    }
}

/// A client certificate has one origin.
fn may_be_issued(mtls: bool, has_certificate: bool) -> Result<(), ConfigError> {
    if mtls && has_certificate {
        let why = "client_cert names a certificate already; leave one of both out";
        return Err(ConfigError::Value("mtls", "true".to_owned(), why.to_owned()));
    }
    Ok(())
}

/// A certificate is of no use without its key, nor the other way round.
fn both(certificate: Option<PathBuf>, key: Option<PathBuf>) -> Result<Option<(PathBuf, PathBuf)>, ConfigError> {
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(ConfigError::Missing("client_key", "a client certificate is used with its key")),
        (None, Some(_)) => Err(ConfigError::Missing("client_cert", "a client's key is used with its certificate")),
    }
}

/// Only the metered profile has an interval.
fn read_poll_interval(
    is_metered: bool,
    value: Option<u64>,
    seconds: impl Fn(&'static str, Option<u64>, Duration, Duration, Duration) -> Result<Duration, ConfigError>,
) -> Result<Option<Duration>, ConfigError> {
    match value {
        Some(value) if !is_metered => Err(ConfigError::Value(
            "poll_interval",
            value.to_string(),
            "is only for the metered profile; set profile = \"metered\" as well".to_owned(),
        )),
        None if !is_metered => Ok(None),
        value => {
            seconds("poll_interval", value, limits::METERED_INTERVAL, limits::HEARTBEAT_MIN, limits::HEARTBEAT_MAX)
                .map(Some)
        }
    }
}

/// Megabytes to bytes.
fn read_budget(is_metered: bool, megabytes: Option<u64>) -> Result<Option<u64>, ConfigError> {
    let refuse = |value: u64, why: &str| Err(ConfigError::Value("monthly_budget", value.to_string(), why.to_owned()));
    match megabytes {
        None => Ok(None),
        Some(value) if !is_metered => {
            refuse(value, "is only for the metered profile; set profile = \"metered\" as well")
        }
        Some(value) if (1..=limits::BUDGET_MAX_MB).contains(&value) => Ok(Some(value * 1_000_000)),
        Some(value) => refuse(value, "from 1 to 1000000 MB"),
    }
}

/// Where the status lies: as it was said, or under /run, which is memory, where we may write there.
#[must_use]
pub fn status_file(configured: Option<PathBuf>) -> Option<PathBuf> {
    match configured {
        Some(none) if none.as_os_str() == "none" => None,
        Some(path) => Some(path),
        None => {
            let path = PathBuf::from(DEFAULT_STATUS);
            let may_write = |path: &Path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
            let has_room = rustix::process::geteuid().is_root() || path.parent().is_some_and(may_write);
            has_room.then_some(path)
        }
    }
}

fn read_log_level(level: Option<String>) -> Result<Level, ConfigError> {
    let levels = [
        ("error", Level::ERROR),
        ("warn", Level::WARN),
        ("info", Level::INFO),
        ("debug", Level::DEBUG),
        ("trace", Level::TRACE),
    ];
    Ok(choose("log_level", level, &levels)?.unwrap_or(Level::INFO))
}

fn journal_size(bytes: Option<u64>) -> Result<u64, ConfigError> {
    match bytes {
        None => Ok(limits::JOURNAL_BYTES),
        Some(bytes)
            if (limits::JOURNAL_MIN..=limits::JOURNAL_MAX).contains(&bytes)
                && bytes.is_multiple_of(limits::PAGE_BYTES as u64) =>
        {
            Ok(bytes)
        }
        Some(bytes) => {
            let why = format!(
                "from {} to {} bytes, a multiple of {}",
                limits::JOURNAL_MIN,
                limits::JOURNAL_MAX,
                limits::PAGE_BYTES
            );
            Err(ConfigError::Value("journal_size", bytes.to_string(), why))
        }
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
    use crate::link::hold::Stage;
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
        assert_eq!((config.hold.length(), config.hold.stage()), (Duration::from_secs(30), Stage::Searching));
        assert_eq!(config.state_dir, PathBuf::from("/var/lib/pullet"));
        assert_eq!(config.target, TargetChoice::Kubernetes { kubeconfig: None, context: None });
        assert_eq!(config.policy.kinds().len(), 2);
    }

    #[test]
    fn the_metered_profile_polls_hourly_and_briefly() {
        let config = from_text("profile = \"metered\"").unwrap();
        assert_eq!(
            (config.poll_interval, config.heartbeat_interval),
            (Some(limits::METERED_INTERVAL), limits::METERED_INTERVAL)
        );
        assert_eq!((config.hold.length(), config.hold.stage()), (Duration::from_secs(1), Stage::Fixed));
        let config =
            from_text("profile = \"metered\"\npoll_interval = 60\nwait = 5\nheartbeat_interval = 900").unwrap();
        assert_eq!((config.poll_interval, config.heartbeat_interval.as_secs()), (Some(Duration::from_secs(60)), 900));
        assert_eq!(config.hold.length().as_secs(), 5);
        let config = from_text("profile = \"metered\"\nmonthly_budget = 5").unwrap();
        assert_eq!(config.monthly_budget, Some(5_000_000));
        assert_eq!(from_text("profile = \"standard\"").unwrap().poll_interval, None);
    }

    #[test]
    fn the_status_lies_where_it_was_said() {
        assert_eq!(from_text("status_file = \"/x/y\"").unwrap().status_file, Some(PathBuf::from("/x/y")));
        assert_eq!(from_text("status_file = \"none\"").unwrap().status_file, None);
    }

    #[test]
    fn an_unknown_key_is_named_with_the_closest_known_one() {
        let text = error("endpont = \"https://a\"");
        assert!(text.ends_with("there is no setting \"endpont\"; did you mean endpoint?"), "{text}");
        assert!(error("state-dir = \"/x\"").contains("did you mean state_dir?"));
        assert!(error("zzzzzzzz = 1").contains("pullet run --help"));
        assert!(error("[endpoint]\nurl = 1").ends_with("endpoint takes a string, not this table"));
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
            ("journal_size = 65535", "from 65536 to 16777216 bytes, a multiple of 4096"),
            ("journal_size = 65537", "a multiple of 4096"),
            ("journal_size = 16781312", "from 65536"),
            ("heartbeat_interval = 86401", "from 60 to 86400 seconds"),
            ("profile = \"cheap\"", "one of standard, metered"),
            ("signatures = \"yes\"", "one of require, warn, off"),
            ("poll_interval = 600", "profile = \"metered\""),
            ("monthly_budget = 5", "profile = \"metered\""),
            ("profile = \"metered\"\nmonthly_budget = 0", "from 1 to 1000000 MB"),
            ("profile = \"metered\"\nmonthly_budget = 1000001", "from 1 to 1000000 MB"),
            ("profile = \"metered\"\npoll_interval = 59", "from 60 to 86400 seconds"),
            ("target = \"cloud\"", "one of kubernetes, directory"),
            ("target = \"directory\"\ndirectory = \"/x\"\ncluster_resource = \"*\"", "only for the kubernetes target"),
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
            ("mtls = true\nclient_cert = \"/c\"\nclient_key = \"/k\"", "leave one of both out"),
            ("allow_namespace = [\"*\"]", "clinic-*"),
        ] {
            assert!(error(text).contains(words), "{text}: {}", error(text));
        }
        assert_eq!(from_text("wait = 30").unwrap().hold.stage(), Stage::Fixed);
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

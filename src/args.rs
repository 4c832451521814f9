//! The command line.
//!
//! argh does not understand `--name=value` or `-h` and calls wrong usage 1; so the arguments are split
//! beforehand, every name is checked against what there is, and wrong usage ends with 2.

use std::fmt::{self, Write as _};

use argh::FromArgs;

use crate::config::{KEYS, Settings, closest};
use crate::setup::Options;

/// What the user asked for.
#[derive(Debug)]
pub enum Command {
    /// Print what jobs may do as admission policies, as JSON or as YAML.
    Admission(Settings, bool),
    /// Print what an API server has to be told of the webhook.
    #[cfg(feature = "webhook")]
    AdmissionWebhook(Settings),
    /// Say what would become of a job.
    Check {
        /// What the policy is.
        settings: Settings,
        /// The job; `-` is standard input.
        file: String,
        /// As JSON.
        is_json: bool,
    },
    /// Print the definitions of the custom resources.
    Crds,
    /// Say what is wrong with this node, or set right what the agent must not by itself.
    Doctor {
        /// What is looked at.
        settings: Settings,
        /// What is to be set right; none = everything is looked at.
        remedy: Option<Remedy>,
        /// As JSON.
        is_json: bool,
    },
    /// Text for stdout.
    Help(String),
    /// Print what waits in the journal.
    Journal {
        /// Where it is.
        settings: Settings,
        /// As JSON.
        is_json: bool,
        /// And what comes, until it is ended.
        follows: bool,
    },
    /// Print the rights that the agent needs in a cluster.
    Rbac(Settings),
    /// Exchange the one-time token, over an existing credential where that is asked for.
    Register(Settings, bool),
    /// Run the agent.
    Run(Settings),
    /// Make an agent of this node.
    Setup(Box<Options>),
    /// Print what the running agent knows, as JSON or for people.
    Status(Settings, bool),
    /// Take the agent away.
    Uninstall(Box<Options>),
    /// Name and version, or as JSON all that was settled when it was built.
    Version(bool),
}

/// What `doctor` is to set right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Forget the last confirmed time.
    Clock,
    /// Take it that nothing of what the ledger lost comes again.
    Ledger,
}

/// Why the arguments cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UsageError {
    /// A command that does not exist, and the closest that does.
    Command(String, Option<&'static str>),
    /// A flag that does not exist, and the closest that does.
    Flag(String, Option<String>),
    /// No command at all.
    NoCommand,
    /// An argument is no UTF-8.
    NotText,
    /// An argument where none belongs.
    Surplus(String),
    /// What argh says.
    Value(String),
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(name, Some(closest)) => write!(f, "there is no command {name:?}; did you mean {closest}?"),
            Self::Command(name, None) => write!(f, "there is no command {name:?}; pullet help lists them"),
            Self::Flag(name, Some(closest)) => write!(f, "there is no flag {name}; did you mean {closest}?"),
            Self::Flag(name, None) => write!(f, "there is no flag {name}; --help lists them"),
            Self::NoCommand => write!(f, "a command is missing\n\n{}", overview().trim_end()),
            Self::NotText => f.write_str("an argument is not UTF-8"),
            Self::Surplus(argument) => write!(f, "{argument:?} does not belong here; --help shows how it goes"),
            Self::Value(reason) => f.write_str(reason.trim_end()),
        }
    }
}

impl std::error::Error for UsageError {}

/// The commands and what each is for.
const COMMANDS: [(&str, &str); 13] = [
    ("setup", "make an agent of this node: account, configuration, registration, start (--dry-run)"),
    ("run", "run the agent; registers first if there is a one-time token and no credential"),
    ("register", "exchange the one-time token for a credential, and end"),
    ("status", "show what the running agent knows: connection, jobs, bytes, memory (--json)"),
    ("journal", "show what waits on the disk to be done or posted (--json, --follow)"),
    ("check", "say what would become of the job in a file, without doing it (--json)"),
    ("admission", "print what jobs may do as admission policies of the API server (--json)"),
    ("crds", "print the definitions of the custom resources, for kubectl apply -f -"),
    ("rbac", "print the rights that the agent needs in the cluster, for kubectl apply -f -"),
    ("doctor", "say what is wrong with this node and how to mend it (--json; --reset-clock, --reset-ledger)"),
    ("uninstall", "take the agent away; what it applied stays (--dry-run, --purge-resources)"),
    ("help", "show this, or the flags of a command: pullet help run"),
    ("version", "show the version (--json)"),
];

/// Reads the arguments behind the program's name.
///
/// # Errors
/// As [`UsageError`] lists them.
pub fn parse(arguments: &[String]) -> Result<Command, UsageError> {
    let (name, rest) = arguments.split_first().ok_or(UsageError::NoCommand)?;
    match name.as_str() {
        "--help" | "-h" => Ok(Command::Help(overview())),
        "help" => match rest.first().map(String::as_str) {
            Some(
                command @ ("run" | "register" | "status" | "journal" | "check" | "admission" | "rbac" | "doctor"
                | "setup" | "uninstall"),
            ) => Ok(Command::Help(help(command))),
            None | Some("crds" | "help" | "version") => Ok(Command::Help(overview())),
            Some(other) => Err(unknown_command(other)),
        },
        "crds" => alone(Command::Crds, rest),
        "version" | "--version" | "-V" => {
            let (is_json, rest) = without(JSON, rest);
            alone(Command::Version(is_json), &rest)
        }
        "rbac" => settings("rbac", rest).map(|settings| settings.map_or_else(Command::Help, Command::Rbac)),
        "run" => settings("run", rest).map(|settings| settings.map_or_else(Command::Help, Command::Run)),
        "register" => {
            let (is_forced, rest) = without(FORCE, rest);
            settings("register", &rest)
                .map(|settings| settings.map_or_else(Command::Help, |settings| Command::Register(settings, is_forced)))
        }
        "check" => {
            let (is_json, mut rest) = without(JSON, rest);
            let file = take_file(&mut rest);
            match (settings("check", &rest)?, file) {
                (Err(help), _) => Ok(Command::Help(help)),
                (Ok(settings), Some(file)) => Ok(Command::Check { settings, file, is_json }),
                (Ok(_), None) => Err(UsageError::Value("check needs a file with one job; - is stdin".to_owned())),
            }
        }
        "admission" => {
            let (is_json, rest) = without(JSON, rest);
            #[cfg(feature = "webhook")]
            if let (true, rest) = without(WEBHOOK, &rest) {
                if is_json {
                    return Err(UsageError::Value("admission --webhook prints YAML alone".to_owned()));
                }
                let settings = settings("admission", &rest)?;
                return Ok(settings.map_or_else(Command::Help, Command::AdmissionWebhook));
            }
            settings("admission", &rest)
                .map(|settings| settings.map_or_else(Command::Help, |settings| Command::Admission(settings, is_json)))
        }
        "journal" => {
            let (is_json, rest) = without(JSON, rest);
            let (follows, rest) = without(FOLLOW, &rest);
            settings("journal", &rest).map(|settings| {
                settings.map_or_else(Command::Help, |settings| Command::Journal { settings, is_json, follows })
            })
        }
        "doctor" => {
            let (is_clock, rest) = without(RESET_CLOCK, rest);
            let (is_ledger, rest) = without(RESET_LEDGER, &rest);
            let (is_json, rest) = without(JSON, &rest);
            let remedy = match (is_clock, is_ledger, is_json) {
                (false, false, _) => None,
                (true, false, false) => Some(Remedy::Clock),
                (false, true, false) => Some(Remedy::Ledger),
                _ => {
                    let why = "doctor sets one thing right at a time: --reset-clock or --reset-ledger, without --json";
                    return Err(UsageError::Value(why.to_owned()));
                }
            };
            let settings = settings("doctor", &rest)?;
            Ok(settings.map_or_else(Command::Help, |settings| Command::Doctor { settings, remedy, is_json }))
        }
        "status" => {
            let (is_json, rest) = without(JSON, rest);
            settings("status", &rest)
                .map(|settings| settings.map_or_else(Command::Help, |settings| Command::Status(settings, is_json)))
        }
        "setup" => options("setup", &["--dry-run", "--in-cluster", "--no-start"], rest)
            .map(|options| options.map_or_else(Command::Help, Command::Setup)),
        "uninstall" => options("uninstall", &["--dry-run", "--leave-cluster", "--purge-resources", "--yes"], rest)
            .map(|options| options.map_or_else(Command::Help, Command::Uninstall)),
        other => Err(unknown_command(other)),
    }
}

/// What `setup` and `uninstall` take, or the help text.
fn options(command: &str, switches: &[&str], rest: &[String]) -> Result<Result<Box<Options>, String>, UsageError> {
    let (options, rest) = Options::take(rest, switches).map_err(|why| UsageError::Value(why.to_owned()))?;
    Ok(settings(command, &rest)?.map(|settings| Box::new(Options { settings, ..options })))
}

/// A command that takes nothing, or the overview where help was asked for.
fn alone(command: Command, rest: &[String]) -> Result<Command, UsageError> {
    match rest.first().map(String::as_str) {
        None => Ok(command),
        Some("--help" | "-h") => Ok(Command::Help(overview())),
        Some(surplus) => Err(UsageError::Surplus(surplus.to_owned())),
    }
}

/// The flag of `register` that is no setting.
const FORCE: &str = "--force";

/// The flag of `journal` that is no setting.
const FOLLOW: &str = "--follow";

/// The flag of `status`, `journal`, `check`, `doctor` and `admission` that is no setting.
const JSON: &str = "--json";

/// The flag of `admission` that is no setting.
#[cfg(feature = "webhook")]
const WEBHOOK: &str = "--webhook";

/// The flag of `doctor` that is no setting.
const RESET_CLOCK: &str = "--reset-clock";

/// As [`RESET_CLOCK`].
const RESET_LEDGER: &str = "--reset-ledger";

/// Whether a flag is there, and the arguments without it.
fn without(flag: &str, rest: &[String]) -> (bool, Vec<String>) {
    let others: Vec<String> = rest.iter().filter(|argument| *argument != flag).cloned().collect();
    (others.len() < rest.len(), others)
}

/// The first argument that is neither a flag nor the value of one.
fn take_file(rest: &mut Vec<String>) -> Option<String> {
    let mut is_value = false;
    let at = rest.iter().position(|argument| {
        let is_flag = argument.starts_with("--") || argument == "-h";
        let is_file = !is_flag && !is_value;
        let stands_alone = SWITCHES.iter().any(|switch| argument.strip_prefix("--") == Some(switch));
        is_value = is_flag && !is_value && !argument.contains('=') && argument != "-h" && !stands_alone;
        is_file
    })?;
    Some(rest.remove(at))
}

fn unknown_command(name: &str) -> UsageError {
    let name: String = name.chars().take(64).collect();
    let near = closest(&name, COMMANDS.map(|(command, _)| command));
    UsageError::Command(name, near)
}

/// The settings, or the help text where it was asked for.
fn settings(command: &str, rest: &[String]) -> Result<Result<Settings, String>, UsageError> {
    let Some(split) = split(rest)? else {
        return Ok(Err(help(command)));
    };
    let split: Vec<&str> = split.iter().map(String::as_str).collect();
    Settings::from_args(&["pullet", command], &split).map(Ok).map_err(|exit| UsageError::Value(exit.output))
}

/// `--name=value` as two arguments; none where `--help` or `-h` is among them.
fn split(rest: &[String]) -> Result<Option<Vec<String>>, UsageError> {
    let mut split = Vec::new();
    let mut arguments = rest.iter();
    while let Some(argument) = arguments.next() {
        if argument == "--help" || argument == "-h" {
            return Ok(None);
        }
        let Some(body) = argument.strip_prefix("--").filter(|body| !body.is_empty()) else {
            return Err(UsageError::Surplus(argument.chars().take(64).collect()));
        };
        let (name, value) = body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value)));
        let is_switch = SWITCHES.contains(&name);
        if name != CONFIG && !KEYS.iter().any(|key| key.replace('_', "-") == name) {
            let flag: String = name.chars().take(64).collect();
            let near = closest(&flag, KEYS.into_iter().chain([CONFIG]));
            return Err(UsageError::Flag(
                format!("--{flag}"),
                near.map(|near| format!("--{}", near.replace('_', "-"))),
            ));
        }
        match (is_switch, value) {
            (true, None) => split.extend([format!("--{name}"), "true".to_owned()]),
            (true, Some(value)) if !matches!(value, "true" | "false") => {
                return Err(UsageError::Value(format!("--{name} takes true or false, or no value")));
            }
            (_, Some(value)) => split.extend([format!("--{name}"), value.to_owned()]),
            (false, None) => {
                let value = arguments.next().ok_or_else(|| UsageError::Value(format!("--{name} needs a value")))?;
                split.extend([format!("--{name}"), value.clone()]);
            }
        }
    }
    Ok(Some(split))
}

/// The flag that has no key in the file.
const CONFIG: &str = "config";

/// The flags that need no value.
const SWITCHES: [&str; 3] = ["allow-plain-http-loopback", "mtls", "require-encrypted-secrets"];

/// What `pullet help` shows.
#[must_use]
pub fn overview() -> String {
    let mut text = String::from(
        "Pullet runs on a node that nobody can reach from outside, fetches jobs from its control plane, applies\n\
         them here and reports back.\n\nUsage: pullet COMMAND [--flag value | --flag=value]…\n\nCommands:\n",
    );
    for (name, purpose) in COMMANDS {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {name:11}{purpose}");
    }
    text.push_str(
        "\nFirst steps:\n  \
         sudo pullet setup --dry-run\n  \
         sudo pullet setup\n\n\
         Exit codes: 0 done, 1 failed, 2 wrong usage or configuration (3 and 4: docs/quickstart.md).\n",
    );
    text
}

/// What `pullet COMMAND --help` shows: what it is for, then the flags as argh prints them.
fn help(command: &str) -> String {
    let purpose = match command {
        "register" => {
            "Exchanges the one-time token for a credential and stores it in the state directory. Needs --endpoint\n\
             and --token-file; the other flags matter as far as they say how the control plane is reached. With --force\n\
             over the credential that is there: for a copied card, a lost or refused credential, another server."
        }
        "check" => {
            "Reads one job and says which clauses it passes on this node and which one stops it; nothing is applied and\n\
             nobody is asked. FILE - is standard input; --json prints one JSON object. The flags and the configuration\n\
             file say what jobs may do. Ends with 0 when the job is admitted, with 1 when it is refused."
        }
        "admission" => {
            "Prints what the settings let jobs do as ValidatingAdmissionPolicy objects with their bindings, for an API\n\
             server from 1.30; with --json as one List. Of the flags only --config and the --allow-… matter."
        }
        "rbac" => {
            "Prints the account of the agent, its roles and the empty objects that it writes, for kubectl apply -f -, with\n\
             a rule for each kind of --allow-kind, and what --cluster-resource needs. Of the flags only these and --config\n\
             matter."
        }
        "journal" => {
            "Prints what waits in the journal: jobs that were taken, results and events that were not posted, events that\n\
             were lost. It can be read while the agent runs, and nothing is changed. What was posted since the newest page\n\
             was written is still shown. With --json one JSON object; with --follow every record that comes as well, one a\n\
             line, until it is ended. Of the flags only --config and --state-dir matter. Ends with 0, or with 1 when there\n\
             is no journal that can be read."
        }
        "doctor" => {
            "Looks at the way to the control plane, at this node and at the cluster, and prints one line a check with what is to\n\
             be done; with --json one JSON object. It takes 5 s at most and changes nothing; the flags and the configuration\n\
             file are those of the agent. Ends with 0 when all is well, with 1 when something does not work, with 4 when\n\
             something will not for long.\n\
             With --reset-clock forgets the last confirmed time, where a clock that was wrong had been believed: the time\n\
             of the build is the earliest again. Set the clock of this node first, and stop the agent: it would write\n\
             the time again. With --reset-ledger lets signed jobs pass again that are older than the loss of the ledger: only\n\
             where you know that no old job is played again. Of the flags only --config and --state-dir matter."
        }
        "setup" => {
            "Makes an agent of this node, as root: finds out what it is (k3s server, k3s agent, neither), writes the flags into\n\
             /etc/pullet/pullet.toml, defines the custom resources, makes an account with the rights of pullet rbac,\n\
             registers with --token-file (- is standard input; without it a terminal is asked), starts the unit of systemd\n\
             and waits for the first poll. With --in-cluster the agent is a pod: manifests in k3s's directory. --kubeconfig\n\
             names an administrator's, which the agent does not get; on a k3s server it is found. Run again it changes what\n\
             is not as it should be.\n\n  \
             --dry-run      print each file, object and program, and do nothing\n  \
             --no-start     neither register nor start: the first start does\n  \
             --root DIR     set up what lies in DIR, as an image of a card does\n  \
             --in-cluster   as a pod"
        }
        "uninstall" => {
            "Takes the agent away, as root: unit or manifests, its rights, admission policies and Secrets in the cluster, the\n\
             finalizer on a Cluster, configuration, credential and state. Definitions, resources and workloads stay.\n\n  \
             --dry-run           print what would go\n  \
             --leave-cluster     of this machine only, where the cluster does not answer\n  \
             --purge-resources   these as well: they are listed, and a terminal is asked\n  \
             --yes               do not ask\n  \
             --root DIR          of what lies in DIR\n\n\
             Of the flags only --kubeconfig and --context (an administrator's) and --allow-kind matter."
        }
        "status" => {
            "Prints what the running agent knows; with --json as one JSON object. Of the flags only --config and\n\
             --status-file matter. Ends with 0 when it is connected, with 1 and a line that says why when it is not."
        }
        _ => {
            "Runs the agent until SIGTERM or SIGINT: the job at hand is finished, what waits is posted, and the\n\
             process ends within 5 s. Without a credential it registers first, with --endpoint and --token-file."
        }
    };
    let printed = match Settings::from_args(&["pullet", command], &["--help"]) {
        Err(exit) => exit.output,
        Ok(_) => String::new(),
    };
    let operand = if command == "check" { " FILE" } else { "" };
    let flags = printed.split_once("Options:").map_or("", |(_, flags)| flags);
    format!(
        "Usage: pullet {command}{operand} [--flag value | --flag=value]…\n\n{purpose}\n\n\
         Every flag is also a key of the configuration file: --state-dir is state_dir. A flag wins.\n\n\
         Flags:{}\n",
        flags.trim_end()
    )
}

#[cfg(test)]
mod tests {
    use super::{Command, Remedy, UsageError, parse};
    use crate::config::KEYS;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn run(text: &str) -> crate::config::Settings {
        match parse(&words(text)) {
            Ok(Command::Run(settings)) => settings,
            other => panic!("{other:?}"),
        }
    }

    fn error(text: &str) -> String {
        parse(&words(text)).unwrap_err().to_string()
    }

    #[test]
    fn both_ways_to_write_a_value_are_alike() {
        let settings = run("run --wait 5 --endpoint=https://a/?x=1 --allow-kind /A --allow-kind=b/C");
        assert_eq!(settings.wait, Some(5));
        assert_eq!(settings.endpoint.as_deref(), Some("https://a/?x=1"));
        assert_eq!(settings.allow_kind, ["/A", "b/C"]);
        assert_eq!(run("run --display-name --x").display_name.as_deref(), Some("--x"));
    }

    #[test]
    fn doctor_looks_or_sets_one_thing_right() {
        let parsed = parse(&words("doctor --state-dir /s --reset-clock")).unwrap();
        let Command::Doctor { settings, remedy: Some(Remedy::Clock), is_json: false } = parsed else { panic!() };
        assert_eq!(settings.state_dir, Some("/s".into()));
        assert!(matches!(parse(&words("doctor")), Ok(Command::Doctor { remedy: None, is_json: false, .. })));
        assert!(matches!(parse(&words("doctor --json")), Ok(Command::Doctor { remedy: None, is_json: true, .. })));
        for both in ["doctor --reset-clock --reset-ledger", "doctor --reset-clock --json"] {
            assert!(error(both).contains("one thing right at a time"), "{both}");
        }
        assert!(error("run --reset-clock").contains("no flag"));
    }

    #[test]
    fn the_switch_takes_a_value_or_none() {
        assert_eq!(run("run").allow_plain_http_loopback, None);
        assert_eq!(run("run --allow-plain-http-loopback").allow_plain_http_loopback, Some(true));
        assert_eq!(run("run --allow-plain-http-loopback=true").allow_plain_http_loopback, Some(true));
        assert_eq!(run("run --allow-plain-http-loopback=false").allow_plain_http_loopback, Some(false));
        assert_eq!(run("run --require-encrypted-secrets --wait 5").require_encrypted_secrets, Some(true));
        assert!(error("run --allow-plain-http-loopback=maybe").contains("true or false"));
    }

    #[test]
    fn wrong_usage_says_what_was_meant() {
        assert_eq!(error("rnu"), "there is no command \"rnu\"; did you mean run?");
        assert_eq!(error("run --endpont=x"), "there is no flag --endpont; did you mean --endpoint?");
        assert_eq!(error("run --state_dir x"), "there is no flag --state_dir; did you mean --state-dir?");
        assert_eq!(error("run --wait"), "--wait needs a value");
        assert!(error("run --wait soon").contains("wait"), "{}", error("run --wait soon"));
        assert!(error("run --wait 1 --wait 2").contains("wait"));
        assert_eq!(error("run now"), "\"now\" does not belong here; --help shows how it goes");
        assert_eq!(error("version now"), "\"now\" does not belong here; --help shows how it goes");
        assert!(matches!(parse(&[]), Err(UsageError::NoCommand)));
        assert!(error(&format!("run --{}", "x".repeat(10_000))).len() < 200);
    }

    #[test]
    fn help_is_there_in_every_way_and_lists_every_flag() {
        for text in [
            "--help",
            "-h",
            "help",
            "run --help",
            "run -h --wait",
            "help run",
            "register --wait 1 -h",
            "help status",
            "status --json -h",
            "help journal",
            "journal --follow -h",
            "check -h",
            "check --help --json x",
            "help check",
            "help crds",
            "help rbac",
            "rbac --help",
        ] {
            let Ok(Command::Help(help)) = parse(&words(text)) else { panic!("{text}") };
            assert!(help.contains("Usage: pullet"), "{text}");
            assert!(help.lines().all(|line| line.chars().count() <= 110), "{help}");
        }
        let Ok(Command::Help(help)) = parse(&words("run --help")) else { panic!() };
        for key in KEYS {
            assert!(help.contains(&format!("--{}", key.replace('_', "-"))), "{key}");
        }
    }

    #[test]
    fn the_status_is_asked_for_as_text_or_json() {
        assert!(matches!(parse(&words("status")), Ok(Command::Status(_, false))));
        match parse(&words("status --json --status-file /x")) {
            Ok(Command::Status(settings, true)) => assert_eq!(settings.status_file, Some("/x".into())),
            other => panic!("{other:?}"),
        }
        assert_eq!(error("run --json"), "there is no flag --json; --help lists them");
    }

    #[test]
    fn what_a_cluster_needs_is_printed() {
        assert!(matches!(parse(&words("crds")), Ok(Command::Crds)));
        assert!(matches!(parse(&words("crds -h")), Ok(Command::Help(_))));
        assert_eq!(error("crds --json"), "\"--json\" does not belong here; --help shows how it goes");
        match parse(&words("rbac --allow-kind /ConfigMap")) {
            Ok(Command::Rbac(settings)) => assert_eq!(settings.allow_kind, ["/ConfigMap"]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_journal_is_shown_once_or_followed() {
        for (text, json, follow) in [
            ("journal --state-dir /x", false, false),
            ("journal --json --state-dir=/x", true, false),
            ("journal --follow --state-dir /x --json", true, true),
        ] {
            match parse(&words(text)) {
                Ok(Command::Journal { settings, is_json, follows }) => {
                    assert_eq!((settings.state_dir, is_json, follows), (Some("/x".into()), json, follow), "{text}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
        assert_eq!(error("status --follow"), "there is no flag --follow; --help lists them");
        assert_eq!(error("journal now"), "\"now\" does not belong here; --help shows how it goes");
    }

    #[test]
    fn a_job_to_check_stands_anywhere_among_the_flags() {
        for text in [
            "check job.json --json --wait 5",
            "check --wait 5 job.json --json",
            "check --json --require-encrypted-secrets job.json --wait=5",
            "check --wait 5 --json job.json",
        ] {
            match parse(&words(text)) {
                Ok(Command::Check { settings, file, is_json: true }) => {
                    assert_eq!((file.as_str(), settings.wait), ("job.json", Some(5)), "{text}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
        assert!(matches!(parse(&words("check -")), Ok(Command::Check { file, is_json: false, .. }) if file == "-"));
        assert_eq!(error("check"), "check needs a file with one job; - is stdin");
        assert_eq!(error("check a b"), "\"b\" does not belong here; --help shows how it goes");
        assert_eq!(error("check a --wiat 5"), "there is no flag --wiat; did you mean --wait?");
    }

    #[test]
    fn the_version_is_asked_for_in_every_way() {
        for text in ["version", "--version", "-V"] {
            assert!(matches!(parse(&words(text)), Ok(Command::Version(false))));
            assert!(matches!(parse(&words(&format!("{text} --json"))), Ok(Command::Version(true))));
        }
    }
}

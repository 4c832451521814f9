//! The man page and the completions of the shells are what the program itself says of its commands and flags.
//!
//! Nothing of it is in the program: a test makes the files and looks whether the ones that are kept are these.

mod page;
mod shells;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pullet::args::{self, UsageError};
use pullet::config::KEYS;

/// A setting, as `src/config/settings.rs` defines it.
struct Setting {
    /// `--state-dir`.
    flag: String,
    /// `file`, `dir`, `true|false`, `kubernetes|directory`, `url`, …
    value: String,
    what: String,
}

impl Setting {
    /// The values there are, where there are only some.
    fn choices(&self) -> Vec<&str> {
        if self.value.contains('|') { self.value.split('|').collect() } else { Vec::new() }
    }

    fn is_switch(&self) -> bool {
        self.value == "true|false"
    }
}

/// A command, as `pullet help` and its own help have it.
struct Subcommand {
    name: String,
    /// In the overview.
    what: String,
    /// In its own help; empty where it has none.
    purpose: String,
    takes_settings: bool,
    takes_file: bool,
    /// Flags that are no settings, and whether they take a value.
    own: Vec<(String, bool)>,
}

fn settings() -> Vec<Setting> {
    let source = include_str!("../../../src/config/settings.rs");
    let (_, fields) = source.split_once("pub struct Settings {").unwrap();
    let (fields, _) = fields.split_once("\n}\n").unwrap();
    let settings: Vec<Setting> = fields
        .split("\n\n")
        // What is not in the default build is not in its manual.
        .filter(|field| !field.contains("#[cfg(feature"))
        .map(|field| {
            let lines = field.lines().map(str::trim);
            let words: Vec<&str> = lines.filter_map(|line| line.strip_prefix("/// ")).collect();
            let value = field.split("arg_name = \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
            let name =
                field.lines().next_back().and_then(|line| line.trim().strip_prefix("pub ")?.split(':').next()).unwrap();
            Setting { flag: format!("--{}", name.replace('_', "-")), value: value.to_owned(), what: words.join(" ") }
        })
        .collect();
    let flags = |key: &str| settings.iter().any(|setting| setting.flag == format!("--{}", key.replace('_', "-")));
    let keys = || KEYS.into_iter().filter(|key| *key != "webhook_listen");
    assert!(keys().chain(["config"]).all(flags));
    assert_eq!(settings.len(), keys().count() + 1);
    settings
}

fn commands(settings: &[Setting]) -> Vec<Subcommand> {
    let overview = args::overview();
    let (_, list) = overview.split_once("Commands:\n").unwrap();
    let (list, _) = list.split_once("\n\n").unwrap();
    list.lines()
        .map(|line| {
            let (name, what) = line.trim().split_once(' ').unwrap();
            subcommand(name, what.trim(), settings)
        })
        .collect()
}

fn subcommand(name: &str, what: &str, settings: &[Setting]) -> Subcommand {
    let help = match args::parse(&[name.to_owned(), "--help".to_owned()]) {
        Ok(args::Command::Help(help)) if help != args::overview() => help,
        _ => String::new(),
    };
    let before = help.split_once("\nFlags:").map_or(help.as_str(), |(before, _)| before);
    let purpose = before.split_once("\n\n").map_or("", |(_, purpose)| purpose);
    let purpose = purpose.split("\n\nEvery flag is also a key").next().unwrap_or_default();
    let mut own = Vec::new();
    for word in format!("{what}\n{before}").split(|c: char| !c.is_ascii_alphanumeric() && c != '-') {
        let is_known = settings.iter().any(|setting| setting.flag == word) || own.iter().any(|(flag, _)| flag == word);
        if word.starts_with("--") && word.len() > 3 && word != "--help" && !is_known {
            // Reading arguments does nothing. A flag of another program may stand in a help as well.
            match args::parse(&[name.to_owned(), word.to_owned()]) {
                Err(UsageError::Flag(..) | UsageError::Surplus(_)) => {}
                Err(UsageError::Value(why)) if why == format!("{word} needs a value") => {
                    own.push((word.to_owned(), true));
                }
                _ => own.push((word.to_owned(), false)),
            }
        }
    }
    Subcommand {
        name: name.to_owned(),
        what: what.to_owned(),
        purpose: purpose.trim().to_owned(),
        takes_settings: help.contains("\nFlags:") && help.contains("--state-dir"),
        takes_file: help.starts_with(&format!("Usage: pullet {name} FILE")),
        own,
    }
}

fn root(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

/// A file of the repository holds this text; with `PULLET_WRITE` it does afterwards.
fn is_current(file: &str, text: &str) {
    if std::env::var_os("PULLET_WRITE").is_some() {
        fs::write(root(file), text).unwrap();
    }
    let kept = fs::read_to_string(root(file)).unwrap_or_default();
    assert!(kept == text, "{file} is not what the program says; PULLET_WRITE=1 tests/run manual:: writes it");
}

#[test]
fn the_man_page_and_the_completions_are_what_the_program_says() {
    let settings = settings();
    let commands = commands(&settings);
    is_current("docs/pullet.1", &page::page(&commands, &settings));
    is_current("docs/completions/pullet.bash", &shells::bash(&commands, &settings));
    is_current("docs/completions/_pullet", &shells::zsh(&commands, &settings));
    is_current("docs/completions/pullet.fish", &shells::fish(&commands, &settings));
}

#[test]
fn commands_and_their_own_flags_are_found() {
    let settings = settings();
    let commands = commands(&settings);
    let own = |name: &str| {
        let command = commands.iter().find(|command| command.name == name).unwrap();
        command.own.iter().map(|(flag, _)| flag.as_str()).collect::<Vec<_>>()
    };
    assert_eq!((own("journal"), own("register"), own("crds")), (vec!["--json", "--follow"], vec!["--force"], vec![]));
    assert!(own("doctor").contains(&"--reset-clock") && own("status") == ["--json"] && own("version") == ["--json"]);
    assert!(commands.iter().any(|command| command.takes_file && command.name == "check"));
    assert!(
        commands.iter().all(|command| command.takes_settings || command.purpose.is_empty() || command.name != "run")
    );
}

/// What a shell says, which has to end well.
fn shell(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    // What a shell notes of itself goes there, and away.
    let home = tempfile::tempdir().unwrap();
    command
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", home.path())
        .env("TERM", "xterm")
        .env("LC_ALL", "C.UTF-8")
        .current_dir(root(""));
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = String::from_utf8_lossy(&stderr);
    assert!(status.success() && said.is_empty(), "{program}: {status}: {said}");
    String::from_utf8(stdout).unwrap()
}

/// What each shell has to offer for a line that is being written; the last word is the one that the cursor is at.
const LINES: [(&str, &[&str], &[&str]); 9] = [
    ("pullet jour", &["journal"], &["status"]),
    ("pullet ", &["run", "register", "doctor", "version"], &["--wait"]),
    ("pullet journal --fo", &["--follow"], &["--force"]),
    ("pullet register --fo", &["--force"], &["--follow"]),
    ("pullet run --require-en", &["--require-encrypted-secrets"], &["--reset-clock"]),
    ("pullet run --target ", &["kubernetes", "directory"], &["--wait", "text"]),
    ("pullet run --wait 5 --log-format j", &["json"], &["text"]),
    ("pullet run --ca-file Carg", &["Cargo.toml", "Cargo.lock"], &["src"]),
    ("pullet check Cargo.t", &["Cargo.toml"], &["run"]),
];

fn offers(of: &str, line: &str, said: &str, offered: &[&str], others: &[&str]) {
    let words: Vec<&str> = said.split_whitespace().collect();
    for word in offered {
        assert!(words.contains(word), "{of} offers no {word} for {line:?}: {said:?}");
    }
    for word in others {
        assert!(!words.contains(word), "{of} offers {word} for {line:?}: {said:?}");
    }
}

#[test]
fn bash_completes_commands_flags_and_values() {
    let complete = |words: &str| {
        let script = format!(
            "compopt() {{ :; }}; . docs/completions/pullet.bash
             COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _pullet; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        shell("bash", &["--norc", "-u", "-c", &script])
    };
    for (line, offered, others) in LINES {
        let words = if line.ends_with(' ') { format!("{line}''") } else { line.to_owned() };
        offers("bash", line, &complete(&words), offered, others);
    }
    // A line is cut into words at =, too.
    offers("bash", "--target=d", &complete("pullet run --target = d"), &["directory"], &["kubernetes"]);
    offers("bash", "--target=", &complete("pullet run --target ="), &["directory", "kubernetes"], &["--wait"]);
    assert_eq!(
        shell("bash", &["--norc", "-c", ". docs/completions/pullet.bash; complete -p pullet"]).trim(),
        "complete -F _pullet pullet"
    );
}

#[test]
#[ignore = "needs fish: apt-get install fish"]
fn fish_completes_commands_flags_and_values() {
    for (line, offered, others) in LINES {
        let script = format!("source docs/completions/pullet.fish; complete -C '{line}'");
        let said = shell("fish", &["--no-config", "-c", &script]);
        let words: Vec<&str> = said.lines().filter_map(|line| line.split('\t').next()).collect();
        offers("fish", line, &words.join(" "), offered, others);
    }
}

/// A terminal is told where to write by sequences of an escape, `[`, and numbers up to a letter.
fn without_control(said: &str) -> String {
    let mut parts = said.split("\u{1b}[");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| !c.is_ascii_alphabetic());
        text.push(' ');
        text.push_str(rest.get(1..).unwrap_or_default());
    }
    text
}

#[test]
#[ignore = "needs zsh: apt-get install zsh"]
fn zsh_completes_commands_flags_and_values() {
    // Each takes seconds.
    for (line, offered, others) in LINES.into_iter().step_by(2) {
        // A terminal of its own, in which the key for a list is pressed behind the line. The prompt tells the end.
        let script = format!(
            "zmodload zsh/zpty; zpty shell zsh -f -i
             line() {{ zpty -w shell \"$1\"; }}
             line 'PROMPT=; fpath=($PWD/docs/completions $fpath); autoload -Uz compinit; compinit -D; zstyle \":completion:*\" verbose no'
             line 'LISTMAX=1000; COLUMNS=1000; setopt no_beep no_list_ambiguous; bindkey \"^I\" list-choices; print rea{{dy,dy}}'
             zpty -r -m shell found '*ready ready*'
             zpty -w -n shell $'{line}\\t'; sleep 1.5; zpty -w -n shell $'\\C-u'; line 'print do{{ne,ne}}'
             zpty -r -m shell found '*done done*'; print -r -- \"$found\""
        );
        let said = shell("zsh", &["-f", "-c", &script]);
        offers("zsh", line, &without_control(&said), offered, others);
    }
}

#[test]
#[ignore = "needs mandoc: apt-get install mandoc"]
fn the_man_page_is_read_without_a_warning() {
    let said = shell("mandoc", &["-man", "-Wstyle", "-Tlint", "docs/pullet.1"]);
    assert_eq!(said, "");
    let page = shell("mandoc", &["-man", "-Tascii", "docs/pullet.1"]).replace('\u{8}', "");
    assert!(page.lines().count() > 150, "{page}");
}

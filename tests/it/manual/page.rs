//! The man page, in the macros of man(7).

use std::fmt::Write as _;

use pullet::clock;
use pullet::protocol::Timestamp;

use super::{Setting, Subcommand};

/// Text as roff takes it: no backslash, no dot or quote that begins a line, no character that has another shape.
fn text(plain: &str) -> String {
    let mut escaped = String::new();
    for c in plain.chars() {
        match c {
            '\\' => escaped.push_str("\\e"),
            '-' => escaped.push_str("\\-"),
            '~' => escaped.push_str("\\(ti"),
            '^' => escaped.push_str("\\(ha"),
            '`' => escaped.push_str("\\(ga"),
            '\'' => escaped.push_str("\\(aq"),
            '…' => escaped.push_str("..."),
            c => {
                assert!(c.is_ascii() && (c == '\n' || !c.is_ascii_control()), "{c:?} in {plain:?}");
                escaped.push(c);
            }
        }
    }
    let lines = escaped.lines().map(|line| if line.starts_with('.') { format!("\\&{line}") } else { line.to_owned() });
    lines.collect::<Vec<_>>().join("\n")
}

/// Each sentence begins a line, and none is longer than 80 bytes, as mandoc wants it.
fn sentences(plain: &str) -> String {
    let mut lines = vec![String::new()];
    for word in plain.split_whitespace().map(text) {
        let Some(line) = lines.last_mut() else { continue };
        if line.is_empty() {
            line.push_str(&word);
        } else if line.ends_with('.') || line.len() + word.len() > 76 {
            lines.push(word);
        } else {
            line.push(' ');
            line.push_str(&word);
        }
    }
    lines.join("\n")
}

/// The whole page.
pub(super) fn page(commands: &[Subcommand], settings: &[Setting]) -> String {
    let mut page =
        String::from(".\\\" Made from src/args.rs and src/config/settings.rs by a test (tests/it/manual).\n");
    let _ = write!(
        page,
        ".TH PULLET 1 {} \"Pullet {}\" \"User Commands\"\n\
         .SH NAME\npullet \\- agent on a k3s node that nobody can reach from outside\n\
         .SH SYNOPSIS\n.B pullet\n.I command\n.RI [ \\-\\-flag\\~value \" | \" \\-\\-flag=value ]...\n\
         .SH DESCRIPTION\n{}\n",
        // Moved with each release.
        Timestamp::from_unix_seconds(clock::floor()).to_string().get(..10).unwrap(),
        env!("CARGO_PKG_VERSION"),
        sentences(
            "Pullet runs on a node that nobody can reach from outside, fetches jobs from its control plane over one outgoing \
             HTTPS connection, applies them to the cluster or the directory it is given, and reports back."
        )
    );
    page.push_str(".SH COMMANDS\n");
    for command in commands {
        let name = match command.takes_file {
            true => format!(".BI {} \" file\"", command.name),
            false => format!(".B {}", command.name),
        };
        let _ = write!(page, ".TP\n{name}\n{}\n", sentences(&format!("{}.", command.what)));
        if !command.purpose.is_empty() {
            let _ = write!(page, ".IP\n{}\n", sentences(&command.purpose));
        }
    }
    page.push_str(".SH OPTIONS\n");
    let _ = writeln!(
        page,
        "{}",
        sentences(
            "Every flag is also a key of the configuration file: --state-dir is state_dir. A flag wins over the file. A flag that \
             may be repeated is a list there."
        )
    );
    for setting in settings {
        let flag = text(&setting.flag);
        let flag = match setting.is_switch() {
            true => format!(".BR {flag} [=true|false]"),
            false => format!(".BI {flag} \" {}\"", text(&setting.value)),
        };
        let _ = write!(page, ".TP\n{flag}\n{}\n", sentences(&format!("{}.", setting.what)));
    }
    for (title, entries) in [
        (
            "FILES",
            [
                (
                    "/etc/pullet/pullet.toml",
                    "the configuration file, where it is there and no --config names another one",
                ),
                ("/var/lib/pullet", "the state: credential, journal, clock"),
                ("/run/pullet/status.json", "what the running agent says of itself, for pullet status"),
            ]
            .as_slice(),
        ),
        (
            "ENVIRONMENT",
            &[
                ("HTTPS_PROXY, ALL_PROXY, NO_PROXY", "the way to the control plane, where no --proxy is given"),
                ("KUBECONFIG", "the kubeconfig, where no --kubeconfig is given"),
                ("CREDENTIALS_DIRECTORY", "where systemd puts pullet.token, pullet.ca and pullet.key"),
            ],
        ),
        (
            "SIGNALS",
            &[
                (
                    "SIGTERM, SIGINT",
                    "end: the job at hand is finished, what waits is posted; a second one ends at once",
                ),
                ("SIGHUP", "poll now"),
                ("SIGUSR1", "get a new credential"),
            ],
        ),
        (
            "EXIT STATUS",
            &[
                ("0", "done, or stopped by a signal"),
                ("1", "failed; the last line says why, and what can be done"),
                ("2", "wrong usage or configuration"),
                ("3", "another agent has taken over the cluster"),
                ("4", "of doctor: it works, and will not for long, or not wholly"),
            ],
        ),
    ] {
        let _ = writeln!(page, ".SH {}", if title.contains(' ') { format!("\"{title}\"") } else { title.to_owned() });
        for (name, what) in entries {
            let _ = write!(page, ".TP\n.B {}\n{}\n", text(name), sentences(&format!("{what}.")));
        }
    }
    page.push_str(".SH SEE ALSO\n.BR kubectl (1),\n.BR systemctl (1)\n");
    page
}

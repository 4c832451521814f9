//! Completions for bash, zsh and fish.

use std::fmt::Write as _;

use super::{Setting, Subcommand};

const HEAD: &str = "Made from src/args.rs and src/config/settings.rs by a test (tests/it/manual).";

fn flags_of(command: &Subcommand, settings: &[Setting]) -> String {
    let settings = settings.iter().filter(|_| command.takes_settings).map(|setting| setting.flag.as_str());
    let mut flags: Vec<&str> = command.own.iter().map(|(flag, _)| flag.as_str()).chain(settings).collect();
    if !flags.is_empty() {
        flags.push("--help");
    }
    flags.join(" ")
}

fn names(commands: &[Subcommand]) -> String {
    commands.iter().map(|command| command.name.as_str()).collect::<Vec<_>>().join(" ")
}

fn with_value(settings: &[Setting], value: &str) -> String {
    let flags = settings.iter().filter(|setting| setting.value == value).map(|setting| setting.flag.as_str());
    flags.collect::<Vec<_>>().join(" | ")
}

/// What stands between single quotes in any of the three.
fn quoted(text: &str) -> String {
    text.replace('\'', "’").replace('\\', "/")
}

/// Of a description the part that says what it is.
fn brief(what: &str) -> &str {
    let what = what.split(" (").next().unwrap_or(what);
    what.split(';').next().unwrap_or(what)
}

pub(super) fn bash(commands: &[Subcommand], settings: &[Setting]) -> String {
    let mut script = format!(
        "# shellcheck shell=bash
# Completion of pullet for bash. {HEAD}
# In /usr/share/bash-completion/completions it is called pullet; or: . pullet.bash

_pullet() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before='' words=''
    COMPREPLY=()
    if [ \"$COMP_CWORD\" -le 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W '{} --help --version' -- \"$current\")
        return
    fi
    before=${{COMP_WORDS[COMP_CWORD - 1]}}
    # A line is cut into words at =, too.
    if [ \"$current\" = = ]; then
        current=
    elif [ \"$before\" = = ]; then
        before=${{COMP_WORDS[COMP_CWORD - 2]}}
    fi
    case $before in
",
        names(commands)
    );
    let _ = write!(
        script,
        "        {})
            mapfile -t COMPREPLY < <(compgen -f -- \"$current\")
            compopt -o filenames
            return
            ;;
        {})
            mapfile -t COMPREPLY < <(compgen -d -- \"$current\")
            compopt -o filenames
            return
            ;;
",
        with_value(settings, "file"),
        with_value(settings, "dir")
    );
    let mut free = Vec::new();
    for setting in settings {
        match setting.choices() {
            // It may stand alone: what follows is another flag.
            _ if setting.is_switch() => {}
            choices if !choices.is_empty() => {
                let _ = write!(
                    script,
                    "        {})
            mapfile -t COMPREPLY < <(compgen -W '{}' -- \"$current\")
            return
            ;;
",
                    setting.flag,
                    choices.join(" ")
                );
            }
            _ if setting.value != "file" && setting.value != "dir" => free.push(setting.flag.as_str()),
            _ => {}
        }
    }
    free.extend(
        commands.iter().flat_map(|command| &command.own).filter(|(_, has)| *has).map(|(flag, _)| flag.as_str()),
    );
    // Two commands may have the same one.
    free.dedup();
    let _ = write!(script, "        {}) return ;;\n    esac\n    case ${{COMP_WORDS[1]}} in\n", free.join(" | "));
    for command in commands {
        let words = if command.name == "help" { names(commands) } else { flags_of(command, settings) };
        if !words.is_empty() {
            let _ = writeln!(script, "        {}) words='{words}' ;;", command.name);
        }
    }
    let takers: Vec<&str> =
        commands.iter().filter(|command| command.takes_file).map(|command| command.name.as_str()).collect();
    let _ = write!(
        script,
        "    esac
    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$current\")
    case ${{COMP_WORDS[1]}} in
        {})
            if [[ $current != -* ]]; then
                mapfile -t COMPREPLY < <(compgen -f -- \"$current\")
                compopt -o filenames
            fi
            ;;
    esac
}}

complete -F _pullet pullet
",
        takers.join(" | ")
    );
    script
}

pub(super) fn zsh(commands: &[Subcommand], settings: &[Setting]) -> String {
    let bare = |text: &str| quoted(text).replace(['[', ']'], "").replace(':', "\\:");
    let mut script = format!(
        "#compdef pullet
# Completion of pullet for zsh. {HEAD}
# It belongs into a directory of $fpath, /usr/share/zsh/vendor-completions for one.

_pullet() {{
    local curcontext=$curcontext state line
    typeset -A opt_args
    local -a commands settings
    commands=(
"
    );
    for command in commands {
        let _ = writeln!(script, "        '{}:{}'", command.name, bare(&command.what));
    }
    script.push_str("    )\n    settings=(\n");
    for setting in settings {
        let may_repeat = if setting.what.contains("repeat for more") { "*" } else { "" };
        let action = match setting.choices() {
            _ if setting.value == "file" => "_files".to_owned(),
            _ if setting.value == "dir" => "_files -/".to_owned(),
            choices if !choices.is_empty() => format!("({})", choices.join(" ")),
            _ => " ".to_owned(),
        };
        // It may stand alone.
        let (value, optional) = if setting.is_switch() { ("=-", ":") } else { ("=", "") };
        let _ = writeln!(
            script,
            "        '{may_repeat}{}{value}[{}]:{optional}{}:{action}'",
            setting.flag,
            bare(brief(&setting.what)),
            bare(setting.value.split('|').next().filter(|_| !setting.value.contains('|')).unwrap_or("value")),
        );
    }
    script.push_str(
        "    )
    _arguments -C '1:command:->command' '*::argument:->argument'
    case $state in
        command) _describe -t commands command commands ;;
        argument)
            case $words[1] in
                help) _describe -t commands command commands ;;
",
    );
    for command in commands.iter().filter(|command| command.name != "help") {
        let own = command
            .own
            .iter()
            .map(|(flag, has_value)| if *has_value { format!(" '{flag}=[]:value: '") } else { format!(" '{flag}'") });
        let own: String = own.collect();
        let settings = if command.takes_settings { " $settings" } else { "" };
        let file = if command.takes_file { " '1:file:_files'" } else { "" };
        if !own.is_empty() || !settings.is_empty() {
            let _ = writeln!(script, "                {}) _arguments '--help'{own}{settings}{file} ;;", command.name);
        }
    }
    script.push_str("            esac\n            ;;\n    esac\n}\n\n_pullet \"$@\"\n");
    script
}

pub(super) fn fish(commands: &[Subcommand], settings: &[Setting]) -> String {
    let mut script = format!(
        "# Completion of pullet for fish. {HEAD}
# It belongs into /usr/share/fish/vendor_completions.d or ~/.config/fish/completions.

complete -c pullet -f
"
    );
    for command in commands {
        let _ = writeln!(
            script,
            "complete -c pullet -n __fish_use_subcommand -a {} -d '{}'",
            command.name,
            quoted(brief(&command.what))
        );
    }
    let of = |commands: &[&str]| format!("'__fish_seen_subcommand_from {}'", commands.join(" "));
    let _ = writeln!(script, "complete -c pullet -n {} -a '{}'", of(&["help"]), names(commands));
    for command in commands {
        for (flag, has_value) in &command.own {
            let value = if *has_value { " -x" } else { "" };
            let flag = flag.trim_start_matches('-');
            let _ = writeln!(script, "complete -c pullet -n {} -l {flag}{value}", of(&[command.name.as_str()]));
        }
        if command.takes_file {
            let _ = writeln!(script, "complete -c pullet -n {} -F", of(&[command.name.as_str()]));
        }
    }
    let takers: Vec<&str> =
        commands.iter().filter(|command| command.takes_settings).map(|command| command.name.as_str()).collect();
    for setting in settings {
        let value = match setting.choices() {
            _ if setting.is_switch() => String::new(),
            _ if setting.value == "file" => " -rF".to_owned(),
            _ if setting.value == "dir" => " -xa '(__fish_complete_directories)'".to_owned(),
            choices if !choices.is_empty() => format!(" -xa '{}'", choices.join(" ")),
            _ => " -x".to_owned(),
        };
        let _ = writeln!(
            script,
            "complete -c pullet -n {} -l {}{value} -d '{}'",
            of(&takers),
            setting.flag.trim_start_matches('-'),
            quoted(brief(&setting.what))
        );
    }
    script
}

//! What the demo is asked to do.

use std::ffi::OsString;
use std::path::PathBuf;

/// `--help`.
pub(crate) const HELP: &str = "\
Shows what Pullet does: a control plane, an agent, jobs of each kind, a line that fails.
Takes some ten seconds, listens on the loopback only, and needs neither a cluster nor root.

Usage: cargo run --example demo [-- OPTIONS]

Options:
  --kubeconfig FILE  apply to this cluster instead of a directory. Needs the right to make the namespace
                     pullet-demo and objects in it. Nothing else is installed: without the
                     CustomResourceDefinitions of vWorkspace the jobs for an application and an operation
                     end with UnknownKind, which the demo shows and accepts
  --context NAME     the context of that kubeconfig
  --verbose          show the agent's own log among the lines
  --help             this text

What was applied stays in a directory that is named at the end (or in the cluster), with the command that
removes it. Ctrl-C ends the demo and its agent at any time.";

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Show the help.
    Help,
    /// Tell the story.
    Run(Options),
}

/// How to tell the story.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Apply to this cluster; none = to a directory.
    pub(crate) cluster: Option<Cluster>,
    /// Show the agent's log.
    pub(crate) verbose: bool,
}

/// A cluster to apply to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cluster {
    /// `--kubeconfig`.
    pub(crate) kubeconfig: PathBuf,
    /// `--context`.
    pub(crate) context: Option<String>,
}

/// Reads the arguments after the program's name, `--name value` and `--name=value` alike.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Command, String> {
    let mut arguments = arguments;
    let (mut kubeconfig, mut context, mut verbose) = (None, None, false);
    while let Some(argument) = arguments.next() {
        let argument = argument.into_string().map_err(|argument| format!("{} is no text", argument.display()))?;
        let (name, inline) = argument
            .split_once('=')
            .map_or((argument.as_str(), None), |(name, value)| (name, Some(OsString::from(value))));
        let mut value = || inline.clone().or_else(|| arguments.next()).ok_or_else(|| format!("{name} needs a value"));
        match name {
            "--kubeconfig" => kubeconfig = Some(PathBuf::from(value()?)),
            "--context" => context = Some(value()?.to_string_lossy().into_owned()),
            "--verbose" if inline.is_none() => verbose = true,
            "--help" | "-h" if inline.is_none() => return Ok(Command::Help),
            _ => return Err(format!("unknown argument {argument}")),
        }
    }
    let cluster = match (kubeconfig, context) {
        (Some(kubeconfig), context) => Some(Cluster { kubeconfig, context }),
        (None, None) => None,
        (None, Some(_)) => return Err("--context needs --kubeconfig".to_owned()),
    };
    Ok(Command::Run(Options { cluster, verbose }))
}

//! What `setup` and `uninstall` are asked for beside settings.

use std::path::PathBuf;

use crate::config::Settings;

/// The arguments of both commands.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct Options {
    /// The settings that were given as flags.
    pub settings: Settings,
    /// What lies there is set up, and not what lies below `/`.
    pub root: Option<PathBuf>,
    /// Say what would be done, and do none of it.
    pub is_dry_run: bool,
    /// `setup`: by k3s's manifests, and not by the unit.
    pub in_cluster: bool,
    /// `setup`: neither register nor start.
    pub no_start: bool,
    /// `uninstall`: of this machine only.
    pub leaves_cluster: bool,
    /// `uninstall`: with definitions, resources and workloads.
    pub purges: bool,
    /// `uninstall`: do not ask.
    pub yes: bool,
}

/// The switches that are no settings.
const SWITCHES: [&str; 6] =
    ["--dry-run", "--in-cluster", "--leave-cluster", "--no-start", "--purge-resources", "--yes"];

impl Options {
    /// Takes what is ours out of the arguments, for a command that knows just these switches.
    ///
    /// # Errors
    /// With what is wrong about `--root`.
    pub fn take(arguments: &[String], known: &[&str]) -> Result<(Self, Vec<String>), &'static str> {
        let mut options = Self::default();
        let mut rest = Vec::new();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let root = match argument.strip_prefix("--root") {
                Some("") => Some(arguments.next().ok_or("--root needs a value")?.as_str()),
                Some(value) => value.strip_prefix('='),
                None => None,
            };
            if let Some(root) = root {
                options.root = Some(PathBuf::from(root));
                continue;
            }
            match SWITCHES.iter().position(|switch| switch == argument).filter(|_| known.contains(&argument.as_str())) {
                Some(0) => options.is_dry_run = true,
                Some(1) => options.in_cluster = true,
                Some(2) => options.leaves_cluster = true,
                Some(3) => options.no_start = true,
                Some(4) => options.purges = true,
                Some(_) => options.yes = true,
                None => rest.push(argument.clone()),
            }
        }
        match &options.root {
            Some(root) if !root.is_absolute() => Err("--root takes a whole path, such as /mnt/card"),
            _ => Ok((options, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Options;

    fn take(line: &str, known: &[&str]) -> Result<(Options, String), &'static str> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::take(&words, known).map(|(options, rest)| (options, rest.join(" ")))
    }

    #[test]
    fn what_is_ours_is_taken_and_the_rest_is_left() {
        let (options, rest) =
            take("--dry-run --wait 5 --root /a --in-cluster", &["--dry-run", "--in-cluster"]).unwrap();
        assert!(options.is_dry_run && options.in_cluster && !options.yes);
        assert_eq!((options.root.unwrap().to_str(), rest.as_str()), (Some("/a"), "--wait 5"));
        assert_eq!(take("--root=/b", &[]).unwrap().0.root.unwrap().to_str(), Some("/b"));
        // A switch of the other command, and what only begins as one of ours, are for whoever knows flags.
        assert_eq!(take("--yes --rooted x", &["--dry-run"]).unwrap().1, "--yes --rooted x");
    }

    #[test]
    fn a_root_is_a_whole_path() {
        assert!(take("--root", &[]).is_err());
        // Of a variable that is not set. It is not the root of this system.
        for words in [vec!["--root=".to_owned()], vec!["--root".to_owned(), String::new()]] {
            assert!(Options::take(&words, &[]).is_err());
        }
        assert!(take("--root card", &[]).is_err());
    }
}

//! `pullet check`: what would become of a job, without doing it.

use std::fmt::Write as _;
use std::io::{self, Read};
use std::path::Path;

use super::{Failure, say};
use crate::clock;
use crate::config::Config;
use crate::job::check::{Report, check as check_job};
use crate::limits;
use crate::protocol::Timestamp;

/// Prints which clauses the job of a file passes. Fails when one of them stops it.
pub(super) fn check(config: &Config, file: &Path, is_json: bool) -> Result<(), Failure> {
    let text = read(file).map_err(|error| Failure::usage(format!("{} cannot be read: {error}", file.display())))?;
    let report = check_job(&text, &config.policy, Timestamp::from_unix_seconds(clock::unix_seconds()));
    if is_json {
        // A report of texts cannot fail to be written to memory.
        say(&serde_json::to_string(&report).unwrap_or_default());
    } else {
        say(print(&report).trim_end());
    }
    match report.stopped {
        None => Ok(()),
        Some(stopped) => Err(Failure::failed(format!("refused: {}: {}", stopped.reason, stopped.message))),
    }
}

/// One byte more than is taken, so that a longer file is told from one that is as long as may be.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let bound = limits::CHECK_FILE_BYTES as u64 + 1;
    if file.as_os_str() == "-" {
        io::stdin().take(bound).read_to_end(&mut text)?;
    } else {
        std::fs::File::open(file)?.take(bound).read_to_end(&mut text)?;
    }
    Ok(text)
}

fn print(report: &Report) -> String {
    let mut text = String::new();
    let unknown = "(not readable)";
    // Writing to a string does not fail.
    let _ = writeln!(text, "job       {}", printable(report.job.as_deref().unwrap_or(unknown)));
    let _ = writeln!(text, "action    {}", printable(report.action.as_deref().unwrap_or(unknown)));
    for clause in &report.passed {
        let _ = writeln!(text, "passed    {}", clause.describe());
    }
    match (&report.stopped, report.left) {
        (Some(stopped), _) => {
            let _ = writeln!(text, "stopped   {}", stopped.clause.describe());
        }
        (None, left) => {
            let _ = writeln!(text, "admitted");
            if let Some(left) = left {
                let _ = writeln!(text, "left      {left}");
            }
        }
    }
    text
}

/// What somebody else wrote does not steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

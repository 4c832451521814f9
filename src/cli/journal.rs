//! `pullet journal`: what waits on the disk.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread;

use serde::Serialize;

use super::{Failure, say};
use crate::config::{DEFAULT_STATE, Settings};
use crate::journal::survey::{Entry, Survey, View, ViewError, Waiting};
use crate::limits;

/// Prints what waits, and with `follows` every record that comes, until nobody reads any more.
pub(super) fn journal(settings: Settings, is_json: bool, follows: bool) -> Result<(), Failure> {
    let settings = settings.with_file()?;
    let state_dir = settings.state_dir.unwrap_or_else(|| PathBuf::from(DEFAULT_STATE));
    let (view, survey) = look(&state_dir).map_err(Failure::failed)?;
    match (is_json, follows) {
        (true, false) => say(&serde_json::to_string_pretty(&survey).map_err(Failure::failed)?),
        (true, true) => say(&as_line(&survey)),
        (false, _) => say(print(&survey).trim_end()),
    }
    if follows { follow(&state_dir, view, is_json) } else { Ok(()) }
}

/// A look while nothing is written, or the fifth: pages that come during one may hide what they carry.
fn look(state_dir: &Path) -> Result<(View, Survey), ViewError> {
    for _ in 0..4 {
        let view = View::open(state_dir)?;
        let survey = view.survey();
        if !view.is_stale() {
            return Ok((view, survey));
        }
    }
    let view = View::open(state_dir)?;
    let survey = view.survey();
    Ok((view, survey))
}

fn follow(state_dir: &Path, mut view: View, is_json: bool) -> Result<(), Failure> {
    let mut known = view.numbers();
    loop {
        thread::sleep(limits::JOURNAL_LOOK);
        if !view.is_stale() {
            continue;
        }
        view = match View::open(state_dir) {
            Ok(view) => view,
            // It is being made anew.
            Err(ViewError::Absent(_)) => continue,
            Err(error) => return Err(Failure::failed(error)),
        };
        let mut entries = Vec::new();
        let mut met = BTreeSet::new();
        view.others(&known, |entry| {
            if met.insert(entry.number) {
                entries.push(entry);
            }
        });
        known = view.numbers();
        entries.sort_by_key(|entry| entry.number);
        for entry in entries {
            let line = if is_json { as_line(&entry) } else { line_of(&entry) };
            // Nobody reading any more is the end of it.
            if writeln!(io::stdout(), "{}", line.trim_end()).and_then(|()| io::stdout().flush()).is_err() {
                return Ok(());
            }
        }
    }
}

/// Texts and numbers: writing them to memory does not fail.
fn as_line(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn print(survey: &Survey) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:15}{value}");
    };
    let written = survey.written_at.map_or_else(
        || "nothing was written yet".to_owned(),
        |at| {
            format!(
                "page {} written {at}{}",
                survey.pages_written,
                if survey.is_closed { " at a clean stop" } else { "" }
            )
        },
    );
    line("journal", format!("{} bytes; {written}", survey.bytes));
    let unreadable = match survey.pages_unreadable {
        0 => String::new(),
        pages => format!("; {pages} CANNOT BE READ"),
    };
    line("pages", format!("{} of {} hold what waits{unreadable}", survey.pages_used, survey.pages));
    line(
        "waiting",
        format!(
            "{} jobs, {} results and {} events, as of that page",
            survey.jobs.count, survey.results.count, survey.events.count
        ),
    );
    let lost = survey.lost;
    let told = if lost.told { "the control plane knows" } else { "the control plane does not know yet" };
    line(
        "events lost",
        match (lost.exactly, lost.at_most) {
            (0, 0) => "none".to_owned(),
            (exactly, 0) => format!("{exactly}; {told}"),
            (exactly, at_most) => format!("{exactly}, and at most {at_most} more; {told}"),
        },
    );
    for Waiting { count, oldest } in [&survey.jobs, &survey.results, &survey.events] {
        for entry in oldest {
            text.push_str(&line_of(entry));
        }
        if let Some(more) = count.checked_sub(oldest.len()).filter(|more| *more > 0) {
            let _ = writeln!(text, "{:>10}  and {more} more", "…");
        }
    }
    text
}

/// Number, kind, id and object, size.
fn line_of(entry: &Entry) -> String {
    let named = [&entry.id, &entry.about];
    let named: Vec<String> = named.iter().filter(|text| !text.is_empty()).map(|text| printable(text)).collect();
    let named = if named.is_empty() { "-".to_owned() } else { named.join(" ") };
    format!("{:>10}  {} {named}, {} bytes\n", entry.number, entry.kind, entry.bytes)
}

/// What somebody else wrote does not steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::{line_of, print};
    use crate::journal::survey::{Entry, Losses, Survey, Waiting};
    use crate::protocol::Timestamp;

    #[test]
    fn a_person_reads_what_waits() {
        let entry = |number, kind: &str, id: &str, about: &str| Entry {
            number,
            kind: kind.into(),
            id: id.into(),
            about: about.into(),
            bytes: 9,
        };
        let survey = Survey {
            bytes: 65_536,
            pages: 16,
            pages_used: 2,
            pages_written: 70,
            pages_unreadable: 1,
            written_at: Some(Timestamp::from_unix_seconds(1_800_000_000)),
            is_closed: false,
            jobs: Waiting { count: 1, oldest: vec![entry(3, "job", "j1", "v1 ConfigMap n/a")] },
            results: Waiting::default(),
            events: Waiting { count: 7, oldest: vec![entry(4, "ConditionTransition", "", "v1 Pod n/\u{1b}[2J")] },
            lost: Losses { exactly: 2, at_most: 256, told: false },
        };
        let text = print(&survey);
        let expected = [
            "journal        65536 bytes; page 70 written 2027-01-15T08:00:00Z",
            "pages          2 of 16 hold what waits; 1 CANNOT BE READ",
            "waiting        1 jobs, 0 results and 7 events, as of that page",
            "events lost    2, and at most 256 more; the control plane does not know yet",
            "         3  job j1 v1 ConfigMap n/a, 9 bytes",
            "         4  ConditionTransition v1 Pod n/\u{fffd}[2J, 9 bytes",
            "         …  and 6 more",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        assert_eq!(line_of(&entry(5, "started", "", "")), "         5  started -, 9 bytes\n");
        let fresh = print(&Survey::default());
        assert!(fresh.contains("nothing was written yet") && fresh.contains("events lost    none"), "{fresh}");
    }
}

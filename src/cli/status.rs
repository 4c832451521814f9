//! `pullet status`: what the running agent knows of itself.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::{Failure, say};
use crate::clock;
use crate::config::{DEFAULT_STATUS, Settings, status_file};
use crate::metrics::Bytes;
use crate::protocol::Timestamp;
use crate::status::{ConnectionState, Status, describe_clock};

/// Prints the status, and fails with one line where something is wrong.
pub(super) fn status(settings: Settings, is_json: bool) -> Result<(), Failure> {
    let settings = settings.with_file()?;
    let status = read(settings.status_file).map_err(Failure::failed)?;
    // Before that there is nothing to tell but what it is tried for.
    let is_registered = status.connection.state != ConnectionState::Unregistered;
    if is_json {
        say(&serde_json::to_string_pretty(&status).map_err(Failure::failed)?);
    } else if is_registered {
        say(print(&status, clock::unix_seconds()).trim_end());
    }
    match status.fault(clock::unix_seconds()) {
        None => Ok(()),
        Some(fault) if !is_registered => {
            Err(Failure::failed([&fault, "; pullet doctor says what is in the way"].concat()))
        }
        Some(fault) => Err(Failure::failed(fault)),
    }
}

/// Reads the status of the agent that runs with these settings.
pub(super) fn read(configured: Option<PathBuf>) -> Result<Status, Box<dyn std::error::Error>> {
    // Who may not write the default one may still read it.
    let path = match (configured.is_none(), status_file(configured)) {
        (_, Some(path)) => path,
        (true, None) => DEFAULT_STATUS.into(),
        (false, None) => return Err("status_file is none: the agent writes no status to be read".into()),
    };
    Ok(Status::read(&path)?)
}

fn print(status: &Status, now: u64) -> String {
    let since = |time: Timestamp| age(now, time);
    let connection = &status.connection;
    let state = match connection.state {
        ConnectionState::Connected => "connected",
        ConnectionState::Disconnected => "disconnected",
        ConnectionState::Forbidden => "not let in (403)",
        ConnectionState::Refused => "credential not accepted (401)",
        ConnectionState::Starting => "not connected yet",
        ConnectionState::Unreachable => "not connected",
        ConnectionState::Unregistered => "not registered yet",
    };
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:15}{}", printable(&value));
    };
    line("connection", format!("{state} for {}", since(connection.since)));
    line("control plane", format!("{} as {}", status.endpoint, status.cluster));
    let answer = connection.last_answer.map_or_else(|| "never".to_owned(), |time| format!("{} ago", since(time)));
    line("last answer", answer);
    let hold = match (status.poll.hold_state.as_str(), status.poll.hold_failed_seconds) {
        ("fixed", _) => "as configured".to_owned(),
        ("searching", _) => "still adapting".to_owned(),
        (_, Some(failed)) => format!("settled; {failed} s is more than the way bears"),
        _ => "settled".to_owned(),
    };
    line("polls", format!("held for {} s, {hold}", status.poll.hold_seconds));
    let buffer = status.buffer;
    let lost = if buffer.lost == 0 { "none lost".to_owned() } else { format!("{} EVENTS LOST", buffer.lost) };
    line(
        "waiting",
        format!("{} reports of jobs and {} events of {} each; {lost}", buffer.reports, buffer.events, buffer.capacity),
    );
    let jobs = status.jobs;
    line(
        "jobs",
        format!(
            "{} open; since the start {} succeeded, {} failed, {} without effect, {} in conflict",
            jobs.open, jobs.succeeded, jobs.failed, jobs.noop, jobs.conflict
        ),
    );
    line("target", status.target.clone());
    if status.unreported > 0 {
        let count = status.unreported;
        line("not compared", format!("objects beyond the first 1,000, seen {count} times: their changes are not told"));
    }
    if !status.left_out.is_empty() {
        line(
            "not reported",
            format!("{}: the log names the reason; what is so is told when they can be listed", status.left_out),
        );
    }
    line("trust", status.trust.describe());
    line("credential", status.credential.describe());
    if let Some(end) = connection.certificate_ends {
        let late = if connection.certificate_is_late { "; NOT RENEWED YET" } else { "" };
        line("certificate", format!("ends in {}{late}", left(now, end)));
    }
    line("clock", describe_clock(&status.clock).to_owned());
    let traffic = status.traffic;
    let budget = traffic.monthly_budget.map_or_else(String::new, |budget| format!(" of {}", size(budget)));
    line("bytes", format!("today {}, this month {}{budget}", both(traffic.today), both(traffic.this_month)));
    line(
        "to the cluster",
        format!("today {}, this month {}", both(traffic.cluster_today), both(traffic.cluster_this_month)),
    );
    line("flash", status.flash.describe());
    if !status.journal_fault.is_empty() {
        line("journal", status.journal_fault.clone());
    }
    line("memory", format!("{} kB, at most {} kB", status.memory.rss_kb, status.memory.rss_peak_kb));
    line("agent", format!("pullet {}, process {}, up for {}", status.agent, status.pid, since(status.started_at)));
    text
}

fn both(bytes: Bytes) -> String {
    format!("{} sent and {} received", size(bytes.sent), size(bytes.received))
}

/// Three digits are enough for a person.
fn size(bytes: u64) -> String {
    let tenths = |unit: u64| format!("{}.{}", bytes / unit, bytes % unit / (unit / 10));
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{} kB", tenths(1_000)),
        1_000_000..1_000_000_000 => format!("{} MB", tenths(1_000_000)),
        _ => format!("{} GB", tenths(1_000_000_000)),
    }
}

fn age(now: u64, time: Timestamp) -> String {
    span(now.saturating_sub(u64::try_from(time.unix_seconds()).unwrap_or(0)))
}

fn left(now: u64, time: Timestamp) -> String {
    span(u64::try_from(time.unix_seconds()).unwrap_or(0).saturating_sub(now))
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// What a server said moves no cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::{age, print, size};
    use crate::protocol::Timestamp;
    use crate::status::tests::status;
    use crate::status::{ConnectionState, ConnectionStatus, PollStatus, Status, TrafficStatus};

    fn with(state: ConnectionState, fault: &str) -> Status {
        let connection = ConnectionStatus { state, fault: fault.to_owned(), ..status().connection };
        Status { connection, ..status() }
    }

    #[test]
    fn a_person_reads_how_it_is() {
        let text = print(&status(), 1_800_000_061);
        for line in [
            "connection     connected for 61 s",
            "control plane  https://control.example as c1",
            "last answer    61 s ago",
            "polls          held for 90 s, settled; 120 s is more than the way bears",
            "waiting        1 reports of jobs and 2 events of 256 each; none lost",
            "jobs           1 open; since the start 2 succeeded, 3 failed, 4 without effect, 5 in conflict",
            "bytes          today 12.3 kB sent and 4.5 MB received, this month 12.3 kB sent and 4.5 MB received",
            "trust          only jobs that the owner signed; keyring 3 of epoch 2, fingerprint f",
            "credential     registered 2027-01-15T08:00:00Z, ends never, to be rotated when asked for",
            "clock          confirmed",
            "flash          0 writes and 0 syncs, 0.00 and 0.00 an hour",
            "memory         3400 kB, at most 3500 kB",
        ] {
            assert!(text.lines().any(|printed| printed == line), "{line}\n{text}");
        }
        assert!(text.lines().all(|line| line.len() < 130));
        assert!(!text.contains("\njournal "));
        let fault = Status { journal_fault: "it is full of noise".into(), ..status() };
        assert!(print(&fault, 0).contains("\njournal        it is full of noise\n"));
        let forged = Status { endpoint: "a\u{1b}[2J\nb".into(), ..status() };
        assert_eq!(print(&forged, 0).lines().count(), text.lines().count());
        let poll = PollStatus { hold_seconds: 30, hold_state: "fixed".into(), hold_failed_seconds: None };
        assert!(print(&Status { poll, ..status() }, 0).contains("held for 30 s, as configured"));
    }

    fn fault(status: &Status, now: u64) -> Option<String> {
        status.fault(now)
    }

    #[test]
    fn what_is_wrong_is_one_line_with_what_to_do() {
        assert_eq!(fault(&status(), 0), None);
        for (state, words) in [
            (ConnectionState::Unreachable, "kill -HUP"),
            (ConnectionState::Disconnected, "no route"),
            (ConnectionState::Forbidden, "pullet register"),
            (ConnectionState::Refused, "one-time token"),
            (ConnectionState::Starting, "not connected yet"),
            (ConnectionState::Unregistered, "not registered yet, and tries since 2027-01-15T08:00:00Z: no route"),
        ] {
            let text = fault(&with(state, "no route"), 0).unwrap();
            assert!(text.contains(words) && !text.contains('\n'), "{text}");
        }
        assert!(fault(&with(ConnectionState::Unreachable, ""), 0).unwrap().contains("no answer came"));
        let traffic = TrafficStatus { monthly_budget: Some(4_572_300), ..status().traffic };
        let text = fault(&Status { traffic, ..status() }, 0).unwrap();
        assert!(text.contains("the monthly budget is used up"), "{text}");
        let traffic = TrafficStatus { monthly_budget: Some(4_572_301), ..status().traffic };
        assert_eq!(fault(&Status { traffic, ..status() }, 0), None);
        assert!(print(&Status { traffic, ..status() }, 0).contains("4.5 MB received of 4.5 MB\n"));
    }

    #[test]
    fn it_is_said_when_the_certificate_ends_and_that_it_has_ended() {
        let at = Timestamp::from_unix_seconds;
        let until = |state, certificate_is_late| ConnectionStatus {
            certificate_ends: Some(at(10_000)),
            certificate_is_late,
            ..with(state, "the connection was cut").connection
        };
        let status = |state, is_late| Status { connection: until(state, is_late), ..status() };
        let text = print(&status(ConnectionState::Connected, false), 0);
        assert!(text.contains("\ncertificate    ends in 2 h\n"), "{text}");
        assert!(!print(&crate::status::tests::status(), 0).contains("\ncertificate"));
        let late = print(&status(ConnectionState::Connected, true), 9_700);
        assert!(late.contains("\ncertificate    ends in 5 min; NOT RENEWED YET\n"), "{late}");
        let text = fault(&status(ConnectionState::Unreachable, true), 10_000).unwrap();
        assert!(text.contains("has ended: the connection was cut") && !text.contains('\n'), "{text}");
        assert!(fault(&status(ConnectionState::Unreachable, true), 9_999).unwrap().contains("kill -HUP"));
        assert_eq!(fault(&status(ConnectionState::Connected, true), 10_000), None);
    }

    #[test]
    fn sizes_and_ages_have_units() {
        let sizes = [0, 999, 1_000, 1_550, 999_999, 1_000_000, 2_000_000_000].map(size);
        assert_eq!(sizes, ["0 B", "999 B", "1.0 kB", "1.5 kB", "999.9 kB", "1.0 MB", "2.0 GB"]);
        let at = Timestamp::from_unix_seconds(1_000_000);
        let ages = [0, 119, 120, 7_199, 7_200, 172_800].map(|seconds| age(1_000_000 + seconds, at));
        assert_eq!(ages, ["0 s", "119 s", "2 min", "119 min", "2 h", "2 days"]);
        assert_eq!(age(0, at), "0 s", "a clock that was set back");
    }
}

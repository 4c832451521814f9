//! A year without a line: a million events through the real outbox on a real disk, in a process of its own, whose memory
//! is counted.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;

use pullet::journal::open::open;
use pullet::journal::{Ended, Outbox};
use pullet::limits;
use pullet::protocol::{Event, EventKind, JobId, JobResult, ObjectRef, OutcomeKind, Timestamp};

use crate::fuzz_targets::records::job;

/// Set in the process that lives through the year.
const ROLE: &str = "PULLET_YEAR";

/// Two a minute.
pub(crate) const EVENTS: usize = 1_000_000;

/// What the year may add to a process. An idle agent has 4 MiB and may have 8 ([`crate::memory::PEAK_KB`]); the stage
/// with its 256 records of 1 KiB, the same once more on their way to the disk, and as much on their way back are less
/// than a quarter of what is between them.
const GROWTH_KB: u64 = 1024;

/// Memory that is the process's own, in kB: without the pages of the program, which a test has many of.
fn own_kb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("the kernel tells");
    line.split_whitespace().next().unwrap().parse().unwrap()
}

pub(crate) fn opened(directory: &Path) -> Outbox {
    let handle = fs::File::open(directory).unwrap();
    let opened = open(handle.as_fd(), limits::JOURNAL_BYTES, 7).unwrap();
    assert!(opened.troubles.is_empty(), "{:?}", opened.troubles);
    opened.outbox
}

/// Pushes events as fast as they can be, and writes them as the agent does: a page of them at a time, and with every
/// other write once the disk takes no more. `seen` is called now and then.
pub(crate) fn push(outbox: &Outbox, events: usize, mut seen: impl FnMut()) {
    for at in 0..events {
        let resource_ref = ObjectRef {
            api_version: "apps.vworkspace.io/v1alpha1".into(),
            kind: "ApplicationInstance".into(),
            namespace: "shop".into(),
            name: format!("application-{}", at % 50),
            uid: "0b5d1f0e-6a1b-4a53-9d0e-3f2f5f0d9c11".into(),
            generation: Some(1),
        };
        let timestamp = Timestamp::from_unix_seconds(1_800_000_000 + 30 * at as u64);
        let (conditions, endpoints) = (Vec::new(), Vec::new());
        let kind = EventKind::ConditionTransition;
        let event = Event { event_key: String::new(), kind, resource_ref, conditions, endpoints, timestamp };
        outbox.push_event("Ready=False/Degraded", event);
        let is_page = at % limits::FLUSH_EVENTS == limits::FLUSH_EVENTS - 1;
        if is_page && (outbox.fill().lost == 0 || at % 100_000 < limits::FLUSH_EVENTS) {
            outbox.flush();
        }
        if at % 1_000 == 0 {
            seen();
        }
    }
}

#[test]
fn a_million_events_offline_are_kept_or_counted_exactly_and_cost_no_memory() {
    if std::env::var_os(ROLE).is_some() {
        return live_through_it();
    }
    let name = std::thread::current().name().unwrap().to_owned();
    let mut child = Command::new(std::env::current_exe().unwrap());
    let child = child.args([&name, "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, "1").output().unwrap();
    let (out, error) = (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(child.status.success() && out.contains("1 passed"), "{out}{error}");
    let told = error.lines().find(|line| line.starts_with("a year offline")).expect("it says what it took");
    #[allow(clippy::print_stderr, reason = "how far it was from the bound is worth knowing")]
    {
        eprintln!("{told}");
    }
}

fn live_through_it() {
    let directory = tempfile::tempdir().unwrap();
    let files =
        || -> u64 { fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum() };
    let count = if std::env::var_os("PULLET_LONG").is_some() { 10 * EVENTS } else { EVENTS };
    let outbox = opened(directory.path());
    let (before, bytes) = (own_kb(), files());
    let mut peak = before;
    push(&outbox, count, || peak = peak.max(own_kb()));
    let full = outbox.fill();
    assert_eq!(full.events as u64 + full.lost, count as u64, "each is kept or counted");
    assert!(full.events > 400 && full.lost_at_most == 0, "{full:?}");
    // An outcome has room all the same.
    for at in 0..6 {
        let id = JobId::parse(&format!("j{at}")).unwrap();
        let number = outbox.accept(job(id.as_str(), "{}"), None).expect("there is room for a job");
        let timestamp = Timestamp::from_unix_seconds(1);
        let result = JobResult { outcome: OutcomeKind::Succeeded, error: String::new(), applied_ref: None, timestamp };
        outbox.finish(number, Ended::default(), &id, result);
    }
    peak = peak.max(own_kb());
    let flash = outbox.flash();
    outbox.close();
    assert_eq!(files(), bytes, "the files keep their size");

    // The line is back.
    let outbox = opened(directory.path());
    let kept = outbox.fill();
    assert_eq!(kept.reports, 6);
    assert_eq!(kept.events as u64 + kept.lost, count as u64, "{kept:?} of {full:?}");
    let mut posted = 0;
    while let Some((events, _)) = outbox.first_events() {
        posted += events.len();
        outbox.drop_events(&events.last().unwrap().event_key);
        peak = peak.max(own_kb());
    }
    assert_eq!(posted, kept.events);
    let growth = peak - before;
    #[allow(clippy::print_stderr, reason = "the process that started this one shows it")]
    {
        eprintln!(
            "a year offline: {posted} of {count} events kept, {growth} kB more memory at the peak, {} bytes and {} syncs",
            flash.bytes, flash.syncs
        );
    }
    assert!(growth <= GROWTH_KB, "{growth} kB more than at the start");
}

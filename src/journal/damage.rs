//! What a disk can do to the journal, one test for each; and what the journal costs.

#![cfg(test)]

use std::os::fd::AsFd as _;
use std::path::Path;

use super::checkpoint::CHECKPOINT;
use super::medium::faulty::{Faults, Faulty, Random};
use super::open::{Opened, Trouble, open};
use super::outbox::{Ended, Report};
use super::page::{Frame, PAGE};
use super::record::{KINDS, Record, StoredEvent, StoredJob, StoredRef};
use super::records::{self, outcome};
use super::ring::RingError;
use super::store::{Journal, Restored};
use crate::limits;
use crate::protocol::{Event, EventKind, JobId, JobResult, ObjectRef, OutcomeKind, Timestamp};

const PAGES: usize = 64;

fn event(journal: &Journal<Faulty>, name: usize) -> Frame {
    let object = StoredRef {
        api_version: "apps.vworkspace.io/v1alpha1".into(),
        kind: "ApplicationInstance".into(),
        namespace: "shop".into(),
        generation: Some(1),
        ..records::object(&format!("{name:0100}"))
    };
    let event = StoredEvent { shape: "s".repeat(120), ..records::event(object) };
    Frame { number: journal.numbers().add(1), record: Record::Event(event) }
}

fn job(id: &str, text: &str) -> StoredJob {
    StoredJob { key: Some([1; 8]), ..records::job(id, text) }
}

fn started(medium: &Faulty) -> (Journal<Faulty>, Restored) {
    let (mut journal, restored) = Journal::open(medium.clone(), None, None, 7).unwrap();
    journal.start().unwrap();
    (journal, restored)
}

/// A journal with two open jobs, an outcome and thirty events.
fn filled() -> Faulty {
    let medium = Faulty::new(PAGES * PAGE);
    let (mut journal, _) = started(&medium);
    journal.accept(job("a", "text of a"), None, &[]).unwrap();
    let (b, _) = journal.accept(job("b", "text of b"), None, &[]).unwrap();
    let events: Vec<Frame> = (0..30).map(|name| event(&journal, name)).collect();
    assert_eq!(journal.flush(&events).unwrap(), 30);
    journal.finish(b, outcome("b"), &[]).1.unwrap();
    journal.accept(job("c", "text of c"), None, &[]).unwrap();
    journal.stop(&[]).unwrap();
    medium
}

fn names(restored: &Restored) -> Vec<&str> {
    restored.open.iter().map(|open| open.job.id.as_str()).collect()
}

#[test]
fn what_was_stopped_in_good_order_comes_back_whole() {
    let (journal, restored) = started(&filled());
    assert!(restored.was_clean && !restored.is_new);
    assert_eq!((names(&restored), restored.unsent.len(), restored.kept.keys.len()), (vec!["a", "c"], 1, 1));
    assert_eq!(journal.text(&restored.open[1]).as_deref(), Some("text of c"));
    assert_eq!((journal.events_waiting(), journal.losses()), (30, (0, 0)));
}

#[test]
fn an_end_without_a_stop_bounds_what_was_in_memory() {
    let medium = filled();
    drop(started(&medium));
    let (journal, restored) = started(&medium);
    assert!(!restored.was_clean);
    assert_eq!(journal.losses(), (0, limits::STAGE_RECORDS as u64));
    assert_eq!(names(&restored), ["a", "c"]);
}

#[test]
fn one_spoilt_page_costs_what_was_in_it_and_says_so() {
    let whole = filled();
    for page in 0..12 {
        for at in [0, 9, 120, 379, 380, 390, 500, 4_095] {
            let medium = Faulty::of(whole.bytes());
            medium.spoil(|bytes| bytes[page * PAGE + at] ^= 0x10);
            let (journal, restored) = Journal::open(medium, None, None, 9).unwrap();
            let found = journal.events(1_000).unwrap().len() as u64;
            let missing = 30 - found;
            assert!(missing <= journal.losses().1, "page {page}, byte {at}: {missing} missing");
            assert!(restored.open.len() as u64 + restored.jobs_lost >= 2, "page {page}, byte {at}: {restored:?}");
        }
    }
}

#[test]
fn noise_of_any_kind_is_begun_anew() {
    for fill in [0xa5_u8, 0xff, b'P'] {
        let medium = Faulty::of(vec![fill; PAGES * PAGE]);
        let (mut journal, restored) = started(&medium);
        assert!(restored.is_new && restored.unreadable == PAGES as u64);
        journal.accept(job("a", "x"), None, &[]).unwrap();
        assert_eq!(names(&started(&medium).1), ["a"]);
    }
}

#[test]
fn a_journal_that_is_cut_short_or_too_long_is_used_as_far_as_it_goes() {
    let whole = filled().bytes();
    let short = Faulty::of(whole[..20 * PAGE].to_vec());
    let (_, restored) = started(&short);
    assert_eq!(names(&restored), ["a", "c"]);
    let mut long = whole;
    long.extend(vec![0x77; 5 * PAGE + 100]);
    let (journal, restored) = started(&Faulty::of(long));
    assert_eq!((names(&restored), journal.pages(), restored.unreadable), (vec!["a", "c"], PAGES + 5, 5));
    assert!(matches!(Journal::open(Faulty::new(15 * PAGE), None, None, 1), Err(RingError::Small(_))));
}

#[test]
fn a_newer_format_is_refused_with_what_to_do() {
    let medium = filled();
    medium.spoil(|bytes| {
        bytes[4] = 9;
        let crc = super::page::crc32c(&bytes[..380]);
        bytes[380..384].copy_from_slice(&crc.to_le_bytes());
    });
    let refused = Journal::open(medium, None, None, 1).err().unwrap();
    assert!(matches!(refused, RingError::Newer(9)));
    assert!(refused.to_string().contains("start the newer pullet again"), "{refused}");
}

#[test]
fn a_full_disk_costs_nothing_once_it_has_room_again() {
    let medium = filled();
    let (mut journal, restored) = started(&medium);
    medium.set(Faults { full: true, ..Faults::default() });
    assert!(matches!(journal.accept(job("d", "x"), None, &[]), Err(RingError::Io(_))));
    let a = restored.open[0].number;
    let (_, written) = journal.finish(a, outcome("a"), &[]);
    assert!(matches!(written, Err(RingError::Io(_))));
    medium.set(Faults::default());
    let events = [event(&journal, 1)];
    assert_eq!(journal.flush(&events).unwrap(), 1);
    let (_, restored) = started(&medium);
    assert_eq!((names(&restored), restored.unsent.len()), (vec!["c"], 2));
}

/// The page that closes the job drops what is owed of it.
#[test]
fn what_is_owed_of_a_job_that_ended_on_a_full_disk_is_written_or_dropped_once_there_is_room() {
    let medium = filled();
    let (mut journal, restored) = started(&medium);
    let a = restored.open[0].number;
    journal.applied(a, StoredRef::of(&ObjectRef { name: "object".into(), ..ObjectRef::default() }));
    medium.set(Faults { full: true, ..Faults::default() });
    assert!(journal.finish(a, outcome("a"), &[]).1.is_err());
    medium.set(Faults::default());
    let events = [event(&journal, 1)];
    assert_eq!(journal.flush(&events).unwrap(), 1);
    let (_, restored) = started(&medium);
    assert_eq!((names(&restored), restored.unsent.len()), (vec!["c"], 2));
}

#[test]
fn a_disk_that_cannot_be_read_is_an_error_and_not_an_end() {
    let medium = filled();
    let (mut journal, _) = started(&medium);
    medium.set(Faults { unreadable: true, ..Faults::default() });
    assert!(journal.events(10).is_err());
    journal.give_up_events();
    assert_eq!((journal.events_waiting(), journal.losses().0), (0, 30));
    assert!(matches!(Journal::open(medium, None, None, 1).unwrap().1, Restored { is_new: true, .. }));
}

/// The promise: per job two pages with one sync each, and no more, however often the ring goes round.
#[test]
fn a_job_writes_two_pages() {
    let medium = Faulty::new(PAGES * PAGE);
    let checkpoint = Faulty::new(usize::try_from(CHECKPOINT).unwrap());
    let (mut journal, _) = Journal::open(medium.clone(), None, Some(checkpoint.clone()), 1).unwrap();
    let jobs = 1_000;
    for at in 0..jobs {
        let (number, _) =
            journal.accept(job(&format!("j{at}"), &"x".repeat(limits::INLINE_JOB_BYTES)), None, &[]).unwrap();
        let (outcome, written) = journal.finish(number, outcome(&format!("j{at}")), &[]);
        written.unwrap();
        journal.posted(outcome);
    }
    assert_eq!(medium.writes_and_syncs(), (2 * jobs, 2 * jobs));
    // The memory of old jobs goes round with the ring, and has to be written before it does.
    let (writes, _) = checkpoint.writes_and_syncs();
    assert!(writes <= jobs * 2 / PAGES as u64 + 1, "{writes} checkpoints");
    let (_, restored) = Journal::open(medium, None, Some(checkpoint), 2).unwrap();
    assert_eq!((restored.kept.keys.len(), restored.kept.outcomes.len()), (limits::KNOWN_KEYS, limits::KEPT_OUTCOMES));
    assert_eq!(restored.kept.outcomes.back().unwrap().id, "j999");
}

#[test]
fn a_job_that_waits_long_is_carried_round_and_round() {
    let medium = Faulty::new(PAGES * PAGE);
    let (mut journal, _) = started(&medium);
    let (patient, _) = journal.accept(job("patient", "text"), None, &[]).unwrap();
    journal.applied(patient, StoredRef::of(&ObjectRef { name: "object".into(), ..ObjectRef::default() }));
    for at in 0..500 {
        let (number, _) = journal.accept(job(&format!("j{at}"), "x"), None, &[]).unwrap();
        let (outcome, written) = journal.finish(number, outcome("j"), &[]);
        written.unwrap();
        journal.posted(outcome);
    }
    let (journal, restored) = started(&medium);
    assert_eq!(names(&restored), ["patient"]);
    assert_eq!(restored.open[0].applied.as_ref().unwrap().name, "object");
    assert_eq!(journal.text(&restored.open[0]).as_deref(), Some("text"));
}

fn open_in(directory: &Path, size: u64) -> Result<Opened, RingError> {
    open(std::fs::File::open(directory).unwrap().as_fd(), size, 5)
}

/// Of now: what is older by the clock is corrected when it is sent, and two looks may differ by a second.
fn plain_event(kind: EventKind) -> Event {
    Event { timestamp: Timestamp::from_unix_seconds(crate::clock::unix_seconds()), ..Event::bare(kind) }
}

fn finished(outcome: OutcomeKind) -> JobResult {
    JobResult { outcome, error: String::new(), applied_ref: None, timestamp: Timestamp::from_unix_seconds(1) }
}

#[test]
fn an_unposted_result_and_unposted_events_are_there_after_a_restart_under_the_same_key() {
    let directory = tempfile::tempdir().unwrap();
    let outbox = open_in(directory.path(), limits::JOURNAL_BYTES).unwrap().outbox;
    let id = JobId::parse("j").unwrap();
    let number = outbox.accept(job("j", &"x".repeat(5_000)), None).unwrap();
    outbox.finish(number, Ended { had_effect: true, ..Ended::default() }, &id, finished(OutcomeKind::Succeeded));
    for kind in KINDS {
        outbox.push_event("shape", plain_event(kind));
    }
    let (before, _) = outbox.first_events().unwrap();
    outbox.close();
    let outbox = open_in(directory.path(), limits::JOURNAL_BYTES).unwrap().outbox;
    assert_eq!(outbox.first_report(), Some(Report::Result(id, finished(OutcomeKind::Succeeded))));
    let (after, _) = outbox.first_events().unwrap();
    assert_eq!(before, after);
    assert_eq!(after[0].kind, EventKind::ClusterHeartbeat);
    outbox.drop_events(&after[4].event_key);
    assert_eq!(outbox.first_events().unwrap().0, after[5..]);
    outbox.drop_report();
    outbox.close();
    let again = open_in(directory.path(), limits::JOURNAL_BYTES).unwrap();
    assert_eq!((again.outbox.first_report(), again.outbox.fill().events), (None, 5));
    assert!(again.troubles.is_empty(), "{:?}", again.troubles);
}

/// The ring goes round several times meanwhile.
#[test]
fn events_that_nobody_takes_are_kept_while_jobs_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let outbox = open_in(directory.path(), limits::JOURNAL_BYTES).unwrap().outbox;
    let jobs = 150;
    for at in 0..jobs {
        let id = JobId::parse(&format!("j{at}")).unwrap();
        let number = outbox.accept(job(id.as_str(), &"x".repeat(300)), None).unwrap();
        outbox.push_event(&"s".repeat(100), plain_event(EventKind::CredentialRotated));
        outbox.finish(number, Ended { had_effect: true, ..Ended::default() }, &id, finished(OutcomeKind::Succeeded));
        assert!(outbox.first_report().is_some());
        outbox.drop_report();
    }
    assert_eq!((outbox.fill().events, outbox.fill().lost), (jobs, 0));
    let mut keys = std::collections::BTreeSet::new();
    while let Some((events, _)) = outbox.first_events() {
        outbox.drop_events(&events.last().unwrap().event_key);
        keys.extend(events.into_iter().map(|event| event.event_key));
    }
    assert_eq!(keys.len(), jobs);
    let pages = outbox.flash().syncs;
    assert!(pages < 3 * jobs as u64, "{pages} syncs for {jobs} jobs");
}

#[test]
fn another_size_takes_effect_when_nothing_waits() {
    let directory = tempfile::tempdir().unwrap();
    let len = || std::fs::metadata(directory.path().join("journal")).unwrap().len();
    let outbox = open_in(directory.path(), limits::JOURNAL_BYTES).unwrap().outbox;
    let number = outbox.accept(job("j", "x"), None).unwrap();
    outbox.close();
    let opened = open_in(directory.path(), limits::JOURNAL_MIN).unwrap();
    assert!(matches!(opened.troubles[..], [Trouble::Size(limits::JOURNAL_BYTES, limits::JOURNAL_MIN)]));
    assert_eq!((names(&opened.restored), len()), (vec!["j"], limits::JOURNAL_BYTES));
    opened.outbox.drop_job(number);
    opened.outbox.close();
    let opened = open_in(directory.path(), limits::JOURNAL_MIN).unwrap();
    assert!(opened.troubles.is_empty() && opened.restored.open.is_empty());
    assert_eq!(len(), limits::JOURNAL_MIN);
    opened.outbox.accept(job("k", "x"), None).unwrap();
    assert_eq!(names(&open_in(directory.path(), limits::JOURNAL_MIN).unwrap().restored), ["k"]);
}

#[test]
fn files_that_are_no_files_leave_the_agent_in_memory() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("journal")).unwrap();
    let opened = open_in(directory.path(), limits::JOURNAL_BYTES).unwrap();
    assert!(matches!(opened.troubles[..], [Trouble::File("journal", _)]), "{:?}", opened.troubles);
    assert_eq!(opened.outbox.accept(job("j", "x"), None), None);
    assert!(opened.outbox.trouble().unwrap().contains("in memory alone"));
}

/// A number that is used up without its job would lose the job: it is refused when it comes again. A job that is known
/// without its number goes on, and says the number when it does.
#[test]
fn a_power_cut_never_leaves_a_trust_state_that_is_ahead_of_the_jobs() {
    for seed in 1..=200 {
        let mut random = Random::new(seed);
        let medium = Faulty::new(16 * PAGE);
        let spare = Faulty::new(usize::try_from(CHECKPOINT).unwrap()).beside(&medium);
        let open = || Journal::open(medium.clone(), None, Some(spare.clone()), random_epoch(seed)).unwrap();
        let (mut journal, _) = open();
        journal.start().unwrap();
        medium.fuel(random.below(400_000));
        for number in 1..=90_u8 {
            let Ok((job, _)) = journal.accept(job(&number.to_string(), "{}"), Some(&[number; 192]), &[]) else { break };
            let (outcome, written) = journal.finish(job, outcome(&number.to_string()), &[]);
            if written.is_err() {
                break;
            }
            journal.posted(outcome);
        }
        medium.cut_power(&mut random);
        let (_, restored) = open();
        let known = |number: u8| {
            let id = number.to_string();
            restored.open.iter().any(|open| open.job.id == id)
                || restored.kept.outcomes.iter().any(|kept| kept.id == id)
        };
        let state = restored.kept.trust.as_ref().map_or(0, |(_, state)| state[0]);
        assert!(state == 0 || known(state), "seed {seed}: number {state} is used up, and its job is unknown");
        assert!(!known(state + 2), "seed {seed}: job {} came before number {state}", state + 2);
    }
}

fn random_epoch(seed: u64) -> u64 {
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

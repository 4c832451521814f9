//! The journal against a model, on a medium that loses power at every point; and one test per corruption.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;

use super::checkpoint::CHECKPOINT;
use super::medium::faulty::{Faults, Faulty, Random};
use super::page::{Frame, PAGE};
use super::record::{Body, Record, StoredEvent, StoredJob, StoredOutcome, StoredRef, number_of};
use super::records::{self, job};
use super::spool::SPOOL;
use super::stamp::BootMoment;
use super::store::{Journal, Restored};
use crate::count::Count;
use crate::limits;

const PAGES: usize = 16;

/// What must be true of a journal.
#[derive(Default)]
struct Model {
    /// Waiting in memory.
    stage: VecDeque<Frame>,
    /// On the disk and not posted.
    events: BTreeSet<u64>,
    /// Jobs on the disk: text and whether their object is there for certain.
    open: BTreeMap<u64, String>,
    /// Outcomes on the disk and not posted.
    unsent: BTreeSet<u64>,
    /// Outcomes whose effects were promised to be remembered, oldest first.
    keys: VecDeque<[u8; 8]>,
    lost: u64,
}

/// What a power cut may have come in between of.
#[derive(Debug, Default)]
struct Flight {
    accepting: Option<String>,
    finishing: Option<(u64, [u8; 8])>,
    /// The number of an outcome that could not be written yet.
    owed: Option<u64>,
    events: BTreeSet<u64>,
}

struct Bench {
    journal: Faulty,
    checkpoint: Faulty,
    spool: Option<Faulty>,
    store: Journal<Faulty>,
    model: Model,
    random: Random,
    keys: u64,
    epoch: u64,
    trace: String,
}

fn event(len: usize) -> Record {
    let made = Some(BootMoment { boot: [1; 16], seconds: 1 });
    Record::Event(StoredEvent { made, ..records::event(records::object(&"n".repeat(len))) })
}

fn outcome(id: &str, key: [u8; 8]) -> StoredOutcome {
    StoredOutcome { key: Some(key), error: "e".repeat(100), ..records::outcome(id) }
}

impl Bench {
    fn new(seed: u64, with_spool: bool) -> Self {
        let journal = Faulty::new(PAGES * PAGE);
        let checkpoint = Faulty::new(usize::try_from(CHECKPOINT).unwrap()).beside(&journal);
        let spool = with_spool.then(|| Faulty::new(usize::try_from(SPOOL).unwrap()).beside(&journal));
        let (mut store, restored) = Journal::open(journal.clone(), spool.clone(), Some(checkpoint.clone()), 1).unwrap();
        assert!(restored.is_new && restored.was_clean);
        store.start().unwrap();
        Self {
            journal,
            checkpoint,
            spool,
            store,
            model: Model::default(),
            random: Random::new(seed),
            keys: 0,
            epoch: 1,
            trace: String::new(),
        }
    }

    fn media(&self) -> impl Iterator<Item = &Faulty> {
        [Some(&self.journal), Some(&self.checkpoint), self.spool.as_ref()].into_iter().flatten()
    }

    /// One random operation; whether the power stayed on.
    fn operate(&mut self, flight: &mut Flight) -> bool {
        let choice = self.random.below(14);
        let _ = write!(self.trace, " {choice}");
        match choice {
            0..=3 => {
                self.stage();
                true
            }
            4 => self.flush(flight),
            5..=7 if self.store.has_room() => {
                let (id, text) = (format!("j{}", self.random.below(1 << 40)), self.text());
                flight.accepting = Some(text.clone());
                let along: Vec<Frame> = self.model.stage.iter().cloned().collect();
                flight.events.extend(along.iter().map(|frame| frame.number));
                match self.store.accept(job(&id, &text), None, &along) {
                    Ok((number, last)) => {
                        self.model.open.insert(number, text);
                        self.along(last);
                        true
                    }
                    Err(_) => false,
                }
            }
            8 => {
                if let Some(number) = self.any_open() {
                    self.store.applied(number, StoredOutcome::object());
                }
                true
            }
            9..=10 => {
                let Some(number) = self.any_open() else { return true };
                self.keys += 1;
                let key = self.keys.to_le_bytes();
                flight.finishing = Some((number, key));
                let along: Vec<Frame> = self.model.stage.iter().cloned().collect();
                flight.events.extend(along.iter().map(|frame| frame.number));
                match self.store.finish(number, outcome(&format!("j{number}"), key), &along) {
                    (outcome, Ok(last)) => {
                        self.model.open.remove(&number);
                        self.model.unsent.insert(outcome);
                        self.model.keys.push_back(key);
                        self.along(last);
                        true
                    }
                    (outcome, Err(_)) => {
                        flight.owed = Some(outcome);
                        false
                    }
                }
            }
            11 => {
                if let Some(number) = self.model.unsent.pop_first() {
                    self.store.posted(number);
                }
                true
            }
            12 => {
                let Ok(events) = self.store.events(5) else { return false };
                if let Some(last) = events.last().and_then(|event| number_of(&event.event_key)) {
                    self.store.events_posted(last);
                    self.model.events.retain(|number| *number > last);
                }
                true
            }
            _ => true,
        }
    }

    fn stage(&mut self) {
        let len = usize::try_from(self.random.below(700)).unwrap();
        let number = self.store.numbers().add(1);
        self.model.stage.push_back(Frame { number, record: event(len) });
    }

    fn flush(&mut self, flight: &mut Flight) -> bool {
        let stage: Vec<Frame> = self.model.stage.iter().cloned().collect();
        flight.events.extend(stage.iter().map(|frame| frame.number));
        let Ok(written) = self.store.flush(&stage) else { return false };
        self.staged_are_written(written);
        self.model.lost += self.model.stage.len() as u64;
        self.store.count_lost(self.model.stage.len() as u64);
        self.model.stage.clear();
        true
    }

    /// The disk is full for a while. Whether it had room again before the power went.
    fn fill_disk(&mut self, flight: &mut Flight) -> bool {
        self.media().for_each(|medium| medium.set(Faults { full: true, ..Faults::default() }));
        while self.operate(flight) && self.random.below(6) > 0 {
            *flight = Flight::default();
        }
        if self.random.below(2) == 0 || self.store.is_full_of_events() {
            return false;
        }
        self.media().for_each(|medium| medium.set(Faults::default()));
        // What is owed goes along with the next page.
        self.stage();
        assert!(self.flush(flight), "there is room again");
        if let (Some(outcome), Some((job, key))) = (flight.owed, flight.finishing) {
            self.model.open.remove(&job);
            self.model.unsent.insert(outcome);
            self.model.keys.push_back(key);
        }
        *flight = Flight::default();
        true
    }

    fn text(&mut self) -> String {
        let len = if self.spool.is_some() { 6_000 } else { limits::INLINE_JOB_BYTES as u64 };
        let len = usize::try_from(self.random.below(len)).unwrap();
        let letter = char::from(b'a' + u8::try_from(self.random.below(26)).unwrap());
        letter.to_string().repeat(len)
    }

    fn any_open(&mut self) -> Option<u64> {
        let at = usize::try_from(self.random.below(self.model.open.len() as u64)).unwrap();
        self.model.open.keys().nth(at).copied()
    }

    fn staged_are_written(&mut self, count: usize) {
        let written: Vec<u64> = self.model.stage.drain(..count).map(|frame| frame.number).collect();
        self.model.events.extend(written);
    }

    fn along(&mut self, last: Option<u64>) {
        let count = self.model.stage.iter().take_while(|frame| Some(frame.number) <= last).count();
        self.staged_are_written(count);
    }

    /// The power goes and comes back.
    fn restart(&mut self, flight: &Flight) {
        let mut random = self.random.clone();
        self.media().for_each(|medium| medium.cut_power(&mut random));
        self.random = random;
        self.epoch += 1;
        let (store, restored) =
            Journal::open(self.journal.clone(), self.spool.clone(), Some(self.checkpoint.clone()), self.epoch).unwrap();
        self.store = store;
        self.compare(&restored, flight);
        self.store.start().unwrap();
        self.model.stage.clear();
    }

    /// What the open jobs say. The pages are read once for all of them, and for one job as the agent reads them.
    fn texts(&mut self, restored: &Restored) -> BTreeMap<u64, String> {
        let mut texts = BTreeMap::new();
        self.store.each_record(|frame| {
            if let Record::Accepted(StoredJob { body: Body::Inline(text), .. }) = frame.record {
                texts.insert(frame.number, text);
            }
        });
        let one = self.random.below(restored.open.len() as u64);
        for (at, open) in restored.open.iter().enumerate() {
            if at as u64 == one || matches!(open.job.body, Body::Spooled(_)) {
                let text = self.store.text(open).expect("the text of an open job is there").into_string();
                assert!(texts.insert(open.number, text.clone()).is_none_or(|other| other == text), "{}", open.number);
            }
        }
        texts
    }

    fn compare(&mut self, restored: &Restored, flight: &Flight) {
        assert_eq!(restored.unreadable, 0, "a cut leaves one torn page and no more");
        assert_eq!(restored.jobs_lost, 0);
        let texts = self.texts(restored);
        let open: BTreeSet<u64> = restored.open.iter().map(|open| open.number).collect();
        let unsent: BTreeSet<u64> = restored.unsent.iter().map(|(number, _)| *number).collect();
        for (number, text) in self.model.open.clone() {
            if let Some((finishing, key)) = flight.finishing
                && finishing == number
                && !open.contains(&number)
            {
                // It was over, after all.
                let (outcome, _) = restored.unsent.iter().find(|(_, outcome)| outcome.key == Some(key)).unwrap();
                self.model.open.remove(&number);
                self.model.unsent.insert(*outcome);
                self.model.keys.push_back(key);
                continue;
            }
            assert!(open.contains(&number), "job {number} was open and is not");
            assert_eq!(texts.get(&number), Some(&text), "job {number}");
        }
        for open in &restored.open {
            let id = format!("j{}", open.number);
            let is_over = restored.kept.outcomes.iter().any(|outcome| outcome.id == id);
            assert!(!is_over, "job {} is open, and its outcome is known", open.number);
            if self.model.open.contains_key(&open.number) {
                continue;
            }
            let text = texts.get(&open.number);
            assert!(text.is_some() && text == flight.accepting.as_ref(), "a job that was over is open again");
            self.model.open.extend(text.map(|text| (open.number, text.clone())));
        }
        assert!(self.model.unsent.is_subset(&unsent), "{:?} of {unsent:?}", self.model.unsent);
        self.model.unsent = unsent;
        let known: Vec<[u8; 8]> = restored.kept.keys.iter().copied().collect();
        for key in self.model.keys.iter().rev().take(limits::KNOWN_KEYS) {
            assert!(known.contains(key), "a used key is forgotten");
        }
        while self.model.keys.len() > limits::KNOWN_KEYS {
            self.model.keys.pop_front();
        }
        let found: Vec<u64> =
            self.store.events(usize::MAX).unwrap().iter().filter_map(|event| number_of(&event.event_key)).collect();
        assert!(found.is_sorted_by(|one, next| one < next), "{found:?}");
        assert_eq!(found.len() as u64, self.store.events_waiting());
        let found: BTreeSet<u64> = found.into_iter().collect();
        let missing = self.model.events.difference(&found).count() as u64;
        self.model.lost += missing;
        let (lost, at_most) = self.store.losses();
        // The count of a page that was never finished is not on the disk, and neither are its events.
        let bound = lost + at_most;
        assert!(self.model.lost <= bound, "{} lost, {lost} and {at_most} told", self.model.lost);
        self.model.lost = 0;
        self.store.count_lost(0);
        self.model.events = found;
    }
}

impl StoredOutcome {
    fn object() -> StoredRef {
        StoredRef {
            api_version: "v1".into(),
            kind: "A".into(),
            namespace: "n".into(),
            name: "a".into(),
            uid: "u".into(),
            generation: Some(1),
        }
    }
}

fn run(seed: u64, cuts: u64, with_spool: bool) {
    let mut bench = Bench::new(seed, with_spool);
    for cut in 0..cuts {
        bench.trace.clear();
        let state = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut flight = Flight::default();
            for _ in 0..bench.random.below(12) {
                assert!(bench.operate(&mut Flight::default()), "nothing fails while the power is on");
            }
            if bench.random.below(8) > 0 || bench.fill_disk(&mut flight) {
                let fuel = bench.random.below(2 * PAGE as u64);
                bench.journal.fuel(fuel);
                while bench.operate(&mut flight) && bench.random.below(4) > 0 {
                    flight = Flight::default();
                }
            }
            bench.restart(&flight);
        }));
        assert!(
            state.is_ok(),
            "cut {cut} of seed {seed}, operations{}\nreproduce: PULLET_SEED={seed} cargo test --lib power_cut",
            bench.trace
        );
    }
}

/// Runs of `each` cuts on all cores; the one of `PULLET_SEED` alone, where that is set.
fn run_all(cuts: u64, each: u64, one_run: impl Fn(u64, u64) + Sync) {
    if let Some(seed) = std::env::var("PULLET_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return one_run(seed, each);
    }
    let cuts = if std::env::var_os("PULLET_LONG").is_some() { cuts * 10 } else { cuts };
    let (next, runs) = (Count::default(), cuts / each);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let seed = next.add(1)
                    && seed < runs
                {
                    one_run(seed + 1, each);
                }
            });
        }
    });
}

#[test]
fn a_power_cut_at_any_point_loses_nothing_that_was_promised() {
    run_all(100_000, 500, |seed, cuts| run(seed, cuts, false));
}

#[test]
fn a_power_cut_leaves_long_jobs_in_the_spool() {
    run_all(100, 100, |seed, cuts| run(seed, cuts, true));
}

/// A flipped bit in the newest page looks like a page that was never finished; what any other costs is told.
#[test]
fn a_flipped_bit_invents_nothing_and_what_it_costs_is_told() {
    run_all(2_000, 100, |seed, flips| {
        for flip in 0..flips {
            let state = std::panic::catch_unwind(|| flip_a_bit(seed * 1_000 + flip));
            assert!(state.is_ok(), "flip {flip}\nreproduce: PULLET_SEED={seed} cargo test --lib flipped_bit");
        }
    });
}

fn flip_a_bit(seed: u64) {
    let mut bench = Bench::new(seed, false);
    let (mut open, mut events, mut unsent) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    for _ in 0..20 + bench.random.below(100) {
        assert!(bench.operate(&mut Flight::default()));
        open.extend(bench.model.open.clone());
        events.extend(bench.model.events.iter().copied());
        unsent.extend(bench.model.unsent.iter().copied());
    }
    let newest = usize::try_from(bench.store.pages_written().saturating_sub(1)).unwrap() % PAGES;
    let at = usize::try_from(bench.random.below((PAGES * PAGE) as u64)).unwrap();
    let bit = bench.random.below(8);
    bench.journal.spoil(|bytes| bytes[at] ^= 1 << bit);
    let opened = Journal::open(bench.journal.clone(), None, Some(bench.checkpoint.clone()), 2);
    let (store, restored) = opened.unwrap();
    let found: BTreeSet<u64> =
        store.events(usize::MAX).unwrap().iter().filter_map(|event| number_of(&event.event_key)).collect();
    assert!(found.is_subset(&events), "{found:?} of {events:?}");
    assert!(restored.unsent.iter().all(|(number, _)| unsent.contains(number)), "{:?}", restored.unsent);
    for job in &restored.open {
        let text = store.text(job);
        assert!(text.is_none() || text.as_deref() == open.get(&job.number).map(String::as_str), "{}", job.number);
    }
    if at / PAGE == newest {
        return;
    }
    let is_open = |number: &&u64| restored.open.iter().any(|job| job.number == **number);
    let missing = (bench.model.open.len() - bench.model.open.keys().filter(is_open).count()) as u64;
    assert!(missing <= restored.jobs_lost, "{missing} jobs are missing, {} told", restored.jobs_lost);
    let missing = bench.model.events.difference(&found).count() as u64;
    let (lost, at_most) = store.losses();
    assert!(missing <= lost + at_most, "{missing} events are missing, {lost} and {at_most} told");
}

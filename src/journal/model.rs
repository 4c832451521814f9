//! The journal against a model, on a medium that loses power at every point; and one test per corruption.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;

use super::checkpoint::CHECKPOINT;
use super::medium::faulty::{Faulty, Random};
use super::page::{Frame, PAGE};
use super::record::{Body, Record, StoredEvent, StoredJob, StoredOutcome, StoredRef, number_of};
use super::spool::SPOOL;
use super::store::{Journal, Restored};
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
    let object = StoredRef {
        api_version: "v1".into(),
        kind: "A".into(),
        namespace: String::new(),
        name: "n".repeat(len),
        uid: String::new(),
        generation: None,
    };
    Record::Event(StoredEvent {
        shape: "s".into(),
        epoch: 1,
        kind: 1,
        object,
        conditions: vec![],
        endpoints: vec![],
        at: 1,
    })
}

fn outcome(id: &str, key: [u8; 8]) -> StoredOutcome {
    StoredOutcome {
        id: id.into(),
        key: Some(key),
        had_effect: true,
        outcome: 3,
        error: "e".repeat(100),
        applied: None,
        at: 1,
        header: None,
    }
}

fn job(id: &str, text: &str) -> StoredJob {
    StoredJob { id: id.into(), key: None, expires_at: None, body: Body::Inline(text.into()), header: None }
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
                let len = usize::try_from(self.random.below(700)).unwrap();
                let number = self.store.numbers().fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                self.model.stage.push_back(Frame { number, record: event(len) });
                true
            }
            4 => {
                let stage: Vec<Frame> = self.model.stage.iter().cloned().collect();
                flight.events.extend(stage.iter().map(|frame| frame.number));
                match self.store.flush(&stage) {
                    Ok(written) => {
                        self.staged_are_written(written);
                        self.model.lost += self.model.stage.len() as u64;
                        self.store.count_lost(self.model.stage.len() as u64);
                        self.model.stage.clear();
                        true
                    }
                    Err(_) => false,
                }
            }
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
                    (_, Err(_)) => false,
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

    fn compare(&mut self, restored: &Restored, flight: &Flight) {
        assert_eq!(restored.unreadable, 0, "a cut leaves one torn page and no more");
        assert_eq!(restored.jobs_lost, 0);
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
            let open = restored.open.iter().find(|open| open.number == number).expect("an open job stays open");
            assert_eq!(self.store.text(open).as_deref(), Some(text.as_str()), "job {number}");
        }
        for open in &restored.open {
            if self.model.open.contains_key(&open.number) {
                continue;
            }
            let text = self.store.text(open).unwrap().into_string();
            assert_eq!(Some(&text), flight.accepting.as_ref(), "a job that was over is open again");
            self.model.open.insert(open.number, text);
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
            let fuel = bench.random.below(2 * PAGE as u64);
            bench.journal.fuel(fuel);
            while bench.operate(&mut flight) && bench.random.below(4) > 0 {
                flight = Flight::default();
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

fn seeds_and_cuts(few: u64, many: u64) -> (u64, u64) {
    let seed = std::env::var("PULLET_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    (seed, if std::env::var_os("PULLET_LONG").is_some() { many } else { few })
}

#[test]
fn a_power_cut_at_any_point_loses_nothing_that_was_promised() {
    let (seed, cuts) = seeds_and_cuts(2_000, 100_000);
    for run_of_five_hundred in 0..cuts / 500 {
        run(seed + run_of_five_hundred, 500, false);
    }
}

#[test]
fn a_power_cut_leaves_long_jobs_in_the_spool() {
    let (seed, cuts) = seeds_and_cuts(100, 2_000);
    run(seed, cuts, true);
}

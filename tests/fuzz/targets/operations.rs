//! Any order of operations on the journal, with any power: what was promised is there afterwards.

use std::collections::{BTreeMap, BTreeSet};

use pullet::journal::page::{Frame, PAGE};
use pullet::journal::record::{Record, StoredRef, number_of};
use pullet::journal::store::Journal;

use super::Input;
use super::records::{self, job, outcome};
use super::tape::Tape;

/// Bytes of an input that count: a few hundred operations. Longer ones find nothing that these do not, only slower.
const LONGEST: usize = 256;

/// How often the power goes at most: each time the whole journal is read again.
const POWER_CUTS: u64 = 6;

pub(crate) fn operations(data: &[u8]) {
    let mut input = Input(data.get(..LONGEST).unwrap_or(data));
    let tape = Tape::of(vec![0; 16 * PAGE]);
    let mut open: BTreeMap<u64, String> = BTreeMap::new();
    let mut unsent: BTreeSet<u64> = BTreeSet::new();
    for epoch in 1..=POWER_CUTS {
        let (mut journal, restored) = Journal::open(tape.clone(), None, None, epoch).unwrap();
        for (number, text) in &open {
            let job = restored.open.iter().find(|open| open.number == *number).expect("an open job stays open");
            assert_eq!(journal.text(job).as_deref(), Some(text.as_str()));
        }
        let found: BTreeSet<u64> = restored.unsent.iter().map(|(number, _)| *number).collect();
        assert!(unsent.is_subset(&found), "{unsent:?} of {found:?}");
        unsent = found;
        for job in &restored.open {
            let text = journal.text(job).expect("the text of an open job").into_string();
            open.insert(job.number, text);
        }
        journal.start().unwrap();
        if input.is_over() {
            return;
        }
        tape.fuel(Some(usize::from(input.byte()) * 256 + usize::from(input.byte())));
        while !input.is_over() && operate(&mut journal, &mut input, &mut open, &mut unsent) {}
        tape.fuel(None);
    }
}

/// Whether the power is still on.
fn operate(
    journal: &mut Journal<Tape>,
    input: &mut Input<'_>,
    open: &mut BTreeMap<u64, String>,
    unsent: &mut BTreeSet<u64>,
) -> bool {
    let nth = |input: &mut Input<'_>, open: &BTreeMap<u64, String>| {
        open.keys().nth(usize::from(input.byte()) % open.len().max(1)).copied()
    };
    match input.byte() % 7 {
        0 if journal.has_room() => {
            let text = "x".repeat(usize::from(input.byte()) * 8);
            let Ok((number, _)) = journal.accept(job("j", &text), None, &[]) else { return false };
            open.insert(number, text);
        }
        1 => {
            let Some(number) = nth(input, open) else { return true };
            // It may be over after all when the power goes now.
            open.remove(&number);
            let (outcome, written) = journal.finish(number, outcome("j"), &[]);
            if written.is_err() {
                return false;
            }
            unsent.insert(outcome);
        }
        2 => {
            if let Some(number) = unsent.pop_first() {
                journal.posted(number);
            }
        }
        3 => {
            let count = usize::from(input.byte() % 32);
            let frames: Vec<Frame> = (0..count).map(|_| event(journal, usize::from(input.byte()))).collect();
            let Ok(written) = journal.flush(&frames) else { return false };
            journal.count_lost((count - written) as u64);
        }
        4 => {
            let Ok(events) = journal.events(usize::from(input.byte() % 60)) else { return false };
            if let Some(last) = events.last().and_then(|event| number_of(&event.event_key)) {
                journal.events_posted(last);
            }
        }
        5 => {
            if let Some(number) = nth(input, open) {
                journal.applied(number, object(usize::from(input.byte())));
            }
        }
        _ => return !input.byte().is_multiple_of(8),
    }
    true
}

fn event(journal: &Journal<Tape>, len: usize) -> Frame {
    let number = journal.numbers().add(1);
    Frame { number, record: Record::Event(records::event(object(len))) }
}

fn object(len: usize) -> StoredRef {
    records::object(&"n".repeat(len))
}

//! A ring of pages on a [`Medium`].
//!
//! ```text
//!        target: overwritten next        newest
//!              ▼                            ▼
//!  … │ page 7 │ page 8 │ … … … … … │ page 70 │
//!                 ▲
//!               ahead: what is still needed of it goes into the new page, too
//! ```
//! One flush is one write of the target and one sync. The new page carries what is still needed of the page ahead, so
//! that the next target never holds the only copy of anything: a torn write costs nothing that was promised.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;

use super::medium::Medium;
use super::page::{self, Builder, Frame, Header, Mark, PAGE, Sight};
use super::record::Record;
use super::stamp;
use crate::limits;
use crate::protocol::Event;

/// Why the ring cannot be used.
#[derive(Debug)]
pub enum RingError {
    /// What must not be lost fills it.
    Full,
    /// The medium failed.
    Io(io::Error),
    /// A newer program wrote it, in this format.
    Newer(u16),
    /// It has room for fewer pages than are needed.
    Small(u64),
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the journal is full of what must not be lost; it empties when the line is back"),
            Self::Io(_) => f.write_str("the journal cannot be read or written; is the disk full, read-only or broken?"),
            Self::Newer(version) => write!(
                f,
                "the journal is of format {version}, and this program knows those up to {}: start the newer pullet again, \
                 or remove journal, spool and checkpoint from the state directory and lose what waits in them",
                page::VERSION
            ),
            Self::Small(len) => write!(f, "the journal of {len} bytes is too small to be one"),
        }
    }
}

impl std::error::Error for RingError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// What is known of one place for a page.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Its page's number; 0 = nothing that is needed.
    page: u64,
    /// The number of its first event; 0 = none.
    first_event: u64,
    /// The number of its last event; 0 = none.
    last_event: u64,
    /// The number of its last outcome; 0 = none.
    last_outcome: u64,
    /// Its events.
    events: u16,
}

/// The pages and where the next one goes.
#[derive(Debug)]
pub struct Ring<M> {
    medium: M,
    slots: Vec<Slot>,
    newest: usize,
    newest_page: u64,
    first: u64,
}

/// What the ring found when it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// How things stood when the newest page was written; none when there is no page.
    pub mark: Option<Mark>,
    /// Pages that cannot be read, but for the one that was being written.
    pub unreadable: u64,
    /// Events that may have been in them and were not posted.
    pub lost_at_most: u64,
}

impl<M: Medium> Ring<M> {
    /// Scans the medium. Nothing that is on it makes this fail, but for a newer format.
    ///
    /// # Errors
    /// [`RingError::Newer`], [`RingError::Small`], or when the medium's length cannot be told.
    pub fn open(medium: M) -> Result<(Self, Found), RingError> {
        let len = medium.len().map_err(RingError::Io)?;
        let count = usize::try_from(len.min(limits::JOURNAL_MAX)).unwrap_or_default() / PAGE;
        if count < MIN_PAGES {
            return Err(RingError::Small(len));
        }
        let mut ring = Self { medium, slots: vec![Slot::default(); count], newest: 0, newest_page: 0, first: 1 };
        let mut newest: Option<(usize, Header)> = None;
        let mut unreadable = Vec::new();
        let mut damaged_records = 0_u64;
        for at in 0..count {
            let Ok(bytes) = ring.read(at) else {
                unreadable.push(at);
                continue;
            };
            match page::look(&bytes) {
                Sight::Blank => {}
                Sight::Damaged(header) => {
                    unreadable.push(at);
                    ring.remember(at, &header, page::frames(&bytes, &header));
                    damaged_records = damaged_records.saturating_add(u64::from(header.records));
                }
                Sight::Newer(version) => return Err(RingError::Newer(version)),
                Sight::Noise => unreadable.push(at),
                Sight::Whole(header) => {
                    ring.remember(at, &header, page::frames(&bytes, &header));
                    if newest.is_none_or(|(_, newest)| newest.page < header.page) {
                        newest = Some((at, header));
                    }
                }
            }
        }
        let mut found = Found { unreadable: unreadable.len() as u64, ..Found::default() };
        let Some((at, header)) = newest else {
            ring.slots.fill(Slot::default());
            ring.newest = count.saturating_sub(1);
            return Ok((ring, found));
        };
        (ring.newest, ring.newest_page, ring.first) = (at, header.page, header.mark.next);
        // A page that is newer than the newest whole one was torn while it was written: nothing in it was promised.
        for slot in &mut ring.slots {
            if slot.page > header.page {
                *slot = Slot::default();
            }
        }
        let target = ring.target();
        ring.count_each_event_once(header.mark.events_through);
        if unreadable.contains(&target) {
            found.unreadable = found.unreadable.saturating_sub(1);
        }
        let noise = (limits::PAGE_RECORDS as u64).saturating_mul(found.unreadable).saturating_add(damaged_records);
        let waiting = header.mark.next.saturating_sub(1).saturating_sub(header.mark.events_through);
        found.lost_at_most = if found.unreadable == 0 { 0 } else { noise.min(waiting) };
        found.mark = Some(header.mark);
        Ok((ring, found))
    }

    fn remember(&mut self, at: usize, header: &Header, frames: impl Iterator<Item = Frame>) {
        let mut slot = Slot { page: header.page, ..Slot::default() };
        for frame in frames {
            match frame.record {
                Record::Event(_) => {
                    slot.events = slot.events.saturating_add(1);
                    if slot.first_event == 0 || frame.number < slot.first_event {
                        slot.first_event = frame.number;
                    }
                    slot.last_event = slot.last_event.max(frame.number);
                }
                Record::Outcome(_) => slot.last_outcome = slot.last_outcome.max(frame.number),
                _ => {}
            }
        }
        if let Some(place) = self.slots.get_mut(at) {
            *place = slot;
        }
    }

    /// What was carried forward lies in an older page as well.
    fn count_each_event_once(&mut self, through: u64) {
        let mut seen = BTreeSet::new();
        let mut order = self.by_age();
        order.reverse();
        for at in order {
            if self.slot(at).events == 0 {
                continue;
            }
            let frames = self.frames_of(at).unwrap_or_default();
            let is_counted = |frame: &&Frame| is_event(frame) && frame.number > through;
            let numbers: Vec<u64> = frames.iter().filter(is_counted).map(|frame| frame.number).collect();
            if numbers.iter().all(|number| seen.contains(number)) {
                self.forget_events(at);
            }
            seen.extend(numbers);
        }
    }

    /// How many pages there is room for.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.slots.len()
    }

    /// The number of the newest page.
    #[must_use]
    pub fn newest_page(&self) -> u64 {
        self.newest_page
    }

    fn next_of(&self, at: usize) -> usize {
        let next = at.saturating_add(1);
        if next >= self.slots.len() { 0 } else { next }
    }

    fn target(&self) -> usize {
        self.next_of(self.newest)
    }

    fn slot(&self, at: usize) -> Slot {
        self.slots.get(at).copied().unwrap_or_default()
    }

    fn read(&self, at: usize) -> io::Result<Box<[u8; PAGE]>> {
        let mut bytes = Box::new([0; PAGE]);
        self.medium.read_at((at as u64).saturating_mul(PAGE as u64), bytes.as_mut_slice())?;
        Ok(bytes)
    }

    /// Pages with an event that was not posted.
    #[must_use]
    pub fn pages_with_events(&self, through: u64) -> u64 {
        self.slots.iter().filter(|slot| slot.page > 0 && slot.last_event > through).count() as u64
    }

    /// Whether the page that would be overwritten next has an event that was not posted.
    #[must_use]
    pub fn would_lose_events(&self, through: u64) -> bool {
        let slot = self.slot(self.target());
        slot.page > 0 && slot.last_event > through
    }

    /// The number of the last outcome in the page that would be overwritten next.
    #[must_use]
    pub fn outcome_to_go(&self) -> u64 {
        self.slot(self.target()).last_outcome
    }

    /// The number of the last event in any page.
    #[must_use]
    pub fn last_event(&self) -> u64 {
        self.slots.iter().map(|slot| slot.last_event).max().unwrap_or_default()
    }

    /// Events of the page that is overwritten next that were not posted.
    #[must_use]
    pub fn events_to_go(&self, through: u64) -> u64 {
        if !self.would_lose_events(through) {
            return 0;
        }
        let target = self.target();
        let slot = self.slot(target);
        let count = |number: u64, record: &Record| matches!(record, Record::Event(_)) && number > through;
        match self.frames_of(target) {
            Ok(frames) => frames.iter().filter(|frame| count(frame.number, &frame.record)).count() as u64,
            Err(_) => u64::from(slot.events),
        }
    }

    fn frames_of(&self, at: usize) -> io::Result<Vec<Frame>> {
        let slot = self.slot(at);
        if slot.page == 0 {
            return Ok(Vec::new());
        }
        let bytes = self.read(at)?;
        Ok(match page::look(&bytes) {
            Sight::Whole(header) | Sight::Damaged(header) if header.page == slot.page => {
                page::frames(&bytes, &header).collect()
            }
            _ => Vec::new(),
        })
    }

    /// Writes one page: what `keep` wants of the page ahead, and as many of `records` as fit. Gives how many did;
    /// `mark` is asked how things stand once it is known.
    ///
    /// # Errors
    /// When the medium failed; the page may or may not be there then, and nothing else has changed.
    pub fn write(
        &mut self,
        epoch: u64,
        records: &[Frame],
        keep: impl Fn(&Frame) -> bool,
        mark: impl FnOnce(usize) -> Mark,
    ) -> Result<usize, RingError> {
        let target = self.target();
        let ahead = self.next_of(target);
        let page = self.newest_page.saturating_add(1);
        let mut builder = Builder::new(epoch, page);
        let mut written = Vec::new();
        let has_events = self.slot(ahead).events > 0;
        let is_needed = |frame: &Frame| keep(frame) && (has_events || !is_event(frame));
        for frame in self.frames_of(ahead).map_err(RingError::Io)?.into_iter().filter(is_needed) {
            if builder.push(frame.number, &frame.record) {
                written.push(frame);
            }
        }
        let carried = written.len();
        for frame in records {
            if !builder.push(frame.number, &frame.record) {
                break;
            }
            written.push(frame.clone());
        }
        let count = written.len().saturating_sub(carried);
        let mut emptied = Vec::new();
        if count == records.len() {
            self.gather(ahead, &mut builder, &mut written, &mut emptied, &keep);
        }
        let records = builder.records();
        let mark = mark(count);
        let bytes = builder.finish(self.first, &mark);
        // Whatever becomes of the write: what was there is not counted on any more. But when it fails, the next one
        // still has to see that the outcomes there are in a checkpoint.
        if let Some(slot) = self.slots.get_mut(target) {
            *slot = Slot { last_outcome: slot.last_outcome, ..Slot::default() };
        }
        self.medium
            .write_at((target as u64).saturating_mul(PAGE as u64), bytes.as_slice())
            .and_then(|()| self.medium.sync())
            .map_err(RingError::Io)?;
        let header = Header { page, first: self.first, records, mark };
        // What was carried is counted here and not where it lies still.
        let has = |number: u64| written.iter().take(carried).any(|frame| frame.number == number);
        if has(self.slot(ahead).last_event) {
            emptied.push(ahead);
        }
        for at in emptied {
            self.forget_events(at);
        }
        self.remember(target, &header, written.into_iter());
        (self.newest, self.newest_page, self.first) = (target, page, mark.next);
        Ok(count)
    }

    /// Fills a page with the events of the pages behind the one ahead, so that few events do not take many pages.
    fn gather(
        &self,
        ahead: usize,
        builder: &mut Builder,
        written: &mut Vec<Frame>,
        emptied: &mut Vec<usize>,
        keep: impl Fn(&Frame) -> bool,
    ) {
        let (mut at, mut looked_at) = (self.next_of(ahead), 0_usize);
        while at != self.target() && looked_at < GATHERED {
            let here = at;
            at = self.next_of(at);
            if self.slot(here).events == 0 {
                continue;
            }
            looked_at = looked_at.saturating_add(1);
            let is_wanted = |frame: &Frame| is_event(frame) && keep(frame);
            let Ok(frames) = self.frames_of(here) else { return };
            let events: Vec<Frame> = frames.into_iter().filter(is_wanted).collect();
            if events.is_empty() {
                // They were posted, or may not be kept.
                continue;
            }
            if !builder.push_all(&events) {
                return;
            }
            written.extend(events);
            emptied.push(here);
        }
    }

    /// Its events are in a newer page.
    fn forget_events(&mut self, at: usize) {
        if let Some(slot) = self.slots.get_mut(at) {
            (slot.events, slot.first_event, slot.last_event) = (0, 0, 0);
        }
    }

    /// Reads every record there is, oldest page first. A record that was carried forward comes more than once.
    pub fn read_all(&self, mut each: impl FnMut(u64, Frame)) {
        self.read_pages(|header, frame| each(header.mark.epoch, frame));
    }

    /// As [`read_all`](Self::read_all), with the header of the page that each lies in.
    pub fn read_pages(&self, mut each: impl FnMut(&Header, Frame)) {
        for at in self.by_age() {
            let Ok(bytes) = self.read(at) else { continue };
            if let Sight::Whole(header) | Sight::Damaged(header) = page::look(&bytes)
                && header.page == self.slot(at).page
            {
                page::frames(&bytes, &header).for_each(|frame| each(&header, frame));
            }
        }
    }

    /// Whether somebody else has written a page since this was opened.
    #[must_use]
    pub fn has_newer_page(&self) -> bool {
        let sight = self.read(self.target()).map(|bytes| page::look(&bytes));
        matches!(sight, Ok(Sight::Whole(header)) if header.page > self.newest_page)
    }

    fn by_age(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.slots.len()).filter(|at| self.slot(*at).page > 0).collect();
        order.sort_unstable_by_key(|at| self.slot(*at).page);
        order
    }

    /// The oldest events behind `through`, at most `most`.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn events(&self, through: u64, most: usize) -> Result<Vec<Event>, RingError> {
        let mut order: Vec<usize> =
            (0..self.slots.len()).filter(|at| self.slot(*at).page > 0 && self.slot(*at).last_event > through).collect();
        order.sort_unstable_by_key(|at| self.slot(*at).first_event);
        let mut events: BTreeMap<u64, Event> = BTreeMap::new();
        for at in order {
            let newest = events.last_key_value().map_or(u64::MAX, |(number, _)| *number);
            if events.len() >= most && self.slot(at).first_event > newest {
                break;
            }
            for frame in self.frames_of(at).map_err(RingError::Io)? {
                if let Record::Event(event) = &frame.record
                    && frame.number > through
                    && let Some(mut sent) = event.to_event(frame.number)
                {
                    stamp::correct(&mut sent, event.made);
                    events.insert(frame.number, sent);
                    if events.len() > most {
                        events.pop_last();
                    }
                }
            }
        }
        Ok(events.into_values().collect())
    }

    /// How many events behind `through` there are.
    #[must_use]
    pub fn count_events(&self, through: u64) -> u64 {
        let mut count = 0_u64;
        for at in 0..self.slots.len() {
            let slot = self.slot(at);
            if slot.page == 0 || slot.last_event <= through {
                continue;
            }
            if slot.first_event > through {
                count = count.saturating_add(u64::from(slot.events));
                continue;
            }
            let behind = |frame: &Frame| matches!(frame.record, Record::Event(_)) && frame.number > through;
            let events = self
                .frames_of(at)
                .map_or(u64::from(slot.events), |frames| frames.iter().filter(|frame| behind(frame)).count() as u64);
            count = count.saturating_add(events);
        }
        count
    }

    /// Finds a record by its number.
    #[must_use]
    pub fn find(&self, number: u64) -> Option<Record> {
        let mut order = self.by_age();
        order.reverse();
        order.into_iter().find_map(|at| {
            let frames = self.frames_of(at).ok()?;
            frames.into_iter().find(|frame| frame.number == number).map(|frame| frame.record)
        })
    }

    /// What it lies on.
    #[must_use]
    pub fn medium(&self) -> &M {
        &self.medium
    }
}

fn is_event(frame: &Frame) -> bool {
    matches!(frame.record, Record::Event(_))
}

/// Pages that are looked at for events to be carried.
const GATHERED: usize = 8;

#[allow(clippy::cast_possible_truncation, reason = "16 fits")]
const MIN_PAGES: usize = limits::JOURNAL_MIN as usize / PAGE;

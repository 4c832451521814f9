//! The journal: what must survive, and in which order it is written.
//!
//! A job writes two pages: [`accept`](Journal::accept) before it is acked and [`finish`](Journal::finish) before its
//! result is posted. Everything else goes along with a page that is written anyway, or waits until there is a page of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::checkpoint::{Checkpoint, Kept};
use super::medium::Medium;
use super::page::{Frame, Mark};
use super::record::{Body, Record, StoredEvent, StoredJob, StoredOutcome, StoredRef};
use super::ring::{Ring, RingError};
use super::spool::Spool;
use super::stamp::BootMoment;
use crate::count::Count;
use crate::limits;
use crate::protocol::Event;

/// What survives.
pub struct Journal<M> {
    ring: Ring<M>,
    spool: Option<Spool<M>>,
    checkpoint: Option<Checkpoint<M>>,
    kept: Kept,
    /// Outcomes up to here are in the checkpoint.
    checkpointed: u64,
    jobs_since: u64,
    mark: Mark,
    /// The number of the next record, shared with whoever numbers events before they are written.
    next: Arc<Count>,
    open: Vec<Open>,
    /// Numbers of the outcomes that were not posted.
    unsent: BTreeSet<u64>,
    /// Outcomes that are not written yet, with their jobs, which are open until then.
    closing: Vec<(u64, u64)>,
    /// What goes along with the next page.
    owed: Vec<Frame>,
    /// Slots of the spool whose job is over, to be wiped behind the next page.
    wipe: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    number: u64,
    slot: Option<u8>,
}

/// A job that was open when the journal was last written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenJob {
    /// Its number.
    pub number: u64,
    /// As it was taken; a text that is inline stays on the disk.
    pub job: StoredJob,
    /// Its object, if that is there already.
    pub applied: Option<StoredRef>,
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Jobs that go on, oldest first.
    pub open: Vec<OpenJob>,
    /// Results that were not posted, oldest first, with their numbers.
    pub unsent: Vec<(u64, StoredOutcome)>,
    /// What is known of jobs that ended, and the trust state.
    pub kept: Kept,
    /// Jobs that were open and cannot be read any more.
    pub jobs_lost: u64,
    /// Pages that cannot be read.
    pub unreadable: u64,
    /// Whether there was a journal at all.
    pub is_new: bool,
    /// Whether nothing can be written.
    pub is_read_only: bool,
    /// Whether the agent before stopped in good order.
    pub was_clean: bool,
}

impl Restored {
    /// Whether something may have been done that is not remembered.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        self.is_new || self.unreadable > 0 || self.jobs_lost > 0
    }
}

impl<M: Medium> Journal<M> {
    /// Scans what there is. Writes nothing: [`start`](Self::start) does.
    ///
    /// # Errors
    /// As [`Ring::open`].
    pub fn open(
        journal: M,
        spool: Option<M>,
        checkpoint: Option<M>,
        epoch: u64,
    ) -> Result<(Self, Restored), RingError> {
        let (ring, found) = Ring::open(journal)?;
        let (checkpoint, mut kept) = checkpoint
            .and_then(Checkpoint::open)
            .map_or((None, Kept::default()), |(checkpoint, kept)| (Some(checkpoint), kept));
        let checkpointed = kept.through;
        let mut restored = Restored {
            is_new: found.mark.is_none(),
            was_clean: found.mark.is_none_or(|mark| mark.clean),
            unreadable: found.unreadable,
            ..Restored::default()
        };
        let mut mark = found.mark.unwrap_or_default();
        let numbers: Vec<u64> = mark.open.into_iter().filter(|number| *number > 0).collect();
        let mut outcomes = BTreeMap::new();
        ring.read_all(|_, frame| match frame.record {
            Record::Accepted(mut job) if numbers.contains(&frame.number) => {
                if let Body::Inline(text) = &mut job.body {
                    // Read again when it is its turn: sixteen texts are not held at once.
                    text.clear();
                }
                if !restored.open.iter().any(|open| open.number == frame.number) {
                    restored.open.push(OpenJob { number: frame.number, job, applied: None });
                }
            }
            Record::Applied { job, object } => {
                if let Some(open) = restored.open.iter_mut().find(|open| open.number == job) {
                    open.applied = Some(object);
                }
            }
            Record::Outcome(outcome) if frame.number > kept.through.min(mark.results_through) => {
                outcomes.insert(frame.number, outcome);
            }
            // Where the newest page is spoilt, the checkpoint may know better.
            Record::Trust(state) if kept.trust.as_ref().is_none_or(|(number, _)| frame.number > *number) => {
                kept.trust = Some((frame.number, state));
            }
            _ => {}
        });
        restored.open.sort_unstable_by_key(|open| open.number);
        restored.jobs_lost = (numbers.len() as u64).saturating_sub(restored.open.len() as u64);
        for (number, outcome) in outcomes {
            if number > mark.results_through {
                restored.unsent.push((number, outcome.clone()));
            }
            kept.add(number, outcome);
        }
        mark.lost_at_most = mark.lost_at_most.saturating_add(found.lost_at_most);
        if !restored.was_clean {
            // What was in memory alone is gone.
            mark.lost_at_most = mark.lost_at_most.saturating_add(limits::STAGE_RECORDS as u64);
        }
        (mark.epoch, mark.clean) = (epoch, false);
        let next = Arc::new(Count::new(mark.next.max(kept.through.saturating_add(1)).max(1)));
        let open: Vec<Open> =
            restored.open.iter().map(|open| Open { number: open.number, slot: slot_of(&open.job.body) }).collect();
        let spool = spool.and_then(|spool| Spool::open(spool, open.iter().filter_map(|open| open.slot)));
        restored.kept = kept.clone();
        let unsent = restored.unsent.iter().map(|(number, _)| *number).collect();
        let journal = Self {
            ring,
            spool,
            checkpoint,
            kept,
            checkpointed,
            jobs_since: 0,
            mark,
            next,
            open,
            unsent,
            closing: Vec::new(),
            owed: Vec::new(),
            wipe: Vec::new(),
        };
        Ok((journal, restored))
    }

    /// Puts this journal's pages onto another medium, where nothing waits in them.
    ///
    /// # Errors
    /// As [`Ring::open`].
    pub fn onto(self, journal: M) -> Result<Self, RingError> {
        let (ring, _) = Ring::open(journal)?;
        Ok(Self { ring, ..self })
    }

    /// Whether nothing is in the pages that is needed.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.open.is_empty() && self.unsent.is_empty() && self.events_waiting() == 0
    }

    /// Writes that an agent runs: from now on an end without a clean stop costs what is in memory.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn start(&mut self) -> Result<(), RingError> {
        let mut frames = vec![self.frame(Record::Started)];
        if self.losses() != self.mark.told {
            let (exactly, at_most) = self.losses();
            frames.push(self.frame(Record::Lost { exactly, at_most }));
        }
        self.write_all(frames)
    }

    /// Where the numbers of records come from.
    #[must_use]
    pub fn numbers(&self) -> Arc<Count> {
        Arc::clone(&self.next)
    }

    fn next_number(&self) -> u64 {
        self.next.add(1)
    }

    fn frame(&self, record: Record) -> Frame {
        Frame { number: self.next_number(), record }
    }

    /// Whether one more job can be open and answered.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let most = self.ring.pages() / 2;
        self.open.len() < limits::OPEN_JOBS && self.open.len().saturating_add(self.unsent.len()) < most
    }

    /// Writes a job down before it is acked, with the trust state that it leads to, and gives its number. `along` are events that may go with it; the last
    /// number of those that did is given as well.
    ///
    /// # Errors
    /// When it is not on the disk.
    pub fn accept(
        &mut self,
        mut job: StoredJob,
        trust: Option<&[u8]>,
        along: &[Frame],
    ) -> Result<(u64, Option<u64>), RingError> {
        let number = self.next_number();
        let mut slot = None;
        if let Body::Inline(text) = &job.body
            && text.len() > limits::INLINE_JOB_BYTES
        {
            if !self.wipe.is_empty() {
                // A slot of a job that is over is free behind the next page, and this may need one.
                self.write_page(&[])?;
            }
            let spool = self.spool.as_mut().ok_or(RingError::Full)?;
            let put = spool.put(number, &job.id, text).map_err(RingError::Io)?.ok_or(RingError::Full)?;
            slot = Some(put);
            job.body = Body::Spooled(put);
        }
        self.open.push(Open { number, slot });
        let mut frames = vec![Frame { number, record: Record::Accepted(job) }];
        // Behind the job: a cut between two pages leaves a job that goes on, and never a number that is used up.
        frames.extend(trust.map(|trust| self.frame(Record::Trust(trust.to_vec()))));
        match self.write_with(frames, along) {
            Ok(last) => Ok((number, last)),
            Err(error) => {
                self.owed.retain(|frame| frame.number != number && !matches!(frame.record, Record::Trust(_)));
                self.close(number);
                Err(error)
            }
        }
    }

    /// Writes the trust state down.
    ///
    /// # Errors
    /// When it is not on the disk.
    pub fn commit_trust(&mut self, trust: &[u8]) -> Result<(), RingError> {
        let frame = self.frame(Record::Trust(trust.to_vec()));
        self.write_all(vec![frame]).inspect_err(|_| self.owed.retain(|frame| !matches!(frame.record, Record::Trust(_))))
    }

    /// The object of a job is there. Goes along with the next page, which is written before the next job is acked.
    pub fn applied(&mut self, job: u64, object: StoredRef) {
        if self.open.iter().any(|open| open.number == job) {
            let frame = self.frame(Record::Applied { job, object });
            self.owed.push(frame);
        }
    }

    /// A job is not ours after all. Goes along with the next page.
    pub fn drop_job(&mut self, job: u64) {
        self.close(job);
    }

    fn close(&mut self, job: u64) {
        let slot = self.open.iter().find(|open| open.number == job).and_then(|open| open.slot);
        self.wipe.extend(slot);
        self.open.retain(|open| open.number != job);
        self.owed.retain(|frame| !matches!(frame.record, Record::Applied { job: of, .. } if of == job));
    }

    /// Writes an outcome down before it is posted, and gives its number and that of the last event that went along.
    /// `job` is 0 for a job that was never written down. The number is good even when the disk fails: the outcome goes
    /// along with the next page that can be written.
    pub fn finish(
        &mut self,
        job: u64,
        outcome: StoredOutcome,
        along: &[Frame],
    ) -> (u64, Result<Option<u64>, RingError>) {
        let number = self.next_number();
        self.closing.push((number, job));
        self.unsent.insert(number);
        self.jobs_since = self.jobs_since.saturating_add(1);
        let written = self.write_with(vec![Frame { number, record: Record::Outcome(outcome) }], along);
        if written.is_ok() && self.jobs_since >= limits::CHECKPOINT_JOBS {
            self.write_checkpoint();
        }
        (number, written)
    }

    /// The text of an open job.
    #[must_use]
    pub fn text(&self, open: &OpenJob) -> Option<Box<str>> {
        if let Body::Spooled(slot) = open.job.body {
            return self.spool.as_ref()?.text(slot, open.number, &open.job.id);
        }
        match self.ring.find(open.number)? {
            Record::Accepted(StoredJob { body: Body::Inline(text), .. }) => Some(text.into_boxed_str()),
            _ => None,
        }
    }

    /// A result was posted.
    pub fn posted(&mut self, number: u64) {
        self.unsent.remove(&number);
    }

    /// Events were posted up to this number.
    pub fn events_posted(&mut self, through: u64) {
        self.mark.events_through = self.mark.events_through.max(through);
    }

    /// Events were lost outside of here.
    pub fn count_lost(&mut self, count: u64) {
        self.mark.lost = self.mark.lost.saturating_add(count);
    }

    /// Events that were lost, and those that may have been lost besides.
    #[must_use]
    pub fn losses(&self) -> (u64, u64) {
        (self.mark.lost, self.mark.lost_at_most)
    }

    /// What of that the control plane was told.
    #[must_use]
    pub fn told(&self) -> (u64, u64) {
        self.mark.told
    }

    /// The control plane was told of losses.
    pub fn tell(&mut self, losses: (u64, u64)) {
        self.mark.told = losses;
    }

    /// Losses after which the present was sent.
    #[must_use]
    pub fn resent(&self) -> (u64, u64) {
        self.mark.resent
    }

    /// The present was sent after these losses.
    pub fn resend(&mut self, losses: (u64, u64)) {
        self.mark.resent = losses;
    }

    /// Events on the disk that were not posted.
    #[must_use]
    pub fn events_waiting(&self) -> u64 {
        self.ring.count_events(self.mark.events_through)
    }

    /// The oldest of them.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn events(&self, most: usize) -> Result<Vec<Event>, RingError> {
        self.ring.events(self.mark.events_through, most)
    }

    /// Events on the disk that cannot be read are lost, and counted.
    pub fn give_up_events(&mut self) {
        let waiting = self.events_waiting();
        self.count_lost(waiting);
        self.events_posted(self.ring.last_event());
    }

    /// Whether progress events are refused: three quarters are full.
    #[must_use]
    pub fn is_full_of_events(&self) -> bool {
        let most = (self.ring.pages() as u64).saturating_mul(3) / 4;
        self.ring.pages_with_events(self.mark.events_through) >= most
    }

    /// Writes events, page by page, until all are written or no more are taken. Gives how many were.
    ///
    /// # Errors
    /// When the disk failed; what was written before that is lost to the count and harmless: its keys are the same.
    pub fn flush(&mut self, events: &[Frame]) -> Result<usize, RingError> {
        let mut done = 0_usize;
        let mut idle = 0_usize;
        while done < events.len() && !self.is_full_of_events() && idle < self.ring.pages() {
            let rest = events.get(done..).unwrap_or_default();
            let owed = self.owed.len();
            let written = self.write_page(rest)?;
            if written == 0 && owed == 0 && rest.first().is_some_and(|frame| !fits(frame)) {
                // Longer than a page, and so never written by us.
                done = done.saturating_add(1);
            }
            idle = if written == 0 { idle.saturating_add(1) } else { 0 };
            done = done.saturating_add(written);
        }
        Ok(done)
    }

    /// Writes all of it, and the mark of a clean stop.
    ///
    /// # Errors
    /// When the disk failed.
    pub fn stop(&mut self, events: &[Frame]) -> Result<(), RingError> {
        let written = self.flush(events)?;
        self.count_lost(events.len().saturating_sub(written) as u64);
        if self.kept.through > self.checkpointed {
            self.write_checkpoint();
        }
        let owed = std::mem::take(&mut self.owed);
        self.write_all(owed)?;
        self.mark.clean = true;
        let written = self.write_all(Vec::new());
        self.mark.clean = false;
        written
    }

    /// Writes these, whatever it costs in pages, and of `along` what fits beside them.
    fn write_with(&mut self, frames: Vec<Frame>, along: &[Frame]) -> Result<Option<u64>, RingError> {
        let along = if self.is_full_of_events() { &[] } else { along };
        // What is owed is older: outcomes are kept in their order.
        let mut all = std::mem::take(&mut self.owed);
        all.extend(frames);
        let count = all.len();
        all.extend_from_slice(along);
        let mut done = 0_usize;
        for _ in 0..self.ring.pages() {
            let rest = all.get(done..).unwrap_or_default();
            match self.write_bare(rest) {
                Ok(written) => done = done.saturating_add(written),
                Err(error) => {
                    all.truncate(count);
                    self.owed = all.split_off(done.min(count));
                    return Err(error);
                }
            }
            if done >= count {
                let last = done.checked_sub(1).filter(|last| *last >= count);
                return Ok(last.and_then(|last| all.get(last)).map(|frame| frame.number));
            }
        }
        all.truncate(count);
        self.owed = all.split_off(done.min(count));
        Err(RingError::Full)
    }

    fn write_all(&mut self, frames: Vec<Frame>) -> Result<(), RingError> {
        self.write_with(frames, &[]).map(|_| ())
    }

    /// One page of what is owed and of `frames`; gives how many of `frames` are in it.
    fn write_page(&mut self, frames: &[Frame]) -> Result<usize, RingError> {
        // Out of `owed` meanwhile: a job that is closed by the page takes its records out of it.
        let mut all = std::mem::take(&mut self.owed);
        let owed = all.len();
        all.extend_from_slice(frames);
        let written = self.write_bare(&all);
        all.truncate(owed);
        self.owed = match &written {
            Ok(written) => all.split_off(owed.min(*written)),
            Err(_) => all,
        };
        written.map(|written| written.saturating_sub(owed))
    }

    fn write_bare(&mut self, frames: &[Frame]) -> Result<usize, RingError> {
        if self.ring.outcome_to_go() > self.checkpointed {
            self.write_checkpoint();
        }
        let lost = self.ring.events_to_go(self.mark.events_through);
        self.mark.lost = self.mark.lost.saturating_add(lost);
        self.mark.clock = crate::clock::unix_seconds();
        self.mark.next = self.next.now();
        self.mark.results_through = match self.unsent.first() {
            Some(first) => first.saturating_sub(1),
            None => self.mark.next.saturating_sub(1),
        };
        // Room is for jobs first: beyond three quarters the oldest events make it, and are counted.
        let (through, keeps_events) = (self.mark.events_through, !self.is_full_of_events());
        let (open, unsent, closing) = (&self.open, &self.unsent, &self.closing);
        let trust = self.kept.trust.as_ref().map(|(number, _)| *number);
        let keep = |frame: &Frame| match frame.record {
            Record::Accepted(_) => open.iter().any(|open| open.number == frame.number),
            Record::Applied { job, .. } => open.iter().any(|open| open.number == job),
            Record::Outcome(_) => unsent.contains(&frame.number),
            Record::Event(_) => keeps_events && frame.number > through,
            Record::Trust(_) => Some(frame.number) == trust,
            Record::AcceptedSigned(..)
            | Record::EventMade(..)
            | Record::Lost { .. }
            | Record::OutcomeSigned(..)
            | Record::Started => false,
        };
        let mut mark = self.mark;
        let written = self.ring.write(self.mark.epoch, frames, keep, |count| {
            // A page speaks of a job only when it, or one before it, has its record.
            let (in_it, later) = frames.split_at_checked(count).unwrap_or((frames, &[]));
            let has = |part: &[Frame], number: u64| part.iter().any(|frame| frame.number == number);
            let is_over = |job: u64| closing.iter().any(|(outcome, of)| *of == job && has(in_it, *outcome));
            let is_open = |number: &u64| !has(later, *number) && !is_over(*number);
            let mut numbers = open.iter().map(|open| open.number).filter(is_open);
            mark.open = std::array::from_fn(|_| numbers.next().unwrap_or_default());
            mark
        })?;
        for frame in frames.iter().take(written) {
            // Only now: a checkpoint that knew of a number before its job is on the disk would lose the job, and one that knew of
            // an outcome while its job is open would have it for a duplicate of itself.
            match &frame.record {
                Record::Outcome(outcome) => self.kept.add(frame.number, outcome.clone()),
                Record::Trust(state) => self.kept.trust = Some((frame.number, state.clone())),
                _ => {}
            }
        }
        let over: Vec<u64> = frames.iter().take(written).map(|frame| frame.number).collect();
        let closed: Vec<u64> =
            self.closing.iter().filter(|(outcome, _)| over.contains(outcome)).map(|(_, job)| *job).collect();
        self.closing.retain(|(outcome, _)| !over.contains(outcome));
        for job in closed {
            self.close(job);
        }
        if let Some(spool) = &mut self.spool {
            for slot in self.wipe.drain(..) {
                // Tried again when the spool is opened the next time.
                let _ = spool.wipe(slot);
            }
        }
        Ok(written)
    }

    /// A checkpoint that fails costs the memory of old jobs at a power cut, and nothing else.
    fn write_checkpoint(&mut self) {
        self.jobs_since = 0;
        if let Some(checkpoint) = &mut self.checkpoint
            && checkpoint.write(&self.kept).is_ok()
        {
            self.checkpointed = self.kept.through;
        }
    }

    /// Every record, for a test that has to see them all.
    #[cfg(test)]
    pub(super) fn each_record(&self, mut each: impl FnMut(Frame)) {
        self.ring.read_all(|_, frame| each(frame));
    }

    /// The epoch of this start.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.mark.epoch
    }

    /// Pages there is room for.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.ring.pages()
    }

    /// Pages that were ever written.
    #[must_use]
    pub fn pages_written(&self) -> u64 {
        self.ring.newest_page()
    }
}

/// An event for [`Journal::flush`].
#[must_use]
pub fn event_frame(number: u64, event: &Event, made: Option<BootMoment>) -> Frame {
    Frame { number, record: Record::Event(StoredEvent { made, ..StoredEvent::of(event) }) }
}

fn fits(frame: &Frame) -> bool {
    super::page::Builder::new(0, 0).push(frame.number, &frame.record)
}

fn slot_of(body: &Body) -> Option<u8> {
    match body {
        Body::Spooled(slot) => Some(*slot),
        Body::Inline(_) | Body::Skipped(_) => None,
    }
}

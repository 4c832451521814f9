//! What waits to be posted.

mod disk;
mod present;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use heapless::Deque;
use tokio::sync::Notify;
use tracing::{error, info};

use self::disk::DiskState;
pub use self::disk::keep;
use self::present::Present;
use super::bound::{bound_conditions, bound_event, cut};
use super::medium::{FileMedium, Flash, FlashCounts};
use super::page::Frame;
use super::record::{StoredJob, StoredOutcome, StoredRef, number_of};
use super::ring::RingError;
use super::stamp::{self, BootMoment, Staged};
use super::store::{Journal, OpenJob, event_frame};
use crate::count::Count;
use crate::limits;
use crate::protocol::{Event, EventKind, JobId, JobResult, ObjectRef, StatusUpdate};

/// One report of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// How it ended.
    Result(JobId, JobResult),
    /// How it is getting on.
    Status(JobId, StatusUpdate),
}

/// What waits to be posted, shared by those who fill it and the one who empties it.
pub struct Outbox {
    /// Held while the disk works, and never by those who must not wait.
    disk: Mutex<Option<Journal<FileMedium>>>,
    stage: Mutex<Stage>,
    flash: Arc<Flash>,
    filled: Notify,
    staged: Notify,
    emptied: Notify,
}

struct Stage {
    /// With the number of the record, where there is one.
    reports: Box<Deque<Box<Waiting>, { limits::STAGE_RECORDS }>>,
    events: Box<Deque<Box<Staged>, { limits::STAGE_RECORDS }>>,
    /// When the oldest waiting event came.
    events_since: Option<Instant>,
    epoch: u64,
    numbers: Arc<Count>,
    /// The report that is being posted.
    posting: Option<u64>,
    next_ticket: u64,
    /// What the journal is told before its next page.
    owed: Vec<Owed>,
    /// How the journal stood after its last page.
    disk: DiskState,
    is_read_only: bool,
    /// Events that were lost here and that the journal does not know of.
    lost: u64,
    trouble: Option<String>,
    /// Losses that a waiting heartbeat tells of.
    telling: Option<(u64, u64)>,
    has_refused_heartbeat: bool,
    present: Present,
}

struct Waiting {
    ticket: u64,
    number: Option<u64>,
    report: Report,
}

enum Owed {
    Applied(u64, StoredRef),
    Resent((u64, u64)),
    Told((u64, u64)),
}

impl Stage {
    fn new(epoch: u64, numbers: Arc<Count>) -> Self {
        Self {
            reports: Box::new(Deque::new()),
            events: Box::new(Deque::new()),
            events_since: None,
            epoch,
            numbers,
            posting: None,
            next_ticket: 0,
            owed: Vec::new(),
            disk: DiskState::default(),
            is_read_only: false,
            lost: 0,
            trouble: None,
            telling: None,
            has_refused_heartbeat: false,
            present: Present::default(),
        }
    }

    /// The last word of each sort counts; of an object that is there, each.
    fn owe(&mut self, owed: Owed) {
        let is_other = |before: &Owed| std::mem::discriminant(before) != std::mem::discriminant(&owed);
        if !matches!(owed, Owed::Applied(..)) {
            self.owed.retain(is_other);
        }
        self.owed.push(owed);
    }

    fn push_report(&mut self, number: Option<u64>, report: Report) {
        if self.reports.is_full() {
            self.push_out_a_status();
        }
        let ticket = self.next_ticket;
        self.next_ticket = ticket.wrapping_add(1);
        let _ = self.reports.push_back(Box::new(Waiting { ticket, number, report }));
    }

    /// Takes the oldest status out, or the oldest result where there is no status.
    fn push_out_a_status(&mut self) {
        let is_status = |waiting: &Waiting| matches!(waiting.report, Report::Status(..));
        let mut is_done = !self.reports.iter().any(|waiting| is_status(waiting));
        if is_done {
            self.reports.pop_front();
            return;
        }
        for _ in 0..self.reports.len() {
            let Some(waiting) = self.reports.pop_front() else { return };
            if !is_done && is_status(&waiting) {
                is_done = true;
            } else {
                // It was in there a moment ago.
                let _ = self.reports.push_back(waiting);
            }
        }
    }
}

/// What is to be known of a job that ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Hash of its idempotency key.
    pub key: Option<[u8; 8]>,
    /// Hash of the header of its signature.
    pub header: Option<[u8; 8]>,
    /// Whether the key is used from now on.
    pub had_effect: bool,
}

/// What the outbox holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// Statuses and results.
    pub reports: usize,
    /// Events, in memory and on the disk.
    pub events: usize,
    /// Events that were lost, in all that the journal knows.
    pub lost: u64,
    /// Events that may have been lost besides, at ends without a clean stop and in pages that cannot be read.
    pub lost_at_most: u64,
    /// Whether the control plane knows of all that.
    pub told: bool,
}

/// Of [`limits::STAGE_RECORDS`], what statuses may fill; the rest is for results.
const STATUS_ROOM: usize = limits::STAGE_RECORDS / 4 * 3;

impl Outbox {
    /// An empty one in memory alone. `epoch` is a random value of this start: with the record's number it makes
    /// every event key unique (P1.7).
    #[must_use]
    pub fn new(epoch: u64) -> Self {
        Self::build(None, Stage::new(epoch, Arc::default()), Arc::default())
    }

    /// One that stands on a journal, with the results that were not posted before.
    #[must_use]
    pub fn on(journal: Journal<FileMedium>, unsent: &[(u64, StoredOutcome)], flash: Arc<Flash>) -> Self {
        let mut stage = Stage::new(journal.epoch(), journal.numbers());
        for (number, outcome) in unsent {
            if let Some((id, result)) = outcome.to_result() {
                stage.push_report(Some(*number), Report::Result(id, result));
            }
        }
        stage.look_at(&journal);
        stage.present.resent = journal.resent();
        if stage.disk.events > 0 {
            stage.events_since = Some(Instant::now());
        }
        Self::build(Some(journal), stage, flash)
    }

    fn build(journal: Option<Journal<FileMedium>>, stage: Stage, flash: Arc<Flash>) -> Self {
        Self {
            disk: Mutex::new(journal),
            stage: Mutex::new(stage),
            flash,
            filled: Notify::new(),
            staged: Notify::new(),
            emptied: Notify::new(),
        }
    }

    /// Adds an event and gives it its key: `shape#<epoch>.<number>`. In memory alone the oldest event makes room for
    /// it; with a journal that takes no more it is refused. Either is counted. How many of its conditions had room.
    pub fn push_event(&self, shape: &str, mut event: Event) -> usize {
        let mut stage = self.lock();
        let number = stage.numbers.add(1);
        event.event_key = super::record::event_key(shape, stage.epoch, number);
        bound_event(&mut event);
        if event.kind == EventKind::ClusterHeartbeat {
            stage.telling = Some(stage.losses());
        }
        if stage.events.is_full() {
            stage.lost = stage.lost.saturating_add(1);
            if stage.disk.is_there {
                return 0;
            }
            stage.events.pop_front();
        }
        stage.events_since.get_or_insert_with(Instant::now);
        let conditions = event.conditions.len();
        // Room was made above.
        let _ = stage.events.push_back(Box::new((event, BootMoment::now())));
        drop(stage);
        self.filled.notify_one();
        self.staged.notify_one();
        conditions
    }

    /// Whether an event finds room now.
    #[must_use]
    pub fn takes_event(&self) -> bool {
        let stage = self.lock();
        !stage.disk.is_there || !stage.events.is_full()
    }

    /// Adds a status, unless the ring is needed for results.
    pub fn push_status(&self, id: &JobId, mut status: StatusUpdate) {
        let mut stage = self.lock();
        if stage.reports.len() >= STATUS_ROOM {
            return;
        }
        cut(&mut status.message, limits::ERROR_BYTES);
        bound_conditions(&mut status.conditions);
        stage.push_report(None, Report::Status(id.clone(), status));
        drop(stage);
        self.filled.notify_one();
    }

    /// Adds a result that is on no disk or was there before. Whoever takes jobs asks [`has_room`](Self::has_room)
    /// first; a result that finds no room all the same pushes out the oldest status.
    pub fn push_result(&self, id: &JobId, result: JobResult) {
        self.push_numbered(None, id, result);
    }

    fn push_numbered(&self, number: Option<u64>, id: &JobId, mut result: JobResult) {
        cut(&mut result.error, limits::ERROR_BYTES);
        self.lock().push_report(number, Report::Result(id.clone(), result));
        self.filled.notify_one();
    }

    /// Writes a job down before it is acked, with the trust state that it leads to, and gives its number; none when there is no disk to write to. Blocks.
    #[must_use]
    pub fn accept(&self, job: StoredJob, trust: Option<&[u8]>) -> Option<u64> {
        let accepted = self.with_disk(|journal, staged| {
            let (number, last) = journal.accept(job, trust, staged)?;
            Ok((number, last))
        });
        let (number, last) = accepted?;
        self.drop_staged(last);
        Some(number)
    }

    /// Writes the trust state down; false when it is not on the disk. Blocks.
    #[must_use]
    pub fn commit_trust(&self, trust: &[u8]) -> bool {
        self.with_disk(|journal, _| journal.commit_trust(trust)).is_some()
    }

    /// The object of a job is there: written down before the next job is acked.
    pub fn applied(&self, job: u64, object: &ObjectRef) {
        self.lock().owe(Owed::Applied(job, StoredRef::of(object)));
    }

    /// A job is not ours after all. Blocks.
    pub fn drop_job(&self, job: u64) {
        let _ = self.with_disk(|journal, _| {
            journal.drop_job(job);
            Ok(())
        });
        self.emptied.notify_one();
    }

    /// Writes an outcome down, and only then lets it be posted. `job` is 0 for a job that is not written down. Blocks.
    pub fn finish(&self, job: u64, known: Ended, id: &JobId, result: JobResult) {
        let mut number = None;
        let outcome =
            StoredOutcome { header: known.header, ..StoredOutcome::of(id, known.key, known.had_effect, &result) };
        let last = self.with_disk(|journal, staged| {
            let (outcome_number, written) = journal.finish(job, outcome, staged);
            number = Some(outcome_number);
            written
        });
        self.drop_staged(last.flatten());
        self.push_numbered(number, id, result);
    }

    /// The text of a job that goes on. Blocks.
    #[must_use]
    pub fn text(&self, job: &OpenJob) -> Option<Box<str>> {
        self.lock_disk().as_ref()?.text(job)
    }

    /// Writes the events that wait in memory. Blocks.
    pub fn flush(&self) {
        let last = self.with_disk(|journal, staged| {
            let written = journal.flush(staged)?;
            Ok(written.checked_sub(1).and_then(|last| staged.get(last)).map(|frame| frame.number))
        });
        self.drop_staged(last.flatten());
    }

    /// Writes everything, and that this was a clean stop. What comes later is lost. Blocks.
    pub fn close(&self) {
        let _ = self.with_disk(Journal::stop);
    }

    /// Does something with the journal; what goes wrong is said once, and the agent goes on in memory.
    fn with_disk<T>(&self, act: impl FnOnce(&mut Journal<FileMedium>, &[Frame]) -> Result<T, RingError>) -> Option<T> {
        let mut disk = self.lock_disk();
        let journal = disk.as_mut()?;
        let staged: Vec<Frame> = {
            let mut stage = self.lock();
            for owed in std::mem::take(&mut stage.owed) {
                match owed {
                    Owed::Applied(job, object) => journal.applied(job, object),
                    Owed::Resent(losses) => journal.resend(losses),
                    Owed::Told(losses) => journal.tell(losses),
                }
            }
            journal.count_lost(std::mem::take(&mut stage.lost));
            let frame = |event: &Event, made| Some(event_frame(number_of(&event.event_key)?, event, made));
            stage.events.iter().filter_map(|staged| frame(&staged.0, staged.1)).collect()
        };
        let done = act(journal, &staged);
        let mut stage = self.lock();
        stage.look_at(journal);
        match done {
            Ok(done) => {
                if stage.trouble.take().is_some() {
                    info!("the journal can be written again");
                }
                Some(done)
            }
            Err(error) => {
                let detail = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                if stage.trouble.is_none() {
                    error!(%error, detail, "the agent goes on in memory: a power cut would lose what waits");
                }
                stage.trouble = Some(format!("{error} {detail}"));
                None
            }
        }
    }

    fn drop_staged(&self, through: Option<u64>) {
        let Some(through) = through else { return };
        let mut stage = self.lock();
        stage.drop_events(through);
    }

    /// What is wrong with the journal.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.lock().trouble.clone()
    }

    /// Something is wrong with the journal from the start.
    pub fn set_trouble(&self, trouble: String) {
        self.lock().trouble = Some(trouble);
    }

    /// What was done to the flash.
    #[must_use]
    pub fn flash(&self) -> FlashCounts {
        self.flash.counts()
    }

    /// Whether the results of all jobs that can be open have room.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let stage = self.lock();
        stage.reports.len() < limits::STAGE_RECORDS - limits::OPEN_JOBS && (!stage.disk.is_there || stage.disk.has_room)
    }

    /// Waits until something was posted.
    pub async fn emptied(&self) {
        self.emptied.notified().await;
    }

    /// Waits until something was added.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    /// The oldest report.
    #[must_use]
    pub fn first_report(&self) -> Option<Report> {
        let mut stage = self.lock();
        let first = stage.reports.front().map(|waiting| (waiting.ticket, waiting.report.clone()));
        stage.posting = first.as_ref().map(|(ticket, _)| *ticket);
        first.map(|(_, report)| report)
    }

    /// The report that was given out is done with. Blocks.
    pub fn drop_report(&self) {
        let mut stage = self.lock();
        let posting = stage.posting.take();
        // A status may have been pushed out meanwhile.
        let number = match stage.reports.front() {
            Some(front) if Some(front.ticket) == posting => stage.reports.pop_front().and_then(|front| front.number),
            _ => None,
        };
        drop(stage);
        if let Some(number) = number {
            let mut disk = self.lock_disk();
            if let Some(journal) = disk.as_mut() {
                journal.posted(number);
                self.lock().disk.has_room = journal.has_room();
            }
        }
        self.emptied.notify_one();
    }

    /// The oldest report holds up the others: a result goes behind them, a status is given up.
    pub fn set_report_aside(&self) {
        let mut stage = self.lock();
        if let Some(waiting) = stage.reports.pop_front()
            && matches!(waiting.report, Report::Result(..))
        {
            // There was room a moment ago.
            let _ = stage.reports.push_back(waiting);
        }
    }

    /// The oldest events, at most [`limits::EVENT_BATCH`], and since when the first of them waits: those on the disk
    /// before those in memory. Blocks.
    #[must_use]
    pub fn first_events(&self) -> Option<(Vec<Event>, Instant)> {
        let since = self.lock().events_since?;
        let mut events = Vec::new();
        // Held to the end: what goes from memory to the disk meanwhile would come twice.
        let mut disk = self.lock_disk();
        if self.lock().disk.events > 0
            && let Some(journal) = disk.as_mut()
        {
            match journal.events(limits::EVENT_BATCH) {
                Ok(found) => events = found,
                Err(error) => error!(%error, "the events on the disk cannot be read; they are counted as lost"),
            }
            if events.is_empty() {
                journal.give_up_events();
                self.lock().look_at(journal);
            }
        }
        let stage = self.lock();
        let last = events.last().and_then(|event: &Event| number_of(&event.event_key));
        let is_behind = |event: &Event| last.is_none_or(|last| number_of(&event.event_key) > Some(last));
        let room = limits::EVENT_BATCH.saturating_sub(events.len());
        events.extend(
            stage.events.iter().filter(|staged| is_behind(&staged.0)).take(room).map(|staged| stamp::as_sent(staged)),
        );
        (!events.is_empty()).then_some((events, since))
    }

    /// Since when the oldest event waits, and how many there are.
    #[must_use]
    pub fn events_waiting(&self) -> Option<(Instant, usize)> {
        let stage = self.lock();
        let count = stage.events_in_all();
        stage.events_since.filter(|_| count > 0).map(|since| (since, count))
    }

    /// The events up to this key are done with. Some of them may have been pushed out meanwhile. Blocks.
    pub fn drop_events(&self, last: &str) {
        let Some(through) = number_of(last) else { return };
        let mut disk = self.lock_disk();
        let mut stage = self.lock();
        let had_heartbeat = stage.has_heartbeat();
        stage.drop_events(through);
        if had_heartbeat
            && !stage.has_heartbeat()
            && let Some(telling) = stage.telling.take()
        {
            // Without a disk nobody ever fetches it, and heartbeats go on for years.
            stage.owe(Owed::Told(telling));
            stage.disk.told = telling;
        }
        if let Some(journal) = disk.as_mut() {
            journal.events_posted(through);
            let told = stage.disk.told;
            stage.look_at(journal);
            stage.disk.told = told;
        }
        stage.events_since = (stage.events_in_all() > 0).then(Instant::now);
        drop(stage);
        self.emptied.notify_one();
    }

    /// Whether a heartbeat waits already; a second one would tell nothing new.
    #[must_use]
    pub fn has_heartbeat(&self) -> bool {
        self.lock().has_heartbeat()
    }

    /// How full it is.
    #[must_use]
    pub fn fill(&self) -> Fill {
        let stage = self.lock();
        let (lost, lost_at_most) = stage.losses();
        Fill {
            reports: stage.reports.len(),
            events: stage.events_in_all(),
            lost,
            lost_at_most,
            told: (lost, lost_at_most) == stage.disk.told,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_disk(&self) -> MutexGuard<'_, Option<Journal<FileMedium>>> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stage {
    fn has_heartbeat(&self) -> bool {
        self.events.iter().any(|staged| staged.0.kind == EventKind::ClusterHeartbeat)
    }

    fn drop_events(&mut self, through: u64) {
        while self
            .events
            .front()
            .and_then(|staged| number_of(&staged.0.event_key))
            .is_some_and(|first| first <= through)
        {
            self.events.pop_front();
        }
    }

    fn events_in_all(&self) -> usize {
        self.events.len().saturating_add(usize::try_from(self.disk.events).unwrap_or(usize::MAX))
    }

    fn losses(&self) -> (u64, u64) {
        (self.disk.losses.0.saturating_add(self.lost), self.disk.losses.1)
    }
}

#[cfg(test)]
mod tests;

//! What waits to be posted.
//!
//! Two rings of fixed capacity in memory: reports of jobs (statuses and results) and events. A result is
//! never overwritten: no job is taken unless its result has room. An event that finds its ring full
//! pushes the oldest out, and that is counted.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use heapless::Deque;
use tokio::sync::Notify;

use crate::limits;
use crate::protocol::{Condition, Event, EventKind, JobId, JobResult, StatusUpdate};

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
    stage: Mutex<Stage>,
    filled: Notify,
    emptied: Notify,
}

struct Stage {
    reports: Box<Deque<Box<Report>, { limits::STAGE_RECORDS }>>,
    events: Box<Deque<Box<Event>, { limits::STAGE_RECORDS }>>,
    /// When the oldest waiting event came.
    events_since: Option<Instant>,
    epoch: u64,
    next_sequence: u64,
    lost: u64,
}

impl Stage {
    /// Takes the oldest status out, or the oldest result where there is no status.
    fn push_out_a_status(&mut self) {
        let mut is_done = !self.reports.iter().any(|report| matches!(**report, Report::Status(..)));
        if is_done {
            self.reports.pop_front();
            return;
        }
        for _ in 0..self.reports.len() {
            let Some(report) = self.reports.pop_front() else { return };
            if !is_done && matches!(*report, Report::Status(..)) {
                is_done = true;
            } else {
                // It was in there a moment ago.
                let _ = self.reports.push_back(report);
            }
        }
    }
}

/// What the outbox holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// Statuses and results.
    pub reports: usize,
    /// Events.
    pub events: usize,
    /// Events that were pushed out since the start.
    pub lost: u64,
}

/// Of [`limits::STAGE_RECORDS`], what statuses may fill; the rest is for results.
const STATUS_ROOM: usize = limits::STAGE_RECORDS / 4 * 3;

/// A condition's message takes at most this much of a record; with its type, reason and times it stays
/// below [`limits::RECORD_BYTES`].
const MESSAGE_BYTES: usize = 256;

impl Outbox {
    /// An empty one. `epoch` is a random value of this start: with the sequence number it makes every
    /// event key unique (P1.7).
    #[must_use]
    pub fn new(epoch: u64) -> Self {
        Self {
            stage: Mutex::new(Stage {
                reports: Box::new(Deque::new()),
                events: Box::new(Deque::new()),
                events_since: None,
                epoch,
                next_sequence: 0,
                lost: 0,
            }),
            filled: Notify::new(),
            emptied: Notify::new(),
        }
    }

    /// Adds an event and gives it its key: `shape#<epoch>.<sequence>`. The oldest event makes room.
    pub fn push_event(&self, shape: &str, mut event: Event) {
        let mut stage = self.lock();
        event.event_key = format!("{shape}#{:016x}.{}", stage.epoch, stage.next_sequence);
        stage.next_sequence += 1;
        bound_event(&mut event);
        if stage.events.is_full() {
            stage.events.pop_front();
            stage.lost += 1;
        }
        stage.events_since.get_or_insert_with(Instant::now);
        // Room was made above.
        let _ = stage.events.push_back(Box::new(event));
        drop(stage);
        self.filled.notify_one();
    }

    /// Adds a status, unless the ring is needed for results.
    pub fn push_status(&self, id: &JobId, mut status: StatusUpdate) {
        let mut stage = self.lock();
        if stage.reports.len() >= STATUS_ROOM {
            return;
        }
        cut(&mut status.message, limits::ERROR_BYTES);
        bound_conditions(&mut status.conditions);
        let _ = stage.reports.push_back(Box::new(Report::Status(id.clone(), status)));
        drop(stage);
        self.filled.notify_one();
    }

    /// Adds a result. Whoever takes jobs asks [`has_room`](Self::has_room) first; a result that finds no
    /// room all the same pushes out the oldest status.
    pub fn push_result(&self, id: &JobId, mut result: JobResult) {
        cut(&mut result.error, limits::ERROR_BYTES);
        let mut stage = self.lock();
        if stage.reports.is_full() {
            stage.push_out_a_status();
        }
        let _ = stage.reports.push_back(Box::new(Report::Result(id.clone(), result)));
        drop(stage);
        self.filled.notify_one();
    }

    /// Whether the results of all jobs that can be open have room.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.lock().reports.len() < limits::STAGE_RECORDS - limits::OPEN_JOBS
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
        self.lock().reports.front().map(|report| (**report).clone())
    }

    /// The oldest report is done with.
    pub fn drop_report(&self) {
        self.lock().reports.pop_front();
        self.emptied.notify_one();
    }

    /// The oldest report holds up the others: a result goes behind them, a status is given up.
    pub fn set_report_aside(&self) {
        let mut stage = self.lock();
        if let Some(report) = stage.reports.pop_front()
            && matches!(*report, Report::Result(..))
        {
            // There was room a moment ago.
            let _ = stage.reports.push_back(report);
        }
    }

    /// The oldest events, at most [`limits::EVENT_BATCH`], and since when the first of them waits.
    #[must_use]
    pub fn first_events(&self) -> Option<(Vec<Event>, Instant)> {
        let stage = self.lock();
        let events: Vec<Event> = stage.events.iter().take(limits::EVENT_BATCH).map(|event| (**event).clone()).collect();
        stage.events_since.filter(|_| !events.is_empty()).map(|since| (events, since))
    }

    /// Since when the oldest event waits, and how many there are.
    #[must_use]
    pub fn events_waiting(&self) -> Option<(Instant, usize)> {
        let stage = self.lock();
        stage.events_since.filter(|_| !stage.events.is_empty()).map(|since| (since, stage.events.len()))
    }

    /// The events up to this key are done with. Some of them may have been pushed out meanwhile.
    pub fn drop_events(&self, last: &str) {
        let mut stage = self.lock();
        if stage.events.iter().any(|event| event.event_key == last) {
            while let Some(event) = stage.events.pop_front() {
                if event.event_key == last {
                    break;
                }
            }
        }
        stage.events_since = (!stage.events.is_empty()).then(Instant::now);
        drop(stage);
        self.emptied.notify_one();
    }

    /// Whether a heartbeat waits already; a second one would tell nothing new.
    #[must_use]
    pub fn has_heartbeat(&self) -> bool {
        self.lock().events.iter().any(|event| event.kind == EventKind::ClusterHeartbeat)
    }

    /// How full it is.
    #[must_use]
    pub fn fill(&self) -> Fill {
        let stage = self.lock();
        Fill { reports: stage.reports.len(), events: stage.events.len(), lost: stage.lost }
    }

    fn lock(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cuts messages, and leaves out what goes beyond a record: the changed condition comes first.
fn bound_event(event: &mut Event) {
    bound_conditions(&mut event.conditions);
    for endpoint in &mut event.endpoints {
        cut(&mut endpoint.url, MESSAGE_BYTES);
        cut(&mut endpoint.notes, MESSAGE_BYTES);
    }
    while serde_json::to_vec(event).map_or(0, |text| text.len()) > limits::RECORD_BYTES {
        if event.endpoints.pop().is_none() && (event.conditions.len() < 2 || event.conditions.pop().is_none()) {
            break;
        }
    }
}

/// Conditions are written by any author. One that the protocol does not know must not keep a whole batch
/// from being taken: a status that is none is `Unknown`, and what has no type is left out.
fn bound_conditions(conditions: &mut Vec<Condition>) {
    conditions.retain(|condition| !condition.kind.is_empty());
    conditions.truncate(CONDITIONS);
    for condition in conditions {
        if !matches!(condition.status.as_str(), "True" | "False" | "Unknown") {
            "Unknown".clone_into(&mut condition.status);
        }
        cut(&mut condition.kind, MESSAGE_BYTES);
        cut(&mut condition.reason, MESSAGE_BYTES);
        cut(&mut condition.message, MESSAGE_BYTES);
    }
}

/// Conditions in one event.
const CONDITIONS: usize = 8;

/// Cuts a text at a character and marks it.
pub fn cut(text: &mut String, bytes: usize) {
    const MARK: &str = "…";
    if text.len() <= bytes {
        return;
    }
    let mut end = bytes.saturating_sub(MARK.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push_str(MARK);
}

#[cfg(test)]
mod tests {
    use super::{Fill, Outbox, Report, cut};
    use crate::limits;
    use crate::protocol::{
        Condition, Event, EventKind, JobId, JobResult, ObjectRef, OutcomeKind, StatusUpdate, Timestamp,
    };

    fn event(kind: EventKind) -> Event {
        Event {
            event_key: String::new(),
            kind,
            resource_ref: ObjectRef::default(),
            conditions: Vec::new(),
            endpoints: Vec::new(),
            timestamp: Timestamp::from_unix_seconds(0),
        }
    }

    fn result() -> JobResult {
        JobResult {
            outcome: OutcomeKind::Noop,
            error: String::new(),
            applied_ref: None,
            timestamp: Timestamp::from_unix_seconds(0),
        }
    }

    fn id(number: usize) -> JobId {
        JobId::parse(&format!("j{number}")).unwrap()
    }

    fn status() -> StatusUpdate {
        StatusUpdate {
            phase: "Applied".into(),
            conditions: Vec::new(),
            message: String::new(),
            timestamp: Timestamp::from_unix_seconds(0),
        }
    }

    #[test]
    fn a_full_ring_pushes_the_oldest_event_out_and_counts_it() {
        let outbox = Outbox::new(7);
        for _ in 0..=limits::STAGE_RECORDS {
            outbox.push_event("x", event(EventKind::ConditionTransition));
        }
        assert_eq!(outbox.fill(), Fill { reports: 0, events: limits::STAGE_RECORDS, lost: 1 });
        let (batch, _) = outbox.first_events().unwrap();
        assert_eq!(batch.len(), limits::EVENT_BATCH);
        assert_eq!(batch[0].event_key, "x#0000000000000007.1");
        outbox.drop_events(&batch.last().unwrap().event_key);
        assert_eq!(outbox.fill().events, limits::STAGE_RECORDS - limits::EVENT_BATCH);
    }

    #[test]
    fn events_that_were_pushed_out_while_they_were_posted_take_no_other_along() {
        let outbox = Outbox::new(0);
        outbox.push_event("a", event(EventKind::ConditionTransition));
        let (batch, _) = outbox.first_events().unwrap();
        for _ in 0..limits::STAGE_RECORDS {
            outbox.push_event("b", event(EventKind::ConditionTransition));
        }
        outbox.drop_events(&batch[0].event_key);
        assert_eq!(outbox.fill().events, limits::STAGE_RECORDS);
    }

    #[test]
    fn statuses_leave_room_for_results() {
        let outbox = Outbox::new(0);
        for number in 0..limits::STAGE_RECORDS * 2 {
            outbox.push_status(&id(number), status());
        }
        assert!(outbox.has_room());
        let mut results = 0;
        while outbox.has_room() {
            outbox.push_result(&id(results), result());
            results += 1;
        }
        for number in 0..limits::OPEN_JOBS {
            outbox.push_result(&id(results + number), result());
        }
        assert_eq!(outbox.fill().reports, limits::STAGE_RECORDS);
        outbox.push_result(&id(9999), result());
        let mut left = Vec::new();
        while let Some(report) = outbox.first_report() {
            left.push(report);
            outbox.drop_report();
        }
        let results_left = left.iter().filter(|report| matches!(report, Report::Result(..))).count();
        assert_eq!(results_left, results + limits::OPEN_JOBS + 1, "no result was pushed out");
        assert!(matches!(left.last(), Some(Report::Result(last, _)) if last.as_str() == "j9999"));
        assert!(matches!(left.first(), Some(Report::Status(first, _)) if first.as_str() == "j1"));
    }

    #[test]
    fn a_report_that_holds_up_the_others_goes_behind_them() {
        let outbox = Outbox::new(0);
        outbox.push_result(&id(1), result());
        outbox.push_result(&id(2), result());
        outbox.set_report_aside();
        assert!(matches!(outbox.first_report(), Some(Report::Result(first, _)) if first == id(2)));
        outbox.drop_report();
        assert!(matches!(outbox.first_report(), Some(Report::Result(last, _)) if last == id(1)));
        outbox.drop_report();
        outbox.push_status(&id(3), status());
        outbox.set_report_aside();
        assert_eq!(outbox.first_report(), None);
    }

    #[test]
    fn a_record_is_bounded_whatever_the_cluster_says() {
        let outbox = Outbox::new(0);
        let condition = Condition {
            kind: "Ready".into(),
            status: "False".into(),
            observed_generation: None,
            last_transition_time: None,
            reason: "r".repeat(5000),
            message: "ü".repeat(5000),
        };
        let mut big = event(EventKind::ConditionTransition);
        big.conditions = vec![condition; 50];
        outbox.push_event("x", big);
        let (batch, _) = outbox.first_events().unwrap();
        assert!(serde_json::to_vec(&batch[0]).unwrap().len() <= limits::RECORD_BYTES);
        assert!(batch[0].conditions[0].message.ends_with("ü…"));
    }

    #[test]
    fn a_careless_condition_is_made_one_that_the_server_takes() {
        let outbox = Outbox::new(0);
        let condition: Condition = serde_json::from_str(r#"{"type":"Ready","status":"perhaps"}"#).unwrap();
        let nameless = Condition { kind: String::new(), ..condition.clone() };
        let mut careless = event(EventKind::ConditionTransition);
        careless.conditions = vec![nameless, condition];
        outbox.push_event("x", careless);
        let (batch, _) = outbox.first_events().unwrap();
        assert_eq!(batch[0].conditions.len(), 1);
        assert_eq!(batch[0].conditions[0].status, "Unknown");
    }

    #[test]
    fn a_cut_is_at_a_character_and_marked() {
        let cut_to = |text: &str, bytes| {
            let mut text = text.to_owned();
            cut(&mut text, bytes);
            text
        };
        assert_eq!(cut_to("abcdef", 6), "abcdef");
        assert_eq!(cut_to("abcdefg", 6), "abc…");
        assert_eq!(cut_to("üüüü", 6), "ü…");
        assert_eq!(cut_to("abc", 1), "…");
    }
}

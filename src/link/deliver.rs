//! The loop that posts: reports of jobs in their order, events in batches.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use tracing::{debug, error, info};

use super::backoff::{Backoff, draw};
use super::budget::Budget;
use super::health::{Access, Health};
use super::intake::{report_failure, settle};
use super::{Account, Fault, Posted, StatusSink};
use crate::journal::{Outbox, Report};
use crate::limits;
use crate::protocol::{Event, OutcomeKind};
use crate::shutdown::Stop;
use crate::task;

/// What is posted and where; shared by the loop that posts and the one that polls, which has it post what waits
/// before it polls again after an outage.
pub struct Reports {
    sink: Arc<dyn StatusSink>,
    /// The same on the connection of the polls, for what is posted between two of them.
    between: Arc<dyn StatusSink>,
    outbox: Arc<Outbox>,
    health: Arc<Health>,
    budget: Budget,
    /// One post at a time: what was posted is taken from the front.
    turn: Arc<tokio::sync::Mutex<()>>,
    rests: Mutex<Rests>,
    /// Events of the next post at most: fewer after a batch was refused, to find the one that is not taken.
    batch: AtomicUsize,
    /// Single events that were refused since one was taken.
    refusals: AtomicUsize,
    outcomes: Mutex<Outcomes>,
}

/// Results that the control plane took, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// `conflict`.
    pub conflict: u32,
    /// `failed`.
    pub failed: u32,
    /// `noop`.
    pub noop: u32,
    /// `succeeded`.
    pub succeeded: u32,
}

/// Until when faults are waited out.
struct Rests {
    /// By everybody: no post is repeated within a second, nor before the server asked for it.
    all: Instant,
    /// By what only goes along.
    guests: Instant,
}

impl Reports {
    /// Posts from this outbox to this sink.
    #[must_use]
    pub fn new(sink: Arc<dyn StatusSink>, outbox: Arc<Outbox>, health: Arc<Health>, budget: Budget) -> Self {
        let (between, turn, outcomes) = (Arc::clone(&sink), Arc::default(), Mutex::default());
        let now = Instant::now();
        let (rests, batch) = (Mutex::new(Rests { all: now, guests: now }), AtomicUsize::new(limits::EVENT_BATCH));
        Self { sink, between, outbox, health, budget, turn, rests, batch, refusals: AtomicUsize::new(0), outcomes }
    }

    /// What is posted between two polls goes there.
    #[must_use]
    pub fn between_polls(self, between: Arc<dyn StatusSink>) -> Self {
        Self { between, ..self }
    }

    /// Posts all that waits, oldest first, one after the other without a pause, between two polls. What comes meanwhile does
    /// not hold the next poll up.
    ///
    /// # Errors
    /// The [`Fault`] that ended it; what is left waits on.
    pub async fn post_all(self: &Arc<Self>) -> Result<(), Fault> {
        let fill = self.outbox.fill();
        let mut left = fill.reports + fill.events;
        while left > 0 {
            let Some(done) = self.post_next(&self.between, false).await? else { break };
            left = left.saturating_sub(done);
        }
        Ok(())
    }

    /// Whether a heartbeat may go along: nothing is being posted, and no fault of before is to be waited out.
    #[must_use]
    pub fn is_free(&self) -> bool {
        let rests = self.rests();
        rests.all.max(rests.guests) <= Instant::now() && self.turn.try_lock().is_ok()
    }

    fn rest(&self) -> Duration {
        self.rests().all.saturating_duration_since(Instant::now())
    }

    fn rests(&self) -> MutexGuard<'_, Rests> {
        self.rests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Posts one event past all that waits: the daily sign of life when the budget is used up.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn post_past(self: &Arc<Self>, event: Event) -> Result<(), Fault> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let this = Arc::clone(self);
        task::on_thread(move || {
            let _turn = turn;
            this.sink.events(&[event])
        })
        .await
        .unwrap_or(Err(Fault::Unreadable("the post was interrupted")))?;
        self.health.reached();
        Ok(())
    }

    /// What waits.
    pub(super) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// What a month may cost.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Results that were taken since the start.
    #[must_use]
    pub fn outcomes(&self) -> Outcomes {
        *self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are less to post; none where there was nothing. Nothing is posted where a fault of a moment ago is to
    /// be waited out.
    async fn post_next(self: &Arc<Self>, sink: &Arc<dyn StatusSink>, waits: bool) -> Result<Option<usize>, Fault> {
        // It ends with the post, and not with whoever waits for that: he may go, and what is posted stays at the front.
        let turn = Arc::clone(&self.turn).lock_owned().await;
        if waits && !self.rest().is_zero() {
            return Ok(None);
        }
        let (this, sink) = (Arc::clone(self), Arc::clone(sink));
        let posted = task::on_thread(move || {
            let _turn = turn;
            this.post_one(sink.as_ref())
        });
        let posted = posted.await.unwrap_or(Err(Fault::Unreadable("the post was interrupted")));
        // What is given up is no answer.
        if matches!(posted, Ok(Some(_))) && !self.budget.is_used_up() && self.health.reached().reachable == Some(false)
        {
            info!("connected to the control plane");
        }
        if let Err(fault) = &posted {
            self.rests().all = Instant::now() + fault.retry_after().unwrap_or_default().max(limits::BACKOFF_FLOOR);
        }
        posted
    }

    fn post_one(&self, sink: &dyn StatusSink) -> Result<Option<usize>, Fault> {
        let is_used_up = self.budget.is_used_up();
        if let Some(report) = self.outbox.first_report() {
            if is_used_up && matches!(report, Report::Status(..)) {
                debug!("a status is given up: the monthly budget is used up");
                self.outbox.drop_report();
                return Ok(Some(1));
            }
            let posted = match &report {
                Report::Result(id, result) => sink.result(id, result),
                Report::Status(id, status) => sink.status(id, status),
            };
            let job = match &report {
                Report::Result(id, _) | Report::Status(id, _) => id,
            };
            match posted {
                Ok(posted) => {
                    debug!(%job, ?posted, "a report was posted");
                    self.count(&report, posted);
                }
                // The same again would be refused again, and nothing behind it would get out.
                Err(fault @ Fault::Refused(..)) => error!(%job, error = %fault, "a report was refused and is given up"),
                Err(fault) => return Err(fault),
            }
            self.outbox.drop_report();
            return Ok(Some(1));
        }
        if is_used_up {
            return Ok(None);
        }
        let Some((mut events, _)) = self.outbox.first_events() else { return Ok(None) };
        let rest = events.split_off(self.batch.load(Ordering::Relaxed).max(1).min(events.len()));
        match (sink.events(&events), events.as_slice()) {
            (Ok(()), _) => {
                debug!(events = events.len(), "events were posted");
                self.batch.store(limits::EVENT_BATCH, Ordering::Relaxed);
                self.refusals.store(0, Ordering::Relaxed);
                if let Some(last) = events.last() {
                    self.outbox.drop_events(&last.event_key);
                }
            }
            (Err(fault @ Fault::Refused(..)), [event]) => {
                error!(key = event.event_key, error = %fault, "an event was refused; it is given up, and counted as lost");
                self.outbox.give_up_event(event);
                // It is none of them, it is all: one post for each would be a flood.
                if self.refusals.fetch_add(1, Ordering::Relaxed) >= limits::REFUSED_EVENTS {
                    error!(
                        events = rest.len(),
                        "so are those behind it, for none was taken for long; they are counted as lost"
                    );
                    for event in &rest {
                        self.outbox.give_up_event(event);
                    }
                    return Ok(Some(events.len() + rest.len()));
                }
            }
            // Which of them it is nobody says.
            (Err(Fault::Refused(..)), _) => {
                self.batch.store(events.len() / 2, Ordering::Relaxed);
                return Ok(Some(0));
            }
            (Err(fault), _) => return Err(fault),
        }
        Ok(Some(events.len()))
    }

    /// A result that comes again is not counted again.
    fn count(&self, report: &Report, posted: Posted) {
        if let (Report::Result(_, result), Posted::Taken) = (report, posted) {
            let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            let count = match result.outcome {
                OutcomeKind::Conflict => &mut outcomes.conflict,
                OutcomeKind::Failed => &mut outcomes.failed,
                OutcomeKind::Noop => &mut outcomes.noop,
                OutcomeKind::Succeeded => &mut outcomes.succeeded,
            };
            *count = count.saturating_add(1);
        }
    }
}

/// Posts until `drain`, and then what is left, as long as it is taken.
pub async fn run(reports: Arc<Reports>, account: Arc<dyn Account>, drain: Stop) {
    let (outbox, health) = (&reports.outbox, &reports.health);
    let mut backoff = Backoff::default();
    let mut failures = 0;
    loop {
        if !drain.is_set() {
            let due = async {
                due(outbox, &reports.budget).await;
                tokio::time::sleep(reports.rest()).await;
            };
            tokio::select! {
                () = due => {}
                () = drain.wait() => {}
            }
        }
        let fault = match reports.post_next(&reports.sink, !drain.is_set()).await {
            Ok(Some(_)) => {
                backoff.reset();
                failures = 0;
                continue;
            }
            Ok(None) if drain.is_set() => return,
            Ok(None) => continue,
            Err(fault) => fault,
        };
        let fault = match settle(fault, &account).await {
            Err(fault) => fault,
            // P1.9.4: a server that lets polls in and refuses posts is not asked at once either.
            Ok(()) if drain.is_set() => {
                tokio::time::sleep(limits::BACKOFF_FLOOR).await;
                continue;
            }
            Ok(()) => {
                reports.rests().all = Instant::now() + backoff.next(draw());
                continue;
            }
        };
        if drain.is_set() {
            let fill = outbox.fill();
            error!(error = %fault, reports = fill.reports, events = fill.events, "stopped before everything was posted");
            return;
        }
        failures += u32::from(is_its_own(&fault));
        if failures >= limits::POST_TRIES {
            outbox.set_report_aside();
            failures = 0;
        }
        let pause = backoff.next(draw());
        let pause = fault.retry_after().map_or(pause, |asked| pause.max(asked));
        let was_unreachable = health.now().reachable == Some(false);
        report_failure(&fault, health, pause);
        reports.rests().guests = Instant::now() + pause;
        tokio::select! {
            () = rest(health, pause, was_unreachable && matches!(fault, Fault::Network(_))) => {}
            () = drain.wait() => {}
        }
    }
}

/// Waits until there is something to post: a report at once, events when they are 100 or a second old.
async fn due(outbox: &Outbox, budget: &Budget) {
    loop {
        // Counting is enough: to look at a report may take a read of the disk.
        if outbox.fill().reports > 0 {
            return;
        }
        match outbox.events_waiting() {
            // A new month begins at midnight.
            Some(_) if budget.is_used_up() => tokio::select! {
                () = tokio::time::sleep(limits::BUDGET_LOOK) => {}
                () = outbox.filled() => {}
            },
            Some((since, count)) => {
                let left = limits::EVENT_DELAY.saturating_sub(since.elapsed());
                if count >= limits::EVENT_BATCH || left.is_zero() {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(left) => {}
                    () = outbox.filled() => {}
                }
            }
            None => outbox.filled().await,
        }
    }
}

/// Whether a fault may be that of the report alone: a server that trips over it, while all else works.
fn is_its_own(fault: &Fault) -> bool {
    matches!(fault, Fault::Busy(StatusCode::INTERNAL_SERVER_ERROR, None))
}

/// The pause after a fault. While we are not let in, it lasts until we are. Where polls had failed as well,
/// a connection that comes back ends it early; what a server asked for is waited out. In a long outage the loop
/// that polls makes the tries, and has this one's reports posted when one succeeds.
async fn rest(health: &Health, pause: Duration, ends_early: bool) {
    let mut changes = health.subscribe();
    let began = Instant::now();
    tokio::time::sleep(pause.min(limits::BACKOFF_FLOOR)).await;
    loop {
        let connection = *changes.borrow_and_update();
        let is_accepted = connection.access == Access::Accepted;
        let is_up = connection.reachable == Some(true);
        let left = pause.saturating_sub(began.elapsed());
        let is_over = left.is_zero() && (is_up || !ends_early || !health.is_long_outage());
        if is_accepted && (is_over || ends_early && is_up) {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(left), if is_accepted && !left.is_zero() => {}
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// Reports of nothing to nobody.
#[cfg(test)]
pub(super) fn no_reports() -> Arc<Reports> {
    Arc::new(Reports::new(
        Arc::new(tests::Server::default()),
        Arc::new(Outbox::new(1)),
        Arc::default(),
        Budget::default(),
    ))
}

#[cfg(test)]
mod tests {
    use super::Reports;
    use crate::journal::Outbox;
    use crate::limits;
    use crate::link::budget::Budget;
    use crate::link::{Account, Fault, Health, Posted, StatusSink};
    use crate::metrics::{Meter, Traffic};
    use crate::net::NetError;
    use crate::protocol::{ErrorBody, Event, EventKind, JobId, JobResult, OutcomeKind, StatusUpdate, Timestamp};
    use crate::shutdown::Stop;
    use http::StatusCode;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    /// Takes everything but what it is told to lose, and keeps how much came when.
    #[derive(Default)]
    pub(super) struct Server {
        posts: Mutex<Vec<(Instant, usize)>>,
        results: Mutex<Vec<JobId>>,
        faults: Mutex<u32>,
        /// Of this one, any batch with it is refused.
        refused: Mutex<Option<String>>,
        keys: Mutex<Vec<String>>,
        refuses_all: AtomicBool,
        /// A result has no answer for as long.
        is_held: AtomicBool,
    }

    impl Server {
        fn take(&self, count: usize) -> Result<(), Fault> {
            let mut faults = self.faults.lock().unwrap();
            if *faults > 0 {
                *faults -= 1;
                return Err(Fault::Network(NetError::NameNotFound("control.example".to_owned())));
            }
            self.posts.lock().unwrap().push((Instant::now(), count));
            Ok(())
        }
    }

    impl StatusSink for Server {
        fn status(&self, _: &JobId, _: &StatusUpdate) -> Result<Posted, Fault> {
            self.take(1).map(|()| Posted::Taken)
        }

        fn result(&self, id: &JobId, _: &JobResult) -> Result<Posted, Fault> {
            while self.is_held.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
            self.take(1)?;
            self.results.lock().unwrap().push(id.clone());
            Ok(Posted::Taken)
        }

        fn events(&self, events: &[Event]) -> Result<(), Fault> {
            let refused = self.refused.lock().unwrap();
            let is_refused = events.iter().any(|event| refused.as_ref() == Some(&event.event_key));
            if is_refused || self.refuses_all.load(Ordering::Relaxed) {
                self.take(events.len())?;
                return Err(Fault::Refused(StatusCode::BAD_REQUEST, ErrorBody::default()));
            }
            self.keys.lock().unwrap().extend(events.iter().map(|event| event.event_key.clone()));
            self.take(events.len())
        }
    }

    impl Account for Server {
        fn rotate(&self) -> Result<(), Fault> {
            Ok(())
        }

        fn recover(&self) -> Result<(), Fault> {
            Ok(())
        }
    }

    fn push_events(outbox: &Outbox, count: usize) {
        for _ in 0..count {
            let event = Event::bare(EventKind::ConditionTransition);
            outbox.push_event("x", event);
        }
    }

    fn push_results(outbox: &Outbox, count: usize) {
        for number in 0..count {
            let result = JobResult {
                outcome: OutcomeKind::Succeeded,
                error: String::new(),
                applied_ref: None,
                timestamp: Timestamp::from_unix_seconds(0),
            };
            outbox.push_result(&JobId::parse(&format!("j{number}")).unwrap(), result);
        }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn results_go_first_and_batch_follows_batch_without_a_pause() {
        // A machine that does other things as well may make a pause of its own.
        let took: Vec<Duration> = (0..3).map(|_| results_go_first()).collect();
        assert!(took.iter().any(|took| *took < limits::EVENT_DELAY), "{took:?}");
    }

    /// How long it was from the first result to the second batch.
    fn results_go_first() -> Duration {
        let (server, outbox) = (Arc::new(Server::default()), Arc::new(Outbox::new(1)));
        push_events(&outbox, 2 * limits::EVENT_BATCH + 1);
        push_results(&outbox, 50);
        let reports = Arc::new(Reports::new(server.clone(), outbox, Arc::new(Health::default()), Budget::default()));
        let drain = Stop::default();
        block_on(async {
            let posting = tokio::spawn(super::run(Arc::clone(&reports), server.clone(), drain.clone()));
            let two_batches = || server.posts.lock().unwrap().len() >= 52;
            let deadline = Instant::now() + Duration::from_secs(30);
            while !two_batches() && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            drain.set();
            posting.await.unwrap();
        });
        let posts = server.posts.lock().unwrap();
        let counts: Vec<usize> = posts.iter().map(|post| post.1).collect();
        assert_eq!(counts[..50], [1; 50]);
        assert_eq!(counts[50..], [limits::EVENT_BATCH, limits::EVENT_BATCH, 1]);
        let order: Vec<String> = server.results.lock().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(order, (0..50).map(|number| format!("j{number}")).collect::<Vec<_>>());
        assert_eq!(reports.outcomes().succeeded, 50);
        posts[51].0 - posts[0].0
    }

    #[test]
    fn of_a_batch_that_is_refused_only_the_event_at_fault_is_given_up_and_it_is_counted() {
        let (server, outbox) = (Arc::new(Server::default()), Arc::new(Outbox::new(1)));
        let reports = Arc::new(Reports::new(server.clone(), Arc::clone(&outbox), Arc::default(), Budget::default()));
        push_events(&outbox, limits::EVENT_BATCH + 20);
        let all: Vec<String> = outbox.first_events().unwrap().0.iter().map(|event| event.event_key.clone()).collect();
        let at_fault = all[37].clone();
        *server.refused.lock().unwrap() = Some(at_fault.clone());
        block_on(reports.post_all()).unwrap();
        let keys = server.keys.lock().unwrap();
        assert_eq!(keys.len(), limits::EVENT_BATCH + 19);
        let wanted: Vec<&String> = all.iter().filter(|key| **key != at_fault).collect();
        assert_eq!(keys.iter().take(wanted.len()).collect::<Vec<_>>(), wanted);
        let fill = outbox.fill();
        assert_eq!((fill.events, fill.lost, fill.told), (0, 1, false));
        assert!(server.posts.lock().unwrap().len() < 30, "{}", server.posts.lock().unwrap().len());
    }

    #[test]
    fn a_server_that_refuses_all_events_is_not_asked_about_each() {
        let (server, outbox) = (Arc::new(Server::default()), Arc::new(Outbox::new(1)));
        let reports = Arc::new(Reports::new(server.clone(), Arc::clone(&outbox), Arc::default(), Budget::default()));
        server.refuses_all.store(true, Ordering::Relaxed);
        push_events(&outbox, 2 * limits::EVENT_BATCH);
        block_on(reports.post_all()).unwrap();
        assert_eq!((outbox.fill().events, outbox.fill().lost), (0, 2 * limits::EVENT_BATCH as u64));
        let posts = server.posts.lock().unwrap().len();
        assert!(posts < 20, "{posts}");
    }

    #[test]
    fn a_post_whose_waiter_has_gone_takes_nothing_but_its_own_along() {
        let (server, outbox) = (Arc::new(Server::default()), Arc::new(Outbox::new(1)));
        let reports = Arc::new(Reports::new(server.clone(), Arc::clone(&outbox), Arc::default(), Budget::default()));
        push_results(&outbox, 2);
        server.is_held.store(true, Ordering::Relaxed);
        block_on(async {
            let first = tokio::time::timeout(Duration::from_millis(50), reports.post_all());
            assert!(first.await.is_err(), "it is held up, and given up");
            let second = tokio::time::timeout(Duration::from_millis(50), reports.post_all());
            assert!(second.await.is_err(), "the first post is still under way");
            server.is_held.store(false, Ordering::Relaxed);
            reports.post_all().await.unwrap();
        });
        let ids: Vec<String> = server.results.lock().unwrap().iter().map(|id| id.as_str().to_owned()).collect();
        assert_eq!(ids, ["j0", "j1"], "each once");
        assert_eq!(outbox.fill().reports, 0);
    }

    #[test]
    fn all_that_waits_is_posted_at_once_and_a_fault_loses_nothing() {
        let (server, outbox) = (Arc::new(Server::default()), Arc::new(Outbox::new(1)));
        let health = Arc::new(Health::default());
        health.unreachable();
        health.begin_long_outage();
        let reports =
            Arc::new(Reports::new(server.clone(), Arc::clone(&outbox), Arc::clone(&health), Budget::default()));
        push_events(&outbox, 3);
        push_results(&outbox, 2);
        *server.faults.lock().unwrap() = 1;
        assert!(reports.is_free());
        block_on(async {
            let begin = Instant::now();
            assert!(reports.post_all().await.is_err());
            let is_free = reports.is_free();
            assert!(!is_free || begin.elapsed() >= limits::BACKOFF_FLOOR, "what only goes along waits for a second");
            assert!(health.is_long_outage());
            assert_eq!((outbox.fill().reports, outbox.fill().events), (2, 3));
            reports.post_all().await.unwrap();
        });
        assert!(!health.is_long_outage(), "a post that was taken ends the outage");
        assert_eq!((outbox.fill().reports, outbox.fill().events), (0, 0));
        assert_eq!(server.posts.lock().unwrap().iter().map(|post| post.1).collect::<Vec<_>>(), [1, 1, 3]);
    }

    #[test]
    fn beyond_the_budget_only_results_go_out_and_events_wait() {
        let (server, outbox) = (Arc::new(Server::default()), Arc::new(Outbox::new(1)));
        let meter = Meter::default();
        let budget = Budget::new(Some(1), meter.clone(), Traffic::default());
        let reports = Arc::new(Reports::new(server.clone(), Arc::clone(&outbox), Arc::default(), budget));
        meter.add_sent(1);
        let status = StatusUpdate {
            phase: "Applied".into(),
            conditions: Vec::new(),
            message: String::new(),
            timestamp: Timestamp::from_unix_seconds(0),
        };
        outbox.push_status(&JobId::parse("j").unwrap(), status);
        push_results(&outbox, 2);
        push_events(&outbox, 3);
        block_on(reports.post_all()).unwrap();
        assert_eq!(server.results.lock().unwrap().len(), 2);
        assert_eq!(server.posts.lock().unwrap().len(), 2, "neither a status nor an event");
        assert_eq!((outbox.fill().reports, outbox.fill().events), (0, 3));
    }
}

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
mod tests;

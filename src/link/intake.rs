//! The loop that polls.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use tracing::{debug, error, info, warn};

use super::backoff::{Backoff, Probe, Retry, draw, spread};
use super::deliver::Reports;
use super::health::{Access, Connection, Health};
use super::heart::Heart;
use super::hold::{Held, Hold};
use super::longpoll::PROBE_WAIT;
use super::present::Present;
use super::stream::{Answer, End};
use super::{Account, Fault, JobSource};
use crate::limits;
use crate::net::NetError;
use crate::shutdown::{Stop, Wake};
use crate::task;

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worked {
    /// It had no jobs.
    Empty,
    /// Something in it could not be taken and will come again, or nothing in it was new.
    Partly,
    /// All of it was taken, and something was new.
    Whole,
}

/// When the next poll follows. Pure.
#[derive(Debug)]
pub struct Pace {
    retry: Retry,
    probe: Probe,
    early: Backoff,
}

/// How a poll ended, as far as its successor is concerned.
#[derive(Debug)]
pub enum Polled<'a> {
    /// It brought no jobs.
    Empty {
        /// How long the server was asked to hold it.
        asked: Duration,
        /// How long it was held.
        held: Duration,
    },
    /// It failed.
    Failed(&'a Fault),
    /// It brought jobs of which not all could be taken, or none was new.
    Unworkable,
    /// It brought jobs.
    Worked,
}

impl Pace {
    /// For polls that are held as long as `wait`.
    #[must_use]
    pub fn new(wait: Duration) -> Self {
        let early = Backoff::between(limits::BACKOFF_FLOOR, wait.max(limits::BACKOFF_FLOOR));
        Self { retry: Retry::default(), probe: Probe::default(), early }
    }

    /// The pause before the next poll, `outage` after the first failure in a row.
    pub fn after(&mut self, polled: &Polled<'_>, outage: Duration, random: u64) -> Duration {
        if !matches!(polled, Polled::Failed(_)) {
            self.retry.reset();
            self.probe.reset();
        }
        match polled {
            Polled::Worked => {
                self.early.reset();
                Duration::ZERO
            }
            Polled::Empty { asked, held } if *held >= (*asked / 2).max(limits::BACKOFF_FLOOR) => {
                self.early.reset();
                Duration::ZERO
            }
            // P1.9: a server that ignores `wait` is asked more and more rarely, up to once in `wait`. So is
            // one that brings the same job again and again, unusable or closed.
            Polled::Empty { .. } | Polled::Unworkable => self.early.next(random),
            Polled::Failed(Fault::Unauthorized(_) | Fault::Forbidden(_)) => self.probe.next(random),
            Polled::Failed(fault) => {
                let pause = self.retry.next(outage, random);
                fault.retry_after().map_or(pause, |asked| pause.max(asked))
            }
        }
    }
}

/// What the loop that polls stands on.
pub struct Intake {
    /// Where jobs come from.
    pub source: Arc<dyn JobSource>,
    /// Who we are there.
    pub account: Arc<dyn Account>,
    /// What waits to be posted, which goes first after an outage.
    pub reports: Arc<Reports>,
    /// What follows it where something was lost.
    pub present: Present,
    /// Where the state of the connection is kept.
    pub health: Arc<Health>,
    /// How long a poll is held.
    pub hold: Arc<Mutex<Hold>>,
    /// Whose heartbeats go out between two polls.
    pub heart: Arc<Heart>,
    /// Between two polls that bring nothing; none = they follow each other.
    pub interval: Option<Duration>,
    /// Ends a pause, and a poll that is held.
    pub wake: Wake,
    /// Ends it all.
    pub stop: Stop,
}

/// What a try came to.
enum Tried {
    /// The poll was answered.
    Answered(Answer),
    /// There was no answer, to the poll or to the post that came before it.
    Failed(Fault),
    /// The poll was ended because somebody wants one now.
    Woken,
}

impl Intake {
    /// Polls until it is time to stop. `handle` works an answer; the next poll waits for it.
    pub async fn run<H>(self, mut handle: H)
    where
        H: AsyncFnMut(Answer) -> Worked,
    {
        let began = Instant::now();
        let mut pace = Pace::new(self.hold().length());
        let mut failing: Option<Instant> = None;
        // Nobody answered at all: what waits to be posted is to go first.
        let mut is_out = false;
        while !self.stop.is_set() {
            self.within_budget().await;
            if self.stop.is_set() {
                return;
            }
            let hold = if self.is_brief(failing) { PROBE_WAIT } else { self.hold().length() };
            let pause = self.interval.unwrap_or_default();
            self.health.plan(pause + self.hold().length());
            let (beats, hold) = self.heart.turn(hold, pause);
            let poll_began = Instant::now();
            let tried = tokio::select! {
                tried = self.try_once(is_out, beats, hold) => tried,
                () = self.stop.wait() => return,
            };
            let held = poll_began.elapsed();
            let outage = failing.map_or(Duration::ZERO, |since| since.elapsed());
            self.learn(&tried, hold, held, began.elapsed());
            let was_out = std::mem::take(&mut is_out);
            let mut ends_early = false;
            let pause = match tried {
                Tried::Woken => {
                    is_out = was_out;
                    continue;
                }
                Tried::Answered(answer) => {
                    failing = None;
                    report_success(self.health.succeeded());
                    if let End::Broken(error) = &answer.end {
                        warn!(%error, jobs = answer.jobs.len(), "an answer broke off; its complete jobs are worked");
                    }
                    let (polled, interval) = match handle(answer).await {
                        Worked::Empty => (Polled::Empty { asked: hold, held }, self.interval),
                        Worked::Partly => (Polled::Unworkable, None),
                        Worked::Whole => (Polled::Worked, None),
                    };
                    let pause = pace.after(&polled, outage, draw());
                    // A tenth earlier or not: no two nodes keep in step.
                    interval.map_or(pause, |interval| spread(interval / 10 * 9, interval, draw()).max(pause))
                }
                Tried::Failed(fault) => match tokio::select! {
                    settled = settle(fault, &self.account) => settled,
                    () = self.stop.wait() => return,
                } {
                    // P1.9.4: a credential that is accepted by one poll and refused by the next makes no loop.
                    Ok(()) => {
                        failing = None;
                        report_success(self.health.succeeded());
                        pace.after(&Polled::Unworkable, outage, draw())
                    }
                    Err(fault) => {
                        failing = failing.or_else(|| Some(Instant::now()));
                        let pause = pace.after(&Polled::Failed(&fault), outage, draw());
                        let was_unreachable = self.health.now().reachable == Some(false);
                        report_failure(&fault, &self.health, pause);
                        is_out = fault.is_passing();
                        ends_early = was_unreachable && matches!(fault, Fault::Network(_));
                        if outage + pause >= limits::OUTAGE_QUICK && is_out {
                            self.health.begin_long_outage();
                        }
                        pause
                    }
                },
            };
            if !pause.is_zero() {
                debug!(pause_ms = pause.as_millis(), "the next poll follows after a pause");
                self.pause(pause, ends_early).await;
            }
        }
    }

    /// Waits while the monthly budget is used up.
    async fn within_budget(&self) {
        let budget = self.reports.budget();
        if !budget.is_used_up() {
            return;
        }
        warn!(
            bytes = budget.this_month().sum(),
            "the monthly budget is used up: no polls and no events until the next month; results and a sign of life a \
             day still go out (monthly_budget changes that)"
        );
        self.health.plan(limits::BUDGET_HEARTBEAT);
        while budget.is_used_up() && !self.stop.is_set() {
            tokio::select! {
                () = tokio::time::sleep(limits::BUDGET_LOOK) => {}
                () = self.stop.wait() => {}
            }
        }
    }

    /// A brief poll shows whether the line is up again, or why a held one died, and an agent that is not let in
    /// needs no more.
    fn is_brief(&self, failing: Option<Instant>) -> bool {
        failing.is_some() || self.health.now().access != Access::Accepted || self.hold().is_in_doubt()
    }

    /// After a failure what waits is posted first, after a loss what is so at present, and only then there is a poll. A
    /// heartbeat that waits goes along as well; where it does not get out, the poll is made all the same.
    async fn try_once(&self, is_out: bool, beats: bool, hold: Duration) -> Tried {
        if beats && !is_out && self.reports.is_free() {
            let _ = self.reports.post_all().await;
        }
        // A server that trips over a report, or refuses it, may answer a poll all the same. One whose certificate is not valid yet is
        // asked for the time by a poll alone.
        if (is_out || self.reports.is_free() && self.present.is_due(&self.reports))
            && let Err(fault) = self.present.send_behind(&self.reports).await
            && (matches!(fault, Fault::Network(_) | Fault::Stranger(_)) || fault.retry_after().is_some())
            && !fault.is_not_valid_yet()
        {
            return Tried::Failed(fault);
        }
        let began = Instant::now();
        let mut is_woken = false;
        self.health.poll_begins(hold);
        let mut polling = std::pin::pin!(poll(&self.source, hold));
        let polled = loop {
            tokio::select! {
                polled = &mut polling => break polled,
                () = self.wake.wait() => {
                    // One that has just begun is what is asked for.
                    if began.elapsed() >= limits::BACKOFF_FLOOR {
                        is_woken = true;
                        self.source.interrupt();
                    }
                }
            }
        };
        let tried = match polled {
            Ok(answer) => Tried::Answered(answer),
            Err(Fault::Network(_)) if is_woken => Tried::Woken,
            Err(fault) => Tried::Failed(fault),
        };
        self.health.poll_ended(match tried {
            Tried::Answered(_) => Some(true),
            Tried::Failed(_) => Some(false),
            Tried::Woken => None,
        });
        tried
    }

    /// What a poll says about the hold.
    fn learn(&self, tried: &Tried, asked: Duration, took: Duration, now: Duration) {
        let mut hold = self.hold();
        let is_whole = asked == hold.length();
        let held = match tried {
            Tried::Woken => return,
            Tried::Answered(answer) if is_whole && answer.jobs.is_empty() && took >= asked => Held::Full,
            Tried::Answered(_) => Held::Answered,
            // One that a heartbeat cut short was held as well.
            Tried::Failed(fault) if (is_whole || asked != PROBE_WAIT) && is_silence(fault) => Held::Died(took),
            Tried::Failed(_) => Held::Unanswered,
        };
        let before = hold.length();
        hold.after(held, now);
        if hold.length() < before {
            info!(
                from_s = before.as_secs(),
                to_s = hold.length().as_secs(),
                "something on the way ends connections that are silent for long; polls are held for less"
            );
        } else if hold.length() > before {
            debug!(to_s = hold.length().as_secs(), "the hold grows");
        }
    }

    /// The pause between two polls. A wake ends it, and where posts had failed as well so does a line that is up again,
    /// but nothing comes within a second.
    async fn pause(&self, pause: Duration, ends_early: bool) {
        let mut changes = self.health.subscribe();
        let is_up = async {
            while changes.borrow_and_update().reachable != Some(true) {
                if changes.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        };
        let least = pause.min(limits::BACKOFF_FLOOR);
        let rest = async {
            tokio::time::sleep(least).await;
            tokio::select! {
                () = tokio::time::sleep(pause.saturating_sub(least)) => {}
                () = self.wake.wait() => {}
                () = is_up, if ends_early && self.health.now().reachable == Some(false) => {}
            }
        };
        tokio::select! {
            () = rest => {}
            () = self.stop.wait() => {}
        }
    }

    fn hold(&self) -> MutexGuard<'_, Hold> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a held poll may have died of its own silence: the connection is gone, or a gateway lost patience.
fn is_silence(fault: &Fault) -> bool {
    match fault {
        Fault::Network(NetError::Cut(_) | NetError::Timeout(_)) => true,
        Fault::Busy(status, _) | Fault::Stranger(status) => {
            matches!(*status, StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT)
        }
        _ => false,
    }
}

async fn poll(source: &Arc<dyn JobSource>, wait: Duration) -> Result<Answer, Fault> {
    let source = Arc::clone(source);
    task::on_thread(move || source.poll(wait)).await.unwrap_or(Err(Fault::Unreadable("the poll was interrupted")))
}

/// A refused credential is not the end: another one may be accepted. Nothing to settle otherwise.
///
/// # Errors
/// The fault that stays.
pub async fn settle(fault: Fault, account: &Arc<dyn Account>) -> Result<(), Fault> {
    if !matches!(fault, Fault::Unauthorized(_)) {
        return Err(fault);
    }
    let account = Arc::clone(account);
    match task::on_thread(move || account.recover()).await {
        Ok(recovered) => recovered,
        Err(_) => Err(fault),
    }
}

fn report_success(before: Connection) {
    if before.reachable != Some(true) {
        info!("connected to the control plane");
    }
    if before.access != Access::Accepted {
        info!("the control plane accepts the credential again");
    }
}

/// Sets the state of the connection after a fault and says what is done about it, once for each change.
pub fn report_failure(fault: &Fault, health: &Health, pause: Duration) {
    say_failure(fault, health, pause);
    let (cause, detail) = fault.causes();
    let said = [fault.to_string(), cause, detail];
    health.note(said.iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join(": "));
}

fn say_failure(fault: &Fault, health: &Health, pause: Duration) {
    let next_s = pause.as_secs();
    let (before, now) = match fault {
        Fault::Unauthorized(_) => (health.denied(Access::Refused), Access::Refused),
        Fault::Forbidden(_) => (health.denied(Access::Forbidden), Access::Forbidden),
        Fault::NotFound => {
            error!(next_s, "there is no agent API at this endpoint (404): check the endpoint; it is tried again");
            health.unreachable();
            return;
        }
        Fault::Refused(..) => {
            error!(error = %fault, next_s, "the control plane refuses to be polled; it is tried again");
            health.unreachable();
            return;
        }
        _ => {
            let (cause, detail) = fault.causes();
            if health.unreachable().reachable == Some(false) {
                debug!(error = %fault, cause, detail, next_s, "still not connected");
            } else {
                warn!(error = %fault, cause, detail, next_s, "not connected; the cluster goes on, and it is tried again");
            }
            return;
        }
    };
    if before.access == now {
        debug!(error = %fault, next_s, "still not let in");
    } else {
        error!(
            error = %fault,
            next_s,
            "no jobs until the control plane lets this agent in again: register it anew with a one-time token \
             (pullet register), or restore its access there; it is tried again by itself"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{Pace, Polled};
    use crate::limits;
    use crate::link::Fault;
    use http::StatusCode;
    use std::time::Duration;

    const WAIT: Duration = Duration::from_secs(30);

    #[test]
    fn jobs_and_a_hold_are_followed_at_once() {
        let mut pace = Pace::new(WAIT);
        assert_eq!(pace.after(&Polled::Worked, Duration::ZERO, u64::MAX), Duration::ZERO);
        assert_eq!(pace.after(&empty(WAIT, WAIT), Duration::ZERO, u64::MAX), Duration::ZERO);
        assert_eq!(pace.after(&empty(WAIT, WAIT / 2), Duration::ZERO, u64::MAX), Duration::ZERO);
        let second = Duration::from_secs(1);
        assert_eq!(pace.after(&empty(second, second), Duration::ZERO, u64::MAX), Duration::ZERO);
    }

    #[test]
    fn a_server_that_ignores_wait_is_asked_more_and_more_rarely() {
        let mut pace = Pace::new(WAIT);
        let early = empty(WAIT, Duration::from_millis(3));
        let pauses: Vec<u64> = (0..7).map(|_| pace.after(&early, Duration::ZERO, u64::MAX).as_secs()).collect();
        assert_eq!(pauses, [2, 4, 8, 16, 30, 30, 30]);
        pace.after(&Polled::Worked, Duration::ZERO, 0);
        assert_eq!(pace.after(&Polled::Unworkable, Duration::ZERO, u64::MAX).as_secs(), 2);
        assert!(pace.after(&early, Duration::ZERO, 0) >= limits::BACKOFF_FLOOR);
        // Something on the way that gives up after two seconds makes no poll every two seconds.
        assert!(pace.after(&empty(WAIT, Duration::from_secs(2)), Duration::ZERO, u64::MAX) > limits::BACKOFF_FLOOR);
    }

    fn empty(asked: Duration, held: Duration) -> Polled<'static> {
        Polled::Empty { asked, held }
    }

    #[test]
    fn retry_after_is_the_least_and_never_the_most() {
        let mut pace = Pace::new(WAIT);
        let busy = |seconds| Fault::Busy(StatusCode::SERVICE_UNAVAILABLE, Some(Duration::from_secs(seconds)));
        assert_eq!(pace.after(&Polled::Failed(&busy(100)), Duration::ZERO, 0).as_secs(), 100);
        assert_eq!(pace.after(&Polled::Failed(&busy(0)), Duration::ZERO, 0), limits::BACKOFF_FLOOR);
    }

    #[test]
    fn a_refusal_is_probed_and_a_success_forgets_it() {
        let mut pace = Pace::new(WAIT);
        let refused = Fault::Unauthorized(crate::protocol::ErrorBody::default());
        assert_eq!(pace.after(&Polled::Failed(&refused), Duration::ZERO, 0), limits::PROBE_FIRST);
        assert_eq!(pace.after(&Polled::Failed(&refused), Duration::ZERO, u64::MAX), limits::PROBE_FIRST * 2);
        pace.after(&Polled::Worked, Duration::ZERO, 0);
        assert_eq!(pace.after(&Polled::Failed(&refused), Duration::ZERO, 0), limits::PROBE_FIRST);
    }
}

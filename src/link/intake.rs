//! The loop that polls.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, error, info, warn};

use super::backoff::{Backoff, Probe, draw};
use super::health::{Access, Connection, Health};
use super::longpoll::PROBE_WAIT;
use super::stream::{Answer, End};
use super::{Account, Fault, JobSource};
use crate::limits;
use crate::shutdown::Stop;

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
    backoff: Backoff,
    probe: Probe,
    early: Backoff,
}

/// How a poll ended, as far as its successor is concerned.
#[derive(Debug)]
pub enum Polled<'a> {
    /// It brought no jobs after this time.
    Empty(Duration),
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
        Self { backoff: Backoff::default(), probe: Probe::default(), early }
    }

    /// The pause before the next poll.
    pub fn after(&mut self, polled: &Polled<'_>, random: u64) -> Duration {
        if !matches!(polled, Polled::Failed(_)) {
            self.backoff.reset();
            self.probe.reset();
        }
        match polled {
            Polled::Worked => {
                self.early.reset();
                Duration::ZERO
            }
            // A hold of a second and more cannot make a hot loop.
            Polled::Empty(held) if *held >= limits::BACKOFF_FLOOR => {
                self.early.reset();
                Duration::ZERO
            }
            // P1.9: a server that ignores `wait` is asked more and more rarely, up to once in `wait`. So is
            // one that brings the same job again and again, unusable or closed.
            Polled::Empty(_) | Polled::Unworkable => self.early.next(random),
            Polled::Failed(Fault::Unauthorized(_) | Fault::Forbidden(_)) => self.probe.next(random),
            Polled::Failed(fault) => {
                let pause = self.backoff.next(random);
                fault.retry_after().map_or(pause, |asked| pause.max(asked))
            }
        }
    }
}

/// Polls until `stop`. `handle` works an answer; the next poll waits for it.
pub async fn run<H>(
    source: Arc<dyn JobSource>,
    account: Arc<dyn Account>,
    health: Arc<Health>,
    wait: Duration,
    stop: Stop,
    mut handle: H,
) where
    H: AsyncFnMut(Answer) -> Worked,
{
    let mut pace = Pace::new(wait);
    while !stop.is_set() {
        let hold = if health.now().access == Access::Accepted { wait } else { PROBE_WAIT };
        let began = Instant::now();
        let polled = tokio::select! {
            polled = poll(&source, hold) => polled,
            () = stop.wait() => return,
        };
        let pause = match polled {
            Ok(answer) => {
                report_success(health.succeeded());
                if let End::Broken(error) = &answer.end {
                    warn!(%error, jobs = answer.jobs.len(), "an answer broke off; its complete jobs are worked");
                }
                let polled = match handle(answer).await {
                    Worked::Empty => Polled::Empty(began.elapsed()),
                    Worked::Partly => Polled::Unworkable,
                    Worked::Whole => Polled::Worked,
                };
                pace.after(&polled, draw())
            }
            Err(fault) => {
                match settle(fault, &account).await {
                    // P1.9.4: a credential that is accepted by one poll and refused by the next makes no loop.
                    Ok(()) => {
                        report_success(health.succeeded());
                        pace.after(&Polled::Unworkable, draw())
                    }
                    Err(fault) => {
                        let pause = pace.after(&Polled::Failed(&fault), draw());
                        report_failure(&fault, &health, pause);
                        pause
                    }
                }
            }
        };
        if !pause.is_zero() {
            debug!(pause_ms = pause.as_millis(), "the next poll follows after a pause");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.wait() => return,
            }
        }
    }
}

async fn poll(source: &Arc<dyn JobSource>, wait: Duration) -> Result<Answer, Fault> {
    let source = Arc::clone(source);
    tokio::task::spawn_blocking(move || source.poll(wait))
        .await
        .unwrap_or(Err(Fault::Unreadable("the poll was interrupted")))
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
    match tokio::task::spawn_blocking(move || account.recover()).await {
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
        assert_eq!(pace.after(&Polled::Worked, u64::MAX), Duration::ZERO);
        assert_eq!(pace.after(&Polled::Empty(WAIT), u64::MAX), Duration::ZERO);
        assert_eq!(pace.after(&Polled::Empty(Duration::from_secs(1)), u64::MAX), Duration::ZERO);
    }

    #[test]
    fn a_server_that_ignores_wait_is_asked_more_and_more_rarely() {
        let mut pace = Pace::new(WAIT);
        let early = Polled::Empty(Duration::from_millis(3));
        let pauses: Vec<u64> = (0..7).map(|_| pace.after(&early, u64::MAX).as_secs()).collect();
        assert_eq!(pauses, [2, 4, 8, 16, 30, 30, 30]);
        pace.after(&Polled::Worked, 0);
        assert_eq!(pace.after(&Polled::Unworkable, u64::MAX).as_secs(), 2);
        assert!(pace.after(&early, 0) >= limits::BACKOFF_FLOOR);
    }

    #[test]
    fn retry_after_is_the_least_and_never_the_most() {
        let mut pace = Pace::new(WAIT);
        let busy = |seconds| Fault::Busy(StatusCode::SERVICE_UNAVAILABLE, Some(Duration::from_secs(seconds)));
        assert_eq!(pace.after(&Polled::Failed(&busy(100)), 0).as_secs(), 100);
        assert_eq!(pace.after(&Polled::Failed(&busy(0)), 0), limits::BACKOFF_FLOOR);
    }

    #[test]
    fn a_refusal_is_probed_and_a_success_forgets_it() {
        let mut pace = Pace::new(WAIT);
        let refused = Fault::Unauthorized(crate::protocol::ErrorBody::default());
        assert_eq!(pace.after(&Polled::Failed(&refused), 0), limits::PROBE_FIRST);
        assert_eq!(pace.after(&Polled::Failed(&refused), u64::MAX), limits::PROBE_FIRST * 2);
        pace.after(&Polled::Worked, 0);
        assert_eq!(pace.after(&Polled::Failed(&refused), 0), limits::PROBE_FIRST);
    }
}

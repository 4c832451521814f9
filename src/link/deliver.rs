//! The loop that posts: reports of jobs in their order, events in batches.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use tracing::{debug, error};

use super::backoff::{Backoff, draw};
use super::health::{Access, Health};
use super::intake::{report_failure, settle};
use super::{Account, Fault, StatusSink};
use crate::journal::{Outbox, Report};
use crate::limits;
use crate::shutdown::Stop;

/// Posts until `drain`, and then what is left, as long as it is taken.
pub async fn run(
    sink: Arc<dyn StatusSink>,
    account: Arc<dyn Account>,
    outbox: Arc<Outbox>,
    health: Arc<Health>,
    drain: Stop,
) {
    let mut backoff = Backoff::default();
    let mut failures = 0;
    loop {
        if !drain.is_set() {
            tokio::select! {
                () = due(&outbox) => {}
                () = drain.wait() => {}
            }
        }
        let fault = match post_next(&sink, &outbox).await {
            Ok(true) => {
                backoff.reset();
                failures = 0;
                continue;
            }
            Ok(false) if drain.is_set() => return,
            Ok(false) => continue,
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
                tokio::select! {
                    () = tokio::time::sleep(backoff.next(draw())) => {}
                    () = drain.wait() => {}
                }
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
        report_failure(&fault, &health, pause);
        tokio::select! {
            () = rest(&health, pause, was_unreachable && matches!(fault, Fault::Network(_))) => {}
            () = drain.wait() => {}
        }
    }
}

/// Waits until there is something to post: a report at once, events when they are 100 or a second old.
async fn due(outbox: &Outbox) {
    loop {
        if outbox.first_report().is_some() {
            return;
        }
        match outbox.events_waiting() {
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
/// a connection that comes back ends it early; what a server asked for is waited out.
async fn rest(health: &Health, pause: Duration, ends_early: bool) {
    let mut changes = health.subscribe();
    let began = Instant::now();
    tokio::time::sleep(pause.min(limits::BACKOFF_FLOOR)).await;
    loop {
        let connection = *changes.borrow_and_update();
        let left = pause.saturating_sub(began.elapsed());
        if connection.access == Access::Accepted {
            if left.is_zero() || ends_early && connection.reachable == Some(true) {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(left) => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
        } else if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Whether there was something to post.
async fn post_next(sink: &Arc<dyn StatusSink>, outbox: &Arc<Outbox>) -> Result<bool, Fault> {
    let sink = Arc::clone(sink);
    let outbox = Arc::clone(outbox);
    tokio::task::spawn_blocking(move || post_one(sink.as_ref(), &outbox))
        .await
        .unwrap_or(Err(Fault::Unreadable("the post was interrupted")))
}

fn post_one(sink: &dyn StatusSink, outbox: &Outbox) -> Result<bool, Fault> {
    if let Some(report) = outbox.first_report() {
        let posted = match &report {
            Report::Result(id, result) => sink.result(id, result),
            Report::Status(id, status) => sink.status(id, status),
        };
        let job = match &report {
            Report::Result(id, _) | Report::Status(id, _) => id,
        };
        match posted {
            Ok(posted) => debug!(%job, ?posted, "a report was posted"),
            // The same again would be refused again, and nothing behind it would get out.
            Err(fault @ Fault::Refused(..)) => error!(%job, error = %fault, "a report was refused and is given up"),
            Err(fault) => return Err(fault),
        }
        outbox.drop_report();
        return Ok(true);
    }
    let Some((events, _)) = outbox.first_events() else { return Ok(false) };
    match sink.events(&events) {
        Ok(()) => debug!(events = events.len(), "events were posted"),
        Err(fault @ Fault::Refused(..)) => {
            error!(events = events.len(), error = %fault, "events were refused and are given up");
        }
        Err(fault) => return Err(fault),
    }
    if let Some(last) = events.last() {
        outbox.drop_events(&last.event_key);
    }
    Ok(true)
}

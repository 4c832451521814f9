#![cfg(test)]

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
    let reports = Arc::new(Reports::new(server.clone(), Arc::clone(&outbox), Arc::clone(&health), Budget::default()));
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

//! What an outage costs: the memory of an agent whose journal is full, and how fast it drains once the line is back.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::budget::Held;
use super::report::Figure;
use super::{PATIENCE, kilobytes, setup};
use crate::agent::CLUSTER;
use crate::testbed::job::{Job, config_map};
use crate::testbed::{Call, Fault, Seen, Testbed};
use crate::year_offline;

/// Jobs whose results wait when the line goes down.
const JOBS: usize = 100;

pub(super) fn figures() -> Vec<Figure> {
    let mut figures = Vec::from(events());
    figures.extend(results());
    figures
}

/// The journal is filled through the agent's own outbox, with the agent down: it finds what a year would have left.
fn events() -> [Figure; 4] {
    let mut testbed = Testbed::start();
    let setup = setup(&testbed).target_directory();
    let mut agent = setup.spawn();
    testbed.held_poll(PATIENCE);
    agent.stop();
    let outbox = year_offline::opened(&setup.state_dir());
    year_offline::push(&outbox, year_offline::EVENTS, || ());
    outbox.close();
    // What was only in memory found no room, and is counted as lost.
    let outbox = year_offline::opened(&setup.state_dir());
    let kept = outbox.fill().events;
    outbox.close();

    testbed.down();
    let agent = setup.spawn();
    agent.wait_for_log("not connected", PATIENCE);
    std::thread::sleep(Duration::from_secs(5));
    let offline = agent.rss_kb();
    let (before, kept_before) = (testbed.requests().len(), testbed.events().len());
    testbed.up();
    agent.signal(Signal::HUP);
    testbed
        .wait_for("all events of the year", PATIENCE, |state| (state.events.len() >= kept_before + kept).then_some(()));
    let peak = agent.rss_peak_kb();
    let came = testbed.events().len() - kept_before;
    let drain = Drain::of(&testbed, before, Call::Events);
    assert_eq!((testbed.repeated_events(), testbed.violations()), (0, Vec::new()));
    [
        Figure::held(Held::OfflineMemory, "RSS offline, after a year of 1,000,000 events", kilobytes(offline)),
        Figure::held(Held::PeakDraining, "peak RSS while these drain", kilobytes(peak)),
        Figure::seen(
            "events per second after an outage",
            format!("{:.0} ({came} events in {} requests)", drain.rate(came), drain.requests),
        ),
        drain.pause("longest gap between two batches of events"),
    ]
}

/// The results of jobs that were worked while none could be posted.
fn results() -> [Figure; 2] {
    let mut testbed = Testbed::start();
    let agent = setup(&testbed).target_directory().spawn();
    testbed.held_poll(PATIENCE);
    for call in [Call::Result, Call::Status] {
        testbed.fault_until_cleared(call, Fault::CutBeforeHead);
    }
    let jobs = (0..JOBS).map(|number| Job::apply(config_map("bench", &format!("c{number}"), "value")));
    testbed.enqueue_all(CLUSTER, jobs);
    let acked = settled(|| testbed.requests_of(Call::Ack).len());
    testbed.down();
    testbed.clear_faults();
    let before = testbed.requests().len();
    testbed.up();
    agent.signal(Signal::HUP);
    let jobs = testbed.wait_for("the results", PATIENCE, |state| {
        let count = state.jobs.iter().filter(|job| job.result.is_some()).count();
        (count >= acked).then_some(count)
    });
    let drain = Drain::of(&testbed, before, Call::Result);
    assert_eq!(testbed.violations(), Vec::<String>::new());
    [
        Figure::seen(
            "results per second after an outage",
            format!("{:.0} ({jobs} results in {} requests)", drain.rate(jobs), drain.requests),
        ),
        drain.pause("longest gap between two results"),
    ]
}

/// A number that has not changed for two seconds.
fn settled(look: impl Fn() -> usize) -> usize {
    let (mut value, mut since) = (look(), Instant::now());
    while value == 0 || since.elapsed() < Duration::from_secs(2) {
        std::thread::sleep(Duration::from_millis(50));
        let now = look();
        if now != value {
            (value, since) = (now, Instant::now());
        }
    }
    value
}

struct Drain {
    requests: usize,
    took: Duration,
    longest: Duration,
}

impl Drain {
    /// The requests of this call since `before` were there.
    fn of(testbed: &Testbed, before: usize, call: Call) -> Self {
        let seen: Vec<Seen> =
            testbed.requests().into_iter().skip(before).filter(|seen| seen.call == Some(call)).collect();
        let end = |seen: &Seen| seen.answered.map_or(seen.at, |(at, _)| at);
        let first = seen.first().expect("there was one").at;
        let took = seen.iter().map(end).max().expect("there was one").saturating_duration_since(first);
        let gaps = seen.iter().zip(seen.iter().skip(1)).map(|(one, next)| next.at.saturating_duration_since(end(one)));
        Self { requests: seen.len(), took, longest: gaps.max().unwrap_or_default() }
    }

    fn rate(&self, count: usize) -> f64 {
        f64::from(u32::try_from(count).unwrap()) / self.took.as_secs_f64()
    }

    fn pause(&self, what: &'static str) -> Figure {
        Figure::held(Held::Pause, what, super::milliseconds(self.longest))
    }
}

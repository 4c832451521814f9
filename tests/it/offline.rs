//! The line is down for a while and comes back: what goes out first, SIGHUP, what the agent says meanwhile.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::agent::{Agent, CLUSTER};
use crate::testbed::job::config_map;
use crate::testbed::{Call, Fault, Testbed};

/// Far more than it takes: the first poll of a machine that has just booted is spread over half a minute.
const SOON: Duration = Duration::from_secs(90);

fn calls_since(testbed: &Testbed, before: usize) -> Vec<Call> {
    testbed.requests().into_iter().skip(before).filter_map(|seen| seen.call).collect()
}

#[test]
fn what_waited_is_posted_before_there_is_a_poll() {
    let mut testbed = Testbed::start();
    let agent = Agent::of(&testbed).target_directory().flag("--wait", "60").flag("--log-level", "debug").spawn();
    testbed.held_poll(SOON);
    // The job is acked and worked, but its status does not get out, and its result waits behind it.
    testbed.fault_until_cleared(Call::Status, Fault::CutBeforeHead);
    let id = testbed.apply(CLUSTER, config_map("shop", "a", "1"));
    testbed.ack_of(&id, SOON);
    testbed.wait_for("a status that is lost", SOON, |state| {
        state.requests.iter().any(|seen| seen.call == Some(Call::Status)).then_some(())
    });
    testbed.down();
    // The post has already said that there is no connection; the poll has to have failed as well.
    agent.wait_for_log("the next poll follows after a pause", SOON);
    testbed.clear_faults();
    let before = testbed.requests().len();
    testbed.up();
    agent.signal(Signal::HUP);
    testbed.result_of(&id, SOON);
    testbed.held_poll(SOON);
    let calls = calls_since(&testbed, before);
    let first_poll = calls.iter().position(|call| *call == Call::Jobs).unwrap();
    let result = calls.iter().position(|call| *call == Call::Result).unwrap();
    assert!(result < first_poll, "{calls:?}");
    assert_eq!(testbed.violations(), Vec::<String>::new());
}

#[test]
fn a_hangup_ends_a_held_poll_and_a_pause_however_often_it_comes() {
    let mut testbed = Testbed::start();
    let mut agent = Agent::of(&testbed).target_directory().flag("--wait", "300").spawn();
    testbed.held_poll(SOON);
    for round in 2..4 {
        // One that has just begun is left alone.
        std::thread::sleep(Duration::from_millis(1_100));
        for _ in 0..20 {
            agent.signal(Signal::HUP);
        }
        testbed.polls(round, SOON);
        testbed.held_poll(SOON);
    }
    let polls = testbed.requests_of(Call::Jobs);
    assert!(polls.iter().zip(polls.iter().skip(1)).all(|(a, b)| b.at - a.at >= Duration::from_secs(1)), "{polls:?}");
    let id = testbed.apply(CLUSTER, config_map("shop", "a", "1"));
    testbed.result_of(&id, SOON);

    // Of an outage the later pauses are long; nobody waits for them.
    testbed.down();
    agent.wait_for_log("not connected", SOON);
    std::thread::sleep(Duration::from_secs(20));
    testbed.up();
    let up = Instant::now();
    let polls = testbed.counts().polls;
    agent.signal(Signal::HUP);
    testbed.polls(polls + 1, SOON);
    assert!(up.elapsed() < Duration::from_secs(8), "{:?}", up.elapsed());
    assert!(agent.stop().status.success());
    assert_eq!(testbed.violations(), Vec::<String>::new());
}

#[test]
fn a_short_cut_is_over_within_seconds() {
    let mut testbed = Testbed::start();
    let agent = Agent::of(&testbed).target_directory().flag("--wait", "60").spawn();
    testbed.held_poll(SOON);
    testbed.down();
    agent.wait_for_log("not connected", SOON);
    testbed.up();
    let id = testbed.apply(CLUSTER, config_map("shop", "a", "1"));
    // The third pause is 8 s at most.
    testbed.result_of(&id, Duration::from_secs(30));
}

//! P1.9: pacing. The growth of the pauses, their width at the cap, the probes after a refusal and the spread
//! after a boot take hours or a boot; they are shown where they are drawn (`link::backoff`, `link::intake`).

use std::time::Duration;

use super::{SECOND, SOON, assert_sound, count_within, done, gaps, patient, setup, since, start, succeeded};
use crate::testbed::job::config_map;
use crate::testbed::{Call, Fault, Job, Testbed};

/// P1.9.1: an answer that does not come is waited for as long as the hold and ten seconds more.
#[test]
fn a_poll_without_an_answer_is_given_up_after_the_hold_and_ten_seconds() {
    let testbed = Testbed::start();
    testbed.fault(Call::Jobs, 1, Fault::Silence);
    let _agent = start(&testbed);
    let polls = since(&testbed, Call::Jobs, 0, 2);
    let waited = polls[1].at.duration_since(polls[0].at);
    // A hold of 1 s, the grace of 10 s, and the pause after a fault; less what the server was late to read the first one.
    assert!(waited >= Duration::from_secs(9) && waited < Duration::from_secs(40), "{waited:?}");
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "a", "1")))));
    assert_sound(&testbed);
}

/// P1.9.2, P1.9.4: a server that answers at once although it was to hold is asked more and more rarely.
#[test]
fn a_server_that_ignores_the_hold_is_not_asked_in_a_loop() {
    let testbed = Testbed::start();
    testbed.fault_until_cleared(Call::Jobs, Fault::IgnoredWait);
    let _agent = patient(&testbed, 30).spawn();
    since(&testbed, Call::Jobs, 0, 1);
    assert!(count_within(&testbed, Call::Jobs, SECOND * 3) <= 2);
    let gaps = gaps(&testbed.requests_of(Call::Jobs));
    assert!(gaps.iter().all(|gap| *gap >= SECOND), "{gaps:?}");
    assert_sound(&testbed);
}

/// P1.9.2: with the shortest hold as well.
#[test]
fn the_shortest_hold_makes_no_loop_either() {
    let testbed = Testbed::start();
    testbed.fault_until_cleared(Call::Jobs, Fault::IgnoredWait);
    let _agent = setup(&testbed).spawn();
    since(&testbed, Call::Jobs, 0, 1);
    let count = count_within(&testbed, Call::Jobs, SECOND * 2);
    assert!(count <= 2, "{count}");
    since(&testbed, Call::Jobs, count + 1, 1);
    testbed.clear_faults();
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "a", "1")))), "it is still served");
    assert_sound(&testbed);
}

/// P1.9: a job that arrives during a hold is worked at once, and the next poll follows without a pause.
#[test]
fn jobs_are_worked_as_they_come() {
    let testbed = Testbed::start();
    let _agent = patient(&testbed, 60).spawn();
    testbed.held_poll(SOON);
    for name in ["a", "b", "c"] {
        let result = done(&testbed, Job::apply(config_map("shop", name, "1")));
        assert!(succeeded(&result));
    }
    let polls = testbed.requests_of(Call::Jobs);
    let pauses = gaps(&polls);
    assert!(polls.len() >= 3 && pauses.iter().all(|pause| *pause < SECOND * 10), "{pauses:?}");
    assert_eq!(polls.iter().map(|seen| seen.connection).collect::<std::collections::BTreeSet<_>>().len(), 1);
    assert_sound(&testbed);
}

//! P1.8.3 to P1.8.6: all other status codes. 401 and 403 have a room of their own.

use std::time::{Duration, Instant};

use super::{SECOND, SOON, about, assert_sound, count_within, done, gaps, since, start, succeeded, value_of};
use crate::agent::CLUSTER;
use crate::testbed::job::config_map;
use crate::testbed::{Call, Fault, Job, RetryAfter, Testbed};

fn works(testbed: &Testbed) {
    assert!(succeeded(&done(testbed, Job::apply(config_map("shop", "works", "1")))));
}

/// P1.8.3: 404 to a poll is a wrong endpoint. The agent says so and keeps trying, slowly: it may be the server
/// that is wrong.
#[test]
fn a_404_to_a_poll_is_told_and_tried_again() {
    let testbed = Testbed::start();
    testbed.fault(Call::Jobs, 2, Fault::status(404));
    let agent = start(&testbed);
    works(&testbed);
    let gaps = gaps(&testbed.requests_of(Call::Jobs));
    assert!(gaps[0] >= SECOND && gaps[1] >= SECOND, "{gaps:?}");
    assert!(agent.log().contains("check the endpoint"), "{}", agent.log());
    assert_sound(&testbed);
}

/// P1.8.3: 404 on a job closes that job: its status and its result are given up, and the next one is worked.
#[test]
fn a_404_on_a_job_closes_it() {
    let testbed = Testbed::start();
    testbed.fault(Call::Status, 1, Fault::status(404));
    testbed.fault(Call::Result, 1, Fault::status(404));
    let agent = start(&testbed);
    let closed = testbed.enqueue(CLUSTER, Job::apply(config_map("shop", "closed", "1")).with("id", "closed"));
    works(&testbed);
    let posts = [Call::Ack, Call::Status, Call::Result].map(|call| about(&testbed, call, &closed).len());
    assert_eq!(posts, [1, 1, 1]);
    assert!(!agent.log().contains("check the endpoint"), "{}", agent.log());
    assert_sound(&testbed);
}

/// P1.8.4: 409 to a result is a success.
#[test]
fn a_409_to_a_result_is_a_success() {
    let testbed = Testbed::start();
    testbed.fault(Call::Result, 1, Fault::status(409));
    let agent = start(&testbed);
    let known = testbed.enqueue(CLUSTER, Job::apply(config_map("shop", "known", "1")).with("id", "known"));
    works(&testbed);
    assert_eq!(about(&testbed, Call::Result, &known).len(), 1);
    assert_eq!(value_of(&agent, "known").as_deref(), Some("1"));
    assert!(!agent.log().contains("refused"), "{}", agent.log());
    assert_sound(&testbed);
}

/// P1.8.5: as many seconds as the server says, at least.
#[test]
fn retry_after_in_seconds_is_waited_out() {
    for status in [429, 503] {
        let testbed = Testbed::start();
        testbed.fault(Call::Jobs, 1, Fault::retry_after(status, RetryAfter::Seconds(4)));
        let _agent = start(&testbed);
        let gap = gaps(&since(&testbed, Call::Jobs, 0, 2))[0];
        assert!(gap >= Duration::from_secs(4), "{status}: {gap:?}");
        works(&testbed);
        assert_sound(&testbed);
    }
}

/// P1.8.5: until the date that the server names.
#[test]
fn retry_after_as_a_date_is_waited_out() {
    let testbed = Testbed::start();
    let _agent = start(&testbed);
    testbed.polls(1, SOON);
    // A date has no fractions of a second.
    let until = Instant::now() + Duration::from_secs(5);
    testbed.fault(Call::Jobs, 1, Fault::retry_after(503, RetryAfter::Date(Duration::from_secs(6))));
    let seen = testbed.wait_for("the poll after the fault", SOON, |state| {
        let polls: Vec<_> = state.requests.iter().filter(|seen| seen.call == Some(Call::Jobs)).collect();
        let hit = polls.iter().position(|seen| seen.fault.is_some())?;
        polls.get(hit + 1).map(|seen| seen.at)
    });
    assert!(seen >= until, "{:?} too early", until.saturating_duration_since(seen));
    works(&testbed);
    assert_sound(&testbed);
}

/// P1.8.5: the same for acks and posts; a number that makes no sense does no harm.
#[test]
fn retry_after_is_waited_out_by_acks_and_posts() {
    let testbed = Testbed::start();
    for call in [Call::Ack, Call::Result] {
        testbed.fault(call, 1, Fault::retry_after(429, RetryAfter::Seconds(3)));
    }
    testbed.fault(Call::Status, 1, Fault::retry_after(503, RetryAfter::Seconds(0)));
    let _agent = start(&testbed);
    works(&testbed);
    for (call, least) in [(Call::Ack, 3), (Call::Status, 1), (Call::Result, 3)] {
        let gaps = gaps(&testbed.requests_of(call));
        assert!(gaps.len() == 1 && gaps[0] >= SECOND * least, "{call:?} {gaps:?}");
    }
    assert_sound(&testbed);
}

/// P1.8.6, P1.9.3, P1.9.4: after a failure the next try follows after a second at the earliest, and the ones
/// after that on average later and later. How the pauses grow is shown where they are drawn.
#[test]
fn a_server_that_fails_is_asked_again_after_a_pause() {
    let testbed = Testbed::start();
    for fault in [Fault::status(500), Fault::html(502), Fault::status(503)] {
        testbed.fault(Call::Jobs, 1, fault);
    }
    let agent = start(&testbed);
    let polls = since(&testbed, Call::Jobs, 0, 4);
    let gaps = gaps(&polls[..4]);
    let ceilings = [2, 4, 8];
    for (gap, ceiling) in gaps.iter().zip(ceilings) {
        // What comes on top is the machine's.
        assert!(*gap >= SECOND && *gap < SECOND * (ceiling + 20), "{gaps:?}");
    }
    works(&testbed);
    assert!(agent.log().contains("not connected; the cluster goes on"), "{}", agent.log());
    assert_sound(&testbed);
}

/// P1.8.6: the same goes for every other call: none is repeated within a second, and none is given up.
#[test]
fn every_post_is_repeated_after_a_pause() {
    let testbed = Testbed::start();
    for call in [Call::Ack, Call::Status, Call::Result, Call::Events] {
        testbed.fault(call, 1, Fault::status(500));
    }
    let _agent = start(&testbed);
    works(&testbed);
    testbed.event("the heartbeat", SOON, |event| event["kind"] == "ClusterHeartbeat");
    for call in [Call::Ack, Call::Status, Call::Result, Call::Events] {
        let first = gaps(&testbed.requests_of(call))[0];
        assert!(first >= SECOND, "{call:?} {first:?}");
    }
    assert_sound(&testbed);
}

/// P1.8.6: a captive portal answers everything with its own page and 200. Nothing is lost to it, and nothing
/// is taken for done.
#[test]
fn a_captive_portal_takes_nothing() {
    let testbed = Testbed::start();
    for call in [Call::Jobs, Call::Ack, Call::Status, Call::Result, Call::Events] {
        testbed.fault(call, 1, Fault::html(200));
    }
    let agent = start(&testbed);
    let id = testbed.apply(CLUSTER, config_map("shop", "a", "1"));
    assert!(succeeded(&testbed.result_of(&id, SOON)));
    testbed.event("the heartbeat", SOON, |event| event["kind"] == "ClusterHeartbeat");
    assert_eq!((testbed.acks(&id), testbed.statuses(&id).len()), (1, 1));
    assert!(gaps(&testbed.requests_of(Call::Jobs))[0] >= SECOND);
    assert!(agent.log().contains("captive portal"), "{}", agent.log());
    assert_sound(&testbed);
}

/// P1.8.6: a poll that is refused (400) is a fault of somebody, not a reason to give up or to hammer.
#[test]
fn a_poll_that_is_refused_is_tried_again_after_a_pause() {
    let testbed = Testbed::start();
    testbed.fault(Call::Jobs, 1, Fault::status(400));
    testbed.fault(Call::Jobs, 1, Fault::status(409));
    let _agent = start(&testbed);
    works(&testbed);
    let gaps = gaps(&testbed.requests_of(Call::Jobs));
    assert!(gaps[0] >= SECOND && gaps[1] >= SECOND, "{gaps:?}");
    assert_sound(&testbed);
}

/// P1.8.6: answers that look like jobs and are none.
#[test]
fn an_answer_that_is_no_list_of_jobs_is_somebody_elses() {
    let testbed = Testbed::start();
    for text in ["", "{}", r#"{"jobs":7}"#] {
        testbed.raw_answer(text);
    }
    let _agent = start(&testbed);
    let gaps = gaps(&since(&testbed, Call::Jobs, 0, 4));
    assert!(gaps[..3].iter().all(|gap| *gap >= SECOND), "{gaps:?}");
    works(&testbed);
    assert!(count_within(&testbed, Call::Jobs, SECOND * 2) <= 4);
    assert_sound(&testbed);
}

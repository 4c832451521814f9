//! P1.4: what a real server sends that a strict reader trips over.

use serde_json::{Value, json};

use super::{SECOND, SOON, assert_failed, assert_sound, connected, done, further, setup, start, succeeded, value_of};
use crate::agent::CLUSTER;
use crate::testbed::job::config_map;
use crate::testbed::{Call, Fault, Job, Testbed};

/// P1.4.1, P1.4.3, P1.4.4, P1.4.5: all oddities at once, in every answer and in every job.
#[test]
fn a_careless_server_is_understood() {
    let testbed = Testbed::start();
    testbed.behave(|behaviour| behaviour.odd = true);
    let agent = start(&testbed);
    for value in ["1", "2"] {
        let id = testbed.apply(CLUSTER, config_map("shop", "a", value));
        assert!(succeeded(&testbed.result_of(&id, SOON)));
        assert_eq!(value_of(&agent, "a").as_deref(), Some(value));
    }
    assert_sound(&testbed);
}

/// P1.4.2: no jobs can be said by `null`.
#[test]
fn null_jobs_are_an_empty_list() {
    let testbed = Testbed::start();
    testbed.behave(|behaviour| behaviour.null_jobs = true);
    let agent = connected(&testbed);
    let polls = further(&testbed, Call::Jobs, 2);
    assert!(polls[1].at.duration_since(polls[0].at) < SECOND * 30, "it is no failure");
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "a", "1")))));
    assert!(!agent.log().contains("not connected"), "{}", agent.log());
    assert_sound(&testbed);
}

/// P1.4.3: a job without an expiry does not expire, in whichever way it is without one.
#[test]
fn a_job_without_an_expiry_does_not_expire() {
    let testbed = Testbed::start();
    let _agent = start(&testbed);
    let job = |name: &str| Job::apply(config_map("shop", name, "1"));
    let jobs = [
        job("a").without("expiresAt").without("createdAt"),
        job("b").with("expiresAt", Value::Null).with("createdAt", Value::Null),
        job("c").with("expiresAt", "0001-01-01T00:00:00Z").with("createdAt", "0001-01-01T00:00:00Z"),
        job("d").with("expiresAt", "0001-01-01T00:00:00.000000000Z"),
        job("e").with("expiresAt", "0001-01-01T00:00:00"),
    ];
    let last = jobs.len() - 1;
    let ids = testbed.enqueue_all(CLUSTER, jobs);
    for id in &ids[..last] {
        assert!(succeeded(&testbed.result_of(id, SOON)));
    }
    assert_failed(&testbed.result_of(&ids[last], SOON), "MalformedJob");
    assert_sound(&testbed);
}

/// P1.4.4: fractions of any length and offsets, on either side of now.
#[test]
fn a_second_may_have_a_fraction() {
    let testbed = Testbed::start();
    let _agent = start(&testbed);
    let expiring = |at: &str| Job::apply(config_map("shop", "a", "1")).with("expiresAt", at);
    for at in ["2999-12-31T23:59:59.123456789Z", "2999-12-31T23:59:59.1+01:00", "2999-12-31T23:59:59.123456-11:30"] {
        assert!(succeeded(&done(&testbed, expiring(at))), "{at}");
    }
    for at in ["2020-01-01T00:00:00.999999999Z", "2020-01-01T00:00:00.5-01:00"] {
        let result = done(&testbed, expiring(at));
        assert_eq!((&result["outcome"], &result["error"]), (&json!("noop"), &json!("expired")), "{at}");
    }
    assert_sound(&testbed);
}

/// P1.4.5: an empty key, a missing one and `null` are none.
#[test]
fn a_job_without_a_key_is_never_a_duplicate() {
    let testbed = Testbed::start();
    let agent = start(&testbed);
    let job = |value: &str| Job::apply(config_map("shop", "a", value));
    let jobs = [
        job("1").with("idempotencyKey", ""),
        job("2").with("idempotencyKey", ""),
        job("3").with("idempotencyKey", Value::Null),
        job("4").with("idempotencyKey", Value::Null),
        job("5").without("idempotencyKey"),
        job("6").without("idempotencyKey"),
    ];
    for id in testbed.enqueue_all(CLUSTER, jobs) {
        assert!(succeeded(&testbed.result_of(&id, SOON)));
    }
    assert_eq!(value_of(&agent, "a").as_deref(), Some("6"));
    assert_sound(&testbed);
}

/// P1.4.6: a job without a payload is answered, or it would come for ever.
#[test]
fn a_null_payload_is_answered_with_failed() {
    let testbed = Testbed::start();
    let _agent = start(&testbed);
    for kind in ["apply", "delete", "intent"] {
        assert_failed(&done(&testbed, Job::new(kind, Value::Null)), "NoPayload");
        assert_failed(&done(&testbed, Job::new(kind, Value::Null).without("payload")), "NoPayload");
    }
    assert_sound(&testbed);
}

/// P1.4.1: members that nobody knows, wherever they stand and whatever they hold.
#[test]
fn unknown_members_are_passed_over() {
    let testbed = Testbed::start();
    let agent = start(&testbed);
    let odd = json!({"jobs": [{"id": "not-this-one"}], "deep": [[[[[null, true, 1.5e-3, "\u{0}\"\\"]]]]]});
    let job = Job::apply(config_map("shop", "a", "1")).with("zzz", odd.clone()).with("", "").with("jobs", odd);
    assert!(succeeded(&done(&testbed, job)));
    assert_eq!(value_of(&agent, "a").as_deref(), Some("1"));
    assert_eq!(testbed.requests_of(Call::Ack).len(), 1);
    assert_sound(&testbed);
}

/// P1.4.8: an answer that breaks off is used as far as it is whole, and what is missing comes again.
#[test]
fn the_complete_jobs_of_a_broken_answer_are_worked() {
    let testbed = Testbed::start();
    let job = |name: &str, length: usize| Job::apply(config_map("shop", name, &"x".repeat(length)));
    let ids = testbed.enqueue_all(CLUSTER, [job("a", 10), job("b", 10), job("c", 5_000)]);
    testbed.fault(Call::Jobs, 1, Fault::CutInBody);
    let _agent = setup(&testbed).spawn();
    for id in &ids {
        assert!(succeeded(&testbed.result_of(id, SOON)));
    }
    let polls = testbed.requests_of(Call::Jobs);
    let acks = testbed.requests_of(Call::Ack);
    assert_eq!(acks.len(), 3);
    assert!(acks[1].at < polls[1].at && polls[1].at < acks[2].at, "two of them from the broken answer");
    assert_sound(&testbed);
}

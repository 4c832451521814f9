//! P1.7: events.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::{SECOND, SOON, assert_sound, connected, count_within, members, setup};
use crate::agent::CLUSTER;
use crate::testbed::{Call, Fault, Job, Testbed};

fn batches(testbed: &Testbed) -> Vec<Vec<Value>> {
    let bodies = testbed.requests_of(Call::Events).into_iter().map(|seen| seen.body);
    bodies.map(|body| serde_json::from_slice::<Value>(&body).unwrap()["events"].as_array().unwrap().clone()).collect()
}

/// P1.3.6, P1.3.7, P1.3.8, P1.7.3: the agent is there, and says first what a person wants to see first.
#[test]
fn a_heartbeat_says_that_the_agent_is_there() {
    let testbed = Testbed::start();
    let _agent = connected(&testbed);
    let event = testbed.event("the heartbeat", SOON, |event| event["kind"] == "ClusterHeartbeat");
    assert_eq!(members(&event), ["conditions", "eventKey", "kind", "resourceRef", "timestamp"].into());
    let expected =
        json!({"apiVersion": "ops.vworkspace.io/v1alpha1", "kind": "Cluster", "namespace": "", "name": CLUSTER});
    assert_eq!(event["resourceRef"], expected);
    let conditions = event["conditions"].as_array().unwrap();
    let told: Vec<_> = conditions
        .iter()
        .map(|condition| (condition["type"].as_str().unwrap(), condition["status"].as_str().unwrap()))
        .collect();
    assert_eq!(
        told[..4],
        [("Connected", "True"), ("Authenticated", "True"), ("JobsVerified", "False"), ("Traffic", "True")]
    );
    // Whether it was well before, only the server knows; what finds no room comes in the next one.
    assert_eq!(told.get(4), Some(&("ClockConfirmed", "True")));
    for condition in conditions {
        assert_eq!(members(condition), ["lastTransitionTime", "message", "reason", "status", "type"].into());
    }
    let key = event["eventKey"].as_str().unwrap();
    let unique = key.strip_prefix("condition/ops.vworkspace.io/v1alpha1/Cluster/_/c1/_/Connected/True@0#").unwrap();
    let (epoch, seq) = unique.split_once('.').unwrap();
    assert!(epoch.len() == 16 && u64::from_str_radix(epoch, 16).is_ok() && seq.parse::<u64>().is_ok(), "{key}");
    assert_sound(&testbed);
}

/// P1.7.9: a heartbeat needs no connection of its own, and goes out in one piece.
#[test]
fn a_heartbeat_goes_out_between_two_polls_on_their_connection() {
    let testbed = Testbed::start();
    let _agent = super::patient(&testbed, 10).spawn();
    testbed.held_poll(SOON);
    let before = testbed.counts();
    testbed.event("the heartbeat", SOON, |event| event["kind"] == "ClusterHeartbeat");
    testbed.polls(before.polls + 1, SOON);
    testbed.held_poll(SOON);
    let after = testbed.counts();
    let posted = testbed.requests_of(Call::Events).remove(0);
    let polls = testbed.requests_of(Call::Jobs);
    assert_eq!([posted.connection; 2], [polls[0].connection, polls[1].connection]);
    assert!(polls[0].answered.unwrap().0 <= posted.at && posted.at <= polls[1].at);
    assert_eq!(before.connections, after.connections);
    // The answer to the poll, the heartbeat with its answer, the next poll.
    assert_eq!(after.pieces - before.pieces, 4);
    assert_sound(&testbed);
}

/// P1.7.9: a poll does not wait for a heartbeat that nobody takes.
#[test]
fn a_heartbeat_that_does_not_get_out_holds_no_poll_up() {
    let testbed = Testbed::start();
    testbed.fault_until_cleared(Call::Events, Fault::CutBeforeHead);
    let _agent = connected(&testbed);
    super::since(&testbed, Call::Events, 0, 1);
    let polls = testbed.counts().polls;
    testbed.polls(polls + 3, SOON);
    testbed.clear_faults();
    testbed.event("the heartbeat", SOON, |event| event["kind"] == "ClusterHeartbeat");
    assert_sound(&testbed);
}

/// P1.7.1: there is nothing to post, so nothing is posted.
#[test]
fn an_empty_batch_is_never_posted() {
    let testbed = Testbed::start();
    let _agent = connected(&testbed);
    testbed.event("the heartbeat", SOON, |_| true);
    assert_eq!(count_within(&testbed, Call::Events, SECOND * 2), 0);
    assert!(batches(&testbed).iter().all(|batch| !batch.is_empty()));
    assert_sound(&testbed);
}

/// P1.7.1, P1.7.7: more than a hundred events go in batches of a hundred at most, each event once, each with a
/// key of its own.
#[test]
fn events_are_posted_in_batches_and_each_has_its_own_key() {
    let testbed = Testbed::start();
    let _agent = setup(&testbed).spawn();
    testbed.event("the heartbeat", SOON, |_| true);
    let before = testbed.events().len();
    testbed.fault_until_cleared(Call::Events, Fault::CutBeforeHead);
    let count = 105;
    let rotations = (0..count).map(|_| Job::intent("rotate-operator-credentials", json!(null)));
    let ids = testbed.enqueue_all(CLUSTER, rotations);
    for id in &ids {
        testbed.result_of(id, SOON);
    }
    testbed.clear_faults();
    testbed.wait_for("all events", SOON, |state| {
        let rotated = state.events.iter().filter(|record| record.event["kind"] == "CredentialRotated").count();
        (rotated == count).then_some(())
    });
    let batches = batches(&testbed);
    assert!(batches.iter().all(|batch| (1..=100).contains(&batch.len())));
    let is_taken = testbed.requests_of(Call::Events).into_iter().map(|seen| seen.fault.is_none());
    let whole = batches.iter().zip(is_taken).filter(|(batch, is_taken)| *is_taken && batch.len() == 100).count();
    assert_eq!(whole, 1, "the first of those that were taken is full");
    let events = testbed.events();
    let keys: BTreeSet<&str> = events.iter().map(|record| record.event["eventKey"].as_str().unwrap()).collect();
    assert_eq!((keys.len(), testbed.repeated_events()), (events.len(), 0));
    assert!(events.len() >= before + count);
    assert_sound(&testbed);
}

/// P1.7.1: events wait a second for company, so that what happens together is posted together.
#[test]
fn events_that_happen_together_are_posted_together() {
    let testbed = Testbed::start();
    let _agent = connected(&testbed);
    testbed.event("the heartbeat", SOON, |_| true);
    let rotations = (0..3).map(|_| Job::intent("rotate-operator-credentials", json!(null)));
    testbed.enqueue_all(CLUSTER, rotations);
    let arrivals: Vec<_> = testbed.wait_for("three rotations", SOON, |state| {
        let rotated = state.events.iter().filter(|record| record.event["kind"] == "CredentialRotated");
        let at: Vec<_> = rotated.map(|record| record.at).collect();
        (at.len() == 3).then_some(at)
    });
    let first = testbed.requests_of(Call::Rotate)[0].answered.unwrap().0;
    assert!(arrivals[0].duration_since(first) >= Duration::from_millis(900), "the first one waited");
    assert_sound(&testbed);
}

/// P1.7.7: what is sent again has the same key, so that the server can drop it; what happens after a restart
/// has another one.
#[test]
fn an_event_that_is_sent_again_has_the_same_key_and_another_start_has_others() {
    let testbed = Testbed::start();
    testbed.fault(Call::Events, 1, Fault::LostAnswer);
    let setup = setup(&testbed);
    let mut agent = setup.spawn();
    testbed.wait_for("the repeated event", SOON, |state| (state.repeated_events > 0).then_some(()));
    assert_eq!(batches(&testbed)[0][0], batches(&testbed)[1][0]);
    let kept = testbed.events().len();
    agent.kill();
    let _again = setup.spawn();
    testbed.wait_for("the second start's heartbeat", SOON, |state| (state.events.len() > kept).then_some(()));
    let keys: Vec<String> =
        testbed.events().iter().map(|record| record.event["eventKey"].as_str().unwrap().to_owned()).collect();
    let epochs: BTreeSet<&str> = keys.iter().map(|key| key.split(['#', '.']).rev().nth(1).unwrap()).collect();
    assert_eq!(epochs.len(), 2, "{keys:?}");
    assert_sound(&testbed);
}

/// P1.7.1, P1.2.6: events that the server refuses do not hold up those behind them.
#[test]
fn events_that_are_refused_hold_nothing_up() {
    let testbed = Testbed::start();
    testbed.fault(Call::Events, 1, Fault::status(400));
    let _agent = connected(&testbed);
    super::since(&testbed, Call::Events, 0, 1);
    testbed.intent(CLUSTER, "rotate-operator-credentials", json!(null));
    testbed.event("the rotation's event", SOON, |event| event["kind"] == "CredentialRotated");
    assert_sound(&testbed);
}

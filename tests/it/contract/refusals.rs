//! P1.8.1, P1.8.2, P1.8.7, P1.8.8: 401 and 403, by the control plane and by others.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{
    SECOND, SOON, assert_sound, at_once, count_within, done, gaps, patient, setup, start, succeeded, value_of,
};
use crate::agent::{Agent, CLUSTER, write_secret};
use crate::testbed::job::config_map;
use crate::testbed::{Answer, Call, Fault, Job, MEDIA_TYPE, Seen, Testbed};

fn works(testbed: &Testbed) {
    assert!(succeeded(&done(testbed, Job::apply(config_map("shop", "works", "1")))));
}

/// Changes the stored credential as somebody else would.
fn store(state_dir: &Path, change: impl FnOnce(&mut Value)) {
    let path = state_dir.join("credential.json");
    let mut stored: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut stored);
    write_secret(&path, &stored.to_string());
}

/// Ends the poll that is held, so that the next one comes, and waits until it was refused.
fn refuse_the_next_poll(testbed: &Testbed) {
    testbed.cut_connections();
    testbed.wait_for("a poll that is refused", SOON, |state| {
        let refused =
            |seen: &&Seen| seen.call == Some(Call::Jobs) && seen.answered.is_some_and(|(_, status)| status == 401);
        state.requests.iter().find(refused).map(|_| ())
    });
}

/// That the agent runs, asks for no jobs, and has left its objects alone.
fn assert_closed(testbed: &Testbed, agent: &mut Agent) {
    let waiting = testbed.apply(CLUSTER, config_map("shop", "waiting", "1"));
    let before = testbed.requests().len();
    std::thread::sleep(SECOND * 5 / 2);
    // After a 403 it may still be said why.
    let others = |seen: &Seen| seen.call != Some(Call::Events);
    let asked: Vec<Seen> = testbed.requests().into_iter().skip(before).filter(others).collect();
    assert_eq!(asked.len(), 0, "no more polling, and nothing else: {asked:?}");
    assert!(agent.is_running());
    assert!(testbed.job(&waiting).offered.is_empty());
    assert_eq!(value_of(agent, "works").as_deref(), Some("1"));
}

/// P1.8.1: a credential that somebody put into its place is found, and nothing is rotated.
#[test]
fn after_a_401_the_stored_credential_is_read_again() {
    let testbed = Testbed::start();
    let setup = patient(&testbed, 20);
    let _agent = setup.spawn();
    testbed.held_poll(SOON);
    testbed.revoke(CLUSTER);
    let bearer = testbed.issue_bearer(CLUSTER);
    store(&setup.state_dir(), |stored| stored["current"]["token"] = json!(bearer));
    refuse_the_next_poll(&testbed);
    works(&testbed);
    let refused =
        testbed.requests_of(Call::Jobs).iter().filter(|seen| seen.answered.is_some_and(|(_, s)| s == 401)).count();
    assert_eq!((refused, testbed.requests_of(Call::Rotate).len()), (1, 0));
    assert_sound(&testbed);
}

/// P1.8.1: of two stored bearers the other one is tried.
#[test]
fn after_a_401_the_other_stored_bearer_is_tried() {
    let testbed = Testbed::start();
    let setup = patient(&testbed, 20);
    let _agent = setup.spawn();
    testbed.held_poll(SOON);
    testbed.revoke(CLUSTER);
    let bearer = testbed.issue_bearer(CLUSTER);
    store(&setup.state_dir(), |stored| stored["previous"] = json!({"token": bearer}));
    refuse_the_next_poll(&testbed);
    works(&testbed);
    assert_eq!(testbed.requests_of(Call::Rotate).len(), 0);
    assert_sound(&testbed);
}

/// P1.8.1: at last one rotation, which may help where the bearer is good for that alone.
#[test]
fn after_a_401_one_rotation_may_help() {
    let testbed = Testbed::start();
    let _agent = start(&testbed);
    works(&testbed);
    testbed.fault(Call::Jobs, 2, Fault::status(401));
    testbed.event("the rotation's event", SOON, |event| event["kind"] == "CredentialRotated");
    works(&testbed);
    assert_eq!(testbed.requests_of(Call::Rotate).len(), 1);
    assert_sound(&testbed);
}

/// P1.8.1, P1.8.7: when nothing helps the agent asks for no jobs and says what a person can do.
#[test]
fn a_credential_that_is_refused_for_good_ends_the_polling() {
    let testbed = Testbed::start();
    let mut agent = start(&testbed);
    works(&testbed);
    testbed.event("the heartbeat", SOON, |_| true);
    testbed.revoke(CLUSTER);
    agent.wait_for_log("register it anew", SOON);
    assert_eq!(testbed.requests_of(Call::Rotate).len(), 1, "rotated once");
    assert_closed(&testbed, &mut agent);
    assert_sound(&testbed);
}

/// P1.8.2: 403 is the same without a way out: another bearer of this agent is as little allowed.
#[test]
fn a_403_ends_the_polling() {
    let testbed = Testbed::start();
    let mut agent = start(&testbed);
    works(&testbed);
    testbed.event("the heartbeat", SOON, |_| true);
    testbed.fault(Call::Jobs, 1, Fault::status(403));
    agent.wait_for_log("no jobs until the control plane lets this agent in again", SOON);
    assert_closed(&testbed, &mut agent);
    assert_eq!(testbed.requests_of(Call::Rotate).len(), 0);
    assert_sound(&testbed);
}

/// P1.8.7: a restart is a new try; nothing of a refusal is kept on the disk.
#[test]
fn an_agent_that_was_refused_tries_again_when_it_is_started_again() {
    let testbed = Testbed::start();
    let setup = setup(&testbed);
    let mut agent = setup.spawn();
    works(&testbed);
    testbed.fault(Call::Jobs, 1, Fault::status(403));
    agent.wait_for_log("no jobs until", SOON);
    assert_eq!(agent.stop().status.code(), Some(0));
    let _again = setup.spawn();
    works(&testbed);
    assert_sound(&testbed);
}

/// P1.8.8: 401, 403 and 407 count only from the control plane. From anybody else they are a fault of the
/// network: the agent keeps polling, slowly.
#[test]
fn a_refusal_by_somebody_else_is_a_fault_of_the_network() {
    let unreadable = |status, content_type, body: &'static str| Fault::Answer(Answer::of(status, content_type, body));
    let readable = r#"{"error":"Unauthenticated","message":"m","requestId":"r"}"#;
    let faults = [
        Fault::html(401),
        Fault::html(403),
        Fault::html(407),
        unreadable(401, "application/json", readable),
        unreadable(401, MEDIA_TYPE, "<html>"),
        unreadable(403, MEDIA_TYPE, "{}"),
    ];
    at_once(faults, |fault| {
        let testbed = Testbed::start();
        testbed.fault(Call::Jobs, 1, fault.clone());
        let agent = start(&testbed);
        works(&testbed);
        let first = gaps(&testbed.requests_of(Call::Jobs))[0];
        assert!(first >= SECOND, "{fault:?} {first:?}");
        assert_eq!(testbed.requests_of(Call::Rotate).len(), 0, "{fault:?}");
        assert!(agent.log().contains("captive portal"), "{}", agent.log());
        assert_sound(&testbed);
    });
}

/// P1.8.1: that the credential is refused can be found by a post as well. What was to be posted is not lost.
#[test]
fn a_401_to_a_post_is_settled_and_the_post_repeated() {
    at_once([Call::Ack, Call::Status, Call::Result, Call::Events], |call| {
        let testbed = Testbed::start();
        testbed.fault(call, 1, Fault::status(401));
        let agent = start(&testbed);
        works(&testbed);
        testbed.event("the heartbeat", SOON, |event| event["kind"] == "ClusterHeartbeat");
        assert_eq!(testbed.requests_of(Call::Rotate).len(), 0, "{call:?}: the credential is good, as a poll shows");
        assert_eq!(value_of(&agent, "works").as_deref(), Some("1"), "{call:?}");
        assert_sound(&testbed);
    });
}

/// P1.8.1, P1.9.4: a server that lets polls in and refuses posts is not hammered.
#[test]
fn a_401_to_posts_alone_makes_no_hot_loop() {
    at_once([Call::Ack, Call::Result], |call| {
        let testbed = Testbed::start();
        let _agent = start(&testbed);
        testbed.fault_until_cleared(call, Fault::status(401));
        let id = testbed.apply(CLUSTER, config_map("shop", "a", "1"));
        super::since(&testbed, call, 0, 1);
        let count = count_within(&testbed, call, SECOND * 2);
        assert!(count <= 2, "{call:?}: {count}");
        let gaps = gaps(&testbed.requests_of(call));
        assert!(gaps.iter().all(|gap| *gap >= SECOND), "{call:?}: {gaps:?}");
        testbed.clear_faults();
        assert!(succeeded(&testbed.result_of(&id, SOON)), "{call:?}");
        assert_sound(&testbed);
    });
}

//! P1.2.7, P1.2.10, P1.6.3, P1.7.4: a bearer takes the place of another.

use serde_json::json;

use super::{SECOND, SOON, assert_sound, connected, credential, done, eventually, gaps, patient, start, succeeded};
use crate::agent::CLUSTER;
use crate::testbed::job::config_map;
use crate::testbed::{Answer, Call, Fault, Job, Testbed};

fn rotation() -> Job {
    Job::intent("rotate-operator-credentials", json!(null))
}

/// P1.2.7, P1.7.4: the new bearer is stored beside the old one, used, and told of.
#[test]
fn a_rotation_is_stored_used_and_told() {
    let testbed = Testbed::start();
    // The old bearer ends at once: whatever works from here on works with the new one.
    testbed.behave(|behaviour| behaviour.bearer_overlap = std::time::Duration::ZERO);
    let agent = connected(&testbed);
    let before = credential(&agent.state_dir());
    assert!(succeeded(&done(&testbed, rotation())));
    let rotations = testbed.requests_of(Call::Rotate);
    assert_eq!((rotations.len(), &*rotations[0].body), (1, &b"{}"[..]));
    let after = credential(&agent.state_dir());
    assert_ne!(after["current"]["token"], before["current"]["token"]);
    assert_eq!(after["previous"]["token"], before["current"]["token"]);
    assert_eq!(after["generation"].as_u64(), before["generation"].as_u64().map(|generation| generation + 1));

    let event = testbed.event("the rotation's event", SOON, |event| event["kind"] == "CredentialRotated");
    assert_eq!((&event["resourceRef"]["kind"], &event["resourceRef"]["name"]), (&json!("Cluster"), &json!(CLUSTER)));
    assert_eq!(event["resourceRef"]["namespace"], "");
    let condition = &event["conditions"][0];
    assert_eq!(condition["type"], "Authenticated");
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("True"), &json!("CredentialRotated")));
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "a", "1")))));
    assert_sound(&testbed);
}

/// P1.2.10: while both are good, an agent that lost the answer asks again with the old one.
#[test]
fn a_rotation_whose_answer_is_lost_is_repeated_with_the_old_bearer() {
    let testbed = Testbed::start();
    testbed.fault(Call::Rotate, 1, Fault::LostAnswer);
    let agent = start(&testbed);
    assert!(succeeded(&done(&testbed, rotation())));
    let rotations = testbed.requests_of(Call::Rotate);
    assert_eq!(rotations.len(), 2);
    assert!(gaps(&rotations)[0] >= SECOND);
    assert_eq!(credential(&agent.state_dir())["generation"], 2);
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "a", "1")))));
    assert_sound(&testbed);
}

/// P1.2.7: the bearer is on the disk before it is in use: an agent that is killed at that very moment goes on
/// with it.
#[test]
fn a_bearer_is_stored_before_it_is_used() {
    let testbed = Testbed::start();
    testbed.behave(|behaviour| behaviour.bearer_overlap = std::time::Duration::ZERO);
    let setup = patient(&testbed, 30);
    let mut agent = setup.spawn();
    testbed.held_poll(SOON);
    let before = credential(&setup.state_dir());
    // The poll that is held brings the job. What is tried first with the new bearer gets no answer.
    testbed.fault_until_cleared(Call::Jobs, Fault::Silence);
    testbed.enqueue(CLUSTER, rotation());
    let after = eventually("a new credential on the disk", || {
        let stored = credential(&setup.state_dir());
        (stored["current"]["token"] != before["current"]["token"]).then_some(stored)
    });
    agent.kill();
    assert_eq!(after["previous"]["token"], before["current"]["token"]);
    testbed.clear_faults();
    let _again = setup.spawn();
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "a", "1")))));
    // Whether the first one was all that the job wanted, nobody wrote down: the job goes on with one more.
    assert_eq!(testbed.requests_of(Call::Rotate).len(), 2);
    assert_sound(&testbed);
}

/// P1.2.7, P1.4: no `expiresAt`, unknown members and white space around the token.
#[test]
fn a_rotation_is_read_from_a_careless_server() {
    let testbed = Testbed::start();
    testbed.behave(|behaviour| {
        behaviour.odd = true;
        behaviour.bearer_overlap = std::time::Duration::ZERO;
    });
    let _agent = start(&testbed);
    assert!(succeeded(&done(&testbed, rotation().odd())));
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "a", "1")))));
    assert_eq!(testbed.requests_of(Call::Rotate).len(), 1);
    assert_sound(&testbed);
}

/// P1.2.7: an answer that is no credential changes nothing, and neither does one that is refused.
#[test]
fn a_rotation_that_fails_leaves_the_old_bearer_in_use() {
    let testbed = Testbed::start();
    let agent = connected(&testbed);
    let before = credential(&agent.state_dir());
    testbed.fault(Call::Rotate, 1, Fault::status(400));
    let result = done(&testbed, rotation());
    assert_eq!(result["outcome"], "failed");
    testbed.fault(Call::Rotate, 1, Fault::Answer(Answer::json(&json!({"token": ""}))));
    testbed.fault(Call::Rotate, 1, Fault::status(403));
    assert_eq!(done(&testbed, rotation())["outcome"], "failed");
    assert_eq!(credential(&agent.state_dir()), before);
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "a", "1")))));
    assert_sound(&testbed);
}

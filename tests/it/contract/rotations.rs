//! P2.6, P2.7: credentials that are rotated ahead of their end, on a signal, again and again under load, with the line cut
//! and the agent killed at any moment; and nodes that were away for longer than a credential lives.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use super::{
    SECOND, SOON, assert_sound, connected, count_within, credential, done, eventually, patient, setup, start,
    succeeded, value_of,
};
use crate::agent::{CLUSTER, Setup, write_secret};
use crate::testbed::job::config_map;
use crate::testbed::{Call, Fault, Job, MacRule, Proofs, Seen, State, Testbed};

fn works(testbed: &Testbed) {
    assert!(succeeded(&done(testbed, Job::apply(config_map("shop", "works", "1")))));
}

/// Requests that were refused because of the bearer, the MAC or the proof.
fn refused(testbed: &Testbed) -> Vec<Seen> {
    let is_refused = |seen: &Seen| seen.answered.is_some_and(|(_, status)| status == 401);
    testbed.requests().into_iter().filter(is_refused).collect()
}

/// How many rotations were answered with a new bearer.
fn rotations(state: &State) -> usize {
    let is_done =
        |seen: &&Seen| seen.call == Some(Call::Rotate) && seen.answered.is_some_and(|(_, status)| status == 200);
    state.requests.iter().filter(is_done).count()
}

/// P2.6: SIGUSR1 makes a new credential, which is used and told of.
#[test]
fn sigusr1_rotates() {
    let testbed = Testbed::start();
    let agent = connected(&testbed);
    let before = credential(&agent.state_dir());
    agent.signal(Signal::USR1);
    testbed.event("the rotation's event", SOON, |event| event["kind"] == "CredentialRotated");
    let after = credential(&agent.state_dir());
    assert_eq!((&after["generation"], &after["previous"]["token"]), (&json!(2), &before["current"]["token"]));
    works(&testbed);
    assert_sound(&testbed);
}

/// P2.6: a credential that ends is rotated before it does, at 70 to 90 % of its life, again and again, and no request is ever
/// refused.
#[test]
fn a_credential_is_rotated_ahead_of_its_end() {
    let testbed = Testbed::start();
    let life = SECOND * 40;
    testbed.behave(|behaviour| {
        behaviour.bearer_life = Some(life);
        behaviour.mac = MacRule::V2;
    });
    let agent = start(&testbed);
    testbed.wait_for("two rotations", SOON * 2, |state| (rotations(state) >= 2).then_some(()));
    works(&testbed);
    let issued: Vec<_> = testbed
        .requests()
        .into_iter()
        .filter(|seen| matches!(seen.call, Some(Call::Register | Call::Rotate)))
        .collect();
    for pair in issued.windows(2) {
        let after = pair[1].at - pair[0].at;
        // Moments are written down in whole seconds.
        assert!(after + SECOND >= life * 7 / 10 && after < life, "{after:?}");
    }
    assert_eq!(refused(&testbed).len(), 0);
    assert!(!agent.log().contains("WARN"), "{}", agent.log());
    assert_sound(&testbed);
}

/// P2.6: `rotateAfter` of the server goes before our own plan; a server that says "now" is not asked again and again.
#[test]
fn a_server_says_when_to_rotate() {
    let testbed = Testbed::start();
    testbed.behave(|behaviour| behaviour.rotate_after = Some(SECOND * 7));
    let agent = start(&testbed);
    testbed.wait_for("two rotations", SOON, |state| (rotations(state) >= 2).then_some(()));
    let rotations = testbed.requests_of(Call::Rotate);
    assert!(rotations[1].at - rotations[0].at >= SECOND * 5, "as long as it says, in whole seconds");
    testbed.behave(|behaviour| behaviour.rotate_after = Some(Duration::ZERO));
    eventually("one that says now", || {
        let current = credential(&agent.state_dir())["current"].clone();
        // Timestamps of one form sort as texts.
        (current["rotateAfter"].as_str()? <= current["issuedAt"].as_str()?).then_some(())
    });
    works(&testbed);
    assert_eq!(count_within(&testbed, Call::Rotate, SECOND * 8), 0);
    works(&testbed);
    assert_sound(&testbed);
}

/// P2.6: a rotation that fails is tried again after a pause, and what is in use stays.
#[test]
fn a_rotation_that_fails_changes_nothing() {
    let testbed = Testbed::start();
    let agent = connected(&testbed);
    let before = credential(&agent.state_dir());
    for fault in [Fault::status(500), Fault::CutBeforeHead, Fault::html(200), Fault::status(400)] {
        testbed.fault(Call::Rotate, 1, fault);
        let asked = testbed.requests_of(Call::Rotate).len();
        agent.signal(Signal::USR1);
        testbed.wait_for("the rotation", SOON, |state| {
            (state.requests.iter().filter(|seen| seen.call == Some(Call::Rotate)).count() > asked).then_some(())
        });
        works(&testbed);
        assert_eq!(credential(&agent.state_dir()), before);
    }
    agent.signal(Signal::USR1);
    testbed.event("the rotation's event", SOON, |event| event["kind"] == "CredentialRotated");
    assert_sound(&testbed);
}

/// P2.6: rotation after rotation while jobs come and go: no job fails, nothing is refused, and the agent is the same process.
#[test]
fn fifty_rotations_under_load_fail_no_job() {
    let count = if std::env::var_os("PULLET_LONG").is_some() { 1_000 } else { 50 };
    let testbed = Testbed::start();
    testbed.behave(|behaviour| behaviour.mac = MacRule::V2);
    let mut agent = patient(&testbed, 5).spawn();
    testbed.held_poll(SOON);
    let mut jobs = Vec::new();
    for number in 0..count {
        jobs.extend((0..3).map(|part| {
            testbed
                .apply(CLUSTER, config_map("shop", &format!("job-{}", (number * 3 + part) % 40), &number.to_string()))
        }));
        agent.signal(Signal::USR1);
        testbed.wait_for("the next rotation", SOON, |state| (rotations(state) > number).then_some(()));
        // The signal of a rotation that is not over yet would be one and the same.
        eventually("the new credential", || {
            (credential(&agent.state_dir())["generation"].as_u64() > Some(1 + number as u64)).then_some(())
        });
    }
    for job in &jobs {
        assert!(succeeded(&testbed.result_of(job, SOON)), "{job}");
    }
    assert!(agent.is_running());
    assert_eq!(refused(&testbed).len(), 0, "two bearers overlap");
    let log = agent.log();
    assert!(
        log.matches("a new credential is in use").count() >= count && log.matches("\"ready\"").count() <= 1,
        "{log}"
    );
    assert_sound(&testbed);
}

/// P2.7: the server has switched, its answer got lost, and the old bearer is dead: the proof finds the way back.
#[test]
fn a_lost_answer_with_a_dead_bearer_is_mended_by_the_proof() {
    let testbed = Testbed::start();
    testbed.behave(|behaviour| {
        behaviour.bearer_overlap = Duration::ZERO;
        behaviour.proofs = Proofs::Taken;
        behaviour.mac = MacRule::V2;
    });
    let agent = connected(&testbed);
    testbed.fault(Call::Rotate, 1, Fault::LostAnswer);
    agent.signal(Signal::USR1);
    testbed.event("the rotation's event", SOON, |event| event["kind"] == "CredentialRotated");
    works(&testbed);
    let rotations = testbed.requests_of(Call::Rotate);
    assert!(rotations.len() >= 2 && rotations[1].header("x-vworkspace-proof").is_some());
    assert!(!agent.log().contains("register it anew"), "{}", agent.log());
    assert_sound(&testbed);
}

/// P2.6, P2.7: whenever the agent is killed, it comes back with a credential that works.
#[test]
fn a_rotation_that_is_killed_anywhere_leaves_a_credential_that_works() {
    let testbed = Testbed::start();
    testbed.behave(|behaviour| {
        behaviour.bearer_overlap = Duration::ZERO;
        behaviour.proofs = Proofs::Taken;
        behaviour.mac = MacRule::V2;
    });
    let setup = setup(&testbed);
    let mut agent = setup.spawn();
    works(&testbed);
    // Before the server has switched; after it has, with no answer, half of one and a whole one; while the new one is tried.
    for (call, fault) in [
        (Call::Rotate, Fault::Silence),
        (Call::Rotate, Fault::SilenceInBody),
        (Call::Rotate, Fault::LostAnswer),
        (Call::Jobs, Fault::Silence),
    ] {
        testbed.fault_until_cleared(call, fault.clone());
        let asked = testbed.requests_of(Call::Rotate).len();
        agent.signal(Signal::USR1);
        testbed.wait_for("the rotation", SOON, |state| {
            (state.requests.iter().filter(|seen| seen.call == Some(Call::Rotate)).count() > asked).then_some(())
        });
        agent.kill();
        testbed.clear_faults();
        agent = setup.spawn();
        works(&testbed);
    }
    // And at moments that nobody chose.
    for millis in [0, 2, 4, 6, 8, 10, 15, 20, 30, 50] {
        agent.signal(Signal::USR1);
        std::thread::sleep(Duration::from_millis(millis));
        agent.kill();
        agent = setup.spawn();
        works(&testbed);
    }
    assert_sound(&testbed);
}

/// Lets the stored credential end long ago, here and at the server.
fn forget_for_months(testbed: &Testbed, setup: &Setup) {
    testbed.revoke(CLUSTER);
    let path = setup.state_dir().join("credential.json");
    let mut stored = credential(&setup.state_dir());
    stored["current"]["issuedAt"] = json!("2026-01-01T00:00:00Z");
    stored["current"]["expiresAt"] = json!("2026-02-01T00:00:00Z");
    write_secret(&path, &stored.to_string());
}

/// P2.7: a node that was away for months is back by itself.
#[test]
fn a_node_that_was_away_for_months_is_back_by_itself() {
    let testbed = Testbed::start();
    testbed.behave(|behaviour| {
        behaviour.proofs = Proofs::Taken;
        behaviour.mac = MacRule::V2;
    });
    let setup = setup(&testbed);
    let mut agent = setup.spawn();
    works(&testbed);
    agent.stop();
    forget_for_months(&testbed, &setup);
    let agent = setup.spawn();
    works(&testbed);
    assert!(!agent.log().contains("register it anew"), "{}", agent.log());
    assert_sound(&testbed);
}

/// P2.7, P1.8.7: a proof that is refused is not the end of the node: what runs there goes on, and a person is told.
#[test]
fn a_refused_proof_leaves_the_node_alone() {
    let testbed = Testbed::start();
    let setup = setup(&testbed);
    let mut agent = setup.spawn();
    works(&testbed);
    agent.stop();
    forget_for_months(&testbed, &setup);
    let before = credential(&setup.state_dir());
    let mut agent = setup.spawn();
    agent.wait_for_log("register it anew", SOON);
    assert!(agent.is_running() && value_of(&agent, "works").is_some());
    assert_eq!(credential(&setup.state_dir())["current"]["token"], before["current"]["token"]);
    assert!(testbed.requests_of(Call::Rotate).iter().all(|seen| seen.header("x-vworkspace-proof").is_some()));
    assert_sound(&testbed);
}

/// P2.7: a network that fails touches nothing: neither is a bearer given up nor a new one asked for.
#[test]
fn no_answer_is_no_refusal() {
    let testbed = Testbed::start();
    let agent = connected(&testbed);
    let before = credential(&agent.state_dir());
    for fault in [Fault::html(401), Fault::html(403), Fault::CutBeforeHead, Fault::status(503)] {
        testbed.fault(Call::Jobs, 1, fault);
    }
    works(&testbed);
    assert_eq!((credential(&agent.state_dir()), testbed.requests_of(Call::Rotate).len()), (before, 0));
    assert_sound(&testbed);
}

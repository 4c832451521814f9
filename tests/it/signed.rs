//! A job does only what its owner signed: the attacks of TRUST.md against the whole agent (the exact variants of each check
//! are tested in `trust`).

use std::fs;

use serde_json::{Value, json};

use crate::agent::{CLUSTER, run_to_end};
use crate::node::{Node, job, pinned, trust_state};
use crate::scene::{LATER, SOON, quick, says, succeeds};
use crate::testbed::job::config_map;
use crate::testbed::owner::{Key, Owner, Use, encrypted, payload_key};
use crate::testbed::{Call, Fault, Job, Testbed};

#[test]
fn what_the_owner_signed_is_done_and_an_arbitrary_job_is_not() {
    let node = Node::start();
    node.does(node.sign(job("signed")));
    node.refuses(job("arbitrary"), "Unsigned");
    node.refuses(job("nonsense").with("signature", "a..b"), "MalformedSignature");
    node.does(node.sign(job("signed-again")));
    assert_eq!(node.testbed.violations(), Vec::<String>::new());
}

#[test]
fn a_key_that_is_not_the_owners_job_key_signs_nothing() {
    let node = Node::start();
    let stranger = Owner::new();
    node.refuses(stranger.sign(CLUSTER, job("stranger")), "UnknownKey");
    // The root key signs keyrings, and no jobs.
    let value = Value::from(job("root").with("id", "root"));
    let mut header = node.owner.header(CLUSTER, &value, 1);
    header["kid"] = json!(node.owner.root.kid());
    let payload = crate::testbed::owner::canonical(&value["payload"]);
    let signature = node.owner.root.detached(&header, &payload);
    let sent = Job::apply(value["payload"].clone()).with("id", "root");
    let sent = ["idempotencyKey", "createdAt", "expiresAt"]
        .iter()
        .fold(sent, |job, member| job.with(member, value[*member].clone()));
    node.refuses(sent.with("signature", signature), "WrongUse");
}

#[test]
fn what_stands_outside_of_the_signature_is_compared_with_what_is_inside() {
    let node = Node::start();
    let sign = |name: &str| node.sign(job(name));
    node.refuses(sign("a").with("id", "another"), "WrongJob");
    node.refuses(sign("b").with("expiresAt", "2099-01-01T00:00:00Z"), "WrongExpiry");
    node.refuses(sign("c").with("idempotencyKey", "another"), "WrongIdempotencyKey");
    node.refuses(sign("d").with("kind", "delete"), "WrongKind");
    node.refuses(sign("e").with("payload", config_map("clinic", "e", "changed")), "BadSignature");
    node.refuses(node.owner.sign("neighbour", job("f")), "WrongCluster");
}

#[test]
fn a_number_is_taken_once_and_not_far_ahead() {
    let mut node = Node::start();
    let first = node.owner.sign_with_seq(CLUSTER, job("first"), 10);
    node.does(first);
    node.refuses(node.owner.sign_with_seq(CLUSTER, job("replayed"), 10), "Replayed");
    node.restart();
    node.refuses(node.owner.sign_with_seq(CLUSTER, job("after-restart"), 10), "Replayed");
    node.power_cut();
    node.refuses(node.owner.sign_with_seq(CLUSTER, job("after-cut"), 10), "Replayed");
    node.refuses(node.owner.sign_with_seq(CLUSTER, job("ahead"), 10 + (1 << 20) + 1), "SequenceJump");
    // Out of order within the window.
    node.does(node.owner.sign_with_seq(CLUSTER, job("later"), 12));
    node.does(node.owner.sign_with_seq(CLUSTER, job("between"), 11));
    node.does(node.owner.sign_with_seq(CLUSTER, job("far"), 12 + (1 << 20)));
    node.refuses(node.owner.sign_with_seq(CLUSTER, job("old"), 13), "Replayed");
}

#[test]
fn the_same_job_again_is_a_redelivery_also_after_a_power_cut() {
    let mut node = Node::start();
    let id = node.does(node.sign(job("once")));
    let before = node.applied();
    for _ in 0..2 {
        let acks = node.testbed.requests_of(Call::Ack).len();
        node.testbed.redeliver(&id);
        // A job that was refused would be acked as well, and told of.
        node.testbed.wait_for("another ack", LATER, |state| {
            let acked = state.requests.iter().filter(|seen| seen.call == Some(Call::Ack)).count();
            (acked > acks).then_some(())
        });
        node.power_cut();
    }
    let refused = |record: &crate::testbed::EventRecord| record.event["kind"] == "JobPayloadSignatureInvalid";
    assert!(!node.testbed.events().iter().any(refused), "it is no replay");
    assert!(!node.agent.log().contains("Replayed"));
    assert_eq!(node.applied(), before);
    assert_eq!(node.testbed.job(&id).result.unwrap()["outcome"], "succeeded");
}

/// Its number is used up before the ack: a job that is left then, and comes again, is not its own replay. Also where the agent
/// was killed meanwhile, and acks it by itself at its next start.
#[test]
fn a_job_whose_ack_is_refused_is_done_when_it_comes_again() {
    let mut node = Node::start();
    let is_refused = |node: &Node| {
        let acks = node.testbed.requests_of(Call::Ack).len();
        node.testbed.wait_for("an ack that is refused", LATER, |state| {
            let acked = state.requests.iter().filter(|seen| seen.call == Some(Call::Ack) && seen.answered.is_some());
            (acked.count() > acks).then_some(())
        });
    };
    for cut in [false, true] {
        node.testbed.fault_until_cleared(Call::Ack, Fault::status(400));
        let id = node.send(node.sign(job(if cut { "cut" } else { "left" }).with("idempotencyKey", "k")));
        is_refused(&node);
        is_refused(&node);
        if cut {
            node.power_cut();
            is_refused(&node);
            is_refused(&node);
        }
        assert!(node.testbed.result(&id).is_none() && !node.applied().iter().any(|(_, text)| text.contains("cut")));
        node.testbed.clear_faults();
        let outcome = node.testbed.result_of(&id, LATER)["outcome"].clone();
        // Of two with one key the first one has the effect.
        assert_eq!(outcome, if cut { "noop" } else { "succeeded" });
    }
    let refused = |record: &crate::testbed::EventRecord| record.event["kind"] == "JobPayloadSignatureInvalid";
    assert!(!node.testbed.events().iter().any(refused), "it is no replay");
    assert_eq!(node.testbed.violations(), Vec::<String>::new());
}

#[test]
fn a_used_key_on_a_signed_job_has_no_second_effect() {
    let node = Node::start();
    node.does(node.sign(job("a").with("idempotencyKey", "same")));
    let id = node.send(node.sign(Job::apply(config_map("clinic", "a", "other")).with("idempotencyKey", "same")));
    assert_eq!(node.testbed.result_of(&id, LATER)["outcome"], "noop");
}

#[test]
fn an_encrypted_payload_is_done_and_no_mixture_of_two() {
    const MARKER: &str = "geheimnis-der-klinik";
    let node = Node::start();
    let key = payload_key(&node.testbed);
    let secret = || Job::apply(config_map("clinic", "patients", MARKER));
    node.does(node.owner.seal(CLUSTER, secret(), &key));
    assert!(node.applied().iter().any(|(_, text)| text.contains(MARKER)), "it was decrypted");
    // The ciphertext of another job, and a payload beside it.
    let other = Value::from(encrypted(secret(), &key));
    let mixed = node.owner.seal(CLUSTER, secret(), &key).with("encryptedPayload", other["encryptedPayload"].clone());
    node.refuses(mixed, "MixedPayload");
    node.refuses(node.owner.seal(CLUSTER, secret(), &key).with("payload", json!({})), "BothPayloads");
    // Signed, and encrypted to somebody else.
    let mut stranger = key.clone();
    stranger["kid"] = json!(Key::new().kid());
    node.refuses(node.owner.seal(CLUSTER, secret(), &stranger), "UnknownPayloadKey");
    // The right name on the wrong key.
    let mut wrong = key.clone();
    wrong["x"] = json!(crate::testbed::owner::encode(&[9; 32]));
    node.refuses(node.owner.seal(CLUSTER, secret(), &wrong), "BadTag");
    for (place, text) in [("the log", node.agent.log()), ("an event", format!("{:?}", node.testbed.events()))] {
        assert!(!text.contains(MARKER), "the plaintext is in {place}");
    }
    for file in ["journal", "spool", "checkpoint"] {
        let bytes = fs::read(node.setup.state_dir().join(file)).unwrap();
        assert!(!bytes.windows(MARKER.len()).any(|window| window == MARKER.as_bytes()), "the plaintext is in {file}");
    }
}

#[test]
fn an_encrypted_job_that_was_open_goes_on_after_a_power_cut() {
    let mut node = Node::start();
    let key = payload_key(&node.testbed);
    node.testbed.fault_until_cleared(Call::Ack, Fault::LostAnswer);
    let id = node.send(node.owner.seal(CLUSTER, job("cut"), &key));
    node.testbed.wait_for("an ack", LATER, |state| {
        state.requests.iter().any(|seen| seen.call == Some(Call::Ack)).then_some(())
    });
    node.agent.kill();
    node.testbed.clear_faults();
    node.agent = node.setup.spawn();
    succeeds(&node.testbed, &id, LATER);
    node.refuses(node.owner.sign_with_seq(CLUSTER, job("again"), 1), "Replayed");
}

#[test]
fn refused_jobs_write_nothing_to_the_disk_and_leave_the_trust_state_as_it_was() {
    let node = Node::start();
    node.does(node.sign(job("first")));
    // The event of the first refusal goes along with whatever is written next.
    node.refuses(job("unsigned-0"), "Unsigned");
    let journal = || fs::read(node.setup.state_dir().join("journal")).unwrap();
    let before = journal();
    for number in 1..6 {
        let id = node.send(job(&format!("unsigned-{number}")));
        assert_eq!(node.testbed.result_of(&id, LATER)["outcome"], "failed");
    }
    assert_eq!(journal(), before, "whoever sends such jobs wears out no flash");
}

#[test]
fn a_keyring_is_followed_and_never_replaced_or_rolled_back() {
    let mut node = Node::start();
    let job_key = Key::new();
    let keys = [node.owner.root.entry(Use::Root), job_key.entry(Use::Job)];
    let second = node.owner.keyring_of(2, 1, &keys);
    node.agent.stop();
    // A keyring that is signed by a job key is none.
    let forged = {
        let payload = json!({"version": 2, "epoch": 1, "keys": keys});
        node.owner.job.compact("edge-keyring+jws", &payload)
    };
    fs::write(node.setup.home().join("keyring"), [node.owner.keyring(1), forged].join("\n")).unwrap();
    says(&node.setup.run_to_end("run"), 2, &["keyring"]);
    fs::write(node.setup.home().join("keyring"), [node.owner.keyring(1), second].join("\n")).unwrap();
    node.again();
    // The old job key is not in the ring any more.
    node.refuses(node.sign(job("old-key")), "UnknownKey");
    let new = Owner { job: job_key, ..std::mem::replace(&mut node.owner, Owner::new()) };
    let value = node.send(new.sign(CLUSTER, job("new-key")));
    succeeds(&node.testbed, &value, LATER);
    // A file from before is no way back.
    node.agent.stop();
    fs::write(node.setup.home().join("keyring"), new.keyring_of(1, 1, &[])).unwrap();
    let output = node.setup.run_to_end("run");
    assert_eq!(output.status.code(), Some(2), "a ring without a root key is none");
    fs::write(node.setup.home().join("keyring"), Owner::new().keyring(9)).unwrap();
    says(&node.setup.run_to_end("run"), 2, &["keyring"]);
}

#[test]
fn without_a_pinned_key_jobs_are_done_and_it_is_said() {
    let testbed = Testbed::start();
    let agent = quick(&testbed).spawn();
    testbed.held_poll(SOON);
    let id = testbed.enqueue(CLUSTER, job("unsigned"));
    succeeds(&testbed, &id, LATER);
    agent.wait_for_log("pin the owner's key with --keyring", SOON);
    let required = Testbed::start();
    let agent = quick(&required).flag("--signatures", "require").spawn();
    required.held_poll(SOON);
    let id = required.enqueue(CLUSTER, job("unsigned"));
    let result = required.result_of(&id, LATER);
    assert!(result["error"].as_str().unwrap().starts_with("NoKeyring: "), "{result}");
    assert_eq!(fs::read_dir(agent.directory()).unwrap().count(), 0);
}

/// Whoever says so gets what he says: also a signature that is none passes, and each heartbeat tells.
#[test]
fn signatures_that_are_turned_off_are_not_looked_at_and_it_is_said() {
    let (testbed, owner) = (Testbed::start(), Owner::new());
    let setup = pinned(&testbed, &[owner.keyring(1)]).flag("--signatures", "off");
    let agent = setup.spawn();
    testbed.held_poll(SOON);
    for sent in
        [job("unsigned"), job("nonsense").with("signature", "a..b"), Owner::new().sign("elsewhere", job("strange"))]
    {
        succeeds(&testbed, &testbed.enqueue(CLUSTER, sent), LATER);
    }
    agent.wait_for_log("signatures are not looked at", SOON);
    testbed.event("a heartbeat that says so", LATER, |event| {
        event["kind"] == "ClusterHeartbeat" && event.to_string().contains("TurnedOff")
    });
}

/// Stops the node and takes what it remembers of sequence numbers; gives a job that was signed before that, by the clock.
fn signed_before_a_loss(node: &mut Node) -> Job {
    let old = node.sign(job("old"));
    node.does(node.sign(job("first")));
    node.agent.stop();
    for file in ["journal", "checkpoint", "spool"] {
        fs::remove_file(node.setup.state_dir().join(file)).unwrap();
    }
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    old
}

#[test]
fn a_lost_ledger_lets_only_younger_jobs_pass_until_a_new_epoch() {
    let mut node = Node::start();
    let old = signed_before_a_loss(&mut node);
    node.again();
    node.agent.wait_for_log("LedgerLost", SOON);
    node.refuses(old, "BeforeLoss");
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    node.does(node.sign(job("young")));
    // It stays lost after a restart, until the owner says a new epoch.
    node.restart();
    node.refuses(node.sign(job("old-again").with("createdAt", "2026-06-01T00:00:00Z")), "BeforeLoss");
    node.agent.stop();
    let rings = [
        node.owner.keyring(1),
        node.owner.keyring_of(2, 2, &[node.owner.root.entry(Use::Root), node.owner.job.entry(Use::Job)]),
    ];
    fs::write(node.setup.home().join("keyring"), rings.join("\n")).unwrap();
    node.again();
    node.owner.epoch = 2;
    node.does(node.sign(job("new-epoch").with("createdAt", "2026-06-01T00:00:00Z")));
}

/// Both copies are damaged, and the owner is far beyond the first numbers: a person on the node ends it, and the owner goes on.
#[test]
fn a_person_on_the_node_clears_a_loss_and_the_owner_goes_on_with_the_next_number() {
    let mut node = Node::start();
    let far = 1 << 20;
    node.does(node.owner.sign_with_seq(CLUSTER, job("first"), far));
    node.does(node.owner.sign_with_seq(CLUSTER, job("second"), 2 * far));
    let before = node.owner.sign_with_seq(CLUSTER, job("withheld"), 2 * far + 1);
    node.agent.stop();
    let reset = |node: &Node| {
        let mut doctor = node.setup.prepare("doctor");
        doctor.arg("--reset-ledger");
        run_to_end(doctor)
    };
    says(&reset(&node), 0, &["the ledger is whole; nothing was changed"]);
    for name in ["journal", "checkpoint", "spool"] {
        let path = node.setup.state_dir().join(name);
        let length = fs::metadata(&path).unwrap().len();
        fs::write(path, vec![0xa5; usize::try_from(length).unwrap()]).unwrap();
    }
    says(&reset(&node), 1, &["the journal has no ledger yet: start the agent once, which notes the loss"]);
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    node.again();
    node.agent.wait_for_log("LedgerLost", SOON);
    node.refuses(
        node.owner.sign_with_seq(CLUSTER, job("old").with("createdAt", "2026-06-01T00:00:00Z"), 5),
        "BeforeLoss",
    );
    says(&reset(&node), 1, &["another"]);
    node.agent.stop();
    says(&reset(&node), 0, &["signed jobs from before the loss pass again, each number once from now on"]);
    node.again();
    node.does(node.owner.sign_with_seq(CLUSTER, job("third").with("createdAt", "2026-06-01T00:00:00Z"), 2 * far + 2));
    node.does(before);
    node.refuses(node.owner.sign_with_seq(CLUSTER, job("replayed"), 2 * far + 2), "Replayed");
    node.restart();
    node.refuses(node.owner.sign_with_seq(CLUSTER, job("burnt"), 4 * far), "SequenceJump");
    assert!(!node.agent.log().contains("LedgerLost"), "it is over");
}

#[test]
fn a_loss_that_nobody_can_date_is_dated_when_the_time_is_known() {
    let mut node = Node::start();
    let old = signed_before_a_loss(&mut node);
    // A floor in the year 2046 makes the clock one that stands in the past.
    fs::write(node.setup.state_dir().join("clock.json"), r#"{"version":1,"confirmed":2424643200}"#).unwrap();
    node.again();
    node.agent.wait_for_log("LedgerLost", SOON);
    let id = node.send(old);
    node.agent.wait_for_log("the clock of this node is in doubt", SOON);
    node.agent.stop();
    let mut doctor = node.setup.prepare("doctor");
    doctor.arg("--reset-clock");
    says(&run_to_end(doctor), 0, &["is forgotten"]);
    node.again();
    let result = node.testbed.result_of(&id, LATER);
    assert!(result["error"].as_str().unwrap().starts_with("BeforeLoss: "), "{result}");
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    node.does(node.sign(job("young")));
}

/// A floor in the year 2046 is a clock that was 20 years ahead and came back.
#[test]
fn a_signed_job_waits_while_the_clock_is_20_years_ahead_and_is_done_when_it_is_back() {
    let mut node = Node::start();
    node.does(node.owner.sign_with_seq(CLUSTER, job("first"), 1));
    node.agent.stop();
    fs::write(node.setup.state_dir().join("clock.json"), r#"{"version":1,"confirmed":2424643200}"#).unwrap();
    node.again();
    let trusted = trust_state(&node.setup);
    let waiting = node.send(node.owner.sign_with_seq(CLUSTER, job("waits"), 2));
    node.agent.wait_for_log("the clock of this node is in doubt", SOON);
    node.testbed.polls(node.testbed.counts().polls + 2, SOON);
    assert_eq!((node.testbed.acks(&waiting), trust_state(&node.setup)), (0, trusted));
    node.agent.stop();
    let mut doctor = node.setup.prepare("doctor");
    doctor.arg("--reset-clock");
    says(&run_to_end(doctor), 0, &["is forgotten"]);
    node.again();
    succeeds(&node.testbed, &waiting, LATER);
    for seq in [1, 2] {
        node.refuses(node.owner.sign_with_seq(CLUSTER, job("again"), seq), "Replayed");
    }
}

#[test]
fn jobs_of_one_key_are_worked_in_the_order_of_their_numbers() {
    let mut node = Node::start();
    node.agent.stop();
    let version = |value: &str| Job::apply(config_map("clinic", "settings", value));
    let later = node.send(node.owner.sign_with_seq(CLUSTER, version("new"), 6));
    let earlier = node.send(node.owner.sign_with_seq(CLUSTER, version("old"), 5));
    node.again();
    succeeds(&node.testbed, &later, LATER);
    succeeds(&node.testbed, &earlier, LATER);
    let applied = node.applied();
    assert!(applied.len() == 1 && applied[0].1.contains("\"new\""), "{applied:?}");
}

#[test]
fn an_older_signed_job_does_not_bring_back_what_a_later_one_replaced() {
    let node = Node::start();
    let version = |value: &str| Job::apply(config_map("clinic", "settings", value));
    let old = node.owner.sign_with_seq(CLUSTER, version("old"), 5);
    node.does(node.owner.sign_with_seq(CLUSTER, version("new"), 6));
    let before = node.applied();
    let id = node.send(old);
    let result = node.testbed.result_of(&id, LATER);
    assert!(result["error"].as_str().unwrap().starts_with("RolledBack: "), "{result}");
    assert_eq!(node.applied(), before);
    node.does(node.owner.sign_with_seq(CLUSTER, version("newer"), 7));
}

//! A control plane that was taken over, or is another one, against the whole agent: what it sends, what it holds back, what
//! it says of keys.

use std::fs;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ring::hmac;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::agent::{Agent, CLUSTER, Setup, write_secret};
use crate::node::{Node, job, pinned, trust_state};
use crate::scene::{LATER, SOON, quick, said, says, succeeds};
use crate::testbed::job::config_map;
use crate::testbed::owner::{Key, Owner, Use, canonical, encode};
use crate::testbed::{Answer, Call, Fault, Job, MEDIA_TYPE, Testbed};

/// Has the agent rotate its credential; the answer brings these keyrings along. Gives what it said from then on.
fn rotate_with(node: &Node, rings: &Value) -> String {
    rotate(node, json!({"signingKeys": rings}))
}

/// As [`rotate_with`], with whatever stands in the answer beside the credential.
fn rotate(node: &Node, mut answer: Value) -> String {
    let said = node.agent.log().len();
    let before = node.agent.log().matches("a new credential is in use").count();
    answer["token"] = json!(node.testbed.issue_bearer(CLUSTER));
    node.testbed.fault(Call::Rotate, 1, Fault::Answer(Answer::json(&answer)));
    node.agent.signal(Signal::USR1);
    node.testbed.wait_for("a rotation", LATER, |_| {
        (node.agent.log().matches("a new credential is in use").count() > before).then_some(())
    });
    // What came along is looked at behind that line, and before the next poll.
    node.testbed.polls(node.testbed.counts().polls + 2, LATER);
    node.agent.log().split_off(said)
}

fn stored_ring(setup: &Setup) -> Vec<u8> {
    fs::read(setup.state_dir().join("keyring.json")).unwrap()
}

#[test]
fn of_the_keyrings_that_a_control_plane_sends_only_those_count_that_a_root_key_signed_next() {
    let mut node = Node::start();
    node.does(node.sign(job("first")));
    let keys = [node.owner.root.entry(Use::Root), node.owner.job.entry(Use::Job)];
    let payload = |version: u64, epoch: u64| json!({"version": version, "epoch": epoch, "keys": keys});
    let ring = |version: u64, epoch: u64| node.owner.keyring_of(version, epoch, &keys);
    let stranger = Owner::new();
    let (pinned, trusted) = (stored_ring(&node.setup), trust_state(&node.setup));
    for (rings, error) in [
        (
            json!([node.owner.job.compact("edge-keyring+jws", &payload(2, 1))]),
            "signed by a key that may sign jobs only",
        ),
        (json!([stranger.keyring(2)]), "signed by a key that is not in the ring before it"),
        (json!([stranger.keyring(1)]), "differs from the pinned one of the same version"),
        (json!([ring(3, 1)]), "has version 3 where 2 must follow"),
        (json!([ring(2, 0)]), "epoch is lower"),
        (json!([node.owner.root.compact("edge-job+jws", &payload(2, 1))]), "no signed keyring"),
        (json!(["nonsense"]), "no signed keyring"),
    ] {
        let log = rotate_with(&node, &rings);
        assert!(log.contains("they are not taken") && log.contains(error), "{error}: {log}");
        assert_eq!((stored_ring(&node.setup), trust_state(&node.setup)), (pinned.clone(), trusted.clone()), "{error}");
    }
    node.does(node.sign(job("second")));
    let second = ring(2, 2);
    let log = rotate_with(&node, &json!([node.owner.keyring(1), second]));
    assert!(log.contains("a keyring is pinned"), "{log}");
    // A new epoch ends the jobs of the one before, and there is no way back to it.
    node.refuses(node.sign(job("old-epoch")), "WrongEpoch");
    node.owner.epoch = 2;
    node.owner.seq = 1.into();
    node.does(node.sign(job("new-epoch")));
    let (pinned, trusted) = (stored_ring(&node.setup), trust_state(&node.setup));
    let keys = [node.owner.root.entry(Use::Root), node.owner.job.entry(Use::Job)];
    for (ring, error) in [
        (node.owner.keyring_of(3, 1, &keys), "epoch is lower"),
        (node.owner.keyring_of(1, 1, &keys), "older than the pinned one"),
    ] {
        let log = rotate_with(&node, &json!([ring]));
        assert!(log.contains("they are not taken") && log.contains(error), "{error}: {log}");
        assert_eq!((stored_ring(&node.setup), trust_state(&node.setup)), (pinned.clone(), trusted.clone()), "{error}");
    }
}

/// The ring on the disk is replaced by an older one, with which a key that the owner has left out would sign again, and all
/// that the journal knew is gone.
#[test]
fn a_pinned_keyring_that_was_replaced_by_an_older_one_lets_no_job_pass() {
    let mut node = Node::start();
    let first = stored_ring(&node.setup);
    let new = Key::new();
    let rings =
        [node.owner.keyring(1), node.owner.keyring_of(2, 1, &[node.owner.root.entry(Use::Root), new.entry(Use::Job)])];
    let file = node.setup.home().join("keyring");
    node.agent.stop();
    fs::write(&file, rings.join("\n")).unwrap();
    node.again();
    node.refuses(node.sign(job("left-out")), "UnknownKey");
    let credential = |setup: &Setup| -> Value {
        serde_json::from_slice(&fs::read(setup.state_dir().join("credential.json")).unwrap()).unwrap()
    };
    assert_eq!(credential(&node.setup)["keyringVersion"], 2, "it is kept beside the credential");

    node.agent.stop();
    let forget = |setup: &Setup| {
        for name in ["journal", "checkpoint", "spool"] {
            fs::remove_file(setup.state_dir().join(name)).unwrap();
        }
    };
    forget(&node.setup);
    write_secret(&node.setup.state_dir().join("keyring.json"), std::str::from_utf8(&first).unwrap());
    fs::write(&file, &rings[0]).unwrap();
    node.again();
    node.agent.wait_for_log("is older than one that this node had", SOON);
    node.refuses(node.sign(job("left-out")), "KeyringBehind");
    let status = status(&node.setup, "KeyringBehind");
    assert_eq!((&status["trust"]["keyringVersion"], &status["trust"]["signatures"]), (&json!(1), &json!("require")));
    node.testbed.event("a heartbeat that says so", LATER, |event| event.to_string().contains("KeyringBehind"));
    // A rotation of the credential forgets nothing of it, and authorities are not for a ring to vouch for that is behind.
    let pem = node.testbed.ca_pem().to_owned();
    let vouched = node.owner.root.compact("edge-ca+jws", &json!({"pem": pem}));
    let log = rotate(&node, json!({"caBundle": vouched}));
    assert!(log.contains("the keyring that could vouch for them is not there"), "{log}");
    assert_eq!(credential(&node.setup)["keyringVersion"], 2);

    // Without the ring nobody is believed in its place: not everybody, and not the control plane.
    node.agent.stop();
    forget(&node.setup);
    fs::remove_file(node.setup.state_dir().join("keyring.json")).unwrap();
    let bare = node.setup.clone().without("--keyring");
    let polls = node.testbed.counts().polls;
    node.agent = bare.spawn();
    node.testbed.polls(polls + 1, SOON);
    node.refuses(job("nobody-signed"), "NoKeyring");
    let log = rotate(&node, json!({"signingKeys": [Owner::new().keyring(7)], "caBundle": pem}));
    assert!(log.contains("the keyring that could vouch for them is not there"), "{log}");
    for name in ["keyring.json", "ca.pem"] {
        assert!(!node.setup.state_dir().join(name).exists(), "{name}");
    }
    node.refuses(node.sign(job("no-ring")), "NoKeyring");

    // The owner's newest chain mends it; what was accepted before stays unknown.
    node.agent.stop();
    fs::write(&file, rings.join("\n")).unwrap();
    node.again();
    let owner = Owner { job: new, ..std::mem::replace(&mut node.owner, Owner::new()) };
    let old = owner.sign(CLUSTER, job("before-the-loss").with("createdAt", "2026-06-01T00:00:00Z"));
    node.refuses(old, "BeforeLoss");
    // Times are in whole seconds: what was signed in the second of the loss may be from before it.
    std::thread::sleep(Duration::from_millis(1_100));
    let young = node.send(owner.sign(CLUSTER, job("young")));
    succeeds(&node.testbed, &young, LATER);
}

/// What `pullet status --json` prints once the trust state is this one.
fn status(setup: &Setup, state: &str) -> Value {
    let file = setup.home().join("run/status.json");
    for _ in 0..600 {
        let output = Agent::run_to_end([Path::new("status"), Path::new("--json"), Path::new("--status-file"), &file]);
        if let Ok(status) = serde_json::from_slice::<Value>(&output.stdout)
            && status["trust"]["state"] == state
        {
            assert_eq!(output.status.code(), Some(i32::from(state != "ok")), "{}", said(&output).1);
            return status;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("no status with {state}");
}

#[test]
fn no_other_algorithm_is_believed() {
    let node = Node::start();
    node.does(node.sign(job("first")));
    let x = node.owner.job.x();
    for (at, algorithm) in ["none", "HS256", "ES256", "RS256", "Ed448", "ed25519"].into_iter().enumerate() {
        let value = Value::from(job(algorithm));
        let mut header = node.owner.header(CLUSTER, &value, 100 + at as u64);
        header["alg"] = json!(algorithm);
        let payload = canonical(&value["payload"]);
        let detached = node.owner.job.detached(&header, &payload);
        let (segment, _) = detached.split_once("..").unwrap();
        // The secret of a MAC is what everybody knows: the public key.
        let mac =
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, x.as_bytes()), format!("{segment}.{payload}").as_bytes());
        for signature in [detached.clone(), format!("{segment}.."), format!("{segment}..{}", encode(mac.as_ref()))] {
            let sent = job_of(&value, &signature);
            node.refuses(sent, "MalformedSignature");
        }
    }
    // The right name of the algorithm over the bytes of another one.
    let value = Value::from(job("swapped"));
    let header = node.owner.header(CLUSTER, &value, 200);
    let detached = node.owner.job.detached(&header, &canonical(&value["payload"]));
    let (segment, _) = detached.split_once("..").unwrap();
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA512, x.as_bytes()), segment.as_bytes());
    node.refuses(job_of(&value, &format!("{segment}..{}", encode(mac.as_ref()))), "BadSignature");
    node.does(node.sign(job("last")));
}

/// A job of these members under a signature, with an id of its own, which no check here comes to.
fn job_of(value: &Value, signature: &str) -> Job {
    let job = Job::apply(value["payload"].clone());
    ["idempotencyKey", "createdAt", "expiresAt"]
        .iter()
        .fold(job, |job, member| job.with(member, value[*member].clone()))
        .with("signature", signature)
}

/// A control plane that holds everything back looks like one that has nothing to send, for ever: after a month it is said,
/// and a restart in between does not begin the month anew.
#[test]
fn a_control_plane_that_sends_nothing_for_a_month_is_told_of() {
    let (testbed, owner) = (Testbed::start(), Owner::new());
    let setup = pinned(&testbed, &[owner.keyring(1)]);
    says(&setup.run_to_end("register"), 0, &["registered as c1"]);
    let file = setup.state_dir().join("credential.json");
    let mut credential: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert!(credential["registeredAt"].is_string(), "{credential}");
    let silent = |event: &Value| event.to_string().contains("NothingSigned");
    let mut agent = setup.spawn();
    testbed.event("a heartbeat", SOON, |event| event["kind"] == "ClusterHeartbeat");
    agent.stop();
    assert!(!testbed.events().iter().any(|record| silent(&record.event)), "a day is no month");
    credential["registeredAt"] = json!(crate::testbed::job::timestamp(-31 * 86_400));
    write_secret(&file, &credential.to_string());
    let mut agent = setup.spawn();
    let event = testbed.event("the silence", SOON, silent);
    assert!(event.to_string().contains("no signed job for 31 days"), "{event}");
    // A signed job ends it, also for the next start.
    let id = testbed.enqueue(CLUSTER, owner.sign(CLUSTER, job("at-last")));
    succeeds(&testbed, &id, LATER);
    agent.stop();
    let count = |testbed: &Testbed| testbed.events().iter().filter(|record| silent(&record.event)).count();
    let (before, beats) = (count(&testbed), heartbeats(&testbed));
    let _agent = setup.spawn();
    testbed.wait_for("a heartbeat", SOON, |state| {
        let found = state.events.iter().filter(|record| record.event["kind"] == "ClusterHeartbeat").count();
        (found > beats).then_some(())
    });
    assert_eq!(count(&testbed), before);
}

fn heartbeats(testbed: &Testbed) -> usize {
    testbed.events().iter().filter(|record| record.event["kind"] == "ClusterHeartbeat").count()
}

/// Who can have the node talk to another server has gained a server, and no key.
#[test]
fn another_server_is_not_obeyed() {
    let mut node = Node::start();
    node.does(node.sign(job("first")));
    let (other, stranger) = (Testbed::start(), Owner::new());
    let moved = node
        .setup
        .clone()
        .flag("--endpoint", other.endpoint())
        .flag("--ca-file", other.ca_file())
        .token(&other.issue_token(Some(CLUSTER)));
    node.agent.stop();
    let (ring, trusted) = (stored_ring(&node.setup), trust_state(&node.setup));
    says(&moved.run_to_end("run"), 1, &["issued by", "is sent nowhere else"]);
    assert_eq!(other.counts().connections, 0, "the bearer goes nowhere");

    let answer = json!({
        "clusterId": CLUSTER, "token": other.issue_bearer(CLUSTER), "signingKeys": [stranger.keyring(1), stranger.keyring(2)],
    });
    other.fault(Call::Register, 1, Fault::Answer(Answer::json(&answer)));
    let mut register = moved.prepare("register");
    register.arg("--force");
    says(&crate::agent::run_to_end(register), 0, &["registered as c1"]);
    assert_eq!(
        (stored_ring(&node.setup), trust_state(&node.setup)),
        (ring.clone(), trusted),
        "nothing that it said of keys"
    );
    let polls = other.counts().polls;
    let _agent = moved.spawn();
    other.polls(polls + 1, SOON);
    for (sent, reason) in [
        (stranger.sign(CLUSTER, job("strange")), "UnknownKey: "),
        (job("unsigned"), "Unsigned: "),
        (node.owner.sign_with_seq(CLUSTER, job("played-again"), 1), "Replayed: "),
    ] {
        let id = other.enqueue(CLUSTER, sent);
        let result = other.result_of(&id, LATER);
        assert!(result["error"].as_str().is_some_and(|error| error.starts_with(reason)), "{result}");
    }
    assert_eq!(stored_ring(&node.setup), ring);
    let id = other.enqueue(CLUSTER, node.sign(job("owners")));
    succeeds(&other, &id, LATER);
}

/// `size` zeros in as few bytes as gzip needs: one block of fixed codes (RFC 1951, 3.2.6), a zero and then as many times 258
/// of the byte before as fit.
pub(crate) fn bomb(size: usize) -> Vec<u8> {
    let (mut packed, mut bits, mut count) = (vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3], 0_u64, 0);
    let mut put = |value: u64, length: u32, packed: &mut Vec<u8>| {
        bits |= value << count;
        count += length;
        while count >= 8 {
            packed.push(u8::try_from(bits & 0xff).unwrap());
            bits >>= 8;
            count -= 8;
        }
    };
    // A last block with fixed codes; the codes themselves go with their highest bit first.
    put(0b011, 3, &mut packed);
    put(u64::from(0b0011_0000_u8.reverse_bits()), 8, &mut packed);
    for _ in 0..size / 258 {
        put(u64::from(0b1100_0101_u8.reverse_bits()), 8, &mut packed);
        put(0, 5, &mut packed);
    }
    put(0, 7, &mut packed);
    put(0, 7, &mut packed);
    packed
}

#[test]
fn a_gzip_bomb_is_not_unpacked_on_any_call() {
    let packed = Bytes::from(bomb(200 << 20));
    assert!(packed.len() < 2 << 20, "{}", packed.len());
    let testbed = Testbed::start();
    let agent = quick(&testbed).spawn();
    testbed.held_poll(SOON);
    let before = agent.rss_peak_kb();
    for call in [Call::Jobs, Call::Ack, Call::Result, Call::Events, Call::Rotate] {
        for encoding in ["gzip", "deflate", "identity"] {
            let answer = Answer::of(200, MEDIA_TYPE, packed.clone()).with("content-encoding", encoding);
            testbed.fault(call, 1, Fault::Answer(answer));
        }
    }
    let jobs = [
        testbed.apply(CLUSTER, config_map("clinic", "meanwhile", "x")),
        testbed.intent(CLUSTER, "rotate-operator-credentials", Value::Null),
    ];
    for job in &jobs {
        succeeds(&testbed, job, LATER);
    }
    testbed.clear_faults();
    let id = testbed.apply(CLUSTER, config_map("clinic", "after", "x"));
    succeeds(&testbed, &id, LATER);
    let peak = agent.rss_peak_kb();
    assert!(peak - before < 8 * 1024, "{before} kB before, {peak} kB after");
}

/// `Base64` of a plain text is no ciphertext, and a ciphertext with the owner's own signature cut off is none that was
/// signed: a control plane that encrypts for itself to the node's public key has made nobody's job.
#[test]
fn a_control_plane_that_encrypts_to_the_node_has_signed_nothing() {
    let node = Node::start();
    let key = crate::testbed::owner::payload_key(&node.testbed);
    node.refuses(crate::testbed::owner::encrypted(job("sealed-by-the-server"), &key), "Unsigned");
    let sealed = |name: &str| node.owner.seal(CLUSTER, job(name), &key);
    node.refuses(sealed("cut-off").without("signature"), "Unsigned");
    node.refuses(sealed("replaced").with("encryptedPayload", STANDARD.encode("{}")), "MixedPayload");
}

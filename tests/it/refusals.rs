//! What a check that fails leaves behind on the disk: nothing. And what the policy leaves behind, which comes later.

use std::fs;

use pullet::limits;
use serde_json::{Value, json};

use crate::agent::{CLUSTER, write_secret};
use crate::node::{Node, job, trust_state};
use crate::scene::LATER;
use crate::testbed::Job;
use crate::testbed::job::{config_map, timestamp};
use crate::testbed::owner::{Key, Owner, Use, encode, payload_key};

/// One who signs with this job key, under the ring of the first.
fn signer(node: &Node, job: Key) -> Owner {
    Owner { job, epoch: node.owner.epoch, ..Owner::new() }
}

/// A job key of the ring that is good from then to then, Unix seconds.
fn bounded(key: &Key, from: i64, to: i64) -> Value {
    let mut entry = key.entry(Use::Job);
    (entry["notBefore"], entry["notAfter"]) = (json!(from), json!(to));
    entry
}

/// Each check of a signed job that no other test here sees fail. All are sent, and then the trust state is on the disk as it
/// was, byte by byte.
#[test]
fn whichever_check_fails_the_trust_state_on_the_disk_is_what_it_was() {
    let mut node = Node::start();
    let [old, young, other] = [(); 3].map(|()| Key::new());
    let keys = [
        node.owner.root.entry(Use::Root),
        node.owner.job.entry(Use::Job),
        bounded(&old, 0, 1_700_000_000),
        bounded(&young, 4_000_000_000, 4_102_444_800),
        other.entry(Use::Job),
    ];
    node.agent.stop();
    let chain = [node.owner.keyring(1), node.owner.keyring_of(2, 1, &keys)];
    fs::write(node.setup.home().join("keyring"), chain.join("\n")).unwrap();
    node.again();
    node.does(node.sign(job("first")));
    let key = payload_key(&node.testbed);
    let sealed = |text: String| node.sign(job("sealed").with("payload", Value::Null).with("encryptedPayload", text));
    // A point of small order: whatever the node's key is, the shared secret is zero.
    let weak = json!({
        "alg": "ECDH-ES", "enc": "A256GCM", "kid": key["kid"],
        "epk": {"kty": "OKP", "crv": "X25519", "x": encode(&[0; 32])},
    });
    let weak = format!("{}..{}.{}.{}", encode(weak.to_string().as_bytes()), encode(&[0; 12]), "AAAA", encode(&[0; 16]));
    let long = "x".repeat(limits::SIGNATURE_BYTES + 1);
    let mut number = config_map("clinic", "number", "x");
    number["data"]["value"] = json!(9_007_199_254_740_993_u64);
    let applied = node.applied();
    let before = trust_state(&node.setup);
    assert!(before.is_some());
    let sent = [
        (node.sign(job("expired").with("createdAt", timestamp(-600)).expires_in(-300)), "noop", "expired"),
        (node.sign(job("ahead").with("createdAt", timestamp(3_600)).expires_in(7_200)), "failed", "NotYetValid: "),
        (signer(&node, old).sign(CLUSTER, job("old-key")), "failed", "KeyExpired: "),
        (signer(&node, young).sign(CLUSTER, job("young-key")), "failed", "KeyNotYetValid: "),
        (signer(&node, other).sign_with_seq(CLUSTER, job("start"), (1 << 20) + 1), "failed", "SequenceStart: "),
        (job("long").with("signature", long), "failed", "MalformedSignature: "),
        (
            node.sign(Job::apply(config_map("clinic", "longer", &"x".repeat(limits::JOB_BYTES)))),
            "failed",
            "job_bytes: ",
        ),
        (node.sign(Job::apply(number)), "failed", "MalformedPayload: "),
        (sealed("a.b.c".to_owned()), "failed", "MalformedEnvelope: "),
        (sealed(weak), "failed", "NotContributory: "),
    ];
    let ids = sent.map(|(job, outcome, error)| (node.send(job), outcome, error));
    for (id, outcome, error) in &ids {
        let result = node.testbed.result_of(id, LATER);
        assert_eq!(result["outcome"], *outcome, "{error}: {result}");
        assert!(result["error"].as_str().unwrap().starts_with(error), "{error}: {result}");
    }
    // One that came later would write what the others had left.
    assert_eq!(trust_state(&node.setup), before);
    assert_eq!(node.applied(), applied);

    // The card has lost the keys of the node alone.
    node.agent.stop();
    let file = node.setup.state_dir().join("credential.json");
    let mut credential: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert!(credential.as_object_mut().unwrap().remove("keys").is_some(), "{credential}");
    write_secret(&file, &credential.to_string());
    node.again();
    let id = node.send(node.owner.seal(CLUSTER, job("no-key"), &key));
    let result = node.testbed.result_of(&id, LATER);
    assert!(result["error"].as_str().unwrap().starts_with("NoPayloadKey: "), "{result}");
    assert_eq!(trust_state(&node.setup), before);
}

/// What the owner signed and the node's limits stop, or what is no instruction, has used its number: it cannot come again
/// when the limits are opened.
#[test]
fn a_signed_job_that_the_policy_stops_has_used_its_number() {
    let mut node = Node::start();
    node.does(node.owner.sign_with_seq(CLUSTER, job("first"), 1));
    let secret =
        || Job::apply(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a", "namespace": "n"}}));
    let denied = node.owner.sign_with_seq(CLUSTER, secret(), 2);
    for (job, reason) in [
        (denied, "KindNotAllowed: "),
        (node.owner.sign_with_seq(CLUSTER, Job::apply(json!({"kind": 7})), 3), "InvalidManifest: "),
    ] {
        let before = trust_state(&node.setup);
        let id = node.send(job);
        let result = node.testbed.result_of(&id, LATER);
        assert!(result["error"].as_str().unwrap().starts_with(reason), "{result}");
        assert_ne!(trust_state(&node.setup), before, "{reason}: the number is written down");
    }
    node.agent.stop();
    node.setup = node.setup.clone().flag("--allow-kind", "/Secret");
    node.again();
    for seq in [2, 3] {
        node.refuses(node.owner.sign_with_seq(CLUSTER, secret(), seq), "Replayed");
    }
    node.does(node.owner.sign_with_seq(CLUSTER, secret(), 4));
}

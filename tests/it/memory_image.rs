//! What lies in the memory of an agent that has forgotten a secret: nothing of it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::agent::{Agent, CLUSTER, Setup, write_secret};
use crate::apiserver::{ApiServer, unique};
use crate::scene::{LATER, SOON, quick, succeeds};
use crate::testbed::owner::{Owner, payload_key};
use crate::testbed::{Call, Job, MacRule, Testbed};

/// The regions of an agent's memory in which a text lies. The kernel gives the image of a process that we may trace:
/// the same bytes that a core file would have.
fn places(agent: &Agent, wanted: &[u8]) -> Vec<String> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", agent.pid())).expect("the agent runs");
    let memory = File::open(format!("/proc/{}/mem", agent.pid())).expect("its memory can be read");
    let mut found = Vec::new();
    for line in maps.lines().filter(|line| line.contains("rw")) {
        let (from, to) = line.split_once(' ').and_then(|(range, _)| range.split_once('-')).expect("a range");
        let from = u64::from_str_radix(from, 16).expect("an address");
        let to = u64::from_str_radix(to, 16).expect("an address");
        let mut bytes = vec![0; usize::try_from(to - from).expect("it fits")];
        // A region can go away between the two reads.
        if memory.read_exact_at(&mut bytes, from).is_err() {
            continue;
        }
        for at in bytes.windows(wanted.len()).enumerate().filter(|(_, window)| *window == wanted).map(|(at, _)| at) {
            let around = &bytes[at.saturating_sub(48)..bytes.len().min(at + wanted.len() + 16)];
            found.push(format!("{line} +{at:x}: {}", String::from_utf8_lossy(around).replace('\0', "·")));
        }
    }
    found
}

fn bearer_of(setup: &Setup, which: &str) -> String {
    let text = fs::read_to_string(setup.state_dir().join("credential.json")).expect("there is a credential");
    let stored: Value = serde_json::from_str(&text).expect("it is JSON");
    stored[which]["token"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_image_of_an_agent_shows_its_bearer() {
    let testbed = Testbed::start();
    let setup = quick(&testbed);
    let agent = setup.spawn();
    testbed.held_poll(SOON);
    let bearer = bearer_of(&setup, "current");
    assert!(!places(&agent, bearer.as_bytes()).is_empty(), "what is in use is there, or this looks at the wrong place");
}

/// The bearer and the key for MACs, as they are stored; the key also as the bytes that it is.
fn secrets_of(setup: &Setup, which: &str) -> Vec<(&'static str, Vec<u8>)> {
    let text = fs::read_to_string(setup.state_dir().join("credential.json")).expect("there is a credential");
    let stored: Value = serde_json::from_str(&text).expect("it is JSON");
    let key = stored[which]["macKey"].as_str().unwrap_or_else(|| panic!("no MAC key: {stored}"));
    let bytes = URL_SAFE_NO_PAD.decode(key).expect("it is base64url");
    vec![("bearer", bearer_of(setup, which).into_bytes()), ("MAC key", key.into()), ("bytes of the MAC key", bytes)]
}

#[track_caller]
fn are_forgotten(agent: &Agent, secrets: &[(&str, Vec<u8>)], when: &str) {
    for (name, secret) in secrets {
        assert_eq!(places(agent, secret), Vec::<String>::new(), "{when}: {name}");
    }
}

#[test]
fn the_one_time_token_is_not_in_memory_once_it_is_used() {
    let testbed = Testbed::start();
    let setup = quick(&testbed);
    let token = fs::read_to_string(setup.home().join("token")).expect("there is a token");
    let agent = setup.spawn();
    testbed.held_poll(SOON);
    testbed.polls(testbed.counts().polls + 2, LATER);
    assert!(testbed.requests_of(Call::Register).len() == 1 && token.trim().len() > 16);
    assert_eq!(places(&agent, token.trim().as_bytes()), Vec::<String>::new());
}

/// The one before is kept for an hour, and no longer.
#[test]
fn what_a_rotation_replaced_is_not_in_memory_when_its_hour_is_over() {
    let testbed = Testbed::start();
    testbed.behave(|behaviour| behaviour.mac = MacRule::V2);
    let setup = quick(&testbed);
    let mut agent = setup.spawn();
    testbed.held_poll(SOON);
    let rotate = || {
        let job = testbed.intent(CLUSTER, "rotate-operator-credentials", Value::Null);
        succeeds(&testbed, &job, LATER);
        // The connections that carried the bearer are used again, or closed.
        testbed.polls(testbed.counts().polls + 3, LATER);
    };
    let first = secrets_of(&setup, "current");
    rotate();
    let second = secrets_of(&setup, "current");
    assert!(!places(&agent, &first[0].1).is_empty(), "it is kept in case the new one is refused");
    rotate();
    are_forgotten(&agent, &first, "replaced twice");

    agent.stop();
    let file = setup.state_dir().join("credential.json");
    let mut stored: Value = serde_json::from_slice(&fs::read(&file).expect("it is there")).expect("it is JSON");
    stored["current"]["issuedAt"] = json!(crate::testbed::job::timestamp(-2 * 60 * 60));
    write_secret(&file, &stored.to_string());
    let agent = setup.spawn();
    agent.wait_for_log("the credential before is no longer kept", LATER);
    testbed.polls(testbed.counts().polls + 3, LATER);
    are_forgotten(&agent, &second, "its hour is over");
}

/// What a patient would not want to be found.
const PLAINTEXT: &str = "befund-der-patientin-nr-4711";

/// A `Secret` with the plaintext in both of its spellings.
fn secret(namespace: &str, value: &str) -> Job {
    Job::apply(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "findings", "namespace": namespace},
        "stringData": {"text": value}, "data": {"packed": STANDARD.encode(value)},
    }))
}

/// Waits until the agent polls again: until then it may hold the job.
fn polls_again(testbed: &Testbed) {
    testbed.polls(testbed.counts().polls + 1, LATER);
}

/// The plaintext, as it stood in the job and as the API server keeps it, is not in the agent's memory.
#[track_caller]
fn is_forgotten(agent: &Agent, when: &str) {
    for text in [PLAINTEXT.to_owned(), STANDARD.encode(PLAINTEXT)] {
        assert_eq!(places(agent, text.as_bytes()), Vec::<String>::new(), "{when}: {text}");
    }
}

/// An agent whose owner encrypts to it: after a job, after one that the policy refuses, after a restart that finds one open.
#[test]
fn what_was_decrypted_for_the_directory_is_not_in_memory() {
    let (testbed, owner) = (Testbed::start(), Owner::new());
    let setup = quick(&testbed);
    let file = setup.home().join("keyring");
    fs::write(&file, owner.keyring(1)).expect("the keyring can be written");
    let setup = setup.flag("--allow-kind", "/Secret").flag("--keyring", file);
    let mut agent = setup.spawn();
    testbed.held_poll(SOON);
    let key = payload_key(&testbed);
    let job = testbed.enqueue(CLUSTER, owner.seal(CLUSTER, secret("clinic", PLAINTEXT), &key));
    succeeds(&testbed, &job, LATER);
    let applied = fs::read_dir(agent.directory()).expect("the directory is there").filter_map(Result::ok);
    assert!(
        applied.map(|file| fs::read_to_string(file.path()).unwrap_or_default()).any(|text| text.contains(PLAINTEXT))
    );
    polls_again(&testbed);
    is_forgotten(&agent, "after a job");

    let job = testbed.enqueue(CLUSTER, owner.seal(CLUSTER, secret("kube-system", PLAINTEXT), &key));
    assert_eq!(testbed.result_of(&job, LATER)["outcome"], "failed");
    polls_again(&testbed);
    is_forgotten(&agent, "after a refusal");

    testbed.fault_until_cleared(Call::Ack, crate::testbed::Fault::LostAnswer);
    let job = testbed.enqueue(CLUSTER, owner.seal(CLUSTER, secret("clinic-2", PLAINTEXT), &key));
    testbed.ack_of(&job, LATER);
    agent.kill();
    testbed.clear_faults();
    let agent = setup.spawn();
    succeeds(&testbed, &job, LATER);
    polls_again(&testbed);
    is_forgotten(&agent, "after a restart");
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn what_was_decrypted_for_the_api_server_is_not_in_memory() {
    let api = ApiServer::shared();
    api.apply_crds();
    let (testbed, owner) = (Testbed::start(), Owner::new());
    let (cluster, namespace) = (format!("cluster-{}", unique()), format!("clinic-{}", unique()));
    let setup = Setup::of_cluster(&testbed, &cluster);
    let file = setup.home().join("keyring");
    fs::write(&file, owner.keyring(1)).expect("the keyring can be written");
    let setup = setup
        .flag("--kubeconfig", api.kubeconfig())
        .flag("--allow-kind", "/Secret")
        .flag("--keyring", file)
        .flag("--wait", "1");
    let agent = setup.spawn();
    testbed.held_poll(SOON);
    let key = payload_key(&testbed);
    let job = testbed.enqueue(&cluster, owner.seal(&cluster, secret(&namespace, PLAINTEXT), &key));
    succeeds(&testbed, &job, LATER);
    polls_again(&testbed);
    let stored: Value = api.get(&format!("/api/v1/namespaces/{namespace}/secrets/findings"));
    assert_eq!(
        stored["data"]["text"],
        STANDARD.encode(PLAINTEXT),
        "it is there, and was searched for in this spelling, too"
    );
    is_forgotten(&agent, "after a job");
}

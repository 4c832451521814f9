//! P1.2.1, P1.3.1, P1.3.2: a one-time token becomes a credential.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};

use super::{SECOND, SOON, assert_sound, count_within, credential, done, gaps, members, said, setup, succeeded};
use crate::agent::{Agent, CLUSTER, Setup, write_secret};
use crate::testbed::job::{config_map, timestamp};
use crate::testbed::{Answer, Call, Fault, Job, Options, Testbed};

/// That a registration failed, said this, and left nothing behind that looks like a credential.
fn assert_refused(setup: &Setup, output: &Output, text: &str) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(text), "{said}");
    let files = fs::read_dir(setup.state_dir()).unwrap().map(|entry| entry.unwrap().file_name());
    // The keys that were sent are kept for the next try.
    assert_eq!(files.filter(|name| name != "keys.json").count(), 0);
}

fn registration(testbed: &Testbed) -> Value {
    serde_json::from_slice(&testbed.requests_of(Call::Register)[0].body).unwrap()
}

/// P1.2.1, P1.3.1, P2.1: what a person gave goes into the request, what this agent is, and the public halves of its keys.
#[test]
fn register_sends_what_it_was_given_and_stores_what_it_gets() {
    let testbed = Testbed::start();
    let setup = Agent::of(&testbed).flag("--cluster-id", CLUSTER).flag("--display-name", "Clinic 7, cupboard");
    let output = setup.run_to_end("register");
    assert!(output.status.success(), "{}", said(&output));
    let request = registration(&testbed);
    let expected = ["agent", "clusterId", "displayName", "identityKey", "publicKey", "registrationToken"];
    assert_eq!(members(&request), expected.into());
    assert_eq!(members(&request["agent"]), ["arch", "limits", "modes", "version"].into());
    assert_eq!((&request["clusterId"], &request["displayName"]), (&json!(CLUSTER), &json!("Clinic 7, cupboard")));

    let stored = credential(&setup.state_dir());
    assert_eq!(stored["clusterId"], CLUSTER);
    assert_eq!(stored["endpoint"], json!(testbed.endpoint()));
    let mode = fs::metadata(setup.state_dir().join("credential.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!said(&output).contains(request["registrationToken"].as_str().unwrap()), "a token is never shown");
    assert_sound(&testbed);
}

/// P1.3.1: without a cluster id the request has none, and the server names the cluster.
#[test]
fn without_a_cluster_id_the_server_chooses_one() {
    let testbed = Testbed::start();
    let setup = setup(&testbed).token(&testbed.issue_token(None));
    let _agent = setup.spawn();
    testbed.polls(1, SOON);
    assert_eq!(registration(&testbed).get("clusterId"), None);
    let named = credential(&setup.state_dir())["clusterId"].as_str().unwrap().to_owned();
    assert!(named.starts_with("cluster-"), "{named}");
    assert_eq!(testbed.requests_of(Call::Jobs)[0].query, Some(format!("cluster={named}&wait=1")));
    let id = testbed.apply(&named, config_map("shop", "a", "1"));
    assert!(succeeded(&testbed.result_of(&id, SOON)));
    assert_sound(&testbed);
}

/// P1.2.1: a server that names another cluster than its owner did is not served.
#[test]
fn another_cluster_than_the_one_asked_for_is_refused() {
    let testbed = Testbed::start();
    let answer = json!({"clusterId": "other", "token": testbed.issue_bearer("other")});
    testbed.fault(Call::Register, 1, Fault::Answer(Answer::json(&answer)));
    let setup = Agent::of(&testbed).flag("--cluster-id", CLUSTER);
    assert_refused(&setup, &setup.run_to_end("register"), "another cluster");
}

/// P1.3.2: both texts are trimmed; P1.4.1, P1.4.3: unknown members and the year 1 do no harm.
#[test]
fn the_texts_of_an_answer_are_trimmed() {
    let testbed = Testbed::start();
    testbed.behave(|behaviour| behaviour.odd = true);
    let setup = setup(&testbed);
    let _agent = setup.spawn();
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "a", "1")))));
    let stored = credential(&setup.state_dir());
    assert_eq!(stored["clusterId"], CLUSTER);
    let token = stored["current"]["token"].as_str().unwrap();
    assert_eq!(token, token.trim());
    assert_eq!(stored["current"].get("expiresAt"), None);
    assert_sound(&testbed);
}

/// P1.3.2: neither text may be missing or empty.
#[test]
fn an_answer_that_lacks_a_member_is_refused() {
    let testbed = Testbed::start();
    let setup = Agent::of(&testbed);
    let bearer = testbed.issue_bearer(CLUSTER);
    for answer in [
        json!({"clusterId": CLUSTER}),
        json!({"token": bearer}),
        json!({"clusterId": CLUSTER, "token": " \n"}),
        json!({"clusterId": "", "token": bearer}),
        json!({"clusterId": null, "token": bearer}),
        json!({"clusterId": CLUSTER, "token": 7}),
        json!({}),
        json!([]),
    ] {
        testbed.fault(Call::Register, 1, Fault::Answer(Answer::json(&answer)));
        assert_refused(&setup, &setup.run_to_end("register"), "the control plane's answer cannot be used");
    }
    assert!(setup.run_to_end("register").status.success(), "the token was not used up");
}

/// P1.3.2, P1.4.3: no `expiresAt`, `null` and the year 1 all mean that the credential does not end.
#[test]
fn a_credential_without_an_end_works_however_that_is_said() {
    for (said, stored) in [
        (None, false),
        (Some(json!(null)), false),
        (Some(json!("0001-01-01T00:00:00Z")), false),
        (Some(json!(timestamp(3600).replace('Z', ".123456789Z"))), true),
    ] {
        let testbed = Testbed::start();
        let mut answer = json!({"clusterId": CLUSTER, "token": testbed.issue_bearer(CLUSTER)});
        if let Some(said) = &said {
            answer["expiresAt"] = said.clone();
        }
        testbed.fault(Call::Register, 1, Fault::Answer(Answer::json(&answer)));
        let setup = setup(&testbed);
        let _agent = setup.spawn();
        assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "a", "1")))), "{said:?}");
        assert_eq!(credential(&setup.state_dir())["current"].get("expiresAt").is_some(), stored, "{said:?}");
    }
}

/// P1.2.10: a token is good once. The agent says so in a sentence and stores nothing.
#[test]
fn a_used_token_is_a_clear_error_and_stores_nothing() {
    let testbed = Testbed::start();
    let token = testbed.issue_token(Some(CLUSTER));
    assert!(Agent::of(&testbed).token(&token).run_to_end("register").status.success());
    let setup = Agent::of(&testbed).token(&token);
    let output = setup.run_to_end("register");
    assert_refused(&setup, &output, "does not accept the one-time token");
    assert!(!said(&output).contains(&token), "a token is never shown");
}

/// P1.2.1: a second registration does not take the place of the first.
#[test]
fn a_registered_agent_does_not_register_again() {
    let testbed = Testbed::start();
    let setup = Agent::of(&testbed);
    assert!(setup.run_to_end("register").status.success());
    let stored = credential(&setup.state_dir());
    let again = setup.clone().token(&testbed.issue_token(Some(CLUSTER))).run_to_end("register");
    assert_eq!(again.status.code(), Some(1));
    assert!(said(&again).contains("already registered"), "{}", said(&again));
    assert_eq!((credential(&setup.state_dir()), testbed.requests_of(Call::Register).len()), (stored, 1));
}

/// P1.2.1: `run` registers by itself, and when it is started again it does not.
#[test]
fn run_registers_by_itself_and_once() {
    let testbed = Testbed::start();
    let setup = setup(&testbed);
    let mut agent = setup.spawn();
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "a", "1")))));
    agent.kill();
    let _again = setup.without("--token-file").without("--endpoint").spawn();
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "b", "1")))));
    assert_eq!(testbed.requests_of(Call::Register).len(), 1);
    assert_sound(&testbed);
}

/// P1.2.10: `run` tries a token once and waits for a new one in its file.
#[test]
fn run_waits_for_a_new_token_when_its_own_is_used_up() {
    let testbed = Testbed::start();
    let used = testbed.issue_token(Some(CLUSTER));
    assert!(Agent::of(&testbed).token(&used).run_to_end("register").status.success());
    let setup = setup(&testbed).token(&used);
    let mut agent = setup.spawn();
    agent.wait_for_log("put a new one into its file", SOON);
    assert_eq!(count_within(&testbed, Call::Register, SECOND * 2), 0, "a refused token is not tried again");
    assert!(agent.is_running() && !setup.state_dir().join("credential.json").exists());
    write_secret(&setup.home().join("token"), &testbed.issue_token(Some(CLUSTER)));
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "a", "1")))));
    assert_eq!(testbed.requests_of(Call::Register).len(), 3);
    assert_sound(&testbed);
}

/// P1.2.1, P1.8.5, P1.8.6: a server that is not well is no reason to give up the token.
#[test]
fn run_registers_once_the_server_is_well() {
    let testbed = Testbed::start();
    testbed.fault(Call::Register, 1, Fault::status(503));
    testbed.fault(Call::Register, 1, Fault::html(200));
    let _agent = setup(&testbed).spawn();
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "a", "1")))));
    let gaps = gaps(&testbed.requests_of(Call::Register));
    assert!(gaps.len() == 2 && gaps.iter().all(|gap| *gap >= SECOND), "{gaps:?}");
}

/// P1.8.3: no agent API at the endpoint is an error of its own.
#[test]
fn an_endpoint_without_the_api_is_told_from_a_bad_token() {
    let testbed = Testbed::with(Options { base: "/right".to_owned(), ..Options::default() });
    let setup = Agent::of(&testbed).flag("--endpoint", testbed.endpoint().replace("/right", "/wrong"));
    assert_refused(&setup, &setup.run_to_end("register"), "no agent API at this endpoint");
}

/// P1.2.10: a bearer that has ended is not the end of the agent: it stays and says what is to be done.
#[test]
fn an_agent_whose_bearer_has_ended_stays_and_says_so() {
    let testbed = Testbed::start();
    testbed.behave(|behaviour| behaviour.bearer_life = Some(Duration::from_secs(3)));
    let mut agent = setup(&testbed).spawn();
    agent.wait_for_log("register it anew", SOON);
    assert!(agent.is_running());
}

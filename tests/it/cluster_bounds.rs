//! What an agent makes of a Cluster and of Secrets that are not as they should be: it says so, does nothing that was not
//! asked for, and goes on by itself when they are mended.

use std::time::Duration;

use http::Method;
use serde_json::json;

use crate::apiserver::wait_until;
use crate::cluster_stage::{CREDENTIAL, Definitions, SECRETS, Stage, TOKEN, message};
use crate::scene::LATER;
use crate::testbed::{Call, Testbed};

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_spec_that_cannot_be_used_stops_the_line_and_is_told() {
    let (stage, agent) = Stage::connected(Definitions::Open);
    let kinds = vec!["/ConfigMap"; 65];
    // Each with what it takes to be well again.
    for (bad, good, words) in [
        (json!({"clusterId": 7}), json!({"clusterId": stage.name}), "invalid type"),
        (json!({"connectivityMode": "teleport"}), json!({"connectivityMode": null}), "teleport"),
        (json!({"pull": {"waitSeconds": 301}}), json!({"pull": {"waitSeconds": 1}}), "from 1 to 300"),
        (json!({"policy": {"kinds": kinds}}), json!({"policy": null}), "more than 64 entries"),
        (json!({"policy": {"kinds": ["ConfigMap"]}}), json!({"policy": null}), "spec.policy.kinds"),
        (json!({"note": "x".repeat(300 * 1024)}), json!({"note": null}), "longer than 256 KiB"),
        (json!({"caBundle": "no PEM"}), json!({"caBundle": stage.testbed.ca_pem()}), "cluster-ca.pem"),
    ] {
        stage.patch(&json!({"spec": bad}));
        wait_until(&format!("{words} is told"), || message(&stage.cluster(), "Accepted").contains(words));
        let status = &stage.cluster()["status"];
        assert_eq!(
            (status["phase"].as_str(), stage.condition("Accepted").as_str()),
            (Some("Error"), "False/InvalidSpec")
        );
        stage.patch(&json!({"spec": good}));
    }
    stage.is_connected();
    stage.says("Accepted", "");
    assert_eq!(stage.testbed.requests_of(Call::Register).len(), 1);
    wait_until("there is an event", || stage.node.events(&stage.name).contains(&"InvalidSpec".to_owned()));
    assert!(!agent.log().contains("panicked"));
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn the_credential_goes_to_nobody_as_a_token() {
    let (stage, _agent) = Stage::connected(Definitions::Open);
    let other = Testbed::start();
    let name = "vworkspace-agent-credentials";
    stage.patch(&json!({"spec": {
        "controlPlaneEndpoint": other.endpoint(), "caBundle": other.ca_pem(),
        "registrationTokenSecretRef": {"name": name, "key": "token"},
    }}));
    stage.says("Authenticated", "False/TokenSecretMissing");
    let text = message(&stage.cluster(), "Authenticated");
    assert!(text.contains("goes to nobody") && text.contains("another control plane"), "{text}");
    assert_eq!(other.requests().len(), 0);
    let endpoint = stage.testbed.endpoint();
    stage.patch(&json!({"spec": {"controlPlaneEndpoint": endpoint, "caBundle": stage.testbed.ca_pem()}}));
    stage.is_connected();
    assert_eq!(stage.testbed.requests_of(Call::Register).len(), 1, "the credential is still there");
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn an_entry_of_the_credential_that_is_cut_or_wrong_is_told_and_nothing_is_done_with_the_rest() {
    let (stage, mut agent) = Stage::connected(Definitions::Open);
    agent.stop();
    let polls = stage.testbed.counts().polls;
    for (name, wrong) in [
        ("agent-state", {
            let state = stage.node.entry("agent-state");
            state[..state.len() / 2].to_owned()
        }),
        ("keypair", "{}".to_owned()),
        ("token", "x".to_owned()),
        ("cluster-id", "a b".to_owned()),
    ] {
        let whole = stage.node.entry(name);
        let put = |text: &str| {
            assert_eq!(
                stage.node.0.request(Method::PATCH, CREDENTIAL, Some(&json!({"stringData": {name: text}}))).0,
                200
            );
        };
        put(&wrong);
        let mut agent = stage.setup.spawn();
        agent.wait_for_log("the stored credential cannot be used", LATER);
        stage.says("Authenticated", "False/CredentialMissing");
        assert_eq!(stage.cluster()["status"]["phase"], "Error");
        agent.stop();
        put(&whole);
    }
    assert_eq!(stage.testbed.counts().polls, polls);
    let _agent = stage.setup.spawn();
    stage.is_connected();
    assert_eq!(stage.testbed.requests_of(Call::Register).len(), 1);
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_token_that_is_missing_empty_or_wrong_is_told_and_a_new_one_is_tried_by_itself() {
    let stage = Stage::new(Definitions::Open);
    stage.node.0.request(Method::DELETE, TOKEN, None);
    stage.create(&json!({}));
    let agent = stage.setup.spawn();
    stage.says("Authenticated", "False/TokenSecretMissing");
    assert_eq!(stage.cluster()["status"]["phase"], "Pending");
    assert_eq!(stage.condition("Connected"), "False/RegistrationPending");
    assert!(message(&stage.cluster(), "Authenticated").contains("is not there"));
    stage.node.0.create(
        SECRETS,
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "vworkspace-registration-token"}}),
    );
    wait_until("it is told that it is empty", || message(&stage.cluster(), "Authenticated").contains("has no token"));

    stage.node.set_token("a-token-that-nobody-issued");
    stage.says("Authenticated", "False/RegistrationFailed");
    assert_eq!(stage.cluster()["status"]["phase"], "Error");
    let observed = stage.cluster()["status"]["observedToken"].clone();
    assert_eq!(observed.as_str().unwrap().len(), 16);
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(stage.testbed.requests_of(Call::Register).len(), 1, "it is not tried twice");

    stage.node.set_token(&stage.testbed.issue_token(Some(&stage.name)));
    stage.is_connected();
    assert_ne!(stage.cluster()["status"]["observedToken"], observed);
    assert!(!agent.log().contains("a-token-that-nobody-issued"));
    // An event comes after the condition that it is about.
    for reason in ["TokenSecretMissing", "RegistrationFailed", "RegistrationComplete"] {
        wait_until(reason, || stage.node.events(&stage.name).iter().any(|event| event == reason));
    }
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_secret_that_is_not_there_too_large_or_damaged_is_told() {
    let stage = Stage::new(Definitions::Open);
    stage.node.set_token(&stage.testbed.issue_token(Some(&stage.name)));
    stage.node.0.request(Method::DELETE, CREDENTIAL, None);
    stage.create(&json!({}));
    let _agent = stage.setup.spawn();
    stage.says("Authenticated", "False/CredentialMissing");
    assert!(message(&stage.cluster(), "Authenticated").contains("apply k3s/cluster.yaml"));
    assert_eq!(stage.testbed.requests_of(Call::Register).len(), 0, "no token is used up for nothing");
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "vworkspace-agent-credentials"},
        "stringData": {"other": "x".repeat(300 * 1024)},
    });
    stage.node.0.create(SECRETS, &secret);
    wait_until("it is told", || message(&stage.cluster(), "Authenticated").contains("larger than it can be"));
    let damaged =
        json!({"data": {"other": null, "token": "/w==", "cluster-id": "eA==", "control-plane-base-url": "eA=="}});
    assert_eq!(stage.node.0.request(Method::PATCH, CREDENTIAL, Some(&damaged)).0, 200);
    wait_until("it is told", || message(&stage.cluster(), "Authenticated").contains("not text"));
    let empty = json!({"data": {"token": null, "cluster-id": null, "control-plane-base-url": null}});
    assert_eq!(stage.node.0.request(Method::PATCH, CREDENTIAL, Some(&empty)).0, 200);
    stage.is_connected();
}

//! What a Cluster object, and the events of Kubernetes about it, say of a line that works in another way than it should; and
//! what the rest of its spec does to the line.

use http::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::apiserver::{unique, wait_until};
use crate::cluster_stage::{ACCOUNT, CREDENTIAL, Definitions, SECRETS, Stage, TOKEN, message};
use crate::scene::{LATER, SOON};
use crate::testbed::job::{application_instance, config_map};
use crate::testbed::{Call, EventRecord, Fault, Proxy};

/// How many events of Kubernetes there are of this reason.
fn events(stage: &Stage, reason: &str) -> usize {
    stage.node.events(&stage.name).iter().filter(|event| *event == reason).count()
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_control_plane_that_does_not_let_us_in_is_told_and_so_is_one_that_does_again() {
    let (stage, agent) = Stage::connected(Definitions::Ours);
    stage.testbed.fault_until_cleared(Call::Jobs, Fault::refusal(403, "Forbidden"));
    stage.says("Authenticated", "False/ControlPlaneAuthenticationFailed");
    assert_eq!(stage.condition("Connected"), "True/RoundTripOK", "it does answer");
    assert_eq!(stage.cluster()["status"]["phase"], "Error");
    wait_until("its event", || events(&stage, "ControlPlaneAuthenticationFailed") == 1);
    assert!(!message(&stage.cluster(), "Authenticated").is_empty());
    stage.testbed.clear_faults();
    agent.signal(Signal::HUP);
    stage.says("Authenticated", "True/CredentialAccepted");
    stage.is_connected();
    assert_eq!(stage.apply(application_instance("shop", "wiki"))["outcome"], "succeeded");
    assert_eq!(events(&stage, "ControlPlaneAuthenticationFailed"), 1);
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn jobs_that_are_refused_are_one_event_and_a_cluster_that_wants_signatures_gets_them() {
    let (stage, _agent) = Stage::connected(Definitions::Ours);
    for number in 0..3 {
        let result = stage.apply(config_map("shop", &format!("c{number}"), "a"));
        assert!(result["error"].as_str().unwrap().contains("KindNotAllowed"), "{result}");
    }
    wait_until("their event", || events(&stage, "JobRefused") == 1);
    stage.patch(&json!({"spec": {"security": {"requireSignedPayloads": true}}}));
    stage.is_in_effect();
    let result = stage.apply(application_instance("shop", "wiki"));
    assert_eq!(result["outcome"], "failed", "{result}");
    stage.testbed.event("of the refusal", SOON, |event| event["kind"] == "JobPayloadSignatureInvalid");
    stage.patch(&json!({"spec": {"security": {"requireSignedPayloads": false}}}));
    wait_until("it is open again", || {
        stage.apply(application_instance("shop", &format!("wiki-{}", unique())))["outcome"] == "succeeded"
    });
    assert_eq!(events(&stage, "JobRefused"), 1, "further ones are counted for the next");
    let list = stage.node.0.get("/api/v1/namespaces/default/events");
    let is_it = |event: &&Value| event["reason"] == "JobRefused" && event["involvedObject"]["name"] == *stage.name;
    let event = list["items"].as_array().unwrap().iter().find(is_it).unwrap();
    assert_eq!(event["type"], "Warning");
    assert!(event["message"].as_str().unwrap().contains("KindNotAllowed"), "{event}");
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn events_that_found_no_room_are_told_with_their_count_until_the_control_plane_knows() {
    const STORMS: usize = 60;
    const OBJECTS: usize = 20;
    let mut stage = Stage::new(Definitions::Ours);
    stage.node.set_token(&stage.testbed.issue_token(Some(&stage.name)));
    stage.create(&json!({}));
    let agent = stage.setup.clone().flag("--journal-size", "65536").spawn();
    stage.is_connected();
    let space = format!("shop-{}", unique());
    let name =
        |number: usize| format!("/apis/apps.vworkspace.io/v1alpha1/namespaces/{space}/applicationinstances/a{number}");
    for number in 0..OBJECTS {
        assert_eq!(stage.apply(application_instance(&space, &format!("a{number}")))["outcome"], "succeeded");
    }
    stage.testbed.down();
    for storm in 0..STORMS {
        for number in 0..OBJECTS {
            let condition = json!({"type": "Ready", "status": if storm % 2 == 0 { "True" } else { "False" }, "reason": format!("Storm{storm}"), "message": "as it is", "lastTransitionTime": "2026-01-31T12:00:00Z"});
            stage.node.0.set_status(&name(number), &json!({"conditions": [condition]}));
        }
    }
    stage.says("BufferOverflow", "True/EventBufferFull");
    let cluster = stage.cluster();
    let (buffer, text) = (&cluster["status"]["buffer"], message(&cluster, "BufferOverflow"));
    let lost = buffer["lost"].as_u64().unwrap();
    assert!(lost > 0 && text.starts_with(&format!("{lost} events were lost")), "{buffer} {text}");
    assert_eq!(buffer["capacityBytes"], 65_536);
    assert!(buffer["usedBytes"].as_u64().unwrap() > 0, "{buffer}");
    stage.testbed.up();
    agent.signal(Signal::HUP);
    // After a loss the truth is told, once a minute at most: the last word on each.
    let last = format!("Storm{}", STORMS - 1);
    stage.testbed.wait_for("the last word on each", LATER, |state| {
        let is_last = |record: &&EventRecord| record.event["conditions"][0]["reason"] == last.as_str();
        let names: std::collections::BTreeSet<String> =
            state.events.iter().filter(is_last).map(|record| record.event["resourceRef"]["name"].to_string()).collect();
        (names.len() == OBJECTS).then_some(())
    });
    stage.says("BufferOverflow", "False/BufferDrained");
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn the_old_name_of_the_endpoint_a_key_of_ones_own_and_a_proxy_are_gone_by() {
    let (stage, proxy) = (Stage::new(Definitions::Ours), Proxy::start());
    let patch =
        json!({"stringData": {"mine": stage.testbed.issue_token(Some(&stage.name)), "registrationToken": "other"}});
    assert_eq!(stage.node.0.request(Method::PATCH, TOKEN, Some(&patch)).0, 200);
    stage.create(&json!({
        "controlPlaneEndpoint": null, "controlPlaneBaseUrl": stage.testbed.endpoint(),
        "registrationTokenSecretRef": {"name": "vworkspace-registration-token", "key": "mine"},
        "proxy": {"url": proxy.url()},
    }));
    let agent = stage.setup.spawn();
    stage.is_connected();
    assert_eq!(stage.testbed.requests_of(Call::Register).len(), 1);
    assert!(!proxy.tunnels().is_empty());
    // A token that is replaced while nobody asks for a rotation is left alone.
    stage.node.set_token(&stage.testbed.issue_token(Some(&stage.name)));
    stage.testbed.polls(stage.testbed.counts().polls + 5, SOON);
    assert_eq!(stage.testbed.requests_of(Call::Register).len(), 1);
    // Without the proxy the line is another one, and the credential is the same.
    stage.patch(&json!({"spec": {"proxy": null}}));
    agent.wait_for_log("the line begins anew", SOON);
    stage.is_in_effect();
    let tunnels = proxy.tunnels().len();
    stage.testbed.polls(stage.testbed.counts().polls + 3, SOON);
    assert_eq!((proxy.tunnels().len(), stage.testbed.requests_of(Call::Register).len()), (tunnels, 1));
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_control_plane_that_is_away_at_the_registration_is_told_and_waited_for() {
    let mut stage = Stage::new(Definitions::Ours);
    stage.node.set_token(&stage.testbed.issue_token(Some(&stage.name)));
    stage.create(&json!({}));
    stage.testbed.down();
    let agent = stage.setup.spawn();
    stage.says("Connected", "False/ControlPlaneUnreachable");
    assert_eq!(stage.cluster()["status"]["phase"], "Registering");
    assert_eq!(stage.condition("Authenticated"), "", "a network error never touches it");
    // Whoever is at the node itself reads the same.
    let status = || std::fs::read_to_string(agent.status_file()).unwrap_or_default();
    let told: Value = serde_json::from_str(&status()).unwrap();
    assert_eq!((&told["connection"]["state"], &told["cluster"]), (&"unregistered".into(), &stage.name.clone().into()));
    assert!(told["connection"]["fault"].as_str().unwrap().contains("cannot be reached"), "{told}");
    stage.testbed.up();
    agent.signal(Signal::HUP);
    stage.is_connected();
    assert_eq!(stage.condition("Authenticated"), "True/RegistrationComplete");
    wait_until("the status is another one", || status().contains("\"connected\""));
}

/// The manifests make the two Secrets; the account gets at these by their names, and makes none.
#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn the_account_of_the_agent_gets_at_its_two_secrets_and_at_no_other() {
    let (stage, _agent) = Stage::connected(Definitions::Ours);
    let secret = |name: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
    let other = format!("other-{}", unique());
    stage.node.0.create(SECRETS, &secret(&other));
    let may = |verb: &str, name: &str| {
        let attributes = json!({"namespace": "vworkspace-system", "verb": verb, "resource": "secrets", "name": name});
        stage.node.0.may(ACCOUNT, &attributes)
    };
    let [credential, token] = [CREDENTIAL, TOKEN].map(|path| path.rsplit('/').next().unwrap());
    for verb in ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"] {
        assert_eq!(may(verb, credential), ["get", "patch"].contains(&verb), "{verb} {credential}");
        assert_eq!(may(verb, token), verb == "get", "{verb} {token}");
        assert!(!may(verb, &other) && !may(verb, ""), "{verb}");
    }
}

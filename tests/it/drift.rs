//! Somebody else changes a field that a job has set: it is told, once, and left so.

use http::Method;
use pullet::protocol::Condition;
use pullet::target::{NamespaceRule, Observation};
use serde_json::{Value, json};
use std::time::Duration;

use crate::agent::Setup;
use crate::apiserver::{ApiServer, unique};
use crate::kubernetes::{apply, namespace};
use crate::kubernetes_observe::Listener;
use crate::scene::{SOON, succeeds};
use crate::testbed::job::config_map;
use crate::testbed::{EventRecord, Testbed};

fn path(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps/settings")
}

fn settings(namespace: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings", "namespace": namespace}, "data": data})
}

/// A change by another manager, as `kubectl edit` makes one.
fn edit(api: &ApiServer, namespace: &str, manager: &str, change: &Value) {
    let path = format!("{}?fieldManager={manager}", path(namespace));
    let (code, answer) =
        api.request_as(Method::PATCH, &path, "application/merge-patch+json", change.to_string().into_bytes());
    assert_eq!(code, 200, "{answer}");
}

/// What another manager takes over by force.
fn seize(api: &ApiServer, namespace: &str, manager: &str, data: &Value) {
    let path = format!("{}?fieldManager={manager}&force=true", path(namespace));
    let object = settings(namespace, data).to_string().into_bytes();
    let (code, answer) = api.request_as(Method::PATCH, &path, "application/apply-patch+yaml", object);
    assert_eq!(code, 200, "{answer}");
}

fn drifted(observation: &Observation) -> Option<&Condition> {
    observation.changed.iter().find(|condition| condition.kind == "Drifted")
}

/// What is said at the next drift.
async fn next(listener: &mut Listener) -> String {
    let seen = listener.until("drift", |one| drifted(one).is_some()).await;
    let said = drifted(&seen).unwrap();
    assert_eq!((said.status.as_str(), said.reason.as_str()), ("True", "FieldsChangedByOthers"));
    assert!(seen.conditions.is_empty(), "it is none of the object's own");
    said.message.clone()
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn each_field_that_somebody_else_changes_is_named_once_with_who_it_was() {
    let api = ApiServer::shared();
    let (id, space) = (format!("cluster-{}", unique()), namespace("drift"));
    let mut listener = Listener::start(api.kubeconfig(), &id, &["/ConfigMap"]);
    let ours = settings(&space, &json!({"a": "1", "b": "1", "c": "1"}));
    apply(&listener.target, &ours, NamespaceRule::Managed).await.unwrap();
    listener.until("the object", |one| one.reference.name == "settings").await;
    // It is watched from now on, and not only looked at once after the apply.
    let mut watched = false;
    for round in 0.. {
        edit(api, &space, "labeller", &json!({"metadata": {"labels": {"round": format!("r{round}")}}}));
        let seen = listener.until("the object", |one| one.reference.name == "settings");
        if tokio::time::timeout(Duration::from_secs(3), seen).await.is_ok() {
            if watched {
                break;
            }
            watched = true;
        }
    }
    edit(api, &space, "somebody", &json!({"data": {"a": "2"}}));
    assert_eq!(next(&mut listener).await, ".data.a by somebody");
    // Once more the same field, and one that is none of ours: no news.
    edit(api, &space, "somebody", &json!({"data": {"a": "3", "d": "1"}}));
    edit(api, &space, "somebody", &json!({"data": {"b": null}}));
    assert_eq!(next(&mut listener).await, "1 fields removed, or not named here");
    let data = api.get(&path(&space))["data"].clone();
    assert_eq!(data, json!({"a": "3", "c": "1", "d": "1"}), "nothing is put back");
    // What we leave out ourselves is no drift. Times are whole seconds.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let fewer = settings(&space, &json!({"c": "1", "e": "1"}));
    apply(&listener.target, &fewer, NamespaceRule::Managed).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let last = settings(&space, &json!({"e": "1"}));
    apply(&listener.target, &last, NamespaceRule::Managed).await.unwrap();
    seize(api, &space, "other", &json!({"e": "2"}));
    assert_eq!(next(&mut listener).await, ".data.e by other");
    listener.stop().await;
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn drift_is_an_event_of_the_object_and_the_next_job_for_it_a_conflict() {
    let api = ApiServer::shared();
    let (testbed, cluster) = (Testbed::start(), format!("cluster-{}", unique()));
    let space = format!("shop-{}", unique());
    let setup = Setup::of_cluster(&testbed, &cluster)
        .flag("--kubeconfig", api.kubeconfig())
        .flag("--allow-kind", "/ConfigMap")
        .flag("--succeed-on", "applied")
        .flag("--wait", "1");
    let mut agent = setup.spawn();
    let job = testbed.apply(&cluster, config_map(&space, "settings", "ours"));
    succeeds(&testbed, &job, SOON);
    // The agent has seen the object as soon as it tells of a change; which one is told depends on when it began to look.
    let drift = |record: &EventRecord| record.event["conditions"][0]["type"] == "Drifted";
    for round in 0.. {
        assert!(round < 20, "{}", agent.log());
        edit(api, &space, "kubectl-edit", &json!({"data": {"value": format!("theirs {round}")}}));
        let seen = testbed.try_wait_for(Duration::from_secs(20), |state| state.events.iter().any(drift).then_some(()));
        if seen.is_some() {
            break;
        }
        // Ours again, and seen as that.
        seize(api, &space, "vworkspace-agent", &json!({"value": "ours"}));
        std::thread::sleep(Duration::from_secs(2));
    }
    let event = testbed.event("drift", SOON, |event| event["conditions"][0]["type"] == "Drifted");
    assert_eq!(event["kind"], "ConditionTransition");
    assert_eq!(
        (&event["resourceRef"]["name"], &event["resourceRef"]["kind"]),
        (&json!("settings"), &json!("ConfigMap"))
    );
    assert_eq!(event["conditions"][0]["message"], ".data.value by kubectl-edit");
    assert!(event["eventKey"].as_str().unwrap().contains("/Drifted/True@"), "{event}");
    let next = testbed.apply(&cluster, config_map(&space, "settings", "once more"));
    let result = testbed.result_of(&next, SOON);
    assert_eq!(result["outcome"], "conflict", "{result}");
    assert!(agent.stop().status.success(), "{}", agent.log());
    assert_eq!(testbed.events().iter().filter(|record| drift(record)).count(), 1, "it is told once");
    assert_eq!(testbed.violations(), Vec::<String>::new());
}

//! Acks, statuses, results, events.

use serde_json::{Value, json};

use super::{Client, SOON};
use crate::testbed::job::{config_map, timestamp};
use crate::testbed::{Job, Testbed};

#[test]
fn a_job_is_acked_then_reported_then_closed() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    let id = testbed.enqueue("c1", Job::apply(json!(1)).with("id", "a/b c"));
    let path = |call: &str| format!("/jobs/a%2Fb%20c/{call}");
    let status = json!({"phase": "Applied", "timestamp": timestamp(0)});
    let result = json!({"outcome": "noop", "error": "expired", "timestamp": timestamp(0)});

    assert_eq!(client.post(&path("status"), &status).status, 400);
    assert_eq!(client.post(&path("result"), &result).status, 400);
    assert_eq!(client.post_empty(&path("ack")).status, 204);
    assert_eq!(client.post_empty(&path("ack")).status, 204);
    assert_eq!(client.post(&path("status"), &status).status, 204);
    assert_eq!(client.post(&path("result"), &result).status, 204);
    assert_eq!(client.post(&path("result"), &result).error(), "AlreadyClosed");
    assert_eq!(client.post(&path("status"), &status).status, 409);
    assert_eq!(client.post_empty(&path("ack")).status, 409);
    assert_eq!(testbed.acks(&id), 2);
    assert_eq!(testbed.statuses(&id), [status]);
    assert_eq!(testbed.result_of(&id, SOON), result);
    assert_eq!(testbed.violations().len(), 2);
}

#[test]
fn clusters_are_kept_apart() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    let id = testbed.apply("c2", config_map("n", "a", "x"));
    assert_eq!(client.get("/jobs?cluster=c2&wait=0").error(), "WrongCluster");
    assert!(client.get("/jobs?cluster=c1&wait=0").jobs().is_empty());
    assert_eq!(client.post_empty(&format!("/jobs/{id}/ack")).error(), "UnknownJob");
    let result = json!({"outcome": "succeeded", "timestamp": timestamp(0)});
    assert_eq!(client.post(&format!("/jobs/{id}/result"), &result).status, 404);
    assert_eq!(client.post_empty("/jobs/nobody/ack").status, 404);
    assert_eq!(testbed.acks(&id), 0);
}

#[test]
fn a_result_is_read_strictly() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    let id = testbed.apply("c1", config_map("n", "a", "x"));
    client.post_empty(&format!("/jobs/{id}/ack"));
    let now = timestamp(0);
    let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "namespace": "", "name": "a", "generation": 3});
    let good = json!({"outcome": "succeeded", "appliedRef": reference, "timestamp": now});
    let with = |name: &str, value: Value| {
        let mut result = good.clone();
        result[name] = value;
        result
    };
    let with_reference = |name: &str, value: Option<Value>| {
        let mut reference = reference.clone();
        match value {
            Some(value) => reference[name] = value,
            None => drop(reference.as_object_mut().unwrap().remove(name)),
        }
        with("appliedRef", reference)
    };
    for bad in [
        json!("succeeded"),
        json!({"outcome": "succeeded"}),
        json!({"timestamp": now}),
        with("outcome", json!("Succeeded")),
        with("outcome", json!("expired")),
        with("outcome", json!("failed")),
        with("outcome", json!(null)),
        with("error", json!("")),
        with("error", json!(null)),
        with("appliedRef", json!(null)),
        with("timestamp", json!("yesterday")),
        with("timestamp", json!(1_700_000_000)),
        with("message", json!("hello")),
        with_reference("namespace", None),
        with_reference("namespace", Some(json!(null))),
        with_reference("name", Some(json!(""))),
        with_reference("uid", Some(json!(""))),
        with_reference("generation", Some(json!(0))),
        with_reference("generation", Some(json!("3"))),
        with_reference("x", Some(json!(1))),
    ] {
        assert_eq!(client.post(&format!("/jobs/{id}/result"), &bad).status, 400, "{bad}");
    }
    let no_json = client.send(client.request("POST", &format!("/jobs/{id}/result"), b"{")).unwrap();
    assert_eq!(no_json.error(), "Invalid");
    assert!(testbed.result(&id).is_none());
    assert_eq!(client.post(&format!("/jobs/{id}/result"), &good).status, 204);
}

#[test]
fn a_status_is_read_strictly() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    let id = testbed.apply("c1", config_map("n", "a", "x"));
    client.post_empty(&format!("/jobs/{id}/ack"));
    let condition = json!({"type": "Ready", "status": "True", "observedGeneration": 0,
                           "lastTransitionTime": timestamp(0), "reason": "", "message": ""});
    let status = |condition: Value| json!({"phase": "Waiting", "conditions": [condition], "timestamp": timestamp(0)});
    let without = |name: &str| {
        let mut condition = condition.clone();
        condition.as_object_mut().unwrap().remove(name);
        status(condition)
    };
    let with = |name: &str, value: Value| {
        let mut condition = condition.clone();
        condition[name] = value;
        status(condition)
    };
    for bad in [
        json!({"phase": "", "timestamp": timestamp(0)}),
        json!({"timestamp": timestamp(0)}),
        json!({"phase": "Waiting"}),
        json!({"phase": "Waiting", "conditions": [], "timestamp": timestamp(0)}),
        json!({"phase": "Waiting", "message": "", "timestamp": timestamp(0)}),
        without("type"),
        without("status"),
        without("lastTransitionTime"),
        without("reason"),
        without("message"),
        with("status", json!("true")),
        with("observedGeneration", json!(-1)),
        with("severity", json!("Info")),
    ] {
        assert_eq!(client.post(&format!("/jobs/{id}/status"), &bad).status, 400, "{bad}");
    }
    assert_eq!(client.post(&format!("/jobs/{id}/status"), &status(condition.clone())).status, 204);
}

fn event(key: Option<&str>) -> Value {
    let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "namespace": "n", "name": "a"});
    let mut event = json!({"kind": "ConditionTransition", "resourceRef": reference, "timestamp": timestamp(0)});
    if let Some(key) = key {
        event["eventKey"] = json!(key);
    }
    event
}

#[test]
fn a_second_event_of_the_same_key_is_dropped_for_ever() {
    let mut testbed = Testbed::start();
    let client = Client::of(&testbed);
    let send = |events: &[Value]| client.post("/events", &json!({"events": events})).status;
    assert_eq!(send(&[event(Some("k")), event(Some("l")), event(Some("k"))]), 204);
    testbed.down();
    testbed.up();
    let send = |events: &[Value]| client.post("/events", &json!({"events": events})).status;
    assert_eq!(send(&[event(Some("l")), event(None), event(None)]), 204);
    assert_eq!(testbed.events().len(), 4);
    assert_eq!(testbed.repeated_events(), 2);
    testbed.event("an event without a key", SOON, |event| event.get("eventKey").is_none());
}

#[test]
fn a_batch_has_one_to_a_hundred_events_and_is_kept_whole_or_not_at_all() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    let send = |events: Value| client.post("/events", &json!({"events": events})).status;
    assert_eq!(send(json!([])), 400);
    assert_eq!(send(json!(null)), 400);
    assert_eq!(send(json!(vec![event(None); 101])), 400);
    let mut bad = event(None);
    bad["kind"] = json!("Unheard");
    assert_eq!(send(json!([event(Some("k")), bad])), 400);
    let mut bad = event(None);
    bad["resourceRef"] = json!(null);
    assert_eq!(send(json!([bad])), 400);
    let mut bad = event(None);
    bad["eventKey"] = json!("");
    assert_eq!(send(json!([bad])), 400);
    let mut bad = event(None);
    bad["endpoints"] = json!([{"name": "web"}]);
    assert_eq!(send(json!([bad])), 400);
    assert!(testbed.events().is_empty());
    assert_eq!(send(json!(vec![event(None); 100])), 204);
    assert_eq!(testbed.events().len(), 100);
}

#[test]
fn heartbeats_and_rotations_are_about_the_cluster_of_the_bearer() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    let send = |kind: &str, resource: &str, name: &str, conditions: Option<Value>| {
        let mut event = event(None);
        event["kind"] = json!(kind);
        event["resourceRef"] = json!({"apiVersion": "ops.vworkspace.io/v1alpha1", "kind": resource,
                                      "namespace": "", "name": name});
        if let Some(conditions) = conditions {
            event["conditions"] = conditions;
        }
        client.post("/events", &json!({"events": [event]})).status
    };
    assert_eq!(send("ClusterHeartbeat", "Cluster", "c1", None), 204);
    assert_eq!(send("ClusterHeartbeat", "Cluster", "c2", None), 400);
    assert_eq!(send("ClusterHeartbeat", "Node", "c1", None), 400);
    assert_eq!(send("CredentialRotated", "Cluster", "c1", None), 400);
    let rotated = json!([{"type": "Authenticated", "status": "True", "reason": "CredentialRotated", "message": "",
                          "lastTransitionTime": timestamp(0)}]);
    assert_eq!(send("CredentialRotated", "Cluster", "c1", Some(rotated)), 204);
}

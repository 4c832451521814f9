//! P1.6: what jobs do.

use serde_json::{Value, json};

use super::{applied, assert_failed, assert_sound, connected, done, eventually, setup, start, succeeded};
use crate::agent::Setup;
use crate::testbed::job::{application_instance, config_map, operation};
use crate::testbed::{Job, Testbed};

/// P1.6.1, P1.6.5: the manifest as it is, with our labels beside its own.
#[test]
fn apply_writes_the_manifest_with_our_labels() {
    let testbed = Testbed::start();
    let agent = Setup::of_cluster(&testbed, "clinic-7").target_directory().flag("--wait", "1").spawn();
    let mut manifest = config_map("shop", "a", "ä \"quoted\" \u{1f413}");
    manifest["metadata"]["labels"] = json!({"team": "blue", "app.vworkspace.io/cluster-id": "forged"});
    manifest["metadata"]["annotations"] = json!({"note": "kept"});
    manifest["data"]["number"] = json!(1.5);
    manifest["binaryData"] = json!({"x": [null, true, {"deep": [1, 2]}]});
    let id = testbed.apply("clinic-7", manifest.clone());
    assert!(succeeded(&testbed.result_of(&id, super::SOON)));
    manifest["metadata"]["labels"] = json!({
        "team": "blue",
        "app.vworkspace.io/managed-by": "control-plane",
        "app.vworkspace.io/cluster-id": "clinic-7",
    });
    let mut applied = applied(&agent.directory(), "ConfigMap", "a").unwrap();
    let annotations = applied["metadata"]["annotations"].as_object_mut().unwrap();
    let stamp = annotations.remove("app.vworkspace.io/idempotency-key-hash").unwrap();
    assert_eq!(stamp.as_str().map(str::len), Some(11), "the hash of the job's key");
    assert_eq!(applied, manifest);
    assert_sound(&testbed);
}

/// P1.6.1: the same object again takes the place of the one before.
#[test]
fn apply_of_the_same_object_replaces_it() {
    let testbed = Testbed::start();
    let agent = start(&testbed);
    for value in ["1", "2"] {
        assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "a", value)))));
        assert_eq!(super::value_of(&agent, "a").as_deref(), Some(value));
    }
    assert!(succeeded(&done(&testbed, Job::apply(config_map("school", "a", "3")))));
    let visible = std::fs::read_dir(agent.directory()).unwrap().count();
    assert_eq!(visible, 2, "one file an object");
}

/// P1.3.6: the namespace of a cluster-scoped object is empty and there.
#[test]
fn a_cluster_scoped_object_has_an_empty_namespace_in_its_reference() {
    let testbed = Testbed::start();
    let agent = setup(&testbed).flag("--allow-kind", "/PersistentVolume").spawn();
    let manifest = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "disk"}, "spec": {}});
    let result = done(&testbed, Job::apply(manifest));
    assert!(succeeded(&result), "{result}");
    let expected = json!({"apiVersion": "v1", "kind": "PersistentVolume", "namespace": "", "name": "disk"});
    assert_eq!(result["appliedRef"], expected);
    assert!(applied(&agent.directory(), "PersistentVolume", "disk").is_some());
    assert_sound(&testbed);
}

/// P1.6.1: what is no manifest is answered with what is wrong with it.
#[test]
fn a_manifest_that_cannot_be_used_is_answered_with_the_reason() {
    let testbed = Testbed::start();
    let agent = start(&testbed);
    let with = |path: &str, value: Value| {
        let mut manifest = config_map("shop", "a", "1");
        *manifest.pointer_mut(path).unwrap() = value;
        manifest
    };
    let mut owned = config_map("shop", "a", "1");
    owned["metadata"]["ownerReferences"] = json!([]);
    let mut status = config_map("shop", "a", "1");
    status["status"] = json!({});
    for manifest in [
        json!("text"),
        json!([]),
        json!({}),
        with("/apiVersion", json!("")),
        with("/kind", json!(7)),
        with("/metadata", json!([])),
        with("/metadata/name", json!("")),
        with("/metadata/name", json!(null)),
        owned,
        status,
        json!({"apiVersion": "v1", "kind": "List", "metadata": {"name": "a"}, "items": []}),
    ] {
        assert_failed(&done(&testbed, Job::apply(manifest)), "InvalidManifest");
    }
    // In the cluster's own default namespace nobody has looked.
    let nowhere = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let result = done(&testbed, Job::apply(nowhere));
    assert_eq!(result["outcome"], "failed");
    assert!(result["error"].as_str().unwrap().contains("metadata.namespace"), "{result}");
    assert_eq!(std::fs::read_dir(agent.directory()).unwrap().count(), 0);
    assert_sound(&testbed);
}

/// P1.6.2: the object is gone; what was not there is gone, too.
#[test]
fn delete_removes_the_object_and_what_is_not_there_is_deleted() {
    let testbed = Testbed::start();
    let agent = start(&testbed);
    let delete = || Job::delete("v1", "ConfigMap", "shop", "a");
    assert!(succeeded(&done(&testbed, delete())), "it was not there");
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "a", "1")))));
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "other", "1")))));
    let result = done(&testbed, delete());
    assert!(succeeded(&result), "{result}");
    eventually("the object to be gone", || applied(&agent.directory(), "ConfigMap", "a").is_none().then_some(()));
    assert!(applied(&agent.directory(), "ConfigMap", "other").is_some());
    assert_sound(&testbed);
}

/// P1.6.2: all four names are asked for; only the namespace may be empty.
#[test]
fn a_delete_without_its_names_is_refused() {
    let testbed = Testbed::start();
    let _agent = connected(&testbed);
    for member in ["apiVersion", "kind", "name"] {
        let mut payload = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "namespace": "shop"});
        payload[member] = json!("");
        assert_failed(&done(&testbed, Job::new("delete", payload.clone())), "MalformedJob");
        payload.as_object_mut().unwrap().remove(member);
        assert_failed(&done(&testbed, Job::new("delete", payload)), "MalformedJob");
    }
    assert_sound(&testbed);
}

/// P1.6.3: the intents on applications and operations, with and without what their name says already.
#[test]
fn the_intents_apply_and_delete() {
    let testbed = Testbed::start();
    let agent = start(&testbed);
    let ensure = Job::intent(
        "ensure-application-instance",
        json!({"applicationInstance": application_instance("shop", "wiki")}),
    );
    let result = done(&testbed, ensure);
    assert!(succeeded(&result), "{result}");
    assert_eq!(result["appliedRef"]["kind"], "ApplicationInstance");
    assert_eq!(
        applied(&agent.directory(), "ApplicationInstance", "wiki").unwrap()["spec"]["appRef"]["catalogId"],
        "wiki"
    );

    let mut bare = operation("shop", "backup");
    bare.as_object_mut().unwrap().retain(|member, _| member != "apiVersion" && member != "kind");
    let result = done(&testbed, Job::intent("request-operation", json!({"operation": bare})));
    assert!(succeeded(&result), "{result}");
    assert_eq!(result["appliedRef"]["apiVersion"], "ops.vworkspace.io/v1alpha1");
    assert!(applied(&agent.directory(), "Operation", "backup").is_some());

    let delete = || Job::intent("delete-application-instance", json!({"name": "wiki", "namespace": "shop"}));
    assert!(succeeded(&done(&testbed, delete())));
    eventually("the application to be gone", || {
        applied(&agent.directory(), "ApplicationInstance", "wiki").is_none().then_some(())
    });
    assert!(applied(&agent.directory(), "Operation", "backup").is_some());
    assert_sound(&testbed);
}

/// P1.6.3: an intent applies what its name says and nothing else.
#[test]
fn an_intent_on_something_else_is_refused() {
    let testbed = Testbed::start();
    let agent = start(&testbed);
    let map = config_map("shop", "a", "1");
    for (intent, members) in [
        ("ensure-application-instance", json!({"applicationInstance": map.clone()})),
        ("request-operation", json!({"operation": map})),
        ("request-operation", json!({"operation": application_instance("shop", "wiki")})),
    ] {
        assert_failed(&done(&testbed, Job::intent(intent, members)), "InvalidManifest");
    }
    for (intent, members) in [
        ("ensure-application-instance", json!(null)),
        ("request-operation", json!({"applicationInstance": application_instance("shop", "wiki")})),
        ("delete-application-instance", json!({"name": "wiki"})),
        ("delete-application-instance", json!({"namespace": "shop", "name": ""})),
    ] {
        assert_failed(&done(&testbed, Job::intent(intent, members)), "MalformedJob");
    }
    assert_eq!(std::fs::read_dir(agent.directory()).unwrap().count(), 0);
    assert_sound(&testbed);
}

/// P1.6.4: whatever this version does not know is answered with its name.
#[test]
fn an_unknown_kind_or_intent_is_answered_by_its_name() {
    let testbed = Testbed::start();
    let _agent = connected(&testbed);
    for (job, reason, name) in [
        (Job::new("dance", json!({})), "UnknownJobKind", "dance"),
        (Job::new("Apply", config_map("shop", "a", "1")), "UnknownJobKind", "Apply"),
        (Job::new("", json!({})), "UnknownJobKind", ""),
        (Job::intent("dance", json!(null)), "UnknownIntent", "dance"),
        (Job::new("intent", json!({})), "MalformedJob", ""),
        (Job::new("apply", json!({})).with("kind", 7), "MalformedJob", ""),
        (Job::new("apply", json!({})).without("kind"), "MalformedJob", ""),
    ] {
        let result = done(&testbed, job);
        assert_failed(&result, reason);
        assert!(result["error"].as_str().unwrap().contains(name), "{result}");
    }
    // What a server writes must not fill the log or the result.
    let long = done(&testbed, Job::new(&"x".repeat(10_000), json!({})));
    assert!(long["error"].as_str().unwrap().len() < 300, "{long}");
    assert_sound(&testbed);
}

/// P1.6.4: a payload that cannot be decrypted is refused, not passed over for the one in clear beside it.
#[test]
fn an_encrypted_payload_is_refused() {
    let testbed = Testbed::start();
    let agent = start(&testbed);
    let job = Job::apply(config_map("shop", "a", "1")).with("encryptedPayload", "eyJ.e30.x");
    assert_failed(&done(&testbed, job.clone()), "BothPayloads");
    assert_failed(&done(&testbed, job.without("payload").with("id", "alone")), "MalformedEnvelope");
    assert_eq!(super::value_of(&agent, "a"), None);
    let null = Job::apply(config_map("shop", "b", "1")).with("encryptedPayload", Value::Null);
    assert!(succeeded(&done(&testbed, null)));
    assert_sound(&testbed);
}

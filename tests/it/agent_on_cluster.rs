//! The whole agent between the control plane and a real API server.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::agent::{Agent, Setup};
use crate::apiserver::{ApiServer, unique, wait_until};
use crate::testbed::job::{application_instance, config_map, operation};
use crate::testbed::{EventRecord, Testbed};

const PATIENCE: Duration = Duration::from_secs(60);

const INSTANCES: &str = "/apis/apps.vworkspace.io/v1alpha1";

/// An agent with a cluster and a namespace of its own on an API server that the tests share.
struct Scene {
    api: &'static ApiServer,
    testbed: Testbed,
    cluster: String,
    namespace: String,
    _agent: Agent,
}

impl Scene {
    fn start() -> Self {
        Self::with(|setup| setup)
    }

    fn with(change: impl FnOnce(Setup) -> Setup) -> Self {
        let api = ApiServer::shared();
        api.apply_crds();
        let (testbed, cluster) = (Testbed::start(), cluster());
        let agent = change(on(&testbed, api, &cluster)).spawn();
        Self { api, testbed, cluster, namespace: namespace(), _agent: agent }
    }

    /// Has an ApplicationInstance applied and waits until it is there.
    fn instance(&self) -> (String, String) {
        let id = self.testbed.apply(&self.cluster, application_instance(&self.namespace, "wiki"));
        let path = instance_path(&self.namespace, "wiki");
        wait_until("the object", || self.api.request(Method::GET, &path, None).0 == 200);
        (id, path)
    }

    /// Has the agent tell of changes of the object from now on: what its first list finds is no news.
    fn follow(&self, path: &str) {
        for number in 0.. {
            let reason = format!("Try{number}");
            say(self.api, path, 1, &[condition("Reconciling", "True", &reason)]);
            let is_told = |record: &EventRecord| record.event["conditions"][0]["reason"] == reason.as_str();
            let told = self
                .testbed
                .try_wait_for(Duration::from_secs(5), |state| state.events.iter().any(is_told).then_some(()));
            if told.is_some() {
                return;
            }
        }
    }
}

fn on(testbed: &Testbed, api: &ApiServer, cluster: &str) -> Setup {
    Setup::of_cluster(testbed, cluster)
        .flag("--kubeconfig", api.kubeconfig())
        .flag("--allow-kind", "/ConfigMap")
        .flag("--wait", "1")
}

fn cluster() -> String {
    format!("cluster-{}", unique())
}

fn namespace() -> String {
    format!("shop-{}", unique())
}

fn instance_path(namespace: &str, name: &str) -> String {
    format!("{INSTANCES}/namespaces/{namespace}/applicationinstances/{name}")
}

fn condition(kind: &str, status: &str, reason: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": "as it is", "lastTransitionTime": "2026-01-31T12:00:00Z"})
}

/// Says what a controller would say of an object.
fn say(api: &ApiServer, path: &str, generation: i64, conditions: &[Value]) {
    api.set_status(path, &json!({"observedGeneration": generation, "conditions": conditions}));
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_job_succeeds_when_its_object_is_ready_and_each_transition_is_an_event() {
    let scene @ Scene { api, testbed, cluster, namespace, .. } = &Scene::start();
    let (id, path) = scene.instance();
    let object = api.get(&path);
    assert_eq!(object["metadata"]["labels"]["app.vworkspace.io/cluster-id"], cluster.as_str());
    assert_eq!(api.get(&format!("/api/v1/namespaces/{namespace}"))["metadata"]["labels"]["managed-by"], "vworkspace");

    // Waiting for this one does not hold up the next.
    let next = testbed.apply(cluster, config_map(namespace, "settings", "a"));
    assert_eq!(testbed.result_of(&next, PATIENCE)["outcome"], "succeeded");
    assert!(testbed.result(&id).is_none(), "nobody said that it is ready");

    scene.follow(&path);
    say(api, &path, 1, &[condition("Ready", "False", "Installing")]);
    testbed.event("the first transition", PATIENCE, |event| {
        event["kind"] == "ConditionTransition" && event["conditions"][0]["reason"] == "Installing"
    });
    say(api, &path, 1, &[condition("Ready", "True", "Installed")]);
    let result = testbed.result_of(&id, PATIENCE);
    assert_eq!(result["outcome"], "succeeded");
    assert_eq!(result["appliedRef"]["uid"], object["metadata"]["uid"]);
    assert_eq!(result["appliedRef"]["namespace"], namespace.as_str());
    let event = testbed.event("the second transition", PATIENCE, |event| {
        event["kind"] == "ConditionTransition" && event["conditions"][0]["reason"] == "Installed"
    });
    let key = event["eventKey"].as_str().unwrap();
    let uid = object["metadata"]["uid"].as_str().unwrap();
    let shape =
        format!("condition/apps.vworkspace.io/v1alpha1/ApplicationInstance/{namespace}/wiki/{uid}/Ready/True@1#");
    assert!(key.starts_with(&shape), "{key}");
    assert!(testbed.statuses(&id).iter().any(|status| status["conditions"][0]["reason"] == "Installing"));
    assert_eq!(testbed.violations(), Vec::<String>::new());
}

/// A vanilla node has no operator: nobody ever says anything of what was applied, and after a minute that is the answer.
#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn where_nobody_reports_a_job_succeeds_after_a_minute_and_says_so() {
    let scene @ Scene { testbed, .. } = &Scene::start();
    let begin = std::time::Instant::now();
    let (id, _) = scene.instance();
    assert_eq!(testbed.result_of(&id, 3 * PATIENCE)["outcome"], "succeeded");
    assert!(begin.elapsed() >= pullet::limits::READY_SILENCE, "that was too soon to know");
    let statuses = testbed.statuses(&id);
    let said = statuses.iter().any(|status| status["message"] == "applied; nothing reports readiness here");
    assert!(said, "{statuses:?}");
}

/// Somebody deletes the object and makes one of the same name: that is another object, and what is said of it is none of the
/// job's.
#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn an_object_that_is_deleted_and_made_anew_is_another_one_for_jobs_and_for_events() {
    let scene @ Scene { api, testbed, cluster, namespace, .. } = &Scene::start();
    let (id, path) = scene.instance();
    let first = api.get(&path);
    scene.follow(&path);
    assert_eq!(api.request(Method::DELETE, &path, None).0, 200);
    let mut second = application_instance(namespace, "wiki");
    second["metadata"]["labels"] = json!({"app.vworkspace.io/cluster-id": cluster});
    let collection = path.strip_suffix("/wiki").unwrap();
    let second = api.create(collection, &second);
    say(api, &path, 1, &[condition("Ready", "True", "Remade")]);
    let result = testbed.result_of(&id, PATIENCE);
    assert_eq!(result["outcome"], "failed", "{result}");
    assert!(result["error"].as_str().unwrap().contains("ObjectDeleted"), "{result}");
    let uids = [&first, &second].map(|object| object["metadata"]["uid"].as_str().unwrap());
    assert_ne!(uids[0], uids[1]);
    let event = testbed.event("of the second", PATIENCE, |event| event["conditions"][0]["reason"] == "Remade");
    assert_eq!(event["resourceRef"]["uid"], uids[1]);
    assert!(event["eventKey"].as_str().unwrap().contains(uids[1]), "{event}");
    // The next job is for the one that is there.
    let next = testbed.apply(cluster, application_instance(namespace, "wiki"));
    let result = testbed.result_of(&next, PATIENCE);
    assert_eq!((&result["outcome"], &result["appliedRef"]["uid"]), (&json!("succeeded"), &json!(uids[1])));
    assert_eq!(testbed.violations(), Vec::<String>::new());
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_job_that_changes_nothing_on_a_ready_object_succeeds_at_once() {
    let scene @ Scene { api, testbed, cluster, namespace, .. } = &Scene::start();
    let (first, path) = scene.instance();
    say(api, &path, 1, &[condition("Ready", "True", "Installed")]);
    testbed.result_of(&first, PATIENCE);
    let second = testbed.apply(cluster, application_instance(namespace, "wiki"));
    // Well below the minute after which silence would count as success.
    assert_eq!(testbed.result_of(&second, Duration::from_secs(30))["outcome"], "succeeded");
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_failed_operation_fails_its_job_with_the_reason() {
    let scene @ Scene { api, testbed, cluster, namespace, .. } = &Scene::start();
    let id = testbed.intent(cluster, "request-operation", json!({"operation": operation(namespace, "backup")}));
    let path = format!("/apis/ops.vworkspace.io/v1alpha1/namespaces/{namespace}/operations/backup");
    wait_until("the object", || api.request(Method::GET, &path, None).0 == 200);
    scene.follow(&path);
    say(api, &path, 1, &[condition("Running", "True", "Started")]);
    testbed.event("that it runs", PATIENCE, |event| event["kind"] == "OperationRunning");
    say(api, &path, 1, &[condition("Running", "False", "Ended"), condition("Failed", "True", "NoSpace")]);
    let result = testbed.result_of(&id, PATIENCE);
    assert_eq!(result["outcome"], "failed");
    assert!(result["error"].as_str().unwrap().contains("NoSpace"), "{result}");
    testbed.event("that it failed", PATIENCE, |event| event["kind"] == "OperationFailed");
    assert_eq!(testbed.violations(), Vec::<String>::new());
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_conflict_is_reported_with_the_field_and_its_manager_and_nothing_is_forced() {
    let Scene { api, testbed, cluster, namespace, .. } = &Scene::start();
    api.create_namespace(namespace, &json!({"managed-by": "vworkspace"}));
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/settings?fieldManager=somebody");
    let theirs = serde_json::to_vec(&config_map(namespace, "settings", "theirs")).unwrap();
    let (code, _) = api.request_as(Method::PATCH, &path, "application/apply-patch+yaml", theirs);
    assert_eq!(code, 201);
    let id = testbed.apply(cluster, config_map(namespace, "settings", "ours"));
    let result = testbed.result_of(&id, PATIENCE);
    assert_eq!(result["outcome"], "conflict");
    let error = result["error"].as_str().unwrap();
    assert!(error.contains("by somebody") && error.contains(".data."), "{error}");
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_foreign_namespace_an_unknown_kind_and_a_missing_right_fail_with_what_to_do() {
    let api = ApiServer::shared();
    let testbed = Testbed::start();
    let cluster = &cluster();
    let namespace = &namespace();
    api.create_namespace(namespace, &json!({}));
    let _agent = on(&testbed, api, cluster).flag("--allow-kind", "example.org/Thing").spawn();
    let error = |id: &str| {
        let result = testbed.result_of(id, PATIENCE);
        assert_eq!(result["outcome"], "failed");
        result["error"].as_str().unwrap().to_owned()
    };
    let id = testbed.apply(cluster, config_map(namespace, "a", "b"));
    assert!(error(&id).contains("managed-by=vworkspace"));
    let thing =
        json!({"apiVersion": "example.org/v1", "kind": "Thing", "metadata": {"name": "a", "namespace": "elsewhere"}});
    let id = testbed.apply(cluster, thing);
    assert!(error(&id).contains("CustomResourceDefinition"));

    let other = Testbed::start();
    let user = format!("nobody-{}", unique());
    let _agent = Setup::of_cluster(&other, cluster)
        .flag("--kubeconfig", api.kubeconfig_for(&user, "none"))
        .flag("--allow-kind", "/ConfigMap")
        .flag("--wait", "1")
        .spawn();
    let id = other.apply(cluster, config_map("elsewhere", "a", "b"));
    let result = other.result_of(&id, PATIENCE);
    assert!(result["error"].as_str().unwrap().starts_with("Forbidden"), "{result}");
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_job_waits_while_the_api_server_is_away_and_is_done_when_it_is_back() {
    let api = ApiServer::start();
    let testbed = Testbed::start();
    let cluster = &cluster();
    let _agent = on(&testbed, &api, cluster).spawn();
    let namespace = &namespace();
    let before = testbed.apply(cluster, config_map(namespace, "before", "a"));
    testbed.result_of(&before, PATIENCE);
    api.stop();
    let during = testbed.apply(cluster, config_map(namespace, "during", "a"));
    let behind = testbed.apply(cluster, config_map(namespace, "behind", "a"));
    testbed.ack_of(&during, PATIENCE);
    let long = std::env::var_os("PULLET_LONG").is_some();
    std::thread::sleep(Duration::from_secs(if long { 5 * 60 } else { 2 }));
    assert!(testbed.result(&during).is_none());
    assert_eq!(testbed.acks(&behind), 0, "nothing behind it is taken before");
    api.resume();
    assert_eq!(testbed.result_of(&during, PATIENCE)["outcome"], "succeeded");
    assert_eq!(testbed.result_of(&behind, PATIENCE)["outcome"], "succeeded");
    assert_eq!(testbed.acks(&during), 1);
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_kind_that_is_installed_while_the_agent_runs_is_applied_and_observed() {
    let api = ApiServer::shared();
    let testbed = Testbed::start();
    let cluster = &cluster();
    let group = format!("g{}.example.org", unique());
    let _agent = on(&testbed, api, cluster).flag("--allow-kind", format!("{group}/Thing")).spawn();
    let namespace = &namespace();
    let manifest = json!({"apiVersion": format!("{group}/v1"), "kind": "Thing", "metadata": {"name": "a", "namespace": namespace}, "spec": {}});
    let early = testbed.apply(cluster, manifest.clone());
    assert_eq!(testbed.result_of(&early, PATIENCE)["outcome"], "failed");
    api.define(&group, "v1", "Thing", "Namespaced");
    let late = testbed.apply(cluster, manifest);
    let path = format!("/apis/{group}/v1/namespaces/{namespace}/things/a");
    wait_until("the object", || api.request(Method::GET, &path, None).0 == 200);
    say(api, &path, 1, &[condition("Ready", "True", "Late")]);
    assert_eq!(testbed.result_of(&late, PATIENCE)["outcome"], "succeeded");
    testbed.event("its transition", PATIENCE, |event| event["conditions"][0]["reason"] == "Late");
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_delete_is_done_and_one_of_what_is_not_there_is_done_as_well() {
    let Scene { api, testbed, cluster, namespace, .. } = &Scene::start();
    let id = testbed.apply(cluster, config_map(namespace, "settings", "a"));
    testbed.result_of(&id, PATIENCE);
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/settings");
    assert_eq!(api.request(Method::GET, &path, None).0, 200);
    for _ in 0..2 {
        let id = testbed.delete(cluster, "v1", "ConfigMap", namespace, "settings");
        assert_eq!(testbed.result_of(&id, PATIENCE)["outcome"], "succeeded");
        assert_eq!(api.request(Method::GET, &path, None).0, 404);
    }
}

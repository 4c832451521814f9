//! The Kubernetes target: what it reports on owned objects, against a real API server.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use pullet::limits;
use pullet::target::kubernetes::Kubernetes;
use pullet::target::{NamespaceRule, Observation, Readiness, Target, TargetError};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::apiserver::{ApiServer, unique, wait_until};
use crate::fake_api::Proxy;
use crate::kubernetes::{apply, namespace, reference, watching};
use crate::scene::LATER;

const INSTANCE: &str = "apps.vworkspace.io/ApplicationInstance";
const OPERATION: &str = "ops.vworkspace.io/Operation";

/// Who listens to a target.
pub(crate) struct Listener {
    /// What it observes.
    pub(crate) target: Arc<Kubernetes>,
    inbox: mpsc::Receiver<Observation>,
    task: JoinHandle<()>,
}

impl Listener {
    /// Starts to observe.
    pub(crate) fn start(kubeconfig: PathBuf, cluster_id: &str, kinds: &[&str]) -> Self {
        let target = Arc::new(watching(kubeconfig, cluster_id, kinds));
        let (sink, inbox) = mpsc::channel(8);
        let observed = Arc::clone(&target);
        Self { target, inbox, task: tokio::spawn(async move { observed.observe(sink).await }) }
    }

    /// The next observation that is as expected.
    pub(crate) async fn until(&mut self, what: &str, is_so: impl Fn(&Observation) -> bool) -> Observation {
        let search = async {
            loop {
                let observation = self.inbox.recv().await.expect("somebody observes");
                if is_so(&observation) {
                    return observation;
                }
            }
        };
        tokio::time::timeout(LATER, search).await.unwrap_or_else(|_| panic!("never observed: {what}"))
    }

    /// Sees to it that changes of an object are news from now on; at last it is not ready. What the first list finds
    /// is no news, and so the status changes until a change is.
    async fn follow(&mut self, server: &ApiServer, space: &str, name: &str) {
        for status in ["Unknown", "False"].into_iter().cycle() {
            server.set_status(&path(space, name), &ready(status));
            let is_it = |one: &Observation| one.changed.iter().any(|condition| condition.status == status);
            let followed = self.until("the object", |one| one.reference.name == name && is_it(one));
            if tokio::time::timeout(Duration::from_secs(3), followed).await.is_ok() && status == "False" {
                return;
            }
        }
    }

    /// Stops listening, and waits until the observer has noticed.
    pub(crate) async fn stop(self) {
        drop(self.inbox);
        tokio::time::timeout(Duration::from_secs(2), self.task).await.expect("the observer ends").unwrap();
    }
}

fn cluster() -> String {
    format!("cluster-{}", unique())
}

fn instance(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "apps.vworkspace.io/v1alpha1", "kind": "ApplicationInstance",
        "metadata": {"name": name, "namespace": namespace}, "spec": {"mode": "managed"},
    })
}

fn path(namespace: &str, name: &str) -> String {
    format!("/apis/apps.vworkspace.io/v1alpha1/namespaces/{namespace}/applicationinstances/{name}")
}

fn ready(status: &str) -> Value {
    json!({
        "observedGeneration": 1,
        "conditions": [{
            "type": "Ready", "status": status, "reason": "Because", "message": "so",
            "lastTransitionTime": "2026-01-31T12:00:00Z",
        }],
        "endpoints": [{"name": "web", "url": "https://a.example", "type": "http"}],
    })
}

fn kinds(conditions: &[pullet::protocol::Condition]) -> Vec<(&str, &str)> {
    conditions.iter().map(|condition| (condition.kind.as_str(), condition.status.as_str())).collect()
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn what_was_there_is_no_news_and_what_changes_is() {
    let server = ApiServer::shared();
    server.apply_crds();
    let (id, space) = (cluster(), namespace("observe"));
    let before = watching(server.kubeconfig(), &id, &[]);
    apply(&before, &instance(&space, "a"), NamespaceRule::Managed).await.unwrap();
    server.set_status(&path(&space, "a"), &ready("False"));
    // Another cluster's object is none of ours.
    let other = watching(server.kubeconfig(), &cluster(), &[]);
    apply(&other, &instance(&space, "other"), NamespaceRule::Managed).await.unwrap();

    let mut listener = Listener::start(server.kubeconfig(), &id, &[INSTANCE, OPERATION]);
    let found = listener.until("what was there", |_| true).await;
    assert_eq!((found.reference.name.as_str(), found.reference.kind.as_str()), ("a", "ApplicationInstance"));
    assert_eq!(found.reference.api_version, "apps.vworkspace.io/v1alpha1");
    assert_eq!(found.reference.uid, server.get(&path(&space, "a"))["metadata"]["uid"]);
    assert_eq!((found.reference.generation, found.observed_generation), (Some(1), Some(1)));
    assert_eq!((kinds(&found.conditions), found.changed.len()), (vec![("Ready", "False")], 0));
    assert_eq!(found.endpoints[0].url, "https://a.example");

    server.set_status(&path(&space, "a"), &ready("True"));
    let changed = listener.until("the change", |_| true).await;
    assert_eq!(kinds(&changed.changed), [("Ready", "True")]);
    assert_eq!(changed.changed[0].last_transition_time.unwrap().to_string(), "2026-01-31T12:00:00Z");

    let applied = apply(&listener.target, &instance(&space, "b"), NamespaceRule::Managed).await.unwrap();
    assert_eq!(applied.readiness, Readiness::Watched);
    server.set_status(&path(&space, "b"), &ready("True"));
    let new = listener.until("news of a new object", |one| one.reference.name == "b" && !one.changed.is_empty()).await;
    assert_eq!(kinds(&new.changed), [("Ready", "True")]);

    let named = reference("apps.vworkspace.io/v1alpha1", "ApplicationInstance", &space, "a");
    listener.target.delete(&named, NamespaceRule::Managed).await.unwrap();
    let gone = listener.until("the end of a", |one| one.reference.name != "b").await;
    assert!(gone.deleted && gone.conditions.is_empty() && gone.changed.is_empty());
    assert_eq!(gone.reference.uid, found.reference.uid);
    listener.stop().await;
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn an_apply_that_changes_nothing_is_observed_all_the_same() {
    let server = ApiServer::shared();
    server.apply_crds();
    let (id, space) = (cluster(), namespace("again"));
    let mut listener = Listener::start(server.kubeconfig(), &id, &[INSTANCE]);
    apply(&listener.target, &instance(&space, "a"), NamespaceRule::Managed).await.unwrap();
    listener.follow(server, &space, "a").await;
    server.set_status(&path(&space, "a"), &ready("True"));
    listener.until("it is ready", |one| !one.changed.is_empty()).await;
    let version = server.get(&path(&space, "a"))["metadata"]["resourceVersion"].clone();
    apply(&listener.target, &instance(&space, "a"), NamespaceRule::Managed).await.unwrap();
    assert_eq!(server.get(&path(&space, "a"))["metadata"]["resourceVersion"], version);
    let again = listener.until("it is still ready", |one| !one.conditions.is_empty()).await;
    assert_eq!((kinds(&again.conditions), again.changed.len()), (vec![("Ready", "True")], 0));
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn a_list_of_several_pages_is_read_whole() {
    let server = ApiServer::shared();
    let (id, space) = (cluster(), namespace("pages"));
    server.create_namespace(&space, &json!({}));
    for number in 0..120 {
        let object = json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{
            "name": format!("n-{number}"), "labels": {"app.vworkspace.io/cluster-id": id}}});
        server.create(&format!("/api/v1/namespaces/{space}/configmaps"), &object);
    }
    let mut listener = Listener::start(server.kubeconfig(), &id, &["/ConfigMap"]);
    let mut names = std::collections::BTreeSet::new();
    while names.len() < 120 {
        names.insert(listener.until("all of them", |_| true).await.reference.name);
    }
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn a_kind_that_is_defined_late_is_applied_and_observed_without_a_restart() {
    let server = ApiServer::shared();
    let (id, space, group) = (cluster(), namespace("late"), format!("late-{}.example", unique()));
    let mut listener = Listener::start(server.kubeconfig(), &id, &[&format!("{group}/Widget")]);
    let widget = json!({
        "apiVersion": format!("{group}/v1"), "kind": "Widget", "metadata": {"name": "a", "namespace": space},
    });
    let error = apply(&listener.target, &widget, NamespaceRule::Managed).await.unwrap_err();
    assert!(matches!(error, TargetError::UnknownKind { .. }), "{error:?}");
    server.define(&group, "v1", "Widget", "Namespaced");
    assert_eq!(apply(&listener.target, &widget, NamespaceRule::Managed).await.unwrap().readiness, Readiness::Watched);
    listener.until("the widget", |one| one.reference.kind == "Widget").await;
    server.set_status(&format!("/apis/{group}/v1/namespaces/{space}/widgets/a"), &ready("True"));
    let news = listener.until("news of the widget", |one| !one.changed.is_empty()).await;
    assert_eq!(kinds(&news.changed), [("Ready", "True")]);
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn a_kind_that_becomes_allowed_is_observed_without_a_restart() {
    let server = ApiServer::shared();
    server.apply_crds();
    let (id, space, user) = (cluster(), namespace("allowed"), namespace("watcher"));
    apply(&watching(server.kubeconfig(), &id, &[]), &instance(&space, "a"), NamespaceRule::Managed).await.unwrap();
    let mut listener = Listener::start(server.kubeconfig_for(&user, "nobody"), &id, &[INSTANCE]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(listener.inbox.try_recv().is_err());
    server.allow(&user, &json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]}]));
    listener.until("the object", |one| one.reference.name == "a").await;
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn a_watch_that_is_cut_goes_on() {
    let server = ApiServer::shared();
    server.apply_crds();
    let (id, space) = (cluster(), namespace("cut"));
    let proxy = Proxy::start(server.port());
    let kubeconfig = server.kubeconfig_at(proxy.port(), "admin", "system:masters");
    let mut listener = Listener::start(kubeconfig, &id, &[INSTANCE]);
    apply(&listener.target, &instance(&space, "a"), NamespaceRule::Managed).await.unwrap();
    listener.follow(server, &space, "a").await;
    for status in ["True", "False"] {
        proxy.cut();
        server.set_status(&path(&space, "a"), &ready(status));
        let news = listener.until("what changed in between", |one| !one.changed.is_empty()).await;
        assert_eq!(kinds(&news.changed), [("Ready", status)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn an_api_server_that_stops_and_starts_again_is_found_again() {
    let server = ApiServer::start();
    server.apply_crds();
    let (id, space) = (cluster(), namespace("restart"));
    let mut listener = Listener::start(server.kubeconfig(), &id, &[INSTANCE]);
    apply(&listener.target, &instance(&space, "a"), NamespaceRule::Managed).await.unwrap();
    listener.follow(&server, &space, "a").await;
    server.stop();
    let error = apply(&listener.target, &instance(&space, "b"), NamespaceRule::Managed).await.unwrap_err();
    assert!(matches!(error, TargetError::Unavailable(_)), "{error:?}");
    server.resume();
    apply(&listener.target, &instance(&space, "b"), NamespaceRule::Managed).await.unwrap();
    server.set_status(&path(&space, "a"), &ready("True"));
    let news = listener.until("news after the restart", |one| !one.changed.is_empty()).await;
    assert_eq!((news.reference.name.as_str(), kinds(&news.changed)), ("a", vec![("Ready", "True")]));
    listener.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn what_happened_while_the_version_became_too_old_is_found_by_a_list() {
    let server = ApiServer::start();
    server.apply_crds();
    let (id, space) = (cluster(), namespace("gone"));
    let proxy = Proxy::start(server.port());
    let kubeconfig = server.kubeconfig_at(proxy.port(), "admin", "system:masters");
    let mut listener = Listener::start(kubeconfig, &id, &[INSTANCE]);
    for name in ["changes", "goes", "stays"] {
        apply(&listener.target, &instance(&space, name), NamespaceRule::Managed).await.unwrap();
        listener.follow(&server, &space, name).await;
    }
    proxy.set_up(false);
    proxy.cut();
    server.set_status(&path(&space, "changes"), &ready("True"));
    assert_eq!(server.request(Method::DELETE, &path(&space, "goes"), None).0, 200);
    // Neither etcd nor a fresh watch cache can go back to the version we saw.
    server.compact();
    server.stop();
    server.resume();
    proxy.set_up(true);
    let (mut news, mut is_gone, mut stays) = (Vec::new(), false, None);
    while news.is_empty() || !is_gone || stays.is_none() {
        let seen = listener.until("what happened", |_| true).await;
        match seen.reference.name.as_str() {
            "changes" => news.extend(seen.changed),
            "goes" => is_gone |= seen.deleted,
            _ => stays = Some(seen.changed),
        }
    }
    assert_eq!(kinds(&news), [("Ready", "True")]);
    assert_eq!(stays, Some(Vec::new()), "what did not change is no news");
}

/// A runtime whose threads can be told from those of other tests.
pub(crate) fn runtime(name: &str) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name(name)
        .thread_keep_alive(Duration::from_millis(50))
        .build()
        .unwrap()
}

/// Threads of this process with that name.
pub(crate) fn threads(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks.filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)).count()
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn three_watches_hold_three_threads_and_all_end_with_the_observer() {
    let server = ApiServer::shared();
    server.apply_crds();
    let (id, space) = (cluster(), namespace("threads"));
    runtime("it-threads").block_on(async {
        let mut listener = Listener::start(server.kubeconfig(), &id, &[INSTANCE, OPERATION, "/ConfigMap"]);
        apply(&listener.target, &instance(&space, "a"), NamespaceRule::Managed).await.unwrap();
        listener.until("the object", |_| true).await;
        let mut most = 0;
        for round in 0..10 {
            let mut object = instance(&space, "a");
            object["spec"]["round"] = json!(round);
            let applies = (0..12).map(|_| {
                let (target, object) = (Arc::clone(&listener.target), object.clone());
                tokio::spawn(async move { apply(&target, &object, NamespaceRule::Managed).await.map(|_| ()) })
            });
            for apply in applies.collect::<Vec<_>>() {
                apply.await.unwrap().unwrap();
            }
            most = most.max(threads("it-threads"));
            while listener.inbox.try_recv().is_ok() {}
        }
        // A thread that is done with its call may not be idle yet when the next call asks for one.
        let bound = 3 + 2 * limits::API_CALLS;
        assert!(most <= bound, "3 watches and 2 calls at a time, and not {most} threads");
        for _ in 0..600 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if threads("it-threads") <= 3 {
                break;
            }
        }
        assert_eq!(threads("it-threads"), 3, "what is idle is gone, the watches stay");
        listener.stop().await;
        tokio::task::spawn_blocking(|| wait_until("the threads are gone", || threads("it-threads") <= 1))
            .await
            .unwrap();
    });
}

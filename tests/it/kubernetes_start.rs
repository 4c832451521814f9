//! The Kubernetes target: an API server that starts. Its port is open before it knows its kinds and its rights, and then it
//! answers as if there were none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pullet::target::{NamespaceRule, Target, TargetError};
use serde_json::json;

use crate::fake_api::{Asked, FakeApi, answer, chunk, chunked};
use crate::kubernetes::{apply, config_map, reference, target};
use crate::kubernetes_observe::Listener;
use crate::scene::LATER;

const KINDS: &str = r#"{"resources":[{"name":"configmaps","kind":"ConfigMap","namespaced":true}]}"#;

const NONE: &str = r#"{"resources":[]}"#;

const NAMESPACE: &str = r#"{"metadata":{"labels":{"managed-by":"vworkspace"}}}"#;

/// How often the object was written, or was to be.
fn tries(asked: &[Asked]) -> usize {
    asked.iter().filter(|asked| ["PATCH", "DELETE"].contains(&asked.method.as_str())).count()
}

/// A server that refuses so often what a job asks, by `code`, and says in between whether it is ready.
fn refusing(code: usize, times: usize, readiness: &'static str) -> FakeApi {
    let left = AtomicUsize::new(times);
    let refuses = move || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
    FakeApi::start(move |asked, out| match (asked.method.as_str(), asked.path.as_str()) {
        (_, "/readyz") => answer(out, readiness, "ok"),
        (_, "/api/v1") => answer(out, "200 OK", if code == 404 && refuses() { NONE } else { KINDS }),
        (_, "/api/v1/namespaces/n") => answer(out, "200 OK", NAMESPACE),
        _ if code == 403 && refuses() => answer(out, "403 Forbidden", r#"{"kind":"Status","code":403,"message":"no"}"#),
        _ => answer(out, "200 OK", r#"{"metadata":{"namespace":"n","name":"a","uid":"a","generation":1}}"#),
    })
}

#[tokio::test]
async fn what_it_does_not_know_yet_fails_no_job() {
    const READY: &str = "200 OK";
    for (code, times, readiness, expected, written) in [
        // It starts; or somebody took the right away to ask.
        (403, usize::MAX, "500 Internal Server Error", Some("TargetUnavailable"), 1),
        (404, usize::MAX, "500 Internal Server Error", Some("TargetUnavailable"), 0),
        (403, usize::MAX, "403 Forbidden", Some("TargetUnavailable"), 1),
        // It was ready by the time when it was asked for that.
        (403, 1, READY, None, 2),
        (404, 1, READY, None, 1),
        // It is so.
        (403, usize::MAX, READY, Some("Forbidden"), 2),
        (404, usize::MAX, READY, Some("UnknownKind"), 0),
    ] {
        let told = |done: Result<(), TargetError>| done.err().map(|error| error.reason());
        let server = refusing(code, times, readiness);
        let own = target(server.kubeconfig("{token: x}"));
        let applied = apply(&own, &config_map("n", "a", &json!({})), NamespaceRule::Managed).await;
        if let Err(TargetError::Unavailable(source)) = &applied {
            assert!(source.to_string().starts_with("the API server is not ready, and says: "), "{source}");
        }
        assert_eq!(told(applied.map(drop)), expected, "{code} {times} {readiness}");
        assert_eq!(tries(&server.asked()), written, "{code} {times} {readiness}");

        let server = refusing(code, times, readiness);
        let own = target(server.kubeconfig("{token: x}"));
        let deleted = own.delete(&reference("v1", "ConfigMap", "n", "a"), NamespaceRule::Managed).await;
        assert_eq!(told(deleted.map(drop)), expected, "{code} {times} {readiness}");
    }
}

/// The one object, with its only condition.
fn list(status: &str) -> String {
    let object = json!({
        "metadata": {"name": "a", "namespace": "n", "uid": "u"},
        "status": {"conditions": [{"type": "Ready", "status": status}]},
    });
    json!({"metadata": {"resourceVersion": "5"}, "items": [object]}).to_string()
}

/// What a server is at.
const WELL: usize = 0;
const STARTS: usize = 1;
const WITHOUT_THE_KIND: usize = 2;

#[tokio::test]
async fn what_it_does_not_know_yet_is_not_gone() {
    for refusal in ["403 Forbidden", "404 Not Found"] {
        let stage = Arc::new(AtomicUsize::new(WELL));
        let is_back = Arc::new(AtomicBool::new(false));
        let (at, was_away) = (Arc::clone(&stage), Arc::clone(&is_back));
        let server = FakeApi::start(move |asked, out| {
            let is = |what: usize| at.load(Ordering::Relaxed) == what;
            match asked.path.as_str() {
                "/readyz" if is(STARTS) => answer(out, "500 Internal Server Error", "starting"),
                "/readyz" => answer(out, "200 OK", "ok"),
                "/api/v1" => answer(out, "200 OK", if is(WITHOUT_THE_KIND) { NONE } else { KINDS }),
                _ if is(STARTS) => answer(out, refusal, "{}"),
                _ if is(WITHOUT_THE_KIND) => answer(out, "404 Not Found", "{}"),
                path if path.contains("watch=true") => {
                    chunked(out)?;
                    while is(WELL) {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    chunk(out, b"")
                }
                _ => answer(out, "200 OK", &list(if was_away.load(Ordering::Relaxed) { "False" } else { "True" })),
            }
        });
        let mut listener = Listener::start(server.kubeconfig("{token: x}"), "c", &["/ConfigMap"]);
        let asked = |what: &str| server.asked().iter().filter(|asked| asked.path.contains(what)).count();
        let until = async |what: &str, count: usize| {
            let begin = Instant::now();
            while asked(what) < count {
                assert!(begin.elapsed() < LATER, "{what} was not asked for {count} times");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        until("watch=true", 1).await;
        stage.store(STARTS, Ordering::Relaxed);
        until("/readyz", 2).await;
        is_back.store(true, Ordering::Relaxed);
        stage.store(WELL, Ordering::Relaxed);
        // It is followed as before, and what changed meanwhile is news of the object that was there.
        let first = listener.until("news of a", |one| one.deleted || !one.changed.is_empty()).await;
        assert!(!first.deleted && first.changed[0].status == "False", "{first:?}");
        until("watch=true", 2).await;
        // Of what is missing where the server is ready the objects are gone.
        stage.store(WITHOUT_THE_KIND, Ordering::Relaxed);
        let last = listener.until("the end of a", |one| one.deleted).await;
        assert_eq!(last.reference.uid, "u");
        assert!(asked("/readyz") >= 3, "{refusal}");
        listener.stop().await;
    }
}

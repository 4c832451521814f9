//! The Kubernetes target: an API server that misbehaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pullet::limits;
use pullet::target::{NamespaceRule, Target, TargetError};
use serde_json::json;

use crate::apiserver::wait_until;
use crate::fake_api::{Asked, FakeApi, Out, answer, chunk, chunked};
use crate::kubernetes::{apply, config_map, reference, target};
use crate::kubernetes_observe::{Listener, runtime, threads};

/// Answers what every test here needs: the kind, and a namespace that is ours.
fn ground(asked: &Asked, out: Out<'_>) -> Option<std::io::Result<()>> {
    let body = match asked.path.as_str() {
        "/api/v1" => json!({"resources": [{"name": "configmaps", "kind": "ConfigMap", "namespaced": true}]}),
        "/api/v1/namespaces/n" => json!({"metadata": {"labels": {"managed-by": "vworkspace"}}}),
        _ => return None,
    };
    Some(answer(out, "200 OK", &body.to_string()))
}

const EMPTY: &str = r#"{"metadata":{"resourceVersion":"5"},"items":[]}"#;

fn is_watch(asked: &Asked) -> bool {
    asked.path.contains("watch=true")
}

fn watches(server: &FakeApi) -> Vec<Asked> {
    server.asked().into_iter().filter(is_watch).collect()
}

fn lists(server: &FakeApi) -> Vec<Asked> {
    server.asked().into_iter().filter(|asked| asked.path.contains("limit=")).collect()
}

#[tokio::test]
async fn an_object_of_3_mb_is_given_up_at_the_bound() {
    for announced in [true, false] {
        let server = FakeApi::start(move |asked, out| {
            if let Some(done) = ground(asked, out) {
                return done;
            }
            let big = vec![b' '; 64 * 1024];
            if announced {
                write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 48 * big.len())?;
            } else {
                chunked(out)?;
            }
            for _ in 0..48 {
                if announced {
                    out.write_all(&big)?;
                } else {
                    chunk(out, &big)?;
                }
            }
            if announced { Ok(()) } else { chunk(out, b"") }
        });
        let target = target(server.kubeconfig("{token: x}"));
        let error = apply(&target, &config_map("n", "a", &json!({})), NamespaceRule::Managed).await.unwrap_err();
        let bound = limits::METADATA_BODY_BYTES.to_string();
        assert!(matches!(&error, TargetError::Unusable(text) if text.contains(&bound)), "{error:?}");
    }
}

#[tokio::test]
async fn a_page_over_its_bound_is_asked_for_in_smaller_ones() {
    let server = FakeApi::start(|asked, out| {
        if let Some(done) = ground(asked, out) {
            return done;
        }
        if is_watch(asked) {
            chunked(out)?;
            std::thread::sleep(Duration::from_mins(1));
            return Ok(());
        }
        if asked.path.contains("limit=50&") {
            return answer(out, "200 OK", &" ".repeat(usize::try_from(limits::LIST_BODY_BYTES).unwrap() + 1));
        }
        let page = json!({"metadata": {"resourceVersion": "5"}, "items": [{"metadata": {"name": "a", "uid": "u"}}]});
        answer(out, "200 OK", &page.to_string())
    });
    let mut listener = Listener::start(server.kubeconfig("{token: x}"), "c", &["/ConfigMap"]);
    listener.until("the object", |one| one.reference.name == "a").await;
    assert!(lists(&server)[1].path.contains("limit=12&"));
}

#[tokio::test]
async fn a_list_begins_with_a_full_page_however_small_the_last_one_had_to_be() {
    let lists_so_far = Arc::new(AtomicUsize::new(0));
    let server = FakeApi::start(move |asked, out| {
        if let Some(done) = ground(asked, out) {
            return done;
        }
        if is_watch(asked) {
            return answer(out, "410 Gone", r#"{"kind":"Status","code":410,"message":"too old"}"#);
        }
        if asked.path.contains("limit=50&") && lists_so_far.fetch_add(1, Ordering::Relaxed) == 0 {
            return answer(out, "200 OK", &" ".repeat(usize::try_from(limits::LIST_BODY_BYTES).unwrap() + 1));
        }
        if asked.path.ends_with("continue=") && asked.path.contains("limit=12&") {
            return answer(out, "200 OK", r#"{"metadata":{"resourceVersion":"5","continue":"t"},"items":[]}"#);
        }
        answer(out, "200 OK", EMPTY)
    });
    let listener = Listener::start(server.kubeconfig("{token: x}"), "c", &["/ConfigMap"]);
    wait(|| lists(&server).len() >= 4).await;
    let sizes: Vec<String> = lists(&server)
        .iter()
        .map(|asked| asked.path.split("limit=").nth(1).unwrap().split('&').next().unwrap().to_owned())
        .collect();
    assert_eq!(sizes[..4], ["50", "12", "12", "50"]);
    listener.stop().await;
}

/// The changes of the last one are not told; how it is, is.
#[tokio::test]
async fn one_object_over_those_that_are_compared_is_reported_on_and_counted() {
    let count = limits::OBSERVED_OBJECTS + 1;
    let server = FakeApi::start(move |asked, out| {
        if let Some(done) = ground(asked, out) {
            return done;
        }
        if is_watch(asked) {
            chunked(out)?;
            std::thread::sleep(Duration::from_mins(1));
            return Ok(());
        }
        let from: usize = asked.path.rsplit('=').next().unwrap_or_default().parse().unwrap_or(0);
        let to = (from + 50).min(count);
        let item = |number: usize| json!({"metadata": {"name": format!("n{number}"), "uid": format!("u{number}")}});
        let next = if to < count { to.to_string() } else { String::new() };
        let page = json!({"metadata": {"resourceVersion": "5", "continue": next}, "items": (from..to).map(item).collect::<Vec<_>>()});
        answer(out, "200 OK", &page.to_string())
    });
    let mut listener = Listener::start(server.kubeconfig("{token: x}"), "c", &["/ConfigMap"]);
    let last = format!("n{}", count - 1);
    listener.until("the last one", |one| one.reference.name == last).await;
    assert_eq!(listener.target.unreported(), 1);
    listener.stop().await;
}

#[tokio::test]
async fn a_watch_line_without_an_end_is_given_up_and_not_hammered() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let server = FakeApi::start(move |asked, out| {
        if let Some(done) = ground(asked, out) {
            return done;
        }
        if !is_watch(asked) {
            return answer(out, "200 OK", EMPTY);
        }
        chunked(out)?;
        loop {
            chunk(out, &[b'x'; 16 * 1024])?;
            count.fetch_add(16 * 1024, Ordering::Relaxed);
        }
    });
    let listener = Listener::start(server.kubeconfig("{token: x}"), "c", &["/ConfigMap"]);
    wait(|| !watches(&server).is_empty()).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let tries = watches(&server).len();
    assert!((1..=4).contains(&tries), "{tries} tries in 4 s");
    // Beyond the bound there is what the sockets' buffers swallow.
    let each = sent.load(Ordering::Relaxed) / tries;
    assert!(each < limits::WATCH_LINE_BYTES + 8 * 1024 * 1024, "{each} bytes were sent for one watch");
    assert!(server.asked().iter().all(|asked| asked.method == "GET"), "nothing is written while observing");
    listener.stop().await;
}

#[tokio::test]
async fn a_watch_is_resumed_from_its_last_bookmark() {
    let server = FakeApi::start(|asked, out| {
        if let Some(done) = ground(asked, out) {
            return done;
        }
        if !is_watch(asked) {
            return answer(out, "200 OK", EMPTY);
        }
        chunked(out)?;
        chunk(out, b"{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{\"resourceVersion\":\"77\"}}}\n")?;
        Err(std::io::ErrorKind::Other.into())
    });
    let listener = Listener::start(server.kubeconfig("{token: x}"), "c", &["/ConfigMap"]);
    wait(|| watches(&server).len() >= 2).await;
    let seen = watches(&server);
    assert!(seen[0].path.contains("resourceVersion=5") && seen[1].path.contains("resourceVersion=77"), "{seen:?}");
    assert!(seen[0].path.contains("allowWatchBookmarks=true") && seen[0].path.contains("timeoutSeconds=290"));
    assert!(seen[0].path.contains("labelSelector=app.vworkspace.io%2Fcluster-id%3Dc&"));
    assert_eq!(lists(&server).len(), 1, "a cut is no reason to list");
    listener.stop().await;
}

#[tokio::test]
async fn a_version_that_is_too_old_leads_to_a_list_however_it_is_said() {
    for as_event in [true, false] {
        let server = FakeApi::start(move |asked, out| {
            if let Some(done) = ground(asked, out) {
                return done;
            }
            if !is_watch(asked) {
                return answer(out, "200 OK", EMPTY);
            }
            let status = r#"{"kind":"Status","code":410,"reason":"Expired","message":"too old resource version"}"#;
            if !as_event {
                return answer(out, "410 Gone", status);
            }
            chunked(out)?;
            chunk(out, format!("{{\"type\":\"ERROR\",\"object\":{status}}}\n").as_bytes())?;
            chunk(out, b"")
        });
        let listener = Listener::start(server.kubeconfig("{token: x}"), "c", &["/ConfigMap"]);
        wait(|| lists(&server).len() >= 2).await;
        let asked = server.asked();
        let (second, _) = asked.iter().enumerate().filter(|(_, asked)| asked.path.contains("limit=")).nth(1).unwrap();
        assert_eq!(asked[..second].iter().filter(|asked| is_watch(asked)).count(), 1);
        listener.stop().await;
    }
}

#[tokio::test]
async fn a_refused_token_is_read_again_and_the_call_repeated_once() {
    let server = FakeApi::start(|asked, out| {
        if asked.authorization.as_deref() != Some("Bearer new") {
            return answer(out, "401 Unauthorized", r#"{"kind":"Status","code":401,"message":"geheim"}"#);
        }
        match ground(asked, out) {
            Some(done) => done,
            None => answer(out, "200 OK", r#"{"metadata":{"uid":"u"}}"#),
        }
    });
    let kubeconfig = server.kubeconfig("{tokenFile: token}");
    let token = kubeconfig.with_file_name("token");
    std::fs::write(&token, "old").unwrap();
    let target = target(kubeconfig);
    let object = config_map("n", "a", &json!({}));
    let error = apply(&target, &object, NamespaceRule::Managed).await.unwrap_err();
    let TargetError::Unavailable(source) = error else { panic!("{error:?}") };
    assert!(source.to_string().contains("the API server refused our credential"), "{source}");
    assert_eq!(server.asked().len(), 1, "with the same token there is nothing to repeat");
    std::fs::write(&token, "new\n").unwrap();
    assert_eq!(apply(&target, &object, NamespaceRule::Managed).await.unwrap().reference.uid, "u");
    assert_eq!(server.asked().iter().filter(|asked| asked.authorization.as_deref() == Some("Bearer old")).count(), 2);
}

#[tokio::test]
async fn an_answer_that_is_none_is_not_taken_for_one() {
    for (status, body, expected) in [
        ("200 OK", "<html>", "UnusableAnswer"),
        ("200 OK", "[]", "UnusableAnswer"),
        ("200 OK", "{}", "UnusableAnswer"),
        ("200 OK", r#"{"metadata":{}}"#, "UnusableAnswer"),
        ("302 Found", "", "Invalid"),
        ("429 Too Many Requests", "slow down", "TargetUnavailable"),
        ("500 Internal Server Error", "{}", "TargetUnavailable"),
    ] {
        let server = FakeApi::start(move |asked, out| ground(asked, out).unwrap_or_else(|| answer(out, status, body)));
        let target = target(server.kubeconfig("{token: x}"));
        let error = apply(&target, &config_map("n", "a", &json!({})), NamespaceRule::Managed).await.unwrap_err();
        assert_eq!(error.reason(), expected, "{status}: {error:?}");
    }
}

/// The ground, an apply that succeeds with the object's name as its uid, and lists and watches of nothing.
fn applying(asked: &Asked, out: Out<'_>) -> Option<std::io::Result<()>> {
    if let Some(done) = ground(asked, out) {
        return Some(done);
    }
    if is_watch(asked) {
        return Some(chunked(out).map(|()| std::thread::sleep(Duration::from_mins(1))));
    }
    match (asked.method.as_str(), asked.path.contains("limit=")) {
        ("PATCH", _) => Some(answer(out, "200 OK", &shown(asked))),
        (_, true) => Some(answer(out, "200 OK", EMPTY)),
        _ => None,
    }
}

/// The object that a path names.
fn shown(asked: &Asked) -> String {
    let name = asked.path.split('?').next().unwrap().rsplit('/').next().unwrap();
    json!({"metadata": {"namespace": "n", "name": name, "uid": name, "generation": 1}}).to_string()
}

#[tokio::test]
async fn a_look_at_what_was_applied_is_repeated_until_it_has_an_answer() {
    let looks = Arc::new(AtomicUsize::new(0));
    let server = FakeApi::start(move |asked, out| {
        applying(asked, out).unwrap_or_else(|| match (asked.path.rsplit('/').next(), looks.load(Ordering::Relaxed)) {
            (Some("a"), 0..2) => {
                // A 404 of the path is no word on the object.
                let status = ["503 Service Unavailable", "404 Not Found"][looks.fetch_add(1, Ordering::Relaxed)];
                answer(out, status, "{}")
            }
            (Some("gone"), _) => answer(
                out,
                "404 Not Found",
                r#"{"kind":"Status","code":404,"details":{"name":"gone","kind":"configmaps"}}"#,
            ),
            (Some("another"), _) => answer(out, "200 OK", r#"{"metadata":{"name":"another","uid":"new"}}"#),
            _ => answer(out, "200 OK", &shown(asked)),
        })
    });
    let mut listener = Listener::start(server.kubeconfig("{token: x}"), "c", &["/ConfigMap"]);
    for name in ["a", "gone", "another"] {
        apply(&listener.target, &config_map("n", name, &json!({})), NamespaceRule::Managed).await.unwrap();
    }
    let mut seen = Vec::new();
    for _ in 0..3 {
        let one = listener.until("each of them", |_| true).await;
        seen.push((one.reference.uid, one.deleted));
    }
    let expected = [("gone", true), ("another", true), ("a", false)].map(|(uid, deleted)| (uid.to_owned(), deleted));
    assert_eq!(seen, expected, "what fails does not hold up the others");
    let count = || server.asked().iter().filter(|asked| asked.method == "GET" && asked.path.ends_with("/gone")).count();
    tokio::time::sleep(3 * limits::BACKOFF_FLOOR).await;
    assert_eq!(count(), 1, "what has its answer is not asked for again");
    listener.stop().await;
}

#[tokio::test]
async fn no_look_is_forgotten_while_nobody_listens() {
    let server =
        FakeApi::start(|asked, out| applying(asked, out).unwrap_or_else(|| answer(out, "200 OK", &shown(asked))));
    let mut listener = Listener::start(server.kubeconfig("{token: x}"), "c", &["/ConfigMap"]);
    let mut names = std::collections::BTreeSet::new();
    for number in 0..2 * limits::OPEN_JOBS {
        let name = format!("a-{number}");
        apply(&listener.target, &config_map("n", &name, &json!({})), NamespaceRule::Managed).await.unwrap();
        names.insert(name);
    }
    while !names.is_empty() {
        names.remove(&listener.until("each of them", |_| true).await.reference.uid);
    }
    listener.stop().await;
}

#[tokio::test]
async fn what_fails_behind_an_api_server_that_is_ready_is_the_objects_own() {
    for (status, readiness, expected) in [
        ("500 Internal Server Error", "200 OK", "ObjectUnavailable"),
        ("503 Service Unavailable", "200 OK", "ObjectUnavailable"),
        ("504 Gateway Timeout", "200 OK", "ObjectUnavailable"),
        ("503 Service Unavailable", "500 Internal Server Error", "TargetUnavailable"),
        ("503 Service Unavailable", "403 Forbidden", "TargetUnavailable"),
        ("429 Too Many Requests", "200 OK", "TargetUnavailable"),
        ("401 Unauthorized", "200 OK", "TargetUnavailable"),
    ] {
        let server = FakeApi::start(move |asked, out| match (ground(asked, out), asked.path.as_str()) {
            (Some(done), _) => done,
            (None, "/readyz") => answer(out, readiness, "ok"),
            (None, _) => answer(out, status, "{}"),
        });
        let target = target(server.kubeconfig("{token: x}"));
        let applied = apply(&target, &config_map("n", "a", &json!({})), NamespaceRule::Managed).await.unwrap_err();
        let named = reference("v1", "ConfigMap", "n", "a");
        let deleted = target.delete(&named, NamespaceRule::Managed).await.unwrap_err();
        assert_eq!((applied.reason(), deleted.reason()), (expected, expected), "{status}, {readiness}: {applied}");
    }
}

#[tokio::test]
async fn what_an_admission_quotes_of_an_object_is_not_told() {
    let server = FakeApi::start(|asked, out| {
        let message = r#"admission webhook "w.example" denied the request: password "geheim" is weak"#;
        let status = json!({"kind": "Status", "code": 403, "reason": "Forbidden", "message": message});
        ground(asked, out).unwrap_or_else(|| match asked.path.as_str() {
            "/readyz" => answer(out, "200 OK", "ok"),
            _ => answer(out, "403 Forbidden", &status.to_string()),
        })
    });
    let target = target(server.kubeconfig("{token: x}"));
    let error =
        apply(&target, &config_map("n", "a", &json!({"k": "geheim"})), NamespaceRule::Managed).await.unwrap_err();
    assert_eq!(error.reason(), "Forbidden");
    let text = error.to_string();
    assert!(text.contains("denied the request") && !text.contains("geheim"), "{text}");
}

#[tokio::test]
async fn kinds_beyond_the_bound_are_listed_and_not_watched() {
    let server = FakeApi::start(|asked, out| {
        if asked.path == "/api/v1" {
            let kind = |number: usize| json!({"name": format!("k{number}s"), "kind": format!("K{number}")});
            let resources: Vec<_> = (0..=limits::WATCHES).map(kind).collect();
            return answer(out, "200 OK", &json!({"resources": resources}).to_string());
        }
        if !is_watch(asked) {
            return answer(out, "200 OK", EMPTY);
        }
        chunked(out)?;
        std::thread::sleep(Duration::from_mins(1));
        Ok(())
    });
    let kinds: Vec<String> = (0..=limits::WATCHES).map(|number| format!("/K{number}")).collect();
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    let listener = Listener::start(server.kubeconfig("{token: x}"), "c", &kinds);
    wait(|| lists(&server).len() > limits::WATCHES && watches(&server).len() >= limits::WATCHES).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((lists(&server).len(), watches(&server).len()), (limits::WATCHES + 1, limits::WATCHES));
    assert!(!watches(&server).iter().any(|asked| asked.path.contains(&format!("k{}s", limits::WATCHES))));
    listener.stop().await;
}

#[test]
fn a_call_that_nobody_waits_for_ends_its_thread_at_once() {
    let server = FakeApi::start(|_, _| {
        std::thread::sleep(Duration::from_mins(1));
        Ok(())
    });
    runtime("it-dropped").block_on(async {
        let target = target(server.kubeconfig("{token: x}"));
        let object = config_map("n", "a", &json!({}));
        let call = apply(&target, &object, NamespaceRule::Managed);
        assert!(tokio::time::timeout(Duration::from_millis(500), call).await.is_err());
        let begin = Instant::now();
        tokio::task::spawn_blocking(|| wait_until("the thread is gone", || threads("it-dropped") <= 1)).await.unwrap();
        // Somebody who waits for an answer does so for 30 s.
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    });
}

async fn wait(mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(20), "waited in vain");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

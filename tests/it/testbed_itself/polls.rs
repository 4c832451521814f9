//! Which jobs a poll gives, and when.

use std::time::Instant;

use serde_json::json;

use super::{Client, SOON};
use crate::testbed::job::config_map;
use crate::testbed::{Job, Testbed};

#[test]
fn a_poll_is_held_until_its_time_is_over() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    let since = Instant::now();
    assert_eq!(client.get("/jobs?cluster=c1&wait=1").json(), json!({"jobs": []}));
    assert!((1000..20_000).contains(&since.elapsed().as_millis()));
    testbed.behave(|behaviour| behaviour.null_jobs = true);
    assert_eq!(client.get("/jobs?cluster=c1&wait=0").json(), json!({"jobs": null}));
    assert_eq!(testbed.counts().polls, 2);
    assert_eq!(testbed.counts().held, 0);
}

#[test]
fn a_held_poll_is_answered_as_soon_as_a_job_comes() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    let (jobs, took) = std::thread::scope(|scope| {
        let poll = scope.spawn(|| (client.get("/jobs?cluster=c1").jobs(), Instant::now()));
        testbed.held_poll(SOON);
        testbed.apply("c2", config_map("n", "foreign", "x"));
        assert_eq!(testbed.counts().held, 1);
        let since = Instant::now();
        testbed.enqueue_all("c1", [Job::apply(json!(1)), Job::apply(json!(2))]);
        let (jobs, at) = poll.join().unwrap();
        (jobs, at.duration_since(since))
    });
    assert_eq!(jobs.len(), 2);
    assert!(took < SOON, "{took:?}");
}

#[test]
fn what_was_not_acked_comes_again_and_what_was_acked_does_not() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    let ids = testbed.enqueue_all("c1", [Job::apply(json!(1)), Job::apply(json!(2))]);
    let poll = || {
        let jobs = client.get("/jobs?cluster=c1&wait=0").jobs();
        jobs.iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(poll(), ids);
    assert_eq!(poll(), ids);
    assert_eq!(client.post_empty(&format!("/jobs/{}/ack", ids[0])).status, 204);
    assert_eq!(poll(), ids[1..]);
    testbed.redeliver(&ids[0]);
    assert_eq!(poll(), ids);
    assert_eq!(poll(), ids[1..]);
    testbed.behave(|behaviour| behaviour.jobs_per_answer = Some(1));
    testbed.redeliver(&ids[0]);
    assert_eq!(poll(), ids[..1]);
    assert_eq!(testbed.job(&ids[1]).offered.len(), 5);
}

#[test]
fn a_job_of_a_known_id_takes_its_place() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    let id = testbed.enqueue("c1", Job::apply(json!("first")));
    client.post_empty(&format!("/jobs/{id}/ack"));
    testbed.enqueue("c1", Job::apply(json!("second")).with("id", id.clone()));
    assert_eq!(client.get("/jobs?cluster=c1&wait=0").jobs()[0]["payload"], "second");
    assert!(client.get("/jobs?cluster=c1&wait=0").jobs().is_empty());
}

#[test]
fn a_job_that_nobody_can_ack_is_handed_out_once() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    testbed.enqueue("c1", json!({"id": 7, "kind": "apply"}));
    testbed.enqueue("c1", json!("no job"));
    assert_eq!(client.get("/jobs?cluster=c1&wait=0").jobs().len(), 2);
    assert!(client.get("/jobs?cluster=c1&wait=0").jobs().is_empty());
}

#[test]
fn a_text_goes_out_as_it_is() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    testbed.enqueue_text("c1", "twice", r#"{"id":"twice","id":"twice", "payload":1e400}"#.to_owned());
    let answer = client.get("/jobs?cluster=c1&wait=0");
    assert_eq!(answer.body, br#"{"jobs":[{"id":"twice","id":"twice", "payload":1e400}]}"#);
    assert_eq!(client.post_empty("/jobs/twice/ack").status, 204);
    testbed.raw_answer(&b"\xff{"[..]);
    assert_eq!(client.get("/jobs?cluster=c1&wait=0").body, b"\xff{");
}

#[test]
fn odd_answers_are_odd_and_legal() {
    let testbed = Testbed::start();
    testbed.behave(|behaviour| behaviour.odd = true);
    let client = Client::of(&testbed);
    testbed.apply("c1", config_map("n", "a", "x"));
    let answer = client.get("/jobs?cluster=c1&wait=0").json();
    let job = &answer["jobs"][0];
    assert!(answer["x-page"].is_object() && job["meta"].is_object());
    assert!(job["createdAt"].as_str().unwrap().ends_with(".123456789Z"));
    assert_eq!(job["expiresAt"], "0001-01-01T00:00:00Z");
    assert_eq!(job["idempotencyKey"], "");
    let rotated = client.post("/credentials/rotate", &json!({})).json();
    assert_eq!(rotated["expiresAt"], "0001-01-01T00:00:00Z");
    let token = rotated["token"].as_str().unwrap();
    assert_ne!(token, token.trim());
    assert_eq!(Client::with_bearer(&testbed, token.trim().to_owned()).get("/jobs?cluster=c1&wait=0").status, 200);
}

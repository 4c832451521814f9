//! Each fault really happens.

use std::time::{Duration, Instant};

use pullet::net::{NetError, Patience};
use serde_json::json;

use super::{Client, SOON};
use crate::testbed::job::{config_map, timestamp};
use crate::testbed::{Answer, Call, Fault, RetryAfter, Testbed};

#[test]
fn a_fault_hits_its_call_as_often_as_it_was_told() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    let poll = || client.get("/jobs?cluster=c1&wait=0").status;
    testbed.fault(Call::Jobs, 2, Fault::status(503));
    testbed.fault(Call::Ack, 1, Fault::status(500));
    assert_eq!((poll(), poll(), poll()), (503, 503, 200));
    assert_eq!(client.post_empty("/jobs/x/ack").status, 500);
    assert_eq!(client.post_empty("/jobs/x/ack").status, 404);
    testbed.fault_until_cleared(Call::Any, Fault::status(502));
    assert_eq!((poll(), poll()), (502, 502));
    assert_eq!(client.post_empty("/elsewhere").status, 502);
    testbed.clear_faults();
    assert_eq!(poll(), 200);
    let faults = testbed.requests().iter().filter(|seen| seen.fault.is_some()).count();
    assert_eq!(faults, 6);
}

#[test]
fn a_status_comes_with_an_error_body_and_in_both_forms_of_retry_after() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    for status in [400, 401, 403, 404, 429, 500, 502, 503] {
        testbed.fault(Call::Jobs, 1, Fault::status(status));
        let answer = client.get("/jobs?cluster=c1&wait=0");
        assert_eq!(answer.status, status);
        answer.error();
    }
    testbed.fault(Call::Register, 1, Fault::refusal(400, "UnknownField"));
    assert_eq!(client.post("/register", &json!({})).error(), "UnknownField");
    testbed.fault(Call::Jobs, 1, Fault::retry_after(429, RetryAfter::Seconds(7)));
    assert_eq!(client.get("/jobs?cluster=c1").headers["retry-after"], "7");
    testbed.fault(Call::Jobs, 1, Fault::retry_after(503, RetryAfter::Date(Duration::from_mins(1))));
    let date = client.get("/jobs?cluster=c1").headers["retry-after"].to_str().unwrap().to_owned();
    let ahead = httpdate::parse_http_date(&date).unwrap().duration_since(std::time::SystemTime::now()).unwrap();
    assert!((50..=60).contains(&ahead.as_secs()), "{date}");
}

#[test]
fn a_portal_and_a_redirect_do_not_look_like_the_server() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    for status in [200, 401, 403, 407] {
        testbed.fault(Call::Jobs, 1, Fault::html(status));
        let answer = client.get("/jobs?cluster=c1&wait=0");
        assert_eq!(answer.status, status);
        assert_eq!(answer.headers["content-type"], "text/html; charset=utf-8");
        assert!(answer.body.starts_with(b"<!DOCTYPE html>"));
    }
    for status in [302, 307, 308] {
        testbed.fault(Call::Jobs, 1, Fault::redirect(status, "https://elsewhere.example/"));
        let answer = client.get("/jobs?cluster=c1&wait=0");
        assert_eq!(
            (answer.status, answer.headers["location"].to_str().unwrap()),
            (status, "https://elsewhere.example/")
        );
    }
}

#[test]
fn an_ignored_wait_is_answered_at_once() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    testbed.fault(Call::Jobs, 1, Fault::IgnoredWait);
    let since = Instant::now();
    assert!(client.get("/jobs?cluster=c1&wait=30").jobs().is_empty());
    assert!(since.elapsed() < SOON);
}

#[test]
fn a_cut_comes_before_the_head_or_in_the_body() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    testbed.apply("c1", config_map("n", "a", "x"));
    testbed.fault(Call::Jobs, 1, Fault::CutBeforeHead);
    let error = client.try_get("/jobs?cluster=c1").unwrap_err();
    assert!(matches!(error, NetError::Cut(_) | NetError::Http(_)), "{error:?}");

    testbed.fault(Call::Jobs, 1, Fault::CutInBody);
    let request = client.request("GET", "/jobs?cluster=c1", b"");
    let answer = client.line.run(request, Patience::Answer(SOON)).unwrap();
    assert_eq!(answer.status(), 200);
    let length: usize = answer.headers()["content-length"].to_str().unwrap().parse().unwrap();
    let (read, error) = read_to_error(answer.into_body());
    assert_eq!(read, length.div_ceil(2));
    assert!(matches!(error, NetError::Cut(_) | NetError::Http(_)), "{error:?}");

    assert_eq!(client.get("/jobs?cluster=c1").jobs().len(), 1);
    assert_eq!(testbed.counts().connections, 3);
}

/// How many bytes came before the error.
fn read_to_error(mut body: pullet::net::Body) -> (usize, NetError) {
    let (mut count, mut buffer) = (0, [0; 4096]);
    loop {
        match body.read_some(&mut buffer) {
            Ok(0) => panic!("the body came to its end after {count} bytes"),
            Ok(more) => count += more,
            Err(error) => return (count, error),
        }
    }
}

#[test]
fn a_drip_comes_byte_by_byte_to_its_end() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    testbed.fault(Call::Jobs, 1, Fault::Drip(Duration::from_millis(50)));
    let since = Instant::now();
    let answer = client.get("/jobs?cluster=c1&wait=0");
    assert_eq!(answer.body, br#"{"jobs":[]}"#);
    assert!(since.elapsed() >= Duration::from_millis(50 * 10));
}

#[test]
fn silence_comes_instead_of_the_head_or_in_the_body() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    testbed.fault(Call::Jobs, 1, Fault::Silence);
    let request = client.request("GET", "/jobs?cluster=c1&wait=0", b"");
    let error = client.send_within(request, Duration::from_millis(300)).unwrap_err();
    assert!(matches!(error, NetError::Timeout(_)), "{error:?}");

    testbed.fault(Call::Jobs, 1, Fault::SilenceInBody);
    let request = client.request("GET", "/jobs?cluster=c1&wait=0", b"");
    let answer = client.line.run(request, Patience::Stream(Duration::from_secs(8))).unwrap();
    let (read, error) = read_to_error(answer.into_body());
    assert_eq!(read, 6);
    assert!(matches!(error, NetError::Timeout(_)), "{error:?}");
}

#[test]
fn an_endless_answer_has_no_end() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    for (fault, expected) in
        [(Fault::EndlessSpace, &br#"{"jobs":[    "#[..]), (Fault::EndlessJobs, &br#"{"jobs":[{"createdAt":""#[..])]
    {
        testbed.fault(Call::Jobs, 1, fault);
        let request = client.request("GET", "/jobs?cluster=c1&wait=0", b"");
        let mut answer = client.line.run(request, Patience::Answer(SOON)).unwrap().into_body().with_limit(u64::MAX);
        let (mut count, mut buffer) = (0, vec![0; 64 * 1024]);
        let mut start = Vec::new();
        while count < 1024 * 1024 {
            let read = answer.read_some(&mut buffer).unwrap();
            assert_ne!(read, 0);
            start.extend_from_slice(&buffer[..read.min(100)]);
            count += read;
        }
        assert!(start.starts_with(expected));
    }
    assert_eq!(client.get("/jobs?cluster=c1&wait=0").status, 200);
}

#[test]
fn a_long_head_and_what_is_no_http_are_no_answers() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    testbed.fault(Call::Jobs, 1, Fault::LongHead(1000));
    assert_eq!(client.get("/jobs?cluster=c1&wait=0").headers["x-padding"].len(), 1000);
    testbed.fault(Call::Jobs, 1, Fault::LongHead(20_000));
    assert!(client.try_get("/jobs?cluster=c1&wait=0").is_err());
    assert_eq!(testbed.requests().last().unwrap().answered.unwrap().1, 200);
    testbed.fault(Call::Jobs, 1, Fault::NotHttp);
    let error = client.try_get("/jobs?cluster=c1&wait=0").unwrap_err();
    assert!(matches!(error, NetError::Http(_)), "{error:?}");
}

#[test]
fn a_lost_answer_has_done_its_work() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    let id = testbed.apply("c1", config_map("n", "a", "x"));
    let ack = format!("/jobs/{id}/ack");
    testbed.fault(Call::Ack, 1, Fault::LostAnswer);
    assert!(client.send(client.request("POST", &ack, b"")).is_err());
    assert_eq!(testbed.acks(&id), 1);

    testbed.fault(Call::Result, 1, Fault::LostAnswer);
    let result = json!({"outcome": "succeeded", "timestamp": timestamp(0)}).to_string();
    let path = format!("/jobs/{id}/result");
    assert!(client.send(client.request("POST", &path, result.as_bytes())).is_err());
    assert!(testbed.result(&id).is_some());
    assert_eq!(client.post_empty(&ack).status, 409);
    assert!(testbed.requests_of(Call::Result)[0].answered.is_none());

    testbed.fault(Call::Ack, 1, Fault::CutBeforeHead);
    let other = testbed.apply("c1", config_map("n", "b", "x"));
    assert!(client.send(client.request("POST", &format!("/jobs/{other}/ack"), b"")).is_err());
    assert_eq!(testbed.acks(&other), 0);
}

#[test]
fn any_answer_can_be_given() {
    let testbed = Testbed::start();
    let client = Client::of(&testbed);
    testbed.fault(Call::Ack, 1, Fault::Answer(Answer::of(418, "text/plain", "tea")));
    let answer = client.post_empty("/jobs/x/ack");
    assert_eq!((answer.status, answer.body.as_slice()), (418, &b"tea"[..]));
}

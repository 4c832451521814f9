//! P1.1: how a request looks.

use serde_json::json;

use super::{
    SECOND, SOON, about, assert_sound, connected, count_within, done, further, gaps, setup, start, succeeded, value_of,
};
use crate::agent::{Agent, CLUSTER, Setup};
use crate::testbed::job::config_map;
use crate::testbed::{Call, Fault, Job, MEDIA_TYPE, Options, Testbed};

/// P1.1.1: slashes at the end of the endpoint do not count, and its path stays in front of every call.
#[test]
fn a_base_path_with_slashes_at_its_end_is_in_front_of_every_call() {
    let testbed = Testbed::with(Options { base: "/odoo/base".to_owned(), ..Options::default() });
    let agent = setup(&testbed).flag("--endpoint", format!("{}///", testbed.endpoint())).spawn();
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "a", "1")))));
    assert_eq!(value_of(&agent, "a").as_deref(), Some("1"));
    let requests = testbed.requests();
    assert!(requests.iter().all(|seen| seen.path.starts_with("/odoo/base/api/agent/")), "{requests:?}");
    assert_sound(&testbed);
}

/// P1.1.2, P1.1.3: `Accept` on each request, `Content-Type` with a body and only then, and a body is JSON. The
/// testbed itself checks `Authorization` on each.
#[test]
fn every_request_names_the_media_type() {
    let testbed = Testbed::start();
    let _agent = start(&testbed);
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "a", "1")))));
    assert!(succeeded(&done(&testbed, Job::intent("rotate-operator-credentials", json!(null)))));
    testbed.event("the rotation's event", SOON, |event| event["kind"] == "CredentialRotated");
    let calls = [Call::Register, Call::Jobs, Call::Ack, Call::Status, Call::Result, Call::Events, Call::Rotate];
    for call in calls {
        let requests = testbed.requests_of(call);
        assert!(!requests.is_empty(), "{call:?}");
        for seen in requests {
            assert_eq!(seen.header("accept"), Some(MEDIA_TYPE), "{seen:?}");
            let content_type = (!seen.body.is_empty()).then_some(MEDIA_TYPE);
            assert_eq!(seen.header("content-type"), content_type, "{seen:?}");
            assert_eq!(seen.method, if call == Call::Jobs { "GET" } else { "POST" });
            if !seen.body.is_empty() {
                serde_json::from_slice::<serde_json::Value>(&seen.body).unwrap();
            }
        }
    }
    assert_sound(&testbed);
}

/// P1.1.4: an ack has no body and says so.
#[test]
fn a_post_without_a_body_says_that_its_length_is_zero() {
    let testbed = Testbed::start();
    let _agent = start(&testbed);
    let id = testbed.apply(CLUSTER, config_map("shop", "a", "1"));
    testbed.result_of(&id, SOON);
    let acks = testbed.requests_of(Call::Ack);
    assert_eq!(acks.len(), 1);
    assert_eq!((acks[0].header("content-length"), acks[0].header("transfer-encoding")), (Some("0"), None));
    assert!(acks[0].body.is_empty() && acks[0].header("content-type").is_none());
}

/// P1.1.5: whatever a job is called, it is one segment of the path.
#[test]
fn a_job_id_is_one_segment_whatever_characters_it_has() {
    let testbed = Testbed::start();
    let long = "x".repeat(256);
    let ids = [
        ("a/b", "a%2Fb"),
        ("../../register", "..%2F..%2Fregister"),
        ("a?b=c&d#e", "a%3Fb%3Dc%26d%23e"),
        ("100%", "100%25"),
        ("%2F", "%252F"),
        (" with  spaces ", "%20with%20%20spaces%20"),
        ("a+b;c,d:e@f", "a%2Bb%3Bc%2Cd%3Ae%40f"),
        ("\"'\\<>|^`{}[]", "%22%27%5C%3C%3E%7C%5E%60%7B%7D%5B%5D"),
        ("düne-漢字-🐓", "d%C3%BCne-%E6%BC%A2%E5%AD%97-%F0%9F%90%93"),
        ("...", "..."),
        ("-._~", "-._~"),
        (&*long, &*long),
    ];
    let job = |at: usize, id: &str| Job::apply(config_map("shop", &format!("a{at}"), "1")).with("id", id);
    testbed.enqueue_all(CLUSTER, ids.iter().enumerate().map(|(at, (id, _))| job(at, id)));
    let _agent = start(&testbed);
    for (id, encoded) in ids {
        assert!(succeeded(&testbed.result_of(id, SOON)), "{id}");
        assert_eq!(testbed.acks(id), 1, "{id}");
        assert_eq!(about(&testbed, Call::Result, encoded).len(), 1, "{id}");
    }
    assert_sound(&testbed);
}

/// P1.1.5: an id that no path can carry, or none at all, is passed over. Nobody can answer such a job: it
/// must neither hold up what stands behind it nor make the agent ask without a pause, for it comes again
/// with every answer.
#[test]
fn a_job_that_nobody_can_answer_blocks_nothing_and_makes_no_hot_loop() {
    let testbed = Testbed::start();
    let job = || Job::apply(config_map("shop", "never", "1"));
    let ids = [".", "..", "a\0b", "line\nbreak", &"x".repeat(10_000), &"ü".repeat(200)].map(str::to_owned);
    testbed.enqueue_all(CLUSTER, ids.iter().map(|id| job().with("id", id.as_str())));
    testbed.enqueue_all(CLUSTER, [job().with("id", ""), job().without("id"), job().with("id", 7)]);
    let good = testbed.apply(CLUSTER, config_map("shop", "good", "1"));
    let agent = start(&testbed);
    assert!(succeeded(&testbed.result_of(&good, SOON)));
    assert!(count_within(&testbed, Call::Jobs, SECOND * 3) <= 4, "each poll is answered at once");
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "later", "1")))));
    assert_eq!(testbed.requests_of(Call::Ack).len(), 2, "only the good ones were acked");
    assert_eq!(value_of(&agent, "never"), None);
    assert!(testbed.job(".").offered.len() >= 2, "it came again");
    assert_sound(&testbed);
}

/// P1.1.5: the query has the cluster and whole seconds, form-encoded.
#[test]
fn the_query_of_a_poll_has_the_cluster_and_whole_seconds() {
    let testbed = Testbed::start();
    let _agent = Setup::of_cluster(&testbed, "clinic-7.a_b").target_directory().flag("--wait", "2").spawn();
    testbed.polls(1, SOON);
    let poll = &testbed.requests_of(Call::Jobs)[0];
    assert_eq!(poll.query.as_deref(), Some("cluster=clinic-7.a_b&wait=2"));
    assert_sound(&testbed);
}

/// P1.1.6: the bearer goes to nobody else, whatever a redirect says; the call is repeated where it belongs.
#[test]
fn a_redirect_is_not_followed() {
    let (testbed, elsewhere) = (Testbed::start(), Testbed::start());
    for (call, status) in [(Call::Jobs, 302), (Call::Ack, 307), (Call::Result, 308)] {
        let to = format!("{}/api/agent/jobs?cluster={CLUSTER}&wait=1", elsewhere.endpoint());
        testbed.fault(call, 1, Fault::redirect(status, &to));
    }
    let agent = start(&testbed);
    let id = testbed.apply(CLUSTER, config_map("shop", "a", "1"));
    assert!(succeeded(&testbed.result_of(&id, SOON)));
    assert_eq!(elsewhere.counts().connections, 0);
    assert_eq!(value_of(&agent, "a").as_deref(), Some("1"));
    for call in [Call::Ack, Call::Result] {
        let gaps = gaps(&about(&testbed, call, &id));
        assert!(gaps.len() == 1 && gaps[0] >= SECOND, "{call:?} {gaps:?}");
    }
    assert_sound(&testbed);
}

/// P1.1.6: without TLS only to this machine, and only when that is asked for.
#[test]
fn plain_http_is_for_this_machine_and_only_when_it_is_allowed() {
    let testbed = Testbed::with(Options { plain_http: true, ..Options::default() });
    let refused = setup(&testbed).run_to_end("run");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!((refused.status.code(), testbed.counts().connections), (Some(2), 0), "{said}");
    assert!(said.contains("allow_plain_http_loopback"), "{said}");

    let other = setup(&testbed).flag("--endpoint", "http://192.0.2.1:8069").switch("--allow-plain-http-loopback");
    let refused = other.run_to_end("run");
    assert_eq!(refused.status.code(), Some(2), "{}", String::from_utf8_lossy(&refused.stderr));

    let _agent = setup(&testbed).switch("--allow-plain-http-loopback").spawn();
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "a", "1")))));
    assert_sound(&testbed);
}

/// P1.2.8: a poll waits 30 s unless told otherwise, and 300 s at most.
#[test]
fn a_poll_waits_as_long_as_it_was_told() {
    for (wait, said) in [(None, "30"), (Some("300"), "300")] {
        let testbed = Testbed::start();
        let setup = Agent::of(&testbed).target_directory();
        let _agent = match wait {
            Some(wait) => setup.flag("--wait", wait).spawn(),
            None => setup.spawn(),
        };
        testbed.held_poll(SOON);
        let query = testbed.requests_of(Call::Jobs)[0].query.clone().unwrap();
        assert!(query.ends_with(&format!("&wait={said}")), "{query}");
    }
    for wait in ["301", "0", "1.5", "-1"] {
        let testbed = Testbed::start();
        let ended = Agent::of(&testbed).target_directory().flag("--wait", wait).run_to_end("run");
        assert_eq!(ended.status.code(), Some(2), "{wait}");
    }
}

/// P1.2.8: when the hold is over the answer is an empty list, and the next poll follows on the same
/// connection.
#[test]
fn a_hold_that_brings_nothing_is_followed_by_the_next() {
    let testbed = Testbed::start();
    let _agent = connected(&testbed);
    let polls = further(&testbed, Call::Jobs, 2);
    assert_eq!(polls[0].answered.map(|(_, status)| status), Some(200));
    assert_eq!(polls[0].connection, polls[1].connection);
    assert!(polls[1].at.duration_since(polls[0].at) >= SECOND.mul_f32(0.95), "it was held");
    assert_sound(&testbed);
}

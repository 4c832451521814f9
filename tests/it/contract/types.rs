//! P1.3: the shapes of what the agent sends. The testbed refuses unknown members and empty ones.

use serde_json::{Value, json};

use super::{SECOND, SOON, assert_sound, done, gaps, members, start, succeeded};
use crate::agent::CLUSTER;
use crate::testbed::job::config_map;
use crate::testbed::{Answer, Call, Fault, Job, Testbed};

fn is_recent(timestamp: &Value) -> bool {
    let then: jiff::Timestamp = timestamp.as_str().unwrap().parse().unwrap();
    let now = pullet::clock::unix_seconds().cast_signed();
    (now - 300..=now + 1).contains(&then.as_second())
}

/// P1.3.4: a status has a phase, a time, and a message where there is something to say.
#[test]
fn a_status_says_how_it_is_getting_on() {
    let testbed = Testbed::start();
    let _agent = start(&testbed);
    let id = testbed.apply(CLUSTER, config_map("shop", "a", "1"));
    testbed.result_of(&id, SOON);
    let statuses = testbed.statuses(&id);
    assert_eq!(statuses.len(), 1);
    assert_eq!(members(&statuses[0]), ["message", "phase", "timestamp"].into());
    assert_eq!(statuses[0]["phase"], "Applied");
    assert_eq!(statuses[0]["message"], "applied; nothing reports readiness here");
    assert!(is_recent(&statuses[0]["timestamp"]));
    assert_sound(&testbed);
}

/// P1.3.5: what is empty is left out, and a failure always says why.
#[test]
fn a_result_leaves_out_what_is_empty_and_a_failure_says_why() {
    let testbed = Testbed::start();
    let _agent = start(&testbed);
    let succeeded_ = done(&testbed, Job::apply(config_map("shop", "a", "1")));
    assert_eq!(members(&succeeded_), ["appliedRef", "outcome", "timestamp"].into());
    let deleted = done(&testbed, Job::delete("v1", "ConfigMap", "shop", "never"));
    assert_eq!(members(&deleted), ["outcome", "timestamp"].into());
    let failed = done(&testbed, Job::new("dance", json!({})));
    assert_eq!(members(&failed), ["error", "outcome", "timestamp"].into());
    let noop = done(&testbed, Job::apply(config_map("shop", "a", "1")).expires_in(-1));
    assert_eq!(members(&noop), ["error", "outcome", "timestamp"].into());
    for result in [succeeded_, deleted, failed, noop] {
        assert!(is_recent(&result["timestamp"]), "{result}");
    }
    assert_sound(&testbed);
}

/// P1.3.9: the body of an error may be missing, and may be anything.
#[test]
fn the_body_of_an_error_may_be_anything() {
    let testbed = Testbed::start();
    let broken =
        |status, body: &'static str| Fault::Answer(Answer::of(status, "application/json", body.as_bytes().to_vec()));
    let silent = |status| Fault::Answer(Answer { status, headers: Vec::new(), body: None });
    testbed.fault(Call::Jobs, 1, silent(500));
    testbed.fault(Call::Ack, 1, broken(500, "{\"error\":"));
    testbed.fault(Call::Status, 1, broken(400, "[]"));
    testbed.fault(Call::Result, 1, broken(503, "{\"error\":7}"));
    testbed.fault(Call::Events, 1, silent(502));
    let agent = start(&testbed);
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "a", "1")))));
    testbed.event("the heartbeat", SOON, |event| event["kind"] == "ClusterHeartbeat");
    for call in [Call::Jobs, Call::Ack, Call::Result, Call::Events] {
        let first = gaps(&testbed.requests_of(call))[0];
        assert!(first >= SECOND, "{call:?} {first:?}");
    }
    assert_eq!(super::value_of(&agent, "a").as_deref(), Some("1"));
    assert_sound(&testbed);
}

/// P1.3.9: what the server says about an error ends in the log, with what to quote to its owner.
#[test]
fn what_the_server_says_about_an_error_is_logged() {
    let testbed = Testbed::start();
    let body = json!({"error": "Odd", "message": "no \u{1b}[31mred\n letters", "requestId": "req-4711"});
    let answer = Answer::of(400, crate::testbed::MEDIA_TYPE, body.to_string());
    testbed.fault(Call::Ack, 1, Fault::Answer(answer));
    let agent = start(&testbed);
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "a", "1")))));
    let log = agent.log();
    assert!(log.contains("Odd") && log.contains("request req-4711"), "{log}");
    assert!(!log.contains('\u{1b}') && !log.contains("\\u001b"), "{log}");
}

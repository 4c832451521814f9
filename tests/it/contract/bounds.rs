//! P1.4.7, P1.4.8: bounds of one job and of one answer. Nothing behind a job that is too large is held up.

use pullet::limits;
use serde_json::{Value, json};

use super::{SECOND, SOON, assert_failed, assert_sound, setup, start, succeeded, value_of};
use crate::agent::CLUSTER;
use crate::testbed::job::config_map;
use crate::testbed::{Call, Job, Testbed};

/// A job with a config map of this value.
fn job(name: &str, value: &Value) -> Job {
    let mut manifest = config_map("shop", name, "");
    manifest["data"]["value"] = value.clone();
    Job::apply(manifest)
}

/// A job of this many bytes.
fn sized(name: &str, bytes: usize) -> Job {
    let length = |value: usize| Value::from(job(name, &json!("x".repeat(value))).with("id", name)).to_string().len();
    let job = job(name, &json!("x".repeat(bytes - length(0)))).with("id", name);
    // Numbers in ids and keys grow from one job to the next.
    let surplus = Value::from(job.clone()).to_string().len() - bytes;
    let job = job.with("idempotencyKey", "");
    let padding = bytes - Value::from(job.clone()).to_string().len();
    assert!(surplus < 8 && padding < 64);
    job.with("idempotencyKey", "k".repeat(padding))
}

/// That of three jobs in one answer the middle one is answered `failed` with the name of its bound, after
/// one delivery, and the others are worked.
fn assert_skipped(large: Job, name: &str) {
    let testbed = Testbed::start();
    let ids = testbed.enqueue_all(CLUSTER, [job("before", &json!("1")), large, job("after", &json!("1"))]);
    let agent = start(&testbed);
    assert!(succeeded(&testbed.result_of(&ids[2], SOON)));
    assert_failed(&testbed.result_of(&ids[1], SOON), name);
    assert!(succeeded(&testbed.result_of(&ids[0], SOON)));
    for id in &ids {
        let job = testbed.job(id);
        assert_eq!((job.offered.len(), job.acks.len()), (1, 1), "{id}");
    }
    assert_eq!(value_of(&agent, "large"), None);
    assert_sound(&testbed);
}

/// P1.4.7: one byte over the bound; a job of just the bound is worked.
#[test]
fn a_job_of_too_many_bytes_is_answered_and_holds_nothing_up() {
    assert_skipped(sized("large", limits::JOB_BYTES + 1), "job_bytes");
    let testbed = Testbed::start();
    testbed.enqueue(CLUSTER, sized("just", limits::JOB_BYTES));
    let agent = start(&testbed);
    assert!(succeeded(&testbed.result_of("just", SOON)));
    assert!(value_of(&agent, "just").unwrap().len() > limits::JOB_BYTES - 1024);
}

/// P1.4.7: too many values.
#[test]
fn a_job_of_too_many_values_is_answered_and_holds_nothing_up() {
    assert_skipped(job("large", &json!(vec![1; limits::JOB_NODES])), "job_nodes");
}

/// P1.4.7: too many levels. What an attacker would send has thousands.
#[test]
fn a_job_that_is_nested_too_deep_is_answered_and_holds_nothing_up() {
    let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
    // Around it: the job, its payload, the data.
    assert_skipped(job("large", &nested(limits::JOB_DEPTH - 2)), "job_depth");
    let testbed = Testbed::start();
    let text = Value::from(job("just", &nested(limits::JOB_DEPTH - 3)).with("id", "just")).to_string();
    testbed.enqueue_text(CLUSTER, "just", text);
    let deep = format!(r#"{{"id":"deep","kind":"apply","payload":{}{}}}"#, "[".repeat(50_000), "]".repeat(50_000));
    testbed.enqueue_text(CLUSTER, "deep", deep);
    let _agent = start(&testbed);
    assert!(succeeded(&testbed.result_of("just", SOON)));
    assert_failed(&testbed.result_of("deep", SOON), "job_depth");
}

/// P1.4.7: a job that is larger than a whole answer may be, with its id behind all that.
#[test]
fn a_job_of_megabytes_is_skipped_while_it_is_read() {
    let testbed = Testbed::start();
    let huge = format!(r#"{{"kind":"apply","payload":"{}","id":"huge"}}"#, "x".repeat(3_000_000));
    testbed.enqueue_text(CLUSTER, "huge", huge);
    let after = testbed.apply(CLUSTER, config_map("shop", "after", "1"));
    let _agent = start(&testbed);
    assert_failed(&testbed.result_of("huge", SOON), "job_bytes");
    assert!(succeeded(&testbed.result_of(&after, SOON)));
    assert_eq!(testbed.job(&after).offered.len(), 1);
    assert_sound(&testbed);
}

/// P1.4.8: of an answer over 512 KiB the head is worked; the rest was not acked and comes again, without a
/// pause.
#[test]
fn the_rest_of_a_large_answer_comes_again() {
    let testbed = Testbed::start();
    let ids = ["a", "b", "c", "d", "e"];
    testbed.enqueue_all(CLUSTER, ids.iter().map(|id| sized(id, 200 * 1024)));
    let _agent = start(&testbed);
    for id in ids {
        assert!(succeeded(&testbed.result_of(id, SOON)), "{id}");
    }
    let offered: Vec<usize> = ids.iter().map(|id| testbed.job(id).offered.len()).collect();
    assert_eq!(offered, [1, 1, 2, 2, 3], "two of them fit");
    let acked: Vec<_> = ids.iter().map(|id| testbed.job(id).acks.clone()).collect();
    assert!(acked.iter().all(|acks| acks.len() == 1) && acked.is_sorted(), "in their order, each once");
    assert_sound(&testbed);
}

/// P1.4.8: a thousand small jobs in one answer.
#[test]
fn an_answer_of_many_jobs_is_worked_in_its_order() {
    let testbed = Testbed::start();
    let count = 200;
    let ids = testbed.enqueue_all(
        CLUSTER,
        (0..count).map(|at| Job::new("dance", json!({})).with("id", format!("many-{at}")).with("x", "y".repeat(100))),
    );
    let _agent = setup(&testbed).spawn();
    for id in &ids {
        assert_failed(&testbed.result_of(id, SOON), "UnknownJobKind");
    }
    let acks: Vec<String> =
        testbed.requests_of(Call::Ack).iter().map(|seen| seen.path.rsplit('/').nth(1).unwrap().to_owned()).collect();
    assert_eq!(acks, ids);
    assert_sound(&testbed);
}

/// P1.4.8, P1.9.2: an answer that never ends is left, and not asked for again at once.
#[test]
fn an_answer_without_an_end_is_left() {
    let testbed = Testbed::start();
    testbed.fault(Call::Jobs, 1, crate::testbed::Fault::EndlessSpace);
    let _agent = start(&testbed);
    let polls = super::since(&testbed, Call::Jobs, 0, 2);
    assert!(polls[1].at.duration_since(polls[0].at) >= SECOND);
    let id = testbed.apply(CLUSTER, config_map("shop", "a", "1"));
    assert!(succeeded(&testbed.result_of(&id, SOON)));
    assert_sound(&testbed);
}

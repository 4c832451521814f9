//! P1.5.1, P1.5.3, P1.5.4, P1.2.3: what was not acked is not done.

use super::{
    SECOND, SOON, about, applied, assert_sound, at_once, connected, count_within, course, done, effect, gaps, setup,
    start, succeeded, value_of,
};
use crate::agent::CLUSTER;
use crate::testbed::job::config_map;
use crate::testbed::{Call, Fault, Job, Testbed};

fn job(name: &str) -> Job {
    Job::apply(config_map("shop", name, "1")).with("id", name)
}

/// P1.5.4: an ack whose answer got lost is repeated; nothing behind the job is worked before, and it has one
/// effect.
#[test]
fn an_ack_whose_answer_is_lost_is_repeated_before_anything_else() {
    at_once([Fault::LostAnswer, Fault::status(500), Fault::CutBeforeHead, Fault::html(502)], |fault| {
        let testbed = Testbed::start();
        testbed.fault(Call::Ack, 1, fault.clone());
        testbed.enqueue_all(CLUSTER, [job("one"), job("two")]);
        let agent = start(&testbed);
        assert!(succeeded(&testbed.result_of("two", SOON)), "{fault:?}");
        assert!(succeeded(&testbed.result_of("one", SOON)), "{fault:?}");
        let course = course(&testbed);
        assert_eq!(course[..2], ["ack one", "ack one"], "{fault:?}");
        assert_eq!(course.iter().filter(|said| said.starts_with("ack")).count(), 3, "{fault:?}");
        assert_eq!(course.len(), 5, "one result each: {course:?}");
        let acks = about(&testbed, Call::Ack, "one");
        assert!(gaps(&acks)[0] >= SECOND, "{fault:?}");
        assert_eq!(testbed.job("one").offered.len(), 1, "{fault:?}");
        assert!(applied(&agent.directory(), "ConfigMap", "one").is_some());
        assert_sound(&testbed);
    });
}

/// P1.5.1, P1.5.4: as long as the ack has no answer nothing is done, and when the job expires it is left. It
/// comes again, and is answered then.
#[test]
fn an_ack_without_an_answer_is_repeated_until_the_job_expires() {
    let testbed = Testbed::start();
    testbed.fault_until_cleared(Call::Ack, Fault::CutBeforeHead);
    let agent = connected(&testbed);
    // The second try follows within two seconds of the first, well before the end.
    testbed.enqueue_all(CLUSTER, [job("one").expires_in(20), job("two")]);
    testbed.wait_for("the job to be left and to come again", SOON, |state| {
        let job = state.jobs.iter().find(|job| job.id == "one")?;
        (job.offered.len() >= 2).then_some(())
    });
    assert!(about(&testbed, Call::Ack, "one").len() >= 2);
    assert_eq!(about(&testbed, Call::Ack, "two").len(), 0);
    assert_eq!((value_of(&agent, "one"), value_of(&agent, "two")), (None, None));
    testbed.clear_faults();
    assert_eq!(testbed.result_of("one", SOON)["error"], "expired");
    assert!(succeeded(&testbed.result_of("two", SOON)));
    assert_eq!(value_of(&agent, "one"), None);
    assert_sound(&testbed);
}

/// P1.5.3: an ack that is refused ends the batch: nothing may overtake the job. It is not done until it was
/// acked after all.
#[test]
fn an_ack_that_is_refused_ends_the_batch() {
    let testbed = Testbed::start();
    testbed.fault(Call::Ack, 1, Fault::status(400));
    testbed.enqueue_all(CLUSTER, [job("one"), job("two")]);
    let agent = start(&testbed);
    assert!(succeeded(&testbed.result_of("two", SOON)));
    let acks: Vec<String> = course(&testbed).into_iter().filter(|said| said.starts_with("ack")).collect();
    assert_eq!(acks, ["ack one", "ack one", "ack two"]);
    assert_eq!(testbed.job("one").offered.len(), 2, "it came again");
    let polls = testbed.requests_of(Call::Jobs);
    let refused = testbed.requests_of(Call::Ack)[0].answered.unwrap().0;
    assert!(polls[1].at.duration_since(refused) >= SECOND, "not at once");
    assert!(value_of(&agent, "one").is_some());
    assert_sound(&testbed);
}

/// P1.5.1: refused for good, a job is never done and stays in front, and that makes no hot loop.
#[test]
fn a_job_whose_ack_is_always_refused_is_never_done() {
    let testbed = Testbed::start();
    testbed.fault_until_cleared(Call::Ack, Fault::status(400));
    testbed.enqueue_all(CLUSTER, [job("one"), job("two")]);
    let agent = start(&testbed);
    super::since(&testbed, Call::Ack, 0, 1);
    assert!(count_within(&testbed, Call::Any, SECOND * 2) <= 8);
    assert_eq!((value_of(&agent, "one"), value_of(&agent, "two")), (None, None));
    assert_eq!(testbed.requests_of(Call::Result).len() + testbed.requests_of(Call::Status).len(), 0);
    assert!(about(&testbed, Call::Ack, "two").is_empty());
    assert_sound(&testbed);
}

/// P1.5.9, P1.8.3, P1.8.4: 409 and 404 say that the job is closed for us: it is not done and not answered, and
/// the next one is worked. Both come again and again from this server, which makes no hot loop.
#[test]
fn a_job_that_is_closed_is_not_done_and_the_next_one_is() {
    for status in [409, 404] {
        let testbed = Testbed::start();
        testbed.enqueue_all(CLUSTER, [job("one"), job("two")]);
        testbed.fault(Call::Ack, 1, Fault::status(status));
        // Only the answer to the first poll brings anything.
        let agent = setup(&testbed).spawn();
        testbed.ack_of("two", SOON);
        let order: Vec<String> = course(&testbed).into_iter().filter(|said| said.starts_with("ack")).collect();
        assert_eq!(order[..2], ["ack one", "ack two"], "{status}");
        assert!(succeeded(&testbed.result_of("two", SOON)), "{status}");
        assert!(value_of(&agent, "two").is_some(), "{status}");
        // The server still has the job to hand out, and takes the ack now.
        assert!(succeeded(&testbed.result_of("one", SOON)), "{status}");
        let acked = testbed.job("one").acks[0];
        let first = testbed.requests_of(Call::Ack)[0].at;
        let told = about(&testbed, Call::Status, "one").into_iter().chain(about(&testbed, Call::Result, "one"));
        assert!(told.into_iter().all(|seen| seen.at > acked && acked > first), "{status}: nothing before the ack");
        assert_sound(&testbed);
    }
}

/// P1.2.3, P1.9.4: a server that hands out what it does not know, for ever.
#[test]
fn a_job_that_the_server_does_not_know_makes_no_hot_loop() {
    let testbed = Testbed::start();
    let unknown = serde_json::Value::from(job("unknown"));
    testbed.enqueue_text(CLUSTER, "another", unknown.to_string());
    let agent = start(&testbed);
    super::since(&testbed, Call::Ack, 0, 1);
    assert!(count_within(&testbed, Call::Jobs, SECOND * 2) <= 3);
    assert!(succeeded(&done(&testbed, job("next"))));
    assert_eq!(value_of(&agent, "unknown"), None);
    assert!(about(&testbed, Call::Result, "unknown").is_empty());
    assert_sound(&testbed);
}

/// P1.5.5, P1.9.4: a server that hands out what is finished, for ever.
#[test]
fn a_finished_job_that_comes_for_ever_makes_no_hot_loop() {
    let testbed = Testbed::start();
    let agent = start(&testbed);
    assert!(succeeded(&done(&testbed, job("one"))));
    let first = effect(&agent.directory(), "one");
    let text = format!(r#"{{"jobs":[{}]}}"#, testbed.job("one").text);
    let answer = crate::testbed::Answer::text(text);
    testbed.fault_until_cleared(Call::Jobs, Fault::Answer(answer));
    super::since(&testbed, Call::Ack, 0, 2);
    assert!(count_within(&testbed, Call::Any, SECOND * 2) <= 8);
    assert_eq!(effect(&agent.directory(), "one"), first);
    testbed.clear_faults();
    assert!(succeeded(&done(&testbed, job("two"))));
    assert_sound(&testbed);
}

/// P1.2.3: only the control plane can take an ack: a page that somebody else shows for it is none.
#[test]
fn a_page_instead_of_an_ack_is_no_ack() {
    let testbed = Testbed::start();
    testbed.fault(Call::Ack, 1, Fault::html(200));
    testbed.enqueue_all(CLUSTER, [job("one"), job("two")]);
    let agent = start(&testbed);
    assert!(succeeded(&testbed.result_of("two", SOON)));
    assert_eq!(course(&testbed)[..2], ["ack one", "ack one"]);
    assert_eq!(testbed.acks("one"), 1);
    assert!(succeeded(&testbed.result_of("one", SOON)));
    assert!(value_of(&agent, "one").is_some());
    assert_sound(&testbed);
}

//! P1.5: the course of a job.

use serde_json::json;

use super::{
    SOON, about, applied, assert_sound, connected, course, done, effect, members, setup, start, succeeded, value_of,
};
use crate::agent::CLUSTER;
use crate::testbed::job::config_map;
use crate::testbed::{Answer, Call, Fault, Job, Testbed};

/// P1.5.1, P1.5.3: each job is acked before anything is done, and answered; one after the other, in the order
/// of the list.
#[test]
fn jobs_are_worked_in_the_order_of_the_list() {
    let testbed = Testbed::start();
    let ids = testbed.enqueue_all(CLUSTER, (0..12).map(|at| Job::apply(config_map("shop", "a", &at.to_string()))));
    let agent = start(&testbed);
    testbed.result_of(&ids[11], SOON);
    let course = course(&testbed);
    for call in ["ack", "result"] {
        let order: Vec<&str> = course.iter().filter_map(|said| said.strip_prefix(call)).map(str::trim).collect();
        assert_eq!(order, ids, "{call}");
    }
    for id in &ids {
        let at = |call: &str| course.iter().position(|said| *said == format!("{call} {id}")).unwrap();
        assert!(at("ack") < at("result"), "{id}");
    }
    assert_eq!(value_of(&agent, "a").as_deref(), Some("11"), "the last one wins");
    assert_sound(&testbed);
}

/// P1.5.2: a job that has expired is acked, answered, and not applied.
#[test]
fn an_expired_job_is_answered_and_not_applied() {
    let testbed = Testbed::start();
    let agent = start(&testbed);
    let result = done(&testbed, Job::apply(config_map("shop", "a", "1")).expires_in(-1));
    assert_eq!((&result["outcome"], &result["error"]), (&json!("noop"), &json!("expired")));
    assert_eq!(result.get("appliedRef"), None);
    assert_eq!(value_of(&agent, "a"), None);
    assert_sound(&testbed);
}

/// P1.5.2: the order of the questions: expired, duplicate, allowed.
#[test]
fn expiry_comes_before_duplicates_and_duplicates_before_the_policy() {
    let testbed = Testbed::start();
    let _agent = start(&testbed);
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "a", "1")).with("idempotencyKey", "k"))));
    let forbidden = || Job::apply(config_map("kube-system", "a", "1")).with("idempotencyKey", "k");
    assert_eq!(done(&testbed, forbidden().expires_in(-1))["error"], "expired");
    let duplicate = done(&testbed, forbidden());
    assert_eq!(duplicate["outcome"], "noop");
    assert!(duplicate["error"].as_str().unwrap().contains("duplicate"), "{duplicate}");
    let refused = done(&testbed, forbidden().with("idempotencyKey", "another"));
    assert_eq!(refused["outcome"], "failed");
    assert_sound(&testbed);
}

/// P1.5.6: another job with a used key has no effect, whether it comes in the same answer or later.
#[test]
fn another_job_with_a_used_key_is_a_noop() {
    let testbed = Testbed::start();
    let job = |value: &str| Job::apply(config_map("shop", "a", value)).with("idempotencyKey", "one");
    let ids = testbed.enqueue_all(CLUSTER, [job("1"), job("2")]);
    let agent = start(&testbed);
    assert!(succeeded(&testbed.result_of(&ids[0], SOON)));
    assert_eq!(testbed.result_of(&ids[1], SOON)["outcome"], "noop");
    let later = done(&testbed, job("3"));
    assert_eq!(later["outcome"], "noop");
    assert_eq!(later.get("appliedRef"), None);
    assert_eq!(value_of(&agent, "a").as_deref(), Some("1"));
    assert_sound(&testbed);
}

/// P1.5.6, P1.5.7: a job that did nothing has not used its key, so that the server can send it anew.
#[test]
fn a_job_that_failed_can_be_sent_again_under_another_id() {
    let testbed = Testbed::start();
    let agent = start(&testbed);
    let job = |namespace: &str| Job::apply(config_map(namespace, "a", "1")).with("idempotencyKey", "one");
    assert_eq!(done(&testbed, job("kube-system"))["outcome"], "failed");
    assert_eq!(done(&testbed, job("shop").expires_in(-1))["outcome"], "noop");
    assert!(succeeded(&done(&testbed, job("shop"))));
    assert_eq!(value_of(&agent, "a").as_deref(), Some("1"));
    assert_sound(&testbed);
}

/// P1.5.5: a job that comes again although it is acked, while its result is still on its way: one effect, one
/// result.
#[test]
fn a_redelivered_job_has_one_effect_while_its_result_is_on_its_way() {
    let testbed = Testbed::start();
    let agent = start(&testbed);
    testbed.fault_until_cleared(Call::Result, Fault::CutBeforeHead);
    let id = testbed.apply(CLUSTER, config_map("shop", "a", "1"));
    super::since(&testbed, Call::Result, 0, 1);
    let first = effect(&agent.directory(), "a");
    testbed.redeliver(&id);
    testbed.wait_for("the second ack", SOON, |state| (state.jobs[0].acks.len() == 2).then_some(()));
    testbed.clear_faults();
    assert!(succeeded(&testbed.result_of(&id, SOON)));
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "b", "1")))));
    assert_eq!(effect(&agent.directory(), "a"), first);
    let bodies: Vec<_> = about(&testbed, Call::Result, &id).into_iter().map(|seen| seen.body).collect();
    assert!(bodies.iter().all(|body| *body == bodies[0]), "the recorded outcome each time");
    assert_sound(&testbed);
}

/// P1.5.5: a finished job that comes again, since the server lost its result: the recorded outcome and the
/// applied reference are posted again as they were.
#[test]
fn a_finished_job_that_comes_again_has_its_outcome_posted_again() {
    let testbed = Testbed::start();
    let agent = start(&testbed);
    testbed.fault(Call::Result, 1, Fault::Answer(Answer::done()));
    let id = testbed.apply(CLUSTER, config_map("shop", "a", "1"));
    super::since(&testbed, Call::Result, 0, 1);
    let first = effect(&agent.directory(), "a");
    testbed.redeliver(&id);
    let result = testbed.result_of(&id, SOON);
    assert!(succeeded(&result));
    assert_eq!(result["appliedRef"]["name"], "a");
    let posted = about(&testbed, Call::Result, &id);
    assert_eq!((posted.len(), &posted[0].body), (2, &posted[1].body));
    assert_eq!(effect(&agent.directory(), "a"), first);
    assert_eq!(about(&testbed, Call::Status, &id).len(), 1, "it is not told twice how it went");
    assert_sound(&testbed);
}

/// P1.5.5: that goes for a failure as well, and for a job whose content changed meanwhile.
#[test]
fn the_recorded_outcome_counts_and_not_what_came_the_second_time() {
    let testbed = Testbed::start();
    let agent = start(&testbed);
    testbed.fault(Call::Result, 2, Fault::Answer(Answer::done()));
    let failed = testbed.enqueue(CLUSTER, Job::apply(config_map("kube-system", "a", "1")).with("id", "failed"));
    let worked = testbed.enqueue(CLUSTER, Job::apply(config_map("shop", "b", "1")).with("id", "worked"));
    super::since(&testbed, Call::Result, 0, 2);
    for id in [&failed, &worked] {
        testbed.enqueue(CLUSTER, Job::apply(config_map("shop", "b", "changed")).with("id", id.as_str()));
    }
    assert_eq!(testbed.result_of(&failed, SOON)["outcome"], "failed");
    assert!(succeeded(&testbed.result_of(&worked, SOON)));
    assert_eq!(value_of(&agent, "b").as_deref(), Some("1"));
    assert_sound(&testbed);
}

/// P1.5.5: the last 64 are remembered. One that is older has no second effect either, as long as its key is.
#[test]
fn a_job_that_is_forgotten_has_no_second_effect_by_its_key() {
    let testbed = Testbed::start();
    let agent = start(&testbed);
    testbed.fault(Call::Result, 65, Fault::Answer(Answer::done()));
    let jobs = (0..65).map(|at| Job::apply(config_map("shop", &format!("a{at}"), "1")).with("id", format!("old-{at}")));
    let ids = testbed.enqueue_all(CLUSTER, jobs);
    super::since(&testbed, Call::Result, 0, 65);
    let effects = [effect(&agent.directory(), "a0"), effect(&agent.directory(), "a1")];
    testbed.redeliver(&ids[1]);
    assert!(succeeded(&testbed.result_of(&ids[1], SOON)), "remembered");
    testbed.redeliver(&ids[0]);
    assert_eq!(testbed.result_of(&ids[0], SOON)["outcome"], "noop", "forgotten");
    assert_eq!([effect(&agent.directory(), "a0"), effect(&agent.directory(), "a1")], effects);
    assert_sound(&testbed);
}

/// P1.5.7: a job that failed is not tried again by the agent.
#[test]
fn a_job_that_failed_is_answered_once() {
    let testbed = Testbed::start();
    let _agent = start(&testbed);
    assert_eq!(done(&testbed, Job::new("dance", json!({})))["outcome"], "failed");
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "a", "1")))));
    let course = course(&testbed);
    assert_eq!(course.len(), 4, "{course:?}");
}

/// P1.5.8, P1.2.9: a result is posted until it is taken; 409 means that it was.
#[test]
fn a_result_is_posted_until_it_is_taken() {
    let testbed = Testbed::start();
    let _agent = start(&testbed);
    testbed.fault(Call::Result, 1, Fault::status(500));
    testbed.fault(Call::Result, 1, Fault::LostAnswer);
    let id = testbed.apply(CLUSTER, config_map("shop", "a", "1"));
    testbed.result_of(&id, SOON);
    let posted = super::since(&testbed, Call::Result, 0, 3);
    let statuses: Vec<_> = posted.iter().map(|seen| seen.answered.map(|(_, status)| status)).collect();
    assert_eq!((statuses[0], statuses[1]), (Some(500), None));
    assert!(posted.iter().all(|seen| seen.body == posted[0].body));
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "b", "1")))));
    assert_eq!(about(&testbed, Call::Result, &id).len(), 3, "the 409 to the third ended it");
    assert_sound(&testbed);
}

/// P1.5.8: 404 says that the job is closed, 400 that nothing will help. Neither holds up the next result.
#[test]
fn a_result_that_nobody_wants_holds_nothing_up() {
    let testbed = Testbed::start();
    let agent = start(&testbed);
    for status in [404, 400, 409] {
        testbed.fault(Call::Result, 1, Fault::status(status));
        let (one, next) = (format!("a-{status}"), format!("b-{status}"));
        let job = |name: &str| Job::apply(config_map("shop", name, "1")).with("id", name);
        testbed.enqueue_all(CLUSTER, [job(&one), job(&next)]);
        assert!(succeeded(&testbed.result_of(&next, SOON)), "{status}");
        assert_eq!(about(&testbed, Call::Result, &one).len(), 1, "{status}");
        assert_eq!(value_of(&agent, &one).as_deref(), Some("1"), "{status}");
    }
    assert!(agent.log().contains("refused and is given up"), "a 400 is not passed over in silence");
    assert_sound(&testbed);
}

/// P1.5.9: a job that the server has closed is not done, even by an agent that knows nothing of it.
#[test]
fn a_closed_job_is_not_done_by_an_agent_that_was_started_anew() {
    let testbed = Testbed::start();
    let setup = setup(&testbed);
    let mut agent = setup.spawn();
    let id = testbed.enqueue(CLUSTER, Job::apply(config_map("shop", "a", "1")).with("id", "closed"));
    testbed.result_of(&id, SOON);
    agent.kill();
    for name in ["journal", "checkpoint"] {
        std::fs::remove_file(setup.state_dir().join(name)).unwrap();
    }
    testbed.enqueue(CLUSTER, Job::apply(config_map("shop", "a", "2")).with("id", "closed"));
    let again = setup.spawn();
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "b", "1")))));
    let acks = about(&testbed, Call::Ack, "closed");
    assert_eq!(acks.iter().map(|seen| seen.answered.unwrap().1).collect::<Vec<_>>(), [204, 409]);
    assert_eq!(value_of(&again, "a").as_deref(), Some("1"));
    assert_eq!(about(&testbed, Call::Result, "closed").len(), 1);
    assert_sound(&testbed);
}

/// P1.5.2, P1.3.5: what a succeeded job is answered with.
#[test]
fn a_result_says_what_was_applied() {
    let testbed = Testbed::start();
    let agent = connected(&testbed);
    let result = done(&testbed, Job::apply(config_map("shop", "a", "1")));
    assert_eq!(members(&result), ["appliedRef", "outcome", "timestamp"].into());
    let expected = json!({"apiVersion": "v1", "kind": "ConfigMap", "namespace": "shop", "name": "a"});
    assert_eq!(result["appliedRef"], expected);
    assert!(applied(&agent.directory(), "ConfigMap", "a").is_some());
    assert_sound(&testbed);
}

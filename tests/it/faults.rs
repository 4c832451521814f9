//! Whatever the network or the server does, the agent goes on by itself.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use pullet::limits;
use rustix::process::Signal;
use serde_json::Value;

use crate::agent::{Agent, CLUSTER, Setup};
use crate::scene::{LATER, SOON, STOP, Scene, goes_on, hit, quick, says, succeeds};
use crate::testbed::job::config_map;
use crate::testbed::{Answer, Call, Fault, Job, MEDIA_TYPE, Testbed};

/// Every call that an agent makes while it runs.
const CALLS: [Call; 6] = [Call::Ack, Call::Events, Call::Jobs, Call::Result, Call::Rotate, Call::Status];

/// One fault of each call, each with an agent of its own: what was under way is done in the end and what follows, too.
fn is_got_over(fault: &Fault) {
    thread::scope(|scope| {
        for call in CALLS {
            scope.spawn(move || got_over(call, fault, SOON));
        }
    });
}

fn got_over(call: Call, fault: &Fault, timeout: Duration) {
    let scene = Scene::start();
    let testbed = &scene.testbed;
    testbed.fault(call, 1, fault.clone());
    let applied = scene.apply("meanwhile");
    succeeds(testbed, &applied, timeout);
    let rotated = scene.rotate();
    succeeds(testbed, &rotated, timeout);
    hit(testbed, call, timeout);
    let is_rotated = |event: &Value| event["kind"] == "CredentialRotated";
    testbed.event("the rotation's event", timeout, is_rotated);
    scene.goes_on();
    assert_eq!(testbed.violations(), Vec::<String>::new(), "{call:?} {fault:?}");
    // A status has no key: one whose answer was lost is told again, word for word.
    let statuses = testbed.statuses(&applied);
    assert!(statuses.len() == 1 || call == Call::Status && statuses.len() == 2 && statuses[0] == statuses[1]);
    // What is sent again has the same key, and what happened once is one event.
    let rotations = testbed.events().iter().filter(|record| is_rotated(&record.event)).count();
    assert_eq!(rotations, 1, "{call:?} {fault:?}");
}

#[test]
fn a_cut_before_the_head_is_got_over_on_every_call() {
    is_got_over(&Fault::CutBeforeHead);
}

#[test]
fn a_cut_in_the_body_is_got_over_on_every_call() {
    is_got_over(&Fault::CutInBody);
}

#[test]
fn a_lost_answer_is_got_over_on_every_call() {
    is_got_over(&Fault::LostAnswer);
}

#[test]
fn a_page_of_a_captive_portal_is_got_over_on_every_call() {
    is_got_over(&Fault::html(200));
}

#[test]
fn an_oversized_head_is_got_over_on_every_call() {
    is_got_over(&Fault::LongHead(limits::HEAD_BYTES + 1));
}

#[test]
fn what_is_no_http_is_got_over_on_every_call() {
    is_got_over(&Fault::NotHttp);
}

#[test]
fn an_answer_without_an_end_is_got_over_on_every_call() {
    is_got_over(&Fault::EndlessSpace);
}

#[test]
fn jobs_without_an_end_are_worked_in_bounded_portions() {
    let scene = Scene::start();
    scene.testbed.fault(Call::Jobs, 1, Fault::EndlessJobs);
    hit(&scene.testbed, Call::Jobs, SOON);
    scene.goes_on();
    let mut tries: BTreeMap<String, usize> = BTreeMap::new();
    for seen in scene.testbed.requests_of(Call::Ack).into_iter().filter(|seen| seen.path.contains("/endless-")) {
        *tries.entry(seen.path).or_default() += 1;
    }
    // The server does not know them: 404 says that they are closed, and nothing is done.
    assert!((1..=limits::ANSWER_BYTES / limits::JOB_OVERHEAD).contains(&tries.len()), "{} jobs", tries.len());
    assert!(tries.values().all(|times| *times == 1));
}

#[test]
fn a_compressed_answer_that_nobody_asked_for_is_got_over() {
    // {"jobs":[]} by gzip -n.
    let packed = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xab\x56\xca\xca\x4f\x2a\x56\xb2\x8a\x8e\xad\x05\x00\x50\xa7\xea\xc9\x0b\x00\x00\x00";
    let scene = Scene::start();
    let answer = Answer::of(200, MEDIA_TYPE, &packed[..]).with("content-encoding", "gzip");
    scene.testbed.fault(Call::Jobs, 1, Fault::Answer(answer));
    hit(&scene.testbed, Call::Jobs, SOON);
    scene.goes_on();
    let polls = scene.testbed.requests_of(Call::Jobs);
    assert!(polls.iter().all(|seen| seen.header("accept-encoding").is_none()), "{:?}", polls[0]);
}

#[test]
fn a_redirect_is_never_followed() {
    let elsewhere = Testbed::start();
    let mut scenes = Vec::new();
    for (call, status) in CALLS.into_iter().zip([301, 302, 303, 307, 308, 307]) {
        let scene = Scene::with(|setup| trust_both(setup, &elsewhere));
        scene.testbed.fault(call, 1, Fault::redirect(status, &format!("{}/api/agent/jobs", elsewhere.endpoint())));
        let jobs = [scene.apply("meanwhile"), scene.rotate()];
        scenes.push((scene, call, jobs));
    }
    for (scene, call, jobs) in &scenes {
        for job in jobs {
            succeeds(&scene.testbed, job, SOON);
        }
        hit(&scene.testbed, *call, SOON);
        scene.goes_on();
        assert_eq!(scene.testbed.violations(), Vec::<String>::new());
    }
    let testbed = Testbed::start();
    let setup = trust_both(quick(&testbed), &elsewhere);
    testbed.fault(Call::Register, 1, Fault::redirect(307, &format!("{}/api/agent/register", elsewhere.endpoint())));
    says(&setup.run_to_end("register"), 1, &["307", "not the control plane"]);
    says(&setup.run_to_end("register"), 0, &["registered as c1"]);
    assert_eq!(elsewhere.counts().connections, 0, "neither a request nor a bearer left for elsewhere");
}

/// With this the agent would believe the other server, too.
fn trust_both(setup: Setup, elsewhere: &Testbed) -> Setup {
    setup.env("SSL_CERT_FILE", elsewhere.ca_file())
}

#[test]
fn an_unknown_field_is_said_and_blocks_nothing() {
    let scene = Scene::start();
    for call in [Call::Events, Call::Status, Call::Jobs, Call::Ack] {
        scene.testbed.fault(call, 1, Fault::refusal(400, "UnknownField"));
    }
    let jobs = [scene.apply("meanwhile"), scene.rotate()];
    for job in &jobs {
        succeeds(&scene.testbed, job, SOON);
    }
    for call in [Call::Events, Call::Status, Call::Jobs, Call::Ack] {
        hit(&scene.testbed, call, SOON);
    }
    scene.goes_on();
    let log = scene.agent.log();
    for words in ["UnknownField", "a report was refused", "an event was refused", "refuses to be polled"] {
        assert!(log.contains(words), "no {words:?} in\n{log}");
    }
}

#[test]
fn an_effect_whose_answer_was_lost_is_had_once() {
    let scene = Scene::with(|setup| setup.without("--wait").flag("--wait", "20"));
    for call in [Call::Ack, Call::Status, Call::Result, Call::Events] {
        scene.testbed.fault(call, 1, Fault::LostAnswer);
    }
    let job = scene.apply("once");
    succeeds(&scene.testbed, &job, SOON);
    scene.testbed.wait_for("both tries of the result", SOON, |state| {
        let mut tries = state.requests.iter().filter(|seen| seen.call == Some(Call::Result));
        tries.nth(1)?.answered.map(|(_, status)| assert_eq!(status, 409))
    });
    scene.testbed.wait_for("an event that was known", SOON, |state| (state.repeated_events > 0).then_some(()));
    let applied = scene.agent.log().matches("the job ended").count();
    assert_eq!(applied, 1, "{}", scene.agent.log());
    assert_eq!(scene.testbed.acks(&job), 2, "the ack whose answer was lost was repeated");
    scene.goes_on();
}

#[test]
fn complete_jobs_before_a_cut_are_worked_and_the_rest_comes_again() {
    let scene = polled_with(&Fault::CutInBody);
    let jobs: Vec<Job> = (0..4).map(|n| Job::apply(config_map("clinic", &format!("part-{n}"), "x"))).collect();
    let ids = scene.testbed.enqueue_all(CLUSTER, jobs);
    for id in &ids {
        succeeds(&scene.testbed, id, SOON);
    }
    let offers: Vec<usize> = ids.iter().map(|id| scene.testbed.job(id).offered.len()).collect();
    assert_eq!((offers[0], offers[3]), (1, 2), "what came whole was worked and acked, the rest came again");
    assert!(ids.iter().all(|id| scene.testbed.acks(id) == 1));
    assert!(scene.agent.log().contains("an answer broke off; its complete jobs are worked"), "{}", scene.agent.log());
}

/// An agent whose poll is held and whose answer a fault will spoil.
fn polled_with(fault: &Fault) -> Scene {
    let scene = Scene::with(|setup| setup.without("--wait").flag("--wait", "60"));
    scene.testbed.fault(Call::Jobs, 1, fault.clone());
    // Ends the poll that is held; the next one is hit.
    let first = scene.apply("first");
    succeeds(&scene.testbed, &first, SOON);
    hit(&scene.testbed, Call::Jobs, SOON);
    scene
}

#[test]
fn a_server_that_was_down_gets_what_happened_before_and_sends_what_came_meanwhile() {
    let mut scene = Scene::with(|setup| setup.without("--wait").flag("--wait", "60"));
    scene.testbed.fault_until_cleared(Call::Result, Fault::CutBeforeHead);
    let before = scene.apply("before");
    hit(&scene.testbed, Call::Result, SOON);
    scene.testbed.down();
    let meanwhile = scene.apply("meanwhile");
    // The post has said already that there is no connection; the poll has to have failed as well.
    scene.agent.wait_for_log("the next poll follows after a pause", SOON);
    scene.testbed.clear_faults();
    assert_eq!(scene.testbed.result(&before), None);
    scene.testbed.up();
    succeeds(&scene.testbed, &before, SOON);
    succeeds(&scene.testbed, &meanwhile, SOON);
    assert_eq!(scene.agent.log().matches("\"connected to the control plane\"").count(), 2, "{}", scene.agent.log());
    assert_eq!(scene.testbed.violations(), Vec::<String>::new());
}

#[test]
fn a_server_that_is_down_at_the_start_is_waited_for() {
    let mut testbed = Testbed::start();
    let setup = quick(&testbed);
    testbed.down();
    let mut agent = setup.spawn();
    agent.wait_for_log("not registered yet; it is tried again", SOON);
    agent.wait_for_log("Connection refused", SOON);
    testbed.up();
    goes_on(&testbed);
    agent.stop();
    // The same with a credential.
    testbed.down();
    let mut agent = setup.spawn();
    agent.wait_for_log("not connected; the cluster goes on", SOON);
    testbed.up();
    goes_on(&testbed);
    assert_eq!(agent.stop().status.code(), Some(0));
}

#[test]
fn a_name_without_an_address_is_said_and_tried_again() {
    let testbed = Testbed::start();
    let setup = quick(&testbed).flag("--endpoint", "https://nonexistent.invalid");
    says(&setup.run_to_end("register"), 1, &["nonexistent.invalid", "has no address", "DNS"]);
    let mut agent = setup.spawn();
    agent.wait_for_log("the name nonexistent.invalid has no address", SOON);
    let ended = agent.stop();
    assert!(ended.status.success() && ended.took < STOP, "{ended:?}\n{}", agent.log());
}

#[test]
fn a_refusal_that_is_settled_each_time_is_no_hot_loop() {
    let scene = Scene::start();
    for _ in 0..200 {
        scene.testbed.fault(Call::Jobs, 1, Fault::status(401));
        scene.testbed.fault(Call::Jobs, 1, Fault::IgnoredWait);
    }
    let before = scene.testbed.counts().polls;
    thread::sleep(Duration::from_secs(3));
    let polls = scene.testbed.counts().polls - before;
    assert!(polls <= 12, "{polls} polls in three seconds");
    scene.testbed.clear_faults();
    scene.goes_on();
}

#[test]
fn a_registration_gets_over_what_went_wrong_before_the_token_was_used() {
    let faults = [Fault::CutBeforeHead, Fault::html(200), Fault::NotHttp, Fault::EndlessSpace, Fault::status(503)];
    thread::scope(|scope| {
        for fault in faults {
            scope.spawn(move || {
                let testbed = Testbed::start();
                testbed.fault(Call::Register, 1, fault);
                let agent = quick(&testbed).spawn();
                goes_on(&testbed);
                assert!(agent.log().contains("not registered yet; it is tried again"), "{}", agent.log());
                assert_eq!(testbed.requests_of(Call::Register).len(), 2);
            });
        }
    });
}

/// What takes as long as a bound of the agent, all at once.
#[test]
fn a_drip_and_silence_are_given_up_in_time_and_the_agent_goes_on() {
    thread::scope(|scope| {
        for call in CALLS {
            scope.spawn(move || got_over(call, &Fault::Silence, LATER));
            scope.spawn(move || got_over(call, &Fault::SilenceInBody, LATER));
        }
        scope.spawn(a_drip_is_given_up);
        scope.spawn(complete_jobs_before_silence_are_worked);
        scope.spawn(a_lost_registration_needs_a_new_token);
        scope.spawn(a_port_that_says_nothing_is_given_up);
    });
}

fn a_drip_is_given_up() {
    let scene = polled_with(&Fault::Drip(Duration::from_secs(1)));
    let since = Instant::now();
    // Of a length that would take the drip an hour.
    let job = scene.testbed.enqueue(CLUSTER, Job::apply(config_map("clinic", "drip", &"x".repeat(3_000))));
    succeeds(&scene.testbed, &job, LATER);
    let took = since.elapsed();
    assert!(took >= limits::BODY_RATE_GRACE, "{took:?}");
    assert!(scene.agent.log().contains("too slowly"), "{}", scene.agent.log());
    assert_eq!(scene.testbed.job(&job).offered.len(), 2);
}

fn complete_jobs_before_silence_are_worked() {
    let scene = polled_with(&Fault::SilenceInBody);
    let jobs: Vec<Job> = (0..4).map(|n| Job::apply(config_map("clinic", &format!("part-{n}"), "x"))).collect();
    let since = Instant::now();
    let ids = scene.testbed.enqueue_all(CLUSTER, jobs);
    for id in &ids {
        succeeds(&scene.testbed, id, LATER);
    }
    assert!(since.elapsed() >= limits::READ_TIMEOUT, "{:?}", since.elapsed());
    assert_eq!(scene.testbed.job(&ids[0]).offered.len(), 1);
}

fn a_lost_registration_needs_a_new_token() {
    let testbed = Testbed::start();
    testbed.fault(Call::Register, 1, Fault::LostAnswer);
    let setup = quick(&testbed);
    let agent = setup.spawn();
    agent.wait_for_log("put a new one into its file", SOON);
    let _setup = setup.token(&testbed.issue_token(Some(CLUSTER)));
    goes_on(&testbed);
    assert_eq!(testbed.requests_of(Call::Register).len(), 3, "a token that was refused is not tried twice");
}

fn a_port_that_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let testbed = Testbed::start();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let setup = quick(&testbed).flag("--endpoint", address);
    let mut agent = setup.spawn();
    says(&Agent::run_to_end(["version"]), 0, &["pullet"]);
    agent.wait_for_log("no answer in time while connecting", LATER);
    agent.signal(Signal::TERM);
    assert!(agent.wait(STOP).success());
}

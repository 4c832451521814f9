//! The end of an agent, asked for or not.

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use pullet::limits;
use rustix::process::Signal;

use crate::agent::{Agent, Ended};
use crate::scene::{LATER, SOON, STOP, Scene, apply, goes_on, hit, quick, says, succeeds};
use crate::testbed::{Call, Fault, RetryAfter, Testbed};

const SIGNALS: [Signal; 2] = [Signal::TERM, Signal::INT];

/// Ends by a signal, in time and with 0.
#[track_caller]
fn ends(agent: &mut Agent, signal: Signal) -> Ended {
    let since = Instant::now();
    agent.signal(signal);
    let status = agent.wait(LATER);
    let ended = Ended { status, took: since.elapsed() };
    assert!(status.code() == Some(0) && ended.took < STOP, "{signal:?}: {ended:?}\n{}", agent.log());
    ended
}

#[test]
fn a_held_poll_does_not_hold_up_the_end() {
    for signal in SIGNALS {
        let mut scene = Scene::with(|setup| setup.without("--wait").flag("--wait", "300"));
        ends(&mut scene.agent, signal);
        // Out of patience it would say something else.
        scene.agent.wait_for_log("\"stopped\"", SOON);
    }
}

#[test]
fn the_job_at_hand_is_finished_and_its_result_is_posted() {
    for signal in SIGNALS {
        let mut scene = Scene::start();
        // 76 bytes and more: the rotation takes some tenths of a second. The poll that tries what it brought has an answer at once.
        scene.testbed.fault(Call::Rotate, 1, Fault::Drip(Duration::from_millis(3)));
        let job = scene.rotate();
        hit(&scene.testbed, Call::Rotate, SOON);
        scene.apply("behind");
        ends(&mut scene.agent, signal);
        succeeds(&scene.testbed, &job, Duration::ZERO);
        let kinds: Vec<String> = scene.testbed.events().iter().map(|record| record.event["kind"].to_string()).collect();
        assert!(kinds.contains(&"\"CredentialRotated\"".to_owned()), "{kinds:?}");
        // What it brought is in use afterwards.
        let _agent = scene.setup.spawn();
        scene.goes_on();
    }
}

#[test]
fn a_job_that_cannot_be_finished_in_time_goes_on_after_the_next_start() {
    let mut scene = Scene::start();
    scene.testbed.fault_until_cleared(Call::Rotate, Fault::Silence);
    let job = scene.rotate();
    hit(&scene.testbed, Call::Rotate, SOON);
    ends(&mut scene.agent, Signal::TERM);
    assert_eq!(scene.testbed.result(&job), None);
    scene.testbed.clear_faults();
    scene.agent = scene.setup.spawn();
    succeeds(&scene.testbed, &job, SOON);
    assert_eq!(scene.testbed.violations(), Vec::<String>::new());
}

#[test]
fn a_job_whose_ack_got_no_answer_is_left_and_comes_again() {
    for fault in [Fault::Silence, Fault::status(503), Fault::CutBeforeHead] {
        let mut scene = Scene::start();
        scene.testbed.fault_until_cleared(Call::Ack, fault.clone());
        let job = scene.apply("left");
        let behind = scene.apply("behind");
        hit(&scene.testbed, Call::Ack, SOON);
        ends(&mut scene.agent, Signal::TERM);
        assert_eq!((scene.testbed.acks(&job), scene.testbed.result(&job)), (0, None));
        let files = std::fs::read_dir(scene.agent.directory()).unwrap().count();
        assert_eq!(files, 0, "{fault:?}: what was not acked is not applied");
        scene.testbed.clear_faults();
        scene.agent = scene.setup.spawn();
        succeeds(&scene.testbed, &job, SOON);
        succeeds(&scene.testbed, &behind, SOON);
        assert_eq!(scene.testbed.violations(), Vec::<String>::new());
    }
}

#[test]
fn what_waits_is_posted_before_the_end() {
    let mut scene = Scene::start();
    scene.testbed.fault(Call::Status, 1, Fault::retry_after(503, RetryAfter::Seconds(600)));
    let applied = scene.apply("waits");
    hit(&scene.testbed, Call::Status, SOON);
    let rotated = scene.rotate();
    scene.testbed.wait_for("the rotation", SOON, |state| {
        state.requests.iter().any(|seen| seen.call == Some(Call::Rotate)).then_some(())
    });
    assert_eq!(scene.testbed.result(&applied), None, "the server asked for ten minutes");
    scene.agent.wait_for_log("\"a new credential is in use\"", SOON);
    ends(&mut scene.agent, Signal::TERM);
    succeeds(&scene.testbed, &applied, Duration::ZERO);
    succeeds(&scene.testbed, &rotated, Duration::ZERO);
    assert!(scene.testbed.events().iter().any(|record| record.event["kind"] == "CredentialRotated"));
    assert!(!scene.agent.log().contains("stopped before"), "{}", scene.agent.log());
}

#[test]
fn what_could_not_be_posted_is_counted_in_the_log() {
    for is_silent in [false, true] {
        let mut scene = Scene::start();
        let fault = if is_silent { Fault::Silence } else { Fault::CutBeforeHead };
        for call in [Call::Status, Call::Result, Call::Events] {
            scene.testbed.fault_until_cleared(call, fault.clone());
        }
        let job = scene.apply("lost");
        hit(&scene.testbed, Call::Status, SOON);
        if !is_silent {
            scene.testbed.down();
        }
        ends(&mut scene.agent, Signal::TERM);
        let log = scene.agent.log();
        let last = log.lines().rfind(|line| line.contains("stopped before everything was posted"));
        let last = last.unwrap_or_else(|| panic!("{log}"));
        assert!(last.contains("\"reports\":2"), "the status and the result: {last}");
        assert_eq!(scene.testbed.result(&job), None);
    }
}

/// The others leave room for a machine that does other things as well. Here one of three has to keep the promise to the letter,
/// with a control plane that answers nothing, which is as long as it takes.
#[test]
fn it_ends_in_the_time_that_is_promised() {
    let ends = || {
        let mut scene = Scene::start();
        for call in [Call::Status, Call::Result, Call::Events] {
            scene.testbed.fault_until_cleared(call, Fault::Silence);
        }
        scene.apply("waits");
        hit(&scene.testbed, Call::Status, SOON);
        ends(&mut scene.agent, Signal::TERM).took
    };
    let mut took = Vec::new();
    while took.len() < 3 && took.iter().all(|took| *took > limits::STOP_TIMEOUT) {
        took.push(ends());
    }
    assert!(took.last().is_some_and(|took| *took <= limits::STOP_TIMEOUT), "{took:?}");
    assert!(took.iter().all(|took| *took > limits::STOP_ACT), "it was waited for: {took:?}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut scene = Scene::start();
    scene.testbed.fault_until_cleared(Call::Result, Fault::Silence);
    scene.apply("waits");
    hit(&scene.testbed, Call::Result, SOON);
    scene.agent.signal(Signal::TERM);
    scene.agent.wait_for_log("stopping: the job at hand is finished", SOON);
    scene.agent.signal(Signal::INT);
    let status = scene.agent.wait(SOON);
    // By itself it would end with 0, four seconds after the first one.
    assert_eq!(status.code(), Some(1), "not everything was done");
}

#[test]
fn a_registration_without_an_answer_does_not_hold_up_the_end() {
    thread::scope(|scope| {
        scope.spawn(|| {
            let testbed = Testbed::start();
            testbed.fault_until_cleared(Call::Register, Fault::Silence);
            let mut agent = quick(&testbed).spawn();
            hit(&testbed, Call::Register, SOON);
            ends(&mut agent, Signal::TERM);
            assert!(agent.log().contains("the one-time token may be used up"), "{}", agent.log());
        });
        // A port that accepts and says nothing, not even TLS.
        scope.spawn(|| {
            let testbed = Testbed::start();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = format!("https://{}", listener.local_addr().unwrap());
            let mut agent = quick(&testbed).flag("--endpoint", &address).spawn();
            let accepted = listener.accept().unwrap();
            ends(&mut agent, Signal::INT);
            drop(accepted);
        });
        // Between two tries.
        scope.spawn(|| {
            let mut testbed = Testbed::start();
            testbed.down();
            let mut agent = quick(&testbed).spawn();
            agent.wait_for_log("not registered yet", SOON);
            let ended = ends(&mut agent, Signal::TERM);
            assert!(ended.took < limits::STOP_DRAIN, "nothing is waited for: {ended:?}");
        });
    });
}

#[test]
fn an_agent_without_a_server_ends_at_once() {
    let mut scene = Scene::start();
    scene.testbed.down();
    scene.agent.wait_for_log("not connected", SOON);
    ends(&mut scene.agent, Signal::TERM);
}

#[test]
fn what_a_kill_leaves_is_good_for_the_next_start() {
    let mut scene = Scene::start();
    let before = scene.apply("before");
    succeeds(&scene.testbed, &before, SOON);
    let mut left = None;
    for round in 0..3 {
        scene.testbed.fault(Call::Rotate, 1, Fault::Drip(Duration::from_millis(10)));
        let rotation = scene.rotate();
        scene.testbed.ack_of(&rotation, SOON);
        // At another moment each time: in the middle of the answer, of the probe, after it.
        thread::sleep(Duration::from_millis(400 * round));
        scene.agent.kill();
        scene.testbed.clear_faults();
        left = Some(scene.apply("left"));
        scene.agent = scene.setup.spawn();
        scene.goes_on();
    }
    succeeds(&scene.testbed, &left.expect("three rounds"), SOON);
    assert_eq!(scene.testbed.requests_of(Call::Register).len(), 1, "the credential outlived it all");
}

#[test]
fn a_second_agent_of_one_state_directory_is_refused() {
    let scene = Scene::start();
    for command in ["run", "register"] {
        let output = scene.setup.run_to_end(command);
        says(&output, 1, &["another pullet is using it", "stop that one first"]);
    }
    scene.goes_on();
}

#[test]
fn a_token_that_was_refused_is_waited_for_and_the_end_comes_at_once() {
    let testbed = Testbed::start();
    let mut agent = quick(&testbed).token("not-a-token-of-this-server").spawn();
    agent.wait_for_log("put a new one into its file", SOON);
    let ended = ends(&mut agent, Signal::TERM);
    assert!(ended.took < limits::STOP_DRAIN, "nothing is waited for: {ended:?}");
    assert_eq!(testbed.requests_of(Call::Register).len(), 1);
    let _agent = quick(&testbed).spawn();
    goes_on(&testbed);
    let _job = apply(&testbed, "and more");
}

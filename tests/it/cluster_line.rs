//! The line of a Cluster that is cut, and one that flaps: what the object and the events of Kubernetes say of it.

use std::time::{Duration, Instant};

use http::Method;
use rustix::process::Signal;
use serde_json::Value;

use crate::agent::Agent;
use crate::apiserver::wait_until;
use crate::cluster_stage::{Definitions, Stage};
use crate::scene::SOON;

/// Without a round trip for five minutes the agent counts as disconnected; a machine that does other things may be late.
const DISCONNECTED: Duration = Duration::from_secs(7 * 60);

/// The events of Kubernetes about the line.
fn told(stage: &Stage) -> Vec<String> {
    let mut events = stage.node.events(&stage.name);
    events.retain(|reason| reason.starts_with("Connection"));
    events
}

/// What was written to the status of the Cluster so far.
fn writes(stage: &Stage) -> usize {
    stage.writes().iter().filter(|write| write.starts_with("patch clusters/status ")).count()
}

/// Down and up again, several times, each for less than what counts as lost.
fn flap(stage: &mut Stage, agent: &Agent) {
    for _ in 0..4 {
        stage.testbed.down();
        std::thread::sleep(Duration::from_secs(2));
        stage.testbed.up();
        let polls = stage.testbed.counts().polls;
        agent.signal(Signal::HUP);
        stage.testbed.polls(polls + 2, SOON);
    }
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_line_that_flaps_is_no_event_and_no_write() {
    let (mut stage, agent) = Stage::connected(Definitions::Ours);
    // What the registration has to say is said.
    wait_until("its event", || !stage.node.events(&stage.name).is_empty());
    std::thread::sleep(Duration::from_secs(2));
    let before = stage.writes();
    flap(&mut stage, &agent);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(stage.writes(), before);
    assert_eq!(told(&stage), Vec::<String>::new());
    stage.is_connected();
}

/// What the control plane was told of whether there was a round trip: `True/NoRecentRoundTrip`.
fn audited(stage: &Stage) -> Vec<String> {
    let events = stage.testbed.events();
    let conditions = events.iter().map(|record| &record.event["conditions"][0]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    conditions
        .filter(|condition| condition["type"] == "Disconnected")
        .map(|condition| format!("{}/{}", text(&condition["status"]), text(&condition["reason"])))
        .collect()
}

#[test]
#[ignore = "needs minutes and a Kubernetes API server: tests/run --long, and KUBEBUILDER_ASSETS"]
fn a_line_that_is_cut_for_minutes_is_told_once_and_so_is_its_return() {
    let (mut stage, agent) = Stage::connected(Definitions::Alone);
    wait_until("its event", || !stage.node.events(&stage.name).is_empty());
    std::thread::sleep(Duration::from_secs(2));
    let before = writes(&stage);
    stage.testbed.down();
    stage.says("Connected", "False/ControlPlaneUnreachable");
    assert_eq!(stage.condition("Disconnected"), "False/Connected", "it is too early for that");
    assert_eq!(stage.cluster()["status"]["phase"], "Disconnected");
    assert_eq!(told(&stage), Vec::<String>::new());
    let begin = Instant::now();
    while stage.condition("Disconnected") != "True/NoRecentRoundTrip" {
        assert!(begin.elapsed() < DISCONNECTED, "{}", stage.cluster()["status"]);
        std::thread::sleep(Duration::from_secs(1));
    }
    wait_until("the event", || !told(&stage).is_empty());
    assert!(stage.condition("Authenticated").starts_with("True/"), "a network error never touches it");
    assert_eq!(writes(&stage) - before, 2, "one for each change: {:?}", stage.writes());

    stage.testbed.up();
    agent.signal(Signal::HUP);
    stage.says("Disconnected", "False/Connected");
    stage.is_connected();
    wait_until("the other event", || told(&stage).len() > 1);
    assert_eq!(writes(&stage) - before, 3, "{:?}", stage.writes());
    // The control plane is told what it could not see, each once.
    stage.testbed.event("the return", SOON, |event| event["conditions"][0]["reason"] == "Connected");
    assert_eq!(audited(&stage), ["True/NoRecentRoundTrip", "False/Connected"]);

    flap(&mut stage, &agent);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(told(&stage), ["ConnectionLost", "ConnectionRegained"]);
    assert_eq!(writes(&stage) - before, 3, "{:?}", stage.writes());
    let list = stage.node.0.request(Method::GET, "/api/v1/namespaces/default/events", None).1;
    for (reason, kind) in [("ConnectionLost", "Warning"), ("ConnectionRegained", "Normal")] {
        let is_it =
            |event: &&Value| event["reason"] == reason && event["involvedObject"]["name"] == stage.name.as_str();
        let event = list["items"].as_array().unwrap().iter().find(is_it).unwrap();
        assert_eq!((event["type"].as_str(), event["involvedObject"]["kind"].as_str()), (Some(kind), Some("Cluster")));
        assert_eq!(event["involvedObject"]["uid"], stage.cluster()["metadata"]["uid"]);
        assert!(!event["message"].as_str().unwrap().is_empty());
    }
}

//! `pullet journal`: what waits on the disk, read while the agent holds its lock.

use std::io::{BufRead as _, BufReader};
use std::process::{Output, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use serde_json::Value;

use crate::agent::{Agent, Setup};
use crate::scene::{SOON, apply, quick, says};
use crate::testbed::{Call, Fault, Testbed};

fn journal(setup: &Setup, flags: &[&str]) -> Output {
    let state = setup.state_dir().display().to_string();
    let arguments = ["journal", "--state-dir", state.as_str()].into_iter().chain(flags.iter().copied());
    Agent::run_to_end(arguments)
}

fn json(setup: &Setup) -> Value {
    let output = journal(setup, &["--json"]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

fn until(setup: &Setup, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + SOON;
    loop {
        let output = journal(setup, &["--json"]);
        // Before the agent has made it, there is none.
        let now = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        if fits(&now) {
            return now;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}: {now}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn what_waits_is_shown_while_the_agent_runs_and_without_what_it_carries() {
    let testbed = Testbed::start();
    let setup = quick(&testbed);
    says(&journal(&setup, &[]), 1, &["there is no journal", "--state-dir"]);
    testbed.fault_until_cleared(Call::Result, Fault::status(503));
    let mut agent = setup.spawn();
    let job = apply(&testbed, "waits");
    let survey = until(&setup, "a result", |survey| survey["results"]["count"] == 1);
    let result = &survey["results"]["oldest"][0];
    assert_eq!((&result["kind"], &result["id"]), (&"result".into(), &job.as_str().into()), "{survey}");
    assert_eq!(result["about"], "succeeded v1 ConfigMap clinic/waits");
    assert_eq!((&survey["bytes"], &survey["pages"]), (&262_144.into(), &64.into()));
    assert!(survey["pagesUsed"].as_u64().is_some_and(|used| used >= 1), "{survey}");
    says(&journal(&setup, &[]), 0, &["waiting        0 jobs, 1 results", &job, "of 64 hold what waits"]);
    testbed.clear_faults();
    testbed.result_of(&job, SOON);
    setup.close(&mut agent);
    let after = json(&setup);
    assert_eq!((&after["results"]["count"], &after["isClosed"]), (&0.into(), &true.into()), "{after}");
}

#[test]
fn a_journal_that_is_followed_tells_of_each_record_that_comes() {
    let testbed = Testbed::start();
    let setup = quick(&testbed);
    let agent = setup.spawn();
    testbed.held_poll(SOON);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pullet"));
    command.args(["journal", "--follow", "--json", "--state-dir"]).arg(setup.state_dir());
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it can be started");
    let (line, lines) = mpsc::channel();
    let stdout = child.stdout.take().expect("it is piped");
    let reader = std::thread::spawn(move || {
        for text in BufReader::new(stdout).lines().map_while(Result::ok) {
            let value: Value = serde_json::from_str(&text).expect("each line is JSON");
            if line.send(value).is_err() {
                return;
            }
        }
    });
    let next = || lines.recv_timeout(SOON).expect("one more line");
    assert_eq!(next()["pages"], 64);
    let job = apply(&testbed, "followed");
    let mut kinds = Vec::new();
    while !kinds.contains(&"result".to_owned()) {
        let entry = next();
        if entry["id"] == job.as_str() {
            kinds.push(entry["kind"].as_str().expect("a kind").to_owned());
        }
    }
    assert_eq!(kinds, ["job", "result"]);
    child.kill().expect("it still runs");
    child.wait().expect("it ends");
    drop(lines);
    reader.join().expect("the reader ends");
    drop(agent);
}

#[test]
fn wrong_usage_and_what_is_no_journal_are_told_apart() {
    let testbed = Testbed::start();
    let setup = quick(&testbed);
    says(&journal(&setup, &["--folow"]), 2, &["--folow"]);
    says(&journal(&setup, &["now"]), 2, &["does not belong here"]);
    std::fs::write(setup.state_dir().join("journal"), "short").expect("it can be written");
    says(&journal(&setup, &[]), 1, &["too small to be one"]);
    says(&Agent::run_to_end(["journal", "--help"]), 0, &["Usage: pullet journal", "--follow", "--state-dir"]);
}

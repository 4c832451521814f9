//! What the agent says of itself, and what it counts: `pullet status`, bytes on the wire, the metered profile.

use std::fs;
use std::process::Output;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::agent::{Agent, CLUSTER, Setup};
use crate::testbed::job::config_map;
use crate::testbed::owner::Owner;
use crate::testbed::{Call, Fault, Testbed};

const SOON: Duration = Duration::from_secs(90);

fn status(setup: &Setup, flags: &[&str]) -> Output {
    let file = setup.home().join("run/status.json");
    let mut arguments = vec!["status".to_owned(), "--status-file".to_owned(), file.display().to_string()];
    arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
    Agent::run_to_end(arguments)
}

fn json(setup: &Setup) -> Option<Value> {
    serde_json::from_slice(&status(setup, &["--json"]).stdout).ok()
}

fn until(setup: &Setup, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + SOON;
    loop {
        let now = json(setup);
        match &now {
            Some(status) if fits(status) => return status.clone(),
            _ => assert!(Instant::now() < deadline, "waited in vain for {what}: {now:?}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_status_follows_the_agent_from_its_start_to_its_end() {
    let mut testbed = Testbed::start();
    let setup = Agent::of(&testbed).target_directory().flag("--wait", "2");
    let before = status(&setup, &[]);
    assert_eq!(before.status.code(), Some(1));
    assert!(stderr(&before).contains("not running") && stderr(&before).contains("pullet run"), "{before:?}");

    let mut agent = setup.spawn();
    let id = testbed.apply(CLUSTER, config_map("shop", "a", "1"));
    testbed.result_of(&id, SOON);
    let now = until(&setup, "a job that is done", |status| status["jobs"]["succeeded"] == 1);
    assert_eq!((&now["connection"]["state"], &now["poll"]["holdState"]), (&"connected".into(), &"fixed".into()));
    assert_eq!((&now["pid"], &now["cluster"]), (&agent.pid().into(), &CLUSTER.into()));
    assert!(now["memory"]["rssKb"].as_u64().unwrap() > 500);
    let text = status(&setup, &[]);
    assert_eq!((text.status.code(), stderr(&text).as_str()), (Some(0), ""));
    assert!(String::from_utf8_lossy(&text.stdout).starts_with("connection     connected for "), "{text:?}");

    testbed.down();
    until(&setup, "the end of the line", |status| status["connection"]["state"] == "unreachable");
    let cut = status(&setup, &[]);
    assert_eq!(cut.status.code(), Some(1));
    assert!(stderr(&cut).contains("not connected since") && stderr(&cut).contains("kill -HUP"), "{cut:?}");
    assert_eq!(stderr(&cut).lines().count(), 1);
    testbed.up();
    agent.signal(Signal::HUP);
    until(&setup, "the line", |status| status["connection"]["state"] == "connected");

    testbed.fault_until_cleared(Call::Jobs, Fault::status(403));
    until(&setup, "a refusal", |status| status["connection"]["state"] == "forbidden");
    assert!(stderr(&status(&setup, &[])).contains("no jobs"));

    assert!(agent.stop().status.success());
    assert!(!agent.status_file().exists(), "removed at a clean stop");
    assert_eq!(fs::read_dir(setup.home().join("run")).unwrap().count(), 0);
    assert_eq!(status(&setup, &[]).status.code(), Some(1));
}

#[test]
fn the_status_says_whom_the_node_believes() {
    let testbed = Testbed::start();
    testbed.behave(|behaviour| behaviour.bearer_life = Some(Duration::from_hours(1)));
    let owner = Owner::new();
    let setup = Agent::of(&testbed).target_directory().flag("--wait", "1");
    let file = setup.home().join("keyring");
    let agent = setup.spawn();
    let open = until(&setup, "a status", |status| status["connection"]["state"] == "connected");
    assert_eq!((&open["trust"]["signatures"], &open["trust"]["state"]), (&"warn".into(), &"ok".into()));
    assert_eq!((&open["trust"]["keyringVersion"], &open["trust"]["fingerprint"]), (&0.into(), &"".into()));
    assert!(printed(&setup).contains("trust          jobs need no signature: no key is pinned\n"));
    drop(agent);

    fs::write(&file, owner.keyring(1)).unwrap();
    let setup = setup.flag("--keyring", &file);
    let mut agent = setup.spawn();
    let now = until(&setup, "a confirmed clock", |status| status["clock"] == "confirmed");
    let kid = owner.root.kid();
    let trust = &now["trust"];
    assert_eq!((&trust["signatures"], &trust["state"]), (&"require".into(), &"ok".into()));
    assert_eq!((&trust["keyringVersion"], &trust["epoch"]), (&1.into(), &1.into()));
    assert_eq!((trust["fingerprint"].as_str(), trust.get("lostSince")), (Some(kid.as_str()), None));
    let at = |name: &str| now["credential"][name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second();
    let (registered, rotate, ends) = (at("registeredAt"), at("rotateAt"), at("endsAt"));
    assert!((3_590..=3_660).contains(&(ends - registered)), "{now}");
    assert!((registered + 3_600 * 65 / 100..registered + 3_600 * 95 / 100).contains(&rotate), "{now}");
    let text = printed(&setup);
    for line in [
        format!("trust          only jobs that the owner signed; keyring 1 of epoch 1, fingerprint {kid}"),
        format!(
            "credential     registered {}, ends {}, to be rotated {}",
            now["credential"]["registeredAt"].as_str().unwrap(),
            now["credential"]["endsAt"].as_str().unwrap(),
            now["credential"]["rotateAt"].as_str().unwrap()
        ),
        "clock          confirmed".to_owned(),
    ] {
        assert!(text.lines().any(|printed| printed == line), "{line}\n{text}");
    }

    // What was known of earlier jobs is lost, and the clock is in doubt.
    agent.stop();
    for name in ["journal", "checkpoint", "spool"] {
        fs::remove_file(setup.state_dir().join(name)).unwrap();
    }
    fs::write(setup.state_dir().join("clock.json"), r#"{"version":1,"confirmed":2424643200}"#).unwrap();
    let mut agent = setup.spawn();
    let lost = until(&setup, "the loss", |status| status["trust"]["state"] == "LedgerLost");
    assert!(lost["trust"].get("lostSince").is_none() && lost["clock"] == "doubtful", "{lost}");
    assert!(printed(&setup).contains("clock          IN DOUBT"));
    let ended = until_it_says(&setup, "LedgerLost");
    assert_eq!(ended.status.code(), Some(1));

    // It is not forgotten, whatever the clock says then, and dated as soon as that is confirmed.
    agent.stop();
    fs::remove_file(setup.state_dir().join("clock.json")).unwrap();
    let _agent = setup.spawn();
    let later = until(&setup, "a date of the loss", |status| status["trust"]["lostSince"].is_string());
    assert_eq!((&later["trust"]["state"], &later["clock"]), (&"LedgerLost".into(), &"confirmed".into()), "{later}");
    assert!(printed(&setup).contains("; ledger lost at 20"));
}

fn printed(setup: &Setup) -> String {
    String::from_utf8_lossy(&status(setup, &[]).stdout).into_owned()
}

fn until_it_says(setup: &Setup, word: &str) -> Output {
    let deadline = Instant::now() + SOON;
    loop {
        let output = status(setup, &[]);
        if stderr(&output).contains(word) {
            return output;
        }
        assert!(Instant::now() < deadline, "{output:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn before_the_registration_it_says_since_when_that_is_tried_and_what_is_in_the_way() {
    let mut testbed = Testbed::start();
    let setup = Agent::of(&testbed).target_directory().flag("--wait", "1");
    testbed.down();
    let mut agent = setup.spawn();
    let why = "Connection refused";
    let ended = until_it_says(&setup, why);
    let line = stderr(&ended);
    assert_eq!((ended.status.code(), line.lines().count(), ended.stdout.len()), (Some(1), 1, 0), "{ended:?}");
    assert!(
        line.starts_with("pullet: not registered yet, and tries since 20") && line.contains("pullet doctor"),
        "{line}"
    );
    let now = json(&setup).unwrap();
    assert_eq!(status(&setup, &["--json"]).status.code(), Some(1));
    let connection = &now["connection"];
    assert_eq!((&connection["state"], &now["pid"]), (&"unregistered".into(), &agent.pid().into()), "{now}");
    assert!(connection["fault"].as_str().unwrap().contains(why) && connection["since"] == now["startedAt"], "{now}");
    assert!(now["endpoint"].as_str().unwrap().starts_with("https://127.0.0.1:"), "{now}");

    // An attempt that ends as the one before writes nothing.
    let written = || fs::metadata(agent.status_file()).unwrap().modified().unwrap();
    let (before, attempts) = (written(), || agent.log().matches("not registered yet; it is tried again").count());
    let had = attempts();
    agent.signal(Signal::HUP);
    let deadline = Instant::now() + SOON;
    while attempts() < had + 2 {
        assert!(Instant::now() < deadline, "it is tried again");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(written(), before);

    testbed.up();
    agent.signal(Signal::HUP);
    until(&setup, "a registration", |status| status["connection"]["state"] == "connected");
    assert_eq!(status(&setup, &[]).status.code(), Some(0));
    assert!(agent.stop().status.success());
    assert!(!agent.status_file().exists());
}

#[test]
fn a_token_that_was_refused_is_in_the_status_until_the_agent_ends() {
    let testbed = Testbed::start();
    let setup = Agent::of(&testbed).target_directory().token("not-the-token-that-was-given-out");
    let mut agent = setup.spawn();
    let line = stderr(&until_it_says(&setup, "the one-time token was refused: put a new one"));
    assert!(line.contains("not registered yet"), "{line}");
    assert!(agent.stop().status.success());
    assert!(!agent.status_file().exists(), "removed at a clean stop");
    // One that ended otherwise is known for what it is.
    let mut agent = setup.spawn();
    until_it_says(&setup, "the one-time token was refused");
    agent.kill();
    assert!(stderr(&status(&setup, &[])).contains("ended without being told to"));
}

#[test]
fn a_status_that_was_left_behind_or_is_none_is_told_apart() {
    let testbed = Testbed::start();
    let setup = Agent::of(&testbed).target_directory().flag("--wait", "2");
    let mut agent = setup.spawn();
    // That of the registration has gone when this one is there.
    until(&setup, "a connection", |status| status["connection"]["state"] == "connected");
    agent.kill();
    assert!(agent.status_file().exists());
    let left = status(&setup, &[]);
    assert_eq!(left.status.code(), Some(1));
    assert!(stderr(&left).contains("ended without being told to"), "{left:?}");
    fs::write(agent.status_file(), "{").unwrap();
    assert!(stderr(&status(&setup, &[])).contains("no status of pullet"));
    fs::write(agent.status_file(), r#"{"version":9}"#).unwrap();
    assert!(stderr(&status(&setup, &[])).contains("version 9"));
    assert_eq!(status(&setup, &["--statusfile=x"]).status.code(), Some(2));
    assert_eq!(status(&setup, &["now"]).status.code(), Some(2));
    let none = Agent::run_to_end(["status", "--status-file=none"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(stderr(&none).contains("status_file is none"));
}

#[test]
fn a_status_that_cannot_be_written_stops_nothing_and_is_said_once() {
    let testbed = Testbed::start();
    let setup = Agent::of(&testbed).target_directory().flag("--wait", "1").flag("--status-file", "/proc/nowhere/s");
    let mut agent = setup.spawn();
    let id = testbed.apply(CLUSTER, config_map("shop", "a", "1"));
    testbed.result_of(&id, SOON);
    testbed.polls(4, SOON);
    assert_eq!(agent.log().matches("the status cannot be written").count(), 1, "{}", agent.log());
    assert!(agent.stop().status.success());
}

#[test]
fn the_bytes_are_those_that_the_server_counts() {
    let testbed = Testbed::start();
    let setup = Agent::of(&testbed).target_directory().flag("--wait", "30");
    let agent = setup.spawn();
    for number in 0..20 {
        let id = testbed.apply(CLUSTER, config_map("shop", &format!("a{number}"), &"x".repeat(2_000)));
        testbed.result_of(&id, SOON);
    }
    testbed.held_poll(SOON);
    let counts = |status: &Value| {
        let today = &status["traffic"]["today"];
        (today["sent"].as_u64().unwrap(), today["received"].as_u64().unwrap())
    };
    let near = |ours: u64, theirs: u64| ours.abs_diff(theirs) * 100 <= theirs * 3;
    // The status is a second old, and the first heartbeat comes a second after the connection.
    let now = until(&setup, "equal counts", |status| {
        let (theirs, (sent, received)) = (testbed.counts(), counts(status));
        near(sent, theirs.bytes_received) && near(received, theirs.bytes_sent)
    });
    assert!(counts(&now).0 > 10_000 && counts(&now).1 > 40_000, "{now}");
    assert_eq!(now["traffic"]["today"], now["traffic"]["thisMonth"]);
    assert_eq!(now["traffic"]["clusterToday"]["sent"], 0, "the directory target has no API server");
    let heartbeat = testbed.event("a heartbeat", SOON, |event| event["kind"] == "ClusterHeartbeat");
    let traffic = heartbeat["conditions"].as_array().unwrap().iter().find(|one| one["type"] == "Traffic").unwrap();
    assert!(traffic["message"].as_str().unwrap().contains("bytes sent"), "{traffic}");
    drop(agent);
    assert_eq!(testbed.violations(), Vec::<String>::new());
}

#[test]
fn a_job_writes_two_pages_with_one_sync_each_and_an_idle_agent_none() {
    let testbed = Testbed::start();
    let setup = Agent::of(&testbed).target_directory().flag("--wait", "2");
    let agent = setup.spawn();
    testbed.held_poll(SOON);
    let flash = |status: &Value| ["writes", "syncs"].map(|name| status["flash"][name].as_u64().unwrap());
    let after_job = |number: u64| {
        let id = testbed.apply(CLUSTER, config_map("shop", &format!("a{number}"), "1"));
        testbed.result_of(&id, SOON);
        flash(&until(&setup, "a job that is done", |status| status["jobs"]["succeeded"] == number))
    };
    let mut before = after_job(1);
    for number in 2..6 {
        let now = after_job(number);
        assert_eq!([now[0] - before[0], now[1] - before[1]], [2, 2], "job {number}");
        before = now;
    }
    let polls = testbed.counts().polls;
    testbed.polls(polls + 3, SOON);
    let idle = json(&setup).unwrap();
    assert_eq!(flash(&idle), before, "{idle}");
    assert_eq!([&idle["flash"]["writesPerJob"], &idle["flash"]["syncsPerJob"]], [2.0, 2.0], "{idle}");
    let text = status(&setup, &[]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("2.00 and 2.00 a job"), "{text:?}");
    drop(agent);
}

#[test]
fn the_metered_profile_polls_rarely_and_resumes_its_sessions() {
    let testbed = Testbed::start();
    let setup = Agent::of(&testbed).target_directory().flag("--profile", "metered").flag("--poll-interval", "60");
    let agent = setup.spawn();
    testbed.polls(1, SOON);
    let polls = testbed.requests_of(Call::Jobs);
    assert_eq!(polls[0].query.as_deref(), Some("cluster=c1&wait=1"));
    until(&setup, "a connection", |status| status["connection"]["state"] == "connected");
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(testbed.counts().polls, 1, "the next one is a minute away");
    // What an hour does to a connection.
    testbed.cut_connections();
    let before = testbed.counts();
    let id = testbed.apply(CLUSTER, config_map("shop", "a", "1"));
    agent.signal(Signal::HUP);
    testbed.result_of(&id, SOON);
    let after = testbed.counts();
    assert!(after.handshakes > before.handshakes, "{after:?}");
    assert_eq!(after.handshakes - before.handshakes, after.resumed - before.resumed, "{after:?}");
    assert_eq!(testbed.violations(), Vec::<String>::new());
}

#[test]
fn a_month_that_has_had_its_budget_brings_results_and_one_sign_of_life() {
    let testbed = Testbed::start();
    let setup = Agent::of(&testbed)
        .target_directory()
        .flag("--profile", "metered")
        .flag("--poll-interval", "60")
        .flag("--monthly-budget", "1");
    let agent = setup.spawn();
    testbed.polls(1, SOON);
    for number in 0..8 {
        testbed.apply(CLUSTER, config_map("shop", &format!("a{number}"), &"x".repeat(180_000)));
    }
    agent.signal(Signal::HUP);
    agent.wait_for_log("the monthly budget is used up", SOON);
    testbed.wait_for("the results of what was taken", SOON, |state| {
        let mut taken = state.jobs.iter().filter(|job| !job.acks.is_empty()).peekable();
        (taken.peek().is_some() && taken.all(|job| job.result.is_some())).then_some(())
    });
    let heartbeat = testbed.event("the sign of life", SOON, |event| {
        event["conditions"].as_array().is_some_and(|all| all.iter().any(|one| one["reason"] == "UsedUp"))
    });
    assert_eq!(heartbeat["kind"], "ClusterHeartbeat");
    let polls = testbed.counts().polls;
    agent.signal(Signal::HUP);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(testbed.counts().polls, polls, "nothing is polled any more");
    assert_eq!(agent.log().matches("the monthly budget is used up").count(), 1, "{}", agent.log());
    let text = status(&setup, &[]);
    assert_eq!(text.status.code(), Some(1));
    assert!(stderr(&text).contains("the monthly budget is used up"), "{text:?}");
    // A restart brings no new budget.
    let mut agent = agent;
    assert!(agent.stop().status.success());
    let mut agent = setup.spawn();
    agent.wait_for_log("the monthly budget is used up", SOON);
    assert_eq!(testbed.counts().polls, polls, "{}", agent.log());
    agent.stop();
    fs::write(setup.state_dir().join("traffic.json"), "{").unwrap();
    let agent = setup.spawn();
    agent.wait_for_log("counted anew", SOON);
    testbed.wait_for("a poll", SOON, |state| (state.counts.polls > polls).then_some(()));
    assert_eq!(testbed.violations(), Vec::<String>::new());
}

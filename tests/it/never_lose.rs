//! The whole agent, ended as a power cut ends it, at any moment: each job has one effect and one result, and every
//! event arrives, or is counted, or is bounded.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::agent::{Agent, CLUSTER, Setup};
use crate::scene::broken_by_the_living;
use crate::testbed::{Call, Fault, Job, Testbed};

const PATIENCE: Duration = Duration::from_secs(60);

fn config_map(name: &str, size: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "n"},
        "data": {"k": "v".repeat(size)},
    })
}

/// Files of objects that are in the directory.
fn effects(agent: &Agent) -> usize {
    let is_object = |name: &str| name.starts_with("pullet-");
    let files = std::fs::read_dir(agent.directory()).expect("the directory is there");
    files.filter(|file| is_object(&file.as_ref().expect("it can be read").file_name().to_string_lossy())).count()
}

fn posts_of_results(testbed: &Testbed) -> usize {
    testbed.requests_of(Call::Result).len()
}

#[test]
fn an_agent_that_is_killed_at_random_moments_answers_each_job_once() {
    let kills = if std::env::var_os("PULLET_LONG").is_some() { 500 } else { 50 };
    let seed: u64 = std::env::var("PULLET_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_123);
    println!("reproduce: PULLET_SEED={seed} cargo test --test it killed_at_random");
    let testbed = Testbed::start();
    let setup = Agent::of(&testbed).target_directory();
    let mut random = seed;
    let mut below = |bound: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % bound
    };
    // A token that was used up while the power went is for a person to replace: not what this is about.
    let mut agent = setup.spawn();
    testbed.held_poll(PATIENCE);
    agent.kill();
    let mut jobs = Vec::new();
    for round in 0..kills {
        for job in 0..below(3) {
            // A short one stays in its page, a long one goes to the spool.
            let size = if below(4) == 0 { 20_000 } else { 10 };
            jobs.push(testbed.apply(CLUSTER, config_map(&format!("m{round}-{job}"), size)));
        }
        let mut agent = setup.spawn();
        std::thread::sleep(Duration::from_millis(below(250)));
        agent.kill();
    }
    let mut agent = setup.spawn();
    for job in &jobs {
        assert_eq!(testbed.result_of(job, PATIENCE)["outcome"], "succeeded", "{}", agent.log());
    }
    assert_eq!(effects(&agent), jobs.len());
    agent.wait_for_log("\"ready\"", PATIENCE);
    let ended = agent.stop();
    assert!(ended.status.success(), "{ended:?}\n{}", agent.log());
    assert_eq!(broken_by_the_living(&testbed), Vec::<String>::new());
    let keys: Vec<String> = testbed.events().iter().filter_map(|record| key_of(&record.event)).collect();
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "two occurrences share a key");
}

fn key_of(event: &Value) -> Option<String> {
    event.get("eventKey").and_then(Value::as_str).map(ToOwned::to_owned)
}

/// Between the ack and the apply, between the apply and the result, and between the result and its 204.
#[test]
fn a_restart_at_each_point_of_a_job_ends_it_once() {
    let points: [(&str, Call, Fault); 3] = [
        ("the ack arrives and its answer does not", Call::Ack, Fault::LostAnswer),
        ("the result arrives and its answer does not", Call::Result, Fault::LostAnswer),
        ("the result does not arrive", Call::Result, Fault::status(503)),
    ];
    for (what, call, fault) in points {
        let testbed = Testbed::start();
        let setup = Agent::of(&testbed).target_directory();
        testbed.fault_until_cleared(call, fault);
        let job = testbed.apply(CLUSTER, config_map("a", 10));
        let mut agent = setup.spawn();
        let deadline = Instant::now() + PATIENCE;
        while testbed.requests_of(call).is_empty() {
            assert!(Instant::now() < deadline, "{what}: nothing came\n{}", agent.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        agent.kill();
        testbed.clear_faults();
        let mut agent = setup.spawn();
        assert_eq!(testbed.result_of(&job, PATIENCE)["outcome"], "succeeded", "{what}");
        assert_eq!(effects(&agent), 1, "{what}");
        agent.stop();
        assert_eq!(testbed.violations(), Vec::<String>::new(), "{what}");
    }
}

#[test]
fn a_finished_job_that_comes_again_after_a_restart_gets_its_recorded_outcome() {
    let testbed = Testbed::start();
    let setup = Agent::of(&testbed).target_directory();
    let key = "the same key";
    let job = testbed.enqueue(CLUSTER, Job::apply(config_map("a", 10)).with("idempotencyKey", key));
    let mut agent = setup.spawn();
    let first = testbed.result_of(&job, PATIENCE);
    agent.kill();
    std::fs::remove_file(file_of(&agent)).expect("the object's file is there");
    let posts = posts_of_results(&testbed);
    testbed.redeliver(&job);
    let other = testbed.enqueue(CLUSTER, Job::apply(config_map("b", 10)).with("idempotencyKey", key));
    let mut agent = setup.spawn();
    assert_eq!(testbed.result_of(&other, PATIENCE)["outcome"], "noop");
    assert_eq!((effects(&agent), testbed.result(&job)), (0, Some(first)));
    assert!(posts_of_results(&testbed) > posts);
    agent.stop();
}

fn file_of(agent: &Agent) -> std::path::PathBuf {
    let files = std::fs::read_dir(agent.directory()).expect("the directory is there");
    let mut paths = files.map(|file| file.expect("it can be read").path());
    paths
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pullet-")))
        .expect("a file")
}

#[test]
fn a_stop_loses_nothing_that_waits() {
    let mut testbed = Testbed::start();
    let setup = Agent::of(&testbed).target_directory();
    let job = testbed.apply(CLUSTER, config_map("a", 10));
    testbed.fault_until_cleared(Call::Result, Fault::status(503));
    let mut agent = setup.spawn();
    testbed.ack_of(&job, PATIENCE);
    testbed.wait_for("a result", PATIENCE, |state| {
        state.requests.iter().any(|seen| seen.call == Some(Call::Result)).then_some(())
    });
    testbed.down();
    agent.stop();
    testbed.up();
    testbed.clear_faults();
    let mut agent = setup.spawn();
    assert_eq!(testbed.result_of(&job, PATIENCE)["outcome"], "succeeded");
    agent.stop();
    assert!(!agent.log().contains("cannot be read"), "{}", agent.log());
}

type Spoil = fn(&std::path::Path);

#[test]
fn whatever_is_in_its_files_the_agent_starts_and_says_so() {
    let testbed = Testbed::start();
    let setup = Agent::of(&testbed).target_directory();
    let mut agent = setup.spawn();
    testbed.held_poll(PATIENCE);
    agent.stop();
    let state = setup.state_dir();
    let spoil: [(&str, Spoil); 5] = [
        ("noise", |path| std::fs::write(path, vec![0xa5; 262_144]).expect("it can be written")),
        ("short", |path| std::fs::write(path, vec![0; 100]).expect("it can be written")),
        ("long", |path| std::fs::write(path, vec![0x11; 1 << 20]).expect("it can be written")),
        ("empty", |path| std::fs::write(path, b"").expect("it can be written")),
        ("no file", |path| {
            std::fs::remove_file(path).expect("it can be removed");
            std::fs::create_dir(path).expect("a directory can be made");
        }),
    ];
    for (what, spoil) in spoil {
        for name in ["journal", "spool", "checkpoint"] {
            let path = state.join(name);
            let _ = std::fs::remove_dir(&path);
            if !path.exists() {
                std::fs::write(&path, b"").expect("it can be written");
            }
            spoil(&path);
        }
        let job = testbed.apply(CLUSTER, config_map("a", 5_000));
        let mut agent = setup.spawn();
        assert_eq!(testbed.result_of(&job, PATIENCE)["outcome"], "succeeded", "{what}: {}", agent.log());
        says_so(&testbed, &setup, &agent, what);
        agent.stop();
    }
}

/// In the log, in an event, and in `status`.
fn says_so(testbed: &Testbed, setup: &Setup, agent: &Agent, what: &str) {
    assert!(agent.log().contains("the journal is not as it should be"), "{what}: {}", agent.log());
    let file = setup.home().join("run/status.json").display().to_string();
    let status = Agent::run_to_end(["status", "--json", "--status-file", &file]);
    let status: Value = serde_json::from_slice(&status.stdout).expect("a status");
    let fault = status["journalFault"].as_str().unwrap_or_default().to_owned();
    assert!(!fault.is_empty(), "{what}: {status}");
    let tells = |event: &Value| {
        let conditions = event["conditions"].as_array().cloned().unwrap_or_default();
        let is_it = |one: &Value| {
            let said = one["message"].as_str().unwrap_or_default().trim_end_matches('…').to_owned();
            one["type"] == "JournalHealthy" && one["status"] == "False" && fault.starts_with(&said)
        };
        event["kind"] == "ConditionTransition" && conditions.iter().any(is_it)
    };
    testbed.event(&format!("what is wrong: {what}"), PATIENCE, tells);
}

/// A state directory on a disk of its own.
struct Disk(std::path::PathBuf);

impl Disk {
    fn mount(at: &std::path::Path, options: &str) -> Self {
        let disk = Self(at.to_owned());
        disk.run("mount", &["-t", "tmpfs", "-o", options, "tmpfs"]);
        disk
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let ended = std::process::Command::new(program).args(arguments).arg(&self.0).status();
        assert!(ended.expect("it can be started").success(), "{program} {arguments:?}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
#[ignore = "needs a small disk: root, to mount a file system of 64 KiB"]
fn on_a_full_disk_the_agent_works_in_memory_and_says_so() {
    let testbed = Testbed::start();
    let setup = Agent::of(&testbed).target_directory();
    let _disk = Disk::mount(&setup.state_dir(), "size=64k,mode=0700");
    let job = testbed.apply(CLUSTER, config_map("a", 5_000));
    let mut agent = setup.spawn();
    assert_eq!(testbed.result_of(&job, PATIENCE)["outcome"], "succeeded", "{}", agent.log());
    says_so(&testbed, &setup, &agent, "full");
    agent.stop();
}

#[test]
#[ignore = "needs a small disk: root, to mount one of its files read-only"]
fn with_a_read_only_journal_the_agent_works_in_memory_and_says_so() {
    let testbed = Testbed::start();
    let setup = Agent::of(&testbed).target_directory();
    let mut agent = setup.spawn();
    testbed.held_poll(PATIENCE);
    agent.stop();
    let journal = setup.state_dir().join("journal");
    let disk = Disk(journal.clone());
    disk.run("mount", &["--bind", &journal.display().to_string()]);
    disk.run("mount", &["-o", "remount,ro,bind"]);
    let job = testbed.apply(CLUSTER, config_map("a", 10));
    let mut agent = setup.spawn();
    assert_eq!(testbed.result_of(&job, PATIENCE)["outcome"], "succeeded", "{}", agent.log());
    says_so(&testbed, &setup, &agent, "read-only");
    agent.stop();
}

#[test]
fn a_journal_of_a_newer_format_is_refused_with_what_to_do_and_left_as_it_is() {
    let testbed = Testbed::start();
    let setup = Agent::of(&testbed).target_directory();
    let mut agent = setup.spawn();
    testbed.held_poll(PATIENCE);
    agent.stop();
    let journal = setup.state_dir().join("journal");
    let mut bytes = std::fs::read(&journal).expect("it is there");
    let page = bytes.chunks_exact_mut(4096).find(|page| page.starts_with(b"PLTJ")).expect("a page");
    page[4] = 9;
    let sum = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&page[..380]);
    page[380..384].copy_from_slice(&sum.to_le_bytes());
    std::fs::write(&journal, &bytes).expect("it can be written");
    let mut agent = setup.spawn();
    assert_eq!(agent.wait(PATIENCE).code(), Some(1), "{}", agent.log());
    let log = agent.log();
    assert!(log.contains("the journal is of format 9") && log.contains("start the newer pullet again"), "{log}");
    assert_eq!(std::fs::read(&journal).expect("it is there"), bytes);
}

/// A card that fails turns read-only. What waits on it is still told; nothing is done that nobody could write down.
#[test]
#[ignore = "needs a small disk: root, to mount the state directory read-only"]
fn on_a_read_only_disk_the_agent_says_so_posts_what_waits_and_acts_on_nothing() {
    let testbed = Testbed::start();
    let setup = Agent::of(&testbed).target_directory().flag("--wait", "1");
    testbed.fault_until_cleared(Call::Result, Fault::status(503));
    let done = testbed.apply(CLUSTER, config_map("a", 10));
    let mut agent = setup.spawn();
    testbed.wait_for("a result", PATIENCE, |state| {
        state.requests.iter().any(|seen| seen.call == Some(Call::Result)).then_some(())
    });
    agent.kill();
    testbed.clear_faults();
    let state = setup.state_dir();
    let disk = Disk(state.clone());
    disk.run("mount", &["--bind", &state.display().to_string()]);
    disk.run("mount", &["-o", "remount,ro,bind"]);
    let job = testbed.apply(CLUSTER, config_map("b", 10));
    let mut agent = setup.spawn();
    assert_eq!(testbed.result_of(&done, PATIENCE)["outcome"], "succeeded", "{}", agent.log());
    agent.wait_for_log("the state directory is read-only: these jobs are left", PATIENCE);
    says_so(&testbed, &setup, &agent, "read-only");
    // The lock needs no file.
    let mut second = setup.spawn();
    assert_eq!(second.wait(PATIENCE).code(), Some(1), "{}", second.log());
    assert!(second.log().contains("another pullet is using it"), "{}", second.log());
    assert_eq!((testbed.acks(&job), effects(&agent)), (0, 1));
    assert!(agent.stop().status.success(), "{}", agent.log());
    drop(disk);
    let mut agent = setup.spawn();
    assert_eq!(testbed.result_of(&job, PATIENCE)["outcome"], "succeeded", "{}", agent.log());
    assert_eq!(effects(&agent), 2);
    assert!(agent.stop().status.success(), "{}", agent.log());
    assert_eq!(testbed.violations(), Vec::<String>::new());
}

#[test]
fn a_journal_of_another_size_than_configured_is_used_until_nothing_waits_in_it() {
    let testbed = Testbed::start();
    let setup = Agent::of(&testbed).target_directory();
    testbed.fault_until_cleared(Call::Result, Fault::status(503));
    let job = testbed.apply(CLUSTER, config_map("a", 10));
    let mut agent = setup.spawn();
    testbed.wait_for("a result", PATIENCE, |state| {
        state.requests.iter().any(|seen| seen.call == Some(Call::Result)).then_some(())
    });
    agent.kill();
    let larger = setup.clone().flag("--journal-size", "524288");
    let mut agent = larger.spawn();
    agent.wait_for_log("524288 as configured", PATIENCE);
    testbed.clear_faults();
    assert_eq!(testbed.result_of(&job, PATIENCE)["outcome"], "succeeded", "{}", agent.log());
    says_so(&testbed, &larger, &agent, "another size");
    agent.stop();
    let polls = testbed.counts().polls;
    let mut agent = larger.spawn();
    testbed.polls(polls + 1, PATIENCE);
    assert_eq!(std::fs::metadata(larger.state_dir().join("journal")).expect("it is there").len(), 524_288);
    agent.stop();
}

//! What a job writes, as the kernel is asked to: every call of the real agent that writes a file or makes one durable.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::budget::Held;
use super::report::Figure;
use super::{PATIENCE, setup};
use crate::agent::{Agent, CLUSTER};
use crate::apiserver::wait_until;
use crate::testbed::Testbed;
use crate::testbed::job::{Job, config_map};

const JOBS: u32 = 100;

pub(super) fn figures() -> Vec<Figure> {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        return vec![Figure::seen("flash per job", "not measured: strace is missing")];
    }
    let small = per_job(200);
    let large = per_job(16_384);
    vec![
        Figure::held(Held::FlashOfSmallJob, "flash per job of 0.3 kB: state directory", small.bytes),
        Figure::held(Held::SyncsOfSmallJob, "flash per job of 0.3 kB: state directory, syncs", small.syncs),
        Figure::held(Held::FlashOfLargeJob, "flash per job of 16 kB: state directory", large.bytes),
        Figure::held(Held::SyncsOfLargeJob, "flash per job of 16 kB: state directory, syncs", large.syncs),
        Figure::seen("flash per job of 0.3 kB: the object in the directory", small.object),
    ]
}

#[derive(Default)]
struct Flash {
    bytes: f64,
    syncs: f64,
    object: String,
}

fn per_job(value: usize) -> Flash {
    let testbed = Testbed::start();
    let setup = setup(&testbed).target_directory();
    let agent = setup.spawn();
    testbed.held_poll(PATIENCE);
    let trace = setup.home().join("trace");
    let mut tracer = attach(&agent, &trace);
    let text = "x".repeat(value);
    let jobs = (0..JOBS).map(|number| Job::apply(config_map("bench", &format!("c{number}"), &text)));
    for id in testbed.enqueue_all(CLUSTER, jobs) {
        assert_eq!(testbed.result_of(&id, PATIENCE)["outcome"], "succeeded");
    }
    kill_process(Pid::from_child(&tracer), Signal::INT).unwrap();
    tracer.wait().unwrap();
    let trace = fs::read_to_string(trace).unwrap();
    let state = sum(&trace, &agent.state_dir());
    let object = sum(&trace, &setup.directory());
    Flash { object: format!("{:.0} bytes, {:.2} syncs", object.0, object.1), bytes: state.0, syncs: state.1 }
}

fn attach(agent: &Agent, trace: &Path) -> Child {
    let tracer = Command::new("strace")
        .args(["-f", "-q", "-y", "-s", "0", "-e", "trace=write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync"])
        .args(["-p", &agent.pid().to_string(), "-o"])
        .arg(trace)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let is_traced = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap();
        tasks.flatten().all(|task| {
            fs::read_to_string(task.path().join("status")).is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
        })
    };
    wait_until("the tracer", is_traced);
    tracer
}

/// Bytes and syncs per job of the files in this directory.
fn sum(trace: &str, directory: &Path) -> (f64, f64) {
    let place = format!("<{}/", directory.display());
    let (mut bytes, mut syncs) = (0, 0);
    for line in trace.lines().filter(|line| line.contains(&place)) {
        let call = line.split_whitespace().nth(1).and_then(|call| call.split('(').next()).unwrap_or_default();
        match call {
            "fsync" | "fdatasync" => syncs += 1,
            // 123 pwrite64(7</state/journal>, ""..., 4096, 8192) = 4096
            "write" | "pwrite64" => bytes += length(line).unwrap_or_else(|| panic!("how much is {line:?}?")),
            _ => panic!("{line:?} is not counted"),
        }
    }
    assert!(bytes > 0, "nothing was written in {}:\n{trace}", directory.display());
    (f64::from(bytes) / f64::from(JOBS), f64::from(syncs) / f64::from(JOBS))
}

fn length(line: &str) -> Option<u32> {
    let (_, rest) = line.split_once("\"\"..., ")?;
    rest.split([',', ')', ' ']).next()?.parse().ok()
}

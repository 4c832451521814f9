//! The contract, clause by clause: the real agent, the strict control plane, TLS between them, a directory
//! to apply to. Each test names the clause of `docs/protocol.md` that it shows.

mod account;
mod acks;
mod bounds;
mod course;
mod events;
mod pacing;
mod policy;
mod reading;
mod refusals;
mod registration;
mod rotation;
mod rotations;
mod status_codes;
mod transport;
mod types;
mod work;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::agent::{Agent, CLUSTER, Setup};
use crate::testbed::{Call, Job, Seen, Testbed};

/// How long a test waits for what must come. Far more than it takes: the first poll of a machine that has
/// just booted is spread over half a minute, and the machine may be a slow one.
const SOON: Duration = Duration::from_secs(90);

/// What no repeated call may be faster than (P1.9.4).
const SECOND: Duration = Duration::from_secs(1);

/// An agent that polls with the shortest hold.
fn setup(testbed: &Testbed) -> Setup {
    patient(testbed, 1)
}

/// An agent whose polls are held this many seconds.
fn patient(testbed: &Testbed, seconds: u64) -> Setup {
    Agent::of(testbed).target_directory().flag("--wait", seconds.to_string())
}

/// As [`setup`], running.
fn start(testbed: &Testbed) -> Agent {
    setup(testbed).spawn()
}

/// As [`start`], once it polls.
fn connected(testbed: &Testbed) -> Agent {
    let agent = start(testbed);
    testbed.polls(1, SOON);
    agent
}

/// The credential as it is stored.
fn credential(state_dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(state_dir.join("credential.json")).unwrap()).unwrap()
}

/// All that a command printed.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// The object of a kind and a name as it lies in the directory now, whatever the file is called.
fn applied(directory: &Path, kind: &str, name: &str) -> Option<Value> {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let visible = files.filter(|path| !path.file_name().unwrap().as_encoded_bytes().starts_with(b"."));
    // A file may be replaced or removed in between.
    let objects = visible.filter_map(|path| serde_json::from_slice::<Value>(&fs::read(path).ok()?).ok());
    objects.into_iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
}

/// Which file of the directory's is the object's, told by its inode: each effect makes a new one.
fn effect(directory: &Path, name: &str) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let file = files.find(|path| {
        let object: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        object["metadata"]["name"] == name
    });
    fs::metadata(file.unwrap()).unwrap().ino()
}

/// The value of a config map that `job::config_map` made.
fn value_of(agent: &Agent, name: &str) -> Option<String> {
    applied(&agent.directory(), "ConfigMap", name)?["data"]["value"].as_str().map(str::to_owned)
}

/// Enqueues a job and waits for its result.
fn done(testbed: &Testbed, job: Job) -> Value {
    let id = testbed.enqueue(CLUSTER, job);
    testbed.result_of(&id, SOON)
}

fn succeeded(result: &Value) -> bool {
    result["outcome"] == "succeeded"
}

/// That a job failed, and that its error begins with this reason.
fn assert_failed(result: &Value, reason: &str) {
    assert_eq!(result["outcome"], "failed", "{result}");
    let error = result["error"].as_str().unwrap();
    assert!(error.starts_with(&format!("{reason}: ")) && error.len() > reason.len() + 4, "{error}");
}

/// That the agent kept to the contract in every request so far.
fn assert_sound(testbed: &Testbed) {
    assert_eq!(testbed.violations(), Vec::<String>::new());
}

/// The requests of one call about one job, by the id as it stands in the path.
fn about(testbed: &Testbed, call: Call, id: &str) -> Vec<Seen> {
    let seen = testbed.requests_of(call).into_iter();
    seen.filter(|seen| seen.path.rsplit('/').nth(1) == Some(id)).collect()
}

/// The acks and results so far, in their order: `ack a`, `result a`.
fn course(testbed: &Testbed) -> Vec<String> {
    let requests = testbed.requests().into_iter();
    let of_jobs = requests.filter(|seen| matches!(seen.call, Some(Call::Ack | Call::Result)));
    let said = of_jobs.map(|seen| {
        let mut segments = seen.path.rsplit('/');
        let (call, id) = (segments.next().unwrap().to_owned(), segments.next().unwrap().to_owned());
        format!("{call} {id}")
    });
    said.collect()
}

/// Waits for so many further requests of a call, and gives those that came since the last one before.
fn further(testbed: &Testbed, call: Call, count: usize) -> Vec<Seen> {
    let before = testbed.requests_of(call).len();
    since(testbed, call, before, count)
}

/// Waits until there are `count` requests of a call beyond the first `before`, and gives those.
fn since(testbed: &Testbed, call: Call, before: usize, count: usize) -> Vec<Seen> {
    testbed.wait_for(&format!("{count} further requests {call:?}"), SOON, |state| {
        let seen: Vec<&Seen> = state.requests.iter().filter(|seen| seen.call == Some(call)).collect();
        let further = seen.get(before..)?;
        (further.len() >= count).then(|| further.iter().map(|seen| (*seen).clone()).collect())
    })
}

/// From the answer of each request to the next request. A request without an answer counts from when it
/// came.
fn gaps(seen: &[Seen]) -> Vec<Duration> {
    let pairs = seen.iter().zip(seen.iter().skip(1));
    pairs.map(|(one, next)| next.at.saturating_duration_since(one.answered.map_or(one.at, |(at, _)| at))).collect()
}

/// How many requests of a call come within a time. For what must not come too often, or not at all: it can
/// only be waited out.
fn count_within(testbed: &Testbed, call: Call, time: Duration) -> usize {
    let begin = Instant::now();
    std::thread::sleep(time);
    // Whatever else this machine does, it is this window.
    testbed.requests_of(call).iter().filter(|seen| seen.at > begin && seen.at <= begin + time).count()
}

/// Waits until `look` finds something outside of the testbed.
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {SOON:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Shows several cases at once, each on a thread of its own: what they do takes milliseconds, what they wait
/// for takes seconds.
fn at_once<C: Send>(cases: impl IntoIterator<Item = C>, show: impl Fn(C) + Sync) {
    std::thread::scope(|scope| {
        for case in cases {
            let show = &show;
            scope.spawn(move || show(case));
        }
    });
}

/// The names of an object's members.
fn members(object: &Value) -> BTreeSet<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

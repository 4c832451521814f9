//! Memory under hostile input, measured on the real static binary as the kernel counts it.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use pullet::limits;
use serde_json::json;

use crate::agent::{Agent, CLUSTER, Setup};
use crate::apiserver::wait_until;
use crate::fake_api::{Asked, FakeApi, Out, answer, chunk, chunked};
use crate::testbed::Testbed;
use crate::testbed::job::{Job, config_map};

/// The promise: peak memory, whatever the control plane, the cluster or the disk does.
pub(crate) const PEAK_KB: u64 = 8 * 1024;

const PATIENCE: Duration = Duration::from_secs(60);

/// The static binary that was built by `cross/build`.
pub(crate) fn static_binary() -> PathBuf {
    let path = std::env::var_os("PULLET_STATIC").expect("PULLET_STATIC names the static binary (cross/build makes it)");
    PathBuf::from(path)
}

fn agent(testbed: &Testbed) -> Setup {
    Agent::of(testbed).binary(static_binary()).target_directory().flag("--wait", "1")
}

/// The agent still works, and never took more than it may.
fn check(testbed: &Testbed, agent: &Agent, what: &str) {
    let id = testbed.apply(CLUSTER, config_map("after", "all", "fine"));
    testbed.result_of(&id, PATIENCE);
    report(agent, what);
}

fn repeated(text: &str, bytes: usize) -> String {
    let mut list = String::with_capacity(bytes + text.len());
    list.push_str(text);
    while list.len() < bytes {
        list.push(',');
        list.push_str(text);
    }
    list
}

/// A payload that is a list of `text`, once as long as a job may be and once with as many values.
fn payloads(text: &str, nodes: usize) -> [String; 2] {
    [repeated(text, limits::JOB_BYTES - 1024), repeated(text, (limits::JOB_NODES - 100) / nodes * (text.len() + 1))]
}

#[test]
#[ignore = "needs the static binary: cross/build, then PULLET_STATIC"]
fn jobs_made_of_empty_lists_and_of_small_objects_stay_within_the_promise() {
    let testbed = Testbed::start();
    let agent = agent(&testbed).spawn();
    for (text, nodes) in [("[[]]", 2), (r#"{"a":1}"#, 2)] {
        for (number, list) in payloads(text, nodes).into_iter().enumerate() {
            let id = format!("list-{nodes}-{number}-{}", text.len());
            let job = format!(r#"{{"id":"{id}","kind":"apply","payload":[{list}]}}"#);
            testbed.enqueue_text(CLUSTER, &id, job);
            assert_eq!(testbed.result_of(&id, PATIENCE)["outcome"], "failed");
            let id = format!("data-{nodes}-{number}-{}", text.len());
            let job = format!(
                r#"{{"id":"{id}","kind":"apply","payload":{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"x","namespace":"n"}},"data":[{list}]}}}}"#
            );
            testbed.enqueue_text(CLUSTER, &id, job);
            testbed.result_of(&id, PATIENCE);
        }
    }
    check(&testbed, &agent, "jobs of [[]] and {\"a\":1}");
}

#[test]
#[ignore = "needs the static binary: cross/build, then PULLET_STATIC"]
fn answers_made_of_nothing_but_lists_and_objects_stay_within_the_promise() {
    let testbed = Testbed::start();
    let agent = agent(&testbed).spawn();
    for text in ["[[]]", r#"{"a":1}"#] {
        let list = repeated(text, 24 * 1024 * 1024);
        testbed.raw_answer(format!(r#"{{"jobs":[{list}]}}"#));
        testbed.raw_answer(format!(r#"{{"x":[{list}],"jobs":[]}}"#));
        testbed.raw_answer(format!(r#"{{"jobs":[{{"id":"j","payload":[{list}]}}]}}"#));
        testbed.raw_answer("[".repeat(4 * 1024 * 1024));
        testbed.raw_answer(format!(r#"{{"jobs":[{}"#, r#"{"a":"#.repeat(1024 * 1024)));
    }
    check(&testbed, &agent, "answers of [[]] and {\"a\":1}");
}

#[test]
#[ignore = "needs the static binary: cross/build, then PULLET_STATIC"]
fn refused_jobs_with_long_names_and_repeated_lists_stay_within_the_promise() {
    let testbed = Testbed::start();
    let agent = agent(&testbed).spawn();
    let long = "x".repeat(limits::JOB_BYTES - 1024);
    for number in 0..limits::KEPT_OUTCOMES {
        let id = format!("long-{number}");
        let payload = match number % 4 {
            0 => format!(r#"{{"apiVersion":"v1","kind":"K{long}","metadata":{{"name":"a","namespace":"n"}}}}"#),
            1 => format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{long}","namespace":"n"}}}}"#),
            2 => {
                format!(r#"{{"apiVersion":"apps.vworkspace.io/{long}","kind":"Operation","metadata":{{"name":"a"}}}}"#)
            }
            _ => format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"a","namespace":"{long}"}}}}"#),
        };
        testbed.enqueue_text(CLUSTER, &id, format!(r#"{{"id":"{id}","kind":"apply","payload":{payload}}}"#));
        assert_eq!(testbed.result_of(&id, PATIENCE)["outcome"], "failed");
    }
    let list = format!(r#""jobs":[{{"id":"a","x":"{long}"}}],"#);
    testbed.raw_answer(format!("{{{}\"z\":1}}", list.repeat(60)));
    check(&testbed, &agent, "long names and repeated lists");
}

#[test]
#[ignore = "needs the static binary: cross/build, then PULLET_STATIC"]
fn a_thousand_jobs_in_one_answer_stay_within_the_promise() {
    let testbed = Testbed::start();
    let agent = agent(&testbed).spawn();
    let count = if std::env::var_os("PULLET_LONG").is_some() { 20_000 } else { 1_000 };
    let jobs = (0..count).map(|number| Job::apply(config_map("shop", &format!("c{number}"), "value")));
    for id in testbed.enqueue_all(CLUSTER, jobs) {
        assert_eq!(testbed.result_of(&id, PATIENCE)["outcome"], "succeeded");
    }
    check(&testbed, &agent, "a thousand jobs in one answer");
}

/// Kinds beside the two of the control plane: with them there are as many watches as there can be.
const KINDS: [(&str, &str); 6] = [
    ("configmaps", "ConfigMap"),
    ("persistentvolumeclaims", "PersistentVolumeClaim"),
    ("services", "Service"),
    ("serviceaccounts", "ServiceAccount"),
    ("pods", "Pod"),
    ("limitranges", "LimitRange"),
];

#[test]
#[ignore = "needs the static binary: cross/build, then PULLET_STATIC"]
fn an_api_server_with_objects_of_3_mb_and_endless_watch_lines_stays_within_the_promise() {
    let api = FakeApi::start(|asked, out| hostile(asked, out, Line::Endless));
    let testbed = Testbed::start();
    let agent = on_cluster(&testbed, &api);
    apply_large_objects(&testbed);
    let watches = |least: usize| wait_for_watches(&api, least);
    // Each of the eight is given up at its bound and tried again.
    watches(16);
    report(&agent, "objects of 3 MB and endless watch lines");
}

#[test]
#[ignore = "needs the static binary: cross/build, then PULLET_STATIC"]
fn eight_watches_that_stream_the_longest_lines_stay_within_the_promise() {
    peak_of_the_longest_lines();
}

/// What that took, in kB: the most of all that is tried here.
pub(crate) fn peak_of_the_longest_lines() -> u64 {
    let api = FakeApi::start(|asked, out| hostile(asked, out, Line::Longest));
    let testbed = Testbed::start();
    let agent = on_cluster(&testbed, &api);
    for _ in 0..4 {
        apply_large_objects(&testbed);
    }
    wait_for_watches(&api, 8);
    report(&agent, "eight watches with lines of 0.9 MiB and objects of 3 MB");
    agent.rss_peak_kb()
}

fn on_cluster(testbed: &Testbed, api: &FakeApi) -> Agent {
    let setup = Agent::of(testbed).binary(static_binary()).flag("--kubeconfig", api.kubeconfig("{token: x}"));
    KINDS
        .iter()
        .fold(setup, |setup, (_, kind)| setup.flag("--allow-kind", format!("/{kind}")))
        .flag("--wait", "1")
        .spawn()
}

fn apply_large_objects(testbed: &Testbed) {
    let full = limits::JOB_BYTES - 4096;
    for number in 0..4 {
        let id = testbed.apply(CLUSTER, config_map("shop", &format!("c{number}"), &"y".repeat(full)));
        let result = testbed.result_of(&id, PATIENCE);
        assert!(result["error"].as_str().is_some_and(|error| error.contains("UnusableAnswer")), "{result}");
    }
}

fn wait_for_watches(api: &FakeApi, least: usize) {
    let count = || api.asked().iter().filter(|asked| asked.path.contains("watch=")).count();
    wait_until("the watches", || count() >= least);
}

fn report(agent: &Agent, what: &str) {
    let peak = agent.rss_peak_kb();
    #[allow(clippy::print_stderr, reason = "how far it was from the bound is worth knowing")]
    {
        eprintln!("{what}: peak {peak} kB");
    }
    assert!(peak <= PEAK_KB, "{what}: {peak} kB");
}

#[derive(Clone, Copy)]
enum Line {
    Endless,
    /// As long as a line may be, again and again.
    Longest,
}

/// The kinds are there and their lists are empty; whatever else is asked for is 3 MB long.
fn hostile(asked: &Asked, out: Out<'_>, line: Line) -> std::io::Result<()> {
    let path = asked.path.split('?').next().unwrap_or_default();
    let body = match path {
        "/api/v1" => resources("v1", &KINDS),
        "/apis/apps.vworkspace.io/v1alpha1" => {
            resources("apps.vworkspace.io/v1alpha1", &[("applicationinstances", "ApplicationInstance")])
        }
        "/apis/ops.vworkspace.io/v1alpha1" => resources("ops.vworkspace.io/v1alpha1", &[("operations", "Operation")]),
        "/apis/apps.vworkspace.io" => group("apps.vworkspace.io"),
        "/apis/ops.vworkspace.io" => group("ops.vworkspace.io"),
        "/api/v1/namespaces/shop" => {
            let metadata = json!({"name": "shop", "labels": {"managed-by": "vworkspace"}});
            json!({"kind": "PartialObjectMetadata", "metadata": metadata}).to_string()
        }
        _ if asked.path.contains("watch=") => return stream(out, line),
        _ if asked.path.contains("limit=") => json!({"metadata": {"resourceVersion": "5"}, "items": []}).to_string(),
        _ => object_of(3 * 1024 * 1024),
    };
    answer(out, "200 OK", &body)
}

fn stream(out: Out<'_>, line: Line) -> std::io::Result<()> {
    chunked(out)?;
    let object = object_of(limits::WATCH_LINE_BYTES / 10 * 9);
    let event = format!("{{\"type\":\"MODIFIED\",\"object\":{object}}}\n");
    loop {
        match line {
            Line::Endless => chunk(out, &[b'x'; 8192])?,
            Line::Longest => chunk(out, event.as_bytes())?,
        }
    }
}

fn object_of(bytes: usize) -> String {
    let mut object = String::with_capacity(bytes + 200);
    let _ = write!(
        object,
        r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"a","uid":"u","annotations":{{"x":"{}"}}}}}}"#,
        "x".repeat(bytes)
    );
    object
}

fn resources(version: &str, kinds: &[(&str, &str)]) -> String {
    let resources: Vec<_> = kinds
        .iter()
        .map(|(plural, kind)| {
            json!({"name": plural, "singularName": "", "namespaced": true, "kind": kind, "verbs": ["list", "watch"]})
        })
        .collect();
    json!({"kind": "APIResourceList", "groupVersion": version, "resources": resources}).to_string()
}

fn group(name: &str) -> String {
    let version = json!({"groupVersion": format!("{name}/v1alpha1"), "version": "v1alpha1"});
    json!({"kind": "APIGroup", "name": name, "versions": [version], "preferredVersion": version}).to_string()
}

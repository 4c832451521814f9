//! The disk with the journal is lost: what the objects carry tells which jobs were done.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::agent::{Agent, CLUSTER, Setup};
use crate::apiserver::{ApiServer, unique};
use crate::testbed::job::config_map;
use crate::testbed::{Call, Fault, Job, Testbed};

const PATIENCE: Duration = Duration::from_secs(60);

const FOUND: &str = "already applied; found by its stamp";

/// Only the credential is left, as after a restore.
fn lose_the_disk(setup: &Setup) {
    for name in ["journal", "spool", "checkpoint"] {
        let _ = fs::remove_file(setup.state_dir().join(name));
    }
    assert!(!setup.state_dir().join("journal").exists());
}

fn keyed(namespace: &str, value: &str, key: &str) -> Job {
    Job::apply(config_map(namespace, "settings", value)).with("idempotencyKey", key)
}

fn is_found(testbed: &Testbed, job: &str) -> bool {
    testbed.statuses(job).iter().any(|status| status["message"] == FOUND)
}

/// The inode and the change time of the one file: writing it again is a rename, which changes both.
fn file(agent: &Agent) -> (u64, i64, i64) {
    let files = fs::read_dir(agent.directory()).expect("the directory is there");
    let names = files.map(|file| file.expect("it can be read"));
    let ours: Vec<_> = names.filter(|file| file.file_name().to_string_lossy().starts_with("pullet-")).collect();
    assert_eq!(ours.len(), 1);
    let found = ours[0].metadata().expect("it can be looked at");
    (found.ino(), found.ctime(), found.ctime_nsec())
}

/// What somebody else changes.
fn merge(api: &ApiServer, path: &str, change: &Value) {
    let body = change.to_string().into_bytes();
    let (code, answer) = api.request_as(Method::PATCH, path, "application/merge-patch+json", body);
    assert_eq!(code, 200, "{answer}");
}

#[test]
fn after_a_lost_disk_a_file_with_the_stamp_of_the_job_is_not_written_again() {
    let testbed = Testbed::start();
    let setup = Agent::of(&testbed).target_directory();
    let mut agent = setup.spawn();
    let first = testbed.enqueue(CLUSTER, keyed("n", "a", "one key"));
    testbed.result_of(&first, PATIENCE);
    assert!(!is_found(&testbed, &first));
    agent.stop();
    let before = file(&agent);
    lose_the_disk(&setup);
    let again = testbed.enqueue(CLUSTER, keyed("n", "a", "one key"));
    let mut agent = setup.spawn();
    assert_eq!(testbed.result_of(&again, PATIENCE)["outcome"], "succeeded", "{}", agent.log());
    assert_eq!(file(&agent), before);
    // Another key is another job.
    let other = testbed.enqueue(CLUSTER, keyed("n", "b", "another key"));
    assert_eq!(testbed.result_of(&other, PATIENCE)["outcome"], "succeeded");
    assert_ne!(file(&agent), before);
    agent.stop();
    assert!(agent.log().contains("carries the stamp of this job"), "{}", agent.log());
    assert!(is_found(&testbed, &again) && !is_found(&testbed, &other));
    assert_eq!(testbed.violations(), Vec::<String>::new());
}

/// The result arrived, and its answer did not: the server sends the very same job once more, and by then the disk is lost.
#[test]
fn after_a_lost_disk_the_same_job_that_comes_again_is_not_done_again() {
    let testbed = Testbed::start();
    let setup = Agent::of(&testbed).target_directory();
    testbed.fault_until_cleared(Call::Result, Fault::status(503));
    let job = testbed.enqueue(CLUSTER, keyed("n", "a", "one key"));
    let mut agent = setup.spawn();
    testbed.wait_for("a result", PATIENCE, |state| {
        state.requests.iter().any(|seen| seen.call == Some(Call::Result) && seen.fault.is_some()).then_some(())
    });
    agent.kill();
    let before = file(&agent);
    lose_the_disk(&setup);
    testbed.clear_faults();
    testbed.redeliver(&job);
    let mut agent = setup.spawn();
    assert_eq!(testbed.result_of(&job, PATIENCE)["outcome"], "succeeded", "{}", agent.log());
    assert_eq!(file(&agent), before);
    agent.stop();
    assert!(agent.log().contains("carries the stamp of this job"), "{}", agent.log());
    assert!(is_found(&testbed, &job));
    assert_eq!(testbed.violations(), Vec::<String>::new());
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn after_a_lost_disk_an_object_with_the_stamp_of_the_job_is_not_applied_again() {
    let api = ApiServer::shared();
    let (testbed, cluster) = (Testbed::start(), format!("cluster-{}", unique()));
    let namespace = format!("shop-{}", unique());
    let setup = Setup::of_cluster(&testbed, &cluster)
        .flag("--kubeconfig", api.kubeconfig())
        .flag("--allow-kind", "/ConfigMap")
        .flag("--wait", "1");
    let mut agent = setup.spawn();
    let first = testbed.enqueue(&cluster, keyed(&namespace, "a", "one key"));
    let applied = testbed.result_of(&first, PATIENCE)["appliedRef"].clone();
    agent.stop();
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/settings");
    // Applied once more, this would come back: what somebody changed meanwhile shows that nothing was written.
    merge(api, &path, &json!({"data": {"of": "somebody else"}}));
    let before = api.get(&path);
    lose_the_disk(&setup);
    let again = testbed.enqueue(&cluster, keyed(&namespace, "changed", "one key"));
    let mut agent = setup.spawn();
    let result = testbed.result_of(&again, PATIENCE);
    assert_eq!((&result["outcome"], &result["appliedRef"]), (&json!("succeeded"), &applied), "{}", agent.log());
    assert_eq!(api.get(&path)["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
    // Without our label it is somebody's object that looks like ours.
    agent.stop();
    merge(api, &path, &json!({"metadata": {"labels": {"app.vworkspace.io/cluster-id": "another"}}}));
    lose_the_disk(&setup);
    let third = testbed.enqueue(&cluster, keyed(&namespace, "a", "one key"));
    let mut agent = setup.spawn();
    testbed.result_of(&third, PATIENCE);
    agent.stop();
    assert!(is_found(&testbed, &again) && !is_found(&testbed, &third));
    assert_eq!(testbed.violations(), Vec::<String>::new());
}

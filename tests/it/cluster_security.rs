//! What a Cluster demands of jobs (`spec.security`): it is demanded, and what it does not demand weakens nothing.

use std::fs;

use serde_json::{Value, json};

use crate::agent::{Setup, run_to_end};
use crate::apiserver::unique;
use crate::cluster_stage::{Definitions, Stage};
use crate::scene::{LATER, SOON, said};
use crate::testbed::Job;
use crate::testbed::job::application_instance;
use crate::testbed::owner::Owner;

/// What the agent says of a job: `succeeded`, or the reason of a refusal; and `pullet check` says the same before.
fn verdict(stage: &Stage, setup: &Setup, job: Job) -> String {
    let checked = checked(setup, &job);
    let result = stage.testbed.result_of(&stage.testbed.enqueue(&stage.name, job), LATER);
    let told = match result["outcome"].as_str() {
        Some("failed") => result["error"].as_str().unwrap().split(':').next().unwrap().to_owned(),
        outcome => outcome.unwrap_or_default().to_owned(),
    };
    assert_eq!(checked["stopped"]["reason"].as_str().unwrap_or("succeeded"), told, "{checked} {result}");
    told
}

fn checked(setup: &Setup, job: &Job) -> Value {
    let file = setup.home().join("job.json");
    fs::write(&file, Value::from(job.clone()).to_string()).unwrap();
    let mut check = setup.prepare("check");
    check.arg(file).arg("--json");
    let output = run_to_end(check);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output).1))
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn what_a_cluster_demands_of_jobs_is_demanded_and_its_false_weakens_nothing() {
    let (stage, owner) = (Stage::new(Definitions::Ours), Owner::new());
    let file = stage.setup.home().join("keyring");
    fs::write(&file, owner.keyring(1)).unwrap();
    let common = stage.setup.clone().flag("--keyring", file).flag("--allow-kind", "/Secret");
    let open = common.clone().flag("--signatures", "off");
    let closed = common.flag("--signatures", "require").switch("--require-encrypted-secrets");
    let unsigned = || Job::apply(application_instance("shop", &format!("app-{}", unique())));
    let secret = || {
        let name = format!("secret-{}", unique());
        let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "shop"}});
        owner.sign(&stage.name, Job::apply(object))
    };
    stage.node.set_token(&stage.testbed.issue_token(Some(&stage.name)));
    let mut check = open.prepare("check");
    check.arg("/dev/null");
    let (code, text) = said(&run_to_end(check));
    assert!(code == 1 && text.contains("the Cluster is not served: there is none"), "{text}");

    stage.create(&json!({}));
    let mut agent = open.spawn();
    stage.is_connected();
    assert_eq!(verdict(&stage, &open, unsigned()), "succeeded");
    assert_eq!(verdict(&stage, &open, unsigned().with("signature", "a..b")), "succeeded");
    let demands = |value: bool| json!({"requireSignedPayloads": value, "requireEncryptedSecretPayloads": value});
    stage.patch(&json!({"spec": {"security": demands(true)}}));
    agent.wait_for_log("the line begins anew", SOON);
    stage.is_in_effect();
    let is_demanded = |setup: &Setup| {
        assert_eq!(verdict(&stage, setup, unsigned()), "Unsigned");
        assert_eq!(verdict(&stage, setup, secret()), "EncryptionRequired");
        assert_eq!(verdict(&stage, setup, owner.sign(&stage.name, unsigned())), "succeeded");
    };
    is_demanded(&open);
    agent.stop();

    stage.patch(&json!({"spec": {"security": demands(false)}}));
    let _agent = closed.spawn();
    stage.is_in_effect();
    stage.is_connected();
    is_demanded(&closed);
    assert_eq!(stage.testbed.violations(), Vec::<String>::new());
}

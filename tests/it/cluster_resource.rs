//! An agent that goes by a Cluster object: the real agent with the rights of k3s/, a real API server, a control plane over
//! real TLS.

use std::time::Duration;

use http::Method;
use pullet::trust::policy::OWN_ACCOUNT;
use serde_json::{Value, json};

use crate::apiserver::{unique, wait_until};
use crate::cluster_stage::{CLUSTERS, CREDENTIAL, Definitions, Stage, condition, message};
use crate::scene::{LATER, SOON};
use crate::testbed::Call;
use crate::testbed::job::{application_instance, config_map};

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_cluster_registers_and_says_so_and_its_credential_lies_in_the_secret() {
    let (stage, mut agent) = Stage::connected(Definitions::Ours);
    let cluster = stage.cluster();
    let status = &cluster["status"];
    assert_eq!(condition(&cluster, "Authenticated"), "True/RegistrationComplete");
    assert_eq!(condition(&cluster, "Disconnected"), "False/Connected");
    assert_eq!(condition(&cluster, "BufferOverflow"), "False/BufferDrained");
    assert_eq!(condition(&cluster, "Accepted"), "");
    assert_eq!(status["agentVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["observedGeneration"], cluster["metadata"]["generation"]);
    assert_eq!(status["credentialStatus"]["secretName"], "vworkspace-agent-credentials");
    assert_eq!(status["credentialStatus"]["registrationTokenConsumed"], true);
    assert_eq!(
        status["credentialsSecretRef"],
        json!({"name": "vworkspace-agent-credentials", "namespace": "vworkspace-system"})
    );
    assert_eq!(status["observedToken"].as_str().unwrap().len(), 16);
    assert_eq!(cluster["metadata"]["finalizers"], json!(["ops.vworkspace.io/cluster-cleanup"]));

    let keys = stage.node.keys();
    assert_eq!(keys, ["agent-state", "cluster-id", "control-plane-base-url", "keypair", "token"]);
    assert_eq!(stage.node.entry("cluster-id"), stage.name);
    assert_eq!(stage.node.entry("control-plane-base-url"), stage.testbed.endpoint());
    let owner = &stage.node.0.get(CREDENTIAL)["metadata"]["ownerReferences"];
    assert_eq!(owner[0]["uid"], cluster["metadata"]["uid"]);
    let token = stage.node.entry("token");
    assert!(!stage.cluster().to_string().contains(&token) && !agent.log().contains(&token));
    for entry in std::fs::read_dir(agent.state_dir()).unwrap().flatten() {
        let bytes = std::fs::read(entry.path()).unwrap_or_default();
        let found = bytes.windows(token.len()).any(|window| window == token.as_bytes());
        assert!(!found, "the bearer lies in {}", entry.path().display());
    }
    wait_until("its event", || stage.node.events(&stage.name).contains(&"RegistrationComplete".to_owned()));
    assert_eq!(stage.apply(application_instance("shop", "wiki"))["outcome"], "succeeded");
    // The finalizer; the keys and the credential; that it registers, that it is connected, and how the line is: together where no
    // second lies between them.
    let writes = stage.writes();
    let count = |what: &str| writes.iter().filter(|write| write.starts_with(what)).count();
    assert_eq!((count("patch clusters "), count("patch secrets "), count("create events ")), (1, 2, 1), "{writes:?}");
    assert!(count("patch clusters/status ") <= 3, "{writes:?}");

    // A restart goes by the Secret, and writes nothing.
    assert_eq!(agent.stop().status.code(), Some(0));
    let version = stage.cluster()["metadata"]["resourceVersion"].clone();
    let _agent = stage.setup.spawn();
    assert_eq!(stage.apply(application_instance("shop", "forum"))["outcome"], "succeeded");
    assert_eq!(stage.testbed.requests_of(Call::Register).len(), 1);
    assert_eq!(stage.node.entry("token"), token);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(stage.cluster()["metadata"]["resourceVersion"], version);
    assert_eq!(stage.testbed.violations(), Vec::<String>::new());
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn the_policy_of_a_cluster_is_narrowed_while_jobs_run_and_none_is_lost() {
    let (stage, agent) = Stage::connected(Definitions::Ours);
    assert_eq!(stage.apply(application_instance("shop", "wiki"))["outcome"], "succeeded");
    let jobs: Vec<String> = (0..8)
        .map(|number| stage.testbed.apply(&stage.name, application_instance("shop", &format!("app-{number}"))))
        .collect();
    stage.patch(&json!({"spec": {"policy": {"kinds": ["ops.vworkspace.io/Operation"]}}}));
    for job in &jobs {
        // Whatever the policy was when it was worked: it is done once, and answered.
        stage.testbed.result_of(job, LATER);
        assert_eq!(stage.testbed.acks(job), 1);
    }
    agent.wait_for_log("the line begins anew", SOON);
    stage.is_in_effect();
    let refused = stage.apply(application_instance("shop", "late"));
    assert_eq!(refused["outcome"], "failed");
    assert!(refused["error"].as_str().unwrap().contains("KindNotAllowed"), "{refused}");
    stage.patch(&json!({"spec": {"policy": null}}));
    wait_until("it is open again", || {
        stage.apply(application_instance("shop", &format!("again-{}", unique())))["outcome"] == "succeeded"
    });
    // It opens nothing that the file does not.
    stage.patch(&json!({"spec": {"policy": {"kinds": ["/ConfigMap"]}}}));
    wait_until("it is in effect", || {
        stage.apply(application_instance("shop", &format!("no-{}", unique())))["outcome"] == "failed"
    });
    assert_eq!(stage.apply(config_map("shop", "settings", "a"))["outcome"], "failed");
    assert_eq!(stage.testbed.requests_of(Call::Register).len(), 1);
    assert_eq!(stage.testbed.violations(), Vec::<String>::new());
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_mode_that_is_not_built_stops_the_line_and_is_told() {
    let (stage, _agent) = Stage::connected(Definitions::Ours);
    stage.patch(&json!({"spec": {"connectivityMode": "push"}}));
    stage.says("Accepted", "False/ModeNotSupported");
    assert_eq!(stage.cluster()["status"]["phase"], "Error");
    assert!(message(&stage.cluster(), "Accepted").contains("connectivityMode push is not built"));
    let polls = stage.testbed.counts().polls;
    std::thread::sleep(Duration::from_secs(3));
    assert!(stage.testbed.counts().polls <= polls + 1);
    stage.patch(&json!({"spec": {"connectivityMode": "pull"}}));
    stage.is_connected();
    stage.says("Accepted", "");
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn of_two_clusters_none_is_served_until_one_is_named() {
    let stage = Stage::new(Definitions::Ours);
    stage.node.set_token(&stage.testbed.issue_token(Some(&stage.name)));
    stage.create(&json!({}));
    let other = format!("{CLUSTERS}/other-{}", unique());
    let object = json!({
        "apiVersion": "ops.vworkspace.io/v1alpha1", "kind": "Cluster",
        "metadata": {"name": other.rsplit('/').next().unwrap()}, "spec": {},
    });
    stage.node.0.create(CLUSTERS, &object);
    let mut agent = stage.setup.spawn();
    stage.says("Accepted", "False/SeveralClusters");
    wait_until("the other one is told", || condition(&stage.node.0.get(&other), "Accepted") == "False/SeveralClusters");
    assert_eq!(stage.testbed.requests_of(Call::Register).len(), 0);
    // The other one goes, and comes again.
    assert_eq!(stage.node.0.request(Method::DELETE, &other, None).0, 200);
    stage.is_connected();
    stage.says("Accepted", "");
    stage.node.0.create(CLUSTERS, &object);
    stage.says("Accepted", "False/SeveralClusters");
    agent.stop();
    let _agent = stage.setup.clone().without("--cluster-resource").flag("--cluster-resource", &stage.name).spawn();
    stage.is_connected();
    assert!(stage.node.0.get(&other)["metadata"]["finalizers"].is_null(), "nobody is asked about that one");
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_cluster_that_is_deleted_takes_its_credential_along_and_leaves_what_runs() {
    let (stage, agent) = Stage::connected(Definitions::Ours);
    assert_eq!(stage.apply(application_instance("shop", "keep"))["outcome"], "succeeded");
    let (status, _) = stage.node.0.request(Method::DELETE, &stage.path(), None);
    assert_eq!(status, 200);
    wait_until("it is gone", || stage.node.0.request(Method::GET, &stage.path(), None).0 == 404);
    assert_eq!(stage.node.keys(), Vec::<String>::new());
    assert!(stage.node.0.get(CREDENTIAL)["metadata"]["ownerReferences"].is_null());
    let object = "/apis/apps.vworkspace.io/v1alpha1/namespaces/shop/applicationinstances/keep";
    assert_eq!(stage.node.0.request(Method::GET, object, None).0, 200);
    let polls = stage.testbed.counts().polls;
    std::thread::sleep(Duration::from_secs(3));
    assert!(stage.testbed.counts().polls <= polls + 1, "nobody polls");
    // The next one needs a token of its own, and no restart.
    stage.node.set_token(&stage.testbed.issue_token(Some(&stage.name)));
    stage.create(&json!({}));
    stage.is_connected();
    assert_eq!(stage.testbed.requests_of(Call::Register).len(), 2);
    assert!(!agent.log().contains("panicked"));
}

/// Its phase, and whether it is connected, are seen where something else waits for a finalizer of its own.
#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_cluster_that_others_hold_back_is_terminating_without_us_and_is_written_no_more() {
    let (stage, agent) = Stage::connected(Definitions::Ours);
    let ours = json!("ops.vworkspace.io/cluster-cleanup");
    stage.patch(&json!({"metadata": {"finalizers": [ours, "it.example/hold"]}}));
    assert_eq!(stage.node.0.request(Method::DELETE, &stage.path(), None).0, 200);
    wait_until("ours is gone", || stage.cluster()["metadata"]["finalizers"] == json!(["it.example/hold"]));
    wait_until("the phase", || stage.cluster()["status"]["phase"] == "Terminating");
    assert_eq!(stage.condition("Connected"), "False/CredentialMissing");
    assert_eq!(stage.node.keys(), Vec::<String>::new());
    std::thread::sleep(Duration::from_secs(2));
    let before = stage.writes();
    stage.patch(&json!({"metadata": {"labels": {"it.example/looked-at": "yes"}}}));
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(stage.writes(), before, "it is not ours any more");
    assert_eq!(stage.cluster()["status"]["phase"], "Terminating");
    stage.patch(&json!({"metadata": {"finalizers": null}}));
    wait_until("it is gone", || stage.node.0.request(Method::GET, &stage.path(), None).0 == 404);
    assert!(!agent.log().contains("panicked"));
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_rotation_is_asked_for_by_the_annotation_which_goes_when_it_is_done() {
    let (stage, _agent) = Stage::connected(Definitions::Ours);
    let annotate = |value: &str| {
        stage.patch(&json!({"metadata": {"annotations": {"ops.vworkspace.io/rotate-credentials": value}}}));
    };
    let is_gone = || stage.cluster()["metadata"]["annotations"]["ops.vworkspace.io/rotate-credentials"].is_null();
    annotate("false");
    std::thread::sleep(Duration::from_secs(3));
    let before = stage.node.entry("token");
    assert_eq!((stage.testbed.requests_of(Call::Rotate).len(), is_gone()), (0, false));
    // The one-time token is used up: the credential in use asks for the next.
    annotate("true");
    wait_until("the annotation is gone", is_gone);
    stage.says("Authenticated", "True/CredentialRotated");
    assert_eq!(stage.testbed.requests_of(Call::Rotate).len(), 1);
    let after = stage.node.entry("token");
    assert_ne!(after, before);
    assert!(
        stage.node.entry("agent-state").contains(&before),
        "both are stored until the new one has worked for a while"
    );
    // A new token makes it a registration.
    stage.node.set_token(&stage.testbed.issue_token(Some(&stage.name)));
    annotate("now");
    wait_until("the annotation is gone", is_gone);
    stage.says("Authenticated", "True/RegistrationComplete");
    assert_eq!(stage.testbed.requests_of(Call::Register).len(), 2);
    assert_ne!(stage.node.entry("token"), after);
    assert!(stage.node.keys().iter().all(|key| !key.starts_with("before-")), "{:?}", stage.node.keys());
    stage.is_connected();
    assert_eq!(stage.apply(application_instance("shop", "wiki"))["outcome"], "succeeded");
    assert_eq!(stage.testbed.violations(), Vec::<String>::new());
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_registration_that_was_asked_for_and_fails_leaves_the_credential_in_use() {
    let (stage, _agent) = Stage::connected(Definitions::Ours);
    stage.node.set_token("a-token-that-nobody-issued");
    stage.patch(&json!({"spec": {"rotateCredentials": true}}));
    // The token is refused, and the credential in use asks for the next one.
    wait_until("it was rotated", || stage.testbed.requests_of(Call::Rotate).len() == 1);
    stage.says("Authenticated", "True/CredentialRotated");
    assert_eq!(stage.testbed.requests_of(Call::Register).len(), 2);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(stage.testbed.requests_of(Call::Rotate).len(), 1, "once for each change of the spec");
    assert_eq!(stage.apply(application_instance("shop", "wiki"))["outcome"], "succeeded");
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn an_agent_that_is_idle_writes_nothing_and_one_whose_line_is_lost_writes_once() {
    let (mut stage, agent) = Stage::connected(Definitions::Ours);
    std::thread::sleep(Duration::from_secs(3));
    let before = stage.writes().len();
    stage.testbed.polls(stage.testbed.counts().polls + 20, LATER);
    assert_eq!(stage.writes().len(), before, "{:?}", stage.writes());
    stage.testbed.down();
    stage.says("Connected", "False/ControlPlaneUnreachable");
    assert_eq!(stage.cluster()["status"]["phase"], "Disconnected");
    assert_eq!(stage.condition("Authenticated"), "True/RegistrationComplete", "a network error never touches it");
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(stage.writes().len(), before + 1, "{:?}", stage.writes());
    stage.testbed.up();
    agent.signal(rustix::process::Signal::HUP);
    stage.is_connected();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(stage.writes().len(), before + 2, "{:?}", stage.writes());
    // A change of the spec is one more, when it is in effect; and one that changes nothing is none.
    stage.patch(&json!({"spec": {"policy": {"kinds": ["ops.vworkspace.io/Operation"]}}}));
    stage.is_in_effect();
    stage.patch(&json!({"metadata": {"labels": {"room": "7"}}}));
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(stage.writes().len(), before + 3, "{:?}", stage.writes());
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn the_api_server_may_be_away_and_what_happened_is_said_when_it_is_back() {
    let (mut stage, agent) = Stage::connected(Definitions::Ours);
    stage.node.0.stop();
    let polls = stage.testbed.counts().polls;
    stage.testbed.polls(polls + 5, LATER);
    stage.testbed.down();
    agent.wait_for_log("not connected; the cluster goes on", SOON);
    agent.wait_for_log("the status of the Cluster cannot be written", LATER);
    stage.node.0.resume();
    stage.says("Connected", "False/ControlPlaneUnreachable");
    stage.testbed.up();
    agent.signal(rustix::process::Signal::HUP);
    stage.is_connected();
    assert_eq!(stage.testbed.requests_of(Call::Register).len(), 1);
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn rights_that_are_taken_away_are_missed_and_jobs_go_on() {
    let (stage, agent) = Stage::connected(Definitions::Ours);
    let unbind = |binding: &str, rule: &Value, namespace: &str| {
        let path = format!("/apis/rbac.authorization.k8s.io/v1/{binding}");
        assert_eq!(stage.node.0.request(Method::DELETE, &path, None).0, 200);
        stage.node.0.until_may(OWN_ACCOUNT, rule, namespace, false);
    };
    let credential =
        json!({"verbs": ["patch"], "resources": ["secrets"], "resourceNames": ["vworkspace-agent-credentials"]});
    unbind("namespaces/vworkspace-system/rolebindings/pullet-credentials", &credential, "vworkspace-system");
    stage.patch(&json!({"metadata": {"annotations": {"ops.vworkspace.io/rotate-credentials": "now"}}}));
    stage.says("Authenticated", "False/RotationFailed");
    let text = message(&stage.cluster(), "Authenticated");
    assert!(text.contains("no new credential can be stored, so none was asked for"), "{text}");
    assert_eq!(stage.testbed.requests_of(Call::Rotate).len(), 0);
    let clusters = json!({"verbs": ["list"], "apiGroups": ["ops.vworkspace.io"], "resources": ["clusters"]});
    unbind("clusterrolebindings/pullet-cluster", &clusters, "");
    stage.patch(&json!({"metadata": {"labels": {"room": "7"}}}));
    agent.wait_for_log("the Cluster cannot be looked at; the agent goes on with what it knows", LATER);
    assert_eq!(stage.apply(application_instance("shop", "wiki"))["outcome"], "succeeded");
    stage.node.0.apply_manifest("k3s/cluster.yaml");
    // The annotation is still there; so is the wish.
    stage.testbed.wait_for("the rotation", 2 * LATER, |state| {
        state.requests.iter().any(|seen| seen.call == Some(Call::Rotate)).then_some(())
    });
    stage.says("Authenticated", "True/CredentialRotated");
}

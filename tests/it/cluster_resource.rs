//! An agent that goes by a Cluster object: the real agent with the rights of k3s/, a real API server, a control plane over
//! real TLS.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::agent::{Agent, Setup};
use crate::apiserver::{ApiServer, unique, wait_until};
use crate::scene::{LATER, SOON};
use crate::testbed::job::{application_instance, config_map};
use crate::testbed::{Call, Testbed};

const ACCOUNT: &str = "system:serviceaccount:vworkspace-system:pullet";

const CLUSTERS: &str = "/apis/ops.vworkspace.io/v1alpha1/clusters";

const SECRETS: &str = "/api/v1/namespaces/vworkspace-system/secrets";

const CREDENTIAL: &str = "/api/v1/namespaces/vworkspace-system/secrets/vworkspace-agent-credentials";

const TOKEN: &str = "/api/v1/namespaces/vworkspace-system/secrets/vworkspace-registration-token";

/// A cluster that one test at a time has for itself, as k3s/ leaves it.
struct Node(MutexGuard<'static, ApiServer>);

impl Node {
    fn new() -> Self {
        static SERVER: OnceLock<Mutex<ApiServer>> = OnceLock::new();
        let server = SERVER.get_or_init(|| {
            let server = ApiServer::start();
            server.apply_crds();
            server.apply_manifest("k3s/rbac.yaml");
            Mutex::new(server)
        });
        let node = Self(server.lock().unwrap_or_else(PoisonError::into_inner));
        node.wipe();
        node
    }

    /// What tests before this one left.
    fn wipe(&self) {
        for cluster in self.0.get(CLUSTERS)["items"].as_array().unwrap() {
            let path = format!("{CLUSTERS}/{}", cluster["metadata"]["name"].as_str().unwrap());
            self.0.request(Method::PATCH, &path, Some(&json!({"metadata": {"finalizers": null}})));
            self.0.request(Method::DELETE, &path, None);
        }
        self.0.request(Method::DELETE, CREDENTIAL, None);
        self.0.request(Method::DELETE, TOKEN, None);
        self.0.apply_manifest("k3s/cluster.yaml");
    }

    /// What the Secret holds, decoded.
    fn credential(&self) -> Vec<(String, String)> {
        let secret = self.0.get(CREDENTIAL);
        let data = secret["data"].as_object().cloned().unwrap_or_default();
        data.into_iter().map(|(key, value)| (key, decode(value.as_str().unwrap()))).collect()
    }

    fn keys(&self) -> Vec<String> {
        self.credential().into_iter().map(|(key, _)| key).collect()
    }

    fn entry(&self, name: &str) -> String {
        self.credential().into_iter().find(|(key, _)| key == name).unwrap_or_default().1
    }

    fn set_token(&self, token: &str) {
        let patch = json!({"stringData": {"registrationToken": token}});
        assert_eq!(self.0.request(Method::PATCH, TOKEN, Some(&patch)).0, 200);
    }

    fn events(&self, cluster: &str) -> Vec<String> {
        let list = self.0.get("/api/v1/namespaces/default/events");
        let items = list["items"].as_array().unwrap();
        let ours = items.iter().filter(|event| event["involvedObject"]["name"] == cluster);
        ours.map(|event| event["reason"].as_str().unwrap().to_owned()).collect()
    }
}

fn decode(text: &str) -> String {
    use base64::Engine as _;
    String::from_utf8(base64::engine::general_purpose::STANDARD.decode(text).unwrap()).unwrap()
}

/// A control plane, a Cluster that names it, and how its agent is started.
struct Stage {
    node: Node,
    testbed: Testbed,
    /// The name of the object, and the id at the control plane.
    name: String,
    setup: Setup,
}

impl Stage {
    fn new() -> Self {
        let (node, testbed) = (Node::new(), Testbed::start());
        let name = format!("clinic-{}", unique());
        let setup = setup(&node, &testbed);
        Self { node, testbed, name, setup }
    }

    /// With a token and a Cluster, and an agent that has registered.
    fn connected() -> (Self, Agent) {
        let stage = Self::new();
        stage.node.set_token(&stage.testbed.issue_token(Some(&stage.name)));
        stage.create(&json!({}));
        let agent = stage.setup.spawn();
        stage.is_connected();
        (stage, agent)
    }

    fn spec(&self) -> Value {
        json!({
            "clusterId": self.name, "controlPlaneEndpoint": self.testbed.endpoint(),
            "caBundle": self.testbed.ca_pem(), "registrationTokenSecretRef": {"name": "vworkspace-registration-token"},
            "pull": {"waitSeconds": 1},
        })
    }

    /// Makes the Cluster, with more in its spec.
    fn create(&self, more: &Value) {
        let mut spec = self.spec();
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let object = json!({
            "apiVersion": "ops.vworkspace.io/v1alpha1", "kind": "Cluster", "metadata": {"name": self.name}, "spec": spec,
        });
        self.node.0.create(CLUSTERS, &object);
    }

    fn path(&self) -> String {
        format!("{CLUSTERS}/{}", self.name)
    }

    fn cluster(&self) -> Value {
        self.node.0.get(&self.path())
    }

    fn patch(&self, patch: &Value) {
        let (status, answer) = self.node.0.request(Method::PATCH, &self.path(), Some(patch));
        assert_eq!(status, 200, "{answer}");
    }

    /// `True/RoundTripOK` of a condition.
    fn condition(&self, kind: &str) -> String {
        condition(&self.cluster(), kind)
    }

    #[track_caller]
    fn says(&self, kind: &str, expected: &str) {
        wait_until(&format!("{kind} is {expected}: {}", self.cluster()["status"]), || self.condition(kind) == expected);
    }

    fn is_connected(&self) {
        self.says("Connected", "True/RoundTripOK");
        assert_eq!(self.cluster()["status"]["phase"], "Connected");
    }

    fn apply(&self, kind: Value) -> Value {
        let job = self.testbed.apply(&self.name, kind);
        self.testbed.result_of(&job, SOON)
    }
}

fn setup(node: &Node, testbed: &Testbed) -> Setup {
    Setup::at(&testbed.endpoint(), &testbed.ca_file(), "none")
        .without("--endpoint")
        .without("--ca-file")
        .without("--token-file")
        .flag("--cluster-resource", "*")
        .flag("--kubeconfig", node.0.kubeconfig_for(ACCOUNT, "none"))
        .flag("--succeed-on", "applied")
        .flag("--allow-chart", "*")
        .flag("--log-level", "debug")
}

fn condition(cluster: &Value, kind: &str) -> String {
    let conditions = cluster["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == kind);
    found.map_or(String::new(), |found| {
        format!("{}/{}", found["status"].as_str().unwrap(), found["reason"].as_str().unwrap())
    })
}

fn message(cluster: &Value, kind: &str) -> String {
    let conditions = cluster["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == kind);
    found.and_then(|found| found["message"].as_str()).unwrap_or_default().to_owned()
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_cluster_registers_and_says_so_and_its_credential_lies_in_the_secret() {
    let (stage, mut agent) = Stage::connected();
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
    assert_eq!(status["credentialsSecretRef"], json!({"name": "vworkspace-agent-credentials", "namespace": "vworkspace-system"}));
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
fn a_token_that_is_missing_empty_or_wrong_is_told_and_a_new_one_is_tried_by_itself() {
    let stage = Stage::new();
    stage.node.0.request(Method::DELETE, TOKEN, None);
    stage.create(&json!({}));
    let agent = stage.setup.spawn();
    stage.says("Authenticated", "False/TokenSecretMissing");
    assert_eq!(stage.cluster()["status"]["phase"], "Pending");
    assert_eq!(stage.condition("Connected"), "False/RegistrationPending");
    assert!(message(&stage.cluster(), "Authenticated").contains("is not there"));
    stage.node.0.create(SECRETS, &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "vworkspace-registration-token"}}));
    wait_until("it is told that it is empty", || message(&stage.cluster(), "Authenticated").contains("has no token"));

    stage.node.set_token("a-token-that-nobody-issued");
    stage.says("Authenticated", "False/RegistrationFailed");
    assert_eq!(stage.cluster()["status"]["phase"], "Error");
    let observed = stage.cluster()["status"]["observedToken"].clone();
    assert_eq!(observed.as_str().unwrap().len(), 16);
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(stage.testbed.requests_of(Call::Register).len(), 1, "it is not tried twice");

    stage.node.set_token(&stage.testbed.issue_token(Some(&stage.name)));
    stage.is_connected();
    assert_ne!(stage.cluster()["status"]["observedToken"], observed);
    assert!(!agent.log().contains("a-token-that-nobody-issued"));
    let events = stage.node.events(&stage.name);
    for reason in ["TokenSecretMissing", "RegistrationFailed", "RegistrationComplete"] {
        assert!(events.iter().any(|event| event == reason), "{reason}: {events:?}");
    }
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn the_policy_of_a_cluster_is_narrowed_while_jobs_run_and_none_is_lost() {
    let (stage, agent) = Stage::connected();
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
    wait_until("it is in effect", || {
        let status = stage.cluster();
        status["status"]["observedGeneration"] == status["metadata"]["generation"]
    });
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
    let (stage, _agent) = Stage::connected();
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
    let stage = Stage::new();
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
    agent.stop();
    let _agent = stage.setup.clone().without("--cluster-resource").flag("--cluster-resource", &stage.name).spawn();
    stage.is_connected();
    assert_eq!(stage.node.0.get(&other)["status"]["phase"], "Error", "nobody is asked about that one");
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_cluster_that_is_deleted_takes_its_credential_along_and_leaves_what_runs() {
    let (stage, agent) = Stage::connected();
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

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_rotation_is_asked_for_by_the_annotation_which_goes_when_it_is_done() {
    let (stage, _agent) = Stage::connected();
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
    assert!(stage.node.entry("agent-state").contains(&before), "both are stored until the new one has worked for a while");
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
    let (stage, _agent) = Stage::connected();
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
    let (mut stage, agent) = Stage::connected();
    std::thread::sleep(Duration::from_secs(3));
    let writes = |stage: &Stage| stage.node.0.writes_of(ACCOUNT).len();
    let before = writes(&stage);
    stage.testbed.polls(stage.testbed.counts().polls + 20, LATER);
    assert_eq!(writes(&stage), before, "{:?}", stage.node.0.writes_of(ACCOUNT));
    stage.testbed.down();
    stage.says("Connected", "False/ControlPlaneUnreachable");
    assert_eq!(stage.cluster()["status"]["phase"], "Disconnected");
    assert_eq!(stage.condition("Authenticated"), "True/RegistrationComplete", "a network error never touches it");
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(writes(&stage), before + 1, "{:?}", stage.node.0.writes_of(ACCOUNT));
    stage.testbed.up();
    agent.signal(rustix::process::Signal::HUP);
    stage.is_connected();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(writes(&stage), before + 2, "{:?}", stage.node.0.writes_of(ACCOUNT));
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_secret_that_is_not_there_too_large_or_damaged_is_told() {
    let stage = Stage::new();
    stage.node.set_token(&stage.testbed.issue_token(Some(&stage.name)));
    stage.node.0.request(Method::DELETE, CREDENTIAL, None);
    stage.create(&json!({}));
    let _agent = stage.setup.spawn();
    stage.says("Authenticated", "False/CredentialMissing");
    assert!(message(&stage.cluster(), "Authenticated").contains("apply k3s/cluster.yaml"));
    assert_eq!(stage.testbed.requests_of(Call::Register).len(), 0, "no token is used up for nothing");
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "vworkspace-agent-credentials"},
        "stringData": {"other": "x".repeat(300 * 1024)},
    });
    stage.node.0.create(SECRETS, &secret);
    wait_until("it is told", || message(&stage.cluster(), "Authenticated").contains("larger than it can be"));
    let damaged = json!({"data": {"other": null, "token": "/w==", "cluster-id": "eA==", "control-plane-base-url": "eA=="}});
    assert_eq!(stage.node.0.request(Method::PATCH, CREDENTIAL, Some(&damaged)).0, 200);
    wait_until("it is told", || message(&stage.cluster(), "Authenticated").contains("not text"));
    let empty = json!({"data": {"token": null, "cluster-id": null, "control-plane-base-url": null}});
    assert_eq!(stage.node.0.request(Method::PATCH, CREDENTIAL, Some(&empty)).0, 200);
    stage.is_connected();
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn the_api_server_may_be_away_and_what_happened_is_said_when_it_is_back() {
    let (mut stage, agent) = Stage::connected();
    stage.node.0.stop();
    let polls = stage.testbed.counts().polls;
    stage.testbed.polls(polls + 5, LATER);
    stage.testbed.down();
    agent.wait_for_log("not connected; the cluster goes on", SOON);
    agent.wait_for_log("the status of the Cluster cannot be written", LATER);
    stage.node.0.resume();
    stage.says("Connected", "False/ControlPlaneUnreachable");
    stage.testbed.up();
    stage.is_connected();
    assert_eq!(stage.testbed.requests_of(Call::Register).len(), 1);
}

//! One agent acts on one cluster: real agents, a real API server, and the rights of k3s/rbac.yaml.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::agent::{Agent, Setup};
use crate::apiserver::{ApiServer, unique, wait_until};
use crate::custom_resources;
use crate::scene::{LATER, SOON};
use crate::testbed::Testbed;
use crate::testbed::job::application_instance;

const ACCOUNT: &str = "system:serviceaccount:vworkspace-system:pullet";

const CONFIG_MAPS: &str = "/api/v1/namespaces/vworkspace-system/configmaps";

const RECORD: &str = "/api/v1/namespaces/vworkspace-system/configmaps/vworkspace-agent-holder";

const PODS: &str = "/api/v1/namespaces/vworkspace-system/pods";

const ACTS: &str = "this agent acts on the cluster";

const WAITS: &str = "waiting until its pod is gone";

const REPLACED: &str = "has taken over this cluster, so this one has stopped";

const NOT_NOTED: &str = "who acts on this cluster cannot be noted";

const GONE: &str = "the record of who acts on this cluster is gone";

/// A cluster that one test at a time has for itself, as k3s/rbac.yaml leaves it.
struct Cluster(MutexGuard<'static, ApiServer>);

impl Cluster {
    fn new() -> Self {
        static SERVER: OnceLock<Mutex<ApiServer>> = OnceLock::new();
        let server = SERVER.get_or_init(|| {
            let server = ApiServer::start();
            custom_resources::define(&server);
            Mutex::new(server)
        });
        let cluster = Self(server.lock().unwrap_or_else(PoisonError::into_inner));
        cluster.0.request(Method::DELETE, RECORD, None);
        cluster.0.apply_manifest("k3s/rbac.yaml");
        cluster
    }

    fn record(&self) -> Value {
        self.0.get(RECORD)
    }

    fn version(&self) -> String {
        self.record()["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
    }

    /// Makes a pod that no node runs, and gives its uid.
    fn pod(&self, name: &str) -> String {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "serviceAccountName": "pullet", "automountServiceAccountToken": false,
                "containers": [{"name": "pullet", "image": "pullet"}],
            },
        });
        self.0.create(PODS, &pod)["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    fn delete_pod(&self, name: &str) {
        let (status, answer) =
            self.0.request(Method::DELETE, &format!("{PODS}/{name}"), Some(&json!({"gracePeriodSeconds": 0})));
        assert_eq!(status, 200, "{answer}");
    }
}

/// An agent with a control plane of its own, so that it is known whose job is done.
struct Stage {
    testbed: Testbed,
    id: String,
    setup: Setup,
}

impl Stage {
    fn new(cluster: &Cluster) -> Self {
        Self::of(cluster, ACCOUNT)
    }

    fn of(cluster: &Cluster, user: &str) -> Self {
        let (testbed, id) = (Testbed::start(), format!("cluster-{}", unique()));
        let setup = Setup::of_cluster(&testbed, &id)
            .flag("--kubeconfig", cluster.0.kubeconfig_for(user, "none"))
            .flag("--wait", "1");
        Self { testbed, id, setup }
    }

    fn in_pod(mut self, name: &str, uid: &str) -> Self {
        self.setup = self.setup.env("POD_NAMESPACE", "vworkspace-system").env("POD_NAME", name).env("POD_UID", uid);
        self
    }

    /// A job is sent and its object appears.
    #[track_caller]
    fn acts(&self, cluster: &Cluster) {
        let namespace = format!("shop-{}", unique());
        self.testbed.apply(&self.id, application_instance(&namespace, "wiki"));
        let path = format!("/apis/apps.vworkspace.io/v1alpha1/namespaces/{namespace}/applicationinstances/wiki");
        wait_until("the object", || cluster.0.request(Method::GET, &path, None).0 == 200);
    }
}

fn times(agent: &Agent, text: &str) -> usize {
    agent.log().matches(text).count()
}

/// What an agent ends with that was replaced.
const REPLACED_CODE: i32 = 3;

/// An agent was replaced: it says so, and ends with a code of its own, so that nobody starts it again.
#[track_caller]
fn is_replaced(agent: &mut Agent) {
    assert_eq!(agent.wait(SOON).code(), Some(REPLACED_CODE), "{}", agent.log());
    assert_eq!(times(agent, REPLACED), 1, "{}", agent.log());
}

#[test]
fn the_unit_of_systemd_does_not_start_an_agent_again_that_was_replaced() {
    let unit = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/pullet.service")).unwrap();
    let codes = unit.lines().find_map(|line| line.strip_prefix("RestartPreventExitStatus=")).expect("it names codes");
    let codes: Vec<i32> = codes.split(' ').map(|code| code.parse().unwrap()).collect();
    assert!(codes.contains(&REPLACED_CODE) && !codes.contains(&1), "{codes:?}");
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn the_agent_that_is_replaced_stops_and_only_the_other_one_acts() {
    let cluster = &Cluster::new();
    let (first, second) = (Stage::new(cluster), Stage::new(cluster));
    let mut before = first.setup.spawn();
    before.wait_for_log(ACTS, SOON);
    first.acts(cluster);
    let mut after = second.setup.spawn();
    after.wait_for_log("taking over the cluster", SOON);
    is_replaced(&mut before);
    let late = first.testbed.apply(&first.id, application_instance("shop", "late"));
    second.acts(cluster);
    assert_eq!(first.testbed.acks(&late), 0);
    assert!(after.is_running());
    assert_eq!(after.stop().status.code(), Some(0));
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_newcomer_waits_as_long_as_the_pod_of_who_acts_is_there() {
    let cluster = &Cluster::new();
    let (old, new) = (format!("pullet-{}", unique()), format!("pullet-{}", unique()));
    let first = Stage::new(cluster).in_pod(&old, &cluster.pod(&old));
    // It asks for its uid.
    let second = Stage::new(cluster).in_pod(&new, "");
    let uid = cluster.pod(&new);
    let mut before = first.setup.spawn();
    before.wait_for_log(ACTS, SOON);
    assert_eq!(cluster.record()["data"]["pod"], old.as_str());
    let mut after = second.setup.spawn();
    after.wait_for_log(WAITS, SOON);
    let version = cluster.version();
    let job = second.testbed.apply(&second.id, application_instance("shop", "early"));
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!((second.testbed.acks(&job), cluster.version(), times(&after, WAITS)), (0, version, 1));
    first.acts(cluster);
    cluster.delete_pod(&old);
    after.wait_for_log(ACTS, SOON);
    is_replaced(&mut before);
    second.testbed.ack_of(&job, SOON);
    let data = cluster.record()["data"].clone();
    assert_eq!(data, json!({"namespace": "vworkspace-system", "pod": new, "uid": uid}));
    assert_eq!(after.stop().status.code(), Some(0));
    cluster.delete_pod(&new);
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_newcomer_does_not_wait_for_a_pod_of_that_name_that_is_another_or_has_ended() {
    let cluster = &Cluster::new();
    let name = format!("pullet-{}", unique());
    let uid = cluster.pod(&name);
    let holder = |uid: &str| json!({"data": {"namespace": "vworkspace-system", "pod": name, "uid": uid}});
    assert_eq!(cluster.0.request(Method::PATCH, RECORD, Some(&holder("another"))).0, 200);
    let stage = Stage::new(cluster);
    let mut agent = stage.setup.spawn();
    agent.wait_for_log(ACTS, SOON);
    agent.stop();
    cluster.0.set_status(&format!("{PODS}/{name}"), &json!({"phase": "Failed"}));
    assert_eq!(cluster.0.request(Method::PATCH, RECORD, Some(&holder(&uid))).0, 200);
    let agent = stage.setup.spawn();
    agent.wait_for_log(ACTS, SOON);
    assert_eq!(times(&agent, WAITS), 0);
    cluster.delete_pod(&name);
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_newcomer_that_waits_ends_at_a_signal() {
    let cluster = &Cluster::new();
    let name = format!("pullet-{}", unique());
    let holder = json!({"data": {"namespace": "vworkspace-system", "pod": name, "uid": cluster.pod(&name)}});
    assert_eq!(cluster.0.request(Method::PATCH, RECORD, Some(&holder)).0, 200);
    let stage = Stage::new(cluster);
    let mut agent = stage.setup.spawn();
    agent.wait_for_log(WAITS, SOON);
    assert_eq!(agent.stop().status.code(), Some(0));
    assert_eq!(cluster.record()["data"], holder["data"]);
    cluster.delete_pod(&name);
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn the_record_is_written_once_and_a_restarted_agent_finds_its_own() {
    let cluster = &Cluster::new();
    let stage = Stage::new(cluster);
    let mut agent = stage.setup.spawn();
    agent.wait_for_log(ACTS, SOON);
    let version = cluster.version();
    stage.acts(cluster);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(cluster.version(), version);
    agent.kill();
    let mut agent = stage.setup.spawn();
    agent.wait_for_log(ACTS, SOON);
    stage.acts(cluster);
    assert_eq!((cluster.version(), times(&agent, "taking over")), (version, 0));
    assert_eq!(agent.stop().status.code(), Some(0));
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_record_that_is_deleted_is_one_warning_and_one_that_names_another_agent_ends_this_one() {
    let cluster = &Cluster::new();
    let stage = Stage::new(cluster);
    let mut agent = stage.setup.spawn();
    agent.wait_for_log(ACTS, SOON);
    // The watch begins a moment later; whichever comes first, it hears of it.
    assert_eq!(cluster.0.request(Method::DELETE, RECORD, None).0, 200);
    agent.wait_for_log(GONE, SOON);
    stage.acts(cluster);
    let record = |data: &Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "vworkspace-agent-holder"}, "data": data});
    cluster.0.create(CONFIG_MAPS, &record(&json!({})));
    stage.acts(cluster);
    assert_eq!(times(&agent, GONE), 1, "{}", agent.log());
    assert!(agent.is_running());
    let other = json!({"data": {"agent": "another", "boot": "b"}});
    assert_eq!(cluster.0.request(Method::PATCH, RECORD, Some(&other)).0, 200);
    is_replaced(&mut agent);
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn without_the_right_or_the_record_there_is_one_warning_and_the_agent_acts() {
    let cluster = &Cluster::new();
    let user = format!("narrow-{}", unique());
    cluster.0.allow(
        &user,
        &json!([
            {"apiGroups": ["apps.vworkspace.io", "ops.vworkspace.io"], "resources": ["*"], "verbs": ["*"]},
            {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "create"]},
        ]),
    );
    let stage = Stage::of(cluster, &user);
    let agent = stage.setup.spawn();
    agent.wait_for_log(NOT_NOTED, SOON);
    stage.acts(cluster);
    assert_eq!(times(&agent, NOT_NOTED), 1);
    assert_eq!(cluster.record()["data"], Value::Null);

    assert_eq!(cluster.0.request(Method::DELETE, RECORD, None).0, 200);
    let stage = Stage::new(cluster);
    let agent = stage.setup.spawn();
    agent.wait_for_log(NOT_NOTED, SOON);
    stage.acts(cluster);
    assert_eq!(times(&agent, NOT_NOTED), 1);
    assert_eq!(cluster.0.request(Method::GET, RECORD, None).0, 404, "it makes none");
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn an_agent_that_starts_before_the_api_server_takes_its_record_when_that_is_there() {
    let cluster = &Cluster::new();
    let stage = Stage::new(cluster);
    cluster.0.stop();
    let agent = stage.setup.spawn();
    agent.wait_for_log("the cluster does not tell who acts on it", SOON);
    // It takes jobs after a while, and they wait.
    stage.testbed.held_poll(LATER);
    cluster.0.resume();
    agent.wait_for_log(ACTS, LATER);
    stage.acts(cluster);
    assert_eq!(times(&agent, NOT_NOTED), 0, "{}", agent.log());
}

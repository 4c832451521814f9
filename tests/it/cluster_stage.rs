//! A cluster as k3s/ leaves it, a control plane, and an agent with the rights of k3s/ that goes by a Cluster object.

use std::sync::{Mutex, MutexGuard, OnceLock, TryLockError};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::agent::{Agent, Setup};
use crate::apiserver::{ApiServer, unique, wait_until};
use crate::scene::SOON;
use crate::testbed::Testbed;

pub(crate) const ACCOUNT: &str = "system:serviceaccount:vworkspace-system:pullet";

pub(crate) const CLUSTERS: &str = "/apis/ops.vworkspace.io/v1alpha1/clusters";

pub(crate) const SECRETS: &str = "/api/v1/namespaces/vworkspace-system/secrets";

pub(crate) const CREDENTIAL: &str = "/api/v1/namespaces/vworkspace-system/secrets/vworkspace-agent-credentials";

pub(crate) const TOKEN: &str = "/api/v1/namespaces/vworkspace-system/secrets/vworkspace-registration-token";

/// A cluster that one test at a time has for itself, as k3s/ leaves it.
pub(crate) struct Node(pub(crate) MutexGuard<'static, ApiServer>);

/// How the custom resources are defined.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Definitions {
    /// By k3s/crds.yaml, on a server of their own: for what takes minutes.
    Alone,
    /// By k3s/crds.yaml.
    Ours,
    /// As a server without schemas has them: whatever is written is there.
    Open,
}

impl Node {
    fn new(definitions: Definitions) -> Self {
        let node = Self(Self::free(definitions));
        node.wipe();
        node
    }

    /// A server that no other test has. There are several of those that most tests want.
    fn free(definitions: Definitions) -> MutexGuard<'static, ApiServer> {
        static SERVERS: [OnceLock<Mutex<ApiServer>>; 6] = [const { OnceLock::new() }; 6];
        let these = match definitions {
            Definitions::Alone => &SERVERS[..1],
            Definitions::Open => &SERVERS[1..3],
            Definitions::Ours => &SERVERS[3..],
        };
        loop {
            for server in these {
                match server.get_or_init(|| Mutex::new(start(definitions))).try_lock() {
                    Ok(server) => return server,
                    Err(TryLockError::Poisoned(server)) => return server.into_inner(),
                    Err(TryLockError::WouldBlock) => {}
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
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

    pub(crate) fn keys(&self) -> Vec<String> {
        self.credential().into_iter().map(|(key, _)| key).collect()
    }

    pub(crate) fn entry(&self, name: &str) -> String {
        self.credential().into_iter().find(|(key, _)| key == name).unwrap_or_default().1
    }

    pub(crate) fn set_token(&self, token: &str) {
        let patch = json!({"stringData": {"registrationToken": token}});
        assert_eq!(self.0.request(Method::PATCH, TOKEN, Some(&patch)).0, 200);
    }

    pub(crate) fn events(&self, cluster: &str) -> Vec<String> {
        let list = self.0.get("/api/v1/namespaces/default/events");
        let items = list["items"].as_array().unwrap();
        let ours = items.iter().filter(|event| event["involvedObject"]["name"] == cluster);
        ours.map(|event| event["reason"].as_str().unwrap().to_owned()).collect()
    }
}

fn start(definitions: Definitions) -> ApiServer {
    let server = ApiServer::start();
    match definitions {
        Definitions::Alone | Definitions::Ours => server.create_definitions(),
        Definitions::Open => server.apply_crds(),
    }
    server.apply_manifest("k3s/rbac.yaml");
    wait_until("Clusters are served", || server.request(Method::GET, CLUSTERS, None).0 == 200);
    server
}

fn decode(text: &str) -> String {
    use base64::Engine as _;
    String::from_utf8(base64::engine::general_purpose::STANDARD.decode(text).unwrap()).unwrap()
}

/// A control plane, a Cluster that names it, and how its agent is started.
pub(crate) struct Stage {
    pub(crate) node: Node,
    pub(crate) testbed: Testbed,
    /// The name of the object, and the id at the control plane.
    pub(crate) name: String,
    pub(crate) setup: Setup,
    /// What agents before this stage wrote.
    written: usize,
}

impl Stage {
    pub(crate) fn new(definitions: Definitions) -> Self {
        Self::with(definitions, Testbed::start())
    }

    /// With this control plane.
    pub(crate) fn with(definitions: Definitions, testbed: Testbed) -> Self {
        let node = Node::new(definitions);
        let name = format!("clinic-{}", unique());
        let setup = setup(&node, &testbed);
        let written = node.0.writes_of(ACCOUNT).len();
        Self { node, testbed, name, setup, written }
    }

    /// With a token and a Cluster, and an agent that has registered.
    pub(crate) fn connected(definitions: Definitions) -> (Self, Agent) {
        let stage = Self::new(definitions);
        stage.node.set_token(&stage.testbed.issue_token(Some(&stage.name)));
        stage.create(&json!({}));
        let agent = stage.setup.spawn();
        stage.is_connected();
        // What is said of the line can come a second later.
        stage.says("BufferOverflow", "False/BufferDrained");
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
    pub(crate) fn create(&self, more: &Value) {
        let mut spec = self.spec();
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let object = json!({
            "apiVersion": "ops.vworkspace.io/v1alpha1", "kind": "Cluster", "metadata": {"name": self.name}, "spec": spec,
        });
        self.node.0.create(CLUSTERS, &object);
    }

    pub(crate) fn path(&self) -> String {
        format!("{CLUSTERS}/{}", self.name)
    }

    pub(crate) fn cluster(&self) -> Value {
        self.node.0.get(&self.path())
    }

    pub(crate) fn patch(&self, patch: &Value) {
        let (status, answer) = self.node.0.request(Method::PATCH, &self.path(), Some(patch));
        assert_eq!(status, 200, "{answer}");
    }

    /// `True/RoundTripOK` of a condition.
    pub(crate) fn condition(&self, kind: &str) -> String {
        condition(&self.cluster(), kind)
    }

    /// Waits until a condition is so.
    #[track_caller]
    pub(crate) fn says(&self, kind: &str, expected: &str) {
        wait_until(&format!("{kind} is {expected}: {}", self.cluster()["status"]), || self.condition(kind) == expected);
    }

    pub(crate) fn is_connected(&self) {
        self.says("Connected", "True/RoundTripOK");
        assert_eq!(self.cluster()["status"]["phase"], "Connected");
    }

    /// Waits until the spec as it is now is in effect.
    pub(crate) fn is_in_effect(&self) {
        wait_until("the spec is in effect", || {
            let cluster = self.cluster();
            cluster["status"]["observedGeneration"] == cluster["metadata"]["generation"]
        });
    }

    /// What the agent wrote, in its order: `patch clusters/status demo`.
    pub(crate) fn writes(&self) -> Vec<String> {
        self.node.0.writes_of(ACCOUNT).split_off(self.written)
    }

    pub(crate) fn apply(&self, kind: Value) -> Value {
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

pub(crate) fn condition(cluster: &Value, kind: &str) -> String {
    let conditions = cluster["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == kind);
    found.map_or(String::new(), |found| {
        format!("{}/{}", found["status"].as_str().unwrap(), found["reason"].as_str().unwrap())
    })
}

pub(crate) fn message(cluster: &Value, kind: &str) -> String {
    let conditions = cluster["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == kind);
    found.and_then(|found| found["message"].as_str()).unwrap_or_default().to_owned()
}

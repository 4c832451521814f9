//! The rights of k3s/: an agent does all that it is for with exactly these, and with one less it fails and says which.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use http::Method;
use serde_json::{Value, json};

use crate::agent::{Agent, Setup};
use crate::apiserver::{ApiServer, unique, wait_until};
use crate::custom_resources;
use crate::testbed::Testbed;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

const ACCOUNT: &str = "system:serviceaccount:vworkspace-system:pullet";

const SYSTEM: &str = "vworkspace-system";

const RECORD: &str = "/api/v1/namespaces/vworkspace-system/configmaps/vworkspace-agent-holder";

const CLUSTERS: &str = "/apis/ops.vworkspace.io/v1alpha1/clusters";

const SECRETS: &str = "/api/v1/namespaces/vworkspace-system/secrets";

/// The roles that manifests of ours make, with their namespaces: those of every agent, and those of one that goes by a
/// Cluster.
const ROLES: [(&str, &str, &str); 5] = [
    ("ClusterRole", "pullet", ""),
    ("Role", "pullet", SYSTEM),
    ("Role", "pullet-credentials", SYSTEM),
    ("ClusterRole", "pullet-cluster", ""),
    ("Role", "pullet-events", "default"),
];

/// How many of them every agent has.
const OF_EVERY_AGENT: usize = 2;

/// One verb on one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Right {
    role: usize,
    rule: usize,
    verb: String,
    resource: String,
}

impl Right {
    /// What the API server says to whoever lacks it.
    fn refusal(&self) -> String {
        format!("cannot {} resource \"{}\"", self.verb, self.resource)
    }
}

/// A cluster that one test at a time has for itself, as k3s/ leaves it.
struct Cluster(MutexGuard<'static, ApiServer>);

impl Cluster {
    fn new() -> Self {
        static SERVER: OnceLock<Mutex<ApiServer>> = OnceLock::new();
        let server = SERVER.get_or_init(|| {
            let server = ApiServer::start();
            custom_resources::define(&server);
            server.apply_manifest("k3s/rbac.yaml");
            server.apply_manifest("k3s/cluster.yaml");
            Mutex::new(server)
        });
        Self(server.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn rules(&self, role: usize) -> Vec<Value> {
        let (kind, name, namespace) = ROLES[role];
        self.0.get(&format!("{}/{name}", place(kind, namespace)))["rules"].as_array().unwrap().clone()
    }

    fn rights(&self) -> Vec<Right> {
        let mut rights = Vec::new();
        for role in 0..ROLES.len() {
            for (rule, rules) in self.rules(role).iter().enumerate() {
                let all = |name: &str| rules[name].as_array().unwrap().clone();
                let text = |value: Value| value.as_str().unwrap().to_owned();
                for resource in all("resources") {
                    for verb in all("verbs") {
                        rights.push(Right { role, rule, verb: text(verb), resource: text(resource.clone()) });
                    }
                }
            }
        }
        rights
    }

    /// Somebody with the first so many roles, and perhaps without one right.
    fn user_with(&self, roles: usize, missing: Option<&Right>) -> String {
        let user = format!("less-{}", unique());
        for (role, (kind, _, namespace)) in ROLES.into_iter().enumerate().take(roles) {
            let mut rules = self.rules(role);
            if let Some(missing) = missing.filter(|missing| missing.role == role) {
                let verbs = rules[missing.rule]["verbs"].as_array_mut().unwrap();
                verbs.retain(|verb| *verb != missing.verb.as_str());
                rules.retain(|rule| rule["verbs"] != json!([]));
            }
            let name = format!("{user}-{role}");
            let head = json!({"name": name});
            self.0.create(&place(kind, namespace), &json!({"metadata": head, "rules": rules}));
            let binding = json!({
                "metadata": head, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
            });
            self.0.create(&place(&format!("{kind}Binding"), namespace), &binding);
            if let Some(rule) = rules.first() {
                self.0.until_may(&user, rule, namespace, true);
            }
        }
        user
    }
}

impl Cluster {
    /// A Cluster of this name and a one-time token, as if there had never been one before.
    fn add_resource(&self, testbed: &Testbed, name: &str) {
        for cluster in self.0.get(CLUSTERS)["items"].as_array().unwrap() {
            let path = format!("{CLUSTERS}/{}", cluster["metadata"]["name"].as_str().unwrap());
            self.0.request(Method::PATCH, &path, Some(&json!({"metadata": {"finalizers": null}})));
            self.0.request(Method::DELETE, &path, None);
        }
        for secret in ["vworkspace-agent-credentials", "vworkspace-registration-token"] {
            self.0.request(Method::DELETE, &format!("{SECRETS}/{secret}"), None);
        }
        self.0.apply_manifest("k3s/cluster.yaml");
        let token = json!({"stringData": {"registrationToken": testbed.issue_token(Some(name))}});
        let path = format!("{SECRETS}/vworkspace-registration-token");
        assert_eq!(self.0.request(Method::PATCH, &path, Some(&token)).0, 200);
        let spec = json!({
            "clusterId": name, "controlPlaneEndpoint": testbed.endpoint(), "caBundle": testbed.ca_pem(),
            "registrationTokenSecretRef": {"name": "vworkspace-registration-token"},
        });
        let head = json!({"apiVersion": "ops.vworkspace.io/v1alpha1", "kind": "Cluster", "metadata": {"name": name}});
        let mut object = head;
        object["spec"] = spec;
        self.0.create(CLUSTERS, &object);
    }
}

fn place(kind: &str, namespace: &str) -> String {
    let space = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
    format!("{RBAC}{space}/{}s", kind.to_lowercase())
}

/// What an agent goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Cluster,
    Flags,
}

/// How a life went.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// To its end, without a refusal.
    Done,
    /// The refusal that was waited for was told.
    Told,
}

/// An agent from its start to its end, and what it is for in between.
struct Life<'a> {
    cluster: &'a Cluster,
    testbed: Testbed,
    id: String,
    agent: Agent,
    by: By,
    refusal: Option<String>,
    jobs: Vec<String>,
}

impl<'a> Life<'a> {
    fn begin(cluster: &'a Cluster, user: &str, by: By, refusal: Option<String>) -> Self {
        // Another agent is said to act, in a pod that is not there any more.
        let record = json!({"data": {"agent": null, "boot": null, "namespace": SYSTEM, "pod": "gone", "uid": "u"}});
        assert_eq!(cluster.0.request(Method::PATCH, RECORD, Some(&record)).0, 200);
        let (testbed, id) = (Testbed::start(), format!("cluster-{}", unique()));
        let mut setup = Setup::of_cluster(&testbed, &id).flag("--kubeconfig", cluster.0.kubeconfig_for(user, "none"));
        if by == By::Cluster {
            cluster.add_resource(&testbed, &id);
            for flag in ["--endpoint", "--ca-file", "--token-file"] {
                setup = setup.without(flag);
            }
            setup = setup.flag("--cluster-resource", "*");
        }
        let agent = setup.flag("--wait", "1").spawn();
        Self { cluster, testbed, id, agent, by, refusal, jobs: Vec::new() }
    }

    /// In the log, in the result of a job, or in what is said of the Cluster.
    fn is_told(&self) -> bool {
        let Some(refusal) = &self.refusal else { return false };
        let status = match self.by {
            By::Cluster => self.cluster.0.get(&format!("{CLUSTERS}/{}", self.id))["status"].to_string(),
            By::Flags => String::new(),
        };
        // Both are JSON, which marks its quotes.
        let log = [self.agent.log(), status].concat().replace('\\', "");
        let results = self.jobs.iter().filter_map(|job| self.testbed.result(job));
        log.contains(refusal)
            || results.into_iter().any(|result| result["error"].as_str().unwrap_or_default().contains(refusal))
    }

    /// Waits for something, or for the refusal.
    fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) -> Result<(), End> {
        let mut is_told = false;
        let what = format!("{what}, or {:?} is told", self.refusal);
        wait_until(&what, || {
            is_told = self.is_told();
            is_told || is_so(self)
        });
        if is_told { Err(End::Told) } else { Ok(()) }
    }

    fn send(&mut self, job: String) -> String {
        self.jobs.push(job.clone());
        job
    }

    fn succeeds(&self, job: &str) -> Result<(), End> {
        self.until("the job's result", |life| life.testbed.result(job).is_some())?;
        let result = self.testbed.result(job).unwrap();
        assert_eq!(result["outcome"], "succeeded", "{result}\n{}", self.agent.log());
        Ok(())
    }

    /// One object: applied, ready, reported on, deleted.
    fn object(&mut self, manifest: &Value, collection: &str, condition: &str) -> Result<(), End> {
        let job = self.testbed.apply(&self.id, manifest.clone());
        let job = self.send(job);
        let path = format!("{collection}/{}", manifest["metadata"]["name"].as_str().unwrap());
        self.until("the object", |life| life.cluster.0.request(Method::GET, &path, None).0 == 200)?;
        // Its controller says that it is ready, and then something else.
        let now = |reason: &str| json!({"conditions": [{"type": condition, "status": "True", "reason": reason, "observedGeneration": 1}]});
        self.cluster.0.set_status(&path, &now("Installed"));
        self.succeeds(&job)?;
        self.cluster.0.set_status(&path, &now("Noted"));
        self.until("its event", |life| {
            life.testbed.events().iter().any(|record| record.event["conditions"][0]["reason"] == "Noted")
        })?;
        let text = |name: &str| manifest[name].as_str().unwrap();
        let metadata = |name: &str| manifest["metadata"][name].as_str().unwrap();
        let job =
            self.testbed.delete(&self.id, text("apiVersion"), text("kind"), metadata("namespace"), metadata("name"));
        let job = self.send(job);
        self.succeeds(&job)?;
        assert_eq!(self.cluster.0.request(Method::GET, &path, None).0, 404);
        Ok(())
    }

    /// What the owner changes takes effect, and what becomes of it is said.
    fn go_by_the_cluster(&mut self) -> Result<(), End> {
        let path = format!("{CLUSTERS}/{}", self.id);
        let is = |life: &Self, name: &str, reason: &str| {
            let conditions = life.cluster.0.get(&path)["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.iter().any(|condition| condition["type"] == name && condition["reason"] == reason)
        };
        self.until("it says that it is connected", |life| is(life, "Connected", "RoundTripOK"))?;
        self.until("its event", |life| {
            let events = life.cluster.0.get("/api/v1/namespaces/default/events");
            let events = events["items"].as_array().unwrap();
            events.iter().any(|event| event["involvedObject"]["name"] == life.id.as_str())
        })?;
        // The finalizer, while it acts.
        assert_eq!(self.cluster.0.get(&path)["metadata"]["finalizers"], json!(["ops.vworkspace.io/cluster-cleanup"]));
        let narrower = json!({"spec": {"connectivityMode": "push"}});
        assert_eq!(self.cluster.0.request(Method::PATCH, &path, Some(&narrower)).0, 200);
        self.until("the change is in effect", |life| is(life, "Accepted", "ModeNotSupported"))
    }

    fn live(mut self) -> Result<End, End> {
        self.until("it acts", |life| life.agent.log().contains("this agent acts on the cluster"))?;
        let space = format!("shop-{}", unique());
        let target =
            json!({"apiVersion": "apps.vworkspace.io/v1alpha1", "kind": "ApplicationInstance", "name": "wiki"});
        self.object(
            &json!({
                "apiVersion": "apps.vworkspace.io/v1alpha1", "kind": "ApplicationInstance",
                "metadata": {"name": "wiki", "namespace": space},
                "spec": {"appRef": {"catalogId": "wiki"}, "mode": "placeholder"},
            }),
            &format!("/apis/apps.vworkspace.io/v1alpha1/namespaces/{space}/applicationinstances"),
            "Ready",
        )?;
        self.object(
            &json!({
                "apiVersion": "ops.vworkspace.io/v1alpha1", "kind": "Operation",
                "metadata": {"name": "save", "namespace": space},
                "spec": {"targetRef": target, "type": "Backup", "engine": "velero"},
            }),
            &format!("/apis/ops.vworkspace.io/v1alpha1/namespaces/{space}/operations"),
            "Succeeded",
        )?;
        if self.by == By::Cluster {
            self.go_by_the_cluster()?;
        }
        // Another one takes over.
        let record = json!({"data": {"agent": "another", "boot": "b", "namespace": null, "pod": null, "uid": null}});
        assert_eq!(self.cluster.0.request(Method::PATCH, RECORD, Some(&record)).0, 200);
        self.until("it stops", |life| life.agent.log().contains("has taken over this cluster"))?;
        let log = self.agent.log();
        assert!(!log.contains("forbidden"), "{log}");
        assert_eq!(self.testbed.violations(), Vec::<String>::new());
        Ok(End::Done)
    }
}

fn live(cluster: &Cluster, user: &str, by: By, refusal: Option<String>) -> End {
    Life::begin(cluster, user, by, refusal).live().unwrap_or_else(|end| end)
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn an_agent_does_all_that_it_is_for_with_the_rights_of_k3s() {
    let cluster = &Cluster::new();
    let user = cluster.user_with(OF_EVERY_AGENT, None);
    assert_eq!(live(cluster, &user, By::Flags, None), End::Done);
    assert_eq!(cluster.0.writes_of(&user), ["patch configmaps vworkspace-agent-holder"]);
    // The account, with all of them.
    assert_eq!(live(cluster, ACCOUNT, By::Cluster, None), End::Done);
    let writes = cluster.0.writes_of(ACCOUNT);
    let made: Vec<&String> = writes.iter().filter(|write| !write.starts_with("patch ")).collect();
    assert!(made.iter().all(|write| write.starts_with("create events ")), "it makes nothing but events: {made:?}");
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn with_one_right_less_something_fails_and_says_which_right_it_is() {
    let cluster = &Cluster::new();
    let rights = cluster.rights();
    assert_eq!(rights.len(), 26, "{rights:?}");
    let manifests = ["k3s/rbac.yaml", "k3s/cluster.yaml"].map(kept).concat();
    let roles = ["kind: ClusterRole\n", "kind: Role\n"].iter().map(|kind| manifests.matches(kind).count());
    // Where a role is referred to, it is further to the right.
    let referred = ["  kind: ClusterRole\n", "  kind: Role\n"].iter().map(|kind| manifests.matches(kind).count());
    assert_eq!(roles.sum::<usize>() - referred.sum::<usize>(), ROLES.len(), "each role of k3s/ is looked at");
    for right in rights {
        let (roles, by) =
            if right.role < OF_EVERY_AGENT { (OF_EVERY_AGENT, By::Flags) } else { (ROLES.len(), By::Cluster) };
        let user = cluster.user_with(roles, Some(&right));
        assert_eq!(live(cluster, &user, by, Some(right.refusal())), End::Told, "{right:?} is not needed");
    }
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn what_pullet_rbac_prints_is_taken_and_lets_an_agent_do_the_kinds_it_is_for() {
    let cluster = &Cluster::new();
    let output = Agent::run_to_end(["rbac", "--allow-kind=/ConfigMap", "--allow-kind=networking.k8s.io/Ingress"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    // Under another name, so that the other tests keep what they have.
    let role = printed.split("\n---\n").find(|document| document.contains("kind: ClusterRole\n")).unwrap();
    let name = format!("pullet-{}", unique());
    let role = role.replace("\n  name: pullet\n", &format!("\n  name: {name}\n"));
    let path = format!("{RBAC}/clusterroles/{name}?fieldManager=somebody");
    let (status, answer) =
        cluster.0.request_as(Method::PATCH, &path, "application/apply-patch+yaml", role.into_bytes());
    assert_eq!(status, 201, "{answer}");
    for (group, resource) in [("", "configmaps"), ("networking.k8s.io", "ingresses")] {
        let rules = answer["rules"].as_array().unwrap();
        let rule = rules.iter().find(|rule| rule["resources"] == json!([resource])).unwrap();
        assert_eq!(rule["apiGroups"], json!([group]));
        assert_eq!(rule["verbs"], json!(["get", "list", "watch", "create", "patch", "delete"]));
        // It is what the API server calls it.
        let api = if group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{group}/v1") };
        let served = cluster.0.get(&api);
        assert!(served["resources"].as_array().unwrap().iter().any(|one| one["name"] == resource), "{resource}");
    }
}

#[test]
fn what_is_printed_for_the_default_settings_lies_in_k3s() {
    for (arguments, text) in [
        (&["crds"][..], kept("k3s/crds.yaml")),
        (&["rbac"], kept("k3s/rbac.yaml")),
        (&["rbac", "--cluster-resource=*"], format!("{}---\n{}", kept("k3s/rbac.yaml"), kept("k3s/cluster.yaml"))),
    ] {
        let output = Agent::run_to_end(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == text.as_bytes(), "pullet {arguments:?}");
    }
}

/// A file of the repository.
fn kept(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

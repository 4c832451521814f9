//! The static binary in a control group of 16 MiB, with everything that the kernel counts to it: its heap and stacks, its
//! buffers in the kernel, the pages of its files.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::agent::{Agent, Setup};
use crate::apiserver::{ApiServer, unique, wait_until};
use crate::memory::static_binary;
use crate::testbed::job::{application_instance, config_map, operation};
use crate::testbed::{Call, EventRecord, Fault, Testbed};

const PATIENCE: Duration = Duration::from_secs(60);

/// What a node may give the agent, and more than twice what the agent promises to take.
const LIMIT: usize = 16 * 1024 * 1024;

/// A memory control group, which goes with the test.
struct Group(PathBuf);

impl Group {
    fn new() -> Self {
        let group = Self(format!("/sys/fs/cgroup/memory/pullet-test-{}-{}", std::process::id(), unique()).into());
        fs::create_dir(&group.0).expect("a control group can be made");
        fs::write(group.0.join("memory.limit_in_bytes"), LIMIT.to_string()).expect("its limit can be set");
        // Nor is anything put away in swap.
        let _ = fs::write(group.0.join("memory.memsw.limit_in_bytes"), LIMIT.to_string());
        group
    }

    /// A program that is what it wraps, from its first page on in this group.
    fn wrap(&self, binary: &Path, home: &Path) -> PathBuf {
        let path = home.join("in-group");
        let procs = self.0.join("cgroup.procs");
        let script =
            format!("#!/bin/sh\necho $$ >'{}' || exit 99\nexec '{}' \"$@\"\n", procs.display(), binary.display());
        fs::write(&path, script).expect("the script can be written");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("its mode can be set");
        path
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).expect("the kernel tells").trim().to_owned()
    }

    /// The agent is in here, and nothing was ever killed in here.
    fn check(&self, agent: &mut Agent) {
        assert!(agent.is_running(), "{}", agent.log());
        assert!(self.read("cgroup.procs").lines().any(|pid| pid == agent.pid().to_string()), "it is not in the group");
        let control = self.read("memory.oom_control");
        assert!(control.lines().any(|line| line == "oom_kill 0"), "{control}");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

struct Scene {
    api: &'static ApiServer,
    testbed: Testbed,
    cluster: String,
    namespace: String,
}

impl Scene {
    fn succeeds(&self, job: &str) {
        let result = self.testbed.result_of(job, PATIENCE);
        assert_eq!(result["outcome"], "succeeded", "{result}");
    }

    fn say(&self, path: &str, kind: &str, reason: &str) {
        let condition = json!({
            "type": kind, "status": "True", "reason": reason, "message": "as it is",
            "lastTransitionTime": "2026-01-31T12:00:00Z",
        });
        wait_until("the object", || self.api.request(Method::GET, path, None).0 == 200);
        self.api.set_status(path, &json!({"observedGeneration": 1, "conditions": [condition]}));
    }

    fn is_told(event: &Value, reason: &str) -> bool {
        let mut conditions = event["conditions"].as_array().into_iter().flatten();
        conditions.any(|condition| condition["reason"] == reason)
    }

    /// Has the agent tell of changes of the object: what its first list finds is no news.
    fn follow(&self, path: &str) {
        for number in 0..20 {
            let reason = format!("Try{number}");
            self.say(path, "Reconciling", &reason);
            let is_told = |record: &EventRecord| Self::is_told(&record.event, &reason);
            let wait = Duration::from_secs(5);
            if self.testbed.try_wait_for(wait, |state| state.events.iter().any(is_told).then_some(())).is_some() {
                return;
            }
        }
        panic!("no event of {path}");
    }

    fn instance(&self) -> String {
        format!("/apis/apps.vworkspace.io/v1alpha1/namespaces/{}/applicationinstances/wiki", self.namespace)
    }

    /// One job of each kind.
    fn jobs(&self) {
        let Self { testbed, cluster, namespace, .. } = self;
        let wiki = testbed.apply(cluster, application_instance(namespace, "wiki"));
        let settings = testbed.apply(cluster, config_map(namespace, "settings", "a"));
        self.succeeds(&settings);
        self.succeeds(&testbed.apply(cluster, config_map(namespace, "long", &"y".repeat(200_000))));
        self.follow(&self.instance());
        self.say(&self.instance(), "Ready", "Installed");
        self.succeeds(&wiki);
        let backup = testbed.intent(cluster, "request-operation", json!({"operation": operation(namespace, "backup")}));
        let path = format!("/apis/ops.vworkspace.io/v1alpha1/namespaces/{namespace}/operations/backup");
        self.follow(&path);
        self.say(&path, "Succeeded", "Done");
        self.succeeds(&backup);
        self.succeeds(&testbed.intent(cluster, "rotate-operator-credentials", Value::Null));
        self.succeeds(&testbed.delete(cluster, "v1", "ConfigMap", namespace, "settings"));
        let path = format!("/api/v1/namespaces/{namespace}/configmaps/settings");
        assert_eq!(self.api.request(Method::GET, &path, None).0, 404);
    }

    /// A result waits, and something happens, while there is no line.
    fn cut_line(&mut self) {
        self.testbed.fault_until_cleared(Call::Result, Fault::status(503));
        let job = self.testbed.apply(&self.cluster, config_map(&self.namespace, "offline", "a"));
        self.testbed.wait_for("a result", PATIENCE, |state| {
            state.requests.iter().any(|seen| seen.call == Some(Call::Result) && seen.fault.is_some()).then_some(())
        });
        self.testbed.down();
        self.say(&self.instance(), "Degraded", "NoLine");
        std::thread::sleep(Duration::from_secs(3));
        self.testbed.up();
        self.testbed.clear_faults();
        self.succeeds(&job);
        self.testbed.event("what happened meanwhile", PATIENCE, |event| Self::is_told(event, "NoLine"));
    }
}

#[test]
#[ignore = "needs a memory cgroup, the static binary and a Kubernetes API server (tests/run)"]
fn its_whole_work_fits_into_a_control_group_of_16_mib() {
    let group = Group::new();
    let api = ApiServer::shared();
    api.apply_crds();
    let (cluster, namespace) = (format!("cluster-{}", unique()), format!("shop-{}", unique()));
    let mut scene = Scene { api, testbed: Testbed::start(), cluster, namespace };
    let setup = Setup::of_cluster(&scene.testbed, &scene.cluster)
        .flag("--kubeconfig", api.kubeconfig())
        .flag("--allow-kind", "/ConfigMap")
        .flag("--wait", "1");
    let wrapped = group.wrap(&static_binary(), setup.home());
    let setup = setup.binary(wrapped);
    let mut agent = setup.spawn();
    scene.testbed.polls(1, PATIENCE);
    scene.jobs();
    group.check(&mut agent);
    scene.cut_line();
    group.check(&mut agent);
    agent.stop();
    let mut agent = setup.spawn();
    scene.succeeds(&scene.testbed.apply(&scene.cluster, config_map(&scene.namespace, "after", "a")));
    group.check(&mut agent);
    agent.kill();
    let mut agent = setup.spawn();
    scene.succeeds(&scene.testbed.apply(&scene.cluster, config_map(&scene.namespace, "later", "a")));
    group.check(&mut agent);
    let (resident, most) = (agent.rss_peak_kb(), group.read("memory.max_usage_in_bytes"));
    agent.stop();
    #[allow(clippy::print_stderr, reason = "how far it was from the bound is worth knowing")]
    {
        eprintln!(
            "in a group of {LIMIT} bytes: {most} at most, {} times at the limit; resident {resident} kB",
            group.read("memory.failcnt")
        );
    }
    assert_eq!(scene.testbed.violations(), Vec::<String>::new());
}

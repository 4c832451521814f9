//! A machine below a directory, as `pullet setup --root` sees it: the real program, the real API server as its k3s, and in
//! place of systemd, which does not run here, a program that does what the unit says.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::agent::{run_to_end, write_secret};
use crate::apiserver::{ApiServer, wait_until};
use crate::testbed::Testbed;

pub(super) const SYSTEM: &str = "/api/v1/namespaces/vworkspace-system";

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// What `systemctl` does to our unit: its user, its credentials, its directories.
const SYSTEMCTL: &str = r#"#!/bin/sh
root=@ROOT@
echo "$*" >>"$root/systemctl.log"
end() {
    [ -e "$root/agent.pid" ] || return 0
    kill "$(cat "$root/agent.pid")" 2>/dev/null
    while kill -0 "$(cat "$root/agent.pid")" 2>/dev/null; do sleep 0.05; done
    rm -f "$root/agent.pid"
}
case "$1" in
restart)
    end
    grep -q '^ExecStart=/usr/bin/pullet run ' "$root/etc/systemd/system/pullet.service" || { echo 'no such unit' >&2; exit 5; }
    user=$(sed -n 's/^pullet:[^:]*:\([0-9]*\):.*/\1/p' "$root/etc/passwd")
    group=$(sed -n 's/^pullet:[^:]*:\([0-9]*\):.*/\1/p' "$root/etc/group")
    rm -rf "$root/run/credentials"
    install -d -o "$user" "$root/run/credentials" "$root/run/pullet"
    install -m 0400 -o "$user" "$root"/etc/pullet/credentials/pullet.* "$root/run/credentials"
    # k3s's own files are closed to it, and what it runs is the program that the unit names.
    CREDENTIALS_DIRECTORY=$root/run/credentials setsid setpriv --reuid="$user" --regid="$group" --clear-groups \
        "$root/usr/bin/pullet" run --config "$root/etc/pullet/pullet.toml" --state-dir "$root/var/lib/pullet" \
        --status-file "$root/run/pullet/status.json" >>"$root/agent.log" 2>&1 </dev/null &
    echo $! >"$root/agent.pid"
    ;;
disable) end ;;
esac
"#;

/// A machine, for one test.
pub(super) struct Machine {
    root: TempDir,
}

impl Machine {
    /// One without anything.
    pub(super) fn bare() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        let this = Self { root };
        for directory in ["etc", "usr/bin", "proc/sys/kernel", "bin"] {
            fs::create_dir_all(this.path(directory)).unwrap();
        }
        fs::write(this.path("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
        fs::write(this.path("etc/group"), "root:x:0:\n").unwrap();
        fs::write(this.path("proc/sys/kernel/hostname"), "Clinic-7\n").unwrap();
        fs::copy(env!("CARGO_BIN_EXE_pullet"), this.path("usr/bin/pullet")).unwrap();
        let script = this.path("bin/systemctl");
        fs::write(&script, SYSTEMCTL.replace("@ROOT@", this.root().to_str().unwrap())).unwrap();
        fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
        this
    }

    /// The user of the unit is who runs the tests: files can be given to nobody else where that is not root.
    pub(super) fn has_user_of_ours(&self) {
        let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let user = format!("root:x:0:0::/root:/bin/sh\npullet:x:{user}:{group}::/:/bin/false\n");
        fs::write(self.path("etc/passwd"), user).unwrap();
        fs::write(self.path("etc/group"), format!("root:x:0:\npullet:x:{group}:\n")).unwrap();
    }

    /// A k3s server with systemd.
    pub(super) fn k3s(server: &ApiServer) -> Self {
        let this = Self::bare();
        for directory in ["run/systemd/system", "var/lib/rancher/k3s/server/manifests", "etc/rancher/k3s"] {
            fs::create_dir_all(this.path(directory)).unwrap();
        }
        // As k3s writes it, but for the name of the context: who may do everything, with its certificates by their paths.
        let text = fs::read_to_string(server.kubeconfig()).unwrap();
        let directory = server.directory().display();
        let text = ["certificate-authority: ", "client-certificate: ", "client-key: "]
            .iter()
            .fold(text, |text, member| text.replace(member, &format!("{member}{directory}/")));
        write_secret(&this.path("etc/rancher/k3s/k3s.yaml"), &text);
        this
    }

    pub(super) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    pub(super) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    /// Mode, owner and group, by the names that the machine has for them.
    pub(super) fn mode(&self, path: &str) -> String {
        let found = fs::symlink_metadata(self.path(path)).unwrap();
        let name = |file: &str, id: u32| {
            let text = self.read(file);
            let line = text.lines().find(|line| line.split(':').nth(2) == Some(&id.to_string()));
            line.map(|line| line.split(':').next().unwrap().to_owned()).unwrap_or_default()
        };
        let (user, group) = (name("etc/passwd", found.uid()), name("etc/group", found.gid()));
        format!("{:04o} {user}:{group}", found.mode() & 0o7777)
    }

    /// Every file and directory with its size, but for what the test itself brought.
    pub(super) fn listing(&self) -> Vec<String> {
        let mut rooms = vec![self.root().to_owned()];
        let mut found = Vec::new();
        while let Some(room) = rooms.pop() {
            for entry in fs::read_dir(room).unwrap().flatten() {
                // An agent that runs renames files meanwhile.
                let Ok(metadata) = entry.metadata() else { continue };
                let size = if metadata.is_dir() { 0 } else { metadata.len() };
                found.push(format!("{} {size}", entry.path().strip_prefix(self.root()).unwrap().display()));
                if metadata.is_dir() {
                    rooms.push(entry.path());
                }
            }
        }
        found.sort();
        found
    }

    /// A command of pullet for this machine.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pullet"));
        for name in ["HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "KUBECONFIG", "KUBERNETES_SERVICE_HOST"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", self.path("bin").display()));
        command.args(arguments).arg("--root").arg(self.root()).stdin(Stdio::null());
        command
    }

    pub(super) fn run(&self, arguments: &[&str]) -> Output {
        run_to_end(self.command(arguments))
    }

    /// The flags of an agent of this control plane, after the name of the command.
    pub(super) fn flags(&self, testbed: &Testbed, cluster: &str) -> Vec<String> {
        let token = self.path("token");
        write_secret(&token, &testbed.issue_token(Some(cluster)));
        let ca = testbed.ca_file().display().to_string();
        let endpoint = testbed.endpoint();
        [
            "--endpoint",
            &endpoint,
            "--ca-file",
            &ca,
            "--token-file",
            token.to_str().unwrap(),
            "--wait",
            "1",
            "--succeed-on",
            "applied",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    pub(super) fn agent_log(&self) -> String {
        self.read("agent.log")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Ok(pid) = fs::read_to_string(self.path("agent.pid")) {
            let _ = Command::new("kill").arg("-9").arg(pid.trim()).status();
        }
    }
}

/// An API server that one test at a time has for itself, as k3s leaves it at its first start.
pub(super) struct Empty(pub(super) MutexGuard<'static, ApiServer>);

impl Empty {
    pub(super) fn new() -> Self {
        static SERVER: OnceLock<Mutex<ApiServer>> = OnceLock::new();
        let server = SERVER.get_or_init(|| Mutex::new(ApiServer::start()));
        let this = Self(server.lock().unwrap_or_else(PoisonError::into_inner));
        this.wipe();
        this
    }

    /// What tests before this one left.
    fn wipe(&self) {
        for group in ["apps.vworkspace.io/v1alpha1/applicationinstances", "ops.vworkspace.io/v1alpha1/clusters"] {
            let (_, list) = self.0.request(Method::GET, &format!("/apis/{group}"), None);
            for object in list["items"].as_array().into_iter().flatten() {
                let metadata = &object["metadata"];
                let (base, plural) = group.rsplit_once('/').unwrap();
                let space =
                    metadata["namespace"].as_str().map(|space| format!("/namespaces/{space}")).unwrap_or_default();
                let path = format!("/apis/{base}{space}/{plural}/{}", metadata["name"].as_str().unwrap());
                self.0.request(Method::PATCH, &path, Some(&json!({"metadata": {"finalizers": null}})));
                self.0.request(Method::DELETE, &path, None);
            }
        }
        let definitions = self.0.get(DEFINITIONS);
        for definition in definitions["items"].as_array().unwrap() {
            let name = definition["metadata"]["name"].as_str().unwrap();
            self.0.request(Method::DELETE, &format!("{DEFINITIONS}/{name}"), None);
        }
        for place in [
            "/apis/apps/v1/namespaces/vworkspace-system/deployments",
            "/apis/networking.k8s.io/v1/namespaces/vworkspace-system/networkpolicies",
            "/apis/rbac.authorization.k8s.io/v1/namespaces/vworkspace-system/roles",
            "/apis/rbac.authorization.k8s.io/v1/namespaces/vworkspace-system/rolebindings",
            "/api/v1/namespaces/vworkspace-system/secrets",
            "/api/v1/namespaces/vworkspace-system/configmaps",
            "/api/v1/namespaces/vworkspace-system/serviceaccounts",
            "/api/v1/namespaces/vworkspace-system/persistentvolumeclaims",
        ] {
            let (_, list) = self.0.request(Method::GET, place, None);
            for object in list["items"].as_array().into_iter().flatten() {
                let path = format!("{place}/{}", object["metadata"]["name"].as_str().unwrap());
                self.0.request(Method::PATCH, &path, Some(&json!({"metadata": {"finalizers": null}})));
                self.0.request(Method::DELETE, &path, None);
            }
        }
        self.0.request(Method::DELETE, SYSTEM, None);
        self.finish_namespace();
        wait_until("nothing is there", || {
            let count = self.0.get(DEFINITIONS)["items"].as_array().unwrap().len();
            count == 0 && self.0.request(Method::GET, SYSTEM, None).0 == 404
        });
    }

    /// No controller runs that would let a namespace go.
    pub(super) fn finish_namespace(&self) {
        let (status, mut space) = self.0.request(Method::GET, SYSTEM, None);
        if status == 200 && space["metadata"]["deletionTimestamp"].is_string() {
            space["spec"]["finalizers"] = json!([]);
            self.0.request(Method::PUT, &format!("{SYSTEM}/finalize"), Some(&space));
        }
    }

    pub(super) fn is_there(&self, path: &str) -> bool {
        self.0.request(Method::GET, path, None).0 == 200
    }

    pub(super) fn definitions(&self) -> usize {
        self.0.get(DEFINITIONS)["items"].as_array().unwrap().len()
    }

    /// Applies the documents of a file as k3s does; whether all were taken.
    pub(super) fn apply(&self, text: &str) -> bool {
        text.split("\n---\n").all(|document| {
            let document = pullet::target::kubernetes::Document::all(document).next().unwrap();
            let path = document.path();
            let (collection, _) = path.rsplit_once('/').unwrap();
            let (status, answer) =
                self.0.request_as(Method::POST, collection, "application/yaml", document.text.as_bytes().to_vec());
            assert!(matches!(status, 201 | 409 | 404 | 403), "{path}: {answer}");
            matches!(status, 201 | 409)
        })
    }

    /// A token of the account, as a pod has it.
    pub(super) fn account_token(&self) -> String {
        let request =
            json!({"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"expirationSeconds":3600}});
        let answer: Value = self.0.create(&format!("{SYSTEM}/serviceaccounts/pullet/token"), &request);
        answer["status"]["token"].as_str().unwrap().to_owned()
    }
}

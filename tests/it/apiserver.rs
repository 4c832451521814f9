//! A real Kubernetes API server with its etcd, on loopback, from the binaries that `KUBEBUILDER_ASSETS` names.
//!
//! Nothing outlives the test process: the kernel kills both when the thread that started them ends, and
//! that thread lives as long as the process.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use http::{Method, Request};
use pullet::metrics::Meter;
use pullet::net::tls::{ClientIdentity, Roots, client_config};
use pullet::net::{Line, Patience, PlainHttp, Profile, ProxySetting};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use serde_json::{Value, json};

use crate::scene::LATER;

/// Tokens that the server knows, with the users they stand for. None of them has a right but discovery.
pub(crate) const TOKENS: [(&str, &str); 2] =
    [("first-token-0123456789abcdef", "token-user-one"), ("second-token-0123456789abcdef", "token-user-two")];

/// Who wrote what of the agent's own, as the server itself says: two identical applies leave the same object, and are two
/// here. And all that one user asks.
const AUDIT_POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: [counted]
- level: Metadata
  verbs: [patch, create, update, delete]
  resources:
  - {group: "", resources: [configmaps, secrets, events]}
  - {group: ops.vworkspace.io, resources: [clusters, clusters/status]}
- level: None
"#;

const AUDIT: &str = "audit.log";

/// A user each of whose requests is in the audit log; the policy names it.
pub(crate) const COUNTED: &str = "counted";

/// A running API server.
pub(crate) struct ApiServer {
    directory: PathBuf,
    port: u16,
    etcd_port: u16,
    authority: CertifiedIssuer<'static, KeyPair>,
    line: Line,
    etcd: Mutex<Child>,
    server: Mutex<Option<Child>>,
}

impl ApiServer {
    /// One server for all tests of this process; each test has a namespace of its own.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<ApiServer> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A server of one's own, for a test that stops it.
    pub(crate) fn start() -> Self {
        let directory = new_directory();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let authority = CertifiedIssuer::self_signed(params, key).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        let certificate = params.signed_by(&key, &authority).unwrap();
        fs::write(directory.join("ca.crt"), authority.pem()).unwrap();
        fs::write(directory.join("server.crt"), certificate.pem()).unwrap();
        fs::write(directory.join("server.key"), key.serialize_pem()).unwrap();
        let account = KeyPair::generate().unwrap();
        fs::write(directory.join("account.key"), account.serialize_pem()).unwrap();
        fs::write(directory.join("account.pub"), account.public_key_pem()).unwrap();
        let [(one, first), (two, second)] = TOKENS;
        fs::write(directory.join("tokens.csv"), format!("{one},{first},1\n{two},{second},2\n")).unwrap();
        fs::write(directory.join("audit.yaml"), AUDIT_POLICY).unwrap();

        let etcd_port = free_port();
        let etcd = start_etcd(&directory, etcd_port);
        let (chain, key) = client_certificate(&authority, "admin", "system:masters");
        let mut roots = Roots::none();
        roots.add_pem(authority.pem().as_bytes(), Path::new("ca")).unwrap();
        let identity = ClientIdentity::from_pem(chain.as_bytes(), key.as_bytes(), Path::new("admin")).unwrap();
        let line = Line::new(Profile {
            tls: client_config(roots, Some(identity)).unwrap().into(),
            proxy: ProxySetting::Direct,
            plain_http: PlainHttp::Refused,
            meter: Meter::default(),
        });
        let this = Self {
            directory,
            port: free_port(),
            etcd_port,
            authority,
            line,
            etcd: Mutex::new(etcd),
            server: Mutex::new(None),
        };
        this.resume();
        this
    }

    /// Starts the API server again on its port and its data.
    pub(crate) fn resume(&self) {
        let file = |name: &str| self.directory.join(name).display().to_string();
        let mut command = asset("kube-apiserver");
        command.args([
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--secure-port={}", self.port),
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--tls-cert-file={}", file("server.crt")),
            format!("--tls-private-key-file={}", file("server.key")),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", file("account.pub")),
            format!("--service-account-signing-key-file={}", file("account.key")),
            format!("--cert-dir={}", self.directory.display()),
            format!("--audit-policy-file={}", file("audit.yaml")),
            format!("--audit-log-path={}", file(AUDIT)),
        ]);
        let log = fs::File::options().create(true).append(true).open(self.directory.join("apiserver.log")).unwrap();
        command.stdout(Stdio::null()).stderr(log);
        *self.server.lock().unwrap() = Some(spawn(command));
        wait_until("the API server is ready", || {
            let ended = self.server.lock().unwrap().as_mut().and_then(|server| server.try_wait().unwrap());
            assert!(ended.is_none(), "the API server ended: see {}", self.directory.join("apiserver.log").display());
            let request = Request::get(self.url("/readyz")).body(Vec::new()).unwrap();
            self.line
                .run(request, Patience::Answer(Duration::from_secs(5)))
                .is_ok_and(|answer| answer.status().is_success() && answer.into_body().read_all().is_ok())
        });
    }

    /// Kills the API server; etcd stays.
    pub(crate) fn stop(&self) {
        if let Some(mut server) = self.server.lock().unwrap().take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.port)
    }

    /// Its CA.
    pub(crate) fn authority_pem(&self) -> String {
        self.authority.pem()
    }

    /// A directory that goes with the server.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A kubeconfig that may do everything.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_for("admin", "system:masters")
    }

    /// A kubeconfig of a user with a certificate.
    pub(crate) fn kubeconfig_for(&self, user: &str, group: &str) -> PathBuf {
        self.kubeconfig_at(self.port, user, group)
    }

    /// The same through another port.
    pub(crate) fn kubeconfig_at(&self, port: u16, user: &str, group: &str) -> PathBuf {
        let (chain, key) = client_certificate(&self.authority, user, group);
        let stem = format!("{user}-{port}-{}", unique());
        fs::write(self.directory.join(format!("{stem}.crt")), chain).unwrap();
        fs::write(self.directory.join(format!("{stem}.key")), key).unwrap();
        self.kubeconfig_with(port, &format!("{{client-certificate: {stem}.crt, client-key: {stem}.key}}"))
    }

    /// A kubeconfig with a user in YAML's flow style.
    pub(crate) fn kubeconfig_with(&self, port: u16, user: &str) -> PathBuf {
        let path = self.directory.join(format!("kubeconfig-{}", unique()));
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: it\nclusters:\n- name: it\n  cluster:\n    server: \
             https://127.0.0.1:{port}\n    certificate-authority: ca.crt\ncontexts:\n- name: it\n  context: {{cluster: \
             it, user: it}}\nusers:\n- name: it\n  user: {user}\n"
        );
        fs::write(&path, text).unwrap();
        path
    }

    /// Asks as the admin and gives status and body.
    pub(crate) fn request(&self, method: Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        self.request_as(method, path, kind, body.map(|body| body.to_string().into_bytes()).unwrap_or_default())
    }

    /// The same with a content type of one's own.
    pub(crate) fn request_as(&self, method: Method, path: &str, kind: &str, body: Vec<u8>) -> (u16, Value) {
        let (status, text) = self.ask(method, path, kind, body);
        (status, serde_json::from_slice(&text).unwrap_or(Value::Null))
    }

    /// Makes an object as somebody else would.
    pub(crate) fn create_as(&self, user: &str, path: &str, object: &Value) -> (u16, Value) {
        let request = Request::post(self.url(path))
            .header("content-type", "application/json")
            .header("impersonate-user", user)
            .body(object.to_string().into_bytes())
            .unwrap();
        let answer = self.line.run(request, Patience::Answer(Duration::from_secs(30))).unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.into_body().with_limit(16 * 1024 * 1024).read_all().unwrap()).unwrap())
    }

    /// What the server says of itself, as the text that it is.
    pub(crate) fn text(&self, path: &str) -> (u16, String) {
        let (status, text) = self.ask(Method::GET, path, "application/json", Vec::new());
        (status, String::from_utf8_lossy(&text).into_owned())
    }

    fn ask(&self, method: Method, path: &str, kind: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
        let request = Request::builder()
            .method(method)
            .uri(self.url(path))
            .header("accept", "application/json")
            .header("content-type", kind)
            .body(body)
            .unwrap();
        let answer = self.line.run(request, Patience::Answer(Duration::from_secs(30))).unwrap();
        let status = answer.status().as_u16();
        (status, answer.into_body().with_limit(16 * 1024 * 1024).read_all().unwrap())
    }

    /// Gets an object that is there.
    pub(crate) fn get(&self, path: &str) -> Value {
        let (status, object) = self.request(Method::GET, path, None);
        assert_eq!(status, 200, "{path}: {object}");
        object
    }

    /// Makes an object, or fails the test.
    pub(crate) fn create(&self, path: &str, object: &Value) -> Value {
        let (status, answer) = self.request(Method::POST, path, Some(object));
        assert_eq!(status, 201, "{path}: {answer}");
        answer
    }

    /// The requests that this verb made of the config maps of a namespace: name and status, in the order of their ends.
    pub(crate) fn audited(&self, verb: &str, namespace: &str) -> Vec<(String, u64)> {
        let fits = |entry: &Value| {
            let object = &entry["objectRef"];
            entry["verb"] == verb && object["namespace"] == namespace && object["resource"] == "configmaps"
        };
        let told = |entry: Value| {
            let (name, code) = (&entry["objectRef"]["name"], &entry["responseStatus"]["code"]);
            Some((name.as_str()?.to_owned(), code.as_u64()?))
        };
        self.audit().into_iter().filter(fits).filter_map(told).collect()
    }

    /// What a user wrote: `patch clusters/status demo`, in the order of their ends. What ended in a conflict wrote nothing.
    pub(crate) fn writes_of(&self, user: &str) -> Vec<String> {
        let told = |entry: &Value| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let object = &entry["objectRef"];
            let part = object["subresource"].as_str().map(|part| format!("/{part}")).unwrap_or_default();
            format!("{} {}{part} {}", text(&entry["verb"]), text(&object["resource"]), text(&object["name"]))
        };
        let wrote = |entry: &&Value| entry["user"]["username"] == user && entry["responseStatus"]["code"] != 409;
        self.audit().iter().filter(wrote).map(told).collect()
    }

    /// What [`COUNTED`] asked, one for each request: `list applicationinstances`, in the order of their starts.
    pub(crate) fn asked(&self) -> Vec<String> {
        let mut seen = std::collections::BTreeSet::new();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let is_it = |entry: &&Value| entry["user"]["username"] == COUNTED;
        let audit = self.audit();
        // A watch has two entries, of its start and of its end.
        let fresh = audit.iter().filter(is_it).filter(|entry| seen.insert(text(&entry["auditID"])));
        let told = |entry: &Value| match entry["objectRef"]["resource"].as_str() {
            Some(resource) => format!("{} {resource}", text(&entry["verb"])),
            None => format!("{} {}", text(&entry["verb"]), text(&entry["requestURI"])),
        };
        fresh.map(told).collect()
    }

    fn audit(&self) -> Vec<Value> {
        let log = fs::read_to_string(self.directory.join(AUDIT)).unwrap_or_default();
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Applies the documents of a manifest of ours, as somebody.
    pub(crate) fn apply_manifest(&self, file: &str) {
        self.apply_text(&fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap());
    }

    /// The same with what a command printed.
    pub(crate) fn apply_text(&self, text: &str) {
        for document in text.split("\n---\n") {
            self.apply_document(document);
        }
    }

    /// Defines the custom resources as k3s/crds.yaml does. They are created, as `kubectl apply` does with what is new: a
    /// server of before the rules in it leaves those out, where it refuses to apply them by itself.
    pub(crate) fn create_definitions(&self) {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("k3s/crds.yaml")).unwrap();
        for document in text.split("\n---\n") {
            let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
            let (status, answer) = self.request_as(Method::POST, path, "application/yaml", document.into());
            assert_eq!(status, 201, "{answer}");
        }
    }

    fn apply_document(&self, document: &str) {
        let member = |name: &str| document.lines().find_map(|line| line.strip_prefix(name));
        let (version, kind, name) =
            (member("apiVersion: ").unwrap(), member("kind: ").unwrap(), member("  name: ").unwrap());
        let base = if version == "v1" { "/api/v1".to_owned() } else { format!("/apis/{version}") };
        let namespace = match (kind, member("  namespace: ")) {
            ("ClusterRole" | "ClusterRoleBinding" | "Namespace", _) | (_, None) => String::new(),
            (_, Some(namespace)) => format!("/namespaces/{namespace}"),
        };
        let plural = kind.to_lowercase();
        let plural = plural.strip_suffix('y').map_or_else(|| format!("{plural}s"), |stem| format!("{stem}ies"));
        // What is applied is typed, so that a member that no schema has is refused; newer servers are asked to say so.
        let path = format!("{base}{namespace}/{plural}/{name}?fieldManager=somebody&fieldValidation=Strict");
        wait_until("it is applied", || {
            let (status, answer) =
                self.request_as(Method::PATCH, &path, "application/apply-patch+yaml", document.as_bytes().to_vec());
            // The rights of a new server may take a moment.
            assert!(matches!(status, 200 | 201 | 403 | 503), "{path}: {answer}");
            status < 300
        });
    }

    /// Makes a namespace with labels.
    pub(crate) fn create_namespace(&self, name: &str, labels: &Value) {
        let object = json!({"apiVersion":"v1","kind":"Namespace","metadata":{"name":name,"labels":labels}});
        self.create("/api/v1/namespaces", &object);
    }

    /// Sets the status of an object, as its controller would.
    pub(crate) fn set_status(&self, path: &str, status: &Value) {
        let (code, answer) = self.request(Method::PATCH, &format!("{path}/status"), Some(&json!({"status": status})));
        assert_eq!(code, 200, "{path}: {answer}");
    }

    /// Defines `ApplicationInstance`, `Operation` and `Cluster`, if that was not done before.
    pub(crate) fn apply_crds(&self) {
        self.define("apps.vworkspace.io", "v1alpha1", "ApplicationInstance", "Namespaced");
        self.define("ops.vworkspace.io", "v1alpha1", "Operation", "Namespaced");
        self.define("ops.vworkspace.io", "v1alpha1", "Cluster", "Cluster");
    }

    /// Defines a kind with a status and without a schema, and waits until it is served.
    pub(crate) fn define(&self, group: &str, version: &str, kind: &str, scope: &str) {
        let singular = kind.to_lowercase();
        let plural = format!("{singular}s");
        let crd = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{group}")},
            "spec": {
                "group": group, "scope": scope,
                "names": {"plural": plural, "singular": singular, "kind": kind},
                "versions": [{
                    "name": version, "served": true, "storage": true,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
                }],
            },
        });
        let (status, answer) =
            self.request(Method::POST, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", Some(&crd));
        assert!(matches!(status, 201 | 409), "{answer}");
        wait_until("the kind is served", || {
            let (status, list) = self.request(Method::GET, &format!("/apis/{group}/{version}"), None);
            let is_known = list["resources"].as_array().is_some_and(|all| all.iter().any(|one| one["name"] == *plural));
            status == 200
                && is_known
                && self.request(Method::GET, &format!("/apis/{group}/{version}/{plural}"), None).0 == 200
        });
    }

    /// Lets a user do `verbs` on `resources` everywhere.
    pub(crate) fn allow(&self, user: &str, rules: &Value) {
        let name = format!("{user}-{}", unique());
        let base = "/apis/rbac.authorization.k8s.io/v1";
        self.create(
            &format!("{base}/clusterroles"),
            &json!({"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":name},"rules":rules}),
        );
        self.create(
            &format!("{base}/clusterrolebindings"),
            &json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
            }),
        );
        self.until_may(user, &rules[0], "", true);
    }

    /// Waits until the server knows of a rule that was bound, or of its end: what is written is in force a moment later.
    pub(crate) fn until_may(&self, user: &str, rule: &Value, namespace: &str, is_allowed: bool) {
        let first = |name: &str| rule[name][0].as_str().unwrap_or_default();
        let (resource, part) = first("resources").split_once('/').unwrap_or((first("resources"), ""));
        let attributes = json!({
            "verb": first("verbs"), "group": first("apiGroups"), "resource": resource, "subresource": part,
            "name": first("resourceNames"), "namespace": namespace,
        });
        wait_until(&format!("{user} may, or may not: {rule}"), || self.may(user, &attributes) == is_allowed);
    }

    /// What the server itself says of a right: `attributes` are the `resourceAttributes` of a `SubjectAccessReview`.
    pub(crate) fn may(&self, user: &str, attributes: &Value) -> bool {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": user, "resourceAttributes": attributes},
        });
        let answer = self.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review);
        answer["status"]["allowed"] == true
    }

    /// Makes etcd forget every version before the present one.
    pub(crate) fn compact(&self) {
        let line = Line::new(Profile {
            tls: client_config(Roots::none(), None).unwrap().into(),
            proxy: ProxySetting::Direct,
            plain_http: PlainHttp::Loopback,
            meter: Meter::default(),
        });
        let call = |path: &str, body: Value| -> Value {
            let request = Request::post(format!("http://127.0.0.1:{}{path}", self.etcd_port))
                .body(body.to_string().into_bytes())
                .unwrap();
            let answer = line.run(request, Patience::Answer(Duration::from_secs(10))).unwrap();
            assert!(answer.status().is_success(), "{}", answer.status());
            serde_json::from_slice(&answer.into_body().read_all().unwrap()).unwrap()
        };
        // Any key: what counts is the revision in the head of the answer.
        let revision = call("/v3/kv/range", json!({"key": "YQ=="}))["header"]["revision"].clone();
        call("/v3/kv/compaction", json!({"revision": revision, "physical": true}));
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
        let mut etcd = self.etcd.lock().unwrap();
        let _ = etcd.kill();
        let _ = etcd.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A number that no other call in this process got.
pub(crate) fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Waits for something that happens elsewhere; an agent tries again after a minute.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < LATER, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn start_etcd(directory: &Path, port: u16) -> Child {
    let mut command = asset("etcd");
    let peer = free_port();
    command.args([
        format!("--data-dir={}", directory.join("etcd").display()),
        format!("--listen-client-urls=http://127.0.0.1:{port}"),
        format!("--advertise-client-urls=http://127.0.0.1:{port}"),
        format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
        format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
        format!("--initial-cluster=default=http://127.0.0.1:{peer}"),
        "--unsafe-no-fsync".to_owned(),
    ]);
    let log = fs::File::create(directory.join("etcd.log")).unwrap();
    command.stdout(Stdio::null()).stderr(log);
    spawn(command)
}

fn asset(name: &str) -> Command {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").expect("KUBEBUILDER_ASSETS names the API server's directory");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(Path::new(&assets).join(name)).stdin(Stdio::null());
    command
}

/// The kernel's signal comes when the *thread* that made the process ends, and a test's thread ends with the
/// test. So one thread makes them all, and it ends with this process.
fn spawn(command: Command) -> Child {
    type Order = (Command, Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, arrival) = channel();
    spawner.lock().unwrap().send((command, answer)).unwrap();
    arrival.recv().unwrap().expect("the API server's programs can be started with setpriv (util-linux)")
}

/// A directory for one server. Those of processes that are gone are removed: the shared server is never
/// dropped, and etcd's log alone is 64 MB.
fn new_directory() -> PathBuf {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for entry in fs::read_dir(base).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let owner = name.strip_prefix("apiserver-").and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let directory = base.join(format!("apiserver-{}-{}", std::process::id(), unique()));
    fs::create_dir(&directory).unwrap();
    directory
}

fn client_certificate(authority: &CertifiedIssuer<'_, KeyPair>, user: &str, group: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, user);
    params.distinguished_name.push(DnType::OrganizationName, group);
    params.extended_key_usages.push(rcgen::ExtendedKeyUsagePurpose::ClientAuth);
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

/// One that nobody listens on, and that no connection on its way out takes before the server does: those are from 32768 up.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = std::process::id() as usize % PORTS.len();
    (0..PORTS.len())
        .filter_map(|_| PORTS.clone().nth((begin + usize::from(NEXT.fetch_add(1, Ordering::Relaxed))) % PORTS.len()))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

const PORTS: std::ops::Range<u16> = 15_000..32_000;

//! The Python of docs/control-plane.md is run: a control plane that is made of nothing but its blocks, and a real agent.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use pullet::trust::identity::NodeKeys;
use pullet::trust::mac::MacKey;
use pullet::trust::proof::Claim;
use ring::rand::SystemRandom;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::agent::{Agent, CLUSTER, Setup};
use crate::scene::{SOON, says};
use crate::testbed::job::config_map;
use crate::testbed::tls;

const TOKEN: &str = "one-time-token-of-the-document";

/// The control plane of the document, and what it is asked.
struct Plane {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    home: TempDir,
    endpoint: String,
    fingerprint: String,
}

impl Plane {
    fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (authority, certificate, key) = tls::for_another_program();
        for (name, text) in [
            ("control_plane.py", blocks().as_str()),
            ("ca.pem", &authority),
            ("certificate.pem", &certificate),
            ("key.pem", &key),
        ] {
            fs::write(home.path().join(name), text).unwrap();
        }
        let file = |name: &str| home.path().join(name);
        let python =
            std::env::var_os("PULLET_PYTHON").expect("PULLET_PYTHON names a Python with tests/requirements.txt");
        let mut child = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/control_plane.py"))
            .arg(file("control_plane.py"))
            .args([CLUSTER, TOKEN])
            .args([file("certificate.pem"), file("key.pem")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (orders, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut plane = Self { child, orders, answers, home, endpoint: String::new(), fingerprint: String::new() };
        let first = plane.answer();
        plane.endpoint = format!("https://127.0.0.1:{}", first["port"]);
        first["fingerprint"].as_str().unwrap().clone_into(&mut plane.fingerprint);
        plane
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("the control plane said {line:?}: {error}"))
    }

    fn ask(&mut self, order: Value) -> Value {
        writeln!(self.orders, "{order}").unwrap();
        self.answer()
    }

    fn setup(&self) -> Setup {
        Setup::at(&self.endpoint, &self.home.path().join("ca.pem"), TOKEN)
            .target_directory()
            .flag("--wait", "2")
            .flag("--log-level", "debug")
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The document's blocks, in their order.
fn blocks() -> String {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/control-plane.md")).unwrap();
    let blocks: Vec<&str> =
        text.split("\n```python\n").skip(1).map(|rest| rest.split_once("\n```").expect("a block ends").0).collect();
    assert!(blocks.len() >= 7, "the document has {} blocks", blocks.len());
    blocks.join("\n\n")
}

/// What the agent has put into its directory.
fn applied(agent: &Agent) -> String {
    let files = fs::read_dir(agent.directory()).unwrap().map(Result::unwrap);
    files.map(|file| fs::read_to_string(file.path()).unwrap()).collect()
}

#[test]
#[ignore = "needs Python with the packages of tests/requirements.txt: PULLET_PYTHON"]
fn the_documents_control_plane_registers_an_agent_that_does_its_jobs_and_rotates() {
    const MARKER: &str = "geheimnis-der-klinik";
    let mut plane = Plane::start();
    let setup = plane.setup().flag("--allow-kind", "/Secret").switch("--require-encrypted-secrets");
    says(&setup.run_to_end("register"), 0, &["registered as c1", "fingerprint of the pinned key", &plane.fingerprint]);
    let agent = setup.spawn();
    agent.wait_for_log("only jobs that the owner signed are done", SOON);

    let signed = plane.ask(json!(["send", "apply", config_map("clinic", "öffnungszeiten", "8–12 €"), false]));
    assert_eq!(signed["outcome"], "failed", "the name is none for Kubernetes: {signed}");
    let signed = plane.ask(json!(["send", "apply", config_map("clinic", "hours", "8–12 €"), false]));
    assert_eq!(signed["outcome"], "succeeded", "{signed}");
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "clinic", "name": "door"},
        "stringData": {"code": MARKER},
    });
    let sealed = plane.ask(json!(["send", "apply", secret, true]));
    assert_eq!(sealed["outcome"], "succeeded", "{sealed}");
    let files = applied(&agent);
    assert!(files.contains("8–12 €") && files.contains(MARKER), "{files}");

    let forged = plane.ask(json!(["forge", "apply", config_map("clinic", "forged", "x")]));
    assert_eq!(forged["outcome"], "failed", "{forged}");
    assert!(forged["error"].as_str().unwrap().starts_with("UnknownKey: "), "{forged}");

    let rotated = plane.ask(json!(["send", "intent", {"intent": "rotate-operator-credentials"}, false]));
    assert_eq!(rotated["outcome"], "succeeded", "{rotated}");
    // With the new bearer and its key.
    let after = plane.ask(json!(["send", "apply", config_map("clinic", "after", "x"), false]));
    assert_eq!(after["outcome"], "succeeded", "{after}");

    let seen = plane.ask(json!(["seen"]));
    assert_eq!(seen["bearers"], 2, "{seen}");
    assert!(!seen["sent"].to_string().contains(MARKER), "the secret went in the open");
    let macs = &seen["macs"];
    assert!(macs["right"].as_u64().unwrap() >= 10, "an ack and a result for each job: {macs}");
    assert_eq!((&macs["wrong"], &macs["changed"]), (&json!(0), &json!(0)), "{macs}");
}

#[test]
#[ignore = "needs Python with the packages of tests/requirements.txt: PULLET_PYTHON"]
fn the_documents_control_plane_issues_client_certificates() {
    let mut plane = Plane::start();
    let setup = plane.setup().switch("--mtls");
    says(&setup.run_to_end("register"), 0, &["registered as c1"]);
    let certificate = || {
        let stored = fs::read(setup.state_dir().join("credential.json")).unwrap();
        serde_json::from_slice::<Value>(&stored).unwrap()["certificate"].as_str().unwrap().to_owned()
    };
    let first = certificate();
    let agent = setup.spawn();
    for (name, job) in [
        ("apply", config_map("clinic", "hours", "8-12")),
        ("intent", json!({"intent": "rotate-operator-credentials"})),
        ("apply", config_map("clinic", "after", "x")),
    ] {
        let result = plane.ask(json!(["send", name, job, false]));
        assert_eq!(result["outcome"], "succeeded", "{result}");
    }
    agent.wait_for_log("a new client certificate is in use", SOON);
    assert_ne!(certificate(), first);
    // Whom it believes, it demands.
    assert!(!agent.log().contains("cannot be used"), "{}", agent.log());
    let seen = plane.ask(json!(["seen"]));
    assert_eq!(seen["macs"], json!({"right": 0, "wrong": 0, "changed": 0}), "with a certificate there is no MAC");
}

#[test]
#[ignore = "needs Python with the packages of tests/requirements.txt: PULLET_PYTHON"]
fn the_documents_checks_of_proofs_and_old_macs_are_those_of_the_agent() {
    const TARGET: &str = "/api/agent/credentials/rotate";
    let mut plane = Plane::start();
    let keys = NodeKeys::generate(&SystemRandom::new()).unwrap();
    let jwk: Value = serde_json::from_str(&keys.identity_jwk().unwrap()).unwrap();
    let claim =
        Claim { method: "POST", path: TARGET, cluster: CLUSTER, bearer: "b1", iat: 1_800_000_000, nonce: &[7; 16] };
    let proof = claim.sign(&keys.signer().unwrap());
    let other: Value = {
        let keys = NodeKeys::generate(&SystemRandom::new()).unwrap();
        serde_json::from_str(&keys.identity_jwk().unwrap()).unwrap()
    };
    for (method, target, bearer, key, is_right) in [
        ("POST", TARGET, "b1", &jwk, true),
        ("GET", TARGET, "b1", &jwk, false),
        ("POST", "/api/agent/events", "b1", &jwk, false),
        ("POST", TARGET, "b2", &jwk, false),
        ("POST", TARGET, "b1", &other, false),
    ] {
        assert_eq!(
            plane.ask(json!(["proof", proof, method, target, bearer, key])),
            is_right,
            "{method} {target} {bearer}"
        );
    }
    let derived = MacKey::derived(CLUSTER, "b1").unwrap();
    assert_eq!(plane.ask(json!(["derive", "b1"])), derived.to_text().as_str());
}

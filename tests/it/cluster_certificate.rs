//! Client certificates and authorities of an agent that goes by a Cluster: they lie in its Secret, issued or the owner's.

use std::fs;
use std::sync::Arc;

use http::Method;
use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::apiserver::wait_until;
use crate::cluster_stage::{CREDENTIAL, Definitions, Stage, condition, message};
use crate::scene::SOON;
use crate::testbed::job::application_instance;
use crate::testbed::{Call, Clients, Fault, Options, Testbed};

/// A Cluster that wants a client certificate, and a control plane that takes nothing but a registration or a rotation without
/// one.
fn wanting() -> (Stage, Arc<Clients>) {
    let clients = Arc::new(Clients::issuing());
    let testbed = Testbed::with(Options { clients: Some(Arc::clone(&clients)), ..Options::default() });
    let stage = Stage::with(Definitions::Ours, testbed);
    stage.node.set_token(&stage.testbed.issue_token(Some(&stage.name)));
    stage.create(&json!({"security": {"mtls": {"enabled": true}}}));
    (stage, clients)
}

fn leaf(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

fn state(stage: &Stage) -> Value {
    serde_json::from_str(&stage.node.entry("agent-state")).unwrap()
}

fn put(stage: &Stage, entries: &Value) {
    let (status, answer) = stage.node.0.request(Method::PATCH, CREDENTIAL, Some(&json!({"stringData": entries})));
    assert_eq!(status, 200, "{answer}");
}

/// Has the agent look at the Secret now.
fn nudge(stage: &Stage, text: &str) {
    stage.patch(&json!({"metadata": {"annotations": {"test/look": text}}}));
}

#[track_caller]
fn uses(stage: &Stage, leaf: &[u8]) {
    let from = stage.testbed.requests().len();
    stage.testbed.wait_for("a poll with the certificate", SOON, |state| {
        let mut later = state.requests.iter().skip(from);
        later.find(|seen| seen.call == Some(Call::Jobs) && seen.certificate.as_deref() == Some(leaf)).map(|_| ())
    });
}

#[track_caller]
fn goes_on(stage: &Stage, name: &str) {
    assert_eq!(stage.apply(application_instance("shop", name))["outcome"], "succeeded");
}

/// Nothing of the key is anywhere but in the Secret.
fn lies_nowhere_else(stage: &Stage, agent: &Agent) {
    let key = stage.node.entry("tls.key");
    assert!(key.starts_with("-----BEGIN PRIVATE KEY-----\n"), "it is PKCS#8 in PEM");
    let line = key.lines().nth(1).unwrap();
    assert!(!agent.log().contains(line) && !stage.cluster().to_string().contains(line));
    for entry in fs::read_dir(agent.state_dir()).unwrap().flatten() {
        let text = fs::read(entry.path()).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&text).contains(line), "{}", entry.path().display());
    }
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_cluster_that_wants_a_client_certificate_gets_one_which_lies_in_the_secret_and_is_renewed() {
    let (stage, _) = wanting();
    let mut agent = stage.setup.spawn();
    stage.is_connected();
    goes_on(&stage, "wiki");
    let names = ["agent-state", "cluster-id", "control-plane-base-url", "keypair", "tls.crt", "tls.key", "token"];
    assert_eq!(stage.node.keys(), names);
    let first = leaf(&stage.node.entry("tls.crt"));
    uses(&stage, &first);
    lies_nowhere_else(&stage, &agent);
    let requests = stage.testbed.requests();
    assert!(requests[0].certificate.is_none() && requests[1..].iter().all(|seen| seen.certificate.is_some()));
    assert!(requests.iter().all(|seen| seen.header("x-vworkspace-mac").is_none()));

    // Renewed while jobs run: none is lost, and nothing starts anew.
    let jobs: Vec<String> = (0..5)
        .map(|number| stage.testbed.apply(&stage.name, application_instance("shop", &format!("app-{number}"))))
        .collect();
    agent.signal(Signal::USR1);
    agent.wait_for_log("a new client certificate is in use", SOON);
    wait_until("it lies in the Secret", || leaf(&stage.node.entry("tls.crt")) != first);
    let second = leaf(&stage.node.entry("tls.crt"));
    assert!(state(&stage).get("nextCertificate").is_none());
    uses(&stage, &second);
    for job in &jobs {
        assert_eq!(stage.testbed.result_of(job, SOON)["outcome"], "succeeded");
    }
    assert!(!agent.log().contains("the line begins anew"));
    lies_nowhere_else(&stage, &agent);

    // One that was stored and could not be tried is tried at the next start.
    stage.testbed.fault_until_cleared(Call::Jobs, Fault::Silence);
    agent.signal(Signal::USR1);
    wait_until("another one is stored", || state(&stage).get("nextCertificate").is_some());
    agent.kill();
    assert_eq!(leaf(&stage.node.entry("tls.crt")), second);
    stage.testbed.clear_faults();
    let mut again = stage.setup.spawn();
    again.wait_for_log("a new client certificate is in use", SOON);
    wait_until("it lies in the Secret", || leaf(&stage.node.entry("tls.crt")) != second);
    let third = leaf(&stage.node.entry("tls.crt"));
    uses(&stage, &third);
    again.stop();

    // A restart goes by the Secret.
    let _agent = stage.setup.spawn();
    uses(&stage, &third);
    goes_on(&stage, "forum");
    assert_eq!(stage.testbed.requests_of(Call::Register).len(), 1);
    assert_eq!(stage.testbed.violations(), Vec::<String>::new());

    // With the Cluster it goes.
    assert_eq!(stage.node.0.request(Method::DELETE, &stage.path(), None).0, 200);
    wait_until("the Secret is empty", || stage.node.keys().is_empty());
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn the_owners_client_certificate_in_the_secret_is_used_and_followed() {
    let (stage, clients) = wanting();
    let (chain, key) = clients.issue();
    put(&stage, &json!({"tls.crt": chain, "tls.key": key}));
    let agent = stage.setup.spawn();
    stage.is_connected();
    uses(&stage, &leaf(&chain));
    let register = stage.testbed.requests_of(Call::Register);
    assert_eq!(register[0].certificate.as_deref(), Some(&*leaf(&chain)));
    assert!(!String::from_utf8_lossy(&register[0].body).contains("certificateRequest"));
    assert_eq!((stage.node.entry("tls.crt"), stage.node.entry("tls.key")), (chain.clone(), key));
    // A rotation of the bearer leaves it alone.
    agent.signal(Signal::USR1);
    agent.wait_for_log("a new credential is in use", SOON);
    assert_eq!(stage.node.entry("tls.crt"), chain);

    // One that the server does not let in leaves the one before in use.
    let (stranger, strangers_key) = Clients::new().issue();
    put(&stage, &json!({"tls.crt": stranger, "tls.key": strangers_key}));
    nudge(&stage, "stranger");
    agent.wait_for_log("those of before stay in use", SOON);
    goes_on(&stage, "wiki");
    put(&stage, &json!({"tls.key": "x"}));
    nudge(&stage, "half");
    goes_on(&stage, "wiki-2");
    uses(&stage, &leaf(&chain));
    // A good one is used without another line.
    let (renewed, renewed_key) = clients.issue();
    put(&stage, &json!({"tls.crt": renewed, "tls.key": renewed_key}));
    nudge(&stage, "renewed");
    agent.wait_for_log("the changed certificates are in use", SOON);
    uses(&stage, &leaf(&renewed));
    assert!(!agent.log().contains("the line begins anew"));

    // Taken away, the control plane is asked for one; put back, that is the one.
    put(&stage, &json!({"tls.crt": "", "tls.key": ""}));
    nudge(&stage, "none");
    agent.wait_for_log("the line begins anew", SOON);
    wait_until("one is issued", || !["", &chain, &renewed].contains(&&*stage.node.entry("tls.crt")));
    let issued = stage.node.entry("tls.crt");
    uses(&stage, &leaf(&issued));
    put(&stage, &json!({"tls.crt": renewed, "tls.key": renewed_key}));
    nudge(&stage, "again");
    uses(&stage, &leaf(&renewed));
    goes_on(&stage, "forum");
    assert_eq!(stage.testbed.requests_of(Call::Register).len(), 1);
    assert_eq!(stage.testbed.violations(), Vec::<String>::new());
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn an_owners_certificate_that_cannot_be_used_is_told_and_mended_without_a_restart() {
    let (stage, clients) = wanting();
    let (chain, key) = clients.issue();
    let (_, others) = clients.issue();
    put(&stage, &json!({"tls.crt": chain, "tls.key": others}));
    let _agent = stage.setup.spawn();
    stage.says("Accepted", "False/ClientCertificateUnusable");
    let text = message(&stage.cluster(), "Accepted");
    assert!(
        text.contains("in the Secret vworkspace-system/vworkspace-agent-credentials: ")
            && text.contains("cannot be used together"),
        "{text}"
    );
    assert_eq!(stage.testbed.requests().len(), 0, "the token is not used up");
    put(&stage, &json!({"tls.crt": "no certificate", "tls.key": key}));
    nudge(&stage, "garbage");
    wait_until("that it is none", || {
        message(&stage.cluster(), "Accepted").contains("tls.crt holds no PEM certificate")
    });
    put(&stage, &json!({"tls.crt": chain}));
    nudge(&stage, "mended");
    stage.is_connected();
    assert_eq!(condition(&stage.cluster(), "Accepted"), "");
    uses(&stage, &leaf(&chain));
}

/// Those that come with the registration, and those that come later; in the Secret, so that a node that lost its disk has
/// them.
#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn authorities_that_a_control_plane_gives_to_a_cluster_lie_in_the_secret() {
    let mut stage = Stage::new(Definitions::Ours);
    let (next, shown) = Testbed::next_authority(None);
    stage.testbed.give_authorities(Some(next.clone()));
    stage.node.set_token(&stage.testbed.issue_token(Some(&stage.name)));
    stage.create(&json!({}));
    let mut agent = stage.setup.spawn();
    stage.is_connected();
    agent.wait_for_log("are believed from now on", SOON);
    assert_eq!(stage.node.entry("ca.crt"), next);
    let file = agent.state_dir().join("ca.pem");
    assert_eq!(fs::read_to_string(&file).unwrap(), next);
    stage.testbed.show(shown);
    goes_on(&stage, "wiki");
    agent.stop();
    fs::remove_file(&file).unwrap();
    let agent = stage.setup.spawn();
    goes_on(&stage, "forum");
    assert_eq!(fs::read_to_string(&file).unwrap(), next);
    let (later, _) = Testbed::next_authority(None);
    let both = format!("{next}{later}");
    stage.testbed.give_authorities(Some(both.clone()));
    agent.signal(Signal::USR1);
    wait_until("the next ones lie there", || stage.node.entry("ca.crt") == both);
    wait_until("and here", || fs::read_to_string(&file).is_ok_and(|text| text == both));
    // What is too long to be what we wrote is told, and nothing is believed for it.
    put(&stage, &json!({"ca.crt": "x".repeat(32 * 1024 + 1)}));
    stage.patch(&json!({"spec": {"pull": {"waitSeconds": 2}}}));
    agent.wait_for_log("the Secret cannot be used", SOON);
    assert_eq!(fs::read_to_string(&file).unwrap(), both);
    put(&stage, &json!({"ca.crt": both}));
    stage.patch(&json!({"spec": {"pull": {"waitSeconds": 1}}}));
    goes_on(&stage, "again");
    assert_eq!(stage.node.0.request(Method::DELETE, &stage.path(), None).0, 200);
    wait_until("they go with the Cluster", || stage.node.keys().is_empty() && !file.exists());
}

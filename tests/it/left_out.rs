//! A kind that cannot be listed, while others can: an API server that answers 500 for it, our rights taken away, its
//! definition gone. It holds up nobody, that is said, and when it can be listed again what is so is told.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use pullet::target::Target as _;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use crate::agent::{Agent, Setup};
use crate::apiserver::{ApiServer, TOKENS, unique, wait_until};
use crate::fake_api::{Asked, FakeApi, Out, answer};
use crate::kubernetes_observe::Listener;
use crate::scene::{LATER, SOON};
use crate::testbed::Testbed;
use crate::testbed::job::{application_instance, operation};

const INSTANCES: &str = "/apis/apps.vworkspace.io/v1alpha1/applicationinstances?";

const INSTANCE: &str = "apps.vworkspace.io/ApplicationInstance";

const OPERATION: &str = "ops.vworkspace.io/Operation";

/// What stands before a real API server and answers for it where it is told to.
struct Front {
    front: FakeApi,
    refused: Arc<Mutex<Option<(u16, &'static str)>>>,
}

impl Front {
    fn start(api: &'static ApiServer) -> Self {
        let (user, rules) = (TOKENS[0].1, json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]));
        api.allow(user, &rules);
        let refused = Arc::new(Mutex::new(None));
        let told = Arc::clone(&refused);
        let front = FakeApi::start(move |asked, out| {
            let refused: Option<(u16, &str)> = *told.lock().unwrap_or_else(PoisonError::into_inner);
            match refused.filter(|(_, path)| asked.path.starts_with(path)) {
                Some((code, _)) => {
                    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "as told"});
                    answer(out, &format!("{code} As told"), &status.to_string())
                }
                None => pass(api, asked, out),
            }
        });
        Self { front, refused }
    }

    fn kubeconfig(&self) -> PathBuf {
        self.front.kubeconfig(&format!("{{token: {}}}", TOKENS[0].0))
    }

    /// Answers so from now on what begins with this.
    fn refuse(&self, refused: Option<(u16, &'static str)>) {
        *self.refused.lock().unwrap() = refused;
    }
}

/// What the real one answers, for as long as it does: a watch has no end. With it the connection is over.
fn pass(api: &ApiServer, asked: &Asked, out: Out<'_>) -> std::io::Result<()> {
    let mut roots = RootCertStore::empty();
    let authority = rustls::pki_types::CertificateDer::from_pem_slice(api.authority_pem().as_bytes()).unwrap();
    roots.add(authority).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut server = StreamOwned::new(connection, TcpStream::connect(("127.0.0.1", api.port()))?);
    write!(server, "{} {} HTTP/1.1\r\nConnection: close\r\n", asked.method, asked.path)?;
    for (name, value) in asked.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("connection")) {
        write!(server, "{name}: {value}\r\n")?;
    }
    server.write_all(b"\r\n")?;
    server.write_all(&asked.body)?;
    let mut piece = [0; 16 * 1024];
    loop {
        let count = server.read(&mut piece)?;
        if count == 0 {
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        out.write_all(&piece[..count])?;
        out.flush()?;
    }
}

async fn is_gone(ticket: &Weak<()>) {
    let gone = async {
        while ticket.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, gone).await.expect("the ticket is gone");
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn a_kind_that_is_forbidden_or_not_there_holds_up_nobody_and_is_named() {
    let api = ApiServer::shared();
    api.apply_crds();
    let front = Front::start(api);
    front.refuse(Some((403, INSTANCES)));
    let kinds = [INSTANCE, OPERATION, "nowhere.example/Thing"];
    let listener = Listener::start(front.kubeconfig(), &format!("cluster-{}", unique()), &kinds);
    let ask = || {
        let ticket = Arc::new(());
        let watch = Arc::downgrade(&ticket);
        listener.target.report_again(ticket);
        watch
    };
    is_gone(&ask()).await;
    // Of a kind that is not there nothing is owed: what comes with it is news anyway.
    assert_eq!(listener.target.left_out(), format!("{INSTANCE}, nowhere.example/Thing"));
    assert_eq!((listener.target.unsent(), listener.target.kinds()), ((1, 0), (3, 2)));
    front.refuse(None);
    let works_again = async {
        while listener.target.unsent() != (1, 1) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(SOON, works_again).await.expect("it is listed again");
    assert_eq!(listener.target.left_out(), "nowhere.example/Thing");
    is_gone(&ask()).await;
    assert_eq!(listener.target.unsent(), (0, 0));
    listener.stop().await;
}

fn ready(reason: &str) -> Value {
    let condition = json!({"type": "Ready", "status": "True", "reason": reason, "message": "as it is", "lastTransitionTime": "2026-01-31T12:00:00Z"});
    json!({"observedGeneration": 1, "conditions": [condition]})
}

/// How often the condition of an object was told.
fn told(testbed: &Testbed, kind: &str) -> usize {
    testbed.events().iter().filter(|record| record.event["resourceRef"]["kind"] == kind).count()
}

fn left_out(agent: &Agent) -> Value {
    let text = std::fs::read_to_string(agent.status_file()).unwrap_or_default();
    serde_json::from_str::<Value>(&text).unwrap_or_default()["leftOut"].clone()
}

/// After a power cut all of the present is owed, and one kind of it cannot be had.
#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_kind_whose_list_fails_for_long_is_left_out_of_the_present_and_follows_when_it_works() {
    let api = ApiServer::shared();
    api.apply_crds();
    let front = Front::start(api);
    let (testbed, cluster, space) = (Testbed::start(), format!("cluster-{}", unique()), format!("shop-{}", unique()));
    let setup = Setup::of_cluster(&testbed, &cluster)
        .flag("--kubeconfig", front.kubeconfig())
        .flag("--succeed-on", "applied")
        .flag("--heartbeat-interval", "60")
        .flag("--wait", "1");
    let mut agent = setup.spawn();
    for (object, group, plural) in [
        (application_instance(&space, "wiki"), "apps", "applicationinstances"),
        (operation(&space, "backup"), "ops", "operations"),
    ] {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let job = testbed.apply(&cluster, object);
        assert_eq!(testbed.result_of(&job, SOON)["outcome"], "succeeded");
        let path = format!("/apis/{group}.vworkspace.io/v1alpha1/namespaces/{space}/{plural}/{name}");
        api.set_status(&path, &ready("Installed"));
    }
    let now = || ["ApplicationInstance", "Operation"].map(|kind| told(&testbed, kind));
    wait_until("the conditions are told", || now().iter().all(|count| *count > 0));
    agent.kill();
    let before = now();
    front.refuse(Some((500, INSTANCES)));
    let agent = setup.spawn();
    agent.wait_for_log("the present conditions were sent, but for kinds that cannot be listed", LATER);
    assert_eq!(now(), [before[0], before[1] + 1]);
    wait_until("the status names it", || left_out(&agent) == INSTANCE);
    let is_named = |event: &Value| {
        let conditions = event["conditions"].as_array().into_iter().flatten();
        event["kind"] == "ClusterHeartbeat"
            && conditions.filter(|one| one["reason"] == "KindsLeftOut").any(|one| one["message"] == INSTANCE)
    };
    testbed.event("a heartbeat that names it", LATER, is_named);

    front.refuse(None);
    agent.wait_for_log("the present conditions of all owned objects were sent", LATER);
    assert_eq!(now(), [before[0] + 1, before[1] + 2]);
    wait_until("the status names it no more", || left_out(&agent).is_null());
    assert_eq!(testbed.violations(), Vec::<String>::new());
}

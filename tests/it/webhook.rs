//! The validating webhook: a real API server asks a real agent before it stores what others write.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use pullet::net::PlainHttp;
use pullet::net::tls::{Roots, client_config};
use pullet::protocol::{Instruction, Job, group_of};
use pullet::shutdown::Stop;
use pullet::target::kubernetes::{Access, Own, Surroundings, Wish};
use pullet::trust::policy::{OWN_ACCOUNT, Review, Space};
use pullet::webhook::{Listen, Pace, Parts};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};

use crate::admission::{ask_server, askable};
use crate::agent::{Agent, Setup};
use crate::apiserver::{ApiServer, free_port, unique, wait_until};
use crate::policy_cases::{Case, Input, Verdict, cases, policy_of};
use crate::scene::{SOON, says};
use crate::testbed::Testbed;

const CONFIGURATION: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/pullet";

const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/pullet";

const INSTANCES: &str = "/apis/apps.vworkspace.io/v1alpha1/namespaces/shop/applicationinstances";

/// As `limits::WEBHOOK_BODY_BYTES`.
const BODY: usize = 512 * 1024;

const TRUSTED: &str = "the API server trusts the certificate of the webhook";

/// An API server that one test at a time has for itself, with a webhook of its own.
struct Stage {
    server: MutexGuard<'static, ApiServer>,
    port: u16,
}

impl Stage {
    fn new() -> Self {
        static SERVER: OnceLock<Mutex<ApiServer>> = OnceLock::new();
        let server = SERVER.get_or_init(|| {
            let server = ApiServer::start();
            server.apply_crds();
            server.create_namespace("shop", &json!({"managed-by": "vworkspace"}));
            server.create_namespace("elsewhere", &json!({}));
            Mutex::new(server)
        });
        let this = Self { server: server.lock().unwrap_or_else(PoisonError::into_inner), port: free_port() };
        this.server.apply_text(&this.printed(&["rbac"]));
        this
    }

    fn listen(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn printed(&self, command: &[&str]) -> String {
        let output = Agent::run_to_end([command, &[&format!("--webhook-listen={}", self.listen())]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// As `pullet admission --webhook` prints it. It is created: a server of before matchConditions leaves those out then.
    fn configure(&self) {
        self.make(CONFIGURATIONS, &self.printed(&["admission", "--webhook"]));
    }

    fn make(&self, path: &str, yaml: &str) {
        let (status, answer) = self.server.request_as(Method::POST, path, "application/yaml", yaml.into());
        assert_eq!(status, 201, "{answer}");
    }

    fn setup(&self, testbed: &Testbed) -> Setup {
        Setup::of_cluster(testbed, &format!("cluster-{}", unique()))
            .flag("--kubeconfig", self.server.kubeconfig_for(OWN_ACCOUNT, "none"))
            .flag("--webhook-listen", self.listen())
            .flag("--wait", "1")
    }

    /// Makes nothing: what would be said if it were made.
    fn create(&self, object: &Value) -> (u16, String) {
        let (status, answer) = self.server.request(Method::POST, &format!("{INSTANCES}?dryRun=All"), Some(object));
        (status, answer["message"].as_str().unwrap_or_default().to_owned())
    }

    /// An API server that others hold up for a second loses its place at the webhook, and says 500: it is asked again.
    fn undisturbed<T>(&self, ask: impl Fn(&ApiServer) -> (u16, T)) -> (u16, T) {
        let mut said = ask(&self.server);
        for _ in 0..3 {
            if said.0 != 500 {
                break;
            }
            said = ask(&self.server);
        }
        said
    }

    fn is_refused(&self, object: &Value, words: &str) {
        let (status, message) = self.undisturbed(|_| self.create(object));
        assert!(status == 403 && message.contains(words), "{words}: {status} {message}");
    }

    /// Until the API server has seen the configuration, and asks in vain.
    fn until_asked(&self) {
        wait_until("the API server asks", || self.create(&instance("a", &json!({}))).0 == 500);
    }

    /// A refusal is the webhook's: an API server that has not seen the configuration yet would allow all.
    fn until_answered(&self) {
        wait_until("a review is answered", || self.create(&inline(&json!({"token": "x"}))).0 == 403);
    }

    /// The certificates that the API server trusts, in PEM.
    fn bundle(&self) -> String {
        let configuration = self.server.get(CONFIGURATION);
        let bundle = configuration["webhooks"][0]["clientConfig"]["caBundle"].as_str().unwrap_or_default();
        String::from_utf8(STANDARD.decode(bundle).unwrap()).unwrap()
    }

    /// Somebody who connects to the webhook, and trusts what the API server trusts.
    fn connect(&self) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
        let mut roots = Roots::none();
        roots.add_pem(self.bundle().as_bytes(), Path::new("bundle")).unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connection = rustls::ClientConnection::new(client_config(roots, None).unwrap(), name).unwrap();
        rustls::StreamOwned::new(connection, self.tcp())
    }

    fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(self.listen()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }

    /// Status and body of the answer to a request of one's own.
    fn say(&self, head: &str, body: &[u8]) -> (u16, String) {
        let mut stream = self.connect();
        stream.write_all(&[head.as_bytes(), b"\r\n\r\n", body].concat()).unwrap();
        answer(stream)
    }

    fn post(&self, body: &[u8]) -> (u16, String) {
        self.say(&head(body.len()), body)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.server.request(Method::DELETE, CONFIGURATION, None);
    }
}

fn head(length: usize) -> String {
    format!("POST /validate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {length}")
}

fn answer(mut stream: impl std::io::Read) -> (u16, String) {
    let mut text = String::new();
    // An end without a goodbye is an end as well.
    let _ = stream.read_to_string(&mut text);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    (status.unwrap_or_else(|| panic!("{head}")), body.to_owned())
}

fn instance(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "apps.vworkspace.io/v1alpha1", "kind": "ApplicationInstance",
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
}

fn inline(values: &Value) -> Value {
    instance("a", &json!({"values": {"inline": values}}))
}

/// What an API server would ask about a new object of ours.
fn review(user: &str, object: &Value) -> Value {
    let kind = object["kind"].as_str().unwrap_or("ApplicationInstance");
    let group = group_of(object["apiVersion"].as_str().unwrap_or("apps.vworkspace.io/v1alpha1"));
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "7b", "kind": {"group": group, "version": "v1alpha1", "kind": kind}, "operation": "CREATE",
        "name": "a", "namespace": object["metadata"]["namespace"].as_str().unwrap_or_default(),
        "userInfo": {"username": user}, "object": object, "oldObject": null,
    }})
}

/// A review of exactly so many bytes.
fn review_of(bytes: usize) -> Vec<u8> {
    let plain = review("gitops", &inline(&json!({"a": ""}))).to_string();
    let padded = review("gitops", &inline(&json!({"a": "x".repeat(bytes - plain.len())}))).to_string();
    assert_eq!(padded.len(), bytes);
    padded.into_bytes()
}

/// The whole table, each case by its own settings: those that an API server can tell, and those of JSON that only a webhook
/// can see.
#[test]
fn a_review_ends_every_case_as_the_policy_of_jobs_does() {
    let (mut wrong, mut judged) = (Vec::new(), 0);
    for case in &cases() {
        let Some(text) = review_of_case(case) else { continue };
        judged += 1;
        let types = case.allowed_types.clone();
        let policy = case.policy();
        let refused = match Review::read(text.as_bytes()) {
            None => Some("no review".to_owned()),
            Some(review) => {
                let space = Space { is_managed: true, allowed_types: types };
                policy.review(&review, |_| Ok(space)).err().map(|denial| denial.to_string())
            }
        };
        let fits = match (&refused, case.verdict) {
            (None, Verdict::Permit) => true,
            (Some(message), Verdict::Refuse) => {
                let reason = case.reason.as_deref().unwrap();
                let path = case.path.as_deref().unwrap_or_default();
                message.starts_with(&format!("{reason}: ")) && message.contains(path)
            }
            _ => false,
        };
        if !fits {
            wrong.push(format!("{}: {refused:?}", case.name));
        }
    }
    assert!(judged >= 265, "{judged}");
    assert!(wrong.is_empty(), "{} of {judged} cases:\n{}", wrong.len(), wrong.join("\n"));
}

/// None where no API server would ask it: what is no object, what only a job may not have, kinds that nobody configured.
fn review_of_case(case: &Case) -> Option<String> {
    let labelled = |mut object: Value| {
        if !object["apiVersion"].as_str().unwrap().contains(".vworkspace.io/") || object["kind"] == "Cluster" {
            object["metadata"]["labels"]["app.vworkspace.io/managed-by"] = json!("control-plane");
        }
        object
    };
    match &case.input {
        Input::Text(text) => {
            // As it was written, with whatever is there twice.
            let job = Job::parse(text).ok()?;
            let Ok(Instruction::Apply(manifest)) = job.instruction() else { return None };
            let object = serde_json::to_string(&manifest).unwrap();
            let review = review(
                "gitops",
                &json!({"kind": manifest.kind, "apiVersion": manifest.api_version, "metadata": {"namespace": manifest.namespace}}),
            );
            let mark = review["request"]["object"].to_string();
            Some(review.to_string().replace(&mark, &object))
        }
        _ if case.admission == Some(false) => None,
        Input::Delete(named) => {
            let old = labelled(json!({"apiVersion": named["apiVersion"], "kind": named["kind"],
                "metadata": {"name": named["name"], "namespace": named["namespace"]}}));
            let mut review = review("gitops", &old);
            review["request"]["operation"] = json!("DELETE");
            review["request"]["oldObject"] = review["request"]["object"].take();
            Some(review.to_string())
        }
        _ => Some(review("gitops", &labelled(case.manifest()?)).to_string()),
    }
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn what_others_write_is_judged_as_a_job_is() {
    let stage = Stage::new();
    stage.configure();
    let fine = || instance("a", &json!({}));
    stage.until_asked();
    let testbed = Testbed::start();
    let mut agent = stage.setup(&testbed).spawn();
    agent.wait_for_log(TRUSTED, SOON);
    stage.until_answered();

    let mut wrong = Vec::new();
    let asked = askable();
    assert!(asked.len() >= 100, "{}", asked.len());
    for case in &asked {
        let (status, answer) = stage.undisturbed(|server| ask_server(server, case).unwrap());
        let message = answer["message"].as_str().unwrap_or_default();
        let fits = match case.verdict {
            Verdict::Permit => status == 201,
            Verdict::Refuse => {
                let path = case.path.as_deref().unwrap_or_default();
                status == 403
                    && message.contains(&format!("{}: ", case.reason.as_deref().unwrap()))
                    && message.contains(path)
            }
        };
        if !fits {
            wrong.push(format!("{}: {status} {message}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), asked.len(), wrong.join("\n"));

    // Deeper than any expression walks; and what expressions would refuse for its depth alone.
    let deep = |inner: Value| (0..30).fold(inner, |value, _| json!({"a": [value]}));
    stage.is_refused(&inline(&deep(json!({"token": "x"}))), "spec.values.inline.a[0].a[0]");
    assert_eq!(stage.create(&inline(&deep(json!({"replicas": 3})))).0, 201);
    let large = inline(&json!({"a": "x".repeat(BODY)}));
    let (status, message) = stage.create(&large);
    assert!(status == 403 && message.contains("TooLarge: the object, with what it was before,"), "{status} {message}");
    let (status, _) = stage.server.create_as(OWN_ACCOUNT, &format!("{INSTANCES}?dryRun=All"), &large);
    assert_eq!(status, 201, "the agent's own account, with what nobody reads to its end");

    // By whom, where, and what of it.
    let evil = inline(&json!({"token": "x"}));
    let (status, made) = stage.server.create_as(OWN_ACCOUNT, INSTANCES, &evil);
    assert_eq!(status, 201, "the agent's own account: {made}");
    let path = format!("{INSTANCES}/a");
    let change = |patch: Value| stage.server.request(Method::PATCH, &path, Some(&patch));
    assert_eq!(change(json!({"metadata": {"finalizers": ["x/y"]}})).0, 200);
    let (status, answer) = change(json!({"spec": {"values": {"inline": {"more": 1}}}}));
    assert!(status == 403 && answer.to_string().contains("InlineSecretMaterialRejected: "), "{answer}");
    assert_eq!(change(json!({"metadata": {"finalizers": null}})).0, 200);
    assert_eq!(change(json!({"spec": {"values": {"inline": {"token": null}}}})).0, 200, "it may be mended");
    assert_eq!(stage.server.request(Method::DELETE, &path, None).0, 200);
    let mut there = fine();
    there["metadata"]["namespace"] = json!("elsewhere");
    let elsewhere = INSTANCES.replace("shop", "elsewhere");
    let (status, answer) = stage.server.request(Method::POST, &elsewhere, Some(&there));
    assert!(status == 403 && answer.to_string().contains("not labelled managed-by=vworkspace"), "{answer}");
    let label = |types: Value| {
        let patch = json!({"metadata": {"annotations": {"ops.vworkspace.io/allowed-types": types}}});
        assert_eq!(stage.server.request(Method::PATCH, "/api/v1/namespaces/shop", Some(&patch)).0, 200);
    };
    let operation = json!({"apiVersion": "ops.vworkspace.io/v1alpha1", "kind": "Operation",
        "metadata": {"generateName": "save-", "namespace": "shop"}, "spec": {"type": "Backup"}});
    let operate = || {
        let path = "/apis/ops.vworkspace.io/v1alpha1/namespaces/shop/operations?dryRun=All";
        stage.server.request(Method::POST, path, Some(&operation))
    };
    assert_eq!(operate().0, 201);
    label(json!("Restore"));
    let (status, answer) = operate();
    assert!(status == 403 && answer.to_string().contains("OperationNotAllowed: the namespace"), "{answer}");
    label(Value::Null);
    let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}, "data": {"token": "x"}});
    stage.server.create("/api/v1/namespaces/elsewhere/configmaps", &other);

    // The agent goes and comes again.
    let silent = stage.tcp();
    let ended = agent.stop();
    // Somebody who says nothing may be waited for 10 s.
    assert!(ended.status.success() && ended.took < Duration::from_secs(9), "{ended:?}");
    drop(silent);
    assert_eq!(stage.create(&fine()).0, 500);
    let before = stage.bundle();
    let begin = Instant::now();
    let agent = stage.setup(&testbed).spawn();
    stage.until_answered();
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    assert_ne!(stage.bundle(), before, "a new key, and nothing of the old one is trusted");
    assert_eq!(stage.bundle().matches("BEGIN CERTIFICATE").count(), 1);
    assert!(!agent.log().contains("forbidden"), "{}", agent.log());
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn what_is_no_review_has_no_place_and_nobody_keeps_it() {
    let stage = Stage::new();
    stage.configure();
    let testbed = Testbed::start();
    let agent = stage.setup(&testbed).spawn();
    agent.wait_for_log(TRUSTED, SOON);
    let good = review("gitops", &instance("a", &json!({}))).to_string();
    let is_answered = |user: &str, object: &Value| {
        let (status, body) = stage.post(review(user, object).to_string().as_bytes());
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (status, &answer["response"]["uid"], &answer["kind"]),
            (200, &json!("7b"), &json!("AdmissionReview"))
        );
        answer["response"]["allowed"].as_bool().unwrap()
    };
    let evil = inline(&json!({"token": "x"}));
    assert!(is_answered("gitops", &instance("a", &json!({}))));
    assert!(!is_answered("gitops", &evil));
    assert!(is_answered(OWN_ACCOUNT, &evil));

    // As large as it may be, and one byte more; announced, and in chunks that announce nothing.
    let chunked = |body: &[u8]| {
        let head = head(0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
        let body = [format!("{:x}\r\n", body.len()).as_bytes(), body, b"\r\n0\r\n\r\n"].concat();
        stage.say(&head, &body)
    };
    for (bytes, expected) in [(BODY, 200), (BODY + 1, 413), (2 * BODY, 413)] {
        let body = review_of(bytes);
        assert_eq!(stage.post(&body).0, expected, "{bytes}");
        assert_eq!(chunked(&body).0, expected, "{bytes} in chunks");
    }
    let (status, text) = stage.post(&review_of(BODY + 1));
    assert!(status == 413 && text.contains("512 KiB"), "{text}");

    for (head, body, expected) in [
        (head(good.len()).replace("/json", "/yaml"), good.as_str(), 415),
        (head(good.len()).replace("Content-Type: application/json\r\n", ""), &good, 415),
        (head(good.len()).replace("/json", "/json; charset=utf-8"), &good, 200),
        (head(good.len()).replace("/validate", "/"), &good, 404),
        ("GET /validate HTTP/1.1\r\nHost: a".to_owned(), "", 405),
        (head(good.len() - 1), &good[..good.len() - 1], 400),
        (head(2), "{}", 400),
        (head(2), "[]", 400),
        (head(4), "null", 400),
        (head(0), "", 400),
        (head(good.len()), &good.replace("admission.k8s.io/v1", "admission.k8s.io/v2"), 400),
        (head(good.len()), &good.replace("\"uid\":\"7b\"", "\"uid\":7000"), 400),
        // A promise of more than what comes: nobody waits for it longer than a second.
        (head(good.len() + 1), &good, 408),
        (format!("{}\r\nX: {}", head(good.len()), "x".repeat(16 * 1024)), &good, 431),
        ("nonsense".to_owned(), "", 400),
    ] {
        // What took longer than a second for another reason than its own is said again.
        let mut said = stage.say(&head, body.as_bytes()).0;
        for _ in 0..3 {
            if said == 408 && expected != 408 {
                said = stage.say(&head, body.as_bytes()).0;
            }
        }
        assert_eq!(said, expected, "{head} {}", body.get(..100).unwrap_or(body));
    }

    // Without TLS there is no answer.
    let mut plain = stage.tcp();
    plain.write_all(good.as_bytes()).unwrap();
    let mut text = Vec::new();
    let _ = plain.read_to_end(&mut text);
    assert!(!String::from_utf8_lossy(&text).contains("HTTP"), "{text:?}");

    // Some who say nothing, before the handshake, behind it and amid a body, and one who wants an answer.
    let begin = Instant::now();
    let silent: Vec<TcpStream> = (0..3).map(|_| stage.tcp()).collect();
    let mut shaken = stage.connect();
    shaken.write_all(head(good.len()).as_bytes()).unwrap();
    shaken.write_all(b"\r\n\r\n{").unwrap();
    shaken.flush().unwrap();
    assert!(is_answered("gitops", &instance("a", &json!({}))));
    assert!(begin.elapsed() < Duration::from_secs(9), "{:?}", begin.elapsed());
    drop((silent, shaken));

    // A long one as an API server writes it is answered, with the request that it is about.
    let rest = format!(",\"object\":\"{}\"}}}}", "x".repeat(BODY));
    for (user, allowed) in [("gitops", false), (OWN_ACCOUNT, true)] {
        let begin = r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"7b","userInfo":{"username":"#;
        let (status, body) = stage.post(format!("{begin}\"{user}\"}}{rest}").as_bytes());
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &answer["response"]["allowed"]), (200, &json!(allowed)), "{body}");
        assert_eq!(answer["response"]["uid"], "7b");
    }

    // Many at once: one after the other, and each has its own answer.
    let bodies = [instance("a", &json!({})), evil];
    std::thread::scope(|scope| {
        let many: Vec<_> = (0..12)
            .map(|at| {
                let (is_answered, body) = (&is_answered, &bodies[at % 2]);
                scope.spawn(move || assert_eq!(is_answered("gitops", body), at % 2 == 0))
            })
            .collect();
        for one in many {
            one.join().unwrap();
        }
    });
    assert!(agent.threads() < 20, "{}", agent.threads());
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn a_server_takes_the_service_and_the_further_kinds_as_they_are_printed() {
    let stage = Stage::new();
    let output = Agent::run_to_end(["admission", "--webhook", "--webhook-listen=0.0.0.0:9443", "--allow-kind=/Secret"]);
    let printed = String::from_utf8(output.stdout).unwrap();
    let (configuration, service) = printed.split_once("\n---\n").unwrap();
    stage.make(&format!("{CONFIGURATIONS}?dryRun=All"), configuration);
    stage.make("/api/v1/namespaces/vworkspace-system/services?dryRun=All", service);
    let output = Agent::run_to_end(["admission", "--webhook"]);
    says(&output, 2, &["webhook_listen is missing"]);
    says(&Agent::run_to_end(["admission", "--webhook", "--json"]), 2, &["YAML alone"]);
    says(&Agent::run_to_end(["run", "--webhook-listen", "9443"]), 2, &["webhook_listen", "127.0.0.1:9443"]);
    let directory = ["rbac", "--target=directory", "--directory=/tmp", "--webhook-listen=127.0.0.1:9443"];
    says(&Agent::run_to_end(directory), 2, &["only for the kubernetes target"]);
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn with_one_right_less_the_webhook_is_not_trusted_and_the_log_says_why() {
    let stage = Stage::new();
    let role = stage.server.get(ROLE);
    let is_it = |rule: &&Value| rule["resources"][0] == "validatingwebhookconfigurations";
    let rules = role["rules"].as_array().unwrap();
    let right = rules.iter().find(is_it).unwrap();
    assert_eq!((&right["verbs"], &right["resourceNames"]), (&json!(["get", "patch"]), &json!(["pullet"])));
    stage.configure();
    for verb in ["get", "patch"] {
        let mut fewer: Vec<Value> = rules.iter().filter(|rule| !is_it(rule)).cloned().collect();
        let mut less = right.clone();
        less["verbs"].as_array_mut().unwrap().retain(|kept| kept != verb);
        fewer.push(less);
        assert_eq!(stage.server.request(Method::PATCH, ROLE, Some(&json!({"rules": fewer}))).0, 200);
        let mut missing = right.clone();
        missing["verbs"] = json!([verb]);
        stage.server.until_may(OWN_ACCOUNT, &missing, "", false);
        let testbed = Testbed::start();
        let agent = stage.setup(&testbed).spawn();
        agent.wait_for_log("pullet rbac prints its rights", SOON);
        let log = agent.log().replace('\\', "");
        assert!(log.contains(&format!("cannot {verb} resource \"validatingwebhookconfigurations\"")), "{log}");
        assert!(!log.contains(TRUSTED) && stage.bundle().is_empty());
        stage.until_asked();
        // It is tried again.
        assert_eq!(stage.server.request(Method::PATCH, ROLE, Some(&json!({"rules": rules}))).0, 200);
        agent.wait_for_log(TRUSTED, SOON);
        stage.until_answered();
        drop(agent);
        stage.server.request(Method::DELETE, CONFIGURATION, None);
        stage.configure();
    }
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn certificates_follow_each_other_and_no_review_fails() {
    let stage = Stage::new();
    let wish = Wish {
        kubeconfig: Some(stage.server.kubeconfig()),
        context: None,
        foreground_root: false,
        plain_http: PlainHttp::Refused,
    };
    let access = Access::find(&wish, &Surroundings { variable: &|_| None, root: "/".into() }).unwrap();
    let stop = Stop::default();
    let parts = Parts {
        listen: Listen::parse(&stage.listen()).unwrap(),
        policy: policy_of(&json!({})),
        own: Own::new(&access),
        pace: Pace {
            lifetime: Duration::from_secs(20),
            check: Duration::from_millis(300),
            settle: Duration::from_secs(4),
        },
        stop: stop.clone(),
    };
    let webhook = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(pullet::webhook::serve(parts));
        runtime.shutdown_background();
    });
    // There is nothing to be trusted in yet; it is looked for again.
    std::thread::sleep(Duration::from_secs(1));
    stage.configure();
    stage.until_answered();
    let (mut seen, mut most, mut reviews) = (BTreeSet::new(), 0, 0);
    let ends = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                let (status, message) = stage.undisturbed(|_| {
                    let said = stage.create(&instance("a", &json!({})));
                    let is_of_the_certificate = ["x509", "certificate", "tls"].iter().any(|word| said.1.contains(word));
                    assert!(!is_of_the_certificate, "review {reviews}: {}", said.1);
                    said
                });
                assert_eq!(status, 201, "review {reviews}: {message}");
                reviews += 1;
            }
        });
        wait_until("three certificates", || {
            let bundle = stage.bundle();
            most = most.max(bundle.matches("BEGIN CERTIFICATE").count());
            seen.extend(bundle.split_inclusive("-----END CERTIFICATE-----").map(|one| one.trim().to_owned()));
            load.is_finished() || seen.iter().filter(|one| !one.is_empty()).count() >= 3
        });
        ends.store(true, Ordering::Relaxed);
        load.join().unwrap();
    });
    assert_eq!(most, 2, "both are trusted while one follows the other");
    assert!(reviews > 20, "{reviews}");
    // Somebody puts it back to what was printed.
    let patch =
        json!({"webhooks": [{"name": "applications.pullet.vworkspace.io", "clientConfig": {"caBundle": null}}]});
    let kind = "application/strategic-merge-patch+json";
    let (status, answer) = stage.server.request_as(Method::PATCH, CONFIGURATION, kind, patch.to_string().into_bytes());
    assert_eq!(status, 200, "{answer}");
    wait_until("it is trusted again", || !stage.bundle().is_empty());
    stage.until_answered();
    // While nothing has to be changed, nothing is written.
    stop.set();
    webhook.join().unwrap();
    wait_until("nobody listens", || TcpStream::connect(stage.listen()).is_err());
}

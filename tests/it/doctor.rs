//! `pullet doctor`: each check sees the one thing that is broken, and no other one does. Here the line and the node;
//! `doctor_cluster.rs` has the cluster.

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use pullet::limits::doctor::PROMISED;
use serde_json::Value;

use crate::agent::{Agent, Setup, run_to_end, write_secret};
use crate::apiserver::wait_until;
use crate::scene::{SOON, quick, said};
use crate::testbed::{Answer, Call, Certificate, Clients, Fault, MEDIA_TYPE, Options, Proxy, Testbed};

/// What the doctor said.
pub(crate) struct Seen {
    code: i32,
    text: String,
    checks: Vec<[String; 4]>,
}

impl Seen {
    pub(crate) fn of(output: &Output) -> Self {
        let (code, text) = said(output);
        let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{text}"));
        let member = |check: &Value, name: &str| check[name].as_str().unwrap().to_owned();
        let checks = json["checks"].as_array().unwrap();
        let checks = checks.iter().map(|check| ["check", "verdict", "seen", "mend"].map(|name| member(check, name)));
        let this = Self { code, text, checks: checks.collect() };
        assert_eq!(this.checks.len(), 23, "{}", this.text);
        // Whatever is broken, it is over in time, by its own watch.
        let took = Duration::from_millis(json["milliseconds"].as_u64().unwrap());
        assert!(took <= PROMISED, "{took:?}\n{}", this.text);
        this.is_sound();
        this
    }

    /// Whatever is not well can be mended, and the code says how bad it is.
    fn is_sound(&self) {
        for [check, verdict, seen, mend] in &self.checks {
            assert!(!seen.is_empty() && !seen.contains('\n') && !mend.contains('\n'), "{check}: {seen} {mend}");
            assert_eq!(mend.is_empty(), matches!(verdict.as_str(), "ok" | "skipped"), "{check}: {seen} {mend}");
        }
        let has = |verdict: &str| self.checks.iter().any(|check| check[1] == verdict);
        let expected = if has("failed") {
            1
        } else if has("warning") {
            4
        } else {
            0
        };
        assert_eq!(self.code, expected, "{}", self.text);
    }

    #[track_caller]
    pub(crate) fn find(&self, check: &str) -> &[String; 4] {
        self.checks.iter().find(|found| found[0] == check).unwrap_or_else(|| panic!("no {check} in {}", self.text))
    }

    /// This check ended so and says this.
    #[track_caller]
    pub(crate) fn tells(&self, check: &str, verdict: &str, words: &[&str]) -> &Self {
        let found = self.find(check);
        assert_eq!(found[1], verdict, "{check}: {}", self.text);
        for word in words {
            assert!(found[2].contains(word) || found[3].contains(word), "no {word:?} in {found:?}");
        }
        self
    }

    /// Beside these nothing is wrong, and what could not be looked at rests on them.
    #[track_caller]
    pub(crate) fn nothing_beside(&self, broken: &[&str]) {
        for [check, verdict, seen, _] in self.checks.iter().filter(|check| !broken.contains(&check[0].as_str())) {
            assert!(matches!(verdict.as_str(), "ok" | "skipped"), "{check} is {verdict}: {seen}\n{}", self.text);
            if let Some(cause) = seen.strip_prefix("because of ") {
                assert!(broken.contains(&cause), "{check} because of {cause}\n{}", self.text);
            }
        }
    }

    /// One thing is broken, and it alone is seen.
    #[track_caller]
    pub(crate) fn only(&self, check: &str, verdict: &str, words: &[&str]) {
        self.tells(check, verdict, words).nothing_beside(&[check]);
    }
}

pub(crate) fn doctor(setup: &Setup) -> Seen {
    Seen::of(&undisturbed(|| setup.clone().switch("--json").run_to_end("doctor")))
}

/// It has a second of its five for itself. Where others hold the machine up for longer, another look tells whether that was all.
fn undisturbed(look: impl Fn() -> Output) -> Output {
    let is_disturbed = |output: &Output| {
        let text = String::from_utf8_lossy(&output.stdout);
        is_late(output) || text.contains("no answer in time") || text.contains("could be asked for in time")
    };
    let mut output = look();
    for _ in 0..2 {
        if !is_disturbed(&output) {
            break;
        }
        output = look();
    }
    output
}

/// Whether the time was over before it had all that it waited for, by its own watch.
fn is_late(output: &Output) -> bool {
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let took = Duration::from_millis(told["milliseconds"].as_u64().unwrap_or_default());
    took > PROMISED || told.to_string().contains("did not come to an end")
}

/// A node that was registered with a testbed, whose directory is one that k3s would read.
fn node(testbed: &Testbed) -> Setup {
    let setup = with_manifests(quick(testbed));
    let (code, text) = said(&setup.run_to_end("register"));
    assert_eq!(code, 0, "{text}");
    setup
}

pub(crate) fn with_manifests(setup: Setup) -> Setup {
    let manifests = setup.home().join("server/manifests");
    fs::create_dir_all(&manifests).unwrap();
    setup.without("--directory").flag("--directory", manifests)
}

/// The agent of a node runs and is connected.
fn running(testbed: &Testbed, setup: &Setup) -> Agent {
    let agent = setup.spawn();
    testbed.held_poll(SOON);
    let file = setup.home().join("run/status.json");
    let deadline = Instant::now() + SOON;
    while !fs::read_to_string(&file).is_ok_and(|text| text.contains("\"connected\"")) {
        assert!(Instant::now() < deadline, "the status is written");
        std::thread::sleep(Duration::from_millis(20));
    }
    agent
}

/// A healthy node, with its agent.
fn well() -> (Testbed, Setup, Agent) {
    let testbed = Testbed::start();
    let setup = node(&testbed);
    let agent = running(&testbed, &setup);
    (testbed, setup, agent)
}

/// A node whose agent does not run, which is one warning.
pub(crate) fn at_rest() -> (Testbed, Setup) {
    let testbed = Testbed::start();
    let setup = node(&testbed);
    (testbed, setup)
}

#[test]
fn a_healthy_node_has_nothing_to_mend_and_nothing_is_taken_or_written() {
    let (testbed, setup, mut agent) = well();
    let listed = |path: &Path| {
        let mut files: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|file| (fs::read(&file).unwrap(), file)).collect::<Vec<_>>()
    };
    agent.stop();
    let (before, directory) = (listed(&setup.state_dir()), listed(&setup.home().join("server/manifests")));
    let waiting =
        testbed.enqueue("c1", crate::testbed::Job::apply(crate::testbed::job::config_map("clinic", "a", "x")));
    let posts = |testbed: &Testbed| testbed.requests().iter().filter(|seen| seen.method == "POST").count();
    let posted = posts(&testbed);
    let seen = doctor(&setup);
    seen.only("agent", "warning", &["not running", "systemctl start pullet"]);
    seen.tells("protocol", "ok", &["accepts the credential"]);
    assert_eq!(posts(&testbed), posted, "nothing is posted");
    assert_eq!(testbed.acks(&waiting), 0, "no job is taken");
    assert!(before == listed(&setup.state_dir()), "nothing is written");
    let agent = running(&testbed, &setup);
    let polls = testbed.requests_of(Call::Jobs).iter().filter(|seen| seen.query.is_none()).count();
    let seen = doctor(&setup);
    seen.nothing_beside(&[]);
    assert_eq!((seen.code, seen.find("protocol")[1].as_str()), (0, "ok"));
    seen.tells("protocol", "ok", &["the running agent is let in"]).tells(
        "clock",
        "ok",
        &["agrees with the control plane"],
    );
    let unauthenticated = testbed.requests_of(Call::Jobs).iter().filter(|seen| seen.query.is_none()).count();
    assert_eq!(unauthenticated, polls + 1, "the poll that is held is not disturbed by a second one");
    let (code, text) = said(&setup.run_to_end("doctor"));
    assert!(code == 0 && text.contains("all is well: 23 checks"), "{text}");
    drop((agent, directory));
}

#[test]
fn an_agent_that_is_not_registered_yet_is_seen() {
    let mut testbed = Testbed::start();
    let setup = with_manifests(quick(&testbed));
    testbed.down();
    let agent = setup.spawn();
    agent.wait_for_log("not registered yet; it is tried again", SOON);
    let status = setup.home().join("run/status.json");
    wait_until("its status says so", || {
        fs::read_to_string(&status).is_ok_and(|text| text.contains("cannot be reached"))
    });
    let seen = doctor(&setup);
    seen.tells("agent", "warning", &["not registered yet, and tries since 20", "cannot be reached"]);
    seen.tells("tcp", "failed", &["Connection refused"]).tells("credential", "warning", &["a one-time token waits"]);
    seen.tells("journal", "skipped", &["none yet"]);
    seen.nothing_beside(&["agent", "tcp", "credential"]);
}

#[test]
fn without_an_endpoint_there_is_nothing_to_ask() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    let output = Agent::run_to_end([
        "doctor",
        "--json",
        "--target=directory",
        "--directory=/tmp",
        "--state-dir",
        state.to_str().unwrap(),
    ]);
    let seen = Seen::of(&output);
    seen.tells("endpoint", "failed", &["nothing says where", "set endpoint"]);
    seen.tells("protocol", "skipped", &["because of endpoint"]);
    seen.tells("credential", "failed", &["not registered", "pullet register"]);
    seen.tells("state", "failed", &["pullet register makes"]);
    let text = said(&Agent::run_to_end(["doctor", "--state-dir", state.to_str().unwrap()])).1;
    assert!(
        text.contains("pullet: endpoint: nothing says where") && text.contains("more)"),
        "the first one last: {text}"
    );
}

#[test]
fn a_name_without_an_address_is_seen() {
    let (_testbed, setup) = at_rest();
    // Which is another one than that of the registration, too.
    let seen = doctor(&setup.clone().flag("--endpoint", "https://control.invalid"));
    seen.tells("dns", "failed", &["control.invalid has no address", "nslookup", "/etc/resolv.conf: "]);
    seen.tells("endpoint", "failed", &["issued by https://127.0.0.1"]);
    seen.nothing_beside(&["dns", "endpoint", "agent"]);
    let seen = doctor(&setup.clone().flag("--endpoint", "https://control.local"));
    seen.tells("dns", "failed", &["control.local has no address", "mDNS", "/etc/hosts"]);
}

/// With another /etc/resolv.conf, in a space of mounts of its own.
#[test]
#[ignore = "needs root, and mounts of its own"]
fn a_resolver_that_names_nobody_and_one_that_never_answers_are_told_apart() {
    let (_testbed, setup) = at_rest();
    let state = setup.home().join("new");
    let setup = setup.flag("--endpoint", "https://control.example").flag("--state-dir", state);
    let resolv = setup.home().join("resolv.conf");
    let with = |setup: &Setup, text: &str| {
        fs::write(&resolv, text).unwrap();
        in_mounts(setup, &format!("mount --bind {} /etc/resolv.conf", resolv.display()))
    };
    let seen = with(&setup, "# nothing\n");
    seen.tells("dns", "failed", &["none is named", "name a DNS server"]);
    // One that takes questions and says nothing.
    let silent = std::net::UdpSocket::bind("127.0.0.77:53").unwrap();
    let seen = with(&setup, "nameserver 127.0.0.77\n");
    seen.tells("dns", "failed", &["no answer in time", "127.0.0.77"]).tells("tcp", "skipped", &["because of dns"]);
    // Nor does it say where the proxy is and where the API server is.
    let kubeconfig = kubeconfig(&setup, "api.example");
    let setup = setup.without("--target").without("--directory").flag("--kubeconfig", kubeconfig);
    let seen = with(&setup.flag("--proxy", "http://proxy.example:3128"), "nameserver 127.0.0.77\n");
    seen.tells("dns", "failed", &["of the proxy: proxy.example", "no answer in time"]);
    seen.tells("api-server", "failed", &[]).tells("definitions", "skipped", &["because of api-server"]);
    drop(silent);
}

/// Runs the doctor after a script in a space of mounts of its own.
fn in_mounts(setup: &Setup, script: &str) -> Seen {
    Seen::of(&undisturbed(|| run_in_mounts(&setup.clone().switch("--json").prepare("doctor"), script)))
}

/// Runs a command after a script in a space of mounts of its own.
pub(crate) fn run_in_mounts(inner: &Command, script: &str) -> Output {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &format!("{script} && exec \"$@\""), "sh"]);
    command.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    run_to_end(command)
}

#[test]
fn a_proxy_that_refuses_is_not_there_or_says_nothing_is_seen() {
    let (testbed, setup, _agent) = well();
    let proxy = Proxy::start();
    let through = setup.clone().flag("--proxy", proxy.url());
    let seen = doctor(&through);
    seen.nothing_beside(&[]);
    seen.tells("proxy", "ok", &["lets us through"]).tells("tcp", "ok", &["through the proxy"]);
    for (status, words) in
        [(403, ["refuses the tunnel: 403", "allow CONNECT"]), (407, ["wants a user and a password", "user:password@"])]
    {
        proxy.refuse(Some(status));
        doctor(&through).only("proxy", "failed", &words);
    }
    proxy.refuse(Some(503));
    doctor(&through).only("tcp", "failed", &["does not reach the control plane: 503"]);
    proxy.refuse(None);
    proxy.ask_for("Basic dXNlcjpnZWhlaW00Mg==");
    let place = proxy.url().replace("http://", "");
    let wrong = setup.clone().flag("--proxy", format!("http://user:geheim43@{place}"));
    let seen = doctor(&wrong);
    seen.only("proxy", "failed", &["a password: 407"]);
    assert!(!seen.text.contains("geheim"), "{}", seen.text);
    doctor(&setup.clone().flag("--proxy", format!("http://user:geheim42@{place}"))).nothing_beside(&[]);
    let gone = Proxy::start().url();
    doctor(&setup.clone().flag("--proxy", gone)).only("proxy", "failed", &["no connection", "HTTPS_PROXY"]);
    doctor(&setup.clone().flag("--proxy", "http://proxy.invalid:3128")).only(
        "dns",
        "failed",
        &["of the proxy: proxy.invalid"],
    );
    // One that swallows what it gets.
    let swallowing = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = swallowing.local_addr().unwrap();
    let seen = doctor(&setup.clone().flag("--proxy", format!("http://{address}")));
    seen.only("proxy", "failed", &["does not answer as a proxy"]);
    // And one that is none.
    let other = format!("http://{}", testbed.endpoint().replace("https://", ""));
    doctor(&setup.clone().flag("--proxy", other)).tells("proxy", "failed", &["the port of an HTTP proxy?"]);
    doctor(&setup.env("HTTPS_PROXY", "http://proxy.invalid:1").env("NO_PROXY", "127.0.0.1")).nothing_beside(&[]);
}

#[test]
fn a_port_that_nobody_listens_on_is_seen() {
    let (mut testbed, setup, mut agent) = well();
    agent.stop();
    testbed.down();
    let seen = doctor(&setup);
    seen.tells("tcp", "failed", &["no connection", "refused", "does a firewall"]);
    seen.nothing_beside(&["tcp", "agent"]);
}

#[test]
fn what_is_wrong_with_a_certificate_is_told() {
    for (certificate, words) in [
        (
            Certificate::OtherAuthority,
            ["by an authority that is not trusted here", "it says it is by Testbed authority", "ca_file"],
        ),
        (Certificate::OtherName, ["for another name", "", "endpoint"]),
        (Certificate::Expired, ["has expired", "", "renewed"]),
        (Certificate::NotYetValid, ["not valid yet", "", "set the clock"]),
    ] {
        let (mut testbed, setup) = at_rest();
        testbed.change_certificate(certificate);
        if certificate != Certificate::OtherAuthority {
            // The authority is trusted, and nothing else is right.
            let testbed = Testbed::with(Options { certificate, ..Options::default() });
            let setup = with_manifests(quick(&testbed));
            let seen = doctor(&setup);
            seen.tells("tls", "failed", &words);
            seen.nothing_beside(&["tls", "agent", "credential"]);
            continue;
        }
        let seen = doctor(&setup);
        seen.tells("tls", "failed", &words);
        seen.nothing_beside(&["tls", "agent"]);
    }
    let (_testbed, setup) = at_rest();
    let empty = setup.home().join("empty.pem");
    fs::write(&empty, "").unwrap();
    let seen = doctor(&setup.flag("--ca-file", empty));
    seen.tells("tls", "failed", &["holds no PEM certificate"]);
    seen.nothing_beside(&["tls", "agent"]);
}

#[test]
fn a_certificate_that_ends_soon_is_a_warning() {
    let (_testbed, setup) = at_rest();
    let server =
        tls_server(Duration::from_hours(72), |out| out.write_all(b"HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n"));
    let seen = doctor(&elsewhere(&setup, server));
    seen.tells("tls", "warning", &["is good for ", "by An authority of its own", "renewed before that"]);
}

/// A server of ours whose certificate ends after this time, and that answers each connection as it is told. Its address, and
/// its authority in PEM.
fn tls_server(
    life: Duration,
    answer: impl Fn(&mut dyn std::io::Write) -> std::io::Result<()> + Send + 'static,
) -> (String, String) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "An authority of its own");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.not_after = (std::time::SystemTime::now() + life).into();
    let leaf = params.signed_by(&key, &authority).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let config = rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("https://{}", listener.local_addr().unwrap());
    let config = std::sync::Arc::new(config);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut tls = rustls::StreamOwned::new(connection, stream);
            let _ = tls.read(&mut [0; 4096]);
            let _ = answer(&mut tls).and_then(|()| tls.flush());
        }
    });
    (endpoint, authority.pem())
}

/// The same node with another control plane, with which it was not registered.
fn elsewhere(setup: &Setup, (endpoint, authority): (String, String)) -> Setup {
    let ca = setup.home().join("elsewhere.pem");
    fs::write(&ca, authority).unwrap();
    setup.clone().flag("--state-dir", setup.home().join("new")).flag("--ca-file", ca).flag("--endpoint", endpoint)
}

#[test]
fn a_client_certificate_that_is_missing_refused_or_over_is_seen() {
    let clients = std::sync::Arc::new(Clients::new());
    let testbed = Testbed::with(Options { clients: Some(std::sync::Arc::clone(&clients)), ..Options::default() });
    let setup = with_manifests(quick(&testbed));
    let put = |name: &str, text: &str| {
        let file = setup.home().join(name);
        write_secret(&file, text);
        file
    };
    let seen = doctor(&setup);
    seen.tells("certificate", "failed", &["refuses what we show", "client_cert"]);
    seen.nothing_beside(&["certificate", "agent", "credential"]);
    let (chain, key) = clients.issue();
    let set = setup.clone().flag("--client-cert", put("c", &chain)).flag("--client-key", put("k", &key));
    assert_eq!(set.run_to_end("register").status.code(), Some(0));
    let seen = doctor(&set);
    seen.tells("certificate", "ok", &["is good for"]);
    seen.nothing_beside(&["agent"]);
    let (chain, key) = Clients::new().issue();
    let foreign = set.clone().without("--client-cert").without("--client-key");
    let foreign = foreign.flag("--client-cert", put("fc", &chain)).flag("--client-key", put("fk", &key));
    let seen = doctor(&foreign);
    seen.tells("certificate", "failed", &["refuses what we show", "trust it"]);
    seen.nothing_beside(&["certificate", "agent"]);
    fs::set_permissions(setup.home().join("fk"), Permissions::from_mode(0o644)).unwrap();
    let seen = doctor(&foreign);
    seen.tells("certificate", "failed", &["others can read"]);
    seen.nothing_beside(&["certificate", "agent"]);
    // One that is over, and that nobody asks for.
    let plain = Testbed::start();
    let setup = node(&plain);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["node.example".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let over = params.self_signed(&key).unwrap();
    let over = setup
        .clone()
        .flag("--client-cert", put("oc", &over.pem()))
        .flag("--client-key", put("ok", &key.serialize_pem()));
    let seen = doctor(&over);
    seen.tells("certificate", "failed", &["ended", "ago", "renew the files"]);
    seen.nothing_beside(&["certificate", "agent"]);
}

#[test]
fn a_clock_that_is_wrong_is_seen() {
    let (testbed, setup, _agent) = well();
    let unauthenticated = |date: &str| {
        let body = r#"{"error":"Unauthenticated","message":"m","requestId":"r"}"#;
        testbed.fault(Call::Jobs, 1, Fault::Answer(Answer::of(401, MEDIA_TYPE, body).with("date", date)));
        doctor(&setup)
    };
    // The poll that is held has had its answer; a short one may take the fault, so it is given until it is seen.
    let until = |date: &str, words: &str| {
        let deadline = Instant::now() + SOON;
        loop {
            let seen = unauthenticated(date);
            if seen.find("clock")[1] == "failed" {
                seen.tells("clock", "failed", &[words, "timedatectl"]);
                break;
            }
            assert!(Instant::now() < deadline, "{}", seen.text);
        }
    };
    until("Sat, 01 Jan 2050 00:00:00 GMT", "days behind the control plane");
    until("Sat, 01 Jan 2000 00:00:00 GMT", "days ahead of the control plane");
    // A floor in the future.
    let (_testbed, setup) = at_rest();
    fs::write(setup.state_dir().join("clock.json"), r#"{"version":1,"confirmed":2500000000}"#).unwrap();
    if !Path::new("/run/systemd/timesync/synchronized").exists() {
        let seen = doctor(&setup);
        seen.tells("clock", "failed", &["behind a time that was confirmed before", "--reset-clock"]);
        seen.nothing_beside(&["clock", "agent"]);
    }
}

#[test]
fn an_answer_that_is_none_of_the_control_plane_is_seen() {
    let (testbed, setup) = at_rest();
    for (fault, words) in [
        (Fault::status(401), ["does not accept the credential", "pullet register --force"]),
        (Fault::status(403), ["does not let this agent act", "restore its access"]),
        (Fault::status(404), ["no agent API there", "the path of endpoint"]),
        (Fault::status(429), ["is busy", "wait"]),
        (Fault::status(503), ["broken or busy", "look there"]),
        (Fault::html(200), ["something answered that is not the control plane (200", "captive portal"]),
        (Fault::html(401), ["something answered that is not the control plane (401", "captive portal"]),
        (Fault::redirect(302, "https://elsewhere.example/"), ["a redirect", "into endpoint"]),
        (Fault::CutBeforeHead, ["TLS is fine, but then", "look at the control plane"]),
        (Fault::NotHttp, ["TLS is fine, but then", "no HTTP"]),
        (Fault::LongHead(200_000), ["TLS is fine, but then", "no HTTP"]),
        (Fault::Silence, ["TLS is fine, but then", "no answer in time"]),
    ] {
        testbed.fault_until_cleared(Call::Jobs, fault.clone());
        let seen = doctor(&setup);
        seen.tells("protocol", "failed", &words);
        seen.nothing_beside(&["protocol", "agent"]);
        testbed.clear_faults();
    }
    // A body without an end is not read to it.
    for fault in [Fault::EndlessJobs, Fault::EndlessSpace, Fault::SilenceInBody] {
        testbed.fault_until_cleared(Call::Jobs, fault);
        doctor(&setup).only("agent", "warning", &["not running"]);
        testbed.clear_faults();
    }
}

/// Garbage in the place of TLS, and a body of an error without an end.
#[test]
fn a_hostile_answer_is_an_end_and_not_a_hang() {
    let (_testbed, setup) = at_rest();
    let state = setup.home().join("new");
    for garbage in [&b"\x16\x03\x03\xff\xff"[..], b"SSH-2.0-OpenSSH_9.2\r\n", &[0xff; 9_000], b""] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("https://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(garbage);
                let _ = stream.read(&mut [0; 4096]);
            }
        });
        let seen = doctor(&setup.clone().flag("--state-dir", &state).flag("--endpoint", endpoint));
        seen.tells("tls", "failed", &[]).tells("tcp", "ok", &["connected"]).tells(
            "protocol",
            "skipped",
            &["because of tls"],
        );
    }
    // It says 401, and never stops saying why.
    let endless = tls_server(Duration::from_hours(1000), |out| {
        write!(out, "HTTP/1.1 401 x\r\nContent-Type: {MEDIA_TYPE}\r\n\r\n{{\"error\":\"")?;
        loop {
            out.write_all(&[b'x'; 4096])?;
        }
    });
    let seen = doctor(&elsewhere(&setup, endless));
    seen.tells("protocol", "failed", &["something answered that is not the control plane (401"]);
}

/// One of an API server at this host, or host and port.
fn kubeconfig(setup: &Setup, server: &str) -> std::path::PathBuf {
    let file = setup.home().join("kubeconfig");
    let text = format!(
        "current-context: it\nclusters:\n- name: it\n  cluster: {{server: 'https://{server}'}}\ncontexts:\n- name: it\n  context: \
         {{cluster: it, user: it}}\nusers:\n- name: it\n  user: {{token: abcdefghijklmnopqrstuv}}\n"
    );
    write_secret(&file, &text);
    file
}

/// What this program takes on this machine, as it is now, to start, to say a word and to end.
fn start_and_end() -> Duration {
    let one = || {
        let begin = Instant::now();
        assert!(Agent::run_to_end(["version"]).status.success());
        begin.elapsed()
    };
    (0..3).map(|_| one()).max().unwrap()
}

#[test]
fn whatever_hangs_it_is_over_in_the_time_that_is_promised() {
    let (_testbed, setup) = at_rest();
    // All of them take connections and say nothing.
    let [control, api, proxy] = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [control_at, api_at, proxy_at] = [&control, &api, &proxy].map(|socket| socket.local_addr().unwrap());
    let kubeconfig = kubeconfig(&setup, &api_at.to_string());
    let hanging = setup
        .clone()
        .without("--target")
        .without("--directory")
        .flag("--kubeconfig", &kubeconfig)
        .flag("--state-dir", setup.home().join("new"));
    let by_cluster = hanging.clone().flag("--cluster-resource", "*");
    let hanging = hanging.flag("--endpoint", format!("https://{control_at}"));
    let by_proxy = hanging.clone().flag("--proxy", format!("http://{proxy_at}"));
    // It says one letter after the other, and never comes to the end of its head.
    let slow = tls_server(Duration::from_hours(1000), |out| {
        write!(out, "HTTP/1.1 401 x\r\nX-Letters: ")?;
        loop {
            out.write_all(b"x").and_then(|()| out.flush())?;
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let by_letters = elsewhere(&hanging.clone().without("--state-dir").without("--endpoint"), slow);
    // In one of three looks the machine is held up by nothing else.
    let look = |setup: Setup| {
        let mut times = Vec::new();
        while times.len() < 3 {
            let (start, begin) = (start_and_end(), Instant::now());
            let output = setup.clone().switch("--json").run_to_end("doctor");
            let took = begin.elapsed();
            assert!(took > Duration::from_secs(3), "it was waited for: {took:?}");
            if took.saturating_sub(start) <= PROMISED && !is_late(&output) {
                return Seen::of(&output);
            }
            times.push((took, start));
        }
        panic!("{times:?}, with what it takes to start and to end");
    };
    let [plain, by_proxy, by_letters, by_cluster] = std::thread::scope(|scope| {
        [hanging, by_proxy, by_letters, by_cluster]
            .map(|setup| scope.spawn(|| look(setup)))
            .map(|looking| looking.join().unwrap())
    });
    plain.tells("tls", "failed", &["connected, but there is no TLS"]);
    plain.tells("protocol", "skipped", &["because of tls"]);
    by_proxy.tells("proxy", "failed", &["does not answer as a proxy"]).tells("tls", "skipped", &["because of proxy"]);
    by_letters.tells("tls", "ok", &[]).tells("protocol", "failed", &["TLS is fine, but then"]);
    by_cluster.tells("credential", "failed", &["no answer"]).tells("protocol", "ok", &["the agent API answers"]);
    for seen in [plain, by_proxy, by_letters, by_cluster] {
        seen.tells("api-server", "failed", &["does not answer", "systemctl status k3s"]);
        seen.tells("definitions", "skipped", &["because of api-server"]);
        seen.tells("rights", "skipped", &["because of api-server"]);
    }
    drop((control, api, proxy));
}

#[test]
fn a_credential_that_is_missing_open_damaged_foreign_or_over_is_seen() {
    let (_testbed, setup) = at_rest();
    let file = setup.state_dir().join("credential.json");
    let whole = fs::read_to_string(&file).unwrap();
    doctor(&setup).tells("credential", "ok", &["of c1, closed to others"]);
    fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
    let seen = doctor(&setup);
    seen.tells("credential", "failed", &["open to group or others", "chmod 0600"]);
    seen.nothing_beside(&["credential", "agent"]);
    for damaged in [&whole[..whole.len() / 2], "", "[]", &(whole.clone() + "x"), &"x".repeat(65_537)] {
        write_secret(&file, damaged);
        doctor(&setup).tells("credential", "failed", &[]).nothing_beside(&["credential", "agent"]);
    }
    write_secret(&file, &whole);
    let elsewhere = setup.home().join("another");
    fs::create_dir_all(elsewhere.join("etc")).unwrap();
    fs::write(elsewhere.join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
    let seen = doctor(&setup.clone().env("PULLET_MACHINE_ROOT", &elsewhere));
    // Where this machine has no marks of its own nobody can tell.
    if Path::new("/etc/machine-id").exists() {
        seen.tells("credential", "failed", &["belongs to another machine", "--force"]);
        seen.nothing_beside(&["credential", "agent"]);
    }
    fs::remove_file(&file).unwrap();
    let seen = doctor(&setup);
    seen.tells("credential", "warning", &["a one-time token waits"]);
    fs::remove_file(setup.home().join("token")).unwrap();
    let seen = doctor(&setup);
    seen.tells("credential", "failed", &["not registered", "pullet register"]);
    seen.tells("protocol", "ok", &["no credential to show yet"]);
    seen.nothing_beside(&["credential", "agent"]);
}

#[test]
fn when_a_credential_ends_is_told() {
    let testbed = Testbed::start();
    testbed.behave(|behaviour| behaviour.bearer_life = Some(Duration::from_secs(3)));
    let setup = node(&testbed);
    std::thread::sleep(Duration::from_secs(4));
    let seen = doctor(&setup);
    seen.tells("credential", "failed", &["it ended", "ago"]);
    seen.tells("protocol", "failed", &["does not accept the credential (401"]);
    testbed.behave(|behaviour| behaviour.bearer_life = Some(Duration::from_hours(240)));
    let setup = with_manifests(quick(&testbed));
    assert_eq!(setup.run_to_end("register").status.code(), Some(0));
    doctor(&setup).tells("credential", "ok", &["it ends in "]);
}

#[test]
fn a_state_directory_that_is_open_or_a_link_is_seen() {
    let (_testbed, setup) = at_rest();
    fs::set_permissions(setup.state_dir(), Permissions::from_mode(0o770)).unwrap();
    let seen = doctor(&setup);
    seen.tells("state", "failed", &["can be written by others", "chmod go-w"]);
    seen.nothing_beside(&["state", "agent"]);
    fs::set_permissions(setup.state_dir(), Permissions::from_mode(0o700)).unwrap();
    let link = setup.home().join("link");
    std::os::unix::fs::symlink(setup.state_dir(), &link).unwrap();
    let seen = doctor(&setup.clone().flag("--state-dir", link));
    seen.tells("state", "failed", &["a link to one", "name the directory itself"]);
    // Of the two the cause is told first.
    seen.tells("credential", "skipped", &["because of state"]);
}

#[test]
#[ignore = "needs root, and mounts of its own"]
fn a_disk_that_is_full_read_only_or_none_is_seen() {
    let (_testbed, setup) = at_rest();
    let (state, copy) = (setup.state_dir(), setup.home().join("copy"));
    assert!(Command::new("cp").arg("-a").args([&state, &copy]).status().unwrap().success());
    let (at, from) = (state.display(), copy.display());
    let fill = |size: &str| format!("mount -t tmpfs -o mode=700,size={size} none {at} && cp -a {from}/. {at}/");
    let seen = in_mounts(&setup, &fill("64m"));
    seen.tells("medium", "warning", &["in memory: gone with the next boot (tmpfs)"]);
    seen.nothing_beside(&["medium", "agent"]);
    let seen = in_mounts(&setup, &fill("128k"));
    seen.tells("state", "failed", &["are needed", "make room"]);
    seen.nothing_beside(&["state", "medium", "agent"]);
    let seen = in_mounts(&setup, &format!("mount --bind {at} {at} && mount -o remount,ro,bind {at}"));
    seen.tells("state", "failed", &["mounted read-only", "a card that fails"]);
    seen.nothing_beside(&["state", "agent"]);
    let (up, work) = (setup.home().join("up"), setup.home().join("work"));
    for directory in [&up, &work] {
        fs::create_dir(directory).unwrap();
    }
    let seen = in_mounts(
        &setup,
        &format!(
            "mount -t tmpfs none {work} && mkdir {work}/u {work}/w && mount -t overlay -o \
             lowerdir={from},upperdir={work}/u,workdir={work}/w none {at}",
            work = work.display()
        ),
    );
    seen.tells("medium", "warning", &["on an overlay", "volume"]);
    seen.nothing_beside(&["medium", "agent"]);
}

/// Root looks as the agent's user: what that one may not do is seen.
#[test]
#[ignore = "needs root, to be somebody else"]
fn root_looks_as_the_owner_of_the_state_directory() {
    let (_testbed, setup) = at_rest();
    let nobody = 65_534;
    fs::set_permissions(setup.home(), Permissions::from_mode(0o755)).unwrap();
    for path in fs::read_dir(setup.state_dir()).unwrap().map(|entry| entry.unwrap().path()) {
        chown(path, Some(nobody), Some(nobody)).unwrap();
    }
    chown(setup.state_dir(), Some(nobody), Some(nobody)).unwrap();
    let seen = doctor(&setup);
    seen.tells("credential", "ok", &["of c1"]).tells("state", "ok", &[]);
    seen.tells("directory", "failed", &["may not be written", "ReadWritePaths="]);
    chown(setup.home().join("server/manifests"), Some(nobody), Some(nobody)).unwrap();
    doctor(&setup).tells("directory", "ok", &[]).nothing_beside(&["agent"]);
}

#[test]
fn a_journal_that_is_damaged_or_of_a_newer_program_is_seen() {
    let (testbed, setup, mut agent) = well();
    doctor(&setup).tells("journal", "ok", &["whole"]);
    let job = testbed.apply("c1", crate::testbed::job::config_map("clinic", "a", "x"));
    testbed.result_of(&job, SOON);
    agent.stop();
    let file = setup.state_dir().join("journal");
    let whole = fs::read(&file).unwrap();
    // The newest page stays: the one before it is torn.
    let pages: Vec<usize> =
        (0..whole.len() / 4096).filter(|page| whole[page * 4096..page * 4096 + 8] != [0; 8]).collect();
    assert!(pages.len() > 1, "{pages:?}");
    let mut torn = whole.clone();
    torn[pages[0] * 4096 + 200..pages[0] * 4096 + 300].fill(0xa5);
    fs::write(&file, &torn).unwrap();
    let seen = doctor(&setup);
    seen.tells("journal", "warning", &["cannot be read", "replace it"]);
    seen.nothing_beside(&["journal", "agent"]);
    assert_eq!(fs::read(&file).unwrap(), torn, "it is looked at, and not mended");
    fs::write(&file, whole).unwrap();
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
    doctor(&setup).tells("journal", "failed", &["cannot be read"]).nothing_beside(&["journal", "agent"]);
}

#[test]
fn a_directory_that_is_missing_or_that_k3s_does_not_read_is_seen() {
    let (_testbed, setup) = at_rest();
    let seen = doctor(&setup.clone().without("--directory").flag("--directory", "/nonexistent/manifests"));
    seen.tells("directory", "failed", &["/nonexistent/manifests is not there", "make it"]);
    seen.nothing_beside(&["directory", "agent"]);
    let seen = doctor(&setup.clone().without("--directory").flag("--directory", setup.directory()));
    seen.tells("directory", "note", &["k3s does not read it by itself"]);
    seen.nothing_beside(&["directory", "agent"]);
}

#[test]
fn an_agent_that_is_not_connected_or_tells_nothing_is_seen() {
    let (testbed, setup, agent) = well();
    testbed.fault_until_cleared(Call::Jobs, Fault::status(503));
    testbed.cut_connections();
    agent.wait_for_log("not connected; the cluster goes on", SOON);
    let deadline = Instant::now() + SOON;
    loop {
        let seen = doctor(&setup);
        if seen.find("agent")[1] == "warning" {
            seen.tells("agent", "warning", &["not connected since"]).tells("protocol", "failed", &["503"]);
            seen.nothing_beside(&["agent", "protocol"]);
            break;
        }
        assert!(Instant::now() < deadline, "{}", seen.text);
    }
    let silent = setup.clone().flag("--status-file", setup.home().join("elsewhere.json"));
    let pid = agent.pid().to_string();
    doctor(&silent).tells("agent", "note", &[&format!("process {pid} uses the state directory"), "--status-file"]);
}

/// The limit is the agent's own: that of its group.
#[test]
#[ignore = "needs the memory cgroup of version 1"]
fn a_memory_limit_that_is_too_small_is_seen() {
    let (testbed, setup, agent) = well();
    let group = Path::new("/sys/fs/cgroup/memory").join(format!("pullet-doctor-{}", std::process::id()));
    fs::create_dir(&group).unwrap();
    let leave = || {
        let _ = fs::write("/sys/fs/cgroup/memory/cgroup.procs", agent.pid().to_string());
        let _ = fs::remove_dir(&group);
    };
    let enter = || {
        fs::write(group.join("memory.limit_in_bytes"), "15728640").unwrap();
        fs::write(group.join("cgroup.procs"), agent.pid().to_string()).unwrap();
        let small = doctor(&setup);
        fs::write(group.join("memory.limit_in_bytes"), "16777216").unwrap();
        (small, doctor(&setup))
    };
    let (small, enough) = enter();
    leave();
    small.only("memory", "warning", &["15360 kB for the agent", "MemoryMax="]);
    enough.nothing_beside(&[]);
    drop(testbed);
}

#[test]
fn a_kernel_that_is_too_old_is_seen() {
    let (_testbed, setup) = at_rest();
    let inner = setup.clone().switch("--json").prepare("doctor");
    let mut command = Command::new("setarch");
    command.args([std::env::consts::ARCH, "--uname-2.6"]).arg(inner.get_program()).args(inner.get_args());
    let seen = Seen::of(&run_to_end(command));
    seen.tells("machine", "warning", &["Linux 2.6.", "update the system"]);
    seen.nothing_beside(&["machine", "agent"]);
}

#[test]
fn a_configuration_that_is_wrong_is_wrong_usage_and_no_finding() {
    let output = Agent::run_to_end(["doctor", "--endpoint", "ftp://x"]);
    let (code, text) = said(&output);
    assert!(code == 2 && text.contains("endpoint"), "{text}");
}

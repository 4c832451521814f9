//! No secret and no payload is ever written where somebody could read it.

use std::fs;
use std::thread;

use serde_json::{Value, json};

use crate::agent::{Agent, CLUSTER, Setup};
use crate::scene::{SOON, apply, quick, said, succeeds};
use crate::testbed::job::{application_instance, config_map};
use crate::testbed::{Call, Fault, Job, Proxy, Testbed};

/// A value in every payload. What a job is about (its kind and intent, the names of its object) is named in the log.
const MARKER: &str = "geheimnis-der-klinik";

const PASSWORD: &str = "proxypasswort";

/// Every bearer that the agent ever stored, and the one-time token.
#[derive(Default)]
struct Secrets(Vec<String>);

impl Secrets {
    fn add(&mut self, secret: &str) {
        if !secret.is_empty() && !self.0.iter().any(|known| known == secret) {
            self.0.push(secret.to_owned());
        }
    }

    fn add_stored(&mut self, setup: &Setup) {
        let text = fs::read_to_string(setup.state_dir().join("credential.json")).expect("there is a credential");
        let stored: Value = serde_json::from_str(&text).unwrap();
        for bearer in ["current", "previous"] {
            self.add(stored[bearer]["token"].as_str().unwrap_or_default());
            self.add(stored[bearer]["macKey"].as_str().unwrap_or_default());
        }
        for key in ["identity", "payload"] {
            self.add(stored["keys"][key].as_str().expect("the node has keys"));
        }
    }

    #[track_caller]
    fn are_not_in(&self, place: &str, text: &str) {
        for secret in &self.0 {
            assert!(!text.contains(secret.as_str()), "{secret} is in {place}");
        }
    }
}

/// Jobs of every fate, each with the marker: done, refused, malformed, too large, expired, duplicate.
fn jobs() -> Vec<Value> {
    let secret = || config_map("clinic", "patients", MARKER);
    let deep = (0..64).fold(json!(MARKER), |inner, _| json!([inner]));
    vec![
        Job::apply(secret()).into(),
        Job::apply(config_map("kube-system", "never", MARKER)).into(),
        Job::apply(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "clinic"},
                          "stringData": {"password": MARKER}}))
        .into(),
        Job::apply(json!({"apiVersion": 7, "kind": MARKER})).into(),
        Job::apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": 7, "x": MARKER}})).into(),
        Job::apply(json!(MARKER)).into(),
        Job::apply(json!([MARKER])).into(),
        Job::apply(Value::Null).with("note", MARKER).into(),
        Job::apply(config_map("clinic", "deep", MARKER)).with("extra", deep).into(),
        Job::apply(config_map("clinic", "big", &MARKER.repeat(20_000))).into(),
        Job::apply(secret()).expires_in(-60).into(),
        Job::apply(secret()).with("idempotencyKey", "same").into(),
        Job::apply(secret()).with("idempotencyKey", "same").into(),
        Job::apply(secret()).with("expiresAt", MARKER).into(),
        Job::apply(secret()).with("signature", MARKER).into(),
        Job::apply(secret()).without("payload").with("encryptedPayload", MARKER).into(),
        Job::new("frobnicate", secret()).into(),
        Job::intent("frobnicate", json!({"x": MARKER})).into(),
        Job::intent("ensure-application-instance", json!({"applicationInstance": MARKER})).into(),
        Job::intent("ensure-application-instance", json!({"applicationInstance": application_instance("clinic", "a")}))
            .into(),
        Job::delete("v1", "ConfigMap", "clinic", "nothing").with("reason", MARKER).into(),
    ]
}

/// Faults in whose texts a careless program would quote what it sent or got, by rounds: a call that fails
/// again and again is tried ever more rarely.
fn faults() -> Vec<Vec<(Call, Fault)>> {
    vec![
        vec![(Call::Jobs, Fault::CutInBody), (Call::Ack, Fault::LostAnswer), (Call::Rotate, Fault::CutInBody)],
        vec![(Call::Jobs, Fault::html(200)), (Call::Result, Fault::status(400)), (Call::Ack, Fault::html(403))],
        vec![
            (Call::Ack, Fault::status(401)),
            (Call::Events, Fault::LongHead(20_000)),
            (Call::Rotate, Fault::html(200)),
        ],
        vec![
            (Call::Jobs, Fault::redirect(307, "https://elsewhere.example/?next=1")),
            (Call::Result, Fault::CutBeforeHead),
            (Call::Status, Fault::NotHttp),
        ],
    ]
}

/// Each round with an agent of its own.
fn nothing_secret_is_said(format: &str) {
    let (jobs, faults) = (jobs(), faults());
    thread::scope(|scope| {
        for (jobs, faults) in jobs.chunks(jobs.len().div_ceil(faults.len())).zip(&faults) {
            scope.spawn(move || nothing_secret_is_said_of(format, jobs, faults));
        }
    });
}

fn nothing_secret_is_said_of(format: &str, jobs: &[Value], faults: &[(Call, Fault)]) {
    let (testbed, proxy) = (Testbed::start(), Proxy::start());
    proxy.ask_for("Basic dXNlcjpwcm94eXBhc3N3b3J0");
    let setup = quick(&testbed)
        .without("--log-level")
        .flag("--log-level", "trace")
        .flag("--log-format", format)
        .env("HTTPS_PROXY", proxy.url().replace("://", &format!("://user:{PASSWORD}@")))
        .env("RUST_LOG", "trace");
    let mut secrets = Secrets::default();
    let one_time = fs::read_to_string(setup.home().join("token")).unwrap();
    secrets.add(one_time.trim());
    secrets.add(PASSWORD);
    secrets.add("dXNlcjpwcm94eXBhc3N3b3J0");

    // A registration that fails says nothing of the token, and one that succeeds neither.
    testbed.fault(Call::Register, 1, Fault::status(400));
    let (code, text) = said(&setup.run_to_end("register"));
    assert_eq!(code, 1, "{text}");
    secrets.are_not_in("what register wrote when it failed", &text);
    let (code, text) = said(&setup.run_to_end("register"));
    assert_eq!(code, 0, "{text}");
    secrets.add_stored(&setup);
    secrets.are_not_in("what register wrote", &text);

    let mut agent = setup.spawn();
    testbed.held_poll(SOON);
    for (call, fault) in faults {
        testbed.fault(*call, 1, fault.clone());
    }
    testbed.raw_answer(format!("{{\"jobs\":[{{\"id\":\"broken\",\"x\":\"{MARKER}\""));
    let mut ids = testbed.enqueue_all(CLUSTER, jobs.iter().cloned());
    ids.push(testbed.intent(CLUSTER, "rotate-operator-credentials", Value::Null));
    for id in &ids {
        testbed.wait_for(&format!("the answer to {id}"), SOON, |state| {
            let job = state.jobs.iter().find(|job| job.id == *id)?;
            // A result that was refused with a 400 is given up.
            (job.result.is_some() || state.requests.iter().any(|seen| is_refused(seen, id))).then_some(())
        });
    }
    secrets.add_stored(&setup);
    for name in ["cmdline", "environ"] {
        let bytes = fs::read(format!("/proc/{}/{name}", agent.pid())).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let mut others = Secrets::default();
        // The environment has the proxy's password by its owner's own choice.
        secrets
            .0
            .iter()
            .filter(|secret| name == "cmdline" || **secret != PASSWORD)
            .for_each(|secret| others.add(secret));
        others.are_not_in(name, &text);
    }
    let last = apply(&testbed, "last");
    succeeds(&testbed, &last, SOON);
    testbed.revoke(CLUSTER);
    agent.wait_for_log("no jobs until the control plane lets this agent in again", SOON);
    secrets.add_stored(&setup);
    agent.stop();
    assert!(secrets.0.len() >= 5, "one-time token, password twice, two bearers at least: {}", secrets.0.len());
    let log = agent.log();
    assert!(log.contains("the job ended") && log.contains("a new credential is in use"), "{log}");
    secrets.are_not_in("the log", &log);
    assert!(!log.contains(MARKER), "a payload is in the log: {:?}", log.lines().find(|line| line.contains(MARKER)));
    // Nothing but the credential itself holds a bearer.
    for entry in fs::read_dir(setup.state_dir()).unwrap().map(Result::unwrap) {
        if entry.file_name() != "credential.json" {
            secrets.are_not_in("the state directory", &String::from_utf8_lossy(&fs::read(entry.path()).unwrap()));
        }
    }
}

fn is_refused(seen: &crate::testbed::Seen, id: &str) -> bool {
    seen.path.ends_with(&format!("/{id}/result")) && seen.answered.is_some_and(|(_, status)| status == 400)
}

#[test]
fn no_secret_is_in_a_log_for_people() {
    nothing_secret_is_said("text");
}

#[test]
fn no_secret_is_in_a_log_for_programs() {
    nothing_secret_is_said("json");
}

#[test]
fn a_token_is_given_by_file_or_stdin_and_by_nothing_else() {
    let testbed = Testbed::start();
    let token = testbed.issue_token(Some(CLUSTER));
    for flag in ["--token", "--registration-token", "--bearer"] {
        let output = Agent::run_to_end(["register", flag, token.as_str()]);
        let (code, text) = said(&output);
        assert_eq!(code, 2);
        assert!(text.contains("there is no flag") && !text.contains(&token), "{text}");
    }
    let setup = quick(&testbed).without("--token-file").env("PULLET_TOKEN", &token).env("TOKEN", &token);
    let (code, text) = said(&setup.run_to_end("register"));
    assert!(code == 2 && text.contains("token_file is missing"), "{text}");
}

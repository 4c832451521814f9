//! `pullet check`: what it says of a job, and that it does nothing.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use pullet::limits;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::agent::{Agent, CLUSTER};
use crate::scene::{SOON, quick, says};
use crate::testbed::job::{application_instance, config_map, operation};
use crate::testbed::owner::{Owner, sha256};
use crate::testbed::{Call, Job, Testbed};

/// Checks a text from standard input.
fn check(text: &[u8], flags: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pullet"));
    command.args(["check", "-"]).args(flags);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may end before it has read all of a text that is too long.
    let _ = child.stdin.take().unwrap().write_all(text);
    child.wait_with_output().unwrap()
}

fn report(job: Job, flags: &[&str]) -> (i32, Value) {
    let output = check(Value::from(job).to_string().as_bytes(), &[flags, &["--json"]].concat());
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn an_admitted_job_ends_with_0_and_says_what_is_left_to_the_target() {
    let job = Job::apply(application_instance("shop", "wiki")).with("id", "j1");
    let text = Value::from(job.clone()).to_string();
    says(
        &check(text.as_bytes(), &[]),
        0,
        &["job       j1", "action    apply ApplicationInstance shop/wiki", "admitted", "managed-by=vworkspace"],
    );
    let (code, report) = report(job, &["--allow-namespace", "shop"]);
    let passed = json!(["limits", "job", "signature", "expiry", "payload", "policy"]);
    let action = "apply ApplicationInstance shop/wiki";
    assert_eq!((code, report), (0, json!({"job": "j1", "action": action, "passed": passed})));
}

#[test]
fn a_refused_job_ends_with_1_and_names_the_clause_that_stopped_it() {
    for (job, clause, reason) in [
        (Job::apply(config_map("shop", "a", "1")), "policy", "KindNotAllowed"),
        (Job::apply(application_instance("kube-system", "a")), "policy", "NamespaceNotAllowed"),
        (Job::apply(json!({"apiVersion": "v1", "kind": "A", "metadata": {}})), "payload", "InvalidManifest"),
        (Job::apply(operation("shop", "a")).expires_in(-5), "expiry", "expired"),
        (Job::apply(operation("shop", "a")).with("kind", 7), "job", "MalformedJob"),
        (Job::apply(Value::Null), "payload", "NoPayload"),
        (Job::apply(json!(vec![0; limits::JOB_NODES])), "limits", "job_nodes"),
    ] {
        let (code, report) = report(job, &[]);
        assert_eq!(code, 1, "{report}");
        assert_eq!(report["stopped"]["clause"], clause, "{report}");
        assert_eq!(report["stopped"]["reason"], reason, "{report}");
        assert!(report["stopped"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{report}");
        assert!(!report["passed"].as_array().unwrap().contains(&json!(clause)), "{report}");
    }
    let output = check(br#"{"id":"a","kind":"dance","payload":{}}"#, &[]);
    says(&output, 1, &["stopped   an instruction that can be read", "pullet: refused: UnknownJobKind: "]);
}

#[test]
fn the_policy_is_that_of_the_flags_and_of_the_file() {
    let home = TempDir::new().unwrap();
    let config = home.path().join("pullet.toml");
    let file = home.path().join("job.json");
    let mut manifest = application_instance("shop", "wiki");
    manifest["spec"] = json!({"chart": {"sourceType": "helm", "url": "https://charts.example.org", "name": "wiki"}});
    fs::write(&file, Value::from(Job::apply(manifest)).to_string()).unwrap();
    fs::write(&config, "allow_chart = [\"https://charts.example.org#wiki\"]\n").unwrap();
    let file = file.to_str().unwrap();
    let run = |flags: &[&str]| Agent::run_to_end([&["check", file], flags].concat());
    says(&run(&[]), 1, &["refused: ChartNotAllowed: ", "https://charts.example.org#wiki", "--allow-chart"]);
    says(&run(&["--config", config.to_str().unwrap()]), 0, &["admitted"]);
    // A flag takes the place of the file's list.
    says(&run(&["--config", config.to_str().unwrap(), "--allow-chart", "catalog:wiki"]), 1, &["ChartNotAllowed"]);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2, "nothing is written");
}

#[test]
fn no_message_holds_what_may_be_secret() {
    let mut manifest = application_instance("shop", "wiki");
    manifest["spec"] = json!({"values": {"inline": {"env": [{"name": "DB_PASSWORD", "value": "geheim"}]}}});
    let output = check(Value::from(Job::apply(manifest)).to_string().as_bytes(), &["--log-level", "trace"]);
    says(&output, 1, &["InlineSecretMaterialRejected", "spec.values.inline.env[0].value"]);
    assert!(!String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).contains("geheim"));
}

#[test]
fn what_is_no_job_is_refused_and_never_held() {
    for text in ["", "x", "{", "[]", "{}{}", "{\"id\":\"a\"", "\0", "\u{1b}[2J"] {
        says(&check(text.as_bytes(), &[]), 1, &["refused: MalformedJob: "]);
    }
    says(&check(&[b'"', 0xff, b'"'], &[]), 1, &["refused: job_encoding: "]);
    let long = vec![b'['; 8 * limits::CHECK_FILE_BYTES];
    says(&check(&long, &[]), 1, &["refused: job_bytes: "]);
    let output = Agent::run_to_end(["check", "/dev/zero"]);
    says(&output, 1, &["refused: job_bytes: "]);
}

#[test]
fn wrong_usage_ends_with_2() {
    for (arguments, words) in [
        (vec!["check"], "check needs a file with one job"),
        (vec!["check", "a", "b"], "does not belong here"),
        (vec!["check", "/nonexistent/job.json"], "/nonexistent/job.json cannot be read"),
        (vec!["check", "/"], "cannot be read"),
        (vec!["check", "-", "--allow-chart", "ftp://a"], "allow_chart = \"ftp://a\": charts are written"),
        (vec!["check", "-", "--allow-chart", "https://u:geheim@a.example"], "allow_chart = \"…@a.example\""),
        (vec!["check", "-", "--allow-operation", "backup"], "one of Backup, Migration, Restore"),
        (vec!["check", "-", "--require-encrypted-secrets=maybe"], "takes true or false"),
    ] {
        let output = Agent::run_to_end(&arguments);
        says(&output, 2, &["pullet: ", words]);
        assert!(!String::from_utf8_lossy(&output.stderr).contains("geheim"));
    }
}

#[test]
fn the_signature_is_judged_with_the_given_or_the_pinned_keyring_and_nothing_is_counted() {
    let (testbed, owner) = (Testbed::start(), Owner::new());
    let setup = quick(&testbed);
    let ring = setup.home().join("keyring");
    fs::write(&ring, owner.keyring(1)).unwrap();
    let setup = setup.clone().flag("--keyring", &ring);
    let agent = setup.spawn();
    testbed.held_poll(SOON);
    let state = agent.state_dir();
    let files = || -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(&state)
            .unwrap()
            .map(Result::unwrap)
            .map(|file| (file.file_name().to_string_lossy().into_owned(), fs::read(file.path()).unwrap()))
            .collect();
        files.sort();
        files
    };
    let before = files();
    let job = || Job::apply(operation("shop", "a"));
    let given = ["--keyring", ring.to_str().unwrap(), "--cluster-id", CLUSTER];
    let pinned = ["--state-dir", state.to_str().unwrap()];
    let signed = owner.sign(CLUSTER, job());
    for flags in [&given[..], &pinned[..]] {
        // Twice: the number is not taken by it, and far from the start it is not refused.
        for job in [&signed, &signed, &owner.sign_with_seq(CLUSTER, job(), 1 << 40)] {
            let (code, report) = report(job.clone(), flags);
            assert_eq!(code, 0, "{report}");
            assert!(report["left"][0].as_str().unwrap().contains("number"), "{report}");
        }
        for (job, reason) in [
            (job(), "Unsigned"),
            (signed.clone().with("payload", json!({})), "BadSignature"),
            (owner.sign("elsewhere", job()), "WrongCluster"),
            (Owner::new().sign(CLUSTER, job()), "UnknownKey"),
        ] {
            let (code, report) = report(job, flags);
            assert_eq!((code, &report["stopped"]["clause"]), (1, &json!("signature")), "{report}");
            assert_eq!(report["stopped"]["reason"], reason, "{report}");
            assert_eq!(report["passed"], json!(["limits", "job"]));
        }
        assert_eq!(report(job(), &[flags, &["--signatures", "off"]].concat()).0, 0);
    }
    let request = testbed.requests_of(Call::Register).pop().unwrap();
    let mut key: Value = serde_json::from_slice::<Value>(&request.body).unwrap()["publicKey"].clone();
    let jwk = format!(r#"{{"crv":"X25519","kty":"OKP","x":{}}}"#, key["x"]);
    key["kid"] = json!(sha256(jwk.as_bytes()));
    let sealed = owner.seal(CLUSTER, job(), &key);
    assert_eq!(report(sealed.clone(), &pinned).0, 0);
    let (code, elsewhere) = report(sealed, &given);
    assert_eq!((code, &elsewhere["stopped"]["reason"]), (1, &json!("NoPayloadKey")));
    assert_eq!(files(), before, "nothing is written");

    let unsaid = check(Value::from(signed).to_string().as_bytes(), &given[..2]);
    says(&unsaid, 2, &["--cluster-id"]);
    let reason = |job: Job, flags: &[&str]| {
        let (code, report) = report(job, flags);
        assert_eq!(code, 1, "{report}");
        report["stopped"]["reason"].as_str().unwrap().to_owned()
    };
    assert_eq!(reason(job(), &["--signatures", "require"]), "NoKeyring");
    // What stands beside the credential tells of a newer ring, and of one that is gone.
    let file = state.join("credential.json");
    let credential = fs::read_to_string(&file).unwrap();
    crate::agent::write_secret(&file, &credential.replace("\"keyringVersion\":1", "\"keyringVersion\":2"));
    assert_eq!(reason(owner.sign(CLUSTER, job()), &pinned), "KeyringBehind");
    fs::remove_file(state.join("keyring.json")).unwrap();
    assert_eq!(reason(job(), &pinned), "NoKeyring");
}

#[test]
fn what_a_cluster_says_that_cannot_be_seen_is_left_open() {
    let flags = ["--cluster-resource", "*", "--kubeconfig", "/nonexistent/kubeconfig"];
    let (code, report) = report(Job::apply(operation("shop", "a")), &flags);
    assert_eq!(code, 0, "{report}");
    let left = report["left"].as_array().unwrap();
    assert!(left.iter().any(|left| left.as_str().unwrap().contains("what the Cluster says")), "{report}");
}

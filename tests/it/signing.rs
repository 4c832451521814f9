//! `pullet key` and `pullet sign`: what they made is accepted by the agent.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::agent::{Agent, CLUSTER, write_secret};
use crate::scene::{LATER, SOON, quick, said, says, succeeds};
use crate::testbed::job::config_map;
use crate::testbed::{Call, Job, Testbed};

/// Makes a key and gives its `x`.
fn new_key(file: &Path) -> String {
    let output = Agent::run_to_end(["key", "new", "--out", file.to_str().unwrap()]);
    says(&output, 0, &["kid ", "x ", "fingerprint "]);
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = said(&output).1;
    text.lines().find_map(|line| line.strip_prefix("x ")).unwrap().trim().to_owned()
}

/// What a command prints: one line.
#[track_caller]
fn line(arguments: &[&str]) -> String {
    let (code, text) = said(&Agent::run_to_end(arguments));
    assert_eq!((code, text.lines().count()), (0, 1), "{text}");
    text.trim_end().to_owned()
}

#[test]
fn what_it_signed_and_encrypted_is_done_by_a_node_with_its_keyring() {
    let testbed = Testbed::start();
    let setup = quick(&testbed);
    let file = |name: &str| setup.home().join(name).to_str().unwrap().to_owned();
    let (root, key, next, ring, job_file) =
        (file("root.key"), file("job.key"), file("next.key"), file("keyring"), file("job.json"));
    let (root_x, x) = (new_key(Path::new(&root)), new_key(Path::new(&key)));
    let sign_ring = |version: &str, x: &str, more: &[&str]| {
        let fixed = ["sign", "keyring", "--key", &root, "--version", version, "--epoch=1", "--job-key", x];
        line(&[&fixed, more].concat())
    };
    let first = sign_ring("1", &x, &[]);
    fs::write(&ring, &first).unwrap();
    let setup = setup.clone().flag("--keyring", &ring);
    let mut agent = setup.spawn();
    testbed.held_poll(SOON);
    let request = testbed.requests_of(Call::Register).pop().unwrap();
    let request: Value = serde_json::from_slice(&request.body).unwrap();
    fs::write(file("node.jwk"), request["publicKey"].to_string()).unwrap();
    let jwk = file("node.jwk");
    let send = |key: &str, seq: &str, name: &str, more: &[&str]| {
        let job = Value::from(Job::apply(config_map("clinic", name, "geheimnis")));
        fs::write(&job_file, job.to_string()).unwrap();
        let fixed = ["sign", "job", "--key", key, "--cluster", CLUSTER, "--epoch=1", "--seq", seq, &job_file];
        let text = line(&[&fixed, more].concat());
        let id = job["id"].as_str().unwrap().to_owned();
        testbed.enqueue_text(CLUSTER, &id, text.clone());
        (id, text)
    };
    let (id, text) = send(&key, "1", "open", &[]);
    succeeds(&testbed, &id, LATER);
    // The same text is admitted by `check`, which counts nothing.
    fs::write(&job_file, &text).unwrap();
    let check = ["check", &job_file, "--keyring", &ring, "--cluster-id", CLUSTER, "--allow-kind=/ConfigMap"];
    says(&Agent::run_to_end(check), 0, &["passed    signed by the owner", "admitted"]);
    let (id, text) = send(&key, "2", "sealed", &["--encrypt-to", &jwk]);
    assert!(!text.contains("geheimnis"), "{text}");
    succeeds(&testbed, &id, LATER);

    // Another job key, in the next keyring.
    let next_x = new_key(Path::new(&next));
    let second = sign_ring("2", &next_x, &["--root-key", &root_x, "--after", &ring]);
    fs::write(&ring, [first, second].join("\n")).unwrap();
    agent.stop();
    let polls = testbed.counts().polls;
    let _agent = setup.spawn();
    testbed.polls(polls + 1, SOON);
    succeeds(&testbed, &send(&next, "1", "next", &[]).0, LATER);
    let (id, _) = send(&key, "3", "old", &[]);
    let result = testbed.result_of(&id, LATER);
    assert!(result["error"].as_str().unwrap().starts_with("UnknownKey: "), "{result}");
}

#[test]
fn a_job_key_has_the_bounds_in_time_that_are_given_and_a_node_keeps_to_them() {
    let testbed = Testbed::start();
    let setup = quick(&testbed);
    let file = |name: &str| setup.home().join(name).to_str().unwrap().to_owned();
    let (root, ring, job_file) = (file("root.key"), file("keyring"), file("job.json"));
    let names = ["early.key", "late.key", "now.key", "free.key"].map(file);
    new_key(Path::new(&root));
    let [early, late, now, free] = [0, 1, 2, 3].map(|at: usize| new_key(Path::new(&names[at])));
    let fixed = ["sign", "keyring", "--key", &root, "--version=1", "--epoch=1"];
    let keys: Vec<String> = [&early, &late, &now, &free].iter().map(|x| format!("--job-key={x}")).collect();
    let times = [
        format!("--not-before={early}=2020-01-01T01:00:00+01:00"),
        format!("--not-after={early}=1577923200"),
        format!("--not-before={late}=4070908800"),
        format!("--not-before={now}=0"),
        format!("--not-after={now}=2099-01-01T00:00:00Z"),
    ];
    let sign = |times: &[String]| {
        let all: Vec<&str> = fixed.iter().copied().chain(keys.iter().chain(times).map(String::as_str)).collect();
        Agent::run_to_end(all)
    };
    let text = said(&sign(&times)).1;
    let payload = pullet::trust::base64url::decode(text.split('.').nth(1).unwrap()).unwrap();
    let payload: Value = serde_json::from_slice(&payload).unwrap();
    let bounds = |x: &str| {
        let key = payload["keys"].as_array().unwrap().iter().find(|key| key["x"] == x).unwrap();
        (key["notBefore"].as_i64(), key["notAfter"].as_i64())
    };
    assert_eq!(bounds(&early), (Some(1_577_836_800), Some(1_577_923_200)));
    assert_eq!(bounds(&late), (Some(4_070_908_800), None));
    assert_eq!(bounds(&now), (Some(0), Some(4_070_908_800)));
    assert_eq!(bounds(&free), (None, None));
    for (time, words) in [
        (format!("--not-after={early}"), "it takes X=TIME"),
        (format!("--not-after={OTHER}=1"), "no --job-key has this x"),
        (format!("--not-after={early}=tomorrow"), "neither whole Unix seconds nor RFC 3339"),
        (format!("--not-after={early}=1.5"), "neither whole Unix seconds nor RFC 3339"),
        (format!("--not-after={early}=9223372036854775808"), "neither whole Unix seconds nor RFC 3339"),
    ] {
        says(&sign(&[time]), 2, &[words]);
    }
    says(&sign(&[format!("--not-after={now}=1"), format!("--not-after={now}=2")]), 2, &["has one already"]);
    says(&sign(&[format!("--not-before={now}=2"), format!("--not-after={now}=1")]), 2, &["lies after its"]);

    fs::write(&ring, &text).unwrap();
    let setup = setup.clone().flag("--keyring", &ring);
    let _agent = setup.spawn();
    testbed.held_poll(SOON);
    let send = |key: &str| {
        let job = Value::from(Job::apply(config_map("clinic", "a", key)));
        fs::write(&job_file, job.to_string()).unwrap();
        let text = line(&["sign", "job", "--key", key, "--cluster", CLUSTER, "--epoch=1", "--seq=1", &job_file]);
        let id = job["id"].as_str().unwrap().to_owned();
        testbed.enqueue_text(CLUSTER, &id, text);
        testbed.result_of(&id, LATER)
    };
    for (key, reason) in [(&names[0], "KeyExpired: "), (&names[1], "KeyNotYetValid: ")] {
        let result = send(key);
        assert!(result["error"].as_str().unwrap().starts_with(reason), "{result}");
    }
    for key in &names[2..] {
        assert_eq!(send(key)["outcome"], "succeeded");
    }
}

#[test]
fn a_bundle_is_signed_and_a_key_is_no_bundle() {
    let home = tempfile::tempdir().unwrap();
    let (key, pem) = (home.path().join("root.key"), home.path().join("ca.pem"));
    new_key(&key);
    let [key, pem] = [&key, &pem].map(|path| path.to_str().unwrap());
    fs::write(pem, "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n").unwrap();
    let text = line(&["sign", "bundle", "--key", key, pem]);
    let parts: Vec<Value> = text
        .split('.')
        .take(2)
        .map(|part| serde_json::from_slice(&pullet::trust::base64url::decode(part).unwrap()).unwrap())
        .collect();
    assert_eq!(parts[0]["typ"], "edge-ca+jws");
    assert_eq!(parts[1], json!({"pem": fs::read_to_string(pem).unwrap()}));
    says(&Agent::run_to_end(["sign", "bundle", "--key", key, key]), 1, &["nothing that is secret"]);
}

#[test]
fn a_key_file_is_closed_whole_and_never_overwritten() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("key");
    let file = path.to_str().unwrap();
    let x = new_key(&path);
    let before = fs::read(&path).unwrap();
    says(&Agent::run_to_end(["key", "new", "--out", file]), 1, &["never overwritten"]);
    assert_eq!(fs::read(&path).unwrap(), before);
    let sign = || Agent::run_to_end(["sign", "keyring", "--key", file, "--version=1", "--epoch=1", "--job-key", OTHER]);
    says(&sign(), 0, &["."]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    says(&sign(), 1, &["open to group or others"]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let text = String::from_utf8(before).unwrap();
    let longer = format!("{text}x");
    for wrong in ["", "x", "-----BEGIN PRIVATE KEY-----", &text[..text.len() - 30], &longer, &"A".repeat(42), &x[1..]] {
        write_secret(&path, wrong);
        says(&sign(), 1, &["is no Ed25519 private key"]);
    }
    write_secret(&path, &"x".repeat(64 * 1024 + 1));
    says(&sign(), 1, &["larger than 64 KiB"]);
    // RFC 8037, appendix A: the seed alone.
    write_secret(&path, "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\n");
    let ring = said(&sign()).1;
    let payload = pullet::trust::base64url::decode(ring.split('.').nth(1).unwrap()).unwrap();
    assert!(String::from_utf8(payload).unwrap().contains("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"));
}

/// A public key.
const OTHER: &str = "PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw";

#[test]
fn wrong_usage_and_jobs_that_cannot_be_signed_are_said() {
    let home = tempfile::tempdir().unwrap();
    let (key, job) = (home.path().join("key"), home.path().join("job.json"));
    new_key(&key);
    let [key, file] = [&key, &job].map(|path| path.to_str().unwrap());
    let ring = ["sign", "keyring", "--key", key, "--epoch=1"];
    for (arguments, words) in [
        (vec!["key"], "pullet key --help"),
        (vec!["sign", "letter"], "pullet sign --help"),
        (vec!["key", "new"], "--out is missing"),
        (vec!["key", "new", "--out", "a", "b"], "\"b\" does not belong here"),
        ([&ring[..], &["--version=1"]].concat(), "--job-key is missing"),
        ([&ring[..], &["--version=x", "--job-key", OTHER]].concat(), "--version takes a whole number"),
        ([&ring[..], &["--version=1", "--job-key", "AA"]].concat(), "is no public key"),
        ([&ring[..], &["--version=1", "--version=2", "--job-key", OTHER]].concat(), "more than once"),
        ([&ring[..], &["--versoin=1"]].concat(), "there is no flag --versoin"),
    ] {
        says(&Agent::run_to_end(arguments), 2, &["pullet: ", words]);
    }
    // A ring without its signer cannot be pinned.
    let foreign = [&ring[..], &["--version=1", "--job-key", OTHER, "--root-key", OTHER]].concat();
    assert_eq!(said(&Agent::run_to_end(foreign)).0, 1);
    let good = Value::from(Job::apply(config_map("clinic", "a", "x")));
    let with = |member: &str, value: Value| {
        let mut job = good.clone();
        job[member] = value;
        job.to_string()
    };
    for (text, words) in [
        (String::new(), "is not one job"),
        (format!("{good}{good}"), "is not one job"),
        (with("expiresAt", Value::Null), "has no expiresAt"),
        (with("expiresAt", json!("2020-01-01T00:00:00Z")), "is expired already"),
        (with("encryptedPayload", json!("a..b.c.d")), "both a payload and an encryptedPayload"),
        ("[".repeat(2_000_000), "job"),
    ] {
        fs::write(&job, text).unwrap();
        let sign = ["sign", "job", "--key", key, "--cluster=c1", "--epoch=1", "--seq=1", file];
        says(&Agent::run_to_end(sign), 1, &["pullet: ", words]);
    }
    for help in [vec!["key", "--help"], vec!["sign", "job", "-h"], vec!["help", "sign"]] {
        says(&Agent::run_to_end(help), 0, &["Usage: pullet key new --out FILE"]);
    }
    says(&Agent::run_to_end(["help"]), 0, &["key new   make a key"]);
}

//! Client certificates that the control plane issues for keys that were made on the node, and authorities that it gives.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pullet::trust::base64url;
use pullet::trust::client_key::ClientKey;
use ring::rand::SystemRandom;
use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use crate::agent::{CLUSTER, Setup};
use crate::scene::{LATER, SOON, apply, goes_on, quick, says, succeeds};
use crate::testbed::owner::{Key, Owner};
use crate::testbed::{Behaviour, Call, Clients, Fault, Issue, MacRule, Options, Seen, Testbed};

const DAY: i64 = 24 * 3600;

/// A life of which so much is over that another certificate is to be asked for.
const OLD: (i64, i64) = (-99 * DAY, DAY);

/// A control plane that issues certificates, and takes nothing but a registration or a rotation without one.
fn issuing(change: impl FnOnce(&mut Behaviour)) -> Testbed {
    let clients = Some(Arc::new(Clients::issuing()));
    let testbed = Testbed::with(Options { clients, ..Options::default() });
    testbed.behave(change);
    testbed
}

fn mtls(testbed: &Testbed) -> Setup {
    quick(testbed).switch("--mtls")
}

fn stored(setup: &Setup) -> Value {
    serde_json::from_slice(&fs::read(setup.state_dir().join("credential.json")).unwrap()).unwrap()
}

/// The leaf of a stored certificate, DER.
fn leaf(stored: &Value) -> Vec<u8> {
    let text = stored.as_str().unwrap_or_else(|| panic!("there is no certificate: {stored}"));
    let chain = base64url::decode(text.split_once('.').unwrap().1).unwrap();
    CertificateDer::from_pem_slice(&chain).unwrap().to_vec()
}

fn shown(seen: &Seen) -> Option<&[u8]> {
    seen.certificate.as_deref()
}

/// Waits for a call that is made with this certificate.
fn uses(testbed: &Testbed, leaf: &[u8]) {
    testbed.wait_for("a poll with the certificate", LATER, |state| {
        let fits = |seen: &&Seen| seen.call == Some(Call::Jobs) && shown(seen) == Some(leaf);
        state.requests.iter().find(fits).map(|_| ())
    });
}

#[track_caller]
fn assert_sound(testbed: &Testbed) {
    assert_eq!(testbed.violations(), Vec::<String>::new());
}

/// What another program makes of a request: the signature holds, the subject and the key are read.
#[test]
#[ignore = "needs openssl: apt-get install openssl"]
fn openssl_verifies_a_request() {
    let random = SystemRandom::new();
    for (name, subject) in [("clinic-7", "subject=CN = clinic-7"), ("", "subject=")] {
        let request = ClientKey::generate(&random).unwrap().request(name, &random).unwrap();
        let mut openssl = Command::new("openssl")
            .args(["req", "-verify", "-noout", "-subject", "-text"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl is installed");
        openssl.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
        let output = openssl.wait_with_output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        let is_verified = output.status.success() && said.contains("verify OK");
        assert!(is_verified && said.lines().any(|line| line.trim_end() == subject), "{said}");
        for words in ["Version: 1 (0x0)", "ASN1 OID: prime256v1", "Signature Algorithm: ecdsa-with-SHA256"] {
            assert!(said.contains(words), "no {words:?} in {said}");
        }
    }
}

/// It comes with the registration, is stored beside the credential, and is shown with everything from then on: posts have no
/// MAC. The heartbeat and `pullet status` say when it ends.
#[test]
fn a_certificate_comes_with_the_registration_and_is_shown_from_then_on() {
    let testbed = issuing(|behaviour| behaviour.mac = MacRule::V2);
    let setup = mtls(&testbed);
    let mut agent = setup.spawn();
    goes_on(&testbed);
    let certificate = leaf(&stored(&setup)["certificate"]);
    let heartbeat = testbed.event("a heartbeat", SOON, |event| event["kind"] == "ClusterHeartbeat");
    assert!(
        heartbeat.to_string().contains(", the certificate ends ")
            || heartbeat.to_string().contains("\"the certificate ends ")
    );
    assert!(!heartbeat.to_string().contains("CertificatesRenewed"), "{heartbeat}");
    let status = pullet_status(&setup);
    assert!(status.lines().any(|line| line == "certificate    ends in 29 days"), "{status}");
    let requests = testbed.requests();
    let [register, rest @ ..] = requests.as_slice() else { panic!("there are none") };
    assert_eq!((register.call, shown(register)), (Some(Call::Register), None));
    let body: Value = serde_json::from_slice(&register.body).unwrap();
    assert!(body["certificateRequest"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"));
    assert!(rest.iter().all(|seen| shown(seen) == Some(&*certificate)));
    assert!(rest.iter().all(|seen| seen.header("x-vworkspace-mac").is_none()));
    assert!(rest.iter().filter(|seen| seen.method == "POST").count() > 2);
    // It is there after a restart, and it is not what a rotation of the bearer changes by itself.
    assert!(agent.stop().status.success());
    let mut agent = setup.spawn();
    goes_on(&testbed);
    assert!(agent.stop().status.success());
    assert_eq!(leaf(&stored(&setup)["certificate"]), certificate);
    assert_eq!(testbed.requests_of(Call::Rotate).len(), 0);
    let seen = testbed.requests();
    assert!(seen[1..].iter().all(|seen| shown(seen) == Some(&*certificate)));
    assert_sound(&testbed);
}

fn pullet_status(setup: &Setup) -> String {
    let file = setup.home().join("run/status.json");
    let deadline = Instant::now() + SOON;
    loop {
        let output = crate::agent::Agent::run_to_end(["status".as_ref(), "--status-file".as_ref(), file.as_os_str()]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() && said.contains("\ncertificate ") {
            return said;
        }
        assert!(Instant::now() < deadline, "{said} {}", String::from_utf8_lossy(&output.stderr));
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// At 70 to 90 % of its life, or when somebody asks for it; without a restart, and no job is lost.
#[test]
fn a_certificate_is_renewed_before_it_ends_and_when_somebody_asks() {
    let testbed = issuing(|behaviour| behaviour.certificate_life = OLD);
    let setup = mtls(&testbed);
    says(&setup.run_to_end("register"), 0, &[]);
    let first = leaf(&stored(&setup)["certificate"]);
    testbed.behave(|behaviour| behaviour.certificate_life = (-60, 30 * DAY));
    let jobs: Vec<String> = (0..5).map(|n| apply(&testbed, &format!("load-{n}"))).collect();
    let mut agent = setup.spawn();
    agent.wait_for_log("a new client certificate is in use", LATER);
    let second = eventually("another certificate", || {
        let now = leaf(&stored(&setup)["certificate"]);
        (now != first).then_some(now)
    });
    assert_eq!(stored(&setup).get("nextCertificate"), None);
    uses(&testbed, &second);
    let rotations = testbed.requests_of(Call::Rotate);
    assert_eq!((rotations.len(), shown(&rotations[0])), (1, Some(&*first)));
    agent.signal(Signal::USR1);
    let third = eventually("another certificate", || {
        let now = leaf(&stored(&setup)["certificate"]);
        (now != second).then_some(now)
    });
    uses(&testbed, &third);
    for job in &jobs {
        succeeds(&testbed, job, LATER);
    }
    goes_on(&testbed);
    assert!(agent.is_running());
    assert!(agent.stop().status.success());
    assert_sound(&testbed);
}

/// Each with a bearer of its own, while jobs come: no restart, and no job fails.
#[test]
fn many_renewals_under_load_lose_no_job() {
    let turns = if std::env::var_os("PULLET_LONG").is_some() { 100 } else { 10 };
    let testbed = issuing(|behaviour| behaviour.bearer_overlap = Duration::from_secs(5));
    let setup = mtls(&testbed);
    let mut agent = setup.spawn();
    goes_on(&testbed);
    let mut jobs = Vec::new();
    for turn in 1..=turns {
        jobs.extend((0..4).map(|n| apply(&testbed, &format!("load-{turn}-{n}"))));
        agent.signal(Signal::USR1);
        eventually("renewal", || {
            (agent.log().matches("a new client certificate is in use").count() == turn).then_some(())
        });
        eventually("rotation", || (stored(&setup)["generation"] == turn + 1).then_some(()));
    }
    for job in &jobs {
        succeeds(&testbed, job, LATER);
    }
    let certificates: BTreeSet<Vec<u8>> =
        testbed.requests().iter().filter_map(|seen| shown(seen).map(<[u8]>::to_vec)).collect();
    assert_eq!(certificates.len(), turns + 1);
    assert!(agent.stop().status.success());
    assert_sound(&testbed);
}

#[track_caller]
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LATER;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "there was no {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A certificate that is none, is for another key, or is refused by the server leaves the one before in use; the bearer is
/// another one all the same. The next one that is good is taken.
#[test]
fn a_new_certificate_that_does_not_work_leaves_the_one_before_in_use() {
    let testbed = issuing(|_| {});
    let setup = mtls(&testbed);
    let agent = setup.spawn();
    goes_on(&testbed);
    let first = leaf(&stored(&setup)["certificate"]);
    let bad = [
        (Issue::ByStranger, (-60, DAY), "cannot be reached"),
        (Issue::Endless, (-60, DAY), "longer than 10 KiB"),
        (Issue::Garbage, (-60, DAY), "no certificate in PEM"),
        (Issue::Good, (-DAY, -60), "has ended already"),
        (Issue::OtherKey, (-60, DAY), "for another key"),
        (Issue::Truncated, (-60, DAY), "no certificate in PEM"),
        (Issue::Unanswered, (-60, DAY), "does not know certificateRequest"),
    ];
    for (turn, (issue, life, words)) in bad.into_iter().enumerate() {
        testbed.behave(|behaviour| (behaviour.issue, behaviour.certificate_life) = (issue, life));
        agent.signal(Signal::USR1);
        let generation = 2 + turn;
        eventually("rotation", || (stored(&setup)["generation"] == generation).then_some(()));
        let refusals = || agent.log().matches("the new client certificate cannot be used").count();
        eventually("refusal", || (refusals() == turn + 1).then_some(()));
        assert!(agent.log().lines().any(|line| line.contains("cannot be used") && line.contains(words)), "{issue:?}");
        goes_on(&testbed);
        // One that was tried is forgotten behind that line.
        let now =
            eventually("end of the trial", || Some(stored(&setup)).filter(|now| now.get("nextCertificate").is_none()));
        assert_eq!(leaf(&now["certificate"]), first, "{issue:?}");
    }
    testbed.behave(|behaviour| (behaviour.issue, behaviour.certificate_life) = (Issue::Good, (-60, DAY)));
    agent.signal(Signal::USR1);
    let last = eventually("a good certificate", || {
        let now = leaf(&stored(&setup)["certificate"]);
        (now != first).then_some(now)
    });
    uses(&testbed, &last);
    assert_sound(&testbed);
}

/// A power cut between the storing and the trying: both are there, and the new one is tried at the next start.
#[test]
fn a_certificate_that_was_stored_and_not_tried_is_tried_at_the_next_start() {
    let testbed = issuing(|_| {});
    let setup = mtls(&testbed);
    let mut agent = setup.spawn();
    goes_on(&testbed);
    let first = leaf(&stored(&setup)["certificate"]);
    testbed.fault_until_cleared(Call::Jobs, Fault::Silence);
    agent.signal(Signal::USR1);
    eventually("another certificate on the disk", || stored(&setup).get("nextCertificate").map(|_| ()));
    agent.kill();
    let before = stored(&setup);
    assert_eq!(leaf(&before["certificate"]), first);
    let next = leaf(&before["nextCertificate"]);
    testbed.clear_faults();
    let mut again = setup.spawn();
    goes_on(&testbed);
    again.wait_for_log("a new client certificate is in use", LATER);
    uses(&testbed, &next);
    eventually("that it is written", || (leaf(&stored(&setup)["certificate"]) == next).then_some(()));
    again.stop();
    // And one that the server does not know, which was stored in the same way.
    let elsewhere = issuing(|_| {});
    let other = mtls(&elsewhere);
    says(&other.run_to_end("register"), 0, &[]);
    let mut credential = stored(&setup);
    credential["nextCertificate"] = stored(&other)["certificate"].clone();
    crate::agent::write_secret(&setup.state_dir().join("credential.json"), &credential.to_string());
    let third = setup.spawn();
    third.wait_for_log("the new client certificate cannot be used", LATER);
    goes_on(&testbed);
    eventually("that it is gone", || stored(&setup).get("nextCertificate").is_none().then_some(()));
    assert_eq!(leaf(&stored(&setup)["certificate"]), next);
    assert_sound(&testbed);
}

/// A node that was off until its certificate had ended shows none, asks for another one with the bearer and the proof, and is
/// back by itself.
#[test]
fn a_node_whose_certificate_has_ended_comes_back_by_itself() {
    let testbed = issuing(|behaviour| behaviour.certificate_life = (-DAY, 20));
    let setup = mtls(&testbed);
    says(&setup.run_to_end("register"), 0, &[]);
    std::thread::sleep(Duration::from_secs(22));
    // What it gets has ended as well: that makes no loop.
    testbed.behave(|behaviour| behaviour.certificate_life = (-DAY, -60));
    let mut agent = setup.spawn();
    agent.wait_for_log("has ended already", LATER);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(testbed.requests_of(Call::Rotate).len(), 1);
    agent.stop();
    testbed.behave(|behaviour| behaviour.certificate_life = (-60, DAY));
    let job = apply(&testbed, "late");
    let _agent = setup.spawn();
    succeeds(&testbed, &job, LATER);
    let rotations = testbed.requests_of(Call::Rotate);
    assert_eq!(rotations.len(), 2);
    assert!(rotations.iter().all(|seen| shown(seen).is_none() && seen.header("x-vworkspace-proof").is_some()));
    assert_sound(&testbed);
}

/// Turned on later, it is asked for with a rotation at the start.
#[test]
fn a_node_that_is_registered_already_asks_with_a_rotation() {
    let testbed = issuing(|_| {});
    let setup = quick(&testbed);
    says(&setup.run_to_end("register"), 0, &[]);
    assert_eq!(stored(&setup).get("certificate"), None);
    let _agent = setup.clone().switch("--mtls").spawn();
    goes_on(&testbed);
    assert_eq!(testbed.requests_of(Call::Rotate).len(), 1);
    eventually("a certificate", || stored(&setup).get("certificate").map(leaf));
    assert_sound(&testbed);
}

/// Registered anew, also where the certificate is refused that is there: the registration shows none.
#[test]
fn a_forced_registration_brings_another_certificate() {
    let testbed = issuing(|_| {});
    let setup = mtls(&testbed);
    says(&setup.run_to_end("register"), 0, &[]);
    let first = leaf(&stored(&setup)["certificate"]);
    let setup = setup.token(&testbed.issue_token(Some(CLUSTER)));
    let output = setup.prepare("register").arg("--force").output().unwrap();
    says(&output, 0, &[]);
    let second = leaf(&stored(&setup)["certificate"]);
    assert_ne!(first, second);
    uses(&testbed, &second);
    let _agent = setup.spawn();
    goes_on(&testbed);
    assert_sound(&testbed);
}

/// P2.2: a server that knows no requests is too old, and the token is not used up. One that issues none although it was
/// asked is as old.
#[test]
fn a_server_that_issues_none_is_too_old() {
    let testbed = issuing(|behaviour| behaviour.additions = false);
    let setup = mtls(&testbed);
    says(&setup.run_to_end("register"), 1, &["too old", "certificateRequest"]);
    assert!(!setup.state_dir().join("credential.json").exists());
    testbed.behave(|behaviour| behaviour.additions = true);
    says(&setup.run_to_end("register"), 0, &[]);
    testbed.behave(|behaviour| behaviour.issue = Issue::Unanswered);
    let setup = mtls(&testbed);
    says(&setup.run_to_end("register"), 1, &["too old", "certificateRequest"]);
    assert!(!setup.state_dir().join("credential.json").exists());
}

#[test]
fn a_certificate_of_files_and_one_that_is_issued_exclude_each_other() {
    let testbed = issuing(|_| {});
    let setup = mtls(&testbed).flag("--client-cert", "/c").flag("--client-key", "/k");
    says(&setup.run_to_end("run"), 2, &["mtls", "leave one of both out"]);
}

/// The control plane changes over to another authority: both come in a bundle, the server changes, and the node goes on,
/// without a restart and after one. What is no certificate, or would shut the server out, is not used.
#[test]
fn authorities_that_the_control_plane_gives_are_believed() {
    let mut testbed = Testbed::start();
    let setup = quick(&testbed);
    let mut agent = setup.spawn();
    goes_on(&testbed);
    let kept = setup.state_dir().join("ca.pem");
    assert!(!kept.exists());
    let (next, shown) = Testbed::next_authority(None);
    rotate(&testbed, Some(next.clone()));
    agent.wait_for_log("are believed from now on", SOON);
    assert_eq!(fs::read_to_string(&kept).unwrap(), next);
    testbed.show(shown);
    goes_on(&testbed);
    assert!(agent.stop().status.success());
    let agent = setup.spawn();
    goes_on(&testbed);
    let (stranger, _) = Testbed::next_authority(None);
    for (bundle, words) in [
        (stranger, "does not answer where they are believed"),
        (next.replace("CERTIFICATE", "CERTIFICATION"), "no certificates in PEM"),
        (next[..next.len() / 2].to_owned(), "no certificates in PEM"),
        (next.clone() + &" ".repeat(32 * 1024), "longer than 32 KiB"),
    ] {
        rotate(&testbed, Some(bundle));
        agent.wait_for_log(words, SOON);
        assert_eq!(fs::read_to_string(&kept).unwrap(), next, "{words}");
        goes_on(&testbed);
    }
    // What works again is told, be it a bundle or that there is none any more.
    let (stranger, _) = Testbed::next_authority(None);
    for bundle in [Some(next), Some(stranger), None] {
        rotate(&testbed, bundle);
        goes_on(&testbed);
    }
    let expected = [
        "False/AuthoritiesFail",
        "False/AuthoritiesMalformed",
        "True/CertificatesInUse",
        "False/AuthoritiesFail",
        "True/CertificatesInUse",
    ];
    // Once for each change, and not for each bundle.
    let told = || {
        let events = testbed.events().into_iter().map(|record| record.event);
        let transitions = events.filter(|event| event["kind"] == "ConditionTransition");
        let conditions = transitions.map(|event| event["conditions"][0].clone());
        let ours = conditions.filter(|condition| condition["type"] == "CertificatesRenewed");
        ours.map(|one| format!("{}/{}", one["status"].as_str().unwrap(), one["reason"].as_str().unwrap())).collect()
    };
    eventually("all of it is told", || {
        let told: Vec<String> = told();
        (told.len() >= expected.len()).then(|| assert_eq!(told, expected))
    });
    assert_sound(&testbed);
}

fn rotate(testbed: &Testbed, bundle: Option<String>) {
    testbed.give_authorities(bundle);
    let job = testbed.intent(CLUSTER, "rotate-operator-credentials", Value::Null);
    testbed.result_of(&job, LATER);
}

/// With a pinned keyring the owner says whom the node believes: a root key has to have signed it.
#[test]
fn with_a_pinned_key_only_a_root_key_gives_authorities() {
    let (testbed, owner) = (Testbed::start(), Owner::new());
    let setup = quick(&testbed);
    let file = setup.home().join("keyring");
    fs::write(&file, owner.keyring(1)).unwrap();
    let setup = setup.flag("--keyring", file);
    let kept = setup.state_dir().join("ca.pem");
    let (next, _) = Testbed::next_authority(None);
    let signed = |key: &Key| key.compact("edge-ca+jws", &json!({"pem": next}));
    testbed.give_authorities(Some(next.clone()));
    let agent = setup.spawn();
    agent.wait_for_log("no root key of the pinned keyring has signed them", SOON);
    testbed.held_poll(SOON);
    let bundles = [(signed(&owner.job), false), (signed(&Key::new()), false), (signed(&owner.root), true)];
    for (turn, (bundle, is_taken)) in bundles.into_iter().enumerate() {
        assert!(!kept.exists());
        testbed.give_authorities(Some(bundle));
        agent.signal(Signal::USR1);
        eventually("rotation", || (stored(&setup)["generation"] == turn + 2).then_some(()));
        if is_taken {
            agent.wait_for_log("are believed from now on", SOON);
        } else {
            eventually("refusal", || (agent.log().matches("has signed them").count() == turn + 2).then_some(()));
        }
    }
    assert_eq!(fs::read_to_string(&kept).unwrap(), next);
    testbed.event("that they were not used", SOON, |event| event.to_string().contains("AuthoritiesUnsigned"));
    assert_sound(&testbed);
}

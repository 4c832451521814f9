//! P2.1 to P2.4: keys of the node's own, MACs, an old server, a copied card, a registration over another one, what
//! systemd provides.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use http::StatusCode;
use pullet::link::{Demands, Endpoint, Fault as LinkFault, Registration, RegistrationError, StateDirectory};
use pullet::metrics::Meter;
use pullet::net::tls::{Roots, client_config};
use pullet::net::{PlainHttp, Profile, ProxySetting};
use pullet::protocol::ClusterId;
use pullet::secret::Secret;
use serde_json::{Value, json};

use super::{SOON, assert_sound, credential, done, members, said, setup, start, succeeded};
use crate::agent::{CLUSTER, Setup, write_secret};
use crate::testbed::job::config_map;
use crate::testbed::{Answer, Call, Fault, Job, MacRule, Seen, Testbed};

fn works(testbed: &Testbed) {
    assert!(succeeded(&done(testbed, Job::apply(config_map("shop", "works", "1")))));
}

fn request(seen: &Seen) -> Value {
    serde_json::from_slice(&seen.body).unwrap()
}

/// P2.3: every post but the registration has a MAC, which the testbed checks, of the version that the server's answer asks
/// for, and no counter comes twice.
#[test]
fn every_post_has_a_mac() {
    for (rule, version) in [(MacRule::V1, "v1;"), (MacRule::V2, "v2;")] {
        let testbed = Testbed::start();
        testbed.behave(|behaviour| behaviour.mac = rule);
        let setup = setup(&testbed);
        let mut agent = setup.spawn();
        works(&testbed);
        assert!(succeeded(&done(&testbed, Job::intent("rotate-operator-credentials", json!(null)))));
        works(&testbed);
        testbed.event("the rotation's event", SOON, |event| event["kind"] == "CredentialRotated");
        agent.kill();
        let _again = setup.spawn();
        works(&testbed);
        let posts: Vec<Seen> = testbed.requests().into_iter().filter(|seen| seen.method == "POST").collect();
        let calls: BTreeSet<String> = posts.iter().map(|seen| format!("{:?}", seen.call.unwrap())).collect();
        assert_eq!(calls.len(), 6, "register, ack, status, result, events, rotate: {calls:?}");
        let mut counters = BTreeSet::new();
        for post in &posts {
            let mac = post.header("x-vworkspace-mac");
            if post.call == Some(Call::Register) {
                assert_eq!(mac, None);
                continue;
            }
            let mac = mac.unwrap();
            assert!(mac.starts_with(version), "{rule:?} {mac}");
            assert!(counters.insert(mac.split(';').nth(3).unwrap().to_owned()), "{mac}");
        }
        let stored = credential(&setup.state_dir());
        assert_eq!(stored["current"].get("macKey").is_some(), rule == MacRule::V2);
        assert_sound(&testbed);
    }
}

/// P2.3: a key that is given once is kept through rotations that give none.
#[test]
fn a_mac_key_lasts_until_another_is_given() {
    let testbed = Testbed::start();
    testbed.behave(|behaviour| behaviour.mac = MacRule::V2);
    let setup = setup(&testbed);
    assert!(setup.run_to_end("register").status.success());
    let key = credential(&setup.state_dir())["current"]["macKey"].clone();
    let bearer = testbed.issue_bearer(CLUSTER);
    testbed.fault(Call::Rotate, 1, Fault::Answer(Answer::json(&json!({"token": bearer}))));
    // The testbed knows no key for that bearer.
    testbed.behave(|behaviour| behaviour.mac = MacRule::IfThere);
    let agent = setup.spawn();
    testbed.enqueue(CLUSTER, Job::intent("rotate-operator-credentials", json!(null)));
    agent.wait_for_log("a new credential is in use", SOON);
    let stored = credential(&setup.state_dir());
    assert_eq!((&stored["current"]["macKey"], &stored["current"]["token"]), (&key, &json!(bearer)));
}

/// P2.1: an answer whose additions are no such thing is refused, and nothing is stored of it.
#[test]
fn an_answer_with_additions_of_the_wrong_kind_is_refused() {
    let testbed = Testbed::start();
    let setup = setup(&testbed);
    let bearer = testbed.issue_bearer(CLUSTER);
    for (name, value) in [
        ("macKey", json!("c2hvcnQ")),
        ("macKey", json!(7)),
        ("rotateAfter", json!("tomorrow")),
        ("signingKeys", json!(vec!["a.b.c"; 17])),
        ("caBundle", json!(["pem"])),
        ("clientCertificate", json!({})),
    ] {
        let answer = json!({"clusterId": CLUSTER, "token": bearer, name: value});
        testbed.fault(Call::Register, 1, Fault::Answer(Answer::json(&answer)));
        let output = setup.run_to_end("register");
        assert!(!output.status.success() && said(&output).contains("cannot be used"), "{name} {}", said(&output));
        assert!(!setup.state_dir().join("credential.json").exists(), "{name}");
    }
    let large = json!({"clusterId": CLUSTER, "token": bearer, "caBundle": "x".repeat(64 * 1024)});
    testbed.fault(Call::Register, 1, Fault::Answer(Answer::json(&large)));
    assert!(!setup.run_to_end("register").status.success());
    assert!(setup.run_to_end("register").status.success(), "the token was not used up");
}

/// P2.1: the node's keys are on the disk before they are sent, and the next registration sends the same ones when the answer
/// to the first got lost.
#[test]
fn keys_outlive_a_registration_whose_answer_got_lost() {
    let testbed = Testbed::start();
    let setup = setup(&testbed);
    testbed.fault(Call::Register, 1, Fault::LostAnswer);
    assert!(!setup.run_to_end("register").status.success());
    let keys = setup.state_dir().join("keys.json");
    assert_eq!(fs::metadata(&keys).unwrap().permissions().mode() & 0o777, 0o600);
    let again = setup.token(&testbed.issue_token(Some(CLUSTER)));
    assert!(again.run_to_end("register").status.success());
    let [first, second] = testbed.requests_of(Call::Register).try_into().unwrap();
    for name in ["publicKey", "identityKey"] {
        assert_eq!(request(&first)[name], request(&second)[name]);
    }
    assert!(!keys.exists() && credential(&again.state_dir())["keys"].is_object());
    let mut agent = again.spawn();
    works(&testbed);
    agent.stop();
    assert_sound(&testbed);
}

/// P2.2: an old server gets one request more for each member that it does not know, and is served.
#[test]
fn an_old_server_is_asked_without_what_it_does_not_know() {
    let testbed = Testbed::start();
    testbed.behave(|behaviour| behaviour.additions = false);
    let agent = start(&testbed);
    works(&testbed);
    let asked: Vec<usize> =
        testbed.requests_of(Call::Register).iter().map(|seen| members(&request(seen)).len()).collect();
    assert_eq!(asked, [4, 3, 2, 1]);
    assert!(agent.log().contains("does not know this member"), "{}", agent.log());
    assert_sound(&testbed);
}

/// P2.2: and not where the node's settings need them.
#[test]
fn a_server_that_is_too_old_for_required_signatures_is_told_from_others() {
    let testbed = Testbed::start();
    testbed.behave(|behaviour| behaviour.additions = false);
    let mut roots = Roots::none();
    roots.add_pem(testbed.ca_pem().as_bytes(), &testbed.ca_file()).unwrap();
    let profile = Profile {
        tls: client_config(roots, None).unwrap().into(),
        proxy: ProxySetting::Direct,
        plain_http: PlainHttp::Refused,
        meter: Meter::default(),
    };
    let endpoint = Endpoint::parse(&testbed.endpoint(), PlainHttp::Refused).unwrap();
    let home = tempfile::tempdir().unwrap();
    let store = StateDirectory::open(&home.path().join("state")).unwrap();
    let cluster_id = ClusterId::parse(CLUSTER).unwrap();
    let register = |demands| {
        let registration = Registration {
            endpoint: &endpoint,
            profile: profile.clone(),
            cluster_id: Some(&cluster_id),
            display_name: None,
            demands,
            pin: None,
        };
        registration.exchange(&Secret::new("token", testbed.issue_token(Some(CLUSTER))), &store).map(|_| ())
    };
    let signed = Demands { signatures: true, client_certificate: false };
    let certified = Demands { signatures: false, client_certificate: true };
    for demands in [signed, certified] {
        let error = register(demands).unwrap_err();
        let RegistrationError::Fault(fault @ LinkFault::ServerTooOld(_)) = &error else { panic!("{error:?}") };
        assert!(fault.to_string().contains("too old"), "{fault}");
    }
    testbed.fault(Call::Register, 9, Fault::refusal(400, "UnknownField"));
    let error = register(Demands::default()).unwrap_err();
    assert!(
        matches!(&error, RegistrationError::Fault(LinkFault::Refused(StatusCode::BAD_REQUEST, _))),
        "a server that knows no member at all is asked four times and no more: {error:?}"
    );
    testbed.clear_faults();
    register(Demands::default()).unwrap();
}

/// Files that say which machine this is.
fn machine(setup: &Setup, name: &str, serial: &str) -> PathBuf {
    let root = setup.home().join(name);
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::create_dir_all(root.join("proc")).unwrap();
    // A card carries it along.
    fs::write(root.join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
    fs::write(root.join("proc/cpuinfo"), format!("processor\t: 0\nSerial\t\t: {serial}\n")).unwrap();
    root
}

fn on(setup: &Setup, machine: &Path) -> Setup {
    setup.clone().env("PULLET_MACHINE_ROOT", machine)
}

/// P2.4: a copy of a card in another board stops and says what to do, and works once it is registered by itself, with keys of
/// its own.
#[test]
fn a_cloned_card_stops_and_says_so() {
    let testbed = Testbed::start();
    let setup = setup(&testbed);
    let (one, other) = (machine(&setup, "one", "10000000aaaa"), machine(&setup, "other", "10000000bbbb"));
    let mut agent = on(&setup, &one).spawn();
    works(&testbed);
    agent.stop();
    let keys = credential(&setup.state_dir())["keys"].clone();

    let asked = testbed.requests().len();
    let output = on(&setup, &other).run_to_end("run");
    assert_eq!(output.status.code(), Some(1));
    for words in ["belongs to another machine", "pullet register --force"] {
        assert!(said(&output).contains(words), "{}", said(&output));
    }
    assert_eq!(testbed.requests().len(), asked, "it asks for nothing");

    // A system that was set up anew on the same board is the same machine.
    fs::write(one.join("etc/machine-id"), "fedcba9876543210fedcba9876543210\n").unwrap();
    let mut agent = on(&setup, &one).spawn();
    works(&testbed);
    assert!(agent.log().contains("it is the same one"), "{}", agent.log());
    agent.stop();

    let token = testbed.issue_token(Some(CLUSTER));
    let output = on(&setup, &other).token(&token).prepare("register").arg("--force").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let own = credential(&setup.state_dir())["keys"].clone();
    assert!(own["identity"] != keys["identity"] && own["payload"] != keys["payload"], "keys of its own");
    assert_eq!(own.get("payloadBefore"), None, "and none of another's");
    let _agent = on(&setup, &other).spawn();
    works(&testbed);
    assert_sound(&testbed);
}

/// P2.4: where nothing says which machine it is, as in a container, it is this one.
#[test]
fn without_a_machine_id_nothing_is_compared() {
    let testbed = Testbed::start();
    let setup = setup(&testbed);
    let nowhere = setup.home().join("nowhere");
    let mut agent = on(&setup, &nowhere).spawn();
    works(&testbed);
    agent.stop();
    let (one, other) = (machine(&setup, "one", "10000000aaaa"), machine(&setup, "other", "10000000bbbb"));
    let mut agent = on(&setup, &one).spawn();
    works(&testbed);
    agent.stop();
    let mut agent = on(&setup, &nowhere).spawn();
    works(&testbed);
    agent.stop();
    assert_eq!(on(&setup, &other).run_to_end("run").status.code(), Some(1), "what was once known is remembered");
}

fn force(setup: &Setup) -> std::process::Output {
    setup.prepare("register").arg("--force").output().unwrap()
}

/// P2.5: over a credential that works a new one is registered; the old one is kept until the new one has worked.
#[test]
fn a_forced_registration_takes_the_place_of_the_one_before() {
    let testbed = Testbed::start();
    let setup = setup(&testbed);
    assert!(setup.run_to_end("register").status.success());
    let before = credential(&setup.state_dir());
    let setup = setup.token(&testbed.issue_token(Some(CLUSTER)));
    let output = force(&setup);
    assert!(output.status.success(), "{}", said(&output));
    let after = credential(&setup.state_dir());
    assert_ne!(after["current"]["token"], before["current"]["token"]);
    assert_eq!(after["previous"]["token"], before["current"]["token"]);
    assert_eq!(after["generation"], 2);
    assert_ne!(after["keys"]["identity"], before["keys"]["identity"]);
    assert_eq!(after["keys"]["payloadBefore"], before["keys"]["payload"], "what is on its way can be read");
    assert!(!setup.state_dir().join("credential.before.json").exists());
    let _agent = setup.spawn();
    works(&testbed);
    assert_sound(&testbed);
}

/// P2.5: what fails leaves everything as it was: a token that is refused, a new credential that is refused at once.
#[test]
fn a_forced_registration_that_fails_leaves_the_one_before() {
    let testbed = Testbed::start();
    let setup = setup(&testbed);
    assert!(setup.run_to_end("register").status.success());
    let before = credential(&setup.state_dir());
    let output = force(&setup);
    assert!(!output.status.success() && said(&output).contains("does not accept the one-time token"));
    assert_eq!(credential(&setup.state_dir()), before);
    let setup = setup.token(&testbed.issue_token(Some(CLUSTER)));
    testbed.fault(Call::Jobs, 1, Fault::status(401));
    let output = force(&setup);
    assert!(!output.status.success() && said(&output).contains("the one before stays in use"), "{}", said(&output));
    assert_eq!(credential(&setup.state_dir()), before);
    let _agent = setup.spawn();
    works(&testbed);
    assert_sound(&testbed);
}

/// P2.5, P1.1.6: a registration at another server takes no bearer along. Its copy goes when the new one has worked.
#[test]
fn a_forced_registration_elsewhere_takes_no_bearer_along() {
    let (testbed, other) = (Testbed::start(), Testbed::start());
    let before = setup(&testbed);
    assert!(before.run_to_end("register").status.success());
    let old = credential(&before.state_dir())["current"]["token"].as_str().unwrap().to_owned();
    let moved = before
        .flag("--endpoint", other.endpoint())
        .flag("--ca-file", other.ca_file())
        .token(&other.issue_token(Some(CLUSTER)));
    other.fault(Call::Jobs, 1, Fault::CutBeforeHead);
    let output = force(&moved);
    assert!(output.status.success(), "no answer says nothing: {}", said(&output));
    let stored = credential(&moved.state_dir());
    assert_eq!((stored.get("previous"), &stored["endpoint"]), (None, &json!(other.endpoint())));
    let copy = moved.state_dir().join("credential.before.json");
    assert!(fs::read_to_string(&copy).unwrap().contains(&old));
    let _agent = moved.spawn();
    works(&other);
    super::eventually("the copy to be removed", || (!copy.exists()).then_some(()));
    assert!(testbed.requests().iter().all(|seen| seen.call == Some(Call::Register)), "nobody asked the old server");
    assert_sound(&other);
}

/// P2.5: what cannot be read is no obstacle.
#[test]
fn a_forced_registration_replaces_what_cannot_be_read() {
    let testbed = Testbed::start();
    let setup = setup(&testbed);
    write_secret(&setup.state_dir().join("credential.json"), "rubbish");
    assert!(!setup.run_to_end("register").status.success());
    assert!(force(&setup).status.success());
    let _agent = setup.spawn();
    works(&testbed);
}

/// What systemd provides: the one-time token, an authority, a key that wraps what is stored.
#[test]
fn what_systemd_provides_is_used() {
    let testbed = Testbed::start();
    let bare = setup(&testbed);
    let provided = bare.home().join("credentials");
    fs::create_dir(&provided).unwrap();
    fs::rename(bare.home().join("token"), provided.join("pullet.token")).unwrap();
    fs::copy(testbed.ca_file(), provided.join("pullet.ca")).unwrap();
    write_secret(&provided.join("pullet.key"), "0123456789abcdef0123456789abcdef");
    let setup = bare.without("--token-file").without("--ca-file").env("CREDENTIALS_DIRECTORY", &provided);
    let mut agent = setup.spawn();
    works(&testbed);
    assert!(succeeded(&done(&testbed, Job::intent("rotate-operator-credentials", json!(null)))));
    agent.stop();
    let stored = credential(&setup.state_dir());
    assert_eq!(members(&stored), ["sealed", "version"].into());
    let mut agent = setup.spawn();
    works(&testbed);
    agent.stop();

    write_secret(&provided.join("pullet.key"), "another key, and long enough");
    let output = setup.run_to_end("run");
    assert!(said(&output).contains("sealed with another key"), "{}", said(&output));
    write_secret(&provided.join("pullet.key"), "short");
    assert!(said(&setup.run_to_end("run")).contains("16 bytes"));
    fs::remove_file(provided.join("pullet.key")).unwrap();
    assert!(said(&setup.run_to_end("run")).contains("sealed with another key"));
    assert_sound(&testbed);
}

/// A credential of before there were keys goes on: it has nothing to prove itself with, and is rotated all the same.
#[test]
fn a_credential_without_keys_goes_on() {
    let testbed = Testbed::start();
    let setup = setup(&testbed);
    let token = testbed.issue_bearer(CLUSTER);
    let stored = json!({
        "version": 1, "clusterId": CLUSTER, "endpoint": testbed.endpoint(), "generation": 1,
        "current": {"token": token}, "observedToken": "",
    });
    write_secret(&setup.state_dir().join("credential.json"), &stored.to_string());
    let _agent = setup.spawn();
    works(&testbed);
    assert!(succeeded(&done(&testbed, Job::intent("rotate-operator-credentials", json!(null)))));
    assert_eq!(testbed.requests_of(Call::Rotate)[0].header("x-vworkspace-proof"), None);
    works(&testbed);
    assert_sound(&testbed);
}

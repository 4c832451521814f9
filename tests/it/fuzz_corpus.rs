//! What the fuzzer found once, and its seeds, are tried in every run of the tests. `tests/run --fuzz` looks for more.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pullet::protocol::Timestamp;
use pullet::trust::base64url;
use pullet::trust::envelope;
use pullet::trust::keyring::Keyring;
use pullet::trust::replay::TrustState;
use pullet::trust::sign::JobHeader;
use ring::rand::SystemRandom;

use crate::fuzz_targets::{TARGETS, trust};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus")
}

fn entries(path: &Path) -> Vec<PathBuf> {
    fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn every_target_has_seeds_and_every_directory_of_seeds_a_target() {
    let names: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
    let directories = entries(&corpus());
    let found: BTreeSet<&str> = directories.iter().filter_map(|path| path.file_name()?.to_str()).collect();
    assert_eq!(names, found);
}

#[test]
fn nothing_in_the_corpus_breaks_its_target_whole_or_cut_short() {
    for target in TARGETS {
        let files = entries(&corpus().join(target.name));
        assert!(!files.is_empty(), "{}", target.name);
        for file in files {
            let bytes = fs::read(&file).unwrap();
            for end in (0..bytes.len()).step_by(bytes.len() / 64 + 1).chain([bytes.len()]) {
                let ran = std::panic::catch_unwind(|| (target.run)(&bytes[..end]));
                assert!(ran.is_ok(), "{}: the first {end} bytes of {}", target.name, file.display());
            }
        }
    }
}

/// Compares a seed with what it should be; where it is not, the text that should be there is left for a person to copy.
fn assert_seed(name: &str, is_right: impl FnOnce(&[u8]) -> bool, right: &[u8]) {
    let found = fs::read(corpus().join(name)).unwrap_or_default();
    if !is_right(&found) {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name.replace('/', "-"));
        fs::write(&place, right).unwrap();
        panic!("tests/fuzz/corpus/{name} is not what its target takes; {} is", place.display());
    }
}

/// Without them the fuzzer would never come behind a signature.
#[test]
fn the_seeds_of_what_is_signed_and_encrypted_are_those_that_their_targets_take() {
    let keys = &trust::PAYLOAD_KEYS;
    let encrypt = |public, text| envelope::encrypt(public, text, &SystemRandom::new()).unwrap();
    for (name, public, text) in [
        ("envelope/empty", keys.present.public(), &b"null"[..]),
        ("envelope/secret", keys.previous.as_ref().unwrap().public(), br#"{"apiVersion":"v1","kind":"Secret"}"#),
    ] {
        let decrypts = |found: &[u8]| {
            std::str::from_utf8(found).is_ok_and(|found| envelope::decrypt(found, keys).is_ok_and(|is| *is == text))
        };
        assert_seed(name, decrypts, encrypt(public, text).as_bytes());
    }

    let payload =
        r#"{"kind":"ApplicationInstance","apiVersion":"apps.vworkspace.io/v1alpha1","metadata":{"name":"a"}}"#;
    let secret = fs::read_to_string(corpus().join("envelope/secret")).unwrap();
    let header = |seq| JobHeader {
        epoch: trust::EPOCH,
        cluster: trust::CLUSTER,
        id: "j",
        kind: "apply",
        seq,
        iat: 1_700_000_000,
        exp: trust::EXP,
        idempotency_key: "k",
        encrypted_payload: None,
    };
    let owner = trust::signer(11);
    let job = |signature: &str, content: &str| {
        let expires = Timestamp::from_unix_seconds(trust::EXP.unsigned_abs());
        let expires = serde_json::to_string(&expires).unwrap();
        format!(
            r#"{{"id":"j","kind":"apply","idempotencyKey":"k","expiresAt":{expires},{content},"signature":"{signature}"}}"#
        )
    };
    let open = owner.sign_job(&header(1), payload).unwrap();
    let encrypted = JobHeader { encrypted_payload: Some(&secret), ..header(2) };
    let encrypted = owner.sign_job(&encrypted, "null").unwrap();
    let head = open.split('.').next().and_then(base64url::decode).unwrap();
    for (name, text) in [
        ("signed/open", job(&open, &format!(r#""payload":{payload}"#)).into_bytes()),
        ("signed/encrypted", job(&encrypted, &format!(r#""payload":null,"encryptedPayload":"{secret}""#)).into_bytes()),
        ("signed/header", [b"s", &head[..], b"\n", payload.as_bytes()].concat()),
        ("keyring/chain", [trust::ring(3), trust::ring(4)].join("\n").into_bytes()),
        ("keyring/payload", format!("1{}", payload_of(&trust::ring(4))).into_bytes()),
        ("keyring/bundle", trust::signer(1).sign_compact("edge-ca+jws", r#"{"pem":""}"#).into_bytes()),
        ("state/pinned", {
            let ring = Keyring::pin(&[trust::ring(3)]).unwrap();
            [&TrustState::default().pin(&ring).unwrap().to_bytes()[..], &[11, 1, 11, 3, 11, 2, 1, 200, 11, 255, 0]]
                .concat()
        }),
    ] {
        assert_seed(name, |found| found == text, &text);
    }
}

fn payload_of(jws: &str) -> String {
    String::from_utf8(base64url::decode(jws.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

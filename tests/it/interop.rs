//! Signatures, encryption and canonical form, both ways with the libraries that a control plane in Python would use.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use pullet::trust::canonical::{CanonicalError, Caps, canonical};
use pullet::trust::envelope::{PayloadKey, PayloadKeys, encrypt};
use pullet::trust::keyring::{Key, Keyring, Use};
use pullet::trust::replay::TrustState;
use pullet::trust::sign::{JobHeader, SigningKey};
use pullet::trust::signature::{Now, Outer};
use pullet::trust::{Assurance, Context, Signatures, base64url, verify};
use ring::rand::SystemRandom;
use serde::Deserialize;
use serde_json::{Value, json};

/// Where the interpreter is that has the packages of tests/requirements.txt.
const PYTHON: &str = "PULLET_PYTHON";

const NOW: i64 = 1_800_000_000;

fn python(arguments: &[&str]) -> Command {
    let interpreter = std::env::var_os(PYTHON).expect("PULLET_PYTHON names a Python with tests/requirements.txt");
    let mut command = Command::new(interpreter);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/interop.py")).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// One object in, one out.
fn ask(mode: &str, order: &Value) -> Vec<u8> {
    let mut child = python(&[mode]).spawn().unwrap();
    child.stdin.take().unwrap().write_all(order.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{mode}: {}", output.status);
    output.stdout
}

/// Numbers that are hard to write, names that are hard to sort, and nesting.
fn payload() -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "shop"},
        "numbers": [0, -1, 1.5, 1e-7, 0.1, 1e21, 9_007_199_254_740_991_i64, 5e-324, 1e23],
        "data": {"€": "a\u{0}b\"\\\n", "\u{fb33}": "ש", "😀": "😀", "\r": "", "1": [], "": {}},
        "nested": [[[[{"b": {"d": null, "c": true}, "a": [false]}]]]],
    })
}

#[test]
#[ignore = "needs Python with the packages of tests/requirements.txt: PULLET_PYTHON"]
fn what_python_signs_and_encrypts_is_verified_and_decrypted_here() {
    #[derive(Deserialize)]
    struct Answer {
        keyring: String,
        jobs: Vec<Job>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Job {
        library: String,
        id: String,
        kind: String,
        expires_at: i64,
        idempotency_key: String,
        payload: Option<String>,
        encrypted_payload: Option<String>,
        signature: String,
        expected: String,
    }
    let keys = PayloadKeys { present: PayloadKey::generate(&SystemRandom::new()).unwrap(), previous: None };
    let public: Value = serde_json::from_str(&keys.present.public_jwk()).unwrap();
    let order = json!({"cluster": "clinic-7", "now": NOW, "publicKey": public, "payload": payload()});
    let answer: Answer = serde_json::from_slice(&ask("sign", &order)).unwrap();

    let keyring = Keyring::pin(&[&answer.keyring]).unwrap();
    let mut state = TrustState::default().pin(&keyring).unwrap();
    let context = Context {
        signatures: Signatures::Require,
        keyring: Some(&keyring),
        payload_keys: Some(&keys),
        cluster: "clinic-7",
        now: Now { seconds: NOW, confirmed: true },
        known: None,
    };
    let mut libraries = Vec::new();
    for job in &answer.jobs {
        let outer = Outer {
            id: &job.id,
            kind: &job.kind,
            expires_at: Some(job.expires_at),
            idempotency_key: &job.idempotency_key,
            payload: job.payload.as_deref(),
            encrypted_payload: job.encrypted_payload.as_deref(),
            signature: Some(&job.signature),
        };
        let (verified, next) =
            verify(&outer, &context, &state).unwrap_or_else(|error| panic!("{}: {error}", job.library));
        assert_eq!(verified.text(), job.expected, "{}", job.library);
        assert!(matches!(verified.assurance(), Assurance::Signed(_)));
        assert!(verify(&outer, &context, &next).is_err(), "{}: a second time", job.library);
        state = next;
        libraries.push(job.library.as_str());
    }
    assert_eq!(
        libraries,
        [
            "cryptography Ed25519",
            "cryptography EdDSA",
            "joserfc Ed25519",
            "joserfc EdDSA",
            "jwcrypto Ed25519",
            "jwcrypto EdDSA",
            "PyJWT EdDSA",
            "cryptography encrypted",
            "joserfc encrypted",
            "jwcrypto encrypted",
        ]
    );
}

#[test]
#[ignore = "needs Python with the packages of tests/requirements.txt: PULLET_PYTHON"]
fn what_is_signed_and_encrypted_here_python_verifies_and_decrypts() {
    let random = SystemRandom::new();
    let (signer, _) = SigningKey::generate(&random).unwrap();
    let node = PayloadKey::generate(&random).unwrap();
    let payload = payload().to_string();
    let sealed = encrypt(node.public(), payload.as_bytes(), &random).unwrap();
    let header = JobHeader {
        epoch: 3,
        cluster: "clinic-7",
        id: "a/\"é",
        kind: "apply",
        seq: 1,
        iat: NOW,
        exp: NOW + 60,
        idempotency_key: "key",
        encrypted_payload: None,
    };
    let order = json!({
        "signer": base64url::encode(signer.public()),
        "signature": signer.sign_job(&header, &payload).unwrap(),
        "sealedSignature":
            signer.sign_job(&JobHeader { seq: 2, encrypted_payload: Some(&sealed), ..header }, "null").unwrap(),
        "keyring": signer.sign_keyring(1, 3, &[Key::new(*signer.public(), Use::Root, None, None)]),
        "secret": base64url::encode(node.to_bytes().as_slice()),
        "sealed": sealed,
        "payload": payload,
    });
    let found: BTreeMap<String, Value> = serde_json::from_slice(&ask("check", &order)).unwrap();
    let bad: Vec<_> = found.iter().filter(|(_, result)| **result != Value::Bool(true)).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert_eq!(found.len(), 4 * 2 + 3 + 4 + 1 + 1, "{found:?}");
}

#[test]
#[ignore = "needs Python with the packages of tests/requirements.txt: PULLET_PYTHON"]
fn the_canonical_form_is_that_of_python_and_so_are_the_refusals() {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Case {
        text: String,
        form: Option<String>,
        fault: Option<String>,
        /// There is no other fault in it.
        is_only: bool,
    }
    let long = std::env::var_os("PULLET_LONG").is_some();
    let (count, seed) = if long { (2_000_000, std::process::id()) } else { (20_000, 8785) };
    let mut child = python(&["canonical", &count.to_string(), &seed.to_string()]).spawn().unwrap();
    let (mut seen, mut named): (BTreeMap<String, u32>, BTreeMap<&str, u32>) = Default::default();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let case: Case = serde_json::from_str(&line.unwrap()).unwrap();
        let ours = canonical(case.text.as_bytes(), Caps::JOB).map(|form| String::from_utf8(form.to_vec()).unwrap());
        match (case.fault.as_deref(), &ours) {
            (None, Ok(form)) => assert_eq!(Some(form), case.form.as_ref(), "seed {seed}: {:?}", case.text),
            // The one disagreement, and why: the package writes the double 1e20 as 100000000000000000000 and refuses to
            // write the integer of the same digits, so that its own form is none. Here both are refused.
            (Some("large"), Err(CanonicalError::Integer)) => {}
            (Some("depth"), Err(CanonicalError::Depth)) if !case.is_only => {}
            (Some(fault), Err(error)) if case.is_only => {
                assert_eq!(name(*error), fault, "seed {seed}: {:?}", case.text);
                *named.entry(name(*error)).or_default() += 1;
            }
            // Which fault of several comes first is for each side to say.
            (Some(fault), Err(_)) if !matches!(fault, "depth" | "large") => {}
            _ => panic!("seed {seed}: {:?}\nPython: {:?} {:?}\nhere: {ours:?}", case.text, case.fault, case.form),
        }
        *seen.entry(case.fault.unwrap_or_default()).or_default() += 1;
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(seen.values().sum::<u32>(), count, "{seen:?}");
    for fault in ["", "depth", "duplicate", "integer", "large", "malformed", "number", "surrogate"] {
        assert!(seen.get(fault).is_some_and(|count| *count > 10), "{fault}: {seen:?}");
    }
    for fault in ["depth", "duplicate", "integer", "malformed", "number", "surrogate"] {
        assert!(named.get(fault).is_some_and(|count| *count > 100), "{fault}: {named:?}");
    }
}

/// As the other side calls it.
fn name(error: CanonicalError) -> &'static str {
    match error {
        CanonicalError::Depth => "depth",
        CanonicalError::DuplicateMember => "duplicate",
        CanonicalError::Integer => "integer",
        CanonicalError::LoneSurrogate => "surrogate",
        CanonicalError::Malformed(_) | CanonicalError::Trailing(_) => "malformed",
        CanonicalError::Number => "number",
        CanonicalError::Bytes | CanonicalError::Encoding | CanonicalError::Nodes => "a bound",
    }
}

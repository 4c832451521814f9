//! Attacks on the text of a signed job, as it comes from the control plane.

use std::fs;
use std::path::Path;

use pullet::limits;
use pullet::protocol::Timestamp;
use pullet::trust::canonical::CanonicalError;
use pullet::trust::envelope::{EnvelopeError, PayloadKey, PayloadKeys, encrypt};
use pullet::trust::keyring::{Key, Keyring, Use};
use pullet::trust::replay::TrustState;
use pullet::trust::sign::{JobHeader, SigningKey};
use pullet::trust::signature::{Now, Outer, SignatureError};
use pullet::trust::{Context, Signatures, TrustError, verify};
use ring::rand::SystemRandom;
use serde::Deserialize;
use serde_json::value::RawValue;

const NOW: i64 = 1_800_000_000;

/// What an agent reads of a job's text.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Job<'a> {
    id: String,
    kind: String,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
    #[serde(default)]
    encrypted_payload: Option<String>,
    #[serde(default)]
    idempotency_key: String,
    #[serde(default, deserialize_with = "Timestamp::optional")]
    expires_at: Option<Timestamp>,
    #[serde(default)]
    signature: Option<String>,
}

struct Node {
    keyring: Keyring,
    keys: PayloadKeys,
    state: TrustState,
}

/// All that is acted on.
type Acted = (String, String, String, String);

impl Node {
    fn new() -> Self {
        let root = Key::new(*signer(1).public(), Use::Root, None, None);
        let job = Key::new(*signer(2).public(), Use::Job, None, None);
        let keyring = Keyring::pin(&[signer(1).sign_keyring(1, 1, &[root, job])]).unwrap();
        let state = TrustState::default().pin(&keyring).unwrap();
        Self { keyring, state, keys: PayloadKeys { present: PayloadKey::from_bytes(&[7; 32]), previous: None } }
    }

    /// None for a text that is no job.
    fn take(&self, text: &[u8]) -> Option<Result<Acted, TrustError>> {
        let job: Job<'_> = serde_json::from_str(std::str::from_utf8(text).ok()?).ok()?;
        let outer = Outer {
            id: &job.id,
            kind: &job.kind,
            expires_at: job.expires_at.map(Timestamp::unix_seconds),
            idempotency_key: &job.idempotency_key,
            payload: job.payload.map(RawValue::get),
            encrypted_payload: job.encrypted_payload.as_deref(),
            signature: job.signature.as_deref(),
        };
        let context = Context {
            signatures: Signatures::Require,
            keyring: Some(&self.keyring),
            payload_keys: Some(&self.keys),
            cluster: "clinic-7",
            now: Now { seconds: NOW, confirmed: true },
            known: None,
        };
        Some(verify(&outer, &context, &self.state).map(|(verified, _)| {
            let text = verified.text().to_owned();
            (verified.id.clone(), verified.kind.clone(), verified.idempotency_key.clone(), text)
        }))
    }
}

fn signer(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32]).unwrap()
}

/// A job's text around a payload or a ciphertext.
fn job(payload: &str, sealed: Option<&str>) -> String {
    let header = JobHeader {
        epoch: 1,
        cluster: "clinic-7",
        id: "job-1",
        kind: "apply",
        seq: 1,
        iat: NOW - 10,
        exp: NOW + 60,
        idempotency_key: "key",
        encrypted_payload: sealed,
    };
    // A payload without a canonical form cannot be signed, and is sent under the signature of another one.
    let signature = signer(2).sign_job(&header, payload).or_else(|_| signer(2).sign_job(&header, "null")).unwrap();
    let expires = Timestamp::from_unix_seconds(u64::try_from(header.exp).unwrap());
    format!(
        r#"{{"id":"job-1","kind":"apply","payload":{payload},"encryptedPayload":{},"idempotencyKey":"key","createdAt":"2026-01-01T00:00:00Z","expiresAt":"{expires}","signature":"{signature}"}}"#,
        sealed.map_or("null".to_owned(), |sealed| format!("{sealed:?}"))
    )
}

/// Flips each bit. What passes all the same does what was signed; here are the bytes where that may be (docs/security.md):
/// the member that nobody signed and nobody acts on, the name of a member that says `null`, and the letters of a time,
/// which mean the same in either case.
fn flip_every_bit(node: &Node, text: &str, null: &str) {
    let whole = node.take(text.as_bytes()).unwrap().unwrap();
    let place = |part: &str| text.find(part).unwrap();
    let created = place("\"createdAt\"")..place(",\"expiresAt\"");
    let named = place(null)..place(null) + null.len();
    let expires = place("\"expiresAt\":\"") + "\"expiresAt\":\"".len();
    let letters = [expires + "2027-01-15".len(), expires + "2027-01-15T08:01:00".len()];
    let mut passed = 0;
    for at in 0..text.len() {
        for bit in 0..8 {
            let mut changed = text.as_bytes().to_vec();
            changed[at] ^= 1 << bit;
            if let Some(Ok(acted)) = node.take(&changed) {
                let changed = String::from_utf8(changed).unwrap();
                assert_eq!(acted, whole, "byte {at}, bit {bit}: {changed}");
                let insignificant = created.contains(&at) || named.contains(&at) || letters.contains(&at);
                assert!(insignificant, "byte {at}, bit {bit}: {changed}");
                passed += 1;
            }
        }
    }
    assert!(passed > 50, "{passed}: even what nobody signed is checked?");
}

#[test]
fn no_flipped_bit_of_a_signed_job_changes_what_is_done() {
    let node = Node::new();
    flip_every_bit(&node, &job(r#"{"b":"x", "a":[1.0,{}]}"#, None), "encryptedPayload");
}

#[test]
fn no_flipped_bit_of_an_encrypted_job_changes_what_is_done() {
    let node = Node::new();
    let sealed = encrypt(node.keys.present.public(), br#"{"b":1,"a":2}"#, &SystemRandom::new()).unwrap();
    flip_every_bit(&node, &job("null", Some(&sealed)), "payload");
}

#[test]
fn one_byte_one_node_one_level_over_each_limit() {
    let node = Node::new();
    let take = |payload: &str| node.take(job(payload, None).as_bytes()).unwrap().map(drop);
    let refused = |error| Err(TrustError::Signature(error));
    let text = |length: usize| format!("\"{}\"", "x".repeat(length - 2));
    assert_eq!(take(&text(limits::JOB_BYTES)), Ok(()));
    assert_eq!(take(&text(limits::JOB_BYTES + 1)), refused(SignatureError::TooLong("payload")));
    let list = |nodes: usize| format!("[{}]", vec!["1"; nodes - 1].join(","));
    assert_eq!(take(&list(limits::JOB_NODES)), Ok(()));
    assert_eq!(take(&list(limits::JOB_NODES + 1)), refused(SignatureError::Payload(CanonicalError::Nodes)));
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert_eq!(take(&deep(limits::JOB_DEPTH)), Ok(()));
    assert_eq!(take(&deep(limits::JOB_DEPTH + 1)), refused(SignatureError::Payload(CanonicalError::Depth)));
    for item in ["[[]]", r#"{"a":1}"#] {
        let many = format!("[{}]", vec![item; 30_000].join(","));
        assert_eq!(take(&many), refused(SignatureError::Payload(CanonicalError::Nodes)), "{item}");
    }
}

#[test]
fn a_ciphertext_of_a_neighbour_and_one_that_is_too_long_are_refused() {
    let node = Node::new();
    let random = SystemRandom::new();
    let neighbour = encrypt(PayloadKey::from_bytes(&[8; 32]).public(), b"{}", &random).unwrap();
    let take = |sealed: &str| node.take(job("null", Some(sealed)).as_bytes()).unwrap().map(drop);
    assert_eq!(take(&neighbour), Err(TrustError::Envelope(EnvelopeError::UnknownKey)));
    let long = format!("{neighbour}{}", "A".repeat(limits::JOB_BYTES + 1 - neighbour.len()));
    assert_eq!(take(&long), Err(TrustError::Signature(SignatureError::TooLong("encryptedPayload"))));
    // Padding with blanks must not carry more than a job may hold.
    let blanks = " ".repeat(limits::JOB_BYTES * 3 / 4);
    let sealed = encrypt(node.keys.present.public(), blanks.as_bytes(), &random).unwrap();
    assert_eq!(take(&sealed), Err(TrustError::Signature(SignatureError::TooLong("encryptedPayload"))));
}

/// The table of docs/security.md says which test makes which attack.
#[test]
fn every_attack_of_the_document_has_its_test() {
    let (document, mut named) = (include_str!("../../docs/security.md"), 0);
    for row in document.lines().filter(|line| line.contains("| `tests/") || line.contains("| `src/")) {
        let mut text = None;
        for name in row.split('`').skip(1).step_by(2) {
            let is_path = Path::new(name).extension().is_some_and(|extension| extension == "rs");
            match &text {
                // One that needs an API server is run in CI as well.
                _ if is_path => {
                    let source = fs::read_to_string(name).expect(name);
                    let lines = source.lines().filter(|line| !line.starts_with("#[ignore = "));
                    text = Some(lines.collect::<Vec<_>>().join("\n"));
                }
                None => {}
                Some(source) => {
                    let test = format!("#[test]\n    fn {name}()");
                    let (inner, outer) = (source.contains(&test), source.contains(&test.replace("\n    ", "\n")));
                    assert!(inner || outer, "{name} is no test there: {row}");
                    named += 1;
                }
            }
        }
        assert!(text.is_some(), "no test: {row}");
    }
    assert!(named > 30, "only {named} tests are named");
}

//! What decides whom to believe: the canonical form, signatures, encryption, keyrings, the state that is kept of them.
//!
//! No mutation finds a signature, so a part of these targets signs what the fuzzer wrote, with keys that are no secret,
//! and the checks behind the signature are met too.

use std::sync::LazyLock;

use pullet::limits;
use pullet::protocol::{Job, Timestamp};
use pullet::trust::canonical::{CanonicalError, Caps, canonical};
use pullet::trust::envelope::{PayloadKey, PayloadKeys, decrypt};
use pullet::trust::key_id::KeyId;
use pullet::trust::keyring::{Key, Keyring, Use, signed_by_root};
use pullet::trust::replay::{STATE_BYTES, TrustState};
use pullet::trust::sign::SigningKey;
use pullet::trust::signature::{Now, Outer};
use pullet::trust::{Assurance, Context, Signatures, verify};
use serde_json::Value;

use super::Input;

/// The cluster that the seeds are for.
pub(crate) const CLUSTER: &str = "c";

/// The epoch of the seeds and the end of their time.
pub(crate) const EPOCH: u64 = 5;
pub(crate) const EXP: i64 = 2_000_000_000;

const NOW: Now = Now { seconds: 1_800_000_000, confirmed: true };

/// The only texts that the key of the fuzzer decrypts.
const ENVELOPES: [&str; 2] = [include_str!("../corpus/envelope/empty"), include_str!("../corpus/envelope/secret")];

pub(crate) fn signer(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32]).expect("any bytes are a key")
}

/// Signs keyrings.
static ROOT: LazyLock<SigningKey> = LazyLock::new(|| signer(1));

/// Signs jobs.
static OWNER: LazyLock<SigningKey> = LazyLock::new(|| signer(11));

/// The ring with both, as it is signed in version `version`.
pub(crate) fn ring(version: u32) -> String {
    let root = Key::new(*ROOT.public(), Use::Root, None, None);
    ROOT.sign_keyring(version, EPOCH, &[root, Key::new(*OWNER.public(), Use::Job, None, None)])
}

static PINNED: LazyLock<Keyring> = LazyLock::new(|| Keyring::pin(&[ring(3)]).expect("our own ring"));

static STATE: LazyLock<TrustState> = LazyLock::new(|| TrustState::default().pin(&PINNED).expect("the first ring"));

pub(crate) static PAYLOAD_KEYS: LazyLock<PayloadKeys> = LazyLock::new(|| PayloadKeys {
    present: PayloadKey::from_bytes(&[21; 32]),
    previous: Some(PayloadKey::from_bytes(&[22; 32])),
});

pub(crate) fn canonical_form(data: &[u8]) {
    let read: Result<Value, _> = serde_json::from_slice(data);
    let form = match canonical(data, Caps::JOB) {
        Ok(form) => form,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let is_json = matches!(
                error,
                CanonicalError::Bytes
                    | CanonicalError::Depth
                    | CanonicalError::DuplicateMember
                    | CanonicalError::Integer
                    | CanonicalError::Nodes
                    | CanonicalError::Number
            );
            return assert!(is_json || read.is_err(), "{error:?} of what another reader takes");
        }
    };
    assert!(form.len() <= limits::JOB_BYTES);
    assert_eq!(canonical(&form, Caps::JOB).as_ref(), Ok(&form), "its canonical form is itself");
    // That reader has a name of its own for a text that it leaves as it is; and it refuses numbers which only rounding
    // makes the largest there is, such as 1.7976931348623158e308. The form has them rounded.
    if !form.windows(11).any(|part| part == b"$serde_json") {
        let form: Value = serde_json::from_slice(&form).expect("another reader takes the form");
        assert!(read.map_or_else(|error| error.is_syntax(), |read| is_same(&read, &form)), "{form}");
    }
}

/// The same, where `1` is `1.0`; the other reader's doubles may be the neighbours of the right ones.
fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b)),
        (Value::Number(a), Value::Number(b)) => match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => (a - b).abs() <= a.abs().max(b.abs()) * 4.0 * f64::EPSILON + f64::from_bits(4),
            _ => false,
        },
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((name, a), (other, b))| name == other && is_same(a, b))
        }
        (a, b) => a == b,
    }
}

/// A whole job under each mode, then a header and a payload under a signature that holds.
pub(crate) fn signed(data: &[u8]) {
    let mut input = Input(data);
    if input.byte() == b'{' {
        let Ok(text) = std::str::from_utf8(data) else { return };
        let Ok(job) = Job::parse(text) else { return };
        let outer = Outer {
            id: job.id.as_str(),
            kind: &job.kind,
            expires_at: job.expires_at.map(Timestamp::unix_seconds),
            idempotency_key: &job.idempotency_key,
            payload: job.payload.map(serde_json::value::RawValue::get),
            encrypted_payload: job.encrypted_payload.as_deref(),
            signature: job.signature.as_deref(),
        };
        for mode in [Signatures::Require, Signatures::Warn, Signatures::Off] {
            judge(&outer, mode);
        }
    } else {
        let Ok(text) = std::str::from_utf8(input.rest()) else { return };
        let (header, payload) = text.split_once('\n').unwrap_or((text, "null"));
        let Ok(signature) = OWNER.sign_detached(header, payload) else { return };
        let outer = Outer {
            id: "j",
            kind: "apply",
            expires_at: Some(EXP),
            idempotency_key: "k",
            payload: Some(payload),
            encrypted_payload: None,
            signature: Some(&signature),
        };
        judge(&outer, Signatures::Require);
    }
}

fn judge(outer: &Outer<'_>, signatures: Signatures) {
    let context = Context {
        signatures,
        keyring: Some(&PINNED),
        payload_keys: Some(&PAYLOAD_KEYS),
        cluster: CLUSTER,
        now: NOW,
        known: None,
    };
    let before = STATE.to_bytes();
    match verify(outer, &context, &STATE) {
        Err(error) => assert!(!error.to_string().is_empty() && !error.reason().is_empty()),
        Ok((job, next)) => match *job.assurance() {
            Assurance::Unsigned => {
                assert!(signatures != Signatures::Require && next == *STATE, "nobody signed it");
                let text = job.text().as_bytes();
                assert!(canonical(text, Caps::JOB).is_ok_and(|form| *form == text), "it is canonical");
            }
            Assurance::Signed(signed) => {
                assert_eq!((signed.kid, signed.epoch, Some(signed.exp)), (OWNER.kid(), EPOCH, outer.expires_at));
                assert_eq!(next, STATE.accept(signed.kid, signed.epoch, signed.seq).expect("it was accepted"));
                assert!(verify(outer, &context, &next).is_err(), "it is a replay now");
                let again = verify(outer, &Context { known: Some(signed.header_hash), ..context }, &next);
                assert!(again.is_ok_and(|(_, after)| after == next), "a redelivery is not counted again");
                assert!(verify(outer, &Context { cluster: "d", ..context }, &STATE).is_err(), "it is another's");
                let changed = Outer { id: "other", ..*outer };
                assert!(outer.id == "other" || verify(&changed, &context, &STATE).is_err());
            }
        },
    }
    assert_eq!(STATE.to_bytes(), before);
}

/// The ciphertext as it is; one of another making passes only when it is no other.
pub(crate) fn envelope(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match decrypt(text, &PAYLOAD_KEYS) {
        Err(error) => assert!(!error.to_string().is_empty() && !error.reason().is_empty()),
        Ok(_) => assert!(ENVELOPES.contains(&text), "another text with the same content: {text}"),
    }
}

/// A chain, one ring a line; a line that begins with a figure is a payload that is signed here by the key of this number.
pub(crate) fn keyring(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let chain: Vec<String> = text
        .split('\n')
        .take(limits::KEYRING_CHAIN + 2)
        .map(|line| match line.split_at_checked(1) {
            Some((figure, payload)) if figure.as_bytes()[0].is_ascii_digit() => {
                signer(figure.as_bytes()[0] - b'0').sign_compact("edge-keyring+jws", payload)
            }
            _ => line.to_owned(),
        })
        .collect();
    for ring in [Keyring::pin(&chain), Keyring::pin_by_fingerprint(ROOT.kid(), &chain)] {
        match ring {
            Ok(ring) => assert_whole(&ring),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    if let Ok(ring) = PINNED.update(&chain) {
        assert_whole(&ring);
        assert!(ring.version() >= PINNED.version() && ring.epoch() >= PINNED.epoch());
        assert!(ring.version() > PINNED.version() || ring == *PINNED, "it is the pinned one or a newer one");
        assert_eq!(ring.update(&chain), Ok(ring.clone()), "there is nothing new in it");
        let state = STATE.pin(&ring).expect("it is no older");
        assert_eq!((state.keyring_version, state.epoch), (ring.version(), ring.epoch()));
        assert!(ring == *PINNED || state.pin(&PINNED).is_err(), "there is no way back");
    }
    let _ = Keyring::restore(text);
    if let Ok(payload) = signed_by_root(&PINNED, text, "edge-ca+jws", limits::KEYRING_BYTES) {
        assert!(payload.len() <= limits::KEYRING_BYTES);
    }
}

fn assert_whole(ring: &Keyring) {
    assert!(ring.keys().len() <= limits::KEYS && !ring.fingerprints().is_empty());
    assert!(ring.keys().iter().all(|key| key.kid() == KeyId::of_ed25519(key.x())), "a name is a thumbprint");
    assert_eq!(Keyring::restore(ring.text()).as_ref(), Ok(ring));
}

/// The trust state as a page of the journal holds it, and numbers that come after.
pub(crate) fn state(data: &[u8]) {
    let mut input = Input(data);
    let mut bytes = [0; STATE_BYTES];
    let raw = input.piece(STATE_BYTES);
    bytes[..raw.len()].copy_from_slice(raw);
    let Some(mut state) = TrustState::from_bytes(&bytes) else { return };
    // Eight bytes that an earlier version wrote are left out, and written as zeros.
    bytes[12..20].fill(0);
    assert_eq!(state.to_bytes(), bytes, "the rest is read whole");
    while !input.is_over() {
        let (key, seq) = (input.byte(), input.number());
        let kid = KeyId::of_ed25519(&[key; 32]);
        if let Ok(next) = state.accept(kid, state.epoch, seq) {
            let high = next.high(kid).expect("it was accepted");
            assert!(high >= seq && state.high(kid).is_none_or(|before| high >= before), "numbers only rise");
            assert!(next.accept(kid, next.epoch, seq).is_err(), "no number twice");
            assert!(next.accept(kid, next.epoch.wrapping_add(1), seq).is_err());
            assert_eq!(TrustState::from_bytes(&next.to_bytes()), Some(next));
            state = next;
        }
    }
}

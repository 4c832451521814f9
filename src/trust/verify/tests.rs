#![cfg(test)]

use ring::rand::SystemRandom;

use super::{Assurance, Context, Signatures, TrustError, verify};
use crate::limits;
use crate::trust::base64url;
use crate::trust::canonical::CanonicalError;
use crate::trust::envelope::{EnvelopeError, PayloadKey, PayloadKeys, encrypt};
use crate::trust::jws::JwsError;
use crate::trust::keyring::{Key, Keyring, KeyringError, Use};
use crate::trust::members::MemberError;
use crate::trust::replay::{ReplayError, TrustState, UNDATED};
use crate::trust::sign::{JobHeader, SigningKey};
use crate::trust::signature::{Now, Outer, SignatureError};

const NOW: i64 = 1_800_000_000;

/// An owner with a root key and a job key, and a node that has pinned them.
struct Scene {
    keyring: Keyring,
    payload_keys: PayloadKeys,
    now: Now,
    signatures: Signatures,
    known: Option<[u8; 8]>,
    state: TrustState,
}

/// A job whose every part can be changed after it was signed.
#[derive(Clone)]
struct Sent {
    id: String,
    kind: String,
    expires_at: Option<i64>,
    idempotency_key: String,
    payload: Option<String>,
    encrypted_payload: Option<String>,
    signature: Option<String>,
}

fn signer(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32]).unwrap()
}

fn header() -> JobHeader<'static> {
    JobHeader {
        epoch: 5,
        cluster: "clinic-7",
        id: "job/1",
        kind: "apply",
        seq: 10,
        iat: NOW - 60,
        exp: NOW + 3600,
        idempotency_key: "key-1",
        encrypted_payload: None,
    }
}

fn ring(keys: &[Key]) -> Keyring {
    Keyring::pin(&[signer(1).sign_keyring(3, 5, keys)]).unwrap()
}

fn job_key(n: u8) -> Key {
    Key::new(*signer(n).public(), Use::Job, Some(NOW - 1000), Some(NOW + 10_000))
}

fn root_key() -> Key {
    Key::new(*signer(1).public(), Use::Root, None, None)
}

impl Scene {
    fn new() -> Self {
        let keyring = ring(&[root_key(), job_key(11), job_key(12)]);
        Self {
            state: TrustState::default().pin(&keyring).unwrap(),
            keyring,
            payload_keys: PayloadKeys { present: PayloadKey::from_bytes(&[1; 32]), previous: None },
            now: Now { seconds: NOW, confirmed: true },
            signatures: Signatures::Require,
            known: None,
        }
    }

    fn seal(&self, plaintext: &str) -> String {
        encrypt(self.payload_keys.present.public(), plaintext.as_bytes(), &SystemRandom::new()).unwrap()
    }

    fn verify(&self, job: &Sent) -> Result<(String, Assurance, TrustState), TrustError> {
        self.verify_with(job, Some(&self.keyring))
    }

    fn verify_with(
        &self,
        job: &Sent,
        keyring: Option<&Keyring>,
    ) -> Result<(String, Assurance, TrustState), TrustError> {
        let context = Context {
            signatures: self.signatures,
            keyring,
            payload_keys: Some(&self.payload_keys),
            cluster: "clinic-7",
            now: self.now,
            known: self.known,
        };
        verify(&job.outer(), &context, &self.state)
            .map(|(job, state)| (job.text().to_owned(), job.assurance().clone(), state))
    }

    fn error(&self, job: &Sent) -> TrustError {
        self.verify(job).err().unwrap()
    }

    fn signature_error(&self, job: &Sent) -> SignatureError {
        match self.error(job) {
            TrustError::Signature(error) => error,
            other => panic!("{other:?}"),
        }
    }
}

impl Sent {
    fn outer(&self) -> Outer<'_> {
        Outer {
            id: &self.id,
            kind: &self.kind,
            expires_at: self.expires_at,
            idempotency_key: &self.idempotency_key,
            payload: self.payload.as_deref(),
            encrypted_payload: self.encrypted_payload.as_deref(),
            signature: self.signature.as_deref(),
        }
    }

    fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut changed = self.clone();
        change(&mut changed);
        changed
    }
}

fn signed_by(key: &SigningKey, header: &JobHeader<'_>, payload: Option<&str>) -> Sent {
    Sent {
        id: header.id.to_owned(),
        kind: header.kind.to_owned(),
        expires_at: Some(header.exp),
        idempotency_key: header.idempotency_key.to_owned(),
        payload: payload.map(str::to_owned),
        encrypted_payload: header.encrypted_payload.map(str::to_owned),
        signature: Some(key.sign_job(header, payload.unwrap_or("null")).unwrap()),
    }
}

fn signed(header: &JobHeader<'_>) -> Sent {
    signed_by(&signer(11), header, Some(r#"{ "b":1, "a":[1.0] }"#))
}

fn header_text(signature: &str) -> String {
    let (header, _) = signature.split_once('.').unwrap();
    String::from_utf8(base64url::decode(header).unwrap()).unwrap()
}

/// The job under a header whose text was changed before it was signed.
fn with_header(change: impl FnOnce(String) -> String) -> Sent {
    let job = signed(&header());
    let header = header_text(job.signature.as_deref().unwrap());
    let signature = signer(11).sign_detached(&change(header), job.payload.as_deref().unwrap()).unwrap();
    job.with(|job| job.signature = Some(signature))
}

#[test]
fn what_the_owner_signed_is_verified_in_canonical_form() {
    let scene = Scene::new();
    let (text, assurance, state) = scene.verify(&signed(&header())).unwrap();
    assert_eq!(text, r#"{"a":[1],"b":1}"#);
    let Assurance::Signed(signed) = assurance else { panic!() };
    assert_eq!((signed.kid, signed.epoch, signed.seq, signed.redelivery), (signer(11).kid(), 5, 10, false));
    assert_eq!(state.high(signer(11).kid()), Some(10));
    assert_ne!(state.to_bytes(), scene.state.to_bytes());
}

#[test]
fn an_encrypted_payload_is_bound_and_goes_the_same_way() {
    let scene = Scene::new();
    let sealed = scene.seal(r#"{ "b":1, "a":2 }"#);
    let header = JobHeader { encrypted_payload: Some(&sealed), ..header() };
    let job = signed_by(&signer(11), &header, None);
    let (text, ..) = scene.verify(&job).unwrap();
    assert_eq!(text, r#"{"a":2,"b":1}"#);
    // A payload that is written as null is the same.
    assert!(scene.verify(&job.with(|job| job.payload = None)).is_ok());

    for (plaintext, error) in [
        (r#"{"a":1,"a":2}"#, CanonicalError::DuplicateMember),
        (&"[".repeat(33), CanonicalError::Depth),
        (&format!("[{}]", vec!["1"; limits::JOB_NODES].join(",")), CanonicalError::Nodes),
        ("", CanonicalError::Malformed(0)),
    ] {
        let sealed = scene.seal(plaintext);
        let header = JobHeader { encrypted_payload: Some(&sealed), ..header };
        assert_eq!(scene.error(&signed_by(&signer(11), &header, None)), TrustError::Payload(error));
    }
}

#[test]
fn payload_and_ciphertext_cannot_be_mixed() {
    let scene = Scene::new();
    let (one, two) = (scene.seal("1"), scene.seal("2"));
    let header = JobHeader { encrypted_payload: Some(&one), ..header() };
    let job = signed_by(&signer(11), &header, None);
    let open = signed(&super::tests::header());
    assert_eq!(scene.error(&job.with(|job| job.encrypted_payload = Some(two.clone()))), TrustError::MixedPayload);
    assert_eq!(scene.error(&job.with(|job| job.encrypted_payload = None)), TrustError::MixedPayload);
    assert_eq!(scene.error(&job.with(|job| job.payload = Some("{}".into()))), TrustError::BothPayloads);
    assert_eq!(scene.error(&job.with(|job| job.payload = Some("null".into()))), TrustError::BothPayloads);
    assert_eq!(scene.error(&open.with(|job| job.encrypted_payload = Some(one.clone()))), TrustError::BothPayloads);
    // The ciphertext under a signature that says nothing about it.
    let bare = signed_by(&signer(11), &super::tests::header(), None);
    assert_eq!(scene.error(&bare.with(|job| job.encrypted_payload = Some(one.clone()))), TrustError::MixedPayload);
    // The signature is checked before anything is decrypted.
    let other = JobHeader { encrypted_payload: Some("x"), ..super::tests::header() };
    assert_eq!(scene.error(&signed_by(&signer(11), &other, None)), TrustError::Envelope(EnvelopeError::Shape));
    assert_eq!(scene.error(&signed_by(&signer(13), &other, None)), TrustError::Signature(SignatureError::UnknownKey));
}

#[test]
fn only_a_job_key_of_the_pinned_ring_signs_jobs() {
    let scene = Scene::new();
    let by = |n| signed_by(&signer(n), &header(), Some("{}"));
    assert!(scene.verify(&by(12)).is_ok());
    assert_eq!(scene.signature_error(&by(13)), SignatureError::UnknownKey);
    assert_eq!(scene.signature_error(&by(1)), SignatureError::WrongUse);
    // A key of the ring is named, and another one has signed.
    let named = |header: &str| signer(13).sign_detached(header, "{}").unwrap();
    let header_of_eleven = header_text(by(11).signature.as_deref().unwrap());
    let forged = by(11).with(|job| job.signature = Some(named(&header_of_eleven)));
    assert_eq!(scene.signature_error(&forged), SignatureError::BadSignature);
    for epoch in [4, 6] {
        let job = signed(&JobHeader { epoch, ..header() });
        assert_eq!(scene.signature_error(&job), SignatureError::WrongEpoch);
    }
}

#[test]
fn the_header_has_the_given_members_and_no_others() {
    let scene = Scene::new();
    let error = |from: &str, to: &str| {
        scene.signature_error(&with_header(|header| {
            assert!(header.contains(from), "{header}");
            header.replacen(from, to, 1)
        }))
    };
    let header_error = |error| SignatureError::Jws(JwsError::Header(error));
    assert!(scene.verify(&with_header(|header| header.replace("Ed25519", "EdDSA"))).is_ok(), "a synonym");
    for alg in ["none", "HS256", "ES256", "RS256", "Ed448", "ed25519", ""] {
        assert_eq!(error("\"Ed25519\"", &format!("{alg:?}")), SignatureError::Jws(JwsError::Algorithm), "{alg}");
    }
    for name in ["jwk", "jku", "x5c", "x5u", "cty", "nonce"] {
        let more = format!("\"{name}\":\"x\",\"kid\"");
        assert_eq!(error("\"kid\"", &more), header_error(MemberError::Unknown(name.into())), "{name}");
    }
    for name in ["alg", "b64", "crit", "typ", "kid", "epoch", "aud", "jti", "kind", "seq", "iat", "exp"] {
        let missing = error(&format!("\"{name}\":"), &format!("\"x{name}\":"));
        assert_eq!(missing, header_error(MemberError::Missing(name)), "{name}");
    }
    assert_eq!(error("\"seq\"", "\"seq\":9,\"seq\""), header_error(MemberError::Duplicate));
    assert_eq!(error("edge-job+jws", "edge-keyring+jws"), SignatureError::Jws(JwsError::Type));
    assert_eq!(error("false", "true"), header_error(MemberError::Wrong("b64")));
    assert_eq!(error("[\"b64\"]", "[]"), header_error(MemberError::Wrong("crit")));
    assert_eq!(error("[\"b64\"]", "[\"b64\",\"exp\"]"), header_error(MemberError::Wrong("crit")));
    assert_eq!(error("\"seq\":10", "\"seq\":10.0"), header_error(MemberError::Wrong("seq")));
    assert_eq!(error("\"seq\":10", "\"seq\":-1"), header_error(MemberError::Wrong("seq")));
    assert_eq!(error("\"seq\":10", "\"seq\":18446744073709551616"), header_error(MemberError::Wrong("seq")));
    assert_eq!(error("\"idk\":\"", "\"idk\":null,\"x\":\""), header_error(MemberError::Wrong("idk")));
    assert_eq!(error("\"idk\":\"", "\"idk\":\"A"), header_error(MemberError::Wrong("idk")));
}

#[test]
fn the_job_outside_is_the_job_that_was_signed() {
    let scene = Scene::new();
    let job = signed(&header());
    let error = |change: fn(&mut Sent)| scene.signature_error(&job.with(change));
    assert_eq!(error(|job| job.id = "job/2".into()), SignatureError::WrongJob);
    assert_eq!(error(|job| job.kind = "delete".into()), SignatureError::WrongKind);
    assert_eq!(error(|job| job.expires_at = Some(NOW + 3601)), SignatureError::WrongExpiry);
    assert_eq!(error(|job| job.expires_at = None), SignatureError::WrongExpiry);
    assert_eq!(error(|job| job.idempotency_key = "key-2".into()), SignatureError::WrongIdempotencyKey);
    assert_eq!(error(|job| job.idempotency_key.clear()), SignatureError::WrongIdempotencyKey);
    assert_eq!(error(|job| job.payload = Some(r#"{"a":[1],"b":2}"#.into())), SignatureError::BadSignature);
    assert_eq!(error(|job| job.payload = None), SignatureError::BadSignature);
    assert_eq!(
        error(|job| job.payload = Some(r#"{"a":[1],"b":1,"b":1}"#.into())),
        SignatureError::Payload(CanonicalError::DuplicateMember)
    );
    let neighbour = signed(&JobHeader { cluster: "clinic-8", ..header() });
    assert_eq!(scene.signature_error(&neighbour), SignatureError::WrongCluster);
    let bare = signed(&JobHeader { idempotency_key: "", ..header() });
    assert!(scene.verify(&bare).is_ok());
    let added = bare.with(|job| job.idempotency_key = "key-1".into());
    assert_eq!(scene.signature_error(&added), SignatureError::WrongIdempotencyKey);
    // Another spelling of the same payload is the same payload.
    assert!(scene.verify(&job.with(|job| job.payload = Some("{\"a\":[1e0],\n\"\\u0062\":1}".into()))).is_ok());
}

#[test]
fn times_are_judged_by_the_clock() {
    let mut scene = Scene::new();
    let job = signed(&header());
    let mut at = |seconds, confirmed| {
        scene.now = Now { seconds, confirmed };
        scene.verify(&job).map(drop).map_err(|error| match error {
            TrustError::Signature(error) => error,
            other => panic!("{other:?}"),
        })
    };
    let skew = i64::try_from(limits::CLOCK_SKEW.as_secs()).unwrap();
    assert_eq!(at(NOW + 3599, true), Ok(()));
    assert_eq!(at(NOW + 3600, true), Err(SignatureError::Expired));
    assert_eq!(at(NOW + 20 * 365 * 86_400, true), Err(SignatureError::Expired));
    assert_eq!(at(NOW + 3600, false), Err(SignatureError::Expired), "the clock can only be later than that");
    assert_eq!(at(NOW - 60 - skew, true), Ok(()));
    assert_eq!(at(NOW - 61 - skew, true), Err(SignatureError::NotYetValid));
    assert_eq!(at(0, true), Err(SignatureError::NotYetValid));
    assert_eq!(at(0, false), Err(SignatureError::ClockUnconfirmed));
    assert_eq!(at(NOW, false), Err(SignatureError::ClockUnconfirmed));
    assert!(TrustError::Signature(SignatureError::ClockUnconfirmed).waits());

    let long = signed(&JobHeader { iat: NOW - 2000, exp: NOW + 100_000, ..header() });
    scene.now = Now { seconds: NOW - 1001, confirmed: true };
    assert_eq!(scene.signature_error(&long), SignatureError::KeyNotYetValid);
    scene.now.seconds = NOW - 1000;
    assert!(scene.verify(&long).is_ok());
    scene.now.seconds = NOW + 10_000;
    assert!(scene.verify(&long).is_ok());
    scene.now.seconds = NOW + 10_001;
    assert_eq!(scene.signature_error(&long), SignatureError::KeyExpired);
}

#[test]
fn after_a_loss_only_younger_jobs_act() {
    let mut scene = Scene::new();
    scene.state.lost_at = Some(NOW - 60);
    assert_eq!(scene.signature_error(&signed(&header())), SignatureError::BeforeLoss);
    let younger = signed(&JobHeader { iat: NOW - 59, seq: 1 << 30, ..header() });
    assert!(scene.verify(&younger).is_ok());
    scene.now.confirmed = false;
    assert_eq!(scene.signature_error(&younger), SignatureError::ClockUnconfirmed);
    // Nobody can be younger than a loss without a date.
    scene.now.confirmed = true;
    scene.state.lost_at = Some(UNDATED);
    assert_eq!(scene.signature_error(&younger), SignatureError::ClockUnconfirmed);
    scene.state.lost_at = Some(NOW - 60);
    // A ring of the same epoch says nothing about the jobs that were lost; a new epoch ends them all.
    let next = |epoch| signer(1).sign_keyring(4, epoch, &[root_key(), job_key(11)]);
    let same = scene.keyring.update(&[next(5)]).unwrap();
    assert_eq!(scene.state.pin(&same).unwrap().lost_at, Some(NOW - 60));
    let new = scene.keyring.update(&[next(6)]).unwrap();
    assert_eq!(scene.state.pin(&new).unwrap().lost_at, None);
}

#[test]
fn a_job_counts_once_and_its_redelivery_not_again() {
    let mut scene = Scene::new();
    let job = signed(&header());
    let (_, assurance, state) = scene.verify(&job).unwrap();
    let Assurance::Signed(signed_) = assurance else { panic!() };
    scene.state = TrustState::from_bytes(&state.to_bytes()).unwrap();
    assert_eq!(scene.error(&job), TrustError::Replay(ReplayError::Replayed));
    scene.known = Some(signed_.header_hash);
    let (_, assurance, state) = scene.verify(&job).unwrap();
    assert!(matches!(assurance, Assurance::Signed(signed) if signed.redelivery));
    assert_eq!(state, scene.state);
    // The same id under another header is another job.
    let other = signed(&JobHeader { iat: NOW - 59, ..header() });
    assert_eq!(scene.error(&other), TrustError::Replay(ReplayError::Replayed));
    scene.known = None;
    let far = 10 + limits::SEQUENCE_STEP;
    let jump = signed(&JobHeader { seq: far + 1, ..header() });
    assert_eq!(scene.error(&jump), TrustError::Replay(ReplayError::Jump));
    assert!(scene.verify(&signed(&JobHeader { seq: far, ..header() })).is_ok());
    let start = signed_by(&signer(12), &JobHeader { seq: limits::SEQUENCE_STEP + 1, ..header() }, Some("{}"));
    assert_eq!(scene.error(&start), TrustError::Replay(ReplayError::Start));
}

#[test]
fn a_state_goes_with_its_ring() {
    let scene = Scene::new();
    let (.., state) = scene.verify(&signed(&header())).unwrap();
    let next = |version, epoch, keys: &[Key]| {
        let chain: Vec<String> = (4..=version).map(|version| signer(1).sign_keyring(version, epoch, keys)).collect();
        scene.keyring.update(&chain).unwrap()
    };
    let without = state.pin(&next(4, 5, &[root_key(), job_key(12)])).unwrap();
    assert_eq!(without.high(signer(11).kid()), Some(10), "it may come back, and its old jobs must not");
    let crowd: Vec<Key> = std::iter::once(root_key()).chain((20..27).map(job_key)).collect();
    let full =
        (20..27).fold(state.pin(&next(4, 5, &crowd)).unwrap(), |state, n| state.accept(signer(n).kid(), 5, 1).unwrap());
    assert_eq!(full.high(signer(11).kid()), Some(10));
    let other = full.pin(&next(5, 5, &[root_key(), job_key(20), job_key(30)])).unwrap();
    assert!(other.accept(signer(30).kid(), 5, 1).is_ok(), "room was made");
    assert_eq!(other.high(signer(20).kid()), Some(1));
    let epoch = state.pin(&next(4, 6, &[root_key(), job_key(11)])).unwrap();
    assert_eq!((epoch.high(signer(11).kid()), epoch.epoch, epoch.keyring_version), (None, 6, 4));
    assert_eq!(epoch.pin(&scene.keyring), Err(KeyringError::Rollback));
    let mut lower = TrustState::default();
    (lower.keyring_version, lower.epoch) = (3, 6);
    assert_eq!(lower.pin(&scene.keyring), Err(KeyringError::Epoch));
}

#[test]
fn modes_differ_in_what_passes_without_a_signature() {
    let mut scene = Scene::new();
    let job = signed(&header());
    let bare = job.with(|job| job.signature = None);
    let empty = job.with(|job| job.signature = Some(String::new()));
    let bad = job.with(|job| job.signature = Some("x".into()));
    let malformed = SignatureError::Jws(JwsError::Shape);
    assert_eq!(scene.error(&bare), TrustError::Unsigned);
    assert_eq!(scene.error(&empty), TrustError::Unsigned);
    assert_eq!(scene.signature_error(&bad), malformed);
    assert_eq!(scene.verify_with(&job, None).err(), Some(TrustError::NoKeyring));

    scene.signatures = Signatures::Warn;
    assert!(matches!(scene.verify(&job), Ok((_, Assurance::Signed(_), _))));
    assert!(matches!(scene.verify(&bare), Ok((_, Assurance::Unsigned, _))));
    assert_eq!(scene.signature_error(&bad), malformed);
    for job in [&job, &bare, &bad] {
        let (text, assurance, state) = scene.verify_with(job, None).unwrap();
        assert_eq!((text.as_str(), assurance, state), (r#"{"a":[1],"b":1}"#, Assurance::Unsigned, scene.state));
    }

    scene.signatures = Signatures::Off;
    assert!(matches!(scene.verify(&bad), Ok((_, Assurance::Unsigned, _))));
    let twice = bare.with(|job| job.payload = Some(r#"{"a":1,"a":1}"#.into()));
    assert_eq!(scene.error(&twice), TrustError::Payload(CanonicalError::DuplicateMember));
    let sealed = scene.seal("{}");
    let sealed = bare.with(|job| (job.payload, job.encrypted_payload) = (None, Some(sealed)));
    assert!(matches!(scene.verify(&sealed), Ok((_, Assurance::Unsigned, _))));
}

#[test]
fn lengths_come_first() {
    let scene = Scene::new();
    let job = signed(&header());
    let too_long = |change: fn(&mut Sent)| scene.signature_error(&job.with(change));
    assert_eq!(too_long(|job| job.id = "x".repeat(limits::JOB_ID_BYTES + 1)), SignatureError::TooLong("id"));
    assert_eq!(too_long(|job| job.id = "x".repeat(limits::JOB_ID_BYTES)), SignatureError::WrongJob);
    assert_eq!(
        too_long(|job| job.payload = Some(" ".repeat(limits::JOB_BYTES + 1))),
        SignatureError::TooLong("payload")
    );
    assert_eq!(
        too_long(|job| job.signature = Some("x".repeat(limits::SIGNATURE_BYTES + 1))),
        SignatureError::Jws(JwsError::TooLong)
    );
    assert_eq!(too_long(|job| job.signature = Some("x".into())), SignatureError::Jws(JwsError::Shape));
}

type Part = fn(&mut Sent) -> &mut String;

#[test]
fn every_single_byte_of_what_is_signed_counts() {
    let scene = Scene::new();
    let job = signed(&header());
    let parts: [(&str, Part); 5] = [
        ("id", |job| &mut job.id),
        ("kind", |job| &mut job.kind),
        ("idempotencyKey", |job| &mut job.idempotency_key),
        ("payload", |job| job.payload.as_mut().unwrap()),
        ("signature", |job| job.signature.as_mut().unwrap()),
    ];
    for (name, part) in parts {
        let length = part(&mut job.clone()).len();
        for at in 0..length {
            for bit in 0..8 {
                let mut changed = job.clone();
                let mut bytes = part(&mut changed).clone().into_bytes();
                bytes[at] ^= 1 << bit;
                // What is no text cannot come out of a JSON text.
                let Ok(text) = String::from_utf8(bytes) else { continue };
                *part(&mut changed) = text;
                let result = scene.verify(&changed);
                let same = name == "payload"
                    && changed.payload.as_ref().is_some_and(|payload| {
                        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
                        value(payload).is_some() && value(payload) == value(job.payload.as_ref().unwrap())
                    });
                assert_eq!(result.is_ok(), same, "{name} {at} {bit}: {result:?}");
            }
        }
    }
    for bit in 0..63 {
        let changed = job.with(|job| job.expires_at = Some(job.expires_at.unwrap() ^ 1 << bit));
        assert_eq!(scene.signature_error(&changed), SignatureError::WrongExpiry);
    }
}

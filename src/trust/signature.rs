//! The signature of a job (TRUST.md, Signature of a job): a detached JWS over the canonical form of its payload, whose
//! header repeats all of the job that the agent acts on.
//!
//! The checks come in this order, and the first that fails names the fault: lengths; the header, strictly; the key,
//! its use and the epoch; the signature; the cluster; id, kind, expiry and idempotency key as they stand in the job;
//! the times; then, in [`super::verify`], the sequence number and the ciphertext.
//!
//! `exp` is always there, so a job without `expiresAt` cannot be a signed one: only `idk` and `enc_sha256` may be
//! absent. `expiresAt` is written down to nanoseconds and `exp` in whole seconds; they are the same when they fall into
//! the same second. An absent `idk` says that the idempotency key is empty.

use std::borrow::Cow;
use std::fmt;

use zeroize::Zeroizing;

use super::base64url;
use super::canonical::{self, CanonicalError, Caps};
use super::jws::{Detached, JwsError, is_ed25519, verify};
use super::key_id::{KeyId, sha256};
use super::keyring::{Key, Keyring, Use};
use super::members::{MemberError, Members};
use super::replay::UNDATED;
use crate::limits;

/// The header's `typ`.
pub(super) const TYPE: &str = "edge-job+jws";

/// What a signature is checked against: the job as it came, outside of what is signed.
#[derive(Clone, Copy, Debug)]
pub struct Outer<'a> {
    /// `id`.
    pub id: &'a str,
    /// `kind`.
    pub kind: &'a str,
    /// `expiresAt` in whole Unix seconds, a fraction cut off.
    pub expires_at: Option<i64>,
    /// `idempotencyKey`; empty = none.
    pub idempotency_key: &'a str,
    /// The text of `payload`; `null` and a missing member are none.
    pub payload: Option<&'a str>,
    /// The value of `encryptedPayload`; `null` and a missing member are none.
    pub encrypted_payload: Option<&'a str>,
    /// The value of `signature`; `null`, empty and a missing member are none.
    pub signature: Option<&'a str>,
}

/// What time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Unix seconds, never below the floor of the clock.
    pub seconds: i64,
    /// Whether this time can be relied on (TRUST.md, Clock). If not, it is known only that it is not earlier.
    pub confirmed: bool,
}

/// Why a signature is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignatureError {
    /// The signature is not that of the key over this header and this payload.
    BadSignature,
    /// The job was issued before the trust state was lost, and may have been done already.
    BeforeLoss,
    /// The clock is not confirmed, so nobody can tell whether the job has expired. It has to wait.
    ClockUnconfirmed,
    /// The job has expired.
    Expired,
    /// The text is no JWS of a job.
    Jws(JwsError),
    /// The key is no longer good.
    KeyExpired,
    /// The key is not good yet.
    KeyNotYetValid,
    /// The job was issued in the future.
    NotYetValid,
    /// The payload has no canonical form, so it cannot have been signed.
    Payload(CanonicalError),
    /// A part of the job is longer than allowed; which one.
    TooLong(&'static str),
    /// The key is not in the pinned keyring.
    UnknownKey,
    /// The job is for another cluster.
    WrongCluster,
    /// The job was signed in another epoch than the keyring's.
    WrongEpoch,
    /// The job's `expiresAt` is not the signed one.
    WrongExpiry,
    /// The job's `idempotencyKey` is not the signed one.
    WrongIdempotencyKey,
    /// The job's `id` is not the signed one.
    WrongJob,
    /// The job's `kind` is not the signed one.
    WrongKind,
    /// The key is in the keyring, but not for jobs.
    WrongUse,
}

impl SignatureError {
    /// One word for a result, an event, a log.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BadSignature => "BadSignature",
            Self::BeforeLoss => "BeforeLoss",
            Self::ClockUnconfirmed => "ClockUnconfirmed",
            Self::Expired => "Expired",
            Self::Jws(_) => "MalformedSignature",
            Self::KeyExpired => "KeyExpired",
            Self::KeyNotYetValid => "KeyNotYetValid",
            Self::NotYetValid => "NotYetValid",
            Self::Payload(_) => "MalformedPayload",
            Self::TooLong(_) => "TooLong",
            Self::UnknownKey => "UnknownKey",
            Self::WrongCluster => "WrongCluster",
            Self::WrongEpoch => "WrongEpoch",
            Self::WrongExpiry => "WrongExpiry",
            Self::WrongIdempotencyKey => "WrongIdempotencyKey",
            Self::WrongJob => "WrongJob",
            Self::WrongKind => "WrongKind",
            Self::WrongUse => "WrongUse",
        }
    }
}

impl fmt::Display for SignatureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadSignature => "the job's signature is not that of the key it names",
            Self::BeforeLoss => "the job was signed before this node lost its record of earlier jobs",
            Self::ClockUnconfirmed => "this node does not know the time yet, so the job waits",
            Self::Expired => "the job has expired",
            Self::Jws(_) => "the job's signature cannot be read",
            Self::KeyExpired => "the key that signed the job is past its notAfter",
            Self::KeyNotYetValid => "the key that signed the job is not good before its notBefore",
            Self::NotYetValid => "the job was signed in the future: its iat is ahead of this node's clock",
            Self::Payload(_) => "the job's payload has no canonical form",
            Self::TooLong(part) => return write!(f, "the job's {part} is too long"),
            Self::UnknownKey => "the job is signed by a key that is not in the pinned keyring",
            Self::WrongCluster => "the job was signed for another cluster",
            Self::WrongEpoch => "the job was signed in another epoch than that of the pinned keyring",
            Self::WrongExpiry => "the job's expiresAt is not the signed one",
            Self::WrongIdempotencyKey => "the job's idempotencyKey is not the signed one",
            Self::WrongJob => "the job's id is not the signed one",
            Self::WrongKind => "the job's kind is not the signed one",
            Self::WrongUse => "the key that signed the job may not sign jobs",
        })
    }
}

impl std::error::Error for SignatureError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Jws(error) => Some(error),
            Self::Payload(error) => Some(error),
            _ => None,
        }
    }
}

impl From<JwsError> for SignatureError {
    fn from(error: JwsError) -> Self {
        Self::Jws(error)
    }
}

impl From<MemberError> for SignatureError {
    fn from(error: MemberError) -> Self {
        Self::Jws(JwsError::Header(error))
    }
}

/// What a good signature says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The key.
    pub kid: KeyId,
    /// The epoch, which is the keyring's.
    pub epoch: u64,
    /// The number of the job.
    pub seq: u64,
    /// When it was signed, Unix seconds.
    pub iat: i64,
    /// When it expires, Unix seconds.
    pub exp: i64,
    /// The job's id.
    pub jti: String,
    /// The first eight bytes of the SHA-256 of the header segment: tells a redelivery from another job of the same id.
    pub header_hash: [u8; 8],
    /// SHA-256 of the ciphertext's text, when the payload is encrypted.
    pub enc_sha256: Option<[u8; 32]>,
    /// What was signed: the header segment, a dot, and the payload in canonical form.
    pub(super) signed: Zeroizing<Vec<u8>>,
    /// Where the payload begins in it.
    pub(super) payload_at: usize,
}

impl Checked {
    /// The payload in canonical form, as it was verified.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.signed.get(self.payload_at..).unwrap_or_default()
    }
}

/// Checks the signature of a job, but for its sequence number and its ciphertext.
///
/// `lost_at` is the time at which the trust state was lost, if it was: only younger jobs may act.
///
/// # Errors
/// As [`SignatureError`] lists them.
pub fn check(
    job: &Outer<'_>,
    signature: &str,
    ring: &Keyring,
    cluster: &str,
    now: Now,
    lost_at: Option<i64>,
) -> Result<Checked, SignatureError> {
    check_lengths(job)?;
    let jws = Detached::parse(signature)?;
    let header = Header::parse(&jws.header)?;

    let key = ring.key(header.kid).ok_or(SignatureError::UnknownKey)?;
    if key.usage() != Use::Job {
        return Err(SignatureError::WrongUse);
    }
    if header.epoch != ring.epoch() {
        return Err(SignatureError::WrongEpoch);
    }

    let (signed, payload_at) = signing_input(jws.segment, job.payload.unwrap_or("null"))?;
    if !verify(key.x(), &signed, &jws.signature) {
        return Err(SignatureError::BadSignature);
    }

    header.compare(job, cluster)?;
    header.check_times(key, now, lost_at)?;

    Ok(Checked {
        kid: header.kid,
        epoch: header.epoch,
        seq: header.seq,
        iat: header.iat,
        exp: header.exp,
        jti: header.jti.into_owned(),
        header_hash: header_hash(signature),
        enc_sha256: header.enc_sha256,
        signed,
        payload_at,
    })
}

/// See [`Checked::header_hash`]; of a signature that may not even be one.
#[must_use]
pub fn header_hash(signature: &str) -> [u8; 8] {
    let segment = signature.split_once('.').map_or(signature, |(segment, _)| segment);
    let mut hash = [0; 8];
    hash.iter_mut().zip(sha256(segment.as_bytes())).for_each(|(place, byte)| *place = byte);
    hash
}

/// Where a job stands among those of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    /// The key.
    pub kid: KeyId,
    /// The epoch.
    pub epoch: u64,
    /// The number.
    pub seq: u64,
}

/// What a signature says of the job's place; nothing of it is verified.
#[must_use]
pub fn rank(signature: &str) -> Option<Rank> {
    let jws = Detached::parse(signature).ok()?;
    let header = Header::parse(&jws.header).ok()?;
    Some(Rank { kid: header.kid, epoch: header.epoch, seq: header.seq })
}

/// The bytes that are signed, and where the payload begins in them (RFC 7515, section 5.1; RFC 7797, section 3).
pub(super) fn signing_input(segment: &str, payload: &str) -> Result<(Zeroizing<Vec<u8>>, usize), SignatureError> {
    let mut signed = Zeroizing::new(Vec::new());
    let payload_at = segment.len().saturating_add(1);
    let room = payload.len().saturating_mul(limits::CANONICAL_GROWTH).min(limits::JOB_BYTES);
    signed.reserve_exact(payload_at.saturating_add(room));
    signed.extend_from_slice(segment.as_bytes());
    signed.push(b'.');
    canonical::append(payload.as_bytes(), Caps::JOB, &mut signed).map_err(SignatureError::Payload)?;
    Ok((signed, payload_at))
}

fn check_lengths(job: &Outer<'_>) -> Result<(), SignatureError> {
    let lengths = [
        (job.id.len(), limits::JOB_ID_BYTES, "id"),
        (job.payload.map_or(0, str::len), limits::JOB_BYTES, "payload"),
        (job.encrypted_payload.map_or(0, str::len), limits::JOB_BYTES, "encryptedPayload"),
        (job.idempotency_key.len(), limits::JOB_BYTES, "idempotencyKey"),
    ];
    match lengths.iter().find(|(length, cap, _)| length > cap) {
        Some((_, _, part)) => Err(SignatureError::TooLong(part)),
        None => Ok(()),
    }
}

struct Header<'a> {
    kid: KeyId,
    epoch: u64,
    aud: Cow<'a, str>,
    jti: Cow<'a, str>,
    kind: Cow<'a, str>,
    seq: u64,
    iat: i64,
    exp: i64,
    idk: Option<[u8; 32]>,
    enc_sha256: Option<[u8; 32]>,
}

impl<'a> Header<'a> {
    fn parse(text: &'a str) -> Result<Self, SignatureError> {
        let mut members = Members::parse(text)?;
        if !is_ed25519(&members.text("alg")?) {
            return Err(JwsError::Algorithm.into());
        }
        if members.text("typ")? != TYPE {
            return Err(JwsError::Type.into());
        }
        if members.required::<bool>("b64")? {
            return Err(MemberError::Wrong("b64").into());
        }
        let crit: Vec<Cow<'_, str>> = members.required("crit")?;
        if crit != ["b64"] {
            return Err(MemberError::Wrong("crit").into());
        }
        let mut digest = |name| match members.optional_text(name)? {
            Some(text) => base64url::decode_array(&text).map(Some).ok_or(MemberError::Wrong(name)),
            None => Ok(None),
        };
        let idk = digest("idk")?;
        let enc_sha256 = digest("enc_sha256")?;
        let header = Self {
            kid: KeyId::parse(&members.text("kid")?).ok_or(MemberError::Wrong("kid"))?,
            epoch: members.required("epoch")?,
            aud: members.text("aud")?,
            jti: members.text("jti")?,
            kind: members.text("kind")?,
            seq: members.required("seq")?,
            iat: members.required("iat")?,
            exp: members.required("exp")?,
            idk,
            enc_sha256,
        };
        members.end()?;
        Ok(header)
    }

    /// Whether this is the job that was signed.
    fn compare(&self, job: &Outer<'_>, cluster: &str) -> Result<(), SignatureError> {
        if self.aud != cluster {
            return Err(SignatureError::WrongCluster);
        }
        if self.jti != job.id {
            return Err(SignatureError::WrongJob);
        }
        if self.kind != job.kind {
            return Err(SignatureError::WrongKind);
        }
        if Some(self.exp) != job.expires_at {
            return Err(SignatureError::WrongExpiry);
        }
        let key = job.idempotency_key;
        if self.idk != (!key.is_empty()).then(|| sha256(key.as_bytes())) {
            return Err(SignatureError::WrongIdempotencyKey);
        }
        Ok(())
    }

    fn check_times(&self, key: &Key, now: Now, lost_at: Option<i64>) -> Result<(), SignatureError> {
        // What has ended by a time that is certainly over has ended, whatever the clock says.
        if now.seconds >= self.exp {
            return Err(SignatureError::Expired);
        }
        if key.not_after().is_some_and(|end| now.seconds > end) {
            return Err(SignatureError::KeyExpired);
        }
        let is_dated = lost_at != Some(UNDATED);
        if is_dated && lost_at.is_some_and(|lost| self.iat <= lost) {
            return Err(SignatureError::BeforeLoss);
        }
        if !now.confirmed || !is_dated {
            return Err(SignatureError::ClockUnconfirmed);
        }
        let skew = i64::try_from(limits::CLOCK_SKEW.as_secs()).unwrap_or(0);
        if self.iat > now.seconds.saturating_add(skew) {
            return Err(SignatureError::NotYetValid);
        }
        if key.not_before().is_some_and(|start| now.seconds < start) {
            return Err(SignatureError::KeyNotYetValid);
        }
        Ok(())
    }
}

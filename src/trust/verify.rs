//! All checks of a job in their order. Only here a [`Verified`] is made.
//!
//! Nothing is changed on the way: a job that passes comes with the trust state that has to be committed before it is
//! acked; one that fails comes with an error, and the state is what it was.

use std::fmt;

use zeroize::Zeroizing;

use super::canonical::{CanonicalError, Caps, canonical};
use super::envelope::{EnvelopeError, PayloadKeys, decrypt};
use super::key_id::{KeyId, sha256};
use super::keyring::Keyring;
use super::replay::{ReplayError, TrustState};
use super::signature::{Checked, Now, Outer, SignatureError, check};

/// What is asked of a job's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signatures {
    /// Nothing: a signature is not even looked at.
    Off,
    /// A job without a signature does nothing.
    Require,
    /// A job without a signature passes with a mark. One with a signature is checked when a keyring is pinned.
    Warn,
}

/// What a job is judged by.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// What is asked of a signature.
    pub signatures: Signatures,
    /// The pinned keys.
    pub keyring: Option<&'a Keyring>,
    /// The keys that payloads are encrypted to.
    pub payload_keys: Option<&'a PayloadKeys>,
    /// The id of this cluster.
    pub cluster: &'a str,
    /// The time.
    pub now: Now,
    /// The header hash of the job of the same id that this node knows, if it knows one. The same header is a
    /// redelivery, and its sequence number is not counted again.
    pub known: Option<[u8; 8]>,
}

/// Something that passed all checks. Nothing else than [`verify`] makes one.
#[derive(Debug)]
pub struct Verified<T> {
    value: T,
    assurance: Assurance,
}

impl<T> Verified<T> {
    /// How far it can be trusted.
    #[must_use]
    pub fn assurance(&self) -> &Assurance {
        &self.assurance
    }
}

impl<T> std::ops::Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// How far a job can be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assurance {
    /// A key of the pinned ring has signed it.
    Signed(Signed),
    /// Nobody has, or nobody looked.
    Unsigned,
}

/// What a signature says beside the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The key.
    pub kid: KeyId,
    /// The epoch.
    pub epoch: u64,
    /// The number.
    pub seq: u64,
    /// When it was signed, Unix seconds.
    pub iat: i64,
    /// When it expires, Unix seconds.
    pub exp: i64,
    /// See [`Checked::header_hash`].
    pub header_hash: [u8; 8],
    /// The job was accepted before.
    pub redelivery: bool,
}

/// What a job asks for, in canonical form.
pub struct Payload {
    /// The job's id.
    pub id: String,
    /// `apply`, `delete` or `intent`; for whoever carries it out to judge.
    pub kind: String,
    /// Empty = never a duplicate.
    pub idempotency_key: String,
    /// It came encrypted.
    pub encrypted: bool,
    bytes: Zeroizing<Vec<u8>>,
    at: usize,
}

impl Payload {
    /// The JSON text; `null` is no payload.
    #[must_use]
    pub fn text(&self) -> &str {
        self.bytes.get(self.at..).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or("null")
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload").field("id", &self.id).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Why a job does nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustError {
    /// It has a payload and an encrypted one.
    BothPayloads,
    /// The encrypted payload cannot be decrypted.
    Envelope(EnvelopeError),
    /// The pinned keyring is older than one that was used before.
    KeyringBehind,
    /// The ciphertext is not the signed one, or there is one where none is signed.
    MixedPayload,
    /// Signatures are required, and no key is pinned.
    NoKeyring,
    /// The payload is encrypted, and this node has no key for it.
    NoPayloadKey,
    /// The payload has no canonical form.
    Payload(CanonicalError),
    /// Its number must not come now.
    Replay(ReplayError),
    /// Its signature is not accepted.
    Signature(SignatureError),
    /// It has no signature, and must have one.
    Unsigned,
}

impl TrustError {
    /// One word for a result, an event, a log.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BothPayloads => "BothPayloads",
            Self::Envelope(error) => error.reason(),
            Self::KeyringBehind => "KeyringBehind",
            Self::MixedPayload => "MixedPayload",
            Self::NoKeyring => "NoKeyring",
            Self::NoPayloadKey => "NoPayloadKey",
            Self::Payload(_) => "MalformedPayload",
            Self::Replay(ReplayError::Jump) => "SequenceJump",
            Self::Replay(ReplayError::NoRoom) => "SequenceNoRoom",
            Self::Replay(ReplayError::OtherEpoch) => "WrongEpoch",
            Self::Replay(ReplayError::Replayed) => "Replayed",
            Self::Replay(ReplayError::Start) => "SequenceStart",
            Self::Signature(error) => error.reason(),
            Self::Unsigned => "Unsigned",
        }
    }

    /// Whether the job may pass later, when the clock is confirmed; all other errors are final.
    #[must_use]
    pub fn waits(&self) -> bool {
        matches!(self, Self::Signature(SignatureError::ClockUnconfirmed))
    }
}

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BothPayloads => f.write_str("the job has both a payload and an encrypted payload"),
            Self::Envelope(error) => error.fmt(f),
            Self::KeyringBehind => f.write_str("the pinned keyring is older than one that this node had before"),
            Self::MixedPayload => f.write_str("the job's encrypted payload is not the signed one"),
            Self::NoKeyring => f.write_str("signatures are required, and no key is pinned on this node"),
            Self::NoPayloadKey => f.write_str("the payload is encrypted, and this node has no key for it"),
            Self::Payload(_) => f.write_str("the job's payload has no canonical form"),
            Self::Replay(error) => error.fmt(f),
            Self::Signature(error) => error.fmt(f),
            Self::Unsigned => f.write_str("the job is not signed, and this node does only what its owner signed"),
        }
    }
}

impl std::error::Error for TrustError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Envelope(error) => error.source(),
            Self::Payload(error) => Some(error),
            Self::Signature(error) => error.source(),
            _ => None,
        }
    }
}

impl From<EnvelopeError> for TrustError {
    fn from(error: EnvelopeError) -> Self {
        Self::Envelope(error)
    }
}

impl From<ReplayError> for TrustError {
    fn from(error: ReplayError) -> Self {
        Self::Replay(error)
    }
}

impl From<SignatureError> for TrustError {
    fn from(error: SignatureError) -> Self {
        Self::Signature(error)
    }
}

/// Checks a job and decrypts its payload.
///
/// # Errors
/// As [`TrustError`] lists them; the first check that fails names the fault.
pub fn verify(
    job: &Outer<'_>,
    context: &Context<'_>,
    state: &TrustState,
) -> Result<(Verified<Payload>, TrustState), TrustError> {
    if job.payload.is_some() && job.encrypted_payload.is_some() {
        return Err(TrustError::BothPayloads);
    }
    let Some((signature, ring)) = to_check(job, context)? else {
        let bytes = match job.encrypted_payload {
            Some(text) => open(text, context)?,
            None => canonical(job.payload.unwrap_or("null").as_bytes(), Caps::JOB).map_err(TrustError::Payload)?,
        };
        return Ok((verified(job, bytes, 0, Assurance::Unsigned), *state));
    };

    let checked = check(job, signature, ring, context.cluster, context.now, state.lost_at)?;
    let redelivery = context.known == Some(checked.header_hash);
    let next = if redelivery { *state } else { state.accept(checked.kid, checked.epoch, checked.seq)? };
    if checked.enc_sha256 != job.encrypted_payload.map(|text| sha256(text.as_bytes())) {
        return Err(TrustError::MixedPayload);
    }
    let assurance = Assurance::Signed(Signed {
        kid: checked.kid,
        epoch: checked.epoch,
        seq: checked.seq,
        iat: checked.iat,
        exp: checked.exp,
        header_hash: checked.header_hash,
        redelivery,
    });
    let Checked { signed, payload_at, .. } = checked;
    let (bytes, at) = match job.encrypted_payload {
        Some(text) => (open(text, context)?, 0),
        None => (signed, payload_at),
    };
    Ok((verified(job, bytes, at, assurance), next))
}

/// The signature that has to be checked, and what with; none when the job passes without.
fn to_check<'a>(job: &Outer<'a>, context: &Context<'a>) -> Result<Option<(&'a str, &'a Keyring)>, TrustError> {
    let signature = job.signature.filter(|signature| !signature.is_empty());
    match (context.signatures, context.keyring, signature) {
        (Signatures::Off, _, _) | (Signatures::Warn, None, _) | (Signatures::Warn, _, None) => Ok(None),
        (Signatures::Require | Signatures::Warn, Some(ring), Some(signature)) => Ok(Some((signature, ring))),
        (Signatures::Require, None, _) => Err(TrustError::NoKeyring),
        (Signatures::Require, Some(_), None) => Err(TrustError::Unsigned),
    }
}

/// The plaintext goes the way of an open payload: the same reader, the same limits.
fn open(text: &str, context: &Context<'_>) -> Result<Zeroizing<Vec<u8>>, TrustError> {
    let plaintext = decrypt(text, context.payload_keys.ok_or(TrustError::NoPayloadKey)?)?;
    canonical(&plaintext, Caps::JOB).map_err(TrustError::Payload)
}

fn verified(job: &Outer<'_>, bytes: Zeroizing<Vec<u8>>, at: usize, assurance: Assurance) -> Verified<Payload> {
    let payload = Payload {
        id: job.id.to_owned(),
        kind: job.kind.to_owned(),
        idempotency_key: job.idempotency_key.to_owned(),
        encrypted: job.encrypted_payload.is_some(),
        bytes,
        at,
    };
    Verified { value: payload, assurance }
}

#[cfg(test)]
mod tests;

//! The other side: what an owner's machine does with a private key. The agent itself signs no job and no keyring.

use std::fmt;

use ring::rand::SecureRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde::Serialize;
use zeroize::Zeroizing;

use super::base64url;
use super::key_id::{KeyId, sha256};
use super::keyring::{self, Key};
use super::signature::{self, SignatureError, signing_input};

/// A private key that signs jobs or keyrings.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: [u8; 32],
}

/// Why there is no signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignError {
    /// It is no Ed25519 key.
    Key,
    /// The payload has no canonical form.
    Payload(SignatureError),
    /// The system gives no random bytes.
    Random,
}

impl fmt::Display for SignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key => f.write_str("this is no Ed25519 private key"),
            Self::Payload(_) => f.write_str("the payload cannot be signed"),
            Self::Random => f.write_str("the system gives no random bytes"),
        }
    }
}

impl std::error::Error for SignError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Payload(error) => std::error::Error::source(error),
            _ => None,
        }
    }
}

/// What is signed of a job beside its payload.
#[derive(Clone, Copy, Debug)]
pub struct JobHeader<'a> {
    /// Epoch of the keyring.
    pub epoch: u64,
    /// Id of the cluster it is for.
    pub cluster: &'a str,
    /// Id of the job.
    pub id: &'a str,
    /// `apply`, `delete` or `intent`.
    pub kind: &'a str,
    /// Its number among those that this key has signed in this epoch.
    pub seq: u64,
    /// Now, in Unix seconds.
    pub iat: i64,
    /// When it expires, in Unix seconds: the job's `expiresAt`.
    pub exp: i64,
    /// The job's `idempotencyKey`; empty = none.
    pub idempotency_key: &'a str,
    /// The job's `encryptedPayload`, in which case its payload is `null`.
    pub encrypted_payload: Option<&'a str>,
}

impl SigningKey {
    /// A new key, and the 32 bytes to keep.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate(random: &dyn SecureRandom) -> Result<(Self, Zeroizing<[u8; 32]>), SignError> {
        let mut seed = Zeroizing::new([0; 32]);
        random.fill(seed.as_mut_slice()).map_err(|_| SignError::Random)?;
        Ok((Self::from_seed(&seed)?, seed))
    }

    /// The key of these 32 bytes (RFC 8032, section 5.1.5).
    ///
    /// # Errors
    /// None that is known: any 32 bytes are a key.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, SignError> {
        Self::new(Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| SignError::Key)?)
    }

    /// The key in a PKCS#8 document (RFC 8410), with or without its public half.
    ///
    /// # Errors
    /// When it is no Ed25519 key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, SignError> {
        Self::new(Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|_| SignError::Key)?)
    }

    fn new(pair: Ed25519KeyPair) -> Result<Self, SignError> {
        let public = pair.public_key().as_ref().try_into().map_err(|_| SignError::Key)?;
        Ok(Self { pair, public })
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// Its name.
    #[must_use]
    pub fn kid(&self) -> KeyId {
        KeyId::of_ed25519(&self.public)
    }

    /// Signs a job: the value of its `signature`.
    ///
    /// # Errors
    /// When the payload has no canonical form.
    pub fn sign_job(&self, job: &JobHeader<'_>, payload: &str) -> Result<String, SignError> {
        #[derive(Serialize)]
        struct Header<'a> {
            alg: &'a str,
            b64: bool,
            crit: [&'a str; 1],
            typ: &'a str,
            kid: String,
            epoch: u64,
            aud: &'a str,
            jti: &'a str,
            kind: &'a str,
            seq: u64,
            iat: i64,
            exp: i64,
            #[serde(skip_serializing_if = "Option::is_none")]
            idk: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            enc_sha256: Option<String>,
        }
        let digest = |text: &str| base64url::encode(&sha256(text.as_bytes()));
        let key = job.idempotency_key;
        let header = json(&Header {
            alg: "Ed25519",
            b64: false,
            crit: ["b64"],
            typ: signature::TYPE,
            kid: self.kid().to_string(),
            epoch: job.epoch,
            aud: job.cluster,
            jti: job.id,
            kind: job.kind,
            seq: job.seq,
            iat: job.iat,
            exp: job.exp,
            idk: (!key.is_empty()).then(|| digest(key)),
            enc_sha256: job.encrypted_payload.map(digest),
        });
        self.sign_detached(&header, payload)
    }

    /// Signs a payload in canonical form under a header that is taken as it is.
    ///
    /// # Errors
    /// When the payload has no canonical form.
    pub fn sign_detached(&self, header: &str, payload: &str) -> Result<String, SignError> {
        let header = base64url::encode(header.as_bytes());
        let (input, _) = signing_input(&header, payload).map_err(SignError::Payload)?;
        Ok(format!("{header}..{}", self.sign(&input)))
    }

    /// Signs a keyring.
    #[must_use]
    pub fn sign_keyring(&self, version: u32, epoch: u64, keys: &[Key]) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Entry {
            kid: String,
            x: String,
            #[serde(rename = "use")]
            usage: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            not_before: Option<i64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            not_after: Option<i64>,
        }
        #[derive(Serialize)]
        struct Ring {
            version: u32,
            epoch: u64,
            keys: Vec<Entry>,
        }
        let entry = |key: &Key| Entry {
            kid: key.kid().to_string(),
            x: base64url::encode(key.x()),
            usage: key.usage().name(),
            not_before: key.not_before(),
            not_after: key.not_after(),
        };
        self.sign_compact(keyring::TYPE, &json(&Ring { version, epoch, keys: keys.iter().map(entry).collect() }))
    }

    /// Signs a payload that travels inside the JWS, under `alg`, this `typ` and `kid`.
    #[must_use]
    pub fn sign_compact(&self, typ: &str, payload: &str) -> String {
        #[derive(Serialize)]
        struct Header<'a> {
            alg: &'a str,
            typ: &'a str,
            kid: String,
        }
        self.sign_compact_as(&json(&Header { alg: "Ed25519", typ, kid: self.kid().to_string() }), payload)
    }

    /// Signs a payload that travels inside the JWS, under a header that is taken as it is.
    #[must_use]
    pub fn sign_compact_as(&self, header: &str, payload: &str) -> String {
        let [header, payload] = [header, payload].map(|text| base64url::encode(text.as_bytes()));
        let input = format!("{header}.{payload}");
        let signature = self.sign(input.as_bytes());
        format!("{input}.{signature}")
    }

    /// The bare signature of these bytes.
    #[must_use]
    pub fn sign_bytes(&self, message: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        let made = self.pair.sign(message);
        signature.iter_mut().zip(made.as_ref()).for_each(|(place, byte)| *place = *byte);
        signature
    }

    fn sign(&self, message: &[u8]) -> String {
        base64url::encode(&self.sign_bytes(message))
    }
}

/// Texts and numbers always have a JSON text.
fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

//! The owner of a node: keys that the server never has, jobs signed and encrypted as TRUST.md says.
//!
//! It shares no code with the agent: the canonical form is written from a tree, and the sender's half of the key
//! agreement is ring's.

use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead;
use ring::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use ring::digest::{Context, SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

use super::{Call, Job, Testbed};

/// What a key may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Jobs.
    Job,
    /// Keyrings and CA bundles.
    Root,
}

/// An Ed25519 key pair.
#[derive(Debug)]
pub(crate) struct Key {
    pair: Ed25519KeyPair,
}

/// One who signs jobs for a node, with a root key and a job key.
#[derive(Debug)]
pub(crate) struct Owner {
    /// Signs keyrings.
    pub(crate) root: Key,
    /// Signs jobs.
    pub(crate) job: Key,
    /// Of the keyring.
    pub(crate) epoch: u64,
    pub(crate) seq: AtomicU64,
}

impl Key {
    /// A new one.
    pub(crate) fn new() -> Self {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).expect("the system has randomness");
        Self { pair: Ed25519KeyPair::from_seed_unchecked(&seed).expect("any 32 bytes are a seed") }
    }

    /// The public half, base64url.
    pub(crate) fn x(&self) -> String {
        encode(self.pair.public_key().as_ref())
    }

    /// RFC 7638 thumbprint.
    pub(crate) fn kid(&self) -> String {
        let jwk = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, self.x());
        sha256(jwk.as_bytes())
    }

    /// An entry of a keyring without bounds in time.
    pub(crate) fn entry(&self, usage: Use) -> Value {
        let name = match usage {
            Use::Job => "job",
            Use::Root => "root",
        };
        let mut entry = json!({"kid": self.kid(), "x": self.x(), "use": name, "notBefore": 0});
        entry["notAfter"] = match usage {
            Use::Job => json!(4_102_444_800_u64),
            Use::Root => Value::Null,
        };
        if usage == Use::Root {
            // Root keys do not expire.
            entry.as_object_mut().expect("an object").remove("notAfter");
        }
        entry
    }

    /// A compact JWS with its payload inside.
    pub(crate) fn compact(&self, typ: &str, payload: &Value) -> String {
        let header = json!({"alg": "Ed25519", "typ": typ, "kid": self.kid()});
        let input = format!("{}.{}", encode(header.to_string().as_bytes()), encode(payload.to_string().as_bytes()));
        format!("{input}.{}", encode(self.pair.sign(input.as_bytes()).as_ref()))
    }

    /// A detached JWS over a payload that is not encoded (RFC 7797).
    pub(crate) fn detached(&self, header: &Value, payload: &str) -> String {
        let header = encode(header.to_string().as_bytes());
        let input = format!("{header}.{payload}");
        format!("{header}..{}", encode(self.pair.sign(input.as_bytes()).as_ref()))
    }
}

impl Owner {
    /// A new one.
    pub(crate) fn new() -> Self {
        Self { root: Key::new(), job: Key::new(), epoch: 1, seq: AtomicU64::new(1) }
    }

    /// The keyring of this version: the root key and the job key.
    pub(crate) fn keyring(&self, version: u64) -> String {
        self.keyring_of(version, self.epoch, &[self.root.entry(Use::Root), self.job.entry(Use::Job)])
    }

    /// A keyring of these keys, signed by the root key.
    pub(crate) fn keyring_of(&self, version: u64, epoch: u64, keys: &[Value]) -> String {
        self.root.compact("edge-keyring+jws", &json!({"version": version, "epoch": epoch, "keys": keys}))
    }

    /// The next number.
    pub(crate) fn next_seq(&self) -> u64 {
        self.seq.fetch_add(1, Ordering::Relaxed)
    }

    /// The header of a job's signature.
    pub(crate) fn header(&self, cluster: &str, job: &Value, seq: u64) -> Value {
        let text = |member: &str| job.get(member).and_then(Value::as_str);
        let seconds = |member: &str| {
            text(member).and_then(|text| text.parse::<jiff::Timestamp>().ok()).map(jiff::Timestamp::as_second)
        };
        let mut header = json!({
            "alg": "Ed25519", "b64": false, "crit": ["b64"], "typ": "edge-job+jws",
            "kid": self.job.kid(), "epoch": self.epoch, "aud": cluster,
            "jti": text("id").unwrap_or_default(), "kind": text("kind").unwrap_or_default(), "seq": seq,
            "iat": seconds("createdAt").unwrap_or_else(|| super::job::now().cast_signed()),
            "exp": seconds("expiresAt").unwrap_or(4_102_444_800),
        });
        if let Some(key) = text("idempotencyKey").filter(|key| !key.is_empty()) {
            header["idk"] = json!(sha256(key.as_bytes()));
        }
        if let Some(encrypted) = text("encryptedPayload") {
            header["enc_sha256"] = json!(sha256(encrypted.as_bytes()));
        }
        header
    }

    /// Signs a job for a cluster with the next number.
    pub(crate) fn sign(&self, cluster: &str, job: Job) -> Job {
        self.sign_with_seq(cluster, job, self.next_seq())
    }

    /// Signs a job with this number.
    pub(crate) fn sign_with_seq(&self, cluster: &str, job: Job, seq: u64) -> Job {
        let value = Value::from(job.clone());
        let header = self.header(cluster, &value, seq);
        let payload = canonical(value.get("payload").unwrap_or(&Value::Null));
        job.with("signature", self.job.detached(&header, &payload))
    }

    /// Encrypts the payload for a node's key (JWK) and signs the job.
    pub(crate) fn seal(&self, cluster: &str, job: Job, recipient: &Value) -> Job {
        self.sign(cluster, encrypted(job, recipient))
    }
}

/// The public key that the node sent when it registered.
pub(crate) fn payload_key(testbed: &Testbed) -> Value {
    let seen = testbed.requests_of(Call::Register);
    let body: Value = serde_json::from_slice(&seen.last().expect("it registered").body).expect("it is JSON");
    let mut key = body["publicKey"].clone();
    assert_eq!(key["crv"], "X25519", "{body}");
    let canonical = format!(r#"{{"crv":"X25519","kty":"OKP","x":{}}}"#, key["x"]);
    key["kid"] = json!(sha256(canonical.as_bytes()));
    key
}

/// Takes the payload of a job into a JWE for this key.
pub(crate) fn encrypted(job: Job, recipient: &Value) -> Job {
    let value = Value::from(job.clone());
    let plain = value.get("payload").cloned().unwrap_or_default().to_string();
    job.with("payload", Value::Null).with("encryptedPayload", encrypt(plain.as_bytes(), recipient))
}

/// JWE compact, ECDH-ES on X25519 with A256GCM.
pub(crate) fn encrypt(plain: &[u8], recipient: &Value) -> String {
    let random = SystemRandom::new();
    let private = EphemeralPrivateKey::generate(&X25519, &random).expect("the system has randomness");
    let public = private.compute_public_key().expect("it has one");
    let header = json!({
        "alg": "ECDH-ES", "enc": "A256GCM", "kid": recipient["kid"],
        "epk": {"kty": "OKP", "crv": "X25519", "x": encode(public.as_ref())},
    });
    let header = encode(header.to_string().as_bytes());
    let theirs = URL_SAFE_NO_PAD.decode(recipient["x"].as_str().expect("a JWK has an x")).expect("it is base64url");
    let key = agree_ephemeral(private, &UnparsedPublicKey::new(&X25519, theirs), |secret| {
        // Concat KDF, RFC 7518 section 4.6.2, with empty party infos: one block of 256 bits.
        let mut hash = Context::new(&SHA256);
        hash.update(&1_u32.to_be_bytes());
        hash.update(secret);
        hash.update(&7_u32.to_be_bytes());
        hash.update(b"A256GCM");
        hash.update(&0_u32.to_be_bytes());
        hash.update(&0_u32.to_be_bytes());
        hash.update(&256_u32.to_be_bytes());
        hash.finish()
    })
    .expect("the key is one of X25519");
    let key = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_256_GCM, key.as_ref()).expect("32 bytes"));
    let mut iv = [0; 12];
    random.fill(&mut iv).expect("the system has randomness");
    let mut text = plain.to_vec();
    let tag = key
        .seal_in_place_separate_tag(
            aead::Nonce::assume_unique_for_key(iv),
            aead::Aad::from(header.as_bytes()),
            &mut text,
        )
        .expect("it is short enough");
    format!("{header}..{}.{}.{}", encode(&iv), encode(&text), encode(tag.as_ref()))
}

/// RFC 8785 of what tests send: integers within 2^53, and texts.
pub(crate) fn canonical(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(members) => {
            let mut members: Vec<(&String, &Value)> = members.iter().collect();
            members.sort_by_key(|(name, _)| name.encode_utf16().collect::<Vec<u16>>());
            let members: Vec<String> = members
                .into_iter()
                .map(|(name, value)| format!("{}:{}", Value::String(name.clone()), canonical(value)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
        other => other.to_string(),
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    encode(digest(&SHA256, bytes).as_ref())
}

pub(crate) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

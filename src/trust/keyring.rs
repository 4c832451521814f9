//! The keys that a node trusts (TRUST.md, Keyring): pinned once, and from then on replaced only by what a root key of
//! the present ring has signed.
//!
//! What is kept on disk is the JWS of the last ring, as it was received: [`Keyring::text`]. That is enough to go on,
//! since it comes back from our own store; [`Keyring::restore`] cannot prove it, because the root key that signed it may
//! have been taken out by it.

use std::fmt;

use serde_json::value::RawValue;

use super::base64url;
use super::jws::{Compact, JwsError, is_ed25519};
use super::key_id::KeyId;
use super::members::{MemberError, Members};
use crate::limits;

/// The header's `typ`.
pub(super) const TYPE: &str = "edge-keyring+jws";

/// What a key may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Jobs.
    Job,
    /// Keyrings, and what else changes what a node trusts.
    Root,
}

impl Use {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::Root => "root",
        }
    }
}

/// One key of a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    kid: KeyId,
    x: [u8; 32],
    usage: Use,
    not_before: Option<i64>,
    not_after: Option<i64>,
}

impl Key {
    /// A key; `not_before` and `not_after` are Unix seconds, both included, and without meaning for a root key.
    #[must_use]
    pub fn new(x: [u8; 32], usage: Use, not_before: Option<i64>, not_after: Option<i64>) -> Self {
        Self { kid: KeyId::of_ed25519(&x), x, usage, not_before, not_after }
    }

    /// Its name.
    #[must_use]
    pub fn kid(&self) -> KeyId {
        self.kid
    }

    /// The public key.
    #[must_use]
    pub fn x(&self) -> &[u8; 32] {
        &self.x
    }

    /// What it may sign.
    #[must_use]
    pub fn usage(&self) -> Use {
        self.usage
    }

    /// The first second it is good for; none = always was. A root key always was.
    #[must_use]
    pub fn not_before(&self) -> Option<i64> {
        self.not_before.filter(|_| self.usage == Use::Job)
    }

    /// The last second it is good for; none = does not end. A root key does not.
    #[must_use]
    pub fn not_after(&self) -> Option<i64> {
        self.not_after.filter(|_| self.usage == Use::Job)
    }

    fn parse(text: &str) -> Result<Self, KeyringError> {
        let mut members = Members::parse(text)?;
        let kid = members.text("kid")?;
        let x = base64url::decode_array(&members.text("x")?).ok_or(MemberError::Wrong("x"))?;
        let usage = match &*members.text("use")? {
            "job" => Use::Job,
            "root" => Use::Root,
            _ => return Err(MemberError::Wrong("use").into()),
        };
        let not_before = members.optional::<Option<i64>>("notBefore")?.flatten();
        let not_after = members.optional::<Option<i64>>("notAfter")?.flatten();
        members.end()?;
        let key = Self::new(x, usage, not_before, not_after);
        if KeyId::parse(&kid) == Some(key.kid) { Ok(key) } else { Err(KeyringError::Thumbprint) }
    }
}

/// Why a keyring is not taken. What was pinned stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyringError {
    /// The signature is not that of the key it names.
    BadSignature,
    /// There is no keyring in the chain.
    EmptyChain,
    /// The epoch is lower than that of the ring before.
    Epoch,
    /// No ring of the chain is signed by the key with the fingerprint that was given.
    Fingerprint,
    /// Another ring has the version that is pinned.
    Fork,
    /// It is no JWS of a keyring.
    Jws(JwsError),
    /// The keyring itself is not as it must be.
    Member(MemberError),
    /// It has no root key, so nothing could ever follow it.
    NoRoot,
    /// All of the chain is older than what is pinned.
    Rollback,
    /// Two keys are the same, or their names begin with the same four bytes.
    SameKey,
    /// A key's name is not its thumbprint.
    Thumbprint,
    /// More keys than a ring may have.
    TooManyKeys,
    /// A longer chain than an update may have.
    TooManyRings,
    /// It is signed by a key that is not in the ring before it.
    UnknownSigner,
    /// The version is not the next one.
    Version {
        /// What it should have been.
        expected: u32,
        /// What it is.
        found: u32,
    },
    /// It is signed by a key that may sign jobs only.
    WrongUse,
}

impl fmt::Display for KeyringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadSignature => f.write_str("the keyring's signature is not that of the key it names"),
            Self::EmptyChain => f.write_str("there is no keyring"),
            Self::Epoch => f.write_str("the keyring's epoch is lower than that of the ring before it"),
            Self::Fingerprint => f.write_str("no keyring is signed by the root key with the given fingerprint"),
            Self::Fork => f.write_str("the keyring differs from the pinned one of the same version"),
            Self::Jws(_) => f.write_str("the text is no signed keyring"),
            Self::Member(_) => f.write_str("the keyring is not as it must be"),
            Self::NoRoot => f.write_str("the keyring has no root key, so none could ever follow it"),
            Self::Rollback => f.write_str("the keyring is older than the pinned one"),
            Self::SameKey => f.write_str("two keys of the keyring are the same, or cannot be told apart"),
            Self::Thumbprint => f.write_str("a key's kid is not its thumbprint"),
            Self::TooManyKeys => write!(f, "the keyring has more than {} keys", limits::KEYS),
            Self::TooManyRings => write!(f, "there are more than {} keyrings", limits::KEYRING_CHAIN),
            Self::UnknownSigner => f.write_str("the keyring is signed by a key that is not in the ring before it"),
            Self::Version { expected, found } => {
                write!(f, "the keyring has version {found} where {expected} must follow")
            }
            Self::WrongUse => f.write_str("the keyring is signed by a key that may sign jobs only"),
        }
    }
}

impl std::error::Error for KeyringError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Jws(error) => Some(error),
            Self::Member(error) => Some(error),
            _ => None,
        }
    }
}

impl From<JwsError> for KeyringError {
    fn from(error: JwsError) -> Self {
        Self::Jws(error)
    }
}

impl From<MemberError> for KeyringError {
    fn from(error: MemberError) -> Self {
        Self::Member(error)
    }
}

/// The keys that are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyring {
    version: u32,
    epoch: u64,
    keys: Vec<Key>,
    text: String,
}

impl Keyring {
    /// Pins the first ring of a chain, and follows the others: one JWS each, oldest first. The first must be signed by
    /// a root key of its own, which proves no more than that it is whole: where it comes from is the trust in it.
    ///
    /// # Errors
    /// As [`KeyringError`] lists them.
    pub fn pin<S: AsRef<str>>(chain: &[S]) -> Result<Self, KeyringError> {
        bounded(chain)?;
        let (first, rest) = chain.split_first().ok_or(KeyringError::EmptyChain)?;
        let first = Signed::parse(first.as_ref())?;
        first.check(&first.ring)?;
        follow(first.ring, rest)
    }

    /// Pins the first ring of a chain that the root key with this thumbprint is in and has signed, and follows the
    /// others.
    ///
    /// # Errors
    /// As [`KeyringError`] lists them.
    pub fn pin_by_fingerprint<S: AsRef<str>>(fingerprint: KeyId, chain: &[S]) -> Result<Self, KeyringError> {
        bounded(chain)?;
        for (at, text) in chain.iter().enumerate() {
            let signed = Signed::parse(text.as_ref())?;
            if signed.signer == fingerprint && signed.ring.key(fingerprint).is_some() {
                signed.check(&signed.ring)?;
                return follow(signed.ring, chain.get(at.saturating_add(1)..).unwrap_or_default());
            }
        }
        Err(KeyringError::Fingerprint)
    }

    /// The ring whose text our own store gave back.
    ///
    /// # Errors
    /// When the text is no keyring, or is signed by a key of its own, and wrongly.
    pub fn restore(text: &str) -> Result<Self, KeyringError> {
        let signed = Signed::parse(text)?;
        if signed.ring.key(signed.signer).is_some() {
            signed.check(&signed.ring)?;
        }
        Ok(signed.ring)
    }

    /// The ring at the end of a chain that begins with the next one, or with ones that are known already. The present
    /// ring comes back when there is nothing new.
    ///
    /// # Errors
    /// As [`KeyringError`] lists them.
    pub fn update<S: AsRef<str>>(&self, chain: &[S]) -> Result<Self, KeyringError> {
        bounded(chain)?;
        let mut newest = 0;
        let mut ring = self.clone();
        for text in chain {
            let signed = Signed::parse(text.as_ref())?;
            newest = signed.ring.version;
            if newest > self.version {
                ring = signed.after(&ring)?;
            } else if newest == self.version && (signed.ring.epoch, &signed.ring.keys) != (self.epoch, &self.keys) {
                return Err(KeyringError::Fork);
            }
        }
        if newest < self.version { Err(KeyringError::Rollback) } else { Ok(ring) }
    }

    /// Its number; the next one has one more.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// What the sequence numbers of jobs count within.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Its keys.
    #[must_use]
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The thumbprints of its root keys.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<KeyId> {
        self.keys.iter().filter(|key| key.usage == Use::Root).map(Key::kid).collect()
    }

    /// The key of this name.
    #[must_use]
    pub fn key(&self, kid: KeyId) -> Option<&Key> {
        self.keys.iter().find(|key| key.kid == kid)
    }

    /// The JWS it came in: what is kept.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    fn parse(payload: &str, text: &str) -> Result<Self, KeyringError> {
        let mut members = Members::parse(payload)?;
        let version = members.required("version")?;
        let epoch = members.required("epoch")?;
        let found: Vec<&RawValue> = members.required("keys")?;
        members.end()?;
        if found.len() > limits::KEYS {
            return Err(KeyringError::TooManyKeys);
        }
        let mut keys: Vec<Key> = Vec::with_capacity(found.len());
        for text in found {
            let key = Key::parse(text.get())?;
            if keys.iter().any(|known| known.kid.prefix() == key.kid.prefix()) {
                return Err(KeyringError::SameKey);
            }
            keys.push(key);
        }
        if !keys.iter().any(|key| key.usage == Use::Root) {
            return Err(KeyringError::NoRoot);
        }
        Ok(Self { version, epoch, keys, text: text.to_owned() })
    }
}

/// A ring, and who says that he has signed it.
struct Signed<'a> {
    jws: Compact<'a>,
    signer: KeyId,
    ring: Keyring,
}

impl<'a> Signed<'a> {
    fn parse(text: &'a str) -> Result<Self, KeyringError> {
        let text = text.trim_ascii();
        let jws = Compact::parse(text, limits::KEYRING_BYTES)?;
        let signer = read_header(&jws.header, TYPE)?;
        let ring = Keyring::parse(&jws.payload, text)?;
        Ok(Self { jws, signer, ring })
    }

    /// Whether a root key of `ring` has signed it.
    fn check(&self, ring: &Keyring) -> Result<(), KeyringError> {
        let key = ring.key(self.signer).ok_or(KeyringError::UnknownSigner)?;
        if key.usage != Use::Root {
            return Err(KeyringError::WrongUse);
        }
        if self.jws.is_signed_by(&key.x) { Ok(()) } else { Err(KeyringError::BadSignature) }
    }

    /// The ring, when it follows `before`.
    fn after(self, before: &Keyring) -> Result<Keyring, KeyringError> {
        self.check(before)?;
        let expected = before.version.saturating_add(1);
        if self.ring.version != expected || before.version == u32::MAX {
            return Err(KeyringError::Version { expected, found: self.ring.version });
        }
        if self.ring.epoch < before.epoch {
            return Err(KeyringError::Epoch);
        }
        Ok(self.ring)
    }
}

fn bounded<S>(chain: &[S]) -> Result<(), KeyringError> {
    match chain.len() {
        0 => Err(KeyringError::EmptyChain),
        count if count > limits::KEYRING_CHAIN => Err(KeyringError::TooManyRings),
        _ => Ok(()),
    }
}

fn follow<S: AsRef<str>>(first: Keyring, chain: &[S]) -> Result<Keyring, KeyringError> {
    chain.iter().try_fold(first, |ring, text| Signed::parse(text.as_ref())?.after(&ring))
}

/// Reads the header of what a root key signs: `alg`, `typ`, `kid`, and no more.
fn read_header(text: &str, expected: &str) -> Result<KeyId, JwsError> {
    let mut members = Members::parse(text)?;
    if !is_ed25519(&members.text("alg")?) {
        return Err(JwsError::Algorithm);
    }
    if members.text("typ")? != expected {
        return Err(JwsError::Type);
    }
    let kid = KeyId::parse(&members.text("kid")?).ok_or(MemberError::Wrong("kid"))?;
    members.end()?;
    Ok(kid)
}

/// What a root key of `ring` has signed under this `typ`, such as a CA bundle (`edge-ca+jws`): the payload's text.
///
/// # Errors
/// As [`KeyringError`] lists them.
pub fn signed_by_root(ring: &Keyring, text: &str, expected: &str, cap: usize) -> Result<String, KeyringError> {
    let jws = Compact::parse(text, cap)?;
    let signer = read_header(&jws.header, expected)?;
    let key = ring.key(signer).ok_or(KeyringError::UnknownSigner)?;
    if key.usage != Use::Root {
        return Err(KeyringError::WrongUse);
    }
    if jws.is_signed_by(&key.x) { Ok(jws.payload) } else { Err(KeyringError::BadSignature) }
}

#[cfg(test)]
mod tests {
    use super::{Key, Keyring, KeyringError, Use, signed_by_root};
    use crate::limits;
    use crate::trust::base64url;
    use crate::trust::jws::JwsError;
    use crate::trust::members::MemberError;
    use crate::trust::sign::SigningKey;

    fn signer(n: u8) -> SigningKey {
        SigningKey::from_seed(&[n; 32]).unwrap()
    }

    fn root(n: u8) -> Key {
        Key::new(*signer(n).public(), Use::Root, None, None)
    }

    fn job(n: u8) -> Key {
        Key::new(*signer(n).public(), Use::Job, Some(10), Some(20))
    }

    /// Version n with root 1 and job key 11.
    fn ring(version: u32) -> String {
        signer(1).sign_keyring(version, 5, &[root(1), job(11)])
    }

    fn pinned(version: u32) -> Keyring {
        Keyring::pin(&[ring(version)]).unwrap()
    }

    #[test]
    fn a_chain_is_followed_from_its_first_ring() {
        // The second ring takes the first root key out, so the third is signed by the second root key.
        let first = signer(1).sign_keyring(3, 5, &[root(1), job(11)]);
        let second = signer(1).sign_keyring(4, 5, &[root(2), job(12)]);
        let third = signer(2).sign_keyring(5, 6, &[root(2), job(13)]);
        let chain = [&first, &second, &third];
        let ring = Keyring::pin(&chain).unwrap();
        assert_eq!((ring.version(), ring.epoch()), (5, 6));
        assert!(ring.key(signer(13).kid()).is_some() && ring.key(signer(11).kid()).is_none());
        assert_eq!(Keyring::pin(&chain[..1]).unwrap().update(&chain), Ok(ring.clone()));
        assert_eq!(Keyring::pin(&chain[..1]).unwrap().update(&chain[1..]), Ok(ring.clone()));
        assert_eq!(ring.update(&chain), Ok(ring.clone()), "nothing new");
        assert_eq!(Keyring::restore(&second).unwrap().version(), 4, "its signer is no longer in it");
        assert_eq!(Keyring::restore(ring.text()), Ok(ring));
        // Who knows the second root key only, starts where it has signed.
        assert_eq!(Keyring::pin_by_fingerprint(signer(2).kid(), &chain).unwrap().version(), 5);
        assert_eq!(Keyring::pin_by_fingerprint(signer(1).kid(), &chain).unwrap().version(), 5);
        assert_eq!(Keyring::pin_by_fingerprint(signer(3).kid(), &chain), Err(KeyringError::Fingerprint));
        assert_eq!(Keyring::pin_by_fingerprint(signer(11).kid(), &chain), Err(KeyringError::Fingerprint));
        assert_eq!(Keyring::pin(&chain[1..]), Err(KeyringError::UnknownSigner));
    }

    #[test]
    fn only_a_root_key_of_the_ring_before_signs_the_next() {
        let pinned = pinned(3);
        let next = |n: u8| [signer(n).sign_keyring(4, 5, &[root(1), root(2), job(11)])];
        assert_eq!(pinned.update(&next(11)), Err(KeyringError::WrongUse));
        assert_eq!(pinned.update(&next(2)), Err(KeyringError::UnknownSigner), "a root key of the new ring only");
        assert!(pinned.update(&next(1)).is_ok());
        assert_eq!(Keyring::pin(&next(11)), Err(KeyringError::WrongUse));
        assert_eq!(Keyring::pin(&next(3)), Err(KeyringError::UnknownSigner));
        let forged = signer(2).sign_compact_as(
            &format!(r#"{{"alg":"Ed25519","typ":"edge-keyring+jws","kid":"{}"}}"#, signer(1).kid()),
            &payload(&ring(4)),
        );
        assert_eq!(pinned.update(std::slice::from_ref(&forged)), Err(KeyringError::BadSignature));
        assert_eq!(Keyring::pin(std::slice::from_ref(&forged)), Err(KeyringError::BadSignature));
        assert_eq!(Keyring::restore(&forged), Err(KeyringError::BadSignature));
    }

    #[test]
    fn versions_go_up_by_one_and_epochs_never_down() {
        let pinned = pinned(3);
        assert_eq!(pinned.update(&[ring(5)]), Err(KeyringError::Version { expected: 4, found: 5 }));
        assert_eq!(pinned.update(&[ring(4), ring(6)]), Err(KeyringError::Version { expected: 5, found: 6 }));
        assert_eq!(pinned.update(&[ring(4), ring(4)]), Err(KeyringError::Version { expected: 5, found: 4 }));
        assert_eq!(pinned.update(&[ring(2)]), Err(KeyringError::Rollback));
        assert_eq!(pinned.update(&[ring(3)]), Ok(pinned.clone()));
        let other = signer(1).sign_keyring(3, 5, &[root(1), job(12)]);
        assert_eq!(pinned.update(&[other]), Err(KeyringError::Fork));
        let lower = signer(1).sign_keyring(4, 4, &[root(1)]);
        assert_eq!(pinned.update(&[lower]), Err(KeyringError::Epoch));
        let last = Keyring::pin(&[ring(u32::MAX)]).unwrap();
        assert_eq!(last.update(&[ring(u32::MAX)]), Ok(last));
        assert_eq!(pinned.update::<String>(&[]), Err(KeyringError::EmptyChain));
        let long: Vec<String> = (4..4 + 17).map(ring).collect();
        assert_eq!(pinned.update(&long[..16]).unwrap().version(), 19);
        assert_eq!(pinned.update(&long), Err(KeyringError::TooManyRings));
    }

    #[test]
    fn a_ring_is_read_strictly() {
        let read = |payload: &str| Keyring::pin(&[signer(1).sign_compact("edge-keyring+jws", payload)]).err();
        let whole = payload(&ring(3));
        assert_eq!(read(&whole), None);
        assert_eq!(read(&format!(" {whole} ")), None);
        let changed = |from: &str, to: &str| {
            assert!(whole.contains(from), "{from}");
            read(&whole.replacen(from, to, 1))
        };
        let member = |error| Some(KeyringError::Member(error));
        assert_eq!(changed("\"version\":3", "\"version\":-1"), member(MemberError::Wrong("version")));
        assert_eq!(changed("\"version\":3", "\"version\":4294967296"), member(MemberError::Wrong("version")));
        assert_eq!(changed("\"version\":3,", ""), member(MemberError::Missing("version")));
        assert_eq!(changed("\"version\":3", "\"version\":3,\"version\":3"), member(MemberError::Duplicate));
        assert_eq!(changed("\"epoch\":5", "\"epoch\":\"5\""), member(MemberError::Wrong("epoch")));
        assert_eq!(changed("\"epoch\"", "\"admin\":1,\"epoch\""), member(MemberError::Unknown("admin".into())));
        assert_eq!(changed("\"use\":\"job\"", "\"use\":\"all\""), member(MemberError::Wrong("use")));
        assert_eq!(changed("\"use\":\"root\"", "\"use\":\"job\""), Some(KeyringError::NoRoot));
        assert_eq!(changed("\"notAfter\":20", "\"notAfter\":null"), None);
        assert_eq!(changed("\"notAfter\":20", "\"notAfter\":2e1"), member(MemberError::Wrong("notAfter")));
        let kid = signer(11).kid().to_string();
        assert_eq!(changed(&kid, &signer(12).kid().to_string()), Some(KeyringError::Thumbprint));
        assert_eq!(changed(&kid, "k1"), Some(KeyringError::Thumbprint));
        let x = base64url::encode(signer(11).public());
        assert_eq!(changed(&x, &x[1..]), member(MemberError::Wrong("x")));
        assert_eq!(read("[]"), member(MemberError::Malformed));
        assert_eq!(read(&whole[..whole.len() - 1]), member(MemberError::Malformed));
        let keys: Vec<Key> = (1..=9).map(root).collect();
        assert!(Keyring::pin(&[signer(1).sign_keyring(1, 1, &keys[..8])]).is_ok());
        assert_eq!(Keyring::pin(&[signer(1).sign_keyring(1, 1, &keys)]), Err(KeyringError::TooManyKeys));
        assert_eq!(Keyring::pin(&[signer(1).sign_keyring(1, 1, &[root(1), root(1)])]), Err(KeyringError::SameKey));
    }

    #[test]
    fn another_header_is_refused() {
        let kid = signer(1).kid();
        let read = |header: &str| Keyring::pin(&[signer(1).sign_compact_as(header, &payload(&ring(3)))]).err();
        let jws = |error| Some(KeyringError::Jws(error));
        assert_eq!(read(&format!(r#"{{"alg":"EdDSA","typ":"edge-keyring+jws","kid":"{kid}"}}"#)), None);
        assert_eq!(
            read(&format!(r#"{{"alg":"HS256","typ":"edge-keyring+jws","kid":"{kid}"}}"#)),
            jws(JwsError::Algorithm)
        );
        assert_eq!(read(&format!(r#"{{"alg":"Ed25519","typ":"edge-job+jws","kid":"{kid}"}}"#)), jws(JwsError::Type));
        assert_eq!(
            read(&format!(r#"{{"alg":"Ed25519","typ":"edge-keyring+jws","kid":"{kid}","jwk":{{}}}}"#)),
            jws(JwsError::Header(MemberError::Unknown("jwk".into())))
        );
        assert_eq!(
            read(r#"{"alg":"Ed25519","typ":"edge-keyring+jws"}"#),
            jws(JwsError::Header(MemberError::Missing("kid")))
        );
        let long = format!("{}.", "A".repeat(limits::KEYRING_BYTES));
        assert_eq!(Keyring::pin(&[long]), Err(KeyringError::Jws(JwsError::TooLong)));
    }

    #[test]
    fn root_keys_do_not_expire() {
        let key = Key::new([7; 32], Use::Root, Some(1), Some(2));
        assert_eq!((key.not_before(), key.not_after()), (None, None));
        assert_eq!((job(1).not_before(), job(1).not_after()), (Some(10), Some(20)));
    }

    #[test]
    fn other_statements_are_root_signed_too() {
        let ring = Keyring::pin(&[signer(1).sign_keyring(1, 1, &[root(1), job(11)])]).unwrap();
        let read = |text: &str| signed_by_root(&ring, text, "edge-ca+jws", 1000);
        assert_eq!(read(&signer(1).sign_compact("edge-ca+jws", "{}")), Ok("{}".to_owned()));
        assert_eq!(read(&signer(11).sign_compact("edge-ca+jws", "{}")), Err(KeyringError::WrongUse));
        assert_eq!(read(&signer(2).sign_compact("edge-ca+jws", "{}")), Err(KeyringError::UnknownSigner));
        assert_eq!(read(&signer(1).sign_compact("edge-keyring+jws", "{}")), Err(KeyringError::Jws(JwsError::Type)));
    }

    fn payload(jws: &str) -> String {
        String::from_utf8(base64url::decode(jws.split('.').nth(1).unwrap()).unwrap()).unwrap()
    }
}

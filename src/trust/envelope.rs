//! Encrypted payloads (TRUST.md, Encryption of a payload): JWE compact (RFC 7516), `ECDH-ES` with X25519 and `A256GCM`
//! (RFC 7518, RFC 8037).

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest;
use ring::error::Unspecified;
use ring::rand::SecureRandom;
use x25519_dalek::{PublicKey, SharedSecret, StaticSecret};
use zeroize::Zeroizing;

use super::base64url;
use super::key_id::KeyId;
use super::members::{MemberError, Members};
use crate::limits;

const ALG: &str = "ECDH-ES";

const ENC: &str = "A256GCM";

const TAG: usize = 16;

/// Why a payload cannot be decrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvelopeError {
    /// It was changed on the way, or encrypted to another key.
    BadTag,
    /// The sender's key is of small order: the secret would be known to everybody.
    NotContributory,
    /// The header is not as it must be.
    Header(MemberError),
    /// A segment is not base64url, or not of the right length.
    Segment(&'static str),
    /// There are not five segments, of which the second is empty.
    Shape,
    /// It is longer than a job may be.
    TooLong,
    /// It is encrypted to a key that is not this node's, or no longer.
    UnknownKey,
}

impl EnvelopeError {
    /// One word for a result, an event, a log.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BadTag => "BadTag",
            Self::NotContributory => "NotContributory",
            Self::Header(_) | Self::Segment(_) | Self::Shape => "MalformedEnvelope",
            Self::TooLong => "TooLong",
            Self::UnknownKey => "UnknownPayloadKey",
        }
    }
}

impl fmt::Display for EnvelopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadTag => f.write_str("the encrypted payload was changed on the way, or is encrypted to another key"),
            Self::NotContributory => f.write_str("the encrypted payload's epk is a point of small order"),
            Self::Header(_) => f.write_str("the encrypted payload's header is not as it must be"),
            Self::Segment(name) => write!(f, "the encrypted payload's {name} is not base64url of the right length"),
            Self::Shape => f.write_str("the encrypted payload does not have five segments with an empty second one"),
            Self::TooLong => f.write_str("the encrypted payload is too long"),
            Self::UnknownKey => f.write_str("the payload is encrypted to a key that this node does not have"),
        }
    }
}

impl std::error::Error for EnvelopeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Header(error) => Some(error),
            _ => None,
        }
    }
}

impl From<MemberError> for EnvelopeError {
    fn from(error: MemberError) -> Self {
        Self::Header(error)
    }
}

/// The key pair that payloads are encrypted to. It is wiped when it is dropped, and has neither `Debug` nor `Clone`.
pub struct PayloadKey {
    secret: StaticSecret,
    public: [u8; 32],
    kid: KeyId,
}

impl PayloadKey {
    /// A new one.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate(random: &dyn SecureRandom) -> Result<Self, Unspecified> {
        let mut bytes = Zeroizing::new([0; 32]);
        random.fill(bytes.as_mut_slice())?;
        Ok(Self::from_bytes(&bytes))
    }

    /// The one whose secret bytes were kept.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        let secret = StaticSecret::from(*bytes);
        let public = PublicKey::from(&secret).to_bytes();
        Self { kid: KeyId::of_x25519(&public), secret, public }
    }

    /// The secret bytes, to be kept.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.secret.to_bytes())
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// Its name.
    #[must_use]
    pub fn kid(&self) -> KeyId {
        self.kid
    }

    /// The public key as a JWK.
    #[must_use]
    pub fn public_jwk(&self) -> String {
        let x = base64url::encode(&self.public);
        format!(r#"{{"crv":"X25519","kid":"{}","kty":"OKP","x":"{x}"}}"#, self.kid)
    }
}

/// The keys that a payload may be encrypted to: the present one, and after a rotation the one before it for as long as
/// a job may live.
pub struct PayloadKeys {
    /// What the control plane was told last.
    pub present: PayloadKey,
    /// What it was told before.
    pub previous: Option<PayloadKey>,
}

impl PayloadKeys {
    fn find(&self, kid: KeyId) -> Option<&PayloadKey> {
        std::iter::once(&self.present).chain(&self.previous).find(|key| key.kid == kid)
    }
}

/// Decrypts a payload.
///
/// # Errors
/// As [`EnvelopeError`] lists them.
pub fn decrypt(text: &str, keys: &PayloadKeys) -> Result<Zeroizing<Vec<u8>>, EnvelopeError> {
    if text.len() > limits::JOB_BYTES {
        return Err(EnvelopeError::TooLong);
    }
    let mut segments = text.split('.');
    let (Some(header), Some(""), Some(iv), Some(ciphertext), Some(tag), None) =
        (segments.next(), segments.next(), segments.next(), segments.next(), segments.next(), segments.next())
    else {
        return Err(EnvelopeError::Shape);
    };
    if header.len() > limits::ENVELOPE_HEADER_BYTES {
        return Err(EnvelopeError::TooLong);
    }
    let (kid, sender) = read_header(header)?;
    let iv: [u8; NONCE_LEN] = base64url::decode_array(iv).ok_or(EnvelopeError::Segment("IV"))?;
    let tag: [u8; TAG] = base64url::decode_array(tag).ok_or(EnvelopeError::Segment("tag"))?;
    let mut sealed = Zeroizing::new(base64url::decode(ciphertext).ok_or(EnvelopeError::Segment("ciphertext"))?);
    sealed.extend_from_slice(&tag);

    let key = keys.find(kid).ok_or(EnvelopeError::UnknownKey)?;
    let shared = agree(&key.secret, sender).ok_or(EnvelopeError::NotContributory)?;
    let key = concat_kdf(shared.as_bytes(), ENC, b"", b"", 256);
    open(&key, iv, header.as_bytes(), &mut sealed).map_err(|Unspecified| EnvelopeError::BadTag)?;
    Ok(sealed)
}

/// Encrypts a payload to a node's public key.
///
/// # Errors
/// When the system gives no random bytes, or `public` is a point of small order.
pub fn encrypt(public: &[u8; 32], plaintext: &[u8], random: &dyn SecureRandom) -> Result<String, Unspecified> {
    let sender = PayloadKey::generate(random)?;
    let mut iv = [0; NONCE_LEN];
    random.fill(&mut iv)?;
    let shared = agree(&sender.secret, *public).ok_or(Unspecified)?;
    let header = format!(
        r#"{{"alg":"{ALG}","enc":"{ENC}","kid":"{}","epk":{{"kty":"OKP","crv":"X25519","x":"{}"}}}}"#,
        KeyId::of_x25519(public),
        base64url::encode(&sender.public)
    );
    let header = base64url::encode(header.as_bytes());
    let mut sealed = Zeroizing::new(Vec::with_capacity(plaintext.len().saturating_add(TAG)));
    sealed.extend_from_slice(plaintext);
    let key = concat_kdf(shared.as_bytes(), ENC, b"", b"", 256);
    let tag = content_key(&key)?.seal_in_place_separate_tag(
        Nonce::assume_unique_for_key(iv),
        Aad::from(header.as_bytes()),
        sealed.as_mut_slice(),
    )?;
    let [iv, sealed, tag] = [&iv, sealed.as_slice(), tag.as_ref()].map(base64url::encode);
    Ok(format!("{header}..{iv}.{sealed}.{tag}"))
}

/// The header's `kid` and the sender's public key; everything else in it can only be what it is.
fn read_header(segment: &str) -> Result<(KeyId, [u8; 32]), EnvelopeError> {
    let text = base64url::decode(segment).and_then(|bytes| String::from_utf8(bytes).ok());
    let text = text.ok_or(EnvelopeError::Segment("header"))?;
    let mut members = Members::parse(&text)?;
    members.exactly("alg", ALG)?;
    members.exactly("enc", ENC)?;
    for party in ["apu", "apv"] {
        if members.optional_text(party)?.is_some_and(|info| !info.is_empty()) {
            return Err(MemberError::Wrong(party).into());
        }
    }
    let kid = KeyId::parse(&members.text("kid")?).ok_or(MemberError::Wrong("kid"))?;
    let epk = members.take("epk").ok_or(MemberError::Missing("epk"))?;
    members.end()?;
    Ok((kid, read_epk(epk)?))
}

/// A public key as a JWK of exactly three members.
pub(super) fn read_epk(text: &str) -> Result<[u8; 32], MemberError> {
    let mut members = Members::parse(text)?;
    members.exactly("kty", "OKP")?;
    members.exactly("crv", "X25519")?;
    let public = base64url::decode_array(&members.text("x")?).ok_or(MemberError::Wrong("x"))?;
    members.end()?;
    Ok(public)
}

/// The shared secret, which the other side's key must have a part in (RFC 7748, section 6.1).
pub(super) fn agree(secret: &StaticSecret, public: [u8; 32]) -> Option<SharedSecret> {
    Some(secret.diffie_hellman(&PublicKey::from(public))).filter(SharedSecret::was_contributory)
}

/// Decrypts ciphertext and tag. The plaintext takes their place: there is no other copy.
pub(super) fn open(
    key: &[u8; 32],
    iv: [u8; NONCE_LEN],
    aad: &[u8],
    sealed: &mut Zeroizing<Vec<u8>>,
) -> Result<(), Unspecified> {
    let nonce = Nonce::assume_unique_for_key(iv);
    let length = content_key(key)?.open_in_place(nonce, Aad::from(aad), sealed.as_mut_slice())?.len();
    sealed.truncate(length);
    Ok(())
}

fn content_key(key: &[u8; 32]) -> Result<LessSafeKey, Unspecified> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new)
}

/// The Concat KDF of RFC 7518, section 4.6.2, for up to 256 bits: one round of SHA-256.
fn concat_kdf(shared: &[u8], algorithm: &str, apu: &[u8], apv: &[u8], bits: u32) -> Zeroizing<[u8; 32]> {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&1_u32.to_be_bytes());
    context.update(shared);
    for part in [algorithm.as_bytes(), apu, apv] {
        context.update(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        context.update(part);
    }
    context.update(&bits.to_be_bytes());
    let mut key = Zeroizing::new([0; 32]);
    key.copy_from_slice(context.finish().as_ref());
    key
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use serde_json::{Value, json};

    use super::{EnvelopeError, PayloadKey, PayloadKeys, concat_kdf, decrypt, encrypt};
    use crate::limits;
    use crate::trust::base64url;
    use crate::trust::members::MemberError;

    fn keys() -> PayloadKeys {
        PayloadKeys { present: PayloadKey::from_bytes(&[1; 32]), previous: Some(PayloadKey::from_bytes(&[2; 32])) }
    }

    fn sealed(plaintext: &[u8]) -> String {
        encrypt(keys().present.public(), plaintext, &SystemRandom::new()).unwrap()
    }

    fn error(text: &str) -> EnvelopeError {
        decrypt(text, &keys()).err().unwrap()
    }

    /// The same text with another header.
    fn with_header(text: &str, change: impl FnOnce(&mut Value)) -> String {
        let (header, rest) = text.split_once('.').unwrap();
        let mut header: Value = serde_json::from_slice(&base64url::decode(header).unwrap()).unwrap();
        change(&mut header);
        format!("{}.{rest}", base64url::encode(header.to_string().as_bytes()))
    }

    fn with_segment(text: &str, at: usize, segment: &str) -> String {
        let mut segments: Vec<&str> = text.split('.').collect();
        segments[at] = segment;
        segments.join(".")
    }

    #[test]
    fn the_key_is_derived_as_in_the_rfc() {
        // RFC 7518, appendix C.
        let shared = [
            158, 86, 217, 29, 129, 113, 53, 211, 114, 131, 66, 131, 191, 132, 38, 156, 251, 49, 110, 163, 218, 128,
            106, 72, 246, 218, 167, 121, 140, 254, 144, 196,
        ];
        let key = concat_kdf(&shared, "A128GCM", b"Alice", b"Bob", 128);
        assert_eq!(base64url::encode(&key[..16]), "VqqN6vgjbSBcIijNcacQGg");
    }

    #[test]
    fn what_is_encrypted_to_either_key_comes_back() {
        let keys = keys();
        let text = encrypt(keys.present.public(), b"{}", &SystemRandom::new()).unwrap();
        assert_eq!(decrypt(&text, &keys).unwrap().as_slice(), b"{}");
        let text = encrypt(keys.previous.as_ref().unwrap().public(), b"", &SystemRandom::new()).unwrap();
        assert_eq!(decrypt(&text, &keys).unwrap().as_slice(), b"");
        let text = encrypt(PayloadKey::from_bytes(&[3; 32]).public(), b"{}", &SystemRandom::new()).unwrap();
        assert_eq!(decrypt(&text, &keys).err(), Some(EnvelopeError::UnknownKey));
        let again = PayloadKey::from_bytes(&keys.present.to_bytes());
        assert_eq!(again.kid(), keys.present.kid());
        assert!(keys.present.public_jwk().contains(&keys.present.kid().to_string()));
        assert_ne!(PayloadKey::generate(&SystemRandom::new()).unwrap().kid(), again.kid());
    }

    #[test]
    fn headers_that_are_not_the_given_one_are_refused() {
        let text = sealed(b"{}");
        let changed = |change: fn(&mut Value)| error(&with_header(&text, change));
        let wrong = |name| EnvelopeError::Header(MemberError::Wrong(name));
        let unknown = |name: &str| EnvelopeError::Header(MemberError::Unknown(name.into()));
        assert_eq!(changed(|header| header["zip"] = "DEF".into()), unknown("zip"));
        assert_eq!(changed(|header| header["crit"] = json!(["exp"])), unknown("crit"));
        assert_eq!(changed(|header| header["alg"] = "ECDH-ES+A256KW".into()), wrong("alg"));
        assert_eq!(changed(|header| header["alg"] = "dir".into()), wrong("alg"));
        assert_eq!(changed(|header| header["enc"] = "A128GCM".into()), wrong("enc"));
        assert_eq!(changed(|header| header["enc"] = "A256CBC-HS512".into()), wrong("enc"));
        assert_eq!(changed(|header| header["apu"] = "QQ".into()), wrong("apu"));
        assert_eq!(changed(|header| header["apv"] = "QQ".into()), wrong("apv"));
        assert_eq!(changed(|header| header["kid"] = "me".into()), wrong("kid"));
        assert_eq!(changed(|header| header["epk"]["crv"] = "X448".into()), wrong("crv"));
        assert_eq!(changed(|header| header["epk"]["kty"] = "EC".into()), wrong("kty"));
        assert_eq!(changed(|header| header["epk"]["x"] = "AAAA".into()), wrong("x"));
        assert_eq!(changed(|header| header["epk"]["d"] = "AAAA".into()), unknown("d"));
        assert_eq!(changed(|header| header["epk"] = 7.into()), EnvelopeError::Header(MemberError::Malformed));
        let missing = |name| EnvelopeError::Header(MemberError::Missing(name));
        assert_eq!(changed(|header| drop(header.as_object_mut().unwrap().remove("kid"))), missing("kid"));
        assert_eq!(changed(|header| drop(header.as_object_mut().unwrap().remove("epk"))), missing("epk"));
        // What is allowed, and still is not what was sealed.
        assert_eq!(changed(|header| header["apu"] = "".into()), EnvelopeError::BadTag);
    }

    #[test]
    fn points_of_small_order_are_refused() {
        let text = sealed(b"{}");
        for low in [[0; 32], std::array::from_fn(|at| u8::from(at == 0))] {
            let changed = with_header(&text, |header| header["epk"]["x"] = base64url::encode(&low).into());
            assert_eq!(error(&changed), EnvelopeError::NotContributory);
            assert!(encrypt(&low, b"{}", &SystemRandom::new()).is_err());
        }
    }

    #[test]
    fn segments_of_another_shape_are_refused() {
        let text = sealed(b"{}");
        assert_eq!(error(""), EnvelopeError::Shape);
        assert_eq!(error(&with_segment(&text, 1, "AA")), EnvelopeError::Shape);
        assert_eq!(error(&format!("{text}.")), EnvelopeError::Shape);
        assert_eq!(error(text.rsplit_once('.').unwrap().0), EnvelopeError::Shape);
        assert_eq!(error(&with_segment(&text, 2, "AAAAAAAAAAAAAAA")), EnvelopeError::Segment("IV"));
        assert_eq!(error(&with_segment(&text, 2, "AAAAAAAAAAAAAAAAAAAA")), EnvelopeError::Segment("IV"));
        assert_eq!(error(&with_segment(&text, 4, "AAAAAAAAAAAAAAAAAAAA")), EnvelopeError::Segment("tag"));
        assert_eq!(error(&with_segment(&text, 4, "AAAAAAAAAAAAAAAAAAAAAAAA")), EnvelopeError::Segment("tag"));
        assert_eq!(error(&with_segment(&text, 4, "")), EnvelopeError::Segment("tag"));
        assert_eq!(error(&with_segment(&text, 3, "A=")), EnvelopeError::Segment("ciphertext"));
        assert_eq!(error(&with_segment(&text, 0, "!")), EnvelopeError::Segment("header"));
        assert_eq!(error(&with_segment(&text, 3, "AAAA")), EnvelopeError::BadTag);
        assert_eq!(error(&with_segment(&text, 3, "")), EnvelopeError::BadTag);
        let header = "A".repeat(limits::ENVELOPE_HEADER_BYTES + 1);
        assert_eq!(error(&with_segment(&text, 0, &header)), EnvelopeError::TooLong);
        let rest = limits::JOB_BYTES - (text.len() - 3);
        let just = with_segment(&text, 3, &"A".repeat(rest));
        assert_eq!((just.len(), error(&just)), (limits::JOB_BYTES, EnvelopeError::BadTag));
        assert_eq!(error(&with_segment(&text, 3, &"A".repeat(rest + 1))), EnvelopeError::TooLong);
    }

    #[test]
    fn every_changed_character_is_refused() {
        let text = sealed(b"{\"a\":1}");
        for at in 0..text.len() {
            for other in ["A", "B", "z", "_", "."] {
                if &text[at..=at] != other {
                    let mut changed = text.clone();
                    changed.replace_range(at..=at, other);
                    assert!(decrypt(&changed, &keys()).is_err(), "{at} {other}");
                }
            }
        }
    }
}

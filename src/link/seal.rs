//! What is stored, wrapped: AES-256-GCM under a key that does not lie beside it. A card that is read somewhere else, or a
//! backup of it, has no credential then.
//!
//! A sealed text is the nonce (12 bytes), the ciphertext and the tag (16 bytes), in base64url.

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::SecureRandom;
use zeroize::Zeroizing;

use crate::limits;
use crate::trust::base64url;
use crate::trust::mac::hkdf_sha256;

/// Salt and info of the key derivation: the same bytes given for something else make another key there.
const SALT: &[u8] = b"pullet";
const INFO: &[u8] = b"pullet/v1/stored-credential";

/// A key that wraps texts. Its `Debug` shows nothing of it.
pub struct Seal(LessSafeKey);

impl Seal {
    /// From any bytes, of which there must be [`limits::SEAL_KEY_MIN`]; none where there are fewer.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut key = Zeroizing::new([0; 32]);
        if bytes.len() < limits::SEAL_KEY_MIN || !hkdf_sha256(SALT, bytes, INFO, key.as_mut()) {
            return None;
        }
        UnboundKey::new(&AES_256_GCM, key.as_slice()).ok().map(|key| Self(LessSafeKey::new(key)))
    }

    /// Wraps a text; `name` says what it is, and it opens under no other. None where the system has no randomness.
    #[must_use]
    pub fn seal(&self, name: &str, text: &[u8], random: &dyn SecureRandom) -> Option<String> {
        let mut nonce = [0; NONCE_LEN];
        random.fill(&mut nonce).ok()?;
        // Encrypted where it lies; what is left of the text is overwritten by that.
        let mut sealed = Zeroizing::new(text.to_vec());
        let tag = self
            .0
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(name.as_bytes()), &mut sealed)
            .ok()?;
        Some(base64url::encode(&[nonce.as_slice(), sealed.as_slice(), tag.as_ref()].concat()))
    }

    /// Unwraps a text; none where it was changed, wrapped under another key or under another name.
    #[must_use]
    pub fn open(&self, name: &str, sealed: &str) -> Option<Zeroizing<String>> {
        let mut bytes = Zeroizing::new(base64url::decode(sealed)?);
        let (nonce, rest) = bytes.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let text = self.0.open_in_place(nonce, Aad::from(name.as_bytes()), rest).ok()?;
        std::str::from_utf8(text).ok().map(|text| Zeroizing::new(text.to_owned()))
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal")
    }
}

#[cfg(test)]
mod tests {
    use super::Seal;
    use crate::trust::base64url;
    use ring::rand::SystemRandom;

    #[test]
    fn only_what_was_sealed_opens_and_only_under_its_name_and_key() {
        let (seal, random) = (Seal::new(&[1; 32]).unwrap(), SystemRandom::new());
        let sealed = seal.seal("credential", b"{\"a\":1}", &random).unwrap();
        assert_ne!(seal.seal("credential", b"{\"a\":1}", &random).unwrap(), sealed, "no nonce is used twice");
        assert_eq!(seal.open("credential", &sealed).unwrap().as_str(), "{\"a\":1}");
        assert!(seal.open("keys", &sealed).is_none());
        assert!(Seal::new(&[2; 32]).unwrap().open("credential", &sealed).is_none());
        let bytes = base64url::decode(&sealed).unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(seal.open("credential", &base64url::encode(&flipped)).is_none(), "{at}");
            assert!(seal.open("credential", &base64url::encode(&bytes[..at])).is_none(), "{at}");
        }
        assert!(seal.open("credential", "no base64url!").is_none());
    }

    #[test]
    fn a_key_of_just_the_length_is_taken_and_one_byte_less_is_not() {
        assert!(Seal::new(&[0; 16]).is_some() && Seal::new(&[0; 1000]).is_some());
        assert!(Seal::new(&[0; 15]).is_none());
    }
}

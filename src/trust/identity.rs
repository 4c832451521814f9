//! The keys that are made on the node and never leave it: one that shows who it is, one that payloads are encrypted to.

use std::fmt;

use ring::rand::SecureRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::base64url;
use super::envelope::{PayloadKey, PayloadKeys};

/// Bytes of an Ed25519 seed and of an X25519 secret.
pub const SECRET_BYTES: usize = 32;

/// One secret of 32 bytes, wiped when dropped.
pub type SecretBytes = Zeroizing<[u8; SECRET_BYTES]>;

/// The node's own keys. Their `Debug` shows nothing of them.
pub struct NodeKeys {
    /// Seed of the Ed25519 key for proofs of possession (RFC 8032, section 5.1.5).
    identity: SecretBytes,
    /// X25519 secret that payloads are decrypted with.
    payload: SecretBytes,
    /// The payload key before, while jobs that were encrypted to it may come.
    payload_before: Option<SecretBytes>,
}

/// The system gives no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRandomness;

impl NodeKeys {
    /// Makes new keys.
    ///
    /// # Errors
    /// [`NoRandomness`] when `random` has none.
    pub fn generate(random: &dyn SecureRandom) -> Result<Self, NoRandomness> {
        let secret = || {
            let mut bytes = SecretBytes::default();
            random.fill(bytes.as_mut()).map(|()| bytes).map_err(|_| NoRandomness)
        };
        Ok(Self { identity: secret()?, payload: secret()?, payload_before: None })
    }

    /// Takes keys as they are stored, in base64url; none where one is not 32 bytes.
    #[must_use]
    pub fn parse(identity: &str, payload: &str, payload_before: Option<&str>) -> Option<Self> {
        let secret = |text: &str| {
            let bytes = Zeroizing::new(base64url::decode(text)?);
            <[u8; SECRET_BYTES]>::try_from(bytes.as_slice()).ok().map(Zeroizing::new)
        };
        let payload_before = match payload_before {
            Some(text) => Some(secret(text)?),
            None => None,
        };
        Some(Self { identity: secret(identity)?, payload: secret(payload)?, payload_before })
    }

    /// Keeps the payload key of the keys before these ones, so that what is on its way can be read.
    #[must_use]
    pub fn after(mut self, before: &Self) -> Self {
        self.payload_before = Some(before.payload.clone());
        self
    }

    /// Seed of the identity key.
    #[must_use]
    pub fn identity(&self) -> &SecretBytes {
        &self.identity
    }

    /// Secret of the payload key.
    #[must_use]
    pub fn payload(&self) -> &SecretBytes {
        &self.payload
    }

    /// Secret of the payload key before.
    #[must_use]
    pub fn payload_before(&self) -> Option<&SecretBytes> {
        self.payload_before.as_ref()
    }

    /// The payload keys for decrypting.
    #[must_use]
    pub fn payload_keys(&self) -> PayloadKeys {
        PayloadKeys {
            present: PayloadKey::from_bytes(&self.payload),
            previous: self.payload_before.as_ref().map(|bytes| PayloadKey::from_bytes(bytes)),
        }
    }

    /// The identity key for signing; none where ring does not take the seed, which it does any.
    #[must_use]
    pub fn signer(&self) -> Option<Ed25519KeyPair> {
        Ed25519KeyPair::from_seed_unchecked(self.identity.as_slice()).ok()
    }

    /// The public identity key as a JWK (RFC 8037, section 2).
    #[must_use]
    pub fn identity_jwk(&self) -> Option<String> {
        self.signer().map(|signer| jwk("Ed25519", signer.public_key().as_ref()))
    }

    /// The public payload key as a JWK (RFC 8037, section 2).
    #[must_use]
    pub fn payload_jwk(&self) -> String {
        jwk("X25519", PublicKey::from(&StaticSecret::from(*self.payload)).as_bytes())
    }
}

impl fmt::Debug for NodeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKeys")
    }
}

/// Members in the order of a thumbprint (RFC 7638, section 3).
fn jwk(curve: &str, public: &[u8]) -> String {
    format!(r#"{{"crv":"{curve}","kty":"OKP","x":"{}"}}"#, base64url::encode(public))
}

#[cfg(test)]
mod tests {
    use super::NodeKeys;
    use crate::trust::base64url::{decode_array, encode};
    use ring::rand::SystemRandom;

    #[test]
    fn the_public_keys_are_those_of_the_rfcs() {
        // RFC 8037, appendix A.1 and A.2; RFC 7748, section 6.1 (Alice).
        let seed = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
        let alice = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo";
        let keys = NodeKeys::parse(seed, alice, None).unwrap();
        assert_eq!(
            keys.identity_jwk().unwrap(),
            r#"{"crv":"Ed25519","kty":"OKP","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#
        );
        assert_eq!(
            keys.payload_jwk(),
            r#"{"crv":"X25519","kty":"OKP","x":"hSDwCYkwp1R0i33ctD73Wg2_Og0mOBr066SpjqqbTmo"}"#
        );
        assert_eq!(format!("{keys:?}"), "NodeKeys");
    }

    #[test]
    fn keys_are_read_as_they_were_written_and_nothing_shorter_or_longer_is() {
        let keys = NodeKeys::generate(&SystemRandom::new()).unwrap();
        assert_ne!(keys.identity(), keys.payload());
        let before = NodeKeys::generate(&SystemRandom::new()).unwrap();
        let keys = keys.after(&before);
        let text = |bytes: &[u8]| encode(bytes);
        let again = NodeKeys::parse(
            &text(keys.identity().as_slice()),
            &text(keys.payload().as_slice()),
            Some(&text(before.payload().as_slice())),
        )
        .unwrap();
        assert_eq!(again.identity_jwk(), keys.identity_jwk());
        assert_eq!(again.payload_before(), Some(before.payload()));
        let good = encode(&[1; 32]);
        for wrong in [encode(&[1; 31]), encode(&[1; 33]), String::new(), "=".repeat(43)] {
            assert_eq!(decode_array::<32>(&wrong), None);
            assert!(NodeKeys::parse(&wrong, &good, None).is_none());
            assert!(NodeKeys::parse(&good, &wrong, None).is_none());
            assert!(NodeKeys::parse(&good, &good, Some(&wrong)).is_none());
        }
    }
}

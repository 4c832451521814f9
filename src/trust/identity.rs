//! The keys that are made on the node and never leave it: one that shows who it is, one that payloads are encrypted to.

use std::fmt;

use ring::rand::SecureRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use zeroize::Zeroizing;

use super::base64url;
use super::envelope::{PayloadKey, PayloadKeys};
use super::key_id::KeyId;

/// Bytes of an Ed25519 seed.
pub const SECRET_BYTES: usize = 32;

/// One secret of 32 bytes, wiped when dropped.
pub type SecretBytes = Zeroizing<[u8; SECRET_BYTES]>;

/// The node's own keys. Their `Debug` shows nothing of them.
pub struct NodeKeys {
    /// Seed of the Ed25519 key for proofs of possession (RFC 8032, section 5.1.5).
    identity: SecretBytes,
    payload: PayloadKeys,
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
        let mut identity = SecretBytes::default();
        random.fill(identity.as_mut()).map_err(|_| NoRandomness)?;
        let present = PayloadKey::generate(random).map_err(|_| NoRandomness)?;
        Ok(Self { identity, payload: PayloadKeys { present, previous: None } })
    }

    /// Takes keys as they are stored, in base64url; none where one is not 32 bytes.
    #[must_use]
    pub fn parse(identity: &str, payload: &str, payload_before: Option<&str>) -> Option<Self> {
        let secret = |text: &str| {
            let bytes = Zeroizing::new(base64url::decode(text)?);
            <[u8; SECRET_BYTES]>::try_from(bytes.as_slice()).ok().map(Zeroizing::new)
        };
        let previous = match payload_before {
            Some(text) => Some(PayloadKey::from_bytes(&*secret(text)?)),
            None => None,
        };
        let present = PayloadKey::from_bytes(&*secret(payload)?);
        Some(Self { identity: secret(identity)?, payload: PayloadKeys { present, previous } })
    }

    /// Keeps the payload key of the keys before these ones, so that what is on its way can be read.
    #[must_use]
    pub fn after(mut self, before: &Self) -> Self {
        self.payload.previous = Some(PayloadKey::from_bytes(&before.payload.present.to_bytes()));
        self
    }

    /// The same without the payload key of before: what was encrypted to that one is not read any more.
    #[must_use]
    pub fn without_previous(&self) -> Self {
        let present = PayloadKey::from_bytes(&self.payload.present.to_bytes());
        Self { identity: self.identity.clone(), payload: PayloadKeys { present, previous: None } }
    }

    /// Seed of the identity key.
    #[must_use]
    pub fn identity(&self) -> &SecretBytes {
        &self.identity
    }

    /// What payloads may be encrypted to.
    #[must_use]
    pub fn payload(&self) -> &PayloadKeys {
        &self.payload
    }

    /// The identity key for signing; none where ring does not take the seed, which it does any.
    #[must_use]
    pub fn signer(&self) -> Option<Ed25519KeyPair> {
        Ed25519KeyPair::from_seed_unchecked(self.identity.as_slice()).ok()
    }

    /// The public identity key as a JWK (RFC 8037, section 2), named by its thumbprint.
    #[must_use]
    pub fn identity_jwk(&self) -> Option<String> {
        let signer = self.signer()?;
        let public = <&[u8; 32]>::try_from(signer.public_key().as_ref()).ok()?;
        let (kid, x) = (KeyId::of_ed25519(public), base64url::encode(public));
        Some(format!(r#"{{"crv":"Ed25519","kid":"{kid}","kty":"OKP","x":"{x}"}}"#))
    }
}

impl fmt::Debug for NodeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKeys")
    }
}

#[cfg(test)]
mod tests {
    use super::NodeKeys;
    use crate::trust::base64url::encode;
    use ring::rand::SystemRandom;

    #[test]
    fn the_public_identity_key_is_that_of_the_rfc() {
        // RFC 8037, appendix A.1 to A.3.
        let seed = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
        let keys = NodeKeys::parse(seed, seed, None).unwrap();
        let jwk: serde_json::Value = serde_json::from_str(&keys.identity_jwk().unwrap()).unwrap();
        let expected = serde_json::json!({
            "kty": "OKP",
            "crv": "Ed25519",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
            "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
        });
        assert_eq!(jwk, expected);
        assert_eq!(format!("{keys:?}"), "NodeKeys");
    }

    #[test]
    fn keys_are_read_as_they_were_written_and_nothing_shorter_or_longer_is() {
        let before = NodeKeys::generate(&SystemRandom::new()).unwrap();
        let keys = NodeKeys::generate(&SystemRandom::new()).unwrap().after(&before);
        let (payload, previous) = (keys.payload().present.to_bytes(), before.payload().present.to_bytes());
        assert_ne!(*keys.identity(), payload);
        let text = |bytes: &[u8; 32]| encode(bytes);
        let again = NodeKeys::parse(&text(keys.identity()), &text(&payload), Some(&text(&previous))).unwrap();
        assert_eq!(again.identity_jwk(), keys.identity_jwk());
        assert_eq!(again.payload().present.kid(), keys.payload().present.kid());
        assert_eq!(again.payload().previous.as_ref().unwrap().kid(), before.payload().present.kid());
        let good = encode(&[1; 32]);
        for wrong in [encode(&[1; 31]), encode(&[1; 33]), String::new(), "=".repeat(43)] {
            assert!(NodeKeys::parse(&wrong, &good, None).is_none());
            assert!(NodeKeys::parse(&good, &wrong, None).is_none());
            assert!(NodeKeys::parse(&good, &good, Some(&wrong)).is_none());
        }
    }
}

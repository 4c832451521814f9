//! The name of a key: the SHA-256 of its canonical JWK (RFC 7638, RFC 8037 section 2).

use std::fmt;

use ring::digest;

use super::base64url;

/// The thumbprint of a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId([u8; 32]);

impl KeyId {
    /// The name of an Ed25519 key.
    #[must_use]
    pub fn of_ed25519(public: &[u8; 32]) -> Self {
        Self::of("Ed25519", public)
    }

    /// The name of an X25519 key.
    #[must_use]
    pub fn of_x25519(public: &[u8; 32]) -> Self {
        Self::of("X25519", public)
    }

    /// Reads 43 characters of base64url.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        base64url::decode_array(text).map(Self)
    }

    /// The first four bytes, which tell the keys of one ring apart.
    #[must_use]
    pub fn prefix(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.0;
        [a, b, c, d]
    }

    fn of(curve: &str, public: &[u8; 32]) -> Self {
        let jwk = format!(r#"{{"crv":"{curve}","kty":"OKP","x":"{}"}}"#, base64url::encode(public));
        Self(sha256(jwk.as_bytes()))
    }
}

/// SHA-256 of `bytes`.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base64url::encode(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::KeyId;
    use crate::trust::base64url;

    #[test]
    fn is_the_thumbprint() {
        // RFC 8037, appendix A.3.
        let x = base64url::decode_array("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        let kid = KeyId::of_ed25519(&x);
        assert_eq!(kid.to_string(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        assert_eq!(KeyId::parse(&kid.to_string()), Some(kid));
        assert_ne!(KeyId::of_x25519(&x), kid);
        assert_eq!(KeyId::parse("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4"), None);
    }
}

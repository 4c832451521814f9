//! The two forms of a JWS that are read here (RFC 7515): compact, with its payload inside, and detached, whose payload
//! travels beside it and is signed as it stands (RFC 7797).
//!
//! A text that is read is taken apart and no more: what its header says is for the reader of each kind to judge, and
//! the key is never the header's to choose.

use std::fmt;

use ring::signature::{ED25519, UnparsedPublicKey};

use super::base64url;
use super::members::MemberError;
use crate::limits;

/// Bytes of an Ed25519 signature.
const SIGNATURE: usize = 64;

/// Why a text is no JWS of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwsError {
    /// An algorithm that is not Ed25519.
    Algorithm,
    /// The header's members are not the given ones.
    Header(MemberError),
    /// A segment is not base64url, or not of text.
    Segment(&'static str),
    /// There are more or fewer segments than there should be.
    Shape,
    /// It is longer than anything that is signed here.
    TooLong,
    /// A JWS that is made for something else.
    Type,
}

impl fmt::Display for JwsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Algorithm => f.write_str("it is signed with another algorithm than Ed25519"),
            Self::Header(_) => f.write_str("its header is not as it must be"),
            Self::Segment(name) => write!(f, "its {name} is not base64url without padding, or not of the right length"),
            Self::Shape => f.write_str("it does not have the segments that it must have"),
            Self::TooLong => f.write_str("it is too long"),
            Self::Type => f.write_str("it was signed for another purpose"),
        }
    }
}

impl std::error::Error for JwsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Header(error) => Some(error),
            _ => None,
        }
    }
}

impl From<MemberError> for JwsError {
    fn from(error: MemberError) -> Self {
        Self::Header(error)
    }
}

/// A compact JWS, taken apart.
pub(super) struct Compact<'a> {
    /// The header's text.
    pub(super) header: String,
    /// The payload's text.
    pub(super) payload: String,
    signed: &'a str,
    signature: [u8; SIGNATURE],
}

impl<'a> Compact<'a> {
    /// Takes `text` apart, which has `cap` bytes at most.
    pub(super) fn parse(text: &'a str, cap: usize) -> Result<Self, JwsError> {
        if text.len() > cap {
            return Err(JwsError::TooLong);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(JwsError::Shape)?;
        let (header, payload) = signed.split_once('.').ok_or(JwsError::Shape)?;
        if payload.is_empty() || payload.contains('.') {
            return Err(JwsError::Shape);
        }
        Ok(Self {
            header: decode_header(header)?,
            payload: decode_text(payload, "payload")?,
            signed,
            signature: decode_signature(signature)?,
        })
    }

    /// Whether this key made the signature.
    pub(super) fn is_signed_by(&self, public: &[u8; 32]) -> bool {
        verify(public, self.signed.as_bytes(), &self.signature)
    }
}

/// A detached JWS, taken apart.
pub(super) struct Detached<'a> {
    /// The header's text.
    pub(super) header: String,
    /// The header as it is signed.
    pub(super) segment: &'a str,
    /// The signature.
    pub(super) signature: [u8; SIGNATURE],
}

impl<'a> Detached<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, JwsError> {
        if text.len() > limits::SIGNATURE_BYTES {
            return Err(JwsError::TooLong);
        }
        let (segment, signature) = text.split_once("..").ok_or(JwsError::Shape)?;
        if segment.contains('.') || signature.contains('.') {
            return Err(JwsError::Shape);
        }
        Ok(Self { header: decode_header(segment)?, segment, signature: decode_signature(signature)? })
    }
}

/// Whether `public` made `signature` over `message`. The check is ring's: cofactorless, with s below the order of the
/// group, so that nobody but the signer can make a second signature.
#[must_use]
pub fn verify(public: &[u8; 32], message: &[u8], signature: &[u8; SIGNATURE]) -> bool {
    UnparsedPublicKey::new(&ED25519, public).verify(message, signature).is_ok()
}

/// `EdDSA` is what RFC 8037 calls it, `Ed25519` is its name since RFC 9864.
pub(super) fn is_ed25519(alg: &str) -> bool {
    matches!(alg, "Ed25519" | "EdDSA")
}

fn decode_header(segment: &str) -> Result<String, JwsError> {
    if segment.len() > limits::JWS_HEADER_BYTES {
        return Err(JwsError::TooLong);
    }
    decode_text(segment, "header")
}

fn decode_text(segment: &str, name: &'static str) -> Result<String, JwsError> {
    let bytes = base64url::decode(segment).ok_or(JwsError::Segment(name))?;
    String::from_utf8(bytes).map_err(|_| JwsError::Segment(name))
}

fn decode_signature(segment: &str) -> Result<[u8; SIGNATURE], JwsError> {
    base64url::decode_array(segment).ok_or(JwsError::Segment("signature"))
}

#[cfg(test)]
mod tests {
    use super::{Compact, Detached, JwsError, verify};
    use crate::limits;
    use crate::trust::base64url;

    // RFC 8037, appendix A.4.
    const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    const JWS: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCj\
        P0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

    fn x() -> [u8; 32] {
        base64url::decode_array(X).unwrap()
    }

    #[test]
    fn the_example_of_the_rfc_verifies() {
        let jws = Compact::parse(JWS, 1000).unwrap();
        assert_eq!(jws.header, r#"{"alg":"EdDSA"}"#);
        assert_eq!(jws.payload, "Example of Ed25519 signing");
        assert!(jws.is_signed_by(&x()));
        assert!(!jws.is_signed_by(&[7; 32]));
    }

    #[test]
    fn other_shapes_are_refused() {
        let compact = |text: &str| Compact::parse(text, JWS.len()).err().unwrap();
        assert_eq!(compact(&format!("{JWS}A")), JwsError::TooLong);
        assert_eq!(compact(&JWS.replacen('.', "", 1)), JwsError::Shape);
        assert_eq!(compact("e30..AA"), JwsError::Shape);
        assert_eq!(compact("e30.e30.e30.AA"), JwsError::Shape);
        assert_eq!(compact("e30=.e30.AA"), JwsError::Segment("header"));
        assert_eq!(compact("_w.e30.AA"), JwsError::Segment("header"));
        assert_eq!(compact("e30.e3.AA"), JwsError::Segment("payload"));
        assert_eq!(compact(&JWS[..JWS.len() - 2]), JwsError::Segment("signature"));
        let signature = &JWS[JWS.len() - 86..];
        let detached = |text: &str| Detached::parse(text).err();
        assert_eq!(detached(&format!("e30..{signature}")), None);
        assert_eq!(detached(&format!("e30.e30.{signature}")), Some(JwsError::Shape));
        assert_eq!(detached(&format!("e30...{signature}")), Some(JwsError::Shape));
        assert_eq!(detached(&format!("e30..{signature}A")), Some(JwsError::Segment("signature")));
        assert_eq!(detached(&format!("e30..{signature}.")), Some(JwsError::Shape));
        let header = "A".repeat(limits::JWS_HEADER_BYTES);
        assert_eq!(detached(&format!("{header}..{signature}")), None);
        assert_eq!(detached(&format!("{header}A..{signature}")), Some(JwsError::TooLong));
    }

    #[test]
    fn a_signature_has_no_second_form() {
        // s plus the order of the group means the same to a lax reader.
        let jws = Compact::parse(JWS, 1000).unwrap();
        let order: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let mut second = jws.signature;
        let mut carry = 0;
        for (byte, add) in second[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            *byte = sum.to_le_bytes()[0];
            carry = sum >> 8;
        }
        assert!(verify(&x(), jws.signed.as_bytes(), &jws.signature));
        assert!(!verify(&x(), jws.signed.as_bytes(), &second));
    }
}

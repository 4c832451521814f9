//! The key of a client certificate, made on the node, and the request for its certificate (PKCS#10, RFC 2986).
//!
//! ```text
//! SEQUENCE                              CertificationRequest
//! ├─ SEQUENCE                           what is signed
//! │  ├─ INTEGER 0                       version 1
//! │  ├─ SEQUENCE { SET { CN } }         subject: the cluster id, or nothing; the server decides what it writes
//! │  ├─ SEQUENCE                        SubjectPublicKeyInfo (RFC 5480): id-ecPublicKey, prime256v1, the point
//! │  └─ [0]                             attributes: none
//! ├─ SEQUENCE { ecdsa-with-SHA256 }     RFC 5758, section 3.2
//! └─ BIT STRING                         signature, by the very key: whoever asks has it
//! ```

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SecureRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use zeroize::Zeroizing;

use super::base64url;
use super::identity::NoRandomness;

/// A P-256 key as PKCS#8 (RFC 5958), wiped when dropped. Its `Debug` shows nothing of it.
pub struct ClientKey(Zeroizing<Vec<u8>>);

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const BIT_STRING: u8 = 0x03;
const UTF8_STRING: u8 = 0x0c;

/// `INTEGER 0`.
const VERSION: [u8; 3] = [0x02, 0x01, 0x00];

/// 2.5.4.3, id-at-commonName.
const COMMON_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];

/// 1.2.840.10045.2.1 id-ecPublicKey with 1.2.840.10045.3.1.7 secp256r1.
const P256: [u8; 21] = [
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03,
    0x01, 0x07,
];

/// 1.2.840.10045.4.3.2, ecdsa-with-SHA256.
const ECDSA_WITH_SHA256: [u8; 12] = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// `[0]` with nothing in it.
const NO_ATTRIBUTES: [u8; 2] = [0xa0, 0x00];

/// Characters of a line of PEM (RFC 7468, section 2).
const LINE: usize = 64;

impl ClientKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`NoRandomness`] when `random` has none.
    pub fn generate(random: &dyn SecureRandom) -> Result<Self, NoRandomness> {
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, random).map_err(|_| NoRandomness)?;
        Ok(Self(Zeroizing::new(document.as_ref().to_vec())))
    }

    /// Takes a key as it is stored, in base64url; none where it is no key of this kind.
    #[must_use]
    pub fn parse(text: &str, random: &dyn SecureRandom) -> Option<Self> {
        Self::from_pkcs8(&Zeroizing::new(base64url::decode(text)?), random)
    }

    /// Takes a key as PKCS#8; none where it is no key of this kind.
    #[must_use]
    pub fn from_pkcs8(der: &[u8], random: &dyn SecureRandom) -> Option<Self> {
        let key = Self(Zeroizing::new(der.to_vec()));
        key.pair(random).map(|_| key)
    }

    /// As it is stored.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(base64url::encode(&self.0))
    }

    /// The key as PKCS#8.
    #[must_use]
    pub fn pkcs8(&self) -> &[u8] {
        &self.0
    }

    /// The key in PEM, as the field keeps it beside a certificate.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        pem("PRIVATE KEY", &self.0)
    }

    /// A certificate request in PEM. `name` becomes the common name of the subject. None where the system has no
    /// randomness.
    #[must_use]
    pub fn request(&self, name: &str, random: &dyn SecureRandom) -> Option<String> {
        let pair = self.pair(random)?;
        let subject = if name.is_empty() {
            tlv(SEQUENCE, &[])
        } else {
            let attribute = tlv(SEQUENCE, &[&COMMON_NAME, &tlv(UTF8_STRING, &[name.as_bytes()])]);
            tlv(SEQUENCE, &[&tlv(SET, &[&attribute])])
        };
        let key = tlv(SEQUENCE, &[&P256, &bits(pair.public_key().as_ref())]);
        let signed = tlv(SEQUENCE, &[&VERSION, &subject, &key, &NO_ATTRIBUTES]);
        let signature = pair.sign(random, &signed).ok()?;
        let request = tlv(SEQUENCE, &[&signed, &ECDSA_WITH_SHA256, &bits(signature.as_ref())]);
        Some(String::clone(&pem("CERTIFICATE REQUEST", &request)))
    }

    fn pair(&self, random: &dyn SecureRandom) -> Option<EcdsaKeyPair> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &self.0, random).ok()
    }
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKey")
    }
}

/// A value in DER (X.690, section 8.1): tag, length, the parts one after the other.
fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length = parts.iter().fold(0_usize, |sum, part| sum.saturating_add(part.len()));
    let mut value = vec![tag];
    // The short form, or as many bytes as the length has behind their count.
    match u8::try_from(length) {
        Ok(short @ ..=0x7f) => value.push(short),
        Ok(long) => value.extend([0x81, long]),
        Err(_) => {
            // Nothing here has 64 KiB: a name has 63 bytes, a signature 72.
            let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
            value.extend([0x82, high, low]);
        }
    }
    value.extend(parts.iter().copied().flatten());
    value
}

/// A bit string of whole bytes.
fn bits(bytes: &[u8]) -> Vec<u8> {
    tlv(BIT_STRING, &[&[0], bytes])
}

fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut text = Zeroizing::new(["-----BEGIN ", label, "-----"].concat());
    for (at, character) in body.char_indices() {
        if at.is_multiple_of(LINE) {
            text.push('\n');
        }
        text.push(character);
    }
    for part in ["\n-----END ", label, "-----\n"] {
        text.push_str(part);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{ClientKey, tlv};
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

    /// The contents of one value in DER, and what follows it.
    fn open(der: &[u8], tag: u8) -> (&[u8], &[u8]) {
        assert_eq!(der[0], tag, "{der:02x?}");
        let (length, at) = match der[1] {
            short @ ..=0x7f => (usize::from(short), 2),
            0x81 => (usize::from(der[2]), 3),
            0x82 => (usize::from(der[2]) << 8 | usize::from(der[3]), 4),
            other => panic!("a length of form {other:x}"),
        };
        der[at..].split_at(length)
    }

    fn der(pem: &str) -> Vec<u8> {
        let lines: Vec<&str> = pem.lines().collect();
        assert_eq!(lines[0], "-----BEGIN CERTIFICATE REQUEST-----");
        assert_eq!(*lines.last().unwrap(), "-----END CERTIFICATE REQUEST-----");
        let body = &lines[1..lines.len() - 1];
        assert!(body[..body.len() - 1].iter().all(|line| line.len() == 64) && body[body.len() - 1].len() <= 64);
        STANDARD.decode(body.concat()).unwrap()
    }

    #[test]
    fn a_request_names_the_cluster_and_is_signed_by_the_key_in_it() {
        let random = SystemRandom::new();
        let key = ClientKey::generate(&random).unwrap();
        let name = "c".repeat(63);
        for name in ["c1", "", &name] {
            let whole = der(&key.request(name, &random).unwrap());
            let (request, rest) = open(&whole, 0x30);
            assert!(rest.is_empty());
            let (info, rest) = open(request, 0x30);
            let signed = &request[..request.len() - rest.len()];
            let (algorithm, rest) = open(rest, 0x30);
            assert_eq!(algorithm, [0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]);
            let (signature, rest) = open(rest, 0x03);
            assert!(rest.is_empty() && signature[0] == 0);
            let (version, rest) = open(info, 0x02);
            assert_eq!(version, [0]);
            let (subject, rest) = open(rest, 0x30);
            assert!(subject.ends_with(name.as_bytes()) && subject.is_empty() == name.is_empty());
            let (info, rest) = open(rest, 0x30);
            assert_eq!(rest, [0xa0, 0]);
            let point = &open(open(info, 0x30).1, 0x03).0[1..];
            assert_eq!((point.len(), point[0]), (65, 4));
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(signed, &signature[1..]).unwrap();
        }
    }

    #[test]
    fn a_key_comes_back_and_nothing_else_is_one() {
        let random = SystemRandom::new();
        let key = ClientKey::generate(&random).unwrap();
        let text = key.to_text();
        let again = ClientKey::parse(&text, &random).unwrap();
        assert_eq!(again.pkcs8(), key.pkcs8());
        assert_eq!(format!("{again:?}"), "ClientKey");
        assert_ne!(ClientKey::generate(&random).unwrap().pkcs8(), key.pkcs8());
        let longer = crate::trust::base64url::encode(&[key.pkcs8(), &[0]].concat());
        for wrong in ["", "AAAA", &text[..text.len() - 4], &longer, "no base64url!"] {
            assert!(ClientKey::parse(wrong, &random).is_none(), "{wrong}");
        }
    }

    #[test]
    fn lengths_have_the_shortest_form() {
        for (length, head) in
            [(0, &[0x30, 0][..]), (127, &[0x30, 127]), (128, &[0x30, 0x81, 128]), (255, &[0x30, 0x81, 255])]
        {
            assert_eq!(tlv(0x30, &[&vec![7; length]])[..head.len()], *head);
        }
        assert_eq!(tlv(0x30, &[&[7; 200], &[7; 56]])[..4], [0x30, 0x82, 1, 0]);
        assert_eq!(tlv(0x30, &[&[7; 256]]).len(), 260);
    }
}

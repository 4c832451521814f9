//! The MAC of posts (TRUST.md, MAC of posts).
//!
//! ```text
//! X-VWorkspace-MAC: v2;kid=<8 hex>;at=<unix seconds>;n=<counter>;mac=<base64url HMAC-SHA256>
//!
//! v2 LF method LF path with query LF at LF n LF base64url(SHA-256(body))      no LF at the end
//! ```
//! `v2` has a key that the server gave once and nobody can read on the way. `v1` is for a server that gave none: its key
//! follows from the bearer, which stands in every request, so it stops nobody who saw one.

use std::fmt;

use ring::{digest, hkdf, hmac};
use zeroize::{Zeroize as _, Zeroizing};

use super::base64url;

/// The header that carries it.
pub const HEADER: &str = "x-vworkspace-mac";

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// `info` of the key derivation of `v1`.
const V1_INFO: &[u8] = b"vworkspace-agent/v1/body-mac";

/// How a key came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Derived from the bearer.
    V1,
    /// Given by the server.
    V2,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

/// A key for MACs. Wiped when dropped; its `Debug` shows its version.
pub struct MacKey {
    version: Version,
    bytes: Zeroizing<[u8; KEY_BYTES]>,
}

/// What is protected.
#[derive(Clone, Copy, Debug)]
pub struct Covered<'a> {
    /// The method.
    pub method: &'a str,
    /// The path with its query, as it stands in the request line.
    pub path: &'a str,
    /// Whole seconds since 1970.
    pub at: u64,
    /// Never the same twice for one key.
    pub n: u64,
    /// The body as it is sent; empty where there is none.
    pub body: &'a [u8],
}

impl MacKey {
    /// The `macKey` of a register or rotate answer: 32 bytes in base64url; none for anything else.
    #[must_use]
    pub fn given(text: &str) -> Option<Self> {
        let mut bytes = base64url::decode(text)?;
        let key = <[u8; KEY_BYTES]>::try_from(bytes.as_slice()).ok();
        bytes.zeroize();
        Some(Self { version: Version::V2, bytes: Zeroizing::new(key?) })
    }

    /// The key of a server that gave none: it follows from the cluster id and the bearer. None where HKDF does not give
    /// 32 bytes, which it does (RFC 5869, section 2.3: up to 255 × 32).
    #[must_use]
    pub fn derived(cluster_id: &str, bearer: &str) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        let is_derived = hkdf_sha256(cluster_id.as_bytes(), bearer.as_bytes(), V1_INFO, bytes.as_mut());
        is_derived.then_some(Self { version: Version::V1, bytes })
    }

    /// The key as it is stored, in base64url.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(base64url::encode(self.bytes.as_slice()))
    }

    /// How the key came about.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The value of [`HEADER`].
    #[must_use]
    pub fn header(&self, covered: &Covered<'_>) -> String {
        let Covered { method, path, at, n, body } = covered;
        let version = self.version;
        let body_hash = base64url::encode(digest::digest(&digest::SHA256, body).as_ref());
        let message = format!("{version}\n{method}\n{path}\n{at}\n{n}\n{body_hash}");
        let mac = base64url::encode(hmac_sha256(self.bytes.as_slice(), message.as_bytes()).as_ref());
        format!("{version};kid={};at={at};n={n};mac={mac}", self.kid())
    }

    /// First 8 hex digits of the SHA-256 of the key.
    fn kid(&self) -> String {
        let hash = digest::digest(&digest::SHA256, self.bytes.as_slice());
        hash.as_ref().iter().take(4).fold(String::with_capacity(8), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = fmt::Write::write_fmt(&mut text, format_args!("{byte:02x}"));
            text
        })
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MacKey({})", self.version)
    }
}

/// HMAC-SHA256 (RFC 2104).
#[must_use]
pub fn hmac_sha256(key: &[u8], message: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message)
}

/// HKDF-SHA256 (RFC 5869) into `output`; false where that is longer than HKDF can give.
#[must_use]
pub fn hkdf_sha256(salt: &[u8], ikm: &[u8], info: &[u8], output: &mut [u8]) -> bool {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(ikm);
    let expanded = extracted.expand(&[info], Length(output.len())).and_then(|okm| okm.fill(output));
    expanded.is_ok()
}

#[cfg(test)]
mod tests {
    use super::{Covered, MacKey, Version, hkdf_sha256, hmac_sha256};
    use crate::trust::base64url;
    use serde_json::Value;

    const COVERED: Covered<'_> = Covered {
        method: "POST",
        path: "/base/api/agent/events?x=1",
        at: 1_793_491_200,
        n: 7,
        body: br#"{"events":[]}"#,
    };

    fn key(byte: u8) -> MacKey {
        MacKey::given(&base64url::encode(&[byte; 32])).unwrap()
    }

    fn groups(name: &str) -> Vec<Value> {
        let path = format!("{}/tests/vectors/wycheproof/{name}", env!("CARGO_MANIFEST_DIR"));
        let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        file["testGroups"].as_array().unwrap().clone()
    }

    fn bytes(value: &Value) -> Vec<u8> {
        let text = value.as_str().unwrap();
        (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn hmac_is_that_of_wycheproof() {
        let mut count = 0;
        for group in groups("hmac_sha256_test.json") {
            let tag_bytes = usize::try_from(group["tagSize"].as_u64().unwrap()).unwrap() / 8;
            for test in group["tests"].as_array().unwrap() {
                let tag = hmac_sha256(&bytes(&test["key"]), &bytes(&test["msg"]));
                let fits = tag.as_ref()[..tag_bytes] == bytes(&test["tag"]);
                assert_eq!(fits, test["result"] == "valid", "{test}");
                count += 1;
            }
        }
        assert!(count > 100, "{count}");
    }

    #[test]
    fn hkdf_is_that_of_wycheproof() {
        let mut count = 0;
        for group in groups("hkdf_sha256_test.json") {
            for test in group["tests"].as_array().unwrap() {
                let mut output = vec![0; usize::try_from(test["size"].as_u64().unwrap()).unwrap()];
                let filled =
                    hkdf_sha256(&bytes(&test["salt"]), &bytes(&test["ikm"]), &bytes(&test["info"]), &mut output);
                assert_eq!(filled, test["result"] == "valid", "{test}");
                assert!(!filled || output == bytes(&test["okm"]), "{test}");
                count += 1;
            }
        }
        assert!(count > 50, "{count}");
    }

    /// Computed apart from this code, with Python's `hmac` and `hashlib`.
    #[test]
    fn the_header_is_what_another_program_computes() {
        assert_eq!(key(9).header(&COVERED), V2);
        let derived = MacKey::derived("c1", "abcdefghijklmnopqrstuv").unwrap();
        assert_eq!(derived.header(&COVERED), V1);
        assert_eq!((derived.version(), key(9).version()), (Version::V1, Version::V2));
    }

    #[test]
    fn everything_that_is_covered_changes_it() {
        let mac = |key: &MacKey, covered: &Covered<'_>| key.header(covered).rsplit_once("mac=").unwrap().1.to_owned();
        let whole = mac(&key(9), &COVERED);
        for other in [
            Covered { method: "GET", ..COVERED },
            Covered { path: "/base/api/agent/events", ..COVERED },
            Covered { at: COVERED.at + 1, ..COVERED },
            Covered { n: 8, ..COVERED },
            Covered { body: b"", ..COVERED },
        ] {
            assert_ne!(mac(&key(9), &other), whole, "{other:?}");
        }
        assert_ne!(mac(&key(8), &COVERED), whole);
    }

    #[test]
    fn a_key_of_just_the_length_is_taken_and_one_byte_more_or_less_is_not() {
        for (length, fits) in [(0, false), (31, false), (32, true), (33, false)] {
            assert_eq!(MacKey::given(&base64url::encode(&vec![1; length])).is_some(), fits, "{length}");
        }
        assert!(MacKey::given("not base64url!").is_none());
        assert_eq!(key(3).to_text().as_str(), base64url::encode(&[3; 32]));
        assert_eq!(format!("{:?}", key(3)), "MacKey(v2)");
    }

    const V2: &str = "v2;kid=8c0cc17a;at=1793491200;n=7;mac=u2kBUL6_j552y2OJLjNsmng2RtUpo-A28p4hxQ4KM_U";
    const V1: &str = "v1;kid=528501d1;at=1793491200;n=7;mac=NVeFIRLUiVIeqpVMnLKhxwEfwAt0euYrCCrHJp7rILc";
}

//! Proof of possession (TRUST.md, Credentials): a compact JWS (RFC 7515, section 7.1) by the node's identity key. With it
//! a credential that has expired may be rotated.

use ring::digest;
use ring::signature::Ed25519KeyPair;
use serde::Serialize;

use super::base64url;

/// The header that carries it.
pub const HEADER: &str = "x-vworkspace-proof";

/// The header of the JWS, always the same.
const JOSE_HEADER: &[u8] = br#"{"alg":"Ed25519","typ":"edge-proof+jws"}"#;

/// What the node proves to have asked for.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The method.
    pub method: &'a str,
    /// The path with its query, as it stands in the request line.
    pub path: &'a str,
    /// The cluster that the node says it is.
    pub cluster: &'a str,
    /// The bearer of the same request, expired or not.
    pub bearer: &'a str,
    /// Whole seconds since 1970.
    pub iat: u64,
    /// Never the same twice.
    pub nonce: &'a [u8],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Payload<'a> {
    method: &'a str,
    path: &'a str,
    cluster: &'a str,
    token_sha256: String,
    iat: u64,
    nonce: String,
}

impl Claim<'_> {
    /// The value of [`HEADER`].
    #[must_use]
    pub fn sign(&self, signer: &Ed25519KeyPair) -> String {
        let payload = Payload {
            method: self.method,
            path: self.path,
            cluster: self.cluster,
            token_sha256: base64url::encode(digest::digest(&digest::SHA256, self.bearer.as_bytes()).as_ref()),
            iat: self.iat,
            nonce: base64url::encode(self.nonce),
        };
        // A struct of texts and a number: writing it does not fail.
        let payload = serde_json::to_vec(&payload).unwrap_or_default();
        let signed = format!("{}.{}", base64url::encode(JOSE_HEADER), base64url::encode(&payload));
        let signature = base64url::encode(signer.sign(signed.as_bytes()).as_ref());
        format!("{signed}.{signature}")
    }
}

#[cfg(test)]
mod tests {
    use super::Claim;
    use crate::trust::base64url::decode;
    use crate::trust::identity::NodeKeys;
    use ring::signature::{ED25519, KeyPair as _, UnparsedPublicKey};
    use serde_json::{Value, json};

    const CLAIM: Claim<'_> = Claim {
        method: "POST",
        path: "/api/agent/credentials/rotate",
        cluster: "c1",
        bearer: "abc",
        iat: 1_793_491_200,
        nonce: &[0, 255, 16],
    };

    #[test]
    fn it_verifies_with_the_public_key_and_says_what_was_claimed() {
        let seed = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
        let signer = NodeKeys::parse(seed, seed, None).unwrap().signer().unwrap();
        let text = CLAIM.sign(&signer);
        let parts: Vec<&str> = text.split('.').collect();
        let [header, payload, signature] = parts.as_slice() else { panic!("{text}") };
        let public = UnparsedPublicKey::new(&ED25519, signer.public_key().as_ref());
        public.verify(format!("{header}.{payload}").as_bytes(), &decode(signature).unwrap()).unwrap();
        assert!(public.verify(format!("{header}.{payload}x").as_bytes(), &decode(signature).unwrap()).is_err());
        let read = |part: &str| serde_json::from_slice::<Value>(&decode(part).unwrap()).unwrap();
        assert_eq!(read(header), json!({"alg": "Ed25519", "typ": "edge-proof+jws"}));
        let expected = json!({
            "method": "POST",
            "path": "/api/agent/credentials/rotate",
            "cluster": "c1",
            // SHA-256 of "abc": FIPS 180-4, example.
            "tokenSha256": "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0",
            "iat": 1_793_491_200_u64,
            "nonce": "AP8Q",
        });
        assert_eq!(read(payload), expected);
        assert!(!text.contains("abc"), "the bearer itself is not in it");
    }
}

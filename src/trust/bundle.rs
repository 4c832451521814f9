//! Authorities for TLS that the control plane passes on: with a pinned keyring the owner says so, in a compact JWS by a root
//! key, `typ` `edge-ca+jws`, payload `{pem}`.

use super::keyring::{Keyring, KeyringError, signed_by_root};
use super::members::Members;
use crate::limits;

const TYPE: &str = "edge-ca+jws";

/// The PEM text that a root key of the ring has signed; none where it is too long.
///
/// # Errors
/// As [`KeyringError`] lists them.
pub fn signed(ring: &Keyring, text: &str) -> Result<Option<String>, KeyringError> {
    let payload = signed_by_root(ring, text.trim_ascii(), TYPE, limits::CA_BUNDLE_BYTES)?;
    let mut members = Members::parse(&payload)?;
    let pem = members.text("pem")?.into_owned();
    members.end()?;
    Ok(plain(&pem))
}

/// A PEM text that nobody has to sign; none where it is too long.
#[must_use]
pub fn plain(text: &str) -> Option<String> {
    (text.len() <= limits::GIVEN_AUTHORITIES_BYTES).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{plain, signed};
    use crate::limits;
    use crate::trust::jws::JwsError;
    use crate::trust::keyring::{Key, Keyring, KeyringError, Use};
    use crate::trust::sign::SigningKey;

    fn key(n: u8) -> SigningKey {
        SigningKey::from_seed(&[n; 32]).unwrap()
    }

    fn ring() -> Keyring {
        let keys = [(1, Use::Root), (2, Use::Job)].map(|(n, usage)| Key::new(*key(n).public(), usage, None, None));
        Keyring::pin(&[key(1).sign_keyring(1, 1, &keys)]).unwrap()
    }

    fn bundle(n: u8, pem: &str) -> String {
        key(n).sign_compact("edge-ca+jws", &serde_json::json!({ "pem": pem }).to_string())
    }

    #[test]
    fn only_a_root_key_vouches_for_authorities() {
        let ring = ring();
        assert_eq!(signed(&ring, &bundle(1, "a\nb")).unwrap().as_deref(), Some("a\nb"));
        assert!(matches!(signed(&ring, &bundle(2, "a")), Err(KeyringError::WrongUse)));
        assert!(matches!(signed(&ring, &bundle(3, "a")), Err(KeyringError::UnknownSigner)));
        let keyring = key(1).sign_compact("edge-keyring+jws", r#"{"pem":"a"}"#);
        assert!(matches!(signed(&ring, &keyring), Err(KeyringError::Jws(JwsError::Type))));
        let good = bundle(1, "a");
        assert!(matches!(signed(&ring, &good[..good.len() - 4]), Err(KeyringError::Jws(_))));
        for payload in ["{}", r#"{"pem":1}"#, r#"{"pem":"a","x":1}"#, "[]", "x"] {
            let wrong = key(1).sign_compact("edge-ca+jws", payload);
            assert!(matches!(signed(&ring, &wrong), Err(KeyringError::Member(_))), "{payload}");
        }
        assert!(matches!(signed(&ring, "-----BEGIN CERTIFICATE-----"), Err(KeyringError::Jws(_))));
    }

    #[test]
    fn a_bundle_of_just_the_length_is_taken_and_one_byte_more_is_not() {
        let ring = ring();
        let full = "\n".repeat(limits::GIVEN_AUTHORITIES_BYTES);
        assert_eq!(plain(&full).as_ref(), Some(&full));
        assert_eq!(plain(&format!("{full}x")), None);
        // As real ones are: a line has 64 characters.
        let full = format!("{}\n", "A".repeat(64)).repeat(limits::GIVEN_AUTHORITIES_BYTES / 65);
        let rest = "A".repeat(limits::GIVEN_AUTHORITIES_BYTES - full.len());
        assert!(signed(&ring, &bundle(1, &format!("{full}{rest}"))).unwrap().is_some());
        assert!(signed(&ring, &bundle(1, &format!("{full}{rest}A"))).unwrap().is_none());
        let huge = "A".repeat(limits::CA_BUNDLE_BYTES);
        assert!(matches!(signed(&ring, &bundle(1, &huge)), Err(KeyringError::Jws(_))));
    }
}

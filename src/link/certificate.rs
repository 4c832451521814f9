//! The client certificate that the control plane issues for a key made on the node (P2.8).

use std::sync::Arc;

use ring::rand::SystemRandom;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use tracing::warn;
use zeroize::Zeroizing;

use super::Fault;
use crate::clock;
use crate::limits;
use crate::net::Tls;
use crate::net::renewal::Candidate;
use crate::net::tls::TlsFileError;
use crate::trust::base64url;
use crate::trust::client_key::ClientKey;

/// A certificate and its key.
#[derive(Debug)]
pub struct ClientCertificate {
    /// Made here.
    pub key: ClientKey,
    /// The certificate with its chain, PEM, as it came.
    pub chain: String,
}

/// The certificates of a node.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    /// In use.
    pub current: Option<Arc<ClientCertificate>>,
    /// Stored, but not seen to work yet: the one in use stays until then.
    pub next: Option<Arc<ClientCertificate>>,
}

impl Certificates {
    /// Shows the certificate in use from now on. Without one that can be used the control plane is asked for another.
    pub fn show(&self, tls: &Tls) {
        let Some(current) = &self.current else { return };
        match current.candidate(tls) {
            // At the start nobody else commits anything.
            Ok(candidate) => {
                let _ = tls.commit(candidate);
            }
            Err(_) => warn!("the stored client certificate cannot be used; another one is asked for"),
        }
    }
}

/// A key, and the request for its certificate in PEM.
pub struct Asked {
    key: ClientKey,
    /// What is sent.
    pub request: String,
}

impl Asked {
    /// Makes both; none where the system has no randomness. `name` is the cluster id, where it is known.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let random = SystemRandom::new();
        let key = ClientKey::generate(&random).ok()?;
        let request = key.request(name, &random)?;
        Some(Self { key, request })
    }

    /// What came for it, if it can be used: with what is in use otherwise it makes a candidate.
    ///
    /// # Errors
    /// [`Fault::ServerTooOld`] when nothing came, [`Fault::Unreadable`] when it is too long, no certificate, for another
    /// key, or has ended.
    pub fn take(self, chain: Option<String>, tls: &Tls) -> Result<(ClientCertificate, Candidate), Fault> {
        let chain = chain.ok_or(Fault::ServerTooOld("certificateRequest"))?;
        if chain.len() > limits::ISSUED_CHAIN_BYTES {
            return Err(Fault::Unreadable("its clientCertificate is longer than 10 KiB"));
        }
        let certificate = ClientCertificate { key: self.key, chain };
        let candidate = certificate.candidate(tls)?;
        match candidate.client_life() {
            None => Err(NO_CERTIFICATE),
            Some((_, end)) if end <= clock::unix_seconds() => {
                Err(Fault::Unreadable("its clientCertificate has ended already (or is this node's clock ahead?)"))
            }
            Some(_) => Ok((certificate, candidate)),
        }
    }
}

impl ClientCertificate {
    /// As it is stored: key and chain in base64url with a dot between them. Whatever a server sends, it takes no more room than
    /// its length says.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = self.key.to_text();
        text.push('.');
        text.push_str(&base64url::encode(self.chain.as_bytes()));
        text
    }

    /// Takes one as it is stored; none where it is not what was stored.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (key, chain) = text.split_once('.')?;
        let chain = String::from_utf8(base64url::decode(chain)?).ok()?;
        let key = ClientKey::parse(key, &SystemRandom::new())?;
        (chain.len() <= limits::ISSUED_CHAIN_BYTES).then_some(Self { key, chain })
    }

    /// Takes one as a Secret has it, both in PEM; none where the key is none that was made here.
    #[must_use]
    pub fn from_pem(chain: &str, key: &str) -> Option<Self> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes()).ok()?;
        let key = ClientKey::from_pkcs8(key.secret_pkcs8_der(), &SystemRandom::new())?;
        (chain.len() <= limits::ISSUED_CHAIN_BYTES).then(|| Self { key, chain: chain.to_owned() })
    }

    /// What is in use, with this certificate.
    ///
    /// # Errors
    /// [`Fault::Unreadable`] when it is no certificate, or for another key.
    pub fn candidate(&self, tls: &Tls) -> Result<Candidate, Fault> {
        tls.with_issued(&self.chain, self.key.pkcs8()).map_err(|error| match error {
            TlsFileError::Unusable(rustls::Error::InconsistentKeys(_)) => {
                Fault::Unreadable("its clientCertificate is for another key than that of the request")
            }
            _ => NO_CERTIFICATE,
        })
    }
}

const NO_CERTIFICATE: Fault = Fault::Unreadable("its clientCertificate is no certificate in PEM");

#[cfg(test)]
mod tests {
    use super::{Asked, ClientCertificate};
    use crate::limits;
    use crate::link::Fault;
    use crate::net::Tls;
    use crate::net::renewal::TlsFiles;
    use crate::trust::client_key::ClientKey;
    use ring::rand::SystemRandom;

    /// A certificate for this key in PEM, from year to year.
    fn issue(asked: &Asked, from: i32, to: i32) -> String {
        let key = rcgen::KeyPair::try_from(asked.key.pkcs8()).unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["node.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        params.self_signed(&key).unwrap().pem()
    }

    fn fault(chain: Option<String>) -> &'static str {
        let tls = Tls::open(TlsFiles::default()).unwrap();
        match Asked::new("c1").unwrap().take(chain, &tls) {
            Err(Fault::Unreadable(why) | Fault::ServerTooOld(why)) => why,
            Err(fault) => panic!("{fault}"),
            Ok(_) => panic!("it was taken"),
        }
    }

    #[test]
    fn a_certificate_for_the_key_is_taken_with_its_life() {
        let tls = Tls::open(TlsFiles::default()).unwrap();
        let asked = Asked::new("c1").unwrap();
        let chain = issue(&asked, 2020, 2100);
        let (taken, candidate) = asked.take(Some(chain.clone()), &tls).unwrap();
        assert_eq!(taken.chain, chain);
        assert_eq!(candidate.client_life(), Some((1_577_836_800, 4_102_444_800)));
        assert!(!tls.has_client_certificate());
        assert!(tls.commit(candidate));
        assert!(tls.has_client_certificate());
        assert_eq!(tls.client_life(), Some((1_577_836_800, 4_102_444_800)));
    }

    #[test]
    fn one_that_has_ended_is_not_shown() {
        let tls = Tls::open(TlsFiles::default()).unwrap();
        let asked = Asked::new("c1").unwrap();
        let chain = issue(&asked, 2020, 2021);
        let ended = ClientCertificate { key: asked.key, chain };
        assert!(tls.commit(ended.candidate(&tls).unwrap()));
        assert!(!tls.has_client_certificate());
        assert_eq!(tls.client_life().map(|(_, end)| end), Some(1_609_459_200));
    }

    #[test]
    fn what_was_made_beside_something_older_is_not_committed() {
        let tls = Tls::open(TlsFiles::default()).unwrap();
        let [first, second] = [0, 1].map(|_| {
            let asked = Asked::new("c1").unwrap();
            let chain = issue(&asked, 2020, 2100);
            asked.take(Some(chain), &tls).unwrap().1
        });
        assert!(tls.commit(first));
        assert!(!tls.commit(second));
    }

    #[test]
    fn what_is_no_certificate_for_the_key_is_refused_with_the_reason() {
        let other = issue(&Asked::new("c1").unwrap(), 2020, 2100);
        assert_eq!(fault(None), "certificateRequest");
        assert_eq!(fault(Some(other.clone())), "its clientCertificate is for another key than that of the request");
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        for wrong in ["", "x", garbage, &key, &other[..other.len() / 2]] {
            assert_eq!(fault(Some(wrong.to_owned())), "its clientCertificate is no certificate in PEM", "{wrong}");
        }
        let tls = Tls::open(TlsFiles::default()).unwrap();
        let asked = Asked::new("c1").unwrap();
        let chain = issue(&asked, 2020, 2021);
        assert!(matches!(asked.take(Some(chain), &tls), Err(Fault::Unreadable(why)) if why.contains("has ended")));
    }

    #[test]
    fn a_chain_of_just_the_length_is_taken_and_one_byte_more_is_not() {
        let tls = Tls::open(TlsFiles::default()).unwrap();
        for (length, is_taken) in [(limits::ISSUED_CHAIN_BYTES, true), (limits::ISSUED_CHAIN_BYTES + 1, false)] {
            let asked = Asked::new("c1").unwrap();
            let chain = issue(&asked, 2020, 2100);
            let filled = format!("{}{chain}", "\n".repeat(length - chain.len()));
            let taken = asked.take(Some(filled), &tls);
            assert_eq!(taken.is_ok(), is_taken, "{length} {:?}", taken.err());
        }
    }

    #[test]
    fn what_was_stored_comes_back_and_nothing_else_does() {
        let asked = Asked::new("c1").unwrap();
        let chain = issue(&asked, 2020, 2100);
        let whole = |chain: &str| {
            let key = ClientKey::parse(&asked.key.to_text(), &SystemRandom::new()).unwrap();
            ClientCertificate { key, chain: chain.to_owned() }.to_text()
        };
        let text = whole(&chain);
        let pem = asked.key.to_pem();
        let again = [ClientCertificate::parse(&text), ClientCertificate::from_pem(&chain, &pem)].map(Option::unwrap);
        for again in again {
            assert_eq!((again.key.pkcs8(), &again.chain), (asked.key.pkcs8(), &chain));
        }
        let others = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
        for wrong in ["", "x", &chain, &others, &pem[..pem.len() / 2]] {
            assert!(ClientCertificate::from_pem(&chain, wrong).is_none(), "{wrong}");
        }
        for (length, is_taken) in [(limits::ISSUED_CHAIN_BYTES, true), (limits::ISSUED_CHAIN_BYTES + 1, false)] {
            assert_eq!(ClientCertificate::from_pem(&"x".repeat(length), &pem).is_some(), is_taken);
        }
        assert!(ClientCertificate::parse(&whole(&"x".repeat(limits::ISSUED_CHAIN_BYTES))).is_some());
        let long = whole(&"x".repeat(limits::ISSUED_CHAIN_BYTES + 1));
        let (key, body) = text.split_once('.').unwrap();
        for wrong in
            ["", ".", "AAAA.AAAA", key, &format!("{body}.{key}"), &format!(".{body}"), &format!("{key}._w"), &long]
        {
            assert!(ClientCertificate::parse(wrong).is_none(), "{wrong}");
        }
    }
}

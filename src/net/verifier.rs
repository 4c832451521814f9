//! Whom a line believes, and when a chain that is not valid yet is looked at all the same.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::issuer::issuer;

/// Verifies as `rustls::client::WebPkiServerVerifier` does, and remembers the chain that it saw last. That one brings a
/// reader of revocation lists with it, and nobody has any here.
#[derive(Debug)]
pub(super) struct Verifier {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    when: When,
    last: Mutex<Option<Shown>>,
    /// What was refused since, for a person who asks why.
    refused: Mutex<Option<CertificateDer<'static>>>,
}

/// The time that a chain is verified at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Where the only fault is that it is not valid yet, when it first is.
    AtNotBefore,
    /// Now.
    Now,
}

#[derive(Debug)]
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    name: ServerName<'static>,
}

/// Certificates of a chain that may each be the one that begins last.
const CHAIN: usize = 8;

impl Verifier {
    pub(super) fn new(roots: Arc<RootCertStore>, provider: &CryptoProvider, when: When) -> Result<Self, Error> {
        if roots.is_empty() {
            return Err(Error::General("no root trust anchors were provided".to_owned()));
        }
        let algorithms = provider.signature_verification_algorithms;
        Ok(Self { roots, algorithms, when, last: Mutex::default(), refused: Mutex::default() })
    }

    /// Until when the chain that was shown last is valid, and who issued the leaf; none where none was shown. A certificate
    /// that the chain can do without ends nothing.
    pub(super) fn shown(&self) -> Option<(u64, Option<String>)> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = last.as_ref()?;
        let (leaf, rest) = shown.chain.split_first()?;
        let is_over = |end: &u64| {
            let time = UnixTime::since_unix_epoch(Duration::from_secs(end.saturating_add(1)));
            let judged = self.verify(leaf, rest, &shown.name, time);
            matches!(judged, Err(Error::InvalidCertificate(CertificateError::ExpiredContext { .. })))
        };
        let ends = shown.chain.iter().filter_map(|certificate| self.life_of(certificate)).map(|(_, end)| end);
        Some((ends.filter(is_over).min()?, issuer(leaf)))
    }

    /// Who issued the certificate that was refused last, where none was taken since.
    pub(super) fn refused_issuer(&self) -> Option<String> {
        issuer(self.refused.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?)
    }

    /// Whether the chain that was shown last is valid at this time; true where none was shown.
    pub(super) fn is_valid_at(&self, time: SystemTime) -> bool {
        let Ok(since) = time.duration_since(UNIX_EPOCH) else { return false };
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().is_none_or(|shown| {
            shown.chain.split_first().is_some_and(|(leaf, rest)| {
                let time = UnixTime::since_unix_epoch(Duration::from_secs(since.as_secs()));
                self.verify(leaf, rest, &shown.name, time).is_ok()
            })
        })
    }

    /// Signed by one of the roots, valid at this time, and for this name.
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        time: UnixTime,
    ) -> Result<(), Error> {
        let leaf = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&leaf, &self.roots, rest, time, self.algorithms.all)?;
        verify_server_name(&leaf, name)
    }

    /// From when to when a certificate is valid, whoever issued it; none where it is no certificate. Asked for the begin and
    /// for the end of time, webpki says why that is too early or too late.
    pub(super) fn life_of(&self, certificate: &CertificateDer<'_>) -> Option<(u64, u64)> {
        let name = ServerName::try_from("localhost").ok()?;
        let ask = |seconds| {
            let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            self.verify(certificate, &[], &name, time).err()
        };
        let Some(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) = ask(u64::MAX) else {
            return None;
        };
        let not_before = match ask(0) {
            Some(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
                not_before.as_secs()
            }
            _ => 0,
        };
        Some((not_before, not_after.as_secs()))
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        mut time: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        for _ in 0..CHAIN {
            match self.verify(leaf, rest, name, time) {
                Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }))
                    if self.when == When::AtNotBefore && not_before > time =>
                {
                    time = not_before;
                }
                judged => return judged.map(|()| ServerCertVerified::assertion()),
            }
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidYet))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.judge(leaf, rest, name, now);
        let refused = verified.is_err().then(|| leaf.clone().into_owned());
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
        let verified = verified?;
        let chain = std::iter::once(leaf).chain(rest).map(|certificate| certificate.clone().into_owned()).collect();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Shown { chain, name: name.to_owned() });
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::{Verifier, When};
    use crate::net::NetError;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{CertificateError, Error, RootCertStore};
    use std::sync::Arc;
    use std::time::{Duration, UNIX_EPOCH};

    const IN_2026: Duration = Duration::from_secs(1_793_491_200);
    const IN_2031: Duration = Duration::from_secs(1_930_000_000);
    const IN_2041: Duration = Duration::from_secs(2_245_000_000);

    /// A root, an authority that begins in 2029, and a server's certificate of 2030 to 2040.
    fn chain() -> (RootCertStore, CertificateDer<'static>, CertificateDer<'static>) {
        let key = || KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = CertifiedIssuer::self_signed(params.clone(), key()).unwrap();
        params.not_before = date_time_ymd(2029, 1, 1);
        params.distinguished_name.push(rcgen::DnType::CommonName, "between");
        let between = CertifiedIssuer::signed_by(params, key(), &root).unwrap();
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2030, 1, 1);
        params.not_after = date_time_ymd(2040, 1, 1);
        let leaf = params.signed_by(&key(), &between).unwrap().der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone()).unwrap();
        (roots, leaf, between.der().clone())
    }

    fn verifier(roots: &RootCertStore, when: When) -> Verifier {
        Verifier::new(Arc::new(roots.clone()), &rustls::crypto::ring::default_provider(), when).unwrap()
    }

    #[test]
    fn a_fault_that_rustls_does_not_know_is_named() {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone()).unwrap();
        let name = ServerName::try_from("a.example").unwrap();
        let verifier = verifier(&roots, When::Now);
        let judged = verifier.verify_server_cert(root.der(), &[], &name, &[], UnixTime::since_unix_epoch(IN_2031));
        let text = NetError::Tls(judged.unwrap_err()).to_string();
        assert_eq!(text, "TLS was refused: the server's certificate cannot be used (CaUsedAsEndEntity)");
    }

    #[test]
    fn it_is_told_when_a_chain_ends_and_who_issued_what_was_refused() {
        let (roots, leaf, between) = chain();
        let (verifier, name) = (verifier(&roots, When::Now), ServerName::try_from("a.example").unwrap());
        let (strangers, stranger, _) = chain();
        let show = |leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]| {
            verifier.verify_server_cert(leaf, rest, &name, &[], UnixTime::since_unix_epoch(IN_2031)).map(drop)
        };
        assert_eq!((verifier.shown(), verifier.refused_issuer()), (None, None));
        // One that the chain does not need, and that has long ended.
        let mut old = CertificateParams::default();
        old.not_after = date_time_ymd(2020, 1, 1);
        let old = old.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone();
        show(&leaf, &[old, between]).unwrap();
        assert_eq!(verifier.shown(), Some((2_208_988_800, Some("between".to_owned()))));
        assert_eq!(verifier.refused_issuer(), None);
        drop(strangers);
        show(&stranger, &[]).unwrap_err();
        assert_eq!(verifier.refused_issuer().as_deref(), Some("between"));
        show(&leaf, &[]).unwrap_err();
    }

    #[test]
    fn without_roots_there_is_no_verifier() {
        let provider = rustls::crypto::ring::default_provider();
        assert!(matches!(
            Verifier::new(Arc::new(RootCertStore::empty()), &provider, When::Now),
            Err(Error::General(_))
        ));
    }

    /// Whatever it is for, and whoever issued it; an authority's as well as a leaf's.
    #[test]
    fn the_life_of_a_certificate_is_read() {
        let (roots, leaf, _) = chain();
        let verifier = verifier(&roots, When::Now);
        assert_eq!(verifier.life_of(&leaf), Some((1_893_456_000, 2_208_988_800)));
        let mut params = CertificateParams::new(vec!["node.example".to_owned()]).unwrap();
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = date_time_ymd(1960, 1, 1);
        params.not_after = date_time_ymd(2049, 12, 31);
        let issue =
            |params: &CertificateParams| params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone();
        // Before 1970 is before every clock.
        assert_eq!(verifier.life_of(&issue(&params)).map(|(begin, _)| begin), None);
        params.not_before = date_time_ymd(1970, 1, 1);
        assert_eq!(verifier.life_of(&issue(&params)), Some((0, 2_524_521_600)));
        params.not_after = date_time_ymd(9999, 12, 31);
        assert_eq!(verifier.life_of(&issue(&params)).map(|(_, end)| end), Some(253_402_214_400));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        assert!(verifier.life_of(&issue(&params)).is_some());
        for wrong in [&b""[..], b"x", &leaf[..leaf.len() - 1], &[0x30; 300]] {
            assert_eq!(verifier.life_of(&CertificateDer::from(wrong)), None);
        }
    }

    #[test]
    fn a_chain_that_is_not_valid_yet_passes_only_when_it_is_asked_for_and_has_no_other_fault() {
        let (roots, leaf, between) = chain();
        let name = ServerName::try_from("a.example").unwrap();
        let at = |verifier: &Verifier, time, name: &ServerName<'_>| {
            let time = UnixTime::since_unix_epoch(time);
            verifier.verify_server_cert(&leaf, std::slice::from_ref(&between), name, &[], time).map(drop)
        };
        let strict = verifier(&roots, When::Now);
        assert!(matches!(
            at(&strict, IN_2026, &name),
            Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { .. }))
        ));
        assert!(strict.is_valid_at(UNIX_EPOCH), "nothing was shown");
        at(&strict, IN_2031, &name).unwrap();
        for (time, expected) in [(IN_2026, false), (IN_2031, true), (IN_2041, false)] {
            assert_eq!(strict.is_valid_at(UNIX_EPOCH + time), expected);
        }
        let lenient = verifier(&roots, When::AtNotBefore);
        at(&lenient, IN_2026, &name).unwrap();
        assert!(lenient.is_valid_at(UNIX_EPOCH + IN_2031) && !lenient.is_valid_at(UNIX_EPOCH + IN_2026));
        let other = ServerName::try_from("b.example").unwrap();
        assert!(at(&lenient, IN_2026, &other).is_err());
        assert!(matches!(
            at(&lenient, IN_2041, &name),
            Err(Error::InvalidCertificate(CertificateError::ExpiredContext { .. }))
        ));
        let (strangers, ..) = chain();
        assert!(at(&verifier(&strangers, When::AtNotBefore), IN_2026, &name).is_err());
    }
}

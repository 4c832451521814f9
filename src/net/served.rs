//! A certificate of one's own, for whoever is told to trust just this one: made here, shown from now on, never written.
//!
//! It signs itself and nothing else. There is no authority whose key would have to be kept, or could sign another name.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256};
use rustls::ServerConfig;
use rustls::crypto::ring::{default_provider, sign::any_ecdsa_type};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::tls::OurClock;

/// The end of the year 9999, behind which no certificate has a time (RFC 5280, section 4.1.2.5).
const LAST: u64 = 253_402_300_799;

/// A certificate with its key, which stays in memory.
#[derive(Clone)]
pub struct Certificate {
    pem: Arc<str>,
    key: Arc<CertifiedKey>,
    until: u64,
}

/// It could not be made: a name that cannot be in one, or no randomness.
#[derive(Debug)]
pub struct NotMade(Box<dyn std::error::Error + Send + Sync>);

impl fmt::Display for NotMade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no certificate can be made")
    }
}

impl std::error::Error for NotMade {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.0.as_ref())
    }
}

impl Certificate {
    /// Makes one for a name or an address, good until `lifetime` after `now`. It has no beginning: the clock of whoever
    /// judges it may be one that was never set.
    ///
    /// # Errors
    /// [`NotMade`].
    pub fn make(name: &str, now: u64, lifetime: Duration) -> Result<Self, NotMade> {
        let failed = |error: rcgen::Error| NotMade(error.into());
        let until = now.saturating_add(lifetime.as_secs()).min(LAST);
        let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, "pullet webhook");
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch;
        params.not_after = epoch + Duration::from_secs(until);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let certificate = params.self_signed(&pair).map_err(failed)?;
        let key = PrivateKeyDer::Pkcs8(pair.serialize_der().into());
        let key = any_ecdsa_type(&key).map_err(|error| NotMade(error.into()))?;
        let key = Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key));
        Ok(Self { pem: certificate.pem().into(), key, until })
    }

    /// For whoever is to trust it.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Whether the next one should take its place: a third of its life, or less, is left.
    #[must_use]
    pub fn is_due(&self, now: u64, lifetime: Duration) -> bool {
        now.saturating_add(lifetime.as_secs() / 3) >= self.until
    }
}

/// What is shown to who connects; it can be another one at any time.
#[derive(Default)]
pub struct Shown(Mutex<Option<Arc<CertifiedKey>>>);

impl Shown {
    /// Shows this one from the next handshake on.
    pub fn show(&self, certificate: &Certificate) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&certificate.key));
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// TLS 1.2 and 1.3, with what is shown and without sessions: each review is a connection of its own.
///
/// # Errors
/// When the library has no such version.
pub fn server_config(shown: Arc<Shown>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_details(Arc::new(default_provider()), Arc::new(OurClock))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(shown);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::Certificate;
    use std::time::Duration;

    #[test]
    fn a_certificate_is_due_when_a_third_of_its_life_is_left() {
        let lifetime = Duration::from_secs(90);
        let made = Certificate::make("127.0.0.1", 1_000, lifetime).unwrap();
        for (now, is_due) in [(0, false), (1_000, false), (1_059, false), (1_060, true), (1_090, true), (9_999, true)] {
            assert_eq!(made.is_due(now, lifetime), is_due, "{now}");
        }
        assert!(made.pem().starts_with("-----BEGIN CERTIFICATE-----"));
        assert_ne!(made.pem(), Certificate::make("127.0.0.1", 1_000, lifetime).unwrap().pem());
    }

    #[test]
    fn a_name_that_no_certificate_takes_is_an_error() {
        assert!(Certificate::make("ä", 0, Duration::from_secs(1)).is_err());
        assert!(Certificate::make("127.0.0.1", u64::MAX, Duration::from_secs(1)).is_ok());
    }
}

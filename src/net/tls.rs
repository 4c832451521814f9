//! Whom a line trusts and what it shows.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::{Resumption, WantsClientCert};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};

use super::verifier::{Verifier, When};
use crate::{clock, limits};

/// Where Debian, Fedora, Alpine and SUSE keep their bundle.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// Certificates of authorities.
#[derive(Debug)]
pub struct Roots(RootCertStore);

/// A certificate chain with its key, in PEM.
pub struct ClientIdentity {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
}

/// Why a certificate or a key cannot be used.
#[derive(Debug)]
pub enum TlsFileError {
    /// The file holds no certificate.
    Empty(PathBuf),
    /// The file, or the text given for it, is no PEM, or its content is no certificate.
    Malformed(PathBuf),
    /// A key that others can read, or a file that others own.
    Open(PathBuf),
    /// The file cannot be read.
    Unreadable(PathBuf, io::Error),
    /// Key and certificate do not belong together, or the kind of key is not supported.
    Unusable(rustls::Error),
}

impl fmt::Display for TlsFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty(path) => write!(f, "{} holds no PEM certificate", path.display()),
            Self::Malformed(path) => {
                write!(f, "{} is not PEM, or what it holds is no certificate or key", path.display())
            }
            Self::Open(path) => write!(
                f,
                "{} is owned by another user, or is a key that others can read: chown it to this user and chmod 0600",
                path.display()
            ),
            Self::Unreadable(path, _) => write!(f, "{} cannot be read", path.display()),
            Self::Unusable(_) => f.write_str("the client certificate and its key cannot be used together"),
        }
    }
}

impl std::error::Error for TlsFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable(_, source) => Some(source),
            Self::Unusable(source) => Some(source),
            Self::Empty(_) | Self::Malformed(_) | Self::Open(_) => None,
        }
    }
}

impl Roots {
    /// Nobody is trusted yet.
    #[must_use]
    pub fn none() -> Self {
        Self(RootCertStore::empty())
    }

    /// The authorities of the operating system: `SSL_CERT_FILE`, or the first bundle that is there; the
    /// roots that Mozilla trusts (built in) where there is none.
    #[must_use]
    pub fn system() -> Self {
        let configured = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
        let bundles = configured.into_iter().chain(SYSTEM_BUNDLES.map(PathBuf::from));
        for path in bundles {
            let mut roots = Self::none();
            if roots.add_lenient(&path).is_ok_and(|added| added > 0) {
                return roots;
            }
        }
        Self(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() })
    }

    /// All of them, for whoever judges by them: those of a system are 60 kB.
    pub(super) fn shared(mut self) -> Arc<RootCertStore> {
        self.0.roots.shrink_to_fit();
        Arc::new(self.0)
    }

    /// Adds every certificate of a PEM file.
    ///
    /// # Errors
    /// When the file cannot be read, holds none, or one that is malformed.
    pub fn add_file(&mut self, path: &Path) -> Result<(), TlsFileError> {
        let file = open(path)?;
        self.add(file, path)
    }

    /// Adds every certificate of a PEM text; `origin` is what an error names.
    ///
    /// # Errors
    /// When the text holds none, or one that is malformed.
    pub fn add_pem(&mut self, pem: &[u8], origin: &Path) -> Result<(), TlsFileError> {
        self.add(pem, origin)
    }

    fn add(&mut self, reader: impl Read, origin: &Path) -> Result<(), TlsFileError> {
        let before = self.0.len();
        for certificate in CertificateDer::pem_reader_iter(reader) {
            certificate
                .ok()
                .and_then(|certificate| self.0.add(certificate).ok())
                .ok_or_else(|| TlsFileError::Malformed(origin.to_owned()))?;
        }
        if self.0.len() == before {
            return Err(TlsFileError::Empty(origin.to_owned()));
        }
        Ok(())
    }

    /// A system's bundle may hold a certificate that we cannot use; the others count.
    fn add_lenient(&mut self, path: &Path) -> Result<usize, TlsFileError> {
        let certificates = CertificateDer::pem_reader_iter(open(path)?).filter_map(Result::ok);
        Ok(self.0.add_parsable_certificates(certificates).0)
    }
}

impl ClientIdentity {
    /// The same once more.
    pub(super) fn duplicate(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }

    /// Reads a chain and a key from PEM texts; `origin` is what an error names.
    ///
    /// # Errors
    /// When either holds nothing usable.
    pub fn from_pem(chain: &[u8], key: &[u8], origin: &Path) -> Result<Self, TlsFileError> {
        let chain = read_chain(chain, origin)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsFileError::Malformed(origin.to_owned()))?;
        Ok(Self { chain, key })
    }

    /// A chain in PEM that the control plane sent, and the key as PKCS#8.
    pub(super) fn issued(chain: &[u8], key: &[u8]) -> Result<Self, TlsFileError> {
        let key = PrivateKeyDer::Pkcs8(key.to_vec().into());
        Ok(Self { chain: read_chain(chain, Path::new("clientCertificate"))?, key })
    }
}

fn read_chain(pem: &[u8], origin: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|_| TlsFileError::Malformed(origin.to_owned()))?;
    if chain.is_empty() { Err(TlsFileError::Empty(origin.to_owned())) } else { Ok(chain) }
}

/// What a line needs: TLS 1.2 and 1.3 with ring, judged by our clock.
///
/// # Errors
/// When the client's certificate and key do not belong together.
pub fn client_config(roots: Roots, identity: Option<ClientIdentity>) -> Result<Arc<ClientConfig>, TlsFileError> {
    finish(builder()?.with_root_certificates(roots.0), identity)
}

/// As [`client_config`], and what judges the server.
pub(super) fn judged_config(
    roots: Arc<RootCertStore>,
    identity: Option<ClientIdentity>,
    when: When,
) -> Result<(Arc<ClientConfig>, Arc<Verifier>), TlsFileError> {
    let provider = rustls::crypto::ring::default_provider();
    let verifier = Arc::new(Verifier::new(roots, &provider, when).map_err(TlsFileError::Unusable)?);
    Ok((config_of(&verifier, identity)?, verifier))
}

/// Judges the server as `verifier` does, and shows this certificate, if any.
pub(super) fn config_of(
    verifier: &Arc<Verifier>,
    identity: Option<ClientIdentity>,
) -> Result<Arc<ClientConfig>, TlsFileError> {
    finish(builder()?.dangerous().with_custom_certificate_verifier(Arc::clone(verifier) as Arc<_>), identity)
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, TlsFileError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_details(provider, Arc::new(OurClock))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(TlsFileError::Unusable)
}

fn finish(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    identity: Option<ClientIdentity>,
) -> Result<Arc<ClientConfig>, TlsFileError> {
    let mut config = match identity {
        Some(identity) => {
            builder.with_client_auth_cert(identity.chain, identity.key).map_err(TlsFileError::Unusable)?
        }
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Ok(Arc::new(config))
}

/// One server and its tickets.
const SESSIONS: usize = 8;

/// What TLS goes by.
#[derive(Debug)]
pub(super) struct OurClock;

impl TimeProvider for OurClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(clock::unix_seconds())))
    }
}

fn open(path: &Path) -> Result<impl Read, TlsFileError> {
    let file = File::open(path).map_err(|error| TlsFileError::Unreadable(path.to_owned(), error))?;
    Ok(BufReader::new(file.take(limits::CA_FILE_BYTES)))
}

#[cfg(test)]
mod tests {
    use super::{ClientIdentity, Roots, TlsFileError, client_config};
    use std::path::Path;

    fn authority() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn a_bundle_of_two_is_read_whole() {
        let mut roots = Roots::none();
        let bundle = format!("{}{}", authority().0, authority().0);
        roots.add_pem(bundle.as_bytes(), Path::new("bundle")).unwrap();
        assert_eq!(roots.0.len(), 2);
    }

    #[test]
    fn empty_malformed_and_missing_files_are_told_apart() {
        let mut roots = Roots::none();
        let origin = Path::new("x");
        assert!(matches!(roots.add_pem(b"", origin), Err(TlsFileError::Empty(_))));
        let garbage = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(roots.add_pem(garbage, origin), Err(TlsFileError::Malformed(_))));
        let truncated = &authority().0.into_bytes()[..200];
        assert!(roots.add_pem(truncated, origin).is_err());
        assert!(matches!(roots.add_file(Path::new("/nonexistent/ca.pem")), Err(TlsFileError::Unreadable(..))));
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let (chain, key) = authority();
        let good = ClientIdentity::from_pem(chain.as_bytes(), key.as_bytes(), Path::new("x")).unwrap();
        assert!(client_config(Roots::none(), Some(good)).is_ok());
        let bad = ClientIdentity::from_pem(chain.as_bytes(), authority().1.as_bytes(), Path::new("x")).unwrap();
        assert!(matches!(client_config(Roots::none(), Some(bad)), Err(TlsFileError::Unusable(_))));
    }

    #[test]
    fn there_are_always_roots() {
        assert!(!Roots::system().0.is_empty());
    }
}

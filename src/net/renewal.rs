//! TLS material that may change while lines are open.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use rustls::ClientConfig;
use tracing::warn;
use zeroize::Zeroizing;

use super::tls::{ClientIdentity, Roots, TlsFileError, config_of, judged_config};
use super::verifier::{Verifier, When};
use crate::{clock, limits};

/// The files that a line's TLS is made of; none = what the system trusts, and nothing is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authorities beside those of the system; a bundle of several overlaps two of them.
    pub authorities: Vec<PathBuf>,
    /// The client's certificate, leaf first, and its key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Where further authorities lie that the control plane gave, if it gave any.
    pub given: Option<PathBuf>,
}

/// What every new connection uses. A clone is the same.
#[derive(Clone)]
pub struct Tls(Arc<Mutex<State>>);

struct State {
    material: Material,
    files: TlsFiles,
    stamps: Vec<Stamp>,
    /// The client's certificate that the control plane issued, in the place of one from files.
    issued: Option<ClientIdentity>,
    /// Counts the changes of what is in use.
    changes: u64,
    /// What was refused last, and when: it is tried again, but not with each poll.
    refused: Option<(Vec<Stamp>, Instant)>,
}

/// What the files come to.
#[derive(Clone)]
struct Material {
    config: Arc<ClientConfig>,
    verifier: Option<Arc<Verifier>>,
    /// For a line that asks for the time and nothing else.
    at_not_before: Option<(Arc<ClientConfig>, Arc<Verifier>)>,
    /// From when to when the client's certificate is valid, Unix seconds.
    client_life: Option<Life>,
    /// Shows no certificate: for when an issued one has ended, so that the server can be asked for another one.
    bare: Option<Arc<ClientConfig>>,
}

/// From when to when something is valid, Unix seconds.
pub type Life = (u64, u64);

/// Changed material that has not been tried yet.
pub struct Candidate {
    material: Material,
    stamps: Vec<Stamp>,
    issued: Option<ClientIdentity>,
    /// What it was made beside.
    changes: u64,
}

/// What changes when a file does; none = it is not there.
type Stamp = Option<(u64, u64, i64, i64, u64)>;

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.state().files).finish()
    }
}

/// Of material that does not change.
impl From<Arc<ClientConfig>> for Tls {
    fn from(config: Arc<ClientConfig>) -> Self {
        Self::of(Material::of(config, None), TlsFiles::default(), Vec::new())
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be used.
    pub fn open(files: TlsFiles) -> Result<Self, TlsFileError> {
        let stamps = files.stamps();
        Ok(Self::of(files.read(None, Given::File)?, files, stamps))
    }

    fn of(material: Material, files: TlsFiles, stamps: Vec<Stamp>) -> Self {
        Self(Arc::new(Mutex::new(State { material, files, stamps, issued: None, changes: 0, refused: None })))
    }

    /// What a new connection uses.
    pub(super) fn now(&self) -> Arc<ClientConfig> {
        let state = self.state();
        let bare = state.material.bare.as_ref().filter(|_| state.has_ended());
        Arc::clone(bare.unwrap_or(&state.material.config))
    }

    /// For one line to a server whose certificate is not valid yet by a clock that nobody has confirmed: the chain is
    /// verified when it first is. None where nothing is known of files.
    #[must_use]
    pub fn at_not_before(&self) -> Option<Self> {
        let (config, verifier) = self.state().material.at_not_before.clone()?;
        let material = Material::of(config, Some(verifier));
        Some(Self::of(material, TlsFiles::default(), Vec::new()))
    }

    /// Whether the chain that the server showed last is valid at this time; true where it showed none.
    #[must_use]
    pub fn is_valid_at(&self, time: SystemTime) -> bool {
        self.state().material.verifier.as_ref().is_none_or(|verifier| verifier.is_valid_at(time))
    }

    /// When the chain that the server showed last ends, in Unix seconds, and who issued its leaf; none where it showed none.
    #[must_use]
    pub fn server_chain(&self) -> Option<(u64, Option<String>)> {
        self.state().material.verifier.as_ref()?.shown()
    }

    /// Who says to have issued the certificate that was refused last; none where none was.
    #[must_use]
    pub fn refused_issuer(&self) -> Option<String> {
        self.state().material.verifier.as_ref()?.refused_issuer()
    }

    /// Whether a client certificate is shown to a server that asks for one. One that was issued and has ended is not.
    #[must_use]
    pub fn has_client_certificate(&self) -> bool {
        let state = self.state();
        state.files.client.is_some() || state.issued.is_some() && !state.has_ended()
    }

    /// From when to when the client's certificate is valid; none where there is none.
    #[must_use]
    pub fn client_life(&self) -> Option<Life> {
        self.state().material.client_life
    }

    /// What there is, with a client certificate that the control plane issued: a chain in PEM, leaf first, and its key as
    /// PKCS#8.
    ///
    /// # Errors
    /// When the chain is no certificate in PEM, or not for this key.
    pub fn with_issued(&self, chain: &str, key: &[u8]) -> Result<Candidate, TlsFileError> {
        let state = self.state();
        let identity = ClientIdentity::issued(chain.as_bytes(), key)?;
        // Beside what is in use: what has become of the files meanwhile is no fault of the certificate.
        let material = state.material.showing(&identity)?;
        Ok(Candidate { material, stamps: state.stamps.clone(), issued: Some(identity), changes: state.changes })
    }

    /// What there is, with other authorities in the place of those that the control plane gave before.
    ///
    /// # Errors
    /// When the text holds no certificate in PEM, or one that is malformed.
    pub fn with_given(&self, pem: &[u8]) -> Result<Candidate, TlsFileError> {
        let state = self.state();
        let material = state.files.read(state.issued.as_ref(), Given::Text(pem))?;
        let issued = state.issued.as_ref().map(ClientIdentity::duplicate);
        Ok(Candidate { material, stamps: state.files.stamps(), issued, changes: state.changes })
    }

    /// Where authorities lie that the control plane gave.
    #[must_use]
    pub fn given(&self) -> Option<PathBuf> {
        self.state().files.given.clone()
    }

    /// What the files hold now, if they have changed since what is in use; an error when that cannot be used. Costs a
    /// `stat` a file.
    #[must_use]
    pub fn changed(&self) -> Option<Result<Candidate, TlsFileError>> {
        let mut state = self.state();
        let stamps = state.files.stamps();
        if stamps == state.stamps {
            state.refused = None;
            return None;
        }
        if let Some((refused, at)) = &state.refused
            && *refused == stamps
            && at.elapsed() < limits::CERTIFICATE_RETRY
        {
            return None;
        }
        // Until somebody commits it.
        state.refused = Some((stamps.clone(), Instant::now()));
        let issued = state.issued.as_ref().map(ClientIdentity::duplicate);
        let read = state.files.read(issued.as_ref(), Given::File);
        Some(read.map(|material| Candidate { material, stamps, issued, changes: state.changes }))
    }

    /// Whether no change of a file waits to be used.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.state().refused.is_none()
    }

    /// It has worked: every new connection uses it. False when something else was committed since it was made.
    #[must_use]
    pub fn commit(&self, candidate: Candidate) -> bool {
        let mut state = self.state();
        if state.changes != candidate.changes {
            return false;
        }
        state.material = candidate.material;
        state.stamps = candidate.stamps;
        state.issued = candidate.issued;
        state.changes = state.changes.wrapping_add(1);
        state.refused = None;
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// An issued certificate is of no use any more. One from files is shown all the same: its owner may know why.
    fn has_ended(&self) -> bool {
        self.issued.is_some() && self.material.client_life.is_some_and(|(_, end)| end < clock::unix_seconds())
    }
}

impl Material {
    fn of(config: Arc<ClientConfig>, verifier: Option<Arc<Verifier>>) -> Self {
        Self { config, verifier, at_not_before: None, client_life: None, bare: None }
    }

    /// The same authorities, and this certificate shown to whoever they vouch for.
    fn showing(&self, identity: &ClientIdentity) -> Result<Self, TlsFileError> {
        let Some(verifier) = &self.verifier else {
            return Err(TlsFileError::Unusable(rustls::Error::General(FIXED.into())));
        };
        let shown = |verifier: &Arc<Verifier>| config_of(verifier, Some(identity.duplicate()));
        let at_not_before = match &self.at_not_before {
            Some((_, verifier)) => Some((shown(verifier)?, Arc::clone(verifier))),
            None => None,
        };
        Ok(Self {
            config: shown(verifier)?,
            verifier: Some(Arc::clone(verifier)),
            at_not_before,
            client_life: identity.chain.first().and_then(|leaf| verifier.life_of(leaf)),
            bare: Some(config_of(verifier, None)?),
        })
    }
}

/// Why nothing is added to a configuration that was made elsewhere.
const FIXED: &str = "this configuration does not change";

impl Candidate {
    /// For a line that tries it.
    #[must_use]
    pub fn tls(&self) -> Tls {
        Tls::of(self.material.clone(), TlsFiles::default(), Vec::new())
    }

    /// From when to when its client certificate is valid.
    #[must_use]
    pub fn client_life(&self) -> Option<Life> {
        self.material.client_life
    }

    /// The file of given authorities holds what it was made with from now on.
    pub fn was_stored(&mut self, given: &Path) {
        if let Some(last) = self.stamps.last_mut() {
            *last = stamp(given);
        }
    }
}

/// Where the given authorities are taken from.
#[derive(Clone, Copy)]
enum Given<'a> {
    File,
    Text(&'a [u8]),
}

impl TlsFiles {
    fn read(&self, issued: Option<&ClientIdentity>, given: Given<'_>) -> Result<Material, TlsFileError> {
        let mut roots = Roots::system();
        for path in &self.authorities {
            roots.add_file(path)?;
        }
        match (given, &self.given) {
            (Given::Text(pem), path) => roots.add_pem(pem, path.as_deref().unwrap_or(Path::new("caBundle")))?,
            (Given::File, Some(path)) if path.exists() => {
                // Our own file: a node that nobody can reach goes on without it.
                if let Err(error) = roots.add_file(path) {
                    warn!(%error, "the authorities that the control plane gave are left out");
                }
            }
            (Given::File, _) => {}
        }
        let identity = match (issued, &self.client) {
            (Some(issued), _) => Some(issued.duplicate()),
            (None, Some((certificate, key))) => Some(read_identity(certificate, key)?),
            (None, None) => None,
        };
        let again = identity.as_ref().map(ClientIdentity::duplicate);
        let leaf = identity.as_ref().and_then(|identity| identity.chain.first().cloned());
        let roots = roots.shared();
        let (config, verifier) = judged_config(Arc::clone(&roots), identity, When::Now)?;
        let bare = issued.map(|_| config_of(&verifier, None)).transpose()?;
        let at_not_before = judged_config(roots, again, When::AtNotBefore)?;
        Ok(Material {
            config,
            client_life: leaf.and_then(|leaf| verifier.life_of(&leaf)),
            verifier: Some(verifier),
            at_not_before: Some(at_not_before),
            bare,
        })
    }

    fn stamps(&self) -> Vec<Stamp> {
        let client = self.client.iter().flat_map(|(certificate, key)| [certificate, key]);
        self.authorities.iter().chain(client).chain(&self.given).map(|path| stamp(path)).collect()
    }
}

fn stamp(path: &Path) -> Stamp {
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.size()))
}

fn read_identity(certificate: &Path, key: &Path) -> Result<ClientIdentity, TlsFileError> {
    let chain = read_bounded(certificate, |_| true)?;
    let secret = read_bounded(key, |mode| mode.trailing_zeros() >= GROUP_AND_OTHERS)?;
    // An error names the file that is wrong.
    ClientIdentity::from_pem(&chain, &secret, certificate).map_err(|error| match error {
        TlsFileError::Malformed(_) if is_chain(&chain) => TlsFileError::Malformed(key.to_owned()),
        error => error,
    })
}

/// The lower bits of a mode.
const GROUP_AND_OTHERS: u32 = 6;

fn is_chain(pem: &[u8]) -> bool {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::pem_slice_iter(pem).all(|certificate| certificate.is_ok())
}

/// A link is followed: Kubernetes and certificate tools swap files by links. The file itself is checked.
fn read_bounded(path: &Path, may_be: impl Fn(u32) -> bool) -> Result<Zeroizing<Vec<u8>>, TlsFileError> {
    let unreadable = |error| TlsFileError::Unreadable(path.to_owned(), error);
    let no_wait = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(no_wait).open(path).map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?;
    if !found.is_file() {
        return Err(TlsFileError::Malformed(path.to_owned()));
    }
    let us = rustix::process::geteuid().as_raw();
    if !may_be(found.mode()) || found.uid() != us && found.uid() != 0 {
        return Err(TlsFileError::Open(path.to_owned()));
    }
    let mut content = Zeroizing::new(Vec::new());
    file.take(limits::CLIENT_CERTIFICATE_BYTES + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > limits::CLIENT_CERTIFICATE_BYTES {
        return Err(TlsFileError::Malformed(path.to_owned()));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::{Tls, TlsFiles};
    use crate::limits;
    use crate::net::tls::TlsFileError;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    fn pair() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn put(path: &Path, content: impl AsRef<[u8]>) {
        let beside = path.with_extension("new");
        fs::write(&beside, content).unwrap();
        fs::set_permissions(&beside, Permissions::from_mode(0o600)).unwrap();
        fs::rename(beside, path).unwrap();
    }

    fn files(directory: &Path) -> TlsFiles {
        let (certificate, key) = (directory.join("tls.crt"), directory.join("tls.key"));
        let (chain, secret) = pair();
        put(&certificate, chain);
        put(&key, secret);
        TlsFiles { client: Some((certificate, key)), ..TlsFiles::default() }
    }

    #[test]
    fn what_changes_is_offered_and_used_only_when_it_is_committed() {
        let directory = tempfile::tempdir().unwrap();
        let files = files(directory.path());
        let tls = Tls::open(files.clone()).unwrap();
        assert!(tls.has_client_certificate());
        assert!(tls.changed().is_none());
        let before = tls.now();
        let (certificate, key) = files.client.unwrap();
        let (chain, secret) = pair();
        put(&certificate, chain);
        assert!(matches!(tls.changed(), Some(Err(TlsFileError::Unusable(_)))), "half of a pair");
        put(&key, secret);
        let candidate = tls.changed().unwrap().unwrap();
        assert!(std::sync::Arc::ptr_eq(&tls.now(), &before));
        assert!(tls.changed().is_none(), "it is not tried with each poll");
        assert!(tls.commit(candidate));
        assert!(!std::sync::Arc::ptr_eq(&tls.now(), &before));
        assert!(tls.changed().is_none());
    }

    #[test]
    fn a_key_that_others_can_read_and_files_that_are_none_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let files = files(directory.path());
        let (certificate, key) = files.client.clone().unwrap();
        fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Tls::open(files.clone()), Err(TlsFileError::Open(path)) if path == key));
        let (chain, secret) = pair();
        for bad in [String::new(), secret[..100].to_owned(), chain.clone()] {
            put(&key, bad);
            assert!(matches!(Tls::open(files.clone()), Err(TlsFileError::Malformed(path)) if path == key));
        }
        put(&key, &secret);
        let room = usize::try_from(limits::CLIENT_CERTIFICATE_BYTES).unwrap();
        put(&certificate, chain.clone() + &" ".repeat(room - chain.len()));
        assert!(Tls::open(files.clone()).is_ok());
        put(&certificate, chain.clone() + &" ".repeat(room - chain.len() + 1));
        assert!(matches!(Tls::open(files.clone()), Err(TlsFileError::Malformed(path)) if path == certificate));
        put(&certificate, "");
        assert!(matches!(Tls::open(files.clone()), Err(TlsFileError::Empty(_))));
        fs::remove_file(&certificate).unwrap();
        fs::create_dir(&certificate).unwrap();
        assert!(matches!(Tls::open(files), Err(TlsFileError::Malformed(_))));
    }
}

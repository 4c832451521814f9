//! What is kept in the state directory, as long as there is no cluster to hold it.
//!
//! | file | |
//! |---|---|
//! | `credential.json` | the credential with its keys, and with client certificates that were issued |
//! | `ca.pem` | authorities that the control plane gave |
//! | `keys.json` | the keys of a registration that has no answer yet |
//! | `credential.before.json` | what `pullet register --force` replaced, until the new one has worked |
//! | `traffic.json` | the bytes of the month, and what was learnt of the hold (`traffic`) |
//! | `holder` | by what name this agent is known in a cluster, where it runs in no pod |
//!
//! A file is written beside, under a name that nobody else uses (`.NAME.RANDOM.new`), and renamed. What a power cut leaves
//! of these goes at the next start. The directory itself is locked: one agent acts on it, and a lock needs no file, so
//! that it works on a read-only disk.

pub mod entries;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::fs::{self, Mode, OFlags};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::backoff::draw;
use super::certificate::{Certificates, ClientCertificate};
use super::credential::{Bearer, Credential, CredentialStore, StoreError};
use super::machine::Binding;
use super::seal::Seal;
use super::secret_file::{self, Closed};
use crate::limits;
use crate::protocol::{ClusterId, Timestamp};
use crate::trust::base64url;
use crate::trust::identity::NodeKeys;
use crate::trust::mac::MacKey;

/// The credential in the state directory: `credential.json`, mode 0600, written beside and renamed.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    /// Locked as long as this value lives: one agent acts on one state directory.
    handle: OwnedFd,
    /// Wraps what is written.
    seal: Option<Seal>,
    /// The newest keyring that is known here; held while the credential is written.
    newest: Mutex<u32>,
}

const CREDENTIAL: &str = "credential.json";
const KEYS: &str = "keys.json";
/// Authorities that the control plane gave.
pub const AUTHORITIES: &str = "ca.pem";

const COPY: &str = "credential.before.json";
const HOLDER: &str = "holder";

/// How the name of a file ends that is not yet in its place.
const NEW: &str = ".new";

/// Two bearers of the usual length, two client certificates with a chain of one, and what stands around them.
const REHEARSAL_BYTES: u64 = 8 * 1024;

impl StateDirectory {
    /// Opens the directory, makes it (0700) where it is not there, and takes its lock.
    ///
    /// # Errors
    /// When it cannot be made or opened, is open to others, or another agent uses it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_sealed(path, None)
    }

    /// As [`StateDirectory::open`]; what is written is wrapped where there is a seal. What was written without one is
    /// read all the same.
    ///
    /// # Errors
    /// As for [`StateDirectory::open`].
    pub fn open_sealed(path: &Path, seal: Option<Seal>) -> Result<Self, StoreError> {
        let io = |error: io::Error| StoreError::Io(path.to_owned(), error);
        let parent = path.parent().unwrap_or(Path::new("/"));
        if parent.exists() && !parent.is_dir() {
            return Err(StoreError::Unsafe(parent.to_owned(), "it is not a directory"));
        }
        std::fs::create_dir_all(parent).map_err(io)?;
        match fs::mkdir(path, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(io(error.into())),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = fs::open(path, flags, Mode::empty()).map_err(|error| match error {
            rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR if path.is_symlink() => {
                StoreError::Unsafe(path.to_owned(), "it is a link (name the directory itself)")
            }
            rustix::io::Errno::NOTDIR => StoreError::Unsafe(path.to_owned(), "it is not a directory"),
            error => io(error.into()),
        })?;
        let status = fs::fstat(&handle).map_err(|error| io(error.into()))?;
        if status.st_mode & 0o022 != 0 {
            return Err(StoreError::Unsafe(path.to_owned(), "others may write to it (chmod go-w)"));
        }
        if fs::flock(&handle, fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(StoreError::Unsafe(path.to_owned(), "another pullet is using it (stop that one first)"));
        }
        let store = Self { path: path.to_owned(), handle, seal, newest: Mutex::default() };
        store.tidy();
        Ok(store)
    }

    /// Removes what was written beside and never renamed: it may hold a credential. Nobody else writes while we have the
    /// lock. What cannot be removed waits for the next start.
    fn tidy(&self) {
        let Ok(entries) = fs::Dir::read_from(&self.handle) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name.to_bytes().starts_with(b".") && name.to_bytes().ends_with(NEW.as_bytes()) {
                let _ = fs::unlinkat(&self.handle, name, fs::AtFlags::empty());
            }
        }
    }

    /// A directory for whoever only looks, without its lock and without making or changing anything; none where there is no
    /// directory.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn look_at(path: &Path, seal: Option<Seal>) -> Result<Option<Self>, StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match fs::open(path, flags, Mode::empty()) {
            Ok(handle) => Ok(Some(Self { path: path.to_owned(), handle, seal, newest: Mutex::default() })),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(StoreError::Io(path.to_owned(), error.into())),
        }
    }

    /// Wraps a credential that was stored before there was a seal. What it was lies on in the free blocks of the disk.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn seal_what_is_open(&self) -> Result<(), StoreError> {
        if self.seal.is_none() {
            return Ok(());
        }
        let Some(text) = self.read(CREDENTIAL)? else { return Ok(()) };
        match serde_json::from_str(&text) {
            Ok(Wrapped { version: VERSION, sealed: None }) => {
                self.wrap(CREDENTIAL, &Zeroizing::new(text.as_bytes().to_vec()))
            }
            _ => Ok(()),
        }
    }

    /// The directory itself, for the files of others in it.
    #[must_use]
    pub fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// By what name this agent is known in a cluster; made at the first time.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn agent_id(&self) -> Result<String, StoreError> {
        if let Some(text) = self.read(HOLDER)?
            && is_agent_id(text.trim())
        {
            return Ok(text.trim().to_owned());
        }
        let id = Self::new_agent_id();
        self.replace(HOLDER, id.as_bytes())?;
        Ok(id)
    }

    /// A name that no other agent has.
    #[must_use]
    pub fn new_agent_id() -> String {
        format!("{:016x}{:016x}", draw(), draw())
    }

    /// Has these authorities in [`AUTHORITIES`]; written where they are not there yet.
    ///
    /// # Errors
    /// When they could not be made durable.
    pub fn hold_authorities(&self, pem: &str) -> Result<(), StoreError> {
        match self.read(AUTHORITIES) {
            Ok(Some(held)) if *held == pem => Ok(()),
            _ => self.replace(AUTHORITIES, pem.as_bytes()),
        }
    }

    /// Believes them no more.
    ///
    /// # Errors
    /// When they could not be removed.
    pub fn drop_authorities(&self) -> Result<(), StoreError> {
        self.remove(AUTHORITIES)
    }

    /// Writes beside and renames: a power cut leaves the old file or the new one, and of two who write at once one is the
    /// last.
    pub(super) fn replace(&self, name: &str, text: &[u8]) -> Result<(), StoreError> {
        let beside = self.write_beside(name, text)?;
        if let Err(error) = fs::renameat(&self.handle, &beside, &self.handle, name) {
            let _ = self.remove(&beside);
            return Err(self.io(name, error));
        }
        fs::fsync(&self.handle).map_err(|error| self.io(name, error))
    }

    /// Gives the name of what was written; nothing is left where that fails.
    fn write_beside(&self, name: &str, text: &[u8]) -> Result<String, StoreError> {
        let beside = format!(".{name}.{:016x}{NEW}", draw());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&self.handle, &beside, flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(file.map_err(|error| self.io(name, error))?);
        match file.write_all(text).and_then(|()| file.sync_all()) {
            Ok(()) => Ok(beside),
            Err(error) => {
                let _ = self.remove(&beside);
                Err(self.io(name, error))
            }
        }
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        match fs::unlinkat(&self.handle, name, fs::AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(self.io(name, error)),
        }
    }

    pub(super) fn read(&self, name: &str) -> Result<Option<Zeroizing<String>>, StoreError> {
        let path = self.path.join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match fs::openat(&self.handle, name, flags, Mode::empty()) {
            Ok(file) => secret_file::check(file, &path, Closed::ToOthers)?,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::LOOP) => return Err(StoreError::Unsafe(path, "it is a link")),
            Err(error) => return Err(self.io(name, error)),
        };
        secret_file::read_text(file, &path).map(Some)
    }

    /// Reads a file and takes its wrapping off.
    fn unwrap(&self, name: &str) -> Result<Option<Zeroizing<String>>, StoreError> {
        let Some(text) = self.read(name)? else { return Ok(None) };
        match serde_json::from_str::<Wrapped<'_>>(&text) {
            Ok(Wrapped { version: VERSION, sealed: Some(sealed) }) => {
                let opened = self.seal.as_ref().and_then(|seal| seal.open(name, sealed));
                opened.map(Some).ok_or_else(|| StoreError::Sealed(self.path.join(name)))
            }
            Ok(Wrapped { version: VERSION, sealed: None }) => Ok(Some(text)),
            _ => Err(StoreError::Malformed(self.path.join(name))),
        }
    }

    /// Wraps a text where there is a seal, and writes it.
    fn wrap(&self, name: &str, text: &Zeroizing<Vec<u8>>) -> Result<(), StoreError> {
        let Some(seal) = &self.seal else { return self.replace(name, text) };
        let sealed = seal.seal(name, text, &SystemRandom::new()).ok_or(StoreError::NoRandomness)?;
        let wrapped = Wrapped { version: VERSION, sealed: Some(&sealed) };
        self.replace(name, &serde_json::to_vec(&wrapped).unwrap_or_default())
    }

    /// The version of the newest keyring that this directory knows of: that of the credential, or of a ring that was pinned
    /// since the start.
    pub(super) fn newest_keyring(&self) -> u32 {
        let mut newest = self.newest();
        // Of a credential that cannot be read nothing is known, and nobody acts with it.
        let _ = self.read_credential(&mut newest);
        *newest
    }

    /// Writes the version of a keyring beside the credential, where there is one, unless it is there already.
    pub(super) fn note_keyring(&self, version: u32) -> Result<(), StoreError> {
        let mut newest = self.newest();
        let stored = self.read_credential(&mut newest)?;
        if version <= *newest {
            return Ok(());
        }
        *newest = version;
        stored.map_or(Ok(()), |credential| self.write_credential(&credential, version))
    }

    fn read_credential(&self, newest: &mut u32) -> Result<Option<Credential>, StoreError> {
        let Some(text) = self.unwrap(CREDENTIAL)? else { return Ok(None) };
        let malformed = || StoreError::Malformed(self.path.join(CREDENTIAL));
        let stored: Stored<'_> = serde_json::from_str(&text).map_err(|_| malformed())?;
        let version = stored.keyring_version;
        let credential = stored.into_credential().map_err(|error| error.unwrap_or_else(malformed))?;
        *newest = version.max(*newest);
        Ok(Some(credential))
    }

    fn write_credential(&self, credential: &Credential, newest: u32) -> Result<(), StoreError> {
        let keys = credential.keys.as_deref().map(KeyTexts::of);
        let bearers = [Some(&credential.current), credential.previous.as_ref()];
        let mac_keys = bearers.map(|bearer| bearer.and_then(|bearer| bearer.mac_key.as_ref()).map(|key| key.to_text()));
        let Certificates { current, next } = &credential.certificates;
        let texts = [current, next].map(|held| held.as_ref().map(|held| held.to_text()));
        let [certificate, next_certificate] = texts.each_ref().map(|held| held.as_ref().map(|text| text.as_str()));
        let stored = Stored::of(credential, keys.as_ref(), &mac_keys);
        let stored = Stored { keyring_version: newest, certificate, next_certificate, ..stored };
        self.wrap(CREDENTIAL, &written(&stored))
    }

    fn newest(&self) -> MutexGuard<'_, u32> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn malformed(&self, name: &str) -> StoreError {
        StoreError::Malformed(self.path.join(name))
    }

    fn io(&self, name: &str, error: impl Into<io::Error>) -> StoreError {
        StoreError::Io(self.path.join(name), error.into())
    }
}

impl CredentialStore for StateDirectory {
    fn load(&self) -> Result<Option<Credential>, StoreError> {
        self.read_credential(&mut self.newest())
    }

    /// Writes as much as a credential could take.
    fn rehearse(&self) -> Result<(), StoreError> {
        // What is stored has one bearer and one certificate at least, and the next may have two of each.
        let stored = fs::statat(&self.handle, CREDENTIAL, fs::AtFlags::SYMLINK_NOFOLLOW);
        let twice = stored.ok().and_then(|found| u64::try_from(found.st_size).ok()).unwrap_or(0).saturating_mul(2);
        let room = twice.clamp(REHEARSAL_BYTES, limits::SECRET_FILE_BYTES);
        let mut noise = vec![0; usize::try_from(room).unwrap_or_default()];
        // Nothing that a file system could make shorter.
        let _ = SystemRandom::new().fill(&mut noise);
        self.remove(&self.write_beside(CREDENTIAL, &noise)?)
    }

    fn save(&self, credential: &Credential) -> Result<(), StoreError> {
        let newest = self.newest();
        self.write_credential(credential, *newest)?;
        self.remove(KEYS)
    }

    fn keep_authorities(&self, pem: &[u8]) -> Result<(), StoreError> {
        self.replace(AUTHORITIES, pem)
    }

    fn pending_keys(&self) -> Result<Option<NodeKeys>, StoreError> {
        let Some(text) = self.unwrap(KEYS)? else { return Ok(None) };
        let keys = serde_json::from_str::<StoredPending<'_>>(&text).ok().and_then(|stored| stored.keys.parse());
        keys.map(Some).ok_or_else(|| StoreError::Malformed(self.path.join(KEYS)))
    }

    fn keep_keys(&self, keys: &NodeKeys) -> Result<(), StoreError> {
        let texts = KeyTexts::of(keys);
        self.wrap(KEYS, &written(&StoredPending { version: VERSION, keys: texts.stored() }))
    }

    fn keep_copy(&self) -> Result<(), StoreError> {
        match self.read(CREDENTIAL) {
            Ok(Some(text)) => self.replace(COPY, text.as_bytes()),
            Ok(None) => Ok(()),
            // Whatever it is, it goes out of the way, and can be looked at.
            Err(StoreError::Io(path, error)) => Err(StoreError::Io(path, error)),
            Err(_) => fs::renameat(&self.handle, CREDENTIAL, &self.handle, COPY).map_err(|error| self.io(COPY, error)),
        }
    }

    fn put_back(&self) -> Result<(), StoreError> {
        match fs::renameat(&self.handle, COPY, &self.handle, CREDENTIAL) {
            Ok(()) => fs::fsync(&self.handle).map_err(|error| self.io(CREDENTIAL, error)),
            Err(rustix::io::Errno::NOENT) => self.remove(CREDENTIAL),
            Err(error) => Err(self.io(CREDENTIAL, error)),
        }
    }

    fn forget_copy(&self) -> Result<(), StoreError> {
        self.remove(COPY)
    }
}

fn is_agent_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Writes into one buffer; where that has to grow, the allocator wipes what is left behind.
fn written(value: &impl Serialize) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(Vec::with_capacity(4 * 1024));
    // A struct of texts and numbers: writing it to memory does not fail.
    let _ = serde_json::to_writer(&mut *text, value);
    text
}

/// What every file is at its outside. A newer version is refused, not guessed at.
#[derive(Serialize, Deserialize)]
struct Wrapped<'a> {
    version: u32,
    #[serde(borrow, default)]
    sealed: Option<&'a str>,
}

/// The credential's shape.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored<'a> {
    version: u32,
    cluster_id: &'a str,
    endpoint: &'a str,
    generation: u64,
    #[serde(borrow)]
    current: StoredBearer<'a>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    previous: Option<StoredBearer<'a>>,
    observed_token: &'a str,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    keys: Option<StoredKeys<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    machine: Option<StoredMachine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<&'a str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_certificate: Option<&'a str>,
    #[serde(default, deserialize_with = "Timestamp::optional", skip_serializing_if = "Option::is_none")]
    registered_at: Option<Timestamp>,
    /// TRUST.md, Keyring: of the newest ring that was ever pinned here; 0 = none.
    #[serde(default)]
    keyring_version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredBearer<'a> {
    token: &'a str,
    #[serde(default, deserialize_with = "Timestamp::optional", skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "Timestamp::optional", skip_serializing_if = "Option::is_none")]
    rotate_after: Option<Timestamp>,
    #[serde(default, deserialize_with = "Timestamp::optional", skip_serializing_if = "Option::is_none")]
    issued_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac_key: Option<&'a str>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredKeys<'a> {
    identity: &'a str,
    payload: &'a str,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload_before: Option<&'a str>,
}

#[derive(Serialize, Deserialize)]
struct StoredPending<'a> {
    version: u32,
    #[serde(borrow)]
    keys: StoredKeys<'a>,
}

#[derive(Serialize, Deserialize)]
struct StoredMachine {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    serial: Option<String>,
}

/// Keys in base64url, wiped when dropped.
struct KeyTexts {
    identity: Zeroizing<String>,
    payload: Zeroizing<String>,
    payload_before: Option<Zeroizing<String>>,
}

const VERSION: u32 = 1;

impl KeyTexts {
    fn of(keys: &NodeKeys) -> Self {
        let text = |bytes: &[u8; 32]| Zeroizing::new(base64url::encode(bytes));
        Self {
            identity: text(keys.identity()),
            payload: text(&keys.payload().present.to_bytes()),
            payload_before: keys.payload().previous.as_ref().map(|key| text(&key.to_bytes())),
        }
    }

    fn stored(&self) -> StoredKeys<'_> {
        StoredKeys {
            identity: &self.identity,
            payload: &self.payload,
            payload_before: self.payload_before.as_deref().map(String::as_str),
        }
    }
}

impl StoredKeys<'_> {
    fn parse(&self) -> Option<NodeKeys> {
        NodeKeys::parse(self.identity, self.payload, self.payload_before)
    }
}

impl<'a> StoredBearer<'a> {
    fn of(bearer: &'a Bearer, mac_key: Option<&'a Zeroizing<String>>) -> Self {
        Self {
            token: bearer.token.expose(),
            expires_at: bearer.expires_at,
            rotate_after: bearer.rotate_after,
            issued_at: bearer.issued_at,
            mac_key: mac_key.map(|text| text.as_str()),
        }
    }

    fn parse(self) -> Result<Bearer, Option<StoreError>> {
        let mac_key = match self.mac_key {
            Some(text) => Some(Arc::new(MacKey::given(text).ok_or(None)?)),
            None => None,
        };
        let bearer = Bearer::new(self.token, self.expires_at).map_err(Some)?;
        Ok(Bearer { rotate_after: self.rotate_after, issued_at: self.issued_at, mac_key, ..bearer })
    }
}

fn certificate(text: Option<&str>) -> Result<Option<Arc<ClientCertificate>>, Option<StoreError>> {
    text.map(|text| ClientCertificate::parse(text).map(Arc::new).ok_or(None)).transpose()
}

impl<'a> Stored<'a> {
    fn of(
        credential: &'a Credential,
        keys: Option<&'a KeyTexts>,
        [current, previous]: &'a [Option<Zeroizing<String>>; 2],
    ) -> Self {
        Self {
            version: VERSION,
            cluster_id: credential.cluster_id.as_str(),
            endpoint: &credential.endpoint,
            generation: credential.generation,
            current: StoredBearer::of(&credential.current, current.as_ref()),
            previous: credential.previous.as_ref().map(|bearer| StoredBearer::of(bearer, previous.as_ref())),
            observed_token: &credential.observed_token,
            keys: keys.map(KeyTexts::stored),
            machine: credential
                .machine
                .as_ref()
                .map(|machine| StoredMachine { id: machine.id.clone(), serial: machine.serial.clone() }),
            certificate: None,
            next_certificate: None,
            registered_at: credential.registered_at,
            keyring_version: 0,
        }
    }

    /// The error is none where the text is no credential.
    fn into_credential(self) -> Result<Credential, Option<StoreError>> {
        let keys = match self.keys {
            Some(keys) => Some(Arc::new(keys.parse().ok_or(None)?)),
            None => None,
        };
        Ok(Credential {
            cluster_id: ClusterId::parse(self.cluster_id).map_err(|_| None)?,
            endpoint: self.endpoint.to_owned(),
            generation: self.generation,
            current: self.current.parse()?,
            previous: self.previous.map(StoredBearer::parse).transpose()?,
            observed_token: self.observed_token.to_owned(),
            keys,
            machine: self.machine.map(|machine| Binding { id: machine.id, serial: machine.serial }),
            certificates: Certificates {
                current: certificate(self.certificate)?,
                next: certificate(self.next_certificate)?,
            },
            registered_at: self.registered_at,
        })
    }
}

#[cfg(test)]
pub(super) mod tests;

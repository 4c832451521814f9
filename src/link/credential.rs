//! The bearer and where it is kept.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, Mode, OFlags};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::limits;
use crate::protocol::{ClusterId, Timestamp};
use crate::secret::Secret;

/// One bearer.
#[derive(Clone, Debug)]
pub struct Bearer {
    /// The text that is sent.
    pub token: Arc<Secret>,
    /// When it ends; none = never.
    pub expires_at: Option<Timestamp>,
}

/// What a registered agent knows.
#[derive(Debug)]
pub struct Credential {
    /// The name of this cluster at the server.
    pub cluster_id: ClusterId,
    /// The endpoint that issued the bearer; it is sent to no other origin.
    pub endpoint: String,
    /// Counts the rotations.
    pub generation: u64,
    /// In use.
    pub current: Bearer,
    /// The one before, until its grace is over.
    pub previous: Option<Bearer>,
    /// First 16 hex digits of the SHA-256 of the one-time token that was used up.
    pub observed_token: String,
}

/// Where a credential is kept.
pub trait CredentialStore: Send + Sync {
    /// Reads it; none = not registered.
    ///
    /// # Errors
    /// When it is there and cannot be trusted or read.
    fn load(&self) -> Result<Option<Credential>, StoreError>;

    /// Finds out whether a credential could be written, before one is used up.
    ///
    /// # Errors
    /// When there is no room, or nothing may be written.
    fn rehearse(&self) -> Result<(), StoreError>;

    /// Writes it so that a power cut leaves the old or the new one.
    ///
    /// # Errors
    /// When it could not be made durable.
    fn save(&self, credential: &Credential) -> Result<(), StoreError>;
}

/// Why a credential, or a file with a secret, cannot be used.
#[derive(Debug)]
pub enum StoreError {
    /// It could not be read or written.
    Io(PathBuf, io::Error),
    /// Its content is no credential of this version.
    Malformed(PathBuf),
    /// It is closed to too few, or belongs to somebody else, or is no plain file.
    Unsafe(PathBuf, &'static str),
    /// A text that cannot be a bearer.
    Token(&'static str),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, _) => write!(f, "{} cannot be read or written", path.display()),
            Self::Malformed(path) => write!(
                f,
                "{} is not a credential of this version; remove it and register again with a new one-time token",
                path.display()
            ),
            Self::Unsafe(path, fault) => write!(f, "{} is refused because {fault}", path.display()),
            Self::Token(fault) => write!(f, "the token cannot be used: {fault}"),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(_, source) => Some(source),
            _ => None,
        }
    }
}

impl Bearer {
    /// Takes a token as it may stand in a header.
    ///
    /// # Errors
    /// When it is too short, too long, or has characters that no header can carry.
    pub fn new(token: &str, expires_at: Option<Timestamp>) -> Result<Self, StoreError> {
        let token = token.trim();
        if token.len() < limits::BEARER_MIN {
            return Err(StoreError::Token("it is shorter than 22 characters"));
        }
        Self::checked(token)?;
        Ok(Self { token: Arc::new(Secret::new("bearer", token.to_owned())), expires_at })
    }

    fn checked(token: &str) -> Result<(), StoreError> {
        if token.len() > limits::BEARER_MAX {
            return Err(StoreError::Token("it is longer than 8192 characters"));
        }
        // RFC 6750, section 2.1: what a bearer may consist of.
        if !token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)) {
            return Err(StoreError::Token("it has characters other than letters, digits and - . _ ~ + / ="));
        }
        Ok(())
    }
}

/// Reads the one-time token from a file or, for `-`, from `stdin`.
///
/// # Errors
/// When it cannot be read, is too large, or cannot be a token.
pub fn read_one_time_token(path: &Path, stdin: impl Read) -> Result<Secret, StoreError> {
    let text = if path == Path::new("-") { read_text(stdin, path)? } else { read_text(open_regular(path)?, path)? };
    let token = text.trim();
    if token.is_empty() {
        return Err(StoreError::Token("it is empty"));
    }
    Bearer::checked(token)?;
    Ok(Secret::new("one-time token", token.to_owned()))
}

/// First 16 hex digits of the SHA-256 of a one-time token: enough to know it again, useless to anybody.
#[must_use]
pub fn observed_token(token: &Secret) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, token.expose().as_bytes());
    hash.as_ref().iter().take(8).fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = fmt::Write::write_fmt(&mut text, format_args!("{byte:02x}"));
        text
    })
}

/// The credential in the state directory: `credential.json`, mode 0600, written beside and renamed.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    handle: OwnedFd,
    /// Held as long as this value lives: one agent acts on one state directory.
    _lock: OwnedFd,
}

const CREDENTIAL: &str = "credential.json";
const CREDENTIAL_NEW: &str = ".credential.json.new";
const LOCK: &str = "lock";

/// Two bearers of the usual length and what stands around them.
const REHEARSAL_BYTES: usize = 8 * 1024;

impl StateDirectory {
    /// Opens the directory, makes it (0700) where it is not there, and takes its lock.
    ///
    /// # Errors
    /// When it cannot be made or opened, is open to others, or another agent uses it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
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
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = fs::openat(&handle, LOCK, flags, Mode::RUSR | Mode::WUSR).map_err(|error| io(error.into()))?;
        if fs::flock(&lock, fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(StoreError::Unsafe(path.to_owned(), "another pullet is using it (stop that one first)"));
        }
        Ok(Self { path: path.to_owned(), handle, _lock: lock })
    }

    /// The directory itself, for the files of others in it.
    #[must_use]
    pub fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    fn write_new(&self, text: &[u8]) -> Result<(), StoreError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&self.handle, CREDENTIAL_NEW, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| self.io(CREDENTIAL_NEW, error))?;
        let mut file = File::from(file);
        file.write_all(text).map_err(|error| self.io(CREDENTIAL_NEW, error))?;
        file.sync_all().map_err(|error| self.io(CREDENTIAL_NEW, error))
    }

    fn io(&self, name: &str, error: impl Into<io::Error>) -> StoreError {
        StoreError::Io(self.path.join(name), error.into())
    }
}

impl CredentialStore for StateDirectory {
    fn load(&self) -> Result<Option<Credential>, StoreError> {
        let path = self.path.join(CREDENTIAL);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match fs::openat(&self.handle, CREDENTIAL, flags, Mode::empty()) {
            Ok(file) => check_secret_file(file, &path)?,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::LOOP) => return Err(StoreError::Unsafe(path, "it is a link")),
            Err(error) => return Err(self.io(CREDENTIAL, error)),
        };
        let text = read_text(file, &path)?;
        let stored: Stored<'_> = serde_json::from_str(&text).map_err(|_| StoreError::Malformed(path.clone()))?;
        stored
            .into_credential()
            .map_err(|error| match error {
                Some(error) => error,
                None => StoreError::Malformed(path),
            })
            .map(Some)
    }

    /// Writes as much as a credential could take.
    fn rehearse(&self) -> Result<(), StoreError> {
        self.write_new(&[b' '; REHEARSAL_BYTES])?;
        fs::unlinkat(&self.handle, CREDENTIAL_NEW, fs::AtFlags::empty()).map_err(|error| self.io(CREDENTIAL_NEW, error))
    }

    fn save(&self, credential: &Credential) -> Result<(), StoreError> {
        let text = Zeroizing::new(serde_json::to_vec(&Stored::of(credential)).unwrap_or_default());
        self.write_new(&text)?;
        fs::renameat(&self.handle, CREDENTIAL_NEW, &self.handle, CREDENTIAL)
            .map_err(|error| self.io(CREDENTIAL, error))?;
        fs::fsync(&self.handle).map_err(|error| self.io(CREDENTIAL, error))
    }
}

/// The file's shape. A newer version is refused, not guessed at.
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
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredBearer<'a> {
    token: &'a str,
    #[serde(default, deserialize_with = "Timestamp::optional", skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
}

const VERSION: u32 = 1;

impl<'a> Stored<'a> {
    fn of(credential: &'a Credential) -> Self {
        let bearer = |bearer: &'a Bearer| StoredBearer { token: bearer.token.expose(), expires_at: bearer.expires_at };
        Self {
            version: VERSION,
            cluster_id: credential.cluster_id.as_str(),
            endpoint: &credential.endpoint,
            generation: credential.generation,
            current: bearer(&credential.current),
            previous: credential.previous.as_ref().map(bearer),
            observed_token: &credential.observed_token,
        }
    }

    fn into_credential(self) -> Result<Credential, Option<StoreError>> {
        if self.version != VERSION {
            return Err(None);
        }
        let bearer = |stored: StoredBearer<'_>| Bearer::new(stored.token, stored.expires_at).map_err(Some);
        Ok(Credential {
            cluster_id: ClusterId::parse(self.cluster_id).map_err(|_| None)?,
            endpoint: self.endpoint.to_owned(),
            generation: self.generation,
            current: bearer(self.current)?,
            previous: self.previous.map(bearer).transpose()?,
            observed_token: self.observed_token.to_owned(),
        })
    }
}

/// Opens a file that holds a secret: no link, regular, ours or root's, closed to others.
fn open_regular(path: &Path) -> Result<File, StoreError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = fs::open(path, flags, Mode::empty()).map_err(|error| match error {
        rustix::io::Errno::LOOP => StoreError::Unsafe(path.to_owned(), "it is a link"),
        error => StoreError::Io(path.to_owned(), error.into()),
    })?;
    check_secret_file(file, path)
}

fn check_secret_file(file: OwnedFd, path: &Path) -> Result<File, StoreError> {
    let refuse = |fault| Err(StoreError::Unsafe(path.to_owned(), fault));
    let status = fs::fstat(&file).map_err(|error| StoreError::Io(path.to_owned(), error.into()))?;
    if fs::FileType::from_raw_mode(status.st_mode) != fs::FileType::RegularFile {
        return refuse("it is not a regular file");
    }
    if status.st_uid != 0 && status.st_uid != rustix::process::geteuid().as_raw() {
        return refuse("it belongs to somebody else");
    }
    if status.st_mode & 0o077 != 0 {
        return refuse("it is open to group or others (chmod 600)");
    }
    if u64::try_from(status.st_size).unwrap_or(u64::MAX) > limits::SECRET_FILE_BYTES {
        return refuse("it is larger than 64 KiB");
    }
    Ok(File::from(file))
}

fn read_text(reader: impl Read, path: &Path) -> Result<Zeroizing<String>, StoreError> {
    // One buffer of the full size: a growing one would leave copies of the secret behind.
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(limits::SECRET_FILE_BYTES).unwrap_or(0) + 1));
    let count = reader
        .take(limits::SECRET_FILE_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| StoreError::Io(path.to_owned(), error))?;
    if count as u64 > limits::SECRET_FILE_BYTES {
        return Err(StoreError::Unsafe(path.to_owned(), "it is larger than 64 KiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{Bearer, Credential, CredentialStore, StateDirectory, StoreError, read_one_time_token};
    use crate::limits;
    use crate::protocol::{ClusterId, Timestamp};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    const TOKEN: &str = "abcdefghijklmnopqrstuv";

    fn credential(token: &str) -> Credential {
        Credential {
            cluster_id: ClusterId::parse("c1").unwrap(),
            endpoint: "https://a/base".into(),
            generation: 3,
            current: Bearer::new(token, Some(Timestamp::from_unix_seconds(9))).unwrap(),
            previous: Some(Bearer::new(TOKEN, None).unwrap()),
            observed_token: "0011223344556677".into(),
        }
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_was_saved_is_loaded_and_is_closed_to_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/state");
        let store = StateDirectory::open(&path).unwrap();
        assert!(store.load().unwrap().is_none());
        store.save(&credential("1234567890123456789012")).unwrap();
        let loaded = store.load().unwrap().unwrap();
        assert_eq!(loaded.current.token.expose(), "1234567890123456789012");
        assert_eq!(loaded.current.expires_at, Some(Timestamp::from_unix_seconds(9)));
        assert_eq!(loaded.previous.unwrap().token.expose(), TOKEN);
        assert_eq!((loaded.generation, loaded.endpoint.as_str()), (3, "https://a/base"));
        let mode = std::fs::metadata(path.join("credential.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn one_agent_acts_on_one_state_directory() {
        let directory = tempfile::tempdir().unwrap();
        let first = StateDirectory::open(directory.path()).unwrap();
        assert!(
            matches!(StateDirectory::open(directory.path()), Err(StoreError::Unsafe(_, fault)) if fault.contains("another"))
        );
        drop(first);
        assert!(StateDirectory::open(directory.path()).is_ok());
    }

    #[test]
    fn a_truncated_a_foreign_and_a_newer_file_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = StateDirectory::open(directory.path()).unwrap();
        store.save(&credential(TOKEN)).unwrap();
        let path = directory.path().join("credential.json");
        let whole = std::fs::read_to_string(&path).unwrap();
        for text in [
            "",
            "{}",
            "[1]",
            "null",
            &whole[..whole.len() - 1],
            &whole.replace("\"version\":1", "\"version\":2"),
            &whole.replace("\"generation\":3", "\"generation\":\"3\""),
            &whole.replace("\"c1\"", "\"c 1\""),
        ] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(store.load(), Err(StoreError::Malformed(_))), "{text}");
        }
        std::fs::write(&path, whole.replace(TOKEN, "short")).unwrap();
        assert!(matches!(store.load(), Err(StoreError::Token(_))));
    }

    #[test]
    fn open_files_links_and_large_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = StateDirectory::open(directory.path()).unwrap();
        store.save(&credential(TOKEN)).unwrap();
        let path = directory.path().join("credential.json");
        set_mode(&path, 0o640);
        assert!(matches!(store.load(), Err(StoreError::Unsafe(_, fault)) if fault.contains("chmod 600")));
        set_mode(&path, 0o600);
        std::fs::write(&path, vec![b' '; usize::try_from(limits::SECRET_FILE_BYTES).unwrap() + 1]).unwrap();
        assert!(matches!(store.load(), Err(StoreError::Unsafe(_, fault)) if fault.contains("larger")));
        std::fs::remove_file(&path).unwrap();
        symlink("/etc/passwd", &path).unwrap();
        assert!(matches!(store.load(), Err(StoreError::Unsafe(_, "it is a link"))));
    }

    #[test]
    fn a_state_directory_that_others_may_write_to_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        set_mode(directory.path(), 0o777);
        assert!(matches!(StateDirectory::open(directory.path()), Err(StoreError::Unsafe(..))));
    }

    #[test]
    fn what_is_no_directory_or_a_link_to_one_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        std::fs::write(&file, "").unwrap();
        symlink(directory.path(), &link).unwrap();
        let fault = |path: &Path| match StateDirectory::open(path) {
            Err(StoreError::Unsafe(_, fault)) => fault,
            other => panic!("{other:?}"),
        };
        assert_eq!(fault(&file), "it is not a directory");
        assert_eq!(fault(&file.join("below")), "it is not a directory");
        assert!(fault(&link).starts_with("it is a link"));
    }

    #[test]
    fn a_bearer_of_just_the_length_is_taken_and_one_character_less_is_not() {
        assert!(Bearer::new(&"x".repeat(limits::BEARER_MIN), None).is_ok());
        assert!(Bearer::new(&"x".repeat(limits::BEARER_MIN - 1), None).is_err());
        assert!(Bearer::new(&"x".repeat(limits::BEARER_MAX), None).is_ok());
        assert!(Bearer::new(&"x".repeat(limits::BEARER_MAX + 1), None).is_err());
        assert!(Bearer::new("abcdefghijklmnopqrstuv\r\nX: y", None).is_err());
    }

    #[test]
    fn a_one_time_token_comes_from_a_closed_file_or_from_stdin() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, format!("{TOKEN}\n")).unwrap();
        set_mode(&path, 0o644);
        assert!(matches!(read_one_time_token(&path, &b""[..]), Err(StoreError::Unsafe(..))));
        set_mode(&path, 0o600);
        assert_eq!(read_one_time_token(&path, &b""[..]).unwrap().expose(), TOKEN);
        assert_eq!(read_one_time_token(Path::new("-"), &b" tok \n"[..]).unwrap().expose(), "tok");
        assert!(matches!(read_one_time_token(Path::new("-"), &b" \n"[..]), Err(StoreError::Token(_))));
        let endless = std::io::repeat(b'x');
        assert!(matches!(read_one_time_token(Path::new("-"), endless), Err(StoreError::Unsafe(..))));
    }
}

//! The pinned keyring in the state directory, `keyring.json`, and the file of the owner's that says what to pin.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::StateDirectory;
use super::credential::StoreError;
use crate::limits;
use crate::trust::key_id::KeyId;
use crate::trust::keyring::{Keyring, KeyringError};

const KEYRING: &str = "keyring.json";
const VERSION: u32 = 1;

/// What is kept of a pinned keyring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The keyring as a compact JWS.
    pub keyring: String,
    /// A trust state for it was written to the journal: one that is not there any more is lost.
    pub has_ledger: bool,
}

/// What the owner gave to pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Keyrings, oldest first.
    Chain(Vec<String>),
    /// The thumbprint of the root key; the keyrings come from the control plane.
    Fingerprint(KeyId),
}

impl Wanted {
    /// Reads the owner's file: keyrings, one JWS a line, oldest first, or the thumbprint of the root key. It is no secret,
    /// but whoever can write it decides whom this node obeys.
    ///
    /// # Errors
    /// When it cannot be read, others may write it, or it holds anything else.
    pub fn read(path: &Path) -> Result<Self, StoreError> {
        let io = |error| StoreError::Io(path.to_owned(), error);
        let unsafe_because = |fault| Err(StoreError::Unsafe(path.to_owned(), fault));
        let file = File::open(path).map_err(io)?;
        let status = file.metadata().map_err(io)?;
        if !status.is_file() {
            return unsafe_because("it is not a regular file");
        }
        if status.uid() != 0 && status.uid() != rustix::process::geteuid().as_raw() {
            return unsafe_because("it belongs to somebody else");
        }
        if status.mode() & 0o022 != 0 {
            return unsafe_because("others may write to it (chmod go-w)");
        }
        let mut text = String::new();
        file.take(limits::KEYRING_FILE_BYTES.saturating_add(1)).read_to_string(&mut text).map_err(io)?;
        Self::parse(&text, path)
    }

    /// What the text of such a file says; `path` is what an error names.
    ///
    /// # Errors
    /// When it is too long, or anything else.
    pub fn parse(text: &str, path: &Path) -> Result<Self, StoreError> {
        let unsafe_because = |fault| Err(StoreError::Unsafe(path.to_owned(), fault));
        if text.len() as u64 > limits::KEYRING_FILE_BYTES {
            return unsafe_because("it is larger than a chain of keyrings can be");
        }
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        match lines.as_slice() {
            [] => unsafe_because(
                "it is empty; it takes the owner's keyrings, one a line, or the fingerprint of the root key",
            ),
            [line] if !line.contains('.') => match KeyId::parse(line) {
                Some(fingerprint) => Ok(Self::Fingerprint(fingerprint)),
                None => unsafe_because("its one line is neither a keyring nor a fingerprint of 43 characters"),
            },
            lines => Ok(Self::Chain(lines.iter().map(|line| (*line).to_owned()).collect())),
        }
    }
}

/// Pins the first ring, where none is pinned yet: the owner's, or else on first use the one that came with a registration.
/// Gives what is pinned now. Nothing that the control plane sends takes the place of what is pinned.
///
/// # Errors
/// When the owner's ring cannot be used, or the store cannot be read or written.
pub fn pin_first(
    store: &dyn PinStore,
    wanted: Option<&Wanted>,
    offered: &[String],
) -> Result<Option<Keyring>, PinError> {
    if let Some(pin) = store.load_pin().map_err(PinError::Store)? {
        return Keyring::restore(&pin.keyring).map(Some).map_err(PinError::Pinned);
    }
    let ring = match wanted {
        Some(Wanted::Chain(chain)) => Keyring::pin(chain).map_err(PinError::Given)?,
        _ if offered.is_empty() => return Ok(None),
        // The pinned one is gone: that is no reason to believe whoever comes next.
        None if store.newest_version() > 0 => {
            warn!("a keyring was pinned here and is gone; none is taken from the control plane in its place");
            return Ok(None);
        }
        Some(Wanted::Fingerprint(fingerprint)) => match Keyring::pin_by_fingerprint(*fingerprint, offered) {
            Ok(ring) => ring,
            Err(error) => {
                warn!(%error, "the control plane sent no keyring that belongs to the given fingerprint; none is pinned");
                return Ok(None);
            }
        },
        None => match Keyring::pin(offered) {
            Ok(ring) => ring,
            Err(error) => {
                warn!(%error, "the control plane sent a keyring that cannot be used; none is pinned");
                return Ok(None);
            }
        },
    };
    store.save_pin(&Pin { keyring: ring.text().to_owned(), has_ledger: false }).map_err(PinError::Store)?;
    store.note_version(ring.version()).map_err(PinError::Store)?;
    info!(version = ring.version(), epoch = ring.epoch(), "a keyring is pinned");
    Ok(Some(ring))
}

/// Why nothing is pinned.
#[derive(Debug)]
pub enum PinError {
    /// The owner's keyring cannot be used, or does not follow the pinned one.
    Given(KeyringError),
    /// The pinned keyring is damaged.
    Pinned(KeyringError),
    /// It could not be read or written.
    Store(StoreError),
}

impl fmt::Display for PinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Given(_) => {
                "the keyring of the configuration cannot be used; give the owner's whole chain, oldest first, or leave it out"
            }
            Self::Pinned(_) => {
                "the pinned keyring, keyring.json in the state directory, is damaged; put the file back from a backup, or remove \
                 it and give the owner's keyring with --keyring"
            }
            Self::Store(_) => "the pinned keyring cannot be read or written",
        })
    }
}

impl std::error::Error for PinError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Given(error) | Self::Pinned(error) => Some(error),
            Self::Store(error) => Some(error),
        }
    }
}

/// Where a pinned keyring is kept.
pub trait PinStore: Send + Sync {
    /// Reads it; none = nothing is pinned.
    ///
    /// # Errors
    /// When it is there and cannot be trusted or read.
    fn load_pin(&self) -> Result<Option<Pin>, StoreError>;

    /// Writes it so that a power cut leaves the old or the new one.
    ///
    /// # Errors
    /// When it could not be made durable.
    fn save_pin(&self, pin: &Pin) -> Result<(), StoreError>;

    /// The version of the newest keyring that was ever pinned here, as it is kept beside the credential; 0 = none. A place
    /// that keeps both in one piece needs no such thing.
    fn newest_version(&self) -> u32 {
        0
    }

    /// Keeps a version beside the credential, where it is newer than what is kept there.
    ///
    /// # Errors
    /// When it could not be made durable.
    fn note_version(&self, _version: u32) -> Result<(), StoreError> {
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored<'a> {
    version: u32,
    keyring: &'a str,
    has_ledger: bool,
}

impl PinStore for StateDirectory {
    fn load_pin(&self) -> Result<Option<Pin>, StoreError> {
        let Some(text) = self.read(KEYRING)? else { return Ok(None) };
        match serde_json::from_str(&text) {
            Ok(Stored { version: VERSION, keyring, has_ledger }) => {
                Ok(Some(Pin { keyring: keyring.to_owned(), has_ledger }))
            }
            _ => Err(self.malformed(KEYRING)),
        }
    }

    fn save_pin(&self, pin: &Pin) -> Result<(), StoreError> {
        let stored = Stored { version: VERSION, keyring: &pin.keyring, has_ledger: pin.has_ledger };
        // Texts and a number cannot fail to be written to memory.
        self.replace(KEYRING, &serde_json::to_vec(&stored).unwrap_or_default())
    }

    fn newest_version(&self) -> u32 {
        self.newest_keyring()
    }

    fn note_version(&self, version: u32) -> Result<(), StoreError> {
        self.note_keyring(version)
    }
}

#[cfg(test)]
mod tests {
    use super::{Pin, PinStore as _, Wanted};
    use crate::limits;
    use crate::link::{StateDirectory, StoreError};
    use crate::trust::key_id::KeyId;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_pin_comes_back_and_anything_else_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state");
        let store = StateDirectory::open(&path).unwrap();
        assert_eq!(store.load_pin().unwrap(), None);
        let pin = Pin { keyring: "a.b.c".into(), has_ledger: true };
        store.save_pin(&pin).unwrap();
        assert_eq!(store.load_pin().unwrap(), Some(pin));
        let file = path.join("keyring.json");
        let good = std::fs::read_to_string(&file).unwrap();
        for wrong in ["", "{}", "[]", &good[..good.len() - 1], &good.replace(":1,", ":2,"), &good.replace("true", "1")]
        {
            std::fs::write(&file, wrong).unwrap();
            assert!(matches!(store.load_pin(), Err(StoreError::Malformed(_))), "{wrong}");
        }
        std::fs::write(&file, " ".repeat(usize::try_from(limits::SECRET_FILE_BYTES).unwrap() + 1)).unwrap();
        assert!(matches!(store.load_pin(), Err(StoreError::Unsafe(..))));
    }

    #[test]
    fn the_owners_file_is_a_chain_or_a_fingerprint_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("keyring");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Wanted::read(&path)
        };
        let chain = |lines: &[&str]| Wanted::Chain(lines.iter().map(|line| (*line).to_owned()).collect());
        assert_eq!(read("a.b.c\n\n d.e.f \n").unwrap(), chain(&["a.b.c", "d.e.f"]));
        let fingerprint = KeyId::of_ed25519(&[7; 32]);
        assert_eq!(read(&format!("{fingerprint}\n")).unwrap(), Wanted::Fingerprint(fingerprint));
        for wrong in ["", "\n \n", "xyz", &format!("{fingerprint}x")] {
            assert!(matches!(read(wrong), Err(StoreError::Unsafe(..))), "{wrong:?}");
        }
        let longest = usize::try_from(limits::KEYRING_FILE_BYTES).unwrap();
        assert!(read(&format!("a.b.c{}", "x".repeat(longest - 5))).is_ok());
        assert!(matches!(read(&format!("a.b.c{}", "x".repeat(longest - 4))), Err(StoreError::Unsafe(..))));
        std::fs::write(&path, [0xff]).unwrap();
        assert!(matches!(Wanted::read(&path), Err(StoreError::Io(..))));
        read("a.b.c").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o664)).unwrap();
        assert!(matches!(Wanted::read(&path), Err(StoreError::Unsafe(_, fault)) if fault.contains("chmod")));
        assert!(matches!(Wanted::read(home.path()), Err(StoreError::Unsafe(..) | StoreError::Io(..))));
    }
}

//! The bearer, what comes with it, and what a place to keep it in has to do.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tracing::warn;

use super::certificate::Certificates;
use super::machine::Binding;
use super::pinned::PinStore;
use crate::protocol::{ClusterId, Timestamp};
use crate::secret::Secret;
use crate::trust::identity::NodeKeys;
use crate::trust::mac::MacKey;
use crate::{clock, limits};

/// One bearer.
#[derive(Clone, Debug)]
pub struct Bearer {
    /// The text that is sent.
    pub token: Arc<Secret>,
    /// When it ends; none = never.
    pub expires_at: Option<Timestamp>,
    /// When the server wishes it to be rotated.
    pub rotate_after: Option<Timestamp>,
    /// When it was issued, by our clock; none where that was not written down.
    pub issued_at: Option<Timestamp>,
    /// The key for MACs that the server gave; none = it follows from the bearer.
    pub mac_key: Option<Arc<MacKey>>,
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
    /// The keys that were made on the node; none in a credential of before there were any.
    pub keys: Option<Arc<NodeKeys>>,
    /// The machine that it belongs to; none where that was not written down.
    pub machine: Option<Binding>,
    /// Client certificates that the control plane issued.
    pub certificates: Certificates,
    /// When this node was registered, by its clock; none where that was not written down.
    pub registered_at: Option<Timestamp>,
}

impl Credential {
    /// The keys, without the payload key of before the registration once no job is on its way any more that was encrypted to it.
    #[must_use]
    pub fn keys_at(&self, now: u64) -> Option<Arc<NodeKeys>> {
        let keys = self.keys.as_ref()?;
        let kept_until = self.registered_seconds().map(|at| at.saturating_add(limits::PAYLOAD_KEY_KEPT.as_secs()));
        let is_over = keys.payload().previous.is_some() && kept_until.is_some_and(|end| end < now);
        Some(if is_over { Arc::new(keys.without_previous()) } else { Arc::clone(keys) })
    }

    /// The same with keys that are not older than they may be. What is taken away is taken away in its store, too. Blocks.
    #[must_use]
    pub fn aged(mut self, store: &dyn CredentialStore) -> Self {
        let has_previous =
            |keys: &Option<Arc<NodeKeys>>| keys.as_ref().is_some_and(|keys| keys.payload().previous.is_some());
        let keys = self.keys_at(clock::unix_seconds());
        let is_over = has_previous(&self.keys) && !has_previous(&keys);
        self.keys = keys;
        if is_over && let Err(error) = store.save(&self) {
            warn!(%error, "the payload key of before the registration could not be removed; it is tried again at the next start");
        }
        self
    }

    /// When this node was registered, Unix seconds.
    #[must_use]
    pub fn registered_seconds(&self) -> Option<u64> {
        self.registered_at.and_then(|at| u64::try_from(at.unix_seconds()).ok())
    }
}

/// Where a credential is kept.
pub trait CredentialStore: PinStore {
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

    /// Writes it so that a power cut leaves the old or the new one. Keys that were kept for it are part of it from now
    /// on.
    ///
    /// # Errors
    /// When it could not be made durable.
    fn save(&self, credential: &Credential) -> Result<(), StoreError>;

    /// Keeps authorities that the control plane gave, in PEM, in the place of those before, so that a power cut leaves the old
    /// or the new ones.
    ///
    /// # Errors
    /// When they could not be made durable.
    fn keep_authorities(&self, pem: &[u8]) -> Result<(), StoreError>;

    /// The keys of a registration that has no answer yet, or whose answer got lost.
    ///
    /// # Errors
    /// When they are there and cannot be trusted or read.
    fn pending_keys(&self) -> Result<Option<NodeKeys>, StoreError>;

    /// Keeps the keys of a registration before it is asked for.
    ///
    /// # Errors
    /// When they could not be made durable.
    fn keep_keys(&self, keys: &NodeKeys) -> Result<(), StoreError>;

    /// Keeps a copy of what is stored, whatever it is, until [`CredentialStore::forget_copy`]. Nothing where there is
    /// nothing.
    ///
    /// # Errors
    /// When it could not be made durable.
    fn keep_copy(&self) -> Result<(), StoreError>;

    /// Puts the copy back into its place.
    ///
    /// # Errors
    /// When it could not be made durable.
    fn put_back(&self) -> Result<(), StoreError>;

    /// Removes the copy: what took its place has worked.
    ///
    /// # Errors
    /// When it could not be removed.
    fn forget_copy(&self) -> Result<(), StoreError>;
}

/// Why a credential, or a file with a secret, cannot be used.
#[derive(Debug)]
pub enum StoreError {
    /// It could not be read or written.
    Io(PathBuf, io::Error),
    /// The system gives no random bytes.
    NoRandomness,
    /// It is sealed, and not with the key that is given now, if any is.
    Sealed(PathBuf),
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
                "{} is not a credential of this version; get a new one-time token and run pullet register --force",
                path.display()
            ),
            Self::NoRandomness => f.write_str("the system gives no random bytes for a key"),
            Self::Sealed(path) => write!(
                f,
                "{} is sealed with another key than pullet.key of $CREDENTIALS_DIRECTORY, or was changed: give that key \
                 again (LoadCredential=), or get a new one-time token and run pullet register --force",
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
        Self::check(token)?;
        Ok(Self {
            token: Arc::new(Secret::new("bearer", token.to_owned())),
            expires_at,
            rotate_after: None,
            issued_at: None,
            mac_key: None,
        })
    }

    /// Checks whether a text can stand in a header.
    ///
    /// # Errors
    /// When it is too long, or has characters that no header can carry.
    pub fn check(token: &str) -> Result<(), StoreError> {
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

#[cfg(test)]
mod tests {
    use super::Bearer;
    use crate::limits;

    #[test]
    fn a_bearer_of_just_the_length_is_taken_and_one_character_less_is_not() {
        assert!(Bearer::new(&"x".repeat(limits::BEARER_MIN), None).is_ok());
        assert!(Bearer::new(&"x".repeat(limits::BEARER_MIN - 1), None).is_err());
        assert!(Bearer::new(&"x".repeat(limits::BEARER_MAX), None).is_ok());
        assert!(Bearer::new(&"x".repeat(limits::BEARER_MAX + 1), None).is_err());
        assert!(Bearer::new("abcdefghijklmnopqrstuv\r\nX: y", None).is_err());
    }
}

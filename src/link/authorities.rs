//! The authorities that the control plane gives (`caBundle`, P2.9). They stand beside those of the owner, and take the place of
//! the ones that it gave before.

use std::error::Error as _;
use std::fmt;

use tracing::{info, warn};

use super::{CredentialStore, Fault, LongPoll, StoreError};
use crate::net::tls::TlsFileError;
use crate::trust::bundle;
use crate::trust::keyring::{Keyring, KeyringError};

/// Who may say whom this node believes.
#[derive(Clone, Copy, Debug)]
pub enum Voice<'a> {
    /// Nobody is pinned: the control plane.
    Anybody,
    /// An owner is pinned, but the keyring is not there yet, was lost, or is older than one that was there before.
    Nobody,
    /// The root keys of the pinned ring.
    Root(&'a Keyring),
}

/// Why given authorities are not used.
#[derive(Debug)]
pub enum Unused {
    /// The control plane does not answer where they are believed: its certificate is by another one.
    Fails(Fault),
    /// They are no certificates in PEM.
    Malformed(TlsFileError),
    /// They are longer than authorities may be.
    TooLong,
    /// A keyring is pinned, and no root key of it has signed them.
    Unsigned(KeyringError),
    /// They could not be stored.
    Unstored(StoreError),
    /// The keyring that could vouch for them is not there.
    WithoutKeyring,
}

impl Unused {
    /// In one word.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Fails(_) => "AuthoritiesFail",
            Self::Malformed(_) | Self::TooLong => "AuthoritiesMalformed",
            Self::Unsigned(_) | Self::WithoutKeyring => "AuthoritiesUnsigned",
            Self::Unstored(_) => "AuthoritiesUnstored",
        }
    }
}

impl fmt::Display for Unused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fails(_) => "the control plane does not answer where they are believed",
            Self::Malformed(_) => "they are no certificates in PEM",
            Self::TooLong => "they are longer than 32 KiB",
            Self::Unsigned(_) => "no root key of the pinned keyring has signed them (pullet sign bundle)",
            Self::Unstored(_) => "they could not be stored",
            Self::WithoutKeyring => "the keyring that could vouch for them is not there",
        })
    }
}

impl std::error::Error for Unused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Fails(error) => Some(error),
            Self::Malformed(error) => Some(error),
            Self::Unsigned(error) => Some(error),
            Self::Unstored(error) => Some(error),
            Self::TooLong | Self::WithoutKeyring => None,
        }
    }
}

/// Takes what came: first it is found out who says it, then whether the control plane is seen as it is now where it is
/// believed; only then it is stored and used. Gives whether there was anything new. Blocks.
///
/// # Errors
/// As [`Unused`] lists them; what was believed before stays.
pub fn take(text: &str, voice: Voice<'_>, link: &LongPoll, store: &dyn CredentialStore) -> Result<bool, Unused> {
    let pem = match voice {
        Voice::Anybody => bundle::plain(text).ok_or(Unused::TooLong)?,
        Voice::Nobody => return Err(Unused::WithoutKeyring),
        Voice::Root(ring) => bundle::signed(ring, text).map_err(Unused::Unsigned)?.ok_or(Unused::TooLong)?,
    };
    let given = link.tls().given();
    if given.as_deref().is_some_and(|path| holds(path, pem.as_bytes())) {
        return Ok(false);
    }
    let mut candidate = link.tls().with_given(pem.as_bytes()).map_err(Unused::Malformed)?;
    link.try_with(&candidate, &link.bearer()).map_err(Unused::Fails)?;
    store.keep_authorities(pem.as_bytes()).map_err(Unused::Unstored)?;
    if let Some(given) = given {
        candidate.was_stored(&given);
    }
    // Where something else was committed meanwhile, the file has changed, which is noticed with the next poll.
    let _ = link.commit(candidate);
    Ok(true)
}

/// Says in the log what became of them; gives the reason where they are not used.
///
/// # Errors
/// That reason.
pub fn tell(taken: &Result<bool, Unused>) -> Result<(), &'static str> {
    match taken {
        Ok(true) => info!("authorities that the control plane gave are believed from now on"),
        Ok(false) => {}
        Err(unused) => {
            let cause = unused.source().map(ToString::to_string).unwrap_or_default();
            warn!(error = %unused, cause, "the authorities that the control plane gave are not used; those of before stay");
            return Err(unused.reason());
        }
    }
    Ok(())
}

fn holds(path: &std::path::Path, pem: &[u8]) -> bool {
    let is_as_long = std::fs::metadata(path).is_ok_and(|found| found.len() == pem.len() as u64);
    is_as_long && std::fs::read(path).is_ok_and(|held| held == pem)
}

//! What we show and whom we trust, followed as its files change.
//!
//! A service account's token lives an hour and is replaced in its file; k3s renews certificates once a
//! year. Files are looked at before a call, at most once in [`limits::CREDENTIAL_CHECK`], and at once
//! after a 401.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use http::{HeaderValue, Uri};
use rustls::ClientConfig;
use zeroize::Zeroizing;

use super::cluster::{AccessError, read_bytes, read_text};
use super::kubeconfig::{BearerSource, Source};
use crate::limits;
use crate::metrics::Meter;
use crate::net::tls::{ClientIdentity, Roots, client_config};
use crate::net::{PlainHttp, Profile, ProxySetting};
use crate::secret::Secret;

/// All that a connection is made from.
pub(super) struct Material {
    pub(super) server: Uri,
    pub(super) plain_http: PlainHttp,
    pub(super) proxy: ProxySetting,
    /// Without one the system's authorities.
    pub(super) authority: Option<Source>,
    pub(super) identity: Option<(Source, Source)>,
    pub(super) bearer: Option<BearerSource>,
    /// What an error about data of the configuration itself names.
    pub(super) origin: PathBuf,
}

/// Material and what was made of it.
pub(super) struct Credentials {
    material: Material,
    state: Mutex<State>,
    meter: Meter,
}

struct State {
    tls: Arc<ClientConfig>,
    bearer: Option<Secret>,
    stamps: Vec<Stamp>,
    checked: Instant,
    /// Counts the changes of `tls`: a line of an older one is not used again.
    generation: u64,
}

/// What tells that a file is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// What one call needs.
pub(super) struct Current {
    /// For a new line.
    pub(super) profile: Profile,
    /// Of `profile`.
    pub(super) generation: u64,
    /// Marked as sensitive.
    pub(super) authorization: Option<HeaderValue>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.material.server)
    }
}

impl Credentials {
    /// Reads everything once.
    pub(super) fn open(material: Material) -> Result<Self, AccessError> {
        let stamps = material.stamps();
        let state = State {
            tls: material.tls()?,
            bearer: material.read_bearer()?,
            stamps,
            checked: Instant::now(),
            generation: 0,
        };
        Ok(Self { material, state: Mutex::new(state), meter: Meter::default() })
    }

    /// The API server's URL.
    pub(super) fn server(&self) -> &Uri {
        &self.material.server
    }

    /// Whom a connection trusts.
    pub(super) fn authority(&self) -> Option<&Source> {
        self.material.authority.as_ref()
    }

    /// What counts the bytes of every line.
    pub(super) fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// What holds now. May read files.
    pub(super) fn current(&self) -> Current {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.checked.elapsed() >= limits::CREDENTIAL_CHECK {
            self.follow(&mut state);
        }
        let authorization = state.bearer.as_ref().and_then(authorization);
        Current {
            profile: Profile {
                tls: Arc::clone(&state.tls).into(),
                proxy: self.material.proxy.clone(),
                plain_http: self.material.plain_http,
                meter: self.meter.clone(),
            },
            generation: state.generation,
            authorization,
        }
    }

    /// Looks at the files at once, and tells whether they bring anything that `used` was not made of.
    pub(super) fn renew(&self, used: Option<&HeaderValue>, generation: u64) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.follow(&mut state);
        let now = state.bearer.as_ref().and_then(authorization);
        now.as_ref() != used || state.generation != generation
    }

    /// A file that is just being replaced must not stop us: what cannot be read is tried again, and until
    /// then what was read before holds.
    fn follow(&self, state: &mut State) {
        state.checked = Instant::now();
        let stamps = self.material.stamps();
        if stamps == state.stamps {
            return;
        }
        match (self.material.tls(), self.material.read_bearer()) {
            (Ok(tls), Ok(bearer)) => {
                state.tls = tls;
                state.bearer = bearer;
                state.stamps = stamps;
                state.generation += 1;
                tracing::info!("the files of the API server's credential changed and were read again");
            }
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(%error, "a changed file of the API server's credential cannot be used: the old one holds");
            }
        }
    }
}

impl Material {
    fn files(&self) -> impl Iterator<Item = &Path> {
        let pem = self.authority.iter().chain(self.identity.iter().flat_map(|(chain, key)| [chain, key])).filter_map(
            |source| match source {
                Source::File(path) => Some(path.as_path()),
                Source::Data(_) => None,
            },
        );
        let bearer = self.bearer.iter().filter_map(|bearer| match bearer {
            BearerSource::File(path) => Some(path.as_path()),
            BearerSource::Fixed(_) => None,
        });
        pem.chain(bearer)
    }

    /// A file that is not there has the stamp of no file.
    fn stamps(&self) -> Vec<Stamp> {
        self.files().map(Stamp::of).collect()
    }

    fn tls(&self) -> Result<Arc<ClientConfig>, AccessError> {
        let mut roots = match self.authority {
            Some(_) => Roots::none(),
            None => Roots::system(),
        };
        if let Some(authority) = &self.authority {
            let (pem, origin) = self.pem(authority)?;
            roots.add_pem(&pem, origin)?;
        }
        let identity = match &self.identity {
            Some((chain, key)) => {
                let (chain, origin) = self.pem(chain)?;
                Some(ClientIdentity::from_pem(&chain, &self.pem(key)?.0, origin)?)
            }
            None => None,
        };
        Ok(client_config(roots, identity)?)
    }

    fn pem<'a>(&'a self, source: &'a Source) -> Result<(Zeroizing<Vec<u8>>, &'a Path), AccessError> {
        match source {
            Source::Data(data) => Ok((data.clone(), &self.origin)),
            Source::File(path) => Ok((read_bytes(path, limits::CA_FILE_BYTES)?, path)),
        }
    }

    fn read_bearer(&self) -> Result<Option<Secret>, AccessError> {
        let (text, origin) = match &self.bearer {
            None => return Ok(None),
            Some(BearerSource::File(path)) => (read_text(path, limits::SECRET_FILE_BYTES)?, path),
            Some(BearerSource::Fixed(token)) => (Zeroizing::new(token.expose().to_owned()), &self.origin),
        };
        let bearer = Secret::new("Kubernetes bearer", text.trim().to_owned());
        let fits = (1..=limits::BEARER_MAX).contains(&bearer.expose().len()) && authorization(&bearer).is_some();
        if fits { Ok(Some(bearer)) } else { Err(AccessError::BadBearer(origin.clone())) }
    }
}

impl Stamp {
    fn of(path: &Path) -> Self {
        match std::fs::metadata(path) {
            Ok(metadata) => Self {
                inode: metadata.ino(),
                size: metadata.size(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
            },
            Err(_) => Self { inode: 0, size: 0, modified: (0, 0) },
        }
    }
}

fn authorization(bearer: &Secret) -> Option<HeaderValue> {
    let text = Zeroizing::new(format!("Bearer {}", bearer.expose()));
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::{Credentials, Material};
    use crate::net::{PlainHttp, ProxySetting};
    use crate::secret::Secret;
    use crate::target::kubernetes::cluster::AccessError;
    use crate::target::kubernetes::kubeconfig::BearerSource;
    use std::path::{Path, PathBuf};

    fn open(bearer: BearerSource) -> Result<Credentials, AccessError> {
        Credentials::open(Material {
            server: "https://127.0.0.1:1".parse().unwrap(),
            plain_http: PlainHttp::Refused,
            proxy: ProxySetting::Direct,
            authority: None,
            identity: None,
            bearer: Some(bearer),
            origin: PathBuf::from("config"),
        })
    }

    #[test]
    fn a_changed_token_file_is_read_after_a_401_and_a_vanished_one_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "one\n").unwrap();
        let credentials = open(BearerSource::File(path.clone())).unwrap();
        let used = credentials.current();
        assert_eq!(used.authorization.as_ref().unwrap(), "Bearer one");
        assert!(used.authorization.as_ref().unwrap().is_sensitive());
        assert!(!credentials.renew(used.authorization.as_ref(), used.generation));
        std::fs::remove_file(&path).unwrap();
        assert!(!credentials.renew(used.authorization.as_ref(), used.generation));
        std::fs::write(&path, "two").unwrap();
        assert!(credentials.renew(used.authorization.as_ref(), used.generation));
        assert_eq!(credentials.current().authorization.unwrap(), "Bearer two");
    }

    #[test]
    fn a_token_that_is_none_is_refused_and_never_printed() {
        for token in ["", " \n", "a\u{1}b", &"x".repeat(crate::limits::BEARER_MAX + 1)] {
            let error = open(BearerSource::Fixed(Secret::new("t", token.to_owned()))).unwrap_err();
            assert!(matches!(&error, AccessError::BadBearer(path) if path == Path::new("config")), "{error:?}");
        }
        let credentials = open(BearerSource::Fixed(Secret::new("t", "geheim".to_owned()))).unwrap();
        assert!(!format!("{credentials:?}{:?}", credentials.current().authorization).contains("geheim"));
    }
}

//! The owner's client certificate in the Secret, where those who follow files find it: in memory, and on no disk.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, Mode, fchmod, memfd_create};
use tokio::sync::watch;
use tracing::warn;
use zeroize::Zeroizing;

use super::Seen;
use super::secret_store::{self, SecretStore};
use crate::link::store::entries::Provided;
use crate::{limits, task};

/// Two files without a name: the chain and its key, in PEM.
#[derive(Debug)]
pub struct InMemory([File; 2]);

impl InMemory {
    pub(super) fn new(provided: &Provided) -> io::Result<Self> {
        let file = |name: &str| -> io::Result<File> {
            let file = memfd_create(name, MemfdFlags::CLOEXEC)?;
            fchmod(&file, Mode::RUSR | Mode::WUSR)?;
            Ok(file.into())
        };
        let held = Self([file("tls.crt")?, file("tls.key")?]);
        held.put(provided)?;
        Ok(held)
    }

    /// Writes what is another one by now. Whoever follows these files notices it, and tries it before it is used.
    pub(super) fn put(&self, (chain, key): &Provided) -> io::Result<()> {
        for (file, text) in self.0.iter().zip([chain, key]) {
            if !holds(file, text) {
                file.set_len(0)?;
                file.write_all_at(text.as_bytes(), 0)?;
            }
        }
        Ok(())
    }

    /// An error that names one of these files, for a person.
    pub(super) fn tell(&self, error: &str) -> String {
        let (chain, key) = self.paths();
        let text = error.replace(&*chain.to_string_lossy(), "tls.crt").replace(&*key.to_string_lossy(), "tls.key");
        ["in the Secret vworkspace-system/", secret_store::NAME, ": ", &text].concat()
    }

    /// Where they are, for this process alone.
    #[must_use]
    pub fn paths(&self) -> (PathBuf, PathBuf) {
        let path = |file: &File| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let Self([chain, key]) = self;
        (path(chain), path(key))
    }
}

/// Looks at the Secret from time to time, and when anything about the Cluster changes: what the owner renews there is taken
/// over. Ends when there is one that was not there before, or none any more.
pub(super) async fn follow(
    store: Arc<SecretStore>,
    held: Option<Arc<InMemory>>,
    mut seen: watch::Receiver<Arc<Seen>>,
    is_wanted: bool,
) {
    seen.mark_unchanged();
    loop {
        let looked = if is_wanted {
            let _ = tokio::time::timeout(limits::CERTIFICATE_LOOK, seen.changed()).await;
            let store = Arc::clone(&store);
            task::on_thread(move || store.provided()).await
        } else {
            std::future::pending().await
        };
        match (&held, looked) {
            (Some(held), Ok(Ok(Some(found)))) => {
                if let Err(error) = held.put(&found) {
                    warn!(%error, "the client certificate in the Secret could not be taken over");
                }
            }
            // An API server that is away takes nothing away.
            (None, Ok(Ok(None))) | (_, Ok(Err(_)) | Err(_)) => {}
            (None, Ok(Ok(Some(_)))) | (Some(_), Ok(Ok(None))) => return,
        }
    }
}

fn holds(file: &File, text: &str) -> bool {
    let is_as_long = file.metadata().is_ok_and(|found| found.len() == text.len() as u64);
    let mut held = Zeroizing::new(vec![0; text.len()]);
    is_as_long && file.read_exact_at(&mut held, 0).is_ok() && *held == text.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::InMemory;
    use crate::net::Tls;
    use crate::net::renewal::TlsFiles;
    use zeroize::Zeroizing;

    fn pair() -> super::Provided {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        (Zeroizing::new(params.self_signed(&key).unwrap().pem()), Zeroizing::new(key.serialize_pem()))
    }

    #[test]
    fn what_is_put_there_is_followed_as_a_file_is() {
        let first = pair();
        let held = InMemory::new(&first).unwrap();
        let tls = Tls::open(TlsFiles { client: Some(held.paths()), ..TlsFiles::default() }).unwrap();
        assert!(tls.has_client_certificate());
        held.put(&first).unwrap();
        assert!(tls.changed().is_none(), "nothing is written that is there");
        held.put(&(first.0, pair().1)).unwrap();
        assert!(matches!(tls.changed(), Some(Err(_))), "half of a pair");
        held.put(&pair()).unwrap();
        assert!(tls.commit(tls.changed().unwrap().unwrap()));
        // Shorter than before.
        held.put(&(Zeroizing::new("x".into()), Zeroizing::default())).unwrap();
        assert!(matches!(tls.changed(), Some(Err(_))));
        let (chain, _) = held.paths();
        assert_eq!(std::fs::read(&chain).unwrap(), b"x");
        drop(held);
        assert!(!chain.exists());
    }
}

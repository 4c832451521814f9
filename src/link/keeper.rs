//! The life of a credential while the agent runs.

use std::sync::{Arc, Mutex, PoisonError};

use tracing::{error, info, warn};

use super::credential::{Credential, CredentialStore, StoreError};
use super::{Account, Fault, LongPoll};

/// Rotates the credential, and finds one that works when the one in use is refused.
pub struct Keeper {
    link: Arc<LongPoll>,
    store: Arc<dyn CredentialStore>,
    held: Mutex<Credential>,
    rotated: Box<dyn Fn() + Send + Sync>,
}

impl Keeper {
    /// Keeps this credential; `rotated` is told of each new one.
    #[must_use]
    pub fn new(
        link: Arc<LongPoll>,
        store: Arc<dyn CredentialStore>,
        credential: Credential,
        rotated: Box<dyn Fn() + Send + Sync>,
    ) -> Self {
        Self { link, store, held: Mutex::new(credential), rotated }
    }

    /// The new credential is stored before it is used (TRUST.md, Credentials), tried, and then used by
    /// every caller at once. The old one stays stored beside it.
    fn rotate_held(&self, held: &mut Credential) -> Result<(), Fault> {
        // A server counts every bearer that it issues: none is asked for that could not be kept.
        self.store.rehearse().map_err(not_stored)?;
        let new = self.link.rotate(&held.current.token)?;
        let rotated = Credential {
            cluster_id: held.cluster_id.clone(),
            endpoint: held.endpoint.clone(),
            generation: held.generation + 1,
            previous: Some(held.current.clone()),
            current: new,
            observed_token: held.observed_token.clone(),
        };
        if let Err(error) = self.store.save(&rotated) {
            // It is the only one that the server is sure to accept from now on.
            error!(%error, "the new credential could not be stored and is used from memory; make room in the state directory");
        }
        let tried = self.link.probe(&rotated.current.token);
        // A probe that got no answer says nothing about the bearer: it is in use from now on, and a 401
        // would find the old one again.
        *held = rotated;
        if let Err(fault @ (Fault::Unauthorized(_) | Fault::Forbidden(_))) = tried {
            warn!(error = %fault, "the new credential is not accepted; the old one stays in use");
            return Err(fault);
        }
        self.link.set_bearer(Arc::clone(&held.current.token));
        info!(generation = held.generation, "a new credential is in use");
        (self.rotated)();
        Ok(())
    }
}

impl Account for Keeper {
    fn rotate(&self) -> Result<(), Fault> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        self.rotate_held(&mut held)
    }

    /// P1.8, 401: the stored credential is read again, the other stored one is tried, and at last one
    /// rotation.
    fn recover(&self) -> Result<(), Fault> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match self.store.load() {
            Ok(Some(stored)) if stored.endpoint == held.endpoint && stored.cluster_id == held.cluster_id => {
                *held = stored;
            }
            Ok(_) => {}
            Err(error) => warn!(%error, "the stored credential cannot be read again"),
        }
        let current = Arc::clone(&held.current.token);
        match self.link.probe(&current) {
            Ok(()) => {
                self.link.set_bearer(current);
                return Ok(());
            }
            Err(Fault::Unauthorized(_)) => {}
            Err(fault) => return Err(fault),
        }
        if let Some(previous) = held.previous.clone()
            && self.link.probe(&previous.token).is_ok()
        {
            info!("the credential in use is refused; the one before is still accepted");
            let refused = std::mem::replace(&mut held.current, previous);
            held.previous = Some(refused);
            self.link.set_bearer(Arc::clone(&held.current.token));
            return Ok(());
        }
        self.rotate_held(&mut held)
    }
}

fn not_stored(error: StoreError) -> Fault {
    warn!(%error, "a new credential could not be stored; the old one stays in use");
    Fault::Unstorable
}

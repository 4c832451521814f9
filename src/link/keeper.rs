//! The life of a credential while the agent runs (TRUST.md, Credentials).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use tokio::sync::Notify;
use tracing::{debug, error, info, warn};

use super::credential::{Credential, CredentialStore, StoreError};
use super::rotation::{self, Chore};
use super::{Account, Fault, LongPoll};
use crate::clock;
use crate::protocol::Timestamp;

/// Is told of each new credential, with the keyrings that came along.
pub type Rotated = Box<dyn Fn(&[String]) + Send + Sync>;

/// Rotates the credential, and finds one that works when the one in use is refused.
pub struct Keeper {
    link: Arc<LongPoll>,
    store: Arc<dyn CredentialStore>,
    held: Mutex<Credential>,
    rotated: Rotated,
    /// Tells the loop that rotates ahead of expiry.
    changed: Notify,
}

impl Keeper {
    /// Keeps this credential; `rotated` is told of each new one.
    #[must_use]
    pub fn new(link: Arc<LongPoll>, store: Arc<dyn CredentialStore>, credential: Credential, rotated: Rotated) -> Self {
        Self { link, store, held: Mutex::new(credential), rotated, changed: Notify::new() }
    }

    /// What is to be done next with the credential, and when, in seconds since 1970.
    #[must_use]
    pub fn next(&self) -> Option<(u64, Chore)> {
        rotation::next(&self.held())
    }

    /// Counts the rotations.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.held().generation
    }

    /// When the credential ends; none = never.
    #[must_use]
    pub fn ends(&self) -> Option<Timestamp> {
        self.held().current.expires_at
    }

    /// When the node was registered, when the credential ends, and when it is to be rotated; none while it is being
    /// rotated. Does not wait.
    #[must_use]
    pub fn life(&self) -> Option<[Option<Timestamp>; 3]> {
        let held = match self.held.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(held)) => held.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let rotate_at = rotation::rotate_at(&held.current).map(Timestamp::from_unix_seconds);
        Some([held.registered_at, held.current.expires_at, rotate_at])
    }

    /// Rotates if nobody else did since the credential was of this generation.
    ///
    /// # Errors
    /// A [`Fault`]; the credential in use stays.
    pub fn rotate_from(&self, generation: u64) -> Result<(), Fault> {
        let mut held = self.held();
        if held.generation == generation { self.rotate_held(&mut held) } else { Ok(()) }
    }

    /// Waits until there is another credential.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Removes the credential before, whose grace is over, once the one in use is seen to work.
    ///
    /// # Errors
    /// A [`Fault`]; it stays where it is.
    pub fn forget_previous(&self) -> Result<(), Fault> {
        let mut held = self.held();
        self.link.probe(&held.current)?;
        let kept = Credential { previous: None, current: held.current.clone(), ..duplicate(&held) };
        self.store.save(&kept).map_err(not_stored)?;
        *held = kept;
        debug!(generation = held.generation, "the credential before is no longer kept");
        Ok(())
    }

    /// The new credential is stored before it is used, tried, and then used by every caller at once. The old one
    /// stays stored beside it.
    fn rotate_held(&self, held: &mut Credential) -> Result<(), Fault> {
        // A server counts every bearer that it issues: none is asked for that could not be kept.
        self.store.rehearse().map_err(not_stored)?;
        let issued = self.link.rotate(&held.current, held.keys.as_deref())?;
        let rotated = Credential {
            generation: held.generation.saturating_add(1),
            previous: Some(held.current.clone()),
            current: issued.bearer.clone(),
            ..duplicate(held)
        };
        if let Err(error) = self.store.save(&rotated) {
            // It is the only one that the server is sure to accept from now on.
            error!(%error, "the new credential could not be stored and is used from memory; make room in the state directory");
        }
        let tried = self.link.probe(&rotated.current);
        // A probe that got no answer says nothing about the bearer: it is in use from now on, and a 401
        // would find the old one again.
        *held = rotated;
        self.changed.notify_one();
        if let Err(fault @ (Fault::Unauthorized(_) | Fault::Forbidden(_))) = tried {
            warn!(error = %fault, "the new credential is not accepted; the old one stays in use");
            return Err(fault);
        }
        self.link.set_bearer(held.current.clone());
        info!(generation = held.generation, "a new credential is in use");
        (self.rotated)(&issued.signing_keys);
        Ok(())
    }

    /// Whether a bearer is accepted. No answer says nothing, and nothing follows from it.
    fn is_accepted(&self, bearer: &super::Bearer) -> Result<bool, Fault> {
        match self.link.probe(bearer) {
            Ok(()) => Ok(true),
            Err(Fault::Unauthorized(_)) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Removes what a registration over another credential kept. Nothing depends on it: it is tried again at the next
    /// start.
    pub fn forget_copy(&self) {
        if let Err(error) = self.store.forget_copy() {
            warn!(%error, "the credential before the last registration could not be removed");
        }
    }

    fn held(&self) -> MutexGuard<'_, Credential> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account for Keeper {
    fn rotate(&self) -> Result<(), Fault> {
        self.rotate_held(&mut self.held())
    }

    /// P1.8, 401: the stored credential is read again, the other stored one is tried, and at last one rotation, with
    /// the proof that it is this node that asks.
    fn recover(&self) -> Result<(), Fault> {
        let mut held = self.held();
        match self.store.load() {
            // One that could not be stored is newer than what is stored.
            Ok(Some(stored))
                if stored.endpoint == held.endpoint
                    && stored.cluster_id == held.cluster_id
                    && stored.generation >= held.generation =>
            {
                *held = stored;
            }
            Ok(_) => {}
            Err(error) => warn!(%error, "the stored credential cannot be read again"),
        }
        if self.is_accepted(&held.current)? {
            self.link.set_bearer(held.current.clone());
            return Ok(());
        }
        if let Some(previous) = held.previous.clone()
            && self.is_accepted(&previous)?
        {
            info!("the credential in use is refused; the one before is still accepted");
            let refused = std::mem::replace(&mut held.current, previous);
            held.previous = Some(refused);
            self.link.set_bearer(held.current.clone());
            return Ok(());
        }
        if held.current.expires_at.is_some_and(|end| end.unix_seconds() < clock::unix_seconds().cast_signed()) {
            info!("the credential has expired; a new one is asked for with the proof that this is the node");
        }
        self.rotate_held(&mut held)
    }
}

/// All but the bearers, which are the caller's to choose.
fn duplicate(credential: &Credential) -> Credential {
    Credential {
        cluster_id: credential.cluster_id.clone(),
        endpoint: credential.endpoint.clone(),
        generation: credential.generation,
        current: credential.current.clone(),
        previous: credential.previous.clone(),
        observed_token: credential.observed_token.clone(),
        keys: credential.keys.clone(),
        machine: credential.machine.clone(),
        registered_at: credential.registered_at,
    }
}

fn not_stored(error: StoreError) -> Fault {
    warn!(%error, "a new credential could not be stored; the old one stays in use");
    Fault::Unstorable
}

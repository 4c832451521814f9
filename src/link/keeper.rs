//! The life of a credential while the agent runs (TRUST.md, Credentials).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::{debug, error, info, warn};

use super::certificate::{Asked, Certificates};
use super::credential::{Credential, CredentialStore, StoreError};
use super::longpoll::Issued;
use super::rotation::{self, Chore};
use super::{Account, Fault, LongPoll};
use crate::net::NetError;
use crate::net::renewal::{Candidate, Life};
use crate::protocol::Timestamp;
use crate::{clock, limits};

/// Is told of each new credential, with what came along.
pub type Rotated = Box<dyn Fn(&Issued) + Send + Sync>;

/// Rotates the credential, and finds one that works when the one in use is refused.
pub struct Keeper {
    link: Arc<LongPoll>,
    store: Arc<dyn CredentialStore>,
    held: Mutex<Credential>,
    rotated: Rotated,
    /// Whether the control plane is to issue client certificates.
    wants_certificate: bool,
    /// No other certificate is asked for before that, whatever the system clock says meanwhile.
    no_request_before: Mutex<Instant>,
    /// Tells the loop that rotates ahead of expiry.
    changed: Notify,
}

impl Keeper {
    /// Keeps this credential; `rotated` is told of each new one.
    #[must_use]
    pub fn new(link: Arc<LongPoll>, store: Arc<dyn CredentialStore>, credential: Credential, rotated: Rotated) -> Self {
        Self {
            link,
            store,
            held: Mutex::new(credential),
            rotated,
            wants_certificate: false,
            no_request_before: Mutex::new(Instant::now()),
            changed: Notify::new(),
        }
    }

    /// Has the control plane issue client certificates as well.
    #[must_use]
    pub fn wanting_certificate(self, wants_certificate: bool) -> Self {
        Self { wants_certificate, ..self }
    }

    /// What is to be done next with the credential, and when, in seconds since 1970.
    #[must_use]
    pub fn next(&self) -> Option<(u64, Chore)> {
        let held = self.held();
        rotation::next(&held, self.certificate_due(&held))
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

    /// When the credential in use was given; none also while it is being rotated. Does not wait.
    #[must_use]
    pub fn issued_at(&self) -> Option<Timestamp> {
        self.held.try_lock().ok()?.current.issued_at
    }

    /// From when to when the client's certificate in use is valid, whoever issued it.
    #[must_use]
    pub fn certificate_life(&self) -> Option<Life> {
        self.link.tls().client_life()
    }

    /// A client certificate is wanted, and there is none that could be shown.
    #[must_use]
    pub fn lacks_certificate(&self) -> bool {
        self.wants_certificate && !self.link.tls().has_client_certificate()
    }

    /// When another client certificate is to be asked for; none where none is wanted.
    fn certificate_due(&self, held: &Credential) -> Option<u64> {
        if !self.wants_certificate {
            return None;
        }
        let left = self.no_request_before().saturating_duration_since(Instant::now());
        let no_sooner = if left.is_zero() { 0 } else { clock::unix_seconds().saturating_add(left.as_secs()) };
        let planned = match (&held.certificates.current, self.certificate_life()) {
            (Some(current), Some(life)) => rotation::renew_at(&current.chain, life),
            _ => 0,
        };
        Some(planned.max(no_sooner))
    }

    /// Tries the client certificate that has come, and uses it when it works. One that does not is dropped, and the one
    /// before stays in use.
    ///
    /// # Errors
    /// A [`Fault`]; it is kept where that says nothing about it.
    pub fn try_certificate(&self) -> Result<(), Fault> {
        let mut held = self.held();
        let Some(next) = held.certificates.next.clone() else { return Ok(()) };
        let candidate = next.candidate(self.link.tls());
        let tried = candidate.and_then(|candidate| {
            let tried = self.link.try_with(&candidate, &held.current);
            tried.map(|()| candidate)
        });
        match tried {
            Ok(candidate) => {
                self.use_certificate(&mut held, candidate);
                self.store_certificates(&held);
                Ok(())
            }
            // Where the one in use gets an answer, the new one is at fault whatever the server made of it.
            Err(fault) if says_nothing(&fault) && self.link.probe(&held.current).is_err() => Err(fault),
            Err(fault) => {
                self.drop_certificate(&mut held, &fault);
                self.store_certificates(&held);
                Ok(())
            }
        }
    }

    /// The next certificate has worked.
    fn use_certificate(&self, held: &mut Credential, candidate: Candidate) {
        if !self.link.commit(candidate) {
            // Files have changed meanwhile: it is tried again beside them.
            return;
        }
        held.certificates = Certificates { current: held.certificates.next.take(), next: None };
        let due = self.certificate_due(held).unwrap_or(u64::MAX);
        let now = clock::unix_seconds();
        // One that is to be renewed at once would make a loop: its life is that short, or began long before it was issued.
        if due < now.saturating_add(limits::ROTATION_FLOOR.as_secs()) {
            let left = self.certificate_life().map_or(0, |(_, end)| end.saturating_sub(now));
            let pause = limits::ROTATION_UNPLANNED.min(Duration::from_secs(left));
            self.ask_no_sooner(pause.max(limits::ROTATION_BACKOFF_CAP));
        }
        info!("a new client certificate is in use");
    }

    fn drop_certificate(&self, held: &mut Credential, fault: &Fault) {
        held.certificates.next = None;
        self.refuse_certificate(fault);
    }

    fn refuse_certificate(&self, fault: &Fault) {
        let (cause, detail) = fault.causes();
        warn!(
            error = %fault,
            cause,
            detail,
            "the new client certificate cannot be used; the one before stays in use, and another one is asked for later"
        );
        self.ask_no_sooner(limits::ROTATION_BACKOFF_CAP);
    }

    fn ask_no_sooner(&self, pause: Duration) {
        *self.no_request_before() = Instant::now() + pause;
    }

    fn no_request_before(&self) -> MutexGuard<'_, Instant> {
        self.no_request_before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store_certificates(&self, held: &Credential) {
        if let Err(error) = self.store.save(held) {
            warn!(%error, "what became of the new client certificate could not be stored; it is tried again at the next start");
        }
    }

    /// Rotates if nobody else did since the credential was of this generation. Where somebody asks for it, another client
    /// certificate is asked for as well, due or not.
    ///
    /// # Errors
    /// A [`Fault`]; the credential in use stays.
    pub fn rotate_from(&self, generation: u64, is_asked_for: bool) -> Result<(), Fault> {
        let mut held = self.held();
        if held.generation == generation { self.rotate_held(&mut held, is_asked_for) } else { Ok(()) }
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
    fn rotate_held(&self, held: &mut Credential, is_asked_for: bool) -> Result<(), Fault> {
        // A server counts every bearer that it issues: none is asked for that could not be kept.
        self.store.rehearse().map_err(not_stored)?;
        let due = self.certificate_due(held);
        let is_due = due.is_some_and(|due| is_asked_for || due <= clock::unix_seconds());
        let asked = if is_due { Asked::new(held.cluster_id.as_str()) } else { None };
        let request = asked.as_ref().map(|asked| asked.request.as_str());
        let mut issued = match self.link.rotate(&held.current, held.keys.as_deref(), request) {
            Err(fault @ Fault::ServerTooOld(_)) => {
                // The bearer has to be rotated all the same, when that is due.
                self.ask_no_sooner(limits::ROTATION_BACKOFF_CAP);
                return Err(fault);
            }
            rotated => rotated?,
        };
        let taken = asked.map(|asked| asked.take(issued.client_certificate.take(), self.link.tls()));
        let (next, candidate) = match taken {
            Some(Ok((certificate, candidate))) => (Some(Arc::new(certificate)), Some(candidate)),
            Some(Err(fault)) => {
                self.refuse_certificate(&fault);
                (None, None)
            }
            None => (held.certificates.next.clone(), None),
        };
        let rotated = Credential {
            generation: held.generation.saturating_add(1),
            previous: Some(held.current.clone()),
            current: issued.bearer.clone(),
            certificates: Certificates { current: held.certificates.current.clone(), next },
            keys: held.keys_at(clock::unix_seconds()),
            ..duplicate(held)
        };
        if let Err(error) = self.store.save(&rotated) {
            // It is the only one that the server is sure to accept from now on.
            error!(%error, "the new credential could not be stored and is used from memory; make room in the state directory");
        }
        let with_certificate = candidate.map(|candidate| {
            let tried = self.link.try_with(&candidate, &rotated.current);
            tried.map(|()| candidate)
        });
        let tried = if matches!(with_certificate, Some(Ok(_))) { Ok(()) } else { self.link.probe(&rotated.current) };
        // A probe that got no answer says nothing about the bearer: it is in use from now on, and a 401
        // would find the old one again.
        *held = rotated;
        match with_certificate {
            Some(Ok(candidate)) => self.use_certificate(held, candidate),
            Some(Err(fault)) if !says_nothing(&fault) || tried.is_ok() => self.drop_certificate(held, &fault),
            // Otherwise it is tried again.
            _ => {}
        }
        if is_due {
            self.store_certificates(held);
        }
        self.changed.notify_one();
        if let Err(fault @ (Fault::Unauthorized(_) | Fault::Forbidden(_))) = tried {
            warn!(error = %fault, "the new credential is not accepted; the old one stays in use");
            return Err(fault);
        }
        self.link.set_bearer(held.current.clone());
        info!(generation = held.generation, "a new credential is in use");
        (self.rotated)(&issued);
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
        self.rotate_held(&mut self.held(), true)
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
        self.rotate_held(&mut held, false)
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
        certificates: credential.certificates.clone(),
        registered_at: credential.registered_at,
    }
}

/// Whether a fault says nothing about the certificate that was shown: one that is refused ends the connection.
fn says_nothing(fault: &Fault) -> bool {
    fault.is_passing() && !matches!(fault, Fault::Unreadable(_) | Fault::Network(NetError::Cut(_) | NetError::Tls(_)))
}

fn not_stored(error: StoreError) -> Fault {
    warn!(%error, "a new credential could not be stored; the old one stays in use");
    Fault::Unstorable
}

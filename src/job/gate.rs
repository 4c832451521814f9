//! What a job has to pass before it is taken: the owner's signature, and the policy.
//!
//! The checks themselves are [`crate::trust`]'s. Here is what they are made with: the pinned keyring, the trust state, the
//! keys that payloads are encrypted to, the clock; and the one place where a new trust state takes the place of the old one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::value::RawValue;
use tracing::{error, info, warn};

use super::ledger::KeyHash;
use crate::clock;
use crate::journal::Outbox;
use crate::limits;
use crate::link::authorities::Voice;
use crate::link::pinned::{PinError, pin_first};
use crate::link::stream::{Arrival, Limit};
use crate::link::{Pin, PinStore, StoreError, Wanted};
use crate::protocol::{Job, JobError, JobId, Timestamp};
use crate::trust::identity::NodeKeys;
use crate::trust::key_id::KeyId;
use crate::trust::keyring::{Keyring, KeyringError};
use crate::trust::policy::Policy;
use crate::trust::replay::{TrustState, UNDATED};
use crate::trust::signature::{Now, Outer};
use crate::trust::{Assurance, Context, Payload, Signatures, TrustError, Verified, verify};

/// What is set about keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySettings {
    /// What is asked of signatures; none = it follows from whether a key is pinned.
    pub signatures: Option<Signatures>,
    /// What the owner gave to pin.
    pub pin: Option<Wanted>,
}

/// What a gate is made of.
pub struct Parts<'a> {
    /// The id of this cluster.
    pub cluster: String,
    /// What jobs may do.
    pub policy: Policy,
    /// What is set.
    pub settings: KeySettings,
    /// The keys that payloads are encrypted to.
    pub keys: Option<Arc<NodeKeys>>,
    /// Where the keyring is kept.
    pub store: Arc<dyn PinStore>,
    /// Where the trust state is kept.
    pub outbox: &'a Outbox,
    /// The trust state that was found there.
    pub found: Option<&'a [u8]>,
    /// When a signed job came last, or else when this node was registered, as far as that is known.
    pub quiet_since: Option<u64>,
}

/// What jobs have to pass.
pub struct Gate {
    cluster: String,
    policy: Policy,
    settings: KeySettings,
    keys: Option<Arc<NodeKeys>>,
    store: Arc<dyn PinStore>,
    /// When the gate was opened, by the clock that nobody sets.
    began: Duration,
    /// What stands beside the credential says that a keyring was pinned here once.
    was_pinned: bool,
    /// Since when it is waited for a signed job, where none came since the start.
    quiet_since: u64,
    held: Mutex<Held>,
    refused: Mutex<(u64, &'static str)>,
}

#[derive(Clone)]
struct Held {
    keyring: Option<Keyring>,
    /// The keyring is older than the one that jobs were checked with before: until it has caught up, none passes.
    is_behind: bool,
    state: TrustState,
    /// Counts the changes.
    changes: u64,
    /// When a signed job came last.
    signed_at: Option<u64>,
}

/// How things stand, for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What is asked of signatures.
    pub signatures: Signatures,
    /// Thumbprints of the root keys that are pinned.
    pub fingerprints: Vec<KeyId>,
    /// Version and epoch of the pinned keyring.
    pub keyring: Option<(u32, u64)>,
    /// The keyring is older than one that was used before.
    pub is_behind: bool,
    /// When the trust state was lost, Unix seconds, or [`UNDATED`].
    pub lost_at: Option<i64>,
    /// When a signed job came last, since the start.
    pub signed_at: Option<u64>,
}

/// A job that can be answered, with what it asks for or why that is not done.
pub struct Task {
    /// Its name.
    pub id: JobId,
    /// The hash of its idempotency key.
    pub key: Option<KeyHash>,
    /// When the control plane made it.
    pub created_at: Option<Timestamp>,
    /// After this it is not to be done.
    pub expires_at: Option<Timestamp>,
    /// Hash of the header of its signature.
    pub header: Option<[u8; 8]>,
    /// What it asks for.
    pub content: Result<Verified<Payload>, Fault>,
    /// The trust state that has to be written down before the job is acked.
    pub next: Option<Commit>,
}

/// A trust state that is to take the place of the one it was made from.
#[derive(Clone, Copy, Debug)]
pub struct Commit {
    state: TrustState,
    changes: u64,
}

impl Commit {
    /// What is to be written down.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.state.to_bytes().to_vec()
    }
}

/// Why a job is not even opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It was over a limit of the stream.
    Limit(Limit),
    /// It cannot be read.
    Malformed(JobError),
    /// It is not trusted.
    Untrusted(TrustError),
}

impl Gate {
    /// Pins what is to be pinned, and finds out what was trusted before. Blocks.
    ///
    /// # Errors
    /// As [`PinError`] lists them.
    pub fn open(parts: Parts<'_>) -> Result<Self, PinError> {
        let Parts { cluster, policy, settings, keys, store, outbox, found, quiet_since } = parts;
        let before = store.load_pin().map_err(PinError::Store)?;
        // Where the ring itself is gone, what stands beside the credential says that there was one.
        let had_ledger = before.map_or_else(|| store.newest_version() > 0, |pin| pin.has_ledger);
        let keyring = match pin_first(store.as_ref(), settings.pin.as_ref(), &[])? {
            Some(pinned) => Some(follow(pinned, &settings)?),
            None => None,
        };
        let stored = store.load_pin().map_err(PinError::Store)?;
        let found = found.and_then(|bytes| TrustState::from_bytes(bytes.try_into().ok()?));
        let mut state = found.unwrap_or_default();
        if found.is_none() && had_ledger {
            error!(
                "what was known of earlier jobs is lost (LedgerLost): only jobs that were signed from now on are done, until the \
                 owner signs a keyring of a new epoch, or somebody here says pullet doctor --reset-ledger"
            );
            state.lost_at = Some(UNDATED);
        }
        let gate = Self {
            was_pinned: store.newest_version() > 0,
            cluster,
            policy,
            settings,
            keys,
            store,
            began: clock::uptime(),
            quiet_since: quiet_since.unwrap_or_else(clock::unix_seconds),
            held: Mutex::new(Held { keyring: None, is_behind: false, state, changes: 0, signed_at: None }),
            refused: Mutex::default(),
        };
        if let Some(keyring) = keyring {
            gate.pin(keyring, stored.as_ref(), outbox).map_err(PinError::Store)?;
        }
        gate.say();
        Ok(gate)
    }

    /// Puts a keyring in the place of the one before. First the ring is durable, then the state that goes with it: a cut in
    /// between is made good at the next start.
    fn pin(&self, keyring: Keyring, stored: Option<&Pin>, outbox: &Outbox) -> Result<(), StoreError> {
        let mut held = self.held();
        let before = stored.map(|pin| pin.keyring.as_str());
        let has_ledger = stored.is_some_and(|pin| pin.has_ledger);
        if before != Some(keyring.text()) {
            self.store.save_pin(&Pin { keyring: keyring.text().to_owned(), has_ledger })?;
            info!(version = keyring.version(), epoch = keyring.epoch(), "a keyring is pinned");
        }
        let is_old = keyring.version() < self.store.newest_version();
        match held.state.pin(&keyring).and_then(|state| if is_old { Err(KeyringError::Rollback) } else { Ok(state) }) {
            Ok(state) => {
                self.store.note_version(keyring.version())?;
                let is_written = (state == held.state && has_ledger) || outbox.commit_trust(&state.to_bytes());
                (held.state, held.is_behind) = (state, false);
                if is_written && !has_ledger {
                    self.store.save_pin(&Pin { keyring: keyring.text().to_owned(), has_ledger: true })?;
                }
            }
            Err(error) => {
                error!(
                    %error,
                    version = keyring.version(),
                    "the pinned keyring, keyring.json, is older than one that this node had: no job is done until the owner's \
                     newest chain is given with --keyring, or comes from the control plane"
                );
                held.is_behind = true;
            }
        }
        held.keyring = Some(keyring);
        held.changes = held.changes.wrapping_add(1);
        Ok(())
    }

    /// Keyrings that the control plane sent: they follow the pinned one, or are of no use. What it sends pins nothing, but
    /// where the owner gave the fingerprint and no ring came yet. Blocks.
    pub fn offer(&self, chain: &[String], outbox: &Outbox) {
        if chain.is_empty() {
            return;
        }
        let (present, is_behind) = {
            let held = self.held();
            (held.keyring.clone(), held.is_behind)
        };
        let next = match (&present, &self.settings.pin) {
            (Some(present), _) => present.update(chain),
            (None, Some(Wanted::Fingerprint(fingerprint))) => Keyring::pin_by_fingerprint(*fingerprint, chain),
            (None, _) => {
                warn!("the control plane sent keyrings after the registration; none is pinned here, and none is taken");
                return;
            }
        };
        let next = match next {
            Ok(next) if present.as_ref() == Some(&next) && !is_behind => return,
            Ok(next) => next,
            Err(error) => {
                warn!(%error, "the control plane sent keyrings that do not follow the pinned one; they are not taken");
                return;
            }
        };
        let stored = self.store.load_pin();
        if let Err(error) = stored.and_then(|stored| self.pin(next, stored.as_ref(), outbox)) {
            error!(%error, "a new keyring could not be stored; the one before stays in use");
        }
    }

    /// Calls with who may say whom this node believes. Blocks nobody else. A ring that is behind vouches for nothing: a root
    /// key that the owner has left out since would be heard.
    pub fn with_voice<T>(&self, call: impl FnOnce(Voice<'_>) -> T) -> T {
        let (keyring, had_owner) = {
            let held = self.held();
            (held.keyring.clone().filter(|_| !held.is_behind), self.settings.pin.is_some() || self.was_pinned(&held))
        };
        call(match &keyring {
            Some(ring) => Voice::Root(ring),
            None if had_owner => Voice::Nobody,
            None => Voice::Anybody,
        })
    }

    /// None for a job that nobody could answer. `known` gives the header hash of the job of an id that is known.
    pub fn open_job(&self, arrival: &Arrival, known: impl Fn(&JobId) -> Option<[u8; 8]>) -> Option<Task> {
        let faulty = |id, fault| Task {
            id,
            key: None,
            created_at: None,
            expires_at: None,
            header: None,
            content: Err(fault),
            next: None,
        };
        let text = match arrival {
            Arrival::Job(text) => text,
            Arrival::Skipped { id, limit } => return id.clone().map(|id| faulty(id, Fault::Limit(*limit))),
        };
        let job = match Job::parse(text) {
            Ok(job) => job,
            Err((id, error)) => return id.map(|id| faulty(id, Fault::Malformed(error))),
        };
        let outer = outer(&job);
        let known = known(&job.id);
        let mut held = self.held();
        let standing = clock::standing();
        self.date_loss(&mut held, standing.is_confirmed());
        // After a loss the time is all that tells an old job from a new one: that nobody doubts it is not enough.
        let confirmed = if held.state.lost_at.is_some() { standing.is_confirmed() } else { standing.may_judge() };
        let context = Context {
            signatures: self.signatures(&held),
            keyring: held.keyring.as_ref().filter(|_| !held.is_behind),
            payload_keys: self.keys.as_deref().map(NodeKeys::payload),
            cluster: &self.cluster,
            now: Now { seconds: clock::unix_seconds().cast_signed(), confirmed },
            known,
        };
        let (content, next) = match verify(&outer, &context, &held.state) {
            Ok((payload, state)) => {
                let next = (state != held.state).then_some(Commit { state, changes: held.changes });
                (Ok(payload), next)
            }
            Err(TrustError::NoKeyring) if held.is_behind => (Err(Fault::Untrusted(TrustError::KeyringBehind)), None),
            Err(error) => (Err(Fault::Untrusted(error)), None),
        };
        let header = match &content {
            Ok(payload) => match payload.assurance() {
                Assurance::Signed(signed) => Some(signed.header_hash),
                Assurance::Unsigned => None,
            },
            Err(_) => None,
        };
        if header.is_some() {
            held.signed_at = Some(clock::unix_seconds());
        }
        Some(Task {
            key: KeyHash::of(&job.idempotency_key),
            created_at: job.created_at,
            expires_at: job.expires_at,
            header,
            content,
            next,
            id: job.id,
        })
    }

    /// A loss is dated as soon as the time is known: no later than this start, and a clock that was behind made it look
    /// earlier. It goes to the disk with the next job that is accepted; a start before that dates it anew, and later.
    fn date_loss(&self, held: &mut Held, is_time_known: bool) {
        if is_time_known && held.state.lost_at == Some(UNDATED) {
            let since = clock::uptime().saturating_sub(self.began).as_secs();
            held.state.lost_at = Some(clock::unix_seconds().saturating_sub(since).cast_signed());
        }
    }

    /// What was written down holds from now on; false when another one took its place meanwhile.
    #[must_use]
    pub fn commit(&self, next: &Commit) -> bool {
        let mut held = self.held();
        if held.changes != next.changes {
            return false;
        }
        held.state = next.state;
        held.changes = held.changes.wrapping_add(1);
        true
    }

    /// Writes down once more what holds, over what did not come to hold. Blocks.
    pub fn write_again(&self, outbox: &Outbox) -> bool {
        outbox.commit_trust(&self.held().state.to_bytes())
    }

    /// A job was refused for this reason.
    pub fn note_refusal(&self, reason: &'static str) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused = (refused.0.saturating_add(1), reason);
    }

    /// How many jobs were refused since the start, and the last reason.
    #[must_use]
    pub fn refusals(&self) -> (u64, &'static str) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What jobs may do.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// How things stand.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let mut held = self.held();
        self.date_loss(&mut held, clock::standing().is_confirmed());
        let keyring = held.keyring.as_ref();
        Standing {
            signatures: self.signatures(&held),
            fingerprints: keyring.map(Keyring::fingerprints).unwrap_or_default(),
            keyring: keyring.map(|ring| (ring.version(), ring.epoch())),
            is_behind: held.is_behind,
            lost_at: held.state.lost_at,
            signed_at: held.signed_at,
        }
    }

    /// The same for the heartbeat: whether jobs are verified, in one word, and what a person should know.
    #[must_use]
    pub fn summary(&self) -> (bool, &'static str, String) {
        let standing = self.standing();
        let quiet = clock::unix_seconds().saturating_sub(standing.signed_at.unwrap_or(self.quiet_since));
        let keyring = standing.keyring.map(|(version, epoch)| format!("keyring {version} of epoch {epoch}"));
        let keyring = keyring.unwrap_or_default();
        match standing.signatures {
            Signatures::Off => (false, "TurnedOff", String::new()),
            Signatures::Warn => (false, "NoKeyPinned", String::new()),
            Signatures::Require if standing.lost_at.is_some() => (
                false,
                "LedgerLost",
                format!("{keyring}; only jobs signed since the loss are done; a keyring of a new epoch clears it"),
            ),
            Signatures::Require if standing.is_behind => (false, "KeyringBehind", keyring),
            Signatures::Require if standing.keyring.is_none() => (false, "NoKeyring", String::new()),
            Signatures::Require if quiet > limits::QUIET_OWNER.as_secs() => {
                (true, "NothingSigned", format!("{keyring}; no signed job for {} days", quiet / 86_400))
            }
            Signatures::Require => (true, "KeyPinned", String::new()),
        }
    }

    /// A party that asks for signatures is heard, whatever is set here; nobody weakens what is set.
    fn signatures(&self, held: &Held) -> Signatures {
        asked(&self.policy, &self.settings, self.was_pinned(held))
    }

    /// A keyring that was pinned and is gone is no reason to trust everybody.
    fn was_pinned(&self, held: &Held) -> bool {
        held.keyring.is_some() || held.state.keyring_version > 0 || self.was_pinned
    }

    fn say(&self) {
        let standing = self.standing();
        let fingerprints: Vec<String> = standing.fingerprints.iter().map(ToString::to_string).collect();
        match standing.signatures {
            Signatures::Require => {
                info!(fingerprint = fingerprints.join(" "), "only jobs that the owner signed are done");
            }
            Signatures::Warn => warn!(
                "jobs need no signature here: whoever controls the control plane decides what this node does, within its limits; pin \
                 the owner's key with --keyring"
            ),
            Signatures::Off => warn!("signatures are not looked at (signatures = \"off\")"),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a signature is held against.
#[must_use]
pub fn outer<'a>(job: &'a Job<'_>) -> Outer<'a> {
    Outer {
        id: job.id.as_str(),
        kind: &job.kind,
        expires_at: job.expires_at.map(Timestamp::unix_seconds),
        idempotency_key: &job.idempotency_key,
        payload: job.payload.map(RawValue::get),
        encrypted_payload: job.encrypted_payload.as_deref(),
        signature: job.signature.as_deref(),
    }
}

fn asked(policy: &Policy, settings: &KeySettings, was_pinned: bool) -> Signatures {
    let is_pinned = was_pinned || matches!(settings.pin, Some(Wanted::Fingerprint(_)));
    match settings.signatures {
        _ if policy.requires_signatures() => Signatures::Require,
        Some(asked) => asked,
        None if is_pinned => Signatures::Require,
        None => Signatures::Warn,
    }
}

/// What a gate would ask with this pin and these settings, with which keyring, and whether that one is older than one of
/// before, as `newest` tells; nothing is pinned by it.
///
/// # Errors
/// When a keyring cannot be used.
pub fn look(
    pin: Option<&Pin>,
    newest: u32,
    settings: &KeySettings,
    policy: &Policy,
) -> Result<(Signatures, Option<Keyring>, bool), PinError> {
    let pinned = match (pin, &settings.pin) {
        (Some(pin), _) => Some(follow(Keyring::restore(&pin.keyring).map_err(PinError::Pinned)?, settings)?),
        (None, Some(Wanted::Chain(chain))) => Some(Keyring::pin(chain).map_err(PinError::Given)?),
        (None, _) => None,
    };
    let is_behind = pinned.as_ref().is_some_and(|ring| ring.version() < newest);
    Ok((asked(policy, settings, pinned.is_some() || newest > 0), pinned, is_behind))
}

/// The pinned ring, or the newest one of the chain that was given.
fn follow(pinned: Keyring, settings: &KeySettings) -> Result<Keyring, PinError> {
    match &settings.pin {
        Some(Wanted::Chain(chain)) => match pinned.update(chain) {
            Ok(ring) => Ok(ring),
            // The file is as old as the installation.
            Err(KeyringError::Rollback) => Ok(pinned),
            Err(error) => Err(PinError::Given(error)),
        },
        Some(Wanted::Fingerprint(fingerprint)) if !pinned.fingerprints().contains(fingerprint) => {
            Err(PinError::Given(KeyringError::Fingerprint))
        }
        Some(Wanted::Fingerprint(_)) | None => Ok(pinned),
    }
}

#[cfg(test)]
mod tests;

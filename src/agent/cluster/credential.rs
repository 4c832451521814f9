//! Where the credential of a Cluster comes from: the Secret, a registration, a rotation that somebody asked for.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::status::{News, Stage};
use super::{Controller, Seen, blocking, describe, secret_store};
use crate::agent::{Agent, AgentError};
use crate::limits;
use crate::link::backoff::{Backoff, draw};
use crate::link::secret_file::observed_token;
use crate::link::{self, Bearer, Credential, CredentialStore as _, Fault, StoreError};
use crate::resources::{Cluster, TokenReference};
use crate::secret::Secret;
use crate::target::kubernetes::OwnError;
use crate::task;

/// What a request for a new credential came to.
pub(super) enum Rotation {
    Done,
    /// It was refused.
    Failed,
    Later,
    /// There is a token for a new registration.
    Register,
}

/// What a look for a credential came to.
enum Settled {
    Credential(Box<Credential>),
    /// This is said, and it is looked again after a pause.
    Wait(Stage, Option<Duration>),
}

impl Controller {
    /// The credential for what the Cluster says: the one that is stored, or that of a registration, however long that
    /// takes. None when the Cluster has changed meanwhile, or it is time to stop. `anew`: a registration in any case.
    pub(super) async fn credential(&mut self, agent: &Agent, cluster: &Cluster, anew: bool) -> Option<Credential> {
        let (mut backoff, mut looks) = (Backoff::default(), 0_u32);
        let mut waiting = agent.config.endpoint.as_ref().map(|endpoint| agent.waiting(endpoint));
        loop {
            let store = Arc::clone(&self.store);
            let loaded = task::on_thread(move || store.load()).await;
            let pause = match loaded.map_err(|error| AgentError::Runtime(io::Error::other(error))) {
                Ok(Ok(stored)) => match self.settle(agent, cluster, stored, anew).await {
                    Settled::Credential(credential) => {
                        self.known.holds(&credential, cluster.status.observed_token.as_deref());
                        return Some(*credential);
                    }
                    // The one that is there goes on.
                    Settled::Wait(stage, _) if anew => {
                        let text = format!("the registration that was asked for failed: {}", stage.text());
                        self.known.set(|facts| facts.rotation_fault = text);
                        // A token that was refused is used up: what is left is the credential itself, at once.
                        if !matches!(stage, Stage::RegistrationFailed(_)) {
                            self.not_before = Some(Instant::now() + self.rotation.next(draw()));
                        }
                        return None;
                    }
                    Settled::Wait(stage, pause) => {
                        if let Some(waiting) = &mut waiting {
                            waiting.tell(stage.text().to_owned());
                        }
                        self.known.enter(stage);
                        looks = looks.saturating_add(1);
                        match pause {
                            Some(pause) if looks > limits::TOKEN_LOOKS => pause.max(limits::STATUS_PAUSE_MAX),
                            Some(pause) => pause,
                            None => backoff.next(draw()),
                        }
                    }
                },
                Ok(Err(error)) => {
                    let is_damaged = !matches!(error, StoreError::Io(..)) || !is_passing(&error);
                    let text = describe(&AgentError::Store(error));
                    if is_damaged {
                        warn!(error = text, "the stored credential cannot be used");
                        self.known.enter(Stage::Unusable(text));
                    }
                    backoff.next(draw())
                }
                Err(error) => {
                    warn!(%error, "the stored credential was not read");
                    backoff.next(draw())
                }
            };
            if !self.pause(cluster, pause).await {
                return None;
            }
        }
    }

    /// What is stored, if it is for this machine and this control plane; else a registration.
    async fn settle(&mut self, agent: &Agent, cluster: &Cluster, stored: Option<Credential>, anew: bool) -> Settled {
        let (is_there, problem) = match stored {
            Some(credential) if link::is_another_machine(&credential) => {
                (true, "what is stored belongs to another machine: this node needs a registration of its own")
            }
            Some(credential) => {
                let is_for = agent.endpoint_of(&credential).is_ok()
                    && agent.config.cluster_id.as_ref().is_none_or(|id| *id == credential.cluster_id);
                if is_for && !anew {
                    return Settled::Credential(Box::new(credential));
                }
                (true, "what is stored is for another control plane or another cluster id")
            }
            None => (false, "there is no credential yet"),
        };
        let (token, mark) = match self.token(cluster).await {
            Ok(token) => {
                let mark = observed_token(&token);
                (token, mark)
            }
            Err(text) => {
                return Settled::Wait(Stage::TokenMissing(format!("{problem}, and {text}")), Some(limits::TOKEN_CHECK));
            }
        };
        if self.is_used_up(cluster, &mark) {
            let stage = match &self.known.facts().stage {
                failed @ Stage::RegistrationFailed(_) => failed.clone(),
                _ => Stage::RegistrationFailed(format!(
                    "{problem}, and the one-time token was tried before: put a new one into its Secret"
                )),
            };
            return Settled::Wait(stage, Some(limits::TOKEN_CHECK));
        }
        let Some(endpoint) = agent.config.endpoint.clone() else {
            return Settled::Wait(Stage::TokenMissing("there is no endpoint".to_owned()), None);
        };
        if !matches!(self.known.facts().stage, Stage::Unreachable(_)) {
            self.known.enter(Stage::Registering);
        }
        match agent.exchange(endpoint, Arc::new(token), is_there).await {
            Ok(Ok(credential)) => {
                info!(cluster = %credential.cluster_id, "registered");
                self.heard.note(cluster);
                self.rotation.reset();
                self.known.set(|facts| {
                    facts.observed_token = mark;
                    (facts.news, facts.just_registered) = (Some(News::Registered), true);
                    facts.stage = Stage::Serving;
                    facts.rotation_fault.clear();
                });
                Settled::Credential(Box::new(credential))
            }
            Ok(Err(fault)) if fault.is_passing() || matches!(fault, Fault::NotFound | Fault::ServerTooOld(_)) => {
                let (cause, detail) = fault.causes();
                warn!(error = %fault, cause, detail, "not registered yet; it is tried again");
                Settled::Wait(Stage::Unreachable(fault.to_string()), fault.retry_after())
            }
            Ok(Err(fault)) => {
                error!(error = %fault, "the one-time token was refused: put a new one into its Secret, and it is tried by itself");
                self.known.set(|facts| facts.observed_token = mark);
                let text =
                    format!("the control plane refused the one-time token ({fault}): put a new one into its Secret");
                Settled::Wait(Stage::RegistrationFailed(text), Some(limits::TOKEN_CHECK))
            }
            Err(error) => {
                error!(error = describe(&error), "not registered");
                Settled::Wait(Stage::Unusable(describe(&error)), None)
            }
        }
    }

    /// The one-time token; or why there is none.
    async fn token(&self, cluster: &Cluster) -> Result<Secret, String> {
        let spec = cluster.spec.as_ref().ok();
        let Some(TokenReference { name, key }) = spec.and_then(|spec| spec.registration_token_secret_ref.clone())
        else {
            return Err("spec.registrationTokenSecretRef names no Secret with a one-time token".to_owned());
        };
        // Whoever writes a Cluster says where the token goes.
        if name == secret_store::NAME {
            return Err(
                "spec.registrationTokenSecretRef names the Secret of the credential, which goes to nobody as a \
                        token: name another one"
                    .to_owned(),
            );
        }
        let own = self.own.clone();
        let place = format!("the Secret vworkspace-system/{name}");
        let read = blocking(move || own.secret(&name)?.text(&key)).await;
        let text = match read {
            Ok(Some(text)) if !text.trim().is_empty() => text,
            Ok(_) => return Err(format!("{place} has no token under the key that is named")),
            Err(OwnError::Absent) => return Err(format!("{place} is not there")),
            Err(error) => return Err(format!("{place} cannot be read: {error}")),
        };
        Bearer::check(text.trim()).map_err(|error| format!("{place}: {error}"))?;
        Ok(Secret::new("one-time token", text.trim().to_owned()))
    }

    fn is_used_up(&self, cluster: &Cluster, mark: &str) -> bool {
        let facts = self.known.facts();
        facts.observed_token == mark
            || facts.taken_token == mark
            || cluster.status.observed_token.as_deref() == Some(mark)
    }

    /// A registration with a one-time token that was not tried yet, where there is one; else a rotation with the
    /// credential in use.
    pub(super) async fn rotate(&mut self, cluster: &Cluster) -> Rotation {
        if self.not_before.is_some_and(|at| at > Instant::now()) {
            return Rotation::Later;
        }
        let is_reached = self.known.facts().line.as_ref().is_none_or(|line| line.health.now().reachable != Some(false));
        if is_reached
            && let Ok(token) = self.token(cluster).await
            && !self.is_used_up(cluster, &observed_token(&token))
        {
            info!("a new registration was asked for");
            return Rotation::Register;
        }
        let Some(account) = self.known.facts().line.as_ref().map(|line| Arc::clone(&line.account)) else {
            return Rotation::Later;
        };
        info!("a new credential was asked for");
        let rotated = task::on_thread(move || account.rotate()).await;
        match rotated.unwrap_or(Err(Fault::Unreadable("the rotation was interrupted"))) {
            Ok(()) => Rotation::Done,
            Err(fault) => {
                let is_passing = fault.is_passing();
                warn!(error = %fault, "the rotation that was asked for failed; the credential in use stays");
                let text = format!("the rotation that was asked for failed, and the credential in use stays: {fault}");
                self.known.set(|facts| facts.rotation_fault = text);
                self.not_before = Some(Instant::now() + limits::ROTATION_BACKOFF_FIRST);
                if is_passing { Rotation::Later } else { Rotation::Failed }
            }
        }
    }

    /// What was asked for is done.
    pub(super) async fn forget_request(&mut self, cluster: &Cluster) {
        self.heard.note(cluster);
        if !cluster.wants_rotation() {
            return;
        }
        let (own, name) = (self.own.clone(), cluster.metadata.name.clone());
        if let Err(error) = blocking(move || own.end_rotation(&name)).await {
            warn!(%error, "the annotation that asked for a rotation cannot be removed: remove it, or it is done again");
        }
        // What was seen is older than that.
        let begin = Instant::now();
        while begin.elapsed() < limits::STATUS_PAUSE_MAX && !self.signals.stop.is_set() {
            match &*self.now() {
                Seen::One(now) if now.metadata.annotations == cluster.metadata.annotations => {}
                _ => break,
            }
            self.until_change(Some(limits::STATUS_PAUSE_MAX)).await;
        }
    }
}

/// Whether the API server may answer otherwise soon.
fn is_passing(error: &StoreError) -> bool {
    let cause = std::error::Error::source(error).and_then(|error| error.downcast_ref::<io::Error>());
    let cause = cause.and_then(io::Error::get_ref).and_then(|error| error.downcast_ref::<OwnError>());
    matches!(cause, Some(OwnError::Unavailable(_) | OwnError::Conflict))
}

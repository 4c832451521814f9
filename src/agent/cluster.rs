//! An agent that goes by a `Cluster` object: where it registers, with which token, by which rules; and what became of that
//! (docs/cluster.md).
//!
//! ```text
//! API server ──watch──▶ Seen ──terms──▶ Config ──▶ credential (Secret, or a registration) ──▶ the line, as of a file
//!                        │ a change ends the line at a safe point, and it begins anew with the same journal
//!                        └──▶ reporter ◀── Known: what all of them find out
//! ```

mod known;
mod reporter;
mod secret_store;
mod status;
mod terms;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{error, info, warn};

use self::known::Facts;
pub(super) use self::known::{Known, Line};
use self::reporter::Reporter;
use self::secret_store::SecretStore;
use self::status::{News, Stage};
use super::{Agent, AgentError, Signals, holding, profile};
use crate::limits;
use crate::link::backoff::{Backoff, draw};
use crate::link::secret_file::observed_token;
use crate::link::{self, Bearer, Credential, CredentialStore as _, Fault, StoreError};
use crate::resources::{Cluster, ClusterSpec, TokenReference};
use crate::secret::Secret;
use crate::shutdown::Stop;
use crate::target::Target;
use crate::target::kubernetes::{Access, Kubernetes, Own, OwnError};

/// Where the `caBundle` of a Cluster lies for those who follow files.
const CA_BUNDLE: &str = "cluster-ca.pem";

/// Which Clusters there are.
#[derive(Debug)]
enum Seen {
    /// None.
    Nothing,
    /// Ours.
    One(Box<Cluster>),
    /// Nobody said which of them is ours.
    Several(Vec<Cluster>),
    /// The API server did not say yet.
    Unknown,
}

/// Why a line ended.
enum End {
    /// The Cluster is another one now.
    Changed,
    /// It ended by itself.
    Failed(AgentError),
    /// A new registration was asked for, and there is a token for it.
    Reregister,
    /// The agent stops.
    Stopped,
}

/// What goes on between the Cluster and the lines.
struct Controller {
    base: Agent,
    own: Own,
    store: Arc<SecretStore>,
    known: Arc<Known>,
    seen: watch::Receiver<Arc<Seen>>,
    signals: Signals,
    access: Access,
    /// Uid and generation of the last spec whose `rotateCredentials` was heard.
    heard: Option<(String, i64)>,
    /// A registration over a credential that works failed: the next one is not tried before this.
    not_before: Option<Instant>,
}

/// Runs until a signal, or until another agent takes over.
pub(super) async fn run(base: Agent, signals: Signals) -> Result<(), AgentError> {
    let access = super::find_access(&base.config)?;
    let own = Own::new(&access);
    // Whoever does not act says nothing of the Cluster either. No object is applied through this one.
    let acting: Arc<dyn Target> =
        Arc::new(Kubernetes::open(&access, "unregistered", Vec::new()).map_err(AgentError::Access)?);
    let Some(holding) = holding::begin(&acting, &base.state, &signals.stop).await else { return Ok(()) };
    let known = Arc::new(Known::default());
    let (seen, watching) = watch::channel(Arc::new(Seen::Unknown));
    let watcher = tokio::spawn(look(own.clone(), base.config.cluster_resource.clone(), seen));
    let reporter = Reporter::new(own.clone(), Arc::clone(&known), watching.clone(), base.config.journal_size);
    let reporter = tokio::spawn(reporter.run());
    let store = Arc::new(SecretStore::new(own.clone()));
    let mut controller =
        Controller { base, own, store, known, seen: watching, signals, access, heard: None, not_before: None };
    let ended = Box::pin(controller.work()).await;
    watcher.abort();
    reporter.abort();
    ended.and(holding::end(holding).await)
}

/// Follows the Clusters for as long as anybody wants to know.
async fn look(own: Own, resource: Option<String>, seen: watch::Sender<Arc<Seen>>) {
    let name = resource.filter(|name| name != "*");
    let watch = own.watch_clusters(name.as_deref());
    let mut backoff = Backoff::between(2 * limits::BACKOFF_FLOOR, limits::STATUS_PAUSE_MAX);
    let mut is_troubled = false;
    loop {
        let (lister, wanted) = (own.clone(), name.clone());
        let watched = match blocking(move || lister.clusters(wanted.as_deref())).await {
            Ok(found) => {
                if found.unreadable > 0 {
                    warn!(count = found.unreadable, "a Cluster is too large or damaged and is passed over");
                }
                is_troubled = false;
                let mut clusters = found.clusters;
                seen.send_replace(Arc::new(match clusters.len() {
                    0 => Seen::Nothing,
                    1 => clusters.pop().map_or(Seen::Nothing, |cluster| Seen::One(Box::new(cluster))),
                    _ => Seen::Several(clusters),
                }));
                watch.changed(&found.version).await
            }
            Err(error) => Err(error),
        };
        match watched {
            Ok(()) => backoff.reset(),
            Err(error) => {
                if !std::mem::replace(&mut is_troubled, true) {
                    warn!(%error, "the Cluster cannot be looked at; the agent goes on with what it knows, and tries again");
                }
                tokio::time::sleep(backoff.next(draw())).await;
            }
        }
        // Somebody who writes it all the time makes no loop of ours.
        tokio::time::sleep(limits::CLUSTER_PAUSE).await;
    }
}

/// Runs what blocks.
async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, OwnError> + Send + 'static,
) -> Result<T, OwnError> {
    let done = tokio::task::spawn_blocking(act).await;
    done.unwrap_or_else(|_| Err(OwnError::Unavailable("it was interrupted".to_owned())))
}

impl Controller {
    async fn work(&mut self) -> Result<(), AgentError> {
        while !self.signals.stop.is_set() {
            let Some(cluster) = self.ours() else {
                self.until_change(None).await;
                continue;
            };
            if cluster.metadata.deletion_timestamp.is_some() {
                self.clean_up(&cluster).await;
                continue;
            }
            let agent = match self.agent_for(&cluster) {
                Ok(agent) => agent,
                Err((reason, text)) => {
                    warn!(cluster = cluster.metadata.name, reason, "the Cluster is not served: {text}");
                    self.known.enter(Stage::Refused(reason, text));
                    self.until_change(None).await;
                    continue;
                }
            };
            let Some(credential) = self.credential(&agent, &cluster, false).await else { continue };
            let end = self.line(agent, &cluster, credential).await;
            self.known.set(|facts| (facts.line, facts.just_registered) = (None, false));
            match end {
                End::Stopped => return Ok(()),
                End::Changed => info!("the Cluster has changed: the line begins anew"),
                End::Failed(error @ AgentError::Replaced(_)) => return Err(error),
                End::Failed(error) => {
                    error!(%error, "the line could not be held; it is tried again");
                    self.known.enter(Stage::Unusable(describe(&error)));
                    self.until_change(Some(limits::STATUS_PAUSE_MAX)).await;
                }
                End::Reregister => {
                    if let Some(cluster) = self.ours()
                        && let Ok(agent) = self.agent_for(&cluster)
                        && self.credential(&agent, &cluster, true).await.is_some()
                    {
                        self.forget_request(&cluster).await;
                    }
                }
            }
        }
        Ok(())
    }

    /// The Cluster as it is now, if there is one of ours.
    fn ours(&self) -> Option<Box<Cluster>> {
        match &**self.seen.borrow() {
            Seen::One(cluster) => Some(cluster.clone()),
            Seen::Nothing | Seen::Several(_) | Seen::Unknown => None,
        }
    }

    /// Until something about the Clusters changes, this time is over, or the agent stops.
    async fn until_change(&mut self, time: Option<Duration>) {
        let pause = async {
            match time {
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.seen.changed() => {}
            () = pause => {}
            () = self.signals.stop.wait() => {}
        }
    }

    /// The agent that this Cluster asks for.
    fn agent_for(&self, cluster: &Cluster) -> Result<Agent, terms::Unacceptable> {
        let mut config = terms::terms(&self.base.config, cluster)?;
        let bundle = cluster.spec.as_ref().ok().and_then(|spec| spec.ca_bundle.as_deref());
        config.ca_bundle_file = match bundle {
            Some(pem) => Some(self.keep_bundle(pem).map_err(|error| ("CaBundleNotKept", error.to_string()))?),
            None => None,
        };
        let profile = profile(&config).map_err(|error| ("InvalidSpec", describe(&AgentError::Tls(error))))?;
        self.store.set_owner(&cluster.metadata.name, &cluster.metadata.uid);
        Ok(Agent {
            config,
            state: Arc::clone(&self.base.state),
            store: Arc::clone(&self.store) as _,
            credential: None,
            token: None,
            profile,
            wanted: self.base.wanted.clone(),
            known: Some(Arc::clone(&self.known)),
        })
    }

    /// Written when it is another one: it lies on flash.
    fn keep_bundle(&self, pem: &str) -> io::Result<PathBuf> {
        let path = self.base.config.state_dir.join(CA_BUNDLE);
        if !std::fs::read(&path).is_ok_and(|held| held == pem.as_bytes()) {
            let new = path.with_extension("new");
            std::fs::write(&new, pem)?;
            std::fs::rename(&new, &path)?;
        }
        Ok(path)
    }

    /// The credential for what the Cluster says: the one that is stored, or that of a registration, however long that
    /// takes. None when the Cluster has changed meanwhile, or it is time to stop. `anew`: a registration in any case.
    async fn credential(&mut self, agent: &Agent, cluster: &Cluster, anew: bool) -> Option<Credential> {
        let mut backoff = Backoff::default();
        loop {
            let store = Arc::clone(&self.store);
            let loaded = tokio::task::spawn_blocking(move || store.load()).await;
            let pause = match loaded.map_err(|error| AgentError::Runtime(io::Error::other(error))) {
                Ok(Ok(stored)) => match self.settle(agent, cluster, stored, anew).await {
                    Settled::Credential(credential) => {
                        self.known.holds(&credential);
                        return Some(*credential);
                    }
                    // The one that is there goes on.
                    Settled::Wait(stage, _) if anew => {
                        let text = format!("the registration that was asked for failed: {}", stage.text());
                        self.known.set(|facts| facts.rotation_fault = text);
                        // A token that was refused is used up: what is left is the credential itself, at once.
                        if !matches!(stage, Stage::RegistrationFailed(_)) {
                            self.not_before = Some(Instant::now() + limits::ROTATION_BACKOFF_FIRST);
                        }
                        return None;
                    }
                    Settled::Wait(stage, pause) => {
                        self.known.enter(stage);
                        pause.unwrap_or_else(|| backoff.next(draw()))
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
            let version = cluster.metadata.resource_version.clone();
            self.until_change(Some(pause)).await;
            let is_same = self.ours().is_some_and(|now| {
                // Our own writes change its version, and nothing that a registration rests on.
                now.metadata.resource_version == version
                    || now.metadata.uid == cluster.metadata.uid
                        && now.metadata.deletion_timestamp.is_none()
                        && now.spec.as_ref().ok() == cluster.spec.as_ref().ok()
            });
            if self.signals.stop.is_set() || !is_same {
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
                self.heard = Some((cluster.metadata.uid.clone(), cluster.metadata.generation));
                self.known.set(|facts| {
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
        self.known.facts().observed_token == mark || cluster.status.observed_token.as_deref() == Some(mark)
    }

    /// Holds the line until it is to be another one.
    async fn line(&mut self, agent: Agent, cluster: &Cluster, credential: Credential) -> End {
        let Ok(spec) = cluster.spec.clone() else { return End::Changed };
        let stop = Stop::default();
        let begin = async {
            let endpoint = agent.endpoint_of(&credential)?;
            let kinds = agent.config.policy.kinds().to_vec();
            let target = Kubernetes::open(&self.access, credential.cluster_id.as_str(), kinds);
            Ok((endpoint, target.map_err(AgentError::Access)?))
        };
        let (endpoint, target) = match begin.await {
            Ok(begun) => begun,
            Err(error) => return End::Failed(error),
        };
        let signals =
            Signals { stop: stop.clone(), wake: self.signals.wake.clone(), rotate: self.signals.rotate.clone() };
        let mut session = Box::pin(agent.session(credential, endpoint, Arc::new(target), signals));
        let end = tokio::select! {
            ended = &mut session => {
                return match ended {
                    Ok(()) => End::Stopped,
                    Err(error) => End::Failed(error),
                };
            }
            end = self.attend(&spec, &cluster.metadata.uid) => end,
        };
        // The job at hand is finished, and what waits is posted.
        stop.set();
        match session.await {
            Ok(()) => end,
            Err(error) => End::Failed(error),
        }
    }

    /// Watches the Cluster while the line is up.
    async fn attend(&mut self, spec: &ClusterSpec, uid: &str) -> End {
        let mut backoff = Backoff::between(limits::ROTATION_BACKOFF_FIRST, limits::ROTATION_BACKOFF_CAP);
        loop {
            if self.signals.stop.is_set() {
                return End::Stopped;
            }
            let mut pause = None;
            match self.ours() {
                Some(cluster) => {
                    let is_ours = cluster.metadata.uid == uid && cluster.metadata.deletion_timestamp.is_none();
                    if !is_ours || !cluster.spec.as_ref().is_ok_and(|now| terms::is_same_line(spec, now)) {
                        return End::Changed;
                    }
                    if self.wants_rotation(&cluster) {
                        match self.rotate(&cluster).await {
                            Rotation::Done => {
                                self.forget_request(&cluster).await;
                                continue;
                            }
                            Rotation::Register => return End::Reregister,
                            Rotation::Later => pause = Some(backoff.next(draw())),
                            Rotation::Failed => {}
                        }
                    } else if !self.known.facts().rotation_fault.is_empty() {
                        self.known.set(|facts| facts.rotation_fault.clear());
                    }
                }
                None if matches!(&**self.seen.borrow(), Seen::Unknown) => {}
                None => return End::Changed,
            }
            self.until_change(pause).await;
        }
    }

    /// Whether the annotation asks for a new credential, or a spec that was not heard before.
    fn wants_rotation(&mut self, cluster: &Cluster) -> bool {
        let metadata = &cluster.metadata;
        let now = Some((metadata.uid.clone(), metadata.generation));
        let was_seen = self.heard.is_none() && cluster.status.observed_generation == Some(metadata.generation);
        if was_seen || !cluster.spec.as_ref().is_ok_and(|spec| spec.rotate_credentials == Some(true)) {
            self.heard.clone_from(&now);
        }
        cluster.wants_rotation() || self.heard != now
    }

    /// A registration with a one-time token that was not tried yet, where there is one; else a rotation with the
    /// credential in use.
    async fn rotate(&mut self, cluster: &Cluster) -> Rotation {
        if self.not_before.is_some_and(|at| at > Instant::now()) {
            return Rotation::Later;
        }
        if let Ok(token) = self.token(cluster).await
            && !self.is_used_up(cluster, &observed_token(&token))
        {
            info!("a new registration was asked for");
            return Rotation::Register;
        }
        let Some(account) = self.known.facts().line.as_ref().map(|line| Arc::clone(&line.account)) else {
            return Rotation::Later;
        };
        info!("a new credential was asked for");
        let rotated = tokio::task::spawn_blocking(move || account.rotate()).await;
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
    async fn forget_request(&mut self, cluster: &Cluster) {
        self.heard = Some((cluster.metadata.uid.clone(), cluster.metadata.generation));
        if !cluster.wants_rotation() {
            return;
        }
        let (own, name) = (self.own.clone(), cluster.metadata.name.clone());
        if let Err(error) = blocking(move || own.end_rotation(&name)).await {
            warn!(%error, "the annotation that asked for a rotation cannot be removed: remove it, or it is done again");
        }
        // What was seen is older than that.
        let is_old = |now: &Cluster| now.wants_rotation() && now.metadata.annotations == cluster.metadata.annotations;
        while self.ours().is_some_and(|now| is_old(&now)) && !self.signals.stop.is_set() {
            let begin = Instant::now();
            self.until_change(Some(limits::STATUS_PAUSE_MAX)).await;
            if begin.elapsed() >= limits::STATUS_PAUSE_MAX {
                break;
            }
        }
    }

    /// The Cluster goes: our entries of the Secret go with it, and nothing else does.
    async fn clean_up(&mut self, cluster: &Cluster) {
        self.known.enter(Stage::Terminating);
        let store = Arc::clone(&self.store);
        let erased = tokio::task::spawn_blocking(move || store.erase()).await;
        let done = match erased {
            Ok(Ok(())) => {
                let (own, cluster) = (self.own.clone(), cluster.clone());
                blocking(move || own.set_finalizer(&cluster, false)).await
            }
            Ok(Err(error)) => Err(OwnError::Unavailable(describe(&AgentError::Store(error)))),
            Err(_) => Err(OwnError::Unavailable("it was interrupted".to_owned())),
        };
        match done {
            Ok(()) | Err(OwnError::Absent) => {
                info!("the Cluster was deleted: its credential is removed, and what was applied stays");
                self.known.set(|facts| *facts = Facts::default());
                self.until_change(None).await;
            }
            Err(OwnError::Conflict) => self.until_change(Some(limits::STATUS_PAUSE_MAX)).await,
            Err(error) => {
                warn!(%error, "the Cluster is being deleted, and its credential cannot be removed; it is tried again");
                self.until_change(Some(limits::STATUS_PAUSE_MAX)).await;
            }
        }
    }
}

/// What a look for a credential came to.
enum Settled {
    Credential(Box<Credential>),
    /// This is said, and it is looked again after a pause.
    Wait(Stage, Option<Duration>),
}

/// What a request for a new credential came to.
enum Rotation {
    Done,
    /// It was refused.
    Failed,
    Later,
    /// There is a token for a new registration.
    Register,
}

/// Whether the API server may answer otherwise soon.
fn is_passing(error: &StoreError) -> bool {
    let cause = std::error::Error::source(error).and_then(|error| error.downcast_ref::<io::Error>());
    let cause = cause.and_then(io::Error::get_ref).and_then(|error| error.downcast_ref::<OwnError>());
    matches!(cause, Some(OwnError::Unavailable(_) | OwnError::Conflict))
}

/// An error with what lies beneath it, in one line.
fn describe(error: &AgentError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

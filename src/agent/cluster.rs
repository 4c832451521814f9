//! An agent that goes by a `Cluster` object: where it registers, with which token, by which rules; and what became of that
//! (docs/cluster.md).
//!
//! ```text
//! API server ──watch──▶ Seen ──step──▶ Config ──▶ credential (Secret, or a registration) ──▶ the line, as of a file
//!                        │ a change ends the line at a safe point, and it begins anew with the same journal
//!                        └──▶ reporter ◀── Known: what all of them find out
//! ```

mod certificate;
mod credential;
mod known;
mod outlook;
mod reporter;
mod secret_store;
mod status;
mod step;
mod terms;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{error, info, warn};

pub use self::certificate::InMemory;
use self::credential::Rotation;
use self::known::Facts;
pub(super) use self::known::{Known, Line};
pub use self::outlook::{Unseen, outlook};
use self::reporter::Reporter;
use self::secret_store::SecretStore;
use self::status::Stage;
use self::step::{Attention, Heard, Step};
use self::terms::Unacceptable;
use super::{Agent, AgentError, Signals, holding, profile};
use crate::config::Config;
use crate::limits;
use crate::link::backoff::{Backoff, draw};
use crate::link::{Credential, CredentialStore as _, StoreError};
use crate::resources::{Cluster, ClusterSpec};
use crate::shutdown::Stop;
use crate::target::Target;
use crate::target::kubernetes::{Access, Kubernetes, Own, OwnError};
use crate::task;

/// Where the `caBundle` of a Cluster lies for those who follow files.
pub const CA_BUNDLE: &str = "cluster-ca.pem";

/// The credential in the Secret, for whoever only looks. Blocks.
///
/// # Errors
/// When it is there and cannot be read.
pub fn credential_in_cluster(own: Own) -> Result<Option<Credential>, StoreError> {
    SecretStore::new(own, None).load()
}

/// The owner's client certificate in that Secret, for as long as it is held; none where there is none. Blocks.
///
/// # Errors
/// When the Secret cannot be read.
pub fn certificate_in_cluster(own: Own) -> Result<Option<InMemory>, StoreError> {
    let provided = SecretStore::new(own, None).provided()?;
    let held = provided.map(|provided| InMemory::new(&provided)).transpose();
    held.map_err(|error| StoreError::Io(secret_store::place(), error))
}

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
    heard: Heard,
    /// The owner's client certificate, where the Cluster wants one and there is one.
    provided: Option<Arc<InMemory>>,
    /// A registration over a credential that works failed: the next one is not tried before this.
    not_before: Option<Instant>,
    /// Between two rotations that were asked for, or registrations, that failed; it outlasts the line, which such a
    /// registration ends.
    rotation: Backoff,
}

/// Runs until a signal, or until another agent takes over.
pub(super) async fn run(base: Agent, signals: Signals) -> Result<(), AgentError> {
    let access = super::target::find_access(&base.config)?;
    let own = Own::new(&access);
    // Whoever does not act says nothing of the Cluster either. No object is applied through this one.
    let acting: Arc<dyn Target> =
        Arc::new(Kubernetes::open(&access, "unregistered", Vec::new()).map_err(AgentError::Access)?);
    let Some(holding) = holding::begin(&acting, &base.state, &signals.stop, &base.supervisor).await else {
        return Ok(());
    };
    base.supervisor.ready("waiting for a Cluster");
    let known = Arc::new(Known::default());
    let (seen, watching) = watch::channel(Arc::new(Seen::Unknown));
    let watcher = task::spawn(look(own.clone(), base.config.cluster_resource.clone(), seen));
    let reporter = Reporter::new(own.clone(), Arc::clone(&known), watching.clone(), base.config.journal_size);
    let reporter = task::spawn(reporter.run());
    let store = Arc::new(SecretStore::new(own.clone(), Some(Arc::clone(&base.state))));
    let mut controller = Controller {
        base,
        own,
        store,
        known,
        seen: watching,
        signals,
        access,
        heard: Heard::default(),
        provided: None,
        not_before: None,
        rotation: Backoff::between(limits::ROTATION_BACKOFF_FIRST, limits::ROTATION_BACKOFF_CAP),
    };
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
                if clusters.len() > 1 && !matches!(&**seen.borrow(), Seen::Several(_)) {
                    warn!("there are several Clusters: none is served until cluster_resource names one of them");
                }
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
    let done = task::on_thread(act).await;
    done.unwrap_or_else(|_| Err(OwnError::Unavailable("it was interrupted".to_owned())))
}

impl Controller {
    async fn work(&mut self) -> Result<(), AgentError> {
        while !self.signals.stop.is_set() {
            let seen = self.now();
            let (cluster, config) = match step::step(&self.base.config, &seen) {
                Step::CleanUp(cluster) => {
                    self.clean_up(cluster).await;
                    continue;
                }
                Step::Refuse(cluster, unacceptable) => {
                    self.refuse(cluster, unacceptable).await;
                    continue;
                }
                Step::Serve(cluster, config) => {
                    self.known.begins(cluster.metadata.generation);
                    (cluster, *config)
                }
                Step::Wait => {
                    self.until_change(None).await;
                    continue;
                }
            };
            let wants_certificate = config.mtls;
            let config = match self.with_secret(config).await {
                Ok(config) => config,
                Err(error) => {
                    warn!(error = describe(&error), "the Secret cannot be used; it is tried again");
                    self.known.enter(Stage::Unusable(describe(&error)));
                    self.pause(cluster, limits::STATUS_PAUSE_MAX).await;
                    continue;
                }
            };
            let agent = match self.agent_for(cluster, config) {
                Ok(agent) => agent,
                Err(unacceptable) => {
                    self.refuse(cluster, unacceptable).await;
                    continue;
                }
            };
            let Some(credential) = self.credential(&agent, cluster, false).await else { continue };
            let end = self.line(agent, cluster, credential, wants_certificate).await;
            self.known.set(|facts| (facts.line, facts.just_registered) = (None, false));
            match end {
                End::Stopped => return Ok(()),
                End::Changed => info!("the Cluster has changed: the line begins anew"),
                End::Failed(error @ AgentError::Replaced(_)) => return Err(error),
                End::Failed(error) => {
                    error!(%error, "the line could not be held; it is tried again");
                    self.known.enter(Stage::Unusable(describe(&error)));
                    self.pause(cluster, limits::STATUS_PAUSE_MAX).await;
                }
                End::Reregister => self.register_anew().await,
            }
        }
        Ok(())
    }

    /// The Clusters as they are now.
    fn now(&self) -> Arc<Seen> {
        Arc::clone(&self.seen.borrow())
    }

    /// What cannot be done is said, and looked at again when it changes, or something else may have.
    async fn refuse(&mut self, cluster: &Cluster, (reason, text): Unacceptable) {
        self.known.hears(cluster.metadata.generation);
        if self.known.enter(Stage::Refused(reason, text.clone())) {
            warn!(cluster = cluster.metadata.name, reason, "the Cluster is not served: {text}");
            self.base.supervisor.status(|| format!("the Cluster is not served: {text}").into());
        }
        let wake = self.signals.wake.clone();
        tokio::select! {
            () = self.until_change(Some(limits::STATUS_PAUSE_MAX)) => {}
            () = wake.wait() => {}
        }
    }

    /// A registration over the credential that is there, which stays if it fails.
    async fn register_anew(&mut self) {
        let seen = self.now();
        if let Step::Serve(cluster, config) = step::step(&self.base.config, &seen)
            && let Ok(config) = self.with_secret(*config).await
            && let Ok(agent) = self.agent_for(cluster, config)
            && self.credential(&agent, cluster, true).await.is_some()
        {
            self.forget_request(cluster).await;
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

    /// Until this time is over or a signal ends it: whether what a registration rests on is still so.
    async fn pause(&mut self, cluster: &Cluster, time: Duration) -> bool {
        let (begin, wake) = (Instant::now(), self.signals.wake.clone());
        loop {
            let left = time.saturating_sub(begin.elapsed());
            let is_woken = tokio::select! {
                () = self.until_change(Some(left)) => false,
                () = wake.wait() => true,
            };
            if self.signals.stop.is_set() || !step::is_still(&self.now(), cluster) {
                return false;
            }
            if is_woken {
                tokio::time::sleep(limits::BACKOFF_FLOOR).await;
            }
            if is_woken || begin.elapsed() >= time {
                return true;
            }
        }
    }

    /// These terms, with what the Secret has beside the credential: authorities, and the owner's client certificate in the place
    /// of one that the control plane would issue.
    async fn with_secret(&mut self, mut config: Config) -> Result<Config, AgentError> {
        let (store, wants_certificate) = (Arc::clone(&self.store), config.mtls);
        let looked = task::on_thread(move || {
            store.restore_authorities()?;
            if wants_certificate { store.provided() } else { Ok(None) }
        });
        let looked = looked.await.map_err(|error| AgentError::Runtime(io::Error::other(error)))?;
        self.provided = match looked.map_err(AgentError::Store)? {
            Some(provided) => Some(Arc::new(InMemory::new(&provided).map_err(AgentError::Runtime)?)),
            None => None,
        };
        if let Some(provided) = &self.provided {
            (config.client_certificate, config.mtls) = (Some(provided.paths()), false);
        }
        Ok(config)
    }

    /// The agent that this Cluster asks for, by these terms.
    fn agent_for(&self, cluster: &Cluster, mut config: Config) -> Result<Agent, Unacceptable> {
        let bundle = cluster.spec.as_ref().ok().and_then(|spec| spec.ca_bundle.as_deref());
        config.ca_bundle_file = match bundle {
            Some(pem) => Some(self.keep_bundle(pem).map_err(|error| ("CaBundleNotKept", error.to_string()))?),
            None => None,
        };
        let profile = profile(&config).map_err(|error| match &self.provided {
            Some(held) => ("ClientCertificateUnusable", held.tell(&describe(&AgentError::Tls(error)))),
            None => ("InvalidSpec", describe(&AgentError::Tls(error))),
        })?;
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
            monitor: Arc::clone(&self.base.monitor),
            supervisor: self.base.supervisor.clone(),
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

    /// Holds the line until it is to be another one.
    async fn line(&mut self, agent: Agent, cluster: &Cluster, credential: Credential, wants_certificate: bool) -> End {
        let Ok(spec) = cluster.spec.clone() else { return End::Changed };
        if agent.config.mtls {
            credential.certificates.show(&agent.profile.tls);
        }
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
        let certificate =
            certificate::follow(Arc::clone(&self.store), self.provided.clone(), self.seen.clone(), wants_certificate);
        let mut session = Box::pin(agent.session(credential, endpoint, Arc::new(target), signals));
        let end = tokio::select! {
            ended = &mut session => {
                return match ended {
                    Ok(()) => End::Stopped,
                    Err(error) => End::Failed(error),
                };
            }
            end = self.attend(&spec, &cluster.metadata.uid) => end,
            () = certificate => End::Changed,
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
        loop {
            if self.signals.stop.is_set() {
                return End::Stopped;
            }
            let mut pause = None;
            let seen = self.now();
            let attention = step::attend(&seen, uid, spec, &mut self.heard);
            if let (Seen::One(cluster), Attention::Keep | Attention::Rotate(_)) = (&*seen, &attention) {
                self.known.hears(cluster.metadata.generation);
            }
            match attention {
                Attention::End => return End::Changed,
                Attention::Keep => {
                    if !self.known.facts().rotation_fault.is_empty() {
                        self.known.set(|facts| facts.rotation_fault.clear());
                    }
                }
                Attention::Rotate(cluster) => match self.rotate(cluster).await {
                    Rotation::Done => {
                        self.rotation.reset();
                        self.forget_request(cluster).await;
                        continue;
                    }
                    Rotation::Register => return End::Reregister,
                    Rotation::Later => pause = Some(self.rotation.next(draw())),
                    Rotation::Failed => pause = Some(limits::ROTATION_BACKOFF_CAP),
                },
            }
            self.until_change(pause).await;
        }
    }

    /// The Cluster goes: our entries of the Secret go with it, and nothing else does.
    async fn clean_up(&mut self, cluster: &Cluster) {
        self.known.hears(cluster.metadata.generation);
        self.known.enter(Stage::Terminating);
        let store = Arc::clone(&self.store);
        let erased = task::on_thread(move || store.erase()).await;
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
                // Others may hold it back: then it says so for as long.
                let generation = cluster.metadata.generation;
                self.known.set(|facts| *facts = Facts { stage: Stage::Terminating, generation, ..Facts::default() });
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

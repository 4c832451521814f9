//! Says how it is: the status of the Cluster, the finalizer, events of Kubernetes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{debug, warn};

use super::known::Known;
use super::status::{self, Stage, View};
use super::{Seen, blocking};
use crate::clock;
use crate::limits;
use crate::link::health::{Access, Connection, Standing};
use crate::protocol::Timestamp;
use crate::resources::{CLUSTER_FINALIZER, Cluster, ClusterStatus};
use crate::target::kubernetes::{Notice, Own, OwnError};

/// The reasons that events are counted by.
const REASONS: usize = 16;

/// Says how it is, for as long as the agent runs.
pub(super) struct Reporter {
    own: Own,
    known: Arc<Known>,
    seen: watch::Receiver<Arc<Seen>>,
    capacity: u64,
    /// What was written last, by the uid of the object: what the watch shows may be older.
    written: Vec<(String, ClusterStatus)>,
    told: Vec<Told>,
    is_troubled: bool,
    /// Jobs that were refused and told.
    refused: u64,
}

/// When an event was posted last, and how many of its kind were not.
struct Told {
    reason: String,
    at: Instant,
    kept_back: u32,
}

impl Reporter {
    pub(super) fn new(own: Own, known: Arc<Known>, seen: watch::Receiver<Arc<Seen>>, capacity: u64) -> Self {
        Self { own, known, seen, capacity, written: Vec::new(), told: Vec::new(), is_troubled: false, refused: 0 }
    }

    /// Never ends.
    pub(super) async fn run(mut self) {
        let mut changed = self.known.subscribe();
        let mut pause = limits::STATUS_PAUSE;
        loop {
            changed.borrow_and_update();
            // From before it is looked at: what changes meanwhile is another reason to look.
            let mut health = self.known.facts().line.as_ref().map(|line| line.health.subscribe());
            let seen = Arc::clone(&self.seen.borrow_and_update());
            let said = match &*seen {
                Seen::One(cluster) => self.say(cluster).await,
                Seen::Several(clusters) => self.say_several(clusters).await,
                Seen::Nothing | Seen::Unknown => Ok(()),
            };
            let look = match said {
                Ok(()) => {
                    self.is_troubled = false;
                    pause = limits::STATUS_PAUSE;
                    self.until_change()
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.is_troubled, true) {
                        warn!(%error, "the status of the Cluster cannot be written; the agent goes on, and it is tried again");
                    }
                    pause = (pause * 2).min(limits::STATUS_PAUSE_MAX);
                    pause
                }
            };
            // Changes that come together are one write.
            tokio::time::sleep(if self.is_troubled { look } else { limits::STATUS_PAUSE }).await;
            let line = async {
                match &mut health {
                    Some(health) => drop(health.changed().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = changed.changed() => {}
                _ = self.seen.changed() => {}
                () = line => {}
                () = tokio::time::sleep(if self.is_troubled { Duration::ZERO } else { look }) => {}
            }
        }
    }

    /// How long nothing happens by time alone.
    fn until_change(&self) -> Duration {
        let facts = self.known.facts();
        let Some(line) = &facts.line else { return limits::STATUS_LOOK };
        let until_lost = match line.health.now().reachable {
            Some(true) => limits::STATUS_LOOK,
            _ => limits::LOST_AFTER.saturating_sub(line.health.held()),
        };
        let next = [until_lost, line.health.until_disconnected()].into_iter().filter(|left| !left.is_zero()).min();
        next.unwrap_or(limits::STATUS_LOOK).clamp(limits::STATUS_PAUSE, limits::STATUS_LOOK)
    }

    async fn say_several(&mut self, clusters: &[Cluster]) -> Result<(), OwnError> {
        self.written.retain(|(uid, _)| clusters.iter().any(|cluster| cluster.metadata.uid == *uid));
        let text = "there are several Clusters: name the one that this agent is for with cluster_resource, or remove the others";
        let stage = Stage::Refused("SeveralClusters", text.to_owned());
        for cluster in clusters {
            let view = View { fill: None, generation: cluster.metadata.generation, ..self.view(&stage) };
            self.say_of(cluster, &view).await?;
        }
        Ok(())
    }

    async fn say(&mut self, cluster: &Cluster) -> Result<(), OwnError> {
        let metadata = &cluster.metadata;
        let is_marked = metadata.finalizers.iter().flatten().any(|name| name == CLUSTER_FINALIZER);
        if !is_marked && metadata.deletion_timestamp.is_none() {
            let (own, marked) = (self.own.clone(), cluster.clone());
            match blocking(move || own.set_finalizer(&marked, true)).await {
                // Another version is about to be seen.
                Ok(()) | Err(OwnError::Absent | OwnError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        self.written.retain(|(uid, _)| *uid == metadata.uid);
        let stage = self.known.facts().stage.clone();
        if stage == Stage::Terminating && metadata.deletion_timestamp.is_none() {
            // That was the one before.
            return Ok(());
        }
        let view = self.view(&stage);
        if let Some((before, after)) = self.say_of(cluster, &view).await? {
            for notice in status::news(&before, &after) {
                self.notify(cluster, notice).await;
            }
        }
        self.tell_refusals(cluster).await;
        Ok(())
    }

    /// Writes what is to be said of a Cluster, where it differs from what was said: from what to what.
    async fn say_of(
        &mut self,
        cluster: &Cluster,
        view: &View<'_>,
    ) -> Result<Option<(ClusterStatus, ClusterStatus)>, OwnError> {
        let uid = &cluster.metadata.uid;
        let written = self.written.iter().find(|(written, _)| written == uid);
        let before = written.map_or(&cluster.status, |(_, status)| status).clone();
        let Some(after) = status::desired(view, &before).filter(|after| status::differs(&before, after)) else {
            return Ok(None);
        };
        let (own, name, status) = (self.own.clone(), cluster.metadata.name.clone(), after.clone());
        match blocking(move || own.write_status(&name, &status)).await {
            // It is gone, and about to be seen so.
            Ok(()) | Err(OwnError::Absent) => {}
            Err(error) => return Err(error),
        }
        self.written.retain(|(written, _)| written != uid);
        self.written.push((uid.clone(), after.clone()));
        Ok(Some((before, after)))
    }

    fn view<'a>(&self, stage: &'a Stage) -> View<'a> {
        let facts = self.known.facts();
        let line = facts.line.as_ref().filter(|_| *stage == Stage::Serving);
        let unknown = Connection { reachable: None, access: Access::Accepted };
        View {
            now: now(),
            generation: facts.generation,
            stage,
            connection: line.map_or(unknown, |line| line.health.now()),
            standing: line.map_or(Standing::Starting, |line| line.health.standing()),
            held: line.map_or(Duration::ZERO, |line| line.health.held()),
            answered_at: line.and_then(|line| line.health.answered_at()),
            fill: line.map(|line| line.outbox.fill()),
            capacity: self.capacity,
            registered_at: facts.registered_at,
            observed_token: facts.observed_token.clone(),
            news: facts.news,
            just_registered: facts.just_registered,
            rotation_fault: facts.rotation_fault.clone(),
        }
    }

    /// Jobs are refused one by one, and told together.
    async fn tell_refusals(&mut self, cluster: &Cluster) {
        let (count, reason) = match &self.known.facts().line {
            Some(line) => line.gate.refusals(),
            None => return,
        };
        // A new line counts anew.
        let new = count.checked_sub(self.refused).unwrap_or(count);
        if new == 0 || self.is_quiet("JobRefused") {
            return;
        }
        self.refused = count;
        let message = format!("{new} jobs were refused; the last one: {reason} (pullet journal and the log say more)");
        self.notify(cluster, Notice { is_warning: true, reason: "JobRefused", message: &message }).await;
    }

    /// Whether an event of this reason was posted a short while ago.
    fn is_quiet(&self, reason: &str) -> bool {
        self.told.iter().any(|told| told.reason == reason && told.at.elapsed() < limits::EVENT_PAUSE)
    }

    /// Posts an event, or counts it for the next of its reason. Nothing depends on it.
    async fn notify(&mut self, cluster: &Cluster, notice: Notice<'_>) {
        if self.is_quiet(notice.reason) {
            if let Some(told) = self.told.iter_mut().find(|told| told.reason == notice.reason) {
                told.kept_back = told.kept_back.saturating_add(1);
            }
            return;
        }
        let before = self.told.iter().position(|told| told.reason == notice.reason).map(|at| self.told.swap_remove(at));
        let kept_back = before.map_or(0, |told| told.kept_back);
        if self.told.len() < REASONS {
            self.told.push(Told { reason: notice.reason.to_owned(), at: Instant::now(), kept_back: 0 });
        }
        let mut message = notice.message.to_owned();
        if kept_back > 0 {
            // Writing to a string does not fail.
            let _ = std::fmt::Write::write_fmt(&mut message, format_args!(" (and {kept_back} more since the last)"));
        }
        let (own, cluster) = (self.own.clone(), cluster.clone());
        let (is_warning, reason) = (notice.is_warning, notice.reason.to_owned());
        let posted = blocking(move || {
            own.post_event(&cluster, Notice { is_warning, reason: &reason, message: &message }, now())
        });
        match posted.await {
            Ok(()) => {}
            Err(error @ OwnError::Forbidden(_)) => warn!(%error, "an event of Kubernetes could not be posted"),
            Err(error) => debug!(%error, "an event of Kubernetes could not be posted"),
        }
    }
}

fn now() -> Timestamp {
    Timestamp::from_unix_seconds(clock::unix_seconds())
}

//! Reporting on owned objects.
//!
//! For each kind: a list in pages, then a watch from where the list ended, again and again. A watch that is
//! cut goes on from the last version it saw; one whose version is too old (410) begins with a list, and so does one
//! whose objects are to be reported on once more. Nothing is ever written.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Inner;
use super::api::{self, Api, Call, Fault, Refusal};
use super::baseline::{Baseline, Newcomer};
use super::drift;
use super::looks::Look;
use super::object::{Event, Object, Page};
use super::pause::Pause;
use super::resources::{self, Resource};
use crate::json;
use crate::limits;
use crate::protocol::{CLUSTER_ID_LABEL, Condition, ObjectRef};
use crate::target::{GroupKind, Observation};

/// Runs until the receiver of `sink` is dropped. Everything ends when the future is dropped.
pub(super) async fn run(inner: Arc<Inner>, sink: mpsc::Sender<Observation>) {
    if inner.kinds.is_empty() {
        return;
    }
    if let Some(unwatched) = inner.kinds.get(limits::WATCHES..).filter(|kinds| !kinds.is_empty()) {
        tracing::warn!(
            kinds = unwatched.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            "more kinds than are watched: these are listed every {} s",
            limits::LIST_INTERVAL.as_secs()
        );
    }
    let room =
        Arc::new(Room { inner, baseline: Mutex::new(Baseline::new()), page: Semaphore::new(1), sink: sink.clone() });
    // Tasks of a set end when it is dropped, and with them their bodies, and with those their threads.
    let mut tasks = JoinSet::new();
    for (number, kind) in room.inner.kinds.iter().enumerate() {
        tasks.spawn(Follower::new(Arc::clone(&room), number, kind.clone()).follow());
    }
    tasks.spawn(look_at_applied(room));
    sink.closed().await;
}

/// What all kinds share.
struct Room {
    inner: Arc<Inner>,
    baseline: Mutex<Baseline>,
    /// Held by whoever has a page of objects or a long line of a watch in memory, until it is sent on. Not
    /// the permit for an answer's text: who listens may be waiting for an apply, which needs that one.
    page: Semaphore,
    sink: mpsc::Sender<Observation>,
}

/// Why following a kind does not go on as it is.
enum Stop {
    /// Nobody listens.
    Closed,
    /// The version is too old: everything is listed again.
    Expired,
    Fault(Fault),
    /// Our account may not list or watch the kind.
    Forbidden(Refusal),
    /// It is time to list again.
    Interval,
    /// Somebody wants all of it reported once more.
    Recalled,
    /// The kind is not there.
    Missing,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(refusal) if refusal.code == 410 => Self::Expired,
            Fault::Refused(refusal) if refusal.code == 403 => Self::Forbidden(refusal),
            Fault::Refused(refusal) if refusal.code == 404 => Self::Missing,
            fault => Self::Fault(fault),
        }
    }
}

/// Follows one kind.
struct Follower {
    room: Arc<Room>,
    number: usize,
    kind: GroupKind,
    /// Where the kind was when it was last listed.
    resource: Option<Resource>,
    /// Counts the lists.
    round: u64,
    newcomer: Newcomer,
    /// After a fault.
    pause: Pause,
    /// While the kind is missing or forbidden.
    wait: Pause,
    is_troubled: bool,
    /// Whether the API server has said that it is ready since it said that the kind is missing or forbidden.
    was_ready: bool,
    /// Since when it could not be listed.
    unlisted: Option<Instant>,
}

impl Follower {
    fn new(room: Arc<Room>, number: usize, kind: GroupKind) -> Self {
        Self {
            room,
            number,
            kind,
            resource: None,
            round: 0,
            newcomer: Newcomer::WasThere,
            pause: Pause::new(2 * limits::BACKOFF_FLOOR, limits::WATCH_BACKOFF_CAP),
            wait: Pause::new(limits::KIND_BACKOFF_FIRST, limits::KIND_BACKOFF_CAP),
            is_troubled: false,
            was_ready: false,
            unlisted: None,
        }
    }

    async fn follow(mut self) {
        let mut discoveries = self.room.inner.resources.discoveries();
        loop {
            discoveries.mark_unchanged();
            let was_ready = std::mem::take(&mut self.was_ready);
            let mut stop = self.round().await;
            // While an API server starts it knows neither kinds nor rights, and nothing is gone for that.
            if !was_ready && matches!(stop, Stop::Missing | Stop::Forbidden(_)) {
                self.was_ready = self.room.inner.is_ready().await;
                if self.was_ready {
                    continue;
                }
                stop = Stop::Fault(Fault::Refused(Refusal {
                    code: 503,
                    message: "not ready".into(),
                    ..Refusal::default()
                }));
            }
            match stop {
                Stop::Closed => return,
                Stop::Expired => {
                    tracing::debug!(kind = %self.kind, "the watch's version is too old: listing again");
                    sleep(self.pause.next()).await;
                }
                Stop::Interval => tokio::select! {
                    () = sleep(limits::LIST_INTERVAL) => {}
                    () = self.room.inner.recall.asked(self.number) => {}
                },
                Stop::Recalled => {}
                Stop::Fault(fault) => {
                    let is_for_long = self.unlisted.is_some_and(|since| since.elapsed() >= limits::KIND_HOLDS_PRESENT);
                    if !fault.is_passing() || is_for_long {
                        self.room.inner.recall.leave_out(self.number, true);
                    }
                    self.trouble(&fault.to_string());
                    sleep(self.pause.next()).await;
                }
                stop @ (Stop::Missing | Stop::Forbidden(_)) => {
                    let has_objects = matches!(stop, Stop::Forbidden(_));
                    self.room.inner.recall.leave_out(self.number, has_objects);
                    if let Stop::Forbidden(refusal) = stop {
                        self.trouble(&super::message::of_forbidden(&refusal));
                    } else {
                        // Objects of a kind that is not there are gone, and those that come with it are new.
                        self.newcomer = Newcomer::Appeared;
                        self.round += 1;
                        if self.sweep_missing().await.is_err() {
                            return;
                        }
                        self.trouble("the kind is not installed");
                    }
                    let mut rest = std::pin::pin!(sleep(self.wait.next()));
                    loop {
                        tokio::select! {
                            () = &mut rest => break,
                            // A job found a kind that was not known before: perhaps it is this one.
                            changed = discoveries.changed() => {
                                if changed.is_ok() {
                                    self.wait.reset();
                                }
                                break;
                            }
                            () = self.room.inner.recall.asked(self.number) => {
                                self.room.inner.recall.leave_out(self.number, has_objects);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Lists, and watches for as long as that goes well.
    async fn round(&mut self) -> Stop {
        match self.list_and_watch().await {
            Ok(never) => match never {},
            Err(stop) => stop,
        }
    }

    async fn list_and_watch(&mut self) -> Result<std::convert::Infallible, Stop> {
        let (resource, mut version) = match self.find_and_list().await {
            Ok(listed) => listed,
            Err(stop) => {
                self.unlisted.get_or_insert_with(Instant::now);
                return Err(stop);
            }
        };
        self.unlisted = None;
        self.room.inner.recall.listed(self.number);
        self.wait.reset();
        if self.number >= limits::WATCHES {
            self.recovered();
            return Err(Stop::Interval);
        }
        loop {
            let begin = Instant::now();
            let end = self.watch(&resource, &mut version).await;
            let is_settled = begin.elapsed() >= limits::WATCH_SETTLED;
            if is_settled {
                self.pause.reset();
            }
            match end {
                Ok(()) if is_settled => continue,
                Ok(()) => {}
                Err(Stop::Fault(Fault::Net(error))) => {
                    tracing::debug!(kind = %self.kind, %error, "the watch was cut");
                    if !is_settled {
                        self.trouble(&Fault::Net(error).to_string());
                    }
                }
                Err(stop) => return Err(stop),
            }
            tokio::select! {
                () = sleep(self.pause.next()) => {}
                // The list may be had where a watch is not.
                () = self.room.inner.recall.asked(self.number) => return Err(Stop::Recalled),
            }
        }
    }

    async fn find_and_list(&mut self) -> Result<(Resource, String), Stop> {
        let resource = resources::preferred(self.room.api(), &self.kind).await?.ok_or(Stop::Missing)?;
        self.resource = Some(resource.clone());
        let version = self.list(&resource).await?;
        Ok((resource, version))
    }

    /// Reports on all objects of the kind and gives the version they have together.
    async fn list(&mut self, resource: &Resource) -> Result<String, Stop> {
        let again = self.room.inner.recall.take(self.number);
        let listed = self.list_pages(resource, again.as_ref()).await;
        if listed.is_err() {
            self.room.inner.recall.give_back(self.number, again);
        }
        listed
    }

    async fn list_pages(&mut self, resource: &Resource, again: Option<&Arc<()>>) -> Result<String, Stop> {
        let room = Arc::clone(&self.room);
        self.round += 1;
        let mut next = String::new();
        // One large object makes the pages of this list small, and not those of all later ones.
        let mut size = limits::LIST_PAGE;
        let version = loop {
            let _page = room.page().await?;
            let path = format!(
                "{}?limit={}&labelSelector={}&continue={}",
                resource.collection(),
                size,
                room.selector(),
                api::query(&next)
            );
            let limit = if size > 1 { limits::LIST_BODY_BYTES } else { limits::API_BODY_BYTES };
            let page = match api::ask(room.api(), &Call { limit, ..Call::get(&path, api::JSON) }).await {
                Err(Fault::TooLong(_)) if size > 1 => {
                    size = (size / 4).max(1);
                    continue;
                }
                answer => Page::read(&answer?).map_err(|_| Fault::Unusable("the list cannot be read".to_owned()))?,
            };
            for object in &page.objects {
                self.report(resource, object, again).await?;
            }
            if page.next.is_empty() {
                break page.resource_version;
            }
            next = page.next;
        };
        let gone = room.baseline().sweep(self.number, self.round);
        for object in gone {
            room.send(Observation::gone(reference(resource, object.namespace, object.name, object.uid))).await?;
        }
        self.newcomer = Newcomer::Appeared;
        Ok(version)
    }

    /// Reports on changes until the watch ends, and moves `version` on with them.
    async fn watch(&mut self, resource: &Resource, version: &mut String) -> Result<(), Stop> {
        let room = Arc::clone(&self.room);
        let path = format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={}&labelSelector={}&resourceVersion={}",
            resource.collection(),
            limits::WATCH_TIMEOUT.as_secs(),
            room.selector(),
            api::query(version)
        );
        let mut body = api::open(room.api(), &Call::get(&path, api::JSON)).await?.into_body();
        self.recovered();
        let mut line = Vec::new();
        let mut long = None;
        loop {
            let piece = tokio::select! {
                piece = api::next(&mut body) => piece?,
                // What is lost of the watch is in the list.
                () = room.inner.recall.asked(self.number) => return Err(Stop::Recalled),
            };
            let Some(piece) = piece else { return Ok(()) };
            for part in piece.split_inclusive(|byte| *byte == b'\n') {
                if long.is_none() && line.len() + part.len() > limits::WATCH_FREE_BYTES {
                    long = Some(room.page().await?);
                }
                line.extend_from_slice(part);
                if line.ends_with(b"\n") {
                    self.event(resource, &line, version).await?;
                    line.clear();
                    line.shrink_to(limits::API_CHUNK_BYTES);
                    long = None;
                }
            }
        }
    }

    async fn event(&mut self, resource: &Resource, line: &[u8], version: &mut String) -> Result<(), Stop> {
        let unusable = || Fault::Unusable("an event of the watch cannot be read".to_owned());
        let event: Event<'_> = json::read(line).map_err(|_| unusable())?;
        if event.kind.0 == "ERROR" {
            return Err(Fault::Refused(Refusal::read(200, event.object.get().as_bytes())).into());
        }
        let object = Object::read(event.object.get()).map_err(|_| unusable())?;
        match event.kind.0.as_ref() {
            "ADDED" | "MODIFIED" => self.report(resource, &object, None).await?,
            "DELETED" => {
                self.room.baseline().forget(&object.uid);
                let mut observation = observation(resource, &object);
                observation.conditions.clear();
                observation.deleted = true;
                self.room.send(observation).await?;
            }
            // A bookmark only moves the version on, and what we do not know does at least that.
            _ => {}
        }
        if !object.resource_version.is_empty() {
            *version = object.resource_version;
        }
        Ok(())
    }

    async fn report(&self, resource: &Resource, object: &Object, again: Option<&Arc<()>>) -> Result<(), Stop> {
        let (mut changed, lost) = {
            let mut baseline = self.room.baseline();
            let changed = baseline.take(self.number, self.round, self.newcomer, object);
            self.room.inner.unreported.set(baseline.untracked());
            (changed, baseline.take_fields(object))
        };
        if !lost.is_empty() {
            changed.push(self.room.drifted(resource, object, &lost).await);
        }
        self.room.send(Observation { changed, again: again.cloned(), ..observation(resource, object) }).await
    }

    async fn sweep_missing(&self) -> Result<(), Stop> {
        let gone = self.room.baseline().sweep(self.number, self.round);
        let Some(resource) = &self.resource else { return Ok(()) };
        for object in gone {
            self.room.send(Observation::gone(reference(resource, object.namespace, object.name, object.uid))).await?;
        }
        Ok(())
    }

    /// Says once that a kind is not reported on.
    fn trouble(&mut self, error: &str) {
        if !std::mem::replace(&mut self.is_troubled, true) {
            self.room.inner.troubled.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(kind = %self.kind, error, "not reporting on a kind for now: trying again");
        }
    }

    fn recovered(&mut self) {
        if std::mem::replace(&mut self.is_troubled, false) {
            self.room.inner.troubled.fetch_sub(1, Ordering::Relaxed);
            tracing::info!(kind = %self.kind, "reporting on the kind again");
        }
    }
}

/// Reports on each object once after it was applied: an apply that changes nothing is no event of a watch, and
/// whoever waits for the object would never hear of it. Nor would he know whether nobody speaks of the object, or
/// it is us who do not hear: so the look is repeated until it has an answer.
async fn look_at_applied(room: Arc<Room>) {
    let looks = &room.inner.looks;
    let mut is_troubled = false;
    loop {
        let look = looks.next().await;
        let Ok(_page) = room.page().await else { return };
        match look_at(&room, &look).await {
            Ok(observation) => {
                if room.send(observation).await.is_err() {
                    return;
                }
                is_troubled = false;
                looks.answered(&look);
            }
            Err(fault) => {
                let is_forbidden = matches!(&fault, Fault::Refused(refusal) if refusal.code == 403);
                if is_forbidden && !std::mem::replace(&mut is_troubled, true) {
                    let kind = look.resource.kind.as_str();
                    tracing::warn!(kind, error = %fault, "an applied object cannot be looked at: its job may wait in vain");
                }
                tracing::debug!(kind = look.resource.kind, name = look.reference.name, %fault, "no look at an applied object: trying again");
                looks.postpone(&look);
            }
        }
    }
}

/// How the object is that was applied. One of the same name is another.
async fn look_at(room: &Room, look: &Look) -> Result<Observation, Fault> {
    let unusable = || Fault::Unusable("the object cannot be read".to_owned());
    let reference = &look.reference;
    let path = look.resource.path(&reference.namespace, &reference.name).map_err(|_| unusable())?;
    let text = match api::ask(room.api(), &Call::get(&path, api::JSON)).await {
        // Without its details it is the kind that is missing, as it is while an API server starts.
        Err(Fault::Refused(refusal)) if refusal.code == 404 && !refusal.about.is_empty() => {
            return Ok(Observation::gone(reference.clone()));
        }
        answer => answer?,
    };
    let object = Object::read(std::str::from_utf8(&text).map_err(|_| unusable())?).map_err(|_| unusable())?;
    drop(text);
    // The baseline stays as it is: the watch tells what changed, and in order.
    Ok(if object.uid == reference.uid {
        observation(&look.resource, &object)
    } else {
        Observation::gone(reference.clone())
    })
}

impl Room {
    fn api(&self) -> &Api {
        self.inner.api()
    }

    fn baseline(&self) -> MutexGuard<'_, Baseline> {
        self.baseline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be said of fields of ours that somebody else changed. One request, once for each change.
    async fn drifted(&self, resource: &Resource, object: &Object, lost: &[u32]) -> Condition {
        tracing::info!(
            kind = resource.kind,
            name = object.name,
            fields = lost.len(),
            "somebody else changed what a job set; it is left so"
        );
        let metadata = match resource.path(&object.namespace, &object.name) {
            Ok(path) => api::ask(self.api(), &Call::get(&path, api::METADATA)).await.ok(),
            Err(_) => None,
        };
        drift::condition(lost, object.generation, metadata.as_deref())
    }

    async fn page(&self) -> Result<SemaphorePermit<'_>, Stop> {
        self.page.acquire().await.map_err(|_| Stop::Closed)
    }

    fn selector(&self) -> impl std::fmt::Display {
        format!("{}%3D{}", api::query(CLUSTER_ID_LABEL), api::query(&self.inner.cluster_id))
    }

    async fn send(&self, observation: Observation) -> Result<(), Stop> {
        self.sink.send(observation).await.map_err(|_| Stop::Closed)
    }
}

impl Observation {
    fn gone(reference: ObjectRef) -> Self {
        Self {
            reference,
            observed_generation: None,
            conditions: Vec::new(),
            changed: Vec::new(),
            endpoints: Vec::new(),
            deleted: true,
            again: None,
        }
    }
}

fn observation(resource: &Resource, object: &Object) -> Observation {
    Observation {
        reference: ObjectRef {
            generation: object.generation,
            ..reference(resource, object.namespace.clone(), object.name.clone(), object.uid.clone())
        },
        observed_generation: object.observed_generation,
        conditions: object.conditions.clone(),
        changed: Vec::new(),
        endpoints: object.endpoints.clone(),
        deleted: false,
        again: None,
    }
}

fn reference(resource: &Resource, namespace: String, name: String, uid: String) -> ObjectRef {
    ObjectRef {
        api_version: resource.api_version.clone(),
        kind: resource.kind.clone(),
        namespace,
        name,
        uid,
        generation: None,
    }
}

//! Does what [`machine`] says.

mod order;
mod resume;
mod sequence;
mod stamp;
mod take;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::{debug, info, warn};

use super::gate::Gate;
use super::ledger::{KeyHash, Ledger};
use super::machine::{self, Done, Effect, Facts, Fault, Input, Now, State, SucceedOn, Verdict};
use crate::clock;
use crate::journal::{Ended, Outbox, cut};
use crate::limits;
use crate::link::backoff::{Backoff, draw};
use crate::link::intake::{Worked, settle};
use crate::link::stream::Answer;
use crate::link::{self, Account, Acknowledged, JobSource};
use crate::protocol::{
    ClusterId, Condition, Event, EventKind, Instruction, JobId, JobResult, OPERATION, OutcomeKind, StatusUpdate,
    Timestamp,
};
use crate::shutdown::Stop;
use crate::target::{Observation, Target, TargetError};
use crate::task;
use crate::trust::Permitted;

/// What a runner stands on.
pub struct Parts {
    /// Where jobs come from.
    pub source: Arc<dyn JobSource>,
    /// Who we are there.
    pub account: Arc<dyn Account>,
    /// Where jobs take effect.
    pub target: Arc<dyn Target>,
    /// Where reports go.
    pub outbox: Arc<Outbox>,
    /// What jobs have to pass.
    pub gate: Arc<Gate>,
    /// Who we are, for events about jobs.
    pub cluster: ClusterId,
    /// When a job counts as succeeded.
    pub succeed_on: SucceedOn,
    /// How long an object may take to be ready.
    pub ready_timeout: Duration,
    /// Ends it all.
    pub stop: Stop,
}

/// Works jobs one after the other; those whose object is not ready yet wait beside.
pub struct Runner {
    parts: Parts,
    started: Instant,
    book: Mutex<Book>,
    /// A job ended.
    freed: Notify,
    /// A job waits.
    waits: Notify,
    /// The jobs of the last run go on, or are over.
    resumed: Stop,
    /// The journal does not know all that was done before.
    is_incomplete: AtomicBool,
    /// The journal cannot be written: what is done now would not be known later.
    is_read_only: AtomicBool,
    /// When the job was made that was fetched and is not applied yet; none = there is no such job.
    fetched: Mutex<Option<Timestamp>>,
    /// Jobs that succeeded since the start.
    succeeded: AtomicU32,
}

#[derive(Default)]
struct Book {
    ledger: Ledger,
    waiting: Vec<Waiting>,
}

struct Waiting {
    id: JobId,
    facts: Facts,
    state: State,
}

/// What became of one job of an answer.
enum Taken {
    /// It was new, and is answered or waits.
    Done,
    /// The server has closed it, or it came again: nothing new was done.
    Known,
    /// It is not ours and comes again; nothing behind it is worked before.
    Left,
}

impl Runner {
    /// Nothing is open yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            started: Instant::now(),
            book: Mutex::default(),
            freed: Notify::new(),
            waits: Notify::new(),
            resumed: Stop::default(),
            is_incomplete: AtomicBool::new(false),
            is_read_only: AtomicBool::new(false),
            fetched: Mutex::default(),
            succeeded: AtomicU32::new(0),
        }
    }

    /// Works the jobs of an answer in their order (P1.5).
    pub async fn work(&self, answer: Answer) -> Worked {
        self.set_fetched(None);
        let worked = self.work_all(answer).await;
        *self.fetched() = None;
        worked
    }

    async fn work_all(&self, answer: Answer) -> Worked {
        if answer.jobs.is_empty() {
            return Worked::Empty;
        }
        if self.is_read_only.load(Ordering::Relaxed) {
            warn!(jobs = answer.jobs.len(), "the state directory is read-only: these jobs are left, and come again");
            return Worked::Partly;
        }
        // What was taken first goes first.
        tokio::select! {
            () = self.resumed.wait() => {}
            () = self.parts.stop.wait() => return Worked::Partly,
        }
        let (mut is_whole, mut is_new) = (true, false);
        for arrival in sequence::in_sequence(answer.jobs) {
            if !self.room().await {
                return Worked::Partly;
            }
            match self.open_job(&arrival) {
                Some(task) => {
                    self.set_fetched(task.created_at);
                    match self.work_one(task, &arrival).await {
                        Taken::Done => is_new = true,
                        Taken::Known => {}
                        Taken::Left => return Worked::Partly,
                    }
                    self.set_fetched(None);
                }
                None => {
                    is_whole = false;
                    warn!("a job without a usable id was ignored; nobody can answer it");
                }
            }
        }
        if is_whole && is_new { Worked::Whole } else { Worked::Partly }
    }

    /// Waits until one more job can be open and answered; false when it is time to stop.
    async fn room(&self) -> bool {
        loop {
            if self.parts.stop.is_set() {
                return false;
            }
            let open = self.book().ledger.open_jobs();
            if open < limits::OPEN_JOBS && self.parts.outbox.has_room() {
                return true;
            }
            debug!(open, "waiting until a job is done or its result is posted");
            tokio::select! {
                () = self.freed.notified() => {}
                () = self.parts.outbox.emptied() => {}
                () = self.parts.stop.wait() => {}
            }
        }
    }

    fn facts(&self, expires_at: Option<Timestamp>, duplicate: bool, fault: Option<Fault>) -> Facts {
        Facts {
            expires_at,
            duplicate,
            fault,
            is_kept: false,
            is_resumed: false,
            succeed_on: self.parts.succeed_on,
            ready_timeout: self.parts.ready_timeout,
        }
    }

    /// Does something that may wait for the disk; none when the thread ended early.
    async fn on_disk<T: Send + 'static>(&self, act: impl FnOnce(&Outbox) -> T + Send + 'static) -> Option<T> {
        let outbox = Arc::clone(&self.parts.outbox);
        task::on_thread(move || act(&outbox)).await.ok()
    }

    async fn forget(&self, id: &JobId) {
        let number = self.book().ledger.of_open(id).1;
        self.book().ledger.forget(id);
        if number > 0 {
            self.on_disk(move |outbox| outbox.drop_job(number)).await;
        }
        self.freed.notify_one();
    }

    /// Acks until the answer is definite.
    async fn take(&self, id: &JobId, facts: &Facts) -> (State, Effect) {
        let mut backoff = Backoff::default();
        loop {
            let acked = tokio::select! {
                acked = self.ack(id) => acked,
                () = self.out_of_patience() => return machine::step(State::Taking, Input::Stopped, facts, self.now()),
            };
            let input = match acked {
                Ok(acknowledged) => Input::Acked(acknowledged),
                Err(fault) => match settle(fault, &self.parts.account).await {
                    // P1.9.4: whichever credential is accepted now, nothing is repeated at once.
                    Ok(()) => self.before_next_ack(backoff.next(draw())).await,
                    Err(fault) if fault.is_passing() => {
                        warn!(job = %id, error = %fault, "the ack got no answer and is repeated; nothing behind it is worked before");
                        let pause = backoff.next(draw());
                        self.before_next_ack(fault.retry_after().map_or(pause, |asked| pause.max(asked))).await
                    }
                    Err(fault) => {
                        warn!(job = %id, error = %fault, "the job could not be acked and is left; it comes again");
                        Input::AckRefused
                    }
                },
            };
            let stepped = machine::step(State::Taking, input, facts, self.now());
            if stepped.1 != Effect::AckAgain {
                return stepped;
            }
        }
    }

    async fn before_next_ack(&self, pause: Duration) -> Input<'static> {
        tokio::select! {
            () = tokio::time::sleep(pause) => Input::AckLost,
            () = self.parts.stop.wait() => Input::Stopped,
        }
    }

    async fn ack(&self, id: &JobId) -> Result<Acknowledged, link::Fault> {
        let source = Arc::clone(&self.parts.source);
        let job = id.clone();
        task::on_thread(move || source.ack(&job))
            .await
            .unwrap_or(Err(link::Fault::Unreadable("the ack was interrupted")))
    }

    /// From the ack to the end, or to where the job waits.
    async fn carry_out(
        &self,
        id: JobId,
        facts: Facts,
        mut state: State,
        mut effect: Effect,
        act: Option<&Permitted<'_>>,
    ) {
        let mut backoff = Backoff::between(limits::BACKOFF_FLOOR, limits::ACT_PAUSE_MAX);
        let mut may_be_done = facts.is_resumed || self.is_incomplete.load(Ordering::Relaxed);
        let mut is_first = true;
        loop {
            match effect {
                Effect::Act => {}
                Effect::ActAgain => {
                    // The request may have got there, and its answer not have come back.
                    may_be_done = true;
                    is_first = false;
                    let pause = backoff.next(draw());
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.parts.stop.wait() => {
                            (state, effect) = machine::step(state, Input::Stopped, &facts, self.now());
                            continue;
                        }
                    }
                }
                Effect::End(verdict) => return self.end(&id, verdict).await,
                Effect::Keep => return,
                Effect::Report(phase, conditions, message) => {
                    self.report(&id, phase, conditions, message);
                    if let State::Waiting(wait) = &state {
                        let number = self.book().ledger.of_open(&id).1;
                        if number > 0 {
                            self.parts.outbox.applied(number, wait.object());
                        }
                    }
                    // No await since the apply: the report on the object that follows it finds the job here.
                    self.book().waiting.push(Waiting { id, facts, state });
                    return self.waits.notify_one();
                }
                // Not possible behind an ack, and nothing to be done.
                Effect::AckAgain | Effect::Drop | Effect::Leave | Effect::Nothing => return self.forget(&id).await,
            }
            let Some(permitted) = act else {
                return self.forget(&id).await;
            };
            let input = tokio::select! {
                input = self.act(&id, may_be_done, is_first, permitted) => input,
                () = self.out_of_patience() => Input::Stopped,
            };
            (state, effect) = machine::step(state, input, &facts, self.now());
        }
    }

    /// What is being done when it is time to stop gets a while to come to its end.
    async fn out_of_patience(&self) {
        self.parts.stop.wait().await;
        tokio::time::sleep(limits::STOP_ACT).await;
    }

    /// The only way to the target, and only for what was permitted.
    async fn act(&self, id: &JobId, may_be_done: bool, is_first: bool, permitted: &Permitted<'_>) -> Input<'static> {
        let (target, rule) = (&self.parts.target, permitted.rule());
        let done = match permitted.instruction() {
            Instruction::Apply(manifest) => match self.done_before(id, may_be_done, manifest).await {
                Ok(Some(done)) => Ok(done),
                Ok(None) if permitted.order().is_some() => match self.later_job(permitted, manifest).await {
                    Ok(Some(seq)) => return Input::Superseded(seq),
                    Ok(None) => {
                        target.apply(manifest, rule).await.map(|done| Done::Applied(done.reference, done.readiness))
                    }
                    Err(error) => Err(error),
                },
                Ok(None) => {
                    target.apply(manifest, rule).await.map(|done| Done::Applied(done.reference, done.readiness))
                }
                Err(error) => Err(error),
            },
            Instruction::Delete(object) => target.delete(object, rule).await.map(|deleted| Done::Deleted(deleted.note)),
            Instruction::RotateCredentials => return self.rotate().await,
        };
        match &done {
            Ok(_) => debug!(job = %id, "done"),
            Err(error) => {
                let detail = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
                // Said once: what is tried again mostly fails as it did before.
                if is_first && matches!(error, TargetError::Stuck(_) | TargetError::Unavailable(_)) {
                    warn!(job = %id, %error, detail, "the job is not done yet; it is tried again");
                } else {
                    debug!(job = %id, reason = error.reason(), %error, detail, "not done");
                }
            }
        }
        Input::Done(done)
    }

    async fn rotate(&self) -> Input<'static> {
        let account = Arc::clone(&self.parts.account);
        match task::on_thread(move || account.rotate()).await {
            Ok(Ok(())) => Input::Done(Ok(Done::Rotated)),
            Ok(Err(fault)) if fault.is_passing() => Input::Done(Err(TargetError::Unavailable(Box::new(fault)))),
            Ok(Err(fault)) => Input::NotRotated(format!("{fault}; the old credential stays in use")),
            Err(interrupted) => Input::NotRotated(interrupted.to_string()),
        }
    }

    async fn end(&self, id: &JobId, mut verdict: Verdict) {
        // Once for all who keep it: the log, the ledger, the outbox.
        cut(&mut verdict.error, limits::ERROR_BYTES);
        let result = JobResult {
            outcome: verdict.outcome,
            error: verdict.error,
            applied_ref: verdict.applied,
            timestamp: self.now().wall,
        };
        if result.outcome == OutcomeKind::Succeeded {
            self.succeeded.fetch_add(1, Ordering::Relaxed);
        }
        info!(job = %id, outcome = ?result.outcome, error = result.error, "the job ended");
        if !verdict.note.is_empty() {
            let phase = if result.applied_ref.is_some() { "Applied" } else { "Done" };
            self.report(id, phase, Vec::new(), verdict.note);
        }
        let (key, number) = self.book().ledger.of_open(id);
        let (had_effect, of, written) = (verdict.had_effect, id.clone(), result.clone());
        let ended = Ended { key: key.map(KeyHash::to_bytes), header: self.book().ledger.header(id), had_effect };
        self.on_disk(move |outbox| outbox.finish(number, ended, &of, written)).await;
        self.book().ledger.finish(id, &result, had_effect);
        self.freed.notify_one();
    }

    fn report(&self, id: &JobId, phase: &str, conditions: Vec<Condition>, message: String) {
        let status = StatusUpdate { phase: phase.to_owned(), conditions, message, timestamp: self.now().wall };
        self.parts.outbox.push_status(id, status);
    }

    /// The target reports on an object: its changes are events, and a job may be waiting for it.
    pub async fn observed(&self, observation: &Observation) {
        let is_again = observation.again.is_some()
            && !observation.conditions.is_empty()
            && self.parts.outbox.room_for_present(observation.conditions.len()).await;
        let again: &[Condition] = if is_again { &observation.conditions } else { &[] };
        // What changed is among all there is, but for what we say of the object ourselves.
        let is_new = |condition: &&Condition| again.iter().all(|said| said.kind != condition.kind);
        for condition in again.iter().chain(observation.changed.iter().filter(is_new)) {
            push_transition(&self.parts.outbox, observation, condition, self.now().wall);
        }
        self.step_waiting(|waiting| machine_step(waiting, Input::Observed(observation), self.now())).await;
    }

    /// Looks after the jobs that wait, until the agent stops: once a second while there are any.
    pub async fn watch_the_clock(&self) {
        while !self.parts.stop.is_set() {
            if self.book().waiting.is_empty() {
                tokio::select! {
                    () = self.waits.notified() => {}
                    () = self.parts.stop.wait() => {}
                }
            }
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                () = self.parts.stop.wait() => {}
            }
            self.step_waiting(|waiting| machine_step(waiting, Input::Ticked, self.now())).await;
        }
    }

    /// Answers every job that still waits and is on no disk: the agent stops.
    pub async fn abandon(&self) {
        self.step_waiting(|waiting| machine_step(waiting, Input::Stopped, self.now())).await;
    }

    async fn step_waiting(&self, mut step: impl FnMut(&mut Waiting) -> Effect) {
        let mut effects = Vec::new();
        self.book().waiting.retain_mut(|waiting| {
            let effect = step(waiting);
            if effect != Effect::Nothing {
                effects.push((waiting.id.clone(), effect));
            }
            waiting.state != State::Ended
        });
        for (id, effect) in effects {
            match effect {
                Effect::End(verdict) => self.end(&id, verdict).await,
                Effect::Report(phase, conditions, message) => self.report(&id, phase, conditions, message),
                _ => {}
            }
        }
    }

    /// How many jobs are open.
    #[must_use]
    pub fn open_jobs(&self) -> usize {
        self.book().ledger.open_jobs()
    }

    /// Whether no job is done because the journal cannot be written.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.is_read_only.load(Ordering::Relaxed)
    }

    /// How many jobs succeeded since the start, whether the control plane knows or not.
    #[must_use]
    pub fn succeeded(&self) -> u32 {
        self.succeeded.load(Ordering::Relaxed)
    }

    /// How long ago the oldest job was made that was fetched and is not applied yet; zero where there is none.
    #[must_use]
    pub fn lag(&self) -> Duration {
        let made = self.fetched().map_or(i64::MAX, Timestamp::unix_seconds);
        let since = clock::unix_seconds().cast_signed().saturating_sub(made);
        Duration::from_secs(u64::try_from(since).unwrap_or(0))
    }

    /// The oldest job that is not applied was made then, or just now where nobody says.
    fn set_fetched(&self, made: Option<Timestamp>) {
        *self.fetched() = made.or_else(|| Some(self.now().wall));
    }

    fn fetched(&self) -> MutexGuard<'_, Option<Timestamp>> {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        Now { wall: Timestamp::from_unix_seconds(clock::unix_seconds()), monotonic: self.started.elapsed() }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often the jobs that wait are looked at.
const TICK: Duration = Duration::from_secs(1);

fn machine_step(waiting: &mut Waiting, input: Input<'_>, now: Now) -> Effect {
    let state = std::mem::replace(&mut waiting.state, State::Ended);
    let (state, effect) = machine::step(state, input, &waiting.facts, now);
    waiting.state = state;
    effect
}

/// P1.7: the key's known shape, made unique by the outbox.
fn push_transition(outbox: &Outbox, observation: &Observation, condition: &Condition, now: Timestamp) {
    let object = &observation.reference;
    let or_none = |text: &str| if text.is_empty() { "_".to_owned() } else { text.to_owned() };
    let shape = format!(
        "condition/{}/{}/{}/{}/{}/{}/{}@{}",
        object.api_version,
        object.kind,
        or_none(&object.namespace),
        object.name,
        or_none(&object.uid),
        condition.kind,
        condition.status,
        condition.observed_generation.or(object.generation).unwrap_or(0),
    );
    outbox.push_event(
        &shape,
        Event {
            event_key: String::new(),
            kind: kind_of(observation, condition),
            resource_ref: object.clone(),
            conditions: vec![condition.clone()],
            endpoints: observation.endpoints.clone(),
            timestamp: condition.last_transition_time.unwrap_or(now),
        },
    );
}

/// An Operation's own conditions have events of their own once they are true.
fn kind_of(observation: &Observation, condition: &Condition) -> EventKind {
    let object = &observation.reference;
    if object.kind != OPERATION.1 || object.api_version != OPERATION.0 || condition.status != "True" {
        return EventKind::ConditionTransition;
    }
    match condition.kind.as_str() {
        "Accepted" => EventKind::OperationAccepted,
        "Blocked" => EventKind::OperationBlocked,
        "Failed" => EventKind::OperationFailed,
        "Running" => EventKind::OperationRunning,
        "Succeeded" => EventKind::OperationSucceeded,
        _ => EventKind::ConditionTransition,
    }
}

//! One job, step by step. Pure: a state and an input give a state and an effect; time comes in.
//!
//! ```text
//!            Acked            Done(applied, watched)       Observed, Ticked
//! Taking ──────────▶ Acting ─────────────────────▶ Waiting ───────────────▶ Ended
//!    │  closed, lost   │  done, refused, unreachable too long      ▲
//!    └─────────────────┴───────────────────────────────────────────┘
//! ```

mod verdict;
mod wait;

use std::time::Duration;

use crate::limits;
use crate::link::Acknowledged;
use crate::protocol::{Condition, JobError, ObjectRef, OutcomeKind, Timestamp};
use crate::target::{Observation, Readiness, TargetError};
use crate::trust::{Denied, TrustError};

pub use verdict::Verdict;
pub use wait::Wait;

/// When something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// By the clock, for what the server dates.
    pub wall: Timestamp,
    /// Since some start, for what we wait for.
    pub monotonic: Duration,
}

/// What stays the same about a job.
#[derive(Debug)]
pub struct Facts {
    /// After this it is not to be done.
    pub expires_at: Option<Timestamp>,
    /// Its idempotency key was used by another job.
    pub duplicate: bool,
    /// Why it is not to be done at all.
    pub fault: Option<Fault>,
    /// It is on the disk, and goes on after a restart.
    pub is_kept: bool,
    /// It was open when the agent ended before: it may be done already.
    pub is_resumed: bool,
    /// When it counts as succeeded.
    pub succeed_on: SucceedOn,
    /// How long an object may take to be ready.
    pub ready_timeout: Duration,
}

/// Why a job is not to be done.
#[derive(Debug)]
pub enum Fault {
    /// It was over a limit of the stream: its name and what it says.
    Limit(&'static str, String),
    /// It cannot be read.
    Malformed(JobError),
    /// It cannot be read further, or the policy stops it.
    Denied(Denied),
    /// It is not trusted.
    Untrusted(TrustError),
}

/// When a job counts as succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SucceedOn {
    /// As soon as its object is applied.
    Applied,
    /// When its object says that it is ready.
    Ready,
}

/// Where a job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is being done, since.
    Acting(Duration),
    /// It is over.
    Ended,
    /// As [`State::Acting`], but its object alone cannot be done.
    Stuck {
        /// It is being done, since.
        acting: Duration,
        /// Its object cannot be done, since.
        since: Duration,
    },
    /// It is being acked.
    Taking,
    /// Its object was applied, and somebody is to report on it.
    Waiting(Wait),
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// The server answered the ack.
    Acked(Acknowledged),
    /// The ack got no definite answer, and may be repeated.
    AckLost,
    /// The ack was refused.
    AckRefused,
    /// The target did what it was told, or did not.
    Done(Result<Done, TargetError>),
    /// There is no new credential, and this is why.
    NotRotated(String),
    /// The signed job of this number has applied the object since.
    Superseded(u64),
    /// The target reports on an object.
    Observed(&'a Observation),
    /// The agent stops.
    Stopped,
    /// Time passed.
    Ticked,
}

/// What an act came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// The object is there.
    Applied(ObjectRef, Readiness),
    /// The object was there already, as this job wants it.
    Found(ObjectRef, Readiness),
    /// The object is gone; with a sentence for the person who asked.
    Deleted(Option<&'static str>),
    /// A new credential is in use.
    Rotated,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Apply, delete or rotate.
    Act,
    /// The same again after a pause.
    ActAgain,
    /// Ack again after a pause.
    AckAgain,
    /// The server has closed the job; nothing is answered, and the next one follows.
    Drop,
    /// Answer the job.
    End(Verdict),
    /// The agent stops; the job is on the disk and goes on after the next start.
    Keep,
    /// The job is not ours and comes again; nothing behind it is worked before.
    Leave,
    /// Nothing.
    Nothing,
    /// Tell how it is getting on.
    Report(&'static str, Vec<Condition>, String),
}

/// P1.5: what an expired job is answered with.
pub const EXPIRED: &str = "expired";

/// P1.5: what a job with a used key is answered with.
pub const DUPLICATE: &str = "duplicate idempotency key";

/// Nobody reports on an object.
pub const NOTHING_REPORTS: &str = "applied; nothing reports readiness here";

/// Said of an object that carries the stamp of its job.
const FOUND: &str = "already applied; found by its stamp";

/// One step.
#[must_use]
pub fn step(state: State, input: Input<'_>, facts: &Facts, now: Now) -> (State, Effect) {
    match (state, input) {
        (State::Taking, Input::Acked(Acknowledged::Ours)) => begin(facts, now),
        (State::Taking | State::Acting(_) | State::Stuck { .. } | State::Waiting(_), Input::Stopped)
            if facts.is_kept =>
        {
            (State::Ended, Effect::Keep)
        }
        (State::Taking, Input::AckLost) if !is_expired(facts, now) => (State::Taking, Effect::AckAgain),
        // P1.5: what is closed is not to be done; what was not acked is not ours and comes again.
        (State::Taking, Input::Acked(Acknowledged::Closed)) => (State::Ended, Effect::Drop),
        (State::Taking, Input::AckLost | Input::AckRefused | Input::Stopped) => (State::Ended, Effect::Leave),
        (State::Acting(_) | State::Stuck { .. }, Input::Superseded(seq)) => end(Verdict::failed(
            "RolledBack",
            format!("the object is from a later signed job (number {seq}); sign this one anew to go back to it"),
        )),
        (State::Acting(_), Input::NotRotated(reason)) => end(Verdict::failed("RotationFailed", reason)),
        (State::Acting(since), Input::Done(done)) => finish_act(done, since, None, facts, now),
        (State::Stuck { acting, since }, Input::Done(done)) => finish_act(done, acting, Some(since), facts, now),
        (State::Waiting(wait), Input::Observed(observation)) => wait.observe(observation, now),
        (State::Waiting(wait), Input::Ticked) => wait.tick(facts.ready_timeout, now),
        (State::Waiting(wait), Input::Stopped) => {
            let verdict = Verdict::failed("AgentStopped", "applied, but the agent stopped before the object was ready");
            end(verdict.on(wait.object()))
        }
        (State::Acting(_) | State::Stuck { .. }, Input::Stopped) => {
            end(Verdict::failed("AgentStopped", "the agent stopped before this was done; send a new job"))
        }
        (state, _) => (state, Effect::Nothing),
    }
}

/// P1.5: expired, then duplicate, then what is wrong with it.
fn begin(facts: &Facts, now: Now) -> (State, Effect) {
    if is_expired(facts, now) {
        return end(Verdict::noop(EXPIRED));
    }
    if facts.duplicate {
        return end(Verdict::noop(DUPLICATE));
    }
    match &facts.fault {
        Some(Fault::Limit(name, message)) => end(Verdict::failed(name, message)),
        Some(Fault::Malformed(error)) => end(Verdict::failed(error.reason(), error)),
        Some(Fault::Denied(denied)) => end(Verdict::failed(denied.reason(), denied)),
        Some(Fault::Untrusted(error)) => end(Verdict::failed(error.reason(), error)),
        None => (State::Acting(now.monotonic), Effect::Act),
    }
}

/// `since` when it is being done, and since when its object alone stands in the way.
fn finish_act(
    done: Result<Done, TargetError>,
    since: Duration,
    stuck: Option<Duration>,
    facts: &Facts,
    now: Now,
) -> (State, Effect) {
    match done {
        Ok(Done::Found(object, Readiness::Watched))
            if facts.succeed_on != SucceedOn::Applied
                && object.generation.is_some_and(|generation| generation != 0) =>
        {
            let wait = Wait::new(object, now.monotonic);
            (State::Waiting(wait), Effect::Report("Applied", Vec::new(), FOUND.into()))
        }
        Ok(Done::Found(object, _)) => end(Verdict::succeeded(Some(object), FOUND)),
        Ok(Done::Applied(object, Readiness::Silent(note))) => end(Verdict::succeeded(Some(object), note)),
        Ok(Done::Applied(object, Readiness::Watched)) if facts.succeed_on == SucceedOn::Applied => {
            end(Verdict::succeeded(Some(object), ""))
        }
        // Kinds without a generation have no status, and so nobody to report on them.
        Ok(Done::Applied(object, Readiness::Watched)) if object.generation.is_none_or(|generation| generation == 0) => {
            end(Verdict::succeeded(Some(object), NOTHING_REPORTS))
        }
        Ok(Done::Applied(object, Readiness::Watched)) => {
            let wait = Wait::new(object, now.monotonic);
            (State::Waiting(wait), Effect::Report("Applied", Vec::new(), "applied; waiting until it is ready".into()))
        }
        Ok(Done::Deleted(note)) => end(Verdict::succeeded(None, note.unwrap_or_default())),
        Ok(Done::Rotated) => end(Verdict::succeeded(None, "")),
        Err(TargetError::Stuck(_) | TargetError::Unavailable(_)) if is_expired(facts, now) => {
            end(Verdict::noop(EXPIRED))
        }
        Err(error @ TargetError::Stuck(_)) => {
            // An API server that comes back comes back before its admissions do.
            let stuck = stuck.unwrap_or(now.monotonic);
            if now.monotonic.saturating_sub(stuck) < limits::STUCK_PATIENCE {
                return (State::Stuck { acting: since, since: stuck }, Effect::ActAgain);
            }
            end(Verdict::failed(error.reason(), &error))
        }
        Err(TargetError::Unavailable(source)) => {
            if now.monotonic.saturating_sub(since) < limits::APPLY_PATIENCE {
                return (State::Acting(since), Effect::ActAgain);
            }
            let message = format!(
                "not reached for {} min ({source}); send a new job when it is back",
                limits::APPLY_PATIENCE.as_secs() / 60
            );
            end(Verdict::failed("TargetUnavailable", message))
        }
        Err(error @ TargetError::Conflict(_)) => {
            let mut verdict = Verdict::failed(error.reason(), &error);
            verdict.outcome = OutcomeKind::Conflict;
            end(verdict)
        }
        Err(error) => end(Verdict::failed(error.reason(), &error)),
    }
}

fn end(verdict: Verdict) -> (State, Effect) {
    (State::Ended, Effect::End(verdict))
}

fn is_expired(facts: &Facts, now: Now) -> bool {
    facts.expires_at.is_some_and(|expires_at| expires_at <= now.wall)
}

#[cfg(test)]
mod tests {
    use super::{DUPLICATE, Done, EXPIRED, Effect, Facts, Fault, Input, Now, State, SucceedOn, step};
    use crate::limits;
    use crate::link::Acknowledged;
    use crate::protocol::{Condition, JobError, ObjectRef, OutcomeKind, Timestamp};
    use crate::target::{FieldConflict, Observation, Readiness, TargetError};
    use proptest::prelude::*;
    use std::time::Duration;

    pub(super) fn facts() -> Facts {
        Facts {
            expires_at: Some(Timestamp::from_unix_seconds(1_000)),
            duplicate: false,
            fault: None,
            is_kept: false,
            is_resumed: false,
            succeed_on: SucceedOn::Ready,
            ready_timeout: limits::READY_TIMEOUT,
        }
    }

    pub(super) fn at(seconds: u64) -> Now {
        Now { wall: Timestamp::from_unix_seconds(seconds), monotonic: Duration::from_secs(seconds) }
    }

    pub(super) fn object() -> ObjectRef {
        ObjectRef {
            api_version: "apps.vworkspace.io/v1alpha1".into(),
            kind: "ApplicationInstance".into(),
            namespace: "shop".into(),
            name: "a".into(),
            uid: "u1".into(),
            generation: Some(2),
        }
    }

    pub(super) fn condition(kind: &str, status: &str, generation: Option<i64>) -> Condition {
        Condition {
            kind: kind.into(),
            status: status.into(),
            observed_generation: generation,
            last_transition_time: None,
            reason: "Because".into(),
            message: "so it is".into(),
        }
    }

    pub(super) fn observation(conditions: Vec<Condition>, generation: Option<i64>) -> Observation {
        Observation {
            reference: object(),
            observed_generation: generation,
            changed: conditions.clone(),
            conditions,
            endpoints: Vec::new(),
            deleted: false,
            again: None,
        }
    }

    fn unavailable() -> TargetError {
        TargetError::Unavailable("connection refused".into())
    }

    fn take(facts: &Facts, now: Now) -> (State, Effect) {
        step(State::Taking, Input::Acked(Acknowledged::Ours), facts, now)
    }

    pub(super) fn waiting(now: Now) -> State {
        let done = Ok(Done::Applied(object(), Readiness::Watched));
        step(State::Acting(now.monotonic), Input::Done(done), &facts(), now).0
    }

    pub(super) fn outcome(effect: &Effect) -> (OutcomeKind, &str) {
        match effect {
            Effect::End(verdict) => (verdict.outcome, &verdict.error),
            other => panic!("not at its end: {other:?}"),
        }
    }

    #[test]
    fn an_acked_job_is_done() {
        assert_eq!(take(&facts(), at(1)), (State::Acting(Duration::from_secs(1)), Effect::Act));
    }

    #[test]
    fn expiry_comes_before_duplicate_and_duplicate_before_a_fault() {
        let mut facts = Facts { duplicate: true, fault: Some(Fault::Malformed(JobError::NoPayload)), ..facts() };
        assert_eq!(outcome(&take(&facts, at(1_000)).1), (OutcomeKind::Noop, EXPIRED));
        assert_eq!(outcome(&take(&facts, at(999)).1), (OutcomeKind::Noop, DUPLICATE));
        facts.duplicate = false;
        assert_eq!(outcome(&take(&facts, at(999)).1), (OutcomeKind::Failed, "NoPayload: the job has no payload"));
        facts.fault = Some(Fault::Limit("job_bytes", "too long".into()));
        assert_eq!(outcome(&take(&facts, at(999)).1), (OutcomeKind::Failed, "job_bytes: too long"));
    }

    #[test]
    fn a_closed_job_is_dropped_and_one_that_is_not_ours_is_left() {
        let take = |input| step(State::Taking, input, &facts(), at(1));
        assert_eq!(take(Input::Acked(Acknowledged::Closed)), (State::Ended, Effect::Drop));
        assert_eq!(take(Input::AckRefused), (State::Ended, Effect::Leave));
        assert_eq!(take(Input::Stopped), (State::Ended, Effect::Leave));
    }

    #[test]
    fn a_lost_ack_is_repeated_until_the_job_expires() {
        assert_eq!(step(State::Taking, Input::AckLost, &facts(), at(999)).1, Effect::AckAgain);
        assert_eq!(step(State::Taking, Input::AckLost, &facts(), at(1_000)).1, Effect::Leave);
    }

    #[test]
    fn an_unreachable_target_is_tried_again_until_patience_or_the_job_ends() {
        let act =
            |facts: &Facts, now| step(State::Acting(Duration::ZERO), Input::Done(Err(unavailable())), facts, now).1;
        let patience = limits::APPLY_PATIENCE.as_secs();
        assert_eq!(act(&facts(), at(1)), Effect::ActAgain);
        assert_eq!(act(&facts(), at(patience - 1)), Effect::ActAgain);
        assert!(outcome(&act(&facts(), at(patience))).1.starts_with("TargetUnavailable"));
        let short = Facts { expires_at: Some(Timestamp::from_unix_seconds(5)), ..facts() };
        assert_eq!(outcome(&act(&short, at(5))), (OutcomeKind::Noop, EXPIRED));
    }

    #[test]
    fn an_object_that_cannot_be_done_is_tried_again_for_half_a_minute_only() {
        let act = |state, error, facts: &Facts, now| step(state, Input::Done(Err(error)), facts, now);
        let stuck = || TargetError::Stuck("the namespace shop is being deleted".into());
        let patience = limits::STUCK_PATIENCE.as_secs();
        let acting = || State::Acting(Duration::ZERO);
        // The target was away before: the object has its own time.
        let (state, effect) = act(acting(), stuck(), &facts(), at(100));
        assert_eq!(effect, Effect::ActAgain);
        let (state, effect) = act(state, stuck(), &facts(), at(100 + patience - 1));
        assert_eq!(effect, Effect::ActAgain);
        let (last, effect) = act(state.clone(), stuck(), &facts(), at(100 + patience));
        assert_eq!(last, State::Ended);
        let (kind, error) = outcome(&effect);
        assert_eq!(kind, OutcomeKind::Failed);
        assert!(error.starts_with("ObjectUnavailable: ") && error.contains("send a new job"), "{error}");
        // It goes away again, which has a time of its own, too, and that goes on.
        let (state, effect) = act(state, unavailable(), &facts(), at(100 + patience));
        assert_eq!((&state, effect), (&acting(), Effect::ActAgain));
        let (_, effect) = act(state, unavailable(), &facts(), at(limits::APPLY_PATIENCE.as_secs()));
        assert!(outcome(&effect).1.starts_with("TargetUnavailable"));
        let short = Facts { expires_at: Some(Timestamp::from_unix_seconds(5)), ..facts() };
        assert_eq!(outcome(&act(acting(), stuck(), &short, at(5)).1), (OutcomeKind::Noop, EXPIRED));
    }

    #[test]
    fn a_conflict_is_reported_with_field_and_manager() {
        let fields = vec![FieldConflict { field: ".spec.mode".into(), manager: "kubectl".into() }];
        let done = Input::Done(Err(TargetError::Conflict(fields)));
        let (_, effect) = step(State::Acting(Duration::ZERO), done, &facts(), at(1));
        let (kind, error) = outcome(&effect);
        assert_eq!(kind, OutcomeKind::Conflict);
        assert!(error.contains(".spec.mode by kubectl"), "{error}");
    }

    #[test]
    fn a_kind_without_status_and_a_silent_target_are_not_waited_for() {
        let act = |object, readiness, facts: &Facts| {
            let done = Input::Done(Ok(Done::Applied(object, readiness)));
            step(State::Acting(Duration::ZERO), done, facts, at(1)).1
        };
        let plain = ObjectRef { generation: None, ..object() };
        assert_eq!(outcome(&act(plain, Readiness::Watched, &facts())).0, OutcomeKind::Succeeded);
        assert_eq!(outcome(&act(object(), Readiness::Silent("x"), &facts())).0, OutcomeKind::Succeeded);
        let at_once = Facts { succeed_on: SucceedOn::Applied, ..facts() };
        assert_eq!(outcome(&act(object(), Readiness::Watched, &at_once)).0, OutcomeKind::Succeeded);
    }

    #[test]
    fn a_stop_keeps_what_is_on_the_disk() {
        let facts = Facts { is_kept: true, ..facts() };
        for state in [State::Taking, State::Acting(Duration::ZERO), waiting(at(0))] {
            assert_eq!(step(state, Input::Stopped, &facts, at(1)), (State::Ended, Effect::Keep));
        }
    }

    #[test]
    fn a_stop_answers_what_was_acked_and_is_on_no_disk() {
        let stuck = State::Stuck { acting: Duration::ZERO, since: Duration::ZERO };
        for state in [State::Acting(Duration::ZERO), stuck, waiting(at(0))] {
            let (_, effect) = step(state, Input::Stopped, &facts(), at(1));
            assert!(outcome(&effect).1.starts_with("AgentStopped"));
        }
    }

    #[derive(Clone, Debug)]
    enum Any {
        Ours,
        Closed,
        Lost,
        Refused,
        Applied(bool),
        Deleted,
        Stuck,
        Unavailable,
        Invalid,
        Observed(&'static str, bool),
        Ticked,
        Stopped,
    }

    fn any_input() -> impl Strategy<Value = Any> {
        prop_oneof![
            Just(Any::Ours),
            Just(Any::Closed),
            Just(Any::Lost),
            Just(Any::Refused),
            any::<bool>().prop_map(Any::Applied),
            Just(Any::Deleted),
            Just(Any::Stuck),
            Just(Any::Unavailable),
            Just(Any::Invalid),
            (prop_oneof![Just("Ready"), Just("Failed"), Just("Blocked")], any::<bool>())
                .prop_map(|(kind, status)| Any::Observed(kind, status)),
            Just(Any::Ticked),
            Just(Any::Stopped),
        ]
    }

    proptest! {
        /// Whatever comes in whatever order: a job that was not acked has no act and no answer, one that was
        /// acked has one answer at the most, a failure has an error, and after the end there is nothing.
        #[test]
        fn any_order_of_inputs_gives_one_answer_at_the_most(
            inputs in prop::collection::vec((any_input(), 0_u64..120), 0..60),
            is_kept in any::<bool>(),
        ) {
            let facts = Facts { is_kept, ..facts() };
            let mut state = State::Taking;
            let mut now = 0;
            let (mut acked, mut answers) = (false, 0);
            for (input, pause) in inputs {
                now += pause;
                let was_ended = state == State::Ended;
                let was_taking = state == State::Taking;
                acked |= was_taking && matches!(input, Any::Ours);
                let observed;
                let input = match input {
                    Any::Ours => Input::Acked(Acknowledged::Ours),
                    Any::Closed => Input::Acked(Acknowledged::Closed),
                    Any::Lost => Input::AckLost,
                    Any::Refused => Input::AckRefused,
                    Any::Applied(watched) => Input::Done(Ok(Done::Applied(
                        object(),
                        if watched { Readiness::Watched } else { Readiness::Silent("x") },
                    ))),
                    Any::Deleted => Input::Done(Ok(Done::Deleted(None))),
                    Any::Stuck => Input::Done(Err(TargetError::Stuck("x".into()))),
                    Any::Unavailable => Input::Done(Err(unavailable())),
                    Any::Invalid => Input::Done(Err(TargetError::Invalid("x".into()))),
                    Any::Observed(kind, status) => {
                        let status = if status { "True" } else { "False" };
                        observed = observation(vec![condition(kind, status, None)], None);
                        Input::Observed(&observed)
                    }
                    Any::Ticked => Input::Ticked,
                    Any::Stopped => Input::Stopped,
                };
                let (next, effect) = step(state, input, &facts, at(now));
                if was_ended {
                    prop_assert_eq!(&effect, &Effect::Nothing);
                }
                match &effect {
                    Effect::End(verdict) => {
                        answers += 1;
                        prop_assert!(acked);
                        prop_assert_eq!(&next, &State::Ended);
                        prop_assert!(verdict.outcome != OutcomeKind::Failed || !verdict.error.is_empty());
                    }
                    Effect::Act | Effect::ActAgain | Effect::Report(..) => prop_assert!(acked),
                    Effect::Drop | Effect::Leave => prop_assert!(!acked),
                    Effect::AckAgain => prop_assert!(was_taking),
                    Effect::Keep => prop_assert!(is_kept && next == State::Ended),
                    Effect::Nothing => {}
                }
                state = next;
            }
            prop_assert!(answers <= 1);
        }
    }
}

//! A job whose object was applied, and what is heard of that object.

use std::time::Duration;

use super::{Effect, NOTHING_REPORTS, Now, State, Verdict, end};
use crate::limits;
use crate::protocol::{APPLICATION_INSTANCE, Condition, OPERATION, ObjectRef, group_of};
use crate::target::Observation;

/// What a waiting job knows of its object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    object: ObjectRef,
    since: Duration,
    /// Since when the target shows us the object: before, silence is ours.
    listening_since: Option<Duration>,
    /// Somebody reports on it.
    heard: bool,
    /// Somebody will say whether it is ready.
    has_ready: bool,
    /// What was said last of its being ready.
    last: String,
}

impl Wait {
    /// Begins to wait.
    pub(in crate::job) fn new(object: ObjectRef, now: Duration) -> Self {
        Self {
            object,
            since: now,
            listening_since: None,
            heard: false,
            has_ready: false,
            last: "no condition yet".to_owned(),
        }
    }

    /// What is waited for.
    pub(in crate::job) fn object(&self) -> &ObjectRef {
        &self.object
    }

    /// The target reports on some object, perhaps on this.
    pub(super) fn observe(mut self, observation: &Observation, now: Now) -> (State, Effect) {
        if !is_same(&self.object, &observation.reference) {
            return (State::Waiting(self), Effect::Nothing);
        }
        if observation.deleted {
            return end(
                Verdict::failed("ObjectDeleted", "somebody deleted the object before it was ready").on(&self.object)
            );
        }
        let generation = self.object.generation.unwrap_or(0);
        // What was on its way before the apply says nothing of how we hear now.
        if observation.reference.generation.is_none_or(|shown| shown >= generation) {
            self.listening_since.get_or_insert(now.monotonic);
        }
        let speaks = |condition: &Condition| {
            condition.observed_generation.or(observation.observed_generation).is_none_or(|seen| seen >= generation)
        };
        self.heard |= observation.observed_generation.is_some() || !observation.conditions.is_empty();
        let current: Vec<&Condition> = observation.conditions.iter().filter(|condition| speaks(condition)).collect();
        let find = |kind: &str| current.iter().find(|condition| condition.kind == kind);
        if find("Ready").or(find("Succeeded")).is_some_and(|condition| condition.status == "True") {
            return end(Verdict::succeeded(Some(self.object), ""));
        }
        if let Some(failed) = find("Failed").filter(|condition| condition.status == "True") {
            let message = format!("{} {}", failed.reason, failed.message);
            return end(Verdict::failed("OperationFailed", message.trim()).on(&self.object));
        }
        // Whoever reported on an earlier generation is expected to report on this one.
        self.has_ready |= observation.conditions.iter().any(|condition| READY_KINDS.contains(&condition.kind.as_str()));
        if let Some(ready) = find("Ready") {
            self.last = format!("{}: {}", ready.reason, ready.message);
        } else if self.has_ready {
            self.last = format!("nobody has reported on generation {generation}");
        }
        if observation.changed.is_empty() {
            return (State::Waiting(self), Effect::Nothing);
        }
        (State::Waiting(self), Effect::Report("Waiting", observation.changed.clone(), String::new()))
    }

    /// Time passed.
    pub(super) fn tick(self, ready_timeout: Duration, now: Now) -> (State, Effect) {
        let passed = |since| now.monotonic.saturating_sub(since);
        let waited = passed(self.since);
        let nobody_will_say = !self.heard || !(self.has_ready || self.is_ours());
        if nobody_will_say && self.listening_since.is_some_and(|since| passed(since) >= limits::READY_SILENCE) {
            return end(Verdict::succeeded(Some(self.object), NOTHING_REPORTS));
        }
        if waited < ready_timeout {
            return (State::Waiting(self), Effect::Nothing);
        }
        if self.has_ready || self.is_ours() {
            let message = format!("applied, but not ready after {} s: {}", ready_timeout.as_secs(), self.last);
            return end(Verdict::failed("NotReady", message).on(&self.object));
        }
        if self.listening_since.is_none() {
            let message = format!(
                "applied, but the object could not be read for {} s, and so nobody knows whether it is ready",
                ready_timeout.as_secs()
            );
            return end(Verdict::failed("NotReady", message).on(&self.object));
        }
        end(Verdict::succeeded(Some(self.object), NOTHING_REPORTS))
    }

    /// The kinds of the control plane say sooner or later whether they are ready. Of another kind that is
    /// reported on, but says nothing of being ready in the time that silence may take, it is not expected.
    fn is_ours(&self) -> bool {
        [APPLICATION_INSTANCE, OPERATION]
            .iter()
            .any(|(version, kind)| self.object.kind == *kind && group_of(&self.object.api_version) == group_of(version))
    }
}

/// Conditions by which somebody says, or will say, whether an object is ready. An Operation says Accepted and
/// Running before it says Succeeded or Failed.
const READY_KINDS: [&str; 6] = ["Accepted", "Blocked", "Failed", "Ready", "Running", "Succeeded"];

fn is_same(applied: &ObjectRef, observed: &ObjectRef) -> bool {
    if applied.uid.is_empty() || observed.uid.is_empty() {
        applied.kind == observed.kind
            && applied.namespace == observed.namespace
            && applied.name == observed.name
            && applied.api_version == observed.api_version
    } else {
        applied.uid == observed.uid
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, condition, facts, observation, outcome, waiting};
    use super::super::{Done, Effect, Input, NOTHING_REPORTS, State, step};
    use crate::limits;
    use crate::protocol::OutcomeKind;
    use crate::target::Readiness;

    #[test]
    fn ready_is_success_once_it_speaks_of_this_generation() {
        let old = observation(vec![condition("Ready", "True", None)], Some(1));
        let (state, effect) = step(waiting(at(0)), Input::Observed(&old), &facts(), at(1));
        assert!(matches!(effect, Effect::Report("Waiting", ..)), "{effect:?}");
        let new = observation(vec![condition("Ready", "True", None)], Some(2));
        assert_eq!(outcome(&step(state, Input::Observed(&new), &facts(), at(2)).1).0, OutcomeKind::Succeeded);
    }

    #[test]
    fn a_failed_operation_fails_with_its_reason() {
        let failed = observation(vec![condition("Failed", "True", None)], None);
        let (_, effect) = step(waiting(at(0)), Input::Observed(&failed), &facts(), at(1));
        assert_eq!(outcome(&effect), (OutcomeKind::Failed, "OperationFailed: Because so it is"));
    }

    #[test]
    fn silence_for_a_minute_is_success_and_says_so() {
        let silence = limits::READY_SILENCE.as_secs();
        let bare = observation(Vec::new(), None);
        let (state, _) = step(waiting(at(0)), Input::Observed(&bare), &facts(), at(0));
        let (state, effect) = step(state, Input::Ticked, &facts(), at(silence - 1));
        assert_eq!(effect, Effect::Nothing);
        let (_, effect) = step(state, Input::Ticked, &facts(), at(silence));
        assert!(matches!(effect, Effect::End(verdict) if verdict.note == NOTHING_REPORTS && verdict.error.is_empty()));
    }

    #[test]
    fn silence_begins_when_the_object_is_seen() {
        let silence = limits::READY_SILENCE.as_secs();
        let (state, effect) = step(waiting(at(0)), Input::Ticked, &facts(), at(silence));
        assert_eq!(effect, Effect::Nothing, "nobody looked yet");
        let mut before = observation(Vec::new(), None);
        before.reference.generation = Some(1);
        let (state, _) = step(state, Input::Observed(&before), &facts(), at(50));
        let mut bare = observation(Vec::new(), None);
        let (state, _) = step(state, Input::Observed(&bare), &facts(), at(100));
        bare.reference.name = "b".into();
        let (state, _) = step(state, Input::Observed(&bare), &facts(), at(130));
        let (state, effect) = step(state, Input::Ticked, &facts(), at(100 + silence - 1));
        assert_eq!(effect, Effect::Nothing);
        let (_, effect) = step(state, Input::Ticked, &facts(), at(100 + silence));
        assert!(matches!(effect, Effect::End(verdict) if verdict.note == NOTHING_REPORTS));
    }

    #[test]
    fn what_is_never_seen_is_not_ready() {
        let late = limits::READY_TIMEOUT.as_secs();
        let (state, effect) = step(waiting(at(0)), Input::Ticked, &facts(), at(late - 1));
        assert_eq!(effect, Effect::Nothing);
        let (_, effect) = step(state, Input::Ticked, &facts(), at(late));
        let (kind, error) = outcome(&effect);
        assert!(kind == OutcomeKind::Failed && error.starts_with("NotReady: applied, but"), "{error}");
    }

    #[test]
    fn what_never_gets_ready_fails_with_its_last_word() {
        let unready = observation(vec![condition("Ready", "False", None)], Some(2));
        let (state, _) = step(waiting(at(0)), Input::Observed(&unready), &facts(), at(1));
        let late = limits::READY_TIMEOUT.as_secs();
        let (state, effect) = step(state, Input::Ticked, &facts(), at(late - 1));
        assert_eq!(effect, Effect::Nothing);
        let (_, effect) = step(state, Input::Ticked, &facts(), at(late));
        assert_eq!(
            outcome(&effect),
            (OutcomeKind::Failed, "NotReady: applied, but not ready after 600 s: Because: so it is")
        );
    }

    #[test]
    fn an_object_that_is_deleted_or_another_of_the_same_name() {
        let mut gone = observation(Vec::new(), None);
        gone.deleted = true;
        gone.reference.uid = "u2".into();
        let (state, effect) = step(waiting(at(0)), Input::Observed(&gone), &facts(), at(1));
        assert_eq!(effect, Effect::Nothing, "another object");
        gone.reference.uid = "u1".into();
        let (_, effect) = step(state, Input::Observed(&gone), &facts(), at(1));
        assert!(outcome(&effect).1.starts_with("ObjectDeleted"));
    }

    #[test]
    fn a_controller_that_knows_an_earlier_generation_alone_is_not_ready() {
        let old = observation(vec![condition("Ready", "True", Some(1))], Some(1));
        let (state, _) = step(waiting(at(0)), Input::Observed(&old), &facts(), at(1));
        let (_, effect) = step(state, Input::Ticked, &facts(), at(limits::READY_TIMEOUT.as_secs()));
        assert_eq!(
            outcome(&effect),
            (OutcomeKind::Failed, "NotReady: applied, but not ready after 600 s: nobody has reported on generation 2")
        );
    }

    #[test]
    fn a_foreign_kind_without_a_ready_condition_is_not_waited_for_longer_than_silence() {
        let mut deployment = observation(vec![condition("Progressing", "True", Some(2))], Some(2));
        deployment.reference.kind = "Deployment".into();
        deployment.reference.api_version = "apps/v1".into();
        let done = Input::Done(Ok(Done::Applied(deployment.reference.clone(), Readiness::Watched)));
        let (state, _) = step(State::Acting(at(0).monotonic), done, &facts(), at(0));
        let (state, _) = step(state, Input::Observed(&deployment), &facts(), at(1));
        let (_, effect) = step(state, Input::Ticked, &facts(), at(1 + limits::READY_SILENCE.as_secs()));
        assert_eq!(outcome(&effect).0, OutcomeKind::Succeeded);
        // Of our own kinds it is expected, whatever comes first.
        let reconciling = observation(vec![condition("Reconciling", "True", Some(2))], Some(2));
        let (state, _) = step(waiting(at(0)), Input::Observed(&reconciling), &facts(), at(1));
        let (_, effect) = step(state, Input::Ticked, &facts(), at(1 + limits::READY_SILENCE.as_secs()));
        assert_eq!(effect, Effect::Nothing);
    }
}

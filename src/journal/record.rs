//! What the journal writes down, in shapes of its own: the protocol's types may change, the format may not.
//!
//! The order of variants and members is the format. New variants go to the end.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::cut;
use super::stamp::BootMoment;
use crate::limits;
use crate::protocol::{Condition, Endpoint, Event, EventKind, JobId, JobResult, ObjectRef, OutcomeKind, Timestamp};

/// One entry of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// An agent began to write.
    Started,
    /// Events that were lost: so many, and at most so many more.
    Lost {
        /// Known to be lost.
        exactly: u64,
        /// May be lost as well.
        at_most: u64,
    },
    /// An event that waits to be posted.
    Event(StoredEvent),
    /// A job was taken; the number of this record is the number of the job.
    Accepted(StoredJob),
    /// The object of a job is there, and the job waits for it to be ready.
    Applied {
        /// The job's number.
        job: u64,
        /// The object.
        object: StoredRef,
    },
    /// A job ended, and its result waits to be posted.
    Outcome(StoredOutcome),
    /// As it is written: [`Record::Accepted`] of a job whose header hash is known. Since format 2.
    AcceptedSigned([u8; 8], StoredJob),
    /// As it is written: [`Record::Outcome`] of such a job. Since format 2.
    OutcomeSigned([u8; 8], StoredOutcome),
    /// The trust state from here on, as whoever made it writes it. Since format 2.
    Trust(Vec<u8>),
    /// As it is written: [`Record::Event`] of which the kernel's own count is known. Since format 2.
    EventMade(StoredEvent, BootMoment),
}

impl Record {
    /// As it is written.
    #[must_use]
    pub fn packed(&self) -> Cow<'_, Self> {
        match self {
            Self::Accepted(job) => match job.header {
                Some(header) => Cow::Owned(Self::AcceptedSigned(header, job.clone())),
                None => Cow::Borrowed(self),
            },
            Self::Event(event) => match event.made {
                Some(made) => Cow::Owned(Self::EventMade(event.clone(), made)),
                None => Cow::Borrowed(self),
            },
            Self::Outcome(outcome) => match outcome.header {
                Some(header) => Cow::Owned(Self::OutcomeSigned(header, outcome.clone())),
                None => Cow::Borrowed(self),
            },
            _ => Cow::Borrowed(self),
        }
    }

    /// As it was before it was written.
    #[must_use]
    pub fn unpacked(self) -> Self {
        match self {
            Self::AcceptedSigned(header, job) => Self::Accepted(StoredJob { header: Some(header), ..job }),
            Self::EventMade(event, made) => Self::Event(StoredEvent { made: Some(made), ..event }),
            Self::OutcomeSigned(header, outcome) => Self::Outcome(StoredOutcome { header: Some(header), ..outcome }),
            record => record,
        }
    }
}

/// A job as it was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredJob {
    /// Its name.
    pub id: String,
    /// Hash of its idempotency key; none = never a duplicate.
    pub key: Option<[u8; 8]>,
    /// Unix seconds after which it is not to be done.
    pub expires_at: Option<i64>,
    /// Its text.
    pub body: Body,
    /// Hash of the header of its signature; none = it was not signed.
    #[serde(skip)]
    pub header: Option<[u8; 8]>,
}

/// Where the text of a job is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Here.
    Inline(String),
    /// In this slot of the spool.
    Spooled(u8),
    /// Nowhere: it was over this limit.
    Skipped(String),
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredOutcome {
    /// The job's name.
    pub id: String,
    /// Hash of its idempotency key.
    pub key: Option<[u8; 8]>,
    /// Whether the key is used from now on.
    pub had_effect: bool,
    /// 0 conflict, 1 failed, 2 noop, 3 succeeded.
    pub outcome: u8,
    /// Why.
    pub error: String,
    /// The object.
    pub applied: Option<StoredRef>,
    /// Unix seconds.
    pub at: i64,
    /// Hash of the header of the job's signature; none = it was not signed.
    #[serde(skip)]
    pub header: Option<[u8; 8]>,
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRef {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Namespace or nothing.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid or nothing.
    pub uid: String,
    /// Generation.
    pub generation: Option<i64>,
}

/// An event. Its key is `shape#<epoch>.<number>`, with the number of its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredEvent {
    /// The key up to the `#`.
    pub shape: String,
    /// The start that saw it.
    pub epoch: u64,
    /// Index into [`KINDS`].
    pub kind: u8,
    /// The object.
    pub object: StoredRef,
    /// Its conditions.
    pub conditions: Vec<StoredCondition>,
    /// Its endpoints: name, URL, type, notes.
    pub endpoints: Vec<(String, String, String, String)>,
    /// Unix seconds.
    pub at: i64,
    /// The same moment as the kernel counts it; none = it is not known.
    #[serde(skip)]
    pub made: Option<BootMoment>,
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredCondition {
    /// Type.
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Generation it speaks of.
    pub generation: Option<i64>,
    /// Unix seconds.
    pub since: Option<i64>,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// The kinds of events by their place on disk. New ones go to the end.
pub const KINDS: [EventKind; 10] = [
    EventKind::ClusterHeartbeat,
    EventKind::ConditionTransition,
    EventKind::CredentialRotated,
    EventKind::JobPayloadDecryptionFailed,
    EventKind::JobPayloadSignatureInvalid,
    EventKind::OperationAccepted,
    EventKind::OperationBlocked,
    EventKind::OperationFailed,
    EventKind::OperationRunning,
    EventKind::OperationSucceeded,
];

const OUTCOMES: [OutcomeKind; 4] =
    [OutcomeKind::Conflict, OutcomeKind::Failed, OutcomeKind::Noop, OutcomeKind::Succeeded];

/// An error of a result keeps at least this much, whatever the names of its object take.
const ERROR_LEAST: usize = 64;

impl StoredRef {
    /// Of an object.
    #[must_use]
    pub fn of(object: &ObjectRef) -> Self {
        Self {
            api_version: object.api_version.clone(),
            kind: object.kind.clone(),
            namespace: object.namespace.clone(),
            name: object.name.clone(),
            uid: object.uid.clone(),
            generation: object.generation,
        }
    }

    /// The object.
    #[must_use]
    pub fn to_object(&self) -> ObjectRef {
        ObjectRef {
            api_version: self.api_version.clone(),
            kind: self.kind.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            generation: self.generation,
        }
    }

    fn len(&self) -> usize {
        [&self.api_version, &self.kind, &self.namespace, &self.name, &self.uid]
            .iter()
            .fold(0_usize, |sum, text| sum.saturating_add(text.len()))
    }
}

impl StoredOutcome {
    /// Of a result, within [`limits::RECORD_BYTES`] beside the id.
    #[must_use]
    pub fn of(id: &JobId, key: Option<[u8; 8]>, had_effect: bool, result: &JobResult) -> Self {
        let mut applied = result.applied_ref.as_ref().map(StoredRef::of);
        // Kubernetes allows no names as long as that.
        if applied.as_ref().is_some_and(|applied| applied.len() > limits::RECORD_BYTES / 4 * 3) {
            applied = None;
        }
        let mut error = result.error.clone();
        let room = limits::RECORD_BYTES.saturating_sub(applied.as_ref().map_or(0, StoredRef::len));
        cut(&mut error, room.saturating_sub(ERROR_LEAST).max(ERROR_LEAST));
        let outcome = OUTCOMES.iter().position(|kind| *kind == result.outcome);
        Self {
            id: id.as_str().to_owned(),
            key,
            had_effect,
            outcome: outcome.and_then(|at| u8::try_from(at).ok()).unwrap_or_default(),
            error,
            applied,
            at: result.timestamp.unix_seconds(),
            header: None,
        }
    }

    /// How the job ended, in a word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        ["conflict", "failed", "noop", "succeeded"].get(usize::from(self.outcome)).copied().unwrap_or("unknown")
    }

    /// The result; none when the record makes no sense.
    #[must_use]
    pub fn to_result(&self) -> Option<(JobId, JobResult)> {
        let result = JobResult {
            outcome: *OUTCOMES.get(usize::from(self.outcome))?,
            error: self.error.clone(),
            applied_ref: self.applied.as_ref().map(StoredRef::to_object),
            timestamp: timestamp(self.at),
        };
        Some((JobId::parse(&self.id)?, result))
    }
}

impl StoredEvent {
    /// Of an event whose key is `shape#<epoch>.<number>`.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        let (shape, occurrence) = event.event_key.rsplit_once('#').unwrap_or_default();
        let epoch = occurrence.split_once('.').map_or("", |(epoch, _)| epoch);
        let kind = KINDS.iter().position(|kind| *kind == event.kind);
        let condition = |condition: &Condition| StoredCondition {
            kind: condition.kind.clone(),
            status: condition.status.clone(),
            generation: condition.observed_generation,
            since: condition.last_transition_time.map(Timestamp::unix_seconds),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
        };
        let endpoint = |endpoint: &Endpoint| {
            (endpoint.name.clone(), endpoint.url.clone(), endpoint.kind.clone(), endpoint.notes.clone())
        };
        Self {
            shape: shape.to_owned(),
            epoch: u64::from_str_radix(epoch, 16).unwrap_or_default(),
            kind: kind.and_then(|at| u8::try_from(at).ok()).unwrap_or_default(),
            object: StoredRef::of(&event.resource_ref),
            conditions: event.conditions.iter().map(condition).collect(),
            endpoints: event.endpoints.iter().map(endpoint).collect(),
            at: event.timestamp.unix_seconds(),
            made: None,
        }
    }

    /// The event with its key; none when the record makes no sense.
    #[must_use]
    pub fn to_event(&self, number: u64) -> Option<Event> {
        let condition = |condition: &StoredCondition| Condition {
            kind: condition.kind.clone(),
            status: condition.status.clone(),
            observed_generation: condition.generation,
            last_transition_time: condition.since.map(timestamp),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
        };
        let endpoint = |(name, url, kind, notes): &(String, String, String, String)| Endpoint {
            name: name.clone(),
            url: url.clone(),
            kind: kind.clone(),
            notes: notes.clone(),
        };
        Some(Event {
            event_key: event_key(&self.shape, self.epoch, number),
            kind: *KINDS.get(usize::from(self.kind))?,
            resource_ref: self.object.to_object(),
            conditions: self.conditions.iter().map(condition).collect(),
            endpoints: self.endpoints.iter().map(endpoint).collect(),
            timestamp: timestamp(self.at),
        })
    }
}

/// P1.7: what makes an occurrence unique and a resend identical.
#[must_use]
pub fn event_key(shape: &str, epoch: u64, number: u64) -> String {
    format!("{shape}#{epoch:016x}.{number}")
}

/// The number in an event's key.
#[must_use]
pub fn number_of(event_key: &str) -> Option<u64> {
    event_key.rsplit_once('.').and_then(|(_, number)| number.parse().ok())
}

/// Unix seconds as the protocol writes them.
#[must_use]
pub fn timestamp(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(u64::try_from(seconds).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::{KINDS, StoredEvent, StoredOutcome, event_key, number_of};
    use crate::limits;
    use crate::protocol::{Condition, Endpoint, Event, JobId, JobResult, ObjectRef, OutcomeKind, Timestamp};

    fn object(name: &str) -> ObjectRef {
        ObjectRef {
            api_version: "apps/v1".into(),
            kind: "Deployment".into(),
            namespace: "n".into(),
            name: name.into(),
            uid: "u".into(),
            generation: Some(-1),
        }
    }

    #[test]
    fn an_event_comes_back_as_it_was() {
        let condition = Condition {
            kind: "Ready".into(),
            status: "True".into(),
            observed_generation: Some(3),
            last_transition_time: Some(Timestamp::from_unix_seconds(5)),
            reason: "R".into(),
            message: "ü".into(),
        };
        let endpoint = Endpoint { name: "a".into(), url: "b".into(), kind: "c".into(), notes: "d".into() };
        for kind in KINDS {
            let event = Event {
                event_key: event_key("a#b/c", 7, 12),
                kind,
                resource_ref: object("a"),
                conditions: vec![condition.clone()],
                endpoints: vec![endpoint.clone()],
                timestamp: Timestamp::from_unix_seconds(9),
            };
            assert_eq!(StoredEvent::of(&event).to_event(12).unwrap(), event);
        }
        assert_eq!(number_of(&event_key("x.9", 7, 12)), Some(12));
        assert_eq!(number_of("x"), None);
    }

    #[test]
    fn an_outcome_comes_back_as_it_was_and_stays_within_a_record() {
        let id = JobId::parse("j").unwrap();
        for outcome in [OutcomeKind::Conflict, OutcomeKind::Failed, OutcomeKind::Noop, OutcomeKind::Succeeded] {
            let result = JobResult {
                outcome,
                error: "e".into(),
                applied_ref: Some(object("a")),
                timestamp: Timestamp::from_unix_seconds(9),
            };
            assert_eq!(StoredOutcome::of(&id, None, true, &result).to_result().unwrap(), (id.clone(), result.clone()));
            for name in [253, 5_000] {
                let long = JobResult {
                    error: "ü".repeat(3_000),
                    applied_ref: Some(object(&"n".repeat(name))),
                    ..result.clone()
                };
                let stored = postcard::to_allocvec(&StoredOutcome::of(&id, Some([1; 8]), true, &long)).unwrap();
                assert!(stored.len() <= limits::RECORD_BYTES, "{}", stored.len());
            }
        }
    }
}

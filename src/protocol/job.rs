//! A job as the control plane sends it, and what it asks for (P1.3, P1.6).

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::manifest::{Manifest, ManifestError, wrong_name};
use super::{APPLICATION_INSTANCE, OPERATION, ObjectRef, Timestamp};
use crate::limits;

/// The name of a job: something that can be one segment of a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JobId(String);

impl JobId {
    /// Takes a text that is not empty, not longer than [`limits::JOB_ID_BYTES`], without control
    /// characters, and no relative path segment.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let usable = !text.is_empty()
            && text.len() <= limits::JOB_ID_BYTES
            && !text.chars().any(char::is_control)
            && text != "."
            && text != "..";
        usable.then(|| Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One job, borrowed from the text it came in.
#[derive(Debug)]
pub struct Job<'a> {
    /// Its name.
    pub id: JobId,
    /// `apply`, `delete` or `intent`.
    pub kind: Cow<'a, str>,
    /// What is to be done; `null` is none.
    pub payload: Option<&'a RawValue>,
    /// The same, encrypted (P2.5); `null` is none.
    pub encrypted_payload: Option<Cow<'a, str>>,
    /// The owner's signature (P2.4); `null` and empty are none.
    pub signature: Option<Cow<'a, str>>,
    /// Empty = never a duplicate.
    pub idempotency_key: Cow<'a, str>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// After this it is not to be done; none = never expires.
    pub expires_at: Option<Timestamp>,
}

/// What a job asks for.
#[derive(Debug)]
pub enum Instruction<'a> {
    /// Apply this object.
    Apply(Manifest<'a>),
    /// Delete this object.
    Delete(ObjectRef),
    /// Get a new bearer.
    RotateCredentials,
}

/// Why a text is no job that could be worked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobError {
    /// The payload's object cannot be used.
    Manifest(ManifestError),
    /// A member is missing or of the wrong type.
    Malformed(&'static str),
    /// There is no payload.
    NoPayload,
    /// An intent that this version does not know.
    UnknownIntent(String),
    /// A kind of job that this version does not know.
    UnknownKind(String),
}

impl JobError {
    /// One word for a result.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Manifest(_) => "InvalidManifest",
            Self::Malformed(_) => "MalformedJob",
            Self::NoPayload => "NoPayload",
            Self::UnknownIntent(_) => "UnknownIntent",
            Self::UnknownKind(_) => "UnknownJobKind",
        }
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest(error) => error.fmt(f),
            Self::Malformed(member) => write!(f, "{member} is missing or of the wrong type"),
            Self::NoPayload => f.write_str("the job has no payload"),
            Self::UnknownIntent(intent) => write!(f, "the intent {intent:?} is not known to this version of the agent"),
            Self::UnknownKind(kind) => write!(f, "the job kind {kind:?} is not known to this version of the agent"),
        }
    }
}

impl std::error::Error for JobError {}

impl<'a> Job<'a> {
    /// Reads a job.
    ///
    /// # Errors
    /// When a member is missing or of the wrong type; the id comes with the error where it could be read,
    /// so that the job can be answered.
    pub fn parse(text: &'a str) -> Result<Self, (Option<JobId>, JobError)> {
        let id = read_id(text);
        let wire: Wire<'a> = match serde_json::from_str(text) {
            Ok(wire) => wire,
            Err(_) => return Err((id, JobError::Malformed("a member of the job"))),
        };
        let Some(id) = id else {
            return Err((None, JobError::Malformed("the job's id")));
        };
        let Some(kind) = wire.kind else {
            return Err((Some(id), JobError::Malformed("the job's kind")));
        };
        Ok(Self {
            id,
            kind: kind.0,
            payload: wire.payload,
            encrypted_payload: wire.encrypted_payload.map(|text| text.0),
            signature: wire.signature.map(|text| text.0).filter(|text| !text.is_empty()),
            idempotency_key: wire.idempotency_key.map(|key| key.0).unwrap_or_default(),
            created_at: wire.created_at,
            expires_at: wire.expires_at,
        })
    }

    /// What the job asks for as it came, for somebody who judges it and does not carry it out.
    ///
    /// # Errors
    /// As [`JobError`] lists them.
    pub fn instruction(&self) -> Result<Instruction<'a>, JobError> {
        Instruction::parse(&self.kind, self.payload.map_or("null", RawValue::get))
    }
}

impl<'a> Instruction<'a> {
    /// Reads what a job of this kind asks for with this payload.
    ///
    /// # Errors
    /// As [`JobError`] lists them.
    pub fn parse(kind: &str, payload: &'a str) -> Result<Self, JobError> {
        if !matches!(kind, "apply" | "delete" | "intent") {
            return Err(JobError::UnknownKind(bounded(kind)));
        }
        if payload == "null" {
            return Err(JobError::NoPayload);
        }
        let payload: &RawValue = serde_json::from_str(payload).map_err(|_| JobError::Malformed("the payload"))?;
        match kind {
            "apply" => Manifest::parse(payload, None).map(Instruction::Apply).map_err(JobError::Manifest),
            "delete" => read_delete(payload).map(Instruction::Delete),
            _ => read_intent(payload),
        }
    }
}

/// A job's id out of a text that may be wrong in every other respect.
fn read_id(text: &str) -> Option<JobId> {
    #[derive(Deserialize)]
    struct OnlyId<'a> {
        #[serde(borrow)]
        id: Text<'a>,
    }
    let only: OnlyId<'_> = serde_json::from_str(text).ok()?;
    JobId::parse(&only.id.0)
}

fn read_delete(payload: &RawValue) -> Result<ObjectRef, JobError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Payload {
        #[serde(default)]
        api_version: String,
        #[serde(default)]
        kind: String,
        #[serde(default)]
        name: String,
        #[serde(default)]
        namespace: Option<String>,
    }
    let payload: Payload = read(payload, "a member of the payload")?;
    for (member, name) in
        [(&payload.api_version, "payload.apiVersion"), (&payload.kind, "payload.kind"), (&payload.name, "payload.name")]
    {
        if member.is_empty() {
            return Err(JobError::Malformed(name));
        }
    }
    object_ref(payload.api_version, payload.kind, payload.namespace.unwrap_or_default(), payload.name)
}

/// Names an object that is to be deleted.
fn object_ref(api_version: String, kind: String, namespace: String, name: String) -> Result<ObjectRef, JobError> {
    match wrong_name(&api_version, &kind, &namespace, &name) {
        Some(wrong) => Err(JobError::Manifest(ManifestError::InvalidName(wrong))),
        None => Ok(ObjectRef { api_version, kind, namespace, name, ..ObjectRef::default() }),
    }
}

fn read_intent(payload: &RawValue) -> Result<Instruction<'_>, JobError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Payload<'a> {
        #[serde(borrow)]
        intent: Text<'a>,
        #[serde(borrow, default)]
        application_instance: Option<&'a RawValue>,
        #[serde(borrow, default)]
        operation: Option<&'a RawValue>,
        #[serde(default)]
        name: Option<String>,
        #[serde(default)]
        namespace: Option<String>,
    }
    let payload: Payload<'_> = read(payload, "a member of the payload")?;
    match &*payload.intent.0 {
        "ensure-application-instance" => {
            apply_intent(payload.application_instance, "payload.applicationInstance", APPLICATION_INSTANCE)
        }
        "request-operation" => apply_intent(payload.operation, "payload.operation", OPERATION),
        "delete-application-instance" => {
            let name = payload.name.filter(|name| !name.is_empty()).ok_or(JobError::Malformed("payload.name"))?;
            let namespace = payload
                .namespace
                .filter(|namespace| !namespace.is_empty())
                .ok_or(JobError::Malformed("payload.namespace"))?;
            let (api_version, kind) = APPLICATION_INSTANCE;
            object_ref(api_version.to_owned(), kind.to_owned(), namespace, name).map(Instruction::Delete)
        }
        "rotate-operator-credentials" => Ok(Instruction::RotateCredentials),
        other => Err(JobError::UnknownIntent(bounded(other))),
    }
}

fn apply_intent<'a>(
    object: Option<&'a RawValue>,
    member: &'static str,
    expected: (&str, &'static str),
) -> Result<Instruction<'a>, JobError> {
    let object = object.ok_or(JobError::Malformed(member))?;
    Manifest::parse(object, Some(expected)).map(Instruction::Apply).map_err(JobError::Manifest)
}

fn read<'a, T: Deserialize<'a>>(text: &'a RawValue, what: &'static str) -> Result<T, JobError> {
    // serde would take a list for an object, too.
    if !text.get().starts_with('{') {
        return Err(JobError::Malformed(what));
    }
    serde_json::from_str(text.get()).map_err(|_| JobError::Malformed(what))
}

/// The head of a text that somebody else chose, for a message.
fn bounded(text: &str) -> String {
    text.chars().take(64).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    #[serde(borrow, default)]
    kind: Option<Text<'a>>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
    #[serde(borrow, default)]
    encrypted_payload: Option<Text<'a>>,
    #[serde(borrow, default)]
    signature: Option<Text<'a>>,
    #[serde(borrow, default)]
    idempotency_key: Option<Text<'a>>,
    #[serde(default, deserialize_with = "Timestamp::optional")]
    created_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "Timestamp::optional")]
    expires_at: Option<Timestamp>,
}

/// A text, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::{Instruction, Job, JobError, JobId};
    use crate::limits;
    use serde_json::value::RawValue;

    fn error(text: &str) -> JobError {
        let job = Job::parse(text).unwrap();
        Instruction::parse(&job.kind, job.payload.map_or("null", RawValue::get)).unwrap_err()
    }

    #[test]
    fn a_job_with_everything_a_real_server_sends_is_read() {
        let job = Job::parse(
            r#"{"id":"j1","kind":"apply","payload":{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}},
                "encryptedPayload":null,"idempotencyKey":"","createdAt":"2026-01-01T00:00:00.123456789Z",
                "expiresAt":"0001-01-01T00:00:00Z","signature":null,"later":{"x":[1]}}"#,
        )
        .unwrap();
        assert_eq!(job.id.as_str(), "j1");
        assert_eq!(job.expires_at, None);
        assert!(job.created_at.is_some());
        assert!(job.idempotency_key.is_empty());
        assert!(matches!(job.instruction(), Ok(Instruction::Apply(manifest)) if manifest.kind == "ConfigMap"));
    }

    #[test]
    fn a_missing_or_null_payload_is_an_invalid_job() {
        assert_eq!(error(r#"{"id":"a","kind":"apply","payload":null}"#), JobError::NoPayload);
        assert_eq!(error(r#"{"id":"a","kind":"delete"}"#), JobError::NoPayload);
    }

    #[test]
    fn unknown_kinds_and_intents_are_named() {
        assert_eq!(error(r#"{"id":"a","kind":"dance","payload":{}}"#), JobError::UnknownKind("dance".into()));
        assert_eq!(
            error(r#"{"id":"a","kind":"intent","payload":{"intent":"dance"}}"#),
            JobError::UnknownIntent("dance".into())
        );
        assert_eq!(error(r#"{"id":"a","kind":"intent","payload":{}}"#), JobError::Malformed("a member of the payload"));
    }

    #[test]
    fn every_intent_is_read() {
        let instruction = |payload: &str| {
            let text = format!(r#"{{"id":"a","kind":"intent","payload":{payload}}}"#);
            let job = Job::parse(&text).unwrap();
            match job.instruction().unwrap() {
                Instruction::Apply(manifest) => format!("apply {} {}", manifest.kind, manifest.name),
                Instruction::Delete(object) => format!("delete {} {}/{}", object.kind, object.namespace, object.name),
                Instruction::RotateCredentials => "rotate".to_owned(),
            }
        };
        assert_eq!(
            instruction(r#"{"intent":"ensure-application-instance","applicationInstance":{"metadata":{"name":"w"}}}"#),
            "apply ApplicationInstance w"
        );
        assert_eq!(
            instruction(r#"{"intent":"request-operation","operation":{"metadata":{"name":"b"}}}"#),
            "apply Operation b"
        );
        assert_eq!(
            instruction(r#"{"intent":"delete-application-instance","name":"w","namespace":"n"}"#),
            "delete ApplicationInstance n/w"
        );
        assert_eq!(instruction(r#"{"intent":"rotate-operator-credentials"}"#), "rotate");
        let incomplete = [
            r#"{"intent":"ensure-application-instance"}"#,
            r#"{"intent":"request-operation"}"#,
            r#"{"intent":"delete-application-instance","name":"w"}"#,
        ];
        for payload in incomplete {
            let text = format!(r#"{{"id":"a","kind":"intent","payload":{payload}}}"#);
            assert!(matches!(error(&text), JobError::Malformed(_)), "{payload}");
        }
    }

    #[test]
    fn a_delete_needs_its_three_names() {
        assert_eq!(
            error(r#"{"id":"a","kind":"delete","payload":{"apiVersion":"v1","kind":"Secret"}}"#),
            JobError::Malformed("payload.name")
        );
        assert_eq!(
            error(r#"{"id":"a","kind":"delete","payload":[1]}"#),
            JobError::Malformed("a member of the payload")
        );
    }

    #[test]
    fn an_encrypted_payload_is_refused_and_not_ignored() {
        assert_eq!(error(r#"{"id":"a","kind":"apply","payload":null,"encryptedPayload":"x"}"#), JobError::NoPayload);
    }

    #[test]
    fn the_id_of_a_malformed_job_is_kept() {
        let (id, error) = Job::parse(r#"{"id":"a","kind":7}"#).unwrap_err();
        assert_eq!(id.unwrap().as_str(), "a");
        assert_eq!(error, JobError::Malformed("a member of the job"));
        for text in ["17", "{}", r#"{"id":5}"#, r#"{"id":"","kind":"apply"}"#] {
            assert!(Job::parse(text).unwrap_err().0.is_none(), "{text}");
        }
    }

    #[test]
    fn ids_that_cannot_be_a_path_segment_are_refused() {
        assert!(JobId::parse(&"x".repeat(limits::JOB_ID_BYTES)).is_some());
        assert!(JobId::parse(&"x".repeat(limits::JOB_ID_BYTES + 1)).is_none());
        for id in ["", ".", "..", "a\0b", "a\nb"] {
            assert!(JobId::parse(id).is_none(), "{id:?}");
        }
        assert!(JobId::parse("a/../b c?d#e").is_some());
    }
}

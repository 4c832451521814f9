//! What would become of a job, without doing it: which clauses it passes, and which one stops it.
//!
//! The clauses are those that a job meets on its way to the target, in their order. What only the control plane or the
//! target can tell (whether the job is closed, its idempotency key used, its namespace managed) is no part of it.

use serde::Serialize;

use super::gate::outer;
use crate::limits;
use crate::link::stream::{self, Arrival, Limit};
use crate::protocol::{Instruction, Job, Manifest, ObjectRef, Timestamp};
use crate::trust::envelope::PayloadKeys;
use crate::trust::keyring::Keyring;
use crate::trust::policy::{NamespaceRule, Policy, Provenance};
use crate::trust::replay::TrustState;
use crate::trust::signature::{Now, header_hash};
use crate::trust::{Assurance, Context, Payload, Signatures, TrustError, Verified, verify};

/// A clause that a job has to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Clause {
    /// The bounds of a job: bytes, values, depth, encoding.
    Limits,
    /// The members of the job.
    Job,
    /// The owner's signature, and that it can be decrypted.
    Signature,
    /// It has not expired.
    Expiry,
    /// What it asks for.
    Payload,
    /// What it may do here.
    Policy,
}

impl Clause {
    /// What has to be the case.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Limits => "within the bounds of a job",
            Self::Job => "a job, with its members in order",
            Self::Signature => "signed by the owner as far as this node asks, and readable by it",
            Self::Expiry => "not expired",
            Self::Payload => "an instruction that can be read",
            Self::Policy => "allowed by the policy of this node",
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The job's id, once it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// What it would do, once that could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// The clauses that it passed, in their order.
    pub passed: Vec<Clause>,
    /// The clause that stopped it; none when it is admitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    /// What is left for others to find out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<&'static str>,
}

/// What a job is held against.
pub struct Rules<'a> {
    /// What jobs may do.
    pub policy: &'a Policy,
    /// What is asked of signatures.
    pub signatures: Signatures,
    /// The keys that are trusted.
    pub keyring: Option<&'a Keyring>,
    /// The keyring is older than one that was used before: no job passes.
    pub is_behind: bool,
    /// The keys that payloads are encrypted to.
    pub payload_keys: Option<&'a PayloadKeys>,
    /// The id of this cluster; empty where it is not known.
    pub cluster: &'a str,
}

/// The clause that stopped a job, as its result would say it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stopped {
    /// Which one.
    pub clause: Clause,
    /// One word.
    pub reason: String,
    /// What happened, and what can be done.
    pub message: String,
}

/// Checks the text of one job. A clause of its own goes between two that are here: each either adds itself to what was
/// passed or ends the check.
#[must_use]
pub fn check(text: &[u8], rules: &Rules<'_>, now: Timestamp) -> Report {
    let mut report = Report { job: None, action: None, passed: Vec::new(), stopped: None, left: Vec::new() };
    report.stopped = walk(text, rules, now, &mut report).err();
    report
}

fn walk(text: &[u8], rules: &Rules<'_>, now: Timestamp, report: &mut Report) -> Result<(), Stopped> {
    if text.len() > limits::CHECK_FILE_BYTES {
        return Err(stop(Clause::Limits, Limit::Bytes.name(), Limit::Bytes));
    }
    let text = match stream::read_one(text) {
        None => return Err(stop(Clause::Job, "MalformedJob", NOT_ONE)),
        Some(Arrival::Job(text)) => text,
        Some(Arrival::Skipped { id, limit }) => {
            report.job = id.map(|id| id.to_string());
            return Err(stop(Clause::Limits, limit.name(), limit));
        }
    };
    report.passed.push(Clause::Limits);
    let job = Job::parse(&text).map_err(|(id, error)| {
        report.job = id.map(|id| id.to_string());
        stop(Clause::Job, error.reason(), error)
    })?;
    report.job = Some(job.id.to_string());
    report.passed.push(Clause::Job);
    let payload =
        verified(&job, rules, now).map_err(|error| stop(Clause::Signature, error.reason(), trusts(&error)))?;
    report.passed.push(Clause::Signature);
    if matches!(payload.assurance(), Assurance::Signed(_)) {
        report.left.push(
            "whether the number of its signature was taken before, and whether the running agent has lost its ledger or doubts its \
             clock (pullet status)",
        );
    }
    if job.expires_at.is_some_and(|end| end <= now) {
        return Err(stop(
            Clause::Expiry,
            super::machine::EXPIRED,
            "its time is over: the control plane has to send it anew",
        ));
    }
    report.passed.push(Clause::Expiry);
    let instruction = Instruction::parse(&payload.kind, payload.text())
        .map_err(|error| stop(Clause::Payload, error.reason(), error))?;
    report.action = Some(describe(&instruction));
    report.passed.push(Clause::Payload);
    let rule = rules
        .policy
        .check(&instruction, Provenance { encrypted: payload.encrypted })
        .map_err(|refusal| stop(Clause::Policy, refusal.reason(), refusal))?;
    report.passed.push(Clause::Policy);
    let is_in_namespace = match &instruction {
        Instruction::Apply(Manifest { namespace, .. }) | Instruction::Delete(ObjectRef { namespace, .. }) => {
            !namespace.is_empty()
        }
        Instruction::RotateCredentials => false,
    };
    if rule == NamespaceRule::Managed && is_in_namespace {
        report.left.push("whether the namespace is labelled managed-by=vworkspace or not there yet");
    }
    Ok(())
}

/// As the gate does it. The number of the signature is not counted, as if the job were known: that is the ledger's.
fn verified(job: &Job<'_>, rules: &Rules<'_>, now: Timestamp) -> Result<Verified<Payload>, TrustError> {
    let context = Context {
        signatures: rules.signatures,
        keyring: rules.keyring.filter(|_| !rules.is_behind),
        payload_keys: rules.payload_keys,
        cluster: rules.cluster,
        now: Now { seconds: now.unix_seconds(), confirmed: true },
        known: job.signature.as_deref().map(header_hash),
    };
    match verify(&outer(job), &context, &TrustState::default()) {
        Ok((payload, _)) => Ok(payload),
        Err(TrustError::NoKeyring) if rules.is_behind => Err(TrustError::KeyringBehind),
        Err(error) => Err(error),
    }
}

/// What happened, and what can be done where the person who checks can do it.
fn trusts(error: &TrustError) -> String {
    let advice = match error {
        TrustError::Unsigned => "; pullet sign job signs one",
        TrustError::NoKeyring => "; give the owner's with --keyring",
        TrustError::NoPayloadKey => "; it is checked on the node that it is for, by its user",
        _ => "",
    };
    format!("{error}{advice}")
}

/// What is said of a file that holds no job, or several.
const NOT_ONE: &str =
    "this is not one job: give it the text from the brace that opens the job to the one that closes it";

fn stop(clause: Clause, reason: &str, message: impl ToString) -> Stopped {
    Stopped { clause, reason: reason.to_owned(), message: message.to_string() }
}

fn describe(instruction: &Instruction<'_>) -> String {
    let object = |kind: &str, namespace: &str, name: &str| {
        let slash = if namespace.is_empty() { "" } else { "/" };
        format!("{kind} {namespace}{slash}{name}")
    };
    match instruction {
        Instruction::Apply(manifest) => {
            format!("apply {}", object(&manifest.kind, &manifest.namespace, &manifest.name))
        }
        Instruction::Delete(reference) => {
            format!("delete {}", object(&reference.kind, &reference.namespace, &reference.name))
        }
        Instruction::RotateCredentials => "rotate the credential".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Clause, Report, Rules as Held, check};
    use crate::limits;
    use crate::protocol::Timestamp;
    use crate::trust::Signatures;
    use crate::trust::policy::{Policy, Rules};

    fn report(text: &str) -> Report {
        let policy = Policy::from(Rules::of_owner(Vec::new(), Vec::new()));
        check(text.as_bytes(), &held(&policy), Timestamp::from_unix_seconds(1_800_000_000))
    }

    fn held(policy: &Policy) -> Held<'_> {
        Held {
            policy,
            signatures: Signatures::Warn,
            keyring: None,
            is_behind: false,
            payload_keys: None,
            cluster: "c1",
        }
    }

    fn stopped(text: &str) -> (Clause, String) {
        let stopped = report(text).stopped.unwrap();
        (stopped.clause, stopped.reason)
    }

    fn rotate(more: &str) -> String {
        format!(r#"{{"id":"a","kind":"intent"{more},"payload":{{"intent":"rotate-operator-credentials"}}}}"#)
    }

    #[test]
    fn an_admitted_job_passed_every_clause() {
        let report = report(&rotate(r#","expiresAt":"2027-06-01T00:00:00Z""#));
        assert_eq!(report.stopped, None);
        assert_eq!(report.job.as_deref(), Some("a"));
        assert_eq!(report.action.as_deref(), Some("rotate the credential"));
        assert_eq!(
            report.passed,
            [Clause::Limits, Clause::Job, Clause::Signature, Clause::Expiry, Clause::Payload, Clause::Policy]
        );
    }

    #[test]
    fn each_clause_stops_what_it_is_for() {
        for text in ["", "{", "[", "x", "{}{}", "{}\n{}", "{}]", "\u{feff}{}"] {
            assert_eq!(stopped(text), (Clause::Job, "MalformedJob".into()), "{text:?}");
        }
        assert_eq!(stopped("[]"), (Clause::Job, "MalformedJob".into()));
        assert_eq!(stopped(&rotate(r#","expiresAt":"2020-01-01T00:00:00Z""#)), (Clause::Expiry, "expired".into()));
        assert_eq!(stopped(r#"{"id":"a","kind":"apply"}"#), (Clause::Payload, "NoPayload".into()));
        let other =
            r#"{"id":"a","kind":"delete","payload":{"apiVersion":"v1","kind":"Secret","name":"a","namespace":"b"}}"#;
        assert_eq!(stopped(other), (Clause::Policy, "KindNotAllowed".into()));
    }

    #[test]
    fn the_bounds_are_those_of_a_job_that_arrives() {
        let sized = |bytes: usize| {
            let bare = rotate(r#","x":"""#).len();
            rotate(&format!(r#","x":"{}""#, "x".repeat(bytes - bare)))
        };
        assert_eq!(report(&sized(limits::JOB_BYTES)).stopped, None);
        assert_eq!(stopped(&sized(limits::JOB_BYTES + 1)), (Clause::Limits, "job_bytes".into()));
        assert_eq!(stopped(&" ".repeat(limits::CHECK_FILE_BYTES + 1)), (Clause::Limits, "job_bytes".into()));
        // Space between the tokens is no part of a job.
        let spaced = format!("{}{}", rotate(""), "\n".repeat(limits::CHECK_FILE_BYTES - rotate("").len()));
        assert_eq!(report(&spaced).stopped, None);
        let deep = format!(r#","x":{}{}"#, "[".repeat(limits::JOB_DEPTH), "]".repeat(limits::JOB_DEPTH));
        assert_eq!(stopped(&rotate(&deep)), (Clause::Limits, "job_depth".into()));
        let not_text = [br#"{"id":"a","kind":""#.as_slice(), &[0xff], br#""}"#].concat();
        let policy = Policy::from(Rules::default());
        let report = check(&not_text, &held(&policy), Timestamp::from_unix_seconds(0));
        assert_eq!(report.stopped.unwrap().reason, "job_encoding");
    }
}

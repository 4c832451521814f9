//! Jobs as a well-behaved control plane writes them, and as tests spoil them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// A job to be enqueued: id, times and idempotency key are filled in and can be replaced.
#[derive(Clone, Debug)]
pub(crate) struct Job(Value);

/// How long a job lives unless it is told otherwise.
const LIFE: Duration = Duration::from_hours(1);

impl Job {
    /// A job of any kind with any payload.
    pub(crate) fn new(kind: &str, payload: Value) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self(json!({
            "id": format!("job-{number}"),
            "kind": kind,
            "payload": payload,
            "idempotencyKey": format!("key-{number}"),
            "createdAt": timestamp(0),
            "expiresAt": timestamp(LIFE.as_secs().cast_signed()),
        }))
    }

    /// Kind `apply`.
    pub(crate) fn apply(manifest: Value) -> Self {
        Self::new("apply", manifest)
    }

    /// Kind `delete`.
    pub(crate) fn delete(api_version: &str, kind: &str, namespace: &str, name: &str) -> Self {
        let payload = json!({"apiVersion": api_version, "kind": kind, "namespace": namespace, "name": name});
        Self::new("delete", payload)
    }

    /// Kind `intent`; `members` is what the intent has beside its name.
    pub(crate) fn intent(intent: &str, mut members: Value) -> Self {
        if members.is_null() {
            members = json!({});
        }
        members["intent"] = json!(intent);
        Self::new("intent", members)
    }

    /// Sets a member of the job, known or not.
    pub(crate) fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.0[member] = value.into();
        self
    }

    /// Leaves a member out.
    pub(crate) fn without(mut self, member: &str) -> Self {
        if let Some(members) = self.0.as_object_mut() {
            members.remove(member);
        }
        self
    }

    /// Lets the job expire this many seconds from now; a negative number is the past.
    pub(crate) fn expires_in(self, seconds: i64) -> Self {
        self.with("expiresAt", timestamp(seconds))
    }

    /// Writes the job as a careless server does: members that nobody knows, a fraction down to nanoseconds,
    /// the year 1 for "never expires", an empty idempotency key. All of it is legal.
    pub(crate) fn odd(self) -> Self {
        let created = timestamp(0).replace('Z', ".123456789Z");
        self.with("createdAt", created)
            .with("expiresAt", "0001-01-01T00:00:00Z")
            .with("idempotencyKey", "")
            .with("x-priority", 7)
            .with("meta", json!({"by": ["odoo", null, 1.5e3], "id": "not-the-id"}))
    }

    /// The job's id, empty when it is no text.
    pub(crate) fn id(&self) -> &str {
        self.0.get("id").and_then(Value::as_str).unwrap_or_default()
    }
}

impl From<Job> for Value {
    fn from(job: Job) -> Self {
        job.0
    }
}

/// A `ConfigMap` with one entry.
pub(crate) fn config_map(namespace: &str, name: &str, value: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": {"value": value},
    })
}

/// An `ApplicationInstance` that installs nothing.
pub(crate) fn application_instance(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "apps.vworkspace.io/v1alpha1",
        "kind": "ApplicationInstance",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"appRef": {"catalogId": name}, "mode": "placeholder"},
    })
}

/// An `Operation` on an application, of a type that every node does by default.
pub(crate) fn operation(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "ops.vworkspace.io/v1alpha1",
        "kind": "Operation",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "targetRef": {"apiVersion": "apps.vworkspace.io/v1alpha1", "kind": "ApplicationInstance", "name": name},
            "type": "Backup", "engine": "velero",
        },
    })
}

/// RFC 3339, this many seconds from [`now`].
pub(crate) fn timestamp(seconds_from_now: i64) -> String {
    let now = now().cast_signed();
    let moment = jiff::Timestamp::from_second(now.saturating_add(seconds_from_now)).unwrap_or(jiff::Timestamp::MAX);
    moment.to_string()
}

/// Seconds since 1970 by the clock of the machine, asked in another way than the agent asks, but never before the agent's floor.
pub(crate) fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs().max(pullet::clock::floor())
}

/// The date as HTTP writes it, this long from now.
pub(crate) fn http_date(from_now: Duration) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    httpdate::fmt_http_date(UNIX_EPOCH + now + from_now)
}

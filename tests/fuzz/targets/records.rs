//! Records with nothing in them that a test did not ask for, for the fuzz targets and the tests of the journal.
//! Who includes this file has the journal's `record` beside it.

use super::record::{Body, StoredEvent, StoredJob, StoredOutcome, StoredRef};

/// An unsigned job without an idempotency key.
pub(crate) fn job(id: &str, text: &str) -> StoredJob {
    StoredJob { id: id.into(), key: None, expires_at: None, body: Body::Inline(text.into()), header: None }
}

/// A job that succeeded.
pub(crate) fn outcome(id: &str) -> StoredOutcome {
    StoredOutcome {
        id: id.into(),
        key: Some([1; 8]),
        had_effect: true,
        outcome: 3,
        error: String::new(),
        applied: None,
        at: 1,
        header: None,
    }
}

/// Of an object.
pub(crate) fn event(object: StoredRef) -> StoredEvent {
    StoredEvent {
        shape: "s".into(),
        epoch: 1,
        kind: 1,
        object,
        conditions: vec![],
        endpoints: vec![],
        at: 1,
        made: None,
    }
}

/// Without a namespace.
pub(crate) fn object(name: &str) -> StoredRef {
    StoredRef {
        api_version: "v1".into(),
        kind: "A".into(),
        namespace: String::new(),
        name: name.into(),
        uid: String::new(),
        generation: None,
    }
}

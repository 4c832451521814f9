//! How a job ends.

use crate::protocol::{ObjectRef, OutcomeKind};

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// In one word.
    pub outcome: OutcomeKind,
    /// Why; never empty when it failed.
    pub error: String,
    /// More to be said of a success, told as a status before the result.
    pub note: String,
    /// The object.
    pub applied: Option<ObjectRef>,
    /// Whether anything was changed.
    pub had_effect: bool,
}

impl Verdict {
    pub(in crate::job) fn failed(reason: &str, message: impl std::fmt::Display) -> Self {
        Self {
            outcome: OutcomeKind::Failed,
            error: format!("{reason}: {message}"),
            note: String::new(),
            applied: None,
            had_effect: false,
        }
    }

    pub(super) fn noop(error: &str) -> Self {
        Self { outcome: OutcomeKind::Noop, error: error.to_owned(), ..Self::succeeded(None, "") }.without_effect()
    }

    pub(super) fn succeeded(applied: Option<ObjectRef>, note: &str) -> Self {
        Self { outcome: OutcomeKind::Succeeded, error: String::new(), note: note.to_owned(), applied, had_effect: true }
    }

    pub(super) fn without_effect(mut self) -> Self {
        self.had_effect = false;
        self
    }

    pub(super) fn on(mut self, object: &ObjectRef) -> Self {
        self.applied = Some(object.clone());
        self.had_effect = true;
        self
    }
}

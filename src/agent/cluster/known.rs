//! What the parts of the agent let the status know.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::status::{News, Stage};
use crate::job::gate::Gate;
use crate::journal::Outbox;
use crate::link::{Account, Credential, Health};
use crate::protocol::Timestamp;

/// Shared by who finds it out and who says it.
#[derive(Default)]
pub(in super::super) struct Known {
    facts: Mutex<Facts>,
    changed: watch::Sender<u64>,
}

/// All of it.
#[derive(Default)]
pub(super) struct Facts {
    pub(super) stage: Stage,
    /// The generation of the Cluster that this is so for.
    pub(super) generation: i64,
    /// The line, while there is one.
    pub(super) line: Option<Line>,
    pub(super) news: Option<News>,
    /// There was a registration just now, and no line yet that could have heard of an outage.
    pub(super) just_registered: bool,
    /// When the credential in use was given.
    pub(super) registered_at: Option<Timestamp>,
    /// The mark of the one-time token that was tried last.
    pub(super) observed_token: String,
    /// That of the one which the credential in use was given for.
    pub(super) taken_token: String,
    /// Why the rotation that was asked for failed.
    pub(super) rotation_fault: String,
}

/// What a line is looked at by.
#[derive(Clone)]
pub(in super::super) struct Line {
    pub(in super::super) health: Arc<Health>,
    pub(in super::super) outbox: Arc<Outbox>,
    pub(in super::super) account: Arc<dyn Account>,
    pub(in super::super) gate: Arc<Gate>,
}

impl Known {
    /// Changes what is known, and tells.
    pub(super) fn set(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.facts());
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// This is going on from now on: whether it is something else.
    pub(super) fn enter(&self, stage: Stage) -> bool {
        let is_other = self.facts().stage != stage;
        if is_other {
            self.set(|facts| facts.stage = stage);
        }
        is_other
    }

    /// The Cluster is heard of as it is in this generation.
    pub(super) fn hears(&self, generation: i64) {
        if self.facts().generation != generation {
            self.set(|facts| facts.generation = generation);
        }
    }

    /// A Cluster of this generation is about to be served: nothing is known of it yet, and nothing is said.
    pub(super) fn begins(&self, generation: i64) {
        self.set(|facts| (facts.generation, facts.stage) = (generation, Stage::Starting));
    }

    /// This credential is in use; before this start that token was tried last.
    pub(super) fn holds(&self, credential: &Credential, tried: Option<&str>) {
        self.set(|facts| {
            facts.registered_at = credential.current.issued_at;
            facts.taken_token.clone_from(&credential.observed_token);
            // A token that was refused later than that is still the last one.
            if facts.observed_token.is_empty() {
                tried.unwrap_or(&credential.observed_token).clone_into(&mut facts.observed_token);
            }
        });
    }

    /// The line is there.
    pub(in super::super) fn serves(&self, line: Line) {
        self.set(|facts| {
            facts.line = Some(line);
            facts.stage = Stage::Serving;
        });
    }

    /// A new credential is in use, issued then.
    pub(in super::super) fn rotated(&self, issued_at: Option<Timestamp>) {
        self.set(|facts| {
            facts.news = Some(News::Rotated);
            facts.registered_at = issued_at;
            facts.rotation_fault.clear();
        });
    }

    pub(super) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of every change.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

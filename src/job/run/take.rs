//! One job of an answer, from its arrival to its ack: verified, judged, written down, taken.

use std::sync::Arc;

use tracing::{error, info, warn};

use super::super::gate::{self, Task};
use super::super::ledger::{KeyHash, Known};
use super::super::machine::{Effect, Fault};
use super::{Runner, Taken};
use crate::clock;
use crate::journal::record::{Body, StoredJob};
use crate::link::events;
use crate::link::stream::Arrival;
use crate::protocol::{EventKind, JobId, JobResult, OutcomeKind, Timestamp};
use crate::trust::signature::SignatureError;
use crate::trust::{Payload, Permitted, TrustError, Verified, permit};

impl Runner {
    pub(super) fn open_job(&self, arrival: &Arrival) -> Option<Task> {
        self.parts.gate.open_job(arrival, |id| self.book().ledger.header(id))
    }

    pub(super) async fn work_one(&self, task: Task, arrival: &Arrival) -> Taken {
        let known = self.book().ledger.look_up(&task.id, task.key);
        let id = task.id.clone();
        if task.expires_at.is_some() && matches!(known, Known::New | Known::Left) && !clock::standing().may_judge() {
            warn!(job = %id, "the clock of this node is in doubt: a job with an expiry waits until the time is confirmed");
            return Taken::Known; // Not acked: it comes again, and holds up nothing.
        }
        if let Err(gate::Fault::Untrusted(error)) = &task.content {
            return match known {
                // Its time was over after it was done: that is no fault of a redelivery.
                Known::Finished(result) if *error == TrustError::Signature(SignatureError::Expired) => {
                    self.parts.outbox.push_result(&id, result);
                    Taken::Known
                }
                _ if error.waits() => {
                    warn!(job = %id, %error, "the job is left, and comes again");
                    Taken::Left
                }
                // Its time was over before it could be acked.
                Known::Left if *error == TrustError::Signature(SignatureError::Expired) => {
                    let taken = self.refuse(&task, error).await;
                    if !matches!(taken, Taken::Left) {
                        self.forget(&id).await;
                    }
                    taken
                }
                // What claims to be a job that is known is no reason to touch that one.
                Known::Open | Known::Left | Known::Finished(_) => {
                    self.audit(&id, error);
                    Taken::Known
                }
                Known::Duplicate | Known::New => self.refuse(&task, error).await,
            };
        }
        let (act, fault) = self.judge(&task.content, task.key.map(KeyHash::stamp));
        if let (Some(Fault::Denied(denied)), Known::New) = (&fault, &known) {
            self.parts.gate.note_refusal(denied.reason());
        }
        let is_used = match known {
            Known::Duplicate => true,
            // Meanwhile another one may have used its key.
            Known::Left => self.book().ledger.is_used_before(task.key, u64::MAX),
            Known::Finished(_) | Known::New | Known::Open => false,
        };
        let mut facts = self.facts(task.expires_at, is_used, fault);
        match known {
            // A redelivery: it goes on, or its outcome is posted again.
            Known::Open | Known::Finished(_) => match (self.take(&id, &facts).await.1, known) {
                (Effect::Leave, _) => return Taken::Left,
                (effect, Known::Finished(result)) if effect != Effect::Drop => {
                    info!(job = %id, "the job came again; its outcome is posted again");
                    self.parts.outbox.push_result(&id, result);
                    return Taken::Known;
                }
                _ => return Taken::Known,
            },
            Known::Left => {
                self.book().ledger.take_up(&id);
                facts.is_kept = true;
            }
            Known::Duplicate | Known::New => {
                self.book().ledger.open(&id, task.key, task.header);
                facts.is_kept = self.write_down(&task, arrival).await;
                if let Some(next) = task.next {
                    // TRUST.md, Replay: committed before the ack. A number that nobody remembers could come again.
                    if !facts.is_kept {
                        error!(job = %id, "the job is left: its number cannot be written down, and it could be played again");
                        self.forget(&id).await;
                        return Taken::Left;
                    }
                    if !self.parts.gate.commit(&next) {
                        warn!(job = %id, "the job is left: a new keyring was pinned just now");
                        // Its number was written over what came with that keyring, and is not used up.
                        let gate = Arc::clone(&self.parts.gate);
                        self.on_disk(move |outbox| gate.write_again(outbox)).await;
                        self.forget(&id).await;
                        return Taken::Left;
                    }
                }
            }
        }
        let (state, effect) = self.take(&id, &facts).await;
        match effect {
            Effect::Keep => Taken::Left,
            Effect::Drop => {
                self.forget(&id).await;
                Taken::Known
            }
            Effect::Leave => {
                self.leave(&id, task.header.is_some()).await;
                Taken::Left
            }
            effect => {
                self.carry_out(id, facts, state, effect, act.as_ref()).await;
                Taken::Done
            }
        }
    }

    /// A job that is not ours and comes again. The number of a signed one is used up: it is kept with it, or it would be taken
    /// for its own replay.
    pub(super) async fn leave(&self, id: &JobId, is_signed: bool) {
        if !is_signed {
            return self.forget(id).await;
        }
        let first = self.book().ledger.leave(id);
        if let Some(first) = first {
            warn!(job = %first, "the job was left, and others after it: it is forgotten, and refused when it comes again");
            self.forget(&first).await;
        }
    }

    /// What may be carried out of a job, or why not.
    pub(super) fn judge<'a>(
        &self,
        content: &'a Result<Verified<Payload>, gate::Fault>,
        key: Option<String>,
    ) -> (Option<Permitted<'a>>, Option<Fault>) {
        let fault = match content {
            Ok(payload) => match permit(payload, self.parts.gate.policy(), key) {
                Ok(permitted) => return (Some(permitted), None),
                Err(denied) => Fault::Denied(denied),
            },
            Err(gate::Fault::Limit(limit)) => Fault::Limit(limit.name(), limit.to_string()),
            Err(gate::Fault::Malformed(error)) => Fault::Malformed(error.clone()),
            Err(gate::Fault::Untrusted(error)) => Fault::Untrusted(error.clone()),
        };
        (None, Some(fault))
    }

    /// Answers a job that is not trusted. Nothing is written down of it: whoever can send such jobs could wear out the
    /// flash, and push out of the memory what is kept of others. It comes again after a power cut, and is refused again.
    async fn refuse(&self, task: &Task, error: &TrustError) -> Taken {
        let id = &task.id;
        let facts = self.facts(task.expires_at, false, Some(Fault::Untrusted(error.clone())));
        match self.take(id, &facts).await.1 {
            Effect::End(verdict) => {
                if verdict.outcome == OutcomeKind::Failed {
                    self.audit(id, error);
                }
                let result = JobResult {
                    outcome: verdict.outcome,
                    error: verdict.error,
                    applied_ref: None,
                    timestamp: self.now().wall,
                };
                self.parts.outbox.push_result(id, result);
                Taken::Done
            }
            Effect::Leave => Taken::Left,
            _ => Taken::Known,
        }
    }

    /// Says that a job was refused for what it is, not for what it asks: enough to act on, and nothing of its content.
    fn audit(&self, id: &JobId, error: &TrustError) {
        let detail = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        warn!(job = %id, reason = error.reason(), %error, detail, "the job is refused");
        self.parts.gate.note_refusal(error.reason());
        let kind = match error {
            TrustError::Envelope(_) | TrustError::NoPayloadKey => EventKind::JobPayloadDecryptionFailed,
            _ => EventKind::JobPayloadSignatureInvalid,
        };
        let message = format!("job {id}: {error}");
        events::push_refused(&self.parts.outbox, &self.parts.cluster, kind, error.reason(), message);
    }

    /// Before the ack. Whether the job is on the disk, with the trust state that it leads to.
    async fn write_down(&self, task: &Task, arrival: &Arrival) -> bool {
        let body = match arrival {
            Arrival::Job(text) => Body::Inline(text.to_string()),
            Arrival::Skipped { limit, .. } => Body::Skipped(limit.name().to_owned()),
        };
        let job = StoredJob {
            id: task.id.as_str().to_owned(),
            key: task.key.map(KeyHash::to_bytes),
            expires_at: task.expires_at.map(Timestamp::unix_seconds),
            body,
            header: task.header,
        };
        let trust = task.next.map(|next| next.bytes());
        let number = self.on_disk(move |outbox| outbox.accept(job, trust.as_deref())).await.flatten();
        if let Some(number) = number {
            self.book().ledger.number(&task.id, number);
        }
        number.is_some()
    }
}

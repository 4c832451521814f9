//! Jobs that were open when the agent ended: each goes on where it was, and is answered once.
//!
//! A job whose object is there waits on for it to be ready. Any other one is acked again first, because its ack may
//! never have got out: an ack of a job that is ours already changes nothing, and one of a job that is closed (409, 404)
//! says so. Its object is looked at before anything is applied: the apply may have got out, and the word of it not have
//! come back or not have reached the disk. Nothing new is worked before that is done.

use std::sync::atomic::Ordering;

use tracing::{info, warn};

use super::super::gate::{self, Task};
use super::super::ledger::KeyHash;
use super::super::machine::{self, Effect, Input, State, Verdict, Wait};
use super::{Runner, Waiting};
use crate::clock;
use crate::journal::Ended;
use crate::journal::record::{Body, timestamp};
use crate::journal::store::{OpenJob, Restored};
use crate::limits;
use crate::link::backoff::{Backoff, draw};
use crate::link::intake::settle;
use crate::link::stream::{Arrival, Limit};
use crate::link::{self, Acknowledged};
use crate::protocol::JobId;
use crate::trust::TrustError;

impl Runner {
    /// Remembers what is known of earlier jobs. Gives those that are to be resumed.
    pub fn restore(&self, restored: Restored) -> Vec<OpenJob> {
        self.is_incomplete.store(restored.is_incomplete(), Ordering::Relaxed);
        self.is_read_only.store(restored.is_read_only, Ordering::Relaxed);
        let mut book = self.book();
        for key in restored.kept.keys {
            book.ledger.restore_key(KeyHash::from_bytes(key));
        }
        for outcome in &restored.kept.outcomes {
            if let Some((id, result)) = outcome.to_result() {
                book.ledger.restore_outcome(id, result, outcome.header);
            }
        }
        let (mut acting, mut count) = (Vec::new(), 0_usize);
        // What cannot be written down later is not gone on with: it is still open after a start with a disk that works.
        for open in restored.open.into_iter().filter(|_| !restored.is_read_only) {
            let Some(id) = JobId::parse(&open.job.id) else { continue };
            book.ledger.open(&id, open.job.key.map(KeyHash::from_bytes), open.job.header);
            book.ledger.number(&id, open.number);
            count += 1;
            match &open.applied {
                Some(object) => {
                    let mut facts = self.facts(open.job.expires_at.map(timestamp), false, None);
                    facts.is_kept = true;
                    let state = State::Waiting(Wait::new(object.to_object(), self.now().monotonic));
                    book.waiting.push(Waiting { id, facts, state });
                }
                None => acting.push(open),
            }
        }
        if count > 0 {
            info!(jobs = count, "jobs that were open when the agent ended go on");
        }
        self.waits.notify_one();
        acting
    }

    /// Resumes these, one after the other, and then lets new ones be worked. While the clock is in doubt those with an
    /// expiry stand back.
    pub async fn resume(&self, jobs: Vec<OpenJob>) {
        let mut standing_back = Vec::new();
        for open in jobs {
            if self.parts.stop.is_set() {
                return;
            }
            if open.job.expires_at.is_some() && !clock::standing().may_judge() {
                warn!(
                    job = open.job.id,
                    "the clock of this node is in doubt: the job goes on when the time is confirmed"
                );
                standing_back.push(open);
            } else {
                self.resume_one(open).await;
            }
        }
        self.resumed.set();
        for open in standing_back {
            if !self.until_the_time_is_known().await {
                return;
            }
            self.resume_one(open).await;
        }
    }

    /// False when it is time to stop.
    async fn until_the_time_is_known(&self) -> bool {
        while !clock::standing().may_judge() {
            tokio::select! {
                () = tokio::time::sleep(limits::CLOCK_LOOK) => {}
                () = self.parts.stop.wait() => return false,
            }
        }
        !self.parts.stop.is_set()
    }

    async fn resume_one(&self, open: OpenJob) {
        let Some(id) = JobId::parse(&open.job.id) else { return };
        if self.is_over(&id).await {
            return;
        }
        match self.ack_until_definite(&id).await {
            None => return,
            Some(Word::Acked(Acknowledged::Closed)) => {
                info!(job = %id, "the job is closed meanwhile and is dropped");
                return self.forget(&id).await;
            }
            Some(Word::Refused) => return self.leave(&id, open.job.header.is_some()).await,
            Some(Word::Acked(Acknowledged::Ours)) => {}
        }
        // The answer to the ack was dated, too.
        if open.job.expires_at.is_some() && !self.until_the_time_is_known().await {
            return;
        }
        let key = open.job.key.map(KeyHash::from_bytes);
        let arrival = match &open.job.body {
            Body::Skipped(name) => Limit::of_name(name).map(|limit| Arrival::Skipped { id: Some(id.clone()), limit }),
            Body::Inline(_) | Body::Spooled(_) => {
                let wanted = open.clone();
                self.on_disk(move |outbox| outbox.text(&wanted)).await.flatten().map(Arrival::Job)
            }
        };
        let Some(arrival) = arrival else {
            warn!(job = %id, "the text of the job cannot be read any more");
            return self.end(&id, Verdict::failed(UNREADABLE, "the journal is damaged; send a new job")).await;
        };
        let Some(task) = self.open_again(&arrival).await else { return self.forget(&id).await };
        let stamp = task.key.map(KeyHash::stamp);
        let (act, fault) = self.judge(&task.content, stamp);
        let is_used = self.book().ledger.is_used_before(key, open.number);
        let mut facts = self.facts(task.expires_at, is_used, fault);
        (facts.is_kept, facts.is_resumed) = (true, true);
        let (state, effect) = machine::step(State::Taking, Input::Acked(Acknowledged::Ours), &facts, self.now());
        debug_assert!(effect != Effect::Nothing);
        self.carry_out(id, facts, state, effect, act.as_ref()).await;
    }

    /// A page that cannot be read any more may have held the end of the job, and the checkpoint know of it: then it is written
    /// down anew, and posted.
    async fn is_over(&self, id: &JobId) -> bool {
        let (result, number, ended) = {
            let book = self.book();
            let Some(result) = book.ledger.outcome(id).cloned() else { return false };
            let (key, number) = book.ledger.of_open(id);
            let had_effect = book.ledger.is_used_before(key, 0);
            (result, number, Ended { key: key.map(KeyHash::to_bytes), header: book.ledger.header(id), had_effect })
        };
        info!(job = %id, "the job had ended before, and is answered as it was");
        let (of, written) = (id.clone(), result.clone());
        self.on_disk(move |outbox| outbox.finish(number, ended, &of, written)).await;
        self.book().ledger.finish(id, &result, ended.had_effect);
        self.freed.notify_one();
        true
    }

    /// It was verified when it was taken. Its number may have got lost on the way to the disk, and is counted then; one
    /// that was counted is known by the header it came with.
    async fn open_again(&self, arrival: &Arrival) -> Option<Task> {
        let task = self.parts.gate.open_job(arrival, |_| None)?;
        match (&task.content, &task.next) {
            (Ok(_), Some(next)) => {
                let (bytes, next) = (next.bytes(), *next);
                if self.on_disk(move |outbox| outbox.commit_trust(&bytes)).await == Some(true) {
                    let _ = self.parts.gate.commit(&next);
                }
                Some(task)
            }
            (Err(gate::Fault::Untrusted(TrustError::Replay(_))), _) => self.open_job(arrival),
            _ => Some(task),
        }
    }

    /// None when it is time to stop. Until there is an answer the job may be ours, even when it has expired.
    async fn ack_until_definite(&self, id: &JobId) -> Option<Word> {
        let mut backoff = Backoff::default();
        loop {
            let pause = match self.ack(id).await {
                Ok(acknowledged) => return Some(Word::Acked(acknowledged)),
                // It was never ours, or is not any more.
                Err(link::Fault::Refused(..)) => return Some(Word::Refused),
                Err(fault) => match settle(fault, &self.parts.account).await {
                    // P1.9.4: another credential is accepted now, and still nothing is repeated at once.
                    Ok(()) => backoff.next(draw()),
                    Err(fault) => {
                        warn!(job = %id, error = %fault, "the job was open when the agent ended; its ack is repeated");
                        let pause = if fault.is_passing() { backoff.next(draw()) } else { limits::PROBE_FIRST };
                        fault.retry_after().map_or(pause, |asked| pause.max(asked))
                    }
                },
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.parts.stop.wait() => return None,
            }
        }
    }
}

/// What the server said to an ack.
enum Word {
    Acked(Acknowledged),
    Refused,
}

/// The reason of a job whose text is lost.
const UNREADABLE: &str = "JournalDamaged";

//! What is known of earlier jobs: which are open, how the last ones ended, which keys were used.

use std::collections::VecDeque;

use ring::digest;

use crate::limits;
use crate::protocol::{JobId, JobResult};

/// The first eight bytes of the SHA-256 of an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyHash([u8; 8]);

impl KeyHash {
    /// None for an empty key, which is never a duplicate (P1.4).
    #[must_use]
    pub fn of(key: &str) -> Option<Self> {
        if key.is_empty() {
            return None;
        }
        let hash = digest::digest(&digest::SHA256, key.as_bytes());
        hash.as_ref().first_chunk().copied().map(Self)
    }

    /// As it was written down.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// As it is stamped on an object: base64url without padding.
    #[must_use]
    pub fn stamp(self) -> String {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        // 64 bits and two zeros are eleven letters.
        let bits = u128::from(u64::from_be_bytes(self.0)) << 2;
        (0..11).rev().map(|at| char::from(LETTERS[usize::try_from(bits >> (6 * at) & 63).unwrap_or(0)])).collect()
    }

    /// To be written down.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        self.0
    }
}

/// What the agent remembers of jobs, within [`limits::OPEN_JOBS`], [`limits::KEPT_OUTCOMES`] and
/// [`limits::KNOWN_KEYS`].
#[derive(Debug, Default)]
pub struct Ledger {
    open: Vec<OpenJob>,
    finished: VecDeque<Finished>,
    keys: VecDeque<KeyHash>,
}

#[derive(Debug)]
struct Finished {
    id: JobId,
    result: JobResult,
    header: Option<[u8; 8]>,
}

#[derive(Debug)]
struct OpenJob {
    id: JobId,
    key: Option<KeyHash>,
    /// Hash of the header of its signature.
    header: Option<[u8; 8]>,
    /// Its number in the journal; 0 = it is not there.
    number: u64,
    /// Its ack was refused, and nobody works it. Its number of the signature is used up: it is known when it comes again.
    is_left: bool,
}

/// What is known of a job that arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Its idempotency key was used by another job.
    Duplicate,
    /// It ended, and this is how.
    Finished(JobResult),
    /// Its ack was refused; it is written down, and waits to come again.
    Left,
    /// Nothing.
    New,
    /// It is being worked.
    Open,
}

impl Ledger {
    /// Looks a job up. The same id is a redelivery; another id with a used key is a duplicate (P1.5).
    #[must_use]
    pub fn look_up(&self, id: &JobId, key: Option<KeyHash>) -> Known {
        if let Some(open) = self.open.iter().find(|open| open.id == *id) {
            return if open.is_left { Known::Left } else { Known::Open };
        }
        if let Some(finished) = self.finished.iter().find(|finished| finished.id == *id) {
            return Known::Finished(finished.result.clone());
        }
        if self.is_used_before(key, u64::MAX) { Known::Duplicate } else { Known::New }
    }

    /// Its ack was refused: it stays as it is until it comes again. Gives the one that was left first where there are more than
    /// [`limits::LEFT_JOBS`] then; that one is to be forgotten.
    pub fn leave(&mut self, id: &JobId) -> Option<JobId> {
        for open in self.open.iter_mut().filter(|open| open.id == *id) {
            open.is_left = true;
        }
        let mut left = self.open.iter().filter(|open| open.is_left);
        let first = left.next()?.id.clone();
        (left.count() >= limits::LEFT_JOBS).then_some(first)
    }

    /// It came again, and is worked.
    pub fn take_up(&mut self, id: &JobId) {
        for open in self.open.iter_mut().filter(|open| open.id == *id) {
            open.is_left = false;
        }
    }

    /// A job is being worked from now on.
    pub fn open(&mut self, id: &JobId, key: Option<KeyHash>, header: Option<[u8; 8]>) {
        self.open.push(OpenJob { id: id.clone(), key, header, number: 0, is_left: false });
    }

    /// The hash of the header of a known job's signature.
    #[must_use]
    pub fn header(&self, id: &JobId) -> Option<[u8; 8]> {
        let open = self.open.iter().find(|open| open.id == *id).map(|open| open.header);
        open.or_else(|| self.finished.iter().find(|finished| finished.id == *id).map(|finished| finished.header))?
    }

    /// An open job is in the journal.
    pub fn number(&mut self, id: &JobId, number: u64) {
        for open in self.open.iter_mut().filter(|open| open.id == *id) {
            open.number = number;
        }
    }

    /// The key and the number of an open job.
    #[must_use]
    pub fn of_open(&self, id: &JobId) -> (Option<KeyHash>, u64) {
        self.open.iter().find(|open| open.id == *id).map_or((None, 0), |open| (open.key, open.number))
    }

    /// A key that was used before the start.
    pub fn restore_key(&mut self, key: KeyHash) {
        push(&mut self.keys, key, limits::KNOWN_KEYS);
    }

    /// A job that ended before the start.
    pub fn restore_outcome(&mut self, id: JobId, result: JobResult, header: Option<[u8; 8]>) {
        push(&mut self.finished, Finished { id, result, header }, limits::KEPT_OUTCOMES);
    }

    /// Whether a job that ended, or an open one that was taken before the one of this number, used this key. One that was left
    /// uses none.
    #[must_use]
    pub fn is_used_before(&self, key: Option<KeyHash>, number: u64) -> bool {
        let uses = |open: &OpenJob, key| open.key == Some(key) && open.number < number && !open.is_left;
        let is_earlier = |key| self.open.iter().any(|open| uses(open, key));
        key.is_some_and(|key| self.keys.contains(&key) || is_earlier(key))
    }

    /// A job is not ours after all.
    pub fn forget(&mut self, id: &JobId) {
        self.open.retain(|open| open.id != *id);
    }

    /// A job ended. Its key counts as used when it had an effect.
    pub fn finish(&mut self, id: &JobId, result: &JobResult, had_effect: bool) {
        let (key, header) = (self.of_open(id).0, self.header(id));
        self.forget(id);
        self.finished.retain(|finished| finished.id != *id);
        push(&mut self.finished, Finished { id: id.clone(), result: result.clone(), header }, limits::KEPT_OUTCOMES);
        if let Some(key) = key.filter(|_| had_effect) {
            push(&mut self.keys, key, limits::KNOWN_KEYS);
        }
    }

    /// How a job ended, whether it counts as open or not.
    #[must_use]
    pub fn outcome(&self, id: &JobId) -> Option<&JobResult> {
        self.finished.iter().find(|finished| finished.id == *id).map(|finished| &finished.result)
    }

    /// How many jobs are being worked.
    #[must_use]
    pub fn open_jobs(&self) -> usize {
        self.open.len()
    }
}

fn push<T>(ring: &mut VecDeque<T>, value: T, capacity: usize) {
    if ring.len() == capacity {
        ring.pop_front();
    }
    ring.push_back(value);
}

#[cfg(test)]
mod tests {
    use super::{KeyHash, Known, Ledger};
    use crate::limits;
    use crate::protocol::{JobId, JobResult, OutcomeKind, Timestamp};

    fn id(text: &str) -> JobId {
        JobId::parse(text).unwrap()
    }

    fn result() -> JobResult {
        JobResult {
            outcome: OutcomeKind::Succeeded,
            error: String::new(),
            applied_ref: None,
            timestamp: Timestamp::from_unix_seconds(1),
        }
    }

    #[test]
    fn the_same_id_is_a_redelivery_and_another_with_a_used_key_a_duplicate() {
        let mut ledger = Ledger::default();
        let key = KeyHash::of("k");
        assert_eq!(ledger.look_up(&id("a"), key), Known::New);
        ledger.open(&id("a"), key, None);
        assert_eq!(ledger.look_up(&id("a"), key), Known::Open);
        assert_eq!(ledger.look_up(&id("b"), key), Known::Duplicate);
        ledger.finish(&id("a"), &result(), true);
        assert_eq!(ledger.look_up(&id("a"), key), Known::Finished(result()));
        assert_eq!(ledger.look_up(&id("b"), key), Known::Duplicate);
        assert_eq!(ledger.open_jobs(), 0);
    }

    #[test]
    fn an_empty_key_is_never_a_duplicate() {
        assert_eq!(KeyHash::of(""), None);
        let mut ledger = Ledger::default();
        ledger.open(&id("a"), None, None);
        ledger.finish(&id("a"), &result(), true);
        assert_eq!(ledger.look_up(&id("b"), None), Known::New);
    }

    #[test]
    fn of_two_open_jobs_with_one_key_the_first_one_is_done() {
        let mut ledger = Ledger::default();
        let key = KeyHash::of("k");
        for (name, number) in [("a", 5), ("b", 9)] {
            ledger.open(&id(name), key, None);
            ledger.number(&id(name), number);
        }
        assert!(!ledger.is_used_before(key, 5) && ledger.is_used_before(key, 9));
        assert_eq!(ledger.of_open(&id("b")), (key, 9));
        ledger.forget(&id("a"));
        assert!(!ledger.is_used_before(key, 9));
        ledger.restore_key(key.unwrap());
        assert!(ledger.is_used_before(key, 9) && !ledger.is_used_before(None, 9));
    }

    #[test]
    fn a_job_that_was_left_is_known_and_uses_no_key_until_it_comes_again() {
        let mut ledger = Ledger::default();
        let key = KeyHash::of("k");
        ledger.open(&id("a"), key, Some([7; 8]));
        assert_eq!(ledger.leave(&id("a")), None);
        assert_eq!((ledger.look_up(&id("a"), key), ledger.look_up(&id("b"), key)), (Known::Left, Known::New));
        assert_eq!((ledger.header(&id("a")), ledger.open_jobs()), (Some([7; 8]), 1));
        ledger.take_up(&id("a"));
        assert_eq!((ledger.look_up(&id("a"), key), ledger.look_up(&id("b"), key)), (Known::Open, Known::Duplicate));
        // Whoever leaves more and more of them leaves no room for others: the first one goes.
        for number in 0..limits::LEFT_JOBS {
            ledger.open(&id(&format!("c{number}")), None, None);
            assert_eq!(ledger.leave(&id(&format!("c{number}"))), None);
        }
        assert_eq!(ledger.leave(&id("a")), Some(id("a")), "by their arrival");
    }

    #[test]
    fn a_stamp_is_the_hash_in_base64url() {
        assert_eq!(KeyHash::from_bytes([0; 8]).stamp(), "AAAAAAAAAAA");
        assert_eq!(KeyHash::from_bytes([0xff; 8]).stamp(), "__________8");
        assert_eq!(KeyHash::from_bytes(*b"12345678").stamp(), "MTIzNDU2Nzg");
    }

    #[test]
    fn a_job_without_effect_leaves_its_key_unused() {
        let mut ledger = Ledger::default();
        let key = KeyHash::of("k");
        ledger.open(&id("a"), key, None);
        ledger.finish(&id("a"), &result(), false);
        assert_eq!(ledger.look_up(&id("b"), key), Known::New);
        ledger.open(&id("b"), key, None);
        ledger.forget(&id("b"));
        assert_eq!(ledger.look_up(&id("c"), key), Known::New);
    }

    #[test]
    fn no_more_is_remembered_than_the_limits_say() {
        let mut ledger = Ledger::default();
        for number in 0..=limits::KNOWN_KEYS {
            let id = id(&format!("j{number}"));
            ledger.open(&id, KeyHash::of(&format!("k{number}")), None);
            ledger.finish(&id, &result(), true);
        }
        assert_eq!(ledger.finished.len(), limits::KEPT_OUTCOMES);
        assert_eq!(ledger.keys.len(), limits::KNOWN_KEYS);
        assert_eq!(ledger.look_up(&id("x"), KeyHash::of("k0")), Known::New);
        assert_eq!(ledger.look_up(&id("x"), KeyHash::of("k1")), Known::Duplicate);
    }
}

//! What must not be forgotten of the jobs that were accepted, in 192 bytes that are written before the ack.
//!
//! ```text
//!   0  version of the keyring     4
//!   4  its epoch                  8
//!  12  whatever; zeros            8   meant for a floor of the clock, which lies in clock.json
//!  20  when the ledger was lost   8   Unix seconds; the highest number = noticed before the time was known
//!  28  1 = the ledger was lost    1   2 = it was, and somebody has said that nothing of it comes again
//!  29  zeros                      3
//!  32  8 × key                   20   4 bytes of its name, highest seq, which of the 64 up to it were accepted
//! ```
//! All numbers are little-endian. A key's row of zeros is free.
//!
//! Nothing here changes a state: what is allowed gives a new one, which is committed when all else is allowed too.

use std::fmt;

use super::key_id::KeyId;
use super::keyring::{Keyring, KeyringError, Use};
use crate::limits;

/// Bytes of a state.
pub const STATE_BYTES: usize = 192;

/// The time of a loss that was noticed while nobody knew the time.
pub const UNDATED: i64 = i64::MAX;

/// Sequence numbers below the highest one that are remembered one by one.
const WINDOW: u64 = 64;

/// Why a sequence number is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayError {
    /// The number is more than [`limits::SEQUENCE_STEP`] above the highest one.
    Jump,
    /// No row is left for the key: the state does not go with the keyring.
    NoRoom,
    /// The state counts in another epoch.
    OtherEpoch,
    /// The number was accepted before, or is too old to tell.
    Replayed,
    /// The first number of a key is above [`limits::SEQUENCE_STEP`].
    Start,
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Jump => write!(f, "the job's seq skips more than {}", limits::SEQUENCE_STEP),
            Self::NoRoom => f.write_str("there is no room to remember the job's seq: the keyring has other keys"),
            Self::OtherEpoch => f.write_str("the job's seq counts in another epoch than the trust state"),
            Self::Replayed => f.write_str("the job's seq was used before, or is too old"),
            Self::Start => write!(f, "the first seq of a key is above {}", limits::SEQUENCE_STEP),
        }
    }
}

impl std::error::Error for ReplayError {}

/// The numbers of one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Row {
    kid: [u8; 4],
    high: u64,
    /// Bit n: `high - n` was accepted. Bit 0 is always set, so that a row of zeros is a free one.
    window: u64,
}

impl Row {
    fn is_free(&self) -> bool {
        self.window == 0
    }

    fn accept(self, seq: u64) -> Result<Self, ReplayError> {
        if let Some(ahead) = seq.checked_sub(self.high).filter(|ahead| *ahead > 0) {
            if ahead > limits::SEQUENCE_STEP {
                return Err(ReplayError::Jump);
            }
            let window = u32::try_from(ahead).ok().and_then(|ahead| self.window.checked_shl(ahead)).unwrap_or(0);
            return Ok(Self { high: seq, window: window | 1, ..self });
        }
        let behind = self.high.saturating_sub(seq);
        let bit = u32::try_from(behind).ok().filter(|_| behind < WINDOW).and_then(|behind| 1_u64.checked_shl(behind));
        match bit {
            Some(bit) if self.window & bit == 0 => Ok(Self { window: self.window | bit, ..self }),
            _ => Err(ReplayError::Replayed),
        }
    }
}

/// What a node knows about what it trusted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrustState {
    /// Version of the pinned keyring; 0 = none.
    pub keyring_version: u32,
    /// Epoch of the pinned keyring.
    pub epoch: u64,
    /// Both copies of this state were unreadable at that time, or [`UNDATED`]: what was accepted before is not known any
    /// more.
    pub lost_at: Option<i64>,
    /// The ledger was lost in this epoch, and somebody who can tell has said that nothing of it comes again.
    is_cleared: bool,
    rows: [Row; limits::KEYS],
}

impl TrustState {
    /// The state after a job with this number.
    ///
    /// After a loss the first number of a key may be any: the bar is then the time of the loss, which a job must be
    /// younger than. It stays so in this epoch when the loss is cleared: an owner who is far beyond the first numbers could
    /// not go on otherwise.
    ///
    /// # Errors
    /// When the number is not one that may come now.
    pub fn accept(&self, kid: KeyId, epoch: u64, seq: u64) -> Result<Self, ReplayError> {
        if epoch != self.epoch {
            return Err(ReplayError::OtherEpoch);
        }
        let mut next = *self;
        let known = next.rows.iter_mut().find(|row| !row.is_free() && row.kid == kid.prefix());
        if let Some(row) = known {
            *row = row.accept(seq)?;
            return Ok(next);
        }
        if seq > limits::SEQUENCE_STEP && self.lost_at.is_none() && !self.is_cleared {
            return Err(ReplayError::Start);
        }
        let row = next.rows.iter_mut().find(|row| row.is_free()).ok_or(ReplayError::NoRoom)?;
        *row = Row { kid: kid.prefix(), high: seq, window: 1 };
        Ok(next)
    }

    /// The highest number that was accepted of a key.
    #[must_use]
    pub fn high(&self, kid: KeyId) -> Option<u64> {
        self.rows.iter().find(|row| !row.is_free() && row.kid == kid.prefix()).map(|row| row.high)
    }

    /// The state with this keyring pinned. A new epoch forgets all numbers, and with them a loss: no job of an earlier
    /// epoch is accepted again. A key that is no longer in the ring is remembered as long as there is room, so that it
    /// may come back in the same epoch without its old jobs.
    ///
    /// # Errors
    /// When the ring is older than the one the state knows.
    pub fn pin(&self, ring: &Keyring) -> Result<Self, KeyringError> {
        if ring.version() < self.keyring_version {
            return Err(KeyringError::Rollback);
        }
        if ring.epoch() < self.epoch {
            return Err(KeyringError::Epoch);
        }
        let mut next = Self { keyring_version: ring.version(), epoch: ring.epoch(), ..*self };
        if ring.epoch() > self.epoch {
            // The first ring that is pinned comes with the first epoch, and tells nothing about a loss before.
            if self.keyring_version > 0 {
                next.lost_at = None;
            }
            next.is_cleared = false;
            next.rows = Default::default();
            return Ok(next);
        }
        let jobs = || ring.keys().iter().filter(|key| key.usage() == Use::Job).map(|key| key.kid().prefix());
        let rows = self.rows;
        let wanted = jobs().filter(|kid| !rows.iter().any(|row| !row.is_free() && row.kid == *kid)).count();
        let free = rows.iter().filter(|row| row.is_free()).count();
        let mut missing = wanted.saturating_sub(free);
        for row in &mut next.rows {
            if missing > 0 && !row.is_free() && !jobs().any(|kid| kid == row.kid) {
                *row = Row::default();
                missing = missing.saturating_sub(1);
            }
        }
        Ok(next)
    }

    /// The state after somebody who can tell has said that nothing of what was lost comes again.
    #[must_use]
    pub fn without_loss(self) -> Self {
        Self { lost_at: None, is_cleared: true, ..self }
    }

    /// As it is written.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; STATE_BYTES] {
        let mut bytes = [0; STATE_BYTES];
        let mut places = bytes.iter_mut();
        let mut put = |part: &[u8]| places.by_ref().zip(part).for_each(|(place, byte)| *place = *byte);
        put(&self.keyring_version.to_le_bytes());
        put(&self.epoch.to_le_bytes());
        put(&[0; 8]);
        put(&self.lost_at.unwrap_or(0).to_le_bytes());
        put(&[if self.is_cleared { 2 } else { u8::from(self.lost_at.is_some()) }, 0, 0, 0]);
        for row in &self.rows {
            put(&row.kid);
            put(&row.high.to_le_bytes());
            put(&row.window.to_le_bytes());
        }
        bytes
    }

    /// Reads what [`Self::to_bytes`] wrote; none for anything else.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; STATE_BYTES]) -> Option<Self> {
        let mut rest = bytes.as_slice();
        let keyring_version = u32::from_le_bytes(take(&mut rest)?);
        let epoch = u64::from_le_bytes(take(&mut rest)?);
        let _: [u8; 8] = take(&mut rest)?;
        let lost_at = i64::from_le_bytes(take(&mut rest)?);
        let (lost_at, is_cleared) = match take(&mut rest)? {
            [flag @ (0 | 2), 0, 0, 0] if lost_at == 0 => (None, flag == 2),
            [1, 0, 0, 0] => (Some(lost_at), false),
            _ => return None,
        };
        let mut rows = [Row::default(); limits::KEYS];
        for row in &mut rows {
            row.kid = take(&mut rest)?;
            row.high = u64::from_le_bytes(take(&mut rest)?);
            row.window = u64::from_le_bytes(take(&mut rest)?);
            if row.window & 1 == 0 && *row != Row::default() {
                return None;
            }
        }
        let used = || rows.iter().filter(|row| !row.is_free());
        let twice = used().any(|row| used().filter(|other| other.kid == row.kid).count() > 1);
        (!twice).then_some(Self { keyring_version, epoch, lost_at, is_cleared, rows })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (part, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*part)
}

#[cfg(test)]
mod tests {
    use super::{ReplayError, Row, STATE_BYTES, TrustState};
    use crate::limits::SEQUENCE_STEP;
    use crate::trust::key_id::KeyId;
    use crate::trust::keyring::{Key, Keyring, Use};
    use crate::trust::sign::SigningKey;

    fn kid(n: u8) -> KeyId {
        KeyId::of_ed25519(&[n; 32])
    }

    proptest::proptest! {
        /// Beside a set that forgets nothing: no number twice, and none refused that is new, near and not too old.
        #[test]
        fn the_window_is_as_good_as_a_set(steps in proptest::collection::vec(0_u64..150, 1..200)) {
            let mut state = TrustState::default();
            let mut seen = std::collections::BTreeSet::new();
            for (at, step) in steps.iter().enumerate() {
                let seq = at as u64 + step;
                let high = seen.last().copied().unwrap_or(0);
                let fresh = !seen.contains(&seq) && seq + 64 > high;
                match state.accept(kid(1), 0, seq) {
                    Ok(next) => {
                        proptest::prop_assert!(fresh, "{} after {}", seq, high);
                        state = TrustState::from_bytes(&next.to_bytes()).unwrap();
                        seen.insert(seq);
                    }
                    Err(error) => proptest::prop_assert!(!fresh && error == ReplayError::Replayed),
                }
            }
        }
    }

    fn accept_all(state: TrustState, numbers: &[u64]) -> TrustState {
        numbers.iter().fold(state, |state, seq| state.accept(kid(1), 0, *seq).unwrap())
    }

    #[test]
    fn a_number_is_accepted_once() {
        let state = accept_all(TrustState::default(), &[5, 3, 4, 70, 7, 69]);
        for seq in [5, 3, 4, 70, 7, 69, 6, 0] {
            assert_eq!(state.accept(kid(1), 0, seq), Err(ReplayError::Replayed), "{seq}");
        }
        for seq in [8, 68, 71, 1000] {
            assert!(state.accept(kid(1), 0, seq).is_ok(), "{seq}");
        }
        assert_eq!(state.high(kid(1)), Some(70));
        assert_eq!(state.high(kid(2)), None);
        assert!(state.accept(kid(2), 0, 5).is_ok(), "another key counts for itself");
    }

    #[test]
    fn a_stolen_key_cannot_burn_the_sequence() {
        let start = TrustState::default();
        assert_eq!(start.accept(kid(1), 0, SEQUENCE_STEP + 1), Err(ReplayError::Start));
        let state = start.accept(kid(1), 0, SEQUENCE_STEP).unwrap();
        assert_eq!(state.accept(kid(1), 0, 2 * SEQUENCE_STEP + 1), Err(ReplayError::Jump));
        assert_eq!(state.accept(kid(1), 0, u64::MAX), Err(ReplayError::Jump));
        let state = state.accept(kid(1), 0, 2 * SEQUENCE_STEP).unwrap();
        assert_eq!(state.accept(kid(1), 0, 2 * SEQUENCE_STEP - 64), Err(ReplayError::Replayed));
        assert!(state.accept(kid(1), 0, 2 * SEQUENCE_STEP - 63).is_ok());
    }

    #[test]
    fn other_epochs_and_a_ninth_key_are_refused() {
        let mut state = TrustState::default();
        assert_eq!(state.accept(kid(1), 1, 1), Err(ReplayError::OtherEpoch));
        for n in 1..=8 {
            state = state.accept(kid(n), 0, 0).unwrap();
            assert_eq!(state.accept(kid(n), 0, 0), Err(ReplayError::Replayed), "seq 0 counts like any other");
        }
        assert_eq!(state.accept(kid(9), 0, 1), Err(ReplayError::NoRoom));
    }

    #[test]
    fn after_a_loss_a_key_starts_anywhere() {
        let state = TrustState { lost_at: Some(17), ..TrustState::default() };
        let state = state.accept(kid(1), 0, 1 << 40).unwrap();
        assert_eq!(state.accept(kid(1), 0, 1 << 40), Err(ReplayError::Replayed));
        assert_eq!(state.accept(kid(1), 0, (1 << 40) + SEQUENCE_STEP + 1), Err(ReplayError::Jump));
    }

    /// The owner's next number is far beyond the first ones, and nobody can tell the node where it stood.
    #[test]
    fn a_loss_that_was_cleared_lets_an_old_owner_go_on_and_no_number_twice() {
        let lost = TrustState { keyring_version: 3, lost_at: Some(17), ..TrustState::default() };
        let state = lost.accept(kid(2), 0, 4).unwrap().without_loss();
        assert_eq!(state.lost_at, None);
        let state = TrustState::from_bytes(&state.to_bytes()).unwrap().accept(kid(1), 0, 1 << 40).unwrap();
        assert_eq!(state.accept(kid(1), 0, 1 << 40), Err(ReplayError::Replayed));
        assert_eq!(state.accept(kid(1), 0, (1 << 40) + SEQUENCE_STEP + 1), Err(ReplayError::Jump));
        assert_eq!(state.accept(kid(2), 0, 4), Err(ReplayError::Replayed), "what came since the loss is known");
        // A later loss is one again, and a new epoch begins at its first numbers.
        let again = TrustState { lost_at: Some(18), ..TrustState::default() };
        assert_eq!(TrustState::from_bytes(&again.to_bytes()), Some(again));
        let key = |n: u8, usage| Key::new(*SigningKey::from_seed(&[n; 32]).unwrap().public(), usage, None, None);
        let keys = [key(8, Use::Root), key(9, Use::Job)];
        let ring = SigningKey::from_seed(&[8; 32]).unwrap().sign_keyring(4, 1, &keys);
        let next = state.pin(&Keyring::restore(&ring).unwrap()).unwrap();
        assert_eq!(next.accept(kid(1), 1, SEQUENCE_STEP + 1), Err(ReplayError::Start));
    }

    #[test]
    fn comes_back_from_its_bytes() {
        let mut state = TrustState { keyring_version: 7, epoch: 0, lost_at: Some(0), ..Default::default() };
        for n in 1..=8 {
            state = accept_all(state, &[u64::from(n) * 1000]).accept(kid(n + 1), 0, u64::from(n)).unwrap_or(state);
        }
        assert_eq!(TrustState::from_bytes(&state.to_bytes()), Some(state));
        assert_eq!(TrustState::from_bytes(&[0; STATE_BYTES]), Some(TrustState::default()));
        let mut bytes = state.to_bytes();
        bytes[12..20].fill(7);
        assert_eq!(TrustState::from_bytes(&bytes), Some(state), "a floor that an earlier build may have written");
    }

    #[test]
    fn bytes_that_nobody_wrote_are_no_state() {
        let state = accept_all(TrustState::default(), &[5]).accept(kid(2), 0, 5).unwrap();
        let bytes = state.to_bytes();
        let with = |at: usize, byte: u8| {
            let mut changed = bytes;
            changed[at] = byte;
            TrustState::from_bytes(&changed)
        };
        assert_eq!(with(28, 3), None, "an unknown flag");
        assert_eq!(with(29, 1), None);
        assert_eq!(with(20, 1), None, "a time of a loss without a loss");
        let mut cleared = state.without_loss().to_bytes();
        cleared[20] = 1;
        assert_eq!(TrustState::from_bytes(&cleared), None, "a time of a loss that was cleared");
        assert_eq!(with(32 + 12, 2), None, "a window without its highest number");
        assert_eq!(with(191, 1), None, "a free row with something in it");
        let mut twice = state;
        twice.rows[3] = Row { ..twice.rows[0] };
        assert_eq!(TrustState::from_bytes(&twice.to_bytes()), None);
        assert_eq!(with(0, 9).map(|state| state.keyring_version), Some(9));
    }
}

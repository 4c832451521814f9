//! Pauses between tries.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

/// Pauses that double up to a cap, each drawn from its upper half, so that kinds that failed together do not
/// come back together.
pub(super) struct Pause {
    first: Duration,
    cap: Duration,
    next: Duration,
    random: RandomState,
    count: u64,
}

impl Pause {
    pub(super) fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, next: first, random: RandomState::new(), count: 0 }
    }

    pub(super) fn next(&mut self) -> Duration {
        let half = self.next / 2;
        self.next = (self.next * 2).min(self.cap);
        self.count += 1;
        let share = self.random.hash_one(self.count) % 1_001;
        half + half * u32::try_from(share).unwrap_or(0) / 1_000
    }

    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::Pause;
    use crate::limits;

    #[test]
    fn a_pause_grows_to_its_cap_with_jitter_and_starts_over() {
        let mut pause = Pause::new(2 * limits::BACKOFF_FLOOR, limits::WATCH_BACKOFF_CAP);
        for _ in 0..100 {
            let drawn = pause.next();
            assert!(drawn >= limits::BACKOFF_FLOOR && drawn <= limits::WATCH_BACKOFF_CAP);
        }
        let drawn: Vec<_> = (0..10).map(|_| pause.next()).collect();
        assert!(drawn.iter().all(|drawn| *drawn >= limits::WATCH_BACKOFF_CAP / 2));
        assert!(drawn.windows(2).any(|pair| pair[0] != pair[1]));
        pause.reset();
        assert!(pause.next() <= 2 * limits::BACKOFF_FLOOR);
    }
}

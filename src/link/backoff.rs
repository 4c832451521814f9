//! When to try again. Pure: what is random comes in.

use std::time::Duration;

use crate::limits;

/// Exponential backoff with full jitter (P1.9): the pause is drawn evenly between one second and a
/// ceiling that doubles with each failure up to 15 min. The jitter is as wide at the cap as below it, so
/// that a fleet which lost its server together does not return together.
#[derive(Clone, Debug)]
pub struct Backoff {
    floor: Duration,
    cap: Duration,
    failures: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::between(limits::BACKOFF_FLOOR, limits::BACKOFF_CAP)
    }
}

impl Backoff {
    /// A backoff with bounds of its own.
    #[must_use]
    pub fn between(floor: Duration, cap: Duration) -> Self {
        Self { floor, cap, failures: 0 }
    }

    /// The pause after one more failure. `random` is any 64 bits.
    pub fn next(&mut self, random: u64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let ceiling = self.floor.saturating_mul(1_u32.checked_shl(self.failures.min(31)).unwrap_or(u32::MAX));
        spread(self.floor, ceiling.min(self.cap), random)
    }

    /// Something worked.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// The probes after a 401 or 403 (P1.8): 15 min, doubling to 6 h, each between the half and the whole.
#[derive(Clone, Debug, Default)]
pub struct Probe {
    refusals: u32,
}

impl Probe {
    /// The pause before the next probe.
    pub fn next(&mut self, random: u64) -> Duration {
        let pause = limits::PROBE_FIRST.saturating_mul(1_u32.checked_shl(self.refusals.min(31)).unwrap_or(u32::MAX));
        let pause = pause.min(limits::PROBE_CAP);
        self.refusals = self.refusals.saturating_add(1);
        if pause == limits::PROBE_FIRST { pause } else { spread(pause / 2, pause, random) }
    }

    /// The server accepts us again.
    pub fn reset(&mut self) {
        self.refusals = 0;
    }
}

/// A point between two durations, evenly.
#[must_use]
pub fn spread(from: Duration, to: Duration, random: u64) -> Duration {
    let width = to.saturating_sub(from);
    // 32 random bits are enough for a point within hours, and f64 holds them exactly.
    let part = f64::from(u32::try_from(random >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX);
    from + width.mul_f64(part)
}

/// 64 random bits from the operating system.
#[must_use]
pub fn draw() -> u64 {
    use ring::rand::SecureRandom as _;
    let mut bytes = [0; 8];
    match ring::rand::SystemRandom::new().fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes),
        // Without randomness there is no TLS either; here any value does.
        Err(_) => u64::from(std::process::id()) << 32,
    }
}

/// Reads a `Retry-After`: seconds or an HTTP date (RFC 9110, section 10.2.3), bounded by a day.
#[must_use]
pub fn retry_after(value: &str, now: std::time::SystemTime) -> Option<Duration> {
    let value = value.trim();
    let pause = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => limits::RETRY_AFTER_MAX,
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(pause.min(limits::RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::{Backoff, Probe, draw, retry_after, spread};
    use crate::limits;
    use std::time::{Duration, SystemTime};

    #[test]
    fn is_never_faster_than_a_second_and_never_slower_than_the_cap() {
        for random in [0, 1 << 63, u64::MAX] {
            let mut backoff = Backoff::default();
            for _ in 0..100 {
                let pause = backoff.next(random);
                assert!(pause >= limits::BACKOFF_FLOOR && pause <= limits::BACKOFF_CAP, "{pause:?}");
            }
        }
    }

    #[test]
    fn the_ceiling_doubles_and_falls_back() {
        let mut backoff = Backoff::default();
        let ceilings: Vec<u64> = (0..12).map(|_| backoff.next(u64::MAX).as_secs()).collect();
        assert_eq!(ceilings, [2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]);
        assert_eq!(backoff.failures(), 12);
        backoff.reset();
        assert_eq!(backoff.next(u64::MAX).as_secs(), 2);
    }

    #[test]
    fn the_jitter_is_as_wide_at_the_cap() {
        let mut backoff = Backoff::default();
        for _ in 0..40 {
            backoff.next(0);
        }
        assert_eq!(backoff.next(0), limits::BACKOFF_FLOOR);
        assert_eq!(backoff.next(u64::MAX), limits::BACKOFF_CAP);
        let middle = backoff.next(u64::MAX / 2).as_secs();
        assert!((440..=460).contains(&middle), "{middle}");
    }

    #[test]
    fn probes_start_at_a_quarter_of_an_hour_and_end_at_six_hours() {
        let mut probe = Probe::default();
        let minutes: Vec<u64> = (0..8).map(|_| probe.next(u64::MAX).as_secs() / 60).collect();
        assert_eq!(minutes, [15, 30, 60, 120, 240, 360, 360, 360]);
        assert_eq!(probe.next(0).as_secs() / 60, 180);
        probe.reset();
        assert_eq!(probe.next(0).as_secs() / 60, 15);
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(retry_after("120", now), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:51:37 GMT", now), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("99999999999999999999999", now), Some(limits::RETRY_AFTER_MAX));
        assert_eq!(retry_after("soon", now), None);
        assert_eq!(retry_after("", now), None);
        assert_eq!(retry_after("-1", now), None);
    }

    #[test]
    fn two_draws_differ() {
        assert_ne!(draw(), draw());
        assert_eq!(spread(Duration::from_secs(1), Duration::from_secs(1), draw()), Duration::from_secs(1));
    }
}

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

/// The pauses of a poll loop that has no answer (P1.9.3, P1.9.6).
///
/// For the first [`limits::OUTAGE_QUICK`] it is the [`Backoff`]: whoever is cut off for a moment is back within
/// seconds. From then on time is divided into rounds of 120, 240, 480, 900, 900, … s, counted from the begin of the
/// outage, with one try in each. Where in the round is drawn once for the outage, evenly over the whole round, and
/// kept:
///
/// ```text
/// 0    60         180                 420 …              900                     1800
/// │quick│     x    │         x         │         x        │           x           │           x
/// ```
///
/// So the tries of a fleet that was cut off together are spread evenly at every moment, and whenever the line
/// returns its first tries are as even. Pauses that are drawn anew each time would not do that: of those that
/// run when the line returns twice as many end at once as on average.
#[derive(Clone, Debug, Default)]
pub struct Retry {
    backoff: Backoff,
    phase: Option<u64>,
}

impl Retry {
    /// The pause before the next try, `outage` after the first failure. `random` is any 64 bits.
    pub fn next(&mut self, outage: Duration, random: u64) -> Duration {
        let pause = self.backoff.next(random);
        if outage.saturating_add(pause) < limits::OUTAGE_QUICK {
            return pause;
        }
        // The half that the backoff did not look at: a long draw of it brings us here.
        let phase = *self.phase.get_or_insert(random << 32);
        until_round(outage, phase)
    }

    /// Something worked.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// From now, which is `outage` after its begin, to the next try; a second where that is less away, so that nobody's first
/// try after an outage is put off into the round behind.
fn until_round(outage: Duration, phase: u64) -> Duration {
    let mut begin = limits::OUTAGE_QUICK;
    let mut length = limits::RETURN_SPREAD;
    loop {
        if length == limits::BACKOFF_CAP {
            // All further rounds are alike.
            let rounds = outage.saturating_sub(begin).as_secs() / length.as_secs();
            begin = begin.saturating_add(length.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX)));
        }
        let try_at = begin.saturating_add(spread(Duration::ZERO, length, phase));
        if try_at > outage {
            return try_at.saturating_sub(outage).max(limits::BACKOFF_FLOOR);
        }
        begin = begin.saturating_add(length);
        length = length.saturating_mul(2).min(limits::BACKOFF_CAP);
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

/// The pause before the first poll of an agent that starts within [`limits::BOOT_WINDOW`] of its machine
/// (P1.9.5): after a power cut a whole street comes back at once.
#[must_use]
pub fn boot_pause(uptime: Duration, random: u64) -> Option<Duration> {
    (uptime <= limits::BOOT_WINDOW).then(|| spread(Duration::ZERO, limits::BOOT_SPREAD, random))
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
    use super::boot_pause;
    use super::{Backoff, Probe, Retry, draw, retry_after, spread, until_round};
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
    fn a_short_outage_is_met_by_the_backoff_and_a_long_one_by_rounds() {
        let seconds = Duration::from_secs;
        let mut retry = Retry::default();
        let quick: Vec<u64> = (0..5).map(|_| retry.next(seconds(0), u64::MAX).as_secs()).collect();
        assert_eq!(quick, [2, 4, 8, 16, 32]);
        assert_eq!(retry.next(seconds(50), 1), seconds(1), "still within the first minute");
        // The phase is the lower half of the draw that first goes beyond it.
        let half = Duration::from_millis(500);
        let mut to_next = |outage| (retry.next(seconds(outage), u64::from(u32::MAX / 2)) + half).as_secs();
        let pauses = [59, 120, 300, 660, 1350, 2250].map(&mut to_next);
        assert_eq!(pauses, [61, 180, 360, 690, 900, 900], "in the middle of each round");
        retry.reset();
        assert_eq!(retry.next(seconds(0), u64::MAX).as_secs(), 2);
    }

    #[test]
    fn a_pause_of_a_long_outage_is_within_its_bounds_however_long_it_is() {
        for outage in [60, 61, 179, 180, 899, 900, 1799, 1800, 86_400, 86_400 * 36_500].map(Duration::from_secs) {
            for phase in [0, 1 << 60, 1 << 63, u64::MAX] {
                let pause = until_round(outage, phase);
                assert!(pause >= limits::BACKOFF_FLOOR, "{outage:?} {phase}: {pause:?}");
                assert!(pause <= limits::BACKOFF_CAP + limits::BACKOFF_FLOOR, "{outage:?} {phase}: {pause:?}");
            }
        }
    }

    /// How many agents there are.
    fn agents() -> u32 {
        if std::env::var_os("PULLET_LONG").is_some() { 100_000 } else { 10_000 }
    }

    /// So many agents whose held polls all die at the same moment, and a server that is back later: the agents'
    /// first tries from then on.
    fn returns(outage: u64) -> Vec<u64> {
        let mut seed = 0x5eed_u64;
        let mut draw = || {
            // SplitMix64.
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        };
        let over = Duration::from_secs(outage);
        let mut bins = Vec::new();
        for _ in 0..agents() {
            let mut retry = Retry::default();
            let mut now = Duration::ZERO;
            while now < over {
                now += retry.next(now, draw());
            }
            let bin = usize::try_from(now.saturating_sub(over).as_secs() / 10).unwrap();
            if bins.len() <= bin {
                bins.resize(bin + 1, 0);
            }
            bins[bin] += 1;
        }
        bins
    }

    fn peak_over_mean(bins: &[u64]) -> f64 {
        let mean = f64::from(agents()) / f64::from(u32::try_from(bins.len()).unwrap());
        f64::from(u32::try_from(*bins.iter().max().unwrap()).unwrap()) / mean
    }

    #[test]
    fn ten_thousand_agents_return_evenly_after_half_an_hour() {
        let bins = returns(30 * 60);
        assert_eq!(bins.len(), 90, "all of them within a quarter of an hour");
        assert!(peak_over_mean(&bins) <= 1.5, "{} {bins:?}", peak_over_mean(&bins));
        for minutes in [15, 20, 37, 60, 600] {
            let bins = returns(minutes * 60);
            assert!(peak_over_mean(&bins) <= 1.5, "after {minutes} min: {} {bins:?}", peak_over_mean(&bins));
        }
    }

    #[test]
    fn the_first_tries_after_a_minute_take_two_minutes() {
        let bins = returns(60);
        assert_eq!(bins.len(), 12);
        assert!(peak_over_mean(&bins) <= 1.5, "{bins:?}");
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
    fn the_first_poll_after_a_boot_is_spread_and_no_other() {
        assert_eq!(boot_pause(Duration::ZERO, 0), Some(Duration::ZERO));
        assert_eq!(boot_pause(limits::BOOT_WINDOW, u64::MAX), Some(limits::BOOT_SPREAD));
        assert_eq!(boot_pause(limits::BOOT_WINDOW + Duration::from_secs(1), u64::MAX), None);
        let pauses: Vec<u64> = (0..30)
            .map(|part| boot_pause(Duration::ZERO, u64::MAX / 30 * part).unwrap_or_default().as_secs())
            .collect();
        assert!(pauses.windows(2).all(|two| two[1] - two[0] <= 2), "{pauses:?}");
    }

    #[test]
    fn two_draws_differ() {
        assert_ne!(draw(), draw());
        assert_eq!(spread(Duration::from_secs(1), Duration::from_secs(1), draw()), Duration::from_secs(1));
    }
}

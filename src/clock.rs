//! What time it is, as far as this node can know.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// No certificate and no job is judged as if it were earlier than this: a node without a real-time
/// clock wakes up in 1970 (TRUST.md, Clock). 2026-11-01T00:00:00Z, moved with each release; a build may set
/// `SOURCE_DATE_EPOCH`.
const BUILT_AT: u64 = match option_env!("SOURCE_DATE_EPOCH") {
    Some(text) => parse_seconds(text),
    None => 1_793_491_200,
};

/// The system clock, never earlier than the floor.
#[must_use]
pub fn now() -> SystemTime {
    SystemTime::now().max(UNIX_EPOCH + Duration::from_secs(BUILT_AT))
}

/// [`now`] in whole seconds since 1970.
#[must_use]
pub fn unix_seconds() -> u64 {
    now().duration_since(UNIX_EPOCH).map_or(BUILT_AT, |since| since.as_secs())
}

/// Time since the kernel started.
#[must_use]
pub fn uptime() -> Duration {
    let spec = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(spec.tv_sec).unwrap_or(0), u32::try_from(spec.tv_nsec).unwrap_or(0))
}

const fn parse_seconds(text: &str) -> u64 {
    let bytes = text.as_bytes();
    let mut seconds = 0;
    let mut at = 0;
    while at < bytes.len() {
        assert!(bytes[at].is_ascii_digit(), "SOURCE_DATE_EPOCH is a number of seconds");
        seconds = seconds * 10 + (bytes[at] - b'0') as u64;
        at += 1;
    }
    seconds
}

#[cfg(test)]
mod tests {
    use super::{BUILT_AT, now, parse_seconds, unix_seconds, uptime};

    #[test]
    fn never_earlier_than_the_build() {
        assert!(unix_seconds() >= BUILT_AT);
        assert!(now() >= std::time::UNIX_EPOCH + std::time::Duration::from_secs(BUILT_AT));
    }

    #[test]
    fn reads_the_build_time() {
        assert_eq!(parse_seconds("1793491200"), 1_793_491_200);
    }

    #[test]
    fn uptime_grows() {
        assert!(uptime() > std::time::Duration::ZERO);
    }
}

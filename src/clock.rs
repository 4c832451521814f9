//! What time it is, as far as this node can know.

pub mod calendar;
mod judge;
mod store;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use judge::{Clock, Reading, Standing};
pub use store::{FloorError, reset};

/// No certificate and no job is judged as if it were earlier than this: a node without a real-time
/// clock wakes up in 1970. 2026-11-01T00:00:00Z, moved with each release; a build may set
/// `SOURCE_DATE_EPOCH`.
const BUILT_AT: u64 = match option_env!("SOURCE_DATE_EPOCH") {
    Some(text) => parse_seconds(text),
    None => 1_793_491_200,
};

/// The clock of this process: whoever judges a certificate or an expiry asks this one.
static OURS: Mutex<Ours> = Mutex::new(Ours { clock: Clock::new(BUILT_AT), kept: store::Kept::nowhere() });

struct Ours {
    clock: Clock,
    kept: store::Kept,
}

/// The time that certificates and jobs are judged by: the system clock, never earlier than the floor.
#[must_use]
pub fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(unix_seconds())
}

/// [`now`] in whole seconds since 1970.
#[must_use]
pub fn unix_seconds() -> u64 {
    ours().clock.judged(reading())
}

/// [`unix_seconds`], where the clock runs: none while it stands at a floor, which is no time of day.
#[must_use]
pub fn running() -> Option<u64> {
    let ours = ours();
    let judged = ours.clock.judged(reading());
    (ours.clock.is_confirmed() || judged > ours.clock.floor()).then_some(judged)
}

/// The earliest time that any clock of this program says: when it was built.
#[must_use]
pub const fn floor() -> u64 {
    BUILT_AT
}

/// Reads the floor that an earlier run confirmed, and keeps it there from now on. A file that cannot be read is as none:
/// the build time is a floor, too.
///
/// # Errors
/// [`FloorError`], for the log.
pub fn keep_in(directory: &Path) -> Result<(), FloorError> {
    let (kept, floor) = store::Kept::open(directory);
    let mut ours = ours();
    ours.kept = kept;
    ours.clock.raise(floor?.unwrap_or(0));
    let reading = reading();
    ours.clock.look(reading);
    Ok(())
}

/// An answer of the control plane, over a line whose certificate was verified and with a credential, was dated so.
/// Blocks, once a day, for a small write.
///
/// # Errors
/// When the floor could not be written; it is tried again after a day.
pub fn witness(date: SystemTime) -> Result<(), FloorError> {
    let Ok(date) = date.duration_since(UNIX_EPOCH) else { return Ok(()) };
    let mut ours = ours();
    let reading = reading();
    ours.clock.witness(reading, date.as_secs());
    if !ours.clock.is_confirmed() {
        return Ok(());
    }
    let floor = ours.clock.floor();
    ours.kept.save(floor, reading.monotonic)
}

/// What is known of the clock now.
#[must_use]
pub fn standing() -> Standing {
    let mut ours = ours();
    let reading = reading();
    ours.clock.look(reading);
    ours.clock.standing()
}

fn ours() -> MutexGuard<'static, Ours> {
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn reading() -> Reading {
    Reading {
        system: system().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        monotonic: uptime(),
        is_synchronised: is_synchronised(),
    }
}

/// What the system clock says, in whole seconds. Not `SystemTime::now`: on 32-bit musl its seconds have 32 bits, and from
/// January 2038 on it panics. The kernel's own call has 64 everywhere.
#[must_use]
pub fn system() -> SystemTime {
    let seconds = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// The flag that systemd-timesyncd sets, and chrony with `chrony-wait` does not: the kernel's own (`adjtimex`) cannot
/// be read without `unsafe`. Without it the answers of the control plane are the witness.
fn is_synchronised() -> bool {
    rustix::fs::access("/run/systemd/timesync/synchronized", rustix::fs::Access::EXISTS).is_ok()
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

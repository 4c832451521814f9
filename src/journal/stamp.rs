//! When an event really happened, once the clock is right.

use std::fs;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::record::timestamp;
use crate::clock;
use crate::protocol::{CLUSTER, Event, Timestamp};

/// A stamp this close to the recomputed one is left alone: both are in whole seconds, and a slewed clock drifts.
const TOLERANCE_SECONDS: u64 = 2;

/// A moment as the kernel counts it, which no step of the clock changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootMoment {
    /// The boot id, all 16 bytes of `/proc/sys/kernel/random/boot_id`.
    pub boot: [u8; 16],
    /// Seconds since the kernel started, sleep included (`CLOCK_BOOTTIME`).
    pub seconds: u64,
}

impl BootMoment {
    /// This one; none where the kernel does not name its boot.
    #[must_use]
    pub fn now() -> Option<Self> {
        static BOOT: OnceLock<Option<[u8; 16]>> = OnceLock::new();
        let read = || parse_boot_id(&fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?);
        let boot = (*BOOT.get_or_init(read))?;
        Some(Self { boot, seconds: clock::uptime().as_secs() })
    }
}

/// 32 hexadecimal digits, and what stands between them.
fn parse_boot_id(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    Some(u128::from_str_radix(&digits, 16).ok()?.to_be_bytes())
}

/// Corrects the times of an event that is about to be sent: its own, and where it speaks of us those of its conditions,
/// which we made. Those of other objects are from clocks that we know nothing of. The key stays.
pub fn correct(event: &mut Event, made: Option<BootMoment>) {
    if let (Some(made), Some(now), Some(wall)) = (made, BootMoment::now(), clock::running()) {
        correct_at(event, made, now, wall.cast_signed());
    }
}

/// An event that waits, and when it was made.
pub type Staged = (Event, Option<BootMoment>);

/// One that waits, with its times [corrected](correct).
#[must_use]
pub fn as_sent((event, made): &Staged) -> Event {
    let mut event = event.clone();
    correct(&mut event, *made);
    event
}

fn correct_at(event: &mut Event, made: BootMoment, now: BootMoment, wall: i64) {
    let floor = clock::floor().cast_signed();
    let correct = |time: Timestamp| timestamp(corrected(time.unix_seconds(), made, now, wall, floor));
    let at = event.timestamp;
    event.timestamp = correct(at);
    let (api_version, kind) = CLUSTER;
    if event.resource_ref.api_version == api_version && event.resource_ref.kind == kind {
        for condition in &mut event.conditions {
            condition.last_transition_time = condition.last_transition_time.map(correct);
        }
    }
}

/// The stamp to send for what was stamped `stored` at the moment `made`, when it is sent at `now` while the clock
/// says `wall`. All stamps are Unix seconds.
///
/// `floor` is the earliest time the clock can be trusted to say: a clock that says no more than that is not right
/// yet, and corrects nothing. Nor does a moment of another boot, or one that is still to come.
#[must_use]
pub fn corrected(stored: i64, made: BootMoment, now: BootMoment, wall: i64, floor: i64) -> i64 {
    if made.boot != now.boot || wall <= floor {
        return stored;
    }
    let Some(age) = now.seconds.checked_sub(made.seconds).and_then(|age| i64::try_from(age).ok()) else {
        return stored;
    };
    match wall.checked_sub(age) {
        Some(happened) if happened.abs_diff(stored) > TOLERANCE_SECONDS => happened,
        _ => stored,
    }
}

#[cfg(test)]
mod tests {
    use super::{BootMoment, correct_at, corrected, parse_boot_id};
    use crate::clock;
    use crate::journal::record::timestamp;
    use crate::protocol::{CLUSTER, Condition, Event, EventKind, ObjectRef};

    const FLOOR: i64 = 1_793_491_200;
    const WALL: i64 = FLOOR + 1_000_000;

    fn moment(boot: u8, seconds: u64) -> BootMoment {
        BootMoment { boot: [boot; 16], seconds }
    }

    #[test]
    fn a_stamp_from_before_the_clock_was_right_is_corrected() {
        assert_eq!(corrected(FLOOR, moment(1, 30), moment(1, 90), WALL, FLOOR), WALL - 60);
        assert_eq!(corrected(WALL + 9_000, moment(1, 30), moment(1, 90), WALL, FLOOR), WALL - 60);
    }

    fn event(kind: &str, at: i64) -> Event {
        let condition = Condition {
            kind: "Connected".into(),
            status: "True".into(),
            observed_generation: None,
            last_transition_time: Some(timestamp(at)),
            reason: String::new(),
            message: String::new(),
        };
        let resource_ref =
            ObjectRef { api_version: CLUSTER.0.into(), kind: kind.into(), name: "c1".into(), ..ObjectRef::default() };
        Event {
            event_key: "x#1.1".into(),
            kind: EventKind::ConditionTransition,
            resource_ref,
            conditions: vec![condition],
            endpoints: Vec::new(),
            timestamp: timestamp(at),
        }
    }

    #[test]
    fn a_clock_that_is_stepped_before_an_event_is_sent_corrects_it_and_not_its_key() {
        let floor = clock::floor().cast_signed();
        for (kind, corrects_conditions) in [(CLUSTER.1, true), ("Deployment", false)] {
            let mut sent = event(kind, floor);
            correct_at(&mut sent, moment(1, 30), moment(1, 90), floor);
            assert_eq!(sent, event(kind, floor), "the clock is not right yet");
            correct_at(&mut sent, moment(1, 30), moment(1, 90), floor + 1_000_000);
            assert_eq!((sent.event_key.as_str(), sent.timestamp), ("x#1.1", timestamp(floor + 999_940)));
            let since = if corrects_conditions { floor + 999_940 } else { floor };
            assert_eq!(sent.conditions[0].last_transition_time, Some(timestamp(since)), "{kind}");
        }
    }

    #[test]
    fn the_boot_is_named_by_the_kernel_and_by_nothing_else() {
        let boot = parse_boot_id("00010203-0405-0607-0809-0a0b0c0d0e0f\n").unwrap();
        assert_eq!(boot, std::array::from_fn(|at| u8::try_from(at).unwrap()));
        for bad in ["", "00010203-0405-0607-0809-0a0b0c0d0e0", "00010203-0405-0607-0809-0a0b0c0d0e0f0", &"+".repeat(32)]
        {
            assert_eq!(parse_boot_id(bad), None, "{bad}");
        }
        let (before, after) = (BootMoment::now().unwrap(), BootMoment::now().unwrap());
        assert!(before.boot == after.boot && before.seconds <= after.seconds);
    }

    #[test]
    fn a_stamp_within_two_seconds_stays() {
        for (off, corrects) in [(-3, true), (-2, false), (0, false), (2, false), (3, true)] {
            let stored = WALL - 60 + off;
            let sent = corrected(stored, moment(1, 30), moment(1, 90), WALL, FLOOR);
            assert_eq!(sent, if corrects { WALL - 60 } else { stored }, "{off}");
        }
    }

    #[test]
    fn a_stamp_of_another_boot_is_sent_as_it_is() {
        assert_eq!(corrected(FLOOR, moment(1, 30), moment(2, 90), WALL, FLOOR), FLOOR);
    }

    #[test]
    fn a_clock_that_is_not_right_corrects_nothing() {
        assert_eq!(corrected(WALL, moment(1, 30), moment(1, 90), FLOOR, FLOOR), WALL);
    }

    #[test]
    fn moments_that_make_no_sense_change_nothing() {
        assert_eq!(corrected(FLOOR, moment(1, 91), moment(1, 90), WALL, FLOOR), FLOOR);
        assert_eq!(corrected(FLOOR, moment(1, 0), moment(1, u64::MAX), WALL, FLOOR), FLOOR);
        let far = i64::MAX.unsigned_abs();
        assert_eq!(corrected(0, moment(1, 0), moment(1, far), i64::MAX, FLOOR), 0);
        assert_eq!(corrected(i64::MIN, moment(1, 0), moment(1, 1), WALL, FLOOR), WALL - 1);
    }
}

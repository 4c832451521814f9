//! When an event really happened, once the clock is right.

/// A stamp this close to the recomputed one is left alone: both are in whole seconds, and a slewed clock drifts.
const TOLERANCE_SECONDS: u64 = 2;

/// A moment as the kernel counts it, which no step of the clock changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootMoment {
    /// The boot id, all 16 bytes of `/proc/sys/kernel/random/boot_id`.
    pub boot: [u8; 16],
    /// Seconds since the kernel started, sleep included (`CLOCK_BOOTTIME`).
    pub seconds: u64,
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
    use super::{BootMoment, corrected};

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

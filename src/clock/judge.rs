//! The state machine: what a node may believe of its clock. No I/O.

use std::time::Duration;

use crate::limits;

/// What the machine says at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The system clock, seconds since 1970; 0 for what lies before.
    pub system: u64,
    /// A clock that nobody sets: since the kernel started.
    pub monotonic: Duration,
    /// Whether the system clock is kept right by a time service.
    pub is_synchronised: bool,
}

/// What is known of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A witness agrees with the system clock.
    Agreed,
    /// The system clock is above the floor, and nobody has contradicted it: nobody was heard yet.
    Plausible,
    /// The system clock is below the floor, or a witness contradicts it: so many seconds are to be added to it as far
    /// as is known.
    Doubtful(i64),
    /// Two witnesses agree with each other; the time is theirs, not the system clock's, which is so far behind.
    Corrected(i64),
    /// A time service keeps the system clock.
    Synchronised,
}

impl Standing {
    /// Whether a witness stands for the judged time.
    #[must_use]
    pub fn is_confirmed(self) -> bool {
        matches!(self, Self::Agreed | Self::Corrected(_) | Self::Synchronised)
    }

    /// Whether an expiry can be judged: the time is confirmed, or there is no reason for doubt.
    #[must_use]
    pub fn may_judge(self) -> bool {
        !matches!(self, Self::Doubtful(_))
    }
}

/// What is believed of the time.
#[derive(Debug)]
pub struct Clock {
    built: u64,
    floor: u64,
    standing: Standing,
    /// A time and when, by the monotonic clock, it was so: from the first of the dates that agree.
    anchor: Option<(u64, Duration)>,
    /// The first date of those that have not been contradicted since.
    witness: Option<(u64, Duration)>,
    /// When the system clock was confirmed last.
    agreed: Option<(u64, Duration)>,
}

impl Clock {
    /// Nothing is known but when the program was built.
    #[must_use]
    pub const fn new(built: u64) -> Self {
        Self { built, floor: built, standing: Standing::Plausible, anchor: None, witness: None, agreed: None }
    }

    /// No time before this one is believed: it was confirmed once.
    pub fn raise(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
    }

    /// The earliest time that is believed.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// What is known of the clock.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Whether a witness stands for the judged time.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.standing.is_confirmed()
    }

    /// The time that is gone by: the system clock, or what is known better.
    #[must_use]
    pub fn judged(&self, reading: Reading) -> u64 {
        let anchored = self.anchor.map_or(0, |anchor| carried(anchor, reading));
        reading.system.max(self.floor).max(anchored)
    }

    /// Looks at the machine's own clocks.
    pub fn look(&mut self, reading: Reading) {
        if reading.is_synchronised && reading.system >= self.built {
            // The one witness that may lower the floor: a wrong time must not lock the node out for ever.
            self.floor = reading.system;
            self.anchor = None;
            self.agreed = Some((reading.system, reading.monotonic));
            self.standing = Standing::Synchronised;
        } else if self.is_behind(reading) {
            if !matches!(self.standing, Standing::Corrected(_)) {
                self.standing = Standing::Doubtful(difference(self.judged(reading), reading.system));
            }
        } else if matches!(self.standing, Standing::Synchronised) {
            self.standing = Standing::Plausible;
        }
    }

    /// An authenticated answer was dated so.
    pub fn witness(&mut self, reading: Reading, date: u64) {
        self.look(reading);
        if self.standing == Standing::Synchronised {
            return;
        }
        let offset = difference(date, reading.system);
        if !self.is_behind(reading) && offset.unsigned_abs() <= limits::CLOCK_TOLERANCE.as_secs() {
            // Two that know nothing of each other say the same. The server gains nothing by agreeing with what this
            // node believed anyway.
            self.standing = Standing::Agreed;
            self.floor = self.floor.max(reading.system);
            self.anchor = None;
            self.witness = None;
            self.agreed = Some((reading.system, reading.monotonic));
            return;
        }
        let tolerance = limits::CLOCK_TOLERANCE.as_secs();
        match self.witness {
            Some(first) if carried(first, reading).abs_diff(date) <= tolerance => {
                let apart = reading.monotonic.saturating_sub(first.1);
                // The system clock may only be behind: what it says is never judged earlier.
                if apart >= limits::CLOCK_WITNESSES_APART
                    && date >= self.floor
                    && offset > 0
                    && !self.still_agrees(reading)
                {
                    self.anchor = Some((date, reading.monotonic));
                    self.floor = date;
                    self.standing = Standing::Corrected(offset);
                    return;
                }
            }
            _ => self.witness = Some((date, reading.monotonic)),
        }
        if let (Some(anchor), Standing::Corrected(_)) = (self.anchor, self.standing)
            && carried(anchor, reading).abs_diff(date) <= tolerance
        {
            return;
        }
        self.standing = Standing::Doubtful(offset);
    }

    /// Whether the system clock was confirmed since the start and has gone on evenly: then it is the server that has changed its
    /// mind, and it is not believed.
    fn still_agrees(&self, reading: Reading) -> bool {
        self.agreed.is_some_and(|agreed| {
            carried(agreed, reading).abs_diff(reading.system) <= limits::CLOCK_TOLERANCE.as_secs()
        })
    }

    /// A clock that is set a little is no clock that stands in the past.
    fn is_behind(&self, reading: Reading) -> bool {
        reading.system.saturating_add(limits::CLOCK_TOLERANCE.as_secs()) < self.floor
    }
}

/// What a time of before has become.
fn carried((time, at): (u64, Duration), reading: Reading) -> u64 {
    time.saturating_add(reading.monotonic.saturating_sub(at).as_secs())
}

fn difference(time: u64, system: u64) -> i64 {
    let signed = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    signed(time).saturating_sub(signed(system))
}

#[cfg(test)]
mod tests {
    use super::{Clock, Reading, Standing};
    use std::time::Duration;

    const BUILT: u64 = 1_793_491_200;
    const TODAY: u64 = BUILT + 30 * 86_400;
    const YEARS: u64 = 20 * 365 * 86_400;

    fn at(system: u64, monotonic: u64) -> Reading {
        Reading { system, monotonic: Duration::from_secs(monotonic), is_synchronised: false }
    }

    fn synchronised(system: u64, monotonic: u64) -> Reading {
        Reading { is_synchronised: true, ..at(system, monotonic) }
    }

    #[test]
    fn an_ordinary_clock_is_plausible_and_one_date_confirms_it() {
        let mut clock = Clock::new(BUILT);
        clock.look(at(TODAY, 0));
        assert_eq!(clock.standing(), Standing::Plausible);
        assert!(clock.standing().may_judge() && !clock.is_confirmed());
        clock.witness(at(TODAY, 1), TODAY + 60);
        assert_eq!((clock.standing(), clock.floor()), (Standing::Agreed, TODAY));
    }

    #[test]
    fn in_1970_the_floor_is_the_time_until_two_dates_ten_minutes_apart_agree() {
        let mut clock = Clock::new(BUILT);
        clock.look(at(5, 5));
        assert!(!clock.standing().may_judge());
        assert_eq!(clock.judged(at(5, 5)), BUILT);
        clock.witness(at(10, 10), TODAY);
        clock.witness(at(609, 609), TODAY + 599);
        assert!(!clock.is_confirmed());
        assert_eq!(clock.judged(at(609, 609)), BUILT);
        clock.witness(at(610, 610), TODAY + 600);
        assert!(clock.is_confirmed());
        assert_eq!(clock.judged(at(710, 710)), TODAY + 700, "it goes on by itself");
        clock.look(at(710, 710));
        clock.witness(at(720, 720), TODAY + 710);
        assert!(clock.is_confirmed(), "a third that agrees changes nothing");
    }

    #[test]
    fn two_dates_that_disagree_confirm_nothing() {
        let mut clock = Clock::new(BUILT);
        clock.witness(at(10, 10), TODAY);
        clock.witness(at(700, 700), TODAY + YEARS);
        clock.witness(at(1_400, 1_400), TODAY);
        assert!(!clock.is_confirmed());
        assert_eq!(clock.judged(at(1_400, 1_400)), BUILT);
        clock.witness(at(2_000, 2_000), TODAY + 600);
        assert!(clock.is_confirmed(), "the last two agree");
    }

    #[test]
    fn a_wrong_date_takes_a_confirmed_clock_no_further_than_doubt() {
        let mut clock = Clock::new(BUILT);
        clock.witness(at(TODAY, 0), TODAY);
        clock.witness(at(TODAY + 5, 5), TODAY - 3_600);
        assert_eq!(clock.standing(), Standing::Doubtful(-3_605));
        assert_eq!(clock.judged(at(TODAY + 5, 5)), TODAY + 5);
        clock.witness(at(TODAY + 9, 9), TODAY + 9);
        assert!(clock.is_confirmed());
    }

    /// A control plane that was taken over says for as long as it likes that it is years later.
    #[test]
    fn a_clock_that_was_confirmed_is_not_moved_by_dates_that_agree_with_each_other() {
        let lie = |clock: &mut Clock, from: u64| {
            for second in [from, from + 700, from + 1_400] {
                clock.witness(at(TODAY + second, second), TODAY + second + YEARS);
            }
            assert!(matches!(clock.standing(), Standing::Doubtful(_)));
            assert_eq!(clock.judged(at(TODAY + from + 1_500, from + 1_500)), TODAY + from + 1_500);
        };
        let mut clock = Clock::new(BUILT);
        clock.witness(at(TODAY, 0), TODAY);
        lie(&mut clock, 5);
        assert_eq!(clock.floor(), TODAY);
        let mut clock = Clock::new(BUILT);
        clock.look(synchronised(TODAY, 0));
        clock.look(at(TODAY + 3, 3));
        lie(&mut clock, 5);
        // One that was set back since is put right.
        let mut clock = Clock::new(BUILT);
        clock.witness(at(TODAY, 0), TODAY);
        clock.witness(at(BUILT, 100), TODAY + 100);
        clock.witness(at(BUILT + 700, 800), TODAY + 800);
        assert_eq!(clock.standing(), Standing::Corrected((TODAY + 100 - BUILT).cast_signed()));
    }

    #[test]
    fn dates_below_the_floor_never_move_the_time_back() {
        let mut clock = Clock::new(BUILT);
        clock.raise(TODAY);
        clock.witness(at(10, 10), BUILT - YEARS);
        clock.witness(at(1_000, 1_000), BUILT - YEARS + 990);
        assert!(!clock.is_confirmed());
        assert_eq!(clock.judged(at(1_000, 1_000)), TODAY);
    }

    #[test]
    fn stepped_back_the_time_stays_at_the_floor() {
        let mut clock = Clock::new(BUILT);
        clock.witness(at(TODAY, 0), TODAY);
        let back = at(TODAY - 86_400, 10);
        clock.look(back);
        assert_eq!(clock.standing(), Standing::Doubtful(86_400));
        assert_eq!(clock.judged(back), TODAY);
        clock.witness(back, TODAY - 86_400);
        assert!(!clock.is_confirmed(), "a server that agrees with a clock below the floor confirms nothing");
        let mut clock = Clock::new(BUILT);
        clock.witness(at(TODAY, 0), TODAY);
        clock.look(at(TODAY - 30, 10));
        assert!(clock.standing().may_judge(), "a clock that is corrected by seconds is no reason");
    }

    #[test]
    fn twenty_years_ahead_and_back_does_not_lock_the_node_out() {
        let mut clock = Clock::new(BUILT);
        clock.raise(TODAY + YEARS);
        let right = at(TODAY, 10);
        clock.look(right);
        assert_eq!(clock.judged(right), TODAY + YEARS);
        assert!(!clock.standing().may_judge());
        clock.look(synchronised(TODAY + 1, 11));
        assert_eq!((clock.standing(), clock.floor()), (Standing::Synchronised, TODAY + 1));
        assert_eq!(clock.judged(at(TODAY + 2, 12)), TODAY + 2);
    }

    #[test]
    fn ahead_the_dates_of_the_server_leave_the_time_in_doubt() {
        let mut clock = Clock::new(BUILT);
        clock.witness(at(TODAY + YEARS, 0), TODAY);
        clock.witness(at(TODAY + YEARS + 900, 900), TODAY + 900);
        assert!(!clock.standing().may_judge());
        assert_eq!(clock.floor(), BUILT, "a time that nobody confirms is no floor");
    }

    #[test]
    fn a_synchronised_clock_is_not_contradicted_and_one_before_the_build_is_not_believed() {
        let mut clock = Clock::new(BUILT);
        clock.witness(synchronised(TODAY, 0), TODAY + YEARS);
        assert_eq!(clock.standing(), Standing::Synchronised);
        let mut clock = Clock::new(BUILT);
        clock.look(synchronised(5, 5));
        assert!(!clock.standing().may_judge());
        assert_eq!(clock.judged(synchronised(5, 5)), BUILT);
    }
}

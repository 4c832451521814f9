//! How long the server is asked to hold a poll. Pure: what happened and the time come in.
//!
//! A long hold costs less traffic, but something on the way (NAT, firewall, proxy) may forget or cut a
//! connection that is silent for too long, and until the agent notices no job arrives. So the hold adapts:
//!
//! - It begins at 30 s. An answer without jobs at the end of the hold shows that the way bears so long a
//!   silence, and the hold doubles, up to 240 s.
//! - A held poll dies when the connection is cut, or stays silent beyond the hold and its grace, or a gateway
//!   gives up. That counts against the hold only if a brief poll right afterwards is answered: otherwise the
//!   line is down, which says nothing. When polls of one length die twice in a row, that length has failed.
//! - Above the longest hold that was borne and below the shortest that failed, the middle is tried, until the
//!   two are no further apart than half of the lower: the hold has settled. It is then above half of what the
//!   way bears, and nothing is tried any more.
//! - When a length fails that was borne before, the way has changed: half of it is tried, down to 10 s.
//! - What failed is remembered for a day. Then it may be tried again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits;

/// The length of the next poll, and what is known of the way.
#[derive(Clone, Debug)]
pub struct Hold {
    length: Duration,
    is_fixed: bool,
    borne: Duration,
    failed: Option<Failed>,
    /// A held poll died, and whether that was the hold's fault is not known yet.
    suspect: Option<Duration>,
    /// Deaths at this length that were the hold's fault, in a row.
    deaths: u32,
}

#[derive(Clone, Copy, Debug)]
struct Failed {
    length: Duration,
    at: Duration,
}

/// What is known of the way, in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learnt {
    length: u64,
    borne: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failed: Option<u64>,
}

/// How a poll went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It was answered, but not after the whole hold: that shows that the line is up, and no more.
    Answered,
    /// It died after this time.
    Died(Duration),
    /// It was answered without jobs after the whole hold.
    Full,
    /// It failed in a way that has nothing to do with the hold.
    Unanswered,
}

/// What a person is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The owner chose it.
    Fixed,
    /// It may still grow or fall.
    Searching,
    /// It stays as it is.
    Settled,
}

/// Deaths in a row at one length until it counts as failed: a server that restarts cuts every poll once.
const DEATHS: u32 = 2;

impl Hold {
    /// One that stays as it is.
    #[must_use]
    pub fn fixed(length: Duration) -> Self {
        Self { is_fixed: true, ..Self::adapting(length) }
    }

    /// One that begins here and adapts.
    #[must_use]
    pub fn adapting(length: Duration) -> Self {
        Self { length, is_fixed: false, borne: Duration::ZERO, failed: None, suspect: None, deaths: 0 }
    }

    /// What a restart may know; none of one that stays as it is.
    #[must_use]
    pub fn learnt(&self) -> Option<Learnt> {
        let failed = self.failed.map(|failed| failed.length.as_secs());
        (!self.is_fixed).then_some(Learnt { length: self.length.as_secs(), borne: self.borne.as_secs(), failed })
    }

    /// As it was learnt before, within the bounds of today; what failed is remembered for one more day.
    #[must_use]
    pub fn knowing(self, learnt: Learnt) -> Self {
        if self.is_fixed {
            return self;
        }
        let within = |seconds: u64| Duration::from_secs(seconds).clamp(limits::HOLD_FLOOR, limits::HOLD_MAX);
        let borne = if learnt.borne == 0 { Duration::ZERO } else { within(learnt.borne) };
        let failed = learnt.failed.map(within).filter(|length| *length > borne);
        let failed = failed.map(|length| Failed { length, at: Duration::ZERO });
        Self { length: within(learnt.length), borne, failed, ..self }
    }

    /// What the next poll asks for.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.length
    }

    /// Whether a brief poll has to show next if the line is up.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.suspect.is_some()
    }

    /// Whether it still changes.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self.next_length() {
            _ if self.is_fixed => Stage::Fixed,
            Some(_) => Stage::Searching,
            None => Stage::Settled,
        }
    }

    /// The shortest hold that failed and is remembered.
    #[must_use]
    pub fn failed(&self) -> Option<Duration> {
        self.failed.map(|failed| failed.length)
    }

    /// A poll ended, `now` on a clock that only goes forward.
    pub fn after(&mut self, held: Held, now: Duration) {
        if self.is_fixed {
            return;
        }
        if self.failed.is_some_and(|failed| now.saturating_sub(failed.at) >= limits::HOLD_MEMORY) {
            self.failed = None;
        }
        match held {
            Held::Answered => {
                if let Some(after) = self.suspect.take() {
                    self.blame(after, now);
                }
            }
            // Twice in a row without an answer in between is an outage.
            Held::Died(_) if self.suspect.is_some() => self.suspect = None,
            Held::Died(after) if after >= limits::HOLD_FLOOR.min(self.length) => self.suspect = Some(after),
            Held::Died(_) | Held::Unanswered => self.suspect = None,
            Held::Full => {
                self.suspect = None;
                self.deaths = 0;
                self.borne = self.borne.max(self.length);
                if let Some(next) = self.next_length() {
                    self.length = next;
                }
            }
        }
    }

    /// The hold was at fault: the connection was gone `after` this time, or at the latest at its end.
    fn blame(&mut self, after: Duration, now: Duration) {
        self.deaths += 1;
        if self.deaths < DEATHS {
            return;
        }
        self.deaths = 0;
        let length = after.min(self.length).max(limits::HOLD_FLOOR);
        self.failed = Some(Failed { length, at: now });
        if self.borne >= length {
            self.borne = Duration::ZERO;
        }
        self.length = match self.next_length() {
            Some(next) => next,
            None => self.borne.max(limits::HOLD_FLOOR),
        };
    }

    /// What to try next, or none where nothing is to be gained.
    fn next_length(&self) -> Option<Duration> {
        let whole_seconds = |length: Duration| Duration::from_secs(length.as_secs());
        let next = match self.failed {
            None if self.borne.is_zero() => self.length,
            None => self.borne.saturating_mul(2).min(limits::HOLD_MAX),
            // Nothing is known to be borne: half of what failed.
            Some(failed) if self.borne.is_zero() => whole_seconds(failed.length / 2).max(limits::HOLD_FLOOR),
            Some(failed) if failed.length.saturating_sub(self.borne) <= self.borne / 2 => return None,
            Some(failed) => whole_seconds((self.borne + failed.length) / 2).min(limits::HOLD_MAX),
        };
        (next > self.borne).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::{Held, Hold, Stage};
    use crate::limits;
    use proptest::prelude::*;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    /// A way that kills what is silent for longer than `bears`, in silence or with a cut.
    struct Way {
        bears: Option<Duration>,
        cuts: bool,
    }

    /// Polls for `hours`, and gives the lengths and whether each was answered.
    fn live(hold: &mut Hold, way: &Way, hours: u64, from: Duration) -> Vec<(Duration, bool)> {
        let mut now = from;
        let mut polls = Vec::new();
        while now < from + SECOND * 3600 * u32::try_from(hours).unwrap() {
            if hold.is_in_doubt() {
                now += SECOND * 2;
                hold.after(Held::Answered, now);
                continue;
            }
            let length = hold.length();
            let is_borne = way.bears.is_none_or(|bears| length <= bears);
            let took = match way.bears {
                Some(bears) if !is_borne && way.cuts => bears,
                _ if is_borne => length,
                _ => length + limits::HOLD_GRACE,
            };
            now += took;
            hold.after(if is_borne { Held::Full } else { Held::Died(took) }, now);
            polls.push((length, is_borne));
        }
        polls
    }

    #[test]
    fn it_doubles_up_to_four_minutes_and_settles() {
        let mut hold = Hold::adapting(limits::WAIT_DEFAULT);
        assert_eq!(hold.stage(), Stage::Searching);
        let lengths: Vec<u64> = live(&mut hold, &Way { bears: None, cuts: false }, 1, Duration::ZERO)
            .iter()
            .map(|poll| poll.0.as_secs())
            .collect();
        assert_eq!(lengths[..5], [30, 60, 120, 240, 240]);
        assert_eq!((hold.stage(), hold.failed()), (Stage::Settled, None));
    }

    #[test]
    fn a_hold_that_dies_twice_falls_back_and_is_not_tried_again() {
        let mut hold = Hold::adapting(limits::WAIT_DEFAULT);
        let way = Way { bears: Some(SECOND * 100), cuts: false };
        let lengths: Vec<u64> = live(&mut hold, &way, 1, Duration::ZERO).iter().map(|poll| poll.0.as_secs()).collect();
        assert_eq!(lengths[..7], [30, 60, 120, 120, 90, 90, 90]);
        assert_eq!((hold.stage(), hold.failed()), (Stage::Settled, Some(SECOND * 120)));
    }

    #[test]
    fn one_death_and_an_outage_say_nothing_of_the_hold() {
        let mut hold = Hold::adapting(SECOND * 120);
        hold.after(Held::Full, SECOND);
        assert_eq!(hold.length(), SECOND * 240);
        hold.after(Held::Died(SECOND * 250), SECOND);
        assert!(hold.is_in_doubt());
        hold.after(Held::Answered, SECOND);
        assert_eq!(hold.length(), SECOND * 240, "a server that restarts cuts every poll once");
        hold.after(Held::Full, SECOND);
        for _ in 0..10 {
            hold.after(Held::Died(SECOND * 250), SECOND);
            hold.after(Held::Unanswered, SECOND);
            hold.after(Held::Unanswered, SECOND);
            hold.after(Held::Answered, SECOND);
        }
        assert_eq!((hold.length(), hold.stage()), (SECOND * 240, Stage::Settled), "the line was down");
        hold.after(Held::Died(SECOND), SECOND);
        assert!(!hold.is_in_doubt(), "nobody forgets a connection within a second");
    }

    #[test]
    fn jobs_and_early_answers_let_it_be() {
        let mut hold = Hold::adapting(limits::WAIT_DEFAULT);
        for _ in 0..10 {
            hold.after(Held::Answered, SECOND);
        }
        assert_eq!(hold.length(), limits::WAIT_DEFAULT);
    }

    #[test]
    fn a_fixed_hold_stays() {
        let mut hold = Hold::fixed(SECOND * 300);
        for held in [Held::Full, Held::Died(SECOND * 310), Held::Answered, Held::Died(SECOND * 310), Held::Answered] {
            hold.after(held, SECOND);
            assert_eq!((hold.length(), hold.stage(), hold.is_in_doubt()), (SECOND * 300, Stage::Fixed, false));
        }
    }

    #[test]
    fn a_way_that_changes_is_learned_anew() {
        let mut hold = Hold::adapting(limits::WAIT_DEFAULT);
        live(&mut hold, &Way { bears: None, cuts: false }, 1, Duration::ZERO);
        live(&mut hold, &Way { bears: Some(SECOND * 50), cuts: true }, 1, SECOND * 3600);
        assert!(hold.length() > SECOND * 25 && hold.length() <= SECOND * 50, "{hold:?}");
        live(&mut hold, &Way { bears: None, cuts: false }, 20, SECOND * 7200);
        assert!(hold.length() <= SECOND * 50, "what failed is remembered");
        live(&mut hold, &Way { bears: None, cuts: false }, 10, SECOND * 3600 * 22);
        assert_eq!(hold.length(), limits::HOLD_MAX, "for a day");
    }

    proptest! {
        #[test]
        fn it_settles_below_what_kills_it_and_above_half_of_that(bears in 60_u64..400, cuts: bool, start in 10_u64..60) {
            let bears = SECOND * u32::try_from(bears).unwrap();
            let mut hold = Hold::adapting(SECOND * u32::try_from(start).unwrap());
            let polls = live(&mut hold, &Way { bears: Some(bears), cuts }, 12, Duration::ZERO);
            prop_assert_eq!(hold.stage(), Stage::Settled);
            prop_assert!(hold.length() <= bears && hold.length() > bears.min(limits::HOLD_MAX) / 2, "{:?}", hold);
            prop_assert!(polls.iter().filter(|poll| !poll.1).count() <= 6, "{:?}", polls);
            prop_assert!(polls.iter().skip(20).all(|poll| poll.1), "nothing is tried once it has settled");
        }

        #[test]
        fn it_stays_within_its_bounds_whatever_happens(events in prop::collection::vec((0_u8..5, 0_u64..400), 0..200)) {
            let mut hold = Hold::adapting(limits::WAIT_DEFAULT);
            let mut now = Duration::ZERO;
            for (kind, seconds) in events {
                now += Duration::from_secs(seconds * 60);
                let held = match kind {
                    0 => Held::Answered,
                    1 | 2 => Held::Died(Duration::from_secs(seconds)),
                    3 => Held::Full,
                    _ => Held::Unanswered,
                };
                hold.after(held, now);
                prop_assert!(hold.length() >= limits::HOLD_FLOOR && hold.length() <= limits::HOLD_MAX, "{:?}", hold);
            }
        }
    }
}

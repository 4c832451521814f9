//! What is counted: bytes on the wire, by day and month, and memory.

use std::ops::{Add, Sub};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::clock::calendar;

/// Bytes both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// From us.
    pub sent: u64,
    /// To us.
    pub received: u64,
}

impl Bytes {
    /// Both ways together.
    #[must_use]
    pub fn sum(self) -> u64 {
        self.sent.saturating_add(self.received)
    }
}

impl Add for Bytes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { sent: self.sent.saturating_add(other.sent), received: self.received.saturating_add(other.received) }
    }
}

impl Sub for Bytes {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { sent: self.sent.saturating_sub(other.sent), received: self.received.saturating_sub(other.received) }
    }
}

/// Counts what goes over the connections of one kind, TLS and all; what TCP and IP add (40 bytes a packet) is not
/// seen from here. A clone counts for the same.
///
/// A mutex around 64-bit numbers: an armv6 has no atomics of that width, and 32 bits are full after 4 GB.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Mutex<Bytes>>);

impl Meter {
    /// Something was sent.
    pub fn add_sent(&self, bytes: usize) {
        let mut total = self.lock();
        total.sent = total.sent.saturating_add(bytes as u64);
    }

    /// Something came.
    pub fn add_received(&self, bytes: usize) {
        let mut total = self.lock();
        total.received = total.received.saturating_add(bytes as u64);
    }

    /// All since the start.
    #[must_use]
    pub fn total(&self) -> Bytes {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Bytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a meter counted in this day and this month, in UTC. Pure: the meter's total and the time come in. What is
/// serialized is what a restart has to know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Days since 1970.
    day: u64,
    /// Months since the year 0.
    month: u64,
    today: Bytes,
    this_month: Bytes,
    /// The meter's total when it was last read; a meter begins at nothing with each start.
    #[serde(skip)]
    read: Bytes,
}

impl Traffic {
    /// Reads the meter. What came since the last time counts for the day it is now.
    pub fn read(&mut self, total: Bytes, unix_seconds: u64) {
        let day = unix_seconds / 86_400;
        let month = month_of(day);
        // A clock that is set back begins anew, too: it was wrong before.
        if self.day != day {
            (self.day, self.today) = (day, Bytes::default());
        }
        if self.month != month {
            (self.month, self.this_month) = (month, Bytes::default());
        }
        let new = total - self.read;
        self.read = total;
        self.today = self.today + new;
        self.this_month = self.this_month + new;
    }

    /// Of the day that was last read.
    #[must_use]
    pub fn today(&self) -> Bytes {
        self.today
    }

    /// Of the month that was last read.
    #[must_use]
    pub fn this_month(&self) -> Bytes {
        self.this_month
    }
}

/// Months since the year 0 of a day since 1970.
fn month_of(day: u64) -> u64 {
    let (year, month, _) = calendar::date_of(i64::try_from(day).unwrap_or_default());
    u64::try_from(year * 12 + month - 1).unwrap_or_default()
}

/// Memory of this process, in kB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// In use now (`VmRSS`).
    #[serde(rename = "rssKb")]
    pub rss_kb: u64,
    /// The most that was ever in use (`VmHWM`).
    #[serde(rename = "rssPeakKb")]
    pub rss_peak_kb: u64,
}

impl Memory {
    /// Asks the kernel; all zero where it does not tell.
    #[must_use]
    pub fn now() -> Self {
        std::fs::read_to_string("/proc/self/status").map_or_else(|_| Self::default(), |text| Self::parse(&text))
    }

    fn parse(status: &str) -> Self {
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        Self { rss_kb: value("VmRSS:"), rss_peak_kb: value("VmHWM:") }
    }
}

#[cfg(test)]
mod tests {
    use super::{Bytes, Memory, Meter, Traffic, month_of};
    use proptest::prelude::*;

    const DAY: u64 = 86_400;

    fn bytes(sent: u64, received: u64) -> Bytes {
        Bytes { sent, received }
    }

    fn day_of(date: &str) -> u64 {
        let time: jiff::Timestamp = format!("{date}T00:00:00Z").parse().unwrap();
        u64::try_from(time.as_second()).unwrap() / DAY
    }

    #[test]
    fn a_meter_counts_for_all_its_clones() {
        let meter = Meter::default();
        let clone = meter.clone();
        clone.add_sent(3);
        meter.add_received(4);
        clone.add_received(5);
        assert_eq!((meter.total(), meter.total().sum()), (bytes(3, 9), 12));
    }

    #[test]
    fn days_and_months_begin_at_nothing() {
        let mut traffic = Traffic::default();
        let last_of_january = day_of("2027-01-31") * DAY;
        traffic.read(bytes(10, 100), last_of_january);
        traffic.read(bytes(15, 150), last_of_january + DAY - 1);
        assert_eq!((traffic.today(), traffic.this_month()), (bytes(15, 150), bytes(15, 150)));
        traffic.read(bytes(16, 160), last_of_january + DAY);
        assert_eq!((traffic.today(), traffic.this_month()), (bytes(1, 10), bytes(1, 10)));
        traffic.read(bytes(18, 180), last_of_january + 2 * DAY);
        assert_eq!((traffic.today(), traffic.this_month()), (bytes(2, 20), bytes(3, 30)));
        traffic.read(bytes(18, 180), day_of("2028-02-02") * DAY);
        assert_eq!((traffic.today(), traffic.this_month()), (bytes(0, 0), bytes(0, 0)), "a year later");
    }

    #[test]
    fn a_restart_goes_on_where_it_was() {
        let mut traffic = Traffic::default();
        traffic.read(bytes(10, 100), DAY);
        let mut kept: Traffic = serde_json::from_str(&serde_json::to_string(&traffic).unwrap()).unwrap();
        kept.read(bytes(1, 2), DAY);
        assert_eq!(kept.today(), bytes(11, 102));
    }

    #[test]
    fn memory_is_what_the_kernel_says() {
        let text = "Name:\tpullet\nVmHWM:\t    3400 kB\nVmRSS:\t    3392 kB\n";
        assert_eq!(Memory::parse(text), Memory { rss_kb: 3392, rss_peak_kb: 3400 });
        assert_eq!(Memory::parse("VmRSS: much"), Memory::default());
        assert!(Memory::now().rss_peak_kb > 0);
    }

    proptest! {
        #[test]
        fn months_are_those_of_the_calendar(day in 0_u64..80_000) {
            let date = jiff::Timestamp::from_second(i64::try_from(day * DAY).unwrap()).unwrap();
            let date = date.to_zoned(jiff::tz::TimeZone::UTC).date();
            let expected = u64::try_from(date.year()).unwrap() * 12 + u64::try_from(date.month()).unwrap() - 1;
            prop_assert_eq!(month_of(day), expected);
        }
    }
}

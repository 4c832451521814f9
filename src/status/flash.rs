//! What was done to the flash, which wears out by being written.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::journal::medium::FlashCounts;

/// Writes of the journal, spool and checkpoint. What the first start writes to make the files counts for the start
/// alone, not by the hour or job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlashStatus {
    /// Calls that wrote, since the start.
    pub writes: u64,
    /// Bytes they wrote.
    pub bytes: u64,
    /// Calls that made it durable.
    pub syncs: u64,
    /// An hour; in the first hour, so far.
    pub writes_per_hour: Ratio,
    /// An hour; in the first hour, so far.
    pub syncs_per_hour: Ratio,
    /// For each job that ended; none = none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes_per_job: Option<Ratio>,
    /// For each job that ended; none = none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syncs_per_job: Option<Ratio>,
}

/// Hundredths; a number with a point in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ratio(u64);

const HOUR: u64 = 3_600;

impl FlashStatus {
    /// What was done `now`, `began` when the agent was ready `seconds` ago, with the jobs that ended since.
    #[must_use]
    pub fn new(now: FlashCounts, began: FlashCounts, seconds: u64, jobs: u64) -> Self {
        let (writes, syncs) = (now.writes.saturating_sub(began.writes), now.syncs.saturating_sub(began.syncs));
        let an_hour = |count: u64| Ratio::of(count.saturating_mul(HOUR), seconds.max(HOUR));
        Self {
            writes: now.writes,
            bytes: now.bytes,
            syncs: now.syncs,
            writes_per_hour: an_hour(writes).unwrap_or_default(),
            syncs_per_hour: an_hour(syncs).unwrap_or_default(),
            writes_per_job: Ratio::of(writes, jobs),
            syncs_per_job: Ratio::of(syncs, jobs),
        }
    }

    /// Without what changes by itself.
    #[must_use]
    pub fn bare(self) -> Self {
        Self { writes_per_hour: Ratio::default(), syncs_per_hour: Ratio::default(), ..self }
    }

    /// For a person.
    #[must_use]
    pub fn describe(&self) -> String {
        let by_job = self.writes_per_job.zip(self.syncs_per_job).map_or_else(String::new, |(writes, syncs)| {
            format!(", {} and {} a job", writes.describe(), syncs.describe())
        });
        let (writes, syncs) = (self.writes_per_hour.describe(), self.syncs_per_hour.describe());
        format!("{} writes and {} syncs, {writes} and {syncs} an hour{by_job}", self.writes, self.syncs)
    }
}

impl Ratio {
    /// None where there is nothing to be divided by.
    #[must_use]
    pub fn of(count: u64, by: u64) -> Option<Self> {
        count.saturating_mul(100).checked_div(by).map(Self)
    }

    fn describe(self) -> String {
        format!("{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

impl Serialize for Ratio {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[allow(clippy::cast_precision_loss, reason = "exact for a thousand years of writes")]
        serializer.serialize_f64(self.0 as f64 / 100.0)
    }
}

impl<'de> Deserialize<'de> for Ratio {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "what is out of range becomes the nearest that is in it"
        )]
        Ok(Self((number * 100.0).round() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::{FlashStatus, Ratio};
    use crate::journal::medium::FlashCounts;

    fn counts(writes: u64, syncs: u64) -> FlashCounts {
        FlashCounts { writes, bytes: writes * 4_096, syncs }
    }

    #[test]
    fn writes_are_told_by_the_hour_and_by_the_job() {
        let status = FlashStatus::new(counts(107, 9), counts(100, 3), 2 * 3_600, 3);
        assert_eq!((status.writes, status.syncs), (107, 9));
        assert_eq!(status.describe(), "107 writes and 9 syncs, 3.50 and 3.00 an hour, 2.33 and 2.00 a job");
        let first = FlashStatus::new(counts(107, 9), counts(100, 3), 60, 0);
        assert_eq!(first.describe(), "107 writes and 9 syncs, 7.00 and 6.00 an hour");
        assert_eq!(status.bare().bare(), FlashStatus::new(counts(107, 9), counts(100, 3), u64::MAX, 3).bare());
    }

    #[test]
    fn ratios_are_numbers_in_json_and_come_back() {
        let status = FlashStatus::new(counts(107, 9), counts(100, 3), 2 * 3_600, 3);
        let text = serde_json::to_string(&status).unwrap();
        assert!(text.contains(r#""writesPerHour":3.5"#) && text.contains(r#""writesPerJob":2.33"#), "{text}");
        assert_eq!(serde_json::from_str::<FlashStatus>(&text).unwrap(), status);
        for (text, hundredths) in [("1e300", u64::MAX), ("-1", 0), ("0.005", 1)] {
            assert_eq!(serde_json::from_str::<Ratio>(text).unwrap(), Ratio(hundredths), "{text}");
        }
        assert!(serde_json::from_str::<Ratio>("\"1\"").is_err());
    }
}

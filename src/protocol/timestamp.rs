//! A moment as the protocol writes it.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A moment, RFC 3339 on the wire, written in UTC and whole seconds, read with any offset and down to
/// nanoseconds (P1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// Whole seconds since 1970, cut to what RFC 3339 can write.
    #[must_use]
    pub fn from_unix_seconds(seconds: u64) -> Self {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        Self(jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX))
    }

    /// The moment of `time`, in whole seconds.
    #[must_use]
    pub fn from_system_time(time: SystemTime) -> Self {
        Self::from_unix_seconds(time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }

    /// Reads RFC 3339.
    ///
    /// # Errors
    /// When `text` is no RFC 3339 timestamp.
    pub fn parse(text: &str) -> Result<Self, InvalidTimestamp> {
        text.parse().map(Self).map_err(|_| InvalidTimestamp)
    }

    /// Seconds since 1970, negative before.
    #[must_use]
    pub fn unix_seconds(self) -> i64 {
        self.0.as_second()
    }

    /// Reads a member that may be missing, `null`, or the year 1, all of which say "none" (P1.4).
    ///
    /// # Errors
    /// When the member is anything else than a timestamp.
    pub fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        let text = Option::<std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let Some(text) = text else { return Ok(None) };
        if text.starts_with("0001-01-01T00:00:00") {
            return Ok(None);
        }
        Self::parse(&text).map(Some).map_err(de::Error::custom)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0}", self.0)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

/// The text is no RFC 3339 timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidTimestamp;

impl fmt::Display for InvalidTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an RFC 3339 timestamp such as 2026-01-31T12:00:00Z")
    }
}

impl std::error::Error for InvalidTimestamp {}

#[cfg(test)]
mod tests {
    use super::Timestamp;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Holder {
        #[serde(default, deserialize_with = "Timestamp::optional")]
        at: Option<Timestamp>,
    }

    fn read(text: &str) -> Result<Option<Timestamp>, serde_json::Error> {
        serde_json::from_str::<Holder>(text).map(|holder| holder.at)
    }

    #[test]
    fn missing_null_and_year_one_say_none() {
        for text in ["{}", r#"{"at":null}"#, r#"{"at":"0001-01-01T00:00:00Z"}"#] {
            assert_eq!(read(text).unwrap(), None, "{text}");
        }
    }

    #[test]
    fn fractions_and_offsets_are_read() {
        let whole = read(r#"{"at":"2026-01-31T12:00:00Z"}"#).unwrap().unwrap();
        let nanos = read(r#"{"at":"2026-01-31T13:00:00.123456789+01:00"}"#).unwrap().unwrap();
        assert_eq!(whole.unix_seconds(), nanos.unix_seconds());
        assert_eq!(nanos.to_string(), "2026-01-31T12:00:00Z");
    }

    #[test]
    fn anything_else_is_an_error() {
        for text in [r#"{"at":""}"#, r#"{"at":"yesterday"}"#, r#"{"at":17}"#, r#"{"at":"2026-13-01T00:00:00Z"}"#] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn is_written_in_whole_seconds() {
        assert_eq!(serde_json::to_string(&Timestamp::from_unix_seconds(0)).unwrap(), r#""1970-01-01T00:00:00Z""#);
        assert_eq!(
            serde_json::to_string(&Timestamp::from_unix_seconds(u64::MAX)).unwrap().len(),
            r#""9999-12-30T22:00:00Z""#.len()
        );
    }
}

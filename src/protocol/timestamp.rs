//! A moment as the protocol writes it.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::clock::calendar;

/// A moment, RFC 3339 on the wire, written in UTC and whole seconds, read with any offset and down to
/// nanoseconds (P1.4). Between the years 0 and 9999, which is what RFC 3339 can write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Since 1970, negative before.
    seconds: i64,
    nanos: u32,
}

const DAY: i64 = 24 * 60 * 60;

/// 0000-01-01T00:00:00Z.
const FIRST: i64 = -719_528 * DAY;

/// 9999-12-31T23:59:59Z.
const LAST: i64 = 2_932_897 * DAY - 1;

impl Timestamp {
    /// Whole seconds since 1970, cut to what RFC 3339 can write.
    #[must_use]
    pub fn from_unix_seconds(seconds: u64) -> Self {
        Self { seconds: i64::try_from(seconds).unwrap_or(LAST).min(LAST), nanos: 0 }
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
        read(&mut Reader(text.as_bytes())).ok_or(InvalidTimestamp)
    }

    /// Seconds since 1970, negative before.
    #[must_use]
    pub fn unix_seconds(self) -> i64 {
        self.seconds
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
        let (days, second) = (self.seconds.div_euclid(DAY), self.seconds.rem_euclid(DAY));
        let (year, month, day) = calendar::date_of(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
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

/// What is left of the text.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next byte, in capitals, must be one of these.
    fn one_of(&mut self, expected: &[u8]) -> Option<u8> {
        self.byte().map(|byte| byte.to_ascii_uppercase()).filter(|byte| expected.contains(byte))
    }

    fn digit(&mut self) -> Option<i64> {
        self.byte().filter(u8::is_ascii_digit).map(|digit| i64::from(digit & 0xf))
    }

    fn number(&mut self, digits: u32, bounds: RangeInclusive<i64>) -> Option<i64> {
        let number =
            (0..digits).try_fold(0, |number: i64, _| Some(number.wrapping_mul(10).wrapping_add(self.digit()?)));
        number.filter(|number| bounds.contains(number))
    }
}

fn read(text: &mut Reader<'_>) -> Option<Timestamp> {
    let year = text.number(4, 0..=9999)?;
    text.one_of(b"-")?;
    let month = text.number(2, 1..=12)?;
    text.one_of(b"-")?;
    let day = text.number(2, 1..=31)?;
    let days = calendar::day_of((year, month, day));
    if calendar::date_of(days) != (year, month, day) {
        return None;
    }
    text.one_of(b"T ")?;
    let hour = text.number(2, 0..=23)?;
    text.one_of(b":")?;
    let minute = text.number(2, 0..=59)?;
    text.one_of(b":")?;
    // The clocks of this world have no leap second: it is the one before.
    let second = text.number(2, 0..=60)?.min(59);
    let (mut nanos, mut unit) = (0, 100_000_000);
    let mut next = text.one_of(b".Z+-")?;
    if next == b'.' {
        nanos = text.digit()?.wrapping_mul(unit);
        loop {
            next = text.one_of(b"0123456789Z+-")?;
            if !next.is_ascii_digit() {
                break;
            }
            unit /= 10;
            nanos = nanos.wrapping_add(i64::from(next & 0xf).wrapping_mul(unit));
        }
    }
    let mut seconds = days.wrapping_mul(DAY).wrapping_add(hour * 3600 + minute * 60 + second);
    if next != b'Z' {
        let hours = text.number(2, 0..=23)?;
        text.one_of(b":")?;
        let offset = hours * 3600 + text.number(2, 0..=59)? * 60;
        seconds = if next == b'-' { seconds.wrapping_add(offset) } else { seconds.wrapping_sub(offset) };
    }
    if !text.0.is_empty() || !(FIRST..=LAST).contains(&seconds) {
        return None;
    }
    Some(Timestamp { seconds, nanos: u32::try_from(nanos).ok()? })
}

#[cfg(test)]
mod tests {
    use super::{FIRST, InvalidTimestamp, Timestamp};
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
        for text in [
            "2026-01-31T12:00:00",
            "2026-01-31T12:00:00Z ",
            "2026-01-31T12:00:00.Z",
            "2026-01-31T12:00Z",
            "2026-01-31T24:00:00Z",
            "2026-01-31T12:60:00Z",
            "2026-01-31T12:00:61Z",
            "2026-01-31T12:00:00+1:00",
            "2026-01-31T12:00:00+24:00",
            "2026-01-31T12:00:00+0100",
            "2026-01-31",
            "2026-02-29T12:00:00Z",
            "2026-1-31T12:00:00Z",
            "+026-01-31T12:00:00Z",
            "9999-12-31T23:59:59-00:01",
            "0000-01-01T00:00:00+00:01",
            "2026-01-31T12:00:00Z[UTC]",
            "\u{ff12}026-01-31T12:00:00Z",
        ] {
            assert_eq!(Timestamp::parse(text), Err(InvalidTimestamp), "{text}");
        }
    }

    #[test]
    fn what_rfc_3339_allows_is_read() {
        let same =
            ["1996-12-20T00:39:57Z", "1996-12-19T16:39:57-08:00", "1996-12-20t00:39:57.000z", "1996-12-20 00:39:57Z"];
        for text in same {
            assert_eq!(Timestamp::parse(text).unwrap().unix_seconds(), 851_042_397, "{text}");
        }
        for text in ["1990-12-31T23:59:60Z", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59.9999999999999Z"] {
            Timestamp::parse(text).unwrap();
        }
        let ordered = [
            "1969-12-31T23:59:59Z",
            "1969-12-31T23:59:59.1Z",
            "1970-01-01T00:00:00Z",
            "1970-01-01T00:00:00.000000001Z",
        ];
        let ordered = ordered.map(|text| Timestamp::parse(text).unwrap());
        assert!(ordered.is_sorted_by(|a, b| a < b), "{ordered:?}");
    }

    /// Against another reader and writer of the same.
    #[test]
    fn moments_are_read_and_written_as_others_do() {
        for step in 0..100_000 {
            let seconds = FIRST + 93_600 + step * 3_155_695;
            let other = jiff::Timestamp::from_second(seconds).unwrap().to_string();
            let ours = Timestamp::parse(&other).unwrap();
            assert_eq!((ours.unix_seconds(), ours.to_string()), (seconds, other));
        }
    }

    #[test]
    fn is_written_in_whole_seconds() {
        assert_eq!(serde_json::to_string(&Timestamp::from_unix_seconds(0)).unwrap(), r#""1970-01-01T00:00:00Z""#);
        assert_eq!(Timestamp::from_unix_seconds(u64::MAX).to_string(), "9999-12-31T23:59:59Z");
    }
}

//! Answers that are read no further than a limit and no slower than they must be.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::NetError;
use crate::limits;

/// The body of an answer.
///
/// Reading past its limit is an error, never a silent end. The connection goes back to its line when the
/// body was read to its end, and is closed otherwise.
pub struct Body {
    reader: Box<dyn Read + Send>,
    limit: u64,
    count: u64,
    since: Option<Instant>,
}

impl Body {
    /// `paced`: whether the body must bring [`limits::BODY_RATE`].
    pub(super) fn new(reader: impl Read + Send + 'static, limit: u64, paced: bool) -> Self {
        Self { reader: Box::new(reader), limit, count: 0, since: paced.then(Instant::now) }
    }

    /// Lets the body be longer or shorter than its line's default.
    #[must_use]
    pub fn with_limit(mut self, limit: u64) -> Self {
        self.limit = limit;
        self
    }

    /// Reads everything.
    ///
    /// # Errors
    /// When the body is cut, too long or too slow.
    pub fn read_all(mut self) -> Result<Vec<u8>, NetError> {
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(NetError::from_io)?;
        Ok(bytes)
    }

    /// Reads some bytes; 0 is the end.
    ///
    /// # Errors
    /// When the body is cut, too long or too slow.
    pub fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, NetError> {
        self.read(buffer).map_err(NetError::from_io)
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.count += count as u64;
        if self.count > self.limit {
            return Err(NetError::TooLong(self.limit).into_io());
        }
        if count > 0 && self.since.is_some_and(|since| is_too_slow(self.count, since.elapsed())) {
            return Err(NetError::TooSlow.into_io());
        }
        Ok(count)
    }
}

/// Whether `count` bytes in `elapsed` are fewer than a body must bring.
fn is_too_slow(count: u64, elapsed: Duration) -> bool {
    elapsed > limits::BODY_RATE_GRACE && count < limits::BODY_RATE * elapsed.as_secs()
}

#[cfg(test)]
mod tests {
    use super::{Body, is_too_slow};
    use crate::limits;
    use crate::net::NetError;
    use std::time::Duration;

    #[test]
    fn a_body_of_just_the_limit_is_read_and_one_byte_more_is_not() {
        let body = |length: usize| Body::new(std::io::Cursor::new(vec![b'x'; length]), 10, true);
        assert_eq!(body(10).read_all().unwrap().len(), 10);
        assert!(matches!(body(11).read_all(), Err(NetError::TooLong(10))));
    }

    #[test]
    fn a_drip_is_too_slow_once_its_grace_is_over() {
        let grace = limits::BODY_RATE_GRACE;
        assert!(!is_too_slow(1, grace));
        assert!(is_too_slow(11, grace + Duration::from_secs(1)));
        assert!(!is_too_slow(limits::BODY_RATE * 60, Duration::from_secs(60)));
    }
}

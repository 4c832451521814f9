//! JSON is read from text alone: beside each reader from text serde would make another one from bytes, 25 kB together.

use serde::Deserialize;
use serde::de::Error as _;

/// Reads what came as bytes.
///
/// # Errors
/// When it is no text, no JSON, or not that.
pub fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, serde_json::Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => serde_json::from_str(text),
        Err(_) => Err(serde_json::Error::custom("no UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn bytes_are_read_as_text() {
        assert_eq!(read::<&str>(b"\"\xc3\xa4\"").unwrap(), "\u{e4}");
        for bytes in [&b"\"\xe4\""[..], b"\"a\xc3", b"", b"\"a", b"\"a\"x", b"7"] {
            assert!(read::<&str>(bytes).is_err(), "{bytes:?}");
        }
    }
}

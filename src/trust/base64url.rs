//! base64url without padding (RFC 4648, section 5): how JOSE writes bytes, and how digests are written everywhere here.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Writes bytes.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads bytes; none for padding, for characters of the other alphabet, and for a last character whose unused bits are
/// not zero: two texts never mean the same bytes.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// Reads exactly so many bytes.
#[must_use]
pub fn decode_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    decode(text)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::{decode, decode_array, encode};

    #[test]
    fn bytes_come_back_and_no_second_text_means_the_same() {
        // RFC 7515, appendix C.
        assert_eq!(encode(&[3, 236, 255, 224, 193]), "A-z_4ME");
        assert_eq!(decode("A-z_4ME").unwrap(), [3, 236, 255, 224, 193]);
        assert_eq!(decode_array::<5>("A-z_4ME").unwrap(), [3, 236, 255, 224, 193]);
        assert_eq!(decode_array::<4>("A-z_4ME"), None);
        for wrong in ["A-z_4ME=", "A+z/4ME", "A-z_4MF", "A", "A-z_4M E", "ü"] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
    }
}

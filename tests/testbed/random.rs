//! Tokens, bearers and ids that nobody guesses.

use std::fmt::Write as _;

use ring::rand::{SecureRandom as _, SystemRandom};

/// 32 random bytes.
pub(crate) fn bytes() -> [u8; 32] {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).expect("the system has randomness");
    bytes
}

/// `bytes` random bytes as twice as many hex digits.
pub(crate) fn hex(bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    SystemRandom::new().fill(&mut buffer).expect("the system has randomness");
    buffer.iter().fold(String::with_capacity(bytes * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

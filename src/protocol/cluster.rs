//! The name of a cluster at its control plane.

use std::fmt;

/// A cluster id: something that can be the value of a label, since every applied object carries it
/// (P1.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterId(String);

/// The text cannot be the value of a Kubernetes label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidClusterId;

impl fmt::Display for InvalidClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a cluster id has 1 to 63 letters, digits, '-', '_' or '.', and begins and ends with a letter or digit",
        )
    }
}

impl std::error::Error for InvalidClusterId {}

impl ClusterId {
    /// Reads a cluster id; white space around it is dropped.
    ///
    /// # Errors
    /// When the text cannot be the value of a label.
    pub fn parse(text: &str) -> Result<Self, InvalidClusterId> {
        let text = text.trim();
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        let usable = text.len() <= 63
            && text.chars().all(inner)
            && outer(text.chars().next())
            && outer(text.chars().next_back());
        if usable { Ok(Self(text.to_owned())) } else { Err(InvalidClusterId) }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::ClusterId;

    #[test]
    fn is_the_value_of_a_label() {
        assert_eq!(ClusterId::parse(" clinic-7.a_b ").unwrap().as_str(), "clinic-7.a_b");
        assert!(ClusterId::parse(&"x".repeat(63)).is_ok());
        for text in ["", " ", "-a", "a-", "a b", "a/b", "ä", &"x".repeat(64)] {
            assert!(ClusterId::parse(text).is_err(), "{text}");
        }
    }
}

//! A text that must not be seen: tokens and keys.

use std::fmt;

use zeroize::Zeroizing;

/// A secret text. Its `Debug` prints its name; it has no `Display`, no `Serialize`, no `Clone`, and is
/// wiped when dropped.
pub struct Secret {
    name: &'static str,
    value: Zeroizing<String>,
}

impl Secret {
    /// Keeps `value` under a name that may be printed.
    #[must_use]
    pub fn new(name: &'static str, value: String) -> Self {
        Self { name, value: Zeroizing::new(value) }
    }

    /// The text itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.value
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn debug_prints_the_name_and_not_the_value() {
        let secret = Secret::new("bearer", "tok-0123456789".to_owned());
        assert_eq!(format!("{secret:?}"), "Secret(bearer)");
        assert_eq!(secret.expose(), "tok-0123456789");
    }
}

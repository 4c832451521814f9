//! Why a configuration cannot be used.

use std::fmt;
use std::path::PathBuf;

/// Why a configuration cannot be used. All of them are wrong usage.
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    File(PathBuf, std::io::Error),
    /// The file is too large to be one.
    TooLarge(PathBuf),
    /// The file is no TOML, or a value is of the wrong type; with what the parser says.
    Syntax(PathBuf, String),
    /// A key that does not exist, and the closest that does.
    UnknownKey(PathBuf, String, Option<&'static str>),
    /// A value that cannot be used; key, value, why.
    Value(&'static str, String, String),
    /// A setting that is needed.
    Missing(&'static str, &'static str),
}

impl ConfigError {
    /// Whether the file is there for somebody else.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::File(_, error) if error.kind() == std::io::ErrorKind::PermissionDenied)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, error) => {
                write!(f, "the configuration {} cannot be read: {error}", path.display())?;
                f.write_str(if self.is_closed() { ": run this as root (sudo)" } else { "" })
            }
            Self::TooLarge(path) => write!(f, "{} is larger than 64 KiB: no configuration", path.display()),
            Self::Syntax(path, reason) => write!(f, "{}: {}", path.display(), reason.trim_end()),
            Self::UnknownKey(path, key, Some(closest)) => {
                write!(f, "{}: there is no setting {key:?}; did you mean {closest}?", path.display())
            }
            Self::UnknownKey(path, key, None) => {
                write!(f, "{}: there is no setting {key:?}; pullet run --help lists them", path.display())
            }
            Self::Value(key, value, why) => write!(f, "{key} = {value:?}: {why}"),
            Self::Missing(key, why) => write!(f, "{key} is missing: {why}"),
        }
    }
}

impl std::error::Error for ConfigError {}

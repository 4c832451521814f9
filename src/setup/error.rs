//! Why it could not be done.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::config::ConfigError;
use crate::target::kubernetes::{AccessError, AdminError};

/// Why `setup` or `uninstall` stopped.
#[derive(Debug)]
pub enum SetupError {
    /// The API server cannot be reached as its administrator.
    Access(AccessError),
    /// The API server did not do this.
    Api(String, AdminError),
    /// A setting cannot be used.
    Config(ConfigError),
    /// A file or a directory; what went wrong.
    File(PathBuf, io::Error),
    /// Nothing was begun: what is asked for does not go here.
    Impossible(&'static str),
    /// Something that says by itself what it is: the registration, a secret, an object of the agent's own.
    Other(Box<dyn std::error::Error>),
    /// A program ended with an error, which it has said, or could not be run.
    Program(String, Option<io::Error>),
    /// Nothing was taken away, as the cluster is out of reach.
    Unreachable(Box<SetupError>),
    /// A file that was given cannot be what it is given as; nothing was begun.
    Unusable(Box<dyn std::error::Error>),
    /// All is in its place, but the agent has no answer yet; what is known of it.
    Unconnected(String),
}

impl SetupError {
    /// Whether the command line is to be changed and nothing else.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Config(_) | Self::Impossible(_) | Self::Unusable(_))
    }
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Access(_) => f.write_str("the cluster cannot be reached as its administrator"),
            Self::Api(what, _) => f.write_str(what),
            Self::Config(error) => error.fmt(f),
            Self::File(path, _) => path.display().fmt(f),
            Self::Impossible(why) => f.write_str(why),
            Self::Program(line, _) => write!(f, "{line} failed"),
            Self::Other(error) | Self::Unusable(error) => error.fmt(f),
            Self::Unreachable(_) => f.write_str(
                "nothing was removed: the cluster cannot be asked, and only --leave-cluster leaves what is in it",
            ),
            Self::Unconnected(known) => {
                write!(f, "all is in its place, but the agent has no answer from the control plane yet: {known}")
            }
        }
    }
}

impl std::error::Error for SetupError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Access(error) => Some(error),
            Self::Api(_, error) => Some(error),
            Self::File(_, error) | Self::Program(_, Some(error)) => Some(error),
            Self::Other(error) | Self::Unusable(error) => error.source(),
            Self::Unreachable(error) => Some(&**error),
            Self::Config(_) | Self::Impossible(_) | Self::Program(_, None) | Self::Unconnected(_) => None,
        }
    }
}

impl From<AccessError> for SetupError {
    fn from(error: AccessError) -> Self {
        Self::Access(error)
    }
}

impl From<ConfigError> for SetupError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

//! Why there is no status to be read.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::VERSION;

/// Why there is no status to be read.
#[derive(Debug)]
pub enum StatusError {
    /// There is no such file: no agent runs, or it writes elsewhere.
    Absent(PathBuf),
    /// The process that wrote it is gone.
    Gone(PathBuf, u32),
    /// It cannot be read.
    Io(PathBuf, io::Error),
    /// It is no status.
    Malformed(PathBuf),
    /// It is of another version of the agent.
    OtherVersion(PathBuf, u32),
    /// It is larger than a status can be.
    TooLarge(PathBuf),
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(path) => write!(
                f,
                "not running, or not at work yet: there is no {} (start it with pullet run or systemctl start pullet; if it runs with \
                 another status_file, give --status-file)",
                path.display()
            ),
            Self::Gone(path, pid) => write!(
                f,
                "not running: process {pid}, which wrote {}, ended without being told to (start it again; journalctl -u \
                 pullet may tell why it ended)",
                path.display()
            ),
            Self::Io(path, _) => write!(f, "{} cannot be read (try as root)", path.display()),
            Self::Malformed(path) => write!(f, "{} is no status of pullet (is --status-file right?)", path.display()),
            Self::OtherVersion(path, version) => write!(
                f,
                "{} is of version {version}, and this pullet reads {VERSION} (use the pullet that is running)",
                path.display()
            ),
            Self::TooLarge(path) => write!(f, "{} is larger than 64 KiB: no status of pullet", path.display()),
        }
    }
}

impl std::error::Error for StatusError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(_, error) => Some(error),
            _ => None,
        }
    }
}

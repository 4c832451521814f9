//! The floor on disk: `clock.json` in the state directory.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::json;
use crate::limits;

const NAME: &str = "clock.json";

/// Another version is not read.
const VERSION: u32 = 1;

/// The end of the year 9999: no timestamp can be written beyond it.
const LAST_SECOND: u64 = 253_402_300_799;

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Floor {
    version: u32,
    /// The last confirmed time.
    confirmed: u64,
}

/// Why the floor cannot be read or written.
#[derive(Debug)]
pub enum FloorError {
    /// The file is none of ours, or damaged.
    Malformed(PathBuf),
    /// The file cannot be read or removed.
    Unreadable(PathBuf, io::Error),
    /// The file cannot be written.
    Unwritable(PathBuf, io::Error),
}

impl fmt::Display for FloorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(path) => write!(
                f,
                "{} is damaged; the time of the build is the earliest that is believed (pullet doctor --reset-clock \
                 removes the file)",
                path.display()
            ),
            Self::Unreadable(path, _) => write!(f, "{} cannot be read or removed", path.display()),
            Self::Unwritable(path, _) => write!(
                f,
                "the confirmed time could not be written to {}; it is tried again after a day, or after a restart",
                path.display()
            ),
        }
    }
}

impl std::error::Error for FloorError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Malformed(_) => None,
            Self::Unreadable(_, error) | Self::Unwritable(_, error) => Some(error),
        }
    }
}

/// Where the floor is kept, and when it was written.
pub(super) struct Kept {
    path: Option<PathBuf>,
    written: Option<Duration>,
    floor: u64,
}

impl Kept {
    pub(super) const fn nowhere() -> Self {
        Self { path: None, written: None, floor: 0 }
    }

    pub(super) fn open(directory: &Path) -> (Self, Result<Option<u64>, FloorError>) {
        let path = directory.join(NAME);
        let floor = read(&path);
        let known = floor.as_ref().ok().copied().flatten().unwrap_or(0);
        (Self { path: Some(path), written: None, floor: known }, floor)
    }

    /// Once a day: flash wears out.
    pub(super) fn save(&mut self, floor: u64, monotonic: Duration) -> Result<(), FloorError> {
        let Some(path) = &self.path else { return Ok(()) };
        let day = limits::CLOCK_SAVED_EVERY;
        let is_due = self.written.is_none_or(|written| monotonic.saturating_sub(written) >= day);
        if !is_due || self.floor.abs_diff(floor) < day.as_secs() {
            return Ok(());
        }
        self.written = Some(monotonic);
        write(path, floor).map_err(|error| FloorError::Unwritable(path.clone(), error))?;
        self.floor = floor;
        Ok(())
    }
}

/// Forgets the floor of a state directory: a person on the node says that it is wrong. Whether there was one.
///
/// # Errors
/// When the file cannot be removed.
pub fn reset(directory: &Path) -> Result<bool, FloorError> {
    let path = directory.join(NAME);
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(FloorError::Unreadable(path, error)),
    }
}

fn read(path: &Path) -> Result<Option<u64>, FloorError> {
    let unreadable = |error| FloorError::Unreadable(path.to_owned(), error);
    let file = match File::options().read(true).custom_flags(NOT_A_LINK).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let mut text = Vec::new();
    file.take(limits::CLOCK_FILE_BYTES + 1).read_to_end(&mut text).map_err(unreadable)?;
    let malformed = || FloorError::Malformed(path.to_owned());
    if text.len() as u64 > limits::CLOCK_FILE_BYTES {
        return Err(malformed());
    }
    let floor: Floor = json::read(&text).map_err(|_| malformed())?;
    let is_good = floor.version == VERSION && floor.confirmed <= LAST_SECOND;
    if is_good { Ok(Some(floor.confirmed)) } else { Err(malformed()) }
}

/// A pipe in its place does not hold us up, a link is not followed.
const NOT_A_LINK: i32 = (rustix::fs::OFlags::NOFOLLOW.bits() | rustix::fs::OFlags::NONBLOCK.bits()).cast_signed();

fn write(path: &Path, confirmed: u64) -> io::Result<()> {
    let beside = path.with_extension("json.new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(&serde_json::to_vec(&Floor { version: VERSION, confirmed })?)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::{FloorError, Kept, reset};
    use std::fs;
    use std::time::Duration;

    const DAY: u64 = 86_400;

    #[test]
    fn the_floor_is_written_at_most_once_a_day_and_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let (mut kept, floor) = Kept::open(directory.path());
        assert_eq!(floor.unwrap(), None);
        kept.save(100 * DAY, Duration::from_secs(1)).unwrap();
        kept.save(200 * DAY, Duration::from_secs(DAY)).unwrap();
        assert_eq!(Kept::open(directory.path()).1.unwrap(), Some(100 * DAY));
        kept.save(201 * DAY, Duration::from_secs(DAY + 1)).unwrap();
        assert_eq!(Kept::open(directory.path()).1.unwrap(), Some(201 * DAY));
        assert!(reset(directory.path()).unwrap());
        assert!(!reset(directory.path()).unwrap());
        assert_eq!(Kept::open(directory.path()).1.unwrap(), None);
    }

    #[test]
    fn what_is_not_ours_is_no_floor() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("clock.json");
        let good = br#"{"version":1,"confirmed":1793491200}"#;
        let long = [good.as_slice(), &[b' '; 300]].concat();
        let cases: [&[u8]; 8] = [
            b"",
            &good[..20],
            br#"{"version":2,"confirmed":1}"#,
            br#"{"version":1,"confirmed":"1"}"#,
            br#"{"version":1,"confirmed":-1}"#,
            br#"{"version":1,"confirmed":253402300800}"#,
            br#"{"version":1,"confirmed":18446744073709551616}"#,
            &long,
        ];
        for case in cases {
            fs::write(&path, case).unwrap();
            assert!(matches!(Kept::open(directory.path()).1, Err(FloorError::Malformed(_))), "{case:?}");
        }
        fs::write(&path, good).unwrap();
        assert_eq!(Kept::open(directory.path()).1.unwrap(), Some(1_793_491_200));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        assert!(matches!(Kept::open(directory.path()).1, Err(FloorError::Unreadable(..))));
    }
}

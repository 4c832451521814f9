//! Where bytes are kept: a file of fixed size, or in tests one that fails in every way a disk can.

#[cfg(test)]
pub(crate) mod faulty;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::count::Count;

/// Bytes at fixed places. What was written is durable after the next [`sync`](Self::sync), and not before.
pub trait Medium: Send {
    /// How many bytes there are.
    ///
    /// # Errors
    /// When it cannot be told.
    fn len(&self) -> io::Result<u64>;

    /// Whether there are none.
    ///
    /// # Errors
    /// When it cannot be told.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// When they cannot all be read.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// When they could not all be written; some may have been.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes what was written durable.
    ///
    /// # Errors
    /// When that is not certain.
    fn sync(&mut self) -> io::Result<()>;
}

/// What was done to the flash since the start: it wears out by being written.
#[derive(Debug, Default)]
pub struct Flash {
    writes: Count,
    bytes: Count,
    syncs: Count,
}

/// The numbers of a [`Flash`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlashCounts {
    /// Calls that wrote.
    pub writes: u64,
    /// Bytes they wrote.
    pub bytes: u64,
    /// Calls that made it durable.
    pub syncs: u64,
}

impl Flash {
    /// The numbers now.
    #[must_use]
    pub fn counts(&self) -> FlashCounts {
        FlashCounts { writes: self.writes.now(), bytes: self.bytes.now(), syncs: self.syncs.now() }
    }

    fn wrote(&self, bytes: usize) {
        self.writes.add(1);
        self.bytes.add(bytes as u64);
    }
}

/// A file of the state directory, counted.
#[derive(Debug)]
pub struct FileMedium {
    file: File,
    flash: Arc<Flash>,
}

/// Zeros are written in pieces of this size.
const ZEROS: [u8; 4096] = [0; 4096];

impl FileMedium {
    /// Opens a file that is there; none where there is none.
    ///
    /// # Errors
    /// When it cannot be opened for writing, is a link, or is no plain file.
    pub fn open(directory: BorrowedFd<'_>, name: &str, flash: &Arc<Flash>) -> io::Result<Option<Self>> {
        Self::open_for(OFlags::RDWR, directory, name, flash)
    }

    /// As [`open`](Self::open), to be read alone: whoever looks while the agent runs cannot harm it.
    ///
    /// # Errors
    /// When it cannot be opened, is a link, or is no plain file.
    pub fn open_to_read(directory: BorrowedFd<'_>, name: &str) -> io::Result<Option<Self>> {
        Self::open_for(OFlags::RDONLY, directory, name, &Arc::default())
    }

    fn open_for(access: OFlags, directory: BorrowedFd<'_>, name: &str, flash: &Arc<Flash>) -> io::Result<Option<Self>> {
        let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match fs::openat(directory, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no plain file"));
        }
        Ok(Some(Self { file, flash: Arc::clone(flash) }))
    }

    /// Makes a file of `len` zeros, all of them on the disk, in the place of one that may be there. Written
    /// beside and renamed by [`FileMedium::take_place`].
    ///
    /// # Errors
    /// When there is no room; nothing is left behind then.
    pub fn create(directory: BorrowedFd<'_>, name: &str, len: u64, flash: &Arc<Flash>) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?);
        let mut medium = Self { file, flash: Arc::clone(flash) };
        let filled = medium.fill(len);
        if let Err(error) = filled {
            // What is left of it helps nobody on a full disk.
            let _ = fs::unlinkat(directory, name, AtFlags::empty());
            return Err(error);
        }
        Ok(medium)
    }

    /// Gives a file that was made beside its name, durably.
    ///
    /// # Errors
    /// When the directory cannot be changed.
    pub fn take_place(directory: BorrowedFd<'_>, from: &str, to: &str) -> io::Result<()> {
        fs::renameat(directory, from, directory, to)?;
        Ok(fs::fsync(directory)?)
    }

    fn fill(&mut self, len: u64) -> io::Result<()> {
        let mut offset = 0_u64;
        while offset < len {
            let piece = usize::try_from(len.saturating_sub(offset)).unwrap_or(usize::MAX).min(ZEROS.len());
            self.write_at(offset, ZEROS.get(..piece).unwrap_or(&ZEROS))?;
            offset = offset.saturating_add(piece as u64);
        }
        self.file.sync_all()?;
        self.flash.syncs.add(1);
        Ok(())
    }
}

impl Medium for FileMedium {
    fn len(&self) -> io::Result<u64> {
        self.file.metadata().map(|metadata| metadata.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset).map_err(|error| match error.raw_os_error() {
            // It was opened to be read, and that has one reason.
            Some(code) if code == Errno::BADF.raw_os_error() => Errno::ROFS.into(),
            _ => error,
        })?;
        self.flash.wrote(bytes.len());
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        fs::fdatasync(self.file.as_fd())?;
        self.flash.syncs.add(1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{FileMedium, Flash, FlashCounts, Medium};
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Arc;

    #[test]
    fn a_file_is_full_of_zeros_closed_to_others_and_counted() {
        let directory = tempfile::tempdir().unwrap();
        let handle = std::fs::File::open(directory.path()).unwrap();
        let flash = Arc::new(Flash::default());
        assert!(FileMedium::open(handle.as_fd(), "journal", &flash).unwrap().is_none());
        let mut medium = FileMedium::create(handle.as_fd(), "journal", 10_000, &flash).unwrap();
        assert_eq!(medium.len().unwrap(), 10_000);
        assert_eq!(flash.counts(), FlashCounts { writes: 3, bytes: 10_000, syncs: 1 });
        medium.write_at(9_998, b"ab").unwrap();
        medium.sync().unwrap();
        let mut read = [1; 3];
        medium.read_at(9_997, &mut read).unwrap();
        assert_eq!(&read, b"\0ab");
        assert!(medium.read_at(9_999, &mut read).is_err());
        assert_eq!(flash.counts(), FlashCounts { writes: 4, bytes: 10_002, syncs: 2 });
        let mode = std::fs::metadata(directory.path().join("journal")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_link_and_a_directory_are_no_medium() {
        let directory = tempfile::tempdir().unwrap();
        let handle = std::fs::File::open(directory.path()).unwrap();
        let flash = Arc::new(Flash::default());
        std::os::unix::fs::symlink("/etc/passwd", directory.path().join("link")).unwrap();
        std::fs::create_dir(directory.path().join("directory")).unwrap();
        for name in ["link", "directory"] {
            assert!(FileMedium::open(handle.as_fd(), name, &flash).is_err(), "{name}");
            assert!(FileMedium::create(handle.as_fd(), name, 1, &flash).is_err(), "{name}");
        }
    }
}

//! Files that hold a secret: which ones are opened, and how they are read.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{self, Mode, OFlags};
use zeroize::Zeroizing;

use super::credential::{Bearer, StoreError};
use super::provided;
use crate::limits;
use crate::secret::Secret;

/// To whom a file may be open beside its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// To nobody.
    ToOthers,
    /// What systemd provides to a unit with a user of its own belongs to root and is open to that user by an access
    /// control list, which shows as a right of the group to read.
    BySystemd,
}

/// Reads the one-time token from a file or, for `-`, from `stdin`.
///
/// # Errors
/// When it cannot be read, is too large, or cannot be a token.
pub fn read_one_time_token(path: &Path, stdin: impl Read) -> Result<Secret, StoreError> {
    let text = if path == Path::new("-") {
        read_text(stdin, path)?
    } else {
        let closed = if provided::is_provided(path) { Closed::BySystemd } else { Closed::ToOthers };
        read_text(open(path, closed)?, path)?
    };
    let token = text.trim();
    if token.is_empty() {
        return Err(StoreError::Token("it is empty"));
    }
    Bearer::check(token)?;
    Ok(Secret::new("one-time token", token.to_owned()))
}

/// First 16 hex digits of the SHA-256 of a one-time token: enough to know it again, useless to anybody.
#[must_use]
pub fn observed_token(token: &Secret) -> String {
    mark(token.expose())
}

/// The same of any text: whether it is the one that was written.
#[must_use]
pub fn mark(text: &str) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    hash.as_ref().iter().take(8).fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = std::fmt::Write::write_fmt(&mut text, format_args!("{byte:02x}"));
        text
    })
}

/// Opens a file that holds a secret: no link, regular, ours or root's, closed to others, small.
///
/// # Errors
/// When it is any other, or is not there.
pub fn open(path: &Path, closed: Closed) -> Result<File, StoreError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = fs::open(path, flags, Mode::empty()).map_err(|error| match error {
        rustix::io::Errno::LOOP => StoreError::Unsafe(path.to_owned(), "it is a link"),
        error => StoreError::Io(path.to_owned(), error.into()),
    })?;
    check(file, path, closed)
}

/// Checks a file that was opened without following links; see [`open`].
///
/// # Errors
/// When it is not as it should be.
pub fn check(file: OwnedFd, path: &Path, closed: Closed) -> Result<File, StoreError> {
    let refuse = |fault| Err(StoreError::Unsafe(path.to_owned(), fault));
    let status = fs::fstat(&file).map_err(|error| StoreError::Io(path.to_owned(), error.into()))?;
    if fs::FileType::from_raw_mode(status.st_mode) != fs::FileType::RegularFile {
        return refuse("it is not a regular file");
    }
    if status.st_uid != 0 && status.st_uid != rustix::process::geteuid().as_raw() {
        return refuse("it belongs to somebody else");
    }
    let open_to = match closed {
        Closed::BySystemd if status.st_uid == 0 => 0o037,
        Closed::BySystemd | Closed::ToOthers => 0o077,
    };
    if status.st_mode & open_to != 0 {
        return refuse("it is open to group or others (chmod 600)");
    }
    if u64::try_from(status.st_size).unwrap_or(u64::MAX) > limits::SECRET_FILE_BYTES {
        return refuse("it is larger than 64 KiB");
    }
    Ok(File::from(file))
}

/// Reads a text to its end.
///
/// # Errors
/// When it is too long, no UTF-8, or cannot be read.
pub fn read_text(reader: impl Read, path: &Path) -> Result<Zeroizing<String>, StoreError> {
    let mut text = Zeroizing::new(String::with_capacity(USUAL_BYTES));
    let count = reader
        .take(limits::SECRET_FILE_BYTES.saturating_add(1))
        .read_to_string(&mut text)
        .map_err(|error| StoreError::Io(path.to_owned(), error))?;
    is_small(count, path).map(|()| text)
}

/// Reads bytes to their end.
///
/// # Errors
/// When they are too many or cannot be read.
pub fn read_bytes(reader: impl Read, path: &Path) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(USUAL_BYTES));
    let count = reader
        .take(limits::SECRET_FILE_BYTES.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| StoreError::Io(path.to_owned(), error))?;
    is_small(count, path).map(|()| bytes)
}

/// What these files have at most, as a rule. One of the full size would be touched whole when it is wiped, and count as
/// memory in use; what a growing buffer leaves behind is wiped by the allocator (`main.rs`).
const USUAL_BYTES: usize = 4 * 1024;

fn is_small(count: usize, path: &Path) -> Result<(), StoreError> {
    if count as u64 > limits::SECRET_FILE_BYTES {
        return Err(StoreError::Unsafe(path.to_owned(), "it is larger than 64 KiB"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Closed, StoreError, open, read_one_time_token};
    use crate::limits;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    const TOKEN: &str = "abcdefghijklmnopqrstuv";

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_one_time_token_comes_from_a_closed_file_or_from_stdin() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, format!("{TOKEN}\n")).unwrap();
        set_mode(&path, 0o644);
        assert!(matches!(read_one_time_token(&path, &b""[..]), Err(StoreError::Unsafe(..))));
        set_mode(&path, 0o600);
        assert_eq!(read_one_time_token(&path, &b""[..]).unwrap().expose(), TOKEN);
        assert_eq!(read_one_time_token(Path::new("-"), &b" tok \n"[..]).unwrap().expose(), "tok");
        assert!(matches!(read_one_time_token(Path::new("-"), &b" \n"[..]), Err(StoreError::Token(_))));
        let endless = std::io::repeat(b'x');
        assert!(matches!(read_one_time_token(Path::new("-"), endless), Err(StoreError::Unsafe(..))));
    }

    #[test]
    fn what_systemd_provides_may_be_open_to_the_group_for_reading_and_nothing_more() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pullet.key");
        std::fs::write(&path, TOKEN).unwrap();
        let is_root = rustix::process::geteuid().is_root();
        for (mode, by_systemd, otherwise) in
            [(0o400, true, true), (0o440, is_root, false), (0o460, false, false), (0o444, false, false)]
        {
            set_mode(&path, mode);
            assert_eq!(open(&path, Closed::BySystemd).is_ok(), by_systemd, "{mode:o}");
            assert_eq!(open(&path, Closed::ToOthers).is_ok(), otherwise, "{mode:o}");
        }
        set_mode(&path, 0o600);
        std::fs::write(&path, vec![b'x'; usize::try_from(limits::SECRET_FILE_BYTES).unwrap() + 1]).unwrap();
        assert!(
            matches!(open(&path, Closed::BySystemd), Err(StoreError::Unsafe(_, fault)) if fault.contains("larger"))
        );
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(open(&link, Closed::BySystemd), Err(StoreError::Unsafe(_, "it is a link"))));
    }
}

//! Opens what is in the state directory, or makes it. Whatever is there, the agent starts.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::fs::{self, Access, AtFlags};
use rustix::io::Errno;

use super::checkpoint::CHECKPOINT;
use super::medium::{FileMedium, Flash, Medium as _};
use super::outbox::Outbox;
use super::ring::RingError;
use super::spool::SPOOL;
use super::store::{Journal, Restored};

pub(super) const JOURNAL: &str = "journal";
pub(super) const SPOOL_FILE: &str = "spool";
const CHECKPOINT_FILE: &str = "checkpoint";

/// A file is made under this name and renamed.
const NEW: &str = ".journal.new";

/// What was opened.
pub struct Opened {
    /// What takes events, statuses and results from now on.
    pub outbox: Outbox,
    /// What goes on.
    pub restored: Restored,
    /// What is wrong.
    pub troubles: Vec<Trouble>,
}

impl Opened {
    /// All that is wrong, in one text; empty where nothing is.
    #[must_use]
    pub fn fault(&self) -> String {
        self.troubles.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }
}

/// What is wrong with the journal. The agent goes on with what can be trusted.
#[derive(Debug)]
pub enum Trouble {
    /// A file cannot be opened or made.
    File(&'static str, io::Error),
    /// Jobs that were open cannot be read any more.
    JobsLost(u64),
    /// Nothing can be written in the state directory.
    ReadOnly,
    /// The journal cannot be used or written.
    Ring(RingError),
    /// A file was too short to be used, of so many bytes, and was made anew.
    Short(&'static str, u64),
    /// The journal has another size than configured, and something waits in it.
    Size(u64, u64),
    /// There were bytes, and no page among them.
    StartedOver,
    /// Pages cannot be read.
    Unreadable(u64),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(name, error) => write!(
                f,
                "{name} in the state directory cannot be used ({error}): what it should keep is kept in memory alone, and a \
                 power cut loses it; make room, or mend the disk, and start pullet again"
            ),
            Self::JobsLost(count) => {
                write!(f, "{count} open jobs cannot be read from the journal any more: send new jobs in their place")
            }
            Self::ReadOnly => f.write_str(
                "the state directory is read-only: no job is done, because nobody would know of it after the next start, and what \
                 waits is posted; mount it read-write (a card that fails turns read-only), and start pullet again",
            ),
            Self::Ring(error) => {
                let detail = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
                write!(f, "{error} {detail}")
            }
            Self::Short(name, found) => write!(
                f,
                "{name} in the state directory was cut to {found} bytes and was made anew: what waited in it is lost; is the \
                 disk worn out?"
            ),
            Self::Size(found, wanted) => write!(
                f,
                "the journal has {found} bytes and not {wanted} as configured; it is used as it is until nothing waits in it \
                 at a start"
            ),
            Self::StartedOver => f.write_str(
                "the journal could not be read and was begun anew: what waited in it is lost; is the disk worn out?",
            ),
            Self::Unreadable(pages) => write!(
                f,
                "{pages} pages of the journal cannot be read; the others are used, and what may be lost is counted; is the \
                 disk worn out?"
            ),
        }
    }
}

/// Opens the files in the state directory, makes those that are not there, and writes that an agent runs.
///
/// # Errors
/// [`RingError::Newer`] alone: a newer program knows better what to do with its files.
pub fn open(directory: BorrowedFd<'_>, size: u64, epoch: u64) -> Result<Opened, RingError> {
    let flash = Arc::new(Flash::default());
    let is_read_only = is_read_only(directory);
    let mut troubles: Vec<Trouble> = is_read_only.then_some(Trouble::ReadOnly).into_iter().collect();
    let found = |name: &'static str, len: u64| match is_read_only {
        true => FileMedium::open_to_read(directory, name).map(|medium| (medium, None)),
        false => open_or_make(directory, name, len, &flash).map(|(medium, short)| (Some(medium), short)),
    };
    let mut open_or_make = |name: &'static str, len: u64| match found(name, len) {
        Ok((medium, short)) => {
            troubles.extend(short.map(|found| Trouble::Short(name, found)));
            medium
        }
        Err(error) => {
            troubles.push(Trouble::File(name, error));
            None
        }
    };
    let journal = open_or_make(JOURNAL, size);
    let spool = open_or_make(SPOOL_FILE, SPOOL);
    let checkpoint = open_or_make(CHECKPOINT_FILE, CHECKPOINT);
    let Some(medium) = journal else { return Ok(in_memory(epoch, is_read_only, troubles)) };
    let len = medium.len().unwrap_or_default();
    let was_written = has_bytes(&medium);
    let (mut journal, mut restored) = match Journal::open(medium, spool, checkpoint, epoch) {
        Ok(opened) => opened,
        Err(error @ RingError::Newer(_)) => return Err(error),
        Err(error) => {
            troubles.push(Trouble::Ring(error));
            return Ok(in_memory(epoch, is_read_only, troubles));
        }
    };
    if restored.is_new && was_written {
        troubles.push(Trouble::StartedOver);
    }
    if restored.unreadable > 0 && !restored.is_new {
        troubles.push(Trouble::Unreadable(restored.unreadable));
    }
    if restored.jobs_lost > 0 {
        troubles.push(Trouble::JobsLost(restored.jobs_lost));
    }
    restored.is_read_only = is_read_only;
    if len != size && !is_read_only {
        if journal.is_idle() {
            match make(directory, JOURNAL, size, &flash) {
                Ok(medium) => journal = journal.onto(medium)?,
                Err(error) => troubles.push(Trouble::File(JOURNAL, error)),
            }
        } else {
            troubles.push(Trouble::Size(len, size));
        }
    }
    let started = if is_read_only { Ok(()) } else { journal.start() };
    let outbox = Outbox::on(journal, &restored.unsent, flash);
    if is_read_only {
        outbox.only_read();
    }
    if restored.is_incomplete() {
        outbox.owe_present();
    }
    if let Err(error) = started {
        troubles.push(Trouble::Ring(error));
    }
    Ok(said(Opened { outbox, restored, troubles }))
}

/// Whether no file can be made in it, whatever the reason: how it is mounted, whose it is, or what the disk has become.
fn is_read_only(directory: BorrowedFd<'_>) -> bool {
    let wanted = Access::WRITE_OK | Access::EXEC_OK;
    matches!(fs::accessat(directory, ".", wanted, AtFlags::empty()), Err(Errno::ROFS | Errno::ACCESS | Errno::PERM))
}

fn in_memory(epoch: u64, is_read_only: bool, troubles: Vec<Trouble>) -> Opened {
    let restored = Restored { is_new: true, is_read_only, ..Restored::default() };
    let outbox = Outbox::new(epoch);
    outbox.owe_present();
    said(Opened { outbox, restored, troubles })
}

/// A heartbeat tells of it, until a page could be written.
fn said(opened: Opened) -> Opened {
    if !opened.troubles.is_empty() {
        opened.outbox.set_trouble(opened.fault());
    }
    opened
}

/// The file, and its length where it was there and too short to be used.
fn open_or_make(
    directory: BorrowedFd<'_>,
    name: &str,
    len: u64,
    flash: &Arc<Flash>,
) -> io::Result<(FileMedium, Option<u64>)> {
    let Some(medium) = FileMedium::open(directory, name, flash)? else {
        return make(directory, name, len, flash).map(|medium| (medium, None));
    };
    let found = medium.len()?;
    // A journal of another size may hold something; the others are no use when they are too short.
    let least = if name == JOURNAL { len.min(crate::limits::JOURNAL_MIN) } else { len };
    if found >= least {
        return Ok((medium, None));
    }
    make(directory, name, len, flash).map(|medium| (medium, Some(found)))
}

fn make(directory: BorrowedFd<'_>, name: &str, len: u64, flash: &Arc<Flash>) -> io::Result<FileMedium> {
    let medium = FileMedium::create(directory, NEW, len, flash)?;
    FileMedium::take_place(directory, NEW, name)?;
    Ok(medium)
}

/// Whether anything but zeros is at its beginning.
fn has_bytes(medium: &FileMedium) -> bool {
    let mut bytes = [0; crate::limits::PAGE_BYTES];
    medium.read_at(0, &mut bytes).is_err() || bytes.iter().any(|byte| *byte != 0)
}

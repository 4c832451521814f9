//! Opens what is in the state directory, or makes it. Whatever is there, the agent starts.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::checkpoint::CHECKPOINT;
use super::medium::{FileMedium, Flash, Medium as _};
use super::outbox::Outbox;
use super::ring::RingError;
use super::spool::SPOOL;
use super::store::{Journal, Restored};

const JOURNAL: &str = "journal";
const SPOOL_FILE: &str = "spool";
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

/// What is wrong with the journal. The agent goes on with what can be trusted.
#[derive(Debug)]
pub enum Trouble {
    /// A file cannot be opened or made.
    File(&'static str, io::Error),
    /// Jobs that were open cannot be read any more.
    JobsLost(u64),
    /// The journal cannot be used or written.
    Ring(RingError),
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
            Self::Ring(error) => {
                let detail = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
                write!(f, "{error} {detail}")
            }
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
    let mut troubles = Vec::new();
    let mut open_or_make = |name: &'static str, len: u64| match open_or_make(directory, name, len, &flash) {
        Ok(medium) => Some(medium),
        Err(error) => {
            troubles.push(Trouble::File(name, error));
            None
        }
    };
    let journal = open_or_make(JOURNAL, size);
    let spool = open_or_make(SPOOL_FILE, SPOOL);
    let checkpoint = open_or_make(CHECKPOINT_FILE, CHECKPOINT);
    let Some(medium) = journal else { return Ok(in_memory(epoch, troubles)) };
    let len = medium.len().unwrap_or_default();
    let was_written = has_bytes(&medium);
    let (mut journal, restored) = match Journal::open(medium, spool, checkpoint, epoch) {
        Ok(opened) => opened,
        Err(error @ RingError::Newer(_)) => return Err(error),
        Err(error) => {
            troubles.push(Trouble::Ring(error));
            return Ok(in_memory(epoch, troubles));
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
    if len != size {
        if journal.is_idle() {
            match make(directory, JOURNAL, size, &flash) {
                Ok(medium) => journal = journal.onto(medium)?,
                Err(error) => troubles.push(Trouble::File(JOURNAL, error)),
            }
        } else {
            troubles.push(Trouble::Size(len, size));
        }
    }
    let started = journal.start();
    let outbox = Outbox::on(journal, &restored.unsent, flash);
    if let Err(error) = started {
        troubles.push(Trouble::Ring(error));
    }
    if let Some(trouble) = troubles.last() {
        outbox.set_trouble(trouble.to_string());
    }
    Ok(Opened { outbox, restored, troubles })
}

fn in_memory(epoch: u64, troubles: Vec<Trouble>) -> Opened {
    let outbox = Outbox::new(epoch);
    if let Some(trouble) = troubles.last() {
        outbox.set_trouble(trouble.to_string());
    }
    Opened { outbox, restored: Restored { is_new: true, ..Restored::default() }, troubles }
}

fn open_or_make(directory: BorrowedFd<'_>, name: &str, len: u64, flash: &Arc<Flash>) -> io::Result<FileMedium> {
    match FileMedium::open(directory, name, flash)? {
        // A journal of another size may hold something; the others are no use when they are too short.
        Some(medium)
            if medium.len()? >= len.min(crate::limits::JOURNAL_MIN) && (name == JOURNAL || medium.len()? >= len) =>
        {
            Ok(medium)
        }
        _ => make(directory, name, len, flash),
    }
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

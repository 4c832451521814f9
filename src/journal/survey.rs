//! What waits in the journal, for a person who asks while the agent runs.
//!
//! The agent holds the lock of the state directory; whoever only looks needs none, opens the files for reading alone,
//! and tolerates the page that is being written: it is no whole page yet, and the one before it counts. What was posted
//! since the last page was written still waits here: it is known on the disk with the next page.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Mode, OFlags};
use serde::Serialize;

use super::medium::{FileMedium, Medium as _};
use super::open::{JOURNAL, SPOOL_FILE};
use super::page::{Frame, Header};
use super::record::{Body, KINDS, Record, StoredRef};
use super::ring::{Found, Ring, RingError};
use super::spool;
use crate::limits;
use crate::protocol::Timestamp;

/// A journal that is looked at.
pub struct View {
    directory: OwnedFd,
    /// Device and inode: a journal of another size takes the place of this one.
    identity: (u64, u64),
    ring: Ring<FileMedium>,
    found: Found,
    spool: Option<FileMedium>,
    bytes: u64,
}

/// Why there is nothing to be looked at.
#[derive(Debug)]
pub enum ViewError {
    /// There is no journal.
    Absent(PathBuf),
    /// It cannot be read.
    Io(PathBuf, io::Error),
    /// It is none, or of a newer program.
    Ring(RingError),
}

impl fmt::Display for ViewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(path) => write!(
                f,
                "there is no journal in {}: no agent has run there (give its --state-dir, or the --config it runs with)",
                path.display()
            ),
            Self::Io(path, _) => write!(f, "the journal in {} cannot be read (try as root)", path.display()),
            Self::Ring(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ViewError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Absent(_) => None,
            Self::Io(_, error) => Some(error),
            Self::Ring(error) => error.source(),
        }
    }
}

/// One record, without what it carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its number.
    pub number: u64,
    /// What it is: `job`, `result`, the kind of an event, …
    pub kind: String,
    /// The job's id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The object, or what else there is to be said.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// Of a job, those of its text; else those of the record.
    pub bytes: usize,
}

/// Those of one sort that wait.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// How many.
    pub count: usize,
    /// The oldest of them, at most [`limits::SURVEY_RECORDS`].
    pub oldest: Vec<Entry>,
}

/// Events that were lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Losses {
    /// Known to be lost.
    pub exactly: u64,
    /// May be lost besides.
    pub at_most: u64,
    /// Whether the control plane knows.
    pub told: bool,
}

/// What waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Survey {
    /// Of the file.
    pub bytes: u64,
    /// Pages there is room for.
    pub pages: usize,
    /// Pages that hold something that waits.
    pub pages_used: usize,
    /// Pages that were ever written.
    pub pages_written: u64,
    /// Pages that cannot be read.
    pub pages_unreadable: u64,
    /// When the newest page was written; none = there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub written_at: Option<Timestamp>,
    /// Whether it was written at a clean stop.
    pub is_closed: bool,
    /// Jobs that were taken and have not ended.
    pub jobs: Waiting,
    /// Results that were not posted.
    pub results: Waiting,
    /// Events that were not posted.
    pub events: Waiting,
    /// Events that were lost.
    pub lost: Losses,
}

impl View {
    /// Opens the journal of a state directory.
    ///
    /// # Errors
    /// As [`ViewError`] lists them.
    pub fn open(state_dir: &Path) -> Result<Self, ViewError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => ViewError::Absent(state_dir.to_owned()),
            _ => ViewError::Io(state_dir.to_owned(), error),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = fs::open(state_dir, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
        // Before it is opened: one that takes its place in between is opened once more.
        let identity = identity(&directory).map_err(failed)?;
        let medium = FileMedium::open_to_read(directory.as_fd(), JOURNAL).map_err(failed)?;
        let medium = medium.ok_or_else(|| ViewError::Absent(state_dir.to_owned()))?;
        let bytes = medium.len().map_err(failed)?;
        let (ring, found) = Ring::open(medium).map_err(ViewError::Ring)?;
        let spool = FileMedium::open_to_read(directory.as_fd(), SPOOL_FILE).ok().flatten();
        Ok(Self { directory, identity, ring, found, spool, bytes })
    }

    /// Whether there is more on the disk than was found when this was opened.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        // While there is no file, this one is as good as any.
        self.ring.has_newer_page() || identity(&self.directory).is_ok_and(|identity| identity != self.identity)
    }

    /// What waits.
    #[must_use]
    pub fn survey(&self) -> Survey {
        let mark = self.found.mark.unwrap_or_default();
        let (mut jobs, mut results, mut events) = (Sort::default(), Sort::default(), Sort::default());
        let mut applied = BTreeMap::new();
        self.ring.read_pages(|header, frame| match &frame.record {
            Record::Accepted(_) if mark.open.contains(&frame.number) => jobs.add(header, &frame, self),
            Record::Applied { job, object } if mark.open.contains(job) => {
                applied.insert(*job, name_of(object));
            }
            Record::Outcome(_) if frame.number > mark.results_through => results.add(header, &frame, self),
            Record::Event(_) if frame.number > mark.events_through => events.add(header, &frame, self),
            _ => {}
        });
        for entry in jobs.oldest.values_mut() {
            entry.about = applied.remove(&entry.number).unwrap_or_default();
        }
        let mut pages: BTreeSet<u64> = BTreeSet::new();
        for sort in [&jobs, &results, &events] {
            pages.extend(sort.pages.values());
        }
        Survey {
            bytes: self.bytes,
            pages: self.ring.pages(),
            pages_used: pages.len(),
            pages_written: self.ring.newest_page(),
            pages_unreadable: self.found.unreadable,
            written_at: self.found.mark.map(|mark| Timestamp::from_unix_seconds(mark.clock)),
            is_closed: mark.clean,
            jobs: jobs.waiting(),
            results: results.waiting(),
            events: events.waiting(),
            lost: Losses {
                exactly: mark.lost,
                at_most: mark.lost_at_most,
                told: mark.told == (mark.lost, mark.lost_at_most),
            },
        }
    }

    /// The numbers of all records there are.
    #[must_use]
    pub fn numbers(&self) -> BTreeSet<u64> {
        let mut numbers = BTreeSet::new();
        self.ring.read_pages(|_, frame| {
            numbers.insert(frame.number);
        });
        numbers
    }

    /// Gives each record whose number is not among these, oldest page first.
    pub fn others(&self, known: &BTreeSet<u64>, mut each: impl FnMut(Entry)) {
        self.ring.read_pages(|_, frame| {
            if !known.contains(&frame.number) {
                each(self.entry(&frame));
            }
        });
    }

    /// What there is to be said of a record: never what it carries.
    fn entry(&self, frame: &Frame) -> Entry {
        let number = frame.number;
        let bytes = postcard::to_allocvec(&(number, frame.record.packed())).map_or(0, |text| text.len());
        let say = |kind: &str, id: &str, about: String, bytes: usize| Entry {
            number,
            kind: kind.to_owned(),
            id: id.to_owned(),
            about,
            bytes,
        };
        match &frame.record {
            Record::Accepted(job) | Record::AcceptedSigned(_, job) => {
                let bytes = match &job.body {
                    Body::Inline(text) => text.len(),
                    Body::Spooled(slot) => {
                        let spool = self.spool.as_ref();
                        spool.and_then(|spool| spool::text_len(spool, *slot, number)).unwrap_or_default()
                    }
                    Body::Skipped(_) => 0,
                };
                say("job", &job.id, String::new(), bytes)
            }
            Record::Applied { job, object } => say("applied", &format!("#{job}"), name_of(object), bytes),
            Record::Event(event) | Record::EventMade(event, _) => {
                let kind =
                    KINDS.get(usize::from(event.kind)).map_or_else(|| "event".into(), |kind| format!("{kind:?}"));
                say(&kind, "", name_of(&event.object), bytes)
            }
            Record::Lost { exactly, at_most } => {
                say("lost", "", format!("{exactly} events, and at most {at_most} more"), bytes)
            }
            Record::Outcome(outcome) | Record::OutcomeSigned(_, outcome) => {
                let about = outcome.applied.as_ref().map(name_of).unwrap_or_default();
                say("result", &outcome.id, format!("{} {about}", outcome.word()).trim_end().to_owned(), bytes)
            }
            Record::Started => say("started", "", String::new(), bytes),
            Record::Trust(_) => say("trust", "", String::new(), bytes),
        }
    }
}

/// Those of one sort: a record that was carried forward is met more than once, and lies where it was met last.
#[derive(Default)]
struct Sort {
    /// Page by number.
    pages: BTreeMap<u64, u64>,
    oldest: BTreeMap<u64, Entry>,
}

impl Sort {
    fn add(&mut self, header: &Header, frame: &Frame, view: &View) {
        if self.pages.insert(frame.number, header.page).is_some() {
            return;
        }
        self.oldest.insert(frame.number, view.entry(frame));
        if self.oldest.len() > limits::SURVEY_RECORDS {
            self.oldest.pop_last();
        }
    }

    fn waiting(self) -> Waiting {
        Waiting { count: self.pages.len(), oldest: self.oldest.into_values().collect() }
    }
}

fn identity(directory: &OwnedFd) -> io::Result<(u64, u64)> {
    let status = fs::statat(directory, JOURNAL, AtFlags::SYMLINK_NOFOLLOW)?;
    #[allow(clippy::useless_conversion, reason = "the widths differ between the platforms")]
    Ok((u64::from(status.st_dev), u64::from(status.st_ino)))
}

fn name_of(object: &StoredRef) -> String {
    let StoredRef { api_version, kind, namespace, name, .. } = object;
    let slash = if namespace.is_empty() { "" } else { "/" };
    format!("{api_version} {kind} {namespace}{slash}{name}")
}

#[cfg(test)]
mod tests {
    use super::{View, ViewError};
    use crate::journal::open::open;
    use crate::journal::records::job;
    use crate::journal::ring::RingError;
    use crate::journal::{Ended, Outbox};
    use crate::limits;
    use crate::protocol::{Event, EventKind, JobId, JobResult, ObjectRef, OutcomeKind, Timestamp};
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::FileExt as _;
    use std::path::Path;

    fn outbox(directory: &Path) -> Outbox {
        let handle = std::fs::File::open(directory).unwrap();
        open(handle.as_fd(), limits::JOURNAL_MIN, 7).unwrap().outbox
    }

    fn object() -> ObjectRef {
        ObjectRef {
            api_version: "apps/v1".into(),
            kind: "Deployment".into(),
            namespace: "n".into(),
            name: "a".into(),
            ..ObjectRef::default()
        }
    }

    fn accept(outbox: &Outbox, id: &str, text: &str) -> u64 {
        outbox.accept(job(id, text), None).unwrap()
    }

    fn finish(outbox: &Outbox, job: u64, id: &str) {
        let result = JobResult {
            outcome: OutcomeKind::Succeeded,
            error: "geheim".into(),
            applied_ref: Some(object()),
            timestamp: Timestamp::from_unix_seconds(0),
        };
        outbox.finish(job, Ended::default(), &JobId::parse(id).unwrap(), result);
    }

    #[test]
    fn what_waits_is_counted_and_named_and_nothing_is_changed() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = outbox(directory.path());
        let done = accept(&outbox, "done", "geheim");
        finish(&outbox, done, "done");
        accept(&outbox, "short", "geheim");
        let long = accept(&outbox, "long", &"geheim".repeat(1_000));
        outbox.applied(long, &object());
        let event = Event {
            event_key: String::new(),
            kind: EventKind::ConditionTransition,
            resource_ref: object(),
            conditions: Vec::new(),
            endpoints: Vec::new(),
            timestamp: Timestamp::from_unix_seconds(0),
        };
        outbox.push_event("x", event);
        outbox.flush();
        let before = std::fs::read(directory.path().join("journal")).unwrap();
        let view = View::open(directory.path()).unwrap();
        let survey = view.survey();
        let lines: Vec<(&str, &str, &str)> = [&survey.jobs, &survey.results, &survey.events]
            .iter()
            .flat_map(|waiting| &waiting.oldest)
            .map(|entry| (entry.kind.as_str(), entry.id.as_str(), entry.about.as_str()))
            .collect();
        assert_eq!(
            lines,
            [
                ("job", "short", ""),
                ("job", "long", "apps/v1 Deployment n/a"),
                ("result", "done", "succeeded apps/v1 Deployment n/a"),
                ("ConditionTransition", "", "apps/v1 Deployment n/a"),
            ]
        );
        assert_eq!(survey.jobs.oldest.iter().map(|entry| entry.bytes).collect::<Vec<_>>(), [6, 6_000]);
        assert_eq!((survey.pages, survey.bytes, survey.is_closed), (16, limits::JOURNAL_MIN, false));
        assert!(survey.pages_used >= 1 && survey.pages_used <= 4, "{survey:?}");
        assert!(!format!("{survey:?}").contains("geheim"));
        assert_eq!(std::fs::read(directory.path().join("journal")).unwrap(), before);
        assert!(!view.is_stale());
        let known = view.numbers();
        accept(&outbox, "next", "geheim");
        assert!(view.is_stale());
        let mut news = Vec::new();
        View::open(directory.path()).unwrap().others(&known, |entry| news.push((entry.kind, entry.id)));
        assert_eq!(news, [("job".to_owned(), "next".to_owned())]);
    }

    #[test]
    fn a_page_that_is_being_written_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = outbox(directory.path());
        accept(&outbox, "a", "x");
        let path = directory.path().join("journal");
        let before = std::fs::read(&path).unwrap();
        let whole = View::open(directory.path()).unwrap().survey();
        let view = View::open(directory.path()).unwrap();
        accept(&outbox, "b", "x");
        let after = std::fs::read(&path).unwrap();
        let at =
            (0..after.len()).find(|at| before[*at] != after[*at]).unwrap() / limits::PAGE_BYTES * limits::PAGE_BYTES;
        for written in [1, 100, 383, 384, 390] {
            std::fs::write(&path, &before).unwrap();
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&after[at..at + written], at as u64).unwrap();
            let torn = View::open(directory.path()).unwrap().survey();
            assert_eq!((&torn.jobs, torn.pages_written), (&whole.jobs, whole.pages_written), "{written}");
            assert!(!view.is_stale(), "{written}");
        }
    }

    #[test]
    fn what_is_no_journal_is_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let fault = || View::open(directory.path()).err().unwrap();
        assert!(matches!(fault(), ViewError::Absent(_)));
        assert!(matches!(View::open(Path::new("/nonexistent")), Err(ViewError::Absent(_))));
        let path = directory.path().join("journal");
        std::fs::write(&path, vec![1; 100]).unwrap();
        assert!(matches!(fault(), ViewError::Ring(RingError::Small(100))));
        std::fs::write(&path, vec![0; 65_536]).unwrap();
        assert_eq!(View::open(directory.path()).unwrap().survey().written_at, None);
        std::fs::write(&path, vec![1; 65_537]).unwrap();
        assert_eq!(View::open(directory.path()).unwrap().survey().pages_unreadable, 16);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(matches!(fault(), ViewError::Io(..)));
    }
}

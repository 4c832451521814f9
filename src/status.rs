//! What a running agent knows of itself, in a file that `pullet status` reads.
//!
//! The file lies under `/run`, which is memory and not flash. It is replaced as a whole, at most once a second, and only
//! when something changed; it is removed at a clean stop.

mod error;
mod flash;
mod line;
mod trust;
mod unregistered;
mod view;

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

pub use self::error::StatusError;
pub use self::flash::FlashStatus;
pub use self::trust::{CredentialStatus, TrustStatus, describe_clock};
pub use self::unregistered::Waiting;
pub use self::view::{Sources, View};
use crate::clock;
use crate::json;
use crate::limits;
use crate::metrics::{Bytes, Memory};
use crate::protocol::Timestamp;
use crate::supervisor::Supervisor;

/// Another version is not read.
const VERSION: u32 = 1;

/// All that is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Of this shape.
    pub version: u32,
    /// The agent's version.
    pub agent: String,
    /// The agent's process.
    pub pid: u32,
    /// When that process began, in the kernel's ticks since the boot: a process id is used again.
    pub process_began: u64,
    /// When the agent was started.
    pub started_at: Timestamp,
    /// When this was written.
    pub written_at: Timestamp,
    /// The name of this node at the control plane.
    pub cluster: String,
    /// The control plane.
    pub endpoint: String,
    /// Where jobs take effect.
    pub target: String,
    /// How often an object of ours was seen whose changes are not told, because there are more than are compared.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unreported: u64,
    /// Kinds whose objects cannot be reported on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub left_out: String,
    /// Whether the control plane can be reached.
    pub connection: ConnectionStatus,
    /// How it is polled.
    pub poll: PollStatus,
    /// What waits to be posted.
    pub buffer: BufferStatus,
    /// Jobs.
    pub jobs: JobsStatus,
    /// Bytes on the wire.
    pub traffic: TrafficStatus,
    /// Writes to the flash.
    #[serde(default)]
    pub flash: FlashStatus,
    /// What is wrong with the journal, or was when the agent started.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub journal_fault: String,
    /// Memory.
    pub memory: Memory,
    /// Whose jobs are done.
    #[serde(default)]
    pub trust: TrustStatus,
    /// The credential that is in use.
    #[serde(default)]
    pub credential: CredentialStatus,
    /// What is known of the clock: `confirmed`, `unconfirmed` or `doubtful`.
    #[serde(default)]
    pub clock: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Whether the control plane can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionStatus {
    /// In a word.
    pub state: ConnectionState,
    /// Since when.
    pub since: Timestamp,
    /// When the control plane last answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_answer: Option<Timestamp>,
    /// Why the last call was not answered as it should.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fault: String,
    /// When the client's certificate ends; none = there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_ends: Option<Timestamp>,
    /// It should have been renewed by now.
    #[serde(default)]
    pub certificate_is_late: bool,
}

/// The connection in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ConnectionState {
    /// The last call was answered.
    Connected,
    /// There was no answer for minutes.
    Disconnected,
    /// The control plane does not let this agent act for this cluster (403).
    Forbidden,
    /// The credential is not accepted (401).
    Refused,
    /// There was no call yet.
    Starting,
    /// The last call was not answered.
    Unreachable,
    /// There is no credential yet; a one-time token is being exchanged for one.
    Unregistered,
}

/// How the control plane is polled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PollStatus {
    /// How long a poll is held.
    pub hold_seconds: u64,
    /// Whether that changes: `fixed`, `searching` or `settled`.
    pub hold_state: String,
    /// The shortest hold that something on the way did not bear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_failed_seconds: Option<u64>,
}

/// What waits to be posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BufferStatus {
    /// Statuses and results.
    pub reports: usize,
    /// Events.
    pub events: usize,
    /// How many of each there can be.
    pub capacity: usize,
    /// Events that were lost since the start.
    pub lost: u64,
}

/// Jobs, since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobsStatus {
    /// Being worked, or waiting to be ready.
    pub open: usize,
    /// Ended so, and the control plane knows.
    pub succeeded: u32,
    /// Ended so.
    pub failed: u32,
    /// Ended so: expired or a duplicate.
    pub noop: u32,
    /// Ended so.
    pub conflict: u32,
}

/// Bytes on the wire, TLS included, by day and month in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficStatus {
    /// To and from the control plane, today.
    pub today: Bytes,
    /// This month.
    pub this_month: Bytes,
    /// What this month may have both ways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monthly_budget: Option<u64>,
    /// To and from the API server of the cluster, today.
    pub cluster_today: Bytes,
    /// This month.
    pub cluster_this_month: Bytes,
}

impl Status {
    /// Reads the file of an agent that is running.
    ///
    /// # Errors
    /// As [`StatusError`] lists them.
    pub fn read(path: &Path) -> Result<Self, StatusError> {
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StatusError::Absent(path.to_owned()),
            _ => StatusError::Io(path.to_owned(), error),
        })?;
        let mut text = Vec::new();
        file.take(limits::STATUS_FILE_BYTES + 1)
            .read_to_end(&mut text)
            .map_err(|error| StatusError::Io(path.to_owned(), error))?;
        if text.len() as u64 > limits::STATUS_FILE_BYTES {
            return Err(StatusError::TooLarge(path.to_owned()));
        }
        let status = Self::parse(&text, path)?;
        if process_began(status.pid) == Some(status.process_began) {
            Ok(status)
        } else {
            Err(StatusError::Gone(path.to_owned(), status.pid))
        }
    }

    fn parse(text: &[u8], path: &Path) -> Result<Self, StatusError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let malformed = |_| StatusError::Malformed(path.to_owned());
        let versioned: Versioned = json::read(text).map_err(malformed)?;
        if versioned.version != VERSION {
            return Err(StatusError::OtherVersion(path.to_owned(), versioned.version));
        }
        json::read(text).map_err(malformed)
    }

    /// As it would be written anew: what changes by itself is no change.
    fn differs(&self, other: &Self) -> bool {
        let bare = |status: &Self| Self {
            written_at: Timestamp::from_unix_seconds(0),
            memory: Memory::default(),
            flash: status.flash.bare(),
            ..status.clone()
        };
        bare(self) != bare(other)
    }
}

/// When a process began, in ticks since the boot; none = there is no such process.
fn process_began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything; what follows is numbers, of which this is the 22nd (proc(5)).
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Writes the status while the agent runs.
pub struct Board {
    sheet: Sheet,
    supervisor: Supervisor,
    view: Arc<View>,
}

impl Board {
    /// Writes to `path`, and a line of it to whoever supervises the agent; without a path only the bytes are counted.
    #[must_use]
    pub fn new(path: Option<PathBuf>, supervisor: Supervisor, view: Arc<View>) -> Self {
        Self { sheet: Sheet::new(path), supervisor, view }
    }

    /// Looks what changed, once a second while something does and ever more rarely while nothing does: each look
    /// wakes the machine. When a call has ended it is looked at at once: most of what changes does so by one. Never ends; the
    /// file goes with the value.
    pub async fn keep(mut self) {
        let view = Arc::clone(&self.view);
        let mut pause = limits::STATUS_INTERVAL;
        loop {
            let status = self.view.gather();
            self.supervisor.status(|| status.line(clock::unix_seconds()));
            if self.sheet.put(status) {
                pause = limits::STATUS_INTERVAL;
                tokio::time::sleep(pause).await;
                continue;
            }
            pause = (pause * 2).min(limits::STATUS_INTERVAL_IDLE);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = view.sources.health.call_ended() => {}
            }
        }
    }
}

/// The file that the status is in. It goes with this value.
struct Sheet {
    path: Option<PathBuf>,
    written: Option<Status>,
    has_failed: bool,
}

impl Sheet {
    /// Nothing is written before there is something to say, and nowhere without a path.
    fn new(path: Option<PathBuf>) -> Self {
        Self { path, written: None, has_failed: false }
    }

    /// Writes how it is, where that is something else than before, and says whether it is.
    fn put(&mut self, mut status: Status) -> bool {
        if self.written.as_ref().is_some_and(|written| !written.differs(&status)) {
            return false;
        }
        if let Some(path) = &self.path {
            status.memory = Memory::now();
            match replace(path, &status) {
                Ok(()) => self.has_failed = false,
                Err(error) if self.has_failed => debug!(%error, "the status still cannot be written"),
                Err(error) => {
                    self.has_failed = true;
                    warn!(path = %path.display(), %error, "the status cannot be written, so pullet status has nothing to read");
                }
            }
        }
        self.written = Some(status);
        true
    }
}

impl Drop for Sheet {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Another agent's is left alone.
            if Status::read(path).is_ok_and(|status| status.pid == std::process::id()) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Writes beside the file and renames: whoever reads finds the old one or the new one, whole.
fn replace(path: &Path, status: &Status) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    if !directory.exists() {
        fs::create_dir(directory)?;
        fs::set_permissions(directory, Permissions::from_mode(0o755))?;
    }
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    name.push(".new");
    let beside = directory.join(name);
    // Not through a link that somebody put there.
    let _ = fs::remove_file(&beside);
    let mut file = File::options().write(true).create_new(true).open(&beside)?;
    // There is no secret in it, and whoever is on the machine may ask.
    file.set_permissions(Permissions::from_mode(0o644))?;
    // In one piece: written as it is made, it would be a call of the kernel for each bracket.
    let mut text = serde_json::to_vec_pretty(status)?;
    text.push(b'\n');
    file.write_all(&text)?;
    fs::rename(&beside, path)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{
        BufferStatus, ConnectionState, ConnectionStatus, CredentialStatus, FlashStatus, JobsStatus, PollStatus, Status,
        StatusError, TrafficStatus, TrustStatus, process_began, replace,
    };
    use crate::limits;
    use crate::metrics::{Bytes, Memory};
    use crate::protocol::Timestamp;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    /// Of this very process.
    pub(crate) fn status() -> Status {
        let at = Timestamp::from_unix_seconds(1_800_000_000);
        let bytes = Bytes { sent: 12_300, received: 4_560_000 };
        Status {
            version: 1,
            agent: "0.1.0".into(),
            pid: std::process::id(),
            process_began: process_began(std::process::id()).unwrap(),
            started_at: at,
            written_at: at,
            cluster: "c1".into(),
            endpoint: "https://control.example".into(),
            target: "directory /x".into(),
            unreported: 0,
            left_out: String::new(),
            connection: ConnectionStatus {
                state: ConnectionState::Connected,
                since: at,
                last_answer: Some(at),
                fault: String::new(),
                certificate_ends: None,
                certificate_is_late: false,
            },
            poll: PollStatus { hold_seconds: 90, hold_state: "settled".into(), hold_failed_seconds: Some(120) },
            buffer: BufferStatus { reports: 1, events: 2, capacity: 256, lost: 0 },
            jobs: JobsStatus { open: 1, succeeded: 2, failed: 3, noop: 4, conflict: 5 },
            traffic: TrafficStatus {
                today: bytes,
                this_month: bytes,
                monthly_budget: None,
                cluster_today: bytes,
                cluster_this_month: bytes,
            },
            flash: FlashStatus::default(),
            journal_fault: String::new(),
            memory: Memory { rss_kb: 3_400, rss_peak_kb: 3_500 },
            trust: TrustStatus {
                signatures: "require".into(),
                fingerprint: "f".into(),
                keyring_version: 3,
                epoch: 2,
                state: "ok".into(),
                lost_since: None,
            },
            credential: CredentialStatus { registered_at: Some(at), ends_at: None, rotate_at: None },
            clock: "confirmed".into(),
        }
    }

    #[test]
    fn what_was_written_is_read_and_open_to_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pullet/status.json");
        replace(&path, &status()).unwrap();
        replace(&path, &status()).unwrap();
        assert_eq!(Status::read(&path).unwrap(), status());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_is_no_status_is_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("status.json");
        let read = |text: &[u8]| {
            std::fs::write(&path, text).unwrap();
            Status::read(&path).unwrap_err()
        };
        let whole = serde_json::to_vec(&status()).unwrap();
        for cut in [0, 1, whole.len() / 2, whole.len() - 1] {
            assert!(matches!(read(&whole[..cut]), StatusError::Malformed(_)), "{cut}");
        }
        assert!(matches!(read(b"[]"), StatusError::Malformed(_)));
        assert!(matches!(read(br#"{"version":1}"#), StatusError::Malformed(_)));
        assert!(matches!(read(br#"{"version":2,"all":"new"}"#), StatusError::OtherVersion(_, 2)));
        let mut full = whole.clone();
        full.resize(usize::try_from(limits::STATUS_FILE_BYTES).unwrap(), b' ');
        std::fs::write(&path, &full).unwrap();
        assert!(Status::read(&path).is_ok());
        full.push(b' ');
        assert!(matches!(read(&full), StatusError::TooLarge(_)));
        let gone = Status { process_began: 1, ..status() };
        assert!(matches!(read(&serde_json::to_vec(&gone).unwrap()), StatusError::Gone(_, _)), "the pid is used again");
        assert!(matches!(Status::read(directory.path()), Err(StatusError::Io(..))));
        assert!(matches!(Status::read(Path::new("/nonexistent")), Err(StatusError::Absent(_))));
    }

    #[test]
    fn only_what_matters_is_a_change() {
        let later =
            Status { written_at: Timestamp::from_unix_seconds(1_900_000_000), memory: Memory::default(), ..status() };
        assert!(!status().differs(&later));
        let jobs = JobsStatus { open: 9, ..status().jobs };
        assert!(status().differs(&Status { jobs, ..status() }));
    }
}

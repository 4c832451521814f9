//! What is told of a running agent, and to whom.

use std::time::Duration;

use super::{BODY_TIMEOUT, CONNECT_TIMEOUT, HOLD_GRACE, RESOLVE_TIMEOUT, SEND_TIMEOUT};

/// How often the status is looked at for changes while there are some, and written at most.
pub const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// How often it is looked at while no call ends, of which each is looked at: as often as a poll is held. Such a pause wakes
/// the machine three times, for a timer goes through wheels of 4 s and of 64 ms.
pub const STATUS_INTERVAL_IDLE: Duration = Duration::from_secs(240);

/// The file of the status has 2 kB.
pub const STATUS_FILE_BYTES: u64 = 64 * 1024;

/// Head of a request for metrics: Prometheus sends 300 bytes, a browser 1 kB.
pub const METRICS_HEAD_BYTES: usize = 4 * 1024;

/// Who may ask for metrics at once: a scraper, two probes, a person, and as many again. With a head of
/// [`METRICS_HEAD_BYTES`] and a page of [`METRICS_PAGE_BYTES`] each, they take 100 kB at the most.
pub const METRICS_CONNECTIONS: usize = 8;

/// A page of metrics takes 7 kB: so much is set aside for it at once.
pub const METRICS_PAGE_BYTES: usize = 8 * 1024;

/// From the connection to the last byte of the answer. On loopback a scraper takes a few milliseconds.
pub const METRICS_PATIENCE: Duration = Duration::from_secs(5);

/// A connection that is older gives way when there are [`METRICS_CONNECTIONS`] and one more comes.
pub const METRICS_GRACE: Duration = Duration::from_millis(250);

/// Where the address of the metrics cannot be used, it is tried again this often.
pub const METRICS_RETRY: Duration = Duration::from_secs(60);

/// What a poll takes beside its hold at the very most, each phase at its bound and two minutes more, for a machine that is
/// busy or a disk that a thread has to wait for. One that takes longer hangs.
pub const POLL_BESIDE_HOLD: Duration = Duration::from_secs(
    RESOLVE_TIMEOUT.as_secs()
        + CONNECT_TIMEOUT.as_secs()
        + SEND_TIMEOUT.as_secs()
        + HOLD_GRACE.as_secs()
        + BODY_TIMEOUT.as_secs()
        + 120,
);

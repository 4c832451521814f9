//! The bounds of `pullet doctor`.

use std::time::Duration;

/// What is promised of all of it, from its start to its last word.
pub const PROMISED: Duration = Duration::from_secs(5);

/// How long it looks at what there is, counted from its start: to say what was seen it has what is left of [`PROMISED`].
pub const TIME: Duration = Duration::from_secs(4);

/// Of [`TIME`], what is kept back by whoever waits for one call, to say what came of it.
pub const MARGIN: Duration = Duration::from_millis(300);

/// Of [`TIME`], what the API server gets to hand over one thing that an agent needs that goes by a Cluster: credential,
/// certificate, endpoint.
pub const SECRET_TIME: Duration = Duration::from_secs(2);

/// Of [`TIME`], what is kept for the way to the control plane whatever the API server takes.
pub const WAY_TIME: Duration = Duration::from_millis(700);

/// Of [`TIME`], what systemd gets to say what the unit's environment is.
pub const UNIT_TIME: Duration = Duration::from_secs(1);

/// A file of the kernel or of the system that is looked into: a table of 1,000 mounts has 150 kB.
pub const FILE_BYTES: u64 = 256 * 1024;

/// The agent's own bound: it runs in a control group of so many bytes, and no smaller one was ever tried.
pub const MEMORY_BYTES: u64 = 16 * 1024 * 1024;

/// What the state directory takes before its first start: a spool of 4 MiB, the journal, and some files of a few kB.
pub const STATE_BYTES: u64 = 5 * 1024 * 1024;

/// What it needs once these are there: a credential that is written beside the one before, with two certificates.
pub const STATE_ROOM: u64 = 256 * 1024;

/// A server's certificate that ends within so many seconds should have been renewed: the usual tools do it a month before.
pub const CERTIFICATE_NEAR: u64 = 7 * 24 * 60 * 60;

/// A definition as an API server sends it, with the notes of who wrote which field: four times its text.
pub const DEFINITION_BYTES: u64 = 512 * 1024;

/// Values of a definition, and how deep they lie: the deepest schema of ours has 28 levels.
pub const DEFINITION_NODES: usize = 32_768;

/// As [`DEFINITION_NODES`].
pub const DEFINITION_DEPTH: usize = 48;

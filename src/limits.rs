//! Every bound of the program, each with the arithmetic it rests on.
//!
//! The sum that matters: an idle agent holds about 3.5 MiB; an answer of [`ANSWER_BYTES`], the tree of
//! one job within [`JOB_NODES`], and one body of the API server within [`API_BODY_BYTES`] must fit on
//! top of it and stay below 8 MiB.

mod credential;
mod device;
pub mod doctor;
mod installation;
mod monitor;
mod present;
#[cfg(feature = "webhook")]
mod webhook;

use std::time::Duration;

pub use credential::*;
pub use device::*;
pub use installation::*;
pub use monitor::*;
pub use present::*;
#[cfg(feature = "webhook")]
pub use webhook::*;

/// Text of the jobs of one answer that is held in memory at once. What follows the complete jobs that
/// fit is left un-acked and comes again.
pub const ANSWER_BYTES: usize = 512 * 1024;

/// Text of one job, from `{` to `}`.
pub const JOB_BYTES: usize = 256 * 1024;

/// What one job of an answer counts beside its text: an answer of `[{},{},…]` must not cost more than
/// one of full jobs.
pub const JOB_OVERHEAD: usize = 128;

/// JSON values in one job: 8,192 nodes of the costliest shape (an object with one member) take about
/// 2.6 MiB as a tree.
pub const JOB_NODES: usize = 8_192;

/// Nesting of arrays and objects in one job.
pub const JOB_DEPTH: usize = 32;

/// How many times longer than its text a canonical form can be: `1e15` has 4 bytes and is written with 16. Form and
/// scratch are made with that room, each at most [`JOB_BYTES`], and 12 bytes note the place of each member that waits
/// to be sorted: 98 kB for [`JOB_NODES`] of them, and twice that while their vector grows.
pub const CANONICAL_GROWTH: usize = 4;

/// The header segment of a JWS: a job id of [`JOB_ID_BYTES`] written in escapes takes 1,536 bytes, the other thirteen
/// members under 700, and base64url makes four characters of three bytes.
pub const JWS_HEADER_BYTES: usize = 3_072;

/// A signature as it stands in a job: header, two dots, 64 bytes in 86 characters.
pub const SIGNATURE_BYTES: usize = JWS_HEADER_BYTES + 2 + 86;

/// Keys of one keyring, and of the trust state.
pub const KEYS: usize = 8;

/// A keyring as a compact JWS: eight keys of 250 bytes are 2 kB.
pub const KEYRING_BYTES: usize = 8 * 1024;

/// Keyrings of one update: a node that missed so many rotations catches up, 128 KiB at the most.
pub const KEYRING_CHAIN: usize = 16;

/// The owner's file with keyrings: [`KEYRING_CHAIN`] of [`KEYRING_BYTES`], and the ends of their lines.
pub const KEYRING_FILE_BYTES: u64 = (KEYRING_CHAIN * (KEYRING_BYTES + 2)) as u64;

/// When no signed job came for so long, it is said: a control plane that holds all of them back looks like one that has none.
pub const QUIET_OWNER: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The JSON of a `Cluster`: a CA bundle of 64 KiB, four lists of [`CLUSTER_POLICY_ENTRIES`] (the longest of 1,024
/// characters each: 64 KiB), conditions and managedFields of some kB; and as much again for what others note on it.
pub const CLUSTER_OBJECT_BYTES: usize = 256 * 1024;

/// Entries of each list of a `Cluster`'s policy.
pub const CLUSTER_POLICY_ENTRIES: usize = 64;

/// The first accepted `seq` of a key, and the most that one job may skip: a stolen key must not burn the sequence.
pub const SEQUENCE_STEP: u64 = 1 << 20;

/// How far a job's `iat` may lie ahead of this node's clock.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// The header segment of an encrypted payload: 250 bytes as we write it.
pub const ENVELOPE_HEADER_BYTES: usize = 1_024;

/// A file with one job for `pullet check`: the job, and as much space between its tokens three times over.
pub const CHECK_FILE_BYTES: usize = 4 * JOB_BYTES;

/// The address of a chart; a longer one matches nothing.
pub const CHART_URL_BYTES: usize = 2_048;

/// The name or version of a chart, or an id of the catalog.
pub const CHART_NAME_BYTES: usize = 253;

/// How far behind `-----BEGIN ` of a PEM block `PRIVATE KEY` is looked for: the longest label in use, `ENCRYPTED PRIVATE
/// KEY`, has 21 bytes; three times that.
pub const PEM_LABEL_BYTES: usize = 64;

/// Characters of a path into a job's values in a message: with what to do about it, the message stays below
/// [`ERROR_BYTES`].
pub const POLICY_PATH_CHARS: usize = 200;

/// Characters of somebody else's name in a refusal.
pub const POLICY_NAME_CHARS: usize = 128;

/// A job id on the wire. Longer ids are refused: they become a path segment of a request line.
pub const JOB_ID_BYTES: usize = 256;

/// Bytes of one answer that are read at all, skipped jobs included: a server that never ends its answer
/// is cut off here. 16 MiB of skipped text at 100 kB/s is under three minutes.
pub const ANSWER_READ_BYTES: u64 = 16 * 1024 * 1024;

/// Body of any answer that is not a list of jobs: register, rotate, errors.
pub const SMALL_BODY_BYTES: u64 = 64 * 1024;

/// Head (status line and headers) of any answer: less than the buffer it is read into, or a longer one would
/// look like a cut.
pub const HEAD_BYTES: usize = 12 * 1024;

/// Each of the two buffers of a connection: one TLS record.
pub const CONNECTION_BUFFER_BYTES: usize = 16 * 1024;

/// Each of the two buffers between TLS and the socket. A record goes through in pieces: an idle agent has four connections, and
/// whole records beneath what TLS holds anyway were 96 kB of its memory.
pub const SOCKET_BUFFER_BYTES: usize = 4 * 1024;

/// A whole body of the Kubernetes API server.
pub const API_BODY_BYTES: u64 = 2 * 1024 * 1024;

/// One line of a watch: one object with all its fields.
pub const WATCH_LINE_BYTES: usize = 1024 * 1024;

/// Objects in one page of a list.
pub const LIST_PAGE: u32 = 50;

/// Kinds that are watched; further kinds are listed periodically, and that is reported.
pub const WATCHES: usize = 8;

/// How often the kinds beyond [`WATCHES`] are listed.
pub const LIST_INTERVAL: Duration = Duration::from_secs(300);

/// `timeoutSeconds` of a watch: below the 300 s after which many proxies cut it.
pub const WATCH_TIMEOUT: Duration = Duration::from_secs(290);

/// Owned objects whose conditions are compared one by one. Beyond that the observation of a further
/// object is counted and reported as untracked. 1,000 objects × 4 conditions × 24 bytes is 96 kB.
pub const OBSERVED_OBJECTS: usize = 1_000;

/// How long a file that a delete emptied stays before it is removed. k3s scans its manifests every 15 s, but
/// after a restart a slow board takes minutes until it does: 3 min, three times over for good measure.
pub const DIRECTORY_SETTLE: Duration = Duration::from_secs(10 * 60);

/// Emptied files that wait in memory to be removed: 1,024 × 100 bytes is 100 kB. Others go after the next start.
pub const EMPTIED_FILES: usize = 1_024;

/// Threads of the blocking pool beside the watches of kinds: 1 poll, 1 post, 2 applies, 1 disk, 1 watch of who acts.
pub const BASE_THREADS: usize = 6;

/// Further threads of an agent that goes by a `Cluster`: 1 watch of it, 1 call for it.
pub const CLUSTER_THREADS: usize = 2;

/// Stack of a blocking thread: a TLS handshake with RSA verification takes about 40 kB in a release
/// build, a debug build four times as much.
pub const THREAD_STACK_BYTES: usize = 512 * 1024;

/// Records (results, statuses, events) that wait in memory.
pub const STAGE_RECORDS: usize = 256;

/// How often a report is answered with a plain 500 until it is set aside: five tries take about half a minute.
pub const POST_TRIES: u32 = 5;

/// Text of one record; a longer message is cut at a character and marked.
pub const RECORD_BYTES: usize = 1_024;

/// A page of the journal: what flash is written in at the least.
pub const PAGE_BYTES: usize = 4_096;

/// The journal, unless configured: 64 pages. 48 of them hold about 500 events of 300 bytes.
pub const JOURNAL_BYTES: u64 = 256 * 1024;

/// Lower bound of `journal_size`: 16 pages, of which 4 jobs and their outcomes need 8 at the most.
pub const JOURNAL_MIN: u64 = 64 * 1024;

/// Upper bound of `journal_size`: 4,096 pages; what is remembered of each (40 bytes) makes 160 kB.
pub const JOURNAL_MAX: u64 = 16 * 1024 * 1024;

/// Records in one page: the smallest takes 8 bytes, a real event 150 at the least.
pub const PAGE_RECORDS: usize = 128;

/// Text of a job that is kept in a page of the journal: with an outcome of [`RECORD_BYTES`] and two ids of
/// [`JOB_ID_BYTES`] it fits the 3,712 bytes of a page. A longer one goes to the spool.
pub const INLINE_JOB_BYTES: usize = 2_048;

/// Events that wait in memory are written when there are this many of them: a page holds 12 of 300 bytes.
pub const FLUSH_EVENTS: usize = 64;

/// Events that could not be posted for this long are written.
pub const FLUSH_DELAY: Duration = Duration::from_secs(60);

/// Jobs after which a checkpoint is written at the latest.
pub const CHECKPOINT_JOBS: u64 = 256;

/// Of [`RECORD_BYTES`], what the error of a result takes at most.
pub const ERROR_BYTES: usize = 512;

/// Events in one post.
pub const EVENT_BATCH: usize = 100;

/// How long the first event of a batch waits for company.
pub const EVENT_DELAY: Duration = Duration::from_secs(1);

/// Jobs that are open at once, one of them applying.
pub const OPEN_JOBS: usize = 16;

/// Idempotency key hashes that are remembered.
pub const KNOWN_KEYS: usize = 512;

/// Outcomes of finished jobs that are kept for a redelivery.
pub const KEPT_OUTCOMES: usize = 64;

/// The longest `wait` the protocol knows.
pub const WAIT_MAX: Duration = Duration::from_secs(300);

/// The default `wait`.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(30);

/// An adapting hold ends its growth here: below the 300 s after which many proxies give up.
pub const HOLD_MAX: Duration = Duration::from_secs(240);

/// An adapting hold falls no further: polls alone are 360 an hour then.
pub const HOLD_FLOOR: Duration = Duration::from_secs(10);

/// How long a hold that failed is left alone. Networks change; two dead polls a day are bearable.
pub const HOLD_MEMORY: Duration = Duration::from_secs(24 * 60 * 60);

/// A poll's answer is due this long after the hold.
pub const HOLD_GRACE: Duration = Duration::from_secs(10);

/// Name resolution.
pub const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// TCP, proxy and TLS together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Sending a request with its body.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// The answer to anything but a poll or a watch.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// A whole body, and with [`BODY_RATE`] what ends a drip: the slowest line that can carry a job of
/// [`JOB_BYTES`] in this time has 7 kbit/s.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(300);

/// A single read within a body.
pub const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes a second a body must bring on average once [`BODY_RATE_GRACE`] is over.
pub const BODY_RATE: u64 = 100;

/// How long a body may be slower than [`BODY_RATE`].
pub const BODY_RATE_GRACE: Duration = Duration::from_secs(10);

/// Idle time after which a kept connection is not used again. Home routers drop a silent mapping after
/// 60 s at the shortest.
pub const IDLE_CONNECTION: Duration = Duration::from_secs(55);

/// First pause after a failure; nothing is ever tried faster than that.
pub const BACKOFF_FLOOR: Duration = Duration::from_secs(1);

/// Cap of the backoff. The jitter is full even there: a pause is drawn from 1 s to 15 min.
pub const BACKOFF_CAP: Duration = Duration::from_secs(15 * 60);

/// An outage that lasts longer counts as a long one. Below that a cut line or a server that restarts is met again
/// within seconds; 1 + 2 + 4 + 8 + 16 + 32 s of ceilings bring an agent here in seven tries.
pub const OUTAGE_QUICK: Duration = Duration::from_secs(60);

/// The first round of a long outage: its try comes anywhere within it. Rounds double up to [`BACKOFF_CAP`], and
/// 60 + 120 + 240 + 480 s is 900 s, where the first round of that length begins.
pub const RETURN_SPREAD: Duration = Duration::from_secs(120);

/// Without a round trip for this long the agent counts as disconnected, or after two planned gaps and
/// [`DISCONNECTED_GRACE`] where that is longer.
pub const DISCONNECTED_AFTER: Duration = Duration::from_secs(5 * 60);

/// See [`DISCONNECTED_AFTER`].
pub const DISCONNECTED_GRACE: Duration = Duration::from_secs(60);

/// Longest `Retry-After` that is honoured; a server that says "next year" is asked again after a day.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// After a 401 or 403: first probe, growing by doubling to [`PROBE_CAP`].
pub const PROBE_FIRST: Duration = Duration::from_secs(15 * 60);

/// Cap of the probes after a 401 or 403.
pub const PROBE_CAP: Duration = Duration::from_secs(6 * 60 * 60);

/// The first poll after a boot is spread over this.
pub const BOOT_SPREAD: Duration = Duration::from_secs(30);

/// A start counts as a boot within this uptime.
pub const BOOT_WINDOW: Duration = Duration::from_secs(120);

/// How long a kind with a Ready condition may take, unless configured.
pub const READY_TIMEOUT: Duration = Duration::from_secs(600);

/// Upper bound of `ready_timeout`.
pub const READY_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How long anybody has to set observedGeneration or a condition before the object counts as one that
/// nobody reports on.
pub const READY_SILENCE: Duration = Duration::from_secs(60);

/// How long an apply is repeated while the API server cannot be reached.
pub const APPLY_PATIENCE: Duration = Duration::from_secs(600);

/// How long an apply is repeated while its object alone cannot be done: an admission's pod that is replaced is back
/// within 20 s. Nothing behind the job is worked before, and 16 such jobs ([`OPEN_JOBS`]) hold up the others for
/// 16 min at the very most, the last pause of each ([`ACT_PAUSE_MAX`]) included.
pub const STUCK_PATIENCE: Duration = Duration::from_secs(30);

/// How often a refused one-time token's file is looked at for a new one: somebody stands by and waits, and
/// a look reads one page that the kernel holds anyway.
pub const TOKEN_CHECK: Duration = Duration::from_secs(5);

/// Observations on their way from the target to the jobs.
pub const OBSERVATIONS_WAITING: usize = 16;

/// The longest pause between two of these tries.
pub const ACT_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Heartbeat, unless configured: 1 min to 24 h.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15 * 60);

/// Lower bound of `heartbeat_interval`.
pub const HEARTBEAT_MIN: Duration = Duration::from_secs(60);

/// Upper bound of `heartbeat_interval`.
pub const HEARTBEAT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A heartbeat says at least this often all that a person wants to see first: 230 bytes a day.
pub const WHOLE_HEARTBEAT: Duration = Duration::from_secs(24 * 60 * 60);

/// Between two polls of the metered profile, unless configured: with a resumed handshake of 2 kB and as much for the
/// calls that is 100 kB a day.
pub const METERED_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// When the monthly budget is used up: a sign of life this often.
pub const BUDGET_HEARTBEAT: Duration = Duration::from_secs(24 * 60 * 60);

/// When the monthly budget is used up: how often it is looked whether a new month has begun.
pub const BUDGET_LOOK: Duration = Duration::from_secs(10);

/// Upper bound of `monthly_budget`, in MB: a terabyte.
pub const BUDGET_MAX_MB: u64 = 1_000_000;

/// How often the bytes of the month are written down where it has a budget: one page a day.
pub const TRAFFIC_SAVED_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// Records of one sort that `pullet journal` names; of more it gives the count. The largest journal holds 4,096 pages of
/// 255 records, and what looks into it may run in the agent's own cgroup: 512 times 3 records of 300 bytes are 0.5 MB.
pub const SURVEY_RECORDS: usize = 512;

/// How often `pullet journal --follow` looks for a new page: one read of 4 KiB, which the kernel has in memory.
pub const JOURNAL_LOOK: Duration = Duration::from_secs(1);

/// SIGTERM to exit, all told.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Of [`STOP_TIMEOUT`], what the job at hand gets.
pub const STOP_ACT: Duration = Duration::from_secs(2);

/// Of [`STOP_TIMEOUT`], what the job at hand and the waiting records get together.
pub const STOP_DRAIN: Duration = Duration::from_secs(4);

/// Of [`STOP_TIMEOUT`], what the disk gets at the end.
pub const STOP_CLOSE: Duration = Duration::from_millis(800);

/// A token, a credential file, a keyring.
pub const SECRET_FILE_BYTES: u64 = 64 * 1024;

/// The configuration file.
pub const CONFIG_FILE_BYTES: u64 = 64 * 1024;

/// A kubeconfig: k3s writes 3 kB, a laptop with twenty clusters 100 kB.
pub const KUBECONFIG_BYTES: u64 = 256 * 1024;

/// A CA bundle: Debian's is 220 kB.
pub const CA_FILE_BYTES: u64 = 1024 * 1024;

/// A bearer shorter than this is refused when it is loaded: 22 base64url characters are 128 bits.
pub const BEARER_MIN: usize = 22;

/// A bearer longer than this does not fit a header.
pub const BEARER_MAX: usize = 8 * 1024;

/// Keyrings in one answer: the longest chain of updates that is followed.
pub const SIGNING_KEYS: usize = 16;

/// The file that says which machine this is has 33 bytes, and `/proc/cpuinfo` of 64 cores 100 kB.
pub const MACHINE_FILE_BYTES: u64 = 128 * 1024;

/// Signed jobs whose ack was refused that are kept until they come again. A server holds back what is behind such a job: it is
/// one as a rule.
pub const LEFT_JOBS: usize = 4;

/// Changes of what is said of a `Cluster` that come within this time are one write.
pub const STATUS_PAUSE: Duration = Duration::from_secs(1);

/// Looks for a token in its Secret that come every [`TOKEN_CHECK`]; each is two handshakes. After five minutes nobody stands by any more,
/// and it is one in [`STATUS_PAUSE_MAX`].
pub const TOKEN_LOOKS: u32 = 60;

/// Events that are refused one by one, none taken between them, before the whole batch is given up: from then on it is as
/// many posts as batches.
pub const REFUSED_EVENTS: usize = 8;

/// Between two tries to write what is said of a `Cluster`, or to look at it, while the API server is away.
pub const STATUS_PAUSE_MAX: Duration = Duration::from_secs(60);

/// How often it is looked whether there is more to say: an overflow, refused jobs. One wake-up a minute, no call.
pub const STATUS_LOOK: Duration = Duration::from_secs(60);

/// Between two looks at the `Cluster`, each of which follows a change: somebody who changes it all the time is followed,
/// and not faster than that.
pub const CLUSTER_PAUSE: Duration = Duration::from_secs(1);

/// A line that was lost for this long is said to be lost. A poll that fails now and then would write each time.
pub const LOST_AFTER: Duration = Duration::from_secs(30);

/// Between two Kubernetes events of one reason; what comes in between is counted.
pub const EVENT_PAUSE: Duration = Duration::from_secs(5 * 60);

/// What a record takes as a rule, for how full the journal is said to be.
pub const USUAL_RECORD_BYTES: u64 = 300;

/// The Secret with the credential, as the API server sends it: two bearers and two copies of [`BEARER_MAX`], a keyring of
/// [`KEYRING_BYTES`], certificates of 16 kB and the node's keys are 60 kB, 80 kB in base64; and who owns which field.
pub const SECRET_OBJECT_BYTES: u64 = 256 * 1024;

/// What a patch of that Secret has as a rule: made with that room, it is not copied while it grows.
pub const SECRET_PATCH_BYTES: usize = 8 * 1024;

/// Body of an answer of the Kubernetes API server that is no success: a conflict over 500 fields has
/// 150 bytes of cause for each, and the same again in its message.
pub const API_ERROR_BYTES: u64 = 256 * 1024;

/// Metadata alone of an object: Kubernetes allows 256 KiB of annotations, and the owners of the fields of a job
/// of [`JOB_BYTES`] take at most that much again for each of two managers.
pub const METADATA_BODY_BYTES: u64 = 1024 * 1024;

/// A page of a list with more than one object in it: 50 objects of 10 kB. A longer one is asked for again
/// with fewer objects, so that what is decoded of a page stays below 1.5 MiB.
pub const LIST_BODY_BYTES: u64 = 512 * 1024;

/// Objects that are taken from one page, for a server that does not page: 256 × 32 conditions × 136 bytes
/// is 1.1 MiB, and their text is within [`LIST_BODY_BYTES`].
pub const PAGE_OBJECTS: usize = 256;

/// Text of the API server that a watch may hold without asking: beyond that only one watch or list of them all
/// holds any. An event has 2 to 10 kB; 8 watches × 16 KiB is 128 KiB.
pub const WATCH_FREE_BYTES: usize = 16 * 1024;

/// One piece of a body on its way from the thread that reads it; two wait at most.
pub const API_CHUNK_BYTES: usize = 8 * 1024;

/// Calls to the API server that are under way at once, watches apart: the 2 applies of [`BASE_THREADS`].
pub const API_CALLS: usize = 2;

/// Kinds whose place in the API is remembered: 64 × 150 bytes is 10 kB.
pub const KNOWN_KINDS: usize = 64;

/// Conditions of one object that are looked at; the busiest kinds of Kubernetes itself have ten.
pub const OBJECT_CONDITIONS: usize = 32;

/// Fields of one object that are compared with those that an apply of ours set, 4 bytes each. An ApplicationInstance has 20 or
/// so: 1,000 of them take 80 kB.
pub const OBJECT_FIELDS: usize = 128;

/// Fields of all objects that are compared: 32,768 × 4 bytes is 128 KiB. What others change of further objects is not told.
pub const COMPARED_FIELDS: usize = 32_768;

/// Endpoints of one object that are looked at.
pub const OBJECT_ENDPOINTS: usize = 16;

/// A condition's message, an endpoint's text; a longer one is cut at a character. What is sent on is cut
/// to [`RECORD_BYTES`] anyway.
pub const CONDITION_TEXT_BYTES: usize = 1_024;

/// Fields that one conflict names.
pub const CONFLICT_FIELDS: usize = 16;

/// What the API server says about a refusal, in characters.
pub const REFUSAL_CHARS: usize = 400;

/// Objects that wait for a look after they were applied: one per open job, and as many whose jobs have ended before
/// the look had an answer. 32 × 500 bytes is 16 kB.
pub const APPLIED_WAITING: usize = 2 * OPEN_JOBS;

/// Silence of a watch: `timeoutSeconds` and ten seconds for the end to arrive.
pub const WATCH_SILENCE: Duration = Duration::from_mins(5);

/// A watch that lasted this long was a success, and the pause after it starts over.
pub const WATCH_SETTLED: Duration = Duration::from_secs(10);

/// Longest pause of a watch while the API server cannot be reached. It starts at [`BACKOFF_FLOOR`].
pub const WATCH_BACKOFF_CAP: Duration = Duration::from_mins(1);

/// First pause when a kind is not there or not allowed.
pub const KIND_BACKOFF_FIRST: Duration = Duration::from_secs(5);

/// Longest pause when a kind is not there or not allowed: 12 requests an hour for each.
pub const KIND_BACKOFF_CAP: Duration = Duration::from_mins(5);

/// How often the files of a credential are looked at, at most. The kubelet renews a token when a fifth
/// of its hour is left.
pub const CREDENTIAL_CHECK: Duration = Duration::from_secs(5);

/// How often a newcomer asks for the pod of who acts.
pub const HOLDER_LOOK: Duration = Duration::from_secs(10);

/// How long a start waits for an API server that does not answer, to learn who acts: then jobs are taken, which wait for
/// it as well, and status and heartbeats go out. k3s takes as long to start on a small board.
pub const HOLDER_PATIENCE: Duration = Duration::from_secs(30);

/// The record of who acts: five names of [`HOLDER_TEXT_BYTES`], and the metadata with what people put there.
pub const HOLDER_BODY_BYTES: usize = 64 * 1024;

/// A name in the record of who acts: Kubernetes has none that is longer.
pub const HOLDER_TEXT_BYTES: usize = 253;

/// The same as a signed text: a third more for base64url, the escapes of its ends of lines, header and signature.
pub const CA_BUNDLE_BYTES: usize = 48 * 1024;

/// How far a date of the control plane and the system clock may lie apart and still agree: `Date` has whole seconds, and
/// an answer may be on its way for as long as [`RESPONSE_TIMEOUT`].
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// Two dates that agree and lie this far apart were not both replayed from one recording.
pub const CLOCK_WITNESSES_APART: Duration = Duration::from_secs(10 * 60);

/// The floor is written this often at most: 365 small writes a year.
pub const CLOCK_SAVED_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// `{"version":1,"confirmed":<20 digits>}` is 46 bytes.
pub const CLOCK_FILE_BYTES: u64 = 256;

/// How often a job that waits for the time looks whether it is known: a `stat` of one file.
pub const CLOCK_LOOK: Duration = Duration::from_secs(5);

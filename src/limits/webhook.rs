//! What an API server may ask, and how long that may take.

use std::time::Duration;

/// A review: an object and what it was before, in their JSON. A job has a quarter of a megabyte at most.
pub const WEBHOOK_BODY_BYTES: usize = 512 * 1024;

/// As much of a longer one is kept as says which request it is and who asks: an API server writes that within 2 kB.
pub const WEBHOOK_OPENING_BYTES: usize = 4 * 1024;

/// As much of a longer one is read and dropped, so that whoever sent it reads the answer: an API server takes objects of
/// 3 MiB, and sends two.
pub const WEBHOOK_DRAIN_BYTES: usize = 8 * 1024 * 1024;

/// Connections whose handshake and head are read at once. One has 60 kB; reviews are done one by one.
pub const WEBHOOK_CONNECTIONS: usize = 4;

/// Further ones wait in the kernel; an API server gives up after `timeoutSeconds`.
pub const WEBHOOK_BACKLOG: u32 = 16;

/// Head of a request: an API server sends 300 bytes. Eight kilobytes are the least that the HTTP library takes.
pub const WEBHOOK_HEAD_BYTES: usize = 8 * 1024;

/// Headers of a request.
pub const WEBHOOK_HEADERS: usize = 32;

/// From a connection to its first byte of HTTP: the handshake takes a Raspberry Pi Zero 50 ms.
pub const WEBHOOK_HANDSHAKE: Duration = Duration::from_secs(2);

/// For the head, and then for the body, which holds the only place.
pub const WEBHOOK_ARRIVAL: Duration = Duration::from_secs(1);

/// From a connection to the end of its answer, with the wait for those before it. An API server waits 10 s.
pub const WEBHOOK_PATIENCE: Duration = Duration::from_secs(10);

/// How long a certificate is good for. The next one takes its place when a third of it is left.
pub const WEBHOOK_LIFETIME: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// How often the certificate is looked at, and whether the API server still trusts it.
pub const WEBHOOK_CHECK: Duration = Duration::from_secs(60);

/// What could not be done is tried again.
pub const WEBHOOK_RETRY: Duration = Duration::from_secs(5);

/// An API server knows of a change after some milliseconds; several of them, or busy ones, after seconds.
pub const WEBHOOK_SETTLE: Duration = Duration::from_secs(10);

/// Threads for it: one review, one call about the certificate.
pub const WEBHOOK_THREADS: usize = 2;

/// The configuration of the webhook with two certificates and its history has 6 kB.
pub const WEBHOOK_CONFIGURATION_BYTES: u64 = 64 * 1024;

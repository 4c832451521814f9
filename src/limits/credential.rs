//! The life of a credential: its bearer, its certificate, its keys.

use std::time::Duration;

/// The earliest moment of a rotation ahead of expiry, in hundredths of a credential's life.
pub const ROTATE_FROM_PERCENT: u64 = 70;

/// The latest moment of a rotation ahead of expiry, in hundredths of a credential's life: of a month three days are
/// left for a line that is down.
pub const ROTATE_TO_PERCENT: u64 = 90;

/// A plan to rotate sooner after the issue than this is none: see [`ROTATION_UNPLANNED`].
pub const ROTATION_FLOOR: Duration = Duration::from_secs(5);

/// A credential that was to be rotated before it was issued is rotated this long after it: this node's clock is years
/// ahead, or the server says "now" each time. Each would make a loop. If it ends before, a 401 finds a new one.
pub const ROTATION_UNPLANNED: Duration = Duration::from_secs(24 * 60 * 60);

/// First pause after a rotation ahead of expiry that failed.
pub const ROTATION_BACKOFF_FIRST: Duration = Duration::from_secs(60);

/// Longest pause after a rotation ahead of expiry that failed: the tenth of a day's life that is left has two of them.
pub const ROTATION_BACKOFF_CAP: Duration = Duration::from_secs(60 * 60);

/// How long the credential before stays stored after the new one worked. Servers let two overlap for minutes.
pub const ROTATION_GRACE: Duration = Duration::from_secs(60 * 60);

/// How often the clock is looked at for a rotation: it may have been set meanwhile. Six wake-ups an hour.
pub const ROTATION_LOOK: Duration = Duration::from_secs(10 * 60);

/// Least bytes of a key that wraps the stored credential: 128 bits, if they are random.
pub const SEAL_KEY_MIN: usize = 16;

/// A client certificate with its chain, or a key: four certificates of 4 KiB in PEM fit three times.
pub const CLIENT_CERTIFICATE_BYTES: u64 = 64 * 1024;

/// A client certificate that the control plane issues, with its chain: five certificates of 2 KiB in PEM. Two of them in
/// base64url, two bearers of [`super::BEARER_MAX`] and the keys are 45 KiB, and 60 KiB when they are sealed: within
/// [`super::SECRET_FILE_BYTES`].
pub const ISSUED_CHAIN_BYTES: usize = 10 * 1024;

/// Authorities that the control plane gives, PEM: four overlapping ones of 2 KiB fit four times.
pub const GIVEN_AUTHORITIES_BYTES: usize = 32 * 1024;

/// How often the Secret is looked at for another client certificate of the owner, where one is wanted: one call.
pub const CERTIFICATE_LOOK: Duration = Duration::from_secs(5 * 60);

/// A changed certificate that did not work is tried again after this: the server's side may not have changed yet.
pub const CERTIFICATE_RETRY: Duration = Duration::from_secs(30);

/// How long the payload key of before a registration is kept: what was encrypted to it and is still on its way is read. A quarter
/// of a year, in which a node that was off comes back as a rule.
pub const PAYLOAD_KEY_KEPT: Duration = Duration::from_secs(90 * 24 * 60 * 60);

//! What is sent after a loss.

use std::time::Duration;

/// After a loss: how long the present waits for room before it is given up and owed anew, and an observation behind it with it.
pub const PRESENT_PATIENCE: Duration = Duration::from_secs(30);

/// After a loss: how long a kind that cannot be listed is waited for. Five tries, as long as a small board takes to start its
/// API server. It costs little to leave out one too early: all of the present is sent once more when it is back.
pub const KIND_HOLDS_PRESENT: Duration = Duration::from_secs(30);

/// Kinds that are named where they are told of; the others are counted. Three names are 100 bytes of a heartbeat or so.
pub const NAMED_KINDS: usize = 3;

/// After a loss: how long a poll waits while nothing is heard of the present: the API server may be down.
pub const PRESENT_HOLDS_POLL: Duration = Duration::from_secs(10);

/// After a loss: the present is not sent more often than this, however much is lost meanwhile. 1,000 objects are 20
/// pages of a list.
pub const PRESENT_EVERY: Duration = Duration::from_secs(60);

/// How often it is looked whether there is room for the present, or the rest of it has come; only while it is sent.
pub const PRESENT_LOOK: Duration = Duration::from_millis(20);

//! Bounds towards the device's own system.

use std::time::Duration;

/// What a supervisor is told in one line: twice the width of a terminal and some, far less than a datagram holds.
pub const SUPERVISOR_LINE_BYTES: usize = 400;

/// Least pause between two signs of life to a supervisor: one that asks for more makes no loop. The unit in `systemd/` asks
/// for one in two and a half minutes, 0.4 wake-ups a minute.
pub const WATCHDOG_MIN: Duration = Duration::from_millis(50);

//! `pullet doctor`: what a person sets right.

use super::{Failure, say};
use crate::agent;
use crate::clock;
use crate::config::Config;

/// Forgets the last confirmed time. The lock of the state directory keeps a running agent out of it.
pub(super) fn reset_clock(config: &Config) -> Result<(), Failure> {
    if !config.state_dir.exists() {
        return Err(Failure::failed(format!("there is no state directory {}", config.state_dir.display())));
    }
    let _store = agent::open_store(config).map_err(Failure::failed)?;
    let was_there = clock::reset(&config.state_dir).map_err(Failure::failed)?;
    say(if was_there {
        "the last confirmed time is forgotten; set the clock of this node before the agent starts: date -s, or a time service"
    } else {
        "no confirmed time was kept; nothing was changed"
    });
    Ok(())
}

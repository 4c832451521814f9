//! `pullet run`: the agent.

use super::{Failure, configure};
use crate::agent::{Agent, AgentError};
use crate::config::Settings;
use crate::link::pinned::PinError;

/// Runs until a signal.
pub(super) fn run(settings: Settings) -> Result<(), Failure> {
    let config = configure(settings)?;
    Agent::open(config).and_then(Agent::run).map_err(|error| match error {
        AgentError::Config(error) => Failure::usage(error),
        // As for register: it is a setting that is wrong.
        AgentError::Tls(error) => Failure::usage(error),
        error @ AgentError::Pin(PinError::Given(_)) => Failure::usage(error),
        error @ AgentError::Replaced(_) => Failure::replaced(error),
        error => Failure::failed(error),
    })
}

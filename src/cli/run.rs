//! `pullet run`: the agent.

use super::Failure;
use crate::agent::{Agent, AgentError};
use crate::config::Config;

/// Runs until a signal.
pub(super) fn run(config: Config) -> Result<(), Failure> {
    Agent::open(config).and_then(Agent::run).map_err(|error| match error {
        AgentError::Config(error) => Failure::usage(error),
        // As for register: it is a setting that is wrong.
        AgentError::Tls(error) => Failure::usage(error),
        error @ AgentError::Replaced(_) => Failure::replaced(error),
        error => Failure::failed(error),
    })
}

//! Pullet, the agent on a node that nobody can reach.

pub mod agent;
pub mod args;
pub mod cli;
pub mod clock;
pub mod config;
pub mod job;
pub mod journal;
pub mod limits;
pub mod link;
pub mod logging;
pub mod net;
pub mod protocol;
pub mod secret;
pub mod shutdown;
pub mod target;
pub mod trust;

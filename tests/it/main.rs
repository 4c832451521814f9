//! Behaviour tests, one module a subject.

#![allow(clippy::unwrap_used, reason = "clippy.toml allows it in tests, but not in what tests call")]

mod agent;
mod contract;
mod directory;
mod layers;
#[path = "../testbed/mod.rs"]
mod testbed;
mod testbed_itself;

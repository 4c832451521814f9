//! Behaviour tests, one module a subject.

#![allow(clippy::unwrap_used, reason = "clippy.toml allows it in tests, but not in what tests call")]

mod agent;
mod command_line;
mod directory;
mod faults;
mod layers;
mod proxy;
mod scene;
mod secrecy;
mod stopping;
#[path = "../testbed/mod.rs"]
mod testbed;
mod testbed_itself;
mod tls;

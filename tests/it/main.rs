//! Behaviour tests, one module a subject.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod agent;
#[path = "../testbed/mod.rs"]
mod testbed;
mod testbed_itself;

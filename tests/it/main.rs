//! Behaviour tests, one module a subject.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod apiserver;
mod fake_api;
mod kubernetes;
mod kubernetes_access;
mod kubernetes_faults;
mod kubernetes_observe;

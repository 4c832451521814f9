//! Behaviour tests, one module a subject.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]
#![allow(clippy::missing_panics_doc, reason = "helpers of tests panic where a test fails")]

pub mod apiserver;
pub mod fake_api;
pub mod kubernetes;
pub mod kubernetes_access;
pub mod kubernetes_faults;
pub mod kubernetes_observe;

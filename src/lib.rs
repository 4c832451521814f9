//! Pullet, the agent on a k3s node that nobody can reach from outside.
//!
//! It connects outward only, long-polls a control plane for jobs, applies them to the cluster it runs on, and
//! reports back. The way of a job, with no way back but the outcome:
//!
//! ```text
//! link ──Job──▶ job ──policy──▶ trust
//! (poll)         │
//!                ├──Apply, Delete──▶ target ──Applied, TargetError──▶ job
//!                │                   (Kubernetes or directory)
//!                └──result, status, events──▶ journal ──▶ link
//!                                             (waits)     (post)
//! ```
//!
//! | module | what it alone knows |
//! |---|---|
//! | [`args`], [`config`], [`cli`], [`logging`] | the user |
//! | [`agent`] | all parts; it wires them and decides nothing. `agent::cluster` goes by a `Cluster`, and its `step` decides |
//! | [`setup`] | how an agent comes onto a node, and goes; no agent that runs uses it |
//! | [`doctor`] | what is wrong with a node: it asks and looks, and changes nothing; the agent itself never comes here |
//! | [`status`] | what a running agent tells of itself, and the file it tells it in |
//! | [`monitor`] | the same for machines: `/metrics`, `/healthz` and `/readyz` on loopback |
//! | `webhook` | API servers that ask before they store an object; only with the feature of that name |
//! | [`link`] | the control plane |
//! | [`job`] | what becomes of a job: `machine` decides, `run` does |
//! | [`journal`] | what waits to be posted |
//! | [`target`] | Kubernetes, and the directory that k3s reads |
//! | [`trust`] | what a job may do; pure |
//! | [`net`] | ureq, rustls, sockets |
//! | [`protocol`] | the types of the wire, and nothing else |
//! | [`resources`] | the custom resources: what the owner of the cluster writes, and what is written there |
//! | [`limits`], [`clock`], [`count`], [`metrics`], [`secret`], [`shutdown`], [`supervisor`], [`texts`] | one noun each |
//!
//! What it defends against, and where:
//!
//! - a server that sends too much, too deep, too slowly, or without an end: `link::stream`, `net::body`;
//! - something on the way that answers in the server's place: `link::fault`, `link::longpoll`;
//! - a redirect or a proxy that wants the bearer: `net::connector`;
//! - a job for a kind, a namespace, a chart or an operation that the owner did not open: `trust::policy`;
//! - an API server or an object that is too large: `target::kubernetes`;
//! - a name that would leave the directory, a link planted in it: `target::directory`;
//! - a secret in a log: `secret`, `logging`;
//! - a fleet that comes back in step: `link::backoff`;
//! - a job that was delivered twice: `job::ledger`;
//! - a control plane that was taken over: `trust::verify` and `job::gate`. Where the owner's key is pinned a job does only
//!   what the owner signed, once, and a payload can be encrypted to the node.
//!
//! Not against: a control plane that is taken over before a key is pinned. Without a pinned key and without
//! `signatures = "require"` jobs need no signature, and the limits of `trust::policy` are all there is.

pub mod agent;
pub mod args;
pub mod cli;
pub mod clock;
pub mod config;
pub mod count;
pub mod doctor;
pub mod job;
pub mod journal;
pub mod json;
pub mod limits;
pub mod link;
pub mod logging;
pub mod metrics;
pub mod monitor;
pub mod net;
pub mod protocol;
pub mod resources;
pub mod secret;
pub mod setup;
pub mod shutdown;
pub mod status;
pub mod supervisor;
pub mod target;
pub mod task;
pub mod texts;
pub mod trust;
#[cfg(feature = "webhook")]
pub mod webhook;

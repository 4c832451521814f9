//! Behaviour tests, one module a subject.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "clippy.toml allows them in tests, but not in what tests call"
)]

mod admission;
mod agent;
mod agent_on_cluster;
mod apiserver;
mod architectures;
mod attacks;
#[path = "../bench/mod.rs"]
mod bench;
mod booted;
mod budgets;
mod check;
mod cluster_bounds;
mod cluster_certificate;
mod cluster_line;
mod cluster_resource;
mod cluster_security;
mod cluster_stage;
mod cluster_told;
mod command_line;
mod contract;
mod control_plane_doc;
mod custom_resources;
#[cfg(feature = "crds")]
mod definitions;
mod directory;
mod doctor;
mod doctor_cluster;
mod doctor_complete;
mod doctor_files;
mod drift;
mod fake_api;
mod faults;
mod firstboot;
mod fuzz_corpus;
#[path = "../fuzz/targets/mod.rs"]
mod fuzz_targets;
mod holder;
mod hostile;
mod interop;
mod issued;
mod journal;
mod kubernetes;
mod kubernetes_access;
mod kubernetes_faults;
mod kubernetes_observe;
mod kubernetes_start;
mod layers;
mod left_out;
mod link_alone;
mod lost_disk;
mod manifests;
mod manual;
mod memory;
mod memory_cgroup;
mod memory_image;
mod metrics;
mod mtls;
mod never_lose;
mod never_lose_cluster;
mod nginx;
mod node;
mod offline;
mod one_effect;
mod owner;
mod policy_cases;
mod present;
mod proxy;
mod refusals;
mod rights;
mod rollback;
mod scene;
mod secrecy;
mod setup;
mod shipped_configuration;
mod signed;
#[cfg(feature = "sign")]
mod signing;
mod squid;
mod status;
mod stopping;
mod supervised;
#[path = "../testbed/mod.rs"]
mod testbed;
mod testbed_itself;
mod thousand;
mod tls;
#[cfg(feature = "webhook")]
mod webhook;
mod wrong_clock;
mod year_2038;
mod year_offline;

//! The custom resources of the field: what the agent reads and writes of a `Cluster`.
//!
//! Their definitions in `k3s/crds.yaml` are made from the types here by a test (`definition`), so that neither a schema
//! nor its generator is in the program. `Operation` and `ApplicationInstance` are only defined: the agent applies them
//! and looks at their conditions, whatever else is in them.
#![allow(
    clippy::doc_markdown,
    clippy::duplicated_attributes,
    reason = "comments are what kubectl explain prints, and each column of a table has a type"
)]

#[cfg(feature = "crds")]
mod application_instance;
mod cluster;
#[cfg(feature = "crds")]
pub mod definition;
#[cfg(feature = "crds")]
mod operation;
mod policy;
mod status;

pub use cluster::{
    Cluster, ClusterSpec, ConnectivityMode, DEFAULT_TOKEN_KEY, InvalidSpec, Metadata, Mtls, NoCluster, Proxy, Pull,
    Security, TokenReference, Transport, TwoEndpoints,
};
pub use policy::{InvalidPolicy, PolicySpec};
pub use status::{Buffer, ClusterStatus, CredentialStatus, Phase, SecretReference};

/// Finalizer of a `Cluster`.
pub const CLUSTER_FINALIZER: &str = "ops.vworkspace.io/cluster-cleanup";

/// Annotation of a `Cluster` that forces a new registration: anything but nothing and `false`. It is removed afterwards.
pub const ROTATE_ANNOTATION: &str = "ops.vworkspace.io/rotate-credentials";

//! `pullet crds`: the definitions of the custom resources.

/// As a test makes them from the types, with the feature `crds`.
pub(crate) const TEXT: &str = include_str!("../../k3s/crds.yaml");

//! What an agent goes by that goes by a Cluster, for whoever only looks.

use super::secret_store::SecretStore;
use super::terms::terms;
use crate::config::Config;
use crate::link::CredentialStore;
use crate::target::kubernetes::Own;

/// Why there is nothing to go by.
pub enum Unseen {
    /// No job is done: there is no Cluster, or none that can be served.
    NotServed(String),
    /// The API server does not tell.
    NotTold,
}

/// The configuration with what the only Cluster, or the one that is named, makes of it, and the store of its Secret. Blocks.
///
/// # Errors
/// As [`Unseen`] lists them.
pub fn outlook(config: &Config) -> Result<(Config, impl CredentialStore + use<>), Unseen> {
    let access = super::super::target::find_access(config).map_err(|_| Unseen::NotTold)?;
    let own = Own::new(&access);
    let name = config.cluster_resource.as_deref().filter(|name| *name != "*");
    let mut found = own.clusters(name).map_err(|_| Unseen::NotTold)?.clusters;
    match (found.pop(), found.is_empty()) {
        (Some(cluster), true) => match terms(config, &cluster) {
            Ok(config) => Ok((config, SecretStore::new(own, None))),
            Err((_, text)) => Err(Unseen::NotServed(text)),
        },
        (Some(_), false) => {
            Err(Unseen::NotServed("there are several, and cluster_resource names none of them".to_owned()))
        }
        (None, _) => Err(Unseen::NotServed("there is none".to_owned())),
    }
}

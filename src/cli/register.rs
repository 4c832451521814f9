//! `pullet register`: exchange the one-time token, and end.

use std::io;

use super::{Failure, say};
use crate::agent;
use crate::config::{Config, ConfigError};
use crate::link::secret_file::read_one_time_token;
use crate::link::{CredentialStore as _, Demands, Registration};

/// Registers once, with `force` over a credential that is there. A failure leaves everything as it was, except for a
/// one-time token that the server took before it failed, and for keys that the next try will use.
pub(super) fn register(config: &Config, force: bool) -> Result<(), Failure> {
    let Some(endpoint) = &config.endpoint else {
        return Err(ConfigError::Missing("endpoint", "say where the control plane is: --endpoint https://…").into());
    };
    let Some(token_file) = &config.token_file else {
        return Err(
            ConfigError::Missing("token_file", "give the one-time token: --token-file FILE, or - for stdin").into()
        );
    };
    let store = agent::open_store(config).map_err(Failure::failed)?;
    if !force && let Some(credential) = store.load().map_err(Failure::failed)? {
        return Err(Failure::failed(format!(
            "already registered as {} at {}; to register anew, get a new one-time token and add --force",
            credential.cluster_id, credential.endpoint,
        )));
    }
    let token = read_one_time_token(token_file, io::stdin()).map_err(Failure::failed)?;
    let profile = agent::profile(config).map_err(Failure::usage)?;
    store.rehearse().map_err(Failure::failed)?;
    say(&format!("registering at {endpoint} …"));
    let registration = Registration {
        endpoint,
        profile,
        cluster_id: config.cluster_id.as_ref(),
        display_name: config.display_name.as_deref(),
        demands: Demands::default(),
        certificate_request: None,
    };
    let registered = if force { registration.force(&token, &store) } else { registration.exchange(&token, &store) };
    let credential = registered.map_err(Failure::failed)?;
    say(&format!("registered as {}; the credential is in {}", credential.cluster_id, config.state_dir.display()));
    say("next: pullet run");
    Ok(())
}

//! `pullet register`: exchange the one-time token, and end.

use std::io;

use super::{Failure, say};
use crate::agent::{self, Registration};
use crate::config::{Config, ConfigError};
use crate::link::{CredentialStore as _, StateDirectory};

/// Registers once. A failure leaves everything as it was, except for a one-time token that the server
/// took before it failed.
pub(super) fn register(config: &Config) -> Result<(), Failure> {
    let Some(endpoint) = &config.endpoint else {
        return Err(ConfigError::Missing("endpoint", "say where the control plane is: --endpoint https://…").into());
    };
    let Some(token_file) = &config.token_file else {
        return Err(
            ConfigError::Missing("token_file", "give the one-time token: --token-file FILE, or - for stdin").into()
        );
    };
    let store = StateDirectory::open(&config.state_dir).map_err(Failure::failed)?;
    if let Some(credential) = store.load().map_err(Failure::failed)? {
        return Err(Failure::failed(format!(
            "already registered as {} at {}; to register anew, remove {} first",
            credential.cluster_id,
            credential.endpoint,
            config.state_dir.join("credential.json").display(),
        )));
    }
    let token = crate::link::credential::read_one_time_token(token_file, io::stdin()).map_err(Failure::failed)?;
    let profile = agent::profile(config).map_err(Failure::usage)?;
    store.rehearse().map_err(Failure::failed)?;
    say(&format!("registering at {endpoint} …"));
    let registration = Registration {
        endpoint,
        profile,
        cluster_id: config.cluster_id.as_ref(),
        display_name: config.display_name.as_deref(),
    };
    let credential = registration.exchange(&token, &store).map_err(Failure::failed)?;
    say(&format!("registered as {}; the credential is in {}", credential.cluster_id, config.state_dir.display()));
    say("next: pullet run");
    Ok(())
}

//! `pullet register`: exchange the one-time token, and end.

use std::io;
use std::path::Path;

use super::{Failure, say};
use crate::agent;
use crate::config::{Config, ConfigError};
use crate::doctor;
use crate::link::secret_file::read_one_time_token;
use crate::link::{CredentialStore as _, Demands, PinStore as _, Registration, StateDirectory, Wanted};
use crate::logging;
use crate::net::Profile;
use crate::secret::Secret;
use crate::trust::keyring::Keyring;

/// Registers once, with `force` over a credential that is there. A failure leaves everything as it was, except for a
/// one-time token that the server took before it failed, and for keys that the next try will use.
pub(super) fn register(config: &Config, force: bool) -> Result<(), Failure> {
    logging::start(config.log_level, config.log_format);
    exchange(config, force)?;
    say("next: pullet run");
    Ok(())
}

/// The same without a word of what comes next. Root goes on as the owner of the state directory: what lies there is the agent's.
pub(super) fn exchange(config: &Config, force: bool) -> Result<(), Failure> {
    if let Some(name) = &config.cluster_resource {
        let why = "an agent that goes by a Cluster registers by itself: put the one-time token into its Secret";
        return Err(ConfigError::Value("cluster_resource", name.clone(), why.to_owned()).into());
    }
    let Some(endpoint) = &config.endpoint else {
        return Err(ConfigError::Missing("endpoint", "say where the control plane is: --endpoint https://…").into());
    };
    let Some(token_file) = &config.token_file else {
        return Err(
            ConfigError::Missing("token_file", "give the one-time token: --token-file FILE, or - for stdin").into()
        );
    };
    // What is given may lie where that one may not look, or may be for that one alone.
    let early = doctor::other_owner(&config.state_dir).map(|owner| {
        let early = read(config, token_file);
        doctor::act_as(owner, &config.state_dir);
        early
    });
    let store = agent::open_store(config).map_err(Failure::failed)?;
    if !force && let Some(credential) = store.load().map_err(Failure::failed)? {
        return Err(Failure::failed(format!(
            "already registered as {} at {}; to register anew, get a new one-time token and add --force",
            credential.cluster_id, credential.endpoint,
        )));
    }
    let (token, profile, wanted) = match early {
        Some(early) => early.or_else(|error| read(config, token_file).map_err(|_| error)),
        None => read(config, token_file),
    }?;
    store.rehearse().map_err(Failure::failed)?;
    say(&format!("registering at {endpoint} …"));
    let registration = Registration {
        endpoint,
        profile,
        cluster_id: config.cluster_id.as_ref(),
        display_name: config.display_name.as_deref(),
        demands: Demands { signatures: config.demands_signatures(), client_certificate: config.mtls },
        pin: wanted.as_ref(),
    };
    let registered = if force { registration.force(&token, &store) } else { registration.exchange(&token, &store) };
    let credential = registered.map_err(Failure::failed)?;
    say(&format!("registered as {}; the credential is in {}", credential.cluster_id, config.state_dir.display()));
    say(&keys_of(&store, wanted.is_some())?);
    Ok(())
}

/// What is given: the one-time token, the authorities and a certificate, the keyring.
fn read(config: &Config, token_file: &Path) -> Result<(Secret, Profile, Option<Wanted>), Failure> {
    let token = read_one_time_token(token_file, io::stdin()).map_err(Failure::failed)?;
    let profile = agent::profile(config).map_err(Failure::usage)?;
    Ok((token, profile, agent::wanted(config).map_err(Failure::usage)?))
}

/// Which key this node obeys from now on, and what to do about it.
fn keys_of(store: &StateDirectory, was_given: bool) -> Result<String, Failure> {
    let pin = store.load_pin().map_err(Failure::failed)?;
    let Some(ring) = pin.and_then(|pin| Keyring::restore(&pin.keyring).ok()) else {
        return Ok(if was_given {
            "no keyring came that belongs to the given fingerprint; no job is done until one does".to_owned()
        } else {
            "no key is pinned: whoever controls the control plane decides what this node does, within its limits"
                .to_owned()
        });
    };
    let fingerprints: Vec<String> = ring.fingerprints().iter().map(ToString::to_string).collect();
    let advice = if was_given {
        ""
    } else {
        "\ncompare it with the owner's: it came from the control plane, and is obeyed from now on"
    };
    Ok(format!(
        "only jobs signed by the owner are done; fingerprint of the pinned key: {}{advice}",
        fingerprints.join(" ")
    ))
}

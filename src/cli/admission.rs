//! `pullet admission`: the policy of the settings as objects of an API server.

use super::{Failure, say};
use crate::config::Config;
use crate::target::kubernetes::list_as_json;

/// Prints the objects, as YAML with comments or as one JSON `List`.
pub(super) fn admission(config: &Config, is_json: bool) -> Result<(), Failure> {
    let text = config.policy.admission();
    if is_json {
        say(&list_as_json(&text).map_err(Failure::failed)?);
    } else {
        say(text.trim_end());
    }
    Ok(())
}

/// Prints what an API server has to be told of the webhook.
#[cfg(feature = "webhook")]
pub(super) fn webhook(config: &Config) -> Result<(), Failure> {
    let why = "where API servers are answered: 127.0.0.1:9443, or 0.0.0.0:9443 behind a Service";
    let listen = config.webhook.ok_or(crate::config::ConfigError::Missing("webhook_listen", why))?;
    say(crate::webhook::text(&listen, &config.policy).trim_end());
    Ok(())
}

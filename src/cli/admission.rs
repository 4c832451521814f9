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

//! The configuration file: TOML, taken apart by hand. A reader derived for [`Settings`] has thirty times the size.

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::settings::{KEYS, closest};
use super::{ConfigError, Settings};

/// Reads the settings out of the text of the file at `path`.
pub(super) fn read(path: &Path, text: &str) -> Result<Settings, ConfigError> {
    let syntax = |reason: String| ConfigError::Syntax(path.to_owned(), reason);
    let table = DeTable::parse(text).map_err(|error| syntax(error.to_string()))?.into_inner();
    if let Some(key) = table.keys().map(|key| key.get_ref()).find(|key| !KEYS.contains(&key.as_ref())) {
        let name: String = key.chars().take(64).collect();
        return Err(ConfigError::UnknownKey(path.to_owned(), name, closest(key, KEYS)));
    }
    let mut settings = Settings::default();
    for (key, value) in &table {
        let key = key.get_ref().as_ref();
        take(&mut settings, key, value).map_err(|wrong| {
            let line = text.as_bytes().iter().take(value.span().start).filter(|byte| **byte == b'\n').count() + 1;
            let found = value.get_ref().type_str();
            syntax(format!("line {line}: {key} takes {}, not this {found}", wrong.0))
        })?;
    }
    Ok(settings)
}

fn take(settings: &mut Settings, key: &str, value: &Spanned<DeValue<'_>>) -> Result<(), Wrong> {
    let value = value.get_ref();
    match key {
        "allow_chart" => settings.allow_chart = list(value)?,
        "allow_kind" => settings.allow_kind = list(value)?,
        "allow_namespace" => settings.allow_namespace = list(value)?,
        "allow_operation" => settings.allow_operation = list(value)?,
        "allow_plain_http_loopback" => settings.allow_plain_http_loopback = Some(switch(value)?),
        "ca_file" => settings.ca_file = Some(file(value)?),
        "client_cert" => settings.client_cert = Some(file(value)?),
        "client_key" => settings.client_key = Some(file(value)?),
        "cluster_id" => settings.cluster_id = Some(text(value)?),
        "context" => settings.context = Some(text(value)?),
        "directory" => settings.directory = Some(file(value)?),
        "display_name" => settings.display_name = Some(text(value)?),
        "endpoint" => settings.endpoint = Some(text(value)?),
        "heartbeat_interval" => settings.heartbeat_interval = Some(number(value)?),
        "journal_size" => settings.journal_size = Some(number(value)?),
        "keyring" => settings.keyring = Some(file(value)?),
        "kubeconfig" => settings.kubeconfig = Some(file(value)?),
        "log_format" => settings.log_format = Some(text(value)?),
        "log_level" => settings.log_level = Some(text(value)?),
        "monthly_budget" => settings.monthly_budget = Some(number(value)?),
        "poll_interval" => settings.poll_interval = Some(number(value)?),
        "profile" => settings.profile = Some(text(value)?),
        "proxy" => settings.proxy = Some(text(value)?),
        "ready_timeout" => settings.ready_timeout = Some(number(value)?),
        "require_encrypted_secrets" => settings.require_encrypted_secrets = Some(switch(value)?),
        "signatures" => settings.signatures = Some(text(value)?),
        "state_dir" => settings.state_dir = Some(file(value)?),
        "status_file" => settings.status_file = Some(file(value)?),
        "succeed_on" => settings.succeed_on = Some(text(value)?),
        "target" => settings.target = Some(text(value)?),
        "token_file" => settings.token_file = Some(file(value)?),
        "wait" => settings.wait = Some(number(value)?),
        _ => return Err(Wrong("no value")),
    }
    Ok(())
}

/// What a setting takes instead.
struct Wrong(&'static str);

fn file(value: &DeValue<'_>) -> Result<PathBuf, Wrong> {
    text(value).map(PathBuf::from)
}

fn list(value: &DeValue<'_>) -> Result<Vec<String>, Wrong> {
    const LIST: Wrong = Wrong("a list of strings");
    let list = value.as_array().ok_or(LIST)?;
    list.iter().map(|item| text(item.get_ref()).map_err(|_| LIST)).collect()
}

fn number(value: &DeValue<'_>) -> Result<u64, Wrong> {
    let number = value.as_integer().and_then(|number| u64::from_str_radix(number.as_str(), number.radix()).ok());
    number.ok_or(Wrong("a whole number from 0 up"))
}

fn switch(value: &DeValue<'_>) -> Result<bool, Wrong> {
    value.as_bool().ok_or(Wrong("true or false"))
}

fn text(value: &DeValue<'_>) -> Result<String, Wrong> {
    value.as_str().map(str::to_owned).ok_or(Wrong("a string"))
}

#[cfg(test)]
mod tests {
    use super::read;
    use crate::config::KEYS;
    use std::path::Path;

    fn error(text: &str) -> String {
        read(Path::new("/x"), text).unwrap_err().to_string()
    }

    #[test]
    fn every_key_is_read_and_names_what_it_takes() {
        for key in KEYS {
            let text = error(&format!("# first\n\n{key} = {{ a = 1 }}\n"));
            assert!(text.starts_with(&format!("/x: line 3: {key} takes ")), "{text}");
            assert!(text.ends_with("not this table") && !text.contains("no value"), "{text}");
            let taken = ["\"a\"", "7", "true", "[\"a\", \"b\"]"].map(|value| format!("{key} = {value}"));
            let (read, refused): (Vec<_>, Vec<_>) = taken.iter().partition(|text| read(Path::new("/x"), text).is_ok());
            assert_eq!((read.len(), refused.len()), (1, 3), "{key}");
            let written = serde_json::to_string(&super::read(Path::new("/x"), read[0]).unwrap()).unwrap();
            let value = read[0].split_once(" = ").unwrap().1.replace(", ", ",");
            assert!(written.contains(&format!("\"{key}\":{value}")), "{written}");
        }
    }

    #[test]
    fn values_of_the_wrong_type_say_what_is_taken() {
        assert_eq!(error("wait = -1"), "/x: line 1: wait takes a whole number from 0 up, not this integer");
        assert_eq!(error("wait = 1.5"), "/x: line 1: wait takes a whole number from 0 up, not this float");
        assert_eq!(error("\nwait = \"30\""), "/x: line 2: wait takes a whole number from 0 up, not this string");
        assert_eq!(error("allow_kind = [\"/A\", 1]"), "/x: line 1: allow_kind takes a list of strings, not this array");
        assert_eq!(error("endpoint = 1"), "/x: line 1: endpoint takes a string, not this integer");
        assert_eq!(
            error("require_encrypted_secrets = \"yes\""),
            "/x: line 1: require_encrypted_secrets takes true or false, not this string"
        );
        let too_large = error(&format!("wait = {}0", u64::MAX));
        assert_eq!(too_large, "/x: line 1: wait takes a whole number from 0 up, not this integer");
    }

    #[test]
    fn numbers_may_be_written_as_toml_allows() {
        for (text, expected) in [("0x1F", 31), ("1_000", 1_000), ("+5", 5), ("0b11", 3)] {
            assert_eq!(read(Path::new("/x"), &format!("wait = {text}")).unwrap().wait, Some(expected), "{text}");
        }
    }

    #[test]
    fn a_key_that_is_there_twice_is_an_error() {
        assert!(error("wait = 1\nwait = 2").contains("line 2"));
    }
}

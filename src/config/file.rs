//! The configuration file: TOML, taken apart by hand. A reader derived for [`Settings`] has thirty times the size.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::settings::{KEYS, closest};
use super::{ConfigError, Settings};

/// Reads the settings out of the text of the file at `path`.
pub(super) fn read(path: &Path, text: &str) -> Result<Settings, ConfigError> {
    let syntax = |reason: String| ConfigError::Syntax(path.to_owned(), reason);
    let table = DeTable::parse(text).map_err(|error| syntax(error.to_string()))?.into_inner();
    if let Some(key) = table.keys().map(toml::Spanned::get_ref).find(|key| !KEYS.contains(&key.as_ref())) {
        let name: String = key.chars().take(64).collect();
        return Err(ConfigError::UnknownKey(path.to_owned(), name, closest(key, KEYS)));
    }
    let mut settings = Settings::default();
    for (key, value) in &table {
        let key = key.get_ref().as_ref();
        let wrong = match place(&mut settings, key) {
            Some(place) => place.put(value.get_ref()),
            None => Some("no value"),
        };
        if let Some(wrong) = wrong {
            let line = text.as_bytes().iter().take(value.span().start).filter(|byte| **byte == b'\n').count() + 1;
            return Err(syntax(format!("line {line}: {key} takes {wrong}, not this {}", value.get_ref().type_str())));
        }
    }
    Ok(settings)
}

/// Where the value of a key belongs.
fn place<'a>(settings: &'a mut Settings, key: &str) -> Option<Place<'a>> {
    Some(match key {
        "allow_chart" => Place::List(&mut settings.allow_chart),
        "allow_kind" => Place::List(&mut settings.allow_kind),
        "allow_namespace" => Place::List(&mut settings.allow_namespace),
        "allow_operation" => Place::List(&mut settings.allow_operation),
        "allow_plain_http_loopback" => Place::Switch(&mut settings.allow_plain_http_loopback),
        "ca_file" => Place::File(&mut settings.ca_file),
        "client_cert" => Place::File(&mut settings.client_cert),
        "client_key" => Place::File(&mut settings.client_key),
        "cluster_id" => Place::Text(&mut settings.cluster_id),
        "cluster_resource" => Place::Text(&mut settings.cluster_resource),
        "context" => Place::Text(&mut settings.context),
        "directory" => Place::File(&mut settings.directory),
        "display_name" => Place::Text(&mut settings.display_name),
        "endpoint" => Place::Text(&mut settings.endpoint),
        "heartbeat_interval" => Place::Number(&mut settings.heartbeat_interval),
        "journal_size" => Place::Number(&mut settings.journal_size),
        "keyring" => Place::File(&mut settings.keyring),
        "kubeconfig" => Place::File(&mut settings.kubeconfig),
        "log_format" => Place::Text(&mut settings.log_format),
        "log_level" => Place::Text(&mut settings.log_level),
        "metrics" => Place::Text(&mut settings.metrics),
        "monthly_budget" => Place::Number(&mut settings.monthly_budget),
        "mtls" => Place::Switch(&mut settings.mtls),
        "poll_interval" => Place::Number(&mut settings.poll_interval),
        "profile" => Place::Text(&mut settings.profile),
        "proxy" => Place::Text(&mut settings.proxy),
        "ready_timeout" => Place::Number(&mut settings.ready_timeout),
        "require_encrypted_secrets" => Place::Switch(&mut settings.require_encrypted_secrets),
        "signatures" => Place::Text(&mut settings.signatures),
        "state_dir" => Place::File(&mut settings.state_dir),
        "status_file" => Place::File(&mut settings.status_file),
        "succeed_on" => Place::Text(&mut settings.succeed_on),
        "target" => Place::Text(&mut settings.target),
        "token_file" => Place::File(&mut settings.token_file),
        "wait" => Place::Number(&mut settings.wait),
        _ => return None,
    })
}

enum Place<'a> {
    File(&'a mut Option<PathBuf>),
    List(&'a mut Vec<String>),
    Number(&'a mut Option<u64>),
    Switch(&'a mut Option<bool>),
    Text(&'a mut Option<String>),
}

impl Place<'_> {
    /// What is expected, if the value is something else.
    fn put(self, value: &DeValue<'_>) -> Option<&'static str> {
        let (is_there, expected) = match self {
            Self::File(place) => {
                *place = value.as_str().map(PathBuf::from);
                (place.is_some(), "a string")
            }
            Self::List(place) => {
                let list = value.as_array().and_then(|list| {
                    list.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect::<Option<Vec<String>>>()
                });
                let is_there = list.is_some();
                *place = list.unwrap_or_default();
                (is_there, "a list of strings")
            }
            Self::Number(place) => {
                *place =
                    value.as_integer().and_then(|number| u64::from_str_radix(number.as_str(), number.radix()).ok());
                (place.is_some(), "a whole number from 0 up")
            }
            Self::Switch(place) => {
                *place = value.as_bool();
                (place.is_some(), "true or false")
            }
            Self::Text(place) => {
                *place = value.as_str().map(str::to_owned);
                (place.is_some(), "a string")
            }
        };
        (!is_there).then_some(expected)
    }
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

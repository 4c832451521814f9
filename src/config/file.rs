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
        #[cfg(feature = "webhook")]
        "webhook_listen" => Place::Text(&mut settings.webhook_listen),
        _ => return None,
    })
}

/// The keys that are set, with their values as they stand in the file.
pub(super) fn assignments(settings: &mut Settings) -> Vec<(&'static str, String)> {
    // What JSON writes of a text is a text of TOML as well; a path that is no UTF-8 cannot be in the file.
    let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
    let written = |key: &'static str| {
        let value = match place(settings, key)? {
            Place::File(path) => quoted(&path.as_ref()?.to_string_lossy()),
            Place::List(list) if list.is_empty() => return None,
            Place::List(list) => {
                let list: Vec<String> = list.iter().map(|text| quoted(text)).collect();
                ["[", &list.join(", "), "]"].concat()
            }
            Place::Number(number) => (*number)?.to_string(),
            Place::Switch(switch) => (*switch)?.to_string(),
            Place::Text(text) => quoted(text.as_deref()?),
        };
        Some((key, value))
    };
    KEYS.into_iter().filter_map(written).collect()
}

/// The text of a configuration file with these keys set, and everything else as it was: a line that sets the key is
/// changed, one that shows it behind a `#` is opened, and otherwise one comes at the end.
pub(super) fn set(text: &str, assignments: &[(&'static str, String)]) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for (key, value) in assignments {
        let sets = |line: &String, mark: &str| {
            let rest = line.trim_start().strip_prefix(mark).and_then(|line| line.strip_prefix(key));
            rest.is_some_and(|rest| rest.trim_start().starts_with('='))
        };
        let line = [key, " = ", value].concat();
        match lines.iter().position(|line| sets(line, "")).or_else(|| lines.iter().position(|line| sets(line, "#"))) {
            Some(at) => lines.splice(at..=at, [line]).for_each(drop),
            None => lines.push(line),
        }
    }
    lines.push(String::new());
    lines.join("\n")
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
    fn a_key_is_set_where_it_stands_or_is_shown_and_else_at_the_end() {
        let file = "# The file.\n\nwait = 5 # short\n#  endpoint = \"x\"\n#endpoint = \"x\"\nwaiter\n";
        let set = super::set(file, &[("endpoint", "\"a\"".into()), ("wait", "7".into()), ("mtls", "true".into())]);
        assert_eq!(set, "# The file.\n\nwait = 7\n#  endpoint = \"x\"\nendpoint = \"a\"\nwaiter\nmtls = true\n");
        assert_eq!(super::set("", &[("mtls", "true".into())]), "mtls = true\n");
    }

    #[test]
    fn what_the_file_of_a_package_shows_is_opened_in_its_place() {
        let shipped = include_str!("../../cross/pullet.toml");
        let mut wanted =
            read(Path::new("/x"), "endpoint = \"https://a\"\nwait = 7\nallow_chart = [\"https://c\"]").unwrap();
        let wanted = super::assignments(&mut wanted);
        let set = super::set(shipped, &wanted);
        assert_eq!(set.lines().count(), shipped.lines().count());
        assert_eq!(set.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).count(), 3);
        assert_eq!(super::assignments(&mut read(Path::new("/x"), &set).unwrap()), wanted);
    }

    #[test]
    fn what_is_written_of_settings_is_read_as_the_same() {
        let text = "allow_kind = [\"/A\", \"b\\\"\\\\/C\"]\ndisplay_name = \"ä\\n\"\nstate_dir = \"/s\"\nmtls = false\nwait = 5\n";
        let mut settings = read(Path::new("/x"), text).unwrap();
        let written = super::assignments(&mut settings);
        assert_eq!(written.len(), 5);
        let mut again = read(Path::new("/x"), &super::set("", &written)).unwrap();
        assert_eq!(super::assignments(&mut again), written);
        assert_eq!(again.display_name.as_deref(), Some("ä\n"));
    }

    #[test]
    fn a_key_that_is_there_twice_is_an_error() {
        assert!(error("wait = 1\nwait = 2").contains("line 2"));
    }
}

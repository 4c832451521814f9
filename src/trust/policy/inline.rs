//! Secret material in `spec.values.inline`.
//!
//! Values are open: any map, any depth, a quarter of a megabyte. They are walked as they are read, so that what is held
//! is the path to where the walk is; a tree would cost ninety times the text.

use std::fmt::{self, Write as _};

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::Refusal;
use crate::limits;

/// Where the walk begins.
const ROOT: &str = "spec.values.inline";

/// What stands for a secret that comes from elsewhere.
const PLACEHOLDERS: [&str; 2] = ["<set via externalSecret>", "<set via external-secret>"];

/// Keys that are secret by their whole name, without case, dashes and underscores.
pub(super) const SECRET_KEYS: [&str; 4] = ["accesskey", "secretkey", "apikey", "token"];

/// A secret in base64 has this many characters at the least: 30 bytes.
const BASE64_LENGTH: usize = 40;

/// That there is no secret material in the values.
///
/// # Errors
/// Where the first one is, or that the values cannot be read to their end.
pub(super) fn check(values: &RawValue) -> Result<(), Refusal> {
    let mut walk = Walk { path: ROOT.to_owned(), has_found: false };
    let mut deserializer = serde_json::Deserializer::from_str(values.get());
    let value = Value { walk: &mut walk, under: Under::Anything };
    match value.deserialize(&mut deserializer) {
        Ok(_) => Ok(()),
        Err(_) if walk.has_found => Err(Refusal::InlineSecret(shorten(walk.path))),
        Err(_) => Err(Refusal::Unreadable(ROOT)),
    }
}

/// Where the walk is; where it stopped once something was found.
struct Walk {
    path: String,
    has_found: bool,
}

impl Walk {
    fn found<E: de::Error>(&mut self) -> E {
        self.has_found = true;
        E::custom("secret material")
    }
}

/// What the key says of the texts below it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Under {
    /// Nothing.
    Anything,
    /// They are names of a Secret.
    NameOfSecret,
    /// They are secret.
    Secret,
}

impl Under {
    fn key(key: &str) -> Self {
        // Helm values and variables write the same word as apiKey, api-key and API_KEY.
        let word: String =
            key.trim().chars().filter(|c| !matches!(c, '-' | '_')).flat_map(char::to_lowercase).collect();
        if word.ends_with("secret") && (word.starts_with("existing") || word.ends_with("pullsecret")) {
            Self::NameOfSecret
        } else if word.ends_with("password") || word.ends_with("secret") || SECRET_KEYS.contains(&word.as_str()) {
            Self::Secret
        } else {
            Self::Anything
        }
    }
}

/// What a value turned out to be, for the object it is in.
#[derive(Default)]
struct Seen {
    /// A text that as a key would be a secret one.
    is_secret_key: bool,
    /// A text that is neither empty nor a placeholder, or a list with one.
    has_text: bool,
}

struct Value<'w> {
    walk: &'w mut Walk,
    under: Under,
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = Seen;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Seen, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = Seen;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Seen, E> {
        let has_text = !text.is_empty() && !PLACEHOLDERS.iter().any(|known| text.eq_ignore_ascii_case(known));
        let is_secret = is_private_key(text)
            || match self.under {
                Under::Anything => false,
                Under::NameOfSecret => is_base64(text) && !is_name(text),
                Under::Secret => has_text,
            };
        if is_secret {
            return Err(self.walk.found());
        }
        Ok(Seen { is_secret_key: Under::key(text) == Under::Secret, has_text })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Seen, A::Error> {
        let end = self.walk.path.len();
        let (mut is_secret_key, mut has_text) = (false, false);
        while let Some(key) = map.next_key::<String>()? {
            if is_private_key(&key) {
                return Err(self.walk.found());
            }
            self.walk.path.push('.');
            self.walk.path.push_str(&key);
            let seen = map.next_value_seed(Value { walk: self.walk, under: Under::key(&key) })?;
            self.walk.path.truncate(end);
            // In whatever order, and however often.
            is_secret_key |= key.eq_ignore_ascii_case("name") && seen.is_secret_key;
            has_text |= key.eq_ignore_ascii_case("value") && seen.has_text;
        }
        if is_secret_key && has_text {
            self.walk.path.push_str(".value");
            return Err(self.walk.found());
        }
        Ok(Seen::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Seen, A::Error> {
        let end = self.walk.path.len();
        let mut has_text = false;
        for at in 0_usize.. {
            // Writing to a string does not fail.
            let _ = write!(self.walk.path, "[{at}]");
            let Some(seen) = items.next_element_seed(Value { walk: self.walk, under: self.under })? else { break };
            self.walk.path.truncate(end);
            has_text |= seen.has_text;
        }
        self.walk.path.truncate(end);
        Ok(Seen { is_secret_key: false, has_text })
    }

    fn visit_bool<E>(self, _: bool) -> Result<Seen, E> {
        Ok(Seen::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Seen, E> {
        Ok(Seen::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Seen, E> {
        Ok(Seen::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Seen, E> {
        Ok(Seen::default())
    }

    fn visit_unit<E>(self) -> Result<Seen, E> {
        Ok(Seen::default())
    }
}

/// A PEM block of a private key of any sort, whatever stands around it.
fn is_private_key(text: &str) -> bool {
    const BEGIN: &[u8] = b"-----BEGIN ";
    const KEY: &[u8] = b"PRIVATE KEY";
    let is_at = |bytes: &[u8], word: &[u8]| bytes.len() == word.len() && bytes.eq_ignore_ascii_case(word);
    let bytes = text.as_bytes();
    let mut begins = bytes.windows(BEGIN.len()).enumerate().filter(|(_, window)| is_at(window, BEGIN));
    begins.any(|(at, _)| {
        // "ENCRYPTED", "OPENSSH" and the like stand between.
        let label = bytes.iter().skip(at).skip(BEGIN.len()).copied().take(limits::PEM_LABEL_BYTES);
        let label: Vec<u8> = label.collect();
        label.windows(KEY.len()).any(|window| is_at(window, KEY))
    })
}

/// In either alphabet, padded or not.
fn is_base64(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'=');
    text.len() >= BASE64_LENGTH && text.bytes().all(is_inner)
}

/// What a Secret may be called.
fn is_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'))
}

fn shorten(mut path: String) -> String {
    if let Some((end, _)) = path.char_indices().nth(limits::POLICY_PATH_CHARS) {
        path.truncate(end);
        path.push('…');
    }
    path
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::{Refusal, check};
    use crate::limits;

    fn found(text: &str) -> Option<String> {
        match check(&RawValue::from_string(text.to_owned()).unwrap()) {
            Ok(()) => None,
            Err(Refusal::InlineSecret(path)) => Some(path),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_path_says_where_and_is_no_longer_than_a_line() {
        let nested = r#"{"a":{"b":[1,{"c":[["x",{"Password":"geheim"}]]}]}}"#;
        assert_eq!(found(nested).unwrap(), "spec.values.inline.a.b[1].c[0][1].Password");
        let long = format!(r#"{{"{}":{{"token":"x"}}}}"#, "ä".repeat(10_000));
        let path = found(&long).unwrap();
        assert_eq!(path.chars().count(), limits::POLICY_PATH_CHARS + 1);
        assert!(path.ends_with('…'));
        let exact = format!(r#"{{"{}":{{"token":"x"}}}}"#, "a".repeat(limits::POLICY_PATH_CHARS - 25));
        assert_eq!(found(&exact).unwrap().len(), limits::POLICY_PATH_CHARS);
    }

    #[test]
    fn a_path_is_left_behind_when_nothing_was_found_on_it() {
        assert_eq!(found(r#"{"a":{"b":[{"c":1}]},"d":[],"token":"x"}"#).unwrap(), "spec.values.inline.token");
    }

    #[test]
    fn values_as_large_as_a_job_may_be_are_walked() {
        let wide = format!("{{{}\"token\":\"x\"}}", "\"a\":[{\"b\":null}],".repeat(15_000));
        assert!(wide.len() > limits::JOB_BYTES - 10_000);
        assert_eq!(found(&wide).unwrap(), "spec.values.inline.token");
        let begins = format!("{{\"a\":\"{}\"}}", "-----BEGIN ".repeat(20_000));
        assert_eq!(found(&begins), None);
    }

    #[test]
    fn what_cannot_be_read_to_its_end_is_not_let_through() {
        for text in [r#"{"a":"\ud800"}"#, r#"{"a":1e999}"#] {
            let raw = RawValue::from_string(text.to_owned()).unwrap();
            assert_eq!(check(&raw), Err(Refusal::Unreadable("spec.values.inline")), "{text}");
        }
        let deep = format!("{}{}", "[".repeat(127), "]".repeat(127));
        assert!(check(&RawValue::from_string(deep).unwrap()).is_ok());
    }
}

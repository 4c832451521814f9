//! A JSON object of known members: headers, keys, keyrings. Whoever reads one takes each member by its name and then
//! says that there are no others.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// No object that is read this way has more members than this: a header of a job has 14.
const MEMBERS: usize = 16;

/// Characters of an unknown name that are repeated to a person.
const NAME_CHARS: usize = 32;

/// Why an object is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberError {
    /// A name stands twice.
    Duplicate,
    /// It is no JSON object.
    Malformed,
    /// A member is not there.
    Missing(&'static str),
    /// A member that must not be there.
    Unknown(String),
    /// A member has a value that it cannot have.
    Wrong(&'static str),
}

impl fmt::Display for MemberError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate => f.write_str("a member stands twice"),
            Self::Malformed => f.write_str("it is no JSON object"),
            Self::Missing(name) => write!(f, "the member {name} is missing"),
            Self::Unknown(name) => write!(f, "it has a member {name:?}, which it must not have"),
            Self::Wrong(name) => write!(f, "the member {name} has a value that it cannot have"),
        }
    }
}

impl std::error::Error for MemberError {}

/// The members of an object that were not taken yet.
pub(super) struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// Why an object could not be collected; `serde` has no room for an error of ours.
enum Collected<'a> {
    Members(Vec<(Cow<'a, str>, &'a RawValue)>),
    Refused(MemberError),
}

impl<'a> Members<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, MemberError> {
        match serde_json::from_str::<Collected<'a>>(text) {
            Ok(Collected::Members(members)) => Ok(Self(members)),
            Ok(Collected::Refused(error)) => Err(error),
            Err(_) => Err(MemberError::Malformed),
        }
    }

    /// The value of a member as it stands in the text.
    pub(super) fn take(&mut self, name: &'static str) -> Option<&'a str> {
        let at = self.0.iter().position(|(found, _)| found == name)?;
        Some(self.0.swap_remove(at).1.get())
    }

    /// A member of a type that `serde` reads.
    pub(super) fn optional<T: Deserialize<'a>>(&mut self, name: &'static str) -> Result<Option<T>, MemberError> {
        let Some(text) = self.take(name) else { return Ok(None) };
        serde_json::from_str(text).map(Some).map_err(|_| MemberError::Wrong(name))
    }

    /// The same, and it must be there.
    pub(super) fn required<T: Deserialize<'a>>(&mut self, name: &'static str) -> Result<T, MemberError> {
        self.optional(name)?.ok_or(MemberError::Missing(name))
    }

    /// A text that must be there.
    pub(super) fn text(&mut self, name: &'static str) -> Result<Cow<'a, str>, MemberError> {
        self.required::<Text<'a>>(name).map(|text| text.0)
    }

    /// A text that may be missing.
    pub(super) fn optional_text(&mut self, name: &'static str) -> Result<Option<Cow<'a, str>>, MemberError> {
        Ok(self.optional::<Text<'a>>(name)?.map(|text| text.0))
    }

    /// A text that must be there and can only be this.
    pub(super) fn exactly(&mut self, name: &'static str, expected: &str) -> Result<(), MemberError> {
        if self.text(name)? == expected { Ok(()) } else { Err(MemberError::Wrong(name)) }
    }

    /// Says that all members are taken.
    pub(super) fn end(self) -> Result<(), MemberError> {
        match self.0.into_iter().next() {
            Some((name, _)) => Err(MemberError::Unknown(name.chars().take(NAME_CHARS).collect())),
            None => Ok(()),
        }
    }
}

/// A text, borrowed unless it has escapes; `Cow` alone always copies.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Collected<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collector;

        impl<'de> Visitor<'de> for Collector {
            type Value = Collected<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::new();
                let mut refused = None;
                while let Some((Text(name), value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
                    if members.iter().any(|(known, _)| *known == name) {
                        refused = Some(MemberError::Duplicate);
                    } else if members.len() < MEMBERS {
                        members.push((name, value));
                    } else {
                        let name = name.chars().take(NAME_CHARS).collect();
                        refused.get_or_insert(MemberError::Unknown(name));
                    }
                }
                Ok(refused.map_or(Collected::Members(members), Collected::Refused))
            }
        }

        deserializer.deserialize_map(Collector)
    }
}

#[cfg(test)]
mod tests {
    use super::{MemberError, Members};

    #[test]
    fn takes_what_is_there_and_nothing_else() {
        let mut members = Members::parse(r#"{"a":"x\u0041","b":7,"c":{"d":[1]}}"#).unwrap();
        assert_eq!(members.text("a").unwrap(), "xA");
        assert_eq!(members.required::<u64>("b"), Ok(7));
        assert_eq!(members.text("e"), Err(MemberError::Missing("e")));
        assert_eq!(members.optional::<u64>("e"), Ok(None));
        assert_eq!(members.optional::<u64>("c"), Err(MemberError::Wrong("c")));
        assert_eq!(members.end(), Ok(()));
        assert_eq!(Members::parse(r#"{"zip":1}"#).unwrap().end(), Err(MemberError::Unknown("zip".into())));
    }

    #[test]
    fn duplicates_and_crowds_are_refused() {
        let error = |text: &str| Members::parse(text).err();
        assert_eq!(error(r#"{"a":1,"\u0061":1}"#), Some(MemberError::Duplicate));
        assert_eq!(error("[]"), Some(MemberError::Malformed));
        assert_eq!(error(r#"{"a":1}x"#), Some(MemberError::Malformed));
        assert_eq!(error(r#"{"a":"#), Some(MemberError::Malformed));
        let many = |count: usize| {
            let members: Vec<String> = (0..count).map(|n| format!("\"{n}\":{n}")).collect();
            format!("{{{}}}", members.join(","))
        };
        assert_eq!(error(&many(16)), None);
        assert_eq!(error(&many(17)), Some(MemberError::Unknown("16".into())));
        let long = format!("{{\"{}\":1}}", "n".repeat(1000));
        assert_eq!(Members::parse(&long).unwrap().end(), Err(MemberError::Unknown("n".repeat(32))));
    }

    #[test]
    fn null_is_no_number_and_no_text() {
        let mut members = Members::parse(r#"{"a":null,"b":null,"c":1.0,"d":-1}"#).unwrap();
        assert_eq!(members.optional_text("a"), Err(MemberError::Wrong("a")));
        assert_eq!(members.optional::<u64>("b"), Err(MemberError::Wrong("b")));
        assert_eq!(members.optional::<u64>("c"), Err(MemberError::Wrong("c")));
        assert_eq!(members.optional::<u64>("d"), Err(MemberError::Wrong("d")));
    }
}

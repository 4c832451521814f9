//! Reading what an API server sends, without a tree and within bounds.
//!
//! An array is kept as the text it is and walked element by element: `[{},{},…]` of 2 MiB would be
//! 100 MB of structs.

use std::borrow::Cow;
use std::fmt;
use std::ops::ControlFlow;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A text, borrowed where it has no escapes; `null` and what is no text is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);

        let raw = <&RawValue>::deserialize(deserializer)?;
        Ok(serde_json::from_str(raw.get()).map(|Borrowed(text)| Self(text)).unwrap_or_default())
    }
}

impl Text<'_> {
    /// At most so many bytes of it, cut at a character.
    pub(super) fn cut(&self, bytes: usize) -> String {
        let text = &self.0;
        text.get(..text.floor_char_boundary(bytes)).unwrap_or_default().to_owned()
    }
}

/// An array, or whatever stands in its place.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Items<'a>(#[serde(borrow)] pub(super) &'a RawValue);

impl<'a> Items<'a> {
    /// Hands each element over. An element that is not what is expected is skipped: one careless author
    /// must not hide the others. What is no array has no elements.
    pub(super) fn each<T: Deserialize<'a>>(self, take: impl FnMut(T) -> ControlFlow<()>) {
        let mut deserializer = serde_json::Deserializer::from_str(self.0.get());
        // The error is the early end, or text that was parsed before and so is none.
        let _ = deserializer.deserialize_any(Each(take, std::marker::PhantomData));
    }

    /// The first so many elements.
    pub(super) fn first<T: Deserialize<'a>>(self, count: usize) -> Vec<T> {
        let mut all = Vec::new();
        self.each(|item| {
            if all.len() == count {
                return ControlFlow::Break(());
            }
            all.push(item);
            ControlFlow::Continue(())
        });
        all
    }
}

struct Each<F, T>(F, std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>, F: FnMut(T) -> ControlFlow<()>> Visitor<'de> for Each<F, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element::<&RawValue>()? {
            if let Ok(item) = serde_json::from_str(item.get())
                && (self.0)(item).is_break()
            {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                break;
            }
        }
        Ok(())
    }
}

/// The members of an object; what is no object has none.
pub(super) fn members<'a>(text: &'a RawValue, take: impl FnMut(&str, &'a RawValue) -> ControlFlow<()>) {
    struct Members<F>(F);

    impl<'de, F: FnMut(&str, &'de RawValue) -> ControlFlow<()>> Visitor<'de> for Members<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
            while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                if (self.0)(&name, map.next_value()?).is_break() {
                    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                    break;
                }
            }
            Ok(())
        }
    }

    let mut deserializer = serde_json::Deserializer::from_str(text.get());
    let _ = deserializer.deserialize_any(Members(take));
}

/// The member at the end of a path of names, if it is there.
pub(super) fn member<'a>(text: &'a RawValue, path: &[&str]) -> Option<&'a RawValue> {
    let mut here = text;
    for wanted in path {
        let mut found = None;
        members(here, |name, value| {
            if name != *wanted {
                return ControlFlow::Continue(());
            }
            found = Some(value);
            ControlFlow::Break(())
        });
        here = found?;
    }
    Some(here)
}

/// The text there; empty where there is none.
pub(super) fn text_at<'a>(text: &'a RawValue, path: &[&str]) -> Cow<'a, str> {
    let found = member(text, path).and_then(|value| serde_json::from_str::<Text<'a>>(value.get()).ok());
    found.unwrap_or_default().0
}

#[cfg(test)]
mod tests {
    use super::{Items, Text, member, members, text_at};
    use serde::Deserialize;
    use serde_json::value::RawValue;
    use std::ops::ControlFlow;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn elements_are_taken_one_by_one_and_strange_ones_skipped() {
        let text = raw(r#"[1,"x",2,{"a":[3]},3]"#);
        assert_eq!(Items(&text).first::<u8>(9), [1, 2, 3]);
        assert_eq!(Items(&text).first::<u8>(1), [1]);
        for nothing in ["null", "{}", "7"] {
            assert!(Items(&raw(nothing)).first::<u8>(9).is_empty(), "{nothing}");
        }
    }

    #[test]
    fn members_are_walked_until_enough() {
        let text = raw(r#"{"a":1,"b":{"c":2},"d":3}"#);
        let mut seen = Vec::new();
        members(&text, |name, value| {
            seen.push((name.to_owned(), value.get().to_owned()));
            if name == "b" { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!(seen, [("a".to_owned(), "1".to_owned()), ("b".to_owned(), r#"{"c":2}"#.to_owned())]);
    }

    #[test]
    fn a_member_is_found_by_its_path_and_what_is_no_text_is_empty() {
        let text = raw(r#"{"a":1,"b":{"c":"x","d":[]},"b2":null}"#);
        assert_eq!(text_at(&text, &["b", "c"]), "x");
        for nothing in [&["a"][..], &["b"], &["b", "d"], &["b2"], &["b2", "c"], &["z"], &["b", "c", "e"]] {
            assert_eq!(text_at(&text, nothing), "", "{nothing:?}");
        }
        assert_eq!(member(&text, &["b", "d"]).unwrap().get(), "[]");
        assert_eq!(member(&text, &[]).unwrap().get(), text.get());
    }

    #[test]
    fn a_text_is_cut_at_a_character_and_null_is_empty() {
        #[derive(Deserialize)]
        struct Holder<'a> {
            #[serde(borrow)]
            text: Text<'a>,
        }
        let holder: Holder<'_> = serde_json::from_str(r#"{"text":"a\u00e4b"}"#).unwrap();
        assert_eq!(holder.text.cut(2), "a");
        assert_eq!(holder.text.cut(3), "aä");
        let holder: Holder<'_> = serde_json::from_str(r#"{"text":null}"#).unwrap();
        assert_eq!(holder.text.cut(9), "");
    }
}

#![cfg(test)]

use std::cmp::Ordering;

use proptest::prelude::*;

use super::{CanonicalError, Caps, append, canonical};

fn form(text: &str) -> Result<String, CanonicalError> {
    canonical(text.as_bytes(), Caps::JOB).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
}

#[test]
fn numbers_are_doubles() {
    for (text, expected) in [
        ("-0", "0"),
        ("-0.0e9", "0"),
        ("1.0", "1"),
        ("1E30", "1e+30"),
        ("4.50", "4.5"),
        ("2e-3", "0.002"),
        ("123456789012345.6", "123456789012345.6"),
        ("9007199254740991", "9007199254740991"),
        ("-9.007199254740991e15", "-9007199254740991"),
        ("1e-400", "0"),
    ] {
        assert_eq!(form(text).unwrap(), expected, "{text}");
    }
}

#[test]
fn integers_that_a_double_cannot_tell_apart_are_refused() {
    for text in [
        "9007199254740992",
        "-9007199254740992",
        "9007199254740993.0",
        "1e16",
        "1e20",
        "1000000000000000000000000",
        &"9".repeat(1000),
    ] {
        assert_eq!(form(text), Err(CanonicalError::Integer), "{text}");
    }
    assert_eq!(form("1e400"), Err(CanonicalError::Number));
    assert_eq!(form("-1.5e309"), Err(CanonicalError::Number));
}

#[test]
fn members_are_in_the_order_of_utf_16() {
    // RFC 8785, section 3.2.3: the name above the surrogates comes last, although its code point is the smaller.
    let text = "{\"\\u20ac\":1,\"\\r\":2,\"\u{fb33}\":3,\"1\":4,\"\u{1f600}\":5,\"\\u0080\":6,\"\u{f6}\":7}";
    let expected = "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"\u{f6}\":7,\"\u{20ac}\":1,\"\u{1f600}\":5,\"\u{fb33}\":3}";
    assert_eq!(form(text).unwrap(), expected);
    assert_eq!(form(r#"{"b":{"z":1,"a":[{"y":1,"x":2}]},"a":2,"aa":3}"#).unwrap(), {
        r#"{"a":2,"aa":3,"b":{"a":[{"x":2,"y":1}],"z":1}}"#
    });
    assert_eq!(form(r#"{"ab":1,"a":2,"":3,"a\"":4,"a!":5,"\u0000":6}"#).unwrap(), {
        r#"{"":3,"\u0000":6,"a":2,"a!":5,"a\"":4,"ab":1}"#
    });
}

#[test]
fn a_name_that_stands_twice_is_refused_in_any_spelling() {
    for text in [
        r#"{"a":1,"a":1}"#,
        r#"{"a":1,"\u0061":2}"#,
        r#"{"a":1,"b":2,"c":3,"a":4}"#,
        r#"[{"x":{"\n":1,"\u000A":2}}]"#,
        "{\"\u{1f600}\":1,\"\\ud83d\\ude00\":2}",
        r#"{"/":1,"\/":2}"#,
    ] {
        assert_eq!(form(text), Err(CanonicalError::DuplicateMember), "{text}");
    }
    assert!(form(r#"{"a":{"a":1},"b":{"a":2}}"#).is_ok());
}

#[test]
fn strings_are_escaped_where_they_must_be_and_nowhere_else() {
    assert_eq!(
        form(r#""\u0000\u001F\b\t\n\f\r\"\\\/\u007f\u00e9\ud83d\ude00<>&\u2028""#).unwrap(),
        "\"\\u0000\\u001f\\b\\t\\n\\f\\r\\\"\\\\/\u{7f}\u{e9}\u{1f600}<>&\u{2028}\""
    );
    for text in [r#""\ud83d""#, r#""\ude00""#, r#""\ud83dx""#, r#""\ud83d\n""#, r#""\ud83d\u0041""#, r#"{"\ud83d":1}"#]
    {
        assert_eq!(form(text), Err(CanonicalError::LoneSurrogate), "{text}");
    }
}

#[test]
fn what_is_no_json_is_refused() {
    for (text, at) in [
        ("", 0),
        (" ", 1),
        ("{", 1),
        ("{\"a\"", 4),
        ("{\"a\":", 5),
        ("{\"a\":1,}", 7),
        ("{a:1}", 1),
        ("[1,]", 3),
        ("[1 2]", 3),
        ("\"a", 2),
        ("\"\n\"", 1),
        ("\"\\x\"", 2),
        ("\"\\u12g4\"", 5),
        ("\"\\u+123\"", 3),
        ("-", 1),
        ("+1", 0),
        ("1.", 2),
        ("1e", 2),
        ("1e+", 3),
        (".5", 0),
        ("NaN", 0),
        ("-Infinity", 1),
        ("nul", 3),
        ("True", 0),
        ("'a'", 0),
        ("\u{feff}1", 0),
        ("/**/1", 0),
    ] {
        assert_eq!(form(text), Err(CanonicalError::Malformed(at)), "{text}");
    }
    for (text, at) in [("1 2", 2), ("01", 1), ("{}{}", 2), ("null,", 4), ("1\0", 1)] {
        assert_eq!(form(text), Err(CanonicalError::Trailing(at)), "{text}");
    }
    for bytes in [&b"\"\xff\""[..], b"\"\xed\xa0\xbd\"", b"\"\xc0\xaf\"", b"\"\xe2\x82"] {
        assert_eq!(canonical(bytes, Caps::JOB), Err(CanonicalError::Encoding));
    }
}

#[test]
fn one_byte_one_node_one_level_too_many() {
    let caps = Caps { bytes: 16, depth: 3, nodes: 5 };
    let try_text = |text: &str| canonical(text.as_bytes(), caps).map(|_| ());
    assert_eq!(try_text("\"12345678901234\""), Ok(()));
    assert_eq!(try_text("\"123456789012345\""), Err(CanonicalError::Bytes));
    assert_eq!(try_text("1e15            "), Ok(()));
    // The form has a byte more than the text may have.
    assert_eq!(try_text("-1e15"), Err(CanonicalError::Bytes));
    assert_eq!(try_text("[[[1]]]"), Ok(()));
    assert_eq!(try_text("[[[[]]]]"), Err(CanonicalError::Depth));
    assert_eq!(try_text("{\"a\":{\"a\":[]}}"), Ok(()));
    assert_eq!(try_text("[[{\"a\":[]}]]"), Err(CanonicalError::Depth));
    assert_eq!(try_text("[1,2,3,4]"), Ok(()));
    assert_eq!(try_text("[1,2,3,4,5]"), Err(CanonicalError::Nodes));
}

#[test]
fn the_costliest_texts_stay_within_the_room_that_was_made() {
    let list = |item: &str| format!("[{}]", vec![item; limits_of(item)].join(","));
    for item in ["[]", "[[]]", r#"{"a":1}"#, r#"{"b":1,"a":2}"#, "1e15", "{}"] {
        let text = list(item);
        let mut out = Vec::new();
        append(text.as_bytes(), Caps::JOB, &mut out).unwrap();
        assert!(out.capacity() <= Caps::JOB.bytes, "{item}");
    }
    let deep = "[".repeat(200_000);
    assert_eq!(form(&deep), Err(CanonicalError::Depth));
}

fn limits_of(item: &str) -> usize {
    let nodes = item.matches(['[', '{', '1', '2']).count().max(1);
    (Caps::JOB.nodes - 1) / nodes
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let number = any::<f64>().prop_filter_map("finite", serde_json::Number::from_f64);
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i32>().prop_map(Into::into),
        number.prop_map(serde_json::Value::Number),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            proptest::collection::hash_map(any::<String>(), inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

/// The reader of the tests takes a double's last digit lightly.
fn alike(a: &serde_json::Value, b: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Number, Object};
    match (a, b) {
        (Number(a), Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            // The reader here is not exact: it may be off by a step, which is all there is of the smallest numbers.
            (a - b).abs() <= a.abs() * 1e-15 + 2.0 * f64::from_bits(1)
        }
        (Array(a), Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
        (Object(a), Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| alike(a, b)))
        }
        _ => a == b,
    }
}

proptest! {
    #[test]
    fn every_double_comes_back_to_the_last_bit(number in any::<f64>()) {
        let text = format!("{number:e}");
        match form(&text) {
            Ok(once) => prop_assert_eq!(once.parse::<f64>().unwrap().total_cmp(&(number + 0.0)), Ordering::Equal),
            Err(error) => prop_assert!(error == CanonicalError::Integer && number.abs() > super::INTEGER_MAX),
        }
    }

    #[test]
    fn the_form_means_the_same_and_is_its_own_form(value in json()) {
        let text = serde_json::to_string_pretty(&value).unwrap();
        match form(&text) {
            Ok(once) => {
                prop_assert_eq!(form(&once).unwrap(), once.clone());
                prop_assert!(alike(&value, &serde_json::from_str(&once).unwrap()), "{}", once);
            }
            Err(error) => prop_assert_eq!(error, CanonicalError::Integer),
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>) {
        let _ = canonical(&bytes, Caps { bytes: 64, depth: 4, nodes: 8 });
    }
}

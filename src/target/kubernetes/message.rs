//! What a person is told about a refusal, without the payload.
//!
//! An API server quotes the values that it refuses. A value may be a secret, so quoted texts, objects and
//! whatever follows `Invalid value:` are left out; field paths and reasons stay.

use std::iter::Peekable;
use std::str::Chars;

use super::api::Refusal;
use crate::limits;

/// A sentence for a refused object: each field with what is wrong about it, or the message as a whole.
pub(super) fn of(refusal: &Refusal) -> String {
    let fields: Vec<String> = refusal
        .causes
        .iter()
        .filter(|cause| !cause.field.is_empty())
        .map(|cause| format!("{}: {}", cause.field, redacted(&cause.message)))
        .collect();
    match (fields.is_empty(), refusal.message.is_empty()) {
        (false, _) => bounded(&fields.join("; ")),
        (true, false) => bounded(&redacted(&refusal.message)),
        (true, true) => format!("the API server answered {} without a reason", refusal.code),
    }
}

/// A sentence for a 403: RBAC's own words, which name the account, the verb and the resource and have seen no
/// payload, or those of an admission without the values that it quotes.
pub(super) fn of_forbidden(refusal: &Refusal) -> String {
    if is_rbac(&refusal.message) { bounded(&refusal.message) } else { of(refusal) }
}

/// Whether a message is `RESOURCE "NAME" is forbidden: User "WHO" cannot …`, or the same without a name, or
/// without a resource at its head. Nothing else may stand before it: an admission's words could hold the same.
fn is_rbac(message: &str) -> bool {
    const SUBJECT: &str = "forbidden: User \"";
    let is_word = |word: &str| !word.is_empty() && !word.contains([' ', '"']);
    let Some((head, rest)) = message.split_once(SUBJECT) else { return false };
    let is_head = head.is_empty()
        || head.strip_suffix(" is ").is_some_and(|about| match about.split_once(' ') {
            None => is_word(about),
            Some((resource, name)) => {
                let name = name.strip_prefix('"').and_then(|name| name.strip_suffix('"'));
                is_word(resource) && name.is_some_and(is_word)
            }
        });
    is_head && rest.split_once('"').is_some_and(|(user, rest)| !user.is_empty() && rest.starts_with(" cannot "))
}

/// At most [`limits::REFUSAL_CHARS`] of a message.
fn bounded(message: &str) -> String {
    match message.char_indices().nth(limits::REFUSAL_CHARS) {
        Some((end, _)) => format!("{}…", message.get(..end).unwrap_or_default()),
        None => message.to_owned(),
    }
}

const VALUE: &str = "Invalid value: ";

fn redacted(message: &str) -> String {
    let mut out = String::new();
    let mut rest = message;
    while let Some((before, after)) = rest.split_once(VALUE) {
        hide(before, &mut out);
        out.push_str(VALUE);
        out.push('…');
        // A quoted value may hold the separator itself.
        let end = value_end(after);
        rest = after.get(end..).unwrap_or_default();
    }
    hide(rest, &mut out);
    out
}

/// Where a value ends: at the first `: ` outside of quotes and brackets.
fn value_end(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut quoted = false;
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            ':' if depth == 0 && text.get(at + 1..).is_some_and(|rest| rest.starts_with(' ')) => return at,
            _ => {}
        }
    }
    text.len()
}

/// Copies a text without its quoted parts and without what stands in braces.
fn hide(text: &str, out: &mut String) {
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                skip_quoted(&mut characters);
                out.push_str("\"…\"");
            }
            '{' => {
                skip_braces(&mut characters);
                out.push_str("{…}");
            }
            other => out.push(other),
        }
    }
}

fn skip_quoted(characters: &mut Peekable<Chars<'_>>) {
    while let Some(character) = characters.next() {
        match character {
            '\\' => drop(characters.next()),
            '"' => return,
            _ => {}
        }
    }
}

fn skip_braces(characters: &mut Peekable<Chars<'_>>) {
    let mut depth = 1_usize;
    while depth > 0 {
        match characters.next() {
            Some('{') => depth += 1,
            Some('}') => depth -= 1,
            Some('"') => skip_quoted(characters),
            Some(_) => {}
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::api::{Cause, Refusal};
    use super::{bounded, of, of_forbidden, redacted};
    use crate::limits;

    #[test]
    fn values_are_left_out_and_reasons_stay() {
        for (message, expected) in [
            (
                r#"Invalid value: "ge\"heim: x": spec.a in body must be of type integer: "string""#,
                r#"Invalid value: …: spec.a in body must be of type integer: "…""#,
            ),
            ("Invalid value: 4711: must be less than 5", "Invalid value: …: must be less than 5"),
            (r#"Invalid value: map[string]interface {}{"a":"geheim: {"}: is no text"#, "Invalid value: …: is no text"),
            (".spec.a: expected map, got &{geheim {x}}", ".spec.a: expected map, got &{…}"),
            ("Required value", "Required value"),
            (
                r#"Unsupported value: "geheim": supported values: "a""#,
                r#"Unsupported value: "…": supported values: "…""#,
            ),
            (r#"open "quote"#, r#"open "…""#),
        ] {
            assert_eq!(redacted(message), expected);
        }
    }

    #[test]
    fn each_field_is_named_with_its_fault() {
        let refusal = Refusal {
            code: 422,
            message: "whole".into(),
            causes: vec![Cause {
                field: "spec.a".into(),
                message: r#"Invalid value: "x": must be y"#.into(),
                ..Cause::default()
            }],
            ..Refusal::default()
        };
        assert_eq!(of(&refusal), "spec.a: Invalid value: …: must be y");
        assert_eq!(of(&Refusal { causes: Vec::new(), ..refusal }), "whole");
    }

    #[test]
    fn only_the_words_of_rbac_stay_as_they_are() {
        let said = |message: &str| of_forbidden(&Refusal { message: message.into(), ..Refusal::default() });
        for message in [
            r#"secrets "a" is forbidden: User "u" cannot patch resource "secrets" in API group "" in the namespace "n""#,
            r#"deployments.apps is forbidden: User "system:serviceaccount:n:a" cannot list resource "deployments""#,
            r#"forbidden: User "u" cannot get path "/readyz""#,
        ] {
            assert_eq!(said(message), message);
        }
        for message in [
            r#"admission webhook "w.example" denied the request: password "geheim" is weak"#,
            r#"pods "a" is forbidden: image "geheim" is not allowed"#,
            r#"admission webhook "w" denied the request: is forbidden: User "geheim" cannot be"#,
            r#"denied "geheim" is forbidden: User "geheim" is weak"#,
            r#"pods "a" is forbidden: "geheim": secrets "a" is forbidden: User "u" cannot patch"#,
        ] {
            assert!(!said(message).contains("geheim"), "{}", said(message));
        }
        let long = format!(r#"forbidden: User "u" cannot {}"#, "x".repeat(limits::REFUSAL_CHARS));
        assert_eq!(said(&long).chars().count(), limits::REFUSAL_CHARS + 1);
    }

    #[test]
    fn a_message_is_bounded_in_characters() {
        let just = "ä".repeat(limits::REFUSAL_CHARS);
        assert_eq!(bounded(&just), just);
        assert_eq!(bounded(&format!("{just}b")), format!("{just}…"));
    }
}

//! JSON values as YAML for people: what fits a line is a line.

use std::fmt::Write as _;

use serde_json::Value;

const WIDTH: usize = 120;

/// A document; its root and what `unfolds` says of a path (`metadata`) never become a line.
pub(super) fn document(value: &Value) -> String {
    let mut text = String::new();
    block(value, 0, &mut text);
    text
}

fn block(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let _ = write!(text, "{:indent$}{}:", "", scalar(&Value::from(name.as_str()), true));
                member(value, indent, name == "metadata", text);
            }
        }
        Value::Array(items) => {
            for item in items {
                // The first member of an item stands beside its dash.
                let mut inner = String::new();
                match line(item) {
                    Some(short) if indent + 2 + short.len() <= WIDTH => inner = format!("{short}\n"),
                    _ => block(item, indent + 2, &mut inner),
                }
                let _ = write!(text, "{:indent$}- {}", "", inner.trim_start());
            }
        }
        scalar => unreachable!("{scalar} is a line"),
    }
}

/// What stands behind the colon.
fn member(value: &Value, indent: usize, is_open: bool, text: &mut String) {
    let used = text.len() - text.rfind('\n').map_or(0, |at| at + 1);
    match line(value) {
        Some(short) if !is_open && used + 1 + short.len() <= WIDTH => {
            let _ = writeln!(text, " {short}");
        }
        _ => match value {
            Value::String(words) if words.contains(' ') => fold(words, indent + 2, text),
            Value::Object(_) => {
                text.push('\n');
                block(value, indent + 2, text);
            }
            Value::Array(_) => {
                text.push('\n');
                block(value, indent, text);
            }
            _ => {
                let _ = writeln!(text, " {}", scalar(value, false));
            }
        },
    }
}

/// A text of several lines that is read as one.
fn fold(words: &str, indent: usize, text: &mut String) {
    text.push_str(" >-");
    let mut used = WIDTH;
    for word in words.split_whitespace() {
        if used + 1 + word.len() > WIDTH {
            let _ = write!(text, "\n{:indent$}{word}", "");
            used = indent + word.len();
        } else {
            let _ = write!(text, " {word}");
            used += 1 + word.len();
        }
    }
    text.push('\n');
}

/// The value in one line; none where lists of objects would make it unreadable.
fn line(value: &Value) -> Option<String> {
    Some(match value {
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| {
                Some(format!("{}: {}", scalar(&Value::from(name.as_str()), true), line_of_member(value)?))
            });
            format!("{{{}}}", members.collect::<Option<Vec<_>>>()?.join(", "))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(line_of_member).collect::<Option<Vec<_>>>()?.join(", "))
        }
        _ => scalar(value, false),
    })
}

fn line_of_member(value: &Value) -> Option<String> {
    match value {
        Value::Object(_) | Value::Array(_) => line(value),
        _ => Some(scalar(value, true)),
    }
}

/// Plain where that cannot be read as anything else.
fn scalar(value: &Value, is_inside: bool) -> String {
    let Value::String(text) = value else { return value.to_string() };
    let begins_plain = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '.' && text.len() > 1);
    let is_word =
        matches!(text.to_lowercase().as_str(), "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n");
    let inside = if is_inside { "" } else { ",()[]{}\"" };
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || " ./_'-;=@?".contains(c) || inside.contains(c));
    if begins_plain && is_plain && !is_word && !text.ends_with(' ') {
        text.clone()
    } else if text.chars().any(char::is_control) {
        value.to_string()
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

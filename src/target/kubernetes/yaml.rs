//! As much YAML as a kubeconfig needs, with bounds.
//!
//! Anchors and aliases are refused: no kubeconfig has them, and with them a small file is a large tree.

use std::fmt;

use saphyr_parser::{Event, Parser};
use zeroize::Zeroizing;

use crate::limits;

/// A value of a YAML document.
#[derive(Debug)]
pub(super) enum Node {
    /// Names and values in their order, each name once.
    Mapping(Vec<(String, Node)>),
    /// A scalar without its type, wiped when dropped: it may be a key or a token.
    Scalar(Hidden),
    /// Values in their order.
    Sequence(Vec<Node>),
}

/// A scalar's text. Its `Debug` prints none of it.
pub(super) struct Hidden(Zeroizing<String>);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Why a text is no YAML that we read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum YamlError {
    /// An anchor or an alias, in this line.
    Alias(usize),
    /// A name that is there twice in one mapping, in this line.
    Repeated(usize),
    /// A mapping whose name is no plain text, in this line.
    StrangeName(usize),
    /// No YAML, in this line.
    Syntax(usize),
    /// More than [`limits::KUBECONFIG_DEPTH`] levels or [`limits::KUBECONFIG_NODES`] values.
    TooLarge,
}

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alias(line) => write!(f, "line {line} has an anchor or an alias, which are not read here"),
            Self::Repeated(line) => write!(f, "line {line} repeats a name"),
            Self::StrangeName(line) => write!(f, "line {line} has a name that is no text"),
            Self::Syntax(line) => write!(f, "line {line} is no YAML"),
            Self::TooLarge => {
                write!(f, "it has more than {} values or {} levels", limits::KUBECONFIG_NODES, limits::KUBECONFIG_DEPTH)
            }
        }
    }
}

impl std::error::Error for YamlError {}

/// Reads the first document of a text.
pub(super) fn read(text: &str) -> Result<Node, YamlError> {
    read_within(text, limits::KUBECONFIG_DEPTH, limits::KUBECONFIG_NODES)
}

/// The same with bounds of one's own. JSON is YAML as well.
pub(super) fn read_within(text: &str, depth: usize, nodes: usize) -> Result<Node, YamlError> {
    let mut builder = Builder { open: Vec::new(), root: None, count: 0, depth, nodes };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| YamlError::Syntax(error.marker().line()))?;
        if matches!(event, Event::DocumentEnd) {
            break;
        }
        builder.take(event, span.start.line())?;
    }
    Ok(builder.root.unwrap_or(Node::Mapping(Vec::new())))
}

/// The documents of a text of ours, all of whose scalars are texts, as one JSON `List`.
///
/// # Errors
/// When it is no such YAML.
pub fn list_as_json(text: &str) -> Result<String, YamlError> {
    let documents: Result<Vec<Node>, YamlError> = text.split("\n---\n").map(read).collect();
    let mut json = String::from(r#"{"apiVersion":"v1","kind":"List","items":"#);
    Node::Sequence(documents?).write_json(&mut json);
    json.push('}');
    Ok(json)
}

/// A text of the spec of the first document of a text; none where it is not there.
#[must_use]
pub fn text_of_spec(text: &str, name: &str) -> Option<String> {
    read(text).ok()?.member("spec")?.text(name).map(str::to_owned)
}

impl Node {
    fn write_json(&self, json: &mut String) {
        // A text cannot fail to be written to memory.
        let quoted = |text: &String| serde_json::to_string(text).unwrap_or_default();
        match self {
            Self::Mapping(members) => {
                for (at, (name, value)) in members.iter().enumerate() {
                    json.push(if at == 0 { '{' } else { ',' });
                    json.push_str(&quoted(name));
                    json.push(':');
                    value.write_json(json);
                }
                json.push_str(if members.is_empty() { "{}" } else { "}" });
            }
            Self::Scalar(text) => json.push_str(&quoted(&text.0)),
            Self::Sequence(values) => {
                for (at, value) in values.iter().enumerate() {
                    json.push(if at == 0 { '[' } else { ',' });
                    value.write_json(json);
                }
                json.push_str(if values.is_empty() { "[]" } else { "]" });
            }
        }
    }

    /// The value of a name, unless it is missing or null.
    pub(super) fn member(&self, name: &str) -> Option<&Node> {
        let Self::Mapping(members) = self else { return None };
        members.iter().find(|(member, _)| member == name).map(|(_, value)| value).filter(|value| !value.is_null())
    }

    /// Whether all that stands here stands in another one as well, beside whatever else it holds. What stands under one of
    /// the names `but` is not looked at.
    pub(super) fn is_within(&self, other: &Node, but: &[&str]) -> bool {
        match (self, other) {
            (Self::Mapping(members), Self::Mapping(_)) => members.iter().all(|(name, value)| {
                but.contains(&name.as_str())
                    || value.is_null()
                    || other.member(name).is_some_and(|found| value.is_within(found, but))
            }),
            (Self::Scalar(text), Self::Scalar(found)) => text.0 == found.0,
            (Self::Sequence(values), Self::Sequence(found)) => {
                values.len() == found.len()
                    && values.iter().zip(found).all(|(value, found)| value.is_within(found, but))
            }
            _ => false,
        }
    }

    /// The texts of a name that is a sequence.
    pub(super) fn texts(&self, name: &str) -> impl Iterator<Item = &str> {
        self.sequence(name).iter().filter_map(|value| match value {
            Self::Scalar(text) => Some(text.0.as_str()),
            _ => None,
        })
    }

    /// The text of a name.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.member(name)? {
            Self::Scalar(text) => Some(text.0.as_str()),
            _ => None,
        }
    }

    /// The values of a name that is a sequence; none when it is not.
    pub(super) fn sequence(&self, name: &str) -> &[Node] {
        match self.member(name) {
            Some(Self::Sequence(values)) => values,
            _ => &[],
        }
    }

    fn is_null(&self) -> bool {
        matches!(self, Self::Scalar(text) if matches!(text.0.as_str(), "" | "~" | "null"))
    }
}

/// What is begun and not ended.
enum Open {
    Mapping { members: Vec<(String, Node)>, name: Option<String> },
    Sequence(Vec<Node>),
}

struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    count: usize,
    depth: usize,
    nodes: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), YamlError> {
        match event {
            Event::Alias(_) => Err(YamlError::Alias(line)),
            Event::Scalar(_, _, anchor, _) | Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _)
                if anchor != 0 =>
            {
                Err(YamlError::Alias(line))
            }
            Event::Scalar(text, ..) => {
                if let Some(Open::Mapping { members, name: name @ None }) = self.open.last_mut() {
                    if members.iter().any(|(member, _)| *member == text) {
                        return Err(YamlError::Repeated(line));
                    }
                    *name = Some(text.into_owned());
                    return Ok(());
                }
                self.add(Node::Scalar(Hidden(Zeroizing::new(text.into_owned()))), line)
            }
            Event::SequenceStart(..) => self.begin(Open::Sequence(Vec::new()), line),
            Event::MappingStart(..) => self.begin(Open::Mapping { members: Vec::new(), name: None }, line),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::Mapping { members, .. }) => self.add(Node::Mapping(members), line),
                Some(Open::Sequence(values)) => self.add(Node::Sequence(values), line),
                None => Err(YamlError::Syntax(line)),
            },
            _ => Ok(()),
        }
    }

    fn begin(&mut self, open: Open, line: usize) -> Result<(), YamlError> {
        if matches!(self.open.last(), Some(Open::Mapping { name: None, .. })) {
            return Err(YamlError::StrangeName(line));
        }
        if self.open.len() == self.depth {
            return Err(YamlError::TooLarge);
        }
        self.open.push(open);
        Ok(())
    }

    fn add(&mut self, node: Node, line: usize) -> Result<(), YamlError> {
        self.count += 1;
        if self.count > self.nodes {
            return Err(YamlError::TooLarge);
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::Sequence(values)) => values.push(node),
            Some(Open::Mapping { members, name }) => {
                members.push((name.take().ok_or(YamlError::StrangeName(line))?, node));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{YamlError, read};
    use crate::limits;

    #[test]
    fn reads_block_and_flow_style() {
        let node = read("a: 1\nb:\n- x: \"q\"\n- {x: y}\nn: null\n").unwrap();
        assert_eq!(node.text("a"), Some("1"));
        assert_eq!(node.sequence("b").len(), 2);
        assert_eq!(node.sequence("b")[0].text("x"), Some("q"));
        assert!(node.member("n").is_none());
    }

    #[test]
    fn an_empty_text_is_an_empty_mapping() {
        assert!(read("").unwrap().member("a").is_none());
        assert!(read("# nothing\n").unwrap().member("a").is_none());
    }

    #[test]
    fn anchors_and_aliases_are_refused() {
        assert_eq!(read("a: &x 1\nb: *x\n").unwrap_err(), YamlError::Alias(1));
        assert_eq!(read("a: &x [1]\n").unwrap_err(), YamlError::Alias(1));
    }

    #[test]
    fn a_repeated_name_and_a_strange_one_are_refused() {
        assert_eq!(read("a: 1\na: 2\n").unwrap_err(), YamlError::Repeated(2));
        assert!(matches!(read("? [1]\n: 2\n"), Err(YamlError::StrangeName(_))));
        assert!(matches!(read("a: [1\n"), Err(YamlError::Syntax(_))));
    }

    #[test]
    fn depth_and_values_are_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(read(&nested(limits::KUBECONFIG_DEPTH)).is_ok());
        assert_eq!(read(&nested(limits::KUBECONFIG_DEPTH + 1)).unwrap_err(), YamlError::TooLarge);
        let many = |count: usize| "- 1\n".repeat(count);
        assert!(read(&many(limits::KUBECONFIG_NODES - 1)).is_ok());
        assert_eq!(read(&many(limits::KUBECONFIG_NODES)).unwrap_err(), YamlError::TooLarge);
    }

    #[test]
    fn what_a_server_adds_is_no_difference_and_what_it_changes_is() {
        let wanted = read("a: {b: [x, {c: 1}], d: null, e: {}}\nv: [1]\n").unwrap();
        let found = |text: &str| wanted.is_within(&read(text).unwrap(), &["v"]);
        assert!(found(r#"{"a":{"b":["x",{"c":1,"more":[]}],"e":{},"f":"\u003c"},"g":7}"#));
        for other in [
            "{}",
            r#"{"a":{"b":["x",{"c":2}],"e":{}}}"#,
            r#"{"a":{"b":["x"],"e":{}}}"#,
            r#"{"a":{"b":["x",{"c":1},"y"],"e":{}}}"#,
            r#"{"a":{"b":"x","e":{}}}"#,
            r#"{"a":{"b":["x",{"c":1}]}}"#,
        ] {
            assert!(!found(other), "{other}");
        }
        assert!(!wanted.is_within(&read("a: {b: [x, {c: 1}], e: {}}").unwrap(), &[]));
        assert_eq!(wanted.texts("v").collect::<Vec<_>>(), ["1"]);
    }

    #[test]
    fn debug_prints_no_scalar() {
        assert!(!format!("{:?}", read("token: geheim\n").unwrap()).contains("geheim"));
    }
}

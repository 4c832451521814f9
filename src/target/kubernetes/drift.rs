//! Fields of ours that somebody else changed.
//!
//! The API server notes in `managedFields` who owns a field: whoever sets it to another value takes it over. Of each
//! object a hash of each field is kept that our applies own. One that is not among them later, though we applied nothing
//! since, was changed or removed by somebody else. What it is called and whose it is now is read then, with one request,
//! and nothing is put back.

use std::fmt::Write as _;
use std::ops::ControlFlow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::conflict::element;
use super::decode::{Items, Text, members};
use crate::json;
use crate::limits;
use crate::protocol::{Condition, FIELD_MANAGER};

/// The fields of an object that our applies own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Owned {
    /// Hash of when we changed one of them last.
    applied: u32,
    /// A hash of each, at most [`limits::OBJECT_FIELDS`].
    fields: Box<[u32]>,
}

/// Who owns which fields.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Entry<'a> {
    #[serde(borrow)]
    pub(super) manager: Text<'a>,
    #[serde(borrow)]
    operation: Text<'a>,
    #[serde(borrow)]
    time: Text<'a>,
    #[serde(borrow)]
    subresource: Text<'a>,
    #[serde(borrow)]
    pub(super) fields_v1: Option<&'a RawValue>,
}

impl Entry<'_> {
    /// What our applies set.
    pub(super) fn is_ours(&self) -> bool {
        self.manager.0 == FIELD_MANAGER && self.operation.0 == "Apply" && self.subresource.0.is_empty()
    }
}

impl Owned {
    /// Reads the `managedFields` of an object.
    pub(super) fn read(entries: Items<'_>) -> Self {
        let mut owned = Self::default();
        entries.each(|entry: Entry<'_>| {
            if !entry.is_ours() {
                return ControlFlow::Continue(());
            }
            let mut fields = Vec::new();
            if let Some(all) = entry.fields_v1 {
                each_field(all, &mut Path::default(), DEPTH, &mut |path| {
                    fields.push(path.hash);
                    fields.len() < limits::OBJECT_FIELDS
                });
            }
            owned = Self { applied: hash(START, &entry.time.0), fields: fields.into() };
            ControlFlow::Break(())
        });
        owned
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.fields.len()
    }

    /// Fields of before that are not ours any more, though we applied nothing since. What we apply anew with fewer fields
    /// is ours to leave out.
    pub(super) fn lost(&self, now: &Self) -> Vec<u32> {
        if !now.fields.is_empty() && now.applied != self.applied {
            return Vec::new();
        }
        self.fields.iter().copied().filter(|field| !now.fields.contains(field)).collect()
    }
}

/// What is said of an object whose fields these were. `metadata` is the object, or at least its metadata; none where it
/// could not be read.
pub(super) fn condition(lost: &[u32], generation: Option<i64>, metadata: Option<&[u8]>) -> Condition {
    let (mut message, mut named) = (String::new(), Vec::new());
    let is_room = |named: &Vec<u32>, message: &String| {
        named.len() < limits::CONFLICT_FIELDS && message.len() < limits::CONDITION_TEXT_BYTES
    };
    let entries = metadata.and_then(managed_fields);
    if let Some(entries) = entries {
        entries.each(|entry: Entry<'_>| {
            if entry.is_ours() {
                return ControlFlow::Continue(());
            }
            let Some(all) = entry.fields_v1 else { return ControlFlow::Continue(()) };
            each_field(all, &mut Path { text: Some(String::new()), ..Path::default() }, DEPTH, &mut |path| {
                if lost.contains(&path.hash) && !named.contains(&path.hash) {
                    named.push(path.hash);
                    let (text, manager) = (path.text.as_deref().unwrap_or_default(), entry.manager.cut(MANAGER_BYTES));
                    let comma = if message.is_empty() { "" } else { ", " };
                    // Writing to a string does not fail.
                    let _ = write!(message, "{comma}{text} by {manager}");
                }
                is_room(&named, &message)
            });
            if is_room(&named, &message) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
    }
    let rest = lost.len().saturating_sub(named.len());
    if rest > 0 {
        let comma = if message.is_empty() { "" } else { ", and " };
        let whose = if entries.is_some() { "removed, or not named here" } else { "of whom nobody could tell" };
        let _ = write!(message, "{comma}{rest} fields {whose}");
    }
    Condition {
        kind: DRIFTED.to_owned(),
        status: "True".to_owned(),
        observed_generation: generation,
        last_transition_time: None,
        reason: "FieldsChangedByOthers".to_owned(),
        message,
    }
}

/// The type of the condition, which only events have: nothing is written to the object.
const DRIFTED: &str = "Drifted";

/// Of the name of a manager; Kubernetes lets it have 128.
const MANAGER_BYTES: usize = 128;

/// Levels of fields that are gone down.
const DEPTH: usize = limits::JOB_DEPTH;

/// Who owns what of an object, of which at least the metadata are here.
pub(super) fn managed_fields(object: &[u8]) -> Option<Items<'_>> {
    #[derive(Deserialize)]
    struct Object<'a> {
        #[serde(borrow)]
        metadata: Metadata<'a>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata<'a> {
        #[serde(borrow)]
        managed_fields: Option<Items<'a>>,
    }

    json::read::<Object<'_>>(object).ok()?.metadata.managed_fields
}

/// A field, by what its name begins with.
struct Path {
    hash: u32,
    /// As a conflict writes it, where somebody wants to know.
    text: Option<String>,
}

impl Default for Path {
    fn default() -> Self {
        Self { hash: START, text: None }
    }
}

/// FNV-1a of 32 bits: whoever finds two names of one hash hides a change of his own from us, and may as well stop the agent.
const START: u32 = 0x811c_9dc5;

fn hash(start: u32, text: &str) -> u32 {
    let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    step(text.bytes().fold(start, step), 0xff)
}

/// Hands each field over that has none within, as long as more are wanted. `.` in a `fieldsV1` is what is around it.
fn each_field(fields: &RawValue, path: &mut Path, depth: usize, take: &mut dyn FnMut(&Path) -> bool) -> bool {
    let (mut is_inner, mut goes_on) = (true, true);
    members(fields, |key, inner| {
        if key == "." {
            return ControlFlow::Continue(());
        }
        is_inner = false;
        let Some(depth) = depth.checked_sub(1) else { return ControlFlow::Break(()) };
        let (before, length) = (path.hash, path.text.as_ref().map_or(0, String::len));
        path.hash = hash(before, key);
        if let Some(text) = &mut path.text {
            let name = element(key);
            let (name, room) = (name.as_deref().unwrap_or("?"), limits::CONDITION_TEXT_BYTES.saturating_sub(length));
            text.push_str(name.get(..name.floor_char_boundary(room)).unwrap_or_default());
        }
        goes_on = each_field(inner, path, depth, take);
        path.hash = before;
        if let Some(text) = &mut path.text {
            text.truncate(length);
        }
        if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    if is_inner && path.hash != START { take(path) } else { goes_on }
}

#[cfg(test)]
mod tests {
    use super::{DEPTH, Owned, condition, managed_fields};
    use crate::limits;
    use serde_json::{Value, json};

    fn ours(time: &str, fields: &Value) -> Value {
        json!({"manager": "vworkspace-agent", "operation": "Apply", "time": time, "fieldsV1": fields})
    }

    fn theirs(manager: &str, fields: &Value) -> Value {
        json!({"manager": manager, "operation": "Update", "time": "t9", "fieldsV1": fields})
    }

    fn object(entries: &[Value]) -> Vec<u8> {
        json!({"metadata": {"managedFields": entries}}).to_string().into_bytes()
    }

    fn owned(entries: &[Value]) -> Owned {
        Owned::read(managed_fields(&object(entries)).unwrap())
    }

    fn spec() -> Value {
        json!({"f:spec": {".": {}, "f:a": {}, "f:b": {}, "f:list": {"k:{\"name\":\"x\"}": {".": {}, "f:image": {}}}}})
    }

    #[test]
    fn a_field_that_another_manager_took_over_is_named_with_him() {
        let before = owned(&[ours("t1", &spec())]);
        let entries = [
            theirs("helm", &json!({"f:spec": {"f:list": {"k:{\"name\":\"x\"}": {"f:image": {}}}}})),
            ours("t1", &json!({"f:spec": {".": {}, "f:b": {}}})),
            theirs("kubectl", &json!({"f:spec": {"f:a": {}, "f:c": {}}})),
        ];
        let lost = before.lost(&owned(&entries));
        assert_eq!(lost.len(), 2);
        let said = condition(&lost, Some(3), Some(&object(&entries)));
        assert_eq!((said.kind.as_str(), said.status.as_str(), said.observed_generation), ("Drifted", "True", Some(3)));
        assert_eq!(said.message, r#".spec.list[name="x"].image by helm, .spec.a by kubectl"#);
    }

    #[test]
    fn what_was_removed_or_cannot_be_read_is_counted() {
        let before = owned(&[ours("t1", &spec())]);
        let entries = [ours("t1", &json!({"f:spec": {"f:a": {}, "f:b": {}}}))];
        let lost = before.lost(&owned(&entries));
        assert_eq!(condition(&lost, None, Some(&object(&entries))).message, "1 fields removed, or not named here");
        assert_eq!(condition(&lost, None, None).message, "1 fields of whom nobody could tell");
        // All of ours are gone, and with them our entry.
        assert_eq!(before.lost(&owned(&[theirs("kubectl", &spec())])).len(), 3);
    }

    #[test]
    fn what_we_leave_out_ourselves_and_what_others_share_is_no_drift() {
        let before = owned(&[ours("t1", &spec())]);
        assert!(before.lost(&owned(&[ours("t2", &json!({"f:spec": {"f:a": {}}}))])).is_empty());
        assert!(before.lost(&owned(&[ours("t1", &spec()), theirs("helm", &spec())])).is_empty());
        assert!(Owned::default().lost(&before).is_empty());
        // Our status, and what somebody of our name wrote without an apply, is none of it.
        let mut status = ours("t1", &spec());
        status["subresource"] = json!("status");
        let update = json!({"manager": "vworkspace-agent", "operation": "Update", "fieldsV1": spec()});
        assert_eq!(owned(&[status, update]), Owned::default());
    }

    #[test]
    fn fields_levels_and_names_are_bounded() {
        let many = |count: usize| -> Value { (0..count).map(|at| (format!("f:n{at}"), json!({}))).collect() };
        let at_most = owned(&[ours("t", &many(limits::OBJECT_FIELDS))]);
        assert_eq!(at_most.fields.len(), limits::OBJECT_FIELDS);
        assert_eq!(owned(&[ours("t", &many(limits::OBJECT_FIELDS + 1))]).fields.len(), limits::OBJECT_FIELDS);
        let said = condition(&at_most.fields, None, Some(&object(&[theirs("m", &many(limits::OBJECT_FIELDS))])));
        assert_eq!(said.message.matches(" by m").count(), limits::CONFLICT_FIELDS);
        let rest = limits::OBJECT_FIELDS - limits::CONFLICT_FIELDS;
        assert!(said.message.ends_with(&format!("and {rest} fields removed, or not named here")), "{}", said.message);
        let nested = |depth: usize| (0..depth).fold(json!({}), |inner, _| json!({"f:a": inner}));
        assert_eq!(owned(&[ours("t", &nested(DEPTH))]).fields.len(), 1);
        assert_eq!(owned(&[ours("t", &nested(DEPTH + 1))]).fields.len(), 0);
        for noise in [json!(7), json!("x"), json!([1]), json!({"f:a": 7}), json!({"x": {}}), Value::Null] {
            let read = owned(&[ours("t", &noise), json!(9)]);
            condition(&read.fields, None, Some(&object(&[theirs("m", &noise)])));
        }
        assert!(managed_fields(b"<html>").is_none());
    }

    #[test]
    fn a_name_of_any_length_makes_no_longer_message() {
        let leaves: Value = (0..limits::CONFLICT_FIELDS).map(|at| (format!("f:n{at}"), json!({}))).collect();
        let fields = json!({format!("f:{}", "\u{e4}".repeat(limits::JOB_BYTES / 4)): leaves});
        let before = owned(&[ours("t", &fields)]);
        let said = condition(&before.fields, None, Some(&object(&[theirs("m", &fields)])));
        assert!(
            said.message.starts_with(".\u{e4}\u{e4}") && said.message.contains(" by m, and 15 fields "),
            "{}",
            said.message
        );
        assert!(said.message.len() < 2 * limits::CONDITION_TEXT_BYTES, "{}", said.message.len());
    }
}

//! Who owns a field.
//!
//! The `Status` of a conflict names each field and, in a sentence, its manager. The sentence is for people
//! and has changed between versions, so the manager is looked up in `managedFields` of the live object, and
//! the sentence is only a fallback.

use std::borrow::Cow;
use std::ops::ControlFlow;

use serde_json::value::RawValue;

use super::api::Refusal;
use super::decode::members;
use super::drift::{Entry, managed_fields};
use crate::limits;
use crate::target::FieldConflict;

/// The reason of a cause that is a conflict.
const CAUSE: &str = "FieldManagerConflict";

/// Whether a refusal is a conflict with other field managers.
pub(super) fn is_conflict(refusal: &Refusal) -> bool {
    refusal.code == 409 && refusal.causes.iter().any(|cause| cause.reason == CAUSE)
}

/// Fields and managers of a conflict. `metadata` is the live object, or at least its metadata; nothing if
/// it could not be read.
pub(super) fn fields(refusal: &Refusal, object: Option<&[u8]>) -> Vec<FieldConflict> {
    let mut conflicts: Vec<FieldConflict> = Vec::new();
    for cause in refusal.causes.iter().filter(|cause| cause.reason == CAUSE) {
        let mut managers = object.map(|object| owners(object, &cause.field)).unwrap_or_default();
        if managers.is_empty() {
            managers.push(quoted(&cause.message).unwrap_or("an unknown manager").to_owned());
        }
        for manager in managers {
            let conflict = FieldConflict { field: cause.field.clone(), manager };
            if conflicts.len() < limits::CONFLICT_FIELDS && !conflicts.contains(&conflict) {
                conflicts.push(conflict);
            }
        }
    }
    conflicts
}

fn owners(object: &[u8], field: &str) -> Vec<String> {
    let mut owners = Vec::new();
    let Some(entries) = managed_fields(object) else { return owners };
    entries.each(|entry: Entry<'_>| {
        if !entry.is_ours() && entry.fields_v1.is_some_and(|fields| owns(fields, field, DEPTH)) {
            owners.push(entry.manager.cut(limits::CONDITION_TEXT_BYTES));
        }
        if owners.len() == limits::CONFLICT_FIELDS { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    owners
}

/// Levels of fields that are gone down: a job has at most [`limits::JOB_DEPTH`] of them.
const DEPTH: usize = limits::JOB_DEPTH;

/// Whether a `fieldsV1` holds the path. Paths are written without quotes (`.metadata.labels.app.io/name`),
/// so where a member ends is found by walking the fields, not the text.
fn owns(fields: &RawValue, path: &str, depth: usize) -> bool {
    let mut found = false;
    members(fields, |key, inner| {
        if let Some(written) = element(key)
            && let Some(rest) = path.strip_prefix(written.as_ref())
        {
            found = rest.is_empty() || depth > 0 && owns(inner, rest, depth - 1);
        }
        if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    found
}

/// A key of `fieldsV1` as a path writes it: `f:name` is `.name`, `k:{"a":"b"}` is `[a="b"]`, `v:1` is `[=1]`,
/// `i:0` is `[0]`.
pub(super) fn element(key: &str) -> Option<Cow<'_, str>> {
    let (kind, value) = key.split_once(':')?;
    match kind {
        "f" => Some(format!(".{value}").into()),
        "i" => Some(format!("[{value}]").into()),
        "v" => Some(format!("[={value}]").into()),
        "k" => {
            let object: &RawValue = serde_json::from_str(value).ok()?;
            let mut parts = Vec::new();
            members(object, |name, value| {
                parts.push(format!("{name}={}", value.get()));
                ControlFlow::Continue(())
            });
            Some(format!("[{}]", parts.join(",")).into())
        }
        _ => None,
    }
}

/// `conflict with "kubectl" using apps/v1`.
fn quoted(message: &str) -> Option<&str> {
    message.split('"').nth(1).filter(|manager| !manager.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::api::{Cause, Refusal};
    use super::{DEPTH, fields, is_conflict, owns};
    use serde_json::value::RawValue;

    #[test]
    fn a_path_is_found_whatever_dots_its_names_have() {
        let owned = RawValue::from_string(
            r#"{"f:metadata":{"f:labels":{".":{},"f:app.io/name":{}}},"f:spec":{"f:replicas":{},"f:containers":{"k:{\"name\":\"a\",\"port\":1}":{".":{},"f:image":{}}},"f:list":{"v:\"x\"":{},"i:0":{}}}}"#
                .to_owned(),
        )
        .unwrap();
        for path in [
            ".metadata.labels.app.io/name",
            ".spec.replicas",
            r#".spec.containers[name="a",port=1].image"#,
            r#".spec.list[="x"]"#,
            ".spec.list[0]",
            ".spec",
        ] {
            assert!(owns(&owned, path, DEPTH), "{path}");
        }
        for path in [".spec.replica", ".spec.replicasX", ".metadata.labels.app.io", r#".spec.containers[name="b"]"#] {
            assert!(!owns(&owned, path, DEPTH), "{path}");
        }
    }

    #[test]
    fn fields_are_gone_down_no_deeper_than_a_job_goes() {
        let nested = |depth: usize| {
            let text = format!("{}{{}}{}", r#"{"f:a":"#.repeat(depth), "}".repeat(depth));
            owns(&RawValue::from_string(text).unwrap(), &".a".repeat(depth), DEPTH)
        };
        assert!(nested(DEPTH + 1));
        assert!(!nested(DEPTH + 2));
    }

    #[test]
    fn the_manager_is_looked_up_and_the_sentence_is_the_fallback() {
        let refusal = Refusal {
            code: 409,
            causes: vec![Cause {
                reason: "FieldManagerConflict".into(),
                message: r#"conflict with "sentence" using v1"#.into(),
                field: ".data.a".into(),
            }],
            ..Refusal::default()
        };
        assert!(is_conflict(&refusal));
        let object = br#"{"metadata":{"managedFields":[
            {"manager":"vworkspace-agent","operation":"Apply","fieldsV1":{"f:data":{"f:a":{}}}},
            {"manager":"other","operation":"Update","fieldsV1":{"f:data":{"f:a":{}}}},
            {"manager":"third","operation":"Update","fieldsV1":{"f:data":{"f:b":{}}}}]}}"#;
        let conflicts = fields(&refusal, Some(object));
        assert_eq!(conflicts.len(), 1);
        assert_eq!((conflicts[0].field.as_str(), conflicts[0].manager.as_str()), (".data.a", "other"));
        for nothing in [None, Some(b"<html>".as_slice()), Some(b"{}".as_slice())] {
            assert_eq!(fields(&refusal, nothing)[0].manager, "sentence");
        }
    }
}

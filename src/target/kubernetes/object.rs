//! What is read of an owned object.

use std::ops::ControlFlow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::decode::{Items, Text};
use super::drift::Owned;
use crate::json;
use crate::limits;
use crate::protocol::{Condition, Endpoint, Timestamp};

/// An object, as far as anybody asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) generation: Option<i64>,
    pub(super) resource_version: String,
    pub(super) observed_generation: Option<i64>,
    pub(super) conditions: Vec<Condition>,
    pub(super) endpoints: Vec<Endpoint>,
    /// Which of its fields are ours; none = the API server does not say.
    pub(super) owned: Option<Owned>,
}

/// One page of a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) objects: Vec<Object>,
    pub(super) resource_version: String,
    /// Where the next page begins; empty on the last one.
    pub(super) next: String,
}

/// One event of a watch, its object not yet read.
#[derive(Deserialize)]
pub(super) struct Event<'a> {
    #[serde(borrow, default, rename = "type")]
    pub(super) kind: Text<'a>,
    #[serde(borrow)]
    pub(super) object: &'a RawValue,
}

/// The text is not what it should be.
#[derive(Debug)]
pub(super) struct Malformed;

#[derive(Deserialize)]
struct RawObject<'a> {
    #[serde(borrow)]
    metadata: RawMetadata<'a>,
    #[serde(borrow, default)]
    status: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawMetadata<'a> {
    #[serde(borrow)]
    namespace: Text<'a>,
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    uid: Text<'a>,
    #[serde(borrow)]
    resource_version: Text<'a>,
    #[serde(borrow)]
    r#continue: Text<'a>,
    generation: Option<i64>,
    #[serde(borrow)]
    managed_fields: Option<Items<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawStatus<'a> {
    #[serde(borrow)]
    observed_generation: Option<&'a RawValue>,
    #[serde(borrow)]
    conditions: Option<Items<'a>>,
    #[serde(borrow)]
    endpoints: Option<Items<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawCondition<'a> {
    #[serde(borrow)]
    r#type: Text<'a>,
    #[serde(borrow)]
    status: Text<'a>,
    observed_generation: Option<i64>,
    #[serde(borrow)]
    last_transition_time: Text<'a>,
    #[serde(borrow)]
    reason: Text<'a>,
    #[serde(borrow)]
    message: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawEndpoint<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    url: Text<'a>,
    #[serde(borrow)]
    r#type: Text<'a>,
    #[serde(borrow)]
    notes: Text<'a>,
}

impl Object {
    pub(super) fn read(text: &str) -> Result<Self, Malformed> {
        let object: RawObject<'_> = serde_json::from_str(text).map_err(|_| Malformed)?;
        Ok(object.into())
    }
}

impl Page {
    pub(super) fn read(text: &[u8]) -> Result<Self, Malformed> {
        #[derive(Deserialize)]
        struct RawPage<'a> {
            #[serde(borrow)]
            metadata: RawMetadata<'a>,
            #[serde(borrow, default)]
            items: Option<Items<'a>>,
        }

        let page: RawPage<'_> = json::read(text).map_err(|_| Malformed)?;
        let mut objects = Vec::new();
        let mut is_whole = true;
        if let Some(items) = page.items {
            items.each(|object: RawObject<'_>| {
                if objects.len() == limits::PAGE_OBJECTS {
                    is_whole = false;
                    return ControlFlow::Break(());
                }
                objects.push(object.into());
                ControlFlow::Continue(())
            });
        }
        let metadata = page.metadata;
        let page =
            Self { objects, resource_version: text_of(&metadata.resource_version), next: metadata.r#continue.0.into() };
        if is_whole { Ok(page) } else { Err(Malformed) }
    }
}

impl From<RawObject<'_>> for Object {
    fn from(object: RawObject<'_>) -> Self {
        let metadata = object.metadata;
        // A status that is no object, or half of one, is the author's fault and no reason to stop.
        let status: RawStatus<'_> =
            object.status.and_then(|status| serde_json::from_str(status.get()).ok()).unwrap_or_default();
        let mut conditions = Vec::new();
        if let Some(all) = status.conditions {
            all.each(|condition: RawCondition<'_>| {
                if !condition.r#type.0.is_empty() {
                    conditions.push(condition.into());
                }
                if conditions.len() == limits::OBJECT_CONDITIONS {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            });
        }
        let endpoints = status
            .endpoints
            .map(|all| all.first::<RawEndpoint<'_>>(limits::OBJECT_ENDPOINTS))
            .unwrap_or_default()
            .into_iter()
            .map(Endpoint::from)
            .collect();
        Self {
            namespace: text_of(&metadata.namespace),
            name: text_of(&metadata.name),
            uid: text_of(&metadata.uid),
            generation: metadata.generation,
            resource_version: text_of(&metadata.resource_version),
            observed_generation: status.observed_generation.and_then(|number| serde_json::from_str(number.get()).ok()),
            conditions,
            endpoints,
            owned: metadata.managed_fields.map(Owned::read),
        }
    }
}

impl From<RawCondition<'_>> for Condition {
    fn from(condition: RawCondition<'_>) -> Self {
        let time = condition.last_transition_time.0;
        Self {
            kind: text_of(&condition.r#type),
            status: text_of(&condition.status),
            observed_generation: condition.observed_generation,
            last_transition_time: Some(time)
                .filter(|time| !time.starts_with("0001-"))
                .and_then(|time| Timestamp::parse(&time).ok()),
            reason: text_of(&condition.reason),
            message: text_of(&condition.message),
        }
    }
}

impl From<RawEndpoint<'_>> for Endpoint {
    fn from(endpoint: RawEndpoint<'_>) -> Self {
        Self {
            name: text_of(&endpoint.name),
            url: text_of(&endpoint.url),
            kind: text_of(&endpoint.r#type),
            notes: text_of(&endpoint.notes),
        }
    }
}

fn text_of(text: &Text<'_>) -> String {
    text.cut(limits::CONDITION_TEXT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::{Event, Object, Page};
    use crate::limits;

    #[test]
    fn a_careless_status_is_read_as_far_as_it_goes() {
        let object = Object::read(
            r#"{"metadata":{"name":"a","uid":"u","generation":3,"labels":{"x":1}},"spec":{"secret":"s"},"status":{
                "observedGeneration":"three","endpoints":{},"conditions":[7,{"status":"True"},
                {"type":"Ready","status":"True","lastTransitionTime":"0001-01-01T00:00:00Z","message":null}]}}"#,
        )
        .unwrap();
        assert_eq!((object.name.as_str(), object.generation, object.observed_generation), ("a", Some(3), None));
        assert_eq!(object.conditions.len(), 1);
        assert_eq!(object.conditions[0].last_transition_time, None);
        assert!(Object::read(r#"{"metadata":{"name":"a"},"status":"fine"}"#).unwrap().conditions.is_empty());
        assert!(Object::read("{}").is_err());
        assert!(Object::read("7").is_err());
    }

    #[test]
    fn conditions_and_their_texts_are_bounded() {
        let long = "ä".repeat(limits::CONDITION_TEXT_BYTES);
        let one = format!(r#"{{"type":"T","message":"{long}"}}"#);
        let all = vec![one; limits::OBJECT_CONDITIONS + 1].join(",");
        let object = Object::read(&format!(r#"{{"metadata":{{}},"status":{{"conditions":[{all}]}}}}"#)).unwrap();
        assert_eq!(object.conditions.len(), limits::OBJECT_CONDITIONS);
        assert_eq!(object.conditions[0].message.len(), limits::CONDITION_TEXT_BYTES);
    }

    #[test]
    fn a_page_is_read_with_its_version_and_its_end() {
        let page =
            Page::read(br#"{"metadata":{"resourceVersion":"7","continue":"t"},"items":[{"metadata":{"name":"a"}}]}"#)
                .unwrap();
        assert_eq!((page.objects.len(), page.resource_version.as_str(), page.next.as_str()), (1, "7", "t"));
        let page = Page::read(br#"{"metadata":{"resourceVersion":"7"},"items":null}"#).unwrap();
        assert!(page.objects.is_empty() && page.next.is_empty());
        assert!(Page::read(b"<html>").is_err());
        let items =
            |count: usize| format!(r#"{{"metadata":{{}},"items":[{}]}}"#, vec![r#"{"metadata":{}}"#; count].join(","));
        assert!(Page::read(items(limits::PAGE_OBJECTS).as_bytes()).is_ok());
        assert!(Page::read(items(limits::PAGE_OBJECTS + 1).as_bytes()).is_err());
    }

    #[test]
    fn an_event_is_read_in_either_order() {
        for text in [r#"{"type":"ADDED","object":{}}"#, r#"{"object":{},"type":"ADDED"}"#] {
            assert_eq!(serde_json::from_str::<Event<'_>>(text).unwrap().kind.0, "ADDED");
        }
    }
}

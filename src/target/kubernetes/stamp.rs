//! What an object of the API server says about the job that applied it.

use std::ops::ControlFlow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Inner;
use super::api::{self, Call, Fault};
use super::decode::{Text, members};
use crate::json;
use crate::limits;
use crate::protocol::ObjectRef;
use crate::target::TargetError;
use crate::target::stamp::{Marks, Stamp};

#[derive(Deserialize)]
struct Object<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    uid: Text<'a>,
    generation: Option<i64>,
    deletion_timestamp: Option<&'a RawValue>,
    labels: Option<&'a RawValue>,
    annotations: Option<&'a RawValue>,
}

impl Inner {
    /// One request, and who observes is asked to look at the object, as after an apply.
    pub(super) async fn read_stamp(&self, object: &ObjectRef) -> Result<Option<Stamp>, TargetError> {
        let resource = self.resource(&object.api_version, &object.kind).await?;
        if resource.namespaced == object.namespace.is_empty() {
            return Ok(None);
        }
        let path = resource.path(&object.namespace, &object.name)?;
        let text = match api::ask(self.api(), &Call::get(&path, api::METADATA)).await {
            Ok(text) => text,
            Err(Fault::Refused(refusal)) if refusal.code == 404 => return Ok(None),
            Err(fault) => return Err(fault.into()),
        };
        let Ok(Object { metadata }) = json::read::<Object<'_>>(&text) else {
            return Err(TargetError::Unusable("the API server's answer is no object".to_owned()));
        };
        // One that is on its way out is not what the job asked for.
        if metadata.deletion_timestamp.is_some_and(|at| at.get() != "null") {
            return Ok(None);
        }
        let mut marks = Marks::default();
        each(metadata.labels, |name, value| marks.label(name, value, &self.cluster_id));
        each(metadata.annotations, |name, value| marks.annotation(name, value));
        let reference = ObjectRef {
            uid: metadata.uid.cut(limits::CONDITION_TEXT_BYTES),
            generation: metadata.generation,
            ..object.clone()
        };
        let readiness = self.readiness(&resource, &reference);
        Ok(marks.into_stamp(reference, readiness))
    }
}

fn each(texts: Option<&RawValue>, mut take: impl FnMut(&str, &str)) {
    if let Some(texts) = texts {
        members(texts, |name, value| {
            if let Ok(value) = serde_json::from_str::<Text<'_>>(value.get()) {
                take(name, &value.0);
            }
            ControlFlow::Continue(())
        });
    }
}

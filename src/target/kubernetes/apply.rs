//! Applying and deleting.

use http::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::api::{self, Body, Busy, Call, Fault, segment};
use super::decode::{Items, Text};
use super::resources::Resource;
use super::{Inner, conflict};
use crate::json;
use crate::limits;
use crate::protocol::{
    CLUSTER_ID_LABEL, FIELD_MANAGER, MANAGED_BY_LABEL, MANAGED_BY_VALUE, Manifest, NAMESPACE_LABEL, ObjectRef, group_of,
};
use crate::target::{Applied, Deleted, NamespaceRule, Readiness, TargetError};
use crate::trust::policy::{ALLOWED_TYPES_ANNOTATION, check_namespace_list};

/// What an object's metadata tells.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    uid: Text<'a>,
    generation: Option<i64>,
    #[serde(borrow)]
    deletion_timestamp: Text<'a>,
    #[serde(borrow)]
    finalizers: Option<Items<'a>>,
    #[serde(borrow)]
    labels: Option<&'a RawValue>,
    #[serde(borrow)]
    annotations: Option<&'a RawValue>,
}

/// How a namespace stands to us.
enum Namespace {
    Missing,
    There {
        is_ours: bool,
        is_ending: bool,
        /// Which types of operations it does, where it says so.
        allowed_types: Option<String>,
    },
}

impl Inner {
    pub(super) async fn apply_manifest(
        &self,
        manifest: &Manifest<'_>,
        rule: NamespaceRule,
    ) -> Result<Applied, TargetError> {
        let mut was_ready = false;
        loop {
            let done = self.try_apply(manifest, rule).await;
            if let Some(done) = self.with_whose_fault(done, &mut was_ready).await {
                return done;
            }
        }
    }

    pub(super) async fn delete_object(&self, object: &ObjectRef, rule: NamespaceRule) -> Result<Deleted, TargetError> {
        let mut was_ready = false;
        loop {
            let done = self.try_delete(object, rule).await;
            if let Some(done) = self.with_whose_fault(done, &mut was_ready).await {
                return done;
            }
        }
    }

    /// Tells a fault of one object from one of the API server. The codes are the same, and an admission that
    /// cannot be called, an aggregated API that is away and a conversion that fails each say it in other words: so
    /// the API server is asked whether it is ready itself. While it starts it knows neither kinds nor rights: what it says of
    /// them counts when it says so once more after it was ready; none = that is to be asked.
    async fn with_whose_fault<T>(
        &self,
        done: Result<T, TargetError>,
        was_ready: &mut bool,
    ) -> Option<Result<T, TargetError>> {
        Some(Err(match done {
            Err(TargetError::Unavailable(source)) => match source.downcast_ref::<Busy>() {
                Some(busy) if busy.is_fault() && self.is_ready().await => {
                    TargetError::Stuck(format!("{busy}, and is ready itself: what it called for the object is not"))
                }
                _ => TargetError::Unavailable(source),
            },
            Err(error @ (TargetError::Forbidden(_) | TargetError::UnknownKind { .. })) if !*was_ready => {
                *was_ready = self.is_ready().await;
                if *was_ready {
                    return None;
                }
                TargetError::Unavailable(format!("the API server is not ready, and says: {error}").into())
            }
            done => return Some(done),
        }))
    }

    /// Every account may ask, unless somebody took that away: then it counts as not ready.
    pub(super) async fn is_ready(&self) -> bool {
        api::ask(self.api(), &Call::get("/readyz", api::JSON)).await.is_ok()
    }

    async fn try_apply(&self, manifest: &Manifest<'_>, rule: NamespaceRule) -> Result<Applied, TargetError> {
        let mut resource = self.resource(&manifest.api_version, &manifest.kind).await?;
        check_scope(&resource, &manifest.namespace)?;
        let mut labels = vec![(MANAGED_BY_LABEL, MANAGED_BY_VALUE), (CLUSTER_ID_LABEL, self.cluster_id.as_str())];
        if let Some(namespace) = namespace_of(&resource, &manifest.namespace, &manifest.name) {
            let (is_ours, allowed_types) = self.open_namespace(namespace, rule).await?;
            check_namespace_list(allowed_types.as_deref(), manifest).map_err(TargetError::Refused)?;
            // A `Namespace` that is ours stays so: a label that an apply does not name any more goes away.
            if is_ours && !resource.namespaced {
                labels.push(NAMESPACE_LABEL);
            }
        }
        let mut answer = self.patch(&resource, manifest, &labels).await;
        if let Err(Fault::Refused(refusal)) = &answer
            && refusal.code == 404
        {
            if refusal.about == "namespaces" {
                return Err(terminating(&manifest.namespace));
            }
            // The kind's place changed, or the kind is gone.
            self.resources.forget(&resource);
            resource = self.resource(&manifest.api_version, &manifest.kind).await?;
            check_scope(&resource, &manifest.namespace)?;
            answer = self.patch(&resource, manifest, &labels).await;
        }
        match answer {
            Ok(text) => self.applied(&resource, manifest, &text),
            Err(Fault::Refused(refusal)) if conflict::is_conflict(&refusal) => {
                let path = resource.path(&manifest.namespace, &manifest.name)?;
                let live = api::ask(self.api(), &Call::get(&path, api::METADATA)).await.ok();
                Err(TargetError::Conflict(conflict::fields(&refusal, live.as_deref())))
            }
            Err(Fault::Refused(refusal))
                if refusal.code == 403 && refusal.causes.iter().any(|cause| cause.reason == "NamespaceTerminating") =>
            {
                Err(terminating(&manifest.namespace))
            }
            // The right to make what is not there yet is asked for on the way, and its lack told without a word.
            Err(Fault::Refused(refusal)) if refusal.code == 403 && refusal.message.ends_with(" is forbidden: ") => {
                Err(TargetError::Forbidden(format!(
                    "it cannot create resource \"{}\" in API group \"{}\"",
                    resource.plural,
                    group_of(&resource.api_version)
                )))
            }
            Err(fault) => Err(fault.into()),
        }
    }

    async fn try_delete(&self, object: &ObjectRef, rule: NamespaceRule) -> Result<Deleted, TargetError> {
        let resource = self.resource(&object.api_version, &object.kind).await?;
        check_scope(&resource, &object.namespace)?;
        if let Some(namespace) = namespace_of(&resource, &object.namespace, &object.name) {
            match self.namespace(namespace).await? {
                Namespace::Missing => return Ok(Deleted { note: None }),
                Namespace::There { is_ours: false, .. } if rule == NamespaceRule::Managed => {
                    return Err(TargetError::NamespaceNotManaged(namespace.to_owned()));
                }
                Namespace::There { .. } => {}
            }
        }
        // The policy is in the query: a DELETE has no body here.
        let path = format!("{}?propagationPolicy=Background", resource.path(&object.namespace, &object.name)?);
        let call = Call { method: Method::DELETE, ..Call::get(&path, api::METADATA) };
        match api::ask(self.api(), &call).await {
            Ok(text) => {
                let metadata = metadata(&text)?;
                let waits = !metadata.deletion_timestamp.0.is_empty()
                    && metadata.finalizers.is_some_and(|names| !names.first::<Text<'_>>(1).is_empty());
                Ok(Deleted { note: waits.then_some(WAITS_FOR_FINALIZERS) })
            }
            Err(Fault::Refused(refusal)) if refusal.code == 404 => Ok(Deleted { note: None }),
            Err(fault) => Err(fault.into()),
        }
    }

    pub(super) async fn resource(&self, api_version: &str, kind: &str) -> Result<Resource, TargetError> {
        let found = self.resources.find(self.api(), api_version, kind).await?;
        found.ok_or_else(|| TargetError::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() })
    }

    /// Server-side apply without force: a field that somebody else owns is a conflict.
    async fn patch(
        &self,
        resource: &Resource,
        manifest: &Manifest<'_>,
        labels: &[(&str, &str)],
    ) -> Result<Body<'_>, Fault> {
        let path = resource
            .path(&manifest.namespace, &manifest.name)
            .map_err(|_| Fault::Unusable("the name cannot be part of a path".to_owned()))?;
        let path = format!("{path}?fieldManager={FIELD_MANAGER}");
        let body = || manifest.write(labels);
        let call = Call {
            method: Method::PATCH,
            content: Some(("application/apply-patch+yaml", &body)),
            ..Call::get(&path, api::METADATA)
        };
        api::ask(self.api(), &call).await
    }

    fn applied(&self, resource: &Resource, manifest: &Manifest<'_>, text: &[u8]) -> Result<Applied, TargetError> {
        let metadata = metadata(text)?;
        if metadata.uid.0.is_empty() {
            return Err(TargetError::Unusable("the API server's answer is no object".to_owned()));
        }
        let uid = metadata.uid.cut(limits::CONDITION_TEXT_BYTES);
        let reference = ObjectRef { uid, generation: metadata.generation, ..manifest.reference() };
        let readiness = self.readiness(resource, &reference);
        Ok(Applied { reference, readiness })
    }

    /// Whether anybody reports on an object that is there; who does is asked to look at it.
    pub(super) fn readiness(&self, resource: &Resource, object: &ObjectRef) -> Readiness {
        let is_watched =
            self.kinds.iter().take(limits::WATCHES).any(|kind| kind.matches(&object.api_version, &object.kind));
        if is_watched {
            self.looks.add(resource, object);
            return Readiness::Watched;
        }
        Readiness::Silent("nothing reports on this kind here")
    }

    /// Sees to it that a namespace is there and may be used, and tells whether it is ours and which types of operations
    /// it does.
    async fn open_namespace(&self, name: &str, rule: NamespaceRule) -> Result<(bool, Option<String>), TargetError> {
        let mut is_made = false;
        loop {
            match self.namespace(name).await? {
                Namespace::There { is_ours: false, .. } if rule == NamespaceRule::Managed => {
                    return Err(TargetError::NamespaceNotManaged(name.to_owned()));
                }
                Namespace::There { is_ending: true, .. } => return Err(terminating(name)),
                Namespace::There { is_ours, allowed_types, .. } => return Ok((is_ours, allowed_types)),
                Namespace::Missing if is_made => return Err(terminating(name)),
                Namespace::Missing => {
                    is_made = true;
                    // One that was made by somebody else meanwhile is looked at again.
                    if self.make_namespace(name).await? {
                        return Ok((true, None));
                    }
                }
            }
        }
    }

    async fn namespace(&self, name: &str) -> Result<Namespace, TargetError> {
        let path = format!("/api/v1/namespaces/{}", segment(name)?);
        let text = match api::ask(self.api(), &Call::get(&path, api::METADATA)).await {
            Ok(text) => text,
            Err(Fault::Refused(refusal)) if refusal.code == 404 => return Ok(Namespace::Missing),
            Err(fault) => return Err(fault.into()),
        };
        let metadata = metadata(&text)?;
        let is_ending = !metadata.deletion_timestamp.0.is_empty();
        let is_ours = entry(metadata.labels, NAMESPACE_LABEL.0).is_some_and(|value| value.0 == NAMESPACE_LABEL.1);
        let allowed_types = entry(metadata.annotations, ALLOWED_TYPES_ANNOTATION);
        let allowed_types = allowed_types.map(|value| value.cut(limits::CONDITION_TEXT_BYTES));
        Ok(Namespace::There { is_ours, is_ending, allowed_types })
    }

    /// Whether it was us who made it.
    async fn make_namespace(&self, name: &str) -> Result<bool, TargetError> {
        let body = || {
            let (label, value) = NAMESPACE_LABEL;
            serde_json::json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": name, "labels": {label: value}},
            })
            .to_string()
            .into_bytes()
        };
        let path = format!("/api/v1/namespaces?fieldManager={FIELD_MANAGER}");
        let call = Call { method: Method::POST, content: Some((api::JSON, &body)), ..Call::get(&path, api::METADATA) };
        match api::ask(self.api(), &call).await {
            Ok(_) => {
                tracing::info!(namespace = name, "made a namespace");
                Ok(true)
            }
            Err(Fault::Refused(refusal)) if refusal.code == 409 => Ok(false),
            Err(fault) => Err(fault.into()),
        }
    }
}

const WAITS_FOR_FINALIZERS: &str = "the object is marked for deletion and goes when its finalizers are done with it";

fn check_scope(resource: &Resource, namespace: &str) -> Result<(), TargetError> {
    match (resource.namespaced, namespace.is_empty()) {
        (true, true) => Err(TargetError::Invalid("metadata.namespace is missing".to_owned())),
        (false, false) => {
            Err(TargetError::Invalid(format!("{} has no namespaces: leave metadata.namespace out", resource.kind)))
        }
        (true, false) | (false, true) => Ok(()),
    }
}

/// The namespace that an object is in. One that is a namespace is in itself: who may change or delete it has all
/// that is in it.
fn namespace_of<'a>(resource: &Resource, namespace: &'a str, name: &'a str) -> Option<&'a str> {
    if resource.namespaced {
        return Some(namespace);
    }
    (group_of(&resource.api_version).is_empty() && resource.kind == "Namespace").then_some(name)
}

/// The entry of this name among labels or annotations.
fn entry<'a>(entries: Option<&'a RawValue>, wanted: &str) -> Option<Text<'a>> {
    let mut found = None;
    super::decode::members(entries?, |name, value| {
        if name != wanted {
            return std::ops::ControlFlow::Continue(());
        }
        found = serde_json::from_str(value.get()).ok();
        std::ops::ControlFlow::Break(())
    });
    found
}

fn terminating(namespace: &str) -> TargetError {
    TargetError::Stuck(format!("the namespace {namespace} is being deleted and can be used again when that is over"))
}

fn metadata(text: &[u8]) -> Result<Metadata<'_>, TargetError> {
    #[derive(Deserialize)]
    struct Object<'a> {
        #[serde(borrow)]
        metadata: Metadata<'a>,
    }

    json::read::<Object<'_>>(text)
        .map(|object| object.metadata)
        .map_err(|_| TargetError::Unusable("the API server's answer is no object".to_owned()))
}

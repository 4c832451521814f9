//! The `Cluster` objects: which there are, what is said of them, and when one changes.
//!
//! A change is looked at with a new list and not put together from events: there are one or two of them, and hours
//! between two changes.

use http::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::api::{self, Api, Call, Fault, Refusal, query};
use super::client;
use super::decode::{Items, Text};
use super::object::Event;
use super::own::{Own, OwnError};
use crate::json;
use crate::limits;
use crate::protocol::{FIELD_MANAGER, Timestamp};
use crate::resources::{CLUSTER_FINALIZER, Cluster, ClusterStatus, ROTATE_ANNOTATION};

const PATH: &str = "/apis/ops.vworkspace.io/v1alpha1/clusters";

/// More than these are of no use: one is ours.
const MOST: usize = 16;

/// The Clusters of a list.
#[derive(Debug)]
pub struct Clusters {
    /// Where a watch goes on.
    pub version: String,
    /// At most 16 of them.
    pub clusters: Vec<Cluster>,
    /// Those that cannot be read.
    pub unreadable: usize,
}

/// Tells of changes of Clusters.
pub struct ClusterWatch {
    api: Api,
    selector: String,
}

/// What is told as an event of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice<'a> {
    /// Somebody should do something.
    pub is_warning: bool,
    /// One word.
    pub reason: &'a str,
    /// A sentence.
    pub message: &'a str,
}

impl Own {
    /// Lists the Cluster of this name, or all there are. Blocks.
    ///
    /// # Errors
    /// As [`OwnError`] lists them; [`OwnError::Absent`] where the kind is not known.
    pub fn clusters(&self, name: Option<&str>) -> Result<Clusters, OwnError> {
        #[derive(Deserialize)]
        struct List<'a> {
            #[serde(borrow)]
            metadata: Metadata<'a>,
            #[serde(borrow, default)]
            items: Option<Items<'a>>,
        }

        #[derive(Deserialize)]
        struct Metadata<'a> {
            #[serde(borrow, default, rename = "resourceVersion")]
            version: Text<'a>,
        }

        let path = format!("{PATH}?limit={MOST}{}", selector(name));
        let text = self.call(&Method::GET, &path, "", "", limits::API_BODY_BYTES)?;
        let unusable = || OwnError::Unusable("the API server's answer is no list of Clusters");
        let list: List<'_> = json::read(&text).map_err(|_| unusable())?;
        let items = list.items.map(|items| items.first::<&RawValue>(MOST)).unwrap_or_default();
        let found = items.len();
        let clusters: Vec<Cluster> =
            items.into_iter().filter_map(|item| Cluster::parse(item.get().as_bytes()).ok()).collect();
        let version = list.metadata.version.cut(limits::CONDITION_TEXT_BYTES);
        Ok(Clusters { version, unreadable: found - clusters.len(), clusters })
    }

    /// Writes the status of a Cluster. Blocks.
    ///
    /// # Errors
    /// As [`OwnError`] lists them.
    pub fn write_status(&self, name: &str, status: &ClusterStatus) -> Result<(), OwnError> {
        // Texts and numbers cannot fail to be written.
        let status = serde_json::to_string(status).unwrap_or_default();
        self.patch(name, "/status", &format!(r#"{{"status":{status}}}"#))
    }

    /// Puts our finalizer on a Cluster of just this version, or takes it away. Blocks.
    ///
    /// # Errors
    /// As [`OwnError`] lists them.
    pub fn set_finalizer(&self, cluster: &Cluster, is_there: bool) -> Result<(), OwnError> {
        let metadata = &cluster.metadata;
        let others = metadata.finalizers.iter().flatten().map(String::as_str).filter(|name| *name != CLUSTER_FINALIZER);
        let finalizers: Vec<&str> = others.chain(is_there.then_some(CLUSTER_FINALIZER)).collect();
        let finalizers = serde_json::to_string(&finalizers).unwrap_or_default();
        let version = &metadata.resource_version;
        let patch = format!(r#"{{"metadata":{{"resourceVersion":"{version}","finalizers":{finalizers}}}}}"#);
        self.patch(&metadata.name, "", &patch)
    }

    /// Takes the annotation away that asks for a rotation. Blocks.
    ///
    /// # Errors
    /// As [`OwnError`] lists them.
    pub fn end_rotation(&self, name: &str) -> Result<(), OwnError> {
        self.patch(name, "", &format!(r#"{{"metadata":{{"annotations":{{"{ROTATE_ANNOTATION}":null}}}}}}"#))
    }

    /// Tells of a Cluster, as `kubectl describe` shows it. Blocks.
    ///
    /// # Errors
    /// As [`OwnError`] lists them.
    pub fn post_event(&self, cluster: &Cluster, notice: Notice<'_>, now: Timestamp) -> Result<(), OwnError> {
        let kind = if notice.is_warning { "Warning" } else { "Normal" };
        let (name, uid, reason) = (&cluster.metadata.name, &cluster.metadata.uid, notice.reason);
        let message = serde_json::to_string(notice.message).unwrap_or_default();
        // That of an object without a namespace lies in `default`.
        let event = format!(
            r#"{{"apiVersion":"v1","kind":"Event","metadata":{{"generateName":"{FIELD_MANAGER}-","namespace":"default"}},"involvedObject":{{"apiVersion":"ops.vworkspace.io/v1alpha1","kind":"Cluster","name":"{name}","uid":"{uid}"}},"type":"{kind}","reason":"{reason}","message":{message},"source":{{"component":"{FIELD_MANAGER}"}},"firstTimestamp":"{now}","lastTimestamp":"{now}","count":1}}"#
        );
        let path = "/api/v1/namespaces/default/events";
        self.call(&Method::POST, path, api::JSON, &event, limits::METADATA_BODY_BYTES)?;
        Ok(())
    }

    /// A watch of the Cluster of this name, or of all. Needs a runtime around it.
    #[must_use]
    pub fn watch_clusters(&self, name: Option<&str>) -> ClusterWatch {
        ClusterWatch { api: Api::new(client::connect(self.credentials.clone())), selector: selector(name) }
    }

    fn patch(&self, name: &str, subresource: &str, patch: &str) -> Result<(), OwnError> {
        let name = api::segment(name).map_err(|_| OwnError::Unusable("its name is none that a Cluster can have"))?;
        let path = format!("{PATH}/{name}{subresource}?fieldManager={FIELD_MANAGER}");
        self.call(&Method::PATCH, &path, super::own::MERGE, patch, limits::API_BODY_BYTES)?;
        Ok(())
    }
}

impl ClusterWatch {
    /// Waits until something changes after this version, or the watch has lasted its time.
    ///
    /// # Errors
    /// When it cannot be watched from there.
    pub async fn changed(&self, version: &str) -> Result<(), OwnError> {
        self.first_event(version).await.map_err(OwnError::from)
    }

    async fn first_event(&self, version: &str) -> Result<(), Fault> {
        let path = format!(
            "{PATH}?watch=true&timeoutSeconds={}&resourceVersion={}{}",
            limits::WATCH_TIMEOUT.as_secs(),
            query(version),
            self.selector
        );
        let mut body = api::open(&self.api, &Call::get(&path, api::JSON)).await?.into_body();
        let mut line = Vec::new();
        while let Some(piece) = api::next(&mut body).await? {
            let end = piece.iter().position(|byte| *byte == b'\n');
            // What an event says is of no interest but where it is an error, which is short.
            if line.len() < limits::HOLDER_BODY_BYTES {
                line.extend_from_slice(piece.get(..end.unwrap_or(piece.len())).unwrap_or_default());
            }
            if end.is_some() {
                let event = json::read::<Event<'_>>(&line).ok();
                return match event.filter(|event| event.kind.0 == "ERROR") {
                    Some(event) => Err(Fault::Refused(Refusal::read(200, event.object.get().as_bytes()))),
                    None => Ok(()),
                };
            }
        }
        Ok(())
    }
}

fn selector(name: Option<&str>) -> String {
    name.map(|name| format!("&fieldSelector=metadata.name%3D{}", query(name))).unwrap_or_default()
}

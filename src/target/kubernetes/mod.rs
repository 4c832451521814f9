//! A Kubernetes API.
//!
//! `kube::Client` carried by our own [`Line`](crate::net::Line)s (`client`). Credentials and configuration
//! are read by us (`cluster`, `kubeconfig`, `credentials`) and not through `kube::Config`: our service needs a
//! URL, a TLS configuration and a bearer that follows its file, while a `Config` would be taken apart
//! again for each, and its readers bring a YAML deserializer and plug-ins that are refused here.
//!
//! Bounds: two short calls at a time, a watch on a thread of its own for each of the first
//! [`limits::WATCHES`] kinds and of who acts, bodies and lines as `limits` has them, and no tree of
//! what the API server sends.

mod admin;
mod api;
mod apply;
mod baseline;
mod client;
mod cluster;
mod clusters;
mod conflict;
mod credentials;
mod decode;
mod drift;
mod holder;
mod inspect;
mod kubeconfig;
mod looks;
mod message;
mod object;
mod observe;
mod own;
mod pause;
mod recall;
mod resources;
mod stamp;
#[cfg(feature = "webhook")]
mod webhook;
mod yaml;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::{mpsc, oneshot};

use self::api::Api;
pub use self::api::REFUSED;
use self::credentials::Credentials;
use self::looks::Looks;
use self::recall::Recall;
use self::resources::Resources;
use super::{Applied, Deleted, GroupKind, Holder, NamespaceRule, Observation, Pending, Stamp, Target, TargetError};
use crate::count::Count;
use crate::limits;
use crate::metrics::Meter;
use crate::protocol::{Manifest, ObjectRef};

pub use self::admin::{AccountToken, Admin, AdminError, Document};
pub use self::cluster::{Access, AccessError, Location, Surroundings, Wish, locate};
pub use self::clusters::{ClusterWatch, Clusters, Notice};
pub use self::inspect::{Fit, Inspector, Record, Right, kinds_of, rights_of};
pub use self::own::{Own, OwnError, SecretObject, push_encoded, push_text, secret_patch};
pub use self::yaml::{YamlError, list_as_json, text_of_spec};

/// The target that applies to a Kubernetes API server.
pub struct Kubernetes(Arc<Inner>);

struct Inner {
    credentials: Arc<Credentials>,
    api: OnceLock<Api>,
    cluster_id: String,
    kinds: Vec<GroupKind>,
    resources: Resources,
    /// What was applied and is to be looked at by who observes.
    looks: Looks,
    /// What is to be reported on once more by who observes.
    recall: Recall,
    /// Sightings of objects beyond those that are compared.
    unreported: Count,
    /// Kinds that are not reported on for now.
    troubled: AtomicUsize,
}

impl Kubernetes {
    /// A target for the cluster `cluster_id`, whose objects carry that id as a label. The first
    /// [`limits::WATCHES`] of `kinds` are watched, the others listed periodically.
    /// Connects to nothing yet.
    ///
    /// A `Secret` is never observed: it has no conditions, and whoever looked at it would have what is in it.
    ///
    /// # Errors
    /// When the cluster id cannot be the value of a label.
    pub fn open(access: &Access, cluster_id: &str, mut kinds: Vec<GroupKind>) -> Result<Self, AccessError> {
        kinds.retain(|kind| !kind.matches("v1", "Secret"));
        if !is_label_value(cluster_id) {
            return Err(AccessError::ClusterIdNotALabel(cluster_id.to_owned()));
        }
        Ok(Self(Arc::new(Inner {
            credentials: Arc::clone(&access.credentials),
            api: OnceLock::new(),
            cluster_id: cluster_id.to_owned(),
            recall: Recall::new(kinds.len()),
            unreported: Count::default(),
            troubled: AtomicUsize::new(0),
            kinds,
            resources: Resources::new(),
            looks: Looks::default(),
        })))
    }
}

impl Target for Kubernetes {
    fn describe(&self) -> String {
        format!("kubernetes {}", self.0.credentials.server())
    }

    fn meter(&self) -> Meter {
        self.0.credentials.meter()
    }

    fn apply<'a>(
        &'a self,
        manifest: &'a Manifest<'a>,
        rule: NamespaceRule,
    ) -> Pending<'a, Result<Applied, TargetError>> {
        Box::pin(self.0.apply_manifest(manifest, rule))
    }

    fn delete<'a>(&'a self, object: &'a ObjectRef, rule: NamespaceRule) -> Pending<'a, Result<Deleted, TargetError>> {
        Box::pin(self.0.delete_object(object, rule))
    }

    fn stamp<'a>(&'a self, object: &'a ObjectRef) -> Pending<'a, Result<Option<Stamp>, TargetError>> {
        Box::pin(self.0.read_stamp(object))
    }

    fn observe(&self, sink: mpsc::Sender<Observation>) -> Pending<'_, ()> {
        Box::pin(observe::run(Arc::clone(&self.0), sink))
    }

    fn kinds(&self) -> (usize, usize) {
        (self.0.kinds.len(), self.0.troubled.load(Ordering::Relaxed))
    }

    fn unreported(&self) -> u64 {
        self.0.unreported.now()
    }

    fn left_out(&self) -> String {
        let mut named = String::new();
        let out = self.0.recall.left_out();
        for kind in out.iter().take(limits::NAMED_KINDS).filter_map(|number| self.0.kinds.get(*number)) {
            let comma = if named.is_empty() { "" } else { ", " };
            // Writing to a string does not fail.
            let _ = write!(named, "{comma}{kind}");
        }
        if let Some(more @ 1..) = out.len().checked_sub(limits::NAMED_KINDS) {
            let _ = write!(named, " and {more} more");
        }
        named
    }

    fn report_again(&self, ticket: Arc<()>) {
        self.0.recall.ask(&ticket);
    }

    fn unsent(&self) -> (usize, usize) {
        self.0.recall.owed()
    }

    fn hold(&self, me: Holder, held: oneshot::Sender<()>) -> Pending<'_, Holder> {
        Box::pin(holder::run(&self.0, me, held))
    }
}

impl Inner {
    /// The client is made on its first use, because that needs a runtime around it.
    fn api(&self) -> &Api {
        self.api.get_or_init(|| Api::new(client::connect(Arc::clone(&self.credentials))))
    }
}

fn is_label_value(text: &str) -> bool {
    let is_end = |end: Option<char>| end.is_some_and(|end| end.is_ascii_alphanumeric());
    text.len() <= 63
        && is_end(text.chars().next())
        && is_end(text.chars().next_back())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::is_label_value;

    #[test]
    fn a_cluster_id_has_to_be_a_label() {
        for good in ["a", "c-1", "A.b_c", &"x".repeat(63)] {
            assert!(is_label_value(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "ä", "a,b", &"x".repeat(64)] {
            assert!(!is_label_value(bad), "{bad}");
        }
    }
}

//! Where a kind lives in the API.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use tokio::sync::watch;

use super::api::{self, Api, Body, Call, Fault, segment};
use super::decode::{Items, Text};
use crate::json;
use crate::limits;
use crate::protocol::group_of;
use crate::target::{GroupKind, TargetError};

/// A kind of one version, and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resource {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) plural: String,
    pub(super) namespaced: bool,
}

/// What was found out about kinds. A kind that is not there is not remembered: its definition may come at
/// any time.
pub(super) struct Resources {
    known: Mutex<VecDeque<Resource>>,
    discoveries: watch::Sender<u64>,
}

impl Resource {
    /// All objects of the kind, in all namespaces.
    pub(super) fn collection(&self) -> String {
        format!("{}/{}", base(&self.api_version), self.plural)
    }

    /// One object.
    pub(super) fn path(&self, namespace: &str, name: &str) -> Result<String, TargetError> {
        let base = base(&self.api_version);
        let name = segment(name)?;
        Ok(if self.namespaced {
            format!("{base}/namespaces/{}/{}/{name}", segment(namespace)?, self.plural)
        } else {
            format!("{base}/{}/{name}", self.plural)
        })
    }
}

impl Resources {
    pub(super) fn new() -> Self {
        Self { known: Mutex::new(VecDeque::new()), discoveries: watch::Sender::new(0) }
    }

    /// Changes when a job found a kind that was not known before.
    pub(super) fn discoveries(&self) -> watch::Receiver<u64> {
        self.discoveries.subscribe()
    }

    /// The place of a kind, from memory or from the API server.
    pub(super) async fn find(&self, api: &Api, api_version: &str, kind: &str) -> Result<Option<Resource>, Fault> {
        let remembered =
            self.known().iter().find(|known| known.api_version == api_version && known.kind == kind).cloned();
        if remembered.is_some() {
            return Ok(remembered);
        }
        let found = fetch(api, api_version, kind).await?;
        if let Some(resource) = &found {
            let mut known = self.known();
            if known.len() == limits::KNOWN_KINDS {
                known.pop_front();
            }
            known.push_back(resource.clone());
            self.discoveries.send_modify(|count| *count += 1);
        }
        Ok(found)
    }

    /// Forgets a kind that was not where it should be.
    pub(super) fn forget(&self, resource: &Resource) {
        self.known().retain(|known| known != resource);
    }

    fn known(&self) -> std::sync::MutexGuard<'_, VecDeque<Resource>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a kind in the version that the API server prefers, or else in another one that has it.
pub(super) async fn preferred(api: &Api, kind: &GroupKind) -> Result<Option<Resource>, Fault> {
    if kind.group.is_empty() {
        return fetch(api, "v1", &kind.kind).await;
    }
    let Some(text) = unless_missing(api::ask(api, &Call::get(&format!("/apis/{}", kind.group), api::JSON)).await)?
    else {
        return Ok(None);
    };
    let versions = versions(&text)?;
    drop(text);
    for version in versions {
        if group_of(&version) == kind.group
            && let Some(resource) = fetch(api, &version, &kind.kind).await?
        {
            return Ok(Some(resource));
        }
    }
    Ok(None)
}

/// Versions of one group that are looked through; Kubernetes itself has never served more than four.
const VERSIONS: usize = 8;

fn versions(text: &[u8]) -> Result<Vec<String>, Fault> {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Group<'a> {
        #[serde(borrow)]
        preferred_version: Option<Version<'a>>,
        #[serde(borrow)]
        versions: Option<Items<'a>>,
    }

    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Version<'a> {
        #[serde(borrow)]
        group_version: Text<'a>,
    }

    let group: Group<'_> = parse(text, "a list of versions")?;
    let mut versions = Vec::new();
    let others = group.versions.map(|versions| versions.first::<Version<'_>>(VERSIONS)).unwrap_or_default();
    for version in group.preferred_version.into_iter().chain(others) {
        let version = version.group_version.0.into_owned();
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    Ok(versions)
}

async fn fetch(api: &Api, api_version: &str, kind: &str) -> Result<Option<Resource>, Fault> {
    if !is_version(api_version) {
        return Ok(None);
    }
    let path = base(api_version);
    let Some(text) = unless_missing(api::ask(api, &Call::get(&path, api::JSON)).await)? else { return Ok(None) };
    find_kind(&text, api_version, kind)
}

fn find_kind(text: &[u8], api_version: &str, kind: &str) -> Result<Option<Resource>, Fault> {
    #[derive(Deserialize)]
    struct List<'a> {
        #[serde(borrow)]
        resources: Option<Items<'a>>,
    }

    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Entry<'a> {
        #[serde(borrow)]
        name: Text<'a>,
        #[serde(borrow)]
        kind: Text<'a>,
        namespaced: bool,
    }

    let list: List<'_> = parse(text, "a list of resources")?;
    let mut found = None;
    if let Some(resources) = list.resources {
        resources.each(|entry: Entry<'_>| {
            // `deployments/status` has a kind, too.
            if entry.kind.0 != kind || segment(&entry.name.0).is_err() {
                return ControlFlow::Continue(());
            }
            found = Some(Resource {
                api_version: api_version.to_owned(),
                kind: kind.to_owned(),
                plural: entry.name.0.into_owned(),
                namespaced: entry.namespaced,
            });
            ControlFlow::Break(())
        });
    }
    Ok(found)
}

fn parse<'a, T: Deserialize<'a>>(text: &'a [u8], what: &str) -> Result<T, Fault> {
    json::read(text).map_err(|_| Fault::Unusable(format!("the API server's answer is not {what}")))
}

fn unless_missing(answer: Result<Body<'_>, Fault>) -> Result<Option<Body<'_>>, Fault> {
    match answer {
        Ok(text) => Ok(Some(text)),
        Err(Fault::Refused(refusal)) if refusal.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

fn base(api_version: &str) -> String {
    if api_version.contains('/') { format!("/apis/{api_version}") } else { format!("/api/{api_version}") }
}

/// Whether a text can be `group/version` or `version`, and so be part of a path.
fn is_version(api_version: &str) -> bool {
    let part = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphanumeric())
            && part
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-'))
    };
    let mut parts = api_version.split('/');
    api_version.len() <= 256
        && parts.next().is_some_and(part)
        && parts.next().is_none_or(part)
        && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::{find_kind, is_version, versions};

    #[test]
    fn only_a_group_and_a_version_become_a_path() {
        for good in ["v1", "apps/v1", "apps.vworkspace.io/v1alpha1"] {
            assert!(is_version(good), "{good}");
        }
        for bad in ["", "/v1", "a/b/c", "../api", "v1?x", "apps/../v1", "A/v1", "v1/"] {
            assert!(!is_version(bad), "{bad}");
        }
    }

    #[test]
    fn a_subresource_is_not_the_kind() {
        let text = br#"{"resources":[{"name":"as/status","kind":"A","namespaced":true},{"name":"as","kind":"A","namespaced":true},{"name":"bs","kind":"B"}]}"#;
        let found = find_kind(text, "g/v1", "A").unwrap().unwrap();
        assert_eq!((found.collection().as_str(), found.namespaced), ("/apis/g/v1/as", true));
        assert_eq!(found.path("n", "x").unwrap(), "/apis/g/v1/namespaces/n/as/x");
        assert!(!find_kind(text, "g/v1", "B").unwrap().unwrap().namespaced);
        assert_eq!(find_kind(text, "g/v1", "C").unwrap(), None);
        assert_eq!(find_kind(br#"{"resources":null}"#, "g/v1", "C").unwrap(), None);
        assert!(find_kind(b"<html>", "g/v1", "C").is_err());
    }

    #[test]
    fn the_preferred_version_comes_first() {
        let text = br#"{"versions":[{"groupVersion":"g/v2"},{"groupVersion":"g/v1"}],"preferredVersion":{"groupVersion":"g/v1"}}"#;
        assert_eq!(versions(text).unwrap(), ["g/v1", "g/v2"]);
    }
}

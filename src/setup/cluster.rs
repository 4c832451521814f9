//! The Cluster that an agent in a pod goes by, as the manifest that k3s applies: what somebody wrote there stays.

use std::path::Path;

use super::error::SetupError;
use super::host::Host;
use super::pod::FILES;
use super::site::{Site, open_admin};
use super::{MANIFESTS, TOKEN_SECRET};
use crate::config::{Config, ConfigError};
use crate::net::PlainHttp;
use crate::protocol::ClusterId;
use crate::target::kubernetes::text_of_spec;

/// The members that settings come to, and where a change of one goes that we cannot make.
const MEMBERS: [&str; 3] = ["controlPlaneEndpoint", "clusterId", "caBundle"];
const BY_HAND: &str = "set it in pullet-6-this-cluster.yaml by hand";

/// The manifest as it is: the file's, or what the Cluster says that is there, or nothing.
pub(super) fn present(host: &Host, kubeconfig: Option<&Path>, context: Option<&str>) -> Result<String, SetupError> {
    let text = host.read(&[MANIFESTS, "/", FILES[5]].concat())?;
    // An API server that does not answer is told of when it is needed.
    let admin = kubeconfig.filter(|_| text.is_empty());
    let admin = admin.and_then(|file| open_admin(file, context, PlainHttp::Refused).ok());
    let found = admin.and_then(|admin| admin.own().clusters(None).ok());
    let Some(cluster) = found.as_ref().and_then(|found| found.clusters.first()) else { return Ok(text) };
    let Ok(spec) = &cluster.spec else { return Ok(text) };
    let endpoint = spec.endpoint().ok().flatten();
    with(template(&cluster.metadata.name), [endpoint, spec.cluster_id.as_deref(), spec.ca_bundle.as_deref()])
}

/// What the Cluster is called that this agent goes by.
pub(super) fn name(config: &Config) -> &str {
    config.cluster_resource.as_deref().filter(|name| *name != "*").unwrap_or("this-cluster")
}

/// The endpoint and the name of this cluster, as it says them.
pub(super) fn known(text: &str) -> [Option<String>; 2] {
    [MEMBERS[0], MEMBERS[1]].map(|member| text_of_spec(text, member))
}

/// The manifest as it is to be.
pub(super) fn wanted(site: &Site<'_>) -> Result<String, SetupError> {
    let text = if site.cluster.is_empty() { template(name(&site.config)) } else { site.cluster.clone() };
    let id = site.config.cluster_id.as_ref().map(ClusterId::as_str);
    with(text, [Some(&site.endpoint), id, site.authority.as_ref().map(|text| text.as_str())])
}

fn template(name: &str) -> String {
    [
        "# What this cluster is to its control plane. Made by pullet setup.\napiVersion: ops.vworkspace.io/v1alpha1\n\
         kind: Cluster\nmetadata:\n  name: ",
        name,
        "\nspec:\n  connectivityMode: pull\n  registrationTokenSecretRef:\n    name: ",
        TOKEN_SECRET,
        "\n",
    ]
    .concat()
}

/// The text with these values in it, and all else as it was.
fn with(mut text: String, values: [Option<&str>; 3]) -> Result<String, SetupError> {
    for (member, value) in MEMBERS.into_iter().zip(values) {
        let Some(value) = value else { continue };
        let says = |text: &str| text_of_spec(text, member).as_deref() == Some(value);
        if !says(&text) {
            text = set(&text, member, value);
        }
        if !says(&text) {
            return Err(ConfigError::Missing(member, BY_HAND).into());
        }
    }
    Ok(text)
}

fn set(text: &str, member: &str, value: &str) -> String {
    let start = ["  ", member, ":"].concat();
    // Quoted as JSON is, which is YAML.
    let line = [&start, " ", &serde_json::to_string(value).unwrap_or_default()].concat();
    let mut lines = Vec::new();
    let (mut is_set, mut is_old) = (false, false);
    for present in text.lines() {
        // What is deeper belongs to it.
        let is_deeper = present.is_empty() || present.starts_with("   ");
        is_old = is_set && (present.starts_with(&start) || is_old && is_deeper);
        if !is_old {
            lines.push(present);
        }
        if present == "spec:" && !is_set {
            is_set = true;
            lines.push(&line);
        }
    }
    lines.push("");
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::{known, template, with};

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";

    #[test]
    fn what_is_given_is_set_and_all_else_stays_as_somebody_wrote_it() {
        let text = with(template("a"), [Some("https://a"), Some("c \"1\""), Some(PEM)]).unwrap();
        assert_eq!(known(&text), [Some("https://a".to_owned()), Some("c \"1\"".to_owned())]);
        // What is there already is left, however it is written.
        assert_eq!(with(text.clone(), [Some("https://a"), None, Some(PEM)]).unwrap(), text);
        let by_hand = "kind: Cluster\nmetadata:\n  clusterId: x\nspec:\n  # Ours.\n  caBundle: |\n    -----BEGIN CERTIFICATE-----\n    MA==\n    -----END CERTIFICATE-----\n\n  clusterId: c1 # one\n  policy:\n    caBundle: x\n";
        assert_eq!(with(by_hand.to_owned(), [None, Some("c1"), Some(PEM)]).unwrap(), by_hand);
        let expected = "kind: Cluster\nmetadata:\n  clusterId: x\nspec:\n  caBundle: \"new\"\n  clusterId: \"c2\"\n  controlPlaneEndpoint: \"https://b\"\n  # Ours.\n  policy:\n    caBundle: x\n";
        assert_eq!(with(by_hand.to_owned(), [Some("https://b"), Some("c2"), Some("new")]).unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_set_is_left_to_whoever_wrote_it() {
        for text in [
            "",
            "spec: {clusterId: c1}\n",
            "spec:\n    clusterId: c1\n",
            "spec:\n  clusterId: [\n  c1]\n",
            "spec: [1]\n",
        ] {
            let error = with(text.to_owned(), [None, Some("c2"), None]).unwrap_err();
            assert_eq!(
                error.to_string(),
                "clusterId is missing: set it in pullet-6-this-cluster.yaml by hand",
                "{text}"
            );
        }
        assert_eq!(
            with("spec: {clusterId: c1}\n".to_owned(), [None, Some("c1"), None]).unwrap(),
            "spec: {clusterId: c1}\n"
        );
        assert_eq!(known("spec:\n  controlPlaneEndpoint: null\n"), [None, None]);
    }
}

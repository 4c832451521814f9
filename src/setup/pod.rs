//! The agent as a pod: manifests in the directory that k3s applies by itself, for a node without systemd or an owner who
//! wants everything in the cluster.

use super::error::SetupError;
use super::host::{Deed, Owner};
use super::site::Site;
use super::{MANIFESTS, cluster, wait};
use crate::config::{Config, ConfigError};
use crate::target::kubernetes::Admin;
use crate::texts;

/// How the manifests are called, in the order in which k3s applies them. It names what a file makes after the file up to
/// the first dot.
pub(super) const FILES: [&str; 6] = [
    "pullet-1-crds.yaml",
    "pullet-2-rbac.yaml",
    "pullet-3-cluster.yaml",
    "pullet-4-admission.yaml",
    "pullet-5-agent.yaml",
    "pullet-6-this-cluster.yaml",
];

/// Where the settings begin in the manifest of the agent, and where what follows them begins.
const SETTINGS: [&str; 2] = ["  pullet.toml: |\n", "---\n"];

/// How its node is chosen where none is named.
const ANY_SERVER: &str = "node-role.kubernetes.io/control-plane: \"true\"";

pub(super) fn install(site: &Site<'_>) -> Result<(), SetupError> {
    let host = &site.host;
    if site.flags.client_cert.is_some() {
        let why = "a pod sees no files of the node: use the unit, or k3s/ with a volume of your own";
        return Err(SetupError::Impossible(why));
    }
    if site.has_credential() {
        let why = "the agent of this node is a unit: leave --in-cluster out, or take it away first (pullet uninstall)";
        return Err(SetupError::Impossible(why));
    }
    let Some(admin) = site.admin()? else {
        return Err(SetupError::Impossible("--in-cluster needs k3s, and it has to run: start it first"));
    };
    let admission = site.admission(&admin)?.unwrap_or_default();
    let agent = agent(site, node(site, &admin).as_deref())?;
    let rights = (site.means.rights)(&Config { cluster_resource: None, ..site.config.clone() });
    let is_other = admin.own().clusters(None).is_ok_and(|found| {
        // Two of them, and none would be served.
        found.clusters.iter().any(|cluster| cluster.metadata.name != cluster::name(&site.config))
    });
    let cluster = if is_other { String::new() } else { cluster::wanted(site)? };
    if is_other && (site.flags.endpoint.is_some() || site.flags.cluster_id.is_some() || site.authority.is_some()) {
        host.say(
            "a Cluster of another name is there, and says endpoint, id and CA: kubectl edit clusters changes them",
        );
    }
    let texts = [site.means.definitions, &rights, site.means.cluster, &admission, &agent, &cluster];
    for (file, text) in FILES.iter().zip(texts) {
        if !text.is_empty() {
            host.put(&[MANIFESTS, "/", file].concat(), 0o600, Owner::Root, text.as_bytes())?;
        }
    }
    if host.is_dry() {
        site.hand_token(&admin)?;
        host.tell(Deed("wait", ""), "until the Cluster is connected");
        return Ok(());
    }
    if !site.starts {
        host.say("k3s applies the manifests; the one-time token belongs into its Secret (docs/install/k3s.md)");
        return Ok(());
    }
    let secret = ["/api/v1/namespaces/vworkspace-system/secrets/", super::TOKEN_SECRET].concat();
    wait(site, || match admin.has(&secret) {
        Ok(true) => None,
        Ok(false) => Some("k3s has not applied the manifests yet".to_owned()),
        Err(error) => Some(error.to_string()),
    })?;
    site.hand_token(&admin)?;
    wait(site, || look(&admin))?;
    host.say("it works: the agent polls; kubectl get clusters shows how it is");
    Ok(())
}

/// What the Clusters lack; nothing when one is connected.
fn look(admin: &Admin) -> Option<String> {
    let found = match admin.own().clusters(None) {
        Ok(found) => found.clusters,
        Err(error) => return Some(error.to_string()),
    };
    let conditions = || found.iter().flat_map(|cluster| &cluster.status.conditions);
    if conditions().any(|condition| condition.kind == "Connected" && condition.status == "True") {
        return None;
    }
    let wrong = conditions().find(|condition| condition.status == "False" && condition.kind != "Disconnected");
    Some(match wrong {
        Some(wrong) => [&wrong.reason, ": ", &wrong.message].concat(),
        None => "no agent has said anything yet (kubectl -n vworkspace-system describe pods)".to_owned(),
    })
}

/// The node by its name in the cluster, where that is the host's.
fn node(site: &Site<'_>, admin: &Admin) -> Option<String> {
    let name = site.host.read("/proc/sys/kernel/hostname").ok()?.trim().to_ascii_lowercase();
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
    let is_there = is_name && admin.has(&["/api/v1/nodes/", &name].concat()).unwrap_or(false);
    is_there.then_some(name)
}

/// The manifest of the agent with its settings: those of the manifest that is there, if one is, and what was given now.
fn agent(site: &Site<'_>, node: Option<&str>) -> Result<String, SetupError> {
    let before = &site.file;
    let manifest = texts::agent();
    let Some((head, _, rest)) = parts(&manifest) else {
        return Err(SetupError::Impossible(
            "this program carries a manifest without settings, which is a mistake of it",
        ));
    };
    let toml = settings(if parts(before).is_some() { before } else { &manifest });
    let mut flags = site.flags.clone();
    // These are said by the Cluster.
    (flags.endpoint, flags.cluster_id) = (None, None);
    if site.keyring.is_some() {
        flags.keyring = Some("/etc/pullet/keyring".into());
    }
    let path = site.host.path(&[MANIFESTS, "/", FILES[4]].concat());
    let toml = flags.written_into(&toml, &path).map_err(|error: ConfigError| SetupError::Config(error))?;
    let mut text = [head, SETTINGS[0], &indented(&toml)].concat();
    if let Some(keyring) = &site.keyring {
        text.push_str("  keyring: |\n");
        text.push_str(&indented(keyring));
    } else if let Some((_, kept)) = before.split_once("  keyring: |\n") {
        text.push_str("  keyring: |\n");
        text.push_str(kept.split_once(SETTINGS[1]).map_or("", |(kept, _)| kept));
    }
    text.push_str(SETTINGS[1]);
    match node {
        Some(node) => text.push_str(&rest.replace(ANY_SERVER, &["kubernetes.io/hostname: \"", node, "\""].concat())),
        None => text.push_str(rest),
    }
    Ok(text)
}

/// The settings of a manifest.
pub(super) fn settings(manifest: &str) -> String {
    let toml = parts(manifest).map_or("", |(_, toml, _)| toml);
    toml.lines().map(|line| [line.strip_prefix("    ").unwrap_or(line), "\n"].concat()).collect()
}

/// What stands before the settings, the settings, and what stands behind.
fn parts(text: &str) -> Option<(&str, &str, &str)> {
    let (head, rest) = text.split_once(SETTINGS[0])?;
    let (block, rest) = rest.split_once(SETTINGS[1])?;
    let toml = block.split_once("  keyring: |\n").map_or(block, |(toml, _)| toml);
    Some((head, toml, rest))
}

fn indented(text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { ["    ", line, "\n"].concat() }).collect()
}

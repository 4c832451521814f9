//! `pullet uninstall`: the agent goes, and what it applied stays, unless that is asked for.

use std::path::Path;

use super::ask::ask;
use super::error::SetupError;
use super::host::{Deed, Host};
use super::options::Options;
use super::site::open_admin;
use super::{
    DROP_IN, K3S_KUBECONFIG, MANIFESTS, Means, PACKAGED_UNITS, SETTINGS, STATE, SYSTEMD, SYSUSERS, UNIT, WANTED, pod,
};
use crate::config::{Config, Settings};
use crate::limits;
use crate::net::PlainHttp;
use crate::protocol::GroupKind;
use crate::target::kubernetes::{Admin, Document, OwnError};
use crate::texts;

/// Policies for kinds that settings of before may have allowed, and the objects whose definitions are ours.
const FURTHER: [&str; if cfg!(feature = "webhook") { 3 } else { 2 }] = [
    "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/pullet-kinds",
    "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/pullet-kinds",
    // Without the agent it would let nothing of ours be written.
    #[cfg(feature = "webhook")]
    "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/pullet",
];

const CLUSTERS: &str = "/apis/ops.vworkspace.io/v1alpha1/clusters";

const RESOURCES: [&str; 2] =
    ["/apis/ops.vworkspace.io/v1alpha1/operations", "/apis/apps.vworkspace.io/v1alpha1/applicationinstances"];

/// Those that a control plane had applied.
const OURS: &str = "&labelSelector=app.vworkspace.io%2Fmanaged-by%3Dcontrol-plane";

/// Takes the agent away, with its rights, Secrets and state.
///
/// # Errors
/// As [`SetupError`] lists them. What was said to be done is done.
pub fn uninstall(options: Options, means: &Means<'_>) -> Result<(), SetupError> {
    let host = Host::open(&options)?;
    host.end(take_away(&host, options, means))
}

fn take_away(host: &Host, mut options: Options, means: &Means<'_>) -> Result<(), SetupError> {
    let (kubeconfig, context) = (options.settings.kubeconfig.take(), options.settings.context.take());
    let kubeconfig = kubeconfig.or_else(|| host.has(K3S_KUBECONFIG).then(|| host.path(K3S_KUBECONFIG)));
    let kubeconfig = kubeconfig.filter(|_| !options.leaves_cluster);
    let config = settings(host, std::mem::take(&mut options.settings))?;
    let admin = kubeconfig.map(|file| reach(&file, context.as_deref())).transpose()?;
    let purged = match (&admin, options.purges) {
        (_, false) => Vec::new(),
        (None, true) => {
            return Err(SetupError::Impossible(
                "--purge-resources needs the cluster: give the kubeconfig of an administrator by --kubeconfig FILE",
            ));
        }
        (Some(admin), true) => to_be_purged(host, admin, &config, options.yes)?,
    };
    // The agent ends first: what it holds it would take again.
    if host.has(UNIT) || PACKAGED_UNITS.iter().any(|unit| host.has(unit)) {
        if host.has(SYSTEMD) {
            host.run("systemctl", &["disable", "--now", "pullet"])?;
        }
        host.remove(UNIT)?;
        host.remove(DROP_IN)?;
        // What somebody else put beside it stays.
        if let Some(directory) = host.path(DROP_IN).parent().filter(|_| !host.is_dry()) {
            let _ = std::fs::remove_dir(directory);
        }
        if host.has(SYSTEMD) {
            host.run("systemctl", &["daemon-reload"])?;
        }
    }
    if !host.has(SYSTEMD) {
        host.remove(WANTED)?;
    }
    // Then k3s forgets it, or it would make all of this again.
    for file in pod::FILES {
        host.remove(&[MANIFESTS, "/", file].concat())?;
    }
    if options.purges {
        host.remove(&[MANIFESTS, "/pullet"].concat())?;
    }
    if let Some(admin) = &admin {
        remove_objects(host, admin, &config, means)?;
        for path in &purged {
            remove(host, admin, path, path)?;
        }
        if options.purges {
            for document in Document::all(means.definitions) {
                remove_document(host, admin, &document)?;
            }
        }
    } else {
        host.say("no cluster was asked: what the agent has in one stays there, a pod as well (--kubeconfig FILE)");
    }
    for path in ["/etc/pullet", STATE, "/run/pullet", SYSUSERS] {
        host.remove(path)?;
    }
    host.say(if options.purges {
        "what others hold with a finalizer goes when they let it go"
    } else {
        "definitions, resources and workloads were left as they are"
    });
    host.say("the control plane does not know: take this node off its list there");
    host.say("the program and the user pullet are still there: apt purge pullet, or rm /usr/local/bin/pullet");
    Ok(())
}

/// The cluster, where it answers: before anything is taken away.
fn reach(kubeconfig: &Path, context: Option<&str>) -> Result<Admin, SetupError> {
    let admin = open_admin(kubeconfig, context, PlainHttp::Refused).and_then(|admin| {
        admin.minor()?;
        Ok(admin)
    });
    admin.map_err(|error| SetupError::Unreachable(Box::new(error)))
}

/// What the file allowed, if it can be read; a broken one is no reason to stay.
fn settings(host: &Host, flags: Settings) -> Result<Config, SetupError> {
    let text = host.read(SETTINGS).unwrap_or_default();
    let saved = Settings::parse(&host.path(SETTINGS), &text).unwrap_or_default();
    Ok(flags.over(saved).here()?)
}

fn remove_objects(host: &Host, admin: &Admin, config: &Config, means: &Means<'_>) -> Result<(), SetupError> {
    for file in pod::FILES {
        let name = file.trim_end_matches(".yaml");
        let path = ["/apis/k3s.cattle.io/v1/namespaces/kube-system/addons/", name].concat();
        remove(host, admin, &path, &path)?;
    }
    let rights = (means.rights)(&Config { cluster_resource: None, ..config.clone() });
    let admission = config.policy.admission();
    // The namespace, which is the first of the rights, goes last.
    for text in [&texts::agent(), &admission, means.cluster, &rights] {
        for document in Document::all(text).filter(|document| document.kind != "Namespace") {
            remove_document(host, admin, &document)?;
        }
    }
    for path in FURTHER {
        remove(host, admin, path, path)?;
    }
    // Nobody is there any more who would take it off.
    for path in admin.list(CLUSTERS, "", limits::PURGED_OBJECTS)? {
        host.tell(Deed("take the finalizer off", "took the finalizer off"), &path);
        if !host.is_dry() {
            release(admin, &path)?;
        }
    }
    for document in Document::all(&rights).filter(|document| document.kind == "Namespace") {
        remove_document(host, admin, &document)?;
    }
    Ok(())
}

/// Takes our finalizer off a Cluster, and leaves those of others.
fn release(admin: &Admin, path: &str) -> Result<(), SetupError> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let found = admin.own().clusters(Some(name)).map_err(|error| SetupError::Other(Box::new(error)))?;
    for cluster in &found.clusters {
        match admin.own().set_finalizer(cluster, false) {
            // It is gone with its finalizer.
            Ok(()) | Err(OwnError::Absent) => {}
            Err(error) => return Err(SetupError::Other(Box::new(error))),
        }
    }
    Ok(())
}

fn remove_document(host: &Host, admin: &Admin, document: &Document<'_>) -> Result<(), SetupError> {
    remove(host, admin, &document.path(), &document.describe())
}

/// Not a word where there is nothing.
fn remove(host: &Host, admin: &Admin, path: &str, what: &str) -> Result<(), SetupError> {
    let is_there = if host.is_dry() { admin.has(path) } else { admin.remove(path) };
    if is_there.map_err(|error| SetupError::Api(what.to_owned(), error))? {
        host.tell(Deed("remove", "removed"), what);
    }
    Ok(())
}

/// Lists what is to go with the agent, and asks whether it really is.
fn to_be_purged(host: &Host, admin: &Admin, config: &Config, yes: bool) -> Result<Vec<String>, SetupError> {
    let mut paths = Vec::new();
    let further = config.policy.kinds().iter().filter(|kind| !kind.group.ends_with(".vworkspace.io"));
    let mut collections = Vec::new();
    for kind in further {
        if let Some(base) = base(admin, kind)? {
            collections.push(([&base, "/", &kind.plural()].concat(), OURS));
        }
    }
    collections.extend(RESOURCES.into_iter().chain([CLUSTERS]).map(|path| (path.to_owned(), "")));
    for (collection, query) in collections {
        let found = admin.list(&collection, query, limits::PURGED_OBJECTS)?;
        if found.len() == limits::PURGED_OBJECTS {
            host.say("there are more than 500 of a kind: run the command again for the rest");
        }
        paths.extend(found);
    }
    for path in &paths {
        host.say(&["  ", path].concat());
    }
    host.say(
        "these go, and with the definitions of Cluster, Operation and ApplicationInstance all that are of these kinds",
    );
    if yes || host.is_dry() {
        return Ok(paths);
    }
    match ask("Remove them? (yes/no): ", false) {
        Some(answer) if *answer == "yes" => Ok(paths),
        Some(_) => Err(SetupError::Impossible("nothing was removed")),
        None => Err(SetupError::Impossible("nothing was removed: nobody can be asked here, so add --yes")),
    }
}

/// Where the kinds of a group are; none where the API server has no such group.
fn base(admin: &Admin, kind: &GroupKind) -> Result<Option<String>, SetupError> {
    if kind.group.is_empty() {
        return Ok(Some("/api/v1".to_owned()));
    }
    Ok(admin.preferred(&kind.group)?.map(|version| ["/apis/", &version].concat()))
}

//! What lies on this node: the credential, the state directory, the journal, the directory target. It is looked at, never
//! locked and never written.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Access, StatVfs, StatVfsMountFlags, access, statvfs};

use super::{Check, Desk, Patient, Verdict, chain, medium, span, within};
use crate::agent::{self, CA_BUNDLE};
use crate::clock;
use crate::config::{Config, TargetChoice};
use crate::journal::survey::{Survey, View, ViewError};
use crate::limits;
use crate::link::{self, Credential, Provided, StateDirectory, StoreError};
use crate::target::kubernetes::Own;

pub(super) fn examine(patient: &Patient, desk: &Desk) {
    let config = &patient.config;
    examine_credential(config, desk);
    examine_state(&config.state_dir, desk);
    medium::examine(&config.state_dir, desk);
    examine_journal(patient, desk);
    match &config.target {
        TargetChoice::Directory(path) => examine_directory(path, desk),
        TargetChoice::Kubernetes { .. } => desk.skip(Check::Directory, "the target is an API server"),
    }
}

const SECRET: &str = "the Secret vworkspace-system/vworkspace-agent-credentials";

/// The stored credential, wherever it is kept. It is read, and not locked.
pub(super) fn credential(config: &Config) -> Result<Option<Credential>, StoreError> {
    if config.cluster_resource.is_some() {
        let unread = |why: String| StoreError::Io(SECRET.into(), std::io::Error::other(why));
        let access = agent::find_access(config).map_err(|error| unread(chain(&error)))?;
        let read = within(limits::doctor::SECRET_TIME, move || agent::credential_in_cluster(Own::new(&access)));
        return read.unwrap_or_else(|| Err(unread("the API server does not answer".to_owned())));
    }
    let seal = Provided::find().map(|provided| provided.seal()).transpose()?.flatten();
    StateDirectory::look(&config.state_dir, seal).map(|(_, credential)| credential)
}

/// Where the only Cluster, or the one that is named, says the control plane is.
pub(super) fn clusters_endpoint(config: &Config) -> Option<String> {
    let name = config.cluster_resource.as_deref()?;
    let (name, own) = (name.to_owned(), Own::new(&agent::find_access(config).ok()?));
    let list = move || own.clusters(Some(name.as_str()).filter(|name| *name != "*"));
    let mut found = within(limits::doctor::SECRET_TIME, list)?.ok()?.clusters;
    let spec = found.pop().filter(|_| found.is_empty())?.spec.ok()?;
    spec.control_plane_endpoint.or(spec.control_plane_base_url)
}

/// With the authorities that a Cluster names, where the agent has laid them down.
pub(super) fn with_bundle(config: &Config) -> Config {
    let mut config = config.clone();
    let bundle = config.state_dir.join(CA_BUNDLE);
    if config.cluster_resource.is_some() && bundle.exists() {
        config.ca_bundle_file = Some(bundle);
    }
    config
}

fn examine_credential(config: &Config, desk: &Desk) {
    const REGISTER: &str = "get a one-time token for this node: pullet register --endpoint https://… --token-file FILE";
    const ANEW: &str = "get a new one-time token and run pullet register --force --token-file FILE";
    let say = |verdict, seen: String, mend| desk.say(Check::Credential, verdict, seen, mend);
    let credential = match credential(config) {
        Ok(Some(credential)) => credential,
        Ok(None) if config.cluster_resource.is_some() => {
            let mend = "put a one-time token into the Secret that the Cluster names (docs/cluster.md); the agent does the rest";
            return say(Verdict::Failed, "the Secret holds none: this node is not registered".to_owned(), mend);
        }
        Ok(None) => {
            let waits = config.token_file.as_ref().filter(|file| file.exists());
            return match waits {
                Some(file) => say(
                    Verdict::Warning,
                    format!("there is none yet, and the one-time token in {} waits to be used", file.display()),
                    "start the agent, or run pullet register",
                ),
                None => say(Verdict::Failed, "there is none: this node is not registered".to_owned(), REGISTER),
            };
        }
        Err(error) => {
            let mend = match &error {
                StoreError::Unsafe(..) => "close it: chown it to the agent's user, chmod 0600 (the directory: 0700)",
                StoreError::Sealed(_) => "run this with the CREDENTIALS_DIRECTORY of the unit, whose pullet.key it was sealed with",
                StoreError::Malformed(_) => ANEW,
                _ if config.cluster_resource.is_some() => "see api-server and rights below; pullet rbac --cluster-resource '*' prints the rights",
                _ => "run this as root or as the agent's user, and see whether the place can be read",
            };
            return say(Verdict::Failed, chain(&error), mend);
        }
    };
    if link::is_another_machine(&credential) {
        let seen = "it belongs to another machine: this card or disk is a copy, or moved to another board".to_owned();
        return say(Verdict::Failed, seen, ANEW);
    }
    let place = if config.cluster_resource.is_some() {
        "in its Secret"
    } else if Provided::find().is_some_and(|provided| provided.seal().is_ok_and(|seal| seal.is_some())) {
        "closed to others, and sealed"
    } else {
        "closed to others"
    };
    let whose = format!("of {}, {place}", credential.cluster_id);
    let now = i64::try_from(clock::unix_seconds()).unwrap_or(i64::MAX);
    let Some(end) = credential.current.expires_at.map(|end| end.unix_seconds()) else {
        return desk.ok(Check::Credential, [&whose, ", without an end"].concat());
    };
    let begin = credential.current.issued_at.map_or(now, |at| at.unix_seconds());
    let left = span(end.abs_diff(now));
    if end <= now {
        say(Verdict::Failed, format!("{whose}; it ended {left} ago"), "start the agent, which may renew it; otherwise get a new one-time token: pullet register --force");
    } else if end.saturating_sub(now) < end.saturating_sub(begin) / 10 {
        say(Verdict::Warning, format!("{whose}; it ends in {left} and was not renewed yet"), "see that the agent runs and is connected: it renews it by itself");
    } else {
        desk.ok(Check::Credential, format!("{whose}; it ends in {left}"));
    }
}

fn examine_state(path: &Path, desk: &Desk) {
    let failed = |seen: String, mend| desk.say(Check::State, Verdict::Failed, seen, mend);
    let shown = path.display();
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) => {
            let mend = "register this node (pullet register makes it), or name the right one: state_dir";
            return failed(format!("{shown}: {error}"), mend);
        }
    };
    if !found.is_dir() {
        return failed(format!("{shown} is no directory, or a link to one"), "name the directory itself: state_dir");
    }
    if found.mode() & 0o022 != 0 {
        return failed(format!("{shown} can be written by others"), "chmod go-w it");
    }
    let Ok(disk) = statvfs(path) else {
        return failed(format!("{shown} does not tell how much room there is"), "see whether the disk is in order: dmesg");
    };
    if disk.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return failed(format!("{shown} is mounted read-only"), "mount it read-write; a card that fails turns read-only: replace it");
    }
    if access(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return failed(format!("{shown} belongs to user {}, and may not be written", found.uid()), "chown it to the agent's user");
    }
    let room = room(&disk);
    let is_begun = path.join("journal").exists() && path.join("spool").exists();
    let needed = if is_begun { limits::doctor::STATE_ROOM } else { limits::doctor::STATE_BYTES };
    let has_names = disk.f_files == 0 || disk.f_favail > 16;
    let seen = format!("{shown} is closed to others and can be written; {} kB free", room / 1024);
    if room < needed || !has_names {
        let seen = format!("{shown} has {} kB and {} files left; {} kB are needed", room / 1024, disk.f_favail, needed / 1024);
        failed(seen, "make room on that disk");
    } else if room < 4 * needed {
        desk.say(Check::State, Verdict::Warning, seen, "make room on that disk: it is nearly full");
    } else {
        desk.ok(Check::State, seen);
    }
}

/// Bytes that we may still write.
fn room(disk: &StatVfs) -> u64 {
    disk.f_bavail.saturating_mul(disk.f_frsize)
}

fn examine_journal(patient: &Patient, desk: &Desk) {
    let say = |verdict, seen: String, mend| desk.say(Check::Journal, verdict, seen, mend);
    if let Ok(status) = &patient.agent
        && !status.journal_fault.is_empty()
    {
        return say(Verdict::Failed, status.journal_fault.clone(), "make room, or mend or replace the disk, and start the agent again");
    }
    let view = match View::open(&patient.config.state_dir) {
        Ok(view) => view,
        Err(ViewError::Absent(_)) if patient.agent.is_err() => {
            return desk.skip(Check::Journal, "there is none yet: no agent has run here");
        }
        Err(ViewError::Absent(path)) => {
            let mend = "is this the state directory of the agent that runs? give its --config or --state-dir";
            return say(Verdict::Failed, format!("an agent runs, and there is no journal in {}", path.display()), mend);
        }
        Err(error @ ViewError::Io(..)) => {
            return say(Verdict::Failed, chain(&error), "run this as root or as the agent's user; otherwise see whether the disk is in order");
        }
        Err(error @ ViewError::Ring(_)) => {
            return say(Verdict::Failed, chain(&error), "install the newer pullet again, or move the file away: what waits in it is lost then");
        }
    };
    let Survey { results, events, jobs, pages_unreadable, lost, .. } = view.survey();
    let waiting = format!("{} jobs, {} results and {} events wait", jobs.count, results.count, events.count);
    if pages_unreadable > 0 {
        let seen = format!("{pages_unreadable} of its pages cannot be read; {waiting}");
        say(Verdict::Warning, seen, "it is made good by itself; if it comes again the disk or the card fails: replace it");
    } else if lost.exactly + lost.at_most > 0 && !lost.told {
        let seen = format!("{} events, and at most {} more, were lost; {waiting}", lost.exactly, lost.at_most);
        say(Verdict::Note, seen, "the control plane is told with the next connection; a larger journal_size keeps more");
    } else {
        desk.ok(Check::Journal, ["whole; ", &waiting].concat());
    }
}

fn examine_directory(path: &Path, desk: &Desk) {
    let failed = |seen: String, mend| desk.say(Check::Directory, Verdict::Failed, seen, mend);
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Err(error) => return failed(format!("{shown}: {error}"), "make the directory, or name the right one: directory"),
        Ok(found) if !found.is_dir() => {
            return failed(format!("{shown} is no directory, or a link to one"), "name the directory itself: directory");
        }
        Ok(_) => {}
    }
    let is_read_only = statvfs(path).is_ok_and(|disk| disk.f_flag.contains(StatVfsMountFlags::RDONLY));
    if is_read_only || access(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return failed(
            format!("{shown} may not be written"),
            "chown it to the agent's user; under systemd it also has to be in ReadWritePaths= of the unit",
        );
    }
    let text = shown.to_string();
    if text.ends_with("/server/manifests") || text.contains("/server/manifests/") {
        desk.ok(Check::Directory, format!("{shown} can be written, and k3s reads it"));
    } else {
        let mend = "k3s reads /var/lib/rancher/k3s/server/manifests and what is below it; another reader has to be set up";
        desk.say(Check::Directory, Verdict::Note, format!("{shown} can be written, and is none that k3s reads by itself"), mend);
    }
}

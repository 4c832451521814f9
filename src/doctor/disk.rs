//! What lies on this node: the credential, the state directory, the journal, the directory target. It is looked at, never
//! locked and never written.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Access, StatVfsMountFlags, access, statvfs};

use super::{Check, Desk, Patient, Verdict, chain, medium, span, within};
use crate::agent::{self, CA_BUNDLE, InMemory};
use crate::clock;
use crate::config::{Config, TargetChoice};
use crate::job::gate::{self, KeySettings};
use crate::journal::ring::RingError;
use crate::journal::survey::{Survey, View, ViewError};
use crate::limits;
use crate::link::secret_file::read_one_time_token;
use crate::link::{self, Credential, CredentialStore as _, PinStore, Provided, StateDirectory, StoreError};
use crate::protocol::Timestamp;
use crate::target::kubernetes::Own;

pub(super) fn examine(patient: &Patient, desk: &Desk) {
    let config = &patient.config;
    let state = &config.state_dir;
    if fs::symlink_metadata(state).is_ok_and(|found| !found.is_dir()) {
        desk.skip_because(&[Check::Credential, Check::Keyring], Check::State);
    } else {
        examine_credential(patient, desk);
        examine_keyring(config, desk);
    }
    if examine_place(Check::State, state, desk) {
        examine_room(state, desk);
    }
    medium::examine(state, desk);
    examine_journal(patient, desk);
    match &config.target {
        TargetChoice::Directory(path) => examine_directory(path, desk),
        TargetChoice::Kubernetes { .. } => desk.skip(Check::Directory, &["the target is an API server"]),
    }
}

const SECRET: &str = "the Secret vworkspace-agent-credentials";

/// The stored credential, wherever it is kept. It is read, and not locked.
pub(super) fn credential(patient: &Patient) -> Result<Option<Credential>, StoreError> {
    let config = &patient.config;
    if config.cluster_resource.is_some() {
        let unread = |why: String| StoreError::Io(SECRET.into(), io::Error::other(why));
        let access = agent::find_access(config).map_err(|error| unread(chain(&error)))?;
        let read = within(patient.secret_time(), move || agent::credential_in_cluster(Own::new(&access)));
        return read.unwrap_or_else(|| Err(unread("no answer".to_owned())));
    }
    let store = store(config)?;
    store.map_or(Ok(None), |store| store.load())
}

/// The state directory, to be looked at.
fn store(config: &Config) -> Result<Option<StateDirectory>, StoreError> {
    let seal = Provided::find().map(|provided| provided.seal()).transpose()?.flatten();
    StateDirectory::look_at(&config.state_dir, seal)
}

/// The client certificate that the owner has put into the Secret.
pub(super) fn owners_certificate(patient: &Patient) -> Option<InMemory> {
    patient.config.cluster_resource.as_ref()?;
    let own = Own::new(&agent::find_access(&patient.config).ok()?);
    within(patient.secret_time(), move || agent::certificate_in_cluster(own))?.ok()?
}

/// Where the only Cluster, or the one that is named, says the control plane is.
pub(super) fn clusters_endpoint(patient: &Patient) -> Option<String> {
    let name = patient.config.cluster_resource.clone()?;
    let own = Own::new(&agent::find_access(&patient.config).ok()?);
    let list = move || own.clusters(Some(name.as_str()).filter(|name| *name != "*"));
    let mut found = within(patient.secret_time(), list)?.ok()?.clusters;
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

fn examine_credential(patient: &Patient, desk: &Desk) {
    const ANEW: &str = "get a new one-time token: pullet register --force --token-file FILE";
    let (check, config) = (Check::Credential, &patient.config);
    let in_cluster = config.cluster_resource.is_some();
    let credential = match credential(patient) {
        Ok(Some(credential)) => credential,
        Ok(None) if config.token_file.as_ref().is_some_and(|file| file.exists()) => {
            let token = config.token_file.as_deref().unwrap_or(Path::new("-"));
            if let Err(error) = read_one_time_token(token, io::empty()) {
                let seen = ["none yet, and the one-time token is no use: ", &chain(&error)];
                return desk.fail(
                    check,
                    &seen,
                    "put the token alone, as one line of plain text, into its file (mode 0600)",
                );
            }
            let seen = "none yet; a one-time token waits to be used";
            return desk.warn(check, &[seen], "start the agent, or run pullet register");
        }
        Ok(None) => {
            let mend = if in_cluster {
                "put a one-time token into the Secret that the Cluster names (docs/cluster.md)"
            } else {
                "get a one-time token: pullet register --endpoint https://… --token-file FILE"
            };
            return desk.fail(check, &["none: this node is not registered"], mend);
        }
        Err(error) => {
            let mend = match &error {
                StoreError::Unsafe(..) => "chown it to the agent's user, chmod 0600",
                StoreError::Sealed(_) => "run this while the agent runs, or with the unit's CREDENTIALS_DIRECTORY",
                StoreError::Malformed(_) => ANEW,
                _ if in_cluster => "see api-server and rights: pullet rbac --cluster-resource '*'",
                _ => closed(&config.state_dir),
            };
            return desk.fail(check, &[&chain(&error)], mend);
        }
    };
    if link::is_another_machine(&credential) {
        return desk.fail(check, &["it belongs to another machine: a copied card, or one in another board"], ANEW);
    }
    let is_sealed = Provided::find().is_some_and(|provided| provided.seal().is_ok_and(|seal| seal.is_some()));
    let place = match (in_cluster, is_sealed) {
        (true, _) => ", in its Secret",
        (false, true) => ", closed to others and sealed",
        (false, false) => ", closed to others",
    };
    let id = credential.cluster_id.as_str();
    let now = i64::try_from(clock::unix_seconds()).unwrap_or(i64::MAX);
    let Some(end) = credential.current.expires_at.map(Timestamp::unix_seconds) else {
        return desk.ok(check, &["of ", id, place, ", without an end"]);
    };
    let begin = credential.current.issued_at.map_or(now, Timestamp::unix_seconds);
    let left = span(end.abs_diff(now));
    if end <= now {
        desk.fail(check, &["of ", id, place, "; it ended ", &left, " ago"], ANEW);
    } else if end.saturating_sub(now) < end.saturating_sub(begin) / 10 {
        let mend = "see that the agent runs and is connected: it renews it by itself";
        desk.warn(check, &["of ", id, place, "; it ends in ", &left, ", and is not renewed yet"], mend);
    } else {
        desk.ok(check, &["of ", id, place, "; it ends in ", &left]);
    }
}

/// The keys that jobs are to be signed with, as the agent finds them. Of an agent that goes by a Cluster the pinned ones lie in
/// the Secret.
fn examine_keyring(config: &Config, desk: &Desk) {
    const MEND: &str = "mend the file of keyring, or leave it out (docs/security.md)";
    let check = Check::Keyring;
    let Ok(store) = store(config) else { return desk.skip_because(&[check], Check::Credential) };
    let store = store.filter(|_| config.cluster_resource.is_none());
    let newest = store.as_ref().map_or(0, PinStore::newest_version);
    let pin = match store.map_or(Ok(None), |store| store.load_pin()) {
        Ok(pin) => pin,
        Err(error) => return desk.fail(check, &[&chain(&error)], "put keyring.json back from a backup"),
    };
    let looked = match agent::wanted(config) {
        Err(error) => return desk.fail(check, &[&chain(&error)], MEND),
        Ok(wanted) => {
            let settings = KeySettings { signatures: config.signatures, pin: wanted };
            gate::look(pin.as_ref(), newest, &settings, &config.policy)
        }
    };
    match looked {
        Err(error) => desk.fail(check, &[&chain(&error)], MEND),
        Ok((.., true)) => {
            desk.fail(
                check,
                &["older than one that this node had: no job is done"],
                "give the owner's newest one: keyring",
            );
        }
        Ok((_, Some(_), _)) => desk.ok(check, &["a key of the owner is pinned"]),
        Ok((_, None, _)) => desk.skip(check, &["no key is pinned here"]),
    }
}

/// What is done about a file that cannot be read.
fn closed(state_dir: &Path) -> &'static str {
    let us = rustix::process::geteuid().as_raw();
    if fs::metadata(state_dir).is_ok_and(|found| found.uid() == us) {
        "chown it to the agent's user, as its directory is; otherwise look at the disk"
    } else {
        "run this as root; otherwise look at the disk"
    }
}

/// Whether a directory can be used at all; what is wrong is said.
fn examine_place(check: Check, path: &Path, desk: &Desk) -> bool {
    let shown = path.to_string_lossy();
    let may_write = || access(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK);
    let is_read_only = || statvfs(path).is_ok_and(|disk| disk.f_flag.contains(StatVfsMountFlags::RDONLY));
    let (wrong, mend) = match fs::symlink_metadata(path) {
        Err(_) if check == Check::Directory => ("is not there", "make it, for the agent's user, or name the right one"),
        Err(_) => ("is not there", "pullet register makes the state directory; otherwise name the right one"),
        Ok(found) if !found.is_dir() => ("is no directory, or a link to one", "name the directory itself"),
        Ok(found) if check == Check::State && found.mode() & 0o022 != 0 => {
            ("can be written by others", "chmod go-w it")
        }
        Ok(_) if is_read_only() => {
            ("is mounted read-only", "mount it read-write; a card that fails turns read-only: replace it")
        }
        Ok(_) if may_write().is_err() => {
            ("may not be written", "chown it to the agent's user; in a unit it also has to be in ReadWritePaths=")
        }
        Ok(_) => return true,
    };
    desk.fail(check, &[&shown, " ", wrong], mend);
    false
}

fn examine_room(path: &Path, desk: &Desk) {
    const ROOM: &str = "make room on that disk";
    let Ok(disk) = statvfs(path) else {
        return desk.fail(Check::State, &["how full the disk is cannot be told"], "look at the disk: dmesg");
    };
    let room = disk.f_bavail.saturating_mul(disk.f_frsize);
    let is_begun = path.join("journal").exists() && path.join("spool").exists();
    let needed = if is_begun { limits::doctor::STATE_ROOM } else { limits::doctor::STATE_BYTES };
    let has_names = disk.f_files == 0 || disk.f_favail > 16;
    let (free, wanted) = ((room / 1024).to_string(), (needed / 1024).to_string());
    if !has_names {
        desk.fail(Check::State, &["the disk takes no further files"], ROOM);
    } else if room < needed {
        desk.fail(Check::State, &[&free, " kB are free, and ", &wanted, " kB are needed"], ROOM);
    } else if room < 4 * needed {
        desk.warn(Check::State, &["nearly full: ", &free, " kB are free"], ROOM);
    } else {
        desk.ok(Check::State, &[&path.to_string_lossy(), " can be written, by nobody else; ", &free, " kB are free"]);
    }
}

fn examine_journal(patient: &Patient, desk: &Desk) {
    let check = Check::Journal;
    if let Ok(status) = &patient.agent
        && !status.journal_fault.is_empty()
    {
        return desk.fail(check, &[&status.journal_fault], "make room, or replace the disk, and start the agent again");
    }
    let view = match View::open(&patient.config.state_dir) {
        Ok(view) => view,
        Err(ViewError::Absent(_)) if patient.awaits_journal() => {
            return desk.skip(check, &["none yet: an agent that is registered makes it"]);
        }
        Err(error) => {
            let mend = match &error {
                ViewError::Absent(_) => "give the --state-dir or the --config of the agent that runs",
                ViewError::Io(..) => closed(&patient.config.state_dir),
                ViewError::Ring(RingError::Newer(_)) => "install the newer pullet again",
                ViewError::Ring(_) => "start the agent: it makes another one; if it comes again the card fails",
            };
            return desk.fail(check, &[&chain(&error)], mend);
        }
    };
    let Survey { results, events, jobs, pages_unreadable, lost, .. } = view.survey();
    let [results, events, jobs] = [results.count, events.count, jobs.count].map(|count| count.to_string());
    let waiting = [&jobs, " jobs, ", &results, " results and ", &events, " events wait"].concat();
    if pages_unreadable > 0 {
        let pages = pages_unreadable.to_string();
        let mend = "it is made good by itself; if it comes again the card fails: replace it";
        desk.warn(check, &[&pages, " pages cannot be read; ", &waiting], mend);
    } else if lost.exactly + lost.at_most > 0 && !lost.told {
        let mend = "the control plane is told with the next connection; a larger journal_size keeps more";
        desk.say(check, Verdict::Note, &["events were lost; ", &waiting], mend);
    } else {
        desk.ok(check, &["whole; ", &waiting]);
    }
}

fn examine_directory(path: &Path, desk: &Desk) {
    let check = Check::Directory;
    if !examine_place(check, path, desk) {
        return;
    }
    let shown = path.to_string_lossy();
    if shown.ends_with("/server/manifests") || shown.contains("/server/manifests/") {
        desk.ok(check, &[&shown, " can be written, and k3s reads it"]);
    } else {
        let mend = "k3s reads /var/lib/rancher/k3s/server/manifests and what is below it";
        desk.say(check, Verdict::Note, &[&shown, " can be written, and k3s does not read it by itself"], mend);
    }
}

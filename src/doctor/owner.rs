//! Acting as the agent does: with the rights of its user.
//!
//! Root may read and write everything, so that what the agent may not do would go unseen, and what root writes the agent could
//! not read; and a credential that belongs to the agent's user is refused to anybody else. So root acts as the owner of the
//! state directory. What systemd gives to the unit is looked at as well: where it lies while the unit runs, or else where it is
//! kept.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _};
use std::os::fd::IntoRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, fchown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Gid, OFlags, Uid};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_res_uid, set_thread_uid};

use crate::config::DEFAULT_STATE;
use crate::limits;
use crate::link::Provided;
use crate::link::provided::{self, KEPT};

/// Where systemd lays down what the unit is given, while it runs.
const CREDENTIALS: &str = "/run/credentials/pullet.service";

/// Finds what the unit is given, where this is the state directory of the unit: before its user is taken for ours.
pub fn provide(state_dir: Option<&Path>) {
    let state_dir = state_dir.unwrap_or(Path::new(DEFAULT_STATE));
    let owner = other_owner(state_dir);
    let place = match owner {
        _ if Path::new(CREDENTIALS).is_dir() => CREDENTIALS.into(),
        Some((_, group)) => match copied(group) {
            Ok(place) => place,
            Err(_) => return,
        },
        None if state_dir == Path::new(DEFAULT_STATE) && rustix::process::geteuid().is_root() => KEPT.into(),
        None => return,
    };
    Provided::assume(place);
    super::wait_for(limits::doctor::UNIT_TIME, Box::new(ask_for_proxies));
}

/// systemd knows what the unit's environment says of proxies.
fn ask_for_proxies() {
    let mut command = Command::new("systemctl");
    command.args(["show", "--property=Environment", "--value", "pullet"]);
    let Ok(mut child) = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn() else {
        return;
    };
    let mut text = Vec::new();
    if let Some(answer) = child.stdout.take() {
        let _ = answer.take(limits::doctor::FILE_BYTES).read_to_end(&mut text);
    }
    provided::assume_proxies(String::from_utf8_lossy(&text).into_owned());
    let _ = child.wait();
}

/// What is kept for the unit, copied for its user as systemd does it: into memory that has no name, is seen by this process
/// alone and goes with it. No kernel before 5.2 has such.
fn copied(group: Gid) -> io::Result<PathBuf> {
    let system = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&system, "size", "1m")?;
    fsconfig_create(&system)?;
    let room = fsmount(&system, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    // Open until the end.
    let place = PathBuf::from(["/proc/self/fd/", &room.into_raw_fd().to_string()].concat());
    for name in provided::ALL {
        let copy = place.join(name);
        if fs::copy(Path::new(KEPT).join(name), &copy).is_ok() {
            // Root reads them as well.
            fs::set_permissions(&copy, Permissions::from_mode(0o440))?;
            chown(&copy, None, Some(group.as_raw()))?;
        }
    }
    Ok(place)
}

/// Goes on as the owner of the state directory where root asks and it is somebody else's. This thread does, and those that it
/// begins: it has to be the only one. What cannot be given up is kept, and things are looked at as they are.
pub fn become_owner(state_dir: &Path) {
    if let Some((user, group)) = other_owner(state_dir) {
        let _ = set_group(group).and_then(|()| set_thread_uid(user));
    }
}

/// User and group of the state directory, where root asks and it is somebody else's.
#[must_use]
pub fn other_owner(state_dir: &Path) -> Option<(Uid, Gid)> {
    let found = fs::metadata(state_dir).ok()?;
    let is_others = found.uid() != 0 && rustix::process::geteuid().is_root();
    is_others.then(|| (Uid::from_raw(found.uid()), Gid::from_raw(found.gid())))
}

/// Goes on as the owner of the state directory, until [`be_root_again`]. This thread does, and those that it begins. What root
/// left there before is given to that one.
pub fn act_as((user, group): (Uid, Gid), state_dir: &Path) {
    for entry in fs::read_dir(state_dir).into_iter().flatten().flatten() {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let Ok(file) = File::options().read(true).custom_flags(flags).open(entry.path()) else { continue };
        // The owner may have made a second name of a file of root's that lies elsewhere.
        if file.metadata().is_ok_and(|found| found.is_file() && found.uid() == 0 && found.nlink() == 1) {
            let _ = fchown(&file, Some(user.as_raw()), Some(group.as_raw()));
        }
    }
    let _ = set_group(group).and_then(|()| set_thread_res_uid(user, user, Uid::ROOT));
}

/// Before the user: whoever is somebody else may change nothing any more.
fn set_group(group: Gid) -> rustix::io::Result<()> {
    set_thread_groups(&[group]).and_then(|()| set_thread_gid(group))
}

/// Takes back what [`act_as`] gave away; whoever was not root before stays who it is.
pub fn be_root_again() {
    let _ = set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).and_then(|()| set_thread_gid(Gid::ROOT));
}

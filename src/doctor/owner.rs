//! Acting as the agent does: with the rights of its user.
//!
//! Root may read and write everything, so that what the agent may not do would go unseen, and what root writes the agent could
//! not read; and a credential that belongs to the agent's user is refused to anybody else. So root acts as the owner of the
//! state directory. What systemd gives to the unit while it runs is looked at there as well.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{Gid, OFlags, Uid, fchown};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_res_uid, set_thread_uid};

use crate::link::Provided;

/// Where systemd lays down what the unit is given, while it runs.
const CREDENTIALS: &str = "/run/credentials/pullet.service";

/// Goes on as the owner of the state directory where root asks and it is somebody else's. This thread does, and those that it
/// begins: it has to be the only one. What cannot be given up is kept, and things are looked at as they are.
pub fn become_owner(state_dir: &Path) {
    if Path::new(CREDENTIALS).is_dir() {
        Provided::assume(CREDENTIALS.into());
    }
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
            let _ = fchown(&file, Some(user), Some(group));
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

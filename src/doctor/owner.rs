//! Looking as the agent does: with the rights of its user.
//!
//! Root may read and write everything, so that what the agent may not do would go unseen; and a credential that belongs to
//! the agent's user is refused to anybody else. So root looks as the owner of the state directory. What systemd gives to the
//! unit while it runs is looked at there as well.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Gid, Uid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

use crate::link::Provided;

/// Where systemd lays down what the unit is given, while it runs.
const CREDENTIALS: &str = "/run/credentials/pullet.service";

/// Goes on as the owner of the state directory where root asks and it is somebody else's. This thread does, and those that it
/// begins: it has to be the only one. What cannot be given up is kept, and things are looked at as they are.
pub fn become_owner(state_dir: &Path) {
    if Path::new(CREDENTIALS).is_dir() {
        Provided::assume(CREDENTIALS.into());
    }
    let Ok(found) = fs::metadata(state_dir) else { return };
    if found.uid() == 0 || !rustix::process::geteuid().is_root() {
        return;
    }
    let (user, group) = (Uid::from_raw(found.uid()), Gid::from_raw(found.gid()));
    // The user is the last one: whoever is somebody else may change nothing any more.
    let _ = set_thread_groups(&[group]).and_then(|()| set_thread_gid(group)).and_then(|()| set_thread_uid(user));
}

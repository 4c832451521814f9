//! Looking as the agent does: with the rights of its user.
//!
//! Root may read and write everything, so that what the agent may not do would go unseen; and a credential that belongs to
//! the agent's user is refused to anybody else. So root looks as the owner of the state directory, by a process that takes
//! the place of this one. What systemd gives to the unit while it runs is looked at there as well.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// Says that this has been done.
const DONE: &str = "PULLET_DOCTOR_AS_OWNER";

/// Where systemd lays down what the unit is given, while it runs.
const CREDENTIALS: &str = "/run/credentials/pullet.service";

/// Goes on as the owner of the state directory where root asks and it is somebody else's. Comes back where there is nothing
/// to do, or where it cannot be done.
pub fn become_owner(state_dir: &Path) {
    if env::var_os(DONE).is_some() {
        return;
    }
    let owner = fs::metadata(state_dir).ok().map(|found| (found.uid(), found.gid()));
    let owner = owner.filter(|(user, _)| *user != 0 && rustix::process::geteuid().is_root());
    let has_credentials = env::var_os("CREDENTIALS_DIRECTORY").is_none() && Path::new(CREDENTIALS).is_dir();
    if owner.is_none() && !has_credentials {
        return;
    }
    let mut command = Command::new("/proc/self/exe");
    command.args(env::args_os().skip(1)).env(DONE, "1");
    if has_credentials {
        command.env("CREDENTIALS_DIRECTORY", CREDENTIALS);
    }
    if let Some((user, group)) = owner {
        command.gid(group).uid(user);
    }
    // It only comes back where it failed: then things are looked at as they are.
    let _ = command.exec();
}

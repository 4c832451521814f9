//! `pullet setup` and `pullet uninstall`: from a binary to an agent that polls, and back.
//!
//! | | |
//! |---|---|
//! | `host` | the machine: each file with its mode and owner, each program that is run |
//! | `site` | what was asked for, what the node is, what is there already |
//! | `service` | the agent as a unit of systemd |
//! | `cluster` | the Cluster that a pod goes by |
//! | `pod` | the agent as a pod, by k3s's directory of manifests |
//! | `remove` | all of it away again |
//!
//! Each thing is looked at before it is done, said when it is done, and left alone where it is as it should be: whoever runs
//! the command again after a failure goes on from there. Nothing in here is used by an agent that runs.

mod ask;
mod cluster;
mod error;
mod host;
mod options;
mod pod;
mod remove;
mod service;
mod site;

use std::time::Instant;

pub use self::error::SetupError;
pub use self::options::Options;
pub use self::remove::uninstall;
use self::site::Site;
use crate::config::Config;
use crate::limits;

/// What the layer above knows how to do, and what it prints.
pub struct Means<'a> {
    /// The definitions of the custom resources.
    pub definitions: &'a str,
    /// What an agent needs beside the rights that goes by a Cluster.
    pub cluster: &'a str,
    /// The rights that an agent of these settings needs.
    pub rights: &'a dyn Fn(&Config) -> String,
    /// Exchanges the one-time token.
    pub register: &'a Exchange,
}

/// What exchanges the one-time token that a configuration names.
pub type Exchange = dyn Fn(&Config) -> Result<(), Box<dyn std::error::Error>>;

const SETTINGS: &str = crate::config::DEFAULT_FILE;
const STATE: &str = crate::config::DEFAULT_STATE;
const STATUS: &str = crate::config::DEFAULT_STATUS;
const CREDENTIALS: &str = "/etc/pullet/credentials";
const TOKEN: &str = "/etc/pullet/credentials/pullet.token";
const KUBECONFIG: &str = "/etc/pullet/credentials/pullet.kubeconfig";
const AUTHORITY: &str = "/etc/pullet/credentials/pullet.ca";
const KEYRING: &str = "/etc/pullet/credentials/pullet.keyring";
const UNIT: &str = "/etc/systemd/system/pullet.service";
/// What lets the agent write to the directory of its target.
const DROP_IN: &str = "/etc/systemd/system/pullet.service.d/directory.conf";
/// What has systemd start the unit with the machine.
const WANTED: &str = "/etc/systemd/system/multi-user.target.wants/pullet.service";
const SYSUSERS: &str = "/etc/sysusers.d/pullet.conf";
const MANIFESTS: &str = "/var/lib/rancher/k3s/server/manifests";
const K3S_SERVER: &str = "/var/lib/rancher/k3s/server";
const K3S_AGENT: &str = "/var/lib/rancher/k3s/agent";
const K3S_KUBECONFIG: &str = "/etc/rancher/k3s/k3s.yaml";
const SYSTEMD: &str = "/run/systemd/system";

/// Files that a package may have brought.
const PACKAGED_UNITS: [&str; 2] = ["/usr/lib/systemd/system/pullet.service", "/lib/systemd/system/pullet.service"];

/// The Secret of the one-time token.
const TOKEN_SECRET: &str = "vworkspace-registration-token";

/// Sets an agent up, and waits until the control plane answers it.
///
/// # Errors
/// As [`SetupError`] lists them. What was said to be done is done.
pub fn setup(options: Options, means: &Means<'_>) -> Result<(), SetupError> {
    let is_pod = options.in_cluster;
    let site = Site::new(options, means)?;
    site.host.say(site.node.describe());
    site.host.end(if is_pod { pod::install(&site) } else { service::install(&site) })
}

/// Looks until it is so. `look` gives nothing when it is, and else what is missing, which is said whenever it changes.
fn wait(site: &Site<'_>, mut look: impl FnMut() -> Option<String>) -> Result<(), SetupError> {
    let begin = Instant::now();
    let mut said = String::new();
    while let Some(missing) = look() {
        if begin.elapsed() >= limits::SETUP_PATIENCE {
            return Err(SetupError::Unconnected(missing));
        }
        if missing != said {
            site.host.say(&["waiting: ", &missing].concat());
            said = missing;
        }
        std::thread::sleep(limits::SETUP_LOOK);
    }
    Ok(())
}

//! `pullet check`: what would become of a job, without doing it.

use std::fmt::Write as _;
use std::io::{self, Read};
use std::path::Path;

use super::{Failure, say};
use crate::agent::{self, Unseen};
use crate::clock;
use crate::config::Config;
use crate::doctor;
use crate::job::check::{Report, Rules, check as check_job};
use crate::job::gate::{self, KeySettings};
use crate::limits;
use crate::link::{CredentialStore, Provided, StateDirectory, StoreError};
use crate::protocol::{ClusterId, Timestamp};
use crate::trust::Signatures;
use crate::trust::identity::NodeKeys;

/// Prints which clauses the job of a file passes. Fails when one of them stops it.
pub(super) fn check(config: &Config, file: &Path, is_json: bool) -> Result<(), Failure> {
    let text = read(file).map_err(|error| Failure::usage(format!("{} cannot be read: {error}", file.display())))?;
    doctor::become_owner(&config.state_dir);
    let report = judge(&text, config)?;
    if is_json {
        // A report of texts cannot fail to be written to memory.
        say(&serde_json::to_string(&report).unwrap_or_default());
    } else {
        say(print(&report).trim_end());
    }
    match report.stopped {
        None => Ok(()),
        Some(stopped) => Err(Failure::failed(format!("refused: {}: {}", stopped.reason, stopped.message))),
    }
}

/// With the keyring and the keys that the agent would use, and with what its Cluster says. Nothing is pinned, counted or
/// written, and an agent that runs is not disturbed.
fn judge(text: &[u8], config: &Config) -> Result<Report, Failure> {
    if config.cluster_resource.is_none() {
        let seal = Provided::find().map(|provided| provided.seal()).transpose().map_err(Failure::failed)?.flatten();
        let store = StateDirectory::look_at(&config.state_dir, seal).map_err(Failure::failed)?;
        return judge_by(text, config, store.as_ref().map(|store| store as &dyn CredentialStore));
    }
    match agent::outlook(config) {
        Ok((config, store)) => judge_by(text, &config, Some(&store)),
        Err(Unseen::NotServed(why)) => {
            Err(Failure::failed(["no job is done, because the Cluster is not served: ", &why].concat()))
        }
        Err(Unseen::NotTold) => {
            let mut report = judge_by(text, config, None)?;
            report.left.push("what the Cluster says beside this file: the API server does not tell it here");
            Ok(report)
        }
    }
}

fn judge_by(text: &[u8], config: &Config, store: Option<&dyn CredentialStore>) -> Result<Report, Failure> {
    let found = store.map(|store| Ok::<_, StoreError>((store.load_pin()?, store.load()?, store.newest_version())));
    let (pin, credential, newest) = found.transpose().map_err(Failure::failed)?.unwrap_or_default();
    let settings = KeySettings { signatures: config.signatures, pin: agent::wanted(config).map_err(Failure::usage)? };
    let looked = gate::look(pin.as_ref(), newest, &settings, &config.policy);
    let (signatures, keyring, is_behind) = looked.map_err(Failure::failed)?;
    let cluster = credential.as_ref().map(|credential| &credential.cluster_id).or(config.cluster_id.as_ref());
    if cluster.is_none() && keyring.is_some() && signatures != Signatures::Off {
        return Err(Failure::usage(
            "a signature is for one cluster: say for which one this is checked, with --cluster-id",
        ));
    }
    let keys = credential.as_ref().and_then(|credential| credential.keys.as_deref());
    let rules = Rules {
        policy: &config.policy,
        signatures,
        keyring: keyring.as_ref(),
        is_behind,
        payload_keys: keys.map(NodeKeys::payload),
        cluster: cluster.map(ClusterId::as_str).unwrap_or_default(),
    };
    Ok(check_job(text, &rules, Timestamp::from_unix_seconds(clock::unix_seconds())))
}

/// One byte more than is taken, so that a longer file is told from one that is as long as may be.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let bound = limits::CHECK_FILE_BYTES as u64 + 1;
    if file.as_os_str() == "-" {
        io::stdin().take(bound).read_to_end(&mut text)?;
    } else {
        std::fs::File::open(file)?.take(bound).read_to_end(&mut text)?;
    }
    Ok(text)
}

fn print(report: &Report) -> String {
    let mut text = String::new();
    let unknown = "(not readable)";
    // Writing to a string does not fail.
    let _ = writeln!(text, "job       {}", printable(report.job.as_deref().unwrap_or(unknown)));
    let _ = writeln!(text, "action    {}", printable(report.action.as_deref().unwrap_or(unknown)));
    for clause in &report.passed {
        let _ = writeln!(text, "passed    {}", clause.describe());
    }
    match &report.stopped {
        Some(stopped) => {
            let _ = writeln!(text, "stopped   {}", stopped.clause.describe());
        }
        None => {
            let _ = writeln!(text, "admitted");
            for left in &report.left {
                let _ = writeln!(text, "left      {left}");
            }
        }
    }
    text
}

/// What somebody else wrote does not steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

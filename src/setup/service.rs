//! The agent as a unit of systemd: the way on every node that has it, as this agent lives on when k3s does not.

use std::fs;
use std::path::Path;

use super::error::SetupError;
use super::host::{Deed, Host, Owner};
use super::site::{Node, Site, open_admin};
use super::{
    CREDENTIALS, DROP_IN, KUBECONFIG, MANIFESTS, PACKAGED_UNITS, SETTINGS, STATE, STATUS, SYSTEMD, SYSUSERS, TOKEN,
    UNIT, WANTED, cluster, pod, wait,
};
use crate::config::TargetChoice;
use crate::net::PlainHttp;
use crate::status::{ConnectionState, Status};
use crate::target::kubernetes::Admin;
use crate::texts;
use crate::trust::policy::OWN_NAMESPACE;

/// The user that it runs as.
const USER_TEXT: &str = include_str!("../../systemd/pullet.sysusers");

/// Where the unit of the repository expects the program.
const PROGRAM: &str = "/usr/local/bin/pullet";

pub(super) fn install(site: &Site<'_>) -> Result<(), SetupError> {
    let host = &site.host;
    if site.starts && !host.has(SYSTEMD) {
        return Err(SetupError::Impossible(match site.node {
            Node::K3sServer => {
                "no systemd runs here: --in-cluster makes the agent a pod, --no-start leaves the start to you"
            }
            Node::K3sAgent | Node::Plain => "no systemd runs here: --no-start leaves the start to you",
        }));
    }
    if host.has(&[MANIFESTS, "/", pod::FILES[4]].concat()) {
        const POD: &str =
            "the agent of this node is a pod: stay with --in-cluster, or take it away first (pullet uninstall)";
        return Err(SetupError::Impossible(POD));
    }
    let settings = settings(site)?;
    let program = host.program()?;
    let admin = site.admin()?;
    make_user(host)?;
    host.directory("/etc/pullet", 0o750, Owner::Group)?;
    host.directory(CREDENTIALS, 0o700, Owner::Root)?;
    host.put(SETTINGS, 0o640, Owner::Group, settings.as_bytes())?;
    site.put_credentials()?;
    if let Some(admin) = &admin {
        site.apply(admin, site.means.definitions)?;
        site.apply(admin, &(site.means.rights)(&site.config))?;
        if let Some(admission) = site.admission(admin)? {
            site.apply(admin, &admission)?;
        }
        make_account(site, admin)?;
        if site.config.cluster_resource.is_some() {
            site.hand_token(admin)?;
            if host.is_dry() || admin.own().clusters(None).is_ok_and(|found| found.clusters.is_empty()) {
                site.apply(admin, &cluster::wanted(site)?)?;
            }
        }
    }
    let packaged = PACKAGED_UNITS.into_iter().find(|unit| host.has(unit));
    if packaged.is_none() {
        host.put_program(program)?;
        let unit = texts::unit().replace(PROGRAM, program);
        host.put(UNIT, 0o644, Owner::Root, unit.as_bytes())?;
    }
    let is_registered = site.config.cluster_resource.is_none() && site.has_credential();
    if is_registered {
        keep_registration(site)?;
    }
    open_directory(site)?;
    if !site.starts {
        // Nobody is there who could say it to the systemd of a card.
        let how = match host.has_root() {
            true => "",
            false => " (systemctl enable --now pullet)",
        };
        if host.has_root() {
            host.link(WANTED, packaged.unwrap_or(UNIT))?;
        }
        host.say(&["nothing was started: the agent registers by itself with its first start", how].concat());
        return Ok(());
    }
    if site.config.cluster_resource.is_none() && !is_registered {
        register(site)?;
    }
    for arguments in [&["daemon-reload"][..], &["enable", "pullet"], &["restart", "pullet"]] {
        host.run("systemctl", arguments)?;
    }
    if host.is_dry() {
        host.tell(Deed("wait", ""), "for the first poll");
        return Ok(());
    }
    let mut polls = String::new();
    wait(site, || match Status::read(&host.path(STATUS)) {
        Ok(status) if status.connection.state == ConnectionState::Connected => {
            polls = ["polls ", &status.endpoint, " as ", &status.cluster].concat();
            None
        }
        Ok(status) if !status.connection.fault.is_empty() => Some(status.connection.fault),
        Ok(_) => Some("there was no answer yet".to_owned()),
        Err(_) => Some("the agent does not say yet how it is (journalctl -u pullet)".to_owned()),
    })?;
    host.say(&["it works: the agent ", &polls, "; pullet status shows how it is"].concat());
    Ok(())
}

fn make_user(host: &Host) -> Result<(), SetupError> {
    if host.has_user() {
        return Ok(());
    }
    host.put(SYSUSERS, 0o644, Owner::Root, USER_TEXT.as_bytes())?;
    let root = host.root_flag();
    let arguments: Vec<&str> = root.as_deref().into_iter().chain(["pullet.conf"]).collect();
    host.run("systemd-sysusers", &arguments)
}

/// Lets the agent write to the directory of its target, where the unit does not by itself.
fn open_directory(site: &Site<'_>) -> Result<(), SetupError> {
    let host = &site.host;
    let directory = match &site.config.target {
        TargetChoice::Directory(directory) if *directory != Path::new(MANIFESTS).join("pullet") => directory,
        _ => return host.remove(DROP_IN),
    };
    let directory = directory.to_string_lossy();
    if !host.has(&directory) {
        host.directory(&directory, 0o700, Owner::Agent)?;
    } else if !host.is_agents(&directory) {
        host.say(&[&directory, " was there before: see that the user pullet may write to it"].concat());
    }
    // One that is not there, as on a disk that is not, is no reason not to start.
    let text = format!("[Service]\nReadWritePaths={:?}\n", ["-", &directory].concat()).replace('%', "%%");
    host.put(DROP_IN, 0o644, Owner::Root, text.as_bytes())?;
    Ok(())
}

/// What is to stand in the file.
fn settings(site: &Site<'_>) -> Result<String, SetupError> {
    const HEAD: &str = "# The configuration of Pullet, made by pullet setup. docs/quickstart.md has every key.\n";
    let path = site.host.path(SETTINGS);
    let before = if site.file.is_empty() { HEAD } else { &site.file };
    Ok(site.flags.written_into(before, &path)?)
}

/// A kubeconfig of the agent's own account, unless it has one that works.
fn make_account(site: &Site<'_>, admin: &Admin) -> Result<(), SetupError> {
    let host = &site.host;
    // What an agent may always do.
    let path = ["/api/v1/namespaces/", OWN_NAMESPACE].concat();
    let present = host.path(KUBECONFIG);
    let works = present.exists()
        && open_admin(&present, None, PlainHttp::Refused)
            .is_ok_and(|agent| agent.server() == admin.server() && agent.has(&path).is_ok());
    if works {
        host.say(&[KUBECONFIG, " works"].concat());
        return Ok(());
    }
    if host.is_dry() {
        host.tell(Deed("write a token of the account pullet into", ""), &[KUBECONFIG, " (0600 root:root)"].concat());
        return Ok(());
    }
    let account = admin.account_token()?;
    host.put(KUBECONFIG, 0o600, Owner::Root, admin.kubeconfig(&account.token)?.as_bytes())?;
    host.say(&["the agent's account has a token until ", &account.ends].concat());
    Ok(())
}

/// A one-time token that nobody needs does not stay.
fn keep_registration(site: &Site<'_>) -> Result<(), SetupError> {
    let host = &site.host;
    host.say("this node is registered already");
    if host.is_dry() {
        return Ok(());
    }
    host.hand_over(STATE)?;
    if site.token.is_some() {
        host.say("the one-time token was not used: pullet register --force takes one");
        host.remove(TOKEN)?;
    }
    Ok(())
}

fn register(site: &Site<'_>) -> Result<(), SetupError> {
    let host = &site.host;
    if host.is_dry() {
        host.tell(Deed("register at", ""), &site.endpoint);
        return Ok(());
    }
    // The token stays where it is when there is no answer: the next try takes it from there.
    let registered = (site.means.register)(&site.config).map_err(SetupError::Other);
    if host.has(STATE) {
        host.hand_over(STATE)?;
    }
    registered?;
    let token = host.path(TOKEN);
    fs::remove_file(&token).map_err(|error| SetupError::File(token, error))
}

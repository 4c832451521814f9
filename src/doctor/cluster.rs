//! The cluster that jobs are applied to: whether its API answers, and whether what the agent needs is there.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Check, Desk, Patient, Verdict, chain, within};
use crate::agent;
use crate::cli;
use crate::config::TargetChoice;
use crate::target::Holder;
use crate::target::kubernetes::{Access, Fit, Inspector, OwnError, Record, Right, Surroundings, kinds_of, rights_of};

/// What rests on an API server that answers.
const BEHIND: [Check; 4] = [Check::Release, Check::Definitions, Check::Admission, Check::Holder];

const NO_API: &str = "the target is a directory: no API server is asked";

/// What `kubectl` shows of a server before it.
const ADMISSION_SINCE: u32 = 30;

/// Before it a server keeps no rules within definitions.
const RULES_SINCE: u32 = 25;

pub(super) fn examine(patient: &Patient, desk: &Desk) {
    if matches!(patient.config.target, TargetChoice::Directory(_)) {
        desk.skip(Check::ApiServer, NO_API);
        BEHIND.iter().for_each(|check| desk.skip(*check, NO_API));
        return;
    }
    let failed = |seen: String, mend| {
        desk.say(Check::ApiServer, Verdict::Failed, seen, mend);
        desk.skip_because(&BEHIND, Check::ApiServer);
    };
    let access = match access(patient) {
        Ok(access) => access,
        Err(why) => return failed(why, "give the kubeconfig of the account pullet: kubeconfig (docs/quickstart.md says how it is made)"),
    };
    let inspector = Arc::new(Inspector::new(&access));
    let (asking, server) = (Arc::clone(&inspector), inspector.server());
    let version = match within(patient.time(), move || asking.version()) {
        Some(Ok(version)) => version,
        Some(Err(error)) => {
            let mend = "does k3s run (systemctl status k3s)? are address, CA and token of the kubeconfig those of this cluster?";
            return failed(format!("{server}: {error}"), mend);
        }
        None => {
            let mend = "see what k3s is busy with: systemctl status k3s, top, journalctl -u k3s";
            return failed(format!("{server} does not answer"), mend);
        }
    };
    desk.ok(Check::ApiServer, [&server, " answers"].concat());
    let minor = minor(&version);
    examine_release(desk, &version, minor);
    examine_definitions(desk, &inspector, minor, patient.config.cluster_resource.is_some());
    examine_admission(patient, desk, &inspector);
    examine_holder(patient, desk, &inspector);
}

fn access(patient: &Patient) -> Result<Access, String> {
    agent::find_access(&patient.config).map_err(|error| chain(&error))
}

/// The second number of `v1.33.1+k3s1`.
fn minor(version: &str) -> Option<u32> {
    version.split('.').nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn examine_release(desk: &Desk, version: &str, minor: Option<u32>) {
    let kind = if version.contains("+k3s") { "k3s " } else { "no k3s, but Kubernetes " };
    let seen = [kind, version].concat();
    if minor.is_some_and(|minor| minor < ADMISSION_SINCE) {
        desk.say(
            Check::Release,
            Verdict::Note,
            seen,
            "update it to 1.30 or newer: before that nobody but the agent is held to the policy (docs/admission.md)",
        );
    } else {
        desk.ok(Check::Release, seen);
    }
}

fn examine_definitions(desk: &Desk, inspector: &Inspector, minor: Option<u32>, needs_cluster: bool) {
    const APPLY: &str = "pullet crds | kubectl apply -f -";
    let but: &[&str] = if minor.is_some_and(|minor| minor < RULES_SINCE) { &["x-kubernetes-validations"] } else { &[] };
    let mut unseen = false;
    let (mut absent, mut others) = (Vec::new(), Vec::new());
    for (kind, text) in kinds_of(cli::crds::TEXT).unwrap_or_default() {
        match inspector.definition(text, but) {
            Ok(Fit::Same) => {}
            Ok(Fit::Unseen) => unseen = true,
            Ok(Fit::Other) => others.push(kind.kind),
            // Without one nobody asks for a Cluster.
            Ok(Fit::Absent) if kind.kind == "Cluster" && !needs_cluster => {}
            Ok(Fit::Absent) => absent.push(kind.kind),
            Err(error) => return desk.skip(Check::Definitions, &["the API server did not say: ", &error.to_string()].concat()),
        }
    }
    if !absent.is_empty() {
        let seen = ["not defined: ", &absent.join(", ")].concat();
        desk.say(Check::Definitions, Verdict::Failed, seen, APPLY);
    } else if !others.is_empty() {
        let seen = ["of another version than this program's: ", &others.join(", ")].concat();
        desk.say(Check::Definitions, Verdict::Warning, seen, APPLY);
    } else if unseen {
        desk.ok(Check::Definitions, "served as v1alpha1 (with an admin's --kubeconfig the schemas are compared as well)");
    } else {
        desk.ok(Check::Definitions, "those of this program");
    }
}

fn examine_admission(patient: &Patient, desk: &Desk, inspector: &Inspector) {
    const APPLY: &str = "print it with the agent's configuration: pullet admission --config FILE | kubectl apply -f - (docs/admission.md)";
    let fit = match inspector.knows_admission() {
        Ok(true) => inspector.admission(&patient.config.policy.admission()),
        Ok(false) => return desk.skip(Check::Admission, "this API server has none (1.30 is the first one)"),
        Err(error) => Err(error),
    };
    match fit {
        Ok(Fit::Same) => desk.ok(Check::Admission, "others are held to the policy of these settings as well"),
        Ok(Fit::Unseen) => desk.skip(
            Check::Admission,
            "this account may not see it; an admin may: pullet doctor --kubeconfig FILE",
        ),
        Ok(Fit::Other) => desk.say(Check::Admission, Verdict::Warning, "it is there, for other settings than these", APPLY),
        Ok(Fit::Absent) => {
            desk.say(Check::Admission, Verdict::Note, "not there: the agent keeps to its policy, and nobody else has to", APPLY);
        }
        Err(error) => desk.skip(Check::Admission, &["the API server did not say: ", &error.to_string()].concat()),
    }
}

fn examine_holder(patient: &Patient, desk: &Desk, inspector: &Inspector) {
    const ONE: &str = "of two agents keep one, and uninstall the other; this one takes over when it is started again";
    const APPLY: &str = "pullet rbac --config FILE | kubectl apply -f -, and start the agent again";
    let id = std::fs::read_to_string(patient.config.state_dir.join("holder")).ok();
    let is_here = id.is_some() || patient.agent.is_ok();
    let surroundings = Surroundings { variable: &|name| std::env::var(name).ok(), root: PathBuf::from("/") };
    let me = Holder::find(&surroundings, id.unwrap_or_default().trim().to_owned());
    let say = |verdict, seen: String, mend| desk.say(Check::Holder, verdict, seen, mend);
    let (holder, lives) = match inspector.record() {
        Ok(Record::Nobody) => return desk.ok(Check::Holder, "nobody acts on this cluster yet"),
        Ok(Record::Named(holder, lives)) => (holder, lives),
        Err(OwnError::Absent) => {
            return say(Verdict::Warning, "there is no record of who acts: a second agent would go unnoticed".to_owned(), APPLY);
        }
        Err(OwnError::Forbidden(_)) => {
            return say(Verdict::Warning, "this account may not see who acts: a second agent would go unnoticed".to_owned(), APPLY);
        }
        Err(error) => return desk.skip(Check::Holder, &["the API server did not say: ", &error.to_string()].concat()),
    };
    if holder.is(&me) {
        return desk.ok(Check::Holder, "this agent is the one that acts");
    }
    let is_ours_of_before = matches!((&holder, &me), (Holder::Machine { agent, .. }, Holder::Machine { agent: ours, .. }) if agent == ours);
    if is_ours_of_before {
        desk.ok(Check::Holder, "this agent acted before the last boot, and does again when it is started");
    } else if lives == Some(false) {
        let seen = format!("{holder} acted, and is gone");
        say(Verdict::Note, seen, "nothing to do: the next agent that is started takes over");
    } else if is_here {
        say(Verdict::Failed, format!("{holder} acts on this cluster, and this one does not"), ONE);
    } else {
        say(Verdict::Note, format!("{holder} acts on this cluster; none has ever acted from here"), ONE);
    }
}

/// Asks for each right that `pullet rbac` gives, one by one. On a connection and a thread of its own: there are many.
pub(super) fn examine_rights(patient: &Patient, desk: &Desk) {
    const APPLY: &str = "pullet rbac --config FILE | kubectl apply -f - (as an admin, with the agent's configuration)";
    let check = Check::Rights;
    if matches!(patient.config.target, TargetChoice::Directory(_)) {
        return desk.skip(check, NO_API);
    }
    let Ok(access) = access(patient) else { return desk.skip_because(&[check], Check::ApiServer) };
    let inspector = Inspector::new(&access);
    let wanted = rights_of(&cli::rbac::text(&patient.config)).unwrap_or_default();
    let mut lacking = Vec::new();
    let mut count = 0;
    for right in &wanted {
        if patient.time().is_zero() {
            break;
        }
        match inspector.may(right) {
            Ok(true) => {}
            Ok(false) => lacking.push(right.to_string()),
            Err(_) if count == 0 => return desk.skip_because(&[check], Check::ApiServer),
            Err(error) => return desk.skip(check, &["the API server did not say: ", &error.to_string()].concat()),
        }
        count += 1;
    }
    let all = wanted.len();
    if !lacking.is_empty() {
        let missing = lacking.len();
        lacking.truncate(3);
        let seen = format!("{missing} of {all} are missing: may not {}", lacking.join("; may not "));
        return desk.say(check, Verdict::Failed, seen, APPLY);
    }
    if count < all {
        let seen = format!("{count} of {all} were asked for in time, and are there");
        return desk.say(check, Verdict::Note, seen, "ask again when the API server is less busy");
    }
    let anything = Right { verb: "*".to_owned(), group: "*".to_owned(), resource: "*".to_owned(), ..Right::default() };
    if inspector.may(&anything).is_ok_and(|may| may) {
        let mend = "fine for a first try; for good give the agent the account pullet (pullet rbac) and its kubeconfig";
        return desk.say(check, Verdict::Note, "this account may do anything in the cluster", mend);
    }
    desk.ok(check, format!("all {all} that the settings need, and not everything"));
}

#[cfg(test)]
mod tests {
    use super::minor;

    #[test]
    fn the_version_of_a_server_is_read() {
        for (version, expected) in
            [("v1.33.1+k3s1", Some(33)), ("v1.20.2", Some(20)), ("1.30+", Some(30)), ("", None), ("v1", None), ("v1.x", None)]
        {
            assert_eq!(minor(version), expected, "{version}");
        }
    }
}

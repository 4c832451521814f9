//! The cluster that jobs are applied to: whether its API answers, and whether what the agent needs is there.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Check, Desk, Patient, Verdict, chain, within};
use crate::agent;
use crate::cli;
use crate::config::TargetChoice;
use crate::target::Holder;
use crate::target::kubernetes::{
    Access, Fit, Inspector, OwnError, REFUSED, Record, Right, Surroundings, kinds_of, rights_of,
};
use crate::texts;

/// What rests on an API server that answers.
const BEHIND: [Check; 4] = [Check::Release, Check::Definitions, Check::Admission, Check::Holder];

const NO_API: &str = "the target is a directory";

/// What an API server that answers does not answer.
const UNSAID: &str = "it did not say: ";

/// Before it there are no admission policies.
const ADMISSION_SINCE: u32 = 30;

/// Before it a server keeps no rules within definitions.
const RULES_SINCE: u32 = 25;

pub(super) fn examine(patient: &Patient, desk: &Desk) {
    if matches!(patient.config.target, TargetChoice::Directory(_)) {
        for check in [Check::ApiServer].into_iter().chain(BEHIND) {
            desk.skip(check, &[NO_API]);
        }
        return;
    }
    let failed = |seen: &[&str], mend| {
        desk.fail(Check::ApiServer, seen, mend);
        desk.skip_because(&BEHIND, Check::ApiServer);
    };
    let access = match access(patient) {
        Ok(access) => access,
        Err(why) => return failed(&[&why], "give the kubeconfig of the account pullet: kubeconfig"),
    };
    let inspector = Arc::new(Inspector::new(&access));
    let server = inspector.server();
    let version = match version(patient, &inspector) {
        Some(Ok(version)) => version,
        Some(Err(error)) => {
            let why = error.to_string();
            let mend = if why == REFUSED {
                "sudo pullet setup makes another token"
            } else {
                "does k3s run (systemctl status k3s)? is the kubeconfig one of this cluster?"
            };
            return failed(&[&server, ": ", &why], mend);
        }
        None => return failed(&[&server, " does not answer"], "see what k3s is busy with: systemctl status k3s, top"),
    };
    desk.ok(Check::ApiServer, &[&server, " answers"]);
    let minor = minor(&version);
    examine_release(desk, &version, minor);
    examine_definitions(desk, &inspector, minor, patient.config.cluster_resource.is_some());
    examine_admission(patient, desk, &inspector);
    examine_holder(patient, desk, &inspector);
}

fn access(patient: &Patient) -> Result<Access, String> {
    agent::find_access(&patient.config).map_err(|error| chain(&error))
}

/// What the API server says that it is; none where it does not come to say it.
fn version(patient: &Patient, inspector: &Arc<Inspector>) -> Option<Result<String, OwnError>> {
    let asking = Arc::clone(inspector);
    within(patient.time(), move || asking.version())
}

/// The second number of `v1.33.1+k3s1`.
fn minor(version: &str) -> Option<u32> {
    version.split('.').nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn examine_release(desk: &Desk, version: &str, minor: Option<u32>) {
    let kind = if version.contains("+k3s") { "k3s " } else { "Kubernetes " };
    let (verdict, mend) = match minor {
        Some(minor) if minor < ADMISSION_SINCE => {
            (Verdict::Note, "from 1.30 on others can be held to the policy as well (docs/admission.md)")
        }
        _ => (Verdict::Ok, ""),
    };
    desk.say(Check::Release, verdict, &[kind, version], mend);
}

fn examine_definitions(desk: &Desk, inspector: &Inspector, minor: Option<u32>, needs_cluster: bool) {
    let check = Check::Definitions;
    let (but, apply): (&[&str], _) = if minor.is_some_and(|minor| minor < RULES_SINCE) {
        (&["x-kubernetes-validations"], "pullet crds | kubectl apply --validate=false -f -")
    } else {
        (&[], "pullet crds | kubectl apply -f -")
    };
    let mut seen = (Verdict::Ok, "those of this program", String::new());
    for (kind, text) in kinds_of(&texts::definitions()).unwrap_or_default() {
        let found = match inspector.definition(text, but) {
            Ok(Fit::Absent) if kind.kind == "Cluster" && !needs_cluster => continue,
            Ok(Fit::Same) => continue,
            Ok(Fit::Unseen) => (Verdict::Ok, "served as v1alpha1; an admin's --kubeconfig shows more", String::new()),
            Ok(Fit::Other) => (Verdict::Warning, "of another version: ", kind.kind),
            Ok(Fit::Absent) => (Verdict::Failed, "not defined: ", kind.kind),
            Err(error) => return desk.skip(check, &[UNSAID, &error.to_string()]),
        };
        if found.0 >= seen.0 {
            seen = found;
        }
    }
    desk.say(check, seen.0, &[seen.1, &seen.2], if seen.0 == Verdict::Ok { "" } else { apply });
}

fn examine_admission(patient: &Patient, desk: &Desk, inspector: &Inspector) {
    let check = Check::Admission;
    let fit = match inspector.knows_admission() {
        Ok(true) => inspector.admission(&patient.config.policy.admission()),
        Ok(false) => return desk.skip(check, &["this API server has none (1.30 is the first one)"]),
        Err(error) => Err(error),
    };
    let (verdict, seen) = match fit {
        Ok(Fit::Same) => return desk.ok(check, &["others are held to these settings as well"]),
        Ok(Fit::Unseen) => return desk.skip(check, &["this account may not see it; an admin's --kubeconfig does"]),
        Ok(Fit::Other) => (Verdict::Warning, "it is there, for other settings"),
        Ok(Fit::Absent) => (Verdict::Note, "not there: nobody but the agent is held to these settings"),
        Err(error) => return desk.skip(check, &[UNSAID, &error.to_string()]),
    };
    desk.say(check, verdict, &[seen], "pullet admission --config FILE | kubectl apply -f - (docs/admission.md)");
}

fn examine_holder(patient: &Patient, desk: &Desk, inspector: &Inspector) {
    const ONE: &str = "of two agents keep one, and uninstall the other";
    let check = Check::Holder;
    let id = std::fs::read_to_string(patient.config.state_dir.join("holder")).ok();
    let is_here = id.is_some() || patient.agent.is_ok();
    let surroundings = Surroundings { variable: &|name| std::env::var(name).ok(), root: PathBuf::from("/") };
    let me = Holder::find(&surroundings, id.unwrap_or_default().trim().to_owned());
    let (holder, lives) = match inspector.record() {
        Ok(Record::Nobody) => return desk.ok(check, &["nobody acts on this cluster yet"]),
        Ok(Record::Named(holder, lives)) => (holder, lives),
        Err(OwnError::Absent | OwnError::Forbidden(_)) => {
            let seen = "no record of who acts can be seen: a second agent would go unnoticed";
            return desk.warn(
                check,
                &[seen],
                "pullet rbac --config FILE | kubectl apply -f -, and start the agent again",
            );
        }
        Err(error) => return desk.skip(check, &[UNSAID, &error.to_string()]),
    };
    let name = holder.to_string();
    let was_us =
        matches!((&holder, &me), (Holder::Machine { agent, .. }, Holder::Machine { agent: us, .. }) if agent == us);
    if holder.is(&me) {
        desk.ok(check, &["this agent is the one that acts"]);
    } else if was_us {
        desk.ok(check, &["this agent acted before the last boot, and does when it starts"]);
    } else if lives == Some(false) {
        desk.say(check, Verdict::Note, &[&name, " acted, and is gone"], "nothing to do: the next agent takes over");
    } else if is_here {
        desk.fail(check, &[&name, " acts on this cluster, and this one does not"], ONE);
    } else {
        desk.say(check, Verdict::Note, &[&name, " acts on this cluster; none has acted from here"], ONE);
    }
}

/// Asks for each right that `pullet rbac` gives, one by one. On a connection and a thread of its own: there are many.
pub(super) fn examine_rights(patient: &Patient, desk: &Desk) {
    let check = Check::Rights;
    if matches!(patient.config.target, TargetChoice::Directory(_)) {
        return desk.skip(check, &[NO_API]);
    }
    let Ok(access) = access(patient) else { return desk.skip_because(&[check], Check::ApiServer) };
    let inspector = Arc::new(Inspector::new(&access));
    if version(patient, &inspector).is_none() {
        return desk.skip_because(&[check], Check::ApiServer);
    }
    let wanted = rights_of(&cli::rbac::text(&patient.config)).unwrap_or_default();
    let (mut asked, mut missing, mut first) = (0_usize, 0_usize, String::new());
    for right in &wanted {
        if patient.time().is_zero() {
            break;
        }
        match inspector.may(right) {
            Ok(true) => {}
            Ok(false) => {
                missing += 1;
                if missing == 1 {
                    first = right.to_string();
                }
            }
            Err(_) if asked == 0 => return desk.skip_because(&[check], Check::ApiServer),
            Err(error) => return desk.skip(check, &[UNSAID, &error.to_string()]),
        }
        asked += 1;
    }
    let [missing_count, all, asked_count] = [missing, wanted.len(), asked].map(|count| count.to_string());
    if missing > 0 {
        let mend = "as an admin: pullet rbac --config FILE | kubectl apply -f -";
        return desk.fail(check, &[&missing_count, " of ", &all, " are missing: may not ", &first], mend);
    }
    if asked < wanted.len() {
        let seen = [asked_count.as_str(), " of ", &all, " could be asked for in time, and are there"];
        return desk.say(check, Verdict::Note, &seen, "ask again when the API server is less busy");
    }
    let star = || "*".to_owned();
    let anything = Right { verb: star(), group: star(), resource: star(), ..Right::default() };
    if inspector.may(&anything).is_ok_and(|may| may) {
        let mend = "fine for a first try; for good use the account pullet (pullet rbac)";
        return desk.say(check, Verdict::Note, &["this account may do anything"], mend);
    }
    desk.ok(check, &["all ", &all, " that the settings need, and not everything"]);
}

#[cfg(test)]
mod tests {
    use super::minor;

    #[test]
    fn the_version_of_a_server_is_read() {
        for (version, expected) in [
            ("v1.33.1+k3s1", Some(33)),
            ("v1.20.2", Some(20)),
            ("1.30+", Some(30)),
            ("", None),
            ("v1", None),
            ("v1.x", None),
        ] {
            assert_eq!(minor(version), expected, "{version}");
        }
    }
}

//! What is said of a Cluster: from what the agent knows to the status, and from one status to the next what is news.
//! Pure.
//!
//! One write a change: what moves by itself (the last answer, the fill of the buffer, the count of what was lost) is
//! written along with something else and never for its own sake.

use std::time::Duration;

use crate::journal::Fill;
use crate::limits;
use crate::link::health::{Access, Connection, Standing};
use crate::protocol::{Condition, Timestamp};
use crate::resources::{Buffer, ClusterStatus, CredentialStatus, Phase, SecretReference};
use crate::target::kubernetes::Notice;
use crate::trust::policy::OWN_NAMESPACE;

use super::secret_store;

/// What is going on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// The one-time token was refused, or is used up.
    RegistrationFailed(String),
    /// The one-time token is being exchanged.
    Registering,
    /// The Cluster asks for what cannot be done: the reason in a word, and in a sentence.
    Refused(&'static str, String),
    /// There is a credential.
    Serving,
    /// Nothing is known yet, and nothing is said.
    #[default]
    Starting,
    /// The Cluster is being deleted.
    Terminating,
    /// There is no one-time token to register with.
    TokenMissing(String),
    /// The control plane cannot be reached for a registration.
    Unreachable(String),
    /// What is stored cannot be used.
    Unusable(String),
}

impl Stage {
    /// What is told of it.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::RegistrationFailed(text)
            | Self::Refused(_, text)
            | Self::TokenMissing(text)
            | Self::Unreachable(text)
            | Self::Unusable(text) => text,
            Self::Registering | Self::Serving | Self::Starting | Self::Terminating => "",
        }
    }
}

/// What has become of the credential since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    Registered,
    Rotated,
}

/// All that the status is made of.
#[derive(Clone, Debug)]
pub(super) struct View<'a> {
    pub(super) now: Timestamp,
    pub(super) generation: i64,
    pub(super) stage: &'a Stage,
    pub(super) connection: Connection,
    pub(super) standing: Standing,
    /// How long calls have been answered, or have not been.
    pub(super) held: Duration,
    pub(super) answered_at: Option<Timestamp>,
    pub(super) fill: Option<Fill>,
    pub(super) capacity: u64,
    /// When the credential in use was given.
    pub(super) registered_at: Option<Timestamp>,
    /// The mark of the last one-time token that was tried.
    pub(super) observed_token: String,
    pub(super) news: Option<News>,
    /// A registration is a round trip.
    pub(super) just_registered: bool,
    /// Why the rotation that somebody asked for failed.
    pub(super) rotation_fault: String,
}

const NO_ROUND_TRIP: &str =
    "no round trip to the control plane for too long; the cluster goes on, and what happens is kept";

/// A condition that is to be. It has a sentence in any case: an API server of before 1.21 takes an empty text for none.
type Said<'a> = (&'static str, bool, &'a str, String);

/// What is to be said now, after `before`; none = nothing is known to say.
pub(super) fn desired(view: &View<'_>, before: &ClusterStatus) -> Option<ClusterStatus> {
    let was = |kind: &str| before.conditions.iter().find(|condition| condition.kind == kind);
    let mut said: Vec<Said<'_>> = Vec::new();
    let mut phase = match view.stage {
        Stage::Starting => return None,
        Stage::Terminating => {
            let text = "the Cluster is being deleted, and its credential with it".to_owned();
            said.push(("Connected", false, "CredentialMissing", text));
            Phase::Terminating
        }
        Stage::TokenMissing(text) => {
            said.push(("Connected", false, "RegistrationPending", text.clone()));
            said.push(("Authenticated", false, "TokenSecretMissing", text.clone()));
            Phase::Pending
        }
        Stage::Registering => {
            said.push(("Connected", false, "RegistrationPending", "the one-time token is being exchanged".to_owned()));
            Phase::Registering
        }
        Stage::Unreachable(text) => {
            said.push(("Connected", false, "ControlPlaneUnreachable", text.clone()));
            Phase::Registering
        }
        Stage::RegistrationFailed(text) => {
            said.push(("Connected", false, "RegistrationPending", text.clone()));
            said.push(("Authenticated", false, "RegistrationFailed", text.clone()));
            Phase::Error
        }
        Stage::Unusable(text) => {
            said.push(("Connected", false, "CredentialMissing", text.clone()));
            said.push(("Authenticated", false, "CredentialMissing", text.clone()));
            Phase::Error
        }
        Stage::Refused(reason, text) => {
            said.push(("Connected", false, "RegistrationPending", text.clone()));
            said.push(("Accepted", false, reason, text.clone()));
            Phase::Error
        }
        Stage::Serving => serving(view, before, &mut said)?,
    };
    if let Some(fill) = view.fill {
        said.push(overflow(fill));
    }
    let mut generation = view.generation;
    // Without the control plane's word for it, what was said stays: a change of the spec is one write, when the line is
    // up again.
    let is_unknown = phase == Phase::Registering && view.stage == &Stage::Serving;
    if is_unknown {
        phase = before.phase.filter(|phase| *phase != Phase::Terminating).unwrap_or(phase);
        generation = before.observed_generation.unwrap_or(generation);
    }
    let mut conditions: Vec<Condition> = before
        .conditions
        .iter()
        .filter(|old| (is_unknown || old.kind != "Accepted") && said.iter().all(|new| new.0 != old.kind))
        .cloned()
        .collect();
    for (kind, is_true, reason, message) in said {
        let status = if is_true { "True" } else { "False" };
        let since = was(kind).filter(|old| old.status == status).and_then(|old| old.last_transition_time);
        conditions.push(Condition {
            kind: kind.to_owned(),
            status: status.to_owned(),
            observed_generation: Some(generation),
            last_transition_time: since.or(Some(view.now)),
            reason: reason.to_owned(),
            message,
        });
    }
    conditions.sort_by(|a, b| a.kind.cmp(&b.kind));
    let has_credential = view.registered_at.is_some() && matches!(view.stage, Stage::Serving);
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Some(ClusterStatus {
        phase: Some(phase),
        conditions,
        last_heartbeat: view.answered_at.or(before.last_heartbeat),
        credential_status: if has_credential {
            Some(CredentialStatus {
                secret_name: secret_store::NAME.to_owned(),
                secret_namespace: OWN_NAMESPACE.to_owned(),
                registered_at: view.registered_at,
                registration_token_consumed: !view.observed_token.is_empty(),
            })
        } else {
            before.credential_status.clone()
        },
        credentials_secret_ref: Some(SecretReference {
            name: secret_store::NAME.to_owned(),
            namespace: OWN_NAMESPACE.to_owned(),
        }),
        observed_token: text(&view.observed_token).or_else(|| before.observed_token.clone()),
        agent_version: text(env!("CARGO_PKG_VERSION")),
        observed_generation: Some(generation),
        buffer: view.fill.map_or(before.buffer, |fill| Some(buffer(fill, view.capacity))),
    })
}

/// What the line says. None while nothing is known that was not said before.
fn serving(view: &View<'_>, before: &ClusterStatus, said: &mut Vec<Said<'_>>) -> Option<Phase> {
    let Connection { reachable, access } = view.connection;
    let is_new = view.just_registered && reachable.is_none();
    // A poll that fails now and then is no news.
    let is_lost = reachable != Some(true) && !is_new && view.held >= limits::LOST_AFTER;
    let phase = match reachable {
        _ if is_lost => {
            said.push(("Connected", false, "ControlPlaneUnreachable", "the control plane does not answer".to_owned()));
            Phase::Disconnected
        }
        _ if is_new || reachable == Some(true) => {
            said.push(("Connected", true, "RoundTripOK", "the control plane answers".to_owned()));
            Phase::Connected
        }
        // Of what is not known yet after a start nothing is said, and of what has just failed neither.
        None if before.phase.is_none() => return None,
        _ => Phase::Registering,
    };
    match view.standing {
        Standing::Disconnected => said.push(("Disconnected", true, "NoRecentRoundTrip", NO_ROUND_TRIP.to_owned())),
        _ if phase == Phase::Connected => {
            said.push(("Disconnected", false, "Connected", "the control plane answers".to_owned()));
        }
        _ => {}
    }
    if phase == Phase::Registering {
        return Some(phase);
    }
    match access {
        Access::Forbidden | Access::Refused => {
            let what = "no jobs until it accepts this agent again: put a new one-time token into the token Secret and \
                        annotate the Cluster with ops.vworkspace.io/rotate-credentials=true";
            said.push(("Authenticated", false, "ControlPlaneAuthenticationFailed", what.to_owned()));
            return Some(if phase == Phase::Connected { Phase::Error } else { phase });
        }
        // A network error never touches it.
        Access::Accepted if phase == Phase::Disconnected => {}
        Access::Accepted if !view.rotation_fault.is_empty() => {
            said.push(("Authenticated", false, "RotationFailed", view.rotation_fault.clone()));
        }
        Access::Accepted => {
            let old = before.conditions.iter().find(|old| old.kind == "Authenticated" && old.status == "True");
            let old = old.map(|old| old.reason.as_str());
            let told = before.credential_status.as_ref().and_then(|told| told.registered_at);
            // A credential that was refused meanwhile, and is accepted again, is none that is new.
            let is_stale = matches!(old, None | Some("CredentialAccepted")) && told == view.registered_at;
            let reason = match (view.news, old) {
                _ if is_stale && told.is_some() => "CredentialAccepted",
                (Some(News::Registered), _) | (None, Some("RegistrationComplete")) => "RegistrationComplete",
                (Some(News::Rotated), _) | (None, Some("CredentialRotated")) => "CredentialRotated",
                _ => "CredentialAccepted",
            };
            said.push(("Authenticated", true, reason, "the credential is accepted".to_owned()));
        }
    }
    Some(phase)
}

/// True until the control plane knows how many.
fn overflow(fill: Fill) -> Said<'static> {
    let lost = fill.lost.saturating_add(fill.lost_at_most);
    let message = format!("{lost} events were lost so far");
    if fill.told || lost == 0 {
        ("BufferOverflow", false, "BufferDrained", message)
    } else {
        ("BufferOverflow", true, "EventBufferFull", message)
    }
}

fn buffer(fill: Fill, capacity: u64) -> Buffer {
    let waiting = fill.reports.saturating_add(fill.events) as u64;
    Buffer {
        capacity_bytes: capacity,
        // A record takes at most this; nobody counts them.
        used_bytes: waiting.saturating_mul(limits::USUAL_RECORD_BYTES).min(capacity),
        lost: fill.lost.saturating_add(fill.lost_at_most),
    }
}

/// Whether anything is to be written.
pub(super) fn differs(before: &ClusterStatus, after: &ClusterStatus) -> bool {
    let bare = |status: &ClusterStatus| ClusterStatus {
        last_heartbeat: None,
        buffer: None,
        conditions: status
            .conditions
            .iter()
            .map(|condition| Condition {
                last_transition_time: None,
                message: match condition.kind.as_str() {
                    "Accepted" | "Authenticated" => condition.message.clone(),
                    _ => String::new(),
                },
                ..condition.clone()
            })
            .collect(),
        ..status.clone()
    };
    bare(before) != bare(after)
}

/// What is worth an event of Kubernetes.
pub(super) fn news<'a>(before: &ClusterStatus, after: &'a ClusterStatus) -> Vec<Notice<'a>> {
    let mut notices = Vec::new();
    let registered_at = |status: &ClusterStatus| status.credential_status.as_ref().and_then(|held| held.registered_at);
    let is_other_credential = registered_at(before) != registered_at(after);
    for condition in &after.conditions {
        let old = before.conditions.iter().find(|old| old.kind == condition.kind);
        let is_same = old.is_some_and(|old| old.status == condition.status && old.reason == condition.reason);
        let is_true = condition.status == "True";
        let (is_warning, message) = match (condition.kind.as_str(), condition.reason.as_str()) {
            ("Authenticated", "RegistrationComplete") if !is_same || is_other_credential => {
                (false, "registered at the control plane; the credential is stored")
            }
            ("Authenticated", "CredentialRotated") if !is_same || is_other_credential => {
                (false, "a new credential is in use")
            }
            _ if is_same => continue,
            ("Authenticated" | "Accepted", _) if !is_true => (true, condition.message.as_str()),
            ("Disconnected", "NoRecentRoundTrip") => (true, NO_ROUND_TRIP),
            ("Disconnected", "Connected") if old.is_some() => (false, "the control plane answers again"),
            _ => continue,
        };
        let reason = match condition.kind.as_str() {
            "Disconnected" if is_true => "ConnectionLost",
            "Disconnected" => "ConnectionRegained",
            _ => condition.reason.as_str(),
        };
        notices.push(Notice { is_warning, reason, message });
    }
    notices
}

#[cfg(test)]
mod tests {
    use super::{News, Stage, View, desired, differs, news};
    use crate::journal::Fill;
    use crate::link::health::{Access, Connection, Standing};
    use crate::protocol::Timestamp;
    use crate::resources::{ClusterStatus, Phase};
    use std::time::Duration;

    const FILL: Fill = Fill { reports: 0, events: 0, lost: 0, lost_at_most: 0, told: true };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    /// A view of an agent that is connected.
    fn view(stage: &Stage) -> View<'_> {
        View {
            now: at(100),
            generation: 2,
            stage,
            connection: Connection { reachable: Some(true), access: Access::Accepted },
            standing: Standing::Connected,
            held: Duration::ZERO,
            answered_at: Some(at(99)),
            fill: Some(FILL),
            capacity: 262_144,
            registered_at: Some(at(50)),
            observed_token: "0011223344556677".into(),
            news: None,
            just_registered: false,
            rotation_fault: String::new(),
        }
    }

    fn connected() -> ClusterStatus {
        desired(&view(&Stage::Serving), &ClusterStatus::default()).unwrap()
    }

    /// `Connected=True/RoundTripOK`, in the order of the kinds.
    fn conditions(status: &ClusterStatus) -> Vec<String> {
        status.conditions.iter().map(|one| format!("{}={}/{}", one.kind, one.status, one.reason)).collect()
    }

    fn has(status: &ClusterStatus, condition: &str) -> bool {
        conditions(status).iter().any(|one| one == condition)
    }

    #[test]
    fn an_agent_that_is_connected_says_so_with_all_there_is_to_say() {
        let status = connected();
        assert_eq!(status.phase, Some(Phase::Connected));
        assert_eq!(
            conditions(&status),
            [
                "Authenticated=True/CredentialAccepted",
                "BufferOverflow=False/BufferDrained",
                "Connected=True/RoundTripOK",
                "Disconnected=False/Connected"
            ]
        );
        assert_eq!((status.last_heartbeat, status.observed_generation), (Some(at(99)), Some(2)));
        assert_eq!(status.observed_token.as_deref(), Some("0011223344556677"));
        let credential = status.credential_status.unwrap();
        assert_eq!(
            (credential.secret_name.as_str(), credential.secret_namespace.as_str()),
            ("vworkspace-agent-credentials", "vworkspace-system")
        );
        assert!(credential.registration_token_consumed);
        assert_eq!(status.buffer.unwrap().capacity_bytes, 262_144);
    }

    #[test]
    fn every_condition_has_a_sentence() {
        let text = || "why".to_owned();
        let lost = Connection { reachable: Some(false), access: Access::Accepted };
        for stage in [Stage::TokenMissing(text()), Stage::Registering, Stage::Unusable(text()), Stage::Serving] {
            for connection in [view(&stage).connection, lost] {
                let held = Duration::from_secs(if connection == lost { 400 } else { 0 });
                let view = View { connection, held, standing: Standing::Disconnected, ..view(&stage) };
                let status = desired(&view, &ClusterStatus::default()).unwrap();
                assert!(status.conditions.iter().all(|one| !one.message.is_empty()), "{:?}", status.conditions);
            }
        }
    }

    #[test]
    fn every_stage_has_its_phase_and_its_reasons() {
        let text = || "why".to_owned();
        for (stage, phase, expected) in [
            (
                Stage::TokenMissing(text()),
                Phase::Pending,
                &["Authenticated=False/TokenSecretMissing", "Connected=False/RegistrationPending"][..],
            ),
            (Stage::Registering, Phase::Registering, &["Connected=False/RegistrationPending"]),
            (Stage::Unreachable(text()), Phase::Registering, &["Connected=False/ControlPlaneUnreachable"]),
            (
                Stage::RegistrationFailed(text()),
                Phase::Error,
                &["Authenticated=False/RegistrationFailed", "Connected=False/RegistrationPending"],
            ),
            (
                Stage::Unusable(text()),
                Phase::Error,
                &["Authenticated=False/CredentialMissing", "Connected=False/CredentialMissing"],
            ),
            (
                Stage::Refused("ModeNotSupported", text()),
                Phase::Error,
                &["Accepted=False/ModeNotSupported", "Connected=False/RegistrationPending"],
            ),
            (Stage::Terminating, Phase::Terminating, &["Connected=False/CredentialMissing"]),
        ] {
            let view = View { fill: None, ..view(&stage) };
            let status = desired(&view, &ClusterStatus::default()).unwrap();
            assert_eq!(status.phase, Some(phase), "{stage:?}");
            assert_eq!(conditions(&status), expected, "{stage:?}");
        }
        assert_eq!(desired(&view(&Stage::Starting), &ClusterStatus::default()), None);
    }

    #[test]
    fn the_line_has_its_reasons() {
        let now = |reachable, access, seconds, standing| {
            let stage = Stage::Serving;
            let view = View {
                connection: Connection { reachable, access },
                held: Duration::from_secs(seconds),
                standing,
                ..view(&stage)
            };
            desired(&view, &connected()).unwrap()
        };
        let accepted = Access::Accepted;
        let moment = now(Some(false), accepted, 5, Standing::Unreachable);
        assert!(!differs(&connected(), &moment), "a poll that failed once is no news");
        let lost = now(Some(false), accepted, 31, Standing::Unreachable);
        assert_eq!(lost.phase, Some(Phase::Disconnected));
        assert!(has(&lost, "Connected=False/ControlPlaneUnreachable") && has(&lost, "Disconnected=False/Connected"));
        assert!(has(&lost, "Authenticated=True/CredentialAccepted"), "a network error never touches it");
        let gone = now(Some(false), accepted, 301, Standing::Disconnected);
        assert!(has(&gone, "Disconnected=True/NoRecentRoundTrip") && differs(&lost, &gone));
        for access in [Access::Forbidden, Access::Refused] {
            let refused = now(Some(true), access, 0, Standing::Connected);
            assert_eq!(refused.phase, Some(Phase::Error));
            assert!(has(&refused, "Authenticated=False/ControlPlaneAuthenticationFailed"));
            assert!(has(&refused, "Connected=True/RoundTripOK"));
        }
        let silent = now(None, accepted, 31, Standing::Starting);
        assert!(has(&silent, "Connected=False/ControlPlaneUnreachable"), "a start into an outage");
    }

    #[test]
    fn a_start_says_nothing_until_there_is_something_to_say() {
        let stage = Stage::Serving;
        let unknown = Connection { reachable: None, access: Access::Accepted };
        let starting = View { connection: unknown, standing: Standing::Starting, ..view(&stage) };
        assert_eq!(desired(&starting, &ClusterStatus::default()), None);
        assert!(!differs(&connected(), &desired(&starting, &connected()).unwrap()), "a restart writes nothing");
        let edited = View { generation: 3, ..starting.clone() };
        assert!(
            !differs(&connected(), &desired(&edited, &connected()).unwrap()),
            "a new line is in effect when it is up"
        );
        let registered = View { news: Some(News::Registered), just_registered: true, ..starting };
        let status = desired(&registered, &ClusterStatus::default()).unwrap();
        assert_eq!(status.phase, Some(Phase::Connected), "a registration is a round trip");
        assert!(has(&status, "Authenticated=True/RegistrationComplete"));
        // The next start does not take it back.
        assert!(!differs(&status, &desired(&view(&stage), &status).unwrap()));
    }

    #[test]
    fn a_rotation_is_told_and_so_is_one_that_failed() {
        let stage = Stage::Serving;
        let rotated = View { news: Some(News::Rotated), registered_at: Some(at(80)), ..view(&stage) };
        let status = desired(&rotated, &connected()).unwrap();
        assert!(has(&status, "Authenticated=True/CredentialRotated"));
        let again = desired(&View { registered_at: Some(at(90)), ..rotated }, &status).unwrap();
        assert!(differs(&status, &again));
        assert_eq!(news(&status, &again)[0].reason, "CredentialRotated");
        let failed = desired(&View { rotation_fault: "no".into(), ..view(&stage) }, &status).unwrap();
        assert!(has(&failed, "Authenticated=False/RotationFailed"));
        assert_eq!(failed.phase, Some(Phase::Connected), "the credential in use stays");
    }

    #[test]
    fn a_credential_that_is_accepted_again_is_none_that_is_new() {
        let stage = Stage::Serving;
        let first = View { news: Some(News::Registered), ..view(&stage) };
        let registered = desired(&first, &ClusterStatus::default()).unwrap();
        assert!(has(&registered, "Authenticated=True/RegistrationComplete"));
        let refused = Connection { reachable: Some(true), access: Access::Forbidden };
        let refused = desired(&View { connection: refused, ..first.clone() }, &registered).unwrap();
        let again = desired(&first, &refused).unwrap();
        assert!(has(&again, "Authenticated=True/CredentialAccepted"));
        assert!(news(&refused, &again).is_empty(), "nobody has registered");
        assert!(!differs(&again, &desired(&first, &again).unwrap()), "and that stays so");
        let rotated = View { news: Some(News::Rotated), registered_at: Some(at(80)), ..first };
        assert!(has(&desired(&rotated, &again).unwrap(), "Authenticated=True/CredentialRotated"));
        assert!(has(&desired(&rotated, &refused).unwrap(), "Authenticated=True/CredentialRotated"));
    }

    #[test]
    fn an_overflow_is_told_with_its_count_and_once() {
        let stage = Stage::Serving;
        let full = |lost, told| {
            let fill = Fill { events: 7, lost, told, ..FILL };
            desired(&View { fill: Some(fill), ..view(&stage) }, &connected()).unwrap()
        };
        let status = full(12, false);
        let condition = status.conditions.iter().find(|one| one.kind == "BufferOverflow").unwrap();
        assert_eq!((condition.reason.as_str(), condition.status.as_str()), ("EventBufferFull", "True"));
        assert_eq!(condition.message, "12 events were lost so far");
        assert_eq!(status.buffer.unwrap().lost, 12);
        assert!(differs(&connected(), &status) && !differs(&status, &full(13, false)));
        assert!(has(&full(13, true), "BufferOverflow=False/BufferDrained"));
    }

    #[test]
    fn what_moves_by_itself_is_no_change_and_a_transition_has_its_time() {
        let before = connected();
        let stage = Stage::Serving;
        let later =
            View { now: at(1_000), answered_at: Some(at(999)), fill: Some(Fill { events: 9, ..FILL }), ..view(&stage) };
        let after = desired(&later, &before).unwrap();
        assert!(!differs(&before, &after));
        assert_eq!(after.conditions[0].last_transition_time, Some(at(100)));
        let refused = View { connection: Connection { reachable: Some(true), access: Access::Refused }, ..later };
        let after = desired(&refused, &before).unwrap();
        assert_eq!(after.conditions[0].last_transition_time, Some(at(1_000)));
        assert_eq!(after.conditions[2].last_transition_time, Some(at(100)));
        let edited = View { generation: 3, ..view(&stage) };
        assert!(differs(&before, &desired(&edited, &before).unwrap()));
    }

    #[test]
    fn a_refused_cluster_that_is_mended_is_accepted_again() {
        let refused = Stage::Refused("ModeNotSupported", "x".into());
        let status = desired(&view(&refused), &connected()).unwrap();
        assert!(has(&status, "Accepted=False/ModeNotSupported"));
        let status = desired(&view(&Stage::Serving), &status).unwrap();
        assert!(conditions(&status).iter().all(|one| !one.starts_with("Accepted")));
    }

    #[test]
    fn events_are_for_what_a_person_would_want_to_know() {
        let stage = Stage::Serving;
        let reasons = |before: &ClusterStatus, after: &ClusterStatus| -> Vec<(bool, String)> {
            news(before, after).into_iter().map(|notice| (notice.is_warning, notice.reason.to_owned())).collect()
        };
        let none = ClusterStatus::default();
        let registered = desired(&View { news: Some(News::Registered), ..view(&stage) }, &none).unwrap();
        assert_eq!(reasons(&none, &registered), [(false, "RegistrationComplete".to_owned())]);
        let gone = View {
            connection: Connection { reachable: Some(false), access: Access::Accepted },
            standing: Standing::Disconnected,
            held: Duration::from_secs(301),
            ..view(&stage)
        };
        let lost = desired(&gone, &registered).unwrap();
        assert_eq!(reasons(&registered, &lost), [(true, "ConnectionLost".to_owned())]);
        let back = desired(&view(&stage), &lost).unwrap();
        assert_eq!(reasons(&lost, &back), [(false, "ConnectionRegained".to_owned())]);
        let missing = desired(&view(&Stage::TokenMissing("x".into())), &none).unwrap();
        assert_eq!(reasons(&none, &missing), [(true, "TokenSecretMissing".to_owned())]);
        assert!(reasons(&missing, &missing).is_empty() && reasons(&registered, &back).is_empty());
    }
}

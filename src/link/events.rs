//! The events about the agent itself (P1.7).

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use crate::clock;
use crate::journal::{Fill, Outbox};
use crate::limits;
use crate::link::backoff::draw;
use crate::link::deliver::Reports;
use crate::link::health::{Access, Connection, Ends, Health, Standing};
use crate::metrics::Bytes;
use crate::protocol::{CLUSTER, ClusterId, Condition, Event, EventKind, ObjectRef, Timestamp};

/// Pushes a heartbeat at the first connection, on every change of it, and every `interval`. While nobody can
/// be reached there is nothing to tell. When the monthly budget is used up there is one a day, past all that waits.
pub async fn beat(
    outbox: Arc<Outbox>,
    health: Arc<Health>,
    reports: Arc<Reports>,
    cluster_id: ClusterId,
    interval: Duration,
    trusting: impl Fn() -> (bool, &'static str, String) + Send,
) {
    let mut changes = health.subscribe();
    // The one sign of life of a day, when the budget is used up: tried again after an interval if it fails.
    let mut due_of_day = Instant::now();
    loop {
        let connection = *changes.borrow_and_update();
        let budget = reports.budget();
        if budget.is_used_up() {
            if Instant::now() >= due_of_day {
                let mut conditions = conditions(connection, health.ends(), outbox.fill(), budget.this_month());
                conditions.push(condition("Budget", false, "UsedUp", USED_UP.to_owned()));
                let (shape, mut event) = about_us(&cluster_id, EventKind::ClusterHeartbeat, conditions);
                event.event_key = format!("{shape}#{:016x}.0", draw());
                due_of_day = Instant::now() + limits::BUDGET_HEARTBEAT;
                if let Err(fault) = reports.post_past(event).await {
                    debug!(error = %fault, "the daily sign of life did not get out; it is tried again");
                    due_of_day = Instant::now() + interval;
                }
            }
        // A 403 to polls says nothing about posts: why there are no more polls goes out if it can.
        } else if connection.reachable == Some(true) && connection.access != Access::Refused {
            due_of_day = Instant::now();
            push_heartbeat(
                &outbox,
                &cluster_id,
                connection,
                health.ends(),
                budget.this_month(),
                health.has_unused_certificates(),
                trusting(),
            );
        }
        let pause = if budget.limit().is_some() { interval.min(limits::BUDGET_LOOK) } else { interval };
        let wake = Instant::now() + interval;
        loop {
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    break;
                }
                () = tokio::time::sleep(pause.min(wake.saturating_duration_since(Instant::now()))) => {}
            }
            if Instant::now() >= wake || budget.is_used_up() && Instant::now() >= due_of_day {
                break;
            }
        }
    }
}

/// What a sign of life says when it is the only one of its day.
const USED_UP: &str = "no polls and no events until the next month; results still go out";

/// Notes when there has been no round trip for too long: that is told when the line is back.
pub async fn watch_silence(outbox: Arc<Outbox>, health: Arc<Health>, cluster_id: ClusterId) {
    loop {
        loop {
            let left = health.until_disconnected();
            if left.is_zero() {
                break;
            }
            tokio::time::sleep(left).await;
        }
        warn!(
            "disconnected: no round trip to the control plane for too long; the cluster goes on, and what happens is kept"
        );
        let disconnected = condition("Disconnected", true, "NoRecentRoundTrip", String::new());
        push(&outbox, &cluster_id, EventKind::ConditionTransition, vec![disconnected]);
        while health.standing() == Standing::Disconnected {
            tokio::time::sleep(LOOK).await;
        }
        let connected = condition("Disconnected", false, "Connected", String::new());
        push(&outbox, &cluster_id, EventKind::ConditionTransition, vec![connected]);
    }
}

/// How often a disconnected agent looks whether it still is.
const LOOK: Duration = Duration::from_secs(5);

/// A sign of life with what a person wants to see first.
pub fn push_heartbeat(
    outbox: &Outbox,
    cluster_id: &ClusterId,
    connection: Connection,
    ends: Ends,
    this_month: Bytes,
    has_unused_certificates: bool,
    (is_verified, reason, detail): (bool, &str, String),
) {
    if outbox.has_heartbeat() {
        return;
    }
    let mut conditions = conditions(connection, ends, outbox.fill(), this_month);
    conditions.extend(outbox.trouble().map(|trouble| condition("JournalHealthy", false, "JournalImpaired", trouble)));
    conditions.extend(doubtful_clock(clock::standing()));
    // Bytes cost: that all is as it should be is not said.
    if !is_verified || !detail.is_empty() {
        conditions.push(condition("JobsVerified", is_verified, reason, detail));
    }
    // Why is in the log: an event has room for so much.
    let reason = match ends.certificate {
        _ if has_unused_certificates => Some("NewCertificatesUnusable"),
        Some((_, true)) => Some("ClientCertificateNearEnd"),
        _ => None,
    };
    conditions.extend(reason.map(|reason| condition("CertificatesRenewed", false, reason, String::new())));
    push(outbox, cluster_id, EventKind::ClusterHeartbeat, conditions);
}

fn conditions(connection: Connection, ends: Ends, fill: Fill, this_month: Bytes) -> Vec<Condition> {
    vec![connected(connection), authenticated(connection, ends), overflow(fill), counted(this_month)]
}

/// A new credential is in use.
pub fn push_rotated(outbox: &Outbox, cluster_id: &ClusterId) {
    let condition = condition("Authenticated", true, "CredentialRotated", String::new());
    push(outbox, cluster_id, EventKind::CredentialRotated, vec![condition]);
}

/// Authorities that the control plane gave are not used.
pub fn push_unused_authorities(outbox: &Outbox, cluster_id: &ClusterId, reason: &str) {
    let condition = condition("CertificatesRenewed", false, reason, String::new());
    push(outbox, cluster_id, EventKind::ConditionTransition, vec![condition]);
}

/// The journal was not as it should be when the agent started.
pub fn push_impaired(outbox: &Outbox, cluster_id: &ClusterId, fault: String) {
    let condition = condition("JournalHealthy", false, "JournalImpaired", fault);
    push(outbox, cluster_id, EventKind::ConditionTransition, vec![condition]);
}

/// A job was refused because it is not trusted.
pub fn push_refused(outbox: &Outbox, cluster_id: &ClusterId, kind: EventKind, reason: &str, message: String) {
    push(outbox, cluster_id, kind, vec![condition("JobVerified", false, reason, message)]);
}

fn push(outbox: &Outbox, cluster_id: &ClusterId, kind: EventKind, conditions: Vec<Condition>) {
    let (shape, event) = about_us(cluster_id, kind, conditions);
    outbox.push_event(&shape, event);
}

/// An event about the Cluster, and the shape of its key.
fn about_us(cluster_id: &ClusterId, kind: EventKind, conditions: Vec<Condition>) -> (String, Event) {
    let (api_version, cluster) = CLUSTER;
    let resource_ref = ObjectRef {
        api_version: api_version.to_owned(),
        kind: cluster.to_owned(),
        name: cluster_id.to_string(),
        ..ObjectRef::default()
    };
    let first = conditions.first();
    let shape = format!(
        "condition/{api_version}/{cluster}/_/{cluster_id}/_/{}/{}@0",
        first.map_or("", |condition| &condition.kind),
        first.map_or("", |condition| &condition.status),
    );
    let timestamp = Timestamp::from_unix_seconds(clock::unix_seconds());
    (shape, Event { event_key: String::new(), kind, resource_ref, conditions, endpoints: Vec::new(), timestamp })
}

fn connected(connection: Connection) -> Condition {
    match connection.reachable {
        Some(true) => condition("Connected", true, "RoundTripOK", String::new()),
        _ => condition("Connected", false, "ControlPlaneUnreachable", String::new()),
    }
}

fn authenticated(connection: Connection, ends: Ends) -> Condition {
    let told = [("credential", ends.credential), ("certificate", ends.certificate.map(|(end, _)| end))];
    let mut message = String::new();
    for (name, end) in told {
        if let Some(end) = end {
            let joint = if message.is_empty() { "" } else { ", " };
            // Writing to a string does not fail.
            let _ = write!(message, "{joint}the {name} ends {end}");
        }
    }
    match connection.access {
        Access::Accepted => condition("Authenticated", true, "CredentialAccepted", message),
        Access::Forbidden | Access::Refused => {
            condition("Authenticated", false, "ControlPlaneAuthenticationFailed", message)
        }
    }
}

/// True until a heartbeat with these losses was taken.
fn overflow(fill: Fill) -> Condition {
    let message = match (fill.lost, fill.lost_at_most) {
        (0, 0) => String::new(),
        (lost, 0) => format!("{lost} events were lost so far"),
        (lost, at_most) => format!("{lost} events were lost so far, and at most {at_most} more at ends without a stop"),
    };
    if fill.told || fill.lost == 0 && fill.lost_at_most == 0 {
        condition("BufferOverflow", false, "BufferDrained", message)
    } else {
        condition("BufferOverflow", true, "EventBufferFull", message)
    }
}

/// Only while there is something to be said: a heartbeat is small.
fn doubtful_clock(standing: clock::Standing) -> Option<Condition> {
    let (is_true, reason, offset) = match standing {
        clock::Standing::Doubtful(offset) => (false, "ClockUnconfirmed", offset),
        clock::Standing::Corrected(offset) => (true, "ClockCorrected", offset),
        clock::Standing::Agreed | clock::Standing::Plausible | clock::Standing::Synchronised => return None,
    };
    let waits = if is_true { "" } else { "; jobs with an expiry wait" };
    Some(condition("ClockConfirmed", is_true, reason, format!("the system clock is off by {offset} s{waits}")))
}

/// Bytes of this month, on the wire and to the control plane.
fn counted(this_month: Bytes) -> Condition {
    let message = format!("{} bytes sent, {} received", this_month.sent, this_month.received);
    condition("Traffic", true, "CountedThisMonth", message)
}

fn condition(kind: &str, is_true: bool, reason: &str, message: String) -> Condition {
    Condition {
        kind: kind.to_owned(),
        status: if is_true { "True" } else { "False" }.to_owned(),
        observed_generation: None,
        last_transition_time: Some(Timestamp::from_unix_seconds(clock::unix_seconds())),
        reason: reason.to_owned(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::push_heartbeat;
    use crate::journal::Outbox;
    use crate::link::health::{Access, Connection, Ends};
    use crate::metrics::Bytes;
    use crate::protocol::{ClusterId, Timestamp};

    #[test]
    fn a_heartbeat_says_how_the_agent_is_and_waits_only_once() {
        let outbox = Outbox::new(1);
        let cluster = ClusterId::parse("c1").unwrap();
        let connection = Connection { reachable: Some(true), access: Access::Accepted };
        let bytes = Bytes { sent: 7, received: 9 };
        let ends = Ends { credential: Some(Timestamp::from_unix_seconds(0)), certificate: None };
        push_heartbeat(&outbox, &cluster, connection, ends, bytes, false, (false, "NoKeyPinned", String::new()));
        push_heartbeat(&outbox, &cluster, connection, ends, bytes, false, (false, "NoKeyPinned", String::new()));
        let (events, _) = outbox.first_events().unwrap();
        assert_eq!(events.len(), 1);
        let reasons: Vec<&str> = events[0].conditions.iter().map(|condition| condition.reason.as_str()).collect();
        assert_eq!(reasons, ["RoundTripOK", "CredentialAccepted", "BufferDrained", "CountedThisMonth", "NoKeyPinned"]);
        assert_eq!(events[0].conditions[1].message, "the credential ends 1970-01-01T00:00:00Z");
        assert_eq!(events[0].conditions[3].message, "7 bytes sent, 9 received");
        // The worst of the usual: no key is pinned. tests/bench counts what four an hour cost on the wire.
        let size = serde_json::to_vec(&events).unwrap().len();
        assert!(size < 1_000, "{size}");
        assert!(
            events[0].event_key.starts_with("condition/ops.vworkspace.io/v1alpha1/Cluster/_/c1/_/Connected/True@0#")
        );
    }
    #[test]
    fn what_is_wrong_with_certificates_is_one_condition() {
        let connection = Connection { reachable: Some(true), access: Access::Accepted };
        let end = Timestamp::from_unix_seconds(1);
        for (is_near, is_unused, reason) in [
            (false, false, None),
            (true, false, Some("ClientCertificateNearEnd")),
            (false, true, Some("NewCertificatesUnusable")),
            (true, true, Some("NewCertificatesUnusable")),
        ] {
            let outbox = Outbox::new(1);
            let ends = Ends { credential: Some(end), certificate: Some((end, is_near)) };
            let bytes = Bytes { sent: 7, received: 9 };
            let cluster = ClusterId::parse("c1").unwrap();
            push_heartbeat(&outbox, &cluster, connection, ends, bytes, is_unused, (true, "", String::new()));
            let (events, _) = outbox.first_events().unwrap();
            let found = events[0].conditions.iter().find(|condition| condition.kind == "CertificatesRenewed");
            assert_eq!(found.map(|condition| condition.reason.as_str()), reason);
            let message = "the credential ends 1970-01-01T00:00:01Z, the certificate ends 1970-01-01T00:00:01Z";
            assert_eq!(events[0].conditions[1].message, message);
        }
    }
}

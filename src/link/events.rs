//! The events about the agent itself (P1.7).

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use crate::clock;
use crate::journal::{Fill, Outbox};
use crate::link::health::{Access, Connection, Ends, Health, Standing};
use crate::metrics::Bytes;
use crate::protocol::{CLUSTER, ClusterId, Condition, Event, EventKind, ObjectRef, Timestamp};

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

/// A sign of life. How many of its conditions had room.
pub fn push_heartbeat(outbox: &Outbox, cluster_id: &ClusterId, conditions: Vec<Condition>) -> usize {
    push(outbox, cluster_id, EventKind::ClusterHeartbeat, conditions)
}

/// A sign of life that goes past the outbox, with a random number in its key.
#[must_use]
pub fn heartbeat(cluster_id: &ClusterId, conditions: Vec<Condition>, random: u64) -> Event {
    let (shape, event) = about_us(cluster_id, EventKind::ClusterHeartbeat, conditions);
    Event { event_key: format!("{shape}#{random:016x}.0"), ..event }
}

/// A new credential is in use.
pub fn push_rotated(outbox: &Outbox, cluster_id: &ClusterId) {
    let condition = condition("Authenticated", true, "CredentialRotated", String::new());
    push(outbox, cluster_id, EventKind::CredentialRotated, vec![condition]);
}

/// Whether new certificates and authorities are in use has changed.
pub fn push_renewed(outbox: &Outbox, cluster_id: &ClusterId, health: &Health) {
    push(outbox, cluster_id, EventKind::ConditionTransition, vec![renewed(health)]);
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

fn push(outbox: &Outbox, cluster_id: &ClusterId, kind: EventKind, conditions: Vec<Condition>) -> usize {
    let (shape, event) = about_us(cluster_id, kind, conditions);
    outbox.push_event(&shape, event)
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

/// Whether the control plane answers.
pub(super) fn connected(connection: Connection) -> Condition {
    match connection.reachable {
        Some(true) => condition("Connected", true, "RoundTripOK", String::new()),
        _ => condition("Connected", false, "ControlPlaneUnreachable", String::new()),
    }
}

/// Whether we are let in, and when that ends with which we are.
pub(super) fn authenticated(connection: Connection, ends: Ends) -> Condition {
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

/// True until a heartbeat with these losses was taken; without a message while nothing was ever lost.
pub(super) fn overflow(fill: Fill) -> Condition {
    let message = match (fill.lost, fill.lost_at_most) {
        (0, 0) => String::new(),
        (lost, 0) => format!("{lost} events were lost so far"),
        (lost, at_most) => format!("{lost} events were lost so far, and at most {at_most} more at ends without a stop"),
    };
    if fill.told || fill.lost == 0 && fill.lost_at_most == 0 {
        condition(OVERFLOW, false, "BufferDrained", message)
    } else {
        condition(OVERFLOW, true, "EventBufferFull", message)
    }
}

/// The one condition that is bad when it is true.
pub(super) const OVERFLOW: &str = "BufferOverflow";

/// With the offset of the system clock where there is a doubt.
pub(super) fn confirmed(standing: clock::Standing) -> Condition {
    let (is_true, reason, offset) = match standing {
        clock::Standing::Doubtful(offset) => (false, "ClockUnconfirmed", offset),
        clock::Standing::Corrected(offset) => (true, "ClockCorrected", offset),
        clock::Standing::Agreed | clock::Standing::Plausible | clock::Standing::Synchronised => {
            return condition("ClockConfirmed", true, "ClockPlausible", String::new());
        }
    };
    let waits = if is_true { "" } else { "; jobs with an expiry wait" };
    condition("ClockConfirmed", is_true, reason, format!("the system clock is off by {offset} s{waits}"))
}

/// Whether jobs are verified, and what a person should know.
pub(super) fn verified((is_verified, reason, detail): (bool, &str, String)) -> Condition {
    condition("JobsVerified", is_verified, reason, detail)
}

/// Whether certificates and authorities that changed are in use, and the client's was renewed in time. Why not is in the log: an event has
/// room for so much.
pub(super) fn renewed(health: &Health) -> Condition {
    let unused = health.unused_authorities();
    let (is_true, reason) = match health.ends().certificate {
        _ if health.has_unused_certificates() => (false, "NewCertificatesUnusable"),
        _ if !unused.is_empty() => (false, unused),
        Some((_, true)) => (false, "ClientCertificateNearEnd"),
        _ => (true, "CertificatesInUse"),
    };
    condition("CertificatesRenewed", is_true, reason, String::new())
}

/// What is wrong with the journal.
pub(super) fn journal(trouble: Option<String>) -> Condition {
    let reason = if trouble.is_some() { "JournalImpaired" } else { "JournalWritten" };
    condition("JournalHealthy", trouble.is_none(), reason, trouble.unwrap_or_default())
}

/// Whether the objects of all kinds are reported on, or of which they are not.
pub(super) fn reported(left_out: String) -> Condition {
    let is_true = left_out.is_empty();
    condition("KindsReported", is_true, if is_true { "KindsListed" } else { "KindsLeftOut" }, left_out)
}

/// Bytes of this month, on the wire and to the control plane.
pub(super) fn counted(this_month: Bytes) -> Condition {
    let message = format!("{} bytes sent, {} received", this_month.sent, this_month.received);
    condition(TRAFFIC, true, "CountedThisMonth", message)
}

/// What was counted.
pub(super) const TRAFFIC: &str = "Traffic";

/// Whether the monthly budget lasts.
pub(super) fn within_budget(lasts: bool) -> Condition {
    let (reason, message) = if lasts {
        ("Left", "")
    } else {
        ("UsedUp", "no polls and no events until the next month; results still go out")
    };
    condition("Budget", lasts, reason, message.to_owned())
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
    use super::{authenticated, renewed};
    use crate::clock;
    use crate::link::health::{Access, Connection, Ends, Health};
    use crate::protocol::Timestamp;

    #[test]
    fn what_is_wrong_with_certificates_is_one_condition() {
        let health = Health::default();
        let found = || (renewed(&health).status == "True", renewed(&health).reason);
        let now = clock::unix_seconds();
        for (ends, is_unused, authorities, reason) in [
            (now + 1_000_000, false, "", "CertificatesInUse"),
            (now, false, "", "ClientCertificateNearEnd"),
            (now + 1_000_000, false, "AuthoritiesFail", "AuthoritiesFail"),
            (now, false, "AuthoritiesFail", "AuthoritiesFail"),
            (now + 1_000_000, true, "", "NewCertificatesUnusable"),
            (now, true, "AuthoritiesFail", "NewCertificatesUnusable"),
        ] {
            health.set_certificate_life(Some((now - 10, ends)));
            health.set_unused_certificates(is_unused);
            health.set_unused_authorities(authorities);
            assert_eq!(found(), (reason == "CertificatesInUse", reason.to_owned()));
        }
    }

    #[test]
    fn it_is_said_when_ends_what_lets_us_in() {
        let connection = Connection { reachable: Some(true), access: Access::Accepted };
        let at = Timestamp::from_unix_seconds;
        let (credential, certificate) = (Some(at(0)), Some((at(86_400), false)));
        for (ends, message) in [
            (Ends::default(), ""),
            (Ends { credential, certificate: None }, "the credential ends 1970-01-01T00:00:00Z"),
            (Ends { credential: None, certificate }, "the certificate ends 1970-01-02T00:00:00Z"),
            (
                Ends { credential, certificate },
                "the credential ends 1970-01-01T00:00:00Z, the certificate ends 1970-01-02T00:00:00Z",
            ),
        ] {
            assert_eq!(authenticated(connection, ends).message, message);
        }
    }
}

//! The events about the agent itself (P1.7).

use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::journal::{Fill, Outbox};
use crate::link::health::{Access, Connection, Health};
use crate::protocol::{CLUSTER, ClusterId, Condition, Event, EventKind, ObjectRef, Timestamp};

/// Pushes a heartbeat at the first connection, on every change of it, and every `interval`. While nobody can
/// be reached there is nothing to tell.
pub async fn beat(outbox: Arc<Outbox>, health: Arc<Health>, cluster_id: ClusterId, interval: Duration) {
    let mut changes = health.subscribe();
    loop {
        let connection = *changes.borrow_and_update();
        // A 403 to polls says nothing about posts: why there are no more polls goes out if it can.
        if connection.reachable == Some(true) && connection.access != Access::Refused {
            push_heartbeat(&outbox, &cluster_id, connection);
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(interval) => {}
        }
    }
}

/// A sign of life with what a person wants to see first.
pub fn push_heartbeat(outbox: &Outbox, cluster_id: &ClusterId, connection: Connection) {
    if outbox.has_heartbeat() {
        return;
    }
    let conditions = vec![connected(connection), authenticated(connection), overflow(outbox.fill())];
    push(outbox, cluster_id, EventKind::ClusterHeartbeat, conditions);
}

/// A new credential is in use.
pub fn push_rotated(outbox: &Outbox, cluster_id: &ClusterId) {
    let condition = condition("Authenticated", true, "CredentialRotated", String::new());
    push(outbox, cluster_id, EventKind::CredentialRotated, vec![condition]);
}

fn push(outbox: &Outbox, cluster_id: &ClusterId, kind: EventKind, conditions: Vec<Condition>) {
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
    outbox.push_event(
        &shape,
        Event { event_key: String::new(), kind, resource_ref, conditions, endpoints: Vec::new(), timestamp },
    );
}

fn connected(connection: Connection) -> Condition {
    match connection.reachable {
        Some(true) => condition("Connected", true, "RoundTripOK", String::new()),
        _ => condition("Connected", false, "ControlPlaneUnreachable", String::new()),
    }
}

fn authenticated(connection: Connection) -> Condition {
    match connection.access {
        Access::Accepted => condition("Authenticated", true, "CredentialAccepted", String::new()),
        Access::Forbidden | Access::Refused => {
            condition("Authenticated", false, "ControlPlaneAuthenticationFailed", String::new())
        }
    }
}

fn overflow(fill: Fill) -> Condition {
    if fill.lost == 0 {
        condition("BufferOverflow", false, "BufferDrained", String::new())
    } else {
        condition("BufferOverflow", true, "EventBufferFull", format!("{} events were lost since the start", fill.lost))
    }
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
    use crate::link::health::{Access, Connection};
    use crate::protocol::ClusterId;

    #[test]
    fn a_heartbeat_says_how_the_agent_is_and_waits_only_once() {
        let outbox = Outbox::new(1);
        let cluster = ClusterId::parse("c1").unwrap();
        let connection = Connection { reachable: Some(true), access: Access::Accepted };
        push_heartbeat(&outbox, &cluster, connection);
        push_heartbeat(&outbox, &cluster, connection);
        let (events, _) = outbox.first_events().unwrap();
        assert_eq!(events.len(), 1);
        let reasons: Vec<&str> = events[0].conditions.iter().map(|condition| condition.reason.as_str()).collect();
        assert_eq!(reasons, ["RoundTripOK", "CredentialAccepted", "BufferDrained"]);
        assert!(
            events[0].event_key.starts_with("condition/ops.vworkspace.io/v1alpha1/Cluster/_/c1/_/Connected/True@0#")
        );
    }
}

#![cfg(test)]

use super::{Fill, Outbox, Report};
use crate::limits;
use crate::protocol::{Condition, Event, EventKind, JobId, JobResult, ObjectRef, OutcomeKind, StatusUpdate, Timestamp};

fn event(kind: EventKind) -> Event {
    Event {
        event_key: String::new(),
        kind,
        resource_ref: ObjectRef::default(),
        conditions: Vec::new(),
        endpoints: Vec::new(),
        timestamp: Timestamp::from_unix_seconds(0),
    }
}

fn result() -> JobResult {
    JobResult {
        outcome: OutcomeKind::Noop,
        error: String::new(),
        applied_ref: None,
        timestamp: Timestamp::from_unix_seconds(0),
    }
}

fn id(number: usize) -> JobId {
    JobId::parse(&format!("j{number}")).unwrap()
}

fn status() -> StatusUpdate {
    StatusUpdate {
        phase: "Applied".into(),
        conditions: Vec::new(),
        message: String::new(),
        timestamp: Timestamp::from_unix_seconds(0),
    }
}

#[test]
fn a_full_ring_pushes_the_oldest_event_out_and_counts_it() {
    let outbox = Outbox::new(7);
    for _ in 0..=limits::STAGE_RECORDS {
        outbox.push_event("x", event(EventKind::ConditionTransition));
    }
    assert_eq!(outbox.fill(), Fill { events: limits::STAGE_RECORDS, lost: 1, ..Fill::default() });
    let (batch, _) = outbox.first_events().unwrap();
    assert_eq!(batch.len(), limits::EVENT_BATCH);
    assert_eq!(batch[0].event_key, "x#0000000000000007.1");
    outbox.drop_events(&batch.last().unwrap().event_key);
    assert_eq!(outbox.fill().events, limits::STAGE_RECORDS - limits::EVENT_BATCH);
}

#[test]
fn events_that_were_pushed_out_while_they_were_posted_take_no_other_along() {
    let outbox = Outbox::new(0);
    outbox.push_event("a", event(EventKind::ConditionTransition));
    let (batch, _) = outbox.first_events().unwrap();
    for _ in 0..limits::STAGE_RECORDS {
        outbox.push_event("b", event(EventKind::ConditionTransition));
    }
    outbox.drop_events(&batch[0].event_key);
    assert_eq!(outbox.fill().events, limits::STAGE_RECORDS);
}

#[test]
fn statuses_leave_room_for_results() {
    let outbox = Outbox::new(0);
    for number in 0..limits::STAGE_RECORDS * 2 {
        outbox.push_status(&id(number), status());
    }
    assert!(outbox.has_room());
    let mut results = 0;
    while outbox.has_room() {
        outbox.push_result(&id(results), result());
        results += 1;
    }
    for number in 0..limits::OPEN_JOBS {
        outbox.push_result(&id(results + number), result());
    }
    assert_eq!(outbox.fill().reports, limits::STAGE_RECORDS);
    outbox.push_result(&id(9999), result());
    let mut left = Vec::new();
    while let Some(report) = outbox.first_report() {
        left.push(report);
        outbox.drop_report();
    }
    let results_left = left.iter().filter(|report| matches!(report, Report::Result(..))).count();
    assert_eq!(results_left, results + limits::OPEN_JOBS + 1, "no result was pushed out");
    assert!(matches!(left.last(), Some(Report::Result(last, _)) if last.as_str() == "j9999"));
    assert!(matches!(left.first(), Some(Report::Status(first, _)) if first.as_str() == "j1"));
}

#[test]
fn a_report_that_holds_up_the_others_goes_behind_them() {
    let outbox = Outbox::new(0);
    outbox.push_result(&id(1), result());
    outbox.push_result(&id(2), result());
    outbox.set_report_aside();
    assert!(matches!(outbox.first_report(), Some(Report::Result(first, _)) if first == id(2)));
    outbox.drop_report();
    assert!(matches!(outbox.first_report(), Some(Report::Result(last, _)) if last == id(1)));
    outbox.drop_report();
    outbox.push_status(&id(3), status());
    outbox.set_report_aside();
    assert_eq!(outbox.first_report(), None);
}

#[test]
fn a_record_is_bounded_whatever_the_cluster_says() {
    let outbox = Outbox::new(0);
    let condition = Condition {
        kind: "Ready".into(),
        status: "False".into(),
        observed_generation: None,
        last_transition_time: None,
        reason: "r".repeat(5000),
        message: "ü".repeat(5000),
    };
    let mut big = event(EventKind::ConditionTransition);
    big.conditions = vec![condition; 50];
    outbox.push_event("x", big);
    let (batch, _) = outbox.first_events().unwrap();
    assert!(serde_json::to_vec(&batch[0]).unwrap().len() <= limits::RECORD_BYTES);
    assert!(batch[0].conditions[0].message.ends_with("ü…"));
}

#[test]
fn a_careless_condition_is_made_one_that_the_server_takes() {
    let outbox = Outbox::new(0);
    let condition: Condition = serde_json::from_str(r#"{"type":"Ready","status":"perhaps"}"#).unwrap();
    let nameless = Condition { kind: String::new(), ..condition.clone() };
    let mut careless = event(EventKind::ConditionTransition);
    careless.conditions = vec![nameless, condition];
    outbox.push_event("x", careless);
    let (batch, _) = outbox.first_events().unwrap();
    assert_eq!(batch[0].conditions.len(), 1);
    assert_eq!(batch[0].conditions[0].status, "Unknown");
}

#[test]
fn years_of_heartbeats_without_a_disk_leave_nothing_behind() {
    let outbox = Outbox::new(0);
    for _ in 0..1_000 {
        outbox.push_event("x", event(EventKind::ClusterHeartbeat));
        let (batch, _) = outbox.first_events().unwrap();
        outbox.drop_events(&batch[0].event_key);
    }
    assert_eq!(outbox.fill().events, 0);
    assert_eq!(outbox.lock().owed.len(), 1);
}

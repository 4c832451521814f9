//! Whether the control plane can be reached, and lets us in.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::rotation::is_near;
use crate::clock;
use crate::limits;
use crate::net::renewal::Life;
use crate::protocol::Timestamp;

/// The state of the connection, shared by those who find it out and those who wait for it.
#[derive(Debug)]
pub struct Health {
    connection: watch::Sender<Connection>,
    contact: Mutex<Contact>,
    ended: Notify,
}

/// The state of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The last call had an answer of the control plane; none = there was no call yet.
    pub reachable: Option<bool>,
    /// Whether the credential is accepted.
    pub access: Access,
}

/// Whether the credential is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Yes, as far as is known.
    Accepted,
    /// 403: it is not for this cluster.
    Forbidden,
    /// 401: it is not accepted, and no other is.
    Refused,
}

/// What a person is told of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The last call was answered.
    Connected,
    /// There was no round trip for longer than [`patience`].
    Disconnected,
    /// There was no call yet.
    Starting,
    /// The last call was not answered, but that is not long ago.
    Unreachable,
}

/// When that ends with which the agent is let in; none = never, or there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// The bearer.
    pub credential: Option<Timestamp>,
    /// The client's certificate, and whether it should have been renewed by now.
    pub certificate: Option<(Timestamp, bool)>,
}

/// When there was an answer, and what is expected.
#[derive(Clone, Debug)]
struct Contact {
    /// The last answer of the control plane, or the start.
    round_trip: Instant,
    /// When that was by the wall clock; none = never.
    answered_at: Option<Timestamp>,
    /// Since when the connection is as it is.
    since: Timestamp,
    /// Since when calls are answered, or are not.
    turned: Instant,
    /// The longest time between two answers while all is well.
    planned_gap: Duration,
    /// The poll loop alone decides when the next call is made.
    is_long_outage: bool,
    /// Why the last call was not answered; empty after an answer.
    fault: String,
    /// When the credential in use ends; none = never.
    credential_ends: Option<Timestamp>,
    /// Certificates that have changed cannot be used.
    has_unused_certificates: bool,
    /// From when to when the client's certificate is valid.
    certificate_life: Option<Life>,
    /// When the poll that is under way ends at the latest; none = there is none.
    poll_ends: Option<Instant>,
    polls: Polls,
}

/// Polls since the start, as far as they have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Polls {
    /// With an answer of the control plane.
    pub answered: u32,
    /// Without one.
    pub failed: u32,
}

/// How long may pass without a round trip before the agent counts as disconnected.
#[must_use]
pub fn patience(planned_gap: Duration) -> Duration {
    limits::DISCONNECTED_AFTER.max(planned_gap.saturating_mul(2).saturating_add(limits::DISCONNECTED_GRACE))
}

/// What a person is told after `silence` without a round trip.
#[must_use]
pub fn standing(reachable: Option<bool>, silence: Duration, planned_gap: Duration) -> Standing {
    match reachable {
        _ if silence >= patience(planned_gap) => Standing::Disconnected,
        None => Standing::Starting,
        Some(true) => Standing::Connected,
        Some(false) => Standing::Unreachable,
    }
}

impl Default for Health {
    fn default() -> Self {
        let contact = Contact {
            round_trip: Instant::now(),
            answered_at: None,
            since: clock_now(),
            turned: Instant::now(),
            planned_gap: limits::WAIT_DEFAULT,
            is_long_outage: false,
            fault: String::new(),
            credential_ends: None,
            has_unused_certificates: false,
            certificate_life: None,
            poll_ends: None,
            polls: Polls::default(),
        };
        Self {
            connection: watch::Sender::new(Connection { reachable: None, access: Access::Accepted }),
            contact: Mutex::new(contact),
            ended: Notify::new(),
        }
    }
}

impl Health {
    /// A poll succeeded. Gives what was so before.
    pub fn succeeded(&self) -> Connection {
        self.answered();
        self.set(Connection { reachable: Some(true), access: Access::Accepted })
    }

    /// A post succeeded, which says nothing of the right to poll. Gives what was so before.
    pub fn reached(&self) -> Connection {
        self.answered();
        let access = self.now().access;
        self.set(Connection { reachable: Some(true), access })
    }

    /// A call had no answer of the control plane. Gives what was so before.
    pub fn unreachable(&self) -> Connection {
        let access = self.now().access;
        self.set(Connection { reachable: Some(false), access })
    }

    /// The credential is not accepted. Gives what was so before.
    pub fn denied(&self, access: Access) -> Connection {
        self.answered();
        self.set(Connection { reachable: Some(true), access })
    }

    /// How it is.
    #[must_use]
    pub fn now(&self) -> Connection {
        *self.connection.borrow()
    }

    /// Tells of every change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Connection> {
        self.connection.subscribe()
    }

    /// Waits for the end of a call, or has missed one. One waits at a time.
    pub async fn call_ended(&self) {
        self.ended.notified().await;
    }

    /// The longest time between two answers from now on, while all is well.
    pub fn plan(&self, gap: Duration) {
        self.contact().planned_gap = gap;
    }

    /// What a person is told.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let reachable = self.now().reachable;
        let contact = self.contact();
        standing(reachable, contact.round_trip.elapsed(), contact.planned_gap)
    }

    /// Since when the connection is as it is.
    #[must_use]
    pub fn since(&self) -> Timestamp {
        self.contact().since
    }

    /// When the control plane last answered; none = never.
    #[must_use]
    pub fn answered_at(&self) -> Option<Timestamp> {
        self.contact().answered_at
    }

    /// Why the last call was not answered as it should; empty after one that was.
    #[must_use]
    pub fn fault(&self) -> String {
        self.contact().fault.clone()
    }

    /// Why the last call was not answered as it should.
    pub fn note(&self, fault: String) {
        self.contact().fault = fault;
    }

    /// When the credential in use ends; none = never.
    #[must_use]
    pub fn credential_ends(&self) -> Option<Timestamp> {
        self.contact().credential_ends
    }

    /// Another credential is in use, which ends then.
    pub fn set_credential_end(&self, end: Option<Timestamp>) {
        self.contact().credential_ends = end;
    }

    /// Whether certificates that have changed cannot be used.
    #[must_use]
    pub fn has_unused_certificates(&self) -> bool {
        self.contact().has_unused_certificates
    }

    /// Certificates that have changed cannot be used, or are in use.
    pub fn set_unused_certificates(&self, is_so: bool) {
        self.contact().has_unused_certificates = is_so;
    }

    /// When the client's certificate ends, and whether it should have been renewed by now; none where there is none.
    #[must_use]
    pub fn certificate_end(&self) -> Option<(Timestamp, bool)> {
        let life = self.contact().certificate_life?;
        Some((Timestamp::from_unix_seconds(life.1), is_near(life, clock::unix_seconds())))
    }

    /// When that ends with which this agent is let in.
    #[must_use]
    pub fn ends(&self) -> Ends {
        Ends { credential: self.credential_ends(), certificate: self.certificate_end() }
    }

    /// From when to when the client's certificate in use is valid.
    pub fn set_certificate_life(&self, life: Option<Life>) {
        self.contact().certificate_life = life;
    }

    /// How long calls have been answered, or have not been; of a poll that failed the time that it was held is no part.
    #[must_use]
    pub fn held(&self) -> Duration {
        self.contact().turned.elapsed()
    }

    /// How long it takes until the agent counts as disconnected, if nothing is heard.
    #[must_use]
    pub fn until_disconnected(&self) -> Duration {
        let contact = self.contact();
        patience(contact.planned_gap).saturating_sub(contact.round_trip.elapsed())
    }

    /// The outage has become a long one: the poll loop alone decides when the next call is made.
    pub fn begin_long_outage(&self) {
        self.contact().is_long_outage = true;
    }

    /// Whether the poll loop alone decides when the next call is made. Ends with the next answer.
    #[must_use]
    pub fn is_long_outage(&self) -> bool {
        self.contact().is_long_outage
    }

    /// A poll begins, which is to be held as long as `hold`.
    pub fn poll_begins(&self, hold: Duration) {
        self.contact().poll_ends = Instant::now().checked_add(hold.saturating_add(limits::POLL_BESIDE_HOLD));
    }

    /// It has ended, with an answer or without; none = somebody wanted another one.
    pub fn poll_ended(&self, is_answered: Option<bool>) {
        let mut contact = self.contact();
        contact.poll_ends = None;
        let count = match is_answered {
            Some(true) => &mut contact.polls.answered,
            Some(false) => &mut contact.polls.failed,
            None => return,
        };
        *count = count.saturating_add(1);
    }

    /// How long ago the poll that is under way should have ended; none where all is well.
    #[must_use]
    pub fn poll_hangs(&self) -> Option<Duration> {
        let late = self.contact().poll_ends?.elapsed();
        (!late.is_zero()).then_some(late)
    }

    /// The polls that have ended.
    #[must_use]
    pub fn polls(&self) -> Polls {
        self.contact().polls
    }

    fn answered(&self) {
        let mut contact = self.contact();
        contact.round_trip = Instant::now();
        contact.answered_at = Some(clock_now());
        contact.fault.clear();
        contact.is_long_outage = false;
    }

    fn set(&self, connection: Connection) -> Connection {
        let before = self.now();
        if before != connection {
            let mut contact = self.contact();
            contact.since = clock_now();
            if before.reachable != connection.reachable {
                contact.turned = Instant::now();
            }
        }
        self.connection.send_if_modified(|held| {
            let is_new = *held != connection;
            *held = connection;
            is_new
        });
        self.ended.notify_one();
        before
    }

    fn contact(&self) -> MutexGuard<'_, Contact> {
        self.contact.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn clock_now() -> Timestamp {
    Timestamp::from_unix_seconds(clock::unix_seconds())
}

#[cfg(test)]
mod tests {
    use super::{Access, Health, Polls, Standing, patience, standing};
    use std::time::{Duration, Instant};

    #[test]
    fn a_network_error_never_touches_access() {
        let health = Health::default();
        health.denied(Access::Refused);
        health.unreachable();
        assert_eq!(health.now().access, Access::Refused);
        let changes = health.subscribe();
        health.unreachable();
        assert!(!changes.has_changed().unwrap(), "nothing changed");
        health.reached();
        assert_eq!(health.now().access, Access::Refused, "a post says nothing of the right to poll");
        health.succeeded();
        assert!(changes.has_changed().unwrap());
        assert_eq!(health.now().access, Access::Accepted);
    }

    #[test]
    fn disconnected_is_five_minutes_or_two_planned_gaps_and_a_minute() {
        let seconds = Duration::from_secs;
        assert_eq!(patience(seconds(30)), seconds(300));
        assert_eq!(patience(seconds(120)), seconds(300));
        assert_eq!(patience(seconds(240)), seconds(540));
        assert_eq!(patience(seconds(3600)), seconds(7260));
        assert_eq!(patience(Duration::MAX), Duration::MAX);
        for reachable in [None, Some(false), Some(true)] {
            assert_ne!(standing(reachable, seconds(299), seconds(30)), Standing::Disconnected);
            assert_eq!(standing(reachable, seconds(300), seconds(30)), Standing::Disconnected);
        }
        assert_eq!(standing(None, seconds(0), seconds(30)), Standing::Starting);
        assert_eq!(standing(Some(false), seconds(299), seconds(30)), Standing::Unreachable);
        assert_eq!(standing(Some(true), seconds(539), seconds(240)), Standing::Connected);
    }

    #[test]
    fn a_poll_hangs_when_its_hold_and_all_its_bounds_are_over() {
        let health = Health::default();
        assert_eq!(health.poll_hangs(), None);
        health.poll_begins(Duration::from_secs(240));
        let ends = health.contact().poll_ends.unwrap();
        assert!(ends > Instant::now() + Duration::from_secs(240 + 480));
        assert_eq!(health.poll_hangs(), None);
        health.contact().poll_ends = Instant::now().checked_sub(Duration::from_secs(7));
        assert_eq!(health.poll_hangs().map(|late| late.as_secs()), Some(7));
        health.poll_ended(None);
        assert_eq!((health.poll_hangs(), health.polls()), (None, Polls::default()));
        for is_answered in [true, false, true] {
            health.poll_ended(Some(is_answered));
        }
        assert_eq!(health.polls(), Polls { answered: 2, failed: 1 });
        health.poll_begins(Duration::MAX);
        assert_eq!(health.poll_hangs(), None);
    }

    #[test]
    fn an_answer_of_any_kind_ends_an_outage() {
        let health = Health::default();
        assert_eq!((health.standing(), health.answered_at()), (Standing::Starting, None));
        for answer in [Health::succeeded, Health::reached, |health: &Health| health.denied(Access::Forbidden)] {
            health.unreachable();
            health.begin_long_outage();
            assert!(health.is_long_outage());
            assert_eq!(health.standing(), Standing::Unreachable);
            answer(&health);
            assert!(!health.is_long_outage() && health.answered_at().is_some());
            assert_eq!(health.standing(), Standing::Connected);
        }
    }
}

//! Signs of life: when one is due, on which connection it goes out, and what it need not say again.
//!
//! A connection of its own costs a heartbeat more than all that it says. So it goes out on the connection of the polls,
//! between two of them: the loop that polls asks before each poll whether it is this one's [`turn`](Heart::turn), and a
//! poll that would be held for too long is held for less. What is not taken along, because polls are a longer way apart,
//! is left to whoever posts.
//!
//! What is wrong is in each heartbeat. What is as it should be is in those that are whole (the first, the first after the
//! connection changed or something was lost, one a day), and in others when it has changed since it was last told, or was
//! not told since the start or the last loss; bytes of this month, when they have grown by a tenth. One with nothing to say
//! says that we are connected.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::debug;

use super::backoff::draw;
use super::budget::Budget;
use super::deliver::Reports;
use super::events;
use super::health::{Access, Connection, Health};
use crate::journal::Outbox;
use crate::protocol::{ClusterId, Condition};
use crate::{clock, limits};

/// How soon it is looked again whether the heartbeat before is gone that news wait for.
const STALE_LOOK: Duration = Duration::from_secs(5);

/// Whether jobs are verified, why, and what a person should know.
pub type Trusting = Box<dyn Fn() -> (bool, &'static str, String) + Send + Sync>;

/// The kinds whose objects cannot be reported on; none where nothing reports anything.
pub type LeftOut = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// What signs of life are made of.
pub struct Parts {
    /// Where they wait.
    pub outbox: Arc<Outbox>,
    /// How the connection is.
    pub health: Arc<Health>,
    /// What a month may cost.
    pub budget: Budget,
    /// What they are about.
    pub cluster_id: ClusterId,
    /// From one to the next.
    pub interval: Duration,
    /// Whether jobs are verified.
    pub trusting: Trusting,
    /// What cannot be reported on.
    pub left_out: LeftOut,
}

/// Makes signs of life. While nobody can be reached there is nothing to tell.
pub struct Heart {
    parts: Parts,
    state: Mutex<State>,
}

struct State {
    due: Instant,
    whole_due: Instant,
    /// That the last one told; none = nobody could be reached since.
    connection: Option<Connection>,
    /// The last of each type that was told.
    told: Vec<Condition>,
    /// Bytes of this month that were told.
    counted: u64,
}

impl Heart {
    /// The first one is due at the first connection.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let now = Instant::now();
        let state = State { due: now, whole_due: now, connection: None, told: Vec::new(), counted: 0 };
        Self { parts, state: Mutex::new(state) }
    }

    /// Before a poll that is to be held as long as `hold`, with `pause` after it: makes a heartbeat if it is time for one.
    /// Whether one waits now, and how long the poll may be held so that the next one is in time.
    pub fn turn(&self, hold: Duration, pause: Duration) -> (bool, Duration) {
        let Some(connection) = self.has_a_say() else { return (false, hold) };
        let left = if self.parts.outbox.has_heartbeat() || self.is_news(connection) {
            Duration::ZERO
        } else {
            self.lock().due.saturating_duration_since(Instant::now())
        };
        let (beats, hold) = turn(left, self.parts.interval, hold, pause);
        if beats {
            self.beat(connection, Instant::now());
        }
        (beats, hold)
    }

    /// Makes a heartbeat on every change of the connection, and where no poll came in time. When the monthly budget is
    /// used up there is one a day, past all that waits. Never ends.
    pub async fn keep(self: Arc<Self>, reports: Arc<Reports>) {
        let Parts { health, budget, interval, .. } = &self.parts;
        let mut changes = health.subscribe();
        // The one sign of life of a day, when the budget is used up: tried again after an interval if it fails.
        let mut due_of_day = Instant::now();
        loop {
            let connection = *changes.borrow_and_update();
            if connection.reachable != Some(true) {
                self.lock().connection = None;
            }
            if budget.is_used_up() {
                if Instant::now() >= due_of_day {
                    let sent = self.beat_past(connection, &reports).await;
                    due_of_day = Instant::now() + if sent { limits::BUDGET_HEARTBEAT } else { *interval };
                }
            } else if let Some(connection) = self.has_a_say() {
                due_of_day = Instant::now();
                let due = self.lock().due;
                if self.is_news(connection) {
                    self.beat(connection, Instant::now());
                } else if self.left_behind().is_zero() {
                    // As often as it should be, whatever this one waited for.
                    self.beat(connection, due);
                }
            }
            let waits = self.has_a_say().is_some_and(|connection| self.is_news(connection));
            let left_behind = if waits { STALE_LOOK } else { self.left_behind() };
            let pause = Some(left_behind).filter(|left| !left.is_zero()).unwrap_or(*interval);
            let look = if budget.limit().is_some() { limits::BUDGET_LOOK } else { Duration::MAX };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause.min(look)) => {}
            }
        }
    }

    /// A 403 to polls says nothing about posts: why there are no more polls goes out if it can.
    fn has_a_say(&self) -> Option<Connection> {
        let now = self.parts.health.now();
        let has = now.reachable == Some(true) && now.access != Access::Refused && !self.parts.budget.is_used_up();
        has.then_some(now)
    }

    fn is_news(&self, connection: Connection) -> bool {
        self.lock().connection != Some(connection)
    }

    /// How long a poll may still take it along.
    fn left_behind(&self) -> Duration {
        let patience = late(self.parts.interval) + limits::HOLD_GRACE;
        (self.lock().due + patience).saturating_duration_since(Instant::now())
    }

    /// Makes the heartbeat that was due `on` this moment, unless one waits.
    fn beat(&self, connection: Connection, on: Instant) {
        // What is news beside that comes when it has gone out. One that found no room would be lost, and the next an interval away.
        if self.parts.outbox.has_heartbeat() || !self.parts.outbox.takes_event() {
            return;
        }
        let mut state = self.lock();
        let is_new = state.connection.replace(connection) != Some(connection);
        state.due = on + self.parts.interval;
        let mut now = self.conditions(connection);
        if is_new || Instant::now() >= state.whole_due || now.iter().any(is_loss) {
            state.told.retain(|condition| !is_staple(condition));
            state.whole_due = Instant::now() + limits::WHOLE_HEARTBEAT;
        }
        // What one said that nobody got is not told.
        if now.iter().any(is_loss) || self.parts.outbox.take_refused_heartbeat() {
            state.told.clear();
        }
        let sum = self.parts.budget.this_month().sum();
        if state.told(events::TRAFFIC).is_some() && (state.counted..=state.counted / 10 * 11).contains(&sum) {
            now.retain(|condition| condition.kind != events::TRAFFIC);
        }
        let mut said = state.worth_saying(now);
        if said.is_empty() {
            said.push(events::connected(connection));
        }
        let kept = events::push_heartbeat(&self.parts.outbox, &self.parts.cluster_id, said.clone());
        said.truncate(kept);
        if said.iter().any(|condition| condition.kind == events::TRAFFIC) {
            state.counted = sum;
        }
        state.remember(said);
    }

    /// Posts one past all that waits; whether it got out.
    async fn beat_past(&self, connection: Connection, reports: &Arc<Reports>) -> bool {
        let mut conditions = self.conditions(connection);
        conditions.retain(|condition| is_staple(condition) || is_wrong(condition));
        let event = events::heartbeat(&self.parts.cluster_id, conditions, draw());
        let posted = reports.post_past(event).await;
        if let Err(fault) = &posted {
            debug!(error = %fault, "the daily sign of life did not get out; it is tried again");
        }
        posted.is_ok()
    }

    /// How everything is, the most important first: what does not fit waits for the next one.
    fn conditions(&self, connection: Connection) -> Vec<Condition> {
        let Parts { outbox, health, budget, trusting, left_out, .. } = &self.parts;
        let mut conditions = vec![
            events::connected(connection),
            events::authenticated(connection, health.ends()),
            events::overflow(outbox.fill()),
            events::verified(trusting()),
            events::confirmed(clock::standing()),
            events::renewed(health),
            events::journal(outbox.trouble()),
            events::counted(budget.this_month()),
        ];
        conditions.extend(left_out().map(events::reported));
        conditions.extend(budget.limit().map(|_| events::within_budget(!budget.is_used_up())));
        conditions
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn told(&self, kind: &str) -> Option<&Condition> {
        self.told.iter().find(|told| told.kind == kind)
    }

    /// Of all conditions those that have to be said, and first of all those that were not said yet.
    fn worth_saying(&self, now: Vec<Condition>) -> Vec<Condition> {
        let is_told = |condition: &Condition| self.told(&condition.kind).is_some_and(|told| is_same(told, condition));
        let mut said: Vec<Condition> = now
            .into_iter()
            .filter(|condition| {
                // Whether it was wrong before this start only the server knows.
                let is_news = condition.kind != events::OVERFLOW || is_staple(condition);
                is_wrong(condition) || !is_told(condition) && (is_news || self.told(&condition.kind).is_some())
            })
            .collect();
        // What is well, and was so before for all we know, can wait.
        said.sort_by_key(|condition| (is_told(condition), !is_staple(condition) && !is_wrong(condition)));
        for condition in &mut said {
            let before = self.told(&condition.kind).filter(|told| told.status == condition.status);
            condition.last_transition_time = before.map_or(condition.last_transition_time, |b| b.last_transition_time);
        }
        said
    }

    fn remember(&mut self, said: Vec<Condition>) {
        for condition in said {
            self.told.retain(|told| told.kind != condition.kind);
            self.told.push(condition);
        }
    }
}

fn is_same(one: &Condition, other: &Condition) -> bool {
    one.status == other.status && one.reason == other.reason && one.message == other.message
}

/// What a whole heartbeat has, however well everything is.
fn is_staple(condition: &Condition) -> bool {
    match condition.kind.as_str() {
        "Authenticated" | "Connected" | events::TRAFFIC => true,
        events::OVERFLOW => !condition.message.is_empty(),
        _ => false,
    }
}

/// What every heartbeat has.
fn is_wrong(condition: &Condition) -> bool {
    match condition.kind.as_str() {
        events::OVERFLOW => condition.status == "True",
        _ if is_staple(condition) => condition.status == "False",
        // All is well, but there is something that a person should know.
        _ => condition.status == "False" || !condition.message.is_empty(),
    }
}

/// Events were lost of which nobody knows yet. A heartbeat may have been among them.
fn is_loss(condition: &Condition) -> bool {
    condition.kind == events::OVERFLOW && condition.status == "True"
}

/// How much later than its interval a heartbeat may come, so that no poll is cut short for it.
fn late(interval: Duration) -> Duration {
    interval / 10
}

/// As [`Heart::turn`], with so much time left. Pure.
fn turn(left: Duration, interval: Duration, hold: Duration, pause: Duration) -> (bool, Duration) {
    let late = late(interval);
    // Held for its whole time, this poll ends when it is too late.
    let is_too_long = |left: Duration| left + late < hold + pause;
    let beats = left.is_zero() || left <= late && is_too_long(left);
    let left = if beats { interval } else { left };
    let held = if pause.is_zero() && is_too_long(left) {
        Duration::from_secs(left.as_secs() + u64::from(left.subsec_nanos() > 0))
    } else {
        hold
    };
    (beats, held)
}

#[cfg(test)]
mod tests {
    use super::{Heart, Parts, turn};
    use crate::journal::Outbox;
    use crate::limits;
    use crate::link::Health;
    use crate::link::budget::Budget;
    use crate::metrics::{Meter, Traffic};
    use crate::protocol::{ClusterId, Event, Timestamp};
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    const SECOND: Duration = Duration::from_secs(1);
    const PLENTY: Duration = Duration::from_secs(240);

    struct Scene {
        heart: Arc<Heart>,
        outbox: Arc<Outbox>,
        health: Arc<Health>,
        meter: Meter,
        trusting: Arc<Mutex<(bool, &'static str, String)>>,
        left_out: Arc<Mutex<Option<String>>>,
    }

    impl Scene {
        fn new(cluster: &str) -> Self {
            let (outbox, health, meter) = (Arc::new(Outbox::new(1)), Arc::new(Health::default()), Meter::default());
            let trusting = Arc::new(Mutex::new((false, "NoKeyPinned", String::new())));
            let left_out = Arc::new(Mutex::new(None));
            let heart = Heart::new(Parts {
                outbox: Arc::clone(&outbox),
                health: Arc::clone(&health),
                budget: Budget::new(None, meter.clone(), Traffic::default()),
                cluster_id: ClusterId::parse(cluster).unwrap(),
                interval: limits::HEARTBEAT_INTERVAL,
                trusting: {
                    let trusting = Arc::clone(&trusting);
                    Box::new(move || trusting.lock().unwrap().clone())
                },
                left_out: {
                    let left_out = Arc::clone(&left_out);
                    Box::new(move || left_out.lock().unwrap().clone())
                },
            });
            health.set_credential_end(Some(Timestamp::from_unix_seconds(0)));
            Self { heart: Arc::new(heart), outbox, health, meter, trusting, left_out }
        }

        /// The heartbeat that is due now, which the server takes.
        fn beat(&self) -> Event {
            self.heart.lock().due = Instant::now();
            assert!(self.heart.turn(PLENTY, Duration::ZERO).0);
            self.take()
        }

        fn take(&self) -> Event {
            let (mut events, _) = self.outbox.first_events().unwrap();
            assert_eq!(events.len(), 1);
            self.outbox.drop_events(&events[0].event_key);
            events.remove(0)
        }
    }

    fn reasons(event: &Event) -> Vec<&str> {
        event.conditions.iter().map(|condition| condition.reason.as_str()).collect()
    }

    fn size(event: &Event) -> usize {
        serde_json::to_vec(&[event]).unwrap().len()
    }

    #[test]
    fn the_first_one_is_whole_and_the_next_ones_say_what_changed_and_what_is_wrong() {
        let scene = Scene::new("c1");
        assert_eq!(scene.heart.turn(PLENTY, Duration::ZERO), (false, PLENTY), "nobody was reached yet");
        scene.health.succeeded();
        scene.meter.add_sent(7);
        scene.meter.add_received(9);
        assert_eq!(scene.heart.turn(PLENTY, Duration::ZERO), (true, PLENTY));
        let first = scene.take();
        let whole = ["RoundTripOK", "CredentialAccepted", "NoKeyPinned", "CountedThisMonth"];
        assert_eq!(reasons(&first)[..4], whole);
        assert_eq!(first.conditions[1].message, "the credential ends 1970-01-01T00:00:00Z");
        assert_eq!(first.conditions[3].message, "7 bytes sent, 9 received");
        assert!(first.event_key.starts_with("condition/ops.vworkspace.io/v1alpha1/Cluster/_/c1/_/Connected/True@0#"));
        assert!(!scene.heart.turn(PLENTY, Duration::ZERO).0, "the next one is not due");
        // What was wrong before the start may be well now, which the server is told once.
        let well = ["ClockPlausible", "CertificatesInUse", "JournalWritten"];
        let second = scene.beat();
        let all: Vec<_> = reasons(&first).into_iter().skip(4).chain(reasons(&second)).collect();
        assert_eq!(all, [&well[..], &["NoKeyPinned"]].concat());
        let third = scene.beat();
        assert_eq!(reasons(&third), ["NoKeyPinned"]);
        assert_eq!(third.conditions[0].last_transition_time, first.conditions[2].last_transition_time);
        // The usual one where no key is pinned. tests/bench counts what four an hour cost on the wire.
        assert!(size(&third) < 450, "{}", size(&third));
        // What is over is told once.
        *scene.trusting.lock().unwrap() = (true, "KeyPinned", String::new());
        assert_eq!(reasons(&scene.beat()), ["KeyPinned"]);
        assert_eq!(reasons(&scene.beat()), ["RoundTripOK"], "there is nothing to say");
    }

    #[test]
    fn bytes_are_told_when_they_have_grown_by_a_tenth() {
        let scene = Scene::new("c1");
        scene.health.succeeded();
        scene.meter.add_sent(1_000);
        assert!(reasons(&scene.beat()).contains(&"CountedThisMonth"));
        scene.beat();
        scene.meter.add_received(100);
        assert_eq!(reasons(&scene.beat()), ["NoKeyPinned"]);
        scene.meter.add_sent(1);
        let event = scene.beat();
        assert_eq!(reasons(&event), ["CountedThisMonth", "NoKeyPinned"]);
        assert_eq!(event.conditions[0].message, "1001 bytes sent, 100 received");
    }

    #[test]
    fn one_that_waits_is_enough_and_goes_along() {
        let scene = Scene::new("c1");
        scene.health.succeeded();
        assert!(scene.heart.turn(PLENTY, Duration::ZERO).0);
        assert!(scene.heart.turn(PLENTY, Duration::ZERO).0, "it was not taken");
        assert_eq!(scene.outbox.fill().events, 1);
    }

    #[test]
    fn a_connection_that_is_back_and_a_new_day_make_it_whole() {
        let scene = Scene::new("c1");
        scene.health.succeeded();
        scene.beat();
        assert!(!reasons(&scene.beat()).contains(&"RoundTripOK"));
        scene.heart.lock().whole_due = Instant::now();
        assert!(reasons(&scene.beat()).contains(&"RoundTripOK"));
        assert!(!reasons(&scene.beat()).contains(&"RoundTripOK"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let keeping = Arc::clone(&scene.heart).keep(crate::link::deliver::no_reports());
        runtime.block_on(async {
            tokio::pin!(keeping);
            scene.health.unreachable();
            let _ = tokio::time::timeout(Duration::ZERO, &mut keeping).await;
            assert!(!scene.outbox.has_heartbeat(), "nobody can be reached");
            scene.health.succeeded();
            let _ = tokio::time::timeout(Duration::ZERO, &mut keeping).await;
        });
        assert!(reasons(&scene.take()).contains(&"RoundTripOK"));
    }

    #[test]
    fn where_no_poll_comes_it_is_left_to_whoever_posts() {
        let scene = Scene::new("c1");
        scene.health.succeeded();
        scene.beat();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let looked = |due: Instant| {
            scene.heart.lock().due = due;
            let keeping = Arc::clone(&scene.heart).keep(crate::link::deliver::no_reports());
            runtime.block_on(async { tokio::time::timeout(Duration::ZERO, keeping).await.unwrap_err() });
            scene.outbox.has_heartbeat()
        };
        let now = Instant::now();
        assert!(!looked(now), "a poll may take it along");
        let long_ago = now.checked_sub(limits::HEARTBEAT_INTERVAL / 10 + limits::HOLD_GRACE).unwrap();
        assert!(looked(long_ago));
        assert_eq!(scene.heart.lock().due, long_ago + limits::HEARTBEAT_INTERVAL, "and the next one is in time");
    }

    #[test]
    fn what_cannot_be_reported_on_is_named_until_it_can() {
        let scene = Scene::new("c1");
        scene.health.succeeded();
        let has = |event: &Event| {
            let found = event.conditions.iter().find(|condition| condition.kind == "KindsReported");
            found.map(|one| (one.status.clone(), one.reason.clone(), one.message.clone()))
        };
        let is_well =
            |found: (String, String, String)| found.0 == "True" && found.1 == "KindsListed" && found.2.is_empty();
        let first: Vec<_> = (0..3).filter_map(|_| has(&scene.beat())).collect();
        assert!(first.is_empty(), "where nothing reports anything, there is nothing to say of it");
        let set = |kinds: &str| *scene.left_out.lock().unwrap() = Some(kinds.to_owned());
        set("apps/Deployment");
        for _ in 0..2 {
            let expected = ("False".to_owned(), "KindsLeftOut".to_owned(), "apps/Deployment".to_owned());
            assert_eq!(has(&scene.beat()), Some(expected));
        }
        set("");
        assert!(has(&scene.beat()).is_some_and(is_well));
        assert_eq!(has(&scene.beat()), None, "what is over is told once");
    }

    #[test]
    fn what_finds_no_room_comes_first_in_the_next_one() {
        let scene = Scene::new(&"c".repeat(63));
        scene.health.succeeded();
        scene.health.set_unused_certificates(true);
        *scene.trusting.lock().unwrap() = (false, "LedgerLost", "x".repeat(150));
        scene.outbox.set_trouble("y".repeat(150));
        let first = scene.beat();
        assert_eq!(reasons(&first), ["RoundTripOK", "CredentialAccepted", "LedgerLost"]);
        let second = scene.beat();
        assert_eq!(reasons(&second), ["NewCertificatesUnusable", "JournalImpaired", "CountedThisMonth"]);
        let third = scene.beat();
        assert_eq!(reasons(&third), ["ClockPlausible", "LedgerLost", "NewCertificatesUnusable"]);
        for event in [first, second, third] {
            assert!(serde_json::to_vec(&event).unwrap().len() <= limits::RECORD_BYTES);
        }
    }

    #[test]
    fn a_poll_is_cut_short_only_where_the_next_one_would_be_late() {
        let quarter = limits::HEARTBEAT_INTERVAL;
        let at = |left: u64, hold: u64| {
            turn(SECOND * u32::try_from(left).unwrap(), quarter, SECOND * u32::try_from(hold).unwrap(), Duration::ZERO)
        };
        // Four polls of 240 s: the heartbeat is a minute late, and no poll is made for it.
        assert_eq!([at(660, 240), at(420, 240), at(180, 240)], [(false, SECOND * 240); 3]);
        assert_eq!(at(0, 240), (true, SECOND * 240));
        assert_eq!(at(149, 240), (false, SECOND * 149), "it would be more than a tenth late");
        assert_eq!(at(90, 240), (true, SECOND * 240), "a tenth early rather than late");
        assert_eq!(at(90, 30), (false, SECOND * 30));
        let minute = |left| turn(left, SECOND * 60, SECOND * 240, Duration::ZERO);
        assert_eq!(minute(Duration::ZERO), (true, SECOND * 60));
        assert_eq!(minute(Duration::from_millis(10_200)), (false, SECOND * 11));
        // Metered: an hour between polls and between heartbeats, and a tenth of it drawn away.
        let hour = SECOND * 3600;
        let metered = |left| turn(left, hour, SECOND, hour);
        assert_eq!(metered(SECOND * 300), (true, SECOND));
        assert_eq!(turn(hour, hour * 24, SECOND, hour), (false, SECOND), "there are polls enough until then");
        assert_eq!(turn(SECOND * 600, SECOND * 900, SECOND, hour), (false, SECOND), "a poll is never longer");
    }
}

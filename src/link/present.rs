//! After a loss the truth is sent anew, not the history: behind all that waits, and before the next poll.
//!
//! The target reports on all objects that are owned once more, and their conditions become events like any others. Of these
//! only so many wait as are not written to the flash; who reports waits with the next ones until the server has taken
//! them. What cannot be sent, because the line is down again, is owed as before, and the whole begins anew. What the target
//! cannot say, because the API server does not let it see a kind, is left out; when it can, the whole begins anew, too.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::Fault;
use super::deliver::Reports;
use crate::limits;

/// Has the target report on everything once more; the ticket is gone with the last report.
pub type ReportAgain = Box<dyn Fn(Arc<()>) + Send + Sync>;

/// Of how many kinds the target left out what it was asked for, and of how many of these it could report now.
pub type Unsent = Box<dyn Fn() -> (usize, usize) + Send + Sync>;

/// What is sent after a loss.
pub struct Present {
    report_again: ReportAgain,
    unsent: Unsent,
    /// How long a poll waits for a target that is silent.
    patience: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Of the reports that are on their way.
    ticket: Option<Weak<()>>,
    /// Not before this.
    next: Option<Instant>,
}

impl Present {
    /// Nothing is on its way.
    #[must_use]
    pub fn new(report_again: ReportAgain, unsent: Unsent) -> Self {
        Self { report_again, unsent, patience: limits::PRESENT_HOLDS_POLL, state: Mutex::default() }
    }

    /// Whether there is something to be sent now.
    #[must_use]
    pub fn is_due(&self, reports: &Reports) -> bool {
        if (self.unsent)().1 > 0 {
            reports.outbox().owe_present();
        }
        let is_time = self.state().next.is_none_or(|next| next <= Instant::now());
        is_time && reports.outbox().owes_present() && !reports.budget().is_used_up()
    }

    /// Posts all that waits, and then the present where it is due. Where the target is silent for long it is not waited
    /// for: what it says later is sent beside the polls.
    ///
    /// # Errors
    /// The [`Fault`] that ended it; what was not sent is owed.
    pub async fn send_behind(&self, reports: &Arc<Reports>) -> Result<(), Fault> {
        let sent = self.send(reports).await;
        if sent.is_err() {
            self.state().ticket = None;
            reports.outbox().give_up_present();
        }
        sent
    }

    async fn send(&self, reports: &Arc<Reports>) -> Result<(), Fault> {
        reports.post_all().await?;
        if !self.is_due(reports) {
            return Ok(());
        }
        let outbox = reports.outbox();
        let ticket = self.begin(reports);
        while let Some(idle) = outbox.present_idle() {
            // Before the posts: what was the last report waits by then.
            let is_whole = ticket.strong_count() == 0;
            reports.post_all().await?;
            if is_whole {
                let (kinds, _) = (self.unsent)();
                outbox.end_present(kinds == 0);
                if kinds == 0 {
                    info!("the present conditions of all owned objects were sent");
                } else {
                    warn!(
                        kinds,
                        "the present conditions were sent, but for kinds that cannot be listed; theirs follow when they can"
                    );
                }
                break;
            }
            if idle >= self.patience {
                return Ok(());
            }
            tokio::time::sleep(limits::PRESENT_LOOK).await;
        }
        // Sent or given up: whatever is lost from now on waits a while.
        *self.state() = State { ticket: None, next: Some(Instant::now() + limits::PRESENT_EVERY) };
        Ok(())
    }

    /// What is on its way goes on.
    fn begin(&self, reports: &Reports) -> Weak<()> {
        let mut state = self.state();
        if let Some(ticket) = &state.ticket {
            return ticket.clone();
        }
        info!("events were lost, or may have been: the present conditions of all owned objects are sent");
        let ticket = Arc::new(());
        let watch = Arc::downgrade(&ticket);
        state.ticket = Some(watch.clone());
        reports.outbox().begin_present();
        (self.report_again)(ticket);
        watch
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::Present;
    use crate::journal::Outbox;
    use crate::limits;
    use crate::link::budget::Budget;
    use crate::link::deliver::Reports;
    use crate::link::{Fault, Health, Posted, StatusSink};
    use crate::net::NetError;
    use crate::protocol::{Event, EventKind, JobId, JobResult, OutcomeKind, StatusUpdate, Timestamp};
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    /// Keeps what came, in its order, and lets so many posts in.
    struct Server {
        posts: Mutex<Vec<String>>,
        open: Mutex<usize>,
    }

    impl Server {
        fn new(open: usize) -> Arc<Self> {
            Arc::new(Self { posts: Mutex::default(), open: Mutex::new(open) })
        }

        fn take(&self, what: impl IntoIterator<Item = String>) -> Result<(), Fault> {
            let mut open = self.open.lock().unwrap();
            *open = open.checked_sub(1).ok_or_else(|| Fault::Network(NetError::NameNotFound("c.example".into())))?;
            self.posts.lock().unwrap().extend(what);
            Ok(())
        }
    }

    impl StatusSink for Server {
        fn status(&self, id: &JobId, _: &StatusUpdate) -> Result<Posted, Fault> {
            self.take([format!("status {id}")]).map(|()| Posted::Taken)
        }

        fn result(&self, id: &JobId, _: &JobResult) -> Result<Posted, Fault> {
            self.take([format!("result {id}")]).map(|()| Posted::Taken)
        }

        fn events(&self, events: &[Event]) -> Result<(), Fault> {
            self.take(events.iter().map(|event| event.event_key.split('#').next().unwrap_or_default().to_owned()))
        }
    }

    fn push(outbox: &Outbox, shape: &str) {
        let event = Event::bare(EventKind::ConditionTransition);
        outbox.push_event(shape, event);
    }

    /// One event was lost; a result and an event wait.
    fn after_a_loss(server: &Arc<Server>) -> (Arc<Outbox>, Arc<Reports>) {
        let outbox = Arc::new(Outbox::new(1));
        for _ in 0..=limits::STAGE_RECORDS {
            push(&outbox, "lost");
        }
        while let Some((events, _)) = outbox.first_events() {
            outbox.drop_events(&events.last().unwrap().event_key);
        }
        push(&outbox, "old");
        let result = JobResult {
            outcome: OutcomeKind::Succeeded,
            error: String::new(),
            applied_ref: None,
            timestamp: Timestamp::from_unix_seconds(0),
        };
        outbox.push_result(&JobId::parse("j").unwrap(), result);
        let sink = Arc::clone(server) as Arc<dyn StatusSink>;
        let reports = Reports::new(sink, Arc::clone(&outbox), Arc::new(Health::default()), Budget::default());
        (outbox, Arc::new(reports))
    }

    /// A target with so many objects, each of which has one condition.
    fn target(outbox: &Arc<Outbox>, objects: usize) -> Present {
        let outbox = Arc::clone(outbox);
        Present::new(
            Box::new(move |ticket| {
                let outbox = Arc::clone(&outbox);
                tokio::spawn(async move {
                    for object in 0..objects {
                        if outbox.room_for_present(1).await {
                            push(&outbox, &format!("present {object}"));
                        }
                    }
                    drop(ticket);
                });
            }),
            Box::new(|| (0, 0)),
        )
    }

    #[tokio::test]
    async fn what_waits_goes_first_then_the_present_and_nothing_of_it_twice() {
        let server = Server::new(usize::MAX);
        let (outbox, reports) = after_a_loss(&server);
        let objects = 3 * limits::FLUSH_EVENTS;
        let present = target(&outbox, objects);
        assert!(present.is_due(&reports));
        present.send_behind(&reports).await.unwrap();
        let wanted = ["result j".to_owned(), "old".to_owned()].into_iter();
        let wanted: Vec<String> = wanted.chain((0..objects).map(|object| format!("present {object}"))).collect();
        assert_eq!(*server.posts.lock().unwrap(), wanted);
        assert!(!outbox.owes_present() && !present.is_due(&reports));
        present.send_behind(&reports).await.unwrap();
        assert_eq!(server.posts.lock().unwrap().len(), wanted.len());
    }

    #[tokio::test]
    async fn a_line_that_goes_down_amid_it_leaves_all_of_it_owed() {
        // The result, the event, and the first of the present.
        let server = Server::new(3);
        let (outbox, reports) = after_a_loss(&server);
        let objects = 2 * limits::FLUSH_EVENTS;
        let present = target(&outbox, objects);
        assert!(present.send_behind(&reports).await.is_err());
        assert!(outbox.owes_present() && present.is_due(&reports));
        *server.open.lock().unwrap() = usize::MAX;
        present.send_behind(&reports).await.unwrap();
        let posts = server.posts.lock().unwrap();
        let missing: Vec<usize> = (0..objects).filter(|at| !posts.contains(&format!("present {at}"))).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert!(!outbox.owes_present());
    }

    #[tokio::test]
    async fn what_a_target_leaves_out_ends_it_and_all_is_sent_once_more_when_it_can_be_had() {
        let server = Server::new(usize::MAX);
        let (outbox, reports) = after_a_loss(&server);
        let unsent = Arc::new(Mutex::new((1, 0)));
        let told = Arc::clone(&unsent);
        let mut present = target(&outbox, 1);
        present.unsent = Box::new(move || *told.lock().unwrap());
        present.send_behind(&reports).await.unwrap();
        assert!(!outbox.owes_present() && !present.is_due(&reports), "it holds up nobody");
        present.state().next = None;
        assert!(!present.is_due(&reports));
        *unsent.lock().unwrap() = (1, 1);
        assert!(present.is_due(&reports));
        *unsent.lock().unwrap() = (0, 0);
        present.send_behind(&reports).await.unwrap();
        let sent = server.posts.lock().unwrap().iter().filter(|post| *post == "present 0").count();
        assert_eq!(sent, 2);
        assert!(!outbox.owes_present());
    }

    #[tokio::test]
    async fn a_silent_target_holds_up_no_poll_and_what_it_says_later_counts() {
        let server = Server::new(usize::MAX);
        let (outbox, reports) = after_a_loss(&server);
        let kept = Arc::new(Mutex::new(None));
        let keep = Arc::clone(&kept);
        let mut present =
            Present::new(Box::new(move |ticket| *keep.lock().unwrap() = Some(ticket)), Box::new(|| (0, 0)));
        present.patience = Duration::from_millis(50);
        let began = Instant::now();
        present.send_behind(&reports).await.unwrap();
        assert!(began.elapsed() >= present.patience && outbox.owes_present());
        assert!(outbox.room_for_present(1).await, "it is still being sent");
        push(&outbox, "present");
        *kept.lock().unwrap() = None;
        present.send_behind(&reports).await.unwrap();
        assert_eq!(server.posts.lock().unwrap().last().map(String::as_str), Some("present"));
        assert!(!outbox.owes_present());
    }
}

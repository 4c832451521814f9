//! After a loss the truth is sent anew, not the history: behind all that waits, and before the next poll.
//!
//! The target reports on all objects that are owned once more, and their conditions become events like any others. Of these
//! only so many wait as are not written to the flash; who reports waits with the next ones until the server has taken
//! them. What cannot be sent, because the line is down again, is owed as before, and the whole begins anew.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use tracing::info;

use super::Fault;
use super::deliver::Reports;
use crate::limits;

/// Has the target report on everything once more; the ticket is gone with the last report.
pub type ReportAgain = Box<dyn Fn(Arc<()>) + Send + Sync>;

/// What is sent after a loss.
pub struct Present {
    report_again: ReportAgain,
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
    pub fn new(report_again: ReportAgain) -> Self {
        Self { report_again, state: Mutex::default() }
    }

    /// Whether there is something to be sent now.
    #[must_use]
    pub fn is_due(&self, reports: &Reports) -> bool {
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
                outbox.end_present();
                info!("the present conditions of all owned objects were sent");
                break;
            }
            if idle >= limits::PRESENT_HOLDS_POLL {
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

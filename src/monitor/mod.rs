//! What a running agent tells machines: metrics in the text format of Prometheus, and whether it lives and is ready.
//!
//! Off unless an address is set. On, it is a socket among those that the one thread waits for: nothing is woken up
//! unless somebody asks, and nothing is gathered before. Whoever asks is not trusted: see `server`.

mod address;
mod page;
mod server;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::clock;
use crate::status::{ConnectionState, View};

pub use self::address::{Address, InvalidAddress};
pub use self::server::serve;

/// What is looked at when somebody asks.
pub struct Monitor {
    view: Mutex<Option<Arc<View>>>,
    began: Instant,
}

impl Default for Monitor {
    fn default() -> Self {
        Self { view: Mutex::default(), began: Instant::now() }
    }
}

impl Monitor {
    /// There is a line to the control plane, which is looked at through this; none = there is none any more.
    pub fn show(&self, view: Option<Arc<View>>) {
        *self.lock() = view;
    }

    fn view(&self) -> Option<Arc<View>> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<View>>> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All metrics.
    fn metrics(&self) -> String {
        page::write(self.view().as_deref(), self.began.elapsed())
    }

    /// Why a start anew would help; none = the agent lives. That this is asked at all shows that the loop goes round in
    /// which everything runs.
    fn unhealthy(&self) -> Option<String> {
        let late = self.view()?.sources.health.poll_hangs()?;
        Some(format!("a poll hangs: it should have ended {} s ago", late.as_secs()))
    }

    /// Why no job would be done if one were sent now; none = the agent is ready. An outage counts when it is a long one:
    /// the agent mends a short one by itself, and nobody needs to know.
    fn unready(&self) -> Option<String> {
        let Some(view) = self.view() else {
            return Some(
                "no line to the control plane yet: this node is not registered, or waits for its Cluster object, for the \
                 API server or for another agent to end; the log says which"
                    .to_owned(),
            );
        };
        let status = view.gather();
        if status.connection.state != ConnectionState::Unreachable
            && let Some(fault) = status.fault(clock::unix_seconds())
            // Then there are jobs that are done.
            && status.trust.state != "LedgerLost"
        {
            return Some(fault);
        }
        if let Some(fault) = view.sources.observed.fault() {
            return Some(fault);
        }
        let target = view.sources.observed.kinds();
        let fault = match target {
            _ if !clock::standing().may_judge() => {
                "the clock of this node is in doubt: jobs with an expiry wait until the time is confirmed"
            }
            _ if view.sources.runner.is_read_only() => {
                "the state directory is read-only: jobs are left to the control plane"
            }
            (kinds, troubled) if kinds > 0 && troubled >= kinds => {
                "the target cannot be reached: of no kind the objects can be watched; the log names the reason for each"
            }
            _ => return None,
        };
        Some(fault.to_owned())
    }
}

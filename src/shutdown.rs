//! Signals. The end: a first one asks for it, a second one makes it. SIGHUP: try now. SIGUSR1: a new credential.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tracing::info;

use crate::task;

/// Tells everybody that the agent is to stop.
#[derive(Clone, Debug)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Default for Stop {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Stop {
    /// Stops.
    pub fn set(&self) {
        self.0.send_replace(true);
    }

    /// Whether it is time to stop.
    #[must_use]
    pub fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is time to stop.
    pub async fn wait(&self) {
        let mut stopped = self.0.subscribe();
        // The sender is in self: it cannot be gone.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }
}

/// Somebody knows that the line is back, or wants to see what the agent does: it is to poll now.
#[derive(Clone, Debug, Default)]
pub struct Wake(Arc<Notify>);

impl Wake {
    /// Wakes whoever waits, or the next one who will.
    pub fn set(&self) {
        self.0.notify_one();
    }

    /// Waits until it is time.
    pub async fn wait(&self) {
        self.0.notified().await;
    }
}

/// Sets `poll` at each SIGHUP and `rotate` at each SIGUSR1.
///
/// # Errors
/// When a handler cannot be installed.
pub fn listen_for_wakes(poll: Wake, rotate: Wake) -> io::Result<()> {
    let wakes = [
        (SignalKind::hangup(), "SIGHUP", "polling at once", poll),
        (SignalKind::user_defined1(), "SIGUSR1", "a new credential is asked for", rotate),
    ];
    for (kind, name, meaning, wake) in wakes {
        let mut signals = signal(kind)?;
        task::spawn(async move {
            while signals.recv().await.is_some() {
                info!(signal = name, "{meaning}");
                wake.set();
            }
        });
    }
    Ok(())
}

/// Sets `stop` at the first SIGTERM or SIGINT, and ends the process at the second.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn listen(stop: Stop) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    task::spawn(async move {
        let mut is_second = false;
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if is_second {
                std::process::exit(1);
            }
            is_second = true;
            info!(signal = name, "stopping: the job at hand is finished, what waits is posted");
            stop.set();
        }
    });
    Ok(())
}

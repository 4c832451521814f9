//! Being the one agent that acts.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::{error, warn};

use super::AgentError;
use crate::limits;
use crate::link::StateDirectory;
use crate::shutdown::Stop;
use crate::supervisor::Supervisor;
use crate::target::kubernetes::Surroundings;
use crate::target::{Holder, Target};

/// Ends when the agent stops: with who acts instead, if that is why.
pub(super) type Holding = JoinHandle<Option<Holder>>;

/// Waits until this agent may act, and has it stop when another one does; none when it is told to stop before.
pub(super) async fn begin(
    target: &Arc<dyn Target>,
    store: &StateDirectory,
    stop: &Stop,
    supervisor: &Supervisor,
) -> Option<Holding> {
    let (held, is_held) = oneshot::channel();
    let (target, ending) = (Arc::clone(target), stop.clone());
    let agent = store.agent_id().unwrap_or_else(|error| {
        warn!(%error, "this agent is taken for another one at its next start");
        StateDirectory::new_agent_id()
    });
    let surroundings = Surroundings { variable: &|name| std::env::var(name).ok(), root: PathBuf::from("/") };
    let me = Holder::find(&surroundings, agent);
    let holding = tokio::spawn(async move {
        let other = tokio::select! {
            other = target.hold(me, held) => other,
            () = ending.wait() => return None,
        };
        error!(holder = %other, "another agent has taken over this cluster: this one stops");
        ending.set();
        Some(other)
    });
    let waiting = async {
        tokio::time::sleep(limits::HOLDER_LOOK).await;
        supervisor
            .ready("waiting until it may act on this cluster: another agent acts, or the API server does not answer");
        std::future::pending::<()>().await;
    };
    tokio::select! {
        // Without an answer the target is one that never says.
        _ = is_held => Some(holding),
        () = stop.wait() => None,
        () = waiting => None,
    }
}

/// Why the agent stopped: it is an error where another one acts instead.
pub(super) async fn end(holding: Holding) -> Result<(), AgentError> {
    // It ends with the agent; what was interrupted says nothing.
    match holding.await {
        Ok(Some(other)) => Err(AgentError::Replaced(other)),
        Ok(None) | Err(_) => Ok(()),
    }
}

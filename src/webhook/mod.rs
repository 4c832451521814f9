//! A validating webhook: an API server asks before it stores an object, and the policy of jobs answers.
//!
//! For servers without admission policies, and for values that an expression cannot walk. Only with the feature `webhook`,
//! and off unless an address is set. Whoever reaches the port may ask, and is not trusted: see `server`. The certificate
//! is the agent's own, and an API server is told to trust just that: see `keep`.

mod keep;
mod listen;
mod objects;
mod server;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::time::sleep;
use tracing::error;

use crate::limits;
use crate::net::served::{Shown, server_config};
use crate::shutdown::Stop;
use crate::target::kubernetes::Own;
use crate::trust::policy::Policy;

pub use listen::{InvalidListen, Listen};
pub use objects::text;

/// What a webhook is made of.
pub struct Parts {
    /// Where it listens.
    pub listen: Listen,
    /// What it judges by.
    pub policy: Policy,
    /// The way to the API server.
    pub own: Own,
    /// How fast its certificate ages.
    pub pace: Pace,
    /// When it ends.
    pub stop: Stop,
}

/// How fast a certificate ages, and what comes of that. The default is that of [`limits`].
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long it is good for.
    pub lifetime: Duration,
    /// How often it is looked at.
    pub check: Duration,
    /// What a change takes to be known.
    pub settle: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let [lifetime, check, settle] = [limits::WEBHOOK_LIFETIME, limits::WEBHOOK_CHECK, limits::WEBHOOK_SETTLE];
        Self { lifetime, check, settle }
    }
}

/// Answers API servers until it is time to stop. An address that cannot be used is said once and tried again: the agent
/// does its work without, and what is asked meanwhile is refused.
pub async fn serve(Parts { listen, policy, own, pace, stop }: Parts) {
    let shown = Arc::new(Shown::default());
    let tls = match server_config(Arc::clone(&shown)) {
        Ok(tls) => tls,
        Err(error) => return error!(%error, "no webhook is answered"),
    };
    let judge = server::Judge::new(policy, own.clone());
    let keeping = keep::Keeping { listen, own, pace, shown };
    let serving = async {
        let listener = bind(&listen).await;
        tokio::join!(server::accept(listener, tls, judge), keeping.run())
    };
    tokio::select! {
        _ = serving => {}
        () = stop.wait() => {}
    }
}

async fn bind(listen: &Listen) -> TcpListener {
    let mut has_failed = false;
    loop {
        let address = listen.address();
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let bound = socket.and_then(|socket| {
            // Connections of the agent before may not be over yet.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(limits::WEBHOOK_BACKLOG)
        });
        match bound {
            Ok(listener) => return listener,
            Err(_) if has_failed => {}
            Err(error) => {
                has_failed = true;
                error!(%address, %error, "no webhook is answered: the address cannot be used; it is tried again");
            }
        }
        sleep(limits::WEBHOOK_RETRY).await;
    }
}

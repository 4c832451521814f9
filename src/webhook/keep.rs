//! The certificate in its time: made at the start, told to the API server, followed by the next one long before its end.
//!
//! ```text
//! start    make A │ show A │ trust A
//! due      make B │ trust A and B │ settle │ show B │ settle │ trust B
//! ```
//!
//! No certificate is shown that is not trusted yet, but for the first one, before which there was nobody to ask. Where the
//! API server cannot be told, the old one goes on: a third of its life is left. Its trust is looked at again and again, and
//! put back where somebody took it away.

use std::sync::Arc;

use tokio::time::sleep;
use tracing::{error, info, warn};

use super::{Listen, Pace};
use crate::clock;
use crate::limits;
use crate::net::served::{Certificate, NotMade, Shown};
use crate::target::kubernetes::{Own, OwnError};
use crate::task;

pub(super) struct Keeping {
    pub(super) listen: Listen,
    pub(super) own: Own,
    pub(super) pace: Pace,
    pub(super) shown: Arc<Shown>,
}

impl Keeping {
    /// Ends only where no certificate can be made.
    pub(super) async fn run(self) {
        let mut current = match self.make() {
            Ok(made) => made,
            Err(error) => return error!(error = &error as &dyn std::error::Error, "no webhook is answered"),
        };
        self.shown.show(&current);
        let mut said = None;
        loop {
            let is_trusted = self.trust(&current, None, &mut said).await;
            sleep(if is_trusted { self.pace.check } else { limits::WEBHOOK_RETRY.min(self.pace.check) }).await;
            if current.is_due(clock::unix_seconds(), self.pace.lifetime)
                && let Some(next) = self.follow(&current, &mut said).await
            {
                current = next;
            }
        }
    }

    fn make(&self) -> Result<Certificate, NotMade> {
        Certificate::make(&self.listen.name(), clock::unix_seconds(), self.pace.lifetime)
    }

    /// The next certificate takes the place of this one; none = it has to be tried again.
    async fn follow(&self, current: &Certificate, said: &mut Option<String>) -> Option<Certificate> {
        let next = match self.make() {
            Ok(made) => made,
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "the certificate of the webhook cannot be renewed yet");
                return None;
            }
        };
        if !self.trust(current, Some(&next), said).await {
            return None;
        }
        sleep(self.pace.settle).await;
        self.shown.show(&next);
        info!("the webhook shows a new certificate");
        sleep(self.pace.settle).await;
        Some(next)
    }

    /// Has the API server trust these, and tells whether it does. What is in the way is said when it is something new.
    async fn trust(&self, one: &Certificate, other: Option<&Certificate>, said: &mut Option<String>) -> bool {
        let bundle = [one.pem(), other.map_or("", Certificate::pem)].concat();
        let own = self.own.clone();
        let told = task::on_thread(move || own.trust_webhook(&bundle)).await;
        let fault = match told {
            Ok(Ok(is_new)) => {
                if said.take().is_some() || is_new {
                    info!(address = %self.listen, "the API server trusts the certificate of the webhook");
                }
                return true;
            }
            Ok(Err(OwnError::Absent)) => {
                "there is no ValidatingWebhookConfiguration pullet: pullet admission --webhook prints it".to_owned()
            }
            Ok(Err(OwnError::Forbidden(text))) => {
                ["the agent's account may not change it (pullet rbac prints its rights): ", &text].concat()
            }
            Ok(Err(error)) => error.to_string(),
            Err(interrupted) => interrupted.to_string(),
        };
        if said.as_ref() != Some(&fault) {
            warn!(error = fault, "the API server is not told to trust the webhook yet; it is tried again");
            *said = Some(fault);
        }
        false
    }
}

//! How an agent without a credential comes by one.

use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tracing::{error, info, warn};

use super::{Agent, AgentError, out_of_patience};
use crate::limits;
use crate::link::backoff::{Backoff, draw};
use crate::link::provided;
use crate::link::secret_file::{observed_token, read_one_time_token};
use crate::link::{Credential, Demands, Endpoint, Fault, Registration, RegistrationError};
use crate::secret::Secret;
use crate::shutdown::{Stop, Wake};
use crate::status::Waiting;
use crate::task;

impl Agent {
    /// Registers, however long that takes. A token that was refused is not tried twice: a new one in its
    /// file is.
    pub(super) async fn register(&mut self, stop: &Stop, wake: &Wake) -> Result<Option<Credential>, AgentError> {
        let (Some(endpoint), Some(token_file)) = (self.config.endpoint.clone(), self.config.token_file.clone()) else {
            return Ok(None);
        };
        self.store.rehearse().map_err(AgentError::Store)?;
        // A line that is down for long is no reason to count as not started.
        self.supervisor.ready("not registered yet: the one-time token is being exchanged");
        let mut waiting = self.waiting(&endpoint);
        waiting.tell("the one-time token is being exchanged".to_owned());
        let mut refused = None;
        let mut backoff = Backoff::default();
        while !stop.is_set() {
            let mut pause = limits::TOKEN_CHECK;
            if let Some(token) = &self.token {
                let exchanged = tokio::select! {
                    exchanged = self.exchange(endpoint.clone(), Arc::clone(token), false) => exchanged?,
                    () = out_of_patience(stop) => {
                        warn!("stopped before the registration was answered; the one-time token may be used up");
                        return Ok(None);
                    }
                };
                match exchanged {
                    Ok(credential) => {
                        info!(cluster = %credential.cluster_id, "registered");
                        self.token = None; // It is used up, and wiped: the agent runs for months.
                        return Ok(Some(credential));
                    }
                    Err(fault) if fault.is_passing() || matches!(fault, Fault::NotFound | Fault::ServerTooOld(_)) => {
                        pause = fault.retry_after().unwrap_or_default().max(backoff.next(draw()));
                        let (cause, detail) = fault.causes();
                        warn!(error = %fault, cause, detail, next_s = pause.as_secs(), "not registered yet; it is tried again");
                        self.supervisor.status(|| format!("not registered yet, it is tried again: {fault}").into());
                        let because = if detail.is_empty() { &cause } else { &detail };
                        let colon = if because.is_empty() { "" } else { ": " };
                        waiting.tell([&fault.to_string(), colon, because].concat());
                    }
                    // Nothing gives standard input twice.
                    Err(fault) if token_file == Path::new("-") => {
                        return Err(AgentError::Registration(RegistrationError::Fault(fault)));
                    }
                    Err(fault) => {
                        let remedy = provided::remedy(&token_file);
                        error!(error = %fault, "{remedy}");
                        self.supervisor.status(|| Cow::Borrowed(remedy));
                        waiting.tell(remedy.to_owned());
                        refused = Some(observed_token(token));
                        self.token = None;
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = wake.wait() => tokio::time::sleep(limits::BACKOFF_FLOOR).await,
                () = stop.wait() => return Ok(None),
            }
            if self.token.is_none() {
                let found = read_one_time_token(&token_file, io::empty()).ok();
                self.token = found.filter(|token| refused.as_ref() != Some(&observed_token(token))).map(Arc::new);
            }
        }
        Ok(None)
    }

    /// For `pullet status`, as long as there is no credential.
    pub(super) fn waiting(&self, endpoint: &Endpoint) -> Waiting {
        Waiting::begin(self.config.status_file.clone(), endpoint.to_string(), self.config.cluster_id.as_ref())
    }

    /// Exchanges a one-time token; `over` a credential that is there.
    pub(super) async fn exchange(
        &self,
        endpoint: Endpoint,
        token: Arc<Secret>,
        over: bool,
    ) -> Result<Result<Credential, Fault>, AgentError> {
        let profile = self.profile.clone();
        let store = Arc::clone(&self.store);
        let cluster_id = self.config.cluster_id.clone();
        let display_name = self.config.display_name.clone();
        let demands = Demands { signatures: self.config.demands_signatures(), client_certificate: self.config.mtls };
        let wanted = self.wanted.clone();
        let exchanged = task::on_thread(move || {
            let registration = Registration {
                endpoint: &endpoint,
                profile,
                cluster_id: cluster_id.as_ref(),
                display_name: display_name.as_deref(),
                demands,
                pin: wanted.as_ref(),
            };
            let store = store.as_ref();
            if over { registration.force(&token, store) } else { registration.exchange(&token, store) }
        });
        match exchanged.await {
            Ok(Ok(credential)) => Ok(Ok(credential)),
            Ok(Err(RegistrationError::Fault(fault) | RegistrationError::Unusable(fault))) => Ok(Err(fault)),
            Ok(Err(RegistrationError::Pin(error))) => Err(AgentError::Pin(error)),
            Ok(Err(RegistrationError::Store(error))) => Err(AgentError::Store(error)),
            Err(interrupted) => Err(AgentError::Runtime(io::Error::other(interrupted))),
        }
    }
}

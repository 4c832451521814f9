//! The control plane: nothing else knows it.
//!
//! A [`JobSource`] brings jobs, a [`StatusSink`] takes what became of them. [`LongPoll`] is both; another
//! mode of connectivity is another pair. The calls block: whoever makes them does so on a thread that may.

pub mod backoff;
pub mod budget;
pub mod credential;
pub mod deliver;
pub mod endpoint;
pub mod events;
pub mod fault;
pub mod health;
pub mod heart;
pub mod hold;
pub mod intake;
pub mod keeper;
pub mod longpoll;
pub mod machine;
pub mod pinned;
pub mod present;
pub mod provided;
pub mod registration;
pub mod rotation;
pub mod seal;
pub mod secret_file;
pub mod store;
pub mod stream;
pub mod traffic;

use std::time::Duration;

pub use credential::{Bearer, Credential, CredentialStore, StoreError};
pub use endpoint::{Endpoint, InvalidEndpoint};
pub use fault::Fault;
pub use health::Health;
pub use heart::Heart;
pub use keeper::Keeper;
pub use longpoll::{BetweenPolls, LongPoll};
pub use pinned::{Pin, PinStore, Wanted};
pub use provided::Provided;
pub use registration::{Demands, Registration, RegistrationError};
pub use store::StateDirectory;

use machine::{Binding, Machine, Resemblance};

use crate::protocol::{Event, JobId, JobResult, StatusUpdate};

/// Whether a credential belongs to another machine than this one, as far as anybody can tell.
#[must_use]
pub fn is_another_machine(credential: &Credential) -> bool {
    resemblance(credential).is_some_and(|(resemblance, _)| resemblance == Resemblance::Another)
}

/// Notes what has changed about the machine since the credential was bound to it; whether there is anything to store.
pub fn rebind(credential: &mut Credential) -> bool {
    let Some((Resemblance::Changed | Resemblance::Unknown, now)) = resemblance(credential) else { return false };
    let renewed = credential.machine.clone().unwrap_or_default().renewed(now);
    if credential.machine.as_ref() == Some(&renewed) {
        return false;
    }
    credential.machine = Some(renewed);
    true
}

fn resemblance(credential: &Credential) -> Option<(Resemblance, Binding)> {
    let now = Machine::find().bind(credential.keys.as_ref()?.identity());
    Some((credential.machine.as_ref()?.compare(&now), now))
}

/// Where jobs come from.
pub trait JobSource: Send + Sync {
    /// Waits for jobs as long as `wait`.
    ///
    /// # Errors
    /// A [`Fault`] when there was no answer, or one that is no list of jobs. An answer that broke off
    /// after complete jobs is no error.
    fn poll(&self, wait: Duration) -> Result<stream::Answer, Fault>;

    /// Takes a job.
    ///
    /// # Errors
    /// A [`Fault`]; the job is not ours then.
    fn ack(&self, id: &JobId) -> Result<Acknowledged, Fault>;

    /// Ends a poll that is held; it fails.
    fn interrupt(&self) {}
}

/// Where statuses, results and events go.
pub trait StatusSink: Send + Sync {
    /// Tells how a job is getting on.
    ///
    /// # Errors
    /// A [`Fault`].
    fn status(&self, id: &JobId, status: &StatusUpdate) -> Result<Posted, Fault>;

    /// Tells how a job ended.
    ///
    /// # Errors
    /// A [`Fault`].
    fn result(&self, id: &JobId, result: &JobResult) -> Result<Posted, Fault>;

    /// Tells what happened.
    ///
    /// # Errors
    /// A [`Fault`].
    fn events(&self, events: &[Event]) -> Result<(), Fault>;
}

/// Who we are to the control plane.
pub trait Account: Send + Sync {
    /// Gets a new credential.
    ///
    /// # Errors
    /// A [`Fault`]; the old credential stays in use.
    fn rotate(&self) -> Result<(), Fault>;

    /// Finds a credential that is accepted, after a 401.
    ///
    /// # Errors
    /// A [`Fault`] when there is none.
    fn recover(&self) -> Result<(), Fault>;
}

/// What an ack came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// The server has closed the job (409) or does not know it (404): it is not to be done.
    Closed,
    /// It is ours.
    Ours,
}

/// What a post came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posted {
    /// The job is closed for us (404).
    Closed,
    /// The server had it already (409).
    Known,
    /// The server has it.
    Taken,
}

//! Where jobs take effect: a Kubernetes API, or a directory.
//!
//! `target` alone knows Kubernetes and the directory. What it is told has passed the policy; what it
//! answers is an outcome, never a retry loop: whether and when to try again is the job's business.

pub mod directory;
mod holder;
pub mod kubernetes;
pub(crate) mod stamp;

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::metrics::Meter;
pub use crate::protocol::GroupKind;
use crate::protocol::{Condition, Endpoint, Manifest, ObjectRef};
pub use crate::trust::policy::NamespaceRule;
use crate::trust::policy::Refusal;
pub use holder::Holder;
pub use stamp::Stamp;

/// A future that a [`Target`] gives back.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A place where objects are applied.
pub trait Target: Send + Sync {
    /// Where this is, for a log line: `kubernetes https://127.0.0.1:6443` or `directory /srv/out`.
    fn describe(&self) -> String;

    /// What counts the bytes to and from where this is.
    fn meter(&self) -> Meter {
        Meter::default()
    }

    /// Applies a manifest and names the object that it became.
    fn apply<'a>(
        &'a self,
        manifest: &'a Manifest<'a>,
        rule: NamespaceRule,
    ) -> Pending<'a, Result<Applied, TargetError>>;

    /// Deletes an object; one that is not there is no error.
    fn delete<'a>(&'a self, object: &'a ObjectRef, rule: NamespaceRule) -> Pending<'a, Result<Deleted, TargetError>>;

    /// What is stamped on an object that is there and is ours, with both of our labels; none otherwise. Changes nothing.
    fn stamp<'a>(&'a self, object: &'a ObjectRef) -> Pending<'a, Result<Option<Stamp>, TargetError>>;

    /// Reports on owned objects (those that carry our cluster id) until the receiver is dropped, and on each
    /// object at least once after it was applied, as soon as it can be read: whoever heard nothing of it yet
    /// cannot tell whether there is nothing to be heard. Ends at once where nothing reports anything.
    fn observe(&self, sink: mpsc::Sender<Observation>) -> Pending<'_, ()>;

    /// The kinds of which the objects cannot be reported on, and have not been for long, or nobody lets us: for a person.
    /// Empty where there are none.
    fn left_out(&self) -> String {
        String::new()
    }

    /// Has [`observe`](Target::observe) report on every owned object once more, with this ticket, which is gone with the
    /// last of these reports. Where nothing reports anything, that is at once. A kind that is left out holds up nobody.
    fn report_again(&self, ticket: Arc<()>) {
        drop(ticket);
    }

    /// Of how many kinds the reports are owed that were asked for last, because they were left out; and of how many
    /// of these they could be had now.
    fn unsent(&self) -> (usize, usize) {
        (0, 0)
    }

    /// How often an owned object was seen whose changes are not told, because there are more than are compared.
    fn unreported(&self) -> u64 {
        0
    }

    /// How many kinds there are whose objects are reported on, and of how many that cannot be done at present.
    fn kinds(&self) -> (usize, usize) {
        (0, 0)
    }

    /// Why no job could take effect now, where that can be told at once.
    fn fault(&self) -> Option<String> {
        None
    }

    /// Notes `me` as the one who acts here, waits while another agent does, and says through `held` when it may act. Ends
    /// with who acts instead. Where nothing is noted everybody may act at once, and it does not end.
    fn hold(&self, me: Holder, held: oneshot::Sender<()>) -> Pending<'_, Holder> {
        let _ = (me, held.send(()));
        Box::pin(std::future::pending())
    }
}

/// What an apply came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The object.
    pub reference: ObjectRef,
    /// Whether anybody will report on it.
    pub readiness: Readiness,
}

/// Whether an applied object is going to say that it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Nobody can report on it, and this is why.
    Silent(&'static str),
    /// [`Target::observe`] will tell, if anybody reports at all.
    Watched,
}

/// What a delete came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// A sentence for the person who asked, where more is to be said than "done".
    pub note: Option<&'static str>,
}

/// How an owned object is. One is sent for each object that is found and each change of its conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The object, with uid and generation.
    pub reference: ObjectRef,
    /// `status.observedGeneration`.
    pub observed_generation: Option<i64>,
    /// All conditions as they are now; empty when the object was deleted.
    pub conditions: Vec<Condition>,
    /// Those among them that changed status, reason or message since the last observation.
    pub changed: Vec<Condition>,
    /// `status.endpoints`.
    pub endpoints: Vec<Endpoint>,
    /// The object is gone.
    pub deleted: bool,
    /// It was asked for by [`Target::report_again`]: all of its conditions are to be told, changed or not.
    pub again: Option<Arc<()>>,
}

/// Why a target did not do what it was told.
#[derive(Debug)]
pub enum TargetError {
    /// Fields are owned by somebody else; nothing was changed.
    Conflict(Vec<FieldConflict>),
    /// Our account may not do that.
    Forbidden(String),
    /// The target refused the object: a schema, an admission, a malformed name.
    Invalid(String),
    /// A namespace that is there, but not for us.
    NamespaceNotManaged(String),
    /// What the target knows of the namespace stops it.
    Refused(Refusal),
    /// This object cannot be done now, while others can: the same may work soon, and need not be waited for.
    Stuck(String),
    /// The target answered something that is no answer, or one beyond a bound.
    Unusable(String),
    /// The target has no such kind.
    UnknownKind {
        /// Group and version.
        api_version: String,
        /// Kind.
        kind: String,
    },
    /// The target could not be reached or was too busy: the same may work later.
    Unavailable(Box<dyn StdError + Send + Sync>),
}

/// One field that another field manager owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldConflict {
    /// Path as the API server writes it: `.spec.replicas`.
    pub field: String,
    /// Who owns it.
    pub manager: String,
}

impl TargetError {
    /// One word for a result, a log field, a test.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Conflict(_) => "FieldConflict",
            Self::Forbidden(_) => "Forbidden",
            Self::Invalid(_) => "Invalid",
            Self::NamespaceNotManaged(_) => "NamespaceNotManaged",
            Self::Refused(refusal) => refusal.reason(),
            Self::Stuck(_) => "ObjectUnavailable",
            Self::Unusable(_) => "UnusableAnswer",
            Self::UnknownKind { .. } => "UnknownKind",
            Self::Unavailable(_) => "TargetUnavailable",
        }
    }
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict(fields) => {
                f.write_str("owned by another field manager, nothing was changed:")?;
                for (at, conflict) in fields.iter().enumerate() {
                    let comma = if at == 0 { "" } else { "," };
                    write!(f, "{comma} {} by {}", conflict.field, conflict.manager)?;
                }
                Ok(())
            }
            Self::Forbidden(message) => {
                write!(
                    f,
                    "the agent's account may not do that: {message}. Grant the right to the agent, or leave the kind out"
                )
            }
            Self::Invalid(message) => write!(f, "the object was refused: {message}"),
            Self::NamespaceNotManaged(namespace) => write!(
                f,
                "the namespace {namespace} is there and not ours: label it managed-by=vworkspace, or name it with --allow-namespace"
            ),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Stuck(message) => {
                write!(f, "this object cannot be done now: {message}. See to that, and send a new job")
            }
            Self::Unusable(message) => write!(f, "the target's answer cannot be used: {message}"),
            Self::UnknownKind { api_version, kind } => {
                write!(f, "there is no kind {kind} in {api_version} here: install its CustomResourceDefinition")
            }
            Self::Unavailable(_) => f.write_str("the target cannot be reached"),
        }
    }
}

impl StdError for TargetError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Unavailable(source) => Some(source.as_ref()),
            _ => None,
        }
    }
}

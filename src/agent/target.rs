//! What jobs are applied to, as the configuration has it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::AgentError;
use crate::config::{Config, TargetChoice};
use crate::limits;
use crate::link;
use crate::protocol::ClusterId;
use crate::target::Target;
use crate::target::directory::Directory;
#[cfg(feature = "webhook")]
use crate::target::kubernetes::Own;
use crate::target::kubernetes::{Access, Kubernetes, Surroundings, Wish};
#[cfg(feature = "webhook")]
use crate::{
    shutdown::Stop,
    task,
    webhook::{self, Pace, Parts},
};

pub(super) fn open_target(config: &Config, cluster_id: &ClusterId) -> Result<Arc<dyn Target>, AgentError> {
    match &config.target {
        TargetChoice::Directory(path) => {
            let directory =
                Directory::open(path, cluster_id.as_str(), limits::DIRECTORY_SETTLE).map_err(AgentError::Directory)?;
            Ok(Arc::new(directory))
        }
        TargetChoice::Kubernetes { .. } => {
            let access = find_access(config)?;
            let kinds = config.policy.kinds().to_vec();
            let kubernetes = Kubernetes::open(&access, cluster_id.as_str(), kinds).map_err(AgentError::Access)?;
            Ok(Arc::new(kubernetes))
        }
    }
}

/// How the API server of the target is reached.
///
/// # Errors
/// [`AgentError::Access`].
pub fn find_access(config: &Config) -> Result<Access, AgentError> {
    let (kubeconfig, context) = match &config.target {
        TargetChoice::Kubernetes { kubeconfig, context } => (kubeconfig.clone(), context.clone()),
        TargetChoice::Directory(_) => (None, None),
    };
    let wish = Wish { kubeconfig, context, foreground_root: is_foreground_root(), plain_http: config.plain_http };
    let surroundings = Surroundings { variable: &link::provided::variable, root: PathBuf::from("/") };
    Access::find(&wish, &surroundings).map_err(AgentError::Access)
}

/// Answers API servers, where that is asked for.
#[cfg(feature = "webhook")]
pub(super) fn start_webhook(config: &Config, stop: &Stop) -> Result<(), AgentError> {
    if let Some(listen) = config.webhook {
        let (policy, own) = (config.policy.clone(), Own::new(&find_access(config)?));
        task::spawn(webhook::serve(Parts { listen, policy, own, pace: Pace::default(), stop: stop.clone() }));
    }
    Ok(())
}

/// A person who is root started us on a terminal: no unit of systemd.
fn is_foreground_root() -> bool {
    use std::io::IsTerminal as _;
    rustix::process::geteuid().is_root() && io::stderr().is_terminal() && std::env::var_os("INVOCATION_ID").is_none()
}

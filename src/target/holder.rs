//! Who acts on a cluster.

use std::fmt;
use std::fs;

use super::kubernetes::Surroundings;
use crate::limits;

/// Where the namespace of a pod's account is mounted.
const NAMESPACE: &str = "var/run/secrets/kubernetes.io/serviceaccount/namespace";

const BOOT_ID: &str = "proc/sys/kernel/random/boot_id";

/// An agent, by what stays the same when it is started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// One outside of a pod: nobody can see from the cluster whether it lives.
    Machine {
        /// What its state directory keeps.
        agent: String,
        /// Of the machine it runs on: a copied directory elsewhere is another agent.
        boot: String,
    },
    /// One in a pod.
    Pod {
        /// Of the pod.
        namespace: String,
        /// Of the pod.
        name: String,
        /// Of the pod; empty where nobody said.
        uid: String,
    },
}

impl Holder {
    /// Who this agent is. `agent` is what its state directory keeps.
    #[must_use]
    pub fn find(surroundings: &Surroundings<'_>, agent: String) -> Self {
        let variable = |name: &str| (surroundings.variable)(name).filter(|value| !value.is_empty());
        let namespace = variable("POD_NAMESPACE").or_else(|| read(surroundings, NAMESPACE));
        let name = variable("POD_NAME").or_else(|| variable("HOSTNAME"));
        match namespace.zip(name) {
            Some((namespace, name)) => Self::Pod { namespace, name, uid: variable("POD_UID").unwrap_or_default() },
            None => Self::Machine { agent, boot: read(surroundings, BOOT_ID).unwrap_or_default() },
        }
    }

    /// Whether both are one agent.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Pod { namespace, name, uid },
                Self::Pod { namespace: other_namespace, name: other_name, uid: other_uid },
            ) => {
                let is_one_uid = uid == other_uid || uid.is_empty() || other_uid.is_empty();
                namespace == other_namespace && name == other_name && is_one_uid
            }
            _ => self == other,
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine { agent, .. } => write!(f, "the agent {agent}, outside of a pod"),
            Self::Pod { namespace, name, .. } => write!(f, "the agent in pod {namespace}/{name}"),
        }
    }
}

/// A short file of one line.
fn read(surroundings: &Surroundings<'_>, path: &str) -> Option<String> {
    let path = surroundings.root.join(path);
    // A file of the kernel has no length.
    if fs::metadata(&path).ok()?.len() > limits::HOLDER_TEXT_BYTES as u64 {
        return None;
    }
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::{Holder, Surroundings};
    use crate::limits;
    use std::fs;

    fn pod(uid: &str) -> Holder {
        Holder::Pod { namespace: "n".to_owned(), name: "p".to_owned(), uid: uid.to_owned() }
    }

    fn machine(agent: &str, boot: &str) -> Holder {
        Holder::Machine { agent: agent.to_owned(), boot: boot.to_owned() }
    }

    fn find(root: &tempfile::TempDir, variables: &[(&str, &str)]) -> Holder {
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let surroundings = Surroundings { variable: &variable, root: root.path().to_owned() };
        Holder::find(&surroundings, "a".to_owned())
    }

    #[test]
    fn a_pod_is_known_by_its_account_or_its_variables() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("var/run/secrets/kubernetes.io/serviceaccount");
        assert_eq!(find(&root, &[("HOSTNAME", "p")]), machine("a", ""));
        assert_eq!(find(&root, &[("POD_NAMESPACE", "n"), ("POD_NAME", "p"), ("POD_UID", "u")]), pod("u"));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("namespace"), "n\n").unwrap();
        assert_eq!(find(&root, &[("HOSTNAME", "p")]), pod(""));
        assert_eq!(find(&root, &[("HOSTNAME", "node"), ("POD_NAME", "p"), ("POD_UID", "u")]), pod("u"));
        fs::write(directory.join("namespace"), "x".repeat(limits::HOLDER_TEXT_BYTES + 1)).unwrap();
        assert_eq!(find(&root, &[("HOSTNAME", "p")]), machine("a", ""));
    }

    #[test]
    fn outside_of_a_pod_the_boot_belongs_to_it() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("proc/sys/kernel/random")).unwrap();
        fs::write(root.path().join("proc/sys/kernel/random/boot_id"), "b\n").unwrap();
        assert_eq!(find(&root, &[]), machine("a", "b"));
    }

    #[test]
    fn an_agent_that_comes_back_is_the_same_and_another_is_not() {
        assert!(pod("u").is(&pod("u")) && pod("").is(&pod("u")) && machine("a", "b").is(&machine("a", "b")));
        assert!(!pod("u").is(&pod("v")));
        assert!(!machine("a", "b").is(&machine("a", "c")) && !machine("a", "b").is(&machine("c", "b")));
        assert!(!machine("a", "b").is(&pod("u")));
    }
}

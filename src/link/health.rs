//! Whether the control plane can be reached, and lets us in.

use tokio::sync::watch;

/// The state of the connection, shared by those who find it out and those who wait for it.
#[derive(Debug)]
pub struct Health(watch::Sender<Connection>);

/// The state of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The last call had an answer of the control plane; none = there was no call yet.
    pub reachable: Option<bool>,
    /// Whether the credential is accepted.
    pub access: Access,
}

/// Whether the credential is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Yes, as far as is known.
    Accepted,
    /// 403: it is not for this cluster.
    Forbidden,
    /// 401: it is not accepted, and no other is.
    Refused,
}

impl Default for Health {
    fn default() -> Self {
        Self(watch::Sender::new(Connection { reachable: None, access: Access::Accepted }))
    }
}

#[expect(clippy::must_use_candidate, reason = "what was so before is for those who ask, not for all who tell")]
impl Health {
    /// A call succeeded. Gives what was so before.
    pub fn succeeded(&self) -> Connection {
        self.set(Connection { reachable: Some(true), access: Access::Accepted })
    }

    /// A call had no answer of the control plane. Gives what was so before.
    pub fn unreachable(&self) -> Connection {
        let access = self.now().access;
        self.set(Connection { reachable: Some(false), access })
    }

    /// The credential is not accepted. Gives what was so before.
    pub fn denied(&self, access: Access) -> Connection {
        self.set(Connection { reachable: Some(true), access })
    }

    /// How it is.
    #[must_use]
    pub fn now(&self) -> Connection {
        *self.0.borrow()
    }

    /// Tells of every change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Connection> {
        self.0.subscribe()
    }

    fn set(&self, connection: Connection) -> Connection {
        let before = self.now();
        self.0.send_if_modified(|held| {
            let is_new = *held != connection;
            *held = connection;
            is_new
        });
        before
    }
}

#[cfg(test)]
mod tests {
    use super::{Access, Health};

    #[test]
    fn a_network_error_never_touches_access() {
        let health = Health::default();
        health.denied(Access::Refused);
        health.unreachable();
        assert_eq!(health.now().access, Access::Refused);
        let changes = health.subscribe();
        health.unreachable();
        assert!(!changes.has_changed().unwrap(), "nothing changed");
        health.succeeded();
        assert!(changes.has_changed().unwrap());
        assert_eq!(health.now().access, Access::Accepted);
    }
}

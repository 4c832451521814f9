//! The status in one line: what `pullet status` ends with, and what a supervisor shows.

use std::borrow::Cow;

use super::{ConnectionState, Status};

impl Status {
    /// What is wrong, what the agent does about it, what the person can do.
    #[must_use]
    pub fn fault(&self, now: u64) -> Option<String> {
        let (connection, traffic) = (&self.connection, &self.traffic);
        if traffic.monthly_budget.is_some_and(|budget| traffic.this_month.sum() >= budget) {
            return Some(
                "no polls and no events until the next month: the monthly budget is used up; results still go out (raise \
                 monthly_budget to change that)"
                    .to_owned(),
            );
        }
        let why = if connection.fault.is_empty() { "no answer came" } else { &connection.fault };
        let has_ended = |end: i64| u64::try_from(end).unwrap_or(0) <= now;
        match connection.state {
            ConnectionState::Connected => self.trust.fault().map(str::to_owned),
            _ if connection.certificate_ends.is_some_and(|end| has_ended(end.unix_seconds())) => Some(format!(
                "the client certificate has ended: {why}; another one is asked for by itself where mtls is on, otherwise renew the \
                 files of client_cert and client_key"
            )),
            ConnectionState::Starting => Some("not connected yet: there was no answer since the start".to_owned()),
            ConnectionState::Disconnected | ConnectionState::Unreachable => Some(format!(
                "not connected since {}: {why}; it is tried again by itself, and at once after kill -HUP {}",
                connection.since, self.pid
            )),
            ConnectionState::Forbidden => Some(
                "no jobs: the control plane does not let this agent act for this cluster (403); restore its access there, or \
                 register it anew (pullet register)"
                    .to_owned(),
            ),
            ConnectionState::Refused => Some(
                "no jobs: the control plane does not accept the credential (401); register this node anew with a one-time \
                 token (pullet register)"
                    .to_owned(),
            ),
            ConnectionState::Unregistered => {
                Some(format!("not registered yet, and tries since {}: {why}", connection.since))
            }
        }
    }

    /// What is wrong, or that nothing is.
    #[must_use]
    pub fn line(&self, now: u64) -> Cow<'static, str> {
        self.fault(now).map_or(Cow::Borrowed("connected, waiting for jobs"), Cow::Owned)
    }
}

#[cfg(test)]
mod tests {
    use crate::status::tests::status;
    use crate::status::{ConnectionState, ConnectionStatus, Status};

    #[test]
    fn a_line_is_there_whatever_the_state() {
        assert_eq!(status().line(0), "connected, waiting for jobs");
        let connection =
            ConnectionStatus { state: ConnectionState::Unreachable, fault: "x".into(), ..status().connection };
        let line = Status { connection, ..status() }.line(0).into_owned();
        assert!(line.starts_with("not connected since 2027-01-15T08:00:00Z: x; "), "{line}");
    }
}

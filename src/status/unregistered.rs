//! What an agent says of itself before it has a credential: it has nothing yet but a control plane that it tries to reach.

use std::path::PathBuf;

use super::{
    BufferStatus, ConnectionState, ConnectionStatus, CredentialStatus, FlashStatus, JobsStatus, PollStatus, Sheet,
    Status, TrafficStatus, TrustStatus, VERSION, process_began,
};
use crate::clock;
use crate::metrics::{Bytes, Memory};
use crate::protocol::{ClusterId, Timestamp};

/// A registration that goes on, in the place of the status. The file goes with this value.
pub struct Waiting {
    sheet: Sheet,
    status: Status,
}

impl Waiting {
    /// Begins now. Nothing is written before something is told; that it cannot be written is said once, when there is a status.
    #[must_use]
    pub fn begin(path: Option<PathBuf>, endpoint: String, cluster: Option<&ClusterId>) -> Self {
        let mut sheet = Sheet::new(path);
        sheet.has_failed = true;
        Self { sheet, status: unregistered(endpoint, cluster) }
    }

    /// What the last attempt came to. One that came to the same writes nothing.
    pub fn tell(&mut self, why: String) {
        self.status.connection.fault = why;
        self.status.written_at = now();
        self.sheet.put(self.status.clone());
    }
}

fn now() -> Timestamp {
    Timestamp::from_unix_seconds(clock::unix_seconds())
}

fn unregistered(endpoint: String, cluster: Option<&ClusterId>) -> Status {
    let (now, none) = (now(), Bytes::default());
    Status {
        version: VERSION,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        process_began: process_began(std::process::id()).unwrap_or(0),
        started_at: now,
        written_at: now,
        cluster: cluster.map_or_else(String::new, ToString::to_string),
        endpoint,
        target: String::new(),
        unreported: 0,
        left_out: String::new(),
        connection: ConnectionStatus {
            state: ConnectionState::Unregistered,
            since: now,
            last_answer: None,
            fault: String::new(),
            certificate_ends: None,
            certificate_is_late: false,
        },
        poll: PollStatus { hold_seconds: 0, hold_state: String::new(), hold_failed_seconds: None },
        buffer: BufferStatus { reports: 0, events: 0, capacity: 0, lost: 0 },
        jobs: JobsStatus { open: 0, succeeded: 0, failed: 0, noop: 0, conflict: 0 },
        traffic: TrafficStatus {
            today: none,
            this_month: none,
            monthly_budget: None,
            cluster_today: none,
            cluster_this_month: none,
        },
        flash: FlashStatus::default(),
        journal_fault: String::new(),
        memory: Memory::default(),
        trust: TrustStatus::default(),
        credential: CredentialStatus::default(),
        clock: String::new(),
    }
}

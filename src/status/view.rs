//! How a running agent looks at itself, for whoever asks: the file of the status, and the metrics.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::trust::clock_state;
use super::{
    BufferStatus, ConnectionState, ConnectionStatus, CredentialStatus, FlashStatus, JobsStatus, PollStatus, Status,
    TrafficStatus, TrustStatus, VERSION, process_began,
};
use crate::clock;
use crate::job::gate::Gate;
use crate::job::run::Runner;
use crate::journal::Outbox;
use crate::journal::medium::FlashCounts;
use crate::limits;
use crate::link::deliver::Reports;
use crate::link::health::{Access, Standing};
use crate::link::hold::{Hold, Stage};
use crate::link::{Health, Keeper};
use crate::metrics::{Memory, Meter, Traffic};
use crate::protocol::Timestamp;
use crate::target::Target;

/// What the status is gathered from.
pub struct Sources {
    /// The name of this node.
    pub cluster: String,
    /// The control plane.
    pub endpoint: String,
    /// Where jobs take effect.
    pub target: String,
    /// The connection.
    pub health: Arc<Health>,
    /// How long a poll is held.
    pub hold: Arc<Mutex<Hold>>,
    /// What waits.
    pub outbox: Arc<Outbox>,
    /// What was posted.
    pub reports: Arc<Reports>,
    /// What is being worked.
    pub runner: Arc<Runner>,
    /// What jobs have to pass.
    pub gate: Arc<Gate>,
    /// The credential.
    pub keeper: Arc<Keeper>,
    /// Where jobs take effect, to be asked.
    pub observed: Arc<dyn Target>,
    /// What counts the bytes to the cluster.
    pub cluster_meter: Meter,
    /// What was wrong with the journal when it was opened.
    pub journal_fault: String,
}

/// Looks at the sources.
pub struct View {
    pub(crate) sources: Sources,
    started_at: Timestamp,
    process_began: u64,
    since: Instant,
    flash_before: FlashCounts,
    held: Mutex<Held>,
}

/// What a look leaves for the next one.
#[derive(Default)]
struct Held {
    cluster_traffic: Traffic,
    life: CredentialStatus,
}

impl View {
    /// What is counted an hour begins now.
    #[must_use]
    pub fn new(sources: Sources) -> Self {
        Self {
            started_at: Timestamp::from_unix_seconds(clock::unix_seconds()),
            process_began: process_began(std::process::id()).unwrap_or(0),
            since: Instant::now(),
            flash_before: sources.outbox.flash(),
            held: Mutex::default(),
            sources,
        }
    }

    /// As things are now.
    #[must_use]
    pub fn gather(&self) -> Status {
        let now = clock::unix_seconds();
        let sources = &self.sources;
        let mut held = self.held();
        // While it is being rotated it is what it was.
        held.life = sources.keeper.life().map_or(held.life, CredentialStatus::of);
        let budget = sources.reports.budget();
        let traffic = budget.traffic();
        held.cluster_traffic.read(sources.cluster_meter.total(), now);
        let hold = sources.hold.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let fill = sources.outbox.fill();
        let outcomes = sources.reports.outcomes();
        let ended = [outcomes.succeeded, outcomes.failed, outcomes.noop, outcomes.conflict].map(u64::from);
        let health = &sources.health;
        let certificate = health.certificate_end();
        Status {
            version: VERSION,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            process_began: self.process_began,
            started_at: self.started_at,
            written_at: Timestamp::from_unix_seconds(now),
            cluster: sources.cluster.clone(),
            endpoint: sources.endpoint.clone(),
            target: sources.target.clone(),
            unreported: sources.observed.unreported(),
            left_out: sources.observed.left_out(),
            connection: ConnectionStatus {
                state: state(health),
                since: health.since(),
                last_answer: health.answered_at(),
                fault: health.fault(),
                certificate_ends: certificate.map(|(end, _)| end),
                certificate_is_late: certificate.is_some_and(|(_, is_near)| is_near),
            },
            poll: PollStatus {
                hold_seconds: hold.length().as_secs(),
                hold_state: match hold.stage() {
                    Stage::Fixed => "fixed",
                    Stage::Searching => "searching",
                    Stage::Settled => "settled",
                }
                .to_owned(),
                hold_failed_seconds: hold.failed().map(|failed| failed.as_secs()),
            },
            buffer: BufferStatus {
                reports: fill.reports,
                events: fill.events,
                capacity: limits::STAGE_RECORDS,
                lost: fill.lost,
            },
            jobs: JobsStatus {
                open: sources.runner.open_jobs(),
                succeeded: outcomes.succeeded,
                failed: outcomes.failed,
                noop: outcomes.noop,
                conflict: outcomes.conflict,
            },
            traffic: TrafficStatus {
                today: traffic.today(),
                this_month: traffic.this_month(),
                monthly_budget: budget.limit(),
                cluster_today: held.cluster_traffic.today(),
                cluster_this_month: held.cluster_traffic.this_month(),
            },
            flash: FlashStatus::new(
                sources.outbox.flash(),
                self.flash_before,
                self.since.elapsed().as_secs(),
                ended.iter().sum(),
            ),
            journal_fault: sources.outbox.trouble().unwrap_or_else(|| sources.journal_fault.clone()),
            memory: Memory::default(),
            trust: TrustStatus::of(sources.gate.standing()),
            credential: held.life,
            clock: clock_state().to_owned(),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn state(health: &Health) -> ConnectionState {
    match (health.standing(), health.now().access) {
        (Standing::Connected, Access::Accepted) => ConnectionState::Connected,
        (Standing::Connected, Access::Forbidden) => ConnectionState::Forbidden,
        (Standing::Connected, Access::Refused) => ConnectionState::Refused,
        (Standing::Disconnected, _) => ConnectionState::Disconnected,
        (Standing::Starting, _) => ConnectionState::Starting,
        (Standing::Unreachable, _) => ConnectionState::Unreachable,
    }
}

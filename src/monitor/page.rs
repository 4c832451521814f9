//! The metrics, in the text format of Prometheus (version 0.0.4). docs/metrics.md says what each is good for.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use crate::clock;
use crate::limits;
use crate::metrics::Memory;
use crate::protocol::Timestamp;
use crate::status::{ConnectionState, Status, View};

/// The page as it grows, and the family of samples that it is at. Writing to a string does not fail.
struct Page(String, &'static str);

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

impl Page {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.1 = name;
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// Labels are ours: nothing in them has to be escaped.
    fn sample(&mut self, labels: &str, value: &dyn Display) {
        let _ = writeln!(self.0, "{}{labels} {value}", self.1);
    }

    fn value(&mut self, name: &'static str, kind: &str, help: &str, value: &dyn Display) {
        self.family(name, kind, help);
        self.sample("", value);
    }

    /// A time that is not known is left out, and its family with it.
    fn time(&mut self, name: &'static str, help: &str, time: Option<Timestamp>) {
        if let Some(time) = time {
            self.value(name, GAUGE, help, &time.unix_seconds());
        }
    }

    fn switch(&mut self, name: &'static str, help: &str, is_on: bool) {
        self.value(name, GAUGE, help, &u8::from(is_on));
    }
}

/// Where there is no line to the control plane only what is so of any process.
pub(super) fn write(view: Option<&View>, uptime: Duration) -> String {
    let mut page = Page(String::with_capacity(limits::METRICS_PAGE_BYTES), "");
    let status = view.map(View::gather);
    page.family(
        "vworkspace_operator_connectivity_state",
        GAUGE,
        "The line to the control plane: 1 connected, 0 not let in or failing since a short while, -1 disconnected.",
    );
    let connectivity = match status.as_ref().map(|status| status.connection.state) {
        Some(ConnectionState::Connected) => 1,
        Some(ConnectionState::Disconnected) | None => -1,
        Some(_) => 0,
    };
    page.sample("{mode=\"pull\"}", &connectivity);
    if let (Some(view), Some(status)) = (view, status) {
        line(&mut page, view, &status);
        jobs(&mut page, view, &status);
        journal(&mut page, view, &status);
        trust(&mut page, view, &status);
    }
    process(&mut page, uptime);
    page.0
}

fn line(page: &mut Page, view: &View, status: &Status) {
    let sources = &view.sources;
    let connection = &status.connection;
    page.time("pullet_last_answer_timestamp_seconds", "When the control plane last answered.", connection.last_answer);
    let polls = sources.health.polls();
    page.family("pullet_polls_total", COUNTER, "Polls that have ended, by whether the control plane answered.");
    page.sample("{result=\"answered\"}", &polls.answered);
    page.sample("{result=\"failed\"}", &polls.failed);
    page.value("pullet_poll_hold_seconds", GAUGE, "How long a poll is held.", &status.poll.hold_seconds);
    let budget = sources.reports.budget();
    let (control_plane, cluster) = (budget.total(), sources.cluster_meter.total());
    page.family("pullet_bytes_total", COUNTER, "Bytes on the wire, TLS included, by who is at the other end.");
    page.sample("{peer=\"control_plane\",direction=\"sent\"}", &control_plane.sent);
    page.sample("{peer=\"control_plane\",direction=\"received\"}", &control_plane.received);
    page.sample("{peer=\"cluster\",direction=\"sent\"}", &cluster.sent);
    page.sample("{peer=\"cluster\",direction=\"received\"}", &cluster.received);
    page.value(
        "pullet_month_bytes",
        GAUGE,
        "Bytes to and from the control plane in this month, in UTC.",
        &status.traffic.this_month.sum(),
    );
    if let Some(limit) = budget.limit() {
        page.value("pullet_month_budget_bytes", GAUGE, "Bytes that a month may have.", &limit);
    }
}

fn jobs(page: &mut Page, view: &View, status: &Status) {
    let sources = &view.sources;
    page.value(
        "vworkspace_operator_pull_job_lag_seconds",
        GAUGE,
        "Age of the oldest job that was fetched and is not applied yet; 0 where there is none.",
        &sources.runner.lag().as_secs(),
    );
    page.value("vworkspace_operator_applied_jobs_total", COUNTER, "Jobs that succeeded.", &sources.runner.succeeded());
    page.value("pullet_jobs_open", GAUGE, "Jobs being worked, or waiting to be ready.", &status.jobs.open);
    page.family("pullet_results_total", COUNTER, "Results that the control plane took, by outcome.");
    page.sample("{outcome=\"succeeded\"}", &status.jobs.succeeded);
    page.sample("{outcome=\"failed\"}", &status.jobs.failed);
    page.sample("{outcome=\"noop\"}", &status.jobs.noop);
    page.sample("{outcome=\"conflict\"}", &status.jobs.conflict);
    page.value(
        "pullet_jobs_refused_total",
        COUNTER,
        "Jobs that were refused for their signature, their encryption or what they ask for.",
        &sources.gate.refusals().0,
    );
    let (kinds, troubled) = sources.observed.kinds();
    page.value("pullet_kinds", GAUGE, "Kinds whose objects are reported on.", &kinds);
    page.value("pullet_kinds_troubled", GAUGE, "Kinds whose objects cannot be reported on at present.", &troubled);
    page.value(
        "pullet_objects_unreported_total",
        COUNTER,
        "Sightings of objects beyond those whose changes are told.",
        &status.unreported,
    );
}

fn journal(page: &mut Page, view: &View, status: &Status) {
    let fill = view.sources.outbox.fill();
    page.value(
        "vworkspace_operator_event_buffer_occupancy",
        GAUGE,
        "Events that wait to be posted, in memory and on the disk.",
        &fill.events,
    );
    page.value("pullet_reports_waiting", GAUGE, "Results and statuses of jobs that wait to be posted.", &fill.reports);
    page.value(
        "pullet_events_lost_total",
        COUNTER,
        "Events that were lost, in all that the journal knows.",
        &fill.lost,
    );
    page.value(
        "pullet_events_lost_at_most_total",
        COUNTER,
        "Events that may have been lost besides: at power cuts and in damaged pages.",
        &fill.lost_at_most,
    );
    let has_room = view.sources.outbox.has_room();
    page.switch("pullet_journal_has_room", "Whether the result of one more job has room.", has_room);
    page.switch(
        "pullet_journal_faulty",
        "Whether something is wrong with the journal.",
        !status.journal_fault.is_empty(),
    );
    let flash = status.flash;
    page.value("pullet_flash_writes_total", COUNTER, "Writes to the flash.", &flash.writes);
    page.value("pullet_flash_syncs_total", COUNTER, "Calls that made writes to the flash durable.", &flash.syncs);
    page.value("pullet_flash_written_bytes_total", COUNTER, "Bytes written to the flash.", &flash.bytes);
}

fn trust(page: &mut Page, view: &View, status: &Status) {
    let trust = &status.trust;
    if let Some(given) = view.sources.keeper.issued_at().or(status.credential.registered_at) {
        let age = clock::unix_seconds().cast_signed().saturating_sub(given.unix_seconds()).max(0);
        page.value(
            "vworkspace_operator_credential_age_seconds",
            GAUGE,
            "Since the credential in use was given, by registration or rotation.",
            &age,
        );
    }
    page.time(
        "pullet_credential_expiry_timestamp_seconds",
        "When the credential in use ends.",
        status.credential.ends_at,
    );
    page.time(
        "pullet_certificate_expiry_timestamp_seconds",
        "When the client certificate in use ends.",
        status.connection.certificate_ends,
    );
    page.switch("pullet_signatures_required", "Whether only signed jobs are done.", trust.signatures == "require");
    page.value("pullet_keyring_version", GAUGE, "Version of the pinned keyring; 0 = none is.", &trust.keyring_version);
    page.switch("pullet_trust_impaired", "Whether jobs that the owner signed may be refused.", trust.state != "ok");
}

fn process(page: &mut Page, uptime: Duration) {
    page.family("pullet_build_info", GAUGE, "The version that runs.");
    page.sample(concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), &1);
    let standing = clock::standing();
    page.switch("pullet_clock_confirmed", "Whether the time of this node is confirmed.", standing.is_confirmed());
    page.switch("pullet_clock_doubtful", "Whether jobs with an expiry wait for the time.", !standing.may_judge());
    page.value(
        "pullet_uptime_seconds",
        GAUGE,
        "How long the process has been running, whatever the clock says.",
        &uptime.as_secs(),
    );
    let memory = Memory::now();
    page.value("pullet_memory_bytes", GAUGE, "Resident memory.", &memory.rss_kb.saturating_mul(1_024));
    page.value(
        "pullet_memory_peak_bytes",
        GAUGE,
        "The most resident memory since the start.",
        &memory.rss_peak_kb.saturating_mul(1_024),
    );
}

#[cfg(test)]
mod tests {
    use super::write;
    use std::time::Duration;

    #[test]
    fn without_a_line_there_is_what_is_so_of_any_process() {
        let page = write(None, Duration::from_secs(61));
        assert!(page.contains("\nvworkspace_operator_connectivity_state{mode=\"pull\"} -1\n"), "{page}");
        assert!(page.contains("\n# TYPE pullet_uptime_seconds gauge\npullet_uptime_seconds 61\n"), "{page}");
        assert!(page.ends_with('\n') && !page.contains("pullet_jobs"), "{page}");
    }
}

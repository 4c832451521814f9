//! The reference control plane: a strict server of the agent protocol v1, for tests and for the demo.
//!
//! It shares no type and no text with the agent: a request is read by hand and refused (400) for whatever
//! the contract does not know, over real TLS with an authority of its own. It hands each token out once,
//! keeps clusters apart, hands a job out until it is acked, answers 409 to a second result, drops a second
//! event of the same key, and fails in every way that a [`Fault`] names.
//!
//! ```text
//! test ──▶ Testbed ──▶ Shared(State) ◀── server ◀── wire ◀── TLS, TCP
//!                                          │
//!                                          └─ route, check: what a request says
//! ```
//! `state` and `check` do no I/O; `server` knows sockets; `wire` alone knows how an answer is spoilt.

#![allow(dead_code, unused_imports, reason = "each program that includes the testbed uses a part of it")]

mod answer;
mod check;
mod credential;
mod fault;
mod issue;
pub(crate) mod job;
pub(crate) mod owner;
mod proxy;
mod random;
mod route;
mod server;
mod state;
pub(crate) mod tls;
mod traffic;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::ServerConfig;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpSocket;

pub(crate) use answer::{Answer, MEDIA_TYPE};
pub(crate) use credential::{MacRule, Proofs};
pub(crate) use fault::{Fault, RetryAfter};
pub(crate) use issue::Issue;
pub(crate) use job::Job;
pub(crate) use owner::Owner;
pub(crate) use proxy::Proxy;
pub(crate) use route::Call;
pub(crate) use state::{Counts, EventRecord, JobRecord, Seen, State};
pub(crate) use tls::{Certificate, Clients, authority_of_another_program, server_pem};

use server::{Server, Shared};

/// How a testbed is started.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Path of the base URL: empty, or starting with `/` and not ending with one.
    pub(crate) base: String,
    /// How it behaves.
    pub(crate) behaviour: Behaviour,
    /// The certificate it shows.
    pub(crate) certificate: Certificate,
    /// Whose certificates a client must show; none = it is not asked for one.
    pub(crate) clients: Option<Arc<Clients>>,
    /// Whether it speaks `http://` instead of `https://`.
    pub(crate) plain_http: bool,
    /// The versions of TLS it speaks.
    pub(crate) tls_versions: tls::Versions,
    /// Port; 0 = whichever is free. It stays the same while the server goes down and up.
    pub(crate) port: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            base: String::new(),
            behaviour: Behaviour::default(),
            certificate: Certificate::Good,
            clients: None,
            plain_http: false,
            tls_versions: rustls::ALL_VERSIONS,
            port: 0,
        }
    }
}

/// How a testbed behaves towards everybody; can be changed while it runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behaviour {
    /// Knows the additions of chapter 2 in a registration. Without it the server is an old one that knows the
    /// fixed contract alone and refuses them with `UnknownField`.
    pub(crate) additions: bool,
    /// What becomes of certificate requests, where it issues certificates.
    pub(crate) issue: Issue,
    /// From when to when such a certificate is valid, in seconds from its issue.
    pub(crate) certificate_life: (i64, i64),
    /// How long bearers live; none = for ever, and no `expiresAt`.
    pub(crate) bearer_life: Option<Duration>,
    /// How long the old bearer works after a rotation.
    pub(crate) bearer_overlap: Duration,
    /// Which MACs it wants.
    pub(crate) mac: MacRule,
    /// Whether a bearer that has ended may be rotated with a proof of possession.
    pub(crate) proofs: Proofs,
    /// When it wishes bearers to be rotated, from their issue on: `rotateAfter`.
    pub(crate) rotate_after: Option<Duration>,
    /// Most jobs of one answer; none = all there are.
    pub(crate) jobs_per_answer: Option<usize>,
    /// `"jobs": null` when there are none.
    pub(crate) null_jobs: bool,
    /// What a strict reader trips over, in every answer: unknown members, white space around tokens, the
    /// year 1. The jobs that [`Testbed::apply`] and its like make are [`Job::odd`], too.
    pub(crate) odd: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            additions: true,
            issue: Issue::Good,
            certificate_life: (-60, 30 * 24 * 3600),
            bearer_life: None,
            bearer_overlap: Duration::from_mins(1),
            mac: MacRule::default(),
            proofs: Proofs::default(),
            rotate_after: None,
            jobs_per_answer: None,
            null_jobs: false,
            odd: false,
        }
    }
}

/// A control plane on a port of the loopback. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Testbed {
    shared: Arc<Shared>,
    tls: Option<Arc<ServerConfig>>,
    ca_pem: String,
    directory: TempDir,
    base: String,
    port: u16,
    /// Holds the port as long as the testbed lives, so that nobody else gets it between down and up.
    _held: TcpSocket,
    line: Line,
}

/// Whether anybody can connect.
#[derive(Debug)]
enum Line {
    /// Connections are refused; the port is kept.
    Down(TcpSocket),
    /// In between, and after a change that did not succeed.
    Lost,
    /// The server runs.
    Up(Server),
}

impl Testbed {
    /// Starts with TLS, a certificate that is right and no oddities.
    pub(crate) fn start() -> Self {
        Self::with(Options::default())
    }

    /// Starts.
    pub(crate) fn with(options: Options) -> Self {
        let (ca_pem, tls) = tls::make(options.certificate, options.tls_versions, options.clients.as_deref());
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        std::fs::write(directory.path().join("ca.pem"), &ca_pem).expect("the CA file can be written");
        let held = server::hold_port(options.port).expect("the port is free");
        let port = held.local_addr().expect("a bound socket has an address").port();
        let socket = server::hold_port(port).expect("a port that is held can be held twice");
        let issuer = options.clients.filter(|clients| clients.issues());
        let shared = Shared::new(options.base.clone(), State::new(options.behaviour, issuer));
        let tls = (!options.plain_http).then_some(tls);
        let line = Line::Down(socket);
        let mut testbed = Self { shared, tls, ca_pem, directory, base: options.base, port, _held: held, line };
        testbed.up();
        testbed
    }

    /// Shows another certificate, by another authority, to everybody who connects from now on. Gives the authority.
    pub(crate) fn change_certificate(&mut self, certificate: Certificate) -> String {
        let (ca_pem, tls) = tls::make(certificate, rustls::ALL_VERSIONS, None);
        self.show(tls);
        ca_pem
    }

    /// Another authority, and what [`Testbed::show`] takes to change over to it.
    pub(crate) fn next_authority(clients: Option<&Clients>) -> (String, Arc<ServerConfig>) {
        tls::make(Certificate::Good, rustls::ALL_VERSIONS, clients)
    }

    /// Ends every connection, and shows another certificate from now on.
    pub(crate) fn show(&mut self, tls: Arc<ServerConfig>) {
        self.down();
        self.tls = Some(tls);
        self.up();
    }

    /// The base URL by address.
    pub(crate) fn endpoint(&self) -> String {
        self.url("127.0.0.1")
    }

    /// The base URL by name.
    pub(crate) fn endpoint_by_name(&self) -> String {
        self.url("localhost")
    }

    fn url(&self, host: &str) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{host}:{}{}", self.port, self.base)
    }

    /// The authority to trust, in PEM.
    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// A file with [`Testbed::ca_pem`], there for as long as the testbed.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A directory for what belongs to this testbed, removed with it.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    // Admission.

    /// A one-time token, for one cluster or for whichever the agent names.
    pub(crate) fn issue_token(&self, cluster: Option<&str>) -> String {
        self.shared.change(|state| state.issue_token(cluster))
    }

    /// A long-lived bearer without a registration, for a raw client.
    pub(crate) fn issue_bearer(&self, cluster: &str) -> String {
        self.shared.change(|state| state.issue_bearer(cluster))
    }

    /// Ends every bearer of a cluster at once: 401 from now on.
    pub(crate) fn revoke(&self, cluster: &str) {
        self.shared.change(|state| state.end_bearers(cluster, Duration::ZERO));
    }

    /// Authorities that come with each new credential from now on.
    pub(crate) fn give_authorities(&self, bundle: Option<String>) {
        self.shared.change(|state| state.ca_bundle = bundle);
    }

    /// The public X25519 key that a cluster's node registered, in base64url.
    pub(crate) fn payload_key_of(&self, cluster: &str) -> Option<String> {
        self.shared.read(|state| state.payload_key_of(cluster).map(str::to_owned))
    }

    /// The public Ed25519 key that a cluster's node registered, in base64url.
    pub(crate) fn identity_of(&self, cluster: &str) -> Option<String> {
        self.shared.read(|state| state.identity_of(cluster).map(str::to_owned))
    }

    /// Changes how the testbed behaves.
    pub(crate) fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        self.shared.change(|state| change(&mut state.behaviour));
    }

    // Jobs.

    /// Enqueues a [`Job`] or any other JSON and gives its id, empty if it has none. One of a known id is
    /// handed out once more with its new content.
    pub(crate) fn enqueue(&self, cluster: &str, job: impl Into<Value>) -> String {
        let job: Value = job.into();
        let id = job.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        self.enqueue_text(cluster, &id, job.to_string());
        id
    }

    /// Enqueues several at once, so that they come in one answer.
    pub(crate) fn enqueue_all<J: Into<Value>>(&self, cluster: &str, jobs: impl IntoIterator<Item = J>) -> Vec<String> {
        let jobs: Vec<Value> = jobs.into_iter().map(Into::into).collect();
        self.shared.change(|state| {
            let enqueue = |job: &Value| {
                let id = job.get("id").and_then(Value::as_str).unwrap_or_default();
                state.enqueue(cluster, id, job.to_string());
                id.to_owned()
            };
            jobs.iter().map(enqueue).collect()
        })
    }

    /// Enqueues a text as it is, JSON or not; acks and results for `id` are about it.
    pub(crate) fn enqueue_text(&self, cluster: &str, id: &str, text: String) {
        self.shared.change(|state| state.enqueue(cluster, id, text));
    }

    /// Enqueues an `apply` and gives its id.
    pub(crate) fn apply(&self, cluster: &str, manifest: Value) -> String {
        self.enqueue_plain(cluster, Job::apply(manifest))
    }

    /// Enqueues a `delete` and gives its id.
    pub(crate) fn delete(&self, cluster: &str, api_version: &str, kind: &str, namespace: &str, name: &str) -> String {
        self.enqueue_plain(cluster, Job::delete(api_version, kind, namespace, name))
    }

    /// Enqueues an `intent` and gives the job's id; `members` is what it has beside its name, or null.
    pub(crate) fn intent(&self, cluster: &str, intent: &str, members: Value) -> String {
        self.enqueue_plain(cluster, Job::intent(intent, members))
    }

    fn enqueue_plain(&self, cluster: &str, job: Job) -> String {
        let odd = self.shared.read(|state| state.behaviour.odd);
        self.enqueue(cluster, if odd { job.odd() } else { job })
    }

    /// Hands a job out once more, acked or finished or not.
    pub(crate) fn redeliver(&self, id: &str) {
        assert!(self.shared.change(|state| state.redeliver(id)), "there is no job {id}");
    }

    // Faults.

    /// A fault for the next `times` requests of a call.
    pub(crate) fn fault(&self, call: Call, times: u32, fault: Fault) {
        self.shared.change(|state| state.faults.add(call, Some(times), fault));
    }

    /// A fault for every request of a call until [`Testbed::clear_faults`].
    pub(crate) fn fault_until_cleared(&self, call: Call, fault: Fault) {
        self.shared.change(|state| state.faults.add(call, None, fault));
    }

    /// Ends all faults that have not hit a request yet.
    pub(crate) fn clear_faults(&self) {
        self.shared.change(|state| state.faults.clear());
    }

    /// Answers the next poll at once with 200, our media type and these bytes.
    pub(crate) fn raw_answer(&self, body: impl Into<Bytes>) {
        self.fault(Call::Jobs, 1, Fault::Answer(Answer::text(body)));
    }

    /// Cuts every connection there is, held polls among them; new ones are accepted.
    pub(crate) fn cut_connections(&self) {
        self.shared.cut_connections();
    }

    /// Takes the server down: connections are cut, new ones refused. What it knows stays.
    pub(crate) fn down(&mut self) {
        if matches!(self.line, Line::Up(_)) {
            // The server has to let go of the port before it can be held.
            self.line = Line::Lost;
            self.line = Line::Down(server::hold_port(self.port).expect("the port can be kept"));
        }
    }

    /// Takes the server up again on the same port.
    pub(crate) fn up(&mut self) {
        self.line = match std::mem::replace(&mut self.line, Line::Lost) {
            Line::Down(socket) => {
                let server = Server::start(socket, self.tls.clone(), Arc::clone(&self.shared));
                Line::Up(server.expect("the server can be started"))
            }
            line => line,
        };
    }

    // What happened.

    /// A job and what became of it.
    pub(crate) fn job(&self, id: &str) -> JobRecord {
        let job = self.shared.read(|state| state.jobs.iter().find(|job| job.id == id).cloned());
        job.unwrap_or_else(|| panic!("there is no job {id}"))
    }

    /// How many acks of a job were accepted.
    pub(crate) fn acks(&self, id: &str) -> usize {
        self.job(id).acks.len()
    }

    /// The statuses of a job.
    pub(crate) fn statuses(&self, id: &str) -> Vec<Value> {
        self.job(id).statuses
    }

    /// The result of a job, if there is one.
    pub(crate) fn result(&self, id: &str) -> Option<Value> {
        self.job(id).result
    }

    /// The events that were kept.
    pub(crate) fn events(&self) -> Vec<EventRecord> {
        self.shared.read(|state| state.events.clone())
    }

    /// How many events were dropped because their key was known.
    pub(crate) fn repeated_events(&self) -> usize {
        self.shared.read(|state| state.repeated_events)
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.shared.read(|state| state.requests.clone())
    }

    /// The requests of one call so far.
    pub(crate) fn requests_of(&self, call: Call) -> Vec<Seen> {
        let matches = |seen: &&Seen| call == Call::Any || seen.call == Some(call);
        self.shared.read(|state| state.requests.iter().filter(matches).cloned().collect())
    }

    /// Connections, handshakes, polls.
    pub(crate) fn counts(&self) -> Counts {
        self.shared.read(|state| state.counts)
    }

    /// Requests that broke the contract. Empty after a test of a sound agent.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.shared.read(|state| state.violations.clone())
    }

    // Waiting.

    /// Waits until `look` finds something.
    ///
    /// # Panics
    /// With all that is known when the time is over; `what` says what was waited for.
    pub(crate) fn wait_for<T>(&self, what: &str, timeout: Duration, look: impl FnMut(&State) -> Option<T>) -> T {
        self.try_wait_for(timeout, look).unwrap_or_else(|| {
            let dump = self.shared.read(State::dump);
            panic!("waited {timeout:?} in vain for {what}\n{dump}");
        })
    }

    /// As [`Testbed::wait_for`], without a panic.
    pub(crate) fn try_wait_for<T>(&self, timeout: Duration, look: impl FnMut(&State) -> Option<T>) -> Option<T> {
        self.shared.wait(timeout, look)
    }

    /// Waits for the ack of a job.
    pub(crate) fn ack_of(&self, id: &str, timeout: Duration) {
        self.wait_for(&format!("the ack of {id}"), timeout, |state| {
            state.jobs.iter().find(|job| job.id == id && !job.acks.is_empty()).map(|_| ())
        });
    }

    /// Waits for the result of a job.
    pub(crate) fn result_of(&self, id: &str, timeout: Duration) -> Value {
        self.wait_for(&format!("the result of {id}"), timeout, |state| {
            state.jobs.iter().find(|job| job.id == id)?.result.clone()
        })
    }

    /// Waits for an event.
    pub(crate) fn event(&self, what: &str, timeout: Duration, fits: impl Fn(&Value) -> bool) -> Value {
        self.wait_for(what, timeout, |state| {
            state.events.iter().map(|record| &record.event).find(|event| fits(event)).cloned()
        })
    }

    /// Waits until this many polls came since the start.
    pub(crate) fn polls(&self, count: usize, timeout: Duration) {
        self.wait_for(&format!("{count} polls"), timeout, |state| (state.counts.polls >= count).then_some(()));
    }

    /// Waits until a poll is held.
    pub(crate) fn held_poll(&self, timeout: Duration) {
        self.wait_for("a held poll", timeout, |state| (state.counts.held > 0).then_some(()));
    }
}

//! The timeline: what the control plane saw, in plain words.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::testbed::owner::{Owner, encrypted, sha256};
use crate::testbed::{Call, Job, JobRecord, State, Testbed};
use crate::{CLUSTER, Failure};

/// How often the control plane is asked for news while something is awaited.
const TICK: Duration = Duration::from_millis(20);

/// Who speaks, or is spoken to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Who {
    /// The agent.
    Agent,
    /// The control plane.
    ControlPlane,
    /// The person at the keyboard.
    You,
}

/// How a job has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// `failed`.
    Failed,
    /// `noop`.
    Noop,
    /// `succeeded`.
    Succeeded,
    /// `succeeded`, or `failed` because the cluster does not know the kind.
    SucceededOrUnknownKind,
}

/// What was told so far.
pub(crate) struct Story {
    since: Instant,
    /// Signs the jobs; the control plane cannot.
    owner: Owner,
    told_requests: BTreeSet<usize>,
    told_events: usize,
    told_jobs: BTreeMap<String, Told>,
    /// Whether the next poll is worth a line.
    polls: bool,
}

/// What was told of a job.
#[derive(Default)]
struct Told {
    title: String,
    offered: bool,
    acked: bool,
    statuses: usize,
    closed: bool,
}

/// A line before it is printed.
struct Line(Instant, Who, Who, String);

impl Story {
    /// A story that begins now, with jobs of this owner.
    pub(crate) fn new(owner: Owner) -> Self {
        Self {
            since: Instant::now(),
            owner,
            told_requests: BTreeSet::new(),
            told_events: 0,
            told_jobs: BTreeMap::new(),
            polls: true,
        }
    }

    /// A heading.
    #[allow(clippy::unused_self, reason = "the story is what prints")]
    pub(crate) fn chapter(&self, title: &str) {
        println!("\n{title}");
    }

    /// A line that no request tells.
    pub(crate) fn say(&self, from: Who, to: Who, what: &str) {
        self.print(&Line(Instant::now(), from, to, what.to_owned()));
    }

    /// Something that happens to the line itself.
    pub(crate) fn mark(&self, what: &str) {
        println!("{:6.2} s  ────── {what} ──────", self.since.elapsed().as_secs_f64());
    }

    /// A remark.
    #[allow(clippy::unused_self, reason = "the story is what prints")]
    pub(crate) fn note(&self, what: &str) {
        println!("{:39}({what})", "");
    }

    /// Makes the next poll worth a line.
    pub(crate) fn expect_poll(&mut self) {
        self.polls = true;
    }

    /// Enqueues a job, signed, under an id that a person can read.
    pub(crate) fn order(&mut self, testbed: &Testbed, id: &str, title: &str, job: Job) {
        self.announce(testbed, Who::You, id, title);
        testbed.enqueue(CLUSTER, self.owner.sign(CLUSTER, job.with("id", id)));
    }

    /// As [`Story::order`], with a payload that only the node can read.
    pub(crate) fn order_sealed(&mut self, testbed: &Testbed, id: &str, title: &str, job: Job) -> Result<(), Failure> {
        let key = testbed.try_wait_for(Duration::ZERO, |state| {
            let seen = state.requests.iter().rfind(|seen| seen.call == Some(Call::Register))?;
            serde_json::from_slice::<Value>(&seen.body).ok()?.get("publicKey").cloned()
        });
        let mut key = key.ok_or("the agent sent no key that payloads could be encrypted to")?;
        let canonical = format!(r#"{{"crv":"X25519","kty":"OKP","x":{}}}"#, key["x"]);
        key["kid"] = json!(sha256(canonical.as_bytes()));
        self.announce(testbed, Who::You, id, title);
        testbed.enqueue(CLUSTER, self.owner.sign(CLUSTER, encrypted(job.with("id", id), &key)));
        Ok(())
    }

    /// A job that the control plane makes up by itself.
    pub(crate) fn slip_in(&mut self, testbed: &Testbed, id: &str, title: &str, job: Job) {
        self.announce(testbed, Who::ControlPlane, id, title);
        testbed.enqueue(CLUSTER, job.with("id", id));
    }

    fn announce(&mut self, testbed: &Testbed, from: Who, id: &str, title: &str) {
        self.catch_up(testbed);
        self.say(from, Who::ControlPlane, &format!("{id}: {title}"));
        self.told_jobs.insert(id.to_owned(), Told { title: title.to_owned(), ..Told::default() });
    }

    /// Tells what happens until a job has its result.
    pub(crate) fn await_result(
        &mut self,
        testbed: &Testbed,
        id: &str,
        expected: Expected,
        timeout: Duration,
    ) -> Result<(), Failure> {
        let title = self.told_jobs.get(id).map(|told| told.title.clone()).unwrap_or_default();
        let result = self.wait_for(testbed, &format!("the result of {id} ({title})"), timeout, |state| {
            state.jobs.iter().find(|job| job.id == id)?.result.clone()
        })?;
        let text = |name: &str| result.get(name).and_then(Value::as_str).unwrap_or_default();
        let outcome = text("outcome");
        let fits = match expected {
            Expected::Failed => outcome == "failed",
            Expected::Noop => outcome == "noop",
            Expected::SucceededOrUnknownKind if is_unknown_kind(text("error")) => {
                self.note("this cluster has no such kind; with vWorkspace's definitions the job would succeed");
                true
            }
            Expected::Succeeded | Expected::SucceededOrUnknownKind => outcome == "succeeded",
        };
        if fits {
            return Ok(());
        }
        Err(format!("{id} ended otherwise than expected ({expected:?})"))
    }

    /// Tells what happens until `look` finds something.
    pub(crate) fn wait_for<T>(
        &mut self,
        testbed: &Testbed,
        what: &str,
        timeout: Duration,
        mut look: impl FnMut(&State) -> Option<T>,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + timeout;
        loop {
            let found = testbed.try_wait_for(TICK, &mut look);
            self.catch_up(testbed);
            match found {
                Some(found) => return Ok(found),
                None if Instant::now() < deadline => {}
                None => return Err(format!("waited {} s in vain for {what}", timeout.as_secs())),
            }
        }
    }

    /// Tells everything that was not told yet.
    pub(crate) fn catch_up(&mut self, testbed: &Testbed) {
        let news = testbed.try_wait_for(Duration::ZERO, |state| {
            let mut lines = self.requests(state);
            lines.extend(self.jobs(state));
            lines.extend(self.events(state));
            Some(lines)
        });
        let mut news = news.unwrap_or_default();
        news.sort_by_key(|line| line.0);
        for line in &news {
            self.print(line);
        }
    }

    fn requests(&mut self, state: &State) -> Vec<Line> {
        let mut lines = Vec::new();
        for (number, seen) in state.requests.iter().enumerate() {
            let poll = seen.call == Some(Call::Jobs);
            let answered = seen.answered.filter(|(_, status)| *status == 200);
            if !poll && answered.is_none() || !self.told_requests.insert(number) {
                continue;
            }
            let ask = |what: &str| Line(seen.at, Who::Agent, Who::ControlPlane, what.to_owned());
            let answer = |what: String| answered.map(|(at, _)| Line(at, Who::ControlPlane, Who::Agent, what));
            match seen.call {
                Some(Call::Jobs) if self.polls => {
                    self.polls = false;
                    lines.push(ask("is there work for me? I wait for the answer (long poll)"));
                }
                Some(Call::Register) => {
                    lines.push(ask("I am new; here is my one-time token"));
                    lines.extend(answer(format!("you are cluster {CLUSTER:?}; here is a credential of your own")));
                }
                Some(Call::Rotate) => {
                    lines.push(ask("a new credential, please"));
                    lines.extend(answer("here it is; the old one ends soon".to_owned()));
                }
                _ => {}
            }
        }
        lines
    }

    fn jobs(&mut self, state: &State) -> Vec<Line> {
        let mut lines = Vec::new();
        for job in &state.jobs {
            if let Some(told) = self.told_jobs.get_mut(&job.id) {
                tell_job(job, told, &mut lines);
            }
        }
        lines
    }

    fn events(&mut self, state: &State) -> Vec<Line> {
        let news = state.events.get(self.told_events..).unwrap_or_default();
        self.told_events = state.events.len();
        news.iter()
            .map(|record| Line(record.at, Who::Agent, Who::ControlPlane, describe_event(&record.event)))
            .collect()
    }

    fn print(&self, Line(at, from, to, what): &Line) {
        let seconds = at.saturating_duration_since(self.since).as_secs_f64();
        println!("{seconds:6.2} s  {:>13} → {:13} {what}", from.name(), to.name());
    }
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::ControlPlane => "control plane",
            Self::You => "you",
        }
    }
}

fn is_unknown_kind(error: &str) -> bool {
    error.contains("UnknownKind") || error.contains("CustomResourceDefinition")
}

fn tell_job(job: &JobRecord, told: &mut Told, lines: &mut Vec<Line>) {
    let id = &job.id;
    if let (Some(at), false) = (job.offered.first(), told.offered) {
        told.offered = true;
        lines.push(Line(*at, Who::ControlPlane, Who::Agent, format!("here is {id}")));
    }
    if let (Some(at), false) = (job.acks.first(), told.acked) {
        told.acked = true;
        lines.push(Line(*at, Who::Agent, Who::ControlPlane, format!("{id}: I take it")));
    }
    for status in job.statuses.iter().skip(told.statuses) {
        let phase = status.get("phase").and_then(Value::as_str).unwrap_or_default();
        let at = job.closed.unwrap_or_else(Instant::now);
        lines.push(Line(at, Who::Agent, Who::ControlPlane, format!("{id}: {}", phase.to_lowercase())));
    }
    told.statuses = job.statuses.len();
    if let (Some(at), Some(result), false) = (job.closed, &job.result, told.closed) {
        told.closed = true;
        lines.push(Line(at, Who::Agent, Who::ControlPlane, format!("{id}: {}", describe_result(result))));
    }
}

fn describe_result(result: &Value) -> String {
    let text = |pointer: &str| result.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let error = text("/error");
    let why = if error.is_empty() { String::new() } else { format!(" ({error})") };
    match text("/outcome") {
        "succeeded" if result.get("appliedRef").is_some() => {
            let namespace = text("/appliedRef/namespace");
            let slash = if namespace.is_empty() { "" } else { "/" };
            let object = format!("{} {namespace}{slash}{}", text("/appliedRef/kind"), text("/appliedRef/name"));
            format!("✓ done, {object}{why}")
        }
        "succeeded" => format!("✓ done{why}"),
        "noop" => format!("– nothing to do{why}"),
        "failed" => format!("✗ not done{why}"),
        "conflict" => format!("✗ somebody else owns what it would change{why}"),
        other => format!("{other}{why}"),
    }
}

fn describe_event(event: &Value) -> String {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    match text("/kind") {
        "ClusterHeartbeat" => "I am alive (heartbeat)".to_owned(),
        "CredentialRotated" => "I use my new credential now".to_owned(),
        kind => format!("{kind}: {} {}", text("/resourceRef/kind"), text("/resourceRef/name")),
    }
}

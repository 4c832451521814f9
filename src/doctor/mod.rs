//! What is wrong with this node: checks that ask and look, and change nothing.
//!
//! Each area is looked at on a thread of its own and tells what it finds, check by check. Nobody is waited for longer than
//! [`limits::doctor::TIME`]: what has not been told by then is told for it.
//!
//! | area | checks | rests on |
//! |---|---|---|
//! | `line` | the way to the control plane | what lies before it: a name, then a connection, then TLS, then an answer |
//! | `disk` | the credential, the keyring, the state directory, the journal, the directory target | nothing |
//! | `node` | memory, kernel, the running agent | nothing |
//! | `cluster` | the API server, and what has to be there | an API server that answers |
//!
//! Nothing here takes a job, writes a file, holds a lock or uses a credential up. The one call with the bearer is a poll as
//! short as a poll can be, of which nothing is taken: what it brings comes again. It is made only where no agent is connected.

mod cluster;
mod disk;
mod line;
mod medium;
mod node;
mod owner;
mod report;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::limits;
use crate::link::provided;
use crate::status::{ConnectionState, Status};

pub use self::owner::{act_as, be_root_again, become_owner, other_owner, provide};
pub use self::report::{as_json, count, first, print, verdict};

/// One thing that is looked at. Their order is the one in which a person should mend what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// Where the control plane is said to be.
    Endpoint,
    /// The clock of this node.
    Clock,
    /// The name of the first hop.
    Dns,
    /// The proxy, where one is set.
    Proxy,
    /// The connection to the control plane.
    Tcp,
    /// Its certificate.
    Tls,
    /// Ours, where one is shown.
    Certificate,
    /// What it answers.
    Protocol,
    /// What the control plane gave.
    Credential,
    /// The keys of the owner.
    Keyring,
    /// Where that is kept.
    State,
    /// What that lies on.
    Medium,
    /// What waits.
    Journal,
    /// Where the files of the directory target go.
    Directory,
    /// The agent that runs here.
    Agent,
    /// What it may take.
    Memory,
    /// Processor and kernel.
    Machine,
    /// The cluster's API.
    ApiServer,
    /// Its version.
    Release,
    /// What the agent may do there.
    Rights,
    /// The custom resources.
    Definitions,
    /// The rules for whoever else writes.
    Admission,
    /// Whether another agent acts.
    Holder,
}

/// How a check ended, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It is as it should be.
    Ok,
    /// It could not be looked at, or there is nothing to look at.
    Skipped,
    /// It works, and is worth knowing.
    Note,
    /// It works, and will not for long, or not wholly.
    Warning,
    /// It does not work.
    Failed,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// By which check.
    pub check: Check,
    /// How it ended.
    pub verdict: Verdict,
    /// What was seen.
    pub seen: String,
    /// What to do about it; empty where there is nothing to do.
    pub mend: &'static str,
}

/// All checks with their names, and the area that looks at them.
const CHECKS: [(Check, &str, usize); 23] = [
    (Check::Endpoint, "endpoint", LINE),
    (Check::Clock, "clock", LINE),
    (Check::Dns, "dns", LINE),
    (Check::Proxy, "proxy", LINE),
    (Check::Tcp, "tcp", LINE),
    (Check::Tls, "tls", LINE),
    (Check::Certificate, "certificate", LINE),
    (Check::Protocol, "protocol", LINE),
    (Check::Credential, "credential", DISK),
    (Check::Keyring, "keyring", DISK),
    (Check::State, "state", DISK),
    (Check::Medium, "medium", DISK),
    (Check::Journal, "journal", DISK),
    (Check::Directory, "directory", DISK),
    (Check::Agent, "agent", NODE),
    (Check::Memory, "memory", NODE),
    (Check::Machine, "machine", NODE),
    (Check::ApiServer, "api-server", CLUSTER),
    (Check::Release, "k3s", CLUSTER),
    (Check::Rights, "rights", RIGHTS),
    (Check::Definitions, "definitions", CLUSTER),
    (Check::Admission, "admission", CLUSTER),
    (Check::Holder, "one-agent", CLUSTER),
];

/// What looks, each on a thread of its own.
const AREAS: [fn(&Patient, &Desk); 5] =
    [line::examine, disk::examine, node::examine, cluster::examine, cluster::examine_rights];

const LINE: usize = 0;
const DISK: usize = 1;
const NODE: usize = 2;
const CLUSTER: usize = 3;
const RIGHTS: usize = 4;

impl Check {
    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        CHECKS.iter().find(|(check, ..)| *check == self).map_or("", |(_, name, _)| name)
    }
}

/// What is looked at.
struct Patient {
    config: Config,
    /// What the running agent tells of itself.
    agent: Result<Status, String>,
    deadline: Instant,
}

impl Patient {
    /// What is left of the time, with some of it kept back for saying what was found.
    fn time(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now()).saturating_sub(limits::doctor::MARGIN)
    }

    /// What the API server gets to say one thing that the way to the control plane needs. One that swallows all questions
    /// leaves time for the way itself.
    fn secret_time(&self) -> Duration {
        self.time().saturating_sub(limits::doctor::WAY_TIME).min(limits::doctor::SECRET_TIME)
    }

    /// Whether no agent runs that would have made a journal.
    fn awaits_journal(&self) -> bool {
        self.agent.as_ref().map_or(true, |status| status.connection.state == ConnectionState::Unregistered)
    }

    /// The agent that runs and is connected.
    fn connected(&self) -> Option<&Status> {
        self.agent.as_ref().ok().filter(|status| status.connection.state == ConnectionState::Connected)
    }
}

/// Where findings are told.
#[derive(Default)]
struct Desk {
    findings: Mutex<Vec<Finding>>,
    changed: Condvar,
}

impl Desk {
    /// What was seen comes in parts: to put them together in one place keeps this program small.
    fn say(&self, check: Check, verdict: Verdict, seen: &[&str], mend: &'static str) {
        self.lock().push(Finding { check, verdict, seen: provided::named(seen.concat()), mend });
        self.changed.notify_all();
    }

    fn ok(&self, check: Check, seen: &[&str]) {
        self.say(check, Verdict::Ok, seen, "");
    }

    fn fail(&self, check: Check, seen: &[&str], mend: &'static str) {
        self.say(check, Verdict::Failed, seen, mend);
    }

    fn warn(&self, check: Check, seen: &[&str], mend: &'static str) {
        self.say(check, Verdict::Warning, seen, mend);
    }

    fn skip(&self, check: Check, why: &[&str]) {
        self.say(check, Verdict::Skipped, why, "");
    }

    /// For what rests on a check that failed.
    fn skip_because(&self, checks: &[Check], cause: Check) {
        for check in checks {
            self.skip(*check, &["because of ", cause.name()]);
        }
    }

    /// All that was told until the deadline.
    fn wait(&self, deadline: Instant) -> Vec<Finding> {
        let mut findings = self.lock();
        while findings.len() < CHECKS.len() {
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                break;
            };
            findings = self.changed.wait_timeout(findings, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        findings.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Finding>> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at everything. Is over [`limits::doctor::TIME`] after `begin` at the latest; threads that hang are left behind.
#[must_use]
pub fn examine(config: Config, agent: Result<Status, String>, begin: Instant) -> Vec<Finding> {
    let deadline = begin + limits::doctor::TIME;
    let patient = Arc::new(Patient { config, agent, deadline });
    let desk = Arc::new(Desk::default());
    for area in AREAS {
        let (patient, desk) = (Arc::clone(&patient), Arc::clone(&desk));
        start(Box::new(move || area(&patient, &desk)));
    }
    complete(desk.wait(deadline))
}

/// Each check once, in their order. Of what an area has not told, the first check is what it hangs at.
fn complete(mut told: Vec<Finding>) -> Vec<Finding> {
    let mut hangs = [None; AREAS.len()];
    let mut findings = Vec::with_capacity(CHECKS.len());
    for (check, _, area) in CHECKS {
        if let Some(at) = told.iter().position(|finding| finding.check == check) {
            findings.push(told.swap_remove(at));
            continue;
        }
        let finding = match hangs.get(area).copied().flatten() {
            None => {
                if let Some(hang) = hangs.get_mut(area) {
                    *hang = Some(check);
                }
                Finding { check, verdict: Verdict::Failed, seen: NO_END.to_owned(), mend: NO_END_MEND }
            }
            Some(cause) => {
                let seen = ["because of ", Check::name(cause)].concat();
                Finding { check, verdict: Verdict::Skipped, seen, mend: "" }
            }
        };
        findings.push(finding);
    }
    findings
}

const NO_END: &str = "it did not come to an end within 4 s";

const NO_END_MEND: &str = "look at what it asks: a server that is busy, or a disk (a network file system?) that hangs";

/// One kind of thread for all work.
fn start(work: Box<dyn FnOnce() + Send>) {
    thread::spawn(work);
}

/// What becomes of some work within a time; none when it takes longer, and then it goes on by itself.
fn within<T: Send + 'static>(time: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let done = Arc::new(Mutex::new(None));
    let place = Arc::clone(&done);
    wait_for(
        time,
        Box::new(move || {
            let found = work();
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        }),
    );
    done.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn wait_for(time: Duration, work: Box<dyn FnOnce() + Send>) {
    let end = Arc::new((Mutex::new(false), Condvar::new()));
    let told = Arc::clone(&end);
    start(Box::new(move || {
        work();
        *told.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        told.1.notify_all();
    }));
    let over = end.0.lock().unwrap_or_else(PoisonError::into_inner);
    drop(end.1.wait_timeout_while(over, time, |over| !*over));
}

/// A span for people.
fn span(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..120 => (seconds, " s"),
        120..7_200 => (seconds / 60, " min"),
        7_200..172_800 => (seconds / 3_600, " h"),
        _ => (seconds / 86_400, " days"),
    };
    let mut text = count.to_string();
    text.push_str(unit);
    text
}

/// The beginning of a file of the kernel or of the system; none where it cannot be read.
fn read(path: &str) -> Option<String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(limits::doctor::FILE_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// An error and what lies beneath it, in one line without control characters.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let beneath = error.to_string();
        if !text.contains(&beneath) {
            text.push_str(": ");
            text.push_str(&beneath);
        }
        source = error.source();
    }
    text
}

//! What the control plane knows, and what each call does to it. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};

use super::answer::{Answer, Refusal};
use super::check::Registration;
use super::credential::{self, MacRule, Once};
use super::fault::{Fault, Faults};
use super::issue;
use super::route::Call;
use super::tls::Clients;
use super::{Behaviour, job, random};

/// Everything the control plane knows.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// How it behaves towards everybody.
    pub(crate) behaviour: Behaviour,
    /// Jobs of all clusters in the order they were enqueued.
    pub(crate) jobs: Vec<JobRecord>,
    /// Events in the order they came, without those whose key was known.
    pub(crate) events: Vec<EventRecord>,
    /// Events that were dropped because their key was known.
    pub(crate) repeated_events: usize,
    /// Requests in the order they came.
    pub(crate) requests: Vec<Seen>,
    /// Requests that broke the contract, each in a sentence. A fault's own doing is not among them.
    pub(crate) violations: Vec<String>,
    /// Faults that wait for their requests.
    pub(crate) faults: Faults,
    /// What was counted.
    pub(crate) counts: Counts,
    /// MACs and proofs that were seen.
    pub(crate) once: Once,
    /// Who signs client certificates; none = it issues none.
    pub(crate) issuer: Option<Arc<Clients>>,
    /// Authorities that come with each new credential, `caBundle`.
    pub(crate) ca_bundle: Option<String>,
    tokens: BTreeMap<String, OneTimeToken>,
    bearers: BTreeMap<String, Bearer>,
    /// The public keys that each cluster's node registered last: identity, payload.
    node_keys: BTreeMap<String, (Option<String>, Option<String>)>,
    event_keys: BTreeSet<(String, String)>,
}

/// A job and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct JobRecord {
    /// For which cluster.
    pub(crate) cluster: String,
    /// Id; empty when the job has none that is a text. Such a job is handed out once: nobody can ack it.
    pub(crate) id: String,
    /// The job as it is sent.
    pub(crate) text: String,
    /// When it was handed out.
    pub(crate) offered: Vec<Instant>,
    /// When acks came that were accepted.
    pub(crate) acks: Vec<Instant>,
    /// Statuses.
    pub(crate) statuses: Vec<Value>,
    /// Result.
    pub(crate) result: Option<Value>,
    /// When the result came.
    pub(crate) closed: Option<Instant>,
    /// Hand it out once more, whatever became of it.
    again: bool,
}

/// An event that was kept.
#[derive(Clone, Debug)]
pub(crate) struct EventRecord {
    /// From which cluster.
    pub(crate) cluster: String,
    /// When it came.
    pub(crate) at: Instant,
    /// The event.
    pub(crate) event: Value,
}

/// A request as it came, and how it was answered. The bearer is left out.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// When it had come whole.
    pub(crate) at: Instant,
    /// Which call it was; none for a path that does not exist.
    pub(crate) call: Option<Call>,
    /// Method.
    pub(crate) method: String,
    /// Path as sent.
    pub(crate) path: String,
    /// Query as sent.
    pub(crate) query: Option<String>,
    /// Headers but `Authorization`, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// Body. That of a registration holds a one-time token.
    pub(crate) body: Vec<u8>,
    /// Number of the connection it came on, from 1.
    pub(crate) connection: usize,
    /// The client certificate of that connection, DER.
    pub(crate) certificate: Option<Arc<[u8]>>,
    /// When it was answered, with which status; none while it is held, and when a fault left it without.
    pub(crate) answered: Option<(Instant, u16)>,
    /// Body of the answer, whole, whatever a fault made of it.
    pub(crate) answer: Bytes,
    /// The fault that hit it.
    pub(crate) fault: Option<Fault>,
}

/// What was counted since the start, over all the times the server was up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Bytes that clients sent, TLS included.
    pub(crate) bytes_received: u64,
    /// Bytes that clients were sent, TLS included.
    pub(crate) bytes_sent: u64,
    /// Pieces in which these went, either way: one packet each, or several of a long one.
    pub(crate) pieces: u64,
    /// Connections accepted.
    pub(crate) connections: usize,
    /// TLS handshakes that came to their end.
    pub(crate) handshakes: usize,
    /// Of these, those that resumed a session.
    pub(crate) resumed: usize,
    /// TLS handshakes that failed.
    pub(crate) failed_handshakes: usize,
    /// Polls that came, hit by a fault or not.
    pub(crate) polls: usize,
    /// Polls that are held right now.
    pub(crate) held: usize,
}

#[derive(Debug)]
struct OneTimeToken {
    cluster: Option<String>,
    used: bool,
}

#[derive(Debug)]
struct Bearer {
    cluster: String,
    until: Option<Instant>,
    mac_key: Option<[u8; 32]>,
}

impl State {
    /// Knows nobody yet.
    pub(crate) fn new(behaviour: Behaviour, issuer: Option<Arc<Clients>>) -> Self {
        Self { behaviour, issuer, ..Self::default() }
    }

    /// Makes a one-time token, for one cluster or for whichever the agent names.
    pub(crate) fn issue_token(&mut self, cluster: Option<&str>) -> String {
        let token = random::hex(24);
        self.tokens.insert(token.clone(), OneTimeToken { cluster: cluster.map(str::to_owned), used: false });
        token
    }

    /// Makes a long-lived bearer without a registration.
    pub(crate) fn issue_bearer(&mut self, cluster: &str) -> String {
        self.issue_bearer_with(cluster, None)
    }

    fn issue_bearer_with(&mut self, cluster: &str, mac_key: Option<[u8; 32]>) -> String {
        let bearer = random::hex(32);
        let until = self.behaviour.bearer_life.map(|life| Instant::now() + life);
        self.bearers.insert(bearer.clone(), Bearer { cluster: cluster.to_owned(), until, mac_key });
        bearer
    }

    /// Lets every bearer of a cluster end after a time.
    pub(crate) fn end_bearers(&mut self, cluster: &str, after: Duration) {
        let end = Instant::now() + after;
        for bearer in self.bearers.values_mut().filter(|bearer| bearer.cluster == cluster) {
            bearer.until = Some(bearer.until.map_or(end, |until| until.min(end)));
        }
    }

    /// Takes a job in. One of a known id takes that job's place and is handed out once more.
    pub(crate) fn enqueue(&mut self, cluster: &str, id: &str, text: String) {
        match self.jobs.iter_mut().find(|job| !id.is_empty() && job.cluster == cluster && job.id == id) {
            Some(job) => {
                job.text = text;
                job.again = true;
            }
            None => self.jobs.push(JobRecord {
                cluster: cluster.to_owned(),
                id: id.to_owned(),
                text,
                offered: Vec::new(),
                acks: Vec::new(),
                statuses: Vec::new(),
                result: None,
                closed: None,
                again: false,
            }),
        }
    }

    /// Lets a job be handed out once more, whatever became of it; false when there is none of this id.
    pub(crate) fn redeliver(&mut self, id: &str) -> bool {
        let job = self.jobs.iter_mut().find(|job| job.id == id);
        job.map(|job| job.again = true).is_some()
    }

    /// `POST /register`, after the checks. `bearer` is that of the request.
    pub(crate) fn register(&mut self, bearer: &str, wish: &Registration) -> Result<Answer, Refusal> {
        if wish.token != bearer {
            return Err(Refusal::invalid("registrationToken is not the bearer"));
        }
        let token = self.tokens.get(bearer).filter(|token| !token.used);
        let token = token.ok_or_else(|| Refusal::new(401, "InvalidToken", "the token is unknown or used"))?;
        let cluster = match (&token.cluster, &wish.cluster) {
            (Some(ours), Some(theirs)) if ours != theirs => {
                return Err(Refusal::new(403, "WrongCluster", "the token is for another cluster"));
            }
            (Some(cluster), _) | (None, Some(cluster)) => cluster.clone(),
            (None, None) => format!("cluster-{}", random::hex(4)),
        };
        let credential = self.new_credential(&cluster, Some(&cluster), wish.certificate_request.as_deref())?;
        self.tokens.entry(bearer.to_owned()).and_modify(|token| token.used = true);
        self.node_keys.insert(cluster, (wish.identity.clone(), wish.payload_key.clone()));
        Ok(Answer::json(&credential))
    }

    /// `POST /credentials/rotate`, after the checks.
    pub(crate) fn rotate(&mut self, cluster: &str, request: Option<&str>) -> Result<Answer, Refusal> {
        Ok(Answer::json(&self.new_credential(cluster, None, request)?))
    }

    fn new_credential(&mut self, cluster: &str, named: Option<&str>, request: Option<&str>) -> Result<Value, Refusal> {
        let Behaviour { issue, certificate_life, .. } = self.behaviour;
        let certificate = match (&self.issuer, request) {
            (Some(issuer), Some(request)) => issue::issue(issuer, cluster, request, issue, certificate_life)?,
            _ => None,
        };
        self.end_bearers(cluster, self.behaviour.bearer_overlap);
        let mac_key = (self.behaviour.mac == MacRule::V2).then(random::bytes);
        let bearer = self.issue_bearer_with(cluster, mac_key);
        let odd = self.behaviour.odd;
        let dressed = |text: &str| if odd { format!(" {text}\n") } else { text.to_owned() };
        let mut answer = json!({"token": dressed(&bearer)});
        if let Some(named) = named {
            answer["clusterId"] = json!(dressed(named));
        }
        if odd {
            answer["expiresAt"] = json!("0001-01-01T00:00:00Z");
            answer["x-tenant"] = json!({"token": "not this one", "clusterId": ["nor this"]});
        }
        if let Some(key) = mac_key {
            answer["macKey"] = json!(credential::encode(&key));
        }
        if let Some(certificate) = certificate {
            answer["clientCertificate"] = json!(certificate);
        }
        if let Some(bundle) = &self.ca_bundle {
            answer["caBundle"] = json!(bundle);
        }
        if let Some(after) = self.behaviour.rotate_after {
            answer["rotateAfter"] = json!(job::timestamp(after.as_secs().cast_signed()));
        }
        if let Some(life) = self.behaviour.bearer_life {
            answer["expiresAt"] = json!(job::timestamp(life.as_secs().cast_signed()));
        }
        Ok(answer)
    }

    /// Whose bearer this is.
    pub(crate) fn authenticate(&self, bearer: &str) -> Result<String, Refusal> {
        let alive = |bearer: &&Bearer| bearer.until.is_none_or(|until| Instant::now() < until);
        let bearer = self.bearers.get(bearer).filter(alive);
        bearer
            .map(|bearer| bearer.cluster.clone())
            .ok_or_else(|| Refusal::new(401, "Unauthenticated", "the bearer is unknown or has ended"))
    }

    /// Whose bearer this is or was, and the key for MACs that was given with it.
    pub(crate) fn issued(&self, bearer: &str) -> Option<(String, Option<[u8; 32]>)> {
        self.bearers.get(bearer).map(|bearer| (bearer.cluster.clone(), bearer.mac_key))
    }

    /// The public identity key that a cluster's node registered.
    pub(crate) fn identity_of(&self, cluster: &str) -> Option<&str> {
        self.node_keys.get(cluster)?.0.as_deref()
    }

    /// The public key that payloads for a cluster are encrypted to.
    pub(crate) fn payload_key_of(&self, cluster: &str) -> Option<&str> {
        self.node_keys.get(cluster)?.1.as_deref()
    }

    /// `GET /jobs`: the answer if there are jobs for the cluster now.
    pub(crate) fn poll(&mut self, cluster: &str) -> Option<Answer> {
        let now = Instant::now();
        let most = self.behaviour.jobs_per_answer.unwrap_or(usize::MAX);
        let due = self.jobs.iter_mut().filter(|job| job.cluster == cluster && job.is_due()).take(most);
        let texts: Vec<&str> = due
            .map(|job| {
                job.offered.push(now);
                job.again = false;
                job.text.as_str()
            })
            .collect();
        let list = format!("[{}]", texts.join(","));
        (!texts.is_empty()).then(|| self.job_list(&list))
    }

    /// `GET /jobs` when its time is over.
    pub(crate) fn no_jobs(&self) -> Answer {
        self.job_list(if self.behaviour.null_jobs { "null" } else { "[]" })
    }

    fn job_list(&self, list: &str) -> Answer {
        Answer::text(if self.behaviour.odd {
            format!(r#"{{"x-page":{{"jobs":[],"of":1}},"jobs":{list},"x-end":null,"serverTime":1.5}}"#)
        } else {
            format!(r#"{{"jobs":{list}}}"#)
        })
    }

    /// `POST /jobs/{id}/ack`, after the checks.
    pub(crate) fn ack(&mut self, cluster: &str, id: &str) -> Result<Answer, Refusal> {
        let job = self.job_of(cluster, id)?;
        if job.result.is_some() {
            return Err(Refusal::new(409, "AlreadyClosed", "the job has a result"));
        }
        job.acks.push(Instant::now());
        Ok(Answer::done())
    }

    /// `POST /jobs/{id}/status`, after the checks.
    pub(crate) fn status(&mut self, cluster: &str, id: &str, status: Value) -> Result<Answer, Refusal> {
        self.open_job_of(cluster, id)?.statuses.push(status);
        Ok(Answer::done())
    }

    /// `POST /jobs/{id}/result`, after the checks.
    pub(crate) fn result(&mut self, cluster: &str, id: &str, result: Value) -> Result<Answer, Refusal> {
        let job = self.open_job_of(cluster, id)?;
        job.result = Some(result);
        job.closed = Some(Instant::now());
        Ok(Answer::done())
    }

    /// `POST /events`, after the checks.
    pub(crate) fn keep_events(&mut self, cluster: &str, events: Vec<Value>) -> Answer {
        for event in events {
            let key = event.get("eventKey").and_then(Value::as_str);
            if key.is_none_or(|key| self.event_keys.insert((cluster.to_owned(), key.to_owned()))) {
                self.events.push(EventRecord { cluster: cluster.to_owned(), at: Instant::now(), event });
            } else {
                self.repeated_events += 1;
            }
        }
        Answer::done()
    }

    fn job_of(&mut self, cluster: &str, id: &str) -> Result<&mut JobRecord, Refusal> {
        self.jobs
            .iter_mut()
            .find(|job| job.cluster == cluster && job.id == id)
            .ok_or_else(|| Refusal::new(404, "UnknownJob", format!("there is no job {id}")))
    }

    /// A job that was acked and has no result.
    fn open_job_of(&mut self, cluster: &str, id: &str) -> Result<&mut JobRecord, Refusal> {
        let job = self.job_of(cluster, id)?;
        if job.result.is_some() {
            return Err(Refusal::new(409, "AlreadyClosed", "the job has a result"));
        }
        if job.acks.is_empty() {
            return Err(Refusal::invalid(format!("job {id} was not acked")));
        }
        Ok(job)
    }

    /// What a person wants to see when a test waited in vain.
    pub(crate) fn dump(&self) -> String {
        let mut lines = vec![format!("{:?}, {} faults left", self.counts, self.faults.len())];
        lines.extend(self.violations.iter().map(|violation| format!("violation: {violation}")));
        lines.extend(self.jobs.iter().rev().take(20).rev().map(|job| {
            format!(
                "job {} of {}: offered {}, acked {}, {} statuses, result {}",
                job.id,
                job.cluster,
                job.offered.len(),
                job.acks.len(),
                job.statuses.len(),
                job.result.as_ref().map_or_else(|| "none".to_owned(), Value::to_string),
            )
        }));
        let now = Instant::now();
        lines.extend(self.requests.iter().rev().take(30).rev().map(|seen| {
            format!(
                "{:>8.3} s ago: {} {} → {:?} {}",
                now.duration_since(seen.at).as_secs_f64(),
                seen.method,
                seen.path,
                seen.answered.map(|(_, status)| status),
                seen.fault.as_ref().map(|fault| format!("{fault:?}")).unwrap_or_default(),
            )
        }));
        lines.join("\n")
    }
}

impl JobRecord {
    fn is_due(&self) -> bool {
        let never_done =
            if self.id.is_empty() { self.offered.is_empty() } else { self.acks.is_empty() && self.result.is_none() };
        never_done || self.again
    }
}

impl Seen {
    /// A header by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

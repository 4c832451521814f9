//! The calls of the protocol over HTTPS: one connection for polling, one for posting.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::{info, warn};

use super::backoff::draw;
use super::credential::{Bearer, StoreError};
use super::endpoint::{Endpoint, form_value, segment};
use super::fault::Fault;
use super::stream::{self, Answer, End, StreamError};
use super::{Acknowledged, Health, JobSource, Posted, StatusSink};
use crate::json;
use crate::net::renewal::Candidate;
use crate::net::{Body, Line, NetError, Patience, Profile, Tls};
use crate::protocol::{
    ClusterId, CredentialAnswer, ErrorBody, Event, EventBatch, JobId, JobResult, MEDIA_TYPE, RegisterRequest,
    RotateRequest, StatusUpdate, Timestamp,
};
use crate::secret::Secret;
use crate::trust::identity::NodeKeys;
use crate::trust::mac::{self, Covered, MacKey};
use crate::trust::proof::{self, Claim};
use crate::{clock, limits};

/// A control plane that is polled.
pub struct LongPoll {
    endpoint: Endpoint,
    cluster_id: ClusterId,
    profile: Profile,
    poll: Mutex<Line>,
    post: Mutex<Line>,
    bearer: RwLock<Bearer>,
    /// The `n` of the next MAC. It begins anywhere below 2^52 and counts on: no clock is needed so that a restart does not
    /// repeat one, and every reader of JSON or a float can hold it (decision 0017).
    posts: AtomicU64,
    /// Where is told what became of certificates that have changed.
    health: OnceLock<Arc<Health>>,
}

/// What a registration or a rotation gave. The texts are as they came: whoever uses them checks them.
#[derive(Debug)]
pub struct Issued {
    /// The new bearer with what belongs to it.
    pub bearer: Bearer,
    /// A chain of keyrings, each a compact JWS.
    pub signing_keys: Vec<String>,
    /// Further authorities.
    pub ca_bundle: Option<String>,
    /// A client certificate with its chain, PEM.
    pub client_certificate: Option<String>,
}

impl LongPoll {
    /// Connects nothing yet.
    #[must_use]
    pub fn new(endpoint: Endpoint, cluster_id: ClusterId, bearer: Bearer, profile: Profile) -> Self {
        Self {
            endpoint,
            cluster_id,
            poll: Mutex::new(Line::new(profile.clone())),
            post: Mutex::new(Line::new(profile.clone())),
            profile,
            bearer: RwLock::new(bearer),
            posts: AtomicU64::new(draw() >> 12),
            health: OnceLock::new(),
        }
    }

    /// Tells there from now on what becomes of certificates that change.
    pub fn report_to(&self, health: Arc<Health>) -> Arc<Health> {
        Arc::clone(self.health.get_or_init(|| health))
    }

    /// Uses another bearer from the next call on, for every caller.
    pub fn set_bearer(&self, bearer: Bearer) {
        *self.bearer.write().unwrap_or_else(PoisonError::into_inner) = bearer;
    }

    /// The bearer in use.
    #[must_use]
    pub fn bearer(&self) -> Bearer {
        self.bearer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks for a new bearer (P1.2.7), with the one that is given, expired or not: where there are keys, they prove that
    /// it is this node that asks. A new bearer without a key for MACs keeps that of the one before. With a request, another
    /// client certificate is asked for as well.
    ///
    /// # Errors
    /// A [`Fault`]; the bearer in use stays.
    pub fn rotate(
        &self,
        bearer: &Bearer,
        keys: Option<&NodeKeys>,
        certificate_request: Option<&str>,
    ) -> Result<Issued, Fault> {
        let body = serde_json::to_vec(&RotateRequest { certificate_request })
            .map_err(|_| Fault::Unreadable("our own body"))?;
        let answer =
            self.post_as(&self.post, bearer, "credentials/rotate", body, keys).map_err(|fault| match fault {
                Fault::Refused(StatusCode::BAD_REQUEST, body)
                    if certificate_request.is_some() && body.error == "UnknownField" =>
                {
                    Fault::ServerTooOld("certificateRequest")
                }
                fault => fault,
            })?;
        let answer: CredentialAnswer = read_json(answer)?;
        let mut issued = issued(answer)?;
        if issued.bearer.mac_key.is_none() {
            issued.bearer.mac_key.clone_from(&bearer.mac_key);
        }
        Ok(issued)
    }

    /// Tries a bearer: a poll that waits as briefly as a poll can. The jobs it brings come again.
    ///
    /// # Errors
    /// A [`Fault`].
    pub fn probe(&self, bearer: &Bearer) -> Result<(), Fault> {
        let line = self.post.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let request = request(Method::GET, &self.jobs_url(PROBE_WAIT), &bearer.token, Vec::new())?;
        call(&line, request, Patience::Answer(limits::RESPONSE_TIMEOUT)).map(drop)
    }

    /// Whom every line believes, and what it shows.
    #[must_use]
    pub fn tls(&self) -> &Tls {
        &self.profile.tls
    }

    /// Tries a bearer as [`LongPoll::probe`] does, on a connection of its own that is made with a candidate.
    ///
    /// # Errors
    /// A [`Fault`].
    pub fn try_with(&self, candidate: &Candidate, bearer: &Bearer) -> Result<(), Fault> {
        let line = Line::new(Profile { tls: candidate.tls(), ..self.profile.clone() });
        let request = request(Method::GET, &self.jobs_url(PROBE_WAIT), &bearer.token, Vec::new())?;
        call(&line, request, Patience::Answer(limits::RESPONSE_TIMEOUT)).map(drop)
    }

    /// Every later connection is made with the candidate, requests under way end as they began; false when something else
    /// was committed since it was made.
    pub fn commit(&self, candidate: Candidate) -> bool {
        if !self.profile.tls.commit(candidate) {
            return false;
        }
        // What is kept open was made with what was before.
        *self.poll.lock().unwrap_or_else(PoisonError::into_inner) = Line::new(self.profile.clone());
        *self.post.lock().unwrap_or_else(PoisonError::into_inner) = Line::new(self.profile.clone());
        if let Some(health) = self.health.get() {
            health.set_certificate_life(self.profile.tls.client_life());
        }
        true
    }

    /// Ends everything that is under way and refuses what follows.
    pub fn shut(&self) {
        self.poll.lock().unwrap_or_else(PoisonError::into_inner).shut();
        self.post.lock().unwrap_or_else(PoisonError::into_inner).shut();
    }

    fn post_as(
        &self,
        line: &Mutex<Line>,
        bearer: &Bearer,
        path: &str,
        body: Vec<u8>,
        proof_by: Option<&NodeKeys>,
    ) -> Result<Response<Body>, Fault> {
        let line = line.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut request = request(Method::POST, &self.endpoint.url(path), &bearer.token, body)?;
        let at = clock::unix_seconds();
        if !self.profile.tls.has_client_certificate() {
            self.add_mac(&mut request, bearer, at)?;
        }
        if let Some(signer) = proof_by.and_then(NodeKeys::signer) {
            let (path, nonce) = (path_of(&request), [draw().to_be_bytes(), draw().to_be_bytes()].concat());
            let cluster = self.cluster_id.as_str();
            let claim =
                Claim { method: "POST", path: &path, cluster, bearer: bearer.token.expose(), iat: at, nonce: &nonce };
            add_header(&mut request, proof::HEADER, &claim.sign(&signer))?;
        }
        call(&line, request, Patience::Answer(limits::RESPONSE_TIMEOUT))
    }

    /// P2.3.
    fn add_mac(&self, request: &mut Request<Vec<u8>>, bearer: &Bearer, at: u64) -> Result<(), Fault> {
        let n = self.posts.fetch_add(1, Ordering::Relaxed);
        let path = path_of(request);
        let covered = Covered { method: "POST", path: &path, at, n, body: request.body() };
        let value = match &bearer.mac_key {
            Some(key) => key.header(&covered),
            None => MacKey::derived(self.cluster_id.as_str(), bearer.token.expose())
                .ok_or(Fault::Unreadable("our own key"))?
                .header(&covered),
        };
        add_header(request, mac::HEADER, &value)
    }

    /// A post whose success says nothing beyond itself: 204 (P1.2). A 200 is one only from the control plane
    /// and only whole: a captive portal says 200 to everything, and nobody there has taken anything.
    fn tell(&self, line: &Mutex<Line>, path: &str, body: Vec<u8>) -> Result<(), Fault> {
        let response = self.post_as(line, &self.bearer(), path, body, None)?;
        if response.status() == StatusCode::OK {
            if !is_ours(&response) {
                return Err(Fault::Stranger(StatusCode::OK));
            }
            response.into_body().read_all().map_err(Fault::Network)?;
        }
        Ok(())
    }

    /// Certificates and authorities whose files have changed are tried on a connection of their own, and are used by
    /// every later connection once the control plane has answered there. Requests that are under way go on.
    fn follow_files(&self) {
        let Some(changed) = self.profile.tls.changed() else {
            if self.profile.tls.is_current()
                && let Some(health) = self.health.get()
            {
                health.set_unused_certificates(false);
            }
            return;
        };
        let tried = changed.map_err(|error| error.to_string()).and_then(|candidate| {
            self.try_with(&candidate, &self.bearer()).map(|()| candidate).map_err(|fault| {
                let (cause, detail) = fault.causes();
                format!("{fault}: {cause} {detail}")
            })
        });
        if let Some(health) = self.health.get() {
            health.set_unused_certificates(tried.is_err());
        }
        match tried {
            // Otherwise they are tried again beside what was committed meanwhile.
            Ok(candidate) => {
                if self.commit(candidate) {
                    info!("the changed certificates are in use");
                }
            }
            Err(error) => warn!(
                error,
                "the changed certificates do not work with the control plane; those of before stay in use, and the files are \
                 tried again"
            ),
        }
    }

    /// The server's certificate is not valid yet, as far as a clock can tell that nobody has confirmed: a poll on a line of
    /// its own may set the clock. Its jobs come again. Whether the clock was set.
    fn ask_the_time(&self) -> bool {
        if clock::standing().is_confirmed() {
            return false;
        }
        let Some(tls) = self.profile.tls.at_not_before() else { return false };
        let line = Line::new(Profile { tls, ..self.profile.clone() });
        let asked = request(Method::GET, &self.jobs_url(PROBE_WAIT), &self.bearer().token, Vec::new())
            .and_then(|request| call(&line, request, Patience::Answer(limits::RESPONSE_TIMEOUT)));
        match asked {
            Ok(_) if clock::standing().is_confirmed() => info!(
                "two answers of the server say the same time, by which its certificate is valid: the clock of this node is behind, and \
                 that time is gone by"
            ),
            Ok(_) => warn!(
                "the server's certificate is not valid yet by the clock of this node, which nobody has confirmed: the server was \
                 asked for the time; two answers 10 minutes apart set the clock, and no job is taken before"
            ),
            Err(fault) => warn!(error = %fault, "the server could not be asked for the time"),
        }
        clock::standing().is_confirmed()
    }

    fn jobs_url(&self, wait: Duration) -> String {
        let cluster = form_value(self.cluster_id.as_str());
        self.endpoint.url(&format!("jobs?cluster={cluster}&wait={}", wait.as_secs()))
    }

    fn on<'a>(&'a self, line: &'a Mutex<Line>) -> On<'a> {
        On(self, line)
    }
}

impl JobSource for LongPoll {
    fn poll(&self, wait: Duration) -> Result<Answer, Fault> {
        self.follow_files();
        let line = self.poll.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let ask = || {
            let mut request = request(Method::GET, &self.jobs_url(wait), &self.bearer().token, Vec::new())?;
            // Which version this is stands in every post. Without any name some firewalls let nothing through.
            request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("pullet"));
            call(&line, request, Patience::Answer(wait + limits::HOLD_GRACE))
        };
        let response = match ask() {
            Err(fault) if fault.is_not_valid_yet() => {
                if !self.ask_the_time() {
                    return Err(fault);
                }
                ask()?
            }
            called => called?,
        };
        let answer = stream::read(response.into_body().with_limit(limits::ANSWER_READ_BYTES));
        match answer.end {
            // A captive portal answers 200 with a page of its own.
            End::Broken(StreamError::NotJobs) if answer.jobs.is_empty() => Err(Fault::Stranger(StatusCode::OK)),
            End::Broken(StreamError::Net(error)) if answer.jobs.is_empty() => Err(Fault::Network(error)),
            _ => Ok(answer),
        }
    }

    fn ack(&self, id: &JobId) -> Result<Acknowledged, Fault> {
        let path = format!("jobs/{}/ack", segment(id.as_str()));
        match self.tell(&self.post, &path, Vec::new()) {
            Ok(()) => Ok(Acknowledged::Ours),
            Err(Fault::Refused(StatusCode::CONFLICT, _) | Fault::NotFound) => Ok(Acknowledged::Closed),
            Err(fault) => Err(fault),
        }
    }

    /// The next poll begins with a new connection.
    fn interrupt(&self) {
        let mut line = self.poll.lock().unwrap_or_else(PoisonError::into_inner);
        line.shut();
        *line = Line::new(self.profile.clone());
    }
}

/// What is posted, and on which line.
struct On<'a>(&'a LongPoll, &'a Mutex<Line>);

impl On<'_> {
    fn tell(&self, path: &str, body: &impl Serialize) -> Result<(), Fault> {
        let body = serde_json::to_vec(body).map_err(|_| Fault::Unreadable("our own body"))?;
        self.0.tell(self.1, path, body)
    }

    fn of_job(&self, id: &JobId, what: &str, body: &impl Serialize) -> Result<Posted, Fault> {
        posted(self.tell(&format!("jobs/{}/{what}", segment(id.as_str())), body))
    }

    fn events(&self, events: &[Event]) -> Result<(), Fault> {
        self.tell("events", &EventBatch { events })
    }
}

impl StatusSink for LongPoll {
    fn status(&self, id: &JobId, status: &StatusUpdate) -> Result<Posted, Fault> {
        self.on(&self.post).of_job(id, "status", status)
    }

    fn result(&self, id: &JobId, result: &JobResult) -> Result<Posted, Fault> {
        self.on(&self.post).of_job(id, "result", result)
    }

    fn events(&self, events: &[Event]) -> Result<(), Fault> {
        self.on(&self.post).events(events)
    }
}

/// A control plane on the connection of its polls: what is posted between two of them needs no other.
pub struct BetweenPolls(pub Arc<LongPoll>);

impl StatusSink for BetweenPolls {
    fn status(&self, id: &JobId, status: &StatusUpdate) -> Result<Posted, Fault> {
        self.0.on(&self.0.poll).of_job(id, "status", status)
    }

    fn result(&self, id: &JobId, result: &JobResult) -> Result<Posted, Fault> {
        self.0.on(&self.0.poll).of_job(id, "result", result)
    }

    fn events(&self, events: &[Event]) -> Result<(), Fault> {
        self.0.on(&self.0.poll).events(events)
    }
}

/// The shortest hold that the protocol knows.
pub const PROBE_WAIT: Duration = Duration::from_secs(1);

/// Exchanges the one-time token (P1.2.1).
///
/// # Errors
/// A [`Fault`]; after 401 or 403 the token is used up or was never good.
pub fn register(
    endpoint: &Endpoint,
    profile: Profile,
    token: &Secret,
    body: &RegisterRequest<'_>,
) -> Result<(ClusterId, Issued), Fault> {
    // One buffer of the full size: a growing one would leave copies of the token behind.
    let mut text = Vec::with_capacity(REGISTRATION_BYTES);
    serde_json::to_writer(&mut text, body).map_err(|_| Fault::Unreadable("our own body"))?;
    let request = request(Method::POST, &endpoint.url("register"), token, text)?;
    let line = Line::new(profile);
    let answer: CredentialAnswer = read_json(call(&line, request, Patience::Answer(limits::RESPONSE_TIMEOUT))?)?;
    let cluster_id = answer.cluster_id.as_deref().ok_or(Fault::Unreadable("its cluster id is missing"))?;
    let cluster_id = ClusterId::parse(cluster_id)
        .map_err(|_| Fault::Unreadable("its cluster id cannot be the value of a Kubernetes label"))?;
    Ok((cluster_id, issued(answer)?))
}

/// The longest token, and 8 KiB for names, keys and a certificate request.
const REGISTRATION_BYTES: usize = limits::BEARER_MAX.saturating_add(8 * 1024);

fn issued(answer: CredentialAnswer) -> Result<Issued, Fault> {
    let mac_key = match &answer.mac_key {
        None => None,
        Some(text) => {
            let key = MacKey::given(text).ok_or(Fault::Unreadable("its macKey is not 32 bytes in base64url"))?;
            Some(Arc::new(key))
        }
    };
    let bearer = Bearer {
        rotate_after: answer.rotate_after,
        issued_at: Some(Timestamp::from_unix_seconds(clock::unix_seconds())),
        mac_key,
        ..Bearer::new(&answer.token, answer.expires_at).map_err(unusable_token)?
    };
    let CredentialAnswer { signing_keys, ca_bundle, client_certificate, .. } = answer;
    Ok(Issued { bearer, signing_keys, ca_bundle, client_certificate })
}

/// The path with its query, as it stands in the request line.
fn path_of(request: &Request<Vec<u8>>) -> String {
    request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned()
}

fn add_header(request: &mut Request<Vec<u8>>, name: &'static str, value: &str) -> Result<(), Fault> {
    let value = HeaderValue::from_str(value).map_err(|_| Fault::Unreadable("our own header"))?;
    request.headers_mut().insert(name, value);
    Ok(())
}

fn unusable_token(error: StoreError) -> Fault {
    Fault::Unreadable(match error {
        StoreError::Token(fault) => fault,
        _ => "its token",
    })
}

/// P1.1: the headers of every request.
fn request(method: Method, url: &str, bearer: &Secret, body: Vec<u8>) -> Result<Request<Vec<u8>>, Fault> {
    let authorization = zeroize::Zeroizing::new(format!("Bearer {}", bearer.expose()));
    let mut authorization =
        HeaderValue::from_str(&authorization).map_err(|_| Fault::Unreadable("the bearer is no header value"))?;
    authorization.set_sensitive(true);
    let mut builder =
        Request::builder().method(method).uri(url).header(AUTHORIZATION, authorization).header(ACCEPT, MEDIA_TYPE);
    if !body.is_empty() {
        builder = builder.header(CONTENT_TYPE, MEDIA_TYPE);
    }
    builder.body(body).map_err(|error| Fault::Network(NetError::Http(error.to_string())))
}

/// Makes the call and sorts its answer (P1.8).
fn call(line: &Line, request: Request<Vec<u8>>, patience: Patience) -> Result<Response<Body>, Fault> {
    let response = line.run(request, patience).map_err(Fault::Network)?;
    let status = response.status();
    if status == StatusCode::OK || status == StatusCode::NO_CONTENT {
        // A captive portal says 200 to everything, with a date of its own.
        if status == StatusCode::NO_CONTENT || is_ours(&response) {
            note_date(line, &response);
        }
        return Ok(response);
    }
    let ours = is_ours(&response);
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| super::backoff::retry_after(value, clock::system()));
    let body: Option<ErrorBody> = response.into_body().read_all().ok().and_then(|body| json::read(&body).ok());
    Err(match (status, body) {
        // 401 and 403 close the agent's eyes for hours: they count only from the control plane itself.
        (StatusCode::UNAUTHORIZED, Some(body)) if ours => Fault::Unauthorized(body),
        (StatusCode::FORBIDDEN, Some(body)) if ours => Fault::Forbidden(body),
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED, _) => {
            Fault::Stranger(status)
        }
        (StatusCode::TOO_MANY_REQUESTS, _) => Fault::Busy(status, retry_after),
        (StatusCode::NOT_FOUND, _) => Fault::NotFound,
        (status, _) if status.is_server_error() => Fault::Busy(status, retry_after),
        (status, body) if status.is_client_error() => Fault::Refused(status, body.unwrap_or_default()),
        _ => Fault::Stranger(status),
    })
}

/// The control plane let us in over TLS: it may stand for a time at which its own certificate is valid.
fn note_date(line: &Line, response: &Response<Body>) {
    let date = response.headers().get(DATE).and_then(|value| value.to_str().ok());
    if let Some(date) = date.and_then(|text| httpdate::parse_http_date(text).ok())
        && line.is_valid_at(date)
        && let Err(error) = clock::witness(date)
    {
        warn!(%error, "the floor of the clock was not stored");
    }
}

fn is_ours(response: &Response<Body>) -> bool {
    response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|value| value.trim().eq_ignore_ascii_case(MEDIA_TYPE))
}

fn posted(told: Result<(), Fault>) -> Result<Posted, Fault> {
    match told {
        Ok(()) => Ok(Posted::Taken),
        Err(Fault::Refused(StatusCode::CONFLICT, _)) => Ok(Posted::Known),
        Err(Fault::NotFound) => Ok(Posted::Closed),
        Err(fault) => Err(fault),
    }
}

fn read_json<T: DeserializeOwned>(response: Response<Body>) -> Result<T, Fault> {
    let fault = if is_ours(&response) {
        Fault::Unreadable("a member is missing or of the wrong type")
    } else {
        Fault::Stranger(response.status())
    };
    let body = zeroize::Zeroizing::new(response.into_body().read_all().map_err(Fault::Network)?);
    json::read(&body).map_err(|_| fault)
}

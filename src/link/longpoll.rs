//! The calls of the protocol over HTTPS: one connection for polling, one for posting.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::credential::{Bearer, StoreError};
use super::endpoint::{Endpoint, form_value, segment};
use super::fault::Fault;
use super::stream::{self, Answer, End, StreamError};
use super::{Acknowledged, JobSource, Posted, StatusSink};
use crate::limits;
use crate::net::{Body, Line, NetError, Patience, Profile};
use crate::protocol::{
    ClusterId, ErrorBody, Event, EventBatch, JobId, JobResult, MEDIA_TYPE, RegisterRequest, RegisterResponse,
    RotateResponse, StatusUpdate,
};
use crate::secret::Secret;

/// A control plane that is polled.
pub struct LongPoll {
    endpoint: Endpoint,
    cluster_id: ClusterId,
    profile: Profile,
    poll: Mutex<Line>,
    post: Mutex<Line>,
    bearer: RwLock<Arc<Secret>>,
}

impl LongPoll {
    /// Connects nothing yet.
    #[must_use]
    pub fn new(endpoint: Endpoint, cluster_id: ClusterId, bearer: Arc<Secret>, profile: Profile) -> Self {
        Self {
            endpoint,
            cluster_id,
            poll: Mutex::new(Line::new(profile.clone())),
            post: Mutex::new(Line::new(profile.clone())),
            profile,
            bearer: RwLock::new(bearer),
        }
    }

    /// Uses another bearer from the next call on, for every caller.
    pub fn set_bearer(&self, bearer: Arc<Secret>) {
        *self.bearer.write().unwrap_or_else(PoisonError::into_inner) = bearer;
    }

    /// The bearer in use.
    #[must_use]
    pub fn bearer(&self) -> Arc<Secret> {
        Arc::clone(&self.bearer.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks for a new bearer (P1.2.7), with the one that is given.
    ///
    /// # Errors
    /// A [`Fault`]; the bearer in use stays.
    pub fn rotate(&self, bearer: &Secret) -> Result<Bearer, Fault> {
        let body: RotateResponse = read_json(self.post_as(bearer, "credentials/rotate", b"{}".to_vec())?)?;
        Bearer::new(&body.token, body.expires_at).map_err(unusable_token)
    }

    /// Tries a bearer: a poll that waits as briefly as a poll can. The jobs it brings come again.
    ///
    /// # Errors
    /// A [`Fault`].
    pub fn probe(&self, bearer: &Secret) -> Result<(), Fault> {
        let line = self.post.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let request = request(Method::GET, &self.jobs_url(PROBE_WAIT), bearer, Vec::new())?;
        call(&line, request, Patience::Answer(limits::RESPONSE_TIMEOUT)).map(drop)
    }

    /// Ends everything that is under way and refuses what follows.
    pub fn shut(&self) {
        self.poll.lock().unwrap_or_else(PoisonError::into_inner).shut();
        self.post.lock().unwrap_or_else(PoisonError::into_inner).shut();
    }

    fn post(&self, path: &str, body: Vec<u8>) -> Result<Response<Body>, Fault> {
        self.post_as(&self.bearer(), path, body)
    }

    fn post_as(&self, bearer: &Secret, path: &str, body: Vec<u8>) -> Result<Response<Body>, Fault> {
        let line = self.post.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let request = request(Method::POST, &self.endpoint.url(path), bearer, body)?;
        call(&line, request, Patience::Answer(limits::RESPONSE_TIMEOUT))
    }

    /// A post whose success says nothing beyond itself: 204 (P1.2). A 200 is one only from the control plane
    /// and only whole: a captive portal says 200 to everything, and nobody there has taken anything.
    fn tell(&self, path: &str, body: Vec<u8>) -> Result<(), Fault> {
        let response = self.post(path, body)?;
        if response.status() == StatusCode::OK {
            if !is_ours(&response) {
                return Err(Fault::Stranger(StatusCode::OK));
            }
            response.into_body().read_all().map_err(Fault::Network)?;
        }
        Ok(())
    }

    fn jobs_url(&self, wait: Duration) -> String {
        let cluster = form_value(self.cluster_id.as_str());
        self.endpoint.url(&format!("jobs?cluster={cluster}&wait={}", wait.as_secs()))
    }

    fn tell_json(&self, path: &str, body: &impl Serialize) -> Result<(), Fault> {
        let body = serde_json::to_vec(body).map_err(|_| Fault::Unreadable("our own body"))?;
        self.tell(path, body)
    }
}

impl JobSource for LongPoll {
    fn poll(&self, wait: Duration) -> Result<Answer, Fault> {
        let line = self.poll.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let request = request(Method::GET, &self.jobs_url(wait), &self.bearer(), Vec::new())?;
        let response = call(&line, request, Patience::Answer(wait + limits::HOLD_GRACE))?;
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
        match self.tell(&path, Vec::new()) {
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

impl StatusSink for LongPoll {
    fn status(&self, id: &JobId, status: &StatusUpdate) -> Result<Posted, Fault> {
        let path = format!("jobs/{}/status", segment(id.as_str()));
        posted(self.tell_json(&path, status))
    }

    fn result(&self, id: &JobId, result: &JobResult) -> Result<Posted, Fault> {
        let path = format!("jobs/{}/result", segment(id.as_str()));
        posted(self.tell_json(&path, result))
    }

    fn events(&self, events: &[Event]) -> Result<(), Fault> {
        self.tell_json("events", &EventBatch { events })
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
    cluster_id: Option<&ClusterId>,
    display_name: Option<&str>,
) -> Result<(ClusterId, Bearer), Fault> {
    let body = serde_json::to_vec(&RegisterRequest {
        registration_token: token.expose(),
        cluster_id: cluster_id.map(ClusterId::as_str),
        display_name,
    })
    .map_err(|_| Fault::Unreadable("our own body"))?;
    let request = request(Method::POST, &endpoint.url("register"), token, body)?;
    let line = Line::new(profile);
    let answer: RegisterResponse = read_json(call(&line, request, Patience::Answer(limits::RESPONSE_TIMEOUT))?)?;
    let named = ClusterId::parse(&answer.cluster_id)
        .map_err(|_| Fault::Unreadable("its cluster id cannot be the value of a Kubernetes label"))?;
    if cluster_id.is_some_and(|wanted| *wanted != named) {
        return Err(Fault::Unreadable("it registered another cluster than the configured one"));
    }
    let bearer = Bearer::new(&answer.token, answer.expires_at).map_err(unusable_token)?;
    Ok((named, bearer))
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
        return Ok(response);
    }
    let ours = is_ours(&response);
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| super::backoff::retry_after(value, SystemTime::now()));
    let body: Option<ErrorBody> =
        response.into_body().read_all().ok().and_then(|body| serde_json::from_slice(&body).ok());
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
    serde_json::from_slice(&body).map_err(|_| fault)
}

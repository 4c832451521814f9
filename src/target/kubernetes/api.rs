//! Calls to the API server: paths, answers, refusals.
//!
//! `Client::send` and nothing above it: `Client::request` prints a body that it cannot read into the log,
//! and copies each body twice.

use std::fmt;
use std::ops::Deref;
use std::pin::Pin;

use http::{Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::client::{BodyLimit, CredentialRenewed};
use super::decode::{Items, Text};
use super::message;
use crate::json;
use crate::limits;
use crate::net::NetError;
use crate::target::TargetError;

/// What a path segment may hold as it is.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Asks for metadata alone; a server that does not know how sends the whole object.
pub(super) const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

/// Asks for what there is.
pub(super) const JSON: &str = "application/json";

/// One call.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    pub(super) accept: &'static str,
    /// Content type and body, which is written anew if the call has to be repeated.
    pub(super) content: Option<(&'static str, &'a (dyn Fn() -> Vec<u8> + Sync))>,
    /// Longest body of a success.
    pub(super) limit: u64,
}

impl<'a> Call<'a> {
    pub(super) fn get(path: &'a str, accept: &'static str) -> Self {
        let limit = if accept == METADATA { limits::METADATA_BODY_BYTES } else { limits::API_BODY_BYTES };
        Self { method: Method::GET, path, accept, content: None, limit }
    }

    fn request(&self) -> Result<Request<kube::client::Body>, Fault> {
        let builder = Request::builder()
            .method(self.method.clone())
            .uri(self.path)
            .header(header::ACCEPT, self.accept)
            .extension(BodyLimit(self.limit));
        let request = match self.content {
            Some((kind, body)) => builder.header(header::CONTENT_TYPE, kind).body(kube::client::Body::from(body())),
            None => builder.body(kube::client::Body::empty()),
        };
        request.map_err(|_| Fault::Unusable("a name that no path can hold".to_owned()))
    }
}

/// Why a call had no success.
#[derive(Debug)]
pub(super) enum Fault {
    /// 401, also after the credential was read again.
    Credential,
    /// No answer, or half of one.
    Net(NetError),
    /// The API server said no.
    Refused(Refusal),
    /// The body is over its bound.
    TooLong(u64),
    /// The answer is none.
    Unusable(String),
}

/// A `Status` of the API server that is no success.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    pub(super) code: u16,
    pub(super) message: String,
    /// `details.kind`: the resource that was not found, for one.
    pub(super) about: String,
    pub(super) causes: Vec<Cause>,
}

/// One cause of a refusal.
#[derive(Debug, Default)]
pub(super) struct Cause {
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) field: String,
}

/// What is said of a credential that the API server does not know.
pub const REFUSED: &str =
    "the API server refused our credential: renew the token or the certificate of the agent's account";

/// 401 is not what a job did wrong: the same may work when somebody has renewed the credential.
#[derive(Debug)]
pub(super) struct CredentialRefused;

impl fmt::Display for CredentialRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REFUSED)
    }
}

impl std::error::Error for CredentialRefused {}

/// 429 and 5xx.
#[derive(Debug)]
pub(super) struct Busy {
    code: u16,
    message: String,
}

impl Busy {
    /// Whether something failed behind the API server, or in it, and not only for lack of room.
    pub(super) fn is_fault(&self) -> bool {
        self.code >= 500
    }
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the API server answered {}: {}", self.code, self.message)
    }
}

impl std::error::Error for Busy {}

impl Fault {
    /// The same call may have another answer later.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Credential | Self::Net(_) => true,
            Self::Refused(refusal) => matches!(refusal.code, 408 | 429 | 500..),
            Self::TooLong(_) | Self::Unusable(_) => false,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credential => CredentialRefused.fmt(f),
            Self::Net(error) => match std::error::Error::source(error) {
                Some(source) => write!(f, "{error}: {source}"),
                None => error.fmt(f),
            },
            Self::Refused(refusal) => {
                let told = if refusal.code == 403 { message::of_forbidden(refusal) } else { message::of(refusal) };
                write!(f, "{} {told}", refusal.code)
            }
            Self::TooLong(limit) => write!(f, "the answer is longer than {limit} bytes"),
            Self::Unusable(reason) => f.write_str(reason),
        }
    }
}

/// A refusal of what a job asked for. Kinds that are not there and conflicts are told apart before this.
impl From<Fault> for TargetError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Credential => Self::Unavailable(Box::new(CredentialRefused)),
            Fault::Net(error) => Self::Unavailable(Box::new(error)),
            // An object that does not fit its schema is, to server-side apply, a fault of the server.
            Fault::Refused(refusal) if refusal.code == 500 && refusal.message.starts_with(UNTYPED) => {
                Self::Invalid(message::of(&refusal))
            }
            Fault::Refused(refusal) => match refusal.code {
                403 => Self::Forbidden(message::of_forbidden(&refusal)),
                429 | 500.. => Self::Unavailable(Box::new(Busy { code: refusal.code, message: message::of(&refusal) })),
                _ => Self::Invalid(message::of(&refusal)),
            },
            Fault::TooLong(limit) => Self::Unusable(format!("the API server's answer is longer than {limit} bytes")),
            Fault::Unusable(reason) => Self::Unusable(reason),
        }
    }
}

impl From<NetError> for Fault {
    fn from(error: NetError) -> Self {
        match error {
            NetError::TooLong(limit) => Self::TooLong(limit),
            error => Self::Net(error),
        }
    }
}

impl From<kube::Error> for Fault {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Service(error) => match error.downcast::<NetError>() {
                Ok(error) => (*error).into(),
                // The client's worker is gone: the runtime ends.
                Err(_) => Self::Net(NetError::Shut),
            },
            // `Client::send` has no other, and the text of all that there could be is long (`client`).
            _ => {
                Self::Unusable("the Kubernetes client gave up by itself, which is a mistake of this program".to_owned())
            }
        }
    }
}

/// The API server, one long text of it at a time.
pub(super) struct Api {
    client: kube::Client,
    text: Semaphore,
}

/// The body of an answer. Nobody else has one while this is held, so it is dropped before the next call and
/// before anything else is waited for.
pub(super) struct Body<'a> {
    text: Vec<u8>,
    _permit: SemaphorePermit<'a>,
}

impl Deref for Body<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.text
    }
}

impl Api {
    pub(super) fn new(client: kube::Client) -> Self {
        Self { client, text: Semaphore::new(1) }
    }
}

/// Runs a call to the end of its answer.
pub(super) async fn ask<'a>(api: &'a Api, call: &Call<'_>) -> Result<Body<'a>, Fault> {
    let answer = open(api, call).await?;
    let permit = api.text.acquire().await.map_err(|_| Fault::Net(NetError::Shut))?;
    Ok(Body { text: collect(answer.into_body()).await?, _permit: permit })
}

/// Runs a call to the head of its answer, which is a success. A call whose credential was just replaced is
/// repeated once.
pub(super) async fn open(api: &Api, call: &Call<'_>) -> Result<Response<kube::client::Body>, Fault> {
    let mut answer = api.client.send(call.request()?).await?;
    if answer.extensions().get::<CredentialRenewed>().is_some() {
        drop(answer);
        answer = api.client.send(call.request()?).await?;
    }
    let status = answer.status();
    if status == StatusCode::UNAUTHORIZED {
        return Err(Fault::Credential);
    }
    if status.is_success() {
        return Ok(answer);
    }
    let text = match collect(answer.into_body()).await {
        Ok(text) => text,
        // The code says enough.
        Err(Fault::TooLong(_)) => Vec::new(),
        Err(error) => return Err(error),
    };
    Err(Fault::Refused(Refusal::read(status.as_u16(), &text)))
}

/// The next piece of a body.
pub(super) async fn next(body: &mut kube::client::Body) -> Result<Option<bytes::Bytes>, Fault> {
    loop {
        match std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
            None => return Ok(None),
            Some(frame) => {
                if let Ok(data) = frame?.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

async fn collect(mut body: kube::client::Body) -> Result<Vec<u8>, Fault> {
    let mut text = Vec::new();
    while let Some(piece) = next(&mut body).await? {
        text.extend_from_slice(&piece);
    }
    Ok(text)
}

impl Refusal {
    /// Reads a `Status`; what is none is a refusal without words.
    pub(super) fn read(code: u16, text: &[u8]) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Status<'a> {
            #[serde(borrow)]
            message: Text<'a>,
            code: u16,
            #[serde(borrow)]
            details: Option<Details<'a>>,
        }

        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Details<'a> {
            #[serde(borrow)]
            kind: Text<'a>,
            #[serde(borrow)]
            causes: Option<Items<'a>>,
        }

        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct RawCause<'a> {
            #[serde(borrow)]
            reason: Text<'a>,
            #[serde(borrow)]
            message: Text<'a>,
            #[serde(borrow)]
            field: Text<'a>,
        }

        let Ok(status) = json::read::<Status<'_>>(text) else {
            return Self { code, ..Self::default() };
        };
        let details = status.details.unwrap_or_default();
        Self {
            // A watch reports a refusal as an event of a 200.
            code: if code == 200 { status.code } else { code },
            message: status.message.cut(limits::CONDITION_TEXT_BYTES),
            about: details.kind.cut(limits::CONDITION_TEXT_BYTES),
            causes: details
                .causes
                .map(|causes| causes.first::<RawCause<'_>>(4 * limits::CONFLICT_FIELDS))
                .unwrap_or_default()
                .into_iter()
                .map(|cause| Cause {
                    reason: cause.reason.cut(limits::CONDITION_TEXT_BYTES),
                    message: cause.message.cut(limits::CONDITION_TEXT_BYTES),
                    field: cause.field.cut(limits::CONDITION_TEXT_BYTES),
                })
                .collect(),
        }
    }
}

/// How the API server begins to say that an applied object does not fit its schema.
const UNTYPED: &str = "failed to create typed patch object";

/// A name as a path segment, if it can be one.
pub(super) fn segment(name: &str) -> Result<String, TargetError> {
    // `.` and `..` are no names of Kubernetes either, and would be resolved away on the way.
    let is_one =
        !name.is_empty() && name.len() <= NAME_MAX && !name.contains(['/', '%']) && name != "." && name != "..";
    if !is_one {
        return Err(TargetError::Invalid("a name is empty, too long, or holds what no name may".to_owned()));
    }
    Ok(utf8_percent_encode(name, SEGMENT).to_string())
}

/// A text in a query.
pub(super) fn query(text: &str) -> impl fmt::Display + '_ {
    utf8_percent_encode(text, SEGMENT)
}

/// The longest name that Kubernetes knows.
const NAME_MAX: usize = 253;

#[cfg(test)]
mod tests {
    use super::{Fault, Refusal, segment};
    use crate::net::NetError;
    use crate::target::TargetError;

    #[test]
    fn no_name_leaves_its_segment() {
        for name in ["", ".", "..", "a/b", "a%2fb", &"x".repeat(254)] {
            assert!(segment(name).is_err(), "{name}");
        }
        assert_eq!(segment("system:node a?b").unwrap(), "system%3Anode%20a%3Fb");
        assert_eq!(segment("a-b.c").unwrap(), "a-b.c");
    }

    #[test]
    fn a_code_becomes_what_a_job_can_do_about_it() {
        let reason = |code: u16| TargetError::from(Fault::Refused(Refusal::read(code, b"<html>"))).reason();
        for (code, expected) in [
            (400, "Invalid"),
            (403, "Forbidden"),
            (404, "Invalid"),
            (409, "Invalid"),
            (413, "Invalid"),
            (422, "Invalid"),
            (429, "TargetUnavailable"),
            (500, "TargetUnavailable"),
            (503, "TargetUnavailable"),
        ] {
            assert_eq!(reason(code), expected, "{code}");
        }
        let untyped = br#"{"message":"failed to create typed patch object: .spec.a: expected string"}"#;
        assert_eq!(TargetError::from(Fault::Refused(Refusal::read(500, untyped))).reason(), "Invalid");
        assert_eq!(TargetError::from(Fault::Credential).reason(), "TargetUnavailable");
        assert_eq!(TargetError::from(Fault::from(NetError::TooLong(1))).reason(), "UnusableAnswer");
        assert_eq!(
            TargetError::from(Fault::from(NetError::NameNotFound("api".to_owned()))).reason(),
            "TargetUnavailable"
        );
    }
}

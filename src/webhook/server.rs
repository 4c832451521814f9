//! Reviews over HTTPS, one at a time.
//!
//! Whoever reaches the port may ask. A connection has a deadline for each of its phases, only so many are open
//! ([`limits::WEBHOOK_CONNECTIONS`]), and further ones wait in the kernel. A body is read by whoever has the only place,
//! within [`limits::WEBHOOK_ARRIVAL`], and no more of it is kept than [`limits::WEBHOOK_BODY_BYTES`].

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tracing::debug;

use crate::limits;
use crate::target::kubernetes::{Own, OwnError};
use crate::task;
use crate::trust::policy::{Denial, Policy, Review, Reviewed};

/// Where an API server asks.
pub(super) const PATH: &str = "/validate";

type Answer = Response<Full<Bytes>>;

/// Who answers, one after the other.
pub(super) struct Judge {
    policy: Policy,
    own: Own,
    place: Arc<Semaphore>,
}

impl Judge {
    pub(super) fn new(policy: Policy, own: Own) -> Arc<Self> {
        Arc::new(Self { policy, own, place: Arc::new(Semaphore::new(1)) })
    }
}

/// Never ends.
pub(super) async fn accept(listener: TcpListener, tls: Arc<ServerConfig>, judge: Arc<Judge>) {
    let tls = TlsAcceptor::from(tls);
    let room = Arc::new(Semaphore::new(limits::WEBHOOK_CONNECTIONS));
    while let Ok(room) = Arc::clone(&room).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let converse = converse(stream, tls.clone(), Arc::clone(&judge));
                task::spawn(async move {
                    let _ = timeout(limits::WEBHOOK_PATIENCE, converse).await;
                    drop(room);
                });
            }
            // One that cannot be taken is gone already, or no more files can be open.
            Err(_) => sleep(limits::WEBHOOK_ARRIVAL).await,
        }
    }
}

/// One request and its answer. Whoever went away or took too long has none, and nobody else needs to know.
async fn converse(stream: TcpStream, tls: TlsAcceptor, judge: Arc<Judge>) {
    let Ok(Ok(stream)) = timeout(limits::WEBHOOK_HANDSHAKE, tls.accept(stream)).await else { return };
    let service = service_fn(move |request| {
        let judge = Arc::clone(&judge);
        async move { Ok::<_, Infallible>(respond(request, judge).await) }
    });
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::WEBHOOK_ARRIVAL)
        .keep_alive(false)
        .max_headers(limits::WEBHOOK_HEADERS)
        .max_buf_size(limits::WEBHOOK_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn respond(request: Request<Incoming>, judge: Arc<Judge>) -> Answer {
    if request.uri().path() != PATH {
        return plain(StatusCode::NOT_FOUND, "reviews are asked for at /validate");
    }
    if request.method() != Method::POST {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "a review is asked for with POST");
    }
    if !is_json(request.headers()) {
        return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "a review comes as application/json");
    }
    let Ok(place) = Arc::clone(&judge.place).acquire_owned().await else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "the agent stops");
    };
    match timeout(limits::WEBHOOK_ARRIVAL, read(request.into_body())).await {
        Ok(Ok(Text::Whole(text))) => answer(judge, place, text).await,
        Ok(Ok(Text::TooLong(opening))) => match Review::too_long(&opening) {
            Some((uid, reviewed)) => page(StatusCode::OK, "application/json", written(uid, reviewed)),
            None => plain(StatusCode::PAYLOAD_TOO_LARGE, "the review is larger than the 512 KiB that are read here"),
        },
        Ok(Err(_)) => plain(StatusCode::BAD_REQUEST, "the review did not come to its end"),
        Err(_) => plain(StatusCode::REQUEST_TIMEOUT, "the review did not come in time"),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// What was read of a body.
enum Text {
    Whole(Vec<u8>),
    /// Its first [`limits::WEBHOOK_OPENING_BYTES`].
    TooLong(Vec<u8>),
}

async fn read(mut body: Incoming) -> Result<Text, hyper::Error> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut kept = Vec::with_capacity(if announced > limits::WEBHOOK_BODY_BYTES { 0 } else { announced });
    let mut count: usize = 0;
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame?.into_data() else { continue };
        count = count.saturating_add(piece.len());
        if count <= limits::WEBHOOK_BODY_BYTES {
            kept.extend_from_slice(&piece);
        } else {
            kept.extend_from_slice(piece.get(..limits::WEBHOOK_OPENING_BYTES).unwrap_or(&piece));
            kept.truncate(limits::WEBHOOK_OPENING_BYTES);
            kept.shrink_to_fit();
        }
        if count > limits::WEBHOOK_DRAIN_BYTES {
            break;
        }
    }
    Ok(if count <= limits::WEBHOOK_BODY_BYTES { Text::Whole(kept) } else { Text::TooLong(kept) })
}

/// On a thread of its own: it walks half a megabyte, and may have to ask for a namespace. The place is free when that is
/// over, whoever still waits for it.
async fn answer(judge: Arc<Judge>, place: OwnedSemaphorePermit, text: Vec<u8>) -> Answer {
    let reviewing = task::on_thread(move || {
        let _place = place;
        let review = Review::read(&text)?;
        let reviewed = judge.policy.review(&review, |namespace| {
            judge.own.space(namespace).map_err(|error| {
                Denial::unknown_namespace(match error {
                    OwnError::Absent => "it is not there",
                    OwnError::Forbidden(_) => "its account may not; pullet rbac prints its rights",
                    _ => "the API server gives no answer that can be used",
                })
            })
        });
        Some(written(&review.uid, reviewed))
    });
    match reviewing.await {
        Ok(Some(body)) => page(StatusCode::OK, "application/json", body),
        Ok(None) => plain(
            StatusCode::BAD_REQUEST,
            "this is no AdmissionReview of admission.k8s.io/v1 with a request that can be read",
        ),
        Err(_) => plain(StatusCode::SERVICE_UNAVAILABLE, "the agent stops"),
    }
}

/// The answer as the API server takes it.
fn written(uid: &str, reviewed: Reviewed) -> String {
    let response = match reviewed {
        Ok(()) => json!({"uid": uid, "allowed": true}),
        Err(denial) => {
            // Whoever wrote it reads why; what others do again and again is not to fill a log.
            debug!(reason = denial.reason, "the webhook refuses an object");
            let status = json!({"code": 403, "reason": "Forbidden", "message": denial.to_string()});
            json!({"uid": uid, "allowed": false, "status": status})
        }
    };
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}).to_string()
}

fn plain(status: StatusCode, line: &'static str) -> Answer {
    page(status, "text/plain; charset=utf-8", [line, "\n"].concat())
}

fn page(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

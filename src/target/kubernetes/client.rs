//! `kube::Client`, carried by our own lines.
//!
//! A call runs on a blocking thread and hands its body back in pieces through a bounded channel, so that a
//! watch streams. Whoever drops the future or the body ends the thread: its line is shut.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body::{Body as HttpBody, Frame};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tower::Service;

use super::credentials::Credentials;
use crate::limits;
use crate::net::{Body, Line, NetError, Patience};
use crate::task;

/// A client for the API server that `credentials` name. Needs a tokio runtime around it.
pub(super) fn connect(credentials: Arc<Credentials>) -> kube::Client {
    let shared =
        Shared { credentials, calls: Arc::new(Semaphore::new(limits::API_CALLS)), idle: Mutex::new(Vec::new()) };
    kube::Client::new(Carrier(Arc::new(shared)), "default")
}

/// Put into a request: its answer may have a body this long, unless it is a watch.
/// [`limits::API_BODY_BYTES`] without it.
#[derive(Clone, Copy)]
pub(super) struct BodyLimit(pub(super) u64);

/// Found in an answer with status 401: the credential changed meanwhile, the same call may work now.
#[derive(Clone, Copy)]
pub(super) struct CredentialRenewed;

#[derive(Clone)]
struct Carrier(Arc<Shared>);

struct Shared {
    credentials: Arc<Credentials>,
    /// Held by the thread of a short call, so that there are never more threads than that.
    calls: Arc<Semaphore>,
    /// Lines of short calls that wait for the next one, with the generation of their credentials.
    idle: Mutex<Vec<(u64, Line)>>,
}

impl Service<Request<kube::client::Body>> for Carrier {
    type Response = Response<Answer>;
    type Error = NetError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, NetError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NetError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let (mut head, body) = request.into_parts();
            // It lies in memory. The text of all that a `kube::Error` can be brings a printer of faulty YAML and one of time
            // zones with it: 100 kB that never run.
            let body = body.collect_bytes().await.map_err(|_| NetError::Shut)?;
            head.uri = join(shared.credentials.server(), &head.uri)?;
            shared.carry(Request::from_parts(head, Vec::from(body))).await
        })
    }
}

impl Shared {
    async fn carry(self: Arc<Self>, request: Request<Vec<u8>>) -> Result<Response<Answer>, NetError> {
        let is_watch = is_watch(request.uri());
        let permit = if is_watch {
            None
        } else {
            Some(Arc::clone(&self.calls).acquire_owned().await.map_err(|_| NetError::Shut)?)
        };
        let hold = Hold(Arc::new(Mutex::new(Held::Starting)));
        let (head, arrival) = oneshot::channel();
        let (pieces, chunks) = mpsc::channel(CHUNKS);
        let call = Call { request, is_watch, hold: Hold(Arc::clone(&hold.0)), head, pieces, _permit: permit };
        drop(task::on_thread(move || call.run(&self)));
        let answer = arrival.await.unwrap_or(Err(NetError::Shut))?;
        Ok(answer.map(|()| Answer { chunks, hold }))
    }

    fn line(&self, is_watch: bool) -> (Line, u64, Option<HeaderValue>) {
        let current = self.credentials.current();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(generation, _)| *generation == current.generation);
        // A watch has a line of its own, because it is ended by shutting that line for ever.
        let kept = if is_watch { None } else { idle.pop().map(|(_, line)| line) };
        (kept.unwrap_or_else(|| Line::new(current.profile)), current.generation, current.authorization)
    }
}

/// Pieces of a body that wait for their reader.
const CHUNKS: usize = 2;

/// What a thread is doing with its line. Whoever takes the line out decides what becomes of it.
enum Held {
    Over,
    Running(Line),
    Starting,
}

/// One end of a call's line. The reader's end is dropped when nobody wants the answer any more.
struct Hold(Arc<Mutex<Held>>);

impl Hold {
    /// Whether the answer is still wanted.
    fn begin(&self, line: &Line) -> bool {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = matches!(*held, Held::Starting);
        if wanted {
            *held = Held::Running(line.clone());
        }
        wanted
    }

    fn take(&self) -> Option<Line> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *held, Held::Over) {
            Held::Running(line) => Some(line),
            Held::Over | Held::Starting => None,
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(line) = self.take() {
            line.shut();
        }
    }
}

type Piece = Result<Bytes, NetError>;

/// What a thread carries.
struct Call {
    request: Request<Vec<u8>>,
    is_watch: bool,
    hold: Hold,
    head: oneshot::Sender<Result<Response<()>, NetError>>,
    pieces: mpsc::Sender<Piece>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Call {
    fn run(mut self, shared: &Shared) {
        let (line, generation, authorization) = shared.line(self.is_watch);
        if !self.hold.begin(&line) {
            return;
        }
        let limit = self.request.extensions().get::<BodyLimit>().map_or(limits::API_BODY_BYTES, |limit| limit.0);
        if let Some(authorization) = &authorization {
            self.request.headers_mut().insert(header::AUTHORIZATION, authorization.clone());
        }
        let patience = if self.is_watch {
            Patience::Stream(limits::WATCH_SILENCE)
        } else {
            Patience::Answer(limits::RESPONSE_TIMEOUT)
        };
        let answer = match line.run(self.request, patience) {
            Ok(answer) => answer,
            Err(error) => {
                let _ = self.head.send(Err(error));
                return;
            }
        };
        let (mut head, body) = answer.into_parts();
        let announced = head.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let is_stream = self.is_watch && head.status.is_success();
        let limit = match (head.status.is_success(), is_stream) {
            (false, _) => limits::API_ERROR_BYTES,
            (true, true) => u64::MAX,
            (true, false) => limit,
        };
        if announced.is_some_and(|length: u64| length > limit) {
            let _ = self.head.send(Err(NetError::TooLong(limit)));
            return;
        }
        if head.status == http::StatusCode::UNAUTHORIZED && shared.credentials.renew(authorization.as_ref(), generation)
        {
            head.extensions.insert(CredentialRenewed);
        }
        if self.head.send(Ok(Response::from_parts(head, ()))).is_err() {
            return;
        }
        match pump(body.with_limit(limit), is_stream, &self.pieces) {
            Ok(()) => {
                // The body is over, so the line is free again, unless the reader was quicker and shut it.
                let mut idle = shared.idle.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(line) = self.hold.take()
                    && !self.is_watch
                    && idle.len() < limits::API_CALLS
                {
                    idle.push((generation, line));
                }
            }
            Err(Some(error)) => {
                let _ = self.pieces.blocking_send(Err(error));
            }
            Err(None) => {}
        }
    }
}

/// Reads a body to its end; no error means that nobody wants it any more.
fn pump(mut body: Body, is_stream: bool, pieces: &mpsc::Sender<Piece>) -> Result<(), Option<NetError>> {
    let mut buffer = vec![0; limits::API_CHUNK_BYTES];
    let mut line_length = 0;
    loop {
        let count = body.read_some(&mut buffer)?;
        let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else { return Ok(()) };
        if is_stream {
            line_length = longest_tail(line_length, read).ok_or(NetError::TooLong(limits::WATCH_LINE_BYTES as u64))?;
        }
        pieces.blocking_send(Ok(Bytes::copy_from_slice(read))).map_err(|_| None)?;
    }
}

/// The length of the line that is open after `read`, when `before` bytes of it were there already; nothing
/// when a line is over its bound.
fn longest_tail(before: usize, read: &[u8]) -> Option<usize> {
    let mut open = before;
    for (at, part) in read.split(|byte| *byte == b'\n').enumerate() {
        open = if at == 0 { before + part.len() } else { part.len() };
        if open > limits::WATCH_LINE_BYTES {
            return None;
        }
    }
    Some(open)
}

/// The body of an answer of the API server.
pub(super) struct Answer {
    chunks: mpsc::Receiver<Piece>,
    #[expect(dead_code, reason = "its drop ends the thread")]
    hold: Hold,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = NetError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, NetError>>> {
        let piece = ready!(self.chunks.poll_recv(context));
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }
}

/// The server's URL with the path and query of a request.
pub(super) fn join(server: &Uri, request: &Uri) -> Result<Uri, NetError> {
    let scheme = server.scheme_str().unwrap_or("https");
    let authority = server.authority().map_or("", |authority| authority.as_str());
    let prefix = server.path().trim_end_matches('/');
    let path = request.path_and_query().map_or("/", |path| path.as_str());
    format!("{scheme}://{authority}{prefix}{path}")
        .parse()
        .map_err(|_| NetError::Http("a path that no URL can hold".to_owned()))
}

fn is_watch(uri: &Uri) -> bool {
    uri.query().is_some_and(|query| query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1")))
}

#[cfg(test)]
mod tests {
    use super::{is_watch, join, longest_tail};
    use crate::limits;

    #[test]
    fn the_base_keeps_its_path() {
        let join =
            |server: &str, path: &str| join(&server.parse().unwrap(), &path.parse().unwrap()).unwrap().to_string();
        assert_eq!(join("https://a:6443", "/api/v1?x=1"), "https://a:6443/api/v1?x=1");
        assert_eq!(join("https://a/k8s/c1/", "/api/v1"), "https://a/k8s/c1/api/v1");
    }

    #[test]
    fn a_watch_is_known_by_its_query() {
        assert!(is_watch(&"/api/v1/pods?a=b&watch=true".parse().unwrap()));
        assert!(is_watch(&"/api/v1/pods?watch=1".parse().unwrap()));
        assert!(!is_watch(&"/api/v1/pods?labelSelector=watch%3Dtrue".parse().unwrap()));
    }

    #[test]
    fn a_line_of_just_the_bound_passes_and_one_byte_more_does_not() {
        let line = vec![b'x'; limits::WATCH_LINE_BYTES];
        assert_eq!(longest_tail(0, &line), Some(limits::WATCH_LINE_BYTES));
        assert_eq!(longest_tail(1, &line), None);
        assert_eq!(longest_tail(limits::WATCH_LINE_BYTES, b"\nab"), Some(2));
        assert_eq!(longest_tail(limits::WATCH_LINE_BYTES, b"x\n"), None);
        assert_eq!(longest_tail(5, b""), Some(5));
    }
}

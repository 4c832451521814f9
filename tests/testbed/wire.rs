//! How an answer goes over the wire, whole or spoilt.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body::{Body, Frame};
use serde_json::Value;
use tokio::sync::mpsc;

use super::answer::{Answer, MEDIA_TYPE};
use super::fault::Fault;
use super::job::{self, Job};

/// A body that some task writes piece by piece. An error in it cuts the connection.
#[derive(Debug)]
pub(crate) struct Pieces(mpsc::Receiver<io::Result<Bytes>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// Who writes the pieces.
struct Pen(mpsc::Sender<io::Result<Bytes>>);

/// The reader is gone.
struct Gone;

impl Pen {
    async fn write(&self, piece: impl Into<Bytes>) -> Result<(), Gone> {
        self.0.send(Ok(piece.into())).await.map_err(|_| Gone)
    }

    /// Cuts the connection, after what was written has had the time to leave.
    async fn cut(&self) -> Result<(), Gone> {
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.0.send(Err(cut())).await.map_err(|_| Gone)
    }
}

/// Puts an answer on the wire. An error cuts the connection before anything was sent.
pub(crate) async fn send(answer: Answer, fault: Option<Fault>) -> io::Result<Response<Pieces>> {
    match fault {
        None => Ok(whole(answer)),
        Some(Fault::Answer(answer)) => Ok(whole(answer)),
        Some(Fault::CutBeforeHead | Fault::LostAnswer | Fault::NotHttp) => Err(cut()),
        Some(Fault::IgnoredWait) => Ok(whole(Answer::text(r#"{"jobs":[]}"#))),
        Some(Fault::Silence) => match std::future::pending::<Infallible>().await {},
        Some(Fault::LongHead(length)) => Ok(whole(answer.with("x-padding", "x".repeat(length)))),
        Some(Fault::EndlessJobs) => Ok(endless(endless_jobs)),
        Some(Fault::EndlessSpace) => Ok(endless(endless_space)),
        Some(Fault::CutInBody) => Ok(spoilt(answer, async |pen, body| {
            pen.write(first_half(&body)).await?;
            pen.cut().await
        })),
        Some(Fault::SilenceInBody) => Ok(spoilt(answer, async |pen, body| {
            pen.write(first_half(&body)).await?;
            pen.0.closed().await;
            Err(Gone)
        })),
        Some(Fault::Drip(interval)) => Ok(spoilt(answer, async move |pen, body| {
            for at in 0..body.len() {
                pen.write(body.slice(at..=at)).await?;
                tokio::time::sleep(interval).await;
            }
            Ok(())
        })),
    }
}

fn whole(answer: Answer) -> Response<Pieces> {
    let (pieces, receiver) = mpsc::channel(1);
    let mut response = head(&answer, Pieces(receiver));
    if let Some(body) = answer.body {
        response.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        // The channel is empty and its receiver alive: there is room for the one piece.
        let _ = pieces.try_send(Ok(body));
    }
    response
}

/// An answer whose body somebody writes in their own way. One without a body gets one, or there would be
/// nothing to spoil.
fn spoilt<F, W>(mut answer: Answer, writer: F) -> Response<Pieces>
where
    F: FnOnce(Pen, Bytes) -> W + Send + 'static,
    W: Future<Output = Result<(), Gone>> + Send,
{
    let body = answer.body.take().filter(|body| !body.is_empty());
    if body.is_none() {
        answer = Answer::of(200, MEDIA_TYPE, Bytes::new());
    }
    let body = body.unwrap_or_else(|| Bytes::from(" ".repeat(1000) + "{}"));
    let (sender, receiver) = mpsc::channel(1);
    let mut response = head(&answer, Pieces(receiver));
    response.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    tokio::spawn(async move { writer(Pen(sender), body).await });
    response
}

fn endless<F, W>(writer: F) -> Response<Pieces>
where
    F: FnOnce(Pen) -> W + Send + 'static,
    W: Future<Output = Result<(), Gone>> + Send,
{
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move { writer(Pen(sender)).await });
    head(&Answer::text(Bytes::new()), Pieces(receiver))
}

async fn endless_jobs(pen: Pen) -> Result<(), Gone> {
    let mut opening = r#"{"jobs":["#;
    loop {
        let job = Job::apply(job::config_map("default", "endless", "x"));
        let id = format!("endless-{}", job.id());
        let job: Value = job.with("id", id).into();
        pen.write(format!("{opening}{job}")).await?;
        opening = ",";
    }
}

async fn endless_space(pen: Pen) -> Result<(), Gone> {
    pen.write(r#"{"jobs":["#).await?;
    let space = Bytes::from(" ".repeat(16 * 1024));
    loop {
        pen.write(space.clone()).await?;
    }
}

fn head(answer: &Answer, body: Pieces) -> Response<Pieces> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in &answer.headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().append(*name, value);
        }
    }
    response
}

fn first_half(body: &Bytes) -> Bytes {
    body.slice(..body.len().div_ceil(2))
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the testbed was told to cut the connection")
}

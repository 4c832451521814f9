//! Sockets, TLS and HTTP: a thread with a runtime of its own.

use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::{HandshakeKind, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Notify, oneshot, watch};
use tokio_rustls::TlsAcceptor;

use super::answer::{Answer, Refusal};
use super::check;
use super::credential::{self, MacRule, Post, Proofs};
use super::fault::Fault;
use super::route::{Call, Route};
use super::state::{Counts, Seen, State};
use super::traffic::Counted;
use super::wire::{self, Pieces};

/// Longest body of a request. A batch of 100 events of 1 KiB is a tenth of it.
const BODY_MAX: usize = 1024 * 1024;

/// How long a request's body may take to come.
const BODY_TIMEOUT: Duration = Duration::from_mins(1);

/// What the server's thread and the test's share.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Wakes the test.
    changed: Condvar,
    /// Wakes held polls.
    wake: Notify,
    /// Counts up to cut every connection there is.
    cuts: watch::Sender<u64>,
    base: String,
}

impl Shared {
    pub(crate) fn new(base: String, state: State) -> Arc<Self> {
        let (changed, wake, cuts) = (Condvar::new(), Notify::new(), watch::Sender::new(0));
        Arc::new(Self { state: Mutex::new(state), changed, wake, cuts, base })
    }

    /// Reads the state.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.lock())
    }

    /// Changes the state and wakes everybody who waits for something.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        self.wake.notify_waiters();
        result
    }

    /// Counts something. Held polls have no reason to wake for that.
    pub(crate) fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.lock().counts);
        self.changed.notify_all();
    }

    /// Waits until `look` finds something; none when the time is over.
    pub(crate) fn wait<T>(&self, timeout: Duration, mut look: impl FnMut(&State) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            if let Some(found) = look(&state) {
                return Some(found);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Cuts every connection there is.
    pub(crate) fn cut_connections(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// A test that panicked while it looked at the state has not spoilt it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A port of the loopback that is held, while nobody listens on it: connecting is refused, and nobody
/// else gets the port. Whoever holds it can hold it twice.
pub(crate) fn hold_port(port: u16) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    // Not before a free port is found: one that another testbed shares would be free enough.
    socket.set_reuseport(port != 0)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    socket.set_reuseport(true)?;
    Ok(socket)
}

/// The server while it is up. Dropping it closes everything.
#[derive(Debug)]
pub(crate) struct Server {
    thread: Option<JoinHandle<()>>,
    stop: Option<oneshot::Sender<()>>,
}

impl Server {
    /// Listens on a held port, with TLS where there is a configuration for it.
    pub(crate) fn start(socket: TcpSocket, tls: Option<Arc<ServerConfig>>, shared: Arc<Shared>) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std_mpsc::channel();
        let thread = std::thread::Builder::new().name("testbed".to_owned()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(error))),
            };
            runtime.block_on(async move {
                let listener = match socket.listen(1024) {
                    Ok(listener) => listener,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                let _ = ready.send(Ok(()));
                let accepting = async {
                    loop {
                        match listener.accept().await {
                            Ok((stream, _)) => drop(tokio::spawn(connect(stream, tls.clone(), Arc::clone(&shared)))),
                            // Out of files, for one: what else is open may end meanwhile.
                            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                        }
                    }
                };
                tokio::select! {
                    () = accepting => {}
                    _ = stopped => {}
                }
            });
        })?;
        is_ready.recv().map_err(|_| io::Error::other("the server's thread ended"))??;
        Ok(Self { thread: Some(thread), stop: Some(stop) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn connect(stream: TcpStream, tls: Option<Arc<ServerConfig>>, shared: Arc<Shared>) {
    let number = shared.change(|state| {
        state.counts.connections += 1;
        state.counts.connections
    });
    // The latency that is measured is the agent's, not Nagle's.
    let _ = stream.set_nodelay(true);
    let stream = Counted::new(stream, Arc::clone(&shared));
    let mut cuts = shared.cuts.subscribe();
    let talking = async {
        let Some(config) = tls else {
            return talk(stream, Client { number, has_tls: false, certificate: None }, &shared).await;
        };
        match TlsAcceptor::from(config).accept(stream).await {
            Ok(stream) => {
                let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
                shared.count(|counts| {
                    counts.handshakes += 1;
                    counts.resumed += usize::from(resumed);
                });
                let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                let certificate = shown.map(|leaf| Arc::from(leaf.as_ref()));
                talk(stream, Client { number, has_tls: true, certificate }, &shared).await;
            }
            Err(_) => shared.count(|counts| counts.failed_handshakes += 1),
        }
    };
    tokio::select! {
        () = talking => {}
        _ = cuts.changed() => {}
    }
}

/// Who is at the other end of a connection.
#[derive(Clone)]
struct Client {
    /// Counts the connections.
    number: usize,
    /// Without TLS somebody stands in front who asks for the certificates.
    has_tls: bool,
    /// What it showed, DER.
    certificate: Option<Arc<[u8]>>,
}

async fn talk<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(stream: S, client: Client, shared: &Arc<Shared>) {
    let instead: Arc<Mutex<Option<&'static [u8]>>> = Arc::default();
    let service = service_fn(|request| {
        let (shared, instead, client) = (Arc::clone(shared), Arc::clone(&instead), client.clone());
        async move { serve(request, &client, &shared, &instead).await }
    });
    let mut connection =
        http1::Builder::new().header_read_timeout(None).serve_connection(TokioIo::new(stream), service);
    let _ = (&mut connection).await;
    let bytes = instead.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(bytes) = bytes {
        let mut stream = connection.into_parts().io.into_inner();
        // So few bytes go out in one write.
        let _ = poll_fn(|context| Pin::new(&mut stream).poll_write(context, bytes)).await;
        let _ = poll_fn(|context| Pin::new(&mut stream).poll_shutdown(context)).await;
    }
}

async fn serve(
    request: Request<Incoming>,
    client: &Client,
    shared: &Shared,
    instead: &Mutex<Option<&'static [u8]>>,
) -> io::Result<Response<Pieces>> {
    let (head, body) = request.into_parts();
    let route = Route::parse(&shared.base, head.method.as_str(), head.uri.path());
    let call = route.as_ref().ok().map(|route| route.call);
    let body = read(body).await;
    let (number, fault) = shared.change(|state| {
        let fault = state.faults.take(call);
        state.requests.push(Seen {
            at: Instant::now(),
            call,
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
            query: head.uri.query().map(str::to_owned),
            headers: headers_without_bearer(&head),
            body: body.as_ref().map(|body| body.to_vec()).unwrap_or_default(),
            connection: client.number,
            certificate: client.certificate.clone(),
            answered: None,
            answer: Bytes::new(),
            fault: fault.clone(),
        });
        state.counts.polls += usize::from(call == Some(Call::Jobs));
        (state.requests.len() - 1, fault)
    });
    if fault == Some(Fault::NotHttp) {
        *instead.lock().unwrap_or_else(PoisonError::into_inner) = Some(b"220 mail.example ESMTP ready\r\n250 HELP\r\n");
    }
    let answer = match &fault {
        Some(fault) if fault.is_instead() => Answer::done(),
        _ => {
            let answer = match (route, body) {
                (Err(refusal), _) | (_, Err(refusal)) => Err(refusal),
                (Ok(route), Ok(body)) => respond(&route, &head, &body, client, shared).await,
            };
            answer.unwrap_or_else(|refusal| refuse(refusal, &head, shared))
        }
    };
    let (status, body) = (answer.status, answer.body.clone().unwrap_or_default());
    let sent = wire::send(answer, fault).await;
    shared.change(|state| {
        let status = sent.as_ref().map_or(status, |response| response.status().as_u16());
        if let Some(seen) = state.requests.get_mut(number).filter(|_| sent.is_ok()) {
            seen.answered = Some((Instant::now(), status));
            seen.answer = body;
        }
    });
    sent
}

async fn read(body: Incoming) -> Result<Bytes, Refusal> {
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_MAX).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => Err(Refusal::new(413, "TooLarge", format!("the body cannot be read: {error}"))),
        Err(_) => Err(Refusal::new(408, "Timeout", "the body did not come in time")),
    }
}

/// What a call comes to: checks first, one change after the last of them.
async fn respond(
    route: &Route,
    head: &Parts,
    body: &Bytes,
    client: &Client,
    shared: &Shared,
) -> Result<Answer, Refusal> {
    let bearer = check::headers(route.call, &head.headers, !body.is_empty())?;
    let issues = shared.read(|state| state.issuer.is_some());
    if issues && client.has_tls && client.certificate.is_none() && !matches!(route.call, Call::Register | Call::Rotate)
    {
        return Err(Refusal::new(403, "NoCertificate", "no client certificate was shown"));
    }
    if route.call == Call::Register {
        check::no_query(head.uri.query())?;
        let additions = shared.read(|state| state.behaviour.additions);
        let wish = check::registration(body, additions)?;
        return shared.change(|state| state.register(&bearer, &wish));
    }
    let is_certified = client.certificate.is_some();
    let cluster = shared.change(|state| admit(state, route.call, &bearer, head, body, is_certified))?;
    if route.call == Call::Jobs {
        let query = check::poll_query(head.uri.query())?;
        if query.cluster != cluster {
            return Err(Refusal::new(403, "WrongCluster", "the bearer is of another cluster"));
        }
        return Ok(hold(&cluster, Duration::from_secs(query.wait), shared).await);
    }
    check::no_query(head.uri.query())?;
    match route.call {
        Call::Ack => shared.change(|state| state.ack(&cluster, &route.job)),
        Call::Status => {
            let status = check::status(body)?;
            shared.change(|state| state.status(&cluster, &route.job, status))
        }
        Call::Result => {
            let result = check::result(body)?;
            shared.change(|state| state.result(&cluster, &route.job, result))
        }
        Call::Events => {
            let events = check::events(body, &cluster)?;
            Ok(shared.change(|state| state.keep_events(&cluster, events)))
        }
        Call::Rotate => {
            let request = check::rotation(body, shared.read(|state| state.behaviour.additions))?;
            shared.change(|state| state.rotate(&cluster, request.as_deref()))
        }
        Call::Any | Call::Jobs | Call::Register => Err(Refusal::new(404, "UnknownPath", "no such call")),
    }
}

/// Whose request this is: a bearer that lives, or for a rotation a proof, and for each post a MAC.
fn admit(
    state: &mut State,
    call: Call,
    bearer: &str,
    head: &Parts,
    body: &[u8],
    is_certified: bool,
) -> Result<String, Refusal> {
    let Some((cluster, mac_key)) = state.issued(bearer) else { return state.authenticate(bearer) };
    let post = Post { head, body, bearer, cluster: &cluster, mac_key };
    if let Err(refusal) = state.authenticate(bearer) {
        let may_prove = call == Call::Rotate && state.behaviour.proofs == Proofs::Taken;
        if !may_prove || credential::header(&head.headers, "x-vworkspace-proof").is_none() {
            return Err(refusal);
        }
        let identity = state.identity_of(&cluster).map(str::to_owned);
        credential::check_proof(&post, identity.as_deref(), &mut state.once)?;
    }
    if call != Call::Jobs {
        let rule = if is_certified { MacRule::IfThere } else { state.behaviour.mac };
        post.check_mac(rule, &mut state.once)?;
    }
    Ok(cluster)
}

/// Holds a poll until there are jobs or its time is over.
async fn hold(cluster: &str, wait: Duration, shared: &Shared) -> Answer {
    let deadline = tokio::time::Instant::now() + wait;
    let _held = Held::new(shared);
    loop {
        let woken = shared.wake.notified();
        tokio::pin!(woken);
        woken.as_mut().enable();
        // Not through `change`: that would wake this very poll for ever.
        let answer = shared.lock().poll(cluster);
        if let Some(answer) = answer {
            shared.changed.notify_all();
            return answer;
        }
        if tokio::time::timeout_at(deadline, woken).await.is_err() {
            return shared.read(State::no_jobs);
        }
    }
}

/// Counts a held poll for as long as it is held, even if its client goes away.
struct Held<'a>(&'a Shared);

impl<'a> Held<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.count(|counts| counts.held += 1);
        Self(shared)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.count(|counts| counts.held -= 1);
    }
}

/// Writes down what breaks the contract: a status that says so is not among those that a sound agent can
/// meet (401, 403, 404 for a job, 409, an addition that an old server does not know). It never sends a wrong MAC or a wrong
/// proof.
fn refuse(refusal: Refusal, head: &Parts, shared: &Shared) -> Answer {
    let is_wrong = matches!(refusal.error, "InvalidMac" | "InvalidProof");
    let is_addition = refusal.error == "UnknownField"
        && check::REGISTER_ADDITIONS.iter().any(|name| refusal.message == format!("unknown member /{name}"));
    if is_wrong || !matches!(refusal.status, 401 | 403 | 409) && refusal.error != "UnknownJob" && !is_addition {
        let violation = format!("{} {}: {} {}", head.method, head.uri.path(), refusal.status, refusal.message);
        shared.change(|state| state.violations.push(violation));
    }
    refusal.into()
}

fn headers_without_bearer(head: &Parts) -> Vec<(String, String)> {
    let headers = head.headers.iter().filter(|(name, _)| **name != http::header::AUTHORIZATION);
    headers.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect()
}

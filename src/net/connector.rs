//! Lines: kept connections with bounds.

use std::fmt;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, Request, Response};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use ureq::config::AutoHeaderValue;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, NextTimeout, TcpConnector, Transport,
    TransportAdapter,
};
use zeroize::Zeroize as _;

use super::NetError;
use super::body::Body;
use super::gather::Gathered;
use super::proxy::ProxySetting;
use super::renewal::Tls;
use crate::limits;
use crate::metrics::Meter;

/// How a [`Line`] connects.
#[derive(Clone)]
pub struct Profile {
    /// Whom to trust, and what to show.
    pub tls: Tls,
    /// The way out.
    pub proxy: ProxySetting,
    /// Whether `http://` is possible at all.
    pub plain_http: PlainHttp,
    /// What counts the bytes.
    pub meter: Meter,
}

/// Whether `http://` is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainHttp {
    /// Only to an address of this machine.
    Loopback,
    /// Never.
    Refused,
}

/// How long an answer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// The head comes within this time, the body no slower than [`limits::BODY_RATE`].
    Answer(Duration),
    /// A stream that may be silent for this long between two reads, without an end.
    Stream(Duration),
}

/// A kept connection to one server. Requests on it are made one after the other.
///
/// A clone is the same line.
#[derive(Clone)]
pub struct Line {
    agent: ureq::Agent,
    plain_http: PlainHttp,
    tls: Tls,
}

impl Line {
    /// Opens nothing yet: the first request connects.
    #[must_use]
    pub fn new(profile: Profile) -> Self {
        let config = ureq::config::Config::builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(profile.proxy.into_ureq())
            .user_agent(USER_AGENT)
            // Nobody compresses unasked, and to say so costs 27 bytes a request.
            .accept_encoding(AutoHeaderValue::None)
            .max_response_header_size(limits::HEAD_BYTES)
            .input_buffer_size(limits::CONNECTION_BUFFER_BYTES)
            .output_buffer_size(limits::CONNECTION_BUFFER_BYTES)
            .max_idle_connections(1)
            .max_idle_connections_per_host(1)
            .max_idle_age(limits::IDLE_CONNECTION)
            .timeout_resolve(Some(limits::RESOLVE_TIMEOUT))
            .timeout_connect(Some(limits::CONNECT_TIMEOUT))
            .timeout_send_request(Some(limits::SEND_TIMEOUT))
            .timeout_send_body(Some(limits::SEND_TIMEOUT))
            .build();
        let connector =
            ().chain(ConnectProxyConnector::default())
                .chain(MeteredConnector::new(profile.meter))
                .chain(TlsConnector(profile.tls.clone()));
        let agent = ureq::Agent::with_parts(config, connector, Names::default());
        Self { agent, plain_http: profile.plain_http, tls: profile.tls }
    }

    /// Sends a request and waits for the head of its answer, whatever its status. Blocks. A GET or DELETE
    /// has no body.
    ///
    /// # Errors
    /// When no answer came: a [`NetError`] says why.
    pub fn run(&self, request: Request<Vec<u8>>, patience: Patience) -> Result<Response<Body>, NetError> {
        self.allow(request.uri())?;
        let (mut head, body) = request.into_parts();
        // A registration's body holds the one-time token.
        let body = zeroize::Zeroizing::new(body);
        let answer = if body.is_empty() {
            if matches!(head.method, Method::POST | Method::PUT | Method::PATCH) {
                head.headers.insert(http::header::CONTENT_LENGTH, http::HeaderValue::from_static("0"));
            }
            self.send(Request::from_parts(head, ()), patience)
        } else {
            self.send(Request::from_parts(head, body.as_slice()), patience)
        };
        let paced = matches!(patience, Patience::Answer(_));
        let answer = answer.map_err(NetError::from_ureq)?;
        Ok(answer.map(|body| {
            let reader = body.into_with_config().limit(u64::MAX).reader();
            Body::new(reader, limits::SMALL_BODY_BYTES, paced)
        }))
    }

    fn send<B: ureq::AsSendBody>(
        &self,
        request: Request<B>,
        patience: Patience,
    ) -> Result<Response<ureq::Body>, ureq::Error> {
        // Plain http is to this machine: a proxy would take it to its own loopback, and read the bearer.
        let is_plain = request.uri().scheme() == Some(&http::uri::Scheme::HTTP);
        let mut request = self.agent.configure_request(request);
        if is_plain {
            request = request.proxy(None);
        }
        let request = match patience {
            Patience::Answer(time) => {
                request.timeout_recv_response(Some(time)).timeout_recv_body(Some(limits::BODY_TIMEOUT)).build()
            }
            Patience::Stream(silence) => {
                request.timeout_recv_response(Some(limits::RESPONSE_TIMEOUT)).timeout_per_read(Some(silence)).build()
            }
        };
        self.agent.run(request)
    }

    /// Whether the server's chain is valid at this time; true without TLS.
    #[must_use]
    pub fn is_valid_at(&self, time: SystemTime) -> bool {
        self.tls.is_valid_at(time)
    }

    /// Ends the line: a call that blocks on it fails at once, and so does every later one.
    pub fn shut(&self) {
        self.agent.clone().shutdown();
    }

    fn allow(&self, uri: &http::Uri) -> Result<(), NetError> {
        match uri.scheme_str() {
            Some("https") => Ok(()),
            Some("http") if self.plain_http == PlainHttp::Loopback && uri.host().is_some_and(is_loopback) => Ok(()),
            _ => Err(NetError::PlainHttp),
        }
    }
}

/// Whether a host of a URL is this machine by its address. A name is resolved by somebody else, and so
/// only `localhost` is believed.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether the port of an authority, if it has one, is a port. `http` takes any digits and forgets them, and
/// the default port would be used without a word.
#[must_use]
pub fn has_good_port(authority: &http::uri::Authority) -> bool {
    let (_, place) = authority.as_str().rsplit_once('@').unwrap_or(("", authority.as_str()));
    match place.strip_prefix(authority.host()).unwrap_or_default() {
        "" => true,
        port => port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port != 0)),
    }
}

const USER_AGENT: &str = concat!("pullet/", env!("CARGO_PKG_VERSION"));

/// Resolves names as the system does, and says which one has no address. An address needs no asking, and no
/// thread that asks.
#[derive(Debug, Default)]
struct Names(DefaultResolver);

impl Resolver for Names {
    fn resolve(
        &self,
        uri: &http::Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        if let Some(address) = literal(uri) {
            let mut addresses = self.empty();
            addresses.push(address);
            return Ok(addresses);
        }
        self.0.resolve(uri, config, timeout).map_err(|error| match error {
            ureq::Error::Io(_) | ureq::Error::HostNotFound => {
                other(NetError::NameNotFound(uri.host().unwrap_or_default().to_owned()))
            }
            error => error,
        })
    }
}

/// The address that a URL names by itself.
fn literal(uri: &http::Uri) -> Option<SocketAddr> {
    DefaultResolver::host_and_port(uri.scheme()?, uri.authority()?)?.parse().ok()
}

/// Opens a TCP connection, unless a proxy's is there already, and counts what goes over it.
#[derive(Debug)]
struct MeteredConnector {
    tcp: TcpConnector,
    meter: Meter,
    /// What the socket of a connection with TLS goes by: the sizes of its buffers.
    beneath_tls: ureq::config::Config,
}

impl MeteredConnector {
    fn new(meter: Meter) -> Self {
        let beneath_tls = ureq::config::Config::builder()
            .input_buffer_size(limits::SOCKET_BUFFER_BYTES)
            .output_buffer_size(limits::SOCKET_BUFFER_BYTES)
            .build();
        Self { tcp: TcpConnector::default(), meter, beneath_tls }
    }
}

impl<In: Transport> Connector<In> for MeteredConnector {
    type Out = Box<dyn Transport>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        if let Some(transport) = chained {
            return Ok(Some(Box::new(transport)));
        }
        let details = ConnectionDetails {
            uri: details.uri,
            addrs: details.addrs.clone(),
            config: if details.needs_tls() { &self.beneath_tls } else { details.config },
            request_level: details.request_level,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: Arc::clone(&details.current_time),
            run_connector: Arc::clone(&details.run_connector),
            register_shutdown: Arc::clone(&details.register_shutdown),
        };
        let transport = Connector::<()>::connect(&self.tcp, &details, None)?;
        Ok(transport.map(|transport| Box::new(Metered(transport, self.meter.clone())) as Self::Out))
    }
}

#[derive(Debug)]
struct Metered<T>(T, Meter);

impl<T: Transport> Transport for Metered<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        // Some of it may be out even if it fails.
        self.1.add_sent(amount);
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let before = self.0.buffers().input().len();
        let came = self.0.await_input(timeout);
        let count = self.0.buffers().input().len().saturating_sub(before);
        self.1.add_received(count);
        came
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        self.0.is_tls()
    }
}

/// Wraps a connection in TLS with a configuration of our own.
struct TlsConnector(Tls);

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsConnector")
    }
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Box<dyn Transport>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Box::new(Paced(transport))));
        }
        let host = details.uri.host().unwrap_or_default();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|_| other(NetError::Tls(rustls::Error::General("invalid server name".to_owned()))))?;
        let mut connection = ClientConnection::new(self.0.now(), name).map_err(|error| other(NetError::Tls(error)))?;
        connection.set_buffer_limit(Some(limits::CONNECTION_BUFFER_BYTES));
        let mut socket = TransportAdapter::new(Paced(transport), Arc::clone(&details.current_time));
        socket.set_timeout(details.timeout);
        shake_hands(&mut connection, &mut socket).map_err(tls_fault)?;
        let buffers = Gathered::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Box::new(TlsTransport { buffers, stream: StreamOwned::new(connection, socket) })))
    }
}

/// Chains and signatures take more of a stack than all that comes later, and what a thread has once used it keeps until it
/// ends, which for one that polls or watches is never. So this is done by one that ends.
fn shake_hands(connection: &mut ClientConnection, socket: &mut (impl Read + Write + Send)) -> std::io::Result<()> {
    std::thread::scope(|scope| {
        let shaking = std::thread::Builder::new().stack_size(limits::THREAD_STACK_BYTES).spawn_scoped(scope, || {
            while connection.is_handshaking() {
                connection.complete_io(socket)?;
            }
            Ok(())
        })?;
        shaking.join().unwrap_or_else(|_| Err(std::io::Error::other("the handshake was interrupted")))
    })
}

/// rustls wraps its own errors in an `io::Error`; they are taken out again.
fn tls_fault(error: std::io::Error) -> ureq::Error {
    match error.downcast::<rustls::Error>() {
        Ok(error) => other(NetError::Tls(error)),
        Err(error) => error.into(),
    }
}

fn other(error: NetError) -> ureq::Error {
    ureq::Error::Other(Box::new(error))
}

struct TlsTransport<T: Transport> {
    buffers: Gathered,
    stream: StreamOwned<ClientConnection, TransportAdapter<Paced<T>>>,
}

impl<T: Transport> TlsTransport<T> {
    /// Sends what was kept, in one write.
    fn send(&mut self, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let output = self.buffers.take();
        let written = self.stream.write_all(output).map_err(tls_fault);
        // The line is kept, and with it this buffer: a decrypted Secret on its way to the API server would stay in it.
        output.zeroize();
        written
    }
}

impl<T: Transport> fmt::Debug for TlsTransport<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport")
    }
}

impl<T: Transport> Transport for TlsTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        if self.buffers.keep(amount) { Ok(()) } else { self.send(timeout) }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        if !self.buffers.is_empty() {
            self.send(NextTimeout { after: timeout.after.min(limits::SEND_TIMEOUT.into()), ..timeout })?;
        }
        self.stream.sock.set_timeout(timeout);
        let input = self.buffers.input_append_buf();
        let amount = self.stream.read(input).map_err(tls_fault)?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

/// Gives a silent body up after [`limits::READ_TIMEOUT`]. ureq's own timeout for a read counts while a
/// poll is held, too, where silence is what we want.
#[derive(Debug)]
struct Paced<T>(T);

impl<T: Transport> Transport for Paced<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, mut timeout: NextTimeout) -> Result<bool, ureq::Error> {
        if timeout.reason == ureq::Timeout::RecvBody {
            timeout.after = timeout.after.min(limits::READ_TIMEOUT.into());
        }
        self.0.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        self.0.is_tls()
    }
}

#[cfg(test)]
mod tests {
    use super::{Names, has_good_port, is_loopback};
    use ureq::unversioned::resolver::Resolver;
    use ureq::unversioned::transport::NextTimeout;
    use ureq::unversioned::transport::time::Duration;

    #[test]
    fn an_address_is_not_asked_for() {
        let config = ureq::config::Config::default();
        // No thread can answer in no time.
        let at_once = || NextTimeout {
            after: Duration::from_millis(0),
            reason: ureq::Timeout::Resolve,
            ..NextTimeout::default()
        };
        for (uri, expected) in [
            ("https://192.0.2.7:6443/api", "192.0.2.7:6443"),
            ("https://192.0.2.7", "192.0.2.7:443"),
            ("http://127.0.0.1/", "127.0.0.1:80"),
            ("https://[2001:db8::1]:8443/", "[2001:db8::1]:8443"),
            ("https://[::1]/", "[::1]:443"),
        ] {
            let found = Names::default().resolve(&uri.parse().unwrap(), &config, at_once()).unwrap();
            assert_eq!(found[..], [expected.parse().unwrap()], "{uri}");
        }
    }

    #[test]
    fn a_port_is_a_port_or_not_there() {
        for (authority, expected) in [
            ("a", true),
            ("a:1", true),
            ("u:p@a:65535", true),
            ("[::1]", true),
            ("[::1]:443", true),
            ("a:0", false),
            ("a:65536", false),
            ("a:", false),
        ] {
            assert_eq!(has_good_port(&authority.parse().unwrap()), expected, "{authority}");
        }
    }

    #[test]
    fn loopback_is_an_address_or_localhost_and_nothing_else() {
        for host in ["127.0.0.1", "127.9.9.9", "[::1]", "localhost", "LOCALHOST"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["128.0.0.1", "localhost.example", "[::2]", "0.0.0.0", "", "127.0.0.1.example"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}

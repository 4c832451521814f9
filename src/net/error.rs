//! What can go wrong between two machines.

use std::error::Error as StdError;
use std::fmt;
use std::io;

/// A fault of the network or of the peer's HTTP, never of the protocol above it.
#[derive(Debug)]
pub enum NetError {
    /// No connection: refused, unreachable, reset while connecting.
    Connect(io::Error),
    /// The connection ended in the middle.
    Cut(io::Error),
    /// What came is no HTTP, or more of it than [`HEAD_BYTES`](crate::limits::HEAD_BYTES).
    Http(String),
    /// The host has no address.
    NameNotFound,
    /// `http://` where only `https://` is allowed.
    PlainHttp,
    /// The proxy refused or failed.
    Proxy(String),
    /// The line was shut by us.
    Shut,
    /// The body was slower than it may be.
    TooSlow,
    /// The body is longer than this.
    TooLong(u64),
    /// Nothing came in time; the phase is named.
    Timeout(&'static str),
    /// The peer's certificate, name or version was refused.
    Tls(rustls::Error),
}

impl fmt::Display for NetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(_) => f.write_str("no connection"),
            Self::Cut(_) => f.write_str("the connection ended in the middle of an answer"),
            Self::Http(reason) => write!(f, "the answer is no HTTP: {reason}"),
            Self::NameNotFound => f.write_str("the host name has no address (check DNS)"),
            Self::PlainHttp => f.write_str(
                "plain http is refused: use https, or for a server on this machine set allow_plain_http_loopback",
            ),
            Self::Proxy(reason) => write!(f, "the proxy did not let us through: {reason}"),
            Self::Shut => f.write_str("the agent is stopping"),
            Self::TooSlow => f.write_str("the answer came too slowly and was given up"),
            Self::TooLong(limit) => write!(f, "the answer is longer than {limit} bytes"),
            Self::Timeout(phase) => write!(f, "no answer in time while {phase}"),
            Self::Tls(_) => f.write_str("TLS was refused (wrong CA, name or clock?)"),
        }
    }
}

impl StdError for NetError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Connect(source) | Self::Cut(source) => Some(source),
            Self::Tls(source) => Some(source),
            _ => None,
        }
    }
}

impl NetError {
    /// Finds what ureq, or a connector below it, meant.
    pub(super) fn from_ureq(error: ureq::Error) -> Self {
        match error {
            ureq::Error::Io(error) => Self::from_io(error),
            ureq::Error::Timeout(phase) => Self::Timeout(phase_name(phase)),
            ureq::Error::HostNotFound => Self::NameNotFound,
            ureq::Error::RequireHttpsOnly(_) => Self::PlainHttp,
            ureq::Error::ConnectProxyFailed(reason) => Self::Proxy(reason),
            ureq::Error::InvalidProxyUrl => Self::Proxy("its URL cannot be used".to_owned()),
            ureq::Error::ConnectionFailed => Self::Connect(io::ErrorKind::NotConnected.into()),
            ureq::Error::Other(error) => match error.downcast::<Self>() {
                Ok(error) => *error,
                Err(error) => Self::Http(error.to_string()),
            },
            other => Self::Http(other.to_string()),
        }
    }

    /// Finds what an error of a read or a write meant; a [`NetError`] or a ureq error may be inside.
    pub(super) fn from_io(error: io::Error) -> Self {
        match error.downcast::<ureq::Error>() {
            Ok(error) => Self::from_ureq(error),
            Err(error) => match error.downcast::<Self>() {
                Ok(error) => error,
                Err(error) => match error.kind() {
                    io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::Timeout("talking to the server"),
                    io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::NetworkDown
                    | io::ErrorKind::AddrNotAvailable => Self::Connect(error),
                    io::ErrorKind::NotConnected => Self::Shut,
                    _ => Self::Cut(error),
                },
            },
        }
    }

    /// As an error of a reader.
    pub(super) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }
}

fn phase_name(phase: ureq::Timeout) -> &'static str {
    match phase {
        ureq::Timeout::Resolve => "resolving the name",
        ureq::Timeout::Connect => "connecting",
        ureq::Timeout::SendRequest | ureq::Timeout::SendBody | ureq::Timeout::PerWrite => "sending",
        ureq::Timeout::RecvResponse => "waiting for the answer",
        ureq::Timeout::RecvBody | ureq::Timeout::PerRead => "reading the answer",
        _ => "talking to the server",
    }
}

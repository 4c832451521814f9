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
    /// This host, the server's or the proxy's, has no address.
    NameNotFound(String),
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
            Self::NameNotFound(host) => {
                write!(f, "the name {host} has no address (is it spelled right? does DNS work here?)")
            }
            Self::PlainHttp => f.write_str(
                "plain http is refused: use https, or for a server on this machine set allow_plain_http_loopback",
            ),
            Self::Proxy(reason) => {
                write!(
                    f,
                    "the proxy did not let us through (check --proxy or HTTPS_PROXY, or go straight with --proxy none): {reason}"
                )
            }
            Self::Shut => f.write_str("the agent is stopping"),
            Self::TooSlow => f.write_str("the answer came too slowly and was given up"),
            Self::TooLong(limit) => write!(f, "the answer is longer than {limit} bytes"),
            Self::Timeout(phase) => write!(f, "no answer in time while {phase}"),
            Self::Tls(error) => {
                write!(f, "TLS was refused: {}", tls_advice(error))?;
                match error {
                    // rustls names it in a derived Debug alone, which says nothing in the static binary (cross/build).
                    rustls::Error::InvalidCertificate(rustls::CertificateError::Other(fault)) => {
                        write!(f, " ({fault})")
                    }
                    _ => Ok(()),
                }
            }
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
            ureq::Error::HostNotFound => Self::NameNotFound("of the server".to_owned()),
            ureq::Error::RequireHttpsOnly(_) => Self::PlainHttp,
            ureq::Error::ConnectProxyFailed(reason) => Self::Proxy(proxy_advice(reason)),
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

/// What a person can do about a certificate; the error itself is the source.
fn tls_advice(error: &rustls::Error) -> &'static str {
    use rustls::CertificateError as Fault;
    match error {
        rustls::Error::InvalidCertificate(fault) => match fault {
            Fault::Expired | Fault::ExpiredContext { .. } => {
                "the server's certificate has expired (or is this node's clock ahead?)"
            }
            Fault::NotValidForName | Fault::NotValidForNameContext { .. } => {
                "the server's certificate is for another name (check the address)"
            }
            Fault::NotValidYet | Fault::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet (or is this node's clock behind?)"
            }
            // A bad signature is what an authority shows that was made anew under its old name.
            Fault::BadSignature | Fault::UnknownIssuer => {
                "the server's certificate is by an authority that is not trusted here (check the CA file; or does a filter \
                 read along?)"
            }
            _ => "the server's certificate cannot be used",
        },
        _ => "the other side speaks no TLS that can be used (is it the right address, and TLS 1.2 or newer?)",
    }
}

/// What a proxy said, with what a person can do where that is known.
fn proxy_advice(reason: String) -> String {
    // ureq writes the status twice.
    match reason.strip_prefix("proxy server responded ").and_then(|status| status.split('/').next()) {
        Some("407") => "407, it wants a user and a password (http://user:password@proxy.example:3128)".to_owned(),
        Some(status) => format!("it answered {status}"),
        None => reason,
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

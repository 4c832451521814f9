//! What an answer that is no success means (P1.8).

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use http::StatusCode;

use crate::net::NetError;
use crate::protocol::ErrorBody;

/// Why a call to the control plane did not succeed.
#[derive(Debug)]
pub enum Fault {
    /// The server is busy or broken: 429, 5xx. With what it says about coming back.
    Busy(StatusCode, Option<Duration>),
    /// 403 by the control plane itself: this bearer is not for this cluster.
    Forbidden(ErrorBody),
    /// No answer.
    Network(NetError),
    /// 404: the job is closed, or there is no agent API at this endpoint.
    NotFound,
    /// Something answered that is not the control plane: a captive portal, a filter, a proxy.
    Stranger(StatusCode),
    /// The control plane understood and refused: 400, 409, 413, …
    Refused(StatusCode, ErrorBody),
    /// The control plane does not know a member that this node's settings cannot do without.
    ServerTooOld(&'static str),
    /// 401 by the control plane itself: the bearer is not accepted.
    Unauthorized(ErrorBody),
    /// An answer of the control plane that cannot be read.
    Unreadable(&'static str),
    /// Where the credential is kept takes no new one, and so none was asked for.
    Unstorable,
}

impl Fault {
    /// Whether the same call may succeed later although nothing changes here.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Busy(..) | Self::Network(_) | Self::Stranger(_) | Self::Unreadable(_))
    }

    /// Whether the server's certificate begins later than the time by which it is judged.
    #[must_use]
    pub fn is_not_valid_yet(&self) -> bool {
        use rustls::{CertificateError, Error};
        matches!(
            self,
            Self::Network(NetError::Tls(Error::InvalidCertificate(
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }
            )))
        )
    }

    /// What lies directly beneath, and what lies at the bottom where that is something else: both belong
    /// into a log beside the fault itself.
    #[must_use]
    pub fn causes(&self) -> (String, String) {
        let Some(cause) = self.source() else { return Default::default() };
        let mut bottom = None;
        let mut error = cause;
        while let Some(source) = error.source() {
            error = source;
            bottom = Some(error.to_string());
        }
        (cause.to_string(), bottom.unwrap_or_default())
    }

    /// What the server said about coming back.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy(_, pause) => *pause,
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy(status, _) => write!(f, "the control plane is busy or broken ({status})"),
            Self::Forbidden(body) => {
                write!(f, "the control plane does not let this agent act for this cluster (403{})", Said(body))
            }
            Self::Network(_) => f.write_str("the control plane cannot be reached"),
            Self::NotFound => f.write_str("there is no agent API at this endpoint, or it does not know the job (404)"),
            Self::Stranger(status) => {
                write!(
                    f,
                    "something answered that is not the control plane ({status}): a captive portal, a filter or a proxy?"
                )
            }
            Self::Refused(status, body) => write!(f, "the control plane refused the request ({status}{})", Said(body)),
            Self::ServerTooOld(member) => write!(
                f,
                "the control plane is too old for this node's settings: it does not know {member}. Have it updated, or turn \
                 required signatures and the client certificate off"
            ),
            Self::Unauthorized(body) => {
                write!(f, "the control plane does not accept the credential (401{})", Said(body))
            }
            Self::Unstorable => f.write_str(
                "no new credential can be stored, so none was asked for (a state directory that is full or read-only? a Secret \
                 without the rights of k3s/cluster.yaml?)",
            ),
            Self::Unreadable(what) => write!(f, "the control plane's answer cannot be used: {what}"),
        }
    }
}

impl StdError for Fault {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Network(source) => Some(source),
            _ => None,
        }
    }
}

/// What a server said about an error, bounded and without control characters: it ends in a log.
struct Said<'a>(&'a ErrorBody);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let printable = |text: &str| text.chars().filter(|c| !c.is_control()).take(SAID_CHARACTERS).collect::<String>();
        for (name, text) in [("", &self.0.error), ("", &self.0.message), ("request ", &self.0.request_id)] {
            if !text.is_empty() {
                write!(f, ", {name}{}", printable(text))?;
            }
        }
        Ok(())
    }
}

const SAID_CHARACTERS: usize = 200;

#[cfg(test)]
mod tests {
    use super::Fault;
    use crate::protocol::ErrorBody;

    #[test]
    fn what_a_server_says_is_bounded_and_printable() {
        let body = ErrorBody { error: "x".repeat(500), message: "a\u{1b}[31mb".into(), request_id: "r1".into() };
        let text = Fault::Unauthorized(body).to_string();
        assert!(text.len() < 500 && text.ends_with("a[31mb, request r1)"), "{text}");
    }
}

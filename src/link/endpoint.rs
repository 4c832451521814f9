//! Where the control plane is.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::net::PlainHttp;
use crate::net::connector::{has_good_port, is_loopback};

/// The base URL of a control plane, without a trailing `/` (P1.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    base: String,
    origin: String,
}

/// Why a text is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidEndpoint {
    /// It is no URL with a scheme and a host, or has a user, a query or a fragment.
    Malformed,
    /// It is `http://` to another machine.
    PlainHttp,
    /// It is `http://` to this machine, and the setting for that is not on.
    PlainHttpNotAllowed,
}

impl fmt::Display for InvalidEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "not a URL such as https://control.example or https://control.example/base",
            Self::PlainHttp => {
                "plain http to another machine is refused: anybody on the way could read the token; use https"
            }
            Self::PlainHttpNotAllowed => {
                "plain http is only for a server on this machine, and only with allow_plain_http_loopback = true"
            }
        })
    }
}

impl std::error::Error for InvalidEndpoint {}

/// What one segment of a path may have as it is (RFC 3986, unreserved).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

impl Endpoint {
    /// Reads a base URL.
    ///
    /// # Errors
    /// As [`InvalidEndpoint`] lists them.
    pub fn parse(text: &str, plain_http: PlainHttp) -> Result<Self, InvalidEndpoint> {
        let text = text.trim().trim_end_matches('/');
        let uri: http::Uri = text.parse().map_err(|_| InvalidEndpoint::Malformed)?;
        let (Some(scheme), Some(authority), Some(host)) = (uri.scheme_str(), uri.authority(), uri.host()) else {
            return Err(InvalidEndpoint::Malformed);
        };
        if host.is_empty() || authority.as_str().contains('@') || uri.query().is_some() || text.contains('#') {
            return Err(InvalidEndpoint::Malformed);
        }
        match (scheme, plain_http) {
            ("https", _) => {}
            ("http", PlainHttp::Loopback) if is_loopback(host) => {}
            ("http", PlainHttp::Refused) if is_loopback(host) => return Err(InvalidEndpoint::PlainHttpNotAllowed),
            ("http", _) => return Err(InvalidEndpoint::PlainHttp),
            _ => return Err(InvalidEndpoint::Malformed),
        }
        if !has_good_port(authority) {
            return Err(InvalidEndpoint::Malformed);
        }
        let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        Ok(Self { base: text.to_owned(), origin: format!("{scheme}://{}:{port}", host.to_ascii_lowercase()) })
    }

    /// The URL of a call: `path` begins below `/api/agent/`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}/api/agent/{path}", self.base)
    }

    /// Scheme, host and port: a bearer is sent to the origin that issued it and to no other.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

/// A text as one segment of a path (P1.1).
#[must_use]
pub fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// A text as a value in a form-encoded query (P1.1).
#[must_use]
pub fn form_value(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string().replace("%20", "+")
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, InvalidEndpoint, form_value, segment};
    use crate::net::PlainHttp;

    #[test]
    fn every_trailing_slash_is_removed() {
        let endpoint = Endpoint::parse("https://Control.example/base///", PlainHttp::Refused).unwrap();
        assert_eq!(endpoint.url("jobs"), "https://Control.example/base/api/agent/jobs");
        assert_eq!(endpoint.origin(), "https://control.example:443");
    }

    #[test]
    fn plain_http_is_for_this_machine_and_only_when_asked_for() {
        let parse = Endpoint::parse;
        assert!(parse("http://127.0.0.1:8069", PlainHttp::Loopback).is_ok());
        assert!(parse("http://[::1]:8069", PlainHttp::Loopback).is_ok());
        assert_eq!(parse("http://127.0.0.1:8069", PlainHttp::Refused), Err(InvalidEndpoint::PlainHttpNotAllowed));
        assert_eq!(parse("http://control.example", PlainHttp::Loopback), Err(InvalidEndpoint::PlainHttp));
        assert_eq!(parse("http://control.example", PlainHttp::Refused), Err(InvalidEndpoint::PlainHttp));
    }

    #[test]
    fn what_is_no_base_url_is_refused() {
        for text in [
            "",
            "control.example",
            "ftp://a",
            "https://",
            "https://u:p@a",
            "https://a?x=1",
            "https://a#x",
            "/a",
            "https://a:99999",
        ] {
            assert_eq!(Endpoint::parse(text, PlainHttp::Refused), Err(InvalidEndpoint::Malformed), "{text}");
        }
    }

    #[test]
    fn a_job_id_is_one_segment() {
        assert_eq!(segment("a/../b c?%ä"), "a%2F..%2Fb%20c%3F%25%C3%A4");
        assert_eq!(form_value("a b&c+d"), "a+b%26c%2Bd");
    }
}

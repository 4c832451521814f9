//! Where API servers are answered, and by what name they call.

use std::fmt;
use std::net::SocketAddr;

use crate::trust::policy::OWN_NAMESPACE;

/// The Service in front of an agent that listens on all addresses.
pub(super) const SERVICE: &str = "pullet-webhook";

/// An address to listen on. An address of its own is called by it; one that means all of them is called through the
/// Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(SocketAddr);

/// The text is no address with a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidListen;

impl Listen {
    /// Reads `127.0.0.1:9443`, `[::1]:9443` or `0.0.0.0:9443`.
    ///
    /// # Errors
    /// [`InvalidListen`].
    pub fn parse(text: &str) -> Result<Self, InvalidListen> {
        let address: SocketAddr = text.parse().map_err(|_| InvalidListen)?;
        // Nobody could be told which port a free one is. A scope belongs to one machine and stands in no URL.
        let is_scoped = matches!(address, SocketAddr::V6(address) if address.scope_id() != 0);
        if address.port() == 0 || is_scoped { Err(InvalidListen) } else { Ok(Self(address)) }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.0
    }

    /// Whether a Service stands in front.
    pub(super) fn is_behind_service(&self) -> bool {
        self.0.ip().is_unspecified()
    }

    /// What the certificate is for.
    pub(super) fn name(&self) -> String {
        if self.is_behind_service() { [SERVICE, ".", OWN_NAMESPACE, ".svc"].concat() } else { self.0.ip().to_string() }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for InvalidListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("takes an address with a port: 127.0.0.1:9443 for API servers of this machine, 0.0.0.0:9443 behind a Service")
    }
}

#[cfg(test)]
mod tests {
    use super::{InvalidListen, Listen};

    #[test]
    fn an_address_is_called_by_itself_and_all_of_them_by_the_service() {
        let name = |text: &str| Listen::parse(text).unwrap().name();
        assert_eq!(name("127.0.0.1:9443"), "127.0.0.1");
        assert_eq!(name("[::1]:9443"), "::1");
        assert_eq!(name("10.0.0.7:9443"), "10.0.0.7");
        assert_eq!(name("0.0.0.0:9443"), "pullet-webhook.vworkspace-system.svc");
        assert_eq!(name("[::]:9443"), "pullet-webhook.vworkspace-system.svc");
    }

    #[test]
    fn what_nobody_could_call_is_refused() {
        for text in ["", "9443", ":9443", "localhost:9443", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536"] {
            assert_eq!(Listen::parse(text), Err(InvalidListen), "{text}");
        }
        assert_eq!(Listen::parse("[fe80::1%2]:9443"), Err(InvalidListen));
        assert_eq!(Listen::parse("https://127.0.0.1:9443"), Err(InvalidListen));
    }
}

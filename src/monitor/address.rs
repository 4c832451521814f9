//! Where metrics are answered: a port of this machine, or a socket in the file system.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A port that only this machine reaches; 0 = one that is free.
    Port(SocketAddr),
    /// A socket in the file system.
    Socket(PathBuf),
}

/// Why a text is no such address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidAddress {
    /// Neither a port nor a socket.
    Malformed,
    /// Others could reach it.
    NotLoopback,
    /// The path of a socket is relative.
    Relative,
    /// The kernel takes no longer path.
    TooLong,
}

/// What the kernel takes for the path of a socket (unix(7)), without the zero at its end.
const PATH_BYTES: usize = 107;

impl Address {
    /// Reads `127.0.0.1:9464`, `[::1]:9464` or `unix:/run/pullet/metrics.sock`.
    ///
    /// # Errors
    /// As [`InvalidAddress`] lists them.
    pub fn parse(text: &str) -> Result<Self, InvalidAddress> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                _ if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') => {
                    Err(InvalidAddress::Relative)
                }
                _ if path.len() > PATH_BYTES => Err(InvalidAddress::TooLong),
                path => Ok(Self::Socket(path.into())),
            };
        }
        let address: SocketAddr = text.parse().map_err(|_| InvalidAddress::Malformed)?;
        let is_loopback = match address.ip() {
            IpAddr::V4(ip) => ip.is_loopback(),
            IpAddr::V6(ip) => ip.is_loopback(),
        };
        if is_loopback { Ok(Self::Port(address)) } else { Err(InvalidAddress::NotLoopback) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(address) => address.fmt(f),
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for InvalidAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "takes 127.0.0.1:PORT, [::1]:PORT, unix:/PATH or none",
            Self::NotLoopback => {
                "can be reached from elsewhere, and nobody is asked for a name there; take 127.0.0.1:PORT or unix:/PATH, and \
                 put something in front of it that lets in whom you want"
            }
            Self::Relative => "names no file from the root: unix:/run/pullet/metrics.sock",
            Self::TooLong => "is longer than the 107 bytes that a socket's path may have",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, InvalidAddress};

    #[test]
    fn only_this_machine_reaches_it() {
        for text in ["127.0.0.1:9464", "127.9.9.9:1", "[::1]:9464", "127.0.0.1:0"] {
            assert!(matches!(Address::parse(text), Ok(Address::Port(port)) if port.to_string() == text), "{text}");
        }
        for text in ["0.0.0.0:9464", "10.0.0.1:9464", "[::]:9464", "[::ffff:127.0.0.1]:9464", "[fe80::1]:9464"] {
            assert_eq!(Address::parse(text), Err(InvalidAddress::NotLoopback), "{text}");
        }
        for text in ["", "9464", ":9464", "localhost:9464", "127.0.0.1", "127.0.0.1:65536", "http://127.0.0.1:9464"] {
            assert_eq!(Address::parse(text), Err(InvalidAddress::Malformed), "{text}");
        }
    }

    #[test]
    fn a_socket_has_a_whole_path_that_the_kernel_takes() {
        let socket = |bytes: usize| format!("unix:/{}", "s".repeat(bytes - 1));
        assert!(matches!(Address::parse(&socket(107)), Ok(Address::Socket(_))));
        assert_eq!(Address::parse(&socket(108)), Err(InvalidAddress::TooLong));
        for text in ["unix:", "unix:run/s", "unix:/run/", "unix:/a\0b"] {
            assert_eq!(Address::parse(text), Err(InvalidAddress::Relative), "{text}");
        }
        assert_eq!(Address::parse("unix:/run/s").unwrap().to_string(), "unix:/run/s");
    }
}

//! Why an agent cannot run.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::config::ConfigError;
use crate::journal::ring::RingError;
use crate::link::pinned::PinError;
use crate::link::{RegistrationError, StoreError};
use crate::net::tls::TlsFileError;
use crate::target::Holder;
use crate::target::directory::DirectoryError;
use crate::target::kubernetes::AccessError;

/// Why an agent cannot run.
#[derive(Debug)]
pub enum AgentError {
    /// The Kubernetes API cannot be used.
    Access(AccessError),
    /// A setting is missing or wrong.
    Config(ConfigError),
    /// The directory cannot be used.
    Directory(DirectoryError),
    /// A newer program wrote the journal.
    Journal(RingError),
    /// The stored credential belongs to another machine.
    OtherMachine(PathBuf),
    /// The stored credential was issued by another server.
    OtherServer(String, String),
    /// The keyring that is pinned, or that is to be pinned.
    Pin(PinError),
    /// The control plane does not register this node.
    Registration(RegistrationError),
    /// Another agent acts on the cluster now.
    Replaced(Holder),
    /// Something of the operating system.
    Runtime(io::Error),
    /// The credential, or the one-time token.
    Store(StoreError),
    /// A CA file.
    Tls(TlsFileError),
}

impl fmt::Display for AgentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Access(error) => error.fmt(f),
            Self::Config(error) => error.fmt(f),
            Self::Directory(error) => error.fmt(f),
            Self::Journal(error) => error.fmt(f),
            Self::OtherMachine(path) => write!(
                f,
                "the credential in {} belongs to another machine: this card or disk is a copy, or moved to another board. \
                 This node does nothing until it has a registration of its own: get a one-time token for it and run pullet \
                 register --force",
                path.display()
            ),
            Self::OtherServer(issued, configured) => write!(
                f,
                "the credential was issued by {issued} and is sent nowhere else, but the endpoint is {configured}: set the \
                 endpoint back, or register there with a new one-time token (pullet register --force)"
            ),
            Self::Pin(error) => error.fmt(f),
            Self::Registration(error) => error.fmt(f),
            Self::Replaced(other) => write!(
                f,
                "{other} has taken over this cluster, so this one has stopped: of two agents keep one, and uninstall the other"
            ),
            Self::Runtime(_) => f.write_str("the operating system refused what an agent needs"),
            Self::Store(error) => error.fmt(f),
            Self::Tls(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for AgentError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Access(error) => error.source(),
            Self::Config(error) => error.source(),
            Self::Directory(error) => error.source(),
            Self::Journal(error) => error.source(),
            Self::OtherMachine(_) | Self::OtherServer(..) | Self::Replaced(_) => None,
            Self::Pin(error) => error.source(),
            Self::Registration(error) => error.source(),
            Self::Runtime(error) => Some(error),
            Self::Store(error) => error.source(),
            Self::Tls(error) => error.source(),
        }
    }
}

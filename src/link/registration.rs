//! How a node becomes known: the one-time token against a credential.

use std::fmt;
use std::sync::Arc;

use http::StatusCode;
use ring::rand::SystemRandom;
use serde_json::value::RawValue;
use tracing::{info, warn};

use super::authorities::{self, Voice};
use super::certificate::{Asked, Certificates};
use super::credential::{Credential, CredentialStore, StoreError};
use super::longpoll::{self, Issued, LongPoll};
use super::machine::Machine;
use super::pinned::{PinError, Wanted, pin_first};
use super::secret_file::observed_token;
use super::{Endpoint, Fault, is_another_machine};
use crate::clock;
use crate::net::Profile;
use crate::protocol::{AgentInfo, ClusterId, ErrorBody, RegisterRequest, Timestamp};
use crate::secret::Secret;
use crate::trust::identity::NodeKeys;
use crate::trust::keyring::Keyring;

/// What is needed to register.
pub struct Registration<'a> {
    /// Where.
    pub endpoint: &'a Endpoint,
    /// How.
    pub profile: Profile,
    /// As whom, if the owner chose.
    pub cluster_id: Option<&'a ClusterId>,
    /// What people read.
    pub display_name: Option<&'a str>,
    /// What may not be left out for a server that does not know it.
    pub demands: Demands,
    /// What the owner gave to pin.
    pub pin: Option<&'a Wanted>,
}

/// What may not be left out for a server that does not know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demands {
    /// Signatures are required: a server that does not take our keys cannot serve this node.
    pub signatures: bool,
    /// A client certificate is to be issued: a request for one is sent.
    pub client_certificate: bool,
}

/// Why a registration failed.
#[derive(Debug)]
pub enum RegistrationError {
    /// The server did not register us.
    Fault(Fault),
    /// The owner's keyring cannot be used.
    Pin(PinError),
    /// The keys, or the credential that came, could not be stored.
    Store(StoreError),
    /// The new credential was refused at once; the one before is in its place again.
    Unusable(Fault),
}

impl fmt::Display for RegistrationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(Fault::Unauthorized(_) | Fault::Forbidden(_)) => f.write_str(
                "the control plane does not accept the one-time token (used, expired or mistyped?): get a new one",
            ),
            Self::Fault(Fault::NotFound) => f.write_str("there is no agent API at this endpoint: check --endpoint"),
            Self::Fault(_) => f.write_str("not registered"),
            Self::Pin(error) => error.fmt(f),
            Self::Store(_) => f.write_str(
                "what belongs to a registration could not be stored; make room, and get a new one-time token if this one is used up",
            ),
            Self::Unusable(_) => f.write_str(
                "registered, but the new credential is not accepted: the one before stays in use, if there was one",
            ),
        }
    }
}

impl std::error::Error for RegistrationError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Fault(error) | Self::Unusable(error) => Some(error),
            Self::Pin(error) => error.source(),
            Self::Store(error) => Some(error),
        }
    }
}

/// Members of a registration that a server may not know, the least needed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Addition {
    Agent,
    CertificateRequest,
    IdentityKey,
    PublicKey,
}

impl Addition {
    const ALL: [Self; 4] = [Self::Agent, Self::CertificateRequest, Self::IdentityKey, Self::PublicKey];

    fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::CertificateRequest => "certificateRequest",
            Self::IdentityKey => "identityKey",
            Self::PublicKey => "publicKey",
        }
    }

    fn is_demanded(self, demands: Demands) -> bool {
        match self {
            Self::Agent => false,
            Self::CertificateRequest => demands.client_certificate,
            Self::IdentityKey | Self::PublicKey => demands.signatures || demands.client_certificate,
        }
    }
}

/// Which member a server that said `UnknownField` does not know: the one that its message names, or else the next one that
/// may be left out.
fn unknown(body: &ErrorBody, sent: &[Addition], demands: Demands) -> Option<Addition> {
    let words = |c: char| !c.is_ascii_alphanumeric();
    let named = body.message.split(words).find_map(|word| sent.iter().find(|addition| addition.name() == word));
    named.or_else(|| sent.iter().find(|addition| !addition.is_demanded(demands))).or(sent.first()).copied()
}

impl Registration<'_> {
    /// Exchanges the token and stores what it gives, before anybody uses it. The node's keys are stored before anything is
    /// asked: when the answer gets lost, the next try is made with the same ones. Blocks.
    ///
    /// # Errors
    /// As [`RegistrationError`] lists them.
    pub fn exchange(&self, token: &Secret, store: &dyn CredentialStore) -> Result<Credential, RegistrationError> {
        self.exchange_over(token, store, None)
    }

    /// As [`Registration::exchange`], over a credential that is there, if it can be read. It stays the one before until the
    /// new one has worked, which is tried at once, and comes back when that is refused. Blocks.
    ///
    /// # Errors
    /// As [`RegistrationError`] lists them.
    pub fn force(&self, token: &Secret, store: &dyn CredentialStore) -> Result<Credential, RegistrationError> {
        // What cannot be read is kept as well, for a person to look at.
        let before = store.load().ok().flatten();
        store.keep_copy().map_err(RegistrationError::Store)?;
        let credential = match self.exchange_over(token, store, before.as_ref()) {
            Ok(credential) => credential,
            Err(error) => {
                store.put_back().map_err(RegistrationError::Store)?;
                return Err(error);
            }
        };
        match self.link_of(&credential).probe(&credential.current) {
            Ok(()) => store.forget_copy().map_err(RegistrationError::Store)?,
            Err(fault @ (Fault::Unauthorized(_) | Fault::Forbidden(_))) => {
                store.put_back().map_err(RegistrationError::Store)?;
                return Err(RegistrationError::Unusable(fault));
            }
            // It says nothing about the credential. The copy goes when that has worked.
            Err(fault) => warn!(error = %fault, "the new credential could not be tried yet"),
        }
        Ok(credential)
    }

    fn exchange_over(
        &self,
        token: &Secret,
        store: &dyn CredentialStore,
        before: Option<&Credential>,
    ) -> Result<Credential, RegistrationError> {
        let keys = keys_for(store, before).map_err(RegistrationError::Store)?;
        // A keyring that is no use is found before a token is used up.
        pin_first(store, self.pin, &[]).map_err(RegistrationError::Pin)?;
        let name = self.cluster_id.map_or("", ClusterId::as_str);
        let asked = match self.demands.client_certificate {
            true => Some(Asked::new(name).ok_or(RegistrationError::Store(StoreError::NoRandomness))?),
            false => None,
        };
        let request = asked.as_ref().map(|asked| asked.request.as_str());
        let (cluster_id, issued) = self.ask(token, &keys, request).map_err(RegistrationError::Fault)?;
        let ring = pin_first(store, self.pin, &issued.signing_keys).map_err(RegistrationError::Pin)?;
        let taken = match asked.map(|asked| asked.take(issued.client_certificate, &self.profile.tls)).transpose() {
            // The token is used up, and the bearer works: another certificate can be asked for with that.
            Err(fault @ Fault::Unreadable(_)) => {
                warn!(error = %fault, "the client certificate cannot be used; the agent asks for another one once it runs");
                None
            }
            taken => taken.map_err(RegistrationError::Fault)?,
        };
        let (certificate, candidate) = taken.unzip();
        let endpoint = self.endpoint.to_string();
        // A bearer goes to the origin that issued it, and as the cluster that it is for.
        let previous = before.filter(|before| before.endpoint == endpoint && before.cluster_id == cluster_id);
        let credential = Credential {
            machine: Some(Machine::find().bind(keys.identity())),
            keys: Some(Arc::new(keys)),
            cluster_id,
            endpoint,
            generation: before.map_or(0, |before| before.generation).saturating_add(1),
            current: issued.bearer,
            previous: previous.map(|before| before.current.clone()),
            observed_token: observed_token(token),
            certificates: Certificates { current: certificate.map(Arc::new), next: None },
            registered_at: Some(Timestamp::from_unix_seconds(clock::unix_seconds())),
        };
        store.save(&credential).map_err(RegistrationError::Store)?;
        // There was none before to go back to.
        if let Some(candidate) = candidate {
            let _ = self.profile.tls.commit(candidate);
        }
        if let Some(text) = &issued.ca_bundle {
            self.take_authorities(text, ring.as_ref(), &credential, store);
        }
        Ok(credential)
    }

    fn take_authorities(
        &self,
        text: &str,
        ring: Option<&Keyring>,
        credential: &Credential,
        store: &dyn CredentialStore,
    ) {
        let newest = store.newest_version();
        let voice = match (ring, self.pin) {
            (Some(ring), _) if ring.version() >= newest => Voice::Root(ring),
            // There was another ring once, and it is lost: what it said is not for anybody to say.
            (None, None) if newest == 0 => Voice::Anybody,
            _ => Voice::Nobody,
        };
        let link = self.link_of(credential);
        // What is not used is sent again with a rotation.
        let _ = authorities::tell(&authorities::take(text, voice, &link, store));
    }

    fn link_of(&self, credential: &Credential) -> LongPoll {
        let (endpoint, profile) = (self.endpoint.clone(), self.profile.clone());
        LongPoll::new(endpoint, credential.cluster_id.clone(), credential.current.clone(), profile)
    }

    /// Asks, and asks again without a member that the server does not know, once for each (P2.2).
    fn ask(
        &self,
        token: &Secret,
        keys: &NodeKeys,
        certificate_request: Option<&str>,
    ) -> Result<(ClusterId, Issued), Fault> {
        let payload = keys.payload().present.public_jwk();
        let identity = keys.identity_jwk().unwrap_or_default();
        let raw = |text: &str| RawValue::from_string(text.to_owned()).ok();
        let (payload, identity) = (raw(&payload), raw(&identity));
        let mut sent = Addition::ALL.to_vec();
        if certificate_request.is_none() {
            sent.retain(|addition| *addition != Addition::CertificateRequest);
        }
        loop {
            let has = |addition| sent.contains(&addition);
            let request = RegisterRequest {
                registration_token: token.expose(),
                cluster_id: self.cluster_id.map(ClusterId::as_str),
                display_name: self.display_name,
                public_key: payload.as_deref().filter(|_| has(Addition::PublicKey)),
                identity_key: identity.as_deref().filter(|_| has(Addition::IdentityKey)),
                certificate_request: certificate_request.filter(|_| has(Addition::CertificateRequest)),
                agent: has(Addition::Agent).then_some(AgentInfo::OURS),
            };
            let fault = match longpoll::register(self.endpoint, self.profile.clone(), token, &request) {
                Ok((named, _)) if self.cluster_id.is_some_and(|wanted| *wanted != named) => {
                    return Err(Fault::Unreadable("it registered another cluster than the configured one"));
                }
                Ok(registered) => return Ok(registered),
                Err(fault) => fault,
            };
            let unknown = match &fault {
                Fault::Refused(StatusCode::BAD_REQUEST, body) if body.error == "UnknownField" => {
                    unknown(body, &sent, self.demands)
                }
                _ => None,
            };
            let Some(unknown) = unknown else { return Err(fault) };
            if unknown.is_demanded(self.demands) {
                return Err(Fault::ServerTooOld(unknown.name()));
            }
            info!(member = unknown.name(), "the control plane does not know this member; it is left out");
            sent.retain(|addition| *addition != unknown);
        }
    }
}

/// The keys of a registration whose answer got lost, or new ones, durable in either case. Keys of another machine go
/// nowhere.
fn keys_for(store: &dyn CredentialStore, before: Option<&Credential>) -> Result<NodeKeys, StoreError> {
    match store.pending_keys() {
        Ok(Some(keys)) => return Ok(keys),
        Ok(None) => {}
        Err(error @ (StoreError::Malformed(_) | StoreError::Sealed(_))) => {
            warn!(%error, "the keys of a registration without an answer are lost; new ones are made");
        }
        Err(error) => return Err(error),
    }
    let mut keys = NodeKeys::generate(&SystemRandom::new()).map_err(|_| StoreError::NoRandomness)?;
    if let Some(before) = before
        && let Some(known) = &before.keys
        && !is_another_machine(before)
    {
        keys = keys.after(known);
    }
    store.keep_keys(&keys)?;
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::{Addition, Demands, unknown};
    use crate::protocol::ErrorBody;

    #[test]
    fn the_member_that_is_named_is_left_out_or_else_the_least_needed() {
        let all = [Addition::Agent, Addition::IdentityKey, Addition::PublicKey];
        let free = Demands::default();
        let signed = Demands { signatures: true, client_certificate: false };
        let find = |message: &str, sent: &[Addition], demands| {
            unknown(&ErrorBody { message: message.into(), ..ErrorBody::default() }, sent, demands)
        };
        assert_eq!(find("unknown member /publicKey", &all, free), Some(Addition::PublicKey));
        assert_eq!(find("unknown member /identityKey of the agent", &all, free), Some(Addition::IdentityKey));
        assert_eq!(find("agents may not", &all, free), Some(Addition::Agent), "no member is named");
        assert_eq!(find("", &all[1..], free), Some(Addition::IdentityKey));
        assert_eq!(find("", &all[1..], signed), Some(Addition::IdentityKey), "which fails");
        assert_eq!(find("", &[], free), None, "what is left is the fixed contract");
        for addition in Addition::ALL {
            assert!(!addition.is_demanded(free));
            assert_eq!(addition.is_demanded(signed), matches!(addition, Addition::IdentityKey | Addition::PublicKey));
        }
    }
}

//! An authority of our own and a certificate for this machine.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};

/// The certificate that the server shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Certificate {
    /// For `localhost` and 127.0.0.1, by the testbed's authority, valid for centuries.
    Good,
    /// As [`Certificate::Good`], but it ended in 2020.
    Expired,
    /// As [`Certificate::Good`], but it starts in 2100.
    NotYetValid,
    /// As [`Certificate::Good`], but it starts a day before now.
    Young,
    /// By an authority that is not in the CA file.
    OtherAuthority,
    /// For another host.
    OtherName,
}

/// The versions of TLS that a server speaks.
pub(crate) type Versions = &'static [&'static SupportedProtocolVersion];

/// Makes an authority and a server certificate: the authority in PEM, and the server's configuration.
/// A server that is given an authority lets in only clients that show a certificate by it.
pub(crate) fn make(
    certificate: Certificate,
    versions: Versions,
    clients: Option<&Clients>,
) -> (String, Arc<ServerConfig>) {
    let authority = authority();
    let issuer = if certificate == Certificate::OtherAuthority { &self::authority() } else { &authority };
    let names = if certificate == Certificate::OtherName {
        vec!["elsewhere.example".to_owned()]
    } else {
        vec!["localhost".to_owned(), "127.0.0.1".to_owned()]
    };
    let key = KeyPair::generate().expect("a key can be made");
    let mut params = CertificateParams::new(names).expect("the names are valid");
    params.distinguished_name.push(DnType::CommonName, "Testbed control plane");
    match certificate {
        Certificate::Expired => params.not_after = rcgen::date_time_ymd(2020, 1, 1),
        Certificate::NotYetValid => params.not_before = rcgen::date_time_ymd(2100, 1, 1),
        Certificate::Young => params.not_before = (SystemTime::now() - Duration::from_secs(86_400)).into(),
        Certificate::Good | Certificate::OtherAuthority | Certificate::OtherName => {}
    }
    let signed = params.signed_by(&key, issuer).expect("the authority can sign");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .expect("ring knows TLS 1.2 and 1.3");
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(clients.verifier(provider)),
        None => builder.with_no_client_auth(),
    };
    let config =
        builder.with_single_cert(vec![signed.der().clone()], key).expect("certificate and key belong together");
    (authority.pem(), Arc::new(config))
}

/// An authority, a certificate by it for 127.0.0.1, and the key, in PEM: for a server that is another program.
pub(crate) fn for_another_program() -> (String, String, String) {
    let (authority, key) = (authority(), KeyPair::generate().expect("a key can be made"));
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("the name is valid");
    let signed = params.signed_by(&key, &authority).expect("the authority can sign");
    (authority.pem(), signed.pem(), key.serialize_pem())
}

/// The certificate and the key of an authority for another program, in PEM.
pub(crate) fn authority_of_another_program() -> (String, String) {
    let authority = authority();
    (authority.pem(), authority.key().serialize_pem())
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Testbed authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().expect("a key can be made");
    CertifiedIssuer::self_signed(params, key).expect("an authority signs itself")
}

/// An authority for clients.
#[derive(Debug)]
pub(crate) struct Clients {
    issuer: CertifiedIssuer<'static, KeyPair>,
    issues: bool,
}

impl Clients {
    /// A new one: who shows no certificate by it gets no connection.
    pub(crate) fn new() -> Self {
        Self { issuer: authority(), issues: false }
    }

    /// A new one that issues certificates: who shows none may connect, register and rotate, and nothing else.
    pub(crate) fn issuing() -> Self {
        Self { issuer: authority(), issues: true }
    }

    /// Whether the control plane issues certificates by it.
    pub(crate) fn issues(&self) -> bool {
        self.issues
    }

    /// A certificate with its chain, in PEM.
    pub(super) fn sign(&self, params: &CertificateParams, key: &impl PublicKeyData) -> String {
        params.signed_by(key, &self.issuer).expect("the authority can sign").pem()
    }

    /// A certificate and its key, in PEM.
    pub(crate) fn issue(&self) -> (String, String) {
        let key = KeyPair::generate().expect("a key can be made");
        let params = CertificateParams::new(vec!["node.example".to_owned()]).expect("the name is valid");
        (self.sign(&params, &key), key.serialize_pem())
    }

    /// The authority itself, in PEM.
    pub(crate) fn ca_pem(&self) -> String {
        self.issuer.pem()
    }

    fn verifier(&self, provider: Arc<CryptoProvider>) -> Arc<dyn ClientCertVerifier> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("our own authority is one");
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let builder = if self.issues { builder.allow_unauthenticated() } else { builder };
        builder.build().expect("there is a root")
    }
}

/// For a server that is not ours, on this machine: its authority, its certificate and its key, in PEM.
pub(crate) fn server_pem() -> (String, String, String) {
    let (authority, key) = (authority(), KeyPair::generate().expect("a key can be made"));
    let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("names are valid");
    let signed = params.signed_by(&key, &authority).expect("the authority can sign");
    (authority.pem(), signed.pem(), key.serialize_pem())
}

//! Client certificates that the control plane issues for requests (PKCS#10). Read by hand, and with nothing of the agent's own.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, PublicKeyData, SignatureAlgorithm};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

use super::answer::Refusal;
use super::tls::Clients;

/// What becomes of a certificate request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Issue {
    /// By an authority that the server itself does not know.
    ByStranger,
    /// With more behind it than a node takes.
    Endless,
    /// No PEM.
    Garbage,
    /// As it should be.
    #[default]
    Good,
    /// For another key.
    OtherKey,
    /// Only its first half.
    Truncated,
    /// Nothing comes back, as if it had not been there.
    Unanswered,
}

/// The public key of a request.
struct Requested(Vec<u8>);

impl PublicKeyData for Requested {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// Issues a certificate for a request in PEM, valid from and to so many seconds from now; none where none is to be issued.
pub(crate) fn issue(
    clients: &Clients,
    cluster: &str,
    request: &str,
    issue: Issue,
    (from, to): (i64, i64),
) -> Result<Option<String>, Refusal> {
    let key = read(request, cluster)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, cluster);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let now = super::job::now().cast_signed();
    let at = |offset: i64| {
        let since = u64::try_from(now + offset).expect("a time after 1970");
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since)
    };
    (params.not_before, params.not_after) = (at(from), at(to));
    let chain = match issue {
        Issue::ByStranger => Clients::new().sign(&params, &key),
        Issue::OtherKey => clients.sign(&params, &KeyPair::generate().expect("a key can be made")),
        _ => clients.sign(&params, &key),
    };
    Ok(match issue {
        Issue::Endless => Some(chain + &"\n".repeat(12 * 1024)),
        Issue::Garbage => Some("no certificate".to_owned()),
        Issue::Truncated => Some(chain[..chain.len() / 2].to_owned()),
        Issue::Unanswered => None,
        Issue::ByStranger | Issue::Good | Issue::OtherKey => Some(chain),
    })
}

/// The public key of a request, which has to be signed with it. Its name is the cluster's, or none.
fn read(pem: &str, cluster: &str) -> Result<Requested, Refusal> {
    let refuse = |why: &str| Refusal::invalid(format!("/certificateRequest {why}"));
    let body = pem
        .strip_prefix("-----BEGIN CERTIFICATE REQUEST-----\n")
        .and_then(|rest| rest.strip_suffix("\n-----END CERTIFICATE REQUEST-----\n"))
        .ok_or_else(|| refuse("is no certificate request in PEM"))?;
    let der = STANDARD.decode(body.replace('\n', "")).map_err(|_| refuse("is no base64"))?;
    let parsed = || {
        let (request, rest) = open(&der, 0x30)?;
        let (info, after) = open(request, 0x30)?;
        let signed = &request[..request.len() - after.len()];
        let (algorithm, after) = open(after, 0x30)?;
        let (signature, end) = open(after, 0x03)?;
        let (version, members) = open(info, 0x02)?;
        let (subject, members) = open(members, 0x30)?;
        let (key, attributes) = open(members, 0x30)?;
        let (kind, point) = open(key, 0x30)?;
        let (point, key_end) = open(point, 0x03)?;
        let is_plain = rest.is_empty() && end.is_empty() && key_end.is_empty() && attributes == [0xa0, 0];
        // ecdsa-with-SHA256; id-ecPublicKey with prime256v1.
        let is_ours = algorithm == [0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]
            && kind == [0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
        let is_named = subject.is_empty() || subject.ends_with(cluster.as_bytes());
        let point = point.strip_prefix(&[0])?;
        let is_whole = is_plain && is_ours && is_named && version == [0] && point.len() == 65;
        is_whole.then_some((signed, point, signature.strip_prefix(&[0])?))
    };
    let (signed, point, signature) = parsed().ok_or_else(|| refuse("is not as RFC 2986 has it, for P-256"))?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
        .verify(signed, signature)
        .map_err(|_| refuse("is not signed by the key in it"))?;
    Ok(Requested(point.to_vec()))
}

/// What is in a value in DER, and what follows it.
fn open(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (length, at) = match *der {
        [found, short @ ..=0x7f, ..] if found == tag => (usize::from(short), 2),
        [found, 0x81, length, ..] if found == tag && length >= 0x80 => (usize::from(length), 3),
        [found, 0x82, high, low, ..] if found == tag && high > 0 => (usize::from(high) << 8 | usize::from(low), 4),
        _ => return None,
    };
    der[at..].split_at_checked(length)
}

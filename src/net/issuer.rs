//! By whom a certificate says it is, for a person. webpki knows, and does not tell.
//!
//! What is read here is believed by nobody: it stands beside a refusal, or beside what webpki has verified.

/// Characters of a name that are shown.
const SHOWN: usize = 64;

const SEQUENCE: u8 = 0x30;

/// `commonName` and `organizationName` (X.520), as they are encoded.
const NAMES: [&[u8]; 2] = [&[0x55, 4, 3], &[0x55, 4, 10]];

/// The common name of who issued a certificate (DER), or else its organization; none where there is neither, and where it
/// is no certificate.
pub(super) fn issuer(certificate: &[u8]) -> Option<String> {
    let (body, _) = take(certificate, SEQUENCE)?;
    let (mut body, _) = take(body, SEQUENCE)?;
    // The version is left out where it is the first.
    if let Some((_, rest)) = take(body, 0xa0) {
        body = rest;
    }
    let (_, body) = take(body, 2)?;
    let (_, body) = take(body, SEQUENCE)?;
    let (names, _) = take(body, SEQUENCE)?;
    NAMES.iter().find_map(|wanted| attribute(names, wanted))
}

/// An attribute of a name: a sequence of sets of pairs (RFC 5280, section 4.1.2.4).
fn attribute(mut names: &[u8], wanted: &[u8]) -> Option<String> {
    while let Some((mut set, rest)) = take(names, 0x31) {
        names = rest;
        while let Some((pair, rest)) = take(set, SEQUENCE) {
            set = rest;
            if let Some((kind, value)) = take(pair, 6)
                && kind == wanted
                && let Some((_, text, _)) = element(value)
            {
                let text = String::from_utf8_lossy(text);
                return Some(text.chars().filter(|c| !c.is_control()).take(SHOWN).collect());
            }
        }
    }
    None
}

/// The content of an element of this kind, and what follows it.
fn take(bytes: &[u8], kind: u8) -> Option<(&[u8], &[u8])> {
    element(bytes).filter(|(found, ..)| *found == kind).map(|(_, content, rest)| (content, rest))
}

/// Kind, content and what follows (X.690, section 8.1): lengths of up to two bytes, which is all that a certificate has.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (kind, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81 => rest.split_first().map(|(length, rest)| (usize::from(*length), rest))?,
        0x82 => rest.split_first_chunk().map(|(length, rest)| (usize::from(u16::from_be_bytes(*length)), rest))?,
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*kind, content, rest))
}

#[cfg(test)]
mod tests {
    use super::issuer;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

    fn issued_by(names: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, name) in names {
            params.distinguished_name.push(kind.clone(), *name);
        }
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let leaf = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        leaf.signed_by(&KeyPair::generate().unwrap(), &authority).unwrap().der().to_vec()
    }

    #[test]
    fn it_is_the_common_name_or_the_organization() {
        let both = [(DnType::OrganizationName, "Clinic"), (DnType::CommonName, "Filter\u{1b}[1m of the clinic")];
        assert_eq!(issuer(&issued_by(&both)).unwrap(), "Filter[1m of the clinic");
        assert_eq!(issuer(&issued_by(&both[..1])).unwrap(), "Clinic");
        assert_eq!(issuer(&issued_by(&[(DnType::CountryName, "DE")])), None);
        assert_eq!(issuer(&issued_by(&[(DnType::CommonName, &"x".repeat(600))])).unwrap().len(), 64);
    }

    #[test]
    fn what_is_no_certificate_has_none() {
        let whole = issued_by(&[(DnType::CommonName, "n")]);
        for end in 0..whole.len() {
            assert_eq!(issuer(&whole[..end]), None, "{end}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0xff;
            // Whatever it is: there is an end to it.
            let _ = issuer(&changed);
        }
        for garbage in [&b""[..], &[0x30; 300], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0x30, 0x82, 0xff, 0xff]] {
            assert_eq!(issuer(garbage), None);
        }
    }
}

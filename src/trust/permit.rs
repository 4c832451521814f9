//! What may be carried out: an instruction of a verified job that the policy lets through.

use std::fmt;

use super::policy::{NamespaceRule, Policy, Provenance, Refusal};
use super::verify::{Assurance, Payload, Verified};
use crate::protocol::{Instruction, JobError, KEY_HASH_ANNOTATION, SIGNED_SEQ_ANNOTATION};

/// An instruction that passed every check. Nothing else than [`permit`] makes one, and nothing else is carried out.
#[derive(Debug)]
pub struct Permitted<'a> {
    instruction: Instruction<'a>,
    rule: NamespaceRule,
    /// Epoch and number, when the job was signed.
    order: Option<(u64, u64)>,
}

/// Why a verified job is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It cannot be read.
    Malformed(JobError),
    /// The policy stops it.
    Refused(Refusal),
}

impl Denied {
    /// One word for a result.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(error) => error.reason(),
            Self::Refused(refusal) => refusal.reason(),
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(error) => error.fmt(f),
            Self::Refused(refusal) => refusal.fmt(f),
        }
    }
}

impl std::error::Error for Denied {}

/// Reads what a verified job asks for and holds it against the policy. `key` is the stamp of its idempotency key.
///
/// # Errors
/// As [`Denied`] lists them.
pub fn permit<'a>(
    payload: &'a Verified<Payload>,
    policy: &Policy,
    key: Option<String>,
) -> Result<Permitted<'a>, Denied> {
    let mut instruction = Instruction::parse(&payload.kind, payload.text()).map_err(Denied::Malformed)?;
    let provenance = Provenance { encrypted: payload.encrypted };
    let rule = policy.check(&instruction, provenance).map_err(Denied::Refused)?;
    let order = match payload.assurance() {
        Assurance::Signed(signed) => Some((signed.epoch, signed.seq)),
        Assurance::Unsigned => None,
    };
    if let Instruction::Apply(manifest) = &mut instruction {
        // Who looks at the object later, on this node or another, knows which job made it so. What a job says of that
        // itself does not count.
        let stamps =
            [(KEY_HASH_ANNOTATION, key), (SIGNED_SEQ_ANNOTATION, order.map(|(epoch, seq)| format!("{epoch}.{seq}")))];
        for (annotation, stamp) in stamps {
            match stamp {
                Some(stamp) => manifest.annotations.insert(annotation.to_owned(), stamp),
                None => manifest.annotations.remove(annotation),
            };
        }
    }
    Ok(Permitted { instruction, rule, order })
}

impl<'a> Permitted<'a> {
    /// What is to be done.
    #[must_use]
    pub fn instruction(&self) -> &Instruction<'a> {
        &self.instruction
    }

    /// What decides about its namespace.
    #[must_use]
    pub fn rule(&self) -> NamespaceRule {
        self.rule
    }

    /// Epoch and number, when the job was signed.
    #[must_use]
    pub fn order(&self) -> Option<(u64, u64)> {
        self.order
    }

    /// Whether what an object carries of an earlier job is from a later one: an apply of this would bring back what was
    /// replaced.
    #[must_use]
    pub fn is_behind(&self, carried: Option<(u64, u64)>) -> bool {
        matches!((self.order, carried), (Some((epoch, seq)), Some((other, newer))) if epoch == other && seq < newer)
    }
}

#[cfg(test)]
mod tests {
    use super::{Denied, Permitted, permit};
    use crate::protocol::{Instruction, KEY_HASH_ANNOTATION, SIGNED_SEQ_ANNOTATION};
    use crate::trust::keyring::{Key, Keyring, Use};
    use crate::trust::policy::Policy;
    use crate::trust::replay::TrustState;
    use crate::trust::signature::{Now, Outer};
    use crate::trust::{Context, Payload, Signatures, Verified, sign, verify};

    const NOW: Now = Now { seconds: 1_800_000_000, confirmed: true };

    fn unsigned(kind: &str, payload: &str) -> Verified<Payload> {
        let outer = Outer {
            id: "j",
            kind,
            expires_at: None,
            idempotency_key: "",
            payload: Some(payload),
            encrypted_payload: None,
            signature: None,
        };
        let context = Context {
            signatures: Signatures::Warn,
            keyring: None,
            payload_keys: None,
            cluster: "c1",
            now: NOW,
            known: None,
        };
        verify(&outer, &context, &TrustState::default()).unwrap().0
    }

    fn signed(payload: &str, seq: u64) -> Verified<Payload> {
        let root = sign::SigningKey::from_seed(&[1; 32]).unwrap();
        let key = sign::SigningKey::from_seed(&[2; 32]).unwrap();
        let keys = [Key::new(*root.public(), Use::Root, None, None), Key::new(*key.public(), Use::Job, None, None)];
        let ring = Keyring::pin(&[root.sign_keyring(1, 7, &keys)]).unwrap();
        let header = sign::JobHeader {
            epoch: 7,
            cluster: "c1",
            id: "j",
            kind: "apply",
            seq,
            iat: NOW.seconds,
            exp: NOW.seconds + 60,
            idempotency_key: "",
            encrypted_payload: None,
        };
        let signature = key.sign_job(&header, payload).unwrap();
        let outer = Outer {
            id: "j",
            kind: "apply",
            expires_at: Some(NOW.seconds + 60),
            idempotency_key: "",
            payload: Some(payload),
            encrypted_payload: None,
            signature: Some(&signature),
        };
        let context = Context {
            signatures: Signatures::Require,
            keyring: Some(&ring),
            payload_keys: None,
            cluster: "c1",
            now: NOW,
            known: None,
        };
        verify(&outer, &context, &TrustState::default().pin(&ring).unwrap()).unwrap().0
    }

    fn instance(annotations: &str) -> String {
        format!(
            r#"{{"apiVersion":"apps.vworkspace.io/v1alpha1","kind":"ApplicationInstance","metadata":{{"name":"a",
                "namespace":"shop","annotations":{{{annotations}}}}},"spec":{{"mode":"placeholder"}}}}"#
        )
    }

    fn annotation<'a>(permitted: &'a Permitted<'_>, name: &str) -> Option<&'a str> {
        match permitted.instruction() {
            Instruction::Apply(manifest) => manifest.annotations.get(name).map(String::as_str),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_job_says_of_its_own_stamps_does_not_count() {
        let policy = Policy::new(Vec::new(), Vec::new());
        let forged = instance(&format!(r#""{KEY_HASH_ANNOTATION}":"x","{SIGNED_SEQ_ANNOTATION}":"7.99""#));
        let payload = unsigned("apply", &forged);
        let permitted = permit(&payload, &policy, None).unwrap();
        assert_eq!(
            (annotation(&permitted, KEY_HASH_ANNOTATION), annotation(&permitted, SIGNED_SEQ_ANNOTATION)),
            (None, None)
        );
        let payload = signed(&forged, 5);
        let permitted = permit(&payload, &policy, Some("k".into())).unwrap();
        assert_eq!(annotation(&permitted, KEY_HASH_ANNOTATION), Some("k"));
        assert_eq!(annotation(&permitted, SIGNED_SEQ_ANNOTATION), Some("7.5"));
    }

    #[test]
    fn a_signed_job_is_behind_a_later_one_of_the_same_epoch_only() {
        let policy = Policy::new(Vec::new(), Vec::new());
        let payload = signed(&instance(""), 5);
        let permitted = permit(&payload, &policy, None).unwrap();
        assert_eq!(permitted.order(), Some((7, 5)));
        assert!(permitted.is_behind(Some((7, 6))));
        for carried in [None, Some((7, 5)), Some((7, 4)), Some((8, 6)), Some((6, 6))] {
            assert!(!permitted.is_behind(carried), "{carried:?}");
        }
        let payload = unsigned("apply", &instance(""));
        assert!(!permit(&payload, &policy, None).unwrap().is_behind(Some((7, 6))));
    }

    #[test]
    fn what_cannot_be_read_or_is_not_allowed_is_denied() {
        let policy = Policy::new(Vec::new(), Vec::new());
        let denied = |kind: &str, payload: &str| permit(&unsigned(kind, payload), &policy, None).unwrap_err().reason();
        assert_eq!(denied("apply", "null"), "NoPayload");
        assert_eq!(denied("frobnicate", "{}"), "UnknownJobKind");
        let other = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"shop"}}"#;
        assert!(matches!(permit(&unsigned("apply", other), &policy, None), Err(Denied::Refused(_))));
    }
}

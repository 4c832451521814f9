//! What may be carried out: an instruction of a verified job that the policy lets through.

use std::fmt;

use super::base64url;
use super::policy::{NamespaceRule, Policy, Provenance, Refusal};
use super::verify::{Assurance, Payload, Verified};
use crate::protocol::{Instruction, JobError, KEY_HASH_ANNOTATION, SIGNED_SEQ_ANNOTATION};

/// An instruction that passed every check. Nothing else than [`permit`] makes one, and nothing else is carried out.
#[derive(Debug)]
pub struct Permitted<'a> {
    instruction: Instruction<'a>,
    rule: NamespaceRule,
    /// Epoch and number, when the job was signed.
    order: Option<Order>,
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
        Assurance::Signed(signed) => {
            Some(Order { epoch: signed.epoch, seq: signed.seq, key: Some(signed.kid.prefix()) })
        }
        Assurance::Unsigned => None,
    };
    if let Instruction::Apply(manifest) = &mut instruction {
        // Who looks at the object later, on this node or another, knows which job made it so. What a job says of that
        // itself does not count.
        let stamps = [(KEY_HASH_ANNOTATION, key), (SIGNED_SEQ_ANNOTATION, order.map(Order::to_text))];
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

    /// Where it stands among signed jobs; none where it is not signed.
    #[must_use]
    pub fn order(&self) -> Option<Order> {
        self.order
    }

    /// Whether what an object carries of an earlier job is from a later one: an apply of this would bring back what was
    /// replaced.
    #[must_use]
    pub fn is_behind(&self, carried: Option<Order>) -> bool {
        let (Some(ours), Some(theirs)) = (self.order, carried) else { return false };
        // Each key counts for itself. Of a stamp without one it is not known whose number it is.
        let is_of_one_key = theirs.key.is_none() || theirs.key == ours.key;
        ours.epoch == theirs.epoch && is_of_one_key && ours.seq < theirs.seq
    }
}

/// Where a signed job stands among those of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The epoch of the keyring.
    pub epoch: u64,
    /// The number.
    pub seq: u64,
    /// How the name of the key begins; none in a stamp of before it was written down.
    pub key: Option<[u8; 4]>,
}

impl Order {
    /// `<epoch>.<seq>.<key>`: two numbers, and six letters of base64url.
    fn to_text(self) -> String {
        let Self { epoch, seq, key } = self;
        let key = key.map(|key| base64url::encode(&key)).unwrap_or_default();
        format!("{epoch}.{seq}.{key}")
    }

    /// Reads what is stamped on an object, also without a key; none for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let (epoch, rest) = text.split_once('.')?;
        let (seq, key) = match rest.split_once('.') {
            Some((seq, key)) => (seq, Some(base64url::decode_array(key)?)),
            None => (rest, None),
        };
        Some(Self { epoch: number(epoch)?, seq: number(seq)?, key })
    }
}

#[cfg(test)]
mod tests {
    use super::{Denied, Order, Permitted, permit};
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
        let order = permitted.order().unwrap();
        assert_eq!(annotation(&permitted, SIGNED_SEQ_ANNOTATION), Some(&*order.to_text()));
        assert_eq!(Order::parse(&order.to_text()), Some(order));
    }

    #[test]
    fn a_signed_job_is_behind_a_later_one_of_the_same_epoch_only() {
        let policy = Policy::new(Vec::new(), Vec::new());
        let payload = signed(&instance(""), 5);
        let permitted = permit(&payload, &policy, None).unwrap();
        let ours = permitted.order().unwrap();
        assert_eq!((ours.epoch, ours.seq, ours.key.is_some()), (7, 5, true));
        let order = |epoch, seq| Some(Order { epoch, seq, key: ours.key });
        assert!(permitted.is_behind(order(7, 6)));
        assert!(permitted.is_behind(Some(Order { key: None, ..order(7, 6).unwrap() })), "whosever it is");
        let others = Some(Order { epoch: 7, seq: 6, key: Some([0; 4]) });
        for carried in [None, order(7, 5), order(7, 4), order(8, 6), order(6, 6), others] {
            assert!(!permitted.is_behind(carried), "{carried:?}");
        }
        let payload = unsigned("apply", &instance(""));
        assert!(!permit(&payload, &policy, None).unwrap().is_behind(order(7, 6)));
    }

    #[test]
    fn an_order_is_digits_and_a_key_with_dots_between() {
        let order = |epoch, seq, key| Some(Order { epoch, seq, key });
        assert_eq!(Order::parse("3.41"), order(3, 41, None));
        assert_eq!(Order::parse("3.41.AAECAw"), order(3, 41, Some([0, 1, 2, 3])));
        assert_eq!(Order::parse("0.18446744073709551615"), order(0, u64::MAX, None));
        let bad = ["", ".", "1", "1.", ".1", "+1.2", "1.-2", " 1.2", "0.18446744073709551616", "1.2.", "1.2.3"];
        for bad in bad.into_iter().chain(["1.2.AAECAwQ", "1.2.AAEC", "1.2.AAECAw.", "1.2.AAECAw.3", "1.2.AAECA="]) {
            assert_eq!(Order::parse(bad), None, "{bad}");
        }
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

//! What an object says about the job that applied it last.

use super::Readiness;
use crate::protocol::{
    CLUSTER_ID_LABEL, KEY_HASH_ANNOTATION, MANAGED_BY_LABEL, MANAGED_BY_VALUE, ObjectRef, SIGNED_SEQ_ANNOTATION,
};
use crate::trust::Order;

/// An object of ours that is there already, with what was stamped on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The object as it was found.
    pub reference: ObjectRef,
    /// Whether anybody will report on it.
    pub readiness: Readiness,
    /// The hash of the idempotency key of the job that applied it last.
    pub key_hash: Option<String>,
    /// Where the signed job stands that applied it last.
    pub signed: Option<Order>,
}

/// Collects a stamp from labels and annotations, in any order.
#[derive(Default)]
pub(super) struct Marks {
    is_managed: bool,
    is_of_cluster: bool,
    key_hash: Option<String>,
    signed: Option<Order>,
}

/// Eleven letters of base64url.
const KEY_HASH_BYTES: usize = 11;

impl Marks {
    pub(super) fn label(&mut self, name: &str, value: &str, cluster_id: &str) {
        match name {
            MANAGED_BY_LABEL => self.is_managed = value == MANAGED_BY_VALUE,
            CLUSTER_ID_LABEL => self.is_of_cluster = value == cluster_id,
            _ => {}
        }
    }

    pub(super) fn annotation(&mut self, name: &str, value: &str) {
        match name {
            KEY_HASH_ANNOTATION => self.key_hash = (value.len() == KEY_HASH_BYTES).then(|| value.to_owned()),
            SIGNED_SEQ_ANNOTATION => self.signed = Order::parse(value),
            _ => {}
        }
    }

    /// None unless the object carries both of our labels: what others stamp is not ours.
    pub(super) fn into_stamp(self, reference: ObjectRef, readiness: Readiness) -> Option<Stamp> {
        (self.is_managed && self.is_of_cluster).then_some(Stamp {
            reference,
            readiness,
            key_hash: self.key_hash,
            signed: self.signed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Marks;
    use crate::protocol::{CLUSTER_ID_LABEL, KEY_HASH_ANNOTATION, MANAGED_BY_LABEL, ObjectRef};
    use crate::target::Readiness;

    #[test]
    fn only_an_object_with_both_of_our_labels_has_a_stamp() {
        for (managed, cluster, counts) in
            [("control-plane", "c", true), ("control-plane", "other", false), ("somebody", "c", false)]
        {
            let mut marks = Marks::default();
            marks.annotation(KEY_HASH_ANNOTATION, "AAAAAAAAAAA");
            marks.label(MANAGED_BY_LABEL, managed, "c");
            marks.label(CLUSTER_ID_LABEL, cluster, "c");
            let stamp = marks.into_stamp(ObjectRef::default(), Readiness::Watched);
            assert_eq!(stamp.and_then(|stamp| stamp.key_hash).is_some(), counts, "{managed} {cluster}");
        }
        let mut marks = Marks::default();
        marks.annotation(KEY_HASH_ANNOTATION, "AAAAAAAAAAA");
        assert_eq!(marks.into_stamp(ObjectRef::default(), Readiness::Watched), None);
    }

    #[test]
    fn a_hash_with_a_letter_too_many_is_none() {
        for (hash, counts) in [("AAAAAAAAAAA", true), ("AAAAAAAAAAAA", false), ("", false)] {
            let mut marks = Marks::default();
            marks.annotation(KEY_HASH_ANNOTATION, hash);
            assert_eq!(marks.key_hash.is_some(), counts, "{hash}");
        }
    }
}

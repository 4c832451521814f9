//! What a rotation brings beside the credential.

use std::sync::Arc;

use super::cluster::Known;
use crate::job::gate::Gate;
use crate::journal::Outbox;
use crate::link::keeper::Rotated;
use crate::link::{CredentialStore, Health, LongPoll, authorities, events};
use crate::protocol::ClusterId;

/// Whom a rotation concerns.
pub(super) struct Parts {
    pub(super) outbox: Arc<Outbox>,
    pub(super) cluster_id: ClusterId,
    pub(super) gate: Arc<Gate>,
    pub(super) known: Option<Arc<Known>>,
    pub(super) health: Arc<Health>,
    pub(super) link: Arc<LongPoll>,
    /// Where authorities are kept.
    pub(super) store: Arc<dyn CredentialStore>,
}

/// A new credential is told, and what came with it is looked at: keyrings and authorities.
pub(super) fn on_rotation(parts: Parts) -> Rotated {
    let Parts { outbox, cluster_id, gate, known, health, link, store } = parts;
    Box::new(move |issued| {
        events::push_rotated(&outbox, &cluster_id);
        gate.offer(&issued.signing_keys, &outbox);
        if let Some(known) = &known {
            known.rotated(issued.bearer.issued_at);
        }
        let fault = match &issued.ca_bundle {
            Some(text) => {
                let taken = gate.with_voice(|voice| authorities::take(text, voice, &link, store.as_ref()));
                authorities::tell(&taken).err().unwrap_or_default()
            }
            // Nothing is given any more that could not be used.
            None => "",
        };
        if health.set_unused_authorities(fault) {
            events::push_renewed(&outbox, &cluster_id, &health);
        }
    })
}

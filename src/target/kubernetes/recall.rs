//! Which kinds are to be reported on once more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A ticket for each kind, as long as its objects are still to be reported on.
pub(super) struct Recall {
    tickets: Mutex<Box<[Option<Arc<()>>]>>,
    asked: Notify,
}

impl Recall {
    pub(super) fn new(kinds: usize) -> Self {
        Self { tickets: Mutex::new(vec![None; kinds].into()), asked: Notify::new() }
    }

    /// Asks all kinds. What was asked before is asked no more: one report answers both.
    pub(super) fn ask(&self, ticket: &Arc<()>) {
        self.tickets().fill(Some(Arc::clone(ticket)));
        self.asked.notify_waiters();
    }

    /// The ticket of a kind that is about to be listed, or that cannot be.
    pub(super) fn take(&self, kind: usize) -> Option<Arc<()>> {
        self.tickets().get_mut(kind)?.take()
    }

    /// A list was not read to its end.
    pub(super) fn give_back(&self, kind: usize, ticket: Option<Arc<()>>) {
        if let Some(place @ None) = self.tickets().get_mut(kind) {
            *place = ticket;
        }
    }

    /// Waits until the kind is asked for.
    pub(super) async fn asked(&self, kind: usize) {
        loop {
            let asked = self.asked.notified();
            if self.tickets().get(kind).is_some_and(Option::is_some) {
                return;
            }
            asked.await;
        }
    }

    fn tickets(&self) -> MutexGuard<'_, Box<[Option<Arc<()>>]>> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::Recall;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_ticket_is_gone_when_each_kind_has_had_its_turn() {
        let recall = Recall::new(2);
        let ticket = Arc::new(());
        let asked = recall.asked(1);
        recall.ask(&ticket);
        asked.await;
        let watch = Arc::downgrade(&ticket);
        drop(ticket);
        let first = recall.take(0);
        assert!(recall.take(0).is_none() && recall.take(2).is_none());
        recall.give_back(0, first);
        recall.asked(0).await;
        drop((recall.take(0), recall.take(1)));
        assert!(watch.upgrade().is_none());
    }

    #[test]
    fn one_that_is_asked_again_amid_a_list_is_listed_again() {
        let recall = Recall::new(1);
        let (old, new) = (Arc::new(()), Arc::new(()));
        recall.ask(&old);
        let listing = recall.take(0);
        recall.ask(&new);
        recall.give_back(0, listing);
        assert!(recall.take(0).is_some_and(|ticket| Arc::ptr_eq(&ticket, &new)));
    }
}

//! Which kinds are to be reported on once more, and which cannot be.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What each kind still has to report.
pub(super) struct Recall {
    places: Mutex<Box<[Place]>>,
    asked: Notify,
}

/// One kind.
#[derive(Clone, Default)]
struct Place {
    /// As long as its objects are still to be reported on.
    ticket: Option<Arc<()>>,
    /// It cannot be listed, and nobody waits for it.
    is_left_out: bool,
    /// What it was asked for it did not report.
    is_owed: bool,
}

impl Recall {
    pub(super) fn new(kinds: usize) -> Self {
        Self { places: Mutex::new(vec![Place::default(); kinds].into()), asked: Notify::new() }
    }

    /// Asks all kinds. What was asked before is asked no more: one report answers both.
    pub(super) fn ask(&self, ticket: &Arc<()>) {
        for place in &mut *self.places() {
            (place.ticket, place.is_owed) = (Some(Arc::clone(ticket)), false);
        }
        self.asked.notify_waiters();
    }

    /// The ticket of a kind that is about to be listed.
    pub(super) fn take(&self, kind: usize) -> Option<Arc<()>> {
        self.places().get_mut(kind)?.ticket.take()
    }

    /// A list was not read to its end.
    pub(super) fn give_back(&self, kind: usize, ticket: Option<Arc<()>>) {
        if let Some(Place { ticket: place @ None, .. }) = self.places().get_mut(kind) {
            *place = ticket;
        }
    }

    /// A kind cannot be listed, and holds up nobody. Where it `has_objects` they are reported on when it can be.
    pub(super) fn leave_out(&self, kind: usize, has_objects: bool) {
        if let Some(place) = self.places().get_mut(kind) {
            place.is_left_out = true;
            place.is_owed |= place.ticket.take().is_some() && has_objects;
        }
    }

    /// A kind was listed.
    pub(super) fn listed(&self, kind: usize) {
        if let Some(place) = self.places().get_mut(kind) {
            place.is_left_out = false;
        }
    }

    /// The kinds that are left out, by their numbers.
    pub(super) fn left_out(&self) -> Vec<usize> {
        let numbered = |(number, place): (usize, &Place)| place.is_left_out.then_some(number);
        self.places().iter().enumerate().filter_map(numbered).collect()
    }

    /// How many kinds owe a report, and how many of these could make it now.
    pub(super) fn owed(&self) -> (usize, usize) {
        let places = self.places();
        let owed = places.iter().filter(|place| place.is_owed);
        (owed.clone().count(), owed.filter(|place| !place.is_left_out).count())
    }

    /// Waits until the kind is asked for.
    pub(super) async fn asked(&self, kind: usize) {
        loop {
            let asked = self.asked.notified();
            if self.places().get(kind).is_some_and(|place| place.ticket.is_some()) {
                return;
            }
            asked.await;
        }
    }

    fn places(&self) -> MutexGuard<'_, Box<[Place]>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn what_a_kind_that_is_left_out_was_asked_for_is_owed_until_it_is_asked_again() {
        let recall = Recall::new(3);
        recall.leave_out(0, true);
        assert_eq!((recall.left_out(), recall.owed()), (vec![0], (0, 0)), "nobody has asked yet");
        let ticket = Arc::new(());
        recall.ask(&ticket);
        recall.leave_out(0, true);
        recall.leave_out(1, false);
        drop(recall.take(2));
        assert_eq!(Arc::strong_count(&ticket), 1, "nobody is held up");
        assert_eq!((recall.left_out(), recall.owed()), (vec![0, 1], (1, 0)));
        recall.listed(0);
        recall.listed(1);
        assert_eq!((recall.left_out(), recall.owed()), (vec![], (1, 1)));
        recall.ask(&ticket);
        assert_eq!(recall.owed(), (0, 0));
        // What is no kind is no harm.
        recall.leave_out(3, true);
        recall.listed(3);
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

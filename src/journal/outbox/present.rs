//! After a loss the truth is sent anew, not the history: what is owed of it, and how much of it may wait.

use std::time::{Duration, Instant};

use super::{Outbox, Owed, Stage};
use crate::limits;
use crate::protocol::{Event, EventKind};

/// What there is to be known of it.
#[derive(Debug, Default)]
pub(super) struct Present {
    /// Losses after which it was sent.
    pub(super) resent: (u64, u64),
    /// There was a loss that nobody can count.
    is_owed: bool,
    /// The losses it is being sent for.
    sending: Option<(u64, u64)>,
    /// When something of it last found room.
    moved: Option<Instant>,
    /// When it was last sent something was left out of it: who starts next is to send all of it.
    is_partial: bool,
}

/// Losses that there cannot have been: on the disk this is for a present of which something was left out.
const PARTLY: (u64, u64) = (u64::MAX, u64::MAX);

impl Present {
    /// An event is lost that the server would refuse once more: for this one the present need not be sent.
    fn forgive(&mut self) {
        self.resent.0 = self.resent.0.saturating_add(1);
        if let Some(sending) = &mut self.sending {
            sending.0 = sending.0.saturating_add(1);
        }
    }
}

impl Stage {
    fn owe_resent(&mut self) {
        let resent = if self.present.is_partial { PARTLY } else { self.present.resent };
        self.owe(Owed::Resent(resent));
    }
}

impl Outbox {
    /// The server refuses this event, and would again; nothing behind it waits for that. It is lost, and counted, but for
    /// a heartbeat, which another one follows. Blocks.
    pub fn give_up_event(&self, event: &Event) {
        let mut stage = self.lock();
        if event.kind == EventKind::ClusterHeartbeat {
            // What it was to tell was not told.
            stage.telling = None;
            stage.has_refused_heartbeat = true;
        } else {
            stage.lost = stage.lost.saturating_add(1);
            stage.present.forgive();
            stage.owe_resent();
        }
        drop(stage);
        self.drop_events(&event.event_key);
    }

    /// Whether a heartbeat was refused since this was last asked.
    #[must_use]
    pub fn take_refused_heartbeat(&self) -> bool {
        std::mem::take(&mut self.lock().has_refused_heartbeat)
    }

    /// Something was lost that nobody can count.
    pub fn owe_present(&self) {
        self.lock().present.is_owed = true;
    }

    /// Whether something was lost since the present was last sent.
    #[must_use]
    pub fn owes_present(&self) -> bool {
        let stage = self.lock();
        stage.present.is_owed || stage.losses() != stage.present.resent
    }

    /// The present is being sent from now on.
    pub fn begin_present(&self) {
        let mut stage = self.lock();
        stage.present.sending = Some(stage.losses());
        stage.present.moved = Some(Instant::now());
    }

    /// Nothing more of it is taken; it stays owed.
    pub fn give_up_present(&self) {
        self.lock().present.sending = None;
    }

    /// All of it was posted, or, where it is not whole, all that there was. The disk gets to know with its next page: before
    /// that, a power cut is one more loss.
    pub fn end_present(&self, is_whole: bool) {
        let mut stage = self.lock();
        if let Some(losses) = stage.present.sending.take() {
            (stage.present.resent, stage.present.is_owed) = (losses, false);
            stage.present.is_partial = !is_whole;
            stage.owe_resent();
        }
    }

    /// How long nothing of it has found room; none = it is not being sent.
    #[must_use]
    pub fn present_idle(&self) -> Option<Duration> {
        let stage = self.lock();
        stage.present.sending.and(stage.present.moved).map(|moved| moved.elapsed())
    }

    /// Waits until so many events of the present find room in memory, less than what is written to the flash; false
    /// when nobody makes room, or it is not being sent.
    pub async fn room_for_present(&self, count: usize) -> bool {
        self.room_within(count, limits::PRESENT_PATIENCE).await
    }

    async fn room_within(&self, count: usize, patience: Duration) -> bool {
        let began = Instant::now();
        loop {
            {
                let mut stage = self.lock();
                if stage.present.sending.is_none() {
                    return false;
                }
                let waiting = stage.events.len();
                if waiting == 0 || waiting.saturating_add(count) < limits::FLUSH_EVENTS {
                    stage.present.moved = Some(Instant::now());
                    return true;
                }
                if began.elapsed() >= patience {
                    stage.present.sending = None;
                    return false;
                }
            }
            tokio::time::sleep(limits::PRESENT_LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Outbox;
    use crate::journal::open::open;
    use crate::limits;
    use crate::protocol::{Event, EventKind};
    use std::os::fd::AsFd as _;
    use std::path::Path;

    fn push(outbox: &Outbox, count: usize) {
        for _ in 0..count {
            let event = Event::bare(EventKind::ConditionTransition);
            outbox.push_event("x", event);
        }
    }

    fn push_heartbeat(outbox: &Outbox) {
        let event = Event::bare(EventKind::ClusterHeartbeat);
        outbox.push_event("h", event);
    }

    fn on_disk(directory: &Path) -> Outbox {
        open(std::fs::File::open(directory).unwrap().as_fd(), limits::JOURNAL_MIN, 7).unwrap().outbox
    }

    #[test]
    fn each_loss_is_followed_by_the_present_once() {
        let outbox = Outbox::new(1);
        assert!(!outbox.owes_present());
        push(&outbox, limits::STAGE_RECORDS + 1);
        assert!(outbox.owes_present());
        outbox.begin_present();
        // One more is lost meanwhile: that is for the next time.
        push(&outbox, 1);
        outbox.end_present(true);
        assert!(outbox.owes_present());
        outbox.begin_present();
        outbox.end_present(true);
        assert!(!outbox.owes_present());
        outbox.owe_present();
        outbox.begin_present();
        outbox.give_up_present();
        outbox.end_present(true);
        assert!(outbox.owes_present(), "what was given up is not done");
    }

    #[test]
    fn what_is_owed_outlives_a_stop_and_a_power_cut_owes_it_anew() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = on_disk(directory.path());
        assert!(outbox.owes_present(), "nobody knows what was there before");
        outbox.begin_present();
        outbox.end_present(true);
        outbox.close();
        drop(outbox);
        let outbox = on_disk(directory.path());
        assert!(!outbox.owes_present(), "nothing was lost");
        push(&outbox, limits::STAGE_RECORDS + 1);
        outbox.close();
        drop(outbox);
        let outbox = on_disk(directory.path());
        assert!(outbox.owes_present(), "it was stopped between the loss and the sending");
        outbox.begin_present();
        outbox.end_present(true);
        outbox.close();
        drop(outbox);
        let outbox = on_disk(directory.path());
        assert!(!outbox.owes_present());
        drop(outbox);
        assert!(on_disk(directory.path()).owes_present(), "the power was cut");
    }

    #[test]
    fn a_present_of_which_something_was_left_out_is_sent_by_who_starts_next() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = on_disk(directory.path());
        outbox.begin_present();
        outbox.end_present(false);
        assert!(!outbox.owes_present(), "all was sent that there was");
        // What is refused meanwhile changes nothing of it.
        push(&outbox, 1);
        outbox.give_up_event(&outbox.first_events().unwrap().0[0]);
        outbox.close();
        drop(outbox);
        let outbox = on_disk(directory.path());
        assert!(outbox.owes_present());
        outbox.begin_present();
        outbox.end_present(true);
        outbox.close();
        drop(outbox);
        assert!(!on_disk(directory.path()).owes_present());
    }

    #[test]
    fn a_refused_event_is_counted_and_owes_nothing_and_a_refused_heartbeat_has_told_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = on_disk(directory.path());
        outbox.begin_present();
        outbox.end_present(true);
        push(&outbox, limits::STAGE_RECORDS + 1);
        push_heartbeat(&outbox);
        while let Some((events, _)) = outbox.first_events() {
            outbox.give_up_event(&events[0]);
        }
        let fill = outbox.fill();
        // The heartbeat itself found no room.
        assert_eq!((fill.lost, fill.told), (limits::STAGE_RECORDS as u64 + 2, false));
        assert!(outbox.owes_present(), "for those that found no room");
        outbox.begin_present();
        push(&outbox, 1);
        outbox.give_up_event(&outbox.first_events().unwrap().0[0]);
        outbox.end_present(true);
        push_heartbeat(&outbox);
        outbox.give_up_event(&outbox.first_events().unwrap().0[0]);
        assert!(!outbox.owes_present() && !outbox.fill().told, "nobody took what it says");
        push_heartbeat(&outbox);
        outbox.drop_events(&outbox.first_events().unwrap().0[0].event_key);
        assert!(outbox.fill().told);
        outbox.close();
        drop(outbox);
        let outbox = on_disk(directory.path());
        assert_eq!(outbox.fill().lost, limits::STAGE_RECORDS as u64 + 3);
        assert!(!outbox.owes_present(), "the disk knows what was sent anew");
    }

    #[tokio::test]
    async fn only_so_much_of_the_present_waits_and_a_server_that_takes_nothing_ends_it() {
        let outbox = Outbox::new(1);
        assert!(!outbox.room_for_present(1).await, "it is not being sent");
        outbox.begin_present();
        push(&outbox, limits::FLUSH_EVENTS - 2);
        assert!(outbox.room_for_present(1).await);
        assert!(outbox.present_idle().is_some());
        push(&outbox, 1);
        let (found, ()) = tokio::join!(outbox.room_for_present(1), async {
            tokio::time::sleep(limits::PRESENT_LOOK * 3).await;
            let (events, _) = outbox.first_events().unwrap();
            outbox.drop_events(&events[0].event_key);
        });
        assert!(found, "one was posted");
        push(&outbox, 1);
        assert!(!outbox.room_within(limits::OBJECT_CONDITIONS, limits::PRESENT_LOOK).await);
        assert!(outbox.present_idle().is_none(), "it was given up");
    }
}

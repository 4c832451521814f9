//! How things stand on the disk, and what goes there because nobody takes it.

use std::sync::Arc;
use std::time::Duration;

use super::{Outbox, Stage};
use crate::journal::medium::FileMedium;
use crate::journal::store::Journal;
use crate::limits;
use crate::shutdown::Stop;
use crate::task;

/// How the journal stood after its last page.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DiskState {
    /// Something can be written.
    pub(super) is_there: bool,
    pub(super) has_room: bool,
    pub(super) is_full_of_events: bool,
    pub(super) events: u64,
    pub(super) losses: (u64, u64),
    pub(super) told: (u64, u64),
}

impl Stage {
    pub(super) fn look_at(&mut self, journal: &Journal<FileMedium>) {
        self.disk = DiskState {
            is_there: !self.is_read_only,
            has_room: journal.has_room(),
            is_full_of_events: journal.is_full_of_events(),
            events: journal.events_waiting(),
            losses: journal.losses(),
            told: journal.told(),
        };
    }
}

impl Outbox {
    /// The journal is there to be read alone: what comes from now on stays in memory.
    pub fn only_read(&self) {
        let mut stage = self.lock();
        (stage.is_read_only, stage.disk.is_there) = (true, false);
    }

    /// When events are to be written: there is a page of them, or nobody takes them. Never, while there are none.
    fn flush_due(&self) -> Option<Duration> {
        let stage = self.lock();
        if stage.events.is_empty() {
            return None;
        }
        if !stage.disk.is_there || stage.disk.is_full_of_events {
            return Some(limits::FLUSH_DELAY);
        }
        if stage.events.len() >= limits::FLUSH_EVENTS {
            return Some(Duration::ZERO);
        }
        stage.events_since.map(|since| limits::FLUSH_DELAY.saturating_sub(since.elapsed()))
    }
}

/// Writes events that nobody takes, until `stop`.
pub async fn keep(outbox: Arc<Outbox>, stop: Stop) {
    while !stop.is_set() {
        match outbox.flush_due() {
            Some(left) if left.is_zero() => {
                let writing = Arc::clone(&outbox);
                // A thread that ended early wrote nothing, and it is tried again.
                let _ = task::on_thread(move || writing.flush()).await;
                tokio::select! {
                    () = tokio::time::sleep(limits::BACKOFF_FLOOR) => {}
                    () = stop.wait() => {}
                }
            }
            left => tokio::select! {
                () = tokio::time::sleep(left.unwrap_or_default()), if left.is_some() => {}
                () = outbox.staged.notified() => {}
                () = stop.wait() => {}
            },
        }
    }
}

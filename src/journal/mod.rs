//! What must survive, and what waits to be posted.
//!
//! ```text
//! job, target ──▶ outbox ──▶ store ──▶ ring (pages of 4 KiB), spool (long jobs), checkpoint (old jobs)
//!                   │ link posts       each on a medium: a file of fixed size
//! ```
//! The [`Outbox`] is what the others see: it takes events, statuses and results and gives them to whoever posts
//! them. Results are on the disk before they are posted, jobs before they are acked. Events wait in memory for
//! company and go to the disk when the line is down. Statuses are for the moment, and wait in memory alone.
//! The byte layout is drawn in [`page`], [`spool`] and [`checkpoint`], and in docs/journal.md.

mod bound;
pub mod checkpoint;
#[cfg(test)]
mod damage;
pub mod medium;
#[cfg(test)]
mod model;
pub mod open;
mod outbox;
pub mod page;
pub mod record;
#[cfg(test)]
#[path = "../../tests/fuzz/targets/records.rs"]
mod records;
pub mod ring;
pub mod spool;
pub mod stamp;
pub mod store;
pub mod survey;

pub use bound::cut;
pub use outbox::{Ended, Fill, Outbox, Report, keep};

//! Jobs that are too long for a page, as they were received.
//!
//! ```text
//!    0  magic "PLTS", format version (2), reserved (2)
//!    8  number of the job's record       8
//!   16  length of the text               4
//!   20  CRC32C of the text               4
//!   24  SHA-256 of the job id, 8 bytes   8
//!   32  CRC32C of the bytes before       4
//! 4096  the text
//! ```
//! One slot per open job, each 4 KiB and the longest job. A slot is wiped once the outcome of its job is durable.

use std::io;

use ring::digest;

use super::medium::Medium;
use super::page::crc32c;
use crate::limits;

/// Bytes of one slot.
pub const SLOT: u64 = (limits::PAGE_BYTES + limits::JOB_BYTES) as u64;

/// Bytes of the spool.
pub const SPOOL: u64 = SLOT * limits::OPEN_JOBS as u64;

const MAGIC: [u8; 8] = *b"PLTS\x01\x00\x00\x00";
const HEADER: usize = 36;
const TEXT_AT: u64 = limits::PAGE_BYTES as u64;

/// The slots.
#[derive(Debug)]
pub struct Spool<M> {
    medium: M,
    used: [bool; limits::OPEN_JOBS],
}

impl<M: Medium> Spool<M> {
    /// On a medium of [`SPOOL`] bytes; none when it is shorter. The slots of `open` jobs stay, the others are free.
    pub fn open(medium: M, open: impl Iterator<Item = u8>) -> Option<Self> {
        if medium.len().ok()? < SPOOL {
            return None;
        }
        let mut spool = Self { medium, used: [false; limits::OPEN_JOBS] };
        for slot in open {
            if let Some(used) = spool.used.get_mut(usize::from(slot)) {
                *used = true;
            }
        }
        for slot in 0..limits::OPEN_JOBS {
            // A job that ended while its slot could not be wiped: its text goes now.
            if !spool.used.get(slot).copied().unwrap_or(true)
                && let Ok(slot) = u8::try_from(slot)
                && spool.header(slot).is_some()
            {
                let _ = spool.wipe(slot);
            }
        }
        Some(spool)
    }

    /// Writes a text into a free slot and makes it durable; none when there is no free slot.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn put(&mut self, number: u64, id: &str, text: &str) -> io::Result<Option<u8>> {
        let Some(slot) = self.used.iter().position(|used| !used).and_then(|slot| u8::try_from(slot).ok()) else {
            return Ok(None);
        };
        if text.len() > limits::JOB_BYTES {
            return Ok(None);
        }
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&number.to_le_bytes());
        header.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        header.extend_from_slice(&crc32c(text.as_bytes()).to_le_bytes());
        header.extend_from_slice(&id_hash(id));
        let crc = crc32c(&header);
        header.extend_from_slice(&crc.to_le_bytes());
        let at = u64::from(slot).saturating_mul(SLOT);
        self.medium.write_at(at, &header)?;
        self.medium.write_at(at.saturating_add(TEXT_AT), text.as_bytes())?;
        self.medium.sync()?;
        if let Some(used) = self.used.get_mut(usize::from(slot)) {
            *used = true;
        }
        Ok(Some(slot))
    }

    /// The text of a job; none when it is not there as it was written.
    #[must_use]
    pub fn text(&self, slot: u8, number: u64, id: &str) -> Option<Box<str>> {
        let (found, len, crc, hash) = self.header(slot)?;
        if found != number || hash != id_hash(id) || len > limits::JOB_BYTES {
            return None;
        }
        let mut text = vec![0; len];
        self.medium.read_at(u64::from(slot).checked_mul(SLOT)?.checked_add(TEXT_AT)?, &mut text).ok()?;
        if crc32c(&text) != crc {
            return None;
        }
        String::from_utf8(text).ok().map(String::into_boxed_str)
    }

    fn header(&self, slot: u8) -> Option<(u64, usize, u32, [u8; 8])> {
        header_of(&self.medium, slot)
    }

    /// Overwrites a text with zeros and frees its slot. Not made durable by itself: the next sync does it.
    ///
    /// # Errors
    /// When it could not be written; the slot is free all the same.
    pub fn wipe(&mut self, slot: u8) -> io::Result<()> {
        const ZEROS: [u8; limits::PAGE_BYTES] = [0; limits::PAGE_BYTES];
        let len = self.header(slot).map_or(0, |(_, len, ..)| len.min(limits::JOB_BYTES));
        if let Some(used) = self.used.get_mut(usize::from(slot)) {
            *used = false;
        }
        let start = u64::from(slot).saturating_mul(SLOT).saturating_add(TEXT_AT);
        let mut done = 0;
        while done < len {
            let piece = len.saturating_sub(done).min(ZEROS.len());
            self.medium.write_at(start.saturating_add(done as u64), ZEROS.get(..piece).unwrap_or(&ZEROS))?;
            done = done.saturating_add(piece);
        }
        self.medium.write_at(u64::from(slot).saturating_mul(SLOT), &[0; HEADER])
    }
}

/// The length of a job's text, for who only looks: [`Spool::open`] tidies up.
#[must_use]
pub fn text_len(medium: &impl Medium, slot: u8, number: u64) -> Option<usize> {
    header_of(medium, slot).filter(|(found, ..)| *found == number).map(|(_, len, ..)| len)
}

fn header_of(medium: &impl Medium, slot: u8) -> Option<(u64, usize, u32, [u8; 8])> {
    let mut header = [0; HEADER];
    medium.read_at(u64::from(slot).checked_mul(SLOT)?, &mut header).ok()?;
    let (body, crc) = header.split_last_chunk::<4>()?;
    let (magic, rest) = body.split_first_chunk::<8>()?;
    if *magic != MAGIC || u32::from_le_bytes(*crc) != crc32c(body) {
        return None;
    }
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (text_crc, rest) = rest.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
    Some((u64::from_le_bytes(*number), len, u32::from_le_bytes(*text_crc), *rest.first_chunk::<8>()?))
}

fn id_hash(id: &str) -> [u8; 8] {
    let hash = digest::digest(&digest::SHA256, id.as_bytes());
    hash.as_ref().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{SLOT, SPOOL, Spool};
    use crate::journal::medium::faulty::Faulty;
    use crate::limits;

    fn medium() -> Faulty {
        Faulty::new(usize::try_from(SPOOL).unwrap())
    }

    #[test]
    fn a_text_comes_back_until_it_is_wiped() {
        let medium = medium();
        let mut spool = Spool::open(medium.clone(), std::iter::empty()).unwrap();
        let longest = "ü".repeat(limits::JOB_BYTES / 2);
        assert_eq!(spool.put(1, "a", "geheim").unwrap(), Some(0));
        assert_eq!(spool.put(2, "b", &longest).unwrap(), Some(1));
        assert_eq!(spool.text(1, 2, "b").as_deref(), Some(longest.as_str()));
        assert_eq!(spool.text(0, 1, "a").as_deref(), Some("geheim"));
        assert_eq!((spool.text(0, 2, "a"), spool.text(0, 1, "b"), spool.text(7, 1, "a")), (None, None, None));
        spool.wipe(0).unwrap();
        assert_eq!(spool.text(0, 1, "a"), None);
        assert!(!medium.bytes().windows(6).any(|bytes| bytes == b"geheim"));
        assert_eq!(spool.put(3, "c", "x").unwrap(), Some(0));
    }

    #[test]
    fn one_byte_over_the_longest_job_and_one_job_over_the_open_ones_have_no_slot() {
        let mut spool = Spool::open(medium(), std::iter::empty()).unwrap();
        assert_eq!(spool.put(1, "a", &"x".repeat(limits::JOB_BYTES + 1)).unwrap(), None);
        for number in 0..limits::OPEN_JOBS {
            assert!(spool.put(number as u64, "a", "x").unwrap().is_some());
        }
        assert_eq!(spool.put(99, "a", "x").unwrap(), None);
        assert!(Spool::open(Faulty::new(100), std::iter::empty()).is_none());
    }

    #[test]
    fn a_spoilt_text_is_not_given_and_a_forgotten_one_is_wiped() {
        let medium = medium();
        let mut spool = Spool::open(medium.clone(), std::iter::empty()).unwrap();
        spool.put(1, "a", "geheim").unwrap();
        spool.put(2, "b", "offen").unwrap();
        medium.spoil(|bytes| bytes[usize::try_from(SLOT).unwrap() + limits::PAGE_BYTES] ^= 1);
        assert_eq!(spool.text(1, 2, "b"), None);
        let again = Spool::open(medium.clone(), [1].into_iter()).unwrap();
        assert_eq!(again.text(0, 1, "a"), None);
        assert!(!medium.bytes().windows(6).any(|bytes| bytes == b"geheim"));
    }
}

//! What is known of earlier jobs, for when the journal has gone round: two slots, of which the older is overwritten.
//!
//! ```text
//!    0  magic "PLTC", format version 2 (2 bytes), reserved (2)
//!    8  generation                       8
//!   16  length of what follows           4
//!   20  CRC32C of what follows           4
//!   24  CRC32C of the bytes before       4
//!   28  postcard: Kept, then header hashes and the trust state
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::marker::PhantomData;

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::medium::Medium;
use super::page::crc32c;
use super::record::StoredOutcome;
use crate::limits;

/// Bytes of one slot: 64 outcomes of 1.3 KiB and 512 hashes take 90 kB.
pub const SLOT: usize = 128 * 1024;

/// Bytes of the file.
pub const CHECKPOINT: u64 = 2 * SLOT as u64;

/// Magic and the format that this program writes.
const MAGIC: [u8; 8] = *b"PLTC\x02\x00\x00\x00";

/// The format before: no header hashes, no trust state.
const MAGIC_1: [u8; 8] = *b"PLTC\x01\x00\x00\x00";
const HEADER: usize = 28;

/// What is kept of jobs that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// All outcomes up to this number are in here.
    pub through: u64,
    /// Hashes of the last used keys, oldest first.
    #[serde(deserialize_with = "at_most::<_, _, { limits::KNOWN_KEYS }>")]
    pub keys: VecDeque<[u8; 8]>,
    /// The last outcomes, oldest first.
    #[serde(deserialize_with = "at_most::<_, _, { limits::KEPT_OUTCOMES }>")]
    pub outcomes: VecDeque<StoredOutcome>,
    /// The trust state that is on the disk, and the number of its record; none = nothing was trusted yet.
    #[serde(skip)]
    pub trust: Option<(u64, Vec<u8>)>,
}

/// What stands behind [`Kept`] since format 2.
#[derive(Default, Serialize, Deserialize)]
struct Signed {
    /// Header hashes of the outcomes, in their order.
    #[serde(deserialize_with = "at_most::<_, _, { limits::KEPT_OUTCOMES }>")]
    headers: VecDeque<Option<[u8; 8]>>,
    trust: Option<(u64, Vec<u8>)>,
}

impl Kept {
    /// When the last of the signed jobs ended, Unix seconds; none = nothing is known of any.
    #[must_use]
    pub fn last_signed(&self) -> Option<u64> {
        let signed = self.outcomes.iter().filter(|outcome| outcome.header.is_some());
        signed.filter_map(|outcome| u64::try_from(outcome.at).ok()).max()
    }

    /// A job ended.
    pub fn add(&mut self, number: u64, outcome: StoredOutcome) {
        if number <= self.through {
            return;
        }
        self.through = number;
        if let Some(key) = outcome.key.filter(|_| outcome.had_effect) {
            push(&mut self.keys, key, limits::KNOWN_KEYS);
        }
        self.outcomes.retain(|kept| kept.id != outcome.id);
        push(&mut self.outcomes, outcome, limits::KEPT_OUTCOMES);
    }
}

fn push<T>(ring: &mut VecDeque<T>, value: T, capacity: usize) {
    while ring.len() >= capacity {
        ring.pop_front();
    }
    ring.push_back(value);
}

/// Empty outcomes take seven bytes each on the disk and thirty times that in memory: no more are read than are kept.
fn at_most<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MOST: usize>(
    deserializer: D,
) -> Result<VecDeque<T>, D::Error> {
    struct Bounded<T, const MOST: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Bounded<T, MOST> {
        type Value = VecDeque<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MOST}")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut values = VecDeque::new();
            while let Some(value) = list.next_element()? {
                if values.len() >= MOST {
                    return Err(A::Error::invalid_length(MOST.saturating_add(1), &self));
                }
                values.push_back(value);
            }
            Ok(values)
        }
    }

    deserializer.deserialize_seq(Bounded::<T, MOST>(PhantomData))
}

/// The file.
#[derive(Debug)]
pub struct Checkpoint<M> {
    medium: M,
    generation: u64,
    slot: usize,
}

impl<M: Medium> Checkpoint<M> {
    /// Reads the newer of the two that can be trusted; none when the medium is too short.
    #[must_use]
    pub fn open(medium: M) -> Option<(Self, Kept)> {
        if medium.len().ok()? < CHECKPOINT {
            return None;
        }
        let read = [0, 1].map(|slot| read(&medium, slot));
        let newest = read.into_iter().enumerate().filter_map(|(slot, read)| read.map(|read| (slot, read)));
        let (slot, generation, kept) = newest
            .max_by_key(|(_, (generation, _))| *generation)
            .map_or((1, 0, Kept::default()), |(slot, (generation, kept))| (slot, generation, kept));
        Some((Self { medium, generation, slot }, kept))
    }

    /// Writes over the older one.
    ///
    /// # Errors
    /// When it could not be made durable; the newer one is there still.
    pub fn write(&mut self, kept: &Kept) -> io::Result<()> {
        let headers = kept.outcomes.iter().map(|outcome| outcome.header).collect();
        let signed = Signed { headers, trust: kept.trust.clone() };
        let text = postcard::to_allocvec(&(kept, signed)).map_err(io::Error::other)?;
        if text.len() > SLOT.saturating_sub(HEADER) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let (slot, generation) = (1_usize.saturating_sub(self.slot), self.generation.saturating_add(1));
        let mut bytes = Vec::with_capacity(HEADER.saturating_add(text.len()));
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&generation.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(&crc32c(&text).to_le_bytes());
        let crc = crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&text);
        self.medium.write_at(slot.saturating_mul(SLOT) as u64, &bytes)?;
        self.medium.sync()?;
        (self.slot, self.generation) = (slot, generation);
        Ok(())
    }
}

fn read<M: Medium>(medium: &M, slot: usize) -> Option<(u64, Kept)> {
    let at = slot.saturating_mul(SLOT) as u64;
    let mut header = [0; HEADER];
    medium.read_at(at, &mut header).ok()?;
    let (body, crc) = header.split_last_chunk::<4>()?;
    let (magic, rest) = body.split_first_chunk::<8>()?;
    if ![MAGIC, MAGIC_1].contains(magic) || u32::from_le_bytes(*crc) != crc32c(body) {
        return None;
    }
    let (generation, rest) = rest.split_first_chunk::<8>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
    if len > SLOT.saturating_sub(HEADER) {
        return None;
    }
    let mut text = vec![0; len];
    medium.read_at(at.checked_add(HEADER as u64)?, &mut text).ok()?;
    if crc32c(&text) != u32::from_le_bytes(*rest.first_chunk::<4>()?) {
        return None;
    }
    let (mut kept, signed): (Kept, Signed) = if *magic == MAGIC_1 {
        (postcard::from_bytes(&text).ok()?, Signed::default())
    } else {
        postcard::from_bytes(&text).ok()?
    };
    for (outcome, header) in kept.outcomes.iter_mut().zip(signed.headers) {
        outcome.header = header;
    }
    kept.trust = signed.trust;
    Some((u64::from_le_bytes(*generation), kept))
}

#[cfg(test)]
mod tests {
    use super::{CHECKPOINT, Checkpoint, Kept, SLOT};
    use crate::journal::medium::faulty::{Faulty, Random};
    use crate::journal::record::StoredOutcome;
    use crate::journal::records;
    use crate::limits;

    fn medium() -> Faulty {
        Faulty::new(usize::try_from(CHECKPOINT).unwrap())
    }

    fn outcome(id: &str) -> StoredOutcome {
        StoredOutcome { key: Some([7; 8]), error: "e".repeat(limits::RECORD_BYTES), ..records::outcome(id) }
    }

    fn kept(jobs: u64) -> Kept {
        let mut kept = Kept::default();
        for number in 1..=jobs {
            kept.add(number, outcome(&format!("{number:0255}")));
        }
        kept
    }

    #[test]
    fn the_newer_one_is_read_and_the_older_one_where_it_is_spoilt() {
        let medium = medium();
        let (mut checkpoint, empty) = Checkpoint::open(medium.clone()).unwrap();
        assert_eq!(empty, Kept::default());
        checkpoint.write(&kept(1)).unwrap();
        checkpoint.write(&kept(2_000)).unwrap();
        assert_eq!(Checkpoint::open(medium.clone()).unwrap().1, kept(2_000));
        medium.spoil(|bytes| bytes[SLOT + 1_000] ^= 1);
        assert_eq!(Checkpoint::open(medium.clone()).unwrap().1, kept(1));
        medium.spoil(|bytes| bytes.fill(0xa5));
        assert_eq!(Checkpoint::open(medium).unwrap().1, Kept::default());
        assert!(Checkpoint::open(Faulty::new(100)).is_none());
    }

    #[test]
    fn what_belongs_to_signatures_comes_back_and_the_format_before_is_read() {
        let medium = medium();
        let (mut checkpoint, _) = Checkpoint::open(medium.clone()).unwrap();
        let mut full = kept(2);
        full.outcomes[1].header = Some([9; 8]);
        full.trust = Some((5, vec![3; 192]));
        checkpoint.write(&full).unwrap();
        assert_eq!(Checkpoint::open(medium.clone()).unwrap().1, full);
        // The same in format 1: what stands behind is not there.
        let text = postcard::to_allocvec(&kept(2)).unwrap();
        let mut bytes = super::MAGIC_1.to_vec();
        bytes.extend_from_slice(&9_u64.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(text.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(&super::crc32c(&text).to_le_bytes());
        let crc = super::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&text);
        medium.spoil(|all| all[SLOT..SLOT + bytes.len()].copy_from_slice(&bytes));
        assert_eq!(Checkpoint::open(medium).unwrap().1, kept(2));
    }

    #[test]
    fn no_more_is_kept_than_the_limits_say() {
        let kept = kept(2_000);
        assert_eq!((kept.keys.len(), kept.outcomes.len()), (limits::KNOWN_KEYS, limits::KEPT_OUTCOMES));
    }

    #[test]
    fn one_outcome_or_key_more_than_are_kept_is_no_checkpoint() {
        let read = |keys: usize, outcomes: usize| {
            let medium = medium();
            let kept = Kept {
                through: 9,
                keys: std::iter::repeat_n([1; 8], keys).collect(),
                outcomes: std::iter::repeat_n(outcome("a"), outcomes).collect(),
                trust: None,
            };
            Checkpoint::open(medium.clone()).unwrap().0.write(&kept).unwrap();
            Checkpoint::open(medium).unwrap().1.through
        };
        assert_eq!(read(limits::KNOWN_KEYS, limits::KEPT_OUTCOMES), 9);
        assert_eq!(read(limits::KNOWN_KEYS + 1, limits::KEPT_OUTCOMES), 0);
        assert_eq!(read(limits::KNOWN_KEYS, limits::KEPT_OUTCOMES + 1), 0);
    }

    #[test]
    fn a_power_cut_at_any_byte_leaves_the_old_or_the_new_one() {
        let mut random = Random::new(1);
        for _ in 0..300 {
            let medium = medium();
            let (mut checkpoint, _) = Checkpoint::open(medium.clone()).unwrap();
            checkpoint.write(&kept(1)).unwrap();
            checkpoint.write(&kept(2)).unwrap();
            medium.fuel(random.below(5_000));
            let is_written = checkpoint.write(&kept(3)).is_ok();
            medium.cut_power(&mut random);
            let read = Checkpoint::open(medium).unwrap().1.through;
            assert!(if is_written { read == 3 } else { read == 2 || read == 3 }, "{read}");
        }
    }
}

//! One page of the journal.
//!
//! ```text
//!    0  magic "PLTJ"                     4
//!    4  format version                   2   (all numbers little-endian)
//!    6  flags: 1 = written at a clean stop   2
//!    8  epoch: random, one per start     8
//!   16  page number, from 1, never reused 8
//!   24  number of the next record when the page before was written   8
//!   32  number of the next record now    8
//!   40  events are posted up to here     8
//!   48  results are posted up to here    8
//!   56  events lost, exactly             8
//!   64  events that may be lost besides  8
//!   72  of the two, what the control plane was told   16
//!   88  clock, Unix seconds              8
//!   96  length of the body               2
//!   98  records in the body              2
//!  100  CRC32C of the body               4
//!  104  open jobs, 16 numbers, 0 = none  128
//!  232  events lost and perhaps lost, after which the present was sent   16
//!  248  reserved                         132
//!  380  CRC32C of the bytes before       4
//!  384  body: frames, then zeros         3,712
//! ```
//! A frame is `COBS(postcard(number, record) + CRC32C) 0x00`. Its CRC covers the epoch and the number of its page
//! too, so that what is left of an older page behind a torn write is no frame of this one. A record that was
//! carried forward keeps its number.

use crc::{CRC_32_ISCSI, Crc, Table};

use super::record::Record;
use crate::limits;

/// Bytes of a page.
pub const PAGE: usize = limits::PAGE_BYTES;

/// Bytes of its header.
pub const HEADER: usize = 384;

/// Bytes of its body.
pub const BODY: usize = PAGE - HEADER;

/// The format that this program writes; it reads all up to this one.
///
/// 2: records of signed jobs, and of the trust state. Pages of 1 have none, and are read as they are.
pub const VERSION: u16 = 2;

const MAGIC: [u8; 4] = *b"PLTJ";
const OPEN_AT: usize = 104;
const CRC_AT: usize = 380;
const FLAG_CLEAN: u16 = 1;

/// Bytes at a time: one in the program, whose table takes 1 KiB; sixteen in the
/// model test, which checks ten million pages.
const CRC_STEP: usize = if cfg!(test) { 16 } else { 1 };

static CRC32C: Crc<u32, Table<CRC_STEP>> = Crc::<u32, Table<CRC_STEP>>::new(&CRC_32_ISCSI);

/// CRC32C.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    CRC32C.checksum(bytes)
}

/// What a page says beside its records: how things stood when it was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Written at a clean stop.
    pub clean: bool,
    /// One per start.
    pub epoch: u64,
    /// The next record's number.
    pub next: u64,
    /// Events are posted up to this number.
    pub events_through: u64,
    /// Results are posted up to this number.
    pub results_through: u64,
    /// Events that were lost.
    pub lost: u64,
    /// Events that may have been lost besides.
    pub lost_at_most: u64,
    /// Of the two, what the control plane was told.
    pub told: (u64, u64),
    /// Of the two, after which the present was sent.
    pub resent: (u64, u64),
    /// Unix seconds.
    pub clock: u64,
    /// Numbers of the open jobs, 0 = none.
    pub open: [u64; limits::OPEN_JOBS],
}

/// What is in a place for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Zeros: never written.
    Blank,
    /// A header that can be trusted, and a body that cannot.
    Damaged(Header),
    /// Written by a newer program.
    Newer(u16),
    /// Anything else.
    Noise,
    /// As it was written.
    Whole(Header),
}

/// The header of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The page's number.
    pub page: u64,
    /// The number of the next record when the page before was written.
    pub first: u64,
    /// Records in it.
    pub records: u16,
    /// How things stood.
    pub mark: Mark,
}

/// A frame: the bytes `postcard(number, record)` and what they say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The record's number.
    pub number: u64,
    /// What it says.
    pub record: Record,
}

/// A page that is being filled.
pub struct Builder {
    bytes: Box<[u8; PAGE]>,
    at: usize,
    records: u16,
    epoch: u64,
    page: u64,
}

impl Builder {
    /// An empty one.
    #[must_use]
    pub fn new(epoch: u64, page: u64) -> Self {
        Self { bytes: Box::new([0; PAGE]), at: HEADER, records: 0, epoch, page }
    }

    /// Adds a record; false when it does not fit.
    pub fn push(&mut self, number: u64, record: &Record) -> bool {
        let Ok(mut text) = postcard::to_allocvec(&(number, record.packed())) else { return false };
        let crc = frame_crc(self.epoch, self.page, &text);
        text.extend_from_slice(&crc.to_le_bytes());
        let end = self.at.saturating_add(cobs::max_encoding_length(text.len())).saturating_add(1);
        if end > PAGE || usize::from(self.records) >= limits::PAGE_RECORDS {
            return false;
        }
        let Some(room) = self.bytes.get_mut(self.at..end) else { return false };
        let written = cobs::encode(&text, room);
        // The encoder leaves a stray byte behind a frame that fills its last block.
        room.iter_mut().skip(written).for_each(|byte| *byte = 0);
        self.at = self.at.saturating_add(written).saturating_add(1);
        self.records = self.records.saturating_add(1);
        true
    }

    /// Adds all of these, or none when they do not fit.
    pub fn push_all(&mut self, frames: &[Frame]) -> bool {
        let (at, records) = (self.at, self.records);
        let fits = frames.iter().all(|frame| self.push(frame.number, &frame.record));
        if !fits {
            if let Some(rest) = self.bytes.get_mut(at..) {
                rest.fill(0);
            }
            (self.at, self.records) = (at, records);
        }
        fits
    }

    /// How many records are in it.
    #[must_use]
    pub fn records(&self) -> u16 {
        self.records
    }

    /// The page.
    #[must_use]
    pub fn finish(mut self, first: u64, mark: &Mark) -> Box<[u8; PAGE]> {
        let body_len = u16::try_from(self.at.saturating_sub(HEADER)).unwrap_or(u16::MAX);
        let body_crc = crc32c(self.bytes.get(HEADER..).unwrap_or_default());
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&(if mark.clean { FLAG_CLEAN } else { 0 }).to_le_bytes());
        for number in [
            self.epoch,
            self.page,
            first,
            mark.next,
            mark.events_through,
            mark.results_through,
            mark.lost,
            mark.lost_at_most,
            mark.told.0,
            mark.told.1,
            mark.clock,
        ] {
            header.extend_from_slice(&number.to_le_bytes());
        }
        header.extend_from_slice(&body_len.to_le_bytes());
        header.extend_from_slice(&self.records.to_le_bytes());
        header.extend_from_slice(&body_crc.to_le_bytes());
        for number in mark.open.into_iter().chain([mark.resent.0, mark.resent.1]) {
            header.extend_from_slice(&number.to_le_bytes());
        }
        header.resize(CRC_AT, 0);
        let crc = crc32c(&header);
        header.extend_from_slice(&crc.to_le_bytes());
        if let Some(place) = self.bytes.get_mut(..HEADER) {
            place.copy_from_slice(&header);
        }
        self.bytes
    }
}

/// Says what a page is.
#[must_use]
pub fn look(bytes: &[u8; PAGE]) -> Sight {
    let (Some(header), Some(body)) = (bytes.get(..CRC_AT), bytes.get(HEADER..)) else { return Sight::Noise };
    let mut reader = Reader { bytes, at: 0 };
    if reader.take::<4>() != MAGIC {
        return if bytes.iter().all(|byte| *byte == 0) { Sight::Blank } else { Sight::Noise };
    }
    let crc = Reader { bytes, at: CRC_AT }.u32();
    if crc != crc32c(header) {
        return Sight::Noise;
    }
    let version = reader.u16();
    if version > VERSION {
        return Sight::Newer(version);
    }
    let flags = reader.u16();
    let epoch = reader.u64();
    let page = reader.u64();
    let first = reader.u64();
    let mut mark = Mark {
        clean: flags & FLAG_CLEAN != 0,
        epoch,
        next: reader.u64(),
        events_through: reader.u64(),
        results_through: reader.u64(),
        lost: reader.u64(),
        lost_at_most: reader.u64(),
        told: (reader.u64(), reader.u64()),
        resent: (0, 0),
        clock: reader.u64(),
        open: [0; limits::OPEN_JOBS],
    };
    let _body_len = reader.u16();
    let records = reader.u16();
    let body_crc = reader.u32();
    let mut open = Reader { bytes, at: OPEN_AT };
    mark.open = std::array::from_fn(|_| open.u64());
    mark.resent = (open.u64(), open.u64());
    let header = Header { page, first, records, mark };
    if body_crc == crc32c(body) { Sight::Whole(header) } else { Sight::Damaged(header) }
}

/// The records of a page that can be trusted one by one.
pub fn frames<'a>(bytes: &'a [u8; PAGE], header: &Header) -> impl Iterator<Item = Frame> + use<'a> {
    let (epoch, page) = (header.mark.epoch, header.page);
    let body = bytes.get(HEADER..).unwrap_or_default();
    body.split(|byte| *byte == 0)
        .filter(|frame| !frame.is_empty())
        .take(limits::PAGE_RECORDS)
        .filter_map(move |frame| read_frame(frame, epoch, page))
}

fn read_frame(frame: &[u8], epoch: u64, page: u64) -> Option<Frame> {
    let mut text = vec![0; frame.len()];
    let len = cobs::decode(frame, &mut text).ok()?;
    text.truncate(len);
    let (record, crc) = text.split_last_chunk::<4>()?;
    if u32::from_le_bytes(*crc) != frame_crc(epoch, page, record) {
        return None;
    }
    let (number, record): (u64, Record) = postcard::from_bytes(record).ok()?;
    Some(Frame { number, record: record.unpacked() })
}

fn frame_crc(epoch: u64, page: u64, record: &[u8]) -> u32 {
    let mut digest = CRC32C.digest();
    digest.update(&epoch.to_le_bytes());
    digest.update(&page.to_le_bytes());
    digest.update(record);
    digest.finalize()
}

/// Reads numbers one behind the other; beyond the end they are zero.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let chunk = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk::<N>).copied();
        self.at = self.at.saturating_add(N);
        chunk.unwrap_or([0; N])
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

#[cfg(test)]
mod tests {
    use super::{BODY, Builder, CRC_AT, Frame, HEADER, Mark, PAGE, Sight, crc32c, frames, look};
    use crate::journal::record::{Body, Record, StoredEvent, StoredJob};
    use crate::journal::records;
    use crate::journal::stamp::BootMoment;

    fn mark() -> Mark {
        Mark {
            clean: true,
            epoch: 3,
            next: 9,
            events_through: 4,
            results_through: 5,
            lost: 6,
            lost_at_most: 7,
            told: (1, 2),
            resent: (3, 4),
            clock: 8,
            open: std::array::from_fn(|at| at as u64),
        }
    }

    fn page() -> Box<[u8; PAGE]> {
        let mut builder = Builder::new(3, 5);
        assert!(builder.push(7, &Record::Started));
        assert!(builder.push(8, &Record::Lost { exactly: 0, at_most: 300 }));
        builder.finish(7, &mark())
    }

    #[test]
    fn a_page_comes_back_as_it_was_written() {
        let bytes = page();
        let Sight::Whole(header) = look(&bytes) else { panic!("{:?}", look(&bytes)) };
        assert_eq!((header.page, header.first, header.records, header.mark), (5, 7, 2, mark()));
        let found: Vec<Frame> = frames(&bytes, &header).collect();
        assert_eq!(found[0], Frame { number: 7, record: Record::Started });
        assert_eq!(found[1].number, 8);
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let good = page();
        for at in 0..PAGE * 8 {
            let mut bytes = good.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            match look(&bytes) {
                Sight::Noise => assert!(at / 8 < HEADER, "bit {at}"),
                Sight::Damaged(header) => {
                    assert!(at / 8 >= HEADER, "bit {at}");
                    for frame in frames(&bytes, &header) {
                        assert!(frame.number == 7 || frame.number == 8, "bit {at}: {frame:?}");
                    }
                }
                sight => panic!("bit {at}: {sight:?}"),
            }
        }
    }

    #[test]
    fn what_is_left_of_an_older_page_is_no_frame_of_this_one() {
        let mut builder = Builder::new(3, 6);
        builder.push(70, &Record::Started);
        let new = builder.finish(70, &mark());
        let mut torn = page();
        torn[..HEADER].copy_from_slice(&new[..HEADER]);
        let Sight::Damaged(header) = look(&torn) else { panic!("{:?}", look(&torn)) };
        assert_eq!(frames(&torn, &header).count(), 0);
    }

    #[test]
    fn zeros_are_blank_and_a_newer_format_is_named() {
        assert_eq!(look(&[0; PAGE]), Sight::Blank);
        assert_eq!(look(&[7; PAGE]), Sight::Noise);
        let mut bytes = page();
        bytes[4] = 3;
        assert_eq!(look(&bytes), Sight::Noise);
        let crc = crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(look(&bytes), Sight::Newer(3));
    }

    #[test]
    fn a_page_of_the_older_format_is_read() {
        let mut bytes = page();
        bytes[4] = 1;
        let crc = crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        let Sight::Whole(header) = look(&bytes) else { panic!("{:?}", look(&bytes)) };
        assert_eq!((header.mark, frames(&bytes, &header).count()), (mark(), 2));
    }

    #[test]
    fn the_header_hash_of_a_signed_job_comes_back() {
        let record = Record::Accepted(StoredJob { header: Some([7; 8]), ..records::job("j", "{}") });
        let mut builder = Builder::new(3, 5);
        assert!(builder.push(7, &record) && builder.push(8, &Record::Trust(vec![1; 192])));
        let bytes = builder.finish(7, &mark());
        let Sight::Whole(header) = look(&bytes) else { panic!() };
        let found: Vec<Frame> = frames(&bytes, &header).collect();
        assert_eq!(found[0].record, record);
        assert_eq!(found[1].record, Record::Trust(vec![1; 192]));
    }

    #[test]
    fn the_moment_of_an_event_comes_back_and_one_without_is_as_in_format_1() {
        let made = Some(BootMoment { boot: [9; 16], seconds: 77 });
        let event = records::event(records::object("n"));
        let record = Record::Event(StoredEvent { made, ..event.clone() });
        let bare = Record::Event(event);
        let mut builder = Builder::new(3, 5);
        assert!(builder.push(7, &record) && builder.push(8, &bare));
        let bytes = builder.finish(7, &mark());
        let Sight::Whole(header) = look(&bytes) else { panic!() };
        let found: Vec<Record> = frames(&bytes, &header).map(|frame| frame.record).collect();
        assert_eq!(found, [record, bare.clone()]);
        assert_eq!(postcard::to_allocvec(&*bare.packed()).unwrap()[0], 2, "the place of Event");
    }

    #[test]
    fn a_page_takes_what_fits_and_nothing_more() {
        let job = |len: usize| Record::Accepted(records::job("j", &"x".repeat(len)));
        let mut builder = Builder::new(1, 1);
        assert!(!builder.push(1, &job(BODY)));
        assert!(builder.push(1, &job(2_048)));
        assert!(!builder.push(2, &job(2_048)));
        assert!(builder.push(3, &job(1_024)));
        assert_eq!(builder.records(), 2);
    }

    #[test]
    fn a_frame_of_every_length_comes_back() {
        for len in 0..3_600 {
            let body = Body::Skipped("x".repeat(len));
            let record = Record::Accepted(StoredJob { body, ..records::job("j", "") });
            let mut builder = Builder::new(3, 5);
            assert!(builder.push(7, &record) && builder.push(8, &Record::Started));
            let bytes = builder.finish(7, &mark());
            let Sight::Whole(header) = look(&bytes) else { panic!("{len}") };
            let numbers: Vec<u64> = frames(&bytes, &header).map(|frame| frame.number).collect();
            assert_eq!(numbers, [7, 8], "{len}");
        }
    }
}

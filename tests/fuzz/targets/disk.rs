//! The files of the state directory as somebody else, or a dying disk, left them. The first byte says whether the bytes
//! are the file as it is, or parts of one that are put together with checksums that hold.

use pullet::journal::checkpoint::{self, Checkpoint};
use pullet::journal::page::{HEADER, PAGE, crc32c};
use pullet::journal::spool::{self, Spool};
use pullet::journal::store::Journal;

use super::Input;
use super::records::{job, outcome};
use super::tape::Tape;

/// The fewest pages a journal has.
const PAGES: usize = 16;

pub(crate) fn journal(data: &[u8]) {
    let mut input = Input(data);
    let is_raw = input.byte() == 0;
    let bytes = if is_raw { input.rest().to_vec() } else { pages(&mut input) };
    let tape = Tape::at_least(&bytes, PAGES * PAGE);
    let Ok((mut journal, restored)) = Journal::open(tape.clone(), None, None, 7) else { return };
    assert!(restored.open.len() <= pullet::limits::OPEN_JOBS);
    for job in &restored.open {
        let _ = journal.text(job);
    }
    let _ = (journal.events(50), journal.events_waiting(), journal.losses(), journal.is_idle());
    let started = journal.start();
    let taken = journal.accept(job("new", "{}"), None, &[]);
    let Ok((number, _)) = taken else { return };
    let (_, finished) = journal.finish(number, outcome("new"), &[]);
    let stopped = journal.stop(&[]);
    if is_raw {
        // Whatever was there: a journal that took a job and its outcome has it.
        assert!(started.is_ok() && finished.is_ok() && stopped.is_ok());
        let (_, restored) = Journal::open(tape, None, None, 8).unwrap();
        assert!(restored.was_clean && restored.unsent.iter().any(|(_, outcome)| outcome.id == "new"));
    }
}

fn pages(input: &mut Input<'_>) -> Vec<u8> {
    let mut bytes = vec![0; PAGES * PAGE];
    while !input.is_over() {
        let at = usize::from(input.byte()) % PAGES * PAGE;
        let page = page(input);
        bytes[at..at + PAGE].copy_from_slice(&page);
    }
    bytes
}

/// A page whose checksums hold.
fn page(input: &mut Input<'_>) -> Vec<u8> {
    let (version, flags, epoch, number) = (input.byte(), input.byte(), input.number(), input.number());
    let mut body = Vec::new();
    let mut records = 0_u16;
    for _ in 0..input.byte() % 16 {
        let len = usize::from(input.byte());
        let record = input.piece(len);
        let mut framed = [&epoch.to_le_bytes()[..], &number.to_le_bytes(), record].concat();
        let crc = crc32c(&framed);
        framed.drain(..16);
        framed.extend_from_slice(&crc.to_le_bytes());
        let mut room = vec![0; cobs::max_encoding_length(framed.len())];
        let len = cobs::encode(&framed, &mut room);
        body.extend(&room[..len]);
        body.push(0);
        records += 1;
    }
    body.resize(PAGE - HEADER, 0);
    let mut page = b"PLTJ".to_vec();
    page.extend((if version == 9 { 9_u16 } else { 1 }).to_le_bytes());
    page.extend(u16::from(flags & 1).to_le_bytes());
    page.extend(epoch.to_le_bytes());
    page.extend(number.to_le_bytes());
    (0..9).for_each(|_| page.extend(input.number().to_le_bytes()));
    page.extend(0_u16.to_le_bytes());
    page.extend(records.to_le_bytes());
    page.extend(crc32c(&body).to_le_bytes());
    (0..pullet::limits::OPEN_JOBS).for_each(|_| page.extend(input.number().to_le_bytes()));
    page.resize(HEADER - 4, 0);
    page.extend(crc32c(&page).to_le_bytes());
    page.extend(body);
    page
}

pub(crate) fn checkpoint(data: &[u8]) {
    let mut input = Input(data);
    let mut bytes = vec![0; usize::try_from(checkpoint::CHECKPOINT).unwrap()];
    let mut is_last = false;
    match input.byte() {
        0 => {
            let raw = input.piece(bytes.len());
            bytes[..raw.len()].copy_from_slice(raw);
        }
        slots => {
            for slot in (0..2).filter(|slot| slots & 1 << slot != 0) {
                let generation = input.number();
                is_last |= generation == u64::MAX;
                let len = if slots & 4 == 0 { usize::MAX } else { usize::from(input.byte()) };
                let (times, text) = (usize::from(input.byte()), input.piece(len));
                // The same again and again: long ones come out of few bytes.
                let (head, tail) = text.split_at(text.len() / 2);
                let mut text = [head, &tail.repeat(times.max(1))].concat();
                text.truncate(checkpoint::SLOT - 28);
                let mut header = b"PLTC\x01\0\0\0".to_vec();
                header.extend(generation.to_le_bytes());
                header.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
                header.extend(crc32c(&text).to_le_bytes());
                header.extend(crc32c(&header).to_le_bytes());
                header.extend(text);
                bytes[slot * checkpoint::SLOT..][..header.len()].copy_from_slice(&header);
            }
        }
    }
    let tape = Tape::of(bytes);
    let (mut checkpoint, mut kept) = Checkpoint::open(tape.clone()).unwrap();
    assert!(kept.keys.len() <= pullet::limits::KNOWN_KEYS && kept.outcomes.len() <= pullet::limits::KEPT_OUTCOMES);
    kept.add(kept.through.saturating_add(1), outcome("new"));
    if checkpoint.write(&kept).is_ok() && !is_last {
        assert_eq!(Checkpoint::open(tape).map(|(_, kept)| kept), Some(kept));
    }
}

pub(crate) fn spool(data: &[u8]) {
    let mut input = Input(data);
    let mut bytes = vec![0; usize::try_from(spool::SPOOL).unwrap()];
    let slot_bytes = usize::try_from(spool::SLOT).unwrap();
    let mode = input.byte();
    if mode == 0 {
        let raw = input.rest();
        bytes[..raw.len()].copy_from_slice(raw);
    } else {
        for _ in 0..mode % 4 {
            let slot = usize::from(input.byte()) % pullet::limits::OPEN_JOBS;
            let (number, len, text_len) = (input.number(), input.number(), usize::from(input.byte()));
            let text = input.piece(text_len);
            let len =
                if len == 0 { u32::try_from(text.len()).unwrap() } else { u32::try_from(len).unwrap_or(u32::MAX) };
            let mut header = b"PLTS\x01\0\0\0".to_vec();
            header.extend(number.to_le_bytes());
            header.extend(len.to_le_bytes());
            header.extend(crc32c(text).to_le_bytes());
            header.extend(SHA256_OF_A);
            header.extend(crc32c(&header).to_le_bytes());
            bytes[slot * slot_bytes..][..header.len()].copy_from_slice(&header);
            bytes[slot * slot_bytes + PAGE..][..text.len()].copy_from_slice(text);
        }
    }
    let used = [input.byte(), input.byte()];
    let mut spool = Spool::open(Tape::of(bytes), used.into_iter()).unwrap();
    for slot in 0..=u8::MAX {
        let text = spool.text(slot, input.number(), "a");
        assert!(text.is_none_or(|text| text.len() <= pullet::limits::JOB_BYTES));
    }
    if let Some(slot) = spool.put(1, "a", "text").unwrap() {
        assert_eq!(spool.text(slot, 1, "a").as_deref(), Some("text"));
        spool.wipe(slot).unwrap();
        assert_eq!(spool.text(slot, 1, "a"), None);
    }
}

const SHA256_OF_A: [u8; 8] = [0xca, 0x97, 0x81, 0x12, 0xca, 0x1b, 0xbd, 0xca];

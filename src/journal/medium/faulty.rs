//! A medium in memory that fails as disks do.

#![cfg(test)]

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::Medium;

/// How it behaves from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    /// Nothing can be written.
    pub(crate) full: bool,
    /// Nothing can be read.
    pub(crate) unreadable: bool,
}

/// Bytes in memory; clones share them, as handles of one file do.
#[derive(Clone, Debug)]
pub(crate) struct Faulty(Arc<Mutex<Inner>>, Power);

/// The power goes after this many more bytes and calls, counted together over all media of one machine.
type Power = Arc<Mutex<Option<u64>>>;

#[derive(Debug)]
struct Inner {
    /// What a power cut leaves.
    durable: Vec<u8>,
    /// What a reader sees.
    seen: Vec<u8>,
    /// Written and not synced.
    pending: Vec<(usize, Vec<u8>)>,
    faults: Faults,
    syncs: u64,
    writes: u64,
}

/// xorshift: the same numbers for the same seed, everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % bound.max(1)
    }
}

impl Faulty {
    pub(crate) fn new(len: usize) -> Self {
        Self::of(vec![0; len])
    }

    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        Self(
            Arc::new(Mutex::new(Inner {
                seen: bytes.clone(),
                durable: bytes,
                pending: Vec::new(),
                faults: Faults::default(),
                syncs: 0,
                writes: 0,
            })),
            Power::default(),
        )
    }

    pub(crate) fn set(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// In the same machine as another one.
    pub(crate) fn beside(self, other: &Self) -> Self {
        Self(self.0, Arc::clone(&other.1))
    }

    /// The power goes after so much more.
    pub(crate) fn fuel(&self, fuel: u64) {
        *self.1.lock().unwrap() = Some(fuel);
    }

    /// What is on it.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.lock().seen.clone()
    }

    /// Changes what is on it, behind everybody's back.
    pub(crate) fn spoil(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut inner = self.lock();
        change(&mut inner.durable);
        inner.seen = inner.durable.clone();
        inner.pending.clear();
    }

    pub(crate) fn writes_and_syncs(&self) -> (u64, u64) {
        let inner = self.lock();
        (inner.writes, inner.syncs)
    }

    /// The power goes: each write that was not synced is lost, there, or there in part, in any order.
    pub(crate) fn cut_power(&self, random: &mut Random) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let mut pending = std::mem::take(&mut inner.pending);
        let written: Vec<_> = pending.iter().map(|(offset, bytes)| *offset..*offset + bytes.len()).collect();
        while !pending.is_empty() {
            let (offset, bytes) = pending.remove(usize::try_from(random.below(pending.len() as u64)).unwrap());
            let range = match random.below(4) {
                0 => 0..0,
                1 => 0..bytes.len(),
                // Torn at any byte: its beginning or its end got there.
                2 => 0..usize::try_from(random.below(bytes.len() as u64 + 1)).unwrap(),
                _ => usize::try_from(random.below(bytes.len() as u64 + 1)).unwrap()..bytes.len(),
            };
            let part = &bytes[range.clone()];
            inner.durable[offset + range.start..offset + range.end].copy_from_slice(part);
        }
        for range in written {
            inner.seen[range.clone()].copy_from_slice(&inner.durable[range]);
        }
        inner.faults = Faults::default();
        *self.1.lock().unwrap() = None;
    }

    /// How many of `wanted` units there is power for.
    fn burn(&self, wanted: u64) -> u64 {
        match &mut *self.1.lock().unwrap() {
            None => wanted,
            Some(fuel) => {
                let given = wanted.min(*fuel);
                *fuel -= given;
                given
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

impl Inner {
    fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.seen[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.pending.push((offset, bytes.to_vec()));
    }
}

fn no_power() -> io::Error {
    io::Error::other("the power is off")
}

impl Medium for Faulty {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().seen.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let inner = self.lock();
        if inner.faults.unreadable {
            return Err(io::Error::other("a bad block"));
        }
        let offset = usize::try_from(offset).unwrap();
        let bytes = inner.seen.get(offset..offset + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        if inner.faults.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let offset = usize::try_from(offset).unwrap();
        assert!(offset + bytes.len() <= inner.seen.len(), "nothing is written beyond the end");
        let given = usize::try_from(self.burn(bytes.len() as u64)).unwrap();
        inner.put(offset, &bytes[..given]);
        inner.writes += 1;
        if given < bytes.len() { Err(no_power()) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut inner = self.lock();
        if self.burn(1) == 0 {
            return Err(no_power());
        }
        for (offset, bytes) in std::mem::take(&mut inner.pending) {
            inner.durable[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
        inner.syncs += 1;
        Ok(())
    }
}

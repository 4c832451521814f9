//! A medium in memory that ends when its power does.

use std::io;
use std::sync::{Arc, Mutex};

use pullet::journal::medium::Medium;

/// Bytes, and how many more of them may be written; clones share them, as handles of one file do.
#[derive(Clone)]
pub(crate) struct Tape(Arc<Mutex<(Vec<u8>, Option<usize>)>>);

impl Tape {
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new((bytes, None))))
    }

    /// Filled up with zeros.
    pub(crate) fn at_least(bytes: &[u8], len: usize) -> Self {
        let mut all = vec![0; len.max(bytes.len())];
        all[..bytes.len()].copy_from_slice(bytes);
        Self::of(all)
    }

    pub(crate) fn fuel(&self, fuel: Option<usize>) {
        self.0.lock().unwrap().1 = fuel;
    }
}

impl Medium for Tape {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().0.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let tape = self.0.lock().unwrap();
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = offset.checked_add(buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(tape.0.get(offset..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut tape = self.0.lock().unwrap();
        let offset = usize::try_from(offset).unwrap();
        let given = tape.1.map_or(bytes.len(), |fuel| fuel.min(bytes.len()));
        tape.1 = tape.1.map(|fuel| fuel - given);
        // What is written beyond the end is a finding.
        tape.0[offset..offset + given].copy_from_slice(&bytes[..given]);
        if given < bytes.len() { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.0.lock().unwrap().1 == Some(0) { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }
}

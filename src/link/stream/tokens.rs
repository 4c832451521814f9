//! The tokens of an answer, byte by byte.

use super::sink::{JobText, NAME_BYTES, Nothing, Short, Sink};
use super::{Arrival, Limit, Source, StreamError};
use crate::limits;

/// Finds the jobs of an answer.
pub(super) struct Reader<S> {
    source: S,
    buffer: Box<[u8]>,
    at: usize,
    end: usize,
}

impl<S: Source> Reader<S> {
    pub(super) fn new(source: S) -> Self {
        Self { source, buffer: vec![0; 4096].into_boxed_slice(), at: 0, end: 0 }
    }

    /// Whether everything was read.
    pub(super) fn read_answer(&mut self, jobs: &mut Vec<Arrival>) -> Result<bool, StreamError> {
        self.expect(b'{')?;
        let mut found = false;
        if self.peek_token()? == b'}' {
            return Err(StreamError::NotJobs);
        }
        loop {
            let mut name = Short::new(NAME_BYTES);
            self.expect(b'"')?;
            self.string(&mut name)?;
            self.expect(b':')?;
            if name.is(b"jobs") {
                // A second list would be held beside the first one.
                if found {
                    return Err(StreamError::NotJobs);
                }
                found = true;
                if !self.read_jobs(jobs)? {
                    return Ok(false);
                }
            } else {
                self.value(&mut Nothing)?;
            }
            match self.token()? {
                b',' => {}
                b'}' => break,
                _ => return Err(StreamError::NotJobs),
            }
        }
        if !found {
            return Err(StreamError::NotJobs);
        }
        self.end()?;
        Ok(true)
    }

    /// To the end of the body, so that the connection is kept; more text after the answer is none.
    fn end(&mut self) -> Result<(), StreamError> {
        loop {
            match self.next_or_end()? {
                None => return Ok(()),
                Some(byte) if byte.is_ascii_whitespace() => {}
                Some(_) => return Err(StreamError::NotJobs),
            }
        }
    }

    /// One value to the end of the source.
    pub(super) fn read_one(&mut self) -> Result<Arrival, StreamError> {
        let mut job = JobText::new();
        self.value(&mut job)?;
        self.end()?;
        Ok(job.finish())
    }

    fn read_jobs(&mut self, jobs: &mut Vec<Arrival>) -> Result<bool, StreamError> {
        match self.peek_token()? {
            b'n' => {
                self.value(&mut Nothing)?;
                return Ok(true);
            }
            b'[' => self.expect(b'[')?,
            _ => return Err(StreamError::NotJobs),
        }
        if self.peek_token()? == b']' {
            self.expect(b']')?;
            return Ok(true);
        }
        let mut held = 0;
        loop {
            self.peek_token()?;
            let mut job = JobText::new();
            if let Err(error) = self.value(&mut job) {
                // A job without an end would come again for ever if it were not answered.
                if let arrival @ Arrival::Skipped { id: Some(_), limit: Limit::Bytes } = job.finish() {
                    jobs.push(arrival);
                }
                return Err(error);
            }
            let arrival = job.finish();
            held += limits::JOB_OVERHEAD;
            if let Arrival::Job(text) = &arrival {
                held += text.len();
            }
            if held > limits::ANSWER_BYTES && !jobs.is_empty() {
                return Ok(false);
            }
            jobs.push(arrival);
            match self.token()? {
                b',' => {}
                b']' => return Ok(true),
                _ => return Err(StreamError::NotJobs),
            }
        }
    }

    /// One JSON value of any shape, byte by byte into `sink`. The nesting is counted and not kept: a
    /// bracket that is closed by a brace is found when the job is read.
    fn value(&mut self, sink: &mut impl Sink) -> Result<(), StreamError> {
        let mut depth = 0_usize;
        loop {
            let byte = self.token()?;
            match byte {
                b'{' | b'[' => {
                    sink.open(byte);
                    depth += 1;
                    continue;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1).ok_or(StreamError::NotJobs)?;
                    sink.close(byte);
                }
                b'"' => {
                    sink.start_string();
                    self.string(sink)?;
                }
                b',' | b':' if depth > 0 => {
                    sink.separate(byte);
                    continue;
                }
                b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
                    sink.start_literal(byte);
                    while let Some(byte) = self.peek()? {
                        if !(byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')) {
                            break;
                        }
                        sink.byte(byte);
                        self.at += 1;
                    }
                }
                _ => return Err(StreamError::NotJobs),
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// The rest of a string, its closing quote included.
    fn string(&mut self, sink: &mut impl Sink) -> Result<(), StreamError> {
        let mut escaped = false;
        loop {
            let byte = self.next()?;
            sink.byte(byte);
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => {
                    sink.end_string();
                    return Ok(());
                }
                _ => {}
            }
        }
    }

    fn expect(&mut self, wanted: u8) -> Result<(), StreamError> {
        if self.token()? == wanted { Ok(()) } else { Err(StreamError::NotJobs) }
    }

    /// The next byte that is no white space.
    fn token(&mut self) -> Result<u8, StreamError> {
        let byte = self.peek_token()?;
        self.at += 1;
        Ok(byte)
    }

    fn peek_token(&mut self) -> Result<u8, StreamError> {
        loop {
            match self.peek()? {
                Some(byte) if byte.is_ascii_whitespace() => self.at += 1,
                Some(byte) => return Ok(byte),
                None => return Err(StreamError::NotJobs),
            }
        }
    }

    fn next(&mut self) -> Result<u8, StreamError> {
        self.next_or_end()?.ok_or(StreamError::NotJobs)
    }

    fn next_or_end(&mut self) -> Result<Option<u8>, StreamError> {
        let byte = self.peek()?;
        self.at += usize::from(byte.is_some());
        Ok(byte)
    }

    fn peek(&mut self) -> Result<Option<u8>, StreamError> {
        if self.at == self.end {
            self.end = self.source.read_some(&mut self.buffer).map_err(StreamError::Net)?;
            self.at = 0;
        }
        Ok(self.buffer.get(self.at).copied().filter(|_| self.at < self.end))
    }
}

//! What becomes of the tokens of an answer.

use super::{Arrival, Limit};
use crate::json;
use crate::limits;
use crate::protocol::JobId;

/// A member's name longer than this is none that we know.
pub(super) const NAME_BYTES: usize = 16;

/// Levels whose kind is known: the bits there are.
const LEVELS: usize = 64;

/// What is told of a value while it is read.
pub(super) trait Sink {
    fn open(&mut self, _byte: u8) {}
    fn close(&mut self, _byte: u8) {}
    fn separate(&mut self, _byte: u8) {}
    fn start_string(&mut self) {}
    fn end_string(&mut self) {}
    fn start_literal(&mut self, _byte: u8) {}
    fn byte(&mut self, _byte: u8) {}
}

/// For a value that nobody wants.
pub(super) struct Nothing;

impl Sink for Nothing {}

/// A string of which only the first bytes matter.
pub(super) struct Short {
    bytes: Vec<u8>,
    room: usize,
}

impl Short {
    pub(super) fn new(room: usize) -> Self {
        Self { bytes: Vec::new(), room }
    }

    /// Whether the string is this; its closing quote was told, too.
    pub(super) fn is(&self, text: &[u8]) -> bool {
        self.bytes.strip_suffix(b"\"") == Some(text)
    }
}

impl Sink for Short {
    fn byte(&mut self, byte: u8) {
        if self.bytes.len() <= self.room {
            self.bytes.push(byte);
        }
    }
}

/// The text of one job as long as it is within its limits, and its id in any case.
pub(super) struct JobText {
    text: Vec<u8>,
    limit: Option<Limit>,
    nodes: usize,
    /// One bit for each of the first levels, set where it is an object. What is deeper is not asked for: the
    /// limit of depth has long struck, and only the way back to the id matters.
    objects: u64,
    depth: usize,
    /// The next string is a member's name.
    at_name: bool,
    string: Option<Short>,
    name: Option<Short>,
    id: Option<Vec<u8>>,
}

impl JobText {
    pub(super) fn new() -> Self {
        Self {
            text: Vec::new(),
            limit: None,
            nodes: 0,
            objects: 0,
            depth: 0,
            at_name: false,
            string: None,
            name: None,
            id: None,
        }
    }

    fn push(&mut self, byte: u8) {
        if self.limit.is_none() {
            if self.text.len() == limits::JOB_BYTES {
                self.exceed(Limit::Bytes);
            } else {
                self.text.push(byte);
            }
        }
    }

    fn exceed(&mut self, limit: Limit) {
        if self.limit.is_none() {
            self.limit = Some(limit);
            self.text = Vec::new();
        }
    }

    fn node(&mut self) {
        self.nodes += 1;
        if self.nodes > limits::JOB_NODES {
            self.exceed(Limit::Nodes);
        }
    }

    fn in_object(&self) -> bool {
        self.objects & 1 == 1
    }

    pub(super) fn finish(mut self) -> Arrival {
        let id = self.id.take().and_then(|id| {
            let text: String = json::read(&id).ok()?;
            JobId::parse(&text)
        });
        if let Some(limit) = self.limit {
            return Arrival::Skipped { id, limit };
        }
        match String::from_utf8(self.text) {
            Ok(text) => Arrival::Job(text.into_boxed_str()),
            Err(_) => Arrival::Skipped { id, limit: Limit::Encoding },
        }
    }
}

impl Sink for JobText {
    fn open(&mut self, byte: u8) {
        self.node();
        self.push(byte);
        self.depth += 1;
        if self.depth > limits::JOB_DEPTH {
            self.exceed(Limit::Depth);
        }
        if self.depth <= LEVELS {
            self.objects = self.objects << 1 | u64::from(byte == b'{');
        }
        self.at_name = byte == b'{';
    }

    fn close(&mut self, byte: u8) {
        self.push(byte);
        if self.depth <= LEVELS {
            self.objects >>= 1;
        }
        self.depth = self.depth.saturating_sub(1);
        self.at_name = false;
    }

    fn separate(&mut self, byte: u8) {
        self.push(byte);
        self.at_name = byte == b',' && self.in_object();
    }

    fn start_string(&mut self) {
        if !self.at_name {
            self.node();
        }
        self.push(b'"');
        let wanted = self.depth == 1 && self.in_object();
        let is_id = self.name.as_ref().is_some_and(|name| name.is(b"id"));
        self.string = if wanted && self.at_name {
            Some(Short::new(NAME_BYTES))
        } else if wanted && is_id {
            // Each character of an id can be an escape of six bytes.
            Some(Short::new(6 * limits::JOB_ID_BYTES))
        } else {
            None
        };
    }

    fn end_string(&mut self) {
        let Some(string) = self.string.take() else { return };
        if self.at_name {
            self.name = Some(string);
        } else {
            let mut quoted = vec![b'"'];
            quoted.extend_from_slice(&string.bytes);
            self.id = Some(quoted);
        }
    }

    fn start_literal(&mut self, byte: u8) {
        self.node();
        self.push(byte);
    }

    fn byte(&mut self, byte: u8) {
        self.push(byte);
        if let Some(string) = &mut self.string {
            string.byte(byte);
        }
    }
}

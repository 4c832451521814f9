//! The canonical form of a JSON text (RFC 8785), made from the text itself: there is no tree.
//!
//! A value is read and written at once. What has to be put in order is the members of an object: each is written where
//! it stands, its place is noted, and at the closing brace the places are sorted and the bytes moved. The memory this
//! takes is bounded by [`crate::limits::CANONICAL_GROWTH`] and [`crate::limits::JOB_NODES`].
//!
//! Nothing is rounded in silence (TRUST.md, Canonical form). An integer beyond ±(2^53-1) is refused, and so is any
//! number whose canonical form would read as one: `1e20` is written `100000000000000000000`, which no reader of
//! canonical text could take. A number with a fraction or an exponent is a double, as RFC 8785 has it.

use std::cmp::Ordering;
use std::fmt::{self, Write as _};

use zeroize::Zeroizing;

use self::number::{Text, ecmascript};
use crate::limits;

mod number;

/// The largest integer that a double holds with all its neighbours: 2^53-1.
const INTEGER_MAX: f64 = 9_007_199_254_740_991.0;

/// How much of a text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Bytes, of the text and of its canonical form.
    pub bytes: usize,
    /// Nesting of arrays and objects.
    pub depth: usize,
    /// JSON values; the names of members are none.
    pub nodes: usize,
}

impl Caps {
    /// Those of a job.
    pub const JOB: Self = Self { bytes: limits::JOB_BYTES, depth: limits::JOB_DEPTH, nodes: limits::JOB_NODES };
}

/// Why a text has no canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CanonicalError {
    /// The text or its form has more bytes than allowed.
    Bytes,
    /// Arrays and objects are nested deeper than allowed.
    Depth,
    /// A name stands twice in one object, be it in another spelling.
    DuplicateMember,
    /// The text is not UTF-8.
    Encoding,
    /// An integer beyond ±(2^53-1).
    Integer,
    /// Half of a surrogate pair.
    LoneSurrogate,
    /// No JSON from this byte on.
    Malformed(usize),
    /// More values than allowed.
    Nodes,
    /// A number that no double holds.
    Number,
    /// Something follows the value, from this byte on.
    Trailing(usize),
}

impl fmt::Display for CanonicalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes => f.write_str("it has too many bytes"),
            Self::Depth => f.write_str("it is nested too deeply"),
            Self::DuplicateMember => f.write_str("a name stands twice in one object"),
            Self::Encoding => f.write_str("it is not UTF-8"),
            Self::Integer => f.write_str("it has an integer beyond 2^53-1; write such a number as a string"),
            Self::LoneSurrogate => f.write_str("a string has half of a surrogate pair"),
            Self::Malformed(at) => write!(f, "it is no JSON from byte {at} on"),
            Self::Nodes => f.write_str("it has too many values"),
            Self::Number => f.write_str("it has a number that is too large"),
            Self::Trailing(at) => write!(f, "something follows the value at byte {at}"),
        }
    }
}

impl std::error::Error for CanonicalError {}

/// Appends the canonical form of `text` to `out`. Room for all of it is made beforehand, so that nothing of it is left
/// behind in memory by a vector that grew.
///
/// # Errors
/// As [`CanonicalError`] lists them; `out` then ends with a part of the form.
pub fn append(text: &[u8], caps: Caps, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
    if text.len() > caps.bytes {
        return Err(CanonicalError::Bytes);
    }
    let text = std::str::from_utf8(text).map_err(|_| CanonicalError::Encoding)?;
    let room = text.len().saturating_mul(limits::CANONICAL_GROWTH).min(caps.bytes);
    out.reserve_exact(room);
    let from = out.len();
    let mut reader = Reader {
        text: text.as_bytes(),
        at: 0,
        from,
        room,
        out,
        members: Vec::new(),
        scratch: Zeroizing::new(Vec::new()),
        nodes_left: caps.nodes,
        caps,
    };
    reader.skip_space();
    reader.value(0)?;
    reader.skip_space();
    if reader.at < text.len() { Err(CanonicalError::Trailing(reader.at)) } else { Ok(()) }
}

/// The canonical form of `text`.
///
/// # Errors
/// As [`CanonicalError`] lists them.
pub fn canonical(text: &[u8], caps: Caps) -> Result<Zeroizing<Vec<u8>>, CanonicalError> {
    let mut out = Zeroizing::new(Vec::new());
    append(text, caps, &mut out)?;
    Ok(out)
}

/// Where a member stands in what was written: its name with both quotes, then a colon and its value.
#[derive(Clone, Copy)]
struct Member {
    start: u32,
    name_end: u32,
    end: u32,
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    /// What stood in `out` before.
    from: usize,
    /// Bytes that may be written.
    room: usize,
    out: &'a mut Vec<u8>,
    /// Members of all objects that are open, the innermost last.
    members: Vec<Member>,
    scratch: Zeroizing<Vec<u8>>,
    nodes_left: usize,
    caps: Caps,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Result<(), CanonicalError> {
        self.nodes_left = self.nodes_left.checked_sub(1).ok_or(CanonicalError::Nodes)?;
        match self.peek() {
            Some(b'{') => self.object(self.deeper(depth)?),
            Some(b'[') => self.array(self.deeper(depth)?),
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            _ => Err(self.malformed()),
        }
    }

    fn deeper(&self, depth: usize) -> Result<usize, CanonicalError> {
        let depth = depth.saturating_add(1);
        if depth > self.caps.depth { Err(CanonicalError::Depth) } else { Ok(depth) }
    }

    fn array(&mut self, depth: usize) -> Result<(), CanonicalError> {
        self.step();
        self.write(b"[")?;
        self.skip_space();
        if !self.take(b']') {
            loop {
                self.value(depth)?;
                self.skip_space();
                if self.take(b']') {
                    break;
                }
                self.require(b',')?;
                self.write(b",")?;
                self.skip_space();
            }
        }
        self.write(b"]")
    }

    fn object(&mut self, depth: usize) -> Result<(), CanonicalError> {
        let outer = self.members.len();
        self.step();
        self.write(b"{")?;
        let start = self.out.len();
        self.skip_space();
        if !self.take(b'}') {
            loop {
                self.member(depth)?;
                self.skip_space();
                if self.take(b'}') {
                    break;
                }
                self.require(b',')?;
                self.write(b",")?;
                self.skip_space();
            }
        }
        self.sort(outer, start)?;
        self.members.truncate(outer);
        self.write(b"}")
    }

    fn member(&mut self, depth: usize) -> Result<(), CanonicalError> {
        let start = self.place()?;
        if self.peek() != Some(b'"') {
            return Err(self.malformed());
        }
        self.string()?;
        let name_end = self.place()?;
        self.skip_space();
        self.require(b':')?;
        self.write(b":")?;
        self.skip_space();
        self.value(depth)?;
        let end = self.place()?;
        self.members.push(Member { start, name_end, end });
        Ok(())
    }

    fn place(&self) -> Result<u32, CanonicalError> {
        u32::try_from(self.out.len()).map_err(|_| CanonicalError::Bytes)
    }

    /// Puts the members from `outer` on, which are written from `start` on, into the order of their names.
    fn sort(&mut self, outer: usize, start: usize) -> Result<(), CanonicalError> {
        let Some(members) = self.members.get_mut(outer..) else { return Ok(()) };
        let written: &[u8] = self.out;
        members.sort_unstable_by(|a, b| compare(name(written, *a), name(written, *b)));
        let same = |pair: &[Member]| matches!(pair, [a, b] if name(written, *a) == name(written, *b));
        if members.windows(2).any(same) {
            return Err(CanonicalError::DuplicateMember);
        }
        if members.is_sorted_by_key(|member| member.start) {
            return Ok(());
        }
        if self.scratch.capacity() == 0 {
            self.scratch.reserve_exact(self.room);
        }
        self.scratch.clear();
        for (at, member) in members.iter().enumerate() {
            if at > 0 {
                self.scratch.push(b',');
            }
            self.scratch.extend_from_slice(slice(written, member.start, member.end));
        }
        self.out.truncate(start);
        self.out.extend_from_slice(&self.scratch);
        Ok(())
    }

    fn string(&mut self) -> Result<(), CanonicalError> {
        self.step();
        self.write(b"\"")?;
        loop {
            let rest = self.text.get(self.at..).unwrap_or_default();
            let plain = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)).unwrap_or(rest.len());
            self.write(rest.get(..plain).unwrap_or_default())?;
            self.at = self.at.saturating_add(plain);
            match self.peek() {
                Some(b'"') => {
                    self.step();
                    return self.write(b"\"");
                }
                Some(b'\\') => self.escape()?,
                _ => return Err(self.malformed()),
            }
        }
    }

    fn escape(&mut self) -> Result<(), CanonicalError> {
        self.step();
        let c = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.step();
                let c = self.unicode()?;
                return self.character(c);
            }
            _ => return Err(self.malformed()),
        };
        self.step();
        self.character(c)
    }

    /// What follows `\u`, the second half of a pair included.
    fn unicode(&mut self) -> Result<char, CanonicalError> {
        let first = self.hex()?;
        let second = match first {
            0xd800..=0xdbff if self.take(b'\\') => {
                if !self.take(b'u') {
                    return Err(CanonicalError::LoneSurrogate);
                }
                Some(self.hex()?)
            }
            _ => None,
        };
        match char::decode_utf16([Some(first), second].into_iter().flatten()).next() {
            Some(Ok(c)) => Ok(c),
            _ => Err(CanonicalError::LoneSurrogate),
        }
    }

    fn hex(&mut self) -> Result<u16, CanonicalError> {
        let mut unit: u16 = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            let digit = digit.and_then(|digit| u16::try_from(digit).ok()).ok_or_else(|| self.malformed())?;
            unit = unit << 4 | digit;
            self.step();
        }
        Ok(unit)
    }

    fn character(&mut self, c: char) -> Result<(), CanonicalError> {
        match c {
            '"' => self.write(b"\\\""),
            '\\' => self.write(b"\\\\"),
            '\u{8}' => self.write(b"\\b"),
            '\t' => self.write(b"\\t"),
            '\n' => self.write(b"\\n"),
            '\u{c}' => self.write(b"\\f"),
            '\r' => self.write(b"\\r"),
            '\0'..='\u{1f}' => {
                let mut text = Text::default();
                let _ = write!(text, "\\u{:04x}", u32::from(c));
                self.write(text.as_bytes())
            }
            _ => self.write(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }

    fn number(&mut self) -> Result<(), CanonicalError> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        let mut integer = true;
        if self.take(b'.') {
            integer = false;
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            integer = false;
            if !self.take(b'+') {
                self.take(b'-');
            }
            self.digits()?;
        }
        let text = self.text.get(start..self.at).and_then(|text| std::str::from_utf8(text).ok());
        let number: f64 = text.and_then(|text| text.parse().ok()).ok_or_else(|| self.malformed())?;
        if !number.is_finite() {
            return Err(if integer { CanonicalError::Integer } else { CanonicalError::Number });
        }
        let written = ecmascript(number);
        let integer = integer || !written.as_bytes().iter().any(|byte| matches!(byte, b'.' | b'e'));
        if integer && number.abs() > INTEGER_MAX {
            return Err(CanonicalError::Integer);
        }
        self.write(written.as_bytes())
    }

    fn digits(&mut self) -> Result<(), CanonicalError> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.step();
        }
        if self.at == start { Err(self.malformed()) } else { Ok(()) }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), CanonicalError> {
        for byte in word {
            self.require(*byte)?;
        }
        self.write(word)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CanonicalError> {
        let written = self.out.len().saturating_sub(self.from);
        if bytes.len() > self.room.saturating_sub(written) {
            return Err(CanonicalError::Bytes);
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.step();
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn step(&mut self) {
        self.at = self.at.saturating_add(1);
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        if there {
            self.step();
        }
        there
    }

    fn require(&mut self, byte: u8) -> Result<(), CanonicalError> {
        if self.take(byte) { Ok(()) } else { Err(self.malformed()) }
    }

    fn malformed(&self) -> CanonicalError {
        CanonicalError::Malformed(self.at)
    }
}

fn slice(written: &[u8], start: u32, end: u32) -> &[u8] {
    let place = |place| usize::try_from(place).unwrap_or(usize::MAX);
    written.get(place(start)..place(end)).unwrap_or_default()
}

/// A member's name in canonical form, quotes and escapes included: names are the same when these bytes are.
fn name(written: &[u8], member: Member) -> &[u8] {
    slice(written, member.start, member.name_end)
}

/// RFC 8785, section 3.2.3: the order of the UTF-16 code units. Where two names differ, bytes of UTF-8 compare alike,
/// but for escapes and for what lies above the surrogates.
fn compare(a: &[u8], b: &[u8]) -> Ordering {
    let (a, b) = (unquoted(a), unquoted(b));
    let same = a.iter().zip(b).take_while(|(a, b)| a == b && **a != b'\\').count();
    let plain = |byte: &u8| *byte < 0xee && *byte != b'\\';
    match (a.get(same), b.get(same)) {
        (Some(a), Some(b)) if plain(a) && plain(b) => a.cmp(b),
        (None, b) => {
            if b.is_some() {
                Ordering::Less
            } else {
                Ordering::Equal
            }
        }
        (_, None) => Ordering::Greater,
        _ => units(a).cmp(units(b)),
    }
}

fn unquoted(name: &[u8]) -> &[u8] {
    name.get(1..name.len().saturating_sub(1)).unwrap_or_default()
}

/// The code units of a name without its quotes.
fn units(name: &[u8]) -> impl Iterator<Item = u16> {
    let mut chars = std::str::from_utf8(name).unwrap_or_default().chars();
    let unescaped = std::iter::from_fn(move || match chars.next()? {
        '\\' => match chars.next()? {
            'b' => Some('\u{8}'),
            't' => Some('\t'),
            'n' => Some('\n'),
            'f' => Some('\u{c}'),
            'r' => Some('\r'),
            'u' => {
                let code = (0..4).try_fold(0, |code, _| Some(code << 4 | chars.next()?.to_digit(16)?));
                code.and_then(char::from_u32)
            }
            c => Some(c),
        },
        c => Some(c),
    });
    unescaped.flat_map(|c| {
        let mut units = [0; 2];
        let count = c.encode_utf16(&mut units).len();
        units.into_iter().take(count)
    })
}

#[cfg(test)]
mod tests;

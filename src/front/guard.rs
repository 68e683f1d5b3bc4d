//! Strict where hyper is lenient: follows the framing of a client's bytes before hyper sees them.
//!
//! hyper takes a bare LF for a line end, lets Transfer-Encoding win over Content-Length, merges
//! equal lengths, accepts codings before `chunked`, and forgets a fragment. Each is a way to make
//! two parties disagree on where a request ends (RFC 9112 sections 2.2, 6.1, 6.3 and 11.2). What
//! passes here has one reading only; what does not is never handed on.
//!
//! # Two readings of the same bytes
//!
//! Two parties that disagree on where a request ends can be made to give one client's answer to another. So
//! whatever can be read in two ways is refused and its connection closed: in place of what must not pass,
//! the guard puts bytes that hyper refuses. It knows lines, lengths and chunks, and nothing else; names,
//! hosts and targets are checked in `front/head.rs`. Behind a wish to upgrade, and behind CONNECT, the next
//! bytes are held back until the app has answered, because they may be no HTTP. `tests/corpus` holds what
//! was thought of, as data.
//!
//! What the app answers is checked too: see `pool`.

mod target;

use target::{Odd, Part};

/// The lines that matter are shorter, unless somebody pads them to deceive.
const LINE_KEPT: usize = 64;

/// More digits than any chunk or body can have.
const DIGITS_MAX: usize = 16;

/// Why bytes do not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    BareLineFeed,
    FoldedLine,
    Fragment,
    /// The preface of HTTP/2, RFC 9113 section 3.4.
    Http2,
    ContentLength,
    TransferEncoding,
    LengthAndEncoding,
    Chunk,
}

/// What became of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All of them may pass.
    Pass,
    /// So many may pass: they end with a head that asks for another protocol or a tunnel, and what
    /// follows may be no HTTP.
    Hold(usize),
    /// So many may pass; the rest only as [`Guard::encoded`] has it, to be checked again.
    Encode(usize),
    /// So many may pass, and nothing ever after.
    Fault(usize, Fault),
}

/// Why not all of the bytes were followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// See [`Verdict::Encode`].
    Encode(usize),
    Fault(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Where in a request the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a request line, or in it.
    RequestLine,
    Field,
    Body(u64),
    Chunk(Chunk),
    Trailer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    Size {
        digits: usize,
        size: u64,
    },
    /// Whitespace behind the size; only an extension may follow.
    Space {
        size: u64,
    },
    Extension {
        size: u64,
    },
    SizeLf {
        size: u64,
    },
    Data(u64),
    DataCr,
    DataLf,
}

const FIRST_CHUNK: Chunk = Chunk::Size { digits: 0, size: 0 };

/// The beginning of the line that is being read.
#[derive(Debug)]
struct Line {
    kept: [u8; LINE_KEPT],
    bytes: usize,
    ends_with_cr: bool,
}

impl Line {
    fn push(&mut self, part: &[u8]) {
        let free = self.kept.get_mut(self.bytes..).unwrap_or_default();
        let fits = free.len().min(part.len());
        if let Some((place, bytes)) = free.get_mut(..fits).zip(part.get(..fits)) {
            place.copy_from_slice(bytes);
        }
        self.bytes = self.bytes.saturating_add(part.len());
        if let Some(last) = part.last() {
            self.ends_with_cr = *last == b'\r';
        }
    }

    fn clear(&mut self) {
        self.bytes = 0;
        self.ends_with_cr = false;
    }

    fn is_empty(&self) -> bool {
        self.bytes == 1 && self.ends_with_cr
    }

    /// Without its CR; None when it was too long to be kept.
    fn text(&self) -> Option<&[u8]> {
        self.kept.get(..self.bytes)?.strip_suffix(b"\r")
    }

    fn is_folded(&self) -> bool {
        matches!(self.kept, [b' ' | b'\t', ..])
    }

    /// `method` ends with a blank.
    fn begins_with(&self, method: &[u8]) -> bool {
        self.bytes > method.len() && self.kept.starts_with(method)
    }

    fn is_field(&self, name: &str) -> bool {
        let name = name.as_bytes();
        let field = self
            .kept
            .get(..self.bytes.min(LINE_KEPT))
            .unwrap_or_default();
        match field.split_at_checked(name.len()) {
            Some((found, [b':', ..])) => found.eq_ignore_ascii_case(name),
            Some(_) | None => false,
        }
    }

    /// Without the whitespace that may surround it.
    fn value(&self) -> Option<&[u8]> {
        let text = self.text()?;
        let colon = text.iter().position(|byte| *byte == b':')?;
        let mut value = text.get(colon.saturating_add(1)..)?;
        while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
            value = rest;
        }
        Some(value)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Guard {
    state: State,
    /// Of the request line.
    part: Part,
    line: Line,
    length: Option<u64>,
    is_chunked: bool,
    wants_upgrade: bool,
    is_connect: bool,
    /// Slashes and question marks in the line of an OPTIONS.
    marks: usize,
    /// Heads whose absolute target may have no path; see [`Guard::take_pathless`].
    pathless: Vec<u64>,
    /// Whole ones, so far.
    heads: u64,
}

impl Guard {
    /// The next byte begins a request.
    pub(super) fn new() -> Self {
        Self {
            state: State::RequestLine,
            part: Part::default(),
            line: Line {
                kept: [0; LINE_KEPT],
                bytes: 0,
                ends_with_cr: false,
            },
            length: None,
            is_chunked: false,
            wants_upgrade: false,
            is_connect: false,
            marks: 0,
            pathless: Vec::new(),
            heads: 0,
        }
    }

    /// A request has begun, and its body is not whole.
    pub(super) fn is_in_body(&self) -> bool {
        match self.state {
            State::RequestLine | State::Field => false,
            State::Body(_) | State::Chunk(_) | State::Trailer => true,
        }
    }

    /// How many heads passed, if what passed ends with a whole request.
    pub(super) fn whole_requests(&self) -> Option<u64> {
        (self.state == State::RequestLine && self.line.bytes == 0).then_some(self.heads)
    }

    /// The last request that was seen is a CONNECT: a client that does not wait for the answer sends
    /// what belongs into the tunnel.
    pub(super) fn is_connect(&self) -> bool {
        self.is_connect
    }

    /// Numbers of heads, from 1, with the method OPTIONS and no path if their target is absolute: hyper
    /// makes a slash of that (RFC 9112 section 3.2.4).
    pub(super) fn take_pathless(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.pathless)
    }

    /// What is to be read in place of `rest`, which begins where [`Verdict::Encode`] said.
    pub(super) fn encoded(&self, rest: &[u8]) -> Vec<u8> {
        self.part.encoded(rest)
    }

    /// Follows `bytes`. After a hold the rest is to be checked again; after a fault, nothing is.
    pub(super) fn check(&mut self, bytes: &[u8]) -> Verdict {
        let mut at = 0_usize;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let step = match self.state {
                State::RequestLine | State::Field | State::Trailer => self.check_line(rest),
                State::Body(left) => Ok(self.skip_body(rest, left)),
                State::Chunk(chunk) => self.check_chunk(rest, chunk),
            };
            match step {
                Ok(passed) => at = at.saturating_add(passed),
                Err(Stop::Encode(passed)) => return Verdict::Encode(at.saturating_add(passed)),
                // Of a bad line, nothing more passes.
                Err(Stop::Fault(fault)) => return Verdict::Fault(at, fault),
            }
            if self.wants_upgrade && self.state == State::RequestLine {
                self.wants_upgrade = false;
                return Verdict::Hold(at);
            }
        }
        Verdict::Pass
    }

    fn check_line(&mut self, rest: &[u8]) -> Result<usize, Stop> {
        let end = rest.iter().position(|byte| *byte == b'\n');
        let part = rest.get(..end.unwrap_or(rest.len())).unwrap_or(rest);
        let odd = match self.state {
            State::RequestLine => self.part.follow(part).err(),
            State::Field | State::Trailer | State::Body(_) | State::Chunk(_) => None,
        };
        let (part, stop) = match odd {
            None => (part, None),
            Some(Odd::Fragment) => (part, Some(Fault::Fragment.into())),
            Some(Odd::Byte(at)) => (part.get(..at).unwrap_or(part), Some(Stop::Encode(at))),
        };
        self.line.push(part);
        if self.state == State::RequestLine && self.line.begins_with(b"OPTIONS ") {
            let marks = part.iter().filter(|byte| matches!(byte, b'/' | b'?'));
            self.marks = self.marks.saturating_add(marks.count());
        }
        if let Some(stop) = stop {
            return Err(stop);
        }
        let Some(end) = end else {
            return Ok(rest.len());
        };
        if !self.line.ends_with_cr {
            return Err(Fault::BareLineFeed.into());
        }
        self.take_line()?;
        self.line.clear();
        self.part = Part::default();
        Ok(end.saturating_add(1))
    }

    fn take_line(&mut self) -> Result<(), Fault> {
        let is_empty = self.line.is_empty();
        match self.state {
            State::RequestLine if is_empty => {}
            State::RequestLine if self.line.text() == Some(b"PRI * HTTP/2.0") => {
                return Err(Fault::Http2);
            }
            State::RequestLine => {
                self.is_connect = self.line.begins_with(b"CONNECT ");
                self.end_target();
                self.wants_upgrade = self.is_connect;
                self.state = State::Field;
            }
            State::Field if is_empty => return self.end_head(),
            State::Trailer if is_empty => self.state = State::RequestLine,
            State::Field | State::Trailer if self.line.is_folded() => {
                return Err(Fault::FoldedLine);
            }
            State::Field => return self.take_field(),
            State::Trailer | State::Body(_) | State::Chunk(_) => {}
        }
        Ok(())
    }

    /// `http://a HTTP/1.1` has three marks, and each more belongs to a path or a query.
    fn end_target(&mut self) {
        if std::mem::take(&mut self.marks) == 3 {
            self.pathless.push(self.heads.saturating_add(1));
        }
    }

    fn take_field(&mut self) -> Result<(), Fault> {
        if self.line.is_field("content-length") {
            let length = self.line.value().and_then(decimal);
            if length.is_none() || self.length.is_some() {
                return Err(Fault::ContentLength);
            }
            self.length = length;
        } else if self.line.is_field("transfer-encoding") {
            let value = self.line.value();
            let is_chunked = value.is_some_and(|value| value.eq_ignore_ascii_case(b"chunked"));
            if !is_chunked || self.is_chunked {
                return Err(Fault::TransferEncoding);
            }
            self.is_chunked = true;
        } else if self.line.is_field("upgrade") {
            self.wants_upgrade = true;
        }
        Ok(())
    }

    fn end_head(&mut self) -> Result<(), Fault> {
        self.state = match (self.is_chunked, self.length.take()) {
            (true, Some(_)) => return Err(Fault::LengthAndEncoding),
            (true, None) => State::Chunk(FIRST_CHUNK),
            (false, None | Some(0)) => State::RequestLine,
            (false, Some(length)) => State::Body(length),
        };
        self.is_chunked = false;
        self.heads = self.heads.saturating_add(1);
        // With a body no upgrade is offered to the app, so HTTP goes on.
        self.wants_upgrade &= self.state == State::RequestLine;
        Ok(())
    }

    fn skip_body(&mut self, rest: &[u8], left: u64) -> usize {
        let (taken, left) = taken(rest, left);
        self.state = if left == 0 {
            State::RequestLine
        } else {
            State::Body(left)
        };
        taken
    }

    fn check_chunk(&mut self, rest: &[u8], chunk: Chunk) -> Result<usize, Stop> {
        if let Chunk::Data(left) = chunk {
            let (taken, left) = taken(rest, left);
            self.state = State::Chunk(if left == 0 {
                Chunk::DataCr
            } else {
                Chunk::Data(left)
            });
            return Ok(taken);
        }
        let byte = rest.first().copied().unwrap_or(0);
        self.state = after(chunk, byte).ok_or(Fault::Chunk)?;
        Ok(1)
    }
}

/// RFC 9112 section 7.1, one byte at a time.
fn after(chunk: Chunk, byte: u8) -> Option<State> {
    let next = match (chunk, byte) {
        (Chunk::Size { digits, size }, _) if byte.is_ascii_hexdigit() => {
            let digit = char::from(byte).to_digit(16)?;
            (digits < DIGITS_MAX).then_some(())?;
            Chunk::Size {
                digits: digits.saturating_add(1),
                size: size.checked_mul(16)?.checked_add(u64::from(digit))?,
            }
        }
        (Chunk::Size { digits: 0, .. }, _) => return None,
        (Chunk::Size { size, .. } | Chunk::Extension { size }, b'\r') => Chunk::SizeLf { size },
        (Chunk::Size { size, .. } | Chunk::Space { size }, b';')
        | (Chunk::Extension { size }, b'\t' | b' '..=b'~' | 0x80..) => Chunk::Extension { size },
        (Chunk::Size { size, .. } | Chunk::Space { size }, b' ' | b'\t') => Chunk::Space { size },
        (Chunk::SizeLf { size: 0 }, b'\n') => return Some(State::Trailer),
        (Chunk::SizeLf { size }, b'\n') => Chunk::Data(size),
        (Chunk::DataCr, b'\r') => Chunk::DataLf,
        (Chunk::DataLf, b'\n') => FIRST_CHUNK,
        _ => return None,
    };
    Some(State::Chunk(next))
}

/// How many of `rest` belong to what has `left` bytes left, and how many are left then.
fn taken(rest: &[u8], left: u64) -> (usize, u64) {
    let here = u64::try_from(rest.len()).unwrap_or(u64::MAX);
    if here <= left {
        return (rest.len(), left.saturating_sub(here));
    }
    (usize::try_from(left).unwrap_or(rest.len()), 0)
}

/// `1*DIGIT`: no sign, no list, no overflow.
fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| byte.wrapping_sub(b'0'))?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests;

//! Interim answers of the app, 103 Early Hints above all: a proxy passes them on (RFC 9110 section 15.2).
//!
//! hyper's client skips them, and its server has no way to send one. So they are seen as they come from
//! the app, and go out between two answers, when nothing of hyper's is left to write; the answer that
//! follows waits for that. What belongs to a connection stays here: 100 is said by us, where the client
//! asked for it, and 101 opens a tunnel.

use super::head;
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

/// Fields of one; more are no hints.
const FIELDS_MAX: usize = 64;

/// Bytes that may be put together before they are whole.
const BYTES_MAX: usize = 64 * 1024;

/// `HTTP/1.1 103`: the first digit of the status tells.
const DIGIT_AT: usize = "HTTP/1.1 ".len();

/// Listens for them at the beginning of what the app answers.
#[derive(Debug, Default)]
pub(super) struct Sniffer {
    /// The answer itself has begun, or nobody wants to know.
    is_deaf: bool,
    /// Of one that is not whole yet.
    begun: Vec<u8>,
    /// To be passed on.
    heard: Vec<u8>,
}

impl Sniffer {
    /// The next bytes begin an answer.
    pub(super) fn listen(&mut self) {
        self.is_deaf = false;
        self.begun.clear();
        self.heard.clear();
    }

    /// Follows what the app says; true when there is something to pass on.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> bool {
        if self.is_deaf {
            return false;
        }
        // Nearly always an answer, as a whole: nothing is copied then.
        if self.begun.is_empty() && bytes.get(DIGIT_AT).is_some_and(|digit| *digit != b'1') {
            self.is_deaf = true;
            return false;
        }
        self.begun.extend(bytes);
        while let Some(length) = self.take_one() {
            self.begun.drain(..length);
        }
        self.is_deaf |= self.begun.len() > BYTES_MAX;
        if self.is_deaf {
            self.begun = Vec::new();
        }
        !self.heard.is_empty()
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.heard)
    }

    /// The length of the one that `begun` begins with.
    fn take_one(&mut self) -> Option<usize> {
        let digit = self.begun.get(DIGIT_AT)?;
        if *digit != b'1' {
            self.is_deaf = true;
            return None;
        }
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut parsed = httparse::Response::new(&mut fields);
        let Ok(parsing) = parsed.parse(&self.begun) else {
            // hyper finds what is wrong with it.
            self.is_deaf = true;
            return None;
        };
        let httparse::Status::Complete(length) = parsing else {
            return None;
        };
        let status = parsed
            .code
            .and_then(|code| StatusCode::from_u16(code).ok())?;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            self.is_deaf = true;
            return None;
        }
        if status != StatusCode::CONTINUE {
            write(status, parsed.headers, &mut self.heard);
        }
        Some(length)
    }
}

/// As the client gets it.
fn write(status: StatusCode, fields: &[httparse::Header<'_>], into: &mut Vec<u8>) {
    let mut headers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(field.value)) {
            headers.append(name, value);
        }
    }
    head::prepare_response(false, status, &mut headers);
    let reason = status.canonical_reason().unwrap_or("Interim");
    into.extend(format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes());
    for (name, value) in &headers {
        into.extend(name.as_str().as_bytes());
        into.extend(b": ");
        into.extend(value.as_bytes());
        into.extend(b"\r\n");
    }
    into.extend(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    const HINTS: &str =
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x\r\nX: 1\r\n\r\n";
    const WANTED: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n";

    fn heard(pieces: &[&str]) -> String {
        let mut sniffer = Sniffer::default();
        let mut all = Vec::new();
        for piece in pieces {
            if sniffer.hear(piece.as_bytes()) {
                all.extend(sniffer.take());
            }
        }
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn hints_are_heard_in_whatever_pieces_they_come() {
        let all =
            format!("HTTP/1.1 100 Continue\r\n\r\n{HINTS}{HINTS}HTTP/1.1 200 OK\r\n\r\n{HINTS}");
        let wanted = WANTED.repeat(2);
        for at in 0..all.len() {
            let (one, two) = all.split_at(at);
            assert_eq!(heard(&[one, two]), wanted, "cut at {at}");
        }
        let bytes: Vec<_> = (0..all.len()).map(|at| &all[at..=at]).collect();
        assert_eq!(heard(&bytes), wanted);
    }

    #[test]
    fn what_is_no_hint_is_left_to_hyper() {
        for answer in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "HTTP/1.1 1\0\r\n\r\n",
            "x",
        ] {
            assert_eq!(heard(&[answer, HINTS]), "", "{answer}");
        }
        let endless = format!("HTTP/1.1 103 \r\nA: {}", "x".repeat(BYTES_MAX));
        let mut sniffer = Sniffer::default();
        assert!(!sniffer.hear(endless.as_bytes()));
        assert_eq!(sniffer.begun.capacity(), 0);
    }
}

//! The target of a request, where clients write what RFC 3986 does not allow: `?query=up{job="node"}`.
//!
//! Servers and proxies take it, and so do apps; the parser behind the guard refuses the whole request.
//! So it gets what a browser would have sent: the byte percent-encoded, which means the same (RFC 3986
//! section 2.1; <https://url.spec.whatwg.org/#query-state>).

/// The part of a request line in which the next byte is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Part {
    #[default]
    Method,
    Path,
    Query,
    Version,
}

/// What is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Odd {
    /// Of no request, RFC 9112 section 3.2.
    Fragment,
    /// At this index: to be encoded.
    Byte(usize),
}

impl Part {
    /// Follows a piece of a request line to its end, or to what is odd.
    pub(super) fn follow(&mut self, piece: &[u8]) -> Result<(), Odd> {
        let mut text_ends = 0;
        for (index, byte) in piece.iter().enumerate() {
            match byte {
                b'#' => return Err(Odd::Fragment),
                b' ' => *self = self.behind_blank(),
                b'?' if *self == Self::Path => *self = Self::Query,
                0x80.. if index < text_ends => {}
                0x80.. if self.is_target() => {
                    let target = target(piece, index);
                    if std::str::from_utf8(target).is_err() {
                        return Err(Odd::Byte(index));
                    }
                    text_ends = index.saturating_add(target.len());
                }
                byte if self.refuses(*byte) => return Err(Odd::Byte(index)),
                _ => {}
            }
        }
        Ok(())
    }

    /// The same bytes; in what is left of the target no byte is odd. Begins in the target.
    pub(super) fn encoded(self, rest: &[u8]) -> Vec<u8> {
        let mut part = self;
        let target = target(rest, 0);
        let mut encoded = Vec::with_capacity(rest.len().saturating_add(64));
        for byte in target {
            if *byte == b'?' {
                part = Self::Query;
            }
            if *byte >= 0x80 || part.refuses(*byte) {
                encoded.extend(format!("%{byte:02X}").into_bytes());
            } else {
                encoded.push(*byte);
            }
        }
        encoded.extend(rest.get(target.len()..).unwrap_or_default());
        encoded
    }

    fn behind_blank(self) -> Self {
        match self {
            Self::Method => Self::Path,
            Self::Path | Self::Query | Self::Version => Self::Version,
        }
    }

    fn is_target(self) -> bool {
        matches!(self, Self::Path | Self::Query)
    }

    fn refuses(self, byte: u8) -> bool {
        match self {
            Self::Path => matches!(byte, b'<' | b'>' | b'`'),
            Self::Query => matches!(byte, b'<' | b'>' | b'"'),
            Self::Method | Self::Version => false,
        }
    }
}

/// To the blank behind it, or the end of the line or of what is here.
fn target(bytes: &[u8], from: usize) -> &[u8] {
    let rest = bytes.get(from..).unwrap_or_default();
    let end = rest
        .iter()
        .position(|byte| matches!(byte, b' ' | b'\r' | b'\n'));
    rest.get(..end.unwrap_or(rest.len())).unwrap_or_default()
}

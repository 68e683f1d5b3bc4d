//! From bytes to lines, and which of them pass. Pure: the time comes in as an argument.

use std::time::Duration;
use tokio::time::Instant;

/// Longest line; what is longer becomes several. As with journald, LineMax= in journald.conf(5).
pub(super) const LINE_BYTES_MAX: usize = 48 * 1024;

/// Bytes of a character after its first one, RFC 3629 section 3.
const CONTINUATIONS_MAX: usize = 3;

/// PRIORITY of a line without `<N>`: info.
const DEFAULT_PRIORITY: u8 = 6;

/// One line of an app, clean enough to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// As sd-daemon(3) has it: 0 to 7.
    pub(super) priority: u8,
    /// Without prefix, line break, or invalid UTF-8.
    pub(super) text: String,
}

/// Puts reads together to lines.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    part: Vec<u8>,
    /// Of a line whose first parts were passed on: what was said of it holds for the rest.
    begun: Option<u8>,
}

impl Splitter {
    /// Adds what was read; `each` gets every line that became whole.
    pub(super) fn push(&mut self, bytes: &[u8], mut each: impl FnMut(Line)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, whole) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            self.append(text, &mut each);
            if whole {
                self.end(&mut each);
            }
        }
    }

    /// What has no line break yet, as a line.
    pub(super) fn flush(&mut self) -> Option<Line> {
        let is_left = !self.part.is_empty();
        let line = is_left.then(|| self.take());
        self.begun = None;
        line
    }

    /// A line that is just as long as what was passed on has no rest.
    fn end(&mut self, each: &mut impl FnMut(Line)) {
        if self.begun.is_none() || !self.part.is_empty() {
            each(self.take());
        }
        self.begun = None;
    }

    fn append(&mut self, text: &[u8], each: &mut impl FnMut(Line)) {
        let mut rest = text;
        loop {
            let room = LINE_BYTES_MAX.saturating_sub(self.part.len());
            let (now, later) = rest.split_at_checked(room).unwrap_or((rest, &[]));
            self.part.extend(now);
            if later.is_empty() {
                return;
            }
            let rest_of_character = self.part.split_off(whole_characters(&self.part));
            let line = self.take();
            self.begun = Some(line.priority);
            each(line);
            self.part = rest_of_character;
            rest = later;
        }
    }

    fn take(&mut self) -> Line {
        let bytes = std::mem::take(&mut self.part);
        let (priority, text) = match self.begun {
            Some(priority) => (priority, bytes.as_slice()),
            None => split_priority(&bytes),
        };
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        Line {
            priority,
            text: String::from_utf8_lossy(text).into_owned(),
        }
    }
}

/// How many bytes there are before a character that is cut off; all, where it is no text.
fn whole_characters(bytes: &[u8]) -> usize {
    let last = bytes.len().saturating_sub(1);
    let ends = last.saturating_sub(CONTINUATIONS_MAX)..=last;
    let is_first = |at: &usize| bytes.get(*at).is_some_and(|byte| byte & 0xC0 != 0x80);
    let Some(first) = ends.rev().find(is_first).filter(|first| *first > 0) else {
        return bytes.len();
    };
    let character = bytes.get(first..).unwrap_or_default();
    match std::str::from_utf8(character) {
        Err(error) if error.error_len().is_none() => first,
        Ok(_) | Err(_) => bytes.len(),
    }
}

/// `<3>text`, sd-daemon(3).
fn split_priority(line: &[u8]) -> (u8, &[u8]) {
    match line {
        [b'<', digit @ b'0'..=b'7', b'>', text @ ..] => (digit.saturating_sub(b'0'), text),
        text => (DEFAULT_PRIORITY, text),
    }
}

/// A token bucket: a burst of one second's worth, then an even flow.
#[derive(Debug)]
pub(super) struct Limiter {
    lines_per_second: u32,
    left: f64,
    filled: Instant,
    dropped: u64,
}

/// How often drops are told at most.
pub(super) const TELL_EVERY: Duration = Duration::from_secs(1);

impl Limiter {
    pub(super) fn new(lines_per_second: u32, now: Instant) -> Self {
        Self {
            lines_per_second,
            left: f64::from(lines_per_second),
            filled: now,
            dropped: 0,
        }
    }

    /// Whether one more line passes; if not, it is counted.
    pub(super) fn passes(&mut self, now: Instant) -> bool {
        let rate = f64::from(self.lines_per_second);
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.left = elapsed.mul_add(rate, self.left).min(rate);
        self.filled = now;
        if self.left < 1.0 {
            self.dropped = self.dropped.saturating_add(1);
            return false;
        }
        self.left -= 1.0;
        true
    }

    /// Whether there is something to tell.
    pub(super) fn has_dropped(&self) -> bool {
        self.dropped > 0
    }

    /// The count since the last time, as a line.
    pub(super) fn tell(&mut self) -> Option<Line> {
        let dropped = std::mem::take(&mut self.dropped);
        (dropped > 0).then(|| Line {
            priority: 4,
            text: format!(
                "gapless: {dropped} lines dropped, more than app_lines_per_second_max = {}",
                self.lines_per_second
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(reads: &[&[u8]]) -> Vec<Line> {
        let mut splitter = Splitter::default();
        let mut lines = Vec::new();
        for read in reads {
            splitter.push(read, |line| lines.push(line));
        }
        lines.extend(splitter.flush());
        lines
    }

    fn texts(reads: &[&[u8]]) -> Vec<String> {
        split(reads).into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn lines_are_put_together_over_reads() {
        assert_eq!(texts(&[b"a", b"b\nc\r\n\n", b"d"]), ["ab", "c", "", "d"]);
        assert!(texts(&[b"", b""]).is_empty());
    }

    #[test]
    fn a_prefix_is_the_priority() {
        let lines = split(&[b"<3>bad\n<9>odd\nplain\n<"]);
        let seen: Vec<_> = lines
            .iter()
            .map(|l| (l.priority, l.text.as_str()))
            .collect();
        assert_eq!(seen, [(3, "bad"), (6, "<9>odd"), (6, "plain"), (6, "<")]);
    }

    #[test]
    fn a_long_line_becomes_several() {
        let long = vec![b'x'; LINE_BYTES_MAX + 5];
        let lengths: Vec<_> = texts(&[&long, b"y\n"]).iter().map(String::len).collect();
        assert_eq!(lengths, [LINE_BYTES_MAX, 6]);
        let exact = [vec![b'x'; LINE_BYTES_MAX], b"\n".to_vec()].concat();
        assert_eq!(texts(&[&exact]).len(), 1);
    }

    #[test]
    fn the_rest_of_a_long_line_has_its_priority_and_whole_characters() {
        for before in 0..4 {
            let text = format!("<3>{}{}<5>", "x".repeat(before), "\u{1f600}".repeat(20_000));
            let lines = split(&[text.as_bytes(), b"\nnext\n"]);
            let (next, parts) = lines.split_last().unwrap();
            assert!(parts.len() > 1 && parts.iter().all(|part| part.priority == 3));
            let whole: String = parts.iter().map(|part| part.text.as_str()).collect();
            assert_eq!(whole, text.strip_prefix("<3>").unwrap());
            assert_eq!((next.priority, next.text.as_str()), (6, "next"));
        }
        // No text at all: nothing is held back.
        let lengths: Vec<_> = split(&[&vec![0x80; LINE_BYTES_MAX + 1]])
            .iter()
            .map(|line| line.text.chars().count())
            .collect();
        assert_eq!(lengths, [LINE_BYTES_MAX, 1]);
    }

    #[test]
    fn invalid_utf8_is_replaced() {
        assert_eq!(texts(&[b"a\xffb\n"]), ["a\u{fffd}b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_the_rate_is_dropped_and_counted() {
        let begin = Instant::now();
        let mut limiter = Limiter::new(10, begin);
        let passed = (0..30).filter(|_| limiter.passes(begin)).count();
        assert_eq!(passed, 10);
        assert!(limiter.tell().unwrap().text.contains("20 lines dropped"));
        assert_eq!(limiter.tell(), None);
        let later = begin + Duration::from_millis(500);
        assert_eq!((0..30).filter(|_| limiter.passes(later)).count(), 5);
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_lines_are_the_same(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'<'), any::<u8>()], 0..300),
            at in 0_usize..300,
        ) {
            let (one, two) = bytes.split_at(at.min(bytes.len()));
            prop_assert_eq!(split(&[one, two]), split(&[&bytes]));
        }
    }
}

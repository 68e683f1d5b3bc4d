//! From bytes to lines, and which of them pass. Pure: the time comes in as an argument.

use std::time::Duration;
use tokio::time::Instant;

/// Longest line; what is longer becomes several.
pub(super) const LINE_BYTES_MAX: usize = 8 * 1024;

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
                each(self.take());
            }
        }
    }

    /// What has no line break yet, as a line.
    pub(super) fn flush(&mut self) -> Option<Line> {
        (!self.part.is_empty()).then(|| self.take())
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
            each(self.take());
            rest = later;
        }
    }

    fn take(&mut self) -> Line {
        let bytes = std::mem::take(&mut self.part);
        let (priority, text) = split_priority(&bytes);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        Line {
            priority,
            text: String::from_utf8_lossy(text).into_owned(),
        }
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

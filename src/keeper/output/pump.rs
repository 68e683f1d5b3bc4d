//! Reads the pipe of one worker to its end, line by line, into the sink and the tail.

use super::lines::{Limiter, Line, Splitter, TELL_EVERY};
use super::tail::{Feed, Question};
use super::{Sink, Source};
use crate::systemd::journal::{AppLine, send_app_line};
use anstyle::{AnsiColor, Style};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const READ_BYTES: usize = 64 * 1024;

/// Reads in a row for one question: the whole of the largest pipe. A worker that writes on and on
/// must not keep the question open.
const READS_MAX: u32 = 17;

#[derive(Debug)]
pub(super) struct Pump {
    source: Source,
    pipe: OwnedFd,
    sink: Sink,
    lines_per_second_max: u32,
    feed: Feed,
}

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Lines,
    /// Nothing now.
    Empty,
    /// Nothing ever again.
    End,
}

enum Wake {
    Readable,
    Asked(Question),
    Tell,
    Close,
}

#[derive(Debug)]
struct Passage {
    source: Source,
    sink: Sink,
    splitter: Splitter,
    limiter: Limiter,
    feed: Feed,
    buffer: Vec<u8>,
}

impl Pump {
    pub(super) fn new(
        source: Source,
        pipe: OwnedFd,
        sink: Sink,
        lines_per_second_max: u32,
        feed: Feed,
    ) -> Self {
        Self {
            source,
            pipe,
            sink,
            lines_per_second_max,
            feed,
        }
    }

    /// On the output thread. Ends with the pipe, or, when `closing`, with what is in it.
    pub(super) async fn run(self, closing: CancellationToken) {
        let pipe = match crate::poll::watch(self.pipe) {
            Ok(pipe) => pipe,
            Err(error) => {
                tracing::error!(%error, generation = %self.source.generation,
                    "cannot watch the output of a worker, its lines are lost");
                return;
            }
        };
        let mut passage = Passage {
            source: self.source,
            sink: self.sink,
            splitter: Splitter::default(),
            limiter: Limiter::new(self.lines_per_second_max, Instant::now()),
            feed: self.feed,
            buffer: vec![0; READ_BYTES],
        };
        while passage.turn(&pipe, &closing).await {}
        passage.finish();
    }
}

impl Passage {
    /// False at the end.
    async fn turn(&mut self, pipe: &AsyncFd<OwnedFd>, closing: &CancellationToken) -> bool {
        match self.wake(pipe, closing).await {
            // One read a turn: the other workers share this thread.
            Wake::Readable => self.read(pipe) != Found::End,
            Wake::Asked(question) => self.answer(pipe, question),
            Wake::Tell => {
                self.tell();
                true
            }
            Wake::Close => {
                self.read_all(pipe);
                false
            }
        }
    }

    async fn wake(&mut self, pipe: &AsyncFd<OwnedFd>, closing: &CancellationToken) -> Wake {
        let telling = self.limiter.has_dropped();
        let questions = &mut self.feed.questions;
        // All of these are cancel-safe. A question goes first: it brings the rest of the pipe along.
        tokio::select! {
            biased;
            Some(question) = questions.recv() => Wake::Asked(question),
            () = closing.cancelled() => Wake::Close,
            () = tokio::time::sleep(TELL_EVERY), if telling => Wake::Tell,
            // An error of epoll would come again and again: let `read` see the end.
            _ = pipe.readable() => Wake::Readable,
        }
    }

    fn read(&mut self, pipe: &AsyncFd<OwnedFd>) -> Found {
        let buffer = &mut self.buffer;
        let read = pipe.try_io(Interest::READABLE, |fd| {
            rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut **buffer))
                .map_err(io::Error::from)
        });
        match read {
            Ok(0) => Found::End,
            Ok(length) => {
                self.take(length);
                Found::Lines
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Found::Empty,
            Err(error) => {
                tracing::error!(%error, "cannot read the output of a worker, giving up on it");
                Found::End
            }
        }
    }

    fn take(&mut self, length: usize) {
        let mut lines = Vec::new();
        let bytes = self.buffer.get(..length).unwrap_or_default();
        self.splitter.push(bytes, |line| lines.push(line));
        for line in lines {
            self.pass(&line);
        }
    }

    fn read_all(&mut self, pipe: &AsyncFd<OwnedFd>) -> Found {
        // Not by readiness, which may lag behind a write of just now: by reading.
        for _ in 0..READS_MAX {
            match rustix::io::retry_on_intr(|| rustix::io::read(pipe, &mut *self.buffer)) {
                Ok(0) => return Found::End,
                Ok(length) => self.take(length),
                Err(_) => return Found::Empty,
            }
        }
        Found::Lines
    }

    fn answer(&mut self, pipe: &AsyncFd<OwnedFd>, question: Question) -> bool {
        let found = self.read_all(pipe);
        self.flush();
        // Whoever asked may have given up; that is no concern of ours.
        question.send(()).ok();
        found != Found::End
    }

    fn pass(&mut self, line: &Line) {
        self.feed.push(&line.text);
        if self.limiter.passes(Instant::now()) {
            self.tell();
            self.emit(line);
        }
    }

    fn tell(&mut self) {
        if let Some(line) = self.limiter.tell() {
            self.emit(&line);
        }
    }

    fn flush(&mut self) {
        if let Some(line) = self.splitter.flush() {
            self.pass(&line);
        }
    }

    fn finish(&mut self) {
        self.flush();
        self.tell();
    }

    fn emit(&self, line: &Line) {
        let result = match &self.sink {
            Sink::Journal { name } => self.to_journal(name, line),
            Sink::Terminal => self.to_terminal(line),
            Sink::Nowhere => Ok(()),
        };
        if let Err(error) = result {
            tracing::debug!(%error, "a line of the app was not passed on");
        }
    }

    fn to_journal(&self, name: &str, line: &Line) -> io::Result<()> {
        send_app_line(&AppLine {
            name,
            generation: self.source.generation,
            slot: self.source.slot,
            release: &self.source.release,
            priority: line.priority,
            text: &line.text,
        })
        .map_err(io::Error::other)
    }

    /// anstream leaves the colours out where stdout is not a terminal that has some.
    fn to_terminal(&self, line: &Line) -> io::Result<()> {
        let Source {
            generation, slot, ..
        } = &self.source;
        let label = Style::new().dimmed();
        let style = match line.priority {
            0..=3 => Style::new().fg_color(Some(AnsiColor::Red.into())),
            4 => Style::new().fg_color(Some(AnsiColor::Yellow.into())),
            _ => Style::new(),
        };
        let text = &line.text;
        writeln!(
            anstream::stdout().lock(),
            "{label}{generation} {slot} |{label:#} {style}{text}{style:#}"
        )
    }
}

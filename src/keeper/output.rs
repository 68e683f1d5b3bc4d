//! The app's stdout and stderr: from one pipe per worker to the journal or the terminal.
//!
//! All of it on a thread of its own: a flood of lines, a busy journal or a terminal that is held
//! (Ctrl-S) may delay the app's output, never the keeper. And all of it bounded: the length of a
//! line, the lines a second, the lines remembered.
//!
//! Pipes of our own, not a journal stream: so lines carry GAPLESS_GENERATION, GAPLESS_RELEASE and
//! GAPLESS_WORKER as fields, and the last ones are there when a start fails. The read ends are in the fd
//! store, so a crash of the keeper breaks no pipe.

mod lines;
mod pump;
mod tail;

pub use tail::Tail;

use crate::id::{GenerationId, Slot};
use pump::Pump;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;
use tail::tail;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Of a pipe: as much as an ordinary user may have, so that an app outlives a keeper that is away
/// for a moment (pipe(7), pipe-max-size).
const PIPE_BYTES: usize = 1024 * 1024;

/// Watches that may wait for the thread to begin them; there is one per start of a worker.
const QUEUE: usize = 256;

/// For the sink to take the last lines when an [`Output`] is dropped.
const FINISH_LIMIT: Duration = Duration::from_secs(2);

/// Whose output it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Which run.
    pub generation: GenerationId,
    /// Which worker.
    pub slot: Slot,
    /// Label of the release.
    pub release: String,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// As entries with fields, under the app's name.
    Journal {
        /// Of the app.
        name: String,
    },
    /// On our stdout, each behind `g7 w0 |`.
    Terminal,
    /// Only into the [`Tail`].
    Nowhere,
}

/// The output cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The thread cannot be started.
    #[error("cannot start the thread for the output of the app; check TasksMax= of the service")]
    Start(#[source] io::Error),
    /// The fd cannot be polled.
    #[error("cannot watch the output of {generation} {slot}")]
    Watch {
        /// Whose output.
        generation: GenerationId,
        /// Whose output.
        slot: Slot,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The thread ended, or is far behind.
    #[error(
        "cannot watch the output of {generation} {slot}: the output thread takes nothing more; its \
         lines stay in the pipe"
    )]
    Busy {
        /// Whose output.
        generation: GenerationId,
        /// Whose output.
        slot: Slot,
    },
}

/// The thread that reads the output of all workers. Ends when dropped, after it has read what is
/// there; see [`Output::finish`].
#[derive(Debug)]
pub struct Output {
    begin: Option<mpsc::Sender<Pump>>,
    /// Closed by the end of the thread.
    alive: Receiver<Infallible>,
    thread: Option<JoinHandle<()>>,
    sink: Sink,
}

/// A pipe for a worker's stdout and stderr: the end to read (to be kept, so that the worker can
/// write while we are away), the end to write. Both close-on-exec; only the reading end is
/// non-blocking, because most apps cannot cope with a stdout that is.
///
/// # Errors
/// When the process is out of fds.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    if let Err(error) = fcntl_setpipe_size(&read, PIPE_BYTES) {
        // The user has all the pipe memory it may have: the ordinary 64 KiB serve, too.
        tracing::debug!(%error, "a pipe stays small");
    }
    Ok((read, write))
}

impl Output {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`OutputError::Start`].
    pub fn start(sink: Sink) -> Result<Self, OutputError> {
        let (begin, pumps) = mpsc::channel(QUEUE);
        let (living, alive) = std::sync::mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(OutputError::Start)?;
        let thread = std::thread::Builder::new()
            .name("output".to_owned())
            .spawn(move || {
                runtime.block_on(run(pumps));
                drop(living);
            })
            .map_err(OutputError::Start)?;
        Ok(Self {
            begin: Some(begin),
            alive,
            thread: Some(thread),
            sink,
        })
    }

    /// Reads from now on what `source` writes, until the last writer is gone. At most
    /// `lines_per_second_max` go to the sink, the rest is counted; the tail gets all.
    ///
    /// # Errors
    /// [`OutputError`]; the worker's output then stays in the pipe.
    pub fn watch(
        &self,
        source: Source,
        read_end: OwnedFd,
        lines_per_second_max: u32,
    ) -> Result<Tail, OutputError> {
        let (generation, slot) = (source.generation, source.slot);
        let failed = |source: io::Error| OutputError::Watch {
            generation,
            slot,
            source,
        };
        rustix::io::ioctl_fionbio(&read_end, true).map_err(|error| failed(error.into()))?;
        let (tail, feed) = tail();
        let pump = Pump::new(
            source,
            read_end,
            self.sink.clone(),
            lines_per_second_max,
            feed,
        );
        let begin = self.begin.as_ref();
        let busy = OutputError::Busy { generation, slot };
        match begin.map(|begin| begin.try_send(pump)) {
            Some(Ok(())) => Ok(tail),
            Some(Err(_)) | None => Err(busy),
        }
    }
}

impl Output {
    /// Reads what is in the pipes by now, passes it on, and ends the thread: before an exec in
    /// place, or at the end. False when the sink (a journal that hangs, a terminal that is held)
    /// did not take it within `limit`; the rest of what was read is lost then.
    pub fn finish(mut self, limit: Duration) -> bool {
        self.end(limit)
    }

    fn end(&mut self, limit: Duration) -> bool {
        drop(self.begin.take());
        let Some(thread) = self.thread.take() else {
            return true;
        };
        if let Err(RecvTimeoutError::Timeout) = self.alive.recv_timeout(limit) {
            tracing::warn!(
                ?limit,
                "the app's last lines were not taken in time, continuing"
            );
            return false;
        }
        if thread.join().is_err() {
            tracing::error!("the output thread panicked, lines of the app are lost");
            return false;
        }
        true
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.end(FINISH_LIMIT);
    }
}

/// The thread: one task per worker, all on this one runtime.
async fn run(mut begun: mpsc::Receiver<Pump>) {
    let pumps = TaskTracker::new();
    let closing = CancellationToken::new();
    while let Some(pump) = begun.recv().await {
        let closing = closing.clone();
        pumps.spawn(async move { pump.run(closing).await });
    }
    // Each reads what is there by now, and ends.
    closing.cancel();
    pumps.close();
    pumps.wait().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LIMIT: Duration = Duration::from_secs(10);

    fn source() -> Source {
        Source {
            generation: GenerationId(7),
            slot: Slot(0),
            release: "abc".into(),
        }
    }

    fn watched() -> (Output, Tail, std::fs::File) {
        let output = Output::start(Sink::Nowhere).unwrap();
        let (read, write) = pipe().unwrap();
        let tail = output.watch(source(), read, 1000).unwrap();
        (output, tail, write.into())
    }

    #[tokio::test]
    async fn what_a_worker_wrote_last_is_there_when_it_is_settled() {
        let (_output, tail, mut write) = watched();
        write.write_all(b"one\n<3>two\nlast words").unwrap();
        assert!(tail.settled(LIMIT).await);
        assert_eq!(tail.lines(), ["one", "two", "last words"]);
        write.write_all(b"more\n").unwrap();
        drop(write);
        assert!(tail.settled(LIMIT).await);
        assert_eq!(tail.lines().last().unwrap(), "more");
    }

    #[tokio::test]
    async fn a_flood_leaves_the_last_lines_and_an_end() {
        let (output, tail, mut write) = watched();
        let writer = std::thread::spawn(move || {
            for number in 0..50_000 {
                writeln!(write, "line {number}").unwrap();
            }
        });
        tokio::task::spawn_blocking(move || writer.join().unwrap())
            .await
            .unwrap();
        assert!(tail.settled(LIMIT).await);
        assert_eq!(tail.lines().last().unwrap(), "line 49999");
        drop(output);
        assert!(tail.settled(LIMIT).await, "settled for ever after the end");
    }

    #[tokio::test]
    async fn an_output_that_ends_reads_what_is_there_first() {
        let (output, tail, mut write) = watched();
        write.write_all(b"still here\n").unwrap();
        assert!(output.finish(LIMIT));
        assert_eq!(tail.lines(), ["still here"]);
        drop(write);
    }

    #[test]
    fn a_worker_may_write_much_before_anybody_reads() {
        let (_read, write) = pipe().unwrap();
        let size = rustix::pipe::fcntl_getpipe_size(&write).unwrap();
        assert!(size >= 64 * 1024);
    }
}

//! Lines on stdout, by a thread of its own: a terminal that is held (Ctrl-S) or a full pipe may
//! cost entries, never a request.

use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

/// Lines that may wait for the thread.
const QUEUE: usize = 4096;

/// For the thread to write what waits when the front ends.
const FINISH_LIMIT: Duration = Duration::from_secs(2);

/// A way to the thread; it ends with the last of them.
#[derive(Clone, Debug)]
pub(in crate::front) struct Lines(SyncSender<String>);

impl Lines {
    /// False when there is no room for it.
    pub(super) fn put(&self, line: String) -> bool {
        self.0.try_send(line).is_ok()
    }
}

/// The thread, to be waited for.
#[derive(Debug)]
pub(in crate::front) struct Writer {
    /// Closed by the end of the thread.
    alive: Receiver<Infallible>,
}

impl Writer {
    /// After the last [`Lines`] is dropped. Bounded, since nobody may ever read what is written.
    pub(in crate::front) fn finish(&self) {
        match self.alive.recv_timeout(FINISH_LIMIT) {
            Err(RecvTimeoutError::Disconnected) => {}
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!("the last access log lines were not taken, dropping them");
            }
            Ok(never) => match never {},
        }
    }
}

pub(super) fn start(output: impl Write + Send + 'static) -> io::Result<(Lines, Writer)> {
    let (lines, waiting) = sync_channel(QUEUE);
    let (life, alive) = channel();
    std::thread::Builder::new()
        .name("access-log".to_owned())
        .spawn(move || write_all(&waiting, output, life))?;
    Ok((Lines(lines), Writer { alive }))
}

/// A line is written whole and at once: stdout may be shared with the app's.
fn write_all(waiting: &Receiver<String>, mut output: impl Write, life: Sender<Infallible>) {
    while let Ok(line) = waiting.recv() {
        if let Err(error) = output
            .write_all(line.as_bytes())
            .and_then(|()| output.flush())
        {
            tracing::error!(%error, "no access log any more, stdout takes nothing: {error}");
            break;
        }
    }
    drop(life);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// Blocks until somebody lets go of the lock.
    #[derive(Clone, Default)]
    struct Held(Arc<Mutex<Vec<u8>>>);

    impl Write for Held {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_dropped_while_nobody_reads_and_written_when_somebody_does() {
        let output = Held::default();
        let (lines, writer) = start(output.clone()).unwrap();
        let held = output.0.lock().unwrap();
        let taken = (0..2 * QUEUE)
            .filter(|_| lines.put("x\n".to_owned()))
            .count();
        // One more may be in the thread's hand.
        assert!((QUEUE..=QUEUE + 1).contains(&taken), "{taken}");
        drop(held);
        drop(lines);
        writer.finish();
        assert_eq!(output.0.lock().unwrap().len(), 2 * taken);
    }
}

//! One way of a tunnel: reads only when everything before is written, so that a slow reader slows
//! its writer down. An idle pipe holds no buffer.

use super::super::stream::Socket;
use super::frames::Frames;
use hyper::body::Bytes;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Read at once, on the stack; only what the other side does not take is kept.
const BUFFER_BYTES: usize = 16 * 1024;

/// FIN, opcode 8, unmasked, two bytes: 1012, "service restart".
const CLOSE_FRAME: [u8; 4] = [0x88, 2, 0x03, 0xf4];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// Everything passes.
    Open,
    /// What belongs to the frame that has begun passes; then comes our close frame.
    ToBoundary,
    /// Our close frame is said, so nothing may follow: what comes is read and dropped.
    Closed(Instant),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pipe {
    /// Read, and not yet written.
    pending: Bytes,
    has_ended: bool,
    is_done: bool,
    blocked_since: Option<Instant>,
    passed: u64,
    flow: Flow,
    /// Of a WebSocket, from the app to the client.
    frames: Option<Frames>,
}

impl Pipe {
    /// `pending` was read already.
    pub(super) fn new(pending: Bytes, frames: Option<Frames>) -> Self {
        Self {
            pending,
            has_ended: false,
            is_done: false,
            blocked_since: None,
            passed: 0,
            flow: Flow::Open,
            frames,
        }
    }

    pub(super) fn has_frames(&self) -> bool {
        self.frames.is_some()
    }

    /// Since when nothing was taken of what waits to be written.
    pub(super) fn blocked_since(&self) -> Option<Instant> {
        self.blocked_since
    }

    /// Bytes written so far.
    pub(super) fn passed(&self) -> u64 {
        self.passed
    }

    /// Since when our close frame is on its way.
    pub(super) fn closed_at(&self) -> Option<Instant> {
        match self.flow {
            Flow::Open | Flow::ToBoundary => None,
            Flow::Closed(at) => Some(at),
        }
    }

    /// From now on, the close frame goes where it may.
    pub(super) fn say_close_at_boundary(&mut self) {
        if self.frames.is_some() {
            self.flow = Flow::ToBoundary;
        }
    }

    /// The close frame, if it may go now and there is room for it.
    pub(super) fn try_say_close(&mut self, cx: &mut Context<'_>, to: &mut Socket) {
        let may_close = self
            .frames
            .is_some_and(|frames| frames.is_at_boundary() && !frames.has_closed());
        if may_close
            && !self.has_ended
            && let Poll::Ready(Ok(_)) = Pin::new(to).poll_write(cx, &CLOSE_FRAME)
        {
            self.flow = Flow::Closed(Instant::now());
        }
    }

    /// Ready when the end of `from` was passed on to `to`.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Socket,
        to: &mut Socket,
    ) -> Poll<io::Result<()>> {
        while !self.is_done {
            ready!(self.poll_write(cx, to))?;
            if self.flow == Flow::ToBoundary && self.is_at_boundary() {
                self.close();
            } else if self.has_ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.is_done = true;
            } else {
                ready!(self.poll_read(cx, from))?;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn is_at_boundary(&self) -> bool {
        self.frames.is_none_or(|frames| frames.is_at_boundary())
    }

    fn close(&mut self) {
        if self.frames.is_some_and(|frames| frames.has_closed()) {
            // The app closes by itself; the deadline is the tunnel's matter.
            self.flow = Flow::Open;
            return;
        }
        self.flow = Flow::Closed(Instant::now());
        self.pending = Bytes::from_static(&CLOSE_FRAME);
    }

    /// What may go, to its end.
    fn poll_write(&mut self, cx: &mut Context<'_>, to: &mut Socket) -> Poll<io::Result<()>> {
        loop {
            let may_go = match (self.flow, self.frames) {
                (Flow::ToBoundary, Some(frames)) => frames.until_boundary(&self.pending),
                (Flow::ToBoundary, None) | (Flow::Open | Flow::Closed(_), _) => self.pending.len(),
            };
            let Some(bytes) = self.pending.get(..may_go).filter(|bytes| !bytes.is_empty()) else {
                return Poll::Ready(Ok(()));
            };
            let Poll::Ready(written) = Pin::new(&mut *to).poll_write(cx, bytes) else {
                self.blocked_since.get_or_insert_with(Instant::now);
                return Poll::Pending;
            };
            self.blocked_since = None;
            match written? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.wrote(count),
            }
        }
    }

    fn wrote(&mut self, count: usize) {
        let written = self.pending.split_to(count);
        self.passed = self
            .passed
            .saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        if let (Flow::Open | Flow::ToBoundary, Some(frames)) = (self.flow, &mut self.frames) {
            frames.pass(&written);
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, from: &mut Socket) -> Poll<io::Result<()>> {
        let mut buffer = [const { MaybeUninit::uninit() }; BUFFER_BYTES];
        let mut buffer = ReadBuf::uninit(&mut buffer);
        ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
        if buffer.filled().is_empty() {
            self.has_ended = true;
        } else if self.closed_at().is_none() {
            self.pending = Bytes::copy_from_slice(buffer.filled());
        }
        Poll::Ready(Ok(()))
    }
}

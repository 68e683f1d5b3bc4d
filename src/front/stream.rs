//! The stream under a client connection, which stamps what it sees on the connection's [`Progress`].
//!
//! It never closes or shuts down by itself: a connection may move to another front at any time.
//!
//! # A client that shuts down its side
//!
//! A client that shuts down its side behind a whole request is answered. It cannot be told from one that
//! has left, so it has `hold` (at least a second) until it is given up, counted from the last bytes that it
//! took.
//!
//! While an answer is on its way, hyper would look for that end by reading, into a buffer that it makes
//! anew for each request, because the head is still in the last one. So it is told not to (`half_close`),
//! and the stream looks itself, without taking anything (`ClientStream::watch`): what comes before the
//! answer is out stays in the socket until then.

mod own_answer;
mod socket;

pub(super) use socket::{Peer, Socket};

use super::guard::{Fault, Guard, Verdict};
use super::progress::{Progress, Upload};
use super::trustee::Slot;
use hyper::body::{Buf, Bytes};
use rustix::net::RecvFlags;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What hyper reads in place of bytes that must not pass: no part of any head, no framing of a
/// body, and the end of both, so that it is judged at once.
const POISON: &[u8] = b"\0\n\r\n\r\n";

/// What hyper reads and writes of a client.
#[derive(Debug)]
pub(super) struct ClientStream {
    /// Before the socket: it is vacant before the fd is closed.
    slot: Slot,
    socket: Socket,
    /// Read by an older front and not used there, or held back here.
    prefix: Bytes,
    progress: Rc<Progress>,
    guard: Guard,
    /// What follows may be another protocol; until the app has answered, nobody knows.
    is_holding: bool,
    /// What is held back was sent into a tunnel that was not there yet.
    is_impatient: bool,
    /// Bytes of a next request are here, so the end is not seen before they are read.
    has_more: bool,
    /// Some after a fault: what is left of [`POISON`]; then the stream is at its end.
    poison: Option<&'static [u8]>,
    /// Why there is poison.
    fault: Option<Fault>,
    /// What is left of an answer that is written in place of hyper's.
    instead: Option<Bytes>,
}

impl ClientStream {
    pub(super) fn new(
        socket: Socket,
        prefix: Bytes,
        progress: Rc<Progress>,
        mut slot: Slot,
    ) -> Self {
        if prefix.is_empty() {
            slot.settle();
        }
        Self {
            slot,
            socket,
            prefix,
            progress,
            guard: Guard::new(),
            is_holding: false,
            is_impatient: false,
            has_more: false,
            poison: None,
            fault: None,
            instead: None,
        }
    }

    /// Its slot, which must go before the socket does; the socket; and what was read and not used.
    pub(super) fn into_parts(self) -> (Slot, Socket, Bytes) {
        (self.slot, self.socket, self.prefix)
    }

    /// More came behind a request that was to be answered first, and is not read.
    pub(super) fn has_more(&self) -> bool {
        self.has_more
    }

    /// What hyper has read and not used.
    pub(super) fn take_back(&mut self, read: Bytes) {
        self.prefix = joined(read, std::mem::take(&mut self.prefix));
    }

    /// Ready when there may be something to read, if only the end; nothing is read.
    pub(super) fn poll_any(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.prefix.is_empty() {
            return Poll::Ready(());
        }
        // An error shows when it is read.
        self.socket.poll_readable(cx).map(drop)
    }

    fn poll_read_any(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.has_more = false;
        if self.prefix.is_empty() {
            if self.slot.is_settled() {
                ready!(self.socket.poll_readable(cx))?;
                self.slot.be_busy();
            }
            return Pin::new(&mut self.socket).poll_read(cx, into);
        }
        let fits = self.prefix.len().min(into.remaining());
        into.put_slice(&self.prefix.split_to(fits));
        Poll::Ready(Ok(()))
    }

    fn poll_read_checked(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(left) = &mut self.poison {
            put_some(left, into);
            return Poll::Ready(Ok(()));
        }
        if self.is_holding && self.progress.is_in_flight() {
            self.progress.withholds();
            return Poll::Pending;
        }
        self.is_holding = false;
        if self.is_impatient {
            // No tunnel came of it. Whoever had a hand in these bytes wrote them for somebody else,
            // so they are no request of this client, though they may look like one.
            self.poison = Some(&[]);
            return Poll::Ready(Ok(()));
        }
        let before = into.filled().len();
        loop {
            ready!(self.poll_read_any(cx, into))?;
            let is_end = into.filled().len() == before;
            if is_end && self.progress.is_in_flight() && !self.guard.is_in_body() {
                // Half-closed, or gone: nobody can tell. Its request is whole, so it gets an answer.
                self.progress.client_ended();
                return Poll::Pending;
            }
            // Nothing may be left of it but what is to be read again, encoded.
            if is_end || !self.check(before, into) || into.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Whether the client leaves while an answer is on its way. hyper does not look: it would have to
    /// read, into another buffer, as the head of the request is still in its own.
    fn watch(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let is_next_here = self.has_more || self.is_holding || !self.prefix.is_empty();
        let may_end = self.progress.is_in_flight() && !self.guard.is_in_body();
        if is_next_here || self.poison.is_some() || !may_end {
            return Ok(());
        }
        while let Poll::Ready(ready) = self.socket.poll_readable(cx) {
            ready?;
            match self.socket.peek() {
                // Half-closed, or gone: nobody can tell. Its request is whole, so it gets an answer.
                Ok(0) => self.progress.client_ended(),
                Ok(_) => self.has_more = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            }
            break;
        }
        Ok(())
    }

    /// If every request that came is answered, and nothing else has come. Looked at where either may
    /// have become true.
    fn settle(&mut self) {
        let is_clean = self.prefix.is_empty()
            && self.poison.is_none()
            && !(self.is_holding || self.is_impatient || self.slot.is_settled());
        let heads = self.guard.whole_requests().filter(|_| is_clean);
        if heads.is_some_and(|heads| self.progress.has_answered(heads)) {
            self.slot.settle();
        }
    }

    /// Takes back what must not pass of the bytes behind `before`. True: it is to be read again.
    fn check(&mut self, before: usize, into: &mut ReadBuf<'_>) -> bool {
        let bytes = into.filled().get(before..).unwrap_or_default();
        let verdict = self.guard.check(bytes);
        self.progress.sees_pathless(self.guard.take_pathless());
        match verdict {
            Verdict::Pass => {}
            Verdict::Encode(passed) => {
                let rest = self.guard.encoded(bytes.get(passed..).unwrap_or_default());
                self.prefix = [&*rest, &*self.prefix].concat().into();
                into.set_filled(before.saturating_add(passed));
                return true;
            }
            Verdict::Hold(passed) => {
                self.is_holding = true;
                let rest = bytes.get(passed..).unwrap_or_default();
                if !rest.is_empty() {
                    self.prefix = [rest, &*self.prefix].concat().into();
                }
                into.set_filled(before.saturating_add(passed));
            }
            Verdict::Fault(passed, why) => {
                tracing::debug!(
                    ?why,
                    "a client's bytes have more than one reading, refusing them"
                );
                into.set_filled(before.saturating_add(passed));
                let mut left = POISON;
                put_some(&mut left, into);
                self.poison = Some(left);
                self.fault = Some(why);
            }
        }
        false
    }
}

fn put_some(left: &mut &'static [u8], into: &mut ReadBuf<'_>) {
    let fits = left.len().min(into.remaining());
    into.put_slice(left.get(..fits).unwrap_or_default());
    left.advance(fits);
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        let polled = this.poll_read_checked(cx, into);
        match &polled {
            Poll::Pending => {
                this.progress.read_blocked();
                this.settle();
            }
            Poll::Ready(Ok(())) if into.filled().len() > before => {
                let bytes = into.filled().len().saturating_sub(before);
                this.progress.read_some(bytes);
            }
            Poll::Ready(_) => {}
        }
        polled
    }
}

impl ClientStream {
    /// If it is the answer to a CONNECT: what is here by now did not wait for it.
    fn goes_out(&mut self, bytes: &[u8]) {
        if self.progress.goes_out(bytes) {
            let status = self.progress.own_answer();
            self.instead = Some(own_answer::with_text(bytes, status, self.fault));
        }
        if self.is_holding && self.guard.is_connect() && !self.is_impatient {
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            let peeked = rustix::net::recv(&self.socket, &mut [0_u8; 1], flags);
            if !self.prefix.is_empty() || matches!(peeked, Ok((1.., _))) {
                self.is_impatient = true;
                // Nor may another front take it for the next request.
                self.progress.set_upload(Upload::Abandoned);
            }
        }
    }

    /// All of it, then hyper's bytes count as written.
    fn poll_write_instead(
        &mut self,
        cx: &mut Context<'_>,
        bytes: usize,
    ) -> Poll<io::Result<usize>> {
        while let Some(left) = self.instead.as_mut().filter(|it| !it.is_empty()) {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, left))?;
            left.advance(written);
        }
        self.instead = None;
        Poll::Ready(Ok(bytes))
    }

    /// What the app says before its answer; whoever waits for that goes on.
    fn poll_write_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut left = self.progress.interim();
        while left.has_remaining() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &left))?;
            left.advance(written);
            self.progress.interim_is_written(!left.has_remaining());
        }
        cx.waker().wake_by_ref();
        Poll::Ready(Ok(()))
    }

    fn stamp(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending => {
                self.progress.write_blocked();
                // There will be no flush before it goes on.
                self.watch(cx)?;
            }
            Poll::Ready(Ok(bytes)) => self.progress.wrote_some(*bytes),
            Poll::Ready(Err(_)) => self.progress.wrote_some(0),
        }
        written
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.progress.is_interim_begun() {
            ready!(this.poll_write_interim(cx))?;
        }
        this.goes_out(bytes);
        let written = match &this.instead {
            Some(_) => this.poll_write_instead(cx, bytes.len()),
            None => Pin::new(&mut this.socket).poll_write(cx, bytes),
        };
        this.stamp(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.progress.is_interim_begun() {
            ready!(this.poll_write_interim(cx))?;
        }
        let first: &[u8] = slices.first().map_or(&[], |slice| slice);
        this.goes_out(first);
        let written = match &this.instead {
            Some(_) => this.poll_write_instead(cx, first.len()),
            None => Pin::new(&mut this.socket).poll_write_vectored(cx, slices),
        };
        this.stamp(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.socket).poll_flush(cx))?;
        if this.progress.has_interim() {
            ready!(this.poll_write_interim(cx))?;
        }
        this.watch(cx)?;
        this.progress.flushed();
        this.settle();
        Poll::Ready(Ok(()))
    }

    /// Left to the driver of the connection, which knows whether to linger.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Nothing of an empty one stays: it may be the end of a buffer, and would keep all of that alive.
fn joined(first: Bytes, second: Bytes) -> Bytes {
    match (first.is_empty(), second.is_empty()) {
        (true, true) => Bytes::new(),
        (true, false) => second,
        (false, true) => first,
        (false, false) => [first, second].concat().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// A buffer of which nothing is left to read.
    struct Used(#[expect(dead_code, reason = "counts who has it")] Arc<()>);

    impl AsRef<[u8]> for Used {
        fn as_ref(&self) -> &[u8] {
            &[]
        }
    }

    #[test]
    fn a_buffer_that_is_used_up_is_given_back() {
        let buffer = Arc::new(());
        let used = || Bytes::from_owner(Used(Arc::clone(&buffer)));
        let kept = joined(used(), used());
        assert_eq!((kept.len(), Arc::strong_count(&buffer)), (0, 1));
        let kept = joined(used(), Bytes::from_static(b"GET"));
        assert_eq!((&kept[..], Arc::strong_count(&buffer)), (&b"GET"[..], 1));
    }

    #[test]
    fn what_was_read_comes_before_what_was_not() {
        let (first, second) = (Bytes::from_static(b"GE"), Bytes::from_static(b"T"));
        assert_eq!(joined(first.clone(), second), "GET");
        assert_eq!(joined(first, Bytes::new()), "GE");
    }
}

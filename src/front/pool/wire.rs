//! The socket under a connection to the app, and what is known of it: what the app said, and whether
//! it still takes what it is told.
//!
//! An app may answer before it has the whole request, and close: 413 to an upload, say. A write to it
//! fails then, but its answer is here to be read. So no write fails here: it waits, and what is read,
//! an answer or the end, decides.
//!
//! Once the answer is over, an app that takes nothing for a second gets no more. The rest of the upload is
//! read and thrown away before the client's connection is closed, up to 32 MiB and two seconds, because a
//! reset could destroy the answer.

use super::starving::Waiting;
use super::{HEAD_BYTES_MAX, Socket};
use crate::front::interim::Sniffer;
use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

/// What an app may say before its answer's head is whole, interim responses (1xx) included.
const PREAMBLE_BYTES_MAX: usize = 2 * HEAD_BYTES_MAX;

/// An app that has answered, and for so long takes nothing of the rest of the request, takes no more.
const UNTAKEN_MAX: Duration = Duration::from_secs(1);

/// What was heard on a connection since a request was sent, and told.
#[derive(Debug, Default)]
pub(super) struct Ear {
    bytes_heard: Cell<usize>,
    is_answered: Cell<bool>,
    is_last: Cell<bool>,
    interim: RefCell<Sniffer>,
    /// Who waits for the answer, and passes on what comes before it.
    waker: RefCell<Option<Waker>>,
    /// Writes that the socket took, in all.
    writes: Cell<u64>,
    /// There is something to write, and no room for it.
    is_full: Cell<bool>,
    /// Nothing more can be written.
    is_deaf: Cell<bool>,
    /// Nothing more can be read: the end was.
    is_over: Cell<bool>,
    answer_is_over: Notify,
    /// Until the first byte comes on a fresh connection.
    waiting: RefCell<Option<Waiting>>,
}

impl Ear {
    pub(super) fn listen(&self) {
        self.bytes_heard.set(0);
        self.is_answered.set(false);
        self.interim.borrow_mut().listen();
    }

    pub(super) fn waits(&self, waiting: Waiting) {
        self.waiting.replace(Some(waiting));
    }

    pub(super) fn has_heard(&self) -> bool {
        self.bytes_heard.get() > 0
    }

    pub(super) fn has_answered(&self) {
        self.is_answered.set(true);
    }

    pub(super) fn set_last(&self) {
        self.is_last.set(true);
    }

    pub(super) fn is_last(&self) -> bool {
        self.is_last.get()
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_full.get()
    }

    pub(super) fn is_deaf(&self) -> bool {
        self.is_deaf.get()
    }

    /// What is still to be written gets [`UNTAKEN_MAX`] at a time.
    pub(super) fn answer_is_over(&self) {
        self.set_last();
        self.answer_is_over.notify_one();
    }

    /// Ends when the answer is over and the app does not take the rest.
    pub(super) async fn takes_no_more(&self) {
        self.answer_is_over.notified().await;
        loop {
            let before = self.writes.get();
            tokio::time::sleep(UNTAKEN_MAX).await;
            // Where nothing is to be written, the client is waited for, and its clock runs.
            if self.is_full.get() && self.writes.get() == before {
                return;
            }
        }
    }

    pub(super) fn poll_interim(&self, cx: &Context<'_>) -> Option<Vec<u8>> {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|it| it.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Some(self.interim.borrow_mut().take()).filter(|interim| !interim.is_empty())
    }

    fn hear(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if let Some(waiting) = self.waiting.take() {
            waiting.end();
        }
        self.bytes_heard
            .set(self.bytes_heard.get().saturating_add(bytes.len()));
        if self.interim.borrow_mut().hear(bytes)
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }

    pub(super) fn has_too_much(&self) -> bool {
        !self.is_answered.get() && self.bytes_heard.get() > PREAMBLE_BYTES_MAX
    }

    /// A failure becomes a wait: hyper would give up the answer with it. But not when it has read to the end:
    /// it reads no more then, and nothing would end the wait.
    fn told(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(_)) => {
                self.is_full.set(false);
                self.writes.set(self.writes.get().saturating_add(1));
            }
            Poll::Pending => self.is_full.set(true),
            Poll::Ready(Err(error)) => {
                self.is_full.set(true);
                self.is_deaf.set(true);
                self.set_last();
                if !self.is_over.get() {
                    tracing::debug!(%error, "the app takes no more, reading what it said");
                    return Poll::Pending;
                }
            }
        }
        written
    }
}

/// See the module.
#[derive(Debug)]
pub(in crate::front) struct AppStream {
    /// Borrowed only for the length of a call.
    socket: Rc<RefCell<Socket>>,
    ear: Rc<Ear>,
}

impl AppStream {
    pub(super) fn new(socket: &Rc<RefCell<Socket>>, ear: &Rc<Ear>) -> Self {
        Self {
            socket: Rc::clone(socket),
            ear: Rc::clone(ear),
        }
    }
}

impl AsyncRead for AppStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ear.has_too_much() {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let before = into.filled().len();
        let polled = Pin::new(&mut *self.socket.borrow_mut()).poll_read(cx, into);
        let is_over = polled.is_ready() && into.filled().len() == before;
        self.ear.is_over.set(is_over);
        self.ear
            .hear(into.filled().get(before..).unwrap_or_default());
        polled
    }
}

impl AsyncWrite for AppStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.ear.is_deaf() {
            return Poll::Pending;
        }
        let written = Pin::new(&mut *self.socket.borrow_mut()).poll_write(cx, bytes);
        self.ear.told(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.ear.is_deaf() {
            return Poll::Pending;
        }
        let written = Pin::new(&mut *self.socket.borrow_mut()).poll_write_vectored(cx, slices);
        self.ear.told(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.socket.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.socket.borrow_mut()).poll_shutdown(cx)
    }
}

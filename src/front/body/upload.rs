//! The body of a request on its way to the app.

use super::BodyError;
use crate::front::buffer::Buffer;
use crate::front::progress::{Progress, Upload as UploadState};
use crate::front::trailers;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Sleep;

/// A client that announced its body by `Expect: 100-continue` waits this long for the app's word;
/// then we ask for the body as curl would send it, since many apps never say 100.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// What went wrong with an upload, for the request that waits for the app's answer to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::front) enum UploadFault {
    #[default]
    None,
    TooLarge,
    Broken,
}

/// The app's word on `Expect: 100-continue`, said on hyper's side of the connection.
#[derive(Debug, Default)]
pub(in crate::front) struct Go {
    is_given: AtomicBool,
    given: Notify,
}

impl Go {
    /// The client may send its body.
    pub(in crate::front) fn give(&self) {
        self.is_given.store(true, Ordering::Release);
        self.given.notify_one();
    }
}

struct Gate {
    go: Pin<Box<dyn Future<Output = ()>>>,
}

impl Gate {
    fn new(go: Arc<Go>) -> Self {
        let patience: Sleep = tokio::time::sleep(CONTINUE_WAIT);
        Self {
            go: Box::pin(async move {
                if !go.is_given.load(Ordering::Acquire) {
                    tokio::select! {
                        () = go.given.notified() => {}
                        () = patience => {}
                    }
                }
            }),
        }
    }
}

/// The request body on its way to the app.
pub(in crate::front) enum RequestBody {
    /// There is none; this can be sent again.
    Empty,
    /// Sent once.
    Upload(Box<Upload>),
}

/// See [`RequestBody`].
pub(in crate::front) struct Upload {
    incoming: Incoming,
    progress: Rc<Progress>,
    passing: Rc<Passing>,
    bytes_left: u64,
    gate: Option<Gate>,
    /// What was collected and is not with the app yet.
    collected: Option<Buffer>,
    /// Likewise, behind it.
    trailers: Option<Frame<Bytes>>,
    /// All of it came from the client.
    is_over: bool,
    /// It came before the app was asked: the client may be at its next request by now.
    is_collected: bool,
}

/// What others must know of the body of one request.
#[derive(Debug, Default)]
pub(in crate::front) struct Passing {
    fault: Cell<UploadFault>,
    /// The app does not have all of it.
    is_under_way: Cell<bool>,
}

impl Passing {
    pub(in crate::front) fn fault(&self) -> UploadFault {
        self.fault.get()
    }

    pub(in crate::front) fn is_under_way(&self) -> bool {
        self.is_under_way.get()
    }
}

impl RequestBody {
    /// `go` is there when the client waits for a 100.
    pub(in crate::front) fn new(
        incoming: Incoming,
        progress: &Rc<Progress>,
        passing: &Rc<Passing>,
        bytes_max: u64,
        go: Option<Arc<Go>>,
    ) -> Self {
        if incoming.is_end_stream() {
            return Self::Empty;
        }
        progress.set_upload(UploadState::Open);
        passing.is_under_way.set(true);
        Self::Upload(Box::new(Upload {
            incoming,
            progress: Rc::clone(progress),
            passing: Rc::clone(passing),
            bytes_left: bytes_max,
            gate: go.map(Gate::new),
            collected: None,
            trailers: None,
            is_over: false,
            is_collected: false,
        }))
    }

    /// Takes the body from the client, to its end or until the buffer is full. An error: what the client
    /// sends is no whole body, or too large.
    pub(in crate::front) async fn collect(&mut self, buffer: Buffer) -> Result<(), UploadFault> {
        let Self::Upload(upload) = self else {
            return Ok(());
        };
        // Whoever waits for a 100 gets it from hyper as soon as the body is read.
        upload.gate = None;
        upload.collected = Some(buffer);
        std::future::poll_fn(|cx| upload.poll_collect(cx)).await
    }

    /// Its length, if the app can be told that in place of chunks.
    pub(in crate::front) fn collected_bytes(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Upload(upload) if upload.is_collected && upload.trailers.is_none() => {
                upload.collected.as_ref().map(Buffer::bytes)
            }
            Self::Upload(_) => None,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Upload(upload) => upload.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Upload(upload) => !upload.has_collected() && upload.is_received(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Upload(upload) => upload.size_hint(),
        }
    }
}

impl Upload {
    fn is_received(&self) -> bool {
        self.is_over || self.incoming.is_end_stream()
    }

    fn has_collected(&self) -> bool {
        let is_empty = self.collected.as_ref().is_none_or(Buffer::is_empty);
        !is_empty || self.trailers.is_some()
    }

    fn size_hint(&self) -> SizeHint {
        let collected = self.collected.as_ref().map_or(0, Buffer::bytes);
        let coming = if self.is_received() {
            Some(0)
        } else {
            self.incoming.size_hint().exact()
        };
        match coming {
            Some(coming) => SizeHint::with_exact(coming.saturating_add(collected)),
            None => SizeHint::default(),
        }
    }

    fn poll_collect(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadFault>> {
        while self.collected.as_ref().is_some_and(|it| !it.is_full()) && !self.is_received() {
            let Some(frame) = ready!(self.poll_incoming(cx)) else {
                break;
            };
            match frame.map(Frame::into_data) {
                Ok(Ok(bytes)) => {
                    if let Some(buffer) = &mut self.collected {
                        buffer.put(bytes);
                    }
                }
                Ok(Err(trailers)) => self.trailers = Some(trailers),
                Err(_told) => return Poll::Ready(Err(self.passing.fault.get())),
            }
        }
        if self.is_received() {
            self.is_over = true;
            self.is_collected = true;
            self.progress.set_upload(UploadState::Whole);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(gate) = &mut self.gate {
            ready!(gate.go.as_mut().poll(cx));
            self.gate = None;
        }
        if let Some(frame) = self.take_collected().transpose() {
            self.progress.app_took_some();
            return Poll::Ready(Some(frame));
        }
        if self.is_over {
            return Poll::Ready(None);
        }
        let frame = ready!(self.poll_incoming(cx));
        self.progress.app_took_some();
        Poll::Ready(frame)
    }

    fn take_collected(&mut self) -> Result<Option<Frame<Bytes>>, BodyError> {
        let taken = self.collected.as_mut().map(Buffer::take).transpose();
        let taken = taken.inspect_err(|error| {
            tracing::error!(%error, "a request is lost with the file of the buffers: {error}");
        });
        let taken = taken.map_err(BodyError::File)?.flatten();
        Ok(taken.map(Frame::data).or_else(|| self.trailers.take()))
    }

    fn poll_incoming(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        Poll::Ready(match frame {
            None => {
                self.is_over = true;
                None
            }
            Some(Ok(frame)) => Some(self.weigh(frame)),
            Some(Err(error)) => {
                self.passing.fault.set(UploadFault::Broken);
                Some(Err(BodyError::Client(error)))
            }
        })
    }

    fn weigh(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyError> {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.progress.uploaded(bytes);
        let left = self.bytes_left.checked_sub(bytes);
        let Some(left) = left else {
            self.passing.fault.set(UploadFault::TooLarge);
            return Err(BodyError::TooLarge);
        };
        self.bytes_left = left;
        if frame.is_trailers() {
            self.is_over = true;
        }
        Ok(trailers::settle(frame, trailers::may_end_request))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.passing.is_under_way.set(false);
        if self.is_collected {
            return;
        }
        let state = if self.is_received() {
            UploadState::Whole
        } else {
            UploadState::Abandoned
        };
        self.progress.set_upload(state);
    }
}

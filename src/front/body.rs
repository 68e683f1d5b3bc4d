//! Bodies in both directions.
//!
//! Frames pass as they come: nothing is collected, so backpressure works and event streams are not
//! delayed. A body knows what its end, or its early drop, means to the rest of the front.

use super::exchange::Exchange;
use super::live::Lease;
use super::pool::AppConnection;
use super::progress::{Progress, Upload as UploadState};
use super::trailers;
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

/// A body that ended otherwise than it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the request body is larger than body_bytes_max")]
    TooLarge,
    #[error("the client did not send its whole body")]
    Client(#[source] hyper::Error),
    #[error("the app did not send its whole response")]
    App(#[source] hyper::Error),
    #[error("the drain limit of the generation passed")]
    Cut,
}

/// What went wrong with an upload, for the request that waits for the app's answer to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum UploadFault {
    #[default]
    None,
    TooLarge,
    Broken,
}

/// The app's word on `Expect: 100-continue`, said on hyper's side of the connection.
#[derive(Debug, Default)]
pub(super) struct Go {
    is_given: AtomicBool,
    given: Notify,
}

impl Go {
    /// The client may send its body.
    pub(super) fn give(&self) {
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
pub(super) enum RequestBody {
    /// There is none; this can be sent again.
    Empty,
    /// Sent once.
    Upload(Box<Upload>),
}

/// See [`RequestBody`].
pub(super) struct Upload {
    incoming: Incoming,
    progress: Rc<Progress>,
    fault: Rc<Cell<UploadFault>>,
    bytes_left: u64,
    gate: Option<Gate>,
    is_over: bool,
}

impl RequestBody {
    /// `go` is there when the client waits for a 100.
    pub(super) fn new(
        incoming: Incoming,
        progress: &Rc<Progress>,
        fault: &Rc<Cell<UploadFault>>,
        bytes_max: u64,
        go: Option<Arc<Go>>,
    ) -> Self {
        if incoming.is_end_stream() {
            return Self::Empty;
        }
        progress.set_upload(UploadState::Open);
        Self::Upload(Box::new(Upload {
            incoming,
            progress: Rc::clone(progress),
            fault: Rc::clone(fault),
            bytes_left: bytes_max,
            gate: go.map(Gate::new),
            is_over: false,
        }))
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
            Self::Upload(upload) => upload.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Upload(upload) => upload.incoming.size_hint(),
        }
    }
}

impl Upload {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(gate) = &mut self.gate {
            ready!(gate.go.as_mut().poll(cx));
            self.gate = None;
        }
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        self.progress.app_took_some();
        Poll::Ready(match frame {
            None => {
                self.is_over = true;
                None
            }
            Some(Ok(frame)) => Some(self.weigh(frame)),
            Some(Err(error)) => {
                self.fault.set(UploadFault::Broken);
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
            self.fault.set(UploadFault::TooLarge);
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
        let is_whole = self.is_over || self.incoming.is_end_stream();
        let state = if is_whole {
            UploadState::Whole
        } else {
            UploadState::Abandoned
        };
        self.progress.set_upload(state);
    }
}

/// A body that gapless wrote.
#[derive(Debug)]
pub(super) struct OwnBody(Option<Bytes>);

impl OwnBody {
    /// One line.
    pub(super) fn text(text: &str) -> Self {
        Self(Some(Bytes::from(format!("{text}\n"))))
    }

    pub(super) fn empty() -> Self {
        Self(None)
    }
}

/// The response body on its way to the client. Holds its request's account until it ends.
pub(super) enum ResponseBody {
    /// Written by gapless; the exchange is counted when this is dropped.
    Own(OwnBody, Option<Exchange>),
    /// From the app.
    App(Box<Download>),
}

/// See [`ResponseBody`].
pub(super) struct Download {
    incoming: Incoming,
    /// None once it is back in its pool.
    connection: Option<AppConnection>,
    is_over: bool,
    exchange: Exchange,
    /// Last, so that the exchange is counted when the keeper hears that the lease is gone.
    lease: Lease,
}

impl Download {
    pub(super) fn new(
        incoming: Incoming,
        connection: AppConnection,
        exchange: Exchange,
        lease: Lease,
    ) -> Self {
        Self {
            incoming,
            connection: Some(connection),
            is_over: false,
            exchange,
            lease,
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.lease.is_cut() {
            self.exchange.is_cut();
            return Poll::Ready(Some(Err(BodyError::Cut)));
        }
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        Poll::Ready(match frame {
            None => {
                self.is_over = true;
                None
            }
            Some(Ok(frame)) => {
                self.is_over = frame.is_trailers();
                self.exchange.passed(frame.data_ref().map_or(0, Bytes::len));
                Some(Ok(trailers::settle(frame, trailers::may_end_response)))
            }
            Some(Err(error)) => {
                self.exchange.app_died_mid_response(&error);
                Some(Err(BodyError::App(error)))
            }
        })
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if self.is_over || self.incoming.is_end_stream() {
            self.exchange.is_whole();
            if let Some(connection) = self.connection.take() {
                if self.exchange.is_uploading() || connection.is_full() {
                    connection.is_ahead_of_the_request();
                }
                self.lease.pool().give_back(connection, self.exchange.now());
            }
        } else if self.lease.is_cut() {
            self.exchange.is_cut();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Own(body, exchange) => Poll::Ready(body.0.take().map(|bytes| {
                if let Some(exchange) = exchange {
                    exchange.passed(bytes.len());
                }
                Ok(Frame::data(bytes))
            })),
            Self::App(download) => download.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body, _) => body.0.is_none(),
            Self::App(download) => download.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body, _) => {
                let bytes = body.0.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(bytes).unwrap_or(0))
            }
            Self::App(download) => download.incoming.size_hint(),
        }
    }
}

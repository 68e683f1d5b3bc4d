//! Bodies in both directions.
//!
//! Frames pass as they come: nothing is collected unless it is asked for (`buffer.rs`), so backpressure
//! works and event streams are not delayed. A body knows what its end, or its early drop, means to the rest
//! of the front.

mod upload;

pub(super) use upload::{Go, Passing, RequestBody, UploadFault};

use super::buffer::{Ahead, AheadError, Buffer};
use super::exchange::Exchange;
use super::lane::Lane;
use super::live::Lease;
use super::pool::AppConnection;
use super::trailers;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::time::Instant;

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
    #[error("what was buffered cannot be read")]
    File(#[source] std::io::Error),
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
    source: Source,
    /// The app's body was taken to its end.
    is_over: bool,
    exchange: Exchange,
    /// Last, so that the exchange is counted when the keeper hears that the lease is gone.
    lease: Lease,
}

/// Where the app's body comes from.
enum Source {
    /// From hyper, and then the connection goes back to its pool.
    App(Incoming, Option<AppConnection>),
    /// From what was read ahead of the client; the connection belongs to whoever reads.
    Ahead(Ahead),
}

impl Download {
    pub(super) fn new(
        incoming: Incoming,
        connection: AppConnection,
        exchange: Exchange,
        lease: Lease,
    ) -> Self {
        Self {
            source: Source::App(incoming, Some(connection)),
            is_over: false,
            exchange,
            lease,
        }
    }

    /// The app's body is read to its end, into a buffer, also while the client does not take it.
    pub(super) fn ahead(
        lane: &Rc<Lane>,
        incoming: Incoming,
        connection: AppConnection,
        exchange: Exchange,
        lease: Lease,
    ) -> Self {
        let buffer = Buffer::new(lane.http().buffer_responses, lane.spool());
        let (ahead, reading) = Ahead::new(buffer, incoming);
        let (pool, passing) = (Rc::clone(lease.pool()), Rc::clone(exchange.passing()));
        lane.app_tasks().spawn_local(async move {
            if reading.await {
                if passing.is_under_way() || connection.is_full() {
                    connection.is_ahead_of_the_request();
                }
                pool.give_back(connection, Instant::now());
            }
        });
        Self {
            source: Source::Ahead(ahead),
            is_over: false,
            exchange,
            lease,
        }
    }

    fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AheadError>>> {
        match &mut self.source {
            Source::App(incoming, _) => {
                let frame = ready!(Pin::new(incoming).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(AheadError::App)))
            }
            Source::Ahead(ahead) => ahead.poll_frame(cx),
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
        Poll::Ready(match ready!(self.poll_source(cx)) {
            None => {
                self.is_over = true;
                None
            }
            Some(Ok(frame)) => {
                self.is_over = frame.is_trailers();
                self.exchange.passed(frame.data_ref().map_or(0, Bytes::len));
                Some(Ok(trailers::settle(frame, trailers::may_end_response)))
            }
            Some(Err(AheadError::App(error))) => {
                self.exchange.app_died_mid_response(&error);
                Some(Err(BodyError::App(error)))
            }
            Some(Err(AheadError::File(error))) => {
                tracing::error!(%error, "an answer is lost with the file of the buffers: {error}");
                self.exchange.buffer_is_lost();
                Some(Err(BodyError::File(error)))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::App(incoming, _) => incoming.is_end_stream(),
            Source::Ahead(ahead) => ahead.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::App(incoming, _) => incoming.size_hint(),
            Source::Ahead(ahead) => ahead.size_hint(),
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if self.is_over || self.is_end_stream() {
            self.exchange.is_whole();
            if let Source::App(_, connection) = &mut self.source
                && let Some(connection) = connection.take()
            {
                if self.exchange.passing().is_under_way() || connection.is_full() {
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
            Self::App(download) => download.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body, _) => {
                let bytes = body.0.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(bytes).unwrap_or(0))
            }
            Self::App(download) => download.size_hint(),
        }
    }
}

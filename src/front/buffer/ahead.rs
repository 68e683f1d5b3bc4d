//! An answer that is read from the app while the client still takes what came before it.
//!
//! Nothing is held back: what is here goes out at once, so event streams are not delayed.

use super::Buffer;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The client's end.
#[derive(Debug)]
pub(in crate::front) struct Ahead(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    buffer: Buffer,
    trailers: Option<Frame<Bytes>>,
    /// Of the app's body, when it was read so far.
    end: Option<Result<(), hyper::Error>>,
    /// What is still to come from the app.
    coming: SizeHint,
    reader: Option<Waker>,
    pump: Option<Waker>,
    /// Nobody wants the rest.
    is_given_up: bool,
}

/// An error of the app's body, or of the file in which it was.
#[derive(Debug, thiserror::Error)]
pub(in crate::front) enum AheadError {
    #[error(transparent)]
    App(#[from] hyper::Error),
    #[error(transparent)]
    File(#[from] std::io::Error),
}

impl Ahead {
    /// With what reads the app's body into it; that ends with the body, and says whether it is whole.
    pub(in crate::front) fn new(
        buffer: Buffer,
        incoming: Incoming,
    ) -> (Self, impl Future<Output = bool>) {
        let state = Rc::new(RefCell::new(State {
            buffer,
            trailers: None,
            end: None,
            coming: incoming.size_hint(),
            reader: None,
            pump: None,
            is_given_up: false,
        }));
        (Self(Rc::clone(&state)), pump(state, incoming))
    }

    pub(in crate::front) fn poll_frame(
        &self,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AheadError>>> {
        let state = &mut *self.0.borrow_mut();
        let taken = match state.buffer.take() {
            Ok(taken) => taken,
            Err(error) => return Poll::Ready(Some(Err(error.into()))),
        };
        if let Some(bytes) = taken {
            if !state.buffer.is_full()
                && let Some(pump) = state.pump.take()
            {
                pump.wake();
            }
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        match (state.trailers.take(), state.end.take()) {
            (Some(trailers), end) => {
                state.end = end;
                Poll::Ready(Some(Ok(trailers)))
            }
            (None, Some(Ok(()))) => {
                state.end = Some(Ok(()));
                Poll::Ready(None)
            }
            (None, Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            (None, None) => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// All of it was taken.
    pub(in crate::front) fn is_end_stream(&self) -> bool {
        let state = self.0.borrow();
        let is_over = matches!(state.end, Some(Ok(())));
        is_over && state.buffer.is_empty() && state.trailers.is_none()
    }

    pub(in crate::front) fn size_hint(&self) -> SizeHint {
        let state = self.0.borrow();
        let here = state.buffer.bytes();
        match state.coming.exact() {
            Some(coming) => SizeHint::with_exact(coming.saturating_add(here)),
            None => SizeHint::default(),
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let mut state = self.0.borrow_mut();
        state.is_given_up = true;
        if let Some(pump) = state.pump.take() {
            pump.wake();
        }
    }
}

async fn pump(state: Rc<RefCell<State>>, mut incoming: Incoming) -> bool {
    std::future::poll_fn(|cx| {
        loop {
            let mut now = state.borrow_mut();
            if now.is_given_up {
                return Poll::Ready(false);
            }
            if now.buffer.is_full() {
                now.pump = Some(cx.waker().clone());
                return Poll::Pending;
            }
            drop(now);
            let polled = Pin::new(&mut incoming).poll_frame(cx);
            let mut now = state.borrow_mut();
            let Poll::Ready(frame) = polled else {
                now.pump = Some(cx.waker().clone());
                return Poll::Pending;
            };
            now.coming = incoming.size_hint();
            let is_over = now.takes(frame) || incoming.is_end_stream();
            if is_over && now.end.is_none() {
                now.end = Some(Ok(()));
            }
            if let Some(reader) = now.reader.take() {
                reader.wake();
            }
            if is_over {
                return Poll::Ready(matches!(now.end, Some(Ok(()))));
            }
        }
    })
    .await
}

impl State {
    /// Whether it is the last.
    fn takes(&mut self, frame: Option<Result<Frame<Bytes>, hyper::Error>>) -> bool {
        match frame {
            None => return true,
            Some(Err(error)) => {
                self.end = Some(Err(error));
                return true;
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) => self.buffer.put(bytes),
                Err(trailers) => {
                    self.trailers = Some(trailers);
                    return true;
                }
            },
        }
        false
    }
}

//! A response body as it comes from the server, with what must happen at its end.
//!
//! Nothing is gathered: each frame goes to the guest as it arrives, and while the guest does not read, neither does the
//! connection. At the end the connection goes back to the pool; when the guest stops before the end, dropping the body
//! closes it, because the rest of the response would stand in the way of the next one.

use super::connection::Connection;
use super::error::{self, Error};
use super::pool::{Key, Pool};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep, timeout};

/// How long a request body may go on after the response has ended, before the connection is given up.
const REQUEST_TAIL: Duration = Duration::from_secs(30);

/// A connection lent to one exchange. Dropping it closes the connection; [`Lease::end`] keeps it.
pub(super) struct Lease {
    pub(super) connection: Connection,
    pub(super) pool: Arc<Pool>,
    pub(super) key: Key,
    /// The exchange's places among those that the worker and the process may have in flight.
    pub(super) places: [OwnedSemaphorePermit; 2],
}

impl Lease {
    /// The response has been read to its end: once the request has been sent too, the connection can be used again.
    fn end(self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let Self { mut connection, pool, key, places } = self;
        runtime.spawn(async move {
            if let Ok(Ok(())) = timeout(REQUEST_TAIL, connection.ready()).await {
                connection.settle();
                pool.put(key, connection);
            }
            drop(places);
        });
    }
}

/// The body of a response, as the guest reads it.
pub(super) struct ResponseBody {
    incoming: Incoming,
    lease: Option<Lease>,
    between_bytes: Duration,
    /// Runs only while the guest waits for a frame: a guest that reads slowly is not the server's fault.
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    failed: bool,
}

impl ResponseBody {
    pub(super) fn new(incoming: Incoming, lease: Lease, between_bytes: Duration) -> Self {
        let mut body = Self { incoming, lease: Some(lease), between_bytes, timer: None, waiting: false, failed: false };
        if body.incoming.is_end_stream() {
            body.end();
        }
        body
    }

    fn end(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.end();
        }
    }

    fn fail(&mut self, error: Error) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.failed = true;
        self.lease = None;
        Poll::Ready(Some(Err(error)))
    }

    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let between_bytes = self.between_bytes;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(between_bytes)));
        if !self.waiting {
            self.waiting = true;
            timer.as_mut().reset(Instant::now() + between_bytes);
        }
        timer.as_mut().poll(cx)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        if this.failed {
            return Poll::Ready(None);
        }
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.waiting = false;
                // A reader that knows the length stops here and never asks for the end.
                if this.incoming.is_end_stream() {
                    this.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => this.fail(error::in_body(&error)),
            Poll::Ready(None) => {
                this.end();
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(this.poll_patience(cx));
                this.fail(Error::ConnectionReadTimeout)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.failed || self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

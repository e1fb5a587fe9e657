//! Bodies on their way in and out, with their limits.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::FutureExt as _;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::{Error as HttpError, WasiBody};

use crate::Failure;
use crate::control::RequestContext;

/// Longest time between two pieces of a request's body.
const REQUEST_IDLE: Duration = Duration::from_secs(60);

/// A request's body as the guest reads it: never more than the limit, never slower than the idle timeout.
pub(crate) struct RequestBody<B> {
    inner: B,
    left: u64,
    limit: u64,
    idle: Pin<Box<Sleep>>,
    context: Arc<RequestContext>,
}

impl<B> RequestBody<B> {
    pub(crate) fn new(inner: B, limit: u64, context: Arc<RequestContext>) -> Self {
        Self { inner, left: limit, limit, idle: Box::pin(tokio::time::sleep(REQUEST_IDLE)), context }
    }

    fn fail(&self, failure: Failure, error: HttpError) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        self.context.fail(failure);
        Poll::Ready(Some(Err(error)))
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, |data| data.remaining() as u64);
                if bytes > self.left {
                    let limit = self.limit;
                    let failure = Failure::RequestTooLarge { limit };
                    return self.fail(failure, HttpError::HttpRequestBodySize(Some(limit)));
                }
                self.left -= bytes;
                self.idle.as_mut().reset(Instant::now() + REQUEST_IDLE);
                Poll::Ready(Some(Ok(frame)))
            }
            // The peer broke off or sent nonsense; its details are of no use to the guest.
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(HttpError::ConnectionTerminated))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => match self.idle.poll_unpin(cx) {
                Poll::Ready(()) => self.fail(Failure::RequestStalled, HttpError::ConnectionReadTimeout),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Why a response's body broke off.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// A limit was hit or the host is stopping.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The guest ended without finishing its answer.
    #[error("the worker broke off its answer")]
    BrokenOff,
}

/// A worker's answer. Dropping it before its end ends the request and what it started.
pub struct ResponseBody {
    inner: WasiBody,
    left: u64,
    limit: u64,
    /// What is still to come by the body's own account or the head's.
    announced: Option<u64>,
    /// The answer to HEAD has a body that nobody reads.
    unread: bool,
    /// How it broke off, until that is told.
    broken: Option<BodyError>,
    context: Arc<RequestContext>,
}

impl ResponseBody {
    /// `length` is what the head says of the body's size.
    pub(crate) fn new(
        inner: WasiBody,
        length: Option<u64>,
        limit: u64,
        unread: bool,
        context: Arc<RequestContext>,
    ) -> Self {
        let announced = inner.size_hint().exact().or(length);
        if inner.is_end_stream() {
            context.finish();
        }
        Self { inner, left: limit, limit, announced, unread, broken: None, context }
    }

    /// Tells of the error when asked again. A server that hears of it closes the connection at once, with whatever it has
    /// not yet sent; asked to wait, it sends that first.
    fn break_off(&mut self, cx: &Context<'_>, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.broken = Some(error);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match std::task::ready!(polled) {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                if bytes > self.left {
                    let failure = Failure::ResponseTooLarge { limit: self.limit };
                    self.context.fail(failure.clone());
                    return self.break_off(cx, failure.into());
                }
                self.left -= bytes;
                self.announced = self.announced.map(|announced| announced.saturating_sub(bytes));
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(_)) => {
                let error = self.context.failure().map_or(BodyError::BrokenOff, BodyError::Failed);
                self.break_off(cx, error)
            }
            // A guest that was ended, or ended itself, looks like the end of the body from here.
            None => match self.context.failure() {
                Some(failure) => self.break_off(cx, failure.into()),
                None => {
                    self.context.finish();
                    Poll::Ready(None)
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.broken.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // A server stops reading once it has as much as was announced.
        if self.unread || self.announced == Some(0) || self.inner.is_end_stream() {
            self.context.finish();
        } else if !self.context.is_finished() {
            self.context.fail(Failure::ClientGone);
        }
    }
}

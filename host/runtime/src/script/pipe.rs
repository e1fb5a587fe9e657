//! A body that a script writes piece by piece.
//!
//! Writing never waits, because a waiting import would stop everything else that the script has under way. The writer is
//! told when enough is queued and waits elsewhere; one that goes on regardless is cut off.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::Notify;
use wasmtime_wasi_http::Error as HttpError;

/// Bytes queued from which on the writer should wait.
const HIGH_WATER: usize = 64 << 10;
/// Bytes queued that a writer may not add to. One piece may be larger: the guest's memory has held it.
const LIMIT: usize = 1 << 20;

/// What a piece met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// There is room.
    More,
    /// Wait for [`PipeWriter::drained`].
    Wait,
    /// Nobody reads, or the writer did not wait.
    Closed,
}

#[derive(Default)]
struct Shared {
    state: Mutex<Queue>,
    drained: Notify,
}

#[derive(Default)]
struct Queue {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    /// How the writer ended: whether the body is whole.
    whole: Option<bool>,
    unread: bool,
    reader: Option<Waker>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, whole: bool) {
        let mut queue = self.lock();
        queue.whole.get_or_insert(whole);
        if let Some(reader) = queue.reader.take() {
            reader.wake();
        }
    }
}

/// The writing end. Dropped before its end, it breaks the body off.
pub(crate) struct PipeWriter(Arc<Shared>);

/// The reading end.
pub(crate) struct PipeBody(Arc<Shared>);

/// A body and its writer.
pub(crate) fn pipe() -> (PipeWriter, PipeBody) {
    let shared = Arc::<Shared>::default();
    (PipeWriter(shared.clone()), PipeBody(shared))
}

impl PipeWriter {
    pub(crate) fn write(&self, piece: Bytes) -> Flow {
        let mut queue = self.0.lock();
        if queue.unread || queue.whole.is_some() || queue.bytes > LIMIT {
            return Flow::Closed;
        }
        if piece.is_empty() {
            return Flow::More;
        }
        queue.bytes += piece.len();
        queue.pieces.push_back(piece);
        if let Some(reader) = queue.reader.take() {
            reader.wake();
        }
        if queue.bytes >= HIGH_WATER { Flow::Wait } else { Flow::More }
    }

    pub(crate) fn finish(self) {
        self.0.end(true);
    }

    /// Ready once more may be written, or nobody reads any more.
    pub(crate) fn drained(&self) -> impl Future<Output = ()> + Send + 'static {
        let shared = self.0.clone();
        async move {
            loop {
                let drained = shared.drained.notified();
                {
                    let queue = shared.lock();
                    if queue.bytes < HIGH_WATER || queue.unread || queue.whole.is_some() {
                        return;
                    }
                }
                drained.await;
            }
        }
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        self.0.end(false);
        self.0.drained.notify_waiters();
    }
}

impl Body for PipeBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let mut queue = self.0.lock();
        if let Some(piece) = queue.pieces.pop_front() {
            queue.bytes -= piece.len();
            if queue.bytes < HIGH_WATER {
                self.0.drained.notify_waiters();
            }
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match queue.whole {
            Some(true) => Poll::Ready(None),
            Some(false) => Poll::Ready(Some(Err(HttpError::ConnectionTerminated))),
            None => {
                queue.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let queue = self.0.lock();
        queue.pieces.is_empty() && queue.whole == Some(true)
    }
}

impl Drop for PipeBody {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.unread = true;
        queue.pieces.clear();
        queue.bytes = 0;
        drop(queue);
        self.0.drained.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn pieces_arrive_in_order_and_the_end_is_told() {
        let (writer, mut body) = pipe();
        assert_eq!(writer.write(Bytes::from_static(b"a")), Flow::More);
        assert_eq!(writer.write(Bytes::from_static(b"b")), Flow::More);
        writer.finish();
        for piece in [b"a", b"b"] {
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), &piece[..]);
        }
        assert!(body.is_end_stream() && body.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_writer_that_ends_early_breaks_the_body_off() {
        let (writer, mut body) = pipe();
        drop(writer);
        assert!(body.frame().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_full_queue_asks_to_wait_and_then_refuses() {
        let (writer, mut body) = pipe();
        let piece = Bytes::from(vec![0; HIGH_WATER]);
        assert_eq!(writer.write(piece.clone()), Flow::Wait);
        assert!(writer.drained().now_or_never().is_none());
        while writer.write(piece.clone()) != Flow::Closed {}
        let mut read = 0;
        while let Some(Some(frame)) = body.frame().now_or_never() {
            read += frame.unwrap().into_data().unwrap().len();
        }
        assert!((LIMIT..=LIMIT + HIGH_WATER).contains(&read), "{read}");
        assert!(writer.drained().now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_reader_that_leaves_wakes_and_closes_the_writer() {
        let (writer, body) = pipe();
        writer.write(Bytes::from(vec![0; HIGH_WATER]));
        let waiting = writer.drained();
        drop(body);
        waiting.await;
        assert_eq!(writer.write(Bytes::from_static(b"x")), Flow::Closed);
    }
}

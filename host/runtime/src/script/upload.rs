//! The body of a request that a script sends.
//!
//! The engine takes a body that nobody reads to its end for a fault of its own and gives up altogether, the script's other
//! work included. But whoever answers a request may well answer before, or refuse it: a limit, an address that is denied, a
//! peer that says no. What is left of the body is then read here and thrown away.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use wasmtime_wasi_http::{Error as HttpError, WasiBody};

/// A body that is read to its end, whatever becomes of its reader.
struct Upload(WasiBody);

/// Makes sure that `body` is read.
pub(crate) fn read_to_the_end(body: WasiBody) -> WasiBody {
    if body.is_end_stream() { body } else { Upload(body).boxed_unsync() }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.0.is_end_stream() {
            return;
        }
        let nothing = http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
        let mut rest = std::mem::replace(&mut self.0, nothing);
        // It ends with the instance at the latest, which is its other end.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { while let Some(Ok(_)) = rest.frame().await {} });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pipe::{Flow, pipe};
    use super::*;

    #[tokio::test]
    async fn what_nobody_reads_is_read_all_the_same() {
        let (writer, body) = pipe();
        drop(read_to_the_end(body.boxed_unsync()));
        for _ in 0..200 {
            assert_ne!(writer.write(Bytes::from(vec![0; 64 << 10])), Flow::Closed);
            writer.drained().await;
        }
        writer.finish();
    }

    #[tokio::test]
    async fn a_reader_gets_what_was_sent() {
        let (writer, body) = pipe();
        writer.write(Bytes::from_static(b"all of it"));
        writer.finish();
        let read = read_to_the_end(body.boxed_unsync()).collect().await.unwrap().to_bytes();
        assert_eq!(read, "all of it");
    }
}

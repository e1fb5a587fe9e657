//! Bodies: nothing, bytes in memory, or bytes still to come.
//!
//! A body that arrives from the host stays a handle until somebody reads it. A worker that only passes it on (an AI
//! stream into a response, an upload into a sub-request) never sees the bytes: the host moves them on its side.

use crate::{Error, Result, sys};
use futures_util::stream::{LocalBoxStream, Stream, StreamExt};
use std::pin::Pin;
use std::task::{Context, Poll};

/// A body that is read piece by piece.
///
/// As a [`Stream`] it gives the pieces in the order they come; a piece is never empty. Handed to
/// [`Response::stream`](crate::Response::stream) unread, the bytes never pass through the worker.
///
/// ```no_run
/// use futures_util::StreamExt;
/// use host_sdk::*;
///
/// async fn size(mut req: Request) -> Result<usize> {
///     let mut body = req.stream()?;
///     let mut total = 0;
///     while let Some(piece) = body.next().await {
///         total += piece?.len();
///     }
///     Ok(total)
/// }
/// ```
pub struct ByteStream {
    source: Source,
}

enum Source {
    Host(sys::HostStream),
    Guest(LocalBoxStream<'static, Result<Vec<u8>>>),
}

/// What a body is made of when it leaves the worker.
pub(crate) enum Outgoing {
    Empty,
    Bytes(Vec<u8>),
    Host(sys::HostStream),
    Guest(LocalBoxStream<'static, Result<Vec<u8>>>),
}

impl ByteStream {
    /// A stream whose pieces the worker makes itself.
    ///
    /// ```
    /// use futures_util::stream;
    /// use host_sdk::ByteStream;
    ///
    /// let countdown = ByteStream::new(stream::iter(["3\n", "2\n", "1\n"]).map(Ok::<_, host_sdk::Error>));
    /// # use futures_util::StreamExt;
    /// # drop(countdown);
    /// ```
    pub fn new<S, B, E>(stream: S) -> Self
    where
        S: Stream<Item = Result<B, E>> + 'static,
        B: Into<Vec<u8>>,
        E: Into<Error>,
    {
        let pieces = stream.map(|piece| piece.map(Into::into).map_err(Into::into));
        Self { source: Source::Guest(pieces.boxed_local()) }
    }

    pub(crate) fn from_host(stream: sys::HostStream) -> Self {
        Self { source: Source::Host(stream) }
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// When the stream breaks off.
    ///
    /// ```no_run
    /// # async fn example(mut req: host_sdk::Request) -> host_sdk::Result<()> {
    /// let upload: Vec<u8> = req.stream()?.collect_bytes().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn collect_bytes(mut self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(piece) = self.next().await {
            let piece = piece?;
            if all.is_empty() {
                all = piece;
            } else {
                all.extend_from_slice(&piece);
            }
        }
        Ok(all)
    }
}

impl std::fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let source = match self.source {
            Source::Host(_) => "host",
            Source::Guest(_) => "guest",
        };
        f.debug_struct("ByteStream").field("source", &source).finish()
    }
}

impl Stream for ByteStream {
    type Item = Result<Vec<u8>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let piece = match &mut self.source {
                Source::Host(stream) => stream.poll_read(cx),
                Source::Guest(stream) => stream.poll_next_unpin(cx),
            };
            match piece {
                Poll::Ready(Some(Ok(piece))) if piece.is_empty() => {}
                other => return other,
            }
        }
    }
}

/// The body of a request or a response, read at most once.
#[derive(Debug, Default)]
pub(crate) enum Body {
    #[default]
    Empty,
    Bytes(Vec<u8>),
    Stream(ByteStream),
    Taken,
}

impl Body {
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Self {
        if bytes.is_empty() { Body::Empty } else { Body::Bytes(bytes) }
    }

    pub(crate) fn take(&mut self) -> Result<Body> {
        match std::mem::replace(self, Body::Taken) {
            Body::Taken => Err(Error::Body("it was read before".into())),
            body => Ok(body),
        }
    }

    pub(crate) async fn into_bytes(self) -> Result<Vec<u8>> {
        match self {
            Body::Empty => Ok(Vec::new()),
            Body::Bytes(bytes) => Ok(bytes),
            Body::Stream(stream) => stream.collect_bytes().await,
            Body::Taken => Err(Error::Body("it was read before".into())),
        }
    }

    pub(crate) async fn into_text(self) -> Result<String> {
        let bytes = self.into_bytes().await?;
        String::from_utf8(bytes).map_err(|error| Error::Body(format!("not UTF-8: {}", error.utf8_error())))
    }

    pub(crate) fn into_stream(self) -> ByteStream {
        let bytes = match self {
            Body::Stream(stream) => return stream,
            Body::Bytes(bytes) => Some(Ok::<_, Error>(bytes)),
            Body::Empty | Body::Taken => None,
        };
        ByteStream::new(futures_util::stream::iter(bytes))
    }

    pub(crate) fn into_outgoing(self) -> Outgoing {
        match self {
            Body::Empty | Body::Taken => Outgoing::Empty,
            Body::Bytes(bytes) => Outgoing::Bytes(bytes),
            Body::Stream(ByteStream { source: Source::Host(stream) }) => Outgoing::Host(stream),
            Body::Stream(ByteStream { source: Source::Guest(stream) }) => Outgoing::Guest(stream),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::now;
    use futures_util::stream;

    #[test]
    fn a_body_is_read_once() {
        let mut body = Body::from_bytes(b"abc".to_vec());
        assert_eq!(now(body.take().unwrap().into_text()).unwrap(), "abc");
        assert!(body.take().is_err());
    }

    #[test]
    fn empty_pieces_are_skipped_and_an_error_ends_the_collection() {
        let pieces: [Result<&str>; 3] = [Ok("a"), Ok(""), Ok("b")];
        let stream = ByteStream::new(stream::iter(pieces));
        assert_eq!(now(stream.collect_bytes()).unwrap(), b"ab");
        let broken = ByteStream::new(stream::iter([Ok("a"), Err(Error::from("gone"))]));
        assert_eq!(now(broken.collect_bytes()).unwrap_err().to_string(), "gone");
    }

    #[test]
    fn text_that_is_not_utf_8_is_an_error() {
        assert!(now(Body::from_bytes(vec![0xff]).into_text()).is_err());
    }
}

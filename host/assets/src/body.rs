//! A response's body: a file, or a part of it, read a piece at a time.
//!
//! The next piece is read when it is asked for, so that a slow peer costs one piece of memory however large the file.
//! Reading happens on blocking threads, since a disk may take its time.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::task::JoinHandle;

/// How many bytes of a file are read at a time.
pub const PIECE_BYTES: usize = 64 << 10;

/// The body of a response of [`Assets`](crate::Assets).
pub struct Body {
    state: State,
    /// Bytes that have not been given yet.
    remaining: u64,
}

enum State {
    Done,
    Ready(Bytes, File),
    Idle(File),
    Reading(JoinHandle<(File, io::Result<Bytes>)>),
}

impl Body {
    /// Nothing.
    pub(crate) fn empty() -> Self {
        Body { state: State::Done, remaining: 0 }
    }

    /// `length` bytes of a file from `start`. The first piece is read at once: call this on a blocking thread.
    pub(crate) fn read(mut file: File, start: u64, length: u64) -> io::Result<Self> {
        if length == 0 {
            return Ok(Body::empty());
        }
        file.seek(SeekFrom::Start(start))?;
        let first = piece(&mut file, length)?;
        Ok(Body { state: State::Ready(first, file), remaining: length })
    }
}

/// The next bytes, at most `remaining`; an error if the file has become shorter than was promised.
fn piece(file: &mut File, remaining: u64) -> io::Result<Bytes> {
    let length = remaining.min(PIECE_BYTES as u64);
    let mut bytes = Vec::with_capacity(PIECE_BYTES.min(usize::try_from(length).unwrap_or(PIECE_BYTES)));
    file.take(length).read_to_end(&mut bytes)?;
    if (bytes.len() as u64) < length {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file was cut off while it was being sent"));
    }
    Ok(bytes.into())
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        loop {
            match std::mem::replace(&mut this.state, State::Done) {
                State::Done => return Poll::Ready(None),
                State::Ready(bytes, file) => {
                    this.remaining = this.remaining.saturating_sub(bytes.len() as u64);
                    if this.remaining > 0 {
                        this.state = State::Idle(file);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                State::Idle(mut file) => {
                    let remaining = this.remaining;
                    let read = move || {
                        let read = piece(&mut file, remaining);
                        (file, read)
                    };
                    this.state = State::Reading(tokio::task::spawn_blocking(read));
                }
                State::Reading(mut task) => {
                    let Poll::Ready(done) = Pin::new(&mut task).poll(context) else {
                        this.state = State::Reading(task);
                        return Poll::Pending;
                    };
                    match done {
                        Ok((file, Ok(bytes))) => this.state = State::Ready(bytes, file),
                        Ok((_, Err(error))) => return Poll::Ready(Some(Err(error))),
                        Err(error) => return Poll::Ready(Some(Err(io::Error::other(error)))),
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Done)
    }

    fn size_hint(&self) -> SizeHint {
        match self.state {
            State::Done => SizeHint::with_exact(0),
            _ => SizeHint::with_exact(self.remaining),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("remaining", &self.remaining).finish_non_exhaustive()
    }
}

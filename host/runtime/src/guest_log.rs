//! A guest's standard output and error as log lines that name the worker and the request.
//!
//! Lines are cut at a fixed length and a request's output at its limit, so that neither memory nor the log grows with
//! what a guest writes. Writing never blocks the guest and never fails.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::control::Slot;

const LINE_BYTES: usize = 8 << 10;

/// Which of the two standard streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    Stdout,
    Stderr,
}

/// One standard stream of one instance.
#[derive(Clone)]
pub(crate) struct GuestLog(Arc<Inner>);

struct Inner {
    channel: Channel,
    worker: Arc<str>,
    slot: Arc<Slot>,
    limit: u64,
    line: Mutex<Vec<u8>>,
}

impl GuestLog {
    pub(crate) fn new(channel: Channel, worker: Arc<str>, slot: Arc<Slot>, limit: u64) -> Self {
        Self(Arc::new(Inner { channel, worker, slot, limit, line: Mutex::default() }))
    }

    fn accept(&self, bytes: &[u8]) {
        let request = self.0.slot.get();
        let mut taken = bytes;
        if let Some(request) = &request {
            let before = request.charge_log(bytes.len() as u64);
            let room = self.0.limit.saturating_sub(before);
            if room < bytes.len() as u64 {
                taken = &bytes[..room as usize];
            }
            if before <= self.0.limit && before + bytes.len() as u64 > self.0.limit {
                tracing::warn!(
                    worker = &*self.0.worker,
                    request = request.id(),
                    "log limit of {} bytes a request reached; the rest is dropped (limits.log_kb)",
                    self.0.limit
                );
            }
        }
        let mut line = self.0.line.lock().unwrap_or_else(PoisonError::into_inner);
        for part in taken.split_inclusive(|byte| *byte == b'\n') {
            let mut part = part;
            while line.len() + part.len() > LINE_BYTES {
                let (head, tail) = part.split_at(LINE_BYTES - line.len());
                line.extend_from_slice(head);
                self.0.emit(&mut line);
                part = tail;
            }
            line.extend_from_slice(part);
            if line.last() == Some(&b'\n') {
                line.pop();
                self.0.emit(&mut line);
            }
        }
    }
}

impl Inner {
    fn emit(&self, line: &mut Vec<u8>) {
        let text = String::from_utf8_lossy(line);
        // Control characters of a guest must not reach the operator's terminal.
        let text: String = text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
        let request = self.slot.get();
        let request = request.as_deref().map_or("-", |request| request.id());
        match self.channel {
            Channel::Stdout => tracing::info!(target: "guest", worker = &*self.worker, request, "{text}"),
            Channel::Stderr => tracing::warn!(target: "guest", worker = &*self.worker, request, "{text}"),
        }
        line.clear();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut line = std::mem::take(self.line.get_mut().unwrap_or_else(PoisonError::into_inner));
        if !line.is_empty() {
            self.emit(&mut line);
        }
    }
}

impl IsTerminal for GuestLog {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestLog {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for GuestLog {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.accept(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for GuestLog {
    async fn ready(&mut self) {}
}

impl OutputStream for GuestLog {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.accept(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

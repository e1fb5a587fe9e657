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

impl Channel {
    fn level(self) -> Level {
        match self {
            Self::Stdout => Level::Info,
            Self::Stderr => Level::Warn,
        }
    }
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Debug,
    Info,
    Warn,
    Error,
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

    /// What of `bytes` the request may still write.
    fn charge<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let Some(request) = self.0.slot.get() else { return bytes };
        let length = bytes.len() as u64;
        let before = request.charge_log(length);
        if before <= self.0.limit && before + length > self.0.limit {
            tracing::warn!(
                worker = &*self.0.worker,
                request = request.id(),
                "log limit of {} bytes a request reached; the rest is dropped (limits.log_kb)",
                self.0.limit
            );
        }
        let room = self.0.limit.saturating_sub(before);
        if room < length { &bytes[..room as usize] } else { bytes }
    }

    /// Writes a text of its own level, whole lines of it.
    pub(crate) fn say(&self, level: Level, text: &str) {
        for line in self.charge(text.as_bytes()).split(|byte| *byte == b'\n') {
            for part in line.chunks(LINE_BYTES) {
                self.0.emit(level, part);
            }
        }
    }

    fn accept(&self, bytes: &[u8]) {
        let taken = self.charge(bytes);
        let level = self.0.channel.level();
        let mut line = self.0.line.lock().unwrap_or_else(PoisonError::into_inner);
        for part in taken.split_inclusive(|byte| *byte == b'\n') {
            let mut part = part;
            while line.len() + part.len() > LINE_BYTES {
                let (head, tail) = part.split_at(LINE_BYTES - line.len());
                line.extend_from_slice(head);
                self.0.emit(level, &line);
                line.clear();
                part = tail;
            }
            line.extend_from_slice(part);
            if line.last() == Some(&b'\n') {
                line.pop();
                self.0.emit(level, &line);
                line.clear();
            }
        }
    }
}

impl Inner {
    fn emit(&self, level: Level, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        // Control characters of a guest must not reach the operator's terminal.
        let text: String = text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
        let request = self.slot.get();
        let request = request.as_deref().map_or("-", |request| request.id());
        let worker = &*self.worker;
        match level {
            Level::Debug => tracing::debug!(target: "guest", worker, request, "{text}"),
            Level::Info => tracing::info!(target: "guest", worker, request, "{text}"),
            Level::Warn => tracing::warn!(target: "guest", worker, request, "{text}"),
            Level::Error => tracing::error!(target: "guest", worker, request, "{text}"),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let line = std::mem::take(self.line.get_mut().unwrap_or_else(PoisonError::into_inner));
        if !line.is_empty() {
            self.emit(self.channel.level(), &line);
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

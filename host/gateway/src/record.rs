//! What is done with an answer once it has ended: it is logged and, if it may be, kept.
//!
//! An answer that streams is logged before it begins, passes through unchanged and is gathered on its way; one whose reader
//! leaves is logged as such and never kept.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use serde_json::Value;

use crate::cache::{Kept, Key, MAX_KEPT, Meaning};
use crate::logs::{HEAD, Log, head};
use crate::usage::{Counter, Tokens};
use crate::{GatewaySettings, Inner};

/// The status of an answer whose reader left, as web servers log it.
const CLIENT_CLOSED: u16 = 499;

/// What is known of a step before its answer has ended.
pub(crate) struct Record {
    pub(crate) inner: Arc<Inner>,
    pub(crate) settings: Arc<GatewaySettings>,
    pub(crate) began: Instant,
    /// The row of the log; none where the call is not logged.
    pub(crate) log: Option<Log>,
    pub(crate) custom_cost: Option<Value>,
    /// Where the answer is kept; none where it is not.
    pub(crate) keep: Option<Keep>,
}

pub(crate) struct Keep {
    pub(crate) key: Key,
    pub(crate) meaning: Option<Meaning>,
    pub(crate) ttl: Duration,
}

/// How an answer ended.
pub(crate) struct Ended {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) success: bool,
    pub(crate) cached: bool,
    pub(crate) tokens: Tokens,
    /// The body's length, whatever is there of it.
    pub(crate) size: usize,
    /// The whole body, or its beginning.
    pub(crate) body: Bytes,
}

impl Record {
    /// Logs an answer that begins to stream: the id of its row, if it has one. What cannot be logged now is not logged
    /// later either, because nobody could ask for it.
    pub(crate) async fn begin(&mut self, status: u16, content_type: &str) -> Option<String> {
        let log = self.log.as_mut()?;
        log.status_code = status;
        log.ended = false;
        content_type.clone_into(&mut log.response_content_type);
        log.custom_cost = self.custom_cost.is_some();
        let id = log.id.clone();
        match self.inner.logs.add(log.clone()).await {
            Ok(()) => Some(id),
            Err(error) => {
                tracing::warn!(%error, "a call is not logged");
                self.log = None;
                None
            }
        }
    }

    /// Logs a whole answer and keeps it: the id of its row. What the store cannot do is told in the host's log, and the
    /// answer is given anyway, without an id.
    pub(crate) async fn end(self, ended: Ended) -> Option<String> {
        let Self { inner, settings, began, log, custom_cost, keep } = self;
        if let Some(keep) = keep.filter(|_| ended.success && !ended.cached && ended.size == ended.body.len()) {
            let kept = Kept {
                status: ended.status,
                content_type: ended.content_type.clone(),
                tokens: ended.tokens,
                body: ended.body.clone(),
            };
            let key = keep.key;
            let Keep { meaning, ttl, .. } = keep;
            let most = settings.cache_bytes;
            if let Err(error) = inner.cache.keep(settings.id.clone(), key, meaning, ttl, most, kept).await {
                tracing::warn!(%error, "an answer is not kept");
            }
        }
        let mut log = log?;
        log.status_code = ended.status;
        log.ended = true;
        log.success = ended.success;
        log.cached = ended.cached;
        log.duration = i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX);
        log.tokens_in = ended.tokens.input;
        log.tokens_out = ended.tokens.output;
        log.custom_cost = custom_cost.is_some();
        // What comes from the cache costs nothing.
        let cost = ended.tokens.cost(settings.prices.get(&log.model), custom_cost.as_ref());
        log.cost = if ended.cached { cost.map(|_| 0.0) } else { cost };
        log.response_size = i64::try_from(ended.size).unwrap_or(i64::MAX);
        log.response_content_type = ended.content_type;
        let told = settings.log_bodies && is_text(&log.response_content_type);
        log.response_head = told.then(|| head(&ended.body, &settings.redact));
        let id = log.id.clone();
        match inner.logs.add(log).await {
            Ok(()) => Some(id),
            Err(error) => {
                tracing::warn!(%error, "a call is not logged");
                None
            }
        }
    }
}

/// Whether a body of this type says something to whoever reads a log. Of pictures and sound their type and size do.
fn is_text(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type.starts_with("text/") || media_type.ends_with("json") || media_type.ends_with("xml")
}

/// A body that streams by. What it was is recorded when it has ended, or is dropped.
pub(crate) fn pass(
    record: Record,
    status: u16,
    content_type: String,
    body: BoxStream<'static, Result<Bytes, String>>,
) -> BoxStream<'static, Result<Bytes, String>> {
    let tap = Tap {
        record: Some(record),
        status,
        content_type,
        counter: Counter::default(),
        gathered: BytesMut::new(),
        size: 0,
        last: [0; 16],
    };
    stream::unfold(Some((body, tap)), |state| async move {
        let (mut body, mut tap) = state?;
        match body.next().await {
            Some(Ok(piece)) => {
                tap.take(&piece);
                Some((Ok(piece), Some((body, tap))))
            }
            Some(Err(error)) => {
                tap.end(false, 502).await;
                Some((Err(error), None))
            }
            None => {
                let (success, status) = (tap.is_whole(), tap.status);
                tap.end(success, status).await;
                None
            }
        }
    })
    .boxed()
}

struct Tap {
    record: Option<Record>,
    status: u16,
    content_type: String,
    counter: Counter,
    gathered: BytesMut,
    size: usize,
    /// The last bytes, by which the end of an event stream is known.
    last: [u8; 16],
}

impl Tap {
    fn take(&mut self, piece: &[u8]) {
        self.size += piece.len();
        self.counter.push(piece);
        let keeps = self.record.as_ref().is_some_and(|record| record.keep.is_some());
        let most = if keeps { MAX_KEPT } else { HEAD };
        let room = most.saturating_sub(self.gathered.len());
        self.gathered.extend_from_slice(&piece[..piece.len().min(room)]);
        let shown = &piece[piece.len().saturating_sub(self.last.len())..];
        self.last.rotate_left(shown.len());
        let at = self.last.len() - shown.len();
        self.last[at..].copy_from_slice(shown);
    }

    /// Whether an event stream has said that it is over: `[DONE]`, or the last event of Anthropic's. Of other bodies their
    /// end is enough.
    fn is_whole(&self) -> bool {
        if !self.content_type.starts_with("text/event-stream") || !(200..300).contains(&self.status) {
            return (200..300).contains(&self.status);
        }
        let last: Vec<u8> = self.last.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        last.ends_with(b"[DONE]") || last.ends_with(b"message_stop\"}")
    }

    async fn end(&mut self, success: bool, status: u16) {
        if let Some(record) = self.record.take() {
            let _ = record.end(self.ended(success, status)).await;
        }
    }

    fn ended(&mut self, success: bool, status: u16) -> Ended {
        Ended {
            status,
            content_type: std::mem::take(&mut self.content_type),
            success,
            cached: false,
            tokens: self.counter.tokens,
            size: self.size,
            body: std::mem::take(&mut self.gathered).freeze(),
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let Some(record) = self.record.take() else { return };
        let ended = self.ended(false, CLIENT_CLOSED);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { drop(record.end(ended).await) });
        }
    }
}

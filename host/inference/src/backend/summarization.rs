//! What a summarizer offers.

use std::time::Instant;

use futures::future::BoxFuture;

use crate::{AiError, Tenant};

/// Summarizes texts.
pub trait Summarization: Send + Sync + 'static {
    /// Queues one summary. Must not block: it is called on an async worker.
    fn summarize(&self, request: SummaryRequest) -> BoxFuture<'_, Result<String, AiError>>;
}

/// One summary.
#[derive(Debug, Clone)]
pub struct SummaryRequest {
    /// On whose behalf.
    pub tenant: Tenant,
    /// What to summarize.
    pub text: String,
    /// The most tokens of the summary.
    pub max_length: usize,
    /// When the summary is of no use any more: it then fails with 3007, waiting or running.
    pub deadline: Option<Instant>,
}

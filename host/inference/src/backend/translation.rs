//! What a translator offers.

use std::time::Instant;

use futures::future::BoxFuture;

use crate::{AiError, Tenant};

/// Translates texts.
pub trait Translation: Send + Sync + 'static {
    /// Queues one translation. Must not block: it is called on an async worker. An error of an unknown language names the
    /// property: `/source_lang` or `/target_lang`.
    fn translate(&self, request: TranslationRequest) -> BoxFuture<'_, Result<String, AiError>>;
}

/// One translation.
#[derive(Debug, Clone)]
pub struct TranslationRequest {
    /// On whose behalf.
    pub tenant: Tenant,
    /// What to translate.
    pub text: String,
    /// The text's language, by a code or its English name; where none is given, English, or what the model reads.
    pub source: Option<String>,
    /// The translation's language, by a code or its English name.
    pub target: String,
    /// When the translation is of no use any more: it then fails with 3007, waiting or running.
    pub deadline: Option<Instant>,
}

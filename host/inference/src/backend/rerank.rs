//! How well texts answer a query.

use futures::future::BoxFuture;

use crate::{AiError, Tenant};

/// Scores pairs of a query and a text.
pub trait Rerank: Send + Sync + 'static {
    /// For each text, in order, how well it answers the query: 0 to 1.
    fn rerank(&self, tenant: Tenant, query: String, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<f32>, AiError>>;
}

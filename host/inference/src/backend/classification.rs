//! What a text is, and what the words in it are.

use futures::future::BoxFuture;

use crate::{AiError, Tenant};

/// Tells what texts are.
pub trait TextClassification: Send + Sync + 'static {
    /// For each text, in order, all of the model's labels in its own order.
    fn classify(&self, tenant: Tenant, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Vec<Label>>, AiError>>;
}

/// A label and how likely it is.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Label {
    /// The label.
    pub label: String,
    /// Its probability.
    pub score: f32,
}

/// Tells what the words of texts are: names of people, of places, …
pub trait TokenClassification: Send + Sync + 'static {
    /// For each text, in order, the spans that are something, first to last.
    fn entities(&self, tenant: Tenant, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Vec<Entity>>, AiError>>;
}

/// A span of a text that is something.
#[derive(Debug, Clone, PartialEq)]
pub struct Entity {
    /// What it is.
    pub label: String,
    /// The mean probability of its tokens' labels.
    pub score: f32,
    /// The span's tokens as a text.
    pub word: String,
    /// Its first character, counted in Unicode code points.
    pub start: usize,
    /// The character behind its last.
    pub end: usize,
}

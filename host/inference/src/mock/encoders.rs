//! Scripted stand-ins for the tasks of encoders that give scores.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;

use super::{Script, ScriptError, split_words, unit_vector};
use crate::backend::{Entity, Label, Rerank, TextClassification, TokenClassification};
use crate::{AiError, Tenant};

/// Scores a text by the share of the query's words that are in it.
#[derive(Debug, Clone)]
pub struct MockRerank {
    script: Arc<Script>,
}

impl MockRerank {
    /// A model that follows `script`.
    ///
    /// # Errors
    /// When the script has unknown keys or values of the wrong kind.
    pub fn new(script: &Value) -> Result<Self, ScriptError> {
        Ok(Self { script: Arc::new(Script::read(script)?) })
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

impl Rerank for MockRerank {
    fn rerank(&self, _tenant: Tenant, query: String, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<f32>, AiError>> {
        async move {
            self.script.pause_or_fail().await?;
            let query = words(&query);
            let score = |text: &String| {
                let text = words(text);
                let found = query.iter().filter(|word| text.contains(word)).count();
                found as f32 / query.len().max(1) as f32
            };
            Ok(texts.iter().map(score).collect())
        }
        .boxed()
    }
}

/// Classifies by rule: a text's probabilities come from a hash of it, and words with a capital letter are entities of
/// the script's labels in turn.
#[derive(Debug, Clone)]
pub struct MockClassification {
    script: Arc<Script>,
}

impl MockClassification {
    /// A model that follows `script`.
    ///
    /// # Errors
    /// When the script has unknown keys or values of the wrong kind.
    pub fn new(script: &Value) -> Result<Self, ScriptError> {
        Ok(Self { script: Arc::new(Script::read(script)?) })
    }

    /// The script's labels, or these.
    fn labels(&self, usual: &[&str]) -> Vec<String> {
        if self.script.labels.is_empty() {
            usual.iter().map(|label| (*label).to_owned()).collect()
        } else {
            self.script.labels.clone()
        }
    }
}

impl TextClassification for MockClassification {
    fn classify(&self, _tenant: Tenant, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Vec<Label>>, AiError>> {
        async move {
            self.script.pause_or_fail().await?;
            let labels = self.labels(&["NEGATIVE", "POSITIVE"]);
            let classify = |text: &String| {
                // Squares of a vector of length 1 are probabilities.
                let scores = unit_vector(text, labels.len()).into_iter().map(|value| value * value);
                labels.iter().cloned().zip(scores).map(|(label, score)| Label { label, score }).collect()
            };
            Ok(texts.iter().map(classify).collect())
        }
        .boxed()
    }
}

impl TokenClassification for MockClassification {
    fn entities(&self, _tenant: Tenant, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Vec<Entity>>, AiError>> {
        async move {
            self.script.pause_or_fail().await?;
            let labels = self.labels(&["MISC"]);
            Ok(texts.iter().map(|text| capitalized(text, &labels)).collect())
        }
        .boxed()
    }
}

fn capitalized(text: &str, labels: &[String]) -> Vec<Entity> {
    let (mut entities, mut at) = (Vec::new(), 0);
    for piece in split_words(text) {
        let end = at + piece.chars().count();
        let word = piece.trim_start();
        if word.starts_with(char::is_uppercase) {
            let start = end - word.chars().count();
            let label = labels[entities.len() % labels.len()].clone();
            entities.push(Entity { label, score: 1.0, word: word.trim_end().to_owned(), start, end });
        }
        at = end;
    }
    entities
}

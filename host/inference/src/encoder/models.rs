//! What an encoder is used for, one type per task.

use std::path::Path;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::head::Scored;
use super::labels::sigmoid;
use super::queue::{Input, Outputs, Wanted};
use super::{Pool, Settings, entities, pooling};
use crate::backend::{
    Embeddings, Entity, Label, Pooling, Rerank, TextClassification, TextEmbeddings, TokenClassification,
};
use crate::room::Room;
use crate::{AiError, Tenant};

/// An encoder that makes vectors.
pub struct Encoder {
    pool: Pool,
    pooling: Pooling,
}

impl Encoder {
    /// Reads `config.json`, `tokenizer.json` and `model.safetensors` of `folder`, and what sentence-transformers puts
    /// beside them, and starts the threads. Blocks.
    ///
    /// # Errors
    /// What is wrong with which file, in words.
    pub fn load(folder: &Path, settings: Settings) -> Result<Encoder, String> {
        Self::open(folder, settings, Room::default())
    }

    /// As [`Self::load`], with memory out of `room` for each turn.
    pub(crate) fn open(folder: &Path, settings: Settings, room: Room) -> Result<Encoder, String> {
        let asked = pooling::of_checkpoint(folder).map_err(|why| format!("{}: {why}", folder.display()))?;
        let pooling = settings.pooling.or(asked).unwrap_or(Pooling::Mean);
        Ok(Encoder { pool: Pool::load(folder, &settings, None, room)?, pooling })
    }
}

impl TextEmbeddings for Encoder {
    fn embed(
        &self,
        tenant: Tenant,
        texts: Vec<String>,
        pooling: Pooling,
    ) -> BoxFuture<'_, Result<Embeddings, AiError>> {
        let inputs = texts.into_iter().map(Input::Text).collect();
        let outputs = self.pool.run(tenant, inputs, Wanted::Vector(pooling));
        async move {
            let Outputs { outputs, tokens } = outputs.await?;
            Ok(Embeddings { vectors: outputs.into_iter().map(|output| output.values).collect(), tokens })
        }
        .boxed()
    }

    fn dimensions(&self) -> usize {
        self.pool.model.network.description.hidden
    }

    fn default_pooling(&self) -> Pooling {
        self.pooling
    }
}

/// A cross-encoder: it reads a query and a text together and scores the pair.
pub struct Reranker {
    pool: Pool,
}

impl Reranker {
    /// Reads a checkpoint for the classification of sequences that has one label, and starts the threads. Blocks.
    ///
    /// # Errors
    /// What is wrong with which file, in words.
    pub fn load(folder: &Path, settings: Settings) -> Result<Reranker, String> {
        Self::open(folder, settings, Room::default())
    }

    /// As [`Self::load`], with memory out of `room` for each turn.
    pub(crate) fn open(folder: &Path, settings: Settings, room: Room) -> Result<Reranker, String> {
        let pool = Pool::load(folder, &settings, Some(Scored::Text), room)?;
        match pool.model.labels.names.len() {
            1 => Ok(Reranker { pool }),
            count => Err(format!("{}: it has {count} labels; a reranker has one score", folder.display())),
        }
    }
}

impl Rerank for Reranker {
    fn rerank(&self, tenant: Tenant, query: String, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<f32>, AiError>> {
        let query: Arc<str> = query.into();
        let inputs = texts.into_iter().map(|text| Input::Pair(Arc::clone(&query), text)).collect();
        let outputs = self.pool.run(tenant, inputs, Wanted::Scores);
        async move {
            let outputs = outputs.await?.outputs;
            Ok(outputs.iter().flat_map(|output| &output.values).map(|score| sigmoid(*score)).collect())
        }
        .boxed()
    }
}

/// A classifier of texts.
pub struct TextClassifier {
    pool: Pool,
}

impl TextClassifier {
    /// Reads a checkpoint for the classification of sequences and starts the threads. Blocks.
    ///
    /// # Errors
    /// What is wrong with which file, in words.
    pub fn load(folder: &Path, settings: Settings) -> Result<TextClassifier, String> {
        Self::open(folder, settings, Room::default())
    }

    /// As [`Self::load`], with memory out of `room` for each turn.
    pub(crate) fn open(folder: &Path, settings: Settings, room: Room) -> Result<TextClassifier, String> {
        Ok(TextClassifier { pool: Pool::load(folder, &settings, Some(Scored::Text), room)? })
    }
}

impl TextClassification for TextClassifier {
    fn classify(&self, tenant: Tenant, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Vec<Label>>, AiError>> {
        let outputs = self.pool.run(tenant, texts.into_iter().map(Input::Text).collect(), Wanted::Scores);
        async move {
            let labels = &self.pool.model.labels;
            let named = |scores: &[f32]| {
                let scores = labels.probabilities(scores);
                labels.names.iter().cloned().zip(scores).map(|(label, score)| Label { label, score }).collect()
            };
            Ok(outputs.await?.outputs.iter().map(|output| named(&output.values)).collect())
        }
        .boxed()
    }
}

/// A classifier of the words of a text.
pub struct TokenClassifier {
    pool: Pool,
}

impl TokenClassifier {
    /// Reads a checkpoint for the classification of tokens and starts the threads. Blocks.
    ///
    /// # Errors
    /// What is wrong with which file, in words.
    pub fn load(folder: &Path, settings: Settings) -> Result<TokenClassifier, String> {
        Self::open(folder, settings, Room::default())
    }

    /// As [`Self::load`], with memory out of `room` for each turn.
    pub(crate) fn open(folder: &Path, settings: Settings, room: Room) -> Result<TokenClassifier, String> {
        Ok(TokenClassifier { pool: Pool::load(folder, &settings, Some(Scored::Tokens), room)? })
    }
}

impl TokenClassification for TokenClassifier {
    fn entities(&self, tenant: Tenant, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Vec<Entity>>, AiError>> {
        let outputs = self.pool.run(tenant, texts.into_iter().map(Input::Text).collect(), Wanted::TokenScores);
        async move {
            let model = &self.pool.model;
            let group = |output: &super::Output| {
                entities::group(&output.places, &output.values, &model.labels.names, &model.texts)
                    .map_err(|why| AiError::internal(format_args!("an entity's tokens make no text: {why}")))
            };
            outputs.await?.outputs.iter().map(group).collect()
        }
        .boxed()
    }
}

//! Vectors of texts by a server.

use std::sync::{Arc, OnceLock};

use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use super::{Shared, post, told};
use crate::backend::{Embeddings, Pooling, TextEmbeddings};
use crate::{AiError, Tenant};

/// The longest answer to one batch, in bytes: 2048 vectors of 4096 numbers are half of it.
const MAX_ANSWER: usize = 256 << 20;
/// Batches of one request under way at the same time.
const BATCHES: usize = 4;
const MAX_DIMENSIONS: usize = 65_536;

/// An encoder elsewhere.
pub(super) struct Encoder {
    shared: Arc<Shared>,
    /// Known from the settings or since the first answer.
    dimensions: OnceLock<usize>,
}

impl Encoder {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let dimensions = shared.dimensions.map(OnceLock::from).unwrap_or_default();
        Self { shared, dimensions }
    }

    async fn batch(&self, tenant: Tenant, texts: Vec<String>) -> Result<Embeddings, AiError> {
        let shared = &self.shared;
        let _permit = shared.places.take(&tenant).await?;
        let body = json!({ "model": shared.model, "input": texts, "encoding_format": "float" });
        let ask = post("embeddings", &body, false);
        let count = texts.len();
        let answered = shared.upstreams.run(|attempt| {
            let ask = &ask;
            async move {
                let mut answer = attempt.send(ask).await?.success().await?;
                let body = answer.whole(MAX_ANSWER).await?;
                // Megabytes of numbers take long to read.
                let read = tokio::task::spawn_blocking(move || read(&body, count)).await;
                let read = read.unwrap_or_else(|_| Err("reading it failed".to_owned()));
                read.map_err(|reason| answer.broken(reason))
            }
        });
        answered.await.map_err(|error| told(&shared.model, &error))
    }
}

impl TextEmbeddings for Encoder {
    fn embed(
        &self,
        tenant: Tenant,
        texts: Vec<String>,
        pooling: Pooling,
    ) -> BoxFuture<'_, Result<Embeddings, AiError>> {
        async move {
            if pooling != self.default_pooling() {
                let fault = "'/pooling' cannot be chosen of a model on another server, which pools as it was set up to";
                return Err(AiError::bad_input(fault));
            }
            let batch = |batch: &[String]| self.batch(tenant.clone(), batch.to_vec()).boxed();
            let batches: Vec<BoxFuture<'_, _>> = texts.chunks(self.shared.batch.get()).map(batch).collect();
            let batches: Vec<Embeddings> = stream::iter(batches).buffered(BATCHES).try_collect().await?;
            let mut all = Embeddings { vectors: Vec::with_capacity(texts.len()), tokens: 0 };
            for batch in batches {
                for vector in &batch.vectors {
                    if *self.dimensions.get_or_init(|| vector.len()) != vector.len() {
                        let (found, known) = (vector.len(), self.dimensions());
                        tracing::warn!(model = self.shared.model, found, known, "vectors of another length than known");
                        return Err(AiError::internal("the model's server gave vectors of another length than before"));
                    }
                }
                all.vectors.extend(batch.vectors);
                all.tokens += batch.tokens;
            }
            Ok(all)
        }
        .boxed()
    }

    fn dimensions(&self) -> usize {
        self.dimensions.get().copied().unwrap_or(0)
    }

    fn default_pooling(&self) -> Pooling {
        self.shared.pooling.unwrap_or(Pooling::Mean)
    }
}

#[derive(serde::Deserialize)]
struct Answer {
    data: Vec<Item>,
    #[serde(default)]
    usage: Value,
}

#[derive(serde::Deserialize)]
struct Item {
    #[serde(default)]
    index: Option<usize>,
    embedding: Vec<f32>,
}

/// The vectors of `count` texts, each of length 1.
fn read(body: &[u8], count: usize) -> Result<Embeddings, String> {
    let answer: Answer = serde_json::from_slice(body).map_err(|error| format!("it holds no vectors: {error}"))?;
    if answer.data.len() != count {
        return Err(format!("it holds {} vectors for {count} texts", answer.data.len()));
    }
    let mut vectors: Vec<Vec<f32>> = vec![Vec::new(); count];
    for (at, Item { index, mut embedding }) in answer.data.into_iter().enumerate() {
        let index = index.unwrap_or(at);
        let squares = embedding.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>();
        if embedding.is_empty() || embedding.len() > MAX_DIMENSIONS || !squares.is_finite() {
            return Err(format!("the vector of text {index} is no vector"));
        }
        if squares > 0.0 {
            embedding.iter_mut().for_each(|value| *value = (f64::from(*value) / squares.sqrt()) as f32);
        }
        match vectors.get_mut(index) {
            Some(place) if place.is_empty() => *place = embedding,
            _ => return Err(format!("the index {index} is too large or stands twice")),
        }
    }
    if vectors.windows(2).any(|pair| pair[0].len() != pair[1].len()) {
        return Err("its vectors have different lengths".to_owned());
    }
    let tokens = answer.usage.get("prompt_tokens").and_then(Value::as_u64).unwrap_or(0);
    Ok(Embeddings { vectors, tokens: usize::try_from(tokens).unwrap_or(usize::MAX) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_put_in_order_and_to_length_one() {
        let body = json!({ "data": [{ "index": 1, "embedding": [0.0, 2.0] }, { "index": 0, "embedding": [3.0, 4.0] }],
            "usage": { "prompt_tokens": 5 } });
        let read = read(body.to_string().as_bytes(), 2).unwrap();
        assert_eq!((read.vectors, read.tokens), (vec![vec![0.6, 0.8], vec![0.0, 1.0]], 5));
    }

    #[test]
    fn what_is_not_one_vector_a_text_is_refused() {
        let item = |index: usize, embedding: Value| json!({ "index": index, "embedding": embedding });
        for data in [
            json!([item(0, json!([1.0]))]),
            json!([item(0, json!([1.0])), item(0, json!([1.0]))]),
            json!([item(0, json!([1.0])), item(9, json!([1.0]))]),
            json!([item(0, json!([1.0])), item(1, json!([]))]),
            json!([item(0, json!([1.0])), item(1, json!([1.0, 2.0]))]),
            json!([item(0, json!([1.0])), item(1, json!([1e39]))]),
            json!([item(0, json!([1.0])), item(1, json!("AAAA"))]),
        ] {
            assert!(read(json!({ "data": data }).to_string().as_bytes(), 2).is_err(), "{data}");
        }
    }
}

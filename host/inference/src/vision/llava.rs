//! Questions about pictures: LLaVA (Liu et al. 2023), a vision tower whose states a language model reads as if they were
//! words.
//!
//! The language model is any that [`crate::text`] reads from such a checkpoint. It answers one question at a time here,
//! with a cache of its own, because the batches of text models are made of tokens alone.

use std::num::NonZeroUsize;
use std::path::Path;

use host_kernels::kv::{BLOCK_TOKENS, KvShape, KvStore};
use host_kernels::threads::ThreadPool;
use host_kernels::vision::{Activation, Map};
use serde_json::{Map as Object, Value, json};

use super::contrastive::{Eyes, Family};
use super::layers::{Compute, Linear, activation, finite, whole};
use super::telling::{Telling, Written};
use crate::AiError;
use crate::backend::Caption;
use crate::tensors::Tensors;
use crate::text::decoder::checkpoint::Checkpoint;
use crate::text::decoder::{Decoder, Source, hugging_face};
use crate::text::forward::{ForwardError, ForwardPass, Span};
use crate::text::sampler::Sampler;
use crate::text::tokenizer::Vocabulary;
use crate::text::weights;

/// The most tokens of picture, question and answer, where the language model would take more.
const CONTEXT: usize = 4096;
/// Rows that are read between two looks at whether anybody still waits.
const PREFILL: usize = 256;
/// Tokens around a question: who speaks.
const MARKS: usize = 32;
/// What is asked when the request asks nothing.
const QUESTION: &str = "Describe this picture.";

/// `LlavaForConditionalGeneration`.
pub(super) struct Llava {
    eyes: Eyes,
    /// Layers of the tower that are not used.
    skip: usize,
    /// Rows of the tower that the language model does not see: that of the class.
    hidden_rows: usize,
    first: Linear,
    activation: Activation,
    second: Linear,
    decoder: Decoder,
    shape: KvShape,
    vocabulary: Vocabulary,
    /// The token that stands for the picture, and its text.
    image: u32,
    image_text: String,
    context: usize,
}

impl Llava {
    pub(super) fn load(
        folder: &Path,
        mut tensors: Tensors,
        config: &Value,
        given: Option<(usize, usize)>,
        threads: NonZeroUsize,
    ) -> Result<Llava, String> {
        let vision = config.get("vision_config").ok_or("it has no vision_config")?;
        let family = Family::parse(vision)?;
        let (tower, projector) = names(&tensors).ok_or("the weights have no vision tower of a known name")?;
        let eyes = Eyes::load(&mut tensors, tower, family, vision)?;
        eyes.patches.check(given)?;
        let skip = skipped(config, eyes.tower.layers)?;
        let hidden_rows = match config.get("vision_feature_select_strategy").and_then(Value::as_str) {
            None | Some("default") => eyes.leading().max(1),
            Some("full") => 0,
            Some(other) => {
                return Err(format!("vision_feature_select_strategy is {other:.40?}; default and full are known"));
            }
        };
        if hidden_rows > eyes.leading() {
            return Err("vision_feature_select_strategy takes away a row that this tower does not have".to_owned());
        }
        let text = text_config(config)?;
        let checkpoint = Checkpoint::open(folder).map_err(|error| error.to_string())?;
        let source = Source::Checkpoint(&checkpoint);
        let mut description = hugging_face::describe(&text, source).map_err(|error| format!("text_config: {error}"))?;
        description.limit_context(CONTEXT);
        let (width, context) = (description.width, description.context);
        let first = Linear::load(&mut tensors, &format!("{projector}.linear_1"), width, eyes.tower.hidden)?;
        let second = Linear::load(&mut tensors, &format!("{projector}.linear_2"), width, width)?;
        let act = config.get("projector_hidden_act").and_then(Value::as_str).unwrap_or("gelu");
        let blocks = context.div_ceil(BLOCK_TOKENS);
        let shape = description.kv_shape();
        if shape.block_bytes().and_then(|bytes| bytes.checked_mul(blocks)).is_none() {
            return Err(format!("a cache for {context} tokens cannot be addressed"));
        }
        let pool =
            ThreadPool::new("vision-text", threads).map_err(|error| format!("no threads for the model: {error}"))?;
        let words = description.vocabulary;
        let decoder =
            Decoder::read(description, source, weights::Compute::new(pool)).map_err(|error| error.to_string())?;
        let vocabulary = Vocabulary::from_hugging_face(folder).map_err(|error| error.to_string())?;
        let image = whole(config, "image_token_index", Some(32_000), words - 1)? as u32;
        let image_text = image_text(folder, image)?;
        if vocabulary.len() > words
            || vocabulary.encode(&image_text).ok().and_then(|ids| ids.last().copied()) != Some(image)
        {
            return Err(format!("image_token_index {image} is not what tokenizer.json makes of {image_text:.40?}"));
        }
        Ok(Llava {
            skip,
            hidden_rows,
            first,
            activation: activation(act)?,
            second,
            decoder,
            shape,
            vocabulary,
            image,
            image_text,
            context,
            eyes,
        })
    }

    /// Values that a question and its answer hold at most.
    pub(super) fn peak(&self, caption: &Caption) -> usize {
        let patches = self.eyes.rows() - self.hidden_rows;
        // No token stands for less than a byte.
        let asked = caption.prompt.as_deref().unwrap_or(QUESTION).len() + MARKS;
        let tokens = (patches + asked).saturating_add(caption.max_tokens).min(self.context);
        let width = self.first.outputs();
        // Blocks hold two bytes for each value.
        let cache =
            tokens.div_ceil(BLOCK_TOKENS).saturating_mul(self.shape.block_bytes().unwrap_or(usize::MAX) / 2 / 2);
        let rows = (2 * patches + tokens.min(self.context)) * width;
        let step = self.decoder.peak(PREFILL.min(tokens));
        self.eyes.peak().max(cache.saturating_add(rows + step))
    }

    /// What the language model sees of a picture: a row for each patch.
    ///
    /// # Errors
    /// 3046 for broken weights, and what `check` says between layers.
    pub(super) fn look(
        &self,
        compute: &Compute,
        picture: &Map,
        check: &dyn Fn() -> Result<(), AiError>,
    ) -> Result<Vec<f32>, AiError> {
        let states = self.eyes.forward(compute, picture, self.skip, check)?;
        let states = states.get(self.hidden_rows * self.eyes.tower.hidden..).unwrap_or_default();
        let mut inner = self.first.apply(compute, states);
        compute.activate(&mut inner, self.first.outputs(), self.activation);
        let rows = self.second.apply(compute, &inner);
        finite(&rows)?;
        Ok(rows)
    }

    /// The answer to a question about the picture of which `seen` are the rows, to `telling`.
    ///
    /// # Errors
    /// 5006 for a question that holds more pictures, 5021 for one that is too long, 3046 for broken weights, and what
    /// `check` says between steps.
    pub(super) fn answer(
        &mut self,
        seen: &[f32],
        caption: &Caption,
        check: &dyn Fn() -> Result<(), AiError>,
        telling: &mut Telling,
    ) -> Result<Written, AiError> {
        let (tokens, rows) = self.question(seen, caption)?;
        let width = self.first.outputs();
        if tokens.len() >= self.context {
            return Err(AiError::context_exceeded(tokens.len() + caption.max_tokens, self.context));
        }
        let end = (tokens.len() + caption.max_tokens).min(self.context);
        // A question's own, so that its memory is given back with it.
        let mut store = KvStore::new(self.shape, end.div_ceil(BLOCK_TOKENS));
        let blocks: Vec<u32> = (0..end.div_ceil(BLOCK_TOKENS) as u32).collect();
        let mut sampler = Sampler::new(caption.sampling.clone(), &tokens);
        let mut detokenizer = self.vocabulary.detokenizer(&tokens);
        let mut next = None;
        let broken = |_| AiError::model_unavailable("its weights give values that are no numbers; verify the model");
        for (index, piece) in tokens.chunks(PREFILL).enumerate() {
            check()?;
            let position = index * PREFILL;
            let last = position + piece.len() == tokens.len();
            let span = Span { tokens: piece, position, blocks: &blocks, logits: usize::from(last), adapter: None };
            let given = &rows[position * width..(position + piece.len()) * width];
            let logits = self.decoder.forward_rows(&mut store, &[span], given).map_err(failed)?;
            if last {
                next = Some(sampler.sample(logits, None).map_err(broken)?);
            }
        }
        let mut position = tokens.len();
        while let Some(token) = next.filter(|token| !self.vocabulary.ends_turn(*token)) {
            telling.push(&detokenizer.push(self.vocabulary.token(token)));
            position += 1;
            if position >= end {
                break;
            }
            check()?;
            let span = Span { tokens: &[token], position: position - 1, blocks: &blocks, logits: 1, adapter: None };
            let logits = self.decoder.forward(&mut store, &[span]).map_err(failed)?;
            next = Some(sampler.sample(logits, None).map_err(broken)?);
        }
        telling.push(&detokenizer.finish());
        let ended = next.is_none_or(|token| self.vocabulary.ends_turn(token));
        Ok(Written::new(tokens.len(), position - tokens.len(), ended))
    }

    /// The question's tokens with the picture's in their place, and the row of each.
    fn question(&self, seen: &[f32], caption: &Caption) -> Result<(Vec<u32>, Vec<f32>), AiError> {
        let asked = caption.prompt.as_deref().filter(|prompt| !prompt.trim().is_empty()).unwrap_or(QUESTION);
        let image = &self.image_text;
        let rendered = match caption.raw {
            true if asked.contains(image.as_str()) => asked.to_owned(),
            true => format!("{image}\n{asked}"),
            false => format!("USER: {image}\n{asked} ASSISTANT:"),
        };
        let ids = self
            .vocabulary
            .encode(&rendered)
            .map_err(|error| AiError::bad_input(format_args!("'/prompt' cannot be read as tokens: {error}")))?;
        let at = ids.iter().position(|id| *id == self.image);
        let (Some(at), 1) = (at, ids.iter().filter(|id| **id == self.image).count()) else {
            return Err(AiError::bad_input(format_args!("'/prompt' must hold {image} no more than once")));
        };
        let width = self.first.outputs();
        let patches = seen.len() / width;
        if ids.len() + patches > self.context {
            return Err(AiError::context_exceeded(ids.len() + patches, self.context));
        }
        let mut tokens = ids.clone();
        tokens.splice(at..=at, std::iter::repeat_n(self.image, patches));
        let mut rows = vec![0.0; tokens.len() * width];
        for (index, row) in rows.chunks_exact_mut(width).enumerate() {
            match index.checked_sub(at).filter(|patch| *patch < patches) {
                Some(patch) => row.copy_from_slice(&seen[patch * width..][..width]),
                None => self.decoder.enter(tokens[index], row).map_err(failed)?,
            }
        }
        Ok((tokens, rows))
    }
}

/// The names of the tower and of the projector: the published ones, or those that transformers 5 writes.
fn names(tensors: &Tensors) -> Option<(&'static str, &'static str)> {
    let known = [
        ("vision_tower.vision_model", "multi_modal_projector"),
        ("vision_tower", "multi_modal_projector"),
        ("model.vision_tower.vision_model", "model.multi_modal_projector"),
        ("model.vision_tower", "model.multi_modal_projector"),
    ];
    known.into_iter().find(|(tower, _)| tensors.shape(&format!("{tower}.embeddings.patch_embedding.weight")).is_some())
}

fn failed(error: ForwardError) -> AiError {
    AiError::internal(format_args!("the language model failed: {error}"))
}

/// How many of the tower's last layers are left out, by `vision_feature_layer`.
fn skipped(config: &Value, layers: usize) -> Result<usize, String> {
    let layer = match config.get("vision_feature_layer") {
        None => -2,
        Some(value) => value.as_i64().ok_or("vision_feature_layer is no single layer")?,
    };
    // States are counted from 0, which is before the first layer; -1 is after the last.
    let used = if layer < 0 { layers as i64 + 1 + layer } else { layer };
    match usize::try_from(used) {
        Ok(used) if used <= layers => Ok(layers - used),
        _ => Err(format!("vision_feature_layer is {layer}, the tower has {layers} layers")),
    }
}

/// The language model's configuration with what its class takes missing keys for.
fn text_config(config: &Value) -> Result<Value, String> {
    let given = config.get("text_config").and_then(Value::as_object).ok_or("it has no text_config")?;
    let mut text: Object<String, Value> = match given.get("model_type").and_then(Value::as_str) {
        None | Some("llama") => json!({
            "model_type": "llama", "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008,
            "num_hidden_layers": 32, "num_attention_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6
        }),
        Some("mistral") => json!({
            "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "max_position_embeddings": 131_072, "rms_norm_eps": 1e-6
        }),
        Some(_) => json!({}),
    }
    .as_object()
    .cloned()
    .unwrap_or_default();
    text.extend(given.clone());
    if let Some(tied) = config.get("tie_word_embeddings").filter(|_| !given.contains_key("tie_word_embeddings")) {
        text.insert("tie_word_embeddings".to_owned(), tied.clone());
    }
    Ok(Value::Object(text))
}

/// The text of the token `id` among the added tokens of `tokenizer.json`.
fn image_text(folder: &Path, id: u32) -> Result<String, String> {
    let path = folder.join("tokenizer.json");
    let bytes = crate::store::read_text(&path, 256 << 20).map_err(|error| error.to_string())?;
    let tokenizer: Value = serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    let added = tokenizer.get("added_tokens").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let found = added.iter().find(|token| token.get("id").and_then(Value::as_u64) == Some(u64::from(id)));
    let text = found.and_then(|token| token.get("content")).and_then(Value::as_str).filter(|text| !text.is_empty());
    text.map(str::to_owned).ok_or_else(|| format!("{} has no token {id} for pictures", path.display()))
}

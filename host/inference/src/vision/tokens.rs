//! Texts to token ids and back, by the model's own `tokenizer.json`.

use std::path::Path;

use serde_json::Value;
use tokenizers::{PostProcessor, Tokenizer, TruncationParams};

use crate::AiError;
use crate::store::read_text;

/// Vocabularies of a million words fit.
const TOKENIZER_BYTES: u64 = 256 << 20;
const CONFIG_BYTES: u64 = 16 << 20;
/// Tokens longer than this on average are not to be expected; text beyond is not even looked at.
const BYTES_PER_TOKEN: usize = 512;

/// A tokenizer for texts of at most `limit` tokens, special tokens included.
pub(super) struct Texts {
    tokenizer: Tokenizer,
    limit: usize,
    vocabulary: usize,
}

impl Texts {
    /// The error says what is wrong with the file.
    pub(super) fn load(folder: &Path, limit: usize, vocabulary: usize) -> Result<Texts, String> {
        let path = folder.join("tokenizer.json");
        let bytes = read_text(&path, TOKENIZER_BYTES).map_err(|error| error.to_string())?;
        let fault = |error: &dyn std::fmt::Display| format!("{} is broken: {error}", path.display());
        let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(|error| fault(&error))?;
        // Published files pad and cut to lengths of their own.
        tokenizer.with_padding(None);
        let special = tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        if limit <= special {
            return Err(format!("{special} special tokens leave no room for text in a context of {limit}"));
        }
        let truncation = TruncationParams { max_length: limit, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|error| fault(&error))?;
        let most = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
        if most as usize >= vocabulary {
            return Err(format!("{} has token {most}, config.json says vocab_size {vocabulary}", path.display()));
        }
        Ok(Texts { tokenizer, limit, vocabulary })
    }

    /// At most `limit` ids.
    ///
    /// # Errors
    /// 5006 that names `property` for a text that the tokenizer has no tokens for, 3046 for a tokenizer that contradicts
    /// itself.
    pub(super) fn encode(&self, text: &str, property: &str) -> Result<Vec<u32>, AiError> {
        let mut end = text.len().min(self.limit.saturating_mul(BYTES_PER_TOKEN));
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let encoding = self
            .tokenizer
            .encode_fast(&text[..end], true)
            .map_err(|error| AiError::bad_input(format_args!("'/{property}' cannot be read as tokens: {error}")))?;
        let ids = encoding.get_ids();
        // What puts special tokens around a text has numbers of its own for them.
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.vocabulary) {
            return Err(AiError::model_unavailable(format_args!(
                "its tokenizer gives token {id}, which is not below its vocabulary of {}",
                self.vocabulary
            )));
        }
        Ok(ids[..ids.len().min(self.limit)].to_vec())
    }

    /// The text of `ids`, special tokens left out.
    pub(super) fn decode(&self, ids: &[u32]) -> Result<String, AiError> {
        let text = self.tokenizer.decode(ids, true);
        text.map(|text| text.trim().to_owned())
            .map_err(|error| AiError::model_unavailable(format_args!("its tokenizer cannot write a text: {error}")))
    }

    /// The id of what texts are padded with, where `tokenizer_config.json` or `special_tokens_map.json` names it.
    pub(super) fn padding(&self, folder: &Path) -> Option<u32> {
        ["tokenizer_config.json", "special_tokens_map.json"].iter().find_map(|name| {
            let text = read_text(&folder.join(name), CONFIG_BYTES).ok()?;
            let config: Value = serde_json::from_slice(&text).ok()?;
            let token = config.get("pad_token")?;
            let token = token.as_str().or_else(|| token.get("content").and_then(Value::as_str))?;
            self.tokenizer.token_to_id(token)
        })
    }
}

//! Texts to token ids, by the model's own `tokenizer.json`.
//!
//! Published tokenizers come with padding and truncation of their own (all-MiniLM-L6-v2 pads and cuts to 128); both
//! are set here instead: no padding, because batches are packed, and the model's bound.

use std::path::Path;

use tokenizers::{PostProcessor, Tokenizer, TruncationParams};

use crate::store::read_text;

/// Vocabularies of a million words fit.
const TOKENIZER_BYTES: u64 = 256 << 20;
/// Tokens longer than this on average are not to be expected; text beyond is not even looked at.
const BYTES_PER_TOKEN: usize = 512;

/// A tokenizer for texts of at most `limit` tokens, special tokens included.
pub(super) struct Texts {
    tokenizer: Tokenizer,
    limit: usize,
}

impl Texts {
    /// The error says what is wrong with the file.
    pub(super) fn load(folder: &Path, limit: usize, vocabulary: usize) -> Result<Texts, String> {
        let path = folder.join("tokenizer.json");
        let bytes = read_text(&path, TOKENIZER_BYTES).map_err(|error| error.to_string())?;
        let mut tokenizer =
            Tokenizer::from_bytes(&bytes).map_err(|error| format!("{} is broken: {error}", path.display()))?;
        tokenizer.with_padding(None);
        let special = tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        if limit <= special {
            return Err(format!("{special} special tokens leave no room for text in a context of {limit}"));
        }
        let truncation = TruncationParams { max_length: limit, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|error| format!("{}: {error}", path.display()))?;
        let most = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
        if most as usize >= vocabulary {
            return Err(format!("{} has token {most}, config.json says vocab_size {vocabulary}", path.display()));
        }
        Ok(Texts { tokenizer, limit })
    }

    /// At most `limit` ids.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let mut end = text.len().min(self.limit.saturating_mul(BYTES_PER_TOKEN));
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let encoding = self.tokenizer.encode_fast(&text[..end], true).map_err(|error| error.to_string())?;
        let ids = encoding.get_ids();
        Ok(ids[..ids.len().min(self.limit)].to_vec())
    }
}

//! Texts and pairs of texts to token ids, by the model's own `tokenizer.json`.
//!
//! Published tokenizers come with padding and truncation of their own (all-MiniLM-L6-v2 pads and cuts to 128); both
//! are set here instead: no padding, because batches are packed, and the model's bound. Of a pair that is too long the
//! longer text is cut first.

use std::ops::Range;
use std::path::Path;

use tokenizers::{Decoder, EncodeInput, Encoding, PostProcessor, Tokenizer, TruncationParams};

use super::queue::Input;
use crate::store::read_text;

/// Vocabularies of a million words fit.
const TOKENIZER_BYTES: u64 = 256 << 20;
/// Tokens longer than this on average are not to be expected; text beyond is not even looked at.
const BYTES_PER_TOKEN: usize = 512;

/// A tokenizer for texts of at most `limit` tokens, special tokens included.
pub(super) struct Texts {
    tokenizer: Tokenizer,
    limit: usize,
    /// Kinds of segments that the model knows.
    types: usize,
    unknown: Option<u32>,
}

/// What a text or a pair is to the model.
pub(super) struct Tokens {
    pub(super) ids: Vec<u32>,
    /// For each token, which of a pair's texts it belongs to, where the model knows the difference.
    pub(super) types: Vec<usize>,
}

/// Where a token stands in its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The token as the vocabulary has it, or the text it stands for if it is not in there.
    pub(super) token: String,
    /// Characters of the text.
    pub(super) characters: Range<usize>,
}

impl Texts {
    /// The error says what is wrong with the file.
    pub(super) fn load(folder: &Path, limit: usize, vocabulary: usize, types: usize) -> Result<Texts, String> {
        let path = folder.join("tokenizer.json");
        let bytes = read_text(&path, TOKENIZER_BYTES).map_err(|error| error.to_string())?;
        let mut tokenizer =
            Tokenizer::from_bytes(&bytes).map_err(|error| format!("{} is broken: {error}", path.display()))?;
        tokenizer.with_padding(None);
        let special = tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(true));
        if limit <= special {
            return Err(format!("{special} special tokens leave no room for text in a context of {limit}"));
        }
        let truncation = TruncationParams { max_length: limit, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|error| format!("{}: {error}", path.display()))?;
        let most = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
        if most as usize >= vocabulary {
            return Err(format!("{} has token {most}, config.json says vocab_size {vocabulary}", path.display()));
        }
        let unknown = unknown(&bytes, &tokenizer);
        Ok(Texts { tokenizer, limit, types, unknown })
    }

    /// At most `limit` tokens.
    pub(super) fn encode(&self, input: &Input) -> Result<Tokens, String> {
        let input: EncodeInput<'_> = match input {
            Input::Text(text) => self.cut(text).into(),
            Input::Pair(first, second) => (self.cut(first), self.cut(second)).into(),
        };
        Ok(self.tokens(&self.tokenizer.encode_fast(input, true).map_err(|error| error.to_string())?))
    }

    /// The same, with the place of each token; special tokens have none.
    pub(super) fn encode_with_places(&self, text: &str) -> Result<(Tokens, Vec<Option<Place>>), String> {
        let text = self.cut(text);
        let encoding = self.tokenizer.encode_char_offsets(text, true).map_err(|error| error.to_string())?;
        let tokens = self.tokens(&encoding);
        let place = |index: usize| {
            if encoding.get_special_tokens_mask().get(index).is_none_or(|special| *special != 0) {
                return None;
            }
            let (start, end) = *encoding.get_offsets().get(index)?;
            let token = if self.unknown.is_some_and(|unknown| unknown == tokens.ids[index]) {
                text.chars().skip(start).take(end.saturating_sub(start)).collect()
            } else {
                encoding.get_tokens().get(index)?.clone()
            };
            Some(Place { token, characters: start..end })
        };
        let places = (0..tokens.ids.len()).map(place).collect();
        Ok((tokens, places))
    }

    /// The text that these tokens make.
    pub(super) fn join(&self, tokens: Vec<String>) -> Result<String, String> {
        match self.tokenizer.get_decoder() {
            Some(decoder) => decoder.decode(tokens).map_err(|error| error.to_string()),
            None => Ok(tokens.join(" ")),
        }
    }

    fn cut<'t>(&self, text: &'t str) -> &'t str {
        let mut end = text.len().min(self.limit.saturating_mul(BYTES_PER_TOKEN));
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        &text[..end]
    }

    fn tokens(&self, encoding: &Encoding) -> Tokens {
        let count = encoding.get_ids().len().min(self.limit);
        let most = self.types.saturating_sub(1);
        let types = encoding.get_type_ids().iter().map(|&kind| (kind as usize).min(most)).take(count);
        Tokens { ids: encoding.get_ids()[..count].to_vec(), types: types.collect() }
    }
}

/// The token for what the vocabulary does not have.
fn unknown(file: &[u8], tokenizer: &Tokenizer) -> Option<u32> {
    #[derive(serde::Deserialize)]
    struct File {
        model: Model,
    }
    #[derive(serde::Deserialize)]
    struct Model {
        unk_token: Option<String>,
        /// What unigram vocabularies have instead.
        unk_id: Option<u32>,
    }
    let model = serde_json::from_slice::<File>(file).ok()?.model;
    model.unk_id.or_else(|| tokenizer.token_to_id(&model.unk_token?))
}

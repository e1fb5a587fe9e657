//! CLIP's tokenizer: lower case, words and marks apart, byte-level BPE with an end-of-word mark.

use std::path::Path;

use serde_json::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer};

use crate::store::read_text;

/// CLIP's vocabulary has one megabyte.
const BYTES: u64 = 64 << 20;
/// Words, single digits, runs of marks; the parts of English contractions.
const PIECES: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Texts as CLIP reads them.
pub(super) struct Words {
    tokenizer: Tokenizer,
    begin: u32,
    end: u32,
    pad: u32,
}

impl Words {
    /// Reads `vocab.json`, `merges.txt` and, for the padding, `special_tokens_map.json` or `tokenizer_config.json`.
    pub(super) fn load(folder: &Path, vocabulary: usize) -> Result<Words, String> {
        let path = folder.join("vocab.json");
        let text = read_text(&path, BYTES).map_err(|error| error.to_string())?;
        let fault = |why: String| format!("{}: {why}", path.display());
        let vocab: std::collections::HashMap<String, u32> =
            serde_json::from_slice(&text).map_err(|error| fault(error.to_string()))?;
        if let Some((token, id)) = vocab.iter().find(|(_, id)| **id as usize >= vocabulary) {
            return Err(fault(format!("token {token:.40?} has the id {id}, the text encoder knows {vocabulary}")));
        }
        let id =
            |token: &str| vocab.get(token).copied().ok_or_else(|| fault(format!("there is no token {token:.40?}")));
        let filler = padding(folder)?;
        let (begin, end, pad) = (id("<|startoftext|>")?, id("<|endoftext|>")?, id(&filler)?);
        let merges = merges(&folder.join("merges.txt"))?;
        let bpe = BPE::builder()
            .vocab_and_merges(vocab.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
            .unk_token("<|endoftext|>".to_owned())
            .end_of_word_suffix("</w>".to_owned())
            .build()
            .map_err(|error| fault(format!("with merges.txt: {error}")))?;
        let mut tokenizer = pipeline(bpe)?;
        // The padding is a token of its own wherever it stands, in a text too, and be it an exclamation mark.
        let special = ["<|startoftext|>", "<|endoftext|>", &filler].map(|token| AddedToken::from(token, true));
        tokenizer.add_special_tokens(special).map_err(|error| fault(error.to_string()))?;
        Ok(Words { tokenizer, begin, end, pad })
    }

    /// Exactly `length` ids: begin, the text, cut if need be, end, padding.
    pub(super) fn encode(&self, text: &str, length: usize) -> Result<Vec<u32>, String> {
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|error| error.to_string())?;
        let mut ids = vec![self.begin];
        ids.extend(encoding.get_ids().iter().take(length.saturating_sub(2)));
        ids.push(self.end);
        ids.resize(length, self.pad);
        Ok(ids)
    }
}

fn pipeline(bpe: BPE) -> Result<Tokenizer, String> {
    let said = |error: tokenizers::Error| error.to_string();
    let spaces = Replace::new(tokenizers::normalizers::replace::ReplacePattern::Regex(r"\s+".to_owned()), " ");
    let split = Split::new(SplitPattern::Regex(PIECES.to_owned()), SplitDelimiterBehavior::Removed, true);
    let mut tokenizer = Tokenizer::new(bpe);
    let normalizers = Normalizers::new(vec![
        NormalizerWrapper::from(NFC),
        NormalizerWrapper::from(spaces.map_err(said)?),
        NormalizerWrapper::from(Lowercase),
    ]);
    tokenizer.with_normalizer(Some(normalizers)).map_err(said)?;
    tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(vec![
        PreTokenizerWrapper::from(split.map_err(said)?),
        PreTokenizerWrapper::from(ByteLevel::new(false, true, false)),
    ])));
    Ok(tokenizer)
}

fn merges(path: &Path) -> Result<Vec<(String, String)>, String> {
    let text = read_text(path, BYTES).map_err(|error| error.to_string())?;
    let text = String::from_utf8(text).map_err(|_| format!("{}: it is not UTF-8", path.display()))?;
    let lines =
        text.lines().enumerate().filter(|(at, line)| !(*at == 0 && line.starts_with("#version") || line.is_empty()));
    lines
        .map(|(at, line)| {
            let pair = line.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()));
            pair.ok_or_else(|| format!("{}: line {} is no pair", path.display(), at + 1))
        })
        .collect()
}

/// The token that fills up: CLIP's end in the first Stable Diffusion, `!` in later ones.
fn padding(folder: &Path) -> Result<String, String> {
    for name in ["special_tokens_map.json", "tokenizer_config.json"] {
        let path = folder.join(name);
        if !path.is_file() {
            continue;
        }
        let text = read_text(&path, BYTES).map_err(|error| error.to_string())?;
        let value: Value = serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let token = value.get("pad_token").map(|token| token.get("content").unwrap_or(token));
        if let Some(token) = token.and_then(Value::as_str) {
            return Ok(token.to_owned());
        }
    }
    Ok("<|endoftext|>".to_owned())
}

//! Texts to tokens and back: by `tokenizer.json`, or by SentencePiece models beside a `vocab.json`.
//!
//! Marian and M2M-100 number their pieces in a file of their own, which both sides of Marian may share. Special tokens
//! are not recognized in a text of those, and never written into an answer.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use super::languages::{self, WMT_21};
use super::sentencepiece::{SPACE, SentencePiece, byte_of};
use crate::store::read_text;

const FILE_BYTES: u64 = 256 << 20;
/// Tokens longer than this on average are not to be expected; text beyond is not even looked at.
const BYTES_PER_TOKEN: usize = 64;

/// A model's vocabulary.
pub(super) struct Texts {
    form: Form,
    /// The tokens that say a language, by their text.
    pub(super) languages: HashMap<String, u32>,
    end: u32,
}

enum Form {
    HuggingFace(Box<Tokenizer>),
    Pieces(Box<Pieces>),
}

struct Pieces {
    source: SentencePiece,
    ids: HashMap<String, u32>,
    unknown: u32,
    /// The texts of the decoder's tokens.
    texts: HashMap<u32, String>,
    special: HashSet<u32>,
}

impl Texts {
    /// Reads what lies in `folder`; the model has `vocabulary` tokens, and texts end with `end`. The error names the file.
    pub(super) fn load(folder: &Path, vocabulary: usize, end: u32) -> Result<Self, String> {
        let file = |name: &str| Some(folder.join(name)).filter(|path| path.exists());
        let mut this = if let Some(path) = file("tokenizer.json") {
            let bytes = read_text(&path, FILE_BYTES).map_err(|error| error.to_string())?;
            let fault = |error: tokenizers::Error| format!("{} is broken: {error}", path.display());
            let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(fault)?;
            tokenizer.with_padding(None);
            tokenizer.with_truncation(None).map_err(fault)?;
            let added = tokenizer.get_added_vocabulary().get_vocab().clone();
            let form = Form::HuggingFace(Box::new(tokenizer));
            Self { form, languages: added.into_iter().collect(), end }
        } else if let Some(model) = file("source.spm").or_else(|| file("sentencepiece.bpe.model")) {
            Self::pieces(folder, &model, vocabulary, end)?
        } else if let Some(model) = file("spiece.model") {
            let source = SentencePiece::open(&model)?;
            let ids = source.texts().zip(0..).map(|(text, id)| (text.to_owned(), id)).collect();
            Self { form: Form::Pieces(Box::new(Pieces::new(source, ids, None, end)?)), languages: HashMap::new(), end }
        } else {
            return Err(format!(
                "{} has none of tokenizer.json, source.spm, sentencepiece.bpe.model and spiece.model",
                folder.display()
            ));
        };
        this.languages.retain(|text, id| is_language(text) && (*id as usize) < vocabulary);
        let highest = this.highest();
        if highest as usize >= vocabulary {
            return Err(format!(
                "the tokenizer in {} has token {highest}, config.json says vocab_size {vocabulary}",
                folder.display()
            ));
        }
        Ok(this)
    }

    fn pieces(folder: &Path, model: &Path, vocabulary: usize, end: u32) -> Result<Self, String> {
        let source = SentencePiece::open(model)?;
        let ids = numbers(&folder.join("vocab.json"))?;
        let target = Some(folder.join("target_vocab.json")).filter(|path| path.exists());
        let target = target.map(|path| numbers(&path)).transpose()?;
        let mut languages: HashMap<String, u32> = ids.iter().map(|(text, id)| (text.clone(), *id)).collect();
        if !model.ends_with("source.spm") {
            // M2M-100 numbers its languages after the vocabulary and does not write them into it.
            let settings = settings(folder)?;
            let wmt = settings.get("language_codes").and_then(Value::as_str) == Some("wmt21");
            let codes: Vec<&str> = if wmt { WMT_21.into() } else { languages::all().map(|l| l.code).collect() };
            let first = ids.len();
            for (index, code) in codes.iter().enumerate().filter(|(index, _)| first + index < vocabulary) {
                languages.entry(format!("__{code}__")).or_insert((first + index) as u32);
            }
        }
        let mut pieces = Pieces::new(source, ids, target, end)?;
        pieces.special.extend(languages.iter().filter(|(text, _)| is_language(text)).map(|(_, id)| *id));
        Ok(Self { form: Form::Pieces(Box::new(pieces)), languages, end })
    }

    /// The highest token that a text may become.
    fn highest(&self) -> u32 {
        match &self.form {
            Form::HuggingFace(tokenizer) => tokenizer.get_vocab(true).into_values().max().unwrap_or(0),
            Form::Pieces(pieces) => pieces.ids.values().copied().max().unwrap_or(0),
        }
    }

    /// At most `limit` tokens of a text, without any that the model adds.
    pub(super) fn encode(&self, text: &str, limit: usize) -> Result<Vec<u32>, String> {
        let mut tokens = match &self.form {
            Form::HuggingFace(tokenizer) => {
                let encoding = tokenizer.encode_fast(cut(text, limit), false).map_err(|error| error.to_string())?;
                encoding.get_ids().to_vec()
            }
            Form::Pieces(pieces) => {
                let id = |piece: String| pieces.ids.get(&piece).copied().unwrap_or(pieces.unknown);
                pieces.source.split(cut(text, limit)).into_iter().map(id).collect()
            }
        };
        tokens.truncate(limit);
        Ok(tokens)
    }

    /// At most `limit` tokens of a text with those that the files put around it: an end at least.
    pub(super) fn encode_whole(&self, text: &str, limit: usize) -> Result<Vec<u32>, String> {
        let Form::HuggingFace(tokenizer) = &self.form else {
            let mut tokens = self.encode(text, limit.saturating_sub(1))?;
            tokens.push(self.end);
            return Ok(tokens);
        };
        let encoding = tokenizer.encode_fast(cut(text, limit), true).map_err(|error| error.to_string())?;
        let mut tokens = encoding.get_ids().to_vec();
        if tokens.len() > limit || !tokens.contains(&self.end) {
            tokens.truncate(limit.saturating_sub(1));
            tokens.push(self.end);
        }
        Ok(tokens)
    }

    /// The text of tokens, without special ones.
    pub(super) fn decode(&self, tokens: &[u32]) -> Result<String, String> {
        match &self.form {
            Form::HuggingFace(tokenizer) => {
                let text = tokenizer.decode(tokens, true).map_err(|error| error.to_string())?;
                Ok(text.trim().to_owned())
            }
            Form::Pieces(pieces) => Ok(pieces.decode(tokens)),
        }
    }
}

impl Pieces {
    fn new(
        source: SentencePiece,
        ids: HashMap<String, u32>,
        target: Option<HashMap<String, u32>>,
        end: u32,
    ) -> Result<Self, String> {
        let special = |ids: &HashMap<String, u32>| -> HashSet<u32> {
            ["<s>", "</s>", "<unk>", "<pad>"].iter().filter_map(|text| ids.get(*text).copied()).chain([end]).collect()
        };
        let unknown = *ids.get("<unk>").ok_or("the vocabulary has no <unk>")?;
        let own = target.as_ref().unwrap_or(&ids);
        let texts = own.iter().map(|(text, id)| (*id, text.clone())).collect();
        Ok(Self { source, unknown, texts, special: special(own), ids })
    }

    fn decode(&self, tokens: &[u32]) -> String {
        let mut bytes = Vec::new();
        for token in tokens.iter().filter(|token| !self.special.contains(token)) {
            let Some(text) = self.texts.get(token) else { continue };
            match byte_of(text) {
                Some(byte) => bytes.push(byte),
                None => bytes.extend(text.bytes()),
            }
        }
        String::from_utf8_lossy(&bytes).replace(SPACE, " ").trim().to_owned()
    }
}

/// As much of a text as `limit` tokens may come from.
fn cut(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit.saturating_mul(BYTES_PER_TOKEN));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A `vocab.json`.
fn numbers(path: &Path) -> Result<HashMap<String, u32>, String> {
    let bytes = read_text(path, FILE_BYTES).map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map_err(|error| format!("{} is no vocabulary: {error}", path.display()))
}

/// `tokenizer_config.json`; empty where there is none.
pub(super) fn settings(folder: &Path) -> Result<Map<String, Value>, String> {
    let path = folder.join("tokenizer_config.json");
    if !path.exists() {
        return Ok(Map::new());
    }
    let bytes = read_text(&path, FILE_BYTES).map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map_err(|error| format!("{} is broken: {error}", path.display()))
}

/// Whether a token of this text says a language: `__en__` (M2M-100), `>>de<<` (Marian), `eng_Latn` (NLLB), `en_XX` (mBART).
fn is_language(text: &str) -> bool {
    let letters = |part: &str, range: std::ops::RangeInclusive<usize>| {
        range.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_')
    };
    let inside = |start: &str, end: &str| text.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
    if let Some(code) = inside("__", "__").or_else(|| inside(">>", "<<")) {
        return letters(code, 2..=12);
    }
    let Some((language, place)) = text.split_once('_') else { return false };
    letters(language, 2..=3) && letters(place, 2..=4) && place.as_bytes()[0].is_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_languages_are_told_from_words() {
        for token in ["__en__", "__zh__", ">>fra<<", ">>cmn_Hans<<", "eng_Latn", "en_XX", "zh_CN"] {
            assert!(is_language(token), "{token}");
        }
        for token in ["en", "▁the", "__", "____", ">><<", "<s>", "snake_case", "a_B", "eng_latn", "__1__"] {
            assert!(!is_language(token), "{token}");
        }
    }

    /// Every form of vocabulary against transformers', on texts that are hard to split.
    #[test]
    fn tokens_are_those_of_the_reference() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/seq2seq");
        let reference: Value = serde_json::from_slice(&std::fs::read(golden.join("texts.json")).unwrap()).unwrap();
        for (name, reference) in reference.as_object().unwrap() {
            let end = if name == "marian" {
                0
            } else if name.contains("t5") {
                1
            } else {
                2
            };
            let texts = Texts::load(&golden.join(name), 64, end).unwrap();
            let pieces = matches!(texts.form, Form::Pieces(_));
            for case in reference["cases"].as_array().unwrap() {
                let text = case["text"].as_str().unwrap();
                // Where a text may not hold special tokens, what looks like one is text.
                if pieces && [">>", "__", "</"].iter().any(|mark| text.contains(mark)) {
                    continue;
                }
                assert_eq!(serde_json::json!(texts.encode(text, 1000).unwrap()), case["plain"], "{name}: {text:?}");
            }
            for case in reference["back"].as_array().unwrap() {
                let tokens: Vec<u32> = serde_json::from_value(case["tokens"].clone()).unwrap();
                assert_eq!(texts.decode(&tokens).unwrap(), case["text"].as_str().unwrap(), "{name}: {tokens:?}");
            }
        }
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let text = "日".repeat(100);
        assert_eq!(cut(&text, 1).len(), 63);
        assert_eq!(cut("short", 1), "short");
    }
}

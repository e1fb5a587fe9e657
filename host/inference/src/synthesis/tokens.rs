//! From a text to a model's tokens, as transformers' `VitsTokenizer` does it: letter by letter.
//!
//! What a model's letters are is said by `vocab.json`, and what is done to a text first by `tokenizer_config.json`. Two
//! steps that the reference leaves to other programs are refused by name instead of left out: romanization (uroman) and
//! the finding of phonemes (phonemizer, espeak).

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value};

use crate::store::read_text;

/// Bounds of the two files.
const VOCABULARY_BYTES: u64 = 16 << 20;
const CONFIG_BYTES: u64 = 4 << 20;
/// The most texts of several letters in a vocabulary that a tokenizer looks for.
const MOST_WORDS: usize = 64;

/// A tokenizer.
#[derive(Debug)]
pub(super) struct Tokens {
    letters: HashMap<char, u32>,
    /// Texts of several letters that keep their case.
    words: Vec<String>,
    /// Texts that are one token each and stand by themselves, with no blank around them.
    special: Vec<(String, u32)>,
    unknown: Option<u32>,
    /// The code that the tokenizer's file has for the language.
    pub(super) language: Option<String>,
    add_blank: bool,
    normalize: bool,
    /// Whether texts have to be phonemes.
    pub(super) phonemes: bool,
    roman: bool,
    vocabulary: usize,
}

/// Why a text is no tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TextFault {
    /// The model reads Latin letters, into which other scripts are romanized before.
    #[error("has characters beyond ASCII, and the model reads romanized text; romanize it first, as uroman does")]
    NotRoman,
}

impl Tokens {
    /// Reads `vocab.json` and, where there is one, `tokenizer_config.json` of `folder`, for a model of `vocabulary` tokens.
    pub(super) fn load(folder: &Path, vocabulary: usize) -> Result<Tokens, String> {
        let path = folder.join("vocab.json");
        let named = |why: &str| format!("{}: {why}", path.display());
        let text = read_text(&path, VOCABULARY_BYTES).map_err(|error| error.to_string())?;
        let entries: Map<String, Value> =
            serde_json::from_slice(&text).map_err(|error| named(&format!("it is no map of tokens: {error}")))?;
        let (mut letters, mut words, mut ids) = (HashMap::new(), Vec::new(), HashMap::new());
        for (token, id) in &entries {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or_else(|| named(&format!("the token {token:.40?} has no number")))?;
            let mut rest = token.chars();
            match (rest.next(), rest.next()) {
                (Some(letter), None) => drop(letters.insert(letter, id)),
                (Some(_), Some(_)) => words.push(token.clone()),
                _ => return Err(named("a token is empty")),
            }
            ids.insert(token.as_str(), id);
        }
        if words.len() > MOST_WORDS {
            return Err(named(&format!("it has {} tokens of several letters; VITS reads letters", words.len())));
        }
        let config = object(&folder.join("tokenizer_config.json"))?;
        let more = object(&folder.join("special_tokens_map.json"))?;
        let added = object(&folder.join("added_tokens.json"))?;
        let flag = |key: &str, usual: bool| config.get(key).and_then(Value::as_bool).unwrap_or(usual);
        let number = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let id_of = |token: &str| ids.get(token).copied().or_else(|| added.get(token).and_then(number));
        let content = |value: &Value| value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned);
        let named_token = |key: &str| config.get(key).or_else(|| more.get(key)).and_then(content);
        // A token that is in no list is what a tokenizer adds at the end.
        let special: Vec<(String, u32)> = ["pad_token", "unk_token", "bos_token", "eos_token"]
            .iter()
            .filter_map(|key| named_token(key))
            .filter(|token| !token.is_empty())
            .map(|token| (id_of(&token).unwrap_or(entries.len() as u32), token))
            .map(|(id, token)| (token, id))
            .collect();
        words.extend(special.iter().filter(|(token, _)| token.chars().count() > 1).map(|(token, _)| token.clone()));
        let unknown = named_token("unk_token").unwrap_or_else(|| "<unk>".to_owned());
        let unknown =
            id_of(&unknown).or_else(|| special.iter().find(|(token, _)| *token == unknown).map(|(_, id)| *id));
        Ok(Tokens {
            language: config.get("language").and_then(Value::as_str).map(str::to_owned),
            add_blank: flag("add_blank", true),
            normalize: flag("normalize", true),
            phonemes: flag("phonemize", true),
            roman: flag("is_uroman", false),
            letters,
            words,
            special,
            unknown,
            vocabulary,
        })
    }

    /// The tokens of a text, each less than the vocabulary. None at all for what has nothing to say.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, TextFault> {
        let mut text = if self.normalize { self.lowercase(text) } else { text.to_owned() };
        if self.language.as_deref() == Some("ron") {
            text = text.replace('ț', "ţ");
        }
        if self.roman && !text.is_ascii() {
            return Err(TextFault::NotRoman);
        }
        if self.phonemes {
            text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        } else if self.normalize {
            text = text.chars().filter(|letter| self.letters.contains_key(letter)).collect();
            text = text.trim().to_owned();
        }
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.split(&text))
    }

    /// In small letters, but for what is in the vocabulary as it is.
    fn lowercase(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            let word = self.words.iter().find(|word| rest.starts_with(word.as_str()));
            let length = match word {
                _ if self.letters.contains_key(&letter) => {
                    out.push(letter);
                    letter.len_utf8()
                }
                Some(word) => {
                    out.push_str(word);
                    word.len()
                }
                None => {
                    out.extend(letter.to_lowercase());
                    letter.len_utf8()
                }
            };
            rest = &rest[length..];
        }
        out
    }

    /// Letters with blanks between and around them. A special token ends a run of letters and has no blanks of its own, so
    /// that the padding of English, `k`, stands without them at the begin and the end of a text.
    fn split(&self, text: &str) -> Vec<u32> {
        let mut tokens = Vec::with_capacity(2 * text.len() + 1);
        let mut in_run = false;
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            if let Some((token, id)) = self.special.iter().find(|(token, _)| rest.starts_with(token.as_str())) {
                tokens.push(*id);
                in_run = false;
                rest = &rest[token.len()..];
                continue;
            }
            rest = &rest[letter.len_utf8()..];
            // The reference has no number for a letter where it has none for the unknown; it is left out here.
            let Some(id) = self.letters.get(&letter).copied().or(self.unknown) else { continue };
            if self.add_blank && !in_run {
                tokens.push(0);
            }
            tokens.push(id);
            if self.add_blank {
                tokens.push(0);
            }
            in_run = true;
        }
        // What the model has no vector for is read as the blank.
        let known = |id: u32| if (id as usize) < self.vocabulary { id } else { 0 };
        tokens.into_iter().map(known).collect()
    }
}

/// The JSON object in `path`; an empty one where there is no such file.
fn object(path: &Path) -> Result<Map<String, Value>, String> {
    if !path.exists() {
        return Ok(Map::new());
    }
    let text = read_text(path, CONFIG_BYTES).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|error| format!("{}: it is no JSON object: {error}", path.display()))
}

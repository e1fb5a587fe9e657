//! How a model is told the languages of a translation.

use serde_json::{Map, Value};

use super::generation::Generation;
use super::languages::{self, Language};
use super::model::unknown;
use super::tokens::Texts;
use crate::AiError;

/// Where the languages' tokens go.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Pair {
    /// The source's in front of the text and the end behind it; the target's is the answer's first after its start.
    Before { end: u32 },
    /// The end and the source's behind the text; the target's is the answer's start or, if forced, follows that.
    Behind { end: u32, forced: bool },
    /// The target's in front of the text, as `>>fra<<`; the source is known to the model.
    Target { end: u32, source: Option<Language> },
    /// Both are known to the model, where its files say them.
    Fixed { end: u32, source: Option<Language>, target: Option<Language> },
    /// Both are written out in a prompt.
    Prompt,
}

impl Pair {
    pub(super) fn read(
        architecture: &str,
        config: &Map<String, Value>,
        tokenizer: &Map<String, Value>,
        texts: &Texts,
        end: u32,
    ) -> Self {
        // Older checkpoints name the class in the model's configuration.
        let class = tokenizer.get("tokenizer_class").or(config.get("tokenizer_class"));
        let class = class.and_then(Value::as_str).unwrap_or_default();
        let legacy = tokenizer.get("legacy_behaviour").and_then(Value::as_bool).unwrap_or(false);
        match architecture {
            "t5" => Self::Prompt,
            "mbart" if !class.starts_with("MBart50") => Self::Behind { end, forced: false },
            "m2m_100" | "mbart" if legacy => Self::Behind { end, forced: true },
            "m2m_100" | "mbart" => Self::Before { end },
            _ => {
                let (source, target) = published(config, tokenizer);
                if texts.languages.keys().any(|token| token.starts_with(">>")) {
                    Self::Target { end, source }
                } else {
                    Self::Fixed { end, source, target }
                }
            }
        }
    }

    /// What stands before a text and behind it; `generation` is told what the answer begins with.
    pub(super) fn around(
        &self,
        texts: &Texts,
        source: Option<&str>,
        target: &str,
        generation: &mut Generation,
    ) -> Result<(Vec<u32>, Vec<u32>), AiError> {
        match self {
            Self::Before { end } => {
                let source = token(texts, "source_lang", source.unwrap_or("en"))?;
                generation.forced_first = Some(token(texts, "target_lang", target)?);
                Ok((vec![source], vec![*end]))
            }
            Self::Behind { end, forced } => {
                let source = token(texts, "source_lang", source.unwrap_or("en"))?;
                let target = token(texts, "target_lang", target)?;
                if *forced {
                    generation.forced_first = Some(target);
                } else {
                    (generation.start, generation.forced_first) = (target, None);
                }
                Ok((Vec::new(), vec![*end, source]))
            }
            Self::Target { end, source: own } => {
                same("source_lang", source, *own)?;
                Ok((vec![token(texts, "target_lang", target)?], vec![*end]))
            }
            Self::Fixed { end, source: own, target: own_target } => {
                same("source_lang", source, *own)?;
                same("target_lang", Some(target), *own_target)?;
                Ok((Vec::new(), vec![*end]))
            }
            Self::Prompt => Ok((Vec::new(), Vec::new())),
        }
    }
}

/// The token of a language.
fn token(texts: &Texts, property: &str, asked: &str) -> Result<u32, AiError> {
    let named = |language: Language| language.tokens().iter().find_map(|token| texts.languages.get(token)).copied();
    let wrapped = [asked.to_owned(), format!("__{asked}__"), format!(">>{asked}<<")];
    wrapped
        .iter()
        .find_map(|token| texts.languages.get(token).copied())
        .or_else(|| languages::find(asked).and_then(named))
        .ok_or_else(|| unknown(property, asked, languages::all().filter(|language| named(*language).is_some())))
}

/// Compares what a request says with the one language that the model has.
fn same(property: &str, asked: Option<&str>, own: Option<Language>) -> Result<(), AiError> {
    match (asked, own) {
        (Some(asked), Some(own)) if languages::find(asked) != Some(own) => {
            Err(unknown(property, asked, std::iter::once(own)))
        }
        _ => Ok(()),
    }
}

/// The languages that a model of one pair was published for: in its tokenizer's settings, or as the end of its name.
fn published(config: &Map<String, Value>, tokenizer: &Map<String, Value>) -> (Option<Language>, Option<Language>) {
    let said = |key: &str| tokenizer.get(key).and_then(Value::as_str);
    let name = config.get("_name_or_path").and_then(Value::as_str).unwrap_or_default();
    let mut ends = name.rsplit('-');
    let (target, source) = (ends.next(), ends.next());
    let named = |said: Option<&str>, part: Option<&str>| said.or(part).and_then(languages::find);
    (named(said("source_lang"), source), named(said("target_lang"), target))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    /// What an mBART with this class of tokenizer is told for English to Romanian: before, behind, start, forced first.
    fn told(tokenizer: Value) -> (Vec<u32>, Vec<u32>, u32, Option<u32>) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/seq2seq/mbart");
        let texts = Texts::load(&folder, 64, 2).unwrap();
        let settings = json!({ "decoder_start_token_id": 2, "eos_token_id": 2 });
        let mut generation = Generation::read(&[settings.as_object().unwrap()], 64).unwrap();
        let pair = Pair::read("mbart", &Map::new(), tokenizer.as_object().unwrap(), &texts, 2);
        let (before, behind) = pair.around(&texts, None, "Romanian", &mut generation).unwrap();
        (before, behind, generation.start, generation.forced_first)
    }

    #[test]
    fn languages_stand_where_the_tokenizer_puts_them() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/seq2seq/mbart");
        let languages = Texts::load(&folder, 64, 2).unwrap().languages;
        let (en, ro) = (languages["en_XX"], languages["ro_RO"]);
        assert_eq!(told(json!({ "tokenizer_class": "MBartTokenizer" })), (vec![], vec![2, en], ro, None));
        assert_eq!(told(json!({ "tokenizer_class": "MBart50Tokenizer" })), (vec![en], vec![2], 2, Some(ro)));
        let legacy = json!({ "tokenizer_class": "MBart50Tokenizer", "legacy_behaviour": true });
        assert_eq!(told(legacy), (vec![], vec![2, en], 2, Some(ro)));
    }

    #[test]
    fn published_pairs_are_read() {
        let codes = |config: Value, tokenizer: Value| {
            let (source, target) = published(config.as_object().unwrap(), tokenizer.as_object().unwrap());
            (source.map(|l| l.code), target.map(|l| l.code))
        };
        let name = json!({ "_name_or_path": "Helsinki-NLP/opus-mt-en-de" });
        assert_eq!(codes(name, json!({})), (Some("en"), Some("de")));
        assert_eq!(codes(json!({}), json!({ "source_lang": "eng", "target_lang": "fra" })), (Some("en"), Some("fr")));
        assert_eq!(codes(json!({ "_name_or_path": "opus-mt-en-ROMANCE" }), json!({})), (Some("en"), None));
        assert_eq!(codes(json!({}), json!({})), (None, None));
    }
}

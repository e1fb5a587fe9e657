//! Vocabularies in a checkpoint's directory: `tokenizer.json` with `tokenizer_config.json`, `generation_config.json` and
//! `config.json` beside it.
//!
//! A `tokenizer.json` describes a pipeline of any parts. Those that published language models are made of are read here;
//! any other is refused by its name, because a part that is passed over would give other tokens than the model was trained
//! on. Padding and truncation are the engine's matter and are not read.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::merge::{Alphabet, Bpe};
use super::pipeline::{Pipeline, flat, kind, unsupported};
use super::special::Special;
use super::{Encoder, Kind, Parts, TokenizerError, Vocabulary, Writing, byte_of, byte_tokens, stand_ins};
use crate::store::read_text;

/// Bytes of `tokenizer.json`: that of the largest published vocabulary (262,144 tokens) has 33 MB.
const MAX_TOKENIZER: u64 = 64 << 20;
/// Bytes of the other files.
const MAX_CONFIG: u64 = 4 << 20;

#[derive(Deserialize)]
struct TokenizerFile<M> {
    #[serde(default = "Vec::new")]
    added_tokens: Vec<AddedToken>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    model: M,
}

#[derive(Deserialize)]
struct ModelKind {
    #[serde(rename = "type", default)]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct BpeModel {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

/// Older files have `"a b"`, newer ones `["a", "b"]`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Text(String),
    Pair(String, String),
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize, Default)]
struct TokenizerConfig {
    bos_token: Option<NamedToken>,
    eos_token: Option<NamedToken>,
    add_bos_token: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NamedToken {
    Text(String),
    Token { content: String },
}

impl NamedToken {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Token { content: text } => text,
        }
    }
}

#[derive(Deserialize, Default)]
struct ModelConfig {
    bos_token_id: Option<Ids>,
    eos_token_id: Option<Ids>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl Ids {
    fn all(&self) -> &[u32] {
        match self {
            Self::One(id) => std::slice::from_ref(id),
            Self::Many(ids) => ids,
        }
    }
}

impl Vocabulary {
    /// Reads the tokenizer of a checkpoint whose files, as they are published, lie in `directory`.
    ///
    /// # Errors
    /// When `tokenizer.json` is missing, is of a kind that is not read, or does not fit together; when a file beside it is
    /// broken.
    pub fn from_hugging_face(directory: &Path) -> Result<Self, TokenizerError> {
        let text = read(directory, "tokenizer.json", MAX_TOKENIZER)?
            .ok_or_else(|| TokenizerError::File(format!("{} has no tokenizer.json", directory.display())))?;
        let config: TokenizerConfig = read_config(directory, "tokenizer_config.json")?.unwrap_or_default();
        let generation: ModelConfig = read_config(directory, "generation_config.json")?.unwrap_or_default();
        let model: ModelConfig = read_config(directory, "config.json")?.unwrap_or_default();
        from_texts(&text, &config, &[generation, model])
            .map_err(|error| in_file(&directory.join("tokenizer.json"), &error))
    }
}

fn in_file(path: &Path, error: &TokenizerError) -> TokenizerError {
    TokenizerError::File(format!("{}: {error}", path.display()))
}

fn read(directory: &Path, name: &str, limit: u64) -> Result<Option<Vec<u8>>, TokenizerError> {
    let path = directory.join(name);
    match path.try_exists() {
        Ok(false) => Ok(None),
        _ => match read_text(&path, limit) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => Err(TokenizerError::File(error.to_string())),
        },
    }
}

fn read_config<T: DeserializeOwned>(directory: &Path, name: &str) -> Result<Option<T>, TokenizerError> {
    let Some(bytes) = read(directory, name, MAX_CONFIG)? else { return Ok(None) };
    let broken =
        |error: serde_json::Error| TokenizerError::File(format!("{}: {error}", directory.join(name).display()));
    serde_json::from_slice(&bytes).map(Some).map_err(broken)
}

pub(super) fn unusable(fault: impl Into<String>) -> TokenizerError {
    TokenizerError::Vocabulary(fault.into())
}

pub(super) fn brief(text: &str) -> String {
    text.chars().take(80).collect()
}

fn from_texts(bytes: &[u8], config: &TokenizerConfig, models: &[ModelConfig]) -> Result<Vocabulary, TokenizerError> {
    let broken = |error: serde_json::Error| unusable(error.to_string());
    let outline: TokenizerFile<ModelKind> = serde_json::from_slice(bytes).map_err(broken)?;
    match outline.model.kind.as_deref() {
        None | Some("BPE") => {}
        Some(other) => return Err(unusable(format!("/model/type is {:?}; only \"BPE\" is supported", brief(other)))),
    }
    drop(outline);
    let file: TokenizerFile<BpeModel> = serde_json::from_slice(bytes).map_err(broken)?;
    let model = &file.model;
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err(unusable("/model/dropout makes tokens random"));
    }
    for (name, affix) in [
        ("continuing_subword_prefix", &model.continuing_subword_prefix),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if affix.as_ref().is_some_and(|affix| !affix.is_empty()) {
            return Err(unusable(format!("/model/{name} is not supported")));
        }
    }
    for part in flat(file.decoder.as_ref(), "decoders") {
        match kind(part) {
            "ByteLevel" | "Replace" | "ByteFallback" | "Fuse" | "Strip" | "Metaspace" => {}
            other => return Err(unsupported("decoder", other)),
        }
    }
    let pipeline = Pipeline::read(file.normalizer.as_ref(), file.pre_tokenizer.as_ref())?;
    let tokens = tokens(&file, &pipeline)?;
    let bpe = bpe(model, &pipeline, &tokens)?;
    let special = file.added_tokens.iter().map(|token| Special {
        strips_before: token.lstrip,
        strips_behind: token.rstrip,
        single_word: token.single_word,
        ..Special::new(token.id, &token.content)
    });
    let ends = Ends::read(&file, config, models, tokens.len())?;
    Vocabulary::assemble(Parts {
        special: special.collect(),
        encoder: Encoder::Bpe { splitter: pipeline.splitter, bpe, compose: pipeline.compose, escape: pipeline.escape },
        space: pipeline.space,
        collapse: false,
        bounded: true,
        writing: if pipeline.bytes { Writing::StandIns } else { Writing::Escaped },
        added_escaped: pipeline.escape,
        bos: ends.bos,
        eos: ends.eos,
        end_of_turn: ends.others,
        add_bos: ends.add_bos,
        tokens,
    })
}

/// All tokens by their ids. A gap is a token that is none.
fn tokens<'f>(file: &'f TokenizerFile<BpeModel>, pipeline: &Pipeline) -> Result<Vec<(&'f str, Kind)>, TokenizerError> {
    let listed = file.model.vocab.iter().map(|(text, id)| (text.as_str(), *id));
    let added = file.added_tokens.iter().map(|token| (token.content.as_str(), token.id));
    let count = file.model.vocab.len() + file.added_tokens.len();
    let most = listed.clone().chain(added).map(|(_, id)| id).max().ok_or_else(|| unusable("it has no tokens"))?;
    if most as usize > 2 * count + (1 << 16) {
        return Err(unusable(format!("token {most} among {count} tokens")));
    }
    let mut tokens = vec![("", Kind::Unused); most as usize + 1];
    for (text, id) in listed {
        let entry = &mut tokens[id as usize];
        if *entry != ("", Kind::Unused) {
            return Err(unusable(format!("/model/vocab has token {id} twice")));
        }
        let byte = !pipeline.bytes && file.model.byte_fallback && byte_of(text).is_some();
        *entry = (text, if byte { Kind::Byte } else { Kind::Normal });
    }
    for token in &file.added_tokens {
        let entry = &mut tokens[token.id as usize];
        if entry.1 != Kind::Unused && entry.0 != token.content {
            return Err(unusable(format!(
                "/added_tokens has {:?} for token {}, which is {:?}",
                brief(&token.content),
                token.id,
                brief(entry.0)
            )));
        }
        *entry = (&token.content, if token.special { Kind::Control } else { Kind::UserDefined });
    }
    Ok(tokens)
}

fn bpe(model: &BpeModel, pipeline: &Pipeline, tokens: &[(&str, Kind)]) -> Result<Bpe, TokenizerError> {
    let id = |text: &str| model.vocab.get(text).copied();
    let mut merges = HashMap::with_capacity(model.merges.len());
    for (rank, merge) in (0u32..).zip(&model.merges) {
        let (first, second) = match merge {
            Merge::Pair(first, second) => (first.as_str(), second.as_str()),
            Merge::Text(text) => {
                text.split_once(' ').ok_or_else(|| unusable(format!("/model/merges/{rank} has no space")))?
            }
        };
        let (Some(a), Some(b), Some(made)) = (id(first), id(second), id(&[first, second].concat())) else {
            let fault =
                format!("/model/merges/{rank} names or makes a token that is not in /model/vocab: {:?}", brief(first));
            return Err(unusable(fault));
        };
        merges.entry((a, b)).or_insert((rank, made));
    }
    let plain = || model.vocab.iter().filter(|(_, id)| tokens[**id as usize].1 != Kind::Control);
    let stand_ins = stand_ins();
    let alphabet = if pipeline.bytes {
        let mut bytes = Box::new([None; 256]);
        for (stand_in, byte) in &stand_ins {
            bytes[usize::from(*byte)] = id(stand_in.encode_utf8(&mut [0; 4]));
        }
        Alphabet::Bytes(bytes)
    } else {
        let single = plain().filter_map(|(text, id)| {
            let mut chars = text.chars();
            chars.next().filter(|_| chars.as_str().is_empty()).map(|c| (c, *id))
        });
        let bytes = model.byte_fallback.then(|| byte_tokens(model.vocab.iter().map(|(text, id)| (*id, text.as_str()))));
        Alphabet::Characters(single.collect(), bytes.flatten())
    };
    let mut whole = HashMap::new();
    if model.ignore_merges {
        for (text, id) in plain() {
            let bytes: Option<Vec<u8>> = match pipeline.bytes {
                true => text.chars().map(|c| stand_ins.get(&c).copied()).collect(),
                false => Some(text.as_bytes().to_vec()),
            };
            whole.extend(bytes.map(|bytes| (bytes.into(), *id)));
        }
    }
    let unknown = match &model.unk_token {
        None => None,
        Some(text) => Some(
            id(text).ok_or_else(|| unusable(format!("/model/unk_token {:?} is not in /model/vocab", brief(text))))?,
        ),
    };
    Ok(Bpe { alphabet, merges, whole, unknown, fuse_unknown: model.fuse_unk })
}

/// The tokens at which sequences and turns begin and end.
struct Ends {
    bos: Option<u32>,
    eos: Option<u32>,
    others: Vec<u32>,
    add_bos: bool,
}

impl Ends {
    fn read(
        file: &TokenizerFile<BpeModel>,
        config: &TokenizerConfig,
        models: &[ModelConfig],
        tokens: usize,
    ) -> Result<Self, TokenizerError> {
        let id = |text: &str| {
            let added = file.added_tokens.iter().find(|token| token.content == text).map(|token| token.id);
            added.or_else(|| file.model.vocab.get(text).copied())
        };
        let named = |token: &Option<NamedToken>| token.as_ref().and_then(|token| id(token.text()));
        let mut others = Vec::new();
        // A list in generation_config.json stands above the one in config.json.
        if let Some(ids) = models.iter().find_map(|model| model.eos_token_id.as_ref()) {
            others.extend_from_slice(ids.all());
        }
        let numbered = models.iter().find_map(|model| model.bos_token_id.as_ref()?.all().first().copied());
        for id in others.iter().chain(&numbered) {
            if *id as usize >= tokens {
                return Err(unusable(format!("a configuration names token {id} among {tokens} tokens")));
            }
        }
        // The template of single sequences begins with the token that all of them begin with.
        let templates = flat(file.post_processor.as_ref(), "processors");
        let first = templates.iter().find_map(|part| part["single"].get(0)?["SpecialToken"]["id"].as_str());
        let first = first.and_then(id);
        let bos = named(&config.bos_token).or(first).or(numbered);
        Ok(Self {
            bos,
            eos: named(&config.eos_token).or_else(|| others.first().copied()),
            others,
            add_bos: config.add_bos_token.unwrap_or(first.is_some() && first == bos),
        })
    }
}

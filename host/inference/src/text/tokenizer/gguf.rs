//! Vocabularies in GGUF files: `tokenizer.ggml.*`.

use std::collections::HashMap;

use super::merge::{Alphabet, Bpe, Spm};
use super::rules::{self, Rule};
use super::special::Special;
use super::{Encoder, Kind, Parts, Space, TokenizerError, Vocabulary, Writing, byte_of, byte_tokens, stand_ins};
use crate::text::gguf::{GgufError, View};

const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";

impl Vocabulary {
    /// Reads `tokenizer.ggml.*`.
    ///
    /// # Errors
    /// When the vocabulary is of an unknown kind or does not fit together.
    pub fn from_gguf(file: View<'_>) -> Result<Self, TokenizerError> {
        let model = match file.text("tokenizer.ggml.model")? {
            Some(model @ ("gpt2" | "gemma4" | "llama")) => model,
            Some(other) => return Err(TokenizerError::Model(other.chars().take(80).collect())),
            None => return Err(GgufError::Missing("metadata tokenizer.ggml.model".into()).into()),
        };
        let tokens = tokens(file)?;
        let ids = ids(&tokens)?;
        if model == "llama" { spm(file, tokens, &ids) } else { bpe(file, model, tokens, &ids) }
    }
}

fn bpe(
    file: View<'_>,
    model: &str,
    tokens: Vec<(&str, Kind)>,
    ids: &HashMap<&str, u32>,
) -> Result<Vocabulary, TokenizerError> {
    let named = file.text("tokenizer.ggml.pre")?.unwrap_or("default");
    let pre = if model == "gemma4" { model } else { named };
    let Some(rule) = rules::rule(pre) else {
        return Err(TokenizerError::Splitting(pre.chars().take(80).collect()));
    };
    let Rule { splitter, compose, whole_words, add_bos, characters } = rule;
    let mut merges = HashMap::new();
    let listed = file.texts(MERGES)?.ok_or_else(|| GgufError::Missing(format!("metadata {MERGES}")))?;
    for (rank, merge) in (0u32..).zip(listed) {
        let (pair, made) = merged(merge, ids)?;
        merges.entry(pair).or_insert((rank, made));
    }
    let plain = || (0u32..).zip(&tokens).filter(|(_, (_, kind))| *kind == Kind::Normal);
    let stand_ins = stand_ins();
    let alphabet = if characters {
        let single = plain().filter_map(|(id, (text, _))| {
            let mut chars = text.chars();
            chars.next().filter(|_| chars.as_str().is_empty()).map(|c| (c, id))
        });
        Alphabet::Characters(single.collect(), byte_tokens(numbered(&tokens)))
    } else {
        let mut bytes = Box::new([None; 256]);
        for (stand_in, byte) in &stand_ins {
            bytes[usize::from(*byte)] = ids.get(stand_in.encode_utf8(&mut [0; 4]) as &str).copied();
        }
        Alphabet::Bytes(bytes)
    };
    let mut whole = HashMap::new();
    for (id, (text, _)) in plain() {
        if !whole_words {
            break;
        }
        if characters {
            if text.bytes().all(|byte| byte == b'\n') {
                whole.insert(text.as_bytes().into(), id);
            }
        } else {
            let bytes: Option<Vec<u8>> = text.chars().map(|c| stand_ins.get(&c).copied()).collect();
            whole.extend(bytes.map(|bytes| (bytes.into(), id)));
        }
    }
    let bpe = Bpe { alphabet, merges, whole, unknown: None, fuse_unknown: false };
    let ends = Ends::read(file, tokens.len(), None, None)?;
    Vocabulary::assemble(Parts {
        encoder: Encoder::Bpe { splitter, bpe, compose, escape: characters },
        space: Space::Never,
        collapse: false,
        bounded: true,
        writing: if characters { Writing::Escaped } else { Writing::StandIns },
        added_escaped: false,
        special: Vec::new(),
        tokens,
        add_bos: file.boolean("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos),
        bos: ends.bos,
        eos: ends.eos,
        end_of_turn: ends.others,
    })
}

/// The tokens that a merge joins, and the one that it makes.
fn merged(merge: &str, ids: &HashMap<&str, u32>) -> Result<((u32, u32), u32), GgufError> {
    let fault = |fault: &str| GgufError::invalid(format!("metadata {MERGES}"), format!("{:?} {fault}", brief(merge)));
    // The first part may itself begin with a space.
    let space = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').ok_or_else(|| fault("has no space"))?.0;
    let id = |text: &str| ids.get(text).copied();
    let (first, second) = (&merge[..space], &merge[space + 1..]);
    match (id(first), id(second), id(&[first, second].concat())) {
        (Some(first), Some(second), Some(made)) => Ok(((first, second), made)),
        _ => Err(fault("names or makes a token that is not in the vocabulary")),
    }
}

fn spm(file: View<'_>, tokens: Vec<(&str, Kind)>, ids: &HashMap<&str, u32>) -> Result<Vocabulary, TokenizerError> {
    let key = "tokenizer.ggml.scores";
    let scores = file.floats(key)?.ok_or_else(|| GgufError::Missing(format!("metadata {key}")))?;
    if scores.len() != tokens.len() {
        let fault = format!("{} scores for {} tokens", scores.len(), tokens.len());
        return Err(GgufError::invalid(format!("metadata {key}"), fault).into());
    }
    let bytes = byte_tokens(numbered(&tokens));
    let unknown =
        token_id(file, "tokenizer.ggml.unknown_token_id", tokens.len())?.or_else(|| ids.get("<unk>").copied());
    if bytes.is_none() && unknown.is_none() {
        let fault = "neither tokens for all bytes (<0x00> to <0xFF>) nor one for unknown characters";
        return Err(GgufError::invalid(format!("metadata {TOKENS}"), fault).into());
    }
    let mergeable = |kind: Kind| matches!(kind, Kind::Normal | Kind::UserDefined | Kind::Unused);
    let texts =
        (0u32..).zip(&tokens).zip(&scores).filter(|((_, (text, kind)), _)| mergeable(*kind) && !text.is_empty());
    let texts = texts.map(|((id, (text, _)), score)| ((*text).into(), (id, Spm::rank(*score))));
    let model = Spm { tokens: texts.collect(), bytes, unknown };
    let collapse = file.boolean("tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(false);
    let spaced = file.boolean("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    // Where the file names none, they are where SentencePiece puts them.
    let ends = Ends::read(file, tokens.len(), Some(1), Some(2))?;
    Vocabulary::assemble(Parts {
        encoder: Encoder::Spm(model),
        collapse,
        space: if spaced { Space::Sections } else { Space::Never },
        bounded: !collapse,
        writing: Writing::Escaped,
        added_escaped: false,
        special: stripping(file, &tokens)?,
        add_bos: file.boolean("tokenizer.ggml.add_bos_token")?.unwrap_or(true),
        bos: ends.bos,
        eos: ends.eos,
        end_of_turn: ends.others,
        tokens,
    })
}

/// Phi 3's added tokens take the white space behind them. The format has no place for that; llama.cpp goes by the model's
/// name, and so does this.
fn stripping(file: View<'_>, tokens: &[(&str, Kind)]) -> Result<Vec<Special>, GgufError> {
    let name = file.text("general.name")?.unwrap_or_default().to_lowercase();
    if !name.contains("phi-3") && !name.contains("phi3") {
        return Ok(Vec::new());
    }
    let strips = |text: &str| !matches!(text, "<unk>" | "<s>" | "<|endoftext|>");
    let special = (0u32..).zip(tokens).filter(|(_, (_, kind))| matches!(kind, Kind::Control | Kind::UserDefined));
    Ok(special.map(|(id, (text, _))| Special { strips_behind: strips(text), ..Special::new(id, text) }).collect())
}

/// The tokens and what each is.
fn tokens(file: View<'_>) -> Result<Vec<(&str, Kind)>, TokenizerError> {
    let texts = file.texts(TOKENS)?.ok_or_else(|| GgufError::Missing(format!("metadata {TOKENS}")))?;
    if texts.is_empty() || u32::try_from(texts.len()).is_err() {
        return Err(TokenizerError::Vocabulary(format!("{} tokens", texts.len())));
    }
    let types = file.integers("tokenizer.ggml.token_type")?.unwrap_or_default();
    if !types.is_empty() && types.len() != texts.len() {
        let fault = format!("{} tokens but {} token types", texts.len(), types.len());
        return Err(TokenizerError::Vocabulary(fault));
    }
    let kind = |at: usize, text: &str| match types.get(at) {
        // A token for unknown characters is no text either.
        Some(2 | 3) => Kind::Control,
        Some(4) => Kind::UserDefined,
        Some(5) => Kind::Unused,
        Some(6) if byte_of(text).is_some() => Kind::Byte,
        _ => Kind::Normal,
    };
    Ok(texts.iter().enumerate().map(|(at, text)| (*text, kind(at, text))).collect())
}

/// Each text's token. Empty ones have none.
fn ids<'a>(tokens: &[(&'a str, Kind)]) -> Result<HashMap<&'a str, u32>, GgufError> {
    let mut ids = HashMap::with_capacity(tokens.len());
    for (id, text) in numbered(tokens).filter(|(_, text)| !text.is_empty()) {
        if let Some(other) = ids.insert(text, id) {
            let fault = format!("token {id} is {:?}, and so is token {other}", brief(text));
            return Err(GgufError::invalid(format!("metadata {TOKENS}"), fault));
        }
    }
    Ok(ids)
}

fn numbered<'t, 'a>(tokens: &'t [(&'a str, Kind)]) -> impl Iterator<Item = (u32, &'a str)> + use<'t, 'a> {
    (0u32..).zip(tokens).map(|(id, (text, _))| (id, *text))
}

fn brief(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The tokens at which sequences and turns begin and end.
struct Ends {
    bos: Option<u32>,
    eos: Option<u32>,
    others: Vec<u32>,
}

impl Ends {
    fn read(file: View<'_>, tokens: usize, bos: Option<u32>, eos: Option<u32>) -> Result<Self, GgufError> {
        let id = |key: &str| token_id(file, key, tokens);
        let usual = |id: Option<u32>| id.filter(|id| (*id as usize) < tokens);
        let others = [id("tokenizer.ggml.eot_token_id")?, id("tokenizer.ggml.eom_token_id")?];
        Ok(Self {
            bos: id("tokenizer.ggml.bos_token_id")?.or(usual(bos)),
            eos: id("tokenizer.ggml.eos_token_id")?.or(usual(eos)),
            others: others.into_iter().flatten().collect(),
        })
    }
}

fn token_id(file: View<'_>, key: &str, tokens: usize) -> Result<Option<u32>, GgufError> {
    match file.unsigned(key)? {
        None => Ok(None),
        Some(id) => match u32::try_from(id) {
            Ok(id) if (id as usize) < tokens => Ok(Some(id)),
            _ => Err(GgufError::invalid(key, format!("token {id} is not in the vocabulary of {tokens}"))),
        },
    }
}

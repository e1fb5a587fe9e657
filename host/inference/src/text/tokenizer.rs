//! Text to tokens and back, built from a GGUF file's metadata.
//!
//! The `tokenizers` crate does the work; what is ours is the choice of its parts. A GGUF names its splitting rule in
//! `tokenizer.ggml.pre`, and a wrong rule still gives plausible tokens and a model that is quietly worse, so a rule
//! that is not known here is refused. candle's own conversion gives `smollm` GPT-2's rule, which is why it is not used.
//!
//! Going back is done here, byte by byte: a token of a byte-level vocabulary may hold half a character, and
//! [`Detokenizer`] keeps it back until the rest comes.

use std::collections::HashMap;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use super::gguf::{GgufError, View};
use super::marks::{self, Marks};

/// Token types of the format: a token that stands for no text, and one that its author added to the vocabulary.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// Control tokens that end a turn in some model's template, beside the one that the file names.
const END_OF_TURN: [&str; 8] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
];

/// Why there is no tokenizer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The metadata is not right.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A kind of vocabulary that is not read yet.
    #[error("tokenizer.ggml.model is {0:?}; only \"gpt2\" (byte-level BPE) vocabularies are supported")]
    Model(String),
    /// A splitting rule that is not known.
    #[error(
        "tokenizer.ggml.pre is {0:?}; the supported splitting rules are \"smollm\", \"gpt-2\", \"default\", \
         \"llama-bpe\" and \"qwen2\""
    )]
    Splitting(String),
    /// The vocabulary does not fit together.
    #[error("the tokenizer's vocabulary is not usable: {0}")]
    Vocabulary(String),
    /// A text that cannot be split.
    #[error("the text cannot be tokenized: {0}")]
    Encode(String),
}

/// A model's vocabulary.
pub struct Vocabulary {
    tokenizer: Tokenizer,
    /// Each token's bytes, one after another; none for control tokens.
    bytes: Vec<u8>,
    ends: Vec<u32>,
    longest: usize,
    bos: Option<u32>,
    end_of_turn: Vec<u32>,
    marks: Marks,
    add_bos: bool,
    bos_text: String,
    eos_text: String,
}

impl Vocabulary {
    /// Reads `tokenizer.ggml.*`.
    ///
    /// # Errors
    /// When the vocabulary is of an unknown kind or does not fit together.
    pub fn from_gguf(file: View<'_>) -> Result<Self, TokenizerError> {
        match file.text("tokenizer.ggml.model")? {
            Some("gpt2") => {}
            Some(other) => return Err(TokenizerError::Model(other.chars().take(80).collect())),
            None => return Err(GgufError::Missing("metadata tokenizer.ggml.model".into()).into()),
        }
        let tokens = required(file, "tokenizer.ggml.tokens")?;
        let merges = required(file, "tokenizer.ggml.merges")?;
        let types = file.integers("tokenizer.ggml.token_type")?.unwrap_or_default();
        let pre = file.text("tokenizer.ggml.pre")?.unwrap_or("default");
        if tokens.is_empty() || u32::try_from(tokens.len()).is_err() {
            return Err(TokenizerError::Vocabulary(format!("{} tokens", tokens.len())));
        }
        if !types.is_empty() && types.len() != tokens.len() {
            let fault = format!("{} tokens but {} token types", tokens.len(), types.len());
            return Err(TokenizerError::Vocabulary(fault));
        }
        let kind = |id: usize| types.get(id).copied().unwrap_or(1);
        let tokenizer = build(pre, &tokens, &merges, &kind)?;
        let id_of = |key: &str| token_id(file, key, tokens.len());
        let (bos, eos) = (id_of("tokenizer.ggml.bos_token_id")?, id_of("tokenizer.ggml.eos_token_id")?);
        let named = [eos, id_of("tokenizer.ggml.eot_token_id")?, id_of("tokenizer.ggml.eom_token_id")?];
        let mut end_of_turn: Vec<u32> = named.into_iter().flatten().collect();
        for (id, token) in (0u32..).zip(&tokens) {
            if kind(id as usize) == CONTROL && END_OF_TURN.contains(token) && !end_of_turn.contains(&id) {
                end_of_turn.push(id);
            }
        }
        let (bytes, ends, longest) = token_bytes(&tokens, &kind);
        let control = (0..tokens.len()).filter(|id| kind(*id) == CONTROL);
        let marks = Marks::new(control.map(|id| tokens[id]));
        let text = |id: Option<u32>| {
            id.and_then(|id| tokens.get(id as usize)).map(|token| (*token).to_owned()).unwrap_or_default()
        };
        let llama3 = matches!(pre, "llama-bpe" | "llama3" | "llama-v3");
        Ok(Self {
            add_bos: file.boolean("tokenizer.ggml.add_bos_token")?.unwrap_or(llama3),
            bos_text: text(bos),
            eos_text: text(eos),
            tokenizer,
            bytes,
            ends,
            longest,
            bos,
            end_of_turn,
            marks,
        })
    }

    /// Tokens in the vocabulary.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none; never true for a vocabulary that was built.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The tokens of `text`. Texts of control tokens (`<|im_start|>`) become those tokens. A token that must start
    /// every sequence is put in front, unless the text has it already.
    ///
    /// # Errors
    /// When the tokenizer cannot split the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_pieces([text])
    }

    /// As [`Self::encode`], of a prompt rendered from messages whose [`Self::marks`] were cut.
    ///
    /// # Errors
    /// When the tokenizer cannot split the text.
    pub fn encode_rendered(&self, prompt: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_pieces(marks::pieces(prompt))
    }

    fn encode_pieces<'a>(&self, pieces: impl IntoIterator<Item = &'a str>) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        for piece in pieces {
            let encoding = self.tokenizer.encode_fast(piece, false);
            ids.extend_from_slice(encoding.map_err(|e| TokenizerError::Encode(e.to_string()))?.get_ids());
        }
        if let (true, Some(bos)) = (self.add_bos, self.bos)
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// The tokens of a text that holds no control tokens, whatever it says.
    pub(crate) fn encode_plain(&self, text: &str) -> Vec<u32> {
        let cut = self.marks.cut_text(text.to_owned());
        let pieces = marks::pieces(&cut).filter_map(|piece| self.tokenizer.encode_fast(piece, false).ok());
        pieces.flat_map(|encoding| encoding.get_ids().to_vec()).collect()
    }

    /// The text that stands for a control token; none for other tokens.
    pub(crate) fn control_text(&self, token: u32) -> Option<String> {
        if !self.token(token).is_empty() {
            return None;
        }
        self.tokenizer.id_to_token(token)
    }

    /// The token that ends the model's turn.
    pub(crate) fn end_of_turn(&self) -> Option<u32> {
        self.end_of_turn.first().copied()
    }

    /// The texts that [`Self::encode`] takes for control tokens.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// A lower bound on the tokens of a text of `bytes` bytes, known without reading it. Normalization may compose
    /// characters, which makes a text at most three times shorter.
    pub fn fewest_tokens(&self, bytes: usize) -> usize {
        bytes / 4 / self.longest.max(1)
    }

    /// Whether `token` ends the model's turn.
    pub fn ends_turn(&self, token: u32) -> bool {
        self.end_of_turn.contains(&token)
    }

    /// The text of the token that starts a sequence, for templates; empty if there is none.
    pub fn bos_text(&self) -> &str {
        &self.bos_text
    }

    /// The text of the token that ends a sequence, for templates; empty if there is none.
    pub fn eos_text(&self) -> &str {
        &self.eos_text
    }

    /// A token's bytes: any part of UTF-8; none for control tokens and numbers that are no token.
    pub fn token(&self, token: u32) -> &[u8] {
        let id = token as usize;
        let Some(end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start as usize..*end as usize]
    }
}

fn required<'a>(file: View<'a>, key: &str) -> Result<Vec<&'a str>, GgufError> {
    file.texts(key)?.ok_or_else(|| GgufError::Missing(format!("metadata {key}")))
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

type Fault = Box<dyn std::error::Error + Send + Sync>;

fn unusable(fault: Fault) -> TokenizerError {
    TokenizerError::Vocabulary(fault.to_string())
}

fn build(
    pre: &str,
    tokens: &[&str],
    merges: &[&str],
    kind: &dyn Fn(usize) -> i64,
) -> Result<Tokenizer, TokenizerError> {
    let splitting = splitting(pre)?;
    let vocab: Vocab = (0u32..).zip(tokens).map(|(id, token)| ((*token).to_owned(), id)).collect();
    let mut pairs = Vec::with_capacity(merges.len());
    for merge in merges {
        let Some((a, b)) = merge.split_once(' ') else {
            let merge: String = merge.chars().take(80).collect();
            return Err(TokenizerError::Vocabulary(format!("merge {merge:?} has no space")));
        };
        pairs.push((a.to_owned(), b.to_owned()));
    }
    let bpe = BPE::builder().vocab_and_merges(vocab, pairs).ignore_merges(splitting.ignore_merges);
    let mut tokenizer = Tokenizer::new(bpe.build().map_err(unusable)?);
    if splitting.normalize {
        tokenizer.with_normalizer(Some(NFC)).map_err(unusable)?;
    }
    tokenizer.with_pre_tokenizer(Some(splitting.pre_tokenizer));
    let added = |wanted: i64, special: bool| -> Vec<AddedToken> {
        let ids = (0..tokens.len()).filter(|id| kind(*id) == wanted);
        ids.map(|id| AddedToken::from(tokens[id], special).normalized(false)).collect()
    };
    tokenizer.add_special_tokens(added(CONTROL, true)).map_err(unusable)?;
    tokenizer.add_tokens(added(USER_DEFINED, false)).map_err(unusable)?;
    Ok(tokenizer)
}

struct Splitting {
    pre_tokenizer: PreTokenizerWrapper,
    normalize: bool,
    ignore_merges: bool,
}

/// How a text falls into words before merging, by the name that llama.cpp gives the rule.
fn splitting(pre: &str) -> Result<Splitting, TokenizerError> {
    let plain =
        |pre_tokenizer: PreTokenizerWrapper| Splitting { pre_tokenizer, normalize: false, ignore_merges: false };
    match pre {
        "smollm" => {
            let parts = vec![Digits::new(true).into(), ByteLevel::new(false, true, true).into()];
            Ok(plain(Sequence::new(parts).into()))
        }
        "default" | "gpt-2" => Ok(plain(ByteLevel::new(false, true, true).into())),
        "llama-bpe" | "llama3" | "llama-v3" => {
            Ok(Splitting { pre_tokenizer: words(r"\p{N}{1,3}")?, normalize: false, ignore_merges: true })
        }
        "qwen2" => Ok(Splitting { pre_tokenizer: words(r"\p{N}")?, normalize: true, ignore_merges: false }),
        other => Err(TokenizerError::Splitting(other.chars().take(80).collect())),
    }
}

/// Contractions, words with one leading sign, numbers, signs, line ends and spaces: the pattern published with Llama 3;
/// Qwen 2 differs in taking digits one by one.
fn words(digits: &str) -> Result<PreTokenizerWrapper, TokenizerError> {
    let pattern = [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|",
        digits,
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ]
    .concat();
    let split = Split::new(SplitPattern::Regex(pattern), SplitDelimiterBehavior::Isolated, false)
        .map_err(|e| TokenizerError::Vocabulary(e.to_string()))?;
    Ok(Sequence::new(vec![split.into(), ByteLevel::new(false, true, false).into()]).into())
}

/// Decodes the printable stand-ins that byte-level vocabularies use for bytes (GPT-2's `bytes_to_unicode`).
fn token_bytes(tokens: &[&str], kind: &dyn Fn(usize) -> i64) -> (Vec<u8>, Vec<u32>, usize) {
    let mut stand_ins = HashMap::new();
    let mut next = 256u32;
    for byte in 0..=255u8 {
        let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let point = if printable { u32::from(byte) } else { next };
        next += u32::from(!printable);
        stand_ins.extend(char::from_u32(point).map(|c| (c, byte)));
    }
    let (mut bytes, mut ends, mut longest) = (Vec::new(), Vec::with_capacity(tokens.len()), 0);
    for (id, token) in tokens.iter().enumerate() {
        let start = bytes.len();
        match kind(id) {
            CONTROL => {}
            USER_DEFINED => bytes.extend_from_slice(token.as_bytes()),
            _ => {
                for c in token.chars() {
                    match stand_ins.get(&c) {
                        Some(byte) => bytes.push(*byte),
                        None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                    }
                }
            }
        }
        // Strings in a file are bounded, their sum is not: what does not fit reads as empty.
        if u32::try_from(bytes.len()).is_err() {
            bytes.truncate(start);
        }
        longest = longest.max(token.len());
        ends.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    }
    (bytes, ends, longest)
}

/// Turns a sequence's tokens into text as they come.
///
/// What [`Self::push`] returns is always whole characters; bytes that can begin a character stay until it is complete.
/// Bytes that can begin none become U+FFFD, as `String::from_utf8_lossy` has it.
#[derive(Debug, Default)]
pub struct Detokenizer {
    pending: Vec<u8>,
}

impl Detokenizer {
    /// The text that `bytes`, the next token's, complete.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(rest) => {
                    text.push_str(rest);
                    self.pending.clear();
                    return text;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.pending[..valid]));
                    let Some(invalid) = error.error_len() else {
                        self.pending.drain(..valid);
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    self.pending.drain(..valid + invalid);
                }
            }
        }
    }

    /// What is left at the end: U+FFFD if the tokens stopped inside a character.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn halves_of_characters_wait_for_the_rest() {
        let mut detokenizer = Detokenizer::default();
        let text = "naïve 日本 🙂";
        let mut shown = String::new();
        for byte in text.bytes() {
            let part = detokenizer.push(&[byte]);
            assert!(!part.contains('\u{fffd}'));
            shown.push_str(&part);
        }
        assert_eq!(shown, text);
        assert_eq!(detokenizer.finish(), "");
        assert_eq!(detokenizer.push(&[0xf0, 0x9f]), "");
        assert_eq!(detokenizer.finish(), "\u{fffd}");
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_read_as_lossy_utf8(bytes in prop::collection::vec(any::<u8>(), 0..60), cut in 1usize..7) {
            let mut detokenizer = Detokenizer::default();
            let mut shown: String = bytes.chunks(cut).map(|part| detokenizer.push(part)).collect();
            shown.push_str(&detokenizer.finish());
            prop_assert_eq!(shown, String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn every_byte_has_a_stand_in() {
        // "Ġ" is the space, "Ċ" the line end, "Ń" the soft hyphen: the last of the stand-ins.
        let (bytes, ends, _) = token_bytes(&["Ġa", "ĊŃ", "<|x|>", "日"], &|id| if id == 2 { CONTROL } else { 1 });
        assert_eq!(bytes, [b" a".as_slice(), &[b'\n', 0xad], "日".as_bytes()].concat());
        assert_eq!(ends, [2, 4, 4, 7]);
    }

    #[test]
    fn unknown_rules_are_refused() {
        assert!(matches!(splitting("tekken"), Err(TokenizerError::Splitting(name)) if name == "tekken"));
        for known in ["smollm", "default", "gpt-2", "llama-bpe", "qwen2"] {
            assert!(splitting(known).is_ok(), "{known}");
        }
    }
}

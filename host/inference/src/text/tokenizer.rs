//! Text to tokens and back, from a GGUF file's metadata or from the tokenizer files beside a checkpoint.
//!
//! Both kinds of file are read into the same parts: the control and added tokens are found first ([`special`]), what lies
//! between them falls into words ([`split`], [`rules`]), and words are merged into tokens ([`merge`]). The parts are our own
//! because a model file is hostile: patterns of published tokenizers are made for engines that backtrack, whose time on
//! some texts has no bound and which give up with a panic. Here every step is linear or n log n in the text.
//!
//! Going back is done byte by byte: a token of a byte-level vocabulary may hold half a character, and [`Detokenizer`] keeps
//! it back until the rest comes.

use std::collections::HashMap;

use tokenizers::normalizers::unicode::NFC;
use tokenizers::{NormalizedString, Normalizer};

use self::merge::{Bpe, Scratch, Spm};
use self::special::{Part, Special, SpecialTokens};
use self::split::Splitter;
use super::gguf::GgufError;
use super::marks::{self, Marks};

mod detokenizer;
mod gguf;
mod hugging_face;
mod merge;
mod pipeline;
mod rules;
mod special;
mod split;
#[cfg(test)]
mod tests;

pub use detokenizer::Detokenizer;

/// Control tokens that end a turn in some model's template, beside those that the files name.
const END_OF_TURN: [&str; 15] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<turn|>",
    "<end_of_utterance>",
    "<|return|>",
    "<EOT>",
    "[EOT]",
    "[e~[",
    "<｜end▁of▁sentence｜>",
];

/// Control tokens in front of calls of tools. They are text in an answer, so that a call can be told from other text, and
/// in its grammar; a message can still not hold them.
const CALL_MARKS: [&str; 4] = ["[TOOL_CALLS]", "<|python_tag|>", "<tool_call>", "</tool_call>"];

/// Why there is no tokenizer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The metadata is not right.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A kind of vocabulary that is not read.
    #[error("tokenizer.ggml.model is {0:?}; \"gpt2\" and \"gemma4\" (BPE) and \"llama\" (SentencePiece) are supported")]
    Model(String),
    /// A splitting rule that is not known.
    #[error(
        "tokenizer.ggml.pre is {0:?}; the supported splitting rules are {known}",
        known = rules::names().collect::<Vec<_>>().join(", ")
    )]
    Splitting(String),
    /// A tokenizer file that cannot be read.
    #[error("{0}")]
    File(String),
    /// The vocabulary does not fit together.
    #[error("the tokenizer's vocabulary is not usable: {0}")]
    Vocabulary(String),
    /// A text that cannot be split.
    #[error("the text cannot be tokenized: {0}")]
    Encode(String),
}

/// A model's vocabulary.
pub struct Vocabulary {
    encoder: Encoder,
    /// All tokens that are found before a text is split.
    special: SpecialTokens,
    /// Those of them that a text may hold which is to be taken as it is.
    added: SpecialTokens,
    space: Space,
    /// Runs of spaces become one, and none stays at a text's ends.
    collapse: bool,
    /// A lower bound on the tokens of a text follows from its length.
    bounded: bool,
    /// Each token's bytes, one after another; none for control tokens.
    bytes: Vec<u8>,
    ends: Vec<u32>,
    longest: usize,
    controls: HashMap<u32, String>,
    bos: Option<u32>,
    end_of_turn: Vec<u32>,
    marks: Marks,
    add_bos: bool,
    bos_text: String,
    eos_text: String,
}

/// What makes tokens of a text without special ones.
enum Encoder {
    Bpe { splitter: Splitter, bpe: Bpe, compose: bool, escape: bool },
    Spm(Spm),
}

/// Where a text gets a space in front that it does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Space {
    /// Nowhere.
    Never,
    /// At the beginning, where there is none yet.
    FirstIfNone,
    /// At the beginning and after each special token.
    Sections,
    /// As [`Self::Sections`], where there is none yet.
    SectionsIfNone,
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Kind {
    #[default]
    Normal,
    Control,
    UserDefined,
    /// One byte, written `<0xNN>`.
    Byte,
    /// No token: a gap, or one that was never used.
    Unused,
}

/// How the bytes of a token are written in the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    /// With GPT-2's printable stand-ins for bytes.
    StandIns,
    /// As characters, with `▁` for the space.
    Escaped,
}

/// What both kinds of files give.
struct Parts<'a> {
    tokens: Vec<(&'a str, Kind)>,
    special: Vec<Special>,
    encoder: Encoder,
    space: Space,
    collapse: bool,
    bounded: bool,
    writing: Writing,
    /// `▁` is a space in added tokens too.
    added_escaped: bool,
    bos: Option<u32>,
    eos: Option<u32>,
    /// Tokens that end a turn, beside those of [`END_OF_TURN`].
    end_of_turn: Vec<u32>,
    add_bos: bool,
}

impl Vocabulary {
    fn assemble(parts: Parts<'_>) -> Result<Self, TokenizerError> {
        let Parts { mut tokens, special, encoder, space, collapse, bounded, writing, added_escaped, bos, eos, .. } =
            parts;
        let (end_of_turn, add_bos) = (parts.end_of_turn, parts.add_bos);
        // A file that lists these as plain text would let any message end its turn.
        let mut ends_turn: Vec<u32> = Vec::new();
        for id in eos.into_iter().chain(end_of_turn) {
            if !ends_turn.contains(&id) {
                ends_turn.push(id);
            }
        }
        let harmony =
            tokens.iter().any(|(text, _)| *text == "<|return|>") && tokens.iter().any(|(text, _)| *text == "<|call|>");
        for (id, (text, kind)) in (0u32..).zip(&mut tokens) {
            let ends = END_OF_TURN.contains(text) && !(harmony && *text == "<|end|>");
            if ends && !ends_turn.contains(&id) {
                ends_turn.push(id);
            }
            if ends || ends_turn.contains(&id) || Some(id) == bos {
                *kind = Kind::Control;
            }
        }
        let texts = |wanted: &dyn Fn(&str, Kind) -> bool| -> Vec<Special> {
            let ids = (0u32..).zip(&tokens).filter(|(_, (text, kind))| wanted(text, *kind));
            let known: HashMap<u32, &Special> = special.iter().map(|special| (special.id, special)).collect();
            ids.map(|(id, (text, _))| {
                known.get(&id).map_or_else(|| Special::new(id, text), |special| (*special).clone())
            })
            .collect()
        };
        let control = |text: &str, kind: Kind| kind == Kind::Control && !text.is_empty();
        let call_mark = |text: &str| CALL_MARKS.contains(&text);
        let all = texts(&|text, kind| control(text, kind) || kind == Kind::UserDefined);
        let added = texts(&|text, kind| kind == Kind::UserDefined || control(text, kind) && call_mark(text));
        let controls: HashMap<u32, String> = (0u32..)
            .zip(&tokens)
            .filter(|(_, (text, kind))| control(text, *kind) && !call_mark(text))
            .map(|(id, (text, _))| (id, (*text).to_owned()))
            .collect();
        let marks = Marks::new(tokens.iter().filter(|(text, kind)| control(text, *kind)).map(|(text, _)| *text));
        let text = |id: Option<u32>| {
            id.and_then(|id| tokens.get(id as usize)).map(|(text, _)| (*text).to_owned()).unwrap_or_default()
        };
        let (bos_text, eos_text) = (text(bos), text(eos));
        for (text, kind) in &mut tokens {
            if *kind == Kind::Control && call_mark(text) {
                *kind = Kind::UserDefined;
            }
        }
        let special = SpecialTokens::new(all).map_err(TokenizerError::Vocabulary)?;
        let added = SpecialTokens::new(added).map_err(TokenizerError::Vocabulary)?;
        let (bytes, ends, longest) = token_bytes(&tokens, writing, added_escaped);
        Ok(Self {
            bounded: bounded && !special.strips(),
            encoder,
            special,
            added,
            space,
            collapse,
            bytes,
            ends,
            longest,
            controls,
            bos,
            end_of_turn: ends_turn,
            marks,
            add_bos,
            bos_text,
            eos_text,
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
    /// When the text is longer than 2³⁰ bytes.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_pieces([text])
    }

    /// As [`Self::encode`], of a prompt rendered from messages whose [`Self::marks`] were cut.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_rendered(&self, prompt: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_pieces(marks::pieces(prompt))
    }

    fn encode_pieces<'a>(&self, pieces: impl IntoIterator<Item = &'a str>) -> Result<Vec<u32>, TokenizerError> {
        let mut run = Run::new(Place::Beginning);
        let mut pieces = pieces.into_iter().peekable();
        while let Some(piece) = pieces.next() {
            if self.collapse {
                let piece = collapsed(piece, run.place == Place::Beginning, pieces.peek().is_none());
                self.run(&piece, &self.special, &mut run)?;
            } else {
                self.run(piece, &self.special, &mut run)?;
            }
        }
        let mut ids = run.tokens;
        if let (true, Some(bos)) = (self.add_bos, self.bos)
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// The tokens of a text in the middle of an answer that holds no control tokens, whatever it says.
    pub(crate) fn encode_plain(&self, text: &str) -> Vec<u32> {
        let mut run = Run::new(Place::Middle);
        match self.run(text, &self.added, &mut run) {
            Ok(()) => run.tokens,
            Err(_) => Vec::new(),
        }
    }

    fn run(&self, text: &str, special: &SpecialTokens, run: &mut Run) -> Result<(), TokenizerError> {
        // Positions are kept in 32 bits, and composing or escaping can make a text three times as long.
        if text.len() > 1 << 30 {
            return Err(TokenizerError::Encode(format!("it has {} bytes; at most 2^30 are taken", text.len())));
        }
        special.parts(text, |part| match part {
            Part::Token(token) => {
                run.tokens.push(token);
                run.place = Place::AfterToken;
            }
            Part::Text(text) => {
                let spaced = match (self.space, run.place) {
                    (Space::Never, _) | (_, Place::Middle) => false,
                    (Space::FirstIfNone, place) => place == Place::Beginning,
                    (Space::Sections | Space::SectionsIfNone, _) => true,
                };
                let has =
                    matches!(self.space, Space::FirstIfNone | Space::SectionsIfNone) && text.starts_with([' ', '▁']);
                self.encoder.encode(text, spaced && !has, run);
                run.place = Place::Middle;
            }
        });
        Ok(())
    }

    /// What turns the answer to `prompt` into text. Where the vocabulary puts a space in front of what follows a special
    /// token, and the prompt ends with one, the answer's first space is that and no text; an answer that goes on with a
    /// text keeps its space.
    pub fn detokenizer(&self, prompt: &[u32]) -> Detokenizer {
        let after_special = prompt.last().is_none_or(|last| self.controls.contains_key(last));
        match self.space {
            Space::Sections | Space::SectionsIfNone if after_special => Detokenizer::without_first_space(),
            _ => Detokenizer::default(),
        }
    }

    /// The text that stands for a control token; none for other tokens.
    pub(crate) fn control_text(&self, token: u32) -> Option<String> {
        self.controls.get(&token).cloned()
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
        if self.bounded { bytes / 4 / self.longest.max(1) } else { 0 }
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

/// Where a text stands in its prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Beginning,
    AfterToken,
    Middle,
}

/// The tokens of a prompt as it is read.
struct Run {
    tokens: Vec<u32>,
    place: Place,
    scratch: Scratch,
}

impl Run {
    fn new(place: Place) -> Self {
        Self { tokens: Vec::new(), place, scratch: Scratch::default() }
    }
}

impl Encoder {
    fn encode(&self, text: &str, spaced: bool, run: &mut Run) {
        let mut text = std::borrow::Cow::Borrowed(text);
        if spaced && !text.is_empty() {
            text = format!(" {text}").into();
        }
        match self {
            Self::Spm(model) => model.encode(&text.replace(' ', "▁"), &mut run.scratch, &mut run.tokens),
            Self::Bpe { splitter, bpe, compose, escape } => {
                if *compose && !text.is_ascii() {
                    let mut normalized = NormalizedString::from(text.as_ref());
                    // It cannot fail; a text that it leaves alone is still the text.
                    if NFC.normalize(&mut normalized).is_ok() {
                        text = normalized.get().to_owned().into();
                    }
                }
                if *escape {
                    text = text.replace(' ', "▁").into();
                }
                splitter.split(&text, |word| bpe.encode(word, &mut run.scratch, &mut run.tokens));
            }
        }
    }
}

/// One space for each run of them, and none where the whole text `begins` or `ends`.
fn collapsed(text: &str, begins: bool, ends: bool) -> String {
    let text = if begins { text.trim_start_matches(' ') } else { text };
    let text = if ends { text.trim_end_matches(' ') } else { text };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c != ' ' || !out.ends_with(' ') {
            out.push(c);
        }
    }
    out
}

/// GPT-2's `bytes_to_unicode`: the printable characters that stand for bytes.
fn stand_ins() -> HashMap<char, u8> {
    let mut stand_ins = HashMap::new();
    let mut next = 256u32;
    for byte in 0..=255u8 {
        let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let point = if printable { u32::from(byte) } else { next };
        next += u32::from(!printable);
        stand_ins.extend(char::from_u32(point).map(|c| (c, byte)));
    }
    stand_ins
}

/// The byte that a token of the form `<0x0A>` stands for.
fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// The tokens of all 256 bytes, if there are so many.
fn byte_tokens<'a>(tokens: impl Iterator<Item = (u32, &'a str)>) -> Option<Box<[u32; 256]>> {
    let mut found = [None; 256];
    for (id, text) in tokens {
        if let Some(byte) = byte_of(text) {
            found[usize::from(byte)] = Some(id);
        }
    }
    let all: Option<Vec<u32>> = found.into_iter().collect();
    all?.try_into().ok().map(|all: [u32; 256]| Box::new(all))
}

/// The bytes of all tokens, where each ends, and how many the longest has.
fn token_bytes(tokens: &[(&str, Kind)], writing: Writing, added_escaped: bool) -> (Vec<u8>, Vec<u32>, usize) {
    let stand_ins = stand_ins();
    let (mut bytes, mut ends, mut longest) = (Vec::new(), Vec::with_capacity(tokens.len()), 0);
    for (text, kind) in tokens {
        let start = bytes.len();
        match (kind, writing) {
            (Kind::Control | Kind::Unused, _) => {}
            (Kind::UserDefined, _) if added_escaped => bytes.extend_from_slice(text.replace('▁', " ").as_bytes()),
            (Kind::UserDefined, _) => bytes.extend_from_slice(text.as_bytes()),
            (Kind::Byte, _) => match byte_of(text) {
                Some(byte) => bytes.push(byte),
                None => bytes.extend_from_slice(text.as_bytes()),
            },
            (Kind::Normal, Writing::Escaped) => bytes.extend_from_slice(text.replace('▁', " ").as_bytes()),
            (Kind::Normal, Writing::StandIns) => {
                for c in text.chars() {
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
        longest = longest.max(text.len());
        ends.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    }
    (bytes, ends, longest)
}

//! SentencePiece models (`source.spm`, `sentencepiece.bpe.model`, `spiece.model`), read and applied as the published
//! library does (Kudo & Richardson 2018).
//!
//! Marian and M2M-100 checkpoints come with these files and nothing else that splits a text. A file is hostile: every
//! length, index and score is checked when it is read, and splitting takes time that grows with the text and not with
//! its square.

mod merge;
mod normalize;
mod proto;
mod viterbi;

use std::path::Path;

use crate::store::read_text;
use normalize::Normalizer;

/// Published models have up to 5 MB.
const FILE_BYTES: u64 = 64 << 20;
const MAX_PIECES: usize = 1 << 20;
/// The longest piece in bytes; published ones have at most 16 characters.
const MAX_PIECE: usize = 512;
/// What stands for a space inside pieces.
pub(super) const SPACE: char = '\u{2581}';

/// What a piece is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// A piece of the vocabulary.
#[derive(Debug, Clone, PartialEq)]
struct Piece {
    text: String,
    score: f32,
    kind: Kind,
}

/// How texts are split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    /// The split with the best sum of scores.
    Unigram,
    /// The pair with the best score is merged first.
    Bpe,
}

/// A model.
pub struct SentencePiece {
    pieces: Vec<Piece>,
    /// Pieces that a text can hold, in the order of their bytes.
    sorted: Vec<u32>,
    user_defined: Vec<u32>,
    algorithm: Algorithm,
    byte_fallback: bool,
    normalizer: Normalizer,
    lowest: f32,
    highest: f32,
}

impl SentencePiece {
    /// Reads the model at `path`.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn open(path: &Path) -> Result<Self, String> {
        let bytes = read_text(path, FILE_BYTES).map_err(|error| error.to_string())?;
        Self::read(&bytes).map_err(|why| format!("{}: {why}", path.display()))
    }

    /// Reads a serialized model.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let model = proto::read(bytes)?;
        let pieces = model.pieces;
        if pieces.is_empty() {
            return Err("it has no pieces; is it a SentencePiece model?".to_owned());
        }
        let of = |wanted: &[Kind]| {
            let chosen = (0u32..).zip(&pieces).filter(|(_, piece)| wanted.contains(&piece.kind));
            let mut chosen: Vec<u32> = chosen.map(|(id, _)| id).collect();
            let text = |id: &u32| pieces[*id as usize].text.as_bytes();
            chosen.sort_by(|a, b| text(a).cmp(text(b)));
            chosen.dedup_by(|a, b| text(a) == text(b));
            chosen
        };
        let (sorted, user_defined) = (of(&[Kind::Normal, Kind::UserDefined]), of(&[Kind::UserDefined]));
        let scores = || pieces.iter().filter(|piece| piece.kind == Kind::Normal).map(|piece| piece.score);
        let (lowest, highest) = (scores().fold(f32::INFINITY, f32::min), scores().fold(f32::NEG_INFINITY, f32::max));
        let mut model = Self {
            sorted,
            user_defined,
            algorithm: model.algorithm,
            byte_fallback: model.byte_fallback,
            normalizer: model.normalizer,
            lowest: if lowest.is_finite() { lowest } else { 0.0 },
            highest: if highest.is_finite() { highest } else { 0.0 },
            pieces,
        };
        let texts = model.user_defined.iter().map(|id| model.pieces[*id as usize].text.clone()).collect();
        model.normalizer.keep(texts);
        Ok(model)
    }

    /// The texts of all pieces, in order.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().map(|piece| piece.text.as_str())
    }

    /// The pieces of a text. What no piece is for comes as one piece of that text, or as pieces of its bytes.
    pub fn split(&self, text: &str) -> Vec<String> {
        let text = self.normalizer.normalize(text);
        let parts = match self.algorithm {
            Algorithm::Unigram => self.viterbi(&text),
            Algorithm::Bpe => self.merge(&text),
        };
        let mut pieces: Vec<String> = Vec::with_capacity(parts.len());
        let mut unknown_before = false;
        for (range, known) in parts {
            let part = &text[range];
            match pieces.last_mut() {
                _ if !known && self.byte_fallback => {
                    pieces.extend(part.bytes().map(|byte| format!("<0x{byte:02X}>")));
                }
                Some(last) if !known && unknown_before => last.push_str(part),
                _ => pieces.push(part.to_owned()),
            }
            unknown_before = !known;
        }
        pieces
    }

    fn text(&self, id: u32) -> &str {
        &self.pieces[id as usize].text
    }

    /// Tells the length and number of every piece of `sorted` that `text` begins with, shortest first.
    fn prefixes(&self, sorted: &[u32], text: &[u8], mut found: impl FnMut(usize, u32)) {
        let (mut start, mut end) = (0, sorted.len());
        for (depth, byte) in text.iter().enumerate() {
            // All that are left begin alike so far; those that are no longer stand first.
            let at = |id: &u32| self.text(*id).as_bytes().get(depth).copied();
            let within = &sorted[start..end];
            let low = within.partition_point(|id| at(id).is_none_or(|other| other < *byte));
            let high = within.partition_point(|id| at(id).is_none_or(|other| other <= *byte));
            (start, end) = (start + low, start + high);
            let Some(first) = sorted[start..end].first() else { return };
            if self.text(*first).len() == depth + 1 {
                found(depth + 1, *first);
            }
        }
    }

    /// The piece of exactly this text.
    fn piece(&self, text: &str) -> Option<u32> {
        let at = self.sorted.binary_search_by(|id| self.text(*id).as_bytes().cmp(text.as_bytes())).ok()?;
        Some(self.sorted[at])
    }

    /// The length of the longest piece of the user's own that `text` begins with.
    fn user_defined(&self, text: &[u8]) -> Option<usize> {
        let mut longest = None;
        if !self.user_defined.is_empty() {
            self.prefixes(&self.user_defined, text, |length, _| longest = Some(length));
        }
        longest
    }
}

/// The byte that a piece such as `<0x0A>` stands for.
pub(super) fn byte_of(piece: &str) -> Option<u8> {
    let hex = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() == 2 { u8::from_str_radix(hex, 16).ok() } else { None }
}

#[cfg(test)]
mod tests;

//! The unigram model: the split of a text with the best sum of scores.

use std::ops::Range;

use super::{Kind, SentencePiece};

/// How much worse than the worst piece a character is that no piece is for.
const UNKNOWN_PENALTY: f32 = 10.0;

/// The best way to a place.
#[derive(Clone, Copy)]
struct Way {
    score: f32,
    /// Where its last piece begins; none where no way leads.
    from: Option<usize>,
    known: bool,
}

impl SentencePiece {
    /// The pieces of a normalized text, and whether each is one of the vocabulary.
    pub(super) fn viterbi(&self, text: &str) -> Vec<(Range<usize>, bool)> {
        let mut ways = vec![Way { score: 0.0, from: None, known: false }; text.len() + 1];
        let unknown = self.lowest - UNKNOWN_PENALTY;
        for (start, character) in text.char_indices() {
            let base = ways[start].score;
            let mut go = |length: usize, score: f32, known: bool| {
                let way = &mut ways[start + length];
                if way.from.is_none() || base + score > way.score {
                    *way = Way { score: base + score, from: Some(start), known };
                }
            };
            let mut single = false;
            self.prefixes(&self.sorted, &text.as_bytes()[start..], |length, id| {
                let piece = &self.pieces[id as usize];
                // A piece of the user's own is better than any split of it.
                let score =
                    if piece.kind == Kind::UserDefined { length as f32 * self.highest - 0.1 } else { piece.score };
                single |= length == character.len_utf8();
                go(length, score, true);
            });
            if !single {
                go(character.len_utf8(), unknown, false);
            }
        }
        let mut parts = Vec::new();
        let mut end = text.len();
        while let Some(start) = ways[end].from {
            parts.push((start..end, ways[end].known));
            end = start;
        }
        parts.reverse();
        parts
    }
}

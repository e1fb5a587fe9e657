//! Byte pair encoding by scores: of all neighbours that make a piece together, the pair with the best score is merged
//! first, and of equals the leftmost.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::Range;

use super::SentencePiece;

/// A stretch of the text that is not merged yet; empty once it is part of its left neighbour.
struct Symbol {
    range: Range<usize>,
    before: Option<usize>,
    after: Option<usize>,
    /// A piece of the user's own is merged with nothing.
    frozen: bool,
}

/// Two neighbours that may be merged.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Their bytes when they were found: if they have others now, this is history.
    range: Range<usize>,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

impl SentencePiece {
    /// The pieces of a normalized text, and whether each is one of the vocabulary.
    pub(super) fn merge(&self, text: &str) -> Vec<(Range<usize>, bool)> {
        let mut symbols = Vec::new();
        let mut at = 0;
        while let Some(character) = text[at..].chars().next() {
            let own = self.user_defined(&text.as_bytes()[at..]);
            let end = at + own.unwrap_or(character.len_utf8());
            let number: usize = symbols.len();
            let (before, after) = (number.checked_sub(1), Some(number + 1));
            symbols.push(Symbol { range: at..end, before, after, frozen: own.is_some() });
            at = end;
        }
        if let Some(last) = symbols.last_mut() {
            last.after = None;
        }
        let mut pairs = BinaryHeap::new();
        for left in 1..symbols.len() {
            pairs.extend(self.pair(text, &symbols, Some(left - 1), Some(left)));
        }
        while let Some(Pair { left, right, range, .. }) = pairs.pop() {
            let joined = symbols[left].range.start..symbols[right].range.end;
            if symbols[left].range.is_empty() || symbols[right].range.is_empty() || joined != range {
                continue;
            }
            symbols[left].range = range;
            symbols[right].range = 0..0;
            let after = symbols[right].after;
            symbols[left].after = after;
            if let Some(after) = after {
                symbols[after].before = Some(left);
            }
            pairs.extend(self.pair(text, &symbols, symbols[left].before, Some(left)));
            pairs.extend(self.pair(text, &symbols, Some(left), after));
        }
        let left = symbols.into_iter().map(|symbol| symbol.range).filter(|range| !range.is_empty());
        left.map(|range| (range.clone(), self.piece(&text[range]).is_some())).collect()
    }

    fn pair(&self, text: &str, symbols: &[Symbol], left: Option<usize>, right: Option<usize>) -> Option<Pair> {
        let (left, right) = (left?, right?);
        if symbols[left].frozen || symbols[right].frozen {
            return None;
        }
        let range = symbols[left].range.start..symbols[right].range.end;
        let id = self.piece(&text[range.clone()])?;
        Some(Pair { score: self.pieces[id as usize].score, left, right, range })
    }
}

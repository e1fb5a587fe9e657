//! From a word to tokens: byte pair encoding (Sennrich, Haddow & Birch 2016), by rank and by score.
//!
//! A word begins as one symbol for each byte or character; of all neighbours that make a token together, the best pair
//! becomes one, until none does. [`Bpe`] takes the pair whose merge was learned first, as GPT-2's tokenizer does;
//! [`Spm`] the pair whose token has the best score, as SentencePiece does (Kudo & Richardson 2018). A heap of candidates
//! keeps both at O(n log n), so that a megabyte of one letter takes no longer than any other text.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

const NONE: u32 = u32::MAX;

/// A stretch of the word that is one symbol so far.
#[derive(Debug, Clone, Copy)]
struct Symbol {
    /// Its token; [`NONE`] for what is none.
    token: u32,
    start: u32,
    /// Bytes; 0 once the symbol before has taken it.
    length: u32,
    previous: u32,
    next: u32,
}

/// A pair that makes a token: how good it is (less is better), where it begins, where its second part begins, its bytes and
/// its token. What comes first in this order is merged first.
type Candidate = Reverse<(u32, u32, u32, u32, u32)>;

/// The space that merging takes, kept from word to word.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Candidate>,
}

impl Scratch {
    fn push(&mut self, token: u32, start: usize, length: usize) {
        let at = self.symbols.len() as u32;
        if let Some(last) = self.symbols.last_mut() {
            last.next = at;
        }
        let previous = at.checked_sub(1).unwrap_or(NONE);
        self.symbols.push(Symbol { token, start: start as u32, length: length as u32, previous, next: NONE });
    }

    /// Merges the symbols; `pair` says how good a pair is and which token it makes.
    fn merge(&mut self, pair: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        for at in 1..self.symbols.len() {
            self.consider(at as u32 - 1, at as u32, &pair);
        }
        while let Some(Reverse((_, left, right, length, token))) = self.heap.pop() {
            let (first, second) = (self.symbols[left as usize], self.symbols[right as usize]);
            // Either has been merged with something else since.
            if first.length == 0 || second.length == 0 || first.length + second.length != length {
                continue;
            }
            let merged = &mut self.symbols[left as usize];
            merged.token = token;
            merged.length = length;
            merged.next = second.next;
            self.symbols[right as usize].length = 0;
            if second.next != NONE {
                self.symbols[second.next as usize].previous = left;
            }
            self.consider(first.previous, left, &pair);
            self.consider(left, second.next, &pair);
        }
    }

    fn consider(&mut self, left: u32, right: u32, pair: &impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        if left == NONE || right == NONE {
            return;
        }
        let (first, second) = (&self.symbols[left as usize], &self.symbols[right as usize]);
        if let Some((rank, token)) = pair(first, second) {
            self.heap.push(Reverse((rank, left, right, first.length + second.length, token)));
        }
    }

    fn merged(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|symbol| symbol.length > 0)
    }
}

/// What a word begins as.
#[derive(Debug)]
pub(super) enum Alphabet {
    /// The token of each byte.
    Bytes(Box<[Option<u32>; 256]>),
    /// The token of each character, and those of the bytes of characters that have none.
    Characters(HashMap<char, u32>, Option<Box<[u32; 256]>>),
}

/// Byte pair encoding by rank.
#[derive(Debug)]
pub(super) struct Bpe {
    pub(super) alphabet: Alphabet,
    /// The rank and the token of two tokens that were merged.
    pub(super) merges: HashMap<(u32, u32), (u32, u32)>,
    /// Words that are tokens whatever the merges say.
    pub(super) whole: HashMap<Box<[u8]>, u32>,
    /// What stands for characters without a token; they are left out where there is none.
    pub(super) unknown: Option<u32>,
    /// Whether several of them in a row become one.
    pub(super) fuse_unknown: bool,
}

impl Bpe {
    pub(super) fn encode(&self, word: &str, scratch: &mut Scratch, tokens: &mut Vec<u32>) {
        if let Some(token) = self.whole.get(word.as_bytes()) {
            tokens.push(*token);
            return;
        }
        scratch.symbols.clear();
        match &self.alphabet {
            Alphabet::Bytes(alphabet) => {
                for (at, byte) in word.bytes().enumerate() {
                    self.symbol(scratch, alphabet[usize::from(byte)], at, 1);
                }
            }
            Alphabet::Characters(alphabet, bytes) => {
                for (at, character) in word.char_indices() {
                    let length = character.len_utf8();
                    match (alphabet.get(&character), bytes) {
                        (None, Some(bytes)) => {
                            for at in at..at + length {
                                scratch.push(bytes[usize::from(word.as_bytes()[at])], at, 1);
                            }
                        }
                        (token, _) => self.symbol(scratch, token.copied(), at, length),
                    }
                }
            }
        }
        scratch.merge(|left, right| self.merges.get(&(left.token, right.token)).copied());
        tokens.extend(scratch.merged().map(|symbol| symbol.token));
    }

    fn symbol(&self, scratch: &mut Scratch, token: Option<u32>, at: usize, length: usize) {
        match (token.or(self.unknown), token) {
            (Some(unknown), None) if self.fuse_unknown => match scratch.symbols.last_mut() {
                Some(last) if last.token == unknown => last.length += length as u32,
                _ => scratch.push(unknown, at, length),
            },
            (Some(token), _) => scratch.push(token, at, length),
            (None, _) => {}
        }
    }
}

/// SentencePiece's merging by score.
#[derive(Debug)]
pub(super) struct Spm {
    /// The token of each text, and how good it is: less is better.
    pub(super) tokens: HashMap<Box<str>, (u32, u32)>,
    /// The tokens of the bytes of characters that have none.
    pub(super) bytes: Option<Box<[u32; 256]>>,
    /// What stands for such characters where there are no tokens of bytes.
    pub(super) unknown: Option<u32>,
}

impl Spm {
    pub(super) fn encode(&self, text: &str, scratch: &mut Scratch, tokens: &mut Vec<u32>) {
        scratch.symbols.clear();
        for (at, character) in text.char_indices() {
            let length = character.len_utf8();
            let token = self.tokens.get(&text[at..at + length]).map_or(NONE, |(token, _)| *token);
            scratch.push(token, at, length);
        }
        let stretch = |symbol: &Symbol| symbol.start as usize..(symbol.start + symbol.length) as usize;
        scratch.merge(|left, right| {
            let (token, rank) = self.tokens.get(&text[stretch(left).start..stretch(right).end])?;
            Some((*rank, *token))
        });
        for symbol in scratch.merged() {
            match (&self.bytes, symbol.token) {
                (Some(bytes), NONE) => {
                    tokens.extend(text.as_bytes()[stretch(symbol)].iter().map(|byte| bytes[usize::from(*byte)]));
                }
                (None, NONE) => tokens.extend(self.unknown),
                (_, token) => tokens.push(token),
            }
        }
    }

    /// Puts scores into the order of ranks: the best is the least. `score` is finite.
    pub(super) fn rank(score: f32) -> u32 {
        // The bits of positive floats are in order, those of negative ones in reverse. Adding 0 makes -0 into 0.
        let bits = (score + 0.0).to_bits();
        let ascending = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
        !ascending
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spm(tokens: &[(&str, f32)]) -> Spm {
        let entries = (0..).zip(tokens).map(|(id, (text, score))| ((*text).into(), (id, Spm::rank(*score))));
        Spm { tokens: entries.collect(), bytes: None, unknown: Some(99) }
    }

    fn ids(model: &Spm, text: &str) -> Vec<u32> {
        let mut tokens = Vec::new();
        model.encode(text, &mut Scratch::default(), &mut tokens);
        tokens
    }

    #[test]
    fn the_best_score_is_merged_first_and_the_left_of_equals() {
        let model = spm(&[("a", -9.0), ("b", -9.0), ("ab", -2.0), ("ba", -1.0), ("aa", -3.0), ("aab", -0.5)]);
        assert_eq!(ids(&model, "aba"), [0, 3]);
        assert_eq!(ids(&model, "aaa"), [4, 0]);
        assert_eq!(ids(&model, "aab"), [5].map(|id| id));
        assert_eq!(ids(&model, "日b"), [99, 1]);
    }

    #[test]
    fn merges_follow_their_rank() {
        let alphabet = Alphabet::Characters(HashMap::from([('a', 0), ('b', 1)]), None);
        let merges = HashMap::from([((0, 1), (1, 2)), ((1, 0), (0, 3))]);
        let bpe = Bpe { alphabet, merges, whole: HashMap::new(), unknown: Some(9), fuse_unknown: true };
        let mut tokens = Vec::new();
        bpe.encode("ababxy", &mut Scratch::default(), &mut tokens);
        assert_eq!(tokens, [0, 3, 1, 9]);
    }

    proptest! {
        #[test]
        fn ranks_reverse_the_order_of_scores(a in -1e30f32..1e30, b in -1e30f32..1e30) {
            prop_assert_eq!(a.total_cmp(&b), Spm::rank(b).cmp(&Spm::rank(a)));
            prop_assert_eq!(Spm::rank(0.0), Spm::rank(-0.0));
        }

        /// Merging always takes the best pair there is: what a plain search finds.
        #[test]
        fn the_heap_finds_what_a_search_finds(text in "[abc]{0,40}", scores in prop::collection::vec(-5i8..5, 40)) {
            let pieces: Vec<String> = (0..3usize.pow(3) + 9 + 3).map(|n| {
                let length = if n < 3 { 1 } else if n < 12 { 2 } else { 3 };
                (0..length).map(|i| char::from(b'a' + (n / 3usize.pow(i) % 3) as u8)).collect()
            }).collect();
            let mut known: Vec<(&str, f32)> = Vec::new();
            for (piece, score) in pieces.iter().zip(&scores) {
                if (piece.len() == 1 || *score > -2) && !known.iter().any(|(other, _)| other == piece) {
                    known.push((piece, f32::from(*score)));
                }
            }
            let model = spm(&known);
            let mut parts: Vec<String> = text.chars().map(String::from).collect();
            loop {
                let best = parts.windows(2).enumerate().filter_map(|(at, pair)| {
                    model.tokens.get(pair.concat().as_str()).map(|(_, rank)| (*rank, at))
                }).min();
                let Some((_, at)) = best else { break };
                let right = parts.remove(at + 1);
                parts[at].push_str(&right);
            }
            let expected: Vec<u32> = parts.iter().map(|part| model.tokens[part.as_str()].0).collect();
            prop_assert_eq!(ids(&model, &text), expected);
        }
    }

    #[test]
    fn long_runs_take_no_time_to_speak_of() {
        let tokens: Vec<(String, f32)> = (0..16).map(|n| ("a".repeat(1 << n), -(n as f32))).collect();
        let tokens: Vec<(&str, f32)> = tokens.iter().map(|(text, score)| (&**text, *score)).collect();
        let found = ids(&spm(&tokens), &"a".repeat(1 << 20));
        assert_eq!(found, [15; 32]);
    }
}

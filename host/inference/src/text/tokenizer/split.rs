//! How a text falls into words before tokens are merged inside them.
//!
//! Each family of models was trained with a pattern of its own, published with its tokenizer; a GGUF names it in
//! `tokenizer.ggml.pre`. The patterns are written for backtracking engines, with a look-ahead for the space in front of a
//! word (`\s+(?!\S)`). Here they run on the `regex` crate, whose time is linear in the text whatever the pattern and the
//! text are, and that one look-ahead is played by [`Blank`]: a run of white space gives its last character back.

use std::ops::Range;

use regex::{Regex, RegexBuilder};

/// Bytes that a compiled pattern may take: the largest published one needs some 3 MiB.
const MAX_COMPILED: usize = 16 << 20;

/// Splits a text into words: step by step, each splitting the pieces that the one before left.
#[derive(Debug)]
pub(super) struct Splitter {
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    pattern: Regex,
    shape: Shape,
}

/// What becomes of the places that a pattern finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Each is a piece, and so is what lies between them.
    Isolated(Blank),
    /// Each ends the piece that it follows.
    WithPrevious,
    /// Each begins the piece that it precedes.
    WithNext,
    /// Each is cut into threes from its end.
    Threes,
    /// As [`Self::Threes`], and left alone where a letter, a digit or `_` follows.
    ThreesBeforeBoundary,
}

/// What becomes of white space that a word follows, where the pattern says `\s+(?!\S)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blank {
    /// It stays whole: the pattern has no such part.
    Stays,
    /// Its last character is given back.
    Gives,
    /// As [`Self::Gives`], but where it ends a line: an earlier part of the pattern (`\s*[\r\n]+`) has found it.
    GivesInLine,
    /// As [`Self::GivesInLine`], and the rest is taken in powers of two from 512 down.
    GivesInPowers,
}

impl Splitter {
    /// A text that stays whole.
    pub(super) fn none() -> Self {
        Self { steps: Vec::new() }
    }

    /// Adds a step.
    pub(super) fn then(mut self, pattern: &str, shape: Shape) -> Result<Self, regex::Error> {
        let pattern = RegexBuilder::new(pattern).size_limit(MAX_COMPILED).dfa_size_limit(MAX_COMPILED).build()?;
        self.steps.push(Step { pattern, shape });
        Ok(self)
    }

    /// The words of `text`, in order and without gaps.
    pub(super) fn split<'t>(&self, text: &'t str, mut word: impl FnMut(&'t str)) {
        split_by(&self.steps, text, &mut word);
    }
}

fn split_by<'t>(steps: &[Step], text: &'t str, word: &mut dyn FnMut(&'t str)) {
    match steps.split_first() {
        _ if text.is_empty() => {}
        None => word(text),
        Some((step, rest)) => step.split(text, &mut |piece| split_by(rest, piece, word)),
    }
}

impl Step {
    fn split<'t>(&self, text: &'t str, piece: &mut dyn FnMut(&'t str)) {
        let mut from = 0;
        let mut begin = 0;
        while let Some(found) = self.pattern.find_at(text, from) {
            let Range { start, end } = found.range();
            if end == start {
                // Nothing is found that is empty in a published pattern; a hostile one must not stop here for ever.
                let Some(next) = text[end..].chars().next() else { break };
                from = end + next.len_utf8();
                continue;
            }
            from = end;
            match self.shape {
                Shape::Isolated(blank) => {
                    piece(&text[begin..start]);
                    from = self.isolate(text, start..end, blank, piece);
                    begin = from;
                }
                Shape::WithPrevious => {
                    piece(&text[begin..end]);
                    begin = end;
                }
                Shape::WithNext => {
                    piece(&text[begin..start]);
                    begin = start;
                }
                Shape::Threes => {
                    piece(&text[begin..start]);
                    threes(&text[start..end], piece);
                    begin = end;
                }
                Shape::ThreesBeforeBoundary => {
                    let next = text[end..].chars().next();
                    if !next.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                        piece(&text[begin..start]);
                        threes(&text[start..end], piece);
                        begin = end;
                    }
                }
            }
        }
        piece(&text[begin..]);
    }

    /// Gives the piece or pieces found at `found`, and where to go on.
    fn isolate<'t>(&self, text: &'t str, found: Range<usize>, blank: Blank, piece: &mut dyn FnMut(&'t str)) -> usize {
        let Range { start, end } = found;
        let run = &text[start..end];
        let gives = match blank {
            Blank::Stays => false,
            Blank::Gives => true,
            Blank::GivesInLine | Blank::GivesInPowers => !run.ends_with(['\r', '\n']),
        };
        if !gives || !run.starts_with(char::is_whitespace) || !run.chars().all(char::is_whitespace) {
            piece(run);
            return end;
        }
        let last = run.chars().next_back().map_or(0, char::len_utf8);
        let kept = if end == text.len() { end } else { end - last };
        if kept == start {
            piece(run);
            return end;
        }
        if blank == Blank::GivesInPowers {
            powers(&text[start..kept], piece);
        } else {
            piece(&text[start..kept]);
        }
        kept
    }
}

/// `1234567` is `1`, `234`, `567`.
fn threes<'t>(run: &'t str, piece: &mut dyn FnMut(&'t str)) {
    let mut first = match run.chars().count() % 3 {
        0 => 3,
        rest => rest,
    };
    let mut rest = run;
    while !rest.is_empty() {
        let end = rest.char_indices().nth(first).map_or(rest.len(), |(at, _)| at);
        piece(&rest[..end]);
        rest = &rest[end..];
        first = 3;
    }
}

fn powers<'t>(run: &'t str, piece: &mut dyn FnMut(&'t str)) {
    let mut rest = run;
    let mut left = run.chars().count();
    while left > 0 {
        let take = (1usize << left.ilog2()).min(512);
        let end = rest.char_indices().nth(take).map_or(rest.len(), |(at, _)| at);
        piece(&rest[..end]);
        rest = &rest[end..];
        left -= take;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(pattern: &str, shape: Shape, text: &str) -> Vec<String> {
        let splitter = Splitter::none().then(pattern, shape).unwrap();
        let mut words = Vec::new();
        splitter.split(text, |word| words.push(word.to_owned()));
        words
    }

    #[test]
    fn white_space_gives_its_last_character_to_the_word_behind_it() {
        let gives = Shape::Isolated(Blank::Gives);
        assert_eq!(words(r" ?\w+|\s+", gives, "a   b \n c  "), ["a", "  ", " b", " \n", " c", "  "]);
        assert_eq!(words(r" ?\w+|\s+", gives, "\tb"), ["\t", "b"]);
        let in_line = Shape::Isolated(Blank::GivesInLine);
        assert_eq!(words(r" ?\w+|\s*[\r\n]+|\s+", in_line, " \n\n  b"), [" \n\n", " ", " b"]);
        let powers = Shape::Isolated(Blank::GivesInPowers);
        let found: Vec<usize> =
            words(r" ?\w+|\s+", powers, &format!("{}b", " ".repeat(1024 + 7))).iter().map(String::len).collect();
        assert_eq!(found, [512, 512, 4, 2, 2]);
    }

    #[test]
    fn digits_fall_into_threes_from_the_end() {
        assert_eq!(words(r"\d+", Shape::Threes, "x1234567y"), ["x", "1", "234", "567", "y"]);
        assert_eq!(words(r"\d+", Shape::ThreesBeforeBoundary, "1234 1234y"), ["1", "234", " 1234y"]);
    }

    #[test]
    fn what_is_found_can_join_its_neighbours() {
        assert_eq!(words("_", Shape::WithPrevious, "a_b_"), ["a_", "b_"]);
        assert_eq!(words("_", Shape::WithNext, "a_b_"), ["a", "_b", "_"]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost(text in "[a 1_\n\t日\u{a0}]{0,30}", pattern in r"(\\s\+|\\w\+|\\d|a\*|\|)", kind in 0usize..7) {
            let shape = [
                Shape::Isolated(Blank::Stays),
                Shape::Isolated(Blank::Gives),
                Shape::Isolated(Blank::GivesInPowers),
                Shape::WithPrevious,
                Shape::WithNext,
                Shape::Threes,
                Shape::ThreesBeforeBoundary,
            ][kind];
            let found = words(&pattern, shape, &text);
            prop_assert!(found.iter().all(|word| !word.is_empty()));
            prop_assert_eq!(found.concat(), text);
        }
    }
}

//! Tokens that are found in a text before it is split: control tokens and those that a model's author added.

use aho_corasick::{AhoCorasick, MatchKind};

/// Bytes of all such texts together: the largest published set has some 200 KB.
const MAX_BYTES: usize = 8 << 20;

/// One such token.
#[derive(Debug, Clone)]
pub(super) struct Special {
    pub(super) id: u32,
    pub(super) text: String,
    /// White space before it belongs to it.
    pub(super) strips_before: bool,
    /// White space behind it belongs to it.
    pub(super) strips_behind: bool,
    /// It counts only where no letter, digit or `_` is next to it.
    pub(super) single_word: bool,
}

impl Special {
    pub(super) fn new(id: u32, text: &str) -> Self {
        Self { id, text: text.to_owned(), strips_before: false, strips_behind: false, single_word: false }
    }
}

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'t> {
    Token(u32),
    Text(&'t str),
}

/// Finds the leftmost of the tokens, and the longest of those that begin there.
#[derive(Debug)]
pub(super) struct SpecialTokens {
    automaton: Option<AhoCorasick>,
    tokens: Vec<Special>,
}

impl SpecialTokens {
    /// The error says what cannot be searched for.
    pub(super) fn new(tokens: Vec<Special>) -> Result<Self, String> {
        let bytes: usize = tokens.iter().map(|token| token.text.len()).sum();
        if bytes > MAX_BYTES {
            return Err(format!("its control and added tokens have {bytes} bytes; at most {MAX_BYTES} are taken"));
        }
        let tokens: Vec<Special> = tokens.into_iter().filter(|token| !token.text.is_empty()).collect();
        if tokens.is_empty() {
            return Ok(Self { automaton: None, tokens });
        }
        let texts = tokens.iter().map(|token| token.text.as_bytes());
        let built = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts);
        Ok(Self { automaton: Some(built.map_err(|error| error.to_string())?), tokens })
    }

    /// Whether a token takes white space away, which makes texts shorter than their tokens.
    pub(super) fn strips(&self) -> bool {
        self.tokens.iter().any(|token| token.strips_before || token.strips_behind)
    }

    /// The parts of `text` in order.
    pub(super) fn parts<'t>(&self, text: &'t str, mut part: impl FnMut(Part<'t>)) {
        let mut begin = 0;
        for found in self.automaton.iter().flat_map(|automaton| automaton.find_iter(text)) {
            let token = &self.tokens[found.pattern().as_usize()];
            let (start, end) = (found.start(), found.end());
            let in_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            if token.single_word && (in_word(text[..start].chars().next_back()) || in_word(text[end..].chars().next()))
            {
                continue;
            }
            // What the token before has taken may reach into this one only if that is white space too.
            let mut before = text.get(begin..start).unwrap_or_default();
            if token.strips_before {
                before = before.trim_end();
            }
            if !before.is_empty() {
                part(Part::Text(before));
            }
            part(Part::Token(token.id));
            let behind = if token.strips_behind { text.len() - text[end..].trim_start().len() } else { end };
            begin = begin.max(behind);
        }
        if let Some(rest) = text.get(begin..).filter(|rest| !rest.is_empty()) {
            part(Part::Text(rest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts<'t>(tokens: &SpecialTokens, text: &'t str) -> Vec<Part<'t>> {
        let mut parts = Vec::new();
        tokens.parts(text, |part| parts.push(part));
        parts
    }

    #[test]
    fn the_leftmost_and_longest_counts() {
        let tokens = SpecialTokens::new(vec![Special::new(1, "<a>"), Special::new(2, "<a><b>"), Special::new(3, "")]);
        let found = parts(tokens.as_ref().unwrap(), "x<a><a><b>y");
        assert_eq!(found, [Part::Text("x"), Part::Token(1), Part::Token(2), Part::Text("y")]);
        assert_eq!(parts(&SpecialTokens::new(Vec::new()).unwrap(), ""), []);
    }

    #[test]
    fn tokens_take_the_space_around_them() {
        let token = Special { strips_before: true, strips_behind: true, ..Special::new(1, "<a>") };
        let blank = Special::new(2, "\n\n");
        let word = Special { single_word: true, ..Special::new(3, "cat") };
        let tokens = SpecialTokens::new(vec![token, blank, word]).unwrap();
        assert_eq!(parts(&tokens, "x <a> y"), [Part::Text("x"), Part::Token(1), Part::Text("y")]);
        assert_eq!(parts(&tokens, "<a> \n\n \n\ny"), [Part::Token(1), Part::Token(2), Part::Token(2), Part::Text("y")]);
        assert_eq!(parts(&tokens, "concat cat"), [Part::Text("concat "), Part::Token(3)]);
    }

    #[test]
    fn absurd_sets_are_refused() {
        let tokens = (0..9).map(|id| Special::new(id, &"x".repeat(1 << 20))).collect();
        assert!(SpecialTokens::new(tokens).unwrap_err().contains("at most"));
    }
}

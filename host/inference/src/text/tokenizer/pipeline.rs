//! The normalizer and the pre-tokenizer of a `tokenizer.json`: what happens to a text before its words are merged.

use serde_json::Value;

use super::hugging_face::{brief, unusable};
use super::rules::GPT2;
use super::split::{Blank, Shape, Splitter};
use super::{Space, TokenizerError};

/// Steps of splitting.
const MAX_STEPS: usize = 16;

/// What happens to a text before its words are merged.
pub(super) struct Pipeline {
    pub(super) splitter: Splitter,
    steps: usize,
    pub(super) compose: bool,
    /// Spaces become `▁`.
    pub(super) escape: bool,
    /// Tokens are written with stand-ins for bytes.
    pub(super) bytes: bool,
    pub(super) space: Space,
}

impl Pipeline {
    pub(super) fn read(normalizer: Option<&Value>, pre_tokenizer: Option<&Value>) -> Result<Self, TokenizerError> {
        let splitter = Splitter::none();
        let mut pipeline =
            Self { splitter, steps: 0, compose: false, escape: false, bytes: false, space: Space::Never };
        pipeline.normalizer(normalizer)?;
        pipeline.pre_tokenizer(pre_tokenizer)?;
        Ok(pipeline)
    }

    fn normalizer(&mut self, normalizer: Option<&Value>) -> Result<(), TokenizerError> {
        for part in flat(normalizer, "normalizers") {
            match kind(part) {
                "NFC" => self.compose = true,
                "Prepend" if part["prepend"] == "▁" && !self.escape => self.space = Space::Sections,
                "Replace" if part["pattern"]["String"] == " " && part["content"] == "▁" => self.escape = true,
                other => return Err(unsupported("normalizer", other)),
            }
        }
        Ok(())
    }

    fn pre_tokenizer(&mut self, pre_tokenizer: Option<&Value>) -> Result<(), TokenizerError> {
        for part in flat(pre_tokenizer, "pretokenizers") {
            let flag = |name: &str, default: bool| part[name].as_bool().unwrap_or(default);
            match kind(part) {
                "ByteLevel" => {
                    if flag("add_prefix_space", true) {
                        if self.steps > 0 {
                            return Err(unusable("/pre_tokenizer puts a space before every word"));
                        }
                        self.space = Space::SectionsIfNone;
                    }
                    if flag("use_regex", true) {
                        self.step(GPT2, Shape::Isolated(Blank::Gives))?;
                    }
                    self.bytes = true;
                }
                "Split" => self.split(part)?,
                "Digits" => {
                    let pattern = if flag("individual_digits", false) { r"\p{N}" } else { r"\p{N}+" };
                    self.step(pattern, Shape::Isolated(Blank::Stays))?;
                }
                "Punctuation" => {
                    let pattern = r"[\p{P}!-/:-@\[-`{-~]";
                    match part["behavior"].as_str().unwrap_or("Isolated") {
                        "Isolated" => self.step(pattern, Shape::Isolated(Blank::Stays))?,
                        "Contiguous" => self.step(&format!("{pattern}+"), Shape::Isolated(Blank::Stays))?,
                        other => return Err(unsupported("pre_tokenizer", &format!("Punctuation {other}"))),
                    }
                }
                "Metaspace" if part["replacement"] == "▁" => {
                    self.escape = true;
                    let old = if flag("add_prefix_space", true) { "always" } else { "never" };
                    self.space = match part["prepend_scheme"].as_str().unwrap_or(old) {
                        "always" => Space::SectionsIfNone,
                        "first" => Space::FirstIfNone,
                        "never" => Space::Never,
                        other => return Err(unsupported("pre_tokenizer", &format!("Metaspace {other}"))),
                    };
                    if flag("split", true) {
                        self.step("▁", Shape::WithNext)?;
                    }
                }
                other => return Err(unsupported("pre_tokenizer", other)),
            }
        }
        Ok(())
    }

    fn split(&mut self, part: &Value) -> Result<(), TokenizerError> {
        let behaviour = part["behavior"].as_str().unwrap_or_default();
        let inverted = part["invert"].as_bool().unwrap_or(false);
        if let Some(text) = part["pattern"]["String"].as_str() {
            let shape = match (behaviour, inverted) {
                ("Isolated", _) => Shape::Isolated(Blank::Stays),
                ("MergedWithPrevious", false) => Shape::WithPrevious,
                ("MergedWithNext", false) => Shape::WithNext,
                (other, _) => return Err(unsupported("pre_tokenizer", &format!("Split {other}"))),
            };
            return self.step(&regex::escape(text), shape);
        }
        // What lies between the words is left out where it is "removed": published patterns leave nothing between them.
        if !matches!((behaviour, inverted), ("Isolated", _) | ("Removed", true)) {
            return Err(unsupported("pre_tokenizer", &format!("Split {behaviour}")));
        }
        let pattern = part["pattern"]["Regex"].as_str().ok_or_else(|| unsupported("pre_tokenizer", "Split"))?;
        match pattern {
            r"\d{1,3}(?=(?:\d{3})*\b)" => self.step(r"\d+", Shape::ThreesBeforeBoundary),
            r"(?=(\d{3})+(?!\d))" => self.step(r"\d+", Shape::Threes),
            _ => {
                let (pattern, blank) = without_look_ahead(pattern);
                self.step(&pattern, Shape::Isolated(blank))
            }
        }
    }

    fn step(&mut self, pattern: &str, shape: Shape) -> Result<(), TokenizerError> {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return Err(unusable(format!("/pre_tokenizer has more than {MAX_STEPS} steps")));
        }
        let splitter = std::mem::replace(&mut self.splitter, Splitter::none());
        self.splitter = splitter.then(pattern, shape).map_err(|error| {
            let error = error.to_string();
            let last = error.lines().last().unwrap_or_default();
            unusable(format!("/pre_tokenizer splits by a pattern that is not supported: {} ({last})", brief(pattern)))
        })?;
        Ok(())
    }
}

/// The pattern as [`Splitter`] takes it: the look-ahead of its white space is played by [`Blank`], and possessive
/// quantifiers, which only keep a backtracking engine from trying what cannot match, are plain ones.
fn without_look_ahead(pattern: &str) -> (String, Blank) {
    const ENDS: [&str; 3] = [r"|\s+(?!\S)|\s+", r"|\s+(?!\S)|\s", r"|\s+(?!\S)"];
    let Some(body) = ENDS.iter().find_map(|end| pattern.strip_suffix(end)) else {
        return (greedy(pattern), Blank::Stays);
    };
    let lines = body.contains(r"\s*[\r\n]") || body.contains("\\s*[\r\n]");
    (format!(r"{}|\s+", greedy(body)), if lines { Blank::GivesInLine } else { Blank::Gives })
}

fn greedy(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let (mut class, mut quantified) = (0usize, false);
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c == '+' && quantified {
            quantified = false;
            continue;
        }
        quantified = class == 0 && matches!(c, '?' | '*' | '+');
        match c {
            '[' => class += 1,
            ']' => class = class.saturating_sub(1),
            _ => {}
        }
        out.push(c);
        if c == '\\' {
            out.extend(chars.next());
        }
    }
    out
}

/// A part, or the parts of a `Sequence`.
pub(super) fn flat<'v>(part: Option<&'v Value>, list: &str) -> Vec<&'v Value> {
    match part {
        None | Some(Value::Null) => Vec::new(),
        Some(part) if kind(part) == "Sequence" => {
            part[list].as_array().into_iter().flatten().flat_map(|part| flat(Some(part), list)).collect()
        }
        Some(part) => vec![part],
    }
}

pub(super) fn kind(part: &Value) -> &str {
    part["type"].as_str().unwrap_or_default()
}

pub(super) fn unsupported(place: &str, name: &str) -> TokenizerError {
    unusable(format!("/{place} has a part that is not supported: {:?}", brief(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_patterns_lose_what_only_backtracking_needs() {
        let (pattern, blank) =
            without_look_ahead(r"'(?i:[sdmt]|ll)|[^\r\n\p{L}]?+\p{L}++| ?[*+,\]?+]++[\r\n]*+|\s*[\r\n]|\s+(?!\S)|\s");
        assert_eq!(pattern, r"'(?i:[sdmt]|ll)|[^\r\n\p{L}]?\p{L}+| ?[*+,\]?+]+[\r\n]*|\s*[\r\n]|\s+");
        assert_eq!(blank, Blank::GivesInLine);
        assert_eq!(without_look_ahead(r" ?\p{L}+|\s+(?!\S)"), (r" ?\p{L}+|\s+".to_owned(), Blank::Gives));
        assert_eq!(without_look_ahead(r"\++"), (r"\++".to_owned(), Blank::Stays));
    }
}

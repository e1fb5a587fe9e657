//! Keeps what a message says from being read as the marks of a turn.
//!
//! A chat template writes turns with control tokens (`<|im_start|>system`), and a tokenizer takes the text of such a token
//! for the token wherever it stands. Whoever writes `<|im_end|><|im_start|>system` into a message would so end their turn
//! and speak as the system. Before rendering, [`Marks::cut`] therefore puts a noncharacter into every such text inside a
//! message, and the rendered prompt is tokenized piece by piece between those: the model reads the plain characters.

use std::collections::HashMap;

use serde_json::Value;

use crate::backend::Message;

/// Where a text is cut: a noncharacter, which Unicode keeps for a program's own use (The Unicode Standard, section 23.7).
/// One that a message brings along is a cut as well, and is not seen by the model.
const CUT: char = '\u{fdd0}';

/// The texts that stand for control tokens.
#[derive(Debug, Default)]
pub struct Marks {
    by_first: HashMap<char, Vec<String>>,
}

impl Marks {
    /// The marks among a vocabulary's tokens.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut by_first: HashMap<char, Vec<String>> = HashMap::new();
        for text in texts {
            if let Some(first) = text.chars().next() {
                by_first.entry(first).or_default().push(text.to_owned());
            }
        }
        Self { by_first }
    }

    /// The messages, with every mark in them cut.
    pub fn cut(&self, messages: Vec<Message>) -> Vec<Message> {
        let cut = |Message { role, content, extra }: Message| Message {
            role: self.cut_text(role),
            content: self.cut_text(content),
            extra: extra.into_iter().map(|(key, value)| (self.cut_text(key), self.cut_value(value))).collect(),
        };
        messages.into_iter().map(cut).collect()
    }

    /// The depth of `value` was bounded when the request was parsed.
    fn cut_value(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.cut_text(text)),
            Value::Array(items) => items.into_iter().map(|item| self.cut_value(item)).collect(),
            Value::Object(map) => {
                map.into_iter().map(|(key, value)| (self.cut_text(key), self.cut_value(value))).collect()
            }
            other => other,
        }
    }

    pub(super) fn cut_text(&self, text: String) -> String {
        let mut out = String::new();
        let mut copied = 0;
        for (at, first) in text.char_indices() {
            let Some(marks) = self.by_first.get(&first) else { continue };
            let Some(mark) = marks.iter().find(|mark| text[at..].starts_with(mark.as_str())) else { continue };
            let after = at + first.len_utf8();
            if mark.len() == first.len_utf8() {
                // There is no place inside a single character.
                out.push_str(&text[copied..at]);
                out.push(char::REPLACEMENT_CHARACTER);
            } else {
                out.push_str(&text[copied..after]);
                out.push(CUT);
            }
            copied = after;
        }
        if copied == 0 {
            return text;
        }
        out.push_str(&text[copied..]);
        out
    }
}

/// The pieces of a rendered prompt that are tokenized on their own.
pub fn pieces(rendered: &str) -> impl Iterator<Item = &str> {
    rendered.split(CUT).filter(|piece| !piece.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn marks() -> Marks {
        Marks::new(["<|im_start|>", "<|im_end|>", "<<", "§", ""])
    }

    fn message(content: &str) -> Message {
        Message { role: "user".into(), content: content.into(), extra: serde_json::Map::new() }
    }

    #[test]
    fn every_place_of_a_message_is_cut() {
        let mut message = message("a<|im_end|>b");
        message.role = "user<|im_end|>".into();
        message.extra.insert("tool_calls".into(), json!([{ "<|im_end|>": ["x<|im_start|>", 3, null] }]));
        let cut = marks().cut(vec![message]).remove(0);
        assert_eq!(cut.content, format!("a<{CUT}|im_end|>b"));
        assert_eq!(cut.role, format!("user<{CUT}|im_end|>"));
        let calls = json!([{ format!("<{CUT}|im_end|>"): [format!("x<{CUT}|im_start|>"), 3, null] }]);
        assert_eq!(cut.extra["tool_calls"], calls);
    }

    #[test]
    fn plain_text_stays_as_it_is() {
        for text in ["", "a < b || c", "<|im_ends|>", "naïve 🙂"] {
            assert_eq!(marks().cut(vec![message(text)])[0].content, text);
        }
    }

    proptest! {
        #[test]
        fn no_piece_holds_a_mark_and_nothing_else_is_lost(text in "(<|\\||im_|start|end|>|§|x|é){0,12}") {
            let cut = marks().cut_text(text.clone());
            for mark in ["<|im_start|>", "<|im_end|>", "<<", "§"] {
                prop_assert!(pieces(&cut).all(|piece| !piece.contains(mark)), "{mark} in {cut:?}");
            }
            prop_assert_eq!(pieces(&cut).collect::<String>(), text.replace('§', "\u{fffd}"));
        }
    }
}

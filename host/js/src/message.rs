//! What the bundler has to say about a source, printed the way compilers do:
//!
//! ```text
//! src/index.ts:3:14: error: Could not resolve "./missing"
//!     import { x } from "./missing";
//!                       ^~~~~~~~~~~
//! ```
//!
//! A source is data of somebody else's. Its lines may be a megabyte long, hold tabs, wide characters or commands for a
//! terminal; the caret stands under the right column all the same.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};
use unicode_width::UnicodeWidthChar as _;

use crate::text;

/// How wide a line of a source may be when it is printed, and how much of that may stand before the place it is about.
const WIDTH: usize = 100;
const BEFORE: usize = 60;
/// Characters of a line that are printed at most, for those that take up no width.
const CHARACTERS: usize = 400;
const TAB: usize = 4;
/// Characters of a message's text, and of a path.
const TEXT: usize = 4000;
const PATH: usize = 1000;
/// Notes of a message, and messages of a list.
const NOTES: usize = 10;
const LISTED: usize = 20;

/// How bad it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// There is no bundle.
    #[default]
    Error,
    /// There is a bundle that may not do what was meant.
    Warning,
}

/// A fault of a source and where it is. Its `Display` is what a compiler prints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Message {
    /// How bad it is.
    #[serde(skip)]
    pub level: Level,
    /// The file's absolute path; empty where the message is about no file. One below the current directory is printed
    /// as its path from there.
    #[serde(deserialize_with = "or_default")]
    pub file: String,
    /// The line, counted from 1; 0 where the message is about no line.
    #[serde(deserialize_with = "or_default")]
    pub line: u32,
    /// Bytes of the line before the place, in UTF-8.
    #[serde(deserialize_with = "or_default")]
    pub column: u32,
    /// Bytes of the place.
    #[serde(deserialize_with = "or_default")]
    pub length: u32,
    /// The line itself.
    #[serde(deserialize_with = "or_default")]
    pub line_text: String,
    /// What is wrong.
    #[serde(deserialize_with = "or_default")]
    pub text: String,
    /// What helps to understand it.
    #[serde(deserialize_with = "or_default")]
    pub notes: Vec<Note>,
}

/// A remark on a message, which may have a place of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", from = "NoteReply")]
pub struct Note {
    /// The file's absolute path; empty where the note is about no file.
    pub file: String,
    /// The line, counted from 1.
    pub line: u32,
    /// Bytes of the line before the place, in UTF-8.
    pub column: u32,
    /// Bytes of the place.
    pub length: u32,
    /// The line itself.
    pub line_text: String,
    /// The remark.
    pub text: String,
}

/// How the bundler writes a note: in full, or its text alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum NoteReply {
    Text(String),
    Full(Message),
}

impl From<NoteReply> for Note {
    fn from(reply: NoteReply) -> Self {
        match reply {
            NoteReply::Text(text) => Self { text, ..Self::default() },
            NoteReply::Full(full) => {
                let Message { file, line, column, length, line_text, text, .. } = full;
                Self { file, line, column, length, line_text, text }
            }
        }
    }
}

/// `null` is what JavaScript has for "nothing to say".
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Error => "error",
            Level::Warning => "warning",
        };
        let place = Place { file: &self.file, line: self.line, column: self.column, length: self.length };
        place.write(f, level, &self.text, &self.line_text)?;
        for note in self.notes.iter().take(NOTES) {
            f.write_str("\n  ")?;
            let place = Place { file: &note.file, line: note.line, column: note.column, length: note.length };
            place.write(f, "note", &note.text, &note.line_text)?;
        }
        Ok(())
    }
}

/// Messages below one another; the bundler may have hundreds for one fault.
pub(crate) struct List<'a>(pub(crate) &'a [Message]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, message) in self.0.iter().take(LISTED).enumerate() {
            if number > 0 {
                f.write_str("\n\n")?;
            }
            message.fmt(f)?;
        }
        match self.0.len().checked_sub(LISTED) {
            Some(more @ 1..) => write!(f, "\n\nand {more} more"),
            _ => Ok(()),
        }
    }
}

/// Where in which file.
struct Place<'a> {
    file: &'a str,
    line: u32,
    column: u32,
    length: u32,
}

impl Place<'_> {
    fn write(&self, f: &mut fmt::Formatter<'_>, label: &str, what: &str, line: &str) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}:", text::line(&from_here(self.file), PATH))?;
            if self.line > 0 {
                write!(f, "{}:{}:", self.line, column(line, self.column))?;
            }
            f.write_str(" ")?;
        }
        write!(f, "{label}: {}", text::lines(what, TEXT, "  "))?;
        if self.line > 0 && !line.is_empty() {
            let excerpt = Excerpt::new(line, self.column as usize, self.length as usize);
            write!(f, "\n    {}\n    {:pad$}^", excerpt.line, "", pad = excerpt.before)?;
            f.write_str(&"~".repeat(excerpt.marked.saturating_sub(1)))?;
        }
        Ok(())
    }
}

/// A file's path from the current directory, if it is below it.
fn from_here(file: &str) -> Cow<'_, str> {
    let here = std::env::current_dir().ok();
    let below = here.and_then(|here| Path::new(file).strip_prefix(here).ok());
    below.map_or(Cow::Borrowed(file), Path::to_string_lossy)
}

/// The column as editors count it: in UTF-16 code units, from 1.
fn column(line: &str, bytes: u32) -> usize {
    let bytes = bytes as usize;
    match line.get(..line.floor_char_boundary(bytes)) {
        Some(before) if bytes <= line.len() => before.encode_utf16().count() + 1,
        _ => bytes.saturating_add(1),
    }
}

/// The part of a line around a place, with the columns that it takes up.
#[derive(Debug, PartialEq, Eq)]
struct Excerpt {
    line: String,
    before: usize,
    marked: usize,
}

impl Excerpt {
    fn new(line: &str, column: usize, length: usize) -> Self {
        let line = line.split(['\n', '\r']).next().unwrap_or_default();
        let at = line.floor_char_boundary(column);
        let end = at.saturating_add(length);
        let (before, after) = line.split_at(at);

        let mut from = at;
        let mut room = BEFORE;
        for (offset, c) in before.char_indices().rev().take(CHARACTERS) {
            let Some(left) = room.checked_sub(cell(c).1) else { break };
            (room, from) = (left, offset);
        }
        let mut excerpt = Self { line: String::new(), before: 0, marked: 0 };
        if from > 0 {
            excerpt.line.push('…');
            excerpt.before = 1;
        }
        for c in before.get(from..).unwrap_or_default().chars() {
            excerpt.before += excerpt.push(c);
        }
        let mut width = excerpt.before;
        for (number, (offset, c)) in after.char_indices().enumerate() {
            if width >= WIDTH || number >= CHARACTERS {
                excerpt.line.push('…');
                break;
            }
            let cells = excerpt.push(c);
            width += cells;
            if at + offset < end {
                excerpt.marked += cells;
            }
        }
        excerpt
    }

    fn push(&mut self, c: char) -> usize {
        let (c, width) = cell(c);
        match c {
            '\t' => self.line.extend(std::iter::repeat_n(' ', width)),
            _ => self.line.push(c),
        }
        width
    }
}

/// What is printed for a character and how many columns it takes up. A tab is as wide everywhere: a caret below it is
/// right only where both lines have the same.
fn cell(c: char) -> (char, usize) {
    match c {
        '\t' => (c, TAB),
        _ => {
            let c = text::shown(c);
            (c, c.width().unwrap_or(1))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(line_text: &str, column: u32, length: u32) -> Message {
        Message {
            file: "src/index.ts".into(),
            line: 3,
            column,
            length,
            line_text: line_text.into(),
            text: "it is wrong".into(),
            ..Message::default()
        }
    }

    #[track_caller]
    fn prints(message: &Message, expected: &str) {
        assert_eq!(message.to_string(), expected, "\n{message}");
    }

    #[test]
    fn a_place_is_marked() {
        prints(
            &message("const a = foo(;", 14, 1),
            "src/index.ts:3:15: error: it is wrong\n    const a = foo(;\n                  ^",
        );
        prints(
            &message("import x from './y'", 14, 5),
            "src/index.ts:3:15: error: it is wrong\n    import x from './y'\n                  ^~~~~",
        );
        prints(&message("ab", 2, 0), "src/index.ts:3:3: error: it is wrong\n    ab\n      ^");
    }

    #[test]
    fn tabs_and_wide_characters_keep_the_caret_in_place() {
        prints(
            &message("\tlet é = '漢字' + x", 21, 1),
            "src/index.ts:3:17: error: it is wrong\n        let é = '漢字' + x\n                         ^",
        );
    }

    #[test]
    fn columns_are_those_of_editors() {
        assert_eq!(column("é😀x", 6), 4, "one unit for é, two for the face");
        assert_eq!(column("é😀x", 3), 2, "inside a character counts as its beginning");
        assert_eq!(column("", 7), 8);
    }

    #[test]
    fn long_lines_are_cut_around_the_place() {
        let line = format!("{}HERE{}", "a".repeat(100_000), "b".repeat(100_000));
        let excerpt = Excerpt::new(&line, 100_000, 4);
        let expected = format!("…{}HERE{}…", "a".repeat(60), "b".repeat(35));
        assert_eq!(excerpt, Excerpt { line: expected, before: 61, marked: 4 });
        let whole = Excerpt::new(&line, 0, usize::MAX);
        assert_eq!((whole.line.chars().count(), whole.before, whole.marked), (101, 0, 100));
        let invisible = format!("a{}", "\u{301}".repeat(10_000));
        assert!(Excerpt::new(&invisible, 0, 1).line.chars().count() <= CHARACTERS + 1);
        assert!(Excerpt::new(&invisible, u32::MAX as usize, 1).line.chars().count() <= CHARACTERS + 2);
    }

    #[test]
    fn no_source_commands_the_terminal() {
        let mut message = message("a\x1b[2J\u{202e}b", 1, 1);
        message.file = "src/\x1b]0;x\x07.ts".into();
        message.text = "one\ntwo\x1b[31m".into();
        prints(&message, "src/␛]0;x␇.ts:3:2: error: one\n  two␛[31m\n    a␛[2J\u{fffd}b\n     ^");
    }

    #[test]
    fn a_message_without_a_place_is_a_sentence() {
        let message = Message { text: "out of luck".into(), level: Level::Warning, ..Message::default() };
        prints(&message, "warning: out of luck");
    }

    #[test]
    fn notes_follow() {
        let json = r#"{"file":"a.ts","line":1,"column":0,"length":1,"lineText":"x","text":"twice","notes":[
            {"text":"as said before"},"or so",{"file":"b.ts","line":2,"column":1,"length":2,"lineText":"abc","text":"here","x":1}]}"#;
        let message: Message = serde_json::from_str(json).unwrap();
        prints(
            &message,
            "a.ts:1:1: error: twice\n    x\n    ^\n  note: as said before\n  note: or so\n  b.ts:2:2: note: here\n    abc\n     ^~",
        );
    }

    #[test]
    fn a_file_below_the_current_directory_is_named_from_there() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(from_here(here.join("src/a.ts").to_str().unwrap()), "src/a.ts");
        assert_eq!(from_here("/elsewhere/a.ts"), "/elsewhere/a.ts");
        assert_eq!(from_here("src/a.ts"), "src/a.ts");
    }

    #[test]
    fn nothing_said_is_null_or_absent() {
        let json = r#"{"file":null,"line":null,"text":"no","notes":null}"#;
        let message: Message = serde_json::from_str(json).unwrap();
        assert_eq!(message, Message { text: "no".into(), ..Message::default() });
    }

    #[test]
    fn a_list_has_an_end() {
        let many = vec![Message { text: "no".into(), ..Message::default() }; 25];
        let text = List(&many).to_string();
        assert_eq!(text.matches("error: no").count(), LISTED);
        assert!(text.ends_with("\n\nand 5 more"), "{text}");
    }
}

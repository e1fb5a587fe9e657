//! What a person reads when a binding file is wrong.
//!
//! A binding file is edited by hand, so a fault is worth little without the place it stands at. Every fault carries
//! the file, the line and the column, and the line itself, and the whole list is produced in one pass: mending a file
//! fault by fault, one run each, is what this module exists to avoid.
//!
//! The text of a file is untrusted: control characters (terminal escapes) are replaced before anything is printed, and
//! lines of a secrets file are never shown at all.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// How many characters of a source line are shown around the place of a fault.
const EXCERPT_WIDTH: usize = 100;

/// Whether a diagnostic stops the host from starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, but does not do all it says.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        })
    }
}

/// One fault or warning, and where it stands.
///
/// `Display` prints `file:line:column: error: message`, the source line with a caret under the place, and `help: …`,
/// without a newline at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// The file as it was named: relative if `-c` or the directory was.
    pub file: PathBuf,
    /// The line, from 1. It is 1 where the fault concerns the file as a whole.
    pub line: usize,
    /// The column in characters, from 1. It is 1 where the fault concerns the file as a whole.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Whether this stops the host from starting.
    pub severity: Severity,
    /// The source line, if the fault has a place in the file and the file may be shown.
    #[serde(skip)]
    pub(crate) excerpt: Option<Excerpt>,
    /// False if the fault concerns the file as a whole.
    #[serde(skip)]
    pub(crate) placed: bool,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.placed {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}: {}", self.severity, self.message)?;
        if let Some(excerpt) = &self.excerpt {
            write!(f, "\n{excerpt}")?;
        }
        if let Some(help) = &self.help {
            let mut lines = help.lines();
            write!(f, "\nhelp: {}", lines.next().unwrap_or_default())?;
            for line in lines {
                write!(f, "\n      {line}")?;
            }
        }
        Ok(())
    }
}

/// A source line made safe to print, and the part of it that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Excerpt {
    text: String,
    indent: usize,
    width: usize,
}

impl Excerpt {
    /// `from..to` are characters of `line`, counted from 0. A long line is cut to a window around `from`.
    pub(crate) fn new(line: &str, from: usize, to: usize) -> Self {
        let window = from.saturating_sub(EXCERPT_WIDTH / 2);
        let mut characters = line.chars().skip(window);
        let mut text = String::new();
        if window > 0 {
            text.push('…');
        }
        text.extend(characters.by_ref().take(EXCERPT_WIDTH).map(printable));
        let shown = text.chars().count();
        if characters.next().is_some() {
            text.push('…');
        }
        let indent = from - window + usize::from(window > 0);
        let width = to.saturating_sub(from).min(shown.saturating_sub(indent)).max(1);
        Excerpt { text: text.trim_end().to_owned(), indent, width }
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  | {}", self.text)?;
        write!(f, "  | {:indent$}{}", "", "^".repeat(self.width), indent = self.indent)
    }
}

/// A tab becomes one space so that the caret stands under its character, any other control character a mark.
fn printable(character: char) -> char {
    match character {
        '\t' => ' ',
        c if c.is_control() || is_direction_mark(c) => '\u{fffd}',
        c => c,
    }
}

/// Marks that reorder what a terminal shows, so that a line could look like another.
fn is_direction_mark(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text of a file inside a message: in back quotes, cut to a readable length, without control characters.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 80;
    if text.is_empty() {
        return "`\"\"`".into();
    }
    let mut out = String::from("`");
    let mut characters = text.chars();
    out.extend(characters.by_ref().take(LONGEST).map(printable));
    if characters.next().is_some() {
        out.push('…');
    }
    out.push('`');
    out
}

/// Every fault of the binding files, in the order of the files and of their lines.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub Vec<Diagnostic>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let line = format!("{}here{}", "a".repeat(500), "b".repeat(500));
        let excerpt = Excerpt::new(&line, 500, 504).to_string();
        let mut lines = excerpt.lines();
        let (text, marks) = (lines.next().unwrap(), lines.next().unwrap());
        let at = marks.find('^').unwrap();
        let marked: String = text.chars().skip(at).take(4).collect();
        assert_eq!(marked, "here");
        assert!(text.chars().count() < 120, "{text}");
    }

    #[test]
    fn terminal_escapes_do_not_reach_the_terminal() {
        let excerpt = Excerpt::new("a = \"\u{1b}[2J\u{202e}\"", 0, 1).to_string();
        assert!(!excerpt.contains(['\u{1b}', '\u{202e}']), "{excerpt:?}");
        assert!(!quoted("\u{1b}[2J").contains('\u{1b}'));
    }
}

//! Secrets: `.dev.vars` or `.env` beside a binding file.
//!
//! The syntax is that of the `dotenv` package, which wrangler reads these files with: `NAME=value` lines, `export`
//! before them, comments, three kinds of quotes that may span lines, escapes in double quotes. Where that package
//! skips a line it does not understand, this module reports it: a secret that silently is not there is found out much
//! later. A value is never part of a message.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::diagnostic::quoted;
use crate::names::is_variable;
use crate::source::{FileId, Report, Span};

/// A line of a secrets file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SecretLine {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) span: Span,
}

/// The secrets file of a directory: `.dev.vars.<environment>`, else `.dev.vars`, else `.env`.
pub(crate) fn find(directory: &Path, environment: Option<&str>) -> Option<PathBuf> {
    let of_environment = environment.map(|name| format!(".dev.vars.{name}"));
    let names = of_environment.into_iter().chain([".dev.vars".to_owned(), ".env".to_owned()]);
    names.map(|name| directory.join(name)).find(|path| path.is_file())
}

/// Parses a secrets file of the report. A name that stands twice has its last value.
pub(crate) fn parse(file: FileId, report: &mut Report) -> Vec<SecretLine> {
    let text = report.text(file).to_owned();
    let mut cursor = Cursor { text: &text, at: 0, file, report };
    let mut lines: BTreeMap<String, SecretLine> = BTreeMap::new();
    while let Some(line) = cursor.line() {
        let Some(line) = line else { continue };
        let (name, span) = (line.name.clone(), line.span);
        if lines.insert(name, line).is_some() {
            cursor.report.warn(span, "this name stands twice; its last value counts", None);
        }
    }
    lines.into_values().collect()
}

struct Cursor<'t, 'r> {
    text: &'t str,
    at: usize,
    file: FileId,
    report: &'r mut Report,
}

impl Cursor<'_, '_> {
    /// The next line: none at the end, `Some(None)` for one without a secret.
    fn line(&mut self) -> Option<Option<SecretLine>> {
        if self.at >= self.text.len() {
            return None;
        }
        self.skip_spaces();
        let Some(first) = self.peek() else { return Some(None) };
        if first == '\n' || first == '\r' || first == '#' {
            self.skip_line();
            return Some(None);
        }
        let line = self.assignment();
        self.skip_line();
        Some(line)
    }

    fn assignment(&mut self) -> Option<SecretLine> {
        if let Some(rest) = self.text[self.at..].strip_prefix("export")
            && rest.starts_with([' ', '\t'])
        {
            self.at += "export".len();
            self.skip_spaces();
        }
        let start = self.at;
        self.skip_while(|c| !matches!(c, '=' | '\n' | '\r' | '#'));
        let name = self.text[start..self.at].trim_end().to_owned();
        let span = self.span(start, start + name.len());
        if self.peek() != Some('=') {
            self.report.error_with_help(
                span,
                "expected a line as in `NAME=value`, found no `=`",
                "put `#` before a comment",
            );
            return None;
        }
        if !is_variable(&name) {
            let (message, help) = match name.is_empty() {
                true => ("expected a name before `=`".to_owned(), "a line is `NAME=value`"),
                false => (
                    format!("{} is no name for a secret", quoted(&name)),
                    "a name has letters, digits, `_`, `.`, `-` and `$`",
                ),
            };
            let wide = self.span(start, self.at.max(start + 1));
            self.report.error_with_help(wide, message, help);
            // The value is read nevertheless: it may span lines.
        }
        self.at += 1;
        self.skip_spaces();
        let value = match self.peek() {
            Some(quote @ ('"' | '\'' | '`')) => self.quoted_value(quote)?,
            _ => self.bare_value(&name),
        };
        is_variable(&name).then_some(SecretLine { name, value, span })
    }

    fn bare_value(&mut self, name: &str) -> String {
        let start = self.at;
        self.skip_while(|c| !matches!(c, '#' | '\n' | '\r'));
        let value = &self.text[start..self.at];
        if self.peek() == Some('#') && value.ends_with(|c: char| !c.is_whitespace()) {
            let message = format!("the value of {} ends at `#`, which starts a comment", quoted(name));
            let span = self.span(self.at, self.at + 1);
            self.report.warn(span, message, Some("put the value in quotes if `#` belongs to it".into()));
        }
        value.trim().to_owned()
    }

    fn quoted_value(&mut self, quote: char) -> Option<String> {
        let start = self.at;
        self.at += 1;
        let mut value = String::new();
        loop {
            let Some(next) = self.peek() else {
                let span = self.span(start, start + 1);
                self.report.error(span, format!("the value that starts with {quote} has no {quote} at its end"));
                return None;
            };
            self.at += next.len_utf8();
            match next {
                _ if next == quote => break,
                '\\' if quote == '"' => self.escape(&mut value),
                '\r' if self.peek() == Some('\n') => {}
                _ => value.push(next),
            }
        }
        self.skip_spaces();
        let end = self.at;
        match self.peek() {
            None | Some('\n' | '\r' | '#') => Some(value),
            Some(_) => {
                self.skip_while(|c| !matches!(c, '\n' | '\r'));
                let span = self.span(end, self.at);
                self.report.error(span, "unexpected text after the closing quote");
                None
            }
        }
    }

    /// After a backslash. What is no escape stays as it is, as in `"C:\dir"`.
    fn escape(&mut self, value: &mut String) {
        let Some(next) = self.peek() else { return value.push('\\') };
        let meant = match next {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            '\\' | '"' | '$' => next,
            _ => return value.push('\\'),
        };
        self.at += next.len_utf8();
        value.push(meant);
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn skip_spaces(&mut self) {
        self.skip_while(|c| matches!(c, ' ' | '\t'));
    }

    fn skip_line(&mut self) {
        self.skip_while(|c| c != '\n');
        self.at = (self.at + 1).min(self.text.len());
    }

    fn skip_while(&mut self, wanted: impl Fn(char) -> bool) {
        let rest = &self.text[self.at..];
        self.at += rest.find(|c| !wanted(c)).unwrap_or(rest.len());
    }

    fn span(&self, start: usize, end: usize) -> Span {
        Span { file: self.file, start, end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<(String, String)>, Report) {
        let mut report = Report::default();
        let file = report.add(".dev.vars".into(), text.into(), true);
        let lines = parse(file, &mut report);
        (lines.into_iter().map(|line| (line.name, line.value)).collect(), report)
    }

    fn good(text: &str) -> Vec<(String, String)> {
        let (lines, report) = read(text);
        report.finish().unwrap();
        lines
    }

    fn faults(text: &str) -> String {
        read(text).1.finish().unwrap_err().to_string()
    }

    #[test]
    fn values_are_read_as_dotenv_does() {
        let cases = [
            ("A=b", "b"),
            ("A = b c \r\n", "b c"),
            ("export A=b", "b"),
            ("A=", ""),
            ("A=b # comment", "b"),
            ("A=b#c", "b"),
            ("A='b # \\n c'", "b # \\n c"),
            ("A=\"b\\nc\\t\\\"\\\\\" # comment", "b\nc\t\"\\"),
            ("A=\"C:\\dir\"", "C:\\dir"),
            ("A=`\"'`", "\"'"),
            ("A=\"one\r\ntwo\"", "one\ntwo"),
            ("# x\n\n  A=b=c\n", "b=c"),
            ("A=1\nA=2", "2"),
            ("A=\"\u{fc}\\", ""),
        ];
        for (text, expected) in cases {
            let (lines, _) = read(text);
            let value = lines.first().map(|(_, value)| value.as_str()).unwrap_or_default();
            assert_eq!(value, expected, "{text:?}");
        }
        assert_eq!(good("exportA=1")[0].0, "exportA");
    }

    #[test]
    fn broken_lines_are_faults_with_a_place_and_without_the_value() {
        assert!(faults("A=1\n  hunter2 is it\nB=2").starts_with(".dev.vars:2:3: error: expected a line"));
        assert!(faults("=hunter2").contains("1:1: error: expected a name"));
        assert!(faults("A B=hunter2").contains("`A B` is no name"));
        assert!(faults("A=1\nB=\"hunter2\n\n").contains("2:3: error: the value that starts with \""));
        assert!(faults("A=\"x\" hunter2").contains("1:7: error: unexpected text"));
        for text in ["=hunter2", "A B=hunter2", "B=\"hunter2\n", "A=\"x\" hunter2"] {
            assert!(!faults(text).contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn every_broken_line_is_listed() {
        assert_eq!(read("a\nb\nc=1\nd").1.finish().unwrap_err().0.len(), 3);
    }
}

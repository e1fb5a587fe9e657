//! The files that were read, and the list of what is wrong with them.
//!
//! Spans are byte ranges into a file of the [`Report`]; they become lines and columns only when a diagnostic is made.
//! The report bounds what a hostile file can make it hold: past [`MOST`] a file's faults are counted, not kept.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::diagnostic::{Diagnostic, Excerpt, Faults, Severity};

/// The largest binding or secrets file that is read, in bytes.
pub(crate) const LARGEST_FILE: u64 = 1 << 20;

/// How many faults, and how many warnings, are listed for one file.
const MOST: usize = 100;

/// A file of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FileId(usize);

/// A byte range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) file: FileId,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spanned<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

/// A file, or another place a fault can be in, such as the command line.
#[derive(Debug)]
struct Source {
    shown: PathBuf,
    text: String,
    /// Where each line but the first starts.
    lines: Vec<usize>,
    /// Lines of a secrets file are not echoed.
    confidential: bool,
    errors: usize,
    warnings: usize,
}

/// Where a fault stands.
#[derive(Clone, Copy, Debug)]
enum Place {
    At(Span),
    Whole(FileId),
}

impl Place {
    fn order(self) -> (FileId, usize) {
        match self {
            Place::At(span) => (span.file, span.start),
            Place::Whole(file) => (file, 0),
        }
    }
}

#[derive(Debug)]
struct Entry {
    place: Place,
    severity: Severity,
    message: String,
    help: Option<String>,
}

/// The files read so far and everything found wrong with them.
#[derive(Debug, Default)]
pub(crate) struct Report {
    sources: Vec<Source>,
    entries: Vec<Entry>,
    said: HashSet<(FileId, String)>,
}

impl Report {
    /// Adds a place that faults can be in.
    pub(crate) fn add(&mut self, shown: PathBuf, text: String, confidential: bool) -> FileId {
        let lines = text.match_indices('\n').map(|(at, _)| at + 1).collect();
        self.sources.push(Source { shown, text, lines, confidential, errors: 0, warnings: 0 });
        FileId(self.sources.len() - 1)
    }

    pub(crate) fn text(&self, file: FileId) -> &str {
        &self.sources[file.0].text
    }

    pub(crate) fn shown(&self, file: FileId) -> &Path {
        &self.sources[file.0].shown
    }

    pub(crate) fn error(&mut self, span: Span, message: impl Into<String>) {
        self.push(Place::At(span), Severity::Error, message.into(), None);
    }

    pub(crate) fn error_with_help(&mut self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        self.push(Place::At(span), Severity::Error, message.into(), Some(help.into()));
    }

    /// A fault of the file as a whole.
    pub(crate) fn file_error(&mut self, file: FileId, message: impl Into<String>, help: Option<String>) {
        self.push(Place::Whole(file), Severity::Error, message.into(), help);
    }

    pub(crate) fn warn(&mut self, span: Span, message: impl Into<String>, help: Option<String>) {
        self.push(Place::At(span), Severity::Warning, message.into(), help);
    }

    /// A warning of the file as a whole.
    pub(crate) fn file_warning(&mut self, file: FileId, message: impl Into<String>, help: Option<String>) {
        self.push(Place::Whole(file), Severity::Warning, message.into(), help);
    }

    /// Warns unless this file was already warned about `topic`.
    pub(crate) fn warn_once(&mut self, topic: &str, span: Span, message: String, help: Option<String>) {
        if self.said.insert((span.file, topic.to_owned())) {
            self.warn(span, message, help);
        }
    }

    /// Whether a file has errors.
    pub(crate) fn is_broken(&self, file: FileId) -> bool {
        self.sources[file.0].errors > 0
    }

    /// Whether further faults of a file would only be counted, so that their text need not be made.
    pub(crate) fn is_full(&self, file: FileId) -> bool {
        self.sources[file.0].errors >= MOST
    }

    /// The line of a place, from 1, for a message that points at a second place.
    pub(crate) fn line(&self, span: Span) -> usize {
        1 + self.sources[span.file.0].lines.partition_point(|start| *start <= span.start)
    }

    fn push(&mut self, place: Place, severity: Severity, message: String, help: Option<String>) {
        let (file, _) = place.order();
        let source = &mut self.sources[file.0];
        let count = match severity {
            Severity::Error => &mut source.errors,
            Severity::Warning => &mut source.warnings,
        };
        *count += 1;
        if *count <= MOST {
            self.entries.push(Entry { place, severity, message, help });
        }
    }

    /// The faults if there are any, else the warnings, both in the order of the files and their lines.
    pub(crate) fn finish(mut self) -> Result<Vec<Diagnostic>, Faults> {
        self.entries.sort_by_key(|entry| entry.place.order());
        let broken = self.sources.iter().any(|source| source.errors > 0);
        let severity = if broken { Severity::Error } else { Severity::Warning };
        let mut diagnostics = Vec::new();
        for (index, source) in self.sources.iter().enumerate() {
            let (count, noun) = if broken { (source.errors, "faults") } else { (source.warnings, "warnings") };
            let of_file = self.entries.iter().filter(|e| e.place.order().0.0 == index && e.severity == severity);
            diagnostics.extend(of_file.map(|entry| self.diagnostic(entry)));
            if let Some(rest) = count.checked_sub(MOST).filter(|rest| *rest > 0) {
                let message = format!("{rest} more {noun} of this file are not listed");
                let place = Place::Whole(FileId(index));
                diagnostics.push(self.diagnostic(&Entry { place, severity, message, help: None }));
            }
        }
        if broken { Err(Faults(diagnostics)) } else { Ok(diagnostics) }
    }

    fn diagnostic(&self, entry: &Entry) -> Diagnostic {
        let source = &self.sources[entry.place.order().0.0];
        let (line, column, excerpt) = match entry.place {
            Place::Whole(_) => (1, 1, None),
            Place::At(span) => {
                let (line, column, excerpt) = locate(source, span);
                (line, column, (!source.confidential).then_some(excerpt))
            }
        };
        Diagnostic {
            file: source.shown.clone(),
            line,
            column,
            message: entry.message.clone(),
            help: entry.help.clone(),
            severity: entry.severity,
            excerpt,
            placed: matches!(entry.place, Place::At(_)),
        }
    }
}

/// Line and column from 1, and the line. A span past the end of the text stands at its end.
fn locate(source: &Source, span: Span) -> (usize, usize, Excerpt) {
    let text = source.text.as_str();
    let start = text.floor_char_boundary(span.start);
    let number = source.lines.partition_point(|line| *line <= start);
    let line_start = number.checked_sub(1).and_then(|at| source.lines.get(at)).copied().unwrap_or(0);
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let line = &text[line_start..line_end];
    let end = text.floor_char_boundary(span.end).clamp(start, line_end);
    let from = text[line_start..start].chars().count();
    let to = from + text[start..end].chars().count();
    (number + 1, from + 1, Excerpt::new(line, from, to))
}

/// Why a file gave no text.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    #[error("is not a file")]
    NotAFile,
    #[error("is larger than {} KiB, which no binding file needs", LARGEST_FILE >> 10)]
    TooLarge,
    #[error("is not UTF-8 text: byte {at} starts no character (line {line})")]
    NotText { at: usize, line: usize },
}

/// Reads a small text file; a byte order mark is dropped.
///
/// The kind is looked at first because opening a FIFO for reading would wait for a writer.
pub(crate) fn read(path: &Path) -> Result<String, ReadError> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(ReadError::NotAFile);
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(ReadError::TooLarge);
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
        ReadError::NotText { at, line }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, start: usize, end: usize) -> (usize, usize) {
        let mut report = Report::default();
        let file = report.add("f".into(), text.into(), false);
        report.error(Span { file, start, end }, "wrong");
        let fault = report.finish().unwrap_err().0.remove(0);
        (fault.line, fault.column)
    }

    #[test]
    fn columns_count_characters() {
        let text = "a\nüß = 1\n";
        assert_eq!(at(text, text.find('=').unwrap(), 0), (2, 4));
        assert_eq!(at(text, 0, 1), (1, 1));
        assert_eq!(at(text, 9999, 99999), (3, 1));
        assert_eq!(at(text, 3, 4), (2, 1), "inside of a character");
        assert_eq!(at("", 0, 0), (1, 1));
    }

    #[test]
    fn faults_past_the_bound_are_counted() {
        let mut report = Report::default();
        let file = report.add("f".into(), "x".into(), false);
        for _ in 0..MOST + 7 {
            report.error(Span { file, start: 0, end: 1 }, "wrong");
        }
        let faults = report.finish().unwrap_err().0;
        assert_eq!(faults.len(), MOST + 1);
        assert_eq!(faults[MOST].message, "7 more faults of this file are not listed");
    }

    #[test]
    fn a_secrets_file_is_not_echoed() {
        let mut report = Report::default();
        let file = report.add(".dev.vars".into(), "TOKEN hunter2".into(), true);
        report.error(Span { file, start: 6, end: 13 }, "no `=`");
        let text = report.finish().unwrap_err().to_string();
        assert_eq!(text, ".dev.vars:1:7: error: no `=`");
    }
}

//! The TOML front end.
//!
//! The parser recovers from a fault and goes on, so one pass lists every syntax fault of a file. It bounds the nesting
//! of brackets but not that of dotted keys inside them, so the tree it gives can be far deeper than its own bound; it
//! is therefore taken apart here with a depth count, and what lies deeper is dropped without recursion.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::source::{FileId, Report, Span};
use crate::tree::{DEEPEST, Document, Entry, Node, Syntax, Table, Value};

/// Parses a TOML file of the report; none if it has syntax faults, which are then in the report.
pub(crate) fn parse(file: FileId, report: &mut Report) -> Option<Document> {
    let text = report.text(file).to_owned();
    let (root, errors) = DeTable::parse_recoverable(&text);
    let mut last_line = 0;
    for error in &errors {
        let range = error.span().unwrap_or(0..0);
        let span = Span { file, start: range.start, end: range.end };
        // What follows the first fault of a line is most often the parser finding its feet again.
        let line = report.line(span);
        if line != last_line {
            let there = text.get(range).unwrap_or_default();
            report.error(span, message(error.message(), there));
        }
        last_line = line;
    }
    if !errors.is_empty() {
        for (_, value) in root.into_inner() {
            dismantle(value);
        }
        return None;
    }
    let mut reader = TreeReader { file, report };
    let root = reader.table(root.into_inner(), 0);
    let span = Span { file, start: 0, end: 0 };
    (!report.is_broken(file)).then_some(Document { file, syntax: Syntax::Toml, root, span })
}

/// The parser's message, in other words where it guesses at what a bare word was meant to be. `there` is the text it is
/// about.
fn message(text: &str, there: &str) -> String {
    let about_value = ["string values must be quoted", "invalid float", "invalid boolean", "invalid integer"];
    let bare_word = there.starts_with(|c: char| c.is_alphabetic());
    match text {
        "duplicate key" => "this key stands twice".into(),
        _ if text.starts_with(about_value[0]) && there.is_empty() => "not valid TOML: expected a value".into(),
        _ if about_value.iter().any(|start| text.starts_with(start)) && bare_word => {
            "not valid TOML: a string must stand in quotes".into()
        }
        _ => format!("not valid TOML: {text}"),
    }
}

struct TreeReader<'r> {
    file: FileId,
    report: &'r mut Report,
}

impl TreeReader<'_> {
    fn table(&mut self, table: DeTable<'_>, depth: usize) -> Table {
        let mut entries: Vec<Entry> = table
            .into_iter()
            .map(|(key, value)| {
                let key_span = self.span(key.span());
                Entry { key: key.into_inner().into_owned(), key_span, node: self.node(value, depth + 1) }
            })
            .collect();
        entries.sort_by_key(|entry| entry.key_span.start);
        Table { entries }
    }

    fn node(&mut self, value: Spanned<DeValue<'_>>, depth: usize) -> Node {
        let span = self.span(value.span());
        if depth > DEEPEST {
            self.report.error(span, format!("nested deeper than {DEEPEST} levels"));
            dismantle(value);
            return Node { value: Value::Null, span };
        }
        let value = match value.into_inner() {
            DeValue::String(text) => Value::String(text.into_owned()),
            DeValue::Boolean(value) => Value::Boolean(value),
            DeValue::Datetime(date) => Value::Date(date.to_string()),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(value) => Value::Integer(value),
                Err(_) => self.unfit(span),
            },
            DeValue::Float(number) => match number.as_str().parse::<f64>() {
                Ok(value) => Value::Float(value),
                Err(_) => self.unfit(span),
            },
            DeValue::Array(values) => {
                Value::Array(values.into_iter().map(|value| self.node(value, depth + 1)).collect())
            }
            DeValue::Table(table) => Value::Table(self.table(table, depth)),
        };
        Node { value, span }
    }

    fn unfit(&mut self, span: Span) -> Value {
        self.report.error(span, "this number does not fit in 64 bits");
        Value::Integer(0)
    }

    fn span(&self, range: std::ops::Range<usize>) -> Span {
        Span { file: self.file, start: range.start, end: range.end }
    }
}

/// Drops a value of any depth with a stack of its own.
fn dismantle(value: Spanned<DeValue<'_>>) {
    let mut rest = vec![value];
    while let Some(value) = rest.pop() {
        match value.into_inner() {
            DeValue::Array(values) => rest.extend(values),
            DeValue::Table(table) => rest.extend(table.into_iter().map(|(_, value)| value)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> String {
        let mut report = Report::default();
        let file = report.add("w.toml".into(), text.into(), false);
        assert!(parse(file, &mut report).is_none());
        report.finish().unwrap_err().to_string()
    }

    #[test]
    fn every_line_with_a_fault_is_listed() {
        let text = faults("a = \nb = 1\nb = 2\nc = nope\nd = \"x\n[e");
        for line in ["1:5: error: not valid TOML: expected a value", "3:1:", "4:5:", "5:", "6:"] {
            let line = format!("w.toml:{line}");
            assert!(text.contains(&line), "{line} in\n{text}");
        }
    }

    #[test]
    fn dotted_keys_in_inline_tables_are_bounded_too() {
        let path = vec!["k"; 79].join(".");
        let text = format!("{}k = 1{}", format!("{path} = {{ ").repeat(70), " }".repeat(70));
        assert!(faults(&text).contains("nested deeper than 64 levels"), "{}", faults(&text));
    }

    #[test]
    fn numbers_out_of_range_are_faults() {
        assert!(faults("a = 9223372036854775808").contains("does not fit"));
        assert!(faults("a = 0xffffffffffffffffff").contains("does not fit"));
    }
}

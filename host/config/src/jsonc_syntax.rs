//! The JSONC front end: JSON with comments and trailing commas, and nothing looser.
//!
//! The grammar is that of wrangler's own files (RFC 8259 with `//` and `/* */` comments). The parser stops at the first
//! fault of a file and bounds the nesting; keys that stand twice are found here, because it keeps both.

use std::collections::HashMap;

use jsonc_parser::ast::{self, ObjectPropName};
use jsonc_parser::common::{Range, Ranged};
use jsonc_parser::errors::ParseErrorKind;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

use crate::source::{FileId, Report, Span};
use crate::tree::{DEEPEST, Document, Entry, Node, Syntax, Table, Value};

const GRAMMAR: ParseOptions = ParseOptions {
    allow_comments: true,
    allow_trailing_commas: true,
    allow_loose_object_property_names: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// Parses a JSONC file of the report; none if it has syntax faults, which are then in the report.
pub(crate) fn parse(file: FileId, report: &mut Report) -> Option<Document> {
    let text = report.text(file).to_owned();
    let value = match parse_to_ast(&text, &CollectOptions::default(), &GRAMMAR) {
        Ok(result) => result.value,
        Err(error) => {
            let Range { start, end } = error.range();
            // The range of an unclosed value goes to the end of the file; it is its start that is meant.
            let unclosed =
                matches!(error.kind(), ParseErrorKind::UnterminatedObject | ParseErrorKind::UnterminatedArray);
            let end = if unclosed { start + 1 } else { end };
            let kind = error.kind().to_string();
            let mut letters = kind.chars();
            let first = letters.next().map(|c| c.to_ascii_lowercase());
            let kind: String = first.into_iter().chain(letters).collect();
            report.error(Span { file, start, end }, format!("not valid JSON: {kind}"));
            return None;
        }
    };
    let Some(value) = value else {
        report.file_error(file, "the file is empty", Some("a binding file holds at least `{}`".into()));
        return None;
    };
    let start = value.range().start;
    let mut reader = TreeReader { file, report };
    let node = reader.node(&value, 0);
    let span = Span { file, start, end: start + 1 };
    match node.value {
        Value::Table(root) => (!report.is_broken(file)).then_some(Document { file, syntax: Syntax::Jsonc, root, span }),
        _ => {
            report.error(span, format!("expected an object, found {}", node.found(Syntax::Jsonc)));
            None
        }
    }
}

struct TreeReader<'r> {
    file: FileId,
    report: &'r mut Report,
}

impl TreeReader<'_> {
    fn node(&mut self, value: &ast::Value<'_>, depth: usize) -> Node {
        let span = self.span(value.range());
        if depth > DEEPEST {
            self.report.error(Span { end: span.start + 1, ..span }, format!("nested deeper than {DEEPEST} levels"));
            return Node { value: Value::Null, span };
        }
        let value = match value {
            ast::Value::NullKeyword(_) => Value::Null,
            ast::Value::BooleanLit(literal) => Value::Boolean(literal.value),
            ast::Value::StringLit(literal) => Value::String(literal.value.clone().into_owned()),
            ast::Value::NumberLit(literal) => self.number(literal.value, span),
            ast::Value::Array(array) => {
                Value::Array(array.elements.iter().map(|value| self.node(value, depth + 1)).collect())
            }
            ast::Value::Object(object) => Value::Table(self.table(object, depth)),
        };
        Node { value, span }
    }

    fn table(&mut self, object: &ast::Object<'_>, depth: usize) -> Table {
        let mut table = Table::default();
        let mut seen: HashMap<String, Span> = HashMap::new();
        for property in &object.properties {
            let range = match &property.name {
                ObjectPropName::String(literal) => literal.range,
                ObjectPropName::Word(literal) => literal.range,
            };
            let (key, key_span) = (property.name.as_str().to_owned(), self.span(range));
            if seen.insert(key.clone(), key_span).is_some() {
                self.report.error(key_span, "this key stands twice");
                continue;
            }
            table.entries.push(Entry { key, key_span, node: self.node(&property.value, depth + 1) });
        }
        table
    }

    fn number(&mut self, text: &str, span: Span) -> Value {
        let value = if text.contains(['.', 'e', 'E']) {
            text.parse().ok().filter(|value: &f64| value.is_finite()).map(Value::Float)
        } else {
            text.parse().ok().map(Value::Integer)
        };
        value.unwrap_or_else(|| {
            self.report.error(span, "this number does not fit in 64 bits");
            Value::Integer(0)
        })
    }

    fn span(&self, range: Range) -> Span {
        Span { file: self.file, start: range.start, end: range.end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> String {
        let mut report = Report::default();
        let file = report.add("w.jsonc".into(), text.into(), false);
        assert!(parse(file, &mut report).is_none());
        report.finish().unwrap_err().to_string()
    }

    #[test]
    fn only_comments_and_trailing_commas_are_added_to_json() {
        let mut report = Report::default();
        let file = report.add("w.jsonc".into(), "// a\n{ \"a\": [1, 2,], /* b */ \"b\": 1e3, }".into(), false);
        assert!(parse(file, &mut report).is_some());
        for text in
            ["{a: 1}", "{'a': 1}", "{\"a\": 0x1}", "{\"a\": +1}", "{\"a\": NaN}", "{\"a\": 1 \"b\": 2}", "{} {}"]
        {
            assert!(faults(text).contains("w.jsonc:1:"), "{text}");
        }
    }

    #[test]
    fn a_key_that_stands_twice_is_a_fault_at_the_second() {
        assert!(faults("{\n  \"a\": 1,\n  \"a\": 2\n}").starts_with("w.jsonc:3:3: error: this key stands twice"));
    }

    #[test]
    fn deep_nesting_is_a_fault() {
        let text = format!("{{\"a\": {}{}}}", "[".repeat(100), "]".repeat(100));
        assert!(faults(&text).contains("nested deeper than 64 levels"));
        let text = format!("{{\"a\": {}", "[".repeat(500_000));
        assert!(faults(&text).contains("nesting depth"));
    }

    #[test]
    fn the_root_is_an_object() {
        assert!(faults("[]").contains("expected an object, found an array"));
        assert!(faults("  ").contains("empty"));
        assert!(faults("{\"a\": 1e999}").contains("does not fit"));
    }
}

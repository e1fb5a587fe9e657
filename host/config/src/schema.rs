//! The keys of a binding file, as data.
//!
//! Every key that may stand in a file is listed in [`keys`](crate::keys) with what it takes and what it is for. One
//! walk over a file's tree checks names, types, ranges and required keys against that list and reports everything at
//! once; the decoders after it meet only values of the right type and say only what a table cannot: that a name is
//! taken, that a file is missing. The list is public so that documentation and completions are made from the same data.

use crate::diagnostic::quoted;
use crate::source::{Report, Span};
use crate::tree::{Document, Entry, Node, Syntax, Table, Value};

/// What a key takes.
#[derive(Clone, Copy, Debug)]
pub enum Takes {
    /// A string.
    Text,
    /// One of these strings.
    Choice(&'static [&'static str]),
    /// `true` or `false`.
    Flag,
    /// A whole number within these bounds, both included.
    Whole(u64, u64),
    /// As `Whole`, or `null` (JSONC only) for no bound.
    WholeOrNull(u64, u64),
    /// An array of strings.
    Texts,
    /// `true`, `false` or an array of strings.
    FlagOrTexts,
    /// A table with these keys.
    Table(&'static Section),
    /// An array of tables with these keys (`[[…]]` in TOML).
    Tables(&'static Section),
    /// A table of tables with these keys, under names of the user's choice.
    Named(&'static Section),
    /// A string or a table with these keys.
    TextOrTable(&'static Section),
    /// An array whose elements are strings or tables with these keys.
    TextsOrTables(&'static Section),
    /// A table of strings under names of the user's choice.
    TextByName,
    /// A table of any values that JSON can hold, under names of the user's choice.
    Json,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The key as it is written.
    pub name: &'static str,
    /// What it takes.
    pub takes: Takes,
    /// Whether its table is incomplete without it. `name` and `main` are not marked: an environment inherits them.
    pub required: bool,
    /// What it is for, its unit and its default.
    pub doc: &'static str,
}

/// The keys that a table may hold.
#[derive(Debug)]
pub struct Section {
    /// The keys, in groups that sections share.
    pub keys: &'static [&'static [Key]],
    /// Keys that Cloudflare's own tool knows and this host does not act on: each gives one warning.
    pub ignored: &'static [&'static str],
}

impl Section {
    /// The key of this name.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.all().find(|key| key.name == name)
    }

    /// Every key of the section.
    pub fn all(&self) -> impl Iterator<Item = &'static Key> + use<> {
        self.keys.iter().flat_map(|group| group.iter())
    }
}

/// Checks a file against its schema. Faults go to the report; afterwards the decoders may skip what has a wrong type.
pub(crate) fn check(document: &Document, root: &'static Section, report: &mut Report) {
    let mut checker = Checker { syntax: document.syntax, path: String::new(), report };
    checker.table(&document.root, document.span, root);
}

struct Checker<'r> {
    syntax: Syntax,
    /// Where the walk stands, as in `ai.models[1]`.
    path: String,
    report: &'r mut Report,
}

impl Checker<'_> {
    fn table(&mut self, table: &Table, span: Span, section: &'static Section) {
        for entry in &table.entries {
            match section.key(&entry.key) {
                Some(key) => self.within(&entry.key, |this| this.value(&entry.node, key.takes)),
                None if section.ignored.contains(&entry.key.as_str()) => self.ignore(entry),
                None => self.unknown(entry, section),
            }
        }
        for key in section.all().filter(|key| key.required && table.get(key.name).is_none()) {
            let place = if self.path.is_empty() { String::new() } else { format!(" in {}", quoted(&self.path)) };
            self.report.error_with_help(
                span,
                format!("`{}` is missing{place}", key.name),
                format!("`{}` is {}", key.name, key.doc),
            );
        }
    }

    fn value(&mut self, node: &Node, takes: Takes) {
        let fits = match (takes, &node.value) {
            (Takes::Text, Value::String(_)) => true,
            (Takes::Choice(choices), Value::String(text)) => choices.contains(&text.as_str()),
            (Takes::Flag | Takes::FlagOrTexts, Value::Boolean(_)) => true,
            (Takes::Whole(least, most) | Takes::WholeOrNull(least, most), Value::Integer(value)) => {
                u64::try_from(*value).is_ok_and(|value| (least..=most).contains(&value))
            }
            (Takes::WholeOrNull(..), Value::Null) => true,
            (Takes::Texts | Takes::FlagOrTexts, Value::Array(nodes)) => {
                return self.elements(nodes, |this, node| this.value(node, Takes::Text));
            }
            (Takes::TextOrTable(_), Value::String(_)) => true,
            (Takes::Table(section) | Takes::TextOrTable(section), Value::Table(table)) => {
                return self.table(table, node.span, section);
            }
            (Takes::Tables(section), Value::Array(nodes)) => {
                return self.elements(nodes, |this, node| this.value(node, Takes::Table(section)));
            }
            (Takes::TextsOrTables(section), Value::Array(nodes)) => {
                return self.elements(nodes, |this, node| this.value(node, Takes::TextOrTable(section)));
            }
            (Takes::Named(section), Value::Table(table)) => {
                return self.entries(table, |this, node| this.value(node, Takes::Table(section)));
            }
            (Takes::TextByName, Value::Table(table)) => {
                return self.entries(table, |this, node| this.value(node, Takes::Text));
            }
            (Takes::Json, Value::Table(table)) => return self.entries(table, Checker::json),
            _ => false,
        };
        if !fits {
            self.unfit(node, takes);
        }
    }

    fn elements(&mut self, nodes: &[Node], mut check: impl FnMut(&mut Self, &Node)) {
        let length = self.path.len();
        for (index, node) in nodes.iter().enumerate() {
            self.path.push_str(&format!("[{index}]"));
            check(self, node);
            self.path.truncate(length);
        }
    }

    fn entries(&mut self, table: &Table, mut check: impl FnMut(&mut Self, &Node)) {
        for entry in &table.entries {
            self.within(&entry.key, |this| check(this, &entry.node));
        }
    }

    fn within(&mut self, key: &str, check: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        check(self);
        self.path.truncate(length);
    }

    /// A value that a program gets as JSON: TOML has dates and numbers that JSON lacks.
    fn json(&mut self, node: &Node) {
        let path = quoted(&self.path);
        match &node.value {
            Value::Date(text) => self.report.error_with_help(
                node.span,
                format!("{path}: a program receives this as JSON, which has no dates"),
                format!("put it in quotes: \"{text}\""),
            ),
            Value::Float(value) if !value.is_finite() => {
                self.report
                    .error(node.span, format!("{path}: a program receives this as JSON, which has no `{value}`"));
            }
            Value::Array(nodes) => self.elements(nodes, Checker::json),
            Value::Table(table) => self.entries(table, Checker::json),
            _ => {}
        }
    }

    fn unfit(&mut self, node: &Node, takes: Takes) {
        let found = match (takes, &node.value) {
            (Takes::Choice(_), Value::String(text)) => quoted(text),
            _ => node.found(self.syntax),
        };
        let message = format!("{}: expected {}, found {found}", quoted(&self.path), self.expected(takes));
        match (takes, &node.value) {
            (Takes::Choice(choices), Value::String(text)) => match nearest(text, choices.iter().copied()) {
                Some(near) => self.report.error_with_help(node.span, message, format!("did you mean `{near}`?")),
                None => self.report.error(node.span, message),
            },
            (Takes::Text, Value::Date(text)) => {
                self.report.error_with_help(node.span, message, format!("put it in quotes: \"{text}\""));
            }
            _ => self.report.error(node.span, message),
        }
    }

    fn expected(&self, takes: Takes) -> String {
        let (table, tables) = match self.syntax {
            Syntax::Toml => ("a table", "an array of tables (`[[…]]`)"),
            Syntax::Jsonc => ("an object", "an array of objects"),
        };
        match takes {
            Takes::Text => "a string".into(),
            Takes::Choice(choices) => {
                let choices: Vec<String> = choices.iter().map(|choice| format!("`{choice}`")).collect();
                format!("one of {}", choices.join(", "))
            }
            Takes::Flag => "`true` or `false`".into(),
            Takes::Whole(least, most) => format!("a whole number from {least} to {most}"),
            Takes::WholeOrNull(least, most) => format!("a whole number from {least} to {most} or null"),
            Takes::Texts => "an array of strings".into(),
            Takes::FlagOrTexts => "`true`, `false` or an array of strings".into(),
            Takes::Table(_) | Takes::Named(_) | Takes::TextByName | Takes::Json => table.into(),
            Takes::Tables(_) => tables.into(),
            Takes::TextOrTable(_) => format!("a string or {table}"),
            Takes::TextsOrTables(_) => format!("an array of strings, or {tables}"),
        }
    }

    fn ignore(&mut self, entry: &Entry) {
        let key = self.joined(&entry.key);
        let message = format!("{} is a key of Cloudflare's that this host does not act on", quoted(&key));
        self.report.warn_once(&entry.key, entry.key_span, message, None);
    }

    fn unknown(&mut self, entry: &Entry, section: &'static Section) {
        if self.report.is_full(entry.key_span.file) {
            return self.report.error(entry.key_span, String::new());
        }
        let place = match self.path.as_str() {
            "" => "at the top level".to_owned(),
            path => format!("in {}", quoted(path)),
        };
        let message = format!("unknown key {} {place}", quoted(&entry.key));
        let names = section.all().map(|key| key.name).chain(section.ignored.iter().copied());
        let help = match (crate::keys::home(&entry.key, section), nearest(&entry.key, names)) {
            (Some(home), _) => format!("`{}` is a key of {home}", entry.key),
            (None, Some(near)) => format!("did you mean `{near}`?"),
            (None, None) => {
                let names: Vec<String> = section.all().map(|key| format!("`{}`", key.name)).collect();
                format!("the keys here are {}", names.join(", "))
            }
        };
        self.report.error_with_help(entry.key_span, message, help);
    }

    fn joined(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// The known name that a misspelt one most likely meant, if one is near enough: a third of its letters may differ.
/// Case and separators do not count, so that `compatibilityDate` finds `compatibility_date`.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const LONGEST: usize = 64;
    if name.len() > LONGEST {
        return None;
    }
    let plain = |text: &str| text.to_ascii_lowercase().replace(['_', '-'], "");
    let wanted = plain(name);
    let allowed = (wanted.chars().count() / 3).max(1);
    known
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, &plain(candidate)), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found() {
        let known = ["main", "name", "compatibility_date", "compatibility_flags"];
        let near = |name| nearest(name, known.into_iter());
        assert_eq!(near("mian"), Some("main"));
        assert_eq!(near("compatibilityDate"), Some("compatibility_date"));
        assert_eq!(near("compatability_flags"), Some("compatibility_flags"));
        assert_eq!(near("zebra"), None);
        assert_eq!(near(&"n".repeat(100_000)), None);
    }
}

//! One tree of values for both syntaxes.
//!
//! TOML and JSONC differ only in how they are written. Each has a front end that makes this tree, with the byte range
//! of every key and value, and everything after it (schema, decoding, positions) is the same code for both.

use std::path::Path;

use crate::source::{FileId, Span};

/// How deep tables and arrays may nest. No key of a binding file needs more than seven; variables may hold JSON.
pub(crate) const DEEPEST: usize = 64;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) span: Span,
}

/// A value of either syntax.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// JSONC only.
    Null,
    Boolean(bool),
    Integer(i64),
    Float(f64),
    String(String),
    /// TOML only.
    Date(String),
    Array(Vec<Node>),
    Table(Table),
}

/// The entries of a table in the order of the file. No key stands twice.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Table {
    pub(crate) entries: Vec<Entry>,
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) node: Node,
}

/// How a binding file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// `.toml`: TOML 1.1.
    Toml,
    /// `.json` and `.jsonc`: JSON with comments and trailing commas.
    Jsonc,
}

impl Syntax {
    /// The syntax of a file by its name's ending; none for any other ending.
    pub fn of(file: &Path) -> Option<Syntax> {
        let ending = file.extension()?.to_str()?.to_ascii_lowercase();
        match ending.as_str() {
            "toml" => Some(Syntax::Toml),
            "json" | "jsonc" => Some(Syntax::Jsonc),
            _ => None,
        }
    }
}

/// A file's tree: the root is always a table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Document {
    pub(crate) file: FileId,
    pub(crate) syntax: Syntax,
    pub(crate) root: Table,
    /// Where a fault of the root stands.
    pub(crate) span: Span,
}

impl Table {
    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    pub(crate) fn node(&self, key: &str) -> Option<&Node> {
        self.get(key).map(|entry| &entry.node)
    }

    /// The table under `key`; none if the key is absent or has another type.
    pub(crate) fn table(&self, key: &str) -> Option<&Table> {
        self.node(key)?.as_table()
    }

    /// The text under `key` and its place; none if the key is absent or has another type.
    pub(crate) fn text(&self, key: &str) -> Option<(&str, Span)> {
        let node = self.node(key)?;
        Some((node.as_text()?, node.span))
    }

    /// The elements under `key`; none if the key is absent, nothing if it has another type.
    pub(crate) fn array(&self, key: &str) -> Option<&[Node]> {
        match &self.node(key)?.value {
            Value::Array(nodes) => Some(nodes),
            _ => Some(&[]),
        }
    }

    pub(crate) fn boolean(&self, key: &str) -> Option<bool> {
        match self.node(key)?.value {
            Value::Boolean(value) => Some(value),
            _ => None,
        }
    }

    /// The whole number under `key` if it is not negative.
    pub(crate) fn whole(&self, key: &str) -> Option<u64> {
        match self.node(key)?.value {
            Value::Integer(value) => u64::try_from(value).ok(),
            _ => None,
        }
    }
}

impl Node {
    pub(crate) fn as_table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// What the value is, for "expected …, found …".
    pub(crate) fn found(&self, syntax: Syntax) -> String {
        match &self.value {
            Value::Null => "null".into(),
            Value::Boolean(value) => format!("the boolean `{value}`"),
            Value::Integer(value) => format!("the integer `{value}`"),
            Value::Float(value) => format!("the number `{value}`"),
            Value::String(_) => "a string".into(),
            Value::Date(_) => "a date".into(),
            Value::Array(_) => "an array".into(),
            Value::Table(_) if syntax == Syntax::Jsonc => "an object".into(),
            Value::Table(_) => "a table".into(),
        }
    }

    /// The value as JSON. A date becomes its text and a number that JSON lacks becomes null; the schema has
    /// reported both before.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Boolean(value) => (*value).into(),
            Value::Integer(value) => (*value).into(),
            Value::Float(value) => (*value).into(),
            Value::String(text) | Value::Date(text) => text.clone().into(),
            Value::Array(nodes) => nodes.iter().map(Node::to_json).collect(),
            Value::Table(table) => {
                let entries = table.entries.iter().map(|entry| (entry.key.clone(), entry.node.to_json()));
                serde_json::Value::Object(entries.collect())
            }
        }
    }
}

//! Metadata, and the properties of it that filters see.
//!
//! A property with a metadata index has, for each value, the set of slots that have it. Every vector of an index is in
//! it, those that were there before the metadata index too: on Cloudflare those have to be inserted again first, which
//! is what programs stumble over most; a program that does so finds the same here.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use roaring::RoaringBitmap;
use serde_json::{Map, Value};

use crate::error::{VectorizeError, codes, quoted};
use crate::limits::{MAX_INDEXED_BYTES, MAX_KEY_BYTES, MAX_METADATA_BYTES, MAX_METADATA_DEPTH};

/// The type of the values that a metadata index has. Values of other types are not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PropertyKind {
    /// Texts, by their first 64 bytes.
    String,
    /// Numbers of 64 bits.
    Number,
    /// `true` and `false`.
    Boolean,
}

impl PropertyKind {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

impl fmt::Display for PropertyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PropertyKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::String, Self::Number, Self::Boolean]
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| format!("{text:?} is no type of a property; there are string, number and boolean"))
    }
}

/// A value that can be compared with others of its type.
#[derive(Debug, Clone)]
pub(crate) enum Key {
    String(Box<str>),
    Number(f64),
    Boolean(bool),
}

impl Key {
    /// The key of a value of any type that has one.
    pub(crate) fn of(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(Self::String(indexed(text).into())),
            // Both zeros are one number.
            Value::Number(number) => number.as_f64().map(|number| Self::Number(number + 0.0)),
            Value::Bool(boolean) => Some(Self::Boolean(*boolean)),
            _ => None,
        }
    }

    pub(crate) fn kind(&self) -> PropertyKind {
        match self {
            Self::String(_) => PropertyKind::String,
            Self::Number(_) => PropertyKind::Number,
            Self::Boolean(_) => PropertyKind::Boolean,
        }
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |key: &Self| match key {
            Self::Boolean(_) => 0,
            Self::Number(_) => 1,
            Self::String(_) => 2,
        };
        match (self, other) {
            (Self::String(one), Self::String(other)) => one.cmp(other),
            (Self::Number(one), Self::Number(other)) => one.total_cmp(other),
            (Self::Boolean(one), Self::Boolean(other)) => one.cmp(other),
            _ => rank(self).cmp(&rank(other)),
        }
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key {}

/// As much of a text as a metadata index has of it.
pub(crate) fn indexed(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_INDEXED_BYTES)]
}

/// The value at a path of dots.
pub(crate) fn at<'a>(metadata: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let mut parts = path.split('.');
    let first = metadata.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.as_object()?.get(part))
}

/// A property of metadata, and which slots have which value of it.
pub(crate) struct Property {
    pub(crate) name: String,
    pub(crate) kind: PropertyKind,
    pub(crate) slots: BTreeMap<Key, RoaringBitmap>,
}

impl Property {
    pub(crate) fn new(name: String, kind: PropertyKind) -> Self {
        Self { name, kind, slots: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, slot: u32, metadata: &Map<String, Value>) {
        if let Some(key) = at(metadata, &self.name).and_then(Key::of).filter(|key| key.kind() == self.kind) {
            self.slots.entry(key).or_default().insert(slot);
        }
    }
}

/// What of the metadata the metadata indexes have, in the shape that it has there.
pub(crate) fn indexed_part(metadata: &Map<String, Value>, properties: &[(String, PropertyKind)]) -> Map<String, Value> {
    let mut part = Map::new();
    for (name, kind) in properties {
        let Some(value) = at(metadata, name) else { continue };
        let value = match (Key::of(value), value) {
            (Some(key), _) if key.kind() != *kind => continue,
            (None, _) => continue,
            (_, Value::String(text)) => Value::from(indexed(text)),
            (_, value) => value.clone(),
        };
        let path: Vec<&str> = name.split('.').collect();
        place(&mut part, &path, value);
    }
    part
}

fn place(object: &mut Map<String, Value>, path: &[&str], value: Value) {
    match path {
        [] => {}
        [last] => {
            object.insert((*last).to_owned(), value);
        }
        [folder, rest @ ..] => {
            let entry = object.entry(*folder).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = entry {
                place(inner, rest, value);
            }
        }
    }
}

/// Whether metadata may be kept. `place` says whose it is.
pub(crate) fn check(metadata: &Map<String, Value>, place: &dyn Fn() -> String) -> Result<String, VectorizeError> {
    check_keys(metadata, 0, place)?;
    let text = serde_json::to_string(metadata).map_err(|error| VectorizeError::invalid(error.to_string()))?;
    if text.len() > MAX_METADATA_BYTES {
        let message = format!("{}: metadata too large; max is {MAX_METADATA_BYTES} bytes, got {}", place(), text.len());
        return Err(VectorizeError::invalid(message));
    }
    Ok(text)
}

fn check_keys(object: &Map<String, Value>, depth: usize, place: &dyn Fn() -> String) -> Result<(), VectorizeError> {
    if depth >= MAX_METADATA_DEPTH {
        let message = format!("{}: metadata nested deeper than {MAX_METADATA_DEPTH} objects", place());
        return Err(VectorizeError::invalid(message));
    }
    for (key, value) in object {
        let fault = if key.is_empty() {
            "must not be empty"
        } else if key.contains(['.', '"']) {
            "must not contain `.` or `\"`"
        } else if key.starts_with('$') {
            "must not start with `$`"
        } else if key.len() > MAX_KEY_BYTES {
            "must not be longer than 512 bytes"
        } else {
            ""
        };
        if !fault.is_empty() {
            let message = format!("{}: metadata key {} {fault}", place(), quoted(key));
            return Err(VectorizeError::coded(codes::METADATA_KEY, message));
        }
        check_value(value, depth, place)?;
    }
    Ok(())
}

fn check_value(value: &Value, depth: usize, place: &dyn Fn() -> String) -> Result<(), VectorizeError> {
    match value {
        Value::Object(object) => check_keys(object, depth + 1, place),
        Value::Array(items) if depth + 1 >= MAX_METADATA_DEPTH && !items.is_empty() => {
            let message = format!("{}: metadata nested deeper than {MAX_METADATA_DEPTH} objects", place());
            Err(VectorizeError::invalid(message))
        }
        Value::Array(items) => items.iter().try_for_each(|item| check_value(item, depth + 1, place)),
        _ => Ok(()),
    }
}

/// Whether a metadata index can be for this path.
pub(crate) fn check_property(name: &str) -> Result<(), VectorizeError> {
    let sound = |part: &str| !part.is_empty() && !part.starts_with('$') && !part.contains(['"', '|']);
    if name.len() <= MAX_KEY_BYTES && name.split('.').all(sound) {
        return Ok(());
    }
    let message = format!(
        "{} is no property: its parts, divided by dots, are not empty, do not start with `$`, have no `\"` and no `|`, \
         and are {MAX_KEY_BYTES} bytes together at most",
        quoted(name)
    );
    Err(VectorizeError::invalid(message))
}

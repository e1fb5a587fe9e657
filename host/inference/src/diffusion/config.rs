//! A part's `config.json`, its values bounded before they size anything.

use std::path::PathBuf;

use serde_json::Value;

use crate::store::read_text;

/// Configurations have a few kilobytes.
const BYTES: u64 = 1 << 20;
/// Blocks of a network, layers of a block.
const MAX_LIST: usize = 16;

/// The values of one file. Every error names file and key.
pub(super) struct Config {
    path: PathBuf,
    value: Value,
}

impl Config {
    pub(super) fn open(path: PathBuf) -> Result<Config, String> {
        let text = read_text(&path, BYTES).map_err(|error| error.to_string())?;
        // Python writes infinities as no JSON knows them; what they bound here is then unbounded.
        let parsed = serde_json::from_slice(&text).or_else(|error| {
            let plain = String::from_utf8_lossy(&text).replace(": -Infinity", ": null").replace(": Infinity", ": null");
            serde_json::from_str(&plain).map_err(|_| error)
        });
        let value = parsed.map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Config { path, value })
    }

    #[cfg(test)]
    pub(super) fn of(value: Value) -> Config {
        Config { path: PathBuf::from("test"), value }
    }

    pub(super) fn fault(&self, why: impl std::fmt::Display) -> String {
        format!("{}: {why}", self.path.display())
    }

    /// The value of `key`, unless it is null.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    /// A whole number from 1 to `most`.
    pub(super) fn size(&self, key: &str, default: Option<usize>, most: usize) -> Result<usize, String> {
        match self.get(key) {
            None => default.ok_or_else(|| self.fault(format_args!("{key} is missing"))),
            Some(value) => self.bounded(key, value, most),
        }
    }

    fn bounded(&self, key: &str, value: &Value, most: usize) -> Result<usize, String> {
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|size| (1..=most).contains(size));
        size.ok_or_else(|| self.fault(format_args!("{key} is {value:.60}, not a whole number from 1 to {most}")))
    }

    /// A whole number for each of `count` blocks: a list of as many, or one for all.
    pub(super) fn sizes(
        &self,
        key: &str,
        count: usize,
        default: Option<usize>,
        most: usize,
    ) -> Result<Vec<usize>, String> {
        match self.get(key) {
            Some(Value::Array(list)) if list.len() == count => {
                list.iter().map(|value| self.bounded(key, value, most)).collect()
            }
            Some(Value::Array(list)) => Err(self.fault(format_args!("{key} has {} values, not {count}", list.len()))),
            _ => Ok(vec![self.size(key, default, most)?; count]),
        }
    }

    /// A list of whole numbers.
    pub(super) fn list(&self, key: &str, most: usize) -> Result<Vec<usize>, String> {
        let list = self.get(key).and_then(Value::as_array).filter(|list| (1..=MAX_LIST).contains(&list.len()));
        let list = list.ok_or_else(|| self.fault(format_args!("{key} is no list of 1 to {MAX_LIST} numbers")))?;
        list.iter().map(|value| self.bounded(key, value, most)).collect()
    }

    /// A finite number.
    pub(super) fn number(&self, key: &str, default: Option<f64>) -> Result<f64, String> {
        match self.get(key) {
            None => default.ok_or_else(|| self.fault(format_args!("{key} is missing"))),
            Some(value) => {
                let number = value.as_f64().filter(|number| number.is_finite());
                number.ok_or_else(|| self.fault(format_args!("{key} is {value:.60}, not a number")))
            }
        }
    }

    /// A number that is added to a variance.
    pub(super) fn epsilon(&self, key: &str, default: f64) -> Result<f32, String> {
        let epsilon = self.number(key, Some(default))?;
        if (0.0..1.0).contains(&epsilon) {
            Ok(epsilon as f32)
        } else {
            Err(self.fault(format_args!("{key} is {epsilon}")))
        }
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, String> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => {
                value.as_bool().ok_or_else(|| self.fault(format_args!("{key} is {value:.60}, neither true nor false")))
            }
        }
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }

    /// The names of a network's blocks.
    pub(super) fn names(&self, key: &str) -> Result<Vec<String>, String> {
        let list = self.get(key).and_then(Value::as_array).filter(|list| (1..=MAX_LIST).contains(&list.len()));
        let names = list.and_then(|list| list.iter().map(|name| name.as_str().map(str::to_owned)).collect());
        names.ok_or_else(|| self.fault(format_args!("{key} is no list of 1 to {MAX_LIST} names")))
    }

    /// That `key` is absent or one of `known`; anything else would be computed wrongly.
    pub(super) fn only(&self, key: &str, known: &[Value]) -> Result<(), String> {
        match self.get(key) {
            Some(value) if !known.contains(value) => {
                let known: Vec<String> = known.iter().map(Value::to_string).collect();
                let known = if known.is_empty() { "null".to_owned() } else { known.join(", ") };
                Err(self.fault(format_args!("{key} is {value:.60}; known here: {known}")))
            }
            _ => Ok(()),
        }
    }
}

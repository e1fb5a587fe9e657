//! Values of a configuration, checked where they are read; a fault names the key.

use serde_json::{Map, Value};

use crate::text::decoder::DecoderError;

/// An object of the configuration, and where it stands in it.
#[derive(Clone, Copy)]
pub(super) struct Object<'a> {
    pub(super) path: &'a str,
    pub(super) map: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    /// A value; null is none.
    pub(super) fn get(self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn invalid(self, key: &str, fault: impl Into<String>) -> DecoderError {
        DecoderError::invalid(format!("config.json: {}{key}", self.path), fault)
    }

    pub(super) fn missing(self, key: &str) -> DecoderError {
        self.invalid(key, "it is missing")
    }

    pub(super) fn count(self, key: &str, bound: u64) -> Result<Option<usize>, DecoderError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64().filter(|value| (1..=bound).contains(value)).and_then(|value| usize::try_from(value).ok()) {
            Some(value) => Ok(Some(value)),
            None => Err(self.invalid(key, format!("{} is no whole number from 1 to {bound}", short(value)))),
        }
    }

    pub(super) fn positive(self, key: &str) -> Result<Option<f64>, DecoderError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64().filter(|value| *value > 0.0 && (*value as f32).is_finite()) {
            Some(value) => Ok(Some(value)),
            None => Err(self.invalid(key, format!("{} is no number above 0", short(value)))),
        }
    }

    pub(super) fn flag(self, key: &str, default: bool) -> Result<bool, DecoderError> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(value) => Err(self.invalid(key, format!("{} is no truth value", short(value)))),
        }
    }

    pub(super) fn text(self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(Value::as_str)
    }

    pub(super) fn object(self, key: &str) -> Result<Option<&'a Map<String, Value>>, DecoderError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(value) => Err(self.invalid(key, format!("{} is no object", short(value)))),
        }
    }
}

/// A value fit to be printed.
pub(super) fn short(value: &Value) -> String {
    value.to_string().chars().take(60).collect()
}

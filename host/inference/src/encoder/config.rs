//! Reading `config.json`: every number has bounds before anything is sized by it.

use serde_json::{Map, Value};

use host_kernels::encoder::Activation;

/// The keys of a `config.json`. Every error names the key.
pub(super) struct Keys<'a>(pub(super) &'a Map<String, Value>);

impl Keys<'_> {
    /// A whole number from 1 to `most` under the first of `names` that is there.
    pub(super) fn size(&self, names: &[&str], most: usize) -> Result<usize, String> {
        match self.find(names) {
            Some((name, value)) => bounded(name, value, 1, most),
            None => Err(format!("{} is missing", names.first().copied().unwrap_or_default())),
        }
    }

    /// A whole number from `least` to `most`, or `default` where the key is not there.
    pub(super) fn size_or(&self, name: &str, default: usize, least: usize, most: usize) -> Result<usize, String> {
        self.find(&[name]).map_or(Ok(default), |(name, value)| bounded(name, value, least, most))
    }

    /// A number, or `default` where the key is not there.
    pub(super) fn number_or(&self, name: &str, default: f64) -> Result<f64, String> {
        let Some((_, value)) = self.find(&[name]) else { return Ok(default) };
        value.as_f64().filter(|value| value.is_finite()).ok_or_else(|| format!("{name} is no number"))
    }

    /// A flag, or `default` where the key is not there.
    pub(super) fn flag_or(&self, name: &str, default: bool) -> Result<bool, String> {
        let Some((_, value)) = self.find(&[name]) else { return Ok(default) };
        value.as_bool().ok_or_else(|| format!("{name} is neither true nor false"))
    }

    /// A text, where the key is there.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, String> {
        let Some((_, value)) = self.find(&[name]) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| format!("{name} is no text"))
    }

    /// An object, where the key is there.
    pub(super) fn object(&self, name: &str) -> Result<Option<Keys<'_>>, String> {
        let Some((_, value)) = self.find(&[name]) else { return Ok(None) };
        value.as_object().map(|map| Some(Keys(map))).ok_or_else(|| format!("{name} is no object"))
    }

    /// The small number under a normalization's root.
    pub(super) fn epsilon(&self, name: &str, default: f64) -> Result<f32, String> {
        let value = self.number_or(name, default)?;
        if (0.0..1.0).contains(&value) { Ok(value as f32) } else { Err(format!("{name} is {value}")) }
    }

    /// The nonlinearity of the feed-forward blocks.
    pub(super) fn activation(&self, name: &str, default: &str) -> Result<Activation, String> {
        match self.text(name)?.unwrap_or(default) {
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
            "relu" => Ok(Activation::Relu),
            "silu" | "swish" => Ok(Activation::Silu),
            other => Err(format!("{name} is {other:.80?}; gelu, gelu_new, relu and silu are known")),
        }
    }

    /// That `name` is one of `values` or not there, since nothing else is computed here.
    pub(super) fn only(&self, name: &str, values: &[&str]) -> Result<(), String> {
        match self.text(name)? {
            Some(other) if !values.contains(&other) => {
                Err(format!("{name} is {other:.80?}; known is {}", values.join(", ")))
            }
            _ => Ok(()),
        }
    }

    fn find<'k>(&self, names: &[&'k str]) -> Option<(&'k str, &Value)> {
        names.iter().find_map(|name| self.0.get(*name).filter(|value| !value.is_null()).map(|value| (*name, value)))
    }
}

fn bounded(name: &str, value: &Value, least: usize, most: usize) -> Result<usize, String> {
    let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
    match number {
        Some(number) if (least..=most).contains(&number) => Ok(number),
        _ => {
            let value: String = value.to_string().chars().take(40).collect();
            Err(format!("{name} is {value}, not {least} to {most}"))
        }
    }
}

//! The names of a model's classes, by `id2label` of its `config.json`.

use serde_json::Value;

/// Data sets of tens of thousands of classes exist.
const MOST: usize = 1 << 17;

/// One name for each class, in order. A configuration without names has two classes, as transformers takes it.
pub(super) fn read(config: &Value) -> Result<Vec<String>, String> {
    let Some(map) = config.get("id2label").and_then(Value::as_object) else {
        let count = super::layers::whole(config, "num_labels", Some(2), MOST)?;
        return Ok((0..count).map(|index| format!("LABEL_{index}")).collect());
    };
    if !(1..=MOST).contains(&map.len()) {
        return Err(format!("id2label has {} names, not 1 to {MOST}", map.len()));
    }
    (0..map.len())
        .map(|index| match map.get(&index.to_string()).and_then(Value::as_str) {
            Some(name) => Ok(name.to_owned()),
            None => Err(format!("id2label has {} names but none for {index}", map.len())),
        })
        .collect()
}

/// Probabilities out of scores.
pub(super) fn softmax(scores: &[f32]) -> Vec<f32> {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = scores.iter().map(|score| f64::from(score - most).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| (power / sum) as f32).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_class_has_a_name() {
        assert_eq!(read(&json!({ "id2label": { "1": "b", "0": "a" } })).unwrap(), ["a", "b"]);
        assert_eq!(read(&json!({})).unwrap(), ["LABEL_0", "LABEL_1"]);
        for broken in [json!({}), json!({ "0": 1 }), json!({ "0": "a", "2": "c" })] {
            assert!(read(&json!({ "id2label": broken })).is_err(), "{broken}");
        }
    }
}

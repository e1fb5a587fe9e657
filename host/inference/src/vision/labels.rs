//! The names of a model's classes, by `id2label` of its `config.json`, or by what timm writes there.

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

/// One name for each class of a checkpoint of timm, by `label_names`, which is a list or an object by class, and
/// `label_descriptions`, which say in words what a name means. Published checkpoints of ImageNet leave both out, since timm
/// itself knows its names: their classes are called by their numbers, as are those that an object leaves out.
pub(super) fn of_timm(config: &Value) -> Result<Vec<String>, String> {
    let beside = config.get("pretrained_cfg");
    let get = |key: &str| {
        [Some(config), beside].into_iter().flatten().find_map(|part| part.get(key)).filter(|value| !value.is_null())
    };
    let count = match get("num_classes").map(Value::as_u64) {
        Some(Some(count)) if (1..=MOST as u64).contains(&count) => count as usize,
        _ => return Err(format!("num_classes is not a whole number from 1 to {MOST}")),
    };
    let names: Vec<Option<&str>> = match get("label_names") {
        None => vec![None; count],
        Some(Value::Array(names)) if names.len() == count => names.iter().map(Value::as_str).collect(),
        Some(Value::Object(names)) => {
            (0..count).map(|index| names.get(&index.to_string()).and_then(Value::as_str)).collect()
        }
        Some(_) => return Err(format!("label_names is neither a list of {count} names nor an object of names")),
    };
    let described = |name: &str| get("label_descriptions").and_then(|all| all.get(name)).and_then(Value::as_str);
    let name = |(index, name): (usize, Option<&str>)| match name {
        Some(name) => described(name).unwrap_or(name).to_owned(),
        None => format!("LABEL_{index}"),
    };
    Ok(names.into_iter().enumerate().map(name).collect())
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

    #[test]
    fn names_of_timm_come_with_what_they_mean() {
        let of = |config: Value| of_timm(&config).unwrap();
        assert_eq!(of(json!({ "num_classes": 2 })), ["LABEL_0", "LABEL_1"]);
        let described = json!({ "n1": "tench, Tinca tinca" });
        let listed = json!({ "num_classes": 2, "label_names": ["n1", "n2"], "label_descriptions": described });
        assert_eq!(of(listed), ["tench, Tinca tinca", "n2"]);
        let gaps = json!({ "pretrained_cfg": { "num_classes": 2, "label_names": { "1": "b" } } });
        assert_eq!(of(gaps), ["LABEL_0", "b"]);
        for broken in [
            json!({}),
            json!({ "num_classes": 0 }),
            json!({ "num_classes": 2, "label_names": ["a"] }),
            json!({ "num_classes": 2, "label_names": "ab" }),
        ] {
            assert!(of_timm(&broken).is_err(), "{broken}");
        }
    }
}

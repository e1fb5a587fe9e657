//! From a `config.json` to the [`Description`] of the encoder that it configures.

mod bert;
mod modern_bert;
mod rotary;

use serde_json::Value;

use super::config::Keys;
use super::description::{Description, LayerKind};
use crate::catalogue::Task;

/// The `model_type`s that are encoders of text.
pub(crate) const MODEL_TYPES: [&str; 9] =
    ["bert", "roberta", "xlm-roberta", "camembert", "distilbert", "nomic_bert", "new", "gte", "modernbert"];

const VOCABULARY: usize = 1 << 21;
const HIDDEN: usize = 1 << 13;
const LAYERS: usize = 128;
const HEADS: usize = 256;
const INTERMEDIATE: usize = 1 << 16;
const POSITIONS: usize = 1 << 16;
const TYPES: usize = 64;

/// Describes the encoder. The error names the key and its bounds.
pub(super) fn describe(config: &Value) -> Result<Description, String> {
    let keys = Keys(config.as_object().ok_or("it is no object")?);
    let description = match keys.text("model_type")?.unwrap_or("bert") {
        "bert" if keys.text("position_embedding_type")? == Some("alibi") => bert::jina(&keys),
        "bert" => bert::bert(&keys),
        "roberta" | "xlm-roberta" | "camembert" => bert::roberta(&keys),
        "distilbert" => bert::distilbert(&keys),
        "nomic_bert" => rotary::nomic(&keys),
        "new" | "gte" => rotary::gte(&keys),
        "modernbert" => modern_bert::describe(&keys),
        other => Err(format!("model_type is {other:.80?}; known are {}", MODEL_TYPES.join(", "))),
    }?;
    let Description { hidden, heads, .. } = description;
    if !hidden.is_multiple_of(heads) {
        return Err(format!("hidden_size {hidden} is no multiple of num_attention_heads {heads}"));
    }
    if description.ropes.iter().any(|rope| !rope.is_finite()) {
        return Err("the rotation's parameters give no numbers".to_owned());
    }
    Ok(description)
}

/// What the checkpoint of this `config.json` does, which its architecture's name ends with.
pub(crate) fn task(config: &Value) -> Task {
    let architecture = config.pointer("/architectures/0").and_then(Value::as_str).unwrap_or_default();
    if architecture.ends_with("ForTokenClassification") {
        return Task::TokenClassification;
    }
    if !architecture.ends_with("ForSequenceClassification") {
        return Task::TextEmbeddings;
    }
    let labels = config.get("id2label").and_then(Value::as_object).map(|labels| labels.len() as u64);
    // One score of a pair is how well the two go together.
    match labels.or_else(|| config.get("num_labels").and_then(Value::as_u64)) {
        Some(1) => Task::Rerank,
        _ => Task::TextClassification,
    }
}

/// Layers that are all alike.
fn alike(count: usize, rope: Option<usize>) -> Vec<LayerKind> {
    vec![LayerKind { window: None, rope }; count]
}

/// Pairs of a head that turn. The error says why there are none.
fn rotated(hidden: usize, heads: usize) -> Result<usize, String> {
    let head = hidden / heads;
    if head > 0 && head.is_multiple_of(2) {
        Ok(head)
    } else {
        Err(format!("heads of {head} values do not make pairs that could be rotated"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absurd_sizes_are_refused_by_name() {
        let base = json!({
            "model_type": "bert", "vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 8, "type_vocab_size": 2
        });
        assert_eq!(describe(&base).unwrap().layers.len(), 1);
        let changes = [
            ("vocab_size", json!(1_u64 << 60)),
            ("hidden_size", json!(0)),
            ("hidden_size", json!(9)),
            ("num_hidden_layers", json!(-1)),
            ("num_attention_heads", json!("many")),
            ("intermediate_size", json!(1e9)),
            ("max_position_embeddings", json!(null)),
            ("layer_norm_eps", json!(2.0)),
            ("hidden_act", json!("mish")),
            ("position_embedding_type", json!("relative_key")),
            ("model_type", json!("t5")),
        ];
        for (key, value) in changes {
            let mut config = base.clone();
            config[key] = value.clone();
            let error = describe(&config).unwrap_err();
            assert!(error.contains(key), "{key} {value}: {error}");
        }
        assert!(describe(&json!([])).is_err());
    }

    #[test]
    fn architectures_tell_the_task() {
        let of = |config: Value| task(&config);
        assert_eq!(of(json!({})), Task::TextEmbeddings);
        assert_eq!(of(json!({ "architectures": ["BertForMaskedLM"] })), Task::TextEmbeddings);
        let sequence = "BertForSequenceClassification";
        assert_eq!(of(json!({ "architectures": [sequence] })), Task::TextClassification);
        assert_eq!(of(json!({ "architectures": [sequence], "id2label": { "0": "LABEL_0" } })), Task::Rerank);
        assert_eq!(of(json!({ "architectures": [sequence], "num_labels": 1 })), Task::Rerank);
        assert_eq!(of(json!({ "architectures": ["XForTokenClassification"] })), Task::TokenClassification);
    }
}

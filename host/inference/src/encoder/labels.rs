//! The names of what a classifier tells apart, and what its scores mean.

use serde_json::Value;

/// Classifiers of some tens of thousands of labels exist; a mistyped file must not take the machine.
const MOST: usize = 1 << 16;

/// A classifier's labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Labels {
    /// By index.
    pub(super) names: Vec<String>,
    /// Whether each label is there or not by itself, rather than one of all.
    independent: bool,
}

impl Labels {
    /// Reads `id2label`, or `num_labels` without names, and `problem_type`.
    pub(super) fn parse(config: &Value) -> Result<Labels, String> {
        let names = match config.get("id2label").filter(|labels| !labels.is_null()) {
            Some(labels) => {
                let labels = labels.as_object().ok_or("id2label is no object")?;
                let named = |index: usize| labels.get(&index.to_string()).and_then(Value::as_str).map(str::to_owned);
                bounded(labels.len())?;
                let names: Option<Vec<String>> = (0..labels.len()).map(named).collect();
                names.ok_or_else(|| format!("id2label does not name 0 to {}", labels.len() - 1))?
            }
            None => {
                let count =
                    config.get("num_labels").map_or(Some(2), Value::as_u64).and_then(|n| usize::try_from(n).ok());
                let count = count.ok_or("num_labels is no number")?;
                bounded(count)?;
                (0..count).map(|index| format!("LABEL_{index}")).collect()
            }
        };
        let independent = config.get("problem_type").and_then(Value::as_str) == Some("multi_label_classification");
        Ok(Labels { independent: independent || names.len() == 1, names })
    }

    /// The probabilities of the labels, of their scores.
    pub(super) fn probabilities(&self, scores: &[f32]) -> Vec<f32> {
        if self.independent { scores.iter().map(|score| sigmoid(*score)).collect() } else { softmax(scores) }
    }
}

fn bounded(count: usize) -> Result<(), String> {
    if (1..=MOST).contains(&count) { Ok(()) } else { Err(format!("there are {count} labels, not 1 to {MOST}")) }
}

/// `1 / (1 + exp(-x))`.
pub(super) fn sigmoid(score: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(score)).exp())) as f32
}

/// The probabilities of alternatives.
pub(super) fn softmax(scores: &[f32]) -> Vec<f32> {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let terms: Vec<f64> = scores.iter().map(|score| f64::from(score - most).exp()).collect();
    let sum: f64 = terms.iter().sum();
    terms.iter().map(|term| (term / sum) as f32).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_have_the_order_of_their_numbers() {
        let labels = Labels::parse(&json!({ "id2label": { "1": "B", "0": "A" } })).unwrap();
        assert_eq!(labels.names, ["A", "B"]);
        assert_eq!(Labels::parse(&json!({})).unwrap().names, ["LABEL_0", "LABEL_1"]);
        for wrong in [
            json!({ "id2label": {} }),
            json!({ "id2label": [] }),
            json!({ "id2label": { "0": "A", "2": "B" } }),
            json!({ "id2label": { "0": 1 } }),
            json!({ "num_labels": 1_u64 << 40 }),
            json!({ "num_labels": "two" }),
        ] {
            assert!(Labels::parse(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn scores_become_probabilities() {
        let labels = |kind: &str| Labels::parse(&json!({ "num_labels": 2, "problem_type": kind })).unwrap();
        assert_eq!(labels("single_label_classification").probabilities(&[1000.0, 1000.0]), [0.5, 0.5]);
        assert_eq!(labels("multi_label_classification").probabilities(&[0.0, 1000.0]), [0.5, 1.0]);
        assert_eq!(sigmoid(-1000.0), 0.0);
    }
}

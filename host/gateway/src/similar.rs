//! Which questions may mean the same: their words as a vector of a local model, and all else they ask for as a scope.

use host_inference::{RunOutput, RunRequest, Tenant};
use serde_json::{Map, Value, json};

use crate::cache::{Key, Meaning, canonical, digest};
use crate::{Inner, Similar, Step};

/// Questions longer than this are compared by their text alone.
const LONGEST: usize = 8 << 10;

/// The question of a step, and the step without it. None for what asks no question in words.
fn question(step: &Step) -> Option<(String, Value)> {
    if !step.attachments.is_empty() {
        return None;
    }
    let mut rest = step.query.clone();
    let place = if rest.get("prompt").is_some_and(Value::is_string) {
        rest.get_mut("prompt")
    } else {
        let last = rest.get_mut("messages")?.as_array_mut()?.last_mut()?;
        if last.get("role").and_then(Value::as_str) != Some("user") {
            return None;
        }
        last.get_mut("content")
    }?;
    match place.take() {
        Value::String(text) if (1..=LONGEST).contains(&text.len()) => Some((text, rest)),
        _ => None,
    }
}

impl Inner {
    /// What a step means. None where it asks no question in words, or the model of vectors fails, which the log tells.
    pub(crate) async fn meaning(&self, similar: &Similar, worker: &str, step: &Step, base: &Key) -> Option<Meaning> {
        let (text, rest) = question(step)?;
        let inputs: Map<String, Value> = [("text".to_owned(), json!([text]))].into_iter().collect();
        let request = RunRequest {
            tenant: Tenant::from(worker),
            model: similar.model.clone(),
            inputs,
            attachments: Vec::new(),
            options: Map::new(),
        };
        let output = match self.engine.run(request).await {
            Ok(response) => response.output,
            Err(error) => {
                tracing::warn!(model = similar.model, %error, "questions are not compared by what they mean");
                return None;
            }
        };
        let RunOutput::Json(answer) = output else { return None };
        let vector = answer.pointer("/data/0")?.as_array()?;
        let vector: Option<Vec<f32>> = vector.iter().map(|value| Some(value.as_f64()? as f32)).collect();
        let scope = digest([&base[..], similar.model.as_bytes(), canonical(&rest).as_bytes()]);
        Some(Meaning { scope, vector: of_length_one(vector?)?, threshold: similar.threshold })
    }
}

/// A vector's direction, which not every model gives alone. None for one that has none.
fn of_length_one(vector: Vec<f32>) -> Option<Vec<f32>> {
    let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    let scaled = |value: f32| (f64::from(value) / length) as f32;
    (length.is_finite() && length > 0.0).then(|| vector.into_iter().map(scaled).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(query: Value) -> Step {
        Step { provider: "p".into(), endpoint: "e".into(), query, ..Step::default() }
    }

    #[test]
    fn lengths_of_vectors_say_nothing() {
        assert_eq!(of_length_one(vec![3.0, 4.0]), Some(vec![0.6, 0.8]));
        for vector in [vec![], vec![0.0, 0.0], vec![f32::NAN, 1.0], vec![f32::INFINITY]] {
            assert_eq!(of_length_one(vector), None);
        }
    }

    #[test]
    fn only_the_last_question_is_compared() {
        let chat = |system: &str, user: &str| {
            step(json!({ "messages": [{ "role": "system", "content": system }, { "role": "user", "content": user }] }))
        };
        let (text, rest) = question(&chat("a", "what?")).unwrap();
        assert_eq!(text, "what?");
        assert_eq!(question(&chat("a", "other?")).unwrap().1, rest);
        assert_ne!(question(&chat("b", "what?")).unwrap().1, rest);
        assert_eq!(question(&step(json!({ "prompt": "what?" }))).unwrap().0, "what?");
        for query in [
            json!({ "input": "x" }),
            json!({ "messages": [] }),
            json!({ "messages": [{ "role": "tool", "content": "x" }] }),
        ] {
            assert!(question(&step(query)).is_none());
        }
    }
}

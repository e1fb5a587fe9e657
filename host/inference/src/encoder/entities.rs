//! From the label of each token to the spans of text that carry one, as the token-classification pipeline of
//! transformers groups them with `aggregation_strategy="simple"`: neighbours of one label belong together unless the
//! later one begins anew (`B-`), a span's score is the mean of its tokens' and its word is what they decode to.

use super::labels::softmax;
use super::tokens::{Place, Texts};
use crate::backend::Entity;

/// The label of tokens that are nothing.
const OUTSIDE: &str = "O";

struct Token<'a> {
    place: &'a Place,
    label: &'a str,
    score: f32,
}

/// The spans of a text: `scores` holds as many scores for each place as there are labels.
pub(super) fn group(places: &[Place], scores: &[f32], labels: &[String], texts: &Texts) -> Result<Vec<Entity>, String> {
    let mut entities = Vec::new();
    let mut group: Vec<Token<'_>> = Vec::new();
    for (place, scores) in places.iter().zip(scores.chunks_exact(labels.len())) {
        let token = best(place, scores, labels);
        let (begins, kind) = parts(token.label);
        if group.last().is_some_and(|last| begins || parts(last.label).1 != kind) {
            entities.extend(entity(&std::mem::take(&mut group), texts)?);
        }
        group.push(token);
    }
    entities.extend(entity(&group, texts)?);
    Ok(entities)
}

/// The first of the likeliest labels.
fn best<'a>(place: &'a Place, scores: &[f32], labels: &'a [String]) -> Token<'a> {
    let probabilities = softmax(scores);
    let mut best = 0;
    for (index, probability) in probabilities.iter().enumerate() {
        if *probability > probabilities[best] {
            best = index;
        }
    }
    Token { place, label: &labels[best], score: probabilities[best] }
}

/// Whether a label begins a span, and the kind of span.
fn parts(label: &str) -> (bool, &str) {
    match label.strip_prefix("B-") {
        Some(kind) => (true, kind),
        None => (false, label.strip_prefix("I-").unwrap_or(label)),
    }
}

fn entity(group: &[Token<'_>], texts: &Texts) -> Result<Option<Entity>, String> {
    let (Some(first), Some(last)) = (group.first(), group.last()) else { return Ok(None) };
    // What follows the first dash, whatever stands before it.
    let label = first.label.split_once('-').map_or(first.label, |(_, kind)| kind);
    if label == OUTSIDE {
        return Ok(None);
    }
    let score = group.iter().map(|token| f64::from(token.score)).sum::<f64>() / group.len() as f64;
    Ok(Some(Entity {
        label: label.to_owned(),
        score: score as f32,
        word: texts.join(group.iter().map(|token| token.place.token.clone()).collect())?,
        start: first.place.characters.start,
        end: last.place.characters.end,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_a_beginning_and_a_kind() {
        assert_eq!(parts("B-PER"), (true, "PER"));
        assert_eq!(parts("I-PER"), (false, "PER"));
        assert_eq!(parts("PER"), (false, "PER"));
        assert_eq!(parts("O"), (false, "O"));
    }
}

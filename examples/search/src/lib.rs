//! Finds texts by what they mean: the texts of `corpus.txt` are embedded once per instance, and `?q=` is answered with
//! the five that lie closest to it.

use host_sdk::ai::{TextEmbeddingsInput, TextEmbeddingsOutput};
use host_sdk::*;
use serde_json::{Value, json};
use std::cell::OnceCell;
use std::rc::Rc;

const MODEL: &str = "@cf/baai/bge-small-en-v1.5";

/// One text a line.
const CORPUS: &str = include_str!("../corpus.txt");

/// bge's encoders expect this before a question, and nothing before the texts it is compared with.
const QUERY_PREFIX: &str = "Represent this sentence for searching relevant passages: ";

const BEST: usize = 5;

const USAGE: &str = "Search by meaning:\n  /?q=how+do+plants+make+energy\n";

thread_local! {
    /// The texts' vectors, kept while the instance lives. Two first requests at once both embed; the first to finish
    /// is kept, which is cheaper than making one wait for the other.
    static VECTORS: OnceCell<Rc<Vec<Vec<f32>>>> = const { OnceCell::new() };
}

#[fetch]
async fn main(req: Request, env: Env) -> Result<Response> {
    let url = req.url()?;
    let question = url.query_pairs().find(|(key, _)| key == "q").map(|(_, value)| value.into_owned());
    let Some(question) = question.filter(|question| !question.trim().is_empty()) else {
        return Response::error(USAGE, 400);
    };
    match search(&env, &question).await {
        Ok(results) => Response::from_json(&results),
        Err(Error::Ai(error)) => {
            let body = json!({ "error": { "code": error.code, "message": error.message } });
            Ok(Response::from_json(&body)?.with_status(error.status))
        }
        Err(error) => Err(error),
    }
}

async fn search(env: &Env, question: &str) -> Result<Vec<Value>> {
    let vectors = vectors(env).await?;
    let query = embed(env, [format!("{QUERY_PREFIX}{question}")]).await?;
    let query = query.first().ok_or("the model gave no vector")?;
    let mut scored: Vec<(f32, &str)> =
        vectors.iter().zip(CORPUS.lines()).map(|(vector, text)| (cosine(vector, query), text)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    Ok(scored.into_iter().take(BEST).map(|(score, text)| json!({ "score": score, "text": text })).collect())
}

async fn vectors(env: &Env) -> Result<Rc<Vec<Vec<f32>>>> {
    if let Some(known) = VECTORS.with(|cell| cell.get().cloned()) {
        return Ok(known);
    }
    let embedded = Rc::new(embed(env, CORPUS.lines()).await?);
    Ok(VECTORS.with(|cell| Rc::clone(cell.get_or_init(|| embedded))))
}

async fn embed<S: Into<String>>(env: &Env, texts: impl IntoIterator<Item = S>) -> Result<Vec<Vec<f32>>> {
    let input = TextEmbeddingsInput::new(texts).pooling("cls");
    let output: TextEmbeddingsOutput = env.ai("AI")?.run(MODEL, &input).await?;
    if output.data.len() != input.text.len() {
        return Err(format!("{} vectors for {} texts", output.data.len(), input.text.len()).into());
    }
    Ok(output.data)
}

/// The cosine of the angle between two vectors; 0 when one has no direction.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_compares_directions_and_survives_a_zero() {
        assert!((cosine(&[1.0, 1.0], &[2.0, 2.0]) - 1.0).abs() < 1e-6);
        assert!(cosine(&[1.0, 0.0], &[0.0, 3.0]).abs() < 1e-6);
        assert!((cosine(&[1.0, 0.0], &[-2.0, 0.0]) + 1.0).abs() < 1e-6);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 2.0]).to_bits(), 0f32.to_bits());
    }

    #[test]
    fn the_corpus_fits_one_call_and_has_no_empty_or_repeated_text() {
        let texts: Vec<&str> = CORPUS.lines().collect();
        assert!((25..=100).contains(&texts.len()), "{}", texts.len());
        for (index, text) in texts.iter().enumerate() {
            assert!(!text.trim().is_empty() && !texts[..index].contains(text), "line {}", index + 1);
        }
    }
}

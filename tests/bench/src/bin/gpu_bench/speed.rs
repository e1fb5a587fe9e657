//! Tokens per second of one model at one number of sequences.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use host_inference::device::Placement;
use host_inference::text::forward::{ForwardPass, Span};
use host_kernels::kv::BLOCK_TOKENS;
use serde_json::{Value, json};

use super::model::tensors;

/// Rows of a step that reads prompts, as the scheduler bounds them.
const PREFILL: usize = 512;
/// Steps before the timed ones, in which kernels are loaded and the step is recorded.
const WARM_UP: usize = 4;

/// What is timed.
pub(crate) struct Work {
    /// Sequences at once.
    pub(crate) streams: usize,
    /// Tokens that each reads first.
    pub(crate) prompt: usize,
    /// Tokens that each then makes.
    pub(crate) tokens: usize,
}

/// Reads prompts, then decodes greedily.
pub(crate) fn speed(path: &Path, placement: Placement, work: &Work) -> Result<Value> {
    let each = (work.prompt + WARM_UP + work.tokens).div_ceil(BLOCK_TOKENS);
    let (mut model, mut cache) = tensors(path, each * work.streams, placement)?;
    let vocabulary = model.vocabulary();
    let mut sequences: Vec<(Vec<u32>, Vec<u32>)> = (0..work.streams as u32)
        .map(|s| {
            let tokens = (0..work.prompt as u32).map(|i| (i * 7919 + s * 104_729) % vocabulary as u32);
            (tokens.collect(), (0..each as u32).map(|i| i * work.streams as u32 + s).collect())
        })
        .collect();
    // The first prompt warms up what reads prompts, and is read again.
    prefill(&mut model, &mut cache, &sequences[..1])?;
    let started = Instant::now();
    let mut next = prefill(&mut model, &mut cache, &sequences)?;
    let prefill_seconds = started.elapsed().as_secs_f64();
    let mut started = Instant::now();
    for step in 0..WARM_UP + work.tokens {
        if step == WARM_UP {
            started = Instant::now();
        }
        for ((tokens, _), token) in sequences.iter_mut().zip(&next) {
            tokens.push(*token);
        }
        let spans = sequences.iter().map(|(tokens, blocks)| {
            let position = tokens.len() - 1;
            Span { tokens: &tokens[position..], position, blocks, logits: 1, adapter: None }
        });
        let spans: Vec<Span<'_>> = spans.collect();
        next = best(model.forward(&mut cache, &spans)?, vocabulary);
    }
    let seconds = started.elapsed().as_secs_f64();
    if next.len() != work.streams {
        bail!("{} sequences gave {} rows of logits", work.streams, next.len());
    }
    Ok(json!({
        "streams": work.streams,
        "prefill_tps": (work.streams * work.prompt) as f64 / prefill_seconds,
        "decode_tps": (work.streams * work.tokens) as f64 / seconds,
    }))
}

/// Reads the prompts, as many tokens a step as a scheduler would; gives the token after each.
fn prefill<M: ForwardPass>(
    model: &mut M,
    cache: &mut M::Cache,
    sequences: &[(Vec<u32>, Vec<u32>)],
) -> Result<Vec<u32>> {
    let vocabulary = model.vocabulary();
    let mut pieces = sequences.iter().flat_map(|(tokens, blocks)| {
        tokens.chunks(PREFILL).enumerate().map(move |(i, piece)| Span {
            tokens: piece,
            position: i * PREFILL,
            blocks,
            logits: usize::from(i * PREFILL + piece.len() == tokens.len()),
            adapter: None,
        })
    });
    let (mut next, mut step, mut rows) = (Vec::new(), Vec::new(), 0);
    let mut piece = pieces.next();
    while let Some(span) = piece {
        rows += span.tokens.len();
        step.push(span);
        piece = pieces.next();
        if piece.is_none_or(|piece| rows + piece.tokens.len() > PREFILL) {
            next.extend(best(model.forward(cache, &step)?, vocabulary));
            step.clear();
            rows = 0;
        }
    }
    Ok(next)
}

/// The likeliest token of each row.
fn best(logits: &[f32], vocabulary: usize) -> Vec<u32> {
    let best = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0) as u32;
    logits.chunks_exact(vocabulary).map(best).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_runs_to_its_end() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../host/inference/tests/golden/decoders/llama");
        for streams in [1, 8] {
            let work = Work { streams, prompt: 30, tokens: 5 };
            let line = speed(&model, Placement::ProcessorTensors, &work).unwrap();
            assert_eq!(line["streams"], streams);
            assert!(line["decode_tps"].as_f64().unwrap() > 0.0 && line["prefill_tps"].as_f64().unwrap() > 0.0);
        }
    }
}

//! The device's logits beside those of the kernels.
//!
//! The steps are those that a scheduler makes: prompts in pieces beside answers, then answers alone, growing over block
//! boundaries and ending one after the other, so that steps are recorded for several sizes, repeated, and left again.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use host_inference::device::Placement;
use host_inference::text::forward::{ForwardPass, Span};
use serde_json::json;

use super::model::{kernels, tensors};

/// Blocks of the cache.
const BLOCKS: usize = 24;
/// The sequences' blocks, in no order.
const TABLES: [&[u32]; 5] = [&[17, 2, 9], &[5, 23, 0], &[8, 3], &[11, 1], &[20]];
/// The tokens that each step reads of each sequence; none once it has ended.
const STEPS: [[usize; 5]; 5] = [[17, 1, 0, 0, 0], [1, 30, 9, 0, 0], [1, 1, 20, 3, 0], [8, 1, 1, 1, 1], [1, 1, 1, 1, 1]];
/// How many steps the last one is followed by, with as many sequences.
const DECODING: [(usize, usize); 3] = [(5, 12), (3, 8), (1, 4)];
/// Products in 8 bits of mantissa (bfloat16) carry about 0.4 % of noise each, and quantized activations 0.6 %. Tiny
/// random models magnify both; a wrong rotation, mask or block gives 100 %.
const TOLERANCE: f32 = 0.1;

/// Compares every model below `directory`.
pub(crate) fn check(directory: &Path, placement: Placement) -> Result<()> {
    let models = models(directory)?;
    let mut failed = Vec::new();
    for path in &models {
        let distance = compare(path, placement)?;
        let agrees = distance < TOLERANCE;
        println!("{}", json!({ "model": path.display().to_string(), "distance": distance, "agrees": agrees }));
        if !agrees {
            failed.push(path.display().to_string());
        }
    }
    match failed.as_slice() {
        [] if models.is_empty() => bail!("there is no model below {}", directory.display()),
        [] => Ok(()),
        failed => bail!("the device computes something else than the processor for {}", failed.join(", ")),
    }
}

/// Checkpoints and GGUF files, in order.
fn models(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = |path: &Path| -> Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
        entries.map(|entry| Ok(entry?.path())).collect()
    };
    let mut models = Vec::new();
    for folder in entries(directory)?.into_iter().filter(|path| path.is_dir()) {
        models.extend(entries(&folder)?.into_iter().filter(|path| path.extension().is_some_and(|end| end == "gguf")));
        if folder.join("model.safetensors").exists() {
            models.push(folder);
        }
    }
    models.sort();
    Ok(models)
}

/// The largest relative distance of the logits of one step.
fn compare(path: &Path, placement: Placement) -> Result<f32> {
    let (mut expected, mut store) = kernels(path, BLOCKS)?;
    let (mut found, mut cache) = tensors(path, BLOCKS, placement)?;
    let vocabulary = expected.vocabulary() as u32;
    let texts: Vec<Vec<u32>> = (0..TABLES.len() as u32).map(|i| text(i, vocabulary)).collect();
    let mut read = [0; TABLES.len()];
    let mut worst = 0f32;
    let decoding = DECODING.iter().flat_map(|(sequences, steps)| std::iter::repeat_n(*sequences, *steps));
    let decoding = decoding.map(|sequences| std::array::from_fn(|i| usize::from(i < sequences)));
    for (number, step) in STEPS.into_iter().chain(decoding).enumerate() {
        let spans = (0..TABLES.len()).filter(|i| step[*i] > 0).map(|i| Span {
            tokens: &texts[i][read[i]..read[i] + step[i]],
            position: read[i],
            blocks: TABLES[i],
            logits: 1,
            adapter: None,
        });
        let spans: Vec<Span<'_>> = spans.collect();
        let what = || format!("step {number} of {}", path.display());
        let expected = expected.forward(&mut store, &spans).with_context(what)?;
        worst = worst.max(distance(found.forward(&mut cache, &spans).with_context(what)?, expected));
        read.iter_mut().zip(step).for_each(|(read, count)| *read += count);
    }
    Ok(worst)
}

/// Tokens without a pattern that a short window would repeat.
fn text(seed: u32, vocabulary: u32) -> Vec<u32> {
    (0..96).map(|i| (i * 37 + seed * 101 + i * i) % vocabulary).collect()
}

/// The root of the mean square of the difference, relative to the expected; infinite where it is no number.
fn distance(found: &[f32], expected: &[f32]) -> f32 {
    if found.len() != expected.len() {
        return f32::INFINITY;
    }
    let error: f32 = found.iter().zip(expected).map(|(a, b)| (a - b) * (a - b)).sum();
    let size: f32 = expected.iter().map(|b| b * b).sum();
    let distance = (error / size).sqrt();
    if distance.is_finite() { distance } else { f32::INFINITY }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_architecture_agrees_and_what_differs_is_told() {
        let decoders = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../host/inference/tests/golden/decoders");
        assert!(models(&decoders).unwrap().len() > 10);
        check(&decoders, Placement::ProcessorTensors).unwrap();
        assert!(check(Path::new(env!("CARGO_MANIFEST_DIR")), Placement::ProcessorTensors).is_err(), "nothing to check");
    }

    #[test]
    fn distances_are_relative_and_never_hide_what_is_no_number() {
        assert_eq!(distance(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
        assert!((distance(&[1.1, 0.0], &[1.0, 0.0]) - 0.1).abs() < 1e-6);
        assert_eq!(distance(&[f32::NAN], &[1.0]), f32::INFINITY);
        assert_eq!(distance(&[1.0], &[1.0, 1.0]), f32::INFINITY);
    }
}

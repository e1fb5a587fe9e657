//! Drawing and looking at pictures beside diffusers and transformers: the same weights and the same number of threads.
//!
//! Weights are random, in the published sizes of Stable Diffusion 1.5, ViT-base, ResNet-50 and CLIP ViT-B/32: speed does
//! not depend on what a network has learned. Both sides compute in float32 from files in half precision. Each measurement
//! is a process of its own; before a figure counts, what both sides computed is compared.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::figures::{Better, Figure, Side, order};
use super::python;
use crate::cache::Slot;
use crate::command;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// The program that measures.
const PROGRAM: &str = "image-bench";
/// The peers' releases.
const PEER: [&str; 6] = [
    "torch==2.15.0",
    "diffusers==0.42.1",
    "transformers==5.24.0",
    "accelerate==1.15.0",
    "pillow==13.0.0",
    "safetensors",
];
/// What they and what they need weigh, for the message.
const PEER_MB: u32 = 1100;
/// What the random checkpoints are made by, for their stamp.
const WEIGHTS: &str = "random checkpoints 1";
const WEIGHTS_MB: u32 = 2900;
/// How far the sides may be apart, as a share of the largest number: sums of float32 in another order, through all layers.
const SAME: f64 = 2e-3;
/// What a drawing is made of, as the measurements and the figures name it.
const PARTS: [(&str, &str); 3] = [("text", "text_encode"), ("step", "diffusion_step"), ("decode", "vae_decode")];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds; in each round both sides are measured once.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Threads of either side.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Pixels along the sides of Stable Diffusion's picture.
    #[arg(long, default_value_t = 512)]
    size: usize,
    /// Models to measure.
    #[arg(long, value_delimiter = ',', default_value = "sd15,shapes,vit,resnet,clip")]
    only: Vec<String>,
}

/// What is measured, and what of it is kept.
struct Case<'a> {
    /// Arguments that both programs take.
    arguments: Vec<&'a str>,
    /// A member of the measurement's object with seconds, one with numbers, and the figure's name.
    parts: Vec<(&'a str, String, String)>,
    model: &'a str,
    rounds: usize,
}

pub(crate) fn bench(workspace: &Workspace, options: &Options, progress: &Progress) -> Result<()> {
    if options.runs == 0 || options.threads == 0 || options.size == 0 {
        bail!("--runs, --threads and --size must be at least 1");
    }
    let python = python::environment(workspace, progress, "diffusers", &PEER, PEER_MB)?;
    let script = workspace.root.join("tests/bench/image_peer.py");
    let folder = weights(workspace, &python, &script, progress)?;
    progress.step("building the measuring program in release mode");
    let program = workspace.program(PROGRAM)?;
    let size = options.size.to_string();
    let picture = workspace.root.join("host/inference/tests/golden/vision/cat.jpg");
    let shapes = workspace.root.join("examples/draw/model");
    for model in &options.only {
        let own = folder.join(model);
        let path = |path: &'_ Path| path.to_str().map(str::to_owned).context("a path that is no UTF-8");
        let (own, picture, shapes) = (path(&own)?, path(&picture)?, path(&shapes)?);
        let drawn = |name: &str| {
            PARTS.iter().map(|(part, figure)| (*part, format!("{part}_values"), format!("{figure}{name}"))).collect()
        };
        let case = match model.as_str() {
            "sd15" => Case {
                arguments: vec!["draw", &own, "--size", &size, "--repeat", "1"],
                parts: drawn(""),
                model,
                rounds: options.runs,
            },
            "shapes" => Case {
                arguments: vec!["draw", &shapes, "--size", "64", "--repeat", "20"],
                parts: drawn("_toy"),
                model,
                rounds: options.runs,
            },
            "vit" | "resnet" | "clip" => Case {
                arguments: vec!["look", &own, &picture, "--repeat", "10"],
                parts: vec![("seconds", "values".to_owned(), format!("{model}_image"))],
                model,
                rounds: options.runs,
            },
            other => bail!("{other} is no model of this benchmark: sd15, shapes, vit, resnet, clip"),
        };
        measure(&case, options.threads, [&program, &python], &script, progress)?;
    }
    Ok(())
}

/// The folder with the random checkpoints, made where it is not there yet.
fn weights(workspace: &Workspace, python: &Path, script: &Path, progress: &Progress) -> Result<PathBuf> {
    let slot = Slot::new(&workspace.cache, "bench/image");
    let _lock = slot.lock(progress)?;
    if !slot.is_complete(WEIGHTS) {
        progress.step(&format!("writing {WEIGHTS} ({WEIGHTS_MB} MB) into {}", slot.path.display()));
        slot.start_over()?;
        command::run(Command::new(python).arg(script).arg("make").arg(&slot.path))?;
        slot.complete(WEIGHTS)?;
    }
    Ok(slot.path)
}

/// All rounds of a case, and its figures' lines: calls a second, so that a ratio above 1 means faster than the peer.
fn measure(
    case: &Case<'_>,
    threads: usize,
    [program, python]: [&Path; 2],
    script: &Path,
    progress: &Progress,
) -> Result<()> {
    let threads_text = threads.to_string();
    let run = |side| -> Result<Value> {
        let mut command = match side {
            Side::Ours => Command::new(program),
            Side::Peer => Command::new(python),
        };
        if side == Side::Peer {
            command.arg(script);
        }
        command.args(&case.arguments).args(["--threads", &threads_text]);
        let text = command::output(&mut command)?;
        let line = text.lines().rev().find(|line| line.starts_with('{')).context("the measurement printed no JSON")?;
        serde_json::from_str(line).context("the measurement printed broken JSON")
    };
    let new = |name: &String| {
        Figure::new(name.clone(), "calls/s", Better::Higher).label("threads", threads).label("model", case.model)
    };
    let mut figures: Vec<Figure> = case.parts.iter().map(|(_, _, name)| new(name)).collect();
    for round in 0..case.rounds {
        let mut values = Vec::new();
        for side in order(round) {
            let measured = run(side)?;
            for ((part, _, name), figure) in case.parts.iter().zip(&mut figures) {
                let seconds = measured[*part].as_f64().with_context(|| format!("{side:?} gave no {part}"))?;
                progress.done_before(&format!("round {}, {side:?}, {name}: {seconds:.4} s", round + 1));
                figure.record(side, 1.0 / seconds);
            }
            values.push(measured);
        }
        let [one, other] = &values[..] else { bail!("a round has two sides") };
        for (_, values, name) in &case.parts {
            same(&one[values], &other[values]).with_context(|| format!("{name} is not the same"))?;
        }
    }
    figures.iter().for_each(|figure| println!("{}", figure.line()));
    Ok(())
}

/// That both sides computed the same.
fn same(one: &Value, other: &Value) -> Result<()> {
    let numbers =
        |values: &Value| -> Vec<f64> { values.as_array().into_iter().flatten().filter_map(Value::as_f64).collect() };
    let (one, other) = (numbers(one), numbers(other));
    let most = other.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
    let furthest = one.iter().zip(&other).map(|(one, other)| (one - other).abs()).fold(0.0, f64::max);
    if one.is_empty() || one.len() != other.len() || furthest > SAME * most {
        bail!("the two sides differ: {} and {} numbers, at most {furthest} of {most} apart", one.len(), other.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn different_numbers_are_noticed() {
        assert!(same(&json!([1.0, -2.0]), &json!([1.0, -2.001])).is_ok());
        assert!(same(&json!([1.0, -2.0]), &json!([1.0, -2.1])).is_err());
        assert!(same(&json!([1.0]), &json!([1.0, 2.0])).is_err());
        assert!(same(&json!([]), &json!([])).is_err());
        assert!(same(&json!([1.0]), &json!(null)).is_err());
    }
}

//! Text embeddings beside onnxruntime with fused operators: the same weights, texts and number of threads.
//!
//! Each measurement is a process of its own. Before anything is timed as right, the vectors of both sides are compared.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::figures::{Better, Figure, Side, order};
use super::python;
use crate::cache;
use crate::command;
use crate::models;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// The program that measures.
const PROGRAM: &str = "encoder-bench";
const MODEL: &str = "all-minilm-l6-v2";
/// The peer's releases.
const PEER: [&str; 4] = ["onnxruntime==1.32.0", "onnx==1.23.2", "tokenizers==0.23.3", "safetensors"];
/// What they and what they need weigh, for the message.
const PEER_MB: u32 = 70;
/// Rounding of float32 sums in another order; anything else that differs is a fault of one side.
const SAME: f64 = 1e-4;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds; in each round both sides are measured once.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Threads of either side.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Seconds for each batch in a round.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

pub(crate) fn bench(workspace: &Workspace, options: &Options, progress: &Progress) -> Result<()> {
    if options.runs == 0 || options.threads == 0 {
        bail!("--runs and --threads must be at least 1");
    }
    models::fetch(workspace, progress)?;
    progress.step("building the measuring program in release mode");
    let program = workspace.program(PROGRAM)?;
    let model = PathBuf::from(command::output(Command::new(&program).args(["locate", MODEL]))?.trim());
    let python = python::environment(workspace, progress, "onnxruntime", &PEER, PEER_MB)?;
    let script = workspace.root.join("tests/bench/encoder_peer.py");
    let folder = workspace.cache.join("bench/encoders");
    cache::create(&folder)?;
    let (graph, texts) = (folder.join("bert.onnx"), folder.join("batches.json"));
    let batches = batches();
    let all: Value = batches.iter().map(|(name, texts)| ((*name).to_owned(), texts.clone())).collect();
    std::fs::write(&texts, all.to_string())?;
    command::run(Command::new(&python).arg(&script).arg("make").arg(&model).arg(&graph))?;
    let run = |side| -> Result<Value> {
        let mut command = match side {
            Side::Ours => Command::new(&program),
            Side::Peer => Command::new(&python),
        };
        if side == Side::Peer {
            command.arg(&script);
        }
        command.arg("embed").arg(&model);
        if side == Side::Peer {
            command.arg(&graph);
        }
        command.arg(&texts).args(["--threads", &options.threads.to_string()]);
        command.args(["--seconds", &options.seconds.to_string()]);
        let text = command::output(&mut command)?;
        serde_json::from_str(&text).with_context(|| format!("{side:?} printed no JSON: {text:.200}"))
    };
    let figure =
        |(name, _): &(&str, Value)| Figure::new(*name, "texts/s", Better::Higher).label("threads", options.threads);
    let mut figures: Vec<Figure> = batches.iter().map(figure).collect();
    for round in 0..options.runs {
        let mut vectors = Vec::new();
        for side in order(round) {
            let measured = run(side)?;
            for ((name, _), figure) in batches.iter().zip(&mut figures) {
                let rate = measured[*name].as_f64().with_context(|| format!("{side:?} gave no {name}"))?;
                progress.done_before(&format!("round {}, {side:?}, {name}: {rate:.1} texts/s", round + 1));
                figure.record(side, rate);
            }
            vectors.push(measured["vectors"].clone());
        }
        let [one, other] = &vectors[..] else { bail!("a round has two sides") };
        for (name, _) in &batches {
            same(&one[*name], &other[*name]).with_context(|| format!("{name} is not the same"))?;
        }
    }
    for figure in &figures {
        println!("{}", figure.line());
    }
    Ok(())
}

/// A short text, batches of short and of longer ones, and one of very different lengths, as documents come.
fn batches() -> [(&'static str, Value); 4] {
    const WORDS: &str =
        "the quick brown fox jumps over a lazy dog while seven wise owls read old books about rivers and stones";
    let words: Vec<&str> = WORDS.split(' ').collect();
    let text = |count: usize, seed: usize| -> String {
        let chosen: Vec<&str> = (0..count).map(|index| words[(seed * 7 + index * 3) % words.len()]).collect();
        chosen.join(" ")
    };
    let lengths = [3, 6, 10, 14, 22, 40, 80, 200];
    let list = |texts: Vec<String>| json!(texts);
    [
        ("embed_b1", list(vec![text(14, 0)])),
        ("embed_b8", list((0..8).map(|seed| text(14, seed)).collect())),
        ("embed_b32", list((0..32).map(|seed| text(30, seed)).collect())),
        ("embed_mixed", list((0..32).map(|seed| text(lengths[seed % lengths.len()], seed)).collect())),
    ]
}

/// That both sides computed the same vectors.
fn same(one: &Value, other: &Value) -> Result<()> {
    let numbers = |vectors: &Value| -> Vec<f64> {
        let rows = vectors.as_array().into_iter().flatten();
        rows.flat_map(|row| row.as_array().into_iter().flatten()).filter_map(Value::as_f64).collect()
    };
    let (one, other) = (numbers(one), numbers(other));
    let furthest = one.iter().zip(&other).map(|(one, other)| (one - other).abs()).fold(0.0, f64::max);
    if one.is_empty() || one.len() != other.len() || furthest > SAME {
        bail!("the two sides differ: {} and {} values, at most {furthest} apart", one.len(), other.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_have_the_sizes_of_their_names() {
        let sizes = batches().map(|(_, texts)| texts.as_array().map_or(0, Vec::len));
        assert_eq!(sizes, [1, 8, 32, 32]);
    }

    #[test]
    fn different_vectors_are_noticed() {
        assert!(same(&json!([[0.1, 0.2]]), &json!([[0.1, 0.200_01]])).is_ok());
        assert!(same(&json!([[0.1, 0.2]]), &json!([[0.1, 0.21]])).is_err());
        assert!(same(&json!([[0.1]]), &json!([[0.1, 0.2]])).is_err());
        assert!(same(&json!([]), &json!([])).is_err());
    }
}

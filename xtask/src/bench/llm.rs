//! Text generation beside llama.cpp: the same weights, the same prompts, the same number of threads.
//!
//! llama.cpp comes as the prebuilt wheel `xllamacpp`, in a Python environment of its own in the cache directory. Each
//! measurement is a process of its own, so that neither side inherits the other's page faults or heap.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::figures::{Better, Figure, Side, order};
use crate::cache::{self, Slot};
use crate::command;
use crate::models;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// The peer's release.
const PEER: &str = "xllamacpp==2026.10.11549";
/// What its wheel weighs, for the message.
const PEER_MB: u32 = 34;
const MODEL: &str = "smollm2-135m-instruct";
const CONTEXT: &str = "1024";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds; in each round both engines are measured once for each number of threads.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Numbers of threads to measure with.
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    threads: Vec<usize>,
    /// Tokens of a measured answer.
    #[arg(long, default_value_t = 128)]
    decode_tokens: usize,
}

pub(crate) fn bench(workspace: &Workspace, options: &Options, progress: &Progress) -> Result<()> {
    if options.runs == 0 || options.decode_tokens == 0 || options.threads.is_empty() || options.threads.contains(&0) {
        bail!("--runs, --threads and --decode-tokens must be at least 1");
    }
    models::fetch(workspace, progress)?;
    progress.step("building the measuring program in release mode");
    let ours = workspace.program("llm-bench")?;
    let python = environment(workspace, progress)?;
    let model = command::output(Command::new(&ours).args(["--locate", MODEL]))?;
    let bench = Measurement {
        ours,
        python,
        script: workspace.root.join("tests/bench/llama_cpp.py"),
        model: PathBuf::from(model.trim()),
        prompts: prompts().to_string(),
        decode_tokens: options.decode_tokens.to_string(),
    };
    let mut figures = Vec::new();
    for (index, &threads) in options.threads.iter().enumerate() {
        let figure = |name: &str, unit, better| Figure::new(format!("llm_{name}"), unit, better);
        let mut measured = vec![
            ("prefill_tps", figure(&format!("prefill_q4_1_{threads}t"), "tokens/s", Better::Higher)),
            ("decode_tps", figure(&format!("decode_q4_1_{threads}t"), "tokens/s", Better::Higher)),
        ];
        if index == 0 {
            measured.push(("rss_mb", figure("rss_q4_1", "MB", Better::Lower)));
        }
        figures.push((threads, measured));
    }
    for round in 0..options.runs {
        for (threads, figures) in &mut figures {
            for side in order(round) {
                let measured = bench.run(side, *threads)?;
                progress.done_before(&format!("{threads} threads, round {}, {side:?}: {measured}", round + 1));
                for (key, figure) in figures.iter_mut() {
                    let value = measured[*key].as_f64().with_context(|| format!("{side:?} gave no {key}"))?;
                    figure.record(side, value);
                }
            }
        }
    }
    for (_, figure) in figures.iter().flat_map(|(_, figures)| figures) {
        println!("{}", figure.line());
    }
    Ok(())
}

struct Measurement {
    ours: PathBuf,
    python: PathBuf,
    script: PathBuf,
    model: PathBuf,
    prompts: String,
    decode_tokens: String,
}

impl Measurement {
    fn run(&self, side: Side, threads: usize) -> Result<Value> {
        let mut command = match side {
            Side::Ours => Command::new(&self.ours),
            Side::Peer => {
                let mut python = Command::new(&self.python);
                python.arg(&self.script);
                python
            }
        };
        command.arg("--model").arg(&self.model).args(["--threads", &threads.to_string(), "--context", CONTEXT]);
        command.args(["--prompts", &self.prompts, "--decode-tokens", &self.decode_tokens]);
        let text = command::output(&mut command)?;
        let line = text.lines().rev().find(|line| line.starts_with('{')).context("the measurement printed no JSON")?;
        serde_json::from_str(line).context("the measurement printed broken JSON")
    }
}

/// No prompt begins like another, so that no cache of prefixes shortens a measurement. The long one has about 512 tokens.
fn prompts() -> Value {
    json!({
        "warm_up": "The sea is wide and",
        "prefill": format!("A list of numbers:{}", " one two three four five six seven eight".repeat(63)),
        "first": "Once upon a time there was a small",
        "decode": "Long ago and far away there was a small",
    })
}

/// The Python of an environment that has the peer.
fn environment(workspace: &Workspace, progress: &Progress) -> Result<PathBuf> {
    let slot = Slot::new(&workspace.cache, "bench/llama-cpp");
    let _lock = slot.lock(progress)?;
    let python = slot.path.join("bin/python3");
    if slot.is_complete(PEER) {
        progress.done_before(&format!("{PEER} in {}", slot.path.display()));
        return Ok(python);
    }
    progress.step(&format!("installing {PEER} ({PEER_MB} MB) into {}", slot.path.display()));
    slot.start_over()?;
    create_environment(&slot.path)?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--only-binary", ":all:", PEER]);
    command::run(&mut pip)?;
    slot.complete(PEER)?;
    Ok(python)
}

fn create_environment(path: &Path) -> Result<()> {
    cache::create(path)?;
    command::run(Command::new("python3").args(["-m", "venv"]).arg(path))
        .context("cannot make a Python environment (on Debian: install python3-venv)")
}

//! The measurements of `cargo xtask bench encoders`, one a process: each prints one JSON object.
//!
//! Texts come from a file that both sides read. A call embeds a whole batch, tokenizing included, and calls follow each
//! other for some seconds; what is printed is the median call's rate in texts/s, so that a pause of the machine shows
//! in the spread of runs and not in a figure.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Parser, Subcommand};
use host_inference::backend::{Pooling, TextEmbeddings};
use host_inference::encoder::{Encoder, Settings};
use host_inference::store::{Layout, ModelName, Store, default_directory};
use serde_json::{Map, Value, json};

/// Measures encoders and prints one JSON object.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Prints where the store keeps a model's files.
    Locate { name: String },
    /// Embeds the batches of a file, each in calls that follow each other.
    Embed {
        /// A folder with `config.json`, `tokenizer.json` and `model.safetensors`.
        model: PathBuf,
        /// An object of lists of texts by the figure's name.
        batches: PathBuf,
        #[arg(long, default_value_t = NonZeroUsize::MIN)]
        threads: NonZeroUsize,
        /// For each batch.
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Locate { name } => println!("{}", locate(&name)?.display()),
        Task::Embed { model, batches, threads, seconds } => println!("{}", embed(&model, &batches, threads, seconds)?),
    }
    Ok(())
}

fn locate(name: &str) -> Result<PathBuf> {
    let parsed: ModelName = name.parse()?;
    match Store::open(default_directory()).find(&parsed)?.map(|installed| installed.layout) {
        Some(Layout::Safetensors(folder)) => Ok(folder),
        Some(_) => bail!("{name} is no folder of safetensors"),
        None => bail!("{name} is not installed: host models pull {name}"),
    }
}

fn embed(model: &Path, batches: &Path, threads: NonZeroUsize, seconds: f64) -> Result<Value> {
    let settings = Settings { threads, queue: NonZeroUsize::MIN, context: NonZeroUsize::new(512), pooling: None };
    let encoder = Encoder::load(model, settings).map_err(|why| anyhow!(why))?;
    let batches = std::fs::read(batches).with_context(|| format!("cannot read {}", batches.display()))?;
    let batches: Map<String, Value> = serde_json::from_slice(&batches)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut measured = Map::new();
    let mut first = Map::new();
    for (name, texts) in batches {
        let texts: Vec<String> = serde_json::from_value(texts)?;
        let call = || {
            let started = Instant::now();
            let vectors = runtime.block_on(encoder.embed("bench".into(), texts.clone(), Pooling::Mean))?.vectors;
            anyhow::Ok((started.elapsed().as_secs_f64(), vectors))
        };
        let (_, vectors) = call()?;
        // Enough of the vectors to tell that both sides compute the same.
        let beginnings: Vec<_> = vectors.iter().map(|vector| vector[..4].to_vec()).collect();
        first.insert(name.clone(), json!(beginnings));
        let mut times = Vec::new();
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        while times.len() < 3 || Instant::now() < until {
            times.push(call()?.0);
        }
        times.sort_by(f64::total_cmp);
        measured.insert(name, json!(texts.len() as f64 / times[times.len() / 2]));
    }
    measured.insert("vectors".to_owned(), json!(first));
    Ok(Value::Object(measured))
}

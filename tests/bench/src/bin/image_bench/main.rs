//! The measurements of `cargo xtask bench image`, one a process: each prints one JSON object.
//!
//! A call is made once to warm up and then a number of times, of which the fastest counts. With the seconds go some
//! numbers of each result, so that both sides can be seen to compute the same.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Parser, Subcommand};
use host_inference::AiError;
use host_inference::backend::{ImageRequest, Model};
use host_inference::diffusion::{Pipeline, Plane};
use host_inference::vision::{self, Settings};
use serde_json::{Value, json};

/// What is drawn: the random checkpoints know few words.
const PROMPT: &str = "a";
/// The step's place in the time of training.
const TIME: f64 = 501.0;
/// Numbers of each result that are printed.
const SHOWN: usize = 16;

/// Measures models of pictures and prints one JSON object.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
    #[arg(long, global = true, default_value_t = NonZeroUsize::MIN)]
    threads: NonZeroUsize,
    /// Calls after the first, of which the fastest counts.
    #[arg(long, global = true, default_value_t = 2)]
    repeat: usize,
}

#[derive(Subcommand)]
enum Task {
    /// Reads a text, makes a guided step and decodes a picture.
    Draw {
        /// A folder with `model_index.json`.
        folder: PathBuf,
        /// Pixels along the picture's sides.
        #[arg(long, default_value_t = 512)]
        size: usize,
    },
    /// Decodes a latent and prints how much memory the process had at most.
    Decode {
        /// A folder with `model_index.json`.
        folder: PathBuf,
        /// Pixels along the picture's sides.
        #[arg(long, default_value_t = 512)]
        size: usize,
    },
    /// Classifies a picture or makes a vector of it, its decoding included.
    Look { folder: PathBuf, picture: PathBuf },
}

fn main() -> Result<()> {
    let Arguments { task, threads, repeat } = Arguments::parse();
    let measured = match task {
        Task::Draw { folder, size } => draw(&folder, size, threads, repeat)?,
        Task::Decode { folder, size } => decode(&folder, size, threads)?,
        Task::Look { folder, picture } => look(&folder, &picture, threads, repeat)?,
    };
    println!("{measured}");
    Ok(())
}

/// The least time of the calls after the first, and what the last gave.
fn fastest<T>(repeat: usize, mut call: impl FnMut() -> Result<T, AiError>) -> Result<(f64, T)> {
    let (mut value, mut least) = (call()?, f64::INFINITY);
    for _ in 0..repeat.max(1) {
        let start = Instant::now();
        value = call()?;
        least = least.min(start.elapsed().as_secs_f64());
    }
    Ok((least, value))
}

fn beginning(values: &[f32]) -> &[f32] {
    &values[..values.len().min(SHOWN)]
}

/// The same smooth values on both sides.
fn latent(pipeline: &Pipeline, size: usize) -> Plane {
    let side = (size / pipeline.factor()).max(1);
    let mut plane = Plane::new(side, side, 4);
    plane.data.iter_mut().enumerate().for_each(|(at, value)| *value = (0.37 * at as f64).sin() as f32);
    plane
}

fn draw(folder: &Path, size: usize, threads: NonZeroUsize, repeat: usize) -> Result<Value> {
    let pipeline = Pipeline::load(folder, threads).map_err(|why| anyhow!(why))?;
    let check = || Ok(());
    let (text, meaning) = fastest(repeat, || pipeline.read(PROMPT))?;
    let nothing = meaning.blank();
    let x = latent(&pipeline, size);
    let predict = |meaning| pipeline.predict(&x, TIME, (size, size), 1.0, meaning, &check);
    let (step, (with, _)) = fastest(repeat, || Ok((predict(&meaning)?, predict(&nothing)?)))?;
    let (decode, picture) = fastest(repeat, || pipeline.decode(&x, &check))?;
    Ok(json!({
        "text": text, "text_values": beginning(meaning.tokens()),
        "step": step, "step_values": beginning(&with.data),
        "decode": decode, "decode_values": beginning(&picture.data),
    }))
}

fn decode(folder: &Path, size: usize, threads: NonZeroUsize) -> Result<Value> {
    let pipeline = Pipeline::load(folder, threads).map_err(|why| anyhow!(why))?;
    let before = peak()?;
    let start = Instant::now();
    let picture = pipeline.decode(&latent(&pipeline, size), &|| Ok(()))?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(json!({
        "seconds": seconds, "loaded_mb": before, "peak_mb": peak()?, "values": beginning(&picture.data),
    }))
}

/// The most memory that this process has had, in MB.
fn peak() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("memory is read from Linux's /proc")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM in /proc/self/status")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes / 1024)
}

fn look(folder: &Path, picture: &Path, threads: NonZeroUsize, repeat: usize) -> Result<Value> {
    let settings = Settings { threads, queue: NonZeroUsize::MIN };
    let model = vision::load(folder, &settings).map_err(|why| anyhow!(why))?;
    let bytes = std::fs::read(picture).with_context(|| picture.display().to_string())?;
    let image = bytes::Bytes::from(bytes);
    let request = || ImageRequest { tenant: "bench".into(), image: image.clone(), deadline: None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (seconds, values) = match model {
        Model::ImageClassification(model) => fastest(repeat, || {
            let labels = runtime.block_on(model.classify(request()))?;
            Ok(labels.into_iter().map(|label| label.score).collect::<Vec<f32>>())
        })?,
        Model::ImageEmbeddings(model) => fastest(repeat, || runtime.block_on(model.embed_image(request())))?,
        _ => bail!("{} neither classifies pictures nor makes vectors of them", folder.display()),
    };
    Ok(json!({ "seconds": seconds, "values": beginning(&values) }))
}

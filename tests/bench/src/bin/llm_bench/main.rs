//! The measurements of `cargo xtask bench llm`, one a process: each prints one JSON object.
//!
//! The same code times this project's engine and llama.cpp's server, whole calls from outside and with the same
//! prompts, so that a difference between two figures is one between the two programs. The engine is driven through its
//! public call, so that scheduling and JSON are part of the figure, as HTTP over loopback is part of the peer's.

mod bandwidth;
mod client;
mod files;
mod prompts;
mod speed;
mod streams;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use serde_json::Value;

/// Measures text generation and prints one JSON object.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
    /// Seconds after which a measurement is given up.
    #[arg(long, default_value_t = 600, global = true)]
    timeout: u64,
}

#[derive(Subcommand)]
enum Task {
    /// Prints where the store keeps a model's GGUF file.
    Locate { name: String },
    /// Prints how many bytes of weights a model reads for one token.
    Describe { model: PathBuf },
    /// Writes a random llama of 321 million parameters that has the vocabulary of another model.
    Random {
        /// A GGUF file with the vocabulary.
        vocabulary: PathBuf,
        output: PathBuf,
    },
    /// Reads memory front to back, in GB/s.
    Bandwidth {
        #[arg(long, default_value_t = 1)]
        threads: usize,
    },
    /// Prefill, decode and memory of this project's engine, in this process.
    Engine(speed::EngineOptions),
    /// Prefill and decode of a running llama.cpp server.
    Server(speed::ServerOptions),
    /// Concurrent streams from a running server: tokens/s and time to first token.
    Streams(streams::Options),
    /// Time to first token of a prompt that begins as an earlier one did, and of one that does not.
    Prefix(streams::PrefixOptions),
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // One thread: a load generator takes at most one core.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(async {
        let limit = Duration::from_secs(arguments.timeout);
        tokio::time::timeout(limit, run(arguments.task)).await.context("--timeout has passed")?
    })?;
    match measured {
        Value::String(text) => println!("{text}"),
        measured => println!("{measured}"),
    }
    // Not `Ok`: a request that timed out may still be computing in a thread that nobody waits for.
    std::process::exit(0);
}

async fn run(task: Task) -> Result<Value> {
    match task {
        Task::Locate { name } => Ok(files::locate(&name)?.display().to_string().into()),
        Task::Describe { model } => files::describe(&model),
        Task::Random { vocabulary, output } => files::random(&vocabulary, &output),
        Task::Bandwidth { threads } => bandwidth::measure(threads),
        Task::Engine(options) => speed::engine(&options).await,
        Task::Server(options) => speed::server(&options).await,
        Task::Streams(options) => streams::measure(&options).await,
        Task::Prefix(options) => streams::prefix(&options).await,
    }
}

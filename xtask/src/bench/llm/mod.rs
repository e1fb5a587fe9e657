//! Text generation beside llama.cpp: the same files, the same prompts, the same number of threads.
//!
//! The peer is llama.cpp's own server, compiled for this machine's processor: prebuilt packages stop at AVX2, and a
//! ratio to them would flatter. Each measurement of one stream is a process of its own, so that neither side inherits
//! the other's page faults or heap; concurrent streams are measured on two servers that take turns.

mod engine;
mod files;
pub(super) mod peer;
mod streams;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::Value;

use crate::command;
use crate::models;
use crate::progress::Progress;
use crate::workspace::Workspace;
use files::Quant;
use peer::Peer;

/// The program that measures.
const PROGRAM: &str = "llm-bench";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// Rounds; in each round both sides are measured once in every way.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// What to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "engine,schema,streams")]
    only: Vec<Part>,
    /// Files for one stream: SmolLM2-135M, and a random llama of 321 million parameters.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "q4_0,q4_1,q8_0,q4_k_m,random_q4_0,random_q4_k_m")]
    quants: Vec<Quant>,
    /// Numbers of threads for one stream. A schema is measured with the first of them.
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    threads: Vec<usize>,
    /// Tokens of one stream's measured answer.
    #[arg(long, default_value_t = 128)]
    decode_tokens: usize,
    /// The file with which a JSON schema is measured.
    #[arg(long, value_enum, default_value = "q4_0")]
    schema_quant: Quant,
    /// Files for concurrent streams.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "q4_0")]
    stream_quants: Vec<Quant>,
    /// Numbers of concurrent streams.
    #[arg(long, value_delimiter = ',', default_value = "1,4,16,32")]
    streams: Vec<usize>,
    /// Threads of a server with concurrent streams; the load generator takes what they leave.
    #[arg(long, default_value_t = 2)]
    stream_threads: usize,
    /// Tokens of a concurrent stream's answer.
    #[arg(long, default_value_t = 64)]
    stream_tokens: usize,
    /// Questions on each concurrent stream in a measurement.
    #[arg(long, default_value_t = 2)]
    questions: usize,
    /// Also measure a build of the engine for this very processor (compiles everything once more).
    #[arg(long)]
    native: bool,
    /// `llama-server` to compare with, instead of building it; `llama-quantize` lies beside it.
    #[arg(long, value_name = "PROGRAM")]
    llama_server: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask bench llm                                             everything; an hour
  cargo xtask bench llm --only engine --quants q4_0 --threads 1     prefill, decode, memory of one file
  cargo xtask bench llm --only streams --streams 16 --runs 1        sixteen streams, once
  cargo xtask bench llm --only engine --quants q8_0 --native        also what target-cpu=native would change
";

/// A part of the benchmark.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// One stream: prefill, decode, memory, share of the memory's bandwidth, gain of a second thread.
    Engine,
    /// What a JSON schema costs.
    Schema,
    /// Concurrent streams over HTTP: tokens/s, time to first token, memory; a prefix that was seen before.
    Streams,
}

pub(crate) fn bench(workspace: &Workspace, options: &Options, progress: &Progress) -> Result<()> {
    options.check()?;
    models::fetch(workspace, progress)?;
    progress.step("building the measuring program in release mode");
    let program = workspace.program(PROGRAM)?;
    let peer = match &options.llama_server {
        Some(server) => Peer::at(server)?,
        None => Peer::built(workspace, progress)?,
    };
    let files = files::Files { workspace, program: &program, peer: &peer, progress };
    let bench = Bench { workspace, program: &program, peer: &peer, files, options, progress };
    let mut failures = Vec::new();
    if options.only.contains(&Part::Engine) {
        bench.engine()?;
    }
    if options.only.contains(&Part::Schema) {
        bench.schema()?;
    }
    if options.only.contains(&Part::Streams) {
        failures = bench.streams()?;
    }
    if options.native {
        bench.native()?;
    }
    if !failures.is_empty() {
        bail!("some streams failed, and their measurements are left out:\n{}", failures.join("\n"));
    }
    Ok(())
}

impl Options {
    fn check(&self) -> Result<()> {
        let counts = [self.runs, self.decode_tokens, self.stream_threads, self.stream_tokens, self.questions];
        let lists = [&self.threads, &self.streams];
        if counts.contains(&0) || lists.iter().any(|list| list.is_empty() || list.contains(&0)) {
            bail!(
                "--runs, --threads, --decode-tokens, --streams, --stream-threads, --stream-tokens and --questions must \
                 be at least 1"
            );
        }
        Ok(())
    }
}

struct Bench<'a> {
    workspace: &'a Workspace,
    program: &'a PathBuf,
    peer: &'a Peer,
    files: files::Files<'a>,
    options: &'a Options,
    progress: &'a Progress,
}

/// Runs the measuring program, and reads what it prints.
fn measured(command: &mut Command) -> Result<Value> {
    let text = command::output(command)?;
    serde_json::from_str(&text).with_context(|| format!("`{}` printed no JSON: {text}", command::shown(command)))
}

fn number(measured: &Value, key: &str) -> Result<f64> {
    measured[key].as_f64().with_context(|| format!("the measurement has no {key}: {measured}"))
}

/// The name of a value on the command line, which is also its name in figures.
fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

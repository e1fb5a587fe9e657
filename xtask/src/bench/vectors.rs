//! Vector indexes beside Chroma: the same vectors, queries and filters, from one client at a time, both with the settings
//! that they come with.
//!
//! Chroma, because it is the embedded vector store that programs use most: it keeps vectors and metadata in a folder,
//! finds them by HNSW and filters by metadata, in the process of its program. Libraries that only search (hnswlib, FAISS,
//! usearch) keep nothing and know no metadata. Both sides are processes that stay; in each round both are asked.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::figures::{Better, Figure, Side, order};
use super::python;
use crate::cache;
use crate::command;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// The program that measures.
const PROGRAM: &str = "vector-bench";
/// The peer's release.
const PEER: [&str; 1] = ["chromadb==1.5.9"];
/// What it and what it needs weigh, for the message.
const PEER_MB: u32 = 150;
/// Of the ten nearest, without a filter and with one.
const LEAST_RECALL: f64 = 0.95;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds; in each round both sides are asked without and with a filter.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Vectors of 384 numbers.
    #[arg(long, default_value_t = 100_000)]
    count: usize,
    /// Different queries.
    #[arg(long, default_value_t = 200)]
    queries: usize,
    /// Seconds for each measurement in a round.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

pub(crate) fn bench(workspace: &Workspace, options: &Options, progress: &Progress) -> Result<()> {
    if options.runs == 0 || options.queries == 0 || options.count < 1000 {
        bail!("--runs and --queries must be at least 1, --count at least 1000");
    }
    progress.step("building the measuring program in release mode");
    let program = workspace.program(PROGRAM)?;
    let python = python::environment(workspace, progress, "chroma", &PEER, PEER_MB)?;
    let folder = workspace.cache.join("bench/vectors");
    cache::create(&folder)?;
    progress.step(&format!("making {} vectors and what is nearest to {} queries", options.count, options.queries));
    let mut make = Command::new(&program);
    make.arg("make").arg(&folder).args(["--count", &options.count.to_string()]);
    command::run(make.args(["--queries", &options.queries.to_string()]))?;
    let start = |side: Side| -> Result<Asked> {
        let state = folder.join(format!("state-{side:?}").to_lowercase());
        if state.exists() {
            std::fs::remove_dir_all(&state)?;
        }
        let mut command = match side {
            Side::Ours => Command::new(&program),
            Side::Peer => Command::new(&python),
        };
        match side {
            Side::Ours => command.arg("serve"),
            Side::Peer => command.arg(workspace.root.join("tests/bench/vector_peer.py")),
        };
        Asked::start(command.arg(&folder).arg(state))
    };
    let mut sides = [start(Side::Ours)?, start(Side::Peer)?];
    let figures = measure(&mut sides, options, progress)?;
    for figure in &figures {
        println!("{}", figure.line());
    }
    Ok(())
}

fn measure(sides: &mut [Asked; 2], options: &Options, progress: &Progress) -> Result<Vec<Figure>> {
    let label = |figure: Figure| figure.label("vectors", options.count).label("peer_name", PEER[0]);
    let mut build = label(Figure::new("vec_build", "vectors/s", Better::Higher));
    let mut search = label(Figure::new("vec_qps_recall95", "queries/s", Better::Higher));
    let mut filtered = label(Figure::new("vec_filtered_qps", "queries/s", Better::Higher));
    let mut memory = label(Figure::new("vec_rss", "MB", Better::Lower));
    for side in order(0) {
        let seconds = sides[side as usize].ask("build", "seconds")?;
        progress.done_before(&format!("{side:?} was built in {seconds:.1} s"));
        build.record(side, options.count as f64 / seconds);
    }
    let mut recalls = [1.0f64; 2];
    for round in 0..options.runs {
        for side in order(round) {
            for (word, figure) in [("search", &mut search), ("filtered", &mut filtered)] {
                let answer = sides[side as usize].answer(&format!("{word} {}", options.seconds))?;
                let number =
                    |key: &str| answer[key].as_f64().with_context(|| format!("{side:?} gave no {key}: {answer}"));
                let (rate, recall) = (number("rate")?, number("recall")?);
                progress
                    .done_before(&format!("round {}, {side:?}, {word}: {rate:.0}/s, recall {recall:.3}", round + 1));
                if recall < LEAST_RECALL {
                    progress.note(&format!("{side:?} found {recall:.3} of the nearest only"));
                }
                recalls[side as usize] = recalls[side as usize].min(recall);
                figure.record(side, rate);
            }
            memory.record(side, sides[side as usize].ask("memory", "bytes")? / 1e6);
        }
    }
    if recalls[0] < LEAST_RECALL {
        bail!("ours found {:.3} of the nearest, less than {LEAST_RECALL}", recalls[0]);
    }
    let search = search.label("recall_ours", recalls[0]).label("recall_peer", recalls[1]);
    Ok(vec![search, build, filtered, memory])
}

/// A process that does what a line says and answers with one.
struct Asked {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Asked {
    fn start(command: &mut Command) -> Result<Self> {
        let shown = command::shown(command);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{shown}`"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (input, output) = (input.context("no stdin")?, output.context("no stdout")?);
        Ok(Self { child, input, output: BufReader::new(output) })
    }

    fn answer(&mut self, line: &str) -> Result<Value> {
        writeln!(self.input, "{line}").with_context(|| format!("nobody takes {line:?}"))?;
        let mut answer = String::new();
        self.output.read_line(&mut answer)?;
        serde_json::from_str(&answer).with_context(|| format!("{line:?} was answered with {answer:?}"))
    }

    fn ask(&mut self, line: &str, key: &str) -> Result<f64> {
        let answer = self.answer(line)?;
        answer[key].as_f64().with_context(|| format!("{line:?} was answered with {answer}"))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

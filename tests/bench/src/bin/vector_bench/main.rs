//! Vector indexes, for `cargo xtask bench vectors`: makes vectors and what is nearest among them, then builds and searches
//! an index as it is told, line by line, so that it can take turns with its peer.

#![allow(missing_docs)]

mod data;

use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use host_state::Directory;
use host_vectorize::limits::MAX_BATCH;
use host_vectorize::{Index, IndexConfig, Indexes, Metric, PropertyKind};
use serde_json::{Value, json};

use data::{DIMENSIONS, Data, GROUPS};

#[derive(Parser)]
enum Command {
    /// Writes vectors, queries and what is nearest to them into a folder.
    Make {
        folder: PathBuf,
        #[arg(long)]
        count: usize,
        #[arg(long)]
        queries: usize,
    },
    /// Does what lines on standard input say: `build`, `search SECONDS`, `filtered SECONDS`, `memory`. Answers each with a
    /// line of JSON.
    Serve { folder: PathBuf, state: PathBuf },
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Make { folder, count, queries } => data::make(&folder, count, queries),
        Command::Serve { folder, state } => serve(&Data::read(&folder)?, &state),
    }
}

fn serve(data: &Data, state: &Path) -> Result<()> {
    // The host answers each call on its runtime and searches on a thread that may block.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?;
    let config = IndexConfig { dimensions: DIMENSIONS, metric: Metric::Cosine, description: None };
    let index = Indexes::new(Directory::new(state)).create("bench", config)?;
    runtime.block_on(index.create_metadata_index("group", PropertyKind::Number))?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (word, seconds) = line.split_once(' ').unwrap_or((&line, "0"));
        let patience = Duration::from_secs_f64(seconds.parse()?);
        let answer = match word {
            "build" => build(&runtime, &index, data)?,
            "search" => search(&runtime, &index, data, false, patience)?,
            "filtered" => search(&runtime, &index, data, true, patience)?,
            "memory" => json!({ "bytes": resident_bytes()? }),
            _ => bail!("{line:?} is no command"),
        };
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// Inserts everything, and waits until searches need not compare what the graph has not taken in.
fn build(runtime: &tokio::runtime::Runtime, index: &Index, data: &Data) -> Result<Value> {
    let started = Instant::now();
    for (number, batch) in data.vectors.chunks(MAX_BATCH * DIMENSIONS).enumerate() {
        let vectors: Vec<Value> = batch
            .chunks(DIMENSIONS)
            .enumerate()
            .map(|(offset, values)| {
                let id = number * MAX_BATCH + offset;
                json!({ "id": id.to_string(), "values": values, "metadata": { "group": id % GROUPS } })
            })
            .collect();
        runtime.block_on(index.insert(vectors.into(), MAX_BATCH))?;
        // The graph grows while more is written.
        runtime.block_on(index.describe())?;
    }
    index.wait_for_graph();
    Ok(json!({ "seconds": started.elapsed().as_secs_f64() }))
}

/// Asks for the ten nearest again and again: how many answers a second, and how many of the ten they had.
fn search(
    runtime: &tokio::runtime::Runtime,
    index: &Index,
    data: &Data,
    filtered: bool,
    patience: Duration,
) -> Result<Value> {
    let queries: Vec<(Value, Value)> = data
        .queries
        .chunks(DIMENSIONS)
        .enumerate()
        .map(|(number, query)| {
            let filter = if filtered { json!({ "group": number % GROUPS }) } else { Value::Null };
            (json!(query), json!({ "topK": 10, "filter": filter }))
        })
        .collect();
    let truth = if filtered { &data.filtered } else { &data.nearest };
    let (mut asked, mut right) = (0, 0);
    let started = Instant::now();
    while started.elapsed() < patience || asked < queries.len() {
        let number = asked % queries.len();
        let (query, options) = &queries[number];
        let found = runtime.block_on(index.query(query, options))?;
        if asked < queries.len() {
            let found = found["matches"].as_array().context("no matches")?;
            let id = |found: &Value| found["id"].as_str().and_then(|id| id.parse::<usize>().ok());
            right += found.iter().filter_map(id).filter(|id| truth[number].contains(id)).count();
        }
        asked += 1;
    }
    let rate = asked as f64 / started.elapsed().as_secs_f64();
    Ok(json!({ "rate": rate, "recall": right as f64 / (10 * queries.len()) as f64 }))
}

fn resident_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib * 1024)
}

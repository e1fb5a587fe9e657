//! `host vectorize`: vector indexes from the terminal, also beside a running host.

use std::io::{BufRead, BufReader, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use host_state::Directory;
use host_vectorize::limits::MAX_BATCH;
use host_vectorize::{Index, IndexConfig, Indexes, Metric, PropertyKind};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::args::StateArgs;
use crate::exit::Done;

mod args;

pub(crate) use args::VectorizeCommand;
use args::{QueryArgs, WriteArgs};

/// Longest line of vectors: 1536 numbers of 30 characters and 10 KiB of metadata have room.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// Vectors that are read at once where all are.
const PAGE: usize = 1000;

/// Runs one of the `host vectorize` commands.
pub(crate) fn run(command: VectorizeCommand) -> Done {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    Ok(runtime.block_on(execute(command))?)
}

/// Where the state of a project lies.
pub(crate) fn directory(args: &StateArgs) -> PathBuf {
    let beside = || {
        let folder = args.config.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        folder.join(host_state::IN_PROJECT)
    };
    args.persist_to.clone().unwrap_or_else(beside)
}

fn indexes(args: &StateArgs) -> Indexes {
    Indexes::new(Directory::new(&directory(args)))
}

async fn execute(command: VectorizeCommand) -> anyhow::Result<()> {
    match command {
        VectorizeCommand::Create { name, dimensions, metric, description, state, json } => {
            let config = IndexConfig { dimensions, metric, description };
            let (indexes, called) = (indexes(&state), name.clone());
            // It waits for the disk, which no thread of a runtime may.
            let index = tokio::task::spawn_blocking(move || indexes.create(&called, config)).await??;
            let text = format!("created {name}: {dimensions} dimensions, {metric}");
            print(json, &shown(&index), text);
            if !json {
                println!(
                    "to bind it, add to the binding file\n\n[[vectorize]]\nbinding = \"VECTORIZE\"\nindex_name = \"{name}\""
                );
            }
        }
        VectorizeCommand::List { state, json } => list(&indexes(&state), json)?,
        VectorizeCommand::Get { name, state, json } => {
            let index = indexes(&state).get(&name)?;
            print(json, &shown(&index), line(&index));
        }
        VectorizeCommand::Info { name, state, json } => info(&indexes(&state).get(&name)?, json).await?,
        VectorizeCommand::Delete { name, force, state } => delete(&indexes(&state), &name, force)?,
        VectorizeCommand::Insert(args) => write(&args, false).await?,
        VectorizeCommand::Upsert(args) => write(&args, true).await?,
        VectorizeCommand::Query(args) => query(&args).await?,
        VectorizeCommand::GetVectors { name, ids, state } => {
            lines(indexes(&state).get(&name)?.get_by_ids(json!(ids)).await?)?;
        }
        VectorizeCommand::DeleteVectors { name, ids, state, json } => {
            let mutation = indexes(&state).get(&name)?.delete_by_ids(json!(ids), MAX_BATCH).await?;
            print(json, &mutation, format!("deleted, as far as they were there: {}", ids.join(", ")));
        }
        VectorizeCommand::ListVectors { name, count, cursor, state, json } => {
            list_vectors(&indexes(&state).get(&name)?, count, cursor, json).await?;
        }
        VectorizeCommand::Export { name, state } => export(&indexes(&state).get(&name)?).await?,
        VectorizeCommand::CreateMetadataIndex { name, property_name, kind, state, json } => {
            let mutation = indexes(&state).get(&name)?.create_metadata_index(&property_name, kind).await?;
            print(json, &mutation, format!("filters of {name} see {property_name} ({kind}), in all of its vectors"));
        }
        VectorizeCommand::ListMetadataIndex { name, state, json } => {
            properties(&indexes(&state).get(&name)?.metadata_indexes().await?, json);
        }
        VectorizeCommand::DeleteMetadataIndex { name, property_name, state, json } => {
            let mutation = indexes(&state).get(&name)?.delete_metadata_index(&property_name).await?;
            print(json, &mutation, format!("filters of {name} no longer see {property_name}"));
        }
    }
    Ok(())
}

fn print(as_json: bool, value: &Value, text: String) {
    if as_json { println!("{value}") } else { println!("{text}") }
}

/// An index as Vectorize describes it.
fn shown(index: &Index) -> Value {
    let IndexConfig { dimensions, metric, description } = index.config();
    json!({
        "name": index.name(),
        "description": description.as_deref().unwrap_or_default(),
        "config": { "dimensions": dimensions, "metric": metric.name() },
        "created_on": index.created(),
    })
}

fn line(index: &Index) -> String {
    let IndexConfig { dimensions, metric, description } = index.config();
    let description = description.as_deref().unwrap_or_default();
    format!("{}  {dimensions} dimensions  {metric}  created {}  {description}", index.name(), index.created())
}

fn list(indexes: &Indexes, json: bool) -> anyhow::Result<()> {
    let all = indexes.names()?.into_iter().map(|name| indexes.get(&name)).collect::<Result<Vec<_>, _>>()?;
    if json {
        println!("{}", Value::from(all.iter().map(shown).collect::<Vec<_>>()));
        return Ok(());
    }
    for index in &all {
        println!("{}", line(index));
    }
    println!("{} in {}", all.len(), indexes.directory().path().display());
    Ok(())
}

async fn info(index: &Index, json: bool) -> anyhow::Result<()> {
    let info = index.describe().await?;
    let text = |key: &str| info[key].as_str().unwrap_or("none").to_owned();
    let described = format!(
        "{} vectors of {} dimensions\nlast change {} ({})",
        info["vectorCount"],
        info["dimensions"],
        text("processedUpToDatetime"),
        text("processedUpToMutation")
    );
    print(json, &info, described);
    Ok(())
}

fn delete(indexes: &Indexes, name: &str, force: bool) -> anyhow::Result<()> {
    indexes.get(name)?;
    if !force {
        if !std::io::stdin().is_terminal() {
            bail!("deleting {name} deletes its vectors for good; say --force where nobody can be asked");
        }
        eprint!("Delete {name} and its vectors for good? [y/N] ");
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if !answer.trim().eq_ignore_ascii_case("y") {
            bail!("{name} was left as it is");
        }
    }
    indexes.delete(name)?;
    println!("deleted {name}");
    Ok(())
}

/// Reads vectors, a JSON object a line, and keeps them batch by batch.
async fn write(args: &WriteArgs, replace: bool) -> anyhow::Result<()> {
    let index = indexes(&args.state).get(&args.name)?;
    let (input, bytes): (Box<dyn BufRead>, _) = if args.file == Path::new("-") {
        (Box::new(BufReader::new(std::io::stdin())), None)
    } else {
        let file = std::fs::File::open(&args.file).with_context(|| args.file.display().to_string())?;
        let bytes = file.metadata()?.len();
        (Box::new(BufReader::with_capacity(1 << 16, file)), Some(bytes))
    };
    let mut vectors = Lines { input, number: 0, bytes: 0, file: args.file.display().to_string() };
    let bar = bar(bytes);
    let (mut kept, mut mutation) = (0, Value::Null);
    loop {
        let first = vectors.number + 1;
        let batch = vectors.batch(args.batch_size)?;
        if batch.is_empty() {
            break;
        }
        let count = batch.len();
        let (batch, last) = (Value::from(batch), vectors.number);
        let done = if replace { index.upsert(batch, MAX_BATCH).await } else { index.insert(batch, MAX_BATCH).await };
        mutation = done.with_context(|| {
            format!(
                "lines {first} to {last} of {} (vectors[0] is the first of them); {kept} before them were kept",
                vectors.file
            )
        })?;
        kept += count;
        bar.set_position(vectors.bytes);
    }
    bar.finish_and_clear();
    if kept == 0 {
        bail!("{} has no vectors: one JSON object a line is expected", vectors.file);
    }
    let text = format!("{kept} vectors sent to {}", args.name);
    print(args.json, &json!({ "index": args.name, "count": kept, "mutationId": mutation["mutationId"] }), text);
    Ok(())
}

fn bar(bytes: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    match bytes {
        Some(bytes) => ProgressBar::new(bytes).with_style(
            ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {eta}")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        ),
        None => ProgressBar::new_spinner(),
    }
}

/// Lines of JSON.
struct Lines {
    input: Box<dyn BufRead>,
    number: usize,
    bytes: u64,
    file: String,
}

impl Lines {
    /// Up to `count` values. Empty lines are passed over.
    fn batch(&mut self, count: usize) -> anyhow::Result<Vec<Value>> {
        let mut batch = Vec::new();
        let mut line = Vec::new();
        while batch.len() < count {
            line.clear();
            let read = self.input.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
            if read == 0 {
                break;
            }
            self.number += 1;
            self.bytes += read as u64;
            if read as u64 == MAX_LINE_BYTES && line.last() != Some(&b'\n') {
                bail!("line {} of {} is longer than {MAX_LINE_BYTES} bytes", self.number, self.file);
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            let value = serde_json::from_slice(&line)
                .map_err(|error| anyhow!("line {} of {} is no JSON: {error}", self.number, self.file))?;
            batch.push(value);
        }
        Ok(batch)
    }
}

async fn query(args: &QueryArgs) -> anyhow::Result<()> {
    let index = indexes(&args.state).get(&args.name)?;
    let filter: Option<Value> =
        args.filter.as_deref().map(|filter| serde_json::from_str(filter).context("--filter is no JSON")).transpose()?;
    let options = json!({
        "topK": args.top_k,
        "returnValues": args.return_values,
        "returnMetadata": args.return_metadata,
        "namespace": args.namespace,
        "filter": filter,
    });
    let found = match &args.vector_id {
        Some(id) => index.query_by_id(&json!(id), &options).await?,
        None => index.query(&json!(args.vector), &options).await?,
    };
    if args.json {
        println!("{found}");
        return Ok(());
    }
    for found in found["matches"].as_array().into_iter().flatten() {
        let rest: Vec<String> =
            ["namespace", "metadata", "values"].iter().filter_map(|key| Some(found.get(*key)?.to_string())).collect();
        println!(
            "{:.6}  {}  {}",
            found["score"].as_f64().unwrap_or(0.0),
            found["id"].as_str().unwrap_or(""),
            rest.join("  ")
        );
    }
    Ok(())
}

/// Prints an array's entries, a line each.
fn lines(values: Value) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for value in values.as_array().into_iter().flatten() {
        writeln!(out, "{value}")?;
    }
    Ok(())
}

async fn list_vectors(index: &Index, count: usize, cursor: Option<String>, json: bool) -> anyhow::Result<()> {
    let page = index.list(cursor, count).await?;
    if json {
        println!("{page}");
        return Ok(());
    }
    for vector in page["vectors"].as_array().into_iter().flatten() {
        println!("{}", vector["id"].as_str().unwrap_or(""));
    }
    if let Some(next) = page["nextCursor"].as_str() {
        eprintln!("there are more: --cursor '{next}'");
    }
    Ok(())
}

/// Prints every vector as it can be inserted again.
async fn export(index: &Index) -> anyhow::Result<()> {
    let mut cursor = None;
    loop {
        let page = index.list(cursor, PAGE).await?;
        let ids: Vec<&Value> = page["vectors"].as_array().into_iter().flatten().map(|vector| &vector["id"]).collect();
        for ids in ids.chunks(host_vectorize::limits::MAX_GET) {
            lines(index.get_by_ids(json!(ids)).await?)?;
        }
        cursor = page["nextCursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return Ok(());
        }
    }
}

fn properties(properties: &[(String, PropertyKind)], json: bool) {
    if json {
        let all: Vec<Value> =
            properties.iter().map(|(name, kind)| json!({ "propertyName": name, "indexType": kind.name() })).collect();
        println!("{}", json!({ "metadataIndexes": all }));
        return;
    }
    for (name, kind) in properties {
        println!("{name}  {kind}");
    }
}

/// For the command line.
fn metric(text: &str) -> Result<Metric, String> {
    text.parse()
}

/// For the command line.
fn kind(text: &str) -> Result<PropertyKind, String> {
    text.parse()
}

//! The arguments of `host vectorize`, named as wrangler names them.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use host_vectorize::{Metric, PropertyKind};

use super::{kind, metric};
use crate::args::StateArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum VectorizeCommand {
    /// Create an index.
    #[command(after_help = "\
Examples:
  host vectorize create notes --dimensions=384 --metric=cosine
The dimensions are those of the model that makes the vectors: 384 for bge-small, 768 for bge-base, 1024 for bge-large.")]
    Create {
        /// Its name: lower-case letters, digits, `-` and `_`.
        name: String,
        /// How many numbers each vector has, up to 1536.
        #[arg(long)]
        dimensions: usize,
        /// How vectors are compared: cosine, euclidean or dot-product.
        #[arg(long, value_parser = metric)]
        metric: Metric,
        /// For people.
        #[arg(long)]
        description: Option<String>,
        #[command(flatten)]
        state: StateArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the indexes.
    List {
        #[command(flatten)]
        state: StateArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show what an index is.
    Get {
        /// The index.
        name: String,
        #[command(flatten)]
        state: StateArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show how many vectors an index has, and its last change.
    Info {
        /// The index.
        name: String,
        #[command(flatten)]
        state: StateArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Delete an index and its vectors.
    Delete {
        /// The index.
        name: String,
        /// Do not ask.
        #[arg(short = 'y', long)]
        force: bool,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Add vectors from a file of JSON lines; those whose ids are taken stay as they were.
    #[command(after_help = "\
Examples:
  host vectorize insert notes --file=vectors.ndjson
A line is {\"id\": \"a\", \"values\": [0.1, …], \"namespace\": \"…\", \"metadata\": {…}}; the last two may be left out.")]
    Insert(WriteArgs),
    /// Add vectors from a file of JSON lines, in place of those with their ids.
    Upsert(WriteArgs),
    /// Find the vectors that are nearest to one.
    #[command(after_help = "\
Examples:
  host vectorize query notes --vector-id=a --top-k=3
  host vectorize query notes --vector 0.1 -0.2 0.3 --filter '{\"lang\": \"en\"}' --return-metadata=all")]
    Query(QueryArgs),
    /// Print vectors by id, a JSON object a line.
    GetVectors {
        /// The index.
        name: String,
        /// Their ids, up to 20.
        #[arg(long, required = true, num_args = 1..)]
        ids: Vec<String>,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Delete vectors by id.
    DeleteVectors {
        /// The index.
        name: String,
        /// Their ids.
        #[arg(long, required = true, num_args = 1..)]
        ids: Vec<String>,
        #[command(flatten)]
        state: StateArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the ids of vectors.
    ListVectors {
        /// The index.
        name: String,
        /// How many at most.
        #[arg(long, default_value_t = 100)]
        count: usize,
        /// After this id.
        #[arg(long)]
        cursor: Option<String>,
        #[command(flatten)]
        state: StateArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print every vector, a JSON object a line, as `insert` reads it.
    Export {
        /// The index.
        name: String,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Let filters see a property of the metadata.
    CreateMetadataIndex {
        /// The index.
        name: String,
        /// The property; nested ones with dots, as in `author.name`.
        #[arg(long)]
        property_name: String,
        /// Its type: string, number or boolean.
        #[arg(long = "type", value_parser = kind)]
        kind: PropertyKind,
        #[command(flatten)]
        state: StateArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the properties that filters see.
    ListMetadataIndex {
        /// The index.
        name: String,
        #[command(flatten)]
        state: StateArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Keep filters from seeing a property.
    DeleteMetadataIndex {
        /// The index.
        name: String,
        /// The property.
        #[arg(long)]
        property_name: String,
        #[command(flatten)]
        state: StateArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct WriteArgs {
    /// The index.
    pub(crate) name: String,
    /// The file; - is standard input.
    #[arg(long)]
    pub(crate) file: PathBuf,
    /// Vectors that are written together, all or none: up to 5000.
    #[arg(long, default_value_t = 1000, value_parser = batch_size)]
    pub(crate) batch_size: usize,
    #[command(flatten)]
    pub(crate) state: StateArgs,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct QueryArgs {
    /// The index.
    pub(crate) name: String,
    /// The numbers to look for.
    #[arg(long, num_args = 1.., allow_negative_numbers = true, required_unless_present = "vector_id")]
    pub(crate) vector: Vec<f64>,
    /// The id of the vector to look for.
    #[arg(long, conflicts_with = "vector")]
    pub(crate) vector_id: Option<String>,
    /// How many to find, up to 100.
    #[arg(long, default_value_t = 5)]
    pub(crate) top_k: usize,
    /// Print their values.
    #[arg(long)]
    pub(crate) return_values: bool,
    /// Print their metadata: none, indexed or all.
    #[arg(long, default_value = "none")]
    pub(crate) return_metadata: String,
    /// The only namespace to look in.
    #[arg(long)]
    pub(crate) namespace: Option<String>,
    /// What their metadata must be, as JSON.
    #[arg(long)]
    pub(crate) filter: Option<String>,
    #[command(flatten)]
    pub(crate) state: StateArgs,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

fn batch_size(text: &str) -> Result<usize, String> {
    let size: usize = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (1..=host_vectorize::limits::MAX_BATCH).contains(&size) { Ok(size) } else { Err("1 to 5000".to_owned()) }
}

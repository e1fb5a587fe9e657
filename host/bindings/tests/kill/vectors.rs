//! Vector indexes under `kill -9`: two threads insert, replace and delete, each among ids of its own.
//!
//! A change is a JSON object: which thread, which ids, and the value that they have after it, null for none. Values are
//! numbers that are never used twice, so that a vector tells which change wrote it.

use std::collections::BTreeMap;
use std::path::Path;

use host_state::Directory;
use host_vectorize::{Index, IndexConfig, Indexes, Metric, VectorizeError};
use serde_json::{Value, json};

use crate::{Model, Random, Report};

const DIMENSIONS: usize = 4;
/// Ids that a thread draws from.
const IDS: u64 = 120;

fn open(directory: &Path) -> Index {
    let indexes = Indexes::new(Directory::new(directory));
    let config = IndexConfig { dimensions: DIMENSIONS, metric: Metric::Euclidean, description: None };
    match indexes.create("killed", config) {
        Err(VectorizeError::Exists { .. }) => indexes.get("killed").unwrap(),
        created => created.unwrap(),
    }
}

fn blocking<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

/// Writes until the process is killed.
pub(crate) fn write(directory: &Path, seed: u64, report: &Report) {
    let index = open(directory);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let index = &index;
            scope.spawn(move || write_thread(index, thread, seed, report));
        }
    });
}

fn write_thread(index: &Index, thread: u64, seed: u64, report: &Report) {
    let mut random = Random(seed ^ thread);
    loop {
        let ids: Vec<String> = (0..=random.below(20)).map(|_| format!("{thread}-{}", random.below(IDS))).collect();
        // Exact as a float32, and drawn from so many that two are hardly alike.
        let value = random.below(1 << 24);
        let vectors: Vec<Value> = ids
            .iter()
            .map(|id| json!({ "id": id, "values": [value, 0, 0, 0], "metadata": { "value": value } }))
            .collect();
        let delete = random.below(4) == 0;
        let change = json!({ "thread": thread, "ids": ids, "value": if delete { Value::Null } else { value.into() } });
        report.trying(&change.to_string());
        let done = if delete {
            blocking(index.delete_by_ids(json!(ids), 1000))
        } else {
            blocking(index.upsert(json!(vectors), 1000))
        };
        done.unwrap();
        report.done(&change.to_string());
    }
}

/// The values that ids must have, and the changes that may have been made.
#[derive(Default)]
pub(crate) struct Vectors {
    values: BTreeMap<String, u64>,
    /// By thread: a thread has one change under way at most.
    under_way: BTreeMap<u64, Value>,
}

fn apply(values: &mut BTreeMap<String, u64>, change: &Value) {
    for id in change["ids"].as_array().unwrap() {
        let id = id.as_str().unwrap().to_owned();
        match change["value"].as_u64() {
            Some(value) => values.insert(id, value),
            None => values.remove(&id),
        };
    }
}

impl Model for Vectors {
    fn tried(&mut self, change: &str) {
        let change: Value = serde_json::from_str(change).unwrap();
        self.under_way.insert(change["thread"].as_u64().unwrap(), change);
    }

    fn acknowledged(&mut self, change: &str) {
        let change: Value = serde_json::from_str(change).unwrap();
        self.under_way.remove(&change["thread"].as_u64().unwrap());
        apply(&mut self.values, &change);
    }

    fn check(&mut self, directory: &Path) -> Result<(), String> {
        let index = open(directory);
        let mut found = BTreeMap::new();
        let page = blocking(index.list(None, 1000)).map_err(|error| error.to_string())?;
        let ids: Vec<&Value> = page["vectors"].as_array().unwrap().iter().map(|vector| &vector["id"]).collect();
        for ids in ids.chunks(20) {
            let got = blocking(index.get_by_ids(json!(ids))).map_err(|error| error.to_string())?;
            for vector in got.as_array().unwrap() {
                let value = vector["metadata"]["value"].as_u64().unwrap();
                if vector["values"][0].as_f64() != Some(value as f64) {
                    return Err(format!("a vector and its metadata are of two changes: {vector}"));
                }
                found.insert(vector["id"].as_str().unwrap().to_owned(), value);
            }
        }
        for (thread, change) in std::mem::take(&mut self.under_way) {
            let mut with = self.values.clone();
            apply(&mut with, &change);
            let of_thread = |values: &BTreeMap<String, u64>| -> Vec<(String, u64)> {
                let begins = format!("{thread}-");
                values
                    .iter()
                    .filter(|(id, _)| id.starts_with(&begins))
                    .map(|(id, value)| (id.clone(), *value))
                    .collect()
            };
            if of_thread(&with) == of_thread(&found) {
                self.values = with;
            }
        }
        if found != self.values {
            let wrong = |(id, value): (&String, &u64)| self.values.get(id) != Some(value);
            let more: Vec<_> = found.iter().filter(|entry| wrong(*entry)).collect();
            let less: Vec<_> = self.values.iter().filter(|(id, value)| found.get(*id) != Some(*value)).collect();
            return Err(format!("found {more:?} and expected {less:?}"));
        }
        let described = blocking(index.describe()).map_err(|error| error.to_string())?;
        if described["vectorCount"].as_u64() != Some(found.len() as u64) {
            return Err(format!("{} vectors, and queries see {described}", found.len()));
        }
        Ok(())
    }
}

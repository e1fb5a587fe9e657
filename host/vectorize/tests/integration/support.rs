//! What the tests share: an index in a folder of its own, and numbers that look random and are the same every time.

use host_state::Directory;
use host_vectorize::{Index, IndexConfig, Indexes, Metric};
use serde_json::{Value, json};

/// An index in a folder that goes when the test ends.
pub(crate) struct Bench {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) index: Index,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    pub(crate) fn new(dimensions: usize, metric: Metric) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = IndexConfig { dimensions, metric, description: None };
        let index = indexes(&folder).create("notes", config).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Self { folder, index, runtime }
    }

    pub(crate) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub(crate) fn insert(&self, vectors: Value) -> Result<Value, host_vectorize::VectorizeError> {
        self.run(self.index.insert(vectors, 5000))
    }

    pub(crate) fn upsert(&self, vectors: Value) -> Result<Value, host_vectorize::VectorizeError> {
        self.run(self.index.upsert(vectors, 5000))
    }

    pub(crate) fn query(&self, vector: Value, options: Value) -> Result<Value, host_vectorize::VectorizeError> {
        self.run(self.index.query(&vector, &options))
    }

    pub(crate) fn count(&self) -> u64 {
        self.run(self.index.describe()).unwrap()["vectorCount"].as_u64().unwrap()
    }
}

/// The indexes of a folder, as another process sees them.
pub(crate) fn indexes(folder: &tempfile::TempDir) -> Indexes {
    Indexes::new(Directory::new(folder.path()))
}

/// The ids that a query found.
pub(crate) fn ids(found: &Value) -> Vec<String> {
    found["matches"].as_array().unwrap().iter().map(|found| found["id"].as_str().unwrap().to_owned()).collect()
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Around 0, of standard deviation 1, by the sum of twelve uniform numbers.
    pub(crate) fn normal(&mut self) -> f32 {
        let sum: f64 = (0..12).map(|_| (self.next() >> 11) as f64 / (1u64 << 53) as f64).sum();
        (sum - 6.0) as f32
    }

    pub(crate) fn vector(&mut self, dimensions: usize) -> Vec<f32> {
        (0..dimensions).map(|_| self.normal()).collect()
    }
}

/// A vector of an insert.
pub(crate) fn entry(id: &str, values: &[f32], metadata: Value) -> Value {
    json!({ "id": id, "values": values, "metadata": metadata })
}

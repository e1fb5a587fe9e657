//! `[[vectorize]]`: an index of [`host_vectorize`], called by method.
//!
//! Errors have the words that Vectorize's binding has: `VECTOR_QUERY_ERROR (code = 40006): …`. An index that is not there
//! is no fault of the binding file, since it may be created while the host runs; each call looks again.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use host_vectorize::limits::MAX_WORKER_BATCH;
use host_vectorize::{Index, IndexConfig, Indexes, Metric, VectorizeError};
use serde_json::Value;

use crate::{CallError, Callable, Kind, MethodCall};

/// A binding to an index.
pub(crate) struct VectorIndex {
    indexes: Indexes,
    name: String,
    create: Option<IndexConfig>,
}

impl VectorIndex {
    pub(crate) fn new(indexes: Indexes, name: &str, create: Option<&host_config::VectorIndex>) -> Self {
        let create = create.map(|index| IndexConfig {
            dimensions: index.dimensions as usize,
            metric: index.metric.parse().unwrap_or(Metric::Cosine),
            description: None,
        });
        Self { indexes, name: name.to_owned(), create }
    }

    /// Opens the index, which blocks, and makes it first where the binding file says what it is.
    fn open(&self) -> Result<Index, VectorizeError> {
        match (self.indexes.get(&self.name), &self.create) {
            (Err(VectorizeError::NoIndex { .. }), Some(config)) => {
                match self.indexes.create(&self.name, config.clone()) {
                    // Another call has made it meanwhile.
                    Err(VectorizeError::Exists { .. }) => self.indexes.get(&self.name),
                    made => made,
                }
            }
            (opened, _) => opened,
        }
    }

    async fn run(self: Arc<Self>, call: MethodCall) -> Result<Value, CallError> {
        let Some(operation) = operation(&call.method) else {
            return Err(CallError::no_method(Kind::Vectorize, &call.method));
        };
        let this = self.clone();
        let opened = tokio::task::spawn_blocking(move || this.open()).await.map_err(CallError::internal)?;
        let index = opened.map_err(|error| failed(operation, error))?;
        let mut arguments = call.arguments.into_iter();
        let mut next = || arguments.next().unwrap_or(Value::Null);
        let (first, second) = (next(), next());
        let answer = match call.method.as_str() {
            "describe" => index.describe().await,
            "query" => index.query(&first, &second).await,
            "queryById" => index.query_by_id(&first, &second).await,
            "insert" => index.insert(first, MAX_WORKER_BATCH).await,
            "upsert" => index.upsert(first, MAX_WORKER_BATCH).await,
            "getByIds" => index.get_by_ids(first).await,
            _ => index.delete_by_ids(first, MAX_WORKER_BATCH).await,
        };
        answer.map_err(|error| failed(operation, error))
    }
}

impl Callable for VectorIndex {
    fn kind(&self) -> Kind {
        Kind::Vectorize
    }

    fn call(self: Arc<Self>, call: MethodCall) -> BoxFuture<'static, Result<Value, CallError>> {
        self.run(call).boxed()
    }
}

/// What Vectorize calls a method in its errors.
fn operation(method: &str) -> Option<&'static str> {
    Some(match method {
        "describe" => "INDEX_GET",
        "query" | "queryById" => "VECTOR_QUERY",
        "insert" => "VECTOR_INSERT",
        "upsert" => "VECTOR_UPSERT",
        "getByIds" => "VECTOR_GET",
        "deleteByIds" => "VECTOR_DELETE",
        _ => return None,
    })
}

fn failed(operation: &str, error: VectorizeError) -> CallError {
    let (code, status) = match &error {
        VectorizeError::Invalid { code, .. } => (*code, 400),
        VectorizeError::NoIndex { .. } => (None, 404),
        _ => return CallError::internal(error),
    };
    let shown = code.map_or_else(String::new, |code| format!(" (code = {code})"));
    CallError { code: code.unwrap_or(0), status, message: format!("{operation}_ERROR{shown}: {error}") }
}

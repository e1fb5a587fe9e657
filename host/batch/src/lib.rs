//! Work that can wait: batches of requests that are queued, run when nothing else runs, and asked after by their id.
//!
//! A batch is on the disk before its id is given out, and each of its results as soon as it is there, so that a process that
//! ends loses nothing but the request under way, which is run again. Requests are run one after the other, each begun only
//! while no other call of the engine is under way ([`Engine::idle`]): whoever waits for an answer waits for at most what a
//! single request of a batch takes of the machine. A batch that has waited for an hour is run in spite of others, lest a
//! busy host never comes to it.
//!
//! The crate knows nothing of guests. A batch belongs to the worker that queued it, and no other can ask after it.

#![deny(clippy::unwrap_used)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod store;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use host_inference::{AiError, Engine, RunOutput, RunRequest, Tenant};
use host_state::{Directory, StateError};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use store::{Next, Store};

/// Requests of one batch.
pub const MAX_REQUESTS: usize = 1000;
/// Batches of one worker that wait or run.
const MAX_BATCHES: i64 = 1000;
/// How long a batch waits for an idle engine.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// How long to wait after a fault that will pass.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a request is tried that finds no capacity.
const TRIES: u32 = 20;

/// The batches of a project. Clones share everything; the last to go ends the work.
#[derive(Clone)]
pub struct Batches(Arc<Inner>);

struct Inner {
    engine: Engine,
    store: Store,
    /// How long results are kept.
    keep: Duration,
    runs: AtomicBool,
    more: Arc<Notify>,
}

impl std::fmt::Debug for Batches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batches").finish_non_exhaustive()
    }
}

/// How far a batch is.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// It has not begun.
    Queued,
    /// Some of it is done.
    Running,
    /// All of it is: `{responses: [{id, result, success, external_reference}], usage}`.
    Done(Value),
}

impl Batches {
    /// Batches that run on `engine` and are kept in `state`, their results for `keep`. What another process has left there
    /// is gone on with by [`Batches::resume`].
    pub fn new(engine: Engine, state: Directory, keep: Duration) -> Self {
        let inner =
            Inner { engine, store: Store::new(state), keep, runs: AtomicBool::new(false), more: Arc::default() };
        Self(Arc::new(inner))
    }

    /// Goes on with what is left in the state, if anything is. Must be called on a Tokio runtime.
    pub fn resume(&self) {
        if self.0.store.exists() {
            self.work();
        }
    }

    /// Queues a batch, and gives its id once it is on the disk.
    ///
    /// # Errors
    /// 5006 for a batch that is none, 5007 for an unknown model, 3040 when the worker has too many batches waiting.
    pub async fn submit(&self, worker: &str, model: &str, inputs: Map<String, Value>) -> Result<String, AiError> {
        if self.0.engine.resolve(model).is_none() {
            return Err(AiError::no_such_model(model));
        }
        let requests = requests(inputs)?;
        let added = self.0.store.add(worker, model, requests, MAX_BATCHES).await.map_err(failed)?;
        let id = added.ok_or_else(|| AiError::capacity_exceeded(PAUSE * 60))?;
        self.work();
        Ok(id)
    }

    /// How far the batch of this id is.
    ///
    /// # Errors
    /// 5006 when the worker has queued no such batch for this model, or its results are no longer kept.
    pub async fn progress(&self, worker: &str, model: &str, id: &str) -> Result<Progress, AiError> {
        let found = self.0.store.progress(worker, model, id).await.map_err(failed)?;
        found.ok_or_else(|| {
            let id: String = id.chars().filter(|c| !c.is_control()).take(100).collect();
            AiError::bad_input(format_args!(
                "value at '/request_id' is {id:?}, and there is no such batch of this model"
            ))
        })
    }

    /// Sees to it that somebody works.
    fn work(&self) {
        self.0.more.notify_one();
        if !self.0.runs.swap(true, Ordering::SeqCst) {
            tokio::spawn(work(Arc::downgrade(&self.0)));
        }
    }
}

fn failed(error: StateError) -> AiError {
    tracing::error!(%error, "the store of batches failed");
    AiError::internal("the store of batches failed; the host's log says why")
}

/// The requests of a batch, each with its `external_reference`.
fn requests(mut inputs: Map<String, Value>) -> Result<Vec<(Option<String>, String)>, AiError> {
    let Some(Value::Array(requests)) = inputs.remove("requests") else {
        return Err(AiError::bad_input("required properties at '/' are 'requests', with the option 'queueRequest'"));
    };
    if requests.is_empty() || requests.len() > MAX_REQUESTS {
        return Err(AiError::bad_input(format_args!("value at '/requests' must hold 1 to {MAX_REQUESTS} requests")));
    }
    let read = |(at, request): (usize, Value)| {
        let invalid =
            |part: &str, fault: &str| AiError::bad_input(format_args!("value at '/requests/{at}{part}' {fault}"));
        let Value::Object(mut request) = request else { return Err(invalid("", "must be an object")) };
        let reference = match request.remove("external_reference") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text.len() <= 1024 => Some(text),
            Some(_) => return Err(invalid("/external_reference", "must be a text of at most 1024 bytes")),
        };
        if request.get("stream").and_then(Value::as_bool) == Some(true) {
            return Err(invalid("/stream", "does not go together with a batch, whose answers are kept whole"));
        }
        Ok((reference, Value::Object(request).to_string()))
    };
    requests.into_iter().enumerate().map(read).collect()
}

/// Runs requests until nobody holds the batches any more.
async fn work(inner: Weak<Inner>) {
    loop {
        let Some(this) = inner.upgrade() else { return };
        let next = match this.store.next(this.keep).await {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(%error, "batches wait for their store");
                drop(this);
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(next) = next else {
            let more = this.more.clone();
            drop(this);
            // Woken now and then, to see whether the batches are still held by anybody.
            let _ = tokio::time::timeout(PAUSE * 60, more.notified()).await;
            continue;
        };
        if !next.has_waited(LONGEST_WAIT) {
            let idle = this.engine.clone();
            drop(this);
            idle.idle().await;
            let Some(this) = inner.upgrade() else { return };
            answer(&this, next).await;
        } else {
            answer(&this, next).await;
        }
    }
}

/// Runs one request and keeps what comes of it.
async fn answer(this: &Inner, next: Next) {
    let (result, success) = match run(this, &next).await {
        Ok(result) => (result, true),
        // The process is about to end: the request is run again by the next.
        Err(error) if error.code == 3008 => {
            tokio::time::sleep(PAUSE).await;
            return;
        }
        Err(error) => (json!({ "error": { "code": error.code, "message": error.message } }), false),
    };
    if let Err(error) = this.store.answered(&next, result, success).await {
        tracing::warn!(%error, "a result of a batch is not kept, and its request is run again");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn run(this: &Inner, next: &Next) -> Result<Value, AiError> {
    let inputs: Map<String, Value> = serde_json::from_str(&next.body).map_err(AiError::internal)?;
    let mut tries = 0;
    loop {
        tries += 1;
        let request = RunRequest {
            tenant: Tenant::from(next.worker.as_str()),
            model: next.model.clone(),
            inputs: inputs.clone(),
            attachments: Vec::new(),
            options: Map::new(),
        };
        match this.engine.run_in_background(request).await.map(|response| response.output) {
            Ok(RunOutput::Json(value)) => return Ok(value),
            Ok(RunOutput::Stream { content_type, .. }) => {
                return Err(AiError::bad_input(format_args!(
                    "a batch cannot keep an answer of the type {content_type}"
                )));
            }
            Err(error) if error.code == 3040 && tries < TRIES => {
                tokio::time::sleep(error.retry_after.unwrap_or(PAUSE)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;

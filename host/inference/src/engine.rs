//! One call for every model: names become models, models are loaded once and kept while there is room.
//!
//! The engine knows names, aliases and which models are in memory. It does not know how a task's JSON looks
//! ([`crate::tasks`]), how a model computes ([`crate::backend`]) or who may use which model: grants are the bindings'
//! matter. A name in a request is hostile, so it is only ever looked up, never made into a path before it has passed
//! [`crate::store::ModelName`]; a fault or panic in one request's work is that request's error and nobody else's.

mod adapters;
mod load;
mod names;
mod residency;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, stream};
use serde_json::Value;
use tokio::sync::watch;

use crate::backend::Pooling;
use crate::catalogue::{self, Task};
use crate::device::Placement;
use crate::remote::RemoteModel;
use crate::request::{ByteStream, RunOutput, RunRequest, RunResponse};
use crate::speech::Precision;
use crate::store::{self, Store};
use crate::text::AdapterSource;
use crate::{AiError, tasks};

pub use names::ConfigFault;
use names::{Directory, Known, Source};
use residency::{Lease, Residency};

/// What an engine is made from. Everything but the directory may be left empty.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Where pulled and imported models lie; see [`store::default_directory`].
    pub models_directory: PathBuf,
    /// Models under names of the user's own, `[[ai.models]]`.
    pub models: Vec<LocalModel>,
    /// Adapters of these models, `[[ai.loras]]`.
    pub adapters: Vec<LocalAdapter>,
    /// Names that stand for other names, `[ai.aliases]`.
    pub aliases: BTreeMap<String, String>,
    /// Where to compute.
    pub device: DeviceChoice,
    /// Threads one model computes on; the machine's cores when absent.
    pub threads: Option<NonZeroUsize>,
    /// How many bytes all models may have at once, with their caches and what is computed for requests; no bound when
    /// absent.
    pub memory_bytes: Option<u64>,
    /// How many requests of one tenant may wait for one model; [`EngineConfig::QUEUE`] when absent.
    pub queue: Option<NonZeroUsize>,
}

impl EngineConfig {
    /// The default bound on requests waiting for one model.
    pub const QUEUE: NonZeroUsize = NonZeroUsize::new(256).unwrap();

    /// A configuration with the catalogue's models in `models_directory` and nothing else.
    pub fn new(models_directory: impl Into<PathBuf>) -> Self {
        Self {
            models_directory: models_directory.into(),
            models: Vec::new(),
            adapters: Vec::new(),
            aliases: BTreeMap::new(),
            device: DeviceChoice::default(),
            threads: None,
            memory_bytes: None,
            queue: None,
        }
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self::new(store::default_directory())
    }
}

/// A model of the user's own.
#[derive(Debug, Clone)]
pub struct LocalModel {
    /// The name programs use.
    pub name: String,
    /// What it does; read from its files when absent.
    pub task: Option<Task>,
    /// Where it comes from.
    pub source: LocalSource,
    /// The most tokens of context to offer; the model's own bound when absent.
    pub context: Option<NonZeroUsize>,
    /// How an encoder's token states become one vector when a request does not say.
    pub pooling: Option<Pooling>,
    /// How a model of speech computes products.
    pub precision: Option<Precision>,
    /// Whether a text model guesses what its answer repeats; see [`crate::text::LoadOptions::speculation`].
    pub speculate: bool,
}

impl LocalModel {
    /// A model with everything else as its files have it.
    pub fn new(name: impl Into<String>, source: LocalSource) -> LocalModel {
        LocalModel {
            name: name.into(),
            task: None,
            source,
            context: None,
            pooling: None,
            precision: None,
            speculate: false,
        }
    }
}

/// A LoRA adapter of the user's own.
#[derive(Debug, Clone)]
pub struct LocalAdapter {
    /// The name that requests use.
    pub name: String,
    /// A folder with `adapter_config.json` and `adapter_model.safetensors`.
    pub path: PathBuf,
    /// The models that it is for, by their names or aliases.
    pub models: Vec<String>,
}

/// Where a [`LocalModel`] comes from.
#[derive(Debug, Clone)]
pub enum LocalSource {
    /// A GGUF file, or a directory with `config.json`, `tokenizer.json` and `model.safetensors`.
    Path(PathBuf),
    /// A script for the deterministic stand-in.
    Mock(Value),
    /// Other servers.
    Remote(RemoteModel),
}

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum DeviceChoice {
    /// A GPU that this build has code for and that works, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// An Apple GPU.
    Metal,
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The configuration contradicts itself or names what is not there. Every fault is listed.
    #[error("the models cannot be set up:{}", .0.iter().map(|fault| format!("\n  {fault}")).collect::<String>())]
    Config(Vec<ConfigFault>),
}

/// What is known of a model without loading it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ModelInfo {
    /// The name programs use.
    pub name: String,
    /// What it does.
    pub task: Task,
    /// Whether it can answer.
    pub availability: Availability,
    /// Names that stand for it.
    pub aliases: Vec<String>,
    /// Tokens of context.
    pub context: Option<usize>,
    /// The length of an encoder's vectors.
    pub dimensions: Option<usize>,
    /// The licence its publisher states, an SPDX expression where there is one.
    pub licence: Option<String>,
    /// The size of its weights on disk or, before it is pulled, of what `pull` fetches.
    pub bytes: Option<u64>,
    /// The hub repository of the open weights, as information.
    pub repository: Option<String>,
    /// The revision there that the name stands for.
    pub revision: Option<String>,
    /// Parameters, rounded as its publisher does.
    pub parameters: Option<u64>,
    /// Whether the hub gives the weights only to those who have accepted terms.
    pub gated: Option<bool>,
    /// The addresses of the servers that it is on, if it is on others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<String>,
}

/// Whether a model can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Availability {
    /// In memory.
    Loaded,
    /// On this machine; it loads on first use.
    OnDisk,
    /// A script, no weights.
    Scripted,
    /// On other servers, which are not asked whether they are there.
    Remote,
    /// The catalogue can fetch it.
    Pullable,
    /// The name is known; its weights are not on this machine and the catalogue cannot fetch them.
    Absent,
}

/// What a name in a request stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The name behind all aliases.
    pub name: String,
    /// What the model does.
    pub task: Task,
}

/// The engine. Clones share everything.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    directory: Directory,
    /// The adapters of each model, by the model's own name.
    adapters: BTreeMap<String, Vec<AdapterSource>>,
    residency: Residency,
    settings: load::Settings,
    /// How many calls are under way that somebody waits for.
    calls: watch::Sender<usize>,
}

/// A call under way, counted for as long as this exists.
struct Counted(watch::Sender<usize>);

impl Counted {
    fn begin(calls: &watch::Sender<usize>) -> Self {
        calls.send_modify(|calls| *calls += 1);
        Self(calls.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|calls| *calls -= 1);
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("loaded", &self.0.residency.loaded()).finish_non_exhaustive()
    }
}

impl Engine {
    /// Checks names, aliases and paths. Loads nothing and uses no network.
    ///
    /// # Errors
    /// [`EngineError::Config`] with every fault found.
    pub fn new(config: EngineConfig) -> Result<Engine, EngineError> {
        let mut faults = Vec::new();
        let placement = load::place(config.device).unwrap_or_else(|fault| {
            faults.push(fault);
            Placement::default()
        });
        let queue = config.queue.unwrap_or(EngineConfig::QUEUE);
        let directory =
            Directory::new(config.models, config.aliases, Store::open(config.models_directory), queue, &mut faults);
        let adapters = adapters::by_model(config.adapters, &directory, &mut faults);
        if !faults.is_empty() {
            return Err(EngineError::Config(faults));
        }
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Ok(Engine(Arc::new(Inner {
            directory,
            adapters,
            residency: Residency::new(config.memory_bytes),
            settings: load::Settings {
                threads: config.threads.unwrap_or(cores),
                queue,
                memory: config.memory_bytes,
                placement,
                placement_is_chosen: config.device != DeviceChoice::Auto,
            },
            calls: watch::Sender::new(0),
        })))
    }

    /// Answers one request. The model loads first if it must.
    ///
    /// Dropping the future or the response's stream gives up the work behind it.
    ///
    /// # Errors
    /// 5007 for an unknown model, 3046 for one whose weights are not here, 3008 after [`Engine::shutdown`], and
    /// whatever the task reports.
    pub async fn run(&self, request: RunRequest) -> Result<RunResponse, AiError> {
        let call = Counted::begin(&self.0.calls);
        let mut response = self.run_in_background(request).await?;
        if let RunOutput::Stream { body, .. } = &mut response.output {
            let counted = std::mem::replace(body, Box::pin(stream::empty()));
            // Under way until its stream has ended or is dropped.
            *body = Box::pin(counted.inspect(move |_| {
                let _ = &call;
            }));
        }
        Ok(response)
    }

    /// Resolves when no call is under way but those in the background.
    pub async fn idle(&self) {
        // The sender lives as long as the engine.
        let _ = self.0.calls.subscribe().wait_for(|calls| *calls == 0).await;
    }

    /// As [`Engine::run`], for work that can wait: it does not keep the engine from being idle.
    ///
    /// # Errors
    /// As there.
    pub async fn run_in_background(&self, request: RunRequest) -> Result<RunResponse, AiError> {
        let request_id = request_id();
        let lease = self.lease(&request.model).await?;
        tracing::debug!(request_id, tenant = %request.tenant.0, model = lease.name(), "ai run");
        let model = match catalogue::hosted_as(&request.model) {
            // An alias: what the name does counts, where the model behind it can be asked for that.
            Some(hosted) => tasks::prompted::as_task(lease.model(), hosted.task),
            None => lease.model(),
        };
        let work = AssertUnwindSafe(tasks::run(model, request)).catch_unwind();
        let output = work.await.unwrap_or_else(|_| {
            tracing::error!(request_id, model = lease.name(), "a task panicked");
            Err(AiError::internal("the model's task failed unexpectedly"))
        })?;
        let output = match output {
            RunOutput::Stream { content_type, body } => {
                let body = Leased { body: Some(guard_panics(body)), lease: Some(lease) };
                RunOutput::Stream { content_type, body: Box::pin(body) }
            }
            json => json,
        };
        Ok(RunResponse { request_id, output })
    }

    /// Every model that has a name here: the user's own, the store's, the catalogue's.
    pub fn models(&self) -> Vec<ModelInfo> {
        let loaded = self.0.residency.loaded();
        let mut models = self.0.directory.list();
        for model in &mut models {
            if loaded.contains(&model.name) && model.availability != Availability::Remote {
                model.availability = Availability::Loaded;
            }
        }
        models
    }

    /// A known name that looks like `name`.
    pub fn nearest(&self, name: &str) -> Option<String> {
        self.0.directory.nearest(name)
    }

    /// What `name` stands for, aliases followed; `None` when nothing here has that name.
    pub fn resolve(&self, name: &str) -> Option<Resolved> {
        let known = self.0.directory.find(name)?;
        let task = self.0.directory.task(name, known.task);
        Some(Resolved { name: known.name, task })
    }

    /// Loads a model before its first request.
    ///
    /// # Errors
    /// As [`Engine::run`].
    pub async fn warm(&self, name: &str) -> Result<(), AiError> {
        self.lease(name).await.map(drop)
    }

    /// Refuses new requests with 3008 and lets go of every model; requests in flight end on their own.
    pub async fn shutdown(&self) {
        self.0.residency.close().await;
    }

    async fn lease(&self, name: &str) -> Result<Lease, AiError> {
        let canonical = self.0.directory.canonical(name);
        if let Some(lease) = self.0.residency.held(canonical)? {
            return Ok(lease);
        }
        let known = self.0.directory.find(name).ok_or_else(|| AiError::no_such_model(name))?;
        let plan = match known.source {
            Source::Files(files) => {
                let adapters = self.0.adapters.get(&known.name).cloned().unwrap_or_default();
                load::Plan::Files { task: known.task, files, adapters }
            }
            Source::Script(script) => load::Plan::Script { task: known.task, script },
            Source::Remote(remote) => load::Plan::Remote { task: known.task, remote },
            Source::Package(_) => {
                return Err(AiError::model_unavailable(format_args!(
                    "{0} is not on this machine yet. Fetch it with:\n  host models pull {0}",
                    known.name
                )));
            }
            Source::Hosted(hosted) => return Err(hosted_elsewhere(&known, hosted)),
        };
        let settings = self.0.settings.clone();
        let bytes = plan.bytes(&settings);
        let room = self.0.residency.room(&known.name, bytes);
        self.0.residency.acquire(&known.name, bytes, move || load::load(plan, &settings, room)).await
    }
}

/// The name is known, the weights are not here: say how to get them and, where a small model does the same, how to let it.
fn hosted_elsewhere(known: &Known, hosted: &catalogue::Hosted) -> AiError {
    if hosted.stands_in {
        let short = hosted.repository.rsplit('/').next().unwrap_or("NAME");
        return AiError::model_unavailable(format_args!(
            "the weights of {name} cannot be had or are not read here. Let another model stand in for it with\n  \
             host models pull hf:{repository} --as {short}\nand by adding to the binding file\n  \
             [ai.aliases]\n  \"{name}\" = \"{short}\"",
            name = known.name,
            repository = hosted.repository,
        ));
    }
    let (name, repository) = (&known.name, &hosted.repository);
    let small = catalogue::stand_in(known.task).map_or(String::new(), |stand_in| {
        format!(
            "Let a small model stand in for it by adding to the binding file\n  [ai.aliases]\n  \
             \"{name}\" = \"{stand_in}\"\nor else: "
        )
    });
    AiError::model_unavailable(format_args!(
        "{name} is not on this machine. {small}Fetch open weights with\n  host models pull hf:{repository} --as \
         {name}\nor import files of your own with\n  host models import {name} PATH"
    ))
}

/// A stream that keeps its model in memory until it has ended or is dropped.
struct Leased {
    body: Option<ByteStream>,
    lease: Option<Lease>,
}

impl Stream for Leased {
    type Item = Result<Bytes, AiError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let item = std::task::ready!(body.poll_next_unpin(cx));
        if item.is_none() {
            self.body = None;
            self.lease = None;
        }
        Poll::Ready(item)
    }
}

/// A panic while a stream is made ends that stream with an error.
fn guard_panics(body: ByteStream) -> ByteStream {
    Box::pin(AssertUnwindSafe(body).catch_unwind().map(|item| {
        item.unwrap_or_else(|_| {
            tracing::error!("a stream panicked");
            Err(AiError::internal("the model's stream failed unexpectedly"))
        })
    }))
}

/// A random UUID, version 4 (RFC 9562, section 5.4).
fn request_id() -> String {
    let random: u128 = rand::random();
    let bits = (random & !(0xf000 << 64) & !(0b11 << 62)) | (0x4000 << 64) | (0b10 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

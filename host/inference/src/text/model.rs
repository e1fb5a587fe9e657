//! A loaded model: where a file becomes threads, and a request becomes a job.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use host_kernels::kv::{BLOCK_TOKENS, KvStore};
use host_kernels::threads::ThreadPool;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;

use super::budget::Budget;
use super::decoder::{Decoder, DecoderError};
use super::files::ModelFiles;
use super::forward::{ForwardPass, KvCache};
use super::grammar::Grammars;
use super::kv_blocks::BlockPool;
use super::lora::{Adapter, AdapterSource, Adapters, Base};
use super::scheduler::{Limits, Place, Queue, Scheduler, Statistics, run};
use super::sequence::Job;
use super::template::{ChatTemplate, TemplateError};
use super::tensors::{TensorCache, TensorDecoder};
use super::tokenizer::{TokenizerError, Vocabulary};
use super::weights::Compute;
use crate::AiError;
use crate::backend::{CallStyle, GenerateEvent, GenerateRequest, GenerateStream, Prompt, TextGeneration};
use crate::device::Placement;

/// Bytes of KV cache that a model may have. Only what is used is taken from the system.
pub const DEFAULT_CACHE: u64 = 1 << 30;
/// Tokens that a step reads while nobody is answering.
pub(super) const PREFILL_TOKENS: usize = 512;
/// The stack of the thread that runs chat templates: their nesting is bounded, but a frame is not small.
const TEMPLATE_STACK: usize = 16 << 20;

/// How to load a model.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Threads that compute; none for what the process may use, at most 16.
    pub threads: Option<NonZeroUsize>,
    /// Upper bound on the context, in tokens; none for what the file says.
    pub context: Option<NonZeroUsize>,
    /// Generations of one tenant that may wait. More are refused with 3040.
    pub queue: usize,
    /// Generations that may run together.
    pub sequences: NonZeroUsize,
    /// Upper bound on the bytes of weights, adapters and KV cache together; none for 1 GiB of cache beside the others.
    pub memory: Option<u64>,
    /// Adapters that requests may name.
    pub adapters: Vec<AdapterSource>,
    /// Where to compute.
    pub placement: Placement,
    /// Whether what an answer says next is guessed from what came before, where that saves time. It changes no answer.
    pub speculation: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        let sequences = NonZeroUsize::new(32).unwrap_or(NonZeroUsize::MIN);
        Self {
            threads: None,
            context: None,
            queue: 256,
            sequences,
            memory: None,
            adapters: Vec::new(),
            placement: Placement::Processor,
            speculation: false,
        }
    }
}

/// Why a model is not loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file is not right.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: DecoderError,
    },
    /// The tokenizer in the file cannot be used.
    #[error("{path}: {source}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: TokenizerError,
    },
    /// The chat template in the file cannot be used.
    #[error("{path}: {source}")]
    Template {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: TemplateError,
    },
    /// The budget is too small.
    #[error(
        "{path} needs at least {needed} bytes for its weights and one block of cache, and it may have {budget} bytes"
    )]
    Memory {
        /// The file.
        path: PathBuf,
        /// The least that would do.
        needed: u64,
        /// What is allowed.
        budget: u64,
    },
    /// The device that was chosen cannot be used, or not for this model.
    #[error("{path} cannot be computed on the device: {fault}")]
    Device {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: String,
    },
    /// The system refused a thread.
    #[error("cannot start a thread for the model: {0}")]
    Thread(#[from] std::io::Error),
}

/// Loads the GGUF file, or the directory of a checkpoint, at `path`. Blocks while it reads and repacks: call it off the async workers.
///
/// # Errors
/// When a file is damaged, of a kind that is not supported, or larger than the budget.
pub fn load(path: &Path, options: LoadOptions) -> Result<Arc<dyn TextGeneration>, LoadError> {
    Ok(Arc::new(TextModel::load(path, options)?))
}

/// A loaded model. Cheap to share; its threads end when the last clone and the last stream of it are gone.
#[derive(Clone)]
pub struct TextModel {
    inner: Arc<Inner>,
}

struct Inner {
    queue: Arc<Queue>,
    vocabulary: Arc<Vocabulary>,
    pool: BlockPool,
    statistics: Arc<Statistics>,
    context: usize,
    bytes: usize,
    call_style: CallStyle,
    adapters: Arc<Adapters>,
    intake: mpsc::Sender<Intake>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Not joined: this may run on an async worker, and the thread needs a step to notice.
        self.queue.stop();
    }
}

/// A request on its way to the thread that tokenizes.
struct Intake {
    request: GenerateRequest,
    place: Place,
    reply: oneshot::Sender<Result<UnboundedReceiver<GenerateEvent>, AiError>>,
}

impl TextModel {
    /// As [`load`].
    ///
    /// # Errors
    /// As [`load`].
    pub fn load(path: &Path, options: LoadOptions) -> Result<Self, LoadError> {
        let started = Instant::now();
        let in_file = |source: DecoderError| LoadError::File { path: path.to_owned(), source };
        let files = ModelFiles::open(path).map_err(in_file)?;
        let mut description = files.describe().map_err(in_file)?;
        let vocabulary = files.vocabulary().map_err(|source| LoadError::Tokenizer { path: path.to_owned(), source })?;
        let template =
            files.template(&vocabulary).map_err(|source| LoadError::Template { path: path.to_owned(), source })?;
        description.limit_vocabulary(vocabulary.len()).map_err(in_file)?;
        // Before memory is taken for the cache.
        description.check(files.source()).map_err(in_file)?;
        let on_device = |fault: String| LoadError::Device { path: path.to_owned(), fault };
        let device = options.placement.open().map_err(on_device)?;
        let adapters = options.adapters.iter().map(|adapter| adapter.bytes).fold(0, u64::saturating_add);
        let weights = files.bytes().saturating_add(adapters);
        let budget = Budget { device: device.as_ref(), weights, allowed: options.memory };
        let blocks = budget.blocks(&description, options.sequences).map_err(|needed| LoadError::Memory {
            path: path.to_owned(),
            needed,
            budget: budget.bytes(),
        })?;
        description.limit_context(options.context.map_or(usize::MAX, NonZeroUsize::get));
        description.limit_context(blocks * BLOCK_TOKENS);
        let context = description.context;
        let adapters = Adapters::read(&options.adapters, &Base::from(&description));
        let source = files.source();
        let this = match device {
            None => {
                let threads = options.threads.unwrap_or_else(default_threads);
                let compute = Compute::new(ThreadPool::new("text-compute", threads)?);
                tracing::debug!(threads, isa = compute.isa.name(), "the model computes with kernels");
                let cache = KvStore::new(description.kv_shape(), blocks);
                let model = Decoder::read(description, source, compute).map_err(in_file)?;
                let bytes = model.bytes();
                drop(files);
                Self::start(model, cache, vocabulary, template, adapters, context, bytes, &options)?
            }
            Some(_) if !options.adapters.is_empty() => {
                let fault = "LoRA adapters are applied on the processor only; set [ai] device = \"cpu\"".to_owned();
                return Err(on_device(fault));
            }
            Some(device) => {
                let model = TensorDecoder::read(description.clone(), source, &device).map_err(in_file)?;
                let bytes = model.bytes();
                drop(files);
                let cache = TensorCache::new(&description, blocks, &device);
                let cache = cache.map_err(|error| on_device(error.to_string()))?;
                Self::start(model, cache, vocabulary, template, adapters, context, bytes, &options)?
            }
        };
        let (path, bytes, placement) = (path.display(), this.weight_bytes(), options.placement);
        let seconds = started.elapsed().as_secs_f64();
        tracing::info!(%path, bytes, context, blocks, ?placement, seconds, "text model loaded");
        Ok(this)
    }

    /// Starts the threads of `model`.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn start<M: ForwardPass>(
        model: M,
        cache: M::Cache,
        vocabulary: Vocabulary,
        template: Option<ChatTemplate>,
        adapters: Adapters,
        context: usize,
        bytes: usize,
        options: &LoadOptions,
    ) -> Result<Self, LoadError> {
        let queue = Arc::new(Queue::new(options.queue));
        let vocabulary = Arc::new(vocabulary);
        let adapters = Arc::new(adapters);
        let pool = BlockPool::new(u32::try_from(cache.blocks()).unwrap_or(u32::MAX));
        let (intake, requests) = mpsc::channel();
        let size = |tokens: usize| NonZeroUsize::new(tokens).unwrap_or(NonZeroUsize::MIN);
        let (sequences, speculation) = (options.sequences, options.speculation);
        let limits = Limits { sequences, prefill: size(PREFILL_TOKENS), mixed: size(128), speculation };
        let scheduler = Scheduler::new(model, cache, pool.clone(), vocabulary.clone(), limits);
        let statistics = scheduler.statistics();
        let jobs = queue.clone();
        std::thread::Builder::new().name("text-model".into()).spawn(move || run(&jobs, scheduler))?;
        let call_style = template.as_ref().map_or(CallStyle::Hermes, ChatTemplate::call_style);
        let inner = Arc::new(Inner {
            queue: queue.clone(),
            vocabulary: vocabulary.clone(),
            pool,
            statistics,
            context,
            bytes,
            call_style,
            adapters: adapters.clone(),
            intake,
        });
        let grammars = Grammars::new(vocabulary.clone());
        let prepare = Prepare { queue, vocabulary, template, grammars, adapters, context };
        let intake_thread = std::thread::Builder::new().name("text-prompts".into()).stack_size(TEMPLATE_STACK);
        // Without this thread `inner` is dropped here, which stops the other one.
        intake_thread.spawn(move || prepare.run(&requests))?;
        Ok(Self { inner })
    }

    /// Tokens that prompt and answer may have together.
    pub fn context(&self) -> usize {
        self.inner.context
    }

    /// Bytes of the weights.
    pub fn weight_bytes(&self) -> usize {
        self.inner.bytes
    }

    /// Blocks of the cache that no sequence holds, and how many there are.
    pub fn free_blocks(&self) -> (usize, usize) {
        (self.inner.pool.available(), self.inner.pool.total())
    }

    /// What the scheduler has done so far.
    pub fn statistics(&self) -> &Statistics {
        &self.inner.statistics
    }

    /// The model's tokenizer.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.inner.vocabulary
    }
}

/// How many threads to use when nobody says: what this process may use, at most 16.
fn default_threads() -> NonZeroUsize {
    let available = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    available.min(NonZeroUsize::new(16).unwrap_or(available))
}

/// What turns requests into jobs.
struct Prepare {
    queue: Arc<Queue>,
    vocabulary: Arc<Vocabulary>,
    template: Option<ChatTemplate>,
    grammars: Grammars,
    adapters: Arc<Adapters>,
    context: usize,
}

impl Prepare {
    fn run(&self, requests: &mpsc::Receiver<Intake>) {
        while let Ok(Intake { request, place, reply }) = requests.recv() {
            if reply.is_closed() {
                continue;
            }
            let job = catch_unwind(AssertUnwindSafe(|| self.job(request)));
            let answer = match job {
                Ok(Ok((job, events))) => {
                    self.queue.push(job, place);
                    Ok(events)
                }
                Ok(Err(error)) => Err(error),
                Err(_) => Err(AiError::internal("reading the prompt panicked; the log has the place")),
            };
            // The caller may have gone; the job is then forgotten at the next step.
            let _ = reply.send(answer);
        }
    }

    fn job(&self, request: GenerateRequest) -> Result<(Job, UnboundedReceiver<GenerateEvent>), AiError> {
        let GenerateRequest { tenant, prompt, lora, tools, sampling, format, stop, max_tokens, deadline } = request;
        let adapter = lora.map(|name| self.adapter(&name)).transpose()?;
        let (text, rendered) = match prompt {
            Prompt::Raw(text) => (text, false),
            Prompt::Messages(messages) => {
                let Some(template) = &self.template else {
                    return Err(AiError::bad_input("this model has no chat template: send 'prompt' with 'raw': true"));
                };
                let messages = self.vocabulary.marks().cut(messages);
                let text = template.render_with_tools(messages, &tools);
                (text.map_err(|error| AiError::bad_input(format!("at '/messages': {error}")))?, true)
            }
        };
        // Known before any of it is read, which bounds the work that a prompt can ask for.
        self.check(self.vocabulary.fewest_tokens(text.len()), max_tokens)?;
        let tokens = if rendered { self.vocabulary.encode_rendered(&text) } else { self.vocabulary.encode(&text) };
        let prompt = tokens.map_err(|error| AiError::bad_input(format!("at '/prompt': {error}")))?;
        if prompt.is_empty() {
            return Err(AiError::bad_input("at '/prompt': the prompt is empty"));
        }
        self.check(prompt.len(), max_tokens)?;
        let property = if tools.is_empty() { "/response_format" } else { "/tools" };
        let grammar = format.map(|format| self.grammars.start(&format, property)).transpose()?;
        let (events, receiver) = unbounded_channel();
        let salt = adapter.as_ref().map_or(0, |adapter| adapter.id());
        let job = Job { tenant, salt, prompt, sampling, stop, grammar, adapter, max_tokens, deadline, events };
        Ok((job, receiver))
    }

    fn adapter(&self, name: &str) -> Result<Arc<Adapter>, AiError> {
        match self.adapters.get(name) {
            Some(Ok(adapter)) => Ok(adapter),
            Some(Err(error)) => Err(AiError::model_unavailable(format_args!("the adapter {name}: {error}"))),
            None => Err(AiError::bad_input("at '/lora': the model has no such adapter")),
        }
    }

    fn check(&self, prompt: usize, max_tokens: usize) -> Result<(), AiError> {
        let tokens = prompt.saturating_add(max_tokens);
        if tokens > self.context { Err(AiError::context_exceeded(tokens, self.context)) } else { Ok(()) }
    }
}

fn gone() -> AiError {
    AiError::internal("the model's threads have ended")
}

type Answer = oneshot::Receiver<Result<UnboundedReceiver<GenerateEvent>, AiError>>;

impl TextModel {
    fn submit(&self, request: GenerateRequest) -> Result<Answer, AiError> {
        let place = self.inner.queue.place(&request.tenant)?;
        let (reply, answer) = oneshot::channel();
        self.inner.intake.send(Intake { request, place, reply }).map_err(|_| gone())?;
        Ok(answer)
    }
}

impl TextGeneration for TextModel {
    fn adapters(&self) -> Option<Vec<String>> {
        Some(self.inner.adapters.names().map(String::from).collect())
    }

    fn call_style(&self) -> CallStyle {
        self.inner.call_style
    }

    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<GenerateStream, AiError>> {
        let submitted = self.submit(request);
        let model = self.clone();
        async move {
            let events = submitted?.await.map_err(|_| gone())??;
            Ok(events_of(model, events))
        }
        .boxed()
    }
}

/// The events as a stream, which keeps the model alive. If its thread died, the stream says so.
fn events_of(model: TextModel, events: UnboundedReceiver<GenerateEvent>) -> GenerateStream {
    stream::unfold(Some((model, events)), |state| async move {
        let (model, mut events) = state?;
        match events.recv().await {
            Some(event @ GenerateEvent::Text(_)) => Some((event, Some((model, events)))),
            Some(end) => Some((end, None)),
            None => Some((GenerateEvent::Failed(gone()), None)),
        }
    })
    .boxed()
}

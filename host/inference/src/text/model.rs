//! A loaded model: its threads, and the way in.

use std::num::NonZeroUsize;
use std::sync::{Arc, mpsc};

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use super::forward::{ForwardPass, KvCache};
use super::grammar::Grammars;
use super::kv_blocks::BlockPool;
use super::load::{LoadError, LoadOptions};
use super::lora::Adapters;
use super::prompts::{Intake, Prepare};
use super::scheduler::{Limits, Queue, Scheduler, Statistics, run};
use super::template::ChatTemplate;
use super::tokenizer::Vocabulary;
use crate::AiError;
use crate::backend::{CallStyle, GenerateEvent, GenerateRequest, GenerateStream, TextGeneration};

/// The stack of the thread that runs chat templates: their nesting is bounded, but a frame is not small.
const TEMPLATE_STACK: usize = 16 << 20;

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

impl TextModel {
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
        let limits = Limits { sequences, prefill: size(M::PREFILL), mixed: size(128), speculation };
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

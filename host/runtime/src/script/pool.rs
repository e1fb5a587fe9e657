//! The instances of one script: which handles what, and how long each lives.
//!
//! A request waits for an instance when all are busy, never longer than its own time; the worker's permits bound how many
//! wait. The instance that was used last is used first, so that a quiet worker needs few. One is replaced after a number
//! of requests or when its memory has grown, between two requests, which therefore notice nothing but a cold global.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::sync::{Semaphore, oneshot};
use wasmtime_wasi_http::{Error as HttpError, WasiBody};

use super::exchange::Answer;
use super::imports;
use super::imports::generated::WorkerPre;
use super::instance::{Call, Image, Instance};
use super::{Script, ScriptEngine, StartFault};
use crate::control::RequestContext;
use crate::link::{IDLE, Instances, LAST_IDLE, LinkError, REUSE, WorkerConfig, p2_linker};
use crate::{EventFault, Extension, Failure};

/// Instances of one worker at once. Each may hold tens of megabytes; more requests than this wait.
const INSTANCES: usize = 64;
/// Bytes of memory from which on an instance is not used again, unless its limit is lower.
const MEMORY_BUDGET: usize = 64 << 20;
/// Bodies up to this length are handed over whole.
const WHOLE_BODY: u64 = 256 << 10;

/// The instances of one script.
pub(crate) struct Pool<X: Extension>(Arc<Shared<X>>);

struct Shared<X: Extension> {
    image: Image<X>,
    reuse: bool,
    memory_budget: usize,
    instances: Semaphore,
    idle: Mutex<Waiting<X>>,
}

struct Waiting<X: Extension> {
    /// The longest waiting first.
    instances: Vec<Idle<X>>,
    /// Whether a task looks after them. Under load none may wait at one moment and one the next: a task each time would
    /// pile them up.
    tended: bool,
}

struct Idle<X: Extension> {
    instance: Instance<X>,
    since: Instant,
}

impl<X: Extension> Pool<X> {
    /// Links the engine. Nothing of the script runs yet.
    pub(crate) fn new(engine: &ScriptEngine, script: Script, config: &WorkerConfig<X>) -> Result<Self, LinkError> {
        let mut linker = p2_linker::<X>(engine.runtime()).map_err(LinkError::Host)?;
        imports::link(&mut linker).map_err(LinkError::Host)?;
        let pre = linker.instantiate_pre(engine.component()).and_then(WorkerPre::new).map_err(LinkError::Imports)?;
        Ok(Self(Arc::new(Shared {
            image: Image {
                runtime: engine.runtime().clone(),
                pre,
                worker: config.name.clone(),
                limits: config.limits.clone(),
                extension: config.extension.clone(),
                script,
            },
            reuse: config.instances != Some(Instances::Fresh),
            memory_budget: MEMORY_BUDGET.min(config.limits.memory_bytes / 2),
            instances: Semaphore::new(INSTANCES),
            idle: Mutex::new(Waiting { instances: Vec::new(), tended: false }),
        })))
    }

    /// Starts an instance and keeps it for the first request.
    pub(crate) async fn warm(&self, context: &Arc<RequestContext>) -> Result<(), StartFault> {
        let started = bounded(context, self.0.image.limits.wall, Instance::start(&self.0.image, context)).await;
        let instance = started.unwrap_or_else(|failure| Err(StartFault::Limit(failure)))?;
        self.0.clone().keep(instance);
        Ok(())
    }

    /// Handles what is no request, and gives its answer.
    pub(crate) async fn event(
        &self,
        context: &Arc<RequestContext>,
        kind: &str,
        payload: &[u8],
    ) -> Result<Vec<u8>, EventFault> {
        let shared = &self.0;
        let work = async {
            let Ok(_permit) = shared.instances.acquire().await else { return Err(EventFault::Failed(Failure::Busy)) };
            let mut instance = shared.instance(context).await?;
            let handled = instance.handle_event(context, kind, payload).await.map_err(|error| {
                let failure = context.explain_trap();
                tracing::warn!(worker = context.worker(), request = context.id(), "{failure}: {error:#}");
                EventFault::Failed(failure)
            })?;
            shared.clone().handled(context, instance);
            handled.map_err(EventFault::Threw)
        };
        bounded(context, context.wall(shared.image.limits.wall), work).await.map_err(EventFault::Failed)?
    }

    /// The script's answer, or why there is none. `None`: it threw, and can handle the next request all the same.
    pub(crate) async fn answer(
        &self,
        context: &Arc<RequestContext>,
        request: http::Request<WasiBody>,
    ) -> Result<Option<http::Response<WasiBody>>, Failure> {
        let (sender, answer) = oneshot::channel();
        let bodiless = request.method() == http::Method::HEAD;
        tokio::spawn(self.0.clone().drive(context.clone(), request, sender));
        match answer.await {
            Ok(Answer::Response(response)) if bodiless => Ok(Some(response)),
            Ok(Answer::Response(response)) => Ok(Some(framed(response))),
            Ok(Answer::Threw) => match context.explain_trap() {
                Failure::Exception => Ok(None),
                // It threw because it was refused something.
                failure => Err(failure),
            },
            Err(_) => Err(context.explain_trap()),
        }
    }
}

impl<X: Extension> Shared<X> {
    /// Handles a request in a task of its own: the guest may go on after the answer, and dropping the task's future drops
    /// the instance with everything that it has under way.
    async fn drive(
        self: Arc<Self>,
        context: Arc<RequestContext>,
        request: http::Request<WasiBody>,
        answer: oneshot::Sender<Answer>,
    ) {
        let wall = self.image.limits.wall;
        let ended = bounded(&context, wall, self.clone().handle(&context, request, answer)).await;
        let (worker, request) = (context.worker(), context.id());
        match ended {
            Ok(Ok(())) | Err(Failure::ClientGone | Failure::ShuttingDown) => {}
            Err(failure) => tracing::warn!(worker, request, "{failure}"),
            Ok(Err(StartFault::Engine(error))) => {
                let failure = context.explain_trap();
                tracing::warn!(worker, request, "{failure}: {error:#}");
                context.fail(failure);
            }
            Ok(Err(fault)) => tracing::error!(worker, request, "{fault}"),
        }
    }

    async fn handle(
        self: Arc<Self>,
        context: &Arc<RequestContext>,
        request: http::Request<WasiBody>,
        answer: oneshot::Sender<Answer>,
    ) -> Result<(), StartFault> {
        // A body that is slow to arrive keeps no instance waiting.
        let Ok(call) = call(request).await else {
            // The client is gone, or what it sent broke a limit, which has been said where it was seen.
            context.fail(Failure::ClientGone);
            return Ok(());
        };
        let Ok(_permit) = self.instances.acquire().await else { return Ok(()) };
        let mut instance = self.instance(context).await?;
        instance.handle(context, call, answer).await.map_err(StartFault::Engine)?;
        self.clone().handled(context, instance);
        Ok(())
    }

    /// The idle instance that was used last, or a new one.
    async fn instance(&self, context: &Arc<RequestContext>) -> Result<Instance<X>, StartFault> {
        let idle = self.lock().instances.pop();
        match idle {
            Some(idle) => Ok(idle.instance),
            None => Instance::start(&self.image, context).await.inspect_err(|fault| {
                if matches!(fault, StartFault::Engine(error) if error.is::<wasmtime::PoolConcurrencyLimitError>()) {
                    context.fail(Failure::Busy);
                }
            }),
        }
    }

    fn handled(self: Arc<Self>, context: &RequestContext, instance: Instance<X>) {
        tracing::debug!(
            worker = context.worker(),
            request = context.id(),
            cpu_ms = instance.cpu().as_millis() as u64,
            memory_kb = instance.memory() >> 10,
            "request handled"
        );
        if context.failure().is_none() {
            self.keep(instance);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<X>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets an instance wait for its next request, if it may have one.
    fn keep(self: Arc<Self>, instance: Instance<X>) {
        if !self.reuse && instance.handled() > 0
            || instance.handled() >= REUSE
            || instance.memory() > self.memory_budget
        {
            return;
        }
        let mut waiting = self.lock();
        waiting.instances.push(Idle { instance, since: Instant::now() });
        if !std::mem::replace(&mut waiting.tended, true) {
            tokio::spawn(retire(Arc::downgrade(&self)));
        }
    }
}

/// Ends instances that have waited long, until none waits. The longest waiting are first in line, so the last one left
/// is the one that was used last; it stays longer, with what the script keeps in its globals.
async fn retire<X: Extension>(pool: Weak<Shared<X>>) {
    loop {
        tokio::time::sleep(IDLE).await;
        let Some(pool) = pool.upgrade() else { return };
        let retired: Vec<_> = {
            let mut waiting = pool.lock();
            let idle = &mut waiting.instances;
            if idle.is_empty() {
                waiting.tended = false;
                return;
            }
            let old = idle.iter().take_while(|idle| idle.since.elapsed() >= IDLE).count();
            let all = old == idle.len();
            let stay = all && idle.last().is_some_and(|last| last.since.elapsed() < LAST_IDLE);
            idle.drain(..old - usize::from(stay)).collect()
        };
        drop(retired);
    }
}

/// Leaves the length to the body where it knows its own: what a script says may be that of another, and a head that
/// contradicts its body is no answer.
fn framed(mut response: http::Response<WasiBody>) -> http::Response<WasiBody> {
    if response.body().size_hint().exact().is_some() {
        response.headers_mut().remove(http::header::CONTENT_LENGTH);
    }
    response
}

/// Runs `work` until it ends, the request has failed, or its time is up.
async fn bounded<T>(context: &RequestContext, wall: Duration, work: impl Future<Output = T>) -> Result<T, Failure> {
    let mut work = pin!(work);
    let mut deadline = pin!(tokio::time::sleep_until((context.started() + wall).into()));
    std::future::poll_fn(|cx| {
        context.register(cx.waker());
        if let Some(failure) = context.failure() {
            return Poll::Ready(Err(failure));
        }
        if let Poll::Ready(done) = work.poll_unpin(cx) {
            return Poll::Ready(Ok(done));
        }
        std::task::ready!(deadline.poll_unpin(cx));
        let failure = Failure::WallExceeded { limit: wall };
        context.fail(failure.clone());
        Poll::Ready(Err(failure))
    })
    .await
}

/// What the engine is called with. A short body is read here.
///
/// # Errors
/// When that body breaks off: half of it would look like the whole.
async fn call(request: http::Request<WasiBody>) -> Result<Call, HttpError> {
    let (head, body) = request.into_parts();
    let mut headers = String::new();
    for (name, value) in &head.headers {
        headers.push_str(name.as_str());
        headers.push('\0');
        headers.extend(value.as_bytes().iter().map(|byte| char::from(*byte)));
        headers.push('\n');
    }
    let mut call = Call {
        method: head.method.as_str().to_owned(),
        url: head.uri.to_string(),
        headers,
        body: None,
        incoming: None,
    };
    if body.is_end_stream() || matches!(head.method, http::Method::GET | http::Method::HEAD) {
        return Ok(call);
    }
    if body.size_hint().upper().is_some_and(|length| length <= WHOLE_BODY) {
        call.body = Some(body.collect().await?.to_bytes());
    } else {
        call.incoming = Some(body);
    }
    Ok(call)
}

//! One worker: a linked component, its limits and its instances.
//!
//! Requests go through `ProxyHandler`, which runs each instance in a task of its own. It bounds nothing, so everything
//! that bounds is here: the permit that a request holds until its answer has ended, the deadline that drops an instance
//! from outside even while its guest spins, and the rule that an instance has at most one unfinished request, so that
//! what it uses can be charged to that request and what ends the request may end the instance.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt as _;
use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;
use tokio::time::Sleep;
use wasmtime::component::{GuestTaskId, Linker};
use wasmtime::{Store, StoreContextMut};
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, InstantiationError, ProxyHandler, ProxyPre, ShouldAccept, WorkerExpiration, WorkerState,
    WorkerStatus,
};
use wasmtime_wasi_http::{WasiBody, WasiHttpView};

use crate::body::{RequestBody, ResponseBody};
use crate::control::{RequestContext, RequestIds, Slot};
use crate::limits::{CpuMeter, meter_cpu};
use crate::{Compiled, Extension, Failure, Flavour, Limits, Runtime, State};

/// Requests that an instance answers before it is replaced.
const REUSE: usize = 1000;
/// How long an instance waits for another request, when there were more of them than one.
const IDLE: Duration = Duration::from_secs(1);
/// How long a worker's last instance waits for another request, with what it keeps in its globals.
const LAST_IDLE: Duration = Duration::from_secs(60);

/// Why a component cannot become a worker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// It imports what this host does not have, or has with other types.
    #[error("the component's imports cannot be satisfied: {0:#}")]
    Imports(wasmtime::Error),
    /// The runtime's own interfaces clash.
    #[error("cannot set up the host's interfaces: {0:#}")]
    Host(wasmtime::Error),
}

/// What makes a worker out of a component.
pub struct WorkerConfig<X> {
    /// Its name, for logs.
    pub name: String,
    /// What it may use.
    pub limits: Limits,
    /// What it was granted.
    pub extension: X,
    /// How long its instances live; none for what its flavour is made for.
    pub instances: Option<Instances>,
}

/// How long an instance lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instances {
    /// One request.
    Fresh,
    /// Many requests, one after the other.
    Reuse,
}

/// A worker that answers requests. Cheap to clone.
pub struct Worker<X: Extension>(Arc<Inner<X>>);

impl<X: Extension> Clone for Worker<X> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<X: Extension> {
    name: Arc<str>,
    limits: Limits,
    permits: Arc<Semaphore>,
    handler: ProxyHandler<Handler<X>>,
    ids: RequestIds,
}

impl<X: Extension> Worker<X> {
    /// Links a component. Nothing of it runs yet.
    pub fn new(runtime: &Runtime, compiled: &Compiled, config: WorkerConfig<X>) -> Result<Self, LinkError> {
        let linker = linker::<X>(runtime).map_err(LinkError::Host)?;
        let instance = linker.instantiate_pre(&compiled.component).map_err(LinkError::Imports)?;
        let pre = match compiled.flavour() {
            Flavour::P2 => wasmtime_wasi_http::p2::bindings::ProxyPre::new(instance).map(ProxyPre::P2),
            Flavour::P3 => wasmtime_wasi_http::p3::bindings::ServicePre::new(instance).map(ProxyPre::P3),
        }
        .map_err(LinkError::Imports)?;
        let name: Arc<str> = config.name.into();
        let handler = ProxyHandler::new(Handler {
            runtime: runtime.clone(),
            worker: name.clone(),
            limits: config.limits.clone(),
            extension: config.extension,
            // A WASI 0.2 component may rely on answering once; one of WASI 0.3 is made for many requests.
            reuse: match (config.instances, compiled.flavour()) {
                (Some(Instances::Fresh), _) | (None, Flavour::P2) => 1,
                (Some(Instances::Reuse), _) | (None, Flavour::P3) => REUSE,
            },
            last: Arc::default(),
            pre,
        });
        Ok(Self(Arc::new(Inner {
            permits: Arc::new(Semaphore::new(config.limits.concurrency.min(Semaphore::MAX_PERMITS))),
            name,
            limits: config.limits,
            handler,
            ids: RequestIds::new(),
        })))
    }

    /// The worker's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Requests under way, those whose body is still being read included.
    pub fn in_flight(&self) -> usize {
        self.0.limits.concurrency.saturating_sub(self.0.permits.available_permits())
    }

    /// Takes a request's identity; the id goes into every log line and into the answer.
    pub fn admit(&self) -> Arc<RequestContext> {
        RequestContext::new(self.0.ids.next(), self.0.name.clone())
    }

    /// Answers one request. Dropping the future or the answer's body ends the request.
    pub async fn handle<B>(
        &self,
        context: &Arc<RequestContext>,
        request: http::Request<B>,
    ) -> Result<http::Response<ResponseBody>, Failure>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let limits = &self.0.limits;
        let permit = self.0.permits.clone().try_acquire_owned().map_err(|_| Failure::Busy)?;
        if request.body().size_hint().lower() > limits.request_bytes {
            return Err(Failure::RequestTooLarge { limit: limits.request_bytes });
        }
        context.hold(permit);
        let unread = request.method() == http::Method::HEAD;
        let multiplexed = request.version() == http::Version::HTTP_2;
        let request = request.map(|body| wrap(body, limits.request_bytes, context));
        let mut guard = CancelOnDrop(Some(context));
        let answer = self.0.handler.handle(context.clone(), request).await;
        guard.0 = None;
        let response = answer.map_err(|error| {
            let failure = self.explain(context, error);
            context.fail(failure.clone());
            failure
        })?;
        if let Some(failure) = context.failure() {
            // A guest that was told of a broken limit may still have had the time to say something.
            tracing::warn!(worker = context.worker(), request = context.id(), "{failure}");
            return Err(failure);
        }
        let length = response.headers().get(http::header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let response =
            response.map(|body| ResponseBody::new(body, length, limits.response_bytes, unread, context.clone()));
        if multiplexed && !context.is_finished() {
            // A peer may leave one stream of a lively connection unread, where no timeout of the connection sees it and
            // the guest may have ended long ago.
            let failure = Failure::WallExceeded { limit: limits.wall };
            tokio::spawn(context.clone().watch(context.started() + limits.wall, failure));
        }
        Ok(response)
    }

    /// What became of a request without an answer. The guest's side is logged; the caller learns only which limit.
    fn explain(&self, context: &RequestContext, error: wasmtime::Error) -> Failure {
        if let Some(failed) = error.downcast_ref::<InstantiationError<Arc<RequestContext>>>() {
            if failed.error.is::<wasmtime::PoolConcurrencyLimitError>() {
                return Failure::Busy;
            }
            tracing::error!(worker = context.worker(), request = context.id(), "cannot start: {:#}", failed.error);
            let late = failed.error.is::<StartTimeout>().then_some(Failure::WallExceeded { limit: self.0.limits.wall });
            return context.failure().or(late).unwrap_or(Failure::Exception);
        }
        let failure = context.explain_trap();
        tracing::warn!(worker = context.worker(), request = context.id(), "{failure}: {error:#}");
        failure
    }
}

/// The start function of a component has not come to its end.
#[derive(Debug, thiserror::Error)]
#[error("not started within {0:?}")]
struct StartTimeout(Duration);

/// Ends the request when its connection gives up waiting for the head of the answer.
struct CancelOnDrop<'a>(Option<&'a Arc<RequestContext>>);

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(context) = self.0 {
            context.fail(Failure::ClientGone);
        }
    }
}

fn wrap<B>(body: B, limit: u64, context: &Arc<RequestContext>) -> WasiBody
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display,
{
    if body.is_end_stream() {
        return http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
    }
    RequestBody::new(body, limit, context.clone()).boxed_unsync()
}

/// Everything that any worker may import; what is not granted is refused before this point or when called.
fn linker<X: Extension>(runtime: &Runtime) -> wasmtime::Result<Linker<State<X>>> {
    let mut linker = Linker::new(runtime.engine());
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    X::link(&mut linker)?;
    Ok(linker)
}

struct Handler<X: Extension> {
    runtime: Runtime,
    pre: ProxyPre<State<X>>,
    worker: Arc<str>,
    limits: Limits,
    extension: X,
    reuse: usize,
    /// Whether an idle instance is the one that stays longer.
    last: Arc<AtomicBool>,
}

impl<X: Extension> HandlerState for Handler<X> {
    type StoreData = State<X>;
    type WorkerExpiration = Expiration;
    type WorkerState = InstanceState<X>;

    async fn instantiate(&self) -> wasmtime::Result<Instance<State<X>, Expiration, InstanceState<X>>> {
        let slot = Arc::new(Slot::default());
        let state = State::new(&self.worker, &self.limits, slot.clone(), self.extension.clone());
        let mut store = Store::new(self.runtime.engine(), state);
        store.limiter(|state| &mut state.memory);
        let meter = meter_cpu(&mut store, self.limits.cpu, slot.clone());
        let proxy = tokio::time::timeout(self.limits.wall, self.pre.instantiate_async(&mut store))
            .await
            .map_err(|_| StartTimeout(self.limits.wall))??;
        Ok(Instance {
            store,
            proxy,
            view: <State<X> as WasiHttpView>::http,
            expiration: Expiration {
                slot: slot.clone(),
                wall: self.limits.wall,
                timer: None,
                last: LastIdle { taken: self.last.clone(), ours: false },
            },
            state: InstanceState {
                slot,
                meter,
                reuse: self.reuse,
                memory_bytes: self.limits.memory_bytes,
                _extension: std::marker::PhantomData,
            },
        })
    }
}

/// One instance's rules.
struct InstanceState<X> {
    slot: Arc<Slot>,
    meter: Arc<CpuMeter>,
    reuse: usize,
    memory_bytes: usize,
    _extension: std::marker::PhantomData<fn() -> X>,
}

impl<X: Extension> WorkerState for InstanceState<X> {
    type StoreData = State<X>;
    type RequestData = Arc<RequestContext>;

    fn should_accept_request(&self, concurrent: usize, total: usize) -> ShouldAccept {
        let seen = self.slot.look(|request| (request.has_failed(), request.is_finished()));
        match seen {
            _ if total >= self.reuse => ShouldAccept::Never,
            Some((true, _)) => ShouldAccept::Never,
            // The head of an answer may be out while its body is still being written.
            Some((false, false)) => ShouldAccept::No,
            _ if concurrent > 0 => ShouldAccept::No,
            _ => ShouldAccept::Yes,
        }
    }

    fn on_request_start(
        &self,
        _: StoreContextMut<'_, State<X>>,
        request: Arc<RequestContext>,
        _: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
        self.meter.reset();
        self.slot.set(request);
        // `Expiration` bounds the request; it is polled even while the guest spins.
        Box::pin(std::future::pending())
    }

    fn drop(&self, store: Store<State<X>>, result: wasmtime::Result<()>) {
        let Some(request) = self.slot.get() else { return };
        tracing::debug!(
            worker = request.worker(),
            request = request.id(),
            cpu_ms = self.meter.used().as_millis() as u64,
            memory_kb = store.data().memory.used() >> 10,
            memory_limit_kb = self.memory_bytes >> 10,
            "instance ended"
        );
        let Err(error) = result else { return };
        let failure = request.failure();
        if failure.is_none() {
            // Said before the store goes, whose end the reader of a body could take for the body's.
            request.fail(request.explain_trap());
        }
        match failure {
            // The client went away or the body limit ended it: said where it happened, and no fault of the guest.
            Some(Failure::ClientGone | Failure::ShuttingDown) => {}
            Some(failure) => tracing::warn!(worker = request.worker(), request = request.id(), "{failure}"),
            None => tracing::warn!(worker = request.worker(), request = request.id(), "{error:?}"),
        }
    }
}

/// Says when an instance must go, whatever its guest is doing.
struct Expiration {
    slot: Arc<Slot>,
    wall: Duration,
    timer: Option<(Instant, Pin<Box<Sleep>>)>,
    last: LastIdle,
}

/// One idle instance of each worker may stay longer than the others, so that what it keeps outlives a pause while a burst
/// of requests leaves no crowd of idle instances behind.
struct LastIdle {
    taken: Arc<AtomicBool>,
    ours: bool,
}

impl LastIdle {
    /// Whether this idle instance is the one.
    fn claim(&mut self) -> bool {
        self.ours = self.ours || !self.taken.swap(true, Ordering::Relaxed);
        self.ours
    }

    fn give_up(&mut self) {
        if std::mem::take(&mut self.ours) {
            self.taken.store(false, Ordering::Relaxed);
        }
    }
}

impl Drop for LastIdle {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl Expiration {
    fn poll_deadline(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        match &mut self.timer {
            Some((until, timer)) => {
                if *until != deadline {
                    *until = deadline;
                    timer.as_mut().reset(deadline.into());
                }
                timer.poll_unpin(cx)
            }
            None => {
                let timer = self.timer.insert((deadline, Box::pin(tokio::time::sleep_until(deadline.into()))));
                timer.1.poll_unpin(cx)
            }
        }
    }
}

impl WorkerExpiration for Expiration {
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>, status: WorkerStatus, since: Instant) -> Poll<()> {
        let seen = self.slot.look(|request| {
            request.register(cx.waker());
            (request.has_failed(), request.is_finished(), request.started())
        });
        let Some((failed, finished, started)) = seen else {
            let deadline = since + self.wall;
            return self.poll_deadline(cx, deadline);
        };
        if failed {
            return Poll::Ready(());
        }
        if status == WorkerStatus::Idle && finished {
            let idle = if self.last.claim() { LAST_IDLE } else { IDLE };
            return self.poll_deadline(cx, since + idle);
        }
        self.last.give_up();
        let wall = self.wall;
        std::task::ready!(self.poll_deadline(cx, started + wall));
        self.slot.fail(Failure::WallExceeded { limit: wall });
        Poll::Ready(())
    }
}

//! The instances of a worker that is a component serving wasi:http.
//!
//! Requests go through `ProxyHandler`, which runs each instance in a task of its own. It bounds nothing, so what bounds
//! an instance is here: the deadline that drops it from outside even while its guest spins, and the rule that it has at
//! most one unfinished request, so that what it uses can be charged to that request and what ends the request may end it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use tokio::time::Sleep;
use wasmtime::component::GuestTaskId;
use wasmtime::{Store, StoreContextMut};
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, InstantiationError, ProxyHandler, ProxyPre, ShouldAccept, WorkerExpiration, WorkerState,
    WorkerStatus,
};
use wasmtime_wasi_http::{WasiBody, WasiHttpView};

use crate::control::{RequestContext, Slot};
use crate::limits::{CpuMeter, meter_cpu};
use crate::link::{IDLE, Instances, LAST_IDLE, LinkError, REUSE, StartTimeout, WorkerConfig, linker};
use crate::{Compiled, Extension, Failure, Flavour, Limits, Runtime, State};

/// The instances of one worker.
pub(crate) struct Proxy<X: Extension> {
    handler: ProxyHandler<Handler<X>>,
    wall: Duration,
}

impl<X: Extension> Proxy<X> {
    /// Links a component. Nothing of it runs yet.
    pub(crate) fn new(runtime: &Runtime, compiled: &Compiled, config: &WorkerConfig<X>) -> Result<Self, LinkError> {
        let linker = linker::<X>(runtime).map_err(LinkError::Host)?;
        let instance = linker.instantiate_pre(&compiled.component).map_err(LinkError::Imports)?;
        let pre = match compiled.flavour() {
            Flavour::P2 => wasmtime_wasi_http::p2::bindings::ProxyPre::new(instance).map(ProxyPre::P2),
            Flavour::P3 => wasmtime_wasi_http::p3::bindings::ServicePre::new(instance).map(ProxyPre::P3),
        }
        .map_err(LinkError::Imports)?;
        let handler = ProxyHandler::new(Handler {
            runtime: runtime.clone(),
            worker: config.name.clone(),
            limits: config.limits.clone(),
            extension: config.extension.clone(),
            // A WASI 0.2 component may rely on answering once; one of WASI 0.3 is made for many requests.
            reuse: match (config.instances, compiled.flavour()) {
                (Some(Instances::Fresh), _) | (None, Flavour::P2) => 1,
                (Some(Instances::Reuse), _) | (None, Flavour::P3) => REUSE,
            },
            last: Arc::default(),
            pre,
        });
        Ok(Self { handler, wall: config.limits.wall })
    }

    /// The guest's answer, or why there is none.
    pub(crate) async fn answer(
        &self,
        context: &Arc<RequestContext>,
        request: http::Request<WasiBody>,
    ) -> Result<http::Response<WasiBody>, Failure> {
        self.handler.handle(context.clone(), request).await.map_err(|error| self.explain(context, error))
    }

    /// What became of a request without an answer. The guest's side is logged; the caller learns only which limit.
    fn explain(&self, context: &RequestContext, error: wasmtime::Error) -> Failure {
        if let Some(failed) = error.downcast_ref::<InstantiationError<Arc<RequestContext>>>() {
            if failed.error.is::<wasmtime::PoolConcurrencyLimitError>() {
                return Failure::Busy;
            }
            tracing::error!(worker = context.worker(), request = context.id(), "cannot start: {:#}", failed.error);
            let late = failed.error.is::<StartTimeout>().then_some(Failure::WallExceeded { limit: self.wall });
            return context.failure().or(late).unwrap_or(Failure::Exception);
        }
        let failure = context.explain_trap();
        tracing::warn!(worker = context.worker(), request = context.id(), "{failure}: {error:#}");
        failure
    }
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
            (request.has_failed(), request.is_finished(), request.started(), request.wall(self.wall))
        });
        let Some((failed, finished, started, wall)) = seen else {
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
        std::task::ready!(self.poll_deadline(cx, started + wall));
        self.slot.fail(Failure::WallExceeded { limit: wall });
        Poll::Ready(())
    }
}

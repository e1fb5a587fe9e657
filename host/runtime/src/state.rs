//! What one store holds, and the seam through which bindings enter.

use std::pin::Pin;
use std::sync::Arc;

use futures::future::BoxFuture;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi::{HostMonotonicClock, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    Error as HttpError, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use crate::Limits;
use crate::control::{RequestContext, Slot};
use crate::guest_log::{Channel, GuestLog};
use crate::limits::{CLOCK, MemoryMeter};
use crate::script::{self, Exchange};

/// Handles a guest may hold at once (requests, bodies, streams, fields, …).
const RESOURCES: usize = 10_000;

/// A response to an outbound request, and the work that goes on while its body is read.
pub type OutboundResult =
    Result<(http::Response<WasiBody>, Box<dyn Future<Output = Result<(), HttpError>> + Send>), HttpError>;

/// What a worker can import and call beyond WASI. One value per worker, cloned into each of its stores.
pub trait Extension: Clone + Send + Sync + 'static {
    /// Adds every import that some worker may be granted. Called once per runtime. What a given worker may use is
    /// checked by the extension when the worker is made and again when it calls.
    fn link(linker: &mut Linker<State<Self>>) -> wasmtime::Result<()>;

    /// Sends an outbound HTTP request. Sub-requests have been counted already.
    fn send(
        &self,
        context: Option<Arc<RequestContext>>,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
    ) -> BoxFuture<'static, OutboundResult>;

    /// Answers a script's call of one of its bindings: the path and query of `request` say what is called. The sub-request
    /// has been counted already.
    fn call(
        &self,
        context: Option<Arc<RequestContext>>,
        binding: &str,
        request: http::Request<WasiBody>,
    ) -> BoxFuture<'static, http::Response<WasiBody>>;
}

/// The data of one store: one instance of one worker.
pub struct State<X: Extension> {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Hooks<X>,
    console: GuestLog,
    pub(crate) memory: MemoryMeter,
}

struct Hooks<X> {
    extension: X,
    slot: Arc<Slot>,
    subrequests: u32,
    /// None for a component, which imports what it calls.
    exchange: Option<Exchange>,
}

impl<X: Extension> State<X> {
    pub(crate) fn new(worker: &Arc<str>, limits: &Limits, slot: Arc<Slot>, extension: X) -> Self {
        let mut wasi = WasiCtxBuilder::new();
        let log = |channel| GuestLog::new(channel, worker.clone(), slot.clone(), limits.log_bytes);
        let console = log(Channel::Stderr);
        wasi.stdout(log(Channel::Stdout)).stderr(console.clone()).monotonic_clock(Clock::new());
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES);
        Self {
            table,
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            memory: MemoryMeter::new(limits.memory_bytes, slot.clone()),
            hooks: Hooks { extension, slot, subrequests: limits.subrequests, exchange: None },
            console,
        }
    }

    /// The state of a script's instance.
    pub(crate) fn with_exchange(mut self, exchange: Exchange) -> Self {
        self.hooks.exchange = Some(exchange);
        self
    }

    /// A script's present request.
    pub(crate) fn exchange(&mut self) -> &mut Exchange {
        self.hooks.exchange.get_or_insert_default()
    }

    /// Where a script's console writes.
    pub(crate) fn console(&self) -> &GuestLog {
        &self.console
    }

    /// What the worker was granted.
    pub fn extension(&self) -> &X {
        &self.hooks.extension
    }

    /// The handles of this instance.
    pub fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }

    /// The request that the instance works on. None while it is being started.
    pub fn request(&self) -> Option<Arc<RequestContext>> {
        self.hooks.slot.get()
    }

    /// Counts one call of a binding as a sub-request and says whether the request may make it.
    pub fn charge_subrequest(&self) -> bool {
        charge(&self.hooks.slot, self.hooks.subrequests)
    }
}

/// The time since the instance was made, read from the processor's counter where that runs evenly: JavaScript's engine asks
/// for it several times a turn.
struct Clock {
    origin: u64,
}

impl Clock {
    fn new() -> Self {
        Self { origin: CLOCK.raw() }
    }
}

impl HostMonotonicClock for Clock {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        CLOCK.delta_as_nanos(self.origin, CLOCK.raw())
    }
}

/// Counts a sub-request of the present request and says whether it is within `limit`.
fn charge(slot: &Slot, limit: u32) -> bool {
    let Some(request) = slot.get() else { return false };
    let granted = request.charge_subrequest(limit);
    if !granted {
        tracing::warn!(
            worker = request.worker(),
            request = request.id(),
            "limit of {limit} sub-requests reached (limits.subrequests)"
        );
    }
    granted
}

impl<X: Extension> WasiHttpHooks for Hooks<X> {
    fn send_request(
        &mut self,
        mut request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), HttpError>> + Send>,
    ) -> Box<dyn Future<Output = OutboundResult> + Send> {
        if self.exchange.is_some() {
            request = request.map(script::read_to_the_end);
        }
        if let Some(exchange) = self.exchange.as_mut().filter(|_| script::is_internal(request.uri())) {
            let (slot, limit) = (&self.slot, self.subrequests);
            let answer = script::send(&self.extension, exchange, slot.get(), request, || charge(slot, limit));
            return Box::new(answer);
        }
        if !charge(&self.slot, self.subrequests) {
            return Box::new(async { Err(HttpError::ConnectionLimitReached) });
        }
        let call = self.exchange.as_ref().map(|exchange| exchange.calls.begin(request.headers_mut()));
        let send: Pin<Box<dyn Future<Output = OutboundResult> + Send>> =
            self.extension.send(self.slot.get(), request, options);
        match call {
            Some(call) => Box::new(async move {
                let (response, sent) = call.run(send).await??;
                Ok((response.map(|body| call.body(body)), sent))
            }),
            None => Box::new(send),
        }
    }
}

impl<X: Extension> WasiView for State<X> {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl<X: Extension> WasiHttpView for State<X> {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.hooks, table: &mut self.table, ctx: &mut self.http }
    }
}

//! One instance of the engine, started with a script.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime_wasi_http::WasiBody;

use super::exchange::{Answer, Exchange};
use super::imports::generated::{Worker, WorkerPre};
use super::{Script, StartFault};
use crate::control::{RequestContext, Slot};
use crate::limits::{CpuMeter, meter_cpu};
use crate::{Extension, Limits, Runtime, State};

/// What every instance of a script is made from.
pub(super) struct Image<X: Extension> {
    pub(super) runtime: Runtime,
    pub(super) pre: WorkerPre<State<X>>,
    pub(super) worker: Arc<str>,
    pub(super) limits: Limits,
    pub(super) extension: X,
    pub(super) script: Script,
}

/// A request as the engine is given it.
pub(super) struct Call {
    pub(super) method: String,
    pub(super) url: String,
    /// `name\0value` lines; each character of a value is one byte of it.
    pub(super) headers: String,
    /// All of the body, where it was at hand.
    pub(super) body: Option<Bytes>,
    /// The body where it is still arriving.
    pub(super) incoming: Option<WasiBody>,
}

/// A started script. It handles one request at a time.
pub(super) struct Instance<X: Extension> {
    store: Store<State<X>>,
    engine: Worker,
    slot: Arc<Slot>,
    meter: Arc<CpuMeter>,
    handled: usize,
}

impl<X: Extension> Instance<X> {
    /// Starts the script on behalf of a request, which is charged for it.
    pub(super) async fn start(image: &Image<X>, context: &Arc<RequestContext>) -> Result<Self, StartFault> {
        let slot = Arc::new(Slot::default());
        slot.set(context.clone());
        let state = State::new(&image.worker, &image.limits, slot.clone(), image.extension.clone())
            .with_exchange(Exchange::new(image.script.map_stack.clone()));
        let mut store = Store::new(image.runtime.engine(), state);
        store.limiter(|state| &mut state.memory);
        let meter = meter_cpu(&mut store, image.limits.cpu, slot.clone());
        let fault = |error| match context.failure() {
            Some(failure) => StartFault::Limit(failure),
            None => StartFault::Engine(error),
        };
        let engine = image.pre.instantiate_async(&mut store).await.map_err(fault)?;
        let env = image.script.env.as_bytes();
        let started = engine.call_start(&mut store, &image.script.source, env).await.map_err(fault)?;
        if let Err(message) = started {
            let mapped = image.script.map_stack.as_ref().map(|map_stack| map_stack(&message));
            return Err(StartFault::Script(mapped.unwrap_or(message)));
        }
        Ok(Self { store, engine, slot, meter, handled: 0 })
    }

    /// Makes the script's next work that of `context`.
    fn turn_to(&mut self, context: &Arc<RequestContext>) {
        // The first request is charged for the start as well.
        if self.handled > 0 {
            self.meter.reset();
        }
        self.handled += 1;
        self.slot.set(context.clone());
    }

    /// Handles what is no request, to its very end, and gives its answer. The inner error is the script's own.
    pub(super) async fn handle_event(
        &mut self,
        context: &Arc<RequestContext>,
        kind: &str,
        payload: &[u8],
    ) -> wasmtime::Result<Result<Vec<u8>, String>> {
        self.turn_to(context);
        self.store.data_mut().exchange().begin_event();
        let handled = self.engine.call_event(&mut self.store, kind, payload).await;
        self.store.data_mut().exchange().end();
        handled
    }

    /// Handles one request to its very end, `waitUntil` included. After an error the instance is of no use.
    pub(super) async fn handle(
        &mut self,
        context: &Arc<RequestContext>,
        call: Call,
        answer: oneshot::Sender<Answer>,
    ) -> wasmtime::Result<()> {
        self.turn_to(context);
        let more = call.incoming.is_some();
        self.store.data_mut().exchange().begin(answer, call.incoming);
        let body = call.body.as_deref();
        let handled =
            self.engine.call_handle(&mut self.store, &call.method, &call.url, &call.headers, body, more).await;
        self.store.data_mut().exchange().end();
        handled
    }

    pub(super) fn handled(&self) -> usize {
        self.handled
    }

    /// Bytes of its memories.
    pub(super) fn memory(&self) -> usize {
        self.store.data().memory.used()
    }

    /// What the present request has computed.
    pub(super) fn cpu(&self) -> Duration {
        self.meter.used()
    }
}

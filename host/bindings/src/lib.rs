//! What a worker can import beyond WASI: its variables and secrets, `env.AI`, bindings that are called by method, and outbound requests.
//!
//! [`Grants`] is what one worker's binding file gives it, checked when the worker is made; [`Bindings`] carries it into
//! each of the worker's stores and answers its imports. A guest that imports what it was not granted is refused before
//! it runs ([`Grants::check_imports`]), and every call is checked again, because a guest chooses the names it calls with.
//!
//! Imports never hold a store while they wait: a call starts a task, and the guest polls or awaits it.

mod ai;
mod calls;
mod env;
mod gateway;
mod grants;
pub mod outbound;
mod pending;
mod queue;
mod resources;
mod script;
mod site;
mod vectorize;

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use host_batch::Batches;
use host_gateway::Gateways;
use host_inference::Engine;
use host_runtime::{Extension, OutboundResult, RequestContext, State};
use wasmtime::component::{HasData, Linker};
use wasmtime_wasi_http::{RequestOptions, WasiBody};

pub use calls::{CallError, Callable, Kind, MethodCall};
pub use grants::{GrantError, Grants, MissingGrant};
pub use resources::Resources;
pub use site::{Answerer, Services, Site};

/// One worker's bindings, as its stores hold them. Cheap to clone.
#[derive(Clone)]
pub struct Bindings(Arc<Inner>);

struct Inner {
    grants: Grants,
    engine: Engine,
    client: outbound::Client,
    services: Services,
    gateways: Gateways,
    batches: Batches,
}

impl Bindings {
    /// Joins what a worker was granted with what answers it.
    pub fn new(
        grants: Grants,
        engine: Engine,
        client: outbound::Client,
        services: Services,
        gateways: Gateways,
        batches: Batches,
    ) -> Self {
        Self(Arc::new(Inner { grants, engine, client, services, gateways, batches }))
    }

    pub(crate) fn grants(&self) -> &Grants {
        &self.0.grants
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(crate) fn gateways(&self) -> &Gateways {
        &self.0.gateways
    }

    pub(crate) fn batches(&self) -> &Batches {
        &self.0.batches
    }

    pub(crate) fn services(&self) -> &Services {
        &self.0.services
    }
}

impl Extension for Bindings {
    fn link(linker: &mut Linker<State<Self>>) -> wasmtime::Result<()> {
        env::link(linker)?;
        ai::link(linker)?;
        calls::link(linker)
    }

    fn send(
        &self,
        _context: Option<Arc<RequestContext>>,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
    ) -> BoxFuture<'static, OutboundResult> {
        if gateway::is_for_gateway(request.uri()) {
            let this = self.clone();
            return async move {
                let done: Box<dyn Future<Output = _> + Send> = Box::new(std::future::ready(Ok(())));
                Ok((gateway::answer(this, request).await, done))
            }
            .boxed();
        }
        let inner = self.0.clone();
        async move {
            let (response, transmission) = inner.client.send(inner.grants.outbound(), request, options).await?;
            let transmission: Box<dyn Future<Output = _> + Send> = Box::new(transmission);
            Ok((response, transmission))
        }
        .boxed()
    }

    fn call(
        &self,
        context: Option<Arc<RequestContext>>,
        binding: &str,
        request: http::Request<WasiBody>,
    ) -> BoxFuture<'static, http::Response<WasiBody>> {
        script::call(self.clone(), context, binding, request)
    }
}

/// The data that the imports of this crate work on: the whole state of a store.
struct Store;

impl HasData for Store {
    type Data<'a> = &'a mut State<Bindings>;
}

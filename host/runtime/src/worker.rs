//! One worker: its program, its limits and the requests that it answers.
//!
//! A program is a component that serves wasi:http ([`Proxy`]) or a script ([`Pool`]). What holds for both is here: the
//! permit that a request holds until its answer has ended, the bounds on its bodies, and what a client that leaves does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;
use wasmtime_wasi_http::WasiBody;

use crate::body::{RequestBody, ResponseBody};
use crate::control::{RequestContext, RequestIds};
use crate::event;
use crate::link::{LinkError, WorkerConfig};
use crate::proxy::Proxy;
use crate::script::{Pool, Script, ScriptEngine, StartFault};
use crate::{Compiled, EventFault, Extension, Failure, Limits, Runtime};

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
    program: Program<X>,
    ids: RequestIds,
}

enum Program<X: Extension> {
    Component(Proxy<X>),
    Script(Pool<X>),
}

impl<X: Extension> Worker<X> {
    /// Links a component. Nothing of it runs yet.
    pub fn new(runtime: &Runtime, compiled: &Compiled, config: WorkerConfig<X>) -> Result<Self, LinkError> {
        let program = Program::Component(Proxy::new(runtime, compiled, &config)?);
        Ok(Self::of(program, config))
    }

    /// A worker that is a script, in instances of `engine`, a component of the world `workers:js/worker`. Nothing of it
    /// runs yet.
    pub fn script(engine: &ScriptEngine, script: Script, config: WorkerConfig<X>) -> Result<Self, LinkError> {
        let program = Program::Script(Pool::new(engine, script, &config)?);
        Ok(Self::of(program, config))
    }

    fn of(program: Program<X>, config: WorkerConfig<X>) -> Self {
        Self(Arc::new(Inner {
            permits: Arc::new(Semaphore::new(config.limits.concurrency.min(Semaphore::MAX_PERMITS))),
            name: config.name,
            limits: config.limits,
            program,
            ids: RequestIds::new(),
        }))
    }

    /// Starts an instance before the first request needs one, where that runs the worker's own code.
    ///
    /// # Errors
    /// What the script's author should see: that it throws when it is loaded, or exports no handler.
    pub async fn start(&self) -> Result<(), StartFault> {
        match &self.0.program {
            Program::Component(_) => Ok(()),
            Program::Script(pool) => pool.warm(&self.admit()).await,
        }
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
        RequestContext::new(self.0.ids.next(), self.0.name.clone(), None)
    }

    /// As [`Self::admit`] for an event, which may take `wall` instead of what a request may.
    pub fn admit_event(&self, wall: Duration) -> Arc<RequestContext> {
        RequestContext::new(self.0.ids.next(), self.0.name.clone(), Some(wall))
    }

    /// Handles an event that is no request, and gives its answer:
    ///
    /// | kind | payload | answer |
    /// | --- | --- | --- |
    /// | `scheduled` | `{"scheduledTime": ms, "cron": "…"}` | nothing that counts |
    /// | `queue` | a batch of messages | what becomes of each |
    ///
    /// Both are JSON. Dropping the future ends the event.
    ///
    /// # Errors
    /// When the worker has no such handler, the handler throws, or a limit ends it.
    pub async fn event(
        &self,
        context: &Arc<RequestContext>,
        kind: &str,
        payload: impl Into<Bytes>,
    ) -> Result<Vec<u8>, EventFault> {
        let permit = self.0.permits.clone().try_acquire_owned().map_err(|_| EventFault::Failed(Failure::Busy))?;
        context.hold(permit);
        let payload = payload.into();
        let mut guard = CancelOnDrop(Some(context));
        let handled = match &self.0.program {
            Program::Script(pool) => pool.event(context, kind, &payload).await,
            Program::Component(proxy) => ask(proxy, context, kind, payload).await,
        };
        guard.0 = None;
        context.finish();
        handled
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
        let mut request = request;
        request.headers_mut().remove(event::HEADER);
        let unread = request.method() == http::Method::HEAD;
        let multiplexed = request.version() == http::Version::HTTP_2;
        let request = request.map(|body| wrap(body, limits.request_bytes, context));
        let mut guard = CancelOnDrop(Some(context));
        let answer = match &self.0.program {
            Program::Component(proxy) => proxy.answer(context, request).await.map(Some),
            Program::Script(pool) => pool.answer(context, request).await,
        };
        guard.0 = None;
        let Some(response) = answer.inspect_err(|failure| context.fail(failure.clone()))? else {
            // The script threw, which is told in a page; what it gave to `waitUntil` may go on.
            context.finish();
            return Err(Failure::Exception);
        };
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
}

/// Has a component handle an event.
async fn ask<X: Extension>(
    proxy: &Proxy<X>,
    context: &Arc<RequestContext>,
    kind: &str,
    payload: Bytes,
) -> Result<Vec<u8>, EventFault> {
    let request = event::request(kind, payload)?;
    let response = proxy.answer(context, request).await.map_err(EventFault::Failed)?;
    let body = |body| ResponseBody::new(body, None, event::MAX_ANSWER, false, context.clone());
    let answer = event::answer(kind, response.map(body)).await;
    match context.failure() {
        Some(failure) => Err(EventFault::Failed(failure)),
        None => answer,
    }
}

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

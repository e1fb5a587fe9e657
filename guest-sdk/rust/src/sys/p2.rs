//! WASI 0.2: resources with `subscribe`, and a handler that returns when everything is done.

use super::executor::{self, Watch};
use super::{AiCall, AiOutput, AiReply, IncomingResponse, OutgoingRequest, OutgoingResponse, READ_SIZE};
use crate::body::Outgoing;
use crate::glue::Dispatcher;
use crate::{Error, Result};
use futures_util::StreamExt;
use futures_util::stream::LocalBoxStream;
use generated::wasi::clocks0_2_12::monotonic_clock;
use generated::wasi::http0_2_12::outgoing_handler;
use generated::wasi::http0_2_12::types as http;
use generated::wasi::http0_2_12::types as wit_http;
use generated::wasi::io::streams::{InputStream, OutputStream, StreamError};
use generated::workers::ai0_2_0::inference;
use generated::workers::ai0_2_0::inference as wit_ai;
use generated::workers::bindings0_2_0::calls;
use generated::workers::bindings0_2_0::calls as wit_calls;
use generated::workers::env::env as wit_env;
use std::task::{Context, Poll};
use std::time::Duration;

pub(crate) use executor::spawn;

/// What `wit-bindgen` makes of `wit/`.
#[allow(missing_docs, unreachable_pub, unsafe_op_in_unsafe_fn)]
#[allow(clippy::all, clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]
pub mod generated {
    wit_bindgen::generate!({
        world: "worker-p2",
        path: "../../wit",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_worker",
        default_bindings_module: "host_sdk::__private::generated",
        runtime_path: "host_sdk::__private::wit_bindgen::rt",
    });
}

/// The component's export: the handler of wasi:http.
#[cfg(target_family = "wasm")]
#[allow(missing_docs, unreachable_pub, unsafe_op_in_unsafe_fn)]
#[allow(clippy::all, clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]
mod export {
    use super::generated;
    use crate::glue::Dispatcher;

    generated::export_worker!(Dispatcher with_types_in generated);
}

super::convert::conversions!();

impl generated::exports::wasi::http0_2_12::incoming_handler::Guest for Dispatcher {
    fn handle(request: http::IncomingRequest, out: http::ResponseOutparam) {
        executor::block_on(async move {
            let response = crate::glue::respond(IncomingRequest { request }).await;
            deliver(response, out).await;
        });
    }
}

/// Sends the response's head, then its body. A client that goes away ends the body early and nothing else.
async fn deliver(response: OutgoingResponse, out: http::ResponseOutparam) {
    let (head, body) = match head_of(response) {
        Ok(parts) => parts,
        Err(error) => {
            crate::glue::log_failure(&error);
            let failure = http::OutgoingResponse::new(http::Fields::new());
            // A status of three digits is always taken.
            let _ = failure.set_status_code(500);
            (failure, Outgoing::Empty)
        }
    };
    if let Outgoing::Empty = body {
        http::ResponseOutparam::set(out, Ok(head));
        return;
    }
    let Ok(outgoing) = head.body() else { return };
    http::ResponseOutparam::set(out, Ok(head));
    write_body(outgoing, body).await;
}

fn head_of(response: OutgoingResponse) -> Result<(http::OutgoingResponse, Outgoing)> {
    let head = http::OutgoingResponse::new(fields(response.headers)?);
    head.set_status_code(response.status).map_err(|()| Error::Status(response.status))?;
    Ok((head, response.body))
}

/// Writes all of `body`. Only a whole body is finished, so that the other side can tell a broken one.
async fn write_body(outgoing: http::OutgoingBody, body: Outgoing) {
    let Ok(stream) = outgoing.write() else { return };
    let mut sink = Sink { watch: None, stream };
    let written = match body {
        Outgoing::Empty => Ok(()),
        Outgoing::Bytes(bytes) => sink.write(&bytes).await,
        Outgoing::Host(source) => sink.splice(source).await,
        Outgoing::Guest(source) => sink.write_pieces(source).await,
    };
    drop(sink);
    match written {
        Ok(()) => {
            // The only error is a length that differs from the stated one, which the host reports itself.
            let _ = http::OutgoingBody::finish(outgoing, None);
        }
        Err(Broken::Receiver) => drop(outgoing),
        Err(Broken::Source(error)) => {
            crate::glue::log_failure(&error);
            drop(outgoing);
        }
    }
}

/// Why a body was not written to its end.
enum Broken {
    Receiver,
    Source(Error),
}

/// The writing end of a body.
struct Sink {
    watch: Option<Watch>,
    stream: OutputStream,
}

impl Sink {
    /// How many bytes may be written now; waits until that is one at least.
    async fn permit(&mut self) -> Result<usize, Broken> {
        loop {
            match self.stream.check_write() {
                Ok(0) => self.watch.get_or_insert_with(|| Watch::new(self.stream.subscribe())).ready().await,
                Ok(permit) => return Ok(usize::try_from(permit).unwrap_or(usize::MAX)),
                Err(_) => return Err(Broken::Receiver),
            }
        }
    }

    async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Broken> {
        while !bytes.is_empty() {
            let permit = self.permit().await?;
            let (now, later) = bytes.split_at(permit.min(bytes.len()));
            self.stream.write(now).map_err(|_| Broken::Receiver)?;
            bytes = later;
        }
        Ok(())
    }

    async fn write_pieces(&mut self, mut source: LocalBoxStream<'static, Result<Vec<u8>>>) -> Result<(), Broken> {
        while let Some(piece) = source.next().await {
            self.write(&piece.map_err(Broken::Source)?).await?;
            self.stream.flush().map_err(|_| Broken::Receiver)?;
        }
        Ok(())
    }

    /// Lets the host move the bytes from `source` on its side.
    async fn splice(&mut self, mut source: HostStream) -> Result<(), Broken> {
        loop {
            let permit = self.permit().await?;
            match self.stream.splice(&source.stream, permit as u64) {
                Ok(0) => source.readable().await,
                Ok(_) => self.stream.flush().map_err(|_| Broken::Receiver)?,
                // It does not say which end is closed; the receiver's is the one that can be asked.
                Err(StreamError::Closed) if self.stream.check_write().is_ok() => return Ok(()),
                Err(StreamError::Closed) => return Err(Broken::Receiver),
                Err(StreamError::LastOperationFailed(error)) => {
                    return Err(Broken::Source(Error::Body(error.to_debug_string())));
                }
            }
        }
    }
}

/// The request that this worker answers.
#[derive(Debug)]
pub(crate) struct IncomingRequest {
    request: http::IncomingRequest,
}

impl IncomingRequest {
    pub(crate) fn method(&self) -> crate::Method {
        method_from_host(self.request.method())
    }

    pub(crate) fn scheme(&self) -> Option<String> {
        self.request.scheme().map(scheme_from_host)
    }

    pub(crate) fn authority(&self) -> Option<String> {
        self.request.authority()
    }

    pub(crate) fn path_with_query(&self) -> Option<String> {
        self.request.path_with_query()
    }

    pub(crate) fn headers(&self) -> Vec<(String, Vec<u8>)> {
        self.request.headers().entries()
    }

    pub(crate) fn into_body(self) -> Result<HostStream> {
        let body = self.request.consume().map_err(|()| Error::Body("the host gave it away before".into()))?;
        HostStream::of_body(body)
    }
}

/// Bytes that come from the host. The fields are dropped in this order: each is a child of the next.
pub(crate) struct HostStream {
    watch: Option<Watch>,
    stream: InputStream,
    _body: Option<http::IncomingBody>,
}

impl HostStream {
    fn of_body(body: http::IncomingBody) -> Result<Self> {
        let stream = body.stream().map_err(|()| Error::Body("the host gave it away before".into()))?;
        Ok(Self { watch: None, stream, _body: Some(body) })
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Vec<u8>>>> {
        loop {
            match self.stream.read(READ_SIZE as u64) {
                Ok(piece) if piece.is_empty() => {
                    if self.watch().poll_ready(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                Ok(piece) => return Poll::Ready(Some(Ok(piece))),
                Err(StreamError::Closed) => return Poll::Ready(None),
                Err(StreamError::LastOperationFailed(error)) => {
                    return Poll::Ready(Some(Err(Error::Body(error.to_debug_string()))));
                }
            }
        }
    }

    async fn readable(&mut self) {
        self.watch().ready().await;
    }

    fn watch(&mut self) -> &mut Watch {
        self.watch.get_or_insert_with(|| Watch::new(self.stream.subscribe()))
    }
}

/// A timer that runs from its making.
pub(crate) struct Timer {
    watch: Watch,
    elapsed: bool,
}

impl Timer {
    pub(crate) fn new(duration: Duration) -> Self {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self { watch: Watch::new(monotonic_clock::subscribe_duration(nanoseconds)), elapsed: false }
    }

    pub(crate) fn poll_elapsed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.elapsed {
            if self.watch.poll_ready(cx).is_pending() {
                return Poll::Pending;
            }
            self.elapsed = true;
        }
        Poll::Ready(())
    }
}

/// Sends a request and waits for the response's head.
pub(crate) async fn send(request: OutgoingRequest) -> Result<IncomingResponse> {
    let url = request.target.to_string();
    let failed = |reason: String| Error::Fetch { url: url.clone(), reason };
    let outgoing = http::OutgoingRequest::new(fields(request.headers)?);
    let head = outgoing
        .set_method(&method_to_host(request.method))
        .and_then(|()| outgoing.set_scheme(Some(&scheme_to_host(&request.target.scheme))))
        .and_then(|()| outgoing.set_authority(Some(&request.target.authority)))
        .and_then(|()| outgoing.set_path_with_query(Some(&request.target.path_with_query)));
    head.map_err(|()| failed("the host cannot send to this address".into()))?;
    let body = match &request.body {
        Outgoing::Empty => None,
        _ => outgoing.body().ok(),
    };
    let pending = outgoing_handler::handle(outgoing, None).map_err(|code| failed(explain(&code)))?;
    if let Some(body) = body {
        spawn(write_body(body, request.body));
    }
    let answer = wait_for(pending.subscribe(), || pending.get()).await;
    let answer = answer.map_err(|()| failed("the response was taken before".into()))?;
    let response = answer.map_err(|code| failed(explain(&code)))?;
    let headers = response.headers().entries();
    let body = response.consume().map_err(|()| failed("the response has no body".into()))?;
    Ok(IncomingResponse { status: response.status(), headers, body: HostStream::of_body(body)? })
}

/// Calls a model. Dropping the future cancels the call.
pub(crate) async fn ai_run(call: AiCall) -> Result<AiReply> {
    let pending = inference::start(&ai_request(call));
    let answer = wait_for(pending.subscribe(), || pending.get()).await;
    let answer = answer.map_err(|()| Error::from("the answer was taken before"))?;
    let response = answer.map_err(ai_error)?;
    let output = match response.output {
        inference::Output::Json(text) => AiOutput::Json(text),
        inference::Output::Stream(events) => AiOutput::Stream {
            content_type: events.content_type,
            body: HostStream { watch: None, stream: events.body, _body: None },
        },
    };
    Ok(AiReply { request_id: response.request_id, output })
}

/// Calls a method of a binding with a JSON array, for the JSON of its answer.
pub(crate) async fn call(binding: &str, method: &str, arguments: &str) -> Result<String> {
    let pending = calls::start(binding, method, arguments);
    let answer = wait_for(pending.subscribe(), || pending.get()).await;
    let answer = answer.map_err(|()| Error::from("the answer was taken before"))?;
    answer.map_err(call_error)
}

/// Waits on `pollable` until `get` has something.
async fn wait_for<T>(pollable: generated::wasi::io::poll::Pollable, get: impl Fn() -> Option<T>) -> T {
    let mut watch = Watch::new(pollable);
    loop {
        if let Some(value) = get() {
            return value;
        }
        watch.ready().await;
    }
}

//! WASI 0.3: async functions, `stream<u8>` and `future<T>`, all driven by the host.
//!
//! An instance answers several requests at a time, each as a task of its own. What a task spawned (a body on its way
//! out, the futures of `wait_until`) belongs to that task and keeps it alive after its response has been returned.

use super::{AiCall, AiOutput, AiReply, IncomingResponse, OutgoingRequest, OutgoingResponse, READ_SIZE};
use crate::body::Outgoing;
use crate::glue::Dispatcher;
use crate::{Error, Result};
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::LocalBoxStream;
use generated::wasi::clocks0_3_0::monotonic_clock;
use generated::wasi::http0_3_0::client;
use generated::wasi::http0_3_0::types as http;
use generated::wasi::http0_3_0::types as wit_http;
use generated::workers::ai0_3_0::inference;
use generated::workers::ai0_3_0::inference as wit_ai;
use generated::workers::bindings0_3_0::calls;
use generated::workers::bindings0_3_0::calls as wit_calls;
use generated::workers::env::env as wit_env;
use generated::{wit_future, wit_stream};
use std::future::Future;
use std::task::{Context, Poll};
use std::time::Duration;
use wit_bindgen::{FutureReader, StreamReader, StreamResult, StreamWriter};

/// What `wit-bindgen` makes of `wit/`.
#[allow(missing_docs, unreachable_pub, unsafe_op_in_unsafe_fn)]
#[allow(clippy::all, clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]
pub mod generated {
    wit_bindgen::generate!({
        world: "worker-p3",
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

/// How the body of a message ended: with trailers or without, or broken.
type Ending = Result<Option<http::Trailers>, http::ErrorCode>;

impl generated::exports::wasi::http0_3_0::handler::Guest for Dispatcher {
    async fn handle(request: http::Request) -> Result<http::Response, http::ErrorCode> {
        let response = crate::glue::respond(IncomingRequest { request }).await;
        deliver(response).or_else(|error| {
            crate::glue::log_failure(&error);
            deliver(OutgoingResponse { status: 500, headers: Vec::new(), body: Outgoing::Empty })
                .map_err(|error| http::ErrorCode::InternalError(Some(error.to_string())))
        })
    }
}

/// The response for the host; its body goes on being written after the handler has returned.
fn deliver(response: OutgoingResponse) -> Result<http::Response> {
    let fields = fields(response.headers)?;
    let (contents, ending) = contents_of(response.body);
    let (head, _sent) = http::Response::new(fields, contents, ending);
    head.set_status_code(response.status).map_err(|()| Error::Status(response.status))?;
    Ok(head)
}

/// A body as the host takes it, with a task that writes what the worker itself makes.
fn contents_of(body: Outgoing) -> (Option<StreamReader<u8>>, FutureReader<Ending>) {
    match body {
        Outgoing::Empty => (None, whole()),
        Outgoing::Host(HostStream { state: State::Idle(reader), ending }) => {
            (Some(reader), ending.unwrap_or_else(whole))
        }
        Outgoing::Host(stream) => contents_of(Outgoing::Guest(pieces_of(stream).boxed_local())),
        Outgoing::Bytes(bytes) => {
            let (mut writer, reader) = wit_stream::new::<u8>();
            spawn(async move {
                // What is left over was not wanted: the client went away.
                drop(writer.write_all(bytes).await);
            });
            (Some(reader), whole())
        }
        Outgoing::Guest(pieces) => {
            let (writer, reader) = wit_stream::new::<u8>();
            let (result, ending) = wit_future::new::<Ending>(|| Ok(None));
            spawn(async move {
                if let Err(error) = write_pieces(writer, pieces).await {
                    crate::glue::log_failure(&error);
                    let broken = http::ErrorCode::InternalError(Some("the worker broke the body off".into()));
                    // An error here means that nobody listens any more.
                    let _ = result.write(Err(broken)).await;
                }
            });
            (Some(reader), ending)
        }
    }
}

/// The ending of a body that is whole and has no trailers.
fn whole() -> FutureReader<Ending> {
    // Dropping the writer writes the default.
    wit_future::new::<Ending>(|| Ok(None)).1
}

async fn write_pieces(
    mut writer: StreamWriter<u8>,
    mut pieces: LocalBoxStream<'static, Result<Vec<u8>>>,
) -> Result<()> {
    while let Some(piece) = pieces.next().await {
        let unwanted = writer.write_all(piece?).await;
        if !unwanted.is_empty() {
            break;
        }
    }
    Ok(())
}

fn pieces_of(mut stream: HostStream) -> impl futures_util::Stream<Item = Result<Vec<u8>>> + 'static {
    futures_util::stream::poll_fn(move |cx| stream.poll_read(cx))
}

/// Adds a future to those of the current request.
pub(crate) fn spawn(future: impl Future<Output = ()> + 'static) {
    wit_bindgen::spawn_local(future);
}

/// The request that this worker answers.
#[derive(Debug)]
pub(crate) struct IncomingRequest {
    request: http::Request,
}

impl IncomingRequest {
    pub(crate) fn method(&self) -> crate::Method {
        method_from_host(self.request.get_method())
    }

    pub(crate) fn scheme(&self) -> Option<String> {
        self.request.get_scheme().map(scheme_from_host)
    }

    pub(crate) fn authority(&self) -> Option<String> {
        self.request.get_authority()
    }

    pub(crate) fn path_with_query(&self) -> Option<String> {
        self.request.get_path_with_query()
    }

    pub(crate) fn headers(&self) -> Vec<(String, Vec<u8>)> {
        self.request.get_headers().copy_all()
    }

    pub(crate) fn into_body(self) -> Result<HostStream> {
        let (reader, ending) = http::Request::consume_body(self.request, handled());
        Ok(HostStream { state: State::Idle(reader), ending: Some(ending) })
    }
}

/// Tells the host that a message was handled without a fault.
fn handled() -> FutureReader<Result<(), http::ErrorCode>> {
    wit_future::new::<Result<(), http::ErrorCode>>(|| Ok(())).1
}

/// Bytes that come from the host.
pub(crate) struct HostStream {
    state: State,
    /// Where the source tells whether the body was whole.
    ending: Option<FutureReader<Ending>>,
}

type Read = (StreamReader<u8>, StreamResult, Vec<u8>);

enum State {
    Idle(StreamReader<u8>),
    Reading(LocalBoxFuture<'static, Read>),
    Ending(LocalBoxFuture<'static, Ending>),
    Done,
}

impl HostStream {
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Vec<u8>>>> {
        loop {
            match std::mem::replace(&mut self.state, State::Done) {
                State::Idle(mut reader) => {
                    self.state = State::Reading(Box::pin(async move {
                        let (result, piece) = reader.read(Vec::with_capacity(READ_SIZE)).await;
                        (reader, result, piece)
                    }));
                }
                State::Reading(mut read) => {
                    let Poll::Ready((reader, result, piece)) = read.as_mut().poll(cx) else {
                        self.state = State::Reading(read);
                        return Poll::Pending;
                    };
                    self.state = match (result, self.ending.take()) {
                        (StreamResult::Dropped, Some(ending)) => State::Ending(Box::pin(ending.into_future())),
                        (StreamResult::Dropped, None) => State::Done,
                        (_, ending) => {
                            self.ending = ending;
                            State::Idle(reader)
                        }
                    };
                    if !piece.is_empty() {
                        return Poll::Ready(Some(Ok(piece)));
                    }
                }
                State::Ending(mut ending) => {
                    let Poll::Ready(ended) = ending.as_mut().poll(cx) else {
                        self.state = State::Ending(ending);
                        return Poll::Pending;
                    };
                    if let Err(code) = ended {
                        return Poll::Ready(Some(Err(Error::Body(explain(&code)))));
                    }
                }
                State::Done => return Poll::Ready(None),
            }
        }
    }
}

/// A timer that runs from its making.
pub(crate) struct Timer {
    wait: Option<LocalBoxFuture<'static, ()>>,
}

impl Timer {
    pub(crate) fn new(duration: Duration) -> Self {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self { wait: Some(Box::pin(monotonic_clock::wait_for(nanoseconds))) }
    }

    pub(crate) fn poll_elapsed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(wait) = &mut self.wait {
            if wait.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.wait = None;
        }
        Poll::Ready(())
    }
}

/// Sends a request and waits for the response's head.
pub(crate) async fn send(request: OutgoingRequest) -> Result<IncomingResponse> {
    let url = request.target.to_string();
    let failed = |reason: String| Error::Fetch { url: url.clone(), reason };
    let fields = fields(request.headers)?;
    let (contents, ending) = contents_of(request.body);
    let (outgoing, _sent) = http::Request::new(fields, contents, ending, None);
    let head = outgoing
        .set_method(&method_to_host(request.method))
        .and_then(|()| outgoing.set_scheme(Some(&scheme_to_host(&request.target.scheme))))
        .and_then(|()| outgoing.set_authority(Some(&request.target.authority)))
        .and_then(|()| outgoing.set_path_with_query(Some(&request.target.path_with_query)));
    head.map_err(|()| failed("the host cannot send to this address".into()))?;
    let response = client::send(outgoing).await.map_err(|code| failed(explain(&code)))?;
    let status = response.get_status_code();
    let headers = response.get_headers().copy_all();
    let (reader, ending) = http::Response::consume_body(response, handled());
    Ok(IncomingResponse { status, headers, body: HostStream { state: State::Idle(reader), ending: Some(ending) } })
}

/// Calls a model. Dropping the future cancels the call.
pub(crate) async fn ai_run(call: AiCall) -> Result<AiReply> {
    let response = inference::run(ai_request(call)).await.map_err(ai_error)?;
    let output = match response.output {
        inference::Output::Json(text) => AiOutput::Json(text),
        inference::Output::Stream(events) => AiOutput::Stream {
            content_type: events.content_type,
            body: HostStream { state: State::Idle(events.body), ending: None },
        },
    };
    Ok(AiReply { request_id: response.request_id, output })
}

/// Calls a method of a binding with a JSON array, for the JSON of its answer.
pub(crate) async fn call(binding: &str, method: &str, arguments: &str) -> Result<String> {
    calls::call(binding.to_owned(), method.to_owned(), arguments.to_owned()).await.map_err(call_error)
}

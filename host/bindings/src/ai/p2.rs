//! `workers:ai@0.2.0`: a call is a resource that the guest polls.

use bytes::Bytes;
use futures::StreamExt as _;
use host_inference::{AiError, ByteStream, RunOutput, RunResponse};
use host_runtime::State;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::p2::{DynInputStream, DynPollable, InputStream, Pollable, StreamError, StreamResult, subscribe};

use super::admit;
use crate::pending::Pending;
use crate::{Bindings, Store};

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit",
        inline: "package host:bindings; world ai { import workers:ai/inference@0.2.0; }",
        imports: { "workers:ai/inference.run": async | trappable, default: trappable },
        with: {
            "wasi:io": wasmtime_wasi::p2::bindings::io,
            "workers:ai/inference.pending": super::PendingRun,
        },
    });
}

use generated::workers::ai0_2_0::inference as wit;

conversions!();

pub(super) fn link(linker: &mut Linker<State<Bindings>>) -> wasmtime::Result<()> {
    wit::add_to_linker::<_, Store>(linker, |state| state)
}

type Answer = Result<RunResponse, AiError>;

#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub type PendingRun = Pending<Answer>;

impl wit::Host for State<Bindings> {
    fn start(&mut self, request: wit::Request) -> wasmtime::Result<Resource<PendingRun>> {
        let pending = match admit(self, call(request)) {
            Ok(admitted) => Pending::running(admitted.run()),
            Err(error) => Pending::answered(Err(error)),
        };
        Ok(self.table().push(pending)?)
    }

    async fn run(&mut self, request: wit::Request) -> wasmtime::Result<Result<wit::Response, wit::Error>> {
        let answer = match admit(self, call(request)) {
            Ok(admitted) => admitted.run().await,
            Err(error) => Err(error),
        };
        lower(self, answer)
    }
}

impl wit::HostPending for State<Bindings> {
    fn subscribe(&mut self, pending: Resource<PendingRun>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table(), pending)
    }

    fn get(
        &mut self,
        pending: Resource<PendingRun>,
    ) -> wasmtime::Result<Option<Result<Result<wit::Response, wit::Error>, ()>>> {
        let taken = self.table().get_mut(&pending)?.take();
        Ok(match taken {
            None => None,
            Some(Err(())) => Some(Err(())),
            Some(Ok(answer)) => Some(Ok(lower(self, answer)?)),
        })
    }

    fn drop(&mut self, pending: Resource<PendingRun>) -> wasmtime::Result<()> {
        self.table().delete(pending)?;
        Ok(())
    }
}

fn lower(state: &mut State<Bindings>, answer: Answer) -> wasmtime::Result<Result<wit::Response, wit::Error>> {
    let response = match answer {
        Ok(response) => response,
        Err(fault) => return Ok(Err(error(fault))),
    };
    let output = match response.output {
        RunOutput::Json(value) => wit::Output::Json(value.to_string()),
        RunOutput::Stream { content_type, body } => {
            let body: DynInputStream = Box::new(OutputBody { body, read: Bytes::new(), ended: None });
            wit::Output::Stream(wit::EventStream { content_type, body: state.table().push(body)? })
        }
    };
    Ok(Ok(wit::Response { request_id: response.request_id, output }))
}

/// A streamed output as a guest reads it.
struct OutputBody {
    body: ByteStream,
    read: Bytes,
    ended: Option<Option<AiError>>,
}

#[wasmtime_wasi::async_trait]
impl Pollable for OutputBody {
    async fn ready(&mut self) {
        while self.read.is_empty() && self.ended.is_none() {
            match self.body.next().await {
                Some(Ok(bytes)) => self.read = bytes,
                Some(Err(error)) => self.ended = Some(Some(error)),
                None => self.ended = Some(None),
            }
        }
    }
}

impl InputStream for OutputBody {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if !self.read.is_empty() {
            let size = size.min(self.read.len());
            return Ok(self.read.split_to(size));
        }
        match &mut self.ended {
            None => Ok(Bytes::new()),
            Some(error) => Err(match error.take() {
                Some(error) => StreamError::LastOperationFailed(error.into()),
                None => StreamError::Closed,
            }),
        }
    }
}

//! `workers:ai@0.3.0`: a call is an async function, a streamed output a `stream<u8>`.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::StreamExt as _;
use host_inference::{ByteStream, RunOutput};
use host_runtime::State;
use wasmtime::StoreContextMut;
use wasmtime::component::{Accessor, Destination, Linker, StreamProducer, StreamReader, StreamResult};

use super::admit;
use crate::{Bindings, Store};

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit",
        inline: "package host:bindings; world ai { import workers:ai/inference@0.3.0; }",
        imports: { "workers:ai/inference.run": store | async | trappable, default: trappable },
    });
}

use generated::workers::ai0_3_0::inference as wit;

conversions!();

pub(super) fn link(linker: &mut Linker<State<Bindings>>) -> wasmtime::Result<()> {
    wit::add_to_linker::<_, Store>(linker, |state| state)
}

impl wit::Host for State<Bindings> {}

impl<T: Send> wit::HostWithStore<T> for Store {
    async fn run(
        accessor: &Accessor<T, Self>,
        request: wit::Request,
    ) -> wasmtime::Result<Result<wit::Response, wit::Error>> {
        let admitted = accessor.with(|mut access| admit(access.get(), call(request)));
        let answer = match admitted {
            Ok(admitted) => admitted.run().await,
            Err(error) => Err(error),
        };
        let response = match answer {
            Ok(response) => response,
            Err(fault) => return Ok(Err(error(fault))),
        };
        let output = match response.output {
            RunOutput::Json(value) => wit::Output::Json(value.to_string()),
            RunOutput::Stream { content_type, body } => {
                let body = accessor.with(|access| StreamReader::new(access, OutputBody { body }))?;
                wit::Output::Stream(wit::EventStream { content_type, body })
            }
        };
        Ok(Ok(wit::Response { request_id: response.request_id, output }))
    }
}

/// A streamed output as a guest, or a response, reads it.
struct OutputBody {
    body: ByteStream,
}

impl<D> StreamProducer<D> for OutputBody {
    type Item = u8;
    type Buffer = Bytes;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, D>,
        mut destination: Destination<'a, u8, Bytes>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        if destination.remaining(&mut store) == Some(0) {
            // Whether a byte is there cannot be known without reading it; the next read will say.
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        loop {
            match self.body.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(bytes))) if bytes.is_empty() => {}
                Poll::Ready(Some(Ok(bytes))) => {
                    destination.set_buffer(bytes);
                    return Poll::Ready(Ok(StreamResult::Completed));
                }
                // Event streams carry their errors in band; a body of bytes ends short of its announced length.
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Ok(StreamResult::Dropped)),
                Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

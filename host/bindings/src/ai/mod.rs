//! `workers:ai`: `env.AI.run` in both flavours of WASI.
//!
//! The flavours differ only in how a guest waits ([`p2`], [`p3`]); scripts call over HTTP ([`wire`]). What a call may do,
//! and what it gives, is here.

/// Conversions between this module's types and the generated ones, which each flavour has of its own as `wit`.
macro_rules! conversions {
    () => {
        fn call(request: wit::Request) -> super::Call {
            let attachments = request.attachments.into_iter().map(|attachment| host_inference::Attachment {
                property: attachment.property,
                content_type: attachment.content_type,
                data: bytes::Bytes::from(attachment.data),
            });
            super::Call {
                binding: request.binding,
                model: request.model,
                inputs: request.inputs,
                attachments: attachments.collect(),
                options: request.options,
            }
        }

        fn error(error: host_inference::AiError) -> wit::Error {
            let retry_after = super::seconds(&error);
            wit::Error { code: error.code, status: error.status, message: error.message, retry_after }
        }
    };
}

mod p2;
mod p3;
mod wire;

pub(crate) use wire::answer;

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use host_batch::Progress;
use host_inference::{AiError, Attachment, RunOutput, RunRequest, RunResponse, Tenant};
use host_runtime::{RequestContext, State};
use serde_json::{Map, Value, json};
use wasmtime::component::Linker;

use crate::gateway::Trace;
use crate::{Bindings, gateway};

/// Longest `inputs` or `options` text. Parsed JSON takes many times its text's size.
const MAX_JSON_BYTES: usize = 16 << 20;
/// Longest binary inputs of one call.
const MAX_ATTACHMENT_BYTES: usize = 100 << 20;
/// Texts longer than this are parsed off the async workers.
const LONG_JSON_BYTES: usize = 128 << 10;

pub(crate) fn link(linker: &mut Linker<State<Bindings>>) -> wasmtime::Result<()> {
    p2::link(linker)?;
    p3::link(linker)
}

/// A guest's call, before anything of it has been looked at.
#[derive(Default)]
struct Call {
    binding: String,
    model: String,
    inputs: String,
    attachments: Vec<Attachment>,
    options: String,
}

/// A call with the right to make it.
struct Admitted {
    bindings: Bindings,
    context: Option<Arc<RequestContext>>,
    call: Call,
}

/// Checks what can be checked at once: the grant, the sub-request limit and the size.
fn admit(state: &State<Bindings>, call: Call) -> Result<Admitted, AiError> {
    if !state.charge_subrequest() {
        return Err(AiError::too_many_subrequests());
    }
    check(state.extension().clone(), state.request(), call)
}

/// As [`admit`], where the sub-request has been counted.
fn check(bindings: Bindings, context: Option<Arc<RequestContext>>, call: Call) -> Result<Admitted, AiError> {
    bindings.grants().check_ai(&call.binding, &call.model)?;
    if call.inputs.len().max(call.options.len()) > MAX_JSON_BYTES
        || call.attachments.iter().map(|attachment| attachment.data.len()).sum::<usize>() > MAX_ATTACHMENT_BYTES
    {
        return Err(AiError::too_large());
    }
    Ok(Admitted { bindings, context, call })
}

impl Admitted {
    async fn run(mut self) -> Result<RunResponse, AiError> {
        let (inputs, options) = (take(&mut self.call.inputs), take(&mut self.call.options));
        let length = inputs.len() + options.len();
        let (inputs, options) = parsed(length, move || parse(&inputs, &options)).await?;
        Ok(self.run_parsed(inputs, options).await?.0)
    }

    /// The model's answer, and what a gateway did with the call if it went through one.
    async fn run_parsed(mut self, inputs: Object, options: Object) -> Result<(RunResponse, Option<Trace>), AiError> {
        let Call { binding, model, attachments, .. } = take(&mut self.call);
        self.bindings.grants().check_lora(&binding, &inputs)?;
        if let Some(asked) = Batch::asked(&inputs, &options) {
            return self.batch(asked, model, inputs).await.map(|response| (response, None));
        }
        let answer = match gateway::named(&options) {
            Some(named) => {
                let ran = gateway::run(&self.bindings, &binding, named, model.clone(), inputs, attachments).await;
                ran.map(|(response, trace)| (response, Some(trace)))
            }
            None => self.run_engine(model.clone(), inputs, attachments, options).await.map(|response| (response, None)),
        };
        let request = self.context.as_deref().map_or("-", RequestContext::id);
        match &answer {
            Ok((response, _)) => tracing::debug!(request, model, ai_request = response.request_id, "ai run"),
            Err(error) => tracing::debug!(request, model, %error, "ai run failed"),
        }
        answer
    }

    /// Queues a batch, or says how far one is.
    async fn batch(&self, asked: Batch, model: String, inputs: Object) -> Result<RunResponse, AiError> {
        let (batches, worker) = (self.bindings.batches(), self.bindings.grants().worker());
        let (id, document) = match asked {
            Batch::Submit => {
                let id = batches.submit(worker, &model, inputs).await?;
                (id.clone(), json!({ "status": "queued", "model": model, "request_id": id }))
            }
            Batch::Poll(id) => {
                let document = match batches.progress(worker, &model, &id).await? {
                    Progress::Queued => json!({ "status": "queued", "model": model, "request_id": id }),
                    Progress::Running => json!({ "status": "running", "model": model, "request_id": id }),
                    Progress::Done(document) => document,
                };
                (id, document)
            }
        };
        Ok(RunResponse { request_id: id, output: RunOutput::Json(document) })
    }

    async fn run_engine(
        &self,
        model: String,
        inputs: Object,
        attachments: Vec<Attachment>,
        options: Object,
    ) -> Result<RunResponse, AiError> {
        let tenant = Tenant::from(self.bindings.grants().worker());
        self.bindings.engine().run(RunRequest { tenant, model, inputs, attachments, options }).await
    }
}

/// What a call wants of the batches.
enum Batch {
    Submit,
    Poll(String),
}

impl Batch {
    fn asked(inputs: &Object, options: &Object) -> Option<Self> {
        if let (Some(Value::String(id)), 1) = (inputs.get("request_id"), inputs.len()) {
            return Some(Self::Poll(id.clone()));
        }
        (options.get("queueRequest").and_then(Value::as_bool) == Some(true)).then_some(Self::Submit)
    }
}

type Object = Map<String, Value>;

/// What `parse` makes of `length` bytes of text, off the async workers where that takes long.
async fn parsed<T: Send + 'static>(
    length: usize,
    parse: impl FnOnce() -> Result<T, AiError> + Send + 'static,
) -> Result<T, AiError> {
    if length > LONG_JSON_BYTES {
        tokio::task::spawn_blocking(parse).await.map_err(AiError::internal)?
    } else {
        parse()
    }
}

fn parse(inputs: &str, options: &str) -> Result<(Object, Object), AiError> {
    let options = if options.is_empty() { Object::new() } else { object("options", options)? };
    Ok((object("inputs", inputs)?, options))
}

fn object(what: &str, text: &str) -> Result<Object, AiError> {
    match serde_json::from_str(text) {
        Ok(value) => only_object(what, value),
        Err(error) => Err(AiError::bad_input(format_args!("{what} is not JSON: {error}"))),
    }
}

fn only_object(what: &str, value: Value) -> Result<Object, AiError> {
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(AiError::bad_input(format_args!("type at '/' of {what} not met, expected object"))),
    }
}

/// After how many seconds trying again may help.
fn seconds(error: &AiError) -> Option<u32> {
    error.retry_after.as_ref().map(Duration::as_secs).map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX))
}

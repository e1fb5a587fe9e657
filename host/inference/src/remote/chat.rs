//! Text generation by a server.

use std::sync::Arc;
use std::time::Instant;

use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{self, StreamExt as _};
use host_upstream::{Ask, UpstreamError};
use serde_json::Value;

use super::messages;
use super::reading::{self, Whole};
use super::stream::{Streamed, until};
use super::{Shared, post, told};
use crate::AiError;
use crate::backend::{CallStyle, GenerateEvent, GenerateRequest, GenerateStream, TextGeneration, ToolChoice, Usage};

/// The longest whole answer that is read, in bytes.
const MAX_ANSWER: usize = 32 << 20;
/// Conversations longer than this are written down off the async workers.
const LONG_BODY: usize = 128 << 10;

/// A model that generates text elsewhere.
pub(super) struct Chat(Arc<Shared>);

impl Chat {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }
}

impl TextGeneration for Chat {
    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<GenerateStream, AiError>> {
        let shared = self.0.clone();
        async move {
            let deadline = request.deadline;
            let events = within(deadline, generate(shared, request)).await?;
            Ok(until(events, deadline))
        }
        .boxed()
    }

    fn call_style(&self) -> CallStyle {
        CallStyle::Native
    }
}

/// What `work` gives, or 3007 at the deadline.
pub(super) async fn within<T>(
    deadline: Option<Instant>,
    work: impl Future<Output = Result<T, AiError>>,
) -> Result<T, AiError> {
    match deadline {
        None => work.await,
        Some(deadline) => {
            tokio::time::timeout_at(deadline.into(), work).await.unwrap_or_else(|_| Err(AiError::timeout()))
        }
    }
}

async fn generate(shared: Arc<Shared>, request: GenerateRequest) -> Result<GenerateStream, AiError> {
    if request.lora.is_some() {
        return Err(AiError::no_adapters(&shared.model));
    }
    let streamed = request.streamed;
    let must_call = request.tool_choice != ToolChoice::Auto;
    let permit = shared.places.take(&request.tenant).await?;
    let ask = ask(&shared, request).await?;
    let failed = |error: UpstreamError| told(&shared.model, &error);
    if streamed {
        let begun = shared.upstreams.run(|attempt| {
            let ask = &ask;
            async move {
                let answer = attempt.send(ask).await?.success().await?;
                Streamed::begin(answer).await
            }
        });
        let (streamed, first) = begun.await.map_err(failed)?;
        return Ok(streamed.events(first, must_call, shared.model.clone(), permit));
    }
    let whole = shared.upstreams.run(|attempt| {
        let ask = &ask;
        async move {
            let mut answer = attempt.send(ask).await?.success().await?;
            let body = answer.whole(MAX_ANSWER).await?;
            reading::whole(&body).map_err(|reason| answer.broken(reason))
        }
    });
    let Whole { text, calls, finish, usage } = whole.await.map_err(failed)?;
    if must_call && calls.is_empty() {
        return Err(no_call(&shared.model));
    }
    let mut events = Vec::new();
    if !text.is_empty() {
        events.push(GenerateEvent::Text(text));
    }
    if !calls.is_empty() {
        events.push(GenerateEvent::Calls(calls));
    }
    events.push(GenerateEvent::Done { finish, usage: usage.unwrap_or(Usage::default()) });
    Ok(stream::iter(events).boxed())
}

/// Not every server holds its model to a call that it was told to make.
pub(super) fn no_call(model: &str) -> AiError {
    AiError::internal(format_args!("the server of {model} called no tool, though 'tool_choice' asks for a call"))
}

async fn ask(shared: &Arc<Shared>, request: GenerateRequest) -> Result<Ask, AiError> {
    let streamed = request.streamed;
    let long = length(&request) > LONG_BODY;
    let (model, schemas) = (shared.model.clone(), shared.schemas);
    let write = move || {
        let (path, body): (_, Value) = messages::body(&request, &model, schemas)?;
        Ok(post(path, &body, streamed))
    };
    if long { tokio::task::spawn_blocking(write).await.map_err(AiError::internal)? } else { write() }
}

fn length(request: &GenerateRequest) -> usize {
    match &request.prompt {
        crate::backend::Prompt::Raw(text) => text.len(),
        crate::backend::Prompt::Messages(messages) => messages.iter().map(|message| message.content.len()).sum(),
    }
}

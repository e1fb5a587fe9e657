//! From requests to jobs: prompts are rendered, tokenized and found to fit on a thread of their own, so that neither
//! callers nor running answers wait for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;

use super::grammar::Grammars;
use super::lora::{Adapter, Adapters};
use super::scheduler::{Place, Queue};
use super::sequence::Job;
use super::template::ChatTemplate;
use super::tokenizer::Vocabulary;
use crate::AiError;
use crate::backend::{GenerateEvent, GenerateRequest, Prompt};

/// A request on its way to the thread that tokenizes.
pub(super) struct Intake {
    pub(super) request: GenerateRequest,
    pub(super) place: Place,
    pub(super) reply: oneshot::Sender<Result<UnboundedReceiver<GenerateEvent>, AiError>>,
}

/// What turns requests into jobs.
pub(super) struct Prepare {
    pub(super) queue: Arc<Queue>,
    pub(super) vocabulary: Arc<Vocabulary>,
    pub(super) template: Option<ChatTemplate>,
    pub(super) grammars: Grammars,
    pub(super) adapters: Arc<Adapters>,
    pub(super) context: usize,
}

impl Prepare {
    pub(super) fn run(&self, requests: &mpsc::Receiver<Intake>) {
        while let Ok(Intake { request, place, reply }) = requests.recv() {
            if reply.is_closed() {
                continue;
            }
            let job = catch_unwind(AssertUnwindSafe(|| self.job(request)));
            let answer = match job {
                Ok(Ok((job, events))) => {
                    self.queue.push(job, place);
                    Ok(events)
                }
                Ok(Err(error)) => Err(error),
                Err(_) => Err(AiError::internal("reading the prompt panicked; the log has the place")),
            };
            // The caller may have gone; the job is then forgotten at the next step.
            let _ = reply.send(answer);
        }
    }

    fn job(&self, request: GenerateRequest) -> Result<(Job, UnboundedReceiver<GenerateEvent>), AiError> {
        let GenerateRequest { tenant, prompt, lora, tools, sampling, format, stop, max_tokens, deadline, .. } = request;
        let adapter = lora.map(|name| self.adapter(&name)).transpose()?;
        let (text, rendered) = match prompt {
            Prompt::Raw(text) => (text, false),
            Prompt::Messages(messages) => {
                let Some(template) = &self.template else {
                    return Err(AiError::bad_input("this model has no chat template: send 'prompt' with 'raw': true"));
                };
                let messages = self.vocabulary.marks().cut(messages);
                let text = template.render_with_tools(messages, &tools);
                (text.map_err(|error| AiError::bad_input(format!("at '/messages': {error}")))?, true)
            }
        };
        // Known before any of it is read, which bounds the work that a prompt can ask for.
        self.check(self.vocabulary.fewest_tokens(text.len()), max_tokens)?;
        let tokens = if rendered { self.vocabulary.encode_rendered(&text) } else { self.vocabulary.encode(&text) };
        let prompt = tokens.map_err(|error| AiError::bad_input(format!("at '/prompt': {error}")))?;
        if prompt.is_empty() {
            return Err(AiError::bad_input("at '/prompt': the prompt is empty"));
        }
        self.check(prompt.len(), max_tokens)?;
        let property = if tools.is_empty() { "/response_format" } else { "/tools" };
        let grammar = format.map(|format| self.grammars.start(&format, property)).transpose()?;
        let (events, receiver) = unbounded_channel();
        let salt = adapter.as_ref().map_or(0, |adapter| adapter.id());
        let job = Job { tenant, salt, prompt, sampling, stop, grammar, adapter, max_tokens, deadline, events };
        Ok((job, receiver))
    }

    fn adapter(&self, name: &str) -> Result<Arc<Adapter>, AiError> {
        match self.adapters.get(name) {
            Some(Ok(adapter)) => Ok(adapter),
            Some(Err(error)) => Err(AiError::model_unavailable(format_args!("the adapter {name}: {error}"))),
            None => Err(AiError::bad_input("at '/lora': the model has no such adapter")),
        }
    }

    fn check(&self, prompt: usize, max_tokens: usize) -> Result<(), AiError> {
        let tokens = prompt.saturating_add(max_tokens);
        if tokens > self.context { Err(AiError::context_exceeded(tokens, self.context)) } else { Ok(()) }
    }
}

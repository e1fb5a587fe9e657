//! Translation and summarization by a language model, which is asked in a prompt.
//!
//! A language model may stand for these two tasks where it was configured so, or where a name of Cloudflare's that does one
//! of them is an alias for it. The request is a system message that says what to do and the text as the user's; the answer
//! is whatever the model says, the likeliest token at each step, and only as good as the model is.

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};

use crate::AiError;
use crate::Tenant;
use crate::backend::{
    GenerateEvent, GenerateRequest, Message, Model, Prompt, Sampling, Summarization, SummaryRequest, TextGeneration,
    ToolChoice, Translation, TranslationRequest,
};
use crate::catalogue::Task;

/// Tokens of a translation at most, and of a summary, whatever a request says.
const MAX_TOKENS: usize = 1024;
/// The room that an answer keeps when a text is halved.
const LEAST_TOKENS: usize = 64;
/// How often a text that is too long is halved before it is refused.
const HALVINGS: u32 = 10;
/// What is taken for a language's name.
const LANGUAGE_CHARACTERS: usize = 40;

/// A language model that is asked.
struct Prompted(Arc<dyn TextGeneration>);

/// `model` for `task`, where it is a language model and the task is one that it can be asked for; else itself.
pub(crate) fn as_task(model: Model, task: Task) -> Model {
    match (model, task) {
        (Model::TextGeneration(model), Task::Translation) => Model::Translation(Arc::new(Prompted(model))),
        (Model::TextGeneration(model), Task::Summarization) => Model::Summarization(Arc::new(Prompted(model))),
        (model, _) => model,
    }
}

impl Translation for Prompted {
    fn translate(&self, request: TranslationRequest) -> BoxFuture<'_, Result<String, AiError>> {
        let TranslationRequest { tenant, text, source, target, deadline } = request;
        async move {
            let source =
                source.as_deref().map_or(Ok("English".to_owned()), |source| language("source_lang", source))?;
            let target = language("target_lang", &target)?;
            let instruction = format!(
                "You are a translator. Translate the user's message from {source} to {target}. Answer with the \
                 translation only."
            );
            self.ask(tenant, &instruction, &text, room(&text), deadline).await
        }
        .boxed()
    }
}

impl Summarization for Prompted {
    fn summarize(&self, request: SummaryRequest) -> BoxFuture<'_, Result<String, AiError>> {
        let SummaryRequest { tenant, text, max_length, deadline } = request;
        let instruction = "Summarize the user's message in a few sentences. Answer with the summary only.";
        async move { self.ask(tenant, instruction, &text, max_length.min(MAX_TOKENS), deadline).await }.boxed()
    }
}

impl Prompted {
    /// The model's whole answer. A text that does not fit is cut, as models made for the task cut it.
    async fn ask(
        &self,
        tenant: Tenant,
        instruction: &str,
        text: &str,
        mut max_tokens: usize,
        deadline: Option<Instant>,
    ) -> Result<String, AiError> {
        let message = |role: &str, content: &str| Message {
            role: role.to_owned(),
            content: content.to_owned(),
            extra: serde_json::Map::new(),
        };
        let mut length = text.len();
        let mut halvings = 0;
        let mut events = loop {
            while !text.is_char_boundary(length) {
                length -= 1;
            }
            let request = GenerateRequest {
                tenant: tenant.clone(),
                prompt: Prompt::Messages(vec![message("system", instruction), message("user", &text[..length])]),
                lora: None,
                tools: Vec::new(),
                tool_choice: ToolChoice::Auto,
                streamed: false,
                temperature_is_chosen: true,
                sampling: Sampling {
                    temperature: 0.0,
                    top_p: 1.0,
                    top_k: 0,
                    seed: None,
                    repetition_penalty: 1.0,
                    frequency_penalty: 0.0,
                    presence_penalty: 0.0,
                },
                format: None,
                stop: Vec::new(),
                max_tokens,
                deadline,
            };
            match self.0.generate(request).await {
                // 5021: prompt and answer do not fit the context.
                Err(error) if error.code == 5021 && halvings < HALVINGS => {
                    halvings += 1;
                    length /= 2;
                    // The answer to less text is shorter.
                    max_tokens = max_tokens.min((max_tokens / 2).max(LEAST_TOKENS));
                }
                result => break result?,
            }
        };
        let mut answer = String::new();
        while let Some(event) = events.next().await {
            match event {
                GenerateEvent::Text(text) => answer.push_str(&text),
                GenerateEvent::Calls(_) => {}
                GenerateEvent::Done { .. } => return Ok(answer.trim().to_owned()),
                GenerateEvent::Failed(error) => return Err(error),
            }
        }
        Err(AiError::internal("the model ended without an answer"))
    }
}

/// Tokens that the translation of a text may need: a byte is a token at worst.
fn room(text: &str) -> usize {
    text.len().saturating_add(LEAST_TOKENS).min(MAX_TOKENS)
}

/// The English name of a language, which a model knows better than its code.
fn language(property: &str, asked: &str) -> Result<String, AiError> {
    if let Some(name) = crate::seq2seq::language_name(asked) {
        return Ok(name.to_owned());
    }
    let asked = asked.trim();
    // A name that no table has may still be one that the model knows; a sentence in its place is none.
    let plain = !asked.is_empty()
        && asked.chars().count() <= LANGUAGE_CHARACTERS
        && asked.chars().all(|c| c.is_alphabetic() || matches!(c, ' ' | '-' | '_' | '(' | ')'));
    if plain && asked.chars().count() > 3 {
        return Ok(asked.to_owned());
    }
    let shown: String = asked.chars().filter(|c| !c.is_control()).take(LANGUAGE_CHARACTERS).collect();
    Err(AiError::bad_input(format_args!(
        "'/{property}' is '{shown}', which is no language; give a code such as en, fr, de, es, zh or ja, or an English name"
    )))
}

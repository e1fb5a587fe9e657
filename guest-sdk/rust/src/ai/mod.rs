//! `env.AI`: models that the host runs.
//!
//! [`Ai::run`] takes anything that serializes into the inputs a model documents and gives anything that its output
//! deserializes into: the types of this module, your own, or [`serde_json::Value`]. What models exist and how they
//! check their inputs is the host's business; this module adds no rule of its own.

mod gateway;
mod own_tasks;
mod sse;
mod stream;
mod tasks;
mod text;

pub use gateway::{Gateway, GatewayRequest};
pub use own_tasks::{
    Entity, ImageEmbeddingsInput, ImageEmbeddingsOutput, TokenClassificationInput, ZeroShotImageClassificationInput,
};
pub use stream::{AiStream, StreamEvent};
pub use tasks::{
    AutomaticSpeechRecognitionInput, AutomaticSpeechRecognitionOutput, BoundingBox, ContextText, DetectedObject,
    ImageToTextInput, ImageToTextOutput, Label, RerankerInput, RerankerOutput, Score, SpokenTextInput,
    SummarizationInput, SummarizationOutput, TextClassificationInput, TextEmbeddingsInput, TextEmbeddingsOutput,
    TextToImageInput, TextToImageOutput, TextToSpeechInput, TextToSpeechOutput, TranslationInput, TranslationOutput,
    Word,
};
pub use text::{Message, ResponseFormat, Role, TextGenerationInput, TextGenerationOutput, Tool, ToolCall, Usage};

use crate::{AiError, ByteStream, Error, Result, sys};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The models behind one `[ai]` binding.
///
/// ```no_run
/// use host_sdk::*;
///
/// # async fn example(env: Env) -> Result<()> {
/// let ai = env.ai("AI")?;
/// let input = ai::TextEmbeddingsInput::new(["cold start", "warm start"]);
/// let vectors: ai::TextEmbeddingsOutput = ai.run("@cf/baai/bge-small-en-v1.5", &input).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Ai {
    binding: String,
}

impl Ai {
    pub(crate) fn new(binding: &str) -> Self {
        Self { binding: binding.to_owned() }
    }

    /// A gateway by its id, for calls of its providers and of its log. What holds for it stands in the binding file; one
    /// that is not there has no cache and no limit.
    ///
    /// ```no_run
    /// # fn example(env: host_sdk::Env) -> host_sdk::Result<()> {
    /// let gateway = env.ai("AI")?.gateway("front");
    /// # drop(gateway);
    /// # Ok(())
    /// # }
    /// ```
    pub fn gateway(&self, id: &str) -> Gateway {
        Gateway::new(&self.binding, id)
    }

    /// Runs a model and waits for its whole output. Calls run side by side: await several with `join_all`. Dropping
    /// the future cancels the call.
    ///
    /// # Errors
    /// [`Error::Ai`] when the host or the model refuses, [`Error::SerdeJson`] when the output is not an `O`.
    ///
    /// ```no_run
    /// use host_sdk::*;
    /// use serde_json::{Value, json};
    ///
    /// # async fn example(env: Env) -> Result<Value> {
    /// env.ai("AI")?.run("@cf/meta/llama-3.1-8b-instruct", json!({ "prompt": "Hello", "max_tokens": 16 })).await
    /// # }
    /// ```
    pub async fn run<I, O>(&self, model: impl AsRef<str>, input: I) -> Result<O>
    where
        I: Serialize,
        O: DeserializeOwned,
    {
        let model = model.as_ref();
        self.call(model, to_object(model, &input)?, Vec::new(), String::new()).await?.json()
    }

    /// Runs a model that writes text and gives its output as it is made; `stream` is set in the inputs.
    ///
    /// # Errors
    /// [`Error::Ai`] when the host or the model refuses, also when the model does not stream.
    ///
    /// ```no_run
    /// use host_sdk::*;
    ///
    /// # async fn example(env: Env) -> Result<Response> {
    /// let input = ai::TextGenerationInput::prompt("Tell me a story");
    /// Response::stream(env.ai("AI")?.run_stream("@cf/meta/llama-3.1-8b-instruct", &input).await?)
    /// # }
    /// ```
    pub async fn run_stream<I: Serialize>(&self, model: impl AsRef<str>, input: I) -> Result<AiStream> {
        let model = model.as_ref();
        let mut inputs = to_object(model, &input)?;
        inputs.insert("stream".into(), Value::Bool(true));
        self.call(model, inputs, Vec::new(), String::new()).await?.into_stream()
    }

    /// Runs a model whose output is bytes: an image, a sound.
    ///
    /// # Errors
    /// [`Error::Ai`] when the host or the model refuses, also when the output is JSON.
    ///
    /// ```no_run
    /// use host_sdk::*;
    ///
    /// # async fn example(env: Env) -> Result<Response> {
    /// let input = ai::TextToImageInput::new("a lighthouse at dusk");
    /// let png = env.ai("AI")?.run_bytes("@cf/bytedance/stable-diffusion-xl-lightning", &input).await?;
    /// Response::stream(png)
    /// # }
    /// ```
    pub async fn run_bytes<I: Serialize>(&self, model: impl AsRef<str>, input: I) -> Result<ByteStream> {
        let model = model.as_ref();
        let reply = self.call(model, to_object(model, &input)?, Vec::new(), String::new()).await?;
        Ok(reply.into_stream()?.into_bytes())
    }

    /// Runs a model with everything that `run` can be given: binary inputs beside the JSON, and the call's options.
    /// `options` is an object such as `{"gateway": {"id": "g"}}`; `()` stands for none.
    ///
    /// # Errors
    /// [`Error::Ai`] when the host or the model refuses.
    ///
    /// ```no_run
    /// use host_sdk::ai::{Attachment, AutomaticSpeechRecognitionOutput};
    /// use host_sdk::*;
    /// use serde_json::json;
    ///
    /// # async fn example(mut req: Request, env: Env) -> Result<Response> {
    /// let audio = Attachment::new("audio", req.bytes().await?).with_content_type("audio/wav");
    /// let reply = env.ai("AI")?.run_with("@cf/openai/whisper", json!({}), vec![audio], ()).await?;
    /// let heard: AutomaticSpeechRecognitionOutput = reply.json()?;
    /// Response::ok(heard.text)
    /// # }
    /// ```
    pub async fn run_with<I, P>(
        &self,
        model: impl AsRef<str>,
        input: I,
        attachments: Vec<Attachment>,
        options: P,
    ) -> Result<AiReply>
    where
        I: Serialize,
        P: Serialize,
    {
        let model = model.as_ref();
        let options = match serde_json::to_value(options)? {
            Value::Null => String::new(),
            Value::Object(object) => serde_json::to_string(&object)?,
            other => return Err(format!("the options of a model call are an object, not {other}").into()),
        };
        self.call(model, to_object(model, &input)?, attachments, options).await
    }

    async fn call(
        &self,
        model: &str,
        inputs: serde_json::Map<String, Value>,
        attachments: Vec<Attachment>,
        options: String,
    ) -> Result<AiReply> {
        let inputs = serde_json::to_string(&inputs)?;
        let (binding, model) = (self.binding.clone(), model.to_owned());
        let reply = sys::ai_run(sys::AiCall { binding, model, inputs, attachments, options }).await?;
        let output = match reply.output {
            sys::AiOutput::Json(text) => AiOutput::Json(text),
            sys::AiOutput::Stream { content_type, body } => {
                AiOutput::Stream(AiStream::new(content_type, ByteStream::from_host(body)))
            }
        };
        Ok(AiReply { request_id: reply.request_id, output })
    }
}

fn to_object<I: Serialize>(model: &str, input: &I) -> Result<serde_json::Map<String, Value>> {
    match serde_json::to_value(input)? {
        Value::Object(object) => Ok(object),
        // What the host answers to a property that is wrong.
        other => {
            let message = format!("Error: the inputs of {model} are an object, not {other}");
            Err(AiError { code: 5006, status: 400, message, retry_after: None }.into())
        }
    }
}

/// Bytes that stand for one property of a model's inputs, so that they need not become base64.
///
/// ```
/// use host_sdk::ai::Attachment;
///
/// let photo = Attachment::new("image", vec![0xff, 0xd8]).with_content_type("image/jpeg");
/// # drop(photo);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub(crate) property: String,
    pub(crate) content_type: Option<String>,
    pub(crate) data: Vec<u8>,
}

impl Attachment {
    /// Bytes for the property called `property`.
    ///
    /// ```
    /// # use host_sdk::ai::Attachment;
    /// let sound = Attachment::new("audio", b"RIFF".to_vec());
    /// # drop(sound);
    /// ```
    pub fn new(property: impl Into<String>, data: Vec<u8>) -> Self {
        Self { property: property.into(), content_type: None, data }
    }

    /// Says what the bytes are.
    ///
    /// ```
    /// # use host_sdk::ai::Attachment;
    /// let sound = Attachment::new("audio", b"RIFF".to_vec()).with_content_type("audio/wav");
    /// # drop(sound);
    /// ```
    pub fn with_content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }
}

/// What a model answered, whichever form it has.
///
/// ```no_run
/// use host_sdk::ai::AiOutput;
///
/// # fn example(reply: host_sdk::ai::AiReply) -> host_sdk::Result<host_sdk::Response> {
/// host_sdk::console_log!("call {}", reply.request_id);
/// match reply.output {
///     AiOutput::Json(text) => host_sdk::Response::ok(text),
///     AiOutput::Stream(stream) => host_sdk::Response::stream(stream),
/// }
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct AiReply {
    /// The call's id, as it stands in the host's log.
    pub request_id: String,
    /// The output.
    pub output: AiOutput,
}

/// The output of a model call.
///
/// ```
/// let output = host_sdk::ai::AiOutput::Json("{}".into());
/// # drop(output);
/// ```
#[derive(Debug)]
pub enum AiOutput {
    /// One JSON document, as text.
    Json(String),
    /// A stream of events or of bytes.
    Stream(AiStream),
}

impl AiReply {
    /// The output, decoded.
    ///
    /// # Errors
    /// When the output is a stream or not an `O`.
    ///
    /// ```no_run
    /// # fn example(reply: host_sdk::ai::AiReply) -> host_sdk::Result<()> {
    /// let output: serde_json::Value = reply.json()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn json<O: DeserializeOwned>(self) -> Result<O> {
        match self.output {
            AiOutput::Json(text) => Ok(serde_json::from_str(&text)?),
            AiOutput::Stream(_) => Err("the output is a stream: use `run_stream`, or `run_bytes` for bytes".into()),
        }
    }

    /// The output as a stream.
    ///
    /// # Errors
    /// When the output is JSON.
    ///
    /// ```no_run
    /// # fn example(reply: host_sdk::ai::AiReply) -> host_sdk::Result<host_sdk::Response> {
    /// host_sdk::Response::stream(reply.into_stream()?)
    /// # }
    /// ```
    pub fn into_stream(self) -> Result<AiStream> {
        match self.output {
            AiOutput::Stream(stream) => Ok(stream),
            AiOutput::Json(_) => Err(Error::from("the output is JSON, not a stream: use `run`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(output: AiOutput) -> AiReply {
        AiReply { request_id: "r".into(), output }
    }

    #[test]
    fn an_output_of_the_other_form_is_an_error_that_says_what_to_call() {
        let json = reply(AiOutput::Json("{}".into())).into_stream().unwrap_err();
        assert!(json.to_string().contains("`run`"));
        let bytes = ByteStream::new(futures_util::stream::iter(Vec::<Result<Vec<u8>>>::new()));
        let stream = reply(AiOutput::Stream(AiStream::new("image/png".into(), bytes)));
        assert!(stream.json::<Value>().unwrap_err().to_string().contains("run_bytes"));
    }

    #[test]
    fn inputs_must_be_an_object() {
        assert!(to_object("@cf/x/y", &[1, 2]).is_err());
        assert!(to_object("@cf/x/y", &serde_json::json!({ "prompt": "a" })).is_ok());
    }
}

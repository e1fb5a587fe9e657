//! Text generation: the one task whose inputs are worth a builder.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// The inputs of a text generation model. What is not set is left to the model's defaults.
///
/// ```
/// use host_sdk::ai::{Message, TextGenerationInput};
///
/// let input = TextGenerationInput::messages([
///     Message::system("You answer in one sentence."),
///     Message::user("Why is the sky blue?"),
/// ])
/// .max_tokens(64)
/// .temperature(0.2)
/// .seed(7);
/// assert_eq!(serde_json::to_value(&input)?["messages"][1]["role"], "user");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TextGenerationInput {
    /// A prompt, for a single turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// A conversation. It takes the prompt's place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    /// The most tokens to write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Randomness, 0 to 5; 0 always takes the likeliest token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Only the likeliest tokens that together reach this probability, 0.001 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Only so many of the likeliest tokens, 1 to 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Makes the sampling repeatable, 1 to 9999999999.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Makes tokens that occurred less likely, 0 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,
    /// Lowers tokens by how often they occurred, -2 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f64>,
    /// Lowers tokens that occurred at all, -2 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f64>,
    /// Texts that end the output when they would be written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// Whether the prompt goes to the model without its chat template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw: Option<bool>,
    /// The name of an adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<String>,
    /// The form that the output must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<ResponseFormat>,
    /// What the model may call.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty;)*) => {
        $(
            $(#[$doc])*
            pub fn $name(mut self, $name: $type) -> Self {
                self.$name = Some($name);
                self
            }
        )*
    };
}

impl TextGenerationInput {
    /// A single turn.
    ///
    /// ```
    /// # use host_sdk::ai::TextGenerationInput;
    /// let input = TextGenerationInput::prompt("Once upon a time");
    /// assert_eq!(serde_json::to_string(&input)?, r#"{"prompt":"Once upon a time"}"#);
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn prompt(prompt: impl Into<String>) -> Self {
        Self { prompt: Some(prompt.into()), ..Self::default() }
    }

    /// A conversation.
    ///
    /// ```
    /// # use host_sdk::ai::{Message, TextGenerationInput};
    /// let input = TextGenerationInput::messages([Message::user("Hello")]);
    /// # drop(input);
    /// ```
    pub fn messages(messages: impl IntoIterator<Item = Message>) -> Self {
        Self { messages: messages.into_iter().collect(), ..Self::default() }
    }

    setters! {
        /// Sets the most tokens to write.
        ///
        /// ```
        /// let input = host_sdk::ai::TextGenerationInput::prompt("Hi").max_tokens(16);
        /// assert_eq!(input.max_tokens, Some(16));
        /// ```
        max_tokens: u32;
        /// Sets the randomness.
        ///
        /// ```
        /// let input = host_sdk::ai::TextGenerationInput::prompt("Hi").temperature(0.0);
        /// assert_eq!(input.temperature, Some(0.0));
        /// ```
        temperature: f64;
        /// Keeps the likeliest tokens up to a probability.
        ///
        /// ```
        /// let input = host_sdk::ai::TextGenerationInput::prompt("Hi").top_p(0.9);
        /// assert_eq!(input.top_p, Some(0.9));
        /// ```
        top_p: f64;
        /// Keeps a number of the likeliest tokens.
        ///
        /// ```
        /// let input = host_sdk::ai::TextGenerationInput::prompt("Hi").top_k(40);
        /// assert_eq!(input.top_k, Some(40));
        /// ```
        top_k: u32;
        /// Makes the sampling repeatable.
        ///
        /// ```
        /// let input = host_sdk::ai::TextGenerationInput::prompt("Hi").seed(7);
        /// assert_eq!(input.seed, Some(7));
        /// ```
        seed: u64;
        /// Makes tokens that occurred less likely.
        ///
        /// ```
        /// let input = host_sdk::ai::TextGenerationInput::prompt("Hi").repetition_penalty(1.1);
        /// assert_eq!(input.repetition_penalty, Some(1.1));
        /// ```
        repetition_penalty: f64;
        /// Lowers tokens by how often they occurred.
        ///
        /// ```
        /// let input = host_sdk::ai::TextGenerationInput::prompt("Hi").frequency_penalty(0.5);
        /// assert_eq!(input.frequency_penalty, Some(0.5));
        /// ```
        frequency_penalty: f64;
        /// Lowers tokens that occurred at all.
        ///
        /// ```
        /// let input = host_sdk::ai::TextGenerationInput::prompt("Hi").presence_penalty(0.5);
        /// assert_eq!(input.presence_penalty, Some(0.5));
        /// ```
        presence_penalty: f64;
        /// Sets the form that the output must have.
        ///
        /// ```
        /// use host_sdk::ai::{ResponseFormat, TextGenerationInput};
        ///
        /// let input = TextGenerationInput::prompt("A colour, as JSON").response_format(ResponseFormat::JsonObject);
        /// # drop(input);
        /// ```
        response_format: ResponseFormat;
    }

    /// Sends the prompt to the model as it is, without the chat template.
    ///
    /// ```
    /// let input = host_sdk::ai::TextGenerationInput::prompt("The year 2024 had 366 days because").raw();
    /// assert_eq!(input.raw, Some(true));
    /// ```
    pub fn raw(mut self) -> Self {
        self.raw = Some(true);
        self
    }

    /// Ends the output where `text` would be written.
    ///
    /// ```
    /// let input = host_sdk::ai::TextGenerationInput::prompt("A list:").stop("\n\n").stop("END");
    /// assert_eq!(input.stop.len(), 2);
    /// ```
    pub fn stop(mut self, text: impl Into<String>) -> Self {
        self.stop.push(text.into());
        self
    }

    /// Lets the model call a tool.
    ///
    /// ```
    /// use host_sdk::ai::{TextGenerationInput, Tool};
    /// use serde_json::json;
    ///
    /// let weather = Tool {
    ///     name: "weather".into(),
    ///     description: "The weather in a city".into(),
    ///     parameters: json!({ "type": "object", "properties": { "city": { "type": "string" } } }),
    /// };
    /// let input = TextGenerationInput::prompt("Is it raining in Lisbon?").tool(weather);
    /// # drop(input);
    /// ```
    pub fn tool(mut self, tool: Tool) -> Self {
        self.tools.push(tool);
        self
    }
}

/// Who says a message.
///
/// ```
/// assert_eq!(serde_json::to_string(&host_sdk::ai::Role::Assistant)?, r#""assistant""#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// What the model is told before the conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool.
    Tool,
}

/// One message of a conversation.
///
/// ```
/// use host_sdk::ai::{Message, Role};
///
/// assert_eq!(Message::user("Hello").role, Role::User);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// The tool's name, for a tool's result.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
}

impl Message {
    fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), name: None }
    }

    /// What the model is told before the conversation.
    ///
    /// ```
    /// let message = host_sdk::ai::Message::system("You are brief.");
    /// # drop(message);
    /// ```
    pub fn system(content: impl Into<String>) -> Self {
        Self::new(Role::System, content)
    }

    /// What the person says.
    ///
    /// ```
    /// let message = host_sdk::ai::Message::user("Hello");
    /// # drop(message);
    /// ```
    pub fn user(content: impl Into<String>) -> Self {
        Self::new(Role::User, content)
    }

    /// What the model said before.
    ///
    /// ```
    /// let message = host_sdk::ai::Message::assistant("Hello! How can I help?");
    /// # drop(message);
    /// ```
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new(Role::Assistant, content)
    }

    /// What the tool called `name` gave.
    ///
    /// ```
    /// let message = host_sdk::ai::Message::tool("weather", r#"{"rain":false}"#);
    /// # drop(message);
    /// ```
    pub fn tool(name: impl Into<String>, content: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..Self::new(Role::Tool, content) }
    }
}

/// The form that a model's text must have.
///
/// ```
/// use host_sdk::ai::ResponseFormat;
/// use serde_json::json;
///
/// let format = ResponseFormat::JsonSchema { json_schema: json!({ "type": "object" }) };
/// assert_eq!(serde_json::to_value(&format)?["type"], "json_schema");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ResponseFormat {
    /// Any JSON object.
    JsonObject,
    /// JSON that fits a schema.
    JsonSchema {
        /// The JSON Schema.
        json_schema: Value,
    },
}

/// What a model may call.
///
/// ```
/// let tool = host_sdk::ai::Tool {
///     name: "now".into(),
///     description: "The time".into(),
///     parameters: serde_json::json!({ "type": "object", "properties": {} }),
/// };
/// # drop(tool);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does, for the model to read.
    pub description: String,
    /// Its parameters as a JSON Schema.
    pub parameters: Value,
}

/// A call that the model wants made.
///
/// ```
/// let call: host_sdk::ai::ToolCall = serde_json::from_str(r#"{"name":"weather","arguments":{"city":"Lisbon"}}"#)?;
/// assert_eq!(call.arguments["city"], "Lisbon");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The tool's name.
    pub name: String,
    /// Its arguments. A model that answers in the shape of chat completions writes them as text, which is decoded here.
    pub arguments: Value,
}

/// How many tokens a call took.
///
/// ```
/// let usage = host_sdk::ai::Usage { prompt_tokens: 5, completion_tokens: 2, total_tokens: 7 };
/// # assert_eq!(usage.total_tokens, 7);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Tokens read.
    pub prompt_tokens: u64,
    /// Tokens written.
    pub completion_tokens: u64,
    /// Both.
    pub total_tokens: u64,
}

/// The output of a text generation model. With a JSON response format, `T` is the type that the JSON stands for.
///
/// The chat completions shape (`choices`) is read as well and becomes this one.
///
/// ```
/// use host_sdk::ai::TextGenerationOutput;
///
/// #[derive(serde::Deserialize)]
/// struct Colour { name: String }
///
/// let plain: TextGenerationOutput = serde_json::from_str(r#"{"response":"Hello"}"#)?;
/// assert_eq!(plain.response.as_deref(), Some("Hello"));
/// let typed: TextGenerationOutput<Colour> = serde_json::from_str(r#"{"response":{"name":"red"}}"#)?;
/// assert_eq!(typed.response.map(|colour| colour.name).as_deref(), Some("red"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TextGenerationOutput<T = String> {
    /// What the model wrote; none when it calls tools.
    pub response: Option<T>,
    /// The calls it wants made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// How many tokens it took, where the model says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for TextGenerationOutput<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = Wire::<T>::deserialize(deserializer)?;
        let message = wire.choices.into_iter().next().map(|choice| choice.message);
        let (content, chat_calls) = message.map(|message| (message.content, message.tool_calls)).unwrap_or_default();
        let calls = wire.tool_calls.or(chat_calls).unwrap_or_default();
        Ok(Self {
            response: wire.response.or(content),
            tool_calls: calls.into_iter().map(WireCall::into_call).collect(),
            usage: wire.usage,
        })
    }
}

#[derive(Deserialize)]
struct Wire<T> {
    #[serde(default = "none")]
    response: Option<T>,
    tool_calls: Option<Vec<WireCall>>,
    usage: Option<Usage>,
    #[serde(default = "Vec::new")]
    choices: Vec<Choice<T>>,
}

#[derive(Deserialize)]
struct Choice<T> {
    message: ChoiceMessage<T>,
}

#[derive(Deserialize)]
struct ChoiceMessage<T> {
    #[serde(default = "none")]
    content: Option<T>,
    tool_calls: Option<Vec<WireCall>>,
}

fn none<T>() -> Option<T> {
    None
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WireCall {
    Wrapped { function: ToolCall },
    Flat(ToolCall),
}

impl WireCall {
    fn into_call(self) -> ToolCall {
        let (WireCall::Wrapped { function: mut call } | WireCall::Flat(mut call)) = self;
        if let Value::String(text) = &call.arguments
            && let Ok(arguments) = serde_json::from_str(text)
        {
            call.arguments = arguments;
        }
        call
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn output(value: Value) -> TextGenerationOutput {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_what_was_set_is_sent() {
        let input = TextGenerationInput::messages([Message::user("a")]).top_k(3).stop("b").raw();
        let sent = serde_json::to_value(&input).unwrap();
        assert_eq!(
            sent,
            json!({ "messages": [{ "role": "user", "content": "a" }], "top_k": 3, "stop": ["b"], "raw": true })
        );
    }

    #[test]
    fn both_shapes_of_output_read_the_same() {
        let usage = json!({ "prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3 });
        let native = output(json!({ "response": "hi", "usage": usage }));
        let chat = output(
            json!({ "id": "c", "choices": [{ "message": { "role": "assistant", "content": "hi" } }], "usage": usage }),
        );
        assert_eq!(native, chat);
        assert_eq!(native.usage.unwrap().total_tokens, 3);
    }

    #[test]
    fn tool_calls_of_both_shapes_read_the_same() {
        let native = output(json!({ "response": null, "tool_calls": [{ "name": "f", "arguments": { "a": 1 } }] }));
        let function = json!({ "name": "f", "arguments": "{\"a\":1}" });
        let message =
            json!({ "content": null, "tool_calls": [{ "id": "1", "type": "function", "function": function }] });
        let chat = output(json!({ "choices": [{ "message": message }] }));
        assert_eq!(native, chat);
        assert_eq!(native.response, None);
        assert_eq!(native.tool_calls[0].arguments["a"], 1);
    }

    #[test]
    fn an_answer_serializes_as_the_native_shape() {
        let text = serde_json::to_string(&output(json!({ "response": "hi" }))).unwrap();
        assert_eq!(text, r#"{"response":"hi"}"#);
    }
}

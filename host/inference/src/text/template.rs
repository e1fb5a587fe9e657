//! A model's chat template: from messages to the text that the model was trained on.
//!
//! The template is a Jinja program that came with the weights, so it is as hostile as they are. It runs with a budget
//! of fuel, which in minijinja pays for instructions and for every byte that it makes, without a loader and without any
//! function that reaches outside. Templates were written for Python's Jinja: methods of strings and lists come from
//! minijinja-contrib, whitespace control is set as the `transformers` library sets it, and the functions that it
//! offers, `raise_exception` and `strftime_now`, exist here too.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::gguf::{GgufError, View};
use super::tool_prompt;
use crate::backend::{CallStyle, Message, Tool};
use crate::store::read_text;

/// Bytes of a template. The longest published ones, with tools, are some 20 KiB.
const MAX_TEMPLATE: usize = 1 << 18;
/// Bytes of a file that holds a template among other things.
const MAX_CONFIG: u64 = 4 << 20;
/// Fuel for the template itself: instructions, or 64 bytes of text each.
const FUEL: u64 = 500_000;
/// How many times the messages' own bytes may be copied.
const COPIES: u64 = 64;

/// Why a template gives no text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The metadata is not right.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A file that cannot be read.
    #[error("{0}")]
    File(String),
    /// Longer than a template needs to be.
    #[error("the chat template has {0} bytes; at most {MAX_TEMPLATE} are accepted")]
    TooLong(usize),
    /// Not a template.
    #[error("the chat template cannot be read: {0}")]
    Syntax(String),
    /// The template refuses these messages, in its own words.
    #[error("the model's chat template refuses these messages: {0}")]
    Refused(String),
    /// The template cannot handle these messages.
    #[error("the model's chat template fails on these messages: {0}")]
    Failed(String),
}

/// What of a configuration is read here.
#[derive(serde::Deserialize)]
struct TemplateConfig {
    chat_template: Option<Templates>,
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(serde::Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
    takes_tools: bool,
    call_style: CallStyle,
}

const NAME: &str = "chat";

impl ChatTemplate {
    /// The file's `tokenizer.chat_template`, if it has one. `bos` and `eos` are the texts of the tokens that start and
    /// end a sequence.
    ///
    /// # Errors
    /// When there is a template and it cannot be compiled.
    pub fn from_gguf(file: View<'_>, bos: &str, eos: &str) -> Result<Option<Self>, TemplateError> {
        file.text("tokenizer.chat_template")?.map(|source| Self::new(source, bos, eos)).transpose()
    }

    /// The chat template of a checkpoint whose files, as they are published, lie in `directory`: `chat_template.jinja`,
    /// `chat_template.json` or the one in `tokenizer_config.json`, the first that there is. Of several in one file, the one
    /// named `default`.
    ///
    /// # Errors
    /// When there is a template and it cannot be read or compiled.
    pub fn from_hugging_face(directory: &Path, bos: &str, eos: &str) -> Result<Option<Self>, TemplateError> {
        let file = |name: &str, limit: u64| {
            let path = directory.join(name);
            match path.try_exists() {
                Ok(false) => Ok(None),
                _ => read_text(&path, limit).map(Some).map_err(|error| TemplateError::File(error.to_string())),
            }
        };
        if let Some(source) = file("chat_template.jinja", MAX_TEMPLATE as u64)? {
            let source = String::from_utf8(source).map_err(|_| TemplateError::Syntax("it is not UTF-8".into()))?;
            return Self::new(&source, bos, eos).map(Some);
        }
        for name in ["chat_template.json", "tokenizer_config.json"] {
            let Some(bytes) = file(name, MAX_CONFIG)? else { continue };
            let config: TemplateConfig = serde_json::from_slice(&bytes)
                .map_err(|error| TemplateError::File(format!("{}: {error}", directory.join(name).display())))?;
            let source = match config.chat_template {
                None => continue,
                Some(Templates::One(source)) => source,
                Some(Templates::Named(named)) => {
                    let default = named.into_iter().find(|named| named.name == "default");
                    default.ok_or_else(|| TemplateError::File("no chat template is named \"default\"".into()))?.template
                }
            };
            return Self::new(&source, bos, eos).map(Some);
        }
        Ok(None)
    }

    /// Compiles `source`.
    ///
    /// # Errors
    /// When it is too long or not a template.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, TemplateError> {
        if source.len() > MAX_TEMPLATE {
            return Err(TemplateError::TooLong(source.len()));
        }
        let mut environment = Environment::new();
        environment.set_syntax(syntax()?);
        environment.set_recursion_limit(100);
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Refusal(message)))
        });
        environment.add_function("strftime_now", |format: String| -> Result<String, Error> {
            if format.len() > 256 {
                return Err(Error::new(ErrorKind::InvalidOperation, "strftime_now: the format is too long"));
            }
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            Ok(strftime(&format, now))
        });
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| TemplateError::Syntax(describe(&error)))?;
        // The names of variables and tokens in a template are all that tells what its model was trained on.
        let takes_tools = source.contains("tools");
        let llama3 = source.contains("<|python_tag|>") || source.contains("Environment: ipython");
        let call_style = match takes_tools {
            true if source.contains("[TOOL_CALLS]") => CallStyle::Mistral,
            true if llama3 => CallStyle::Llama3,
            _ => CallStyle::Hermes,
        };
        Ok(Self { environment, bos: bos.to_owned(), eos: eos.to_owned(), takes_tools, call_style })
    }

    /// How the model writes calls.
    pub fn call_style(&self) -> CallStyle {
        self.call_style
    }

    /// The prompt for the model's answer to `messages`, with tools that it may call. A template that knows no tools has
    /// them told in the system's turn.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn render_with_tools(&self, messages: Vec<Message>, tools: &[Tool]) -> Result<String, TemplateError> {
        let messages = tool_prompt::normalize(messages, self.call_style);
        if self.takes_tools {
            self.render_all(&messages, &tool_prompt::definitions(tools))
        } else {
            self.render(&tool_prompt::spelled_out(messages, tools))
        }
    }

    /// The prompt for the model's answer to `messages`.
    ///
    /// # Errors
    /// When the template refuses them, fails, or runs out of fuel.
    pub fn render(&self, messages: &[Message]) -> Result<String, TemplateError> {
        self.render_all(messages, &[])
    }

    fn render_all(&self, messages: &[Message], tools: &[serde_json::Value]) -> Result<String, TemplateError> {
        let failed = |error: Error| match refusal(&error) {
            Some(why) => TemplateError::Refused(why.chars().take(500).collect()),
            None => TemplateError::Failed(describe(&error)),
        };
        let size: usize = messages.iter().map(size).sum::<usize>() + tools.iter().map(json_size).sum::<usize>();
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(FUEL.saturating_add((size as u64 / 64).saturating_mul(COPIES))));
        let messages: Value = messages.iter().map(turn).collect();
        let template = environment.get_template(NAME).map_err(failed)?;
        let context = context! {
            messages => messages,
            bos_token => &self.bos,
            eos_token => &self.eos,
            add_generation_prompt => true,
            tools => if tools.is_empty() { Value::from(()) } else { tools.iter().map(json).collect() },
        };
        template.render(context).map_err(failed)
    }
}

/// About how many bytes a message is, for the work that it may take.
fn size(message: &Message) -> usize {
    let extra: usize = message.extra.iter().map(|(key, value)| key.len() + json_size(value)).sum();
    message.role.len() + message.content.len() + size_of::<Message>() + extra
}

fn json_size(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::String(text) => text.len() + 2,
        serde_json::Value::Array(items) => items.iter().map(|item| json_size(item) + 2).sum(),
        serde_json::Value::Object(map) => map.iter().map(|(key, value)| key.len() + 6 + json_size(value)).sum(),
        _ => 8,
    }
}

/// Line ends after blocks and spaces before them are not text, as templates are written for.
fn syntax() -> Result<SyntaxConfig, TemplateError> {
    let built = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    built.map_err(|error| TemplateError::Syntax(describe(&error)))
}

/// What a template said in `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

fn refusal(error: &Error) -> Option<&str> {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(Refusal(why)) = inner.downcast_ref() {
            return Some(why);
        }
        cause = inner.source();
    }
    None
}

fn turn(message: &Message) -> Value {
    let own = [("role", Value::from(message.role.as_str())), ("content", Value::from(message.content.as_str()))];
    let extra = message.extra.iter().filter(|(key, _)| *key != "role" && *key != "content");
    Value::from_pairs(own.into_iter().chain(extra.map(|(key, value)| (key.as_str(), json(value)))))
}

/// A JSON value as the template sees it. The value's depth was bounded when the request was parsed.
fn json(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(value) => Value::from(*value),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Value::from(whole),
            (None, Some(value)) => Value::from(value),
            (None, None) => Value::from(()),
        },
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => items.iter().map(json).collect(),
        serde_json::Value::Object(map) => Value::from_pairs(map.iter().map(|(key, value)| (key.as_str(), json(value)))),
    }
}

/// An error's kind and place, without the template's source.
fn describe(error: &Error) -> String {
    let text: String = error.to_string().chars().take(500).collect();
    match error.kind() {
        ErrorKind::OutOfFuel => format!("it does more work than a template may ({text})"),
        _ => text,
    }
}

/// The date formats that templates use, in UTC. Unknown directives stay as they are.
fn strftime(format: &str, seconds: u64) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    /// The first day of 1970 was a Thursday.
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let days = seconds / 86_400;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let (year, month, day) = civil(days);
    let month_name = MONTHS[(month as usize + 11) % 12];
    let day_name = DAYS[(days % 7) as usize];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('Y') => out.push_str(&year.to_string()),
            Some('y') => out.push_str(&format!("{:02}", year % 100)),
            Some('m') => out.push_str(&format!("{month:02}")),
            Some('d') => out.push_str(&format!("{day:02}")),
            Some('B') => out.push_str(month_name),
            Some('b') => out.push_str(&month_name[..3]),
            Some('A') => out.push_str(day_name),
            Some('a') => out.push_str(&day_name[..3]),
            Some('H') => out.push_str(&format!("{hour:02}")),
            Some('M') => out.push_str(&format!("{minute:02}")),
            Some('S') => out.push_str(&format!("{second:02}")),
            Some('F') => out.push_str(&format!("{year}-{month:02}-{day:02}")),
            Some('%') => out.push('%'),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}

/// Year, month and day of a day counted from 1970-01-01 (Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(content: &str) -> Message {
        Message { role: "user".into(), content: content.into(), extra: serde_json::Map::new() }
    }

    fn render(source: &str, content: &str) -> Result<String, TemplateError> {
        ChatTemplate::new(source, "<s>", "</s>").unwrap().render(&[user(content)])
    }

    #[test]
    fn what_templates_use_is_there() {
        let source = "{{ bos_token }}{% for m in messages %}\n    {% if m.role == 'user' %}\n\
                      [{{ m['content'].strip().upper() }}]{% endif %}\n{% endfor %}\
                      {% if add_generation_prompt %}go{{ eos_token }}{% endif %}\
                      {{ messages[0] | tojson }}{{ messages[1] is defined }}";
        let expected = "<s>[HI]go</s>{\"role\": \"user\", \"content\": \" hi \"}False";
        assert_eq!(render(source, " hi ").unwrap(), expected);
    }

    /// The checks and the loops of the templates that Mistral's models come with.
    const MISTRAL: &str = "{%- set turns = messages %}{%- set user = turns | selectattr('role', 'equalto', 'user') | list %}\
        {%- set ns = namespace(index=0) %}\
        {%- for m in turns | rejectattr('role', 'equalto', 'tool') | selectattr('tool_calls', 'undefined') %}\
        {%- if (m['role'] == 'user') != (ns.index % 2 == 0) %}{{ raise_exception('must alternate') }}{%- endif %}\
        {%- set ns.index = ns.index + 1 %}{%- endfor %}{{ bos_token }}\
        {%- for m in turns %}{%- if m['role'] == 'user' %}\
        {%- if tools is not none and m == user[-1] %}[AVAILABLE_TOOLS] [\
        {%- for tool in tools %}{{ '{\"function\": {' }}{%- for key, val in tool.function.items() if key != 'return' %}\
        {{ '\"' + key + '\": ' }}{{ val | tojson }}{%- if not loop.last %}{{ ', ' }}{%- endif %}{%- endfor %}{{ '}}' }}\
        {%- if not loop.last %}{{ ', ' }}{%- endif %}{%- endfor %}][/AVAILABLE_TOOLS]{%- endif %}[INST] {{ m['content'] }}[/INST]\
        {%- elif m.tool_calls is defined and m.tool_calls is not none %}[TOOL_CALLS] [\
        {%- for call in m.tool_calls %}{%- set out = call.function | tojson %}{{ out[:-1] }}\
        {%- if call.id is not defined or call.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{%- endif %}\
        {{ ', \"id\": \"' + call.id + '\"}' }}{%- if not loop.last %}{{ ', ' }}{%- else %}{{ ']' + eos_token }}{%- endif %}{%- endfor %}\
        {%- elif m['role'] == 'tool' %}\
        {%- if m.tool_call_id is not defined or m.tool_call_id | length != 9 %}{{ raise_exception('ids have nine characters') }}{%- endif %}\
        [TOOL_RESULTS] {\"content\": {{ m.content }}, \"call_id\": \"{{ m.tool_call_id }}\"}[/TOOL_RESULTS]\
        {%- else %} {{ m['content'] }}{{ eos_token }}{%- endif %}{%- endfor %}";

    #[test]
    fn calls_and_results_are_fed_back_as_mistral_writes_them() {
        let template = ChatTemplate::new(MISTRAL, "<s>", "</s>").unwrap();
        assert_eq!(template.call_style(), CallStyle::Mistral);
        let message = |value: serde_json::Value| {
            let serde_json::Value::Object(mut extra) = value else { panic!("an object") };
            let mut take =
                |key: &str| extra.remove(key).and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
            let (role, content) = (take("role"), take("content"));
            Message { role, content, extra }
        };
        let tools =
            [Tool { name: "time".into(), description: None, parameters: serde_json::json!({ "type": "object" }) }];
        let call = serde_json::json!({ "id": "call_1234567890", "type": "function", "function": { "name": "time", "arguments": "{}" } });
        let rendered = |call: serde_json::Value, result: serde_json::Value| {
            template.render_with_tools(vec![user("hi"), message(call), message(result)], &tools)
        };
        let tool = "[AVAILABLE_TOOLS] [{\"function\": {\"name\": \"time\", \"description\": \"\", \"parameters\": {\"type\": \"object\"}}}]\
                    [/AVAILABLE_TOOLS]";
        let expected = format!(
            "<s>{tool}[INST] hi[/INST][TOOL_CALLS] [{{\"name\": \"time\", \"arguments\": {{}}, \"id\": \"call00001\"}}]</s>\
             [TOOL_RESULTS] {{\"content\": noon, \"call_id\": \"call00001\"}}[/TOOL_RESULTS]"
        );
        let assistant = serde_json::json!({ "role": "assistant", "content": "", "tool_calls": [call] });
        let result = serde_json::json!({ "role": "tool", "content": "noon", "tool_call_id": "call_1234567890" });
        assert_eq!(rendered(assistant, result).unwrap(), expected);
        let spoken = serde_json::json!({ "role": "assistant", "content": "{\"name\":\"time\",\"arguments\":{}}" });
        let unnamed = serde_json::json!({ "role": "tool", "content": "noon" });
        assert_eq!(rendered(spoken, unnamed).unwrap(), expected);
    }

    #[test]
    fn a_template_can_refuse() {
        let error = render("{{ raise_exception('roles must alternate') }}", "x").unwrap_err();
        assert!(matches!(error, TemplateError::Refused(why) if why == "roles must alternate"));
    }

    #[test]
    fn extra_properties_reach_the_template_but_replace_nothing() {
        let mut message = user("c");
        message.extra.insert("name".into(), "n".into());
        message.extra.insert("content".into(), "forged".into());
        let template = ChatTemplate::new("{{ messages[0].name }}{{ messages[0].content }}", "", "").unwrap();
        assert_eq!(template.render(&[message]).unwrap(), "nc");
    }

    #[test]
    fn hostile_templates_run_out_of_fuel() {
        for source in [
            "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
            "{% for i in range(100000) %}{{ 'x' * 1000000 }}{% endfor %}",
            "{{ 'x' * 10000000000 }}",
            "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "{{ messages[0].content.replace('a', messages[0].content) }}",
            "{{ range(10000000) | list | length }}",
        ] {
            let error = render(source, &"a".repeat(100_000)).unwrap_err();
            assert!(matches!(error, TemplateError::Failed(_)), "{source}: {error}");
        }
    }

    #[test]
    fn broken_templates_are_named_so() {
        assert!(matches!(ChatTemplate::new("{% for %}", "", ""), Err(TemplateError::Syntax(_))));
        assert!(matches!(ChatTemplate::new(&"{{".repeat(200_000), "", ""), Err(TemplateError::TooLong(_))));
        assert!(ChatTemplate::new(&"{{(".repeat(10_000), "", "").is_err());
        let deep = format!("{{{{ {}1{} }}}}", "(".repeat(50_000), ")".repeat(50_000));
        assert!(ChatTemplate::new(&deep, "", "").is_err());
    }

    #[test]
    fn long_messages_do_not_run_out_of_fuel() {
        let source = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}";
        let messages: Vec<Message> = (0..200).map(|_| user(&"y".repeat(20_000))).collect();
        let text = ChatTemplate::new(source, "", "").unwrap().render(&messages).unwrap();
        assert_eq!(text.len(), 200 * (20_000 + "<|user|><|end|>".len()));
    }

    #[test]
    fn dates() {
        assert_eq!(strftime("%d %b %Y", 0), "01 Jan 1970");
        let found = strftime("%A %F %H:%M:%S %B %y %% %q %", 951_782_399);
        assert_eq!(found, "Monday 2000-02-28 23:59:59 February 00 % %q %");
        assert_eq!(strftime("%F", 1_709_164_800), "2024-02-29");
        assert_eq!(strftime("%F", 4_102_444_799), "2099-12-31");
    }
}

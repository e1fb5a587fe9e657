//! The JSON of text generation, against the scripted model.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::executor::block_on;
use futures::future::{BoxFuture, join_all};
use futures::stream::StreamExt;
use host_inference::backend::{GenerateRequest, GenerateStream, Prompt, Sampling, TextEmbeddings, TextGeneration};
use host_inference::mock::{MockEmbeddings, MockText};
use host_inference::tasks::text_generation;
use host_inference::{AiError, Attachment, RunOutput, RunRequest};
use serde_json::{Value, json};

fn request(inputs: Value) -> RunRequest {
    RunRequest {
        tenant: "t".into(),
        model: "m".into(),
        inputs: serde_json::from_value(inputs).unwrap(),
        attachments: Vec::new(),
        options: serde_json::Map::new(),
    }
}

fn run(script: Value, inputs: Value) -> Result<RunOutput, AiError> {
    let model: Arc<dyn TextGeneration> = Arc::new(MockText::new(&script).unwrap());
    block_on(text_generation::run(&model, &request(inputs)))
}

fn document(script: Value, inputs: Value) -> String {
    match run(script, inputs).unwrap() {
        RunOutput::Json(value) => value.to_string(),
        other => panic!("{other:?}"),
    }
}

fn body(output: RunOutput) -> String {
    let RunOutput::Stream { content_type, body } = output else { panic!("no stream") };
    assert_eq!(content_type, "text/event-stream");
    let parts: Vec<Bytes> = block_on(body.map(Result::unwrap).collect());
    String::from_utf8(parts.concat()).unwrap()
}

/// Keeps the request that it is given.
#[derive(Default)]
struct Recorder {
    request: Mutex<Option<GenerateRequest>>,
    adapters: Option<Vec<String>>,
}

impl TextGeneration for Recorder {
    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<GenerateStream, AiError>> {
        *self.request.lock().unwrap() = Some(request);
        Box::pin(async { Err(AiError::aborted()) })
    }

    fn adapters(&self) -> Option<Vec<String>> {
        self.adapters.clone()
    }
}

fn read(inputs: Value) -> GenerateRequest {
    let recorder = Arc::new(Recorder::default());
    let model: Arc<dyn TextGeneration> = recorder.clone();
    assert_eq!(block_on(text_generation::run(&model, &request(inputs))).unwrap_err().code, 3008);
    recorder.request.lock().unwrap().take().unwrap()
}

#[test]
fn the_document_has_the_contracts_fields_in_its_order() {
    let found = document(json!({ "reply": "It is {prompt}." }), json!({ "prompt": "so" }));
    assert_eq!(found, r#"{"response":"It is so.","usage":{"prompt_tokens":1,"completion_tokens":3,"total_tokens":4}}"#);
}

#[test]
fn the_stream_has_a_line_a_token_then_the_usage_then_the_end() {
    let text = body(run(json!({ "reply": "a  b c" }), json!({ "prompt": "x", "stream": true })).unwrap());
    let events: Vec<&str> = text.split_terminator("\n\n").collect();
    assert_eq!(events.len(), 5);
    for (event, word) in events.iter().zip(["a", "  b", " c"]) {
        assert!(event.starts_with(&format!("data: {{\"response\":\"{word}\",\"p\":\"")), "{event}");
        let value: Value = serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
        let padding = value["p"].as_str().unwrap();
        assert!((1..=36).contains(&padding.len()) && padding.chars().all(|c| c.is_ascii_alphanumeric()));
    }
    assert_eq!(
        events[3],
        r#"data: {"response":"","usage":{"prompt_tokens":1,"completion_tokens":3,"total_tokens":4}}"#
    );
    assert_eq!(events[4], "data: [DONE]");
}

#[test]
fn padding_hides_lengths() {
    let text = body(run(json!({ "reply": "a", "tokens": 200 }), json!({ "prompt": "x", "stream": true })).unwrap());
    let lengths: std::collections::HashSet<usize> = text.split("\n\n").map(str::len).collect();
    assert!(lengths.len() > 20, "{lengths:?}");
}

#[test]
fn a_failure_in_a_stream_is_reported_in_band_and_leaves_no_end_mark() {
    let script = json!({ "reply": "a b c", "fail": { "code": 3043, "message": "broken", "after": 2 } });
    let text = body(run(script.clone(), json!({ "prompt": "x", "stream": true })).unwrap());
    let events: Vec<&str> = text.split_terminator("\n\n").collect();
    assert_eq!(events.len(), 3);
    assert_eq!(events[2], r#"data: {"error":{"code":3043,"message":"Internal server error: broken"}}"#);
    assert_eq!(run(script, json!({ "prompt": "x" })).unwrap_err().code, 3043);
    let refused = run(json!({ "fail": { "code": 3040 } }), json!({ "prompt": "x", "stream": true })).unwrap_err();
    assert_eq!((refused.code, refused.status), (3040, 429));
}

#[test]
fn defaults_are_the_contracts() {
    let found = read(json!({ "prompt": "p" }));
    assert_eq!((found.max_tokens, found.stop.len()), (256, 0));
    let Sampling { temperature, top_p, top_k, seed, repetition_penalty, frequency_penalty, presence_penalty } =
        found.sampling;
    assert_eq!((temperature, top_p, top_k, seed), (0.6, 1.0, 0, None));
    assert_eq!((repetition_penalty, frequency_penalty, presence_penalty), (1.0, 0.0, 0.0));
    let Prompt::Messages(messages) = found.prompt else { panic!("rendered as a message") };
    assert_eq!((messages.len(), &*messages[0].role, &*messages[0].content), (1, "user", "p"));
}

#[test]
fn every_parameter_is_taken() {
    let found = read(json!({
        "prompt": "p", "raw": true, "max_tokens": 7.0, "temperature": 0, "top_p": 0.5, "top_k": 3, "seed": 9_999_999_999u64,
        "repetition_penalty": 2, "frequency_penalty": -2, "presence_penalty": 1.5, "stop": ["a", "b"], "unknown": 1,
        "lora": null, "tools": [], "response_format": { "type": "text" },
    }));
    assert!(matches!(found.prompt, Prompt::Raw(text) if text == "p"));
    assert_eq!((found.max_tokens, found.stop), (7, vec!["a".to_owned(), "b".to_owned()]));
    let s = found.sampling;
    assert_eq!((s.temperature, s.top_p, s.top_k, s.seed), (0.0, 0.5, 3, Some(9_999_999_999)));
    assert_eq!((s.repetition_penalty, s.frequency_penalty, s.presence_penalty), (2.0, -2.0, 1.5));
    assert_eq!(read(json!({ "prompt": "p", "max_completion_tokens": 5 })).max_tokens, 5);
    assert_eq!(read(json!({ "prompt": "p", "stop": "x" })).stop, ["x"]);
}

#[test]
fn contents_are_strings_null_or_parts() {
    let found = read(json!({ "messages": [
        { "role": "system", "content": "s" },
        { "role": "user", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] },
        { "role": "assistant", "content": null, "tool_calls": [1] },
        { "role": "tool", "name": "n", "content": "r" },
    ] }));
    let Prompt::Messages(messages) = found.prompt else { panic!("messages") };
    let contents: Vec<&str> = messages.iter().map(|message| &*message.content).collect();
    assert_eq!(contents, ["s", "ab", "", "r"]);
    assert_eq!(messages[2].extra["tool_calls"], json!([1]));
    assert_eq!(messages[3].extra["name"], "n");
}

#[test]
fn json_mode_answers_with_the_document_or_says_why_not() {
    let asked = |more: serde_json::Value| {
        let mut inputs = json!({ "prompt": "p", "response_format": { "type": "json_object" } });
        inputs.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        inputs
    };
    let script = json!({ "reply": "{\"name\": \"Ada\", \"age\": 36}" });
    let RunOutput::Json(output) = run(script.clone(), asked(json!({}))).unwrap() else { panic!("a document") };
    assert_eq!(output["response"], json!({ "name": "Ada", "age": 36 }));
    let cut = run(script, asked(json!({ "max_tokens": 2 }))).unwrap_err();
    assert!(cut.code == 5024 && cut.message.contains("max_tokens"), "{cut}");
    let prose = run(json!({ "reply": "certainly!" }), asked(json!({}))).unwrap_err();
    assert!(prose.code == 5024 && prose.message.starts_with("JSON Mode couldn't be met"), "{prose}");
}

#[test]
fn calls_of_tools_are_told_as_such_whole_and_in_a_stream() {
    let script = json!({ "reply": "Let me see. <tool_call>\n{\"name\": \"time\", \"arguments\": {\"zone\": \"UTC\"}}\n</tool_call>" });
    let inputs = json!({ "prompt": "p", "tools": [{ "name": "time", "parameters": { "type": "object" } }] });
    let calls = json!([{ "name": "time", "arguments": { "zone": "UTC" } }]);
    let RunOutput::Json(output) = run(script.clone(), inputs.clone()).unwrap() else { panic!("a document") };
    assert_eq!((&output["response"], &output["tool_calls"]), (&Value::Null, &calls));
    let mut streamed = inputs;
    streamed["stream"] = json!(true);
    let text = body(run(script, streamed).unwrap());
    assert!(text.contains("see.") && !text.contains("<tool_call>"), "{text}");
    assert!(text.contains(&format!("\"tool_calls\":{calls}")) && text.ends_with("data: [DONE]\n\n"), "{text}");
    // Without tools the same words are an answer like any other.
    let RunOutput::Json(plain) = run(json!({ "reply": "<tool_call>" }), json!({ "prompt": "p" })).unwrap() else {
        panic!("a document")
    };
    assert_eq!(plain["response"], "<tool_call>");
}

#[test]
fn what_breaks_the_schema_is_named() {
    let long = "x".repeat(131_073);
    for (inputs, part) in [
        (json!({}), "oneOf at '/' not met, 0 matches: required properties at '/' are 'prompt'"),
        (json!({ "prompt": "a", "messages": [] }), "2 matches"),
        (json!({ "prompt": 1 }), "'/prompt' must be a string"),
        (json!({ "prompt": "" }), "'/prompt' must not be empty"),
        (json!({ "prompt": long }), "'/prompt' must have at most 131072"),
        (json!({ "messages": "a" }), "'/messages' must be an array"),
        (json!({ "messages": [] }), "'/messages' must hold 1 to"),
        (json!({ "messages": ["a"] }), "'/messages/0' must be an object"),
        (json!({ "messages": [{ "content": "a" }] }), "required properties at '/messages/0'"),
        (json!({ "messages": [{ "role": "user" }] }), "required properties at '/messages/0'"),
        (json!({ "messages": [{ "role": 1, "content": "a" }] }), "'/messages/0/role'"),
        (json!({ "messages": [{ "role": "user", "content": 5 }] }), "'/messages/0/content'"),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] }),
            "'/messages/0/content/0/type' is 'image_url'",
        ),
        (json!({ "messages": [{ "role": "user", "content": [{ "type": "text" }] }] }), "'/messages/0/content/0/text'"),
        (json!({ "messages": [{ "role": "user", "content": ["a"] }] }), "'/messages/0/content/0' must be"),
        (json!({ "messages": [{ "role": "user", "content": "a" }], "raw": true }), "'/raw'"),
        (json!({ "prompt": "a", "max_tokens": 0 }), "'/max_tokens' must be an integer from 1"),
        (json!({ "prompt": "a", "max_tokens": 1.5 }), "'/max_tokens'"),
        (json!({ "prompt": "a", "max_tokens": "9" }), "'/max_tokens'"),
        (json!({ "prompt": "a", "max_tokens": -1 }), "'/max_tokens'"),
        (json!({ "prompt": "a", "max_completion_tokens": 0 }), "'/max_completion_tokens'"),
        (json!({ "prompt": "a", "temperature": 5.1 }), "'/temperature' must be a number from 0 to 5"),
        (json!({ "prompt": "a", "top_p": 0 }), "'/top_p'"),
        (json!({ "prompt": "a", "top_k": 51 }), "'/top_k'"),
        (json!({ "prompt": "a", "seed": 0 }), "'/seed'"),
        (json!({ "prompt": "a", "seed": 10_000_000_000u64 }), "'/seed'"),
        (json!({ "prompt": "a", "repetition_penalty": 2.1 }), "'/repetition_penalty'"),
        (json!({ "prompt": "a", "frequency_penalty": -2.1 }), "'/frequency_penalty'"),
        (json!({ "prompt": "a", "presence_penalty": true }), "'/presence_penalty'"),
        (json!({ "prompt": "a", "stream": "yes" }), "'/stream' must be a boolean"),
        (json!({ "prompt": "a", "stop": [""] }), "'/stop/0'"),
        (json!({ "prompt": "a", "stop": vec!["x"; 17] }), "'/stop' must hold at most 16"),
        (json!({ "prompt": "a", "stop": "x".repeat(257) }), "'/stop'"),
        (json!({ "prompt": "a", "tools": [{}] }), "'/tools/0/name'"),
        (json!({ "prompt": "a", "tools": [{ "name": "f" }], "raw": true }), "'/raw' does not go together"),
        (
            json!({ "prompt": "a", "tools": [{ "name": "f" }], "response_format": { "type": "json_object" } }),
            "'/response_format' does not go together",
        ),
        (json!({ "prompt": "a", "functions": [{}] }), "'/functions'"),
        (json!({ "prompt": "a", "response_format": { "type": "yaml" } }), "'/response_format/type'"),
        (json!({ "prompt": "a", "response_format": { "type": "json_schema" } }), "'/response_format/json_schema'"),
        (json!({ "prompt": "a", "lora": 1 }), "'/lora'"),
        (json!({ "prompt": "a", "lora": "" }), "'/lora'"),
        (json!({ "requests": [{ "prompt": "a" }] }), "'/requests'"),
    ] {
        let shown = inputs.to_string().chars().take(80).collect::<String>();
        let error = run(json!({}), inputs).err().unwrap_or_else(|| panic!("accepted {shown}"));
        assert_eq!((error.code, error.status), (5006, 400), "{shown}");
        assert!(error.message.contains(part), "{shown}: {error}");
    }
}

#[test]
fn adapters_are_asked_for_by_name_of_models_that_have_some() {
    let refused = |adapters: Option<&[&str]>, name: &str| {
        let adapters = adapters.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        let model: Arc<dyn TextGeneration> = Arc::new(Recorder { adapters, ..Recorder::default() });
        block_on(text_generation::run(&model, &request(json!({ "prompt": "a", "lora": name })))).unwrap_err()
    };
    let error = refused(None, "x");
    assert_eq!((error.code, error.status), (5005, 405));
    assert_eq!(error.message, "The model m does not support LoRa inference");
    let error = refused(Some(&["legal", "medical"]), "legla-");
    assert_eq!((error.code, error.status), (5006, 400));
    let lines = "[[ai.loras]]\n  name = \"legla-\"\n  path = \"FOLDER\"\n  models = [\"m\"]";
    assert!(error.message.contains("'/lora'") && error.message.contains(lines), "{error}");
    assert!(refused(Some(&["legal", "medical"]), "legal2").message.contains("did you mean \"legal\"?"));
    assert!(refused(Some(&[]), &"\n\"".repeat(1_000_000)).message.len() < 1000);

    let recorder = Arc::new(Recorder { adapters: Some(vec!["legal".into()]), ..Recorder::default() });
    let model: Arc<dyn TextGeneration> = recorder.clone();
    for inputs in [
        json!({ "prompt": "a", "raw": true, "lora": "legal" }),
        json!({ "messages": [{ "role": "user", "content": "a" }], "lora": "legal" }),
    ] {
        assert_eq!(block_on(text_generation::run(&model, &request(inputs))).unwrap_err().code, 3008);
        assert_eq!(recorder.request.lock().unwrap().take().unwrap().lora.as_deref(), Some("legal"));
    }
}

#[test]
fn what_is_not_supported_is_not_ignored() {
    let model: Arc<dyn TextGeneration> = Arc::new(MockText::new(&Value::Null).unwrap());
    let mut queued = request(json!({ "prompt": "a" }));
    queued.options.insert("queueRequest".into(), true.into());
    assert!(block_on(text_generation::run(&model, &queued)).unwrap_err().message.contains("queueRequest"));
    let mut binary = request(json!({ "prompt": "a" }));
    binary.attachments.push(Attachment { property: "prompt".into(), content_type: None, data: Bytes::new() });
    assert!(block_on(text_generation::run(&model, &binary)).unwrap_err().message.contains("'/prompt' is binary"));
}

#[test]
fn the_gateways_timeout_is_a_deadline() {
    let recorder = Arc::new(Recorder::default());
    let model: Arc<dyn TextGeneration> = recorder.clone();
    let run = |timeout: Value| {
        let mut request = request(json!({ "prompt": "a" }));
        request.options.insert("gateway".into(), json!({ "id": "g", "requestTimeoutMs": timeout }));
        block_on(text_generation::run(&model, &request)).unwrap_err()
    };
    let start = std::time::Instant::now();
    assert_eq!(run(json!(3_600_000)).code, 3008, "the recorder's answer");
    let deadline = recorder.request.lock().unwrap().take().unwrap().deadline.unwrap();
    assert!(deadline >= start + std::time::Duration::from_secs(3600));
    assert_eq!((run(Value::Null).code, read(json!({ "prompt": "a" })).deadline), (3008, None));
    for wrong in [json!(0), json!(-1), json!("1"), json!(1.5)] {
        let error = run(wrong);
        assert!(error.code == 5006 && error.message.contains("'gateway.requestTimeoutMs'"), "{error}");
    }
}

#[test]
fn dropping_a_stream_drops_its_generation() {
    let mock = MockText::new(&json!({ "reply": "a", "tokens": 1000 })).unwrap();
    let model: Arc<dyn TextGeneration> = Arc::new(mock.clone());
    let inputs = json!({ "prompt": "x", "stream": true, "max_tokens": 1000 });
    let RunOutput::Stream { mut body, .. } = block_on(text_generation::run(&model, &request(inputs))).unwrap() else {
        panic!()
    };
    assert!(block_on(body.next()).is_some());
    assert_eq!(mock.live(), 1);
    drop(body);
    assert_eq!(mock.live(), 0);
}

#[test]
fn two_hundred_streams_lose_nothing() {
    let mock = MockText::new(&json!({ "reply": "w", "tokens": 50 })).unwrap();
    let model: Arc<dyn TextGeneration> = Arc::new(mock.clone());
    let requests: Vec<RunRequest> = (0..200).map(|_| request(json!({ "prompt": "x", "stream": true }))).collect();
    let outputs = block_on(join_all(requests.iter().map(|request| text_generation::run(&model, request))));
    assert_eq!(mock.live(), 200);
    for output in outputs {
        let text = body(output.unwrap());
        assert_eq!(text.matches("\"response\":\"w\"").count(), 50);
        assert!(text.ends_with("data: [DONE]\n\n"));
    }
    assert_eq!(mock.live(), 0);
}

#[test]
fn a_mock_honours_max_tokens_and_its_script() {
    let found = document(json!({ "reply": "one two three" }), json!({ "prompt": "x", "max_tokens": 2 }));
    assert!(found.contains(r#""response":"one two""#) && found.contains(r#""completion_tokens":2"#), "{found}");
    for (script, part) in [
        (json!({ "replay": "x" }), "mock.replay: is not a key"),
        (json!({ "reply": 1 }), "mock.reply: must be a string"),
        (json!({ "tokens": -1 }), "mock.tokens: must be a whole number"),
        (json!({ "fail": { "code": 1 } }), "mock.fail.code: is none of"),
        (json!({ "fail": {} }), "mock.fail.code: must be a number"),
        (json!({ "dimensions": 0 }), "mock.dimensions: must be at least 1"),
        (json!([]), "must be a table"),
    ] {
        let error = MockText::new(&script).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn mock_embeddings_are_unit_vectors_that_depend_on_the_text() {
    let model = MockEmbeddings::new(&json!({ "dimensions": 50 })).unwrap();
    let texts = vec!["a b".to_owned(), "c".to_owned(), "a b".to_owned()];
    let found = block_on(model.embed("t".into(), texts, model.default_pooling())).unwrap();
    assert_eq!((found.tokens, model.dimensions()), (5, 50));
    assert_eq!(found.vectors[0], found.vectors[2]);
    for vector in &found.vectors {
        assert_eq!(vector.len(), 50);
        assert!((vector.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-5);
    }
    let cosine: f32 = found.vectors[0].iter().zip(&found.vectors[1]).map(|(a, b)| a * b).sum();
    assert!(cosine.abs() < 0.6, "{cosine}");
}

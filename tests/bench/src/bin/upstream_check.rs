//! `cargo xtask bench upstream`: the backend `openai` on two real servers, one of which is killed in the middle.
//!
//! Anything that is not as it should be is an error, so the JSON line that is printed says that all was.

use std::num::NonZeroUsize;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use futures::StreamExt as _;
use host_inference::engine::{Engine, EngineConfig, LocalModel, LocalSource};
use host_inference::remote::{RemoteModel, Schemas};
use host_inference::{RunOutput, RunRequest};
use serde_json::{Map, Value, json};

/// Drives two servers that speak OpenAI's interface.
#[derive(Parser)]
struct Arguments {
    /// The address of the server that stays, as in http://127.0.0.1:8000/v1.
    stays: String,
    /// The address of the server that is killed.
    dies: String,
    /// The process to kill.
    pid: u32,
    /// Requests of which the kill is in the middle.
    #[arg(long, default_value_t = 48)]
    requests: usize,
}

const NAME: &str = "@cf/remote/model";

fn engine(arguments: &Arguments) -> Result<Engine> {
    let remote = RemoteModel {
        addresses: vec![arguments.stays.parse()?, arguments.dies.parse()?],
        model: "model".to_owned(),
        key: None,
        timeout: Duration::from_secs(120),
        attempts: 3,
        concurrency: NonZeroUsize::MIN.saturating_add(63),
        dimensions: None,
        batch: NonZeroUsize::MIN,
        schemas: Schemas::JsonSchema,
        health: "/models".to_owned(),
    };
    let model = LocalModel::new(NAME, LocalSource::Remote(remote));
    Ok(Engine::new(EngineConfig { models: vec![model], ..EngineConfig::default() })?)
}

async fn run(engine: &Engine, inputs: Value) -> Result<RunOutput> {
    let Value::Object(inputs) = inputs else { bail!("inputs are an object") };
    let request = RunRequest {
        tenant: "check".into(),
        model: NAME.to_owned(),
        inputs,
        attachments: Vec::new(),
        options: Map::new(),
    };
    Ok(engine.run(request).await?.output)
}

async fn whole(engine: &Engine, inputs: Value) -> Result<Value> {
    match run(engine, inputs).await? {
        RunOutput::Json(value) => Ok(value),
        RunOutput::Stream { .. } => bail!("a stream, not JSON"),
    }
}

/// The text of a stream that ended as it should.
async fn streamed(engine: &Engine, inputs: Value) -> Result<String> {
    let RunOutput::Stream { mut body, .. } = run(engine, inputs).await? else { bail!("JSON, no stream") };
    let mut text = String::new();
    while let Some(piece) = body.next().await {
        text.push_str(std::str::from_utf8(&piece?)?);
    }
    ensure!(text.ends_with("data: [DONE]\n\n"), "the stream broke off: {text}");
    let events = text.split("\n\n").filter_map(|event| event.strip_prefix("data: {"));
    let said = events.map(|event| {
        Ok(serde_json::from_str::<Value>(&format!("{{{event}"))?["response"].as_str().unwrap_or_default().to_owned())
    });
    said.collect()
}

fn question(number: usize, stream: bool) -> Value {
    let content = format!("Write a sentence about the number {number}.");
    json!({ "messages": [{ "role": "user", "content": content }], "temperature": 0, "max_tokens": 24, "stream": stream })
}

/// What the interface has to carry, on whichever server is asked.
async fn shapes(engine: &Engine) -> Result<()> {
    let answer = whole(engine, question(1, false)).await?;
    let said = answer["response"].as_str().context("no text")?;
    ensure!(!said.is_empty() && answer["usage"]["completion_tokens"].as_u64() > Some(0), "{answer}");
    ensure!(streamed(engine, question(1, true)).await? == said, "a stream says something else than the whole");
    let schema = json!({ "type": "object", "properties": { "city": { "type": "string", "maxLength": 20 } }, "required": ["city"] });
    let mut inputs = question(2, false);
    inputs["response_format"] = json!({ "type": "json_schema", "json_schema": schema });
    inputs["max_tokens"] = 64.into();
    let answer = whole(engine, inputs).await?;
    ensure!(answer["response"]["city"].is_string(), "no answer of the schema's shape: {answer}");
    let mut inputs = question(3, false);
    inputs["tools"] = json!([{ "name": "weather", "description": "The weather in a city",
        "parameters": { "type": "object", "properties": { "city": { "type": "string", "maxLength": 20 } }, "required": ["city"] } }]);
    inputs["tool_choice"] = "required".into();
    inputs["max_tokens"] = 96.into();
    // The small model was never taught calls, and its server does not hold it to one: it is called, or that is told.
    match whole(engine, inputs.clone()).await {
        Ok(answer) => ensure!(answer["tool_calls"][0]["name"] == "weather", "no call: {answer}"),
        Err(error) => ensure!(error.to_string().contains("'tool_choice'"), "{error}"),
    }
    inputs["tool_choice"] = "auto".into();
    let answer = whole(engine, inputs).await?;
    ensure!(answer["response"].is_string() || answer["tool_calls"].is_array(), "{answer}");
    Ok(())
}

async fn check(arguments: &Arguments) -> Result<Value> {
    let engine = engine(arguments)?;
    shapes(&engine).await?;
    let began = Instant::now();
    let calls = (0..arguments.requests).map(|number| {
        let engine = engine.clone();
        async move { whole(&engine, question(number, false)).await.with_context(|| format!("request {number}")) }
    });
    let mut calls = futures::stream::iter(calls).buffer_unordered(6);
    let (mut answered, mut killed) = (0, 0);
    while let Some(answer) = calls.next().await {
        answer?;
        answered += 1;
        if answered == arguments.requests / 3 {
            let status = Command::new("kill").args(["-KILL", &arguments.pid.to_string()]).status()?;
            ensure!(status.success(), "the server could not be killed");
            killed = answered;
        }
    }
    for number in 0..4 {
        ensure!(!streamed(&engine, question(number, true)).await?.is_empty(), "an empty stream");
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(
        json!({ "check": "upstream", "requests": answered, "killed_after": killed, "failed": 0, "streams_after": 4, "seconds": seconds }),
    )
}

#[tokio::main]
async fn main() -> Result<()> {
    println!("{}", check(&Arguments::parse()).await?);
    Ok(())
}

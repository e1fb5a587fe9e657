//! One stream: prefill, decode, and what a JSON schema costs.
//!
//! Prefill is a long prompt with one token of answer. Decode is the difference between a long and a one-token answer to
//! a short prompt, over the tokens between them.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use host_inference::{DeviceChoice, Engine, EngineConfig, LocalModel, LocalSource, RunOutput, RunRequest};
use http::Uri;
use serde_json::{Map, Value, json};

use super::client::{Client, Usage};
use super::prompts;

/// The name under which the engine gets the weights.
const NAME: &str = "measured";
/// Tokens that a constrained answer may have; the schema ends it long before.
const CONSTRAINED_TOKENS: u64 = 512;

#[derive(Args)]
pub(crate) struct EngineOptions {
    /// A GGUF file.
    #[arg(long)]
    model: PathBuf,
    /// Threads to compute on.
    #[arg(long, default_value_t = NonZeroUsize::MIN)]
    threads: NonZeroUsize,
    /// Tokens of context.
    #[arg(long, default_value = "1024")]
    context: NonZeroUsize,
    #[command(flatten)]
    what: What,
}

#[derive(Args)]
pub(crate) struct ServerOptions {
    /// `http://HOST:PORT` of a llama.cpp server.
    #[arg(long)]
    address: Uri,
    #[command(flatten)]
    what: What,
}

#[derive(Args)]
struct What {
    /// Tokens of the measured answer, beyond the first.
    #[arg(long, default_value_t = 128)]
    decode_tokens: u64,
    /// Measure what a JSON schema costs, and not prefill and decode.
    #[arg(long)]
    schema: bool,
}

pub(crate) async fn engine(options: &EngineOptions) -> Result<Value> {
    let model = LocalModel {
        context: Some(options.context),
        ..LocalModel::new(NAME, LocalSource::Path(options.model.clone()))
    };
    let engine = Engine::new(EngineConfig {
        device: DeviceChoice::Cpu,
        threads: Some(options.threads),
        models: vec![model],
        ..EngineConfig::default()
    })?;
    engine.warm(NAME).await?;
    let mut measured = options.what.measure(&mut Target::Engine(engine)).await?;
    measured["rss_mb"] = peak_memory()?.into();
    Ok(measured)
}

pub(crate) async fn server(options: &ServerOptions) -> Result<Value> {
    let client = Client::connect(&options.address).await?;
    options.what.measure(&mut Target::Server(client)).await
}

impl What {
    async fn measure(&self, target: &mut Target) -> Result<Value> {
        target.complete(prompts::WARM_UP, 8, None).await?;
        match self.schema {
            true => self.schema(target).await,
            false => self.speed(target).await,
        }
    }

    async fn speed(&self, target: &mut Target) -> Result<Value> {
        let prefill = target.complete(&prompts::long(), 1, None).await?;
        let first = target.complete(prompts::FIRST, 1, None).await?;
        let decode = target.complete(prompts::DECODE, self.decode_tokens + 1, None).await?;
        let tokens = decode.usage.completion.saturating_sub(first.usage.completion);
        if tokens < self.decode_tokens / 2 {
            bail!("the model ended its answer after {tokens} tokens: nothing to measure");
        }
        Ok(json!({
            "prefill_tokens": prefill.usage.prompt,
            "decode_tokens": tokens,
            "prefill_tps": prefill.usage.prompt as f64 / prefill.seconds,
            "decode_tps": tokens as f64 / (decode.seconds - first.seconds),
        }))
    }

    /// The constrained answer comes first and says how long the free one must be, since a free one can be cut anywhere.
    async fn schema(&self, target: &mut Target) -> Result<Value> {
        let schema = prompts::schema();
        // Grammars may be compiled once and kept, as a service that uses one does.
        target.complete(prompts::CONSTRAINED, CONSTRAINED_TOKENS, Some(&schema)).await?;
        let constrained = target.complete(prompts::CONSTRAINED, CONSTRAINED_TOKENS, Some(&schema)).await?;
        let free = target.complete(prompts::FREE, constrained.usage.completion, None).await?;
        // Later tokens cost more, so only answers of one length compare.
        if free.usage.completion != constrained.usage.completion {
            let (free, constrained) = (free.usage.completion, constrained.usage.completion);
            bail!("the free answer ended after {free} tokens, the constrained one has {constrained}");
        }
        let (with, without) = (constrained.tokens_per_second(), free.tokens_per_second());
        Ok(json!({
            "schema_tokens": constrained.usage.completion,
            "free_tokens": free.usage.completion,
            "schema_tps": with,
            "free_tps": without,
            "schema_cost": 1.0 - with / without,
        }))
    }
}

/// Who is asked.
enum Target {
    Engine(Engine),
    Server(Client),
}

/// One timed call.
struct Timed {
    seconds: f64,
    usage: Usage,
}

impl Timed {
    fn tokens_per_second(&self) -> f64 {
        self.usage.completion as f64 / self.seconds
    }
}

impl Target {
    async fn complete(&mut self, prompt: &str, tokens: u64, schema: Option<&Value>) -> Result<Timed> {
        let start = Instant::now();
        let answer = match self {
            Self::Engine(engine) => {
                let mut inputs = Map::new();
                inputs.insert("prompt".into(), prompt.into());
                inputs.insert("raw".into(), true.into());
                inputs.insert("temperature".into(), 0.into());
                inputs.insert("max_tokens".into(), tokens.into());
                if let Some(schema) = schema {
                    let format = json!({ "type": "json_schema", "json_schema": schema });
                    inputs.insert("response_format".into(), format);
                }
                let request = RunRequest {
                    tenant: "bench".into(),
                    model: NAME.to_owned(),
                    inputs,
                    attachments: Vec::new(),
                    options: Map::new(),
                };
                match engine.run(request).await?.output {
                    RunOutput::Json(answer) => answer,
                    _ => bail!("the engine streamed an answer that should be whole"),
                }
            }
            Self::Server(client) => {
                let mut body = json!({
                    "prompt": prompt, "max_tokens": tokens, "temperature": 0, "cache_prompt": false,
                });
                match schema {
                    Some(schema) => body["json_schema"] = schema.clone(),
                    None => body["ignore_eos"] = true.into(),
                }
                client.json("/v1/completions", &body).await?
            }
        };
        Ok(Timed { seconds: start.elapsed().as_secs_f64(), usage: Usage::of(&answer)? })
    }
}

/// The most memory that this process has held so far, in MB.
fn peak_memory() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes: f64 = line
        .and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok())
        .context("/proc/self/status has no VmHWM")?;
    Ok(kibibytes * 1024.0 / 1e6)
}

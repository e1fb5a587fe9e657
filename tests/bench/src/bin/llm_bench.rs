//! One measurement of this project's text generation; `llama_cpp.py` beside it measures llama.cpp in the same way.
//!
//! Both time whole calls from outside and take the same prompts. Prefill is a long prompt with one token of answer.
//! Decode is the difference between a long and a one-token answer to a short prompt, over the tokens between them.
//! The engine is driven through its public call, so that scheduling and JSON are part of the figure.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use host_inference::store::{Layout, ModelName, Store, default_directory};
use host_inference::{DeviceChoice, Engine, EngineConfig, LocalModel, LocalSource, RunOutput, RunRequest};
use serde_json::{Map, Value, json};

/// The name under which the engine gets the weights.
const NAME: &str = "measured";

/// Prints prefill and decode in tokens/s and the memory the model took, as one JSON object.
#[derive(Parser)]
struct Arguments {
    /// Print where the store keeps this model's GGUF file, and end.
    #[arg(long, value_name = "NAME")]
    locate: Option<String>,
    /// A GGUF file.
    #[arg(long, required_unless_present = "locate")]
    model: Option<PathBuf>,
    /// Threads to compute on.
    #[arg(long, default_value_t = NonZeroUsize::MIN)]
    threads: NonZeroUsize,
    /// Tokens of context.
    #[arg(long, default_value = "1024")]
    context: NonZeroUsize,
    /// JSON: warm_up, prefill, first, decode.
    #[arg(long, required_unless_present = "locate")]
    prompts: Option<String>,
    /// Tokens of the measured answer, beyond the first.
    #[arg(long, default_value_t = 128)]
    decode_tokens: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(name) = &arguments.locate {
        println!("{}", locate(name)?.display());
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("{}", runtime.block_on(measure(&arguments))?);
    Ok(())
}

fn locate(name: &str) -> Result<PathBuf> {
    let name: ModelName = name.parse()?;
    let installed = Store::open(default_directory()).find(&name)?;
    let installed = installed.with_context(|| format!("{name} is not in the store: run `host models pull {name}`"))?;
    match installed.layout {
        Layout::Gguf(path) => Ok(path),
        _ => bail!("{name} is no GGUF file"),
    }
}

async fn measure(arguments: &Arguments) -> Result<Value> {
    let model = arguments.model.clone().context("--model is missing")?;
    let prompts: Value = serde_json::from_str(arguments.prompts.as_deref().context("--prompts is missing")?)?;
    let prompt = |name: &str| prompts[name].as_str().with_context(|| format!("--prompts has no `{name}`"));

    let before = resident("VmRSS")?;
    let model = LocalModel {
        name: NAME.to_owned(),
        task: None,
        source: LocalSource::Path(model),
        context: Some(arguments.context),
        pooling: None,
    };
    let engine = Engine::new(EngineConfig {
        device: DeviceChoice::Cpu,
        threads: Some(arguments.threads),
        models: vec![model],
        ..EngineConfig::default()
    })?;
    engine.warm(NAME).await?;

    generate(&engine, prompt("warm_up")?, 8).await?;
    let prefill = generate(&engine, prompt("prefill")?, 1).await?;
    let first = generate(&engine, prompt("first")?, 1).await?;
    let decode = generate(&engine, prompt("decode")?, arguments.decode_tokens + 1).await?;
    let tokens = decode.completion_tokens.saturating_sub(first.completion_tokens);
    if tokens == 0 {
        bail!("the model ended its answer at once: nothing to measure");
    }
    Ok(json!({
        "prefill_tokens": prefill.prompt_tokens,
        "decode_tokens": tokens,
        "prefill_tps": prefill.prompt_tokens as f64 / prefill.seconds,
        "decode_tps": tokens as f64 / (decode.seconds - first.seconds),
        "rss_mb": resident("VmHWM")? - before,
    }))
}

/// One timed call.
struct Timed {
    seconds: f64,
    prompt_tokens: u64,
    completion_tokens: u64,
}

async fn generate(engine: &Engine, prompt: &str, tokens: u64) -> Result<Timed> {
    let mut inputs = Map::new();
    inputs.insert("prompt".into(), prompt.into());
    inputs.insert("raw".into(), true.into());
    inputs.insert("temperature".into(), 0.into());
    inputs.insert("max_tokens".into(), tokens.into());
    let request = RunRequest {
        tenant: "bench".into(),
        model: NAME.to_owned(),
        inputs,
        attachments: Vec::new(),
        options: Map::new(),
    };
    let start = Instant::now();
    let response = engine.run(request).await?;
    let seconds = start.elapsed().as_secs_f64();
    let RunOutput::Json(answer) = response.output else { bail!("the engine streamed an answer that should be whole") };
    let count = |name: &str| answer["usage"][name].as_u64().with_context(|| format!("the answer has no {name}"));
    Ok(Timed { seconds, prompt_tokens: count("prompt_tokens")?, completion_tokens: count("completion_tokens")? })
}

/// `VmRSS` (now) or `VmHWM` (peak) of this process in MB.
fn resident(field: &str) -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kibibytes: f64 = line
        .and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok())
        .with_context(|| format!("/proc/self/status has no {field}"))?;
    Ok(kibibytes * 1024.0 / 1e6)
}

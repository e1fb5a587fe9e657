//! Concurrent streams from a server, ours or llama.cpp's: a closed loop with a fixed number of visitors, each asking
//! the next question when its last one was answered.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use http::Uri;
use serde_json::{Value, json};
use tokio::task::LocalSet;

use super::client::{Client, Streamed};
use super::prompts;

/// How a server is asked.
#[derive(Clone, Copy, ValueEnum)]
enum Server {
    /// A worker of this project's host that passes a call of `env.AI` on.
    Host,
    /// llama.cpp's server.
    Llama,
}

#[derive(Args, Clone)]
struct Asked {
    /// `http://HOST:PORT`
    #[arg(long)]
    address: Uri,
    /// Whose server it is.
    #[arg(long, value_enum)]
    server: Server,
}

#[derive(Args, Clone)]
pub(crate) struct Options {
    #[command(flatten)]
    asked: Asked,
    /// Streams at once.
    #[arg(long)]
    streams: usize,
    /// Questions on each of them.
    #[arg(long, default_value_t = 2)]
    questions: usize,
    /// Tokens of an answer.
    #[arg(long, default_value_t = 64)]
    max_tokens: u64,
    /// Number of the first question, so that no measurement asks what another one did.
    #[arg(long, default_value_t = 0)]
    first_question: usize,
}

#[derive(Args)]
pub(crate) struct PrefixOptions {
    #[command(flatten)]
    asked: Asked,
    /// Pairs of a cold and a warm prompt.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Number of the first beginning, so that none has been seen by this server.
    #[arg(long, default_value_t = 0)]
    first_edition: usize,
}

impl Asked {
    /// On a connection of its own: llama.cpp's server closes one after a stream.
    async fn ask(&self, prompt: &str, max_tokens: u64) -> Result<Streamed> {
        let mut client = Client::connect(&self.address).await?;
        match self.server {
            Server::Host => {
                let inputs = json!({
                    "prompt": prompt, "raw": true, "stream": true, "temperature": 0, "max_tokens": max_tokens,
                });
                client.stream("/stream", &json!({ "model": "measured", "inputs": inputs })).await
            }
            Server::Llama => {
                let body = json!({
                    "prompt": prompt, "stream": true, "temperature": 0, "max_tokens": max_tokens, "ignore_eos": true,
                    "cache_prompt": true, "stream_options": { "include_usage": true },
                });
                client.stream("/v1/completions", &body).await
            }
        }
    }
}

/// What the connections of one measurement share.
struct Load {
    options: Options,
    next: Cell<usize>,
}

pub(crate) async fn measure(options: &Options) -> Result<Value> {
    if options.streams == 0 || options.questions == 0 || options.max_tokens == 0 {
        bail!("--streams, --questions and --max-tokens must be at least 1");
    }
    let load = Rc::new(Load { options: options.clone(), next: Cell::new(0) });
    let local = LocalSet::new();
    let start = Instant::now();
    let tasks: Vec<_> = (0..options.streams).map(|_| local.spawn_local(answers(load.clone()))).collect();
    local.await;
    let seconds = start.elapsed().as_secs_f64();
    let mut answers = Vec::new();
    for task in tasks {
        answers.extend(task.await?);
    }
    Ok(summary(&answers, options.max_tokens, seconds))
}

async fn answers(load: Rc<Load>) -> Vec<Result<Streamed>> {
    let options = &load.options;
    let mut answers = Vec::new();
    loop {
        let number = load.next.get();
        if number == options.streams * options.questions {
            return answers;
        }
        load.next.set(number + 1);
        let prompt = prompts::visitor(options.first_question + number);
        answers.push(options.asked.ask(&prompt, options.max_tokens).await);
    }
}

/// Failures are counted, not hidden: a server that fails half of its requests is fast with the rest.
fn summary(answers: &[Result<Streamed>], max_tokens: u64, seconds: f64) -> Value {
    let mut failures: BTreeMap<String, usize> = BTreeMap::new();
    for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        *failures.entry(format!("{error:#}")).or_default() += 1;
    }
    let answered: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
    let tokens: u64 = answered.iter().map(|answer| answer.usage.completion).sum();
    let mut first: Vec<f64> = answered.iter().map(|answer| answer.first * 1e3).collect();
    first.sort_by(f64::total_cmp);
    let percentile = |share: f64| first.get(((first.len() as f64 * share) as usize).min(first.len().saturating_sub(1)));
    json!({
        "answers": answered.len(),
        "short_answers": answered.iter().filter(|answer| answer.usage.completion < max_tokens).count(),
        "prompt_tokens": answered.first().map(|answer| answer.usage.prompt),
        "tokens": tokens,
        "seconds": seconds,
        "tps": tokens as f64 / seconds,
        "ttft_p50_ms": percentile(0.50),
        "ttft_p99_ms": percentile(0.99),
        "failures": failures,
    })
}

pub(crate) async fn prefix(options: &PrefixOptions) -> Result<Value> {
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for edition in options.first_edition..options.first_edition + options.pairs {
        for (number, times) in [(0, &mut cold), (1, &mut warm)] {
            let prompt = prompts::of_edition(edition, number);
            times.push(options.asked.ask(&prompt, 4).await?.first * 1e3);
        }
    }
    let (cold, warm) = (median(cold), median(warm));
    Ok(json!({ "cold_ms": cold, "warm_ms": warm, "warm_over_cold": warm / cold }))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

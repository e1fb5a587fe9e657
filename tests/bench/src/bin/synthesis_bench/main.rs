//! The measurement of `cargo xtask bench synthesis`: one process, one JSON object.
//!
//! The model is loaded and warmed up by saying the text once, then the text is said a number of times through the public
//! trait, of which the fastest counts.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use futures::StreamExt;
use host_inference::backend::{SpeakRequest, TextToSpeech};
use host_inference::synthesis::{Settings, Synthesizer};
use serde_json::json;

/// Measures speech synthesis and prints one JSON object.
#[derive(Parser)]
struct Arguments {
    /// The folder of a VITS checkpoint.
    model: PathBuf,
    /// What to say: one sentence.
    text: String,
    #[arg(long, default_value_t = NonZeroUsize::MIN)]
    threads: NonZeroUsize,
    #[arg(long, default_value_t = 3)]
    repeat: usize,
}

fn main() -> Result<()> {
    let Arguments { model, text, threads, repeat } = Arguments::parse();
    let settings = Settings { threads, queue: NonZeroUsize::MIN };
    let synthesizer = Synthesizer::load(&model, settings).map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let speak = || {
        let request = SpeakRequest {
            tenant: "bench".into(),
            property: "text",
            text: text.clone(),
            phonemes: false,
            language: None,
            speaker: None,
            speed: 1.0,
            seed: Some(0),
            deadline: None,
        };
        let start = Instant::now();
        let samples = runtime.block_on(async {
            let mut sound = synthesizer.speak(request).await?;
            let mut samples = 0;
            while let Some(part) = sound.next().await {
                samples += part?.len();
            }
            Ok::<_, host_inference::AiError>(samples)
        })?;
        Ok::<_, host_inference::AiError>((start.elapsed().as_secs_f64(), samples))
    };
    let (_, samples) = speak()?;
    let mut fastest = f64::INFINITY;
    for _ in 0..repeat.max(1) {
        fastest = fastest.min(speak()?.0);
    }
    println!("{}", json!({ "seconds": fastest, "samples": samples, "rate": synthesizer.rate() }));
    Ok(())
}

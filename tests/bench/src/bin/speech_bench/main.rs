//! The measurement of `cargo xtask bench speech`: one process, one JSON object.
//!
//! The model is loaded and warmed up by one transcription, then the clip is transcribed a number of times through the
//! public trait: decoding of the file, spectrogram, encoder, beam search and word times are all part of the figure, as
//! they are of the peer's. With `--together` that many requests for the clip are made at once, and the figure is of all.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use host_inference::backend::{SpeechRecognition, TranscribeRequest};
use host_inference::speech::{Precision, Recognizer, Settings};
use host_inference::store;
use serde_json::json;

/// Measures speech recognition and prints one JSON object.
#[derive(Parser)]
struct Arguments {
    /// The folder of a Whisper checkpoint, or the name of one in the store.
    model: PathBuf,
    /// A file of sound.
    audio: PathBuf,
    #[arg(long, default_value_t = NonZeroUsize::MIN)]
    threads: NonZeroUsize,
    #[arg(long, value_enum, default_value = "float")]
    precision: Products,
    /// Hypotheses of the beam search.
    #[arg(long, default_value_t = 5)]
    beams: usize,
    /// Transcriptions, of which the fastest counts.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// Requests at once.
    #[arg(long, default_value_t = NonZeroUsize::MIN)]
    together: NonZeroUsize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Products {
    Float,
    Int8,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let precision = match arguments.precision {
        Products::Float => Precision::Float,
        Products::Int8 => Precision::Int8,
    };
    let together = arguments.together.get();
    let settings = Settings { threads: arguments.threads, queue: arguments.together, precision };
    let stored = store::default_directory().join(&arguments.model);
    let model = if arguments.model.is_dir() { &arguments.model } else { &stored };
    let recognizer = Recognizer::load(model, settings).map_err(anyhow::Error::msg)?;
    let audio = std::fs::read(&arguments.audio).with_context(|| arguments.audio.display().to_string())?;
    let audio = bytes::Bytes::from(audio);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let transcribe = || {
        let request = |_| TranscribeRequest {
            beam_size: arguments.beams,
            language: Some("en".to_owned()),
            ..TranscribeRequest::new("bench".into(), audio.clone())
        };
        let start = Instant::now();
        let work = (0..together).map(request).map(|request| recognizer.transcribe(request));
        let transcripts = runtime.block_on(futures::future::try_join_all(work))?;
        Ok::<_, host_inference::AiError>((start.elapsed().as_secs_f64(), transcripts))
    };
    let (_, transcripts) = transcribe()?;
    let transcript = &transcripts[0];
    let mut fastest = f64::INFINITY;
    for _ in 0..arguments.repeat.max(1) {
        fastest = fastest.min(transcribe()?.0);
    }
    let text: String = transcript.segments.iter().map(|segment| segment.text.as_str()).collect();
    let audio = transcript.duration * together as f64;
    let rtf = fastest / audio;
    println!("{}", json!({ "seconds": fastest, "audio_seconds": audio, "rtf": rtf, "text": text }));
    Ok(())
}

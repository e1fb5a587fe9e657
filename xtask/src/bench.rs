//! Benchmarks beside a peer, on this machine, in the same minutes.
//!
//! A figure alone says more about the machine than about the program; a ratio does not. Ours and the peer take turns
//! run by run, and who goes first alternates, so that a machine that slows down slows both. Nothing here gates a test.

mod encoders;
mod figures;
mod gpu;
mod http;
mod image;
mod js;
mod llm;
mod python;
mod server;
mod speech;
mod synthesis;
mod upstream;
mod vectors;

use anyhow::Result;
use clap::Subcommand;

use crate::progress::Progress;
use crate::workspace::Workspace;

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// A hello component under `host serve` and `wasmtime serve`: requests/s, latency, memory.
    Http(http::Options),
    /// A module worker under `host serve` and workerd: requests/s, latency, CPU time, memory.
    Js(js::Options),
    /// The same GGUF files here and in llama.cpp: prefill, decode, memory, schemas, concurrent streams.
    Llm(llm::Options),
    /// all-MiniLM-L6-v2 here and in onnxruntime: texts/s of batches of several sizes.
    Encoders(encoders::Options),
    /// Random llamas on this machine's NVIDIA GPU and in transformers: whether it is right, prefill, decode.
    Gpu(gpu::Options),
    /// Random checkpoints of published sizes here and in diffusers and transformers: a step of drawing, a decoding, a
    /// text, and pictures seen.
    Image(image::Options),
    /// The same Whisper weights here and in faster-whisper: how many times real time, in float32 and in int8.
    Speech(speech::Options),
    /// Two llama.cpp servers behind one model's name, one killed in the middle: whether a request fails.
    Upstream(upstream::Options),
    /// A model of speech with random weights here and in transformers: how many times real time.
    Synthesis(synthesis::Options),
    /// 100,000 vectors here and in Chroma: queries/s without and with a filter, building, memory.
    Vectors(vectors::Options),
}

pub(crate) fn bench(workspace: &Workspace, bench: Bench, progress: &Progress) -> Result<()> {
    match bench {
        Bench::Http(options) => http::bench(workspace, &options, progress),
        Bench::Js(options) => js::bench(workspace, &options, progress),
        Bench::Encoders(options) => encoders::bench(workspace, &options, progress),
        Bench::Gpu(options) => gpu::bench(workspace, &options, progress),
        Bench::Image(options) => image::bench(workspace, &options, progress),
        Bench::Speech(options) => speech::bench(workspace, &options, progress),
        Bench::Upstream(options) => upstream::bench(workspace, &options, progress),
        Bench::Synthesis(options) => synthesis::bench(workspace, &options, progress),
        Bench::Vectors(options) => vectors::bench(workspace, &options, progress),
        Bench::Llm(options) => llm::bench(workspace, &options, progress),
    }
}

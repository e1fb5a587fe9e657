//! Concurrent streams over HTTP, which begin with the same 300 tokens: `host serve` with a worker that passes calls of
//! `env.AI` on, and llama.cpp's server.
//!
//! Both servers live through a round and take turns, so that the minutes are the same for both; the one that waits takes
//! next to no CPU. The load generator is the same program for both and counts tokens by the usage that each tells at the
//! end of a stream. Streams that fail are reported, and no figure is made of a measurement that has some.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::files::Model;
use super::{Bench, measured, name, number};
use crate::bench::figures::{Better, Figure, Side, order};
use crate::bench::server::Server;
use crate::guests::{self, Lints, Wanted};
use crate::toolchain::Toolchain;

/// The worker, and its component.
const GUEST: &str = "guest-ai";
const COMPONENT: &str = "guest-ai-p3.wasm";
/// Tokens of context beside the answer's: the common beginning, a question, and some more.
const PROMPT_TOKENS: usize = 448;

/// A figure of a number of streams: the key in a measurement, the name, and the unit.
type Entry = (&'static str, fn(usize, &str) -> String, &'static str, Better);

const FIGURES: [Entry; 3] = [
    ("tps", |streams, quant| format!("llm_streams{streams}_{quant}"), "tokens/s", Better::Higher),
    ("ttft_p50_ms", |streams, _| format!("llm_ttft_p50_streams{streams}"), "ms", Better::Lower),
    ("ttft_p99_ms", |streams, _| format!("llm_ttft_p99_streams{streams}"), "ms", Better::Lower),
];

impl Bench<'_> {
    /// Gives what failed.
    pub(super) fn streams(&self) -> Result<Vec<String>> {
        let toolchain = Toolchain::ready(self.workspace, self.progress)?;
        guests::build(self.workspace, &toolchain, &Wanted::Named(&[GUEST.to_owned()]), Lints::Shown, self.progress)?;
        let host = self.workspace.host()?;
        let mut failures = Vec::new();
        for quant in &self.options.stream_quants {
            let model = self.files.get(*quant)?;
            let folder = tempfile::tempdir().context("cannot create a temporary directory")?;
            let component = self.workspace.guests_dir().join(COMPONENT);
            let binding = binding_file(&component, &model.path, self.options.stream_threads);
            std::fs::write(folder.path().join("wrangler.toml"), binding)?;
            failures.extend(self.compare(&model, &host, folder.path())?);
        }
        Ok(failures)
    }

    fn compare(&self, model: &Model, host: &Path, folder: &Path) -> Result<Vec<String>> {
        let quant = name(model.quant);
        let most = self.options.streams.iter().copied().max().unwrap_or(1);
        let labelled = |figure: String, unit, better| {
            let figure = Figure::new(figure, unit, better).label("quant", quant.clone());
            figure.label("threads", self.options.stream_threads)
        };
        let figures =
            |streams| FIGURES.map(|(key, name, unit, better)| (key, labelled(name(streams, &quant), unit, better)));
        let mut all: Vec<_> = self.options.streams.iter().map(|streams| (*streams, figures(*streams))).collect();
        let mut prefix = labelled("llm_prefix_ttft".into(), "warm / cold", Better::Lower);
        let mut cold = labelled("llm_cold_ttft".into(), "ms", Better::Lower);
        let mut memory = labelled(format!("llm_rss_streams{most}"), "MB", Better::Lower);
        let mut failures = Vec::new();
        for round in 0..self.options.runs {
            let ours = serve(host, folder)?;
            let context = PROMPT_TOKENS + self.options.stream_tokens;
            let peer = self.peer.serve(&model.path, self.options.stream_threads, most, context)?;
            let of = |side| if side == Side::Ours { &ours } else { &peer };
            for side in order(round) {
                // The first call loads the model, the first streams fill the caches; neither is measured.
                self.ask(side, of(side), 1, 1, 0)?;
                let measured = measured(self.load("prefix", side, of(side)).args(["--first-edition", "1"]))?;
                self.progress.done_before(&format!("prefix {side:?}: {measured}"));
                prefix.record(side, number(&measured, "warm_over_cold")?);
                cold.record(side, number(&measured, "cold_ms")?);
                self.ask(side, of(side), most, 1, 1)?;
            }
            let mut first_question = most + 1;
            for (streams, figures) in &mut all {
                for side in order(round) {
                    let measured = self.ask(side, of(side), *streams, self.options.questions, first_question)?;
                    if let Some(failed) = measured["failures"].as_object().filter(|failed| !failed.is_empty()) {
                        let failed = failed.iter().map(|(said, times)| format!("  {times} x {said}"));
                        let failed = failed.collect::<Vec<_>>().join("\n");
                        failures.push(format!("{quant}, {streams} streams, {side:?}:\n{failed}"));
                        continue;
                    }
                    for (key, figure) in figures.iter_mut() {
                        figure.record(side, number(&measured, key)?);
                    }
                }
                first_question += *streams * self.options.questions;
            }
            for side in order(round) {
                memory.record(side, of(side).peak_memory()?);
            }
        }
        for figure in
            all.iter().flat_map(|(_, figures)| figures).map(|(_, figure)| figure).chain([&prefix, &cold, &memory])
        {
            println!("{}", figure.line());
        }
        Ok(failures)
    }

    fn ask(&self, side: Side, server: &Server, streams: usize, questions: usize, first: usize) -> Result<Value> {
        let mut command = self.load("streams", side, server);
        command.args(["--streams", &streams.to_string(), "--questions", &questions.to_string()]);
        command.args(["--max-tokens", &self.options.stream_tokens.to_string(), "--first-question", &first.to_string()]);
        let measured = measured(&mut command)?;
        self.progress.done_before(&format!("{streams} streams {side:?}: {measured}"));
        Ok(measured)
    }

    fn load(&self, what: &str, side: Side, server: &Server) -> Command {
        let mut command = Command::new(self.program);
        let whose = if side == Side::Ours { "host" } else { "llama" };
        command.args([what, "--address", &server.address, "--server", whose]);
        command
    }
}

fn serve(host: &Path, folder: &Path) -> Result<Server> {
    let mut command = Command::new(host);
    command.args(["serve", "-c", "wrangler.toml", "--ip", "127.0.0.1", "--port", "0"]);
    Server::start(command.current_dir(folder), "Ready on ")
}

fn binding_file(component: &Path, model: &Path, threads: usize) -> String {
    format!(
        "name = \"bench\"\nmain = {:?}\n\n[ai]\nbinding = \"AI\"\ndevice = \"cpu\"\nthreads = {threads}\n\n\
         [[ai.models]]\nname = \"measured\"\ntask = \"text-generation\"\npath = {:?}\n",
        component.display().to_string(),
        model.display().to_string()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binding_file_is_toml() {
        let text = binding_file(Path::new("/a \"b\"/ai.wasm"), Path::new("/m.gguf"), 2);
        let file: toml::Value = toml::from_str(&text).expect("it parses");
        assert_eq!(file["main"].as_str(), Some("/a \"b\"/ai.wasm"));
        assert_eq!(file["ai"]["threads"].as_integer(), Some(2));
        assert_eq!(file["ai"]["models"][0]["path"].as_str(), Some("/m.gguf"));
    }

    #[test]
    fn the_figures_have_their_names() {
        let names = FIGURES.map(|(_, name, _, _)| name(16, "q4_0"));
        assert_eq!(names, ["llm_streams16_q4_0", "llm_ttft_p50_streams16", "llm_ttft_p99_streams16"]);
    }
}

//! One stream: prefill, decode, memory, and what follows from them.
//!
//! Everything is measured first and figures are made of it afterwards, so that a figure may combine runs: each entry of
//! [`FIGURES`] reads the samples and gives its lines.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::files::{Model, Quant};
use super::{Bench, PROGRAM, measured, name, number};
use crate::bench::figures::{Better, Figure, Side, order};
use crate::command;

/// Tokens of context: the longest prompt, its answer and some more.
const CONTEXT: usize = 1024;

/// What was measured, in the order of the runs.
struct Samples(Vec<Sample>);

struct Sample {
    side: Side,
    round: usize,
    model: Model,
    threads: usize,
    /// Of the memory in this round, in GB/s.
    bandwidth: f64,
    measured: Value,
}

/// A figure for each file and number of threads that it has a value for.
type Entry = fn(&Samples) -> Result<Vec<Figure>>;

const FIGURES: [Entry; 5] = [prefill, decode, memory, bandwidth_share, scaling];

fn prefill(samples: &Samples) -> Result<Vec<Figure>> {
    samples.figures(
        |sample| Figure::new(sample.named("llm_prefill"), "tokens/s", Better::Higher),
        |sample| number(&sample.measured, "prefill_tps").map(Some),
    )
}

fn decode(samples: &Samples) -> Result<Vec<Figure>> {
    samples.figures(
        |sample| Figure::new(sample.named("llm_decode"), "tokens/s", Better::Higher),
        |sample| sample.decode().map(Some),
    )
}

/// With the first number of threads.
fn memory(samples: &Samples) -> Result<Vec<Figure>> {
    let first = samples.0.first().map(|sample| sample.threads);
    samples.figures(
        |sample| Figure::new(format!("llm_rss_{}", name(sample.model.quant)), "MB", Better::Lower),
        |sample| match Some(sample.threads) == first {
            true => number(&sample.measured, "rss_mb").map(Some),
            false => Ok(None),
        },
    )
}

fn bandwidth_share(samples: &Samples) -> Result<Vec<Figure>> {
    samples.figures(
        |sample| sample.labelled("llm_bandwidth_share", "of the bound").label("threads", sample.threads),
        |sample| Ok(Some(sample.model.bytes_per_token * sample.decode()? / (sample.bandwidth * 1e9))),
    )
}

/// Decode with two threads over decode with one, of the same round.
fn scaling(samples: &Samples) -> Result<Vec<Figure>> {
    samples.figures(
        |sample| sample.labelled("llm_2t_over_1t", "times"),
        |sample| {
            let one = samples.0.iter().find(|one| {
                let same = (one.side, one.round, one.model.quant) == (sample.side, sample.round, sample.model.quant);
                same && one.threads == 1
            });
            match (sample.threads, one) {
                (2, Some(one)) => Ok(Some(sample.decode()? / one.decode()?)),
                _ => Ok(None),
            }
        },
    )
}

impl Sample {
    fn named(&self, prefix: &str) -> String {
        format!("{prefix}_{}_{}t", name(self.model.quant), self.threads)
    }

    fn labelled(&self, figure: &str, unit: &'static str) -> Figure {
        Figure::new(figure, unit, Better::Higher).label("quant", name(self.model.quant))
    }

    fn decode(&self) -> Result<f64> {
        number(&self.measured, "decode_tps")
    }
}

impl Samples {
    /// A figure for each file and number of threads for which `value` gives one.
    fn figures(
        &self,
        figure: impl Fn(&Sample) -> Figure,
        value: impl Fn(&Sample) -> Result<Option<f64>>,
    ) -> Result<Vec<Figure>> {
        let mut figures: Vec<((Quant, usize), Figure)> = Vec::new();
        for sample in &self.0 {
            let Some(value) = value(sample)? else { continue };
            let key = (sample.model.quant, sample.threads);
            let at = figures.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
                figures.push((key, figure(sample)));
                figures.len() - 1
            });
            figures[at].1.record(sample.side, value);
        }
        Ok(figures.into_iter().map(|(_, figure)| figure).collect())
    }
}

impl Bench<'_> {
    pub(super) fn engine(&self) -> Result<()> {
        let models = self.options.quants.iter().map(|quant| self.files.get(*quant)).collect::<Result<Vec<_>>>()?;
        let mut samples = Samples(Vec::new());
        for round in 0..self.options.runs {
            for &threads in &self.options.threads {
                let bandwidth =
                    measured(Command::new(self.program).args(["bandwidth", "--threads", &threads.to_string()]))?;
                let bandwidth = number(&bandwidth, "gb_per_s")?;
                self.progress.done_before(&format!("{threads} threads read {bandwidth:.1} GB/s"));
                for model in &models {
                    for side in order(round) {
                        let what = ["--decode-tokens", &self.options.decode_tokens.to_string()];
                        let measured = self.one_stream(side, self.program, model, threads, &what)?;
                        samples.0.push(Sample { side, round, model: model.clone(), threads, bandwidth, measured });
                    }
                }
            }
        }
        for figures in FIGURES {
            for figure in figures(&samples)? {
                println!("{}", figure.line());
            }
        }
        Ok(())
    }

    /// The share of tokens/s that is lost when the answer must satisfy a schema, on either side.
    pub(super) fn schema(&self) -> Result<()> {
        let model = self.files.get(self.options.schema_quant)?;
        let threads = *self.options.threads.first().context("--threads is empty")?;
        let figure = Figure::new("llm_schema_cost", "of tokens/s", Better::Lower);
        let mut figure = figure.label("quant", name(model.quant)).label("threads", threads);
        for round in 0..self.options.runs {
            for side in order(round) {
                let measured = self.one_stream(side, self.program, &model, threads, &["--schema"])?;
                figure.record(side, number(&measured, "schema_cost")?);
            }
        }
        println!("{}", figure.line());
        Ok(())
    }

    /// The program as it is built for everybody, and as it would be for this processor alone.
    pub(super) fn native(&self) -> Result<()> {
        let target = self.workspace.target_dir.join("native");
        self.progress.step(&format!("building the measuring program for this processor in {}", target.display()));
        let mut cargo = self.workspace.cargo();
        cargo.args(["build", "--release", "--package", "host-bench", "--bin", PROGRAM]);
        command::run(cargo.env("CARGO_TARGET_DIR", &target).env("RUSTFLAGS", "-Ctarget-cpu=native"))?;
        let native = target.join("release").join(PROGRAM);
        for quant in &self.options.quants {
            let model = self.files.get(*quant)?;
            for &threads in &self.options.threads {
                let figure = |phase: &str| {
                    let figure = Figure::new("llm_native_ratio", "tokens/s", Better::Higher);
                    figure.label("quant", name(*quant)).label("threads", threads).label("phase", phase)
                };
                let mut figures = [("prefill_tps", figure("prefill")), ("decode_tps", figure("decode"))];
                for round in 0..self.options.runs {
                    for side in order(round) {
                        let program = if side == Side::Ours { self.program.as_path() } else { &native };
                        let what = ["--decode-tokens", &self.options.decode_tokens.to_string()];
                        let measured = self.one_stream(Side::Ours, program, &model, threads, &what)?;
                        for (key, figure) in &mut figures {
                            figure.record(side, number(&measured, key)?);
                        }
                    }
                }
                for (_, figure) in &figures {
                    println!("{}", figure.line());
                }
            }
        }
        Ok(())
    }

    fn one_stream(&self, side: Side, program: &Path, model: &Model, threads: usize, what: &[&str]) -> Result<Value> {
        let mut command = Command::new(program);
        let measured = match side {
            Side::Ours => {
                command.arg("engine").arg("--model").arg(&model.path);
                command.args(["--threads", &threads.to_string(), "--context", &CONTEXT.to_string()]).args(what);
                measured(&mut command)?
            }
            Side::Peer => {
                let server = self.peer.serve(&model.path, threads, 1, CONTEXT)?;
                let mut measured = measured(command.args(["server", "--address", &server.address]).args(what))?;
                measured["rss_mb"] = server.peak_memory()?.into();
                measured
            }
        };
        self.progress.done_before(&format!("{} {threads} threads {side:?}: {measured}", name(model.quant)));
        Ok(measured)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sample(side: Side, threads: usize, decode: f64) -> Sample {
        let model = Model { quant: Quant::Q40, path: "model.gguf".into(), bytes_per_token: 1e8 };
        let measured = json!({ "prefill_tps": 900.0, "decode_tps": decode, "rss_mb": 150.0 });
        Sample { side, round: 0, model, threads, bandwidth: 20.0, measured }
    }

    #[test]
    fn figures_are_made_of_the_samples() {
        let samples = Samples(vec![
            sample(Side::Ours, 1, 100.0),
            sample(Side::Peer, 1, 50.0),
            sample(Side::Ours, 2, 150.0),
            sample(Side::Peer, 2, 100.0),
        ]);
        let lines: Vec<Value> = FIGURES
            .iter()
            .flat_map(|figures| figures(&samples).expect("all keys are there"))
            .map(|f| f.line())
            .collect();
        let names: Vec<_> = lines.iter().filter_map(|line| line["figure"].as_str()).collect();
        assert_eq!(
            names,
            [
                "llm_prefill_q4_0_1t",
                "llm_prefill_q4_0_2t",
                "llm_decode_q4_0_1t",
                "llm_decode_q4_0_2t",
                "llm_rss_q4_0",
                "llm_bandwidth_share",
                "llm_bandwidth_share",
                "llm_2t_over_1t",
            ]
        );
        assert_eq!((&lines[2]["ours"], &lines[2]["ratio"]), (&json!(100.0), &json!(2.0)));
        // 100 MB a token at 100 tokens/s are half of 20 GB/s.
        assert_eq!((&lines[5]["ours"], &lines[5]["threads"]), (&json!(0.5), &json!(1)));
        assert_eq!((&lines[7]["ours"], &lines[7]["peer"]), (&json!(1.5), &json!(2.0)));
    }

    #[test]
    fn a_missing_number_is_an_error() {
        let mut broken = sample(Side::Ours, 1, 1.0);
        broken.measured = json!({});
        assert!(prefill(&Samples(vec![broken])).is_err());
    }
}

//! The cost of the host around a component: one hello component under `host serve` and under `wasmtime serve`.
//!
//! Both run with their defaults, so the figure is what a user gets. The load generator (`tests/bench`) has one
//! thread and a fixed number of kept-alive connections, each sending its next request when its last was answered;
//! it shares the machine's cores with the server, and nothing is pinned.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::figures::{Better, Figure, Side, order};
use super::server::Server;
use crate::cache::Slot;
use crate::command;
use crate::guests::{self, Lints, Wanted};
use crate::progress::Progress;
use crate::toolchain::Toolchain;
use crate::workspace::Workspace;

/// The peer's release: the one this workspace embeds.
const WASMTIME: &str = "48.0.8";
/// What `wasmtime serve` needs; the rest of the command line's defaults (debugger, other compilers, wasi-nn) does not
/// run here and takes most of the build.
const FEATURES: &str =
    "serve,run,component-model,component-model-async,cranelift,pooling-allocator,parallel-compilation";

/// The worker that is measured: it answers with a line of text and does nothing else.
const GUEST: &str = "hello";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds; in each round both servers are measured once.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Requests in a measurement.
    #[arg(long, default_value_t = 20_000)]
    requests: usize,
    /// Requests sent before a measurement, unmeasured.
    #[arg(long, default_value_t = 2_000)]
    warm_up: usize,
    /// Connections kept alive.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// `wasmtime` to compare with, instead of building it.
    #[arg(long)]
    wasmtime: Option<PathBuf>,
}

/// A component in one flavour, and what its figures are called.
struct Subject {
    component: &'static str,
    prefix: &'static str,
    peer_arguments: &'static [&'static str],
}

const SUBJECTS: [Subject; 2] = [
    Subject { component: "guest-hello-p2.wasm", prefix: "http_hello", peer_arguments: &["-Scli"] },
    Subject {
        component: "guest-hello-p3.wasm",
        prefix: "http_hello_p3",
        peer_arguments: &["-Scli,p3", "-Wcomponent-model-async"],
    },
];

pub(crate) fn bench(workspace: &Workspace, options: &Options, progress: &Progress) -> Result<()> {
    if options.runs == 0 || options.requests == 0 || options.connections == 0 {
        bail!("--runs, --requests and --connections must be at least 1");
    }
    let toolchain = Toolchain::ready(workspace, progress)?;
    guests::build(workspace, &toolchain, &Wanted::Named(&[GUEST.to_owned()]), Lints::Shown, progress)?;
    progress.step("building the host and the load generator in release mode");
    let host = workspace.host()?;
    let load = workspace.program("http-load")?;
    let wasmtime = match &options.wasmtime {
        Some(path) => path.clone(),
        None => peer(workspace, progress)?,
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    progress.note(&format!(
        "{} requests over {} connections kept alive, after {} unmeasured ones; the load generator has one thread and \
         shares {cores} cores with the server, nothing is pinned",
        options.requests, options.connections, options.warm_up
    ));
    for subject in &SUBJECTS {
        let programs = Programs { host: &host, load: &load, wasmtime: &wasmtime };
        for line in compare(workspace, subject, &programs, options, progress)? {
            println!("{line}");
        }
    }
    Ok(())
}

struct Programs<'a> {
    host: &'a Path,
    load: &'a Path,
    wasmtime: &'a Path,
}

fn compare(
    workspace: &Workspace,
    subject: &Subject,
    programs: &Programs<'_>,
    options: &Options,
    progress: &Progress,
) -> Result<Vec<Value>> {
    let component = workspace.guests_dir().join(subject.component);
    let folder = tempfile::tempdir().context("cannot create a temporary directory")?;
    let binding = folder.path().join("wrangler.toml");
    std::fs::write(&binding, format!("name = \"hello\"\nmain = {:?}\n", component.display().to_string()))?;
    let figure = |name: &str, unit, better| Figure::new(format!("{}_{name}", subject.prefix), unit, better);
    let mut figures = [
        ("rps", figure("rps", "requests/s", Better::Higher)),
        ("p50_us", figure("p50", "us", Better::Lower)),
        ("p99_us", figure("p99", "us", Better::Lower)),
        ("rss_mb", figure("rss", "MB", Better::Lower)),
    ];
    for round in 0..options.runs {
        for side in order(round) {
            let server = match side {
                Side::Ours => {
                    let mut command = Command::new(programs.host);
                    command.arg("serve").arg("-c").arg(&binding).args(["--ip", "127.0.0.1", "--port", "0"]);
                    command.current_dir(folder.path());
                    Server::start(&mut command, "Ready on ")
                }
                Side::Peer => {
                    let mut command = Command::new(programs.wasmtime);
                    command.args(["serve", "--addr", "127.0.0.1:0"]).args(subject.peer_arguments).arg(&component);
                    Server::start(&mut command, "Serving HTTP on ")
                }
            }?;
            let measured = measure(&server, programs.load, options)?;
            for (key, figure) in &mut figures {
                let value = measured[*key].as_f64().with_context(|| format!("the load generator gave no {key}"))?;
                figure.record(side, value);
            }
            progress.done_before(&format!("{} round {} {side:?}: {measured}", subject.prefix, round + 1));
        }
    }
    Ok(figures.iter().map(|(_, figure)| figure.line()).collect())
}

/// One measurement of a running server: the load generator's figures, and the server's memory after it.
fn measure(server: &Server, load: &Path, options: &Options) -> Result<Value> {
    let mut command = Command::new(load);
    command.args(["--url", &server.address]);
    command.args(["--requests", &options.requests.to_string(), "--warm-up", &options.warm_up.to_string()]);
    command.args(["--connections", &options.connections.to_string()]);
    let mut measured: Value =
        serde_json::from_str(&command::output(&mut command)?).context("the load generator printed no JSON")?;
    measured["rss_mb"] = server.peak_memory()?.into();
    Ok(measured)
}

/// `wasmtime` in the cache directory, compiled once.
fn peer(workspace: &Workspace, progress: &Progress) -> Result<PathBuf> {
    let slot = Slot::new(&workspace.cache, &format!("bench/wasmtime-{WASMTIME}"));
    let _lock = slot.lock(progress)?;
    let binary = slot.path.join("bin/wasmtime");
    if binary.exists() {
        progress.done_before(&format!("wasmtime {WASMTIME} in {}", slot.path.display()));
        return Ok(binary);
    }
    progress
        .step(&format!("cargo install wasmtime-cli {WASMTIME} into {} (minutes of CPU, once)", slot.path.display()));
    let mut cargo = workspace.cargo();
    // Without `--locked`, and in the workspace's build directory: its dependencies are then mostly those of the host, of
    // the same versions, and compiled already.
    cargo.args(["install", "wasmtime-cli", "--version", WASMTIME, "--no-default-features", "--features", FEATURES]);
    cargo.arg("--root").arg(&slot.path).env("CARGO_TARGET_DIR", &workspace.target_dir);
    command::run(&mut cargo)?;
    Ok(binary)
}

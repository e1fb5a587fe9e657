//! The cost of JavaScript workers: one module worker under `host serve` and under workerd.
//!
//! Both get the same file, unchanged, and run with their defaults. workerd compiles JavaScript to machine code and runs
//! a worker in one thread; here it is interpreted, in as many instances as there are requests at once. Requests/s
//! therefore depend on how many cores are free beside the load generator, and the CPU time of the server process per
//! request (`…_cpu_us`) is what compares the two: its inverse is requests/s per core.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::figures::{Better, Figure, Side, order, rounded};
use super::server::Server;
use crate::cache::Slot;
use crate::command;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// The peer's release.
const WORKERD: &str = "1.20261117.1";
/// What its package weighs unpacked, for the message.
const WORKERD_MB: u32 = 162;
const DATE: &str = "2025-10-08";
const WORKER: &str = "worker.js";
const BODY: &str = "body.json";
const BODY_BYTES: usize = 10 << 10;
/// Times that memory is looked at in a soak.
const SAMPLES: usize = 10;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds; in each round every path of both servers is measured once. 0 only with --soak.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Requests to /hello in a measurement; the other paths, which cost more, get fewer.
    #[arg(long, default_value_t = 20_000)]
    requests: usize,
    /// Requests to /hello before a measurement, unmeasured.
    #[arg(long, default_value_t = 4_000)]
    warm_up: usize,
    /// Connections kept alive.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Sends N more requests to /hello of one server each and prints its memory at ten points.
    #[arg(long, value_name = "N", default_value_t = 0)]
    soak: usize,
    /// `workerd` to compare with, instead of installing it with npm.
    #[arg(long)]
    workerd: Option<PathBuf>,
}

/// A path of the worker.
struct Subject {
    path: &'static str,
    prefix: &'static str,
    /// It is sent to with a body.
    post: bool,
    /// It needs what the peer has not.
    ours_alone: bool,
    /// One request for so many to /hello, so that no measurement takes much longer than another.
    share: usize,
    /// Keys of the measurement that are printed, and the ends of the figures' names.
    figures: &'static [(&'static str, &'static str)],
}

const THROUGHPUT: &[(&str, &str)] = &[("rps", "rps"), ("cpu_us", "cpu_us")];

/// The first is measured on servers that have answered nothing else.
const SUBJECTS: [Subject; 4] = [
    Subject {
        path: "/hello",
        prefix: "js_hello",
        post: false,
        ours_alone: false,
        share: 1,
        figures: &[("rps", "rps"), ("p50_us", "p50"), ("p99_us", "p99"), ("cpu_us", "cpu_us")],
    },
    Subject { path: "/echo", prefix: "js_echo", post: true, ours_alone: false, share: 4, figures: THROUGHPUT },
    Subject { path: "/stream", prefix: "js_stream", post: false, ours_alone: false, share: 20, figures: THROUGHPUT },
    Subject {
        path: "/ai-stream",
        prefix: "js_ai_stream",
        post: false,
        ours_alone: true,
        share: 10,
        figures: THROUGHPUT,
    },
];

pub(crate) fn bench(workspace: &Workspace, options: &Options, progress: &Progress) -> Result<()> {
    if options.requests == 0 || options.connections == 0 {
        bail!("--requests and --connections must be at least 1");
    }
    if options.runs == 0 && options.soak == 0 {
        bail!("--runs must be at least 1, or --soak be given");
    }
    let workerd = match &options.workerd {
        Some(path) => std::path::absolute(path)?,
        None => peer(workspace, progress)?,
    };
    progress.step("building the host and the load generator in release mode");
    let host = workspace.host()?;
    let load = workspace.program("http-load")?;
    let folder = tempfile::tempdir().context("cannot create a temporary directory")?;
    prepare(workspace, folder.path())?;
    let bench = Bench { host, workerd, load, folder: folder.path(), options };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    progress.note(&format!(
        "{} requests to /hello over {} connections kept alive, after {} unmeasured ones; the load generator has one \
         thread and shares {cores} cores with the server, nothing is pinned",
        options.requests, options.connections, options.warm_up
    ));
    // A first start compiles the engine and bundles the worker, which is no memory of a server that only serves.
    drop(bench.serve(Side::Ours)?);
    if options.runs > 0 {
        for line in bench.compare(progress)? {
            println!("{line}");
        }
    }
    if options.soak > 0 {
        println!("{}", bench.soak(progress)?);
    }
    Ok(())
}

struct Bench<'a> {
    host: PathBuf,
    workerd: PathBuf,
    load: PathBuf,
    /// What is served, and how.
    folder: &'a Path,
    options: &'a Options,
}

impl Bench<'_> {
    /// Both servers live through a round, and take turns path by path, so that the minutes are the same for both; the one
    /// that waits takes next to no CPU.
    fn compare(&self, progress: &Progress) -> Result<Vec<Value>> {
        let mut figures: Vec<Vec<_>> = SUBJECTS.iter().map(figures).collect();
        let mut memory = Figure::new("js_rss", "MB", Better::Lower);
        for round in 0..self.options.runs {
            let (ours, peer) = (self.serve(Side::Ours)?, self.serve(Side::Peer)?);
            for (index, (subject, figures)) in SUBJECTS.iter().zip(&mut figures).enumerate() {
                let mut answers = Vec::new();
                for side in order(round) {
                    let server = match side {
                        Side::Ours => &ours,
                        Side::Peer if subject.ours_alone => continue,
                        Side::Peer => &peer,
                    };
                    let measured = self.measure(server, subject)?;
                    progress.done_before(&format!("{} round {} {side:?}: {measured}", subject.prefix, round + 1));
                    for (key, figure) in figures.iter_mut() {
                        figure.record(side, number(&measured, key)?);
                    }
                    if index == 0 {
                        memory.record(side, server.peak_memory()?);
                    }
                    answers.push(number(&measured, "bytes")?);
                }
                if answers.first() != answers.last() {
                    bail!("the answers from {} differ in length: {answers:?} bytes", subject.path);
                }
            }
        }
        let lines = figures.iter().flatten().map(|(_, figure)| figure.line());
        Ok(lines.chain([memory.line()]).collect())
    }

    /// Whether memory stays flat: what a server holds after each tenth of many requests.
    fn soak(&self, progress: &Progress) -> Result<Value> {
        let subject = &SUBJECTS[0];
        let each = self.options.soak.div_ceil(SAMPLES);
        let mut held = Vec::new();
        for side in [Side::Ours, Side::Peer] {
            let server = self.serve(side)?;
            let mut samples = Vec::new();
            for _ in 0..SAMPLES {
                self.load(&server, subject, each)?;
                samples.push(rounded(server.memory()?));
            }
            progress.done_before(&format!("soak {side:?}: {samples:?} MB"));
            held.push(samples);
        }
        Ok(json!({
            "figure": "js_soak_rss",
            "ours": held[0],
            "peer": held[1],
            "requests": each * SAMPLES,
            "unit": "MB",
            "better": "lower",
        }))
    }

    fn serve(&self, side: Side) -> Result<Server> {
        match side {
            Side::Ours => {
                let mut command = Command::new(&self.host);
                command.args(["serve", "-c", "wrangler.toml", "--ip", "127.0.0.1", "--port", "0"]);
                Server::start(command.current_dir(self.folder), "Ready on ")
            }
            Side::Peer => {
                let mut command = Command::new(&self.workerd);
                command.args(["serve", "workerd.capnp", "--control-fd=1"]);
                Server::start_at(command.current_dir(self.folder), listening)
            }
        }
    }

    /// One measurement of a running server: the load generator's figures, and the server's CPU time per request.
    fn measure(&self, server: &Server, subject: &Subject) -> Result<Value> {
        if let warm_up @ 1.. = self.options.warm_up / subject.share {
            self.load(server, subject, warm_up)?;
        }
        let before = server.cpu_seconds()?;
        let requests = (self.options.requests / subject.share).max(1);
        let mut measured = self.load(server, subject, requests)?;
        measured["cpu_us"] = ((server.cpu_seconds()? - before) * 1e6 / requests as f64).into();
        Ok(measured)
    }

    fn load(&self, server: &Server, subject: &Subject, requests: usize) -> Result<Value> {
        let mut command = Command::new(&self.load);
        command.arg("--url").arg(format!("{}{}", server.address, subject.path));
        command.args(["--requests", &requests.to_string(), "--warm-up", "0"]);
        command.args(["--connections", &self.options.connections.to_string()]);
        if subject.post {
            command.args(["--method", "POST", "--body"]).arg(self.folder.join(BODY));
        }
        serde_json::from_str(&command::output(&mut command)?).context("the load generator printed no JSON")
    }
}

fn figures(subject: &Subject) -> Vec<(&'static str, Figure)> {
    let figure = |&(key, name): &(&'static str, &'static str)| {
        let (unit, better) = match key {
            "rps" => ("requests/s", Better::Higher),
            _ => ("us", Better::Lower),
        };
        (key, Figure::new(format!("{}_{name}", subject.prefix), unit, better))
    };
    subject.figures.iter().map(figure).collect()
}

fn number(measured: &Value, key: &str) -> Result<f64> {
    measured[key].as_f64().with_context(|| format!("the measurement has no {key}"))
}

/// The address in a line of workerd's control messages.
fn listening(line: &str) -> Option<String> {
    let message: Value = serde_json::from_str(line).ok()?;
    let port = message["port"].as_u64().filter(|_| message["event"] == "listen")?;
    Some(format!("http://127.0.0.1:{port}"))
}

/// Writes what both servers are started with. The worker is copied, so that what the host builds lies here and not in the
/// clone.
fn prepare(workspace: &Workspace, folder: &Path) -> Result<()> {
    let source = workspace.root.join("tests/bench/js").join(WORKER);
    std::fs::copy(&source, folder.join(WORKER)).with_context(|| format!("cannot copy {}", source.display()))?;
    std::fs::write(folder.join("wrangler.toml"), binding_file())?;
    std::fs::write(folder.join("workerd.capnp"), peer_config())?;
    std::fs::write(folder.join(BODY), body().to_string())?;
    Ok(())
}

fn binding_file() -> String {
    format!(
        "name = \"bench\"\nmain = \"{WORKER}\"\ncompatibility_date = \"{DATE}\"\n\n[ai]\nbinding = \"AI\"\n\n\
         [[ai.models]]\nname = \"scripted\"\ntask = \"text-generation\"\nbackend = \"mock\"\n\
         mock = {{ reply = \"token\", tokens = 200 }}\n"
    )
}

fn peer_config() -> String {
    format!(
        "using Workerd = import \"/workerd/workerd.capnp\";\n\
         const config :Workerd.Config = (\n  services = [(name = \"bench\", worker = .bench)],\n  \
         sockets = [(name = \"http\", address = \"127.0.0.1:0\", http = (), service = \"bench\")],\n);\n\
         const bench :Workerd.Worker = (\n  modules = [(name = \"{WORKER}\", esModule = embed \"{WORKER}\")],\n  \
         compatibilityDate = \"{DATE}\",\n);\n"
    )
}

/// JSON of 10 KB as an application sends it: objects in a list, of every kind of value.
fn body() -> Value {
    let item = |number: usize| {
        json!({
            "id": number,
            "name": format!("Item number {number}"),
            "description": "Two lines of text,\nwith \"quotes\" and an umlaut: \u{fc}.",
            "price": number as f64 + 0.25,
            "tags": ["first", "second"],
            "available": number.is_multiple_of(2),
            "parent": null,
        })
    };
    let mut items = Vec::new();
    let mut bytes = 0;
    while bytes < BODY_BYTES {
        let item = item(items.len());
        bytes += item.to_string().len() + 1;
        items.push(item);
    }
    json!({ "items": items })
}

/// `workerd` in the cache directory, installed once.
fn peer(workspace: &Workspace, progress: &Progress) -> Result<PathBuf> {
    let slot = Slot::new(&workspace.cache, "bench/workerd");
    let _lock = slot.lock(progress)?;
    // The program itself: what `workerd/bin` has may be a script that starts it as another process.
    let program = slot.path.join("node_modules").join(platform_package()?).join("bin/workerd");
    if slot.is_complete(WORKERD) {
        progress.done_before(&format!("workerd {WORKERD} in {}", slot.path.display()));
        return Ok(program);
    }
    progress.step(&format!("npm install workerd@{WORKERD} ({WORKERD_MB} MB unpacked) into {}", slot.path.display()));
    slot.start_over()?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"]).arg(&slot.path);
    command::run(npm.arg(format!("workerd@{WORKERD}")).current_dir(&slot.path))?;
    if !program.exists() {
        bail!("npm did not install {}; was it told to leave out optional packages?", program.display());
    }
    slot.complete(WORKERD)?;
    Ok(program)
}

fn platform_package() -> Result<&'static str> {
    match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => Ok("@cloudflare/workerd-linux-64"),
        ("linux", "aarch64") => Ok("@cloudflare/workerd-linux-arm64"),
        (system, architecture) => bail!("this benchmark reads /proc: it runs on Linux, not on {system} {architecture}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_read_from_the_control_message() {
        let line = r#"{"event":"listen","socket":"http","port":34725}"#;
        assert_eq!(listening(line).as_deref(), Some("http://127.0.0.1:34725"));
        assert_eq!(listening(r#"{"event":"other","port":1}"#), None);
        assert_eq!(listening("workerd/server.c++:1: warning"), None);
    }

    #[test]
    fn the_body_has_ten_kilobytes() {
        let bytes = body().to_string().len();
        assert!((BODY_BYTES..BODY_BYTES + 512).contains(&bytes), "{bytes}");
    }

    #[test]
    fn the_figures_have_their_names_and_directions() {
        let lines: Vec<_> = SUBJECTS.iter().flat_map(figures).map(|(_, figure)| figure.line()).collect();
        let names: Vec<_> = lines.iter().filter_map(|line| line["figure"].as_str()).collect();
        assert_eq!(names[..5], ["js_hello_rps", "js_hello_p50", "js_hello_p99", "js_hello_cpu_us", "js_echo_rps"]);
        assert_eq!((&lines[0]["better"], &lines[3]["better"]), (&json!("higher"), &json!("lower")));
    }
}

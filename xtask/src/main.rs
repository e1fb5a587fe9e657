//! `cargo xtask`: the project's set-up, checks and benchmarks as one command.
//!
//! It exists so that a fresh clone needs nothing but Rust, Python, Node and a C compiler. Every step asks first
//! whether it has been done, says what it is about to do and how large it is, and leaves nothing half done that a
//! later run would take for finished: downloads go to a temporary place and are renamed, stamps are written last.
//! It may not know how the host works inside: it builds crates, runs the `host` binary and reads what that prints.

mod bench;
mod cache;
mod command;
mod cuda;
mod guests;
mod js;
mod models;
mod progress;
mod serve;
mod test;
mod toolchain;
mod wit;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::progress::Progress;
use crate::workspace::Workspace;

const EXAMPLES: &str = "\
Examples:
  cargo xtask serve                     set everything up, then serve the examples
  cargo xtask serve -- --port 9000      the same, with arguments for `host serve`
  cargo xtask guests chat               build one example worker
  cargo xtask test                      everything CI runs
  cargo xtask bench http --runs 9       requests/s beside `wasmtime serve`

Environment:
  HOST_CACHE_DIR         where downloads are kept (else $XDG_CACHE_HOME/host, else ~/.cache/host)
  HOST_GUEST_TOOLCHAIN   `rustup` or `packaged`: where the Wasm target comes from (else whichever works)
  NO_COLOR               no colours
";

/// Set-up, checks and benchmarks of this project.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Gets the Wasm target, the small models and the toolchain for JavaScript workers.
    Setup,
    /// Builds guests as components: the named packages, or all of examples/ and tests/guests/.
    Guests {
        /// Package names, such as `chat`.
        names: Vec<String>,
    },
    /// Sets everything up and serves the examples with `host serve`.
    Serve {
        /// Arguments for `host serve`, after `--`.
        #[arg(last = true)]
        host_arguments: Vec<String>,
    },
    /// Runs everything CI runs: format, lints, vendored files, set-up, guests, tests.
    Test {
        /// Only a part, at length: `kill` ends writers of every store with SIGKILL and looks what is left.
        #[arg(value_enum)]
        part: Option<test::Part>,
        /// How often writers are killed, for each kind of store.
        #[arg(long, default_value_t = 200, requires = "part")]
        rounds: u32,
        /// Arguments for `cargo test` of the host's crates, after `--`.
        #[arg(last = true)]
        test_arguments: Vec<String>,
    },
    /// Copies the WASI interface definitions from the wasmtime release that the workspace uses.
    Wit {
        /// Only compare; fail when a file differs.
        #[arg(long)]
        check: bool,
    },
    /// Works on the code for NVIDIA GPUs without one.
    Cuda {
        #[command(subcommand)]
        cuda: cuda::Cuda,
    },
    /// Measures this host beside a peer on this machine, one JSON line per figure.
    Bench {
        #[command(subcommand)]
        bench: bench::Bench,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let workspace = Workspace::find()?;
    let progress = Progress::new();
    match task {
        Task::Setup => {
            toolchain::Toolchain::ready(&workspace, &progress)?;
            models::fetch(&workspace, &progress)?;
            js::toolchain(&workspace, &workspace.host()?, &progress)?;
            js::test_packages(&workspace, &progress)
        }
        Task::Guests { names } => {
            let toolchain = toolchain::Toolchain::ready(&workspace, &progress)?;
            let wanted = if names.is_empty() { guests::Wanted::All } else { guests::Wanted::Named(&names) };
            guests::build(&workspace, &toolchain, &wanted, guests::Lints::Shown, &progress)
        }
        Task::Serve { host_arguments } => serve::serve(&workspace, &host_arguments, &progress),
        Task::Test { part: Some(test::Part::Kill), rounds, test_arguments } => {
            test::kill(&workspace, rounds, &test_arguments, &progress)
        }
        Task::Test { part: None, test_arguments, .. } => test::test(&workspace, &test_arguments, &progress),
        Task::Wit { check } => wit::vendor(&workspace, check, &progress),
        Task::Cuda { cuda } => cuda::run(&workspace, &cuda, &progress),
        Task::Bench { bench } => bench::bench(&workspace, bench, &progress),
    }
}

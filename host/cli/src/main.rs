//! The `host` program.

mod ai;
mod args;
mod build;
mod cargo;
mod check;
mod dev;
mod exit;
mod gateway;
mod logging;
mod models;
mod new;
mod prepare;
mod progress;
mod queues;
mod serve;
mod state;
mod table;
mod vectorize;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use args::{Args, Command};

fn main() -> ExitCode {
    let args = Args::parse();
    logging::start(&args);
    let done = match args.command {
        Command::Serve(options) => serve::run(options),
        Command::Dev(options) => dev::run(options),
        Command::Check(options) => check::run(options),
        Command::New(options) => new::run(options),
        Command::Build(options) => build::run(options),
        Command::Models(command) => models::run(command),
        Command::Ai(command) => ai::run(command),
        Command::Queues(command) => queues::run(command),
        Command::Vectorize(command) => vectorize::run(command),
        Command::State(command) => state::run(command),
        Command::Gateway(command) => gateway::run(command),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "host", &mut std::io::stdout());
            Ok(())
        }
    };
    exit::code(done)
}

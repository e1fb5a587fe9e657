//! The `host` program.

mod args;
mod check;
mod exit;
mod logging;
mod models;
mod prepare;
mod progress;
mod serve;
mod table;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use args::{Args, Command};

fn main() -> ExitCode {
    let args = Args::parse();
    logging::start(&args);
    let done = match args.command {
        Command::Serve(options) => serve::run(options),
        Command::Check(options) => check::run(options),
        Command::Models(command) => models::run(command),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "host", &mut std::io::stdout());
            Ok(())
        }
    };
    exit::code(done)
}

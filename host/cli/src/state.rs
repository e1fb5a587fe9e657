//! `host state`: backups of what workers keep, and whether it is sound.

use std::path::PathBuf;

use clap::Subcommand;
use host_state::backup::{self, Entry};
use serde_json::{Value, json};

use crate::args::StateArgs;
use crate::exit::{Done, Failed};
use crate::vectorize::directory;

#[derive(Debug, Subcommand)]
pub(crate) enum StateCommand {
    /// Copy every store into a new folder, also while the host serves.
    #[command(after_help = "\
Examples:
  host state backup backups/monday
  host state restore backups/monday --force")]
    Backup {
        /// The folder to make; it must not exist, or be empty.
        folder: PathBuf,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Put a backup in the place of the state. Stop the host first.
    Restore {
        /// The folder of the backup.
        folder: PathBuf,
        /// Replace what is there.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Read every page of every store. Exits 1 when one is damaged.
    Check {
        #[command(flatten)]
        state: StateArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs one of the `host state` commands.
pub(crate) fn run(command: StateCommand) -> Done {
    match command {
        StateCommand::Backup { folder, state } => {
            say("copied", &backup::backup(&directory(&state), &folder)?);
            println!("the backup is in {}", folder.display());
        }
        StateCommand::Restore { folder, force, state } => {
            let target = directory(&state);
            let restored = backup::restore(&folder, &target, force).map_err(|error| match error {
                host_state::StateError::NotEmpty { path } => Failed::usage(anyhow::anyhow!(
                    "{} has something in it, which restoring replaces; say --force if it may",
                    path.display()
                )),
                error => error.into(),
            })?;
            say("restored", &restored);
        }
        StateCommand::Check { state, json } => check(&state, json)?,
    }
    Ok(())
}

fn say(done: &str, entries: &[Entry]) {
    for Entry { kind, name, .. } in entries {
        println!("{done} {kind}/{name}");
    }
}

fn check(state: &StateArgs, as_json: bool) -> Done {
    let checked = backup::check(&directory(state))?;
    let damaged = checked.iter().filter(|checked| checked.fault.is_some()).count();
    if as_json {
        let stores: Vec<Value> = checked
            .iter()
            .map(|checked| {
                let Entry { kind, name, path } = &checked.entry;
                json!({ "kind": kind, "name": name, "path": path, "fault": checked.fault })
            })
            .collect();
        println!("{}", json!({ "ok": damaged == 0, "stores": stores }));
    } else {
        for checked in &checked {
            let fault = checked.fault.as_deref().unwrap_or("sound");
            println!("{}: {fault}", checked.entry.path.display());
        }
    }
    let failed = Failed::from(anyhow::anyhow!("{damaged} of {} stores are damaged", checked.len()));
    match damaged {
        0 => Ok(()),
        _ if as_json => Err(failed.silent()),
        _ => Err(failed),
    }
}

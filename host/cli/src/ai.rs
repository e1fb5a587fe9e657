//! `host ai run`: a model answers on the terminal, with no worker and no server between.

mod inputs;
mod show;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use host_config::FILE_NAMES;
use host_inference::engine::{Engine, EngineConfig};
use host_inference::store::{HubEndpoint, Store};
use host_inference::{RunRequest, Task, catalogue};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Map;

use crate::args::{AiCommand, AiRunArgs};
use crate::exit::{Done, Failed};
use crate::{models, prepare};

/// Runs one of the `host ai` commands.
pub(crate) fn run(command: AiCommand) -> Done {
    let AiCommand::Run(args) = command;
    let (engine, directory) = engine(&args)?;
    let resolved = engine.resolve(&args.model).ok_or_else(|| unknown(&engine, &args.model))?;
    let store = Store::open(directory);
    let absent = catalogue::entry(&resolved.name).is_some() && store.find(&resolved.name.parse()?)?.is_none();
    if args.pull && absent {
        models::pull(&store, std::slice::from_ref(&resolved.name), None, &HubEndpoint::from_env())?;
    }
    let (mut inputs, attachments) = inputs::of(resolved.task, &args).map_err(Failed::usage)?;
    if resolved.task == Task::TextGeneration && !args.json {
        inputs.entry("stream").or_insert(true.into());
    }
    let request = RunRequest {
        tenant: "host ai run".into(),
        model: args.model.clone(),
        inputs,
        attachments,
        options: Map::new(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let waiting = spinner(&format!("{} is loading", resolved.name));
        engine.warm(&args.model).await?;
        waiting.set_message(format!("{} is working", resolved.name));
        let response = engine.run(request).await?;
        show::output(response.output, &args, waiting).await
    })
}

/// The engine of the binding file here or of those that were named; where there is none, of the catalogue alone.
fn engine(args: &AiRunArgs) -> Result<(Engine, PathBuf), Failed> {
    if args.project.config.is_empty() && !FILE_NAMES.iter().any(|name| Path::new(name).exists()) {
        let config = EngineConfig::default();
        let directory = config.models_directory.clone();
        return Ok((Engine::new(config).map_err(Failed::usage)?, directory));
    }
    let project = prepare::project(&args.project)?;
    Ok((prepare::engine(&project)?, prepare::models_directory(&project)))
}

fn unknown(engine: &Engine, name: &str) -> Failed {
    let known = engine.models().into_iter().map(|model| model.name);
    let near = known.filter(|known| known.contains(name) || name.contains(known.as_str())).take(5);
    let near: Vec<_> = near.collect();
    let like = if near.is_empty() { String::new() } else { format!("; like it are {}", near.join(", ")) };
    Failed::usage(anyhow!("no model is named {name:?}{like}. `host models list` shows all"))
}

/// Turns while nothing can be shown yet; nothing where standard error is no terminal.
fn spinner(message: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner().with_message(message.to_owned());
    let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
    spinner.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

//! `host models`: what is on this machine, and how it gets there.

use anyhow::{Context as _, anyhow, bail};
use host_inference::engine::{Availability, Engine, EngineConfig, ModelInfo};
use host_inference::store::{HubEndpoint, HubReference, Installed, ModelName, Store, default_directory};
use host_inference::{Task, catalogue};
use indicatif::HumanBytes;

use crate::args::ModelsCommand;
use crate::exit::{Done, Failed};
use crate::progress::Bars;

/// Runs one of the `host models` commands.
pub(crate) fn run(command: ModelsCommand) -> Done {
    let store = Store::open(default_directory());
    match command {
        ModelsCommand::List { task, installed, json } => {
            let task = task.map(|task| task.parse::<Task>()).transpose().map_err(Failed::usage)?;
            list(&store, task, installed, json)?;
        }
        ModelsCommand::Pull { models, name } => pull(&store, &models, name.as_deref())?,
        ModelsCommand::Import { name, path, task } => {
            let task = task.map(|task| task.parse::<Task>()).transpose()?;
            let name: ModelName = name.parse()?;
            report(&store.import(&name, &path, task, &mut Bars::new())?);
        }
        ModelsCommand::Verify { models } => verify(&store, &models)?,
        ModelsCommand::Remove { models } => {
            for name in models {
                store.remove(&name.parse()?)?;
                println!("removed {name}");
            }
        }
    }
    Ok(())
}

fn list(store: &Store, task: Option<Task>, installed: bool, json: bool) -> anyhow::Result<()> {
    let engine = Engine::new(EngineConfig::new(store.directory()))?;
    let mut models = engine.models();
    let here = |model: &ModelInfo| !matches!(model.availability, Availability::Pullable | Availability::Absent);
    models.retain(|model| task.is_none_or(|task| model.task == task) && (!installed || here(model)));
    if json {
        println!("{}", serde_json::to_string_pretty(&models)?);
        return Ok(());
    }
    let width = models.iter().map(|model| model.name.chars().count()).max().unwrap_or(0);
    for ModelInfo { name, task, availability, bytes, licence, .. } in &models {
        let state = match availability {
            Availability::Pullable => "can be pulled",
            Availability::Absent => "not here",
            _ => "on this machine",
        };
        let size = bytes.map_or(String::new(), |bytes| HumanBytes(bytes).to_string());
        let licence = licence.as_deref().unwrap_or("");
        println!("{name:width$}  {:<28}  {state:<15}  {size:>11}  {licence}", task.name());
    }
    println!("\nin {}", store.directory().display());
    Ok(())
}

/// Fetches models into a store: by a name of the catalogue each, or one of a hub repository under `name`.
pub(crate) fn pull(store: &Store, models: &[String], name: Option<&str>) -> anyhow::Result<()> {
    for model in models {
        if model.starts_with("hf:") {
            let (Some(name), [_]) = (name, models) else {
                bail!("a model of a hub repository needs a name: host models pull {model} --as NAME");
            };
            let reference: HubReference = model.parse()?;
            if offline() {
                bail!("HF_HUB_OFFLINE is set, so {model} is not fetched; unset it, or import files that are here");
            }
            let installed = store.pull_hub(&name.parse()?, &reference, &HubEndpoint::from_env(), &mut Bars::new())?;
            report(&installed);
            continue;
        }
        let entry = catalogue::entry(model).ok_or_else(|| {
            let known: Vec<_> = catalogue::entries().iter().map(|entry| entry.name.as_str()).collect();
            anyhow!("no model {model:?} in the catalogue; it has {}", known.join(", "))
        })?;
        let pulled = store.pull(entry, &mut Bars::new()).with_context(|| format!("the model {model} is not here"))?;
        report(&pulled);
    }
    Ok(())
}

/// Whether the user wants nothing from a hub, as the hub's own programs understand it.
fn offline() -> bool {
    let value = std::env::var("HF_HUB_OFFLINE").unwrap_or_default();
    ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
}

fn verify(store: &Store, models: &[String]) -> anyhow::Result<()> {
    let names = if models.is_empty() {
        store.list()?.into_iter().map(|installed| installed.name).collect()
    } else {
        models.iter().map(|name| name.parse().context("not a model's name")).collect::<Result<Vec<ModelName>, _>>()?
    };
    let mut damaged = 0;
    for name in names {
        match store.verify(&name, &mut Bars::new()) {
            Ok(()) => println!("{name}: sound"),
            Err(error) => {
                damaged += 1;
                println!("{error}");
            }
        }
    }
    if damaged > 0 {
        bail!("{damaged} damaged");
    }
    Ok(())
}

fn report(installed: &Installed) {
    println!("{} is ready ({})", installed.name, HumanBytes(installed.bytes()));
}

//! `host models`: what is on this machine, and how it gets there.

use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use host_inference::engine::{Availability, Engine, EngineConfig, ModelInfo};
use host_inference::store::{
    HubEndpoint, HubReference, Installed, ModelName, Store, default_directory, is_rounded_speech,
};
use host_inference::{Task, catalogue};
use indicatif::HumanBytes;

use crate::args::{ModelsCommand, ProjectArgs};
use crate::exit::{Done, Failed};
use crate::prepare;
use crate::progress::{self, Bars};

/// Runs one of the `host models` commands.
pub(crate) fn run(command: ModelsCommand) -> Done {
    let store = Store::open(default_directory());
    match command {
        ModelsCommand::List { project, task, licence, installed, json } => {
            let task = task.map(|task| task.parse::<Task>()).transpose().map_err(Failed::usage)?;
            list(&engine_of(&project, &store)?, &store, task, licence.as_deref(), installed, json)?;
        }
        ModelsCommand::Info { model, json } => info(&store, &model, json)?,
        ModelsCommand::Pull { models, name, connections } => {
            let endpoint = HubEndpoint { connections, ..HubEndpoint::from_env() };
            progress::end_with("interrupted; what has arrived is kept, and the same command goes on from there")
                .context("Ctrl-C cannot be listened for")?;
            pull(&store, &models, name.as_deref(), &endpoint)?;
        }
        ModelsCommand::Import { name, path, task } => {
            let task = task.map(|task| task.parse::<Task>()).transpose()?;
            let name: ModelName = name.parse()?;
            let installed = store.import(&name, &path, task, &mut Bars::new())?;
            report(&installed);
            if is_rounded_speech(&path) {
                suggest_int8(&installed);
            }
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

/// What knows the models: those of this machine, and those of the project that is named or lies here.
fn engine_of(args: &ProjectArgs, store: &Store) -> Result<Engine, Failed> {
    let here = || host_config::FILE_NAMES.iter().any(|name| Path::new(name).exists());
    if !args.config.is_empty() || here() {
        return prepare::engine(&prepare::load(args)?);
    }
    Engine::new(EngineConfig::new(store.directory())).map_err(Failed::usage)
}

fn list(
    engine: &Engine,
    store: &Store,
    task: Option<Task>,
    licence: Option<&str>,
    installed: bool,
    json: bool,
) -> anyhow::Result<()> {
    let mut models = engine.models();
    let here = |model: &ModelInfo| !matches!(model.availability, Availability::Pullable | Availability::Absent);
    let licensed = |model: &ModelInfo, wanted: &str| {
        model.licence.as_ref().is_some_and(|licence| licence.to_lowercase().contains(&wanted.to_lowercase()))
    };
    models.retain(|model| {
        task.is_none_or(|task| model.task == task)
            && (!installed || here(model))
            && licence.is_none_or(|wanted| licensed(model, wanted))
    });
    if json {
        println!("{}", serde_json::to_string_pretty(&models)?);
        return Ok(());
    }
    let width = models.iter().map(|model| model.name.chars().count()).max().unwrap_or(0);
    for model in &models {
        let (state, size) = (state(model.availability), size(model));
        let context = model.context.map_or(String::new(), |context| format!("{context} tokens"));
        let gated = if model.gated == Some(true) { " (gated)" } else { "" };
        let licence = model.licence.as_deref().unwrap_or("");
        let (name, task) = (&model.name, model.task.name());
        let line = format!("{name:width$}  {task:<28}  {state:<15}  {size:>11}  {context:>15}  {licence}{gated}");
        println!("{}", line.trim_end());
    }
    println!("\nin {}", store.directory().display());
    Ok(())
}

fn state(availability: Availability) -> &'static str {
    match availability {
        Availability::Pullable => "can be pulled",
        Availability::Absent => "not here",
        Availability::Remote => "on a server",
        _ => "on this machine",
    }
}

/// Bytes where files are known, else parameters.
fn size(model: &ModelInfo) -> String {
    match (model.bytes, model.parameters) {
        (Some(bytes), _) => HumanBytes(bytes).to_string(),
        (None, Some(count)) => parameters(count),
        (None, None) => String::new(),
    }
}

/// A number of parameters as it is spoken of: `8.03B`, `109M`.
fn parameters(count: u64) -> String {
    let (value, unit) = match count {
        1_000_000_000_000.. => (count as f64 / 1e12, "T"),
        1_000_000_000.. => (count as f64 / 1e9, "B"),
        _ => (count as f64 / 1e6, "M"),
    };
    let places = if value >= 100.0 { 0 } else { 2 };
    let number = format!("{value:.places$}");
    let number = if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { &number };
    format!("{number}{unit}")
}

fn info(store: &Store, name: &str, json: bool) -> Done {
    let engine = Engine::new(EngineConfig::new(store.directory())).map_err(anyhow::Error::from)?;
    let Some(model) = engine.models().into_iter().find(|model| model.name == name) else {
        let nearest = engine.nearest(name).map(|nearest| format!("; did you mean {nearest}?")).unwrap_or_default();
        return Err(anyhow!("no model {name:?} here or in the catalogue{nearest}").into());
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&model).map_err(anyhow::Error::from)?);
        return Ok(());
    }
    let installed = name.parse().ok().and_then(|name| store.find(&name).ok().flatten());
    let revision = model.revision.as_ref().map_or(String::new(), |revision| format!(", revision {revision}"));
    let lines = [
        ("task", Some(model.task.name().to_owned())),
        ("state", Some(state(model.availability).to_owned())),
        ("licence", model.licence.clone()),
        ("gated", model.gated.map(|gated| if gated { "yes" } else { "no" }.to_owned())),
        ("parameters", model.parameters.map(parameters)),
        ("size", model.bytes.map(|bytes| HumanBytes(bytes).to_string())),
        ("context", model.context.map(|context| format!("{context} tokens"))),
        ("dimensions", model.dimensions.map(|count| count.to_string())),
        ("repository", model.repository.as_ref().map(|repository| format!("{repository}{revision}"))),
        ("origin", installed.as_ref().map(|installed| installed.manifest.origin.to_string())),
        ("folder", installed.as_ref().map(|installed| installed.layout.folder().display().to_string())),
    ];
    println!("{name}");
    for (key, value) in lines {
        if let Some(value) = value {
            println!("  {key:<11} {value}");
        }
    }
    if model.availability == Availability::Absent && model.repository.is_some() {
        println!("  fetch it    host models pull {name}");
    }
    Ok(())
}

/// Fetches models into a store: by a name of the catalogue each, or one of a hub repository under `name`. Cloudflare's names
/// fetch the repository that each was made from.
pub(crate) fn pull(store: &Store, models: &[String], name: Option<&str>, endpoint: &HubEndpoint) -> anyhow::Result<()> {
    for model in models {
        let hosted = catalogue::hosted_as(model);
        if model.starts_with("hf:") || hosted.is_some() {
            let name = match (name, models, hosted) {
                (Some(name), [_], _) => name,
                (None, _, Some(hosted)) => &hosted.name,
                _ => bail!("a model of a hub repository needs a name: host models pull {model} --as NAME"),
            };
            let reference: HubReference = match hosted {
                Some(hosted) => format!("hf:{}@{}", hosted.repository, hosted.revision).parse()?,
                None => model.parse()?,
            };
            if offline() {
                bail!("HF_HUB_OFFLINE is set, so {model} is not fetched; unset it, or import files that are here");
            }
            let pulled = store.pull_hub(&name.parse()?, &reference, endpoint, &mut Bars::new());
            report(&pulled.with_context(|| format!("the model {model} is not here"))?);
            continue;
        }
        let entry = catalogue::entry(model).ok_or_else(|| {
            let known: Vec<_> = catalogue::entries().iter().map(|entry| entry.name.as_str()).collect();
            anyhow!("no model {model:?} in the catalogue; it has {}, and Cloudflare's names", known.join(", "))
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

/// How a model whose file held integers computes with integers here.
fn suggest_int8(installed: &Installed) {
    println!(
        "Its file holds integers, kept here as float16. To compute with 8-bit integers, add to the binding file\n  \
         [[ai.models]]\n  name = \"{}-int8\"\n  path = {:?}\n  precision = \"int8\"",
        installed.name,
        installed.layout.folder().display().to_string(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_written_as_they_are_spoken_of() {
        let spoken =
            [33_400_000, 109_000_000, 1_100_000_000, 8_030_000_000, 70_600_000_000, 1_000_000_000_000].map(parameters);
        assert_eq!(spoken, ["33.4M", "109M", "1.1B", "8.03B", "70.6B", "1T"]);
    }
}

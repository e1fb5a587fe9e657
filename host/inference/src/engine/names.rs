//! From the name in a request to the files behind it.
//!
//! Aliases are followed once, when the engine is made: a cycle or a target that does not exist is a fault of the
//! configuration and is reported before anything is served. What remains at run time is a table lookup; only names
//! found in no table are looked for in the store, because models may be pulled while the host runs.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use serde_json::Value;

use super::{Availability, LocalModel, LocalSource, ModelInfo};
use crate::backend::Pooling;
use crate::catalogue::{self, Task};
use crate::mock;
use crate::nearest::nearest;
use crate::remote::Remote;
use crate::speech::Precision;
use crate::store::{self, Installed, Layout, ModelName, Store};

/// A fault in the models' part of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigFault {
    /// Aliases that stand for each other.
    #[error("[ai.aliases]: {} is a circle; one of these names must stand for a model", .0.join(" -> "))]
    AliasCycle(Vec<String>),
    /// An alias for a model that nothing here knows.
    #[error("[ai.aliases]: \"{alias}\" stands for \"{target}\", which is no model here{}", did_you_mean(.nearest))]
    AliasTarget {
        /// The alias.
        alias: String,
        /// What it stands for.
        target: String,
        /// A known name that looks like the target.
        nearest: Option<String>,
    },
    /// Two models of one name, or a model and an alias.
    #[error("[ai]: the name \"{0}\" is given twice; remove one of them")]
    Duplicate(String),
    /// A name that no model can have.
    #[error("[ai]: \"{name}\" is no model name: {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// A model whose files or script cannot be used.
    #[error("[[ai.models]] \"{name}\": {why}")]
    Files {
        /// The model.
        name: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// An adapter whose files cannot be used.
    #[error("[[ai.loras]] \"{name}\": {why}")]
    Adapter {
        /// The adapter.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// An adapter for a model that nothing here knows.
    #[error("[[ai.loras]] \"{name}\" is for \"{target}\", which is no model here{}", did_you_mean(.nearest))]
    AdapterModel {
        /// The adapter.
        name: String,
        /// The model that it names.
        target: String,
        /// A known name that looks like it.
        nearest: Option<String>,
    },
    /// A device this build or machine does not have.
    #[error("[ai] device: {0}")]
    Device(String),
}

fn did_you_mean(name: &Option<String>) -> String {
    name.as_ref().map(|name| format!("; did you mean \"{name}\"?")).unwrap_or_default()
}

/// Everything that has a name.
pub(super) struct Directory {
    local: BTreeMap<String, Known>,
    /// Alias to final target.
    aliases: BTreeMap<String, String>,
    store: Store,
}

/// A model and where it comes from.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) name: String,
    pub(super) task: Task,
    pub(super) source: Source,
}

#[derive(Clone)]
pub(super) enum Source {
    /// Weights on this machine.
    Files(Files),
    /// A script.
    Script(Value),
    /// Other servers.
    Remote(Remote),
    /// Weights that can be pulled.
    Package(&'static catalogue::Entry),
    /// A name and nothing else.
    Hosted(&'static catalogue::Hosted),
}

/// Weights on this machine.
#[derive(Clone)]
pub(super) struct Files {
    pub(super) layout: Layout,
    pub(super) bytes: u64,
    pub(super) context: Option<NonZeroUsize>,
    pub(super) pooling: Option<Pooling>,
    pub(super) precision: Precision,
    pub(super) speculate: bool,
    pub(super) licence: Option<String>,
    pub(super) dimensions: Option<usize>,
}

impl Directory {
    pub(super) fn new(
        models: Vec<LocalModel>,
        aliases: BTreeMap<String, String>,
        store: Store,
        queue: NonZeroUsize,
        faults: &mut Vec<ConfigFault>,
    ) -> Self {
        let mut directory = Directory { local: BTreeMap::new(), aliases: BTreeMap::new(), store };
        for model in models {
            check_name(&model.name, faults);
            let name = model.name.clone();
            match local(model, queue) {
                Ok(known) => {
                    if directory.local.insert(name.clone(), known).is_some() {
                        faults.push(ConfigFault::Duplicate(name));
                    }
                }
                Err(fault) => faults.push(fault),
            }
        }
        for alias in aliases.keys() {
            check_name(alias, faults);
            if directory.local.contains_key(alias) {
                faults.push(ConfigFault::Duplicate(alias.clone()));
            }
            match follow(alias, &aliases) {
                Ok(target) => {
                    if directory.model(target).is_none() {
                        faults.push(ConfigFault::AliasTarget {
                            alias: alias.clone(),
                            target: target.to_owned(),
                            nearest: directory.nearest(target),
                        });
                    }
                    directory.aliases.insert(alias.clone(), target.to_owned());
                }
                // Every member of a circle finds it; the first of them reports it.
                Err(circle) if circle.iter().min() == Some(alias) => faults.push(ConfigFault::AliasCycle(circle)),
                Err(_) => {}
            }
        }
        directory
    }

    /// The name behind all aliases; the name itself when it is none.
    pub(super) fn canonical<'a>(&'a self, name: &'a str) -> &'a str {
        self.aliases.get(name).map_or(name, String::as_str)
    }

    /// What a request that names `name` wants done: what the model behind it does, unless `name` itself is one of
    /// Cloudflare's that does something which a language model behind it can be asked for.
    pub(super) fn task(&self, name: &str, behind: Task) -> Task {
        let own = catalogue::hosted_as(name).map(|hosted| hosted.task);
        own.filter(|own| behind == Task::TextGeneration && behind.serves(*own)).unwrap_or(behind)
    }

    /// The model that `name` stands for.
    pub(super) fn find(&self, name: &str) -> Option<Known> {
        self.model(self.canonical(name))
    }

    fn model(&self, name: &str) -> Option<Known> {
        if let Some(known) = self.local.get(name) {
            return Some(known.clone());
        }
        let parsed: ModelName = name.parse().ok()?;
        match self.store.find(&parsed) {
            Ok(Some(installed)) => return Some(from_store(installed)),
            Ok(None) => {}
            Err(error) => tracing::warn!(model = name, %error, "a model in the store cannot be used"),
        }
        if let Some(entry) = catalogue::entry(name) {
            return Some(Known { name: name.to_owned(), task: entry.task, source: Source::Package(entry) });
        }
        let hosted = catalogue::hosted_as(name)?;
        Some(Known { name: name.to_owned(), task: hosted.task, source: Source::Hosted(hosted) })
    }

    pub(super) fn nearest(&self, name: &str) -> Option<String> {
        let names = self.names();
        nearest(name, names.iter().map(String::as_str)).map(str::to_owned)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.local.keys().cloned().collect();
        names.extend(self.store.list().unwrap_or_default().into_iter().map(|installed| installed.name.to_string()));
        names.extend(catalogue::entries().iter().map(|entry| entry.name.clone()));
        names.extend(catalogue::hosted().iter().map(|hosted| hosted.name.clone()));
        names.sort();
        names.dedup();
        names
    }

    pub(super) fn list(&self) -> Vec<ModelInfo> {
        self.names().iter().filter_map(|name| self.model(name)).map(|known| self.info(known)).collect()
    }

    fn info(&self, known: Known) -> ModelInfo {
        let entry = catalogue::entry(&known.name);
        let hosted = catalogue::hosted_as(&known.name);
        let stands_for = |(alias, target): (&String, &String)| (*target == known.name).then(|| alias.clone());
        let mut info = ModelInfo {
            aliases: self.aliases.iter().filter_map(stands_for).collect(),
            name: known.name,
            task: known.task,
            availability: Availability::Absent,
            context: entry.map(|entry| entry.context).or(hosted.and_then(|hosted| hosted.context)),
            dimensions: entry.and_then(|entry| entry.dimensions).or(hosted.and_then(|hosted| hosted.dimensions)),
            licence: entry.map(|entry| entry.licence.clone()).or(hosted.and_then(|hosted| hosted.licence.clone())),
            bytes: None,
            repository: entry.map(|entry| &entry.repository).or(hosted.map(|hosted| &hosted.repository)).cloned(),
            revision: hosted.map(|hosted| hosted.revision.clone()),
            parameters: hosted.and_then(|hosted| hosted.parameters),
            gated: hosted.and_then(|hosted| hosted.gated),
            servers: Vec::new(),
        };
        match known.source {
            Source::Files(files) => {
                info.availability = Availability::OnDisk;
                info.context = files.context.map(NonZeroUsize::get).or(info.context);
                info.dimensions = files.dimensions.or(info.dimensions);
                info.licence = files.licence.or(info.licence);
                info.bytes = Some(files.bytes);
            }
            Source::Script(_) => info.availability = Availability::Scripted,
            Source::Remote(remote) => {
                info.availability = Availability::Remote;
                info.dimensions = remote.dimensions().or(info.dimensions);
                info.context = remote.context().or(info.context);
                info.servers = remote.addresses();
            }
            Source::Package(entry) => {
                info.availability = Availability::Pullable;
                info.bytes = Some(entry.package.bytes);
            }
            Source::Hosted(_) => {}
        }
        info
    }
}

pub(super) fn check_name(name: &str, faults: &mut Vec<ConfigFault>) {
    if let Err(error) = name.parse::<ModelName>() {
        faults.push(ConfigFault::Name { name: name.to_owned(), why: error.to_string() });
    }
}

fn local(model: LocalModel, queue: NonZeroUsize) -> Result<Known, ConfigFault> {
    let LocalModel { name, task, source, context, pooling, precision, speculate } = model;
    match source {
        LocalSource::Remote(settings) => match Remote::new(settings, task, context, pooling, queue) {
            Ok(remote) => Ok(Known { name, task: remote.task(), source: Source::Remote(remote) }),
            Err(why) => Err(ConfigFault::Files { name, why }),
        },
        LocalSource::Mock(script) => {
            let task = task.unwrap_or(Task::TextGeneration);
            if let Err(error) = mock::MockText::new(&script) {
                return Err(ConfigFault::Files { name, why: error.to_string() });
            }
            Ok(Known { name, task, source: Source::Script(script) })
        }
        LocalSource::Path(path) => {
            let found = inspect(&name, path)?;
            if task.is_some_and(|task| !found.task.serves(task)) {
                let why = format!("the files hold a {} model; remove `task` or give other files", found.task);
                return Err(ConfigFault::Files { name, why });
            }
            if precision.is_some() && found.task != Task::AutomaticSpeechRecognition {
                let why = format!("`precision` is for models of speech; the files hold a {} model", found.task);
                return Err(ConfigFault::Files { name, why });
            }
            let dimensions = found.dimensions;
            let files = Files {
                layout: found.layout,
                bytes: found.bytes,
                context,
                pooling,
                precision: precision.unwrap_or_default(),
                speculate,
                licence: None,
                dimensions,
            };
            Ok(Known { name, task: task.unwrap_or(found.task), source: Source::Files(files) })
        }
    }
}

fn inspect(name: &str, path: PathBuf) -> Result<store::Inspected, ConfigFault> {
    store::inspect(&path).map_err(|error| ConfigFault::Files { name: name.to_owned(), why: error.to_string() })
}

fn from_store(installed: Installed) -> Known {
    let bytes = installed.bytes();
    let manifest = installed.manifest;
    let files = Files {
        layout: installed.layout,
        bytes,
        context: manifest.context.and_then(NonZeroUsize::new),
        pooling: manifest.pooling,
        precision: Precision::default(),
        speculate: false,
        licence: manifest.licence,
        dimensions: manifest.dimensions,
    };
    Known { name: installed.name.to_string(), task: manifest.task, source: Source::Files(files) }
}

/// The name at the end of a chain of aliases, or the circle that the chain runs into.
fn follow<'a>(alias: &'a str, aliases: &'a BTreeMap<String, String>) -> Result<&'a str, Vec<String>> {
    let mut chain = vec![alias];
    let mut name = alias;
    while let Some(target) = aliases.get(name) {
        name = target;
        if let Some(start) = chain.iter().position(|seen| *seen == name) {
            let mut circle: Vec<String> = chain[start..].iter().map(|name| (*name).to_owned()).collect();
            circle.push(name.to_owned());
            return Err(circle);
        }
        chain.push(name);
    }
    Ok(name)
}

//! From the command line to workers that could answer, with nothing bound yet.
//!
//! Everything that can be wrong is looked at before a port is taken, and every fault is told, not only the first.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::fmt::Display;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use host_assets::{Assets, navigation_prefers_assets};
use host_batch::Batches;
use host_bindings::{Bindings, Grants, Resources, Services, Site, outbound};
use host_config::{Binding, Device, LoadOptions, Main, ModelSource, Project};
use host_gateway::Gateways;
use host_inference::catalogue;
use host_inference::engine::{DeviceChoice, Engine, EngineConfig, LocalAdapter, LocalModel, LocalSource};
use host_inference::remote::{RemoteModel, Schemas};
use host_inference::store::{self, Store};
use host_js::{BuildRequest, Builder, Built, Mapper, Progress as _, Toolchain};
use host_runtime::{
    Compiled, Instances, Limits, MapStack, Runtime, RuntimeConfig, Script, ScriptEngine, Worker, WorkerConfig,
};
use host_server::Served;
use host_upstream::{Address, Key};
use indicatif::HumanBytes;
use tokio::task::block_in_place;

use crate::args::ProjectArgs;
use crate::cargo;
use crate::exit::{Done, Failed};
use crate::gateway::gateways;
use crate::models;
use crate::progress::Steps;

/// Reads the binding files. Warnings are printed.
pub(crate) fn project(args: &ProjectArgs) -> Result<Project, Failed> {
    let project = load(args)?;
    for warning in &project.warnings {
        eprintln!("{warning}\n");
    }
    Ok(project)
}

/// Reads the binding files.
pub(crate) fn load(args: &ProjectArgs) -> Result<Project, Failed> {
    let options = LoadOptions {
        directory: PathBuf::new(),
        files: args.config.clone(),
        env: args.env.clone(),
        vars: args.var.clone(),
    };
    host_config::load(&options).map_err(Failed::usage)
}

/// What makes workers. What it has made once (the compiler, the JavaScript engine, the bundler) it keeps for the next.
pub(crate) struct Workshop {
    runtime: Runtime,
    client: outbound::Client,
    resources: Resources,
    scripts: Option<Scripts>,
    /// What the script of a worker was last made from, by the worker's name.
    built: HashMap<String, Built>,
    /// What cargo has built, by worker.
    components: HashMap<String, PathBuf>,
}

/// What scripts need beyond the rest.
struct Scripts {
    engine: ScriptEngine,
    builder: Builder,
}

/// The workers of a project, linked and ready to answer.
pub(crate) struct Sites {
    pub(crate) served: Vec<Served>,
    pub(crate) services: Services,
    /// Batches, with those that another process has left; they go on when they are told to.
    pub(crate) batches: Batches,
}

/// What answers the calls of a project's workers.
struct Answers<'a> {
    engine: &'a Engine,
    services: &'a Services,
    gateways: &'a Gateways,
    batches: &'a Batches,
}

/// Every fault of a project's workers.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n\nerror: "))]
pub(crate) struct WorkerFaults(Vec<String>);

/// The engine of a project's models.
pub(crate) fn engine(project: &Project) -> Result<Engine, Failed> {
    Engine::new(engine_config(project)?).map_err(Failed::usage)
}

/// What the bindings of a project keep their data in. Nothing is made before something is kept.
pub(crate) fn resources(args: &ProjectArgs, project: &Project) -> Resources {
    let beside = || {
        let file = project.files.first().map(PathBuf::as_path).unwrap_or(Path::new(""));
        file.parent().unwrap_or(Path::new("")).join(host_state::IN_PROJECT)
    };
    Resources::new(host_state::Directory::new(&args.persist_to.clone().unwrap_or_else(beside)))
}

/// Says which vector indexes the workers bind that are not there. They may be created while the host runs.
pub(crate) fn warn_of_missing_indexes(project: &Project, resources: &Resources) {
    let there = match resources.indexes().names() {
        Ok(there) => there,
        Err(error) => return eprintln!("warning: {error}\n"),
    };
    let bound: BTreeSet<&String> = project
        .workers
        .iter()
        .flat_map(|worker| worker.bindings.values())
        .filter_map(|binding| match binding {
            Binding::Vectorize { index, create: None } => Some(index),
            _ => None,
        })
        .collect();
    for index in bound.into_iter().filter(|index| !there.contains(index)) {
        let directory = resources.state().path().display();
        eprintln!(
            "warning: there is no vector index {index:?} in {directory}\n  \
             help: create it, with the dimensions of the model whose vectors it is for, by\n        \
             host vectorize create {index} --dimensions=384 --metric=cosine\n  \
             help: or let the host create it, by `dimensions = 384` beside its `index_name`\n"
        );
    }
}

/// The models that a project's aliases name and that could be fetched, without those that are on this machine.
pub(crate) fn missing_models(project: &Project) -> Vec<String> {
    let ai = &project.ai;
    let store = Store::open(models_directory(project));
    let missing = |name: &&String| {
        let own = ai.models.iter().any(|model| model.name == **name);
        // What cannot be looked up is left to the request that needs it, which says why.
        let absent = name.parse().is_ok_and(|name| matches!(store.find(&name), Ok(None)));
        !own && absent && catalogue::entry(name).is_some()
    };
    let names: BTreeSet<&String> = ai.aliases.values().filter(missing).collect();
    names.into_iter().cloned().collect()
}

/// Fetches the models that a project's aliases name, or says how they are fetched where neither `pull` nor the binding
/// file asks for it. Nothing else uses the network.
pub(crate) fn have_models(project: &Project, pull: bool) -> Done {
    let missing = missing_models(project);
    if missing.is_empty() {
        return Ok(());
    }
    if pull || project.ai.pull {
        models::pull(&Store::open(models_directory(project)), &missing, None, &store::HubEndpoint::from_env())?;
        return Ok(());
    }
    let bytes = missing.iter().filter_map(|name| catalogue::entry(name)).map(|entry| entry.package.bytes).sum();
    let place = match &project.ai.model_directory {
        Some(directory) => format!("HOST_MODELS_DIR='{}' ", directory.display()),
        None => String::new(),
    };
    let names = missing.join(" ");
    eprintln!(
        "warning: models that this project names are not on this machine: {names}\n  \
         help: fetch them ({}, once) with --pull or `pull = true` under [ai], or with\n        {place}host models pull {names}\n",
        HumanBytes(bytes)
    );
    Ok(())
}

impl Workshop {
    /// What makes workers whose bindings keep their data in `resources`.
    pub(crate) fn open(resources: Resources) -> Result<Self, Failed> {
        let runtime = Runtime::new(&runtime_config())?;
        Ok(Self {
            runtime,
            client: outbound::Client::new()?,
            resources,
            scripts: None,
            built: HashMap::new(),
            components: HashMap::new(),
        })
    }

    /// What the bindings keep their data in.
    pub(crate) fn resources(&self) -> &Resources {
        &self.resources
    }

    /// Makes every worker of a project, and starts an instance of each script. Every fault is told, not only the first.
    pub(crate) async fn sites(&mut self, project: &Project, engine: &Engine) -> Result<Sites, WorkerFaults> {
        let services = Services::default();
        let gateways = gateways(project, engine, &self.resources).map_err(|fault| WorkerFaults(vec![fault]))?;
        let batches = Batches::new(engine.clone(), self.resources.state().clone(), project.ai.batch_ttl);
        let answers = Answers { engine, services: &services, gateways: &gateways, batches: &batches };
        let (mut served, mut faults) = (Vec::new(), Vec::new());
        for worker in &project.workers {
            match self.site(worker, &answers).await {
                Ok(site) => served.push(Served { site, routes: worker.routes.clone() }),
                Err(found) => faults.extend(found.into_iter().map(|fault| format!("worker {}: {fault}", worker.name))),
            }
        }
        if !faults.is_empty() {
            return Err(WorkerFaults(faults));
        }
        services.set(served.iter().map(|served| &served.site));
        Ok(Sites { served, services, batches })
    }

    async fn site(&mut self, worker: &host_config::Worker, answers: &Answers<'_>) -> Result<Site, Vec<String>> {
        let assets = worker.assets.as_ref().map(|settings| {
            let navigation = navigation_prefers_assets(worker.compatibility_date, &worker.compatibility_flags);
            Assets::open(settings).map(|assets| assets.with_navigation(navigation))
        });
        let assets = assets.transpose().map_err(one)?;
        let name = worker.name.as_str();
        let Some(main) = &worker.main else { return Ok(Site::new(name, None, assets)) };
        let at = |fault: &dyn Display| vec![format!("{}: {fault}", main.path().display())];
        let grants = Grants::new(worker, assets.as_ref(), &self.resources).map_err(one)?;
        let linked = match main {
            Main::Component(_) | Main::Cargo(_) => {
                let path = self.component(worker, main).map_err(|fault| at(&fault))?;
                let compiled = block_in_place(|| compile(worker, &path, &self.runtime)).map_err(|error| at(&error))?;
                let missing = grants.check_imports(compiled.imports());
                if !missing.is_empty() {
                    return Err(missing.iter().flat_map(|missing| at(missing)).collect());
                }
                let config = self.config(worker, grants, answers);
                Worker::new(&self.runtime, &compiled, config).map_err(|error| at(&error))?
            }
            Main::Script(path) => {
                let env = grants.script_env();
                let made = block_in_place(|| self.script(worker, path, env));
                let (script, engine_component) = made.map_err(|fault| vec![fault])?;
                let config = self.config(worker, grants, answers);
                Worker::script(&engine_component, script, config).map_err(|error| at(&error))?
            }
        };
        linked.start().await.map_err(|fault| at(&fault))?;
        Ok(Site::new(name, Some(linked), assets))
    }

    fn config(&self, worker: &host_config::Worker, grants: Grants, answers: &Answers<'_>) -> WorkerConfig<Bindings> {
        let Answers { engine, services, gateways, batches } = *answers;
        WorkerConfig {
            name: worker.name.as_str().into(),
            limits: limits(&worker.limits),
            extension: Bindings::new(
                grants,
                engine.clone(),
                self.client.clone(),
                services.clone(),
                gateways.clone(),
                batches.clone(),
            ),
            instances: worker.instances.map(|instances| match instances {
                host_config::Instances::Fresh => Instances::Fresh,
                host_config::Instances::Reuse => Instances::Reuse,
            }),
        }
    }

    /// The file of a worker's component, built first where `main` is what it is built from.
    pub(crate) fn component(&mut self, worker: &host_config::Worker, main: &Main) -> Result<PathBuf, String> {
        let Main::Cargo(manifest) = main else { return Ok(main.path().to_owned()) };
        let component = block_in_place(|| cargo::build(manifest))?;
        self.components.insert(worker.name.as_str().to_owned(), component.clone());
        Ok(component)
    }

    /// The component that cargo last built for the worker of this name.
    pub(crate) fn cargo_built(&self, worker: &str) -> Option<&Path> {
        self.components.get(worker).map(PathBuf::as_path)
    }

    /// Builds a script where its sources have changed, and reads it.
    fn script(
        &mut self,
        worker: &host_config::Worker,
        entry: &Path,
        env: String,
    ) -> Result<(Script, ScriptEngine), String> {
        let built = self.build(worker, entry, false)?;
        let scripts = self.scripts().map_err(|error| format!("{error:#}"))?;
        let source = std::fs::read(&built.script)
            .map_err(|error| format!("{} cannot be read: {error}", built.script.display()))?;
        let map_stack = Mapper::read(&built.map, project_directory(worker)).ok().map(|mapper| {
            let map_stack: MapStack = Arc::new(move |text: &str| mapper.map_text(text));
            map_stack
        });
        let engine = scripts.engine.clone();
        self.built.insert(worker.name.as_str().to_owned(), built);
        Ok((Script { source: source.into(), env, map_stack }, engine))
    }

    /// What the script of the worker of this name was last made from.
    pub(crate) fn built(&self, worker: &str) -> Option<&Built> {
        self.built.get(worker)
    }

    /// Builds a script. Its warnings are printed.
    pub(crate) fn build(&mut self, worker: &host_config::Worker, entry: &Path, minify: bool) -> Result<Built, String> {
        let request = BuildRequest {
            entry: entry.to_owned(),
            outdir: project_directory(worker).join(".host/build").join(worker.name.as_str()),
            flags: worker.compatibility_flags.clone(),
            minify,
        };
        let scripts = self.scripts().map_err(|error| format!("{error:#}"))?;
        let built = scripts.builder.build(&request).map_err(|error| error.to_string())?;
        for warning in &built.warnings {
            eprintln!("{warning}");
        }
        let (worker, ms) = (worker.name.as_str(), built.duration.as_millis() as u64);
        tracing::debug!(worker, bytes = built.bytes, ms, cached = built.cached, "bundled");
        Ok(built)
    }

    /// The JavaScript engine and the bundler, made when the first script needs them.
    fn scripts(&mut self) -> anyhow::Result<&mut Scripts> {
        if self.scripts.is_none() {
            let root = cache("").context("there is no cache directory: set HOME or HOST_CACHE_DIR")?;
            let toolchain = Toolchain::ready(&root, &mut Steps)?;
            let started = std::time::Instant::now();
            let engine = ScriptEngine::compile(&runtime_config(), toolchain.runtime(), || {
                Steps.step("compiling the JavaScript engine (once for this version of the host)");
            })?;
            tracing::debug!(ms = started.elapsed().as_millis() as u64, "the JavaScript engine is loaded");
            self.scripts = Some(Scripts { engine, builder: Builder::new(&toolchain) });
        }
        self.scripts.as_mut().context("scripts were just made")
    }
}

fn runtime_config() -> RuntimeConfig {
    RuntimeConfig { cache_directory: cache("components") }
}

fn one(error: impl Display) -> Vec<String> {
    vec![error.to_string()]
}

/// Where a worker's binding file lies.
fn project_directory(worker: &host_config::Worker) -> &Path {
    worker.file.parent().unwrap_or(Path::new("."))
}

fn compile(
    worker: &host_config::Worker,
    main: &Path,
    runtime: &Runtime,
) -> Result<Compiled, host_runtime::CompileError> {
    let started = std::time::Instant::now();
    let compiled = runtime.compile_file(main)?;
    let how = if compiled.cached() { "loaded from the cache" } else { "compiled" };
    tracing::debug!(worker = worker.name.as_str(), ms = started.elapsed().as_millis() as u64, "{how}");
    Ok(compiled)
}

fn limits(limits: &host_config::Limits) -> Limits {
    Limits {
        cpu: limits.cpu,
        wall: limits.wall,
        memory_bytes: limits.memory_bytes,
        concurrency: limits.concurrency.get(),
        request_bytes: limits.request_bytes,
        response_bytes: limits.response_bytes,
        subrequests: limits.subrequests,
        log_bytes: limits.log_bytes,
    }
}

fn engine_config(project: &Project) -> Result<EngineConfig, Failed> {
    let ai = &project.ai;
    Ok(EngineConfig {
        models_directory: models_directory(project),
        models: ai.models.iter().map(local_model).collect::<Result<_, Failed>>()?,
        adapters: ai.loras.iter().map(local_adapter).collect(),
        aliases: ai.aliases.clone(),
        device: match ai.device {
            Device::Cpu => DeviceChoice::Cpu,
            Device::Cuda => DeviceChoice::Cuda,
            Device::Metal => DeviceChoice::Metal,
            _ => DeviceChoice::Auto,
        },
        threads: ai.threads,
        memory_bytes: ai.memory_bytes,
        queue: ai.queue,
    })
}

/// Where a project's models lie.
pub(crate) fn models_directory(project: &Project) -> PathBuf {
    project.ai.model_directory.clone().unwrap_or_else(store::default_directory)
}

fn local_adapter(lora: &host_config::LoraEntry) -> LocalAdapter {
    LocalAdapter { name: lora.name.clone(), path: lora.path.clone(), models: lora.models.clone() }
}

fn local_model(model: &host_config::ModelEntry) -> Result<LocalModel, Failed> {
    Ok(LocalModel {
        name: model.name.clone(),
        task: model.task,
        source: match &model.source {
            ModelSource::Mock(script) => LocalSource::Mock(script.clone()),
            ModelSource::Path(path) => LocalSource::Path(path.clone()),
            ModelSource::OpenAi(model) => LocalSource::Remote(remote_model(model)?),
            _ => LocalSource::Path(PathBuf::new()),
        },
        context: model.context,
        pooling: model.pooling,
        precision: model.precision,
        speculate: model.speculate,
    })
}

/// A model on the servers that the binding file names.
fn remote_model(model: &host_config::OpenAiModel) -> Result<RemoteModel, Failed> {
    let servers = &model.servers;
    Ok(RemoteModel {
        addresses: addresses(servers)?,
        model: model.model.clone(),
        key: servers.key.as_ref().map(|key| bearer(key.expose())).transpose()?,
        timeout: servers.timeout,
        attempts: servers.attempts,
        concurrency: servers.concurrency,
        dimensions: model.dimensions.map(NonZeroUsize::get),
        batch: model.max_batch,
        schemas: if model.schemas_in_json_object { Schemas::JsonObject } else { Schemas::JsonSchema },
        health: servers.health.clone().unwrap_or_else(|| "/models".to_owned()),
    })
}

pub(crate) fn addresses(servers: &host_config::Servers) -> Result<Vec<Address>, Failed> {
    let address = |url: &String| url.parse().map_err(|error| Failed::usage(anyhow!("{url:?}: {error}")));
    servers.urls.iter().map(address).collect()
}

fn bearer(key: &str) -> Result<Key, Failed> {
    Key::bearer(key).ok_or_else(|| Failed::usage(anyhow!("a server's key holds characters that no header can carry")))
}

/// A directory of what can be made again: below `$HOST_CACHE_DIR`, else `$XDG_CACHE_HOME/host`, else `~/.cache/host`.
fn cache(directory: &str) -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let root = variable("HOST_CACHE_DIR")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("host")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/host")))?;
    Some(root.join(directory))
}

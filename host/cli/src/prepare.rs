//! From the command line to workers that could answer, with nothing bound yet.
//!
//! Everything that can be wrong is looked at before a port is taken, and every fault is told, not only the first.

use std::path::PathBuf;

use anyhow::anyhow;
use host_bindings::{Bindings, Grants, outbound};
use host_config::{Device, LoadOptions, ModelSource, Project};
use host_inference::engine::{DeviceChoice, Engine, EngineConfig, LocalModel, LocalSource};
use host_inference::{Task, backend, store};
use host_runtime::{Compiled, Instances, Limits, Runtime, RuntimeConfig, Worker, WorkerConfig};

use crate::args::ProjectArgs;
use crate::exit::Failed;

/// A project whose every worker has been compiled and linked.
pub(crate) struct Prepared {
    pub(crate) project: Project,
    pub(crate) engine: Engine,
    pub(crate) workers: Vec<Worker<Bindings>>,
}

/// Reads the binding files. Warnings are printed.
pub(crate) fn project(args: &ProjectArgs) -> Result<Project, Failed> {
    let options = LoadOptions {
        directory: PathBuf::new(),
        files: args.config.clone(),
        env: args.env.clone(),
        vars: args.var.clone(),
    };
    let project = host_config::load(&options).map_err(Failed::usage)?;
    for warning in &project.warnings {
        eprintln!("{warning}\n");
    }
    Ok(project)
}

/// Makes the engine and the workers of a project.
pub(crate) fn prepare(project: Project) -> Result<Prepared, Failed> {
    let engine = Engine::new(engine_config(&project)).map_err(Failed::usage)?;
    let runtime = Runtime::new(&RuntimeConfig { cache_directory: cache_directory() })?;
    let client = outbound::Client::new()?;
    let mut workers = Vec::new();
    let mut faults = Vec::new();
    for worker in &project.workers {
        match link(worker, &runtime, &engine, &client) {
            Ok(linked) => workers.push(linked),
            Err(found) => faults.extend(found),
        }
    }
    if !faults.is_empty() {
        return Err(Failed::usage(anyhow!("{}", faults.join("\n\nerror: "))));
    }
    Ok(Prepared { project, engine, workers })
}

fn link(
    worker: &host_config::Worker,
    runtime: &Runtime,
    engine: &Engine,
    client: &outbound::Client,
) -> Result<Worker<Bindings>, Vec<String>> {
    let (name, main) = (worker.name.as_str(), worker.main.display());
    let fault = |what: &dyn std::fmt::Display| vec![format!("worker {name}: {main}: {what}")];
    let compiled = compile(worker, runtime).map_err(|error| fault(&error))?;
    let grants = Grants::new(worker).map_err(|error| vec![error.to_string()])?;
    let missing = grants.check_imports(compiled.imports());
    if !missing.is_empty() {
        return Err(missing.iter().map(|missing| format!("worker {name}: {main}: {missing}")).collect());
    }
    let config = WorkerConfig {
        name: name.to_owned(),
        limits: limits(&worker.limits),
        extension: Bindings::new(grants, engine.clone(), client.clone()),
        instances: worker.instances.map(|instances| match instances {
            host_config::Instances::Fresh => Instances::Fresh,
            host_config::Instances::Reuse => Instances::Reuse,
        }),
    };
    Worker::new(runtime, &compiled, config).map_err(|error| fault(&error))
}

fn compile(worker: &host_config::Worker, runtime: &Runtime) -> Result<Compiled, host_runtime::CompileError> {
    let started = std::time::Instant::now();
    let compiled = runtime.compile_file(&worker.main)?;
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

fn engine_config(project: &Project) -> EngineConfig {
    let ai = &project.ai;
    EngineConfig {
        models_directory: ai.model_directory.clone().unwrap_or_else(store::default_directory),
        models: ai.models.iter().map(local_model).collect(),
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
    }
}

fn local_model(model: &host_config::ModelEntry) -> LocalModel {
    LocalModel {
        name: model.name.clone(),
        task: model.task.and_then(|task| task.as_str().parse::<Task>().ok()),
        source: match &model.source {
            ModelSource::Mock(script) => LocalSource::Mock(script.clone()),
            ModelSource::Path(path) => LocalSource::Path(path.clone()),
            _ => LocalSource::Path(PathBuf::new()),
        },
        context: model.context,
        pooling: model.pooling.map(|pooling| match pooling {
            host_config::Pooling::Mean => backend::Pooling::Mean,
            host_config::Pooling::Cls => backend::Pooling::Cls,
        }),
    }
}

/// Where compiled components are kept: `$HOST_CACHE_DIR`, else `$XDG_CACHE_HOME/host`, else `~/.cache/host`.
fn cache_directory() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let root = variable("HOST_CACHE_DIR")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("host")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/host")))?;
    Some(root.join("components"))
}

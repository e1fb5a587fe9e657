//! `host build`: what `host serve` does to scripts before it serves them, and no more.

use std::path::Path;

use host_bindings::Resources;
use host_config::{LoadOptions, Main, Project, Worker};
use host_js::Built;
use host_state::Directory;
use indicatif::HumanBytes;
use serde_json::{Value, json};

use crate::args::BuildArgs;
use crate::exit::{Done, Failed};
use crate::prepare::Workshop;

/// The faults of the scripts, which have been printed by the time that this is returned.
#[derive(Debug, thiserror::Error)]
#[error("{0} of the workers cannot be built")]
struct Faults(usize);

/// Builds every script of a project. One that cannot be built does not keep the others from it.
pub(crate) fn run(args: BuildArgs) -> Done {
    match build(&args) {
        Err(failed) if args.json => {
            // Faults of scripts have been printed with the workers that were built.
            if !failed.error().is::<Faults>() {
                print(&[], &failed.faults());
            }
            Err(failed.silent())
        }
        Err(failed) if failed.error().is::<Faults>() => Err(failed.silent()),
        done => done,
    }
}

fn build(args: &BuildArgs) -> Done {
    let project = load(args)?;
    for warning in &project.warnings {
        eprintln!("{warning}\n");
    }
    // A build starts no worker, so nothing is made there.
    let mut workshop = Workshop::open(Resources::new(Directory::new(Path::new(host_state::IN_PROJECT))))?;
    let (mut workers, mut faults) = (Vec::new(), Vec::new());
    for worker in &project.workers {
        let name = worker.name.as_str();
        let built = match &worker.main {
            Some(Main::Script(entry)) => workshop.build(worker, entry, args.minify).map(|built| {
                if !args.json {
                    println!("{}", line(name, &built));
                }
                described(name, &built)
            }),
            Some(main @ Main::Cargo(_)) => workshop.component(worker, main).map(|component| {
                if !args.json {
                    println!("{name}  {}", component.display());
                }
                json!({ "name": name, "kind": "cargo", "component": component })
            }),
            Some(Main::Component(_)) | None => Ok(without_script(worker, args.json)),
        };
        match built {
            Ok(built) => workers.push(built),
            Err(fault) => {
                if !args.json {
                    eprintln!("{fault}\n");
                }
                faults.push(json!({ "worker": name, "message": fault }));
            }
        }
    }
    if args.json {
        print(&workers, &faults);
    }
    if faults.is_empty() { Ok(()) } else { Err(Failed::usage(Faults(faults.len()))) }
}

fn load(args: &BuildArgs) -> Result<Project, Failed> {
    let options = LoadOptions {
        directory: args.directory.clone().unwrap_or_default(),
        files: args.config.clone(),
        env: args.env.clone(),
        vars: Vec::new(),
    };
    host_config::load(&options).map_err(Failed::usage)
}

/// A built script, for people.
fn line(name: &str, built: &Built) -> String {
    let cached = if built.cached { "  cached" } else { "" };
    format!("{name}  {}  {} ms{cached}", HumanBytes(built.bytes), built.duration.as_millis())
}

/// A built script, for programs.
fn described(name: &str, built: &Built) -> Value {
    json!({
        "name": name,
        "kind": "script",
        "script": built.script,
        "map": built.map,
        "bytes": built.bytes,
        "ms": built.duration.as_millis() as u64,
        "cached": built.cached,
        "warnings": built.warnings,
    })
}

/// A worker that is served as it is. For people it is printed.
fn without_script(worker: &Worker, quiet: bool) -> Value {
    let name = worker.name.as_str();
    let (kind, what) = match &worker.main {
        Some(_) => ("component", "a component"),
        None => ("assets", "files alone"),
    };
    if !quiet {
        println!("{name}  needs no build: it is {what}");
    }
    json!({ "name": name, "kind": kind })
}

fn print(workers: &[Value], faults: &[Value]) {
    println!("{}", json!({ "ok": faults.is_empty(), "workers": workers, "faults": faults }));
}

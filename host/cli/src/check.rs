//! `host check`: everything that `host serve` does before it binds a port.

use host_config::Project;
use serde_json::json;

use crate::args::CheckArgs;
use crate::exit::{Done, Failed};
use crate::prepare::Workshop;
use crate::{prepare, table};

/// Checks the binding files and their components.
pub(crate) fn run(args: CheckArgs) -> Done {
    let checked = check(&args);
    if !args.json {
        print!("{}", table::bindings(&checked?));
        println!("no faults");
        return Ok(());
    }
    match checked {
        Ok(project) => {
            println!("{}", json!({ "ok": true, "project": project, "faults": [] }));
            Ok(())
        }
        Err(failed) => {
            println!("{}", json!({ "ok": false, "faults": failed.faults() }));
            Err(failed.silent())
        }
    }
}

fn check(args: &CheckArgs) -> Result<Project, Failed> {
    let project = prepare::project(&args.project)?;
    let engine = prepare::engine(&project)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let resources = prepare::resources(&args.project, &project);
    let sites =
        runtime.block_on(async { Workshop::open(resources)?.sites(&project, &engine).await.map_err(Failed::usage) })?;
    sites.services.clear();
    Ok(project)
}

impl Failed {
    /// The faults as a program reads them.
    pub(crate) fn faults(&self) -> Vec<serde_json::Value> {
        match self.error().downcast_ref::<host_config::Faults>() {
            Some(faults) => faults.0.iter().map(|fault| json!(fault)).collect(),
            None => vec![json!({ "message": format!("{:#}", self.error()) })],
        }
    }
}

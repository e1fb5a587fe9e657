//! `host check`: everything that `host serve` does before it binds a port.

use serde_json::json;

use crate::args::CheckArgs;
use crate::exit::{Done, Failed};
use crate::{prepare, table};

/// Checks the binding files and their components.
pub(crate) fn run(args: CheckArgs) -> Done {
    let checked = prepare::project(&args.project).and_then(prepare::prepare);
    if !args.json {
        let prepared = checked?;
        print!("{}", table::bindings(&prepared.project));
        println!("no faults");
        return Ok(());
    }
    match checked {
        Ok(prepared) => {
            println!("{}", json!({ "ok": true, "project": prepared.project, "faults": [] }));
            Ok(())
        }
        Err(failed) => {
            println!("{}", json!({ "ok": false, "faults": failed.faults() }));
            Err(failed.silent())
        }
    }
}

impl Failed {
    /// The faults as a program reads them.
    fn faults(&self) -> Vec<serde_json::Value> {
        match self.error().downcast_ref::<host_config::Faults>() {
            Some(faults) => faults.0.iter().map(|fault| json!(fault)).collect(),
            None => vec![json!({ "message": format!("{:#}", self.error()) })],
        }
    }
}

//! Which adapters each model has: checked as far as they can be before the model is in memory.
//!
//! A folder that is missing, damaged or asks for what is not implemented is a fault of the configuration and told at the
//! start; whether an adapter fits its model can only be seen when the model is loaded, and is told to those who ask for it.

use std::collections::{BTreeMap, BTreeSet};

use super::LocalAdapter;
use super::names::{ConfigFault, Directory, Source, check_name};
use crate::catalogue::Task;
use crate::text::{AdapterFiles, AdapterSource};

/// The adapters of each model, by the name behind all aliases.
pub(super) fn by_model(
    adapters: Vec<LocalAdapter>,
    directory: &Directory,
    faults: &mut Vec<ConfigFault>,
) -> BTreeMap<String, Vec<AdapterSource>> {
    let mut models: BTreeMap<String, Vec<AdapterSource>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for LocalAdapter { name, path, models: bases } in adapters {
        check_name(&name, faults);
        if !seen.insert(name.clone()) {
            faults.push(ConfigFault::Duplicate(name));
            continue;
        }
        let fault = |why: String| ConfigFault::Adapter { name: name.clone(), why };
        let bytes = match AdapterFiles::open(&path) {
            Ok(files) => files.bytes(),
            Err(error) => {
                faults.push(fault(error.to_string()));
                continue;
            }
        };
        for base in &bases {
            match directory.find(base) {
                Some(known)
                    if known.task != Task::TextGeneration
                        || matches!(known.source, Source::Script(_) | Source::Remote(_)) =>
                {
                    faults.push(fault(format!("{base:?} cannot apply adapters; only models that generate text can")));
                }
                Some(known) => {
                    let source = AdapterSource { name: name.clone(), path: path.clone(), bytes };
                    let adapters = models.entry(known.name).or_default();
                    // A model may be named twice, by its own name and by an alias.
                    if !adapters.contains(&source) {
                        adapters.push(source);
                    }
                }
                None => {
                    let target = base.clone();
                    faults.push(ConfigFault::AdapterModel {
                        name: name.clone(),
                        nearest: directory.nearest(base),
                        target,
                    });
                }
            }
        }
        if bases.is_empty() {
            faults.push(fault("`models` is empty; name the models that it is for".to_owned()));
        }
    }
    models
}

//! `[[ai.loras]]`: adapters of the host's own, each a small change of some models that a request may ask for by name.
//!
//! As with models, whether a folder holds an adapter that fits is found out by who opens it.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::ai::{check_model_name, check_name};
use crate::diagnostic::quoted;
use crate::paths::absolute;
use crate::source::{Report, Span, Spanned};
use crate::tree::{Node, Table, Value};

/// A `[[ai.loras]]` table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoraEntry {
    /// The name that requests use. Key `name`.
    pub name: String,
    /// A folder with `adapter_config.json` and `adapter_model.safetensors`, absolute. It was there when the project was
    /// loaded. Key `path`.
    pub path: PathBuf,
    /// The models that it is for: at least one. Key `models`.
    pub models: Vec<String>,
}

/// Reads a table of `loras`. `directory` is the file's.
pub(crate) fn lora(table: &Table, directory: &Path, report: &mut Report) -> Option<Spanned<LoraEntry>> {
    let path = table.node("path").and_then(|node| folder(node, directory, report));
    let mut models = Vec::new();
    for node in table.array("models").unwrap_or_default() {
        if let Some(name) = node.as_text()
            && check_model_name(name, node.span, report)
        {
            models.push(name.to_owned());
        }
    }
    if let Some(entry) = table.get("models")
        && matches!(&entry.node.value, Value::Array(nodes) if nodes.is_empty())
    {
        let help = "name the models that the adapter was made for";
        report.error_with_help(entry.key_span, "an adapter for no model cannot be used", help);
    }
    let (name, span) = table.text("name")?;
    let named = check_lora_name(name, span, report);
    let entry = LoraEntry { name: name.to_owned(), path: path?, models };
    (named && !entry.models.is_empty()).then_some(Spanned { value: entry, span })
}

pub(crate) fn check_lora_name(name: &str, span: Span, report: &mut Report) -> bool {
    check_name(name, "an adapter", span, report)
}

fn folder(node: &Node, directory: &Path, report: &mut Report) -> Option<PathBuf> {
    let text = node.as_text()?;
    let Some(path) = absolute(directory, Path::new(text)) else {
        report.error(node.span, "the path is empty");
        return None;
    };
    match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() => Some(path),
        Ok(_) => {
            let help = "name the folder that holds `adapter_config.json` and `adapter_model.safetensors`";
            report.error_with_help(node.span, format!("{} is not a folder", quoted(text)), help);
            None
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let message = format!("{} does not exist", quoted(text));
            report.error_with_help(node.span, message, "the path is relative to the binding file");
            None
        }
        Err(error) => {
            report.error(node.span, format!("{} cannot be read: {error}", quoted(text)));
            None
        }
    }
}

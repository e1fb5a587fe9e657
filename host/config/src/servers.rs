//! Servers that the host itself calls: where they are, and the key that they are shown.
//!
//! A key is named, never written: its value is a line of the secrets file beside the binding file, else a variable of the
//! host's own environment. A secret that is a server's key is the host's and no worker's, so workers do not get it with the
//! others.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::time::Duration;

use serde::Serialize;

use crate::diagnostic::quoted;
use crate::source::Report;
use crate::tree::{Document, Node, Table};
use crate::worker::Secret;

/// Servers that answer alike.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Servers {
    /// Their addresses, `http://` or `https://`: at least one. Keys `url` and `urls`.
    pub urls: Vec<String>,
    /// What they are shown. Key `key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Secret>,
    /// How long an answer, and each piece of it, is waited for. Key `timeout_ms`, default 120 s.
    pub timeout: Duration,
    /// How often a call is tried. Key `max_attempts`, default 3.
    pub attempts: u32,
    /// Calls under way at the same time. Key `concurrency`, default 256.
    pub concurrency: NonZeroUsize,
    /// The path of a health check below the address. Key `health`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
}

/// A `[[ai.models]]` table with `backend = "openai"`, beyond what every model has.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OpenAiModel {
    /// Where it is.
    pub servers: Servers,
    /// What the servers call it. Key `model`, default the model's name here.
    pub model: String,
    /// The length of its vectors, where it makes vectors. Key `dimensions`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<NonZeroUsize>,
    /// Texts in one request for vectors. Key `max_batch`, default 32.
    pub max_batch: NonZeroUsize,
    /// Whether schemas of answers go as llama-cpp-python has them. Key `schemas`.
    pub schemas_in_json_object: bool,
}

/// Keys by the names of their secrets; none for a secret that is not there.
pub(crate) type Keys = BTreeMap<String, Option<Secret>>;

/// The names of the secrets that a file's servers are shown.
pub(crate) fn key_names(document: &Document) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let Some(ai) = document.root.table("ai") else { return names };
    let mut of = |table: &Table, list: &str| {
        let servers = table.array(list).unwrap_or_default().iter().filter_map(Node::as_table);
        names.extend(servers.filter_map(|server| Some(server.text("key")?.0.to_owned())));
    };
    of(ai, "models");
    of(ai, "providers");
    names
}

/// Reads the keys of a table that name servers. None if a fault was reported.
pub(crate) fn servers(table: &Table, keys: &Keys, report: &mut Report) -> Option<Servers> {
    let one = table.node("url").into_iter();
    let nodes: Vec<&Node> = one.chain(table.array("urls").unwrap_or_default()).collect();
    let mut urls = Vec::new();
    let mut sound = true;
    for node in &nodes {
        let Some(text) = node.as_text() else { continue };
        if text.starts_with("http://") || text.starts_with("https://") {
            urls.push(text.to_owned());
        } else {
            let help = "write an address as in \"http://127.0.0.1:8000/v1\"";
            report.error_with_help(node.span, format!("{} is no address of a server", quoted(text)), help);
            sound = false;
        }
    }
    let key = match table.text("key") {
        None => None,
        Some((name, span)) => match keys.get(name) {
            Some(Some(secret)) => Some(secret.clone()),
            _ => {
                let help = format!("write `{name}=…` into `.dev.vars` beside this file, or set the variable {name}");
                report.error_with_help(span, format!("there is no secret {}", quoted(name)), help);
                sound = false;
                None
            }
        },
    };
    let positive = |key: &str, default| {
        table.whole(key).and_then(|count| NonZeroUsize::new(usize::try_from(count).ok()?)).unwrap_or(default)
    };
    let servers = Servers {
        urls,
        key,
        timeout: Duration::from_millis(table.whole("timeout_ms").unwrap_or(120_000)),
        attempts: table.whole("max_attempts").and_then(|count| u32::try_from(count).ok()).unwrap_or(3),
        concurrency: positive("concurrency", NonZeroUsize::MIN.saturating_add(255)),
        health: table.text("health").map(|(path, _)| path.to_owned()),
    };
    sound.then_some(servers)
}

/// Reads what a model of `backend = "openai"` has beyond others.
pub(crate) fn openai_model(table: &Table, keys: &Keys, report: &mut Report) -> Option<OpenAiModel> {
    let servers = servers(table, keys, report)?;
    let text = |key: &str| table.text(key).map(|(text, _)| text);
    let count = |key: &str| table.whole(key).and_then(|count| NonZeroUsize::new(usize::try_from(count).ok()?));
    Some(OpenAiModel {
        servers,
        model: text("model").or(text("name")).unwrap_or_default().to_owned(),
        dimensions: count("dimensions"),
        max_batch: count("max_batch").unwrap_or(NonZeroUsize::MIN.saturating_add(31)),
        schemas_in_json_object: text("schemas") == Some("json_object"),
    })
}

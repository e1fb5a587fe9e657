//! `[ai]` at the top of a file: the models of the host.
//!
//! This module knows names and paths, not models: whether a name is in the catalogue, or a file holds what it should,
//! is found out by who opens it. Aliases are resolved here, so that each leads to a name that is no alias itself.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use host_terms::{Pooling, Precision, Task};
use serde::Serialize;

use crate::diagnostic::quoted;
use crate::gateways::{GatewayEntry, ProviderEntry, gateway, provider};
use crate::lora::{LoraEntry, lora};
use crate::names::{MODEL_GRAMMAR, is_model};
use crate::paths::absolute;
use crate::servers::{Keys, OpenAiModel, openai_model};
use crate::source::{Report, Span, Spanned};
use crate::tree::{Document, Node, Table, Value};

/// What holds for the models of the whole host.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ai {
    /// Models of the user's own, in the order of the files; names are unique. Key `models`, its tables.
    pub models: Vec<ModelEntry>,
    /// Adapters of the user's own, in the order of the files; names are unique. Key `loras`, its tables.
    pub loras: Vec<LoraEntry>,
    /// Names that stand for other models. No value is itself an alias. Key `aliases`.
    pub aliases: BTreeMap<String, String>,
    /// Where models run. Key `device`, default `auto`.
    pub device: Device,
    /// Where model files are kept, absolute. Key `model_directory`; the host's own choice if none.
    pub model_directory: Option<PathBuf>,
    /// CPU threads for models. Key `threads`; one a core if none.
    pub threads: Option<NonZeroUsize>,
    /// Memory for models in bytes. Key `memory_mb` in MiB; no bound if none.
    pub memory_bytes: Option<u64>,
    /// Requests of a worker that may wait for a model before more are refused. Key `queue`; the host's own choice if none.
    pub queue: Option<NonZeroUsize>,
    /// Whether models that the aliases name and that are not here are fetched when the host starts. Key `pull`, default
    /// `false`; one file that says so is enough.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pull: bool,
    /// How long results of batches are kept. Key `batch_ttl` in seconds, default a day.
    #[serde(skip_serializing_if = "is_a_day")]
    pub batch_ttl: Duration,
    /// Gateways, in the order of the files; ids are unique. Key `gateways`, its tables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<GatewayEntry>,
    /// Providers that gateways ask, in the order of the files; names are unique. Key `providers`, its tables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<ProviderEntry>,
}

const DAY: Duration = Duration::from_secs(24 * 3600);

fn is_a_day(time: &Duration) -> bool {
    *time == DAY
}

/// Where models run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Device {
    /// A GPU if this build of the host can use one that is here, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// An Apple GPU.
    Metal,
}

/// A `[[ai.models]]` table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelEntry {
    /// The name under which workers run it. Key `name`.
    pub name: String,
    /// What it does; found from its files if none. Key `task`.
    pub task: Option<Task>,
    /// Where its answers come from. Keys `path`, or `backend = "mock"` with `mock`, or `backend = "openai"` with `url`.
    pub source: ModelSource,
    /// The context window in tokens; the model's own if none. Key `context`.
    pub context: Option<NonZeroUsize>,
    /// How token vectors become one embedding; the model's own if none. Key `pooling`.
    pub pooling: Option<Pooling>,
    /// How a model of speech computes products; with its weights as they are if none. Key `precision`.
    pub precision: Option<Precision>,
    /// Whether a text model guesses what its answer repeats, which changes no answer. Key `speculate`, default `false`.
    pub speculate: bool,
}

/// Where a model's answers come from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ModelSource {
    /// A GGUF file or a directory of safetensors, absolute. It was there when the project was loaded.
    Path(PathBuf),
    /// A script for the mock backend; an empty object if the file has none.
    Mock(serde_json::Value),
    /// Servers that speak OpenAI's interface.
    #[serde(rename = "openai")]
    OpenAi(OpenAiModel),
}

/// The names of tasks, as the binding file writes them.
pub(crate) const TASKS: [&str; Task::ALL.len()] = {
    let mut names = [""; Task::ALL.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = Task::ALL[at].name();
        at += 1;
    }
    names
};

/// The names of poolings.
pub(crate) const POOLINGS: [&str; 3] = [Pooling::ALL[0].name(), Pooling::ALL[1].name(), Pooling::ALL[2].name()];

/// The names of precisions.
pub(crate) const PRECISIONS: [&str; 2] = [Precision::ALL[0].name(), Precision::ALL[1].name()];

/// How many aliases may lead to one another. The bound keeps resolving a hostile file's aliases linear.
const LONGEST_CHAIN: usize = 8;

/// Gathers `[ai]` of every file into one.
#[derive(Debug, Default)]
pub(crate) struct AiParts {
    models: Vec<Spanned<ModelEntry>>,
    loras: Vec<Spanned<LoraEntry>>,
    aliases: BTreeMap<String, Spanned<String>>,
    device: Option<Spanned<Device>>,
    model_directory: Option<Spanned<PathBuf>>,
    threads: Option<Spanned<NonZeroUsize>>,
    memory_bytes: Option<Spanned<u64>>,
    queue: Option<Spanned<NonZeroUsize>>,
    pull: bool,
    batch_ttl: Option<Spanned<NonZeroUsize>>,
    gateways: Vec<Spanned<GatewayEntry>>,
    providers: Vec<Spanned<ProviderEntry>>,
}

impl AiParts {
    /// Adds a file's part. `directory` is the file's, absolute; `keys` are those that its servers are shown.
    pub(crate) fn add(&mut self, document: &Document, directory: &Path, keys: &Keys, report: &mut Report) {
        let Some(table) = document.root.table("ai") else { return };
        for node in table.array("models").unwrap_or_default() {
            if let Some(model) = node.as_table().and_then(|table| model(table, node.span, directory, keys, report)) {
                add(&mut self.models, model, |model| &model.name, "model", report);
            }
        }
        for table in table.array("loras").unwrap_or_default().iter().filter_map(Node::as_table) {
            if let Some(entry) = lora(table, directory, report) {
                add(&mut self.loras, entry, |lora| &lora.name, "adapter", report);
            }
        }
        for table in table.array("gateways").unwrap_or_default().iter().filter_map(Node::as_table) {
            if let Some(entry) = gateway(table, report) {
                add(&mut self.gateways, entry, |gateway| &gateway.id, "gateway", report);
            }
        }
        for node in table.array("providers").unwrap_or_default() {
            if let Some(entry) = node.as_table().and_then(|table| provider(table, node.span, keys, report)) {
                add(&mut self.providers, entry, |provider| &provider.name, "provider", report);
            }
        }
        for entry in table.table("aliases").map_or(&[][..], |aliases| &aliases.entries) {
            if let Some(target) = entry.node.as_text() {
                check_model_name(&entry.key, entry.key_span, report);
                check_model_name(target, entry.node.span, report);
                self.add_alias(&entry.key, Spanned { value: target.to_owned(), span: entry.key_span }, report);
            }
        }
        let device = table.text("device").and_then(|(name, span)| {
            let value = match name {
                "auto" => Device::Auto,
                "cpu" => Device::Cpu,
                "cuda" => Device::Cuda,
                "metal" => Device::Metal,
                _ => return None,
            };
            Some(Spanned { value, span })
        });
        once(&mut self.device, device, "device", report);
        let model_directory = table.text("model_directory").and_then(|(text, span)| {
            let value = absolute(directory, Path::new(text))?;
            Some(Spanned { value, span })
        });
        once(&mut self.model_directory, model_directory, "model_directory", report);
        once(&mut self.threads, positive(table, "threads"), "threads", report);
        once(&mut self.queue, positive(table, "queue"), "queue", report);
        once(&mut self.batch_ttl, positive(table, "batch_ttl"), "batch_ttl", report);
        self.pull |= table.boolean("pull") == Some(true);
        let memory = positive(table, "memory_mb").and_then(|mib| {
            Some(Spanned { value: u64::try_from(mib.value.get()).ok()?.checked_mul(1 << 20)?, span: mib.span })
        });
        once(&mut self.memory_bytes, memory, "memory_mb", report);
    }

    fn add_alias(&mut self, name: &str, target: Spanned<String>, report: &mut Report) {
        match self.aliases.get(name) {
            Some(known) if known.value != target.value => {
                let message = format!(
                    "the alias {} already stands for {}: {}",
                    quoted(name),
                    quoted(&known.value),
                    place(known.span, target.span, report)
                );
                report.error(target.span, message);
            }
            Some(_) => {}
            None => {
                self.aliases.insert(name.to_owned(), target);
            }
        }
    }

    /// Resolves the aliases.
    pub(crate) fn finish(self, report: &mut Report) -> Ai {
        let mut aliases = BTreeMap::new();
        for (name, target) in &self.aliases {
            if self.models.iter().any(|model| model.value.name == *name) {
                let message = format!("{} is both an alias and a model of `[[ai.models]]`", quoted(name));
                report.error_with_help(target.span, message, "rename the model, or remove the alias");
            }
            match self.resolve(name) {
                Some(end) => drop(aliases.insert(name.clone(), end.to_owned())),
                None => {
                    let message = format!(
                        "the alias {} leads back to itself, or through more than {LONGEST_CHAIN} others",
                        quoted(name)
                    );
                    report.error_with_help(target.span, message, "an alias ends at the name of a model");
                }
            }
        }
        Ai {
            models: self.models.into_iter().map(|model| model.value).collect(),
            loras: self.loras.into_iter().map(|lora| lora.value).collect(),
            aliases,
            device: self.device.map(|device| device.value).unwrap_or_default(),
            model_directory: self.model_directory.map(|directory| directory.value),
            threads: self.threads.map(|threads| threads.value),
            memory_bytes: self.memory_bytes.map(|bytes| bytes.value),
            queue: self.queue.map(|queue| queue.value),
            pull: self.pull,
            batch_ttl: self.batch_ttl.map_or(DAY, |ttl| Duration::from_secs(ttl.value.get() as u64)),
            gateways: self.gateways.into_iter().map(|gateway| gateway.value).collect(),
            providers: self.providers.into_iter().map(|provider| provider.value).collect(),
        }
    }

    /// The name that an alias ends at; none if it ends nowhere.
    fn resolve<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        let mut name = name;
        for _ in 0..=LONGEST_CHAIN {
            match self.aliases.get(name) {
                Some(target) => name = &target.value,
                None => return Some(name),
            }
        }
        None
    }
}

/// Adds an entry whose name no other of its list may have.
fn add<T: PartialEq>(
    entries: &mut Vec<Spanned<T>>,
    entry: Spanned<T>,
    name: impl Fn(&T) -> &str,
    what: &str,
    report: &mut Report,
) {
    match entries.iter().find(|known| name(&known.value) == name(&entry.value)) {
        // The same entry in several files is what one gets by sharing a part of them.
        Some(known) if known.value == entry.value && known.span.file != entry.span.file => {}
        Some(known) => {
            let place = place(known.span, entry.span, report);
            let message = format!("the {what} {} is defined twice: also {place}", quoted(name(&entry.value)));
            report.error(entry.span, message);
        }
        None => entries.push(entry),
    }
}

/// Where something else stands, seen from `here`.
fn place(there: Span, here: Span, report: &Report) -> String {
    let line = report.line(there);
    if there.file == here.file {
        format!("in line {line}")
    } else {
        format!("in {}:{line}", report.shown(there.file).display())
    }
}

/// Takes a value that the whole host has once; a second file may only repeat it.
fn once<T: PartialEq>(known: &mut Option<Spanned<T>>, new: Option<Spanned<T>>, key: &str, report: &mut Report) {
    let Some(new) = new else { return };
    match known {
        None => *known = Some(new),
        Some(known) if known.value != new.value => {
            let message = format!(
                "`ai.{key}` holds for the whole host and has another value {}",
                place(known.span, new.span, report)
            );
            report.error_with_help(new.span, message, "write it in one file");
        }
        Some(_) => {}
    }
}

fn positive(table: &Table, key: &str) -> Option<Spanned<NonZeroUsize>> {
    let value = NonZeroUsize::new(usize::try_from(table.whole(key)?).ok()?)?;
    Some(Spanned { value, span: table.node(key)?.span })
}

pub(crate) fn check_model_name(name: &str, span: Span, report: &mut Report) -> bool {
    check_name(name, "a model", span, report)
}

/// Adapters are named as models are.
pub(crate) fn check_name(name: &str, what: &str, span: Span, report: &mut Report) -> bool {
    let valid = is_model(name);
    if !valid {
        report.error_with_help(
            span,
            format!("{} is no name for {what}", quoted(name)),
            format!("{what}'s name {MODEL_GRAMMAR}"),
        );
    }
    valid
}

fn model(table: &Table, span: Span, directory: &Path, keys: &Keys, report: &mut Report) -> Option<Spanned<ModelEntry>> {
    let name = table.text("name");
    let source = model_source(table, span, directory, keys, report);
    let task = table.text("task").and_then(|(name, _)| name.parse::<Task>().ok());
    let pooling =
        table.text("pooling").and_then(|(name, _)| Pooling::ALL.into_iter().find(|known| known.name() == name));
    let precision =
        table.text("precision").and_then(|(name, _)| Precision::ALL.into_iter().find(|known| known.name() == name));
    for (key, only) in [("pooling", Task::TextEmbeddings), ("precision", Task::AutomaticSpeechRecognition)] {
        if let (Some(task), Some(_), Some(entry)) = (task, table.text(key), table.get(key))
            && task != only
        {
            report.error(entry.key_span, format!("`{key}` is for `{only}`; the task of this model is `{task}`"));
        }
    }
    let (name, name_span) = name?;
    let named = check_model_name(name, name_span, report);
    let entry = ModelEntry {
        name: name.to_owned(),
        task,
        source: source?,
        context: positive(table, "context").map(|context| context.value),
        pooling,
        precision,
        speculate: table.boolean("speculate").unwrap_or(false),
    };
    named.then_some(Spanned { value: entry, span: name_span })
}

fn model_source(table: &Table, span: Span, directory: &Path, keys: &Keys, report: &mut Report) -> Option<ModelSource> {
    let backend = table.text("backend").map(|(name, _)| name);
    let address = table.get("url").or(table.get("urls"));
    match (backend, table.node("path"), table.get("mock")) {
        (Some("openai"), Some(path), _) => {
            report.error(path.span, "a model on other servers has no `path`");
            None
        }
        (Some("openai"), None, None) if address.is_none() => {
            let help = "write `url = \"http://127.0.0.1:8000/v1\"`, or `urls` with several";
            report.error_with_help(span, "this model has no `url`", help);
            None
        }
        (Some("openai"), None, None) => openai_model(table, keys, report).map(ModelSource::OpenAi),
        (Some("candle" | "mock") | None, _, _)
            if address.is_some_and(|entry| {
                report.error_with_help(
                    entry.key_span,
                    "`url` is for models on other servers",
                    "write `backend = \"openai\"`",
                );
                true
            }) =>
        {
            None
        }
        (Some("mock"), Some(path), _) => {
            report.error(path.span, "a model of the mock backend has no `path`");
            None
        }
        (Some("mock"), None, script) => {
            let empty = || serde_json::Value::Object(serde_json::Map::new());
            Some(ModelSource::Mock(script.map_or_else(empty, |entry| entry.node.to_json())))
        }
        (_, _, Some(script)) if table.get("backend").is_none_or(|_| backend.is_some()) => {
            let help = "write `backend = \"mock\"`, or remove `mock`";
            report.error_with_help(script.key_span, "`mock` is for the mock backend", help);
            None
        }
        (_, Some(path), _) => model_path(path, directory, report),
        (_, None, _) => {
            let help = "write `path = \"…\"` with a GGUF file or a directory of safetensors, or `backend = \"mock\"`";
            report.error_with_help(span, "this model has no `path`", help);
            None
        }
    }
}

fn model_path(node: &Node, directory: &Path, report: &mut Report) -> Option<ModelSource> {
    let Value::String(text) = &node.value else { return None };
    let Some(path) = absolute(directory, Path::new(text)) else {
        report.error(node.span, "the path is empty");
        return None;
    };
    let gguf = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
    match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() => Some(ModelSource::Path(path)),
        Ok(found) if found.is_file() && gguf => Some(ModelSource::Path(path)),
        Ok(_) => {
            let message = format!("{} is neither a GGUF file nor a directory", quoted(text));
            let help = "name the `.gguf` file, or the directory that holds `config.json` and the safetensors; \
                        `host models import` makes one of other forms";
            report.error_with_help(node.span, message, help);
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

//! Where workers stand in a file, and how a worker and its environment become one.
//!
//! A file has a worker at its top level, or `[[workers]]` entries, or both. An environment's table replaces keys of its
//! worker one by one and whole; bindings and variables are not inherited, so that a program in staging cannot reach
//! what only production was given (wrangler's rule, and the reason for it).

use std::collections::BTreeMap;
use std::path::Path;

use crate::diagnostic::quoted;
use crate::explain::Home;
use crate::keys;
use crate::layer::{Bound, Layer};
use crate::load::listed;
use crate::names::WorkerName;
use crate::paths::absolute;
use crate::source::{Report, Span, Spanned};
use crate::tree::{Document, Node, Table};
use crate::worker::{Binding, Main, Worker};

/// A place in a file that describes a worker.
pub(crate) struct Seat<'t> {
    pub(crate) table: &'t Table,
    pub(crate) span: Span,
    /// Whether it is a `[[workers]]` entry.
    pub(crate) listed: bool,
}

impl<'t> Seat<'t> {
    /// The workers of a file.
    pub(crate) fn all(document: &'t Document, report: &mut Report) -> Vec<Seat<'t>> {
        let root = &document.root;
        let entries: Vec<&Node> = root.array("workers").unwrap_or_default().iter().collect();
        let top = root.get("name").is_some() || root.get("main").is_some() || entries.is_empty();
        let mut seats = Vec::new();
        if top {
            seats.push(Seat { table: root, span: document.span, listed: false });
        } else {
            misplaced(root, report);
        }
        let tables = entries.into_iter().filter_map(|node| Some((node.as_table()?, node.span)));
        seats.extend(tables.map(|(table, span)| Seat { table, span, listed: true }));
        seats
    }

    /// The environments' names.
    pub(crate) fn environments(&self) -> Vec<&'t str> {
        self.table.table("env").map_or(&[][..], |env| &env.entries).iter().map(|entry| entry.key.as_str()).collect()
    }

    /// The environments that are tables.
    pub(crate) fn environment_tables(&self) -> impl Iterator<Item = (&'t str, &'t Table, Span)> + use<'t> {
        let entries = self.table.table("env").map_or(&[][..], |env| &env.entries);
        entries.iter().filter_map(|entry| Some((entry.key.as_str(), entry.node.as_table()?, entry.key_span)))
    }
}

/// Keys of a worker at the top of a file whose workers are all entries: they would have no effect.
fn misplaced(root: &Table, report: &mut Report) {
    let of_worker = |key: &str| keys::ENVIRONMENT.key(key).is_some() && key != "ai";
    for entry in root.entries.iter().filter(|entry| of_worker(&entry.key) || entry.key == "env") {
        let message = format!("`{}` stands at the top level, where this file has no worker", entry.key);
        let help = "move it into the `[[workers]]` entries it is meant for";
        report.error_with_help(entry.key_span, message, help);
    }
    let binding = root.table("ai").and_then(|ai| ai.get("binding"));
    let narrowed = |key| root.table("ai").and_then(|ai| ai.array(key)).unwrap_or_default();
    let mut texts = narrowed("models").iter().chain(narrowed("loras")).filter(|node| node.as_text().is_some());
    let text = texts.next().map(|node| node.span);
    if let Some(span) = binding.map(|entry| entry.key_span).or(text) {
        let message = "this grants AI at the top level, where this file has no worker";
        report.error_with_help(span, message, "move it into the `[[workers]]` entries it is meant for: `[workers.ai]`");
    }
}

/// The layer of an environment: what it says, and what it inherits.
pub(crate) fn inherit(top: Layer, name: &str, layer: Layer, report: &mut Report) -> Layer {
    warn_of_what_is_left_out(&top.bindings, &layer, name, report);
    if !top.consumers.is_empty() && layer.consumers.is_empty() {
        let lacking = listed(top.consumers.iter().map(|consumer| consumer.value.queue.as_str()));
        let message = format!("`queues.consumers` is not inherited: the environment lacks {lacking}");
        let help = format!("repeat it as `env.{name}.queues.consumers` if the environment needs it");
        report.warn(layer.span, message, Some(help));
    }
    let mut bindings = layer.bindings;
    if layer.assets.is_none() {
        // `assets` is inherited as `main` is, and its binding with it, unless the environment uses the name.
        let assets = top.bindings.into_iter().filter(|bound| bound.section == "assets");
        let free: Vec<Bound> = assets.filter(|bound| bindings.iter().all(|own| own.name != bound.name)).collect();
        bindings.extend(free);
    }
    let own_name = layer.name.or_else(|| {
        let top = top.name?;
        Some(top.map(|top| Spanned { value: format!("{}-{name}", top.value), span: top.span }))
    });
    Layer {
        span: layer.span,
        name: own_name,
        main: layer.main.or(top.main),
        compatibility_date: layer.compatibility_date.or(top.compatibility_date),
        compatibility_flags: layer.compatibility_flags.or(top.compatibility_flags),
        instances: layer.instances.or(top.instances),
        routes: layer.routes.or(top.routes),
        limits: layer.limits.or(top.limits),
        outbound: layer.outbound.or(top.outbound),
        assets: layer.assets.or(top.assets),
        bindings,
        consumers: layer.consumers,
        crons: layer.crons.or(top.crons),
        unserved: layer.unserved,
        unheeded: layer.unheeded,
    }
}

fn warn_of_what_is_left_out(top: &[Bound], layer: &Layer, name: &str, report: &mut Report) {
    let own: std::collections::HashSet<&str> = layer.bindings.iter().map(|bound| bound.name.as_str()).collect();
    let mut sections: Vec<&'static str> = Vec::new();
    for bound in top.iter().filter(|bound| bound.section != "assets") {
        if !sections.contains(&bound.section) {
            sections.push(bound.section);
        }
    }
    for section in sections {
        let left_out = top.iter().filter(|bound| bound.section == section && !own.contains(bound.name.as_str()));
        let mut left_out = left_out.map(|bound| bound.name.as_str()).peekable();
        if left_out.peek().is_some() {
            let message = format!("`{section}` is not inherited: the environment lacks {}", listed(left_out));
            let help = format!("repeat it as `env.{name}.{section}` if the environment needs it");
            report.warn(layer.span, message, Some(help));
        }
    }
}

/// A worker, and where its name and routes stand.
pub(crate) struct Draft {
    pub(crate) worker: Worker,
    pub(crate) name_span: Span,
    pub(crate) route_spans: Vec<Span>,
    pub(crate) consumer_spans: Vec<Span>,
}

/// Makes a worker of a layer; none if it has no usable name, or neither a usable `main` nor usable assets.
pub(crate) fn assemble(layer: Layer, file: &Path, directory: &Path, home: Home, report: &mut Report) -> Option<Draft> {
    for (section, span) in &layer.unserved {
        let message = format!("`{section}` is read, but this version of the host does not serve it");
        report.warn_once(section, *span, message, None);
    }
    for (key, span) in &layer.unheeded {
        report.warn_once(key, *span, format!("`{key}` is read, but this version of the host does not act on it"), None);
    }
    let name = match &layer.name {
        Some(name) => name.as_ref().and_then(|name| worker_name(name, report)),
        None => {
            let help = "add `name`, as in `name = \"my-worker\"`: the worker answers at `http://<name>.localhost`";
            report.error_with_help(layer.span, "this worker has no `name`", help);
            None
        }
    };
    let main = match &layer.main {
        // What is wrong with a `main` that is there has been reported, and there is no worker without it.
        Some(main) => Some(main.as_ref().and_then(|main| program(main, directory, report))),
        None if layer.assets.is_some() => None,
        None => {
            let help = "add `main` with the component or script to run, as in `main = \"src/index.js\"` or \
                        `main = \"target/wasm32-wasip2/release/my_worker.wasm\"`; a worker of static files alone has \
                        `assets` instead";
            report.error_with_help(layer.span, "this worker has no `main`", help);
            Some(None)
        }
    };
    let has_main = main.is_some();
    if let (false, Some(consumer)) = (has_main, layer.consumers.first()) {
        let message = format!("a worker without `main` cannot handle messages of the queue `{}`", consumer.value.queue);
        report.error_with_help(consumer.span, message, "add `main`, or leave `[[queues.consumers]]` out");
    }
    // As with `main`: none that is absent, or one that is right.
    let assets = layer.assets.map(|assets| assets.and_then(|assets| assets.finish(directory, has_main, report)));
    let (name, name_span) = name?;
    let main = main.map_or(Some(None), |main| main.map(Some))?;
    let mut assets = assets.map_or(Some(None), |assets| assets.map(Some))?;
    let routes = layer.routes.unwrap_or_default();
    let route_spans = routes.iter().map(|route| route.span).collect();
    let consumer_spans = layer.consumers.iter().map(|consumer| consumer.span).collect();
    let bindings: BTreeMap<String, Binding> = layer.bindings.into_iter().map(|it| (it.name, it.binding)).collect();
    if let Some(assets) = &mut assets {
        // An environment that inherits the files may have given their name to something else.
        assets.binding = assets.binding.take().filter(|name| matches!(bindings.get(name), Some(Binding::Assets)));
    }
    let worker = Worker {
        name,
        main,
        file: file.to_owned(),
        routes: routes.into_iter().map(|route| route.value).collect(),
        compatibility_date: layer.compatibility_date,
        compatibility_flags: layer.compatibility_flags.unwrap_or_default(),
        instances: layer.instances,
        bindings,
        limits: layer.limits.unwrap_or_default(),
        outbound: layer.outbound.unwrap_or_default(),
        assets,
        consumers: layer.consumers.into_iter().map(|consumer| consumer.value).collect(),
        crons: layer.crons.unwrap_or_default(),
        home,
    };
    Some(Draft { worker, name_span, route_spans, consumer_spans })
}

fn worker_name(name: &Spanned<String>, report: &mut Report) -> Option<(WorkerName, Span)> {
    match WorkerName::new(&name.value) {
        Ok(valid) => Some((valid, name.span)),
        Err(error) => {
            let message = format!("{} is no name for a worker: {error}", quoted(&name.value));
            match WorkerName::near(&name.value) {
                Some(near) => report.error_with_help(name.span, message, format!("write \"{near}\"")),
                None => report.error(name.span, message),
            }
            None
        }
    }
}

/// Endings of programs in JavaScript and TypeScript.
const SCRIPTS: &[&str] = &["js", "mjs", "cjs", "jsx", "ts", "mts", "cts", "tsx"];

/// The program that `main` names.
fn program(main: &Spanned<String>, directory: &Path, report: &mut Report) -> Option<Main> {
    let (text, span) = (main.value.as_str(), main.span);
    let ending =
        Path::new(text).extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
    let script = SCRIPTS.contains(&ending.as_str());
    if ending == "py" {
        let help = "write the worker in JavaScript or TypeScript, or name a component that was built for wasm32-wasip2";
        report.error_with_help(span, format!("{} is a program in Python, which is not supported", quoted(text)), help);
        return None;
    }
    let cargo = Path::new(text).file_name().is_some_and(|name| name == "Cargo.toml");
    if !script && !cargo && ending != "wasm" {
        let help = "`main` names the component that the build makes, a `.wasm` file, or a script, as in \"src/index.js\", \
                    or the Cargo.toml of a worker in Rust";
        report.error_with_help(span, format!("{} is neither a `.wasm` file nor a script", quoted(text)), help);
        return None;
    }
    let path = absolute(directory, Path::new(text))?;
    match std::fs::metadata(&path) {
        Ok(found) if found.is_file() && script => Some(Main::Script(path)),
        Ok(found) if found.is_file() && cargo => Some(Main::Cargo(path)),
        Ok(found) if found.is_file() => Some(Main::Component(path)),
        Ok(_) => {
            report.error(span, format!("{} is not a file", quoted(text)));
            None
        }
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            let help = match script || cargo {
                true => "the path is relative to the binding file".to_owned(),
                false => build_help(text),
            };
            report.error_with_help(span, format!("{} does not exist", quoted(text)), help);
            None
        }
        Err(error) => {
            report.error(span, format!("{} cannot be read: {error}", quoted(text)));
            None
        }
    }
}

/// How to build a component that is not there.
fn build_help(main: &str) -> String {
    let parts: Vec<&str> = main.split(['/', '\\']).collect();
    let after_target = parts.windows(2).position(|pair| pair == ["target", "wasm32-wasip2"]);
    match after_target.and_then(|at| parts.get(at + 2)) {
        Some(&"debug") => "build it: `cargo build --target wasm32-wasip2`".into(),
        Some(_) => "build it: `cargo build --release --target wasm32-wasip2`".into(),
        None => "build the component first; the path is relative to the binding file".into(),
    }
}

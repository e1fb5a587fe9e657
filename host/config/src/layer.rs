//! One table of worker keys, decoded: the worker itself, or one of its environments.
//!
//! Every key is optional here, because an environment inherits some keys from its worker. The schema has already
//! checked names and types; what is left are the rules that need the value: a route that parses, a name that is free.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use crate::ai::check_model_name;
use crate::assets::{self, AssetsLayer};
use crate::cron::Cron;
use crate::diagnostic::quoted;
use crate::lora::check_lora_name;
use crate::names::{is_binding, is_store, is_variable};
use crate::outbound::{Outbound, destination};
use crate::queues::{self, QueueConsumer};
use crate::route::{HostPattern, PathPattern, Route};
use crate::source::{Report, Span, Spanned};
use crate::tree::{Node, Table, Value};
use crate::worker::{AiGrant, Binding, CompatibilityDate, Instances, Limits, VectorIndex};

/// What one table says about a worker.
#[derive(Debug)]
pub(crate) struct Layer {
    /// Where a fault of the layer as a whole stands.
    pub(crate) span: Span,
    /// None if absent; `Some(None)` if it has the wrong type, which has been reported.
    pub(crate) name: Option<Option<Spanned<String>>>,
    /// As `name`.
    pub(crate) main: Option<Option<Spanned<String>>>,
    pub(crate) compatibility_date: Option<CompatibilityDate>,
    pub(crate) compatibility_flags: Option<Vec<String>>,
    pub(crate) instances: Option<Instances>,
    pub(crate) routes: Option<Vec<Spanned<Route>>>,
    pub(crate) limits: Option<Limits>,
    pub(crate) outbound: Option<Outbound>,
    /// None if absent; `Some(None)` if it has the wrong type. The only section with a binding that environments inherit.
    pub(crate) assets: Option<Option<AssetsLayer>>,
    /// In the order of the file; names are unique.
    pub(crate) bindings: Vec<Bound>,
    /// What `[[queues.consumers]]` say, and where each names its queue. Environments inherit none.
    pub(crate) consumers: Vec<Spanned<QueueConsumer>>,
    /// None without `[triggers]`.
    pub(crate) crons: Option<Vec<Cron>>,
    /// Sections that are read but not served, and where they stand.
    pub(crate) unserved: Vec<(&'static str, Span)>,
    /// Keys of `[[services]]` that are read but not acted on, and where they stand.
    pub(crate) unheeded: Vec<(&'static str, Span)>,
}

/// A binding, its name and the section it comes from.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    pub(crate) name: String,
    pub(crate) section: &'static str,
    pub(crate) binding: Binding,
}

/// Decodes a table.
pub(crate) fn decode(table: &Table, span: Span, report: &mut Report) -> Layer {
    let text = |key: &str| {
        table.get(key).map(|_| table.text(key).map(|(text, span)| Spanned { value: text.to_owned(), span }))
    };
    let mut bindings = Bindings { bound: Vec::new(), taken: HashMap::new() };
    bindings.gather(table, report);
    let consumers = queues::consumers(table, report);
    Layer {
        span,
        name: text("name"),
        main: text("main"),
        compatibility_date: compatibility_date(table, report),
        compatibility_flags: table.array("compatibility_flags").map(|nodes| owned_texts(Some(nodes))),
        instances: table.text("instances").and_then(|(text, _)| match text {
            "fresh" => Some(Instances::Fresh),
            "reuse" => Some(Instances::Reuse),
            _ => None,
        }),
        routes: routes(table, report),
        limits: table.table("limits").map(limits),
        outbound: table.table("outbound").map(|table| outbound(table, report)),
        assets: table.get("assets").map(|entry| entry.node.as_table().map(|assets| assets::decode(assets, report))),
        bindings: bindings.bound,
        consumers,
        crons: table.get("triggers").map(|_| crons(table, report)),
        unserved: unserved(table),
        unheeded: unheeded(table),
    }
}

fn crons(table: &Table, report: &mut Report) -> Vec<Cron> {
    let mut crons: Vec<Cron> = Vec::new();
    for (node, schedule) in texts(table.table("triggers").and_then(|triggers| triggers.array("crons"))) {
        match schedule.parse::<Cron>() {
            Ok(cron) if crons.contains(&cron) => {}
            Ok(cron) => crons.push(cron),
            Err(error) => {
                let help = "a schedule has five fields, minute hour day month weekday, as in \"*/5 * * * *\"";
                report.error_with_help(node.span, format!("{} is no cron schedule: {error}", quoted(schedule)), help);
            }
        }
    }
    crons
}

/// The names that an array of `[ai]` narrows a binding to. An array of tables alone defines entries and narrows nothing; an
/// empty array grants none.
fn narrowed(
    table: &Table,
    key: &str,
    check: impl Fn(&str, Span, &mut Report) -> bool,
    report: &mut Report,
) -> Option<Vec<String>> {
    let nodes = table.array(key)?;
    let narrows = nodes.is_empty() || nodes.iter().any(|node| node.as_text().is_some());
    let mut names = Vec::new();
    for (node, name) in texts(Some(nodes)) {
        if check(name, node.span, report) {
            names.push(name.to_owned());
        }
    }
    narrows.then_some(names)
}

fn texts(nodes: Option<&[Node]>) -> impl Iterator<Item = (&Node, &str)> {
    nodes.unwrap_or_default().iter().filter_map(|node| Some((node, node.as_text()?)))
}

fn owned_texts(nodes: Option<&[Node]>) -> Vec<String> {
    texts(nodes).map(|(_, text)| text.to_owned()).collect()
}

fn compatibility_date(table: &Table, report: &mut Report) -> Option<CompatibilityDate> {
    let (text, span) = table.text("compatibility_date")?;
    text.parse()
        .map_err(|error| report.error(span, format!("`compatibility_date`: {error}, found {}", quoted(text))))
        .ok()
}

fn routes(table: &Table, report: &mut Report) -> Option<Vec<Spanned<Route>>> {
    let (one, many) = (table.get("route"), table.get("routes"));
    if let (Some(_), Some(many)) = (one, many) {
        let help = "put every route into `routes`";
        report.error_with_help(many.key_span, "`route` and `routes` exclude each other", help);
    }
    let nodes = match (one, many.map(|entry| &entry.node.value)) {
        (_, Some(Value::Array(nodes))) => nodes.as_slice(),
        (Some(one), _) => std::slice::from_ref(&one.node),
        _ => return None,
    };
    Some(nodes.iter().filter_map(|node| route(node, report)).collect())
}

fn route(node: &Node, report: &mut Report) -> Option<Spanned<Route>> {
    let table = node.as_table();
    let (text, span) = match (node.as_text(), table) {
        (Some(text), _) => (text, node.span),
        (None, Some(table)) => table.text("pattern")?,
        (None, None) => return None,
    };
    let flag = |key| table.and_then(|table| table.boolean(key));
    let route = match text.parse::<Route>() {
        Ok(route) => route,
        Err(error) => {
            report.error(span, format!("{} is no route: {error}", quoted(text)));
            return None;
        }
    };
    let route = if flag("custom_domain") == Some(true) {
        if !matches!((&route.host, &route.path), (HostPattern::Exact(_), PathPattern::Exact(path)) if path == "/") {
            let help = "write the host alone, as in \"example.com\", or leave out `custom_domain`";
            report.error_with_help(span, format!("{} is no custom domain", quoted(text)), help);
            return None;
        }
        Route::whole_host(route.host)
    } else {
        if !text.trim_start_matches("https://").trim_start_matches("http://").contains('/') {
            let help = format!("write \"{text}/*\" for every path");
            report.warn(span, format!("{} matches the path `/` alone", quoted(text)), Some(help));
        }
        route
    };
    (flag("enabled") != Some(false)).then_some(Spanned { value: route, span })
}

fn limits(table: &Table) -> Limits {
    let default = Limits::default();
    let milliseconds = |key, default| table.whole(key).map_or(default, Duration::from_millis);
    let bytes = |key: &str, unit: u64| table.whole(key).and_then(|count| count.checked_mul(unit));
    let (kib, mib) = (1 << 10, 1 << 20);
    let memory = bytes("memory_mb", mib).map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let concurrency = table.whole("concurrency").and_then(|count| NonZeroUsize::new(usize::try_from(count).ok()?));
    Limits {
        cpu: milliseconds("cpu_ms", default.cpu),
        wall: milliseconds("wall_ms", default.wall),
        memory_bytes: memory.unwrap_or(default.memory_bytes),
        concurrency: concurrency.unwrap_or(default.concurrency),
        request_bytes: bytes("request_mb", mib).unwrap_or(default.request_bytes),
        response_bytes: bytes("response_mb", mib).unwrap_or(default.response_bytes),
        subrequests: table
            .whole("subrequests")
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(default.subrequests),
        log_bytes: bytes("log_kb", kib).unwrap_or(default.log_bytes),
    }
}

fn outbound(table: &Table, report: &mut Report) -> Outbound {
    let mut allow_private = Vec::new();
    for (node, text) in texts(table.array("allow_private")) {
        match destination(text) {
            Ok(destination) => allow_private.push(destination),
            Err(error) => report.error(node.span, format!("{} is no destination: {error}", quoted(text))),
        }
    }
    Outbound { enabled: table.boolean("enabled").unwrap_or(true), allow_private }
}

/// Sections whose bindings are read but not served, by the table or tables that name the binding.
const RESOURCES: &[&str] = &["kv_namespaces", "d1_databases", "r2_buckets"];

fn unserved(table: &Table) -> Vec<(&'static str, Span)> {
    RESOURCES.iter().filter_map(|name| Some((*name, table.get(name)?.key_span))).collect()
}

/// What `[[services]]` says beyond the name of the worker to call.
fn unheeded(table: &Table) -> Vec<(&'static str, Span)> {
    let services = || table.array("services").unwrap_or_default().iter().filter_map(Node::as_table);
    let keys =
        [("entrypoint", "services.entrypoint"), ("environment", "services.environment"), ("props", "services.props")];
    keys.into_iter()
        .filter_map(|(key, path)| Some((path, services().find_map(|service| service.get(key))?.key_span)))
        .collect()
}

/// Collects the bindings of a layer and finds names that are taken.
struct Bindings {
    bound: Vec<Bound>,
    taken: HashMap<String, (&'static str, Span)>,
}

impl Bindings {
    fn gather(&mut self, table: &Table, report: &mut Report) {
        for entry in table.table("vars").map_or(&[][..], |vars| &vars.entries) {
            let binding = match &entry.node.value {
                Value::String(text) => Binding::Text(text.clone()),
                _ => Binding::Json(entry.node.to_json()),
            };
            self.add(&entry.key, entry.key_span, "vars", binding, report);
        }
        if let Some(ai) = table.table("ai") {
            self.ai(ai, report);
        }
        for section in RESOURCES {
            self.resources(table.array(section), section, report);
        }
        for table in table.array("vectorize").unwrap_or_default().iter().filter_map(Node::as_table) {
            self.vectorize(table, report);
        }
        for table in table.array("services").unwrap_or_default().iter().filter_map(Node::as_table) {
            if let (Some((name, span)), Some((service, _))) = (table.text("binding"), table.text("service")) {
                let entrypoint = table.text("entrypoint").map(|(entrypoint, _)| entrypoint.to_owned());
                let binding = Binding::Service { service: service.to_owned(), entrypoint };
                self.add(name, span, "services", binding, report);
            }
        }
        self.producers(table, report);
        if let Some((name, span)) = table.table("assets").and_then(|assets| assets.text("binding")) {
            self.add(name, span, "assets", Binding::Assets, report);
        }
    }

    fn ai(&mut self, table: &Table, report: &mut Report) {
        let models = narrowed(table, "models", check_model_name, report);
        let loras = narrowed(table, "loras", check_lora_name, report);
        if let Some((name, span)) = table.text("binding") {
            return self.add(name, span, "ai", Binding::Ai(AiGrant { models, loras }), report);
        }
        for (key, narrows) in [("models", models.is_some()), ("loras", loras.is_some())] {
            if let (true, Some(entry), None) = (narrows, table.get(key), table.get("binding")) {
                let help = "add `binding = \"AI\"` to the same table";
                report.error_with_help(entry.key_span, format!("`{key}` narrows a binding that is not there"), help);
            }
        }
    }

    fn vectorize(&mut self, table: &Table, report: &mut Report) {
        let (Some((name, span)), Some((index, index_span))) = (table.text("binding"), table.text("index_name")) else {
            return;
        };
        if !is_store(index) {
            let help = "an index has lower-case letters, digits, `-` and `_`, up to 64";
            return report.error_with_help(index_span, format!("{} is no name for an index", quoted(index)), help);
        }
        let metric = table.text("metric").map(|(metric, _)| metric.to_owned());
        let dimensions = table.whole("dimensions").and_then(|count| u32::try_from(count).ok());
        let create = match (dimensions, metric) {
            (Some(dimensions), metric) => {
                Some(VectorIndex { dimensions, metric: metric.unwrap_or_else(|| "cosine".to_owned()) })
            }
            (None, Some(_)) => {
                let help = "add `dimensions`, with which the index is created if it is not there";
                report.error_with_help(index_span, "`metric` without `dimensions` creates no index", help);
                None
            }
            (None, None) => None,
        };
        self.add(name, span, "vectorize", Binding::Vectorize { index: index.to_owned(), create }, report);
    }

    fn resources(&mut self, nodes: Option<&[Node]>, section: &'static str, report: &mut Report) {
        for table in nodes.unwrap_or_default().iter().filter_map(Node::as_table) {
            if let Some((name, span)) = table.text("binding") {
                self.add(name, span, section, Binding::Other { section }, report);
            }
        }
    }

    fn producers(&mut self, table: &Table, report: &mut Report) {
        let producers = table.table("queues").and_then(|queues| queues.array("producers"));
        for table in producers.unwrap_or_default().iter().filter_map(Node::as_table) {
            let Some((name, span)) = table.text("binding") else { continue };
            // The name is taken, whatever is wrong with the queue.
            let queue = queues::queue_name(table, "queue", report).map(|(queue, _)| queue);
            let delay = table.whole("delivery_delay").and_then(|delay| u32::try_from(delay).ok()).unwrap_or(0);
            let binding = Binding::Queue { queue: queue.unwrap_or_default(), delivery_delay: delay };
            self.add(name, span, "queues.producers", binding, report);
        }
    }

    fn add(&mut self, name: &str, span: Span, section: &'static str, binding: Binding, report: &mut Report) {
        let (valid, grammar) = match section {
            "vars" => (is_variable(name), "a variable's name has letters, digits, `_`, `.`, `-` and `$`"),
            _ => (is_binding(name), "a binding's name has letters, digits, `_` and `$`, and starts with no digit"),
        };
        if !valid {
            report.error_with_help(span, format!("{} is no name for a binding", quoted(name)), grammar);
            return;
        }
        match self.taken.get(name) {
            Some((other, there)) => {
                let message =
                    format!("the name {} is already taken by `{other}` in line {}", quoted(name), report.line(*there));
                report.error(span, message);
            }
            None => {
                self.taken.insert(name.to_owned(), (section, span));
                self.bound.push(Bound { name: name.to_owned(), section, binding });
            }
        }
    }
}

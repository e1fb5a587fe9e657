//! `[[ai.gateways]]` and `[[ai.providers]]`: what stands in front of models, and who answers besides them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::diagnostic::quoted;
use crate::servers::{Keys, Servers, servers};
use crate::source::{Report, Span, Spanned};
use crate::tree::{Entry, Table, Value};

/// Names that a provider cannot have: they mean something else in the same place.
const RESERVED: [&str; 2] = ["workers-ai", "logs"];

/// A `[[ai.gateways]]` table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GatewayEntry {
    /// Its id. Key `id`.
    pub id: String,
    /// How long answers are kept where a call does not say; not at all if none. Key `cache_ttl`.
    pub cache_ttl: Option<Duration>,
    /// What kept answers may take in bytes. Key `cache_mb` in MiB, default 64 MiB.
    pub cache_bytes: u64,
    /// Whether workers are given each other's answers. Key `cache_shared`, default `false`.
    pub cache_shared: bool,
    /// When questions mean the same; never if none. Keys `similar_model` and `similar_percent`.
    pub similar: Option<Similar>,
    /// How many calls it takes; any number if none. Key `rate_limit`.
    pub rate_limit: Option<RateLimit>,
    /// Whether calls are logged that do not say. Key `collect_log`, default `true`.
    pub collect_log: bool,
    /// Whether the beginnings of bodies are logged. Key `log_bodies`, default `true`.
    pub log_bodies: bool,
    /// Properties whose values are not logged. Key `redact`.
    pub redact: Vec<String>,
    /// What a million tokens read and a million written cost, by model. Key `prices`.
    pub prices: BTreeMap<String, (f64, f64)>,
}

/// When two questions mean the same.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Similar {
    /// The model whose vectors are compared. Key `similar_model`.
    pub model: String,
    /// The least cosine. Key `similar_percent`, default 0.95.
    pub threshold: f32,
}

/// `[ai.gateways.rate_limit]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RateLimit {
    /// Calls in a window. Key `requests`.
    pub requests: u32,
    /// The window's length. Key `window_s`.
    pub window: Duration,
    /// Whether each window ends now. Key `technique`, default `sliding`.
    pub sliding: bool,
}

/// A `[[ai.providers]]` table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProviderEntry {
    /// Its name in calls of gateways. Key `name`.
    pub name: String,
    /// What its servers speak. Key `kind`, default `openai`.
    pub kind: ProviderKind,
    /// Where it is.
    pub servers: Servers,
}

/// What a provider's servers speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProviderKind {
    /// OpenAI's interface.
    #[default]
    OpenAi,
    /// Anthropic's interface.
    Anthropic,
}

/// Whether a text can stand for a gateway or a provider in an address.
fn check_name(name: &str, what: &str, span: Span, report: &mut Report) -> bool {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let valid = (1..=64).contains(&name.len()) && name.bytes().all(sound);
    if !valid {
        let help = "it has letters, digits, `-` and `_`, up to 64";
        report.error_with_help(span, format!("{} is no name for a {what}", quoted(name)), help);
    }
    valid
}

/// Reads a table of `gateways`.
pub(crate) fn gateway(table: &Table, report: &mut Report) -> Option<Spanned<GatewayEntry>> {
    let (id, span) = table.text("id")?;
    let valid = check_name(id, "gateway", span, report);
    let similar = table.text("similar_model").map(|(model, _)| Similar {
        model: model.to_owned(),
        threshold: table.whole("similar_percent").unwrap_or(95) as f32 / 100.0,
    });
    if let (None, Some(entry)) = (&similar, table.get("similar_percent")) {
        report.error(entry.key_span, "`similar_percent` says nothing without `similar_model`");
    }
    let rate_limit = table.table("rate_limit").and_then(|limit| {
        Some(RateLimit {
            requests: u32::try_from(limit.whole("requests")?).ok()?,
            window: Duration::from_secs(limit.whole("window_s")?),
            sliding: limit.text("technique").is_none_or(|(technique, _)| technique == "sliding"),
        })
    });
    let redact = table.array("redact").unwrap_or_default().iter().filter_map(|node| node.as_text());
    let prices = table.table("prices").map_or(&[][..], |prices| &prices.entries);
    let entry = GatewayEntry {
        id: id.to_owned(),
        cache_ttl: table.whole("cache_ttl").filter(|ttl| *ttl > 0).map(Duration::from_secs),
        cache_bytes: table.whole("cache_mb").unwrap_or(64) << 20,
        cache_shared: table.boolean("cache_shared").unwrap_or(false),
        similar,
        rate_limit,
        collect_log: table.boolean("collect_log").unwrap_or(true),
        log_bodies: table.boolean("log_bodies").unwrap_or(true),
        redact: redact.map(str::to_owned).collect(),
        prices: prices.iter().filter_map(|entry| price(entry, report)).collect(),
    };
    valid.then_some(Spanned { value: entry, span })
}

fn price(entry: &Entry, report: &mut Report) -> Option<(String, (f64, f64))> {
    let number = |table: &Table, key: &str| match table.node(key)?.value {
        Value::Integer(number) => Some(number as f64),
        Value::Float(number) => Some(number),
        _ => None,
    };
    let both = entry.node.as_table().and_then(|table| Some((number(table, "input")?, number(table, "output")?)));
    match both.filter(|(input, output)| input.is_finite() && output.is_finite() && *input >= 0.0 && *output >= 0.0) {
        Some(both) => Some((entry.key.clone(), both)),
        None => {
            let help = "write `{ input = 0.5, output = 1.5 }`, each for a million tokens";
            report.error_with_help(entry.node.span, format!("this is no price of {}", quoted(&entry.key)), help);
            None
        }
    }
}

/// Reads a table of `providers`.
pub(crate) fn provider(table: &Table, span: Span, keys: &Keys, report: &mut Report) -> Option<Spanned<ProviderEntry>> {
    let servers = servers(table, keys, report);
    let (name, name_span) = table.text("name")?;
    let mut valid = check_name(name, "provider", name_span, report);
    if RESERVED.contains(&name) {
        report.error(name_span, format!("{} has a meaning of its own and names no provider", quoted(name)));
        valid = false;
    }
    if table.get("url").or(table.get("urls")).is_none() {
        report.error_with_help(span, "this provider has no `url`", "write `url = \"https://…\"`");
        valid = false;
    }
    let kind = match table.text("kind") {
        Some(("anthropic", _)) => ProviderKind::Anthropic,
        _ => ProviderKind::OpenAi,
    };
    let entry = ProviderEntry { name: name.to_owned(), kind, servers: servers? };
    valid.then_some(Spanned { value: entry, span: name_span })
}

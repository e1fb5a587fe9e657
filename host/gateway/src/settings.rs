//! What a project says of its gateways and providers.

use std::collections::BTreeMap;
use std::time::Duration;

use host_upstream::{Address, Key};

/// A gateway.
#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// Its id.
    pub id: String,
    /// How long answers are kept when a call does not say; not at all when absent.
    pub cache_ttl: Option<Duration>,
    /// What the kept answers of a gateway may take, in bytes.
    pub cache_bytes: u64,
    /// Whether workers are given each other's answers.
    pub cache_shared: bool,
    /// Whether answers to questions that mean the same are given too.
    pub similar: Option<Similar>,
    /// Calls that it takes.
    pub rate_limit: Option<RateLimit>,
    /// Whether calls are logged when they do not say.
    pub collect_log: bool,
    /// Whether the beginnings of bodies are logged.
    pub log_bodies: bool,
    /// Properties whose values are not logged, wherever in a body they stand.
    pub redact: Vec<String>,
    /// What models cost, by their names.
    pub prices: BTreeMap<String, Price>,
}

impl GatewaySettings {
    /// What holds where nothing is said.
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            cache_ttl: None,
            cache_bytes: 64 << 20,
            cache_shared: false,
            similar: None,
            rate_limit: None,
            collect_log: true,
            log_bodies: true,
            redact: Vec::new(),
            prices: BTreeMap::new(),
        }
    }
}

/// When two questions mean the same.
#[derive(Debug, Clone, PartialEq)]
pub struct Similar {
    /// The model whose vectors are compared.
    pub model: String,
    /// The least cosine.
    pub threshold: f32,
}

/// How many calls a gateway takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Calls in a window.
    pub requests: u32,
    /// The window's length.
    pub window: Duration,
    /// How windows follow each other.
    pub technique: Technique,
}

/// How windows follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Technique {
    /// One after the other.
    Fixed,
    /// Each ends now.
    Sliding,
}

/// What a model costs, per token and in the currency of whoever reads the log.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Price {
    /// A million tokens read.
    pub input: f64,
    /// A million tokens written.
    pub output: f64,
}

/// What a provider speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderKind {
    /// OpenAI's interface: the key is a bearer's.
    OpenAi,
    /// Anthropic's interface: the key is `x-api-key`.
    Anthropic,
}

/// A provider.
#[derive(Debug, Clone)]
pub struct ProviderSettings {
    /// Its name in steps.
    pub name: String,
    /// What it speaks.
    pub kind: ProviderKind,
    /// Its servers.
    pub addresses: Vec<Address>,
    /// What they are shown; what the caller sends when absent.
    pub key: Option<Key>,
    /// How long an answer and each piece of it is waited for.
    pub timeout: Duration,
    /// How often a step is tried.
    pub attempts: u32,
    /// The path of a health check.
    pub health: String,
}

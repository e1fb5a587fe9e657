//! The gateway in front of models: the engine's own and those of providers elsewhere, behind one cache, one limit, one log.
//!
//! A call names steps, each a provider with what it is asked; the first that succeeds answers ([`Gateways::run`]). In front
//! of each stands a cache of whole answers, which a worker shares with no other unless its operator says so; behind them
//! all a log of what was asked, how it went and what it cost. Both are kept in [`host_state`] files and survive the process.
//!
//! The crate knows nothing of guests or of WebAssembly: whoever calls says on whose behalf, and which models that one may
//! run. Keys of providers are the operator's; they go to the providers' servers and nowhere else, not even into a log.

#![deny(clippy::unwrap_used)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod attachments;
mod cache;
mod compatible;
mod logs;
mod options;
mod providers;
mod rate;
mod record;
mod run;
mod settings;
mod similar;
mod usage;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream::BoxStream;
use host_inference::{AiError, Attachment, Engine};
use host_state::{Directory, StateError};
use serde_json::Value;

pub use logs::{Filter, Log, Patch};
pub use options::{Backoff, Options};
pub use settings::{GatewaySettings, Price, ProviderKind, ProviderSettings, RateLimit, Similar, Technique};

use cache::Cache;
use logs::Logs;
use providers::Provider;
use rate::Meter;

/// The name of the engine's own models among the providers.
pub const WORKERS_AI: &str = "workers-ai";
/// Steps of one call.
pub const MAX_STEPS: usize = 16;

/// Every gateway of a project. Clones share everything.
#[derive(Clone)]
pub struct Gateways(Arc<Inner>);

struct Inner {
    engine: Engine,
    providers: BTreeMap<String, Provider>,
    gateways: BTreeMap<String, Arc<GatewaySettings>>,
    /// What holds for a gateway that the project does not describe.
    others: Arc<GatewaySettings>,
    meters: Mutex<HashMap<String, Meter>>,
    cache: Cache,
    logs: Logs,
}

impl std::fmt::Debug for Gateways {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateways").field("gateways", &self.0.gateways.keys()).finish_non_exhaustive()
    }
}

/// One thing to try.
#[derive(Debug, Clone, Default, serde::Deserialize)]
pub struct Step {
    /// The provider's name.
    pub provider: String,
    /// What is asked of it: a model's name of `workers-ai`, or OpenAI's `v1/chat/completions` and `v1/embeddings` there; a
    /// path of others.
    #[serde(default)]
    pub endpoint: String,
    /// Headers for the provider; those that begin with `cf-aig-` are options of this step.
    #[serde(default)]
    pub headers: BTreeMap<String, Value>,
    /// The body.
    #[serde(default)]
    pub query: Value,
    /// Bytes that stand for properties of the body. Only the engine's own models take any.
    #[serde(skip)]
    pub attachments: Vec<Attachment>,
}

/// Whether a worker may run a model of the engine.
pub type Allows = Arc<dyn Fn(&str) -> Result<(), AiError> + Send + Sync>;

/// A call of a gateway.
pub struct Call {
    /// The worker that calls.
    pub worker: Arc<str>,
    /// The gateway's id.
    pub gateway: String,
    /// What to try, in this order.
    pub steps: Vec<Step>,
    /// What holds for all steps.
    pub options: Options,
    /// Which models the worker may run.
    pub allows: Allows,
}

/// What a call gave.
pub struct Answered {
    /// The id of its entry in the log; none where it is not logged.
    pub log_id: Option<String>,
    /// Whether the answer came from the cache.
    pub cached: bool,
    /// Which step answered, from 0.
    pub step: usize,
    /// The status.
    pub status: u16,
    /// The media type.
    pub content_type: String,
    /// The body.
    pub body: Body,
}

impl std::fmt::Debug for Answered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answered").field("status", &self.status).field("cached", &self.cached).finish_non_exhaustive()
    }
}

/// The body of an answer.
pub enum Body {
    /// All of it.
    Whole(Bytes),
    /// As it comes. Dropping it gives up the work behind it.
    Stream(BoxStream<'static, Result<Bytes, String>>),
}

/// Why a gateway gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// The call itself is wrong. The text says where.
    #[error("{0}")]
    Bad(String),
    /// The gateway's limit is reached.
    #[error("the gateway's rate limit is reached")]
    RateLimited {
        /// When there is room again.
        retry_after: std::time::Duration,
    },
    /// The last step failed in the engine.
    #[error(transparent)]
    Ai(#[from] AiError),
    /// The last step failed at a provider: its status and its words, fit for whoever called.
    #[error("{message}")]
    Provider {
        /// The status to answer with.
        status: u16,
        /// What went wrong.
        message: String,
        /// When to come back.
        retry_after: Option<std::time::Duration>,
    },
    /// There is no entry of this id, or it is another worker's.
    #[error("no log {0:?} in this gateway")]
    NoLog(String),
    /// The store failed.
    #[error("the gateway's store failed; the host's log says why")]
    State,
}

impl From<StateError> for GatewayError {
    fn from(error: StateError) -> Self {
        tracing::error!(%error, "the gateway's store failed");
        Self::State
    }
}

impl Gateways {
    /// The gateways of a project. Nothing is made in `state` before something is kept.
    ///
    /// # Errors
    /// When a provider cannot be set up. The text names it.
    pub fn new(
        gateways: Vec<GatewaySettings>,
        providers: Vec<ProviderSettings>,
        engine: Engine,
        state: Directory,
    ) -> Result<Self, String> {
        let providers = providers.into_iter().map(|settings| {
            let name = settings.name.clone();
            Ok((name.clone(), Provider::new(settings).map_err(|why| format!("[[ai.providers]] {name:?}: {why}"))?))
        });
        Ok(Self(Arc::new(Inner {
            engine,
            providers: providers.collect::<Result<_, String>>()?,
            gateways: gateways.into_iter().map(|gateway| (gateway.id.clone(), Arc::new(gateway))).collect(),
            others: Arc::new(GatewaySettings::new("")),
            meters: Mutex::default(),
            cache: Cache::new(state.clone()),
            logs: Logs::new(state),
        })))
    }

    /// An entry of the log, for the worker whose call it was.
    ///
    /// # Errors
    /// When there is none, or the store cannot be read.
    pub async fn log(&self, worker: &str, gateway: &str, id: &str) -> Result<Log, GatewayError> {
        self.0.logs.get(worker, gateway, id).await
    }

    /// Adds feedback, a score or metadata to an entry of the log.
    ///
    /// # Errors
    /// When there is none, what is added breaks a rule, or the store cannot be written.
    pub async fn patch_log(&self, worker: &str, gateway: &str, id: &str, patch: Patch) -> Result<(), GatewayError> {
        self.0.logs.patch(worker, gateway, id, patch).await
    }

    /// The entries of the log that pass a filter, the newest first. For the operator, whose they all are.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn logs(state: &Directory, filter: &Filter) -> Result<Vec<Log>, GatewayError> {
        logs::list(state, filter)
    }

    fn settings(&self, id: &str) -> &Arc<GatewaySettings> {
        self.0.gateways.get(id).unwrap_or(&self.0.others)
    }
}

//! What one worker's binding file gives it.

use std::collections::BTreeMap;
use std::sync::Arc;

use host_assets::Assets;
use host_config::{AiGrant, Binding, Missing, Secret};
use host_inference::AiError;
use serde_json::{Map, Value};

use crate::outbound::{Policy, PolicyError};
use crate::{Callable, Resources};

/// What a worker may use, decoded from its binding file.
pub struct Grants {
    worker: host_config::Worker,
    env: BTreeMap<String, EnvValue>,
    outbound: Policy,
}

/// One entry of `env` that this host serves.
pub(crate) enum EnvValue {
    Text(String),
    /// A variable that is not a string.
    Json(Value),
    Secret(Secret),
    Ai(AiGrant),
    /// The worker's static files.
    Assets(Assets),
    /// Another worker of the project, by its name.
    Service(String),
    /// What is called by method.
    Callable(Arc<dyn Callable>),
}

/// A worker's grants that cannot be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GrantError {
    /// A rule of `[outbound]` that means nothing.
    #[error("worker {worker}: {source}")]
    Outbound {
        /// The worker's name.
        worker: String,
        /// The rule and its fault.
        source: PolicyError,
    },
}

/// An import of a component that its binding file does not grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the component imports {import}, {reason}")]
pub struct MissingGrant {
    /// The interface, with its version.
    pub import: String,
    /// Why it is not there, and the binding-file lines that would grant it where some would.
    pub reason: String,
}

impl Grants {
    /// Reads a worker's grants. `assets` are its static files, if it has some; `resources` back its other bindings.
    pub fn new(
        worker: &host_config::Worker,
        assets: Option<&Assets>,
        resources: &Resources,
    ) -> Result<Self, GrantError> {
        let env = worker.bindings.iter().filter_map(|(name, binding)| {
            let value = match binding {
                Binding::Text(text) => EnvValue::Text(text.clone()),
                Binding::Json(json) => EnvValue::Json(json.clone()),
                Binding::Secret(secret) => EnvValue::Secret(secret.clone()),
                Binding::Ai(grant) => EnvValue::Ai(grant.clone()),
                Binding::Assets => EnvValue::Assets(assets?.clone()),
                Binding::Service { service, .. } => EnvValue::Service(service.clone()),
                other => EnvValue::Callable(resources.callable(other)?),
            };
            Some((name.clone(), value))
        });
        let outbound = Policy::new(worker.outbound.enabled, &worker.outbound.allow_private)
            .map_err(|source| GrantError::Outbound { worker: worker.name.to_string(), source })?;
        Ok(Self { worker: worker.clone(), env: env.collect(), outbound })
    }

    pub(crate) fn worker(&self) -> &str {
        self.worker.name.as_str()
    }

    pub(crate) fn env(&self) -> &BTreeMap<String, EnvValue> {
        &self.env
    }

    pub(crate) fn flags(&self) -> &[String] {
        &self.worker.compatibility_flags
    }

    pub(crate) fn outbound(&self) -> &Policy {
        &self.outbound
    }

    /// Whether `binding` is an AI binding that grants `model`.
    pub(crate) fn check_ai(&self, binding: &str, model: &str) -> Result<(), AiError> {
        match self.env.get(binding) {
            Some(EnvValue::Ai(grant)) if grant.allows(model) => Ok(()),
            Some(EnvValue::Ai(_)) => Err(AiError::not_allowed(self.explain_missing(Missing::Model, model))),
            _ => Err(AiError::not_allowed(self.explain_missing(Missing::Ai, binding))),
        }
    }

    /// Whether `binding` is an AI binding.
    pub(crate) fn check_ai_binding(&self, binding: &str) -> Result<(), AiError> {
        match self.env.get(binding) {
            Some(EnvValue::Ai(_)) => Ok(()),
            _ => Err(AiError::not_allowed(self.explain_missing(Missing::Ai, binding))),
        }
    }

    /// Whether `binding`, which is an AI binding, grants the adapter that `inputs` ask for.
    pub(crate) fn check_lora(&self, binding: &str, inputs: &Map<String, Value>) -> Result<(), AiError> {
        match (self.env.get(binding), inputs.get("lora").and_then(Value::as_str)) {
            (Some(EnvValue::Ai(grant)), Some(lora)) if !grant.allows_lora(lora) => {
                Err(AiError::not_allowed(self.explain_missing(Missing::Lora, lora)))
            }
            _ => Ok(()),
        }
    }

    /// Every import that this worker was not granted, or that no worker is.
    pub fn check_imports(&self, imports: &[String]) -> Vec<MissingGrant> {
        imports
            .iter()
            .filter_map(|import| {
                let package = import.split('/').next().unwrap_or_default();
                let reason = match package {
                    "workers:env" | "wasi:http" | "wasi:cli" | "wasi:clocks" | "wasi:io" | "wasi:random"
                    | "wasi:filesystem" | "wasi:sockets" => return None,
                    "workers:ai" if self.env.values().any(|value| matches!(value, EnvValue::Ai(_))) => return None,
                    "workers:ai" => {
                        format!("which is not granted; add\n{}", self.worker.explain_missing(Missing::Ai, "AI"))
                    }
                    // Which bindings it calls is not known before it calls them.
                    "workers:bindings" => return None,
                    _ => "which this host does not offer".to_owned(),
                };
                Some(MissingGrant { import: import.clone(), reason })
            })
            .collect()
    }

    /// For a worker's author: `name` is not granted, and what to add.
    pub(crate) fn explain_missing(&self, missing: Missing, name: &str) -> String {
        let what = match missing {
            Missing::Ai => "no AI binding",
            Missing::Model => "no right to run the model",
            Missing::Lora => "no right to use the adapter",
            Missing::Secret => "no secret",
            Missing::VectorIndex => "no vector index",
            Missing::Queue => "no queue to send to",
            _ => "no variable",
        };
        let name: String = name.chars().filter(|c| !c.is_control()).take(200).collect();
        format!("worker {} has {what} {name:?}; add\n{}", self.worker(), self.worker.explain_missing(missing, &name))
    }
}

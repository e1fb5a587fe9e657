//! `workers:bindings`: bindings that are called by method, each a [`Callable`] behind one wire.
//!
//! A callable knows its methods and nothing of guests. How a guest waits is the flavours' concern ([`p2`], [`p3`]), and
//! scripts call over HTTP ([`wire`]): a new binding is a new callable, and touches none of the three.

mod p2;
mod p3;
mod wire;

pub(crate) use wire::answer;

use std::sync::Arc;

use futures::future::BoxFuture;
use host_config::Missing;
use host_runtime::{RequestContext, State};
use serde_json::Value;
use wasmtime::component::Linker;

use crate::grants::EnvValue;
use crate::{Bindings, Grants};

/// Longest arguments or answer of one call, in bytes of JSON: a thousand vectors of 1536 numbers have room.
const MAX_CALL_BYTES: usize = 64 << 20;
/// Texts longer than this are parsed off the async workers.
const LONG_JSON_BYTES: usize = 128 << 10;

pub(crate) fn link(linker: &mut Linker<State<Bindings>>) -> wasmtime::Result<()> {
    p2::link(linker)?;
    p3::link(linker)
}

/// What answers the methods of one binding.
pub trait Callable: Send + Sync + 'static {
    /// What it is, as the guest's side names it: `vectorize`, `queue`.
    fn kind(&self) -> Kind;

    /// Runs a method. The arguments are a guest's, so anything.
    fn call(self: Arc<Self>, call: MethodCall) -> BoxFuture<'static, Result<Value, CallError>>;
}

/// One call of a binding's method.
#[derive(Debug)]
pub struct MethodCall {
    /// The worker that calls.
    pub worker: Arc<str>,
    /// The method's name.
    pub method: String,
    /// Its arguments, as many as the caller gave.
    pub arguments: Vec<Value>,
}

/// Why a method failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    /// The service's code, or 0 where it has none.
    pub code: u32,
    /// The HTTP status that goes with it.
    pub status: u16,
    /// The message as the caller reads it.
    pub message: String,
}

impl CallError {
    /// The caller is at fault.
    pub fn bad(message: impl Into<String>) -> Self {
        Self { code: 0, status: 400, message: message.into() }
    }

    /// A method that the binding has not got.
    pub fn no_method(kind: Kind, method: &str) -> Self {
        let method: String = method.chars().filter(|c| !c.is_control()).take(100).collect();
        Self {
            code: 0,
            status: 405,
            message: format!("A binding of the kind {} has no method {method:?}.", kind.name()),
        }
    }

    /// The host is at fault. The log has what it was; the caller is told so and no more.
    pub fn internal(error: impl std::fmt::Display) -> Self {
        tracing::error!(%error, "a binding failed");
        Self { code: 0, status: 500, message: "The binding failed; the host's log says why.".to_owned() }
    }
}

/// The kinds of bindings that are called by method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A vector index.
    Vectorize,
    /// A queue to send to.
    Queue,
}

impl Kind {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vectorize => "vectorize",
            Self::Queue => "queue",
        }
    }

    fn missing(self) -> Missing {
        match self {
            Self::Vectorize => Missing::VectorIndex,
            Self::Queue => Missing::Queue,
        }
    }

    fn of(name: &str) -> Option<Self> {
        [Self::Vectorize, Self::Queue].into_iter().find(|kind| kind.name() == name)
    }
}

impl Grants {
    /// Whether `binding` is granted as a `kind`; the error is the lines that would grant it.
    fn check_callable(&self, binding: &str, kind: &str) -> Result<(), String> {
        match (self.env().get(binding), Kind::of(kind)) {
            (Some(EnvValue::Callable(callable)), Some(kind)) if callable.kind() == kind => Ok(()),
            (_, Some(kind)) => Err(self.explain_missing(kind.missing(), binding)),
            (_, None) => Err("this host has no bindings of that kind".to_owned()),
        }
    }

    fn callable(&self, binding: &str) -> Result<Arc<dyn Callable>, CallError> {
        match self.env().get(binding) {
            Some(EnvValue::Callable(callable)) => Ok(callable.clone()),
            _ => {
                let name: String = binding.chars().filter(|c| !c.is_control()).take(200).collect();
                let message = format!("worker {} has no binding {name:?} that is called by method", self.worker());
                Err(CallError { code: 0, status: 403, message })
            }
        }
    }
}

/// A guest's call, counted and granted.
struct Admitted {
    callable: Arc<dyn Callable>,
    worker: Arc<str>,
    context: Option<Arc<RequestContext>>,
    method: String,
    arguments: String,
}

fn admit(state: &State<Bindings>, binding: &str, method: String, arguments: String) -> Result<Admitted, CallError> {
    if !state.charge_subrequest() {
        let message = "Too many subrequests: raise `subrequests` under [limits], or make fewer calls.".to_owned();
        return Err(CallError { code: 0, status: 429, message });
    }
    granted(state.extension(), state.request(), binding, method, arguments)
}

fn granted(
    bindings: &Bindings,
    context: Option<Arc<RequestContext>>,
    binding: &str,
    method: String,
    arguments: String,
) -> Result<Admitted, CallError> {
    let callable = bindings.grants().callable(binding)?;
    if arguments.len() > MAX_CALL_BYTES || method.len() > 100 {
        let message = format!("The arguments are longer than {} MiB.", MAX_CALL_BYTES >> 20);
        return Err(CallError { code: 0, status: 413, message });
    }
    Ok(Admitted { callable, worker: bindings.grants().worker().into(), context, method, arguments })
}

impl Admitted {
    async fn run(self) -> Result<String, CallError> {
        let Self { callable, worker, context, method, arguments } = self;
        let long = arguments.len() > LONG_JSON_BYTES;
        let parse = move || {
            serde_json::from_str::<Vec<Value>>(&arguments)
                .map_err(|error| CallError::bad(format!("The arguments are no JSON array: {error}")))
        };
        let arguments =
            if long { tokio::task::spawn_blocking(parse).await.map_err(CallError::internal)?? } else { parse()? };
        let kind = callable.kind().name();
        let answer = callable.call(MethodCall { worker, method: method.clone(), arguments }).await;
        let request = context.as_deref().map_or("-", RequestContext::id);
        match answer {
            Ok(value) => {
                tracing::debug!(request, kind, method, "binding called");
                Ok(value.to_string())
            }
            Err(error) => {
                tracing::debug!(request, kind, method, %error, "binding call failed");
                Err(error)
            }
        }
    }
}

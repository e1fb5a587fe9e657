//! Workers that are scripts: JavaScript in instances of one engine component.
//!
//! The engine is a component of the world `workers:js/worker`, compiled once for all scripts; a script is text that an
//! instance of it evaluates when it starts. So a changed script is served as soon as it has been read, and instances of
//! all scripts share one image. An instance handles one request at a time and is used again for the next, as a script's
//! author expects of globals; [`Pool`] decides which instance handles what, and when one has been used enough.
//!
//! What an instance asks of the host goes two ways. Flat calls ([`imports`]) answer the request. Whatever must not make
//! the engine wait goes through its `fetch`, to an authority that no network has and that the host answers itself
//! ([`internal`]): the request's body, bodies that the host holds for the script, and the worker's bindings.

mod calls;
mod exchange;
mod imports;
mod instance;
mod internal;
mod pipe;
mod pool;
mod upload;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime::component::Component;

use crate::{CompileError, Failure, Runtime, RuntimeConfig, StartError};

pub(crate) use exchange::Exchange;
pub(crate) use internal::{is_internal, send};
pub(crate) use pool::Pool;
pub(crate) use upload::read_to_the_end;

/// Turns the places of a script that stand in a log line into those of its sources.
pub type MapStack = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// A script and what it is started with.
#[derive(Clone)]
pub struct Script {
    /// One JavaScript expression, whose value is a promise of the module's exports.
    pub source: Bytes,
    /// The JSON from which its `env` is made; see `wit/`.
    pub env: String,
    /// What is done to its log lines.
    pub map_stack: Option<MapStack>,
}

/// The compiled engine and the runtime that its instances live in, which is apart from that of components: the engine is
/// built on WASI 0.2, and what WASI 0.3 needs would cost each of its many calls. Cheap to clone.
#[derive(Clone)]
pub struct ScriptEngine {
    runtime: Runtime,
    component: Component,
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScriptEngineError {
    /// The runtime does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The engine component cannot be used.
    #[error(transparent)]
    Compile(#[from] CompileError),
}

impl ScriptEngine {
    /// Compiles the engine component, or takes its code from the cache. Takes seconds where it is compiled, of which
    /// `compiling` is told first: not for an async worker.
    pub fn compile(config: &RuntimeConfig, path: &Path, compiling: impl FnOnce()) -> Result<Self, ScriptEngineError> {
        let runtime = Runtime::without_concurrency(config)?;
        let wasm = Runtime::read_component(path)?;
        if !runtime.is_cached(&wasm) {
            compiling();
        }
        let (component, _) = runtime.compile_plain(&wasm)?;
        Ok(Self { runtime, component })
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub(crate) fn component(&self) -> &Component {
        &self.component
    }
}

/// Why no instance of a script can be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartFault {
    /// The script threw while it was loaded, or its exports cannot handle anything.
    #[error("the script cannot be started: {0}")]
    Script(String),
    /// It broke a limit.
    #[error("the script cannot be started: {0}")]
    Limit(Failure),
    /// The engine failed.
    #[error("the JavaScript engine cannot be started: {0:#}")]
    Engine(wasmtime::Error),
}

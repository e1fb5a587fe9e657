//! What every kind of worker is made from and linked with.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::Linker;

use crate::{Extension, Limits, Runtime, State};

/// Requests that an instance answers before it is replaced.
pub(crate) const REUSE: usize = 1000;
/// How long an instance waits for another request, when there were more of them than one.
pub(crate) const IDLE: Duration = Duration::from_secs(1);
/// How long a worker's last instance waits for another request, with what it keeps in its globals.
pub(crate) const LAST_IDLE: Duration = Duration::from_secs(60);

/// Why a component cannot become a worker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// It imports what this host does not have, or has with other types.
    #[error("the component's imports cannot be satisfied: {0:#}")]
    Imports(wasmtime::Error),
    /// The runtime's own interfaces clash.
    #[error("cannot set up the host's interfaces: {0:#}")]
    Host(wasmtime::Error),
}

/// What makes a worker out of a component.
pub struct WorkerConfig<X> {
    /// Its name, for logs.
    pub name: Arc<str>,
    /// What it may use.
    pub limits: Limits,
    /// What it was granted.
    pub extension: X,
    /// How long its instances live; none for what its flavour is made for.
    pub instances: Option<Instances>,
}

/// How long an instance lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instances {
    /// One request.
    Fresh,
    /// Many requests, one after the other.
    Reuse,
}

/// The start function of a component has not come to its end.
#[derive(Debug, thiserror::Error)]
#[error("not started within {0:?}")]
pub(crate) struct StartTimeout(pub(crate) Duration);

/// Everything that any worker may import; what is not granted is refused before this point or when called.
pub(crate) fn linker<X: Extension>(runtime: &Runtime) -> wasmtime::Result<Linker<State<X>>> {
    let mut linker = p2_linker(runtime)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    X::link(&mut linker)?;
    Ok(linker)
}

/// WASI 0.2 and nothing of the host's own.
pub(crate) fn p2_linker<X: Extension>(runtime: &Runtime) -> wasmtime::Result<Linker<State<X>>> {
    let mut linker = Linker::new(runtime.engine());
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    Ok(linker)
}

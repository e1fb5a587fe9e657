//! From the bytes of a file to a component that can be linked.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use wasmtime::component::Component;

use crate::Runtime;

/// No component is larger.
const MAX_BYTES: usize = 256 << 20;

/// Why a file cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[source] std::io::Error),
    /// Not WebAssembly at all.
    #[error("not a WebAssembly file (it does not start with the bytes 00 61 73 6d)")]
    NotWasm,
    /// A core module.
    #[error(
        "a core WebAssembly module, not a component; build it for the target wasm32-wasip2 \
         (`cargo build --release --target wasm32-wasip2`), or turn it into one with `wasm-tools component new`"
    )]
    CoreModule,
    /// Too large to be compiled.
    #[error("larger than {} MiB", MAX_BYTES >> 20)]
    TooLarge,
    /// A component that does not compile: it is damaged, or uses a proposal that this host leaves off.
    #[error("not a valid component: {0:#}")]
    Invalid(wasmtime::Error),
    /// A component that serves no requests.
    #[error(
        "the component exports {}; a worker exports wasi:http/incoming-handler@0.2 or wasi:http/handler@0.3",
        if exports.is_empty() { "nothing".to_owned() } else { exports.join(", ") }
    )]
    NoHandler {
        /// What it exports instead.
        exports: Vec<String>,
    },
}

/// Which WASI a component was built on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// WASI 0.2: `wasi:http/incoming-handler`. An instance answers one request.
    P2,
    /// WASI 0.3: `wasi:http/handler`. An instance answers one request after the other.
    P3,
}

/// A component in native code.
#[derive(Clone)]
pub struct Compiled {
    pub(crate) component: Component,
    flavour: Flavour,
    imports: Vec<String>,
    cached: bool,
}

impl Compiled {
    /// Which WASI it was built on.
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// The interfaces it imports, with their versions.
    pub fn imports(&self) -> &[String] {
        &self.imports
    }

    /// Whether its code came from the cache.
    pub fn cached(&self) -> bool {
        self.cached
    }
}

impl Runtime {
    /// As [`Self::compile`], from a file of which no more is read than a component may have.
    pub fn compile_file(&self, path: &Path) -> Result<Compiled, CompileError> {
        self.compile(&Self::read_component(path)?)
    }

    pub(crate) fn read_component(path: &Path) -> Result<Vec<u8>, CompileError> {
        let mut wasm = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_end(&mut wasm));
        read.map_err(CompileError::Unreadable)?;
        Ok(wasm)
    }

    /// Compiles a component, or takes its code from the cache. Takes seconds for a large one: not for an async worker.
    pub fn compile(&self, wasm: &[u8]) -> Result<Compiled, CompileError> {
        let (component, cached) = self.compile_plain(wasm)?;
        let (imports, exports) = self.interfaces(&component);
        let flavour = flavour(&exports).ok_or(CompileError::NoHandler { exports })?;
        Ok(Compiled { component, flavour, imports, cached })
    }

    /// Whether the cache has code for a component, sound or not.
    pub(crate) fn is_cached(&self, wasm: &[u8]) -> bool {
        self.cache().is_some_and(|cache| cache.path(wasm).exists())
    }

    /// A component of any world, and whether its code came from the cache.
    pub(crate) fn compile_plain(&self, wasm: &[u8]) -> Result<(Component, bool), CompileError> {
        check_preamble(wasm)?;
        let new = || Component::from_binary(self.engine(), wasm).map_err(CompileError::Invalid);
        let Some(cache) = self.cache() else { return Ok((new()?, false)) };
        let path = cache.path(wasm);
        if let Some(component) = cache.load(self.engine(), &path) {
            return Ok((component, true));
        }
        let _lock = cache.lock(&path);
        // Another process may have compiled it meanwhile.
        if let Some(component) = cache.load(self.engine(), &path) {
            return Ok((component, true));
        }
        let component = new()?;
        cache.store(&path, &component);
        Ok((component, false))
    }

    fn interfaces(&self, component: &Component) -> (Vec<String>, Vec<String>) {
        let component_type = component.component_type();
        let engine = self.engine();
        let imports = component_type.imports(engine).map(|(name, _)| name.to_owned()).collect();
        let exports = component_type.exports(engine).map(|(name, _)| name.to_owned()).collect();
        (imports, exports)
    }
}

/// The first eight bytes: a magic number, then a version for modules and another, with a layer, for components.
fn check_preamble(wasm: &[u8]) -> Result<(), CompileError> {
    if !wasm.starts_with(b"\0asm") {
        return Err(CompileError::NotWasm);
    }
    if wasm.get(4..8) == Some(&[1, 0, 0, 0]) {
        return Err(CompileError::CoreModule);
    }
    if wasm.len() > MAX_BYTES {
        return Err(CompileError::TooLarge);
    }
    Ok(())
}

fn flavour(exports: &[String]) -> Option<Flavour> {
    let has = |prefix: &str| exports.iter().any(|name| name.starts_with(prefix));
    if has("wasi:http/handler@0.3") {
        Some(Flavour::P3)
    } else if has("wasi:http/incoming-handler@0.2") {
        Some(Flavour::P2)
    } else {
        None
    }
}

//! The one place that decides how WebAssembly is compiled and where its instances live.

use std::path::PathBuf;
use std::sync::Arc;

use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::cache::{CacheError, ComponentCache};
use crate::limits::TICK;

/// Instances of all workers together.
const INSTANCES: u32 = 1000;
/// Core instances, memories and tables for each component instance, on average.
const PER_INSTANCE: u32 = 4;
/// A worker's largest possible table.
const TABLE_ELEMENTS: usize = 100_000;

/// How a runtime is set up.
#[derive(Debug, Clone, Default)]
pub struct RuntimeConfig {
    /// Where compiled components are kept. None keeps nothing.
    pub cache_directory: Option<PathBuf>,
}

/// Why a runtime could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The compiler refused its settings, or the machine lacks something it needs.
    #[error("cannot set up the WebAssembly engine: {0:#}")]
    Engine(wasmtime::Error),
    /// The cache directory cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// No thread for the clock.
    #[error("cannot start the clock thread: {0}")]
    Thread(std::io::Error),
}

/// The compiler, the pool of instances and the clock that bounds guests. Cheap to clone.
#[derive(Clone)]
pub struct Runtime(Arc<Inner>);

struct Inner {
    engine: Engine,
    cache: Option<ComponentCache>,
}

impl Runtime {
    /// Sets up the engine and starts its clock, which stops when the last clone is dropped.
    pub fn new(config: &RuntimeConfig) -> Result<Self, StartError> {
        Self::with(config, compiler_config)
    }

    /// A runtime for what is built on WASI 0.2 alone. Its guests start no tasks inside the component model, whose calls
    /// then need no account of them.
    pub(crate) fn without_concurrency(config: &RuntimeConfig) -> Result<Self, StartError> {
        Self::with(config, || {
            let mut config = compiler_config();
            config.wasm_component_model_async(false).concurrency_support(false);
            config
        })
    }

    fn with(config: &RuntimeConfig, compiler: impl Fn() -> Config) -> Result<Self, StartError> {
        let engine = engine(compiler)?;
        let cache = match &config.cache_directory {
            Some(directory) => Some(ComponentCache::open(directory, &engine)?),
            None => None,
        };
        let ticking = engine.weak();
        std::thread::Builder::new()
            .name("epoch".into())
            .spawn(move || {
                while let Some(engine) = ticking.upgrade() {
                    engine.increment_epoch();
                    drop(engine);
                    std::thread::sleep(TICK);
                }
            })
            .map_err(StartError::Thread)?;
        Ok(Self(Arc::new(Inner { engine, cache })))
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(crate) fn cache(&self) -> Option<&ComponentCache> {
        self.0.cache.as_ref()
    }
}

/// Builds the engine on a pool of instances, or on plain allocation where the address space is too small for a pool.
fn engine(compiler: impl Fn() -> Config) -> Result<Engine, StartError> {
    let mut config = compiler();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool_config()));
    Engine::new(&config).or_else(|error| {
        tracing::warn!("no pool of instances ({error:#}); each request allocates its own memory, which is slower");
        Engine::new(&compiler()).map_err(StartError::Engine)
    })
}

/// Proposals that no toolchain of ours emits stay off: each is code that a hostile component could reach. Threads, garbage
/// collection, exceptions and memory protection keys are not even compiled into this program.
fn compiler_config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .wasm_component_model_async(true)
        .wasm_memory64(false)
        .epoch_interruption(true)
        .memory_init_cow(true)
        .generate_address_map(true)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(32));
    config
}

/// Keeping the first pages of a memory resident saves their page faults in the next instance. That pays only where the
/// kernel can say which pages were written (`PAGEMAP_SCAN`, Linux 6.7); elsewhere resetting them costs more than it saves.
fn pool_config() -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(INSTANCES)
        .total_core_instances(INSTANCES * PER_INSTANCE)
        .total_memories(INSTANCES)
        .total_tables(INSTANCES * PER_INSTANCE)
        .total_stacks(INSTANCES * 2)
        .table_elements(TABLE_ELEMENTS)
        .max_memory_size(4 << 30);
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        pool.pagemap_scan(Enabled::Yes)
            .linear_memory_keep_resident(16 << 20)
            .table_keep_resident(1 << 20)
            .async_stack_keep_resident(1 << 20);
    } else {
        pool.linear_memory_keep_resident(64 << 10).table_keep_resident(16 << 10).async_stack_keep_resident(64 << 10);
    }
    pool
}

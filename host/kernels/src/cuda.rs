//! What computing on an NVIDIA GPU needs of the driver beyond candle's safe interface: asking whether there is one,
//! streams without events, the memory that is left, and graphs of recorded steps.
//!
//! It stands here because all of it is unsafe or rests on unsafe promises. What is computed is not this module's
//! matter: kernels for the GPU are candle's.

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{CudaGraph, CudaStream, sys};
use candle_core::{CudaDevice, Device, Result};
use libloading::Library;

/// A library that candle's CUDA code opens on first use, by the names under which systems have it.
const LIBRARIES: [(&str, &[&str], &str); 3] = [
    ("the CUDA driver", &["libcuda.so.1", "libcuda.so", "nvcuda.dll"], "install NVIDIA's driver for this GPU"),
    (
        "cuBLAS",
        &["libcublas.so", "libcublas.so.13", "libcublas.so.12", "cublas64_13.dll", "cublas64_12.dll"],
        "install the CUDA libraries of the driver's version, and name their folder in LD_LIBRARY_PATH",
    ),
    (
        "cuRAND",
        &["libcurand.so", "libcurand.so.10", "curand64_10.dll"],
        "install the CUDA libraries of the driver's version, and name their folder in LD_LIBRARY_PATH",
    ),
];

/// The first library that this machine lacks, with what to do about it. Asked before anything else, because candle's
/// code panics where one cannot be opened.
pub fn missing_library() -> Option<String> {
    LIBRARIES.iter().find_map(|(what, names, cure)| {
        let found = names.iter().any(|name| {
            // SAFETY: loading runs the library's initializers. These are the vendor's libraries, which the code that
            // asks would load next; nothing of them is called here.
            unsafe { Library::new(*name) }.is_ok()
        });
        (!found).then(|| format!("{what} cannot be loaded ({}): {cure}", names[0]))
    })
}

/// A device with a stream and handles of its own, which waits for no other stream.
///
/// # Errors
/// When the driver refuses.
pub fn open(ordinal: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(ordinal)?;
    // SAFETY: the context object behind this device was made by the line above, its only stream is the device's, and all
    // operations on its tensors run on that stream in the order in which they were asked for: there is nothing that
    // events would have to order. Waiting for an event from before a recording would end the recording.
    unsafe { device.as_cuda_device()?.disable_event_tracking() };
    Ok(device)
}

/// Bytes of the device that are free, and all.
///
/// # Errors
/// When the driver refuses.
pub fn memory(device: &CudaDevice) -> Result<(usize, usize)> {
    device.cuda_stream().context().mem_get_info().map_err(candle_core::Error::wrap)
}

/// The GPU's name.
///
/// # Errors
/// When the driver refuses.
pub fn name(device: &CudaDevice) -> Result<String> {
    device.cuda_stream().context().name().map_err(candle_core::Error::wrap)
}

type Work = Box<dyn Fn() -> Result<()> + Send>;

/// Work recorded once and repeated with one call of the driver.
pub struct Graph {
    graph: CudaGraph,
    /// What was recorded, kept because it owns every tensor whose address is part of the recording.
    _work: Work,
}

// SAFETY: the handles belong to the context, not to a thread. They may not be used by two threads at once, which `&mut`
// in `launch` and ownership in `drop` rule out. The work may go to other threads by its type.
unsafe impl Send for Graph {}

impl Graph {
    /// Does `work` once, then records what it asks of `device`. None if that is nothing.
    ///
    /// Once before the recording, because kernels are loaded and parameters copied to the device on first use, and
    /// nothing may be copied from the host while recording. What `work` allocates it must give back before it returns:
    /// results go to tensors that it owns. It must not be the largest work of its device so far, because candle replaces
    /// the scratch memory of its quantized products by larger, and the recording would go on using the smaller.
    ///
    /// # Errors
    /// When `work` fails, asks for what cannot be recorded, or the driver refuses. The device is as usable as before.
    pub fn record(device: &CudaDevice, work: impl Fn() -> Result<()> + Send + 'static) -> Result<Option<Self>> {
        let stream: Arc<CudaStream> = device.cuda_stream();
        let _parameters = device.enable_cuda_graph_htod_cache();
        work()?;
        stream.synchronize().map_err(candle_core::Error::wrap)?;
        // Of this thread only: other models may allocate meanwhile.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).map_err(candle_core::Error::wrap)?;
        let done = work();
        // Also after a failure: a stream that still records can do nothing else.
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags);
        // What freeing memory inside a failed recording left behind would be reported by the next operation.
        let left = stream.context().check_err();
        done?;
        let graph = graph.map_err(candle_core::Error::wrap)?;
        left.map_err(candle_core::Error::wrap)?;
        Ok(graph.map(|graph| Self { graph, _work: Box::new(work) }))
    }

    /// Does what was recorded, after what the device was asked for before.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn launch(&mut self) -> Result<()> {
        self.graph.launch().map_err(candle_core::Error::wrap)
    }
}

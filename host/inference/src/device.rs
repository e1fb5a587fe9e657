//! Which device computes text models, decided once, when the engine is made.
//!
//! A GPU that is there but does not work must be known before the first request, and its absence must not end the
//! process: candle panics where a library of CUDA's is missing, and a driver may be older than the libraries. So a GPU
//! is used only after everything that can be asked was asked and one small product came out right.

use candle_core::Device;

use crate::engine::DeviceChoice;

/// Where text models compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placement {
    /// On the processor, with this project's kernels.
    #[default]
    Processor,
    /// On the processor, with candle's tensors: what runs on a GPU, where there is none.
    ProcessorTensors,
    /// On the NVIDIA GPU of this number, with candle's tensors.
    Cuda(usize),
}

impl Placement {
    /// The device for one model, or none where no tensors are used. Models share no stream.
    ///
    /// # Errors
    /// When the GPU cannot be used; the error says why.
    pub fn open(self) -> Result<Option<Device>, String> {
        match self {
            Self::Processor => Ok(None),
            Self::ProcessorTensors => Ok(Some(Device::Cpu)),
            Self::Cuda(ordinal) => open_cuda(ordinal).map(Some),
        }
    }
}

/// Decides for `choice`. With [`DeviceChoice::Auto`] a GPU that cannot be used costs one line of the log.
///
/// # Errors
/// When `choice` names a device that this build or machine has not got; the error says what would help.
pub fn place(choice: DeviceChoice) -> Result<Placement, String> {
    match choice {
        DeviceChoice::Cpu => Ok(Placement::Processor),
        DeviceChoice::Metal => Err("Apple GPUs are not supported; use device = \"auto\" or \"cpu\"".to_owned()),
        DeviceChoice::Cuda => probe().map_err(|why| format!("cuda: {why}, or use device = \"auto\" or \"cpu\"")),
        DeviceChoice::Auto => Ok(probe().unwrap_or_else(|why| {
            // A build without the feature was made to compute on the processor: that is nothing to report.
            if cfg!(feature = "cuda") {
                tracing::info!("text models compute on the processor: {why}");
            }
            Placement::Processor
        })),
    }
}

#[cfg(not(feature = "cuda"))]
fn probe() -> Result<Placement, String> {
    Err("this build has no code for GPUs; build the host with `--features cuda`".to_owned())
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(_: usize) -> Result<Device, String> {
    probe().map(|_| Device::Cpu)
}

/// The first GPU, after it has computed something.
#[cfg(feature = "cuda")]
fn probe() -> Result<Placement, String> {
    use host_kernels::cuda;

    let device = open_cuda(0)?;
    let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| try_out(&device)));
    tried.map_err(|_| "the GPU's libraries failed; the log has the place".to_owned())?.map_err(refused)?;
    let cuda = device.as_cuda_device().map_err(refused)?;
    let (gpu, (free, total)) = (cuda::name(cuda).map_err(refused)?, cuda::memory(cuda).map_err(refused)?);
    tracing::info!(gpu, free, total, "text models compute on the GPU");
    Ok(Placement::Cuda(0))
}

#[cfg(feature = "cuda")]
fn refused(error: candle_core::Error) -> String {
    let line = error.to_string();
    let line = line.lines().next().unwrap_or_default();
    format!("the GPU cannot be used ({line}): install a driver and CUDA libraries of one version")
}

#[cfg(feature = "cuda")]
fn open_cuda(ordinal: usize) -> Result<Device, String> {
    use host_kernels::cuda;

    if let Some(missing) = cuda::missing_library() {
        return Err(missing);
    }
    // A library may be found here and not by candle, which panics then.
    let opened = std::panic::catch_unwind(|| cuda::open(ordinal));
    opened.map_err(|_| "CUDA's libraries cannot be opened; the log has the place".to_owned())?.map_err(refused)
}

/// Bytes that are free on a device with a memory of its own; none for the processor.
pub(crate) fn free_memory(device: &Device) -> Option<u64> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => host_kernels::cuda::memory(cuda).ok().and_then(|(free, _)| u64::try_from(free).ok()),
        _ => None,
    }
}

/// A product, a kernel from candle's own code, and the way back: what a model needs first.
///
/// # Errors
/// When the device refuses or computes something else than the processor.
pub fn try_out(device: &Device) -> candle_core::Result<()> {
    use candle_core::{Tensor, bail};

    let values: Vec<f32> = (0..64).map(|i| i as f32 / 8.0).collect();
    let compute = |device: &Device| -> candle_core::Result<Vec<f32>> {
        let x = Tensor::from_slice(&values, (8, 8), device)?;
        candle_nn::ops::softmax_last_dim(&x.matmul(&x.affine(0.01, 0.0)?)?)?.flatten_all()?.to_vec1()
    };
    let (found, expected) = (compute(device)?, compute(&Device::Cpu)?);
    // TensorFloat-32 keeps 10 bits of a factor.
    let close = |(found, expected): (&f32, &f32)| (found - expected).abs() < 1e-2;
    if found.len() == expected.len() && found.iter().zip(&expected).all(close) {
        return Ok(());
    }
    bail!("a product came out wrong: {found:?} and not {expected:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_computes_right_is_taken() {
        try_out(&Device::Cpu).unwrap();
    }

    #[test]
    fn choices_are_kept_or_refused_with_what_would_help() {
        assert_eq!(place(DeviceChoice::Cpu), Ok(Placement::Processor));
        assert!(place(DeviceChoice::Metal).unwrap_err().contains("\"auto\""));
        // Whether there is a GPU or not, `auto` never fails, and `cuda` fails exactly where `auto` falls back.
        match (place(DeviceChoice::Auto).unwrap(), place(DeviceChoice::Cuda)) {
            (Placement::Cuda(0), Ok(Placement::Cuda(0))) => {}
            (Placement::Processor, Err(why)) if cfg!(feature = "cuda") => assert!(why.contains("install"), "{why}"),
            (Placement::Processor, Err(why)) => assert!(why.contains("--features cuda"), "{why}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_placement_has_its_device() {
        assert!(Placement::Processor.open().unwrap().is_none());
        assert!(Placement::ProcessorTensors.open().unwrap().unwrap().is_cpu());
        assert!(cfg!(feature = "cuda") || Placement::Cuda(0).open().is_err());
    }
}

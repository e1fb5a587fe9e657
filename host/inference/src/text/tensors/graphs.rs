//! Decoding steps, recorded once and repeated.
//!
//! A step in which every sequence reads one token is some hundred small operations, and asking a GPU for each takes
//! longer than doing it. So such a step is recorded as a graph for a number of sequences and a length of their tables,
//! both rounded up to one of a few sizes, and repeated with other inputs: these lie in tensors of the recording, which
//! are filled before. Sequences that a step has not got write to the spare block.
//!
//! What records and repeats is a [`Recording`]: on a GPU a CUDA graph, in tests the work itself. Recording is an optimization. Where it fails the step is computed without, one line of the log says why, and it is
//! not tried again.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};
use host_kernels::kv::BLOCK_TOKENS;

use super::batch::{Batch, Group};
use super::cache::Blocks;
use super::network::{Network, Step};

/// Numbers of sequences that steps are recorded for.
const SEQUENCES: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// The shortest table, in blocks; longer ones have a power of two.
const SHORTEST: usize = 8;
/// Rows of the widest step that is expected: see [`prime`].
const WIDEST: usize = 512;

/// Work of a device that was recorded.
pub(super) trait Recording: Sized {
    /// Records `work`, which owns all that it reads and writes. None if it does nothing.
    ///
    /// # Errors
    /// When it cannot be recorded.
    fn record(device: &Device, work: impl Fn() -> Result<()> + Send + 'static) -> Result<Option<Self>>;

    /// Does it again.
    ///
    /// # Errors
    /// When the device refuses.
    fn launch(&mut self) -> Result<()>;
}

#[cfg(feature = "cuda")]
impl Recording for host_kernels::cuda::Graph {
    fn record(device: &Device, work: impl Fn() -> Result<()> + Send + 'static) -> Result<Option<Self>> {
        Self::record(device.as_cuda_device()?, work)
    }

    fn launch(&mut self) -> Result<()> {
        Self::launch(self)
    }
}

/// What was recorded with the blocks of one cache.
pub(super) struct Graphs<R> {
    recorded: HashMap<(usize, usize), Recorded<R>>,
    /// Rows of the widest step so far; none before the first recording.
    widest: Option<usize>,
    /// Recording has failed.
    off: bool,
}

impl<R> Default for Graphs<R> {
    fn default() -> Self {
        Self { recorded: HashMap::new(), widest: None, off: false }
    }
}

struct Recorded<R> {
    step: Step,
    logits: Tensor,
    work: R,
}

impl<R: Recording> Graphs<R> {
    /// Gives up all recordings and the memory that they hold.
    pub(super) fn release(&mut self) {
        self.recorded.clear();
    }

    /// Notes that a step of `rows` rows is computed without a recording. Where it is the widest, candle may replace the
    /// scratch memory that recordings point into.
    pub(super) fn computed(&mut self, rows: usize) {
        if self.widest.is_some_and(|widest| rows > widest) {
            self.recorded.clear();
            self.widest = Some(rows);
        }
    }

    /// Computes `batch` with a recording if it is a step that is recorded, adding its logits to `logits`. False if not.
    ///
    /// # Errors
    /// When a recorded step fails. One that cannot be recorded is no error.
    pub(super) fn decode(
        &mut self,
        network: &Arc<Network>,
        blocks: &Arc<Blocks>,
        batch: &Batch,
        logits: &mut Vec<f32>,
    ) -> Result<bool> {
        let Some(longest) = batch.decoding().filter(|_| !self.off) else { return Ok(false) };
        let rows = batch.tokens.len();
        let Some(sequences) = SEQUENCES.into_iter().find(|size| *size >= rows) else { return Ok(false) };
        let key = (sequences, longest.next_power_of_two().max(SHORTEST));
        let batch = &batch.padded(sequences, key.1);
        if !self.recorded.contains_key(&key) {
            match self.record(network, blocks, batch) {
                Ok(recorded) => self.recorded.insert(key, recorded),
                Err(error) => {
                    tracing::warn!("decoding steps are not recorded as CUDA graphs: {error}");
                    *self = Self { off: true, ..Self::default() };
                    return Ok(false);
                }
            };
        }
        let Some(recorded) = self.recorded.get_mut(&key) else { return Ok(false) };
        recorded.step.refill(batch)?;
        recorded.work.launch()?;
        let found = recorded.logits.narrow(0, 0, rows)?.to_vec2::<f32>()?;
        batch.wanted.iter().filter_map(|row| found.get(*row as usize)).for_each(|row| logits.extend_from_slice(row));
        Ok(true)
    }

    fn record(&mut self, network: &Arc<Network>, blocks: &Arc<Blocks>, batch: &Batch) -> Result<Recorded<R>> {
        let device = network.device();
        if self.widest.is_none() {
            prime(network, blocks)?;
            self.widest = Some(WIDEST);
        }
        let every_row = Batch { wanted: (0..batch.tokens.len() as u32).collect(), ..batch.clone() };
        let step = Step::upload(&every_row, network)?;
        let logits = Tensor::zeros((batch.tokens.len(), network.vocabulary()), DType::F32, device)?;
        let work = {
            let (network, blocks, step, logits) = (network.clone(), blocks.clone(), step.clone(), logits.clone());
            move || match network.run(&step, &blocks)? {
                Some(found) => logits.slice_set(&found, 0, 0),
                None => bail!("a decoding step without logits"),
            }
        };
        match R::record(device, work)? {
            Some(work) => Ok(Recorded { step, logits, work }),
            None => bail!("the recording is empty"),
        }
    }
}

/// Computes the widest step for each kind of product, so that candle's scratch memory does not grow after a recording.
/// Its quantized products have one kind for up to 8 rows and another for more.
fn prime(network: &Network, blocks: &Blocks) -> Result<()> {
    let most = SEQUENCES[SEQUENCES.len() - 1];
    for rows in [8, WIDEST] {
        let spare = blocks.spare();
        let batch = Batch {
            tokens: vec![0; rows],
            positions: vec![0.0; rows],
            slots: vec![spare * BLOCK_TOKENS as u32; rows],
            wanted: (0..rows.min(most) as u32).collect(),
            groups: vec![Group { rows: 0..rows, sequences: rows, blocks: 1, tables: vec![spare; rows] }],
            spare,
        };
        network.run(&Step::upload(&batch, network)?, blocks)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;

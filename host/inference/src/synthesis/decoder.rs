//! HiFi-GAN's generator (Kong et al. 2020): from frames to a waveform, in stages that make the signal longer and narrower.
//!
//! It is made of convolutions alone, so a part of the waveform depends on the frames near it and on no others. Long
//! sequences are decoded in parts that know as many frames on each side: the same result in memory that does not grow.

use super::config::Config;
use super::layers::{Compute, Convolution, Upsampling, add_to_rows, each_row};
use crate::tensors::Tensors;

/// What the reference bends the last stage's channels with, whatever the configuration says of the others.
const LAST_SLOPE: f32 = 0.01;
/// Frames from which a waveform is made at a time, beside those that they depend on.
const PART: usize = 256;
/// The most frames on each side that a sample may depend on; in published models it is a dozen.
const MOST_REACH: usize = 256;
/// Rows that the outer convolutions look at.
const OUTER_KERNEL: usize = 7;

pub(super) struct Decoder {
    size: usize,
    slope: f32,
    before: Convolution,
    condition: Option<Convolution>,
    stages: Vec<Stage>,
    after: Convolution,
    /// Samples of a frame.
    hop: usize,
    /// Frames on each side that a sample depends on.
    reach: usize,
}

struct Stage {
    upsampling: Upsampling,
    blocks: Vec<Block>,
    width: usize,
}

/// Pairs of convolutions, the first of each dilated, each pair added to what it was given.
struct Block(Vec<[Convolution; 2]>);

/// Memory that one convolution leaves to the next.
#[derive(Default)]
struct Scratch {
    sorted: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Decoder {
    pub(super) fn load(tensors: &mut Tensors, config: &Config) -> Result<Decoder, String> {
        let shape = &config.decoder;
        let before = [shape.channels, config.flow_size, OUTER_KERNEL];
        let before = Convolution::load(tensors, "decoder.conv_pre", before, 1, true)?;
        let condition = config
            .voices
            .as_ref()
            .map(|voices| Convolution::pointwise(tensors, "decoder.cond", shape.channels, voices.width))
            .transpose()?;
        let mut width = shape.channels;
        let mut stages = Vec::new();
        for (index, stage) in shape.stages.iter().enumerate() {
            let narrower = shape.channels >> (index + 1);
            let name = format!("decoder.upsampler.{index}");
            let upsampling = Upsampling::load(tensors, &name, [width, narrower], *stage)?;
            let count = shape.blocks.len();
            let block = |(at, (kernel, dilations)): (usize, &(usize, Vec<usize>))| {
                let name = format!("decoder.resblocks.{}", index * count + at);
                Block::load(tensors, &name, narrower, *kernel, dilations)
            };
            let blocks = shape.blocks.iter().enumerate().map(block).collect::<Result<_, _>>()?;
            stages.push(Stage { upsampling, blocks, width: narrower });
            width = narrower;
        }
        let after = Convolution::load(tensors, "decoder.conv_post", [1, width, OUTER_KERNEL], 1, false)?;
        let mut decoder = Decoder {
            size: config.flow_size,
            slope: shape.slope,
            before,
            condition,
            stages,
            after,
            hop: config.hop(),
            reach: 0,
        };
        decoder.reach = decoder.reach(config);
        if decoder.reach > MOST_REACH {
            let reach = decoder.reach;
            let why = format!("resblock_kernel_sizes and resblock_dilation_sizes reach over {reach} frames");
            return Err(format!("{why}; up to {MOST_REACH} are read"));
        }
        Ok(decoder)
    }

    /// Frames on each side that a sample depends on.
    fn reach(&self, config: &Config) -> usize {
        let mut frames = self.before.reach() as f64;
        let mut rate = 1.0;
        for (stage, (longer, _)) in self.stages.iter().zip(&config.decoder.stages) {
            frames += stage.upsampling.reach() as f64 / rate;
            rate *= *longer as f64;
            let block = |block: &Block| block.0.iter().flatten().map(Convolution::reach).sum::<usize>();
            frames += stage.blocks.iter().map(block).max().unwrap_or(0) as f64 / rate;
        }
        (frames + self.after.reach() as f64 / rate).ceil() as usize + 1
    }

    /// The waveform of `frames`, rows of the flow's channels. `go_on` is asked before each part.
    pub(super) fn forward<E>(
        &self,
        compute: &Compute,
        frames: &[f32],
        voice: &[f32],
        go_on: impl Fn() -> Result<(), E>,
    ) -> Result<Vec<f32>, E> {
        let count = frames.len() / self.size;
        let condition = self.condition.as_ref().map(|condition| condition.forward(compute, voice));
        let mut waveform = Vec::with_capacity(count * self.hop);
        // Parts of even length, so that none is small beside what it depends on.
        let part = count.div_ceil(count.div_ceil(PART).max(1)).max(1);
        for begin in (0..count).step_by(part) {
            go_on()?;
            let end = (begin + part).min(count);
            let (from, to) = (begin.saturating_sub(self.reach), (end + self.reach).min(count));
            let decoded = self.part(compute, &frames[from * self.size..to * self.size], condition.as_deref());
            waveform.extend_from_slice(&decoded[(begin - from) * self.hop..(end - from) * self.hop]);
        }
        Ok(waveform)
    }

    /// Values that a part of so many frames or more holds at most: a stage's sum, its longer signal, what one block makes
    /// of it and the buffers of its convolutions.
    pub(super) fn peak(&self, frames: usize) -> usize {
        let known = frames.min(PART + 2 * self.reach);
        let mut rows = known;
        let mut peak = 0;
        for stage in &self.stages {
            rows *= stage.upsampling.rate(stage.width);
            peak = peak.max(6 * rows * stage.width);
        }
        peak + 3 * rows
    }

    fn part(&self, compute: &Compute, frames: &[f32], condition: Option<&[f32]>) -> Vec<f32> {
        let mut x = self.before.forward(compute, frames);
        if let Some(condition) = condition {
            add_to_rows(compute, &mut x, condition);
        }
        let mut scratch = Scratch::default();
        for stage in &self.stages {
            let longer = stage.upsampling.forward(compute, &x, self.slope);
            x.clear();
            x.resize(longer.len(), 0.0);
            let mut turn = Vec::new();
            for block in &stage.blocks {
                turn.clone_from(&longer);
                block.forward(compute, &mut turn, stage.width, self.slope, &mut scratch);
                add(compute, &mut x, &turn, stage.width);
            }
            let share = 1.0 / stage.blocks.len() as f32;
            each_row(compute, &mut x, stage.width, |_, rows| rows.iter_mut().for_each(|value| *value *= share));
        }
        let mut waveform = Vec::new();
        self.after.forward_with(compute, &x, LAST_SLOPE, &mut scratch.sorted, &mut waveform);
        each_row(compute, &mut waveform, 1, |_, samples| samples.iter_mut().for_each(|value| *value = value.tanh()));
        waveform
    }
}

impl Block {
    fn load(
        tensors: &mut Tensors,
        name: &str,
        width: usize,
        kernel: usize,
        dilations: &[usize],
    ) -> Result<Block, String> {
        let pair = |(index, dilation): (usize, &usize)| {
            let shape = [width, width, kernel];
            Ok::<_, String>([
                Convolution::load(tensors, &format!("{name}.convs1.{index}"), shape, *dilation, true)?,
                Convolution::load(tensors, &format!("{name}.convs2.{index}"), shape, 1, true)?,
            ])
        };
        dilations.iter().enumerate().map(pair).collect::<Result<_, _>>().map(Block)
    }

    fn forward(&self, compute: &Compute, x: &mut [f32], width: usize, slope: f32, scratch: &mut Scratch) {
        let Scratch { sorted, first, second } = scratch;
        for [dilated, plain] in &self.0 {
            dilated.forward_with(compute, x, slope, sorted, first);
            plain.forward_with(compute, first, slope, sorted, second);
            add(compute, x, second, width);
        }
    }
}

/// `x += y`.
fn add(compute: &Compute, x: &mut [f32], y: &[f32], width: usize) {
    each_row(compute, x, width, |first, rows| {
        rows.iter_mut().zip(&y[first * width..]).for_each(|(x, y)| *x += y);
    });
}

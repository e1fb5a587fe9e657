//! The network that says what of a noisy picture is noise: diffusers' `UNet2DConditionModel`.
//!
//! Down through blocks that halve the size, up again through as many that double it and see what the way down saw.
//! What the configuration can ask for and this file does not compute is refused by name, never drawn wrongly.

mod shape;

use host_kernels::maps::{self, Pointwise};

use super::config::Config;
use super::layers::{Check, Compute, Conv, GroupNorm, Plane, band_values, halved};
use super::resnet::{Residual, Resnet, TwoLayers};
use super::time;
use super::transformer::{Sizes, Transformer};
use crate::AiError;
use crate::tensors::Tensors;
use shape::Shape;

/// The network.
pub(super) struct Unet {
    shape: Shape,
    time: TwoLayers,
    guidance: Option<super::layers::Linear>,
    added: Option<TwoLayers>,
    first: Conv,
    down: Vec<Block>,
    middle: Option<Block>,
    up: Vec<Block>,
    last: (GroupNorm, Conv),
}

/// Residual blocks, each with a transformer or all without, then another size.
struct Block {
    resnets: Vec<Resnet>,
    transformers: Vec<Transformer>,
    resize: Option<Conv>,
}

/// What the picture is to be.
pub(super) struct Condition {
    /// A row for each token of text.
    pub(super) text: Vec<f32>,
    /// A row for the whole text; empty where the network takes none.
    pub(super) pooled: Vec<f32>,
}

/// What else the network is told of a step.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    /// The step's place in the time of training.
    pub(super) time: f64,
    /// Original height and width, top and left of the cut, height and width wanted, in pixels.
    pub(super) sizes: [f32; 6],
    /// The guidance, for networks that were trained to know it.
    pub(super) guidance: f32,
}

impl Unet {
    pub(super) fn load(config: &Config, tensors: &mut Tensors) -> Result<Unet, String> {
        let shape = Shape::read(config)?;
        let named = |error: String| config.fault(error);
        let channels = &shape.channels;
        let wide = 4 * channels[0];
        let of = Residual { groups: shape.groups, epsilon: shape.epsilon, time: Some(wide) };
        let time = TwoLayers::load(tensors, ["time_embedding.linear_1", "time_embedding.linear_2"], wide, channels[0])?;
        let guidance = shape
            .guidance
            .map(|width| super::layers::Linear::load_plain(tensors, "time_embedding.cond_proj", channels[0], width));
        let added = shape.added.map(|added| {
            TwoLayers::load(tensors, ["add_embedding.linear_1", "add_embedding.linear_2"], wide, added.inputs)
        });
        let (guidance, added) = (guidance.transpose()?, added.transpose()?);
        let first = Conv::load(tensors, "conv_in", channels[0], shape.inputs, 3)?;
        let blocks = channels.len();
        let mut down = Vec::with_capacity(blocks);
        for at in 0..blocks {
            let (inputs, outputs) = (channels[at.saturating_sub(1)], channels[at]);
            let inputs = (0..shape.layers[at]).map(|layer| if layer == 0 { inputs } else { outputs });
            let sizes = shape.sizes(at, shape.down_sees[at]);
            let name = format!("down_blocks.{at}");
            let resize = (at + 1 < blocks).then(|| format!("{name}.downsamplers.0.conv"));
            down.push(Block::load(tensors, &name, inputs, outputs, of, sizes, resize.as_deref()).map_err(named)?);
        }
        let outputs = channels[blocks - 1];
        let middle = shape.middle.then(|| {
            let sizes = Some(Sizes { layers: shape.transformers[blocks - 1], ..shape.attention(blocks - 1) });
            Block::load(tensors, "mid_block", [outputs; 2].into_iter(), outputs, of, sizes, None)
        });
        let middle = middle.transpose().map_err(named)?;
        let mut up = Vec::with_capacity(blocks);
        for at in 0..blocks {
            // The block that this one mirrors.
            let mirrored = blocks - 1 - at;
            let outputs = channels[mirrored];
            let layers = shape.layers[mirrored] + 1;
            let before = channels[(mirrored + 1).min(blocks - 1)];
            let skipped = channels[mirrored.saturating_sub(1)];
            let inputs = (0..layers).map(|layer| {
                let from_below = if layer == 0 { before } else { outputs };
                from_below + if layer + 1 == layers { skipped } else { outputs }
            });
            let sizes = shape.up_sizes(at);
            let name = format!("up_blocks.{at}");
            let resize = (at + 1 < blocks).then(|| format!("{name}.upsamplers.0.conv"));
            up.push(Block::load(tensors, &name, inputs, outputs, of, sizes, resize.as_deref()).map_err(named)?);
        }
        let norm =
            GroupNorm::load(tensors, "conv_norm_out", channels[0], shape.groups, shape.epsilon).map_err(named)?;
        let last = (norm, Conv::load(tensors, "conv_out", shape.outputs, channels[0], 3)?);
        Ok(Unet { time, guidance, added, first, down, middle, up, last, shape })
    }

    /// Channels that the network sees: 4 of the picture, or 9 with those of what is to be kept.
    pub(super) fn inputs(&self) -> usize {
        self.shape.inputs
    }

    pub(super) fn outputs(&self) -> usize {
        self.shape.outputs
    }

    /// Values of a token of text.
    pub(super) fn text(&self) -> usize {
        self.shape.text
    }

    /// Values of the row of a whole text, where the network takes one.
    pub(super) fn pooled(&self) -> Option<usize> {
        self.shape.added.map(|added| added.inputs - 6 * added.time)
    }

    /// Whether the network was trained to know the guidance, and needs no second look without the text.
    pub(super) fn knows_guidance(&self) -> bool {
        self.guidance.is_some()
    }

    /// Height and width of what it was trained on, in its own pixels.
    pub(super) fn native(&self) -> (usize, usize) {
        self.shape.native
    }

    /// What the network says of `x`. `check` is asked between its layers whether to go on.
    ///
    /// # Errors
    /// What `check` says.
    pub(super) fn forward(
        &self,
        compute: &Compute,
        x: &Plane,
        moment: Moment,
        condition: &Condition,
        check: Check<'_>,
    ) -> Result<Plane, AiError> {
        let time = self.moment(compute, moment, condition);
        let text = &condition.text;
        let mut map = self.first.forward(compute, x);
        let mut seen = vec![map.clone()];
        for block in &self.down {
            for (at, resnet) in block.resnets.iter().enumerate() {
                check()?;
                map = resnet.forward(compute, map, &time);
                if let Some(transformer) = block.transformers.get(at) {
                    map = transformer.forward(compute, map, text);
                }
                seen.push(map.clone());
            }
            if let Some(resize) = &block.resize {
                map = resize.halving(compute, &map, self.shape.padding);
                seen.push(map.clone());
            }
        }
        if let Some(block) = &self.middle {
            check()?;
            map = block.resnets[0].forward(compute, map, &time);
            map = block.transformers[0].forward(compute, map, text);
            map = block.resnets[1].forward(compute, map, &time);
        }
        for block in &self.up {
            for (at, resnet) in block.resnets.iter().enumerate() {
                check()?;
                if let Some(skipped) = seen.pop() {
                    map = map.beside(&skipped);
                }
                map = resnet.forward(compute, map, &time);
                if let Some(transformer) = block.transformers.get(at) {
                    map = transformer.forward(compute, map, text);
                }
            }
            if let (Some(resize), Some(next)) = (&block.resize, seen.last()) {
                map = resize.resizing(compute, &map, (next.height, next.width));
            }
        }
        Ok(self.last.1.forward_after(compute, &self.last.0, &map, &[]))
    }

    /// Values that [`Self::forward`] holds at most, for a map of that size and a text of `tokens`.
    pub(super) fn peak(&self, mut size: (usize, usize), tokens: usize) -> usize {
        let mut channels = self.first.outputs();
        let text = 2 * tokens * self.shape.text.max(self.shape.channels.iter().copied().max().unwrap_or(0));
        let pixels = |size: (usize, usize)| size.0 * size.1;
        let mut seen = vec![(size, channels)];
        let mut kept = pixels(size) * channels;
        let mut peak = 2 * kept;
        for block in &self.down {
            for (at, resnet) in block.resnets.iter().enumerate() {
                peak = peak.max(kept + block.peak(at, size, channels));
                channels = resnet.outputs();
                seen.push((size, channels));
                kept += pixels(size) * channels;
            }
            if let Some(resize) = &block.resize {
                let half = halved(size, self.shape.padding);
                peak = peak.max(kept + pixels(size) * channels + pixels(half) * resize.outputs());
                (size, channels) = (half, resize.outputs());
                seen.push((size, channels));
                kept += pixels(size) * channels;
            }
        }
        if let Some(block) = &self.middle {
            for at in 0..block.resnets.len() {
                peak = peak.max(kept + block.peak(at, size, channels));
            }
        }
        for block in &self.up {
            for (at, resnet) in block.resnets.iter().enumerate() {
                let skipped = seen.pop().map_or(0, |(_, channels)| channels);
                // The map, and both beside each other.
                peak = peak.max(kept + pixels(size) * (2 * channels + skipped));
                kept -= pixels(size) * skipped;
                peak = peak.max(kept + block.peak(at, size, channels + skipped));
                channels = resnet.outputs();
            }
            if let (Some(resize), Some((next, _))) = (&block.resize, seen.last()) {
                peak = peak.max(kept + pixels(size) * channels + pixels(*next) * resize.outputs());
                (size, channels) = (*next, resize.outputs());
            }
        }
        peak.max(pixels(size) * (channels + self.shape.outputs) + band_values(size, channels)) + text
    }

    /// The row of the step, through SiLU, as every residual block takes it.
    fn moment(&self, compute: &Compute, moment: Moment, condition: &Condition) -> Vec<f32> {
        let shape = &self.shape;
        let mut waves = time::waves(moment.time as f32, shape.channels[0], shape.cosine_first, shape.shift);
        if let Some(layer) = &self.guidance {
            // The scale of the guidance, as latent consistency models were distilled with it.
            let scale = (moment.guidance - 1.0) * 1000.0;
            let row = time::waves(scale, shape.guidance.unwrap_or(2), false, 1.0);
            maps::add(&compute.pool, &mut waves, &layer.forward(compute, &row));
        }
        let mut row = self.time.forward(compute, &waves);
        if let (Some(layers), Some(added)) = (&self.added, shape.added) {
            let mut inputs = condition.pooled.clone();
            for size in moment.sizes {
                inputs.extend(time::waves(size, added.time, shape.cosine_first, shape.shift));
            }
            maps::add(&compute.pool, &mut row, &layers.forward(compute, &inputs));
        }
        maps::apply(compute.isa, &compute.pool, &mut row, Pointwise::Silu);
        row
    }
}

impl Block {
    fn load(
        tensors: &mut Tensors,
        name: &str,
        inputs: impl Iterator<Item = usize>,
        outputs: usize,
        of: Residual,
        attention: Option<Sizes>,
        resize: Option<&str>,
    ) -> Result<Block, String> {
        let mut resnets = Vec::new();
        for (at, inputs) in inputs.enumerate() {
            resnets.push(Resnet::load(tensors, &format!("{name}.resnets.{at}"), inputs, outputs, of)?);
        }
        let mut transformers = Vec::new();
        if let Some(sizes) = attention {
            let count = if name == "mid_block" { 1 } else { resnets.len() };
            for at in 0..count {
                transformers.push(Transformer::load(tensors, &format!("{name}.attentions.{at}"), sizes)?);
            }
        }
        let resize = resize.map(|name| Conv::load(tensors, name, outputs, outputs, 3)).transpose()?;
        Ok(Block { resnets, transformers, resize })
    }

    /// Values that the residual block `at` and its transformer hold at most.
    fn peak(&self, at: usize, size: (usize, usize), inputs: usize) -> usize {
        let transformer = self.transformers.get(at).map_or(0, |transformer| transformer.peak(size.0 * size.1));
        self.resnets[at].peak(size, inputs).max(transformer)
    }
}

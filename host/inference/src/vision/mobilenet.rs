//! MobileNetV4 (Qin et al. 2024) in the layout that timm publishes: the networks of convolutions alone.
//!
//! Widths, depths, kernels and the kind of each block are those of the tensors in the file; strides, which no tensor tells,
//! are the family's: two pixels in the stem and at the beginning of each stage but the last. Variants whose files look
//! the same and are computed otherwise (smoothed strides) or that hold attention (hybrids) are refused by name.
//! Batch normalization is folded into the convolutions when they are read.

use host_kernels::vision::{Conv, Depthwise, Map, mean_pool};

use serde_json::Value;

use super::layers::{Compute, Linear, add};
use super::resnet::{Folded, convolution, folded};
use crate::tensors::Tensors;

/// What `architecture` may say, the small ones also in parts of their width.
pub(super) const ARCHITECTURES: [&str; 5] = [
    "mobilenetv4_conv_small",
    "mobilenetv4_conv_small_050",
    "mobilenetv4_conv_small_035",
    "mobilenetv4_conv_medium",
    "mobilenetv4_conv_large",
];

const STAGES: usize = 5;
const MAX_BLOCKS: usize = 64;
/// The greatest published width is 2048; with the bound on a picture's sides it bounds what a map takes.
const MAX_CHANNELS: usize = 1 << 12;

/// A classifier.
pub(super) struct MobileNet {
    stem: Conv,
    blocks: Vec<Block>,
    head: Conv,
    classifier: Linear,
}

enum Block {
    /// A convolution.
    Plain(Conv),
    /// A wide one and one of a pixel, the input added where the sizes are the same.
    Fused { expand: Conv, project: Conv, skip: bool },
    /// The universal inverted bottleneck: products of pixels with a convolution of each channel before and between them,
    /// either of which may be missing.
    Inverted { start: Option<Depthwise>, expand: Conv, middle: Option<Depthwise>, project: Conv, skip: bool },
}

impl MobileNet {
    /// Reads the network and its `labels` classes.
    ///
    /// # Errors
    /// Which tensor is missing or does not follow what is before it, or which key asks for another network.
    pub(super) fn load(tensors: &mut Tensors, config: &Value, labels: usize) -> Result<MobileNet, String> {
        plain(config)?;
        let stem = narrow(convolution(tensors, "", "conv_stem", "bn1", Some(3), 2)?, "conv_stem")?;
        let mut channels = stem.outputs();
        let mut blocks = Vec::new();
        for stage in 0..STAGES {
            let mut depth = 0;
            while depth < MAX_BLOCKS && Kind::of(tensors, &format!("blocks.{stage}.{depth}")).is_some() {
                let stride = if depth == 0 && stage + 1 < STAGES { 2 } else { 1 };
                let block = Block::load(tensors, &format!("blocks.{stage}.{depth}"), channels, stride)?;
                channels = block.outputs();
                blocks.push(block);
                depth += 1;
            }
            if depth == 0 {
                return Err(format!("the weights have no block blocks.{stage}.0 of a known kind"));
            }
        }
        let head = narrow(convolution(tensors, "", "conv_head", "norm_head", Some(channels), 1)?, "conv_head")?;
        let classifier = Linear::load(tensors, "classifier", labels, head.outputs())?;
        Ok(MobileNet { stem, blocks, head, classifier })
    }

    /// Values that [`Self::logits`] holds at most for a picture of that size: what a block sees, and one convolution's
    /// result and the next one's.
    pub(super) fn peak(&self, height: usize, width: usize) -> usize {
        let mut size = self.stem.size(height, width);
        let mut seen = size.0 * size.1 * self.stem.outputs();
        let mut peak = seen;
        for block in &self.blocks {
            let mut before = 0;
            for (height, width, channels) in block.results(size) {
                let result = height * width * channels;
                peak = peak.max(seen + before + result);
                (before, size) = (result, (height, width));
            }
            seen = before;
        }
        peak
    }

    /// A score for each label; `check` is asked between blocks.
    pub(super) fn logits<E>(
        &self,
        compute: &Compute,
        picture: &Map,
        check: impl Fn() -> Result<(), E>,
    ) -> Result<Vec<f32>, E> {
        let (isa, pool) = (compute.isa, &compute.pool);
        let mut map = self.stem.apply(isa, pool, picture, true);
        for block in &self.blocks {
            check()?;
            map = block.forward(compute, map);
        }
        let mean = Map { height: 1, width: 1, channels: map.channels, data: mean_pool(&map) };
        Ok(self.classifier.apply(compute, &self.head.apply(isa, pool, &mean, true).data))
    }
}

/// Refuses what changes the network beyond its tensors.
fn plain(config: &Value) -> Result<(), String> {
    match config.get("global_pool").map(Value::as_str) {
        None | Some(Some("avg")) => {}
        Some(other) => return Err(format!("global_pool is {other:.40?}; only avg is known")),
    }
    match config.get("model_args") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Object(given)) if given.is_empty() => Ok(()),
        Some(other) => Err(format!("model_args are {other:.200}; only networks without are read")),
    }
}

/// The kinds of blocks, told by the names of their tensors.
#[derive(Clone, Copy)]
enum Kind {
    Plain,
    Fused,
    Inverted,
}

impl Kind {
    fn of(tensors: &Tensors, root: &str) -> Option<Kind> {
        let kinds = [("conv", Kind::Plain), ("conv_exp", Kind::Fused), ("pw_exp.conv", Kind::Inverted)];
        let found = kinds.into_iter().find(|(name, _)| tensors.shape(&format!("{root}.{name}.weight")).is_some());
        found.map(|(_, kind)| kind)
    }
}

impl Block {
    fn load(tensors: &mut Tensors, root: &str, channels: usize, stride: usize) -> Result<Block, String> {
        let kind = Kind::of(tensors, root).ok_or_else(|| format!("{root} is of no known kind"))?;
        let mut conv = |conv: &str, norm: &str, inputs, stride| {
            let (conv, norm) = (format!("{root}.{conv}"), format!("{root}.{norm}"));
            narrow(convolution(tensors, "", &conv, &norm, Some(inputs), stride)?, &conv)
        };
        Ok(match kind {
            Kind::Plain => Block::Plain(conv("conv", "bn1", channels, stride)?),
            Kind::Fused => {
                let expand = conv("conv_exp", "bn1", channels, stride)?;
                let project = conv("conv_pwl", "bn2", expand.outputs(), 1)?;
                let skip = stride == 1 && project.outputs() == channels;
                Block::Fused { expand, project, skip }
            }
            Kind::Inverted => {
                let expand = conv("pw_exp.conv", "pw_exp.bn", channels, 1)?;
                let project = conv("pw_proj.conv", "pw_proj.bn", expand.outputs(), 1)?;
                let between = tensors.shape(&format!("{root}.dw_mid.conv.weight")).is_some();
                let middle = depthwise(tensors, root, "dw_mid", expand.outputs(), stride)?;
                let start = depthwise(tensors, root, "dw_start", channels, if between { 1 } else { stride })?;
                if stride > 1 && start.is_none() && middle.is_none() {
                    return Err(format!("{root} has no convolution that could have a stride"));
                }
                let skip = stride == 1 && project.outputs() == channels;
                Block::Inverted { start, expand, middle, project, skip }
            }
        })
    }

    fn outputs(&self) -> usize {
        match self {
            Block::Plain(conv) => conv.outputs(),
            Block::Fused { project, .. } | Block::Inverted { project, .. } => project.outputs(),
        }
    }

    /// Height, width and channels of what each of its convolutions makes of a map of this size.
    fn results(&self, (height, width): (usize, usize)) -> Vec<(usize, usize, usize)> {
        let mut results = Vec::new();
        let mut size = (height, width);
        let plain = |conv: &Conv, size: &mut (usize, usize)| {
            *size = conv.size(size.0, size.1);
            (size.0, size.1, conv.outputs())
        };
        let each = |conv: &Depthwise, size: &mut (usize, usize)| {
            *size = conv.size(size.0, size.1);
            (size.0, size.1, conv.channels())
        };
        match self {
            Block::Plain(conv) => results.push(plain(conv, &mut size)),
            Block::Fused { expand, project, .. } => {
                results.push(plain(expand, &mut size));
                results.push(plain(project, &mut size));
            }
            Block::Inverted { start, expand, middle, project, .. } => {
                results.extend(start.as_ref().map(|conv| each(conv, &mut size)));
                results.push(plain(expand, &mut size));
                results.extend(middle.as_ref().map(|conv| each(conv, &mut size)));
                results.push(plain(project, &mut size));
            }
        }
        results
    }

    fn forward(&self, compute: &Compute, map: Map) -> Map {
        let (isa, pool) = (compute.isa, &compute.pool);
        match self {
            Block::Plain(conv) => conv.apply(isa, pool, &map, true),
            Block::Fused { expand, project, skip } => {
                let out = project.apply(isa, pool, &expand.apply(isa, pool, &map, true), false);
                joined(out, map, *skip)
            }
            Block::Inverted { start, expand, middle, project, skip } => {
                let first = start.as_ref().map(|start| start.apply(isa, pool, &map, false));
                let mut inner = expand.apply(isa, pool, first.as_ref().unwrap_or(&map), true);
                if let Some(middle) = middle {
                    inner = middle.apply(isa, pool, &inner, true);
                }
                joined(project.apply(isa, pool, &inner, false), map, *skip)
            }
        }
    }
}

/// `out`, and the block's input added to it where it skips the block.
fn joined(mut out: Map, input: Map, skip: bool) -> Map {
    if skip {
        add(&mut out.data, &input.data);
    }
    out
}

fn narrow(conv: Conv, name: &str) -> Result<Conv, String> {
    if conv.outputs() <= MAX_CHANNELS {
        return Ok(conv);
    }
    Err(format!("tensor {name}.weight has {} channels, more than {MAX_CHANNELS}", conv.outputs()))
}

/// The convolution of each channel with the normalization after it, where the block has it.
fn depthwise(
    tensors: &mut Tensors,
    root: &str,
    part: &str,
    channels: usize,
    stride: usize,
) -> Result<Option<Depthwise>, String> {
    let (conv, norm) = (format!("{root}.{part}.conv"), format!("{root}.{part}.bn"));
    if tensors.shape(&format!("{conv}.weight")).is_none() {
        return Ok(None);
    }
    let Folded { weight, bias, inputs, kernel } = folded(tensors, "", &conv, &norm)?;
    if inputs != 1 || bias.len() != channels {
        return Err(format!("tensor {conv}.weight has {} windows for {channels} channels", bias.len() * inputs));
    }
    Ok(Some(Depthwise::new(&weight, bias, kernel, stride)))
}

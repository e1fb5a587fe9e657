//! Residual networks (He et al. 2015), as classifiers and as the eyes of DETR.
//!
//! Depths and widths are those of the tensors in the file, so one loader reads ResNet-18 to ResNet-152 under the names of
//! transformers and of timm. Batch normalization is folded into the convolutions when they are read.

use host_kernels::vision::{BatchNorm, Conv, Map, max_pool, mean_pool};
use serde_json::Value;

use super::layers::{Compute, Linear, add};
use crate::tensors::Tensors;

const EPSILON: f32 = 1e-5;
const MAX_STAGES: usize = 8;
const MAX_LAYERS: usize = 256;
const MAX_CHANNELS: usize = 1 << 14;

/// Whose names the tensors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    Transformers,
    Timm,
}

impl Naming {
    /// The names of the first convolution and its normalization.
    fn stem(self) -> (String, String) {
        match self {
            Self::Transformers => ("embedder.embedder.convolution".into(), "embedder.embedder.normalization".into()),
            Self::Timm => ("conv1".into(), "bn1".into()),
        }
    }

    /// Of convolution `index` in a layer; of the shortcut beside it where there is no index.
    fn part(self, stage: usize, layer: usize, index: Option<usize>) -> (String, String) {
        let of = |conv: String, norm: String| match self {
            Self::Transformers => {
                let place = format!("encoder.stages.{stage}.layers.{layer}");
                (format!("{place}.{conv}"), format!("{place}.{norm}"))
            }
            Self::Timm => {
                let place = format!("layer{}.{layer}", stage + 1);
                (format!("{place}.{conv}"), format!("{place}.{norm}"))
            }
        };
        match (self, index) {
            (Self::Transformers, Some(index)) => {
                of(format!("layer.{index}.convolution"), format!("layer.{index}.normalization"))
            }
            (Self::Transformers, None) => of("shortcut.convolution".into(), "shortcut.normalization".into()),
            (Self::Timm, Some(index)) => of(format!("conv{}", index + 1), format!("bn{}", index + 1)),
            (Self::Timm, None) => of("downsample.0".into(), "downsample.1".into()),
        }
    }
}

/// Where strides are, by `config.json`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Strides {
    /// On the first convolution of a bottleneck, not its second.
    in_bottleneck: bool,
    /// In the first stage too.
    in_first_stage: bool,
}

impl Strides {
    pub(super) fn parse(config: &Value) -> Result<Strides, String> {
        let flag = |key: &str| config.get(key).and_then(Value::as_bool).unwrap_or(false);
        match config.get("hidden_act").and_then(Value::as_str) {
            None | Some("relu") => {}
            Some(other) => return Err(format!("hidden_act is {other:.40?}; only relu is known")),
        }
        Ok(Strides {
            in_bottleneck: flag("downsample_in_bottleneck"),
            in_first_stage: flag("downsample_in_first_stage"),
        })
    }
}

/// The convolutions.
pub(super) struct Backbone {
    stem: Conv,
    stages: Vec<Vec<Residual>>,
}

struct Residual {
    convs: Vec<Conv>,
    shortcut: Option<Conv>,
}

impl Backbone {
    /// Reads what `tensors` has under `prefix`.
    pub(super) fn load(
        tensors: &mut Tensors,
        prefix: &str,
        naming: Naming,
        strides: Strides,
    ) -> Result<Backbone, String> {
        let (conv, norm) = naming.stem();
        let stem = convolution(tensors, prefix, &conv, &norm, Some(3), 2)?;
        let mut channels = stem.outputs();
        let mut stages = Vec::new();
        let exists = |tensors: &Tensors, stage, layer, index| {
            tensors.shape(&format!("{prefix}{}.weight", naming.part(stage, layer, index).0)).is_some()
        };
        while stages.len() < MAX_STAGES && exists(tensors, stages.len(), 0, Some(0)) {
            let stage = stages.len();
            let mut layers = Vec::new();
            while layers.len() < MAX_LAYERS && exists(tensors, stage, layers.len(), Some(0)) {
                let layer = layers.len();
                let stride = if layer == 0 && (stage > 0 || strides.in_first_stage) { 2 } else { 1 };
                let count = (0..3).take_while(|index| exists(tensors, stage, layer, Some(*index))).count();
                let strided = if count == 3 && !strides.in_bottleneck { 1 } else { 0 };
                let mut convs: Vec<Conv> = Vec::new();
                for index in 0..count {
                    let (conv, norm) = naming.part(stage, layer, Some(index));
                    let stride = if index == strided { stride } else { 1 };
                    let inputs = convs.last().map_or(channels, Conv::outputs);
                    convs.push(convolution(tensors, prefix, &conv, &norm, Some(inputs), stride)?);
                }
                let outputs = convs.last().map_or(channels, Conv::outputs);
                let shortcut = if exists(tensors, stage, layer, None) {
                    let (conv, norm) = naming.part(stage, layer, None);
                    Some(convolution(tensors, prefix, &conv, &norm, Some(channels), stride)?)
                } else {
                    None
                };
                let beside = shortcut.as_ref().map_or(channels, Conv::outputs);
                if beside != outputs || (shortcut.is_none() && stride != 1) {
                    return Err(format!("stage {stage} layer {layer} of {prefix} does not fit its shortcut"));
                }
                channels = outputs;
                layers.push(Residual { convs, shortcut });
            }
            stages.push(layers);
        }
        if stages.is_empty() {
            return Err(format!("{prefix}{} is missing", naming.part(0, 0, Some(0)).0));
        }
        Ok(Backbone { stem, stages })
    }

    /// Layers of each stage.
    pub(super) fn depths(&self) -> Vec<usize> {
        self.stages.iter().map(Vec::len).collect()
    }

    /// Channels of the result.
    pub(super) fn channels(&self) -> usize {
        let last = self.stages.iter().flatten().last().and_then(|layer| layer.convs.last());
        last.map_or(self.stem.outputs(), Conv::outputs)
    }

    /// Values that [`Self::forward`] holds at most for a picture of that size: what a layer sees, what goes beside it, and
    /// one convolution's result and the next one's.
    pub(super) fn peak(&self, height: usize, width: usize) -> usize {
        let (mut height, mut width) = self.stem.size(height, width);
        // The pool after the stem halves both.
        let mut peak = height * width * self.stem.outputs() * 5 / 4;
        (height, width) = (height.div_ceil(2), width.div_ceil(2));
        let mut seen = height * width * self.stem.outputs();
        for layer in self.stages.iter().flatten() {
            let beside = layer.shortcut.as_ref().map_or(0, |conv| {
                let (height, width) = conv.size(height, width);
                height * width * conv.outputs()
            });
            let mut before = 0;
            for conv in &layer.convs {
                (height, width) = conv.size(height, width);
                let result = height * width * conv.outputs();
                peak = peak.max(seen + beside + before + result);
                before = result;
            }
            seen = before;
        }
        peak
    }

    /// What the last stage sees; `check` is asked between layers.
    pub(super) fn forward<E>(
        &self,
        compute: &Compute,
        picture: &Map,
        check: impl Fn() -> Result<(), E>,
    ) -> Result<Map, E> {
        let (isa, pool) = (compute.isa, &compute.pool);
        let mut map = max_pool(pool, &self.stem.apply(isa, pool, picture, true), 3, 2, 1);
        for layer in self.stages.iter().flatten() {
            check()?;
            let beside = layer.shortcut.as_ref().map(|conv| conv.apply(isa, pool, &map, false));
            let mut inner: Option<Map> = None;
            for (index, conv) in layer.convs.iter().enumerate() {
                let relu = index + 1 < layer.convs.len();
                inner = Some(conv.apply(isa, pool, inner.as_ref().unwrap_or(&map), relu));
            }
            let mut sum = beside.unwrap_or(map);
            if let Some(inner) = inner {
                add(&mut sum.data, &inner.data);
            }
            // A NaN stays, so that broken weights are seen at the end.
            sum.data.iter_mut().for_each(|value| *value = if *value < 0.0 { 0.0 } else { *value });
            map = sum;
        }
        Ok(map)
    }
}

/// A convolution with the normalization after it, folded into one.
pub(super) struct Folded {
    /// Output, channel, row, column.
    pub(super) weight: Vec<f32>,
    /// One value for each output.
    pub(super) bias: Vec<f32>,
    /// Channels that an output sees.
    pub(super) inputs: usize,
    /// Pixels along each side of the window.
    pub(super) kernel: usize,
}

/// Reads the convolution `conv` and the normalization `norm` below `prefix`. The kernel's size is that of the file.
pub(super) fn folded(tensors: &mut Tensors, prefix: &str, conv: &str, norm: &str) -> Result<Folded, String> {
    let name = format!("{prefix}{conv}.weight");
    let shape = tensors.shape(&name).map(<[usize]>::to_vec).ok_or_else(|| format!("tensor {name} is missing"))?;
    let &[outputs, inputs, kernel, width] = &shape[..] else {
        return Err(format!("tensor {name} has the shape {shape:?}, not that of a convolution"));
    };
    let fits = kernel == width && [1, 3, 5, 7].contains(&kernel) && (1..=MAX_CHANNELS).contains(&outputs);
    if !fits || inputs == 0 {
        return Err(format!("tensor {name} has the shape {shape:?}, not that of a convolution that is read here"));
    }
    let mut weight = tensors.read(&name, &shape)?;
    let mut read = |part: &str| tensors.read(&format!("{prefix}{norm}.{part}"), &[outputs]);
    let (scale, shift) = (read("weight")?, read("bias")?);
    let (mean, variance) = (read("running_mean")?, read("running_var")?);
    let bias = BatchNorm::new(&scale, &shift, &mean, &variance, EPSILON).fold(&mut weight);
    Ok(Folded { weight, bias, inputs, kernel })
}

/// As [`folded`], ready to compute; `channels` is what is before it.
pub(super) fn convolution(
    tensors: &mut Tensors,
    prefix: &str,
    conv: &str,
    norm: &str,
    channels: Option<usize>,
    stride: usize,
) -> Result<Conv, String> {
    let Folded { weight, bias, inputs, kernel } = folded(tensors, prefix, conv, norm)?;
    if let Some(channels) = channels.filter(|channels| *channels != inputs) {
        return Err(format!("tensor {prefix}{conv}.weight sees {inputs} channels, what is before it has {channels}"));
    }
    Ok(Conv::new(&weight, bias, inputs, kernel, stride, kernel / 2))
}

/// `ResNetForImageClassification`.
pub(super) struct ResNet {
    backbone: Backbone,
    head: Linear,
}

impl ResNet {
    pub(super) fn load(tensors: &mut Tensors, config: &Value, labels: usize) -> Result<ResNet, String> {
        let backbone = Backbone::load(tensors, "resnet.", Naming::Transformers, Strides::parse(config)?)?;
        let depths: Option<Vec<usize>> =
            config.get("depths").and_then(|value| serde_json::from_value(value.clone()).ok());
        if let Some(depths) = depths.filter(|depths| *depths != backbone.depths()) {
            return Err(format!("config.json says depths {depths:?}, the weights have {:?}", backbone.depths()));
        }
        let head = Linear::load(tensors, "classifier.1", labels, backbone.channels())?;
        Ok(ResNet { backbone, head })
    }

    /// Values that a picture of that size holds at most.
    pub(super) fn peak(&self, height: usize, width: usize) -> usize {
        self.backbone.peak(height, width)
    }

    pub(super) fn logits<E>(
        &self,
        compute: &Compute,
        picture: &Map,
        check: impl Fn() -> Result<(), E>,
    ) -> Result<Vec<f32>, E> {
        let seen = self.backbone.forward(compute, picture, check)?;
        Ok(self.head.apply(compute, &mean_pool(&seen)))
    }
}

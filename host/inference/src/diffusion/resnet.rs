//! The residual block that the network of noise and the autoencoder share (He et al. 2016, with group norms).

use host_kernels::maps::{self, Pointwise};

use super::layers::{Compute, Conv, GroupNorm, Linear, Plane};
use crate::tensors::Tensors;

/// Two convolutions, and the time between them where the block knows of time.
pub(super) struct Resnet {
    first: (GroupNorm, Conv),
    time: Option<Linear>,
    second: (GroupNorm, Conv),
    shortcut: Option<Linear>,
}

/// What all residual blocks of a network have in common.
#[derive(Clone, Copy)]
pub(super) struct Residual {
    pub(super) groups: usize,
    pub(super) epsilon: f32,
    /// Values of the time's row; none where there is no time.
    pub(super) time: Option<usize>,
}

impl Resnet {
    pub(super) fn load(
        tensors: &mut Tensors,
        name: &str,
        inputs: usize,
        outputs: usize,
        of: Residual,
    ) -> Result<Resnet, String> {
        let part = |part: &str| format!("{name}.{part}");
        let shortcut = part("conv_shortcut");
        Ok(Resnet {
            first: (
                GroupNorm::load(tensors, &part("norm1"), inputs, of.groups, of.epsilon)?,
                Conv::load(tensors, &part("conv1"), outputs, inputs, 3)?,
            ),
            time: of.time.map(|width| Linear::load(tensors, &part("time_emb_proj"), outputs, width)).transpose()?,
            second: (
                GroupNorm::load(tensors, &part("norm2"), outputs, of.groups, of.epsilon)?,
                Conv::load(tensors, &part("conv2"), outputs, outputs, 3)?,
            ),
            shortcut: (inputs != outputs).then(|| Linear::load(tensors, &shortcut, outputs, inputs)).transpose()?,
        })
    }

    /// `time` has been through SiLU.
    pub(super) fn forward(&self, compute: &Compute, x: &Plane, time: &[f32]) -> Plane {
        let mut inner = self.first.1.forward(compute, &self.first.0.forward(compute, x, true));
        if let Some(layer) = &self.time {
            maps::add_to_rows(&compute.pool, &mut inner.data, &layer.forward(compute, time));
        }
        let mut out = self.second.1.forward(compute, &self.second.0.forward(compute, &inner, true));
        drop(inner);
        match &self.shortcut {
            Some(shortcut) => maps::add(&compute.pool, &mut out.data, &shortcut.forward(compute, &x.data)),
            None => maps::add(&compute.pool, &mut out.data, &x.data),
        }
        out
    }
}

/// Two layers with SiLU between them: what makes rows of times and conditions.
pub(super) struct TwoLayers(Linear, Linear);

impl TwoLayers {
    pub(super) fn load(
        tensors: &mut Tensors,
        names: [&str; 2],
        outputs: usize,
        inputs: usize,
    ) -> Result<TwoLayers, String> {
        let first = Linear::load(tensors, names[0], outputs, inputs)?;
        Ok(TwoLayers(first, Linear::load(tensors, names[1], outputs, outputs)?))
    }

    pub(super) fn forward(&self, compute: &Compute, x: &[f32]) -> Vec<f32> {
        let mut inner = self.0.forward(compute, x);
        maps::apply(compute.isa, &compute.pool, &mut inner, Pointwise::Silu);
        self.1.forward(compute, &inner)
    }
}

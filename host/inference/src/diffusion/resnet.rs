//! The residual block that the network of noise and the autoencoder share (He et al. 2016, with group norms).

use host_kernels::maps::{self, Map, Mode, Moments, Pointwise};

use super::layers::{Compute, Conv, GroupNorm, Linear, Plane, band_values, bands};
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
    pub(super) fn forward(&self, compute: &Compute, x: Plane, time: &[f32]) -> Plane {
        let time = self.time.as_ref().map(|layer| layer.forward(compute, time)).unwrap_or_default();
        let inner = self.first.1.forward_after(compute, &self.first.0, &x, &time);
        let mut out = match &self.shortcut {
            Some(shortcut) => {
                let out = x.with(shortcut.forward(compute, &x.data));
                drop(x);
                out
            }
            None => x,
        };
        self.second.1.after(compute, &self.second.0, &inner, &[], Mode::Add, &mut out);
        out
    }
}

impl Resnet {
    /// Channels of what it gives.
    pub(super) fn outputs(&self) -> usize {
        self.second.1.outputs()
    }

    /// Values that [`Self::forward`] holds at most, for a map of that size and so many channels, which is one of them.
    pub(super) fn peak(&self, size: (usize, usize), inputs: usize) -> usize {
        let maps = if self.shortcut.is_some() { 2 } else { 1 } * self.outputs() + inputs;
        size.0 * size.1 * maps + band_values(size, inputs.max(self.outputs()))
    }

    /// As [`Self::peak`] of [`Self::forward_enlarged`] for a map of `small` values that becomes one of that size and so
    /// many channels.
    pub(super) fn peak_enlarged(&self, small: usize, size: (usize, usize), channels: usize) -> usize {
        let bands = 2 * band_values(size, channels) + band_values(size, self.outputs());
        small + 2 * size.0 * size.1 * self.outputs() + bands
    }

    /// What [`Self::forward`] makes of `x` brought to the size `to` by `resize`, for blocks that know no time. The enlarged
    /// map never exists: its rows are computed when the norm looks at them and again when the convolution does.
    pub(super) fn forward_enlarged(&self, compute: &Compute, x: Plane, resize: &Conv, to: (usize, usize)) -> Plane {
        let (isa, pool) = (compute.isa, &compute.pool);
        let channels = resize.outputs();
        let row = to.1 * channels;
        let mut pixels = Vec::new();
        let mut moments = Moments::new(channels);
        for rows in bands(to.0, row) {
            resize.resizing_rows(compute, &x, to, rows, &mut pixels);
            moments.add(isa, pool, &pixels);
        }
        let (norm, conv) = &self.first;
        let factors = norm.factors_of(&moments);
        let mut inner = Plane::new(to.0, to.1, conv.outputs());
        let mut out = Plane::new(to.0, to.1, conv.outputs());
        let mut normal = Vec::new();
        for rows in bands(to.0, row) {
            let seen = conv.seen(&rows, to.0);
            resize.resizing_rows(compute, &x, to, seen.clone(), &mut pixels);
            normal.resize(pixels.len(), 0.0);
            factors.apply(isa, pool, &pixels, true, &mut normal);
            let map = Map { data: &normal, first: seen.start, height: to.0, width: to.1, channels };
            conv.rows(compute, map, rows.clone(), &[], Mode::Replace, &mut inner);
            let own = &pixels[(rows.start - seen.start) * row..(rows.end - seen.start) * row];
            let written = to.1 * out.channels;
            let target = &mut out.data[rows.start * written..rows.end * written];
            match &self.shortcut {
                Some(shortcut) => target.copy_from_slice(&shortcut.forward(compute, own)),
                None => target.copy_from_slice(own),
            }
        }
        drop((x, pixels, normal));
        self.second.1.after(compute, &self.second.0, &inner, &[], Mode::Add, &mut out);
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

//! Between pictures and the small maps that diffusion works on: diffusers' `AutoencoderKL`.

use serde_json::json;

use super::config::Config;
use super::layers::{Check, Compute, Conv, GroupNorm, Linear, Plane, band_values, halved};
use super::resnet::{Residual, Resnet};
use super::transformer::look;
use crate::AiError;
use crate::tensors::Tensors;

/// Its norms have an epsilon of their own that no configuration changes.
const EPSILON: f32 = 1e-6;
const CHANNELS: usize = 1 << 13;
/// Bytes of an enlarged map beyond which its rows are computed twice rather than kept: those of pictures above 512 by 512
/// with the usual widths, where this takes a third of the memory away and adds an eighth of the time.
const ENLARGED_BYTES: usize = 512 << 20;

/// The autoencoder.
pub(super) struct Vae {
    encoder: Half,
    decoder: Half,
    /// Layers between a half and the latent, where they exist.
    after_encoder: Option<Linear>,
    before_decoder: Option<Linear>,
    latent: usize,
    halvings: usize,
    scale: f32,
    shift: f32,
}

/// One direction.
struct Half {
    first: Conv,
    blocks: Vec<Block>,
    middle: (Resnet, Option<Look>, Resnet),
    last: (GroupNorm, Conv),
}

struct Block {
    resnets: Vec<Resnet>,
    resize: Option<Conv>,
}

/// Attention of one head over all pixels.
struct Look {
    norm: GroupNorm,
    queries: Linear,
    keys: Linear,
    values: Linear,
    out: Linear,
}

impl Vae {
    pub(super) fn load(config: &Config, tensors: &mut Tensors) -> Result<Vae, String> {
        config.only("act_fn", &[json!("silu")])?;
        for (key, block) in [("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")] {
            if let Some(other) = config.names(key)?.iter().find(|name| *name != block) {
                return Err(config.fault(format_args!("{key} has {other:.40?}; known is {block}")));
            }
        }
        if config.size("in_channels", Some(3), 16)? != 3 || config.size("out_channels", Some(3), 16)? != 3 {
            return Err(config.fault("only pictures of three colours are known"));
        }
        let channels = config.list("block_out_channels", CHANNELS)?;
        let layers = config.size("layers_per_block", Some(1), 16)?;
        let latent = config.size("latent_channels", Some(4), 64)?;
        let groups = config.size("norm_num_groups", Some(32), CHANNELS)?;
        let looks = config.flag("mid_block_add_attention", true)?;
        let of = Residual { groups, epsilon: EPSILON, time: None };
        let pixelwise =
            |tensors: &mut Tensors, key: &str, name: &str, width: usize| -> Result<Option<Linear>, String> {
                config.flag(key, true)?.then(|| Linear::load(tensors, name, width, width)).transpose()
            };
        let scale = config.number("scaling_factor", Some(0.18215))?;
        if !(1e-3..1e3).contains(&scale) {
            return Err(config.fault(format_args!("scaling_factor is {scale}")));
        }
        let named = |error: String| config.fault(error);
        Ok(Vae {
            encoder: Half::encoder(tensors, &channels, layers, 2 * latent, of, looks).map_err(named)?,
            decoder: Half::decoder(tensors, &channels, layers + 1, latent, of, looks).map_err(named)?,
            after_encoder: pixelwise(tensors, "use_quant_conv", "quant_conv", 2 * latent)?,
            before_decoder: pixelwise(tensors, "use_post_quant_conv", "post_quant_conv", latent)?,
            latent,
            halvings: channels.len() - 1,
            scale: scale as f32,
            shift: config.number("shift_factor", Some(0.0))? as f32,
        })
    }

    /// Channels of a latent.
    pub(super) fn latent(&self) -> usize {
        self.latent
    }

    /// Pixels of a picture along the side of one of a latent.
    pub(super) fn factor(&self) -> usize {
        1 << self.halvings
    }

    /// What diffusion works on, from what the encoder gives.
    pub(super) fn scaled(&self, mut latent: Plane) -> Plane {
        latent.data.iter_mut().for_each(|value| *value = (*value - self.shift) * self.scale);
        latent
    }

    /// What the decoder takes, from what diffusion works on.
    pub(super) fn unscaled(&self, mut latent: Plane) -> Plane {
        latent.data.iter_mut().for_each(|value| *value = *value / self.scale + self.shift);
        latent
    }

    /// The picture of a latent: three channels from -1 to 1, hardly beyond. `check` is asked between the layers whether
    /// to go on.
    ///
    /// # Errors
    /// What `check` says.
    pub(super) fn decode(&self, compute: &Compute, latent: &Plane, check: Check<'_>) -> Result<Plane, AiError> {
        self.decode_keeping(compute, latent, ENLARGED_BYTES, check)
    }

    fn decode_keeping(
        &self,
        compute: &Compute,
        latent: &Plane,
        most: usize,
        check: Check<'_>,
    ) -> Result<Plane, AiError> {
        match &self.before_decoder {
            Some(layer) => {
                let latent = latent.with(layer.forward(compute, &latent.data));
                self.decoder.up(compute, &latent, most, check)
            }
            None => self.decoder.up(compute, latent, most, check),
        }
    }

    /// Values that [`Self::decode`] holds at most, for a latent of that size.
    pub(super) fn decode_peak(&self, size: (usize, usize)) -> usize {
        self.decoder.up_peak(size, ENLARGED_BYTES) + 2 * size.0 * size.1 * self.latent
    }

    /// Values that [`Self::encode`] holds at most, for a picture of that size, which is one of them.
    pub(super) fn encode_peak(&self, size: (usize, usize)) -> usize {
        self.encoder.down_peak(size) + 3 * size.0 * size.1
    }

    /// Mean and logarithm of the variance of a picture's latent. `check` as in [`Self::decode`].
    ///
    /// # Errors
    /// What `check` says.
    pub(super) fn encode(
        &self,
        compute: &Compute,
        picture: &Plane,
        check: Check<'_>,
    ) -> Result<(Plane, Plane), AiError> {
        let mut moments = self.encoder.down(compute, picture, check)?;
        if let Some(layer) = &self.after_encoder {
            moments.data = layer.forward(compute, &moments.data);
        }
        let mut logarithm = moments.part(self.latent..2 * self.latent);
        logarithm.data.iter_mut().for_each(|value| *value = value.clamp(-30.0, 20.0));
        Ok((moments.part(0..self.latent), logarithm))
    }
}

impl Half {
    fn encoder(
        tensors: &mut Tensors,
        channels: &[usize],
        layers: usize,
        outputs: usize,
        of: Residual,
        looks: bool,
    ) -> Result<Half, String> {
        let last = channels.len() - 1;
        let blocks = (0..=last).map(|at| {
            let name = format!("encoder.down_blocks.{at}");
            let resize = (at < last).then(|| format!("{name}.downsamplers.0.conv"));
            Block::load(tensors, &name, [channels[at.saturating_sub(1)], channels[at]], layers, of, resize)
        });
        let blocks = blocks.collect::<Result<_, String>>()?;
        Half::load(tensors, "encoder", [3, channels[0], channels[last], channels[last], outputs], blocks, of, looks)
    }

    fn decoder(
        tensors: &mut Tensors,
        channels: &[usize],
        layers: usize,
        inputs: usize,
        of: Residual,
        looks: bool,
    ) -> Result<Half, String> {
        let last = channels.len() - 1;
        let blocks = (0..=last).map(|at| {
            let name = format!("decoder.up_blocks.{at}");
            let resize = (at < last).then(|| format!("{name}.upsamplers.0.conv"));
            let before = channels[(last + 1 - at).min(last)];
            Block::load(tensors, &name, [before, channels[last - at]], layers, of, resize)
        });
        let blocks = blocks.collect::<Result<_, String>>()?;
        Half::load(tensors, "decoder", [inputs, channels[last], channels[last], channels[0], 3], blocks, of, looks)
    }

    /// `widths`: of the input, after the first layer, in the middle, before the last layer, of the output.
    fn load(
        tensors: &mut Tensors,
        name: &str,
        widths: [usize; 5],
        blocks: Vec<Block>,
        of: Residual,
        looks: bool,
    ) -> Result<Half, String> {
        let [inputs, first, middle, last, outputs] = widths;
        let part = |part: &str| format!("{name}.{part}");
        let look = looks.then(|| Look::load(tensors, &part("mid_block.attentions.0"), middle, of));
        Ok(Half {
            middle: (
                Resnet::load(tensors, &part("mid_block.resnets.0"), middle, middle, of)?,
                look.transpose()?,
                Resnet::load(tensors, &part("mid_block.resnets.1"), middle, middle, of)?,
            ),
            first: Conv::load(tensors, &part("conv_in"), first, inputs, 3)?,
            blocks,
            last: (
                GroupNorm::load(tensors, &part("conv_norm_out"), last, of.groups, of.epsilon)?,
                Conv::load(tensors, &part("conv_out"), outputs, last, 3)?,
            ),
        })
    }

    fn down(&self, compute: &Compute, x: &Plane, check: Check<'_>) -> Result<Plane, AiError> {
        let mut map = self.first.forward(compute, x);
        for block in &self.blocks {
            for resnet in &block.resnets {
                check()?;
                map = resnet.forward(compute, map, &[]);
            }
            if let Some(resize) = &block.resize {
                map = resize.halving(compute, &map, 0);
            }
        }
        map = self.middle(compute, map);
        Ok(self.last.1.forward_after(compute, &self.last.0, &map, &[]))
    }

    /// Enlarged maps of more than `most` bytes are not kept.
    fn up(&self, compute: &Compute, x: &Plane, most: usize, check: Check<'_>) -> Result<Plane, AiError> {
        let mut map = self.middle(compute, self.first.forward(compute, x));
        let mut enlarging: Option<&Conv> = None;
        for block in &self.blocks {
            for resnet in &block.resnets {
                check()?;
                let to = (2 * map.height, 2 * map.width);
                map = match enlarging.take() {
                    Some(resize) if to.0 * to.1 * resize.outputs() * size_of::<f32>() > most => {
                        resnet.forward_enlarged(compute, map, resize, to)
                    }
                    Some(resize) => resnet.forward(compute, resize.resizing(compute, &map, to), &[]),
                    None => resnet.forward(compute, map, &[]),
                };
            }
            enlarging = block.resize.as_ref();
        }
        Ok(self.last.1.forward_after(compute, &self.last.0, &map, &[]))
    }

    /// Values that [`Self::down`] holds at most beside what it is given.
    fn down_peak(&self, mut size: (usize, usize)) -> usize {
        let mut channels = self.first.outputs();
        let mut peak = size.0 * size.1 * channels;
        for block in &self.blocks {
            for resnet in &block.resnets {
                peak = peak.max(resnet.peak(size, channels));
                channels = resnet.outputs();
            }
            if let Some(resize) = &block.resize {
                let half = halved(size, 0);
                peak = peak.max(size.0 * size.1 * channels + half.0 * half.1 * resize.outputs());
                (size, channels) = (half, resize.outputs());
            }
        }
        peak.max(self.middle_peak(size, channels))
    }

    /// Values that [`Self::up`] holds at most beside what it is given.
    fn up_peak(&self, mut size: (usize, usize), most: usize) -> usize {
        let mut channels = self.first.outputs();
        let mut peak = self.middle_peak(size, channels);
        let mut enlarging: Option<&Conv> = None;
        for block in &self.blocks {
            for resnet in &block.resnets {
                if let Some(resize) = enlarging.take() {
                    let (small, to, wide) = (size.0 * size.1 * channels, (2 * size.0, 2 * size.1), resize.outputs());
                    let enlarged = to.0 * to.1 * wide;
                    let held = if enlarged * size_of::<f32>() > most {
                        resnet.peak_enlarged(small, to, wide)
                    } else {
                        (small + enlarged).max(resnet.peak(to, wide))
                    };
                    (peak, size) = (peak.max(held), to);
                } else {
                    peak = peak.max(resnet.peak(size, channels));
                }
                channels = resnet.outputs();
            }
            enlarging = block.resize.as_ref();
        }
        peak.max(size.0 * size.1 * (channels + self.last.1.outputs()) + band_values(size, channels))
    }

    fn middle_peak(&self, size: (usize, usize), channels: usize) -> usize {
        // Attention has the map, its queries, keys and values, and what it saw.
        let look = if self.middle.1.is_some() { 5 * size.0 * size.1 * channels } else { 0 };
        look.max(self.middle.0.peak(size, channels)).max(self.middle.2.peak(size, channels))
    }

    fn middle(&self, compute: &Compute, map: Plane) -> Plane {
        let mut map = self.middle.0.forward(compute, map, &[]);
        if let Some(look) = &self.middle.1 {
            map = look.forward(compute, map);
        }
        self.middle.2.forward(compute, map, &[])
    }
}

impl Block {
    fn load(
        tensors: &mut Tensors,
        name: &str,
        [inputs, outputs]: [usize; 2],
        layers: usize,
        of: Residual,
        resize: Option<String>,
    ) -> Result<Block, String> {
        let resnets = (0..layers).map(|at| {
            let inputs = if at == 0 { inputs } else { outputs };
            Resnet::load(tensors, &format!("{name}.resnets.{at}"), inputs, outputs, of)
        });
        let resnets = resnets.collect::<Result<_, String>>()?;
        let resize = resize.map(|name| Conv::load(tensors, &name, outputs, outputs, 3)).transpose()?;
        Ok(Block { resnets, resize })
    }
}

impl Look {
    /// Early checkpoints name the layers otherwise.
    fn load(tensors: &mut Tensors, name: &str, channels: usize, of: Residual) -> Result<Look, String> {
        let early = tensors.shape(&format!("{name}.query.weight")).is_some();
        let names = if early { ["query", "key", "value", "proj_attn"] } else { ["to_q", "to_k", "to_v", "to_out.0"] };
        let [queries, keys, values, out] =
            names.map(|layer| Linear::load(tensors, &format!("{name}.{layer}"), channels, channels));
        Ok(Look {
            norm: GroupNorm::load(tensors, &format!("{name}.group_norm"), channels, of.groups, of.epsilon)?,
            queries: queries?,
            keys: keys?,
            values: values?,
            out: out?,
        })
    }

    fn forward(&self, compute: &Compute, mut x: Plane) -> Plane {
        let normal = self.norm.forward(compute, &x).data;
        let [queries, keys, values] =
            [&self.queries, &self.keys, &self.values].map(|layer| layer.forward(compute, &normal));
        drop(normal);
        let seen = look(compute, [&queries, &keys, &values], x.channels, 1);
        self.out.add_to(compute, &seen, &mut x.data);
        x
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::path::Path;

    use super::*;
    use crate::diffusion::files::Parts;

    #[test]
    fn rows_computed_twice_make_the_same_picture() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/diffusion/sd21");
        let parts = Parts::open(&folder).unwrap();
        let vae = Vae::load(&parts.config("vae").unwrap(), &mut parts.tensors("vae").unwrap()).unwrap();
        let compute = Compute::new(NonZeroUsize::MIN).unwrap();
        let mut latent = Plane::new(13, 10, 4);
        latent.data.iter_mut().enumerate().for_each(|(at, value)| *value = (0.7 * at as f32).sin());
        let decode = |most| vae.decode_keeping(&compute, &latent, most, &|| Ok(())).unwrap();
        let (kept, twice) = (decode(usize::MAX), decode(0));
        assert_eq!((kept.height, kept.width, kept.channels), (26, 20, 3));
        for (kept, twice) in kept.data.iter().zip(&twice.data) {
            // The norm's sums are added up in another order.
            assert!((kept - twice).abs() < 1e-5, "{kept} {twice}");
        }
    }
}

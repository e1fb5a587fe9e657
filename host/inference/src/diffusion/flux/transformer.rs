//! FLUX's network: a transformer over the tokens of text and picture together (Esser et al. 2024, and as published with
//! FLUX.1): first blocks with weights of their own for each, then blocks that treat all tokens alike.

use host_kernels::encoder::Activation;
use host_kernels::maps::{self, Pointwise};
use serde_json::json;

use super::super::config::Config;
use super::super::layers::{Check, Compute, Linear};
use super::super::resnet::TwoLayers;
use super::super::time;
use super::super::transformer::look;
use crate::AiError;
use crate::tensors::Tensors;

const EPSILON: f32 = 1e-6;
/// Waves of a time.
const WAVES: usize = 256;

/// The network.
pub(super) struct Transformer {
    picture: Linear,
    text: Linear,
    time: TwoLayers,
    whole: TwoLayers,
    guidance: Option<TwoLayers>,
    pairs: Vec<Pair>,
    singles: Vec<Single>,
    last: (Linear, Linear),
    heads: usize,
    width: usize,
    axes: Vec<usize>,
    pub(super) sizes: Sizes,
}

/// What goes in and comes out.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    /// Values of a token of the picture.
    pub(super) picture: usize,
    /// Values of a token of the text.
    pub(super) text: usize,
    /// Values of the row for the whole text.
    pub(super) whole: usize,
}

/// Queries, keys and values, the first two normalized.
struct Look {
    products: [Linear; 3],
    norms: [Vec<f32>; 2],
}

/// One side of a block that treats text and picture apart.
struct Side {
    modulation: Linear,
    look: Look,
    out: Linear,
    wide: Linear,
    narrow: Linear,
}

struct Pair {
    picture: Side,
    text: Side,
}

struct Single {
    modulation: Linear,
    look: Look,
    wide: Linear,
    out: Linear,
}

/// What is the same in each block of a step.
struct Step<'a> {
    /// The row of time and text, through SiLU.
    row: &'a [f32],
    /// For each token and pair of values of a head, cosine and sine of its angle.
    turns: &'a [(f32, f32)],
}

impl Transformer {
    pub(super) fn load(config: &Config, tensors: &mut Tensors) -> Result<Transformer, String> {
        config.only("patch_size", &[json!(1)])?;
        let (heads, width) =
            (config.size("num_attention_heads", None, 256)?, config.size("attention_head_dim", None, 1 << 10)?);
        let axes = config.list("axes_dims_rope", 1 << 10)?;
        if axes.len() != 3 || axes.iter().sum::<usize>() != width || axes.iter().any(|axis| axis % 2 == 1) {
            return Err(
                config.fault(format_args!("axes_dims_rope {axes:?} are no three even parts of a head of {width}"))
            );
        }
        let inner = heads * width;
        let sizes = Sizes {
            picture: config.size("in_channels", None, 1 << 10)?,
            text: config.size("joint_attention_dim", None, 1 << 14)?,
            whole: config.size("pooled_projection_dim", None, 1 << 14)?,
        };
        if config.size("out_channels", Some(sizes.picture), 1 << 10)? != sizes.picture {
            return Err(config.fault("out_channels differs from in_channels"));
        }
        let (pairs, singles) = (config.size("num_layers", None, 256)?, config.size("num_single_layers", None, 256)?);
        let t = tensors;
        let two = |t: &mut Tensors, name: &str, inputs: usize| {
            let names = [1, 2].map(|at| format!("time_text_embed.{name}.linear_{at}"));
            TwoLayers::load(t, [&names[0], &names[1]], inner, inputs)
        };
        let guided = config.flag("guidance_embeds", false)?;
        Ok(Transformer {
            picture: Linear::load(t, "x_embedder", inner, sizes.picture)?,
            text: Linear::load(t, "context_embedder", inner, sizes.text)?,
            time: two(t, "timestep_embedder", WAVES)?,
            whole: two(t, "text_embedder", sizes.whole)?,
            guidance: guided.then(|| two(t, "guidance_embedder", WAVES)).transpose()?,
            pairs: (0..pairs).map(|at| Pair::load(t, at, inner, width)).collect::<Result<_, _>>()?,
            singles: (0..singles).map(|at| Single::load(t, at, inner, width)).collect::<Result<_, _>>()?,
            last: (
                Linear::load(t, "norm_out.linear", 2 * inner, inner)?,
                Linear::load(t, "proj_out", sizes.picture, inner)?,
            ),
            heads,
            width,
            axes,
            sizes,
        })
    }

    pub(super) fn knows_guidance(&self) -> bool {
        self.guidance.is_some()
    }

    /// Values that [`Self::forward`] holds at most for so many tokens of a picture and of a text: in a block of one stream
    /// its rows, normalized, four times as wide, as queries, keys and values, what they saw, both beside each other and
    /// their product.
    pub(super) fn peak(&self, picture: usize, text: usize) -> usize {
        let inner = self.heads * self.width;
        (picture + text) * (16 * inner + self.width) + text * self.sizes.text + 2 * picture * self.sizes.picture
    }

    /// The velocity of each token of a picture of `size` tokens high and wide, at a time from 1, noise, to 0.
    pub(super) fn forward(
        &self,
        compute: &Compute,
        tokens: &[f32],
        size: (usize, usize),
        (time, guidance): (f32, f32),
        (text, whole): (&[f32], &[f32]),
        check: Check<'_>,
    ) -> Result<Vec<f32>, AiError> {
        let waves = |value: f32| time::waves(value * 1000.0, WAVES, true, 0.0);
        let mut row = self.time.forward(compute, &waves(time));
        if let Some(layers) = &self.guidance {
            maps::add(&compute.pool, &mut row, &layers.forward(compute, &waves(guidance)));
        }
        maps::add(&compute.pool, &mut row, &self.whole.forward(compute, whole));
        maps::apply(compute.isa, &compute.pool, &mut row, Pointwise::Silu);
        let mut picture = self.picture.forward(compute, tokens);
        let mut text = self.text.forward(compute, text);
        let inner = self.heads * self.width;
        let turns = self.turns(text.len() / inner, size);
        let step = Step { row: &row, turns: &turns };
        for pair in &self.pairs {
            check()?;
            pair.forward(compute, &mut picture, &mut text, self.heads, &step);
        }
        let begin = text.len();
        text.extend_from_slice(&picture);
        drop(picture);
        for single in &self.singles {
            check()?;
            single.forward(compute, &mut text, self.heads, &step);
        }
        let modulation = self.last.0.forward(compute, &row);
        let (scale, shift) = modulation.split_at(inner);
        let out = modulated(compute, &text[begin..], shift, scale);
        Ok(self.last.1.forward(compute, &out))
    }

    /// Text lies at the origin; the picture's tokens at their rows and columns.
    fn turns(&self, text: usize, (height, width): (usize, usize)) -> Vec<(f32, f32)> {
        let mut turns = Vec::with_capacity((text + height * width) * self.width / 2);
        let mut token = |place: [usize; 3]| {
            for (axis, place) in self.axes.iter().zip(place) {
                for at in 0..axis / 2 {
                    let angle = place as f64 * 10_000_f64.powf(-2.0 * at as f64 / *axis as f64);
                    turns.push((angle.cos() as f32, angle.sin() as f32));
                }
            }
        };
        (0..text).for_each(|_| token([0, 0, 0]));
        for y in 0..height {
            (0..width).for_each(|x| token([0, y, x]));
        }
        turns
    }
}

/// `LayerNorm(x) (1 + scale) + shift`.
fn modulated(compute: &Compute, x: &[f32], shift: &[f32], scale: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    maps::layer_norm(compute.isa, &compute.pool, x, scale.len(), &[], &[], EPSILON, &mut out);
    maps::scale_and_shift(&compute.pool, &mut out, scale, shift);
    out
}

/// `x += gate · more`.
fn add_gated(compute: &Compute, x: &mut [f32], mut more: Vec<f32>, gate: &[f32]) {
    let scale: Vec<f32> = gate.iter().map(|gate| gate - 1.0).collect();
    maps::scale_and_shift(&compute.pool, &mut more, &scale, &vec![0.0; gate.len()]);
    maps::add(&compute.pool, x, &more);
}

impl Look {
    fn load(t: &mut Tensors, names: [String; 5], inner: usize, width: usize) -> Result<Look, String> {
        let [q, k, v, norm_q, norm_k] = names;
        Ok(Look {
            products: [
                Linear::load(t, &q, inner, inner)?,
                Linear::load(t, &k, inner, inner)?,
                Linear::load(t, &v, inner, inner)?,
            ],
            norms: [t.read(&format!("{norm_q}.weight"), &[width])?, t.read(&format!("{norm_k}.weight"), &[width])?],
        })
    }

    /// Queries, keys and values of `rows`, whose tokens turn by `turns`.
    fn project(&self, compute: &Compute, rows: &[f32], heads: usize, turns: &[(f32, f32)]) -> [Vec<f32>; 3] {
        let [mut queries, mut keys, values] = [0, 1, 2].map(|at| self.products[at].forward(compute, rows));
        for (values, norm) in [&mut queries, &mut keys].into_iter().zip(&self.norms) {
            let mut normal = vec![0.0; values.len()];
            maps::rms_norm(&compute.pool, values, norm, EPSILON, &mut normal);
            let half = norm.len() / 2;
            for (token, turns) in normal.chunks_exact_mut(heads * norm.len()).zip(turns.chunks_exact(half)) {
                for head in token.chunks_exact_mut(norm.len()) {
                    for (pair, (cosine, sine)) in head.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
                        *pair = [pair[0] * cosine - pair[1] * sine, pair[1] * cosine + pair[0] * sine];
                    }
                }
            }
            *values = normal;
        }
        [queries, keys, values]
    }
}

impl Side {
    fn load(t: &mut Tensors, block: &str, text: bool, inner: usize, width: usize) -> Result<Side, String> {
        let suffix = if text { "_context" } else { "" };
        let names = if text {
            ["add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q", "norm_added_k"]
        } else {
            ["to_q", "to_k", "to_v", "norm_q", "norm_k"]
        };
        let out = if text { "to_add_out" } else { "to_out.0" };
        Ok(Side {
            modulation: Linear::load(t, &format!("{block}.norm1{suffix}.linear"), 6 * inner, inner)?,
            look: Look::load(t, names.map(|name| format!("{block}.attn.{name}")), inner, width)?,
            out: Linear::load(t, &format!("{block}.attn.{out}"), inner, inner)?,
            wide: Linear::load(t, &format!("{block}.ff{suffix}.net.0.proj"), 4 * inner, inner)?,
            narrow: Linear::load(t, &format!("{block}.ff{suffix}.net.2"), inner, 4 * inner)?,
        })
    }

    fn forward_wide(&self, compute: &Compute, rows: &mut [f32], parts: &[&[f32]]) {
        let mut wide = self.wide.forward(compute, &modulated(compute, rows, parts[3], parts[4]));
        maps::apply(compute.isa, &compute.pool, &mut wide, Pointwise::Of(Activation::GeluTanh));
        add_gated(compute, rows, self.narrow.forward(compute, &wide), parts[5]);
    }
}

impl Pair {
    fn load(t: &mut Tensors, at: usize, inner: usize, width: usize) -> Result<Pair, String> {
        let block = format!("transformer_blocks.{at}");
        Ok(Pair {
            picture: Side::load(t, &block, false, inner, width)?,
            text: Side::load(t, &block, true, inner, width)?,
        })
    }

    fn forward(&self, compute: &Compute, picture: &mut [f32], text: &mut [f32], heads: usize, step: &Step<'_>) {
        let inner = self.picture.out.outputs();
        let modulations = [&self.text, &self.picture].map(|side| side.modulation.forward(compute, step.row));
        let [of_text, of_picture] = [0, 1].map(|at| modulations[at].chunks_exact(inner).collect::<Vec<_>>());
        let (text_turns, picture_turns) = step.turns.split_at(text.len() / heads / 2);
        let normal = modulated(compute, text, of_text[0], of_text[1]);
        let [mut queries, mut keys, mut values] = self.text.look.project(compute, &normal, heads, text_turns);
        let normal = modulated(compute, picture, of_picture[0], of_picture[1]);
        let more = self.picture.look.project(compute, &normal, heads, picture_turns);
        for (all, more) in [&mut queries, &mut keys, &mut values].into_iter().zip(more) {
            all.extend_from_slice(&more);
        }
        let seen = look(compute, [&queries, &keys, &values], inner, heads);
        let (by_text, by_picture) = seen.split_at(text.len());
        add_gated(compute, picture, self.picture.out.forward(compute, by_picture), of_picture[2]);
        self.picture.forward_wide(compute, picture, &of_picture);
        add_gated(compute, text, self.text.out.forward(compute, by_text), of_text[2]);
        self.text.forward_wide(compute, text, &of_text);
    }
}

impl Single {
    fn load(t: &mut Tensors, at: usize, inner: usize, width: usize) -> Result<Single, String> {
        let block = format!("single_transformer_blocks.{at}");
        let names = ["to_q", "to_k", "to_v", "norm_q", "norm_k"].map(|name| format!("{block}.attn.{name}"));
        Ok(Single {
            modulation: Linear::load(t, &format!("{block}.norm.linear"), 3 * inner, inner)?,
            look: Look::load(t, names, inner, width)?,
            wide: Linear::load(t, &format!("{block}.proj_mlp"), 4 * inner, inner)?,
            out: Linear::load(t, &format!("{block}.proj_out"), inner, 5 * inner)?,
        })
    }

    fn forward(&self, compute: &Compute, rows: &mut [f32], heads: usize, step: &Step<'_>) {
        let inner = self.out.outputs();
        let modulation = self.modulation.forward(compute, step.row);
        let parts: Vec<&[f32]> = modulation.chunks_exact(inner).collect();
        let normal = modulated(compute, rows, parts[0], parts[1]);
        let mut wide = self.wide.forward(compute, &normal);
        maps::apply(compute.isa, &compute.pool, &mut wide, Pointwise::Of(Activation::GeluTanh));
        let [queries, keys, values] = self.look.project(compute, &normal, heads, step.turns);
        let seen = look(compute, [&queries, &keys, &values], inner, heads);
        let mut both = Vec::with_capacity(seen.len() + wide.len());
        for (seen, wide) in seen.chunks_exact(inner).zip(wide.chunks_exact(4 * inner)) {
            both.extend_from_slice(seen);
            both.extend_from_slice(wide);
        }
        add_gated(compute, rows, self.out.forward(compute, &both), parts[2]);
    }
}

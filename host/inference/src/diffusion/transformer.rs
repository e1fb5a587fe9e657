//! Where the network of noise looks at the whole picture and at the text.

use host_kernels::encoder::Activation;
use host_kernels::linear::Rows;
use host_kernels::maps::{self, Attention, Pointwise};

use super::layers::{Compute, GroupNorm, LayerNorm, Linear, Plane};
use crate::tensors::Tensors;

/// Transformer blocks over the pixels of a map.
pub(super) struct Transformer {
    norm: GroupNorm,
    before: Linear,
    blocks: Vec<Block>,
    after: Linear,
    heads: usize,
}

/// The sizes of one.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) channels: usize,
    pub(super) heads: usize,
    pub(super) layers: usize,
    /// Values of a token of text.
    pub(super) text: usize,
    pub(super) groups: usize,
}

struct Block {
    itself: (LayerNorm, Look),
    text: (LayerNorm, Look),
    wide: (LayerNorm, Linear, Linear),
}

/// Attention, its four products.
struct Look {
    queries: Linear,
    keys: Linear,
    values: Linear,
    out: Linear,
}

/// Pixels that are widened at a time: the eightfold rows of a whole map would be its largest buffer by far.
const ROWS: usize = 512;
/// Layer norms of these blocks have the framework's epsilon, and the group norm before them one of its own; no
/// configuration changes either.
const EPSILON: f32 = 1e-5;
const GROUP_EPSILON: f32 = 1e-6;

impl Transformer {
    pub(super) fn load(tensors: &mut Tensors, name: &str, sizes: Sizes) -> Result<Transformer, String> {
        let Sizes { channels, heads, layers, text, groups } = sizes;
        if !channels.is_multiple_of(heads) {
            return Err(format!("attention_head_dim: {heads} heads do not divide the {channels} channels of {name}"));
        }
        let blocks =
            (0..layers).map(|at| Block::load(tensors, &format!("{name}.transformer_blocks.{at}"), channels, text));
        Ok(Transformer {
            blocks: blocks.collect::<Result<_, String>>()?,
            norm: GroupNorm::load(tensors, &format!("{name}.norm"), channels, groups, GROUP_EPSILON)?,
            before: Linear::load(tensors, &format!("{name}.proj_in"), channels, channels)?,
            after: Linear::load(tensors, &format!("{name}.proj_out"), channels, channels)?,
            heads,
        })
    }

    /// Values that [`Self::forward`] holds at most, for a map of so many pixels: the map and its rows, normalized, as
    /// queries, keys and values, and what they saw; then a part of them four times as wide, gated.
    pub(super) fn peak(&self, pixels: usize) -> usize {
        let channels = self.after.outputs();
        (7 * pixels + 14 * ROWS.min(pixels)) * channels
    }

    /// `text` has a row for each token.
    pub(super) fn forward(&self, compute: &Compute, mut x: Plane, text: &[f32]) -> Plane {
        let mut rows = self.before.forward(compute, &self.norm.forward(compute, &x).data);
        for block in &self.blocks {
            block.forward(compute, &mut rows, text, self.heads);
        }
        self.after.add_to(compute, &rows, &mut x.data);
        x
    }
}

impl Block {
    fn load(tensors: &mut Tensors, name: &str, channels: usize, text: usize) -> Result<Block, String> {
        let part = |part: &str| format!("{name}.{part}");
        let inner = 4 * channels;
        Ok(Block {
            itself: (
                LayerNorm::load(tensors, &part("norm1"), channels, EPSILON)?,
                Look::load(tensors, &part("attn1"), channels, channels)?,
            ),
            text: (
                LayerNorm::load(tensors, &part("norm2"), channels, EPSILON)?,
                Look::load(tensors, &part("attn2"), channels, text)?,
            ),
            wide: (
                LayerNorm::load(tensors, &part("norm3"), channels, EPSILON)?,
                Linear::load(tensors, &part("ff.net.0.proj"), 2 * inner, channels)?,
                Linear::load(tensors, &part("ff.net.2"), channels, inner)?,
            ),
        })
    }

    fn forward(&self, compute: &Compute, rows: &mut [f32], text: &[f32], heads: usize) {
        let normal = self.itself.0.forward(compute, rows);
        self.itself.1.forward(compute, &normal, &normal, heads, rows);
        let normal = self.text.0.forward(compute, rows);
        self.text.1.forward(compute, &normal, text, heads, rows);
        let (norm, wide, narrow) = &self.wide;
        let channels = narrow.outputs();
        let width = wide.outputs() / 2;
        let (mut both, mut gated) = (Vec::new(), Vec::new());
        for rows in rows.chunks_mut(ROWS * channels) {
            let count = rows.len() / channels;
            both.resize(count * 2 * width, 0.0);
            gated.resize(count * width, 0.0);
            wide.write(compute, &norm.forward(compute, rows), &mut both);
            maps::gate(compute.isa, &compute.pool, &both, width, Pointwise::Of(Activation::Gelu), &mut gated);
            narrow.add_to(compute, &gated, rows);
        }
    }
}

impl Look {
    fn load(tensors: &mut Tensors, name: &str, channels: usize, seen: usize) -> Result<Look, String> {
        Ok(Look {
            queries: Linear::load_plain(tensors, &format!("{name}.to_q"), channels, channels)?,
            keys: Linear::load_plain(tensors, &format!("{name}.to_k"), channels, seen)?,
            values: Linear::load_plain(tensors, &format!("{name}.to_v"), channels, seen)?,
            out: Linear::load(tensors, &format!("{name}.to_out.0"), channels, channels)?,
        })
    }

    /// Adds to `out` what `rows` see.
    fn forward(&self, compute: &Compute, rows: &[f32], seen: &[f32], heads: usize, out: &mut [f32]) {
        let queries = self.queries.forward(compute, rows);
        let keys = self.keys.forward(compute, seen);
        let values = self.values.forward(compute, seen);
        let found = look(compute, [&queries, &keys, &values], self.queries.outputs(), heads);
        self.out.add_to(compute, &found, out);
    }
}

/// Attention of dense rows of `channels`.
pub(super) fn look(compute: &Compute, [queries, keys, values]: [&[f32]; 3], channels: usize, heads: usize) -> Vec<f32> {
    let width = channels / heads;
    let attention = Attention {
        queries: Rows::dense(queries, channels),
        keys: Rows::dense(keys, channels),
        values: Rows::dense(values, channels),
        heads,
        width,
        scale: 1.0 / (width as f32).sqrt(),
        bias: &[],
        causal: false,
    };
    let mut out = vec![0.0; queries.len()];
    maps::attend(compute.isa, &compute.pool, &attention, &mut out);
    out
}

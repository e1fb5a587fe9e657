//! The decoder: attention over the tokens so far, attention over the encoder's states, and the next token's logits.

use host_kernels::elementwise::{add, scale};
use host_kernels::encoder::softmax;
use host_kernels::fixed::FixedHeads;

use super::encoder::{Feed, Norm, add_product};
use super::matrix::{Linear, Machine, read_finite};
use super::{Group, Precision};
use crate::speech::config::{Config, Stack};
use crate::tensors::Tensors;

pub(super) struct Decoder {
    stack: Stack,
    width: usize,
    embedding_scale: f32,
    tokens: Linear,
    positions: Vec<f32>,
    layers: Vec<Layer>,
    norm: Norm,
}

struct Layer {
    own: Attention,
    cross: Attention,
    feed: Feed,
}

struct Attention {
    norm: Norm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
}

/// A token to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) token: u32,
    pub(crate) position: usize,
    /// Where its keys and values go.
    pub(crate) slot: u32,
    /// The slots that it sees, its own among them.
    pub(crate) sees: &'a [u32],
}

/// Keys and values of tokens, by layer and slot.
#[derive(Default)]
pub(crate) struct Cache {
    layers: Vec<[Vec<f32>; 2]>,
}

/// Keys and values of the encoder's states, by layer.
pub(super) struct Cross {
    layers: Vec<FixedHeads>,
}

impl Attention {
    fn load(tensors: &mut Tensors, name: &str, width: usize, precision: Precision) -> Result<Attention, String> {
        let linear = |tensors: &mut Tensors, part: &str, bias: bool| {
            Linear::load(tensors, &format!("{name}.{part}"), [width, width], bias, precision)
        };
        Ok(Attention {
            norm: Norm::load(tensors, &format!("{name}_layer_norm"), width)?,
            query: linear(tensors, "q_proj", true)?,
            key: linear(tensors, "k_proj", false)?,
            value: linear(tensors, "v_proj", true)?,
            out: linear(tensors, "out_proj", true)?,
        })
    }
}

impl Decoder {
    pub(super) fn load(tensors: &mut Tensors, config: &Config, precision: Precision) -> Result<Decoder, String> {
        let (width, stack) = (config.width, config.decoder.clone());
        let layer = |tensors: &mut Tensors, index: usize| {
            let name = format!("decoder.layers.{index}");
            Ok::<_, String>(Layer {
                own: Attention::load(tensors, &format!("{name}.self_attn"), width, precision)?,
                cross: Attention::load(tensors, &format!("{name}.encoder_attn"), width, precision)?,
                feed: Feed::load(tensors, &name, width, stack.intermediate, precision)?,
            })
        };
        let shape = [config.vocabulary, width];
        Ok(Decoder {
            // The last product has the embeddings as its weight too.
            tokens: Linear::load(tensors, "decoder.embed_tokens", shape, false, precision)?,
            positions: read_finite(tensors, "decoder.embed_positions.weight", &[stack.positions, width])?,
            layers: (0..stack.layers).map(|index| layer(tensors, index)).collect::<Result<_, _>>()?,
            norm: Norm::load(tensors, "decoder.layer_norm", width)?,
            embedding_scale: if config.scale_embedding { (width as f32).sqrt() } else { 1.0 },
            stack,
            width,
        })
    }

    /// Keys and values of the encoder's states.
    pub(super) fn cross(&self, machine: &Machine, states: &[f32]) -> Cross {
        let (mut keys, mut values) = (vec![0.0; states.len()], vec![0.0; states.len()]);
        let mut layers = Vec::with_capacity(self.layers.len());
        for Layer { cross, .. } in &self.layers {
            machine.products(states, &mut [(&cross.key, &mut keys), (&cross.value, &mut values)]);
            machine.pool.for_each_row(&mut values, self.width, 32, |_, rows| cross.value.add_bias(machine.isa, rows));
            let mut heads = FixedHeads::default();
            heads.pack(&machine.pool, &keys, &values, self.stack.heads, self.width / self.stack.heads);
            layers.push(heads);
        }
        Cross { layers }
    }

    /// Reads the rows of all `groups` at once, so that each weight is read once, and puts the logits of the rows that each
    /// wants into it. A row's result does not depend on its company.
    pub(super) fn forward(&self, machine: &Machine, groups: &mut [Group<'_, '_>]) {
        let mut x = Vec::new();
        for group in groups.iter_mut() {
            self.embed(machine, group.rows, &mut x);
            group.cache.layers.resize_with(self.layers.len(), Default::default);
        }
        let (mut normed, mut wide) = (Vec::new(), Vec::new());
        let [mut query, mut key, mut value] = [(); 3].map(|()| vec![0.0; x.len()]);
        for (index, layer) in self.layers.iter().enumerate() {
            let own = &layer.own;
            own.norm.apply(machine, &x, &mut normed);
            machine.products(&normed, &mut [(&own.query, &mut query), (&own.key, &mut key), (&own.value, &mut value)]);
            self.scale_queries(machine, &own.query, &mut query);
            own.value.add_bias(machine.isa, &mut value);
            let mut done = 0;
            for group in groups.iter_mut() {
                let own = done..done + group.rows.len() * self.width;
                done = own.end;
                store(&mut group.cache.layers[index], group.rows, &key[own.clone()], &value[own], self.width);
            }
            self.attend(machine, index, groups, &query, &mut normed);
            machine.products(&normed, &mut [(&own.out, &mut key)]);
            add_product(machine, &mut x, &key, &own.out);

            let other = &layer.cross;
            other.norm.apply(machine, &x, &mut normed);
            machine.products(&normed, &mut [(&other.query, &mut query)]);
            self.scale_queries(machine, &other.query, &mut query);
            self.attend_across(machine, index, groups, &query, &mut normed);
            machine.products(&normed, &mut [(&other.out, &mut key)]);
            add_product(machine, &mut x, &key, &other.out);

            layer.feed.apply(machine, &mut x, &mut normed, &mut wide);
        }
        self.logits(machine, groups, &x);
    }

    fn logits(&self, machine: &Machine, groups: &mut [Group<'_, '_>], x: &[f32]) {
        let (mut last, mut first) = (Vec::new(), 0);
        for group in groups.iter() {
            last.extend(group.wanted.iter().flat_map(|row| &x[(first + row) * self.width..][..self.width]));
            first += group.rows.len();
        }
        let (mut normed, mut logits) = (Vec::new(), Vec::new());
        if !last.is_empty() {
            self.norm.apply(machine, &last, &mut normed);
            logits.resize(last.len() / self.width * self.tokens.outputs(), 0.0);
            machine.products(&normed, &mut [(&self.tokens, &mut logits)]);
        }
        if let [group] = groups {
            group.logits = logits;
            return;
        }
        let mut rest = logits.as_slice();
        for group in groups {
            let (own, others) = rest.split_at(group.wanted.len() * self.tokens.outputs());
            (group.logits, rest) = (own.to_vec(), others);
        }
    }

    /// Adds the states that the rows begin with to `x`.
    fn embed(&self, machine: &Machine, rows: &[Row<'_>], x: &mut Vec<f32>) {
        let begin = x.len();
        x.resize(begin + rows.len() * self.width, 0.0);
        for (row, x) in rows.iter().zip(x[begin..].chunks_exact_mut(self.width)) {
            self.tokens.row(row.token as usize, x);
            if self.embedding_scale != 1.0 {
                scale(machine.isa, x, self.embedding_scale);
            }
            add(machine.isa, x, &self.positions[row.position * self.width..][..self.width]);
        }
    }

    fn scale_queries(&self, machine: &Machine, linear: &Linear, query: &mut [f32]) {
        linear.add_bias(machine.isa, query);
        scale(machine.isa, query, ((self.width / self.stack.heads) as f32).powf(-0.5));
    }

    /// The attention of each row over the slots that it sees.
    fn attend(&self, machine: &Machine, layer: usize, groups: &[Group<'_, '_>], query: &[f32], out: &mut [f32]) {
        let head = self.width / self.stack.heads;
        let rows: Vec<(&Row<'_>, &[Vec<f32>; 2])> =
            groups.iter().flat_map(|group| group.rows.iter().map(|row| (row, &group.cache.layers[layer]))).collect();
        // A unit of work is a row's head; a few of them are less work than waking a thread.
        machine.pool.for_each_row(out, head, 16, |first, units| {
            let mut scores = Vec::new();
            for (index, out) in units.chunks_exact_mut(head).enumerate() {
                let unit = first + index;
                let ((row, [keys, values]), column) = (rows[unit / self.stack.heads], unit % self.stack.heads * head);
                let query = &query[unit * head..][..head];
                let at = |slot: &u32| *slot as usize * self.width + column;
                scores.clear();
                scores.extend(row.sees.iter().map(|slot| dot(query, &keys[at(slot)..][..head])));
                let count = scores.len();
                softmax(machine.isa, &mut scores, count);
                out.fill(0.0);
                for (score, slot) in scores.iter().zip(row.sees) {
                    for (out, value) in out.iter_mut().zip(&values[at(slot)..][..head]) {
                        *out += score * value;
                    }
                }
            }
        });
    }

    /// The attention of each group's rows over what it heard.
    fn attend_across(
        &self,
        machine: &Machine,
        layer: usize,
        groups: &mut [Group<'_, '_>],
        query: &[f32],
        out: &mut [f32],
    ) {
        let mut first = 0;
        for group in groups {
            let own = first..first + group.rows.len() * self.width;
            first = own.end;
            let (query, heads) = (&query[own.clone()], &group.heard.cross.layers[layer]);
            if let Some(watch) = group.watch.as_deref_mut() {
                for (slot, (_, head)) in watch.heads.iter().enumerate().filter(|(_, (of, _))| *of == layer) {
                    watch.scores[slot] = heads.scores(machine.isa, query, *head);
                }
            }
            heads.attend(machine.isa, &machine.pool, query, &mut out[own]);
        }
    }
}

/// Puts the rows' keys and values into their slots.
fn store([keys, values]: &mut [Vec<f32>; 2], rows: &[Row<'_>], key: &[f32], value: &[f32], width: usize) {
    let end = rows.iter().map(|row| row.slot as usize + 1).max().unwrap_or(0) * width;
    for (store, new) in [(keys, key), (values, value)] {
        if store.len() < end {
            store.resize(end, 0.0);
        }
        for (row, new) in rows.iter().zip(new.chunks_exact(width)) {
            store[row.slot as usize * width..][..width].copy_from_slice(new);
        }
    }
}

/// In eight lanes, which the compiler keeps in a register.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

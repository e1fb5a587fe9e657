//! The forward pass of every described encoder, over packed rows.
//!
//! A batch is one matrix with a row per token of every text and no padding: texts meet only in the products, which
//! treat rows alike, and attention runs text by text. So there are no masks to get wrong, a short text beside a long
//! one costs what it costs alone, and its vector does not depend on its neighbours.

use std::ops::Range;

use host_kernels::isa::Isa;
use host_kernels::{elementwise, encoder, rope};

use super::attention::{self, Attention};
use super::description::{Description, FeedIn, LayerKind, Norms, Positions, Qkv};
use super::parts::{Linear, Norm, Raw, resize};
use super::tokens::Tokens;
use crate::tensors::Tensors;

/// Rows that go through a feed-forward block together: its intermediate values then stay in a core's own cache.
const ROWS: usize = 192;

/// The weights.
pub(super) struct Network {
    pub(super) description: Description,
    words: Vec<f32>,
    /// A row for each place of a text; empty where positions are not added.
    positions: Vec<f32>,
    types: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
    final_norm: Option<Norm>,
    /// For each rotation and place, the angles of a head's pairs.
    angles: Vec<Vec<(f32, f32)>>,
    slopes: Vec<f32>,
}

struct Layer {
    kind: LayerKind,
    /// Query, key and value beside each other; the query is scaled by the root of the head's width.
    qkv: Linear,
    attention_out: Linear,
    /// None where attention takes the states as they are.
    attention_norm: Option<Norm>,
    feed_in: Linear,
    feed_out: Linear,
    out_norm: Norm,
}

/// Memory of one thread, reused from batch to batch.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) states: Vec<f32>,
    qkv: Vec<f32>,
    context: Vec<f32>,
    projected: Vec<f32>,
    wide: Vec<f32>,
    intermediate: Vec<f32>,
    attention: attention::Scratch,
}

impl Network {
    /// Reads the weights; `prefix` is what stands before their names. Texts will have at most `limit` tokens.
    pub(super) fn load(tensors: &mut Tensors, description: Description, limit: usize) -> Result<Network, String> {
        let Description { hidden, vocabulary, types, epsilon, ref names, .. } = description;
        let words = tensors.read(names.words, &[vocabulary, hidden])?;
        let positions = match description.positions {
            Positions::Learned { rows, first } => {
                tensors.read(names.positions, &[rows, hidden])?.split_off(first * hidden)
            }
            Positions::Rotary | Positions::Alibi => Vec::new(),
        };
        let types = if types > 0 { tensors.read(names.types, &[types, hidden])? } else { Vec::new() };
        let norm = Norm::load(tensors, names.embedding_norm.name, names.embedding_norm, hidden, epsilon)?;
        let layers: Result<_, _> =
            (0..description.layers.len()).map(|index| Layer::load(tensors, index, &description)).collect();
        let final_norm =
            names.final_norm.map(|part| Norm::load(tensors, part.name, part, hidden, epsilon)).transpose()?;
        let angles = description.ropes.iter().map(|rope| {
            let pairs = rope.frequencies.len();
            let mut angles = vec![(0.0, 0.0); limit * pairs];
            angles.chunks_exact_mut(pairs).enumerate().for_each(|(place, angles)| rope.angles(place, angles));
            angles
        });
        let angles = angles.collect();
        let slopes = match description.positions {
            Positions::Alibi => attention::slopes(description.heads),
            Positions::Learned { .. } | Positions::Rotary => Vec::new(),
        };
        Ok(Network { words, positions, types, norm, layers: layers?, final_norm, angles, slopes, description })
    }

    /// Values that [`Self::forward`] holds at most for these texts.
    pub(super) fn peak(&self, texts: &[&Tokens]) -> usize {
        let tokens = texts.iter().map(|text| text.ids.len()).sum::<usize>();
        let longest = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0);
        tokens * self.per_token() + self.per_turn() + longest * self.attention_row()
    }

    /// Of how many tokens the values fit into so many bytes.
    pub(super) fn fitting(&self, bytes: u64) -> usize {
        let values = usize::try_from(bytes / size_of::<f32>() as u64).unwrap_or(usize::MAX);
        values.saturating_sub(self.per_turn()) / (self.per_token() + self.attention_row())
    }

    /// The stream before and after its norm, queries, keys and values, what they saw and what is added.
    fn per_token(&self) -> usize {
        7 * self.description.hidden
    }

    /// Scores of a token of the longest text, and a head's keys and values.
    fn attention_row(&self) -> usize {
        attention::QUERIES + 2 * self.description.head_width()
    }

    /// The inner values of the rows that go through a feed-forward block together, with their gates.
    fn per_turn(&self) -> usize {
        3 * ROWS * self.description.intermediate
    }

    /// Leaves the states of all tokens in `scratch.states` and tells which rows are whose. Ids must be below the
    /// vocabulary's size and no text longer than the limit.
    pub(super) fn forward(&self, texts: &[&Tokens], scratch: &mut Scratch) -> Vec<Range<usize>> {
        let spans = self.embed(texts, &mut scratch.states);
        self.norm.apply(&mut scratch.states, &[]);
        for layer in &self.layers {
            layer.forward(self, &spans, scratch);
        }
        if let Some(norm) = &self.final_norm {
            norm.apply(&mut scratch.states, &[]);
        }
        spans
    }

    fn embed(&self, texts: &[&Tokens], states: &mut Vec<f32>) -> Vec<Range<usize>> {
        let hidden = self.description.hidden;
        let mut spans: Vec<Range<usize>> = Vec::with_capacity(texts.len());
        states.clear();
        for text in texts {
            let start = spans.last().map_or(0, |span| span.end);
            spans.push(start..start + text.ids.len());
            for (place, (&word, &segment)) in text.ids.iter().zip(&text.types).enumerate() {
                let row = states.len();
                states.extend_from_slice(&self.words[word as usize * hidden..][..hidden]);
                if !self.types.is_empty() {
                    elementwise::add(Isa::best(), &mut states[row..], &self.types[segment * hidden..][..hidden]);
                }
                if !self.positions.is_empty() {
                    elementwise::add(Isa::best(), &mut states[row..], &self.positions[place * hidden..][..hidden]);
                }
            }
        }
        spans
    }

    fn rotate(&self, kind: LayerKind, spans: &[Range<usize>], qkv: &mut [f32]) {
        let Some(angles) = kind.rope.and_then(|index| self.angles.get(index)) else { return };
        let (hidden, width) = (self.description.hidden, self.description.head_width());
        for span in spans {
            let rows = qkv[span.start * 3 * hidden..span.end * 3 * hidden].chunks_exact_mut(3 * hidden);
            for (row, angles) in rows.zip(angles.chunks_exact(width / 2)) {
                rope::rope_half(Isa::best(), &mut row[..2 * hidden], width, angles);
            }
        }
    }
}

impl Layer {
    fn load(tensors: &mut Tensors, index: usize, description: &Description) -> Result<Layer, String> {
        let Description { hidden, intermediate, epsilon, norms, ref names, .. } = *description;
        let name = |part: &str| format!("{}{index}{}{part}", names.layer[0], names.layer[1]);
        let linear = |tensors: &mut Tensors, part: super::description::Part, outputs, inputs| {
            Raw::read(tensors, &name(part.name), part.bias, outputs, inputs)
        };
        let mut qkv = match names.qkv {
            Qkv::Together(part) => linear(tensors, part, 3 * hidden, hidden)?,
            Qkv::Apart([query, key, value]) => {
                let key = |tensors: &mut Tensors| linear(tensors, key, hidden, hidden);
                linear(tensors, query, hidden, hidden)?
                    .then(key(tensors)?)
                    .then(linear(tensors, value, hidden, hidden)?)
            }
        };
        let scale = 1.0 / (description.head_width() as f32).sqrt();
        qkv.weight[..hidden * hidden].iter_mut().for_each(|value| *value *= scale);
        qkv.bias.iter_mut().take(hidden).for_each(|value| *value *= scale);
        let norm = |tensors: &mut Tensors, part: super::description::Part| {
            Norm::load(tensors, &name(part.name), part, hidden, epsilon)
        };
        let bare = norms == Norms::Pre && index == 0;
        let out = names.attention_out;
        Ok(Layer {
            kind: description.layers[index],
            qkv: qkv.pack(hidden),
            attention_out: linear(tensors, out, hidden, hidden)?.pack(hidden),
            attention_norm: if bare { None } else { Some(norm(tensors, names.attention_norm)?) },
            feed_in: feed_in(tensors, names.feed_in, &name, intermediate, hidden)?.pack(hidden),
            feed_out: linear(tensors, names.feed_out, hidden, intermediate)?.pack(intermediate),
            out_norm: norm(tensors, names.out_norm)?,
        })
    }

    fn forward(&self, network: &Network, spans: &[Range<usize>], scratch: &mut Scratch) {
        match network.description.norms {
            Norms::Post => self.post(network, spans, scratch),
            Norms::Pre => self.pre(network, spans, scratch),
        }
    }

    /// `x = norm(x + attention(x))`, then the same with the feed-forward block.
    fn post(&self, network: &Network, spans: &[Range<usize>], scratch: &mut Scratch) {
        let states = std::mem::take(&mut scratch.states);
        self.attend(network, spans, &states, scratch);
        scratch.states = states;
        let Scratch { states, projected, wide, intermediate, .. } = scratch;
        if let Some(norm) = &self.attention_norm {
            norm.apply(states, projected);
        }
        for block in states.chunks_mut(ROWS * network.description.hidden) {
            self.feed(network, block, wide, intermediate, projected);
            self.out_norm.apply(block, projected);
        }
    }

    /// `x = x + attention(norm(x))`, then the same with the feed-forward block.
    fn pre(&self, network: &Network, spans: &[Range<usize>], scratch: &mut Scratch) {
        let mut normalized = scratch.states.clone();
        if let Some(norm) = &self.attention_norm {
            norm.apply(&mut normalized, &[]);
        }
        self.attend(network, spans, &normalized, scratch);
        let Scratch { states, projected, wide, intermediate, .. } = scratch;
        elementwise::add(Isa::best(), states, projected);
        let width = ROWS * network.description.hidden;
        for (block, normalized) in states.chunks_mut(width).zip(normalized.chunks_mut(width)) {
            normalized.copy_from_slice(block);
            self.out_norm.apply(normalized, &[]);
            self.feed(network, normalized, wide, intermediate, projected);
            elementwise::add(Isa::best(), block, projected);
        }
    }

    /// Leaves what attention gives for `states` in `scratch.projected`.
    fn attend(&self, network: &Network, spans: &[Range<usize>], states: &[f32], scratch: &mut Scratch) {
        let Scratch { qkv, context, projected, attention, .. } = scratch;
        self.qkv.apply(states, qkv);
        network.rotate(self.kind, spans, qkv);
        resize(context, states.len());
        let Description { hidden, heads, .. } = network.description;
        let layer = Attention { hidden, heads, window: self.kind.window, slopes: &network.slopes };
        for span in spans {
            layer.text(span.clone(), qkv, context, attention);
        }
        self.attention_out.apply(context, projected);
    }

    /// Leaves what the feed-forward block gives for `rows` in `projected`.
    fn feed(
        &self,
        network: &Network,
        rows: &[f32],
        wide: &mut Vec<f32>,
        intermediate: &mut Vec<f32>,
        projected: &mut Vec<f32>,
    ) {
        let Description { activation, ref names, intermediate: width, .. } = network.description;
        if names.feed_in.is_gated() {
            self.feed_in.apply(rows, wide);
            resize(intermediate, wide.len() / 2);
            encoder::gate(Isa::best(), wide, width, activation, intermediate);
        } else {
            self.feed_in.apply(rows, intermediate);
            encoder::activate(Isa::best(), intermediate, activation);
        }
        self.feed_out.apply(intermediate, projected);
    }
}

/// The first product of a feed-forward block; of a gated one, the gates stand before the values.
fn feed_in(
    tensors: &mut Tensors,
    plan: FeedIn,
    name: &dyn Fn(&str) -> String,
    width: usize,
    hidden: usize,
) -> Result<Raw, String> {
    match plan {
        FeedIn::Plain(part) => Raw::read(tensors, &name(part.name), part.bias, width, hidden),
        FeedIn::Apart { gate, up } => {
            let gate = Raw::read(tensors, &name(gate.name), gate.bias, width, hidden)?;
            Ok(gate.then(Raw::read(tensors, &name(up.name), up.bias, width, hidden)?))
        }
        FeedIn::Together { part, gate_first } => {
            let mut both = Raw::read(tensors, &name(part.name), part.bias, 2 * width, hidden)?;
            if !gate_first {
                both.weight.rotate_left(width * hidden);
                let shift = width.min(both.bias.len());
                both.bias.rotate_left(shift);
            }
            Ok(both)
        }
    }
}

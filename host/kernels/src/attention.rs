//! Causal attention of a ragged batch over the paged cache.
//!
//! A batch is a list of spans, each some consecutive tokens of one sequence: one token when it decodes, many while its
//! prompt is read. A unit of work is up to 32 queries that share a key-value head (neighbouring tokens and the heads of
//! a group), which walk the sequence's blocks once with a running softmax (Milakov & Gimelshein 2018; the tiling of
//! FlashAttention, Dao et al. 2022). Blocks start at fixed positions and a query meets them in order, so its result
//! does not depend on how the prompt was cut into spans.
//!
//! With a sliding window a query sees only the last positions. Blocks that end before a unit's oldest window are not
//! read, so their owner may have given them away.

mod panel;

use std::num::NonZeroUsize;
use std::ops::Range;

use crate::elementwise::{exp, softcap, widen};
use crate::isa::{Isa, per_isa};
use crate::kv::{BLOCK_TOKENS, KvStore};
use crate::threads::{Scatter, ThreadPool};

/// Consecutive tokens of one sequence whose keys and values are in the store already.
#[derive(Debug, Clone)]
pub struct Span<'a> {
    /// Their rows in the batch.
    pub rows: Range<usize>,
    /// The first one's position in its sequence.
    pub position: usize,
    /// The sequence's blocks, from position 0 on.
    pub blocks: &'a [u32],
}

/// How a layer attends.
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    /// Query heads; `h` reads key-value head `h / (heads / kv heads)`.
    pub heads: usize,
    /// What scores are multiplied with, commonly `1 / sqrt(width)`.
    pub scale: f32,
    /// How many positions a query sees, its own being the last; all if none.
    pub window: Option<NonZeroUsize>,
    /// A bound that scores approach: `cap * tanh(score / cap)`, as in Gemma 2.
    pub softcap: Option<f32>,
}

impl Attention {
    /// Over the whole sequence, with scores as they are.
    pub fn new(heads: usize, scale: f32) -> Self {
        Self { heads, scale, window: None, softcap: None }
    }

    /// The first position that a query at `position` sees.
    fn oldest(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window.get()))
    }

    /// The position after the last one whose query sees `position`.
    fn end(&self, position: usize) -> usize {
        self.window.map_or(usize::MAX, |window| position.saturating_add(window.get()))
    }
}

/// Queries that a unit of work serves at most.
const QUERIES: usize = 32;

struct Unit<'a> {
    span: &'a Span<'a>,
    /// Rows of the batch.
    rows: Range<usize>,
    head: usize,
}

#[derive(Default)]
struct Scratch {
    keys: Vec<f32>,
    values: Vec<f32>,
    queries: Vec<f32>,
    scores: Vec<[f32; BLOCK_TOKENS]>,
    states: Vec<State>,
    sums: Vec<[f32; BLOCK_TOKENS]>,
}

/// The running softmax of one query.
#[derive(Clone, Copy)]
struct State {
    largest: f32,
    total: f32,
    /// What sums so far shrink by when a larger score comes.
    correction: f32,
}

/// Attends with `queries` (rows of `attention.heads` heads) over each span's own sequence up to each row's own position
/// and writes rows of the same shape to `out`.
#[allow(clippy::too_many_arguments)]
pub fn attend(
    isa: Isa,
    pool: &ThreadPool,
    store: &KvStore,
    layer: usize,
    spans: &[Span<'_>],
    attention: Attention,
    queries: &[f32],
    out: &mut [f32],
) {
    let (shape, heads) = (store.shape(), attention.heads);
    assert!(heads > 0 && heads.is_multiple_of(shape.heads) && queries.len() == out.len());
    let group = heads / shape.heads;
    let rows_per_unit = (QUERIES / group).max(1);
    let mut units = Vec::new();
    for span in spans {
        assert!(span.rows.end * heads * shape.width <= queries.len());
        assert!(span.position + span.rows.len() <= span.blocks.len() * BLOCK_TOKENS, "a span outside its blocks");
        let mut start = span.rows.start;
        while start < span.rows.end {
            let end = (start + rows_per_unit).min(span.rows.end);
            units.extend((0..shape.heads).map(|head| Unit { span, rows: start..end, head }));
            start = end;
        }
    }
    let out = Scatter::new(out);
    // The longest contexts come last in a prompt: handed out first, they leave no thread waiting at the end.
    units.reverse();
    pool.for_each_chunk(units.len(), 1, Scratch::default, |scratch, range| {
        for unit in &units[range] {
            attend_unit(isa, store, layer, unit, (attention, group), queries, scratch);
            let width = shape.width;
            for (i, row) in unit.rows.clone().enumerate() {
                let start = (row * heads + unit.head * group) * width;
                // SAFETY: rows of spans are disjoint and each head of a row belongs to one unit.
                let out = unsafe { out.slice(start..start + group * width) };
                finish(out, width, group, i, scratch);
            }
        }
    });
}

/// Divides the sums of a row's heads by their totals.
fn finish(out: &mut [f32], width: usize, group: usize, row: usize, scratch: &Scratch) {
    let panels = width.div_ceil(BLOCK_TOKENS);
    for (g, out) in out.chunks_exact_mut(width).enumerate() {
        let query = row * group + g;
        let inverse = 1.0 / scratch.states[query].total;
        let sums = scratch.sums[query * panels..(query + 1) * panels].as_flattened();
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = sum * inverse;
        }
    }
}

fn attend_unit(
    isa: Isa,
    store: &KvStore,
    layer: usize,
    unit: &Unit<'_>,
    (attention, group): (Attention, usize),
    queries: &[f32],
    scratch: &mut Scratch,
) {
    let shape = store.shape();
    let (width, padded) = (shape.width, shape.padded());
    let Attention { heads, scale, .. } = attention;
    let panels = padded / BLOCK_TOKENS;
    let count = unit.rows.len() * group;
    scratch.queries.clear();
    for row in unit.rows.clone() {
        let start = (row * heads + unit.head * group) * width;
        scratch.queries.extend(queries[start..start + group * width].iter().map(|q| q * scale));
    }
    scratch.keys.resize(width * BLOCK_TOKENS, 0.0);
    scratch.values.resize(padded * BLOCK_TOKENS, 0.0);
    scratch.scores.resize(count, [0.0; BLOCK_TOKENS]);
    scratch.states.clear();
    scratch.states.resize(count, State { largest: f32::NEG_INFINITY, total: 0.0, correction: 1.0 });
    scratch.sums.clear();
    scratch.sums.resize(count * panels, [0.0; BLOCK_TOKENS]);

    let first = unit.span.position + (unit.rows.start - unit.span.rows.start);
    let last = first + unit.rows.len() - 1;
    let blocks = unit.span.blocks[..=last / BLOCK_TOKENS].iter().enumerate();
    for (b, block) in blocks.skip(attention.oldest(first) / BLOCK_TOKENS) {
        let (keys, values) = store.head(*block, layer, unit.head);
        widen(isa, keys, &mut scratch.keys);
        widen(isa, values, &mut scratch.values);
        let start = b * BLOCK_TOKENS;
        // Rows before this block's start see nothing of it, nor do rows whose window begins after its end.
        let mut query = start.saturating_sub(first) * group;
        let end = attention.end(start + BLOCK_TOKENS - 1).saturating_sub(first).saturating_mul(group).min(count);
        let seen = |query: usize| {
            let position = first + query / group;
            attention.oldest(position).saturating_sub(start)..(position + 1 - start).min(BLOCK_TOKENS)
        };
        while query < end {
            let taken = (end - query).min(panel::MAX_QUERIES);
            let scores = &mut scratch.scores[query..query + taken];
            scores.fill([0.0; BLOCK_TOKENS]);
            let coefficients = &scratch.queries[query * width..(query + taken) * width];
            panel::product(isa, coefficients, (width, width), &scratch.keys, BLOCK_TOKENS, scores, 1);
            if let Some(cap) = attention.softcap {
                softcap(isa, scores.as_flattened_mut(), cap);
            }
            for (i, scores) in scores.iter_mut().enumerate() {
                softmax_block(isa, scores, seen(query + i), &mut scratch.states[query + i]);
            }
            // Beyond what each query sees its weights are 0, but rows beyond all of them may hold anything.
            let tokens = seen(query + taken - 1).end;
            for p in 0..panels {
                for (i, state) in scratch.states[query..query + taken].iter().enumerate() {
                    for sum in &mut scratch.sums[(query + i) * panels + p] {
                        *sum *= state.correction;
                    }
                }
                let sums = &mut scratch.sums[query * panels + p..(query + taken - 1) * panels + p + 1];
                let weights = scratch.scores[query..query + taken].as_flattened();
                let values = &scratch.values[p * BLOCK_TOKENS..];
                panel::product(isa, weights, (BLOCK_TOKENS, tokens), values, padded, sums, panels);
            }
            query += taken;
        }
    }
}

#[inline(always)]
fn softmax_block_body<const FMA: bool>(scores: &mut [f32; BLOCK_TOKENS], seen: Range<usize>, state: &mut State) {
    let mut lanes = [f32::NEG_INFINITY; 16];
    for (i, s) in scores.iter_mut().enumerate() {
        *s = if seen.start <= i && i < seen.end { *s } else { f32::NEG_INFINITY };
    }
    for half in scores.as_chunks::<16>().0 {
        for (lane, s) in lanes.iter_mut().zip(half) {
            *lane = if *s > *lane { *s } else { *lane };
        }
    }
    for distance in [8, 4, 2, 1] {
        for i in 0..distance {
            lanes[i] = if lanes[i + distance] > lanes[i] { lanes[i + distance] } else { lanes[i] };
        }
    }
    let largest = if lanes[0] > state.largest { lanes[0] } else { state.largest };
    let mut totals = [0f32; 16];
    for (h, half) in scores.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        for (i, (total, s)) in totals.iter_mut().zip(half).enumerate() {
            let term = exp::<FMA>(*s - largest);
            let i = h * 16 + i;
            *s = if seen.start <= i && i < seen.end { term } else { 0.0 };
            *total += *s;
        }
    }
    for distance in [8, 4, 2, 1] {
        for i in 0..distance {
            totals[i] += totals[i + distance];
        }
    }
    state.correction = exp::<FMA>(state.largest - largest);
    state.total = state.total * state.correction + totals[0];
    state.largest = largest;
}

per_isa! {
    /// Takes the scores `seen` of a block, at least one, into a query's running softmax and leaves their weights.
    fn softmax_block(isa, scores: &mut [f32; BLOCK_TOKENS], seen: Range<usize>, state: &mut State) = softmax_block_body
}

#[cfg(test)]
mod tests;

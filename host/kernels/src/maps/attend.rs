//! Attention of all queries over all keys, in blocks of queries and of keys.
//!
//! Scores stand with the queries beside each other: a block of queries is packed once, as the panel of a product, and the
//! rows that meet it are the keys as they lie in memory. Then softmax works down the columns, and what it gives is the
//! panel of the second product, whose rows are the values turned over. A head of any width wastes nothing that way. Of the
//! scores only those of one block of keys exist at a time on each thread; greatest and sum are carried from block to block
//! (Milakov and Gimelshein 2018).

use std::sync::OnceLock;

use super::Scatter;
use crate::elementwise::{exp, madd};
use crate::encoder::softmax;
use crate::floats::kernel::{F32, MAX_ROWS, PANEL_ROWS, product};
use crate::isa::{Isa, per_isa};
use crate::linear::{Rows, as_bytes};
use crate::threads::ThreadPool;

/// Queries beside each other.
const QUERIES: usize = PANEL_ROWS;
/// Keys whose scores exist at a time: with a usual head's keys and values they stay in the second cache.
const KEYS: usize = 504;
/// Panels of queries that meet a block of keys one after another, where there are enough of them for all threads.
const PANELS: usize = 3;

/// Fewer queries than this meet the keys one by one: a panel of them would be empty for the most part.
const FEW: usize = 4;

/// What attends to what. A row holds the heads one behind the other.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// A row for each query.
    pub queries: Rows<'a>,
    /// A row for each key.
    pub keys: Rows<'a>,
    /// A row for each key's value.
    pub values: Rows<'a>,
    /// Heads.
    pub heads: usize,
    /// Values of a head.
    pub width: usize,
    /// What scores are multiplied with.
    pub scale: f32,
    /// Added to the scores: for each head, for each query, one for each key. Empty for none.
    pub bias: &'a [f32],
    /// Whether a query sees only the keys up to its own place, the last query being at the last key's.
    pub causal: bool,
}

/// A panel of queries on its way through the keys.
struct Panel {
    /// Value by value, the queries.
    queries: Vec<f32>,
    /// Value by value, what the queries saw.
    seen: Vec<[f32; QUERIES]>,
    greatest: [f32; QUERIES],
    total: [f32; QUERIES],
}

#[derive(Default)]
struct Scratch {
    panels: Vec<Panel>,
    scores: Vec<[f32; QUERIES]>,
}

/// `softmax(scale · Q Kᵀ + bias) V` for each head; `out` has a dense row of all heads for each query.
pub fn attend(isa: Isa, pool: &ThreadPool, attention: &Attention<'_>, out: &mut [f32]) {
    let &Attention { queries, keys, values, heads, width, bias, causal, .. } = attention;
    let row = heads * width;
    let long_enough = |rows: Rows<'_>| rows.count == 0 || (rows.count - 1) * rows.stride + row <= rows.data.len();
    assert!(long_enough(queries) && long_enough(keys) && long_enough(values), "rows are shorter than their heads");
    assert_eq!(keys.count, values.count, "a value for each key");
    assert_eq!(out.len(), queries.count * row, "an output of the wrong size");
    assert!(bias.is_empty() || bias.len() == heads * queries.count * keys.count, "a bias of the wrong size");
    assert!(!causal || keys.count >= queries.count, "a key for each query");
    if queries.count == 0 || keys.count == 0 {
        out.fill(0.0);
        return;
    }
    if queries.count < FEW {
        return few(isa, pool, attention, out);
    }
    let turned = turn(pool, values, heads, width);
    let panels = queries.count.div_ceil(QUERIES);
    let together = if panels * heads >= 8 * PANELS * pool.threads() { PANELS } else { 1 };
    let blocks = panels.div_ceil(together);
    let target = Scatter::new(out);
    pool.for_each_chunk(heads * blocks, 1, Scratch::default, |scratch, units| {
        for unit in units {
            let (head, first) = (unit / blocks, unit % blocks * together * QUERIES);
            let count = (together * QUERIES).min(queries.count - first);
            let Some(values) = turned[head].get() else { unreachable!("the values of every head were turned") };
            scratch.see(isa, attention, values, head, first..first + count);
            for (panel, first) in scratch.panels.iter().zip((first..first + count).step_by(QUERIES)) {
                for (lane, query) in (first..queries.count.min(first + QUERIES)).enumerate() {
                    let start = query * row + head * width;
                    // SAFETY: a head's values of a query are written by the one thread that took both, one slice at a
                    // time.
                    let out = unsafe { target.slice(start..start + width) };
                    let scale = 1.0 / panel.total[lane];
                    out.iter_mut().zip(&panel.seen).for_each(|(out, seen)| *out = seen[lane] * scale);
                }
            }
        }
    });
}

/// Values from one row of [`turn`]'s to the next: not a power of two, so that rows do not meet in one set of a cache.
fn stride(keys: usize) -> usize {
    keys.next_multiple_of(32) + 16
}

/// Each head's values turned over: a row for each of its values, a place for each key.
fn turn(pool: &ThreadPool, values: Rows<'_>, heads: usize, width: usize) -> Vec<OnceLock<Vec<f32>>> {
    let turned: Vec<OnceLock<Vec<f32>>> = (0..heads).map(|_| OnceLock::new()).collect();
    let stride = stride(values.count);
    pool.for_each_chunk(
        heads,
        1,
        || (),
        |(), units| {
            for head in units {
                let mut own = vec![0.0; width * stride];
                for key in 0..values.count {
                    let value = &values.data[key * values.stride + head * width..][..width];
                    own[key..].iter_mut().step_by(stride).zip(value).for_each(|(own, value)| *own = *value);
                }
                // Each is set once.
                let _ = turned[head].set(own);
            }
        },
    );
    turned
}

impl Scratch {
    /// Brings the panels of `queries` through all keys.
    fn see(
        &mut self,
        isa: Isa,
        attention: &Attention<'_>,
        values: &[f32],
        head: usize,
        queries: std::ops::Range<usize>,
    ) {
        let &Attention { keys, width, causal, .. } = attention;
        let count = queries.len().div_ceil(QUERIES);
        self.panels.truncate(count);
        for at in 0..count {
            let first = queries.start + at * QUERIES;
            if at == self.panels.len() {
                self.panels.push(Panel::new(width));
            }
            self.panels[at].start(attention, head, first..queries.end.min(first + QUERIES));
        }
        let stride = stride(keys.count);
        for start in (0..keys.count).step_by(KEYS) {
            let block = start..keys.count.min(start + KEYS);
            self.scores.resize(block.len(), [0.0; QUERIES]);
            for (at, panel) in self.panels.iter_mut().enumerate() {
                let first = queries.start + at * QUERIES;
                for group in block.clone().step_by(MAX_ROWS) {
                    let rows = group..block.end.min(group + MAX_ROWS);
                    let x = &keys.data[rows.start * keys.stride + head * width..];
                    let scores = &mut self.scores[rows.start - start..rows.end - start];
                    product::<F32>(isa, as_bytes(&panel.queries), x, keys.stride, Some(&[0.0; QUERIES]), scores);
                }
                if !attention.bias.is_empty() {
                    add_bias(attention, head, first..queries.end.min(first + QUERIES), start, &mut self.scores);
                }
                if causal {
                    let ahead = keys.count - attention.queries.count;
                    for (key, scores) in block.clone().zip(&mut self.scores) {
                        let unseen = key.saturating_sub(first + ahead).min(QUERIES);
                        scores[..unseen].fill(f32::NEG_INFINITY);
                    }
                }
                let before = panel.greatest;
                greatest(isa, &self.scores, &mut panel.greatest);
                weigh(isa, &mut self.scores, &panel.greatest, &before, &mut panel.total, &mut panel.seen);
                for (at, seen) in panel.seen.chunks_mut(MAX_ROWS).enumerate() {
                    let x = &values[at * MAX_ROWS * stride + start..];
                    product::<F32>(isa, as_bytes(self.scores.as_flattened()), x, stride, None, seen);
                }
            }
        }
    }
}

impl Panel {
    fn new(width: usize) -> Panel {
        Panel {
            queries: vec![0.0; width * QUERIES],
            seen: vec![[0.0; QUERIES]; width],
            greatest: [0.0; QUERIES],
            total: [0.0; QUERIES],
        }
    }

    /// Takes up other queries; places that none has hold zeros.
    fn start(&mut self, attention: &Attention<'_>, head: usize, queries: std::ops::Range<usize>) {
        let &Attention { queries: rows, width, scale, .. } = attention;
        self.queries.fill(0.0);
        for (lane, query) in queries.enumerate() {
            let query = &rows.data[query * rows.stride + head * width..][..width];
            for (place, value) in self.queries[lane..].iter_mut().step_by(QUERIES).zip(query) {
                *place = value * scale;
            }
        }
        self.seen.fill([0.0; QUERIES]);
        self.greatest = [f32::MIN; QUERIES];
        self.total = [0.0; QUERIES];
    }
}

/// Each query by itself.
fn few(isa: Isa, pool: &ThreadPool, attention: &Attention<'_>, out: &mut [f32]) {
    let &Attention { queries, keys, heads, width, bias, causal, .. } = attention;
    let target = Scatter::new(out);
    pool.for_each_chunk(queries.count * heads, 1, Vec::new, |scores, units| {
        for unit in units {
            let (query, head) = (unit / heads, unit % heads);
            let seen = if causal { keys.count - queries.count + query + 1 } else { keys.count };
            scores.resize(seen, 0.0);
            products(isa, attention, query, head, scores);
            if !bias.is_empty() {
                let bias = &bias[(head * queries.count + query) * keys.count..];
                scores.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
            }
            softmax(isa, scores, seen);
            let start = (query * heads + head) * width;
            // SAFETY: a head's values of a query are written by the one thread that took both.
            blend(isa, attention, head, scores, unsafe { target.slice(start..start + width) });
        }
    });
}

per_isa! {
    /// A query's scaled products with as many keys as there are scores.
    fn products(isa, of: &Attention<'_>, query: usize, head: usize, scores: &mut [f32]) = products_body
}
per_isa! {
    /// The sum of as many values as there are weights, each times its own.
    fn blend(isa, of: &Attention<'_>, head: usize, weights: &[f32], out: &mut [f32]) = blend_body
}

#[inline(always)]
fn products_body<const FMA: bool>(of: &Attention<'_>, query: usize, head: usize, scores: &mut [f32]) {
    const LANES: usize = 16;
    let place = |rows: Rows<'_>, row: usize| row * rows.stride + head * of.width;
    let query = &of.queries.data[place(of.queries, query)..][..of.width];
    for (key, score) in scores.iter_mut().enumerate() {
        let key = &of.keys.data[place(of.keys, key)..][..of.width];
        let mut lanes = [0f32; LANES];
        let ((q, q_rest), (k, k_rest)) = (query.as_chunks::<LANES>(), key.as_chunks::<LANES>());
        for (q, k) in q.iter().zip(k) {
            for ((lane, q), k) in lanes.iter_mut().zip(q).zip(k) {
                *lane = madd::<FMA>(*q, *k, *lane);
            }
        }
        let mut sum: f32 = lanes.iter().sum();
        for (q, k) in q_rest.iter().zip(k_rest) {
            sum = madd::<FMA>(*q, *k, sum);
        }
        *score = sum * of.scale;
    }
}

#[inline(always)]
fn blend_body<const FMA: bool>(of: &Attention<'_>, head: usize, weights: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for (key, weight) in weights.iter().enumerate() {
        let value = &of.values.data[key * of.values.stride + head * of.width..][..of.width];
        for (out, value) in out.iter_mut().zip(value) {
            *out = madd::<FMA>(*weight, *value, *out);
        }
    }
}

/// Adds to the scores of keys from `start` on what stands for them in the bias.
fn add_bias(
    attention: &Attention<'_>,
    head: usize,
    queries: std::ops::Range<usize>,
    start: usize,
    scores: &mut [[f32; QUERIES]],
) {
    let keys = attention.keys.count;
    for (lane, query) in queries.enumerate() {
        let bias = &attention.bias[(head * attention.queries.count + query) * keys + start..];
        scores.iter_mut().zip(bias).for_each(|(scores, bias)| scores[lane] += bias);
    }
}

per_isa! {
    /// The greatest of each column, or what it is already.
    fn greatest(isa, scores: &[[f32; QUERIES]], most: &mut [f32; QUERIES]) = greatest_body
}
per_isa! {
    /// `scores = exp(scores - most)`, and their sum to `total`. What was summed under the greatest values of `before` is
    /// brought to those of now first.
    fn weigh(
        isa,
        scores: &mut [[f32; QUERIES]],
        most: &[f32; QUERIES],
        before: &[f32; QUERIES],
        total: &mut [f32; QUERIES],
        seen: &mut [[f32; QUERIES]],
    ) = weigh_body
}

#[inline(always)]
fn greatest_body<const FMA: bool>(scores: &[[f32; QUERIES]], most: &mut [f32; QUERIES]) {
    let mut own = *most;
    for scores in scores {
        for (own, score) in own.iter_mut().zip(scores) {
            *own = if *score > *own { *score } else { *own };
        }
    }
    *most = own;
}

#[inline(always)]
fn weigh_body<const FMA: bool>(
    scores: &mut [[f32; QUERIES]],
    most: &[f32; QUERIES],
    before: &[f32; QUERIES],
    total: &mut [f32; QUERIES],
    seen: &mut [[f32; QUERIES]],
) {
    let most = *most;
    if most != *before {
        let mut factors = [0.0; QUERIES];
        for ((factor, before), most) in factors.iter_mut().zip(before).zip(&most) {
            *factor = exp::<FMA>(before - most);
        }
        for row in seen.iter_mut() {
            row.iter_mut().zip(&factors).for_each(|(value, factor)| *value *= factor);
        }
        total.iter_mut().zip(&factors).for_each(|(value, factor)| *value *= factor);
    }
    let mut sum = *total;
    for scores in scores {
        for ((score, most), sum) in scores.iter_mut().zip(&most).zip(&mut sum) {
            *score = exp::<FMA>(*score - most);
            *sum += *score;
        }
    }
    *total = sum;
}

//! Attention in 32-bit floats where the other side is known: rows of an encoder on each other, rows of a decoder on an
//! encoder's, and a decoder's beams on what they said.
//!
//! What an encoder made is read by every step of a decoder, so its keys and values are packed once, head by head, as the
//! fixed matrices of [`crate::linear`]; all beams of a step meet a head in one product, which reads it once. Beams have
//! much of their past in common: rows of keys and values stay where they were written, and a beam is a list of places,
//! so that choosing among beams moves lists and not rows.

use std::sync::OnceLock;

use crate::elementwise::{madd, softmax_terms};
use crate::encoder::softmax;
use crate::isa::{Isa, per_isa};
use crate::linear::{Packed, Rows, linear};
use crate::threads::{Scatter, ThreadPool};

/// Rows that meet a head's keys together: their products with a thousand keys stay in the second cache.
const ROWS: usize = 48;

/// Keys and values of a text, packed for products.
pub struct Memory {
    heads: Vec<OnceLock<Head>>,
    tokens: usize,
    width: usize,
}

struct Head {
    keys: Packed,
    values: Packed,
}

/// Added to products of queries and keys before softmax, by how far the key is behind or ahead of the query: for each
/// head `2 · tokens - 1` values, of which the middle one is for a key at the query's own place.
#[derive(Clone, Copy)]
pub struct Distances<'a> {
    /// The values, head after head.
    pub values: &'a [f32],
}

impl Memory {
    /// Packs rows of keys and values, each of `heads` heads of `width` values.
    pub fn pack(pool: &ThreadPool, keys: &[f32], values: &[f32], heads: usize, width: usize) -> Self {
        let stride = heads * width;
        assert!(stride > 0 && keys.len() == values.len() && keys.len().is_multiple_of(stride));
        let tokens = keys.len() / stride;
        let memory = Self { heads: (0..heads).map(|_| OnceLock::new()).collect(), tokens, width };
        pool.for_each_chunk(
            heads,
            1,
            || (),
            |(), range| {
                for head in range {
                    let at = head * width;
                    let mut packed = Head { keys: Packed::default(), values: Packed::default() };
                    packed.keys.pack(tokens, width, |token, value| keys[token * stride + at + value]);
                    packed.values.pack(width, tokens, |value, token| values[token * stride + at + value]);
                    // A head is packed by the one thread that took it.
                    let _ = memory.heads[head].set(packed);
                }
            },
        );
        memory
    }

    /// Rows of keys.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Each row of `query` attends to all tokens; `out` is as long. With `distances` the rows are the memory's own
    /// tokens.
    pub fn attend(
        &self,
        isa: Isa,
        pool: &ThreadPool,
        query: &[f32],
        scale: f32,
        distances: Option<Distances<'_>>,
        out: &mut [f32],
    ) {
        let (width, stride, tokens) = (self.width, self.heads.len() * self.width, self.tokens);
        assert!(query.len() == out.len() && query.len().is_multiple_of(stride) && tokens > 0);
        let rows = query.len() / stride;
        let reach = 2 * tokens - 1;
        if let Some(distances) = distances {
            assert!(rows == tokens && distances.values.len() == self.heads.len() * reach, "biases of other rows");
        }
        let out = Scatter::new(out);
        pool.for_each_chunk(
            self.heads.len(),
            1,
            || (Vec::new(), Vec::new()),
            |(scores, attended), range| {
                for index in range {
                    let Some(head) = self.heads[index].get() else { continue };
                    let biases = distances.map(|distances| &distances.values[index * reach..(index + 1) * reach]);
                    for first in (0..rows).step_by(ROWS) {
                        let count = ROWS.min(rows - first);
                        let query = Rows { data: &query[first * stride + index * width..], stride, count };
                        scores.resize(count * tokens, 0.0);
                        linear(isa, query, &head.keys, &[], scores, tokens);
                        for (row, scores) in scores.chunks_exact_mut(tokens).enumerate() {
                            // The bias of key 0 for this row's query.
                            let start = (tokens - 1).saturating_sub(first + row);
                            let biases = biases.map(|biases| &biases[start..start + tokens]);
                            adjust(isa, scores, scale, biases.unwrap_or(&[]));
                        }
                        softmax(isa, scores, tokens);
                        attended.resize(count * width, 0.0);
                        linear(isa, Rows::dense(scores, tokens), &head.values, &[], attended, width);
                        for (row, attended) in attended.chunks_exact(width).enumerate() {
                            let start = (first + row) * stride + index * width;
                            // SAFETY: a head's columns are written by the one thread that took the head.
                            unsafe { out.slice(start..start + width) }.copy_from_slice(attended);
                        }
                    }
                }
            },
        );
    }
}

/// What beams said: rows of keys and values, which stay where they are.
#[derive(Clone, Copy)]
pub struct Past<'a> {
    /// Rows of keys.
    pub keys: &'a [f32],
    /// As many rows of values.
    pub values: &'a [f32],
    /// Heads in a row.
    pub heads: usize,
    /// Values in a head.
    pub width: usize,
}

impl Past<'_> {
    /// Each row of `query` attends to the rows of its own list in `places`. `distances` has for each head as many values as
    /// the lists have places, or is empty: what is added to the product with the last place, the one before it, and so on.
    #[allow(clippy::too_many_arguments)]
    pub fn attend<P: AsRef<[u32]> + Sync>(
        self,
        isa: Isa,
        pool: &ThreadPool,
        query: &[f32],
        places: &[P],
        scale: f32,
        distances: &[f32],
        out: &mut [f32],
    ) {
        let (width, stride) = (self.width, self.heads * self.width);
        assert!(
            query.len() == out.len() && query.len() == places.len() * stride && self.keys.len() == self.values.len()
        );
        let out = Scatter::new(out);
        pool.for_each_chunk(places.len() * self.heads, 1, Vec::new, |scores, range| {
            for unit in range {
                let (row, head) = (unit / self.heads, unit % self.heads);
                let places = places[row].as_ref();
                let query = &query[row * stride + head * width..][..width];
                scores.resize(places.len(), 0.0);
                // SAFETY: a head of a row is written by the one thread that took it.
                let out = unsafe { out.slice(row * stride + head * width..row * stride + (head + 1) * width) };
                let biases = distances.get(head * places.len()..(head + 1) * places.len()).unwrap_or(&[]);
                recall(isa, self, head, query, places, scale, biases, scores, out);
            }
        });
    }
}

per_isa! {
    /// `x = x · scale + bias`; no biases are zeros.
    fn adjust(isa, scores: &mut [f32], scale: f32, biases: &[f32]) = adjust_body
}

#[inline(always)]
fn adjust_body<const FMA: bool>(scores: &mut [f32], scale: f32, biases: &[f32]) {
    if biases.is_empty() {
        for score in scores {
            *score *= scale;
        }
    } else {
        for (score, bias) in scores.iter_mut().zip(biases) {
            *score = madd::<FMA>(*score, scale, *bias);
        }
    }
}

per_isa! {
    /// Products of `query` with the keys at `places`, one after another.
    fn scores_of(isa, past: Past<'_>, head: usize, query: &[f32], places: &[u32], scores: &mut [f32]) = scores_of_body
}
per_isa! {
    /// The sum of the values at `places`, each times its weight.
    fn blend(isa, past: Past<'_>, head: usize, places: &[u32], weights: &[f32], out: &mut [f32]) = blend_body
}

#[inline(always)]
fn scores_of_body<const FMA: bool>(past: Past<'_>, head: usize, query: &[f32], places: &[u32], scores: &mut [f32]) {
    const LANES: usize = 16;
    let (width, stride) = (past.width, past.heads * past.width);
    for (place, score) in places.iter().zip(scores) {
        let key = &past.keys[*place as usize * stride + head * width..][..width];
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
        *score = sum;
    }
}

#[inline(always)]
fn blend_body<const FMA: bool>(past: Past<'_>, head: usize, places: &[u32], weights: &[f32], out: &mut [f32]) {
    let (width, stride) = (past.width, past.heads * past.width);
    out.fill(0.0);
    for (place, weight) in places.iter().zip(weights) {
        let value = &past.values[*place as usize * stride + head * width..][..width];
        for (out, value) in out.iter_mut().zip(value) {
            *out = madd::<FMA>(*weight, *value, *out);
        }
    }
}

/// One head of one row.
#[allow(clippy::too_many_arguments)]
fn recall(
    isa: Isa,
    past: Past<'_>,
    head: usize,
    query: &[f32],
    places: &[u32],
    scale: f32,
    biases: &[f32],
    scores: &mut [f32],
    out: &mut [f32],
) {
    scores_of(isa, past, head, query, places, scores);
    for (back, score) in scores.iter_mut().rev().enumerate() {
        *score = *score * scale + biases.get(back).copied().unwrap_or(0.0);
    }
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0;
    softmax_terms(isa, scores, most, &mut total);
    for score in scores.iter_mut() {
        *score /= total;
    }
    blend(isa, past, head, places, scores, out);
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn random(count: usize, seed: u32) -> Vec<f32> {
        (0..count).map(|index| ((index as f32 + 1.0) * 0.731 * seed as f32).sin()).collect()
    }

    /// The definition: softmax over `keys` of scaled products plus biases, then the mean of `values`.
    fn plain(query: &[f32], keys: &[&[f32]], values: &[&[f32]], scale: f32, biases: &[f32]) -> Vec<f32> {
        let dot = |key: &&[f32]| query.iter().zip(*key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let scores = keys.iter().map(dot).zip(biases).map(|(dot, bias)| dot * f64::from(scale) + f64::from(*bias));
        let terms: Vec<f64> = scores.map(f64::exp).collect();
        let total: f64 = terms.iter().sum();
        let mean = |at: usize| terms.iter().zip(values).map(|(t, v)| t * f64::from(v[at])).sum::<f64>() / total;
        (0..query.len()).map(|at| mean(at) as f32).collect()
    }

    fn close(found: &[f32], expected: &[f32], what: &str) {
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 2e-5, "{what}: {found} {expected}");
        }
    }

    #[test]
    fn rows_attend_to_a_memory_as_defined() {
        for (tokens, heads, width, threads) in [(1, 1, 8, 1), (5, 3, 10, 2), (101, 2, 33, 3)] {
            let pool = ThreadPool::new("test", NonZeroUsize::new(threads).unwrap()).unwrap();
            let stride = heads * width;
            let (keys, values, query) =
                (random(tokens * stride, 1), random(tokens * stride, 2), random(tokens * stride, 3));
            let distances = random(heads * (2 * tokens - 1), 4);
            let memory = Memory::pack(&pool, &keys, &values, heads, width);
            assert_eq!(memory.tokens(), tokens);
            for (isa, biased) in Isa::available().into_iter().flat_map(|isa| [(isa, true), (isa, false)]) {
                let mut out = vec![f32::NAN; query.len()];
                let given = biased.then_some(Distances { values: &distances });
                memory.attend(isa, &pool, &query, 0.3, given, &mut out);
                for row in 0..tokens {
                    for head in 0..heads {
                        let part = |all: &'_ [f32], row: usize| all[row * stride + head * width..][..width].to_vec();
                        let (k, v): (Vec<_>, Vec<_>) = (0..tokens).map(|t| (part(&keys, t), part(&values, t))).unzip();
                        let (k, v): (Vec<&[f32]>, Vec<&[f32]>) =
                            (k.iter().map(|k| &k[..]).collect(), v.iter().map(|v| &v[..]).collect());
                        let bias = |t: usize| {
                            if biased { distances[head * (2 * tokens - 1) + tokens - 1 + t - row] } else { 0.0 }
                        };
                        let biases: Vec<f32> = (0..tokens).map(bias).collect();
                        let expected = plain(&part(&query, row), &k, &v, 0.3, &biases);
                        close(&part(&out, row), &expected, isa.name());
                    }
                }
            }
        }
    }

    #[test]
    fn beams_attend_to_their_own_past() {
        let (slots, heads, width) = (9, 3, 20);
        let stride = heads * width;
        let (keys, values) = (random(slots * stride, 1), random(slots * stride, 2));
        let places = [vec![0u32, 3, 4, 8], vec![0, 3, 5, 7], vec![1, 2, 6, 6]];
        let query = random(places.len() * stride, 3);
        let distances = random(heads * 4, 4);
        let pool = ThreadPool::new("test", NonZeroUsize::new(2).unwrap()).unwrap();
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; query.len()];
            let past = Past { keys: &keys, values: &values, heads, width };
            past.attend(isa, &pool, &query, &places, 0.5, &distances, &mut out);
            for (row, places) in places.iter().enumerate() {
                for head in 0..heads {
                    let part = |all: &'static str, slot: u32| {
                        let all = if all == "keys" { &keys } else { &values };
                        &all[slot as usize * stride + head * width..][..width]
                    };
                    let k: Vec<&[f32]> = places.iter().map(|slot| part("keys", *slot)).collect();
                    let v: Vec<&[f32]> = places.iter().map(|slot| part("values", *slot)).collect();
                    let biases: Vec<f32> = (0..4).map(|at| distances[head * 4 + 3 - at]).collect();
                    let at = row * stride + head * width;
                    close(&out[at..at + width], &plain(&query[at..at + width], &k, &v, 0.5, &biases), isa.name());
                }
            }
        }
    }
}

//! Attention over keys and values that stay: an encoder's over its own states, and a decoder's over those of an encoder.
//!
//! Keys and values of a head are packed once, as the fixed matrices of [`crate::linear`] that they are for as long as
//! queries come: `softmax(q Kᵀ) V` is two of its products. There is no mask; every query sees everything.

use std::sync::{PoisonError, RwLock};

use crate::encoder::softmax;
use crate::isa::Isa;
use crate::linear::{Packed, Rows, linear};
use crate::threads::{Scatter, ThreadPool};

/// Queries that meet a head's keys at a time: twice what the product takes, so that scores stay in the cache.
const QUERIES: usize = 24;

/// Keys and values of every head.
#[derive(Debug, Default)]
pub struct FixedHeads {
    heads: Vec<RwLock<Head>>,
    positions: usize,
    width: usize,
}

#[derive(Debug, Default)]
struct Head {
    keys: Packed,
    values: Packed,
}

/// What a thread needs of its own.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    out: Vec<f32>,
}

impl FixedHeads {
    /// Packs `keys` and `values`, rows of `heads` times as many values as a head is wide. Reuses memory.
    pub fn pack(&mut self, pool: &ThreadPool, keys: &[f32], values: &[f32], heads: usize, width: usize) {
        let row = heads * width;
        assert!(row > 0 && keys.len() == values.len() && keys.len().is_multiple_of(row), "keys and values differ");
        let positions = keys.len() / row;
        self.heads.resize_with(heads, RwLock::default);
        (self.positions, self.width) = (positions, width);
        let all = &self.heads;
        pool.for_each_chunk(
            heads,
            1,
            || (),
            |(), range| {
                for head in range {
                    let mut packed = all[head].write().unwrap_or_else(PoisonError::into_inner);
                    let at = |position: usize, column: usize| position * row + head * width + column;
                    packed.keys.pack(positions, width, |position, column| keys[at(position, column)]);
                    packed.values.pack(width, positions, |column, position| values[at(position, column)]);
                }
            },
        );
    }

    /// How many keys a head has.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// The attention of every row of `queries`, scaled already, into the same row of `out`.
    pub fn attend(&self, isa: Isa, pool: &ThreadPool, queries: &[f32], out: &mut [f32]) {
        let (width, positions) = (self.width, self.positions);
        let row = self.heads.len() * width;
        assert!(queries.len() == out.len() && row > 0 && out.len().is_multiple_of(row), "queries and outputs differ");
        let parts = (queries.len() / row).div_ceil(QUERIES);
        let scatter = Scatter::new(out);
        let units = self.heads.len() * parts;
        pool.for_each_chunk(units, units / (pool.threads() * 6), Scratch::default, |scratch, range| {
            for unit in range {
                let (head, first) = (unit / parts, unit % parts * QUERIES);
                let rows = rows(queries, first, row, head * width, width);
                let count = rows.count;
                let head_matrices = self.heads[head].read().unwrap_or_else(PoisonError::into_inner);
                scratch.scores.resize(count * positions, 0.0);
                scratch.out.resize(count * width, 0.0);
                linear(isa, rows, &head_matrices.keys, &[], &mut scratch.scores, positions);
                softmax(isa, &mut scratch.scores, positions);
                let scores = Rows::dense(&scratch.scores, positions);
                linear(isa, scores, &head_matrices.values, &[], &mut scratch.out, width);
                for (index, values) in scratch.out.chunks_exact(width).enumerate() {
                    let start = (first + index) * row + head * width;
                    // SAFETY: a head's columns of a row are written by the one thread that took the unit, and no
                    // other slice of them is alive.
                    unsafe { scatter.slice(start..start + width) }.copy_from_slice(values);
                }
            }
        });
    }

    /// The scores of `head` for every row of `queries` before the softmax: a row of [`Self::positions`] values each.
    pub fn scores(&self, isa: Isa, queries: &[f32], head: usize) -> Vec<f32> {
        let (row, count) = (self.heads.len() * self.width, queries.len() / (self.heads.len() * self.width));
        let mut scores = vec![0.0; count * self.positions];
        let head_matrices = self.heads[head].read().unwrap_or_else(PoisonError::into_inner);
        let rows = Rows { data: &queries[head * self.width..], stride: row, count };
        linear(isa, rows, &head_matrices.keys, &[], &mut scores, self.positions);
        scores
    }
}

/// Up to [`QUERIES`] rows from `first` on, in each the columns of one head.
fn rows(queries: &[f32], first: usize, row: usize, column: usize, width: usize) -> Rows<'_> {
    let count = QUERIES.min(queries.len() / row - first);
    let start = first * row + column;
    let end = start + (count - 1) * row + width;
    Rows { data: &queries[start..end], stride: row, count }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        (0..count).map(|index| ((index as f32 + seed as f32 * 0.37) * 1.731).sin()).collect()
    }

    #[test]
    fn it_is_softmax_of_scores_times_values() {
        let (heads, width) = (3, 10);
        let row = heads * width;
        for (count, positions, threads) in [(1, 1, 1), (5, 33, 2), (50, 70, 3)] {
            let pool = ThreadPool::new("test", NonZeroUsize::new(threads).unwrap()).unwrap();
            let (queries, keys) = (numbers(count * row, 1), numbers(positions * row, 2));
            let values = numbers(positions * row, 3);
            let mut fixed = FixedHeads::default();
            fixed.pack(&pool, &keys, &values, heads, width);
            let mut out = vec![f32::NAN; queries.len()];
            fixed.attend(Isa::best(), &pool, &queries, &mut out);
            for head in 0..heads {
                let scores = fixed.scores(Isa::best(), &queries, head);
                for query in 0..count {
                    let part = |rows: &[f32], index: usize| rows[index * row + head * width..][..width].to_vec();
                    let dot = |position| -> f64 {
                        let pairs = part(&queries, query).into_iter().zip(part(&keys, position));
                        pairs.map(|(a, b)| f64::from(a) * f64::from(b)).sum()
                    };
                    let exact: Vec<f64> = (0..positions).map(dot).collect();
                    for (score, exact) in scores[query * positions..][..positions].iter().zip(&exact) {
                        assert!((f64::from(*score) - exact).abs() < 1e-4);
                    }
                    let total: f64 = exact.iter().map(|score| score.exp()).sum();
                    for column in 0..width {
                        let terms = exact.iter().enumerate();
                        let sum: f64 =
                            terms.map(|(at, score)| score.exp() * f64::from(part(&values, at)[column])).sum();
                        let got = f64::from(part(&out, query)[column]);
                        assert!((got - sum / total).abs() < 1e-5, "{got} {}", sum / total);
                    }
                }
            }
        }
    }
}

//! Scaled dot-product attention over dense rows, head by head on several threads.

use crate::encoder;
use crate::isa::Isa;
use crate::linear::{Packed, Rows, linear};
use crate::threads::{Scatter, ThreadPool};

/// Queries whose scores are in memory at once.
const QUERIES: usize = 64;

/// What attends to what. Head `h` of a row lies at its values `h * width..(h + 1) * width`.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// Rows that ask.
    pub queries: Rows<'a>,
    /// Rows they are compared with.
    pub keys: Rows<'a>,
    /// Rows they are answered with, as many as keys.
    pub values: Rows<'a>,
    /// Heads of a row.
    pub heads: usize,
    /// Values of a head.
    pub width: usize,
    /// Whether a query sees only keys up to its own place, the last query being at the last key's.
    pub causal: bool,
}

#[derive(Default)]
struct Scratch {
    keys: Packed,
    values: Packed,
    scores: Vec<f32>,
}

/// The answers, a dense row per query; scores are divided by the root of a head's width.
///
/// # Panics
/// When the rows do not fit each other, or a causal query would see no key.
pub fn attend(isa: Isa, pool: &ThreadPool, attention: &Attention<'_>) -> Vec<f32> {
    let Attention { queries, keys, values, heads, width, causal } = *attention;
    assert_eq!(keys.count, values.count, "as many keys as values");
    assert!(!causal || queries.count <= keys.count, "{} queries see {} keys", queries.count, keys.count);
    if queries.count == 0 || keys.count == 0 || heads * width == 0 {
        return vec![0.0; queries.count * heads * width];
    }
    let size = queries.count * width;
    let mut by_head = vec![0.0; heads * size];
    let out = Scatter::new(&mut by_head);
    pool.for_each_chunk(heads, 1, Scratch::default, |scratch: &mut Scratch, range| {
        for head in range {
            // SAFETY: heads do not overlap.
            one_head(isa, attention, head, scratch, unsafe { out.slice(head * size..(head + 1) * size) });
        }
    });
    let mut rows = vec![0.0; by_head.len()];
    for (head, answers) in by_head.chunks_exact(size).enumerate() {
        for (answer, row) in answers.chunks_exact(width).zip(rows.chunks_exact_mut(heads * width)) {
            row[head * width..][..width].copy_from_slice(answer);
        }
    }
    rows
}

fn one_head(isa: Isa, attention: &Attention<'_>, head: usize, scratch: &mut Scratch, out: &mut [f32]) {
    let Attention { queries, keys, values, width, causal, .. } = *attention;
    let column = head * width;
    let scale = 1.0 / (width as f32).sqrt();
    let count = keys.count;
    scratch.keys.pack(count, width, |row, value| keys.data[row * keys.stride + column + value] * scale);
    scratch.values.pack(width, count, |value, row| values.data[row * values.stride + column + value]);
    for first in (0..queries.count).step_by(QUERIES) {
        let rows = QUERIES.min(queries.count - first);
        let block =
            Rows { data: &queries.data[first * queries.stride + column..], stride: queries.stride, count: rows };
        scratch.scores.resize(rows * count, 0.0);
        linear(isa, block, &scratch.keys, &[], &mut scratch.scores, count);
        if causal {
            for (row, scores) in scratch.scores.chunks_exact_mut(count).enumerate() {
                scores[first + row + count - queries.count + 1..].fill(f32::NEG_INFINITY);
            }
        }
        encoder::softmax(isa, &mut scratch.scores, count);
        let scores = Rows::dense(&scratch.scores, count);
        linear(isa, scores, &scratch.values, &[], &mut out[first * width..], width);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    #[test]
    fn attention_is_its_definition() {
        let pool = ThreadPool::new("test", NonZeroUsize::new(2).unwrap()).unwrap();
        let (heads, width, stride) = (3, 4, 15);
        let numbers = |rows: usize, seed: f32| -> Vec<f32> {
            (0..rows * stride).map(|i| (i as f32 * 0.37 + seed).sin() * 2.0).collect()
        };
        for (asked, known, causal) in [(5, 9, false), (9, 9, true), (1, 6, true), (70, 70, true), (66, 3, false)] {
            let (q, k, v) = (numbers(asked, 0.0), numbers(known, 1.0), numbers(known, 2.0));
            let rows = |data| Rows { data, stride, count: 0 };
            let attention = Attention {
                queries: Rows { count: asked, ..rows(&q) },
                keys: Rows { count: known, ..rows(&k) },
                values: Rows { count: known, ..rows(&v) },
                heads,
                width,
                causal,
            };
            let got = attend(Isa::best(), &pool, &attention);
            for query in 0..asked {
                for head in 0..heads {
                    let seen = if causal { query + known - asked + 1 } else { known };
                    let at =
                        |data: &[f32], row: usize, value: usize| f64::from(data[row * stride + head * width + value]);
                    let score = |key: usize| (0..width).map(|i| at(&q, query, i) * at(&k, key, i)).sum::<f64>() / 2.0;
                    let weights: Vec<f64> = (0..seen).map(|key| score(key).exp()).collect();
                    for value in 0..width {
                        let sum: f64 =
                            weights.iter().enumerate().map(|(key, weight)| weight * at(&v, key, value)).sum();
                        let expected = sum / weights.iter().sum::<f64>();
                        let got = f64::from(got[(query * heads + head) * width + value]);
                        assert!((got - expected).abs() < 1e-5, "{asked} {known} {causal}: {got} {expected}");
                    }
                }
            }
        }
    }
}

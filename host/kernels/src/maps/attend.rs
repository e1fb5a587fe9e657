//! Attention of all queries over all keys, in blocks of queries.
//!
//! Keys and values of a head are packed once, as the fixed matrices of two products ([`crate::linear`]); of the scores
//! only those of one block of queries exist at a time on each thread.

use std::sync::OnceLock;

use super::Scatter;
use crate::encoder::softmax;
use crate::isa::Isa;
use crate::linear::{Packed, Rows, linear};
use crate::threads::ThreadPool;

/// Queries whose scores exist at a time.
const BLOCK: usize = 48;

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
    /// Whether a query sees only the keys up to its own place.
    pub causal: bool,
}

#[derive(Default)]
struct Scratch {
    queries: Vec<f32>,
    scores: Vec<f32>,
    out: Vec<f32>,
}

/// `softmax(scale · Q Kᵀ + bias) V` for each head; `out` has a dense row of all heads for each query.
pub fn attend(isa: Isa, pool: &ThreadPool, attention: &Attention<'_>, out: &mut [f32]) {
    let &Attention { queries, keys, values, heads, width, scale, bias, causal } = attention;
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
    let packed = pack(pool, keys, values, heads, width);
    let blocks = queries.count.div_ceil(BLOCK);
    let target = Scatter::new(out);
    pool.for_each_chunk(heads * blocks, 1, Scratch::default, |scratch, units| {
        for unit in units {
            let (head, first) = (unit / blocks, unit % blocks * BLOCK);
            let count = BLOCK.min(queries.count - first);
            let [Some(keys_of), Some(values_of)] = [packed[2 * head].get(), packed[2 * head + 1].get()] else {
                unreachable!("every head was packed")
            };
            scratch.queries.clear();
            for query in first..first + count {
                let start = query * queries.stride + head * width;
                scratch.queries.extend(queries.data[start..start + width].iter().map(|value| value * scale));
            }
            scratch.scores.resize(count * keys.count, 0.0);
            linear(isa, Rows::dense(&scratch.queries, width), keys_of, &[], &mut scratch.scores, keys.count);
            if !bias.is_empty() {
                let start = (head * queries.count + first) * keys.count;
                let bias = &bias[start..start + count * keys.count];
                scratch.scores.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
            }
            if causal {
                for (query, scores) in (first..).zip(scratch.scores.chunks_exact_mut(keys.count)) {
                    let (seen, unseen) = scores.split_at_mut(query + 1);
                    softmax(isa, seen, query + 1);
                    unseen.fill(0.0);
                }
            } else {
                softmax(isa, &mut scratch.scores, keys.count);
            }
            scratch.out.resize(count * width, 0.0);
            linear(isa, Rows::dense(&scratch.scores, keys.count), values_of, &[], &mut scratch.out, width);
            for (query, values) in (first..).zip(scratch.out.chunks_exact(width)) {
                let start = query * row + head * width;
                // SAFETY: a head's values of a query are written by the one thread that took both, one slice at a time.
                unsafe { target.slice(start..start + width) }.copy_from_slice(values);
            }
        }
    });
}

/// Each head's keys, and its values turned over.
fn pack(pool: &ThreadPool, keys: Rows<'_>, values: Rows<'_>, heads: usize, width: usize) -> Vec<OnceLock<Packed>> {
    let packed: Vec<OnceLock<Packed>> = (0..2 * heads).map(|_| OnceLock::new()).collect();
    pool.for_each_chunk(
        2 * heads,
        1,
        || (),
        |(), units| {
            for unit in units {
                let (head, mut fixed) = (unit / 2 * width, Packed::default());
                if unit % 2 == 0 {
                    fixed.pack(keys.count, width, |key, i| keys.data[key * keys.stride + head + i]);
                } else {
                    fixed.pack(width, values.count, |i, key| values.data[key * values.stride + head + i]);
                }
                // Each is set once.
                let _ = packed[unit].set(fixed);
            }
        },
    );
    packed
}

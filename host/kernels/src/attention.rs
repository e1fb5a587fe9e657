//! Causal attention of a ragged batch over the paged cache.
//!
//! A batch is a list of spans, each some consecutive tokens of one sequence: one token when it decodes, many while its
//! prompt is read. A unit of work is up to 32 queries that share a key-value head (neighbouring tokens and the heads of
//! a group), which walk the sequence's blocks once with a running softmax (Milakov & Gimelshein 2018; the tiling of
//! FlashAttention, Dao et al. 2022). Blocks start at fixed positions and a query meets them in order, so its result
//! does not depend on how the prompt was cut into spans.

use std::ops::Range;

use crate::elementwise::{exp, widen};
use crate::isa::{Isa, Level, per_isa};
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

/// Attends with `queries` (rows of `heads` heads) over each span's own sequence up to each row's own position and
/// writes rows of the same shape to `out`. Scores are multiplied by `scale`; query head `h` reads key-value head
/// `h / (heads / kv heads)`.
#[allow(clippy::too_many_arguments)]
pub fn attend(
    isa: Isa,
    pool: &ThreadPool,
    store: &KvStore,
    layer: usize,
    spans: &[Span<'_>],
    heads: usize,
    scale: f32,
    queries: &[f32],
    out: &mut [f32],
) {
    let shape = store.shape();
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
            attend_unit(isa, store, layer, unit, (heads, group, scale), queries, scratch);
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
    (heads, group, scale): (usize, usize, f32),
    queries: &[f32],
    scratch: &mut Scratch,
) {
    let shape = store.shape();
    let (width, padded) = (shape.width, shape.padded());
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
    for (b, block) in unit.span.blocks[..=last / BLOCK_TOKENS].iter().enumerate() {
        let (keys, values) = store.head(*block, layer, unit.head);
        widen(isa, keys, &mut scratch.keys);
        widen(isa, values, &mut scratch.values);
        let start = b * BLOCK_TOKENS;
        // Rows before this block's start see nothing of it.
        let skipped = start.saturating_sub(first) * group;
        let seen = |query: usize| (first + query / group + 1 - start).min(BLOCK_TOKENS);
        let mut query = skipped;
        while query < count {
            let taken = if count - query >= 4 { 4 } else { 1 };
            let scores = &mut scratch.scores[query..query + taken];
            scores.fill([0.0; BLOCK_TOKENS]);
            panel(
                isa,
                &scratch.queries[query * width..(query + taken) * width],
                width,
                &scratch.keys,
                BLOCK_TOKENS,
                scores,
                1,
            );
            for (i, scores) in scores.iter_mut().enumerate() {
                softmax_block(isa, scores, seen(query + i), &mut scratch.states[query + i]);
            }
            // Beyond what each query sees its weights are 0, but rows beyond all of them may hold anything.
            let tokens = seen(query + taken - 1);
            for p in 0..panels {
                for (i, state) in scratch.states[query..query + taken].iter().enumerate() {
                    for sum in &mut scratch.sums[(query + i) * panels + p] {
                        *sum *= state.correction;
                    }
                }
                let sums = &mut scratch.sums[query * panels + p..(query + taken - 1) * panels + p + 1];
                let weights = scratch.scores[query..query + taken].as_flattened();
                panel_of(
                    isa,
                    weights,
                    (BLOCK_TOKENS, tokens),
                    &scratch.values[p * BLOCK_TOKENS..],
                    padded,
                    sums,
                    panels,
                );
            }
            query += taken;
        }
    }
}

#[inline(always)]
fn softmax_block_body<const FMA: bool>(scores: &mut [f32; BLOCK_TOKENS], seen: usize, state: &mut State) {
    let mut lanes = [f32::NEG_INFINITY; 16];
    for (i, s) in scores.iter_mut().enumerate() {
        *s = if i < seen { *s } else { f32::NEG_INFINITY };
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
            *s = if h * 16 + i < seen { term } else { 0.0 };
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
    /// Takes the first `seen` scores of a block into a query's running softmax and leaves their weights.
    fn softmax_block(isa, scores: &mut [f32; BLOCK_TOKENS], seen: usize, state: &mut State) = softmax_block_body
}

/// [`panel_of`] over coefficients that lie without gaps.
fn panel(
    isa: Isa,
    coefficients: &[f32],
    depth: usize,
    matrix: &[f32],
    stride: usize,
    sums: &mut [[f32; 32]],
    step: usize,
) {
    panel_of(isa, coefficients, (depth, depth), matrix, stride, sums, step);
}

/// `sums[q · step] += Σ_j coefficients[q · row + j] · matrix[j · stride ..][..32]` for `j < depth`: the one product that both halves
/// of attention are made of. `sums` holds every `step`-th panel of one or four queries.
fn panel_of(
    isa: Isa,
    coefficients: &[f32],
    (row, depth): (usize, usize),
    matrix: &[f32],
    stride: usize,
    sums: &mut [[f32; 32]],
    step: usize,
) {
    let queries = sums.len().div_ceil(step);
    assert!(
        depth > 0 && depth <= row && coefficients.len() >= queries * row && matrix.len() >= (depth - 1) * stride + 32
    );
    match isa.0 {
        Level::Scalar => {
            for (q, sums) in sums.iter_mut().step_by(step).enumerate() {
                for (j, c) in coefficients[q * row..][..depth].iter().enumerate() {
                    for (sum, m) in sums.iter_mut().zip(&matrix[j * stride..][..32]) {
                        *sum += c * m;
                    }
                }
            }
        }
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of this level exists only where detection found these features; sizes are asserted above.
        Level::Avx2 | Level::AvxVnni => unsafe {
            for (q, sums) in sums.iter_mut().step_by(step).enumerate() {
                x86::avx2(&coefficients[q * row..][..depth], matrix.as_ptr(), stride, sums);
            }
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512Vnni => unsafe {
            if queries == 4 {
                x86::avx512::<4>(coefficients, (row, depth), matrix.as_ptr(), stride, sums, step);
            } else {
                for (q, sums) in sums.iter_mut().step_by(step).enumerate() {
                    let sums = std::slice::from_mut(sums);
                    x86::avx512::<1>(&coefficients[q * row..], (row, depth), matrix.as_ptr(), stride, sums, 1);
                }
            }
        },
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// # Safety
    /// `matrix` has 32 values at each multiple of `stride` below `coefficients.len()`.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(coefficients: &[f32], matrix: *const f32, stride: usize, sums: &mut [f32; 32]) {
        let mut acc = [_mm256_setzero_ps(); 4];
        for (i, acc) in acc.iter_mut().enumerate() {
            // SAFETY: 4 times 8 of 32 values.
            *acc = unsafe { _mm256_loadu_ps(sums.as_ptr().add(i * 8)) };
        }
        for (j, c) in coefficients.iter().enumerate() {
            let c = _mm256_set1_ps(*c);
            for (i, acc) in acc.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                *acc = _mm256_fmadd_ps(c, unsafe { _mm256_loadu_ps(matrix.add(j * stride + i * 8)) }, *acc);
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            // SAFETY: 4 times 8 of 32 values.
            unsafe { _mm256_storeu_ps(sums.as_mut_ptr().add(i * 8), *acc) };
        }
    }

    /// # Safety
    /// `matrix` has 32 values at each multiple of `stride` below `depth`; `coefficients` has `Q` rows of `row`, of which
    /// the last may end after `depth`; `sums` has `Q` panels, one each `step`.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512<const Q: usize>(
        coefficients: &[f32],
        (row, depth): (usize, usize),
        matrix: *const f32,
        stride: usize,
        sums: &mut [[f32; 32]],
        step: usize,
    ) {
        assert!(sums.len() > (Q - 1) * step && coefficients.len() >= (Q - 1) * row + depth);
        let mut acc = [[_mm512_setzero_ps(); 2]; Q];
        for (q, acc) in acc.iter_mut().enumerate() {
            let sums = &sums[q * step];
            // SAFETY: twice 16 of 32 values.
            *acc = unsafe { [_mm512_loadu_ps(sums.as_ptr()), _mm512_loadu_ps(sums.as_ptr().add(16))] };
        }
        let start = coefficients.as_ptr();
        for j in 0..depth {
            // SAFETY: the caller's promise.
            let m = unsafe { [_mm512_loadu_ps(matrix.add(j * stride)), _mm512_loadu_ps(matrix.add(j * stride + 16))] };
            for (q, acc) in acc.iter_mut().enumerate() {
                // SAFETY: row `q < Q`, column `j < depth`, in bounds by the assertion.
                let c = _mm512_set1_ps(unsafe { *start.add(q * row + j) });
                acc[0] = _mm512_fmadd_ps(c, m[0], acc[0]);
                acc[1] = _mm512_fmadd_ps(c, m[1], acc[1]);
            }
        }
        for (q, acc) in acc.iter().enumerate() {
            let sums = &mut sums[q * step];
            // SAFETY: twice 16 of 32 values.
            unsafe {
                _mm512_storeu_ps(sums.as_mut_ptr(), acc[0]);
                _mm512_storeu_ps(sums.as_mut_ptr().add(16), acc[1]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::kv::KvShape;

    struct Case {
        store: KvStore,
        blocks: Vec<Vec<u32>>,
        /// By sequence and position: keys and values as the store rounds them.
        tokens: Vec<Vec<(Vec<f32>, Vec<f32>)>>,
    }

    fn case(shape: KvShape, lengths: &[usize], rng: &mut impl Rng) -> Case {
        let needed: usize = lengths.iter().map(|n| n.div_ceil(BLOCK_TOKENS)).sum();
        let mut store = KvStore::new(shape, needed);
        // Stale values of an earlier owner must never matter.
        store.write(
            Isa::SCALAR,
            0,
            31,
            0,
            &vec![f32::NAN; shape.heads * shape.width],
            &vec![f32::NAN; shape.heads * shape.width],
        );
        let mut free: Vec<u32> = (0..needed as u32).collect();
        let mut row = || {
            (0..shape.heads * shape.width).map(|_| half::f16::from_f32(rng.random_range(-2.0..2.0)).to_f32()).collect()
        };
        let (mut blocks, mut tokens) = (Vec::new(), Vec::new());
        for length in lengths {
            let own: Vec<u32> = (0..length.div_ceil(BLOCK_TOKENS)).map(|i| free.remove((i * 7) % free.len())).collect();
            let own_tokens: Vec<(Vec<f32>, Vec<f32>)> = (0..*length).map(|_| (row(), row())).collect();
            for (p, (k, v)) in own_tokens.iter().enumerate() {
                store.write(Isa::SCALAR, own[p / BLOCK_TOKENS], p % BLOCK_TOKENS, 0, k, v);
            }
            blocks.push(own);
            tokens.push(own_tokens);
        }
        Case { store, blocks, tokens }
    }

    /// Softmax attention by its definition, in double precision.
    fn exact(case: &Case, sequence: usize, position: usize, query: &[f32], heads: usize) -> Vec<f32> {
        let KvShape { heads: kv_heads, width, .. } = case.store.shape();
        let tokens = &case.tokens[sequence][..=position];
        let mut out = Vec::new();
        for h in 0..heads {
            let kv = h / (heads / kv_heads) * width;
            let q = &query[h * width..][..width];
            let scores: Vec<f64> = tokens
                .iter()
                .map(|(k, _)| q.iter().zip(&k[kv..]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() * 0.3)
                .collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
            for d in 0..width {
                let sum: f64 =
                    scores.iter().zip(tokens).map(|(s, (_, v))| (s - largest).exp() * f64::from(v[kv + d])).sum();
                out.push((sum / total) as f32);
            }
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn ragged_batches_match_the_definition(
            lengths in prop::collection::vec(1usize..100, 1..4), kv_heads in 1usize..3, group in 1usize..5,
            width in prop::sample::select(vec![16usize, 32, 48, 64]), threads in 1usize..3, seed in any::<u64>(),
        ) {
            let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
            let heads = kv_heads * group;
            let case = case(KvShape { layers: 1, heads: kv_heads, width }, &lengths, &mut rng);
            let pool = ThreadPool::new("test", NonZeroUsize::new(threads).unwrap()).unwrap();
            let starts: Vec<usize> = lengths.iter().map(|n| rng.random_range(0..*n)).collect();
            let (mut spans, mut rows) = (Vec::new(), 0);
            for (s, length) in lengths.iter().enumerate() {
                let count = length - starts[s];
                spans.push(Span { rows: rows..rows + count, position: starts[s], blocks: &case.blocks[s] });
                rows += count;
            }
            let q: Vec<f32> = (0..rows * heads * width).map(|_| rng.random_range(-2.0..2.0)).collect();
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; q.len()];
                attend(isa, &pool, &case.store, 0, &spans, heads, 0.3, &q, &mut out);
                for (s, span) in spans.iter().enumerate() {
                    for (i, row) in span.rows.clone().enumerate() {
                        let range = row * heads * width..(row + 1) * heads * width;
                        let expected = exact(&case, s, span.position + i, &q[range.clone()], heads);
                        for (a, b) in out[range.clone()].iter().zip(&expected) {
                            prop_assert!((a - b).abs() < 2e-5, "{} row {row}: {a} {b}", isa.name());
                        }
                        // A token decoded alone gives the same bits as in a long span.
                        let alone = [Span { rows: 0..1, position: span.position + i, blocks: span.blocks }];
                        let mut single = vec![f32::NAN; heads * width];
                        attend(isa, &pool, &case.store, 0, &alone, heads, 0.3, &q[range.clone()], &mut single);
                        prop_assert_eq!(&single[..], &out[range]);
                    }
                }
            }
        }
    }
}

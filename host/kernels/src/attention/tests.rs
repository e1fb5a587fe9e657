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
    let mut row =
        || (0..shape.heads * shape.width).map(|_| half::f16::from_f32(rng.random_range(-2.0..2.0)).to_f32()).collect();
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
fn exact(case: &Case, sequence: usize, position: usize, query: &[f32], attention: Attention) -> Vec<f32> {
    let KvShape { heads: kv_heads, width, .. } = case.store.shape();
    let Attention { heads, scale, window, softcap } = attention;
    let oldest = window.map_or(0, |window| (position + 1).saturating_sub(window.get()));
    let tokens = &case.tokens[sequence][oldest..=position];
    let capped = |score: f64| softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh());
    let mut out = Vec::new();
    for h in 0..heads {
        let kv = h / (heads / kv_heads) * width;
        let q = &query[h * width..][..width];
        let scores: Vec<f64> = tokens
            .iter()
            .map(|(k, _)| q.iter().zip(&k[kv..]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>())
            .map(|score| capped(score * f64::from(scale)))
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
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn ragged_batches_match_the_definition(
        lengths in prop::collection::vec(1usize..100, 1..4), kv_heads in 1usize..3, group in 1usize..5,
        width in prop::sample::select(vec![16usize, 32, 40, 64, 80]), threads in 1usize..3, seed in any::<u64>(),
        window in prop::option::of(1usize..80), softcap in prop::option::of(2f32..50.0),
    ) {
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let heads = kv_heads * group;
        let attention = Attention { heads, scale: 0.3, window: window.and_then(NonZeroUsize::new), softcap };
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
            attend(isa, &pool, &case.store, 0, &spans, attention, &q, &mut out);
            for (s, span) in spans.iter().enumerate() {
                for (i, row) in span.rows.clone().enumerate() {
                    let range = row * heads * width..(row + 1) * heads * width;
                    let expected = exact(&case, s, span.position + i, &q[range.clone()], attention);
                    for (a, b) in out[range.clone()].iter().zip(&expected) {
                        prop_assert!((a - b).abs() < 2e-5, "{} row {row}: {a} {b}", isa.name());
                    }
                    // A token decoded alone gives the same bits as in a long span.
                    let alone = [Span { rows: 0..1, position: span.position + i, blocks: span.blocks }];
                    let mut single = vec![f32::NAN; heads * width];
                    attend(isa, &pool, &case.store, 0, &alone, attention, &q[range.clone()], &mut single);
                    prop_assert_eq!(&single[..], &out[range]);
                }
            }
        }
    }
}

/// What a window has left behind may belong to another sequence already.
#[test]
fn blocks_before_the_window_are_not_read() {
    let mut rng = rand::rngs::StdRng::seed_from_u64(7);
    let shape = KvShape { layers: 1, heads: 1, width: 32 };
    let mut case = case(shape, &[100], &mut rng);
    let pool = ThreadPool::new("test", NonZeroUsize::MIN).unwrap();
    let attention = Attention { window: NonZeroUsize::new(10), ..Attention::new(1, 0.3) };
    let queries: Vec<f32> = (0..20 * 32).map(|_| rng.random_range(-2.0..2.0)).collect();
    let run = |case: &Case| {
        let mut out = vec![f32::NAN; queries.len()];
        let spans = [Span { rows: 0..20, position: 80, blocks: &case.blocks[0] }];
        attend(Isa::best(), &pool, &case.store, 0, &spans, attention, &queries, &mut out);
        out
    };
    let before = run(&case);
    // The first of these queries, at 80, sees 71 and later: the third block.
    for block in &case.blocks[0][..2] {
        case.store.write(Isa::SCALAR, *block, 5, 0, &[f32::NAN; 32], &[f32::NAN; 32]);
    }
    assert_eq!(run(&case), before);
}

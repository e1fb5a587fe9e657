//! Low-rank updates of single rows of a batch: `y += scale · B (A x)`, the LoRA of Hu et al. 2021 without merging.
//!
//! Rows of one batch may have different adapters or none, so the product with the base weight stays one product for all
//! rows and each adapter adds its part to its own rows alone, as in Punica (Chen et al. 2023) and S-LoRA (Sheng et al.
//! 2023). Rows of one adapter are given together, wherever they lie in the batch: its weights are then read and widened
//! once for all of them. A row's update is summed in one order, whichever rows share the call, so its result is the same
//! to the bit alone and in any batch; rows without an adapter are not touched.
//!
//! Both factors are kept by rank and in the type that they were stored in: `A` as `[rank][inputs]`, so that a value of
//! `A x` is one dot product, and `B` as `[rank][outputs]`, so that neighbouring outputs are one vector. Sums are float32.

use std::ops::Range;
use std::sync::Arc;

use crate::elementwise::{madd, widen};
use crate::isa::{Isa, per_isa};
use crate::threads::{Scatter, ThreadPool};

/// Outputs that a unit of work computes.
const BLOCK: usize = 64;
/// Multiplications below which work is not worth another thread.
const MIN_WORK: usize = 1 << 15;

/// Numbers in the type that they were stored in.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// IEEE 754 binary32.
    F32(Vec<f32>),
    /// IEEE 754 binary16, as bits.
    F16(Vec<u16>),
    /// The upper half of a binary32, as bits.
    Bf16(Vec<u16>),
}

impl Values {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(bits) | Self::Bf16(bits) => bits.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether none is infinite or no number.
    pub fn all_finite(&self) -> bool {
        match self {
            Self::F32(values) => values.iter().all(|value| value.is_finite()),
            Self::F16(bits) => bits.iter().all(|bits| bits & 0x7c00 != 0x7c00),
            Self::Bf16(bits) => bits.iter().all(|bits| bits & 0x7f80 != 0x7f80),
        }
    }

    /// Columns by rows, of rows of `columns` values each.
    fn transposed(&self, columns: usize) -> Self {
        fn turn<T: Copy>(values: &[T], columns: usize) -> Vec<T> {
            (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns).copied()).collect()
        }
        match self {
            Self::F32(values) => Self::F32(turn(values, columns)),
            Self::F16(bits) => Self::F16(turn(bits, columns)),
            Self::Bf16(bits) => Self::Bf16(turn(bits, columns)),
        }
    }

    /// The values `range` as float32; `wide` is used where they are not yet.
    fn wide<'a>(&'a self, isa: Isa, range: Range<usize>, wide: &'a mut Vec<f32>) -> &'a [f32] {
        wide.resize(range.len(), 0.0);
        match self {
            Self::F32(values) => return &values[range],
            Self::F16(bits) => widen(isa, &bits[range], wide),
            Self::Bf16(bits) => widen_bf16(isa, &bits[range], wide),
        }
        wide
    }
}

/// The two factors of an update of one weight matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRank {
    rank: usize,
    scale: f32,
    /// `[rank][inputs]`.
    down: Arc<Values>,
    /// `[rank][outputs]`.
    up: Values,
}

impl LowRank {
    /// The update `scale · up · down`, with `down` (`A`) as `[rank][inputs]` and `up` (`B`) as `[outputs][rank]`. Updates of
    /// parts of one fused weight share their `down`.
    pub fn new(rank: usize, scale: f32, down: Arc<Values>, up: &Values) -> Self {
        assert!(
            rank > 0 && down.len().is_multiple_of(rank) && up.len().is_multiple_of(rank),
            "factors of no such rank"
        );
        Self { rank, scale, down, up: up.transposed(rank) }
    }

    /// Columns of `B`, rows of `A`.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Values of a row of `x`.
    pub fn inputs(&self) -> usize {
        self.down.len() / self.rank
    }

    /// Values of a row of `y`.
    pub fn outputs(&self) -> usize {
        self.up.len() / self.rank
    }
}

/// An update of some rows of one output.
#[derive(Debug, Clone, Copy)]
pub struct Update<'a> {
    /// What is added.
    pub factors: &'a LowRank,
    /// Which of the outputs it is added to.
    pub output: usize,
    /// The rows. No two updates of an output may name the same row.
    pub rows: &'a [usize],
}

/// Adds each update to its rows of its output: `y[row] += scale · B (A x[row])`. `x` has rows of `columns` values, the
/// outputs as many rows of what their updates give; `hidden` is a buffer for `A x`.
pub fn add_low_rank(
    isa: Isa,
    pool: &ThreadPool,
    x: &[f32],
    columns: usize,
    outputs: &mut [&mut [f32]],
    updates: &[Update<'_>],
    hidden: &mut Vec<f32>,
) {
    check(x, columns, outputs, updates);
    let downs = units(updates, |update| update.factors.rank);
    let places = downs.iter().map(|down| updates[down.update].rows.len());
    let starts: Vec<usize> = places.scan(0, |end, length| Some(std::mem::replace(end, *end + length))).collect();
    hidden.clear();
    hidden.resize(updates.iter().map(|update| update.factors.rank * update.rows.len()).sum(), 0.0);
    let work: usize = updates.iter().map(|update| update.rows.len() * update.factors.down.len()).sum();
    let scattered = Scatter::new(hidden);
    pool.for_each_chunk(downs.len(), chunk(pool, downs.len(), work), Vec::new, |wide, range| {
        for unit in range {
            let Unit { update, part } = downs[unit];
            let Update { factors, rows, .. } = updates[update];
            let factor = factors.down.wide(isa, part * columns..(part + 1) * columns, wide);
            // SAFETY: each unit has places of its own.
            let out = unsafe { scattered.slice(starts[unit]..starts[unit] + rows.len()) };
            dots(isa, x, columns, rows, factor, factors.scale, out);
        }
    });

    let ups = units(updates, |update| update.factors.outputs().div_ceil(BLOCK));
    let work: usize = updates.iter().map(|update| update.rows.len() * update.factors.up.len()).sum();
    // Where the values of each update begin: at those of its first unit.
    let firsts: Vec<usize> = downs.iter().zip(&starts).filter(|(down, _)| down.part == 0).map(|(_, at)| *at).collect();
    let targets: Vec<Scatter<'_>> = outputs.iter_mut().map(|output| Scatter::new(output)).collect();
    let scratch = || (Vec::new(), Vec::new());
    pool.for_each_chunk(ups.len(), chunk(pool, ups.len(), work), scratch, |(wide, block), range| {
        for unit in range {
            let Unit { update, part } = ups[unit];
            let Update { factors, rows, output } = updates[update];
            let width = factors.outputs();
            let columns = part * BLOCK..((part + 1) * BLOCK).min(width);
            block.clear();
            block.resize(factors.rank * BLOCK, 0.0);
            for (r, block) in block.chunks_exact_mut(BLOCK).enumerate() {
                let factor = factors.up.wide(isa, r * width + columns.start..r * width + columns.end, wide);
                block[..columns.len()].copy_from_slice(factor);
            }
            let hidden = &hidden[firsts[update]..][..factors.rank * rows.len()];
            for (i, row) in rows.iter().enumerate() {
                // SAFETY: rows of an output stand in one update and once, as `check` has seen, and a unit has columns of
                // its own; the slice before this one is no longer used.
                let out = unsafe { targets[output].slice(row * width + columns.start..row * width + columns.end) };
                add_sums(isa, block, hidden, rows.len(), i, out);
            }
        }
    });
}

/// A row of `A`, or a block of columns of `B`, of one update.
#[derive(Clone, Copy)]
struct Unit {
    update: usize,
    part: usize,
}

fn units(updates: &[Update<'_>], parts: impl Fn(&Update<'_>) -> usize) -> Vec<Unit> {
    let updates = updates.iter().enumerate();
    updates.flat_map(|(update, it)| (0..parts(it)).map(move |part| Unit { update, part })).collect()
}

/// How many units a thread takes at once.
fn chunk(pool: &ThreadPool, units: usize, work: usize) -> usize {
    let worth = MIN_WORK / (work / units.max(1)).max(1);
    worth.max(units / (pool.threads() * 4))
}

/// Panics unless shapes agree and no place would be written by two updates.
fn check(x: &[f32], columns: usize, outputs: &[&mut [f32]], updates: &[Update<'_>]) {
    assert!(columns > 0 && x.len().is_multiple_of(columns), "{} values in rows of {columns}", x.len());
    let count = x.len() / columns;
    let mut named = vec![false; count * outputs.len()];
    for Update { factors, output, rows } in updates {
        assert_eq!(factors.inputs(), columns, "an update of other inputs");
        assert_eq!(outputs[*output].len(), count * factors.outputs(), "an output of the wrong size");
        for row in *rows {
            assert!(*row < count, "row {row} of {count}");
            let named = &mut named[output * count + row];
            assert!(!std::mem::replace(named, true), "row {row} is updated twice");
        }
    }
}

#[inline(always)]
fn widen_bf16_body<const FMA: bool>(from: &[u16], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    for (from, to) in from.iter().zip(to) {
        *to = f32::from_bits(u32::from(*from) << 16);
    }
}

per_isa! {
    /// Widens upper halves, which is a shift.
    fn widen_bf16(isa, from: &[u16], to: &mut [f32]) = widen_bf16_body
}

/// The dot product in 64 lanes: four independent vectors of the widest set hide the latency of an addition.
#[inline(always)]
fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 64];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<64>(), b.as_chunks::<64>());
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane = madd::<FMA>(*a, *b, *lane);
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane = madd::<FMA>(*a, *b, *lane);
    }
    let mut width = lanes.len();
    while width > 1 {
        width /= 2;
        let (low, high) = lanes.split_at_mut(width);
        for (low, high) in low.iter_mut().zip(high) {
            *low += *high;
        }
    }
    lanes[0]
}

#[inline(always)]
fn dots_body<const FMA: bool>(x: &[f32], columns: usize, rows: &[usize], factor: &[f32], scale: f32, out: &mut [f32]) {
    for (row, out) in rows.iter().zip(out) {
        *out = scale * dot::<FMA>(&x[row * columns..(row + 1) * columns], factor);
    }
}

per_isa! {
    /// The dot product of each of `rows` with one row of `A`, times the scale.
    fn dots(isa, x: &[f32], columns: usize, rows: &[usize], factor: &[f32], scale: f32, out: &mut [f32]) = dots_body
}

#[inline(always)]
fn add_sums_body<const FMA: bool>(block: &[f32], hidden: &[f32], rows: usize, row: usize, out: &mut [f32]) {
    let mut sums = [0f32; BLOCK];
    for (factor, hidden) in block.as_chunks::<BLOCK>().0.iter().zip(hidden.iter().skip(row).step_by(rows)) {
        for (sum, factor) in sums.iter_mut().zip(factor) {
            *sum = madd::<FMA>(*factor, *hidden, *sum);
        }
    }
    for (out, sum) in out.iter_mut().zip(&sums) {
        *out += sum;
    }
}

per_isa! {
    /// Adds to `out` the block of `B` (`[rank][BLOCK]`) times row `row` of `A x` (`[rank][rows]`).
    fn add_sums(isa, block: &[f32], hidden: &[f32], rows: usize, row: usize, out: &mut [f32]) = add_sums_body
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use half::{bf16, f16};
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn pool(threads: usize) -> ThreadPool {
        ThreadPool::new("test", NonZeroUsize::new(threads).unwrap()).unwrap()
    }

    /// Random values of a kind, and what they are exactly.
    fn values(random: &mut StdRng, kind: usize, count: usize) -> (Values, Vec<f32>) {
        let exact: Vec<f32> = (0..count).map(|_| random.random_range(-1.0..1.0)).collect();
        let halves: Vec<f16> = exact.iter().map(|v| f16::from_f32(*v)).collect();
        let brains: Vec<bf16> = exact.iter().map(|v| bf16::from_f32(*v)).collect();
        match kind {
            0 => (Values::F32(exact.clone()), exact),
            1 => {
                (Values::F16(halves.iter().map(|v| v.to_bits()).collect()), halves.iter().map(|v| v.to_f32()).collect())
            }
            _ => (
                Values::Bf16(brains.iter().map(|v| v.to_bits()).collect()),
                brains.iter().map(|v| v.to_f32()).collect(),
            ),
        }
    }

    struct Case {
        factors: LowRank,
        a: Vec<f32>,
        b: Vec<f32>,
    }

    impl Case {
        fn new(random: &mut StdRng, rank: usize, inputs: usize, outputs: usize, kinds: (usize, usize)) -> Self {
            let (down, a) = values(random, kinds.0, rank * inputs);
            let (up, b) = values(random, kinds.1, outputs * rank);
            Self { factors: LowRank::new(rank, random.random_range(0.1..4.0), down.into(), &up), a, b }
        }

        /// The update of a row in double precision.
        fn exact(&self, x: &[f32]) -> Vec<f64> {
            let dot = |a: &[f32]| a.iter().zip(x).map(|(a, x)| f64::from(*a) * f64::from(*x)).sum::<f64>();
            let hidden: Vec<f64> = self.a.chunks(x.len()).map(dot).collect();
            let sum = |b: &[f32]| b.iter().zip(&hidden).map(|(b, h)| f64::from(*b) * h).sum::<f64>();
            self.b.chunks(self.factors.rank).map(|b| sum(b) * f64::from(self.factors.scale)).collect()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn rows_get_their_own_update_and_no_other(
            rank in 1usize..65, inputs in 1usize..300, widths in (1usize..200, 1usize..200),
            owners in prop::collection::vec((0usize..3, 0usize..3), 1..20),
            kinds in (0usize..3, 0usize..3), threads in 1usize..4, seed in any::<u64>(),
        ) {
            let random = &mut StdRng::seed_from_u64(seed);
            let pool = pool(threads);
            // Two adapters for each of two outputs; owner 2 is none.
            let cases: Vec<Vec<Case>> = [widths.0, widths.1]
                .map(|width| (0..2).map(|i| Case::new(random, rank.div_ceil(i + 1), inputs, width, kinds)).collect())
                .into();
            let x: Vec<f32> = (0..owners.len() * inputs).map(|_| random.random_range(-1.0..1.0)).collect();
            let base: Vec<Vec<f32>> = [widths.0, widths.1]
                .map(|width| (0..owners.len() * width).map(|_| random.random_range(-1.0..1.0)).collect())
                .into();
            let owner = |output: usize, row: usize| if output == 0 { owners[row].0 } else { owners[row].1 };
            let rows: Vec<Vec<usize>> = (0..4)
                .map(|i| (0..owners.len()).filter(|row| owner(i / 2, *row) == i % 2).collect())
                .collect();
            let updates: Vec<Update<'_>> = (0..4)
                .map(|i| Update { factors: &cases[i / 2][i % 2].factors, output: i / 2, rows: &rows[i] })
                .collect();
            for isa in Isa::available() {
                let mut found = base.clone();
                let [one, two] = &mut found[..] else { panic!() };
                add_low_rank(isa, &pool, &x, inputs, &mut [one, two], &updates, &mut Vec::new());
                for (output, (found, base)) in found.iter().zip(&base).enumerate() {
                    let width = found.len() / owners.len();
                    for (row, (found, base)) in found.chunks(width).zip(base.chunks(width)).enumerate() {
                        let Some(case) = cases[output].get(owner(output, row)) else {
                            prop_assert_eq!(found, base);
                            continue;
                        };
                        let x = &x[row * inputs..(row + 1) * inputs];
                        for ((found, base), exact) in found.iter().zip(base).zip(case.exact(x)) {
                            let error = (f64::from(*found) - f64::from(*base) - exact).abs();
                            prop_assert!(error < 1e-5 * (inputs * rank) as f64, "{}: {error}", isa.name());
                        }
                        let mut alone = base.to_vec();
                        let update = Update { factors: &case.factors, output: 0, rows: &[0] };
                        add_low_rank(isa, &pool, x, inputs, &mut [&mut alone], &[update], &mut Vec::new());
                        prop_assert_eq!(&alone[..], found, "{} alone", isa.name());
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_seen_in_every_type() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(!Values::F32(vec![1.0, bad]).all_finite());
            assert!(!Values::F16(vec![0, f16::from_f32(bad).to_bits()]).all_finite());
            assert!(!Values::Bf16(vec![0, bf16::from_f32(bad).to_bits()]).all_finite());
        }
        assert!(Values::F16(vec![f16::MAX.to_bits(), f16::MIN.to_bits()]).all_finite());
        assert!(Values::Bf16(vec![bf16::MAX.to_bits(), bf16::MIN.to_bits()]).all_finite());
        assert!(Values::F32(vec![f32::MAX, -0.0]).all_finite());
    }

    #[test]
    #[should_panic(expected = "row 1 is updated twice")]
    fn a_row_is_updated_once() {
        let factors = &LowRank::new(1, 1.0, Values::F32(vec![1.0]).into(), &Values::F32(vec![1.0]));
        let updates = [[0, 1], [1, 2]];
        let updates = [0, 1].map(|i| Update { factors, output: 0, rows: &updates[i] });
        add_low_rank(Isa::SCALAR, &pool(1), &[0.0; 3], 1, &mut [&mut [0.0; 3]], &updates, &mut Vec::new());
    }
}

//! Scaled dot-product attention of one text, head by head; the scale is part of the queries already.

use std::ops::Range;

use host_kernels::encoder;
use host_kernels::isa::Isa;
use host_kernels::linear::{Packed, Rows, linear};

use super::parts::resize;

/// Queries whose scores are in memory at once.
pub(super) const QUERIES: usize = 64;

/// Memory that is reused from head to head.
#[derive(Default)]
pub(super) struct Scratch {
    scores: Vec<f32>,
    keys: Packed,
    values: Packed,
}

/// What attention needs to know of a layer.
pub(super) struct Attention<'a> {
    pub(super) hidden: usize,
    pub(super) heads: usize,
    /// The greatest distance at which a token is attended to.
    pub(super) window: Option<usize>,
    /// By how much scores fall per token of distance, for each head; empty if they do not.
    pub(super) slopes: &'a [f32],
}

impl Attention<'_> {
    /// Attends within the text whose rows are `span`. Rows of `qkv` hold queries, keys and values beside each other.
    pub(super) fn text(&self, span: Range<usize>, qkv: &[f32], context: &mut [f32], scratch: &mut Scratch) {
        for head in 0..self.heads {
            let mut packed = 0..0;
            for first in (0..span.len()).step_by(QUERIES) {
                let queries = first..span.len().min(first + QUERIES);
                let seen = self.seen(&queries, span.len());
                if packed != seen {
                    self.pack(head, span.start, &seen, qkv, scratch);
                    packed = seen.clone();
                }
                self.block(head, span.start, queries, &seen, qkv, context, scratch);
            }
        }
    }

    /// The tokens that any of `queries` attends to.
    fn seen(&self, queries: &Range<usize>, length: usize) -> Range<usize> {
        match self.window {
            Some(window) => queries.start.saturating_sub(window)..length.min(queries.end.saturating_add(window)),
            None => 0..length,
        }
    }

    fn pack(&self, head: usize, start: usize, seen: &Range<usize>, qkv: &[f32], scratch: &mut Scratch) {
        let (width, stride) = (self.hidden / self.heads, 3 * self.hidden);
        let first = (start + seen.start) * stride + self.hidden + head * width;
        let key = &qkv[first..];
        scratch.keys.pack(seen.len(), width, |token, value| key[token * stride + value]);
        let value = &qkv[first + self.hidden..];
        scratch.values.pack(width, seen.len(), |output, token| value[token * stride + output]);
    }

    #[allow(clippy::too_many_arguments)]
    fn block(
        &self,
        head: usize,
        start: usize,
        queries: Range<usize>,
        seen: &Range<usize>,
        qkv: &[f32],
        context: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let (width, stride) = (self.hidden / self.heads, 3 * self.hidden);
        let Scratch { scores, keys, values } = scratch;
        let column = head * width;
        let query = &qkv[(start + queries.start) * stride + column..];
        resize(scores, queries.len() * seen.len());
        linear(Isa::best(), Rows { data: query, stride, count: queries.len() }, keys, &[], scores, seen.len());
        self.distances(head, &queries, seen, scores);
        encoder::softmax(Isa::best(), scores, seen.len());
        let out = &mut context[(start + queries.start) * self.hidden + column..];
        linear(Isa::best(), Rows::dense(scores, seen.len()), values, &[], out, self.hidden);
    }

    /// What distance does to scores.
    fn distances(&self, head: usize, queries: &Range<usize>, seen: &Range<usize>, scores: &mut [f32]) {
        if let Some(slope) = self.slopes.get(head) {
            for (query, row) in queries.clone().zip(scores.chunks_exact_mut(seen.len())) {
                for (token, score) in seen.clone().zip(row) {
                    *score -= slope * query.abs_diff(token) as f32;
                }
            }
        }
        let Some(window) = self.window else { return };
        for (query, row) in queries.clone().zip(scores.chunks_exact_mut(seen.len())) {
            let least = query.saturating_sub(window).saturating_sub(seen.start).min(row.len());
            let beyond = query.saturating_add(window + 1).saturating_sub(seen.start).min(row.len());
            row[..least].fill(f32::NEG_INFINITY);
            row[beyond..].fill(f32::NEG_INFINITY);
        }
    }
}

/// The slopes of ALiBi (Press et al. 2022): a geometric sequence for powers of two, else that of the next smaller power
/// and every second of the next larger one's.
pub(super) fn slopes(heads: usize) -> Vec<f32> {
    let powers = |count: usize| {
        let ratio = 2_f64.powf(-8.0 / count as f64);
        (1..=count).map(move |power| ratio.powi(i32::try_from(power).unwrap_or(i32::MAX)) as f32)
    };
    let whole = if heads.is_power_of_two() { heads } else { heads.next_power_of_two() / 2 };
    powers(whole).chain(powers(2 * whole).step_by(2)).take(heads).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_those_of_the_paper() {
        assert_eq!(slopes(8), [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015_625, 0.007_812_5, 0.003_906_25]);
        assert_eq!(slopes(1), [0.003_906_25]);
        let twelve = slopes(12);
        assert_eq!((twelve[0], twelve[7]), (0.5, 0.003_906_25));
        assert!((twelve[8] - 0.5_f32.sqrt()).abs() < 1e-7 && (twelve[9] - 0.5_f32.powf(1.5)).abs() < 1e-7);
    }

    #[test]
    fn a_window_is_what_masking_everything_else_gives() {
        let (hidden, heads, length) = (8, 2, 150);
        let qkv: Vec<f32> = (0..length * 3 * hidden).map(|index| (index as f32 * 0.37).sin()).collect();
        for window in [0, 3, 70, 1000] {
            let attention = Attention { hidden, heads, window: Some(window), slopes: &[0.1, 0.2] };
            let mut context = vec![0.0; length * hidden];
            attention.text(0..length, &qkv, &mut context, &mut Scratch::default());
            for (query, head) in [(0_usize, 0), (5, 1), (64, 0), (149, 1)] {
                let at = |token: usize, part: usize, value: usize| {
                    f64::from(qkv[token * 3 * hidden + part * hidden + head * 4 + value])
                };
                let near: Vec<usize> = (0..length).filter(|token| query.abs_diff(*token) <= window).collect();
                let terms: Vec<f64> = near
                    .iter()
                    .map(|&token| {
                        let score: f64 = (0..4).map(|value| at(query, 0, value) * at(token, 1, value)).sum();
                        (score - f64::from([0.1_f32, 0.2][head]) * query.abs_diff(token) as f64).exp()
                    })
                    .collect();
                let sum: f64 = terms.iter().sum();
                let expected: f64 = near.iter().zip(&terms).map(|(&token, term)| at(token, 2, 1) * term / sum).sum();
                let got = f64::from(context[query * hidden + head * 4 + 1]);
                assert!((got - expected).abs() < 1e-5, "window {window}, query {query}: {got} {expected}");
            }
        }
    }
}

//! How a token's place is told: what is added to its embedding, or to its attention.

use super::description::Positions;

impl Positions {
    /// Adds the place of the token that has `place` tokens before it; `table` has the learned rows.
    pub(super) fn add(&self, table: &[f32], place: usize, row: &mut [f32]) {
        match self {
            Self::Distances { .. } => {}
            Self::Learned { first } => {
                let width = row.len();
                for (value, learned) in row.iter_mut().zip(&table[(first + place) * width..]) {
                    *value += learned;
                }
            }
            Self::Sinusoidal { first, steps, .. } => {
                let (sines, cosines) = row.split_at_mut(row.len() / 2);
                for (index, (sine, cosine)) in sines.iter_mut().zip(cosines).enumerate() {
                    let frequency = 10_000_f64.powf(-(index as f64) / *steps as f64);
                    let angle = (first + place) as f64 * frequency;
                    *sine += angle.sin() as f32;
                    *cosine += angle.cos() as f32;
                }
            }
        }
    }

    /// The token that has no place.
    pub(super) fn padding(&self) -> Option<u32> {
        if let Self::Sinusoidal { padding, .. } = self { *padding } else { None }
    }

    /// For each head the biases of keys from `tokens - 1` behind a query to as many ahead, out of a `table` with a row of
    /// heads for each bucket. Empty where there are no such biases.
    pub(super) fn around(&self, table: &[f32], heads: usize, tokens: usize) -> Vec<f32> {
        let Self::Distances { buckets, reach } = *self else { return Vec::new() };
        let half = buckets / 2;
        let bucket = |index: usize| {
            let (distance, ahead) = if index < tokens { (tokens - 1 - index, 0) } else { (index + 1 - tokens, half) };
            ahead + bucket(distance, half, reach)
        };
        let rows: Vec<usize> = (0..2 * tokens - 1).map(bucket).collect();
        (0..heads).flat_map(|head| rows.iter().map(move |row| table[row * heads + head])).collect()
    }

    /// For each head the biases of the last of `tokens` keys, the one before it, and so on; into `biases`.
    pub(super) fn behind(&self, table: &[f32], heads: usize, tokens: usize, biases: &mut Vec<f32>) {
        biases.clear();
        let Self::Distances { buckets, reach } = *self else { return };
        for head in 0..heads {
            biases.extend((0..tokens).map(|distance| table[bucket(distance, buckets, reach) * heads + head]));
        }
    }
}

/// The bucket of a distance: one each for half of the `buckets`, then logarithmically more until `reach`.
fn bucket(distance: usize, buckets: usize, reach: usize) -> usize {
    let exact = buckets / 2;
    if distance < exact {
        return distance;
    }
    // In the precision of the reference, since a bucket's border is a rounding.
    let steps = (distance as f32 / exact as f32).ln() / (f64::from(reach as u32) / exact as f64).ln() as f32;
    (exact + (steps * (buckets - exact) as f32) as usize).min(buckets - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_fall_into_the_published_buckets() {
        // What T5's `_relative_position_bucket` gives for 32 buckets up to 128, without and with its two directions.
        let one_way: Vec<usize> =
            [0, 1, 15, 16, 17, 20, 31, 40, 64, 100, 127, 128, 1000].map(|d| bucket(d, 32, 128)).into();
        assert_eq!(one_way, [0, 1, 15, 16, 16, 17, 21, 23, 26, 30, 31, 31, 31]);
        let both: Vec<usize> = [0, 7, 8, 9, 12, 16, 32, 64, 91, 128].map(|d| bucket(d, 16, 128)).into();
        assert_eq!(both, [0, 7, 8, 8, 9, 10, 12, 14, 15, 15]);
    }

    #[test]
    fn biases_stand_by_distance() {
        let positions = Positions::Distances { buckets: 8, reach: 20 };
        // Two heads, whose biases are the bucket and a hundred more.
        let table: Vec<f32> = (0..8).flat_map(|bucket| [bucket as f32, bucket as f32 + 100.0]).collect();
        let around = positions.around(&table, 2, 3);
        assert_eq!(around, [2.0, 1.0, 0.0, 5.0, 6.0, 102.0, 101.0, 100.0, 105.0, 106.0]);
        let mut behind = Vec::new();
        positions.behind(&table, 2, 5, &mut behind);
        assert_eq!(behind, [0.0, 1.0, 2.0, 3.0, 4.0, 100.0, 101.0, 102.0, 103.0, 104.0]);
    }
}

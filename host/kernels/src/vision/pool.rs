//! Pools: the greatest value under a window, and the mean of all pixels.

use super::conv::Map;
use crate::threads::{Scatter, ThreadPool};

/// The greatest value of each channel under a square window; what lies beyond the edge counts for nothing.
///
/// # Panics
/// When `padding` is not smaller than `kernel`: some windows would hold nothing.
pub fn max_pool(pool: &ThreadPool, x: &Map, kernel: usize, stride: usize, padding: usize) -> Map {
    assert!(padding < kernel && stride > 0, "a window of {kernel} with {padding} around");
    let one = |side: usize| (side + 2 * padding).checked_sub(kernel).map_or(0, |rest| rest / stride + 1);
    let (height, width, channels) = (one(x.height), one(x.width), x.channels);
    let mut y = Map { height, width, channels, data: vec![f32::NEG_INFINITY; height * width * channels] };
    let line = width * channels;
    let out = Scatter::new(&mut y.data);
    let side =
        |start: usize, most: usize| (start.saturating_sub(padding), (start + kernel).saturating_sub(padding).min(most));
    pool.for_each_chunk(
        height,
        4,
        || (),
        |(), range| {
            for row in range {
                // SAFETY: rows do not overlap.
                let out = unsafe { out.slice(row * line..(row + 1) * line) };
                let (top, bottom) = side(row * stride, x.height);
                for (column, out) in out.chunks_exact_mut(channels.max(1)).enumerate() {
                    let (left, right) = side(column * stride, x.width);
                    for y in top..bottom {
                        let window = &x.data[(y * x.width + left) * channels..(y * x.width + right) * channels];
                        for pixel in window.chunks_exact(channels) {
                            out.iter_mut().zip(pixel).for_each(|(most, value)| *most = greater(*most, *value));
                        }
                    }
                }
            }
        },
    );
    y
}

/// The greater of the two; a NaN stays, so that broken weights are seen at the end.
fn greater(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

/// The mean of each channel over all pixels.
pub fn mean_pool(x: &Map) -> Vec<f32> {
    let mut sums = vec![0.0_f64; x.channels];
    for pixel in x.data.chunks_exact(x.channels.max(1)) {
        sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    sums.iter().map(|sum| (sum / x.pixels().max(1) as f64) as f32).collect()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    #[test]
    fn pools_look_at_their_windows_only() {
        let pool = ThreadPool::new("test", NonZeroUsize::new(2).unwrap()).unwrap();
        let data = (0..25).flat_map(|i| [i as f32, -(i as f32)]).collect();
        let x = Map { height: 5, width: 5, channels: 2, data };
        let y = max_pool(&pool, &x, 3, 2, 1);
        assert_eq!((y.height, y.width), (3, 3));
        let of = |channel: usize| y.data.iter().skip(channel).step_by(2).copied().collect::<Vec<_>>();
        assert_eq!(of(0), [6.0, 8.0, 9.0, 16.0, 18.0, 19.0, 21.0, 23.0, 24.0]);
        assert_eq!(of(1), [0.0, -1.0, -3.0, -5.0, -6.0, -8.0, -15.0, -16.0, -18.0]);
        assert_eq!(mean_pool(&x), [12.0, -12.0]);
        assert!(max_pool(&pool, &Map::zeros(1, 1, 1), 3, 2, 0).data.is_empty());
    }
}

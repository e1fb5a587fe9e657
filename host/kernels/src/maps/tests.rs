use std::num::NonZeroUsize;

use super::*;
use crate::encoder::Activation;
use crate::floats::FloatFormat;

fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn pool(threads: usize) -> ThreadPool {
    ThreadPool::new("test", NonZeroUsize::new(threads).unwrap()).unwrap()
}

fn matrix(values: &[f32], rows: usize) -> FloatMatrix {
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    FloatMatrix::repack(FloatFormat::F32, rows, values.len() / rows, &raw).unwrap()
}

const FORMATS: [FloatFormat; 3] = [FloatFormat::F32, FloatFormat::F16, FloatFormat::Bf16];

/// A matrix in a narrower format, and the floats that it holds.
fn narrow(format: FloatFormat, values: &[f32], rows: usize) -> (FloatMatrix, Vec<f32>) {
    let (mut raw, mut exact) = (Vec::new(), Vec::new());
    for value in values {
        if format == FloatFormat::F16 {
            raw.extend(half::f16::from_f32(*value).to_le_bytes());
            exact.push(half::f16::from_f32(*value).to_f32());
        } else {
            raw.extend(half::bf16::from_f32(*value).to_le_bytes());
            exact.push(half::bf16::from_f32(*value).to_f32());
        }
    }
    (FloatMatrix::repack(format, rows, values.len() / rows, &raw).unwrap(), exact)
}

fn furthest(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max)
}

/// The convolution by its definition.
fn plain(map: Map<'_>, geometry: &Geometry, weight: &[f32], bias: &[f32]) -> Vec<f64> {
    let outputs = bias.len();
    let (height, width) = geometry.resized.unwrap_or((map.height, map.width));
    let mut out = Vec::new();
    for y in 0..geometry.output.0 {
        for x in 0..geometry.output.1 {
            for (output, bias) in bias.iter().enumerate() {
                let mut sum = f64::from(*bias);
                for ky in 0..geometry.kernel {
                    for kx in 0..geometry.kernel {
                        let row = (y * geometry.stride + ky) as isize - geometry.padding as isize;
                        let column = (x * geometry.stride + kx) as isize - geometry.padding as isize;
                        if row < 0 || column < 0 || row >= height as isize || column >= width as isize {
                            continue;
                        }
                        let (row, column) = (row as usize * map.height / height, column as usize * map.width / width);
                        for channel in 0..map.channels {
                            let value = map.data[(row * map.width + column) * map.channels + channel];
                            let at = ((output * geometry.kernel + ky) * geometry.kernel + kx) * map.channels + channel;
                            sum += f64::from(value) * f64::from(weight[at]);
                        }
                    }
                }
                out.push(sum);
            }
        }
    }
    assert_eq!(out.len(), geometry.output.0 * geometry.output.1 * outputs);
    out
}

#[test]
fn convolutions_agree_with_their_definition() {
    let shapes = [
        (5, 7, 3, 4, 3, 1, 1, None, (5, 7)),
        (6, 5, 9, 40, 3, 2, 1, None, (3, 3)),
        (6, 6, 4, 8, 3, 2, 0, None, (3, 3)),
        (3, 4, 5, 6, 3, 1, 1, Some((6, 8)), (6, 8)),
        (3, 4, 5, 6, 3, 1, 1, Some((5, 7)), (5, 7)),
        (9, 9, 17, 65, 1, 1, 0, None, (9, 9)),
    ];
    for (height, width, channels, outputs, kernel, stride, padding, resized, output) in shapes {
        let data = numbers(height * width * channels, 1);
        let map = Map { data: &data, first: 0, height, width, channels };
        let (weight, bias) = (numbers(outputs * kernel * kernel * channels, 2), numbers(outputs, 3));
        let geometry = Geometry { kernel, stride, padding, resized, output, rows: 0..output.0 };
        let expected = plain(map, &geometry, &weight, &bias);
        for threads in [1, 3] {
            let mut out = vec![f32::NAN; output.0 * output.1 * outputs];
            let weight = matrix(&weight, outputs);
            convolve(Isa::best(), &pool(threads), map, &geometry, &weight, &bias, Mode::Replace, &mut out);
            // At most 153 terms of at most 1.
            assert!(furthest(&out, &expected) < 5e-5, "{geometry:?}: {}", furthest(&out, &expected));
        }
    }
}

/// 3 by 3 pixels, enough of them and of channels that the tiles of `winograd` are worth it; all of them together and in
/// bands, whole and in chunks of channels.
#[test]
fn tiled_convolutions_agree_with_their_definition() {
    let shapes = [
        (7, 9, 16, 16, None, (7, 9)),
        (8, 6, 37, 70, None, (8, 6)),
        (4, 5, 20, 40, Some((8, 10)), (8, 10)),
        (5, 6, 20, 33, Some((9, 11)), (9, 11)),
        (4, 36, 660, 40, None, (4, 36)),
    ];
    for (height, width, channels, outputs, resized, output) in shapes {
        let data = numbers(height * width * channels, 1);
        let (weight, bias) = (numbers(outputs * 9 * channels, 2), numbers(outputs, 3));
        let geometry = |rows| Geometry { kernel: 3, stride: 1, padding: 1, resized, output, rows };
        let map = Map { data: &data, first: 0, height, width, channels };
        assert!(winograd::suits(&map, &geometry(0..output.0), outputs));
        let expected = plain(map, &geometry(0..output.0), &weight, &bias);
        // Sums of 9 products for each channel; a mistake is of the size of one product.
        let tolerance = 1e-6 * (9 * channels) as f64;
        for (format, isa) in
            FORMATS.iter().flat_map(|format| Isa::available().into_iter().map(move |isa| (*format, isa)))
        {
            let (weight, expected) = match format {
                FloatFormat::F32 => (matrix(&weight, outputs), expected.clone()),
                _ => {
                    let (weight, exact) = narrow(format, &weight, outputs);
                    (weight, plain(map, &geometry(0..output.0), &exact, &bias))
                }
            };
            let row = output.1 * outputs;
            for threads in [1, 3] {
                let mut out = vec![1.0; output.0 * row];
                let pool = pool(threads);
                convolve(isa, &pool, map, &geometry(0..output.0), &weight, &bias, Mode::Add, &mut out);
                out.iter_mut().for_each(|value| *value -= 1.0);
                assert!(furthest(&out, &expected) < tolerance, "{isa:?} {format:?}: {}", furthest(&out, &expected));
                let mut bands = vec![f32::NAN; output.0 * row];
                for first in (0..output.0).step_by(4) {
                    let rows = first..output.0.min(first + 4);
                    let seen = |y: usize| y.min(output.0 - 1) * height / output.0;
                    let (top, bottom) = (seen(rows.start.saturating_sub(1)), seen(rows.end) + 1);
                    let data = &data[top * width * channels..bottom * width * channels];
                    let band = &mut bands[rows.start * row..rows.end * row];
                    let map = Map { data, first: top, ..map };
                    convolve(isa, &pool, map, &geometry(rows), &weight, &bias, Mode::Replace, band);
                }
                assert!(furthest(&bands, &expected) < tolerance, "{isa:?}: {}", furthest(&bands, &expected));
            }
        }
    }
}

#[test]
#[should_panic(expected = "rows of the map that the output needs are missing")]
fn bands_without_their_neighbours_are_refused() {
    let data = numbers(3 * 4 * 2, 1);
    let map = Map { data: &data, first: 2, height: 8, width: 4, channels: 2 };
    let geometry = Geometry { kernel: 3, stride: 1, padding: 1, resized: None, output: (8, 4), rows: 2..4 };
    let mut out = [0.0; 8];
    convolve(Isa::best(), &pool(1), map, &geometry, &matrix(&[0.0; 18], 1), &[], Mode::Replace, &mut out);
}

#[test]
fn projections_of_many_rows_and_strides() {
    let (rows, columns, outputs, stride) = (301, 33, 70, 35);
    let (x, weight, bias) = (numbers(rows * stride, 1), numbers(outputs * columns, 2), numbers(outputs, 3));
    let mut expected = Vec::new();
    for row in 0..rows {
        for output in 0..outputs {
            let products =
                (0..columns).map(|i| f64::from(x[row * stride + i]) * f64::from(weight[output * columns + i]));
            expected.push(products.sum::<f64>() + f64::from(bias[output]));
        }
    }
    for isa in Isa::available() {
        let mut out = vec![f32::NAN; rows * outputs];
        let rows = Rows { data: &x, stride, count: rows };
        project(isa, &pool(2), rows, &matrix(&weight, outputs), &bias, Mode::Replace, &mut out);
        assert!(furthest(&out, &expected) < 2e-5);
    }
}

#[test]
fn groups_are_normalized_even_far_from_zero() {
    let (pixels, channels, groups) = (300, 12, 4);
    let x: Vec<f32> = numbers(pixels * channels, 7).iter().map(|value| value + 100.0).collect();
    let (weight, bias) = (numbers(channels, 8), numbers(channels, 9));
    let each = channels / groups;
    let mut expected = vec![0.0; x.len()];
    for group in 0..groups {
        let of = |pixel: usize, i: usize| pixel * channels + group * each + i;
        let all = || (0..pixels).flat_map(|pixel| (0..each).map(move |i| (pixel, i)));
        let mean = all().map(|(pixel, i)| f64::from(x[of(pixel, i)])).sum::<f64>() / (pixels * each) as f64;
        let square = |(pixel, i)| (f64::from(x[of(pixel, i)]) - mean).powi(2);
        let variance = all().map(square).sum::<f64>() / (pixels * each) as f64;
        for (pixel, i) in all() {
            let channel = group * each + i;
            let normal = (f64::from(x[of(pixel, i)]) - mean) / (variance + 1e-5).sqrt();
            let value = normal * f64::from(weight[channel]) + f64::from(bias[channel]);
            expected[of(pixel, i)] = value / (1.0 + (-value).exp());
        }
    }
    for isa in Isa::available() {
        let mut out = vec![f32::NAN; x.len()];
        group_norm(isa, &pool(2), &x, groups, &weight, &bias, 1e-5, true, &mut out);
        // Values near 100 have an ulp of 8e-6, which the scale of about 1.7 widens.
        assert!(furthest(&out, &expected) < 5e-5, "{}", furthest(&out, &expected));
    }
}

#[test]
fn attention_agrees_with_its_definition() {
    let (heads, width) = (3, 5);
    let row = heads * width;
    for (queries, keys, causal, biased) in [
        (1, 1, false, false),
        (61, 17, false, true),
        (50, 50, true, false),
        (9, 12, true, false),
        (2500, 30, false, false),
        (3, 1100, false, true),
    ] {
        let (q, k, v) = (numbers(queries * row, 1), numbers(keys * row, 2), numbers(keys * row, 3));
        let bias = if biased { numbers(heads * queries * keys, 4) } else { Vec::new() };
        let mut expected = vec![0.0; queries * row];
        for head in 0..heads {
            for query in 0..queries {
                let seen = if causal { query + 1 + keys - queries } else { keys };
                let score = |key: usize| {
                    let products = (0..width).map(|i| {
                        f64::from(q[query * row + head * width + i]) * f64::from(k[key * row + head * width + i])
                    });
                    let bias = bias.get((head * queries + query) * keys + key).copied().unwrap_or(0.0);
                    (products.sum::<f64>() * 0.7 + f64::from(bias)).exp()
                };
                let total: f64 = (0..seen).map(score).sum();
                for i in 0..width {
                    let value = |key: usize| score(key) / total * f64::from(v[key * row + head * width + i]);
                    expected[query * row + head * width + i] = (0..seen).map(value).sum();
                }
            }
        }
        let attention = Attention {
            queries: Rows::dense(&q, row),
            keys: Rows::dense(&k, row),
            values: Rows::dense(&v, row),
            heads,
            width,
            scale: 0.7,
            bias: &bias,
            causal,
        };
        for (isa, threads) in Isa::available().into_iter().flat_map(|isa| [(isa, 1), (isa, 3)]) {
            let mut out = vec![f32::NAN; queries * row];
            attend(isa, &pool(threads), &attention, &mut out);
            assert!(furthest(&out, &expected) < 2e-6, "{isa:?}: {}", furthest(&out, &expected));
        }
    }
}

#[test]
fn values_by_themselves() {
    let pool = pool(2);
    let isa = Isa::best();
    let mut values = [1.0, -2.0];
    apply(isa, &pool, &mut values, Pointwise::Silu);
    assert!((values[0] - 0.731_058_6).abs() < 1e-6 && (values[1] + 0.238_405_84).abs() < 1e-6);
    let mut values = [1.0];
    apply(isa, &pool, &mut values, Pointwise::QuickGelu);
    assert!((values[0] - 0.845_795_7).abs() < 1e-6);
    let mut out = [0.0; 2];
    gate(isa, &pool, &[2.0, 3.0, 1.0, 0.0], 2, Pointwise::Of(Activation::Gelu), &mut out);
    assert!((out[0] - 1.682_689_5).abs() < 2e-6 && out[1] == 0.0);
    let mut rows = [1.0, 2.0, 3.0, 4.0];
    add_to_rows(&pool, &mut rows, &[10.0, 20.0]);
    scale_and_shift(&pool, &mut rows, &[1.0, 0.0], &[0.0, 1.0]);
    assert_eq!(rows, [22.0, 23.0, 26.0, 25.0]);
    let mut out = [0.0; 2];
    rms_norm(&pool, &[3.0, 4.0], &[1.0, 2.0], 0.0, &mut out);
    assert!((out[0] - 0.848_528_1).abs() < 1e-6 && (out[1] - 2.262_741_7).abs() < 1e-6);
    let mut out = [0.0; 2];
    layer_norm(isa, &pool, &[1.0, 3.0], 2, &[], &[], 0.0, &mut out);
    assert!((out[0] + 1.0).abs() < 1e-6 && (out[1] - 1.0).abs() < 1e-6);
}

//! Times the products of quantized weights: for each format, instruction set and number of rows the bytes of weights
//! read and the multiplications done in a second. Fastest of many rounds, formats interleaved, so that a neighbour's
//! load on the machine touches all of them alike.
//!
//! `cargo run --release -p host-kernels --example products -- [threads] [columns] [rows of weights]`

use std::error::Error;
use std::num::NonZeroUsize;
use std::time::Instant;

use host_kernels::activations::QuantizedRows;
use host_kernels::isa::Isa;
use host_kernels::matmul::{Product, matmul};
use host_kernels::threads::ThreadPool;
use host_kernels::tiles::{Format, TiledMatrix};

const FORMATS: [Format; 8] =
    [Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1, Format::Q8_0, Format::Q4K, Format::Q5K, Format::Q6K];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<usize>());
    let threads = NonZeroUsize::new(arguments.next().transpose()?.unwrap_or(1)).ok_or("at least one thread")?;
    let columns = arguments.next().transpose()?.unwrap_or(1536);
    let outputs = arguments.next().transpose()?.unwrap_or(65_536);
    let pool = ThreadPool::new("products", threads)?;
    let weights: Vec<TiledMatrix> = FORMATS
        .into_iter()
        .filter(|format| columns.is_multiple_of(format.block_columns()))
        .map(|format| {
            let bytes = outputs * columns / format.block_columns() * format.block_bytes();
            // Any bytes are weights; these hold no scale that is not a number.
            let raw: Vec<u8> = (0..bytes).map(|i| (i * 37 % 101) as u8).collect();
            TiledMatrix::repack(format, outputs, columns, &raw)
        })
        .collect::<Result<_, _>>()?;
    for isa in Isa::available().into_iter().skip(1) {
        for rows in [1, 2, 4, 16, 48] {
            let x: Vec<f32> = (0..rows * columns).map(|i| (i as f32 * 0.37).sin()).collect();
            let mut quantized = QuantizedRows::new();
            quantized.quantize(isa, &pool, &x, columns);
            let mut out = vec![0.0; rows * outputs];
            let mut best = vec![f64::INFINITY; weights.len()];
            for _ in 0..(40 / rows).max(4) {
                for (weight, best) in weights.iter().zip(&mut best) {
                    let start = Instant::now();
                    matmul(isa, &pool, &quantized, &mut [Product { weight, out: &mut out }]);
                    *best = best.min(start.elapsed().as_secs_f64());
                }
            }
            print!("{:>12} {rows:>3} rows", isa.name());
            for (weight, best) in weights.iter().zip(best) {
                let multiplications = (rows * outputs * columns) as f64;
                print!(
                    "  {:?} {:.1} GB/s {:.0} G/s",
                    weight.format(),
                    weight.bytes() as f64 / best / 1e9,
                    multiplications / best / 1e9
                );
            }
            println!();
        }
    }
    Ok(())
}

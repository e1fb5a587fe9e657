//! The bound that decoding runs into: how fast these threads read memory that no cache holds.

use std::sync::Barrier;
use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::{Value, json};

/// Words that one thread reads in a pass: 256 MiB, more than a cache holds.
const WORDS: usize = 32 << 20;
const PASSES: usize = 6;
/// Independent sums, so that adding is not what takes the time.
const LANES: usize = 32;

/// The fastest of some passes: what the machine can do, not what its neighbours let it do.
pub(crate) fn measure(threads: usize) -> Result<Value> {
    if threads == 0 {
        bail!("--threads must be at least 1");
    }
    let barrier = &Barrier::new(threads);
    let seconds: Vec<Vec<f64>> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..threads).map(|index| scope.spawn(move || read(index as u64 + 1, barrier))).collect();
        readers.into_iter().map(|reader| reader.join().unwrap_or_default()).collect()
    });
    // A pass takes as long as its slowest thread.
    let slowest = |pass: usize| seconds.iter().filter_map(|all| all.get(pass)).copied().fold(0.0, f64::max);
    let best = (0..PASSES).map(slowest).fold(f64::INFINITY, f64::min);
    Ok(json!({ "gb_per_s": (threads * WORDS * size_of::<u64>()) as f64 / best / 1e9 }))
}

fn read(seed: u64, barrier: &Barrier) -> Vec<f64> {
    let words: Vec<u64> = (0..WORDS as u64).map(|word| word.wrapping_mul(seed)).collect();
    let pass = |_| {
        barrier.wait();
        let start = Instant::now();
        std::hint::black_box(sum(&words));
        start.elapsed().as_secs_f64()
    };
    (0..PASSES).map(pass).collect()
}

fn sum(words: &[u64]) -> [u64; LANES] {
    let mut sums = [0u64; LANES];
    for chunk in words.as_chunks::<LANES>().0 {
        for (sum, word) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums
}

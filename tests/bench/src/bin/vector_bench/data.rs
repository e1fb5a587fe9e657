//! Vectors as embeddings are: around centres, along fewer directions than they have numbers, all of length 1.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use host_kernels::distance::dot;
use host_kernels::isa::Isa;
use serde_json::json;

pub(crate) const DIMENSIONS: usize = 384;
/// Vectors are in one of so many groups in turn, so that a filter leaves 1 %.
pub(crate) const GROUPS: usize = 100;
const CENTRES: usize = 200;
const DIRECTIONS: usize = 24;

pub(crate) struct Data {
    pub(crate) vectors: Vec<f32>,
    pub(crate) queries: Vec<f32>,
    /// The ten nearest of each query: of all, and of the group of the query's number.
    pub(crate) nearest: Vec<Vec<usize>>,
    pub(crate) filtered: Vec<Vec<usize>>,
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Around 0, of standard deviation 1, by a sum of uniform numbers.
    fn normal(&mut self) -> f32 {
        let sum: f64 = (0..12).map(|_| (self.next() >> 11) as f64 / (1u64 << 53) as f64).sum();
        (sum - 6.0) as f32
    }

    fn vector(&mut self) -> Vec<f32> {
        (0..DIMENSIONS).map(|_| self.normal()).collect()
    }
}

pub(crate) fn make(folder: &Path, count: usize, queries: usize) -> Result<()> {
    let mut random = Random(7);
    let centres: Vec<Vec<f32>> = (0..CENTRES).map(|_| random.vector()).collect();
    let directions: Vec<Vec<f32>> = (0..DIRECTIONS).map(|_| random.vector()).collect();
    let mut all = Vec::with_capacity((count + queries) * DIMENSIONS);
    for _ in 0..count + queries {
        let mut vector = centres[(random.next() % CENTRES as u64) as usize].clone();
        for direction in &directions {
            let along = 0.4 * random.normal();
            vector.iter_mut().zip(direction).for_each(|(value, step)| *value += along * step);
        }
        let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
        all.extend(vector.iter().map(|value| value / length));
    }
    let (vectors, queries) = all.split_at(count * DIMENSIONS);
    let groups: Vec<usize> = (0..count).collect();
    let truth = |filtered: bool| -> Vec<Vec<usize>> {
        let queries = queries.chunks(DIMENSIONS).enumerate();
        queries.map(|(number, query)| nearest(vectors, query, &groups, filtered.then_some(number % GROUPS))).collect()
    };
    write(&folder.join("vectors.f32"), vectors)?;
    write(&folder.join("queries.f32"), queries)?;
    let truth = json!({ "nearest": truth(false), "filtered": truth(true) });
    std::fs::write(folder.join("truth.json"), truth.to_string())?;
    Ok(())
}

fn nearest(vectors: &[f32], query: &[f32], groups: &[usize], group: Option<usize>) -> Vec<usize> {
    let isa = Isa::best();
    let allowed = |number: &usize| group.is_none_or(|group| number % GROUPS == group);
    let vector = |number: usize| &vectors[number * DIMENSIONS..(number + 1) * DIMENSIONS];
    let numbers = groups.iter().copied().filter(allowed);
    let mut all: Vec<(f32, usize)> = numbers.map(|number| (-dot(isa, query, vector(number)), number)).collect();
    all.sort_by(|one, other| one.0.total_cmp(&other.0));
    all.into_iter().take(10).map(|(_, number)| number).collect()
}

fn write(path: &Path, floats: &[f32]) -> Result<()> {
    let bytes: Vec<u8> = floats.iter().flat_map(|float| float.to_le_bytes()).collect();
    std::fs::write(path, bytes).with_context(|| path.display().to_string())
}

impl Data {
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let floats = |name: &str| -> Result<Vec<f32>> {
            let bytes = std::fs::read(folder.join(name)).context(name.to_owned())?;
            let (numbers, rest) = bytes.as_chunks::<4>();
            ensure!(rest.is_empty(), "{name} is cut off");
            Ok(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
        };
        let truth: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("truth.json"))?)?;
        let lists = |name: &str| serde_json::from_value(truth[name].clone()).context(name.to_owned());
        Ok(Self {
            vectors: floats("vectors.f32")?,
            queries: floats("queries.f32")?,
            nearest: lists("nearest")?,
            filtered: lists("filtered")?,
        })
    }
}

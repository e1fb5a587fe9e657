//! How near two vectors are: the three metrics, and the vectors of an index in memory.

use std::fmt;
use std::str::FromStr;

use host_kernels::distance::{dot, squared_distance};
use host_kernels::isa::Isa;

/// How an index compares vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// The cosine of the angle between them: 1 for the same direction, -1 for the opposite.
    Cosine,
    /// The distance between their ends: 0 for the same vector.
    Euclidean,
    /// The negated sum of products: the smaller, the more alike.
    DotProduct,
}

impl Metric {
    /// Every metric.
    pub const ALL: [Self; 3] = [Self::Cosine, Self::Euclidean, Self::DotProduct];

    /// Its name in Vectorize.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::Euclidean => "euclidean",
            Self::DotProduct => "dot-product",
        }
    }

    /// The score of a match, from a distance of [`Space`].
    pub(crate) fn score(self, distance: f32) -> f32 {
        match self {
            Self::Cosine => (-distance).clamp(-1.0, 1.0),
            // JSON has no infinity and no NaN, in which sums of products of huge numbers end.
            _ if distance.is_nan() => f32::MAX,
            Self::Euclidean => distance.max(0.0).sqrt().min(f32::MAX),
            Self::DotProduct => distance.clamp(f32::MIN, f32::MAX),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|metric| metric.name() == text)
            .ok_or_else(|| format!("{text:?} is no metric; there are cosine, euclidean and dot-product"))
    }
}

/// Vectors by slot, and the distance between them: the smaller, the nearer, whatever the metric.
pub(crate) struct Space {
    metric: Metric,
    dimensions: usize,
    isa: Isa,
    values: Vec<f32>,
}

impl Space {
    pub(crate) fn new(metric: Metric, dimensions: usize) -> Self {
        Self { metric, dimensions, isa: Isa::best(), values: Vec::new() }
    }

    /// How many vectors there are.
    pub(crate) fn len(&self) -> usize {
        self.values.len() / self.dimensions
    }

    /// A vector as it is compared: of length 1 where only its direction counts.
    pub(crate) fn prepared(&self, mut vector: Vec<f32>) -> Vec<f32> {
        if self.metric == Metric::Cosine {
            // In double precision, where no square of a float overflows.
            let square: f64 = vector.iter().map(|value| f64::from(*value).powi(2)).sum();
            if square > 0.0 {
                let length = square.sqrt();
                vector.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
            }
        }
        vector
    }

    /// Adds a prepared vector of as many dimensions as the space has; its slot is the next.
    pub(crate) fn push(&mut self, vector: &[f32]) {
        debug_assert_eq!(vector.len(), self.dimensions);
        self.values.extend_from_slice(vector);
    }

    pub(crate) fn vector(&self, slot: u32) -> &[f32] {
        let start = slot as usize * self.dimensions;
        &self.values[start..start + self.dimensions]
    }

    pub(crate) fn distance(&self, query: &[f32], slot: u32) -> f32 {
        let vector = self.vector(slot);
        match self.metric {
            Metric::Cosine | Metric::DotProduct => -dot(self.isa, query, vector),
            Metric::Euclidean => squared_distance(self.isa, query, vector),
        }
    }
}

/// A slot and its distance from what is looked for, ordered by distance, then by age.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Near {
    pub(crate) distance: f32,
    pub(crate) slot: u32,
}

impl Eq for Near {}

impl Ord for Near {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.distance.total_cmp(&other.distance).then(self.slot.cmp(&other.slot))
    }
}

impl PartialOrd for Near {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

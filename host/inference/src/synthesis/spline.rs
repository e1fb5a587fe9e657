//! Monotonic curves of pieces that are quotients of quadratic functions (Gregory & Delbourgo 1982; Durkan et al. 2019).

/// A kind of curve: from `-bound` to `bound` in `bins` pieces, beyond that a straight line.
pub(super) struct Spline {
    pub(super) bins: usize,
    pub(super) bound: f32,
    /// What chosen widths and heights are multiplied by first.
    pub(super) scale: f32,
}

/// The least width and height of a piece, as a part of all, and the least slope at its ends.
const LEAST: f32 = 1e-3;

impl Spline {
    /// Where the curve has the height `y`. `chosen` has a width and a height for each piece, then a slope for each place
    /// between two pieces, none of them normalized yet.
    pub(super) fn inverse(&self, y: f32, chosen: &[f32]) -> f32 {
        if y.is_nan() || y < -self.bound || y > self.bound {
            return y;
        }
        let (widths, rest) = chosen.split_at(self.bins);
        let (heights, slopes) = rest.split_at(self.bins);
        let (lefts, bottoms) = (self.edges(widths), self.edges(heights));
        let piece = bottoms[1..self.bins].iter().take_while(|bottom| y >= **bottom).count();
        let width = lefts[piece + 1] - lefts[piece];
        let height = bottoms[piece + 1] - bottoms[piece];
        let mean = height / width;
        // The curve meets the straight lines with their slope, 1.
        let slope = |edge: usize| {
            let inner = edge.checked_sub(1).and_then(|inner| slopes.get(inner));
            inner.map_or(1.0, |slope| LEAST + softplus(*slope))
        };
        let (left, right) = (slope(piece), slope(piece + 1));
        let above = y - bottoms[piece];
        let bend = above * (left + right - 2.0 * mean);
        let a = height * (mean - left) + bend;
        let b = height * left - bend;
        let c = -mean * above;
        // Rounding alone can bring it below 0.
        let discriminant = (b * b - 4.0 * a * c).max(0.0);
        2.0 * c / (-b - discriminant.sqrt()) * width + lefts[piece]
    }

    /// Where pieces begin and end.
    fn edges(&self, sizes: &[f32]) -> Vec<f32> {
        let most = sizes.iter().fold(f32::NEG_INFINITY, |most, size| most.max(*size));
        let powers: Vec<f32> = sizes.iter().map(|size| ((size - most) * self.scale).exp()).collect();
        let total: f32 = powers.iter().sum();
        let free = 1.0 - LEAST * self.bins as f32;
        let mut sum = 0.0;
        let mut edges = Vec::with_capacity(self.bins + 1);
        edges.push(-self.bound);
        for power in &powers {
            sum += LEAST + free * power / total;
            edges.push(2.0 * self.bound * sum - self.bound);
        }
        edges[self.bins] = self.bound;
        edges
    }
}

/// `ln(1 + e^x)`.
fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_rise_within_their_bounds_and_are_straight_beyond() {
        let spline = Spline { bins: 10, bound: 5.0, scale: 0.25 };
        let chosen: Vec<f32> = (0..29).map(|index| (index as f32 * 1.7).sin() * 6.0).collect();
        assert_eq!((spline.inverse(-7.5, &chosen), spline.inverse(5.5, &chosen)), (-7.5, 5.5));
        let places: Vec<f32> = (0..=1000).map(|step| spline.inverse(step as f32 / 100.0 - 5.0, &chosen)).collect();
        assert!(places.windows(2).all(|two| two[0] <= two[1] + 1e-5), "{places:?}");
        assert!((places[0] + 5.0).abs() < 1e-4 && (places[1000] - 5.0).abs() < 1e-4);
    }

    #[test]
    fn an_even_choice_is_no_curve() {
        let spline = Spline { bins: 4, bound: 2.0, scale: 1.0 };
        // ln(e^(1 - 0.001) - 1): slopes of 1.
        let chosen = [[0.0; 4], [0.0; 4], [0.539_742; 4]].concat();
        for y in [-2.0, -0.3, 0.0, 1.9] {
            assert!((spline.inverse(y, &chosen[..11]) - y).abs() < 1e-5);
        }
    }
}

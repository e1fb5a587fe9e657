//! Numbers as rows of waves (Vaswani et al. 2017, section 3.5).

/// `width / 2` waves of falling frequency at `value`, sines then cosines unless `cosine_first`. `shift` takes from the
/// count of frequencies, which then end at a higher or lower one. Computed in float32, as training did.
pub(super) fn waves(value: f32, width: usize, cosine_first: bool, shift: f32) -> Vec<f32> {
    let half = width / 2;
    let angle = |at: usize| value * (-(10_000_f32.ln()) * at as f32 / (half as f32 - shift)).exp();
    let sines = (0..half).map(|at| angle(at).sin());
    let cosines = (0..half).map(|at| angle(at).cos());
    let mut row: Vec<f32> = if cosine_first { cosines.chain(sines).collect() } else { sines.chain(cosines).collect() };
    row.resize(width, 0.0);
    row
}

//! Rotations as files ask for them, checked.

use host_kernels::rope::{Rope as Turns, Scaling};

use super::description::Rope;

/// The rotation of `rotated` values of a head.
///
/// # Errors
/// When a frequency comes out that is no number, or there is not a factor for each pair.
pub(super) fn rope(base: f64, rotated: usize, scaling: &Scaling) -> Result<Rope, String> {
    Ok(Rope { turns: turns(base, rotated, scaling)?, short: None })
}

pub(super) fn turns(base: f64, rotated: usize, scaling: &Scaling) -> Result<Turns, String> {
    if let Scaling::Factors { factors, .. } = scaling
        && factors.len() != rotated / 2
    {
        return Err(format!("there are {} factors for {} frequencies", factors.len(), rotated / 2));
    }
    let turns = Turns::new(base, rotated, scaling);
    if turns.is_finite() { Ok(turns) } else { Err("a frequency comes out that is no number".into()) }
}

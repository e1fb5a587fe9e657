//! Which of the training's times are the steps, and how strong the noise is there.

use super::multistep::Pndm;
use super::{Kind, Schedule, Spacing, Steps};

/// The way of `count` steps.
pub(super) fn choose(schedule: &Schedule, count: usize) -> Steps<'_> {
    let training = schedule.kept.len();
    let mut times = match schedule.kind {
        Kind::Lcm { original, .. } => distilled(training, original.min(training), count),
        // One time more, the lowest of which is left out.
        Kind::Multistep(_) => {
            let mut times = spaced(schedule, count + 1, training / (count + 1));
            match schedule.spacing {
                Spacing::Trailing => times = spaced(schedule, count, 0),
                Spacing::Leading | Spacing::Linspace => times.truncate(count),
            }
            times
        }
        _ => spaced(schedule, count, training / count),
    };
    if !matches!(schedule.kind, Kind::Euler | Kind::Ancestral) {
        times.iter_mut().for_each(|time| *time = time.round_ties_even());
    }
    let last = (training - 1) as f64;
    times.iter_mut().for_each(|time| *time = time.clamp(0.0, last));
    let mut sigmas = Vec::new();
    if matches!(schedule.kind, Kind::Euler | Kind::Ancestral | Kind::Multistep(_)) {
        sigmas = times.iter().map(|time| sigma(&schedule.kept, *time)).collect();
        if schedule.karras && !matches!(schedule.kind, Kind::Ancestral) {
            karras(schedule, count, &mut times, &mut sigmas);
        }
        let zero = schedule.end_at_zero || schedule.kind == Kind::Ancestral;
        sigmas.push(if zero { 0.0 } else { sigma(&schedule.kept, 0.0) });
    }
    if schedule.kind == Kind::Pndm && times.len() > 1 {
        // The second time is taken twice: once to look ahead.
        times.insert(1, times[1]);
    }
    Steps { schedule, count, times, sigmas, at: 0, earlier: Vec::new(), pndm: Pndm::default() }
}

/// From the highest time down. `ratio` is the distance between leading times.
fn spaced(schedule: &Schedule, count: usize, ratio: usize) -> Vec<f64> {
    let training = schedule.kept.len();
    let last = (training - 1) as f64;
    match schedule.spacing {
        Spacing::Linspace if count == 1 => vec![0.0],
        Spacing::Linspace => (0..count).rev().map(|at| last * at as f64 / (count - 1) as f64).collect(),
        Spacing::Leading => (0..count).rev().map(|at| (at * ratio + schedule.offset) as f64).collect(),
        Spacing::Trailing => {
            let ratio = training as f64 / count as f64;
            (0..count).map(|at| (training as f64 - at as f64 * ratio).round_ties_even() - 1.0).collect()
        }
    }
}

/// The times that a latent consistency model was distilled at, as many of them as wanted (Luo et al. 2023).
fn distilled(training: usize, original: usize, count: usize) -> Vec<f64> {
    let ratio = training / original;
    let at = |index: usize| ((original - index) * ratio - 1) as f64;
    (0..count).map(|index| at(original * index / count)).collect()
}

/// Noise for a picture of one at a time between those of training.
fn sigma(kept: &[f64], time: f64) -> f64 {
    let of = |at: usize| ((1.0 - kept[at]) / kept[at]).sqrt();
    let low = time.floor() as usize;
    let high = (low + 1).min(kept.len() - 1);
    of(low) + (of(high) - of(low)) * (time - low as f64)
}

/// Karras et al. 2022, equation 5, with their ρ of 7; times are those that have these sigmas.
fn karras(schedule: &Schedule, count: usize, times: &mut Vec<f64>, sigmas: &mut Vec<f64>) {
    let kept = &schedule.kept;
    let (least, most) = match schedule.kind {
        Kind::Multistep(_) => (sigma(kept, 0.0), sigma(kept, (kept.len() - 1) as f64)),
        _ => (sigmas[sigmas.len() - 1], sigmas[0]),
    };
    let (least, most) = (least.powf(1.0 / 7.0), most.powf(1.0 / 7.0));
    let at = |step: usize| (most + step as f64 / (count - 1).max(1) as f64 * (least - most)).powi(7);
    *sigmas = (0..count).map(at).collect();
    *times = sigmas.iter().map(|wanted| time_of(kept, *wanted)).collect();
    if matches!(schedule.kind, Kind::Multistep(_)) {
        times.iter_mut().for_each(|time| *time = time.round_ties_even());
    }
}

fn time_of(kept: &[f64], wanted: f64) -> f64 {
    let log = |at: usize| ((1.0 - kept[at]) / kept[at]).sqrt().ln();
    let wanted = wanted.max(1e-10).ln();
    let low = (0..kept.len()).rev().find(|at| log(*at) <= wanted).unwrap_or(0).min(kept.len() - 2);
    let share = ((log(low) - wanted) / (log(low) - log(low + 1))).clamp(0.0, 1.0);
    low as f64 + share
}

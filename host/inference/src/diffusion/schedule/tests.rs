use serde_json::Value;

use super::*;

fn values(seed: f64) -> Vec<f32> {
    (0..4).map(f64::from).map(|i| (1.7 * seed + 0.9 * i + 0.3 * seed * i).sin() as f32).collect()
}

/// Every sampler against diffusers, each step, with predictions and noise that both compute alike.
#[test]
fn every_step_agrees_with_diffusers() {
    let cases: Vec<Value> =
        serde_json::from_str(include_str!("../../../tests/golden/diffusion/schedules.json")).unwrap();
    assert!(cases.len() > 60);
    for case in cases {
        let name = format!("{} in {} steps", case["config"], case["steps"]);
        let schedule = Schedule::read(&Config::of(case["config"].clone())).unwrap();
        let mut steps = schedule.steps(case["steps"].as_u64().unwrap() as usize);
        let times: Vec<f64> = case["times"].as_array().unwrap().iter().map(|time| time.as_f64().unwrap()).collect();
        assert_eq!(steps.len(), times.len(), "{name}");
        let initial = case["initial"].as_f64().unwrap();
        // Tables are float32 there and float64 here.
        assert!((steps.initial() / initial - 1.0).abs() < 2e-4, "{name}: {} {initial}", steps.initial());
        let mut x: Vec<f32> = values(0.0).iter().map(|value| value * initial as f32).collect();
        let mut noises = 0;
        for (at, time) in times.into_iter().enumerate() {
            assert!((steps.time(at) - time).abs() < 2e-3, "{name}: {} {time}", steps.time(at));
            let scale = steps.input_scale() as f32;
            let predicted: Vec<f32> =
                x.iter().zip(values(at as f64 + 1.0)).map(|(x, value)| 0.4 * x * scale + 0.6 * value).collect();
            steps.step(&predicted, &mut x, &mut |count| {
                assert_eq!(count, 4);
                noises += 1;
                values(100.0 + f64::from(noises))
            });
            for (found, expected) in x.iter().zip(case["x"][at].as_array().unwrap()) {
                let expected = expected.as_f64().unwrap();
                let apart = (f64::from(*found) - expected).abs() / expected.abs().max(1.0);
                assert!(apart < TOLERANCE, "{name}, step {at}: {found} {expected}");
            }
            // Later steps start from what was found there, so that nothing adds up.
            for (x, expected) in x.iter_mut().zip(case["x"][at].as_array().unwrap()) {
                *x = expected.as_f64().unwrap() as f32;
            }
        }
    }
}

/// Float32 products of a thousand factors there.
const TOLERANCE: f64 = 5e-4;

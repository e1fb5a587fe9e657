//! Pictures against diffusers: tiny random checkpoints of each kind, and the small real model of the examples.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use host_inference::AiError;
use host_inference::diffusion::{Drawing, Flux, Pipeline, Plane};
use image::RgbImage;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/diffusion").join(name)
}

/// The model that the example `draw` ships.
pub(crate) fn shapes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/draw/model")
}

pub(crate) fn load(folder: &Path) -> Pipeline {
    Pipeline::load(folder, NonZeroUsize::new(2).unwrap()).unwrap()
}

pub(crate) struct References(HashMap<String, (Vec<usize>, Vec<f32>)>);

impl References {
    pub(crate) fn open(path: &Path) -> References {
        let bytes = std::fs::read(path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let read = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
            let data = view.data();
            let values = match view.dtype() {
                Dtype::F32 => data.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect(),
                Dtype::I64 => data.as_chunks::<8>().0.iter().map(|eight| i64::from_le_bytes(*eight) as f32).collect(),
                other => panic!("{other:?}"),
            };
            (name, (view.shape().to_vec(), values))
        };
        References(tensors.tensors().into_iter().map(read).collect())
    }

    pub(crate) fn values(&self, name: &str) -> &[f32] {
        &self.0[name].1
    }

    pub(crate) fn shape(&self, name: &str) -> &[usize] {
        &self.0[name].0
    }

    /// A picture, its channels brought to the end.
    pub(crate) fn plane(&self, name: &str) -> Plane {
        let (shape, values) = &self.0[name];
        let [_, channels, height, width] = shape[..] else { panic!("{name} has the shape {shape:?}") };
        let mut plane = Plane::new(height, width, channels);
        for (at, value) in plane.data.iter_mut().enumerate() {
            *value = values[at % channels * height * width + at / channels];
        }
        plane
    }
}

pub(crate) fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// A picture of rows of pixels of three colours from 0 to 255.
pub(crate) fn picture_of(references: &References, name: &str) -> RgbImage {
    let [height, width, 3] = *references.shape(name) else { panic!("{name} is no picture") };
    let bytes = references.values(name).iter().map(|value| *value as u8).collect();
    RgbImage::from_raw(width as u32, height as u32, bytes).unwrap()
}

/// How far values are apart, as a share of the largest of the reference.
pub(crate) fn apart(what: &str, found: &[f32], reference: &[f32]) -> f32 {
    let most = reference.iter().map(|value| value.abs()).fold(0.0, f32::max);
    let apart = furthest(found, reference) / most;
    println!("{what}: {apart:.2e} of {most:.2}");
    apart
}

/// Sums in another order differ in the last bits of float32, through a hundred layers in the sixth digit; any mistake in
/// a layer shows in the first or second.
const STAGE: f32 = 2e-5;
/// Five steps, each of which feeds its differences to the next, under a guidance of 4.
pub(crate) const WHOLE: f32 = 2e-4;

pub(crate) fn drawing(note: &Value, height: usize, width: usize) -> Drawing {
    Drawing {
        prompt: note["prompt"].as_str().unwrap().to_owned(),
        negative: note["negative_prompt"].as_str().map(str::to_owned),
        height,
        width,
        steps: note["steps"].as_u64().unwrap() as usize,
        guidance: note["guidance"].as_f64().unwrap(),
        seed: 1,
        image: None,
        mask: None,
        strength: 1.0,
    }
}

fn stages(kind: &str) {
    let folder = golden(kind);
    let pipeline = load(&folder);
    let references = References::open(&folder.join("reference.safetensors"));
    let note: Value = serde_json::from_slice(&std::fs::read(folder.join("reference.json")).unwrap()).unwrap();
    let prompt = note["prompt"].as_str().unwrap();
    let ids = pipeline.tokens(prompt).unwrap();
    let names = ["ids", "ids_2"];
    for (ids, name) in ids.iter().zip(names) {
        let ids: Vec<f32> = ids.iter().map(|id| *id as f32).collect();
        assert_eq!(ids, references.values(name), "{kind} {name}");
    }
    let meaning = pipeline.read(prompt).unwrap();
    assert!(apart("text", meaning.tokens(), references.values("states")) < STAGE);
    if kind == "sdxl" {
        assert!(apart("pooled", meaning.pooled(), references.values("pooled")) < STAGE);
    }
    let time = f64::from(references.values("unet_timestep")[0]);
    let found = pipeline.predict(&references.plane("unet_input"), time, (10, 12), 1.0, &meaning, &|| Ok(())).unwrap();
    assert!(apart("unet", &found.data, &references.plane("unet_output").data) < STAGE);
    let found = pipeline.decode(&references.plane("vae_latent"), &|| Ok(())).unwrap();
    assert!(apart("decoder", &found.data, &references.plane("vae_decoded").data) < STAGE);
    let (mean, logarithm) = pipeline.encode(&references.plane("vae_picture"), &|| Ok(())).unwrap();
    assert!(apart("mean", &mean.data, &references.plane("vae_mean").data) < STAGE);
    assert!(apart("variance", &logarithm.data, &references.plane("vae_logvar").data) < STAGE);
    let mut drawing = drawing(&note, 16, 24);
    let whole = |drawing: &Drawing, name: &str| {
        let none = &mut |_: usize| -> Vec<f32> { panic!("this sampler adds no noise") };
        let found = pipeline.denoise(drawing, references.plane("start"), none, &|| Ok(())).unwrap();
        assert!(apart(name, &found.data, &references.plane(name).data) < WHOLE);
    };
    whole(&drawing, "final");
    if kind == "sdxl" {
        drawing.negative = None;
        whole(&drawing, "final_without_negative");
    }
}

#[test]
fn stable_diffusion_1_agrees_with_diffusers() {
    stages("sd15");
}

#[test]
fn stable_diffusion_2_agrees_with_diffusers() {
    stages("sd21");
}

#[test]
fn stable_diffusion_xl_agrees_with_diffusers() {
    stages("sdxl");
}

/// The real model, each stage from what diffusers had before it.
#[test]
fn a_real_model_agrees_with_diffusers() {
    let pipeline = load(&shapes());
    let references = References::open(&golden("shapes.safetensors"));
    let prompt = "two purple circles on a grey background";
    let ids: Vec<f32> = pipeline.tokens(prompt).unwrap()[0].iter().map(|id| *id as f32).collect();
    assert_eq!(ids, references.values("input_ids"));
    let (meaning, empty) = (pipeline.read(prompt).unwrap(), pipeline.read("").unwrap());
    assert!(apart("text", meaning.tokens(), references.values("text_hidden")) < STAGE);
    assert!(apart("empty", empty.tokens(), references.values("uncond_hidden")) < STAGE);
    let (start, time) = (references.plane("initial_noise"), f64::from(references.values("timesteps")[0]));
    for (meaning, name) in [(&meaning, "first_unet_cond"), (&empty, "first_unet_uncond")] {
        let found = pipeline.predict(&start, time, (64, 64), 1.0, meaning, &|| Ok(())).unwrap();
        assert!(apart(name, &found.data, &references.plane(name).data) < STAGE);
    }
    let drawing = Drawing {
        prompt: prompt.to_owned(),
        negative: None,
        height: 64,
        width: 64,
        steps: 20,
        guidance: 5.0,
        seed: 0,
        image: None,
        mask: None,
        strength: 1.0,
    };
    let none = &mut |_: usize| -> Vec<f32> { panic!("DDIM adds no noise") };
    let found = pipeline.denoise(&drawing, start, none, &|| Ok(())).unwrap();
    // Twenty steps under a guidance of 5.
    assert!(apart("latents", &found.data, &references.plane("final_latents").data) < 1e-3);
    let mut latent = references.plane("final_latents");
    latent.data.iter_mut().for_each(|value| *value /= 0.421_925_88);
    let found = pipeline.decode(&latent, &|| Ok(())).unwrap();
    assert!(apart("decoded", &found.data, &references.plane("decoded").data) < 5e-5);
}

#[test]
fn flux_agrees_with_diffusers() {
    let folder = golden("flux");
    let flux = Flux::load(&folder, NonZeroUsize::new(2).unwrap()).unwrap();
    let references = References::open(&folder.join("reference.safetensors"));
    let note: Value = serde_json::from_slice(&std::fs::read(folder.join("reference.json")).unwrap()).unwrap();
    let (tokens, whole) = flux.read(note["prompt"].as_str().unwrap()).unwrap();
    assert!(apart("tokens", &tokens, references.values("states")) < STAGE);
    assert!(apart("whole", &whole, references.values("pooled")) < STAGE);
    let drawing = drawing(&note, 12, 16);
    let found = flux.denoise(&drawing, &references.plane("start"), &|| Ok(())).unwrap();
    assert!(apart("final", &found.data, &references.plane("final").data) < WHOLE);
    let picture = flux.draw(&drawing, &|| Ok(())).unwrap();
    assert_eq!(picture.dimensions(), (16, 12));
    let stopped = flux.draw(&drawing, &|| Err(host_inference::AiError::aborted()));
    assert_eq!(stopped.unwrap_err().code, 3008);
}

/// Wherever it is stopped, nothing more is computed: it does not ask again.
#[test]
fn a_drawing_that_nobody_waits_for_stops_between_layers() {
    let pipeline = load(&shapes());
    let note = serde_json::json!({ "prompt": "a red circle", "steps": 2, "guidance": 3.0 });
    let drawing = drawing(&note, 64, 64);
    let asked = std::cell::Cell::new(0);
    let draw = |stop: usize| {
        asked.set(0);
        let drawn = pipeline.draw(&drawing, &|| {
            asked.set(asked.get() + 1);
            if asked.get() == stop { Err(AiError::aborted()) } else { Ok(()) }
        });
        (drawn.map_err(|error| error.code).err(), asked.get())
    };
    let (none, times) = draw(usize::MAX);
    // Two passes a step, and the autoencoder, each of several layers.
    assert!(none.is_none() && times > 2 * 2 * 4, "asked {times} times");
    for stop in [1, 2, times / 2, times] {
        assert_eq!(draw(stop), (Some(3008), stop));
    }
}

//! Pictures to start from, masks, and the rarer kinds of checkpoints, against diffusers (`golden/diffusion/make_edits.py`).

use std::num::NonZeroUsize;
use std::path::Path;

use host_inference::diffusion::{Drawing, Flux, Pipeline, Plane};
use image::RgbImage;
use tempfile::TempDir;

use crate::diffusion::{References, WHOLE, apart, golden, load, picture_of};

const PROMPT: &str = "The  cat in the RED hat, on a tree!  café 12";
const HEIGHT: usize = 16;
const WIDTH: usize = 24;

fn references() -> References {
    References::open(&golden("edits.safetensors"))
}

/// The folder `base` with the parts that lie in `other` in place of its own.
fn completed(base: &str, other: &str) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &to);
            } else {
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    copy(&golden(base), folder.path());
    for entry in std::fs::read_dir(golden(other)).unwrap() {
        let part = folder.path().join(entry.unwrap().file_name());
        std::fs::remove_dir_all(&part).unwrap();
    }
    copy(&golden(other), folder.path());
    folder
}

fn drawing(image: Option<RgbImage>, mask: Option<RgbImage>, strength: f64) -> Drawing {
    Drawing {
        prompt: PROMPT.to_owned(),
        negative: Some("dog".to_owned()),
        height: HEIGHT,
        width: WIDTH,
        steps: 5,
        guidance: 4.0,
        seed: 1,
        image,
        mask,
        strength,
    }
}

fn whole(pipeline: &Pipeline, drawing: &Drawing, references: &References, name: &str) {
    let none = &mut |_: usize| -> Vec<f32> { panic!("this sampler adds no noise") };
    let found = pipeline.denoise(drawing, references.plane("noise"), none, &|| Ok(())).unwrap();
    let apart = apart(name, &found.data, &references.plane(name).data);
    assert!(apart < WHOLE, "{name}: {apart}");
}

/// Alone or under a mask, from some of the noise and from all of it.
fn edited(pipeline: &Pipeline, kind: &str, kinds: &[&str]) {
    let references = references();
    let (image, mask) = (picture_of(&references, "picture"), picture_of(&references, "mask"));
    for strength in [0.6, 1.0] {
        for given in kinds {
            let mask = (*given == "mask").then(|| mask.clone());
            let name = format!("{kind}.{given}.{strength:.1}");
            whole(pipeline, &drawing(Some(image.clone()), mask, strength), &references, &name);
        }
    }
}

#[test]
fn edits_of_stable_diffusion_1_agree_with_diffusers() {
    edited(&load(&golden("sd15")), "sd15", &["image", "mask"]);
}

#[test]
fn edits_of_stable_diffusion_2_agree_with_diffusers() {
    edited(&load(&golden("sd21")), "sd21", &["image", "mask"]);
}

#[test]
fn edits_of_stable_diffusion_xl_agree_with_diffusers() {
    edited(&load(&golden("sdxl")), "sdxl", &["image", "mask"]);
}

#[test]
fn a_network_that_looks_at_the_mask_agrees_with_diffusers() {
    let folder = completed("sd15", "inpaint");
    // Parts with a variant stand beside parts without one.
    edited(&load(folder.path()), "inpaint", &["mask"]);
}

#[test]
fn a_consistency_model_in_shards_agrees_with_diffusers() {
    let folder = completed("sd15", "lcm");
    let pipeline = load(folder.path());
    let references = references();
    let drawing = Drawing { negative: None, steps: 4, guidance: 6.0, ..drawing(None, None, 1.0) };
    let fresh = references.plane("lcm.fresh").data;
    let found = pipeline.denoise(&drawing, references.plane("noise"), &mut |_| fresh.clone(), &|| Ok(())).unwrap();
    assert!(apart("lcm.final", &found.data, &references.plane("lcm.final").data) < WHOLE);
}

#[test]
fn flux_dev_in_shards_agrees_with_diffusers() {
    let folder = completed("flux", "flux-dev");
    let flux = Flux::load(folder.path(), NonZeroUsize::MIN).unwrap();
    let references = references();
    let drawing = Drawing {
        prompt: "the cat in the red hat, on a tree!".to_owned(),
        steps: 3,
        guidance: 3.5,
        ..drawing(None, None, 1.0)
    };
    let start: Plane = references.plane("noise");
    let found = flux.denoise(&drawing, &start, &|| Ok(())).unwrap();
    assert!(apart("flux-dev.final", &found.data, &references.plane("flux-dev.final").data) < WHOLE);
}

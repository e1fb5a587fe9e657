//! Pictures through the engine: the JSON of the task, the small real model, a scripted one, and a model in the store.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use host_inference::store::{NoProgress, Store};
use host_inference::{AiError, Engine, EngineConfig, LocalModel, LocalSource, RunOutput, Task};
use image::{Rgb, RgbImage};
use serde_json::{Value, json};

use crate::diffusion::{golden, shapes};
use crate::support::{json_of, request};

fn engine(models: &[(&str, LocalSource, Option<Task>)], aliases: &[(&str, &str)], store: &Path) -> Engine {
    let local = |(name, source, task): &(&str, LocalSource, Option<Task>)| LocalModel {
        task: *task,
        ..LocalModel::new(*name, source.clone())
    };
    let aliases: BTreeMap<_, _> = aliases.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    let models = models.iter().map(local).collect();
    Engine::new(EngineConfig { models, aliases, ..EngineConfig::new(store) }).unwrap()
}

fn real() -> Engine {
    let store = tempfile::tempdir().unwrap();
    engine(
        &[("shapes", LocalSource::Path(shapes()), None)],
        &[("@cf/black-forest-labs/flux-1-schnell", "shapes")],
        store.path(),
    )
}

async fn png(engine: &Engine, model: &str, inputs: Value) -> Result<Vec<u8>, AiError> {
    match engine.run(request(model, inputs)).await?.output {
        RunOutput::Stream { content_type, mut body } => {
            assert_eq!(content_type, "image/png");
            let mut bytes = Vec::new();
            while let Some(part) = body.next().await {
                bytes.extend_from_slice(&part?);
            }
            Ok(bytes)
        }
        RunOutput::Json(value) => panic!("JSON: {value}"),
    }
}

fn decoded(bytes: &[u8]) -> RgbImage {
    image::load_from_memory(bytes).unwrap().into_rgb8()
}

fn encoded(picture: &RgbImage) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// How far two pictures are apart on average, of 255.
fn difference(a: &RgbImage, b: &RgbImage) -> f64 {
    assert_eq!(a.dimensions(), b.dimensions());
    let sum: u64 = a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.as_raw().len() as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn the_picture_shows_what_the_prompt_says() {
    let engine = real();
    assert_eq!(engine.resolve("shapes").unwrap().task, Task::TextToImage);
    let inputs = |colour: &str| json!({ "prompt": format!("a red circle on a {colour} background"), "guidance": 3, "seed": 5, "num_steps": 12 });
    for (colour, channel) in [("blue", 2), ("green", 1)] {
        let picture = decoded(&png(&engine, "shapes", inputs(colour)).await.unwrap());
        assert_eq!(picture.dimensions(), (64, 64), "the model's own size");
        let corner = picture.get_pixel(2, 2).0;
        let most = (0..3).max_by_key(|channel| corner[*channel]).unwrap();
        assert_eq!(most, channel, "{colour}: {corner:?}");
    }
    // The same seed gives the same bytes, also while others draw.
    let both = [inputs("blue"), inputs("blue"), inputs("green")].map(|inputs| png(&engine, "shapes", inputs));
    let [one, two, three] = futures::future::join_all(both).await.try_into().unwrap();
    let (one, two, three) = (one.unwrap(), two.unwrap(), three.unwrap());
    assert!(one == two && one != three);
}

#[tokio::test(flavor = "multi_thread")]
async fn size_negative_prompt_and_seed_change_the_picture() {
    let engine = real();
    let draw = async |more: Value| {
        let mut inputs = json!({ "prompt": "a red circle", "num_steps": 3, "seed": 1 });
        inputs.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        png(&engine, "shapes", inputs).await.unwrap()
    };
    let wide = decoded(&draw(json!({ "width": 104, "height": 72 })).await);
    assert_eq!(wide.dimensions(), (104, 72));
    let first = draw(json!({})).await;
    for other in [json!({ "seed": 2 }), json!({ "negative_prompt": "red" }), json!({ "guidance": 1 })] {
        assert_ne!(draw(other.clone()).await, first, "{other}");
    }
    let (one, two) = (draw(json!({ "seed": null })).await, draw(json!({ "seed": null })).await);
    assert_ne!(one, two, "without a seed every picture is another");
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_are_begun_from_and_mended() {
    let engine = real();
    let halves = RgbImage::from_fn(64, 64, |x, _| if x < 32 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) });
    let bytes = encoded(&halves);
    let prompt = "a green square on a white background";
    let near = json!({ "prompt": prompt, "image": bytes, "strength": 0.1, "num_steps": 10, "seed": 3, "guidance": 3 });
    let near = decoded(&png(&engine, "shapes", near).await.unwrap());
    let text = STANDARD.encode(&bytes);
    let far = json!({ "prompt": prompt, "image_b64": text, "strength": 1, "num_steps": 10, "seed": 3, "guidance": 3 });
    let far = decoded(&png(&engine, "shapes", far).await.unwrap());
    let (near_by, far_off) = (difference(&near, &halves), difference(&far, &halves));
    assert!(far_off > 2.0 * near_by, "{near_by} {far_off}");
    // The left half stays, the right half is drawn anew.
    let mask = RgbImage::from_fn(64, 64, |x, _| if x < 32 { Rgb([0; 3]) } else { Rgb([255; 3]) });
    let mend =
        json!({ "prompt": prompt, "image": bytes, "mask": encoded(&mask), "num_steps": 10, "seed": 3, "guidance": 3 });
    let mended = decoded(&png(&engine, "shapes", mend).await.unwrap());
    let part = |picture: &RgbImage, x: u32| image::imageops::crop_imm(picture, x, 0, 24, 64).to_image();
    let (left, right) =
        (difference(&part(&mended, 0), &part(&halves, 0)), difference(&part(&mended, 40), &part(&halves, 40)));
    assert!(right > 2.0 * left, "{left} {right}");
    // A picture of other proportions keeps them.
    let wide = encoded(&RgbImage::new(200, 100));
    let drawn = json!({ "prompt": prompt, "image": wide, "num_steps": 2 });
    assert_eq!(decoded(&png(&engine, "shapes", drawn).await.unwrap()).dimensions(), (88, 48));
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_inputs_are_named() {
    let engine = real();
    let picture = encoded(&RgbImage::new(8, 8));
    for (inputs, code, said) in [
        (json!({}), 5006, "required properties at '/' are 'prompt'"),
        (json!({ "prompt": "" }), 5006, "'/prompt'"),
        (json!({ "prompt": 7 }), 5006, "Type of '/prompt' must be string not number"),
        (json!({ "prompt": "a", "negative_prompt": [] }), 5006, "'/negative_prompt'"),
        (json!({ "prompt": "a", "num_steps": 21 }), 5006, "'/num_steps' must be an integer from 1 to 20"),
        (json!({ "prompt": "a", "num_steps": 0 }), 5006, "'/num_steps'"),
        (json!({ "prompt": "a", "width": 56 }), 5006, "'/width' must be an integer from 64 to 2048"),
        (json!({ "prompt": "a", "height": 2056 }), 5006, "'/height'"),
        (json!({ "prompt": "a", "height": 100 }), 5006, "'/height' must be a multiple of 8"),
        (json!({ "prompt": "a", "strength": 1.5 }), 5006, "'/strength'"),
        (json!({ "prompt": "a", "guidance": "much" }), 5006, "'/guidance'"),
        (json!({ "prompt": "a", "seed": -1 }), 5006, "'/seed'"),
        (json!({ "prompt": "a", "image": [1, 2, 3] }), 5006, "'/image'"),
        (json!({ "prompt": "a", "image_b64": "%" }), 5004, "base64"),
        (json!({ "prompt": "a", "mask": picture }), 5006, "'/mask' needs '/image'"),
        (json!({ "prompt": "a", "image": picture, "mask": [9] }), 5006, "'/mask'"),
    ] {
        let error = png(&engine, "shapes", inputs.clone()).await.unwrap_err();
        assert!(error.code == code && error.message.contains(said), "{inputs}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_for_flux_get_json_from_whatever_stands_in() {
    let engine = real();
    let name = "@cf/black-forest-labs/flux-1-schnell";
    let inputs = json!({ "prompt": "a red circle on a blue background", "steps": 2, "seed": 4 });
    let answer = json_of(engine.run(request(name, inputs)).await.unwrap().output);
    assert_eq!(answer.as_object().unwrap().keys().collect::<Vec<_>>(), ["image"]);
    let bytes = STANDARD.decode(answer["image"].as_str().unwrap()).unwrap();
    assert_eq!(image::guess_format(&bytes).unwrap(), image::ImageFormat::Jpeg);
    assert_eq!(decoded(&bytes).dimensions(), (64, 64));
    for inputs in [json!({ "prompt": "a", "steps": 9 }), json!({ "prompt": "a".repeat(2049) })] {
        assert_eq!(engine.run(request(name, inputs)).await.unwrap_err().code, 5006);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drawing_that_is_late_is_given_up() {
    let mut late = request("shapes", json!({ "prompt": "a red circle", "width": 512, "height": 512 }));
    late.options = json!({ "gateway": { "requestTimeoutMs": 1 } }).as_object().unwrap().clone();
    assert_eq!(real().run(late).await.unwrap_err().code, 3007);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_draws_too() {
    let store = tempfile::tempdir().unwrap();
    let script = |script: Value| (LocalSource::Mock(script), Some(Task::TextToImage));
    let ((draws, task), (fails, _)) = (script(Value::Null), script(json!({ "fail": { "code": 3040 } })));
    let engine = engine(&[("draws", draws, task), ("fails", fails, task)], &[], store.path());
    let inputs = json!({ "prompt": "a cat", "seed": 1, "width": 128, "height": 64 });
    let first = png(&engine, "draws", inputs.clone()).await.unwrap();
    assert_eq!(first, png(&engine, "draws", inputs).await.unwrap());
    assert_eq!(decoded(&first).dimensions(), (128, 64));
    assert_ne!(first, png(&engine, "draws", json!({ "prompt": "a dog", "width": 128, "height": 64 })).await.unwrap());
    assert_eq!(png(&engine, "fails", json!({ "prompt": "a cat" })).await.unwrap_err().code, 3040);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_parts_is_imported_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path());
    let name = "sd15".parse().unwrap();
    let installed = store.import(&name, &golden("sd15"), None, &mut NoProgress).unwrap();
    assert_eq!(installed.manifest.task, Task::TextToImage);
    let files: Vec<&str> = installed.manifest.files.iter().map(|file| file.file.as_str()).collect();
    for file in ["model_index.json", "unet/diffusion_pytorch_model.fp16.safetensors", "tokenizer/merges.txt"] {
        assert!(files.contains(&file), "{files:?}");
    }
    assert!(!files.iter().any(|file| file.contains("reference")), "{files:?}");
    store.verify(&name, &mut NoProgress).unwrap();
    let engine = engine(&[], &[], folder.path());
    let picture = png(&engine, "sd15", json!({ "prompt": "cat", "num_steps": 2 })).await.unwrap();
    assert_eq!(decoded(&picture).dimensions(), (16, 16));
    store.remove(&name).unwrap();
    assert_eq!(store.find(&name).unwrap(), None);
}

#[test]
fn what_cannot_be_drawn_with_is_refused_by_name() {
    let copy = |change: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("store"));
        store.import(&"m".parse().unwrap(), &golden("sd15"), None, &mut NoProgress).unwrap();
        let model = folder.path().join("store/m");
        // Imported files may be links to the originals.
        for file in ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"] {
            let text = std::fs::read(model.join(file)).unwrap();
            std::fs::remove_file(model.join(file)).unwrap();
            std::fs::write(model.join(file), text).unwrap();
        }
        change(&model);
        let loaded = host_inference::store::inspect(&model)
            .map_err(|error| error.to_string())
            .and_then(|_| host_inference::diffusion::Pipeline::load(&model, std::num::NonZeroUsize::MIN).map(drop));
        loaded.unwrap_err()
    };
    let edit = |file: &'static str, key: &'static str, value: Value| {
        copy(&move |model: &Path| {
            let path = model.join(file);
            let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            config[key] = value.clone();
            std::fs::write(path, config.to_string()).unwrap();
        })
    };
    for (file, key, value) in [
        ("model_index.json", "_class_name", json!("ShapEPipeline")),
        ("unet/config.json", "block_out_channels", json!([4, 1u64 << 40])),
        ("unet/config.json", "block_out_channels", json!([4, 12])),
        ("unet/config.json", "norm_num_groups", json!(3)),
        ("unet/config.json", "cross_attention_dim", json!(9)),
        ("unet/config.json", "attention_head_dim", json!(3)),
        ("unet/config.json", "class_embed_type", json!("timestep")),
        ("unet/config.json", "down_block_types", json!(["CrossAttnDownBlock2D", "AttnDownBlock2D"])),
        ("unet/config.json", "layers_per_block", json!(-1)),
        ("scheduler/scheduler_config.json", "_class_name", json!("HeunDiscreteScheduler")),
        ("scheduler/scheduler_config.json", "beta_end", json!(7)),
        ("scheduler/scheduler_config.json", "num_train_timesteps", json!(1u64 << 50)),
    ] {
        let error = edit(file, key, value.clone());
        let named = error.contains(key) || error.contains("tensor") || error.contains("scheduler");
        assert!(named, "{key} {value}: {error}");
    }
    let error =
        copy(&|model| std::fs::remove_file(model.join("vae/diffusion_pytorch_model.fp16.safetensors")).unwrap());
    assert!(error.contains("vae") && error.contains("safetensors"), "{error}");
}

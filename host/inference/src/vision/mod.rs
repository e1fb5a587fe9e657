//! Models that look at pictures, computed on this machine's processor.
//!
//! | task | `model_type` of `config.json` |
//! |---|---|
//! | image-classification | `resnet`, `vit`, `deit` |
//! | object-detection | `detr` |
//! | image-to-text | `blip`, `llava` |
//! | image-embeddings, zero-shot-image-classification | `clip`, `siglip` |
//!
//! A folder holds `config.json`, `preprocessor_config.json`, `model.safetensors` and, where the model reads or writes
//! texts, `tokenizer.json`, all as published. Each model waits at a [`Desk`] of its own: decoding a picture, which is
//! hostile, and everything after it happen on the model's thread and those of its pool. Weights of products stay in
//! the type of their file; those of convolutions are float32.

mod blip;
mod contrastive;
mod detr;
mod labels;
mod layers;
mod llava;
mod preprocess;
mod resample;
mod resnet;
mod tokens;
mod vit;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use futures::future::BoxFuture;
use host_kernels::vision::Map;
use image::RgbImage;

use crate::backend::{
    BoundingBox, Caption, DetectedObject, ImageClassification, ImageEmbeddings, ImageLabel, ImageRequest, ImageToText,
    Model, ObjectDetection,
};
use crate::catalogue::Task;
use crate::desk::{Desk, Ticket};
use crate::store::read_config;
use crate::tensors::Tensors;
use crate::{AiError, pictures};
use blip::Blip;
use contrastive::Contrastive;
use detr::Detr;
use layers::{Compute, finite};
use llava::Llava;
use preprocess::Preprocess;
use resnet::ResNet;
use vit::Vit;

/// The property that holds the picture in every task.
const IMAGE: &str = "image";

/// Each `model_type` that is read here, and what such a model does.
pub(crate) const MODEL_TYPES: [(&str, Task); 8] = [
    ("resnet", Task::ImageClassification),
    ("vit", Task::ImageClassification),
    ("deit", Task::ImageClassification),
    ("detr", Task::ObjectDetection),
    ("blip", Task::ImageToText),
    ("llava", Task::ImageToText),
    ("clip", Task::ImageEmbeddings),
    ("siglip", Task::ImageEmbeddings),
];

/// The tasks of these models.
pub(crate) const TASKS: [Task; 5] = [
    Task::ImageClassification,
    Task::ObjectDetection,
    Task::ImageToText,
    Task::ImageEmbeddings,
    Task::ZeroShotImageClassification,
];

/// What a model of this `model_type` does, if it looks at pictures.
pub(crate) fn task(model_type: &str) -> Option<Task> {
    MODEL_TYPES.iter().find(|(name, _)| *name == model_type).map(|(_, task)| *task)
}

/// The files of the model whose `config.json` lies in `folder`, that one first, if it looks at pictures.
pub(crate) fn files(folder: &Path) -> Option<Vec<&'static str>> {
    let config = read_config(folder).ok()?;
    let model_type = config.get("model_type").and_then(serde_json::Value::as_str)?;
    task(model_type)?;
    let mut files = vec!["config.json", "preprocessor_config.json", "model.safetensors"];
    if matches!(model_type, "clip" | "siglip" | "blip" | "llava") {
        files.extend(["tokenizer.json", "tokenizer_config.json"]);
    }
    Some(files)
}

/// How a model runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Threads that compute.
    pub threads: NonZeroUsize,
    /// Requests of a tenant that may wait.
    pub queue: NonZeroUsize,
}

/// A network at its desk.
struct Seat<N> {
    compute: Compute,
    preprocess: Preprocess,
    network: N,
}

impl<N> Seat<N> {
    fn picture(&self, request: &ImageRequest) -> Result<(RgbImage, Map), AiError> {
        let picture = pictures::decode(&request.image, IMAGE)?;
        let map = self.preprocess.apply(&picture, IMAGE)?;
        Ok((picture, map))
    }
}

/// Reads the model in `folder` and starts its threads. Blocks.
///
/// # Errors
/// What is wrong with which file, in words.
pub fn load(folder: &Path, settings: &Settings) -> Result<Model, String> {
    let path = folder.join("config.json");
    let config = read_config(folder).map_err(|error| error.to_string())?;
    let named = |why: String| format!("{}: {why}", path.display());
    let preprocess = Preprocess::load(folder)?;
    let given = preprocess.fixed();
    let mut tensors = Tensors::open(folder)?;
    let tensors = &mut tensors;
    let names = || labels::read(&config);
    let model_type = config.get("model_type").and_then(serde_json::Value::as_str).unwrap_or_default();
    match model_type {
        "resnet" => {
            let labels = names().map_err(named)?;
            let network = ResNet::load(tensors, &config, labels.len()).map_err(named)?;
            let desk = seat(settings, preprocess, Classifier::ResNet(network))?;
            Ok(Model::ImageClassification(Arc::new(Classifies { desk, labels: labels.into() })))
        }
        "vit" | "deit" => {
            let labels = names().map_err(named)?;
            let network = Vit::load(tensors, &config, given, labels.len()).map_err(named)?;
            let desk = seat(settings, preprocess, Classifier::Vit(network))?;
            Ok(Model::ImageClassification(Arc::new(Classifies { desk, labels: labels.into() })))
        }
        "detr" => {
            let labels = names().map_err(named)?;
            let network = Detr::load(tensors, &config, labels.len()).map_err(named)?;
            let desk = seat(settings, preprocess, network)?;
            Ok(Model::ObjectDetection(Arc::new(Detects { desk, labels: labels.into() })))
        }
        "clip" | "siglip" => {
            let network = Contrastive::load(folder, tensors, &config, given).map_err(named)?;
            let dimensions = network.width();
            let desk = seat(settings, preprocess, network)?;
            Ok(Model::ImageEmbeddings(Arc::new(Compares { desk, dimensions })))
        }
        "blip" => {
            let network = Blip::load(folder, tensors, &config, given).map_err(named)?;
            let desk = seat(settings, preprocess, Describer::Blip(Box::new(network)))?;
            Ok(Model::ImageToText(Arc::new(Describes { desk })))
        }
        "llava" => {
            let opened = Tensors::open(folder)?;
            let network = Llava::load(folder, opened, &config, given, settings.threads).map_err(named)?;
            let desk = seat(settings, preprocess, Describer::Llava(Box::new(network)))?;
            Ok(Model::ImageToText(Arc::new(Describes { desk })))
        }
        other => Err(named(format!("model_type is {other:.40?}, which looks at no pictures"))),
    }
}

fn seat<N: Send + 'static>(settings: &Settings, preprocess: Preprocess, network: N) -> Result<Desk<Seat<N>>, String> {
    let seat = Seat { compute: Compute::new(settings.threads)?, preprocess, network };
    Desk::open("vision", settings.queue, seat).map_err(|error| format!("no thread for the model: {error}"))
}

enum Classifier {
    ResNet(ResNet),
    Vit(Vit),
}

struct Classifies {
    desk: Desk<Seat<Classifier>>,
    labels: Arc<[String]>,
}

impl ImageClassification for Classifies {
    fn classify(&self, request: ImageRequest) -> BoxFuture<'_, Result<Vec<ImageLabel>, AiError>> {
        let labels = self.labels.clone();
        self.desk.run(request.tenant.clone(), request.deadline, move |seat, ticket| {
            let _step = seat.compute.pool.step();
            let (_, map) = seat.picture(&request)?;
            let logits = match &seat.network {
                Classifier::ResNet(network) => network.logits(&seat.compute, &map, || ticket.check())?,
                Classifier::Vit(network) => network.logits(&seat.compute, &map, || ticket.check())?,
            };
            finite(&logits)?;
            let scores = labels::softmax(&logits);
            Ok(sorted(labels.iter().cloned().zip(scores)))
        })
    }
}

/// Best first, equals in their order.
fn sorted(labels: impl Iterator<Item = (String, f32)>) -> Vec<ImageLabel> {
    let mut labels: Vec<ImageLabel> = labels.map(|(label, score)| ImageLabel { label, score }).collect();
    labels.sort_by(|a, b| b.score.total_cmp(&a.score));
    labels
}

struct Detects {
    desk: Desk<Seat<Detr>>,
    labels: Arc<[String]>,
}

impl ObjectDetection for Detects {
    fn detect(&self, request: ImageRequest) -> BoxFuture<'_, Result<Vec<DetectedObject>, AiError>> {
        let labels = self.labels.clone();
        self.desk.run(request.tenant.clone(), request.deadline, move |seat, ticket| {
            let _step = seat.compute.pool.step();
            let (picture, map) = seat.picture(&request)?;
            let found = seat.network.detect(&seat.compute, &map, &|| ticket.check())?;
            let (width, height) = (picture.width() as f32, picture.height() as f32);
            let object = |found: detr::Found| {
                let ([x, y], [w, h]) = (found.centre, found.size);
                let bounds = BoundingBox {
                    xmin: (x - 0.5 * w) * width,
                    ymin: (y - 0.5 * h) * height,
                    xmax: (x + 0.5 * w) * width,
                    ymax: (y + 0.5 * h) * height,
                };
                DetectedObject { label: labels[found.class].clone(), score: found.score, bounds }
            };
            Ok(found.into_iter().map(object).collect())
        })
    }
}

struct Compares {
    desk: Desk<Seat<Contrastive>>,
    dimensions: usize,
}

/// The vectors of `texts`.
fn texts(
    seat: &Seat<Contrastive>,
    texts: &[String],
    property: &str,
    ticket: &Ticket,
) -> Result<Vec<Vec<f32>>, AiError> {
    texts.iter().map(|text| seat.network.text(&seat.compute, text, property, &|| ticket.check())).collect()
}

impl ImageEmbeddings for Compares {
    fn embed_image(&self, request: ImageRequest) -> BoxFuture<'_, Result<Vec<f32>, AiError>> {
        self.desk.run(request.tenant.clone(), request.deadline, move |seat, ticket| {
            let _step = seat.compute.pool.step();
            let (_, map) = seat.picture(&request)?;
            seat.network.picture(&seat.compute, &map, &|| ticket.check())
        })
    }

    fn embed_texts(
        &self,
        tenant: crate::Tenant,
        given: Vec<String>,
        deadline: Option<std::time::Instant>,
    ) -> BoxFuture<'_, Result<Vec<Vec<f32>>, AiError>> {
        self.desk.run(tenant, deadline, move |seat, ticket| {
            let _step = seat.compute.pool.step();
            texts(seat, &given, "text", ticket)
        })
    }

    fn classify_by_texts(
        &self,
        request: ImageRequest,
        descriptions: Vec<String>,
    ) -> BoxFuture<'_, Result<Vec<f32>, AiError>> {
        self.desk.run(request.tenant.clone(), request.deadline, move |seat, ticket| {
            let _step = seat.compute.pool.step();
            let (_, map) = seat.picture(&request)?;
            let picture = seat.network.picture(&seat.compute, &map, &|| ticket.check())?;
            let texts = texts(seat, &descriptions, "labels", ticket)?;
            let scores = seat.network.scores(&picture, &texts);
            finite(&scores)?;
            Ok(scores)
        })
    }

    fn dimensions(&self) -> usize {
        self.dimensions
    }
}

enum Describer {
    Blip(Box<Blip>),
    Llava(Box<Llava>),
}

struct Describes {
    desk: Desk<Seat<Describer>>,
}

impl ImageToText for Describes {
    fn describe(&self, request: ImageRequest, caption: Caption) -> BoxFuture<'_, Result<String, AiError>> {
        self.desk.run(request.tenant.clone(), request.deadline, move |seat, ticket| {
            let step = seat.compute.pool.step();
            let (_, map) = seat.picture(&request)?;
            let check = || ticket.check();
            match &mut seat.network {
                Describer::Blip(network) => network.caption(&seat.compute, &map, &caption, &check),
                Describer::Llava(network) => {
                    let seen = network.look(&seat.compute, &map, &check)?;
                    // The language model has threads and steps of its own.
                    drop(step);
                    network.answer(&seen, &caption, &check)
                }
            }
        })
    }
}

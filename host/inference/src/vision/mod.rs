//! Models that look at pictures, computed on this machine's processor.
//!
//! | task | `model_type` of `config.json` |
//! |---|---|
//! | image-classification | `resnet`, `vit`, `deit`; MobileNetV4, which timm's `architecture` names |
//! | object-detection | `detr` |
//! | image-to-text | `blip`, `llava` |
//! | image-embeddings, zero-shot-image-classification | `clip`, `siglip` |
//!
//! A folder holds `config.json`, `preprocessor_config.json`, `model.safetensors` and, where the model reads or writes
//! texts, `tokenizer.json`, all as published; timm has it all in `config.json`. Each model waits at a [`Desk`] of its own: decoding a picture, which is
//! hostile, and everything after it happen on the model's thread and those of its pool. Weights of products stay in
//! the type of their file; those of convolutions are float32.

mod blip;
mod contrastive;
mod detr;
mod labels;
mod layers;
mod llava;
mod mobilenet;
mod preprocess;
mod resample;
mod resnet;
mod telling;
mod tokens;
mod vit;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use host_kernels::vision::Map;
use image::RgbImage;
use serde_json::Value;
use tokio::sync::mpsc::unbounded_channel;

use crate::backend::{
    BoundingBox, Caption, DetectedObject, GenerateStream, ImageClassification, ImageEmbeddings, ImageLabel,
    ImageRequest, ImageToText, Model, ObjectDetection,
};
use crate::catalogue::Task;
use crate::desk::{Desk, Ticket};
use crate::room::{Reservation, Room, floats};
use crate::store::read_config;
use crate::tensors::Tensors;
use crate::{AiError, pictures};
use blip::Blip;
use contrastive::Contrastive;
use detr::Detr;
use layers::{Compute, finite};
use llava::Llava;
use mobilenet::MobileNet;
use preprocess::Preprocess;
use resnet::ResNet;
use telling::Telling;
use vit::Vit;

/// The property that holds the picture in every task.
const IMAGE: &str = "image";

/// What networks are called here whose `config.json` is timm's and has no `model_type`.
const MOBILENET: &str = "mobilenetv4";

/// Each family that is read here, by its `model_type`, and what such a model does.
pub(crate) const FAMILIES: [(&str, Task); 9] = [
    ("resnet", Task::ImageClassification),
    ("vit", Task::ImageClassification),
    ("deit", Task::ImageClassification),
    ("detr", Task::ObjectDetection),
    ("blip", Task::ImageToText),
    ("llava", Task::ImageToText),
    ("clip", Task::ImageEmbeddings),
    ("siglip", Task::ImageEmbeddings),
    (MOBILENET, Task::ImageClassification),
];

/// The tasks of these models.
pub(crate) const TASKS: [Task; 5] = [
    Task::ImageClassification,
    Task::ObjectDetection,
    Task::ImageToText,
    Task::ImageEmbeddings,
    Task::ZeroShotImageClassification,
];

/// The family of models that look at pictures which `config` is of, by `model_type` or by timm's `architecture`, and what
/// its models do.
///
/// # Errors
/// For an architecture of timm that is not read here.
pub(crate) fn family(config: &Value) -> Result<Option<(&'static str, Task)>, String> {
    let text = |key: &str| config.get(key).and_then(Value::as_str);
    let name = match (text("model_type"), text("architecture")) {
        (Some(name), _) => name,
        (None, Some(architecture)) if mobilenet::ARCHITECTURES.contains(&architecture) => MOBILENET,
        (None, Some(other)) => {
            let known = mobilenet::ARCHITECTURES.join(", ");
            return Err(format!("its config.json says architecture {other:.60?}; of timm's this host reads {known}"));
        }
        (None, None) => return Ok(None),
    };
    Ok(FAMILIES.into_iter().find(|(known, _)| *known == name))
}

/// The files that a model of `family` cannot do without, beside its weights.
pub(crate) fn configurations(family: &str) -> &'static [&'static str] {
    if family == MOBILENET { &["config.json"] } else { &["config.json", "preprocessor_config.json"] }
}

/// The files of the model whose `config.json` lies in `folder`, that one first, if it looks at pictures.
pub(crate) fn files(folder: &Path) -> Option<Vec<&'static str>> {
    let config = read_config(folder).ok()?;
    let (family, _) = family(&config).ok()??;
    let mut files = configurations(family).to_vec();
    files.push("model.safetensors");
    if matches!(family, "clip" | "siglip" | "blip" | "llava") {
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
    room: Room,
}

/// A picture as it came and as the network sees it, and the memory for what becomes of it.
type Seen = (RgbImage, Map, Reservation);

impl<N> Seat<N> {
    /// The picture of a request, of which the network makes at most `peak` values of a height and width.
    fn picture(
        &self,
        request: &ImageRequest,
        ticket: &Ticket,
        peak: impl Fn(&N, usize, usize) -> usize,
    ) -> Result<Seen, AiError> {
        let header = pictures::header(&request.image, IMAGE)?;
        let (height, width) = self.preprocess.size(header.height, header.width);
        // Pixels as bytes between two passes of resampling, and as values.
        let map = floats(4 * height * width);
        let bytes = header.peak.saturating_add(map).saturating_add(floats(peak(&self.network, height, width)));
        let what = format!("'/{IMAGE}' of {} by {} pixels", header.height, header.width);
        let reserved = ticket.reserve(&self.room, bytes, &what)?;
        let picture = pictures::decode(&request.image, IMAGE)?;
        let map = self.preprocess.apply(&picture, IMAGE)?;
        Ok((picture, map, reserved))
    }
}

/// Reads the model in `folder` and starts its threads. Blocks.
///
/// # Errors
/// What is wrong with which file, in words.
pub fn load(folder: &Path, settings: &Settings) -> Result<Model, String> {
    open(folder, settings, Room::default())
}

/// As [`load`], with memory out of `room` for each request.
pub(crate) fn open(folder: &Path, settings: &Settings, room: Room) -> Result<Model, String> {
    let path = folder.join("config.json");
    let config = read_config(folder).map_err(|error| error.to_string())?;
    let named = |why: String| format!("{}: {why}", path.display());
    let (family, _) = family(&config).map_err(named)?.ok_or_else(|| named("it looks at no pictures".to_owned()))?;
    let preprocess =
        if family == MOBILENET { Preprocess::of_timm(&config).map_err(named)? } else { Preprocess::load(folder)? };
    let given = preprocess.fixed();
    let mut tensors = Tensors::open(folder)?;
    let tensors = &mut tensors;
    let names = || labels::read(&config);
    match family {
        MOBILENET => {
            let labels = labels::of_timm(&config).map_err(named)?;
            let network = MobileNet::load(tensors, &config, labels.len()).map_err(named)?;
            let desk = seat(settings, preprocess, Classifier::MobileNet(network), room)?;
            Ok(Model::ImageClassification(Arc::new(Classifies { desk, labels: labels.into() })))
        }
        "resnet" => {
            let labels = names().map_err(named)?;
            let network = ResNet::load(tensors, &config, labels.len()).map_err(named)?;
            let desk = seat(settings, preprocess, Classifier::ResNet(network), room)?;
            Ok(Model::ImageClassification(Arc::new(Classifies { desk, labels: labels.into() })))
        }
        "vit" | "deit" => {
            let labels = names().map_err(named)?;
            let network = Vit::load(tensors, &config, given, labels.len()).map_err(named)?;
            let desk = seat(settings, preprocess, Classifier::Vit(network), room)?;
            Ok(Model::ImageClassification(Arc::new(Classifies { desk, labels: labels.into() })))
        }
        "detr" => {
            let labels = names().map_err(named)?;
            let network = Detr::load(tensors, &config, labels.len()).map_err(named)?;
            let desk = seat(settings, preprocess, network, room)?;
            Ok(Model::ObjectDetection(Arc::new(Detects { desk, labels: labels.into() })))
        }
        "clip" | "siglip" => {
            let network = Contrastive::load(folder, tensors, &config, given).map_err(named)?;
            let dimensions = network.width();
            let desk = seat(settings, preprocess, network, room)?;
            Ok(Model::ImageEmbeddings(Arc::new(Compares { desk, dimensions })))
        }
        "blip" => {
            let network = Blip::load(folder, tensors, &config, given).map_err(named)?;
            let desk = seat(settings, preprocess, Describer::Blip(Box::new(network)), room)?;
            Ok(Model::ImageToText(Arc::new(Describes { desk })))
        }
        "llava" => {
            let opened = Tensors::open(folder)?;
            let network = Llava::load(folder, opened, &config, given, settings.threads).map_err(named)?;
            let desk = seat(settings, preprocess, Describer::Llava(Box::new(network)), room)?;
            Ok(Model::ImageToText(Arc::new(Describes { desk })))
        }
        other => Err(named(format!("nothing here loads {other}"))),
    }
}

fn seat<N: Send + 'static>(
    settings: &Settings,
    preprocess: Preprocess,
    network: N,
    room: Room,
) -> Result<Desk<Seat<N>>, String> {
    let seat = Seat { compute: Compute::new(settings.threads)?, preprocess, network, room };
    Desk::open("vision", settings.queue, seat).map_err(|error| format!("no thread for the model: {error}"))
}

enum Classifier {
    MobileNet(MobileNet),
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
            let (_, map, _reserved) = seat.picture(&request, ticket, |network, height, width| match network {
                Classifier::MobileNet(network) => network.peak(height, width),
                Classifier::ResNet(network) => network.peak(height, width),
                Classifier::Vit(network) => network.peak(),
            })?;
            let logits = match &seat.network {
                Classifier::MobileNet(network) => network.logits(&seat.compute, &map, || ticket.check())?,
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
            let (picture, map, _reserved) = seat.picture(&request, ticket, Detr::peak)?;
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
            let (_, map, _reserved) = seat.picture(&request, ticket, |network, _, _| network.picture_peak())?;
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
            let peak = floats(seat.network.text_peak(given.len()));
            let _reserved = ticket.reserve(&seat.room, peak, &format!("'/text' of {} texts", given.len()))?;
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
            let (_, map, _reserved) = seat.picture(&request, ticket, |network, _, _| {
                network.picture_peak() + network.text_peak(descriptions.len())
            })?;
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
    fn describe(&self, request: ImageRequest, caption: Caption) -> BoxFuture<'_, Result<GenerateStream, AiError>> {
        let (sender, pieces) = unbounded_channel();
        let work = self.desk.run(request.tenant.clone(), request.deadline, move |seat, ticket| {
            let step = seat.compute.pool.step();
            let (_, map, _reserved) = seat.picture(&request, ticket, |network, _, _| match network {
                Describer::Blip(network) => network.peak(&caption),
                Describer::Llava(network) => network.peak(&caption),
            })?;
            let check = || ticket.check();
            let telling = &mut Telling::new(sender);
            match &mut seat.network {
                Describer::Blip(network) => network.caption(&seat.compute, &map, &caption, &check, telling),
                Describer::Llava(network) => {
                    let seen = network.look(&seat.compute, &map, &check)?;
                    // The language model has threads and steps of its own.
                    drop(step);
                    network.answer(&seen, &caption, &check, telling)
                }
            }
        });
        telling::events(work, pieces).boxed()
    }
}

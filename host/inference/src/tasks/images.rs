//! The tasks that look at a picture.
//!
//! Cloudflare's: image classification, object detection and image to text. `image` is bytes in any of the forms of
//! [`Media`]; the five best labels come back, or every object that is surer than not, best first. Descriptions take what
//! text generation takes to pick tokens, within the same bounds, and with `stream` come as its event streams do.
//!
//! This host's own, since their service has none like them, with models that hold pictures and texts in one space:
//! - `zero-shot-image-classification`: `{image, labels, hypothesis_template?}` in, `[{label, score}]` out, one for each
//!   label, best first. `candidate_labels` is another name of `labels`, and `{}` in the template stands for the label.
//! - `image-embeddings`: `{image}`, `{text}` (a string or several) or both in, `{shape, data}` out, the picture's vector
//!   first. Vectors have length 1, so the product of a picture's and a text's is their similarity.
//!
//! One model does both, so either of its tasks answers either form: a request with labels is a classification.

use std::sync::Arc;

use futures::StreamExt;
use serde_json::{Value, json};

use super::kind;
use super::media::Media;
use super::text_embeddings::texts;
use super::text_generation::{self, Inputs, deadline};
use crate::AiError;
use crate::backend::{
    Caption, DetectedObject, GenerateEvent, ImageClassification, ImageEmbeddings, ImageLabel, ImageRequest,
    ImageToText, ObjectDetection,
};
use crate::request::{RunOutput, RunRequest};

/// The most bytes of an encoded picture.
const IMAGE_BYTES: usize = 32 << 20;
/// How many labels of a picture come back, as upstream.
const LABELS: usize = 5;
/// Objects less sure than this are left out, as transformers' pipeline does.
const THRESHOLD: f32 = 0.5;
/// The most labels to choose between.
const MAX_LABELS: usize = 1000;
/// What transformers' pipeline asks.
const HYPOTHESIS: &str = "This is a photo of {}.";
/// Tokens of a description when the request does not say, as upstream.
const DESCRIPTION: usize = 512;
const MAX_DESCRIPTION: u64 = 4096;

/// Image classification: bytes or `{image}` in, `[{label, score}]` out.
pub(crate) async fn classify(
    model: Arc<dyn ImageClassification>,
    mut request: RunRequest,
) -> Result<RunOutput, AiError> {
    let labels = model.classify(required(&mut request).await?).await?;
    Ok(RunOutput::Json(labels.iter().take(LABELS).map(labelled).collect()))
}

/// Object detection: bytes or `{image}` in, `[{score, label, box}]` out.
pub(crate) async fn detect(model: Arc<dyn ObjectDetection>, mut request: RunRequest) -> Result<RunOutput, AiError> {
    let mut found = model.detect(required(&mut request).await?).await?;
    found.retain(|object| object.score > THRESHOLD);
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    let object = |DetectedObject { label, score, bounds }: &DetectedObject| {
        let bounds = json!({ "xmin": bounds.xmin, "ymin": bounds.ymin, "xmax": bounds.xmax, "ymax": bounds.ymax });
        json!({ "score": score, "label": label, "box": bounds })
    };
    Ok(RunOutput::Json(found.iter().map(object).collect()))
}

/// Image to text: `{image, prompt?, raw?, max_tokens?, stream?}` and what picks tokens in, `{description}` out.
pub(crate) async fn describe(model: Arc<dyn ImageToText>, mut request: RunRequest) -> Result<RunOutput, AiError> {
    let prompt = match request.inputs.get("prompt") {
        None | Some(Value::Null) => None,
        Some(Value::String(prompt)) => Some(prompt.clone()),
        Some(other) => return Err(wrong_type("/prompt", "string", other)),
    };
    let max_tokens = match request.inputs.get("max_tokens") {
        None | Some(Value::Null) => DESCRIPTION,
        Some(value) => match value.as_u64() {
            Some(most @ 1..=MAX_DESCRIPTION) => most as usize,
            _ => {
                return Err(AiError::bad_input(format_args!(
                    "'/max_tokens' must be a whole number from 1 to {MAX_DESCRIPTION}"
                )));
            }
        },
    };
    let inputs = Inputs { map: &request.inputs };
    refuse_unsupported(&inputs)?;
    let streamed = inputs.boolean("stream")?.unwrap_or(false);
    let raw = match request.inputs.get("raw") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(raw)) => *raw,
        Some(other) => return Err(wrong_type("/raw", "boolean", other)),
    };
    let mut sampling = inputs.sampling()?;
    if request.inputs.get("temperature").is_none_or(Value::is_null) {
        // A description should be the same each time unless asked to vary.
        sampling.temperature = 0.0;
    }
    let caption = Caption { prompt, raw, max_tokens, sampling, streamed };
    let mut events = model.describe(required(&mut request).await?, caption).await?;
    if streamed {
        return Ok(text_generation::streamed(events, None, request.model));
    }
    let mut description = String::new();
    while let Some(event) = events.next().await {
        match event {
            GenerateEvent::Text(text) => description.push_str(&text),
            GenerateEvent::Calls(_) => {}
            GenerateEvent::Done { finish, usage } => {
                text_generation::report(&request.model, finish, usage);
                return Ok(RunOutput::Json(json!({ "description": description })));
            }
            GenerateEvent::Failed(error) => return Err(error),
        }
    }
    Err(AiError::internal("the model ended without an answer"))
}

/// Refuses what upstream takes and would change the answer, but is not done here.
fn refuse_unsupported(inputs: &Inputs<'_>) -> Result<(), AiError> {
    let turns = inputs.map.get("messages").is_some_and(|turns| match turns {
        Value::Null => false,
        Value::Array(turns) => !turns.is_empty(),
        _ => true,
    });
    let wrong = if turns {
        ("messages", "ask with 'prompt'")
    } else if inputs.boolean("ignore_eos")? == Some(true) {
        ("ignore_eos", "an answer ends where the model ends it")
    } else {
        return Ok(());
    };
    let (name, instead) = wrong;
    Err(AiError::bad_input(format_args!("'/{name}' asks for something that this host does not support; {instead}")))
}

/// Both tasks of models with one space for pictures and texts.
pub(crate) async fn compare(model: Arc<dyn ImageEmbeddings>, mut request: RunRequest) -> Result<RunOutput, AiError> {
    if ["labels", "candidate_labels"].iter().any(|key| request.inputs.get(*key).is_some_and(|value| !value.is_null())) {
        return choose(model, request).await;
    }
    let given = match request.inputs.remove("text").filter(|text| !text.is_null()) {
        Some(text) => texts(Some(text))?,
        None => Vec::new(),
    };
    let (tenant, deadline) = (request.tenant.clone(), deadline(&request.options)?);
    let image = image(&mut request).await?;
    if image.is_none() && given.is_empty() {
        return Err(AiError::bad_input(
            "oneOf at '/' not met, 0 matches: required properties at '/' are 'image', required properties at '/' are \
             'text', required properties at '/' are 'image,labels'",
        ));
    }
    let mut vectors = Vec::new();
    if let Some(image) = image {
        vectors.push(model.embed_image(image).await?);
    }
    if !given.is_empty() {
        vectors.extend(model.embed_texts(tenant, given, deadline).await?);
    }
    Ok(RunOutput::Json(json!({ "shape": [vectors.len(), model.dimensions()], "data": vectors })))
}

async fn choose(model: Arc<dyn ImageEmbeddings>, mut request: RunRequest) -> Result<RunOutput, AiError> {
    let property = if request.inputs.contains_key("labels") { "labels" } else { "candidate_labels" };
    let labels = match request.inputs.remove(property) {
        Some(Value::Array(labels)) if (1..=MAX_LABELS).contains(&labels.len()) => labels,
        Some(Value::Array(labels)) => {
            let count = labels.len();
            return Err(AiError::bad_input(format_args!(
                "Length of '/{property}' must be 1 to {MAX_LABELS} not {count}"
            )));
        }
        other => return Err(wrong_type(&format!("/{property}"), "array", &other.unwrap_or(Value::Null))),
    };
    let label = |(index, label): (usize, Value)| match label {
        Value::String(label) if !label.is_empty() => Ok(label),
        Value::String(_) => Err(AiError::bad_input(format_args!("Length of '/{property}/{index}' must be >= 1 not 0"))),
        other => Err(wrong_type(&format!("/{property}/{index}"), "string", &other)),
    };
    let labels: Vec<String> = labels.into_iter().enumerate().map(label).collect::<Result<_, _>>()?;
    let template = match request.inputs.remove("hypothesis_template") {
        None | Some(Value::Null) => HYPOTHESIS.to_owned(),
        Some(Value::String(template)) if template.contains("{}") => template,
        Some(Value::String(_)) => return Err(AiError::bad_input("'/hypothesis_template' must contain {}")),
        Some(other) => return Err(wrong_type("/hypothesis_template", "string", &other)),
    };
    let descriptions = labels.iter().map(|label| template.replacen("{}", label, 1)).collect();
    let scores = model.classify_by_texts(required(&mut request).await?, descriptions).await?;
    let mut labels: Vec<ImageLabel> =
        labels.into_iter().zip(scores).map(|(label, score)| ImageLabel { label, score }).collect();
    labels.sort_by(|a, b| b.score.total_cmp(&a.score));
    Ok(RunOutput::Json(labels.iter().map(labelled).collect()))
}

fn labelled(ImageLabel { label, score }: &ImageLabel) -> Value {
    json!({ "label": label, "score": score })
}

async fn image(request: &mut RunRequest) -> Result<Option<ImageRequest>, AiError> {
    let deadline = deadline(&request.options)?;
    let media = Media::take(request, "image", IMAGE_BYTES).await?;
    Ok(media.map(|media| ImageRequest { tenant: request.tenant.clone(), image: media.data, deadline }))
}

async fn required(request: &mut RunRequest) -> Result<ImageRequest, AiError> {
    image(request).await?.ok_or_else(|| AiError::bad_input("required properties at '/' are 'image'"))
}

fn wrong_type(path: &str, wanted: &str, found: &Value) -> AiError {
    AiError::bad_input(format_args!("Type of '{path}' must be {wanted} not {}", kind(found)))
}
